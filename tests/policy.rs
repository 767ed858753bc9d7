//! Whether and how sessions are recovered, and what the program is told when they are not.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::child::{Helper, hear, role, say};
use common::{
    Ends, MIB, begin, data, ends, exchange, pair, proxy_to, quick, read_all, read_exactly,
    send_and_end, wait_until, while_cutting,
};
use eversock::{
    Answer, Config, EventKind, LineUp, PresharedKey, RecoveryPolicy, State, VirtualListener,
    VirtualStream,
};
use eversock_chaos::{Fault, Refusal, Target};

fn cut(ends: &Ends) {
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
}

fn number<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap()
}

/// One honest error, then the end and broken pipes, whichever call comes first.
fn has_failed_with(mut stream: &VirtualStream, expected: i32) {
    assert_eq!(number(stream.read(&mut [0; 1])), expected);
    for _ in 0..2 {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(number(stream.write(b"x")), libc::EPIPE);
    }
    assert_eq!(stream.info().unwrap().state, State::Failed);
}

#[test]
fn policy_never_gives_one_error_at_the_first_fault() {
    let config = Config { policy: RecoveryPolicy::Never, ..quick() };
    let ends = ends("127.0.0.1:0", config.clone(), config);
    cut(&ends);
    has_failed_with(&ends.client, libc::ECONNRESET);
    has_failed_with(&ends.server, libc::ECONNRESET);
    assert_eq!(ends.proxy.stats().summary.accepted, 1, "it was redialled");
}

#[test]
fn a_failed_session_tells_the_error_to_a_write_too_and_only_once() {
    let config = Config { policy: RecoveryPolicy::Never, ..quick() };
    let ends = ends("127.0.0.1:0", config, quick());
    cut(&ends);
    wait_until("failed", || ends.client.info().unwrap().state == State::Failed);
    assert_eq!(number((&ends.client).write(b"x")), libc::ECONNRESET);
    assert_eq!(number((&ends.client).write(b"x")), libc::EPIPE);
    assert_eq!((&ends.client).read(&mut [0; 1]).unwrap(), 0);
    assert!(ends.client.take_error().unwrap().is_none());
}

#[test]
fn what_came_before_a_failure_can_be_read_before_the_error_is_told() {
    let config = Config { policy: RecoveryPolicy::Never, ..quick() };
    let ends = ends("127.0.0.1:0", config, quick());
    (&ends.server).write_all(b"came before").unwrap();
    let mut buf = [0; 11];
    wait_until("all has come", || ends.client.peek(&mut buf).unwrap() == 11);
    cut(&ends);
    wait_until("failed", || ends.client.info().unwrap().state == State::Failed);
    assert_eq!(read_exactly(&ends.client, 11), b"came before");
    has_failed_with(&ends.client, libc::ECONNRESET);
}

fn asking(answer: Answer, asked: &Arc<AtomicUsize>) -> Config {
    let asked = Arc::clone(asked);
    let ask = move |fault: &eversock::FaultReport| {
        assert!(!fault.session.is_empty() && !fault.cause.is_empty() && fault.epoch >= 1);
        asked.fetch_add(1, Ordering::SeqCst);
        answer
    };
    Config { policy: RecoveryPolicy::Ask(Arc::new(ask)), ..quick() }
}

#[test]
fn a_callback_that_says_continue_is_asked_at_each_fault_and_the_session_goes_on() {
    let asked = Arc::new(AtomicUsize::new(0));
    let ends = ends("127.0.0.1:0", asking(Answer::Continue, &asked), quick());
    for round in 1..=5 {
        cut(&ends);
        (&ends.client).write_all(b"go on").unwrap();
        assert_eq!(read_exactly(&ends.server, 5), b"go on");
        wait_until("resumed", || ends.client.info().unwrap().resumes == round);
        assert_eq!(asked.load(Ordering::SeqCst), usize::try_from(round).unwrap());
    }
}

