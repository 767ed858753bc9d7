//! A front's end of the link to a server.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eversock_chaos::{Config as ChaosConfig, Fault, Proxy, Target as Hits};
use eversock_engine::Config;
use eversock_spool::link::{FenceCommand, LinkConfig, SocketTarget};
use eversock_spool::record::Record;
use eversock_spool::serve::{ServeConfig, Serving, serve};
use eversock_spool::target::{
    Call, CallFailed, CallResult, Class, Grant, ItemResult, Report, Target,
};
use eversock_spool::wire::codes::bye;
use eversock_spool::wire::{Bye, ServerMessage};
use proptest::prelude::*;

use crate::common::{Elsewhere, PATIENCE, Raw, listen, listen_again, locked, wait_for};
use crate::serve::{Fake, REPORT, records};

fn start(handler: &Arc<Fake>) -> Serving {
    serve(listen(), Arc::<Fake>::clone(handler), ServeConfig::default()).unwrap()
}

fn link_config() -> LinkConfig {
    let mut config = LinkConfig::new("the server under test");
    config.back_off = (Duration::from_millis(5), Duration::from_millis(50));
    config
}

/// A link that has connected.
fn link(addr: SocketAddr, config: LinkConfig) -> Arc<SocketTarget> {
    let target = SocketTarget::new(vec![addr], config).unwrap();
    wait_for("the link connects", || target.is_connected());
    target
}

fn call(target: &SocketTarget, epoch: u64, items: Arc<[Record]>) -> Receiver<CallResult> {
    timed_call(target, epoch, items, PATIENCE)
}

fn timed_call(
    target: &SocketTarget,
    epoch: u64,
    items: Arc<[Record]>,
    timeout: Duration,
) -> Receiver<CallResult> {
    let (tell, told) = mpsc::channel();
    let call = Call { epoch, items, job: None, timeout };
    target.call(call, Box::new(move |result| tell.send(result).unwrap_or(())));
    told
}

fn answer(told: &Receiver<CallResult>) -> CallResult {
    told.recv_timeout(PATIENCE).unwrap()
}

fn probe(target: &SocketTarget) -> Option<Report> {
    let (tell, told) = mpsc::channel();
    target.probe(PATIENCE, Box::new(move |report| tell.send(report).unwrap()));
    told.recv_timeout(PATIENCE).unwrap()
}

fn ask_bool(ask: impl FnOnce(Box<dyn FnOnce(bool) + Send>)) -> bool {
    let (tell, told) = mpsc::channel();
    ask(Box::new(move |done| tell.send(done).unwrap()));
    told.recv_timeout(PATIENCE).unwrap()
}

fn done(answer: &[u8], items: usize) -> CallResult {
    Ok(vec![ItemResult::Done { answer: answer.to_vec(), again: false }; items])
}

#[test]
fn every_question_gets_its_answer() {
    let handler = Fake::new(Class::Idempotent);
    let serving = start(&handler);
    let target = link(serving.addr(), link_config());
    assert_eq!(target.class(), Class::Idempotent);
    let slow = call(&target, 9, records(0..3, b"slow"));
    assert_eq!(answer(&call(&target, 7, records(3..5, b"quick"))), done(b"quick", 2));
    assert_eq!(probe(&target), Some(REPORT));
    let fenced = Err(CallFailed::Fenced { asked: 1, seen: 5 });
    assert_eq!(answer(&call(&target, 1, records(5..6, b""))), fenced);
    let lease = Duration::from_secs(60);
    let grant = |epoch| {
        let grant = Grant { epoch, lease, stamp: REPORT.stamp };
        ask_bool(|reply| target.grant(grant, reply))
    };
    assert_eq!((grant(6), grant(5)), (true, false));
    handler.gate.set(true);
    assert_eq!(answer(&slow), done(b"slow", 3));
    assert!(!ask_bool(|reply| target.release(4, PATIENCE, reply)));
    assert!(ask_bool(|reply| target.release(4, Duration::from_millis(77), reply)));
    assert!(!ask_bool(|reply| target.fence(reply)), "there is no command");
    target.close();
    assert_eq!(probe(&target), None);
}

