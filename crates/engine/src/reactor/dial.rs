//! Dialling: the first time with OPEN, later with RESUME; all known addresses raced (RFC 8305).

mod change;
mod claim;
mod hello;
mod only;
mod plain;

use std::collections::VecDeque;
use std::io;
use std::net::ToSocketAddrs;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use core::net::SocketAddr;
use eversock_proto::control::{Control, Offsets, Role};
use eversock_proto::identity::ServerKey;
use eversock_proto::open::{Offer, OpenClient, OpenError, Opened};
use eversock_proto::recv::Receiver;
use eversock_proto::resume::{Reason, Reject, ResumeClient, ResumeError};
use eversock_proto::send::Sender;
use eversock_proto::wire::hello::{HelloError, HelloReader};
use mio::Interest;

use super::timer::Timer;
use super::{Command, Owned, Reactor};
use crate::clock;
use crate::config::{Config, KnownServers};
use crate::error::{errno, number, told, would_block};
use crate::event::EventKind;
use crate::socket::link::{Busy, Keys};
use crate::socket::{Socket, bits};
use crate::sys::thread::ROOMY;
use crate::sys::{self, Fd, fd, tcp};

/// The next address is tried this long after the one before (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// While nobody answers a redial, it is tried anew about this often: the kernel would send its next
/// SYN after 1, 2, 4... seconds, and a line that is back meanwhile would go unnoticed.
const AGAIN: Duration = Duration::from_millis(500);
/// Attempts of one dial at the same time, at most; the oldest unanswered one makes room.
const ATTEMPTS_MAX: usize = 3;
/// How long a closed session goes on dialling a host that says that nobody is there.
const GONE_AFTER_CLOSE: Duration = Duration::from_secs(1);
/// Sessions that dial at the same time, at most.
const DIALS_MAX: usize = 256;
/// Threads that look names up at the same time, at most.
const RESOLVERS_MAX: usize = 8;

/// With a peer that may be a plain one: how long it may say nothing to our first message, besides
/// four times what TCP's own handshake took.
const SILENCE: Duration = Duration::from_secs(1);
/// How long it is remembered that a peer is a plain one.
const PLAIN_FOR: Duration = Duration::from_secs(60);
/// Plain peers that are remembered, at most.
const PLAIN_MAX: usize = 1024;

pub(crate) use hello::furnish;
pub(super) use hello::offer;

/// One session's search for a connection.
#[derive(Debug)]
pub(super) struct Dial {
    socket: Arc<Socket>,
    queue: VecDeque<SocketAddr>,
    /// All addresses, to be tried anew in turn.
    again: VecDeque<SocketAddr>,
    running: Vec<usize>,
    is_open: bool,
    serial: u64,
    /// The errno to tell if nothing works.
    error: i32,
    cause: String,
    refused: bool,
    /// The one address that the program has asked for.
    only: Option<SocketAddr>,
    /// A proven connection that found the socket's locks taken.
    won: Option<Won>,
}

#[derive(Debug)]
struct Won {
    fd: Option<Fd>,
    epoch: u64,
    peer_receive: u64,
    keys: Option<Keys>,
}

/// One address of a dial.
#[derive(Debug)]
pub(super) struct Attempt {
    socket: u64,
    fd: Option<Fd>,
    addr: SocketAddr,
    stage: Stage,
    /// TCP has shaken hands.
    stands: bool,
    reader: HelloReader,
    since: Instant,
}

#[derive(Debug)]
enum Stage {
    Connecting,
    Opening(OpenClient),
    Resuming(ResumeClient, u64),
    /// To a peer that does not speak eversock: nothing is said.
    Plain,
    Done,
}

