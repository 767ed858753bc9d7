//! The servers of a pair: as a file says them, and as a front sees them.

use std::io;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use eversock_engine::Config;
use eversock_engine::keys::{KeyError, KeyFiles};

use super::place::Place;
use crate::link::{FenceCommand, LinkConfig, SocketTarget};
use crate::target::{Class, Target};

/// Addresses of one name that are tried.
const ADDRS_MAX: usize = 16;

/// A server of a pair, as a file says it.
#[derive(Debug, Clone)]
pub struct ServerFile {
    /// For people, in logs and figures.
    pub name: String,
    /// `eversock://host:port` or `http://host:port/prefix`.
    pub url: String,
    /// What it promises.
    pub class: Class,
    pub(super) place: Place,
    pub(super) how: How,
}

/// How it is reached.
#[derive(Debug, Clone)]
pub(super) enum How {
    Socket(Box<SocketServer>),
    #[cfg(feature = "http")]
    Http(Box<crate::http::HttpTargetConfig>),
}

/// A server at the other end of a virtual socket.
#[derive(Debug, Clone)]
pub(super) struct SocketServer {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) keys: Keys,
    pub(super) grace: Option<Duration>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) in_flight_max: Option<usize>,
    pub(super) bytes_in_flight_max: Option<usize>,
    pub(super) fence: Option<FenceCommand>,
}

/// The files that say who may talk to whom.
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

    /// What contradicts itself: a key, and what is wrong with it.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let is_static =
            self.identity.is_some() || self.known_peers.is_some() || self.allowed_clients.is_some();
        if self.key.is_some() && is_static {
            return Err(("key", "it excludes static keys; leave out one of the two"));
        }
        if self.allowed_clients.is_some() && self.identity.is_none() {
            return Err((
                "allowed-clients",
                "it needs an `identity`, by which clients know this side; add one",
            ));
        }
        if self.accept_new && self.known_peers.is_none() {
            return Err(("accept-new", "it needs `known-peers`, the file to which keys are added"));
        }
        Ok(())
    }
}

impl SocketServer {
    /// Begins to connect to it, in the background. Blocks while its name is looked up.
    fn target(&self, name: &str, class: Class) -> io::Result<Arc<dyn Target>> {
        let named = |error: io::Error| {
            let text = format!("{}: {error}; correct the name, or give an address", self.host);
            io::Error::new(error.kind(), text)
        };
        let addrs = (self.host.as_str(), self.port).to_socket_addrs().map_err(named)?;
        let mut link = LinkConfig::new(name);
        link.class = Some(class);
        link.fence.clone_from(&self.fence);
        if let Some(grace) = self.grace {
            (link.socket.grace, link.socket.grace_after_close) = (grace, grace);
        }
        link.socket.connect_timeout = self.connect_timeout.unwrap_or(link.socket.connect_timeout);
        link.in_flight_max = self.in_flight_max.unwrap_or(link.in_flight_max);
        link.bytes_in_flight_max = self.bytes_in_flight_max.unwrap_or(link.bytes_in_flight_max);
        self.keys.read_into(&mut link.socket).map_err(io::Error::other)?;
        Ok(SocketTarget::new(addrs.take(ADDRS_MAX).collect(), link)?)
    }
}

impl ServerFile {
    /// As the front sees it. Blocks while its name is looked up.
    pub(super) fn target(&self, threads: &Threads) -> io::Result<Arc<dyn Target>> {
        match &self.how {
            How::Socket(server) => {
                let _unused = threads;
                server.target(&self.name, self.class)
            }
            #[cfg(feature = "http")]
            How::Http(config) => {
                let runtime = threads.http()?;
                Ok(crate::http::HttpTarget::start((**config).clone(), runtime)?)
            }
        }
    }
}

/// What servers have in common, made when the first needs it.
#[derive(Debug, Default)]
pub(super) struct Threads {
    #[cfg(feature = "http")]
    http: std::sync::OnceLock<crate::http::Runtime>,
}

#[cfg(feature = "http")]
impl Threads {
    fn http(&self) -> io::Result<&crate::http::Runtime> {
        if let Some(runtime) = self.http.get() {
            return Ok(runtime);
        }
        let runtime = crate::http::Runtime::start("evs-http-out", 1)?;
        Ok(self.http.get_or_init(|| runtime))
    }
}
