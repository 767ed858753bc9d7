//! Checks of connections that stand: does the peer want to be left, has it begun to speak.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eversock_proto::control::Role;
use eversock_proto::limits::{HANDSHAKE_DEADLINE, RECORD_DEADLINE};
use eversock_proto::redial::Redial;

use super::timer::Timer;
use super::{Owned, Reactor};
use crate::clock;
use crate::config::RecoveryPolicy;
use crate::event::EventKind;
use crate::socket::{Socket, bits};
use crate::sys;

/// The redials that a peer's GOAWAYs ask for.
///
/// They have a back-off of their own: a server may say GOAWAY on every connection, and each resume
/// may bring progress, which clears the back-off of faults.
#[derive(Debug, Default)]
pub(super) struct Away {
    redial: Redial,
    due: Option<Instant>,
}

impl Away {
    /// True when there is something to remember.
    pub(super) fn is_known(&self) -> bool {
        self.due.is_some() || self.redial.attempts() > 0
    }

    /// Another connection stands: what was asked on the one before is done.
    pub(super) fn forget(&mut self) {
        self.due = None;
    }
}

/// Where the bytes of a sealed connection have stopped in the middle of a record, and since when.
#[derive(Debug)]
pub(super) struct Halted {
    epoch: u64,
    taken: u64,
    since: Instant,
}

impl Reactor {
    /// Ends the session of a socket whose numbers are gone as a close would.
    pub(super) fn look_at(&mut self, socket: &Arc<Socket>) {
        if !socket.owner.is(self.engine.instance) {
            return;
        }
        // Busy: the program uses it at this moment, so it has its number.
        let Ok(Ok(Some(epoch))) = socket.look_for_numbers() else { return };
        log::warn!("session {}: all its descriptors were closed past eversock", socket.id);
        socket.kick();
        self.closed(Arc::clone(socket), false);
        if epoch > 0 {
            self.fault(Arc::clone(socket), epoch, "its descriptor was closed".to_owned());
        }
    }

    /// The peer says GOAWAY: it is resumed elsewhere if another address is known, or later.
    pub(super) fn goaway(&mut self, socket: &Arc<Socket>) {
        // As for every dial beside a connection that stands.
        if !matches!(socket.config.policy, RecoveryPolicy::Automatic)
            || socket.has(bits::DETACHED | bits::FAILED | bits::OVER | bits::CONNECTING)
        {
            return;
        }
        let since = socket.meta.lock().ok().and_then(|meta| {
            let control = meta.control.as_ref()?;
            meta.attached_since.filter(|_| control.role == Role::Client)
        });
        let Some(since) = since else { return };
        let Some(owned) = self.owned.get_mut(&socket.id) else { return };
        let away = &mut owned.trouble_mut().away;
        if away.due.is_some() {
            return;
        }
        let now = clock::now();
        let back_off = socket.config.back_off;
        if now - since > back_off.cap {
            // It was content with us for long enough.
            away.redial.progress();
        }
        let random = sys::fd::jitter() as u32;
        let at = now + away.redial.next(back_off, random);
        away.due = Some(at);
        self.timers.set(at, Timer::Away(socket.id));
    }

    /// The time for the redial that a GOAWAY asked for has come.
    pub(super) fn away_due(&mut self, id: u64) {
        let Some(owned) = self.owned.get_mut(&id) else { return };
        let Some(trouble) = owned.trouble.as_mut() else { return };
        if trouble.away.due.is_none_or(|at| at > clock::now()) {
            return;
        }
        trouble.away.due = None;
        let socket = Arc::clone(&owned.socket);
        if socket.has(bits::DETACHED | bits::FAILED | bits::OVER | bits::CLOSED) {
            // A fault came first, and has a redial of its own; or nobody needs a better place.
            return;
        }
        let here = socket.route().map(|(peer, _)| peer);
        let Ok(meta) = socket.meta.lock() else { return };
        let mut addrs = meta.candidates.clone();
        drop(meta);
        // Where we are is the last place to go to.
        if let Some(at) = addrs.iter().position(|&addr| Some(addr) == here) {
            addrs[at..].rotate_left(1);
        }
        self.dial(&socket, addrs, false);
    }

    /// True when both directions have ended and both ends know it, although the program keeps the
    /// socket: subscribers are told now. The session itself goes with the program's number, or
    /// with its connection, as the peer may still ask for an ack that was lost.
    pub(super) fn note_end(&self, socket: &Arc<Socket>) -> bool {
        if socket.has(bits::OVER | bits::FAILED | bits::CLOSED | bits::PUMPED | bits::DETACHED) {
            return socket.has(bits::OVER);
        }
        let (Ok(tx), Ok(rx)) = (socket.tx.lock(), socket.rx.lock()) else { return false };
        let (Some(sender), Some(receiver)) = (tx.sender.as_ref(), rx.receiver.as_ref()) else {
            return false;
        };
        let told = !sender.ack_is_stale(receiver.acks()) && !sender.has_output();
        if !sender.is_done() || !receiver.is_at_end() || !told {
            return false;
        }
        drop((tx, rx));
        self.tell_end(socket);
        true
    }