impl Reactor {
    /// The program called connect.
    pub(super) fn connect(&mut self, socket: Arc<Socket>) {
        // The server names the session when it answers.
        let unnamed = eversock_proto::secret::SessionId([0; 16]);
        self.owned.insert(socket.id, Owned::new(Arc::clone(&socket), unnamed));
        self.arm_look();
        let addrs = socket.meta.lock().map(|meta| meta.candidates.clone()).unwrap_or_default();
        self.dial(&socket, addrs, true);
    }

    /// Looks the peer's name up again, if it has one, and dials.
    pub(super) fn resolve_and_dial(&mut self, socket: &Arc<Socket>) {
        let (host, addrs) = match socket.meta.lock() {
            Ok(meta) => (meta.rare().host.clone(), meta.candidates.clone()),
            Err(_) => return,
        };
        let Some(host) = host else { return self.dial(socket, addrs, false) };
        let (name, port) = host;
        // Resolving may block for long: not in this thread.
        let (engine, resolved) = (self.engine, Arc::clone(socket));
        let resolve = move || {
            let found: Vec<_> =
                (name.as_str(), port).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
            engine.command(Command::Resolved { socket: resolved, addrs: found });
        };
        let spawn = || sys::thread::spawn(c"eversock-names", ROOMY, resolve);
        if self.resolving >= RESOLVERS_MAX || spawn().is_err() {
            // In a storm the addresses known will have to do.
            return self.dial(socket, addrs, false);
        }
        self.resolving += 1;
    }

    /// A name was looked up.
    pub(super) fn resolved(&mut self, socket: &Arc<Socket>, found: Vec<SocketAddr>) {
        self.resolving = self.resolving.saturating_sub(1);
        if self.dials.contains_key(&socket.id) {
            return;
        }
        let addrs = match socket.meta.lock() {
            Ok(mut meta) => {
                // Without its name, the program has said meanwhile where to dial instead.
                if meta.rare().host.is_some() {
                    meta.resolved(found);
                }
                meta.candidates.clone()
            }
            Err(_) => return,
        };
        self.dial(socket, addrs, false);
    }

    pub(super) fn dial(&mut self, socket: &Arc<Socket>, addrs: Vec<SocketAddr>, is_open: bool) {
        self.dial_to(socket, addrs, is_open, None);
    }

    fn dial_to(
        &mut self,
        socket: &Arc<Socket>,
        addrs: Vec<SocketAddr>,
        is_open: bool,
        only: Option<SocketAddr>,
    ) {
        if self.dials.contains_key(&socket.id) {
            return;
        }
        if self.dials.len() >= DIALS_MAX && !is_open {
            self.waiting_dials.push_back(socket.id);
            return;
        }
        self.dialled += 1;
        let serial = self.dialled;
        let dial = Dial {
            socket: Arc::clone(socket),
            again: if is_open { VecDeque::new() } else { addrs.clone().into() },
            queue: addrs.into(),
            running: Vec::new(),
            is_open,
            serial,
            error: libc::EADDRNOTAVAIL,
            cause: "no address to dial".to_owned(),
            refused: false,
            only,
            won: None,
        };
        self.dials.insert(socket.id, dial);
        let until = clock::now() + socket.config.connect_timeout.min(super::end::FOREVER);
        self.timers.set(until, Timer::DialDeadline(socket.id, serial));
        self.next_attempt(socket.id);
        self.plan_again(socket.id, serial);
    }

    fn plan_again(&mut self, id: u64, serial: u64) {
        if self.dials.get(&id).is_some_and(|dial| !dial.again.is_empty()) {
            // Jittered, so that sessions cut together do not come back together.
            let part = f64::from(fd::jitter() as u16) / f64::from(u16::MAX);
            let after = AGAIN.mul_f64(0.75 + part / 2.0);
            self.timers.set(clock::now() + after, Timer::DialAgain(id, serial));
        }
    }

    pub(super) fn is_dialling(&self, id: u64, serial: u64) -> bool {
        self.dials.get(&id).is_some_and(|dial| dial.serial == serial)
    }

