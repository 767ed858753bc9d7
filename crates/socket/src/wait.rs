//! poll and epoll for virtual and other descriptors together.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use eversock_engine::posix;

/// poll(2): waits until one of the descriptors has one of its events, at most `timeout`. Gives how
/// many have; each one's `revents` says which. The errors are those of poll(2).
pub fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
    posix::poll(fds, timeout, std::ptr::null())
}

/// An epoll set that may hold virtual and other descriptors.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// A new, empty set.
    pub fn new() -> io::Result<Self> {
        use std::os::fd::FromRawFd;
        // SAFETY: no memory is passed.
        let number = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the number is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    /// Adds a descriptor for `events` (EPOLLIN and so on); `data` comes back with them.
    pub fn add(&self, fd: &impl AsRawFd, events: i32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), events, data)
    }

    /// Changes what a descriptor is waited for.
    pub fn modify(&self, fd: &impl AsRawFd, events: i32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), events, data)
    }

    /// Removes a descriptor.
    pub fn delete(&self, fd: &impl AsRawFd) -> io::Result<()> {
        posix::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), None)
    }

    fn control(&self, op: i32, number: RawFd, events: i32, data: u64) -> io::Result<()> {
        let event = libc::epoll_event { events: events.cast_unsigned(), u64: data };
        posix::epoll_ctl(self.0.as_raw_fd(), op, number, Some(event))
    }

    /// Waits for events, at most `timeout`; gives how many were put into `out`.
    pub fn wait(
        &self,
        out: &mut [libc::epoll_event],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        posix::epoll_wait(self.0.as_raw_fd(), out, timeout, std::ptr::null())
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        posix::forget_epoll(self.0.as_raw_fd());
    }
}
