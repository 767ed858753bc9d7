//! Everything that can be set about a session, in one place.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use eversock_proto::control::Role;
pub use eversock_proto::identity::{PublicKey, StaticKey};
use eversock_proto::limits::{
    LOG_CAP_DEFAULT_BYTES, WINDOW_INITIAL_BYTES, WINDOW_MAX_DEFAULT_BYTES,
};
pub use eversock_proto::open::Sealing;
pub use eversock_proto::redial::BackOff;
pub use eversock_proto::secret::PresharedKey;

/// What the program (or its user) says when asked whether a session is to be recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Redial.
    Continue,
    /// End the session with one error.
    GiveUp,
}

/// What happened to a session's connection, as told to those who decide and those who watch.
#[derive(Clone, Debug)]
pub struct FaultReport {
    /// The engine's number of the session in this process, as in [`crate::SessionInfo::local_id`].
    pub local_id: u64,
    /// The session's id in hexadecimal.
    pub session: String,
    /// The peer's address.
    pub peer: Option<SocketAddr>,
    /// The connection's number within the session, from 1.
    pub epoch: u64,
    /// What the kernel or the protocol said.
    pub cause: String,
}

type AskCallback = Arc<dyn Fn(&FaultReport) -> Answer + Send + Sync>;
type LineUpCallback = Arc<dyn Fn(&FaultReport) -> bool + Send + Sync>;

/// Whether a session whose connection died is recovered (the Toshiba patent's "ask the user").
#[derive(Clone, Default)]
pub enum RecoveryPolicy {
    /// Redial without asking.
    #[default]
    Automatic,
    /// Ask this callback. It runs on a thread of its own, never under a lock, and may block; the
    /// session waits for it, up to the grace. A panic counts as giving up.
    Ask(AskCallback),
    /// Wait for `evs answer` (or [`crate::answer`]); no answer within the grace is giving up.
    AskOutside,
    /// The first fault ends the session with one error.
    Never,
}

impl fmt::Debug for RecoveryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Automatic => "Automatic",
            Self::Ask(_) => "Ask(..)",
            Self::AskOutside => "AskOutside",
            Self::Never => "Never",
        })
    }
}

/// What is run before a redial, to bring the line up (a modem, a VPN).
#[derive(Clone)]
pub enum LineUp {
    /// A callback on a thread of its own; `false` means the line is down, try again later.
    Callback(LineUpCallback),
    /// A command for `/bin/sh -c`; the environment has `EVS_SESSION`, `EVS_PEER`, `EVS_EPOCH` and
    /// `EVS_CAUSE`. Exit status other than 0 means the line is down, try again later. Ended after
    /// 30 s.
    Command(String),
}

impl fmt::Debug for LineUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Callback(_) => f.write_str("Callback(..)"),
            Self::Command(command) => f.debug_tuple("Command").field(command).finish(),
        }
    }
}

/// The servers whose static keys a client knows, as a `known_peers` file lists them. Asked by the
/// engine's thread, so it should not take long; the file may be read anew each time.
pub trait KnowsServers: Send + Sync {
    /// The key that the server must have; none if it is not known. An error ends the connect.
    fn key_of(&self, host: &str, port: u16) -> Result<Option<PublicKey>, String>;

    /// A server that is not known has proven to have this key: whether to believe it. An error ends
    /// the connect, and should say how the key is made known.
    fn first_seen(&self, host: &str, port: u16, key: PublicKey) -> Result<(), String>;

    /// A server that is known has not proven to have its key, and the connect ends: what to say
    /// about it, and what the user can do.
    fn not_proven(&self, host: &str, port: u16) -> String {
        format!(
            "{host}:{port} has not proven to have the static key that is known for it: it has \
             another one now, or somebody is in its place, or it refuses this side's own key; if \
             its key was changed on purpose, make the new one known in place of the old"
        )
    }
}

/// Where a client learns which static key its server must have.
#[derive(Clone)]
pub struct KnownServers(pub Arc<dyn KnowsServers>);

impl fmt::Debug for KnownServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownServers(..)")
    }
}

/// How the descriptor of a virtual socket is made (DESIGN 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The number holds the real socket itself; the program's own thread does the I/O. Waits must
    /// go
    /// through eversock (`evs_poll`, the Rust API).
    #[default]
    Direct,
    /// The number holds one end of a loopback TCP pair and the engine copies. Any system call and
    /// any
    /// event loop works.
    Pumped,
}

/// Which peers a socket takes (DESIGN 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peers {
    /// Those that speak eversock; others are refused.
    #[default]
    Eversock,
    /// Others too: with them it is a plain connection, which is not virtual. A listener looks at a
    /// client's first bytes. A client that finds such a peer dials it again, says nothing, and
    /// remembers the peer for a minute.
    Any,
}

