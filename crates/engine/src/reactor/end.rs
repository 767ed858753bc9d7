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
use crate::event::EventKind;
use crate::socket::link::Busy;
use crate::socket::{Socket, bits};
use crate::sys;

/// Sessions that are remembered after their end, at most.
const TOMBSTONES_MAX: usize = 4096;

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
}

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
            owned.linger = Some(Linger { until, acked: 0, stop_sent: false });
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
            if let Ok(mut tx) = socket.tx.lock() {
                if let Some(sender) = tx.sender.as_mut() {
                    sender.want_reset(0);
                }
                socket.flush(&mut tx, false);
            }
            return self.end(&socket, Reason::Reset);
        }
        if socket.has(bits::FAILED | bits::OVER | bits::CONNECTING) {
            return self.end(&socket, Reason::Closed);
        }
        socket.watch_in(true);
        self.read_for_closed(&socket);
    }

    /// Reads in the stead of a program that has closed: acks count, payload is answered with STOP.
    pub(super) fn read_for_closed(&mut self, socket: &Arc<Socket>) {
        let (unread, consumed, ended) = {
            let Ok(mut rx) = socket.rx.try_lock() else { return socket.watch_in(true) };
            // One round for each event: the watch tells if there is more, and the STOP must go out
            // before all of an upload was read.
            socket.read_ahead_locked(&mut rx);
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
        if socket.flush(&mut tx, false) == crate::socket::send::Flushed::Owed {
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
        self.end(&socket, if delivered { Reason::Closed } else { Reason::Reset });
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
        socket.change(bits::OVER | bits::STOPPED, bits::WANTS_CREDIT | bits::NO_ROOM);
        if let Ok(mut meta) = socket.meta.lock() {
            socket.tell(&mut meta, EventKind::Closed);
        }
        self.end(socket, Reason::Closed);
    }

    /// The session has failed; the program's calls say so already.
    pub(super) fn failed(&mut self, socket: Arc<Socket>, cause: String) {
        log::warn!("session {} has failed: {cause}", socket.id);
        if let Ok(mut tx) = socket.tx.try_lock()
            && tx.number >= 0
        {
            if let Some(sender) = tx.sender.as_mut() {
                sender.want_reset(0);
            }
            socket.flush(&mut tx, false);
        }
        match socket.abandon() {
            Ok(Err(Busy)) => return self.again.push(Command::Failed { socket, cause }),
            Ok(Ok(())) => {}
            Err(error) => log::warn!("session {}: {error}", socket.id),
        }
        if let Ok(mut meta) = socket.meta.lock() {
            meta.last_error = Some(cause.clone());
            let errno = socket.failure_number();
            socket.tell(&mut meta, EventKind::Failed { cause, errno });
        }
        let expired = socket.failure_number() == libc::ETIMEDOUT;
        self.end(&socket, if expired { Reason::Expired } else { Reason::Reset });
    }

    /// Lets a session go; a server remembers enough to answer a late resume.
    fn end(&mut self, socket: &Arc<Socket>, reason: Reason) {
        let Some(owned) = self.owned.remove(&socket.id) else { return };
        self.end_dial(socket.id);
        self.end_pump(socket, reason);
        socket.end_guests(match (socket.failure_number(), reason) {
            (0, Reason::Closed) => 0,
            (0, _) => libc::ECONNRESET,
            (number, _) => number,
        });
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
            if socket.has(bits::CONNECTING | bits::FAILED) {
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
                    owned.linger = Some(Linger { until, acked: 0, stop_sent: false });
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
                if socket.flush(&mut tx, false) == crate::socket::send::Flushed::Owed {
                    socket.owe();
                }
            }
            socket.change(bits::CLOSED | bits::WRITE_SHUT, 0);
            self.closed(socket, false);
        }
        self.draining = Some(done);
        if exits {
            let until = clock::now() + BIRTHS_MAX;
            self.births_until = Some(until);
            // Only to look again then.
            self.timers.set(until, Timer::Line(usize::MAX));
        }
    }

    /// True when a drain has nothing left to wait for.
    pub(super) fn is_drained(&self) -> bool {
        self.draining.is_some()
            && !self.is_giving_birth()
            && self.owned.values().all(|owned| {
                let socket = &owned.socket;
                !socket.owner.is(self.engine.instance)
                    || socket
                        .tx
                        .lock()
                        .map_or(true, |tx| tx.sender.as_ref().is_none_or(|sender| sender.is_done()))
            })
    }
}
