//! A connection to the server: how it is made, and what its errors mean.

use std::thread;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::PostgresConfig;
use super::line::Line;
use super::schema::Names;
use crate::store::StoreError;

/// The oldest server that is known to work.
const SERVER_MIN: i32 = 130_000;
/// The first wait between two tries to connect; it doubles.
const BACKOFF: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long an opener waits for the lock of a front that has just ended.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What went wrong, without the name of the store.
#[derive(Debug)]
pub(super) enum Fault {
    /// No room.
    Full,
    /// Another front has the pair.
    Held,
    /// Not a spool of this version.
    Foreign(String),
    /// The server cannot read what it once wrote.
    Damaged(String),
    /// The connection is gone, or there is none. What was not committed is not there.
    Lost(String),
    /// The server refuses it.
    Failed(String),
    /// The client could not make or understand a message, on a connection that still stands.
    Broken(String),
    /// The connection went in the commit, and nobody can be asked.
    Unknown(String),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(said) = error.as_db_error() else {
            let io = |cause: &(dyn std::error::Error + 'static)| cause.is::<std::io::Error>();
            let lost = error.is_closed() || std::error::Error::source(&error).is_some_and(io);
            let cause = chain(&error);
            return if lost { Self::Lost(cause) } else { Self::Broken(cause) };
        };
        let cause = format!("{} ({})", said.message(), said.code().code());
        match said.code() {
            code if *code == SqlState::DISK_FULL => Self::Full,
            code if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED => {
                Self::Damaged(cause)
            }
            // The server, or this session, is ending or not yet there.
            code if code.code().starts_with("57P") || code.code().starts_with("08") => {
                Self::Lost(cause)
            }
            code if *code == SqlState::TOO_MANY_CONNECTIONS => Self::Lost(cause),
            _ => Self::Failed(cause),
        }
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

pub(super) fn error(what: &str, fault: Fault) -> StoreError {
    let what = what.to_owned();
    match fault {
        Fault::Full => StoreError::Full { what },
        Fault::Held => StoreError::Held { what },
        Fault::Foreign(cause) => StoreError::Foreign { what, cause },
        Fault::Unknown(cause) => StoreError::Unknown { what, cause },
        Fault::Damaged(cause)
        | Fault::Lost(cause)
        | Fault::Failed(cause)
        | Fault::Broken(cause) => StoreError::Failed { what, cause },
    }
}

/// One connection, on which nothing is waited for beyond `until`. The server knows it by `name`.
pub(super) fn connect(config: &PostgresConfig, name: &str, until: Instant) -> Result<Line, Fault> {
    let mut params: tokio_postgres::Config =
        config.params.parse().map_err(|e| Fault::Failed(chain(&e)))?;
    if params.get_connect_timeout().is_none() {
        params.connect_timeout(config.call_timeout);
    }
    params
        .application_name(name)
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3)
        .tcp_user_timeout(config.call_timeout);
    let mut client = Line::connect(&params, until)?;
    let limit = config.call_timeout.as_millis();
    // The server has to notice as well: the lock of a pair goes with the session.
    client.batch_execute(&format!(
        "SET client_min_messages = warning;
         SET statement_timeout = {limit};
         SET idle_in_transaction_session_timeout = {limit};
         SET tcp_keepalives_idle = 5;
         SET tcp_keepalives_interval = 2;
         SET tcp_keepalives_count = 3;
         SET enable_seqscan = off;
         SET jit = off;"
    ))?;
    let row = client.query_one(
        "SELECT current_setting('server_version_num')::int4,
                current_setting('synchronous_commit'), current_setting('fsync')",
        &[],
    )?;
    let version: i32 = row.try_get(0)?;
    if version < SERVER_MIN {
        let cause = format!("the server has version {version}; PostgreSQL 13 or later is needed");
        return Err(Fault::Foreign(cause));
    }
    // Whoever asks for more than `on` gets it.
    if row.try_get::<_, &str>(1)? != "remote_apply" {
        client.batch_execute("SET synchronous_commit = on")?;
    }
    if row.try_get::<_, &str>(2)? == "off" {
        log::warn!("the PostgreSQL of {name} runs with fsync = off: a power cut loses it");
    }
    Ok(client)
}

/// The session that writes a pair. It has the pair's lock for as long as it lives, so that a front
/// that has lost the lock has lost what it writes with as well.
pub(super) struct Session {
    pub(super) client: Line,
}

/// What the server calls the sessions of a store with this token. Names are cut at 63 bytes, so the
/// pair comes last.
fn writer_name(writer: i64, pair: &str) -> String {
    format!("evs spool {:016x} {pair}", writer.cast_unsigned())
}

/// What the server calls the session of a reader.
pub(super) fn reader_name(pair: &str) -> String {
    format!("evs spool reader {pair}")
}

/// Connects and takes the lock, trying again until then. Ends the store's own sessions before, in
/// which the server may not have noticed yet that nobody is there.
pub(super) fn take(
    config: &PostgresConfig,
    names: &Names,
    writer: i64,
    until: Instant,
) -> Result<Session, Fault> {
    patiently(until, || try_take(config, names, writer, until))
}

/// Tries until then, as long as the server cannot be reached.
pub(super) fn patiently<T>(
    until: Instant,
    mut job: impl FnMut() -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut wait = BACKOFF;
    loop {
        match job() {
            Err(Fault::Lost(cause)) => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Fault::Lost(cause));
                }
                thread::sleep(wait.min(left));
                wait = (wait * 2).min(BACKOFF_MAX);
            }
            done => return done,
        }
    }
}

fn try_take(
    config: &PostgresConfig,
    names: &Names,
    writer: i64,
    until: Instant,
) -> Result<Session, Fault> {
    let mut client = connect(config, &writer_name(writer, &names.pair), until)?;
    let patience = until.min(Instant::now() + LOCK_PATIENCE);
    // Known by the token of the store: numbers of processes come again, and then are another's.
    client.execute(
        "SELECT pg_terminate_backend(l.pid)
         FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
         WHERE starts_with(a.application_name, $1) AND l.pid <> pg_backend_pid()
         AND l.locktype = 'advisory'
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND l.classid = $2::int8::oid AND l.objid = $3::int8::oid AND l.objsubid = 1",
        &[
            &writer_name(writer, ""),
            &(names.lock.cast_unsigned() >> 32).cast_signed(),
            &(names.lock & 0xffff_ffff),
        ],
    )?;
    loop {
        let row = client.query_one("SELECT pg_try_advisory_lock($1)", &[&names.lock])?;
        if row.try_get(0)? {
            return Ok(Session { client });
        }
        if Instant::now() >= patience {
            return Err(Fault::Held);
        }
        thread::sleep(BACKOFF);
    }
}
