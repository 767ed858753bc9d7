//! How sessions end: closed, drained at exit, failed, and what is remembered of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender as ChannelSender;
use eversock_proto::control::{Role, Tombstone};
use eversock_proto::resume::Reason;
use eversock_proto::secret::SessionId;

use super::timer::Timer;
use super::{Command, Reactor};
use crate::clock;
use crate::config::RecoveryPolicy;
use crate::event::EventKind;
use crate::socket::link::Busy;
use crate::socket::send::Flushed;
use crate::socket::{Socket, bits};
use crate::sys;

/// Sessions that are remembered after their end, at most.
pub(super) const TOMBSTONES_MAX: usize = 4096;

/// How long a process that ends sees to clients that others at its listener could serve.
const BIRTHS_MAX: Duration = Duration::from_secs(2);

/// Longer than any process lives, and short enough to be added to a clock.
pub(super) const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A session whose program has closed it.
#[derive(Debug)]
pub(super) struct Linger {
    until: Instant,
    acked: u64,
    stop_sent: bool,
    /// The program wants the session reset: only the RESET is still to be told.
    reset: bool,
    /// At exit: since when no connection carries what is left, and what was confirmed then.
    unreachable: Option<(Instant, u64)>,
}

impl Linger {
    fn new(until: Instant) -> Self {
        Self { until, acked: 0, stop_sent: false, reset: false, unreachable: None }
    }
}

/// At exit, how much of its linger a session gives a peer that cannot be reached: one part of so
/// many, and at least [`EXIT_LEAST`].
const EXIT_PART: u32 = 6;
const EXIT_LEAST: Duration = Duration::from_secs(1);
/// How often sessions are looked at while the process exits.
const EXIT_LOOK: Duration = Duration::from_millis(200);

/// What is needed to answer a late resume; the oldest are forgotten first.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    by_id: HashMap<SessionId, Tombstone>,
    order: VecDeque<SessionId>,
}

impl Tombstones {
    pub(super) fn get(&self, id: &SessionId) -> Option<&Tombstone> {
        self.by_id.get(id)
    }

    pub(super) fn insert(&mut self, id: SessionId, tombstone: Tombstone) {
        if self.by_id.insert(id, tombstone).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > TOMBSTONES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }
}

impl Reactor {
    /// The program closed its last number, and the FIN is in the log.
    pub(super) fn closed(&mut self, socket: Arc<Socket>, reset: bool) {
        if let Some(owned) = self.owned.get_mut(&socket.id)
            && owned.linger.is_none()
            && !reset
        {
            let until = clock::now() + socket.config.linger.min(FOREVER);
            let linger = Linger::new(until);
            owned.linger = Some(Box::new(linger));
            self.timers.set(until, Timer::Linger(socket.id));
        }
        if self.defer_close_for_pump(&socket, reset) {
            return;
        }
        if !self.owned.contains_key(&socket.id) {
            // Never connected, over already, or another process's.
            self.engine.strike(socket.id);
            return;
        }
        if reset {
            return self.reset(&socket);
        }
        if socket.has(bits::OVER) && self.owned.get(&socket.id).is_some_and(|owned| owned.last_call)
        {
            // The server is being told; that ends it.
            return;
        }
        if socket.has(bits::FAILED) {
            if self.owned.get(&socket.id).is_some_and(|owned| owned.tells) {
                // A client that dials for this alone; that ends it.
                return;
            }
            // The program was quicker than the word of its failure: the peer has yet to be told.
            return self.failed(Arc::clone(&socket), last_error(&socket));
        }
        if socket.has(bits::OVER | bits::CONNECTING) {
            return self.end(&socket, Reason::Closed);
        }
        socket.watch_in(true);
        self.read_for_closed(&socket);
    }