/// What can be set about sessions. Cheap to clone; a change affects sockets made afterwards.
#[derive(Clone, Debug)]
pub struct Config {
    /// Direct or pumped descriptors. Default: direct in Rust, pumped in C.
    pub mode: Mode,
    /// Whether to recover. Default: automatic.
    pub policy: RecoveryPolicy,
    /// Run before each redial. Default: nothing.
    pub line_up: Option<LineUp>,
    /// Redials without progress before the session is given up; 0 means no limit but the grace.
    /// Default: 0.
    pub redial_limit: u32,
    /// How long a client redials, and how long a server waits for it after silence. Default: 15
    /// min.
    pub grace: Duration,
    /// How long a server waits after the connection was closed or reset rather than went silent:
    /// a sign that the peer's process has ended. Default: 60 s.
    pub grace_after_close: Duration,
    /// Waits between redials. Default: 50 ms doubling up to 10 s, with jitter.
    pub back_off: BackOff,
    /// How long one attempt to connect may take. Default: 10 s.
    pub connect_timeout: Duration,
    /// Other addresses of the peer to try. Default: none.
    pub peer_addrs: Vec<SocketAddr>,
    /// Other addresses of this side, announced to the peer. Default: none.
    pub own_addrs: Vec<SocketAddr>,
    /// What becomes of peers that do not speak eversock. Default: they are refused.
    pub peers: Peers,
    /// With [`Peers::Any`], a listener's: a client that says nothing for half a second is a plain
    /// one that waits for the server to speak. Default: no.
    pub server_speaks_first: bool,
    /// Both ends need this key to open a session. Default: none. Not together with static keys.
    pub key: Option<PresharedKey>,
    /// Whether what goes over the wire is encrypted and authenticated. Default: never.
    pub sealing: Sealing,
    /// The static key of this side. A listener that has one opens no session with a client that
    /// does not ask for it; a client that has one names itself by it, and needs a `server_key`.
    /// Default: none.
    pub identity: Option<StaticKey>,
    /// A client's: the static key that its server must have. Default: any, or none.
    pub server_key: Option<PublicKey>,
    /// A client's, when there is no `server_key`: who knows which one the server must have.
    /// Default: nobody.
    pub known_servers: Option<KnownServers>,
    /// A listener's: the static keys of the clients that it takes; it needs an `identity`.
    /// Default: everybody.
    pub allowed_clients: Option<Vec<PublicKey>>,
    /// Credit given at first, in bytes; 16 KiB to 256 MiB. Default: 256 KiB.
    pub window: u64,
    /// Credit given at most, in bytes. Also bounds the log. Default: 8 MiB.
    pub window_max: u64,
    /// How long a closed socket goes on delivering what was written; extended while the peer
    /// confirms. When the process exits, a peer that cannot be reached gets a sixth of it, and at
    /// least a second. Default: 30 s.
    pub linger: Duration,
    /// Idle time before the kernel probes the peer. Default: 15 s (then 3 probes, 5 s apart).
    pub keepalive: Duration,
    /// Silence with unconfirmed bytes before the path is checked end to end. Default: 30 s.
    pub probe_after: Duration,
    /// A listener's: sessions born of it that go on, at most, those in their grace included; more
    /// are refused and may come again. 0 means no limit. Default: 0.
    pub sessions_max: u32,
    /// A listener's: while the sessions of the process hold so many bytes, written and not
    /// confirmed or come and not read, beyond 64 KiB for each direction of each session, more
    /// sessions are refused and may come again. 0 means no limit. Default: 0.
    pub memory_max: u64,
    /// A listener's: unfinished handshakes of one source (an IPv4 address, or 64 bits of an IPv6
    /// address), at most, once some from there have stalled while others waited. 0 means no limit.
    /// Default: 64, a fourth of all.
    pub handshakes_per_source: u32,
    /// Whether this side would carry several logical connections over one session; a session is
    /// shared if both ends would. The engine only agrees on it. Default: no.
    pub share: bool,
    /// The session is this process's alone: a child of a fork has none of its numbers, and cannot
    /// take it. For who has a session of which the program knows nothing. Default: no.
    pub private: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Direct,
            policy: RecoveryPolicy::Automatic,
            line_up: None,
            redial_limit: 0,
            grace: Duration::from_secs(15 * 60),
            grace_after_close: Duration::from_secs(60),
            back_off: BackOff::default(),
            connect_timeout: Duration::from_secs(10),
            peer_addrs: Vec::new(),
            own_addrs: Vec::new(),
            peers: Peers::Eversock,
            server_speaks_first: false,
            key: None,
            sealing: Sealing::Never,
            identity: None,
            server_key: None,
            known_servers: None,
            allowed_clients: None,
            window: WINDOW_INITIAL_BYTES,
            window_max: WINDOW_MAX_DEFAULT_BYTES,
            linger: Duration::from_secs(30),
            keepalive: Duration::from_secs(15),
            probe_after: Duration::from_secs(30),
            sessions_max: 0,
            memory_max: 0,
            handshakes_per_source: 64,
            share: false,
            private: false,
        }
    }
}

