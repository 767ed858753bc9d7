//! TCP sockets: making, tuning, discarding, asking.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::calls::calls;
use super::fd::{self, Fd, borrow, internal, open};
use crate::error::fail;

/// A new non-blocking TCP socket with an internal number.
pub(crate) fn new_socket(addr: &SocketAddr) -> io::Result<Fd> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(*addr), kind, Some(Protocol::TCP))?;
    internal(OwnedFd::from(socket))
}

/// Begins to connect; `Ok(true)` when it is connected already.
pub(crate) fn connect(number: RawFd, addr: &SocketAddr) -> io::Result<bool> {
    // Not libc's connect, which may be the preload's own: a rule would hold for this one too.
    match rustix::net::connect(borrow(number), addr) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::INPROGRESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// connect(2) as the program would call it.
pub(crate) fn connect_as_is(number: RawFd, addrs: &[SocketAddr]) -> io::Result<()> {
    let fd = open(number)?;
    fd::identity(number)?;
    let Some(addr) = addrs.first() else { return fail(libc::EADDRNOTAVAIL) };
    Ok(rustix::net::connect(fd, addr)?)
}

/// shutdown(2).
pub(crate) fn shutdown(number: RawFd, read: bool, write: bool) -> io::Result<()> {
    let how = match (read, write) {
        (true, true) => rustix::net::Shutdown::Both,
        (true, false) => rustix::net::Shutdown::Read,
        _ => rustix::net::Shutdown::Write,
    };
    Ok(rustix::net::shutdown(open(number)?, how)?)
}

/// The pending error of a socket, which this takes.
pub(crate) fn take_error(number: RawFd) -> Option<io::Error> {
    // Not libc's getsockopt, which may be the preload's own: the program's error is another.
    match rustix::net::sockopt::socket_error(borrow(number)) {
        Ok(Ok(())) => None,
        Ok(Err(pending)) => Some(pending.into()),
        Err(error) => Some(error.into()),
    }
}

/// What every real socket needs (DESIGN 4: an ACK frame under Nagle cost 44 ms).
pub(crate) fn tune(number: RawFd, keepalive: Duration) {
    let fd = borrow(number);
    let socket = SockRef::from(&fd);
    let probes = TcpKeepalive::new()
        .with_time(keepalive.max(Duration::from_secs(1)))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    // A refusal costs quickness, not correctness.
    let _nodelay = socket.set_tcp_nodelay(true);
    let _keepalive = socket.set_tcp_keepalive(&probes);
}

/// Closes with a RST: for the socket of an old epoch, never for a live one.
pub(crate) fn discard(fd: Fd) {
    let _linger = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
    drop(fd);
}

/// Wakes whoever sleeps on the socket, whatever number they use.
pub(crate) fn shut_both(number: RawFd) {
    let _gone = rustix::net::shutdown(borrow(number), rustix::net::Shutdown::Both);
}

/// The local address, if it is an IP one.
pub(crate) fn local_addr(number: RawFd) -> Option<SocketAddr> {
    rustix::net::getsockname(borrow(number)).ok()?.try_into().ok()
}

/// The peer's address, if it is an IP one.
pub(crate) fn peer_addr(number: RawFd) -> Option<SocketAddr> {
    rustix::net::getpeername(borrow(number)).ok()??.try_into().ok()
}

/// getsockname(2); `None` when it is no IP address.
pub(crate) fn name(number: RawFd) -> io::Result<Option<SocketAddr>> {
    Ok(rustix::net::getsockname(open(number)?)?.try_into().ok())
}

/// getpeername(2); the same.
pub(crate) fn peer_name(number: RawFd) -> io::Result<Option<SocketAddr>> {
    Ok(rustix::net::getpeername(open(number)?)?.and_then(|addr| addr.try_into().ok()))
}

/// A connected pair over loopback; nobody else can have got between. Both ends internal and
/// non-blocking.
pub(crate) fn loopback_pair() -> io::Result<(Fd, Fd)> {
    pair_of(&loopback_listener()?)
}

/// The same with next to no room from the first end to the second, so that little fills it, until
/// [`enlarge`]. The window must be tiny from the beginning: measured, a pair whose sending buffer
/// alone was tiny became writable again after 40 ms.
pub(crate) fn narrow_pair() -> io::Result<(Fd, Fd)> {
    let listener = loopback_listener()?;
    let tiny = 1i32.to_ne_bytes();
    set_option(listener.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, &tiny)?;
    let (near, far) = pair_of(&listener)?;
    set_option(near.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, &tiny)?;
    Ok((near, far))
}

// Not std's: its connect and listen are the preload's own, for which a rule may hold.
fn loopback_listener() -> io::Result<OwnedFd> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = blocking_socket()?;
    rustix::net::bind(&listener, &any)?;
    rustix::net::listen(&listener, 8)?;
    Ok(listener)
}

