//! `evs load`: a load through cuts and churn is verified at both ends, and what is wrong is found.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use common::{Done, Place};
use serde_json::Value;

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} of {value}"))
}

fn summary(done: &Done) -> Value {
    serde_json::from_str(done.stdout.trim()).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

/// What must hold of each load by itself that met nothing but what it brought about.
fn is_consistent(summary: &Value, sessions: u64) {
    assert_eq!(summary["ok"], true, "{summary}");
    assert_eq!(summary["errors"].as_array().unwrap().len(), 0, "{summary}");
    let of = |key| number(summary, key);
    assert_eq!((of("failed"), of("mismatches")), (0, 0), "{summary}");
    assert_eq!(of("opened"), of("closed"), "{summary}");
    assert!(of("opened") >= sessions && of("sent_bytes") > 0, "{summary}");
    assert_eq!(of("sent_bytes"), of("verified_bytes"), "{summary}");
    assert_eq!(of("sent_bytes"), of("verified_bytes_far"), "{summary}");
    let trips = &summary["round_trips"];
    let ranks = ["p50_us", "p99_us", "p999_us", "max_us"].map(|key| number(trips, key));
    assert!(number(trips, "count") > 0 && ranks[0] > 0 && ranks.is_sorted(), "{summary}");
    let names: Vec<&str> = summary["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|process| {
            for at in ["first_quarter", "end"] {
                let held = &process[at];
                assert!(number(held, "memory_bytes") > 0, "{summary}");
                assert!(number(held, "descriptors") > 3, "{summary}");
            }
            process["name"].as_str().unwrap()
        })
        .collect();
    assert_eq!(names, ["client", "server", "proxy"], "{summary}");
}

#[test]
fn a_load_through_cuts_and_churn_is_verified_at_both_ends() {
    let args = "load --sessions 40 --seconds 4 --rate 50 --cuts 30 --churn 10 --json --live \
                --message-bytes 64:9,1KiB-64KiB";
    let done = Place::new().run(&args.split_whitespace().collect::<Vec<_>>());
    assert_eq!(done.code, Some(0), "{done:?}");
    let summary = summary(&done);
    is_consistent(&summary, 40);
    let of = |key| number(&summary, key);
    // Far fewer than were asked for on a busy machine, but some.
    assert!(of("cuts") >= 3 && of("resumes") > 0, "{summary}");
    assert!(of("opened") > 40 && of("elapsed_ms") >= 4000, "{summary}");
    assert!(done.stderr.contains(" trips/s  "), "{done:?}");
}

