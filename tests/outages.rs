//! What a program does while its connection is away, and cuts at every byte of a resume.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::limit::Limit;
use common::{Ends, MIB, StopOnDrop, data, ends, pair, quick, read_all, read_exactly, wait_until};
use eversock::wait::{Epoll, poll};
use eversock::{Config, RecoveryPolicy, State, VirtualListener, VirtualStream};
use eversock_chaos::{Fault, Plan, Proxy, Refusal, Target};

const PATIENCE: Duration = Duration::from_secs(90);

/// Cuts, and lets nothing through until healed.
fn cut_off(ends: &Ends) {
    ends.proxy.inject(Fault::Refuse(Refusal::Closed(None)), Target::All).unwrap();
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    wait_until("the outage", || ends.client.info().unwrap().state == State::Detached);
}

fn heal(ends: &Ends) {
    ends.proxy.inject(Fault::Heal, Target::All).unwrap();
}

// ---------------------------------------------------------------------------------------------
// Shutdown and failure during an outage (review of the descriptors, F9)

#[test]
fn a_shutdown_for_writing_in_an_outage_breaks_the_pipe_at_once_and_arrives_behind_all_bytes() {
    let _limit = Limit::new("a shutdown in an outage", PATIENCE);
    let ends = pair();
    cut_off(&ends);
    (&ends.client).write_all(b"the last words").unwrap();
    ends.client.shutdown(Shutdown::Write).unwrap();
    let error = (&ends.client).write(b"x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
    let fd = ends.client.as_raw_fd();
    let mut fds = [libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT, revents: 0 }];
    assert_eq!(poll(&mut fds, Some(PATIENCE)).unwrap(), 1);
    assert_eq!(fds[0].revents, libc::POLLOUT, "as on a TCP socket: a write would not block");
    heal(&ends);
    assert_eq!(read_all(&ends.server), b"the last words");
    (&ends.server).write_all(b"heard").unwrap();
    assert_eq!(read_exactly(&ends.client, 5), b"heard");
}

/// Runs `sleep` in a thread, and `wake` once it sleeps; gives what the sleeper found.
fn while_asleep<T: Send>(sleep: impl FnOnce() -> T + Send, wake: impl FnOnce()) -> T {
    let number = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            // SAFETY: asks for the number of this thread.
            let tid = unsafe { libc::gettid() };
            number.store(usize::try_from(tid).unwrap(), Ordering::SeqCst);
            sleep()
        });
        wait_until("it sleeps", || {
            let tid = number.load(Ordering::SeqCst);
            let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat"));
            stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|s| s.starts_with(" S")))
        });
        wake();
        sleeper.join().unwrap()
    })
}

fn poll_for_input(stream: &VirtualStream) -> i16 {
    let fd = stream.as_raw_fd();
    let mut fds = [libc::pollfd { fd, events: libc::POLLIN | libc::POLLRDHUP, revents: 0 }];
    assert_eq!(poll(&mut fds, Some(Duration::from_secs(20))).unwrap(), 1, "nobody woke the poll");
    fds[0].revents
}

fn epoll_for_input(stream: &VirtualStream) -> i16 {
    let epoll = Epoll::new().unwrap();
    epoll.add(stream, libc::EPOLLIN | libc::EPOLLRDHUP, 1).unwrap();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
    let n = epoll.wait(&mut events, Some(Duration::from_secs(20))).unwrap();
    assert_eq!(n, 1, "nobody woke the epoll_wait");
    i16::try_from(events[0].events).unwrap()
}

#[test]
fn a_shutdown_for_reading_in_an_outage_wakes_whoever_waits_for_input() {
    let _limit = Limit::new("a shutdown in an outage", PATIENCE);
    let end = libc::POLLIN | libc::POLLRDHUP;
    for wait in [poll_for_input, epoll_for_input] {
        let ends = pair();
        cut_off(&ends);
        let shut = || ends.client.shutdown(Shutdown::Read).unwrap();
        assert_eq!(while_asleep(|| wait(&ends.client), shut), end);
        assert_eq!((&ends.client).read(&mut [0; 10]).unwrap(), 0);
    }
    let ends = pair();
    cut_off(&ends);
    let shut = || ends.client.shutdown(Shutdown::Read).unwrap();
    assert_eq!(while_asleep(|| (&ends.client).read(&mut [0; 10]).unwrap(), shut), 0);
}

