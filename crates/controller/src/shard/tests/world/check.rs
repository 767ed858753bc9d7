//! What has to hold: always, and at rest.

use std::collections::{BTreeMap, VecDeque};

use super::device::Device;
use super::node::Node;
use super::{CONTROLLERS, Event, Plan, World, ends, name, number};
use crate::limits::HOPS_MAX;
use crate::model::{DeviceId, Location, Record, kind};
use crate::shard::input::{Millis, Pace};
use crate::shard::output::SyncState;
use crate::wire::client::{ClientMessage, Outcome};
use crate::wire::peer::Forward;

/// How late an answer may be.
const SLACK: Millis = 200;
/// How often a world is looked at when nothing goes wrong any more.
const LOOK: Millis = 2000;

/// What a table had of a device.
#[derive(Debug, Clone, Copy)]
struct Seen {
    owner: usize,
    seq: u64,
    lsn: u64,
    is_end: bool,
}

struct Asked {
    node: usize,
    until: Millis,
}

/// What has been seen so far.
pub(super) struct Watch {
    is_lossy: bool,
    is_unreliable: bool,
    is_dirty: bool,
    /// Of each table: what was seen of the devices, and how many changes.
    seen: Vec<(BTreeMap<DeviceId, Seen>, u64)>,
    /// The join of all that was ever committed.
    joined: BTreeMap<(u16, Vec<u8>), Record>,
    /// Who has confirmed a counter to a device.
    confirmed: BTreeMap<(DeviceId, u64), usize>,
    hand_overs: Vec<VecDeque<Millis>>,
    asked: BTreeMap<u64, Asked>,
    next: u64,
    reached: BTreeMap<u64, u32>,
    forwards: BTreeMap<u64, u32>,
    /// At rest since the last look.
    is_at_rest: bool,
}

