//! The thread of a partition: takes what waits, lets its machine decide, makes that durable, and
//! only then lets out what the machine wants said and done.
//!
//! When the store fails, or the machine panics, the machine is thrown away with all that it has not
//! made durable, and a new one begins on the store as it is found then. Whoever waits is told so.
//! Other partitions do not notice, but for their links, which are made anew once so that both ends
//! agree again on where they stand.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Sender, TrySendError};

use super::NodeEvent;
use super::bulk::{self, Job};
use super::latency::Latencies;
use super::queue::{Item, Next, Query, Queue, Work};
use super::status::{Counts, DeviceRow, PartitionStatus};
use crate::limits::DEADLINE_MAX;
use crate::model::{ControllerId, DeviceId, Record};
use crate::shard::input::{ConnId, Millis, Origin, Settings};
use crate::shard::{Event, Input, Order, Output};
use crate::store::{self, Position, Snapshot, StoreError};
use crate::wire::client::{ClientMessage, Outcome};
use crate::wire::peer::PeerMessage;

/// Inputs that share a transaction.
const BATCH_MAX: usize = 64;
/// How long inputs are taken into one transaction.
const BATCH_TIME: Duration = Duration::from_millis(2);
/// A machine hears of the time at least so often.
const TICK: Millis = 1000;
/// Waits between attempts to open a store again.
const REOPEN_FIRST: Duration = Duration::from_millis(200);
const REOPEN_MOST: Duration = Duration::from_secs(60);
/// The same when it could be opened each time, but fails again before it is steady: each opening
/// costs all links, and so the other partitions.
const RELAPSE_MOST: Duration = Duration::from_secs(600);
/// A store that has worked for so long is tried again soon.
const STEADY: Duration = Duration::from_secs(60);
/// Why a batch of hand-overs has ended with its machine.
const LOST: &str = "the partition has begun anew: order it again";
/// Low bits of the number of a question that say which partition asks it.
pub(super) const INDEX_BITS: u32 = 6;

/// What decides for a partition: the shard, but for tests.
pub(super) trait Machine: Send {
    fn handle(
        &mut self,
        now: Millis,
        wall_s: u32,
        input: Input,
        out: &mut Vec<Output>,
    ) -> store::Result<()>;
    fn commit(&mut self) -> store::Result<()>;
    fn status(
        &mut self,
        now: Millis,
        status: &mut PartitionStatus,
        counts: &mut Counts,
    ) -> store::Result<()>;
    fn devices(&mut self, after: Option<&DeviceId>, count: usize) -> store::Result<Vec<DeviceRow>>;
    fn find(&mut self, device: &DeviceId) -> store::Result<Option<DeviceRow>>;
    fn put(&mut self, record: Record) -> store::Result<()>;
    fn get(&mut self, kind: u16, key: &[u8]) -> store::Result<Option<Record>>;
    /// Asked before it is thrown away: the batches of hand-overs that end with it, for this reason.
    fn lost(&mut self, why: &str) -> Vec<Event>;
    /// The position of its table, and how far it has taken over that of a partner.
    fn standpoint(&mut self, partner: &ControllerId)
    -> store::Result<(Position, Option<Position>)>;
}

/// A store that was opened, and what works on it.
pub(super) struct Opening {
    pub(super) machine: Box<dyn Machine>,
    pub(super) snapshots: Box<dyn Snapshot>,
}

/// Opens the store of a partition, at this time, with these settings; after it was set aside, if
/// it is damaged, which it is not any more then, whatever becomes of the rest.
pub(super) type Open =
    Box<dyn FnMut(Millis, &Arc<Settings>, &mut bool) -> store::Result<Opening> + Send>;

