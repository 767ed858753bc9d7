//! A server's end of the link to fronts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use eversock_spool::record::Record;
use eversock_spool::serve::{
    CallReplyMessage, Handler, IncomingCall, RESULTS_BYTES_MAX, ServeConfig, Serving, serve,
};
use eversock_spool::target::{Class, Grant, ItemResult, Report, Stamp};
use eversock_spool::wire::codes::{bye, kind};
use eversock_spool::wire::{Bye, Role, SenderMessage, ServerMessage};
use eversock_spool::{Kind, RequestId};

use crate::common::{PATIENCE, Raw, config, listen, locked, request, wait_for};

/// Answers each item with its payload; calls of epoch 9 wait at a gate, those of epoch 1 are
/// fenced, those of epoch 2 panic, those of epoch 3 have a result too few, and those of epoch 8
/// answers of [`BIG`] bytes.
pub(crate) struct Fake {
    pub(crate) class: Class,
    pub(crate) gate: Gate,
    /// Calls that were begun.
    pub(crate) begun: AtomicUsize,
    pub(crate) done: Mutex<Vec<RequestId>>,
    pub(crate) granted: Mutex<Vec<Grant>>,
}

/// Two of them do not go into one message.
const BIG: usize = RESULTS_BYTES_MAX / 2 + 1;

/// Closed until it is opened.
#[derive(Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn set(&self, open: bool) {
        *locked(&self.open) = open;
        self.opened.notify_all();
    }

    pub(crate) fn pass(&self) {
        let open = locked(&self.open);
        let waited = self.opened.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap();
        assert!(*waited.0, "the gate stays closed");
    }
}

impl Fake {
    pub(crate) fn new(class: Class) -> Arc<Self> {
        Arc::new(Self {
            class,
            gate: Gate::default(),
            begun: AtomicUsize::new(0),
            done: Mutex::default(),
            granted: Mutex::default(),
        })
    }
}

pub(crate) const REPORT: Report = Report {
    ready: true,
    holds: Some(4),
    seen: 5,
    wants_switch: false,
    stamp: Stamp { run: 6, at_us: 7 },
};

impl Handler for Fake {
    fn class(&self) -> Class {
        self.class
    }

    fn execute(&self, call: IncomingCall) -> CallReplyMessage {
        self.begun.fetch_add(1, Ordering::SeqCst);
        match call.epoch {
            1 => return CallReplyMessage::Fenced { seen: 5 },
            2 => panic!("a handler that panics, as the test wants"),
            3 => return CallReplyMessage::Results(Vec::new()),
            9 => self.gate.pass(),
            _ => {}
        }
        let items = call.items.iter();
        locked(&self.done).extend(items.clone().map(|item| item.id));
        let answer = |item: &Record| match call.epoch {
            8 => vec![1; BIG],
            _ => item.payload.clone(),
        };
        let done = |item| ItemResult::Done { answer: answer(item), again: false };
        CallReplyMessage::Results(items.map(done).collect())
    }

    fn report(&self) -> Report {
        REPORT
    }

    fn grant(&self, grant: Grant) -> bool {
        locked(&self.granted).push(grant);
        grant.epoch > 5
    }

    fn release(&self, epoch: u64, timeout: Duration) -> bool {
        self.gate.pass();
        epoch == 4 && timeout == Duration::from_millis(77)
    }
}

pub(crate) fn records(ids: std::ops::Range<u128>, payload: &[u8]) -> Arc<[Record]> {
    ids.map(|id| Record::new(request(id, Kind::Write, payload), 7, 0)).collect()
}

fn start(handler: &Arc<Fake>, config: ServeConfig) -> Serving {
    serve(listen(), Arc::<Fake>::clone(handler), config).unwrap()
}

fn front(addr: SocketAddr, class: Class) -> Raw {
    let mut front = Raw::hello(addr, Role::Front, ServerMessage::Hello);
    assert_eq!(front.next(), Some(ServerMessage::Welcome { version: 1, class }));
    front
}

fn execute(call: u64, epoch: u64, items: &Arc<[Record]>) -> ServerMessage {
    ServerMessage::Execute { call, epoch, job: None, items: Arc::clone(items) }
}

fn done(call: u64, answers: &[&[u8]]) -> ServerMessage {
    let done = |answer: &&[u8]| ItemResult::Done { answer: answer.to_vec(), again: false };
    ServerMessage::Results { call, results: answers.iter().map(done).collect() }
}

