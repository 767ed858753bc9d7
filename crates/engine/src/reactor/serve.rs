//! Listening: accept, shake hands, hand proven sessions to whoever calls `accept`, and take
//! resumes to their sessions.

mod door;
mod limits;
mod plain;
mod resume;

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use core::net::SocketAddr;

use eversock_proto::control::{Role, Tombstone};
use eversock_proto::limits::{HANDSHAKE_DEADLINE, HELLO_MAX_BYTES};
use eversock_proto::open::{OpenServer, Opened};
use eversock_proto::resume::{Reason, Reject, ResumeError, ResumeServer};
use eversock_proto::secret::SessionId;
use eversock_proto::send::{GATHER_SLICES, Sender};
use eversock_proto::wire::frame::Acks;
use eversock_proto::wire::hello::{self, HelloKind, HelloReader};
use mio::Interest;

use super::dial::{offer, offsets, send_whole};
use super::timer::Timer;
use super::{Command, Engine, Owned, Reactor, channel};
use crate::clock;
use crate::error::{is_shortage, would_block};
use crate::listener::{Birth, ENDED, Listener, NOBODY, PLAIN, Seed};
use crate::process::Holder;
use crate::socket::link::{Busy, Keys};
use crate::socket::{Socket, bits};
use crate::sys::{self, Fd, fd, tcp};

/// Connections taken from the kernel in one go.
const ACCEPTS_PER_TURN: usize = 64;
/// When to come again if there is no descriptor for a connection.
const SHORTAGE_RETRY: Duration = Duration::from_millis(20);
/// When to come again if the session is busy changing hands.
const BUSY_RETRY: Duration = Duration::from_millis(20);

pub(super) use door::Refusals;
pub(super) use limits::Suspects;

/// A listener as the engine sees it.
#[derive(Debug)]
pub(super) struct Served {
    listener: Arc<Listener>,
    token: usize,
    channel_token: usize,
    handshakes: VecDeque<usize>,
    /// No more are accepted until then, or until one of them is done.
    held_until: Option<Instant>,
    /// Proven sessions for which the program's end had no room.
    ready: VecDeque<(Birth, Fd)>,
    /// Handed over and not yet taken: kept, so that they can be reset if nobody takes them.
    untaken: BTreeMap<SessionId, (Birth, Fd)>,
    /// Opens whose connection died before their CONFIRM came: the client believes that the session
    /// stands and will resume it.
    half_open: VecDeque<(Instant, OpenServer)>,
    closed: bool,
}

/// One unproven connection.
#[derive(Debug)]
pub(super) struct Handshake {
    fd: Option<Fd>,
    peer: Option<SocketAddr>,
    listener: Option<u64>,
    /// How often it was passed from process to process.
    hops: u8,
    reader: HelloReader,
    stage: Stage,
    since: Instant,
    /// When it said its last whole message, or was accepted.
    moved: Instant,
}

#[derive(Debug)]
enum Stage {
    First,
    /// A plain connection that waits for room in the program's backlog.
    ParkedPlain,
    /// An open that waits for room in the program's backlog.
    Parked(Vec<u8>),
    Opening(Box<OpenServer>),
    Resuming(Option<ResumeServer>, Arc<Socket>),
    /// The resume of a session whose open was never confirmed.
    ResumingOpen(Box<ResumeServer>, SessionId),
    /// Confirmed, but the session's locks were taken.
    Attaching {
        socket: Arc<Socket>,
        epoch: u64,
        receive: u64,
        keys: Box<Option<Keys>>,
    },
}

