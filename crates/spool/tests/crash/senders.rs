//! Load: threads that write, and ask again under the same id until they have an acknowledgement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use eversock_spool::sender::{Sender, SenderConfig};
use eversock_spool::{Kind, Outcome, Reason, Request, RequestId};

use crate::oracle::Oracle;
use crate::procs::{Dice, Place};
use crate::roles::PAIR;

pub(crate) struct Senders {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Senders {
    pub(crate) fn start(place: &Place, oracle: &Oracle, count: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|number| {
                let (stop, oracle) = (Arc::clone(&stop), oracle.clone());
                let front = place.front.to_string();
                std::thread::spawn(move || send(&front, number, &stop, &oracle))
            })
            .collect();
        Self { stop, threads }
    }

    /// Lets each finish its last request.
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn connect(front: &str) -> Sender {
    let mut config = SenderConfig::default();
    config.socket.grace = Duration::from_millis(200);
    config.back_off = (Duration::from_millis(2), Duration::from_millis(20));
    // Fronts come and go: there may be none at the moment.
    for _ in 0..10_000 {
        match Sender::connect([front], PAIR, config.clone()) {
            Ok(sender) => return sender,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    panic!("no front can be reached");
}

fn send(front: &str, number: u64, stop: &AtomicBool, oracle: &Oracle) {
    let sender = connect(front);
    let mut dice = Dice::new(number + 100);
    while !stop.load(Ordering::Acquire) {
        let id = RequestId::random().unwrap();
        // Keys of its own, and keys that it shares with the others.
        let key = match dice.below(3) {
            0 => format!("of {number}"),
            _ => format!("shared {}", dice.below(4)),
        };
        let kind = if dice.below(8) == 0 { Kind::Delete } else { Kind::Write };
        oracle.asked(id, key.as_bytes());
        loop {
            let request = Request {
                id,
                kind,
                key: key.clone().into_bytes(),
                payload: vec![7; 64],
                deadline: Duration::from_secs(10),
            };
            match sender.request(request) {
                Outcome::Applied { .. } => {
                    oracle.acknowledged(id, false);
                    break;
                }
                Outcome::Spooled { .. } => {
                    oracle.acknowledged(id, true);
                    break;
                }
                Outcome::InDoubt => {}
                Outcome::Rejected { reason, .. } => {
                    let again = [Reason::Deadline, Reason::SpoolFull, Reason::Unavailable]
                        .contains(&reason)
                        || matches!(reason, Reason::HoldFull | Reason::Closing);
                    assert!(again, "{reason:?}");
                }
                other => panic!("a write is {other:?}"),
            }
        }
    }
}
