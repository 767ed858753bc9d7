//! One partition of a controller, as a state machine without I/O, threads, clock or randomness of
//! its own: the devices of one home, their registrations here, what partners tell of them and are
//! told, requests for them, and their way back home.
//!
//! It is driven by [`Input`]s and answers with [`Output`]s. It writes to its [`Store`] in the
//! transaction that is open; whoever drives it commits, and lets no output out before that. After
//! an error of the store the shard is thrown away with what it has put out since the last commit,
//! and a new one begins on the store as it is found then: nothing but the sessions of devices,
//! which register again, lives in memory alone.
//!
//! [`Store`]: crate::store::Store

mod ends;
mod hand_over;
pub mod input;
mod looks;
pub mod output;
mod registrar;
mod requests;
mod sessions;
mod status;
mod sync;
#[cfg(test)]
mod tests;

pub use input::{Input, Millis, Order};
pub use output::{Event, Output};
pub use status::ShardStatus;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ends::Ends;
use hand_over::{Devices, HandOver, Surroundings};
use input::{ConnId, Settings};
use registrar::{Registrar, Step};
use requests::{Requests, Whereabouts};
use sync::Sync;

use crate::model::{ControllerId, DeviceId, Location, Record, kind};
use crate::node::status::Counts;
use crate::store::{self, Store};
use crate::wire::Place;
use crate::wire::client::Outcome;
use crate::wire::peer::Mode;

/// Which shard it is.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// The controller that it is part of.
    pub me: ControllerId,
    /// The home of its devices.
    pub partition: ControllerId,
    /// The controllers that it exchanges this partition's table with.
    pub partners: Vec<ControllerId>,
    /// All chance comes from it; another one at each opening.
    pub seed: u64,
}

/// See the module. Every step takes time in the order of the logarithm of what is there, or ends a
/// bounded number of things and asks to be called again at once.
pub struct Shard {
    config: ShardConfig,
    settings: Arc<Settings>,
    store: Box<dyn Store>,
    registrar: Registrar,
    requests: Requests,
    hand_over: HandOver,
    sync: Sync,
    ends: Ends,
    ends_due: Millis,
    /// What the operators of partners have set.
    modes: HashMap<ControllerId, Mode>,
    /// Where partners say that their doors are.
    places: HashMap<ControllerId, Place>,
    /// The time that was asked for last.
    woken_at: Option<Millis>,
}

