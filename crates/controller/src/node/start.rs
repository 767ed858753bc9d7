//! How a controller is started: its stores are opened, its doors, and then its threads begin.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use eversock_socket::VirtualListener;

use super::admission::Admission;
use super::bulk::{Bulk, JOBS_MAX, Job};
use super::environment::{self, Environment};
use super::front::{DOOR, Front, PARTNERS};
use super::hub::{EVENTS_MAX, Hub, Note, Partition, locked};
use super::machine::ShardMachine;
use super::queue::{Queue, Work};
use super::status::PartnerStatus;
use super::worker::{Gauges, Open, Opening, Outlet, Worker};
use super::{Node, NodeConfig, NodeError, QueueConfig, SHARED};
use crate::conn::Reactor;
use crate::model::{ControllerId, Dispatch, DispatchMode, Dispatched, kind};
use crate::shard::input::Settings;
use crate::shard::{Shard, ShardConfig};
use crate::store::{self, Opens, StoreError};

/// A partition before its thread runs.
struct Opened {
    name: ControllerId,
    open: Open,
    settings: Arc<Settings>,
    result: store::Result<Opening>,
}

/// Starts everything.
pub(super) fn start(config: NodeConfig) -> Result<Node, NodeError> {
    config.check()?;
    let began = Instant::now();
    let mut environment = Environment::new(&config).map_err(NodeError::Parameters)?;
    let shared: ControllerId =
        SHARED.parse().map_err(|error| NodeError::System(format!("{error}")))?;
    environment.recall(&config, &config.opens.folder(&shared));
    let names = config.partition_names();
    let dispatch = dispatch(&config, &names)?;
    let door = listen(config.door.listen, config.door.socket.clone())?;
    let partner_door = match &config.partner_door {
        Some(door) => Some(listen(door.listen, door.socket.clone())?),
        None => None,
    };

    // The shared partition first: it knows what the others are to do.
    let of_shared = open_shared(&config, &shared, &mut environment)?;
    let mut opened = Vec::new();
    for name in &names {
        opened.push(open(&config, name, &environment)?);
    }
    opened.push(of_shared);

    let (notes, noted) = unbounded();
    let hub = Arc::new(hub(config, &opened, dispatch, environment, notes));
    let mut threads = Vec::new();
    let mut jobs = Vec::new();
    let running = run_all(&hub, opened, began, &mut threads, &mut jobs)
        .and_then(|()| connect(&hub, noted, door, partner_door));
    // What runs is ended by dropping it, if the rest does not.
    let mut node = Node {
        hub,
        reactor: None,
        threads,
        jobs,
        began,
        door: ([0, 0, 0, 0], 0).into(),
        partner_door: None,
    };
    let (reactor, door, partner_door) =
        running.map_err(|error| NodeError::System(error.to_string()))?;
    (node.reactor, node.door, node.partner_door) = (Some(reactor), door, partner_door);
    Ok(node)
}

fn listen(addr: SocketAddr, socket: eversock_engine::Config) -> Result<VirtualListener, NodeError> {
    VirtualListener::bind_with(addr, socket)
        .map_err(|error| NodeError::Listen { addr, cause: error.to_string() })
}

fn dispatch(config: &NodeConfig, names: &[ControllerId]) -> Result<Dispatch, NodeError> {
    let default = Dispatched { partition: config.me.clone(), mode: DispatchMode::Serve };
    let (rules, default) = match &config.dispatch {
        Some(table) => (table.rules(), table.default_rule().clone()),
        None => (Vec::new(), default),
    };
    let generation = config.dispatch.as_ref().map_or(1, |table| table.generation().max(1));
    Dispatch::new(generation, rules, default, names)
        .map_err(|error| NodeError::Dispatch(error.to_string()))
}

fn open_shared(
    config: &NodeConfig,
    shared: &ControllerId,
    environment: &mut Environment,
) -> Result<Opened, NodeError> {
    let mut opened = open(config, shared, environment)?;
    if let Ok(opening) = &mut opened.result {
        match opening.machine.get(kind::PARAMETERS, environment::KEY) {
            Ok(Some(record)) => {
                let applied = environment.apply(config, &record);
                log::info!("the parameters of the table: {applied:?}");
            }
            Ok(None) => {}
            Err(error) => opened.result = Err(error),
        }
    }
    opened.settings = Arc::new(environment.settings(config, shared));
    Ok(opened)
}

/// Opens a partition for the first time. What another process holds, or what is no store, is for
/// people to look at; the rest is tried again later.
fn open(
    config: &NodeConfig,
    name: &ControllerId,
    environment: &Environment,
) -> Result<Opened, NodeError> {
    let settings = Arc::new(environment.settings(config, name));
    let mut open = opens(config, name);
    let mut is_damaged = false;
    let mut result = open(0, &settings, &mut is_damaged);
    if matches!(result, Err(StoreError::Damaged { .. })) {
        if let Err(error) = &result {
            log::error!("partition {name}: {error}; it is set aside, and the partners are asked");
        }
        is_damaged = true;
        result = open(0, &settings, &mut is_damaged);
    }
    match result {
        Err(error @ (StoreError::Held { .. } | StoreError::Foreign { .. })) => {
            Err(NodeError::Store { partition: name.clone(), cause: error.to_string() })
        }
        result => Ok(Opened { name: name.clone(), open, settings, result }),
    }
}