#[test]
fn probes_and_grants_are_answered_while_calls_and_releases_wait() {
    let handler = Fake::new(Class::Ledger);
    let serving = start(&handler, ServeConfig { workers: 2, ..ServeConfig::default() });
    let mut front = front(serving.addr(), Class::Ledger);
    front.send(&execute(1, 9, &records(0..1, b"one")));
    front.send(&execute(2, 9, &records(1..2, b"two")));
    front.send(&execute(3, 7, &records(2..3, b"three")));
    front.send(&ServerMessage::Release { n: 1, epoch: 4, timeout_ms: 77 });
    front.send(&ServerMessage::Probe { n: 2 });
    assert_eq!(front.next(), Some(ServerMessage::Report { n: 2, report: REPORT }));
    let grant = Grant { epoch: 6, lease: Duration::from_secs(3), stamp: REPORT.stamp };
    front.send(&ServerMessage::Grant { n: 3, grant });
    assert_eq!(front.next(), Some(ServerMessage::Granted { n: 3, done: true }));
    assert_eq!(*locked(&handler.granted), [grant]);
    wait_for("both threads have a call", || handler.begun.load(Ordering::SeqCst) == 2);
    handler.gate.set(true);
    let mut answers: Vec<ServerMessage> = (0..4).map(|_| front.next().unwrap()).collect();
    let all = [
        done(1, &[b"one"]),
        done(2, &[b"two"]),
        done(3, &[b"three"]),
        ServerMessage::Released { n: 1, done: true },
    ];
    all.iter().for_each(|wanted| {
        let at = answers.iter().position(|answer| answer == wanted).unwrap();
        answers.remove(at);
    });
    serving.close();
}

#[test]
fn calls_beyond_the_pool_are_answered_with_later_and_not_done() {
    let handler = Fake::new(Class::Idempotent);
    let serving =
        start(&handler, ServeConfig { workers: 1, queue_max: 2, ..ServeConfig::default() });
    let mut front = front(serving.addr(), Class::Idempotent);
    front.send(&execute(1, 9, &records(0..1, b"")));
    wait_for("a thread has the first", || handler.begun.load(Ordering::SeqCst) == 1);
    for call in 2..6 {
        front.send(&execute(call, 9, &records(u128::from(call)..u128::from(call) + 2, b"")));
    }
    for call in 4..6 {
        let Some(ServerMessage::Results { call: of, results }) = front.next() else { panic!() };
        assert_eq!(of, call);
        assert!(matches!(results[..], [ItemResult::Later { .. }, ItemResult::Later { .. }]));
    }
    handler.gate.set(true);
    for (call, items) in [(1, 1), (2, 2), (3, 2)] {
        assert_eq!(front.next(), Some(done(call, &vec![&b""[..]; items])));
    }
    assert_eq!(locked(&handler.done).len(), 5);
}

#[test]
fn a_call_over_the_budget_of_bytes_is_not_done_unless_it_is_alone() {
    let handler = Fake::new(Class::Ledger);
    let serving = start(&handler, ServeConfig { bytes_max: 1000, ..ServeConfig::default() });
    let mut front = front(serving.addr(), Class::Ledger);
    let big = vec![5; 5000];
    front.send(&execute(1, 9, &records(0..1, &big)));
    wait_for("it is begun", || handler.begun.load(Ordering::SeqCst) == 1);
    front.send(&execute(2, 9, &records(1..2, b"")));
    let Some(ServerMessage::Results { call: 2, results }) = front.next() else { panic!() };
    assert!(matches!(results[..], [ItemResult::Later { .. }]));
    handler.gate.set(true);
    assert_eq!(front.next(), Some(done(1, &[&big])));
}

#[test]
fn a_fenced_call_says_what_was_seen_and_one_without_results_is_not_answered() {
    let handler = Fake::new(Class::Opaque);
    let serving = start(&handler, ServeConfig { workers: 1, ..ServeConfig::default() });
    let mut front = front(serving.addr(), Class::Opaque);
    for (call, epoch) in [(1, 1), (2, 2), (3, 3), (4, 1), (5, 4)] {
        front.send(&execute(call, epoch, &records(0..2, b"x")));
    }
    assert_eq!(front.next(), Some(ServerMessage::Fenced { call: 1, seen: 5 }));
    assert_eq!(front.next(), Some(ServerMessage::Fenced { call: 4, seen: 5 }));
    assert_eq!(front.next(), Some(done(5, &[b"x", b"x"])));
}

