//! What a controller listens on, whom it exchanges with, and where devices belong.

use std::net::SocketAddr;
use std::path::PathBuf;

use eversock_engine::PublicKey;
use eversock_engine::keys::KEY_BYTES;

use super::keys::{Keys, SocketFile};
use super::table::{Source, Table, addr, controller, flag, number, parsed, places, text};
use crate::limits::DEVICE_MAX;
use crate::model::{ControllerId, DeviceId, DispatchMode, Dispatched, Pattern};
use crate::node::Dial;

/// The door for devices and third parties.
#[derive(Debug, Clone)]
pub(super) struct DoorFile {
    pub(super) listen: SocketAddr,
    pub(super) advertise: Vec<String>,
    pub(super) keys: Keys,
    pub(super) socket: SocketFile,
    pub(super) connections_max: usize,
    pub(super) registrations_per_second: u32,
}

impl DoorFile {
    pub(super) fn read(mut table: Table<'_, '_>) -> Option<Self> {
        let listen = table.need("listen", addr);
        let has_advertise = table.has("advertise");
        let advertise = table.take("advertise", places);
        if !has_advertise
            && let Some(listen) = listen
            && listen.ip().is_unspecified()
        {
            let problem = format!(
                "devices and partners cannot be told to come to {listen}; say where they find it"
            );
            table.wrong(table.at(), "advertise", &problem);
        }
        let keys = Keys::of_listener(&mut table);
        let insecure = table.take("insecure", flag).unwrap_or(false);
        guarded(&table, &keys, insecure);
        let door = Self {
            listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
            advertise: advertise.unwrap_or_default(),
            keys,
            socket: SocketFile::of_listener(&mut table),
            connections_max: table.take("connections-max", number(1, 1_000_000)).unwrap_or(16_384),
            registrations_per_second: table
                .take("registrations-per-second", number(1, 1_000_000))
                .unwrap_or(2_000),
        };
        table.end();
        listen.is_some().then_some(door)
    }
}

/// Whoever gets in may register any device, and own it everywhere: that has to be meant.
fn guarded(table: &Table<'_, '_>, keys: &Keys, insecure: bool) {
    let is_guarded = keys.key.is_some() || keys.allowed_clients.is_some();
    if !is_guarded && !insecure {
        let problem = "anybody could say that he is a device; name the file of a `key` that all \
                       devices have, or of an `identity` and the `allowed-clients`, or say \
                       `insecure = true`";
        table.wrong(table.at(), "insecure", problem);
    }
    if is_guarded && insecure {
        let problem = "only those with keys get in, as `key` or `allowed-clients` says; leave out \
                       the one or the other";
        table.wrong(table.at(), "insecure", problem);
    }
}

/// The door for partners, and what this side shows them.
#[derive(Debug, Clone)]
pub(super) struct PartnerDoorFile {
    pub(super) listen: Option<SocketAddr>,
    pub(super) key: Option<PathBuf>,
    pub(super) identity: Option<PathBuf>,
    pub(super) insecure: bool,
    pub(super) socket: SocketFile,
}

impl PartnerDoorFile {
    pub(super) fn read(mut table: Table<'_, '_>) -> Option<Self> {
        let door = Self {
            listen: table.take("listen", addr),
            key: table.path("key"),
            identity: table.path("identity"),
            insecure: table.take("insecure", flag).unwrap_or(false),
            socket: SocketFile::of_listener(&mut table),
        };
        let ways = [door.key.is_some(), door.identity.is_some(), door.insecure];
        match ways.into_iter().filter(|is_there| *is_there).count() {
            0 => {
                let problem = "anybody could say that he is a partner; name the file of a static \
                               key (`evs keygen --static`), or of a `key` that all partners have, \
                               or say `insecure = true`";
                table.wrong(table.at(), "identity", problem);
            }
            1 => {}
            _ => {
                let problem = "`identity`, `key` and `insecure` exclude each other; keep one";
                table.wrong(table.at(), "identity", problem);
            }
        }
        table.end();
        Some(door)
    }
}

/// A partner, as a file says it.
#[derive(Debug, Clone)]
pub struct PartnerFile {
    /// Its name, and that of the partition for its devices.
    pub name: ControllerId,
    /// Where its door for partners is: `HOST:PORT`; empty if it is never dialled.
    pub addrs: Vec<String>,
    /// Who dials.
    pub dial: Dial,
    /// Where its door for devices is, as far as it is known beforehand.
    pub door: Vec<String>,
    /// By which it is known, if static keys are used.
    pub(super) public_key: Option<PublicKey>,
    pub(super) socket: SocketFile,
}