fn blocking_socket() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
    let flags = SocketFlags::CLOEXEC;
    let protocol = Some(ipproto::TCP);
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, protocol)?;
    // Each pair leaves a port behind for a minute: who makes thousands would run out of them.
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

fn pair_of(listener: &OwnedFd) -> io::Result<(Fd, Fd)> {
    let raw = listener.as_raw_fd();
    let lost = || io::Error::from(io::ErrorKind::NotConnected);
    let near = blocking_socket()?;
    rustix::net::connect(&near, &local_addr(raw).ok_or_else(lost)?)?;
    let ours = local_addr(near.as_raw_fd()).ok_or_else(lost)?;
    // Someone else may have connected first; take the one that is us, in bounded tries.
    for _ in 0..64 {
        let far = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC)?;
        if peer_addr(far.as_raw_fd()) == Some(ours) {
            for end in [&near, &far] {
                rustix::net::sockopt::set_tcp_nodelay(end, true)?;
            }
            fd::set_nonblocking(far.as_raw_fd(), true)?;
            return Ok((internal(near)?, internal(far)?));
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "strangers flood the loopback listener"))
}

/// Wakes whoever sleeps in a read of the connection; what is queued stays readable.
pub(crate) fn shut_reading(number: RawFd) {
    let _gone = rustix::net::shutdown(borrow(number), rustix::net::Shutdown::Read);
}

/// Gives a narrow pair its room. Raising SO_RCVBUF alone does not lift the window clamp.
pub(crate) fn enlarge(near: RawFd, far: RawFd) {
    let large = (1024 * 1024i32).to_ne_bytes();
    let _small = set_option(far, libc::SOL_SOCKET, libc::SO_RCVBUF, &large);
    let _small = set_option(far, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, &large);
    let _small = set_option(near, libc::SOL_SOCKET, libc::SO_SNDBUF, &large);
}

/// Part of `struct tcp_info` (linux/tcp.h).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    /// Retransmission time-outs in a row: the kernel is backing off.
    pub(crate) backoff: u8,
    /// Segments sent and not confirmed.
    pub(crate) unacked: u32,
}

/// Asks the kernel how a connection fares.
pub(crate) fn health(number: RawFd) -> Option<Health> {
    // SAFETY: tcp_info is plain numbers, for which all zeros is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is writable for `len` bytes.
    let result = unsafe {
        (calls().getsockopt)(
            number,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    (result == 0).then_some(Health {
        backoff: info.tcpi_backoff.max(info.tcpi_retransmits),
        unacked: info.tcpi_unacked,
    })
}

/// True for a socket that listens. Not by libc's getsockopt, which may be the preload's own.
pub(crate) fn is_listening(number: RawFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(borrow(number)).is_ok_and(|listens| listens)
}

/// How many connections may wait for accept, of a TCP socket that listens.
pub(crate) fn listening_backlog(number: RawFd) -> Option<i32> {
    // `tcpi_sacked`, which of a socket that listens is this.
    const SACKED_AT: usize = 28;
    let mut info = [0; SACKED_AT + 4];
    let n = get_option(number, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).ok()?;
    let field = info.get(SACKED_AT..n).and_then(|rest| rest.first_chunk())?;
    Some(i32::try_from(u32::from_ne_bytes(*field)).unwrap_or(i32::MAX))
}

/// What has gone between a connection and its process, as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Bytes that were read from the connection; a FIN that has come may count as one.
    pub(crate) read: u64,
    /// Bytes that were written to it; a FIN of ours may count as one.
    pub(crate) written: u64,
    /// Neither side has ended: no FIN was counted.
    pub(crate) is_open: bool,
    /// Nothing comes or goes any more: the kernel has no connection left.
    pub(crate) is_dead: bool,
}

/// Asks the kernel what has gone through a connection; `None` when it cannot say (before Linux 4.1)
/// or when bytes come and go faster than it can be asked.
pub(crate) fn traffic(number: RawFd) -> Option<Traffic> {
    // The counts and what is queued are two answers: bytes that come between them would be taken
    // for read. So the first is asked again until it stands still.
    let mut before = counts(number)?;
    for _ in 0..16 {
        let unread = super::io::queued(number) as u64;
        let unsent = u64::from(unconfirmed(number).ok()?);
        // On a dead one nothing moves but by our own reading.
        let is_dead = before.state == TCP_CLOSE;
        let after = if is_dead { before } else { counts(number)? };
        if after == before {
            return Some(Traffic {
                read: after.received.wrapping_sub(unread),
                written: after.acked.wrapping_add(unsent),
                is_open: after.state == TCP_ESTABLISHED,
                is_dead,
            });
        }
        before = after;
    }
    None
}

const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE: u8 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    state: u8,
    acked: u64,
    received: u64,
}

