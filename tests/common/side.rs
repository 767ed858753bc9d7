//! One end of a conversation, driven by readiness as an event loop would drive it.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::time::Duration;

use eversock::VirtualStream;
use eversock::wait::{Epoll, poll};
use eversock_engine::posix;

/// How an end waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Level,
    Edge,
    OneShot,
    Poll,
    Select,
}

const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// Waits for one stream in one way.
pub(crate) struct Waiter<'a> {
    how: How,
    stream: &'a VirtualStream,
    epoll: Epoll,
    interest: i32,
    /// How often a wait returned.
    pub(crate) returns: usize,
}

const DATA: u64 = 0xE5_0C_CA_FE;

impl<'a> Waiter<'a> {
    pub(crate) fn new(how: How, stream: &'a VirtualStream) -> Self {
        let epoll = Epoll::new().unwrap();
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP;
        let flags = match how {
            How::Level => Some(0),
            How::Edge => Some(libc::EPOLLET),
            How::OneShot => Some(libc::EPOLLONESHOT),
            How::Poll | How::Select => None,
        };
        if let Some(flags) = flags {
            epoll.add(stream, interest | flags, DATA).unwrap();
        }
        Self { how, stream, epoll, interest, returns: 0 }
    }

    /// Waits for the interest given; what came, as epoll bits.
    pub(crate) fn wait(&mut self, read: bool, write: bool) -> i32 {
        let mut wanted = 0;
        if read {
            wanted |= libc::EPOLLIN | libc::EPOLLRDHUP;
        }
        if write {
            wanted |= libc::EPOLLOUT;
        }
        self.returns += 1;
        match self.how {
            How::Level => {
                if wanted != self.interest {
                    self.epoll.modify(self.stream, wanted, DATA).unwrap();
                    self.interest = wanted;
                }
                self.epoll_wait()
            }
            How::Edge => self.epoll_wait(),
            How::OneShot => {
                if self.returns > 1 {
                    self.epoll.modify(self.stream, wanted | libc::EPOLLONESHOT, DATA).unwrap();
                }
                self.epoll_wait()
            }
            How::Poll => {
                let events = i16::try_from(wanted).unwrap();
                let fd = self.stream.as_raw_fd();
                let mut fds = [libc::pollfd { fd, events, revents: 0 }];
                assert_eq!(poll(&mut fds, PATIENCE).unwrap(), 1, "nobody woke the poll");
                i32::from(fds[0].revents)
            }
            How::Select => {
                let number = usize::try_from(self.stream.as_raw_fd()).unwrap();
                let bit = 1u64 << (number % 64);
                let (mut r, mut w) = ([0u64; 16], [0u64; 16]);
                r[number / 64] = if read { bit } else { 0 };
                w[number / 64] = if write { bit } else { 0 };
                let sets = [Some(&mut r[..]), Some(&mut w[..]), None];
                let n = posix::select(number + 1, sets, PATIENCE, std::ptr::null()).unwrap();
                assert!(n > 0, "nobody woke the select");
                let mut seen = 0;
                if r[number / 64] & bit != 0 {
                    seen |= libc::EPOLLIN;
                }
                if w[number / 64] & bit != 0 {
                    seen |= libc::EPOLLOUT;
                }
                seen
            }
        }
    }

    fn epoll_wait(&self) -> i32 {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        let n = self.epoll.wait(&mut events, PATIENCE).unwrap();
        assert_eq!(n, 1, "nobody woke the epoll_wait");
        assert_eq!({ events[0].u64 }, DATA);
        events[0].events.cast_signed()
    }
}

/// Sends `out`, ends, and gives what came until the peer's end. Reads and writes as an
/// edge-triggered program does: until EAGAIN or until a call comes back short.
pub(crate) fn converse(how: How, mut stream: &VirtualStream, out: &[u8]) -> Vec<u8> {
    stream.set_nonblocking(true).unwrap();
    let mut waiter = Waiter::new(how, stream);
    let mut got = Vec::new();
    let (mut sent, mut shut, mut ended) = (0, false, false);
    let mut buf = vec![0; 60_001];
    let mut idle = 0usize;
    while !shut || !ended {
        let seen = waiter.wait(!ended, !shut);
        let before = (sent, got.len(), shut, ended);
        assert_eq!(seen & libc::EPOLLERR, 0, "an error reached the program: {seen:#x}");
        if seen & libc::EPOLLHUP != 0 {
            assert!(shut, "a hang-up reached the program: {seen:#x}");
        }
        if seen & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0 && !ended {
            loop {
                match stream.read(&mut buf) {
                    Ok(0) => {
                        ended = true;
                        break;
                    }
                    Ok(n) => {
                        got.extend_from_slice(&buf[..n]);
                        if n < buf.len() && seen & libc::EPOLLRDHUP == 0 {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        let hung = seen & (libc::EPOLLRDHUP | libc::EPOLLHUP);
                        assert_eq!(hung, 0, "the end was announced and did not come");
                        break;
                    }
                    Err(error) => panic!("read: {error}"),
                }
            }
        }
        if seen & libc::EPOLLOUT != 0 && !shut {
            while sent < out.len() {
                let until = (sent + 100_003).min(out.len());
                match stream.write(&out[sent..until]) {
                    Ok(n) => {
                        let short = n < until - sent;
                        sent += n;
                        if short {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("write: {error}"),
                }
            }
            if sent == out.len() {
                stream.shutdown(Shutdown::Write).unwrap();
                shut = true;
            }
        }
        if before == (sent, got.len(), shut, ended) {
            idle += 1;
        }
    }
    // Frames that carry only control wake a non-blocking program for nothing; not more than that.
    assert!(idle < 2_000, "{idle} of {} {how:?} wake-ups were for nothing", waiter.returns);
    got
}
