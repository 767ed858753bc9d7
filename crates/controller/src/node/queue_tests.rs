#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use super::*;
use crate::model::DeviceId;
use crate::store::Position;
use crate::wire::client::{Register, Request};
use crate::wire::peer::Forward;

fn config() -> QueueConfig {
    QueueConfig { inputs_max: 10, bytes_max: 1 << 20 }
}

fn device() -> DeviceId {
    "d".parse().unwrap()
}

fn handshake(conn: ConnId) -> Input {
    Input::Handshake { conn, device: device(), seq: 1 }
}

fn request(conn: ConnId) -> Input {
    let deadline = Duration::from_secs(1);
    let request = Request { id: 1, device: device(), deadline, payload: Vec::new() };
    Input::Request { origin: Origin::Conn(conn, 1), request }
}

fn register(conn: ConnId, address: usize) -> Input {
    let register = Register {
        device: device(),
        seq: 1,
        nonce: 0,
        lease: Duration::ZERO,
        generation: 0,
        token: 0,
        address: vec![0; address],
    };
    Input::Register { conn, register }
}

fn taken(partner: &str) -> (ControllerId, Work) {
    let partner: ControllerId = partner.parse().unwrap();
    let message = SyncMessage::Taken { upto: Position { run: 0, lsn: 0 } };
    let input = Input::Sync { partner: partner.clone(), message };
    (partner.clone(), Work::Link { partner, conn: 1, input })
}

fn name(next: Option<Next>) -> &'static str {
    match next.unwrap().item.work {
        Work::Input(Input::Handshake { .. }) => "handshake",
        Work::Input(Input::Register { .. }) => "register",
        Work::Input(Input::Deregister { .. }) => "deregister",
        Work::Input(Input::Request { .. }) => "request",
        Work::Input(Input::ConnLost { .. }) => "lost",
        Work::Link { partner, .. } if partner.as_str() == "p" => "p",
        Work::Link { .. } => "q",
        Work::Query(_) => "query",
        _ => "other",
    }
}

fn names(queue: &Queue) -> Vec<&'static str> {
    (0..queue.len()).map(|_| name(queue.next(None))).collect()
}

#[test]
fn each_has_its_room_and_its_turn() {
    let queue = Queue::new(config());
    for n in 0..10 {
        queue.push(register(n, 0)).unwrap();
        queue.push(handshake(n)).unwrap();
    }
    assert!(queue.push(register(11, 0)).is_err());
    assert!(queue.push(request(11)).is_err());
    // Neither partners nor what must not be lost has less room for that.
    for (partner, work) in [taken("p"), taken("q"), taken("p")] {
        assert_eq!(queue.push_partner(&partner, work).unwrap(), Room::Left);
    }
    queue.control(Work::Query(Box::new(|_| Ok(None))));
    queue.push(Input::ConnLost { conn: 1 }).unwrap();
    assert_eq!(queue.waiting_new(), 11);
    let order = names(&queue);
    assert_eq!(order[0], "query");
    let place = |wanted| order.iter().position(|name| *name == wanted).unwrap();
    assert!(place("p") < 8 && place("q") < 8 && place("register") < 6, "{order:?}");
    let early = |wanted| order.iter().take(9).filter(|name| **name == wanted).count();
    assert!(early("handshake") >= 2 * early("register"), "{order:?}");
    assert!(queue.next(None).is_none());
}

#[test]
fn a_connection_is_lost_after_all_that_came_on_it() {
    let queue = Queue::new(config());
    for n in 0..8 {
        queue.push(handshake(n)).unwrap();
    }
    queue.push(Input::ConnLost { conn: 7 }).unwrap();
    queue.push(handshake(9)).unwrap();
    let order = names(&queue);
    assert!(order.iter().position(|name| *name == "lost").unwrap() >= 8, "{order:?}");
    assert_eq!(order.len(), 10);
}

