//! The system calls' twins, by descriptor, for numbers of which [`is_virtual`] is true. Where plain
//! peers are taken a number may cease to be virtual between that question and the call: what every
//! socket has (data, names, options, dup) is asked of the kernel then. Any other number that is not
//! virtual fails with ENOTSOCK (EBADF if it is not open at all).
//!
//! Errors are those of the calls of the same name (see their man pages), plus ENOTRECOVERABLE once
//! the engine has failed.

mod adopt;
mod guest;
mod handle;
mod number;
mod option;
mod shared;
mod wait;

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use core::net::SocketAddr;

use crate::config::{Config, Mode, Peers};
use crate::error::{errno, fail};
use crate::inspect::{SessionInfo, describe};
use crate::listener::{Listener, not_connected};
use crate::process;
use crate::reactor::{self, Command};
use crate::socket::gather;
use crate::socket::lead::Led;
use crate::socket::recv::RecvMode;
use crate::socket::send::SendMode;
use crate::socket::{Socket, bits};
use crate::sys::{self, fd, io::timespec, process::Uncancelled, tcp};
use crate::table::{self, Entry};
use crate::wait::epoll;
use crate::wait::kick::Bell;

pub use crate::inspect::control_dir;
pub use adopt::{
    adopt, adopt_listener, adopt_registration, for_each_number, for_each_own_number, has_peer,
    is_blocking, is_fresh_tcp, is_listening, is_own_number, listening_backlog, local_addr,
    move_away,
};
pub use handle::Handle;
pub use number::{close_before, dup, dup3, forget_stale};
pub use option::{fcntl, getsockopt, readable_bytes, set_nonblocking, setsockopt, unsent_bytes};
pub use shared::{
    Line, Link, add_candidates, announce, candidates, identity_proof, instance, is_identity_proof,
    line, link, redial_at, set_candidates, subscribe, subscribe_with,
};
pub use wait::{epoll_ctl, epoll_wait, forget_epoll, poll, select};

/// True when the number is a virtual socket or listener. One load.
#[inline]
pub fn is_virtual(number: RawFd) -> bool {
    table::has(number)
}

/// True when waits on the number must go through [`poll`], [`select`] or [`epoll_wait`].
pub fn is_direct(number: RawFd) -> bool {
    matches!(table::get(number), Some(Entry::Stream(socket)) if !socket.has(bits::PUMPED))
}

fn stream(number: RawFd) -> io::Result<Arc<Socket>> {
    match table::get(number) {
        Some(Entry::Stream(socket)) => Ok(socket),
        Some(Entry::Listener(_)) => not_connected(),
        None => not_virtual(number),
    }
}

/// The number of a plain connection that a session has given way to since the caller found it
/// virtual: what he asks for is the kernel's to do.
#[cold]
fn plain(number: RawFd) -> io::Result<RawFd> {
    if table::gave_way(number) { Ok(number) } else { not_virtual(number) }
}

/// The errno of a number that is no virtual socket.
#[cold]
fn not_virtual<T>(number: RawFd) -> io::Result<T> {
    // Looked at only now: the call has failed already.
    fail(if fd::identity(number).is_ok() { libc::ENOTSOCK } else { libc::EBADF })
}

