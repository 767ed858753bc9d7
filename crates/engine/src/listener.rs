//! A virtual listener: the real listening socket is the engine's, the program's number is one end
//! of a SEQPACKET pair through which proven sessions come (DESIGN 5).

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use core::net::SocketAddr;
use eversock_proto::control::Role;
use eversock_proto::identity::PublicKey;
use eversock_proto::open::Opened;
use eversock_proto::seal::{Cipher, EpochKeys};
use eversock_proto::secret::{KEY_BYTES, Secret, SessionId};
use eversock_proto::wire::hello::{decode_addrs, encode_addrs};

use crate::config::{Config, Mode};
use crate::error::{errno, fail, guarded, would_block};
use crate::options::read_timeval;
use crate::process::ServerWord;
use crate::reactor::{self, Command};
use crate::socket::{Socket, bits};
use crate::sys::{self, Fd, fd, tcp};
use crate::table::{self, Entry};

/// One listener of this process.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) id: u64,
    /// The process that accepts.
    instance: u64,
    /// Device and inode of the program's end.
    identity: (u64, u64),
    pub(crate) config: Arc<Config>,
    pub(crate) real: Fd,
    pub(crate) engine_end: Fd,
    /// Proves that a message on the pair is the engine's; children inherit it.
    pub(crate) token: [u8; 16],
    backlog: AtomicUsize,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) numbers: Mutex<Vec<RawFd>>,
    /// Time-outs of the program's calls; what is accepted has them too, as on Linux.
    recv_timeout_us: AtomicU64,
    send_timeout_us: AtomicU64,
    /// Which process accepts and shakes hands.
    pub(crate) server: ServerWord,
    /// The process whose engine already knows that it may have to take the server's place.
    heir: AtomicU64,
}

/// The epoch of a birth that is none: a plain connection.
pub(crate) const PLAIN: u64 = 0;

/// The taker of a session that could not be taken after all.
pub(crate) const NOBODY: u64 = 0;
/// Said in the taker's place when its session has ended; no process has this number, as those of
/// processes are odd.
pub(crate) const ENDED: u64 = 2;

/// A proven session on its way to the program.
#[derive(Clone, Debug)]
pub(crate) struct Birth {
    pub(crate) token: [u8; 16],
    pub(crate) id: SessionId,
    pub(crate) secret: Secret,
    /// Of a sealed session: what its first epoch's keys grow from. Whoever takes it begins the
    /// epoch.
    pub(crate) keys: Option<Seed>,
    pub(crate) window: u64,
    /// The static key that the client has proven to have.
    pub(crate) peer_key: Option<PublicKey>,
    /// Both ends would carry several logical connections over the session.
    pub(crate) shares: bool,
    /// The connection's number within the session; 1 unless the first died unconfirmed. [`PLAIN`]
    /// if the peer does not speak eversock: then there is no session, and the id only names it.
    pub(crate) epoch: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// The keys of an epoch on their way to the process that begins it.
#[derive(Clone, Debug)]
pub(crate) struct Seed {
    cipher: Cipher,
    root: Secret,
}

impl From<EpochKeys> for Seed {
    fn from(keys: EpochKeys) -> Self {
        let (cipher, root) = keys.into_parts();
        Self { cipher, root: Secret::from_bytes(root) }
    }
}

impl Seed {
    fn grow(&self) -> EpochKeys {
        EpochKeys::from_parts(self.cipher, *self.root.expose())
    }
}

/// In the cipher's place when the session is clear.
const CLEAR: u8 = 0;

/// What is true of a session on its way, in one byte.
const NAMED: u8 = 1;
const SHARES: u8 = 2;

const BIRTH_BYTES_MAX: usize = 16 + 16 + 3 * KEY_BYTES + 2 + 8 + 8 + 2 * 19;

impl Birth {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BIRTH_BYTES_MAX);
        out.extend_from_slice(&self.token);
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(self.secret.expose());
        match &self.keys {
            Some(Seed { cipher, root }) => {
                out.push(*cipher as u8);
                out.extend_from_slice(root.expose());
            }
            None => out.extend_from_slice(&[CLEAR; 1 + KEY_BYTES]),
        }
        let named = if self.peer_key.is_some() { NAMED } else { 0 };
        out.push(named | if self.shares { SHARES } else { 0 });
        out.extend_from_slice(&self.peer_key.map_or([0; KEY_BYTES], |key| key.0));
        out.extend_from_slice(&self.window.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&encode_addrs(&[self.peer, self.local]));
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (token, rest) = bytes.split_first_chunk::<16>()?;
        let (id, rest) = rest.split_first_chunk::<16>()?;
        let (secret, rest) = rest.split_first_chunk::<KEY_BYTES>()?;
        let (&cipher, rest) = rest.split_first()?;
        let (root, rest) = rest.split_first_chunk::<KEY_BYTES>()?;
        let keys = match cipher {
            CLEAR => None,
            code => {
                Some(Seed { cipher: Cipher::from_wire(code)?, root: Secret::from_bytes(*root) })
            }
        };
        let (&traits, rest) = rest.split_first()?;
        let (key, rest) = rest.split_first_chunk::<KEY_BYTES>()?;
        let (window, rest) = rest.split_first_chunk::<8>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let Ok([peer, local]) = <[SocketAddr; 2]>::try_from(decode_addrs(rest).ok()?) else {
            return None;
        };
        Some(Self {
            token: *token,
            id: SessionId(*id),
            secret: Secret::from_bytes(*secret),
            keys,
            peer_key: (traits & NAMED != 0).then_some(PublicKey(*key)),
            shares: traits & SHARES != 0,
            window: u64::from_le_bytes(*window),
            epoch: u64::from_le_bytes(*epoch),
            peer,
            local,
        })
    }
}

