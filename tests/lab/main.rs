//! The fault lab: programs of ours on a client's and a server's host, with a router between them,
//! all in network namespaces of the lab's own, and each fault that a real network has made once.
//!
//! `EVERSOCK_LAB_TABLE=1 cargo test -p eversock --test lab -- --nocapture` prints the table of
//! docs/TESTING.md; `EVERSOCK_LAB_ROW=haproxy` plays only the rows that are named so.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

#[path = "../common/mod.rs"]
mod common;
mod network;
mod program;
mod rows;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::child::role;
use common::netns::skip;
use network::{Net, Program, Told, wait_for};
use program::{SESSIONS, now};
use rows::{ROWS, Row};

/// Rows that are played at the same time.
const AT_ONCE: usize = 3;
/// A program is said to have seen a pause from here on; less is what two busy processors do.
const PAUSE_MICROS: u64 = 250_000;
/// Bytes flow again at the latest so long after the fault was healed.
const RECOVERY_MAX: Duration = Duration::from_secs(10);

/// What is to become of the sessions of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// They go on over another connection.
    Resumed,
    /// They go on, over another connection or the same.
    Carried,
    /// They fail, and the programs see this.
    Failed(&'static [&'static str]),
}

/// A row while it is played.
pub(crate) struct Lab {
    // Dropped in this order: the programs before what they run in.
    pub(crate) client: Program,
    pub(crate) server: Program,
    pub(crate) net: Net,
    begun: u64,
    /// From here on it is counted how long it takes, and bytes written since here count.
    from: u64,
    fresh: u64,
}

impl Lab {
    /// The fault begins.
    pub(crate) fn begin(&mut self) {
        self.begun = now();
    }

    /// The fault is over: from now on the time is counted.
    pub(crate) fn healed(&mut self) {
        self.from = now();
        self.fresh = self.from;
    }

    /// The fault has no duration: the time is counted from its begin.
    pub(crate) fn was_at_once(&mut self) {
        self.from = self.begun;
        self.fresh = now();
    }

    /// Waits until each end of each session has told its program an error.
    pub(crate) fn wait_for_errors(&self) {
        for (name, _) in SESSIONS {
            for program in [&self.client, &self.server] {
                wait_for("the program is told an error", || {
                    program.look(|told| failure(told, name).is_some())
                });
            }
        }
    }
}

/// What a row gave.
struct Figures {
    lasts: u64,
    /// Until bytes flowed again both ways, for each session.
    recovered: [Option<u64>; 2],
    resumes: u64,
    saw: String,
}

/// Plays one row; panics when it is not as it is to be.
fn play(row: &Row) -> Figures {
    let mut net = Net::new().unwrap();
    (row.prepare)(&mut net);
    let mut server = net.program("server", "0.0.0.0", row.announces, row.habits);
    server.wait_for_word("listening");
    let mut client = net.program("client", row.dials.0, row.dials.1, row.habits);
    client.wait_for_word("ready");
    server.wait_for_word("ready");
    let mut lab = Lab { client, server, net, begun: 0, from: 0, fresh: 0 };
    let played = catch_unwind(AssertUnwindSafe(|| {
        // All four directions flow before anything goes wrong.
        let start = now();
        flows_from(&lab, start);
        (row.fault)(&mut lab);
        judge(&mut lab, row.outcome)
    }));
    played.unwrap_or_else(|panic| {
        let text = format!("{}:\n{}", row.name, lab.net.logs());
        let _gone = std::io::stderr().write_all(text.as_bytes());
        std::panic::resume_unwind(panic);
    })
}

/// Waits until bytes that were written since then have arrived, at both ends of each session; when
/// that was.
fn flows_from(lab: &Lab, since: u64) -> [u64; 2] {
    SESSIONS.map(|(name, _)| {
        let ends = [&lab.client, &lab.server].map(|program| {
            let mut at = None;
            wait_for("bytes flow", || {
                at = program.look(|told| {
                    assert!(told.errors.is_empty(), "told an error: {:?}", told.errors);
                    assert!(!told.words.iter().any(|word| word.starts_with("wrong")));
                    let fresh = |read: &&(String, u64, u64, u64)| read.0 == name && read.3 >= since;
                    told.reads.iter().find(fresh).map(|read| read.1)
                });
                at.is_some()
            });
            at.unwrap()
        });
        ends[0].max(ends[1])
    })
}

fn judge(lab: &mut Lab, outcome: Outcome) -> Figures {
    let lasts = lab.from - lab.begun;
    if let Outcome::Failed(expected) = outcome {
        let saw = [&lab.client, &lab.server].map(|program| {
            program.look(|told| {
                assert!(!told.words.iter().any(|word| word.starts_with("wrong")));
                SESSIONS.map(|(name, _)| failure(told, name).unwrap())
            })
        });
        let [client, server] = saw.map(|[direct, pumped]| format!("{direct}, pumped {pumped}"));
        let saw = format!("an error; client: {client}; server: {server}");
        assert!(expected.contains(&saw.as_str()), "{saw}; expected one of {expected:?}");
        return Figures { lasts, recovered: [None; 2], resumes: 0, saw };
    }
    let recovered = flows_from(lab, lab.fresh).map(|at| at.saturating_sub(lab.from));
    let slowest = Duration::from_micros(recovered[0].max(recovered[1]));
    assert!(slowest < RECOVERY_MAX, "bytes flowed again only after {slowest:?}");
    lab.client.order("tell");
    lab.client.wait_for_word("told");
    let resumes = lab.client.look(|told| told.resumes.clone());
    assert_eq!(resumes.len(), SESSIONS.len(), "{resumes:?}");
    if outcome == Outcome::Resumed {
        assert!(resumes.iter().all(|(_, n)| *n > 0), "the fault hit nothing: {resumes:?}");
    }
    for program in [&mut lab.client, &mut lab.server] {
        program.order("stop");
    }
    for program in [&mut lab.client, &mut lab.server] {
        program.wait_for_word("done");
        program.wait_for_end();
    }
    let (client, server) = (lab.client.look(Told::clone), lab.server.look(Told::clone));
    for (name, _) in SESSIONS {
        for (from, to) in [(&client, &server), (&server, &client)] {
            let sent = end_of(from, "sent", name);
            assert!(sent[0] != "0" && sent == end_of(to, "got", name), "the bytes differ");
        }
    }
    let begun = lab.begun;
    let all = client.reads.iter().chain(&server.reads).filter(|read| read.1 >= begun);
    let latest = all.map(|read| read.1 - read.2).max().unwrap();
    let saw = match latest {
        ..PAUSE_MICROS => "nothing".to_owned(),
        _ => format!("a pause of {}", seconds(latest)),
    };
    let recovered = recovered.map(Some);
    Figures { lasts, recovered, resumes: resumes.iter().map(|(_, n)| *n).max().unwrap(), saw }
}

