//! `evs bench`: one cheap measurement from its two processes to the page. No time is asserted.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Place, wait_for};
use serde_json::Value;

/// The rows of `open-close`, of which plain TCP is the reference.
const ROWS: [&str; 3] = ["open-close plain", "open-close direct", "open-close pumped"];

#[test]
fn one_measurement_gives_every_row_as_json_and_writes_the_page_and_its_plot() {
    let place = Place::new();
    let docs = place.file("docs");
    let folder = docs.to_str().unwrap();
    let args = ["bench", "--quick", "--only", "open-close", "--json", "--write", folder];
    let output = place.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    let whole: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(whole["quick"], true);
    assert!(whole["machine"].as_str().unwrap().contains("Linux"), "{whole}");
    let rows = whole["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ROWS);
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
    for row in rows {
        assert_eq!(row["unit"], "1/s");
        let (least, value, most) = (number(row, "min"), number(row, "value"), number(row, "max"));
        assert!(0.0 < least && least <= value && value <= most, "{row}");
    }
    let (plain, direct) = (&rows[0], &rows[1]);
    assert!(plain["reference"].is_null() && plain["met"].is_null(), "{plain}");
    assert_eq!(direct["reference"], plain["value"]);
    let ratio = number(direct, "value") / number(plain, "value");
    assert!((number(direct, "ratio") - ratio).abs() < 1e-9, "{direct}");
    assert_eq!(direct["goal"], ">= 0.50 x plain");
    assert_eq!(direct["met"], ratio >= 0.5);

    let page = std::fs::read_to_string(docs.join("BENCHMARKS.md")).unwrap();
    let command =
        format!("- command: `evs bench --quick --json --only open-close --write {folder}`");
    for part in [command.as_str(), "![Opening and closing](bench/open-close.svg)", "A quick run"] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    for name in ROWS {
        assert!(page.contains(&format!("\n| {name} | ")), "{name}\n{page}");
    }
    let plot = std::fs::read_to_string(docs.join("bench/open-close.svg")).unwrap();
    assert!(plot.contains("open-close direct"), "{plot}");
}

/// Fronts, servers, spools and a PostgreSQL of the measurements' own.
#[test]
fn a_spool_is_measured_and_held_against_databases() {
    let place = Place::new();
    let folder = place.file("tmp");
    std::fs::create_dir_all(&folder).unwrap();
    let args = ["bench", "--quick", "--repeat", "1", "--only", "spool", "--json"];
    let output = place.command(&args).env("TMPDIR", &folder).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let whole: Value = serde_json::from_slice(&output.stdout).unwrap();
    let skipped = whole["skipped"].to_string();
    let has_postgres = !skipped.contains("spool-writes on PostgreSQL");
    assert!(has_postgres || std::env::var_os("CI").is_none(), "{skipped}");
    let row = |name: &str| {
        let rows = whole["rows"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {whole}"))
    };
    for name in ["single PostgreSQL commits", "front on PostgreSQL of 64"] {
        if has_postgres {
            assert!(row(&format!("spool-writes {name}"))["value"].as_f64().unwrap() > 0.0);
        }
    }
    // Each with what it is held against.
    for (name, reference, goal) in [
        ("writes front of 1", "writes single SQLite commits", Value::Null),
        ("writes front of 8", "writes single SQLite commits", Value::Null),
        (
            "writes front of 64",
            "writes single SQLite commits",
            ">= 5.00 x single SQLite commits".into(),
        ),
        ("drain into a server with a ledger", "drain single commits of the backend", Value::Null),
        ("drain into one that does nothing", "drain single commits of the backend", Value::Null),
        ("restart first record 5000", "restart first record 100", "<= 2 s".into()),
        ("restart memory 5000", "restart memory 100", "<= 1.50 x 100 records".into()),
        ("isolation p99 normal other full", "isolation p99 normal alone", "<= 1.20 x alone".into()),
        (
            "isolation p99 spooling other flooded",
            "isolation p99 spooling alone",
            "<= 1.20 x alone".into(),
        ),
    ] {
        let (row, reference) = (row(&format!("spool-{name}")), row(&format!("spool-{reference}")));
        assert!(row["value"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["reference"], reference["value"], "{row}");
        assert_eq!(row["goal"], goal, "{row}");
    }
}

/// Controllers, devices and floods in processes of their own.
#[test]
fn controllers_are_measured_and_held_against_databases_and_themselves() {
    let place = Place::new();
    let folder = place.file("tmp");
    std::fs::create_dir_all(&folder).unwrap();
    let args = ["bench", "--quick", "--repeat", "1", "--only", "controller", "--json"];
    let output = place.command(&args).env("TMPDIR", &folder).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let whole: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = |name: &str| {
        let rows = whole["rows"].as_array().unwrap();
        let is_it = |row: &&Value| row["name"] == format!("controller-{name}");
        rows.iter().find(is_it).unwrap_or_else(|| panic!("{name}: {whole}"))
    };
    // Each with what it is held against.
    for (name, reference, goal) in [
        ("registrations of 1", "registrations single SQLite commits", Value::Null),
        ("registrations of 64", "registrations single SQLite commits", Value::Null),
        ("updates p99 1000/s", "updates p99 idle", Value::Null),
        (
            "isolation registrations p99 other flooded",
            "isolation registrations p99 alone",
            "<= 1.20 x alone".into(),
        ),
        (
            "isolation requests p99 other flooded",
            "isolation requests p99 alone",
            "<= 1.20 x alone".into(),
        ),
        ("isolation requests p99 nobody flooded", "isolation requests p99 alone", Value::Null),
        (
            "storm 300 handshakes p99 during",
            "storm 300 handshakes p99 before",
            "<= 2.00 x before".into(),
        ),
        (
            "storm 300 requests p99 during",
            "storm 300 requests p99 before",
            "<= 2.00 x before".into(),
        ),
        ("bulk records 22000", "bulk records 11000", Value::Null),
    ] {
        let (row, reference) = (row(name), row(reference));
        assert!(row["value"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["reference"], reference["value"], "{row}");
        assert_eq!(row["goal"], goal, "{row}");
    }
    for who in ["donor", "joiner"] {
        // Nothing to be held against where the fewer records took no memory at all.
        let row = row(&format!("bulk memory of the {who} 22000"));
        assert_eq!(row["unit"], "MiB", "{row}");
        assert!(row["goal"].as_str().unwrap().starts_with("<= 1.50 x "), "{row}");
    }
    // A flood is no business of others.
    let away = row("isolation own devices told to come again, flooded");
    assert_eq!(away["value"], 0.0, "{away}");
    assert!(row("isolation flood, answers")["value"].as_f64().unwrap() > 0.0);
    assert_eq!(row("storm 300 attempts that failed")["value"], 0.0);
}

#[test]
fn the_table_names_every_row_and_says_that_a_quick_run_is_quick() {
    let output =
        Place::new().command(&["bench", "--quick", "--only", "open-close"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for name in ROWS {
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}\n{text}");
    }
    assert!(text.contains("not how fast it is"), "{text}");
}

#[test]
fn a_name_that_no_measurement_has_is_wrong_usage_and_the_list_has_those_there_are() {
    let place = Place::new();
    let output = place.command(&["bench", "--only", "open-shut"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("open-shut"), "{output:?}");
    let list = place.command(&["bench", "--list"]).output().unwrap();
    let names = String::from_utf8(list.stdout).unwrap();
    // The documentation names these.
    for name in [
        "stream-64KiB",
        "round-trip-64B",
        "preload-stream",
        "memory",
        "open-close",
        "spool-writes",
        "spool-drain",
        "spool-restart",
        "spool-isolation",
        "controller-registrations",
        "controller-updates",
        "controller-isolation",
        "controller-storm",
        "controller-bulk",
    ] {
        assert!(names.lines().any(|line| line == name), "{name}\n{names}");
    }
}

#[test]
fn a_page_that_cannot_be_written_is_said_before_anything_is_measured() {
    let place = Place::new();
    let file = place.file("file");
    std::fs::write(&file, "").unwrap();
    let folder = file.to_str().unwrap();
    let args = ["bench", "--quick", "--only", "open-close", "--write", folder];
    let output = place.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(folder), "{output:?}");
}

/// What the kernel says of a process, from its state on; none if there is no such process.
fn status(process: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// The processes that this one has started.
fn children(of: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| status(*id).is_some_and(|words| words[1] == of.to_string())).collect()
}

/// Its peers waited for each other, through a proxy that was gone with it, until their grace ended.
#[test]
fn a_run_that_is_killed_leaves_no_process_behind() {
    const BUSY_TICKS: u64 = 10;
    let place = Place::new();
    let mut command = place.command(&["bench", "--quick", "--only", "stall-busy"]);
    let mut bench = command.stdout(Stdio::null()).spawn().unwrap();
    let (user, system) = (11, 12);
    let is_busy = |id: &u32| {
        let words = status(*id).unwrap_or_default();
        let ticks = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0);
        ticks(user) + ticks(system) >= BUSY_TICKS
    };
    let peers = wait_for("both peers are in the midst of it", || {
        let peers = children(bench.id());
        (peers.len() == 2 && peers.iter().all(is_busy)).then_some(peers)
    });
    bench.kill().unwrap();
    bench.wait().unwrap();
    // Well before a peer would give the other up.
    let until = Instant::now() + Duration::from_secs(10);
    let is_alive = |id: &u32| status(*id).is_some_and(|words| words[0] != "Z");
    while let Some(left) = peers.iter().find(|id| is_alive(id)) {
        assert!(Instant::now() < until, "process {left} is left");
        std::thread::sleep(Duration::from_millis(5));
    }
}
