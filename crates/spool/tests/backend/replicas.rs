//! Servers with storage of their own: what was acknowledged is on both, or the standby is not
//! ready.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eversock_spool::Kind;
use eversock_spool::backend::clock::Clock;
use eversock_spool::backend::ledger::LedgerConfig;
use eversock_spool::backend::lock::GrantRefused;
use eversock_spool::backend::mail::{self, Mailboxes};
use eversock_spool::backend::replica::{
    Alone, Pusher, ReplicaConfig, ReplicaHandler, ReplicaStatus, Replicated, begin_as_copy,
};
use eversock_spool::backend::{Backend, Guarded};
use eversock_spool::record::Record;
use eversock_spool::serve::{CallReplyMessage, Handler, IncomingCall};
use eversock_spool::target::{
    Call, CallFailed, CallResult, Class, Grant, ItemResult, Reply, Report, Target,
};

use crate::common::{Directory, LEASE, PATIENCE, done, json, mail as write, record, wait_for};

/// How long a call waits for a standby that may be cut off.
const HASTE: Duration = Duration::from_millis(100);
const IN_SYNC: Duration = Duration::from_secs(60);

/// Stands still until the test moves it.
#[derive(Debug)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now_us(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Hands {
    fn turn(&self, time: Duration) {
        self.0.fetch_add(time.as_micros() as u64, Ordering::SeqCst);
    }
}

/// The other server, as long as the line is up.
#[derive(Debug, Default)]
struct Line {
    /// What to do before the answer to a push with entries is given.
    before_answer: Mutex<Option<Arc<Hands>>>,
    other: Mutex<Option<Arc<ReplicaHandler<Mailboxes>>>>,
    cut: AtomicBool,
    /// Calls arrive and answers do not.
    deaf: AtomicBool,
}

impl Target for Line {
    fn class(&self) -> Class {
        Class::Ledger
    }

    fn call(&self, call: Call, reply: Reply<CallResult>) {
        let other = self.other.lock().unwrap().clone();
        let Some(other) = other.filter(|_| !self.cut.load(Ordering::SeqCst)) else {
            return reply(Err(CallFailed::Unreachable("the line is cut".to_owned())));
        };
        let Call { epoch, items, job, .. } = call;
        let has_entries = items.len() > 1;
        let told = match other.execute(IncomingCall { epoch, job, items }) {
            CallReplyMessage::Results(results) => Ok(results),
            CallReplyMessage::Fenced { seen } => Err(CallFailed::Fenced { asked: epoch, seen }),
        };
        if has_entries && let Some(clock) = self.before_answer.lock().unwrap().take() {
            clock.turn(LEASE);
        }
        if self.deaf.load(Ordering::SeqCst) {
            return reply(Err(CallFailed::TimedOut));
        }
        reply(told);
    }

    fn probe(&self, _timeout: Duration, reply: Reply<Option<Report>>) {
        reply(None);
    }

    fn grant(&self, _grant: Grant, reply: Reply<bool>) {
        reply(false);
    }

    fn release(&self, _epoch: u64, _timeout: Duration, reply: Reply<bool>) {
        reply(false);
    }

    fn fence(&self, reply: Reply<bool>) {
        reply(false);
    }

    fn close(&self) {}
}

struct Server {
    replicated: Arc<Replicated<Mailboxes>>,
    guarded: Arc<Guarded>,
    /// To the other one.
    line: Arc<Line>,
    _pusher: Pusher,
}

impl Server {
    fn open(dir: &Directory, clock: &Arc<Hands>, alone: Alone) -> Self {
        Self::open_with(dir, clock, alone, Duration::from_secs(3))
    }

    fn open_with(
        dir: &Directory,
        clock: &Arc<Hands>,
        alone: Alone,
        confirm_timeout: Duration,
    ) -> Self {
        let ledger = LedgerConfig { log_bytes: Some(1 << 20), ..LedgerConfig::default() };
        let inner = mail::open(dir.path(), ledger, Duration::ZERO).unwrap();
        let config = ReplicaConfig {
            in_sync: IN_SYNC,
            alone,
            confirm_timeout,
            every: Duration::from_millis(5),
        };
        let clock: Arc<dyn Clock> = Arc::<Hands>::clone(clock);
        let replicated = Replicated::with_clock(inner, config, Arc::clone(&clock)).unwrap();
        let backend: Arc<dyn Backend> = Arc::<Replicated<Mailboxes>>::clone(&replicated);
        let guarded = Guarded::with_clock(backend, clock).unwrap();
        let line = Arc::new(Line::default());
        let target: Arc<dyn Target> = Arc::<Line>::clone(&line);
        let pusher = replicated.push_to(target, &guarded).unwrap();
        Self { replicated, guarded, line, _pusher: pusher }
    }