/// How the store of a partition is opened, each time.
fn opens(config: &NodeConfig, name: &ControllerId) -> Open {
    let (me, home) = (config.me.clone(), name.clone());
    let partners: Vec<_> = config.partners.iter().map(|partner| partner.id.clone()).collect();
    let opens: Arc<dyn Opens> = Arc::clone(&config.opens);
    Box::new(move |now, settings, is_damaged| {
        if *is_damaged {
            opens.set_aside(&home)?;
            // Another time it would be the new one that goes, and drive the damaged one out.
            *is_damaged = false;
        }
        let store = opens.open(&home)?;
        let snapshots = store.snapshots()?;
        let config = ShardConfig {
            me: me.clone(),
            partition: home.clone(),
            partners: partners.clone(),
            seed: random_u64(),
        };
        let shard = Shard::open(config, Arc::clone(settings), store, now)?;
        let machine = Box::new(ShardMachine { shard, home: home.clone() });
        Ok(Opening { machine, snapshots })
    })
}

fn hub(
    config: NodeConfig,
    opened: &[Opened],
    dispatch: Dispatch,
    environment: Environment,
    notes: Sender<Note>,
) -> Hub {
    let now = Instant::now();
    let rate = config.door.registrations_per_second;
    let partition = |one: &Opened| {
        let special = environment::special(&config, &one.name);
        let queue = special.map_or_else(QueueConfig::default, |special| special.queue);
        Partition {
            name: one.name.clone(),
            queue: Arc::new(Queue::new(queue)),
            gauges: Arc::new(Gauges::new()),
            full: Mutex::new(Admission::new(rate, now)),
        }
    };
    let status = |partner: &super::PartnerConfig| {
        let status = PartnerStatus {
            partner: partner.id.clone(),
            state: "down",
            error: String::new(),
            since: Duration::ZERO,
            round_trip: None,
            is_cut: false,
            maintenance: false,
            generation: 0,
            generation_refused: String::new(),
            clock_ahead_ms: 0,
            queued_bytes: 0,
        };
        (status, now, None)
    };
    let (events, events_taken) = bounded(EVENTS_MAX);
    Hub {
        partitions: opened.iter().map(partition).collect(),
        reactor: OnceLock::new(),
        dispatch: RwLock::new(Arc::new(dispatch)),
        environment: Mutex::new(environment),
        kept: Mutex::new(0),
        notes,
        events,
        events_taken,
        events_lost: AtomicU64::new(0),
        replies: Mutex::new(HashMap::new()),
        next_reply: AtomicU64::new(1),
        board: Mutex::new(config.partners.iter().map(status).collect()),
        connections: AtomicUsize::new(0),
        retries: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        maintenance: AtomicBool::new(false),
        paused: AtomicBool::new(false),
        is_closed: AtomicBool::new(false),
        config,
    }
}

/// Starts the threads of all partitions.
fn run_all(
    hub: &Arc<Hub>,
    opened: Vec<Opened>,
    began: Instant,
    threads: &mut Vec<JoinHandle<()>>,
    jobs: &mut Vec<Sender<Job>>,
) -> io::Result<()> {
    for ((index, one), partition) in (0..).zip(opened).zip(&hub.partitions) {
        let Opened { name, open, settings, result } = one;
        let (sender, receiver) = bounded(JOBS_MAX);
        let bulk = Bulk {
            partition: name.clone(),
            queue: Arc::clone(&partition.queue),
            path: hub.config.opens.folder(&name),
            bytes_max: hub.config.snapshot_bytes_max,
        };
        let thread = thread::Builder::new()
            .name(format!("bulk-{:.10}", name.as_str()))
            .spawn(move || bulk.run(&receiver))?;
        threads.push(thread);
        jobs.push(sender.clone());
        let outlet: Arc<dyn Outlet> = Arc::<Hub>::clone(hub);
        let worker = Worker {
            partition: name.clone(),
            index,
            queue: Arc::clone(&partition.queue),
            outlet,
            gauges: Arc::clone(&partition.gauges),
            open,
            settings,
            jobs: sender,
            began,
        };
        let thread = thread::Builder::new()
            .name(format!("part-{:.10}", name.as_str()))
            .spawn(move || worker.run(result));
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                partition.queue.control(Work::Close);
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Opens the doors, and begins to dial.
fn connect(
    hub: &Arc<Hub>,
    notes: Receiver<Note>,
    door: VirtualListener,
    partner_door: Option<VirtualListener>,
) -> io::Result<(crate::conn::ReactorThread, SocketAddr, Option<SocketAddr>)> {
    let door_addr = door.local_addr()?;
    let partner_addr = partner_door.as_ref().map(VirtualListener::local_addr).transpose()?;
    let mut addrs = hub.config.door.advertised.clone();
    if addrs.is_empty() {
        if door_addr.ip().is_unspecified() {
            log::warn!(
                "partners are not told where devices come: the door has no address of its own"
            );
        } else {
            addrs.push(door_addr);
        }
    }
    let place = crate::wire::Place { controller: hub.config.me.clone(), addrs: addrs.clone() };
    locked(&hub.environment).place(place);
    let (for_front, boot) = (Arc::clone(hub), random_u128());
    let (reactor, thread) = Reactor::start("controller", move |reactor| {
        let _known = for_front.reactor.set(reactor.clone());
        Front::new(for_front, notes, reactor, addrs, boot, Instant::now())
    })?;
    let _known = hub.reactor.set(reactor.clone());
    if let (Some(listener), Some(config)) = (partner_door, &hub.config.partner_door) {
        reactor.listen(listener, PARTNERS, config.connections_max);
    }
    reactor.listen(door, DOOR, hub.config.door.connections_max);
    reactor.wake();
    Ok((thread, door_addr, partner_addr))
}

fn random_u64() -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = random_u128().to_le_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn random_u128() -> u128 {
    use ring::rand::SecureRandom;
    let mut bytes = [0; 16];
    if ring::rand::SystemRandom::new().fill(&mut bytes).is_err() {
        // Only so that two starts differ.
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        bytes = since.as_nanos().to_le_bytes();
    }
    u128::from_le_bytes(bytes)
}
