//! The spool of a pair in one file of SQLite: the store that needs no server.
//!
//! Beside the file `PATH` lie `PATH-wal` and `PATH-shm` (SQLite's own), `PAIR.lock` (locked by the
//! process that holds the store) and `PAIR.reserve` (room for ends when the disk is full). They
//! belong on a local disk: SQLite's locks and its log are not made for network file systems.
//!
//! A commit is one write to the log and one sync. After an error in the commit itself the store
//! closes the file, opens it again, has SQLite recover it, writes all of the log into the file
//! (what a failed sync left in doubt is not built upon), makes a commit of its own, and then reads
//! from the file whether the batch is there.
//!
//! Ends make room, so a full disk must not refuse them. If even the reserve does not do for a batch
//! of ends, they are written in several transactions and answers of more than 1 KiB are not kept:
//! who asks by id is then told that it took effect, with an empty answer.

mod check;
mod fault;
mod read;
mod reserve;
mod schema;
mod write;

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};

use self::fault::Fault;
use self::reserve::{PAGE, Reserve};
use self::write::{Met, Stop, Writing, adds_up, counters, has_ended};
use super::{
    Appended, Batch, Finish, PairState, Quota, SpoolReader, SpoolStore, StoreError, Totals,
};
use crate::failpoint;
use crate::limits::PAIR_NAME_MAX;

pub use self::read::SqliteReader;

/// Pages that are given back to the file system at once.
const VACUUM_PAGES: u64 = 512;

/// Ends in one transaction when the disk is full.
const SPARING: usize = 64;
/// Bytes of an answer that is kept even then.
const SHORT: usize = 1024;
/// Bytes of the pages that a record takes to itself in the log, besides its own: the indexes are
/// not in the order of arrival.
const SCATTERED: u64 = 2 * PAGE + 1024;

/// How long an opener waits for one who only asks whether a front is there.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);

/// Writes the spool of a pair in SQLite.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    pair: String,
    quota: Quota,
    reserve: Reserve,
    /// `None` after an error: opened anew by the next call.
    conn: Option<Connection>,
    /// The log may end with what no sync brought to disk.
    doubtful: bool,
    /// The last to go.
    _lock: Lock,
}

impl SqliteStore {
    /// Opens the spool of `pair` in the file `path`, which is made if it is not there; its
    /// directory must be. Takes the same time however much waits. Blocks for as long as the disk
    /// takes, and up to ten seconds if a reader recovers the file at the moment.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] if another process has it, [`StoreError::Foreign`] if it is no spool of
    /// this pair and version, others of the disk.
    pub fn open(path: &Path, pair: &str, quota: Quota) -> Result<Self, StoreError> {
        let what = name(path, pair);
        let fail = |fault: Fault| schema::error(&what, fault);
        let usual = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if pair.is_empty() || pair.len() > PAIR_NAME_MAX || !pair.chars().all(usual) {
            let cause = "its name has to be 1 to 64 letters, digits, `-` or `_`".to_owned();
            return Err(fail(Fault::Failed(cause)));
        }
        let lock = Lock::take(&path.with_file_name(format!("{pair}.lock"))).map_err(fail)?;
        let reserve = path.with_file_name(format!("{pair}.reserve"));
        let reserve = Reserve::new(reserve, quota.bytes);
        let (path, pair) = (path.to_owned(), pair.to_owned());
        let mut store =
            Self { path, pair, quota, reserve, conn: None, doubtful: false, _lock: lock };
        schema::create(&store.path, &store.pair).map_err(fail)?;
        // Whoever had it before may have died of a disk that does not sync, and what it did not
        // acknowledge may stand in the log.
        store.doubtful = true;
        if let Err(fault) = store.connected() {
            let retry = matches!(fault, Fault::Full) && store.reserve.spend();
            if !retry {
                return Err(fail(fault));
            }
            store.connected().map_err(fail)?;
        }
        store.mend_counters().map_err(fail)?;
        // Without room for it the store opens all the same: what waits can be drained.
        if let Err(e) = store.reserve.restore() {
            log::warn!("spool {what}: no room for its reserve, so nothing is accepted: {e}");
        }
        Ok(store)
    }

    /// Reads the spool in the file `path`, whether or not a front holds it at the moment.
    ///
    /// # Errors
    ///
    /// [`StoreError::Foreign`] if it is no spool of this version, others of the disk. Blocks like
    /// [`SqliteStore::open`].
    pub fn open_reader(path: &Path) -> Result<SqliteReader, StoreError> {
        SqliteReader::open(path)
    }

