//! What a program sets and asks of its sockets, beside the same on plain ones.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use common::{PATIENCE, errno, listen, pair, quick, recv, send, wait_until};
use eversock_engine::{Config, RecoveryPolicy, State, posix};

fn timeval(duration: Duration) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&duration.as_secs().to_ne_bytes());
    value[8..].copy_from_slice(&u64::from(duration.subsec_micros()).to_ne_bytes());
    value
}

fn set_timeout(number: i32, name: i32, timeout: Duration) {
    posix::setsockopt(number, libc::SOL_SOCKET, name, &timeval(timeout)).unwrap();
}

/// The time-out was set on the engine's listening socket, where nobody sleeps.
#[test]
fn a_receive_time_out_ends_accept_and_is_inherited() {
    let timeout = Duration::from_millis(60);
    let before = common::socket(quick());
    set_timeout(before, libc::SO_RCVTIMEO, timeout);
    posix::bind(before, ([127, 0, 0, 1], 0).into()).unwrap();
    posix::listen(before, 4).unwrap();
    let (after, _) = listen(quick());
    set_timeout(after, libc::SO_RCVTIMEO, timeout);
    for listener in [before, after] {
        let begun = Instant::now();
        assert_eq!(errno(posix::accept4(listener, 0)), libc::EAGAIN);
        assert!(begun.elapsed() >= timeout);
        let addr = posix::getsockname(listener).unwrap().unwrap();
        let client = common::connect(addr, quick());
        let (server, _) = posix::accept4(listener, 0).unwrap();
        let begun = Instant::now();
        assert_eq!(errno(recv(server, &mut [0; 1])), libc::EAGAIN);
        assert!(begun.elapsed() >= timeout);
        // And without one it waits again.
        set_timeout(listener, libc::SO_RCVTIMEO, Duration::ZERO);
        let late = std::thread::spawn(move || common::connect(addr, quick()));
        let (other, _) = posix::accept4(listener, 0).unwrap();
        for number in [client, server, other, late.join().unwrap(), listener] {
            posix::close(number).unwrap();
        }
    }
}