/// What was shared last; most programs configure all their sockets alike.
static LAST: Mutex<Weak<Config>> = Mutex::new(Weak::new());

impl Config {
    /// This configuration for a socket, in common with the sockets that were configured alike just
    /// before: a thousand sockets need not hold a thousand copies.
    pub fn share(self) -> Arc<Self> {
        // Taken by another thread, perhaps by one that a fork child does not have: go without.
        let Ok(mut last) = LAST.try_lock() else { return Arc::new(self) };
        if let Some(known) = last.upgrade().filter(|known| known.is_same(&self)) {
            return known;
        }
        let shared = Arc::new(self);
        *last = Arc::downgrade(&shared);
        shared
    }

    /// True when a socket in this role takes a peer that does not speak eversock. Who wants keys or
    /// sealing does not, or whoever stands between could have the connection without.
    pub(crate) fn takes_plain(&self, role: Role) -> bool {
        let has_keys = self.key.is_some()
            || self.identity.is_some()
            || self.server_key.is_some()
            || self.known_servers.is_some()
            || self.allowed_clients.is_some();
        let sealed = match role {
            Role::Client => self.sealing != Sealing::Never,
            Role::Server => self.sealing == Sealing::Always,
        };
        self.peers == Peers::Any && !has_keys && !sealed
    }

    /// True when nothing tells the two apart; callbacks are the same if they are one.
    fn is_same(&self, other: &Self) -> bool {
        // All fields are named, so that a new one is not forgotten.
        let Self {
            mode,
            policy,
            line_up,
            redial_limit,
            grace,
            grace_after_close,
            back_off,
            connect_timeout,
            peer_addrs,
            own_addrs,
            key,
            sealing,
            identity,
            server_key,
            known_servers,
            allowed_clients,
            window,
            window_max,
            linger,
            keepalive,
            probe_after,
            sessions_max,
            memory_max,
            handshakes_per_source,
            peers,
            server_speaks_first,
            share,
            private,
        } = self;
        let same_policy = match (policy, &other.policy) {
            (RecoveryPolicy::Ask(ours), RecoveryPolicy::Ask(theirs)) => Arc::ptr_eq(ours, theirs),
            (ours, theirs) => std::mem::discriminant(ours) == std::mem::discriminant(theirs),
        };
        let same_line = match (line_up, &other.line_up) {
            (None, None) => true,
            (Some(LineUp::Callback(ours)), Some(LineUp::Callback(theirs))) => {
                Arc::ptr_eq(ours, theirs)
            }
            (Some(LineUp::Command(ours)), Some(LineUp::Command(theirs))) => ours == theirs,
            _ => false,
        };
        let same_known = match (known_servers, &other.known_servers) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => Arc::ptr_eq(&ours.0, &theirs.0),
            _ => false,
        };
        same_policy
            && same_known
            && same_line
            && *mode == other.mode
            && *redial_limit == other.redial_limit
            && *grace == other.grace
            && *grace_after_close == other.grace_after_close
            && *back_off == other.back_off
            && *connect_timeout == other.connect_timeout
            && *peer_addrs == other.peer_addrs
            && *own_addrs == other.own_addrs
            && *key == other.key
            && *sealing == other.sealing
            && *identity == other.identity
            && *server_key == other.server_key
            && *allowed_clients == other.allowed_clients
            && *window == other.window
            && *window_max == other.window_max
            && *linger == other.linger
            && *keepalive == other.keepalive
            && *probe_after == other.probe_after
            && *sessions_max == other.sessions_max
            && *memory_max == other.memory_max
            && *handshakes_per_source == other.handshakes_per_source
            && *peers == other.peers
            && *server_speaks_first == other.server_speaks_first
            && *share == other.share
            && *private == other.private
    }
}

/// The process-wide cap on replay logs, by default, in bytes.
pub const LOG_CAP_BYTES: u64 = LOG_CAP_DEFAULT_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_are_configured_alike_share_their_configuration() {
        let asking = || RecoveryPolicy::Ask(Arc::new(|_| Answer::Continue));
        let policy = asking();
        let config = Config { policy: policy.clone(), ..Config::default() };
        let shared = config.clone().share();
        assert!(Arc::ptr_eq(&shared, &config.clone().share()));
        let others = [
            Config { policy: asking(), ..config.clone() },
            Config { key: Some(PresharedKey([1; 32])), ..config.clone() },
            Config { linger: Duration::from_secs(1), ..config.clone() },
            Config { share: true, ..config.clone() },
            Config { private: true, ..config.clone() },
            Config { sealing: Sealing::Always, ..config.clone() },
            Config { server_key: Some(PublicKey([1; 32])), ..config.clone() },
            Config { line_up: Some(LineUp::Command("true".to_owned())), ..config.clone() },
        ];
        for other in others {
            assert!(!Arc::ptr_eq(&shared, &other.clone().share()), "{other:?}");
            assert!(!config.is_same(&other) && other.is_same(&other.clone()), "{other:?}");
        }
    }
}