/// Else a device that comes and goes at once would stay registered.
#[test]
fn an_end_does_not_overtake_the_registration_before_it() {
    let queue = Queue::new(config());
    queue.push(register(1, 0)).unwrap();
    queue.push(Input::Deregister { conn: 1, device: device(), seq: 1 }).unwrap();
    assert!(queue.next_served().is_none());
    assert_eq!(names(&queue), ["register", "deregister"]);
}

/// A device whose handshakes are lost would believe that nobody is here.
#[test]
fn requests_leave_room_for_handshakes_and_for_the_requests_of_others() {
    let queue = Queue::new(QueueConfig { inputs_max: 80, bytes_max: 1 << 20 });
    let of_one = (0..80).filter(|_| queue.push(request(1)).is_ok()).count();
    assert_eq!(of_one, 80 / REQUESTS_SHARE);
    let of_others = (0..100).filter(|n| queue.push(request(2 + n)).is_ok()).count();
    assert_eq!(of_others, 80 - of_one);
    for n in 0..80 {
        queue.push(handshake(n)).unwrap();
    }
    assert!(queue.push(handshake(1)).is_err());
    // What was taken out leaves its place to the same connection again.
    while queue.next_served().is_some() {}
    assert_eq!((0..80).filter(|_| queue.push(request(1)).is_ok()).count(), of_one);
}

/// Its link has other partitions' updates too.
#[test]
fn the_requests_of_a_partner_do_not_hold_its_link() {
    let queue = Queue::new(config());
    let partner: ControllerId = "p".parse().unwrap();
    let forward = || {
        let forward = Forward {
            id: 1,
            device: device(),
            visited: Vec::new(),
            seq: 0,
            deadline: Duration::from_secs(1),
            payload: Vec::new(),
        };
        let input = Input::Forward { partner: partner.clone(), forward };
        Work::Link { partner: partner.clone(), conn: 1, input }
    };
    let rooms: Vec<_> = (0..20).map(|_| queue.push_partner(&partner, forward())).collect();
    assert_eq!(rooms.iter().filter(|room| matches!(room, Ok(Room::Left))).count(), 10);
    assert_eq!(rooms.iter().filter(|room| room.is_err()).count(), 10);
    let (partner, work) = taken("p");
    assert_eq!(queue.push_partner(&partner, work).unwrap(), Room::Left);
}

#[test]
fn bytes_count_too() {
    let queue = Queue::new(QueueConfig { inputs_max: 1000, bytes_max: 10_000 });
    let went = (0..1000).take_while(|n| queue.push(register(*n, 1000)).is_ok()).count();
    assert!((7..10).contains(&went), "{went}");
    queue.next(None);
    queue.push(register(0, 1000)).unwrap();
}

#[test]
fn a_partner_that_sends_too_much_waits_until_there_is_room() {
    let queue = Queue::new(config());
    let mut rooms = Vec::new();
    for _ in 0..22 {
        let (partner, work) = taken("p");
        rooms.push(queue.push_partner(&partner, work).unwrap());
    }
    assert_eq!(rooms.iter().filter(|room| **room == Room::None).count(), 2);
    let (other, work) = taken("q");
    assert_eq!(queue.push_partner(&other, work).unwrap(), Room::Left);
    let released: Vec<_> = (0..23).map(|_| queue.next(None).unwrap().released).collect();
    let places: Vec<_> = (0..23).filter(|n| released[*n].is_some()).collect();
    assert_eq!(places.len(), 1, "it is told once");
    assert!((16..=18).contains(&places[0]), "{places:?}");
    assert_eq!(released[places[0]].as_ref().unwrap().as_str(), "p");
}

#[test]
fn who_waits_is_woken() {
    let queue = std::sync::Arc::new(Queue::new(config()));
    let other = std::sync::Arc::clone(&queue);
    let thread = std::thread::spawn(move || {
        name(other.next(Some(Instant::now() + Duration::from_secs(60))))
    });
    queue.push(handshake(1)).unwrap();
    assert_eq!(thread.join().unwrap(), "handshake");
    assert!(queue.next(Some(Instant::now() + Duration::from_millis(5))).is_none());
}
