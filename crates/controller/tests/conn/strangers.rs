//! Peers that say nothing, too little, too much or nonsense.

use std::thread;
use std::time::{Duration, Instant};

use eversock_controller::conn::{CLOSE_TIMEOUT, GREETING_TIMEOUT, Lane};
use eversock_controller::limits::{GREETING_MAX, MESSAGE_MAX};
use eversock_controller::wire::client::ClientMessage;
use eversock_controller::wire::codes::bye;
use eversock_controller::wire::{Bye, Message};

use crate::common::{
    Heard, Peer, Running, config, listen_with, narrow, raw, start, start_with, wait_for,
};

/// One whose connections are greeted when they say so.
fn polite() -> Running {
    start_with(false, None, |reactor, conn, kind, body| {
        match body {
            b"hello" => reactor.greeted(conn),
            b"nonsense" => {
                let bye = Bye::new(bye::NOT_LET_IN, "we do not know you");
                return Err(Bye { after_ms: 17, ..bye });
            }
            _ => reactor.send(conn, Lane::Control, raw(kind, b"")),
        }
        Ok(())
    })
}

#[test]
fn who_drips_or_says_nothing_is_ended_and_who_greets_stays() {
    let server = polite();
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, 10);
    let began = Instant::now();
    let (drips, silent, greets) = (Peer::dial(addr), Peer::dial(addr), Peer::dial(addr));
    greets.write(&raw(1, b"hello")).unwrap();
    let dripping = thread::spawn({
        let stream = Peer(drips.0.clone());
        move || {
            let message = raw(1, &[0; GREETING_MAX]);
            for byte in &message {
                if stream.write(&[*byte]).is_err() || began.elapsed() > 3 * GREETING_TIMEOUT {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    for peer in [&silent, &drips] {
        assert_eq!(peer.bye().code, bye::SLOW);
        let took = began.elapsed();
        assert!(took >= GREETING_TIMEOUT && took < 3 * GREETING_TIMEOUT, "{took:?}");
    }
    greets.write(&raw(2, b"still here?")).unwrap();
    assert_eq!(greets.read(), Some((2, Vec::new())));
    dripping.join().unwrap();
}

#[test]
fn before_the_greeting_messages_are_small_and_afterwards_not_endless() {
    let server = polite();
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, 10);
    let peer = Peer::dial(addr);
    peer.write(&raw(1, &vec![0; GREETING_MAX])).unwrap();
    assert_eq!(peer.read(), Some((1, Vec::new())));
    peer.write(&raw(1, &vec![0; GREETING_MAX + 1])).unwrap();
    assert_eq!(peer.bye().code, bye::MALFORMED);
    let peer = Peer::dial(addr);
    // Both in one piece: the first message raises the limit for the second.
    peer.write(&[raw(1, b"hello"), raw(2, &vec![0; MESSAGE_MAX])].concat()).unwrap();
    assert_eq!(peer.read(), Some((2, Vec::new())));
    let endless = [&u32::MAX.to_le_bytes()[..], &[3, 0]].concat();
    peer.write(&endless).unwrap();
    assert_eq!(peer.bye().code, bye::MALFORMED);
}

#[test]
fn nonsense_is_told_why_it_is_ended_and_others_hear_nothing_of_it() {
    let server = polite();
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, 10);
    let (good, bad) = (Peer::dial(addr), Peer::dial(addr));
    good.write(&raw(1, b"hello")).unwrap();
    bad.write(&[raw(1, b"nonsense"), raw(1, b"more")].concat()).unwrap();
    let told = bad.bye();
    assert_eq!((told.code, told.after_ms), (bye::NOT_LET_IN, 17));
    assert_eq!(told.text, "we do not know you");
    good.write(&raw(2, b"x")).unwrap();
    assert_eq!(good.read(), Some((2, Vec::new())));
    let mut frames = Vec::new();
    server.heard.try_iter().for_each(|heard| {
        if let Heard::Frame(_, _, body) = heard {
            frames.push(body);
        }
    });
    assert!(!frames.contains(&b"more".to_vec()), "a message of one that was ended came");
}

#[test]
fn messages_that_are_begun_and_not_ended_take_so_much_memory_and_no_more() {
    const PEERS: usize = 20;
    let server = polite();
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, PEERS + 1);
    server.reactor.set_partial_max(5 * MESSAGE_MAX);
    let calm = Peer::dial(addr);
    calm.write(&raw(1, b"hello")).unwrap();
    let message = [raw(1, b"hello"), raw(2, &vec![0; MESSAGE_MAX])].concat();
    let (last, most) = message.split_last().unwrap();
    let peers: Vec<Peer> = (0..PEERS).map(|_| Peer::dial(addr)).collect();
    let mut refused = 0;
    for peer in &peers {
        // One that is refused meanwhile may not take all of it.
        let _refused = peer.write(most);
    }
    calm.write(&raw(2, b"")).unwrap();
    assert_eq!(calm.read(), Some((2, Vec::new())));
    wait_for("those that do not fit are ended", || {
        let ended = |heard| usize::from(matches!(heard, Heard::Closed(..)));
        refused += server.heard.try_iter().map(ended).sum::<usize>();
        refused >= PEERS - 5
    });
    let mut answered = 0;
    for peer in &peers {
        let _refused = peer.write(&[*last]);
        match peer.read().unwrap() {
            (2, _) => answered += 1,
            (kind, body) => {
                let Ok(ClientMessage::Bye(bye)) = ClientMessage::decode(kind, &body) else {
                    panic!("{kind:#06x}");
                };
                assert_eq!(bye.code, bye::FULL);
            }
        }
    }
    assert!((4..=5).contains(&answered), "{answered} got through");
}

/// Devices must not be able to have the links of partners ended.
#[test]
fn one_that_is_spared_is_not_ended_for_what_others_take() {
    let server = polite();
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, 2);
    server.reactor.set_partial_max(MESSAGE_MAX * 3 / 2);
    let partner = Peer::dial(addr);
    let (conn, _) = server.opened();
    server.reactor.spare(conn);
    let message = [raw(1, b"hello"), raw(2, &vec![0; MESSAGE_MAX])].concat();
    let (last, most) = message.split_last().unwrap();
    partner.write(most).unwrap();
    let other = Peer::dial(addr);
    let _refused = other.write(&most[..most.len() * 3 / 4]);
    let mut ended = None;
    wait_for("one of them is ended", || {
        ended = server.heard.try_iter().find_map(|heard| match heard {
            Heard::Closed(conn, _) => Some(conn),
            _ => None,
        });
        ended.is_some()
    });
    assert_ne!(ended, Some(conn));
    partner.write(&[*last]).unwrap();
    assert_eq!(partner.read().unwrap().0, 2);
}

