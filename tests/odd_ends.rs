//! Uses that a well-behaved program does not make, and ends that nobody waits for.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::limit::Limit;
use common::{pair, quick, wait_until};
use eversock::{State, VirtualListener, VirtualStream};
use eversock_chaos::{Fault, Refusal, Target};

const PATIENCE: Duration = Duration::from_secs(60);

/// A plain write(2) in an outage goes to the placeholder: the kernel says that it succeeded, so the
/// bytes must arrive (review of the descriptors, F2).
#[test]
fn bytes_written_past_the_wrappers_in_an_outage_join_the_session() {
    let _limit = Limit::new("stray bytes", PATIENCE);
    let ends = pair();
    ends.proxy.inject(Fault::Refuse(Refusal::Closed(None)), Target::All).unwrap();
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    wait_until("the outage", || ends.client.info().unwrap().state == State::Detached);
    let stray = b"stray";
    // SAFETY: the buffer is readable for its length; the number is open.
    let n = unsafe { libc::write(ends.client.as_raw_fd(), stray.as_ptr().cast(), stray.len()) };
    assert_eq!(n, 5);
    ends.proxy.inject(Fault::Heal, Target::All).unwrap();
    wait_until("the resume", || ends.client.info().unwrap().state == State::Attached);
    (&ends.client).write_all(b" and after").unwrap();
    let mut got = [0; 15];
    (&ends.server).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"stray and after");
}

/// A session that was proven but never accepted ends with an error when the listener closes (review
/// of the descriptors, F12).
#[test]
fn a_session_that_nobody_accepted_is_reset_when_the_listener_closes() {
    let _limit = Limit::new("an untaken session", PATIENCE);
    common::begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let addr = listener.local_addr().unwrap();
    let client = VirtualStream::connect_with(addr, quick()).unwrap();
    (&client).write_all(b"is anybody there?").unwrap();
    drop(listener);
    let error = (&client).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// The engine heard of the close before it read that the session was taken, and put a RESET between
/// the frames of a session that the program had: the client saw a broken connection and resumed.
#[test]
fn a_session_that_was_accepted_just_before_its_listener_closed_is_left_alone() {
    let _limit = Limit::new("accepted before the close", PATIENCE);
    common::begin();
    for round in 0..200 {
        let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
        let addr = listener.local_addr().unwrap();
        let client = VirtualStream::connect_with(addr, quick()).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(listener);
        common::exchange(&client, &server, b"up", b"down");
        assert_eq!(client.info().unwrap().resumes, 0, "round {round}");
    }
}

/// The peer's program closed a session that had been reset under it, and its FIN came back to the
/// program whose session was killed: that read an orderly end.
#[test]
fn a_session_that_is_killed_ends_with_an_error_although_the_other_end_closes_at_once() {
    let _limit = Limit::new("a killed session", PATIENCE);
    for round in 0..200 {
        let (client, server) = direct_pair();
        let (killed, other) = if round % 2 == 0 { (client, server) } else { (server, client) };
        let id = killed.info().unwrap().local_id;
        // Each closes as soon as it has been told.
        let ended = |stream: VirtualStream| {
            std::thread::spawn(move || (&stream).read(&mut [0; 100]).map_err(|e| e.raw_os_error()))
        };
        let (killed, other) = (ended(killed), ended(other));
        assert!(eversock_engine::kill(id));
        assert_eq!(killed.join().unwrap(), Err(Some(libc::ECONNABORTED)), "round {round}");
        assert_eq!(other.join().unwrap(), Err(Some(libc::ECONNRESET)), "round {round}");
    }
}

fn direct_pair() -> (VirtualStream, VirtualStream) {
    common::begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let client = VirtualStream::connect_with(listener.local_addr().unwrap(), quick()).unwrap();
    let server = listener.accept().unwrap().0;
    (client, server)
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

/// The second signal, as a profiler's, made it fail with EINTR, or with EISCONN if the session
/// stood by then.
#[test]
fn a_connect_that_is_interrupted_again_and_again_comes_to_its_end() {
    let _limit = Limit::new("an interrupted connect", PATIENCE);
    common::begin();
    // SAFETY: the handler is async-signal-safe; all zeros is an action.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count_signal as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
    }
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let addr = listener.local_addr().unwrap();
    // The second must wait until the first is accepted.
    eversock_engine::posix::listen(listener.as_raw_fd(), 0).unwrap();
    let _first = VirtualStream::connect_with(addr, quick()).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let client = std::thread::spawn(move || {
        // SAFETY: gives this thread's name.
        tell.send(unsafe { libc::pthread_self() }).unwrap();
        VirtualStream::connect_with(addr, quick())
    });
    let thread = told.recv().unwrap();
    for sent in 1..=50 {
        // SAFETY: the thread is not joined yet.
        assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
        wait_until("the signal", || client.is_finished() || SIGNALS.load(Ordering::SeqCst) >= sent);
    }
    assert!(!client.is_finished(), "it gave up: {:?}", client.join());
    let _accepted = [listener.accept().unwrap(), listener.accept().unwrap()];
    client.join().unwrap().unwrap();
}
