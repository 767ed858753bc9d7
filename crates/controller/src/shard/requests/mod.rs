//! Requests for devices that are under way through a shard.
//!
//! Pure: no I/O, no clock. Each request that is taken in is answered exactly once with
//! [`Output::Answered`], unless its asker goes away before. What is told to the asker:
//!
//! * The device was asked, or the request passed on, and then the connection or the link was lost:
//!   [`Outcome::TimedOut`], at once. Nobody knows whether it has taken effect.
//! * It was surely not handed out (the device has no connection, a partner's controller says so, a
//!   rule forbids to pass it on): [`Outcome::Unreachable`], [`Outcome::NotHere`] or
//!   [`Outcome::Busy`].
//!
//! A request is passed on only to the owner of a registration with a larger counter than whoever
//! sent it here knows, never to a controller it has visited, and through at most [`HOPS_MAX`]
//! controllers after the first. So it never goes round, and as `NotHere` is only said by who has
//! not asked the device, no device is asked twice.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use super::input::{ConnId, Millis, Origin};
use super::output::{Event, Output};
use crate::limits::{BATCH_MAX, DEADLINE_MAX, HOPS_MAX};
use crate::model::{ControllerId, DeviceId};
use crate::wire::client::{Outcome, Request};
use crate::wire::peer::Forward;

/// Bytes of payloads that are kept in case that a request has to be passed on once more. When there
/// are more, a request is passed on without, and a `NotHere` that comes back goes to the asker.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// What a full table tells askers to wait, at least and at most.
const BUSY_AT_LEAST: Duration = Duration::from_millis(50);
const BUSY_AT_MOST: Duration = Duration::from_secs(10);

/// Where a device is, as far as the shard knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Here, on this connection.
    Here { conn: ConnId },
    /// Registered at this controller. If that is this one, its connection is gone.
    At {
        owner: ControllerId,
        /// The counter of that registration.
        seq: u64,
        /// Where third parties find it; may be empty.
        place: Vec<SocketAddr>,
    },
    /// Never heard of, deregistered or expired.
    Unknown,
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Devices of this shard were asked.
    pub(super) served: u64,
    /// Passed on.
    pub(super) forwarded: u64,
    /// Answered with the owner's name.
    pub(super) not_here: u64,
}

/// Who has been asked.
#[derive(Debug)]
enum Asked {
    Device(ConnId),
    Partner {
        partner: ControllerId,
        /// The counter of the registration that says that it is there.
        seq: u64,
        /// Where it has been before; this controller is the last of those before the first try.
        visited: Vec<ControllerId>,
        /// Kept while it may be passed on once more.
        payload: Option<Vec<u8>>,
    },
}

#[derive(Debug)]
struct Entry {
    /// `None`: the asker is gone. The device is busy with it all the same.
    origin: Option<Origin>,
    device: DeviceId,
    began: Millis,
    until: Millis,
    asked: Asked,
}

/// A request before it is decided what becomes of it.
struct Fresh {
    origin: Origin,
    device: DeviceId,
    deadline: Duration,
    payload: Vec<u8>,
    /// Controllers that it has passed through before this one.
    visited: Vec<ControllerId>,
    /// The counter that whoever sent it here knows.
    seq: u64,
}

/// See the module. Bounded by what `max` says at each call; each step takes time in the order of
/// the logarithm of that, per request that it ends.
#[derive(Debug)]
pub(super) struct Requests {
    me: ControllerId,
    next: u64,
    entries: HashMap<u64, Entry>,
    by_origin: HashMap<Origin, u64>,
    /// Askers that can go away.
    by_asker_conn: BTreeSet<(ConnId, u64)>,
    by_asker_partner: BTreeSet<(ControllerId, u64)>,
    /// Who was asked.
    by_conn: BTreeSet<(ConnId, u64)>,
    by_partner: BTreeSet<(ControllerId, u64)>,
    /// Requests that a device has been asked and has not answered.
    by_device: HashMap<DeviceId, usize>,
    deadlines: BTreeSet<(Millis, u64)>,
    links: BTreeSet<ControllerId>,
    kept_bytes: usize,
    /// How long a request takes, of late, in sixteenths of a millisecond.
    mean: u64,
    turned_away: u64,
    counts: Counts,
}