    /// The open file. After an error: opened anew, and all that is in the log brought into it.
    fn connected(&mut self) -> Result<&Connection, Fault> {
        let conn = match self.conn.take() {
            Some(conn) if conn.is_autocommit() => conn,
            // A call that panicked has left its transaction open.
            Some(conn) => {
                drop(conn);
                self.doubtful = true;
                schema::open_writer(&self.path, &self.pair, self.reserve.log_pages())?
            }
            None => schema::open_writer(&self.path, &self.pair, self.reserve.log_pages())?,
        };
        if self.doubtful {
            schema::cut_log(&conn)?;
            probe(&conn)?;
            self.doubtful = false;
        }
        Ok(self.conn.insert(conn))
    }

    /// Counts anew where the counters cannot be right: by them a front decides whether anything has
    /// to come before a new request.
    fn mend_counters(&mut self) -> Result<(), Fault> {
        let conn = self.connected()?;
        match adds_up(conn) {
            Ok(true) => return Ok(()),
            Ok(false) => log::error!("spool {}: its counters are wrong, mended", self.pair),
            Err(e) => return Err(e.into()),
        }
        let mended = self.transact(&mut |writing| writing.recount(), &|_| ());
        if matches!(mended, Err(Fault::Full)) && self.reserve.spend() {
            return self.transact(&mut |writing| writing.recount(), &|_| ());
        }
        mended
    }