/// Where what a partition wants goes.
pub(super) trait Outlet: Send + Sync {
    fn say(&self, conn: ConnId, message: &ClientMessage);
    fn tell(&self, conn: ConnId, message: &PeerMessage);
    /// A request of this process itself is answered.
    fn answer(&self, number: u64, outcome: Outcome);
    fn changed(&self, record: Record);
    fn event(&self, event: NodeEvent);
    /// Links have to be made anew, as a partition has begun anew.
    fn relink(&self, partition: &ControllerId);
    /// A link may be read again.
    fn release(&self, partition: &ControllerId, partner: &ControllerId);
}

/// What others may look at without asking the thread.
pub(super) struct Gauges {
    pub(super) registrations: AtomicU64,
    pub(super) latencies: Mutex<Latencies>,
    /// As they were told last: they never go down because an answer is late.
    pub(super) counts: Mutex<Counts>,
    /// Why it does not work; empty if it does.
    pub(super) error: Mutex<String>,
}

impl Gauges {
    pub(super) fn new() -> Self {
        Self {
            registrations: AtomicU64::new(0),
            latencies: Mutex::new(Latencies::new(Instant::now())),
            counts: Mutex::default(),
            error: Mutex::default(),
        }
    }

    pub(super) fn error(&self) -> String {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See the module.
pub(super) struct Worker {
    pub(super) partition: ControllerId,
    pub(super) index: u64,
    pub(super) queue: Arc<Queue>,
    pub(super) outlet: Arc<dyn Outlet>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) open: Open,
    pub(super) settings: Arc<Settings>,
    pub(super) jobs: Sender<Job>,
    pub(super) began: Instant,
}

/// What is let out after the transaction.
enum Let {
    Output(Output),
    After(Box<dyn FnOnce() + Send>),
}

/// Somebody in the current transaction who waits for a word.
enum Asker {
    Register { conn: ConnId, device: DeviceId, came: Instant },
    Query,
}

struct Running {
    worker: Worker,
    machine: Option<Box<dyn Machine>>,
    opening: u64,
    opened: Instant,
    retry_at: Instant,
    back_off: Duration,
    is_damaged: bool,
    wake: Millis,
    /// The connection of each link that the machine knows of.
    links: HashMap<ControllerId, ConnId>,
    /// Requests that the machine has not answered: of connections, and others.
    of_conns: BTreeSet<(ConnId, u64)>,
    of_others: HashSet<Origin>,
    maintenance: bool,
    /// An operator has stopped hand-overs.
    halted: bool,
    paused: BTreeMap<Option<ControllerId>, bool>,
    /// What a new machine hears before all else.
    first: Vec<Input>,
    lets: Vec<Let>,
    askers: Vec<Asker>,
}

impl Worker {
    /// Works until it is told to close. `opened`: what became of the first opening.
    pub(super) fn run(self, opened: store::Result<Opening>) {
        let now = Instant::now();
        let mut running = Running {
            worker: self,
            machine: None,
            opening: 0,
            opened: now,
            retry_at: now,
            back_off: REOPEN_FIRST,
            is_damaged: false,
            wake: 0,
            links: HashMap::new(),
            of_conns: BTreeSet::new(),
            of_others: HashSet::new(),
            maintenance: false,
            halted: false,
            paused: BTreeMap::new(),
            first: Vec::new(),
            lets: Vec::new(),
            askers: Vec::new(),
        };
        match opened {
            Ok(opened) => running.begin(opened),
            Err(error) => {
                let is_damaged = matches!(error, StoreError::Damaged { .. });
                running.fail(&error.to_string(), is_damaged);
            }
        }
        while running.step() {}
        running.leave();
    }
}

impl Running {
    /// One transaction, or one refusal; false at the end.
    fn step(&mut self) -> bool {
        if self.machine.is_none() {
            return self.step_down();
        }
        let wake = self.worker.began + Duration::from_millis(self.wake);
        self.worker.queue.wait(wake);
        let batch = || self.batch();
        match catch_unwind(AssertUnwindSafe(batch)) {
            Ok(Ok(goes_on)) => return goes_on,
            Ok(Err(error)) => {
                let is_damaged = matches!(error, StoreError::Damaged { .. });
                self.fail(&error.to_string(), is_damaged);
            }
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no text");
                self.fail(&format!("a defect of this program: {text}"), false);
            }
        }
        true
    }

