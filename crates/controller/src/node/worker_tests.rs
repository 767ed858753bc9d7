//! The thread of a partition, with a machine that does what the test says.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded, unbounded};

use super::super::QueueConfig;
use super::super::bulk::Bulk;
use super::*;
use crate::shard::input::{FailBackPolicy, Pace};
use crate::wire::Place;
use crate::wire::client::{Request, Terms};
use crate::wire::peer::Forward;

const PATIENCE: Duration = Duration::from_secs(60);
const WHO: &str = "p";

/// What the thread lets out.
#[derive(Debug)]
enum Told {
    Say(ClientMessage),
    Tell(PeerMessage),
    Answer(Outcome),
    Event(NodeEvent),
}

struct Ears(Sender<Told>);

impl Outlet for Ears {
    fn say(&self, _: ConnId, message: &ClientMessage) {
        self.0.send(Told::Say(message.clone())).unwrap();
    }

    fn tell(&self, _: ConnId, message: &PeerMessage) {
        self.0.send(Told::Tell(message.clone())).unwrap();
    }

    fn answer(&self, _: u64, outcome: Outcome) {
        self.0.send(Told::Answer(outcome)).unwrap();
    }

    fn changed(&self, _: Record) {}

    fn event(&self, event: NodeEvent) {
        self.0.send(Told::Event(event)).unwrap();
    }

    fn relink(&self, _: &ControllerId) {}

    fn release(&self, _: &ControllerId, _: &ControllerId) {}
}

/// What the machines of all openings share with the test.
#[derive(Clone)]
struct Strings {
    seen: Sender<Input>,
    /// What the next commits come to, until there is no more.
    commits: Arc<Mutex<Vec<StoreError>>>,
    /// What the next openings come to, until there is no more.
    opens: Arc<Mutex<Vec<StoreError>>>,
    /// Held by the test while the machine is not to go on.
    gate: Arc<Mutex<()>>,
}

/// A batch that is under way in every machine.
fn batch() -> Event {
    let (target, stopped) = ("q".parse().unwrap(), String::new());
    Event::HandedOver { target, done: 3, failed: 2, skipped: 1, stopped }
}

struct Puppet(Strings);

impl Machine for Puppet {
    fn handle(
        &mut self,
        _: Millis,
        _: u32,
        input: Input,
        _: &mut Vec<Output>,
    ) -> store::Result<()> {
        if matches!(input, Input::Tick) {
            return Ok(());
        }
        self.0.seen.send(input).unwrap();
        drop(self.0.gate.lock().unwrap());
        Ok(())
    }

    fn commit(&mut self) -> store::Result<()> {
        self.0.commits.lock().unwrap().pop().map_or(Ok(()), Err)
    }

    fn status(&mut self, _: Millis, _: &mut PartitionStatus, _: &mut Counts) -> store::Result<()> {
        Ok(())
    }

    fn devices(&mut self, _: Option<&DeviceId>, _: usize) -> store::Result<Vec<DeviceRow>> {
        Ok(Vec::new())
    }

    fn find(&mut self, _: &DeviceId) -> store::Result<Option<DeviceRow>> {
        Ok(None)
    }

    fn put(&mut self, _: Record) -> store::Result<()> {
        Ok(())
    }

    fn get(&mut self, _: u16, _: &[u8]) -> store::Result<Option<Record>> {
        Ok(None)
    }

    fn lost(&mut self, _: &str) -> Vec<Event> {
        vec![batch()]
    }

    fn standpoint(&mut self, _: &ControllerId) -> store::Result<(Position, Option<Position>)> {
        Ok((Position { run: 1, lsn: 0 }, None))
    }
}

/// A table of which nothing can be read.
struct Rotten;

impl Snapshot for Rotten {
    fn read(
        &mut self,
        _: &mut dyn FnMut(&Record) -> std::io::Result<()>,
    ) -> store::Result<Position> {
        Err(StoreError::Damaged { what: "it".to_owned(), cause: "rot".to_owned() })
    }
}

/// A partition with both its threads.
struct Rig {
    queue: Arc<Queue>,
    jobs: Sender<Job>,
    told: Receiver<Told>,
    seen: Receiver<Input>,
    strings: Strings,
    /// For each opening after the first, whether the store had been found damaged.
    reopened: Receiver<bool>,
    folder: PathBuf,
    threads: Vec<JoinHandle<()>>,
}

