//! A [`Config`] step by step.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    Answer, Config, FaultReport, KnownFile, KnownServers, KnowsServers, LineUp, Mode, PresharedKey,
    PublicKey, RecoveryPolicy, Sealing, StaticKey,
};

/// Builds a [`Config`] from the defaults.
///
/// ```
/// use std::time::Duration;
/// # use eversock_engine as engine;
/// let config = eversock_socket::builder()
///     .grace(Duration::from_secs(3600))
///     .ask(|fault| {
///         eprintln!("connection to {:?} lost: {}", fault.peer, fault.cause);
///         engine::Answer::Continue
///     })
///     .build();
/// assert_eq!(config.grace, Duration::from_secs(3600));
/// ```
pub fn builder() -> Builder {
    Builder::default()
}

/// See [`builder`]. Each method says what the field of [`Config`] of the same name says.
#[derive(Clone, Debug, Default)]
pub struct Builder(Config);

impl Builder {
    /// Direct or pumped descriptors.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.0.mode = mode;
        self
    }

    /// Whether to recover.
    pub fn policy(mut self, policy: RecoveryPolicy) -> Self {
        self.0.policy = policy;
        self
    }

    /// Asks `callback` at each fault. It runs on a thread of its own and may block.
    pub fn ask(self, callback: impl Fn(&FaultReport) -> Answer + Send + Sync + 'static) -> Self {
        self.policy(RecoveryPolicy::Ask(Arc::new(callback)))
    }

    /// Run before each redial.
    pub fn line_up(mut self, line_up: LineUp) -> Self {
        self.0.line_up = Some(line_up);
        self
    }

    /// Redials without progress before giving up; 0 for no limit.
    pub fn redial_limit(mut self, limit: u32) -> Self {
        self.0.redial_limit = limit;
        self
    }

    /// Sessions that a listener has, at most; 0 for no limit. Who comes then is refused, and may
    /// come again.
    pub fn sessions_max(mut self, sessions: u32) -> Self {
        self.0.sessions_max = sessions;
        self
    }

    /// Bytes beyond which a listener refuses new sessions, as long as the process's sessions hold
    /// so many; 0 for no limit.
    pub fn memory_max(mut self, bytes: u64) -> Self {
        self.0.memory_max = bytes;
        self
    }

    /// Unfinished handshakes of one source address at a listener, once some from there have
    /// stalled; 0 for no limit.
    pub fn handshakes_per_source(mut self, handshakes: u32) -> Self {
        self.0.handshakes_per_source = handshakes;
        self
    }

    /// How long to redial, and how long a server waits for it after silence.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.0.grace = grace;
        self
    }

    /// How long to wait when the peer's process seems to have ended.
    pub fn grace_after_close(mut self, grace: Duration) -> Self {
        self.0.grace_after_close = grace;
        self
    }

    /// The longest first wait between redials, and the longest of all.
    pub fn back_off(mut self, base: Duration, cap: Duration) -> Self {
        self.0.back_off = crate::BackOff { base, cap };
        self
    }

    /// How long one attempt to connect may take.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.0.connect_timeout = timeout;
        self
    }

    /// Other addresses of the peer.
    pub fn peer_addrs(mut self, addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.0.peer_addrs = addrs.into_iter().collect();
        self
    }

    /// Other addresses of this side, announced to the peer.
    pub fn own_addrs(mut self, addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.0.own_addrs = addrs.into_iter().collect();
        self
    }

    /// The key that both ends need.
    pub fn key(mut self, key: PresharedKey) -> Self {
        self.0.key = Some(key);
        self
    }

    /// Whether what goes over the wire is encrypted and authenticated.
    pub fn sealing(mut self, sealing: Sealing) -> Self {
        self.0.sealing = sealing;
        self
    }

    /// The static key of this side.
    pub fn identity(mut self, key: StaticKey) -> Self {
        self.0.identity = Some(key);
        self
    }

    /// A client's: the static key that its server must have.
    pub fn server_key(mut self, key: PublicKey) -> Self {
        self.0.server_key = Some(key);
        self
    }

    /// A client's, when there is no `server_key`: who knows which one the server must have.
    pub fn known_servers(mut self, known: impl KnowsServers + 'static) -> Self {
        self.0.known_servers = Some(KnownServers(Arc::new(known)));
        self
    }

    /// The same, from a file with a line for each server: `HOST KEY` or `HOST:PORT KEY`. One that
    /// is not listed is refused, or with `accept_new` believed and added.
    pub fn known_peers(self, path: impl Into<PathBuf>, accept_new: bool) -> Self {
        self.known_servers(KnownFile { path: path.into(), accept_new })
    }

    /// A listener's: the static keys of the clients that it takes.
    pub fn allowed_clients(mut self, keys: impl IntoIterator<Item = PublicKey>) -> Self {
        self.0.allowed_clients = Some(keys.into_iter().collect());
        self
    }

    /// Credit given at first and at most, in bytes.
    pub fn window(mut self, first: u64, most: u64) -> Self {
        self.0.window = first;
        self.0.window_max = most;
        self
    }

    /// How long a closed socket goes on delivering.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.0.linger = linger;
        self
    }

    /// Idle time before the kernel probes the peer.
    pub fn keepalive(mut self, idle: Duration) -> Self {
        self.0.keepalive = idle;
        self
    }

    /// Silence with unconfirmed bytes before the path is checked end to end.
    pub fn probe_after(mut self, silence: Duration) -> Self {
        self.0.probe_after = silence;
        self
    }

    /// The finished configuration.
    pub fn build(self) -> Config {
        self.0
    }
}
