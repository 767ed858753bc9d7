//! What is urgent goes first; who does not read is ended.

use std::io::Write;
use std::thread;

use eversock_controller::conn::{Lane, QUEUE_MAX};

use crate::common::{Heard, Peer, listen_with, narrow, raw, start, wait_for};

/// Bytes that the peer's side takes before it reads.
const WINDOW: u64 = 64 << 10;

const LANES: [Lane; 3] = [Lane::Bulk, Lane::Updates, Lane::Control];

fn kind(lane: Lane) -> u16 {
    match lane {
        Lane::Control => 1,
        Lane::Updates => 2,
        Lane::Bulk => 3,
    }
}

#[test]
fn what_is_sent_together_goes_by_its_urgency_and_each_lane_in_order() {
    let server = start(|reactor, conn, _, _| {
        for n in 0..20u8 {
            for lane in LANES {
                reactor.send(conn, lane, raw(kind(lane), &vec![n; 5000 * usize::from(kind(lane))]));
            }
        }
        Ok(())
    });
    let (listener, addr) = listen_with(narrow(WINDOW));
    server.reactor.listen(listener, 0, 10);
    let peer = Peer::dial_with(addr, narrow(WINDOW));
    peer.write(&raw(0, b"go")).unwrap();
    for lane in LANES.into_iter().rev() {
        for n in 0..20u8 {
            let body = vec![n; 5000 * usize::from(kind(lane))];
            assert_eq!(peer.read(), Some((kind(lane), body)), "{lane:?} {n}");
        }
    }
}

#[test]
fn an_urgent_message_overtakes_what_waits_and_tears_nothing() {
    let server = start(|_, _, _, _| Ok(()));
    let (listener, addr) = listen_with(narrow(WINDOW));
    server.reactor.listen(listener, 0, 10);
    let peer = Peer::dial_with(addr, narrow(WINDOW));
    let (conn, _) = server.opened();
    let chunk = |n: u8| raw(3, &[n; 200_000]);
    (0..15).for_each(|n| server.reactor.send(conn, Lane::Bulk, chunk(n)));
    // As far as it goes, in the middle of a message.
    let whole = 15 * chunk(0).len();
    wait_for("writing has begun", || server.reactor.queued(conn) < whole);
    server.reactor.send(conn, Lane::Updates, raw(2, b"update"));
    server.reactor.send(conn, Lane::Control, raw(1, b"control"));
    let mut came = Vec::new();
    let mut bulk = 0;
    while came.len() < 17 {
        let (kind, body) = peer.read().unwrap();
        if kind == 3 {
            assert_eq!(body, vec![bulk; 200_000]);
            bulk += 1;
        }
        came.push(kind);
    }
    let at = |kind| came.iter().position(|k| *k == kind).unwrap();
    assert!(at(1) < at(2), "{came:?}");
    assert!(at(2) < 15, "nothing was overtaken: {came:?}");
    wait_for("nothing waits", || server.reactor.queued(conn) == 0);
}

#[test]
fn a_peer_that_does_not_read_is_ended_and_others_go_on() {
    let server = start(|reactor, conn, kind, body| {
        reactor.send(conn, Lane::Control, raw(kind, body));
        Ok(())
    });
    let (listener, addr) = listen_with(narrow(WINDOW));
    server.reactor.listen(listener, 0, 10);
    let deaf = Peer::dial_with(addr, narrow(WINDOW));
    let (conn, _) = server.opened();
    let body = vec![5; 100_000];
    let mut sent = 0;
    let mut most = 0;
    wait_for("it is ended", || {
        server.reactor.send(conn, Lane::Updates, raw(1, &body));
        most = most.max(server.reactor.queued(conn));
        sent += body.len();
        !server.heard.is_empty()
    });
    let (ended, why) = server.closed();
    assert_eq!(ended, conn);
    assert!(why.contains("does not read"), "{why}");
    assert!(sent > QUEUE_MAX, "ended after {sent} bytes");
    assert!(most <= QUEUE_MAX, "{most} bytes waited");
    assert_eq!(server.reactor.queued(conn), 0);
    let other = Peer::dial_with(addr, narrow(WINDOW));
    other.write(&raw(4, b"there?")).unwrap();
    assert_eq!(other.read(), Some((4, b"there?".to_vec())));
    drop(deaf);
}

#[test]
fn how_much_may_wait_can_be_set() {
    let server = start(|_, _, _, _| Ok(()));
    let (listener, addr) = listen_with(narrow(WINDOW));
    server.reactor.listen(listener, 0, 10);
    let peer = Peer::dial_with(addr, narrow(WINDOW));
    let (conn, _) = server.opened();
    server.reactor.set_queue_max(conn, 2 * QUEUE_MAX);
    let body = vec![5; 1 << 20];
    for _ in 0..6 {
        server.reactor.send(conn, Lane::Bulk, raw(1, &body));
    }
    for _ in 0..6 {
        assert_eq!(peer.read(), Some((1, body.clone())));
    }
    server.reactor.set_queue_max(conn, 1000);
    server.reactor.send(conn, Lane::Bulk, raw(1, &body));
    assert!(matches!(server.next(), Heard::Closed(..)));
}

#[test]
fn many_messages_at_once_all_come_and_leave_others_their_turn() {
    const COUNT: u32 = 50_000;
    let server = start(|reactor, conn, kind, _| {
        if kind == 2 {
            reactor.send(conn, Lane::Control, raw(kind, b""));
        }
        Ok(())
    });
    let (listener, addr) = listen_with(narrow(WINDOW));
    server.reactor.listen(listener, 0, 10);
    let (flood, calm) = (Peer::dial(addr), Peer::dial(addr));
    let writer = thread::spawn(move || {
        let bytes: Vec<u8> = (0..COUNT).flat_map(|n| raw(1, &n.to_le_bytes())).collect();
        (&*flood.0).write_all(&bytes).unwrap();
        flood
    });
    for _ in 0..20 {
        calm.write(&raw(2, b"")).unwrap();
        assert_eq!(calm.read(), Some((2, Vec::new())));
    }
    let _flood = writer.join().unwrap();
    let (mut next, mut calls) = (0, 0);
    while next < COUNT || calls < 20 {
        match server.next() {
            Heard::Frame(_, 1, body) => {
                assert_eq!(body, next.to_le_bytes());
                next += 1;
            }
            Heard::Frame(_, 2, _) => calls += 1,
            Heard::Opened(..) => {}
            other => panic!("{other:?}"),
        }
    }
}
