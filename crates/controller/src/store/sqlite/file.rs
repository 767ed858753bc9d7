//! What lies in the folder, and how it is made, opened, and set aside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, params};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use super::fault::{Fault, lacks_room};
use crate::store::book::Counters;

/// "evct": says that a file is the table of a partition.
const APPLICATION: i64 = 0x6576_6374;
/// Of the tables below. A higher one is of a newer version.
const VERSION: i64 = 1;
/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;
/// Pages of the log from which on it is written into the file.
const LOG_PAGES: u64 = 1024;
/// Bytes that are set aside: the log, one transaction more, and the log's index.
const RESERVE: u64 = 6 << 20;
/// By this much less, if there is no room for all.
const PART: u64 = 64 << 10;
/// How long a connection waits for another that reads or recovers the file.
const BUSY: Duration = Duration::from_secs(10);
/// Pages in memory for the writer, in KiB.
const CACHE_KIB: u32 = 16 << 10;
/// Damaged files that are kept.
const ASIDE_KEPT: usize = 3;

// The primary key is the table: a snapshot reads it from front to back.
const TABLES: &str = "
CREATE TABLE record (
    kind INTEGER NOT NULL,
    key BLOB NOT NULL,
    lsn INTEGER NOT NULL,
    origin TEXT NOT NULL,
    crc INTEGER NOT NULL,
    rank BLOB NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE UNIQUE INDEX record_lsn ON record (lsn);
CREATE TABLE taken (
    partner TEXT PRIMARY KEY,
    run BLOB NOT NULL,
    lsn INTEGER NOT NULL,
    crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE run (
    number INTEGER PRIMARY KEY,
    run BLOB NOT NULL,
    began INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    partition TEXT NOT NULL,
    head INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    records INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
";

/// Held by the process that has a store open.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self, Fault> {
        let file = owners(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Fault::Held),
            Err(e) => Err(Fault::Failed(format!("{} cannot be locked: {e}", path.display()))),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A child that is not yet another program has the file open too, so to close is not enough.
        let _gone = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Room that is set aside, so that a store can be opened and read when its disk is full: the log
/// and its index need some. A spent one is taken up again by the next opening that finds the room.
#[derive(Debug)]
pub(super) struct Reserve(pub(super) PathBuf);

impl Reserve {
    /// Takes up as much of the room as there is; says whether that is all.
    pub(super) fn restore(&self) -> io::Result<bool> {
        let file = owners(&self.0)?;
        if file.metadata()?.len() >= RESERVE {
            return Ok(true);
        }
        for parts in (1..=RESERVE / PART).rev() {
            match fallocate(&file, FallocateFlags::empty(), 0, parts * PART) {
                Ok(()) => return Ok(parts == RESERVE / PART),
                Err(error) if lacks_room(error) => {}
                // Where a file system cannot do that, stores cannot be opened when it is full.
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Gives it up; says whether there was any.
    pub(super) fn spend(&self) -> bool {
        fs::metadata(&self.0).is_ok_and(|meta| meta.len() > 0) && fs::remove_file(&self.0).is_ok()
    }
}

/// Opens a file to write; a new one is for its user alone.
fn owners(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// A file with a longer name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Makes the file if it is not there: under another name first, so that one with this name is
/// always whole.
pub(super) fn create(path: &Path, partition: &str) -> Result<(), Fault> {
    if path.try_exists()? {
        return Ok(());
    }
    // SQLite would bring the log of a file that is gone into the new one.
    if fs::metadata(beside(path, "-wal")).is_ok_and(|meta| meta.len() > 0) {
        return Err(Fault::Damaged("its file is not there, and the log of it is".to_owned()));
    }
    let new = beside(path, ".new");
    let journal = beside(path, ".new-journal");
    remove(&new)?;
    remove(&journal)?;
    // The log and its index get the mode of the file.
    let made = owners(&new).map_err(Fault::from).and_then(|_| fill(&new, partition));
    if made.is_err() {
        let _gone = (remove(&new), remove(&journal));
    }
    made?;
    fs::rename(&new, path)?;
    sync_folder(path)?;
    Ok(())
}

fn fill(new: &Path, partition: &str) -> Result<(), Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(new, flags)?;
    conn.execute_batch(&format!(
        "PRAGMA page_size = {PAGE}; PRAGMA auto_vacuum = NONE; PRAGMA synchronous = FULL;
         PRAGMA application_id = {APPLICATION};"
    ))?;
    let tx = conn.transaction()?;
    tx.execute_batch(TABLES)?;
    let crc = Counters::default().checksum(partition);
    tx.execute("INSERT INTO meta VALUES (1, ?1, 0, 0, 0, 0, ?2)", params![partition, crc])?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()?;
    conn.close().map_err(|(_, e)| e)?;
    File::open(new)?.sync_all()?;
    Ok(())
}

/// Opens the file for its one writer, brings all that is in its log into it, and cuts the log: what
/// a failed sync has left in doubt is not built upon. Waits for readers to end.
pub(super) fn open_writer(path: &Path, partition: &str) -> Result<Connection, Fault> {
    // A writer may change the file as it opens it.
    drop(open_reader(path)?);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY)?;
    let theirs: String = conn.query_row("SELECT partition FROM meta", [], |row| row.get(0))?;
    if theirs != partition {
        let cause = format!("it is the table of the partition {theirs:?}, not of {partition}");
        return Err(Fault::Foreign(cause));
    }
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let cause = format!("its file system lets SQLite keep no write-ahead log ({mode})");
        return Err(Fault::Failed(cause));
    }
    conn.execute_batch(&format!(
        "PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = {LOG_PAGES};
         PRAGMA journal_size_limit = {};
         PRAGMA cache_size = -{CACHE_KIB};
         PRAGMA temp_store = MEMORY;",
        LOG_PAGES * PAGE
    ))?;
    conn.set_prepared_statement_cache_capacity(32);
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy != 0 {
        let cause = "somebody reads it: end whatever does (a backup, `sqlite3`)";
        return Err(Fault::Failed(cause.to_owned()));
    }
    Ok(conn)
}

/// Opens the file for one who only reads. Refuses what is no table of a partition, or one of a
/// newer version, without altering it.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY)?;
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
    match number("PRAGMA application_id")? {
        APPLICATION => {}
        0 if number("PRAGMA schema_version")? == 0 => {
            return Err(Fault::Damaged("it is empty".to_owned()));
        }
        _ => return Err(Fault::Foreign("it is a file of another program".to_owned())),
    }
    match number("PRAGMA user_version")? {
        VERSION => {}
        other => {
            return Err(Fault::Foreign(format!(
                "its layout is number {other}, and this version knows number {VERSION} only"
            )));
        }
    }
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY;")?;
    Ok(conn)
}

/// Gives the file and its log another name, and removes the oldest of those that have one already.
pub(super) fn set_aside(path: &Path) -> Result<(), Fault> {
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
    let aside = (stamp..)
        .map(|stamp| beside(path, &format!(".damaged-{stamp}")))
        .find(|aside| !aside.exists() && !beside(aside, "-wal").exists());
    let Some(aside) = aside else { return Ok(()) };
    for suffix in ["", "-wal"] {
        match fs::rename(beside(path, suffix), beside(&aside, suffix)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    remove(&beside(path, "-shm"))?;
    for old in set_aside_before(path)?.into_iter().rev().skip(ASIDE_KEPT) {
        let old = beside(path, &format!(".damaged-{old}"));
        remove(&old)?;
        remove(&beside(&old, "-wal"))?;
    }
    sync_folder(path)?;
    Ok(())
}

/// When files of this name were set aside, oldest first.
fn set_aside_before(path: &Path) -> io::Result<Vec<u128>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let name = format!("{}.damaged-", name.display());
    let mut stamps = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?.file_name();
        let stamp = entry.to_str().and_then(|entry| entry.strip_prefix(&name));
        let stamp = stamp.map(|stamp| stamp.strip_suffix("-wal").unwrap_or(stamp));
        stamps.extend(stamp.and_then(|stamp| stamp.parse::<u128>().ok()));
    }
    stamps.sort_unstable();
    stamps.dedup();
    Ok(stamps)
}