    /// The program wants the session reset. Where the RESET cannot be told at once, the session is
    /// kept for its linger until it is: the kernel may be full, and a client in an outage has to
    /// dial for it. A server's client dials by itself and is told by a tombstone.
    pub(super) fn reset(&mut self, socket: &Arc<Socket>) {
        let told = {
            let Ok(mut tx) = socket.tx.lock() else { return self.end(socket, Reason::Reset) };
            let Some(sender) = tx.sender.as_mut() else {
                drop(tx);
                return self.end(socket, Reason::Reset);
            };
            sender.want_reset(0);
            let flushed = socket.flush(&mut tx, false);
            if flushed == Flushed::Owed {
                socket.owe();
            }
            let told = tx.number >= 0 && flushed == Flushed::All;
            if told {
                super::serve::take_unread(tx.number);
            }
            told
        };
        let over = socket.has(bits::FAILED | bits::OVER | bits::CONNECTING);
        let detached = socket.has(bits::DETACHED);
        let never = matches!(socket.config.policy, RecoveryPolicy::Never);
        if told || over || detached && (never || !is_client(socket)) {
            return self.end(socket, Reason::Reset);
        }
        let Some(owned) = self.owned.get_mut(&socket.id) else { return };
        if owned.linger.is_none() {
            let until = clock::now() + socket.config.linger.min(FOREVER);
            owned.linger = Some(Box::new(Linger { reset: true, ..Linger::new(until) }));
            self.timers.set(until, Timer::Linger(socket.id));
        }
        socket.watch_in(true);
        if detached {
            let planned = socket.meta.lock().is_ok_and(|mut meta| {
                // A program that has closed cannot be asked.
                meta.rare_mut().asking = false;
                meta.rare().next_try.is_some()
            });
            if !planned {
                self.plan_redial(socket);
            }
        }
    }

    /// True for a session of which only a RESET is still to be told.
    pub(super) fn is_resetting(&self, socket: &Socket) -> bool {
        let owned = self.owned.get(&socket.id);
        owned.is_some_and(|owned| owned.linger.as_ref().is_some_and(|linger| linger.reset))
    }

    /// Reads in the stead of a program that has closed: acks count, payload is answered with STOP.
    pub(super) fn read_for_closed(&mut self, socket: &Arc<Socket>) {
        let (unread, consumed, ended) = {
            let Ok(mut rx) = socket.rx.try_lock() else { return socket.watch_in(true) };
            // One round for each event: the watch tells if there is more, and the STOP must go out
            // before all of an upload was read. Not past a thread that is in a read still: what it
            // gets comes first, and it says when it is out.
            if !socket.sleepers.has_leader() {
                socket.read_ahead_locked(&mut rx);
            }
            let Some(receiver) = rx.receiver.as_mut() else { return };
            let unread = receiver.discard_stash();
            socket.after_input(receiver);
            (unread, receiver.consumed(), receiver.fin_seen())
        };
        let Some(linger) = self.owned.get_mut(&socket.id).and_then(|owned| owned.linger.as_mut())
        else {
            return;
        };
        let Ok(mut tx) = socket.tx.try_lock() else { return socket.watch_in(true) };
        socket.absorb(&mut tx);
        let Some(sender) = tx.sender.as_mut() else { return };
        if unread > 0 && !linger.stop_sent {
            linger.stop_sent = true;
            sender.want_stop(consumed);
        }
        if sender.acked() > linger.acked {
            // The peer takes what was written: it gets the time that it needs.
            linger.acked = sender.acked();
            linger.until = clock::now() + socket.config.linger.min(FOREVER);
        }
        let done = sender.is_done() && ended;
        if socket.flush(&mut tx, false) == Flushed::Owed {
            socket.owe();
        }
        socket.finish_tx(tx);
        if !done {
            return;
        }
        if !socket.has(bits::DETACHED) {
            self.over(socket);
        } else if self.owned.get(&socket.id).is_some_and(|owned| !owned.last_call) {
            self.call_once_more(socket);
        }
        // Else the last call is under way.
    }

    /// The time to deliver the rest is over, unless the peer goes on confirming.
    pub(super) fn linger_over(&mut self, id: u64) {
        let Some(owned) = self.owned.get(&id) else { return };
        let socket = Arc::clone(&owned.socket);
        let acked =
            socket.tx.lock().map_or(0, |tx| tx.sender.as_ref().map_or(0, |sender| sender.acked()));
        let Some(linger) = self.owned.get_mut(&id).and_then(|owned| owned.linger.as_mut()) else {
            return;
        };
        if acked > linger.acked {
            // The peer takes what was written: it gets the time that it needs.
            linger.acked = acked;
            linger.until = clock::now() + socket.config.linger.min(FOREVER);
        }
        if linger.until > clock::now() {
            self.timers.set(linger.until, Timer::Linger(id));
            return;
        }
        self.stop_lingering(&socket);
    }