impl Reactor {
    /// The program listens.
    pub(super) fn listen(&mut self, listener: Arc<Listener>) {
        let (token, channel_token) = (self.token(), self.token());
        let registered =
            self.register(listener.real.as_raw_fd(), token, Interest::READABLE).and_then(|()| {
                let both = Interest::READABLE | Interest::WRITABLE;
                self.register(listener.engine_end.as_raw_fd(), channel_token, both)
            });
        if let Err(error) = registered {
            log::error!("cannot listen: {error}");
            return;
        }
        self.listener_tokens.insert(token, (listener.id, false));
        self.listener_tokens.insert(channel_token, (listener.id, true));
        let id = listener.id;
        let served = Served {
            listener,
            token,
            channel_token,
            handshakes: VecDeque::new(),
            held_until: None,
            ready: VecDeque::new(),
            untaken: BTreeMap::new(),
            half_open: VecDeque::new(),
            closed: false,
        };
        self.listeners.insert(id, served);
        self.accept_ready(id);
    }

    /// The program closed its listener: the untaken are reset, sessions born of it go on.
    pub(super) fn unlisten(&mut self, listener: &Arc<Listener>) {
        // What accept has taken just before the close is the program's: a RESET between the frames
        // of its session would be taken for a broken connection.
        self.read_taken(listener.id);
        if self.listeners.contains_key(&listener.id) && self.bequeath(listener) {
            return;
        }
        let Some(served) = self.listeners.get_mut(&listener.id) else { return };
        served.closed = true;
        let untaken = std::mem::take(&mut served.untaken);
        let ready = std::mem::take(&mut served.ready);
        for (birth, fd) in untaken.into_values().chain(ready) {
            let Birth { id, secret, window: birth_window, epoch, keys, .. } = birth;
            if epoch == PLAIN {
                tcp::discard(fd);
                continue;
            }
            // Their clients believe that the session stands, and ask.
            let tombstone = Tombstone { secret, reason: Reason::Reset, offset: 0 };
            self.tombstones.insert(id, tombstone);
            if keys.is_none() {
                send_reset(self.engine, birth_window, fd.as_raw_fd(), None);
            }
            // A sealed one may have begun its records in the process that is about to take it, and
            // no key may meet a nonce twice: the tombstone alone tells.
            drop(fd);
        }
        self.retire_listener(listener.id);
    }

    /// A closed listener goes on while sessions born of it may be resumed through it.
    pub(super) fn retire_listener(&mut self, id: u64) {
        if self.listeners.get(&id).is_none_or(|served| !served.closed) {
            return;
        }
        let in_hand = self.listeners.get(&id).is_some_and(|served| !served.handshakes.is_empty());
        let needed = in_hand
            || self.owned.values().any(|owned| {
                owned.socket.meta.lock().is_ok_and(|meta| {
                    meta.born_of.as_ref().is_some_and(|listener| listener.id == id)
                })
            });
        if needed {
            return;
        }
        if !self.foreign.is_idle() {
            return self.plan_look_at_foreign();
        }
        self.leave_listener(id);
    }

    /// This process serves a listener no more.
    pub(super) fn leave_listener(&mut self, id: u64) {
        let Some(served) = self.listeners.remove(&id) else { return };
        self.deregister(served.listener.real.as_raw_fd());
        self.deregister(served.listener.engine_end.as_raw_fd());
        self.listener_tokens.remove(&served.token);
        self.listener_tokens.remove(&served.channel_token);
        for token in served.handshakes {
            self.drop_handshake(token);
        }
    }

