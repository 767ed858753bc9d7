//! Readiness as event loops see it: poll, select and epoll over sessions whose connections die.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::side::{How, converse};
use common::{MIB, data, ends, fill, pair, quick, read_exactly, thread_cpu, wait_until};
use eversock::wait::{Epoll, poll};
use eversock::{BackOff, Config, State, VirtualListener, VirtualStream};
use eversock_chaos::{EventKind, Fault, Plan, Proxy, Refusal, Target};
use eversock_engine::posix;

const IN: i32 = libc::EPOLLIN;
const OUT: i32 = libc::EPOLLOUT;
const RDHUP: i32 = libc::EPOLLRDHUP;
const ET: i32 = libc::EPOLLET;
const ONESHOT: i32 = libc::EPOLLONESHOT;
const EVERYTHING: i32 = IN | OUT | RDHUP | libc::EPOLLERR | libc::EPOLLHUP;

/// A number that does not close when dropped, for epoll.
struct Raw(RawFd);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

fn wait_one(epoll: &Epoll, timeout: Duration) -> Option<i32> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
    match epoll.wait(&mut events, Some(timeout)).unwrap() {
        0 => None,
        1 => Some(events[0].events.cast_signed()),
        n => panic!("{n} events for one socket"),
    }
}

const LONG: Duration = Duration::from_secs(20);
/// How long something is watched not to happen.
const WHILE: Duration = Duration::from_millis(150);

fn poll_one(stream: &VirtualStream, events: i16, timeout: Duration) -> i16 {
    let mut fds = [libc::pollfd { fd: stream.as_raw_fd(), events, revents: 0 }];
    let n = poll(&mut fds, Some(timeout)).unwrap();
    assert_eq!(n, usize::from(fds[0].revents != 0));
    fds[0].revents
}

fn both_ways(client: How, server: How, fault: &Fault) {
    common::begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    // Cuts at exact bytes, so that however fast it goes they hit.
    let plan = Plan::parse(&format!("every 1500000 {fault}")).unwrap();
    let target = listener.local_addr().unwrap();
    let proxy = Proxy::spawn(
        eversock_chaos::Config::new("127.0.0.1:0".parse().unwrap(), target).with_plan(plan),
    )
    .unwrap();
    let client_end = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
    let (server_end, _) = listener.accept().unwrap();
    let (up, down) = (data(11, 6 * MIB), data(12, 6 * MIB));
    std::thread::scope(|scope| {
        let at_server = scope.spawn(|| converse(server, &server_end, &down));
        let at_client = scope.spawn(|| converse(client, &client_end, &up));
        assert!(at_client.join().unwrap() == down, "the client's bytes differ");
        assert!(at_server.join().unwrap() == up, "the server's bytes differ");
    });
    let cuts = proxy.stats().summary.cuts;
    assert!(cuts >= 6, "only {cuts} cuts");
}

#[test]
fn level_triggered_epoll_carries_megabytes_through_resets() {
    both_ways(How::Level, How::Level, &Fault::Reset);
}

#[test]
fn level_triggered_epoll_carries_megabytes_through_bare_fins() {
    both_ways(How::Level, How::Level, &Fault::Fin);
}

#[test]
fn edge_triggered_epoll_carries_megabytes_through_resets() {
    both_ways(How::Edge, How::Edge, &Fault::Reset);
}

#[test]
fn edge_triggered_epoll_carries_megabytes_through_bare_fins() {
    both_ways(How::Edge, How::Edge, &Fault::Fin);
}

#[test]
fn oneshot_epoll_carries_megabytes_through_cuts() {
    both_ways(How::OneShot, How::OneShot, &Fault::Reset);
    both_ways(How::OneShot, How::OneShot, &Fault::Fin);
}

#[test]
fn poll_carries_megabytes_through_cuts() {
    both_ways(How::Poll, How::Poll, &Fault::Reset);
    both_ways(How::Poll, How::Poll, &Fault::Fin);
}

#[test]
fn select_carries_megabytes_through_cuts() {
    both_ways(How::Select, How::Select, &Fault::Reset);
    both_ways(How::Select, How::Select, &Fault::Fin);
}

