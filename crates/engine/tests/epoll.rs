//! Several descriptors of one epoll set that have the same data.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::{PATIENCE, pair, quick, recv, send};
use eversock_engine::posix;

const DATA: u64 = 0;

fn epoll() -> i32 {
    // SAFETY: makes a descriptor.
    let epfd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    assert!(epfd >= 0);
    epfd
}

fn control(epfd: i32, op: i32, number: i32, events: i32) {
    let event = libc::epoll_event { events: events.cast_unsigned(), u64: DATA };
    posix::epoll_ctl(epfd, op, number, Some(event)).unwrap();
}

fn wait(epfd: i32, timeout: Duration) -> Vec<u32> {
    let mut events = [libc::epoll_event { events: 0, u64: 9 }; 8];
    let n = posix::epoll_wait(epfd, &mut events, Some(timeout), std::ptr::null()).unwrap();
    events[..n].iter().map(|event| event.events).collect()
}

/// An event was filtered by the states of all registrations with its data, so that one that was
/// not readable hid the others.
#[test]
fn an_event_is_told_if_any_registration_with_its_data_would_tell_it() {
    let input = libc::EPOLLIN as u32;
    let [first, first_peer, first_listener] = pair(quick(), quick());
    let [second, second_peer, second_listener] = pair(quick(), quick());
    let (mut writer, reader) = std::os::unix::net::UnixStream::pair().unwrap();
    let epfd = epoll();
    for number in [first, second, reader.as_raw_fd()] {
        control(epfd, libc::EPOLL_CTL_ADD, number, libc::EPOLLIN);
    }
    assert!(wait(epfd, Duration::ZERO).is_empty());
    for (peer, number) in [(first_peer, first), (second_peer, second)] {
        send(peer, b"x").unwrap();
        assert_eq!(wait(epfd, PATIENCE), [input]);
        recv(number, &mut [0; 1]).unwrap();
    }
    writer.write_all(b"x").unwrap();
    assert_eq!(wait(epfd, PATIENCE), [input], "the ordinary descriptor's");
    // Nothing is told for what only the ordinary one has once it is out of the set.
    control(epfd, libc::EPOLL_CTL_DEL, reader.as_raw_fd(), 0);
    assert!(wait(epfd, Duration::ZERO).is_empty());
    posix::forget_epoll(epfd);
    let all = [first, first_peer, first_listener, second, second_peer, second_listener];
    for number in all {
        posix::close(number).unwrap();
    }
}

#[test]
fn of_two_oneshots_with_the_same_data_each_fires_once() {
    let [first, first_peer, first_listener] = pair(quick(), quick());
    let [second, second_peer, second_listener] = pair(quick(), quick());
    let epfd = epoll();
    for number in [first, second] {
        control(epfd, libc::EPOLL_CTL_ADD, number, libc::EPOLLIN | libc::EPOLLONESHOT);
    }
    let mut buf = [0; 1];
    for round in 0..3 {
        // One alone, then both at once.
        send(first_peer, b"x").unwrap();
        assert_eq!(wait(epfd, PATIENCE).len(), 1, "round {round}");
        send(second_peer, b"x").unwrap();
        assert_eq!(wait(epfd, PATIENCE).len(), 1, "round {round}");
        assert!(wait(epfd, Duration::ZERO).is_empty(), "round {round}");
        for number in [first, second] {
            recv(number, &mut buf).unwrap();
            control(epfd, libc::EPOLL_CTL_MOD, number, libc::EPOLLIN | libc::EPOLLONESHOT);
        }
    }
    posix::forget_epoll(epfd);
    let all = [first, first_peer, first_listener, second, second_peer, second_listener];
    for number in all {
        posix::close(number).unwrap();
    }
}
