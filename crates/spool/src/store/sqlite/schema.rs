//! What lies in the file, and how it is made and opened.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::fault::{Fault, foreign};
use super::reserve::PAGE;
use crate::store::StoreError;

/// "evsp": says that a file is a spool.
const APPLICATION: i64 = 0x6576_7370;
/// Of what is written below. A higher one is of a newer version.
const VERSION: i64 = 1;
/// How long a connection waits for another that recovers the file or cuts its log.
const BUSY: Duration = Duration::from_secs(10);
/// How long an opener waits for readers that hinder the log from being cut.
const READER_PATIENCE: Duration = Duration::from_secs(30);
/// How long an append waits for readers that hinder the log from being cut.
const CUT_PATIENCE: Duration = Duration::from_millis(200);
/// Pages in memory for each connection, in KiB.
const CACHE_KIB: i64 = 8192;

// `record_pending` has all that counts of a pending record, so that a row on a damaged page is
// known by it. A row that cannot even be changed is set aside in `broken`. The columns of the
// conditions stand in the indexes too: without them SQLite looks at the rows. What goes when a
// record ends is in a table of its own, `body`: a row that shrinks does not give its page back.
const TABLES: &str = "
CREATE TABLE record (
    lsn INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    lane INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    fingerprint INTEGER NOT NULL,
    state INTEGER NOT NULL,
    aside INTEGER NOT NULL,
    weight INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    held INTEGER NOT NULL,
    code INTEGER,
    ended_ms INTEGER,
    note TEXT,
    answer BLOB
);
CREATE TABLE body (
    lsn INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    payload BLOB NOT NULL
);
CREATE UNIQUE INDEX record_id ON record (id);
CREATE INDEX record_pending ON record (lsn, lane, weight, sent, held, state)
    WHERE state = 0;
CREATE INDEX record_lane ON record (lane, lsn, state) WHERE state = 0;
CREATE INDEX record_age ON record (accepted_ms, state) WHERE state = 0;
CREATE INDEX record_ended ON record (ended_ms, aside) WHERE ended_ms IS NOT NULL AND aside = 0;
CREATE INDEX record_aside ON record (lsn, aside) WHERE aside = 1;
CREATE TABLE broken (
    lsn INTEGER PRIMARY KEY,
    lane INTEGER NOT NULL,
    weight INTEGER NOT NULL,
    purged INTEGER NOT NULL,
    note TEXT NOT NULL
);
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    pair TEXT NOT NULL,
    last_lsn INTEGER NOT NULL,
    pending INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    held INTEGER NOT NULL,
    in_doubt INTEGER NOT NULL,
    quarantined INTEGER NOT NULL,
    serial INTEGER NOT NULL,
    probes INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    holder INTEGER NOT NULL,
    on_hold INTEGER NOT NULL
);
";