    fn try_grant(&self, epoch: u64) -> Result<(), GrantRefused> {
        let stamp = self.guarded.report().stamp;
        self.guarded.grant(&Grant { epoch, lease: LEASE, stamp })
    }

    fn grant(&self, epoch: u64) {
        self.try_grant(epoch).unwrap();
    }

    fn ready(&self) -> bool {
        self.guarded.report().ready
    }

    fn status(&self) -> ReplicaStatus {
        self.replicated.status()
    }

    fn try_one(&self, epoch: u64, item: Record) -> Result<ItemResult, CallFailed> {
        let call = IncomingCall { epoch, job: None, items: [item].into() };
        Ok(self.guarded.execute(&call)?.remove(0))
    }

    /// Asks again as long as it is told to come later.
    fn one(&self, epoch: u64, item: &Record) -> ItemResult {
        let mut result = None;
        wait_for("a result", || {
            let now = self.try_one(epoch, item.clone()).unwrap();
            let stays = !matches!(now, ItemResult::Later { .. });
            result = stays.then_some(now);
            stays
        });
        result.unwrap()
    }

    fn subjects(&self, epoch: u64) -> Vec<String> {
        let answer = json(&self.one(epoch, &record(0, Kind::Read, "inbox", b"list")));
        let subject = |message: &serde_json::Value| message["subject"].as_str().unwrap().to_owned();
        answer["messages"].as_array().unwrap().iter().map(subject).collect()
    }
}

struct Pair {
    dirs: [Directory; 2],
    clock: Arc<Hands>,
    a: Server,
    b: Server,
}

fn connect(a: &Server, b: &Server) {
    *a.line.other.lock().unwrap() = Some(Arc::new(b.replicated.replica_handler(&b.guarded)));
    *b.line.other.lock().unwrap() = Some(Arc::new(a.replicated.replica_handler(&a.guarded)));
}

impl Pair {
    fn new(alone: Alone) -> Self {
        let dirs = [Directory::new(), Directory::new()];
        let clock = Arc::new(Hands(AtomicU64::new(1_000_000_000)));
        let a = Server::open(&dirs[0], &clock, alone);
        let b = Server::open(&dirs[1], &clock, alone);
        connect(&a, &b);
        Self { dirs, clock, a, b }
    }

    fn cut(&self, cut: bool) {
        self.a.line.cut.store(cut, Ordering::SeqCst);
        self.b.line.cut.store(cut, Ordering::SeqCst);
    }
}

fn subject(id: u128) -> Record {
    write(id, "inbox", &format!("Subject: {id}\n\ntext"))
}

#[test]
fn what_is_acknowledged_is_on_the_standby_which_takes_over() {
    let pair = Pair::new(Alone::Refused);
    let (a, b) = (&pair.a, &pair.b);
    a.grant(1);
    for id in 1..=3 {
        assert!(!done(&a.one(1, &subject(id))).1);
    }
    done(&a.one(1, &record(4, Kind::Delete, "inbox", b"2")));
    assert_eq!((a.status(), b.status()), (ReplicaStatus::Leading, ReplicaStatus::InSync));
    assert!(a.ready() && b.ready());
    pair.cut(true);
    b.grant(2);
    assert_eq!(b.subjects(2), ["1", "3"]);
    wait_for("it is main", || b.status() == ReplicaStatus::Waiting);
    assert_eq!(done(&b.one(2, &record(0, Kind::Read, "inbox", b"3"))).0, b"Subject: 3\n\ntext");
    // It does nothing alone; with the old main as standby it does.
    let later = b.try_one(2, subject(5)).unwrap();
    assert!(matches!(later, ItemResult::Later { .. }), "{later:?}");
    pair.cut(false);
    assert!(done(&b.one(2, &subject(3))).1, "it was done by the old main");
    assert!(!done(&b.one(2, &subject(5))).1);
    wait_for("the old main follows", || a.status() == ReplicaStatus::InSync);
    assert!(a.try_one(1, subject(9)).is_err(), "it knows the new epoch");
    // And back again.
    assert!(b.guarded.release(2, LEASE));
    a.grant(3);
    assert_eq!(a.subjects(3), ["1", "3", "5"]);
}

