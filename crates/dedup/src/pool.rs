//! Connections that share a session wherever they go to the same server.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crossbeam_channel::bounded;
use eversock_engine::host::Kept;
use eversock_engine::{
    Config, KnownServers, KnowsServers, Mode, PublicKey, RecoveryPolicy, Sealing, host, posix,
};

use crate::config::{ConnectOptions, PoolConfig};
use crate::hub::client::{Books, Client, Command, Connect, Failed, How, Shown, Tell, look};
use crate::hub::{Line, is_hub};
use crate::key::KeyParts;
use crate::preface::{Preface, Service};
use crate::score;
use crate::state::{Metrics, Row, Want};

/// A pool of sessions, each to one server, whatever addresses it is called by.
///
/// [`Self::connect`] gives ordinary TCP streams: any system call and any event loop works on them.
/// The session under them is resumed when its connection dies, on another address of its server if
/// need be, and they notice nothing but a pause.
///
/// *Threads*: one of its own, from the first connect on; any number may use the pool. Clones are
/// the same pool. *Processes*: a child that was forked has a pool without sessions; what it has
/// inherited of connections is the parent's to carry. When the last clone is dropped, what was
/// written is sent (at most 2 s of waiting) and all connections end.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: PoolConfig,
    trust: Trust,
    /// None before the first connect.
    running: Mutex<Option<Running>>,
}

#[derive(Clone, Debug)]
struct Running {
    /// The process that it runs in: a child's copy is none.
    process: u32,
    line: Line<Command>,
    books: Books,
}

/// How the pool's sessions are made.
#[derive(Debug)]
struct Trust {
    config: Arc<Config>,
    keyless: Option<Arc<Config>>,
    /// The policy that was configured, and not our own.
    known: Option<KnownServers>,
}

/// A connection of a pool.
#[derive(Debug)]
pub struct PooledStream {
    stream: TcpStream,
    management: u64,
}

impl PooledStream {
    /// The number under which the pool's table has it.
    pub fn management(&self) -> u64 {
        self.management
    }

    /// The connection alone. `peer_addr` and `local_addr` of it are those of the pair that joins
    /// it to the pool; the table has the server's.
    pub fn into_tcp(self) -> TcpStream {
        self.stream
    }
}

impl std::ops::Deref for PooledStream {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

/// A connection as the pool's table shows it: the figures 5, 17 and 25 of EP 2107762.
#[derive(Clone, Debug)]
pub struct TableRow {
    /// What the pool's books say.
    pub row: Row,
    /// What the line of its session is like.
    pub line: score::Line,
    /// The session's id, as `evs ls` shows it; all zero while there is none.
    pub session: [u8; 16],
    /// The number of the session's connection.
    pub epoch: u64,
}

static TICKETS: AtomicU64 = AtomicU64::new(1);

impl Pool {
    /// A pool without sessions; no thread and no descriptor before the first connect.
    ///
    /// # Errors
    /// EINVAL for a configuration beyond its limits.
    pub fn new(config: PoolConfig) -> io::Result<Self> {
        config.check()?;
        let trust = Trust::of(&config.session);
        Ok(Self(Arc::new(Inner { config, trust, running: Mutex::new(None) })))
    }

    /// Connects, or shares a session that there is. The addresses are taken to be one host's.
    ///
    /// # Errors
    /// Those of connect(2); EAGAIN when the pool has as many sessions as it may, EACCES when keys
    /// differ.
    pub fn connect(&self, addr: impl ToSocketAddrs) -> io::Result<TcpStream> {
        let addrs: Vec<SocketAddr> = addr.to_socket_addrs()?.collect();
        let requested = addrs.first().map(ToString::to_string).unwrap_or_default();
        let options = ConnectOptions::default();
        Ok(self.connect_any(&addrs, None, requested, &options)?.into_tcp())
    }

    /// The same by name, which is looked up again when the session is redialled, and with options.
    ///
    /// # Errors
    /// As [`Self::connect`]; ENOENT-like errors of the resolver; EINVAL for options beyond their
    /// limits.
    pub fn connect_host(
        &self,
        host: &str,
        port: u16,
        options: &ConnectOptions,
    ) -> io::Result<PooledStream> {
        let addrs: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
        let named = Some((host.to_owned(), port));
        self.connect_any(&addrs, named, format!("{host}:{port}"), options)
    }

