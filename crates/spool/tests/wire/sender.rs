//! The sender's side, against doors that come and go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use eversock_chaos::{Config as ChaosConfig, Fault, Proxy, Target as Hits};
use eversock_spool::door::DoorConfig;
use eversock_spool::limits::{DEADLINE_MAX, KEY_MAX};
use eversock_spool::sender::{Sender, SenderConfig};
use eversock_spool::{Kind, Outcome, Reason, Request, RequestId};

use crate::common::{Elsewhere, PATIENCE, listen, listen_again, locked, request, wait_for};
use crate::door::{FakeSubmit, applied, open, rejected};

fn sender_config() -> SenderConfig {
    let back_off = (Duration::from_millis(5), Duration::from_millis(50));
    SenderConfig { back_off, ..SenderConfig::default() }
}

fn sender(addr: SocketAddr) -> Sender {
    Sender::connect([addr], "pair-1", sender_config()).unwrap()
}

fn submit(sender: &Sender, request: Request) -> Receiver<Outcome> {
    let (tell, told) = mpsc::channel();
    sender.submit(request, Box::new(move |outcome| tell.send(outcome).unwrap()));
    told
}

fn write(id: u128) -> Request {
    request(id, Kind::Write, format!("payload {id}").as_bytes())
}

fn written(id: u128) -> Outcome {
    applied(format!("payload {id}").as_bytes())
}

fn within(request: Request, deadline: Duration) -> Request {
    Request { deadline, ..request }
}

#[test]
fn many_threads_ask_over_one_sender() {
    let front = FakeSubmit::echoing();
    let door = open(listen(), &front, DoorConfig::default());
    let sender = sender(door.addr());
    thread::scope(|scope| {
        for of in 0..8 {
            let sender = &sender;
            scope.spawn(move || {
                for id in of * 50..(of + 1) * 50 {
                    assert_eq!(sender.request(write(id)), written(id));
                }
            });
        }
    });
    assert_eq!(front.asked(), 400);
    assert_eq!(sender.fetch(RequestId(100), PATIENCE).unwrap(), None);
    assert_eq!(sender.fetch(RequestId(101), PATIENCE).unwrap(), Some(Outcome::Held { lsn: 3 }));
    assert_eq!(door.connections(), 1);
}

#[test]
fn a_cut_of_the_connection_asks_nothing_again() {
    let front = FakeSubmit::holding();
    let door = open(listen(), &front, DoorConfig::default());
    let proxy =
        Proxy::spawn(ChaosConfig::new("127.0.0.1:0".parse().unwrap(), door.addr())).unwrap();
    let mut config = sender_config();
    config.socket.grace = PATIENCE;
    config.socket.grace_after_close = PATIENCE;
    let sender = Sender::connect([proxy.local_addr()], "pair-1", config).unwrap();
    let told: Vec<_> = (0..10).map(|id| submit(&sender, write(id))).collect();
    wait_for("all were handed in", || front.asked() == 10);
    for id in 0..10 {
        proxy.inject(Fault::Reset, Hits::All).unwrap();
        front.answer(id, written(id));
        assert_eq!(told[id as usize].recv_timeout(PATIENCE).unwrap(), written(id));
    }
    assert_eq!((front.asked(), door.connections()), (10, 1));
    sender.close();
    proxy.stop();
}

#[test]
fn a_front_that_was_opened_anew_is_asked_again_under_the_same_ids() {
    let first = FakeSubmit::holding();
    let door = open(listen(), &first, DoorConfig::default());
    let addr = door.addr();
    let sender = sender(addr);
    let told: Vec<_> = (0..10).map(|id| submit(&sender, write(id))).collect();
    wait_for("all were handed in", || first.asked() == 10);
    first.answer(3, written(3));
    assert_eq!(told[3].recv_timeout(PATIENCE).unwrap(), written(3));
    drop(door);
    let second = FakeSubmit::echoing();
    let _door = open(listen_again(addr), &second, DoorConfig::default());
    for id in (0..10).filter(|&id| id != 3) {
        assert_eq!(told[id as usize].recv_timeout(PATIENCE).unwrap(), written(id));
    }
    let ids: Vec<_> = (0..10).filter(|&id| id != 3).map(RequestId).collect();
    assert_eq!(*locked(&second.seen), ids, "in the order in which they were asked first");
    assert!(locked(&first.held).values().all(|(request, _)| request.deadline < PATIENCE));
}

