//! What becomes of registrations, and of what partners tell of them.

use std::sync::Arc;
use std::time::Duration;

use crate::limits::{LEASE_MAX, SEQ_MAX};
use crate::model::{ControllerId, DeviceId, Location, Record, Standing, kind};
use crate::shard::input::{FailBackPolicy, Pace, Settings};
use crate::shard::registrar::{Registrar, Step};
use crate::shard::{Event, Input, Millis, Output, Shard, ShardConfig};
use crate::store::Store;
use crate::store::memory::{MemDisk, MemStore};
use crate::wire::client::{ClientMessage, Register, Terms};

pub(super) fn settings() -> Settings {
    Settings {
        terms: Terms {
            lease: Duration::from_secs(60),
            handshake_every: Duration::from_secs(10),
            misses: 3,
            generation: 7,
            alternates: Vec::new(),
        },
        places: Vec::new(),
        fail_back: FailBackPolicy::Manual,
        pace: Pace { per_second: 10, in_flight_max: 5, deadline: 5000, failures_max_percent: 5 },
        keep_ends: 60_000,
        snapshot_from: 1000,
        devices_max: 100,
        requests_max: 100,
    }
}

fn controller(name: &str) -> ControllerId {
    name.parse().unwrap()
}

fn device() -> DeviceId {
    "dev".parse().unwrap()
}

/// A registrar of controller `b` on a disk; `a` and `c` are partners.
struct Bench {
    settings: Arc<Settings>,
    disk: MemDisk,
    store: Option<MemStore>,
    registrar: Registrar,
    now: Millis,
    out: Vec<Output>,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let disk = MemDisk::new("it", 5);
        let mut store = disk.open().unwrap();
        let registrar = Registrar::open(controller("b"), 0, &mut store).unwrap();
        let (settings, store) = (Arc::new(settings), Some(store));
        Self { settings, disk, store, registrar, now: 0, out: Vec::new() }
    }

    fn step<T>(&mut self, f: impl FnOnce(&mut Registrar, &mut Step<'_>) -> T) -> T {
        let mut step = Step {
            now: self.now,
            store: self.store.as_mut().unwrap(),
            settings: &self.settings,
            out: &mut self.out,
        };
        f(&mut self.registrar, &mut step)
    }

    fn restart(&mut self) {
        self.store.as_mut().unwrap().commit().unwrap();
        self.store = None;
        let mut store = self.disk.open().unwrap();
        self.registrar = Registrar::open(controller("b"), self.now, &mut store).unwrap();
        self.store = Some(store);
    }

    fn said(&mut self) -> Vec<ClientMessage> {
        let said = self.out.drain(..).filter_map(|output| match output {
            Output::Say { message, .. } => Some(message),
            _ => None,
        });
        said.collect()
    }

    fn register(&mut self, seq: u64, nonce: u64) -> ClientMessage {
        self.register_of(&device(), seq, nonce)
    }

    fn register_of(&mut self, device: &DeviceId, seq: u64, nonce: u64) -> ClientMessage {
        self.out.clear();
        let register = Register {
            device: device.clone(),
            seq,
            nonce,
            lease: Duration::ZERO,
            generation: 0,
            token: 0,
            address: b"there".to_vec(),
        };
        self.step(|registrar, step| registrar.register(step, 1, &register)).unwrap();
        let said = self.out.iter().find_map(|output| match output {
            Output::Say { conn: 1, message } => Some(message.clone()),
            _ => None,
        });
        said.unwrap()
    }

    fn handshake(&mut self, seq: u64) -> ClientMessage {
        self.out.clear();
        self.step(|registrar, step| registrar.handshake(step, 1, &device(), seq)).unwrap();
        self.said().pop().unwrap()
    }

    fn deregister(&mut self, seq: u64) {
        self.out.clear();
        self.step(|registrar, step| registrar.deregister(step, 1, &device(), seq)).unwrap();
        let said = self.said();
        assert_eq!(said, [ClientMessage::Deregistered { device: device(), seq }]);
    }

    fn tick(&mut self, now: Millis) {
        self.now = now;
        self.step(|registrar, step| registrar.tick(step)).unwrap();
    }

    fn merge(&mut self, location: &Location, partner: &str) {
        self.merge_record(&location.to_record(), partner);
    }

    fn merge_record(&mut self, record: &Record, partner: &str) {
        self.out.clear();
        let partner = controller(partner);
        self.step(|registrar, step| registrar.merge(step, record, &partner)).unwrap();
    }

    fn location(&mut self) -> Option<Location> {
        self.step(|_, step| step.location(&device())).unwrap()
    }

    fn owned(&self) -> usize {
        self.registrar.sessions().len()
    }
}