    /// Nobody has answered for a while: a SYN may have been lost, or the line is back.
    pub(super) fn dial_again(&mut self, id: u64, serial: u64) {
        let Some(dial) = self.dials.get_mut(&id).filter(|dial| dial.serial == serial) else {
            return;
        };
        let speaks = |token: &usize| {
            self.attempts.get(token).is_some_and(|a| !matches!(a.stage, Stage::Connecting))
        };
        // The first round is the race's, and who answers is let speak.
        let goes_on = dial.won.is_none() && dial.queue.is_empty();
        if goes_on && !dial.running.iter().any(speaks) {
            let socket = Arc::clone(&dial.socket);
            let oldest = dial.running.first().copied();
            let oldest = oldest.filter(|_| dial.running.len() >= ATTEMPTS_MAX);
            let addr = dial.again.front().copied();
            dial.again.rotate_left(1);
            if let Some(addr) = addr {
                match self.begin_attempt(&socket, addr, Stage::Connecting) {
                    Ok(token) => {
                        if let Some(dial) = self.dials.get_mut(&id) {
                            dial.running.push(token);
                        }
                        oldest.into_iter().for_each(|token| self.drop_attempt(token));
                        // One that stands already is told of nothing more.
                        self.attempt_ready(token);
                    }
                    // The others go on.
                    Err(error) => log::debug!("session {id}: not tried anew: {error}"),
                }
            }
        }
        self.plan_again(id, serial);
    }

    /// The address before has had its head start; or the locks that a winner needs may be free.
    pub(super) fn stagger(&mut self, id: u64) {
        if self.dials.get(&id).is_some_and(|dial| dial.won.is_some()) {
            return self.attach_won(id);
        }
        self.next_attempt(id);
    }

    pub(super) fn next_attempt(&mut self, id: u64) {
        loop {
            let Some(dial) = self.dials.get_mut(&id) else { return };
            if dial.won.is_some() {
                return;
            }
            let Some(addr) = dial.queue.pop_front() else {
                if dial.running.is_empty() {
                    self.dial_failed(id);
                }
                return;
            };
            let (more, is_open) = (!dial.queue.is_empty(), dial.is_open);
            let socket = Arc::clone(&dial.socket);
            let stage = if is_open && self.is_plain(&socket, addr) {
                Stage::Plain
            } else {
                Stage::Connecting
            };
            match self.begin_attempt(&socket, addr, stage) {
                Ok(token) => {
                    if let Some(dial) = self.dials.get_mut(&id) {
                        dial.running.push(token);
                    }
                    if more {
                        self.timers.set(clock::now() + STAGGER, Timer::Stagger(id));
                    }
                    // It may stand already.
                    return self.attempt_ready(token);
                }
                Err(error) => self.note_failure(id, &error),
            }
        }
    }

    fn begin_attempt(
        &mut self,
        socket: &Arc<Socket>,
        addr: SocketAddr,
        stage: Stage,
    ) -> io::Result<usize> {
        let fd = tcp::new_socket(&addr)?;
        let raw = fd.as_raw_fd();
        let is_plain = matches!(stage, Stage::Plain);
        if !is_plain {
            tcp::tune(raw, socket.config.keepalive);
        }
        {
            let meta = Socket::lock(&socket.meta)?;
            if is_plain {
                meta.options.apply_own(raw);
            }
            // After ours: what the program set counts.
            meta.options.apply(raw);
            if let Some(bound) = meta.rare().bound {
                bind_again(raw, bound, self.dials.get(&socket.id).is_some_and(|d| d.is_open))?;
            }
        }
        tcp::connect(raw, &addr)?;
        // Over loopback it stands already, and that it is writable would be no news.
        let stands = tcp::peer_addr(raw).is_some();
        let token = self.token();
        let both = Interest::READABLE | Interest::WRITABLE;
        self.register(raw, token, if stands { Interest::READABLE } else { both })?;
        let attempt = Attempt {
            socket: socket.id,
            fd: Some(fd),
            addr,
            stage,
            stands,
            reader: HelloReader::default(),
            since: clock::now(),
        };
        self.attempts.insert(token, attempt);
        Ok(token)
    }

