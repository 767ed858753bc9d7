//! A server as its front sees it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use eversock_spool::Kind;
use eversock_spool::backend::epoch::{EpochStore, FileEpochs};
use eversock_spool::backend::lock::{GrantRefused, Permit};
use eversock_spool::backend::mail::{MailConfig, MailServer, Watch, run};
use eversock_spool::backend::monitor::{MonitorConfig, PairMonitor};
use eversock_spool::backend::{Backend, Guarded};
use eversock_spool::link::LinkConfig;
use eversock_spool::record::Record;
use eversock_spool::serve::IncomingCall;
use eversock_spool::target::{
    Call, CallFailed, CallResult, Class, Grant, ItemResult, Reply, Report, Stamp, Target,
};

use crate::common::{
    Directory, Front, LEASE, PATIENCE, Said, config, done, mail, record, wait_for,
};
use crate::process::Process;

fn mail_server(dir: &Directory) -> MailServer {
    let mut config_of = MailConfig::new("127.0.0.1:0".parse().unwrap(), dir.path().to_owned());
    config_of.socket = config();
    MailServer::start(config_of).unwrap()
}

#[test]
fn nothing_happens_without_the_lock() {
    let dir = Directory::new();
    let server = mail_server(&dir);
    let mut front = Front::connect(server.server().addr());
    let report = front.report();
    assert!(report.ready && !report.wants_switch);
    assert_eq!((report.holds, report.seen), (None, 0));
    assert_eq!(front.call(1, &[mail(1, "inbox", "x")]), Said::Fenced { seen: 0 });
    assert!(front.grant(3, LEASE));
    assert_eq!(front.call(2, &[mail(1, "inbox", "x")]), Said::Fenced { seen: 3 });
    assert_eq!(front.call(4, &[record(2, Kind::Read, "inbox", b"")]), Said::Fenced { seen: 3 });
    assert!(!done(&front.one(3, mail(1, "inbox", "x"))).1);
    assert_eq!(front.report().holds, Some(3));
    let stamp = Stamp { at_us: u64::MAX, ..front.report().stamp };
    assert!(!front.grant_with(Grant { epoch: 4, lease: LEASE, stamp }));
    assert!(!front.grant_with(Grant { epoch: 4, lease: LEASE, stamp: Stamp::default() }));
    assert!(front.release(3));
    assert_eq!(front.call(3, &[mail(2, "inbox", "x")]), Said::Fenced { seen: 3 });
    assert_eq!(front.report().holds, None);
    assert!(!front.grant(3, LEASE), "what was given back comes with a higher epoch only");
    drop(server);
    // The epoch is kept for good.
    let server = mail_server(&dir);
    let mut front = Front::connect(server.server().addr());
    assert_eq!(front.report().seen, 3);
    assert!(!front.grant(2, LEASE));
    assert!(front.grant(4, LEASE));
    assert!(done(&front.one(4, mail(1, "inbox", "x"))).1);
}

#[test]
fn a_lease_ends_by_itself() {
    let dir = Directory::new();
    let server = mail_server(&dir);
    let mut front = Front::connect(server.server().addr());
    assert!(front.grant(1, Duration::from_millis(300)));
    wait_for("the lease is over", || front.report().holds.is_none());
    assert_eq!(front.call(1, &[mail(1, "inbox", "x")]), Said::Fenced { seen: 1 });
    assert!(front.grant(1, LEASE), "it may be renewed as long as nobody else has it");
    done(&front.one(1, mail(1, "inbox", "x")));
}

#[test]
fn a_server_asks_for_a_switch_until_it_has_one() {
    let dir = Directory::new();
    let server = mail_server(&dir);
    let mut front = Front::connect(server.server().addr());
    assert!(front.grant(1, LEASE));
    server.server().ask_for_switch();
    assert!(front.report().wants_switch);
    assert!(front.grant(1, LEASE));
    assert!(front.report().wants_switch, "a renewal is no switch");
    assert!(front.release(1));
    assert!(!front.report().wants_switch);
}

#[test]
fn a_program_runs_until_it_is_told_to_stop() {
    let dir = Directory::new();
    let (stop, stopped) = crossbeam_channel::bounded(1);
    let (up, is_up) = crossbeam_channel::bounded(1);
    let mut config_of = MailConfig::new("127.0.0.1:0".parse().unwrap(), dir.path().join("new/dir"));
    config_of.socket = config();
    std::thread::scope(|scope| {
        let running =
            scope.spawn(|| run(config_of, |mail| up.send(mail.server().addr()).unwrap(), &stopped));
        let mut front = Front::connect(is_up.recv_timeout(PATIENCE).unwrap());
        assert!(front.grant(1, LEASE));
        done(&front.one(1, mail(1, "inbox", "x")));
        stop.send(()).unwrap();
        running.join().unwrap().unwrap();
    });
}

/// Keeps no ledger, and does what the payload says.
#[derive(Debug)]
struct Plain {
    epochs: std::path::PathBuf,
    jobs: AtomicUsize,
    able: AtomicBool,
}

impl Backend for Plain {
    fn class(&self) -> Class {
        Class::Opaque
    }

    fn epoch_store(&self) -> io::Result<Box<dyn EpochStore>> {
        Ok(Box::new(FileEpochs::open(&self.epochs)?))
    }

    fn execute(&self, _epoch: u64, items: &[Record], permit: &Permit) -> CallResult {
        let does = |item: &Record| match item.payload.as_slice() {
            b"panic" => panic!("as it was asked to"),
            _ => ItemResult::Done { answer: item.payload.clone(), again: false },
        };
        let mut results: Vec<_> = items.iter().map(does).collect();
        permit.still()?;
        if items.iter().any(|item| item.payload == b"short") {
            results.pop();
        }
        Ok(results)
    }

