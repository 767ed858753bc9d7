//! A front as a file says it: what it listens on, its pairs, their servers and spools.
//!
//! The file is TOML; `examples/spool.toml` has every key with its default and what it means. A
//! [`FrontFile`] is parsed and checked as a whole: what it holds is sound in itself, though files
//! that it names need not be there. [`FrontFile::start`] then makes a front of it.

mod check;
mod gate;
mod place;
mod servers;
mod start;
mod stores;
#[cfg(test)]
mod tests;
mod written;

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use gate::Gate;
use place::Place;
use servers::Keys;
pub use servers::ServerFile;
pub use start::{Listening, Running};
pub use stores::PairReader;

use crate::door::DoorConfig;
use crate::pair::PairConfig;
use crate::store::Quota;
use crate::store::committer::CommitterConfig;

/// A file is this long at most; more is a wrong file.
const LENGTH_MAX: u64 = 1 << 20;

/// Why a file is no front, or its front does not start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{path}: cannot be read: {cause}; name another file")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is too long to be a front's.
    #[error("{path}: longer than 1 MiB, which no front's file is; name another file")]
    TooLong {
        /// The file.
        path: String,
    },
    /// Something in it is wrong, or cannot be had.
    #[error("{path}:{line}: {problem}")]
    Wrong {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// Which key, what is wrong with it, and the remedy.
        problem: String,
    },
    /// Its front does not start, for a reason that no line of it is about.
    #[error("{path}: {problem}")]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong, and the remedy.
        problem: String,
    },
}

/// A front, as a file says it.
#[derive(Debug, Clone)]
pub struct FrontFile {
    /// What errors call the file.
    source: String,
    /// Where its spools lie, and its control socket by default.
    pub dir: PathBuf,
    /// The socket on which it takes commands.
    pub control: PathBuf,
    /// Where it tells its figures.
    pub metrics: Option<SocketAddr>,
    /// Its pairs, in the order of the file.
    pub pairs: Vec<PairFile>,
    storage: Storage,
    sockets: Vec<SocketFile>,
    #[cfg(feature = "http")]
    https: Vec<(Place, crate::http::HttpFrontConfig)>,
    #[cfg(feature = "smtp")]
    smtps: Vec<(Place, crate::smtp::SmtpConfig)>,
}

/// A pair, as a file says it.
#[derive(Debug, Clone)]
pub struct PairFile {
    /// What senders call it.
    pub name: String,
    /// How it behaves.
    pub config: PairConfig,
    /// How writers share the spool's transactions.
    pub committer: CommitterConfig,
    /// Its servers; the first is the main one until another has the lock.
    pub servers: [ServerFile; 2],
}

impl PairFile {
    fn quota(&self) -> Quota {
        Quota { records: self.config.quota_records, bytes: self.config.quota_bytes }
    }
}

/// Where spools lie.
#[derive(Debug, Clone)]
enum Storage {
    /// A file for each pair in [`FrontFile::dir`].
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres(crate::store::postgres::PostgresConfig),
}

/// A door for senders that use virtual sockets.
#[derive(Debug, Clone)]
struct SocketFile {
    place: Place,
    listen: SocketAddr,
    keys: Keys,
    grace: Option<Duration>,
    sessions_max: Option<u32>,
    memory_max: Option<u64>,
    handshakes_per_source: Option<u32>,
    door: DoorConfig,
}

impl FrontFile {
    /// Reads a file. Paths in it are relative to its folder.
    ///
    /// # Errors
    ///
    /// What is wrong with it, with the line.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let unreadable = |cause| ConfigError::Unreadable { path: name.clone(), cause };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        file.take(LENGTH_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > LENGTH_MAX {
            return Err(ConfigError::TooLong { path: name });
        }
        let folder = std::path::absolute(path).map_err(unreadable)?;
        Self::from_text(&text, &name, folder.parent().unwrap_or_else(|| Path::new("/")))
    }

    /// Reads text. `source` is what errors call it, `folder` what paths in it are relative to.
    ///
    /// # Errors
    ///
    /// What is wrong with it, with the line.
    pub fn from_text(text: &str, source: &str, folder: &Path) -> Result<Self, ConfigError> {
        check::front(text, source, folder)
    }

    /// The pair of this name.
    ///
    /// # Errors
    ///
    /// There is none; with the names of those that there are.
    pub fn pair(&self, name: &str) -> Result<&PairFile, ConfigError> {
        self.pairs.iter().find(|pair| pair.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.pairs.iter().map(|pair| pair.name.as_str()).collect();
            self.unusable(format!("no pair is called {name:?}; it has {}", names.join(", ")))
        })
    }

    fn unusable(&self, problem: String) -> ConfigError {
        ConfigError::Unusable { path: self.source.clone(), problem }
    }

    fn wrong(&self, place: Place, problem: &str) -> ConfigError {
        let problem = format!("{}: {problem}", place.table);
        ConfigError::Wrong { path: self.source.clone(), line: place.line, problem }
    }
}
