//! A stream over a virtual socket.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::time::Duration;

use eversock_engine::posix;

use crate::{Config, Event, SessionInfo};

/// A TCP stream that survives the death of its connection. The interface is that of
/// [`std::net::TcpStream`]; dropping it closes it, and the engine still delivers what was written.
///
/// Errors are those of the system calls of the same name. A session that could not be saved gives
/// one error (`ConnectionReset` or `TimedOut`); [`VirtualStream::last_acked_offset`] then says how
/// much of what was written the peer has consumed.
#[derive(Debug)]
pub struct VirtualStream {
    number: RawFd,
    /// Of that number; `None` only when the stream is being taken apart.
    handle: Option<posix::Handle>,
}

impl VirtualStream {
    /// Connects with the default [`Config`]. Blocks until the session stands. All addresses that
    /// `addr` resolves to are raced.
    pub fn connect(addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::connect_with(addr, Config::default())
    }

    /// Connects as `config` says.
    pub fn connect_with(addr: impl ToSocketAddrs, config: Config) -> io::Result<Self> {
        let addrs: Vec<SocketAddr> = addr.to_socket_addrs()?.collect();
        Self::connect_any(&addrs, None, config)
    }

    /// Connects to a host by name; the name is looked up again at each redial, so that the session
    /// follows a server whose address changes.
    pub fn connect_host(host: &str, port: u16, config: Config) -> io::Result<Self> {
        let addrs: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
        Self::connect_any(&addrs, Some((host.to_owned(), port)), config)
    }

