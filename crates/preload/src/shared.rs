//! Connections that share a session (`share = true`): the program has one end of a pair under its
//! number, an ordinary socket, and a pool of this process carries the other.
//!
//! What the kernel does not know of such a socket is kept here: where its connection goes, and how
//! its connect has gone. By the socket's cookie, which the kernel gives no other: so it holds for
//! each number of the socket, whoever made that, and means nothing for what has a number next.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use eversock_dedup::{ConnectOptions, Failed, Pool, PoolConfig};
use eversock_engine::{Config, host, posix};
use eversock_rules::{Host, Rule};
use libc::c_int;
use rustix::event::epoll;
use rustix::fd::BorrowedFd;

use crate::early;
use crate::edge::{self, fail};

/// How a connect has gone, where it is no errno.
const STANDS: c_int = 0;
const CONNECTING: c_int = -1;
/// It has failed, and the program knows why.
const TOLD: c_int = -2;

/// One connection of a pool's, as the program sees it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    /// Where it seems to come from.
    ip: IpAddr,
    port: AtomicU16,
    state: AtomicI32,
    /// By which the pool knows it.
    management: AtomicU64,
    /// Where it was made.
    number: c_int,
}

/// What a pool's connection is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    Stands,
    Failed,
}

#[derive(Default)]
struct Books {
    /// By the socket's cookie.
    connections: BTreeMap<u64, Arc<Connection>>,
    /// As many as there are when those that are over are looked for.
    look_at: usize,
    /// One for each way in which rules say that connections are made.
    pools: Vec<(Rule, Pool)>,
}

static BOOKS: Mutex<Option<Books>> = Mutex::new(None);
/// False as long as no connection shares anything.
static USED: AtomicBool = AtomicBool::new(false);
/// So few connections are not worth a look.
const LOOK_AT_LEAST: usize = 64;

/// Looks into the books, or writes there. Neither a fork nor a handler of the program's comes
/// between; nothing in `run` waits.
fn with<T>(run: impl FnOnce(&mut Books) -> T) -> T {
    let _whole = host::whole();
    let mut books = BOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    run(books.get_or_insert_default())
}

/// The connection of a number; one load while there is none.
#[inline]
pub(crate) fn find(number: c_int) -> Option<Arc<Connection>> {
    if USED.load(Ordering::Relaxed) { look_up(number) } else { None }
}

#[cold]
fn look_up(number: c_int) -> Option<Arc<Connection>> {
    if eversock_engine::on_engine_thread() || edge::is_guest() {
        return None;
    }
    let cookie = host::cookie(number)?;
    with(|books| books.connections.get(&cookie).map(Arc::clone))
}

/// The number's socket is to be connected to something else.
pub(crate) fn forget(number: c_int) {
    if let Some(cookie) = host::cookie(number) {
        with(|books| books.connections.remove(&cookie));
    }
}

impl Connection {
    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            STANDS => State::Stands,
            CONNECTING => State::Connecting,
            _ => State::Failed,
        }
    }

    pub(crate) fn local(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port.load(Ordering::Relaxed))
    }

    /// Why the connect has failed; the program is told once.
    pub(crate) fn take_error(&self) -> Option<c_int> {
        let seen = self.state.load(Ordering::Acquire);
        let order = Ordering::AcqRel;
        let is_mine =
            seen > 0 && self.state.compare_exchange(seen, TOLD, order, Ordering::Acquire).is_ok();
        is_mine.then_some(seen)
    }

    fn has_gone(&self, result: io::Result<u64>) {
        let state = match result {
            Ok(management) => {
                self.management.store(management, Ordering::Relaxed);
                STANDS
            }
            Err(error) => posix::error_number(&error).max(1),
        };
        self.state.store(state, Ordering::Release);
    }
}

/// connect(2) of a fresh socket for which a rule with `share` holds. A cancellation acts in it
/// where it waits.
pub(crate) fn connect(
    number: c_int,
    peer: SocketAddr,
    rule: &Rule,
    config: &Config,
) -> io::Result<()> {
    let timeout = host::send_timeout(number);
    let is_blocking = posix::is_blocking(number);
    let connection = edge::guarded(|| begin(number, peer, rule, config))?;
    if !is_blocking {
        return fail(libc::EINPROGRESS);
    }
    if !host::wait_writable(number, timeout)? {
        // It goes on without the caller, as the kernel's would.
        return fail(libc::EINPROGRESS);
    }
    match connection.state() {
        State::Stands => Ok(()),
        State::Failed => fail(connection.take_error().unwrap_or(libc::ECONNABORTED)),
        // Another thread has shut the number down.
        State::Connecting => fail(libc::ECONNABORTED),
    }
}