    /// The same by address, with options.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_with(
        &self,
        addr: impl ToSocketAddrs,
        options: &ConnectOptions,
    ) -> io::Result<PooledStream> {
        let addrs: Vec<SocketAddr> = addr.to_socket_addrs()?.collect();
        let requested = addrs.first().map(ToString::to_string).unwrap_or_default();
        self.connect_any(&addrs, None, requested, options)
    }

    fn connect_any(
        &self,
        addrs: &[SocketAddr],
        host: Option<(String, u16)>,
        requested: String,
        options: &ConnectOptions,
    ) -> io::Result<PooledStream> {
        if is_hub() {
            // It would wait for itself.
            return Err(io::Error::from_raw_os_error(libc::EDEADLK));
        }
        let plan = self.plan(addrs, host, requested, options)?;
        let (near, far) = host::pair()?;
        let (sender, receiver) = bounded(1);
        let tell = Tell::new(move |result| {
            let _gone = sender.send(result.map_err(|failed| failed.error));
        });
        let ends = Ends { far, filled: None, tell };
        let ticket = self.ask(plan, ends)?;
        let timeout = options
            .timeout
            .unwrap_or_else(|| self.0.config.session.connect_timeout.saturating_add(GRACE));
        let result = receiver.recv_timeout(timeout).unwrap_or_else(|_| {
            self.forsake(ticket);
            Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
        });
        Ok(PooledStream { management: result?, stream: TcpStream::from(near) })
    }

    /// Begins to connect the program's own number, a fresh TCP socket, and returns at once: it is
    /// writable when the connection stands, as with connect(2) on a non-blocking socket. `done`
    /// hears the errno if there is one, on the pool's thread, which it must not keep waiting (what
    /// would wait for that thread gives EDEADLK there).
    ///
    /// # Errors
    /// As [`Self::connect`], as far as they are known at once.
    pub fn begin(
        &self,
        number: RawFd,
        addrs: &[SocketAddr],
        options: &ConnectOptions,
        done: impl FnOnce(io::Result<u64>) + Send + 'static,
    ) -> io::Result<()> {
        let done = |result: Result<u64, Failed>| done(result.map_err(|failed| failed.error));
        self.begin_host(number, addrs, None, options, done)
    }

