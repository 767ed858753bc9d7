//! The reactor over loopback.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;
mod cuts;
mod lanes;
mod many;
mod strangers;

use std::time::{Duration, Instant};

use common::{
    Heard, PATIENCE, Peer, Running, config, listen_with, raw, start, start_with, wait_for,
};
use eversock_controller::conn::{Lane, Reactor};
use eversock_controller::limits::MESSAGE_MAX;
use eversock_engine::{Config, StaticKey};
use eversock_socket::VirtualListener;

#[test]
fn both_ends_are_told_of_the_connection_its_messages_and_its_end() {
    let server = start(|reactor, conn, kind, body| {
        reactor.send(conn, Lane::Control, raw(kind + 1, body));
        Ok(())
    });
    let client = start(|_, _, _, _| Ok(()));
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 7, 10);
    client.reactor.dial(vec![addr], config(), 8);
    let (here, opened) = client.opened();
    assert_eq!((opened.token, opened.dialled, opened.peer), (8, true, addr));
    let (there, opened) = server.opened();
    assert_eq!((opened.token, opened.dialled), (7, false));
    assert_ne!(here, there, "numbers are those of the process");
    for body in [vec![], vec![1; 10], vec![2; MESSAGE_MAX]] {
        client.reactor.send(here, Lane::Control, raw(5, &body));
        assert_eq!(client.frame(), (here, 6, body.clone()));
        assert_eq!(server.frame(), (there, 5, body));
    }
    wait_for("all is written", || client.reactor.queued(here) + server.reactor.queued(there) == 0);
    client.reactor.close(here);
    assert_eq!(client.closed().0, here);
    assert_eq!(server.closed(), (there, "the peer has ended it".to_owned()));
    assert_eq!(server.reactor.queued(there), 0);
    client.reactor.send(here, Lane::Control, raw(5, b"late"));
    assert_eq!(client.reactor.failure(), None);
}

#[test]
fn both_ends_are_told_which_key_the_other_has_proven() {
    let keys = [3, 4].map(|n| StaticKey::from_bytes([n; 32]));
    let (ours, theirs) = (keys[0].public(), keys[1].public());
    let [client_key, server_key] = keys.map(Some);
    let inside = Config { identity: server_key, allowed_clients: Some(vec![ours]), ..config() };
    let outside = Config { identity: client_key, server_key: Some(theirs), ..config() };
    let (server, client) = (start(|_, _, _, _| Ok(())), start(|_, _, _, _| Ok(())));
    let (listener, addr) = listen_with(inside);
    server.reactor.listen(listener, 0, 10);
    client.reactor.dial(vec![addr], outside, 1);
    assert_eq!(client.opened().1.peer_key, Some(theirs));
    assert_eq!(server.opened().1.peer_key, Some(ours));
    let (plain, addr) = listen_with(config());
    server.reactor.listen(plain, 0, 10);
    client.reactor.dial(vec![addr], config(), 2);
    assert_eq!((client.opened().1.peer_key, server.opened().1.peer_key), (None, None));
}

#[test]
fn nobody_there_is_told() {
    let client = start(|_, _, _, _| Ok(()));
    let (listener, addr) = listen_with(config());
    drop(listener);
    let impatient = Config { connect_timeout: Duration::from_secs(2), ..config() };
    client.reactor.dial(vec![addr], impatient.clone(), 3);
    assert!(matches!(client.next(), Heard::DialFailed(3, _)));
    client.reactor.dial(Vec::new(), impatient, 4);
    assert!(matches!(client.next(), Heard::DialFailed(4, _)));
}

