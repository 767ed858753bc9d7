//! Who is registered here, and how what partners tell becomes one with it.

use std::collections::HashMap;
use std::time::Duration;

use super::input::{ConnId, Millis, Settings};
use super::output::{Event, Output};
use super::sessions::Sessions;
use crate::limits::{
    BATCH_MAX, GENERATION_MAX, KEY_MAX, LEASE_MAX, LEASE_MIN, RANK_MAX, RECORD_MAX, SEQ_JUMP_MAX,
    SEQ_MAX,
};
use crate::model::{ControllerId, DeviceId, Location, Record, Standing, kind};
use crate::store::{self, Row, Store, StoreError};
use crate::wire::client::{ClientMessage, Register};

/// When a device may come again that is not refused for good, at the earliest.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// So many milliseconds more or less, so that not all come at once.
const RETRY_SPREAD: u64 = 10_000;
/// Of what partners tell that makes no sense, and of clashes, people are told so often.
const TOLD_EVERY: Millis = 1_000;

/// What every step needs.
pub(super) struct Step<'a> {
    pub(super) now: Millis,
    pub(super) store: &'a mut dyn Store,
    pub(super) settings: &'a Settings,
    pub(super) out: &'a mut Vec<Output>,
}

impl Step<'_> {
    fn say(&mut self, conn: ConnId, message: ClientMessage) {
        self.out.push(Output::Say { conn, message });
    }

    /// What stands for a device.
    pub(super) fn location(&mut self, device: &DeviceId) -> store::Result<Option<Location>> {
        let row = self.store.get(kind::LOCATION, device.as_str().as_bytes())?;
        Ok(row.and_then(|row| Location::from_record(&row.record).ok()))
    }
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) registrations: u64,
    pub(super) retries: u64,
    pub(super) refused: u64,
    pub(super) take_overs: u64,
    pub(super) clashes: u64,
}

/// What people are told of now and then, however often it happens.
#[derive(Debug, Default)]
struct Told {
    again: Millis,
    untold: u64,
}

impl Told {
    /// Whether it is time, and how many times it happened since the last time.
    fn now(&mut self, now: Millis) -> Option<u64> {
        if now < self.again {
            self.untold += 1;
            return None;
        }
        self.again = now.saturating_add(TOLD_EVERY);
        Some(std::mem::take(&mut self.untold))
    }
}

/// The registrations of one partition at this controller. Each row of the table that says that a
/// device stands here has a session, and each session such a row.
#[derive(Debug)]
pub(super) struct Registrar {
    me: ControllerId,
    sessions: Sessions,
    is_closed: bool,
    counts: Counts,
    /// What stands anew since it was asked for last.
    moved: Vec<Location>,
    odd: HashMap<ControllerId, Told>,
    clash: Told,
}

impl Registrar {
    /// Finds the devices that were served here; each gets a full lease to be heard again.
    pub(super) fn open(
        me: ControllerId,
        now: Millis,
        store: &mut dyn Store,
    ) -> store::Result<Self> {
        let mut sessions = Sessions::default();
        let mut after = Vec::new();
        loop {
            let rows = store.scan(Some((kind::LOCATION, &after)), BATCH_MAX)?;
            let Some(last) = rows.last() else { break };
            if last.record.kind == kind::LOCATION {
                after.clone_from(&last.record.key);
            }
            let has_more = rows.len() == BATCH_MAX && last.record.kind == kind::LOCATION;
            for location in rows.iter().filter_map(|row| Location::from_record(&row.record).ok()) {
                if location.owner == me && location.stands() {
                    let lease = millis(location.lease);
                    sessions.begin(now, &location.device, location.seq, lease, None);
                }
            }
            if !has_more {
                break;
            }
        }
        Ok(Self {
            me,
            sessions,
            is_closed: false,
            counts: Counts::default(),
            moved: Vec::new(),
            odd: HashMap::new(),
            clash: Told::default(),
        })
    }

    pub(super) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// What stands anew since the last call.
    pub(super) fn take_moved(&mut self) -> Vec<Location> {
        std::mem::take(&mut self.moved)
    }