    /// The same for a host, whose name (where there is one) is looked up again when the session is
    /// redialled, and by which its static key is known. `done` hears in words, too, why there is no
    /// connection.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn begin_host(
        &self,
        number: RawFd,
        addrs: &[SocketAddr],
        host: Option<(String, u16)>,
        options: &ConnectOptions,
        done: impl FnOnce(Result<u64, Failed>) + Send + 'static,
    ) -> io::Result<()> {
        let requested = match &host {
            Some((host, port)) => format!("{host}:{port}"),
            None => addrs.first().map(ToString::to_string).unwrap_or_default(),
        };
        // All that can be wrong with it is, before the program's socket is gone.
        let plan = self.plan(addrs, host, requested, options)?;
        self.running()?;
        let (near, far, junk) = host::connecting_pair()?;
        let copy = Kept::new(near.try_clone()?)?;
        host::replace(near, number)?;
        let ends = Ends { far, filled: Some((junk, copy)), tell: Tell::new(done) };
        self.ask(plan, ends).map(drop)
    }

    fn plan(
        &self,
        addrs: &[SocketAddr],
        host: Option<(String, u16)>,
        requested: String,
        options: &ConnectOptions,
    ) -> io::Result<Plan> {
        let Some(first) = addrs.first() else {
            return Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
        };
        let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let service = Service::new(&options.service).map_err(bad)?;
        let name = host.as_ref().map_or_else(|| first.ip().to_string(), |(name, _)| name.clone());
        let parts = self.0.trust.parts(&name, first.port(), options)?;
        let want = Want {
            key: parts.pre_key(),
            addrs: distinct(addrs),
            application: options.application.clone(),
            requested,
        };
        let how = How {
            config: Arc::clone(&self.0.trust.config),
            keyless: self.0.trust.keyless.clone(),
            host,
            device: options.device.clone(),
            source: options.source,
            pin: parts.server_key,
        };
        let preface = Preface { service, requested: Some(*first) };
        Ok(Plan { want, how, preface })
    }

    fn ask(&self, Plan { want, how, preface }: Plan, ends: Ends) -> io::Result<u64> {
        let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
        let Ends { far, filled, tell } = ends;
        let connect = Connect { ticket, want, how, preface, far, filled, tell };
        let running = self.running()?;
        if !running.line.tell(Command::Connect(Box::new(connect))) {
            // Its thread has ended: the next connect starts another.
            let mut known = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
            if known.as_ref().is_some_and(|known| Arc::ptr_eq(&known.books, &running.books)) {
                *known = None;
            }
            return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
        }
        Ok(ticket)
    }

    fn forsake(&self, ticket: u64) {
        if let Ok(running) = self.running() {
            running.line.tell(Command::Forsake { ticket });
        }
    }

    fn running(&self) -> io::Result<Running> {
        // The engine's hooks around fork first: with them no child inherits the lock held.
        posix::instance()?;
        let _whole = host::whole();
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if let Some(running) = running.as_ref().filter(|running| running.process == process) {
            return Ok(running.clone());
        }
        // What a child has inherited is the parent's: neither its thread nor its sessions are here.
        let (line, books) = Client::start(self.0.config.clone())?;
        let started = Running { process, line, books };
        if let Some(inherited) = running.replace(started.clone()) {
            forsake_inherited(inherited);
        }
        register(&started.books);
        Ok(started)
    }

    fn running_if_any(&self) -> Option<Running> {
        let _whole = host::whole();
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.clone().filter(|running| running.process == std::process::id())
    }

    /// Sends what was written and ends all connections, as when the last clone is dropped: at most
    /// 2 s of waiting. The next connect begins anew. For the end of a process; one that was forked
    /// does nothing to its parent's.
    pub fn end(&self) {
        let whole = host::whole();
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let is_own = running.as_ref().is_some_and(|found| found.process == std::process::id());
        let ours = if is_own { running.take() } else { None };
        drop(running);
        drop(whole);
        if let Some(running) = ours {
            stop(&running);
        }
    }

    /// All connections, with their sessions and lines.
    pub fn table(&self) -> Vec<TableRow> {
        self.running_if_any().map_or_else(Vec::new, |running| table(&running.books))
    }

    /// What has happened.
    pub fn metrics(&self) -> Metrics {
        let running = self.running_if_any();
        running
            .map_or_else(Metrics::default, |running| look(&running.books).state.metrics().clone())
    }

    /// Sessions that there are, those without connections included.
    pub fn sessions(&self) -> usize {
        self.running_if_any().map_or(0, |running| look(&running.books).state.sessions().len())
    }

    /// Moves the session of a connection of the table to this address of its server, beside the
    /// connection that stands. Does not wait for it.
    ///
    /// # Errors
    /// ENOENT for a number that the table does not have, EALREADY while a dial is under way.
    pub fn migrate(&self, management: u64, addr: SocketAddr) -> io::Result<()> {
        let none = || io::Error::from_raw_os_error(libc::ENOENT);
        if is_hub() {
            return Err(io::Error::from_raw_os_error(libc::EDEADLK));
        }
        let running = self.running_if_any().ok_or_else(none)?;
        let (tell, told) = bounded(1);
        running.line.tell(Command::Migrate { management, addr, tell });
        told.recv().map_err(|_| none())?
    }

    /// How many further addresses the session of a connection may have, by the names of its server.
    pub fn hinted(&self, management: u64) -> usize {
        let Some(running) = self.running_if_any() else { return 0 };
        let shown = look(&running.books);
        let session = shown.state.session_of(management);
        session.and_then(|session| shown.hints.get(&session)).copied().unwrap_or(0)
    }

    /// Forgets which addresses belong to which server: the network is another one.
    pub fn network_changed(&self) {
        if let Some(running) = self.running_if_any() {
            running.line.tell(Command::Forget);
        }
    }
}

/// What is waited for beyond the session's own time to connect.
const GRACE: Duration = Duration::from_secs(1);

struct Plan {
    want: Want,
    how: How,
    preface: Preface,
}

struct Ends {
    far: Kept,
    filled: Option<(usize, Kept)>,
    tell: Tell,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        match running {
            Some(running) if running.process == std::process::id() => stop(&running),
            Some(inherited) => forsake_inherited(inherited),
            None => {}
        }
    }
}

fn stop(running: &Running) {
    let (tell, told) = bounded(1);
    // In a callback on such a thread nobody waits: it may be the one that is to end.
    if running.line.tell(Command::Stop { tell }) && !is_hub() {
        // It bounds its own end; if it is gone, so is the other end of this.
        let _gone = told.recv();
    }
}

/// What a child has of its parent's threads: nothing is said over it, and it is not even dropped,
/// as a channel's end is taken down under a lock that some thread of the parent's may have had.
fn forsake_inherited(running: Running) {
    let _stays = std::mem::ManuallyDrop::new(running);
}

fn distinct(addrs: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for addr in addrs {
        if !all.contains(addr) && all.len() < ADDRS_MAX {
            all.push(*addr);
        }
    }
    all
}

