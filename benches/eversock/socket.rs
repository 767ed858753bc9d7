//! The three ways to hold a conversation, behind one face.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use eversock::{Config, VirtualListener, VirtualStream};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The kernel's TCP, as std gives it, with TCP_NODELAY.
    Plain,
    /// A virtual stream, read and written by the program's own thread.
    Direct,
    /// A virtual stream turned into an ordinary `TcpStream`.
    Pumped,
}

impl Kind {
    /// In the order of each turn; the reference comes first.
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Direct, Self::Pumped];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Direct => "direct",
            Self::Pumped => "pumped",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn config() -> Config {
        Config {
            // A measurement that cannot go on ends soon.
            grace: Duration::from_secs(20),
            grace_after_close: Duration::from_secs(20),
            linger: Duration::from_secs(5),
            ..Config::default()
        }
    }
}

/// A connected stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Virtual(VirtualStream),
}

impl Stream {
    pub(crate) fn connect(kind: Kind, addr: SocketAddr) -> io::Result<Self> {
        if kind == Kind::Plain {
            let stream = TcpStream::connect(addr)?;
            stream.set_nodelay(true)?;
            return Ok(Self::Tcp(stream));
        }
        Self::wrap(kind, VirtualStream::connect_with(addr, Kind::config())?)
    }

    fn wrap(kind: Kind, stream: VirtualStream) -> io::Result<Self> {
        if kind == Kind::Direct {
            return Ok(Self::Virtual(stream));
        }
        let stream = stream.into_pumped()?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    pub(crate) fn finish_writing(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Virtual(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Reads one byte.
    pub(crate) fn take(&mut self) -> io::Result<u8> {
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
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Virtual(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where streams come from.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Virtual(Kind, VirtualListener),
}

impl Listener {
    pub(crate) fn bind(kind: Kind) -> io::Result<Self> {
        let any = ("127.0.0.1", 0);
        if kind == Kind::Plain {
            return Ok(Self::Tcp(TcpListener::bind(any)?));
        }
        Ok(Self::Virtual(kind, VirtualListener::bind_with(any, Kind::config())?))
    }

    pub(crate) fn addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Virtual(_, listener) => listener.local_addr(),
        }
    }

    pub(crate) fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Virtual(kind, listener) => Stream::wrap(*kind, listener.accept()?.0),
        }
    }
}