    /// What was not delivered by now will not be.
    fn stop_lingering(&mut self, socket: &Arc<Socket>) {
        let id = socket.id;
        let delivered = socket
            .tx
            .lock()
            .is_ok_and(|tx| tx.sender.as_ref().is_some_and(|sender| sender.is_done()));
        if let Ok(mut tx) = socket.tx.lock() {
            if let Some(sender) = tx.sender.as_mut() {
                sender.want_reset(0);
            }
            socket.flush(&mut tx, false);
        }
        if !delivered {
            log::warn!("session {id}: closed before the peer confirmed everything");
        }
        self.end(socket, if delivered { Reason::Closed } else { Reason::Reset });
    }

    /// Both directions have ended and both ends know it.
    pub(super) fn over(&mut self, socket: &Arc<Socket>) {
        if self.defer_over_for_pump(socket.id) {
            return;
        }
        if !self.owned.contains_key(&socket.id) {
            // Ended already; a late look at it must not tell so again.
            return;
        }
        self.tell_end(socket);
        self.end(socket, Reason::Closed);
    }

    /// The session has failed; the program's calls say so already.
    pub(super) fn failed(&mut self, socket: Arc<Socket>, cause: String) {
        let is_told = socket.has(bits::CLOSED) && !self.owned.contains_key(&socket.id);
        if is_told && socket.meta.lock().is_ok_and(|meta| meta.ended.is_some()) {
            // With the close.
            return;
        }
        if !self.tell_failure(&socket, &cause) {
            return;
        }
        let expired = socket.failure_number() == libc::ETIMEDOUT;
        self.end(&socket, if expired { Reason::Expired } else { Reason::Reset });
    }

    /// Tells the peer, if a connection stands, the program's sleepers, and those who watch. False
    /// when a lock was taken: then this comes again.
    pub(super) fn tell_failure(&mut self, socket: &Arc<Socket>, cause: &str) -> bool {
        // Without the RESET the peer would wait for a resume until its grace is over.
        let is_told = match Socket::try_lock(&socket.tx) {
            Ok(None) => false,
            Ok(Some(mut tx)) if tx.number >= 0 => {
                if let Some(sender) = tx.sender.as_mut() {
                    sender.want_reset(0);
                }
                socket.flush(&mut tx, false);
                true
            }
            Ok(Some(_)) | Err(_) => true,
        };
        match if is_told { socket.abandon() } else { Ok(Err(Busy)) } {
            Ok(Err(Busy)) => {
                let (socket, cause) = (Arc::clone(socket), cause.to_owned());
                self.again.push(Command::Failed { socket, cause });
                return false;
            }
            Ok(Ok(())) => {}
            Err(error) => log::warn!("session {}: {error}", socket.id),
        }
        log::warn!("session {} has failed: {cause}", socket.id);
        if let Ok(mut meta) = socket.meta.lock() {
            meta.rare_mut().last_error = Some(cause.to_owned());
            let errno = socket.failure_number();
            socket.tell(&mut meta, EventKind::Failed { cause: cause.to_owned(), errno });
        }
        true
    }