#[test]
fn ends_that_wait_in_different_ways_understand_each_other() {
    both_ways(How::Edge, How::Level, &Fault::Reset);
    both_ways(How::Poll, How::Edge, &Fault::Reset);
    both_ways(How::OneShot, How::Select, &Fault::Fin);
}

fn nonblocking_socket() -> Raw {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    Raw(posix::socket(libc::AF_INET, kind, 0, Arc::new(quick())).unwrap())
}

#[test]
fn epoll_registered_before_a_non_blocking_connect_says_when_the_session_stands() {
    common::begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    for edge in [0, ET] {
        let socket = nonblocking_socket();
        let epoll = Epoll::new().unwrap();
        epoll.add(&socket, IN | OUT | RDHUP | edge, 5).unwrap();
        let error = posix::connect(socket.0, listener.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
        let seen = loop {
            let seen = wait_one(&epoll, LONG).expect("nobody woke");
            // An unconnected socket shows HUP, as the kernel's do; that event may be older.
            if seen & OUT != 0 && posix::info(socket.0).unwrap().state == State::Attached {
                break seen;
            }
        };
        assert_eq!(seen & (libc::EPOLLERR | RDHUP), 0, "{seen:#x}");
        let mut error = [0; 4];
        posix::getsockopt(socket.0, libc::SOL_SOCKET, libc::SO_ERROR, &mut error).unwrap();
        assert_eq!(i32::from_ne_bytes(error), 0);
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"hello").unwrap();
        loop {
            let seen = wait_one(&epoll, LONG).expect("nobody woke");
            assert_eq!(seen & (libc::EPOLLERR | libc::EPOLLHUP | RDHUP), 0, "{seen:#x}");
            let mut buf = [0; 5];
            match posix::recv(socket.0, &mut [std::io::IoSliceMut::new(&mut buf)], 0) {
                Ok(n) => {
                    assert_eq!(&buf[..n], b"hello");
                    break;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        posix::close(socket.0).unwrap();
    }
}

#[test]
fn a_connect_in_progress_is_not_writable() {
    common::begin();
    // Accepts in the kernel and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = nonblocking_socket();
    let addr = mute.local_addr().unwrap();
    let error = posix::connect(socket.0, addr).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    assert_eq!(posix::connect(socket.0, addr).unwrap_err().raw_os_error(), Some(libc::EALREADY));
    let epoll = Epoll::new().unwrap();
    epoll.add(&socket, IN | OUT | RDHUP, 5).unwrap();
    assert_eq!(wait_one(&epoll, WHILE), None);
    let mut fds = [libc::pollfd { fd: socket.0, events: libc::POLLIN | libc::POLLOUT, revents: 0 }];
    assert_eq!(poll(&mut fds, Some(Duration::ZERO)).unwrap(), 0);
    posix::close(socket.0).unwrap();
}

fn refused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_refused_non_blocking_connect_gives_every_bit_and_its_error_once() {
    common::begin();
    for edge in [0, ET, ONESHOT] {
        let socket = nonblocking_socket();
        let error = posix::connect(socket.0, refused()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
        let epoll = Epoll::new().unwrap();
        epoll.add(&socket, IN | OUT | edge, 5).unwrap();
        let seen = wait_one(&epoll, LONG).expect("nobody woke");
        let expected = IN | OUT | libc::EPOLLERR | libc::EPOLLHUP;
        assert_eq!(seen & expected, expected, "{seen:#x}");
        let mut fds = [libc::pollfd { fd: socket.0, events: libc::POLLOUT, revents: 0 }];
        assert_eq!(poll(&mut fds, Some(Duration::ZERO)).unwrap(), 1);
        assert_eq!(fds[0].revents, libc::POLLOUT | libc::POLLERR | libc::POLLHUP);
        let error = || {
            let mut error = [0; 4];
            posix::getsockopt(socket.0, libc::SOL_SOCKET, libc::SO_ERROR, &mut error).unwrap();
            i32::from_ne_bytes(error)
        };
        assert_eq!(error(), libc::ECONNREFUSED);
        assert_eq!(error(), 0);
        posix::close(socket.0).unwrap();
    }
}

#[test]
fn cuts_of_an_idle_session_wake_nobody_for_good() {
    let ends = pair();
    ends.client.set_nonblocking(true).unwrap();
    let (level, edge) = (Epoll::new().unwrap(), Epoll::new().unwrap());
    level.add(&ends.client, IN | RDHUP, 1).unwrap();
    edge.add(&ends.client, IN | OUT | RDHUP | ET, 1).unwrap();
    for round in 1..=10 {
        let fault = if round % 2 == 0 { Fault::Fin } else { Fault::Reset };
        ends.proxy.inject(fault, Target::Open).unwrap();
        wait_until("resumed", || ends.client.info().unwrap().resumes >= round);
        // Control frames may wake; what must not come is an end, an error or payload.
        for epoll in [&level, &edge] {
            while let Some(seen) = wait_one(epoll, Duration::from_millis(5)) {
                assert_eq!(seen & EVERYTHING & !(IN | OUT), 0, "{seen:#x}");
                let error = (&ends.client).read(&mut [0; 8]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
            }
        }
        assert_eq!(poll_one(&ends.client, libc::POLLIN | libc::POLLRDHUP, Duration::ZERO), 0);
    }
}

#[test]
fn the_peers_shutdown_reaches_every_kind_of_wait() {
    for (cut, edge) in [(false, 0), (true, 0), (false, ET), (true, ET)] {
        let ends = pair();
        ends.client.set_nonblocking(true).unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&ends.client, IN | RDHUP | edge, 1).unwrap();
        (&ends.server).write_all(b"last words").unwrap();
        ends.server.shutdown(Shutdown::Write).unwrap();
        if cut {
            ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
        }
        let mut got = Vec::new();
        'ended: loop {
            let seen = wait_one(&epoll, LONG).expect("nobody woke");
            assert_eq!(seen & (libc::EPOLLERR | libc::EPOLLHUP), 0, "{seen:#x}");
            loop {
                let mut buf = [0; 64];
                match (&ends.client).read(&mut buf) {
                    Ok(0) => break 'ended,
                    Ok(n) => got.extend_from_slice(&buf[..n]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("read: {error}"),
                }
            }
        }
        assert_eq!(got, b"last words");
        let seen = poll_one(&ends.client, libc::POLLIN | libc::POLLRDHUP, LONG);
        assert_eq!(seen, libc::POLLIN | libc::POLLRDHUP);
        // The other direction still works, and then both are over.
        (&ends.client).write_all(b"bye").unwrap();
        assert_eq!(read_exactly(&ends.server, 3), b"bye");
        ends.client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(poll_one(&ends.client, libc::POLLIN, LONG), libc::POLLIN | libc::POLLHUP);
        assert_eq!((&ends.server).read(&mut [0; 1]).unwrap(), 0);
    }
}

fn narrow() -> Config {
    Config { window: 64 * 1024, window_max: 64 * 1024, ..quick() }
}

/// A writer in front of a shut window: nobody is woken and nobody spins, and once the peer reads
/// it goes on.
fn shut_window(mut wait: impl FnMut(&VirtualStream, Duration) -> bool) {
    let ends = ends("127.0.0.1:0", narrow(), narrow());
    let bytes = data(3, 2 * MIB);
    ends.client.set_nonblocking(true).unwrap();
    let (mut sent, mut got) = (0, 0);
    for round in 0..20 {
        sent += fill(&ends.client, &bytes[sent..]);
        if round % 5 == 4 {
            ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
            wait_until("resumed", || ends.client.info().unwrap().state == State::Attached);
        }
        let before = thread_cpu();
        let patience = if round % 10 == 0 { WHILE } else { Duration::from_millis(5) };
        let woken = wait(&ends.client, patience);
        let used = thread_cpu() - before;
        // The last of the credit may come as late as with the sweep, and then is worth a wake.
        let late = if woken { fill(&ends.client, &bytes[sent..]) } else { 0 };
        assert!(!woken || late > 0, "writable in front of a shut window, round {round}");
        sent += late;
        assert!(used < Duration::from_millis(50), "spun for {used:?} in front of a shut window");
        assert!(read_exactly(&ends.server, sent - got) == bytes[got..sent]);
        got = sent;
        assert!(wait(&ends.client, LONG), "not writable after the peer has read, round {round}");
    }
    assert!(ends.client.info().unwrap().log_used <= 64 * 1024);
}

#[test]
fn a_shut_window_is_not_writable_for_poll() {
    shut_window(|stream, time| poll_one(stream, libc::POLLOUT, time) != 0);
}

#[test]
fn a_shut_window_is_not_writable_for_a_poll_that_also_wants_input() {
    shut_window(|stream, time| {
        // Control frames may show as input of a non-blocking socket.
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let seen = poll_one(stream, libc::POLLIN | libc::POLLOUT, left);
            if seen & libc::POLLOUT != 0 || seen == 0 {
                return seen != 0;
            }
            let error = { stream }.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
    });
}

fn shut_window_for_epoll(events: i32) {
    let epoll = Epoll::new().unwrap();
    let mut known = false;
    shut_window(|stream, time| {
        if !known {
            epoll.add(stream, events, 9).unwrap();
            known = true;
        } else if events & ONESHOT != 0 {
            epoll.modify(stream, events, 9).unwrap();
        }
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(seen) = wait_one(&epoll, left) else { return false };
            if seen & OUT != 0 {
                return true;
            }
            let error = { stream }.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            if events & ONESHOT != 0 {
                epoll.modify(stream, events, 9).unwrap();
            }
        }
    });
}

#[test]
fn a_shut_window_is_not_writable_for_level_triggered_epoll() {
    shut_window_for_epoll(OUT);
    shut_window_for_epoll(IN | OUT | RDHUP);
}

#[test]
fn a_shut_window_is_not_writable_for_edge_triggered_epoll() {
    shut_window_for_epoll(OUT | ET);
    shut_window_for_epoll(IN | OUT | RDHUP | ET);
}

#[test]
fn a_shut_window_is_not_writable_for_oneshot_epoll() {
    shut_window_for_epoll(OUT | ONESHOT);
    shut_window_for_epoll(IN | OUT | RDHUP | ONESHOT);
}

/// Makes the client's send, out of credit, read what the server wrote into the stash, while
/// another thread waits for input in `wait`; then checks what a reader finds.
fn read_ahead_wakes(wait: impl Fn(&VirtualStream) + Send + Sync) {
    let ends = ends("127.0.0.1:0", narrow(), narrow());
    let bytes = data(8, MIB);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (&ends.client).write_all(&bytes).unwrap());
        wait_until("the writer is out of credit", || {
            ends.client.info().unwrap().log_used == 64 * 1024
        });
        let waiter = scope.spawn(|| wait(&ends.client));
        (&ends.server).write_all(b"stashed").unwrap();
        waiter.join().unwrap();
        assert_eq!(read_exactly(&ends.client, 7), b"stashed");
        assert!(read_exactly(&ends.server, bytes.len()) == bytes);
        writer.join().unwrap();
    });
}