/// The error that a session fails with. It is told once, to whichever thread comes first; after
/// that a read gives 0 and a write EPIPE, as on a TCP connection that has failed; of two threads
/// the one that got EPIPE may be the first to say so.
fn failure(told: &Told, name: &str) -> Option<String> {
    let is_it = |error: &&[String; 3]| error[0] == name && error[2] != "EPIPE";
    told.errors.iter().find(is_it).map(|error| error[2].clone())
}

/// How many bytes one end of a session sent or got, and their digest.
fn end_of(told: &Told, what: &str, name: &str) -> [String; 2] {
    let one = told.ends.iter().find(|end| end[0] == what && end[1] == name);
    let one = one.unwrap_or_else(|| panic!("nothing {what} over {name}: {:?}", told.errors));
    [one[2].clone(), one[3].clone()]
}

fn seconds(micros: u64) -> String {
    let millis = micros / 1_000;
    format!("{}.{:02} s", millis / 1_000, millis % 1_000 / 10)
}

fn line(row: &Row, figures: &Figures) -> String {
    let lasts = if figures.lasts == 0 { "-".to_owned() } else { seconds(figures.lasts) };
    let [direct, pumped] =
        figures.recovered.map(|took| took.map_or_else(|| "never".to_owned(), seconds));
    let (name, resumes, saw) = (row.name, figures.resumes, &figures.saw);
    format!("| {name} | {lasts} | {direct} | {pumped} | {resumes} | {saw} |")
}

/// What of the programs is not there.
fn missing(needs: &[&str]) -> Vec<String> {
    let there = |name: &&&str| {
        let mut shell = Command::new("/bin/sh");
        shell.env("PATH", path()).args(["-c", "command -v \"$0\" >/dev/null", name]);
        shell.status().is_ok_and(|status| status.success())
    };
    needs.iter().filter(|name| !there(name)).map(|name| (*name).to_owned()).collect()
}

fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// What runs on a host of the lab.
#[test]
fn helper_process() {
    let Some((role, argument)) = role() else { return };
    common::begin();
    program::play(&role, &argument);
}

#[test]
fn bytes_survive_every_fault_of_the_lab() {
    // SAFETY: a call without arguments.
    if unsafe { libc::geteuid() } != 0 {
        return skip("lab", "it makes network namespaces: run as root");
    }
    let absent = missing(&["ip", "ss", "nft", "setpriv", "sysctl"]);
    if !absent.is_empty() {
        return skip("lab", &format!("not installed: {}", absent.join(", ")));
    }
    let only = std::env::var("EVERSOCK_LAB_ROW").unwrap_or_default();
    let rows: Vec<_> = ROWS.iter().filter(|row| row.name.contains(&only)).collect();
    let (next, lines, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let absent = missing(row.needs);
                    if !absent.is_empty() {
                        skip("lab", &format!("{}: no {}", row.name, absent.join(", ")));
                        continue;
                    }
                    match catch_unwind(AssertUnwindSafe(|| play(row))) {
                        Ok(figures) => lines.lock().unwrap().push(line(row, &figures)),
                        Err(_told) => failed.lock().unwrap().push(row.name),
                    }
                }
            });
        }
    });
    if std::env::var_os("EVERSOCK_LAB_TABLE").is_some() {
        println!("{BEGIN}\n{HEAD}");
        let mut lines = lines.into_inner().unwrap();
        lines.sort_by_key(|line| ROWS.iter().position(|row| line.starts_with(&name_cell(row))));
        println!("{}\n{END}", lines.join("\n"));
    }
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "these failed, see above: {failed:#?}");
}

const BEGIN: &str = "<!-- lab: begin -->";
const END: &str = "<!-- lab: end -->";
const HEAD: &str = "\
| fault | lasts | bytes flow again: direct | pumped | resumes | the program saw |
|---|---|---|---|---|---|";

fn name_cell(row: &Row) -> String {
    format!("| {} |", row.name)
}

#[test]
fn the_labs_table_in_the_document_has_its_rows_and_no_others() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/TESTING.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split_once(BEGIN).unwrap().1.split_once(END).unwrap().0;
    let rows = table.trim().strip_prefix(HEAD).expect("the head of the table").trim();
    let rows: Vec<_> = rows.lines().collect();
    assert_eq!(rows.len(), ROWS.len(), "run the lab with EVERSOCK_LAB_TABLE=1 and take its table");
    for (line, row) in rows.iter().zip(ROWS) {
        assert!(line.starts_with(&name_cell(row)), "{line} is not the row {}", row.name);
    }
}
