//! redis and its clients from the distribution, through cuts.
//!
//! `.ci/run` installs redis-server; elsewhere what is missing is left out, loudly.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::servers::redis;
use common::{ALL, Program, cuts, cutting, have, out_dir, preload, random_file};

const MIB: u64 = 1024 * 1024;
/// Commands that are sent without waiting for an answer.
const PIPED: usize = 500_000;

#[test]
fn redis_keeps_its_clients_through_cuts() {
    if !have("redis-server") || !have("redis-cli") || !have("redis-benchmark") {
        return;
    }
    let folder = out_dir().join("redis");
    let (_server, port) = redis(&folder, Some(ALL));
    let file = folder.join("content");
    random_file(&file, 16);
    let proxy = cutting(port, 2 * MIB);
    let client = |name: &str, arguments: &[&str], input: Stdio| {
        let mut command = Command::new(name);
        command.args(["-p", &proxy.local_addr().port().to_string()]).args(arguments).stdin(input);
        Program::start(preload(&mut command, ALL)).succeed(name)
    };
    let hit = cuts(&proxy, || {
        let input = Stdio::from(fs::File::open(&file).unwrap());
        assert_eq!(client("redis-cli", &["-x", "set", "content"], input), "OK\n");
        let digest = "return redis.sha1hex(redis.call('get','content'))";
        let found = client("redis-cli", &["eval", digest, "0"], Stdio::null());
        let sum = Command::new("sha1sum").arg(&file).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        assert_eq!(found.trim(), sum.split(' ').next().unwrap());
        // Each reply is checked by the program itself; a lost one would stop it for ever.
        let load = ["-n", "100000", "-c", "20", "-P", "16", "-t", "incr", "-q"];
        client("redis-benchmark", &load, Stdio::null());
        let counter = client("redis-cli", &["get", "counter:__rand_int__"], Stdio::null());
        assert_eq!(counter.trim(), "100000", "a command was lost, or came twice");
        // Half a million commands without waiting for an answer in between.
        let commands = folder.join("commands");
        let line = "INCR piped\r\n".repeat(PIPED);
        fs::write(&commands, line).unwrap();
        let input = Stdio::from(fs::File::open(&commands).unwrap());
        let said = client("redis-cli", &["--pipe"], input);
        assert!(said.contains(&format!("errors: 0, replies: {PIPED}")), "{said}");
        let counter = client("redis-cli", &["get", "piped"], Stdio::null());
        assert_eq!(counter.trim(), PIPED.to_string());
    });
    assert!(hit >= 10, "only {hit} cuts");
}

#[test]
fn without_eversock_redis_loses_its_client_at_the_first_cut() {
    if !have("redis-server") || !have("redis-cli") {
        return;
    }
    let folder = out_dir().join("redis-control");
    let (_server, port) = redis(&folder, None);
    let proxy = cutting(port, MIB);
    let commands = folder.join("commands");
    fs::write(&commands, "INCR piped\r\n".repeat(PIPED)).unwrap();
    let mut command = Command::new("redis-cli");
    command.args(["-p", &proxy.local_addr().port().to_string(), "--pipe"]);
    command.stdin(fs::File::open(&commands).unwrap());
    let (status, out, _) = Program::start(&mut command).end();
    let whole = format!("errors: 0, replies: {PIPED}");
    assert!(!status.success() || !out.contains(&whole), "the cut did nothing");
}
