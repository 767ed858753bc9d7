//! A controller as a file says it: its doors, partners, partitions, and where their records lie;
//! and a device as a file says it.
//!
//! The file is TOML; `examples/controller.toml` and `examples/device.toml` have every key with its
//! default and what it means. A [`ControllerFile`] is parsed and checked as a whole, and all that
//! is wrong with it is told at once: what it holds is sound in itself, though files that it names
//! need not be there.

mod device;
mod doors;
mod keys;
mod policy;
mod start;
mod storage;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use eversock_engine::PublicKey;

pub use device::DeviceFile;
pub use doors::PartnerFile;

use crate::limits::{ADDRS_MAX, ALTERNATES_MAX, PARTITIONS_MAX};
use crate::model::{ControllerId, DeviceId, NameError};
use crate::node::{LinkConfig, PartitionConfig, Policy, QueueConfig};
use doors::{DoorFile, PartnerDoorFile};
use storage::StoreFile;
use table::{Source, Table, addr, list, number, size, text, time};

/// A file is this long at most; more is a wrong file.
const LENGTH_MAX: u64 = 1 << 20;
/// Rules of a dispatch table.
const RULES_MAX: usize = 10_000;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// Which key, what is wrong with it, and the remedy.
    pub text: String,
}

/// Why a file is of no use.
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
    /// It is too long.
    #[error("{path}: longer than 1 MiB, which no controller's file is; name another file")]
    TooLong {
        /// The file.
        path: String,
    },
    /// Something in it is wrong.
    #[error("{}", Listed(path, problems))]
    Wrong {
        /// The file.
        path: String,
        /// Everything that is, from its top to its end; never empty.
        problems: Vec<Problem>,
    },
    /// What it says cannot be had now.
    #[error("{path}: {problem}")]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong, and the remedy.
        problem: String,
    },
}

/// Each problem on a line of its own.
struct Listed<'a>(&'a str, &'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, Problem { line, text }) in self.1.iter().enumerate() {
            let begin = if nth == 0 { "" } else { "\n" };
            write!(f, "{begin}{}:{line}: {text}", self.0)?;
        }
        Ok(())
    }
}

/// A controller, as a file says it.
#[derive(Debug, Clone)]
pub struct ControllerFile {
    /// What errors call the file.
    source: String,
    /// Its name.
    pub name: ControllerId,
    /// The socket on which it takes commands.
    pub control: PathBuf,
    /// Where it tells its figures.
    pub metrics: Option<SocketAddr>,
    /// Its partners, in the order of the file.
    pub partners: Vec<PartnerFile>,
    dispatch: Vec<doors::Rule>,
    door: DoorFile,
    partner_door: Option<PartnerDoorFile>,
    store: StoreFile,
    link: LinkConfig,
    usual: Policy,
    partitions: Vec<PartitionConfig>,
    device_keys: HashMap<DeviceId, PublicKey>,
}

impl ControllerFile {
    /// Reads a file. Paths in it are relative to its folder.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, with the lines.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let (text, name, folder) = read(path)?;
        Self::from_text(&text, &name, &folder)
    }

    /// Reads text. `source` is what errors call it, `folder` what paths in it are relative to.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, with the lines.
    pub fn from_text(text: &str, source: &str, folder: &Path) -> Result<Self, ConfigError> {
        let read = Source::new(text, folder);
        let file = controller(&read, source);
        sound(read, source, file)
    }

    /// How a partition behaves: as its own table says, else as all do.
    #[must_use]
    pub fn policy(&self, partition: &ControllerId) -> &Policy {
        let own = self.partitions.iter().find(|own| own.name == *partition);
        own.map_or(&self.usual, |own| &own.policy)
    }

    fn unusable(&self, problem: impl fmt::Display) -> ConfigError {
        ConfigError::Unusable { path: self.source.clone(), problem: problem.to_string() }
    }
}

/// The file, if nothing is wrong with it.
fn sound<T>(read: Source<'_>, source: &str, file: Option<T>) -> Result<T, ConfigError> {
    let problems = read.problems();
    match file {
        Some(file) if problems.is_empty() => Ok(file),
        _ => Err(ConfigError::Wrong { path: source.to_owned(), problems }),
    }
}