/// A front of its own for the next test: the first life of one holds what it is asked, the second
/// answers. By itself, one that answers.
#[test]
fn a_front_that_another_test_can_kill() {
    if let Some((listener, is_first)) = Elsewhere::listener() {
        let front = if is_first { FakeSubmit::holding() } else { FakeSubmit::echoing() };
        let _door = open(listener, &front, DoorConfig::default());
        return Elsewhere::serve();
    }
    let door = open(listen(), &FakeSubmit::echoing(), DoorConfig::default());
    assert_eq!(sender(door.addr()).request(write(1)), written(1));
}

#[test]
fn a_front_that_was_killed_is_asked_again_as_soon_as_it_is_back() {
    let name = "sender::a_front_that_another_test_can_kill";
    let front = Elsewhere::start(name, "127.0.0.1:0".parse().unwrap());
    let mut config = sender_config();
    config.socket.grace = Duration::from_secs(600);
    config.socket.grace_after_close = Duration::from_secs(600);
    let sender = Sender::connect([front.addr], "pair-1", config).unwrap();
    let told = submit(&sender, write(1));
    assert_eq!(sender.fetch(RequestId(100), PATIENCE).unwrap(), None);
    let front = Elsewhere::start(name, front.kill());
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), written(1));
    drop(front);
}