/// socket(2) for a TCP stream: `domain` AF_INET or AF_INET6, `kind` SOCK_STREAM with SOCK_NONBLOCK
/// and SOCK_CLOEXEC. Nothing else is virtual.
pub fn socket(domain: i32, kind: i32, protocol: i32, config: Arc<Config>) -> io::Result<RawFd> {
    if !matches!(domain, libc::AF_INET | libc::AF_INET6) {
        return fail(libc::EAFNOSUPPORT);
    }
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    if kind & !flags != libc::SOCK_STREAM {
        return fail(libc::EPROTONOSUPPORT);
    }
    if !matches!(protocol, 0 | libc::IPPROTO_TCP) {
        return fail(libc::EPROTONOSUPPORT);
    }
    let engine = reactor::engine()?;
    let real = socket2::Socket::new(
        socket2::Domain::from(domain),
        socket2::Type::from(kind),
        Some(socket2::Protocol::TCP),
    )?;
    // socket2 sets CLOEXEC whatever is asked.
    real.set_cloexec(kind & libc::SOCK_CLOEXEC != 0)?;
    // One that is nobody's but ours is to be neither in the program's way nor closed by it.
    let is_private = config.private && kind & libc::SOCK_CLOEXEC != 0;
    let real =
        if is_private { fd::internal(OwnedFd::from(real))? } else { OwnedFd::from(real).into() };
    let number = real.as_raw_fd();
    let id = engine.next_id();
    let first = bits::FRESH | if config.mode == Mode::Pumped { bits::PUMPED } else { 0 };
    let socket = Arc::new(Socket::new(id, config, vec![number], first));
    socket.nonblocking.store(kind & libc::SOCK_NONBLOCK != 0, Ordering::Relaxed);
    socket.place.lock().map_err(|_| crate::error::poisoned())?.identity = fd::identity(number)?;
    if table::set(number, Entry::Stream(socket)).is_err() {
        return fail(libc::EMFILE);
    }
    let number = real.into_raw_fd();
    if is_private {
        fd::note_own(number);
    }
    Ok(number)
}

/// bind(2).
pub fn bind(number: RawFd, addr: SocketAddr) -> io::Result<()> {
    let socket = stream(number)?;
    if !socket.has(bits::FRESH) {
        return fail(libc::EINVAL);
    }
    rustix::net::bind(sys::borrow(number), &addr)?;
    Socket::lock(&socket.meta)?.rare_mut().bound = tcp::local_addr(number);
    Ok(())
}

/// connect(2): blocks until the session stands, or gives EINPROGRESS when non-blocking.
///
/// # Errors
/// Those of connect(2); EPROTO when the peer speaks something else, EACCES when keys differ.
pub fn connect(number: RawFd, addr: SocketAddr) -> io::Result<()> {
    connect_any(number, &[addr], None)
}

/// The same for a peer with several addresses, best first, which are raced; `host` is looked up
/// again at each redial.
pub fn connect_any(
    number: RawFd,
    addrs: &[SocketAddr],
    host: Option<(String, u16)>,
) -> io::Result<()> {
    let socket = match table::get(number) {
        Some(Entry::Stream(socket)) => socket,
        Some(Entry::Listener(_)) => return not_connected(),
        // A program may ask once more whether its connect is done.
        None => return tcp::connect_as_is(plain(number)?, addrs),
    };
    let state = socket.bits();
    if state & bits::CONNECTING != 0 {
        return fail(libc::EALREADY);
    }
    if state & bits::FAILED != 0 && Socket::lock(&socket.meta)?.control.is_none() {
        socket.failure(Some(libc::ECONNABORTED))?;
    }
    if state & bits::FRESH == 0 {
        return fail(libc::EISCONN);
    }
    let Some(&first) = addrs.first() else { return fail(libc::EADDRNOTAVAIL) };
    let engine = reactor::engine()?;
    {
        let mut meta = Socket::lock(&socket.meta)?;
        meta.candidates = addrs.to_vec();
        meta.candidates.extend(&socket.config.peer_addrs);
        if host.is_some() {
            meta.rare_mut().host = host;
        }
        meta.peer = Some(first);
    }
    socket.change(bits::CONNECTING, bits::FRESH);
    let prepared = prepare_connect(&socket, number, engine);
    if let Err(error) = prepared {
        socket.change(bits::FRESH, bits::CONNECTING);
        return Err(error);
    }
    socket.owner.claim(engine.instance, true);
    engine.enroll(&socket);
    engine.command(Command::Connect { socket: Arc::clone(&socket) });
    if socket.nonblocking.load(Ordering::Relaxed) {
        return fail(libc::EINPROGRESS);
    }
    let deadline = Socket::deadline(&socket.send_timeout_us);
    let result = wait_connected(&socket, deadline, libc::EINPROGRESS);
    if result.is_err() && socket.has(bits::CONNECTING) {
        // It goes on without the caller, who may wait for it in other ways now.
        let mut place = Socket::lock(&socket.place)?;
        if socket.has(bits::CONNECTING) && place.placeholder.is_none() && !socket.has(bits::PUMPED)
        {
            socket.put_placeholder(&mut place, true)?;
        }
    }
    result
}

