//! What waits for the thread of a partition.
//!
//! Partners, devices that are served and devices that want to be each have a room of their own:
//! none of them can fill that of the others, and none waits for all of the others. What must not be
//! lost (a link or a connection that is gone, an operator's order) always goes in; there is never
//! much of it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::QueueConfig;
use super::worker::Machine;
use crate::model::ControllerId;
use crate::shard::Input;
use crate::shard::input::{ConnId, Origin};
use crate::store::StoreError;
use crate::wire::client::Outcome;
use crate::wire::peer::SyncMessage;

/// Of the room for those who are served the requests of one connection may take one part in so
/// many: a gateway may have many under way, but not all that there can be.
const REQUESTS_SHARE: usize = 2;

/// What an input costs at least.
const INPUT_BYTES: usize = 256;

/// A question for a partition's machine, or why there is none now.
pub(super) type Query =
    Box<dyn FnOnce(Result<&mut dyn Machine, &str>) -> crate::store::Result<After> + Send>;

/// What is done with the answer once what was seen is durable.
pub(super) type After = Option<Box<dyn FnOnce() + Send>>;

/// What comes to a partition.
pub(super) enum Work {
    /// From a device, a third party or this process.
    Input(Input),
    /// From a partner, on this connection: worth nothing once another one has taken its place.
    Link { partner: ControllerId, conn: ConnId, input: Input },
    /// What the snapshot thread has done for this opening of the store.
    Bulk { opening: u64, input: Input },
    /// The snapshot thread has found the store of this opening damaged.
    Damaged { opening: u64, error: StoreError },
    /// A question, or something that only this process says.
    Query(Query),
    /// The end.
    Close,
}

/// One of them.
pub(super) struct Item {
    pub(super) work: Work,
    pub(super) came: Instant,
    bytes: usize,
    order: u64,
}

/// There is no room: it has not gone in.
#[derive(Debug)]
pub(super) struct Full;

/// What became of something from a partner.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is more.
    Left,
    /// There is none: its link is not to be read until [`Next::released`] says so.
    None,
}

/// What a thread is given.
pub(super) struct Next {
    pub(super) item: Item,
    /// A partner whose link may be read again.
    pub(super) released: Option<ControllerId>,
}

/// See the module.
pub(super) struct Queue {
    config: QueueConfig,
    lanes: Mutex<Lanes>,
    came: Condvar,
    is_closed: AtomicBool,
}

#[derive(Default)]
struct Lane {
    items: VecDeque<Item>,
    bytes: usize,
    is_held: bool,
}

#[derive(Default)]
struct Lanes {
    control: VecDeque<Item>,
    served: Lane,
    /// Requests among them, and their bytes, of each connection that has some.
    requesters: HashMap<ConnId, (usize, usize)>,
    new: Lane,
    partners: Vec<(ControllerId, Lane)>,
    next_partner: usize,
    turn: usize,
    order: u64,
}

/// Whose turn it is while all have something: those who are served come first.
#[derive(Clone, Copy)]
enum Turn {
    Served,
    Partners,
    New,
}
const TURNS: [Turn; 4] = [Turn::Served, Turn::Partners, Turn::Served, Turn::New];

impl Lane {
    fn push(&mut self, item: Item) {
        self.bytes += item.bytes;
        self.items.push_back(item);
    }

    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= item.bytes;
        Some(item)
    }

    fn is_over(&self, times: usize, config: QueueConfig) -> bool {
        self.items.len() >= config.inputs_max.saturating_mul(times)
            || self.bytes >= config.bytes_max.saturating_mul(times)
    }
}

impl Queue {
    pub(super) fn new(config: QueueConfig) -> Self {
        Self { config, lanes: Mutex::default(), came: Condvar::new(), is_closed: false.into() }
    }

    /// What must not be lost and comes of this process.
    pub(super) fn control(&self, work: Work) {
        if matches!(work, Work::Close) {
            self.is_closed.store(true, Ordering::Relaxed);
        }
        let mut lanes = self.lock();
        let item = lanes.item(work);
        lanes.control.push_back(item);
        self.came.notify_one();
    }

