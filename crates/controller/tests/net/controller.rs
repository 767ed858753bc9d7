//! The process of a controller.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use eversock_controller::limits::BATCH_MAX;
use eversock_controller::model::{Dispatch, DispatchMode, Dispatched, Pattern, Record};
use eversock_controller::node::status::DeviceRow;
use eversock_controller::node::{
    Dial, DoorConfig, LinkConfig, Node, NodeConfig, NodeError, NodeEvent, PartnerConfig,
    PartnerDoorConfig,
};
use eversock_controller::report::{Report, sync_state};
use eversock_controller::shard::{Event, Order};
use eversock_controller::store::sqlite::SqliteStores;
use eversock_controller::store::{Opens, Quota};
use eversock_engine::StaticKey;
use serde::{Deserialize, Serialize};

use crate::child::{heard, say};
use crate::site::{CONTROLLERS, device, door, id, key, partner_door, place, socket, wait_for};

/// What a controller is started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) partners: Vec<String>,
    /// Of them, those that are not dialled whatever their names.
    pub(crate) passive: Vec<String>,
    pub(crate) parameters: String,
    /// Records of a kind that nobody knows yet that are put into its table of `a` before it starts:
    /// how many, and of how many bytes.
    pub(crate) strange: (u32, usize),
}

/// A device as a table has it: its name, its owner, the counter, the owner's version, whether it
/// stands, and whether it is connected here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) device: String,
    pub(crate) home: String,
    pub(crate) owner: String,
    pub(crate) seq: u64,
    pub(crate) stands: bool,
    pub(crate) is_connected: bool,
}

/// What has happened, with the milliseconds since the process began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Happened {
    pub(crate) at: u64,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    Owner {
        device: String,
        before: Option<String>,
        now: String,
        seq: u64,
    },
    Clash {
        device: String,
    },
    Sync {
        partition: String,
        partner: String,
        state: String,
    },
    HandedOver {
        target: String,
        done: u64,
        failed: u64,
        stopped: String,
    },
    Link {
        partner: String,
        state: String,
        error: String,
    },
    Skew {
        partner: String,
        ahead_ms: i64,
    },
    /// The test has given an order.
    Ordered,
    Other(String),
}

/// Of the records that nobody knows yet.
pub(crate) const STRANGE: u16 = 0x7e57;

pub(crate) fn run(setup: &str) {
    let setup: Setup = serde_json::from_str(setup).unwrap();
    let stores = SqliteStores::new(&setup.folder, Quota::default());
    put_strange(&stores, setup.strange);
    let node = start(&config(&setup, stores));
    let happened = collect(&node);
    say("ready");
    while let Some(line) = heard() {
        let words: Vec<&str> = line.splitn(2, ' ').collect();
        let answer = match words[..] {
            ["status"] => serde_json::to_string(&Report::from(node.status())).unwrap(),
            ["digest"] => digest(&node),
            ["table"] => serde_json::to_string(&table(&node)).unwrap(),
            ["events"] => {
                serde_json::to_string(&std::mem::take(&mut happened.all.lock().unwrap().1)).unwrap()
            }
            ["parameters", text] => {
                happened.put(What::Ordered);
                node.set_parameters(&serde_json::from_str::<String>(text).unwrap()).unwrap();
                String::new()
            }
            ["fail-back", partition] => {
                happened.put(What::Ordered);
                node.order(Some(&id(partition)), Order::FailBack).unwrap();
                String::new()
            }
            ["move", what] => {
                let (devices, target) = what.rsplit_once(' ').unwrap();
                let devices = devices.split(' ').map(device).collect();
                node.order(None, Order::Move { devices, target: id(target) }).unwrap();
                String::new()
            }
            ["close"] => break,
            _ => panic!("no command {line:?}"),
        };
        say(&answer);
    }
    node.close();
}

fn config(setup: &Setup, stores: SqliteStores) -> NodeConfig {
    let me = setup.name.as_str();
    let mut door = DoorConfig::new(door(me));
    door.socket = socket();
    let mut config = NodeConfig::new(id(me), door, Arc::new(stores));
    let mut socket_in = socket();
    socket_in.identity = Some(key(me));
    let keys = setup.partners.iter().map(|partner| key(partner));
    socket_in.allowed_clients = Some(keys.map(|key: StaticKey| key.public()).collect());
    config.partner_door = Some(PartnerDoorConfig {
        listen: partner_door(me),
        socket: socket_in,
        connections_max: 16,
    });
    let partner = |partner: &String| {
        let mut socket_out = socket();
        socket_out.identity = Some(key(me));
        socket_out.server_key = Some(key(partner).public());
        PartnerConfig {
            id: id(partner),
            addrs: vec![partner_door(partner)],
            socket: socket_out,
            dial: if setup.passive.contains(partner) { Dial::Never } else { Dial::Auto },
            key: Some(key(partner).public()),
        }
    };
    config.partners = setup.partners.iter().map(partner).collect();
    let others = CONTROLLERS.iter().filter(|other| **other != me);
    config.known = others.clone().map(|other| place(other)).collect();
    // All have all partitions, also those of controllers that are no partners of theirs.
    config.partitions =
        others.map(|other| eversock_controller::node::PartitionConfig::new(id(other))).collect();
    let to = |home: &str| Dispatched { partition: id(home), mode: DispatchMode::Serve };
    let rules = CONTROLLERS.iter().map(|home| (Pattern::Prefix(format!("{home}-")), to(home)));
    let names = config.partition_names();
    config.dispatch = Some(Dispatch::new(1, rules.collect(), to(me), &names).unwrap());
    config.link = LinkConfig {
        ping_every: Duration::from_millis(500),
        silence_max: Duration::from_secs(4),
        retry_first: Duration::from_millis(50),
        retry_most: Duration::from_millis(500),
    };
    config.parameters.clone_from(&setup.parameters);
    config
}

