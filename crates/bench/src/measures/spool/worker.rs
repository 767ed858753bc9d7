//! A process that is a front or a server, told what to do line by line, as the children of other
//! measurements are. It ends as in a crash: nothing is closed.

use std::any::Any;
use std::io::{self, BufRead as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::sleep;
use std::time::{Duration, Instant};

use eversock::VirtualListener;
use eversock_spool::backend::ledger::LedgerConfig;
use eversock_spool::backend::{BackendServer, Effects, LedgerBackend};
use eversock_spool::record::Record;
use eversock_spool::serve::ServeConfig;
use eversock_spool::target::ItemResult;
use rusqlite::{Connection, Transaction};

use super::parts::{QUOTA, Ready, fill, front, pair, store};
use crate::child::answer;
use crate::usage::resident_most_bytes;

/// Of the pair whose front the worker is.
pub(super) const PAIR: &str = "bench";
/// How long the first record may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a front goes on to read ahead before its memory is looked at.
const AHEAD: Duration = Duration::from_millis(500);

/// Does `fill COUNT FILE`, `start FILE` and `serve FILE` until its input ends.
pub(crate) fn worker() -> io::Result<()> {
    let mut held: Vec<Box<dyn Any>> = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let told = match line.split_once(' ') {
            Some(("fill", rest)) => {
                let (count, file) = rest.split_once(' ').ok_or(io::ErrorKind::InvalidInput)?;
                let count = count.parse().map_err(io::Error::other)?;
                let mut store = store(Path::new(file), PAIR, QUOTA)?;
                fill(&mut store, count)?;
                held.push(Box::new(store));
                "1".to_owned()
            }
            Some(("start", file)) => start(Path::new(file), &mut held)?,
            Some(("serve", file)) => {
                let server = serve(Path::new(file))?;
                let addr = server.addr();
                held.push(Box::new(server));
                addr.to_string()
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, line)),
        };
        answer(&told)?;
    }
    std::process::exit(0);
}

/// A front that begins with what is in the file: nanoseconds until its main has the first record,
/// and how many bytes more this process has had than before.
fn start(file: &Path, held: &mut Vec<Box<dyn Any>>) -> io::Result<String> {
    let before = resident_most_bytes();
    let (tell, told) = mpsc::channel();
    // It never answers, so that the file stays as it is.
    let unanswered = Mutex::new(Vec::new());
    let main = Ready::new(1, move |call, reply| {
        unanswered.lock().unwrap_or_else(PoisonError::into_inner).push(reply);
        let _ = tell.send(call.items.len());
    });
    let began = Instant::now();
    let store = store(file, PAIR, QUOTA)?;
    let front = front(vec![pair(PAIR, Box::new(store), main)])?;
    told.recv_timeout(PATIENCE).map_err(io::Error::other)?;
    let took = began.elapsed();
    held.push(Box::new(front));
    sleep(AHEAD);
    Ok(format!("{} {}", took.as_nanos(), resident_most_bytes().saturating_sub(before)))
}

/// Keeps what is written.
pub(super) struct Rows;

impl Effects for Rows {
    type Prepared = ();

    fn set_up(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS kept (key BLOB PRIMARY KEY, payload BLOB) WITHOUT ROWID",
        )
    }

    fn prepare(&self, _item: &Record) -> Result<(), ItemResult> {
        Ok(())
    }

    fn apply(
        &self,
        tx: &Connection,
        item: &Record,
        _prepared: Option<&()>,
    ) -> rusqlite::Result<ItemResult> {
        tx.prepare_cached("INSERT OR REPLACE INTO kept VALUES (?1, ?2)")?
            .execute((&item.key, &item.payload))?;
        Ok(ItemResult::Done { answer: Vec::new(), again: false })
    }
}

pub(super) fn backend(file: &Path) -> io::Result<LedgerBackend<Rows>> {
    LedgerBackend::open(file, LedgerConfig::default(), Rows).map_err(io::Error::other)
}

fn serve(file: &Path) -> io::Result<BackendServer> {
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let listener = VirtualListener::bind(any)?;
    BackendServer::start(listener, Arc::new(backend(file)?), ServeConfig::default())
}
