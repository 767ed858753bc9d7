//! The tables of partitions in files of SQLite, one for each: the store that needs no server.
//!
//! For the partition `P` there are in the folder: `P.db`; `P.db-wal` and `P.db-shm` (SQLite's own);
//! `P.lock` (locked by the process that has it open); `P.reserve` (6 MiB, given up to open the
//! store on a full disk); `P.snapshots`; and `P.db.damaged-MS`, at most three files that were set
//! aside, with the milliseconds since 1970. They belong on a local disk: SQLite's locks and its log
//! are not made for network file systems.
//!
//! A commit is one write to the log and one sync. The log is written into the file whenever it has
//! 4 MiB. Whoever reads a snapshot hinders its being cut; when it comes to the size of the quota
//! (64 MiB to 1 GiB) for that reason, the reading is stopped. The file does not shrink: pages that
//! purged records leave are used again, and no table is longer than it once was.
//!
//! After an error, but for a record over the quota, each call fails until the store is opened anew.
//! One that is opened after its disk was full refuses registrations, as if they were over the
//! quota, until there are 5 MiB again; all else is tried.

mod fault;
mod file;
mod read;
mod snapshot;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};

use self::fault::Fault;
use self::file::{Lock, Reserve};
use self::read::{int, select};
use self::snapshot::{Signals, SqliteSnapshot};
use super::book::{Book, RUNS_KEPT, Run, row_checksum, taken_checksum};
use super::{Opens, Position, Quota, Result, Row, Snapshot, Store, StoreError, Totals};
use crate::model::{ControllerId, Location, Record};

/// How often a store whose disk was full looks whether there is room again.
const LOOK_EVERY: Duration = Duration::from_secs(2);

type Outcome<T> = std::result::Result<T, Fault>;

/// The stores of a controller in one folder.
#[derive(Debug, Clone)]
pub struct SqliteStores {
    folder: PathBuf,
    quota: Quota,
    full: WereFull,
}

/// The partitions whose disk was full when something was written last.
type WereFull = Arc<Mutex<HashSet<String>>>;

impl SqliteStores {
    /// In this folder, which is made when the first store is opened; the quota is of each.
    #[must_use]
    pub fn new(folder: &Path, quota: Quota) -> Self {
        Self { folder: folder.to_owned(), quota, full: WereFull::default() }
    }

    fn path(&self, partition: &ControllerId, suffix: &str) -> PathBuf {
        self.folder.join(format!("{partition}{suffix}"))
    }

    fn held<T>(
        &self,
        partition: &ControllerId,
        job: impl FnOnce(&Path, Lock) -> Outcome<T>,
    ) -> Result<T> {
        let path = self.path(partition, ".db");
        let locked = || {
            fs::create_dir_all(self.folder(partition))?;
            Lock::take(&self.path(partition, ".lock"))
        };
        let done = locked().and_then(|lock| job(&path, lock));
        done.map_err(|fault| fault.of(&name(partition.as_str(), &path), &path))
    }
}

fn locked(full: &WereFull) -> MutexGuard<'_, HashSet<String>> {
    full.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How errors call a store.
fn name(partition: &str, path: &Path) -> String {
    format!("the table of {partition} ({})", path.display())
}

impl Opens for SqliteStores {
    /// Takes the same time however much is there. Waits up to ten seconds for whoever reads the
    /// file.
    fn open(&self, partition: &ControllerId) -> Result<Box<dyn Store>> {
        let open = |path: &Path, lock| SqliteStore::open(path, partition, self.quota, lock);
        let mut store = self.held(partition, open)?;
        store.full = Arc::clone(&self.full);
        if locked(&store.full).contains(partition.as_str()) {
            store.look_at = Some(Instant::now());
        }
        Ok(Box::new(store))
    }

    fn set_aside(&self, partition: &ControllerId) -> Result<()> {
        self.held(partition, |path, _lock| file::set_aside(path))
    }

    fn folder(&self, partition: &ControllerId) -> PathBuf {
        self.path(partition, ".snapshots")
    }
}