impl Requests {
    /// `seed` makes the numbers differ from those of a shard before, so that a late answer to that
    /// one is not taken for one to this one.
    pub(super) fn new(me: ControllerId, seed: u64) -> Self {
        Self {
            me,
            // Room for so many numbers that they never begin anew, and for the partition above
            // them.
            next: (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8) + 1,
            entries: HashMap::new(),
            by_origin: HashMap::new(),
            by_asker_conn: BTreeSet::new(),
            by_asker_partner: BTreeSet::new(),
            by_conn: BTreeSet::new(),
            by_partner: BTreeSet::new(),
            by_device: HashMap::new(),
            deadlines: BTreeSet::new(),
            links: BTreeSet::new(),
            kept_bytes: 0,
            mean: 200 * 16,
            turned_away: 0,
            counts: Counts::default(),
        }
    }

    /// A request begins its way here. `max`: how many may be under way.
    pub(super) fn request(
        &mut self,
        now: Millis,
        max: usize,
        origin: Origin,
        request: Request,
        at: Whereabouts,
        out: &mut Vec<Output>,
    ) {
        let Request { id: _, device, deadline, payload } = request;
        let fresh = Fresh { origin, device, deadline, payload, visited: Vec::new(), seq: 0 };
        self.begin(now, max, fresh, at, out);
    }

    /// A partner passes a request on.
    pub(super) fn forward(
        &mut self,
        now: Millis,
        max: usize,
        partner: ControllerId,
        forward: Forward,
        at: Whereabouts,
        out: &mut Vec<Output>,
    ) {
        let Forward { id, device, visited, seq, deadline, payload } = forward;
        let origin = Origin::Partner(partner, id);
        if visited.contains(&self.me) || visited.len() > HOPS_MAX {
            let text = format!("{}: the request has been passed on in a circle", self.me);
            out.push(Output::Answered { origin, outcome: Outcome::Unreachable(text) });
            return;
        }
        let fresh = Fresh { origin, device, deadline, payload, visited, seq };
        self.begin(now, max, fresh, at, out);
    }

    /// A device answers. What comes too late, or from another connection than the one that was
    /// asked, is dropped.
    pub(super) fn answer(
        &mut self,
        now: Millis,
        conn: ConnId,
        id: u64,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) {
        if !self.by_conn.contains(&(conn, id)) {
            return;
        }
        let outcome = match outcome {
            // Where a device is, is nothing that a device can tell.
            Outcome::Unknown | Outcome::NotHere { .. } => Outcome::Unreachable(format!(
                "{}: the device's connection does not have it any more",
                self.me
            )),
            other => other,
        };
        self.end(now, id, outcome, out);
    }

    /// A partner answers. What comes too late, or from another than the one that was asked, is
    /// dropped. `locate` tells where the device is now; it is called once at most.
    ///
    /// # Errors
    ///
    /// Those of `locate`. The request is still under way then.
    pub(super) fn forward_result<E>(
        &mut self,
        now: Millis,
        partner: &ControllerId,
        id: u64,
        outcome: Outcome,
        locate: impl FnOnce(&DeviceId) -> Result<Whereabouts, E>,
        out: &mut Vec<Output>,
    ) -> Result<(), E> {
        let Some(entry) = self.entries.get(&id) else { return Ok(()) };
        let Asked::Partner { partner: asked, seq, .. } = &entry.asked else { return Ok(()) };
        if asked != partner {
            return Ok(());
        }
        let Outcome::NotHere { owner, seq: newer, place } = outcome else {
            self.end(now, id, outcome, out);
            return Ok(());
        };
        if newer <= *seq {
            // It should have the device, and has not heard of that, or not yet.
            let text = format!("{partner} does not know that it has the device; try again later");
            self.end(now, id, Outcome::Unreachable(text), out);
            return Ok(());
        }
        let at = locate(&entry.device)?;
        self.once_more(now, id, Whereabouts::At { owner, seq: newer, place }, at, out);
        Ok(())
    }