#[test]
fn a_cut_of_the_connection_is_no_failure() {
    let handler = Fake::new(Class::Ledger);
    let serving = start(&handler);
    let chaos = ChaosConfig::new("127.0.0.1:0".parse().unwrap(), serving.addr());
    let proxy = Proxy::spawn(chaos).unwrap();
    let mut config = link_config();
    config.socket.grace = Duration::from_secs(60);
    config.socket.grace_after_close = Duration::from_secs(60);
    let target = link(proxy.local_addr(), config);
    let calls: Vec<_> = (0..20).map(|n| call(&target, 9, records(n..n + 1, b"9"))).collect();
    wait_for("some are begun", || handler.begun.load(Ordering::SeqCst) == 4);
    for _ in 0..3 {
        proxy.inject(Fault::Reset, Hits::All).unwrap();
        assert_eq!(probe(&target), Some(REPORT));
    }
    // The answers meet a dead connection.
    proxy.inject(Fault::Reset, Hits::All).unwrap();
    handler.gate.set(true);
    for told in &calls {
        assert_eq!(answer(told), done(b"9", 1));
    }
    assert!(target.is_connected());
    assert_eq!(serving.connections(), 1, "it is still the first session");
    assert_eq!(locked(&handler.done).len(), 20);
    target.close();
    proxy.stop();
}

#[test]
fn calls_of_a_lost_server_are_lost_and_later_ones_unreachable() {
    let handler = Fake::new(Class::Ledger);
    let serving = start(&handler);
    let mut config = link_config();
    config.socket.grace = Duration::from_millis(200);
    config.socket.grace_after_close = Duration::from_millis(200);
    let target = link(serving.addr(), config);
    let lost = call(&target, 9, records(0..1, b""));
    wait_for("it is begun", || handler.begun.load(Ordering::SeqCst) == 1);
    let addr = serving.addr();
    let closer = std::thread::spawn(move || serving.close());
    let failed = answer(&lost).unwrap_err();
    assert!(matches!(failed, CallFailed::Lost(_)), "{failed}");
    wait_for("nobody listens", || std::net::TcpStream::connect(addr).is_err());
    wait_for("the link knows", || !target.is_connected());
    let failed = answer(&call(&target, 7, records(0..1, b""))).unwrap_err();
    assert!(matches!(&failed, CallFailed::Unreachable(_)), "{failed}");
    assert_eq!(probe(&target), None);
    handler.gate.set(true);
    closer.join().unwrap();

    // And is found again when it comes back.
    let serving =
        serve(listen_again(addr), Arc::<Fake>::clone(&handler), ServeConfig::default()).unwrap();
    wait_for("the link connects again", || target.is_connected());
    assert_eq!(answer(&call(&target, 7, records(1..2, b"back"))), done(b"back", 1));
    serving.close();
}

/// A server of its own for the next test; by itself, one that answers.
#[test]
fn a_server_that_another_test_can_kill() {
    let handler = Fake::new(Class::Ledger);
    if let Some((listener, _)) = Elsewhere::listener() {
        let _serving = serve(listener, handler, ServeConfig::default()).unwrap();
        return Elsewhere::serve();
    }
    let serving = start(&handler);
    assert_eq!(probe(&link(serving.addr(), link_config())), Some(REPORT));
}

#[test]
fn a_server_that_was_started_anew_is_known_at_once_and_not_after_the_grace() {
    let name = "link::a_server_that_another_test_can_kill";
    let first = Elsewhere::start(name, "127.0.0.1:0".parse().unwrap());
    let mut config = link_config();
    config.socket.grace = Duration::from_secs(600);
    config.socket.grace_after_close = Duration::from_secs(600);
    let target = link(first.addr, config);
    let lost = call(&target, 9, records(0..1, b""));
    // Probes are answered in the order of what was read.
    assert_eq!(probe(&target), Some(REPORT));
    let second = Elsewhere::start(name, first.kill());
    let failed = answer(&lost).unwrap_err();
    assert!(matches!(failed, CallFailed::Lost(_)), "{failed}");
    wait_for("the link connects again", || target.is_connected());
    assert_eq!(probe(&target), Some(REPORT));
    target.close();
    drop(second);
}

#[test]
fn what_is_not_answered_in_time_times_out_and_a_late_answer_is_nobodys() {
    let handler = Fake::new(Class::Ledger);
    let serving = start(&handler);
    let target = link(serving.addr(), link_config());
    let began = Instant::now();
    let late = timed_call(&target, 9, records(0..1, b""), Duration::from_millis(50));
    assert_eq!(answer(&late), Err(CallFailed::TimedOut));
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert!(!ask_bool(|reply| target.release(4, Duration::from_millis(20), reply)));
    handler.gate.set(true);
    assert_eq!(answer(&call(&target, 7, records(1..2, b"next"))), done(b"next", 1));
    assert!(late.recv().is_err(), "its callback is gone");
}

