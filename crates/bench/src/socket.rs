//! The ways to hold a conversation, behind one face.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use eversock::{Config, Sealing, VirtualListener, VirtualStream};
use eversock_dedup::{Pool, PoolConfig, SharedConfig, SharedListener};
use socket2::{Domain, Protocol, Socket, Type};

use crate::tls::{Identity, TlsStream};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The kernel's TCP, as std gives it, with TCP_NODELAY.
    Plain,
    /// A virtual stream, read and written by the program's own thread.
    Direct,
    /// A virtual stream turned into an ordinary `TcpStream`.
    Pumped,
    /// A direct stream whose frames are encrypted.
    Sealed,
    /// TLS 1.3 by rustls over TCP.
    Tls,
    /// A direct stream with a window of [`ROOMY_BYTES`] from the start.
    Roomy,
    /// The kernel's MPTCP (RFC 8684) over one path.
    Mptcp,
    /// A connection of a pool's: many of them over one session, each an ordinary `TcpStream`.
    Shared,
}

/// So much may be under way without a word of the reader.
pub(crate) const ROOMY_BYTES: u64 = 64 << 20;

/// Connections of one session, and such as wait to be accepted: as many as there may be at most.
const SHARED_MAX: u16 = 16_384;

impl Kind {
    /// In the order of each turn; the reference comes first.
    pub(crate) const USUAL: [Self; 3] = [Self::Plain, Self::Direct, Self::Pumped];

    const ALL: [Self; 8] = [
        Self::Plain,
        Self::Direct,
        Self::Pumped,
        Self::Sealed,
        Self::Tls,
        Self::Roomy,
        Self::Mptcp,
        Self::Shared,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Direct => "direct",
            Self::Pumped => "pumped",
            Self::Sealed => "sealed",
            Self::Tls => "rustls",
            Self::Roomy => "roomy",
            Self::Mptcp => "mptcp",
            Self::Shared => "shared",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn config(self) -> Config {
        let mut config = Config {
            // Longer than any outage here; who hangs is ended by who waits for the answer.
            grace: Duration::from_secs(120),
            grace_after_close: Duration::from_secs(20),
            linger: Duration::from_secs(5),
            ..Config::default()
        };
        match self {
            Self::Sealed => config.sealing = Sealing::Always,
            Self::Roomy => (config.window, config.window_max) = (ROOMY_BYTES, ROOMY_BYTES),
            _ => {}
        }
        config
    }
}

fn mptcp(addr: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::MPTCP))
}

/// A connected stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Virtual(VirtualStream),
    Tls(TlsStream),
}

impl Stream {
    fn connect(kind: Kind, addr: SocketAddr) -> io::Result<Self> {
        match kind {
            Kind::Plain => {
                let stream = TcpStream::connect(addr)?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Kind::Mptcp => {
                let socket = mptcp(addr)?;
                socket.connect(&addr.into())?;
                socket.set_tcp_nodelay(true)?;
                Ok(Self::Tcp(socket.into()))
            }
            Kind::Tls => Ok(Self::Tls(TlsStream::connect(addr)?)),
            _ => Self::wrap(kind, VirtualStream::connect_with(addr, kind.config())?),
        }
    }

    fn wrap(kind: Kind, stream: VirtualStream) -> io::Result<Self> {
        if kind != Kind::Pumped {
            return Ok(Self::Virtual(stream));
        }
        let stream = stream.into_pumped()?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    pub(crate) fn finish_writing(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Virtual(stream) => stream.shutdown(Shutdown::Write),
            Self::Tls(stream) => stream.finish_writing(),
        }
    }

    /// Another handle, for a thread that does the other direction.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Virtual(stream) => stream.try_clone().map(Self::Virtual),
            Self::Tls(_) => Err(io::Error::other("a TLS stream has one owner")),
        }
    }

    /// Reads one byte.
    pub(crate) fn take_byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// Reads to the end; gives the number of bytes.
    pub(crate) fn drain(&mut self, buf: &mut [u8]) -> io::Result<u64> {
        let mut total = 0;
        loop {
            match self.read(buf)? {
                0 => return Ok(total),
                n => total += n as u64,
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Virtual(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Virtual(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Who asks for streams.
#[derive(Debug)]
pub(crate) struct Caller {
    kind: Kind,
    /// Of shared ones.
    pool: Option<Pool>,
}

impl Caller {
    pub(crate) fn new(kind: Kind) -> io::Result<Self> {
        let config = || PoolConfig {
            session: kind.config(),
            streams_max: SHARED_MAX.into(),
            ..PoolConfig::default()
        };
        let pool = (kind == Kind::Shared).then(|| Pool::new(config())).transpose()?;
        Ok(Self { kind, pool })
    }

    pub(crate) fn connect(&self, addr: SocketAddr) -> io::Result<Stream> {
        let Some(pool) = &self.pool else { return Stream::connect(self.kind, addr) };
        let stream = pool.connect(addr)?;
        stream.set_nodelay(true)?;
        Ok(Stream::Tcp(stream))
    }
}

/// Where streams come from.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener, Identity),
    Virtual(Kind, VirtualListener),
    Shared(SharedListener),
}

impl Listener {
    pub(crate) fn bind(kind: Kind, ip: IpAddr) -> io::Result<Self> {
        let any = (ip, 0);
        Ok(match kind {
            Kind::Plain => Self::Tcp(TcpListener::bind(any)?),
            Kind::Mptcp => {
                let socket = mptcp(any.into())?;
                socket.bind(&SocketAddr::from(any).into())?;
                socket.listen(128)?;
                Self::Tcp(socket.into())
            }
            Kind::Tls => Self::Tls(TcpListener::bind(any)?, Identity::new()?),
            Kind::Shared => {
                let config = SharedConfig {
                    session: kind.config(),
                    streams_max: SHARED_MAX.into(),
                    backlog: SHARED_MAX.into(),
                    ..SharedConfig::default()
                };
                Self::Shared(SharedListener::bind_with(&[any.into()], config)?)
            }
            _ => Self::Virtual(kind, VirtualListener::bind_with(any, kind.config())?),
        })
    }

    pub(crate) fn addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.local_addr(),
            Self::Virtual(_, listener) => listener.local_addr(),
            Self::Shared(listener) => {
                let first = listener.local_addrs().first().copied();
                first.ok_or_else(|| io::ErrorKind::NotConnected.into())
            }
        }
    }

    pub(crate) fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Tls(listener, identity) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tls(identity.accept(stream)?))
            }
            Self::Virtual(kind, listener) => Stream::wrap(*kind, listener.accept()?.0),
            Self::Shared(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}
