//! What the engine gives to who carries logical connections over one session.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::net::{SocketAddr, TcpListener};

use common::{PlayedServer, connect, errno, pair, quick, recv, send, socket, wait_until};
use eversock_engine::{Config, StaticKey, posix};

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