pub(super) fn partners(
    tables: Vec<Table<'_, '_>>,
    me: Option<&ControllerId>,
    door: Option<&Option<PartnerDoorFile>>,
) -> Vec<PartnerFile> {
    let mut all: Vec<PartnerFile> = Vec::new();
    for mut table in tables {
        let name = table.need("name", controller);
        let has_addrs = table.has("addrs");
        let addrs = table.take("addrs", places).unwrap_or_default();
        let dial = table.take("dial", |value| match text(value)?.as_str() {
            "auto" => Ok(Dial::Auto),
            "always" => Ok(Dial::Always),
            "never" => Ok(Dial::Never),
            other => Err(format!("{other:?}; take \"auto\", \"always\" or \"never\"")),
        });
        let dial = dial.unwrap_or(Dial::Auto);
        let own_door = table.take("door", places).unwrap_or_default();
        let public_key = table.take("public-key", |value| public_key(&text(value)?));
        let socket = SocketFile::of_dialler(&mut table);
        if let Some(name) = &name {
            if me == Some(name) {
                table.wrong(table.at(), "name", "it is this controller's own; take the partner's");
            }
            if all.iter().any(|other| other.name == *name) {
                let problem = format!("{name} is another partner's already; take another name");
                table.wrong(table.at(), "name", &problem);
            }
            let dials = match dial {
                Dial::Auto => me.is_some_and(|me| me < name),
                Dial::Always => true,
                Dial::Never => false,
            };
            if dials && !has_addrs {
                let problem = "this side dials this partner; say where it listens for partners";
                table.wrong(table.at(), "addrs", problem);
            }
            if let Some(Some(door)) = door
                && !dials
                && door.listen.is_none()
            {
                let problem = "this partner dials, but [partner-door] listens nowhere; add \
                               `listen` there, or `dial = \"always\"` here";
                table.wrong(table.at(), "dial", problem);
            }
        }
        match door {
            None => {
                let problem = "there is no [partner-door], which says by which key partners know \
                               each other; add one";
                table.wrong(table.at(), "name", problem);
            }
            Some(Some(door)) if door.identity.is_some() && public_key.is_none() => {
                let problem = "the [partner-door] has an `identity`, so partners have static keys; \
                               add what `evs keygen --static` has printed there";
                table.wrong(table.at(), "public-key", problem);
            }
            Some(Some(door)) if door.identity.is_none() && public_key.is_some() => {
                let problem = "it needs an `identity` in [partner-door]; add one, or leave it out";
                table.wrong(table.at(), "public-key", problem);
            }
            _ => {}
        }
        table.end();
        all.extend(name.map(|name| PartnerFile {
            name,
            addrs,
            dial,
            door: own_door,
            public_key,
            socket,
        }));
    }
    all
}

/// 64 hexadecimal digits, as `evs keygen` prints them.
pub(super) fn public_key(text: &str) -> Result<PublicKey, String> {
    let wrong =
        || "it is no static key's public half; take the 64 digits of `evs keygen`".to_owned();
    if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
        return Err(wrong());
    }
    let mut bytes = [0; KEY_BYTES];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(PublicKey(bytes))
}

/// A rule of the dispatch table; `None` instead of a pattern: for all other devices.
pub(super) type Rule = (Option<Pattern>, Dispatched);

pub(super) fn dispatch(
    tables: Vec<Table<'_, '_>>,
    known: &dyn Fn(&ControllerId) -> bool,
    read: &Source<'_>,
) -> Vec<Rule> {
    let mut all: Vec<Rule> = Vec::new();
    for mut table in tables {
        let device = table.take("device", parsed::<DeviceId>).map(|id| Some(Pattern::Device(id)));
        let prefix = table.take("prefix", |value| prefix(&text(value)?));
        let rest = table.take("default", |value| {
            if flag(value)? { Ok(()) } else { Err("it is false; leave it out".to_owned()) }
        });
        let mut whats = [device, prefix, rest.map(|()| None)].into_iter().flatten();
        let what = whats.next();
        if what.is_none() || whats.next().is_some() {
            let problem = "a rule has one of `device`, `prefix` and `default`";
            table.wrong(table.at(), "device", problem);
        }
        let partition = table.need("partition", |value| {
            let id = controller(value)?;
            if known(&id) { Ok(id) } else { Err(format!("no [[partner]] is called {id}; add it")) }
        });
        let mode = table.take("mode", |value| match text(value)?.as_str() {
            "serve" => Ok(DispatchMode::Serve),
            "proxy" => Ok(DispatchMode::Proxy),
            "refuse" => Ok(DispatchMode::Refuse),
            other => Err(format!("{other:?}; take \"serve\", \"proxy\" or \"refuse\"")),
        });
        if let Some(what) = &what
            && all.iter().any(|(other, _)| other == what)
        {
            read.note(table.at(), "another [[dispatch]] is about the same devices; keep one");
        }
        table.end();
        if let (Some(what), Some(partition)) = (what, partition) {
            let mode = mode.unwrap_or(DispatchMode::Serve);
            all.push((what, Dispatched { partition, mode }));
        }
    }
    all
}

fn prefix(text: &str) -> Result<Option<Pattern>, String> {
    if text.parse::<DeviceId>().is_ok() {
        return Ok(Some(Pattern::Prefix(text.to_owned())));
    }
    Err(format!("{text:?} begins no device's name: take 1 to {DEVICE_MAX} characters of it"))
}