/// As soon as the one before has left its addresses.
fn start(config: &NodeConfig) -> Node {
    let mut node = None;
    wait_for("the address is free", || {
        match Node::start(config.clone()) {
            Ok(started) => node = Some(started),
            Err(NodeError::Listen { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        node.is_some()
    });
    node.unwrap()
}

fn put_strange(stores: &SqliteStores, (count, bytes): (u32, usize)) {
    if count == 0 {
        return;
    }
    let mut store = stores.open(&id("a")).unwrap();
    for number in 0..count {
        let body = vec![u8::try_from(number % 251).unwrap(); bytes];
        let (key, rank) = (number.to_be_bytes().to_vec(), vec![1]);
        store.put(&Record { kind: STRANGE, key, rank, body }, None).unwrap();
    }
    store.commit().unwrap();
}

/// All rows of all partitions.
fn rows(node: &Node) -> Vec<DeviceRow> {
    let mut rows = Vec::new();
    for partition in node.partitions() {
        let mut after = None;
        loop {
            let more = node.devices(Some(&partition), after.as_ref(), BATCH_MAX).unwrap();
            after = more.last().map(|row| row.location.device.clone());
            if after.is_none() {
                break;
            }
            rows.extend(more);
        }
    }
    rows.sort_by(|a, b| a.location.device.cmp(&b.location.device));
    rows
}

/// Of all that all controllers must have alike.
fn digest(node: &Node) -> String {
    let mut sum = ring::digest::Context::new(&ring::digest::SHA256);
    for row in rows(node) {
        sum.update(format!("{} {:?}\n", row.home, row.location).as_bytes());
    }
    // Records of other kinds are counted at least.
    let mut partitions = node.status().partitions;
    partitions.retain(|partition| CONTROLLERS.contains(&partition.name.as_str()));
    partitions.sort_by(|a, b| a.name.cmp(&b.name));
    for partition in partitions {
        sum.update(format!("{} {}\n", partition.name, partition.records).as_bytes());
    }
    sum.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn table(node: &Node) -> Vec<Entry> {
    let entry = |row: DeviceRow| Entry {
        stands: row.location.stands(),
        device: row.location.device.to_string(),
        home: row.home.to_string(),
        owner: row.location.owner.to_string(),
        seq: row.location.seq,
        is_connected: row.is_connected,
    };
    rows(node).into_iter().map(entry).collect()
}

#[derive(Clone)]
struct Events {
    all: Arc<Mutex<(Instant, Vec<Happened>)>>,
}

impl Events {
    fn put(&self, what: What) {
        let mut all = self.all.lock().unwrap();
        let at = u64::try_from(all.0.elapsed().as_millis()).unwrap();
        all.1.push(Happened { at, what });
    }
}

fn collect(node: &Node) -> Events {
    let happened = Events { all: Arc::new(Mutex::new((Instant::now(), Vec::new()))) };
    let (events, into) = (node.events(), happened.clone());
    thread::spawn(move || events.iter().for_each(|event| into.put(what(event))));
    happened
}

fn what(event: NodeEvent) -> What {
    match event {
        NodeEvent::Partition { partition, event } => match event {
            Event::Owner { device, before, now, seq } => What::Owner {
                device: device.to_string(),
                before: before.map(|owner| owner.to_string()),
                now: now.to_string(),
                seq,
            },
            Event::Clash { device, .. } => What::Clash { device: device.to_string() },
            Event::Sync { partner, state } => What::Sync {
                partition: partition.to_string(),
                partner: partner.to_string(),
                state: sync_state(state).to_owned(),
            },
            Event::HandedOver { target, done, failed, stopped, .. } => {
                What::HandedOver { target: target.to_string(), done, failed, stopped }
            }
            event => What::Other(format!("{event:?}")),
        },
        NodeEvent::Link { partner, state, error } => {
            What::Link { partner: partner.to_string(), state: state.to_owned(), error }
        }
        NodeEvent::Skew { partner, ahead_ms } => {
            What::Skew { partner: partner.to_string(), ahead_ms }
        }
        event => What::Other(format!("{event:?}")),
    }
}