/// Addresses of one request.
const ADDRS_MAX: usize = 16;

fn table(books: &Books) -> Vec<TableRow> {
    let shown = look(books);
    let rows = shown.state.rows().into_iter().map(|row| {
        let of = |session: u64| shown.links.get(&session).copied();
        let (session, epoch) = row.session.and_then(of).unwrap_or_default();
        let line = row.session.and_then(|session| shown.lines.get(&session)).copied();
        TableRow { row, line: line.unwrap_or_default(), session, epoch }
    });
    rows.collect()
}

/// The pools of this process, for `evs dedup`.
static POOLS: Mutex<Vec<(u32, Weak<Mutex<Shown>>)>> = Mutex::new(Vec::new());

fn register(books: &Books) {
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    pools.retain(|(_, pool)| pool.strong_count() > 0);
    pools.push((std::process::id(), Arc::downgrade(books)));
    host::control_table("dedup", || {
        let _whole = host::whole();
        let pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        // A parent's are not ours to look at, and its thread may have had their lock.
        let process = std::process::id();
        let ours = pools.iter().filter(|(of, _)| *of == process);
        let books: Vec<Books> = ours.filter_map(|(_, pool)| pool.upgrade()).collect();
        drop(pools);
        crate::table::json(books.iter().map(|books| {
            let metrics = look(books).state.metrics().clone();
            (table(books), metrics)
        }))
    });
}

// -------------------------------------------------------------------------------------------------
// Trust

/// Believes every server that has a key: what it proves is that it is the same as before.
struct AnyServer;

impl KnowsServers for AnyServer {
    fn key_of(&self, _: &str, _: u16) -> Result<Option<PublicKey>, String> {
        Ok(None)
    }

    fn first_seen(&self, _: &str, _: u16, _: PublicKey) -> Result<(), String> {
        Ok(())
    }
}

impl Trust {
    fn of(session: &Config) -> Self {
        let base = Config { mode: Mode::Direct, share: true, private: true, ..session.clone() };
        let has_trust =
            base.key.is_some() || base.server_key.is_some() || base.known_servers.is_some();
        let known = base.known_servers.clone();
        if has_trust {
            return Self { config: base.share(), keyless: None, known };
        }
        let any = Some(KnownServers(Arc::new(AnyServer)));
        let keyless = Some(base.clone().share());
        Self { config: Config { known_servers: any, ..base }.share(), keyless, known: None }
    }

    /// What connections must have in common.
    fn parts(&self, host: &str, port: u16, options: &ConnectOptions) -> io::Result<KeyParts> {
        let Config { key, identity, server_key, sealing, policy, .. } = &*self.config;
        let (mut pinned, mut known) = (server_key.map(|key| key.0), 0);
        if let Some(policy) = &self.known {
            // Which key the server has to have depends on its name: names that are known by
            // different keys, or not yet, never share.
            known = Arc::as_ptr(&policy.0).cast::<()>().addr() as u64;
            if pinned.is_none() {
                let denied = |cause| io::Error::new(io::ErrorKind::PermissionDenied, cause);
                pinned = policy.0.key_of(host, port).map_err(denied)?.map(|key| key.0);
            }
        }
        let not_known = self.known.is_some() && pinned.is_none();
        let name = if not_known { host } else { "" };
        Ok(KeyParts {
            service: options.service.clone(),
            port,
            identity: identity.as_ref().map(|key| key.public().0),
            psk_hash: key.as_ref().map(|key| crate::key::hash(&key.0)),
            server_key: pinned,
            known_servers: known,
            sealing: match sealing {
                Sealing::Never => 0,
                Sealing::Always => 1,
                _ => 2,
            },
            device: options.device.clone(),
            source: options.source,
            namespace: namespace(),
            mux_version: MUX_VERSION,
            recovery: match policy {
                RecoveryPolicy::Automatic => 0,
                RecoveryPolicy::Ask(_) => 1,
                RecoveryPolicy::AskOutside => 2,
                RecoveryPolicy::Never => 3,
            },
            // With its length, so that no byte passes from the one to the other.
            isolation: format!("{}:{}{name}", options.tag.len(), options.tag),
            user: rustix::process::geteuid().as_raw(),
        })
    }
}

const MUX_VERSION: u16 = 1;

/// The inode of this thread's network namespace; 0 where /proc is not there.
fn namespace() -> u64 {
    rustix::fs::stat("/proc/thread-self/ns/net").map_or(0, |stat| stat.st_ino)
}

impl AsRawFd for PooledStream {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