    /// An attempt's connection has something.
    pub(super) fn attempt_ready(&mut self, token: usize) {
        if let Err(error) = self.advance(token) {
            let Some(attempt) = self.attempts.get(&token) else { return };
            let id = attempt.socket;
            match error {
                DialError::Final(reject) => return self.refused_for_good(id, &reject),
                DialError::Foreign(_) if self.may_be_plain(token) => {
                    return self.dial_plain(token);
                }
                DialError::Foreign(error) | DialError::Passing(error) => {
                    self.note_failure(id, &error);
                }
            }
            self.drop_attempt(token);
            self.next_attempt(id);
        }
    }

    fn advance(&mut self, token: usize) -> Result<(), DialError> {
        loop {
            let Some(attempt) = self.attempts.get_mut(&token) else { return Ok(()) };
            let Some(raw) = attempt.fd.as_ref().map(AsRawFd::as_raw_fd) else { return Ok(()) };
            let stood = attempt.stands;
            if matches!(attempt.stage, Stage::Connecting | Stage::Plain) && !stood {
                if let Some(error) = tcp::take_error(raw) {
                    return Err(error.into());
                }
                attempt.stands = tcp::peer_addr(raw).is_some();
                if !attempt.stands {
                    return Ok(());
                }
            }
            if matches!(attempt.stage, Stage::Plain) {
                return self.plain_stands(token);
            }
            if matches!(attempt.stage, Stage::Connecting) {
                self.say_hello(token, raw)?;
                if stood {
                    // What comes is an event, as nobody has been told of anything yet.
                    return Ok(());
                }
                continue;
            }
            let mut buf = [0; eversock_proto::limits::HELLO_MAX_BYTES];
            let wants = attempt.reader.wants();
            let n = match sys::io::recv_one(raw, &mut buf[..wants]) {
                Ok(0) => return Err(DialError::Foreign(errno(libc::ECONNRESET))),
                Ok(n) => n,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(DialError::Foreign(error)),
            };
            let fed = attempt
                .reader
                .feed(&buf[..n])
                .map_err(|error| DialError::Foreign(foreign(&error)))?;
            if let Some(message) = fed {
                return self.answered_hello(token, &message);
            }
        }
    }

