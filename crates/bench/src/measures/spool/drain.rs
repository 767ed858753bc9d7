//! From the spool into a server.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use eversock_spool::backend::Effects;
use eversock_spool::link::{LinkConfig, SocketTarget};
use eversock_spool::target::{ItemResult, Target};

use super::parts::{Place, QUOTA, Ready, fill, front, pair, rate, record, store};
use super::restart::worker;
use super::worker::{PAIR, Rows, backend};
use crate::Bench;
use crate::report::{Group, Report};

/// How long a drain may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Records of 512 B, each under a key of its own: into a server with a ledger, in a process of its
/// own at the other end of a virtual socket; and into one in this process that says at once that it
/// is done, which is as fast as a drain can be. Held against what the backend does when it is given
/// one record at a time, with a commit for each.
pub(crate) fn drain(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const NAME: &str = "spool-drain";
    const LABELS: [&str; 3] = [
        "single commits of the backend",
        "into a server with a ledger",
        "into one that does nothing",
    ];
    let count = bench.amount(100_000, 2000);
    let mut rates = Group::new(&LABELS, NAME, "1/s");
    for turn in 0..bench.options.turns() {
        // Some hundred MB, gone after each turn.
        let (place, why) = Place::new()?;
        if let (Some(why), 0) = (why, turn) {
            report.skipped(NAME, &why);
        }
        let file = |what: &str| place.file(&format!("{what}.db"));
        rates.add(0, single_commits(&file("single"), bench.time(3000, 200))?);

        let mut server = worker(bench)?;
        server.tell(&format!("serve {}", file("server").display()))?;
        let link = LinkConfig::new("the server");
        let target = SocketTarget::new(vec![server.address()?], link)?;
        rates.add(1, drained(&file("spool"), target, count)?);
        drop(server);

        rates.add(2, drained(&file("spool-of-nothing"), Ready::at_once(), count)?);
    }
    report.group(&rates)
}

fn single_commits(file: &Path, time: Duration) -> io::Result<f64> {
    let backend = Mutex::new(backend(file)?);
    rate(1, time, || {
        let backend = backend.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(move || {
            let item = record()?;
            let results = backend
                .ledger()
                .run(1, &[item], &|| Ok(()), &mut |tx, _, item| Rows.apply(tx, item, Some(&())))
                .map_err(io::Error::other)?;
            match results.as_slice() {
                [ItemResult::Done { again: false, .. }] => Ok(()),
                other => Err(io::Error::other(format!("not done: {other:?}"))),
            }
        })
    })
}

/// Records that a main takes in a second, from the first on.
fn drained(file: &Path, main: Arc<dyn Target>, count: usize) -> io::Result<f64> {
    const LOOK: Duration = Duration::from_millis(2);
    let mut store = store(file, PAIR, QUOTA)?;
    fill(&mut store, count)?;
    let front = front(vec![pair(PAIR, Box::new(store), main)])?;
    let mut first = None;
    let until = Instant::now() + PATIENCE;
    loop {
        let status = front.status(PAIR).ok_or_else(|| io::Error::other("the pair is stuck"))?.pair;
        let now = Instant::now();
        let done = status.counters.drained;
        if done > 0 && first.is_none() {
            first = Some((now, done));
        }
        if let Some((began, before)) = first
            && status.totals.pending == 0
        {
            // A drain that is over before it is looked at twice has no rate.
            if done <= before {
                return Err(io::Error::other("too few records for a rate"));
            }
            return Ok((done - before) as f64 / (now - began).as_secs_f64());
        }
        if now > until {
            return Err(io::Error::other(format!("still not drained: {status:?}")));
        }
        sleep(LOOK);
    }
}
