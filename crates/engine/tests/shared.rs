//! What the engine gives to who carries logical connections over one session.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use common::{errno, pair, quick, recv, send, socket, wait_until};
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
