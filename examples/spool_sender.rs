//! A pair of servers behind a front: the main one is killed, and no write is refused.
//!
//! ```text
//! cargo run --features spool --example spool_sender
//! ```
//!
//! All are in one process here, and would be on machines of their own: two servers that share a
//! database and do each request once, the front with its spool, and the sender. Whoever writes
//! while there is no main server gets a number in the spool in place of an answer, and the new main
//! finds what he wrote.

use std::io::{self, Error};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use eversock::VirtualListener;
use eversock::spool::backend::ledger::LedgerConfig;
use eversock::spool::backend::rusqlite::{Connection, Result, params};
use eversock::spool::backend::{BackendServer, LedgerBackend};
use eversock::spool::config::{FrontFile, Running};
use eversock::spool::record::Record;
use eversock::spool::sender::{Sender, SenderConfig};
use eversock::spool::serve::ServeConfig;
use eversock::spool::target::ItemResult;
use eversock::spool::{Kind, Outcome, Request, RequestId};

const WRITES: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request does to the database: in one transaction with its id, so that it happens once.
fn apply(tx: &Connection, item: &Record) -> Result<ItemResult> {
    let answer = match item.kind {
        Kind::Write => {
            let add = "INSERT INTO notes (key, text) VALUES (?1, ?2)";
            tx.execute(add, params![item.key, item.payload])?;
            Vec::new()
        }
        Kind::Read => {
            let find = "SELECT text FROM notes WHERE key = ?1 ORDER BY rowid";
            let mut find = tx.prepare(find)?;
            let notes: Result<Vec<Vec<u8>>> =
                find.query_map([&item.key], |row| row.get(0))?.collect();
            notes?.concat()
        }
        _ => return Ok(ItemResult::Refused { code: 1, text: "not a note's".to_owned() }),
    };
    Ok(ItemResult::Done { answer, again: false })
}

/// A server of the pair.
fn serve(database: &Path) -> io::Result<BackendServer> {
    let backend = LedgerBackend::open(database, LedgerConfig::default(), apply);
    let backend = backend.map_err(Error::other)?;
    let table = "CREATE TABLE IF NOT EXISTS notes (key BLOB, text BLOB)";
    backend.ledger().maintain(|tx| tx.execute_batch(table)).map_err(Error::other)?;
    let listener = VirtualListener::bind("127.0.0.1:0")?;
    BackendServer::start(listener, Arc::new(backend), ServeConfig::default())
}

/// The front, impatient enough for an example: a main that is silent for two seconds is gone.
fn front(folder: &Path, servers: [&BackendServer; 2]) -> io::Result<Running> {
    let text = format!(
        r#"
dir = "spool"

[[socket]]
listen = "127.0.0.1:0"

[[pair]]
name = "notes"
probe-every = "100ms"
confirm = "200ms"
lease = "2s"

[[pair.server]]
url = "eversock://{}"
grace = "500ms"

[[pair.server]]
url = "eversock://{}"
grace = "500ms"
"#,
        servers[0].addr(),
        servers[1].addr()
    );
    let file = FrontFile::from_text(&text, "the front's text", folder).map_err(Error::other)?;
    file.start().map_err(Error::other)
}

/// Waits until this server is the main one and nothing is left in the spool; gives how many records
/// were drained.
fn settled(front: &Running, holder: usize) -> io::Result<u64> {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = front.gate().with(|front| front.status("notes")).flatten();
        let pair = status.ok_or_else(|| Error::other("the front does not say how it is"))?.pair;
        let is_main = pair.state == "normal" && pair.holder == holder && pair.epoch > 0;
        if is_main && pair.totals.pending == 0 {
            return Ok(pair.counters.drained);
        }
        if Instant::now() > until {
            return Err(Error::other(format!("after {PATIENCE:?} the pair is {pair:?}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn ask(sender: &Sender, kind: Kind, payload: &str) -> io::Result<Outcome> {
    Ok(sender.request(Request {
        id: RequestId::random()?,
        kind,
        key: b"diary".to_vec(),
        payload: payload.into(),
        deadline: PATIENCE,
    }))
}

fn run(folder: &Path) -> io::Result<()> {
    let database = folder.join("notes.db");
    let (main, standby) = (serve(&database)?, serve(&database)?);
    let front = front(folder, [&main, &standby])?;
    let sender = Sender::connect([front.listening()[0].addr], "notes", SenderConfig::default())?;

    settled(&front, 0)?;
    let outcome = ask(&sender, Kind::Write, "monday;")?;
    println!("a write: {outcome:?}");
    main.close();
    println!("the main server is killed");
    let (mut spooled, mut applied) = (0, 0);
    for number in 0..WRITES {
        match ask(&sender, Kind::Write, &format!("{number};"))? {
            Outcome::Spooled { .. } => spooled += 1,
            Outcome::Applied { .. } => applied += 1,
            other => return Err(Error::other(format!("write {number}: {other:?}"))),
        }
    }
    println!("{WRITES} writes acknowledged: {spooled} spooled, {applied} applied");

    let drained = settled(&front, 1)?;
    println!("the standby is the main server now; drained: {drained} records");

    let answer = match ask(&sender, Kind::Read, "")? {
        Outcome::Applied { answer } => answer,
        other => return Err(Error::other(format!("the read: {other:?}"))),
    };
    let wanted: String = (0..WRITES).map(|number| format!("{number};")).collect();
    if answer != format!("monday;{wanted}").into_bytes() {
        return Err(Error::other(String::from_utf8_lossy(&answer).into_owned()));
    }
    println!("a read finds all {} writes, each once and in order", WRITES + 1);
    Ok(())
}

/// A directory that goes with the example.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn main() -> io::Result<()> {
    let folder = std::env::temp_dir().join(format!("eversock-spool-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let folder = Folder(folder);
    run(&folder.0)
}