    /// One transaction. `reach` is told before and after the commit.
    fn transact<T>(
        &mut self,
        job: &mut dyn FnMut(&mut Writing<'_>) -> Result<T, Stop>,
        reach: &dyn Fn(Moment),
    ) -> Result<T, Fault> {
        let mut met = Met::default();
        loop {
            let conn = self.connected()?;
            let (stop, over) = match prepare(conn, job, &met) {
                Ok((result, serial)) => {
                    reach(Moment::BeforeCommit);
                    let committed = run(conn, "COMMIT");
                    let committed = committed.or_else(|e| self.was_committed(serial, e.into()));
                    return committed.map(|()| {
                        reach(Moment::AfterCommit);
                        result
                    });
                }
                Err(stop) => (stop, conn.is_autocommit() || run(conn, "ROLLBACK").is_ok()),
            };
            if !over {
                self.conn = None;
            }
            match stop {
                Stop::Row { lsn, cause } if met.has_room_for(lsn) => {
                    log::error!("spool {}: {lsn} is set aside: {cause}", self.pair);
                    met.broken.push((lsn, cause));
                }
                Stop::Body { lsn, cause } if met.has_room_for(lsn) => {
                    log::error!("spool {}: the bytes of {lsn} are stuck: {cause}", self.pair);
                    met.stuck.push(lsn);
                }
                Stop::Row { cause, .. } | Stop::Body { cause, .. } => {
                    return Err(Fault::Damaged(cause));
                }
                // Without the commit nothing of it is there.
                Stop::Fault(Fault::Failed(cause)) => {
                    self.conn = None;
                    self.doubtful = true;
                    return Err(Fault::Failed(cause));
                }
                Stop::Fault(fault) => return Err(fault),
            }
        }
    }

    /// After an error of a commit: whether it is on disk nevertheless.
    fn was_committed(&mut self, serial: u64, fault: Fault) -> Result<(), Fault> {
        if matches!(fault, Fault::Full)
            && let Some(conn) = &self.conn
            && (conn.is_autocommit() || run(conn, "ROLLBACK").is_ok())
            && counters(conn).is_ok_and(|now| now.serial < serial)
        {
            // Its last page, which makes it one, could not be written.
            return Err(Fault::Full);
        }
        self.conn = None;
        self.doubtful = true;
        let cause = match fault {
            Fault::Failed(cause) | Fault::Damaged(cause) | Fault::Unknown(cause) => cause,
            other => format!("{other:?}"),
        };
        log::error!("spool {}: a commit failed, the file is opened anew: {cause}", self.pair);
        let there = self.connected().and_then(|conn| Ok(counters(conn)?.serial >= serial));
        match there {
            Ok(true) => Ok(()),
            Ok(false) => Err(Fault::Failed(cause)),
            Err(later) => {
                Err(Fault::Unknown(format!("{cause}; it could not be opened anew: {later:?}")))
            }
        }
    }

    /// Makes sure that whatever the disk does, what an append leaves in the log can be written into
    /// the file with what is set aside.
    fn make_room(&mut self, batch: &Batch) -> Result<(), Fault> {
        let bytes = room_for(batch, self.quota);
        self.restore_reserve()?;
        self.reserve.cover(bytes)?;
        let limit = self.reserve.log_pages() * PAGE;
        let conn = self.connected()?;
        let log = schema::log_bytes(conn)?;
        if log == 0 || log.saturating_add(bytes) <= limit || schema::try_cut_log(conn)? {
            return Ok(());
        }
        // A reader holds it. It may grow a little more until that one has ended.
        let log = schema::log_bytes(conn)?;
        if log == 0 || log.saturating_add(bytes) <= 2 * limit {
            return Ok(());
        }
        log::warn!("spool {}: a reader holds its log, so nothing is accepted", self.pair);
        Err(Fault::Full)
    }

    /// Writes ends on a disk that has no room for all of them at once: a few in one transaction,
    /// and without long answers. What is left after an error ends when it is told again.
    fn end_sparingly(&mut self, batch: &Batch) -> Result<Vec<Appended>, Fault> {
        log::warn!("spool {}: the disk is full, long answers are not kept", self.pair);
        let quota = self.quota;
        let finish: Vec<_> = batch.finish.iter().map(|(lsn, end)| (*lsn, short(end))).collect();
        for part in finish.chunks(SPARING) {
            let part = Batch { finish: part.to_vec(), ..Batch::default() };
            let _cut = self.connected().and_then(schema::try_cut_log);
            self.transact(&mut |writing: &mut Writing<'_>| writing.batch(&part, quota), &|_| ())?;
        }
        let rest = Batch { finish: Vec::new(), ..batch.clone() };
        self.transact(&mut |writing: &mut Writing<'_>| writing.batch(&rest, quota), &|_| ())
    }

    /// Takes the reserve up again after it was spent. Where the disk has no room for it, the empty
    /// pages of a drained file have: they go to the file system.
    fn restore_reserve(&mut self) -> Result<(), Fault> {
        let Err(e) = self.reserve.restore() else { return Ok(()) };
        let fault = Fault::from(e);
        if !matches!(fault, Fault::Full) {
            return Err(fault);
        }
        // Each step moves pages by way of the log, so it is cut after each.
        let (pages, step) = (self.reserve.pages(), self.reserve.log_pages() / 2);
        let conn = self.connected()?;
        let free = conn.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0))?;
        if free.cast_unsigned() < 2 * pages {
            return Err(Fault::Full);
        }
        for _ in 0..2 * pages.div_ceil(step) {
            schema::vacuum(conn, step)?;
            schema::cut_log(conn)?;
        }
        Ok(self.reserve.restore()?)
    }

    /// Gives pages back to the file system, a few at a time, if most of the file is empty.
    fn shrink(&mut self) -> Result<(), Fault> {
        let conn = self.connected()?;
        let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
        let free = number("PRAGMA freelist_count")?.cast_unsigned();
        let all = number("PRAGMA page_count")?.cast_unsigned();
        if free > 2 * VACUUM_PAGES && free > all / 2 {
            schema::vacuum(conn, VACUUM_PAGES)?;
        }
        Ok(())
    }

    /// Reads something small.
    fn look<T>(
        &mut self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, StoreError> {
        let looked = self.connected().and_then(|conn| Ok(read(conn)?));
        looked.map_err(|fault| {
            self.conn = None;
            self.error(fault)
        })
    }

    fn error(&self, fault: Fault) -> StoreError {
        schema::error(&name(&self.path, &self.pair), fault)
    }
}

/// Where a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    BeforeCommit,
    AfterCommit,
}

/// Bytes that an append takes up in the log. What is over the quota is not written.
fn room_for(batch: &Batch, quota: Quota) -> u64 {
    let own = batch.append.iter().map(|new| new.record.weight()).fold(0, u64::saturating_add);
    let own = own.min(quota.bytes);
    let scattered = (batch.append.len() as u64).saturating_mul(SCATTERED);
    own.saturating_add(own / 32).saturating_add(scattered).saturating_add(8 * PAGE)
}

/// An end without an answer that is long.
fn short(end: &Finish) -> Finish {
    match end {
        Finish::Done { answer } if answer.len() > SHORT => Finish::Done { answer: Vec::new() },
        end => end.clone(),
    }
}

/// Everything of a transaction but its commit: what it gives, and its serial number.
fn prepare<T>(
    conn: &Connection,
    job: &mut dyn FnMut(&mut Writing<'_>) -> Result<T, Stop>,
    met: &Met,
) -> Result<(T, u64), Stop> {
    run(conn, "BEGIN IMMEDIATE")?;
    let mut writing = Writing::new(conn, met)?;
    for (lsn, cause) in &met.broken {
        writing.set_broken(*lsn, cause)?;
    }
    let result = job(&mut writing)?;
    writing.end()?;
    Ok((result, writing.counters.serial))
}

fn run(conn: &Connection, sql: &str) -> Result<(), rusqlite::Error> {
    conn.prepare_cached(sql)?.execute([]).map(|_| ())
}

/// A commit that changes nothing that matters: whether the disk takes one.
fn probe(conn: &Connection) -> Result<(), Fault> {
    conn.execute("UPDATE meta SET probes = probes + 1", [])?;
    Ok(())
}

fn name(path: &Path, pair: &str) -> String {
    format!("{pair} ({})", path.display())
}

/// The lock of a pair, held while it lives.
#[derive(Debug)]
struct Lock(File);

impl Lock {
    fn take(path: &Path) -> Result<Self, Fault> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let until = Instant::now() + LOCK_PATIENCE;
        let locked = loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(5));
                }
                locked => break locked,
            }
        };
        match locked {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Fault::Held),
            Err(e) => Err(Fault::Failed(format!("{} cannot be locked: {e}", path.display()))),
        }
    }

    /// Whether nobody has it. Has it for a moment itself; whoever opens the store waits that long.
    fn is_free(path: &Path) -> Result<bool, Fault> {
        let file = match File::open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(true),
            file => file?,
        };
        Ok(flock(&file, FlockOperation::NonBlockingLockShared).is_ok())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // To close it is not enough: a child that has not yet become another program has it too.
        let _gone = flock(&self.0, FlockOperation::Unlock);
    }
}