    /// Whether the end has been said, which others need not wait for until its turn comes.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// From a device or a third party.
    pub(super) fn push(&self, input: Input) -> Result<(), Full> {
        let mut lanes = self.lock();
        let times = match &input {
            Input::ConnLost { .. } => usize::MAX,
            // Without them something stays under way that is not.
            Input::Answer { .. } | Input::HandOffAnswer { .. } | Input::Deregister { .. } => 2,
            // Requests must not make devices believe that nobody is here.
            Input::Handshake { .. } => 2,
            _ => 1,
        };
        // An end must not overtake the registration that it ends.
        let is_new = matches!(
            input,
            Input::Register { .. } | Input::Deregister { .. } | Input::ConnLost { .. }
        );
        let requester = requester(&input);
        let item = lanes.item(Work::Input(input));
        if requester.is_some_and(|conn| !lanes.has_share(conn, item.bytes, self.config)) {
            return Err(Full);
        }
        let lane = if is_new { &mut lanes.new } else { &mut lanes.served };
        if lane.is_over(times, self.config) {
            return Err(Full);
        }
        let bytes = item.bytes;
        lane.push(item);
        if let Some(conn) = requester {
            let of_it = lanes.requesters.entry(conn).or_default();
            *of_it = (of_it.0 + 1, of_it.1 + bytes);
        }
        self.came.notify_one();
        Ok(())
    }

    /// From a partner, or for it. It always goes in, but for a request that is passed on.
    pub(super) fn push_partner(&self, partner: &ControllerId, work: Work) -> Result<Room, Full> {
        let mut lanes = self.lock();
        let is_request = matches!(&work, Work::Link { input: Input::Forward { .. }, .. });
        let item = lanes.item(work);
        let lane = lanes.partner(partner);
        if is_request && lane.is_over(1, self.config) {
            return Err(Full);
        }
        // Room that requests cannot take: else they would hold the link, and all that others want
        // of it.
        let is_over = lane.is_over(2, self.config);
        lane.push(item);
        lane.is_held |= is_over;
        self.came.notify_one();
        Ok(if is_over { Room::None } else { Room::Left })
    }