#[test]
fn a_callback_that_gives_up_ends_the_session_with_one_error() {
    let asked = Arc::new(AtomicUsize::new(0));
    let ends = ends("127.0.0.1:0", asking(Answer::GiveUp, &asked), quick());
    cut(&ends);
    has_failed_with(&ends.client, libc::ECONNRESET);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let why = || ends.client.info().unwrap().last_error.unwrap_or_default();
    wait_until("the reason is known", || why().contains("declined"));
}

#[test]
fn a_callback_that_panics_gives_up() {
    let policy = RecoveryPolicy::Ask(Arc::new(|_| panic!("on purpose")));
    let ends = ends("127.0.0.1:0", Config { policy, ..quick() }, quick());
    cut(&ends);
    has_failed_with(&ends.client, libc::ECONNRESET);
}

#[test]
fn an_answer_from_outside_decides() {
    let config = Config { policy: RecoveryPolicy::AskOutside, ..quick() };
    let ends = ends("127.0.0.1:0", config, quick());
    let id = ends.client.info().unwrap().local_id;
    cut(&ends);
    let state = || ends.client.info().unwrap().state;
    wait_until("it asks", || state() == State::Asking);
    (&ends.client).write_all(b"kept").unwrap();
    assert_eq!(ends.proxy.stats().summary.accepted, 1, "it was redialled before the answer");
    assert!(eversock::answer(id, Answer::Continue));
    assert_eq!(read_exactly(&ends.server, 4), b"kept");
    cut(&ends);
    wait_until("it asks again", || state() == State::Asking);
    assert!(eversock::answer(id, Answer::GiveUp));
    has_failed_with(&ends.client, libc::ECONNRESET);
    assert!(!eversock::answer(u64::MAX, Answer::Continue));
}

#[test]
fn no_answer_within_the_grace_is_giving_up() {
    let grace = Duration::from_millis(200);
    let config = Config { policy: RecoveryPolicy::AskOutside, grace, ..quick() };
    let ends = ends("127.0.0.1:0", config, quick());
    cut(&ends);
    has_failed_with(&ends.client, libc::ECONNRESET);
}

#[test]
fn the_line_is_brought_up_before_each_redial_and_false_delays_it() {
    let (runs, accepted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, seen) = (Arc::clone(&runs), Arc::clone(&accepted));
    let up = move |_: &eversock::FaultReport| {
        let run = counted.fetch_add(1, Ordering::SeqCst);
        if run < 3 {
            // What the test sees of the network: no dial before this says yes.
            seen.fetch_add(1, Ordering::SeqCst);
        }
        run >= 3
    };
    let line_up = Some(LineUp::Callback(Arc::new(up)));
    let ends = ends("127.0.0.1:0", Config { line_up, ..quick() }, quick());
    cut(&ends);
    wait_until("three refusals", || accepted.load(Ordering::SeqCst) == 3);
    wait_until("resumed", || ends.client.info().unwrap().resumes == 1);
    assert_eq!(runs.load(Ordering::SeqCst), 4);
    assert_eq!(ends.proxy.stats().summary.accepted, 2);
    (&ends.client).write_all(b"up").unwrap();
    assert_eq!(read_exactly(&ends.server, 2), b"up");
}