impl SpoolStore for SqliteStore {
    fn commit(&mut self, batch: &Batch) -> Result<Vec<Appended>, StoreError> {
        failpoint::reach("store.begin");
        let (appends, ends) = (!batch.append.is_empty(), !batch.finish.is_empty());
        if appends {
            self.make_room(batch).map_err(|fault| self.error(fault))?;
        }
        let quota = self.quota;
        let mut job = |writing: &mut Writing<'_>| writing.batch(batch, quota);
        let reach = |moment| match moment {
            Moment::BeforeCommit => {
                failpoint::reach("store.before_commit");
                if ends {
                    failpoint::reach("store.finish.before_commit");
                }
            }
            Moment::AfterCommit => {
                failpoint::reach("store.after_commit");
                if ends {
                    failpoint::reach("store.finish.after_commit");
                }
            }
        };
        let mut result = self.transact(&mut job, &reach);
        if !appends && matches!(result, Err(Fault::Full)) && self.reserve.spend() {
            log::warn!("spool {}: the disk is full, ends are written with the reserve", self.pair);
            // A cut log is room as well. What hinders it shows in the commit.
            let _cut = self.connected().and_then(schema::cut_log);
            result = self.transact(&mut job, &reach);
        }
        if !appends && ends && matches!(result, Err(Fault::Full)) {
            result = self.end_sparingly(batch);
        }
        result.map_err(|fault| self.error(fault))
    }

    fn quarantine(&mut self, lsn: u64, what: &str) -> Result<(), StoreError> {
        let mut job = |writing: &mut Writing<'_>| writing.quarantine(lsn, what);
        self.transact(&mut job, &|_| ()).map_err(|fault| self.error(fault))
    }

    fn state(&mut self) -> Result<PairState, StoreError> {
        self.look(read::pair_state)
    }

    fn totals(&mut self) -> Result<Totals, StoreError> {
        self.look(read::totals)
    }

    fn forget(&mut self, before_ms: u64, limit: usize) -> Result<u64, StoreError> {
        let mut job = |writing: &mut Writing<'_>| writing.forget(before_ms, limit);
        // Most of the time there is nothing, and nothing is written.
        let forgotten = match self.connected().and_then(|conn| Ok(has_ended(conn, before_ms)?)) {
            Ok(true) => self.transact(&mut job, &|_| ()),
            Ok(false) => Ok(0),
            Err(fault) => {
                self.conn = None;
                Err(fault)
            }
        };
        let forgotten = forgotten.and_then(|count| self.shrink().map(|()| count));
        if self.restore_reserve().is_err() {
            log::debug!("spool {}: still no room for its reserve", self.pair);
        }
        forgotten.map_err(|fault| self.error(fault))
    }

    fn reader(&self) -> Result<Box<dyn SpoolReader>, StoreError> {
        Ok(Box::new(SqliteReader::open(&self.path)?))
    }
}