    fn batch(&mut self) -> store::Result<bool> {
        for input in std::mem::take(&mut self.first) {
            self.handle(input)?;
        }
        self.serve()?;
        let (until, mut goes_on) = (Instant::now() + BATCH_TIME, true);
        if self.now() >= self.wake {
            self.wake = self.now() + TICK;
            self.handle(Input::Tick)?;
        }
        for _ in 0..BATCH_MAX {
            let Some(Next { item, released }) = self.worker.queue.next(None) else { break };
            if let Some(partner) = released {
                self.worker.outlet.release(&self.worker.partition, &partner);
            }
            if matches!(item.work, Work::Close) {
                goes_on = false;
                break;
            }
            self.take(item)?;
            if Instant::now() >= until {
                break;
            }
        }
        self.end_transaction()?;
        Ok(goes_on)
    }

    /// Those who are served already first: they write next to nothing, and need not wait until what
    /// the others write is on disk.
    fn serve(&mut self) -> store::Result<()> {
        for taken in 0..BATCH_MAX {
            let Some(Next { item, .. }) = self.worker.queue.next_served() else {
                return if taken > 0 { self.end_transaction() } else { Ok(()) };
            };
            self.take(item)?;
        }
        self.end_transaction()
    }

    fn end_transaction(&mut self) -> store::Result<()> {
        if let Some(machine) = &mut self.machine {
            machine.commit()?;
        }
        self.let_out();
        Ok(())
    }

    fn take(&mut self, item: Item) -> store::Result<()> {
        let Item { work, came, .. } = item;
        match work {
            Work::Input(mut input) => {
                self.note(&input, came);
                count_wait(&mut input, came);
                self.handle(input)
            }
            Work::Link { partner, conn, mut input } => {
                count_wait(&mut input, came);
                self.take_link(partner, conn, input)
            }
            Work::Bulk { opening, input } if opening == self.opening => self.handle(input),
            Work::Damaged { opening, error } if opening == self.opening => Err(error),
            Work::Bulk { .. } | Work::Damaged { .. } | Work::Close => Ok(()),
            Work::Query(query) => self.query(query),
        }
    }

    /// Remembers what has to be known when the machine is lost.
    fn note(&mut self, input: &Input, came: Instant) {
        match input {
            Input::Register { conn, register } => {
                let device = register.device.clone();
                self.askers.push(Asker::Register { conn: *conn, device, came });
            }
            Input::Request { origin: Origin::Conn(conn, id), .. } => {
                self.of_conns.insert((*conn, *id));
            }
            Input::Request { origin, .. } => {
                self.of_others.insert(origin.clone());
            }
            Input::ConnLost { conn } => {
                let theirs = (*conn, 0)..=(*conn, u64::MAX);
                while let Some(pair) = self.of_conns.range(theirs.clone()).next().copied() {
                    self.of_conns.remove(&pair);
                }
            }
            Input::Settings(settings) => self.worker.settings = Arc::clone(settings),
            Input::Order(Order::Maintenance(on)) => {
                self.maintenance = *on;
                self.halted &= !*on;
            }
            Input::Order(Order::StopHandOver) => self.halted = true,
            Input::Order(Order::FailBack) => self.halted = false,
            Input::Order(Order::Pause { partner, paused }) => {
                if partner.is_none() {
                    self.paused.clear();
                }
                self.paused.insert(partner.clone(), *paused);
            }
            _ => {}
        }
    }

    fn take_link(
        &mut self,
        partner: ControllerId,
        conn: ConnId,
        input: Input,
    ) -> store::Result<()> {
        match &input {
            Input::LinkUp { .. } => {
                self.links.insert(partner, conn);
            }
            // Another one has taken its place, or the machine does not know of it.
            _ if self.links.get(&partner) != Some(&conn) => return Ok(()),
            Input::LinkDown { .. } => {
                self.links.remove(&partner);
                let is_its =
                    |origin: &Origin| matches!(origin, Origin::Partner(p, _) if *p == partner);
                self.of_others.retain(|origin| !is_its(origin));
            }
            Input::Forward { forward, .. } => {
                self.of_others.insert(Origin::Partner(partner, forward.id));
            }
            _ => {}
        }
        self.handle(input)
    }

