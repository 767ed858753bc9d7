//! One partition that is overloaded, or whose store fails: the others do not notice.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use eversock_controller::model::{ControllerId, Record};
use eversock_controller::node::{NodeEvent, PartitionConfig, QueueConfig};
use eversock_controller::store::memory::MemOpens;
use eversock_controller::store::{
    Opens, Position, Result, Row, Snapshot, Store, StoreError, Totals,
};
use eversock_controller::wire::client::{ClientMessage, Outcome};

use crate::common::{
    Client, Sites, begin, device, id, is_linked, known, wait_for, wait_linked, wait_owner,
};

/// What happens at the next commit of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// It waits until the trouble is over.
    Waits,
    Fails,
    Panics,
    IsDamaged,
}

/// Stores that get into trouble.
struct Troubled {
    stores: Arc<MemOpens>,
    of: ControllerId,
    trouble: Arc<(Mutex<Trouble>, Condvar)>,
    set_aside: Mutex<u32>,
}

impl Troubled {
    fn new(stores: &Arc<MemOpens>, of: &str) -> Arc<Self> {
        Arc::new(Self {
            stores: Arc::clone(stores),
            of: id(of),
            trouble: Arc::new((Mutex::new(Trouble::None), Condvar::new())),
            set_aside: Mutex::new(0),
        })
    }

    fn set(&self, trouble: Trouble) {
        *self.trouble.0.lock().unwrap() = trouble;
        self.trouble.1.notify_all();
    }
}

impl Opens for Troubled {
    fn open(&self, partition: &ControllerId) -> Result<Box<dyn Store>> {
        let store = self.stores.open(partition)?;
        if *partition != self.of {
            return Ok(store);
        }
        Ok(Box::new(TroubledStore { store, trouble: Arc::clone(&self.trouble) }))
    }

    fn set_aside(&self, partition: &ControllerId) -> Result<()> {
        *self.set_aside.lock().unwrap() += 1;
        self.stores.set_aside(partition)
    }

    fn folder(&self, partition: &ControllerId) -> PathBuf {
        self.stores.folder(partition)
    }
}

struct TroubledStore {
    store: Box<dyn Store>,
    trouble: Arc<(Mutex<Trouble>, Condvar)>,
}

impl Store for TroubledStore {
    fn run(&self) -> u128 {
        self.store.run()
    }

    fn head(&self) -> u64 {
        self.store.head()
    }

    fn floor(&self) -> u64 {
        self.store.floor()
    }

    fn reaches(&self, position: Position) -> Result<bool> {
        self.store.reaches(position)
    }

    fn get(&mut self, kind: u16, key: &[u8]) -> Result<Option<Row>> {
        self.store.get(kind, key)
    }

    fn put(&mut self, record: &Record, from: Option<&ControllerId>) -> Result<u64> {
        self.store.put(record, from)
    }

    fn changes(&mut self, after: u64, count: usize, bytes: usize) -> Result<Vec<Row>> {
        self.store.changes(after, count, bytes)
    }

    fn count_after(&mut self, after: u64, most: u64) -> Result<u64> {
        self.store.count_after(after, most)
    }

    fn scan(&mut self, after: Option<(u16, &[u8])>, count: usize) -> Result<Vec<Row>> {
        self.store.scan(after, count)
    }

    fn purge(&mut self, rows: &[(u16, Vec<u8>, u64)]) -> Result<()> {
        self.store.purge(rows)
    }

    fn taken(&mut self, partner: &ControllerId) -> Result<Option<Position>> {
        self.store.taken(partner)
    }

    fn set_taken(&mut self, partner: &ControllerId, position: Option<Position>) -> Result<()> {
        self.store.set_taken(partner, position)
    }

    fn totals(&mut self) -> Result<Totals> {
        self.store.totals()
    }

    fn commit(&mut self) -> Result<()> {
        let (mutex, changed) = &*self.trouble;
        let mut trouble = mutex.lock().unwrap();
        while *trouble == Trouble::Waits {
            trouble = changed.wait(trouble).unwrap();
        }
        let now = std::mem::replace(&mut *trouble, Trouble::None);
        drop(trouble);
        let (what, cause) = ("the table".to_owned(), "a test wants it".to_owned());
        match now {
            Trouble::None | Trouble::Waits => self.store.commit(),
            Trouble::Fails => Err(StoreError::Failed { what, cause }),
            Trouble::IsDamaged => Err(StoreError::Damaged { what, cause }),
            Trouble::Panics => panic!("a test wants it"),
        }
    }

    fn snapshots(&self) -> Result<Box<dyn Snapshot>> {
        self.store.snapshots()
    }
}