    /// Nothing was handled for so long, as this program stood still: devices may have been heard
    /// of in that time, and have as much longer.
    pub(super) fn stood_still(&mut self, by: Millis) {
        self.sessions.shift(by);
    }

    /// Takes no registrations but those of devices that are registered here, or takes all again.
    pub(super) fn close(&mut self, is_closed: bool) {
        self.is_closed = is_closed;
    }

    pub(super) fn conn_lost(&mut self, conn: ConnId) {
        self.sessions.conn_lost(conn);
    }

    pub(super) fn due(&self) -> Option<Millis> {
        self.sessions.due()
    }

    /// A device asks to be served from now on. Only a counter that is larger than every one that is
    /// known here makes this controller the owner.
    pub(super) fn register(
        &mut self,
        step: &mut Step<'_>,
        conn: ConnId,
        register: &Register,
    ) -> store::Result<()> {
        let known = step.location(&register.device)?;
        if let Some(known) = &known
            && self.is_repeat(known, register)
        {
            let lease = millis(known.lease);
            self.sessions.begin(step.now, &register.device, known.seq, lease, Some(conn));
            self.say_registered(step, conn, known);
            return Ok(());
        }
        // Whoever is registered here is served until it is elsewhere: one that was sent away and
        // not let in there comes back with a larger counter.
        let is_here = known.as_ref().is_some_and(|at| at.owner == self.me && at.stands());
        if self.is_closed && !is_here {
            self.retry(step, conn, register);
            return Ok(());
        }
        let highest = known.as_ref().map_or(0, |known| known.seq);
        if register.seq > SEQ_MAX || register.seq > highest.saturating_add(SEQ_JUMP_MAX) {
            self.counts.refused += 1;
            let text = if highest >= SEQ_MAX {
                "its counter has come to its end: give the device another name".to_owned()
            } else {
                format!(
                    "the counter {} is too far from {highest}, the highest that is known: have \
                     the device count on from there",
                    register.seq
                )
            };
            step.say(conn, ClientMessage::Refused { device: register.device.clone(), text });
            return Ok(());
        }
        if register.seq <= highest {
            let device = register.device.clone();
            step.say(conn, ClientMessage::Jump { device, seq: highest });
            return Ok(());
        }
        let is_new = self.sessions.get(&register.device).is_none();
        if is_new && self.sessions.len() >= step.settings.devices_max {
            self.retry(step, conn, register);
            return Ok(());
        }
        self.accept(step, conn, register, known)
    }

    /// Whether an attempt came once more that has been accepted already.
    fn is_repeat(&self, known: &Location, register: &Register) -> bool {
        known.owner == self.me
            && known.stands()
            && known.seq == register.seq
            && known.nonce == register.nonce
    }

    fn accept(
        &mut self,
        step: &mut Step<'_>,
        conn: ConnId,
        register: &Register,
        known: Option<Location>,
    ) -> store::Result<()> {
        let asked =
            if register.lease.is_zero() { step.settings.terms.lease } else { register.lease };
        let location = Location {
            device: register.device.clone(),
            owner: self.me.clone(),
            seq: register.seq,
            version: 1,
            standing: Standing::Registered,
            nonce: register.nonce,
            lease: asked.clamp(LEASE_MIN, LEASE_MAX),
            generation: register.generation,
            address: register.address.clone(),
        };
        match step.store.put(&location.to_record(), None) {
            // Nothing was written: who is registered stays so, and who is not goes elsewhere.
            Err(StoreError::Full { .. }) => {
                self.retry(step, conn, register);
                return Ok(());
            }
            result => result?,
        };
        self.counts.registrations += 1;
        let before = known.filter(Location::stands).map(|known| known.owner);
        if before.as_ref().is_some_and(|before| *before != self.me) {
            self.counts.take_overs += 1;
        }
        let lease = millis(location.lease);
        self.sessions.begin(step.now, &location.device, location.seq, lease, Some(conn));
        self.say_registered(step, conn, &location);
        self.note(step.out, before, location);
        Ok(())
    }

    /// Remembers that a location stands, and tells people if the device has another owner now.
    fn note(&mut self, out: &mut Vec<Output>, before: Option<ControllerId>, now: Location) {
        if now.stands() && before.as_ref() != Some(&now.owner) {
            out.push(Output::Event(Event::Owner {
                device: now.device.clone(),
                before,
                now: now.owner.clone(),
                seq: now.seq,
            }));
        }
        self.moved.push(now);
    }

