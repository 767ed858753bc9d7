//! Socket options as the program set them, to be set again on every real socket.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use eversock_proto::snapshot::{In, Out};

use crate::error::fail;
use crate::sys::tcp;

/// Options that differ from a fresh socket's, in the order in which they were set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    set: Vec<(i32, i32, Vec<u8>)>,
    /// The program's own TCP_NODELAY; the real sockets always have it on.
    pub(crate) nodelay: bool,
    /// The program's own SO_LINGER; real sockets never carry it.
    pub(crate) linger: Option<Duration>,
}

/// Options that would take the byte stream out of our hands.
const REFUSED: [(i32, i32); 5] = [
    (libc::SOL_SOCKET, libc::SO_ZEROCOPY),
    (libc::SOL_SOCKET, libc::SO_PEEK_OFF),
    (libc::IPPROTO_TCP, libc::TCP_ULP),
    (libc::IPPROTO_TCP, libc::TCP_REPAIR),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT),
];

/// What became of an option.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Set on the real socket and recorded.
    Applied,
    /// The receive time-out changed.
    RecvTimeout(Duration),
    /// The send time-out changed.
    SendTimeout(Duration),
}

impl Options {
    /// Sets an option on the file at `number` (a real socket or a placeholder) and records it.
    pub(crate) fn set(
        &mut self,
        number: RawFd,
        is_real: bool,
        level: i32,
        name: i32,
        value: &[u8],
    ) -> io::Result<Effect> {
        if REFUSED.contains(&(level, name)) {
            return fail(libc::EOPNOTSUPP);
        }
        match (level, name) {
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => {
                self.nodelay = read_int(value)? != 0;
                return Ok(Effect::Applied);
            }
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let (on, seconds) = (read_int(value)?, read_int(value.get(4..).unwrap_or(&[]))?);
                let seconds = u64::try_from(seconds).unwrap_or(0);
                self.linger = (on != 0).then(|| Duration::from_secs(seconds));
                return Ok(Effect::Applied);
            }
            _ => {}
        }
        // A placeholder is an AF_UNIX socket: options below SOL_SOCKET wait for the next real one.
        if is_real || level == libc::SOL_SOCKET {
            tcp::set_option(number, level, name, value)?;
        }
        self.set.retain(|(l, n, _)| (*l, *n) != (level, name));
        self.set.push((level, name, value.to_vec()));
        Ok(match (level, name) {
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => Effect::RecvTimeout(read_timeval(value)),
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => Effect::SendTimeout(read_timeval(value)),
            _ => Effect::Applied,
        })
    }

    /// What an option is while no real socket is there to be asked: `fresh` is made like one, so
    /// that the kernel says what it makes of a value (it doubles SO_RCVBUF, for one).
    pub(crate) fn get(
        &self,
        fresh: RawFd,
        level: i32,
        name: i32,
        out: &mut [u8],
    ) -> io::Result<usize> {
        for (l, n, value) in self.set.iter().filter(|(l, n, _)| (*l, *n) == (level, name)) {
            if tcp::set_option(fresh, *l, *n, value).is_err() {
                // One that only a connected socket takes.
                let n = value.len().min(out.len());
                out[..n].copy_from_slice(&value[..n]);
                return Ok(n);
            }
        }
        tcp::get_option(fresh, level, name, out)
    }

    /// Writes everything, for a hand-over to another process.
    pub(crate) fn snapshot(&self, out: &mut Out) {
        out.flag(self.nodelay);
        out.option(self.linger.map(|linger| linger.as_secs()));
        out.u64(self.set.len() as u64);
        for (level, name, value) in &self.set {
            out.u64(u64::from(level.cast_unsigned()));
            out.u64(u64::from(name.cast_unsigned()));
            out.bytes(value);
        }
    }

    /// Reads that back; `None` when it cannot be.
    pub(crate) fn restore(from: &mut In<'_>) -> Option<Self> {
        let nodelay = from.flag()?;
        let linger = from.option()?.map(Duration::from_secs);
        let mut set = Vec::new();
        for _ in 0..from.number::<u16>()? {
            let (level, name): (u32, u32) = (from.number()?, from.number()?);
            set.push((level.cast_signed(), name.cast_signed(), from.bytes()?.to_vec()));
        }
        Some(Self { set, nodelay, linger })
    }

    /// Sets everything again on a new real socket. One refusal does not stop the others: the
    /// session matters more than an option that this path does not have.
    pub(crate) fn apply(&self, number: RawFd) {
        for (level, name, value) in &self.set {
            if let Err(error) = tcp::set_option(number, *level, *name, value) {
                log::debug!("option {level}/{name} was not taken by a new connection: {error}");
            }
        }
    }
}

fn read_int(value: &[u8]) -> io::Result<i32> {
    let Some(bytes) = value.first_chunk::<4>() else { return fail(libc::EINVAL) };
    Ok(i32::from_ne_bytes(*bytes))
}

/// A `struct timeval` as setsockopt takes it; the kernel has checked it already.
pub(crate) fn read_timeval(value: &[u8]) -> Duration {
    let field = |at: usize| {
        let bytes = value.get(at..at + 8).and_then(|b| b.first_chunk::<8>());
        bytes.map_or(0, |b| u64::try_from(i64::from_ne_bytes(*b)).unwrap_or(0))
    };
    Duration::from_secs(field(0)) + Duration::from_micros(field(8))
}
