//! Numbers that name nothing, through every twin of a system call.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::Duration;

use common::{errno, pair, quick};
use eversock_engine::{Config, posix};

/// Negative ones, those at and beyond the ends of the table, and one that is merely closed.
const ABSURD: [i32; 7] = [-1, -2, i32::MIN, (1 << 20) - 1, 1 << 20, i32::MAX, 900];

#[test]
fn absurd_numbers_are_ebadf_in_every_call() {
    let nowhere = ([127, 0, 0, 1], 9).into();
    let [client, server, listener] = pair(quick(), quick());
    for number in ABSURD {
        let mut byte = [0];
        let mut word = [0; 4];
        let event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 1 };
        let events = &mut [event; 2];
        let mask = std::ptr::null();
        let soon = Some(Duration::ZERO);
        let flags = libc::F_DUPFD_CLOEXEC;
        assert!(!posix::is_virtual(number) && !posix::is_direct(number));
        let all = [
            errno(posix::bind(number, nowhere)),
            errno(posix::connect(number, nowhere)),
            errno(posix::connect_any(number, &[], None)),
            errno(posix::listen(number, 1)),
            errno(posix::accept4(number, 0)),
            errno(posix::send(number, &[IoSlice::new(b"x")], 0)),
            errno(posix::recv(number, &mut [IoSliceMut::new(&mut byte)], 0)),
            errno(posix::shutdown(number, libc::SHUT_RDWR)),
            errno(posix::close(number)),
            errno(posix::getsockname(number)),
            errno(posix::getpeername(number)),
            errno(posix::setsockopt(number, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &word)),
            errno(posix::getsockopt(number, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &mut word)),
            errno(posix::fcntl(number, flags, 0).unwrap()),
            errno(posix::set_nonblocking(number, true)),
            errno(posix::readable_bytes(number)),
            errno(posix::unsent_bytes(number)),
            errno(posix::dup(number)),
            errno(posix::dup3(number, client, 0)),
            errno(posix::epoll_ctl(number, libc::EPOLL_CTL_ADD, client, Some(event))),
            errno(posix::epoll_ctl(number, libc::EPOLL_CTL_MOD, client, Some(event))),
            errno(posix::epoll_ctl(number, libc::EPOLL_CTL_DEL, client, None)),
            errno(posix::epoll_wait(number, events, soon, mask)),
            errno(posix::info(number)),
            errno(posix::subscribe(number)),
            errno(posix::redial(number)),
            errno(posix::wait_attached(number, soon)),
            errno(posix::pump(number)),
            errno(posix::forget(number)),
        ];
        assert_eq!(all, [libc::EBADF; 29], "number {number}");
        posix::forget_epoll(number);
        if number != 900 {
            assert_eq!(errno(posix::dup3(client, number, 0)), libc::EBADF, "onto {number}");
            let from = posix::fcntl(client, flags, number.into()).unwrap();
            assert_eq!(errno(from), libc::EINVAL, "from {number}");
        }
        let mut fds = [libc::pollfd { fd: number, events: libc::POLLIN, revents: 0 }; 2];
        fds[1].fd = client;
        let expected = if number < 0 { 0 } else { 1 };
        assert_eq!(posix::poll(&mut fds, soon, mask).unwrap(), expected, "poll of {number}");
    }
    assert_eq!(errno(posix::fcntl(client, libc::F_DUPFD, i64::MAX).unwrap()), libc::EINVAL);
    // The sockets beside them have noticed nothing.
    assert_eq!(common::send(client, b"x").unwrap(), 1);
    assert_eq!(common::recv(server, &mut [0]).unwrap(), 1);
    for number in [client, server, listener] {
        posix::close(number).unwrap();
    }
}

#[test]
fn select_looks_no_further_than_its_sets() {
    let [client, server, listener] = pair(quick(), quick());
    let bit = |number: i32| 1u64 << (number % 64);
    let at = usize::try_from(client).unwrap() / 64;
    let mut write = vec![0u64; at + 1];
    write[at] = bit(client);
    let mut read = [0u64; 0];
    let sets = [Some(&mut read[..]), Some(&mut write[..]), None];
    assert_eq!(posix::select(usize::MAX, sets, None, std::ptr::null()).unwrap(), 1);
    assert_eq!(write[at], bit(client));
    for number in [client, server, listener] {
        posix::close(number).unwrap();
    }
}

#[test]
fn what_is_no_virtual_socket_is_enotsock_and_left_alone() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&file);
    assert_eq!(errno(posix::info(number)), libc::ENOTSOCK);
    assert_eq!(errno(posix::shutdown(number, libc::SHUT_RD)), libc::ENOTSOCK);
    assert_eq!(errno(posix::close(number)), libc::EBADF);
    let config = Arc::new(Config::default());
    let kind = libc::SOCK_STREAM;
    assert_eq!(errno(posix::socket(-1, kind, 0, Arc::clone(&config))), libc::EAFNOSUPPORT);
    assert_eq!(errno(posix::socket(libc::AF_INET, -1, 0, config)), libc::EPROTONOSUPPORT);
    assert!(file.metadata().is_ok());
}