fn location(owner: &str, seq: u64) -> Location {
    Location {
        device: device(),
        owner: controller(owner),
        seq,
        version: 1,
        standing: Standing::Registered,
        nonce: 99,
        lease: Duration::from_secs(60),
        generation: 0,
        address: Vec::new(),
    }
}

fn is_registered(message: &ClientMessage, at: u64) -> bool {
    matches!(message, ClientMessage::Registered { seq, .. } if *seq == at)
}

fn is_jump(message: &ClientMessage, above: u64) -> bool {
    matches!(message, ClientMessage::Jump { seq, .. } if *seq == above)
}

#[test]
fn only_a_larger_counter_registers() {
    let mut bench = Bench::new(settings());
    assert!(is_jump(&bench.register(0, 1), 0), "a device without storage asks where it stands");
    assert!(is_registered(&bench.register(5, 1), 5));
    assert!(is_jump(&bench.register(4, 2), 5));
    assert!(is_jump(&bench.register(5, 2), 5), "another attempt with the same counter");
    assert!(is_jump(&bench.register(0, 1), 5));
    assert!(is_registered(&bench.register(5, 1), 5), "the same attempt once more");
    assert_eq!(bench.registrar.counts().registrations, 1);
    assert_eq!(bench.location().unwrap().nonce, 1);
    bench.merge(&location("a", 9), "a");
    assert!(is_jump(&bench.register(9, 99), 9), "registered there, not here");
    assert!(is_registered(&bench.register(10, 3), 10));
    assert_eq!(bench.registrar.counts().take_overs, 1);
    let owner = Event::Owner {
        device: device(),
        before: Some(controller("a")),
        now: controller("b"),
        seq: 10,
    };
    assert!(bench.out.contains(&Output::Event(owner)));
}

#[test]
fn counters_out_of_bounds_are_refused_and_those_of_partners_are_left_out() {
    let mut bench = Bench::new(settings());
    let is_refused = |message| matches!(message, ClientMessage::Refused { .. });
    assert!(is_refused(bench.register(SEQ_MAX + 1, 1)));
    assert!(is_refused(bench.register(u64::MAX, 1)));
    assert!(is_registered(&bench.register(1, 1), 1));
    for garbage in [SEQ_MAX + 1, 1 << 61, 1 << 62, u64::MAX] {
        bench.now += 2000;
        bench.merge(&location("a", garbage), "a");
        assert!(matches!(&bench.out[..], [Output::Event(Event::Odd { .. })]), "{:?}", bench.out);
    }
    assert!(is_registered(&bench.register(2, 2), 2));
    // From wherever a device stands it can come beyond what a partner may tell.
    bench.merge(&location("a", SEQ_MAX - 1), "a");
    assert!(is_registered(&bench.register(SEQ_MAX, 3), SEQ_MAX));
    assert!(is_refused(bench.register(SEQ_MAX + 1, 4)));
    assert_eq!(bench.registrar.counts().refused, 3);
}

#[test]
fn leases_are_kept_within_bounds_and_told() {
    let mut bench = Bench::new(settings());
    for (asked, got) in [
        (Duration::ZERO, Duration::from_secs(60)),
        (Duration::from_millis(1), Duration::from_secs(1)),
        (Duration::MAX, LEASE_MAX),
    ] {
        let register = Register {
            device: device(),
            seq: bench.location().map_or(1, |known| known.seq + 1),
            nonce: 1,
            lease: asked,
            generation: 3,
            token: 0,
            address: Vec::new(),
        };
        bench.out.clear();
        bench.step(|registrar, step| registrar.register(step, 1, &register)).unwrap();
        let said = bench.said();
        assert!(
            matches!(&said[..], [ClientMessage::Registered { terms, .. }] if terms.lease == got)
        );
        let location = bench.location().unwrap();
        assert_eq!((location.lease, location.generation), (got, 3));
    }
}