#[test]
fn a_main_goes_on_alone_when_its_standby_cannot_take_over_any_more() {
    let pair = Pair::new(Alone::Allowed);
    let (a, b) = (&pair.a, &pair.b);
    a.grant(1);
    done(&a.one(1, &subject(1)));
    pair.cut(true);
    wait_for("it misses the standby", || a.status() == ReplicaStatus::Waiting);
    pair.clock.turn(IN_SYNC / 2);
    for _ in 0..20 {
        let later = a.try_one(1, subject(2)).unwrap();
        assert!(matches!(later, ItemResult::Later { .. }), "{later:?}");
        assert!(b.ready(), "it has all that was acknowledged");
        std::thread::yield_now();
    }
    pair.clock.turn(IN_SYNC);
    assert!(!done(&a.one(1, &subject(2))).1);
    assert!(matches!(a.status(), ReplicaStatus::Alone { .. }));
    assert!(!b.ready());
    assert_eq!(b.status(), ReplicaStatus::Behind);
    assert!(matches!(b.try_grant(2), Err(GrantRefused::NotAble { .. })));
    // More than one message takes.
    for id in 10..600 {
        done(&a.one(1, &subject(id)));
    }
    assert!(!b.ready());
    pair.cut(false);
    wait_for("the standby catches up", || b.status() == ReplicaStatus::InSync);
    assert_eq!(a.status(), ReplicaStatus::Leading);
    done(&a.one(1, &subject(700)));
    pair.cut(true);
    b.grant(2);
    let list = b.one(2, &record(0, Kind::Read, "inbox", b"list 590"));
    assert_eq!(json(&list)["messages"].as_array().unwrap().len(), 593 - 590);
}

#[test]
fn an_answer_that_the_standby_did_not_confirm_is_not_given() {
    let pair = Pair::new(Alone::Allowed);
    let (a, b) = (&pair.a, &pair.b);
    a.grant(1);
    done(&a.one(1, &subject(1)));
    // The standby has it, and the main does not know.
    a.line.deaf.store(true, Ordering::SeqCst);
    let lost = a.try_one(1, subject(2));
    assert!(matches!(lost, Err(CallFailed::Lost(_)) | Ok(ItemResult::Later { .. })), "{lost:?}");
    a.line.deaf.store(false, Ordering::SeqCst);
    done(&a.one(1, &subject(2)));
    pair.cut(true);
    b.grant(2);
    assert!(done(&b.one(2, &subject(2))).1);
    assert_eq!(b.subjects(2), ["1", "2"]);
}

#[test]
fn a_confirmation_that_comes_after_the_lease_is_no_answer() {
    let pair = Pair::new(Alone::Allowed);
    let (a, b) = (&pair.a, &pair.b);
    a.grant(1);
    done(&a.one(1, &subject(1)));
    wait_for("the standby follows", || a.status() == ReplicaStatus::Leading);
    *a.line.before_answer.lock().unwrap() = Some(Arc::clone(&pair.clock));
    // By then the standby may be main, and may have overtaken what it confirmed.
    let lost = a.try_one(1, subject(2));
    assert!(matches!(lost, Err(CallFailed::Lost(_))), "{lost:?}");
    assert!(pair.a.line.before_answer.lock().unwrap().is_none());
    assert!(b.replicated.inner().ledger().knows(&subject(2)).unwrap(), "and yet it has it");
}