    /// Puts the winner under the socket; comes back if a lock was taken.
    fn attach_won(&mut self, id: u64) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let socket = Arc::clone(&dial.socket);
        if !socket.owner.is(self.engine.instance) && !self.claim_for_dial(&socket) {
            return;
        }
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let Some(won) = dial.won.as_mut() else { return };
        let (epoch, peer_receive) = (won.epoch, won.peer_receive);
        match socket.attach(&mut won.fd, epoch, peer_receive, &mut won.keys) {
            Ok(Err(Busy)) => {
                self.timers.set(clock::now() + Duration::from_micros(100), Timer::Stagger(id));
            }
            Ok(Ok(replayed)) => {
                self.end_dial(id);
                self.attached(&socket, epoch, replayed);
            }
            Err(error) => {
                if let Some(fd) = &won.fd {
                    // It was confirmed: the peer must not take it for a session that goes on.
                    let keys = won.keys.take();
                    super::serve::send_reset(self.engine, 0, fd.as_raw_fd(), keys);
                }
                self.end_dial(id);
                if socket.has(bits::FAILED) {
                    // The dial was to tell that.
                    return self.end(&socket, Reason::Reset);
                }
                self.give_up(&socket, libc::ECONNRESET, &error.to_string());
            }
        }
    }

    /// A connection stands.
    pub(super) fn attached(&mut self, socket: &Arc<Socket>, epoch: u64, replayed: u64) {
        let offsets = offsets(socket);
        let mut stale = None;
        let route = socket.route();
        if let Ok(mut meta) = socket.meta.lock() {
            if epoch > 1 && route.is_some() {
                meta.rare_mut().route = route;
            }
            let rare = meta.rare_if_any();
            let since = rare.and_then(|rare| {
                rare.next_try = None;
                rare.detached_since.take()
            });
            let stalled = since.map_or(Duration::ZERO, |since| clock::now() - since);
            meta.attached_since = Some(clock::now());
            if let Some(control) = meta.control.as_mut() {
                if control.role == Role::Client && epoch > 1 {
                    stale = control.resumed_as(epoch, offsets).err();
                }
                log::info!("session {}: epoch {epoch} stands, {replayed} bytes again", socket.id);
            }
            let kind = match epoch {
                1 => EventKind::Opened,
                _ => {
                    let (peer, local) = route.unzip();
                    EventKind::Resumed { replayed, stalled, peer, local }
                }
            };
            // After the end there is only the last call, which is nobody's event.
            if !socket.has(bits::OVER) {
                socket.tell(&mut meta, kind);
            }
        }
        let owned = self.owned.get_mut(&socket.id);
        if let Some(trouble) = owned.and_then(|owned| owned.trouble.as_mut()) {
            trouble.expires = None;
            trouble.refused_since = None;
            trouble.quiet.stands_anew(clock::now());
            trouble.away.forget();
        }
        self.expect_start(socket, epoch);
        let is_stale = socket
            .meta
            .lock()
            .is_ok_and(|meta| meta.control.as_ref().is_some_and(|control| control.is_stale()));
        if is_stale && stale.is_none() {
            return self.give_up(socket, libc::ECONNRESET, "resumes bring no progress");
        }
        if let Some(owned) = self.owned.get(&socket.id)
            && owned.last_call
        {
            return self.over(socket);
        }
        if let Some(stale) = stale {
            return self.give_up(socket, libc::ECONNRESET, &stale.to_string());
        }
        let is_lost = socket.place.lock().is_ok_and(|place| place.numbers.is_empty());
        if self.is_resetting(socket) {
            self.reset(socket);
        } else if socket.has(bits::CLOSED) {
            socket.watch_in(true);
            self.read_for_closed(socket);
        } else if is_lost && !socket.has(bits::PUMPED) {
            self.look_at(socket);
        } else if socket.has(bits::PUMPED) {
            socket.watch_in(true);
            self.pump_session(socket.id);
        } else if socket.has(bits::GUESTS) {
            self.serve_guests(socket);
        }
    }

    fn note_failure(&mut self, id: u64, error: &io::Error) {
        log::debug!("session {id}: a dial failed: {error}");
        if let Some(dial) = self.dials.get_mut(&id) {
            dial.error = number(error);
            dial.cause = error.to_string();
            dial.refused = matches!(number(error), libc::ECONNREFUSED | libc::ENOENT);
        }
    }

    fn drop_attempt(&mut self, token: usize) {
        let Some(attempt) = self.attempts.remove(&token) else { return };
        if let Some(fd) = attempt.fd {
            self.drop_connection(fd);
        }
        if let Some(dial) = self.dials.get_mut(&attempt.socket) {
            dial.running.retain(|&running| running != token);
        }
    }

    pub(super) fn end_dial(&mut self, id: u64) {
        let Some(dial) = self.dials.remove(&id) else { return };
        for token in dial.running {
            if let Some(attempt) = self.attempts.remove(&token)
                && let Some(fd) = attempt.fd
            {
                self.drop_connection(fd);
            }
        }
        // One that had to wait may go now.
        while let Some(next) = self.waiting_dials.pop_front() {
            let waiting = self
                .owned
                .get(&next)
                .filter(|owned| owned.tells || owned.socket.has(bits::DETACHED));
            if let Some(owned) = waiting {
                let socket = Arc::clone(&owned.socket);
                if owned.tells {
                    self.resolve_and_dial(&socket);
                } else {
                    self.again.push(Command::LineUp { socket, up: true });
                }
                break;
            }
        }
    }

    /// No address worked.
    fn dial_failed(&mut self, id: u64) {
        let Some(dial) = self.dials.get(&id) else { return };
        let (socket, is_open) = (Arc::clone(&dial.socket), dial.is_open);
        let (error, cause, refused) = (dial.error, dial.cause.clone(), dial.refused);
        let only = dial.only;
        self.end_dial(id);
        if is_open {
            return self.give_up(&socket, error, &cause);
        }
        if socket.has(bits::FAILED) {
            // The peer could not be told; its own grace ends the session there.
            return self.end(&socket, Reason::Reset);
        }
        if let Some(owned) = self.owned.get(&id)
            && owned.last_call
        {
            // Cut, or the server is busy: it may still wait. The linger bounds how often it is
            // asked.
            if !refused && owned.linger.is_some() {
                return self.plan_redial(&socket);
            }
            return self.over(&socket);
        }
        if let Some(addr) = only {
            return self.move_failed(&socket, addr, cause);
        }
        if !socket.has(bits::DETACHED) {
            return;
        }
        let now = clock::now();
        let mut short = None;
        if let Some(owned) = self.owned.get_mut(&id) {
            let trouble = owned.trouble_mut();
            trouble.refused_since = trouble.refused_since.or(Some(now)).filter(|_| refused);
            short = trouble
                .refused_since
                .map(|since| since + socket.config.grace_after_close.min(super::end::FOREVER));
        }
        if let Ok(mut meta) = socket.meta.lock() {
            meta.rare_mut().last_error = Some(cause.clone());
        }
        if socket.has(bits::CLOSED)
            && let Some(at) = short.as_mut()
        {
            // The program has closed, and the peer's process is gone: there is nobody on either
            // side for whom to wait.
            let since = self.owned.get(&id).and_then(|owned| owned.trouble.as_ref()?.refused_since);
            let since = since.unwrap_or(now);
            *at = (*at).min(since + GONE_AFTER_CLOSE);
        }
        // The host answers and says that nobody is there: the peer's process has ended.
        if short.is_some_and(|at| now >= at) {
            return self.give_up(&socket, libc::ECONNRESET, &format!("the peer is gone: {cause}"));
        }
        if let Some(at) = short {
            if let Some(owned) = self.owned.get_mut(&id) {
                let expires = owned.expires().map_or(at, |expires| expires.min(at));
                owned.trouble_mut().expires = Some(expires);
            }
            self.timers.set(at, Timer::Grace(id));
        }
        self.plan_redial(&socket);
    }

    /// All attempts of a dial together have had their time.
    pub(super) fn dial_deadline(&mut self, id: u64, serial: u64) {
        let Some(dial) = self.dials.get(&id) else { return };
        if dial.serial != serial || dial.won.is_some() {
            return;
        }
        self.note_failure(id, &errno(libc::ETIMEDOUT));
        self.dial_failed(id);
    }

    /// The session's other end has said that it is over.
    fn refused_for_good(&mut self, id: u64, reject: &Reject) {
        let Some(dial) = self.dials.get(&id) else { return };
        let (socket, only) = (Arc::clone(&dial.socket), dial.only);
        self.end_dial(id);
        let cause = format!("the peer refused: {reject}");
        if reject.reason == Reason::Closed && self.all_delivered(&socket, reject.offset) {
            return self.over(&socket);
        }
        if socket.has(bits::FAILED) {
            return self.end(&socket, Reason::Reset);
        }
        if !socket.has(bits::DETACHED) {
            // Dialled beside a connection that still stands: that one will tell.
            if let Some(addr) = only {
                self.move_failed(&socket, addr, cause);
            }
            return;
        }
        let number =
            if reject.reason == Reason::Expired { libc::ETIMEDOUT } else { libc::ECONNRESET };
        self.give_up(&socket, number, &cause);
    }

    /// True when the peer has consumed all that we wrote up to `offset`, and we have its end.
    fn all_delivered(&self, socket: &Arc<Socket>, offset: u64) -> bool {
        let Ok(mut tx) = socket.tx.lock() else { return false };
        let Some(sender) = tx.sender.as_mut() else { return false };
        // Whether it has read our FIN too makes no difference to what was written.
        let delivered = offset >= sender.written();
        if delivered {
            // The peer vouches for what its lost acks would have said.
            let edge = sender.edge();
            let _beyond = sender.absorb(offset.min(sender.cursor().max(sender.acked())), edge);
        }
        drop(tx);
        let ended = socket
            .rx
            .lock()
            .is_ok_and(|rx| rx.receiver.as_ref().is_some_and(|receiver| receiver.fin_seen()));
        delivered && ended
    }
}