#[test]
fn an_overloaded_partition_leaves_the_others_alone() {
    let sites = Sites::new(&["a", "b"]);
    let troubled = Troubled::new(&sites.sites[0].disks, "b");
    let mut config = sites.config(0);
    let opens: Arc<dyn Opens> = Arc::<Troubled>::clone(&troubled);
    config.opens = opens;
    let mut small = PartitionConfig::new(id("b"));
    small.queue = QueueConfig { inputs_max: 20, bytes_max: 1 << 20 };
    config.partitions.push(small);
    let nodes = [begin(config), sites.start(1)];
    wait_linked(&nodes);
    let mut client = Client::device(&nodes[0]);
    client.register("b-0", 1);
    client.register("a-0", 1);
    troubled.set(Trouble::Waits);
    for n in 1..=200 {
        client.ask_to_register(&format!("b-{n}"), 1, 0);
    }
    let mut later = 0;
    while later < 50 {
        let message = client.next::<ClientMessage>().unwrap();
        let ClientMessage::Retry { after, .. } = message else { panic!("{message:?}") };
        assert!(after > Duration::ZERO);
        later += 1;
    }
    // The others go on as if nothing was, and so does the link.
    let began = Instant::now();
    for n in 1..=50 {
        client.register(&format!("a-{n}"), 1);
        client.shake_hands("a-0", 1);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    wait_owner(&nodes[1], "a-50", "a", 1);
    // Requests to it are turned away when there is no more room, and never pile up.
    for n in 0..100 {
        client.ask(n, "b-0", b"");
    }
    let outcome = client.answer(99);
    assert!(matches!(outcome, Outcome::Busy { .. }), "{outcome:?}");
    let status = nodes[0].status();
    assert!(status.partitions[1].queued <= 60, "{}", status.partitions[1].queued);
    assert!(status.partitions[1].error.contains("in time"), "{}", status.partitions[1].error);
    assert_eq!(status.partitions[0].error, "");
    assert!(status.counts.retries >= 50);
    troubled.set(Trouble::None);
    wait_for("it works again", || nodes[0].status().partitions[1].error.is_empty());
    client.register("b-200", 2);
    wait_owner(&nodes[1], "b-200", "a", 2);
}

/// Ends the trouble also of a test that fails, which would wait for its threads without end.
struct Relief<'a>(&'a Troubled);

impl Drop for Relief<'_> {
    fn drop(&mut self) {
        self.0.set(Trouble::None);
    }
}

/// Its partners are met without it, and again once it says where it stands.
#[test]
fn a_partition_that_hangs_keeps_no_link_from_standing() {
    let sites = Sites::new(&["a", "b"]);
    let troubled = Troubled::new(&sites.sites[0].disks, "b");
    let mut config = sites.config(0);
    let opens: Arc<dyn Opens> = Arc::<Troubled>::clone(&troubled);
    config.opens = opens;
    let hung = begin(config);
    let mut client = Client::device(&hung);
    troubled.set(Trouble::Waits);
    client.ask_to_register("b-1", 1, 0);
    let nodes = [hung, sites.start(1)];
    let relief = Relief(&troubled);
    wait_linked(&nodes);
    client.register("a-1", 1);
    wait_owner(&nodes[1], "a-1", "a", 1);
    drop(relief);
    wait_owner(&nodes[1], "b-1", "a", 1);
    for node in nodes {
        node.close();
    }
}

/// A partition has trouble once, begins anew, and is as before; `asides` tells how often its
/// store was set aside.
fn comes_back(trouble: Trouble, asides: u32) {
    let sites = Sites::new(&["a", "b"]);
    let troubled = Troubled::new(&sites.sites[0].disks, "a");
    let mut config = sites.config(0);
    let opens: Arc<dyn Opens> = Arc::<Troubled>::clone(&troubled);
    config.opens = opens;
    let nodes = [begin(config), sites.start(1)];
    wait_linked(&nodes);
    let mut client = Client::device(&nodes[0]);
    client.register("a-1", 1);
    client.register("b-1", 1);
    wait_owner(&nodes[1], "a-1", "a", 1);
    let events = nodes[0].events();
    troubled.set(trouble);
    client.ask_to_register("a-2", 1, 0);
    client.expect("later", |message| {
        matches!(message, ClientMessage::Retry { device: of, .. } if *of == device("a-2"))
            || matches!(message, ClientMessage::Registered { .. })
    });
    let (mut failed, mut recovered) = (false, false);
    wait_for("it begins anew", || {
        for event in events.try_iter() {
            failed |= matches!(event, NodeEvent::Fault { .. });
            recovered |= failed && matches!(event, NodeEvent::Recovered { .. });
        }
        recovered
    });
    client.shake_hands("b-1", 1);
    wait_for("the link is made anew", || is_linked(&nodes[0], "b") && is_linked(&nodes[1], "a"));
    assert_eq!(*troubled.set_aside.lock().unwrap(), asides);
    client.register("a-2", 2);
    wait_owner(&nodes[1], "a-2", "a", 2);
    wait_owner(&nodes[0], "a-1", "a", 1);
    assert!(known(&nodes[0], "a-1").unwrap().stands());
    assert_eq!(nodes[0].status().partitions[0].error, "");
    for node in nodes {
        node.close();
    }
}

#[test]
fn a_store_that_fails_is_opened_again() {
    comes_back(Trouble::Fails, 0);
}

#[test]
fn a_defect_costs_the_partition_no_more_than_what_was_not_durable() {
    comes_back(Trouble::Panics, 0);
}

#[test]
fn a_damaged_store_is_set_aside_and_filled_by_the_partner() {
    comes_back(Trouble::IsDamaged, 1);
}

#[test]
fn closing_ends_everything_soon_whatever_is_under_way() {
    let sites = Sites::new(&["a", "b"]);
    let nodes = sites.start_all();
    wait_linked(&nodes);
    let mut client = Client::device(&nodes[0]);
    client.register("a-1", 1);
    let (told, outcome) = std::sync::mpsc::channel();
    let reply = Box::new(move |outcome| told.send(outcome).unwrap());
    nodes[0].request(device("a-1"), Duration::from_secs(60), b"?".to_vec(), reply);
    client.asked();
    let began = Instant::now();
    for node in nodes {
        node.close();
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let outcome = outcome.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(outcome, Outcome::TimedOut, "the device may have done it");
    assert!(client.next::<ClientMessage>().is_none());
}