#[test]
fn a_main_whose_lease_is_over_does_not_go_on_alone() {
    let pair = Pair::new(Alone::Allowed);
    let a = &pair.a;
    a.grant(1);
    done(&a.one(1, &subject(1)));
    wait_for("the standby follows", || a.status() == ReplicaStatus::Leading);
    // Its call is under way, and waits for the standby, when lease and promise end.
    let (lost, entered) = std::thread::scope(|scope| {
        pair.cut(true);
        // The pusher may have noticed first: then nothing is under way.
        let call = scope.spawn(|| a.try_one(1, subject(2)));
        let mut entered = false;
        wait_for("the call is under way, or was refused", || {
            entered = a.replicated.inner().ledger().knows(&subject(2)).unwrap();
            entered || call.is_finished()
        });
        pair.clock.turn(LEASE);
        (call.join().unwrap(), entered)
    });
    match lost {
        Err(CallFailed::Lost(_)) => {}
        Ok(ItemResult::Later { .. }) if !entered => {}
        other => panic!("{other:?}"),
    }
    wait_for("it is main no more", || !matches!(a.status(), ReplicaStatus::Leading));
    assert!(!matches!(a.status(), ReplicaStatus::Alone { .. }));
}

/// Lets `a` keep an entry that its standby never had.
fn with_tail(pair: &Pair) {
    let (a, b) = (&pair.a, &pair.b);
    a.grant(1);
    done(&a.one(1, &subject(1)));
    // Its call was let in before the line was cut: the line is cut in the middle of it.
    let mut tail = false;
    for id in 100..200 {
        wait_for("the standby follows", || a.status() == ReplicaStatus::Leading);
        a.line.cut.store(true, Ordering::SeqCst);
        let lost = a.try_one(1, subject(id));
        tail = matches!(lost, Err(CallFailed::Lost(_)));
        if tail {
            break;
        }
        a.line.cut.store(false, Ordering::SeqCst);
    }
    assert!(tail, "the pusher was always faster");
    pair.cut(true);
    b.grant(2);
    done(&b.one(2, &subject(2)));
    pair.cut(false);
    wait_for("the tail is known", || matches!(a.status(), ReplicaStatus::Tail { .. }));
}

#[test]
fn a_tail_is_reported_and_never_merged() {
    let pair = Pair::new(Alone::Allowed);
    with_tail(&pair);
    let (a, b) = (&pair.a, &pair.b);
    assert_eq!(a.status(), ReplicaStatus::Tail { from: 2 });
    let tail = a.replicated.tail(10).unwrap();
    assert_eq!(tail.len(), 1);
    assert!(!a.ready());
    assert!(matches!(a.try_grant(3), Err(GrantRefused::NotAble { .. })));
    match b.status() {
        ReplicaStatus::Alone { why: Some(why) } => assert!(why.contains("copy"), "{why}"),
        other => panic!("{other:?}"),
    }
    // Nobody was told that it was done; whoever asks again has it done.
    assert!(!done(&b.one(2, &tail[0])).1);
    let Pair { dirs, clock, a, b } = pair;
    drop(a);
    // A server with a copy of the main's directory follows again.
    let copy = Directory::new();
    copy_of(&dirs[1], &copy);
    begin_as_copy(&copy.path().join("index.db")).unwrap();
    let a = Server::open(&copy, &clock, Alone::Allowed);
    assert!(!a.ready());
    connect(&a, &b);
    wait_for("the copy follows", || a.status() == ReplicaStatus::InSync);
    done(&b.one(2, &subject(3)));
    assert!(b.guarded.release(2, LEASE));
    a.grant(3);
    assert_eq!(a.subjects(3).len(), 4);
}

#[test]
fn a_standby_is_not_in_sync_with_what_was_done_without_it() {
    let dirs = [Directory::new(), Directory::new()];
    let clock = Arc::new(Hands(AtomicU64::new(1_000_000_000)));
    {
        let config = LedgerConfig::default();
        let alone = mail::open(dirs[0].path(), config, Duration::ZERO).unwrap();
        let backend = Guarded::new(Arc::new(alone)).unwrap();
        let stamp = backend.report().stamp;
        backend.grant(&Grant { epoch: 1, lease: LEASE, stamp }).unwrap();
        let call = IncomingCall { epoch: 1, job: None, items: [subject(1)].into() };
        done(&backend.execute(&call).unwrap()[0]);
    }
    let a = Server::open(&dirs[0], &clock, Alone::Allowed);
    let b = Server::open(&dirs[1], &clock, Alone::Allowed);
    connect(&a, &b);
    a.grant(2);
    // What an earlier run may have promised is over.
    clock.turn(2 * IN_SYNC);
    a.grant(2);
    wait_for(
        "the standby is known to lack something",
        || matches!(a.status(), ReplicaStatus::Alone { why: Some(why) } if why.contains("copy")),
    );
    assert!(!b.ready());
    assert!(matches!(b.try_grant(3), Err(GrantRefused::NotAble { .. })));
    drop(b);
    let copy = Directory::new();
    copy_of(&dirs[0], &copy);
    begin_as_copy(&copy.path().join("index.db")).unwrap();
    let b = Server::open(&copy, &clock, Alone::Allowed);
    connect(&a, &b);
    wait_for("the copy follows", || b.status() == ReplicaStatus::InSync);
    done(&a.one(2, &subject(2)));
    assert!(a.guarded.release(2, LEASE));
    b.grant(3);
    assert_eq!(b.subjects(3), ["1", "2"]);
}