/// Puts something that is not writable under the number until the session stands.
fn prepare_connect(
    socket: &Arc<Socket>,
    number: RawFd,
    engine: &reactor::Engine,
) -> io::Result<()> {
    if !socket.has(bits::PUMPED) {
        let bound = Socket::lock(&socket.meta)?.rare().bound.is_some();
        let watched = socket.epolls.lock().is_ok_and(|epolls| !epolls.is_empty());
        if !bound && !watched && !socket.nonblocking.load(Ordering::Relaxed) {
            // Nobody but the caller waits, and not on the number: the fresh socket may stay there.
            // (One that is bound must free its port for the connection.)
            return Ok(());
        }
        let mut place = Socket::lock(&socket.place)?;
        return socket.put_placeholder(&mut place, true);
    }
    let (near, far) = tcp::narrow_pair()?;
    let junk = fill_pair(near.as_raw_fd());
    fd::set_nonblocking(near.as_raw_fd(), fd::is_nonblocking(number)?)?;
    fd::replace(near.as_fd(), number, fd::is_cloexec(number)?)?;
    Socket::lock(&socket.place)?.identity = fd::identity(number)?;
    let near = Some(near);
    engine.command(Command::Pump { socket: Arc::clone(socket), far, near, junk });
    Ok(())
}

/// Fills one direction of a pair so that `near` is not writable; gives the number of bytes.
pub(crate) fn fill_pair(near: RawFd) -> usize {
    let chunk = [0; 4096];
    let mut filled = 0;
    for size in [chunk.len(), 64, 1] {
        while let Ok(n) = sys::io::send(near, &[IoSlice::new(&chunk[..size])], false) {
            filled += n;
        }
    }
    filled
}

#[cold]
fn wait_connected(socket: &Arc<Socket>, deadline: Option<Instant>, expired: i32) -> io::Result<()> {
    let bell = Bell::new()?;
    let _listed = socket.sleepers.list(&bell);
    loop {
        if socket.has(bits::FAILED) {
            return socket.failure(Some(libc::ECONNABORTED));
        }
        if !socket.has(bits::CONNECTING) {
            return Ok(());
        }
        let mut fds = [libc::pollfd { fd: bell.number(), events: libc::POLLIN, revents: 0 }];
        let timeout = deadline.map(|at| at.saturating_duration_since(crate::clock::now()));
        match sys::io::poll(&mut fds, timeout) {
            Ok(0) => return fail(expired),
            Ok(_) => bell.silence(),
            Err(error) => return Err(error),
        }
    }
}

/// Waits until a connection carries the session, at most `timeout` (`None`: without limit).
///
/// # Errors
/// ETIMEDOUT when the time is over; the session's error when it has failed.
pub fn wait_attached(number: RawFd, timeout: Option<Duration>) -> io::Result<()> {
    let socket = stream(number)?;
    let deadline = timeout.and_then(|timeout| crate::clock::now().checked_add(timeout));
    let bell = Bell::new()?;
    let _listed = socket.sleepers.list(&bell);
    loop {
        if socket.has(bits::FAILED) {
            return fail(socket.failure_number());
        }
        if socket.has(bits::FRESH) {
            return fail(libc::ENOTCONN);
        }
        if !socket.has(bits::DETACHED | bits::CONNECTING) {
            return Ok(());
        }
        let mut fds = [libc::pollfd { fd: bell.number(), events: libc::POLLIN, revents: 0 }];
        let left = deadline.map(|at| at.saturating_duration_since(crate::clock::now()));
        match sys::io::poll(&mut fds, left) {
            Ok(0) => return fail(libc::ETIMEDOUT),
            Ok(_) => bell.silence(),
            Err(error) => return Err(error),
        }
    }
}

/// listen(2).
pub fn listen(number: RawFd, backlog: i32) -> io::Result<()> {
    match table::get(number) {
        Some(Entry::Listener(listener)) => {
            listener.set_backlog(backlog);
            Ok(())
        }
        Some(Entry::Stream(socket)) => {
            if !socket.has(bits::FRESH) {
                return fail(libc::EINVAL);
            }
            let listener = Listener::new(number, backlog, Arc::clone(&socket.config))?;
            match table::set(number, Entry::Listener(listener)) {
                Ok(_) => Ok(()),
                Err(_) => fail(libc::EMFILE),
            }
        }
        None => not_virtual(number),
    }
}

