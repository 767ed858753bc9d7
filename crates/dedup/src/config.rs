//! What can be set about pools, about single connections of them, and about shared listeners.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use eversock_engine::Config;

use crate::score::Weights;

/// What can be set about a pool.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Of its sessions: keys, sealing, grace, recovery. `mode` is not regarded. Without any trust
    /// configured, the pool asks each server for its static key and believes it: that is no less
    /// safe than to ask for none, and tells servers apart.
    pub session: Config,
    /// How long a session is kept when its last connection has gone. It never delays the end of
    /// the process. Default: 10 s.
    pub linger: Duration,
    /// Connections of one session, 1 to 16,384; more get a further session. Default: 1,024.
    pub streams_max: u32,
    /// Sessions and dials at a time. Default: 256.
    pub sessions_max: usize,
    /// Ask addresses over UDP, at the service's port number, whether they are a server to which a
    /// session stands, beside the dial. Default: yes.
    pub ask: bool,
    /// Look for further addresses of a server by its names (canonical, reverse, A and AAAA), as the
    /// system's resolver gives them; a session that loses its line is looked for there too. Names
    /// may lie: nothing goes over an address that has not proven itself. Default: yes.
    pub hints: bool,
    /// Move sessions to a better line. Default: yes.
    pub migrate: bool,
    /// What makes a line better.
    pub weights: Weights,
    /// How often lines are compared: a line must be a fifth better for three windows in a row.
    /// Default: 10 s, at least 100 ms.
    pub window: Duration,
    /// How long a session stays on a line at least, and how far moves are apart at least is twice
    /// that. Default: 30 s.
    pub dwell: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            session: Config::default(),
            linger: Duration::from_secs(10),
            streams_max: 1024,
            sessions_max: 256,
            ask: true,
            hints: true,
            migrate: true,
            weights: Weights::default(),
            window: Duration::from_secs(10),
            dwell: Duration::from_secs(30),
        }
    }
}

/// Most connections of one session.
const STREAMS_MAX: u32 = 16_384;

impl PoolConfig {
    pub(crate) fn check(&self) -> io::Result<()> {
        let bad = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if !(1..=STREAMS_MAX).contains(&self.streams_max) {
            return bad("streams_max is 1 to 16384");
        }
        if self.sessions_max == 0 {
            return bad("sessions_max is at least 1");
        }
        if self.window < Duration::from_millis(100) {
            return bad("a window of comparison is at least 100 ms");
        }
        Ok(())
    }
}

/// What can be set about one connection.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// The service's name at a server that has several behind one port; at most 32 bytes. Default:
    /// none.
    pub service: String,
    /// Connections of other tags never share a session with this one. Default: none.
    pub tag: String,
    /// Whose connection it is, for the table. Default: none.
    pub application: String,
    /// The network device to use, as SO_BINDTODEVICE. Default: any.
    pub device: Option<String>,
    /// The local address to use. Default: any.
    pub source: Option<IpAddr>,
    /// How long to wait; the session's `connect_timeout` if none. Default: none.
    pub timeout: Option<Duration>,
}

/// What can be set about a shared listener.
#[derive(Clone, Debug)]
pub struct SharedConfig {
    /// Of its sessions. Without a key of its own, and without a pre-shared one, a listener makes
    /// itself a static key, which lasts as long as it does. `mode` is not regarded.
    pub session: Config,
    /// The services that there are, by name; any if empty. Default: any.
    pub services: Vec<String>,
    /// Connections of one session at a time, 1 to 16,384. Default: 1,024.
    pub streams_max: u32,
    /// How long a session may have no connection before it is ended; its client opens another when
    /// it needs one. Default: 5 min.
    pub idle: Duration,
    /// Connections that may wait to be accepted; more are refused. Default: 1,024.
    pub backlog: usize,
    /// Answer queries over UDP at the port numbers that are listened on. Default: yes.
    pub answer: bool,
}

impl Default for SharedConfig {
    fn default() -> Self {
        Self {
            session: Config::default(),
            services: Vec::new(),
            streams_max: 1024,
            idle: Duration::from_secs(300),
            backlog: 1024,
            answer: true,
        }
    }
}

impl SharedConfig {
    pub(crate) fn check(&self) -> io::Result<()> {
        let bad = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if !(1..=STREAMS_MAX).contains(&self.streams_max) {
            return bad("streams_max is 1 to 16384");
        }
        if self.backlog == 0 {
            return bad("backlog is at least 1");
        }
        Ok(())
    }
}
