//! What can be asked of a controller that runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::bulk::Job;
use super::environment::{generation_of, record};
use super::hub::{Hub, Note, Reply, locked};
use super::queue::Work;
use super::status::{Counts, DeviceRow, NodeStatus, PartitionStatus, PartnerStatus};
use super::worker::Machine;
use super::{NodeConfig, NodeError, NodeEvent, environment, start};
use crate::conn::{Reactor, ReactorThread};
use crate::limits::{DEADLINE_MAX, GENERATION_MAX};
use crate::model::{ControllerId, DeviceId, Dispatch, DispatchMode, Record, kind};
use crate::shard::input::{Millis, Origin};
use crate::shard::{Input, Order};
use crate::store;
use crate::wire::client::{Outcome, Request};

/// How long a partition may take to answer a question.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The same for what is asked again and again.
const STATUS_MAX: Duration = Duration::from_secs(2);
/// Devices that are listed at once, at most.
const LIST_MAX: usize = 10_000;

/// A controller that runs. Dropping it is [`Node::close`].
pub struct Node {
    pub(super) hub: Arc<Hub>,
    pub(super) reactor: Option<ReactorThread>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) jobs: Vec<Sender<Job>>,
    pub(super) began: Instant,
    pub(super) door: SocketAddr,
    pub(super) partner_door: Option<SocketAddr>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("me", &self.hub.config.me).finish_non_exhaustive()
    }
}

impl Node {
    /// Opens the stores and the doors, and begins to serve and to dial. A store that fails does not
    /// keep the others from working; its partition is tried again. Blocks while stores are opened,
    /// which reads their tables.
    ///
    /// # Errors
    ///
    /// The configuration makes no sense, a door or a thread cannot be had, or a store belongs to
    /// somebody else.
    pub fn start(config: NodeConfig) -> Result<Self, NodeError> {
        start::start(config)
    }

    /// The name of the controller.
    #[must_use]
    pub fn me(&self) -> &ControllerId {
        &self.hub.config.me
    }

    /// Its partitions with devices.
    #[must_use]
    pub fn partitions(&self) -> Vec<ControllerId> {
        self.hub.of_devices().iter().map(|partition| partition.name.clone()).collect()
    }

