//! The tables of partitions in PostgreSQL (13 or later): for a site with several nodes, one of
//! which serves a partition at a time.
//!
//! Each partition has a schema of its own, so that a damaged one is set aside by its name. The
//! session that writes holds an advisory lock: another node is refused ([`StoreError::Held`]) until
//! the server has ended that session, which it does some ten seconds after a node is gone. A
//! transaction ends with its session, so a node that was cut off cannot write beside the next. For
//! that the parameters have to name the server itself, or a pooler that keeps sessions together;
//! and the user has to be allowed to create schemas in the database.
//!
//! Calls block, and none may be made from a thread of tokio's. A statement is bounded by
//! [`PostgresConfig::call_timeout`], by the server; a server that cannot be reached, by the system
//! after the same time. A commit waits for a synchronous replica for as long as the server does.
//!
//! After an error, but for a record over the quota, each call fails until the store is opened anew.
//! A commit whose answer is lost is `Failed`: what became of it shows in the store opened anew.

mod fault;
mod schema;
mod snapshot;
mod sql;

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::types::ToSql;
use postgres::{Client, Row as SqlRow, Statement};

use self::fault::Fault;
use self::schema::Schema;
use self::snapshot::PostgresSnapshot;
use self::sql::{Sql, int};
use super::book::{Book, RUNS_KEPT, Run, row_checksum, taken_checksum};
use super::{Opens, Position, Quota, Result, Row, Snapshot, Store, StoreError, Totals};
use crate::model::{ControllerId, Record};

type Outcome<T> = std::result::Result<T, Fault>;

/// Rows that are asked for at once.
const PAGE_ROWS: usize = 256;

/// How the server is reached, and what is where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// As libpq has it: `host=... user=... dbname=...`, or a URL. Without TLS: a socket of the same
    /// machine, or a network that is trusted.
    pub params: String,
    /// How the names of the schemas begin: two sites in one database need two.
    pub prefix: String,
    /// How long one statement may take, and a connection to be made.
    pub call_timeout: Duration,
    /// Where the partitions' folders for snapshots are, on this node.
    pub folder: PathBuf,
}

/// The stores of a controller's partitions on one server.
#[derive(Debug, Clone)]
pub struct PostgresStores {
    config: Arc<PostgresConfig>,
    quota: Quota,
}

impl PostgresStores {
    /// Connects with each opening. The quota is of each partition.
    #[must_use]
    pub fn new(config: PostgresConfig, quota: Quota) -> Self {
        Self { config: Arc::new(config), quota }
    }

    fn held<T>(
        &self,
        partition: &ControllerId,
        job: impl FnOnce(Client, &Schema) -> Outcome<T>,
    ) -> Result<T> {
        let schema = Schema::new(&self.config.prefix, partition);
        let done = fault::connect(&self.config, partition).and_then(|mut client| {
            schema.lock(&mut client)?;
            job(client, &schema)
        });
        done.map_err(|fault| fault.of(&schema.what()))
    }
}

impl Opens for PostgresStores {
    /// Takes the same time however much is there: at most three of
    /// [`PostgresConfig::call_timeout`].
    fn open(&self, partition: &ControllerId) -> Result<Box<dyn Store>> {
        let open = |client, schema: &Schema| {
            PostgresStore::open(client, schema, partition, self.quota, &self.config)
        };
        let store = self.held(partition, open)?;
        // Only snapshots need it, and tell what is wrong with it.
        if let Err(e) = fs::create_dir_all(self.folder(partition)) {
            log::warn!("{} cannot be made: {e}", self.folder(partition).display());
        }
        Ok(Box::new(store))
    }

    /// Renames its schema; the oldest of more than three that were set aside goes.
    fn set_aside(&self, partition: &ControllerId) -> Result<()> {
        self.held(partition, |mut client, schema| schema.set_aside(&mut client))
    }

    fn folder(&self, partition: &ControllerId) -> PathBuf {
        self.config.folder.join(format!("{partition}.snapshots"))
    }
}