impl Shard {
    /// Begins on a store: the devices that were served here get a full lease to be heard again.
    /// Reads the whole table once.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn open(
        config: ShardConfig,
        settings: Arc<Settings>,
        mut store: Box<dyn Store>,
        now: Millis,
    ) -> store::Result<Self> {
        let registrar = Registrar::open(config.me.clone(), now, store.as_mut())?;
        Ok(Self {
            registrar,
            requests: Requests::new(config.me.clone(), config.seed),
            hand_over: HandOver::new(config.me.clone(), config.partition.clone(), config.seed),
            sync: Sync::new(config.partners.iter().cloned()),
            ends: Ends::default(),
            ends_due: now,
            modes: HashMap::new(),
            places: HashMap::new(),
            woken_at: None,
            config,
            settings,
            store,
        })
    }

    /// Takes in what has happened, at a time that is not before that of the call before. `wall_s`
    /// are the seconds after midnight UTC: only a window for hand-overs looks at them. What is to
    /// be done is added to `out`, and may be done after the next [`Shard::commit`].
    ///
    /// # Errors
    ///
    /// Those of the store: then throw the shard away, see the module.
    pub fn handle(
        &mut self,
        now: Millis,
        wall_s: u32,
        input: Input,
        out: &mut Vec<Output>,
    ) -> store::Result<()> {
        let is_tick = matches!(input, Input::Tick);
        self.route(now, wall_s, input, out)?;
        self.settle(now, wall_s, out)?;
        let due = self.due();
        if let Some(at) = due
            && (is_tick || due != self.woken_at)
        {
            out.push(Output::Wake { at });
        }
        self.woken_at = due;
        Ok(())
    }

    /// Makes durable what the inputs before have written.
    ///
    /// # Errors
    ///
    /// Those of the store: then throw the shard away with the outputs since the last commit.
    pub fn commit(&mut self) -> store::Result<()> {
        self.store.commit()
    }

    /// Ends the batches of hand-overs, for this reason, as the shard is to be thrown away: what
    /// people are told of them.
    pub fn lost(&mut self, why: &str) -> Vec<Event> {
        self.hand_over.lost(why)
    }

    /// How things stand.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn status(&mut self, now: Millis) -> store::Result<ShardStatus> {
        let registrar = self.registrar.counts();
        let requests = self.requests.counts();
        let hand_over = self.hand_over.counts();
        let sync = self.sync.counts();
        Ok(ShardStatus {
            owned: self.registrar.sessions().len() as u64,
            connected: self.registrar.sessions().connected() as u64,
            totals: self.store.totals()?,
            head: self.store.head(),
            sync: self.sync.status(now, self.store.as_mut())?,
            requests: self.requests.len(),
            hand_overs: self.hand_over.len(),
            registrations: registrar.registrations,
            maintenance: self.hand_over.maintenance(),
            counts: Counts {
                retries: registrar.retries,
                refused: registrar.refused,
                take_overs: registrar.take_overs,
                clashes: registrar.clashes,
                requests_served: requests.served,
                requests_forwarded: requests.forwarded,
                requests_not_here: requests.not_here,
                handed_over: hand_over.done,
                hand_overs_failed: hand_over.failed,
                updates_sent: sync.updates_sent,
                updates_received: sync.updates_received,
                snapshots_sent: sync.snapshots_sent,
                snapshots_received: sync.snapshots_received,
            },
        })
    }

    /// The devices of this partition behind the given one, wherever they are registered, in the
    /// order of their names, ends included; and whether each is connected here. May be fewer than
    /// `count` only at the end.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn devices(
        &mut self,
        after: Option<&DeviceId>,
        count: usize,
    ) -> store::Result<Vec<(Location, bool)>> {
        let after = after.map_or(&b""[..], |device| device.as_str().as_bytes());
        let rows = self.store.scan(Some((kind::LOCATION, after)), count)?;
        let sessions = self.registrar.sessions();
        let is_connected =
            |device: &DeviceId| sessions.get(device).is_some_and(|one| one.conn.is_some());
        let locations = rows.iter().filter_map(|row| Location::from_record(&row.record).ok());
        Ok(locations.map(|location| (location.clone(), is_connected(&location.device))).collect())
    }

    /// Puts a record that was made here, if it beats the one that stands. It goes to the partners
    /// with the next input.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn put(&mut self, record: Record) -> store::Result<()> {
        let known = self.store.get(record.kind, &record.key)?;
        if known.is_none_or(|known| record.beats(&known.record)) {
            self.store.put(&record, None)?;
        }
        Ok(())
    }

    /// The record under a kind and key.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn get(&mut self, kind: u16, key: &[u8]) -> store::Result<Option<Record>> {
        Ok(self.store.get(kind, key)?.map(|row| row.record))
    }

    fn route(
        &mut self,
        now: Millis,
        wall_s: u32,
        input: Input,
        out: &mut Vec<Output>,
    ) -> store::Result<()> {
        let max = self.settings.requests_max;
        match input {
            Input::Register { conn, register } => {
                let (registrar, mut step) = self.registrar(now, out);
                registrar.register(&mut step, conn, &register)?;
            }
            Input::Handshake { conn, device, seq } => {
                let (registrar, mut step) = self.registrar(now, out);
                registrar.handshake(&mut step, conn, &device, seq)?;
            }
            Input::Deregister { conn, device, seq } => {
                let (registrar, mut step) = self.registrar(now, out);
                registrar.deregister(&mut step, conn, &device, seq)?;
            }
            Input::ConnLost { conn } => {
                self.registrar.conn_lost(conn);
                self.requests.conn_lost(now, conn, out);
            }
            Input::HandOffAnswer { conn, device, token, answer } => {
                let settings = self.settings.clone();
                let at = self.surroundings(now, wall_s, &settings);
                self.hand_over.answer(&at, conn, &device, token, answer);
            }
            Input::Answer { conn, id, outcome } => {
                self.requests.answer(now, conn, id, outcome, out);
            }
            Input::Request { origin, request } => {
                let at = self.locate(&request.device)?;
                self.requests.request(now, max, origin, request, at, out);
            }
            Input::Forward { partner, forward } => {
                let at = self.locate(&forward.device)?;
                self.requests.forward(now, max, partner, forward, at, out);
            }
            Input::ForwardResult { partner, id, outcome } => {
                self.forward_result(now, &partner, id, outcome, out)?;
            }
            Input::Order(order) => self.order(now, &order, out)?,
            Input::PartnerMode { partner, mode } => {
                if self.is_partner(&partner) {
                    self.sync.partner_paused(&partner, mode.paused);
                    self.modes.insert(partner, mode);
                }
            }
            Input::Settings(settings) => self.settings = settings,
            Input::LinkUp { partner, place, head, taken } => {
                if self.is_partner(&partner) {
                    self.places.insert(partner.clone(), place);
                    self.requests.link_up(partner.clone());
                    let (sync, mut step) = self.sync(now, out);
                    sync.link_up(&mut step, &partner, head, taken)?;
                }
            }
            Input::LinkDown { partner } => {
                self.requests.link_down(now, &partner, out);
                self.sync.link_down(&partner);
            }
            Input::Sync { partner, message } => {
                self.merging(now, out, |sync, step, merge| {
                    sync.message(step, merge, &partner, message)
                })?;
            }
            Input::SnapshotBuilt { partner, manifest } => {
                self.sync.snapshot_built(&partner, manifest);
            }
            Input::ChunkRead { partner, snapshot, index, data } => {
                let (sync, mut step) = self.sync(now, out);
                sync.chunk_read(&mut step, &partner, snapshot, index, data);
            }
            Input::SnapshotOpened { partner, snapshot, next } => {
                self.sync.snapshot_opened(now, &partner, snapshot, next);
            }
            Input::ChunkWritten { partner, snapshot, index, kept } => {
                self.sync.chunk_written(now, &partner, snapshot, index, kept);
            }
            Input::SnapshotRecords { partner, snapshot, records } => {
                self.merging(now, out, |sync, step, merge| {
                    sync.snapshot_records(step, merge, &partner, snapshot, records)
                })?;
            }
            Input::Tick => {
                self.requests.tick(now, out);
                let (registrar, mut step) = self.registrar(now, out);
                registrar.tick(&mut step)?;
            }
        }
        Ok(())
    }

    /// The registrar, and what its steps need.
    fn registrar<'a>(
        &'a mut self,
        now: Millis,
        out: &'a mut Vec<Output>,
    ) -> (&'a mut Registrar, Step<'a>) {
        let store = self.store.as_mut();
        (&mut self.registrar, Step { now, store, settings: &self.settings, out })
    }

    /// The exchange with partners, and what its steps need.
    fn sync<'a>(
        &'a mut self,
        now: Millis,
        out: &'a mut Vec<Output>,
    ) -> (&'a mut Sync, sync::Step<'a>) {
        let store = self.store.as_mut();
        (&mut self.sync, sync::Step { now, store, settings: &self.settings, out })
    }

    /// A step of the exchange that brings records.
    fn merging(
        &mut self,
        now: Millis,
        out: &mut Vec<Output>,
        f: impl FnOnce(&mut Sync, &mut sync::Step<'_>, &mut sync::Merge<'_>) -> store::Result<()>,
    ) -> store::Result<()> {
        let Self { registrar, sync, store, settings, .. } = self;
        let mut merged = Vec::new();
        let mut merge = |store: &mut dyn Store, record: &Record, partner: &ControllerId| {
            let mut step = Step { now, store, settings, out: &mut merged };
            registrar.merge(&mut step, record, partner)
        };
        let mut step = sync::Step { now, store: store.as_mut(), settings, out };
        f(sync, &mut step, &mut merge)?;
        out.append(&mut merged);
        Ok(())
    }

    fn forward_result(
        &mut self,
        now: Millis,
        partner: &ControllerId,
        id: u64,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) -> store::Result<()> {
        let Self { requests, registrar, store, settings, places, .. } = self;
        let locate =
            |device: &DeviceId| locate(registrar, store.as_mut(), settings, places, device);
        requests.forward_result(now, partner, id, outcome, locate, out)
    }

    fn locate(&mut self, device: &DeviceId) -> store::Result<Whereabouts> {
        locate(&self.registrar, self.store.as_mut(), &self.settings, &self.places, device)
    }

    fn surroundings<'a>(
        &self,
        now: Millis,
        wall_s: u32,
        settings: &'a Settings,
    ) -> Surroundings<'a> {
        let home_in_sync_since = self.sync.in_sync_since(&self.config.partition);
        Surroundings { now, wall_s, settings, home_in_sync_since }
    }

    fn order(&mut self, now: Millis, order: &Order, out: &mut Vec<Output>) -> store::Result<()> {
        if let Order::Maintenance(on) = order {
            self.registrar.close(*on);
        }
        match order {
            Order::Pause { partner, paused } => self.sync.pause(partner.as_ref(), *paused),
            Order::Resync(partner) => {
                let (sync, mut step) = self.sync(now, out);
                sync.resync(&mut step, partner)?;
            }
            _ => self.hand_over.order(order, out),
        }
        Ok(())
    }

    fn is_partner(&self, controller: &ControllerId) -> bool {
        self.config.partners.contains(controller)
    }

    /// What follows from the input, whichever it was.
    fn settle(&mut self, now: Millis, wall_s: u32, out: &mut Vec<Output>) -> store::Result<()> {
        let settings = self.settings.clone();
        // Before the hand-overs: they look at how the exchange with the home stands.
        let (sync, mut step) = self.sync(now, out);
        sync.pump(&mut step)?;
        let at = self.surroundings(now, wall_s, &settings);
        for location in self.registrar.take_moved() {
            if location.owner != self.config.me {
                self.hand_over.moved(&at, &location.device);
            } else if location.stands() {
                self.hand_over.came_back(&at, &location.device);
            } else {
                self.hand_over.gone(&location.device);
            }
        }
        let Self { registrar, requests, modes, .. } = self;
        self.hand_over.step(&at, &mut Served { registrar, requests, modes }, out);
        if now >= self.ends_due {
            let store = self.store.as_mut();
            let taken = self.sync.taken_by_all(store);
            self.ends_due = self.ends.step(now, store, settings.keep_ends, taken)?;
        }
        Ok(())
    }

    /// When to come again though nothing happens.
    fn due(&self) -> Option<Millis> {
        let dues = [
            self.registrar.due(),
            self.requests.due(),
            self.hand_over.due(),
            self.sync.due(),
            Some(self.ends_due),
        ];
        dues.into_iter().flatten().min()
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("config", &self.config).finish_non_exhaustive()
    }
}