    /// The real listener has connections.
    pub(super) fn accept_ready(&mut self, id: u64) {
        let is_drained = self.births_until.is_some() && self.draining.is_none();
        if is_drained && crate::process::has_relatives() {
            // All is delivered and this process ends: who comes now, and it is no resume of ours,
            // waits for the one that takes its place.
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.make_room(id) {
                return;
            }
            let Some(served) = self.listeners.get_mut(&id) else { return };
            let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&served.listener.real, flags) {
                Ok(fd) => match fd::internal(fd) {
                    Ok(fd) => {
                        let peer = tcp::peer_addr(fd.as_raw_fd());
                        self.begin_handshake(fd, peer, Some(id), None);
                        self.keep_to_share(id, peer);
                    }
                    Err(error) => log::warn!("no descriptor for a new connection: {error}"),
                },
                Err(rustix::io::Errno::AGAIN) => return,
                Err(error) if is_shortage(&error.into()) => {
                    self.refusals.note_shortage("connections wait");
                    self.timers.set(clock::now() + SHORTAGE_RETRY, Timer::Handshake(usize::MAX));
                    self.accept_again.insert(id);
                    return;
                }
                // A connection that died in the queue: the next may be well (accept(2)).
                Err(_) => {}
            }
        }
        // Edge-triggered: there may be more.
        self.timers.set(clock::now() + Duration::from_millis(1), Timer::Handshake(usize::MAX));
        self.accept_again.insert(id);
    }

    /// Takes a connection that has proven nothing; `first` is a message that was read already.
    pub(super) fn begin_handshake(
        &mut self,
        fd: Fd,
        peer: Option<SocketAddr>,
        listener: Option<u64>,
        first: Option<(u8, &[u8])>,
    ) {
        let token = self.token();
        let raw = fd.as_raw_fd();
        if self.register(raw, token, Interest::READABLE).is_err() {
            return;
        }
        let now = clock::now();
        let handshake = Handshake {
            peer,
            fd: Some(fd),
            listener,
            hops: first.map_or(0, |(hops, _)| hops),
            reader: HelloReader::default(),
            stage: Stage::First,
            since: now,
            moved: now,
        };
        self.handshakes.insert(token, handshake);
        self.timers.set(now + HANDSHAKE_DEADLINE, Timer::Handshake(token));
        self.expect_silence(token, listener);
        if let Some(served) = listener.and_then(|id| self.listeners.get_mut(&id)) {
            served.handshakes.push_back(token);
        }
        if let Some((_, message)) = first {
            self.hello(token, message);
        }
        self.handshake_ready(token);
    }

    /// An unproven connection has bytes.
    pub(super) fn handshake_ready(&mut self, token: usize) {
        loop {
            let Some(handshake) = self.handshakes.get_mut(&token) else { return };
            if let Stage::Attaching { .. } = handshake.stage {
                return self.attach_resumed(token);
            }
            if matches!(handshake.stage, Stage::ParkedPlain) {
                return;
            }
            let Some(raw) = handshake.fd.as_ref().map(AsRawFd::as_raw_fd) else { return };
            if !self.is_ours(token, raw) {
                return;
            }
            let Some(handshake) = self.handshakes.get_mut(&token) else { return };
            let mut buf = [0; HELLO_MAX_BYTES];
            let wants = handshake.reader.wants();
            let n = match sys::io::recv_one(raw, &mut buf[..wants]) {
                Ok(n) if n > 0 => n,
                Err(error) if would_block(&error) => return,
                _ => return self.hung_up(token),
            };
            match handshake.reader.feed(&buf[..n]) {
                Ok(None) => {}
                Ok(Some(message)) => self.hello(token, &message),
                Err(error) => {
                    let peer = handshake.peer;
                    self.refusals.note(peer, &format_args!("{error}; {}", door::FOREIGN));
                    return self.drop_handshake(token);
                }
            }
        }
    }

    fn hello(&mut self, token: usize, message: &[u8]) {
        let Some(handshake) = self.handshakes.get_mut(&token) else { return };
        let Some(raw) = handshake.fd.as_ref().map(AsRawFd::as_raw_fd) else { return };
        handshake.moved = clock::now();
        match std::mem::replace(&mut handshake.stage, Stage::First) {
            Stage::First => match hello::split(message) {
                Ok((HelloKind::Open, _)) => self.hello_open(token, raw, message),
                Ok((HelloKind::Resume, _)) => self.hello_resume(token, raw, message),
                _ => self.drop_handshake(token),
            },
            Stage::Opening(mut server) => match server.confirmed(message) {
                Ok(opened) => self.born(token, opened, 1),
                Err(error) => {
                    // Changed on its way, perhaps: the client has a session, and may resume it.
                    handshake.stage = Stage::Opening(server);
                    self.refusals.note(handshake.peer, &error);
                    self.drop_handshake(token);
                }
            },
            Stage::Resuming(pending, socket) => self.confirmed(token, pending, &socket, message),
            Stage::ResumingOpen(pending, id) => self.confirmed_late(token, &pending, id, message),
            Stage::Parked(_) | Stage::ParkedPlain | Stage::Attaching { .. } => {}
        }
    }

    /// True while somebody has come to us whom nobody could accept yet. A process that ends with
    /// others at its listener sees to these first, for a while: strangers may say nothing at all.
    pub(super) fn is_giving_birth(&self) -> bool {
        let in_time = self.births_until.is_some_and(|until| clock::now() < until);
        in_time
            && crate::process::has_relatives()
            && (self.handshakes.values().any(|handshake| handshake.listener.is_some())
                || self.listeners.values().any(|served| !served.ready.is_empty()))
    }

    /// Opens that waited for the backlog go on.
    fn unpark(&mut self, id: u64) {
        let waiting: Vec<usize> = self
            .handshakes
            .iter()
            .filter(|(_, h)| h.listener == Some(id))
            .filter(|(_, h)| matches!(h.stage, Stage::Parked(_) | Stage::ParkedPlain))
            .map(|(&token, _)| token)
            .collect();
        for token in waiting {
            let Some(handshake) = self.handshakes.get_mut(&token) else { continue };
            if matches!(handshake.stage, Stage::ParkedPlain) {
                self.plain(token);
                continue;
            }
            let Stage::Parked(message) = std::mem::replace(&mut handshake.stage, Stage::First)
            else {
                continue;
            };
            if let Some(raw) = handshake.fd.as_ref().map(AsRawFd::as_raw_fd) {
                self.hello_open(token, raw, &message);
            }
        }
    }

    fn hello_open(&mut self, token: usize, raw: i32, message: &[u8]) {
        let Some(handshake) = self.handshakes.get_mut(&token) else { return };
        let served = handshake.listener.and_then(|id| self.listeners.get(&id));
        let Some(served) = served.filter(|served| !served.closed) else {
            let reject = Reject::plain(Reason::Busy, Duration::from_secs(1));
            return self.reject(token, raw, &reject);
        };
        let id = served.listener.id;
        if let Some(why) = self.is_full_up(id) {
            let Some(handshake) = self.handshakes.get(&token) else { return };
            self.refusals.note(handshake.peer, &why);
            return self.reject(token, raw, &Reject::plain(Reason::Busy, limits::COME_AGAIN));
        }
        let Some(handshake) = self.handshakes.get_mut(&token) else { return };
        let Some(served) = self.listeners.get(&id) else { return };
        if served.is_full() {
            // Resumes come through the same door, so the door stays open; opens wait.
            handshake.stage = Stage::Parked(message.to_vec());
            return self.open_door(id);
        }
        let config = &served.listener.config;
        let id = SessionId::new(self.engine.instance, fd::random_u64());
        match OpenServer::answer(&offer(config, Role::Server), message, id, fd::random()) {
            Ok((server, answer)) => {
                handshake.stage = Stage::Opening(Box::new(server));
                if send_whole(raw, &answer, false).is_err() {
                    self.drop_handshake(token);
                }
            }
            Err(error) => {
                self.refusals.note(handshake.peer, &error);
                if let Some(reason) = error.reason() {
                    self.reject(token, raw, &Reject::plain(reason, Duration::ZERO));
                } else {
                    self.drop_handshake(token);
                }
            }
        }
    }

    fn reject(&mut self, token: usize, raw: i32, reject: &Reject) {
        let _gone = send_whole(raw, &reject.encode(), false);
        self.drop_handshake(token);
    }

    /// An open was confirmed: the session goes to whoever calls accept.
    fn born(&mut self, token: usize, opened: Opened, epoch: u64) {
        let Some(handshake) = self.handshakes.get_mut(&token) else { return };
        let (listener, fd) = (handshake.listener, handshake.fd.take());
        let peer = handshake.peer;
        if let Some(fd) = &fd {
            let raw = fd.as_raw_fd();
            let _gone = self.poll.registry().deregister(&mut mio::unix::SourceFd(&raw));
        }
        self.drop_handshake(token);
        let Some(fd) = fd else { return };
        let served = listener.and_then(|id| self.listeners.get_mut(&id));
        let Some(served) = served.filter(|served| !served.closed) else {
            // The listener was closed while hands were shaken; the client believes that the session
            // stands.
            let keys = opened.keys.map(|keys| keys.split(Role::Server));
            send_reset(self.engine, opened.window, fd.as_raw_fd(), keys);
            let tombstone = Tombstone { secret: opened.secret, reason: Reason::Reset, offset: 0 };
            self.tombstones.insert(opened.id, tombstone);
            return;
        };
        let raw = fd.as_raw_fd();
        tcp::tune(raw, served.listener.config.keepalive);
        // A connection that has died already still has a session; its addresses may be gone.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 1));
        let birth = Birth {
            token: served.listener.token,
            id: opened.id,
            secret: opened.secret,
            keys: opened.keys.map(Seed::from),
            window: opened.window,
            peer_key: opened.peer,
            shares: opened.shares,
            epoch,
            peer: peer.or_else(|| tcp::peer_addr(raw)).unwrap_or(nowhere),
            local: tcp::local_addr(raw).or(served.listener.local).unwrap_or(nowhere),
        };
        served.ready.push_back((birth, fd));
        let id = served.listener.id;
        self.hand_over(id);
    }

    fn hand_over(&mut self, id: u64) {
        let Some(served) = self.listeners.get_mut(&id) else { return };
        while let Some((birth, fd)) = served.ready.pop_front() {
            let _blocking = fd::set_nonblocking(fd.as_raw_fd(), false);
            let bytes = birth.encode();
            match sys::pass::send(served.listener.engine_end.as_raw_fd(), &bytes, &[fd.as_fd()]) {
                Ok(()) => {
                    served.untaken.insert(birth.id, (birth, fd));
                }
                Err(error) if would_block(&error) => {
                    served.ready.push_front((birth, fd));
                    break;
                }
                Err(error) => {
                    log::warn!("a new session found nobody to accept it: {error}");
                    tcp::discard(fd);
                }
            }
        }
    }

    /// The program's end of a listener has taken something, has room, or is gone.
    pub(super) fn hand_over_ready(&mut self, id: u64) {
        self.read_taken(id);
        self.hand_over(id);
        let Some(served) = self.listeners.get_mut(&id) else { return };
        if !served.is_full() {
            self.unpark(id);
        }
    }

    /// Takes what accept has answered.
    fn read_taken(&mut self, id: u64) {
        loop {
            let Some(served) = self.listeners.get_mut(&id) else { return };
            let mut buf = [0; 64];
            match sys::pass::recv(served.listener.engine_end.as_raw_fd(), &mut buf, true) {
                Ok((n, _)) if n > 0 => {
                    if let Some((session, taker)) = served.listener.read_taken(&buf[..n]) {
                        let taken = served.untaken.remove(&session);
                        let is_plain = taken.as_ref().is_some_and(|(b, _)| b.epoch == PLAIN);
                        if taker == NOBODY {
                            served.ready.extend(taken);
                        } else if taker == ENDED {
                            self.foreign.end(session);
                        } else if taker != self.engine.instance && !is_plain {
                            self.note_foreign(session, taker);
                        }
                    }
                }
                _ => break,
            }
        }
    }

    /// A session that this process has accepted or claimed.
    pub(super) fn adopt(&mut self, socket: Arc<Socket>) {
        let (id, role) = {
            let Ok(meta) = socket.meta.lock() else { return };
            let Some(control) = meta.control.as_ref() else { return };
            (control.id, control.role)
        };
        if role == Role::Server {
            self.by_session.insert(id, socket.id);
            self.foreign.remove(&id);
            // Where resumes come in.
            let server = socket
                .meta
                .lock()
                .ok()
                .and_then(|meta| meta.born_of.as_ref().map(|listener| listener.server.get()));
            self.tell_where(id.instance(), id);
            if let Some(server) = server.filter(|&server| server != id.instance()) {
                self.tell_where(server, id);
            }
        }
        socket.adopt_watch();
        if let Some(owned) = self.owned.get_mut(&socket.id) {
            // Ours before a fork and again after it: what was planned still holds.
            owned.id = id;
            return self.claimed_again(&socket);
        }
        self.owned.insert(socket.id, Owned::new(Arc::clone(&socket), id));
        self.arm_look();
        if role == Role::Server && !socket.has(bits::DETACHED) {
            let epoch = socket.tx.lock().map_or(0, |tx| tx.epoch);
            self.expect_start(&socket, epoch);
        }
        if socket.has(bits::DETACHED) && !socket.has(bits::FAILED) {
            self.adopted_detached(&socket, role);
        }
        if socket.has(bits::PUMPED) {
            self.pump_session(socket.id);
        }
        if socket.has(bits::CLOSED) {
            self.again.push(Command::Closed { socket, reset: false });
        }
    }

    /// An unproven connection has had its time.
    pub(super) fn handshake_deadline(&mut self, token: usize) {
        if token == usize::MAX {
            for id in std::mem::take(&mut self.accept_again) {
                self.accept_ready(id);
            }
            return;
        }
        let Some(handshake) = self.handshakes.get(&token) else { return };
        if matches!(handshake.stage, Stage::Attaching { .. }) {
            return self.attach_resumed(token);
        }
        if clock::now() - handshake.since < HANDSHAKE_DEADLINE {
            return self.silent_client(token);
        }
        if self.stopped_short(token) {
            return self.plain(token);
        }
        self.drop_handshake(token);
    }

    fn drop_handshake(&mut self, token: usize) {
        let Some(mut handshake) = self.handshakes.remove(&token) else { return };
        if let Some(fd) = handshake.fd.take() {
            self.drop_connection(fd);
        }
        if let Some(served) = handshake.listener.and_then(|id| self.listeners.get_mut(&id)) {
            served.handshakes.retain(|&other| other != token);
            if let Stage::Opening(open) = handshake.stage {
                served.half_open.push_back((clock::now(), *open));
                if served.half_open.len() > door::HALF_OPEN_MAX {
                    served.half_open.pop_front();
                }
            }
            let (id, last) = (served.listener.id, served.handshakes.is_empty());
            self.open_door(id);
            if last {
                self.retire_listener(id);
            }
        }
    }
}

