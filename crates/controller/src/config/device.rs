//! A device, as a file says it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::{Keys, SocketFile};
use super::table::{Source, Table, controller, parsed, places, text, time};
use super::{ConfigError, read, sound};
use crate::limits::{ADDRESS_MAX, ALTERNATES_MAX, LEASE_MAX, LEASE_MIN};
use crate::model::{ControllerId, DeviceId};

/// A device, as a file says it.
#[derive(Debug, Clone)]
pub struct DeviceFile {
    /// What errors call the file.
    pub(super) source: String,
    /// Its name.
    pub name: DeviceId,
    /// Where its counter of registrations is kept; `None`: nowhere, the controllers tell it.
    pub counter: Option<PathBuf>,
    /// How long it wants to be kept without a word; `None`: as its controller has it.
    pub lease: Option<Duration>,
    /// How to reach it: its own business.
    pub address: String,
    pub(super) home: PlaceFile,
    pub(super) backups: Vec<PlaceFile>,
    pub(super) keys: Keys,
    pub(super) socket: SocketFile,
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
}

fn device(mut table: Table<'_, '_>, source: &str) -> Option<DeviceFile> {
    let name = table.need("name", parsed::<DeviceId>);
    let counter = table.path("counter");
    let lease = table.take("lease", time(LEASE_MIN, LEASE_MAX));
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
    let home = table.table("home").and_then(place);
    let backups = table.tables("backup", ALTERNATES_MAX);
    let backups: Vec<PlaceFile> = backups.into_iter().filter_map(place).collect();
    table.end();
    Some(DeviceFile {
        source: source.to_owned(),
        name: name?,
        counter,
        lease,
        address: address.unwrap_or_default(),
        home: home?,
        backups,
        keys,
        socket,
    })
}

fn place(mut table: Table<'_, '_>) -> Option<PlaceFile> {
    let controller = table.need("name", controller);
    let addrs = table.need("addrs", places);
    table.end();
    Some(PlaceFile { controller: controller?, addrs: addrs? })
}