fn copy_of(from: &Directory, to: &Directory) {
    for entry in walk(from.path()) {
        let target = to.path().join(entry.strip_prefix(from.path()).unwrap());
        if entry.is_dir() {
            std::fs::create_dir_all(target).unwrap();
        } else {
            std::fs::copy(entry, target).unwrap();
        }
    }
}

fn walk(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        all.push(path.clone());
        if path.is_dir() {
            all.extend(walk(&path));
        }
    }
    all
}

#[test]
fn a_server_is_main_again_only_if_nobody_was_since() {
    let pair = Pair::new(Alone::Allowed);
    pair.cut(true);
    pair.a.grant(1);
    done(&pair.a.one(1, &subject(1)));
    let Pair { dirs, clock, a, b } = pair;
    drop(a);
    let a = Server::open(&dirs[0], &clock, Alone::Allowed);
    connect(&a, &b);
    a.line.cut.store(true, Ordering::SeqCst);
    b.line.cut.store(true, Ordering::SeqCst);
    assert!(a.ready(), "it was main under the highest epoch that it knows");
    // Somebody may have been main under 2.
    assert!(matches!(a.try_grant(3), Err(GrantRefused::NotAble { .. })));
    assert!(!matches!(b.try_grant(2), Ok(())), "it never heard of the first main");
    a.line.cut.store(false, Ordering::SeqCst);
    wait_for("the other one says that nobody was", || a.try_grant(3).is_ok());
    assert!(b.try_grant(2).is_err(), "it has said that it will not");
    assert_eq!(b.guarded.report().seen, 3);
    assert_eq!(a.subjects(3), ["1"]);
    // It promised something in its earlier run, as far as it knows.
    b.line.cut.store(false, Ordering::SeqCst);
    wait_for("the other follows", || b.status() == ReplicaStatus::InSync);
    a.line.cut.store(true, Ordering::SeqCst);
    b.line.cut.store(true, Ordering::SeqCst);
    b.grant(4);
    done(&b.one(4, &subject(2)));
    drop(a);
    let a = Server::open(&dirs[0], &clock, Alone::Allowed);
    connect(&a, &b);
    assert!(a.ready(), "it does not know of the other main");
    wait_for("the other says that it was main", || {
        assert!(matches!(a.try_grant(6), Err(GrantRefused::NotAble { .. })));
        !a.ready()
    });
    // That has not ended the other one.
    assert_eq!(b.subjects(4), ["1", "2"]);
}

