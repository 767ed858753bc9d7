//! A process that is a controller, its devices or a flood of them, told what to do line by line, as
//! the children of other measurements are. It ends as in a crash: nothing is closed.

use std::io::{self, BufRead as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use eversock_controller::device::{Fleet, FleetConfig, Policy as DevicePolicy};
use eversock_controller::model::{
    ControllerId, DeviceId, Dispatch, DispatchMode, Dispatched, Location, Pattern, Standing,
};
use eversock_controller::node::{
    Dial, DoorConfig, Node, NodeConfig, PartnerConfig, PartnerDoorConfig,
};
use eversock_controller::shard::output::SyncState;
use eversock_controller::store::sqlite::SqliteStores;
use eversock_controller::store::{Opens as _, Quota};
use eversock_controller::wire::{Place, Role};

use super::HOME;
use super::client::{Client, Tried, device};
use crate::child::answer;
use crate::usage::{self, monotonic_ns};

/// Longer than any measurement, so that no registration ends by itself.
const LEASE: Duration = Duration::from_secs(24 * 3600);
/// Between looks.
const LOOK: Duration = Duration::from_micros(200);
/// Records of a transaction.
const BATCH: usize = 1000;

/// What this process is.
#[derive(Debug, Default)]
struct Worker {
    node: Option<Node>,
    flood: Option<Flood>,
}

/// Obeys until its input ends.
pub(crate) fn worker() -> io::Result<()> {
    let mut worker = Worker::default();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        answer(&worker.obey(&words)?)?;
    }
    std::process::exit(0);
}