/// accept4(2): a new session, proven on both sides. Blocks as the number does.
pub fn accept4(number: RawFd, flags: i32) -> io::Result<(RawFd, SocketAddr)> {
    match table::get(number) {
        Some(Entry::Listener(listener)) => {
            gather::flush_held();
            listener.accept(number, flags)
        }
        Some(Entry::Stream(_)) => fail(libc::EINVAL),
        None => not_virtual(number),
    }
}

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_MORE | libc::MSG_EOR;

/// sendmsg(2) without ancillary data; `flags` as there. MSG_OOB is not supported.
pub fn send(number: RawFd, slices: &[IoSlice<'_>], flags: i32) -> io::Result<usize> {
    let socket = match table::get(number) {
        Some(Entry::Stream(socket)) => socket,
        Some(Entry::Listener(_)) => return fail(libc::EPIPE),
        None => return sys::io::send_as_is(plain(number)?, slices, flags),
    };
    send_on(&socket, number, slices, flags)
}

fn send_on(
    socket: &Arc<Socket>,
    number: RawFd,
    slices: &[IoSlice<'_>],
    flags: i32,
) -> io::Result<usize> {
    if flags & !SEND_FLAGS != 0 {
        return fail(libc::EOPNOTSUPP);
    }
    let mode = SendMode {
        dont_wait: flags & libc::MSG_DONTWAIT != 0,
        more: flags & libc::MSG_MORE != 0,
        no_signal: flags & libc::MSG_NOSIGNAL != 0,
    };
    if socket.is_quiet() {
        match socket.send(slices, mode) {
            Err(error) if is_moved(&error) => {}
            result => return result,
        }
    }
    loop {
        if socket.has(bits::PUMPED) && !socket.has(bits::FRESH) {
            return send_pumped(socket, number, slices, flags);
        }
        if !socket.has(bits::FRESH | bits::FAILED) {
            process::claim(socket)?;
            if socket.has(bits::PUMPED) {
                continue;
            }
        }
        if socket.has(bits::CONNECTING)
            && !mode.dont_wait
            && !socket.nonblocking.load(Ordering::Relaxed)
        {
            wait_connected(socket, Socket::deadline(&socket.send_timeout_us), libc::EAGAIN)?;
            if socket.has(bits::PUMPED) {
                // The peer does not speak eversock: it has become a plain connection.
                continue;
            }
        }
        match socket.send(slices, mode) {
            Err(error) if is_moved(&error) => {}
            result => return result,
        }
    }
}

/// The session was taken away by a fork or a relative while the call slept: it begins again.
fn is_moved(error: &io::Error) -> bool {
    crate::error::number(error) == libc::ERESTART
}

#[inline(never)]
fn send_pumped(
    socket: &Arc<Socket>,
    number: RawFd,
    slices: &[IoSlice<'_>],
    flags: i32,
) -> io::Result<usize> {
    if socket.has(bits::FAILED) && !socket.has(bits::CONNECTING) {
        socket.failure(None)?;
    }
    if let Some(link) = socket.link() {
        return guest::send(socket, &link, number, slices, flags);
    }
    sys::io::send_as_is(number, slices, flags)
}

const RECV_FLAGS: i32 = libc::MSG_DONTWAIT
    | libc::MSG_PEEK
    | libc::MSG_WAITALL
    | libc::MSG_NOSIGNAL
    | libc::MSG_CMSG_CLOEXEC;

/// recvmsg(2) without ancillary data; `flags` as there. MSG_OOB gives EINVAL as on a socket without
/// urgent data.
pub fn recv(number: RawFd, slices: &mut [IoSliceMut<'_>], flags: i32) -> io::Result<usize> {
    match table::get(number) {
        Some(Entry::Stream(socket)) => recv_on(&socket, number, slices, flags, true),
        Some(Entry::Listener(_)) => not_connected(),
        None => sys::io::recv_as_is(plain(number)?, slices, flags),
    }
}

fn recv_on(
    socket: &Arc<Socket>,
    number: RawFd,
    slices: &mut [IoSliceMut<'_>],
    flags: i32,
    cancellation_point: bool,
) -> io::Result<usize> {
    gather::flush_held();
    if flags == 0
        && socket.is_quiet()
        && socket.blocks()
        && let [buf] = slices
        && !buf.is_empty()
    {
        // The usual read of a conversation.
        match socket.read_leading(number, buf, cancellation_point)? {
            Led::Bytes { n, more } if n == buf.len() || n > 0 && !more => return Ok(n),
            Led::Bytes { n: n @ 1.., .. } => return Ok(socket.fill_up(slices, n)),
            Led::Bytes { .. } | Led::NotHere => {}
        }
    }
    if flags & libc::MSG_OOB != 0 {
        return fail(libc::EINVAL);
    }
    if flags & libc::MSG_ERRQUEUE != 0 {
        return fail(libc::EAGAIN);
    }
    if flags & !RECV_FLAGS != 0 {
        return fail(libc::EOPNOTSUPP);
    }
    if socket.has(bits::CONNECTING)
        && socket.config.peers == Peers::Any
        && flags & libc::MSG_DONTWAIT == 0
        && !socket.nonblocking.load(Ordering::Relaxed)
    {
        wait_connected(socket, Socket::deadline(&socket.recv_timeout_us), libc::EAGAIN)?;
    }
    let mode = RecvMode {
        dont_wait: flags & libc::MSG_DONTWAIT != 0,
        peek: flags & libc::MSG_PEEK != 0,
        wait_all: flags & libc::MSG_WAITALL != 0,
        cancellation_point,
    };
    loop {
        if socket.has(bits::PUMPED) && !socket.has(bits::FRESH) {
            return recv_pumped(socket, number, slices, flags);
        }
        if !socket.has(bits::FRESH | bits::FAILED) {
            process::claim(socket)?;
            if socket.has(bits::PUMPED) {
                continue;
            }
        }
        if socket.has(bits::RETURNED)
            && let Some(n) = socket.recv_returned(slices, mode.peek)?
        {
            return Ok(n);
        }
        match socket.recv(number, slices, mode) {
            Err(error) if is_moved(&error) => {}
            result => return result,
        }
    }
}

#[inline(never)]
fn recv_pumped(
    socket: &Arc<Socket>,
    number: RawFd,
    slices: &mut [IoSliceMut<'_>],
    flags: i32,
) -> io::Result<usize> {
    if let Some(link) = socket.link() {
        return guest::recv(socket, &link, number, slices, flags);
    }
    let result = sys::io::recv_as_is(number, slices, flags);
    if matches!(&result, Err(error) if crate::error::number(error) == libc::ECONNRESET) {
        // The pair can only say "reset"; the session knows better.
        socket.failure(None)?;
    }
    result
}

/// shutdown(2).
pub fn shutdown(number: RawFd, how: i32) -> io::Result<()> {
    let (read, write) = match how {
        libc::SHUT_RD => (true, false),
        libc::SHUT_WR => (false, true),
        libc::SHUT_RDWR => (true, true),
        _ => return fail(libc::EINVAL),
    };
    let socket = match table::get(number) {
        Some(Entry::Stream(socket)) => socket,
        Some(Entry::Listener(listener)) => {
            // As on Linux: it stops listening, and a sleeping accept returns EINVAL.
            let both = rustix::net::Shutdown::Both;
            rustix::net::shutdown(sys::borrow(number), both)?;
            if let Some(engine) = reactor::engine_if_running() {
                engine.command(Command::Unlisten { listener });
            }
            return Ok(());
        }
        None => return tcp::shutdown(plain(number)?, read, write),
    };
    socket.check_connected()?;
    if socket.has(bits::PUMPED) {
        return tcp::shutdown(number, read, write);
    }
    process::claim(&socket)?;
    if socket.has(bits::PUMPED) {
        // A relative goes on using it: the shutdown goes the pump's way.
        return shutdown(number, how);
    }
    if socket.has(bits::FAILED) {
        // As of a connection that was reset: there is nothing left to end, and its error is told by
        // the calls that move bytes.
        return fail(libc::ENOTCONN);
    }
    if write {
        finish(&socket)?;
    }
    if read {
        socket.change(bits::EOF, 0);
        // A reader that sleeps in the kernel is woken there.
        let leads = socket.sleepers.has_leader();
        if leads && !socket.has(bits::DETACHED) {
            let _gone = rustix::net::shutdown(sys::borrow(number), rustix::net::Shutdown::Read);
        }
    }
    Ok(())
}

/// Writes the FIN.
fn finish(socket: &Arc<Socket>) -> io::Result<()> {
    let mut tx = socket.lock_tx()?;
    socket.change(bits::WRITE_SHUT, 0);
    if socket.has(bits::FAILED) {
        // What ends with a RESET must not look like an orderly end.
        return Ok(());
    }
    if let Some(sender) = tx.sender.as_mut() {
        sender.finish();
    }
    if socket.flush(&mut tx, false) == crate::socket::send::Flushed::Owed {
        socket.owe();
    }
    socket.finish_tx(tx);
    socket.list_for_sweep();
    Ok(())
}

/// close(2). The number is free when this returns; what was written is still delivered by the
/// engine. With SO_LINGER and a time it waits for the peer's confirmation; with SO_LINGER and zero
/// the session is reset. A number that is not virtual gives EBADF and stays open, as it may be a
/// stranger's by now.
pub fn close(number: RawFd) -> io::Result<()> {
    close_if_virtual(number).unwrap_or_else(|| fail(libc::EBADF))
}

/// The same for who has just found the number virtual: `None`, and nothing done, if it has become a
/// plain connection in between.
pub fn close_if_virtual(number: RawFd) -> Option<io::Result<()>> {
    if let Entry::Listener(listener) = table::get(number)? {
        return Some(listener.close(number));
    }
    let Entry::Stream(socket) = table::take(number)? else { return None };
    epoll::closed(&socket, number);
    Some(close_taken(&socket, number, true))
}

/// Ends one number of a socket. `kernel` unless the number is about to be replaced.
fn close_taken(socket: &Arc<Socket>, number: RawFd, kernel: bool) -> io::Result<()> {
    // Cancelled in libc's close, the engine would not be told, and nobody would end the session.
    let whole = Uncancelled::begin();
    if socket.config.private {
        fd::forget_own(number);
    }
    let finish_kernel = |number| if kernel { fd::close_reporting(number) } else { Ok(()) };
    if socket.has(bits::FRESH) {
        socket.place.lock().map_err(|_| crate::error::poisoned())?.numbers.retain(|&n| n != number);
        return finish_kernel(number);
    }
    let engine = reactor::engine_if_running();
    let mine = engine.is_some_and(|engine| socket.owner.is(engine.instance));
    if !mine {
        // A relative has it, or will have: only our number goes.
        socket.let_go(number)?;
        return finish_kernel(number);
    }
    let linger = Socket::lock(&socket.meta)?.options.linger;
    // Held until the number is withdrawn: of two numbers closed at once one must be the last.
    let mut place = Socket::lock(&socket.place)?;
    let last = place.numbers.iter().all(|&n| n == number);
    let reset = last && linger == Some(Duration::ZERO);
    if socket.has(bits::PUMPED) {
        place.numbers.retain(|&n| n != number);
        drop(place);
        if let (true, Some(engine)) = (last && reset, engine) {
            // Before the pump can take the closed pair for an orderly end.
            engine.command(Command::Closed { socket: Arc::clone(socket), reset });
            return finish_kernel(number);
        }
        let result = finish_kernel(number);
        if let (true, Some(engine)) = (last, engine) {
            engine.command(Command::Closed { socket: Arc::clone(socket), reset });
        }
        return result;
    }
    if last && !reset && socket.has(bits::GUESTS) {
        // As with any socket that another process still has: nothing ends yet.
        socket.withdraw(&mut place, number)?;
        drop(place);
        socket.change(bits::ORPHAN, bits::CLOSED);
        let result = finish_kernel(number);
        if let Some(engine) = engine {
            engine.command(Command::Orphaned { socket: Arc::clone(socket) });
        }
        return result;
    }
    if last && !reset && !socket.has(bits::CONNECTING) {
        finish(socket)?;
    }
    socket.withdraw(&mut place, number)?;
    drop(place);
    let result = finish_kernel(number);
    if last && let Some(engine) = engine {
        socket.change(bits::CLOSED, 0);
        socket.kick();
        engine.command(Command::Closed { socket: Arc::clone(socket), reset });
        if let Some(linger) = linger.filter(|linger| !linger.is_zero()) {
            drop(whole);
            wait_delivered(socket, linger);
        }
    }
    result
}

/// SO_LINGER: waits until the peer has confirmed everything.
fn wait_delivered(socket: &Arc<Socket>, at_most: Duration) {
    let deadline = crate::clock::now() + at_most;
    loop {
        let done = socket
            .tx
            .lock()
            .is_ok_and(|tx| tx.sender.as_ref().is_none_or(|sender| sender.is_done()));
        // Given up, or as good as delivered: nothing more will come.
        let ended = socket.meta.lock().is_ok_and(|meta| meta.ended.is_some());
        if done || ended || socket.has(bits::FAILED | bits::OVER) || crate::clock::now() >= deadline
        {
            return;
        }
        epoll::sleep(Duration::from_millis(1));
    }
}

/// getsockname(2): as it was when the session began.
pub fn getsockname(number: RawFd) -> io::Result<Option<SocketAddr>> {
    match table::get(number) {
        Some(Entry::Listener(listener)) => Ok(listener.local),
        Some(Entry::Stream(socket)) => {
            if socket.has(bits::FRESH) {
                return Ok(tcp::local_addr(number));
            }
            let meta = Socket::lock(&socket.meta)?;
            Ok(meta.local.or_else(|| meta.rare().bound))
        }
        None => tcp::name(plain(number)?),
    }
}

/// getpeername(2): as it was when the session began.
pub fn getpeername(number: RawFd) -> io::Result<Option<SocketAddr>> {
    let socket = match table::get(number) {
        Some(Entry::Stream(socket)) => socket,
        Some(Entry::Listener(_)) => return not_connected(),
        None => return tcp::peer_name(plain(number)?),
    };
    if socket.has(bits::FRESH | bits::CONNECTING) {
        return fail(libc::ENOTCONN);
    }
    Ok(Socket::lock(&socket.meta)?.peer)
}

/// The session behind a number.
pub fn info(number: RawFd) -> io::Result<SessionInfo> {
    describe(&stream(number)?).ok_or_else(crate::error::poisoned)
}

/// Dials the session behind a number again now, beside the connection that stands if one does;
/// under the policy "ask" that is an answer too. Does nothing under the policy "never".
pub fn redial(number: RawFd) -> io::Result<()> {
    stream(number)?.redial();
    Ok(())
}

/// Turns a connected direct socket into a pumped one, in place: from here on any system call and
/// any event loop works on the number. It must have one number only and no epoll registration.
pub fn pump(number: RawFd) -> io::Result<()> {
    let socket = stream(number)?;
    if socket.has(bits::PUMPED) {
        return Ok(());
    }
    socket.check_connected()?;
    socket.failure(None)?;
    process::claim(&socket)?;
    if socket.has(bits::PUMPED) {
        // A relative's, by way of a pump.
        return Ok(());
    }
    // What guests have, or have left, is read by calls on the socket alone.
    let is_shared = socket.has(bits::GUESTS | bits::RETURNED);
    if is_shared || Socket::lock(&socket.place)?.numbers.len() != 1 {
        return fail(libc::EBUSY);
    }
    let engine = reactor::engine()?;
    let far = socket.become_pumped(number)?;
    engine.command(Command::Pump { socket: Arc::clone(&socket), far, near: None, junk: 0 });
    Ok(())
}

/// The number's socket was turned into a pumped one and is given away: eversock forgets the number,
/// the pump goes on until the pair's other end is closed.
pub fn forget(number: RawFd) -> io::Result<()> {
    match table::take(number) {
        Some(Entry::Stream(socket)) => {
            Socket::lock(&socket.place)?.numbers.retain(|&n| n != number);
            Ok(())
        }
        _ => not_virtual(number),
    }
}

/// A `timespec` for a duration.
pub fn to_timespec(duration: Duration) -> libc::timespec {
    timespec(duration)
}

/// An error as its number; EIO when it has none.
pub fn error_number(error: &io::Error) -> i32 {
    crate::error::number(error)
}

/// The error of a number.
pub fn error_of(number: i32) -> io::Error {
    errno(number)
}