#[test]
fn handshakes_keep_a_lease_without_a_write() {
    let mut bench = Bench::new(settings());
    bench.register(1, 1);
    let head = bench.store.as_ref().unwrap().head();
    bench.now = 50_000;
    let ok = ClientMessage::HandshakeOk { device: device(), seq: 1, generation: 7 };
    assert_eq!(bench.handshake(1), ok);
    bench.tick(60_000);
    assert_eq!(bench.store.as_ref().unwrap().head(), head);
    assert!(bench.location().unwrap().stands());
    bench.tick(110_000);
    let ended = bench.location().unwrap();
    assert_eq!((ended.standing, ended.version, ended.seq), (Standing::Expired, 2, 1));
    assert_eq!(bench.owned(), 0);
    assert_eq!(bench.handshake(1), ClientMessage::Reregister { device: device(), above: 1 });
    assert!(is_jump(&bench.register(1, 1), 1), "that registration is over");
    assert!(is_registered(&bench.register(2, 2), 2));
}

#[test]
fn a_handshake_with_any_other_counter_is_told_to_register() {
    let mut bench = Bench::new(settings());
    assert_eq!(bench.handshake(3), ClientMessage::Reregister { device: device(), above: 0 });
    bench.register(5, 1);
    assert_eq!(bench.handshake(4), ClientMessage::Reregister { device: device(), above: 5 });
    assert_eq!(bench.handshake(6), ClientMessage::Reregister { device: device(), above: 5 });
    bench.merge(&location("a", 8), "a");
    assert_eq!(bench.handshake(5), ClientMessage::Reregister { device: device(), above: 8 });
}

#[test]
fn a_device_that_leaves_has_left_and_an_old_farewell_counts_for_nothing() {
    let mut bench = Bench::new(settings());
    bench.register(5, 1);
    bench.deregister(4);
    assert!(bench.location().unwrap().stands());
    bench.deregister(5);
    let ended = bench.location().unwrap();
    assert_eq!((ended.standing, ended.version), (Standing::Deregistered, 2));
    let head = bench.store.as_ref().unwrap().head();
    bench.deregister(5);
    assert_eq!(bench.store.as_ref().unwrap().head(), head);
    assert!(is_jump(&bench.register(5, 1), 5));
}

#[test]
fn after_a_restart_each_device_has_a_full_lease_to_be_heard() {
    let mut bench = Bench::new(settings());
    bench.register(1, 1);
    for n in 0..2000 {
        let mut other = location(if n % 2 == 0 { "b" } else { "a" }, 1);
        other.device = format!("x{n}").parse().unwrap();
        let record = other.to_record();
        bench.step(|_, step| step.store.put(&record, None)).unwrap();
    }
    let other = Record { kind: 9, key: b"x".to_vec(), rank: vec![1], body: vec![] };
    bench.step(|_, step| step.store.put(&other, None)).unwrap();
    bench.now = 59_000;
    bench.restart();
    assert_eq!((bench.owned(), bench.registrar.sessions().connected()), (1001, 0));
    bench.tick(118_999);
    assert_eq!(bench.owned(), 1001);
    bench.handshake(1);
    bench.tick(119_000);
    bench.tick(119_000);
    assert_eq!(bench.owned(), 1);
    assert!(bench.location().unwrap().stands());
}

