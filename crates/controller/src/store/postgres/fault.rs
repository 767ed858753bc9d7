//! A connection to the server: how it is made, and what its errors mean.

use std::error::Error as _;

use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};

use super::{Outcome, PostgresConfig};
use crate::model::ControllerId;
use crate::store::StoreError;

/// The oldest server that is known to work.
const SERVER_MIN: i32 = 130_000;

/// What went wrong, without the name of the store.
#[derive(Debug)]
pub(super) enum Fault {
    /// Over the quota: nothing of it was written.
    Quota,
    Full,
    Held,
    Foreign(String),
    Damaged(String),
    Failed(String),
}

impl From<postgres::Error> for Fault {
    fn from(error: postgres::Error) -> Self {
        let Some(said) = error.as_db_error() else {
            let mut cause = error.to_string();
            if let Some(source) = error.source() {
                cause.push_str(": ");
                cause.push_str(&source.to_string());
            }
            return Self::Failed(cause);
        };
        let cause = format!("{} ({})", said.message(), said.code().code());
        let code = said.code();
        if *code == SqlState::DISK_FULL {
            Self::Full
        } else if [
            SqlState::DATA_CORRUPTED,
            SqlState::INDEX_CORRUPTED,
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_COLUMN,
        ]
        .contains(code)
        {
            Self::Damaged(cause)
        } else {
            Self::Failed(cause)
        }
    }
}

impl Fault {
    pub(super) fn of(self, what: &str) -> StoreError {
        let what = what.to_owned();
        match self {
            Self::Quota | Self::Full => StoreError::Full { what },
            Self::Held => StoreError::Held { what },
            Self::Foreign(cause) => StoreError::Foreign { what, cause },
            Self::Damaged(cause) => StoreError::Damaged { what, cause },
            Self::Failed(cause) => StoreError::Failed { what, cause },
        }
    }
}

/// Connects. The server knows the session by the partition's name.
pub(super) fn connect(config: &PostgresConfig, partition: &ControllerId) -> Outcome<Client> {
    let mut params: Config = config.params.parse()?;
    if params.get_connect_timeout().is_none() {
        params.connect_timeout(config.call_timeout);
    }
    params
        .application_name(&format!("evs controller {partition}"))
        .keepalives(true)
        .keepalives_idle(std::time::Duration::from_secs(5))
        .keepalives_interval(std::time::Duration::from_secs(2))
        .keepalives_retries(3)
        .tcp_user_timeout(config.call_timeout);
    let mut client = params.connect(NoTls)?;
    // The server has to notice as well that nobody is there: the lock goes with the session.
    client.batch_execute(&format!(
        "SET client_min_messages = warning;
         SET statement_timeout = {};
         SET tcp_keepalives_idle = 5;
         SET tcp_keepalives_interval = 2;
         SET tcp_keepalives_count = 3;
         SET enable_seqscan = off;
         SET jit = off;",
        config.call_timeout.as_millis()
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
        log::warn!("the PostgreSQL of {partition} runs with fsync = off: a power cut loses it");
    }
    Ok(client)
}