    fn query(&mut self, query: Query) -> store::Result<()> {
        let Some(machine) = &mut self.machine else { return Ok(()) };
        if let Some(after) = query(Ok(&mut **machine))? {
            self.lets.push(Let::After(after));
            self.askers.push(Asker::Query);
        }
        Ok(())
    }

    fn handle(&mut self, input: Input) -> store::Result<()> {
        let (now, wall_s) = (self.now(), seconds_of_day());
        let Some(machine) = &mut self.machine else { return Ok(()) };
        let mut out = Vec::new();
        machine.handle(now, wall_s, input, &mut out)?;
        self.lets.extend(out.into_iter().map(Let::Output));
        Ok(())
    }

    /// What was decided is durable now.
    fn let_out(&mut self) {
        for asker in std::mem::take(&mut self.askers) {
            self.measure(asker);
        }
        for one in std::mem::take(&mut self.lets) {
            match one {
                Let::Output(output) => self.let_out_one(output),
                Let::After(after) => after(),
            }
        }
    }

    fn measure(&self, asker: Asker) {
        let Asker::Register { device, came, .. } = asker else { return };
        let is_done = |one: &Let| {
            matches!(one, Let::Output(Output::Say { message: ClientMessage::Registered {
                device: other, .. }, .. }) if *other == device)
        };
        if self.lets.iter().any(is_done) {
            self.worker.gauges.registrations.fetch_add(1, Ordering::Relaxed);
            let mut latencies =
                self.worker.gauges.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            latencies.add(now, now.saturating_duration_since(came));
        }
    }

    fn let_out_one(&mut self, output: Output) {
        let outlet = &self.worker.outlet;
        match output {
            Output::Say { conn, message } => outlet.say(conn, &message),
            Output::Ask { conn, mut request } => {
                request.id = self.tagged(request.id);
                outlet.say(conn, &ClientMessage::Request(request));
            }
            Output::Answered { origin, outcome } => self.answered(origin, outcome),
            Output::Forward { partner, mut forward } => {
                let id = forward.id;
                forward.id = self.tagged(id);
                if let Some(conn) = self.links.get(&partner) {
                    return outlet.tell(*conn, &PeerMessage::Forward(forward));
                }
                let text = format!("there is no link to {partner} now");
                let outcome = Outcome::Unreachable(text);
                let input = Input::ForwardResult { partner, id, outcome };
                self.worker.queue.control(Work::Input(input));
            }
            Output::Sync { partner, message } => {
                if let Some(conn) = self.links.get(&partner) {
                    let partition = self.worker.partition.clone();
                    outlet.tell(*conn, &PeerMessage::Sync { partition, message });
                }
            }
            Output::Changed { record } => outlet.changed(record),
            Output::Event(event) => {
                self.tell(event);
            }
            Output::Wake { at } => self.wake = at.min(self.now() + TICK),
            job => self.give(job),
        }
    }

    /// To the snapshot thread. What it has no room for has failed, and is tried again by who asked.
    fn give(&self, output: Output) {
        let refused = match self.worker.jobs.try_send(Job::Do { opening: self.opening, output }) {
            Ok(()) => return,
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
        };
        if let Job::Do { opening, output } = refused
            && let (Some(partner), Some(input)) = (bulk::partner(&output), bulk::refusal(&output))
        {
            let work = Work::Bulk { opening, input };
            let _room = self.worker.queue.push_partner(partner, work);
        }
    }

    fn answered(&mut self, origin: Origin, outcome: Outcome) {
        if let Origin::Conn(conn, id) = origin {
            self.of_conns.remove(&(conn, id));
        } else {
            self.of_others.remove(&origin);
        }
        self.answer(origin, outcome);
    }