#[test]
fn a_record_with_a_larger_counter_ends_the_session_here_and_the_device_is_told() {
    let mut bench = Bench::new(settings());
    bench.register(5, 1);
    bench.merge(&location("a", 4), "a");
    assert_eq!(bench.owned(), 1);
    assert!(bench.out.is_empty());
    bench.merge(&location("a", 6), "a");
    assert_eq!(bench.owned(), 0);
    assert_eq!(bench.location().unwrap().owner, controller("a"));
    let reregister = ClientMessage::Reregister { device: device(), above: 6 };
    assert!(bench.out.contains(&Output::Say { conn: 1, message: reregister }));
    let owner = Event::Owner {
        device: device(),
        before: Some(controller("b")),
        now: controller("a"),
        seq: 6,
    };
    assert!(bench.out.contains(&Output::Event(owner)));
    bench.merge(&location("a", 6), "c");
    assert!(bench.out.is_empty(), "the same once more");
}

#[test]
fn two_owners_with_one_counter_are_a_clash_in_whichever_order_it_is_heard() {
    for (other, is_dropped) in [("a", false), ("c", true)] {
        let mut bench = Bench::new(settings());
        bench.register(5, 1);
        bench.merge(&location(other, 5), other);
        assert!(bench.out.contains(&Output::Event(Event::Clash { device: device(), seq: 5 })));
        let reregister = ClientMessage::Reregister { device: device(), above: 5 };
        assert!(bench.out.contains(&Output::Say { conn: 1, message: reregister }));
        assert_eq!(bench.owned(), usize::from(!is_dropped));
        assert_eq!(bench.registrar.counts().clashes, 1);
        assert!(is_registered(&bench.register(6, 2), 6));
    }
}

#[test]
fn a_registration_that_partners_remember_is_adopted_for_one_lease() {
    let mut bench = Bench::new(settings());
    bench.now = 1000;
    bench.merge(&location("b", 5), "a");
    assert_eq!((bench.owned(), bench.registrar.sessions().connected()), (1, 0));
    let ok = ClientMessage::HandshakeOk { device: device(), seq: 5, generation: 7 };
    assert_eq!(bench.handshake(5), ok);
    bench.tick(61_000);
    let ended = bench.location().unwrap();
    assert_eq!((ended.standing, ended.version), (Standing::Expired, 2));

    // It remembers an older one, and has the device on a connection.
    let mut bench = Bench::new(settings());
    bench.register(3, 1);
    bench.merge(&location("b", 5), "a");
    let reregister = ClientMessage::Reregister { device: device(), above: 5 };
    assert_eq!(bench.said(), [reregister]);
    assert_eq!((bench.owned(), bench.registrar.sessions().connected()), (1, 0));

    // The same registration, as another attempt: nothing changes for the device.
    let mut bench = Bench::new(settings());
    bench.register(5, 1);
    bench.merge(&location("b", 5), "a");
    assert!(bench.said().is_empty());
    assert_eq!(bench.registrar.sessions().connected(), 1);

    // It had ended that.
    let mut bench = Bench::new(settings());
    bench.register(5, 1);
    let mut ended = location("b", 5);
    (ended.version, ended.standing) = (2, Standing::Expired);
    bench.merge(&ended, "a");
    assert_eq!(bench.said(), [ClientMessage::Reregister { device: device(), above: 5 }]);
    assert_eq!(bench.owned(), 0);
}

#[test]
fn a_partner_that_has_forgotten_what_it_told_is_told_again() {
    let mut bench = Bench::new(settings());
    bench.merge(&location("a", 8), "a");
    let row = |bench: &mut Bench| {
        let key = device();
        bench.step(|_, step| step.store.get(kind::LOCATION, key.as_str().as_bytes())).unwrap()
    };
    let before = row(&mut bench).unwrap();
    bench.merge(&location("a", 7), "c");
    assert_eq!(row(&mut bench).unwrap(), before, "c gets it anyway");
    bench.merge(&location("a", 7), "a");
    let after = row(&mut bench).unwrap();
    assert_eq!((after.from, &after.record), (None, &before.record));
    assert!(after.lsn > before.lsn);
}