/// One of them.
#[derive(Debug)]
struct SqliteStore {
    conn: Connection,
    path: PathBuf,
    partition: String,
    book: Book,
    /// The run that is to be written with the next transaction.
    unwritten: Option<Run>,
    /// A transaction is open in SQLite, with something in it.
    writing: bool,
    full: WereFull,
    /// Its disk was full: when to see next whether there is room again.
    look_at: Option<Instant>,
    /// What has gone wrong.
    broken: Option<String>,
    /// Bytes of the log from which on nobody may read a snapshot.
    log_max: u64,
    signals: Arc<Signals>,
    /// The last to go.
    _lock: Lock,
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.signals.close();
    }
}

impl SqliteStore {
    fn open(path: &Path, partition: &ControllerId, quota: Quota, lock: Lock) -> Outcome<Self> {
        file::create(path, partition.as_str())?;
        let reserve = Reserve(path.with_extension("reserve"));
        let conn = match file::open_writer(path, partition.as_str()) {
            Err(Fault::Full | Fault::Unwritten(_)) if reserve.spend() => {
                file::open_writer(path, partition.as_str())?
            }
            opened => opened?,
        };
        let now = read::counters(&conn, partition.as_str())?;
        let mut runs = read::runs(&conn)?;
        if runs.last().is_some_and(|last| last.began > now.head) {
            return Err(Fault::Damaged("a run began after its last change".to_owned()));
        }
        runs.drain(..(runs.len() + 1).saturating_sub(RUNS_KEPT));
        let no_randomness = || Fault::Failed("the system has no randomness".to_owned());
        let run = Run::new(now.head).ok_or_else(no_randomness)?;
        let mut store = Self {
            conn,
            path: path.to_owned(),
            partition: partition.to_string(),
            book: Book::new(quota, runs, run, now),
            unwritten: Some(run),
            writing: false,
            full: WereFull::default(),
            look_at: None,
            broken: None,
            log_max: quota.bytes.clamp(64 << 20, 1 << 30),
            signals: Arc::default(),
            _lock: lock,
        };
        match store.begin().and_then(|()| store.end()) {
            Ok(()) => {}
            // What is there can be read; the first write that finds room has the run with it.
            Err(fault)
                if fault.is_full(path)
                    && (store.conn.is_autocommit() || store.run("ROLLBACK").is_ok()) =>
            {
                log::warn!("{}: no room left for anything new", store.name());
                store.look_at = Some(Instant::now());
                store.unwritten = Some(run);
                store.writing = false;
            }
            Err(fault) => return Err(fault),
        }
        match reserve.restore() {
            Ok(true) => {}
            Ok(false) => {
                log::warn!("{}: its disk is nearly full", store.name());
                store.look_at = Some(Instant::now());
            }
            Err(error) => log::warn!("{}: no room can be set aside: {error}", store.name()),
        }
        Ok(store)
    }

    fn name(&self) -> String {
        name(&self.partition, &self.path)
    }

    fn run(&self, sql: &str) -> Outcome<usize> {
        Ok(self.conn.prepare_cached(sql)?.execute([])?)
    }

    /// Does one call, unless one has failed.
    fn call<T>(&mut self, job: impl FnOnce(&mut Self) -> Outcome<T>) -> Result<T> {
        if let Some(cause) = &self.broken {
            let cause = format!("it has to be opened anew, after: {cause}");
            return Err(StoreError::Failed { what: self.name(), cause });
        }
        job(self).map_err(|fault| {
            let begun = !matches!(fault, Fault::Quota);
            let error = fault.of(&self.name(), &self.path);
            if begun {
                if matches!(error, StoreError::Full { .. }) {
                    locked(&self.full).insert(self.partition.clone());
                }
                self.broken = Some(error.to_string());
                self.signals.close();
            }
            error
        })
    }

    /// Whether a registration would only find that the disk is still full, and with that end all
    /// that is under way here.
    fn is_refused(&mut self, record: &Record, from: Option<&ControllerId>) -> bool {
        let Some(at) = self.look_at else { return false };
        let is_new = || Location::from_record(record).is_ok_and(|location| location.stands());
        if from.is_some() || !is_new() {
            return false;
        }
        let now = Instant::now();
        if now < at {
            return true;
        }
        let has_room = fault::has_room(&self.path);
        if has_room {
            locked(&self.full).remove(&self.partition);
        }
        self.look_at = (!has_room).then(|| now + LOOK_EVERY);
        !has_room
    }