/// One of them.
struct PostgresStore {
    client: Client,
    sql: Sql,
    schema: Schema,
    partition: ControllerId,
    config: Arc<PostgresConfig>,
    book: Book,
    /// The run that is to be written with the next transaction.
    unwritten: Option<Run>,
    /// A transaction is open at the server, with something in it.
    writing: bool,
    /// What has gone wrong.
    broken: Option<String>,
    closed: Arc<AtomicBool>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("partition", &self.partition).finish_non_exhaustive()
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

impl PostgresStore {
    fn open(
        mut client: Client,
        schema: &Schema,
        partition: &ControllerId,
        quota: Quota,
        config: &Arc<PostgresConfig>,
    ) -> Outcome<Self> {
        schema.create(&mut client, partition)?;
        let sql = Sql::prepare(&mut client)?;
        let now = sql::counters(&mut client, partition)?;
        let mut runs = sql::runs(&mut client)?;
        if runs.last().is_some_and(|last| last.began > now.head) {
            return Err(Fault::Damaged("a run began after its last change".to_owned()));
        }
        runs.drain(..(runs.len() + 1).saturating_sub(RUNS_KEPT));
        let no_randomness = || Fault::Failed("the system has no randomness".to_owned());
        let run = Run::new(now.head).ok_or_else(no_randomness)?;
        let mut store = Self {
            client,
            sql,
            schema: schema.clone(),
            partition: partition.clone(),
            config: Arc::clone(config),
            book: Book::new(quota, runs, run, now),
            unwritten: Some(run),
            writing: false,
            broken: None,
            closed: Arc::default(),
        };
        store.begin()?;
        store.end()?;
        Ok(store)
    }

    /// Does one call, unless one has failed.
    fn call<T>(&mut self, job: impl FnOnce(&mut Self) -> Outcome<T>) -> Result<T> {
        let what = self.schema.what();
        if let Some(cause) = &self.broken {
            let cause = format!("it has to be opened anew, after: {cause}");
            return Err(StoreError::Failed { what, cause });
        }
        job(self).map_err(|fault| {
            let begun = !matches!(fault, Fault::Quota);
            let error = fault.of(&what);
            if begun {
                self.broken = Some(error.to_string());
                self.closed.store(true, Ordering::Relaxed);
            }
            error
        })
    }

    /// Begins a transaction if none is open.
    fn begin(&mut self) -> Outcome<()> {
        if self.writing {
            return Ok(());
        }
        self.client.batch_execute("BEGIN")?;
        self.writing = true;
        if let Some(run) = self.unwritten {
            self.client.execute(
                "INSERT INTO run (run, began, crc) VALUES ($1, $2, $3)",
                &[&&run.id.to_le_bytes()[..], &int(run.began), &i64::from(run.checksum())],
            )?;
            self.client.execute(
                "DELETE FROM run WHERE number NOT IN
                 (SELECT number FROM run ORDER BY number DESC LIMIT $1)",
                &[&int(RUNS_KEPT as u64)],
            )?;
        }
        Ok(())
    }

    fn end(&mut self) -> Outcome<()> {
        if !self.writing {
            return Ok(());
        }
        let now = self.book.now;
        let crc = i64::from(now.checksum(self.partition.as_str()));
        let Totals { records, bytes } = now.totals;
        let numbers = [int(now.head), int(now.floor), int(records), int(bytes), crc];
        let params = numbers.each_ref().map(|number| number as &(dyn ToSql + Sync));
        self.client.execute(&self.sql.counters, &params)?;
        self.client.batch_execute("COMMIT")?;
        self.writing = false;
        self.unwritten = None;
        Ok(())
    }

    /// One message to the server: it finds out what is replaced, and whether that fits.
    fn put_row(&mut self, record: &Record, from: Option<&ControllerId>) -> Outcome<u64> {
        self.begin()?;
        let room = self.book.room(record);
        let lsn = self.book.now.head + 1;
        let crc = i64::from(row_checksum(record, lsn, from));
        let origin = from.map_or("", ControllerId::as_str);
        let Record { kind, key, rank, body } = record;
        let row = self.client.query_one(
            &self.sql.put,
            &[
                &i32::from(*kind),
                key,
                &int(lsn),
                &origin,
                &crc,
                rank,
                body,
                &room.new,
                &int(room.growth.min(1 << 40)),
            ],
        )?;
        let (old, put): (Option<i32>, bool) = (row.try_get(0)?, row.try_get(1)?);
        if !put {
            return Err(Fault::Quota);
        }
        Ok(self.book.put(record, old.map(|bytes| sql::weight(key, bytes))))
    }