#[test]
fn a_line_up_command_runs_with_the_facts_and_its_status_counts() {
    let dir = std::env::temp_dir().join(format!("eversock-line-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (log, gate) = (dir.join("log"), dir.join("gate"));
    let command = format!(
        "echo \"$EVS_SESSION $EVS_PEER $EVS_EPOCH $EVS_CAUSE\" >> {}; test -e {}",
        log.display(),
        gate.display(),
    );
    let line_up = Some(LineUp::Command(command));
    let ends = ends("127.0.0.1:0", Config { line_up, ..quick() }, quick());
    let session = ends.client.info().unwrap().session;
    cut(&ends);
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until("the command ran twice", || lines().lines().count() >= 2);
    assert_eq!(ends.proxy.stats().summary.accepted, 1, "dialled although the line was down");
    std::fs::write(&gate, "").unwrap();
    wait_until("resumed", || ends.client.info().unwrap().resumes == 1);
    let first = lines().lines().next().unwrap().to_owned();
    assert!(first.starts_with(&format!("{session} {} 1 ", ends.proxy.local_addr())), "{first}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_redial_limit_ends_the_session_with_a_time_out() {
    let ends = ends("127.0.0.1:0", Config { redial_limit: 4, ..quick() }, quick());
    ends.proxy.inject(Fault::Refuse(Refusal::Reset(None)), Target::All).unwrap();
    let events = ends.client.events().unwrap();
    cut(&ends);
    has_failed_with(&ends.client, libc::ETIMEDOUT);
    // Not what the proxy has counted: it counts a little later, and on a slow machine a redial that
    // nobody has answered for half a second is tried anew, as one redial still.
    let attempts = events.try_iter().filter_map(|event| match event.kind {
        EventKind::Redialling { attempt, .. } => Some(attempt),
        _ => None,
    });
    assert_eq!(attempts.collect::<Vec<_>>(), [1, 2, 3, 4]);
    wait_until("all were counted", || ends.proxy.stats().summary.refused >= 4);
}

#[test]
fn the_redial_limit_counts_anew_after_progress() {
    let ends = ends("127.0.0.1:0", Config { redial_limit: 3, ..quick() }, quick());
    for _ in 0..4 {
        ends.proxy.inject(Fault::Refuse(Refusal::ResetNext(2)), Target::All).unwrap();
        cut(&ends);
        (&ends.client).write_all(b"progress").unwrap();
        assert_eq!(read_exactly(&ends.server, 8), b"progress");
        (&ends.server).write_all(b"x").unwrap();
        assert_eq!(read_exactly(&ends.client, 1), b"x");
        wait_until("confirmed", || {
            let info = ends.client.info().unwrap();
            info.acked == info.written
        });
    }
}

#[test]
fn a_server_gives_a_session_up_when_its_grace_is_over() {
    let config = Config { grace_after_close: Duration::from_millis(200), ..quick() };
    let ends = ends("127.0.0.1:0", quick(), config);
    ends.proxy.inject(Fault::Refuse(Refusal::Reset(None)), Target::All).unwrap();
    let begun = Instant::now();
    cut(&ends);
    has_failed_with(&ends.server, libc::ECONNRESET);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    // The client comes back too late and is told, with proof, that it is over.
    ends.proxy.inject(Fault::Heal, Target::All).unwrap();
    let error = number((&ends.client).read(&mut [0; 1]));
    assert!([libc::ECONNRESET, libc::ETIMEDOUT].contains(&error), "{error}");
}

#[test]
fn events_tell_what_happens_in_order() {
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let proxy = proxy_to(listener.local_addr().unwrap());
    let client = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let events = client.events().unwrap();
    let next = || events.recv_timeout(Duration::from_secs(20)).unwrap();
    for epoch in 1..4 {
        proxy.inject(Fault::Reset, Target::Open).unwrap();
        let fault = next();
        assert!(matches!(&fault.kind, EventKind::Fault { cause } if !cause.is_empty()));
        assert_eq!(fault.epoch, epoch);
        let EventKind::Redialling { attempt, .. } = next().kind else { panic!("no redial") };
        assert!(attempt >= 1);
        let resumed = loop {
            match next() {
                event if matches!(event.kind, EventKind::Redialling { .. }) => {}
                event => break event,
            }
        };
        assert!(matches!(resumed.kind, EventKind::Resumed { replayed: 0, .. }), "{resumed:?}");
        assert_eq!(resumed.epoch, epoch + 1);
        assert_eq!(resumed.local_id, client.info().unwrap().local_id);
    }
    exchange(&client, &server, b"all", b"done");
    drop((client, server));
    assert_eq!(next().kind, EventKind::Closed);
    assert!(events.is_empty(), "{:?}", events.try_recv());
}

#[test]
fn the_end_of_a_failed_session_is_an_event() {
    let config = Config { policy: RecoveryPolicy::Never, ..quick() };
    let ends = ends("127.0.0.1:0", config, quick());
    let events = ends.client.events().unwrap();
    cut(&ends);
    let kinds: Vec<_> =
        (0..2).map(|_| events.recv_timeout(Duration::from_secs(20)).unwrap().kind).collect();
    assert!(matches!(&kinds[0], EventKind::Fault { .. }), "{kinds:?}");
    assert!(matches!(&kinds[1], EventKind::Failed { errno: libc::ECONNRESET, .. }), "{kinds:?}");
}

fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_dead_first_address_does_not_stop_a_connect() {
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let addrs = [dead(), listener.local_addr().unwrap()];
    let client = VirtualStream::connect_with(&addrs[..], quick()).unwrap();
    let (server, _) = listener.accept().unwrap();
    assert_eq!(client.peer_addr().unwrap(), addrs[1]);
    exchange(&client, &server, b"up", b"down");
}

#[test]
fn a_session_moves_to_another_address_of_the_peer_when_the_first_dies() {
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let first = proxy_to(listener.local_addr().unwrap());
    let second = proxy_to(listener.local_addr().unwrap());
    let config = Config { peer_addrs: vec![dead(), second.local_addr()], ..quick() };
    let client = VirtualStream::connect_with(first.local_addr(), config).unwrap();
    let (server, _) = listener.accept().unwrap();
    drop(first);
    exchange(&client, &server, &data(1, MIB), &data(2, MIB));
    assert_eq!(second.stats().summary.accepted, 1);
}

#[test]
fn a_session_moves_to_an_address_that_the_server_announced() {
    begin();
    // The second way in must be known before the listener's configuration is fixed.
    let port = dead();
    let listener_addr = dead();
    let other = Config { own_addrs: vec![port], ..quick() };
    let listener = VirtualListener::bind_with(listener_addr, other).unwrap();
    let second =
        eversock_chaos::Proxy::spawn(eversock_chaos::Config::new(port, listener_addr)).unwrap();
    let first = proxy_to(listener_addr);
    let client = VirtualStream::connect_with(first.local_addr(), quick()).unwrap();
    let (server, _) = listener.accept().unwrap();
    drop(first);
    exchange(&client, &server, &data(3, MIB), &data(4, MIB));
    assert_eq!(second.stats().summary.accepted, 1);
}

#[test]
fn connect_fails_with_the_errno_of_a_plain_connect() {
    begin();
    let plain = |addr: SocketAddr| number(std::net::TcpStream::connect(addr));
    let ours = |addr: SocketAddr| number(VirtualStream::connect_with(addr, quick()));
    let refused = dead();
    assert_eq!(ours(refused), libc::ECONNREFUSED);
    assert_eq!(ours(refused), plain(refused));
    // No route (loopback cannot reach a class E address), and an address that is not one.
    for addr in ["255.255.255.255:9", "[::1%99]:9", "[2001:db8::1]:9"] {
        let Ok(addr) = addr.parse::<SocketAddr>() else { continue };
        assert_eq!(ours(addr), plain(addr), "{addr}");
    }
}

#[test]
fn a_peer_that_speaks_something_else_gives_eproto() {
    begin();
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = plain.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = plain.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            let _until_it_closes = stream.read_to_end(&mut Vec::new());
        });
        assert_eq!(number(VirtualStream::connect_with(addr, quick())), libc::EPROTO);
    });
}