/// What a dial's failure means.
enum DialError {
    /// Another try may do better.
    Passing(io::Error),
    /// The peer has said something else than eversock, or has hung up.
    Foreign(io::Error),
    /// The session's other end has said so, with proof.
    Final(Reject),
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        Self::Passing(error)
    }
}

fn judge(reject: Reject, proven: bool) -> DialError {
    match (proven, reject.reason) {
        (true, Reason::DataLost | Reason::Expired | Reason::Closed | Reason::Reset) => {
            DialError::Final(reject)
        }
        // ENOENT stands for "the host answers, but does not know the session".
        (_, Reason::UnknownSession) => DialError::Passing(errno(libc::ENOENT)),
        _ => DialError::Passing(errno(libc::EAGAIN)),
    }
}

/// The errno of a connect whose peer speaks something else.
fn foreign(error: &HelloError) -> io::Error {
    log::info!("connect: {error}");
    errno(libc::EPROTO)
}

fn open_failed(error: &OpenError) -> io::Error {
    log::warn!("connect: {error}");
    let number = match error {
        OpenError::Key | OpenError::Pin | OpenError::Sealing | OpenError::Proof => libc::EACCES,
        OpenError::Refused(reject) if matches!(reject.reason, Reason::Key | Reason::Sealing) => {
            libc::EACCES
        }
        OpenError::Refused(reject) if reject.reason == Reason::Busy => libc::ECONNREFUSED,
        _ => libc::EPROTO,
    };
    told(number, error.to_string())
}