/// A front that switches at random, between servers that are cut off from each other, start anew
/// and live through all sorts of times.
struct Chaos {
    random: u64,
    dirs: [Directory; 2],
    clock: Arc<Hands>,
    servers: [Option<Server>; 2],
    cut: bool,
    epoch: u64,
    main: Option<usize>,
    acknowledged: Vec<Record>,
    next: u128,
    takeovers: usize,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let Pair { dirs, clock, .. } = Pair::new(Alone::Allowed);
        let open = |dir| Some(Server::open_with(dir, &clock, Alone::Allowed, HASTE));
        let (a, b) = (open(&dirs[0]), open(&dirs[1]));
        let (servers, cut, epoch, main) = ([a, b], false, 0, None);
        let (random, acknowledged) = (seed, Vec::new());
        let (next, takeovers) = (1, 0);
        let chaos =
            Self { random, dirs, clock, servers, cut, epoch, main, acknowledged, next, takeovers };
        chaos.wire_up();
        chaos
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % bound
    }

    fn server(&self, who: usize) -> &Server {
        self.servers[who].as_ref().unwrap()
    }

    fn wire_up(&self) {
        connect(self.server(0), self.server(1));
        for who in [0, 1] {
            self.server(who).line.cut.store(self.cut, Ordering::SeqCst);
        }
    }

    fn step(&mut self) {
        match self.below(20) {
            0 => {
                self.cut = !self.cut;
                self.wire_up();
            }
            1 => {
                let seconds = self.below(2 * IN_SYNC.as_secs());
                self.clock.turn(Duration::from_secs(seconds));
            }
            2 => {
                let who = self.below(2) as usize;
                self.servers[who] = None;
                let (dir, clock) = (&self.dirs[who], &self.clock);
                let again = Server::open_with(dir, clock, Alone::Allowed, HASTE);
                self.servers[who] = Some(again);
                self.wire_up();
                // Its epoch may be given to it anew, as long as nobody has another.
                if self.main == Some(who) && self.server(who).try_grant(self.epoch).is_err() {
                    self.main = None;
                }
            }
            3 => self.switch(),
            // Lets what runs beside this come to something, or not.
            4 => std::thread::sleep(Duration::from_millis(self.below(30))),
            _ => self.write(),
        }
    }

    fn write(&mut self) {
        let Some(main) = self.main else { return self.switch() };
        // Leases run out as the clock is turned.
        if self.server(main).try_grant(self.epoch).is_err() {
            self.main = None;
            return;
        }
        let item = subject(self.next);
        self.next += 1;
        // As often as a front would; it may be in vain.
        for _ in 0..10 {
            match self.server(main).try_one(self.epoch, item.clone()) {
                Ok(ItemResult::Later { .. }) => std::thread::sleep(Duration::from_millis(2)),
                Ok(ItemResult::Done { .. }) => return self.acknowledged.push(item),
                Ok(ItemResult::Refused { .. }) | Err(_) => return,
            }
        }
    }

    /// When all can talk to each other again, there is a main again, and it does what it is asked.
    fn heal(&mut self) {
        self.cut = false;
        self.wire_up();
        self.clock.turn(2 * IN_SYNC);
        let before = self.acknowledged.len();
        let until = Instant::now() + PATIENCE;
        while self.acknowledged.len() == before {
            let how = |who| {
                let Server { replicated, guarded, .. } = self.server(who);
                let mut ledger = replicated.inner().ledger();
                let epochs = (ledger.main_epoch().unwrap(), ledger.epoch().unwrap());
                format!("{replicated:?}, {:?}, epochs {epochs:?}", guarded.report())
            };
            assert!(
                Instant::now() < until,
                "the pair does not come to itself: main {:?} epoch {}\n{}\n{}",
                self.main,
                self.epoch,
                how(0),
                how(1)
            );
            self.write();
            // A front takes its time: what is refused for now is asked of the other server.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn switch(&mut self) {
        if let Some(main) = self.main.take() {
            assert!(self.server(main).guarded.release(self.epoch, LEASE));
        }
        let who = self.below(2) as usize;
        if !self.server(who).ready() {
            return;
        }
        // As `PairState::epoch`: written before it is granted, and never given twice.
        self.epoch += 1;
        if self.below(8) == 0 {
            return; // The grant is lost.
        }
        if self.server(who).try_grant(self.epoch).is_ok() {
            self.main = Some(who);
            self.takeovers += 1;
            let backend = &self.server(who).replicated;
            for item in &self.acknowledged {
                let knows = backend.inner().ledger().knows(item).unwrap();
                assert!(knows, "{} was acknowledged, and the main has it not", item.id);
            }
        }
    }
}

#[test]
fn whoever_becomes_main_has_all_that_was_acknowledged() {
    let (mut takeovers, mut acknowledged) = (0, 0);
    for seed in 1..=6_u64 {
        let mut chaos = Chaos::new(0x9e37_79b9_7f4a_7c15 ^ (seed << 32));
        for _ in 0..200 {
            chaos.step();
        }
        chaos.heal();
        takeovers += chaos.takeovers;
        acknowledged += chaos.acknowledged.len();
    }
    assert!(takeovers > 20 && acknowledged > 50, "{takeovers} takeovers, {acknowledged} writes");
}
