//! What is left when reactors end: nothing. Alone in its process, whose descriptors and threads it
//! counts.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

#[path = "conn/common.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other tests of the reactor")]
mod common;

use std::fs;

use common::{Heard, Peer, config, listen_with, raw, start, wait_for};
use eversock_controller::conn::Lane;

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    tasks.filter_map(name).filter(|name| name.starts_with("test")).collect()
}

fn round() {
    let server = start(|reactor, conn, kind, body| {
        reactor.send(conn, Lane::Control, raw(kind, body));
        Ok(())
    });
    let client = start(|_, _, _, _| Ok(()));
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, 40);
    (0..50).for_each(|token| client.reactor.dial(vec![addr], config(), token));
    let mut open = Vec::new();
    while open.len() < 50 {
        if let Heard::Opened(conn, _) = client.next() {
            open.push(conn);
            client.reactor.send(conn, Lane::Bulk, raw(7, &[1; 5000]));
        }
    }
    let peer = Peer::dial(addr);
    open.iter().step_by(3).for_each(|conn| client.reactor.close(*conn));
    // One of each in the middle of something, and handles that outlive all.
    let handles = [server.reactor.clone(), client.reactor.clone()];
    client.thread.close();
    server.thread.close();
    drop(peer);
    handles.iter().for_each(|handle| handle.dial(vec![addr], config(), 9));
    assert_eq!(handles.map(|handle| handle.failure()), [None, None]);
}

#[test]
fn nothing_is_left_of_reactors_that_ended() {
    round();
    let mut fewest = usize::MAX;
    wait_for("the first round's sessions are gone", || {
        fewest = descriptors();
        eversock_engine::sessions().is_empty()
    });
    for _ in 0..5 {
        round();
    }
    wait_for("as many descriptors as before", || {
        eversock_engine::sessions().is_empty() && descriptors() <= fewest
    });
    wait_for("no threads", || threads().iter().all(|name| !name.starts_with("test-dial")));
    assert!(!threads().contains(&"test\n".to_owned()), "{:?}", threads());
}