impl Watch {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            is_lossy: plan.is_lossy,
            is_unreliable: plan.is_unreliable,
            is_dirty: plan.is_dirty,
            seen: vec![(BTreeMap::new(), 0); CONTROLLERS],
            joined: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            hand_overs: vec![VecDeque::new(); CONTROLLERS],
            asked: BTreeMap::new(),
            next: 1,
            reached: BTreeMap::new(),
            forwards: BTreeMap::new(),
            is_at_rest: false,
        }
    }

    /// The disk of a controller is not what it was.
    pub(super) fn lost(&mut self, node: usize) {
        self.seen[node] = (BTreeMap::new(), 0);
    }

    /// What lives in memory is gone.
    pub(super) fn crashed(&mut self, node: usize) {
        self.asked.retain(|_, asked| asked.node != node);
        self.hand_overs[node].clear();
    }

    /// C3 in each table, and what C5 needs.
    pub(super) fn tables(&mut self, node: &Node, devices: &[Device]) {
        let (seen, head) = &mut self.seen[node.n];
        let joined = &mut self.joined;
        node.disk.look(|table| {
            if table.head() == *head {
                return;
            }
            for row in table.rows_after(*head) {
                let record = &row.record;
                let key = (record.kind, record.key.clone());
                if joined.get(&key).is_none_or(|known| record.beats(known)) {
                    joined.insert(key, record.clone());
                }
                if record.kind != kind::LOCATION {
                    continue;
                }
                let now = Location::from_record(record).unwrap();
                let seen_now = Seen {
                    owner: number(&now.owner),
                    seq: now.seq,
                    lsn: row.lsn,
                    is_end: !now.stands(),
                };
                let Some(before) = seen.insert(now.device.clone(), seen_now) else { continue };
                let is_unreliable =
                    devices.iter().any(|one| one.id == now.device && one.is_unreliable);
                let is_later = now.seq > before.seq
                    || now.seq == before.seq && (seen_now.owner == before.owner || is_unreliable);
                // What is purged may come again, as what it was before.
                let is_purged = before.is_end && before.lsn <= table.floor();
                assert!(is_later || is_purged, "C3: {}: {before:?}, and now {now:?}", node.n);
            }
            *head = table.head();
        });
    }

    /// C6 and a part of C7.
    pub(super) fn bounds(&self, node: &Node, plan: &Plan) {
        let Some(shard) = &node.shard else { return };
        assert!(shard.requests.len() <= plan.requests_max, "C6: requests");
        let in_flight = shard.hand_over.len();
        assert!(in_flight <= plan.pace.in_flight_max as usize, "C7: {in_flight} in flight");
        let sessions = shard.registrar.sessions();
        let owned = sessions.len();
        assert!(owned <= plan.devices_max, "C6: {owned} devices");
        node.disk.look(|table| {
            if table.head() == self.seen[node.n].1 {
                return;
            }
            let mut rows = 0;
            for location in table.records().filter_map(|record| Location::from_record(record).ok())
            {
                if location.stands() && location.owner == name(node.n) {
                    rows += 1;
                    let seq = sessions.get(&location.device).map(|session| session.seq);
                    assert_eq!(seq, Some(location.seq), "the session of {}", location.device);
                }
            }
            assert_eq!(owned, rows, "sessions of devices that are not here");
        });
    }

    pub(super) fn said(
        &mut self,
        now: Millis,
        node: usize,
        devices: &[Device],
        message: &ClientMessage,
        pace: Pace,
    ) {
        match message {
            ClientMessage::HandOff { .. } => {
                let begun = &mut self.hand_overs[node];
                // What is said is as late as the commit.
                while begun.front().is_some_and(|at| at + 1000 - 6 <= now) {
                    begun.pop_front();
                }
                begun.push_back(now);
                assert!(begun.len() <= pace.per_second as usize, "C7: {} in a second", begun.len());
            }
            ClientMessage::Registered { device, seq, .. } => {
                let is_unreliable =
                    devices.iter().any(|one| one.id == *device && one.is_unreliable);
                let first = *self.confirmed.entry((device.clone(), *seq)).or_insert(node);
                assert!(
                    first == node || is_unreliable,
                    "{device} has one counter, {seq}, from two controllers: {first} and {node}"
                );
            }
            _ => {}
        }
    }

    pub(super) fn event(&mut self, event: &crate::shard::Event) {
        match event {
            crate::shard::Event::Clash { .. } => {
                assert!(self.is_unreliable, "a clash without a cause: {event:?}");
            }
            // Folders fail now and then.
            crate::shard::Event::Odd { text, .. } if text.contains("cannot be kept here") => {}
            crate::shard::Event::Odd { .. } => {
                assert!(self.is_dirty, "odd without a cause: {event:?}")
            }
            _ => {}
        }
    }

    // Requests: C8.

    pub(super) fn ask(&mut self, now: Millis, node: usize, deadline: Millis) -> u64 {
        self.next += 1;
        self.asked.insert(self.next, Asked { node, until: now + deadline + SLACK });
        self.next
    }

    pub(super) fn asked(&mut self, payload: &[u8]) {
        let count = self.reached.entry(request(payload)).or_default();
        *count += 1;
        assert!(*count == 1, "a device was asked twice for one request");
    }

    pub(super) fn answered(&mut self, now: Millis, id: u64, outcome: &Outcome) {
        let asked =
            self.asked.remove(&id).expect("an answer to what was not asked, or was answered");
        assert!(now <= asked.until, "C8: answered too late");
        if let Outcome::Done(payload) = outcome {
            assert_eq!(request(payload), id);
            assert!(self.reached.contains_key(&id), "nobody was asked");
        }
    }

    pub(super) fn forwarded(&mut self, node: usize, to: usize, forward: &Forward) {
        let visited: Vec<usize> = forward.visited.iter().map(number).collect();
        assert!(visited.len() <= HOPS_MAX, "C8: {visited:?}");
        assert!(visited.contains(&node), "C8: {node} does not say that it had it: {visited:?}");
        assert!(!visited.contains(&to), "C8: {to} had it already: {visited:?}");
        assert!(
            (0..CONTROLLERS).all(|n| visited.iter().filter(|one| **one == n).count() <= 1),
            "C8: {visited:?}"
        );
        let count = self.forwards.entry(request(&forward.payload)).or_default();
        *count += 1;
        assert!(*count <= 6, "C8: passed on {count} times");
    }
}

fn request(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload.try_into().unwrap())
}

impl World {
    /// Looks whether all is at rest; whether it was at the last look too.
    pub(super) fn look(&mut self) -> bool {
        if !self.is_calm {
            self.calm();
        }
        let unrest = self.unrest();
        let was_at_rest = std::mem::replace(&mut self.watch.is_at_rest, unrest.is_none());
        if unrest.is_none() && was_at_rest {
            self.nothing_is_lost();
            return true;
        }
        self.note(|| format!("not at rest: {unrest:?}"));
        self.at(self.now + LOOK, Event::Look);
        false
    }

