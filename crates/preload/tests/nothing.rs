//! Programs from the distribution under rules that match nothing: they end and print as without the
//! library.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::servers::{Postgres, folder, nginx, redis, same, start};
use common::{NONE, Program, free_port, have, out_dir};

/// How a program ended: its status, what it printed and what it complained of.
type Outcome = (Option<i32>, String, String);

fn outcome(program: &mut Program) -> Outcome {
    let (status, out, errors) = program.end();
    (status.code(), out, errors)
}

/// Without what differs from run to run: times, processes, ports.
fn without_numbers((status, out, errors): Outcome) -> Outcome {
    let plain = |text: String| {
        let words = text.split(|c: char| c.is_ascii_digit() || c == '.');
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("#")
    };
    (status, plain(out), plain(errors))
}

/// Asks a server to end by a signal.
fn ended_by(server: &mut Program, signal: i32) -> Outcome {
    let id = i32::try_from(server.id()).unwrap();
    // SAFETY: a child that we have not yet waited for.
    unsafe { libc::kill(id, signal) };
    outcome(server)
}

fn assert_same(with: &[Outcome], without: &[Outcome], whose: &str) {
    for (with, without) in with.iter().zip(without) {
        assert_eq!(with, without, "{whose}");
    }
}

#[test]
fn nginx_and_its_clients_do_as_without_the_library() {
    if !have("nginx") || !have("curl") || !have("wget") || !have("socat") {
        return;
    }
    let (folder, file) = folder("nothing", 2);
    let refused = format!("http://127.0.0.1:{}/", free_port());
    let run = |server_rules: Option<&str>, client_rules: Option<&str>| {
        let (mut server, port) = nginx(&folder, 2, server_rules);
        let url = |name: &str| format!("http://127.0.0.1:{port}/{name}");
        let got = folder.join("got");
        let got = got.to_str().unwrap();
        let runs: [&[&str]; 7] = [
            &["curl", "-sS", "-o", got, "-w", "%{http_code} %{size_download}", &url("content")],
            &["curl", "-sS", "-f", &url("absent")],
            &["curl", "-sS", "-f", "-T", got, &url("put/got")],
            &["wget", "-nv", "-O", "/dev/null", &url("absent")],
            &["wget", "-q", "-O", "/dev/null", &url("content")],
            &["curl", "-s", "-o", "/dev/null", &refused],
            &["socat", "-u", "OPEN:/etc/hostname", "TCP:127.0.0.1:1"],
        ];
        let mut outcomes: Vec<Outcome> = runs
            .iter()
            .map(|words| {
                let mut command = Command::new(words[0]);
                without_numbers(outcome(&mut start(command.args(&words[1..]), client_rules)))
            })
            .collect();
        for name in ["got", "put/got"] {
            assert!(same(&folder.join(name), &file), "{name}: the bytes differ");
            fs::remove_file(folder.join(name)).unwrap();
        }
        outcomes.push(without_numbers(ended_by(&mut server, libc::SIGQUIT)));
        let log = folder.join("error.log");
        let said = without_numbers((None, fs::read_to_string(&log).unwrap(), String::new()));
        fs::remove_file(log).unwrap();
        outcomes.push(said);
        outcomes
    };
    let without = run(None, None);
    assert_eq!(without[7].0, Some(0), "nginx: {without:?}");
    assert_same(&run(None, Some(NONE)), &without, "clients");
    assert_same(&run(Some(NONE), None), &without, "server");
}

#[test]
fn redis_and_its_clients_do_as_without_the_library() {
    if !have("redis-server") || !have("redis-cli") || !have("redis-benchmark") {
        return;
    }
    let folder = out_dir().join("redis-nothing");
    let run = |server_rules: Option<&str>, client_rules: Option<&str>| {
        let (mut server, port) = redis(&folder, server_rules);
        let port = port.to_string();
        let client = |name: &str, words: &[&str], input: Stdio| {
            let mut command = Command::new(name);
            command.args(["-p", &port]).args(words).stdin(input);
            outcome(&mut start(&mut command, client_rules))
        };
        let commands = folder.join("commands");
        fs::write(&commands, "INCR piped\r\n".repeat(1000)).unwrap();
        let piped = Stdio::from(fs::File::open(&commands).unwrap());
        let load = ["-n", "2000", "-c", "5", "-t", "incr", "--csv"];
        let mut outcomes = vec![
            client("redis-cli", &["set", "a", "b"], Stdio::null()),
            client("redis-cli", &["get", "a"], Stdio::null()),
            client("redis-cli", &["-e", "nonsense"], Stdio::null()),
            client("redis-cli", &["--pipe"], piped),
            client("redis-cli", &["get", "piped"], Stdio::null()),
            without_numbers(client("redis-benchmark", &load, Stdio::null())),
            client("redis-cli", &["get", "counter:__rand_int__"], Stdio::null()),
            client("redis-cli", &["-p", "1", "ping"], Stdio::null()),
        ];
        outcomes.push(without_numbers(ended_by(&mut server, libc::SIGTERM)));
        outcomes
    };
    let without = run(None, None);
    assert_eq!(without[4].1, "1000\n");
    assert_eq!(without[6].1, "2000\n");
    assert_eq!(without[8].0, Some(0), "redis-server: {:?}", without[8]);
    assert_same(&run(None, Some(NONE)), &without, "clients");
    assert_same(&run(Some(NONE), None), &without, "server");
}

#[test]
fn postgresql_and_its_clients_do_as_without_the_library() {
    let Some(cluster) = Postgres::new("nothing") else { return };
    let port = free_port();
    let run = |server_rules: Option<&str>, client_rules: Option<&str>| {
        let mut server = cluster.serve(port, server_rules);
        let client = |name: &str, words: &[&str]| {
            outcome(&mut start(&mut cluster.client(name, port, words), client_rules))
        };
        let count = "select count(*) from pgbench_history";
        let copy = "copy (select g, md5(g::text) from generate_series(1, 20) g) to stdout";
        let load = ["-c", "2", "-j", "2", "-t", "50", "-n", "postgres"];
        let mut outcomes = vec![
            without_numbers(client("pgbench", &["-i", "-s", "1", "-q", "postgres"])),
            without_numbers(client("pgbench", &load)),
            client("psql", &["-Atc", count, "postgres"]),
            client("psql", &["-Atc", copy, "postgres"]),
            client("psql", &["-Atc", "select nonsense", "postgres"]),
            client("psql", &["-p", "1", "-Atc", "select 1", "postgres"]),
        ];
        // It waits for its backends, of which one may still be leaving; told to end at once, it
        // would say of that one that it was ended.
        outcomes.push(without_numbers(ended_by(&mut server, libc::SIGTERM)));
        outcomes
    };
    // The first time pgbench says that there are no old tables to drop.
    run(None, None);
    let without = run(None, None);
    assert_eq!(without[2].1, "100\n");
    assert_eq!(without[6].0, Some(0), "the server: {:?}", without[6]);
    assert_same(&run(None, Some(NONE)), &without, "clients");
    assert_same(&run(Some(NONE), None), &without, "server");
}
