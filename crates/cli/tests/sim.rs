//! `evs sim`: campaigns and replays as a user calls them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::process::{Command, Output};

use serde_json::Value;

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evs")).arg("sim").args(args).output().unwrap()
}

fn json(args: &[&str]) -> Value {
    let output = sim(&[args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_campaign_is_the_same_whatever_the_number_of_jobs() {
    let one = json(&["--seeds", "60", "--seed-base", "500", "--jobs", "1"]);
    let three = json(&["--seeds", "60", "--seed-base", "500", "--jobs", "3"]);
    assert_eq!(one["seeds"], 60);
    assert_eq!(one["findings"], 0);
    assert_eq!(one["hash"], three["hash"]);
    assert_eq!(one["stats"], three["stats"]);
    assert!(one["stats"]["endings"]["done"].as_u64().unwrap() > 0, "{one}");
    let others = json(&["--seeds", "60", "--seed-base", "501"]);
    assert_ne!(one["hash"], others["hash"]);
}

#[test]
fn a_replay_prints_every_event_and_takes_the_same_steps() {
    let first = sim(&["--replay", "7"]);
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    let text = String::from_utf8(first.stdout).unwrap();
    assert!(text.contains("SYN for session"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("seed 7: ") && last.ends_with(": no finding"), "{last}");
    assert_eq!(sim(&["--replay", "7"]).stdout, text.as_bytes());
    let campaign = json(&["--seeds", "1", "--seed-base", "7"]);
    assert!(last.contains(campaign["hash"].as_str().unwrap()), "{last} {campaign}");
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for args in [&["--replay", "1", "--seeds", "2"][..], &["--jobs", "0"], &["--seeds", "x"]] {
        assert_eq!(sim(args).status.code(), Some(2), "{args:?}");
    }
    let most = u64::MAX.to_string();
    assert_eq!(sim(&["--seed-base", &most, "--seeds", "1000"]).status.code(), Some(2));
}