    fn retry(&mut self, step: &mut Step<'_>, conn: ConnId, register: &Register) {
        self.counts.retries += 1;
        let device = register.device.clone();
        // The number of an attempt is random.
        let spread = register.nonce.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let after = RETRY_AFTER + Duration::from_millis(spread % RETRY_SPREAD);
        step.say(conn, ClientMessage::Retry { device, after });
    }

    fn say_registered(&self, step: &mut Step<'_>, conn: ConnId, location: &Location) {
        let mut terms = step.settings.terms.clone();
        terms.lease = location.lease;
        let (device, seq) = (location.device.clone(), location.seq);
        step.say(conn, ClientMessage::Registered { device, seq, terms });
    }

    /// A device is there. Its lease lives in memory: nothing is written for a word.
    pub(super) fn handshake(
        &mut self,
        step: &mut Step<'_>,
        conn: ConnId,
        device: &DeviceId,
        seq: u64,
    ) -> store::Result<()> {
        if self.sessions.get(device).is_some_and(|session| session.seq == seq) {
            self.sessions.heard(step.now, device, conn);
            let generation = step.settings.terms.generation;
            step.say(conn, ClientMessage::HandshakeOk { device: device.clone(), seq, generation });
            return Ok(());
        }
        let above = step.location(device)?.map_or(0, |known| known.seq);
        step.say(conn, ClientMessage::Reregister { device: device.clone(), above });
        Ok(())
    }

    /// A device leaves. One that is not registered here under this counter has left already, as far
    /// as this controller can say.
    pub(super) fn deregister(
        &mut self,
        step: &mut Step<'_>,
        conn: ConnId,
        device: &DeviceId,
        seq: u64,
    ) -> store::Result<()> {
        if self.sessions.get(device).is_some_and(|session| session.seq == seq) {
            self.end(step, device, Standing::Deregistered)?;
        }
        step.say(conn, ClientMessage::Deregistered { device: device.clone(), seq });
        Ok(())
    }

    /// Writes that a registration here is over.
    fn end(
        &mut self,
        step: &mut Step<'_>,
        device: &DeviceId,
        standing: Standing,
    ) -> store::Result<()> {
        if let Some(mut location) = step.location(device)?
            && location.owner == self.me
            && location.stands()
        {
            location.version = location.version.saturating_add(1);
            location.standing = standing;
            step.store.put(&location.to_record(), None)?;
            self.moved.push(location);
        }
        self.sessions.end(device);
        Ok(())
    }

    /// Ends registrations whose lease is over: looks at [`BATCH_MAX`] at most, and at the rest at
    /// the next tick, which is due at once.
    pub(super) fn tick(&mut self, step: &mut Step<'_>) -> store::Result<()> {
        let mut looks = BATCH_MAX;
        while let Some(device) = self.sessions.overdue(step.now, &mut looks) {
            self.end(step, &device, Standing::Expired)?;
        }
        Ok(())
    }

    /// What a partner tells becomes one with what is known. It is kept only if it beats that.
    pub(super) fn merge(
        &mut self,
        step: &mut Step<'_>,
        record: &Record,
        partner: &ControllerId,
    ) -> store::Result<()> {
        let location = match check(record) {
            Ok(location) => location,
            Err(text) => {
                self.odd(step, partner, text);
                return Ok(());
            }
        };
        let known = step.store.get(record.kind, &record.key)?;
        if let Some(known) = &known
            && !record.beats(&known.record)
        {
            return self.stale(step, record, location.as_ref(), known, partner);
        }
        step.store.put(record, Some(partner))?;
        let Some(location) = location else {
            step.out.push(Output::Changed { record: record.clone() });
            return Ok(());
        };
        let known = known.and_then(|row| Location::from_record(&row.record).ok());
        if let Some(known) = &known
            && is_clash(known, &location)
        {
            self.clash(step, &location);
        }
        self.superseded(step, &location);
        let before = known.filter(Location::stands).map(|known| known.owner);
        self.note(step.out, before, location.clone());
        if location.owner == self.me && location.stands() {
            self.adopt(step, &location)?;
        }
        Ok(())
    }