#[test]
fn a_peer_that_closes_without_a_word_gives_an_error() {
    begin();
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = plain.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(plain.accept().unwrap()));
        let error = number(VirtualStream::connect_with(addr, quick()));
        assert!([libc::EPROTO, libc::ECONNRESET].contains(&error), "{error}");
    });
}

#[test]
fn a_peer_that_says_nothing_gives_etimedout() {
    begin();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config { connect_timeout: Duration::from_millis(200), ..quick() };
    let error = number(VirtualStream::connect_with(mute.local_addr().unwrap(), config));
    assert_eq!(error, libc::ETIMEDOUT);
}

fn keyed(byte: u8) -> Config {
    Config { key: Some(PresharedKey([byte; 32])), ..quick() }
}

#[test]
fn a_wrong_or_missing_key_opens_nothing() {
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", keyed(1)).unwrap();
    let addr = listener.local_addr().unwrap();
    for config in [keyed(2), quick()] {
        assert_eq!(number(VirtualStream::connect_with(addr, config)), libc::EACCES);
    }
    let open = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let error = number(VirtualStream::connect_with(open.local_addr().unwrap(), keyed(1)));
    assert_eq!(error, libc::EACCES);
    for listener in [&listener, &open] {
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn sessions_with_a_key_survive_cuts() {
    let ends = ends("127.0.0.1:0", keyed(7), keyed(7));
    let (up, down) = (data(1, 4 * MIB), data(2, 4 * MIB));
    while_cutting(&ends.proxy, &Fault::Reset, MIB, || {
        exchange(&ends.client, &ends.server, &up, &down);
    });
    wait_until("the resumes are counted", || ends.client.info().unwrap().resumes >= 1);
}

#[test]
fn a_session_that_is_killed_gives_each_side_its_error() {
    let ends = pair();
    assert!(eversock::kill(ends.client.info().unwrap().local_id));
    has_failed_with(&ends.client, libc::ECONNABORTED);
    has_failed_with(&ends.server, libc::ECONNRESET);
}

/// The other process of the tests below.
#[test]
fn helper_process() {
    let Some((role, argument)) = role() else { return };
    if role == "client-exits" {
        let config = Config { linger: Duration::from_secs(12), ..quick() };
        let client =
            VirtualStream::connect_with(argument.parse::<SocketAddr>().unwrap(), config).unwrap();
        (&client).write_all(b"x").unwrap();
        say("written");
        hear();
        // The outage comes first, so that it is the exit that waits.
        wait_until("the outage", || client.info().unwrap().state == State::Detached);
        std::process::exit(0);
    }
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    say(&listener.local_addr().unwrap().to_string());
    let (server, _) = listener.accept().unwrap();
    match role.as_str() {
        "waits" => {
            say("accepted");
            std::thread::park();
        }
        "writes-and-exits" => {
            let len: usize = argument.parse().unwrap();
            let bytes = data(len as u64, len);
            std::thread::scope(|scope| {
                scope.spawn(|| (&server).write_all(&bytes).unwrap());
            });
            say("written");
            hear();
            // Neither shutdown nor close: the destructor does not run.
            std::process::exit(0);
        }
        "drops" => {
            hear();
            drop(server);
            std::process::exit(0);
        }
        other => panic!("no role {other}"),
    }
}

#[test]
fn a_server_process_that_is_killed_is_a_reset_after_the_short_grace() {
    begin();
    let mut helper = Helper::spawn("helper_process", "waits", "");
    let grace_after_close = Duration::from_millis(300);
    let config = Config { grace_after_close, ..quick() };
    let mut client = VirtualStream::connect_with(helper.addr(), config).unwrap();
    client.write_all(b"hello").unwrap();
    assert_eq!(helper.word(), "accepted");
    let begun = Instant::now();
    helper.kill();
    assert_eq!(number(client.read(&mut [0; 1])), libc::ECONNRESET);
    let took = begun.elapsed();
    assert!(took >= grace_after_close && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_client_process_that_is_killed_is_a_reset_after_the_short_grace() {
    // The helper serves in the other tests; here the roles of grace are seen from the server.
    let config = Config { grace_after_close: Duration::from_millis(300), ..quick() };
    let ends = ends("127.0.0.1:0", quick(), config);
    let Ends { client: _client, server, proxy, listener: _listener } = ends;
    drop(proxy);
    assert_eq!(number((&server).read(&mut [0; 1])), libc::ECONNRESET);
}

#[test]
fn a_process_that_exits_without_closing_still_delivers_all_and_a_clean_end() {
    begin();
    // Within the window, so that all is written before anything is read.
    for (len, cut) in [(200_000, false), (200_000, true), (1, true), (0, true)] {
        let mut helper = Helper::spawn("helper_process", "writes-and-exits", &len.to_string());
        let proxy = proxy_to(helper.addr());
        let client = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
        assert_eq!(helper.word(), "written");
        if cut {
            proxy.inject(Fault::Refuse(Refusal::ResetNext(2)), Target::All).unwrap();
            proxy.inject(Fault::Reset, Target::Open).unwrap();
        }
        helper.go();
        let got = read_all(&client);
        assert!(got == data(len as u64, len), "{} of {len} bytes, cut: {cut}", got.len());
        client.shutdown(Shutdown::Write).unwrap();
        assert!(helper.end().success());
    }
}

#[test]
fn a_process_that_exits_after_writing_megabytes_delivers_them_through_cuts() {
    begin();
    for round in 0..3 {
        let len = 4 * MIB + round;
        let mut helper = Helper::spawn("helper_process", "writes-and-exits", &len.to_string());
        let proxy = proxy_to(helper.addr());
        let client = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
        let last = AtomicBool::new(false);
        while_cutting(&proxy, &Fault::Reset, MIB, || {
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let most = read_exactly(&client, len - 100_000);
                    wait_until("the helper has written", || last.load(Ordering::Relaxed));
                    (most, read_all(&client))
                });
                assert_eq!(helper.word(), "written");
                proxy.inject(Fault::Reset, Target::Open).unwrap();
                helper.go();
                last.store(true, Ordering::Relaxed);
                let (most, rest) = reader.join().unwrap();
                assert!([most, rest].concat() == data(len as u64, len), "round {round}");
            });
        });
        drop(client);
        assert!(helper.end().success());
    }
}

