//! What the engine gives to who carries logical connections over one session.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use common::{PATIENCE, PlayedServer, connect, errno, listen, message, pair, quick, recv, send};
use common::{socket, wait_until};
use eversock_engine::host::Kept;
use eversock_engine::{
    Answer, Config, Event, EventKind, Mode, RecoveryPolicy, State, StaticKey, posix,
};
use eversock_proto::resume::{Reason, Reject};

fn close_all(numbers: &[i32]) {
    for &number in numbers {
        posix::close(number).unwrap();
    }
}

#[test]
fn a_client_knows_its_servers_key_and_instance() {
    let (ours, theirs) = (StaticKey::from_bytes([7; 32]), StaticKey::from_bytes([8; 32]));
    let client = Config {
        identity: Some(ours.clone()),
        server_key: Some(theirs.public()),
        share: true,
        ..quick()
    };
    let server = Config { identity: Some(theirs.clone()), share: true, ..quick() };
    let numbers @ [client, server, listener] = pair(client, server);
    let addr = posix::getsockname(listener).unwrap();
    let (at_client, at_server) = (posix::link(client).unwrap(), posix::link(server).unwrap());
    assert_eq!((at_client.key, at_server.key), (Some(theirs.public()), Some(ours.public())));
    let shown = |number| posix::info(number).unwrap().peer_key;
    assert_eq!(shown(client), Some(theirs.public().to_string()));
    assert_eq!(shown(server), Some(ours.public().to_string()));
    assert_eq!((at_client.id, at_client.instance), (at_server.id, at_server.instance));
    assert!(at_client.shares && at_server.shares && at_client.attached && at_server.attached);
    assert_eq!((at_client.epoch, at_server.epoch), (1, 1));
    assert_eq!((at_client.peer, at_client.local), (addr, at_server.peer));
    posix::redial(client).unwrap();
    let second = || [client, server].map(|number| posix::link(number).unwrap());
    wait_until("the second connection", || second().iter().all(|link| link.epoch == 2));
    // The epoch is known before its connection is: bytes have gone over that one.
    send(client, b"x").unwrap();
    assert_eq!(recv(server, &mut [0; 1]).unwrap(), 1);
    wait_until("its ends", || {
        let [here, there] = second();
        here.local != at_client.local && here.local == there.peer && here.peer == addr
    });
    let [here, there] = second();
    assert_eq!((here.key, here.instance, here.id), (at_client.key, at_client.instance, there.id));
    assert!(here.shares && there.shares);
    assert_eq!(shown(client), Some(theirs.public().to_string()), "after a resumption too");
    // The program's names stay as they were.
    assert_eq!(posix::getsockname(client).unwrap(), at_client.local);
    close_all(&numbers);
}

#[test]
fn ends_that_do_not_both_share_say_so_and_nobody_is_known_before_the_session_stands() {
    for (ours, theirs) in [(true, false), (false, true), (false, false)] {
        let config = |share| Config { share, ..quick() };
        let numbers @ [client, server, _] = pair(config(ours), config(theirs));
        for number in [client, server] {
            let link = posix::link(number).unwrap();
            assert_eq!((link.key, posix::info(number).unwrap().peer_key), (None, None));
            assert_eq!((link.shares, link.key), (false, None));
        }
        close_all(&numbers);
    }
    let fresh = socket(quick());
    assert_eq!(errno(posix::link(fresh)), libc::ENOTCONN);
    close_all(&[fresh]);
}

/// Whatever the engine was told before has been done when this returns.
fn engine_has_obeyed() {
    let mut other = PlayedServer::new();
    let addr = other.addr();
    let client = std::thread::spawn(move || connect(addr, quick()));
    let _stream = other.take();
    posix::close(client.join().unwrap()).unwrap();
}

fn other_place() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Takes all connections that wait; true if there were any.
fn was_dialled(listener: &TcpListener) -> bool {
    std::iter::from_fn(|| listener.accept().ok()).count() > 0
}

/// Addresses were only ever added: a server that moved away was dialled for the life of the
/// session.
#[test]
fn withdrawn_addresses_are_not_dialled() {
    let mut server = PlayedServer::new();
    let (other, elsewhere) = other_place();
    let addr = server.addr();
    let client = std::thread::spawn(move || connect(addr, quick()));
    let mut stream = server.take();
    let number = client.join().unwrap();
    for announced in [vec![elsewhere], vec![]] {
        let session = server.session.as_mut().unwrap();
        session.tx.want_addrs(&announced);
        session.write(b"x");
        server.say(&mut stream);
        assert_eq!(recv(number, &mut [0; 1]).unwrap(), 1);
        engine_has_obeyed();
        was_dialled(&other);
        drop(stream);
        // Where it was it is turned away, so that the others are tried.
        let mut dialled = false;
        for _ in 0..4 {
            drop(server.listener.accept().unwrap());
            engine_has_obeyed();
            dialled |= was_dialled(&other);
        }
        assert_eq!(dialled, !announced.is_empty(), "announced: {announced:?}");
        stream = server.take();
    }
    drop(stream);
    posix::close(number).unwrap();
}