#[test]
fn a_sleeper_in_poll_is_woken_by_what_another_threads_send_reads_ahead() {
    read_ahead_wakes(|stream| assert_eq!(poll_one(stream, libc::POLLIN, LONG), libc::POLLIN));
}

#[test]
fn a_sleeper_in_epoll_is_woken_by_what_another_threads_send_reads_ahead() {
    for events in [IN, IN | ET, IN | ONESHOT] {
        read_ahead_wakes(|stream| {
            let epoll = Epoll::new().unwrap();
            epoll.add(stream, events, 1).unwrap();
            assert_eq!(wait_one(&epoll, LONG).map(|seen| seen & IN), Some(IN));
        });
    }
}

#[test]
fn a_sleeper_in_read_is_woken_by_what_another_threads_send_reads_ahead() {
    read_ahead_wakes(|stream| assert_eq!(stream.peek(&mut [0; 1]).unwrap(), 1));
}

#[test]
fn bytes_read_ahead_keep_level_triggered_waits_ready_until_they_are_read() {
    let ends = pair();
    (&ends.server).write_all(b"0123456789").unwrap();
    let mut buf = [0; 10];
    // Peeking moves bytes out of the kernel's queue, where it no longer can see them.
    wait_until("all has come", || ends.client.peek(&mut buf).unwrap() == 10);
    let epoll = Epoll::new().unwrap();
    epoll.add(&ends.client, IN, 1).unwrap();
    for left in (1..=10).rev() {
        assert_eq!(posix::readable_bytes(ends.client.as_raw_fd()).unwrap(), left);
        assert_eq!(wait_one(&epoll, LONG), Some(IN));
        assert_eq!(wait_one(&epoll, LONG), Some(IN));
        assert_eq!(poll_one(&ends.client, libc::POLLIN, LONG), libc::POLLIN);
        assert_eq!(read_exactly(&ends.client, 1), [b'0' + u8::try_from(10 - left).unwrap()]);
        if left == 6 {
            ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
        }
    }
    assert_eq!(wait_one(&epoll, Duration::from_millis(20)), None);
    assert_eq!(poll_one(&ends.client, libc::POLLIN, Duration::ZERO), 0);
}