#[test]
fn what_cannot_be_written_in_time_surely_never_reached_the_server() {
    let listener = listen();
    let addr = listener.local_addr().unwrap();
    let mut config = link_config();
    config.socket = Config { window: 16 << 10, window_max: 16 << 10, ..config.socket };
    let target = SocketTarget::new(vec![addr], config).unwrap();
    // A server that welcomes and then reads nothing.
    let mut server = Raw::of(listener.accept().unwrap().0);
    assert!(matches!(server.next(), Some(ServerMessage::Hello(_))));
    server.send(&ServerMessage::Welcome { version: 1, class: Class::Ledger });
    wait_for("the link connects", || target.is_connected());
    let timeout = Duration::from_secs(3);
    let big = vec![1; 4 << 20];
    let first = timed_call(&target, 7, records(0..1, &big), timeout);
    let rest: Vec<_> =
        (1..4).map(|n| timed_call(&target, 7, records(n..n + 1, &big), timeout)).collect();
    assert_eq!(answer(&first), Err(CallFailed::TimedOut));
    for told in rest {
        let failed = answer(&told).unwrap_err();
        assert!(matches!(failed, CallFailed::Unreachable(_)), "{failed}");
    }
    target.close();
}

#[test]
fn calls_beyond_the_bounds_are_refused_with_a_reason() {
    let handler = Fake::new(Class::Ledger);
    let serving = start(&handler);
    let mut config = link_config();
    config.in_flight_max = 3;
    config.bytes_in_flight_max = 1000;
    let target = link(serving.addr(), config);
    let why = |told: &Receiver<CallResult>| match answer(told) {
        Err(CallFailed::Unreachable(why)) => why,
        other => panic!("{other:?}"),
    };
    // One alone goes, however large.
    let large = call(&target, 9, records(0..1, &[0; 2000]));
    assert!(why(&call(&target, 9, records(0..1, b""))).contains("bytes are under way"));
    handler.gate.set(true);
    assert_eq!(answer(&large), done(&[0; 2000], 1));
    handler.gate.set(false);
    let three: Vec<_> = (0..3).map(|n| call(&target, 9, records(n..n + 1, b""))).collect();
    assert!(why(&call(&target, 7, records(0..1, b""))).contains("3 calls are under way"));
    handler.gate.set(true);
    three.iter().for_each(|told| assert_eq!(answer(told), done(b"", 1)));
    assert!(why(&call(&target, 7, records(0..257, b""))).contains("257 items"));
    let huge = vec![0; 40 << 20];
    assert!(why(&call(&target, 7, records(0..1, &huge))).contains("too many for one call"));
}

#[test]
fn a_server_of_another_class_is_refused_and_both_are_told() {
    let handler = Fake::new(Class::Opaque);
    let serving = start(&handler);
    let mut config = link_config();
    config.class = Some(Class::Ledger);
    let target = SocketTarget::new(vec![serving.addr()], config.clone()).unwrap();
    wait_for("it says why", || {
        target.error().is_some_and(|error| error.contains("is Opaque") && error.contains("Ledger"))
    });
    assert!(!target.is_connected());
    let failed = answer(&call(&target, 7, records(0..1, b""))).unwrap_err();
    assert!(failed.to_string().contains("configured as Ledger"), "{failed}");
    target.close();

    let listener = listen();
    let addr = listener.local_addr().unwrap();
    let target = SocketTarget::new(vec![addr], config).unwrap();
    let mut server = Raw::of(listener.accept().unwrap().0);
    assert!(matches!(server.next(), Some(ServerMessage::Hello(_))));
    server.send(&ServerMessage::Welcome { version: 1, class: Class::Opaque });
    let Some(ServerMessage::Bye(Bye { code: bye::MISMATCH, text })) = server.next() else {
        panic!("the server is not told");
    };
    assert!(text.contains("is Opaque"), "{text}");
    target.close();
}

#[test]
fn a_server_that_talks_nonsense_is_left() {
    let listener = listen();
    let addr = listener.local_addr().unwrap();
    let target = SocketTarget::new(vec![addr], link_config()).unwrap();
    let mut server = Raw::of(listener.accept().unwrap().0);
    assert!(matches!(server.next(), Some(ServerMessage::Hello(_))));
    server.send(&ServerMessage::Welcome { version: 1, class: Class::Ledger });
    wait_for("the link connects", || target.is_connected());
    let told = call(&target, 7, records(0..2, b""));
    let Some(ServerMessage::Execute { call: number, .. }) = server.next() else { panic!() };
    // An answer to what was not asked is late for all the link knows.
    server.send(&ServerMessage::Granted { n: number + 1, done: true });
    let results = vec![ItemResult::Later { after: Duration::ZERO }];
    server.send(&ServerMessage::Results { call: number, results });
    let failed = answer(&told).unwrap_err();
    assert!(failed.to_string().contains("1 results for 2 items"), "{failed}");
    let told = call(&target, 7, records(0..2, b""));
    let Some(ServerMessage::Execute { .. }) = server.next() else { panic!() };
    server.write(&[0, 0, 0, 0, 0x77, 0x07]);
    let failed = answer(&told).unwrap_err();
    assert!(matches!(&failed, CallFailed::Lost(why) if why.contains("0x0777")), "{failed}");
    let mut again = Raw::of(listener.accept().unwrap().0);
    assert!(matches!(again.next(), Some(ServerMessage::Hello(_))));
    target.close();
}