#[test]
fn a_failure_in_an_outage_wakes_every_kind_of_wait_with_every_bit() {
    let _limit = Limit::new("a failure in an outage", PATIENCE);
    let bits = libc::POLLIN | libc::POLLERR | libc::POLLHUP | libc::POLLRDHUP;
    for wait in [poll_for_input, epoll_for_input] {
        let ends = pair();
        cut_off(&ends);
        let id = ends.client.info().unwrap().local_id;
        let seen = while_asleep(|| wait(&ends.client), || assert!(eversock::kill(id)));
        assert_eq!(seen, bits);
        assert_eq!(ends.client.take_error().unwrap().unwrap().raw_os_error(), Some(103));
        assert!(ends.client.take_error().unwrap().is_none(), "told twice");
    }
    let ends = pair();
    cut_off(&ends);
    let id = ends.client.info().unwrap().local_id;
    let read = || (&ends.client).read(&mut [0; 10]).unwrap_err().raw_os_error();
    let seen = while_asleep(read, || assert!(eversock::kill(id)));
    assert_eq!(seen, Some(libc::ECONNABORTED));
}

// ---------------------------------------------------------------------------------------------
// Waits that straddle a swap (F8), numbers that are reused while swaps run (F18)

/// The connection is replaced over and over while threads wait for one ONESHOT registration: each
/// arming is told to one of them at most, and none is lost.
#[test]
fn a_oneshot_that_waits_through_swaps_is_told_once_for_each_arming() {
    let _limit = Limit::new("ONESHOT through swaps", PATIENCE);
    let ends = pair();
    ends.client.set_nonblocking(true).unwrap();
    let epoll = Epoll::new().unwrap();
    let events = libc::EPOLLIN | libc::EPOLLONESHOT;
    epoll.add(&ends.client, events, 7).unwrap();
    let (handling, got, over) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicBool::new(false));
    let total = 500;
    std::thread::scope(|scope| {
        let _over = StopOnDrop(&over);
        for _ in 0..3 {
            scope.spawn(|| {
                let mut out = [libc::epoll_event { events: 0, u64: 0 }; 4];
                while !over.load(Ordering::SeqCst) {
                    let n = epoll.wait(&mut out, Some(Duration::from_millis(50))).unwrap();
                    if n == 0 {
                        continue;
                    }
                    assert!(!handling.swap(true, Ordering::SeqCst), "two threads in one handler");
                    let mut buf = [0; 64];
                    while let Ok(n) = (&ends.client).read(&mut buf) {
                        assert!(n > 0, "an end that was none");
                        got.fetch_add(n, Ordering::SeqCst);
                    }
                    handling.store(false, Ordering::SeqCst);
                    epoll.modify(&ends.client, events, 7).unwrap();
                }
            });
        }
        for byte in 0..total {
            (&ends.server).write_all(&[1]).unwrap();
            let resumes = ends.client.info().unwrap().resumes;
            match byte % 4 {
                0 => ends.proxy.inject(Fault::Reset, Target::Open).map(|_| ()).unwrap(),
                _ => ends.client.redial().unwrap(),
            }
            // The next byte comes while the connection is being replaced.
            (&ends.server).write_all(&[1]).unwrap();
            wait_until("a resume", || ends.client.info().unwrap().resumes > resumes);
            wait_until("all has come", || got.load(Ordering::SeqCst) == 2 * (byte + 1));
        }
    });
    wait_until("the resumes are counted", || ends.client.info().unwrap().resumes >= total as u64);
}

/// Numbers are closed and at once taken by pipes while their connections are replaced: no swap puts
/// a socket over a pipe.
#[test]
fn a_number_that_is_closed_and_reused_while_swaps_run_is_never_overwritten() {
    let _limit = Limit::new("numbers reused", PATIENCE);
    let ends = pair();
    let mut overwritten = 0;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let resumes = ends.client.info().unwrap().resumes;
                ends.client.redial().unwrap();
                wait_until("a resume", || {
                    stop.load(Ordering::Relaxed) || ends.client.info().unwrap().resumes > resumes
                });
            }
        });
        let is_pipe = |number: i32| {
            let link = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
            link.to_string_lossy().starts_with("pipe:")
        };
        let mut reused = 0;
        let resumes = || ends.client.info().unwrap().resumes;
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while (reused < 2000 || resumes() < 20) && std::time::Instant::now() < until {
            let clones: Vec<_> = (0..4).map(|_| ends.client.try_clone().unwrap()).collect();
            let numbers: Vec<_> = clones.iter().map(AsRawFd::as_raw_fd).collect();
            drop(clones);
            let pipes: Vec<_> = (0..2).map(|_| std::io::pipe().unwrap()).collect();
            let ends = pipes.iter().flat_map(|(a, b)| [a.as_raw_fd(), b.as_raw_fd()]);
            for number in ends {
                reused += usize::from(numbers.contains(&number));
                overwritten += usize::from(!is_pipe(number));
            }
            // A while later they still are what they were.
            std::thread::yield_now();
            for (a, b) in &pipes {
                overwritten += usize::from(!is_pipe(a.as_raw_fd()) || !is_pipe(b.as_raw_fd()));
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reused >= 100, "only {reused} numbers were reused");
    });
    assert_eq!(overwritten, 0);
    wait_until("the resumes are counted", || ends.client.info().unwrap().resumes >= 20);
    common::exchange(&ends.client, &ends.server, b"up", b"down");
}