impl Served {
    /// The program's backlog is used up by sessions that it has not taken.
    fn is_full(&self) -> bool {
        !self.closed && self.untaken.len() + self.ready.len() > self.listener.backlog()
    }
}

/// Ends a session over a connection that it will not use: the first frames of the epoch say so.
/// `keys` are those of the epoch, if the session is sealed; nobody else has used them.
pub(super) fn send_reset(engine: &Engine, window: u64, number: i32, keys: Option<Keys>) {
    let mut sender = Sender::new(Arc::clone(&engine.pool), 0, window);
    if sender.begin_epoch(0).is_err() {
        return;
    }
    if let Some((sealer, _)) = keys {
        sender.set_sealed();
        sender.seal_with(sealer);
    }
    sender.want_reset(0);
    while sender.prepare(Acks::default()) {
        let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
        let (count, _) = sender.gather(&mut slices);
        match sys::io::send(number, &slices[..count], false) {
            Ok(n) => sender.sent(n),
            Err(_) => return,
        }
    }
    take_unread(number);
}

/// Reads what has come on a connection that is about to be closed: with unread bytes the kernel
/// would send a RST, which may overtake our last frames.
pub(super) fn take_unread(number: i32) {
    let mut unread = [0; 4096];
    for _ in 0..64 {
        if !matches!(sys::io::recv_one(number, &mut unread), Ok(n) if n > 0) {
            break;
        }
    }
}
