//! One socket of a connection, with what is known of its readiness.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::SockRef;

/// Readiness is edge-triggered: a flag holds until the kernel says "would block".
#[derive(Debug)]
pub(crate) struct Side {
    /// `None` once the socket was reset, by us or by the peer.
    stream: Option<TcpStream>,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The kernel reported an error, which a full buffer keeps us from reading.
    pub(crate) failed: bool,
}

/// What an attempt to move bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Bytes(usize),
    /// Nothing for now.
    Blocked,
    End,
    /// The peer has reset the connection; the socket is gone.
    Dead,
}

impl Side {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream: Some(stream), readable: true, writable: true, failed: false }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.stream.is_none()
    }

    pub(crate) fn stream(&mut self) -> Option<&mut TcpStream> {
        self.stream.as_mut()
    }

    /// Runs a non-blocking read and keeps the flags in step with its outcome.
    pub(crate) fn read(&mut self, read: impl FnOnce(&mut TcpStream) -> io::Result<usize>) -> Moved {
        let Some(stream) = &mut self.stream else { return Moved::Dead };
        match read(stream) {
            Ok(0) => Moved::End,
            Ok(n) => Moved::Bytes(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Moved::Blocked
            }
            // Nothing was read and the flag still holds: the next round tries again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Moved::Bytes(0),
            Err(_) => {
                self.stream = None;
                Moved::Dead
            }
        }
    }

    /// Runs a non-blocking write and keeps the flags in step with its outcome.
    pub(crate) fn write(
        &mut self,
        write: impl FnOnce(&mut TcpStream) -> io::Result<usize>,
    ) -> Moved {
        let Some(stream) = &mut self.stream else { return Moved::Dead };
        match write(stream) {
            Ok(n) => Moved::Bytes(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Moved::Blocked
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Moved::Bytes(0),
            Err(_) => {
                self.stream = None;
                Moved::Dead
            }
        }
    }

    /// A FIN after everything that was written.
    pub(crate) fn finish(&self) {
        if let Some(stream) = &self.stream {
            // It fails only when the peer is gone already, which reading will show.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// An RST now; what the kernel had not sent yet is lost.
    pub(crate) fn reset(&mut self) {
        if let Some(stream) = self.stream.take()
            && let Err(error) = SockRef::from(&stream).set_linger(Some(Duration::ZERO))
        {
            // A socket that the peer has reset cannot be reset again.
            log::debug!("a connection is closed without an RST: {error}");
        }
    }

    /// Whether the peer's kernel has acknowledged everything; also when there is no peer left.
    pub(crate) fn is_flushed(&self) -> bool {
        self.stream.as_ref().is_none_or(|stream| unacknowledged(stream) == Some(0))
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn unacknowledged(stream: &TcpStream) -> Option<usize> {
    use std::os::fd::AsRawFd;

    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ on sockets) writes one int to the address it is given, which is
    // that of a live local; the descriptor is open as long as `stream` is borrowed.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { usize::try_from(bytes).ok() } else { Some(0) }
}

/// Elsewhere it is not known, and a cut waits for the whole of `Config::flush`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn unacknowledged(_stream: &TcpStream) -> Option<usize> {
    None
}