// ---------------------------------------------------------------------------------------------
// Roles (review of the protocol, item 8)

/// The thread that reads for all takes its byte and does something else: the writer, which waits
/// for credit that comes in later, has to read for itself.
#[test]
fn a_blocked_writer_reads_for_itself_once_the_reader_has_left() {
    let _limit = Limit::new("the role of the reader", PATIENCE);
    let narrow = Config { window: 16 * 1024, window_max: 16 * 1024, ..quick() };
    for round in 0..20 {
        let ends = ends("127.0.0.1:0", narrow.clone(), narrow.clone());
        let bytes = data(round, 200_000);
        let has_left = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(read_exactly(&ends.client, 1), b"!");
                // It computes from here on; only the writer is left in a call.
                has_left.store(true, Ordering::SeqCst);
            });
            let writer = scope.spawn(|| (&ends.client).write_all(&bytes).unwrap());
            wait_until("the writer has no credit", || {
                ends.client.info().unwrap().written >= 16 * 1024
            });
            (&ends.server).write_all(b"!").unwrap();
            wait_until("the reader has left", || has_left.load(Ordering::SeqCst));
            assert!(read_exactly(&ends.server, bytes.len()) == bytes);
            writer.join().unwrap();
        });
    }
}

// ---------------------------------------------------------------------------------------------
// Rows of the README over real sockets

/// RESUME and CONFIRM are 144 bytes, RESUME_OK is 88; some bytes of the first frames follow.
#[test]
fn a_resume_cut_at_every_byte_is_followed_by_one_that_works_over_real_sockets() {
    let _limit = Limit::new("cuts in a resume", PATIENCE);
    common::begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let target = listener.local_addr().unwrap();
    let (mut hit, mut tried) = (0, 0);
    for (direction, most) in [("up", 144 + 24), ("down", 88 + 24)] {
        for after in 0..=most {
            let cut = if after % 2 == 0 { "reset" } else { "fin" };
            let line = format!("conn 2 after {after} {direction} {cut}");
            let plan = Plan::parse(&line).unwrap();
            let config = eversock_chaos::Config::new("127.0.0.1:0".parse().unwrap(), target);
            let proxy = Proxy::spawn(config.with_plan(plan)).unwrap();
            let client = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
            let (server, _) = listener.accept().unwrap();
            // Something is on its way in both directions when the first connection dies.
            let bytes = data(after, 3000);
            (&client).write_all(&bytes).unwrap();
            (&server).write_all(&bytes).unwrap();
            proxy.inject(Fault::Reset, Target::Open).unwrap();
            assert!(read_exactly(&server, 3000) == bytes, "{line}");
            assert!(read_exactly(&client, 3000) == bytes, "{line}");
            common::exchange(&client, &server, b"up", b"down");
            tried += 1;
            hit += usize::from(proxy.stats().summary.accepted >= 3);
        }
    }
    assert!(hit * 10 >= tried * 9, "only {hit} of {tried} cuts hit a resume");
}

#[test]
fn a_reader_that_pauses_through_many_cuts_keeps_its_session_over_real_sockets() {
    let _limit = Limit::new("a paused reader", PATIENCE);
    let ends = pair();
    let bytes = data(9, 8 * MIB);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&ends.client).write_all(&bytes).unwrap();
            ends.client.shutdown(Shutdown::Write).unwrap();
        });
        wait_until("the window is shut", || {
            let info = ends.client.info().unwrap();
            info.written >= info.acked + 200_000
        });
        // More than the stale resumes that would end a session.
        for _ in 0..24 {
            let resumes = ends.client.info().unwrap().resumes;
            ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
            wait_until("a resume", || ends.client.info().unwrap().resumes > resumes);
        }
        assert!(read_all(&ends.server) == bytes);
    });
}

/// What the engine does when it notices that the machine was suspended, or is told of a change: all
/// paths are tried anew, and whoever waits between two dials waits no longer.
#[test]
fn a_change_of_the_network_ends_the_wait_between_two_dials() {
    let _limit = Limit::new("a change of the network", PATIENCE);
    let hour = Duration::from_secs(3600);
    let config = Config {
        back_off: eversock::BackOff { base: hour, cap: hour },
        policy: RecoveryPolicy::Automatic,
        ..quick()
    };
    let ends = ends("127.0.0.1:0", config, Config { grace_after_close: hour, ..quick() });
    cut_off(&ends);
    wait_until("the first dial has failed", || {
        ends.client.info().unwrap().next_try_ms.is_some_and(|ms| ms > 60_000)
    });
    heal(&ends);
    eversock::network_changed();
    common::exchange(&ends.client, &ends.server, b"up", b"down");
}