    fn run_job(&self, epoch: u64, job: u64, items: &[Record], permit: &Permit) -> CallResult {
        self.jobs.fetch_add(usize::try_from(job).unwrap(), Ordering::SeqCst);
        self.execute(epoch, items, permit)
    }

    fn admit(&self, _epoch: u64) -> Result<(), String> {
        if self.able.load(Ordering::SeqCst) { Ok(()) } else { Err("not able".to_owned()) }
    }
}

#[test]
fn backends_of_all_sorts_are_guarded() {
    let dir = Directory::new();
    let (epochs, jobs) = (dir.path().to_owned(), AtomicUsize::new(0));
    let plain = Arc::new(Plain { epochs, jobs, able: AtomicBool::new(false) });
    let guarded = Guarded::new(Arc::<Plain>::clone(&plain)).unwrap();
    let grant = Grant { epoch: 5, lease: LEASE, stamp: guarded.report().stamp };
    let why = "not able".to_owned();
    assert_eq!(guarded.grant(&grant), Err(GrantRefused::NotAble { why }));
    // One that is no good anyway does not get as far as the backend.
    let of_other_run = Grant { stamp: Stamp::default(), ..grant };
    assert_eq!(guarded.grant(&of_other_run), Err(GrantRefused::OtherRun));
    plain.able.store(true, Ordering::SeqCst);
    guarded.grant(&grant).unwrap();
    let call = |job, payload: &str| {
        let items = [record(1, Kind::Write, "k", payload.as_bytes())].into();
        guarded.execute(&IncomingCall { epoch: 5, job, items })
    };
    assert_eq!(done(&call(None, "x").unwrap()[0]), (&b"x"[..], false));
    assert_eq!(plain.jobs.load(Ordering::SeqCst), 0);
    call(Some(3), "x").unwrap();
    assert_eq!(plain.jobs.load(Ordering::SeqCst), 3);
    assert!(matches!(call(None, "panic"), Err(CallFailed::Lost(_))));
    assert!(matches!(call(None, "short"), Err(CallFailed::Lost(_))));
    // A panic holds nothing up.
    assert!(guarded.release(5, PATIENCE));
    assert_eq!(call(None, "x"), Err(CallFailed::Fenced { asked: 5, seen: 5 }));
    let many: Vec<_> = (0..257).map(|id| record(id, Kind::Write, "k", b"x")).collect();
    let many = IncomingCall { epoch: 5, job: None, items: many.into() };
    assert!(matches!(guarded.execute(&many), Err(CallFailed::Unreachable(_))));
    assert_eq!(Guarded::new(plain).unwrap().report().seen, 5);
}

/// Answers probes while it is told to.
#[derive(Debug, Default)]
struct Other {
    up: AtomicBool,
    probes: AtomicU32,
}

impl Target for Other {
    fn class(&self) -> Class {
        Class::Ledger
    }

    fn call(&self, _call: Call, reply: Reply<CallResult>) {
        reply(Err(CallFailed::Unreachable("it answers probes only".to_owned())));
    }

    fn probe(&self, _timeout: Duration, reply: Reply<Option<Report>>) {
        self.probes.fetch_add(1, Ordering::SeqCst);
        let report = Report {
            ready: true,
            holds: Some(1),
            seen: 1,
            wants_switch: false,
            stamp: Stamp::default(),
        };
        reply(self.up.load(Ordering::SeqCst).then_some(report));
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

#[test]
fn a_standby_whose_main_is_gone_asks_for_a_switch() {
    let dir = Directory::new();
    let server = mail_server(&dir);
    let other = Arc::new(Other::default());
    other.up.store(true, Ordering::SeqCst);
    let every = Duration::from_millis(5);
    let config = MonitorConfig { every, timeout: Duration::from_secs(5), misses: 3 };
    let monitor = PairMonitor::start(Arc::<Other>::clone(&other), config).unwrap();
    server.server().guarded().set_monitor(monitor);
    let mut front = Front::connect(server.server().addr());
    wait_for("it watches", || other.probes.load(Ordering::SeqCst) > 5);
    assert!(!front.report().wants_switch);
    other.up.store(false, Ordering::SeqCst);
    wait_for("it misses the other", || front.report().wants_switch);
    // As the main itself it does not ask for another.
    assert!(front.grant(2, LEASE));
    assert!(!front.report().wants_switch);
    assert!(front.release(2));
    assert!(front.report().wants_switch);
    other.up.store(true, Ordering::SeqCst);
    wait_for("it hears the other", || !front.report().wants_switch);
}

#[test]
fn a_standby_watches_its_main_over_a_virtual_socket() {
    let (main_dir, dir) = (Directory::new(), Directory::new());
    let main = Process::start(main_dir.path());
    let mut link = LinkConfig::new("the main");
    link.socket.grace = Duration::from_secs(2);
    let timeout = Duration::from_secs(2);
    let watched = MonitorConfig { every: Duration::from_millis(20), timeout, misses: 2 };
    let mut config_of = MailConfig::new("127.0.0.1:0".parse().unwrap(), dir.path().to_owned());
    config_of.socket = config();
    config_of.watch = Some(Watch { peer: vec![main.addr], link, config: watched });
    let standby = MailServer::start(config_of).unwrap();
    let mut front = Front::connect(standby.server().addr());
    wait_for("it hears its main", || !front.report().wants_switch);
    drop(main);
    wait_for("it misses its main", || front.report().wants_switch);
    assert!(front.grant(1, LEASE));
    assert!(!front.report().wants_switch);
}
