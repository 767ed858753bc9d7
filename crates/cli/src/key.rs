//! Key files, and the options that name them.

use std::path::PathBuf;

use clap::Args;
use eversock::Config;
use eversock_engine::keys::KeyFiles;
use eversock_rules::{Mode, Rule};

/// Who may talk to whom, and whether others may listen.
#[derive(Debug, Args)]
pub(crate) struct KeyOptions {
    /// A file with the key that both ends need: 32 bytes, 64 hexadecimal digits
    /// or base64, and readable by you alone (see `evs keygen`).
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Encrypt and authenticate all that goes over the wire. Both ends must want it.
    #[arg(long)]
    pub(crate) sealed: bool,
    /// A file with the static key of this side (see `evs keygen`): a server that has one talks to
    /// clients that know it.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// For the side that connects: a file of servers' static keys, in each line HOST or HOST:PORT
    /// and the key. A server that is not listed is refused with the line to add.
    #[arg(long, value_name = "FILE")]
    pub(crate) known_peers: Option<PathBuf>,
    /// With --known-peers: a server that is not listed is believed the first time, and added.
    #[arg(long)]
    pub(crate) accept_new: bool,
    /// For the side that listens: a file that lists the static keys of the clients that are let in.
    #[arg(long, value_name = "FILE")]
    pub(crate) allowed_clients: Option<PathBuf>,
}

impl KeyOptions {
    /// True when a peer must have something that a plain one has not.
    pub(crate) fn are_given(&self) -> bool {
        self.key.is_some()
            || self.sealed
            || self.identity.is_some()
            || self.known_peers.is_some()
            || self.accept_new
            || self.allowed_clients.is_some()
    }

    /// A rule of these options alone.
    pub(crate) fn rule(&self) -> Rule {
        // The program may change its folder.
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Rule {
            mode: if self.are_given() { Mode::Require } else { Mode::Auto },
            key: self.key.as_ref().map(absolute),
            sealed: self.sealed,
            identity: self.identity.as_ref().map(absolute),
            known_peers: self.known_peers.as_ref().map(absolute),
            accept_new: self.accept_new,
            allowed_clients: self.allowed_clients.as_ref().map(absolute),
            ..Rule::default()
        }
    }
}

/// What one listener gives to all, and to one source.
#[derive(Debug, Args)]
pub(crate) struct LimitOptions {
    /// For the side that listens: sessions at one time, at most; more are refused and may come
    /// again. 0 for no limit [default: 0].
    #[arg(long, value_name = "N")]
    pub(crate) sessions_max: Option<u32>,
    /// For the side that listens: while its sessions hold so many bytes that are not confirmed or
    /// not read, more are refused and may come again. 0 for no limit [default: 0].
    #[arg(long, value_name = "SIZE", value_parser = crate::units::size)]
    pub(crate) memory_max: Option<u64>,
    /// For the side that listens: unfinished handshakes of one source address, at most, once some
    /// from there have stalled. 0 for no limit [default: 64].
    #[arg(long, value_name = "N")]
    pub(crate) handshakes_per_source: Option<u32>,
}

impl LimitOptions {
    pub(crate) fn are_given(&self) -> bool {
        self.sessions_max.is_some()
            || self.memory_max.is_some()
            || self.handshakes_per_source.is_some()
    }

    pub(crate) fn set(&self, rule: &mut Rule) {
        rule.sessions_max = self.sessions_max;
        rule.memory_max = self.memory_max;
        rule.handshakes_per_source = self.handshakes_per_source;
    }
}

/// Reads the files that a rule names into a configuration.
pub(crate) fn configure(rule: &Rule, config: &mut Config) -> Result<(), String> {
    let files = KeyFiles {
        key: rule.key.as_deref(),
        sealed: rule.sealed,
        identity: rule.identity.as_deref(),
        known_peers: rule.known_peers.as_deref(),
        accept_new: rule.accept_new,
        allowed_clients: rule.allowed_clients.as_deref(),
    };
    files.read_into(config).map_err(|error| error.to_string())
}