#[test]
fn waits_do_not_spin_during_an_outage_and_a_session_in_outage_is_writable() {
    let back_off = BackOff { base: Duration::from_millis(10), cap: Duration::from_millis(20) };
    let ends = ends("127.0.0.1:0", Config { back_off, ..quick() }, quick());
    ends.client.set_nonblocking(true).unwrap();
    let mut events = ends.proxy.events();
    ends.proxy.inject(Fault::Refuse(Refusal::ResetNext(15)), Target::Open).unwrap();
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ends.client, IN | RDHUP, 1).unwrap();
    let before = thread_cpu();
    let (mut refused, mut returns) = (0, 0);
    while refused < 15 {
        if let Some(event) = events.next_timeout(Duration::ZERO) {
            refused += usize::from(matches!(event.kind, EventKind::Refused { .. }));
            continue;
        }
        if let Some(seen) = wait_one(&epoll, Duration::from_millis(5)) {
            assert_eq!(seen & EVERYTHING & !IN, 0, "{seen:#x}");
            let _spurious = (&ends.client).read(&mut [0; 1]);
            returns += 1;
        }
        // The reset itself, before the engine has seen it, and the first frame of the resume may
        // show as input; an end or an error may not.
        let seen = poll_one(&ends.client, libc::POLLIN | libc::POLLRDHUP, Duration::ZERO);
        assert_eq!(seen & !libc::POLLIN, 0, "{seen:#x}");
    }
    assert!(returns <= 5, "{returns} wake-ups without input in one outage");
    let used = thread_cpu() - before;
    assert!(used < Duration::from_millis(150), "the waits used {used:?}");
    wait_until("resumed", || ends.client.info().unwrap().state == State::Attached);
    (&ends.server).write_all(b"x").unwrap();
    assert_eq!(wait_one(&epoll, LONG), Some(IN));
}

