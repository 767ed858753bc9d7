//! How the gateway opens sessions: one for each connection, or as few as there are servers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use clap::ValueEnum;
use eversock::Config;
use eversock_dedup::{ConnectOptions, Pool, PoolConfig};

use crate::wire::Wire;

/// Which clients share no session with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Isolate {
    /// Those of another address.
    Source,
}

/// Where sessions come from.
#[derive(Debug)]
pub(super) enum Outwards {
    /// Each connection opens its own.
    Own(Arc<Config>),
    /// Connections share those of a pool.
    Shared { pool: Pool, isolate: Option<Isolate> },
}

impl Outwards {
    pub(super) fn shared(
        config: &Config,
        isolate: Option<Isolate>,
        max_connections: usize,
    ) -> io::Result<Self> {
        let default = PoolConfig::default();
        // Clients that do not share need one each, at worst.
        let sessions_max = match isolate {
            Some(Isolate::Source) => default.sessions_max.max(max_connections),
            None => default.sessions_max,
        };
        let config = PoolConfig { session: config.clone(), sessions_max, ..default };
        Ok(Self::Shared { pool: Pool::new(config)?, isolate })
    }

    /// Begins to connect, for a client from there; `host` is looked up again at each redial.
    pub(super) fn dial(
        &self,
        addrs: &[SocketAddr],
        host: Option<(String, u16)>,
        from: Option<SocketAddr>,
    ) -> io::Result<Wire> {
        match self {
            Self::Own(config) => Wire::dial_session(addrs, host, config),
            Self::Shared { pool, isolate } => {
                let tag = match (isolate, from) {
                    (Some(Isolate::Source), Some(from)) => from.ip().to_canonical().to_string(),
                    _ => String::new(),
                };
                let application = from.map(|from| from.to_string()).unwrap_or_default();
                let options = ConnectOptions { tag, application, ..ConnectOptions::default() };
                Wire::dial_shared(addrs, host, pool, &options)
            }
        }
    }

    /// Sessions that have carried connections, where they may carry several.
    pub(super) fn sessions_carried(&self) -> Option<u64> {
        match self {
            Self::Own(_) => None,
            Self::Shared { pool, .. } => Some(pool.metrics().sessions_opened),
        }
    }
}