    /// The next one; `None` if there is none by then. Blocks until then.
    pub(super) fn next(&self, until: Option<Instant>) -> Option<Next> {
        let mut lanes = self.lock();
        loop {
            if let Some(next) = lanes.next(self.config) {
                return Some(next);
            }
            // Without a time it does not wait.
            let left = until?.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            lanes = match self.came.wait_timeout(lanes, left) {
                Ok((lanes, _)) => lanes,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Waits until there is something, but not longer.
    pub(super) fn wait(&self, until: Instant) {
        let mut lanes = self.lock();
        while lanes.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            lanes = match self.came.wait_timeout(lanes, left) {
                Ok((lanes, _)) => lanes,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// The next of those who are served already, whosever turn it is.
    pub(super) fn next_served(&self) -> Option<Next> {
        self.lock().pop_served().map(|item| Next { item, released: None })
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        let lanes = self.lock();
        let partners: usize = lanes.partners.iter().map(|(_, lane)| lane.items.len()).sum();
        lanes.control.len() + lanes.served.items.len() + lanes.new.items.len() + partners
    }

    /// How many devices wait to be registered.
    pub(super) fn waiting_new(&self) -> usize {
        self.lock().new.items.len()
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    fn is_empty(&self) -> bool {
        self.control.is_empty()
            && self.served.items.is_empty()
            && self.new.items.is_empty()
            && self.partners.iter().all(|(_, lane)| lane.items.is_empty())
    }

    fn item(&mut self, work: Work) -> Item {
        self.order += 1;
        Item { bytes: bytes_of(&work), work, came: Instant::now(), order: self.order }
    }

    /// Whether a connection may have one more request of so many bytes waiting.
    fn has_share(&self, conn: ConnId, bytes: usize, config: QueueConfig) -> bool {
        let Some((count, of_it)) = self.requesters.get(&conn) else { return true };
        *count < config.inputs_max / REQUESTS_SHARE
            && of_it + bytes <= config.bytes_max / REQUESTS_SHARE
    }

    fn pop_served(&mut self) -> Option<Item> {
        let item = self.served.pop()?;
        if let Work::Input(input) = &item.work
            && let Some(conn) = requester(input)
            && let Entry::Occupied(mut of_it) = self.requesters.entry(conn)
        {
            let (count, bytes) = *of_it.get();
            if count <= 1 {
                of_it.remove();
            } else {
                *of_it.get_mut() = (count - 1, bytes - item.bytes);
            }
        }
        Some(item)
    }

    fn partner(&mut self, partner: &ControllerId) -> &mut Lane {
        let at = self.partners.iter().position(|(known, _)| known == partner);
        let at = at.unwrap_or_else(|| {
            self.partners.push((partner.clone(), Lane::default()));
            self.partners.len() - 1
        });
        &mut self.partners[at].1
    }

    fn next(&mut self, config: QueueConfig) -> Option<Next> {
        if let Some(item) = self.control.pop_front() {
            return Some(Next { item, released: None });
        }
        for _ in 0..TURNS.len() {
            let turn = TURNS[self.turn % TURNS.len()];
            self.turn = (self.turn + 1) % TURNS.len();
            let next = match turn {
                Turn::Served => self.pop_served().map(|item| Next { item, released: None }),
                Turn::New => self.next_new().map(|item| Next { item, released: None }),
                Turn::Partners => self.next_of_partners(config),
            };
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// A connection is lost only after all that came on it.
    fn next_new(&mut self) -> Option<Item> {
        let first = self.new.items.front()?;
        let is_loss = matches!(first.work, Work::Input(Input::ConnLost { .. }));
        let is_early = self.served.items.front().is_some_and(|other| other.order < first.order);
        if is_loss && is_early { self.pop_served() } else { self.new.pop() }
    }

    fn next_of_partners(&mut self, config: QueueConfig) -> Option<Next> {
        for _ in 0..self.partners.len() {
            self.next_partner = (self.next_partner + 1) % self.partners.len();
            let (partner, lane) = &mut self.partners[self.next_partner];
            let Some(item) = lane.pop() else { continue };
            let has_room =
                lane.items.len() <= config.inputs_max / 2 && lane.bytes <= config.bytes_max / 2;
            let is_released = has_room && std::mem::take(&mut lane.is_held);
            return Some(Next { item, released: is_released.then(|| partner.clone()) });
        }
        None
    }
}

/// The connection that a request has come on.
fn requester(input: &Input) -> Option<ConnId> {
    match input {
        Input::Request { origin: Origin::Conn(conn, _), .. } => Some(*conn),
        _ => None,
    }
}

/// About what a piece of work costs while it waits.
fn bytes_of(work: &Work) -> usize {
    let input = match work {
        Work::Input(input) | Work::Link { input, .. } | Work::Bulk { input, .. } => input,
        Work::Query(_) | Work::Damaged { .. } | Work::Close => return INPUT_BYTES,
    };
    INPUT_BYTES
        + match input {
            Input::Register { register, .. } => register.address.len(),
            Input::Request { request, .. } => request.payload.len(),
            Input::Forward { forward, .. } => forward.payload.len(),
            Input::Answer { outcome: Outcome::Done(bytes), .. }
            | Input::ForwardResult { outcome: Outcome::Done(bytes), .. } => bytes.len(),
            Input::Sync { message: SyncMessage::Update { records, .. }, .. } => {
                records.iter().map(crate::model::Record::weight).sum()
            }
            Input::Sync { message: SyncMessage::Chunk { data, .. }, .. }
            | Input::ChunkRead { data: Some(data), .. } => data.len(),
            Input::SnapshotRecords { records: Ok(records), .. } => {
                records.iter().map(crate::model::Record::weight).sum()
            }
            _ => 0,
        }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