#[test]
fn fronts_are_tried_in_turn() {
    let fronts: Vec<_> = (0..3).map(|_| FakeSubmit::echoing()).collect();
    let open_one = |front| open(listen(), front, DoorConfig::default());
    let mut doors: Vec<_> = fronts.iter().map(|front| Some(open_one(front))).collect();
    let addrs: Vec<_> = doors.iter().flatten().map(|door| door.addr().to_string()).collect();
    drop(doors[0].take());
    let sender = Sender::connect(addrs.clone(), "pair-1", sender_config()).unwrap();
    assert_eq!(sender.request(write(1)), written(1));
    assert_eq!(fronts[1].asked(), 1);
    drop(doors[1].take());
    assert_eq!(sender.request(write(2)), written(2));
    assert_eq!(fronts[2].asked(), 1);
    drop(doors[2].take());
    wait_for("it knows", || !sender.is_connected());
    let error = Sender::connect(addrs, "pair-1", sender_config()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
    for wrong in [
        Sender::connect(Vec::<String>::new(), "pair-1", sender_config()),
        Sender::connect(["127.0.0.1:1"], "pair/1", sender_config()),
    ] {
        assert_eq!(wrong.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn a_deadline_without_an_answer_is_doubt_only_if_there_may_be_an_effect() {
    let front = FakeSubmit::holding();
    let door = open(listen(), &front, DoorConfig::default());
    let sender = sender(door.addr());
    let deadline = Duration::from_millis(100);
    let began = Instant::now();
    let sent = submit(&sender, within(write(1), deadline));
    let read = submit(&sender, within(request(2, Kind::Read, b""), deadline));
    let late = rejected(Reason::Deadline, Duration::ZERO);
    assert_eq!(sent.recv_timeout(PATIENCE).unwrap(), Outcome::InDoubt);
    assert_eq!(read.recv_timeout(PATIENCE).unwrap(), late);
    assert!(began.elapsed() >= deadline);
    let asked = locked(&front.held)[&RequestId(1)].0.deadline;
    assert!(asked < deadline, "the front was given {asked:?}: its answer would be late");
    // A late answer is nobody's.
    front.answer(1, written(1));

    let lost = submit(&sender, within(write(3), Duration::from_secs(2)));
    wait_for("it was handed in", || front.asked() == 3);
    drop(door);
    wait_for("it is known", || !sender.is_connected());
    let never_sent = submit(&sender, within(write(4), deadline));
    assert_eq!(never_sent.recv_timeout(PATIENCE).unwrap(), late);
    assert_eq!(lost.recv_timeout(PATIENCE).unwrap(), Outcome::InDoubt);
    let error = sender.fetch(RequestId(1), deadline).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

/// Rejects so often, to come back after 20 ms, and then answers.
fn rejecting(times: usize) -> Arc<FakeSubmit> {
    let left = AtomicUsize::new(times);
    FakeSubmit::answering(move |request| {
        let took =
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match took {
            Ok(_) => rejected(Reason::SpoolFull, Duration::from_millis(20)),
            Err(_) => applied(&request.payload),
        }
    })
}

#[test]
fn a_rejection_with_a_time_to_come_back_is_asked_again_within_the_deadline() {
    let front = rejecting(3);
    let door = open(listen(), &front, DoorConfig::default());
    let began = Instant::now();
    assert_eq!(sender(door.addr()).request(write(1)), written(1));
    assert!(began.elapsed() >= Duration::from_millis(60));
    assert_eq!(*locked(&front.seen), [RequestId(1); 4]);

    let front = rejecting(usize::MAX);
    let door = open(listen(), &front, DoorConfig::default());
    let full = rejected(Reason::SpoolFull, Duration::from_millis(20));
    let short = within(write(2), Duration::from_millis(300));
    assert_eq!(sender(door.addr()).request(short), full);
    assert!(front.asked() > 1);

    let front = rejecting(1);
    let door = open(listen(), &front, DoorConfig::default());
    let config = SenderConfig { retry: false, ..sender_config() };
    let once = Sender::connect([door.addr()], "pair-1", config).unwrap();
    assert_eq!(once.request(write(3)), full);
    assert_eq!(front.asked(), 1);

    let for_good = rejected(Reason::IdReused, Duration::ZERO);
    let told = for_good.clone();
    let door = open(listen(), &FakeSubmit::answering(move |_| told.clone()), DoorConfig::default());
    assert_eq!(sender(door.addr()).request(write(4)), for_good);
}

#[test]
fn a_rejection_after_an_answer_was_lost_does_not_say_that_there_is_no_effect() {
    let first = FakeSubmit::holding();
    let door = open(listen(), &first, DoorConfig::default());
    let addr = door.addr();
    let sender = sender(addr);
    let told: Vec<_> = [(1, Kind::Write), (2, Kind::Read), (3, Kind::Delete)]
        .map(|(id, kind)| submit(&sender, request(id, kind, b"")))
        .into();
    wait_for("all were handed in", || first.asked() == 3);
    drop(door);
    let second = FakeSubmit::answering(|request| {
        let reason = match request.id.0 {
            3 => Reason::Refused { code: 7, text: "never".to_owned() },
            _ => Reason::Unavailable,
        };
        rejected(reason, Duration::ZERO)
    });
    let _door = open(listen_again(addr), &second, DoorConfig::default());
    let told: Vec<_> = told.iter().map(|told| told.recv_timeout(PATIENCE).unwrap()).collect();
    // The third may be refused because it was done before.
    assert_eq!(
        told,
        [Outcome::InDoubt, rejected(Reason::Unavailable, Duration::ZERO), Outcome::InDoubt]
    );
}

#[test]
fn what_no_front_would_take_is_rejected_here() {
    let front = FakeSubmit::holding();
    let door = open(listen(), &front, DoorConfig::default());
    let config = SenderConfig { in_flight_max: 2, bytes_in_flight_max: 100, ..sender_config() };
    let sender = Sender::connect([door.addr()], "pair-1", config).unwrap();
    let malformed = |request| match sender.request(request) {
        Outcome::Rejected { reason: Reason::Malformed(text), .. } => text,
        other => panic!("{other:?}"),
    };
    let key = vec![0; KEY_MAX + 1];
    assert!(malformed(Request { key, ..write(1) }).contains("4097"));
    assert!(malformed(within(write(1), DEADLINE_MAX * 2)).contains("deadline"));
    assert!(malformed(within(write(1), Duration::ZERO)).contains("deadline"));
    // One alone goes, however large.
    let large = submit(&sender, request(2, Kind::Write, &[0; 5000]));
    let full = rejected(Reason::HoldFull, Duration::from_millis(100));
    assert_eq!(sender.request(write(3)), full);
    wait_for("it was handed in", || front.asked() == 1);
    front.answer(2, Outcome::Stale);
    assert_eq!(large.recv_timeout(PATIENCE).unwrap(), Outcome::Stale);
    let two: Vec<_> = (4..6).map(|id| submit(&sender, request(id, Kind::Write, b""))).collect();
    assert_eq!(sender.request(request(6, Kind::Write, b"")), full);
    wait_for("they were handed in", || front.asked() == 3);
    sender.close();
    for told in two {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Outcome::InDoubt);
    }
    assert_eq!(sender.request(write(7)), rejected(Reason::Closing, Duration::ZERO));
}
