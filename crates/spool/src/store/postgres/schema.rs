//! The tables, and how they are named.

use ring::digest::{SHA256, digest};

use super::line::Line;
use super::session::Fault;

/// Of the tables below. A higher one is of a newer version.
const VERSION: i32 = 1;
/// Names of the server are at most 63 bytes long.
const PAIR_SHORT: usize = 46;

/// What a pair's things are called.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) pair: String,
    pub(super) schema: String,
    /// With the schema, quoted.
    pub(super) layout: String,
    pub(super) meta: String,
    pub(super) record: String,
    /// The beginning of the names of the indexes.
    stem: String,
    /// The number of the advisory lock.
    pub(super) lock: i64,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn number(text: &str) -> i64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest(&SHA256, text.as_bytes()).as_ref()[..8]);
    i64::from_be_bytes(bytes)
}

impl Names {
    pub(super) fn new(schema: &str, pair: &str) -> Self {
        // A long name is cut and told apart by its hash; no short one is as long as that.
        let short = if pair.len() <= PAIR_SHORT {
            pair.to_owned()
        } else {
            // Names with other letters than ASCII's are refused later.
            let head: String = pair.chars().take(30).collect();
            format!("{head}_{:016x}", number(pair))
        };
        let within = quoted(schema);
        Self {
            pair: pair.to_owned(),
            schema: within.clone(),
            layout: format!("{within}.spool_layout"),
            meta: format!("{within}.spool_meta"),
            record: format!("{within}.{}", quoted(&format!("record_{short}"))),
            stem: short,
            lock: number(&format!("eversock spool {schema} {pair}")),
        }
    }

    /// The name of an index: within the schema of its table.
    fn index(&self, suffix: &str) -> String {
        quoted(&format!("r_{}_{suffix}", self.stem))
    }

    /// Whether the layout is ours and the pair is known.
    pub(super) fn judge(&self, client: &mut Line) -> Result<bool, Fault> {
        let there = |client: &mut Line, table: &str| -> Result<bool, Fault> {
            let row = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table])?;
            Ok(row.try_get(0)?)
        };
        if !there(client, &self.layout)? {
            if there(client, &self.meta)? || there(client, &self.record)? {
                let cause = "its tables stand there without their version".to_owned();
                return Err(Fault::Foreign(cause));
            }
            return Ok(false);
        }
        let row = client.query_one(&format!("SELECT version FROM {}", self.layout), &[])?;
        let version: i32 = row.try_get(0)?;
        if version != VERSION {
            return Err(Fault::Foreign(format!(
                "its layout is number {version}, and this version knows number {VERSION} only"
            )));
        }
        let known = format!("SELECT 1 FROM {} WHERE pair = $1", self.meta);
        Ok(client.query_opt(&known, &[&self.pair])?.is_some())
    }

    /// Makes what is not there yet.
    pub(super) fn create(&self, client: &mut Line) -> Result<(), Fault> {
        let mut tx = client.transaction()?;
        // Fronts of several pairs may begin at once.
        tx.execute("SELECT pg_advisory_xact_lock($1)", &[&number("eversock spool layout")])?;
        let Self { schema, layout, meta, record, .. } = self;
        tx.batch_execute(&format!(
            "CREATE SCHEMA IF NOT EXISTS {schema};
             CREATE TABLE IF NOT EXISTS {layout} (
                 one boolean PRIMARY KEY CHECK (one),
                 version int4 NOT NULL
             );
             INSERT INTO {layout} VALUES (true, {VERSION}) ON CONFLICT DO NOTHING;
             CREATE TABLE IF NOT EXISTS {meta} (
                 pair text PRIMARY KEY,
                 last_lsn int8 NOT NULL DEFAULT 0,
                 pending int8 NOT NULL DEFAULT 0,
                 bytes int8 NOT NULL DEFAULT 0,
                 held int8 NOT NULL DEFAULT 0,
                 in_doubt int8 NOT NULL DEFAULT 0,
                 quarantined int8 NOT NULL DEFAULT 0,
                 serial int8 NOT NULL DEFAULT 0,
                 writer int8 NOT NULL DEFAULT 0,
                 epoch int8 NOT NULL DEFAULT 0,
                 holder int2 NOT NULL DEFAULT 0,
                 on_hold bool NOT NULL DEFAULT false
             ) WITH (fillfactor = 50);
             CREATE TABLE {record} (
                 lsn int8 CONSTRAINT {places} PRIMARY KEY,
                 id bytea NOT NULL CONSTRAINT {ids} UNIQUE,
                 lane int8 NOT NULL,
                 kind int8 NOT NULL,
                 epoch int8 NOT NULL,
                 accepted_ms int8 NOT NULL,
                 crc int8 NOT NULL,
                 fingerprint int8 NOT NULL,
                 state int2 NOT NULL,
                 aside bool NOT NULL,
                 weight int8 NOT NULL,
                 sent bool NOT NULL,
                 held bool NOT NULL,
                 code int8,
                 ended_ms int8,
                 note bytea,
                 answer bytea,
                 key bytea,
                 payload bytea
             ) WITH (autovacuum_vacuum_scale_factor = 0.05);
             ALTER TABLE {record} ALTER COLUMN payload SET STORAGE EXTERNAL;
             CREATE INDEX {pending} ON {record} (lsn) INCLUDE (lane, weight) WHERE state = 0;
             CREATE INDEX {lane} ON {record} (lane, lsn) WHERE state = 0;
             CREATE INDEX {age} ON {record} (accepted_ms) WHERE state = 0;
             CREATE INDEX {ended} ON {record} (ended_ms)
                 WHERE ended_ms IS NOT NULL AND NOT aside;
             CREATE INDEX {aside} ON {record} (lsn) WHERE aside;",
            places = self.index("places"),
            ids = self.index("ids"),
            pending = self.index("pending"),
            lane = self.index("lane"),
            age = self.index("age"),
            ended = self.index("ended"),
            aside = self.index("aside"),
        ))?;
        tx.execute(&format!("INSERT INTO {meta} (pair) VALUES ($1)"), &[&self.pair])?;
        tx.commit()?;
        Ok(())
    }
}