fn plain_option(name: i32, value: i32) -> i32 {
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut out = value;
    let mut len = 4;
    // SAFETY: both point to four bytes.
    let result = unsafe {
        libc::setsockopt(plain.as_raw_fd(), libc::SOL_SOCKET, name, (&raw const out).cast(), 4)
            | libc::getsockopt(
                plain.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                (&raw mut out).cast(),
                &raw mut len,
            )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    out
}

/// In an outage the program got back what it had set; the kernel doubles it, and has a least.
#[test]
fn buffer_sizes_read_in_an_outage_are_what_the_kernel_makes_of_them() {
    let config = Config { policy: RecoveryPolicy::AskOutside, ..quick() };
    let [client, server, listener] = pair(config, quick());
    let get = |name| {
        let mut out = [0; 4];
        assert_eq!(posix::getsockopt(client, libc::SOL_SOCKET, name, &mut out).unwrap(), 4);
        i32::from_ne_bytes(out)
    };
    let set = |name, value: i32| {
        posix::setsockopt(client, libc::SOL_SOCKET, name, &value.to_ne_bytes()).unwrap();
    };
    set(libc::SO_RCVBUF, 20_000);
    set(libc::SO_SNDBUF, 1);
    let attached = [get(libc::SO_RCVBUF), get(libc::SO_SNDBUF)];
    cut(server);
    wait_until("the outage", || posix::info(client).unwrap().state == State::Asking);
    assert_eq!([get(libc::SO_RCVBUF), get(libc::SO_SNDBUF)], attached);
    set(libc::SO_RCVBUF, 30_000);
    assert_eq!(get(libc::SO_RCVBUF), plain_option(libc::SO_RCVBUF, 30_000));
    for number in [client, server, listener] {
        posix::close(number).unwrap();
    }
}

/// Ends the connection under a virtual socket as a bad network would.
fn cut(number: i32) {
    // SAFETY: shutting a connection down is memory-safe.
    assert_eq!(unsafe { libc::shutdown(number, libc::SHUT_RDWR) }, 0);
}

/// "Closed" was told only when the program closed its number, however long it kept it.
#[test]
fn the_end_of_both_directions_is_told_although_the_program_keeps_its_stream() {
    let [client, server, listener] = pair(quick(), quick());
    let events = [client, server].map(|number| posix::subscribe(number).unwrap());
    send(client, b"all").unwrap();
    for number in [client, server] {
        posix::shutdown(number, libc::SHUT_WR).unwrap();
    }
    let mut buf = [0; 8];
    assert_eq!(recv(server, &mut buf).unwrap(), 3);
    for (number, events) in [client, server].into_iter().zip(&events) {
        assert_eq!(recv(number, &mut buf).unwrap(), 0);
        let event = events.recv_timeout(PATIENCE).unwrap();
        assert_eq!(event.kind, eversock_engine::EventKind::Closed);
        assert_eq!(posix::info(number).unwrap().state, State::Closed);
    }
    // An end of the connection after it is nobody's fault, and no other event.
    cut(server);
    for number in [client, server, listener] {
        posix::close(number).unwrap();
    }
    wait_until("both are gone", || {
        !eversock_engine::sessions().iter().any(|info| info.state == State::Closed)
    });
    let later: Vec<_> = events.iter().flat_map(|events| events.try_iter()).collect();
    assert!(later.is_empty(), "{later:?}");
}

/// The cause was told some time after the failure itself.
#[test]
fn who_sees_a_failure_sees_its_cause() {
    let config = Config { policy: RecoveryPolicy::Never, ..quick() };
    for _ in 0..20 {
        let [client, server, listener] = pair(config.clone(), quick());
        cut(server);
        assert_eq!(errno(recv(client, &mut [0; 1])), libc::ECONNRESET);
        assert!(posix::info(client).unwrap().last_error.is_some());
        for number in [client, server, listener] {
            posix::close(number).unwrap();
        }
    }
}

/// It was done as if there were an end to tell, and said so: a program that asks whether its last
/// words went out in order was told yes.
#[test]
fn a_shutdown_of_what_was_reset_is_refused_as_on_a_plain_socket() {
    let [client, server, listener] = pair(quick(), quick());
    let plain_listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = TcpStream::connect(plain_listener.local_addr().unwrap()).unwrap();
    let (other, _) = plain_listener.accept().unwrap();
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = libc::socklen_t::try_from(size_of_val(&at_once)).unwrap();
    let value = (&raw const at_once).cast();
    let (level, name) = (libc::SOL_SOCKET, libc::SO_LINGER);
    // SAFETY: the value is readable for its length.
    assert_eq!(unsafe { libc::setsockopt(other.as_raw_fd(), level, name, value, size) }, 0);
    posix::setsockopt(server, level, name, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    posix::close(server).unwrap();
    drop(other);
    let shut_plain = || plain.shutdown(Shutdown::Write).map_err(|e| e.raw_os_error());
    let shut = || posix::shutdown(client, libc::SHUT_WR).map_err(|e| e.raw_os_error());
    let mut fds = [libc::pollfd { fd: plain.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 }];
    assert_eq!(posix::poll(&mut fds, Some(PATIENCE), std::ptr::null()).unwrap(), 1);
    wait_until("the failure", || posix::info(client).unwrap().state == State::Failed);
    let mut byte = [0];
    let of_plain =
        (shut_plain(), errno((&plain).read(&mut byte)), shut_plain(), (&plain).read(&mut byte));
    let ours = (shut(), errno(recv(client, &mut byte)), shut(), recv(client, &mut byte));
    let not_connected = Err(Some(libc::ENOTCONN));
    for (first, error, second, end) in [of_plain, ours] {
        let said = (first, error, second, end.unwrap());
        assert_eq!(said, (not_connected, libc::ECONNRESET, not_connected, 0));
    }
    for number in [client, listener] {
        posix::close(number).unwrap();
    }
}
