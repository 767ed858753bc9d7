//! The way from one process to another: an unproven connection whose session the other one has.
//!
//! The name says only which process; what comes through is a descriptor and bytes from the network,
//! and is treated as such.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use eversock_proto::limits::HELLO_MAX_BYTES;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::Reactor;
use crate::sys::{Fd, fd, pass};

const BACKLOG: i32 = 64;

fn name(instance: u64) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new_abstract_name(format!("eversock-{instance:016x}").as_bytes())?)
}

fn socket() -> io::Result<Fd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::SEQPACKET;
    fd::internal(rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

/// Listens under this process's name.
pub(super) fn listen(instance: u64) -> io::Result<Fd> {
    let fd = socket()?;
    rustix::net::bind(&fd, &name(instance)?)?;
    rustix::net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// Passes a connection and what was read from it to the process `instance`.
pub(super) fn pass(instance: u64, message: &[u8], connection: BorrowedFd<'_>) -> io::Result<()> {
    let fd = socket()?;
    rustix::net::connect(&fd, &name(instance)?)?;
    if !pass::is_same_user(&fd) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    pass::send(fd.as_raw_fd(), message, Some(connection))
}

/// True while the process `instance` lives, as far as its name tells.
pub(super) fn is_alive(instance: u64) -> bool {
    let knock = || -> io::Result<()> { Ok(rustix::net::connect(&socket()?, &name(instance)?)?) };
    // Whatever else goes wrong says nothing about it.
    !matches!(knock(), Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED))
}

impl Reactor {
    /// Another process passes a connection to us.
    pub(super) fn channel_ready(&mut self) {
        for _ in 0..BACKLOG {
            let Some(channel) = &self.channel else { return };
            let flags = SocketFlags::CLOEXEC;
            let Ok(from) = rustix::net::accept_with(channel, flags) else { return };
            if !pass::is_same_user(&from) {
                continue;
            }
            let mut buf = [0; HELLO_MAX_BYTES];
            // The message was sent before the connection could be accepted, or never comes.
            let Ok((n, Some(passed))) = pass::recv(from.as_raw_fd(), &mut buf, true) else {
                self.late_passes.push(from);
                continue;
            };
            self.take_passed(passed, &buf[..n]);
        }
    }

    fn take_passed(&mut self, passed: Fd, message: &[u8]) {
        let _blocking = fd::set_nonblocking(passed.as_raw_fd(), true);
        if let Ok(passed) = fd::internal(passed) {
            self.begin_handshake(passed, None, Some(message));
        }
    }

    /// Looks again at passes whose message had not come.
    pub(super) fn look_at_late_passes(&mut self) {
        for from in std::mem::take(&mut self.late_passes) {
            let mut buf = [0; HELLO_MAX_BYTES];
            if let Ok((n, Some(passed))) = pass::recv(from.as_raw_fd(), &mut buf, true) {
                self.take_passed(passed, &buf[..n]);
            }
        }
    }
}