#[test]
fn answers_that_do_not_fit_are_asked_for_again_or_left_out() {
    let left_out = ItemResult::Done { answer: Vec::new(), again: false };
    let later = ItemResult::Later { after: Duration::ZERO };
    for (class, last, wanted) in [
        (Class::Ledger, Kind::Write, &later),
        (Class::Ledger, Kind::Read, &later),
        (Class::Idempotent, Kind::Write, &left_out),
        (Class::Opaque, Kind::Read, &later),
        (Class::Opaque, Kind::Custom(1), &left_out),
    ] {
        let handler = Fake::new(class);
        let serving = start(&handler, ServeConfig::default());
        let mut front = front(serving.addr(), class);
        let items: Arc<[Record]> = [Kind::Write, last, Kind::Search]
            .map(|kind| Record::new(request(1, kind, b"x"), 7, 0))
            .into();
        front.send(&execute(1, 8, &items));
        let Some(ServerMessage::Results { results, .. }) = front.next() else { panic!() };
        let ItemResult::Done { answer, .. } = &results[0] else { panic!() };
        assert_eq!(answer.len(), BIG);
        assert_eq!((&results[1], &results[2]), (wanted, &later), "{class:?}, {last}");
    }
}

#[test]
fn a_strangers_first_words_are_refused_with_a_reason() {
    let handler = Fake::new(Class::Ledger);
    let serving = start(&handler, ServeConfig::default());
    let reason = |raw: &mut Raw| match raw.next::<ServerMessage>() {
        Some(ServerMessage::Bye(bye)) => bye,
        other => panic!("{other:?}"),
    };
    let mut sender = Raw::hello(serving.addr(), Role::Sender, SenderMessage::Hello);
    let Bye { code, text } = reason(&mut sender);
    assert!(code == bye::MISMATCH && text.contains("Front"), "{text}");
    assert_eq!(sender.next::<ServerMessage>(), None);

    let mut large = Raw::connect(serving.addr());
    large.write(&[0, 0, 1, 0, 1, 0]);
    assert_eq!(reason(&mut large).code, bye::MALFORMED);

    let mut early = Raw::connect(serving.addr());
    early.send(&ServerMessage::Probe { n: 1 });
    assert_eq!(reason(&mut early).code, bye::MALFORMED);

    let mut later = front(serving.addr(), Class::Ledger);
    later.send(&ServerMessage::Report { n: 1, report: REPORT });
    let Bye { code, text } = reason(&mut later);
    assert!(code == bye::MALFORMED && text.contains(&format!("{:#06x}", kind::REPORT)), "{text}");
    assert_eq!(later.next::<ServerMessage>(), None);
    wait_for("all are gone", || serving.connections() == 0);
}

#[test]
fn fronts_beyond_the_limit_are_told_so_and_room_is_made_again() {
    let handler = Fake::new(Class::Ledger);
    let serving = start(&handler, ServeConfig { connections_max: 2, ..ServeConfig::default() });
    let first = front(serving.addr(), Class::Ledger);
    let _second = front(serving.addr(), Class::Ledger);
    let mut third = Raw::connect(serving.addr());
    let Some(ServerMessage::Bye(Bye { code: bye::FULL, text })) = third.next() else { panic!() };
    assert!(text.contains('2'), "{text}");
    drop(first);
    wait_for("the first is gone", || serving.connections() == 1);
    front(serving.addr(), Class::Ledger);
}

#[test]
fn a_front_that_reads_nothing_stops_being_read_and_others_go_on() {
    let handler = Fake::new(Class::Ledger);
    let serving = start(&handler, ServeConfig::default());
    // Little credit, so that what is not read soon stands still.
    let small = eversock_engine::Config { window: 16 << 10, window_max: 16 << 10, ..config() };
    let stream = eversock_socket::VirtualStream::connect_with(serving.addr(), small).unwrap();
    let deaf = Raw::of(stream);
    deaf.send(&ServerMessage::Hello(eversock_spool::wire::Hello::new(Role::Front)));
    deaf.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut probe = Vec::new();
    for n in 0..1000 {
        eversock_spool::wire::frame::put(&ServerMessage::Probe { n }, &mut probe).unwrap();
    }
    let mut written = 0;
    let blocked = loop {
        match std::io::Write::write(&mut &*deaf.stream, &probe[written % probe.len()..]) {
            Ok(n) => written += n,
            Err(error) => break error,
        }
        assert!(written < 256 << 20, "the server reads all and keeps all answers");
    };
    assert_eq!(blocked.kind(), std::io::ErrorKind::WouldBlock);
    let mut other = front(serving.addr(), Class::Ledger);
    other.send(&ServerMessage::Probe { n: 2 });
    assert_eq!(other.next(), Some(ServerMessage::Report { n: 2, report: REPORT }));
    serving.close();
    assert_eq!(serving.connections(), 0);
}