#[test]
fn an_outage_is_writable_until_the_log_is_full() {
    let ends = ends("127.0.0.1:0", narrow(), narrow());
    ends.client.set_nonblocking(true).unwrap();
    ends.proxy.inject(Fault::Refuse(Refusal::Reset(None)), Target::Open).unwrap();
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    wait_until("detached", || ends.client.info().unwrap().state == State::Detached);
    let (level, edge) = (Epoll::new().unwrap(), Epoll::new().unwrap());
    level.add(&ends.client, OUT, 1).unwrap();
    edge.add(&ends.client, OUT | ET, 1).unwrap();
    assert_eq!(wait_one(&level, LONG), Some(OUT));
    assert_eq!(wait_one(&edge, LONG), Some(OUT));
    assert_eq!(poll_one(&ends.client, libc::POLLOUT, LONG), libc::POLLOUT);
    let bytes = data(4, MIB);
    let sent = fill(&ends.client, &bytes);
    assert_eq!(sent, 64 * 1024);
    let before = thread_cpu();
    assert_eq!(wait_one(&level, WHILE), None);
    assert_eq!(wait_one(&edge, WHILE), None);
    assert_eq!(poll_one(&ends.client, libc::POLLOUT, WHILE), 0);
    assert!(thread_cpu() - before < Duration::from_millis(50), "spun");
    ends.proxy.inject(Fault::Heal, Target::All).unwrap();
    assert!(read_exactly(&ends.server, sent) == bytes[..sent]);
    for epoll in [&level, &edge] {
        assert_eq!(wait_one(epoll, LONG), Some(OUT));
    }
}