fn locate(
    registrar: &Registrar,
    store: &mut dyn Store,
    settings: &Settings,
    places: &HashMap<ControllerId, Place>,
    device: &DeviceId,
) -> store::Result<Whereabouts> {
    if let Some(conn) = registrar.sessions().get(device).and_then(|session| session.conn) {
        return Ok(Whereabouts::Here { conn });
    }
    let row = store.get(kind::LOCATION, device.as_str().as_bytes())?;
    let location = row.and_then(|row| Location::from_record(&row.record).ok());
    let Some(location) = location.filter(Location::stands) else {
        return Ok(Whereabouts::Unknown);
    };
    let Location { owner, seq, .. } = location;
    let place = places
        .get(&owner)
        .or_else(|| settings.places.iter().find(|place| place.controller == owner))
        .map_or_else(Vec::new, |place| place.addrs.clone());
    Ok(Whereabouts::At { owner, seq, place })
}

/// The devices that are served here, as hand-overs see them.
struct Served<'a> {
    registrar: &'a Registrar,
    requests: &'a Requests,
    modes: &'a HashMap<ControllerId, Mode>,
}

impl Devices for Served<'_> {
    fn next_after(&mut self, device: Option<&DeviceId>) -> Option<(DeviceId, ConnId)> {
        self.registrar.sessions().connected_after(device)
    }

    fn connection(&mut self, device: &DeviceId) -> Option<ConnId> {
        self.registrar.sessions().get(device)?.conn
    }

    fn is_busy(&self, device: &DeviceId) -> bool {
        self.requests.busy(device)
    }

    fn takes(&self, controller: &ControllerId) -> bool {
        self.modes.get(controller).is_none_or(|mode| !mode.maintenance)
    }
}
