//! Socket options as the program set them, to be set again on every real socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
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

/// The options of a socket that can be read as they are set; the others cannot be read back.
const READ_BACK: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
];
/// Those that mean something for an end of a pair on one machine, which stands for a connection
/// that is elsewhere. Not what bounds its silences, as the session's may be longer, nor what it may
/// hold back: the pair's own buffers are part of how it is used.
const CARRIED: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
];

/// Sets what the program has set on one socket on an end of a pair that takes its place.
pub(crate) fn carry(from: RawFd, to: RawFd) {
    for &(level, name) in CARRIED {
        let (mut wanted, mut found) = ([0; VALUE_BYTES_MAX], [0; VALUE_BYTES_MAX]);
        let Ok(n) = tcp::get_option(from, level, name, &mut wanted) else { continue };
        let is_so = tcp::get_option(to, level, name, &mut found).is_ok_and(|m| m == n);
        if !(is_so && wanted == found)
            && let Err(error) = tcp::set_option(to, level, name, &wanted[..n])
        {
            log::debug!("option {name} of level {level} is not carried over: {error}");
        }
    }
    let mut value = [[0; 4]; 2];
    let room = |number, value: &mut [u8]| {
        tcp::get_option(number, libc::SOL_SOCKET, libc::SO_RCVBUF, value).is_ok()
    };
    let [of_from, of_to] = &mut value;
    if room(from, of_from) && room(to, of_to) && of_from != of_to {
        // The kernel tells twice what it was asked for.
        let half = (i32::from_ne_bytes(*of_from) / 2).to_ne_bytes();
        let _small = tcp::set_option(to, libc::SOL_SOCKET, libc::SO_RCVBUF, &half);
    }
}

/// The longest of their values is a name (IFNAMSIZ, TCP_CA_NAME_MAX); a time-out has 16 bytes too.
const VALUE_BYTES_MAX: usize = 16;

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

    /// What differs from a fresh socket of the same family.
    pub(crate) fn read_back(number: RawFd) -> io::Result<Self> {
        let v6 = tcp::local_addr(number).is_some_and(|addr| addr.is_ipv6());
        let any =
            if v6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
        let fresh = tcp::new_socket(&SocketAddr::new(any, 0))?;
        let mut found = Self::default();
        for &(level, name) in READ_BACK {
            let (mut is, mut was) = ([0; VALUE_BYTES_MAX], [0; VALUE_BYTES_MAX]);
            let Ok(n) = tcp::get_option(number, level, name, &mut is) else { continue };
            let same = tcp::get_option(fresh.as_raw_fd(), level, name, &mut was)
                .is_ok_and(|m| is[..n] == was[..m]);
            if same {
                continue;
            }
            let value = &mut is[..n];
            match (level, name) {
                (libc::IPPROTO_TCP, libc::TCP_NODELAY) => {
                    found.nodelay = read_int(value)? != 0;
                    continue;
                }
                (libc::SOL_SOCKET, libc::SO_LINGER) => {
                    let (on, seconds) =
                        (read_int(value)?, read_int(value.get(4..).unwrap_or(&[]))?);
                    let seconds = u64::try_from(seconds).unwrap_or(0);
                    found.linger = (on != 0).then(|| Duration::from_secs(seconds));
                    continue;
                }
                // The kernel doubles what it is told (socket(7)).
                (libc::SOL_SOCKET, libc::SO_RCVBUF | libc::SO_SNDBUF) => {
                    let half = read_int(value)? / 2;
                    value.copy_from_slice(&half.to_ne_bytes());
                }
                _ => {}
            }
            found.set.push((level, name, value.to_vec()));
        }
        Ok(found)
    }

    /// A recorded time-out in microseconds; 0 for none.
    pub(crate) fn timeout_us(&self, name: i32) -> u64 {
        let value = self.recorded(libc::SOL_SOCKET, name).map_or(Duration::ZERO, read_timeval);
        u64::try_from(value.as_micros()).unwrap_or(u64::MAX)
    }

    /// The recorded value of an option, for when no real socket is there to be asked.
    pub(crate) fn recorded(&self, level: i32, name: i32) -> Option<&[u8]> {
        self.set.iter().find(|(l, n, _)| (*l, *n) == (level, name)).map(|(_, _, v)| v.as_slice())
    }

    /// Sets what the real sockets of a session never carry: for a plain connection.
    pub(crate) fn apply_own(&self, number: RawFd) {
        let mut own = vec![(
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            i32::from(self.nodelay).to_ne_bytes().to_vec(),
        )];
        if let Some(linger) = self.linger {
            let seconds = i32::try_from(linger.as_secs()).unwrap_or(i32::MAX);
            let value = [1i32.to_ne_bytes(), seconds.to_ne_bytes()].concat();
            own.push((libc::SOL_SOCKET, libc::SO_LINGER, value));
        }
        for (level, name, value) in own {
            if let Err(error) = tcp::set_option(number, level, name, &value) {
                log::debug!("option {level}/{name} was not taken by a plain connection: {error}");
            }
        }
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