#[test]
fn a_oneshot_that_fired_stays_disarmed_through_cuts() {
    let ends = pair();
    ends.client.set_nonblocking(true).unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&ends.client, IN | OUT | RDHUP | ONESHOT, 1).unwrap();
    // The session's first control frame may show as input.
    assert_eq!(wait_one(&epoll, LONG).map(|seen| seen & !IN), Some(OUT));
    for round in 1..=6 {
        let fault = if round % 2 == 0 { Fault::Fin } else { Fault::Reset };
        ends.proxy.inject(fault, Target::Open).unwrap();
        wait_until("resumed", || ends.client.info().unwrap().resumes >= round);
        (&ends.server).write_all(b"x").unwrap();
        assert_eq!(wait_one(&epoll, Duration::from_millis(10)), None, "round {round}");
    }
    epoll.modify(&ends.client, IN | ONESHOT, 2).unwrap();
    assert_eq!(wait_one(&epoll, LONG), Some(IN));
    assert_eq!(wait_one(&epoll, Duration::from_millis(10)), None);
}

#[test]
fn a_poll_that_sleeps_through_a_cut_sees_what_comes_after_it() {
    for round in 0..20 {
        let ends = pair();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| poll_one(&ends.client, libc::POLLIN, LONG));
            let reader = scope.spawn(|| read_exactly(&ends.server, 3));
            ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
            (&ends.server).write_all(b"abc").unwrap();
            assert_eq!(waiter.join().unwrap(), libc::POLLIN, "round {round}");
            assert_eq!(read_exactly(&ends.client, 3), b"abc");
            (&ends.client).write_all(b"def").unwrap();
            assert_eq!(reader.join().unwrap(), b"def");
        });
    }
}

#[test]
fn many_sessions_in_one_epoll_set_with_the_same_data_all_make_progress() {
    common::begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let proxy = common::proxy_to(listener.local_addr().unwrap());
    let epoll = Epoll::new().unwrap();
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..8 {
        let client = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
        client.set_nonblocking(true).unwrap();
        // Programs that look at every socket after a wake-up give all of them one number.
        epoll.add(&client, IN | ET, 0).unwrap();
        clients.push(client);
        servers.push(listener.accept().unwrap().0);
    }
    for round in 0..50usize {
        let at = round % clients.len();
        if round % 3 == 0 {
            proxy.inject(Fault::Reset, Target::Open).unwrap();
        }
        (&servers[at]).write_all(&[u8::try_from(round).unwrap()]).unwrap();
        'came: loop {
            let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
            let n = epoll.wait(&mut events, Some(LONG)).unwrap();
            assert!(n > 0, "nobody woke in round {round}");
            for mut client in &clients {
                let mut byte = [0; 1];
                if client.read(&mut byte).is_ok() {
                    assert_eq!(usize::from(byte[0]), round);
                    break 'came;
                }
            }
        }
    }
}

/// Bytes that were read ahead made an event of their own, without the room that the kernel had; and
/// a registration that fires once gets no other.
#[test]
fn a_one_shot_event_of_bytes_that_were_read_ahead_tells_of_room_to_write_too() {
    let ends = pair();
    (&ends.server).write_all(b"ahead").unwrap();
    wait_until("they are stashed", || ends.client.peek(&mut [0; 5]).unwrap() == 5);
    let epoll = Epoll::new().unwrap();
    epoll.add(&ends.client, IN | OUT | ONESHOT, 1).unwrap();
    assert_eq!(wait_one(&epoll, LONG), Some(IN | OUT));
    epoll.modify(&ends.client, IN | ONESHOT, 1).unwrap();
    assert_eq!(wait_one(&epoll, LONG), Some(IN));
}