    /// A partner has told something that does not beat what is known here.
    fn stale(
        &mut self,
        step: &mut Step<'_>,
        record: &Record,
        location: Option<&Location>,
        known: &Row,
        partner: &ControllerId,
    ) -> store::Result<()> {
        if known.record == *record {
            return Ok(());
        }
        // It told the better one before, and has lost it since: it is not told again what came from
        // it, unless that becomes a change of this table.
        if known.from.as_ref() == Some(partner) {
            step.store.put(&known.record, None)?;
        }
        if let Some(location) = location
            && let Ok(known) = Location::from_record(&known.record)
            && is_clash(&known, location)
        {
            self.clash(step, location);
            if let Some(session) = self.sessions.get(&known.device)
                && let Some(conn) = session.conn
            {
                let (device, above) = (known.device, known.seq);
                step.say(conn, ClientMessage::Reregister { device, above });
            }
        }
        Ok(())
    }

    fn clash(&mut self, step: &mut Step<'_>, location: &Location) {
        self.counts.clashes += 1;
        if self.clash.now(step.now).is_some() {
            let (device, seq) = (location.device.clone(), location.seq);
            step.out.push(Output::Event(Event::Clash { device, seq }));
        }
    }

    fn odd(&mut self, step: &mut Step<'_>, partner: &ControllerId, mut text: String) {
        let Some(untold) = self.odd.entry(partner.clone()).or_default().now(step.now) else {
            return;
        };
        if untold > 0 {
            text = format!("{text} ({untold} more before)");
        }
        step.out.push(Output::Event(Event::Odd { partner: partner.clone(), text }));
    }

    /// Drops the session of a device that somebody else has registered, or this controller in a
    /// time that it does not remember. The device is told: only it knows whom it belongs to.
    fn superseded(&mut self, step: &mut Step<'_>, location: &Location) {
        let Some(session) = self.sessions.get(&location.device) else { return };
        if location.owner == self.me && location.stands() && location.seq == session.seq {
            return;
        }
        if let Some(conn) = session.conn {
            let (device, above) = (location.device.clone(), location.seq);
            step.say(conn, ClientMessage::Reregister { device, above });
        }
        self.sessions.end(&location.device);
    }

    /// A registration here that partners remember and this controller does not, as it lost its
    /// disk: it has one lease to be heard of, its own or the one that is usual here if that is
    /// shorter. If there is no room to serve it, it is over; and so that a partner's word cannot
    /// take all the room, those that are not heard of yet have half of it at most.
    fn adopt(&mut self, step: &mut Step<'_>, location: &Location) -> store::Result<()> {
        if self.sessions.get(&location.device).is_some() {
            return Ok(());
        }
        let lease = millis(location.lease);
        let first = lease.min(millis(step.settings.terms.lease));
        self.sessions.adopt(step.now, &location.device, location.seq, lease, first);
        let most = step.settings.devices_max;
        if self.sessions.len() > most || self.sessions.adopted() > most.div_ceil(2) {
            self.end(step, &location.device, Standing::Expired)?;
        }
        Ok(())
    }
}

/// Two owners with one counter.
fn is_clash(one: &Location, other: &Location) -> bool {
    one.seq == other.seq && one.owner != other.owner
}

/// Whether a record may stand in a table; the location in it if it is one.
fn check(record: &Record) -> Result<Option<Location>, String> {
    let bytes = record.key.len() + record.rank.len() + record.body.len();
    if record.key.len() > KEY_MAX || record.rank.len() > RANK_MAX || bytes > RECORD_MAX {
        return Err(format!("a record of kind {} is too long: left out", record.kind));
    }
    if record.kind == kind::PARAMETERS
        && record.rank.first_chunk().is_some_and(|rank| u64::from_be_bytes(*rank) > GENERATION_MAX)
    {
        return Err("parameters of a generation that nobody can have reached: left out".to_owned());
    }
    if record.kind != kind::LOCATION {
        return Ok(None);
    }
    Location::from_record(record).map(Some).map_err(|error| format!("{error}: left out"))
}

/// A duration on the shard's clock.
pub(super) fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