#[test]
fn there_is_room_for_so_many_devices_and_no_more() {
    let mut bench = Bench::new(Settings { devices_max: 2, ..settings() });
    let name = |n: u64| -> DeviceId { format!("x{n}").parse().unwrap() };
    assert!(is_registered(&bench.register_of(&name(0), 1, 1), 1));
    assert!(is_registered(&bench.register_of(&name(1), 1, 1), 1));
    assert!(matches!(bench.register_of(&name(2), 1, 1), ClientMessage::Retry { .. }));
    assert!(is_registered(&bench.register_of(&name(1), 2, 1), 2), "who is here may stay");
    bench.merge(&location("b", 4), "a");
    assert_eq!(bench.owned(), 2);
    let ended = bench.location().unwrap();
    assert_eq!((ended.standing, ended.version), (Standing::Expired, 2), "no room to adopt it");
}

#[test]
fn without_room_in_the_store_devices_go_elsewhere_and_those_here_stay() {
    let mut bench = Bench::new(settings());
    bench.register(1, 1);
    bench.disk.set_quota(1);
    assert!(matches!(bench.register(2, 2), ClientMessage::Retry { .. }));
    let ok = ClientMessage::HandshakeOk { device: device(), seq: 1, generation: 7 };
    assert_eq!(bench.handshake(1), ok);
    assert_eq!(bench.registrar.counts().retries, 1);
}

#[test]
fn in_maintenance_nobody_new_is_served_and_those_here_are() {
    let mut bench = Bench::new(settings());
    bench.register(1, 1);
    bench.registrar.close(true);
    let other = "other".parse().unwrap();
    assert!(matches!(bench.register_of(&other, 2, 2), ClientMessage::Retry { .. }));
    assert!(is_registered(&bench.register(1, 1), 1));
    let ok = ClientMessage::HandshakeOk { device: device(), seq: 1, generation: 7 };
    assert_eq!(bench.handshake(1), ok);
    assert!(is_registered(&bench.register(2, 2), 2), "sent away, and not let in there");
    bench.merge(&location("a", 3), "a");
    assert!(matches!(bench.register(4, 4), ClientMessage::Retry { .. }), "it went");
    bench.registrar.close(false);
    assert!(is_registered(&bench.register(4, 4), 4));
}

#[test]
fn records_of_unknown_kinds_are_kept_and_records_that_are_none_are_not() {
    let mut bench = Bench::new(settings());
    let unknown = Record { kind: 77, key: b"k".to_vec(), rank: vec![1], body: b"new".to_vec() };
    bench.merge_record(&unknown, "a");
    assert_eq!(bench.out, [Output::Changed { record: unknown.clone() }]);
    bench.merge_record(&unknown, "a");
    assert!(bench.out.is_empty());
    let mut older = unknown.clone();
    older.body = b"a".to_vec();
    bench.merge_record(&older, "c");
    let stands = bench.step(|_, step| step.store.get(77, b"k")).unwrap().unwrap();
    assert_eq!(stands.record, unknown);
    let mut damaged = location("a", 5).to_record();
    damaged.body.clear();
    let long = Record { key: vec![b'k'; 300], ..unknown };
    for record in [damaged, long] {
        bench.now += 2000;
        bench.merge_record(&record, "a");
        assert!(matches!(&bench.out[..], [Output::Event(Event::Odd { .. })]), "{:?}", bench.out);
        let found = bench.step(|_, step| step.store.get(record.kind, &record.key)).unwrap();
        assert_eq!(found, None);
    }
}

#[test]
fn an_end_that_only_a_newer_version_knows_is_an_end_and_is_kept_as_it_is() {
    let mut bench = Bench::new(settings());
    bench.register(5, 1);
    let mut ended = location("b", 5).to_record();
    ended.rank = Location { version: 2, ..location("b", 5) }.to_record().rank;
    ended.body[0] = 77;
    bench.merge_record(&ended, "a");
    assert_eq!(bench.said(), [ClientMessage::Reregister { device: device(), above: 5 }]);
    assert_eq!(bench.owned(), 0);
    let key = device();
    let get = |_: &mut Registrar, step: &mut Step<'_>| {
        step.store.get(kind::LOCATION, key.as_str().as_bytes())
    };
    assert_eq!(bench.step(get).unwrap().unwrap().record, ended);
    let known = bench.location().unwrap();
    assert!(!known.stands());
    assert_eq!(known.to_record(), ended);
    assert!(is_registered(&bench.register(6, 2), 6));
}

