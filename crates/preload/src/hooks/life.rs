//! Connecting, listening, accepting, closing: where sockets become virtual, and where they end.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use eversock_engine::cabi::addr;
use eversock_engine::{Config, Peers, posix};
use eversock_rules::Rule;
use libc::{c_char, c_int, sockaddr, socklen_t};

use super::inherited;
use super::made::made;
use crate::early;
use crate::edge::{self, awake, fail, sleeping};
use crate::next::{alias, hook};
use crate::setup::{self, setup};
use crate::shared;

/// The rule for a connect(2) of this descriptor, if it can become virtual.
///
/// # Safety
/// `addr` is NULL or readable for `len` bytes.
unsafe fn rule_for_connect(
    fd: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> Option<(SocketAddr, &'static Rule, &'static Arc<Config>)> {
    if setup().is_empty() {
        return None;
    }
    // SAFETY: the caller's word.
    let peer = unsafe { addr::read(addr, len, None) }.ok()?;
    let (rule, config) = setup().for_connect(peer)?;
    let is_fit = posix::is_fresh_tcp(fd) && !(edge::is_used() && edge::is_guest());
    is_fit.then_some((peer, rule, config))
}

/// Makes the socket virtual, with what is known of it.
fn adopt(fd: c_int, config: Arc<Config>) -> io::Result<()> {
    edge::begin_use()?;
    posix::adopt(fd, config)?;
    if let Some((set, event)) = early::registration(fd) {
        early::forget(fd);
        posix::adopt_registration(set, fd, event)?;
    }
    Ok(())
}

/// A connect(2) of a socket that shares a session already; `None` if it is a fresh one again.
///
/// # Safety
/// `addr` is NULL or readable for `len` bytes.
unsafe fn connect_again(
    fd: c_int,
    connection: &shared::Connection,
    addr: *const sockaddr,
    len: socklen_t,
) -> Option<io::Result<()>> {
    // SAFETY: the caller's word.
    let read = unsafe { addr::read(addr, len, None) };
    let is_elsewhere = read.is_err_and(|e| e.raw_os_error() == Some(libc::EAFNOSUPPORT));
    let result = match connection.state() {
        // AF_UNSPEC: the kernel ends the pair, or says what is wrong.
        _ if is_elsewhere => None,
        shared::State::Connecting => Some(fail(libc::EALREADY)),
        shared::State::Stands => Some(fail(libc::EISCONN)),
        shared::State::Failed => connection.take_error().map(fail),
    };
    if result.is_none() {
        shared::forget(fd);
    }
    result
}

/// connect(2) of a socket that is virtual, or becomes so, or shares a session; `None` if it stays
/// the kernel's.
///
/// # Safety
/// `addr` is NULL or readable for `len` bytes.
pub(super) unsafe fn connect_if_ours(
    fd: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> Option<io::Result<()>> {
    if edge::is_ours(fd) {
        // SAFETY: the caller's word.
        let peer = unsafe { addr::read(addr, len, None) };
        return Some(peer.and_then(|peer| posix::connect(fd, peer)));
    }
    if let Some(connection) = shared::find(fd) {
        // SAFETY: the caller's word.
        let again = unsafe { connect_again(fd, &connection, addr, len) };
        if again.is_some() {
            return again;
        }
    }
    // SAFETY: the caller's word.
    let (peer, rule, config) = unsafe { rule_for_connect(fd, addr, len) }?;
    if rule.share {
        return Some(shared::connect(fd, peer, rule, config));
    }
    let name = rule.name().map(str::to_owned);
    let may_be_plain = config.peers == Peers::Any;
    match adopt(fd, Arc::clone(config)) {
        Ok(()) => {}
        Err(error) if may_be_plain => {
            log::warn!("a connection stays plain: {error}");
            return None;
        }
        Err(error) => return Some(Err(error)),
    }
    let host = name.map(|name| (name, peer.port()));
    Some(posix::connect_any(fd, &[peer], host))
}

hook! { next = fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    let before = edge::errno();
    // SAFETY: the caller's word.
    match unsafe { connect_if_ours(fd, addr, len) } {
        Some(result) => {
            edge::set_errno(before);
            sleeping(|| result.map(|()| 0))
        }
        None => {
            edge::set_errno(before);
            next(fd, addr, len)
        }
    }
} }

hook! { next = fn listen(fd: c_int, backlog: c_int) -> c_int {
    if edge::is_ours(fd) {
        return awake(|| posix::listen(fd, backlog).map(|()| 0));
    }
    if setup().is_empty() {
        return next(fd, backlog);
    }
    match config_for_listen(fd) {
        None => next(fd, backlog),
        Some(config) => awake(|| begin_listening(fd, backlog, config).map(|()| 0)),
    }
} }

pub(super) fn config_for_listen(fd: c_int) -> Option<Arc<Config>> {
    let before = edge::errno();
    let local = posix::is_fresh_tcp(fd).then(|| posix::local_addr(fd)).flatten();
    let config = local.and_then(|local| setup().for_listen(local)).map(|(_, config)| config);
    let is_fit = config.is_some() && !(edge::is_used() && edge::is_guest());
    edge::set_errno(before);
    config.filter(|_| is_fit).map(Arc::clone)
}

pub(super) fn begin_listening(fd: c_int, backlog: c_int, config: Arc<Config>) -> io::Result<()> {
    edge::begin_use()?;
    let registration = early::registration(fd);
    if let Some((set, _)) = registration {
        // It would stay on the real listener, which is the engine's from here on.
        let _gone = posix::epoll_ctl(set, libc::EPOLL_CTL_DEL, fd, None);
    }
    let result = posix::adopt_listener(fd, backlog, config);
    if let Some((set, event)) = registration {
        posix::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, Some(event))?;
    }
    result
}