    /// Lets a session go; a server remembers enough to answer a late resume.
    pub(super) fn end(&mut self, socket: &Arc<Socket>, reason: Reason) {
        let Some(owned) = self.owned.remove(&socket.id) else { return };
        self.end_dial(socket.id);
        self.end_pump(socket, reason);
        match (socket.failure_number(), reason) {
            (0, Reason::Closed) if socket.has(bits::GUESTS) => {
                socket.guests_are_over();
                // Those that have read all are told before anybody looks whether they are.
                socket.serve_guests(false);
                if self.births_until.is_some() {
                    self.linger_for_guests();
                }
                self.again.push(Command::Orphaned { socket: Arc::clone(socket) });
            }
            (0, Reason::Closed) => {}
            (0, _) => socket.end_guests(libc::ECONNRESET),
            (number, _) => socket.end_guests(number),
        }
        if let Ok(mut meta) = socket.meta.lock() {
            let consumed = socket.acks().ack;
            meta.ended = Some(reason);
            if let Some(control) = meta.control.as_ref()
                && control.role == Role::Server
            {
                self.tombstones.insert(owned.id, control.bury(reason, consumed));
            }
            let listener = meta.born_of.take();
            drop(meta);
            self.by_session.remove(&owned.id);
            if let Some(listener) = listener {
                listener.tell_ended(self.engine.instance, owned.id);
                self.retire_listener(listener.id);
            }
        }
        if socket.has(bits::CLOSED) {
            if socket.watch.lock().is_ok_and(|watch| watch.number >= 0) {
                socket.retire_watch();
            }
            if let Ok(mut place) = socket.place.lock() {
                // Everything is confirmed, or given up: an orderly close says so.
                place.private = None;
                place.placeholder = None;
            }
            if let (Ok(mut tx), Ok(mut rx)) = (socket.tx.lock(), socket.rx.lock()) {
                tx.number = -1;
                rx.number = -1;
            }
            self.engine.strike(socket.id);
        }
        // Who keeps it for another program waits for this (`exec::keep`).
        socket.sleepers.ring();
    }

    /// The process exits: all that was written is to be delivered first.
    pub(super) fn drain(&mut self, done: ChannelSender<()>, exits: bool) {
        let mine: Vec<_> = self
            .owned
            .values()
            .filter(|owned| owned.socket.owner.is(self.engine.instance))
            .map(|owned| (Arc::clone(&owned.socket), owned.linger.is_some()))
            .collect();
        for (socket, lingers) in mine {
            if socket.has(bits::FAILED) {
                // Ours still, so its peer has yet to be told.
                socket.change(bits::CLOSED | bits::WRITE_SHUT, 0);
                self.failed(Arc::clone(&socket), last_error(&socket));
                // Or later, when the lock that was taken is free.
                continue;
            }
            if socket.has(bits::CONNECTING) {
                self.owned.remove(&socket.id);
                continue;
            }
            if lingers {
                continue;
            }
            if socket.has(bits::GUESTS) && self.leave_guests(&socket) {
                // The last of them closes it.
                socket.change(bits::ORPHAN, 0);
                let until = clock::now() + socket.config.linger.min(FOREVER);
                if let Some(owned) = self.owned.get_mut(&socket.id) {
                    let linger = Linger::new(until);
                    owned.linger = Some(Box::new(linger));
                }
                self.timers.set(until, Timer::Linger(socket.id));
                continue;
            }
            if !self.owned.contains_key(&socket.id) || socket.has(bits::CLOSED) {
                // Closed with its last guest.
                continue;
            }
            if socket.has(bits::PUMPED) {
                // What lies in the pair comes first: the pump reads to its end, then finishes.
                if let Ok(place) = socket.place.lock() {
                    for &number in &place.numbers {
                        let write = rustix::net::Shutdown::Write;
                        let _gone = rustix::net::shutdown(sys::borrow(number), write);
                    }
                }
                self.closed(socket, false);
                continue;
            }
            if let Ok(mut tx) = socket.tx.lock() {
                if let Some(sender) = tx.sender.as_mut() {
                    sender.finish();
                    // Nobody will read here any more; the peer's program need not find out late.
                    sender.want_stop(socket.acks().ack);
                }
                if socket.flush(&mut tx, false) == Flushed::Owed {
                    socket.owe();
                }
            }
            socket.change(bits::CLOSED | bits::WRITE_SHUT, 0);
            self.closed(socket, false);
        }
        self.draining = Some(done);
        self.timers.set(clock::now() + EXIT_LOOK, Timer::Exit);
        if exits {
            self.linger_for_guests();
            let until = clock::now() + BIRTHS_MAX;
            self.births_until = Some(until);
            // Only to look again then.
            self.timers.set(until, Timer::Line(usize::MAX));
        }
    }