/// Exit waited for the whole linger, 30 s by default, for a peer that was not there.
#[test]
fn an_exit_waits_less_for_a_peer_that_cannot_be_reached_than_the_whole_linger() {
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let proxy = proxy_to(listener.local_addr().unwrap());
    let addr = proxy.local_addr().to_string();
    let mut helper = Helper::spawn("helper_process", "client-exits", &addr);
    let (_server, _) = listener.accept().unwrap();
    assert_eq!(helper.word(), "written");
    // Not read: what was written is unconfirmed, and stays so.
    proxy.inject(Fault::Refuse(Refusal::Reset(None)), Target::All).unwrap();
    proxy.inject(Fault::Reset, Target::Open).unwrap();
    let begun = Instant::now();
    helper.go();
    assert!(helper.end().success());
    let took = begun.elapsed();
    let least = Duration::from_secs(12) / 6;
    assert!(took >= least && took < 4 * least, "{took:?}");
}

#[test]
fn a_server_that_drops_and_exits_at_once_gives_a_clean_end() {
    begin();
    for cut in [false, true] {
        let mut helper = Helper::spawn("helper_process", "drops", "");
        let proxy = proxy_to(helper.addr());
        let client = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
        if cut {
            proxy.inject(Fault::Reset, Target::Open).unwrap();
        }
        helper.go();
        assert_eq!((&client).read(&mut [0; 1]).unwrap(), 0);
        drop(client);
        assert!(helper.end().success());
    }
}

#[test]
fn written_bytes_and_the_end_arrive_although_the_redial_begins_after_the_close() {
    let Ends { client, server, proxy, listener: _listener } = pair();
    let bytes = data(9, MIB);
    proxy.inject(Fault::Refuse(Refusal::ResetNext(5)), Target::All).unwrap();
    proxy.inject(Fault::Reset, Target::Open).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| send_and_end(&server, &bytes));
        assert!(read_all(&client) == bytes);
    });
}
