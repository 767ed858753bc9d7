//! What a partition has at the server, and how it is named, made, held and set aside.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postgres::Client;
use ring::digest::{SHA256, digest};

use super::Outcome;
use super::fault::Fault;
use super::sql::int;
use crate::model::ControllerId;
use crate::store::book::Counters;

/// Of the tables below. A higher one is of a newer version.
const VERSION: i32 = 1;
/// Bytes of a name: the server cuts at 63, and one that is set aside has 22 more.
const NAME_BYTES: usize = 40;
/// Schemas that were set aside and are kept.
const ASIDE_KEPT: usize = 3;
/// How long an opener waits for a session that has just ended.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

// The row of counters changes with each transaction, and stays on its page if that has room.
const TABLES: &str = "
CREATE TABLE record (
    kind int4 NOT NULL,
    key bytea NOT NULL,
    lsn int8 NOT NULL UNIQUE,
    origin text NOT NULL,
    crc int8 NOT NULL,
    rank bytea NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (kind, key)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE TABLE taken (
    partner text PRIMARY KEY,
    run bytea NOT NULL,
    lsn int8 NOT NULL,
    crc int8 NOT NULL
);
CREATE TABLE run (
    number int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run bytea NOT NULL,
    began int8 NOT NULL,
    crc int8 NOT NULL
);
CREATE TABLE meta (
    one boolean PRIMARY KEY CHECK (one),
    version int4 NOT NULL,
    partition text NOT NULL,
    head int8 NOT NULL,
    floor int8 NOT NULL,
    records int8 NOT NULL,
    bytes int8 NOT NULL,
    crc int8 NOT NULL
) WITH (fillfactor = 50);
";

/// The schema of a partition.
#[derive(Debug, Clone)]
pub(super) struct Schema {
    /// Not quoted.
    name: String,
    /// The number of the advisory lock.
    lock: i64,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn number(text: &str) -> i64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest(&SHA256, text.as_bytes()).as_ref()[..8]);
    i64::from_be_bytes(bytes)
}

impl Schema {
    pub(super) fn new(prefix: &str, partition: &ControllerId) -> Self {
        let mut name = format!("{prefix}:{partition}");
        let lock = number(&format!("evs controller {name}"));
        if name.len() >= NAME_BYTES {
            // A long name is cut and told apart by its hash; no short one is as long as that.
            let hash = format!(":{:016x}", number(&name));
            while name.len() + hash.len() > NAME_BYTES {
                name.pop();
            }
            name.push_str(&hash);
        }
        Self { name, lock }
    }

    /// How errors call the store.
    pub(super) fn what(&self) -> String {
        format!("the table in PostgreSQL's schema {}", quoted(&self.name))
    }

    /// Takes the lock for this session, until it ends.
    pub(super) fn lock(&self, client: &mut Client) -> Outcome<()> {
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            let row = client.query_one("SELECT pg_try_advisory_lock($1)", &[&self.lock])?;
            if row.try_get(0)? {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Fault::Held);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// From now on the session has the names of this schema only.
    pub(super) fn enter(&self, client: &mut Client) -> Outcome<()> {
        Ok(client.batch_execute(&format!("SET search_path = {}", quoted(&self.name)))?)
    }

    /// Makes the tables if they are not there, and refuses those of others. Only who has the lock
    /// may do so.
    pub(super) fn create(&self, client: &mut Client, partition: &ControllerId) -> Outcome<()> {
        self.enter(client)?;
        let sql = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1),
                          to_regclass('meta') IS NOT NULL";
        let row = client.query_one(sql, &[&self.name])?;
        match (row.try_get(0)?, row.try_get(1)?) {
            (true, true) => return judge(client, partition),
            (true, false) => {
                let cause = "there is such a schema, and no table of a partition in it".to_owned();
                return Err(Fault::Foreign(cause));
            }
            (false, _) => {}
        }
        let mut tx = client.transaction()?;
        tx.batch_execute(&format!("CREATE SCHEMA {}; {TABLES}", quoted(&self.name)))?;
        let crc = i64::from(Counters::default().checksum(partition.as_str()));
        tx.execute(
            "INSERT INTO meta VALUES (true, $1, $2, 0, 0, 0, 0, $3)",
            &[&VERSION, &partition.as_str(), &crc],
        )?;
        Ok(tx.commit()?)
    }

    /// Gives the schema another name, and drops the oldest of those that have one already.
    pub(super) fn set_aside(&self, client: &mut Client) -> Outcome<()> {
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        let mut tx = client.transaction()?;
        let there = |name: &str, tx: &mut postgres::Transaction<'_>| -> Outcome<bool> {
            Ok(tx.query_opt("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&name])?.is_some())
        };
        if !there(&self.name, &mut tx)? {
            return Ok(());
        }
        let mut stamp = u64::try_from(stamp).unwrap_or(u64::MAX);
        let head = format!("{} damaged ", self.name);
        while there(&format!("{head}{stamp}"), &mut tx)? {
            stamp += 1;
        }
        let aside = quoted(&format!("{head}{stamp}"));
        tx.batch_execute(&format!("ALTER SCHEMA {} RENAME TO {aside}", quoted(&self.name)))?;
        let old = tx.query(
            "SELECT nspname::text FROM pg_namespace
             WHERE starts_with(nspname::text, $1) ORDER BY length(nspname::text) DESC, 1 DESC
             OFFSET $2",
            &[&head, &int(ASIDE_KEPT as u64)],
        )?;
        for row in old {
            let name: String = row.try_get(0)?;
            tx.batch_execute(&format!("DROP SCHEMA {} CASCADE", quoted(&name)))?;
        }
        Ok(tx.commit()?)
    }
}

/// Refuses what is of another partition, or of a newer version.
fn judge(client: &mut Client, partition: &ControllerId) -> Outcome<()> {
    let row = client.query_opt("SELECT version, partition FROM meta", &[])?;
    let row = row.ok_or_else(|| Fault::Damaged("its row of counters is gone".to_owned()))?;
    let (version, theirs): (i32, &str) = (row.try_get(0)?, row.try_get(1)?);
    if version != VERSION {
        return Err(Fault::Foreign(format!(
            "its layout is number {version}, and this version knows number {VERSION} only"
        )));
    }
    if theirs != partition.as_str() {
        let cause = format!("it is the table of the partition {theirs:?}, not of {partition}");
        return Err(Fault::Foreign(cause));
    }
    Ok(())
}