/// # Safety
/// That of accept4(2).
unsafe fn accept_ours(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
    sleeping(|| {
        if !addr.is_null() {
            // SAFETY: the caller's word. Looked at first: a session must not be taken and lost.
            unsafe { addr::room(len)? };
        }
        let (new, peer) = posix::accept4(fd, flags)?;
        early::forget(new);
        if !addr.is_null() {
            // SAFETY: as above.
            unsafe { addr::write(Some(peer), addr, len)? };
        }
        Ok(new)
    })
}

hook! { next = fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    if edge::is_ours(fd) {
        // SAFETY: the caller's word.
        return unsafe { accept_ours(fd, addr, len, 0) };
    }
    match inherited::before_accept(fd) {
        -1 => -1,
        // SAFETY: as above.
        _ if edge::is_ours(fd) => unsafe { accept_ours(fd, addr, len, 0) },
        _ => made(next(fd, addr, len)),
    }
} }

hook! { next = fn accept4(
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    if edge::is_ours(fd) {
        // SAFETY: the caller's word.
        return unsafe { accept_ours(fd, addr, len, flags) };
    }
    match inherited::before_accept(fd) {
        -1 => -1,
        // SAFETY: as above.
        _ if edge::is_ours(fd) => unsafe { accept_ours(fd, addr, len, flags) },
        _ => made(next(fd, addr, len, flags)),
    }
} }

hook! { next = fn shutdown(fd: c_int, how: c_int) -> c_int {
    if edge::is_ours(fd) {
        return awake(|| posix::shutdown(fd, how).map(|()| 0));
    }
    next(fd, how)
} }

hook! { next = fn close(fd: c_int) -> c_int {
    if edge::is_ours(fd) && !edge::is_guest() && !edge::is_engines(fd) {
        super::spawn::closed(fd);
        // With SO_LINGER it may sleep.
        let before = edge::errno();
        let result = posix::close_if_virtual(fd);
        edge::set_errno(before);
        if let Some(result) = result {
            return sleeping(|| result.map(|()| 0));
        }
        // It has become a plain connection since the question.
    }
    if edge::is_engines(fd) {
        // A daemon that closes all there may be: for the program there is nothing here.
        return awake(|| fail(libc::EBADF));
    }
    early::forget(fd);
    if edge::is_used() && !edge::is_guest() {
        posix::forget_epoll(fd);
    }
    next(fd)
} }

hook! { next = fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    found: *mut *mut libc::addrinfo,
) -> c_int {
    let result = next(node, service, hints, found);
    if result == 0 && !node.is_null() && !setup().is_empty() {
        let before = edge::errno();
        // SAFETY: the caller's word: a C string, which libc has read.
        let name = unsafe { CStr::from_ptr(node) };
        if let Some(name) = name.to_str().ok().filter(|name| setup().names(name)) {
            // SAFETY: libc has just made the list.
            setup::learn(name, &unsafe { addresses(*found) });
        }
        edge::set_errno(before);
    }
    result
} }

/// # Safety
/// `entry` is NULL or what getaddrinfo(3) gave.
unsafe fn addresses(mut entry: *const libc::addrinfo) -> Vec<IpAddr> {
    let mut out = Vec::new();
    // SAFETY: the caller's word, for each entry of the list.
    while let Some(info) = unsafe { entry.as_ref() } {
        // SAFETY: as above, for the address that the entry names.
        if let Ok(addr) = unsafe { addr::read(info.ai_addr, info.ai_addrlen, None) } {
            out.push(addr.ip());
        }
        entry = info.ai_next;
    }
    out
}

alias! {
    __connect = connect, (fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
    __close = close, (fd: c_int) -> c_int;
    __close_nocancel = close, (fd: c_int) -> c_int;
}