    /// Begins a transaction if none is open.
    fn begin(&mut self) -> Outcome<()> {
        if self.writing {
            return Ok(());
        }
        self.run("BEGIN IMMEDIATE")?;
        self.writing = true;
        if let Some(run) = self.unwritten {
            self.conn.execute(
                "INSERT INTO run (run, began, crc) VALUES (?1, ?2, ?3)",
                params![run.id.to_le_bytes(), int(run.began), run.checksum()],
            )?;
            self.conn.execute(
                "DELETE FROM run WHERE number NOT IN
                 (SELECT number FROM run ORDER BY number DESC LIMIT ?1)",
                [int(RUNS_KEPT as u64)],
            )?;
        }
        Ok(())
    }

    fn end(&mut self) -> Outcome<()> {
        if !self.writing {
            return Ok(());
        }
        let now = self.book.now;
        self.conn
            .prepare_cached(
                "UPDATE meta SET head = ?1, floor = ?2, records = ?3, bytes = ?4, crc = ?5",
            )?
            .execute(params![
                int(now.head),
                int(now.floor),
                int(now.totals.records),
                int(now.totals.bytes),
                now.checksum(&self.partition),
            ])?;
        self.run("COMMIT")?;
        self.writing = false;
        self.unwritten = None;
        let log = fs::metadata(file::beside(&self.path, "-wal")).map_or(0, |meta| meta.len());
        if log > self.log_max {
            self.signals.give_way();
        }
        Ok(())
    }

    fn weight(&self, kind: u16, key: &[u8]) -> Outcome<Option<u64>> {
        let sql = "SELECT length(rank) + length(body) FROM record WHERE kind = ?1 AND key = ?2";
        let mut statement = self.conn.prepare_cached(sql)?;
        let own: Option<i64> =
            statement.query_row(params![kind, key], |row| row.get(0)).optional()?;
        let bare = Record { kind, key: key.to_vec(), rank: Vec::new(), body: Vec::new() };
        Ok(own.map(|own| own.max(0).cast_unsigned() + bare.weight() as u64))
    }

    fn put_row(&mut self, record: &Record, from: Option<&ControllerId>) -> Outcome<u64> {
        if self.is_refused(record, from) {
            return Err(Fault::Quota);
        }
        let replaced = self.weight(record.kind, &record.key)?;
        let room = self.book.room(record);
        let fits = replaced
            .map_or(room.new, |old| record.weight() as u64 <= old.saturating_add(room.growth));
        if !fits {
            return Err(Fault::Quota);
        }
        self.begin()?;
        let lsn = self.book.put(record, replaced);
        let mut statement = self.conn.prepare_cached(
            "INSERT INTO record (kind, key, lsn, origin, crc, rank, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (kind, key) DO UPDATE SET lsn = excluded.lsn, origin = excluded.origin,
             crc = excluded.crc, rank = excluded.rank, body = excluded.body",
        )?;
        let crc = row_checksum(record, lsn, from);
        let origin = from.map_or("", ControllerId::as_str);
        let Record { kind, key, rank, body } = record;
        statement.execute(params![kind, key, int(lsn), origin, crc, rank, body])?;
        Ok(lsn)
    }