    /// While the process exits: whose peer cannot be reached gets less time than one that only
    /// reads slowly. A connection that stands is worth the whole linger, as the kernel would go on
    /// delivering after an exit too.
    pub(super) fn look_at_exit(&mut self) {
        if self.draining.is_none() {
            return;
        }
        let now = clock::now();
        self.timers.set(now + EXIT_LOOK, Timer::Exit);
        let mut hopeless = Vec::new();
        for owned in self.owned.values_mut() {
            let socket = &owned.socket;
            let Some(linger) = owned.linger.as_mut() else { continue };
            if !socket.owner.is(self.engine.instance) {
                continue;
            }
            let Ok(tx) = socket.tx.lock() else { continue };
            let acked = tx.sender.as_ref().map_or(0, |sender| sender.acked());
            let stands = tx.number >= 0 && !super::fault::is_backing_off(tx.number);
            drop(tx);
            let (since, before) = *linger.unreachable.get_or_insert((now, acked));
            if stands || acked > before {
                linger.unreachable = None;
                continue;
            }
            let whole = socket.config.linger;
            if now - since >= (whole / EXIT_PART).max(EXIT_LEAST.min(whole)) {
                hopeless.push(Arc::clone(socket));
            }
        }
        for socket in hopeless {
            self.stop_lingering(&socket);
        }
    }

    /// True when a drain has nothing left to wait for.
    pub(super) fn is_drained(&self) -> bool {
        self.draining.is_some()
            && !self.is_giving_birth()
            && !self.guests_read_on()
            && self.owned.values().all(|owned| {
                let socket = &owned.socket;
                !socket.owner.is(self.engine.instance)
                    || socket.tx.lock().map_or(true, |tx| {
                        tx.sender
                            .as_ref()
                            .is_none_or(|sender| sender.is_done() || sender.is_reset())
                    })
            })
    }
}

fn last_error(socket: &Socket) -> String {
    let known = socket.meta.lock().ok().and_then(|meta| meta.rare().last_error.clone());
    known.unwrap_or_default()
}

fn is_client(socket: &Socket) -> bool {
    socket
        .meta
        .lock()
        .is_ok_and(|meta| meta.control.as_ref().is_some_and(|control| control.role == Role::Client))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use eversock_proto::wire::frame::Kind;
    use std::os::fd::AsRawFd;

    /// The program, told by its bits, closed or exited before the engine had heard of the failure:
    /// the connection ended without a RESET, and a server waited for a resume until its grace was
    /// over.
    #[test]
    fn a_failure_that_comes_behind_a_close_or_an_exit_is_told_to_the_peer_and_once() {
        for first in ["failed", "closed", "drain"] {
            let mut reactor = Reactor::for_test();
            let (socket, far) = reactor.session_for_test(Config::default());
            let (subscriber, events) = crossbeam_channel::bounded(8);
            socket
                .meta
                .lock()
                .expect("a lock")
                .rare_mut()
                .subscribers
                .push(crate::event::Subscriber::new(subscriber, None));
            assert!(socket.set_failure(libc::ECONNABORTED));
            if first != "drain" {
                socket.change(bits::CLOSED | bits::WRITE_SHUT, 0);
            }
            match first {
                "closed" => reactor.closed(Arc::clone(&socket), false),
                "drain" => reactor.drain(crossbeam_channel::bounded(1).0, true),
                _ => {}
            }
            reactor.failed(Arc::clone(&socket), "ended by an operator".to_owned());
            if first == "failed" {
                reactor.closed(Arc::clone(&socket), false);
            }
            let mut said = [0; 256];
            let n = sys::io::recv_one(far.as_raw_fd(), &mut said).expect("it has said something");
            // START, then RESET, each with a body of eight bytes.
            assert_eq!((n, said[0], said[24]), (48, Kind::Start as u8, Kind::Reset as u8));
            let failures = events.try_iter().filter(|e| matches!(e.kind, EventKind::Failed { .. }));
            assert_eq!(failures.count(), 1, "first: {first}");
            assert!(reactor.owned.is_empty());
        }
    }
}
