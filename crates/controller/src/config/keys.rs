//! Who may talk to whom: the files with keys, and limits of what listens.

use std::path::PathBuf;
use std::time::Duration;

use eversock_engine::Config;
use eversock_engine::keys::{KeyError, KeyFiles};

use super::table::{Table, flag, number, size, time};

/// The files of a side that listens or connects.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    pub(super) key: Option<PathBuf>,
    pub(super) sealed: bool,
    pub(super) identity: Option<PathBuf>,
    pub(super) known_peers: Option<PathBuf>,
    pub(super) accept_new: bool,
    pub(super) allowed_clients: Option<PathBuf>,
}

impl Keys {
    /// Those of a side that listens.
    pub(super) fn of_listener(table: &mut Table<'_, '_>) -> Self {
        let keys =
            Self { allowed_clients: table.path("allowed-clients"), ..Self::of_either(table) };
        if keys.allowed_clients.is_some() && keys.identity.is_none() {
            let problem = "it needs an `identity`, by which clients know this side; add one";
            table.wrong(table.at(), "allowed-clients", problem);
        }
        keys.check(table);
        keys
    }

    /// Those of a side that connects.
    pub(super) fn of_dialler(table: &mut Table<'_, '_>) -> Self {
        let keys = Self {
            known_peers: table.path("known-peers"),
            accept_new: table.take("accept-new", flag).unwrap_or(false),
            ..Self::of_either(table)
        };
        if keys.accept_new && keys.known_peers.is_none() {
            let problem = "it needs `known-peers`, the file to which keys are added";
            table.wrong(table.at(), "accept-new", problem);
        }
        if keys.identity.is_some() && keys.known_peers.is_none() {
            let problem = "it needs `known-peers`, which says whom it is shown to; add one";
            table.wrong(table.at(), "identity", problem);
        }
        keys.check(table);
        keys
    }

    fn of_either(table: &mut Table<'_, '_>) -> Self {
        Self {
            key: table.path("key"),
            sealed: table.take("sealed", flag).unwrap_or(false),
            identity: table.path("identity"),
            ..Self::default()
        }
    }

    fn check(&self, table: &Table<'_, '_>) {
        let is_static =
            self.identity.is_some() || self.known_peers.is_some() || self.allowed_clients.is_some();
        if self.key.is_some() && is_static {
            let problem = "it excludes static keys; leave out one of the two";
            table.wrong(table.at(), "key", problem);
        }
    }

    /// Reads the files.
    pub(super) fn read_into(&self, config: &mut Config) -> Result<(), KeyError> {
        let files = KeyFiles {
            key: self.key.as_deref(),
            sealed: self.sealed,
            identity: self.identity.as_deref(),
            known_peers: self.known_peers.as_deref(),
            accept_new: self.accept_new,
            allowed_clients: self.allowed_clients.as_deref(),
        };
        files.read_into(config)
    }
}

/// How long a peer that is cut off is waited for, at most.
const GRACE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a virtual socket is opened with besides keys.
#[derive(Debug, Clone, Default)]
pub(super) struct SocketFile {
    grace: Option<Duration>,
    connect_timeout: Option<Duration>,
    sessions_max: Option<u32>,
    memory_max: Option<u64>,
    handshakes_per_source: Option<u32>,
}

impl SocketFile {
    pub(super) fn of_listener(table: &mut Table<'_, '_>) -> Self {
        Self {
            grace: table.take("grace", time(Duration::ZERO, GRACE_MAX)),
            sessions_max: table.take("sessions-max", number(0, u32::MAX.into())),
            memory_max: table.take("memory-max", size),
            handshakes_per_source: table.take("handshakes-per-source", number(0, u32::MAX.into())),
            ..Self::default()
        }
    }

    pub(super) fn of_dialler(table: &mut Table<'_, '_>) -> Self {
        let most = Duration::from_secs(600);
        Self {
            grace: table.take("grace", time(Duration::ZERO, GRACE_MAX)),
            connect_timeout: table.take("connect-timeout", time(Duration::from_millis(1), most)),
            ..Self::default()
        }
    }

    /// What the file says in the place of what is there.
    pub(super) fn set(&self, config: &mut Config) {
        if let Some(grace) = self.grace {
            (config.grace, config.grace_after_close) = (grace, grace);
        }
        config.connect_timeout = self.connect_timeout.unwrap_or(config.connect_timeout);
        config.sessions_max = self.sessions_max.unwrap_or(config.sessions_max);
        config.memory_max = self.memory_max.unwrap_or(config.memory_max);
        config.handshakes_per_source =
            self.handshakes_per_source.unwrap_or(config.handshakes_per_source);
    }
}
