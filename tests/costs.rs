//! What sessions and peers cost a process: its engine's time, its memory, its descriptors.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::child::{Helper, role, say};
use common::limit::Limit;
use common::raw::{Raw, engine_cpu};
use common::{begin, data, pair, quick, read_exactly, wait_until};
use eversock::wait::{Epoll, poll};
use eversock::{Config, State, VirtualListener, VirtualStream};
use eversock_chaos::{Fault, Target};
use eversock_proto::wire::frame::{Acks, Header, Kind};

const PATIENCE: Duration = Duration::from_secs(60);

/// The engine is the whole process's: one test at a time looks at its time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the engine's thread uses in half a second of nothing. The sleep is what is measured.
fn idle_cost() -> Duration {
    let before = engine_cpu();
    std::thread::sleep(Duration::from_millis(500));
    engine_cpu() - before
}

/// A spin costs all of the half second; a sweep or two, far less than this.
const IDLE_MAX: Duration = Duration::from_millis(50);

#[test]
fn a_flood_that_nobody_reads_costs_the_engine_nothing() {
    let _limit = Limit::new("a flood that nobody reads", PATIENCE);
    let _alone = alone();
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let raw = Raw::open(listener.local_addr().unwrap());
    let (server, _) = listener.accept().unwrap();
    let acks = Acks { ack: 0, window: 64 };
    let ack = Header { kind: Kind::Ack, flags: 0, length: 0, acks }.encode().repeat(4096);
    raw.stream.set_nonblocking(true).unwrap();
    wait_until(
        "the kernel is full",
        || matches!((&raw.stream).write(&ack), Err(error) if error.kind() == ErrorKind::WouldBlock),
    );
    let cost = idle_cost();
    assert!(cost < IDLE_MAX, "{cost:?} of 500 ms");
    assert_eq!(server.info().unwrap().state, State::Attached);
}

/// The number under which the engine watched is gone, past our calls, and the file lives on under
/// another number; then its connection dies (review of the descriptors, F21).
#[test]
fn a_watch_that_outlives_its_number_does_not_spin() {
    let _limit = Limit::new("a watch that outlives its number", PATIENCE);
    let _alone = alone();
    let ends = pair();
    let number = ends.client.as_raw_fd();
    // SAFETY: a dup and a close of numbers of this test; that they are plain is the test.
    let copy = unsafe {
        let copy = libc::dup(number);
        assert_eq!(libc::close(number), 0);
        copy
    };
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    let cost = idle_cost();
    assert!(cost < IDLE_MAX, "{cost:?} of 500 ms");
    // What is under the number is nobody's; put something there that dropping the stream may close.
    // SAFETY: as above.
    unsafe {
        assert_eq!(libc::dup2(copy, number), number);
        libc::close(copy);
    }
}

#[test]
fn a_clone_goes_on_when_the_number_that_was_watched_is_closed() {
    let _limit = Limit::new("a clone that goes on", PATIENCE);
    let _alone = alone();
    let mut ends = pair();
    let clone = ends.client.try_clone().unwrap();
    drop(std::mem::replace(&mut ends.client, clone));
    for round in 1..=5 {
        ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
        // Nobody reads or writes: only the engine's watch can notice.
        wait_until("a resume", || ends.client.info().unwrap().resumes == round);
    }
    common::exchange(&ends.client, &ends.server, b"up", b"down");
    let cost = idle_cost();
    assert!(cost < IDLE_MAX, "{cost:?} of 500 ms");
}

// ---------------------------------------------------------------------------------------------
// In processes of their own

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * 4096
}

#[test]
fn helper_process() {
    let Some((role, _)) = role() else { return };
    match role.as_str() {
        "plain" => uses_only_plain_sockets(),
        "full" => has_many_full_sessions(),
        other => panic!("no role {other}"),
    }
    say("done");
}

/// Waits of ours over descriptors that are none of ours.
fn uses_only_plain_sockets() {
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&server, libc::EPOLLIN, 9).unwrap();
        client.write_all(b"plain").unwrap();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        assert_eq!(epoll.wait(&mut events, None).unwrap(), 1);
        assert_eq!(({ events[0].u64 }, { events[0].events }), (9, 1));
        let mut fds = [libc::pollfd { fd: server.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
        assert!(!eversock_engine::posix::is_virtual(server.as_raw_fd()));
        let mut got = [0; 5];
        server.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"plain");
        // The two ends, the listener and the set: nothing more.
        let now = (count("/proc/self/fd"), count("/proc/self/task"));
        assert_eq!(now, (before.0 + 4, before.1), "descriptors and threads");
    }
    assert_eq!((count("/proc/self/fd"), count("/proc/self/task")), before);
    assert!(eversock::sessions().is_empty());
}

const FULL: usize = 64;
const WINDOW: usize = 256 * 1024;

/// Both programs of many sessions write until there is no room, and nobody reads.
fn has_many_full_sessions() {
    begin();
    let config = Config { window: WINDOW as u64, window_max: WINDOW as u64, ..quick() };
    let listener = VirtualListener::bind_with("127.0.0.1:0", config.clone()).unwrap();
    let addr = listener.local_addr().unwrap();
    let bytes = data(1, 2 * WINDOW);
    let mut streams = Vec::new();
    for _ in 0..FULL {
        streams.push(VirtualStream::connect_with(addr, config.clone()).unwrap());
        streams.push(listener.accept().unwrap().0);
    }
    let before = resident();
    for stream in &streams {
        stream.set_nonblocking(true).unwrap();
        let taken = common::fill(stream, &bytes);
        assert!(taken <= WINDOW, "{taken} bytes were taken, beyond the window");
    }
    // The log of each side, and what the other may have stashed of it.
    let most = FULL * 2 * (2 * WINDOW + 64 * 1024);
    let grown = resident().saturating_sub(before);
    assert!(grown <= most, "{grown} bytes for {FULL} full sessions, more than {most}");
    // A cut makes all of it be sent again: it is not kept twice.
    for client in streams.iter().step_by(2) {
        client.redial().unwrap();
    }
    wait_until("all have resumed", || {
        streams.iter().step_by(2).all(|client| client.info().unwrap().resumes == 1)
    });
    let grown = resident().saturating_sub(before);
    assert!(grown <= most, "{grown} bytes after the resumes, more than {most}");
    for ends in streams.chunks(2) {
        ends[0].set_nonblocking(false).unwrap();
        assert!(read_exactly(&ends[0], 1000) == bytes[..1000]);
    }
}

fn in_a_process(role: &str) {
    let mut helper = Helper::spawn("helper_process", role, "");
    assert_eq!(helper.word(), "done");
    assert!(helper.end().success());
}

#[test]
fn a_process_without_virtual_sockets_has_no_thread_and_no_descriptor_of_ours() {
    let _limit = Limit::new("a plain process", PATIENCE);
    in_a_process("plain");
}

#[test]
fn sessions_that_nobody_reads_hold_no_more_memory_than_their_windows() {
    let _limit = Limit::new("full sessions", PATIENCE);
    in_a_process("full");
}