    /// The rows of a query, at most so many bytes of them unless the first has more.
    fn rows(&self, sql: &str, params: impl rusqlite::Params, bytes: usize) -> Outcome<Vec<Row>> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        let mut all = Vec::new();
        let mut sum = 0_usize;
        while let Some(row) = rows.next()? {
            let row = read::row(row)?;
            sum = sum.saturating_add(row.record.weight());
            if sum > bytes && !all.is_empty() {
                break;
            }
            all.push(row);
        }
        Ok(all)
    }

    fn purge_row(&mut self, kind: u16, key: &[u8], lsn: u64) -> Outcome<()> {
        let Some(weight) = self.weight(kind, key)? else { return Ok(()) };
        self.begin()?;
        let gone = self
            .conn
            .prepare_cached("DELETE FROM record WHERE kind = ?1 AND key = ?2 AND lsn = ?3")?
            .execute(params![kind, key, int(lsn)])?;
        if gone > 0 {
            self.book.purged(weight, lsn);
        }
        Ok(())
    }

    fn write_taken(&mut self, partner: &str, position: Option<Position>) -> Outcome<()> {
        self.begin()?;
        match position {
            Some(position) => self
                .conn
                .prepare_cached("INSERT OR REPLACE INTO taken VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![
                    partner,
                    position.run.to_le_bytes(),
                    int(position.lsn),
                    taken_checksum(partner, position),
                ])?,
            None => self
                .conn
                .prepare_cached("DELETE FROM taken WHERE partner = ?1")?
                .execute([partner])?,
        };
        Ok(())
    }
}

impl Store for SqliteStore {
    fn run(&self) -> u128 {
        self.book.run()
    }

    fn head(&self) -> u64 {
        self.book.now.head
    }

    fn floor(&self) -> u64 {
        self.book.now.floor
    }

    fn reaches(&self, position: Position) -> Result<bool> {
        Ok(self.book.reaches(position))
    }

    fn get(&mut self, kind: u16, key: &[u8]) -> Result<Option<Row>> {
        let sql = select!("WHERE kind = ?1 AND key = ?2");
        self.call(|store| Ok(store.rows(sql, params![kind, key], usize::MAX)?.pop()))
    }

    /// What is over the quota is refused before anything of it is written, and the transaction goes
    /// on without it.
    fn put(&mut self, record: &Record, from: Option<&ControllerId>) -> Result<u64> {
        self.call(|store| store.put_row(record, from))
    }

    fn changes(&mut self, after: u64, count: usize, bytes: usize) -> Result<Vec<Row>> {
        let sql = select!("WHERE lsn > ?1 ORDER BY lsn LIMIT ?2");
        self.call(|store| store.rows(sql, params![int(after), int(count as u64)], bytes))
    }

    fn count_after(&mut self, after: u64, most: u64) -> Result<u64> {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM record WHERE lsn > ?1 LIMIT ?2)";
        self.call(|store| {
            let mut statement = store.conn.prepare_cached(sql)?;
            let count = statement.query_row([int(after), int(most)], |row| row.get::<_, i64>(0))?;
            Ok(count.max(0).cast_unsigned())
        })
    }

    fn scan(&mut self, after: Option<(u16, &[u8])>, count: usize) -> Result<Vec<Row>> {
        let count = int(count as u64);
        self.call(|store| match after {
            None => store.rows(select!("ORDER BY kind, key LIMIT ?1"), [count], usize::MAX),
            Some((kind, key)) => {
                let sql = select!("WHERE (kind, key) > (?1, ?2) ORDER BY kind, key LIMIT ?3");
                store.rows(sql, params![kind, key, count], usize::MAX)
            }
        })
    }

    fn purge(&mut self, rows: &[(u16, Vec<u8>, u64)]) -> Result<()> {
        self.call(|store| {
            rows.iter().try_for_each(|(kind, key, lsn)| store.purge_row(*kind, key, *lsn))
        })
    }

    fn taken(&mut self, partner: &ControllerId) -> Result<Option<Position>> {
        self.call(|store| read::taken(&store.conn, partner.as_str()))
    }

    fn set_taken(&mut self, partner: &ControllerId, position: Option<Position>) -> Result<()> {
        self.call(|store| store.write_taken(partner.as_str(), position))
    }

    fn totals(&mut self) -> Result<Totals> {
        self.call(|store| Ok(store.book.now.totals))
    }

    fn commit(&mut self) -> Result<()> {
        self.call(Self::end)
    }

    fn snapshots(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(SqliteSnapshot {
            path: self.path.clone(),
            partition: self.partition.clone(),
            what: self.name(),
            signals: Arc::clone(&self.signals),
        }))
    }
}
