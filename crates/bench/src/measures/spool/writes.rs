//! Durable writes through a front while there is no main, beside single commits of databases.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use eversock_spool::RequestId;
use eversock_spool::store::SpoolStore;
use eversock_spool::store::postgres::{PostgresConfig, PostgresStore};
use postgres::{Client, NoTls};
use rusqlite::Connection;

use super::cluster::Cluster;
use super::parts::{Absent, Asker, PAYLOAD, Place, QUOTA, front, pair, rate, store};
use crate::Bench;
use crate::report::{Goal, Group, Report};

const PAIR: &str = "bench";

/// What is measured in each turn; the first is the reference.
const KINDS: [(&str, Way); 6] = [
    ("single SQLite commits", Way::SqliteCommits),
    ("single PostgreSQL commits", Way::PostgresCommits),
    ("front of 1", Way::Front(1)),
    ("front of 8", Way::Front(8)),
    ("front of 64", Way::Front(64)),
    ("front on PostgreSQL of 64", Way::PostgresFront(64)),
];

#[derive(Clone, Copy)]
enum Way {
    SqliteCommits,
    PostgresCommits,
    Front(usize),
    PostgresFront(usize),
}

/// Records of 512 B from senders that wait for each outcome; a new file or schema for each turn.
pub(crate) fn writes(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const NAME: &str = "spool-writes";
    let (place, why) = Place::new()?;
    if let Some(why) = why {
        report.skipped(NAME, &why);
    }
    let cluster = match Cluster::start(&place) {
        Ok(cluster) => Some(cluster),
        Err(why) => {
            report.skipped("spool-writes on PostgreSQL", &why);
            None
        }
    };
    let labels = KINDS.map(|(label, _)| label);
    let mut rates = Group::new(&labels, NAME, "1/s").goal("front of 64", Goal::RatioAtLeast(5.0));
    let time = bench.time(3000, 200);
    for turn in 0..bench.options.turns() {
        for (at, (label, way)) in KINDS.into_iter().enumerate() {
            let file = place.file(&format!("{turn}-{at}.db"));
            let schema = format!("turn{turn}");
            let done = match (way, &cluster) {
                (Way::SqliteCommits, _) => sqlite_commits(&file, time),
                (Way::Front(senders), _) => {
                    spooled(Box::new(store(&file, PAIR, QUOTA)?), senders, time)
                }
                (Way::PostgresCommits, Some(cluster)) => postgres_commits(cluster, turn, time),
                (Way::PostgresFront(senders), Some(cluster)) => {
                    let config =
                        PostgresConfig { schema, ..PostgresConfig::new(&cluster.params()) };
                    PostgresStore::open(&config, PAIR, QUOTA)
                        .map_err(io::Error::other)
                        .and_then(|store| spooled(Box::new(store), senders, time))
                }
                (Way::PostgresCommits | Way::PostgresFront(_), None) => continue,
            };
            let rate = done.map_err(|error| io::Error::other(format!("{label}: {error}")))?;
            rates.add(at, rate);
        }
    }
    report.group(&rates)
}

fn spooled(store: Box<dyn SpoolStore>, senders: usize, time: Duration) -> io::Result<f64> {
    let front = front(vec![pair(PAIR, store, std::sync::Arc::new(Absent))])?;
    rate(senders, time, || {
        let asker = Asker::new(&front, PAIR);
        Ok(move || asker.spool())
    })
}

/// What a program would do that has nothing but a database: a row and a commit for each record. As
/// durable as the spool, and without all else that a spool has (an index of ids, counters).
pub(crate) fn sqlite_commits(path: &Path, time: Duration) -> io::Result<f64> {
    let sqlite = |error: rusqlite::Error| io::Error::other(error);
    let database = Connection::open(path).map_err(sqlite)?;
    database
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE record (lsn INTEGER PRIMARY KEY, id BLOB, key BLOB, payload BLOB);",
        )
        .map_err(sqlite)?;
    let database = Mutex::new(database);
    rate(1, time, || {
        let payload = [0x5A; PAYLOAD];
        let database = &database;
        Ok(move || {
            let id = RequestId::random()?;
            let database = database.lock().unwrap_or_else(PoisonError::into_inner);
            let mut insert = database
                .prepare_cached("INSERT INTO record (id, key, payload) VALUES (?1, ?2, ?3)")
                .map_err(sqlite)?;
            insert
                .execute((&id.0.to_be_bytes()[..], id.to_string().as_bytes(), &payload[..]))
                .map_err(sqlite)?;
            Ok(())
        })
    })
}

fn postgres_commits(cluster: &Cluster, turn: usize, time: Duration) -> io::Result<f64> {
    let client = Client::connect(&cluster.params(), NoTls).map_err(io::Error::other)?;
    let client = Mutex::new(client);
    let table = format!("record{turn}");
    rate(1, time, || {
        let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
        let columns = "lsn bigserial PRIMARY KEY, id bytea, key bytea, payload bytea";
        client
            .batch_execute(&format!("CREATE TABLE {table} ({columns})"))
            .map_err(io::Error::other)?;
        let insert = format!("INSERT INTO {table} (id, key, payload) VALUES ($1, $2, $3)");
        let insert = client.prepare(&insert).map_err(io::Error::other)?;
        let payload = [0x5A_u8; PAYLOAD];
        Ok(move || {
            let id = RequestId::random()?;
            let (number, key) = (id.0.to_be_bytes(), id.to_string());
            client
                .execute(&insert, &[&&number[..], &key.as_bytes(), &&payload[..]])
                .map_err(io::Error::other)?;
            Ok(())
        })
    })
}
