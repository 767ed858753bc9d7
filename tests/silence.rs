//! Paths that say nothing, and cuts before a session has begun to speak.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::limit::Limit;
use common::{data, quick};
use eversock::{Config, VirtualListener, VirtualStream};
use eversock_chaos::{Direction, Fault, Peer, Plan, Proxy, Target};

const PATIENCE: Duration = Duration::from_secs(60);

fn watchful() -> Config {
    Config { probe_after: Duration::from_millis(500), ..quick() }
}

/// Sends and gives back, with the echo in a thread of its own.
fn echoes(client: &VirtualStream, server: &VirtualStream, bytes: &[u8], fault: impl FnOnce()) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut got = vec![0; bytes.len()];
            (&*server).read_exact(&mut got).unwrap();
            (&*server).write_all(&got).unwrap();
        });
        fault();
        (&*client).write_all(bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        (&*client).read_exact(&mut back).unwrap();
        assert!(back == bytes);
    });
}

/// The proxy's own connections stay alive and acknowledge everything: only the silence of the other
/// end says that the path is dead.
#[test]
fn a_dead_path_behind_a_live_proxy_is_left() {
    let _limit = Limit::new("a dead path", PATIENCE);
    let ends = common::ends("127.0.0.1:0", watchful(), watchful());
    let hole = Fault::Blackhole { direction: Direction::Both, lasting: None, then_reset: false };
    echoes(&ends.client, &ends.server, &data(1, 100_000), || {
        assert_eq!(ends.proxy.inject(hole, Target::Open).unwrap(), 1);
    });
    common::wait_until("the resumes are counted", || ends.client.info().unwrap().resumes >= 1);
}

#[test]
fn a_server_that_was_not_told_of_the_cut_takes_the_resume_all_the_same() {
    let _limit = Limit::new("a half-open connection", PATIENCE);
    let ends = common::ends("127.0.0.1:0", watchful(), watchful());
    let half = Fault::HalfOpen { left_open: Peer::Server };
    echoes(&ends.client, &ends.server, &data(2, 100_000), || {
        assert_eq!(ends.proxy.inject(half, Target::Open).unwrap(), 1);
    });
    common::wait_until("the resumes are counted", || ends.client.info().unwrap().resumes >= 1);
}

#[test]
fn a_client_that_was_not_told_of_the_cut_finds_out() {
    let _limit = Limit::new("a half-open connection", PATIENCE);
    let ends = common::ends("127.0.0.1:0", watchful(), watchful());
    let half = Fault::HalfOpen { left_open: Peer::Client };
    echoes(&ends.client, &ends.server, &data(3, 100_000), || {
        assert_eq!(ends.proxy.inject(half, Target::Open).unwrap(), 1);
    });
    common::wait_until("the resumes are counted", || ends.client.info().unwrap().resumes >= 1);
}

/// OPEN, OPEN_OK and CONFIRM are about 220 bytes up and down: wherever the first connection dies,
/// connect fails honestly, or the session stands and works.
#[test]
fn a_cut_anywhere_in_the_handshake_gives_an_error_or_a_session_that_works() {
    let _limit = Limit::new("cuts in the handshake", PATIENCE);
    common::begin();
    let (mut stood, mut failed) = (0, 0);
    for cut in (1..=180).step_by(9) {
        for direction in ["up", "down"] {
            let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
            let plan = Plan::parse(&format!("conn 1 after {cut} {direction} reset")).unwrap();
            let target = listener.local_addr().unwrap();
            let config = eversock_chaos::Config::new("127.0.0.1:0".parse().unwrap(), target);
            let proxy = Proxy::spawn(config.with_plan(plan)).unwrap();
            match VirtualStream::connect_with(proxy.local_addr(), quick()) {
                Ok(client) => {
                    stood += 1;
                    // One byte makes the client notice that its CONFIRM may be lost.
                    (&client).write_all(b"x").unwrap();
                    let (server, _) = listener.accept().unwrap();
                    let mut byte = [0];
                    (&server).read_exact(&mut byte).unwrap();
                    echoes(&client, &server, &data(4, 1000), || ());
                }
                Err(_) => failed += 1,
            }
        }
    }
    assert!(stood > 0 && failed > 0, "{stood} stood, {failed} failed");
}