/// Handshake messages are far smaller than any socket buffer: a short write is a fault.
pub(super) fn send_whole(raw: i32, message: &[u8], more: bool) -> io::Result<()> {
    let n = sys::io::send(raw, &[io::IoSlice::new(message)], more)?;
    if n == message.len() { Ok(()) } else { Err(errno(libc::ENOBUFS)) }
}

/// The offsets that the control part needs.
pub(super) fn offsets(socket: &Socket) -> Offsets {
    let (acked, expecting) = socket.tx.lock().map_or((0, false), |tx| {
        tx.sender.as_ref().map_or((0, false), |sender| (sender.delivered(), sender.is_expecting()))
    });
    let receive =
        socket.rx.lock().map_or(0, |rx| rx.receiver.as_ref().map_or(0, |receiver| receiver.next()));
    Offsets { acked, receive, expecting }
}

/// Binds as the program had bound. A redial may find the port taken by the connection that died:
/// then any port of the address will do.
fn bind_again(raw: i32, addr: SocketAddr, first: bool) -> io::Result<()> {
    let fd = sys::borrow(raw);
    let socket = socket2::SockRef::from(&fd);
    if !first {
        socket.set_reuse_address(true)?;
    }
    match socket.bind(&addr.into()) {
        Err(_) if !first => socket.bind(&SocketAddr::new(addr.ip(), 0).into()),
        result => result,
    }
}