    /// Where devices and third parties come.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.door
    }

    /// Where partners come.
    #[must_use]
    pub fn partner_addr(&self) -> Option<SocketAddr> {
        self.partner_door
    }

    /// How it is. Blocks for a moment; a partition that does not answer within 2 s is shown with an
    /// error.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let hub = &self.hub;
        let environment = locked(&hub.environment);
        let generation = environment.generation();
        let refused = environment.refused().map(|(g, error)| format!("generation {g}: {error}"));
        drop(environment);
        let mut counts = Counts {
            retries: hub.retries.load(Ordering::Relaxed),
            refused: hub.refused.load(Ordering::Relaxed),
            ..Counts::default()
        };
        let partitions = self.partition_statuses(&mut counts);
        NodeStatus {
            controller: hub.config.me.to_string(),
            up: self.began.elapsed(),
            failure: self.failure().unwrap_or_default(),
            maintenance: hub.maintenance.load(Ordering::SeqCst),
            generation,
            generation_refused: refused.unwrap_or_default(),
            dispatch_generation: hub.dispatch().generation(),
            connections: hub.connections.load(Ordering::Relaxed),
            partitions,
            partners: self.partner_statuses(),
            counts,
        }
    }

    /// Why no connections are carried any more: a defect, or the system. The controller has to be
    /// started anew. `None` while all is well.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.hub.reactor.get().and_then(Reactor::failure)
    }

    fn partition_statuses(&self, counts: &mut Counts) -> Vec<PartitionStatus> {
        let until = Instant::now() + STATUS_MAX;
        let now = self.now();
        let ask = |index| {
            self.ask(index, move |machine| {
                let (mut status, mut counts) = (PartitionStatus::default(), Counts::default());
                machine.status(now, &mut status, &mut counts)?;
                Ok((status, counts))
            })
        };
        let asked: Vec<_> = (0..self.hub.partitions.len()).map(ask).collect();
        let mut statuses = Vec::new();
        for (asked, partition) in asked.into_iter().zip(&self.hub.partitions) {
            let left = until.saturating_duration_since(Instant::now());
            let (mut status, error) = match answer(&asked, left, &partition.name) {
                Ok((status, of_it)) => {
                    *locked(&partition.gauges.counts) = of_it;
                    (status, partition.gauges.error())
                }
                Err(NodeError::Down { cause, .. }) => (PartitionStatus::default(), cause),
                Err(error) => (PartitionStatus::default(), error.to_string()),
            };
            add(counts, &locked(&partition.gauges.counts));
            status.name = partition.name.to_string();
            status.error = error;
            status.queued = partition.queue.len();
            status.registrations = partition.gauges.registrations.load(Ordering::Relaxed);
            status.registration_p99 = locked(&partition.gauges.latencies).p99(Instant::now());
            statuses.push(status);
        }
        statuses
    }

    fn partner_statuses(&self) -> Vec<PartnerStatus> {
        let board = locked(&self.hub.board).clone();
        let live = |(mut status, since, conn): (PartnerStatus, Instant, Option<u64>)| {
            status.since = since.elapsed();
            if let (Some(reactor), Some(conn)) = (self.hub.reactor.get(), conn) {
                status.is_cut = reactor.is_cut(conn);
                status.queued_bytes = reactor.queued(conn);
            }
            status
        };
        board.into_iter().map(live).collect()
    }

    /// The devices of a partition, or of all, behind the given one in the order of their names, at
    /// most `count` and at most 10,000; those whose registration has ended stand there too. Blocks
    /// for a moment.
    ///
    /// # Errors
    ///
    /// There is no such partition, or one does not work or answer now.
    pub fn devices(
        &self,
        partition: Option<&ControllerId>,
        after: Option<&DeviceId>,
        count: usize,
    ) -> Result<Vec<DeviceRow>, NodeError> {
        let count = count.min(LIST_MAX);
        let asked: Vec<_> = self
            .of(partition)?
            .into_iter()
            .map(|index| {
                let after = after.cloned();
                (index, self.ask(index, move |machine| machine.devices(after.as_ref(), count)))
            })
            .collect();
        let mut rows = Vec::new();
        for (index, asked) in asked {
            rows.extend(answer(&asked, ANSWER_MAX, &self.hub.partitions[index].name)?);
        }
        rows.sort_by(|a: &DeviceRow, b| a.location.device.cmp(&b.location.device));
        rows.truncate(count);
        Ok(rows)
    }

    /// What is known of a device, in the partition that it belongs to. Blocks for a moment.
    ///
    /// # Errors
    ///
    /// The partition does not work or answer now.
    pub fn find(&self, device: &DeviceId) -> Result<Option<DeviceRow>, NodeError> {
        let index = self.hub.route(device).index;
        let device = device.clone();
        let asked = self.ask(index, move |machine| machine.find(&device));
        answer(&asked, ANSWER_MAX, &self.hub.partitions[index].name)
    }

    /// Gives an order to a partition, or to all. It is done soon, and seen in
    /// [`Self::status`] and [`Self::events`]. Does not block.
    ///
    /// # Errors
    ///
    /// There is no such partition or partner, or the partition that was named does not work now.
    pub fn order(&self, partition: Option<&ControllerId>, order: Order) -> Result<(), NodeError> {
        let indices = self.of(partition)?;
        if let Order::Move { target: partner, .. }
        | Order::Pause { partner: Some(partner), .. }
        | Order::Resync(partner) = &order
            && !self.hub.config.partners.iter().any(|known| known.id == *partner)
        {
            return Err(NodeError::NoPartner(partner.clone()));
        }
        if let (Some(name), [index]) = (partition, &indices[..]) {
            let cause = self.hub.partitions[*index].gauges.error();
            if !cause.is_empty() {
                return Err(NodeError::Down { partition: name.clone(), cause });
            }
        }
        match (&order, partition) {
            (Order::Maintenance(on), None) => self.hub.maintenance.store(*on, Ordering::SeqCst),
            (Order::Pause { partner: None, paused }, None) => {
                self.hub.paused.store(*paused, Ordering::SeqCst);
            }
            _ => {}
        }
        for index in &indices {
            let order = match &order {
                Order::Move { devices, target } if !devices.is_empty() => {
                    let is_here = |device: &&DeviceId| {
                        partition.is_some() || self.hub.route(device).index == *index
                    };
                    let devices: Vec<_> = devices.iter().filter(is_here).cloned().collect();
                    if devices.is_empty() {
                        continue;
                    }
                    Order::Move { devices, target: target.clone() }
                }
                order => order.clone(),
            };
            self.hub.partitions[*index].queue.control(Work::Input(Input::Order(order)));
        }
        // The parameters are exchanged with the rest.
        if partition.is_none() && matches!(order, Order::Pause { .. } | Order::Resync(_)) {
            self.hub.shared().queue.control(Work::Input(Input::Order(order)));
        }
        self.hub.note(Note::Mode);
        Ok(())
    }

    /// Asks a device, wherever it is. `reply` is called once, on a thread of the controller, and
    /// must not block. Does not block.
    pub fn request(
        &self,
        device: DeviceId,
        deadline: Duration,
        payload: Vec<u8>,
        reply: Box<dyn FnOnce(Outcome) + Send>,
    ) {
        let hub = &self.hub;
        if payload.len() > crate::limits::PAYLOAD_MAX {
            let text = format!("{} bytes are more than a request may have", payload.len());
            return reply(Outcome::Refused(text));
        }
        let route = hub.route(&device);
        if route.mode == DispatchMode::Refuse {
            return reply(Outcome::Unknown);
        }
        if hub.is_closed.load(Ordering::SeqCst) {
            return reply(Outcome::Unreachable(NodeError::Closed.to_string()));
        }
        let number = hub.next_reply.fetch_add(1, Ordering::Relaxed);
        let reply: Reply = reply;
        locked(&hub.replies).insert(number, reply);
        let deadline = deadline.min(DEADLINE_MAX);
        let request = Request { id: number, device, deadline, payload };
        let input = Input::Request { origin: Origin::Local(number), request };
        if hub.partitions[route.index].queue.push(input).is_err() {
            hub.reply(number, Outcome::Busy { after: hub.full_for(route.index, None) });
        }
    }

    /// The same, but waits for what comes of it.
    #[must_use]
    pub fn request_and_wait(
        &self,
        device: DeviceId,
        deadline: Duration,
        payload: Vec<u8>,
    ) -> Outcome {
        let (told, outcome) = bounded(1);
        let reply = move |outcome| {
            let _late = told.send(outcome);
        };
        self.request(device, deadline, payload, Box::new(reply));
        // The partition keeps the deadline; this is for one that does not work.
        outcome.recv_timeout(deadline + ANSWER_MAX).unwrap_or(Outcome::TimedOut)
    }

    /// The shared parameters that are in use: their generation and their text.
    #[must_use]
    pub fn parameters(&self) -> (u64, String) {
        let environment = locked(&self.hub.environment);
        (environment.generation(), environment.text().to_owned())
    }

    /// Gives all controllers other parameters; gives their generation. They are in use here when
    /// this returns. Blocks until they are on disk.
    ///
    /// # Errors
    ///
    /// They are refused here already, or cannot follow what stands in the table, or the shared
    /// partition does not work now. After [`NodeError::Late`] they may still come into use, here
    /// and everywhere.
    pub fn set_parameters(&self, text: &str) -> Result<u64, NodeError> {
        let hub = &self.hub;
        let environment = locked(&hub.environment);
        environment.check(&hub.config, text).map_err(NodeError::Parameters)?;
        // A table that was lost has forgotten what partners still know.
        let in_use = environment.generation();
        drop(environment);
        let index = hub.partitions.len() - 1;
        let (me, text) = (hub.config.me.clone(), text.to_owned());
        let for_then = Arc::clone(hub);
        // Behind the commit and on the partition's thread, so that whoever waits too short a time
        // does not leave this controller as the only one that does not use them.
        let then = move |(_, record): &(u64, Option<Record>)| {
            let Some(record) = record else { return };
            for_then.apply(record);
            // So that partners hear of it at once.
            for_then.shared().queue.control(Work::Input(Input::Tick));
        };
        let question = move |machine: &mut dyn Machine| {
            let known = machine.get(kind::PARAMETERS, environment::KEY)?;
            let known = known.as_ref().map_or(0, generation_of);
            let generation = known.max(in_use).saturating_add(1);
            if generation > GENERATION_MAX {
                return Ok((generation, None));
            }
            let record = record(generation, &me, &text);
            machine.put(record.clone())?;
            let stands = machine.get(kind::PARAMETERS, environment::KEY)?;
            Ok((generation, stands.is_some_and(|stands| stands == record).then_some(record)))
        };
        let asked = self.ask_then(index, question, then);
        let (generation, record) = answer(&asked, ANSWER_MAX, &hub.partitions[index].name)?;
        if record.is_none() {
            return Err(NodeError::Parameters(
                "what stands in the table has so high a generation that nothing can follow it: \
                 remove the store of the shared partition wherever that stands"
                    .to_owned(),
            ));
        }
        Ok(generation)
    }

    /// What happens. All receivers take from the same queue; what nobody takes in time is dropped
    /// and counted: see [`Self::events_lost`].
    #[must_use]
    pub fn events(&self) -> Receiver<NodeEvent> {
        self.hub.events_taken.clone()
    }

    /// How many events were dropped.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.hub.events_lost.load(Ordering::Relaxed)
    }

    /// The dispatch table in use.
    #[must_use]
    pub fn dispatch(&self) -> Arc<Dispatch> {
        self.hub.dispatch()
    }

    /// Uses another dispatch table from now on, as a whole; gives its generation, one more than
    /// that of the table before. It moves no device by itself: those that belong elsewhere now
    /// are told so when they are heard of next.
    ///
    /// # Errors
    ///
    /// A rule names a partition that there is not here.
    pub fn set_dispatch(&self, table: Dispatch) -> Result<u64, NodeError> {
        let partitions = self.partitions();
        let mut known =
            self.hub.dispatch.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let generation = known.generation() + 1;
        let (rules, default) = (table.rules(), table.default_rule().clone());
        drop(table);
        let table = Dispatch::new(generation, rules, default, &partitions)
            .map_err(|error| NodeError::Dispatch(error.to_string()))?;
        *known = Arc::new(table);
        Ok(generation)
    }

    /// Ends all connections and threads. Devices stay registered: they find out, and go elsewhere
    /// if it lasts. Blocks a few seconds at most, but for a store that hangs, and for the
    /// `connect_timeout` of a partner that is being dialled.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.hub.is_closed.store(true, Ordering::SeqCst);
        if let Some(reactor) = self.reactor.take() {
            reactor.close();
        }
        for partition in &self.hub.partitions {
            partition.queue.control(Work::Close);
        }
        for jobs in self.jobs.drain(..) {
            let _gone = jobs.send(Job::Close);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread of the controller has panicked");
            }
        }
        let left: Vec<_> = locked(&self.hub.replies).drain().collect();
        for (_, reply) in left {
            reply(Outcome::TimedOut);
        }
    }

    /// Which partitions are meant.
    fn of(&self, partition: Option<&ControllerId>) -> Result<Vec<usize>, NodeError> {
        let Some(name) = partition else {
            return Ok((0..self.hub.of_devices().len()).collect());
        };
        let index = self.hub.index(name).filter(|index| *index < self.hub.of_devices().len());
        Ok(vec![index.ok_or_else(|| NodeError::NoPartition(name.clone()))?])
    }

    /// Asks a partition's machine, on its thread; what was seen is durable when the answer comes.
    fn ask<T: Send + 'static>(
        &self,
        index: usize,
        question: impl FnOnce(&mut dyn Machine) -> store::Result<T> + Send + 'static,
    ) -> Receiver<Result<T, String>> {
        self.ask_then(index, question, |_| ())
    }

    /// The same; `then` is done with the answer, on that thread, whether anybody waits for it or
    /// not.
    fn ask_then<T: Send + 'static>(
        &self,
        index: usize,
        question: impl FnOnce(&mut dyn Machine) -> store::Result<T> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Receiver<Result<T, String>> {
        let (told, answer) = bounded(1);
        let query = move |machine: Result<&mut dyn Machine, &str>| {
            let answer = match machine {
                Ok(machine) => Ok(question(machine)?),
                Err(error) => Err(error.to_owned()),
            };
            let tell = move || {
                if let Ok(answer) = &answer {
                    then(answer);
                }
                let _late = told.send(answer);
            };
            let after: Box<dyn FnOnce() + Send> = Box::new(tell);
            Ok(Some(after))
        };
        self.hub.partitions[index].queue.control(Work::Query(Box::new(query)));
        answer
    }

    fn now(&self) -> Millis {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

fn answer<T>(
    asked: &Receiver<Result<T, String>>,
    timeout: Duration,
    partition: &ControllerId,
) -> Result<T, NodeError> {
    match asked.recv_timeout(timeout) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(cause)) => Err(NodeError::Down { partition: partition.clone(), cause }),
        Err(RecvTimeoutError::Timeout) => Err(NodeError::Late(partition.clone())),
        Err(RecvTimeoutError::Disconnected) => {
            let cause = "its store has failed just now".to_owned();
            Err(NodeError::Down { partition: partition.clone(), cause })
        }
    }
}

fn add(to: &mut Counts, more: &Counts) {
    let pairs = [
        (&mut to.retries, more.retries),
        (&mut to.refused, more.refused),
        (&mut to.take_overs, more.take_overs),
        (&mut to.requests_served, more.requests_served),
        (&mut to.requests_forwarded, more.requests_forwarded),
        (&mut to.requests_not_here, more.requests_not_here),
        (&mut to.handed_over, more.handed_over),
        (&mut to.hand_overs_failed, more.hand_overs_failed),
        (&mut to.updates_sent, more.updates_sent),
        (&mut to.updates_received, more.updates_received),
        (&mut to.snapshots_sent, more.snapshots_sent),
        (&mut to.snapshots_received, more.snapshots_received),
        (&mut to.clashes, more.clashes),
    ];
    for (sum, more) in pairs {
        *sum += more;
    }
}