fn begin(
    number: c_int,
    peer: SocketAddr,
    rule: &Rule,
    config: &Config,
) -> io::Result<Arc<Connection>> {
    edge::begin_use()?;
    // With the engine come the hooks around fork, and what it does at the end; ours is to be first.
    posix::instance()?;
    at_exit();
    let pool = pool(rule, config)?;
    let bound = posix::local_addr(number);
    let bound_ip = bound.map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified());
    let options = ConnectOptions {
        device: device(number),
        source: bound_ip.map(|ip| ip.to_canonical()),
        ..ConnectOptions::default()
    };
    let host = rule.name().map(|name| (name.to_owned(), peer.port()));
    let dialled = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let ip = bound_ip.or_else(|| host::source_towards(peer).ok());
    let connection = Arc::new(Connection {
        peer,
        ip: ip.unwrap_or_else(|| unspecified(peer)),
        port: AtomicU16::new(0),
        state: AtomicI32::new(CONNECTING),
        management: AtomicU64::new(0),
        number,
    });
    let told = Arc::clone(&connection);
    let done = move |result: Result<u64, Failed>| {
        told.has_gone(result.map_err(|failed| failed.error));
    };
    pool.begin_host(number, &[dialled], host, &options, done)?;
    // The pair's own port tells connections apart, as one of their own would.
    let port = bound.map(|addr| addr.port()).filter(|port| *port != 0);
    let port = port.or_else(|| posix::local_addr(number).map(|addr| addr.port()));
    connection.port.store(port.unwrap_or(0), Ordering::Relaxed);
    enter(number, &connection);
    if let Some((set, event)) = early::registration(number) {
        // The number's old file has taken it along.
        watch(set, number, event);
    }
    Ok(connection)
}

fn unspecified(peer: SocketAddr) -> IpAddr {
    if peer.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

fn enter(number: c_int, connection: &Arc<Connection>) {
    let Some(cookie) = host::cookie(number) else { return };
    let pools = with(|books| {
        books.connections.insert(cookie, Arc::clone(connection));
        let is_full = books.connections.len() >= books.look_at.max(LOOK_AT_LEAST);
        is_full.then(|| books.pools.iter().map(|(_, pool)| pool.clone()).collect::<Vec<_>>())
    });
    USED.store(true, Ordering::Release);
    if let Some(pools) = pools {
        sweep(&pools);
    }
}

/// Forgets the connections that are over: those that are neither where they were made nor in a
/// pool's table. As seldom as their number doubles.
fn sweep(pools: &[Pool]) {
    let known: BTreeSet<u64> = pools
        .iter()
        .flat_map(|pool| pool.table().into_iter().map(|row| row.row.management))
        .collect();
    with(|books| {
        books.connections.retain(|cookie, connection| {
            host::cookie(connection.number) == Some(*cookie)
                || connection.state() == State::Connecting
                || connection.state() == State::Stands
                    && known.contains(&connection.management.load(Ordering::Relaxed))
        });
        books.look_at = 2 * books.connections.len();
    });
}

fn pool(rule: &Rule, config: &Config) -> io::Result<Pool> {
    // Whom it is for makes no other pool.
    let how = Rule { host: Host::Any, addresses: Vec::new(), ports: None, ..rule.clone() };
    with(|books| {
        if let Some((_, pool)) = books.pools.iter().find(|(known, _)| *known == how) {
            return Ok(pool.clone());
        }
        let pool = Pool::new(PoolConfig { session: config.clone(), ..PoolConfig::default() })?;
        books.pools.push((how, pool.clone()));
        Ok(pool)
    })
}

/// SO_BINDTODEVICE, if it is set.
fn device(number: c_int) -> Option<String> {
    let mut name = [0u8; libc::IFNAMSIZ];
    let mut len = name.len() as libc::socklen_t;
    // SAFETY: `name` is writable for `len` bytes.
    let result = unsafe {
        let at = name.as_mut_ptr().cast();
        libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, at, &raw mut len)
    };
    let name = CStr::from_bytes_until_nul(&name).ok()?.to_str().ok()?;
    (result == 0 && !name.is_empty()).then(|| name.to_owned())
}

/// Puts the number into an epoll set again.
fn watch(set: c_int, number: c_int, event: libc::epoll_event) {
    // SAFETY: neither is -1; one that is closed makes the call fail.
    let (set, number) = unsafe { (BorrowedFd::borrow_raw(set), BorrowedFd::borrow_raw(number)) };
    let data = epoll::EventData::new_u64(event.u64);
    let events = epoll::EventFlags::from_bits_retain(event.events);
    match epoll::add(set, number, data, events) {
        // The set is gone, or a relative of the number's old file has kept the entry.
        Ok(()) | Err(rustix::io::Errno::BADF | rustix::io::Errno::EXIST) => {}
        Err(error) => {
            let error = io::Error::from(error);
            log::warn!("a socket is not in its epoll set any more, put it there again: {error}");
        }
    }
}

/// At a normal exit what was written is sent first; the engine, whose own end comes behind, sees to
/// what is on the way.
fn at_exit() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::SeqCst) {
        // SAFETY: a function of ours that stays for the life of the program.
        let _full = unsafe { libc::atexit(end) };
    }
}

extern "C" fn end() {
    if edge::is_guest() {
        return;
    }
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let pools = with(|books| std::mem::take(&mut books.pools));
        for (_, pool) in &pools {
            // In a child nothing: the connections are the parent's.
            pool.end();
        }
    }));
    if ended.is_err() {
        log::error!("the end of shared connections has failed: what was written last may be lost");
    }
}
