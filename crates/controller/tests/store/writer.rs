//! A process that writes a store and says what it was promised, to be killed by its parent.
//!
//! The test binary executes itself: [`a_writer_that_is_let_live`] is the child's `main` where
//! [`ROLE`] is set, and a test of its own where it is not. What the transaction number `n` writes
//! follows from `n`; the store says by [`mark`] which was the last.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use eversock_controller::model::{ControllerId, Record};
use eversock_controller::store::postgres::{PostgresConfig, PostgresStores};
use eversock_controller::store::sqlite::SqliteStores;
use eversock_controller::store::{Opens, Position, Result, Store, StoreError};

use crate::common::{Maker, ROOMY, SqliteMaker, home, named, record, wait_for};

/// "sqlite\tFOLDER\tCOUNT" or "postgres\tPREFIX\tCOUNT\tPARAMS\tFOLDER".
const ROLE: &str = "EVERSOCK_TABLE_ROLE";
const KEYS: u64 = 60;

/// What a writer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// It has opened the store, and this run began.
    Run(u128),
    /// It is about to commit the transaction with this number.
    Committing(u64),
    /// That was committed, and the head is this.
    Committed(u64, u64),
    Full,
    Failed,
    /// It has done all that it was to do.
    Over,
}

/// What a transaction puts: one to eight records.
pub(crate) fn puts(n: u64) -> Vec<(Record, Option<ControllerId>)> {
    let one = |i: u64| {
        let x = n.wrapping_mul(8).wrapping_add(i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let len = if x.is_multiple_of(37) { 20_000 } else { usize::try_from(x % 300).unwrap() };
        let from = x.is_multiple_of(3).then(|| named("partner"));
        (record(&format!("key {}", (x >> 9) % KEYS), n * 8 + i, len), from)
    };
    (0..=n % 8).map(one).collect()
}

/// Which transaction was the last.
pub(crate) fn mark(store: &mut dyn Store) -> Result<u64> {
    Ok(store.taken(&named("mark"))?.map_or(0, |mark| mark.lsn))
}

fn transaction(store: &mut dyn Store, n: u64) -> Result<()> {
    for (record, from) in puts(n) {
        store.put(&record, from.as_ref())?;
    }
    store.set_taken(&named("mark"), Some(Position { run: 1, lsn: n }))?;
    say(&format!("committing {n}"));
    store.commit()?;
    say(&format!("committed {n} {}", store.head()));
    Ok(())
}

fn say(text: &str) {
    // One write for a line: what arrives in full was said in full.
    let line = format!("{text}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

fn write(role: &str) {
    let fields: Vec<&str> = role.split('\t').collect();
    let opens: Box<dyn Opens> = match fields[0] {
        "sqlite" => Box::new(SqliteStores::new(fields[1].as_ref(), ROOMY)),
        _ => Box::new(PostgresStores::new(
            PostgresConfig {
                params: fields[3].to_owned(),
                prefix: fields[1].to_owned(),
                call_timeout: Duration::from_secs(30),
                folder: PathBuf::from(fields[4]),
            },
            ROOMY,
        )),
    };
    let mut left: u64 = fields[2].parse().unwrap();
    let mut failures = 0;
    while left > 0 && failures < 60 {
        let done = opens.open(&home()).and_then(|mut store| {
            say(&format!("run {}", store.run()));
            let mut n = mark(&mut *store)?;
            while left > 0 {
                n += 1;
                transaction(&mut *store, n)?;
                left -= 1;
            }
            Ok(())
        });
        match done {
            Ok(()) => {}
            Err(StoreError::Full { .. }) => say("full"),
            Err(StoreError::Failed { .. } | StoreError::Held { .. }) => say("failed"),
            Err(other) => panic!("{other}"),
        }
        failures += 1;
        // A server that starts anew needs a moment.
        thread::sleep(Duration::from_millis(if fields[0] == "sqlite" { 0 } else { 100 }));
    }
    say("over");
}

/// What a writer is to do.
pub(crate) struct Role(String);

impl Role {
    pub(crate) fn sqlite(maker: &SqliteMaker, transactions: u64) -> Self {
        Self(format!("sqlite\t{}\t{transactions}", maker.0.path().display()))
    }

    pub(crate) fn postgres(config: &PostgresConfig, transactions: u64) -> Self {
        let folder = config.folder.display();
        let PostgresConfig { prefix, params, .. } = config;
        Self(format!("postgres\t{prefix}\t{transactions}\t{params}\t{folder}"))
    }

    /// The child, perhaps under another program (`strace ...`).
    pub(crate) fn start(&self, under: &[&str]) -> Writer {
        start("writer::a_writer_that_is_let_live", ROLE, &self.0, under)
    }
}

/// Executes this binary for one test, with something in its environment.
pub(crate) fn start(test: &str, name: &str, value: &str, under: &[&str]) -> Writer {
    let own = std::env::current_exe().unwrap();
    let mut words = under.to_vec();
    words.push(own.to_str().unwrap());
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .args(["--exact", test, "--nocapture"])
        .env(name, value)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    Writer { child, said }
}

/// A child that writes. Killed when it is dropped.
pub(crate) struct Writer {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Writer {
    /// The next line; `None` when it is gone. One that its death cut short was not said.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.ends_with('\n').then_some(line)
    }

    /// What it says next, without libtest's own words.
    pub(crate) fn next(&mut self) -> Option<Said> {
        loop {
            let line = self.line()?;
            let mut words = line.split_whitespace();
            let word = words.next();
            let mut number = || words.next().unwrap().parse::<u128>().unwrap();
            let mut small = || u64::try_from(number()).unwrap();
            return Some(match word {
                Some("committing") => Said::Committing(small()),
                Some("committed") => Said::Committed(small(), small()),
                Some("run") if line.len() > 20 => Said::Run(number()),
                Some("full") => Said::Full,
                Some("failed") => Said::Failed,
                Some("over") => Said::Over,
                _ => continue,
            });
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// All that it says until it is gone.
    pub(crate) fn rest(mut self) -> Vec<Said> {
        let all = std::iter::from_fn(|| self.next()).collect();
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

#[test]
fn a_writer_that_is_let_live() {
    if let Ok(role) = std::env::var(ROLE) {
        return write(&role);
    }
    let maker = SqliteMaker::new();
    let mut writer = Role::sqlite(&maker, 1 << 40).start(&[]);
    // One process has it, and another is told so.
    while !matches!(writer.next().unwrap(), Said::Committed(3, _)) {}
    let refused = maker.opens(ROOMY).open(&home()).err();
    assert!(matches!(refused, Some(StoreError::Held { .. })), "{refused:?}");
    let refused = maker.opens(ROOMY).set_aside(&home());
    assert!(matches!(refused, Err(StoreError::Held { .. })), "{refused:?}");
    writer.kill();
    drop(writer);
    let mut store = None;
    wait_for("the lock of one who is gone", || {
        store = maker.opens(ROOMY).open(&home()).ok();
        store.is_some()
    });
    drop(store);
    let said = Role::sqlite(&maker, 20).start(&[]).rest();
    assert_eq!(said.last(), Some(&Said::Over));
    assert!(said.iter().filter(|said| matches!(said, Said::Committed(..))).count() == 20);
}