    fn rows(&mut self, which: Which, params: &[&(dyn ToSql + Sync)]) -> Outcome<Vec<SqlRow>> {
        Ok(self.client.query(which(&self.sql), params)?)
    }

    fn changes_behind(&mut self, mut after: u64, count: usize, bytes: usize) -> Outcome<Vec<Row>> {
        let mut all: Vec<Row> = Vec::new();
        let mut sum = 0_usize;
        // The server cuts what is too large, so that no page of rows is larger than that.
        while all.len() < count && sum <= bytes {
            let page = (count - all.len()).min(PAGE_ROWS);
            let left = bytes - sum;
            let params: [&(dyn ToSql + Sync); 3] =
                [&int(after), &int(page as u64), &int(left as u64)];
            let rows = self.rows(|sql| &sql.changes, &params)?;
            let last = rows.len() < page;
            for row in rows {
                let row = sql::row(&row)?;
                after = row.lsn;
                sum = sum.saturating_add(row.record.weight());
                if sum > bytes && !all.is_empty() {
                    return Ok(all);
                }
                all.push(row);
            }
            if last {
                break;
            }
        }
        Ok(all)
    }

    fn purge_row(&mut self, kind: u16, key: &[u8], lsn: u64) -> Outcome<()> {
        self.begin()?;
        let params: [&(dyn ToSql + Sync); 3] = [&i32::from(kind), &key, &int(lsn)];
        if let Some(row) = self.rows(|sql| &sql.purge, &params)?.first() {
            self.book.purged(sql::weight(key, row.try_get(0)?), lsn);
        }
        Ok(())
    }

    fn write_taken(&mut self, partner: &str, position: Option<Position>) -> Outcome<()> {
        self.begin()?;
        match position {
            Some(position) => {
                let crc = i64::from(taken_checksum(partner, position));
                let run = position.run.to_le_bytes();
                self.client
                    .execute(&self.sql.take, &[&partner, &&run[..], &int(position.lsn), &crc])?
            }
            None => self.client.execute(&self.sql.forget, &[&partner])?,
        };
        Ok(())
    }
}

/// One of the statements.
type Which = fn(&Sql) -> &Statement;

impl Store for PostgresStore {
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
        self.call(|store| {
            let rows = store.rows(|sql| &sql.get, &[&i32::from(kind), &key])?;
            rows.first().map(sql::row).transpose()
        })
    }

    /// What is over the quota is refused before anything of it is written, and the transaction goes
    /// on without it.
    fn put(&mut self, record: &Record, from: Option<&ControllerId>) -> Result<u64> {
        self.call(|store| store.put_row(record, from))
    }

    fn changes(&mut self, after: u64, count: usize, bytes: usize) -> Result<Vec<Row>> {
        self.call(|store| store.changes_behind(after, count, bytes))
    }

    fn count_after(&mut self, after: u64, most: u64) -> Result<u64> {
        self.call(|store| {
            let row = store.client.query_one(&store.sql.count, &[&int(after), &int(most)])?;
            Ok(row.try_get::<_, i64>(0)?.max(0).cast_unsigned())
        })
    }

    fn scan(&mut self, after: Option<(u16, &[u8])>, count: usize) -> Result<Vec<Row>> {
        let count = int(count as u64);
        self.call(|store| {
            let rows = match after {
                None => store.rows(|sql| &sql.first, &[&count])?,
                Some((kind, key)) => {
                    store.rows(|sql| &sql.next, &[&i32::from(kind), &key, &count])?
                }
            };
            rows.iter().map(sql::row).collect()
        })
    }

    fn purge(&mut self, rows: &[(u16, Vec<u8>, u64)]) -> Result<()> {
        self.call(|store| {
            rows.iter().try_for_each(|(kind, key, lsn)| store.purge_row(*kind, key, *lsn))
        })
    }

    fn taken(&mut self, partner: &ControllerId) -> Result<Option<Position>> {
        self.call(|store| {
            let rows = store.rows(|sql| &sql.taken, &[&partner.as_str()])?;
            rows.first().map(|row| sql::taken(row, partner.as_str())).transpose()
        })
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
        Ok(Box::new(PostgresSnapshot {
            config: Arc::clone(&self.config),
            schema: self.schema.clone(),
            partition: self.partition.clone(),
            closed: Arc::clone(&self.closed),
        }))
    }
}
