//! A listener whose clients carry their connections over one session each.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, bounded};
use eversock_engine::host::Kept;
use eversock_engine::udp::Udp;
use eversock_engine::{Config, Mode, PublicKey, StaticKey, posix};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::config::SharedConfig;
use crate::hub::server::{Command, Parts, Server};
use crate::hub::{Line, is_hub, ring};
use crate::ident::{Answerer, Card};
use crate::key::ServerId;
use crate::preface::Service;

/// A listener on any number of addresses, whose clients are told that they are one server's.
///
/// A [`crate::Pool`] carries all of its connections to it over one session. A program that uses
/// eversock without a pool has a session of its own for each, which are accepted here as well if it
/// asks for the static key of this server or knows it; under a pre-shared key it need not.
///
/// *Threads*: one of its own; any number may accept. When it is dropped, what was written is sent
/// (at most 2 s of waiting) and all connections end, as they do with the process.
#[derive(Debug)]
pub struct SharedListener {
    line: Line<Command>,
    accepted: Receiver<(Kept, Accepted)>,
    ready: Arc<Kept>,
    local: Vec<SocketAddr>,
    key: Option<PublicKey>,
    server: Option<ServerId>,
    carried: Arc<AtomicU64>,
    process: u32,
}

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Where the client's end of the session was at first.
    pub peer: SocketAddr,
    /// The address that the client has asked for, whichever its session goes over.
    pub requested: Option<SocketAddr>,
    /// The service that it has asked for.
    pub service: String,
    /// The static key that the client has proven to have.
    pub client_key: Option<PublicKey>,
    /// The session's id, as `evs ls` shows it.
    pub session: [u8; 16],
    /// The client may have more connections over this session.
    pub is_shared: bool,
}

/// Sessions that may wait to be taken.
const BACKLOG: i32 = 1024;