    /// Why it is not at rest.
    pub(super) fn unrest(&mut self) -> Option<String> {
        for pair in 0..CONTROLLERS {
            let [one, other] = ends(pair);
            if !self.are_partners(pair) {
                continue;
            }
            for (node, partner) in [(one, other), (other, one)] {
                let Some(shard) = &self.nodes[node].shard else {
                    return Some(format!("{node} is down"));
                };
                let state = shard.sync.state(&name(partner));
                if state != Some(SyncState::InSync) {
                    return Some(format!("{node} with {partner}: {state:?}"));
                }
            }
        }
        if let Some((id, _)) = self.watch.asked.first_key_value() {
            return Some(format!("request {id} is not answered"));
        }
        let tables: Vec<Vec<Record>> = self.nodes.iter().map(table).collect();
        for n in 1..CONTROLLERS {
            if tables[n] != tables[0] {
                return Some(format!("C1: {:?} and {:?}", names(&tables[0]), names(&tables[n])));
            }
        }
        let mut owned = [0; CONTROLLERS];
        for location in tables[0].iter().filter_map(|record| Location::from_record(record).ok()) {
            if location.stands() {
                owned[number(&location.owner)] += 1;
                if !self.devices.iter().any(|one| one.id == location.device && one.is_on) {
                    return Some(format!("C2: {} is off, and has {location:?}", location.device));
                }
            }
        }
        if let Some(unrest) = self.devices.iter().find_map(|one| self.is_served(one, &tables[0])) {
            return Some(unrest);
        }
        for (n, owned) in owned.into_iter().enumerate() {
            let status = self.nodes[n].shard.as_mut().unwrap().status(self.now).unwrap();
            if status.owned != owned {
                return Some(format!("{n} has sessions of {}, not {owned}", status.owned));
            }
            if status.hand_overs > 0 {
                return Some(format!("{n} hands over"));
            }
        }
        None
    }

    /// C2 for one device; why not.
    fn is_served(&self, device: &Device, table: &[Record]) -> Option<String> {
        if !device.is_on {
            return None;
        }
        let Some((at, seq)) = device.registered.filter(|_| device.is_at_rest()) else {
            return Some(format!("C2: {} is not registered", device.id));
        };
        let location = table
            .iter()
            .filter_map(|record| Location::from_record(record).ok())
            .find(|location| location.device == device.id);
        let is_right = location.as_ref().is_some_and(|location| {
            location.owner == name(at) && location.seq == seq && location.stands()
        });
        if !is_right {
            return Some(format!("C2: {} is at {at} with {seq}: {location:?}", device.id));
        }
        let shard = self.nodes[at].shard.as_ref()?;
        let session = shard.registrar.sessions().get(&device.id);
        if !session.is_some_and(|session| session.seq == seq && session.conn.is_some()) {
            return Some(format!("C2: {} at {at} with {seq} has {session:?}", device.id));
        }
        let home = self.plan.home;
        if self.goes_home() && at != home && self.plan.are_partners(at, home) {
            return Some(format!("{} is not at home", device.id));
        }
        None
    }

    /// C5: all tables are what one after the other would have made, but for ends, which are purged.
    fn nothing_is_lost(&self) {
        if self.watch.is_lossy {
            return;
        }
        let table: BTreeMap<_, _> = table(&self.nodes[0])
            .into_iter()
            .map(|record| ((record.kind, record.key.clone()), record))
            .collect();
        for (key, record) in &self.watch.joined {
            let is_end = Location::from_record(record).is_ok_and(|location| !location.stands());
            let stands = table.get(key);
            // Whoever has purged an end does not know that a counter has gone back.
            let is_purged = is_end && (stands.is_none() || self.watch.is_unreliable);
            assert!(is_purged || stands == Some(record), "C5: {record:?} is lost: {stands:?}");
        }
        assert!(table.keys().all(|key| self.watch.joined.contains_key(key)), "C5: out of nothing");
    }
}

fn table(node: &Node) -> Vec<Record> {
    node.disk.look(|table| table.records().cloned().collect())
}

fn names(table: &[Record]) -> Vec<String> {
    let mut names = Vec::new();
    for record in table {
        names.push(match Location::from_record(record) {
            Ok(one) => format!("{}@{} {} v{}", one.device, one.owner, one.seq, one.version),
            Err(_) => format!("{}/{:?}", record.kind, record.key),
        });
    }
    names
}
