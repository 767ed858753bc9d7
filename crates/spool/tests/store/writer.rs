//! A process that writes a store and says what it was promised, to be killed by its parent.
//!
//! The test binary executes itself: [`a_writer_that_is_let_live`] is the child's `main` where
//! [`ROLE`] is set, and a test of its own where it is not.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use eversock_spool::record::Record;
use eversock_spool::store::postgres::{PostgresConfig, PostgresStore};
use eversock_spool::store::sqlite::SqliteStore;
use eversock_spool::store::{Appended, Batch, Finish, Found, SpoolStore, StoreError};

use crate::common::{Maker, PAIR, ROOMY, SqliteMaker, done, new, payload, places, record};

/// "sqlite PATH FROM COUNT" or "postgres SCHEMA FROM COUNT", fields parted by tabs; the parameters
/// of PostgreSQL come after it.
const ROLE: &str = "EVERSOCK_STORE_ROLE";
/// Where it dies by itself ([`eversock_spool::failpoint`]).
const DIE: &str = "EVERSOCK_SPOOL_DIE";

/// What a writer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// The record with this number is in this place.
    Kept(u64, u64),
    /// The record in this place has ended.
    Ended(u64),
    /// The record with this number was surely not kept.
    Refused(u64),
    /// Nobody knows whether the record with this number was kept.
    Unknown(u64),
    /// It has done all that it was to do.
    Over,
}

/// What a writer is to do.
pub(crate) struct Role {
    pub(crate) store: String,
    pub(crate) params: String,
    /// Its first number.
    pub(crate) from: u64,
    /// How many batches.
    pub(crate) batches: u64,
    pub(crate) die: Option<String>,
}

impl Role {
    pub(crate) fn sqlite(path: &Path, from: u64, batches: u64) -> Self {
        let store = format!("sqlite\t{}", path.display());
        Self { store, params: String::new(), from, batches, die: None }
    }

    pub(crate) fn postgres(config: &PostgresConfig, from: u64, batches: u64) -> Self {
        let store = format!("postgres\t{}", config.schema);
        Self { store, params: config.params.clone(), from, batches, die: None }
    }

    /// The child, perhaps under another program (`strace ...`).
    pub(crate) fn start(&self, under: &[&str]) -> Writer {
        let own = std::env::current_exe().unwrap();
        let mut words = under.to_vec();
        words.push(own.to_str().unwrap());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.args(["--exact", "writer::a_writer_that_is_let_live", "--nocapture"]);
        let role = format!("{}\t{}\t{}\t{}", self.store, self.from, self.batches, self.params);
        command.env(ROLE, role).env_remove(DIE);
        if let Some(die) = &self.die {
            command.env(DIE, die);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Writer { child, said }
    }
}

/// A child that writes. Killed when it is dropped.
pub(crate) struct Writer {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Writer {
    /// What it says next; `None` when it is gone. A line that its death cut short was not said.
    pub(crate) fn next(&mut self) -> Option<Said> {
        let mut line = String::new();
        loop {
            line.clear();
            self.said.read_line(&mut line).unwrap();
            if !line.ends_with('\n') {
                return None;
            }
            // libtest has words of its own.
            let mut words = line.split_whitespace();
            let word = words.next();
            let mut number = || words.next().and_then(|word| word.parse().ok());
            match word {
                Some("kept") => return Some(Said::Kept(number().unwrap(), number().unwrap())),
                Some("ended") => return Some(Said::Ended(number().unwrap())),
                Some("refused") => return Some(Said::Refused(number().unwrap())),
                Some("unknown") => return Some(Said::Unknown(number().unwrap())),
                Some("over") => return Some(Said::Over),
                _ => {}
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// All that it says until it is gone.
    pub(crate) fn rest(mut self) -> Vec<Said> {
        let mut all = Vec::new();
        while let Some(said) = self.next() {
            all.push(said);
        }
        self.child.wait().unwrap();
        all
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// What the record with this number is: sizes from nothing to many pages.
pub(crate) fn written(n: u64) -> Record {
    let size = match n % 13 {
        12 => 20_000,
        size => size * 90,
    };
    Record { payload: payload(n, usize::try_from(size).unwrap()), ..record(n) }
}

/// How the record in this place ends.
pub(crate) fn end(lsn: u64) -> Finish {
    match lsn % 4 {
        0 => Finish::Refused { code: 4, text: "by its number".into() },
        1 => Finish::SkippedInDoubt,
        _ => done(&lsn.to_be_bytes()),
    }
}

fn say(text: &str) {
    // One write for a line: what arrives in full was said in full.
    let line = format!("{text}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// Batches of one to eight records, and the ends of some that wait.
fn write(role: &str) {
    let fields: Vec<&str> = role.split('\t').collect();
    let (from, batches): (u64, u64) = (fields[2].parse().unwrap(), fields[3].parse().unwrap());
    let mut store: Box<dyn SpoolStore> = match fields[0] {
        "sqlite" => Box::new(SqliteStore::open(Path::new(fields[1]), PAIR, ROOMY).unwrap()),
        _ => {
            let config = PostgresConfig {
                schema: fields[1].to_owned(),
                call_timeout: Duration::from_secs(30),
                ..PostgresConfig::new(fields[4])
            };
            Box::new(PostgresStore::open(&config, PAIR, ROOMY).unwrap())
        }
    };
    let mut waiting: Vec<u64> = Vec::new();
    let found = store.reader().unwrap().pending(0, 20, u64::MAX).unwrap();
    waiting.extend(found.iter().map(Found::lsn));
    let mut n = from;
    for round in 0..batches {
        let numbers: Vec<u64> = (n..n + 1 + (n + round) % 8).collect();
        n += numbers.len() as u64;
        let ending: Vec<u64> = waiting.iter().copied().filter(|lsn| lsn % 3 != 0).take(5).collect();
        let batch = Batch {
            append: numbers.iter().map(|&n| new(written(n))).collect(),
            finish: ending.iter().map(|&lsn| (lsn, end(lsn))).collect(),
            ..Batch::default()
        };
        match store.commit(&batch) {
            Ok(results) => {
                for (n, lsn) in numbers.iter().zip(places(&results)) {
                    say(&format!("kept {n} {lsn}"));
                    waiting.push(lsn);
                }
                for lsn in &ending {
                    say(&format!("ended {lsn}"));
                }
                waiting.retain(|lsn| !ending.contains(lsn));
            }
            Err(StoreError::Unknown { .. }) => {
                numbers.iter().for_each(|n| say(&format!("unknown {n}")));
            }
            Err(_) => numbers.iter().for_each(|n| say(&format!("refused {n}"))),
        }
    }
    drop(store);
    say("over");
}

#[test]
fn a_writer_that_is_let_live() {
    if let Ok(role) = std::env::var(ROLE) {
        return write(&role);
    }
    let maker = SqliteMaker::new();
    let said = Role::sqlite(&maker.file(), 100, 20).start(&[]).rest();
    assert_eq!(said.last(), Some(&Said::Over));
    let kept = said.iter().filter(|said| matches!(said, Said::Kept(..))).count() as u64;
    let ended = said.iter().filter(|said| matches!(said, Said::Ended(_))).count() as u64;
    let mut store = maker.open();
    let totals = store.totals().unwrap();
    assert_eq!((totals.last_lsn, totals.pending), (kept, kept - ended));
    assert!(kept > 20 && ended > 20, "{kept} kept, {ended} ended");
    let again = store.commit(&Batch { append: vec![new(written(100))], ..Batch::default() });
    assert!(matches!(again.unwrap()[..], [Appended::Duplicate { lsn: 1, .. }]));
}
