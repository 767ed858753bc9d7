//! What is left when all is closed: nothing.

use std::sync::Arc;
use std::time::Duration;

use eversock_spool::door::DoorConfig;
use eversock_spool::link::{LinkConfig, SocketTarget};
use eversock_spool::sender::{Sender, SenderConfig};
use eversock_spool::serve::{ServeConfig, serve};
use eversock_spool::target::{Call, Class, Target};
use eversock_spool::{Kind, Outcome, Reason};

use crate::common::{PATIENCE, Raw, alone, listen, request, threads_and_descriptors, wait_for};
use crate::door::{FakeSubmit, applied, open};
use crate::serve::{Fake, records};

/// So many that one thing left by each is seen.
const LIVES: usize = 10;

/// One life of everything, with something under way at its end.
fn live() {
    let handler = Fake::new(Class::Ledger);
    handler.gate.set(true);
    let serving = serve(listen(), Arc::<Fake>::clone(&handler), ServeConfig::default()).unwrap();
    let target = SocketTarget::new(vec![serving.addr()], LinkConfig::new("a server")).unwrap();
    wait_for("the link connects", || target.is_connected());
    let (tell, told) = std::sync::mpsc::channel();
    for n in 0..10 {
        let items = records(n..n + 1, b"x");
        let call = Call { epoch: 7, items, job: None, timeout: PATIENCE };
        let tell = tell.clone();
        target.call(call, Box::new(move |result| tell.send(result.is_ok()).unwrap()));
    }
    assert!((0..10).all(|_| told.recv_timeout(PATIENCE).unwrap()));

    let front = FakeSubmit::echoing();
    let door = open(listen(), &front, DoorConfig::default());
    let sender = Sender::connect([door.addr()], "pair-1", SenderConfig::default()).unwrap();
    assert_eq!(sender.request(request(1, Kind::Write, b"y")), applied(b"y"));
    let silent = Raw::connect(door.addr());
    let held = FakeSubmit::holding();
    let other = open(listen(), &held, DoorConfig::default());
    let waits = Sender::connect([other.addr()], "pair-1", SenderConfig::default()).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let asked = request(2, Kind::Read, b"");
    waits.submit(asked, Box::new(move |outcome| tell.send(outcome).unwrap()));
    wait_for("it was handed in", || held.asked() == 1);
    waits.close();
    let closing = Outcome::Rejected { reason: Reason::Closing, retry_after: Duration::ZERO };
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), closing);
    other.close();
    door.close();
    sender.close();
    target.close();
    serving.close();
    drop(silent);
}

#[test]
fn threads_and_descriptors_end_with_what_they_were_for() {
    alone("ends::threads_and_descriptors_end_with_what_they_were_for", || {
        // The engine's own stay.
        live();
        let (mut threads, mut descriptors) = threads_and_descriptors();
        wait_for("what goes on for a moment has ended", || {
            let before = (threads, descriptors);
            std::thread::sleep(Duration::from_millis(1500));
            (threads, descriptors) = threads_and_descriptors();
            before == (threads, descriptors)
        });
        for _ in 0..LIVES {
            live();
        }
        wait_for("as many as before", || {
            let (threads_now, descriptors_now) = threads_and_descriptors();
            // The engine keeps one or two for later, or does not.
            threads_now <= threads && descriptors_now < descriptors + LIVES / 2
        });
    });
}
