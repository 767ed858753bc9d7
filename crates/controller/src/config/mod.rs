//! A controller as a file says it: its doors, partners, partitions, and where their records lie;
//! and a device as a file says it.
//!
//! The file is TOML; `examples/controller.toml` and `examples/device.toml` have every key with its
//! default and what it means. A [`ControllerFile`] is parsed and checked as a whole, and all that is
//! wrong with it is told at once: what it holds is sound in itself, though files that it names need
//! not be there.

mod device;
mod doors;
mod keys;
mod policy;
mod storage;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

pub use device::DeviceFile;
pub use doors::{DialFile, DispatchMode, DispatchRule, DispatchWhat, PartnerFile};
pub use policy::Policy;

use crate::limits::{ADDRS_MAX, PARTITIONS_MAX};
use crate::model::ControllerId;
use doors::{DoorFile, PartnerDoorFile};
use storage::StoreFile;
use table::{Source, addr, parsed};

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
    /// Which partition a device belongs to, and what is done with its requests; of several rules
    /// that fit, the longest counts.
    pub dispatch: Vec<DispatchRule>,
    door: DoorFile,
    partner_door: Option<PartnerDoorFile>,
    store: StoreFile,
    usual: Policy,
    policies: BTreeMap<ControllerId, Policy>,
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
        self.policies.get(partition).unwrap_or(&self.usual)
    }

    /// Its partitions: its own, then those of its partners.
    pub fn partitions(&self) -> impl Iterator<Item = &ControllerId> {
        std::iter::once(&self.name).chain(self.partners.iter().map(|partner| &partner.name))
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
    let name = root.need("name", parsed::<ControllerId>);
    let control = root.path("control");
    let metrics = root.take("metrics", addr);
    let door = root.table("door").map(DoorFile::read);
    if door.is_none() {
        root.wrong(0, "door", "no device gets in; add [door] with `listen`");
    }
    let partner_door = root.table("partner-door").map(PartnerDoorFile::read);
    let tables = root.tables("partner", PARTITIONS_MAX - 1);
    let partners = doors::partners(tables, name.as_ref(), partner_door.as_ref());
    let known = |id: &ControllerId| {
        name.as_ref().is_none_or(|name| name == id)
            || partners.iter().any(|partner| partner.name == *id)
    };
    let rules = root.tables("dispatch", RULES_MAX);
    let dispatch = doors::dispatch(rules, &known, read);
    let store = root.table("store").map(StoreFile::read);
    if store.is_none() {
        root.wrong(0, "store", "the records lie nowhere; add [store] with `dir`");
    }
    let usual = match root.table("policy") {
        Some(table) => Policy::read(table, &Policy::default()),
        None => Policy::default(),
    };
    let mut policies = BTreeMap::new();
    for (partition, table) in root.named("partition") {
        let at = table.at();
        let policy = Policy::read(table, &usual);
        match partition.parse::<ControllerId>() {
            Err(error) => root.wrong(at, &partition, &error.to_string()),
            Ok(id) if !known(&id) => {
                let problem = "there is no such partition: neither is it this controller's own \
                               `name`, nor that of a [[partner]]; correct it, or leave it out";
                root.wrong(at, &partition, problem);
            }
            Ok(id) => {
                policies.insert(id, policy);
            }
        }
    }
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
        usual,
        policies,
    })
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
        let found = place.to_socket_addrs().map_err(|error| {
            format!("{place:?}: {error}; correct the name, or give an address")
        })?;
        for addr in found {
            if !all.contains(&addr) {
                all.push(addr);
            }
        }
    }
    all.truncate(ADDRS_MAX);
    if all.is_empty() { Err(format!("{places:?} has no address; give one")) } else { Ok(all) }
}
