//! Sockets of the kernel that become virtual where they stand: what the preload does at connect(2)
//! and listen(2), when it knows that a rule holds.
//!
//! Nothing is kept about a socket before that. Its options are read back and compared with those of
//! a fresh one, so that it does not matter who set them, or how.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::{Config, Mode};
use crate::error::{fail, poisoned};
use crate::listener::Listener;
use crate::options::Options;
use crate::reactor;
use crate::socket::{Socket, bits};
use crate::sys::{fd, tcp};
use crate::table::{self, Entry};
use crate::wait::epoll;

/// Makes the TCP socket at `number`, which must not be connected, a virtual one, as if
/// [`super::socket`] had made it and all that was done to it since had been done through this
/// module.
///
/// # Errors
/// EMFILE when the number is beyond the table; those of starting the engine; ENOTSOCK and its like.
pub fn adopt(number: RawFd, config: Arc<Config>) -> io::Result<()> {
    let engine = reactor::engine()?;
    let identity = fd::identity(number)?;
    let options = Options::read_back(number)?;
    let first = bits::FRESH | if config.mode == Mode::Pumped { bits::PUMPED } else { 0 };
    let socket = Socket::new(engine.next_id(), config, vec![number], first);
    socket.nonblocking.store(fd::is_nonblocking(number)?, Ordering::Relaxed);
    let timeout = |name| options.timeout_us(name);
    socket.recv_timeout_us.store(timeout(libc::SO_RCVTIMEO), Ordering::Relaxed);
    socket.send_timeout_us.store(timeout(libc::SO_SNDTIMEO), Ordering::Relaxed);
    {
        let mut meta = Socket::lock(&socket.meta)?;
        meta.options = options;
        let local = tcp::local_addr(number);
        let bound = local.filter(|addr| addr.port() != 0 || !addr.ip().is_unspecified());
        if bound.is_some() {
            meta.rare_mut().bound = bound;
        }
    }
    socket.place.lock().map_err(|_| poisoned())?.identity = identity;
    match table::set(number, Entry::Stream(Arc::new(socket))) {
        Ok(_) => Ok(()),
        Err(_) => fail(libc::EMFILE),
    }
}

/// Turns the bound TCP socket at `number` into a virtual listener.
///
/// # Errors
/// Those of listen(2), and those of [`adopt`].
pub fn adopt_listener(number: RawFd, backlog: i32, config: Arc<Config>) -> io::Result<()> {
    reactor::engine()?;
    let listener = Listener::new(number, backlog, config)?;
    match table::set(number, Entry::Listener(listener)) {
        Ok(_) => Ok(()),
        Err(_) => fail(libc::EMFILE),
    }
}

/// Tells of a registration that was made before the socket became virtual. One that is not there
/// any more is passed over.
///
/// # Errors
/// EMFILE, ENOMEM: the set cannot be watched.
pub fn adopt_registration(epfd: RawFd, number: RawFd, event: libc::epoll_event) -> io::Result<()> {
    match epoll::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, number, Some(event)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EBADF)) => Ok(()),
        result => result,
    }
}

/// Calls `visit` with every number that is virtual now. Takes no lock and writes nothing, so that a
/// child between vfork and exec may ask.
pub fn for_each_number(visit: impl FnMut(RawFd)) {
    table::for_each_number(visit);
}

/// True when the engine uses this number itself, so that the program has not made it.
pub fn is_own_number(number: RawFd) -> bool {
    fd::is_own(number)
}

/// Moves a descriptor that the engine has just got from libc out of the program's way.
///
/// # Errors
/// EMFILE, and then it is closed.
pub fn move_away(number: RawFd) -> io::Result<RawFd> {
    use std::os::fd::IntoRawFd;
    let number = fd::internal(fd::own(number))?.into_raw_fd();
    fd::note_own(number);
    Ok(number)
}

/// Calls `visit` with every number that the engine uses itself.
pub fn for_each_own_number(visit: impl FnMut(RawFd)) {
    fd::for_each_own(visit);
}

/// getsockname(2) of any descriptor, if it has an IP address.
pub fn local_addr(number: RawFd) -> Option<core::net::SocketAddr> {
    tcp::local_addr(number)
}

/// True when the kernel knows a peer of the socket at `number`, as of one that is connected.
pub fn has_peer(number: RawFd) -> bool {
    number >= 0 && tcp::peer_addr(number).is_some()
}

/// True when a socket listens at `number`. One system call, which touches no errno.
pub fn is_listening(number: RawFd) -> bool {
    number >= 0 && tcp::is_listening(number)
}

/// How many connections may wait for accept, if a TCP socket listens at `number`.
pub fn listening_backlog(number: RawFd) -> Option<i32> {
    if is_listening(number) { tcp::listening_backlog(number) } else { None }
}

/// True when calls on the number's file block.
pub fn is_blocking(number: RawFd) -> bool {
    number >= 0 && fd::is_nonblocking(number).is_ok_and(|nonblocking| !nonblocking)
}

/// True when the socket at `number` is one that [`adopt`] takes: TCP, and not connected.
pub fn is_fresh_tcp(number: RawFd) -> bool {
    let int = |level, name| {
        let mut out = [0; 4];
        let n = tcp::get_option(number, level, name, &mut out).unwrap_or(0);
        (n == out.len()).then(|| i32::from_ne_bytes(out))
    };
    let socket = libc::SOL_SOCKET;
    int(socket, libc::SO_TYPE) == Some(libc::SOCK_STREAM)
        && int(socket, libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
        && matches!(int(socket, libc::SO_DOMAIN), Some(libc::AF_INET | libc::AF_INET6))
        && tcp::peer_addr(number).is_none()
}