/// Makes the file of a pair if it is not there: under another name first, so that a file with this
/// name is always whole.
pub(super) fn create(path: &Path, pair: &str) -> Result<(), Fault> {
    if path.exists() {
        return Ok(());
    }
    // SQLite would bring the log of a file that is gone into the new one.
    for log in [beside(path, "-wal"), beside(path, "-journal")] {
        if fs::metadata(&log).is_ok_and(|meta| meta.len() > 0) {
            let cause = format!(
                "its file is not there, and the log of it is: bring the file back, or remove {}",
                log.display()
            );
            return Err(Fault::Failed(cause));
        }
    }
    let new = beside(path, ".new");
    for leftover in [new.clone(), beside(path, ".new-journal")] {
        match fs::remove_file(&leftover) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    let made = fill(&new, pair);
    if made.is_err() {
        let _gone = fs::remove_file(&new);
        let _gone = fs::remove_file(beside(path, ".new-journal"));
    }
    made?;
    fs::rename(&new, path)?;
    sync_directory(path)?;
    Ok(())
}

fn fill(new: &Path, pair: &str) -> Result<(), Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(new, flags)?;
    conn.execute_batch(&format!(
        "PRAGMA page_size = {PAGE}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA synchronous = FULL;
         PRAGMA application_id = {APPLICATION};"
    ))?;
    let tx = conn.transaction()?;
    tx.execute_batch(TABLES)?;
    tx.execute("INSERT INTO meta VALUES (1, ?1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)", params![pair])?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()?;
    conn.close().map_err(|(_, e)| e)?;
    File::open(new)?.sync_all()?;
    Ok(())
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// A file with a longer name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Refuses what is no spool or one of a newer version, without altering it.
// Not by reading the file: to close it would drop the locks that other connections of this process
// have on it.
fn judge(conn: &Connection) -> Result<(), Fault> {
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
    if number("PRAGMA application_id")? != APPLICATION {
        return Err(foreign("it is a file of another program"));
    }
    match number("PRAGMA user_version")? {
        VERSION => Ok(()),
        other => Err(foreign(format!(
            "its layout is number {other}, and this version knows number {VERSION} only"
        ))),
    }
}

/// Opens the file for its one writer. `log_pages`: how far its log may grow before it is cut.
pub(super) fn open_writer(path: &Path, pair: &str, log_pages: u64) -> Result<Connection, Fault> {
    // A writer changes the file as it opens it.
    drop(open_reader(path)?);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let cause = format!("its file system lets SQLite keep no write-ahead log ({mode})");
        return Err(Fault::Failed(cause));
    }
    let log_bytes = log_pages * PAGE;
    conn.execute_batch(&format!(
        "PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = {log_pages};
         PRAGMA journal_size_limit = {log_bytes};
         PRAGMA cache_size = -{CACHE_KIB};
         PRAGMA temp_store = MEMORY;"
    ))?;
    conn.set_prepared_statement_cache_capacity(64);
    let theirs: String = conn.query_row("SELECT pair FROM meta", [], |row| row.get(0))?;
    if theirs == pair {
        Ok(conn)
    } else {
        Err(foreign(format!("it is the spool of the pair {theirs}, not of {pair}")))
    }
}

/// Opens the file for one who only reads, beside a writer or without one.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY)?;
    judge(&conn)?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY;")?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// Writes the whole log into the file, brings that to disk, and cuts the log.
pub(super) fn cut_log(conn: &Connection) -> Result<(), Fault> {
    conn.busy_timeout(READER_PATIENCE)?;
    let busy = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    conn.busy_timeout(BUSY)?;
    if busy? == 0 {
        return Ok(());
    }
    let cause = "a reader holds its log: end whatever reads it (`evs spool verify` or `export`, a \
                 backup), and it goes on";
    Err(Fault::Failed(cause.to_owned()))
}

/// Bytes of the log that are not in the file yet. Looks only.
pub(super) fn log_bytes(conn: &Connection) -> Result<u64, Fault> {
    let (all, done): (i64, i64) =
        conn.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| Ok((row.get(1)?, row.get(2)?)))?;
    // What is in the file stays in the log, and grows with it, while a reader needs it there.
    let left = if all == done { 0 } else { all };
    Ok(left.max(0).cast_unsigned().saturating_mul(PAGE))
}

/// As [`cut_log`], but waits only a moment for readers. Says whether there was no one.
pub(super) fn try_cut_log(conn: &Connection) -> Result<bool, Fault> {
    conn.busy_timeout(CUT_PATIENCE)?;
    let busy = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    conn.busy_timeout(BUSY)?;
    Ok(busy? == 0)
}

/// Gives up to so many empty pages back to the file system, once the log has been cut.
pub(super) fn vacuum(conn: &Connection, pages: u64) -> Result<(), Fault> {
    // One step frees one page.
    let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut steps = statement.query([])?;
    while steps.next()?.is_some() {}
    Ok(())
}

/// The name of a file and what is wrong with it, as an error of the store.
pub(super) fn error(what: &str, fault: Fault) -> StoreError {
    let what = what.to_owned();
    match fault {
        Fault::Full => StoreError::Full { what },
        Fault::Held => StoreError::Held { what },
        Fault::Foreign(cause) => StoreError::Foreign { what, cause },
        Fault::Failed(cause) => StoreError::Failed { what, cause },
        Fault::Unknown(cause) => StoreError::Unknown { what, cause },
        Fault::Damaged(cause) => StoreError::Failed {
            what,
            cause: format!(
                "{cause}. The file is damaged: stop the front, keep a copy, and rescue what can be \
                 read with `sqlite3 FILE .recover`"
            ),
        },
    }
}