    fn connect_any(
        addrs: &[SocketAddr],
        host: Option<(String, u16)>,
        config: Config,
    ) -> io::Result<Self> {
        let Some(first) = addrs.first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to"));
        };
        let domain = if first.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        let stream = Self::from_number(posix::socket(domain, kind, 0, config.share())?);
        match posix::connect_any(stream.number, addrs, host) {
            // The connect goes on (connect(2)), and signals may come all the time.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => loop {
                match posix::wait_attached(stream.number, None) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return result.map(|()| stream),
                }
            },
            result => result.map(|()| stream),
        }
    }

    pub(crate) fn from_number(number: RawFd) -> Self {
        Self { number, handle: posix::Handle::of(number).ok() }
    }

    fn handle(&self) -> io::Result<&posix::Handle> {
        self.handle.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// The peer's address, as it was when the session began.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        posix::getpeername(self.number)?.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// This side's address, as it was when the session began.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        posix::getsockname(self.number)?.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Ends reading, writing or both. The peer sees the end of the stream after all that was
    /// written.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        posix::shutdown(self.number, how)
    }

    /// Another handle to the same stream.
    pub fn try_clone(&self) -> io::Result<Self> {
        let number = match posix::fcntl(self.number, libc::F_DUPFD_CLOEXEC, 0) {
            Some(result) => result?,
            None => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self::from_number(number))
    }

    /// Reads without consuming. Gives the number of bytes.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        posix::recv(self.number, &mut [IoSliceMut::new(buf)], libc::MSG_PEEK)
    }

    /// Makes calls return `WouldBlock` instead of blocking.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        posix::set_nonblocking(self.number, on)
    }

    /// The most that a read may block; `None` for no limit. It spans outages.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_timeout(libc::SO_RCVTIMEO, timeout)
    }

    /// The most that a write may block; `None` for no limit. It spans outages.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_timeout(libc::SO_SNDTIMEO, timeout)
    }

    /// See [`Self::set_read_timeout`].
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        self.timeout(libc::SO_RCVTIMEO)
    }

    /// See [`Self::set_write_timeout`].
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        self.timeout(libc::SO_SNDTIMEO)
    }

    /// The program's own TCP_NODELAY. Real sockets always have it; this only keeps the setting.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        let value = i32::from(on).to_ne_bytes();
        posix::setsockopt(self.number, libc::IPPROTO_TCP, libc::TCP_NODELAY, &value)
    }

    /// See [`Self::set_nodelay`].
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.int_option(libc::IPPROTO_TCP, libc::TCP_NODELAY)? != 0)
    }

    /// The IP time to live, set again on every new connection.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        posix::setsockopt(self.number, libc::IPPROTO_IP, libc::IP_TTL, &ttl.to_ne_bytes())
    }

    /// See [`Self::set_ttl`].
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.int_option(libc::IPPROTO_IP, libc::IP_TTL)?.unsigned_abs())
    }

    /// The pending error, taken.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        let number = self.int_option(libc::SOL_SOCKET, libc::SO_ERROR)?;
        Ok((number != 0).then(|| io::Error::from_raw_os_error(number)))
    }

    fn int_option(&self, level: i32, name: i32) -> io::Result<i32> {
        let mut value = [0; 4];
        posix::getsockopt(self.number, level, name, &mut value)?;
        Ok(i32::from_ne_bytes(value))
    }

    fn set_timeout(&self, name: i32, timeout: Option<Duration>) -> io::Result<()> {
        if timeout == Some(Duration::ZERO) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a time-out of zero"));
        }
        let timeout = timeout.unwrap_or_default();
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        // Rounded up, so that a time-out shorter than a microsecond is not "none".
        let micros = i64::from(timeout.subsec_nanos().div_ceil(1000)).min(999_999);
        let mut value = [0; 16];
        value[..8].copy_from_slice(&seconds.to_ne_bytes());
        value[8..].copy_from_slice(&micros.to_ne_bytes());
        posix::setsockopt(self.number, libc::SOL_SOCKET, name, &value)
    }

    fn timeout(&self, name: i32) -> io::Result<Option<Duration>> {
        let mut value = [0; 16];
        posix::getsockopt(self.number, libc::SOL_SOCKET, name, &mut value)?;
        let field = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&value[at..at + 8]);
            u64::try_from(i64::from_ne_bytes(bytes)).unwrap_or(0)
        };
        let timeout = Duration::from_secs(field(0)) + Duration::from_micros(field(8));
        Ok((!timeout.is_zero()).then_some(timeout))
    }

    /// The session as it is now.
    pub fn info(&self) -> io::Result<SessionInfo> {
        posix::info(self.number)
    }

    /// What happens to the session from now on. The channel holds 256 events; later ones are missed
    /// until it is read.
    pub fn events(&self) -> io::Result<crossbeam_channel::Receiver<Event>> {
        posix::subscribe(self.number)
    }

    /// How many of the bytes written the peer's program has consumed, as far as this side knows;
    /// also after the session has failed.
    pub fn last_acked_offset(&self) -> io::Result<u64> {
        Ok(self.info()?.acked)
    }

    /// Waits until a connection carries the session, at most `timeout`.
    pub fn wait_attached(&self, timeout: Option<Duration>) -> io::Result<()> {
        posix::wait_attached(self.number, timeout)
    }

    /// Dials again now, beside the connection if one stands. Clients only.
    pub fn redial(&self) -> io::Result<()> {
        posix::redial(self.number)
    }

    /// Turns the stream into an ordinary [`TcpStream`] that any event loop can wait for; the engine
    /// copies between it and the session. It costs two more copies than direct use. The stream must
    /// have no other handle ([`Self::try_clone`]).
    pub fn into_pumped(self) -> io::Result<TcpStream> {
        posix::pump(self.number)?;
        posix::forget(self.number)?;
        let mut this = ManuallyDrop::new(self);
        drop(this.handle.take());
        // SAFETY: the number is open, is one end of a TCP pair, and is ours alone: eversock has
        // just forgotten it and `self` will not close it.
        Ok(unsafe { TcpStream::from_raw_fd(this.number) })
    }
}

impl Drop for VirtualStream {
    fn drop(&mut self) {
        // As for a file: what close has to say comes too late for a destructor.
        let _late = posix::close(self.number);
    }
}

impl Read for &VirtualStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.handle()?.recv(&mut [IoSliceMut::new(buf)], 0)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Ok(0);
        }
        self.handle()?.recv(bufs, 0)
    }
}

impl Write for &VirtualStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.handle()?.send(&[IoSlice::new(buf)], libc::MSG_NOSIGNAL)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.handle()?.send(bufs, libc::MSG_NOSIGNAL)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for VirtualStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(bufs)
    }
}

impl Write for VirtualStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for VirtualStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the number stays open and valid until `self` is dropped; the file under it may
        // change, the number does not.
        unsafe { BorrowedFd::borrow_raw(self.number) }
    }
}

impl AsRawFd for VirtualStream {
    fn as_raw_fd(&self) -> RawFd {
        self.number
    }
}