    /// A connection is over: of an asker, of devices, or of both.
    pub(super) fn conn_lost(&mut self, now: Millis, conn: ConnId, out: &mut Vec<Output>) {
        for id in numbers(&self.by_asker_conn, conn) {
            self.forget_asker(id);
        }
        for id in numbers(&self.by_conn, conn) {
            self.end(now, id, Outcome::TimedOut, out);
        }
    }

    /// The link to a partner stands: requests may be passed on to it.
    pub(super) fn link_up(&mut self, partner: ControllerId) {
        self.links.insert(partner);
    }

    /// The link to a partner is gone.
    pub(super) fn link_down(&mut self, now: Millis, partner: &ControllerId, out: &mut Vec<Output>) {
        self.links.remove(partner);
        for id in numbers(&self.by_asker_partner, partner.clone()) {
            self.forget_asker(id);
        }
        for id in numbers(&self.by_partner, partner.clone()) {
            self.end(now, id, Outcome::TimedOut, out);
        }
    }

    /// Ends requests whose time is over: some hundred at once at most, so that [`Self::due`] may be
    /// in the past afterwards.
    pub(super) fn tick(&mut self, now: Millis, out: &mut Vec<Output>) {
        for _ in 0..BATCH_MAX {
            let Some(&(until, id)) = self.deadlines.first() else { break };
            if until > now {
                break;
            }
            self.end(now, id, Outcome::TimedOut, out);
        }
    }

    /// When to call [`Self::tick`] next.
    pub(super) fn due(&self) -> Option<Millis> {
        self.deadlines.first().map(|&(until, _)| until)
    }