#[test]
fn a_message_that_is_cut_off_is_told_as_such() {
    let server = polite();
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, 10);
    let peer = Peer::dial(addr);
    let (conn, _) = server.opened();
    let message = raw(1, b"hello");
    peer.write(&message[..message.len() - 1]).unwrap();
    drop(peer);
    assert_eq!(server.closed(), (conn, "the connection ended inside a message".to_owned()));
}

#[test]
fn one_too_many_is_told_to_come_later_and_gets_in_when_another_has_left() {
    let server = polite();
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, 2);
    let (one, two) = (Peer::dial(addr), Peer::dial(addr));
    let (first, _) = server.opened();
    server.opened();
    for _ in 0..3 {
        let told = Peer::dial(addr).bye();
        assert_eq!(told.code, bye::FULL);
        assert!(told.after_ms >= 1000, "{}", told.after_ms);
    }
    assert!(server.heard.is_empty(), "the handler heard of who was refused");
    drop(one);
    assert_eq!(server.closed().0, first);
    let three = Peer::dial(addr);
    server.opened();
    for peer in [two, three] {
        peer.write(&raw(4, b"x")).unwrap();
        assert_eq!(peer.read(), Some((4, Vec::new())));
    }
}

#[test]
fn an_end_that_the_peer_does_not_read_is_forced() {
    let server = start(|_, _, _, _| Ok(()));
    let (listener, addr) = listen_with(narrow(64 << 10));
    server.reactor.listen(listener, 0, 10);
    let deaf = Peer::dial_with(addr, narrow(64 << 10));
    let (conn, _) = server.opened();
    for _ in 0..20 {
        server.reactor.send(conn, Lane::Updates, raw(1, &[0; 100_000]));
    }
    let began = Instant::now();
    server.reactor.close(conn);
    server.reactor.send(conn, Lane::Control, raw(1, b"late"));
    let (ended, why) = server.closed();
    assert!(ended == conn && why.contains("did not read"), "{why}");
    let took = began.elapsed();
    assert!(took >= CLOSE_TIMEOUT && took < 3 * CLOSE_TIMEOUT, "{took:?}");
    wait_for("nothing of it is left", || server.reactor.queued(conn) == 0);
    drop(deaf);
}