#[test]
fn a_server_announces_and_withdraws_its_addresses_while_the_session_stands() {
    let numbers @ [client, server, _] = pair(quick(), quick());
    let (other, elsewhere) = other_place();
    let nowhere: SocketAddr = ([127, 0, 0, 1], 0).into();
    assert_eq!(errno(posix::announce(server, &[nowhere])), libc::EINVAL);
    assert_eq!(errno(posix::announce(server, &[elsewhere; 17])), libc::EINVAL);
    assert_eq!(errno(posix::set_candidates(client, &[elsewhere; 33])), libc::EINVAL);
    for addrs in [vec![elsewhere], vec![]] {
        posix::announce(server, &addrs).unwrap();
        send(server, b"x").unwrap();
        assert_eq!(recv(client, &mut [0; 1]).unwrap(), 1);
        engine_has_obeyed();
        // GOAWAY sends it to another address, if it knows one.
        let before = posix::link(client).unwrap().epoch;
        posix::redial(client).unwrap();
        wait_until("a resume", || posix::link(client).unwrap().epoch > before);
        assert!(!was_dialled(&other), "where it is is where to look first");
    }
    // It is dialled first if the program says so, and is not the server.
    posix::set_candidates(client, &[elsewhere]).unwrap();
    let before = posix::link(client).unwrap().epoch;
    posix::redial(client).unwrap();
    wait_until("a dial", || was_dialled(&other));
    wait_until("a resume where it was", || posix::link(client).unwrap().epoch > before);
    close_all(&numbers);
}

type Events = crossbeam_channel::Receiver<Event>;

/// The next event that is of interest.
fn next(events: &Events, mut is_it: impl FnMut(&EventKind) -> bool) -> EventKind {
    loop {
        let event = events.recv_timeout(PATIENCE).expect("an event");
        if is_it(&event.kind) {
            return event.kind;
        }
    }
}

fn moved_or_not(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Resumed { .. } | EventKind::MoveFailed { .. })
}

fn bell() -> Arc<Kept> {
    let flags = rustix::event::EventfdFlags::NONBLOCK | rustix::event::EventfdFlags::CLOEXEC;
    Arc::new(Kept::new(rustix::event::eventfd(0, flags).unwrap()).unwrap())
}

fn has_rung(bell: &Kept) -> bool {
    rustix::io::read(bell, &mut [0; 8]).is_ok()
}

#[test]
fn a_redial_to_one_address_leaves_the_others_alone() {
    let numbers @ [client, server, _] = pair(quick(), quick());
    let (second, there) = listen(quick());
    let (other, elsewhere) = other_place();
    posix::set_candidates(client, &[elsewhere]).unwrap();
    let bell = bell();
    let events = posix::subscribe_with(client, Arc::clone(&bell)).unwrap();
    assert!(!has_rung(&bell));
    assert_eq!(errno(posix::redial_at(server, there)), libc::ENOTCONN);
    posix::redial_at(client, there).unwrap();
    let mut fds = [libc::pollfd { fd: bell.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    assert_eq!(posix::poll(&mut fds, Some(PATIENCE), std::ptr::null()).unwrap(), 1);
    let EventKind::Resumed { peer, local, .. } = next(&events, moved_or_not) else {
        panic!("it has not moved");
    };
    assert!(has_rung(&bell));
    let link = posix::link(client).unwrap();
    assert_eq!((link.peer, link.local, link.epoch), (peer, local, 2));
    assert_eq!(peer, Some(there));
    send(client, b"x").unwrap();
    assert_eq!(recv(server, &mut [0; 1]).unwrap(), 1);
    assert_eq!(posix::link(server).unwrap().local, Some(there));
    assert!(!was_dialled(&other));
    close_all(&numbers);
    close_all(&[second]);
}

/// A server that was started anew: it knows no session.
fn play_a_stranger() -> (SocketAddr, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        message(&mut stream).expect("a resume");
        let reject = Reject::plain(Reason::UnknownSession, Duration::ZERO);
        stream.write_all(&reject.encode()).unwrap();
    });
    (addr, thread)
}

#[test]
fn a_move_that_fails_changes_nothing() {
    let client = Config { connect_timeout: Duration::from_millis(300), ..quick() };
    let numbers @ [client, server, _] = pair(client, quick());
    let before = posix::link(client).unwrap();
    let events = posix::subscribe(client).unwrap();
    let nobody = {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        gone.local_addr().unwrap()
    };
    let (_silent, silent) = other_place();
    let (stranger, played) = play_a_stranger();
    for place in [nobody, silent, stranger] {
        posix::redial_at(client, place).unwrap();
        if place == silent {
            assert_eq!(errno(posix::redial_at(client, nobody)), libc::EALREADY);
        }
        if place == stranger {
            let refused = next(&events, |kind| matches!(kind, EventKind::Refused { .. }));
            assert_eq!(refused, EventKind::Refused { addr: stranger, reason: 1, proven: false });
        }
        let failed = next(&events, moved_or_not);
        assert!(
            matches!(failed, EventKind::MoveFailed { addr, .. } if addr == place),
            "{failed:?}"
        );
        assert_eq!(posix::link(client).unwrap(), before);
        send(client, b"x").unwrap();
        assert_eq!(recv(server, &mut [0; 1]).unwrap(), 1);
    }
    played.join().unwrap();
    assert_eq!(events.try_iter().count(), 0);
    close_all(&numbers);
    let numbers @ [client, _, _] =
        pair(Config { policy: RecoveryPolicy::Never, ..quick() }, quick());
    assert_eq!(errno(posix::redial_at(client, nobody)), libc::ENOTCONN);
    close_all(&numbers);
}

