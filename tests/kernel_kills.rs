//! Connections killed by the kernel (`ss -K`), in a network namespace of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::child::{command, role};
use common::side::{How, converse};
use common::{MIB, StopOnDrop, begin, data, exchange, quick};
use eversock::{VirtualListener, VirtualStream};

/// A network namespace that goes with the test.
struct Namespace(String);

impl Namespace {
    fn new(test: &str) -> io::Result<Self> {
        let namespace = Self(format!("evs{}{test}", std::process::id()));
        run("ip", &["netns", "add", &namespace.0])?;
        run("ip", &["-n", &namespace.0, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _gone = run("ip", &["netns", "del", &self.0]);
    }
}

use std::io;

fn run(program: &str, args: &[&str]) -> io::Result<String> {
    let out = Command::new(program).args(args).output()?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(io::Error::other(String::from_utf8_lossy(&out.stderr).into_owned()))
}

/// Runs the hidden test in a role in a namespace of its own. Without the rights or the tools for it
/// this says so loudly, and fails where CI promises them.
fn in_namespace(role: &str) {
    let namespace = match Namespace::new(role) {
        Ok(namespace) => namespace,
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: no network namespace: {error}; run as root, with iproute2");
            return;
        }
        Err(error) => panic!("no network namespace: {error}"),
    };
    let prefix = ["ip", "netns", "exec", &namespace.0];
    let mut child = command(&prefix, "helper_process", role, "").spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("not done within 60 s");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "failed in its namespace, see above");
}

/// Kills what is established towards or from `port`; how many sockets that were.
fn kill_all(port: u16) -> usize {
    let filter = format!("( sport = :{port} or dport = :{port} )");
    let out = run("ss", &["-H", "-t", "-K", "state", "established", &filter]).unwrap();
    out.lines().filter(|line| line.contains(':')).count()
}

/// Kills whenever so many more bytes have come, until `work` is done.
fn while_killing(streams: [&VirtualStream; 2], every: u64, work: impl FnOnce()) -> usize {
    let port = streams[0].peer_addr().unwrap().port();
    let (stop, killed) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let moved = streams.iter().map(|stream| stream.info().unwrap().received).sum();
                if moved >= last + every {
                    last = moved;
                    killed.fetch_add(kill_all(port), Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let _stop = StopOnDrop(&stop);
        work();
    });
    killed.load(Ordering::Relaxed)
}

/// What runs in the namespace.
#[test]
fn helper_process() {
    let Some((role, _)) = role() else { return };
    begin();
    let bind = if role.ends_with('6') { "[::1]:0" } else { "127.0.0.1:0" };
    let listener = VirtualListener::bind_with(bind, quick()).unwrap();
    let addr = listener.local_addr().unwrap();
    let client = VirtualStream::connect_with(addr, quick()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let (up, down) = (data(1, 48 * MIB), data(2, 48 * MIB));
    let converse_as = |how| {
        std::thread::scope(|scope| {
            let at_server = scope.spawn(|| converse(how, &server, &down));
            assert!(converse(how, &client, &up) == down, "the client's bytes differ");
            assert!(at_server.join().unwrap() == up, "the server's bytes differ");
        });
    };
    let killed =
        while_killing([&client, &server], 6 * MIB as u64, || match role.trim_end_matches('6') {
            "blocking" => exchange(&client, &server, &up, &down),
            "level" => converse_as(How::Level),
            "edge" => converse_as(How::Edge),
            "poll" => converse_as(How::Poll),
            "select" => converse_as(How::Select),
            other => panic!("no role {other}"),
        });
    assert!(killed >= 4, "only {killed} sockets were killed");
    assert!(client.info().unwrap().resumes >= 3);
}

#[test]
fn blocking_streams_survive_the_kernels_kills() {
    in_namespace("blocking");
}

#[test]
fn blocking_streams_over_ipv6_survive_the_kernels_kills() {
    in_namespace("blocking6");
}

#[test]
fn level_triggered_epoll_survives_the_kernels_kills() {
    in_namespace("level");
}

#[test]
fn edge_triggered_epoll_survives_the_kernels_kills() {
    in_namespace("edge");
}

#[test]
fn poll_survives_the_kernels_kills() {
    in_namespace("poll");
}

#[test]
fn select_survives_the_kernels_kills() {
    in_namespace("select");
}