    /// Whether a device here has been asked something that it has not answered, in time.
    pub(super) fn busy(&self, device: &DeviceId) -> bool {
        self.by_device.contains_key(device)
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Counted since the start.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    fn begin(
        &mut self,
        now: Millis,
        max: usize,
        fresh: Fresh,
        at: Whereabouts,
        out: &mut Vec<Output>,
    ) {
        let refuse = |origin, outcome| Output::Answered { origin, outcome };
        if self.by_origin.contains_key(&fresh.origin) {
            if let Origin::Partner(partner, id) = &fresh.origin {
                let text = format!("the request number {id} is in use already: refused");
                out.push(Output::Event(Event::Odd { partner: partner.clone(), text }));
            }
            let text = "the number of this request is in use already".to_owned();
            out.push(refuse(fresh.origin, Outcome::Refused(text)));
            return;
        }
        // Rounded up: a short time is some.
        let left = fresh.deadline.min(DEADLINE_MAX).as_micros().div_ceil(1000);
        let until = now.saturating_add(u64::try_from(left).unwrap_or(u64::MAX));
        if until <= now {
            out.push(refuse(fresh.origin, Outcome::TimedOut));
            return;
        }
        let decided = match at {
            Whereabouts::Unknown => Err(Outcome::Unknown),
            Whereabouts::Here { conn } => Ok(Asked::Device(conn)),
            Whereabouts::At { owner, seq, place } => {
                self.may_pass_on(&owner, seq, fresh.seq, place, &fresh.visited).map(|()| {
                    Asked::Partner { partner: owner, seq, visited: fresh.visited, payload: None }
                })
            }
        };
        let asked = match decided {
            // Only what needs room in the table is turned away when it is full.
            Ok(_) if self.entries.len() >= max => {
                let outcome = Outcome::Busy { after: self.busy_for() };
                out.push(refuse(fresh.origin, outcome));
                return;
            }
            Ok(asked) => asked,
            Err(outcome) => {
                if matches!(outcome, Outcome::NotHere { .. }) {
                    self.counts.not_here += 1;
                }
                out.push(refuse(fresh.origin, outcome));
                return;
            }
        };
        let id = self.next;
        self.next += 1;
        self.index_asker(&fresh.origin, id);
        self.deadlines.insert((until, id));
        let (device, origin) = (fresh.device, Some(fresh.origin));
        let mut entry = Entry { origin, device, began: now, until, asked };
        self.hand_out(now, id, &mut entry, fresh.payload, true, out);
        self.entries.insert(id, entry);
    }

    /// A partner that was asked has it no more, and `said` who has: tries there once more, or here,
    /// if nothing speaks against it.
    fn once_more(
        &mut self,
        now: Millis,
        id: u64,
        said: Whereabouts,
        known: Whereabouts,
        out: &mut Vec<Output>,
    ) {
        let Some(entry) = self.take_out_asked(id) else { return };
        let Entry { origin, device, began, until, asked } = entry;
        let Asked::Partner { partner, seq, mut visited, payload } = asked else { return };
        // The table may know more by now than was said.
        let at = match (&said, known) {
            (_, here @ Whereabouts::Here { .. }) => here,
            (Whereabouts::At { seq: said_seq, .. }, Whereabouts::At { owner, seq, place })
                if seq > *said_seq =>
            {
                Whereabouts::At { owner, seq, place }
            }
            _ => said.clone(),
        };
        visited.push(partner);
        let decided = match (at, payload) {
            _ if until <= now => Err(Outcome::TimedOut),
            (Whereabouts::Here { conn }, Some(payload)) => Ok((Asked::Device(conn), payload)),
            (Whereabouts::At { owner, seq: newer, place }, Some(payload)) => {
                self.may_pass_on(&owner, newer, seq, place, &visited).map(|()| {
                    let (partner, seq) = (owner, newer);
                    (Asked::Partner { partner, seq, visited, payload: None }, payload)
                })
            }
            _ => Err(as_not_here(said)),
        };
        match decided {
            Ok((asked, payload)) => {
                let mut entry = Entry { origin, device, began, until, asked };
                self.hand_out(now, id, &mut entry, payload, false, out);
                self.entries.insert(id, entry);
            }
            Err(outcome) => self.tell(now, id, origin, (began, until), outcome, out),
        }
    }

    /// Whether a request may be passed on to the owner of the registration `seq`; otherwise what to
    /// say.
    fn may_pass_on(
        &self,
        owner: &ControllerId,
        seq: u64,
        sender_knows: u64,
        place: Vec<SocketAddr>,
        visited: &[ControllerId],
    ) -> Result<(), Outcome> {
        if *owner == self.me {
            let text = format!("the device is registered at {owner}, and has no connection to it");
            return Err(Outcome::Unreachable(text));
        }
        let is_news = seq > sender_knows;
        let is_allowed = !visited.contains(owner) && visited.len() < HOPS_MAX;
        if is_news && is_allowed && self.links.contains(owner) {
            return Ok(());
        }
        Err(Outcome::NotHere { owner: owner.clone(), seq, place })
    }

    /// Asks whom the entry says, and indexes that.
    fn hand_out(
        &mut self,
        now: Millis,
        id: u64,
        entry: &mut Entry,
        payload: Vec<u8>,
        may_try_again: bool,
        out: &mut Vec<Output>,
    ) {
        let device = entry.device.clone();
        let deadline = Duration::from_millis(entry.until.saturating_sub(now));
        match &mut entry.asked {
            Asked::Device(conn) => {
                self.by_conn.insert((*conn, id));
                *self.by_device.entry(device.clone()).or_default() += 1;
                self.counts.served += 1;
                let request = Request { id, device, deadline, payload };
                out.push(Output::Ask { conn: *conn, request });
            }
            Asked::Partner { partner, seq, visited, payload: kept } => {
                self.by_partner.insert((partner.clone(), id));
                self.counts.forwarded += 1;
                if may_try_again && payload.len() <= KEPT_BYTES_MAX - self.kept_bytes {
                    self.kept_bytes += payload.len();
                    *kept = Some(payload.clone());
                }
                let mut visited = visited.clone();
                visited.push(self.me.clone());
                let forward = Forward { id, device, visited, seq: *seq, deadline, payload };
                out.push(Output::Forward { partner: partner.clone(), forward });
            }
        }
    }

    /// Ends a request, and tells whoever waits.
    fn end(&mut self, now: Millis, id: u64, outcome: Outcome, out: &mut Vec<Output>) {
        let Some(entry) = self.take_out_asked(id) else { return };
        self.tell(now, id, entry.origin, (entry.began, entry.until), outcome, out);
    }

    /// The last of a request that is out of the table.
    fn tell(
        &mut self,
        now: Millis,
        id: u64,
        origin: Option<Origin>,
        (began, until): (Millis, Millis),
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) {
        self.deadlines.remove(&(until, id));
        let took = now.saturating_sub(began).saturating_mul(16);
        self.mean = (self.mean * 15 + took) / 16;
        let Some(origin) = origin else { return };
        self.unindex_asker(&origin, id);
        // What was not answered in time was not answered, whether that was noticed by then or not.
        let outcome = if until <= now { Outcome::TimedOut } else { outcome };
        if matches!(outcome, Outcome::NotHere { .. }) {
            self.counts.not_here += 1;
        }
        out.push(Output::Answered { origin, outcome });
    }

    /// Takes an entry out of the table and of the indexes of who was asked.
    fn take_out_asked(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        match &entry.asked {
            Asked::Device(conn) => {
                self.by_conn.remove(&(*conn, id));
                if let Some(count) = self.by_device.get_mut(&entry.device) {
                    *count -= 1;
                    if *count == 0 {
                        self.by_device.remove(&entry.device);
                    }
                }
            }
            Asked::Partner { partner, payload, .. } => {
                self.by_partner.remove(&(partner.clone(), id));
                self.kept_bytes -= payload.as_ref().map_or(0, Vec::len);
            }
        }
        Some(entry)
    }

    /// An asker is gone. What a device was asked stays, as the device is busy with it; what a
    /// partner was asked is of no use to anybody.
    fn forget_asker(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(origin) = entry.origin.take() else { return };
        let (until, is_asked) = (entry.until, matches!(entry.asked, Asked::Device(_)));
        self.unindex_asker(&origin, id);
        if !is_asked {
            self.take_out_asked(id);
            self.deadlines.remove(&(until, id));
        }
    }

    fn index_asker(&mut self, origin: &Origin, id: u64) {
        match origin {
            Origin::Conn(conn, _) => _ = self.by_asker_conn.insert((*conn, id)),
            Origin::Partner(partner, _) => {
                self.by_asker_partner.insert((partner.clone(), id));
            }
            Origin::Local(_) => {}
        }
        self.by_origin.insert(origin.clone(), id);
    }

    fn unindex_asker(&mut self, origin: &Origin, id: u64) {
        match origin {
            Origin::Conn(conn, _) => _ = self.by_asker_conn.remove(&(*conn, id)),
            Origin::Partner(partner, _) => {
                self.by_asker_partner.remove(&(partner.clone(), id));
            }
            Origin::Local(_) => {}
        }
        self.by_origin.remove(origin);
    }

    /// How long to stay away: about the time in which the table turns over, and not the same for
    /// all.
    fn busy_for(&mut self) -> Duration {
        self.turned_away += 1;
        let mean = Duration::from_millis(self.mean / 16).clamp(BUSY_AT_LEAST, BUSY_AT_MOST / 2);
        mean + mean * u32::try_from(self.turned_away % 8).unwrap_or(0) / 8
    }
}

fn as_not_here(at: Whereabouts) -> Outcome {
    match at {
        Whereabouts::At { owner, seq, place } => Outcome::NotHere { owner, seq, place },
        _ => Outcome::Unknown,
    }
}

/// The numbers that stand under a key.
fn numbers<K: Ord + Clone>(index: &BTreeSet<(K, u64)>, key: K) -> Vec<u64> {
    index.range((key.clone(), 0)..=(key, u64::MAX)).map(|&(_, id)| id).collect()
}
