//! `evs demo`: the result as JSON and as a table.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::fs;

use common::{Place, wait_for};
use serde_json::Value;

fn survives(mode: &str) {
    let place = Place::new();
    let args = ["demo", "--size", "2MiB", "--cuts", "5", "--mode", mode, "--timeout", "60s"];
    let done = place.run(&[&args[..], &["--json"]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.stdout.lines().count(), 1, "{done:?}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let mut keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = [
        "bytes",
        "cuts",
        "intact",
        "longest_stall_ms",
        "plain_tcp",
        "replayed_bytes",
        "resumes",
        "sha256_received",
        "sha256_sent",
    ];
    assert_eq!(keys, expected);
    assert_eq!(report["bytes"], 4 << 20);
    assert_eq!(report["cuts"], 5);
    assert!(report["resumes"].as_u64().unwrap() >= 1, "{report}");
    assert!(report["replayed_bytes"].is_u64() && report["longest_stall_ms"].is_u64(), "{report}");
    assert_eq!(report["sha256_sent"].as_str().unwrap().len(), 64);
    assert_eq!(report["sha256_sent"], report["sha256_received"]);
    assert_eq!(report["intact"], true);
    let plain = &report["plain_tcp"];
    assert_eq!(plain["intact"], false);
    assert!(plain["bytes"].as_u64().unwrap() < 4 << 20, "{report}");
    assert!(!plain["error"].as_str().unwrap().is_empty());
}

#[test]
fn a_direct_session_survives_what_plain_tcp_does_not() {
    survives("direct");
}

#[test]
fn a_pumped_session_survives_what_plain_tcp_does_not() {
    survives("pumped");
}

#[test]
fn the_result_is_shown_as_a_table() {
    let done = Place::new().run(&["demo", "--size", "1MiB", "--cuts", "3", "--timeout", "60s"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    for word in ["plain TCP", "eversock (direct)", "longest stall", "broken", "intact"] {
        assert!(done.stdout.contains(word), "{word}: {done:?}");
    }
    assert_eq!(done.stderr.matches("  cut ").count(), 4, "{done:?}");
}

#[test]
fn without_cuts_both_arrive() {
    let done = Place::new().run(&["demo", "--size", "300000", "--cuts", "0", "--json"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&report["bytes"], &report["cuts"]), (&600_000.into(), &0.into()));
    assert_eq!(report["plain_tcp"]["intact"], true);
    assert_eq!(report["plain_tcp"]["error"], Value::Null);
}

#[test]
fn cuts_that_do_not_fit_are_a_wrong_usage() {
    let done = Place::new().run(&["demo", "--size", "64K", "--cuts", "50"]);
    assert_eq!(done.code, Some(2));
    assert!(done.stderr.contains("at least 1.6 MiB"), "{done:?}");
    let done = Place::new().run(&["demo", "--size", "many"]);
    assert_eq!(done.code, Some(2));
    assert!(done.stderr.contains("256MiB"), "{done:?}");
}

#[test]
fn a_demo_that_takes_too_long_says_so_and_leaves_no_process() {
    let place = Place::new();
    let done = place.run(&["demo", "--size", "64GiB", "--cuts", "1", "--timeout", "1s", "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("not finished after"), "{done:?}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["intact"], false);
    wait_for("no process has its environment any more", || {
        let mark = format!("XDG_RUNTIME_DIR={}\0", place.sockets().parent()?.display());
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let environments =
            processes.filter_map(|entry| fs::read(entry.path().join("environ")).ok());
        let holds = |text: Vec<u8>| text.windows(mark.len()).any(|part| part == mark.as_bytes());
        (!environments.into_iter().any(holds)).then_some(())
    });
}
