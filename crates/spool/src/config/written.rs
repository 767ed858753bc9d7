//! A front's file as it is written: which keys there are, and of what type.
//!
//! What a key means, and what it is if it is left out, says `examples/spool.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;

use eversock_units::{Size, Time};
use serde::Deserialize;
use toml::Spanned;

use crate::pair::{DrainMode, InDoubt, Reads};
use crate::target::Class;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct WrittenFront {
    pub(super) dir: PathBuf,
    pub(super) postgres: Option<String>,
    pub(super) postgres_schema: Option<String>,
    pub(super) postgres_timeout: Option<Time>,
    pub(super) control: Option<PathBuf>,
    pub(super) metrics: Option<SocketAddr>,
    #[serde(default)]
    pub(super) socket: Vec<Spanned<WrittenSocket>>,
    #[serde(default)]
    pub(super) http: Vec<Spanned<WrittenHttp>>,
    #[serde(default)]
    pub(super) smtp: Vec<Spanned<WrittenSmtp>>,
    #[serde(default)]
    pub(super) pair: Vec<Spanned<WrittenPair>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct WrittenSocket {
    pub(super) listen: SocketAddr,
    pub(super) key: Option<PathBuf>,
    #[serde(default)]
    pub(super) sealed: bool,
    pub(super) identity: Option<PathBuf>,
    pub(super) allowed_clients: Option<PathBuf>,
    pub(super) grace: Option<Time>,
    pub(super) sessions_max: Option<u32>,
    pub(super) memory_max: Option<Size>,
    pub(super) handshakes_per_source: Option<u32>,
    pub(super) connections_max: Option<usize>,
    pub(super) in_flight_max: Option<usize>,
    pub(super) bytes_in_flight_max: Option<Size>,
    pub(super) bytes_max: Option<Size>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "refused as a whole"))]
pub(super) struct WrittenHttp {
    pub(super) listen: SocketAddr,
    #[serde(default)]
    pub(super) route: Vec<Spanned<WrittenRoute>>,
    pub(super) body_max: Option<Size>,
    pub(super) bodies_max: Option<Size>,
    pub(super) deadline: Option<Time>,
    pub(super) connections_max: Option<usize>,
    pub(super) spooled_status: Option<u16>,
    pub(super) header_timeout: Option<Time>,
    pub(super) body_timeout: Option<Time>,
    pub(super) write_timeout: Option<Time>,
    pub(super) keep_host: Option<bool>,
    pub(super) dropped_headers: Option<Vec<String>>,
    pub(super) threads: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "refused as a whole"))]
pub(super) struct WrittenRoute {
    pub(super) path: String,
    pub(super) pair: String,
    #[serde(default)]
    pub(super) search: Vec<String>,
    #[serde(default)]
    pub(super) search_post: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(not(feature = "smtp"), allow(dead_code, reason = "refused as a whole"))]
pub(super) struct WrittenSmtp {
    pub(super) listen: SocketAddr,
    pub(super) hostname: String,
    pub(super) pair: String,
    #[serde(default)]
    pub(super) domains: Vec<String>,
    pub(super) message_max: Option<Size>,
    pub(super) memory_max: Option<Size>,
    pub(super) recipients_max: Option<usize>,
    pub(super) connections_max: Option<usize>,
    pub(super) idle: Option<Time>,
    pub(super) message_timeout: Option<Time>,
    pub(super) errors_max: Option<u32>,
    pub(super) deadline: Option<Time>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct WrittenPair {
    pub(super) name: String,
    #[serde(default)]
    pub(super) server: Vec<Spanned<WrittenServer>>,
    pub(super) reads: Option<Reads>,
    pub(super) delete_as_write: Option<bool>,
    pub(super) drain: Option<DrainMode>,
    pub(super) in_doubt: Option<InDoubt>,
    pub(super) automatic: Option<bool>,
    pub(super) dry_run: Option<bool>,
    pub(super) quota_records: Option<u64>,
    pub(super) quota_bytes: Option<Size>,
    pub(super) keep_ids: Option<Time>,
    pub(super) hold_max: Option<usize>,
    pub(super) in_flight_max: Option<usize>,
    pub(super) in_flight_bytes_max: Option<Size>,
    pub(super) retry_after: Option<Time>,
    pub(super) call_timeout: Option<Time>,
    pub(super) suspect_errors: Option<usize>,
    pub(super) suspect_window: Option<Time>,
    pub(super) confirm: Option<Time>,
    pub(super) probe_every: Option<Time>,
    pub(super) probe_timeout: Option<Time>,
    pub(super) lease: Option<Time>,
    pub(super) flap_guard: Option<Time>,
    pub(super) release_timeout: Option<Time>,
    pub(super) drain_window_max: Option<usize>,
    pub(super) drain_calls_max: Option<usize>,
    pub(super) drain_rate: Option<u64>,
    pub(super) freeze: Option<Time>,
    pub(super) commit_window: Option<Time>,
    pub(super) commit_records_max: Option<usize>,
    pub(super) commit_bytes_max: Option<Size>,
    pub(super) commit_queue_max: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct WrittenServer {
    pub(super) name: Option<String>,
    pub(super) url: String,
    pub(super) class: Option<WrittenClass>,
    pub(super) fence: Option<WrittenHook>,
    pub(super) promote: Option<WrittenHook>,
    pub(super) release: Option<WrittenHook>,
    pub(super) hook_timeout: Option<Time>,
    pub(super) connect_timeout: Option<Time>,
    pub(super) in_flight_max: Option<usize>,
    // Of a server at the end of a virtual socket.
    pub(super) key: Option<PathBuf>,
    #[serde(default)]
    pub(super) sealed: bool,
    pub(super) identity: Option<PathBuf>,
    pub(super) known_peers: Option<PathBuf>,
    #[serde(default)]
    pub(super) accept_new: bool,
    pub(super) grace: Option<Time>,
    pub(super) bytes_in_flight_max: Option<Size>,
    // Of a server that speaks HTTP.
    pub(super) health: Option<String>,
    pub(super) headers: Option<Vec<(String, String)>>,
    pub(super) lanes_max: Option<usize>,
    pub(super) answer_max: Option<Size>,
    pub(super) linger: Option<Time>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WrittenClass {
    Ledger,
    Idempotent,
    Opaque,
}

impl From<WrittenClass> for Class {
    fn from(written: WrittenClass) -> Self {
        match written {
            WrittenClass::Ledger => Self::Ledger,
            WrittenClass::Idempotent => Self::Idempotent,
            WrittenClass::Opaque => Self::Opaque,
        }
    }
}

/// A program and its arguments, or an address to POST to.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected [\"program\", \"argument\", ...] or \"http://...\"")]
pub(super) enum WrittenHook {
    Command(Vec<String>),
    #[cfg_attr(not(feature = "http"), allow(dead_code, reason = "refused, whatever it is"))]
    Post(String),
}
