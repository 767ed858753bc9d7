//! A thousand connections at once, and what is left of them.

use std::collections::HashMap;
use std::time::Instant;

use eversock_controller::conn::Lane;

use crate::common::{Heard, config, listen_with, raw, start};

const COUNT: usize = 1000;

fn body(conn: u64, n: u8) -> Vec<u8> {
    let bytes = conn.to_le_bytes().into_iter().cycle().map(|byte| byte ^ n);
    bytes.take(if n == 1 { 20_000 } else { 8 }).collect()
}

#[test]
fn a_thousand_connections_get_their_own_answers() {
    let server = start(|reactor, conn, kind, body| {
        reactor.send(conn, Lane::Control, raw(kind, body));
        Ok(())
    });
    let client = start(|_, _, _, _| Ok(()));
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, COUNT);
    (0..COUNT).for_each(|token| client.reactor.dial(vec![addr], config(), token as u64));
    let mut open = HashMap::new();
    while open.len() < COUNT {
        let (conn, opened) = client.opened();
        assert_eq!(open.insert(conn, 0u8), None);
        assert!(opened.token < COUNT as u64);
    }
    let began = Instant::now();
    for &conn in open.keys() {
        (0..4)
            .for_each(|n| client.reactor.send(conn, Lane::Control, raw(n.into(), &body(conn, n))));
    }
    for _ in 0..4 * COUNT {
        let (conn, kind, came) = client.frame();
        let n = open.get_mut(&conn).unwrap();
        assert_eq!((kind, &came), (u16::from(*n), &body(conn, *n)), "connection {conn}");
        *n += 1;
    }
    println!("{COUNT} connections, four answers each: {:?}", began.elapsed());
    client.thread.close();
    let ended = client.heard.iter().filter(|heard| matches!(heard, Heard::Closed(..))).count();
    assert_eq!(ended, COUNT);
    let mut left = COUNT;
    while left > 0 {
        left -= usize::from(matches!(server.next(), Heard::Closed(..)));
    }
}
