//! From what is written to what is meant: defaults, and what contradicts itself.

mod doors;
mod pair;
mod server;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::place::Source;
use super::written::WrittenFront;
use super::{ConfigError, FrontFile, Storage};

/// Pairs of one front: each has threads and files of its own.
const PAIRS_MAX: usize = 1000;
/// Doors of one kind.
const DOORS_MAX: usize = 64;

/// What every check needs.
#[derive(Debug, Clone, Copy)]
struct Check<'a> {
    source: Source<'a>,
    folder: &'a Path,
}

pub(super) fn front(text: &str, name: &str, folder: &Path) -> Result<FrontFile, ConfigError> {
    let source = Source { text, name };
    let check = Check { source, folder };
    let written: WrittenFront = toml::from_str(text).map_err(|error| source.error(&error))?;
    let dir = check.path(&written.dir);
    if written.dir.as_os_str().is_empty() {
        return Err(source.key(0, "dir", "it is empty; name the directory of the spools"));
    }
    let control = written.control.as_deref();
    let control = control.map_or_else(|| dir.join("control.sock"), |path| check.path(path));
    let storage = storage(check, &written)?;
    if written.pair.is_empty() {
        return Err(source.key(0, "pair", "there is none; add a [[pair]]"));
    }
    bounded(source, "pair", written.pair.len(), PAIRS_MAX)?;
    let mut names = BTreeSet::new();
    let mut pairs = Vec::with_capacity(written.pair.len());
    for pair in written.pair {
        let at = pair.span().start;
        let pair = pair::pair(check, at, pair.into_inner())?;
        if !names.insert(pair.name.clone()) {
            let problem = format!("{:?} is another pair's already; take another name", pair.name);
            return Err(source.key(at, "name", &problem));
        }
        pairs.push(pair);
    }
    let doors = [written.socket.len(), written.http.len(), written.smtp.len()];
    for (key, count) in ["socket", "http", "smtp"].into_iter().zip(doors) {
        bounded(source, key, count, DOORS_MAX)?;
    }
    if doors.iter().all(|&count| count == 0) {
        let problem = "the front listens nowhere; add a [[socket]], an [[http]] or an [[smtp]]";
        return Err(source.key(0, "listen", problem));
    }
    let sockets = written.socket.into_iter().map(|door| doors::socket(check, door));
    let file = FrontFile {
        source: name.to_owned(),
        dir,
        control,
        metrics: written.metrics,
        storage,
        sockets: sockets.collect::<Result<_, _>>()?,
        #[cfg(feature = "http")]
        https: doors::http(check, written.http, &pairs)?,
        #[cfg(feature = "smtp")]
        smtps: doors::smtp(check, written.smtp, &pairs)?,
        pairs,
    };
    #[cfg(not(feature = "http"))]
    doors::missing(check, &written.http, "http")?;
    #[cfg(not(feature = "smtp"))]
    doors::missing(check, &written.smtp, "smtp")?;
    Ok(file)
}

impl Check<'_> {
    /// A path as it is meant.
    fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    fn paths(&self, path: Option<PathBuf>) -> Option<PathBuf> {
        path.map(|path| self.path(&path))
    }

    /// What is wrong with a key of the table that begins at `at`.
    fn wrong(&self, at: usize, key: &str, problem: &str) -> ConfigError {
        self.source.key(at, key, problem)
    }
}

fn bounded(source: Source<'_>, key: &str, count: usize, most: usize) -> Result<(), ConfigError> {
    if count <= most {
        return Ok(());
    }
    let problem = format!("there are {count}, and {most} at most; run several fronts");
    Err(source.key(0, key, &problem))
}

#[cfg(feature = "postgres")]
fn storage(check: Check<'_>, written: &WrittenFront) -> Result<Storage, ConfigError> {
    use crate::store::postgres::PostgresConfig;
    let Some(params) = &written.postgres else {
        let stray = [
            ("postgres-schema", written.postgres_schema.is_some()),
            ("postgres-timeout", written.postgres_timeout.is_some()),
        ];
        let problem = "it belongs to `postgres`; add that, or leave this out";
        return match stray.into_iter().find(|(_, is_there)| *is_there) {
            Some((key, _)) => Err(check.wrong(0, key, problem)),
            None => Ok(Storage::Sqlite),
        };
    };
    let mut config = PostgresConfig::new(params);
    if let Some(schema) = &written.postgres_schema {
        if schema.is_empty() || schema.len() > 63 || schema.contains('\0') {
            let problem = "a schema has 1 to 63 bytes; take another";
            return Err(check.wrong(0, "postgres-schema", problem));
        }
        config.schema.clone_from(schema);
    }
    if let Some(timeout) = written.postgres_timeout {
        config.call_timeout = timeout.0;
    }
    if config.call_timeout.is_zero() {
        return Err(check.wrong(0, "postgres-timeout", "it is 0; take some seconds"));
    }
    Ok(Storage::Postgres(config))
}

#[cfg(not(feature = "postgres"))]
fn storage(check: Check<'_>, written: &WrittenFront) -> Result<Storage, ConfigError> {
    let keys = [
        ("postgres", written.postgres.is_some()),
        ("postgres-schema", written.postgres_schema.is_some()),
        ("postgres-timeout", written.postgres_timeout.is_some()),
    ];
    let problem = "this program was built without the feature `postgres`; build it with, or leave \
                   this out";
    match keys.into_iter().find(|(_, is_there)| *is_there) {
        Some((key, _)) => Err(check.wrong(0, key, problem)),
        None => Ok(Storage::Sqlite),
    }
}