impl Listener {
    /// Turns a bound socket at `number` into a virtual listener.
    pub(crate) fn new(number: RawFd, backlog: i32, config: Arc<Config>) -> io::Result<Arc<Self>> {
        rustix::net::listen(sys::borrow(number), backlog)?;
        let engine = reactor::engine()?;
        let nonblocking = fd::is_nonblocking(number)?;
        let real = fd::dup_internal(number)?;
        // The flag belongs to the file, which the number still names.
        fd::set_nonblocking(real.as_raw_fd(), true)?;
        let (program_end, engine_end) = fd::unix_pair(rustix::net::SocketType::SEQPACKET)?;
        fd::set_nonblocking(program_end.as_raw_fd(), nonblocking)?;
        let cloexec = fd::is_cloexec(number)?;
        use std::os::fd::AsFd;
        fd::replace(program_end.as_fd(), number, cloexec)?;
        let listener = Arc::new(Self {
            id: engine.next_id(),
            instance: engine.instance,
            identity: fd::identity(number)?,
            config,
            local: tcp::local_addr(real.as_raw_fd()),
            real,
            engine_end,
            token: fd::random(),
            backlog: AtomicUsize::new(0),
            numbers: Mutex::new(vec![number]),
            recv_timeout_us: AtomicU64::new(0),
            send_timeout_us: AtomicU64::new(0),
            server: ServerWord::new(engine.instance),
            heir: AtomicU64::new(engine.instance),
        });
        listener.set_backlog(backlog);
        for name in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            // Set before listen: the real socket has it, and the program's end does not yet.
            let mut value = [0; 16];
            let real = listener.real.as_raw_fd();
            let n = tcp::get_option(real, libc::SOL_SOCKET, name, &mut value)?;
            listener.note_option(number, libc::SOL_SOCKET, name, &value[..n])?;
        }
        engine.command(Command::Listen { listener: Arc::clone(&listener) });
        Ok(listener)
    }

    /// Sessions that may wait for accept.
    pub(crate) fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    pub(crate) fn set_backlog(&self, backlog: i32) {
        self.backlog.store(usize::try_from(backlog).unwrap_or(0).min(4096), Ordering::Relaxed);
    }

    /// The program has set an option. A time-out of accept works at the program's end of the pair.
    pub(crate) fn note_option(
        &self,
        number: RawFd,
        level: i32,
        name: i32,
        value: &[u8],
    ) -> io::Result<()> {
        let timeout = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => &self.recv_timeout_us,
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => &self.send_timeout_us,
            _ => return Ok(()),
        };
        let micros = read_timeval(value).as_micros();
        timeout.store(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
        if name == libc::SO_RCVTIMEO { tcp::set_option(number, level, name, value) } else { Ok(()) }
    }

    /// Reads what a taker says: which session, and which process has it now.
    pub(crate) fn read_taken(&self, bytes: &[u8]) -> Option<(SessionId, u64)> {
        let (token, rest) = bytes.split_first_chunk::<16>()?;
        let (id, rest) = rest.split_first_chunk::<16>()?;
        let (taker, rest) = rest.split_first_chunk::<8>()?;
        (token == &self.token && rest.is_empty())
            .then_some((SessionId(*id), u64::from_le_bytes(*taker)))
    }

    /// This process waits at a listener that another one may serve: should that one die, somebody
    /// who waits takes its place.
    pub(crate) fn watch_server(self: &Arc<Self>) -> io::Result<()> {
        let heir = self.heir.load(Ordering::Relaxed);
        if reactor::engine_if_running().is_some_and(|engine| engine.instance == heir) {
            return Ok(());
        }
        let engine = reactor::engine()?;
        if self.heir.swap(engine.instance, Ordering::SeqCst) != engine.instance {
            engine.command(Command::Heir { listener: Arc::clone(self) });
        }
        Ok(())
    }

    /// accept4(2): blocks as the number does. Gives the new number and the peer.
    pub(crate) fn accept(
        self: &Arc<Self>,
        number: RawFd,
        flags: i32,
    ) -> io::Result<(RawFd, SocketAddr)> {
        if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return fail(libc::EINVAL);
        }
        self.watch_server()?;
        loop {
            let mut buf = [0; BIRTH_BYTES_MAX];
            let (n, passed) = match sys::pass::recv(number, &mut buf, true) {
                Err(error) if would_block(&error) => {
                    // As the number blocks; a cancellation point, which the look above is not.
                    sys::io::wait_readable(number)?;
                    continue;
                }
                other => other?,
            };
            if n == 0 {
                // The engine's end is gone, and with it the listener.
                return fail(libc::EINVAL);
            }
            let birth = Birth::decode(&buf[..n]).filter(|birth| birth.token == self.token);
            let Some(birth) = birth else { continue };
            let id = birth.id;
            // At the limit of open files the kernel drops the descriptor; the engine has another.
            let settled = match passed {
                Some(real) => guarded(|| self.settle(number, birth, real, flags)),
                None => fail(libc::EMFILE),
            };
            if settled.is_err() {
                self.answer_taken(number, id, NOBODY);
            }
            return settled;
        }
    }

    fn settle(
        self: &Arc<Self>,
        number: RawFd,
        birth: Birth,
        real: Fd,
        flags: i32,
    ) -> io::Result<(RawFd, SocketAddr)> {
        let engine = reactor::engine()?;
        let id = birth.id;
        let cloexec = flags & libc::SOCK_CLOEXEC != 0;
        let nonblocking = flags & libc::SOCK_NONBLOCK != 0;
        let new = real.as_raw_fd();
        if birth.epoch == PLAIN {
            set_flags(new, cloexec, nonblocking)?;
            self.answer_taken(number, id, engine.instance);
            return Ok((real.into_raw_fd(), birth.peer));
        }
        let is_pumped = self.config.mode == Mode::Pumped;
        let first = if is_pumped { bits::PUMPED } else { 0 };
        let socket =
            Arc::new(Socket::new(engine.next_id(), Arc::clone(&self.config), vec![new], first));
        socket.nonblocking.store(nonblocking, Ordering::Relaxed);
        let [receive, send] = [&self.recv_timeout_us, &self.send_timeout_us];
        socket.recv_timeout_us.store(receive.load(Ordering::Relaxed), Ordering::Relaxed);
        socket.send_timeout_us.store(send.load(Ordering::Relaxed), Ordering::Relaxed);
        {
            let mut meta = Socket::lock(&socket.meta)?;
            meta.peer = Some(birth.peer);
            meta.local = Some(birth.local);
            meta.born_of = Some(Arc::clone(self));
        }
        let opened = Opened {
            id,
            secret: birth.secret,
            window: birth.window,
            grace: std::time::Duration::ZERO,
            addrs: Vec::new(),
            peer: birth.peer_key,
            shares: birth.shares,
            cipher: birth.keys.as_ref().map(|seed| seed.cipher),
            keys: None,
        };
        reactor::furnish(&socket, Role::Server, opened)?;
        if let Some(control) = Socket::lock(&socket.meta)?.control.as_mut() {
            control.stands_at(birth.epoch);
        }
        let far = if is_pumped { Some(socket.go_between(new)?) } else { None };
        set_flags(new, cloexec, nonblocking)?;
        socket.owner.claim(engine.instance, true);
        let keys = birth.keys.map(|seed| seed.grow().split(Role::Server));
        socket.settle(new, birth.epoch, keys)?;
        if table::set(new, Entry::Stream(Arc::clone(&socket))).is_err() {
            return fail(libc::EMFILE);
        }
        let _kept = real.into_raw_fd();
        engine.enroll(&socket);
        engine.command(Command::Adopt { socket: Arc::clone(&socket) });
        if let Some(far) = far {
            engine.command(Command::Pump { socket, far, near: None, junk: 0 });
        }
        self.answer_taken(number, id, engine.instance);
        Ok((new, birth.peer))
    }

    /// Tells the engine who has taken a session.
    fn answer_taken(&self, number: RawFd, id: SessionId, taker: u64) {
        let mut taken = self.token.to_vec();
        taken.extend_from_slice(&id.0);
        taken.extend_from_slice(&taker.to_le_bytes());
        if let Err(error) = sys::pass::send(number, &taken, &[]) {
            log::debug!("the listener's engine was not told: {error}");
        }
    }

    /// The engine of `instance` tells the listener's own, if that is another process's, that a
    /// session has ended.
    pub(crate) fn tell_ended(&self, instance: u64, id: SessionId) {
        if instance == self.instance {
            return;
        }
        // Held until it is said, and looked at first: the number must not be another's by then.
        let Ok(numbers) = self.numbers.lock() else { return };
        if let Some(&number) = numbers.first()
            && fd::identity(number).is_ok_and(|found| found == self.identity)
        {
            self.answer_taken(number, id, ENDED);
        }
    }

    /// close(2) of one of the listener's numbers.
    pub(crate) fn close(self: &Arc<Self>, number: RawFd) -> io::Result<()> {
        // Cancelled in libc's close, the engine would go on accepting for nobody.
        let _whole = sys::process::Uncancelled::begin();
        let mut numbers = self.numbers.lock().map_err(|_| crate::error::poisoned())?;
        numbers.retain(|&n| n != number);
        drop(table::take(number));
        let result = fd::close_reporting(number);
        if numbers.is_empty()
            && let Some(engine) = reactor::engine_if_running()
        {
            engine.command(Command::Unlisten { listener: Arc::clone(self) });
        }
        result
    }

    /// A number is closed, or will be, where it cannot be seen.
    pub(crate) fn forget(self: &Arc<Self>, number: RawFd) {
        let mut numbers = self.numbers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        numbers.retain(|&n| n != number);
        drop(table::take(number));
        if numbers.is_empty()
            && let Some(engine) = reactor::engine_if_running()
        {
            engine.command(Command::Unlisten { listener: Arc::clone(self) });
        }
    }
}

fn set_flags(number: RawFd, cloexec: bool, nonblocking: bool) -> io::Result<()> {
    use rustix::io::FdFlags;
    let flags = if cloexec { FdFlags::CLOEXEC } else { FdFlags::empty() };
    rustix::io::fcntl_setfd(sys::borrow(number), flags)?;
    fd::set_nonblocking(number, nonblocking)
}

/// The errno of calls that make no sense on a listener.
pub(crate) fn not_connected<T>() -> io::Result<T> {
    Err(errno(libc::ENOTCONN))
}