impl SharedListener {
    /// Listens with the default [`SharedConfig`] on all of these addresses.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn bind(addrs: impl ToSocketAddrs) -> io::Result<Self> {
        let addrs: Vec<SocketAddr> = addrs.to_socket_addrs()?.collect();
        Self::bind_with(&addrs, SharedConfig::default())
    }

    /// Listens on all of these addresses. With port 0, all get the port that the first one gets.
    ///
    /// # Errors
    /// Those of bind(2); EINVAL for more than 16 addresses or a configuration beyond its limits.
    pub fn bind_with(addrs: &[SocketAddr], config: SharedConfig) -> io::Result<Self> {
        config.check()?;
        if addrs.is_empty() || addrs.len() > crate::ident::ADDRESSES_MAX {
            let what = "a shared listener has 1 to 16 addresses";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let session = session_config(&config.session)?;
        let key = session.identity.as_ref().map(StaticKey::public);
        let server = key.map(|key| ServerId::of_key(&key.0));
        let mut open = Open(Vec::new());
        let mut local: Vec<SocketAddr> = Vec::new();
        // Bound first and listening later, so that whoever finds one finds all.
        for addr in addrs {
            let mut addr = *addr;
            if let (0, Some(first)) = (addr.port(), local.first()) {
                addr.set_port(first.port());
            }
            local.push(open.bind(addr)?);
        }
        let told: Vec<SocketAddr> =
            local.iter().filter(|addr| !addr.ip().is_unspecified()).copied().collect();
        let session = Config { own_addrs: told.clone(), ..session }.share();
        open.listen(&local, &session)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        let ready = Arc::new(Kept::new(eventfd(0, flags)?)?);
        let (sender, accepted) = bounded(config.backlog);
        let (answerer, udp) = answering(&config, server, &local, told)?;
        let carried = Arc::new(AtomicU64::new(0));
        let parts = Parts {
            listeners: std::mem::take(&mut open.0),
            udp,
            answerer,
            services: config.services,
            streams_max: config.streams_max,
            idle: u64::try_from(config.idle.as_micros()).unwrap_or(u64::MAX),
            accepted: sender,
            ready: Arc::clone(&ready),
            carried: Arc::clone(&carried),
        };
        let line = {
            let _whole = eversock_engine::host::whole();
            Server::start(parts)?
        };
        let process = std::process::id();
        Ok(Self { line, accepted, ready, local, key, server, carried, process })
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// ESHUTDOWN when the listener's thread has ended.
    pub fn accept(&self) -> io::Result<(TcpStream, Accepted)> {
        loop {
            match self.try_accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            let mut ready = [PollFd::new(&self.ready, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// `WouldBlock` (EAGAIN) when there is none, ESHUTDOWN when the listener's thread has ended.
    pub fn try_accept(&self) -> io::Result<(TcpStream, Accepted)> {
        // One ring is one connection, which is there when it rings. Who takes the connection
        // without would leave the ring, and the descriptor readable for nothing.
        self.check()?;
        let mut one = [0; 8];
        rustix::io::read(&*self.ready, &mut one)?;
        match self.accepted.recv() {
            Ok((near, about)) => Ok((TcpStream::from(near.release()?), about)),
            Err(_) => {
                // For whoever else waits.
                ring(&*self.ready);
                Err(io::Error::from_raw_os_error(libc::ESHUTDOWN))
            }
        }
    }

    /// It is the process's that has made it: a child's copy says ESHUTDOWN.
    fn check(&self) -> io::Result<()> {
        match self.process == std::process::id() {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::ESHUTDOWN)),
        }
    }

    /// Where it listens.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local
    }

    /// By which clients know it; none under a pre-shared key, where it is its process.
    pub fn server_id(&self) -> Option<ServerId> {
        self.server
    }

    /// The static key by which clients know it, to be pinned or listed by those that want this very
    /// server; none under a pre-shared key.
    pub fn server_key(&self) -> Option<PublicKey> {
        self.key
    }

    /// Tells all clients, now and at their next connect, at which addresses this server can be
    /// reached, in place of those that they were told before. Addresses that it does not listen on
    /// itself (those of a NAT, say) may be among them.
    ///
    /// # Errors
    /// EINVAL for more than 16 addresses; ESHUTDOWN in a child, EDEADLK in a callback of a pool.
    pub fn announce(&self, addrs: &[SocketAddr]) -> io::Result<()> {
        let over = || io::Error::from_raw_os_error(libc::ESHUTDOWN);
        self.check()?;
        if is_hub() {
            return Err(io::Error::from_raw_os_error(libc::EDEADLK));
        }
        let (tell, told) = bounded(1);
        if !self.line.tell(Command::Announce { addrs: addrs.to_vec(), tell }) {
            return Err(over());
        }
        told.recv().map_err(|_| over())?
    }

    /// No more connections on the sessions that there are: clients open others for new ones, and
    /// each session ends with its last connection. `code` is for their logs.
    pub fn go_away(&self, code: u32) {
        if self.check().is_ok() {
            self.line.tell(Command::GoAway { code });
        }
    }

    /// Listens no more: who comes finds nobody, and the sessions that there are take no more
    /// connections. Those that stand go on, and are resumed when they lose theirs; what waits to be
    /// accepted can be. `code` is for the clients' logs.
    pub fn close(&self, code: u32) {
        let (tell, told) = bounded(1);
        if self.check().is_ok() && self.line.tell(Command::Close { code, tell }) && !is_hub() {
            let _gone = told.recv();
        }
    }

    /// Sessions that have carried a connection so far.
    pub fn sessions_carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Connections for this service are elsewhere (or here again): clients try once more on a
    /// session of its own.
    pub fn misdirect(&self, service: &str, on: bool) {
        if self.check().is_ok() {
            self.line.tell(Command::Misdirect { service: service.to_owned(), on });
        }
    }
}

impl AsFd for SharedListener {
    /// Readable when there is something to accept.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Drop for SharedListener {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        let (tell, told) = bounded(1);
        // In a callback on a thread that carries, nobody waits for one.
        if self.line.tell(Command::Stop { tell }) && !is_hub() {
            let _gone = told.recv();
        }
    }
}

fn session_config(session: &Config) -> io::Result<Config> {
    let mut config = Config { mode: Mode::Direct, share: true, private: true, ..session.clone() };
    if config.key.is_none() && config.identity.is_none() {
        let mut seed = [0; 32];
        random(&mut seed)?;
        config.identity = Some(StaticKey::from_bytes(seed));
    }
    Ok(config)
}

fn random(bytes: &mut [u8]) -> io::Result<()> {
    use ring::rand::SecureRandom;
    let none = |_| io::Error::other("the system gives no random bytes");
    ring::rand::SystemRandom::new().fill(bytes).map_err(none)
}

/// Virtual sockets that are closed again if the listener comes to nothing.
struct Open(Vec<RawFd>);

impl Open {
    fn bind(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let domain = if addr.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        let number = posix::socket(domain, kind, 0, Arc::new(Config::default()))?;
        self.0.push(number);
        let on = 1i32.to_ne_bytes();
        posix::setsockopt(number, libc::SOL_SOCKET, libc::SO_REUSEADDR, &on)?;
        if addr.is_ipv6() {
            // Beside the same port of IPv4.
            posix::setsockopt(number, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &on)?;
        }
        posix::bind(number, addr)?;
        posix::getsockname(number)?.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn listen(&mut self, local: &[SocketAddr], config: &Arc<Config>) -> io::Result<()> {
        // The configuration is a socket's from the beginning, and names all addresses: only now
        // are they known.
        for number in std::mem::take(&mut self.0) {
            posix::close(number)?;
        }
        for addr in local {
            let domain = if addr.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
            let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
            let number = posix::socket(domain, kind, 0, Arc::clone(config))?;
            self.0.push(number);
            let on = 1i32.to_ne_bytes();
            posix::setsockopt(number, libc::SOL_SOCKET, libc::SO_REUSEADDR, &on)?;
            if addr.is_ipv6() {
                posix::setsockopt(number, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &on)?;
            }
            posix::bind(number, *addr)?;
            posix::listen(number, BACKLOG)?;
        }
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        for number in &self.0 {
            let _closed = posix::close(*number);
        }
    }
}

type Answering = (Option<Answerer>, Vec<(Udp, SocketAddr)>);

fn answering(
    config: &SharedConfig,
    server: Option<ServerId>,
    local: &[SocketAddr],
    told: Vec<SocketAddr>,
) -> io::Result<Answering> {
    if !config.answer {
        return Ok((None, Vec::new()));
    }
    let mut udp = Vec::new();
    for addr in local {
        match Udp::bind(*addr) {
            Ok(socket) => udp.push((socket, *addr)),
            // Another service's; clients dial and merge then.
            Err(error) => log::info!("queries at {addr} are not answered: {error}"),
        }
    }
    let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let services = config.services.iter().map(|name| Service::new(name).map_err(bad));
    let services: io::Result<Vec<Service>> = services.collect();
    let boot = posix::instance()?;
    let server = server.unwrap_or_else(|| ServerId::of_process(boot));
    let card = Card { server, boot, shares: true, services: services? };
    let mut secret = [0; 32];
    random(&mut secret)?;
    let mut answerer = Answerer::new(&secret, card);
    let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    answerer.set_addresses(told, 1).map_err(bad)?;
    Ok((Some(answerer), udp))
}
