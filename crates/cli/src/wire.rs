//! Plain sockets, sessions, and connections that share one, with one face: no call on them blocks.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use eversock::{Config, SessionInfo};
use eversock_dedup::{ConnectOptions, Failed, Pool, SharedConfig, SharedListener};
use eversock_engine::posix;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// What accept may leave waiting, at most.
pub(crate) const BACKLOG: i32 = 1024;
/// Connections of one session, as a shared listener sees it: as many as it can have at all.
const STREAMS_MAX: u32 = 16_384;

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

/// A logical connection over a session that it may share: a pair of sockets of the kernel, with a
/// thread of the pool's, or of the shared listener's, at the other end.
#[derive(Debug)]
pub(crate) struct Shared {
    socket: Socket,
    /// Of a connect that was begun: how it went. Set before the socket has an event for it.
    outcome: Option<Arc<OnceLock<Result<u64, Failed>>>>,
}

impl Shared {
    fn failed(&self) -> Option<&Failed> {
        self.outcome.as_ref()?.get()?.as_ref().err()
    }
}

/// A listener of either kind.
#[derive(Debug)]
pub(crate) enum Listener {
    Plain(Socket),
    Session(Session),
    Shared(SharedListener),
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

    /// Its sessions carry as many connections as their clients wish.
    pub(crate) fn shared(addr: SocketAddr, config: &Config) -> io::Result<Self> {
        let config = SharedConfig {
            session: config.clone(),
            // How many there are in all is bounded elsewhere, and how many share is the client's
            // choice. A stream too many would be reset after its client was served.
            streams_max: STREAMS_MAX,
            backlog: BACKLOG as usize,
            ..SharedConfig::default()
        };
        SharedListener::bind_with(&[addr], config).map(Self::Shared)
    }

    /// Listens no more. Gives what the connections that stand still need; those that wait to be
    /// accepted are reset.
    pub(crate) fn close(self) -> Option<SharedListener> {
        let Self::Shared(listener) = self else { return None };
        while let Ok((stream, _)) = listener.try_accept() {
            Wire::Shared(Shared { socket: stream.into(), outcome: None }).reset();
        }
        Some(listener)
    }

    /// Has nobody else come who would have to be reset by [`Self::close`].
    pub(crate) fn refuse_more(&self) {
        if let Self::Shared(listener) = self {
            listener.close(0);
        }
    }

    /// Sessions that have carried connections, where they may carry several.
    pub(crate) fn sessions_carried(&self) -> Option<u64> {
        match self {
            Self::Shared(listener) => Some(listener.sessions_carried()),
            Self::Plain(_) | Self::Session(_) => None,
        }
    }

    pub(crate) fn addr(&self) -> io::Result<SocketAddr> {
        let addr = match self {
            Self::Plain(socket) => socket.local_addr()?.as_socket(),
            Self::Session(session) => posix::getsockname(session.number)?,
            Self::Shared(listener) => listener.local_addrs().first().copied(),
        };
        addr.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Also gives where the other end is, if that is known.
    pub(crate) fn accept(&self) -> io::Result<(Wire, Option<SocketAddr>)> {
        match self {
            Self::Plain(socket) => {
                let (socket, peer) = socket.accept()?;
                Ok((Wire::plain(socket)?, peer.as_socket()))
            }
            Self::Session(session) => {
                let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                let (number, peer) = posix::accept4(session.number, flags)?;
                Ok((Wire::Session(Session { number }), Some(peer)))
            }
            Self::Shared(listener) => {
                let (stream, about) = listener.try_accept()?;
                let socket = Socket::from(stream);
                socket.set_nonblocking(true)?;
                Ok((Wire::Shared(Shared { socket, outcome: None }), Some(about.peer)))
            }
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Plain(socket) => socket.as_raw_fd(),
            Self::Session(session) => session.number,
            Self::Shared(listener) => listener.as_fd().as_raw_fd(),
        }
    }
}

/// One side of a connection through the gateway.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(Socket),
    Session(Session),
    Shared(Shared),
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

    /// Begins to connect over a session of the pool's.
    pub(crate) fn dial_shared(
        addrs: &[SocketAddr],
        host: Option<(String, u16)>,
        pool: &Pool,
        options: &ConnectOptions,
    ) -> io::Result<Self> {
        let first = *addrs.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = Socket::new(Domain::for_address(first), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        let outcome = Arc::new(OnceLock::new());
        let told = Arc::clone(&outcome);
        let done = move |result| {
            let _once = told.set(result);
        };
        pool.begin_host(socket.as_raw_fd(), addrs, host, options, done)?;
        Ok(Self::Shared(Shared { socket, outcome: Some(outcome) }))
    }

    /// False while the connect that was begun goes on; its error once it has failed.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        // The pair looks connected before the connection is, and its error is but the reset.
        if let Self::Shared(shared) = self
            && let Some(outcome) = &shared.outcome
        {
            return match outcome.get() {
                None => Ok(false),
                Some(Ok(_)) => Ok(true),
                Some(Err(Failed { error, .. })) => Err(match error.raw_os_error() {
                    Some(number) => io::Error::from_raw_os_error(number),
                    None => io::Error::new(error.kind(), error.to_string()),
                }),
            };
        }
        if let Some(error) = self.take_error()? {
            return Err(error);
        }
        let peer = match self {
            Self::Plain(socket) | Self::Shared(Shared { socket, .. }) => {
                socket.peer_addr().map(drop)
            }
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
            Self::Plain(socket) | Self::Shared(Shared { socket, .. }) => socket.take_error(),
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
        match self {
            Self::Shared(shared) => shared.failed()?.why.clone(),
            Self::Plain(_) | Self::Session(_) => self.info()?.last_error,
        }
    }

    /// True for a session, whose peer may take no more and yet be read.
    pub(crate) fn is_session(&self) -> bool {
        matches!(self, Self::Session(_))
    }

    /// A session as it is now.
    pub(crate) fn info(&self) -> Option<SessionInfo> {
        match self {
            Self::Plain(_) | Self::Shared(_) => None,
            Self::Session(session) => posix::info(session.number).ok(),
        }
    }

    pub(crate) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) | Self::Shared(Shared { socket, .. }) => (&*socket).read(buf),
            Self::Session(session) => {
                posix::recv(session.number, &mut [IoSliceMut::new(buf)], libc::MSG_DONTWAIT)
            }
        }
    }

    pub(crate) fn write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            // Rust's runtime ignores SIGPIPE.
            Self::Plain(socket) | Self::Shared(Shared { socket, .. }) => (&*socket).write(buf),
            Self::Session(session) => {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                posix::send(session.number, &[IoSlice::new(buf)], flags)
            }
        }
    }

    /// Ends the direction towards the peer; the other goes on.
    pub(crate) fn finish(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) | Self::Shared(Shared { socket, .. }) => {
                socket.shutdown(Shutdown::Write)
            }
            Self::Session(session) => posix::shutdown(session.number, libc::SHUT_WR),
        }
    }

    /// Closes so that the peer's program gets a reset.
    pub(crate) fn reset(self) {
        // A descriptor that cannot be told so is broken already, and closes as well as it can.
        let _broken = match &self {
            Self::Plain(socket) | Self::Shared(Shared { socket, .. }) => {
                socket.set_linger(Some(Duration::ZERO))
            }
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
            Self::Plain(socket) | Self::Shared(Shared { socket, .. }) => socket.as_raw_fd(),
            Self::Session(session) => session.number,
        }
    }
}