#[test]
fn what_is_held_stays_with_the_peer_and_comes_in_order_later() {
    let server = start(|reactor, conn, _, body| {
        if body == b"hold" {
            reactor.hold(conn, true);
        }
        Ok(())
    });
    let (listener, addr) = listen_with(common::narrow(256 << 10));
    server.reactor.listen(listener, 0, 10);
    let peer = Peer::dial_with(addr, common::narrow(256 << 10));
    let (conn, _) = server.opened();
    let first = [raw(1, b"hold"), raw(2, b"a"), raw(3, b"b")].concat();
    peer.write(&first).unwrap();
    assert_eq!(server.frame().2, b"hold");
    // Nothing is read any more: the peer can write so much, and then no more.
    peer.0.set_nonblocking(true).unwrap();
    let stream = raw(4, &[7; 60_000]);
    let (mut written, mut until) = (0, Instant::now() + Duration::from_millis(500));
    while Instant::now() < until {
        use std::io::Write;
        match (&*peer.0).write(&stream[written % stream.len()..]) {
            Ok(n) => {
                written += n;
                until = Instant::now() + Duration::from_millis(500);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        assert!(written < 64 << 20, "a peer that is held writes for ever");
    }
    assert!(server.heard.is_empty(), "something came while held");
    server.reactor.hold(conn, false);
    assert_eq!(server.frame().1, 2);
    assert_eq!(server.frame().1, 3);
    for _ in 0..written / stream.len() {
        assert_eq!(server.frame().1, 4);
    }
    drop(peer);
    assert_eq!(server.closed().0, conn);
}

#[test]
fn the_handler_is_called_when_it_is_woken_and_at_its_time() {
    let mut first = true;
    let started = Instant::now();
    let soon = started + Duration::from_millis(300);
    let running = start_with(
        true,
        Some(Box::new(move || std::mem::take(&mut first).then_some(soon))),
        |_, _, _, _| Ok(()),
    );
    assert_eq!(running.next(), Heard::Turn);
    assert_eq!(running.next(), Heard::Turn);
    let at = Instant::now();
    assert!(at >= soon && at < soon + PATIENCE / 2, "{:?} too late", at - soon);
    for _ in 0..3 {
        assert!(running.heard.is_empty(), "it was called for nothing");
        running.reactor.wake();
        assert_eq!(running.next(), Heard::Turn);
    }
}

/// What comes while the handler has its turn may be what it has just looked for in vain.
#[test]
fn a_wake_during_the_handlers_turn_leads_to_another_turn() {
    let known: std::sync::Arc<std::sync::OnceLock<Reactor>> = std::sync::Arc::default();
    let own = std::sync::Arc::clone(&known);
    let mut wakes = 3;
    let on_turn = Box::new(move || {
        if let Some(reactor) = own.get()
            && wakes > 0
        {
            wakes -= 1;
            reactor.wake();
        }
        None
    });
    let running = start_with(true, Some(on_turn), |_, _, _, _| Ok(()));
    assert_eq!(running.next(), Heard::Turn);
    assert!(known.set(running.reactor.clone()).is_ok());
    running.reactor.wake();
    for _ in 0..3 {
        assert_eq!(running.next(), Heard::Turn);
    }
    running.thread.close();
}

#[test]
fn a_handler_that_panics_ends_the_reactor_and_nothing_else() {
    let server = start(|_, _, _, body| if body == b"bad" { panic!("as told") } else { Ok(()) });
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, 10);
    let (one, two) = (Peer::dial(addr), Peer::dial(addr));
    let conns = [server.opened().0, server.opened().0];
    one.write(&raw(1, b"good")).unwrap();
    server.frame();
    two.write(&raw(1, b"bad")).unwrap();
    wait_for("it has ended", || server.reactor.failure().is_some());
    assert!(server.reactor.failure().unwrap().contains("as told"));
    assert_eq!((one.read(), two.read()), (None, None));
    server.reactor.send(conns[0], Lane::Control, raw(1, b"late"));
    server.reactor.wake();
    assert_eq!(server.reactor.queued(conns[0]), 0);
    wait_for("the port is free", || VirtualListener::bind_with(addr, config()).is_ok());
    server.thread.close();
}

#[test]
fn a_reactor_can_be_closed_while_all_goes_on_and_writes_what_waits() {
    let server = start(|_, _, _, _| Ok(()));
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, 10);
    let peer = Peer::dial(addr);
    let (conn, _) = server.opened();
    for n in 0..50u8 {
        server.reactor.send(conn, Lane::Updates, raw(9, &[n; 1000]));
    }
    let Running { thread, heard, .. } = server;
    thread.close();
    for n in 0..50u8 {
        assert_eq!(peer.read(), Some((9, vec![n; 1000])));
    }
    assert_eq!(peer.read(), None);
    assert!(matches!(heard.recv(), Ok(Heard::Closed(ended, _)) if ended == conn));
    assert!(heard.recv().is_err(), "the handler is still there");
}