    fn answer(&self, origin: Origin, outcome: Outcome) {
        let outlet = &self.worker.outlet;
        match origin {
            Origin::Conn(conn, id) => outlet.say(conn, &ClientMessage::Response { id, outcome }),
            Origin::Partner(partner, id) => {
                if let Some(conn) = self.links.get(&partner) {
                    outlet.tell(*conn, &PeerMessage::Result { id, outcome });
                }
            }
            Origin::Local(number) => outlet.answer(number, outcome),
        }
    }

    /// The machine is lost.
    fn fail(&mut self, error: &str, is_damaged: bool) {
        let partition = self.worker.partition.clone();
        if self.opened.elapsed() >= STEADY {
            self.back_off = REOPEN_FIRST;
        }
        log::error!(
            "partition {partition}: {error}; it begins anew on its store in {:?}",
            self.back_off
        );
        self.set_error(error);
        self.worker.outlet.event(NodeEvent::Fault { partition, error: error.to_owned() });
        for one in std::mem::take(&mut self.lets) {
            // It is over, whether it was made durable or not.
            if let Let::Output(Output::Event(event @ Event::HandedOver { .. })) = one {
                self.tell(event);
            }
        }
        // A defect may have hit it in the middle of anything.
        let machine = self.machine.take();
        let end = || machine.map_or_else(Vec::new, |mut machine| machine.lost(LOST));
        match catch_unwind(AssertUnwindSafe(end)) {
            Ok(events) => events.into_iter().for_each(|event| self.tell(event)),
            Err(_) => log::error!("partition {}: its end has failed too", self.worker.partition),
        }
        self.is_damaged = is_damaged;
        for asker in std::mem::take(&mut self.askers) {
            if let Asker::Register { conn, device, .. } = asker {
                self.retry(conn, device);
            }
        }
        self.leave();
        self.links.clear();
        self.opening += 1;
        self.put_off(RELAPSE_MOST);
    }

    fn put_off(&mut self, most: Duration) {
        self.retry_at = Instant::now() + self.back_off.min(most);
        self.back_off = (self.back_off * 2).min(RELAPSE_MOST);
    }

    /// Whoever waits is told that nobody will answer; what was asked may have been done.
    fn leave(&mut self) {
        let conns = std::mem::take(&mut self.of_conns);
        let conns = conns.into_iter().map(|(conn, id)| Origin::Conn(conn, id));
        for origin in conns.chain(std::mem::take(&mut self.of_others)).collect::<Vec<_>>() {
            self.answer(origin, Outcome::TimedOut);
        }
    }

    fn step_down(&mut self) -> bool {
        if Instant::now() >= self.retry_at {
            self.reopen();
            return true;
        }
        match self.worker.queue.next(Some(self.retry_at)) {
            Some(Next { item, released }) => {
                if let Some(partner) = released {
                    self.worker.outlet.release(&self.worker.partition, &partner);
                }
                self.refuse(item)
            }
            None => true,
        }
    }

    fn reopen(&mut self) {
        let now = self.now();
        let open = &mut self.worker.open;
        let (settings, is_damaged) = (&self.worker.settings, &mut self.is_damaged);
        let opened = catch_unwind(AssertUnwindSafe(|| open(now, settings, is_damaged)));
        match opened {
            Ok(Ok(opening)) => {
                log::warn!("partition {}: it works again", self.worker.partition);
                self.set_error("");
                self.begin(opening);
                let partition = self.worker.partition.clone();
                self.worker.outlet.relink(&partition);
                self.worker.outlet.event(NodeEvent::Recovered { partition });
            }
            Ok(Err(error)) => {
                log::error!("partition {}: {error}", self.worker.partition);
                self.set_error(&error.to_string());
                self.is_damaged |= matches!(error, StoreError::Damaged { .. });
                self.put_off(REOPEN_MOST);
            }
            Err(_) => {
                log::error!("partition {}: its store cannot be opened", self.worker.partition);
                self.put_off(REOPEN_MOST);
            }
        }
    }