impl Rig {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("evs-worker-{}-{name}", std::process::id()));
        let queue_config = QueueConfig { inputs_max: 100, bytes_max: 1 << 20 };
        let queue = Arc::new(Queue::new(queue_config));
        let (ears, told) = unbounded();
        let (tell_seen, seen) = unbounded();
        let (tell_open, reopened) = unbounded();
        let (jobs, jobs_taken) = bounded(16);
        let strings = Strings {
            seen: tell_seen,
            commits: Arc::default(),
            opens: Arc::default(),
            gate: Arc::default(),
        };
        let bulk = Bulk {
            partition: WHO.parse().unwrap(),
            queue: Arc::clone(&queue),
            path: path.clone(),
            bytes_max: 1 << 20,
        };
        let opening = |strings: &Strings| Opening {
            machine: Box::new(Puppet(strings.clone())),
            snapshots: Box::new(Rotten),
        };
        let (first, again) = (opening(&strings), strings.clone());
        let worker = Worker {
            partition: WHO.parse().unwrap(),
            index: 0,
            queue: Arc::clone(&queue),
            outlet: Arc::new(Ears(ears)),
            gauges: Arc::new(Gauges::new()),
            open: Box::new(move |_, _, is_damaged| {
                tell_open.send(std::mem::take(is_damaged)).unwrap();
                match again.opens.lock().unwrap().pop() {
                    Some(error) => Err(error),
                    None => Ok(opening(&again)),
                }
            }),
            settings: Arc::new(settings()),
            jobs: jobs.clone(),
            began: Instant::now(),
        };
        let threads = vec![
            std::thread::spawn(move || bulk.run(&jobs_taken)),
            std::thread::spawn(move || worker.run(Ok(first))),
        ];
        Self { queue, jobs, told, seen, strings, reopened, folder: path, threads }
    }

    fn fail_next_commit(&self) {
        let error = StoreError::Failed { what: "it".to_owned(), cause: "a test".to_owned() };
        self.strings.commits.lock().unwrap().push(error);
    }

    fn next_seen(&self) -> Input {
        self.seen.recv_timeout(PATIENCE).unwrap()
    }

    /// The first of what is let out that is looked for.
    fn told<T>(&self, what: impl Fn(Told) -> Option<T>) -> T {
        loop {
            if let Some(found) = what(self.told.recv_timeout(PATIENCE).unwrap()) {
                return found;
            }
        }
    }

    fn order(&self, order: Order) {
        self.queue.control(Work::Input(Input::Order(order)));
    }

    fn link(&self, input: Input) {
        let partner: ControllerId = WHO.parse().unwrap();
        let work = Work::Link { partner: partner.clone(), conn: 9, input };
        self.queue.push_partner(&partner, work).unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.queue.control(Work::Close);
        let _gone = self.jobs.send(Job::Close);
        for thread in self.threads.drain(..) {
            let _failed = thread.join();
        }
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

fn settings() -> Settings {
    Settings {
        terms: Terms {
            lease: Duration::from_secs(60),
            handshake_every: Duration::from_secs(10),
            misses: 3,
            generation: 0,
            alternates: Vec::new(),
        },
        places: Vec::new(),
        fail_back: FailBackPolicy::Manual,
        pace: Pace { per_second: 1, in_flight_max: 1, deadline: 1, failures_max_percent: 5 },
        keep_ends: 0,
        snapshot_from: 1,
        devices_max: 1,
        requests_max: 1,
    }
}

fn request(origin: Origin, deadline: Duration) -> Input {
    let device = "d".parse().unwrap();
    Input::Request { origin, request: Request { id: 0, device, deadline, payload: Vec::new() } }
}

fn forward(deadline: Duration) -> Input {
    let device = "d".parse().unwrap();
    let visited = Vec::new();
    let forward = Forward { id: 7, device, visited, seq: 1, deadline, payload: Vec::new() };
    Input::Forward { partner: WHO.parse().unwrap(), forward }
}

fn link_up() -> Input {
    let partner: ControllerId = WHO.parse().unwrap();
    let place = Place { controller: partner.clone(), addrs: Vec::new() };
    Input::LinkUp { partner, place, head: None, taken: None }
}

/// A device may have done what it was asked before the store failed: nobody is told otherwise.
#[test]
fn who_waits_when_the_store_fails_is_told_that_it_may_have_been_done() {
    let rig = Rig::new("waits");
    let long = Duration::from_secs(100);
    rig.link(link_up());
    rig.link(forward(long));
    rig.queue.push(request(Origin::Conn(1, 5), long)).unwrap();
    rig.queue.push(request(Origin::Local(6), long)).unwrap();
    for _ in 0..4 {
        rig.next_seen();
    }
    rig.fail_next_commit();
    let mut answers = 0;
    while answers < 3 {
        let outcome = rig.told(|told| match told {
            Told::Say(ClientMessage::Response { id: 5, outcome }) => Some(outcome),
            Told::Tell(PeerMessage::Result { id: 7, outcome }) => Some(outcome),
            Told::Answer(outcome) => Some(outcome),
            _ => None,
        });
        assert_eq!(outcome, Outcome::TimedOut);
        answers += 1;
    }
}

/// An operator's word holds for the partition, not for one opening of its store; and of each batch
/// of hand-overs people hear the end.
#[test]
fn what_an_operator_has_set_outlives_a_store_that_fails_and_no_batch_vanishes() {
    let rig = Rig::new("orders");
    let (a, all): (ControllerId, _) = ("a".parse().unwrap(), None);
    let pause =
        |partner: Option<&ControllerId>| Order::Pause { partner: partner.cloned(), paused: true };
    let set = [pause(all), pause(Some(&a)), Order::Maintenance(true), Order::StopHandOver];
    for order in &set {
        rig.order(order.clone());
    }
    let orders = |count: usize| -> Vec<_> {
        let order = |_| match rig.next_seen() {
            Input::Order(order) => order,
            other => panic!("{other:?}"),
        };
        (0..count).map(order).collect()
    };
    assert_eq!(orders(4), set);
    rig.fail_next_commit();
    let of_partition = |told| match told {
        Told::Event(NodeEvent::Partition { event, .. }) => Some(event),
        _ => None,
    };
    assert_eq!(rig.told(of_partition), batch());
    // There is no machine for a while.
    rig.order(Order::Move { devices: Vec::new(), target: a.clone() });
    match rig.told(of_partition) {
        Event::HandedOver { target, stopped, .. } => assert!(target == a && !stopped.is_empty()),
        other => panic!("{other:?}"),
    }
    assert!(!rig.reopened.recv_timeout(PATIENCE).unwrap());
    assert_eq!(orders(4), set);
    // What is taken back stays so.
    for order in [Order::Maintenance(false), Order::FailBack] {
        rig.order(order);
    }
    orders(2);
    rig.fail_next_commit();
    rig.reopened.recv_timeout(PATIENCE).unwrap();
    assert_eq!(orders(2), set[..2]);
}

/// Whoever reads the whole table finds damage first: the store is set aside all the same.
#[test]
fn damage_that_a_snapshot_finds_makes_the_partition_begin_anew() {
    let rig = Rig::new("damage");
    // Once it has seen something the snapshot thread has its table.
    rig.queue.push(Input::ConnLost { conn: 1 }).unwrap();
    rig.next_seen();
    let output = Output::BuildSnapshot { partner: WHO.parse().unwrap() };
    rig.jobs.send(Job::Do { opening: 0, output }).unwrap();
    let error = rig.told(|told| match told {
        Told::Event(NodeEvent::Fault { error, .. }) => Some(error),
        _ => None,
    });
    assert!(error.contains("rot"), "{error}");
    assert!(rig.reopened.recv_timeout(PATIENCE).unwrap(), "it is set aside");
}

/// Else the new store would be set aside too, until the damaged one is driven out and lost.
#[test]
fn a_damaged_store_is_set_aside_once_whatever_becomes_of_the_new_one() {
    let rig = Rig::new("aside");
    rig.queue.push(Input::ConnLost { conn: 1 }).unwrap();
    rig.next_seen();
    let (what, cause) = ("it".to_owned(), "a test".to_owned());
    let failed = StoreError::Failed { what: what.clone(), cause: cause.clone() };
    rig.strings.opens.lock().unwrap().push(failed);
    rig.strings.commits.lock().unwrap().push(StoreError::Damaged { what, cause });
    rig.queue.push(Input::ConnLost { conn: 2 }).unwrap();
    assert!(rig.reopened.recv_timeout(PATIENCE).unwrap(), "it is damaged");
    assert!(!rig.reopened.recv_timeout(PATIENCE).unwrap(), "it is set aside already");
}

/// What lay in the queue beyond its deadline does not get a second one there.
#[test]
fn a_deadline_runs_while_its_request_waits_for_its_turn() {
    let rig = Rig::new("deadline");
    let (short, long) = (Duration::from_millis(20), Duration::from_secs(1000));
    rig.link(link_up());
    rig.next_seen();
    let gate = rig.strings.gate.lock().unwrap();
    rig.queue.push(request(Origin::Local(1), long)).unwrap();
    rig.next_seen();
    // The machine is held now, and these wait behind it.
    rig.queue.push(request(Origin::Local(2), short)).unwrap();
    rig.queue.push(request(Origin::Local(3), Duration::MAX)).unwrap();
    rig.link(forward(short));
    let until = Instant::now() + short * 2;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(gate);
    for _ in 0..3 {
        match rig.next_seen() {
            Input::Request { origin: Origin::Local(3), request } => {
                let most = DEADLINE_MAX - short;
                assert!(request.deadline <= most, "{:?}", request.deadline);
            }
            Input::Request { request, .. } => assert_eq!(request.deadline, Duration::ZERO),
            Input::Forward { forward, .. } => assert_eq!(forward.deadline, Duration::ZERO),
            other => panic!("{other:?}"),
        }
    }
}