    /// Says once that a session is over.
    pub(super) fn tell_end(&self, socket: &Arc<Socket>) {
        let told = socket.has(bits::OVER);
        socket.change(bits::OVER | bits::STOPPED, bits::WANTS_CREDIT | bits::NO_ROOM);
        if !told && let Ok(mut meta) = socket.meta.lock() {
            socket.tell(&mut meta, EventKind::Closed);
        }
    }

    /// Gives up a sealed connection whose record does not go on: somebody has taken bytes out of
    /// the stream, or made a length greater. What is queued and unread is our own affair, not the
    /// peer's.
    pub(super) fn look_at_record(&mut self, socket: &Arc<Socket>) {
        let halted = {
            let Ok(mut rx) = socket.rx.try_lock() else { return socket.list_for_sweep() };
            let (epoch, number) = (rx.epoch, rx.number);
            let Some(receiver) = rx.receiver.as_mut().filter(|receiver| receiver.is_sealed())
            else {
                return;
            };
            receiver.rest();
            let waits = number >= 0 && receiver.is_mid_record() && sys::io::queued(number) == 0;
            if receiver.is_mid_record() && number >= 0 {
                socket.list_for_sweep();
            }
            waits.then(|| Halted { epoch, taken: receiver.taken(), since: clock::now() })
        };
        let Some(owned) = self.owned.get_mut(&socket.id) else { return };
        let Some(now) = halted else {
            if let Some(trouble) = owned.trouble.as_mut() {
                trouble.halted = None;
            }
            return;
        };
        let halted = &mut owned.trouble_mut().halted;
        match halted {
            Some(was) if (was.epoch, was.taken) == (now.epoch, now.taken) => {
                let within = socket.config.connect_timeout.min(RECORD_DEADLINE);
                if now.since - was.since >= within {
                    *halted = None;
                    let cause = "a record has begun and does not go on".to_owned();
                    self.fault(Arc::clone(socket), now.epoch, cause);
                }
            }
            _ => *halted = Some(now),
        }
    }

    /// A connection stands: the peer must begin to speak on it within the time of a handshake.
    ///
    /// The first START of a server comes when its program accepts, which may be never: a client
    /// that has heard nothing of the session yet waits for as long as the connection stands.
    pub(super) fn expect_start(&mut self, socket: &Arc<Socket>, epoch: u64) {
        let is_server = socket.meta.lock().is_ok_and(|meta| {
            meta.control.as_ref().is_some_and(|control| control.role == Role::Server)
        });
        let heard = socket
            .rx
            .lock()
            .is_ok_and(|rx| rx.receiver.as_ref().is_some_and(|receiver| receiver.frames() > 0));
        if is_server || heard {
            let within = socket.config.connect_timeout.min(HANDSHAKE_DEADLINE);
            self.timers.set(clock::now() + within, Timer::Start(socket.id, epoch));
        }
    }

    /// False once START has come, or nobody waits for it any more.
    pub(super) fn owes_start(&self, id: u64, epoch: u64) -> bool {
        let Some(Owned { socket, .. }) = self.owned.get(&id).map(|owned| &**owned) else {
            return false;
        };
        let gone = bits::DETACHED | bits::FAILED | bits::OVER | bits::CONNECTING;
        if !socket.owner.is(self.engine.instance) || socket.has(gone) {
            return false;
        }
        // A program that does not read leaves START in the kernel's queue.
        socket.eat_control_frames();
        let Ok(rx) = socket.rx.try_lock() else { return true };
        let silent = rx.receiver.as_ref().is_some_and(|receiver| !receiver.has_started());
        silent && rx.epoch == epoch && rx.number >= 0
    }

    /// The peer has had its time to say START.
    pub(super) fn start_due(&mut self, id: u64, epoch: u64) {
        if !self.owes_start(id, epoch) {
            return;
        }
        let Some(owned) = self.owned.get(&id) else { return };
        let socket = Arc::clone(&owned.socket);
        let silent = {
            let Ok(rx) = socket.rx.lock() else { return };
            let Some(receiver) = rx.receiver.as_ref() else { return };
            if rx.epoch != epoch || rx.number < 0 || receiver.has_started() {
                return;
            }
            sys::io::queued(rx.number) == 0
        };
        if silent {
            self.fault(socket, epoch, "the peer confirmed and then said nothing".to_owned());
        } else {
            // A reader of the program's is about to take what has come.
            let soon = clock::now() + Duration::from_millis(10);
            self.timers.set(soon, Timer::Start(id, epoch));
        }
    }
}