#[test]
fn pumped_and_sealed_sessions_with_a_key_are_loaded_too() {
    let place = Place::new();
    let key = place.file("key");
    let key = key.to_str().unwrap();
    assert_eq!(place.run(&["keygen", key]).code, Some(0));
    let args = ["load", "--sessions", "10", "--seconds", "2", "--rate", "0", "--cuts", "5"];
    let more = ["--message-bytes", "100KiB", "--json", "--mode", "pumped", "--sealed"];
    let done = place.run(&[&args[..], &more, &["--key", key]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    let summary = summary(&done);
    is_consistent(&summary, 10);
    assert_eq!(summary["mode"], "pumped");
}

/// Ends a command as a user does at a terminal.
fn interrupt(process: &Child) {
    let killed = Command::new("kill").args(["-INT", &process.id().to_string()]).status();
    assert!(killed.unwrap().success());
}

/// A load of single sessions, one after the other, through a proxy that does `fault` to each; gives
/// what both ends had to say.
fn load_through(fault: &str) -> (Done, Value) {
    let place = Place::new();
    let mut far = place.start(&["load", "--serve", "127.0.0.1:0", "--json"]);
    let upstream = far.addr().to_string();
    let chaos = ["chaos", "--listen", "127.0.0.1:0", "--upstream", &upstream, "--json"];
    let proxy = place.start(&[&chaos[..], &["-e", fault]].concat());
    let to = proxy.addr().to_string();
    let args = ["load", "--connect", &to, "--sessions", "1", "--seconds", "2", "--rate", "0"];
    let done = place.run(&[&args[..], &["--message-bytes", "64KiB", "--json"]].concat());
    interrupt(&far.child);
    let (code, lines) = far.wait();
    let said: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!(code == Some(0), said["failed"] == 0, "{said}");
    (done, said)
}

/// The offset that the first error names behind these words.
fn offset(said: &Value, words: &str) -> u64 {
    let error = said["errors"][0].as_str().unwrap();
    let rest = error.strip_prefix(words).unwrap_or_else(|| panic!("{error}"));
    rest.split(':').next().unwrap().parse().unwrap()
}

/// The damaged byte of the connection lies behind a handshake and the first frame's header.
const DAMAGED: u64 = 5000;
const BEFORE_PAYLOAD: u64 = 1000;

#[test]
fn a_byte_that_is_damaged_on_its_way_up_is_named_by_the_far_side_and_fails_the_load() {
    let (done, far) = load_through(&format!("each after {DAMAGED} up flip bit 3"));
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(number(&summary(&done), "failed") > 0, "{done:?}");
    assert!(number(&far, "mismatches") > 0, "{far}");
    let at = offset(&far, "session 1, up, offset ");
    assert!((DAMAGED - BEFORE_PAYLOAD..DAMAGED).contains(&at), "{far}");
}

#[test]
fn a_byte_that_is_damaged_on_its_way_down_is_named_and_fails_the_load() {
    let (done, far) = load_through(&format!("each after {DAMAGED} down flip bit 3"));
    assert_eq!(done.code, Some(1), "{done:?}");
    let summary = summary(&done);
    assert_eq!(summary["ok"], false, "{summary}");
    assert!(number(&summary, "mismatches") > 0 && number(&far, "mismatches") == 0, "{summary}");
    let at = offset(&summary, "session 1, down, offset ");
    assert!((DAMAGED - BEFORE_PAYLOAD..DAMAGED).contains(&at), "{summary}");
    assert!(done.stderr.contains("session 1, down, offset "), "{done:?}");
}

#[test]
fn a_far_side_that_says_something_else_fails_the_load() {
    let place = Place::new();
    // It gives back what it gets, which is the other stream.
    let echo = place.start(&["hold", "--listen", "127.0.0.1:0"]);
    let to = echo.addr().to_string();
    let done = place.run(&["load", "--connect", &to, "--sessions", "1", "--seconds", "1"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.contains("session 1, down, offset 0: "), "{done:?}");
    assert!(done.stdout.contains("NOT every byte was right"), "{done:?}");
}

#[test]
fn a_load_that_is_interrupted_ends_in_order_with_its_summary() {
    let place = Place::new();
    let args = "load --sessions 20 --seconds 3600 --rate 50 --cuts 10 --churn 5 --json --live";
    let mut command = place.command(&args.split(' ').collect::<Vec<_>>());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut load = command.spawn().unwrap();
    let mut shown = BufReader::new(load.stderr.take().unwrap()).lines().map_while(Result::ok);
    // All are there, and speak.
    assert!(shown.any(|line| line.contains(" of 20 attached") && !line.contains(" 0 trips/s")));
    interrupt(&load);
    // Else it could wait for somebody who reads.
    shown.for_each(drop);
    let done = Done::from(load.wait_with_output().unwrap());
    assert_eq!(done.code, Some(0), "{done:?}");
    let summary = summary(&done);
    assert_eq!(summary["ended_by"], "SIGINT");
    assert_eq!((&summary["ok"], &summary["failed"]), (&true.into(), &0.into()), "{summary}");
    assert_eq!(summary["opened"], summary["closed"], "{summary}");
    assert_eq!(summary["verified_bytes_far"], summary["sent_bytes"], "{summary}");
}

#[test]
fn a_far_side_that_nobody_serves_is_told_with_the_remedy() {
    // Bound and not listening: nobody else can take the port.
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    taken.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let to = taken.local_addr().unwrap().as_socket().unwrap().to_string();
    let done = Place::new().run(&["load", "--connect", &to, "--seconds", "60"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    for part in ["no session can be opened", to.as_str(), "refused", "evs load --serve"] {
        assert!(done.stderr.contains(part), "{part}: {done:?}");
    }
}

#[test]
fn arguments_that_make_no_sense_are_told() {
    let place = Place::new();
    for (args, told) in [
        ("--sessions 0", "--sessions"),
        ("--seconds 0", "--seconds"),
        ("--rate -1", "a rate is a number"),
        ("--cuts many", "a rate is a number"),
        ("--message-bytes 4KiB-64", "the first of two sizes is the smaller one"),
        ("--message-bytes 0", "a message has 1 byte to 64MiB"),
        ("--connect nowhere", "expected HOST:PORT"),
        ("--connect a:1 --serve 127.0.0.1:0", "cannot be used with"),
        ("--serve 127.0.0.1:0 --rate 3", "cannot be used with"),
        ("--serve nowhere", "an address is like"),
        ("--serve 127.0.0.1:0 --accept-new", "belong to --connect"),
        ("--allowed-clients f", "belongs to --serve"),
        ("--identity f", "both sides have the same"),
        ("--mode tunnelled", "tunnelled"),
    ] {
        let words: Vec<&str> = ["load"].into_iter().chain(args.split(' ')).collect();
        let done = place.run(&words);
        assert_eq!(done.code, Some(2), "{args}: {done:?}");
        assert!(done.stderr.contains(told), "{args}: {done:?}");
    }
}
