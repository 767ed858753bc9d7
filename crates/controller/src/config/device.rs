//! A device, as a file says it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::{Keys, SocketFile};
use super::table::{Source, Table, controller, number, parsed, places, text, time};
use super::{ConfigError, read, resolve, sound};
use crate::device::{DeviceConfig, HandOffs, Policy};
use crate::limits::{ADDRESS_MAX, ALTERNATES_MAX, LEASE_MAX, LEASE_MIN};
use crate::model::{ControllerId, DeviceId};
use crate::wire::Place;

/// A device, as a file says it.
#[derive(Debug, Clone)]
pub struct DeviceFile {
    /// What errors call the file.
    pub(super) source: String,
    /// Its name.
    pub name: DeviceId,
    /// Where its counter of registrations is kept; `None`: nowhere, the controllers tell it.
    pub counter: Option<PathBuf>,
    /// How to reach it: its own business.
    pub address: String,
    /// Its home, then its backups.
    controllers: Vec<PlaceFile>,
    /// How it deals with them, but for their places.
    policy: Policy,
    workers: usize,
    keys: Keys,
    socket: SocketFile,
}

/// A controller where a device may go.
#[derive(Debug, Clone)]
pub(super) struct PlaceFile {
    pub(super) controller: ControllerId,
    pub(super) addrs: Vec<String>,
}

impl DeviceFile {
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
        let mut root = read.root();
        if !root.has("device") {
            root.wrong(0, "device", "there is none; begin with [device]");
        }
        let file = root.table("device").and_then(|table| device(table, source));
        root.end();
        sound(read, source, file)
    }

    /// What a device is started with. Reads the key files; blocks while names are looked up.
    ///
    /// # Errors
    ///
    /// What cannot be had.
    pub fn device_config(&self) -> Result<DeviceConfig, ConfigError> {
        let unusable =
            |problem: String| ConfigError::Unusable { path: self.source.clone(), problem };
        let mut policy = self.policy.clone();
        for place in &self.controllers {
            let addrs = resolve(&place.addrs).map_err(unusable)?;
            policy.controllers.push(Place { controller: place.controller.clone(), addrs });
        }
        let mut config = DeviceConfig::new(self.name.clone(), policy);
        self.socket.set(&mut config.socket);
        let read = self.keys.read_into(&mut config.socket);
        read.map_err(|error| unusable(error.to_string()))?;
        config.address = self.address.clone().into_bytes();
        config.counter.clone_from(&self.counter);
        config.workers = self.workers;
        Ok(config)
    }
}

fn device(mut table: Table<'_, '_>, source: &str) -> Option<DeviceFile> {
    let name = table.need("name", parsed::<DeviceId>);
    let counter = table.path("counter");
    let policy = policy(&mut table);
    let workers = table.take("workers", number(1, 64)).unwrap_or(1);
    let address = table.take("address", |value| match text(value)? {
        long if long.len() > ADDRESS_MAX => Err(format!("it is longer than {ADDRESS_MAX} bytes")),
        address => Ok(address),
    });
    let keys = Keys::of_dialler(&mut table);
    let socket = SocketFile::of_dialler(&mut table);
    if !table.has("home") {
        let problem = "it is missing; say whom it registers with: { name = \"a\", addrs = \
                       \"10.0.0.1:7700\" }";
        table.wrong(table.at(), "home", problem);
    }
    let mut places = Vec::new();
    let home = table.table("home").and_then(|home| place(home, &mut places));
    for backup in table.tables("backup", ALTERNATES_MAX) {
        place(backup, &mut places);
    }
    table.end();
    Some(DeviceFile {
        source: source.to_owned(),
        name: name?,
        counter,
        address: address.unwrap_or_default(),
        controllers: home.map(|()| places)?,
        policy,
        workers,
        keys,
        socket,
    })
}

/// How it behaves; the places are looked up later.
fn policy(table: &mut Table<'_, '_>) -> Policy {
    let mut policy = Policy::new(Vec::new());
    if let Some(lease) = table.take("lease", time(LEASE_MIN, LEASE_MAX)) {
        policy.lease = lease;
    }
    let (some, none, day) = (Duration::from_millis(1), Duration::ZERO, Duration::from_secs(86_400));
    for (to, key, least) in [
        (&mut policy.base, "base", some),
        (&mut policy.base_all, "base-all", some),
        (&mut policy.cap, "cap", some),
        (&mut policy.answer_within, "answer-within", some),
        (&mut policy.patience, "patience", none),
        (&mut policy.attempt_every, "attempt-every", some),
        (&mut policy.start_within, "start-within", none),
        (&mut policy.handshake_min, "handshake-min", some),
    ] {
        if let Some(value) = table.take(key, time(least, day)) {
            *to = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
        }
    }
    table.set(&mut policy.attempt_burst, "attempt-burst", number(1, 1000));
    table.set(&mut policy.requests_max, "requests-max", number(1, 4_096));
    table.set(&mut policy.hand_offs, "hand-offs", |value| match text(value)?.as_str() {
        "known" => Ok(HandOffs::Known),
        "any" => Ok(HandOffs::Any),
        "never" => Ok(HandOffs::Never),
        other => Err(format!("{other:?}; take \"known\", \"any\" or \"never\"")),
    });
    policy
}

/// Adds it to the others, each of which has a name of its own.
fn place(mut table: Table<'_, '_>, others: &mut Vec<PlaceFile>) -> Option<()> {
    let controller = table.need("name", controller);
    let addrs = table.need("addrs", places);
    if let Some(name) = &controller
        && others.iter().any(|other| other.controller == *name)
    {
        let problem = format!("{name} stands here already; take another one, or leave it out");
        table.wrong(table.at(), "name", &problem);
    }
    table.end();
    others.push(PlaceFile { controller: controller?, addrs: addrs? });
    Some(())
}