    fn begin(&mut self, opening: Opening) {
        self.machine = Some(opening.machine);
        self.opened = Instant::now();
        self.wake = 0;
        let source = Job::Opened { opening: self.opening, snapshots: opening.snapshots };
        if self.worker.jobs.send(source).is_err() {
            log::error!("partition {}: its snapshot thread is gone", self.worker.partition);
        }
        // Before what waits in the queue, where there may be other orders by now.
        let pause = |(partner, paused): (&Option<ControllerId>, &bool)| Order::Pause {
            partner: partner.clone(),
            paused: *paused,
        };
        let orders = self.paused.iter().map(pause);
        let orders = orders.chain(self.maintenance.then_some(Order::Maintenance(true)));
        let orders = orders.chain(self.halted.then_some(Order::StopHandOver));
        self.first = orders.map(Input::Order).collect();
    }

    fn tell(&self, event: Event) {
        let partition = self.worker.partition.clone();
        self.worker.outlet.event(NodeEvent::Partition { partition, event });
    }

    /// A batch of hand-overs was ordered that there is no machine for.
    fn refuse_batch(&self, order: &Order) {
        let target = match order {
            Order::Move { target, .. } => target.clone(),
            Order::FailBack => self.worker.partition.clone(),
            _ => return,
        };
        let stopped = LOST.to_owned();
        self.tell(Event::HandedOver { target, done: 0, failed: 0, skipped: 0, stopped });
    }

    /// Answers what comes while there is no machine.
    fn refuse(&mut self, item: Item) -> bool {
        match item.work {
            Work::Input(Input::Register { conn, register }) => self.retry(conn, register.device),
            Work::Input(Input::Request { origin, .. }) => {
                let error = self.worker.gauges.error();
                self.answer(origin, Outcome::Unreachable(error));
            }
            Work::Input(input) => {
                self.note(&input, item.came);
                if let Input::Order(order) = &input {
                    self.refuse_batch(order);
                }
            }
            Work::Link { conn, input: Input::Forward { forward, .. }, .. } => {
                let outcome = Outcome::Unreachable(self.worker.gauges.error());
                self.worker.outlet.tell(conn, &PeerMessage::Result { id: forward.id, outcome });
            }
            Work::Link { .. } | Work::Bulk { .. } | Work::Damaged { .. } => {}
            Work::Query(query) => {
                let error = self.worker.gauges.error();
                match catch_unwind(AssertUnwindSafe(|| query(Err(&error)))) {
                    Ok(Ok(Some(after))) => after(),
                    Ok(_) => {}
                    Err(_) => log::error!("a question to {} has failed", self.worker.partition),
                }
            }
            Work::Close => return false,
        }
        true
    }

    fn retry(&self, conn: ConnId, device: DeviceId) {
        let left = self.retry_at.saturating_duration_since(Instant::now());
        let after = super::admission::spread(left.max(Duration::from_secs(1)));
        self.worker.outlet.say(conn, &ClientMessage::Retry { device, after });
    }

    fn set_error(&self, error: &str) {
        let mut known = self.worker.gauges.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.clone_into(&mut known);
    }

    fn tagged(&self, id: u64) -> u64 {
        (id << INDEX_BITS) | self.worker.index
    }

    fn now(&self) -> Millis {
        u64::try_from(self.worker.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The deadline of a request runs from when it came, not from when its turn came.
fn count_wait(input: &mut Input, came: Instant) {
    let deadline = match input {
        Input::Request { request, .. } => &mut request.deadline,
        Input::Forward { forward, .. } => &mut forward.deadline,
        _ => return,
    };
    *deadline = (*deadline).min(DEADLINE_MAX).saturating_sub(came.elapsed());
}

/// Seconds after midnight UTC.
fn seconds_of_day() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs() % (24 * 3600)).unwrap_or(0)
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