/// `tcpi_state`, `tcpi_bytes_acked` and `tcpi_bytes_received` (linux/tcp.h), which libc's
/// `tcp_info` does not reach.
fn counts(number: RawFd) -> Option<Counts> {
    const ACKED_AT: usize = 120;
    const RECEIVED_AT: usize = 128;
    let mut info = [0; RECEIVED_AT + 8];
    let n = get_option(number, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).ok()?;
    let field = |at: usize| Some(u64::from_ne_bytes(*info.get(at..)?.first_chunk()?));
    let (acked, received) = (field(ACKED_AT)?, field(RECEIVED_AT)?);
    (n == info.len()).then_some(Counts { state: info[0], acked, received })
}

/// How a connection's path is, as far as the kernel has counted; fields that an older one does not
/// know, or has not measured yet, are none.
pub(crate) fn line(number: RawFd) -> io::Result<crate::posix::Line> {
    // Of struct tcp_info (linux/tcp.h), which libc's does not reach to its end.
    const BYTES: usize = 168;
    let mut info = [0; BYTES];
    let n = get_option(number, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    let known = info.get(..n).unwrap_or(&info);
    let four = |at: usize| Some(u32::from_ne_bytes(*known.get(at..)?.first_chunk()?));
    let eight = |at: usize| Some(u64::from_ne_bytes(*known.get(at..)?.first_chunk()?));
    Ok(crate::posix::Line {
        rtt_us: four(68).filter(|&rtt| rtt != 0),
        // The greatest number stands for "not measured".
        min_rtt_us: four(148).filter(|&rtt| rtt != 0 && rtt != u32::MAX),
        retrans: four(100),
        segs_out: four(136),
        delivery_rate: eight(160).filter(|&rate| rate != 0),
        pmtu: four(60).filter(|&pmtu| pmtu != 0),
    })
}

/// Bytes that have come over this connection so far, if it is one of TCP's and not closed.
pub(crate) fn bytes_received(number: RawFd) -> Option<u64> {
    /// TCP_CLOSE of linux/net/tcp_states.h.
    const CLOSED: u8 = 7;
    counts(number).filter(|counts| counts.state != CLOSED).map(|counts| counts.received)
}

/// Bytes that the peer's kernel has not confirmed (SIOCOUTQ).
pub(crate) fn unconfirmed(number: RawFd) -> io::Result<u32> {
    // Not libc's ioctl, which may be the preload's own and takes the socket's locks.
    // SAFETY: SIOCOUTQ writes one int.
    let unsent: rustix::io::Result<libc::c_int> = unsafe {
        let getter = rustix::ioctl::Getter::<{ libc::TIOCOUTQ as rustix::ioctl::Opcode }, _>::new();
        rustix::ioctl::ioctl(open(number)?, getter)
    };
    Ok(unsent?.unsigned_abs())
}

/// setsockopt(2) with raw bytes.
pub(crate) fn set_option(number: RawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: `value` is readable for its length.
    let result = unsafe {
        (calls().setsockopt)(
            number,
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// getsockopt(2) into raw bytes; gives the length.
pub(crate) fn get_option(
    number: RawFd,
    level: i32,
    name: i32,
    out: &mut [u8],
) -> io::Result<usize> {
    let mut len = out.len() as libc::socklen_t;
    // SAFETY: `out` is writable for `len` bytes.
    let result =
        unsafe { (calls().getsockopt)(number, level, name, out.as_mut_ptr().cast(), &raw mut len) };
    if result == 0 { Ok(len as usize) } else { Err(io::Error::last_os_error()) }
}

/// A netlink socket that becomes readable when addresses or routes change.
pub(crate) fn route_changes() -> io::Result<Fd> {
    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400; // LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_*
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol is NETLINK_ROUTE, which is 0.
    let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&fd, &SocketAddrNetlink::new(0, GROUPS))?;
    let fd = internal(fd)?;
    debug_assert!(fd.as_raw_fd() >= 0);
    Ok(fd)
}