/// A program that is being asked says where to try; if that fails, it is still being asked.
#[test]
fn a_move_of_a_session_without_a_connection_answers_nothing_unless_it_succeeds() {
    let mut server = PlayedServer::new();
    let (addr, policy) = (server.addr(), RecoveryPolicy::AskOutside);
    let client = std::thread::spawn(move || connect(addr, Config { policy, ..quick() }));
    let stream = server.take();
    let number = client.join().unwrap();
    let events = posix::subscribe(number).unwrap();
    drop(stream);
    let state = || posix::info(number).unwrap().state;
    wait_until("it asks", || state() == State::Asking);
    let (stranger, played) = play_a_stranger();
    posix::redial_at(number, stranger).unwrap();
    assert!(matches!(next(&events, moved_or_not), EventKind::MoveFailed { .. }));
    played.join().unwrap();
    engine_has_obeyed();
    assert_eq!(state(), State::Asking);
    posix::redial_at(number, addr).unwrap();
    let second = server.take();
    assert!(matches!(next(&events, moved_or_not), EventKind::Resumed { .. }));
    assert_eq!(state(), State::Attached);
    drop(second);
    wait_until("it asks again", || state() == State::Asking);
    assert!(eversock_engine::answer(posix::info(number).unwrap().local_id, Answer::Continue));
    drop(server.take());
    posix::close(number).unwrap();
}

/// Where it was to move says nothing, and then the connection that it had is cut: the session goes
/// back to where it can, and waits for nobody.
#[test]
fn a_cut_in_the_middle_of_a_move_is_mended_at_once() {
    let mut server = PlayedServer::new();
    let addr = server.addr();
    let client = std::thread::spawn(move || connect(addr, quick()));
    let stream = server.take();
    let number = client.join().unwrap();
    let events = posix::subscribe(number).unwrap();
    let (_silent, silent) = other_place();
    posix::redial_at(number, silent).unwrap();
    drop(stream);
    let begun = std::time::Instant::now();
    assert!(matches!(next(&events, moved_or_not), EventKind::MoveFailed { .. }));
    let _second = server.take();
    assert!(matches!(next(&events, moved_or_not), EventKind::Resumed { .. }));
    assert!(begun.elapsed() < Duration::from_secs(8), "it has waited for the connect's time-out");
    posix::close(number).unwrap();
}

#[test]
fn the_two_ends_of_a_session_and_nobody_else_make_the_same_proof() {
    let numbers @ [client, server, _] = pair(quick(), quick());
    let others @ [other, ..] = pair(quick(), quick());
    let of = |number, parts: &[&[u8]]| posix::identity_proof(number, parts).unwrap();
    let proof = of(client, &[b"ab", b"c"]);
    assert_eq!(of(server, &[b"ab", b"c"]), proof);
    assert!(posix::is_identity_proof(server, &[b"ab", b"c"], &proof).unwrap());
    assert!(!posix::is_identity_proof(server, &[b"a", b"bc"], &proof).unwrap());
    assert_ne!(of(other, &[b"ab", b"c"]), proof);
    assert_ne!(of(server, &[b"abc"]), proof);
    let fresh = socket(quick());
    assert_eq!(errno(posix::identity_proof(fresh, &[])), libc::ENOTCONN);
    assert_eq!(errno(posix::line(fresh)), libc::ENOTCONN);
    close_all(&[fresh]);
    close_all(&numbers);
    close_all(&others);
}

#[test]
fn the_line_under_a_session_is_the_kernels_own_whatever_the_descriptor_is() {
    for mode in [Mode::Direct, Mode::Pumped] {
        let numbers @ [client, server, _] = pair(Config { mode, ..quick() }, quick());
        send(client, &[7; 1000]).unwrap();
        let mut got = 0;
        while got < 1000 {
            got += recv(server, &mut [0; 1000]).unwrap();
        }
        send(server, b"x").unwrap();
        assert_eq!(recv(client, &mut [0; 1]).unwrap(), 1);
        let line = posix::line(client).unwrap();
        assert!(line.rtt_us.is_some_and(|rtt| rtt < 10_000_000), "{line:?}");
        assert!(line.segs_out.is_some_and(|sent| (2..100).contains(&sent)), "{line:?}");
        assert!(line.retrans.is_some_and(|again| again < 100), "{line:?}");
        assert!(line.pmtu.is_some_and(|pmtu| (576..=65_536).contains(&pmtu)), "{line:?}");
        assert!(line.min_rtt_us <= line.rtt_us.max(Some(1_000_000)), "{line:?}");
        close_all(&numbers);
    }
}