#[test]
fn the_fence_command_has_a_bounded_time_and_is_killed_after_it() {
    let handler = Fake::new(Class::Opaque);
    let serving = start(&handler);
    let fence = |args: &[&str], timeout| {
        let mut command = FenceCommand::new("/bin/sh");
        command.args = args.iter().map(|&arg| arg.to_owned()).collect();
        command.timeout = timeout;
        let mut config = link_config();
        config.fence = Some(command);
        let target = link(serving.addr(), config);
        let asked = |reply| target.fence(reply);
        ask_bool(asked)
    };
    let wanted = r#"test "$EVS_TARGET" = "the server under test""#;
    assert!(fence(&["-c", wanted], PATIENCE));
    assert!(!fence(&["-c", "exit 3"], PATIENCE));
    let began = Instant::now();
    assert!(!fence(&["-c", "exec sleep 1000"], Duration::from_millis(100)));
    assert!(began.elapsed() < PATIENCE);
}

#[derive(Debug, Clone)]
enum Step {
    Call { epoch: u64, timeout_ms: u64 },
    Probe { timeout_ms: u64 },
    Grant,
    Release,
    Gate(bool),
    Cut,
    Restart,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let timeout_ms = || prop_oneof![0..5u64, 5..60u64, Just(20_000)];
    prop_oneof![
        6 => (prop_oneof![Just(1), Just(7), Just(9)], timeout_ms())
            .prop_map(|(epoch, timeout_ms)| Step::Call { epoch, timeout_ms }),
        2 => timeout_ms().prop_map(|timeout_ms| Step::Probe { timeout_ms }),
        1 => Just(Step::Grant),
        1 => Just(Step::Release),
        1 => any::<bool>().prop_map(Step::Gate),
        1 => Just(Step::Cut),
        1 => Just(Step::Restart),
        2 => (0..30u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        max_shrink_iters: 20,
        ..ProptestConfig::default()
    })]

    #[test]
    fn each_callback_is_called_once_whatever_happens(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let handler = Fake::new(Class::Ledger);
        let mut serving = Some(start(&handler));
        let addr = serving.as_ref().map(Serving::addr).unwrap();
        let chaos = ChaosConfig::new("127.0.0.1:0".parse().unwrap(), addr);
        let proxy = Proxy::spawn(chaos).unwrap();
        let mut config = link_config();
        config.in_flight_max = 8;
        let target = link(proxy.local_addr(), config);
        let told = Arc::new(Mutex::new(Vec::new()));
        let mut asked = 0;
        for step in &steps {
            let (number, told) = (asked, Arc::clone(&told));
            let tell = move || locked(&told).push(number);
            match *step {
                Step::Call { epoch, timeout_ms } => {
                    let items = records(0..2, b"x");
                    let timeout = Duration::from_millis(timeout_ms);
                    let call = Call { epoch, items, job: Some(1), timeout };
                    target.call(call, Box::new(move |result| {
                        assert!(result.is_err() || result.is_ok_and(|results| results.len() == 2));
                        tell();
                    }));
                    asked += 1;
                }
                Step::Probe { timeout_ms } => {
                    let timeout = Duration::from_millis(timeout_ms);
                    target.probe(timeout, Box::new(move |_| tell()));
                    asked += 1;
                }
                Step::Grant => {
                    let lease = Duration::from_millis(50);
                    let grant = Grant { epoch: 6, lease, stamp: REPORT.stamp };
                    target.grant(grant, Box::new(move |_| tell()));
                    asked += 1;
                }
                Step::Release => {
                    target.release(4, Duration::from_millis(77), Box::new(move |_| tell()));
                    asked += 1;
                }
                Step::Gate(open) => handler.gate.set(open),
                Step::Cut => drop(proxy.inject(Fault::Reset, Hits::All)),
                Step::Restart => {
                    handler.gate.set(true);
                    drop(serving.take());
                    let (listener, handler) = (listen_again(addr), Arc::<Fake>::clone(&handler));
                    serving = Some(serve(listener, handler, ServeConfig::default()).unwrap());
                }
                Step::Wait(ms) => std::thread::sleep(Duration::from_millis(ms)),
            }
        }
        handler.gate.set(true);
        target.close();
        let mut told = std::mem::take(&mut *locked(&told));
        told.sort_unstable();
        prop_assert_eq!(told, (0..asked).collect::<Vec<_>>());
        proxy.stop();
    }
}
