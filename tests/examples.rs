//! The examples do what they say, over a network that cuts their connections.
//!
//! `cargo test` builds them beside the tests; `cargo test --test examples` alone does not: then run
//! `cargo build --examples` first.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use eversock_chaos::{Config as ProxyConfig, Fault, Plan, Proxy, Target};

const LIMIT: Duration = Duration::from_secs(40);

/// An example that runs; ended when dropped.
struct Example {
    name: &'static str,
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Example {
    fn start(name: &'static str, args: &[&str]) -> Self {
        // target/debug/deps/examples-1234: the examples are in target/debug/examples.
        let test = std::env::current_exe().unwrap();
        let path = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
        assert!(path.exists(), "no {}: run `cargo build --examples`", path.display());
        let mut process = Command::new(path)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { name, process, output }
    }

    /// Where a server says that it listens: its first line.
    fn addr(&mut self) -> SocketAddr {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let addr = line.trim_end().strip_prefix("listening on ").map(str::parse);
        addr.unwrap_or_else(|| panic!("{} says {line:?}", self.name)).unwrap()
    }

    /// Waits for its good end, meanwhile doing something now and then; gives what it printed.
    fn finish(mut self, mut meanwhile: impl FnMut()) -> String {
        let until = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "{} did not end in {LIMIT:?}", self.name);
            sleep(Duration::from_millis(50));
            meanwhile();
        };
        let mut output = String::new();
        self.output.read_to_string(&mut output).unwrap();
        assert!(status.success(), "{} ended with {status}: {output}", self.name);
        output
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The number before " resumes" in an example's output.
fn resumes(output: &str) -> u32 {
    let before = output.split(" resumes").next().unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("no count in {output}"))
}

#[test]
fn echo_survives_resets() {
    common::begin();
    let mut server = Example::start("echo_server", &["127.0.0.1:0"]);
    let proxy = common::proxy_to(server.addr());
    let addr = proxy.local_addr().to_string();
    let client = Example::start("echo_client", &[&addr, "hello", "100"]);
    let mut rounds = 0;
    let output = client.finish(|| {
        rounds += 1;
        if rounds % 4 == 0 {
            proxy.inject(Fault::Reset, Target::All).unwrap();
        }
    });
    assert!(output.contains("hello came back 100 times"), "{output}");
    assert!(resumes(&output) > 0, "nothing was cut: {output}");
}

#[test]
fn tokio_serves_sessions() {
    let output = Example::start("tokio_echo", &["3"]).finish(|| ());
    assert!(output.contains("3 clients"), "{output}");
}

#[cfg(feature = "dedup")]
#[test]
fn a_hundred_connections_to_four_addresses_share_a_session() {
    let output = Example::start("four_addresses", &[]).finish(|| ());
    assert_eq!(output.lines().filter(|line| line.contains(" active ")).count(), 100, "{output}");
    assert!(output.contains("100 connections over 1 session\n"), "{output}");
    assert!(output.contains("102 connections over 1 session\n"), "{output}");
}

#[cfg(feature = "controller")]
#[test]
fn a_device_whose_controller_ends_is_served_by_the_other_one() {
    let output = Example::start("controller_device", &[]).finish(|| ());
    assert!(output.contains("\nlamp is asked by south: on!\n"), "{output}");
    assert!(output.ends_with("\nsouth serves lamp, since north has gone\n"), "{output}");
}

#[cfg(feature = "spool")]
#[test]
fn no_write_is_refused_while_the_main_server_changes() {
    let output = Example::start("spool_sender", &[]).finish(|| ());
    assert!(output.contains("100 writes acknowledged: "), "{output}");
    assert!(!output.contains(": 0 spooled"), "{output}");
    assert!(output.ends_with("a read finds all 101 writes, each once and in order\n"), "{output}");
}

#[test]
fn a_file_arrives_whole_over_a_line_that_is_cut() {
    common::begin();
    let dir = Scratch::new();
    let (original, copy) = (dir.0.join("original"), dir.0.join("copy"));
    std::fs::write(&original, common::data(7, 8 << 20)).unwrap();
    let mut receiver =
        Example::start("file_transfer", &["receive", "127.0.0.1:0", copy.to_str().unwrap()]);
    let plan = Plan::parse("every 1MiB reset").unwrap();
    let config = ProxyConfig::new(([127, 0, 0, 1], 0).into(), receiver.addr()).with_plan(plan);
    let proxy = Proxy::spawn(config).unwrap();
    let addr = proxy.local_addr().to_string();
    let sender = Example::start("file_transfer", &["send", &addr, original.to_str().unwrap()]);
    let output = sender.finish(|| ());
    receiver.finish(|| ());
    assert!(resumes(&output) > 0, "nothing was cut: {output}");
    assert!(std::fs::read(original).unwrap() == std::fs::read(copy).unwrap(), "the files differ");
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("eversock-examples-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}
