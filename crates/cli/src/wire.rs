//! Plain sockets and sessions with one face: no call on them blocks.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use eversock::{Config, SessionInfo};
use eversock_engine::posix;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// What accept may leave waiting, at most.
pub(crate) const BACKLOG: i32 = 1024;

/// A virtual socket. In direct mode it must be waited for with eversock's own epoll, which saves
/// the copy that a pumped one costs.
#[derive(Debug)]
pub(crate) struct Session {
    number: RawFd,
}

impl Session {
    fn socket(addr: SocketAddr, config: &Arc<Config>) -> io::Result<Self> {
        let domain = if addr.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        Ok(Self { number: posix::socket(domain, kind, 0, Arc::clone(config))? })
    }

    /// Begins to connect to one of the addresses; `host` is looked up again at each redial.
    fn connect(
        addrs: &[SocketAddr],
        host: Option<(String, u16)>,
        config: &Arc<Config>,
    ) -> io::Result<Self> {
        let first = *addrs.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let session = Self::socket(first, config)?;
        match posix::connect_any(session.number, addrs, host) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(session),
        }
    }

    fn listen(addr: SocketAddr, config: &Arc<Config>) -> io::Result<Self> {
        let session = Self::socket(addr, config)?;
        let on = 1i32.to_ne_bytes();
        posix::setsockopt(session.number, libc::SOL_SOCKET, libc::SO_REUSEADDR, &on)?;
        posix::bind(session.number, addr)?;
        posix::listen(session.number, BACKLOG)?;
        Ok(session)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The engine goes on delivering; what it has to say of that goes to its log.
        let _late = posix::close(self.number);
    }
}

/// A listener of either kind.
#[derive(Debug)]
pub(crate) enum Listener {
    Plain(Socket),
    Session(Session),
}

impl Listener {
    pub(crate) fn plain(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Plain(socket))
    }

    pub(crate) fn session(addr: SocketAddr, config: &Arc<Config>) -> io::Result<Self> {
        Session::listen(addr, config).map(Self::Session)
    }

    pub(crate) fn addr(&self) -> io::Result<SocketAddr> {
        let addr = match self {
            Self::Plain(socket) => socket.local_addr()?.as_socket(),
            Self::Session(session) => posix::getsockname(session.number)?,
        };
        addr.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    pub(crate) fn accept(&self) -> io::Result<Wire> {
        match self {
            Self::Plain(socket) => {
                let (socket, _peer) = socket.accept()?;
                Wire::plain(socket)
            }
            Self::Session(session) => {
                let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                let (number, _peer) = posix::accept4(session.number, flags)?;
                Ok(Wire::Session(Session { number }))
            }
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Plain(socket) => socket.as_raw_fd(),
            Self::Session(session) => session.number,
        }
    }
}

/// One side of a connection through the gateway.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(Socket),
    Session(Session),
}

impl Wire {
    fn plain(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // Writes are passed on as they come: to wait for more is the program's business.
        socket.set_tcp_nodelay(true)?;
        // A peer that vanished must not hold a connection for ever.
        socket.set_keepalive(true)?;
        Ok(Self::Plain(socket))
    }

    /// Begins to connect a plain socket.
    pub(crate) fn dial_plain(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        let wire = Self::plain(socket)?;
        if let Self::Plain(socket) = &wire {
            match socket.connect(&SockAddr::from(addr)) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
                _ => {}
            }
        }
        Ok(wire)
    }

    /// Begins to connect a session.
    pub(crate) fn dial_session(
        addrs: &[SocketAddr],
        host: Option<(String, u16)>,
        config: &Arc<Config>,
    ) -> io::Result<Self> {
        Session::connect(addrs, host, config).map(Self::Session)
    }

    /// False while the connect that was begun goes on; its error once it has failed.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.take_error()? {
            return Err(error);
        }
        let peer = match self {
            Self::Plain(socket) => socket.peer_addr().map(drop),
            Self::Session(session) => posix::getpeername(session.number).map(drop),
        };
        match peer {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The pending error; the call takes it away.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Plain(socket) => socket.take_error(),
            Self::Session(session) => {
                let mut value = [0; 4];
                posix::getsockopt(session.number, libc::SOL_SOCKET, libc::SO_ERROR, &mut value)?;
                let number = i32::from_ne_bytes(value);
                Ok((number != 0).then(|| io::Error::from_raw_os_error(number)))
            }
        }
    }

    /// Why a session could not be opened, as far as the errno does not say it.
    pub(crate) fn why(&self) -> Option<String> {
        self.info()?.last_error
    }

    /// A session as it is now.
    pub(crate) fn info(&self) -> Option<SessionInfo> {
        match self {
            Self::Plain(_) => None,
            Self::Session(session) => posix::info(session.number).ok(),
        }
    }

    pub(crate) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => (&*socket).read(buf),
            Self::Session(session) => {
                posix::recv(session.number, &mut [IoSliceMut::new(buf)], libc::MSG_DONTWAIT)
            }
        }
    }

    pub(crate) fn write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            // Rust's runtime ignores SIGPIPE.
            Self::Plain(socket) => (&*socket).write(buf),
            Self::Session(session) => {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                posix::send(session.number, &[IoSlice::new(buf)], flags)
            }
        }
    }

    /// Ends the direction towards the peer; the other goes on.
    pub(crate) fn finish(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.shutdown(Shutdown::Write),
            Self::Session(session) => posix::shutdown(session.number, libc::SHUT_WR),
        }
    }

    /// Closes so that the peer's program gets a reset.
    pub(crate) fn reset(self) {
        // A descriptor that cannot be told so is broken already, and closes as well as it can.
        let _broken = match &self {
            Self::Plain(socket) => socket.set_linger(Some(Duration::ZERO)),
            Self::Session(session) => {
                let mut value = [0; 8];
                value[..4].copy_from_slice(&1i32.to_ne_bytes());
                posix::setsockopt(session.number, libc::SOL_SOCKET, libc::SO_LINGER, &value)
            }
        };
    }
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Plain(socket) => socket.as_raw_fd(),
            Self::Session(session) => session.number,
        }
    }
}