/// `None` only if something is wrong, which is noted.
fn controller(read: &Source<'_>, source: &str) -> Option<ControllerFile> {
    let mut root = read.root();
    let name = root.need("name", table::controller);
    let control = root.path("control");
    let metrics = root.take("metrics", addr);
    let has_door = root.has("door");
    let door = root.table("door").map(DoorFile::read);
    if !has_door {
        root.wrong(0, "door", "no device gets in; add [door] with `listen`");
    }
    let partner_door = root.table("partner-door").map(PartnerDoorFile::read);
    let tables = root.tables("partner", PARTITIONS_MAX - 1);
    let partners = doors::partners(tables, name.as_ref(), partner_door.as_ref());
    let link = root.table("link").map_or_else(LinkConfig::default, link);
    let usual = match root.table("policy") {
        Some(mut table) => {
            let policy = policy::read(&mut table, &Policy::default());
            table.end();
            policy
        }
        None => Policy::default(),
    };
    let partitions: Vec<PartitionConfig> = root
        .named("partition")
        .into_iter()
        .filter_map(|(name, table)| partition(&name, table, &usual))
        .collect();
    let known = |id: &ControllerId| {
        name.as_ref().is_none_or(|name| name == id)
            || partners.iter().any(|partner| partner.name == *id)
            || partitions.iter().any(|partition| partition.name == *id)
    };
    let rules = root.tables("dispatch", RULES_MAX);
    let dispatch = doors::dispatch(rules, &known, read);
    let has_store = root.has("store");
    let store = root.table("store").map(StoreFile::read);
    if !has_store {
        root.wrong(0, "store", "the records lie nowhere; add [store] with `dir`");
    }
    let device_keys = root.table("device-keys").map(|table| {
        let at = table.at();
        let keys = table.pairs(|name, value| {
            let name: DeviceId = name.parse().map_err(|error: NameError| error.to_string())?;
            Ok((name, doors::public_key(&text(value)?)?))
        });
        if let Some(Some(door)) = &door
            && door.keys.identity.is_none()
            && !keys.is_empty()
        {
            let problem = "connections have no static keys without an `identity` in [door], so \
                           these devices could never register; add one, or leave this out";
            root.wrong(at, "device-keys", problem);
        }
        keys
    });
    root.end();
    let store = store??;
    Some(ControllerFile {
        source: source.to_owned(),
        name: name?,
        control: control.unwrap_or_else(|| store.dir.join("control.sock")),
        metrics,
        partners,
        dispatch,
        door: door??,
        partner_door: match partner_door {
            Some(door) => Some(door?),
            None => None,
        },
        store,
        link,
        usual,
        partitions,
        device_keys: device_keys.unwrap_or_default().into_iter().collect(),
    })
}

fn partition(name: &str, mut table: Table<'_, '_>, usual: &Policy) -> Option<PartitionConfig> {
    let policy = policy::read(&mut table, usual);
    let alternates = table.take("alternates", |value| {
        list(value, ALTERNATES_MAX)?
            .iter()
            .map(|name| name.parse::<ControllerId>().map_err(|error| error.to_string()))
            .collect::<Result<Vec<_>, _>>()
    });
    let mut queue = QueueConfig::default();
    table.set(&mut queue.inputs_max, "queue", number(1, 1_000_000));
    table.set(&mut queue.bytes_max, "queue-bytes", |value| match size(value)? {
        few if few < LENGTH_MAX => Err("one message may have 1 MiB; take that or more".to_owned()),
        bytes => usize::try_from(bytes).map_err(|_| "it is too much; take less".to_owned()),
    });
    let name = name.parse::<ControllerId>().map_err(|error| {
        table.wrong(table.at(), name, &error.to_string());
    });
    table.end();
    Some(PartitionConfig {
        name: name.ok()?,
        alternates: alternates.unwrap_or_default(),
        policy,
        queue,
    })
}

fn link(mut table: Table<'_, '_>) -> LinkConfig {
    let mut link = LinkConfig::default();
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(3600));
    table.set(&mut link.ping_every, "ping", time(least, most));
    table.set(&mut link.silence_max, "silence", time(least, most));
    table.set(&mut link.retry_first, "retry-first", time(least, most));
    table.set(&mut link.retry_most, "retry-most", time(least, most));
    if link.silence_max <= link.ping_every {
        let problem = "a link would be given up before the first answer; take more than `ping`";
        table.wrong(table.at(), "silence", problem);
    }
    table.end();
    link
}

/// The text of a file, what errors call it, and its folder.
fn read(path: &Path) -> Result<(String, String, PathBuf), ConfigError> {
    let name = path.display().to_string();
    let unreadable = |cause| ConfigError::Unreadable { path: name.clone(), cause };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(LENGTH_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LENGTH_MAX {
        return Err(ConfigError::TooLong { path: name });
    }
    let folder = std::path::absolute(path).map_err(unreadable)?;
    let folder = folder.parent().unwrap_or_else(|| Path::new("/")).to_owned();
    Ok((text, name, folder))
}

/// Addresses of places as the file has them. Blocks while names are looked up.
fn resolve(places: &[String]) -> Result<Vec<SocketAddr>, String> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for place in places {
        let found = place
            .to_socket_addrs()
            .map_err(|error| format!("{place:?}: {error}; correct the name, or give an address"))?;
        for addr in found {
            if !all.contains(&addr) {
                all.push(addr);
            }
        }
    }
    all.truncate(ADDRS_MAX);
    if all.is_empty() { Err(format!("{places:?} has no address; give one")) } else { Ok(all) }
}
