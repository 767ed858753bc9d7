//! A listener whose streams survive their connections.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use eversock_engine::posix;

use crate::{Config, VirtualStream};

/// A TCP listener for [`VirtualStream`]s. The interface is that of [`std::net::TcpListener`].
///
/// The descriptor polls readable when [`Self::accept`] would give a session, with the kernel's own
/// calls too. Dropping it refuses new sessions; those that it gave go on and can be resumed.
#[derive(Debug)]
pub struct VirtualListener {
    number: RawFd,
}

/// Sessions that may wait for accept.
const BACKLOG: i32 = 1024;

impl VirtualListener {
    /// Listens with the default [`Config`].
    pub fn bind(addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::bind_with(addr, Config::default())
    }

    /// Listens as `config` says; the sessions accepted have the same configuration. The first of
    /// the addresses that can be bound is taken.
    pub fn bind_with(addr: impl ToSocketAddrs, config: Config) -> io::Result<Self> {
        let config = Arc::new(config);
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on");
        for addr in addr.to_socket_addrs()? {
            match Self::bind_one(addr, &config) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn bind_one(addr: SocketAddr, config: &Arc<Config>) -> io::Result<Self> {
        let domain = if addr.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        let listener = Self { number: posix::socket(domain, kind, 0, Arc::clone(config))? };
        let on = 1i32.to_ne_bytes();
        posix::setsockopt(listener.number, libc::SOL_SOCKET, libc::SO_REUSEADDR, &on)?;
        posix::bind(listener.number, addr)?;
        posix::listen(listener.number, BACKLOG)?;
        Ok(listener)
    }

    /// Waits for a session that has proven itself on both sides.
    pub fn accept(&self) -> io::Result<(VirtualStream, SocketAddr)> {
        loop {
            match posix::accept4(self.number, libc::SOCK_CLOEXEC) {
                Ok((number, peer)) => return Ok((VirtualStream::from_number(number), peer)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// An iterator over [`Self::accept`].
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        posix::getsockname(self.number)?.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Makes accept return `WouldBlock` instead of blocking.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        posix::set_nonblocking(self.number, on)
    }

    /// Another handle to the same listener.
    pub fn try_clone(&self) -> io::Result<Self> {
        match posix::fcntl(self.number, libc::F_DUPFD_CLOEXEC, 0) {
            Some(result) => Ok(Self { number: result? }),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Drop for VirtualListener {
    fn drop(&mut self) {
        let _late = posix::close(self.number);
    }
}

impl AsFd for VirtualListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the number stays open and valid until `self` is dropped.
        unsafe { BorrowedFd::borrow_raw(self.number) }
    }
}

impl AsRawFd for VirtualListener {
    fn as_raw_fd(&self) -> RawFd {
        self.number
    }
}

/// See [`VirtualListener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a VirtualListener,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<VirtualStream>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}