impl Worker {
    fn obey(&mut self, words: &[&str]) -> io::Result<String> {
        let done = || "1".to_owned();
        match *words {
            ["fill", name, count, folder] => {
                fill(&id(name)?, number(count)?, Path::new(folder))?;
                Ok(done())
            }
            ["node", name, rate, partner, addr, folder] => {
                let addrs = if addr == "-" { Vec::new() } else { vec![address(addr)?] };
                let config = config(id(name)?, number(rate)?, (id(partner)?, addrs), folder)?;
                let node = Node::start(config).map_err(io::Error::other)?;
                let (door, partners) = (node.local_addr(), node.partner_addr());
                let partners = partners.ok_or(io::ErrorKind::AddrNotAvailable)?;
                self.node = Some(node);
                Ok(format!("{door} {partners}"))
            }
            ["stat"] => stat(self.node()?),
            ["await", device, seq] => until_known(self.node()?, device, number(seq)?),
            ["forget-memory"] => {
                // The kernel counts the most that is resident anew.
                std::fs::write("/proc/self/clear_refs", "5")?;
                Ok(done())
            }
            ["fleet", count, door] => fleet(number(count)?, address(door)?),
            ["flood", manners, senders, door] => {
                self.flood = Some(Flood::start(manners, number(senders)?, address(door)?)?);
                Ok(done())
            }
            ["dam"] => {
                let flood = self.flood.take().ok_or(io::ErrorKind::NotFound)?;
                flood.stop()
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, words.join(" "))),
        }
    }

    fn node(&self) -> io::Result<&Node> {
        self.node.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn config(
    me: ControllerId,
    rate: u32,
    (partner, addrs): (ControllerId, Vec<SocketAddr>),
    folder: &str,
) -> io::Result<NodeConfig> {
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let door = DoorConfig { registrations_per_second: rate, ..DoorConfig::new(any) };
    let stores = SqliteStores::new(Path::new(folder), Quota::default());
    let mut config = NodeConfig::new(me.clone(), door, Arc::new(stores));
    config.insecure = true;
    let socket = eversock::Config::default();
    config.partner_door =
        Some(PartnerDoorConfig { listen: any, socket: socket.clone(), connections_max: 64 });
    let dial = if addrs.is_empty() { Dial::Never } else { Dial::Always };
    config.partners = vec![PartnerConfig { id: partner.clone(), addrs, socket, dial, key: None }];
    config.policy.lease = LEASE;
    config.policy.devices_max = 4_000_000;
    config.policy.snapshot_from = 10_000;
    // Devices belong to the controller that their names begin with.
    let to =
        |home: &ControllerId| Dispatched { partition: home.clone(), mode: DispatchMode::Serve };
    let rule = |home: &ControllerId| (Pattern::Prefix(format!("{home}-")), to(home));
    let rules = vec![rule(&me), rule(&partner)];
    let names = config.partition_names();
    let dispatch = Dispatch::new(1, rules, to(&me), &names).map_err(io::Error::other)?;
    config.dispatch = Some(dispatch);
    Ok(config)
}

fn stat(node: &Node) -> io::Result<String> {
    let status = node.status();
    let home = status.partitions.iter().find(|partition| partition.name == HOME);
    let home = home.ok_or(io::ErrorKind::NotFound)?;
    if let Some(broken) = status.partitions.iter().find(|partition| !partition.error.is_empty()) {
        return Err(io::Error::other(format!("{}: {}", broken.name, broken.error)));
    }
    let mut syncs = status.partitions.iter().flat_map(|partition| &partition.sync);
    let in_sync = status.partners.iter().all(|partner| partner.state == "up")
        && syncs.all(|sync| sync.state == SyncState::InSync);
    Ok(format!(
        "{} {} {} {} {} {} {}",
        home.records,
        home.bytes,
        status.counts.retries,
        usage::resident_now_bytes(),
        usage::resident_most_bytes(),
        u8::from(in_sync),
        usage::usage().cpu.as_secs_f64(),
    ))
}

/// Looks until the device's registration is known here; gives when that was.
fn until_known(node: &Node, device: &str, seq: u64) -> io::Result<String> {
    let device: DeviceId = device.parse().map_err(io::Error::other)?;
    let until = Instant::now() + Duration::from_secs(50);
    while Instant::now() < until {
        let found = node.find(&device).map_err(io::Error::other)?;
        if found.is_some_and(|row| row.location.seq >= seq) {
            return Ok(monotonic_ns().to_string());
        }
        thread::sleep(LOOK);
    }
    Err(io::Error::other(format!("{device} is not known")))
}

/// Registrations with the counter 1, of devices that are called after their numbers.
fn fill(name: &ControllerId, count: usize, folder: &Path) -> io::Result<()> {
    let stores = SqliteStores::new(folder, Quota::default());
    let mut store = stores.open(name).map_err(io::Error::other)?;
    for number in 0..count {
        let location = Location {
            device: device(name.as_str(), &number.to_string())?,
            owner: name.clone(),
            seq: 1,
            version: 1,
            standing: Standing::Registered,
            nonce: 1,
            lease: LEASE,
            generation: 0,
            address: Vec::new(),
        };
        store.put(&location.to_record(), None).map_err(io::Error::other)?;
        if number % BATCH == BATCH - 1 {
            store.commit().map_err(io::Error::other)?;
        }
    }
    store.commit().map_err(io::Error::other)
}

/// All of the devices that a table was filled with come at once; waits until all are served. Gives
/// the seconds that took, the longest and the median that a device had to wait, how many attempts
/// failed and the seconds of processor time.
fn fleet(count: usize, door: SocketAddr) -> io::Result<String> {
    let names = (0..count).map(|number| device(HOME, &number.to_string()));
    let devices: Vec<DeviceId> = names.collect::<io::Result<_>>()?;
    let mut policy = DevicePolicy::new(vec![Place { controller: id(HOME)?, addrs: vec![door] }]);
    policy.start_within = 0;
    policy.lease = LEASE;
    let mut config = FleetConfig::new(devices, policy);
    config.counter = Some(1);
    let began = Instant::now();
    let fleet = Fleet::start(config).map_err(io::Error::other)?;
    let until = began + Duration::from_secs(1000);
    while fleet.registered() < count {
        let status = fleet.status();
        if !status.failure.is_empty() || Instant::now() > until {
            return Err(io::Error::other(format!("not all are registered: {status:?}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
    let took = began.elapsed().as_secs_f64();
    let status = fleet.status();
    let answer = format!(
        "{took} {} {} {} {}",
        status.took.longest().as_secs_f64(),
        status.took.quantile(50.0).as_secs_f64(),
        status.failures,
        usage::usage().cpu.as_secs_f64(),
    );
    // Its devices stay registered for as long as this process runs.
    drop(thread::spawn(move || {
        let _fleet = fleet;
        loop {
            thread::park();
        }
    }));
    Ok(answer)
}

/// Senders that register devices of the partner's, one after the other without a pause.
#[derive(Debug)]
struct Flood {
    is_over: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    registered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Flood {
    /// `rude` ones come back at once, `patient` ones when they were told to; those that are
    /// `elsewhere` ask a thread of this process that has nothing to do with any controller.
    fn start(manners: &str, senders: usize, door: SocketAddr) -> io::Result<Self> {
        let mut flood = Self {
            is_over: Arc::default(),
            answers: Arc::default(),
            registered: Arc::default(),
            threads: Vec::new(),
        };
        let (elsewhere, asked) = mpsc::channel::<mpsc::Sender<()>>();
        flood.threads.push(thread::spawn(move || {
            for reply in asked {
                let _gone = reply.send(());
            }
            Ok(())
        }));
        for number in 0..senders {
            let sender = Sender {
                is_over: Arc::clone(&flood.is_over),
                answers: Arc::clone(&flood.answers),
                registered: Arc::clone(&flood.registered),
            };
            let elsewhere = elsewhere.clone();
            let is_patient = manners == "patient";
            flood.threads.push(match manners {
                "elsewhere" => thread::spawn(move || sender.ask_elsewhere(&elsewhere)),
                _ => {
                    let client = Client::new(door, Role::Device)?;
                    thread::spawn(move || sender.register(client, number, is_patient))
                }
            });
        }
        Ok(flood)
    }

    /// How many answers there were, and how many of them were registrations.
    fn stop(self) -> io::Result<String> {
        self.is_over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().map_err(|_| io::Error::other("a sender has panicked"))??;
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Ok(format!("{} {}", count(&self.answers), count(&self.registered)))
    }
}

#[derive(Debug)]
struct Sender {
    is_over: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    registered: Arc<AtomicU64>,
}

impl Sender {
    fn register(&self, mut client: Client, number: usize, is_patient: bool) -> io::Result<()> {
        let run = monotonic_ns();
        for count in 0.. {
            let device = device(super::PARTNER, &format!("flood-{run}-{number}-{count}"))?;
            loop {
                if self.is_over.load(Ordering::SeqCst) {
                    return Ok(());
                }
                let tried = client.try_to_register(&device, 1)?;
                self.answers.fetch_add(1, Ordering::Relaxed);
                match tried {
                    Tried::Done => break,
                    Tried::Later(after) if is_patient => self.rest(after),
                    Tried::Later(_) => {}
                }
            }
            self.registered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// So long, unless it is over.
    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_over.load(Ordering::SeqCst) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    fn ask_elsewhere(&self, thread: &mpsc::Sender<mpsc::Sender<()>>) -> io::Result<()> {
        let (tell, told) = mpsc::channel();
        while !self.is_over.load(Ordering::SeqCst) {
            thread.send(tell.clone()).map_err(io::Error::other)?;
            told.recv().map_err(io::Error::other)?;
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn id(name: &str) -> io::Result<ControllerId> {
    name.parse().map_err(io::Error::other)
}

fn address(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(io::Error::other)
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::other(format!("no number: {text}")))
}