#[test]
fn what_partners_remember_takes_half_of_the_room_for_a_usual_lease() {
    let mut bench = Bench::new(Settings { devices_max: 10, ..settings() });
    for n in 0..20 {
        let mut other = location("b", 1);
        other.device = format!("x{n}").parse().unwrap();
        other.lease = LEASE_MAX;
        bench.merge(&other, "a");
    }
    assert_eq!(bench.owned(), 5);
    assert!(is_registered(&bench.register(1, 1), 1));
    bench.now = 50_000;
    bench.handshake(1);
    bench.tick(60_000);
    assert_eq!(bench.owned(), 1, "nobody of them was heard of");
}

#[test]
fn of_many_clashes_and_much_nonsense_people_are_told_now_and_then() {
    let mut bench = Bench::new(settings());
    let is_told =
        |out: &&Output| matches!(out, Output::Event(Event::Clash { .. } | Event::Odd { .. }));
    let mut events = 0;
    for n in 0..500 {
        let name: DeviceId = format!("x{n}").parse().unwrap();
        bench.register_of(&name, 5, 1);
        let mut clash = location("a", 5);
        clash.device = name.clone();
        bench.merge(&clash, "a");
        events += bench.out.iter().filter(is_told).count();
        let mut damaged = clash.to_record();
        damaged.body.clear();
        bench.merge_record(&damaged, "a");
        events += bench.out.iter().filter(is_told).count();
    }
    assert_eq!(events, 2);
    assert_eq!(bench.registrar.counts().clashes, 100, "there is no room for more devices");
    bench.now = 1000;
    let mut damaged = location("a", 5).to_record();
    damaged.body.clear();
    bench.merge_record(&damaged, "a");
    let [Output::Event(Event::Odd { text, .. })] = &bench.out[..] else { panic!() };
    assert!(text.contains("499 more"), "{text}");
}

#[test]
fn devices_that_are_put_off_do_not_all_come_again_at_once() {
    let mut bench = Bench::new(settings());
    bench.registrar.close(true);
    let waits: std::collections::BTreeSet<_> = (0..100)
        .map(|nonce| match bench.register(1, nonce) {
            ClientMessage::Retry { after, .. } => after.as_secs(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(waits.len() >= 8 && waits.iter().all(|wait| (5..15).contains(wait)), "{waits:?}");
}

#[test]
fn a_controller_that_stood_still_does_not_take_that_for_the_silence_of_devices() {
    let partition = controller("b");
    let config = ShardConfig { me: partition.clone(), partition, partners: Vec::new(), seed: 1 };
    let store = Box::new(MemDisk::new("it", 5).open().unwrap());
    let mut shard = Shard::open(config, Arc::new(settings()), store, 0).unwrap();
    let mut handle = |now, input| {
        let mut out = Vec::new();
        shard.handle(now, 0, input, &mut out).unwrap();
        (out, shard.status(now).unwrap().owned)
    };
    let register = Register {
        device: device(),
        seq: 1,
        nonce: 1,
        lease: Duration::ZERO,
        generation: 0,
        token: 0,
        address: Vec::new(),
    };
    handle(0, Input::Register { conn: 1, register });
    for now in (0..50_000).step_by(1000) {
        handle(now, Input::Tick);
    }
    // What the device has said waits behind this.
    assert_eq!(handle(75_000, Input::Tick).1, 1);
    let (out, _) = handle(75_000, Input::Handshake { conn: 1, device: device(), seq: 1 });
    let ok = ClientMessage::HandshakeOk { device: device(), seq: 1, generation: 7 };
    assert!(out.contains(&Output::Say { conn: 1, message: ok }));
    let mut left = 0;
    for now in (76_000..136_000).step_by(1000) {
        left = handle(now, Input::Tick).1;
        assert_eq!(left, u64::from(now < 135_000), "{now}");
    }
    assert_eq!(left, 0);
}
