//! Faults: seen, checked, recovered from or given up.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use core::net::SocketAddr;
use eversock_proto::control::Role;
use eversock_proto::resume::Reason;

use super::dial::Dial;
use super::timer::Timer;
use super::{Command, Reactor};
use crate::clock;
use crate::config::{Answer, FaultReport, LineUp, RecoveryPolicy};
use crate::error::is_shortage;
use crate::event::EventKind;
use crate::process::Holder;
use crate::socket::link::{Busy, TakenDown};
use crate::socket::send::Flushed;
use crate::socket::{Socket, bits};
use crate::sys::thread::ROOMY;
use crate::sys::{self, tcp};

/// Sockets of the fault watch that are looked at in one turn of the engine.
const WATCHED_PER_TURN: usize = 64;
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Retransmission time-outs in a row before the path is probed beside.
const BACKOFF_SUSPICIOUS: u8 = 2;
/// A connection that stood this long clears the back-off.
const STOOD_WELL: Duration = Duration::from_secs(1);
const LINE_UP_MAX: Duration = Duration::from_secs(30);
/// How long a session has had unconfirmed output without hearing anything.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    progress: u64,
    since: Option<Instant>,
    /// Doubles while checks gain nothing.
    patience: u32,
}

impl Quiet {
    /// A look at `now`: true when the silence has lasted for so long, `after` at first, that the
    /// path is to be tried, or when the kernel suspects it too.
    fn look(
        &mut self,
        progress: u64,
        now: Instant,
        after: Duration,
        suspicious: impl FnOnce() -> bool,
    ) -> bool {
        let Some(since) = self.since.filter(|_| self.progress == progress) else {
            *self = Self { progress, since: Some(now), patience: 0 };
            return false;
        };
        let is_long = now - since >= after.saturating_mul(1 << self.patience.min(10));
        self.patience += u32::from(is_long);
        is_long || suspicious()
    }

    /// Another connection stands: silence counts from now on. The patience stays, as a resume alone
    /// gains nothing: a peer whose program pauses would otherwise be resumed at the first pace for
    /// as long as it does.
    pub(super) fn stands_anew(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
    }
}

impl Reactor {
    /// The fault watch has something. A part is taken in one turn, so that of ten thousand
    /// connections which die together the first are replaced before the last are looked at: one
    /// whose resume comes before that needs nothing in its place meanwhile.
    pub(super) fn watched(&mut self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; WATCHED_PER_TURN];
        let (watch, most) = (self.engine.watch.as_raw_fd(), WATCHED_PER_TURN as i32);
        // SAFETY: `events` is writable for its length.
        let n = unsafe { libc::epoll_wait(watch, events.as_mut_ptr(), most, 0) };
        let Ok(n) = usize::try_from(n) else { return };
        self.watch_again = n == WATCHED_PER_TURN;
        for event in &events[..n] {
            let (id, seen) = (event.u64, event.events.cast_signed());
            if let Some(owned) = self.owned.get(&id) {
                let socket = Arc::clone(&owned.socket);
                self.watched_one(&socket, seen);
            }
        }
    }

    fn watched_one(&mut self, socket: &Arc<Socket>, seen: i32) {
        let gone = seen & (libc::EPOLLRDHUP | libc::EPOLLERR | libc::EPOLLHUP) != 0;
        let mine = socket.owner.is(self.engine.instance) || gone && self.claim_later(socket);
        if !mine {
            return;
        }
        if seen & libc::EPOLLOUT != 0
            && let Ok(mut tx) = socket.tx.try_lock()
        {
            socket.absorb(&mut tx);
            // Decided under the lock, so that who owes next is not overruled.
            let all = socket.flush(&mut tx, false) == Flushed::All;
            socket.rewatch(|watch| watch.wants_out = !all);
            socket.finish_tx(tx);
            if all && socket.has(bits::PUMPED) {
                self.pump_session(socket.id);
            }
        }
        if seen & libc::EPOLLIN != 0 || gone {
            if socket.has(bits::CLOSED) {
                self.read_for_closed(socket);
            } else if socket.has(bits::PUMPED) {
                self.pump_session(socket.id);
            } else {
                socket.read_ahead();
                self.credit_came(socket);
            }
        }
        if gone {
            let epoch = socket.tx.try_lock().map_or(0, |tx| tx.epoch);
            let real = socket.place.lock().ok().and_then(|place| place.real_number());
            let cause = real.and_then(tcp::take_error);
            let cause =
                cause.map_or_else(|| "the connection was closed".to_owned(), |e| e.to_string());
            if epoch == 0 {
                socket.rewatch(|_| ());
                return;
            }
            self.fault(Arc::clone(socket), epoch, cause);
            return;
        }
        socket.rewatch(|watch| {
            watch.wants_in = socket.has(bits::WANTS_CREDIT | bits::CLOSED | bits::PUMPED)
                && !socket.has(bits::DETACHED);
        });
        if socket.has(bits::GUESTS) {
            self.serve_guests(socket);
        }
    }

    /// After a fork nobody owns a session until its program does I/O; but one whose connection dies
    /// needs somebody. Only a process whose program still has the number may be that.
    pub(super) fn claim_unclaimed(&self, socket: &Arc<Socket>) -> bool {
        let has_number = socket.place.lock().is_ok_and(|place| !place.numbers.is_empty());
        has_number && socket.owner.claim(self.engine.instance, false)
    }

    /// True when this engine may take a session that nobody has used since a fork.
    pub(super) fn may_claim(&self, socket: &Socket) -> bool {
        crate::process::time_to_claim().is_none()
            && socket.place.lock().is_ok_and(|place| !place.numbers.is_empty())
    }

    fn is_nobodys(&self, socket: &Socket) -> bool {
        socket.owner.holder(self.engine.instance) == Holder::Nobody
    }

    /// The same, but not so soon after a fork that a parent may still be about to close its number.
    pub(super) fn claim_later(&mut self, socket: &Arc<Socket>) -> bool {
        if self.is_nobodys(socket)
            && let Some(wait) = crate::process::time_to_claim()
        {
            self.timers.set(clock::now() + wait, Timer::Unclaimed(socket.id));
            return false;
        }
        self.claim_unclaimed(socket)
    }

    /// A connection died just after a fork, and the time for a program to claim it is over.
    pub(super) fn unclaimed(&mut self, id: u64) {
        let Some(owned) = self.owned.get(&id) else { return };
        let socket = Arc::clone(&owned.socket);
        // Nobody's still, so its connection is still the dead one.
        if self.is_nobodys(&socket) && socket.has(bits::DETACHED) {
            if self.claim_unclaimed(&socket) {
                self.plan_redial(&socket);
            }
        } else if self.is_nobodys(&socket) {
            self.watched_one(&socket, libc::EPOLLRDHUP);
        }
    }

    fn credit_came(&mut self, socket: &Arc<Socket>) {
        if let Ok(mut tx) = socket.tx.try_lock() {
            socket.absorb(&mut tx);
            socket.finish_tx(tx);
        }
        socket.grow_own_window();
    }

    /// A connection is dead: away with it, and recover if that is wanted.
    pub(super) fn fault(&mut self, socket: Arc<Socket>, epoch: u64, cause: String) {
        // Not so soon after a fork: a parent that claimed it and then closes its number would end
        // the session which its child is about to use.
        if !socket.owner.is(self.engine.instance) && !self.claim_later(&socket) {
            return;
        }
        if self.is_being_replaced(&socket) {
            // A reader that had to leave for the proven connection takes that for an end. If the
            // change comes about the epoch is stale; if not, this is looked at then.
            return self.again.push(Command::Fault { socket, epoch, cause });
        }
        if self.is_outlived(&socket, epoch) {
            // Late: the connection was followed by one that is dead too by now.
            return;
        }
        let seen = self.fault_seen(&socket, epoch);
        if self.awaits_confirm(&socket, seen) {
            // The client has perhaps confirmed another connection and then closed this one, and the
            // two came the other way round. That is no fault, and nobody is to be asked about it.
            self.put_off(&socket, epoch, seen, "");
            return self.again.push(Command::Fault { socket, epoch, cause });
        }
        match socket.take_down(epoch) {
            Ok(Err(Busy)) => return self.again.push(Command::Fault { socket, epoch, cause }),
            // Only before anything was changed: afterwards the next look would find nothing to do.
            Err(error)
                if is_shortage(&error)
                    && !socket.has(bits::DETACHED)
                    && self.may_wait(&socket, seen) =>
            {
                log::debug!("session {}: no placeholder for now: {error}", socket.id);
                self.put_off(&socket, epoch, seen, &cause);
                return self.look_again(&socket);
            }
            Ok(Ok(TakenDown::Stale)) => {}
            Ok(Ok(TakenDown::Over)) => self.call_once_more(&socket),
            Ok(Ok(TakenDown::Detached)) => self.detached(&socket, cause),
            Ok(Ok(TakenDown::Spoiled(cause))) => self.spoiled(&socket, cause),
            Err(error) => {
                let number = crate::error::number(&error);
                let cause = format!("no placeholder for the dead connection: {error}");
                if socket.set_failure(number) {
                    self.failed(Arc::clone(&socket), cause);
                }
            }
        }
        let owned = self.owned.get_mut(&socket.id);
        if let Some(trouble) = owned.and_then(|owned| owned.trouble.as_mut()) {
            trouble.put_off = None;
        }
    }

    /// True while a proven connection waits for the socket's locks, or for its reader.
    fn is_being_replaced(&self, socket: &Arc<Socket>) -> bool {
        self.dials.get(&socket.id).is_some_and(Dial::has_won) || self.is_attaching(socket)
    }

    /// Bytes of a direct connection went past us, so the session ends; the peer is told at once. A
    /// server's peer dials by itself and is told then, a client has to dial once more for it.
    fn spoiled(&mut self, socket: &Arc<Socket>, cause: &str) {
        let is_client = socket.meta.lock().is_ok_and(|meta| {
            meta.control.as_ref().is_some_and(|control| control.role == Role::Client)
        });
        if !socket.set_failure(libc::ECONNRESET) {
            return;
        }
        let owned = self.owned.get_mut(&socket.id).filter(|_| is_client);
        if let Some(owned) = owned {
            owned.tells = true;
            self.tell_failure(socket, cause);
            if !self.dials.contains_key(&socket.id) {
                self.resolve_and_dial(socket);
            }
        } else {
            self.failed(Arc::clone(socket), cause.to_owned());
        }
    }

    /// Both directions have ended, but our last ack may have died with the connection: a client
    /// dials once more, so that the server need not wait for it until its linger is over.
    pub(super) fn call_once_more(&mut self, socket: &Arc<Socket>) {
        let is_client = socket.meta.lock().is_ok_and(|meta| {
            meta.control.as_ref().is_some_and(|control| control.role == Role::Client)
        });
        let never = matches!(socket.config.policy, RecoveryPolicy::Never);
        match self.owned.get_mut(&socket.id) {
            Some(owned) if is_client && !owned.last_call && !never => {
                owned.last_call = true;
                if !self.dials.contains_key(&socket.id) {
                    self.resolve_and_dial(socket);
                }
            }
            _ => self.over(socket),
        }
    }

    fn detached(&mut self, socket: &Arc<Socket>, cause: String) {
        log::info!("session {}: {cause}", socket.id);
        let now = clock::now();
        let Ok(mut meta) = socket.meta.lock() else { return };
        meta.rare_mut().detached_since = Some(now);
        // A connection that stood for a while was worth its dial, even if nothing was said on it.
        let stood = meta.attached_since.take().map_or(Duration::ZERO, |since| now - since);
        if stood >= STOOD_WELL
            && let Some(control) = meta.control.as_mut()
        {
            control.redial.progress();
        }
        meta.rare_mut().last_error = Some(cause.clone());
        socket.tell(&mut meta, EventKind::Fault { cause: cause.clone() });
        let Some(control) = meta.control.as_ref() else { return };
        let role = control.role;
        let report = report(socket, control.id.to_string(), meta.peer, control.epoch(), &cause);
        let closed = !cause_is_silence(&cause);
        drop(meta);
        if role == Role::Server && self.is_resetting(socket) {
            // The client comes again, and a tombstone tells it.
            return self.end(socket, Reason::Reset);
        }
        let grace = match role {
            Role::Client => socket.config.grace,
            Role::Server if closed => socket.config.grace_after_close,
            Role::Server => socket.config.grace,
        };
        if let Some(owned) = self.owned.get_mut(&socket.id) {
            let until = now + grace.min(super::end::FOREVER);
            owned.trouble_mut().expires = Some(until);
            owned.trouble_mut().refused_since = None;
            self.timers.set(until, Timer::Grace(socket.id));
        }
        self.recover(socket, report);
        if socket.has(bits::GUESTS) {
            // What the connection still had is no event any more.
            self.serve_guests(socket);
        }
    }

    /// A session came to us without a connection: whoever had it before redials no more.
    pub(super) fn adopted_detached(&mut self, socket: &Arc<Socket>, role: Role) {
        let until = clock::now() + socket.config.grace.min(super::end::FOREVER);
        if let Some(owned) = self.owned.get_mut(&socket.id) {
            owned.trouble_mut().expires = Some(until);
            self.timers.set(until, Timer::Grace(socket.id));
        }
        if role == Role::Client {
            self.plan_redial(socket);
        }
    }

    /// Asks whoever decides, then redials (client) or waits (server).
    fn recover(&mut self, socket: &Arc<Socket>, report: FaultReport) {
        match &socket.config.policy {
            RecoveryPolicy::Never => self.give_up(socket, libc::ECONNRESET, &report.cause),
            // A program that has closed cannot be asked; what it wrote is delivered.
            _ if socket.has(bits::CLOSED) => self.plan_redial(socket),
            RecoveryPolicy::Automatic => self.plan_redial(socket),
            RecoveryPolicy::AskOutside => {
                if let Ok(mut meta) = socket.meta.lock() {
                    meta.rare_mut().asking = true;
                }
            }
            RecoveryPolicy::Ask(callback) => {
                if let Ok(mut meta) = socket.meta.lock() {
                    meta.rare_mut().asking = true;
                }
                let (callback, asked) = (Arc::clone(callback), Arc::clone(socket));
                let engine = self.engine;
                let ask = move || {
                    let call = std::panic::AssertUnwindSafe(|| callback(&report));
                    let answer = std::panic::catch_unwind(call).unwrap_or(Answer::GiveUp);
                    engine.command(Command::Answered { socket: asked, answer });
                };
                if sys::thread::spawn(c"eversock-ask", ROOMY, ask).is_err() {
                    self.give_up(socket, libc::EAGAIN, "no thread to ask the program on");
                }
            }
        }
    }

    /// The answer to a question.
    pub(super) fn answered(&mut self, socket: &Arc<Socket>, answer: Answer) {
        // Someone may have dialled without waiting for the answer.
        let asked =
            socket.meta.lock().is_ok_and(|mut meta| std::mem::take(&mut meta.rare_mut().asking));
        if !asked || !socket.has(bits::DETACHED) || socket.has(bits::FAILED) {
            return;
        }
        match answer {
            Answer::Continue => self.plan_redial(socket),
            Answer::GiveUp => self.give_up(socket, libc::ECONNRESET, "recovery was declined"),
        }
    }

    /// Plans the next redial of a detached client.
    pub(super) fn plan_redial(&mut self, socket: &Arc<Socket>) {
        self.give_way(socket);
        let Ok(mut guard) = socket.meta.lock() else { return };
        let meta = &mut *guard;
        let asking = meta.rare().asking;
        let Some(control) = meta.control.as_mut() else { return };
        // A dial from before the fault may fail while someone is still being asked.
        if control.role == Role::Server || asking || self.dials.contains_key(&socket.id) {
            return;
        }
        let limit = socket.config.redial_limit;
        if limit > 0 && control.redial.attempts() >= limit {
            let cause = format!("{limit} redials brought nothing");
            meta.rare_mut().last_error = Some(cause.clone());
            return self.give_up_later(socket, libc::ETIMEDOUT, cause);
        }
        let random = sys::fd::jitter() as u32;
        let after = control.redial.next(socket.config.back_off, random);
        let attempt = control.redial.attempts();
        let at = clock::now() + after;
        meta.rare_mut().next_try = Some(at);
        // The last call of a session that is over is nobody's affair.
        if !socket.has(bits::OVER) {
            socket.tell(meta, EventKind::Redialling { attempt, after });
        }
        let known = meta.candidates.clone();
        drop(guard);
        if after.is_zero() && socket.config.line_up.is_none() {
            // Where it stood a moment ago is where it most likely still is: no name is looked up.
            return self.dial(socket, known, false);
        }
        self.timers.set(at, Timer::Redial(socket.id));
    }

    fn give_up_later(&mut self, socket: &Arc<Socket>, number: i32, cause: String) {
        if socket.set_failure(number) {
            self.again.push(Command::Failed { socket: Arc::clone(socket), cause });
        }
    }

    /// The time for a redial has come: bring the line up first, if that is configured.
    pub(super) fn redial_due(&mut self, id: u64) {
        let Some(owned) = self.owned.get(&id) else { return };
        let socket = Arc::clone(&owned.socket);
        if !socket.has(bits::DETACHED) || socket.has(bits::FAILED) || self.dials.contains_key(&id) {
            return;
        }
        // A timer left from an earlier outage is not this one's.
        let is_due = socket.meta.lock().is_ok_and(|mut meta| {
            let due = meta.rare().next_try.is_some_and(|at| at <= clock::now());
            if due {
                meta.rare_mut().next_try = None;
            }
            due
        });
        if !is_due {
            return;
        }
        let Some(line_up) = socket.config.line_up.clone() else {
            return self.line_is_up(&socket, true);
        };
        let report = {
            let Ok(meta) = socket.meta.lock() else { return };
            let Some(control) = meta.control.as_ref() else { return };
            let cause = meta.rare().last_error.clone().unwrap_or_default();
            report(&socket, control.id.to_string(), meta.peer, control.epoch(), &cause)
        };
        let engine = self.engine;
        let again = Arc::clone(&socket);
        let run = move || {
            let up = match line_up {
                LineUp::Callback(callback) => {
                    let call = std::panic::AssertUnwindSafe(|| callback(&report));
                    std::panic::catch_unwind(call).unwrap_or(false)
                }
                LineUp::Command(command) => run_command(&command, &report),
            };
            engine.command(Command::LineUp { socket, up });
        };
        if sys::thread::spawn(c"eversock-line", ROOMY, run).is_err() {
            self.plan_redial(&again);
        }
    }

    /// The line is up, or is not: dial, or try later.
    pub(super) fn line_is_up(&mut self, socket: &Arc<Socket>, up: bool) {
        if !socket.has(bits::DETACHED)
            || socket.has(bits::FAILED)
            || self.dials.contains_key(&socket.id)
        {
            return;
        }
        if up { self.resolve_and_dial(socket) } else { self.plan_redial(socket) }
    }

    /// Ends a session for good: the program gets one error.
    pub(super) fn give_up(&mut self, socket: &Arc<Socket>, number: i32, cause: &str) {
        if !socket.has(bits::FAILED)
            && let Ok(mut meta) = socket.meta.lock()
        {
            // First, so that who sees the failure sees why.
            meta.rare_mut().last_error = Some(cause.to_owned());
        }
        if socket.set_failure(number) {
            self.failed(Arc::clone(socket), cause.to_owned());
        }
    }

    /// The grace of a detached session is over.
    pub(super) fn grace_over(&mut self, id: u64) {
        let Some(owned) = self.owned.get(&id) else { return };
        let now = clock::now();
        if owned.expires().is_none_or(|at| at > now) || !owned.socket.has(bits::DETACHED) {
            return;
        }
        let socket = Arc::clone(&owned.socket);
        if !socket.owner.is(self.engine.instance) {
            return;
        }
        let cause = socket.meta.lock().ok().and_then(|meta| meta.rare().last_error.clone());
        let cause = cause.unwrap_or_default();
        let number = if cause_is_silence(&cause) { libc::ETIMEDOUT } else { libc::ECONNRESET };
        self.give_up(&socket, number, &format!("not resumed within the grace: {cause}"));
    }

    /// Someone asks for a dial: the program, an operator. Who says so under "ask" has answered;
    /// "never" means never.
    pub(super) fn redial_wanted(&mut self, socket: &Arc<Socket>) {
        if matches!(socket.config.policy, RecoveryPolicy::Never) {
            return log::info!("session {}: its policy is never to dial again", socket.id);
        }
        if let Ok(mut meta) = socket.meta.lock() {
            meta.rare_mut().asking = false;
        }
        self.redial_now(socket);
    }

    /// The path may be gone. A dial beside the connection that stands is made under the policy
    /// "automatic" only: under "ask" nobody could be asked before there is a fault, and under
    /// "never" nothing is dialled. A session that waits for its answer goes on waiting.
    fn redial_for_path(&mut self, socket: &Arc<Socket>) {
        let is_automatic = matches!(socket.config.policy, RecoveryPolicy::Automatic);
        let waits = socket.meta.lock().is_ok_and(|meta| meta.rare().asking);
        if is_automatic || socket.has(bits::DETACHED) && !waits {
            self.redial_now(socket);
        }
    }

    /// Dial now: at once when detached, beside the connection that stands otherwise.
    fn redial_now(&mut self, socket: &Arc<Socket>) {
        if socket.has(bits::FAILED | bits::CONNECTING | bits::FRESH | bits::OVER)
            || self.dials.contains_key(&socket.id)
            || !self.owned.contains_key(&socket.id)
        {
            return;
        }
        let is_client = socket.meta.lock().is_ok_and(|meta| {
            meta.control.as_ref().is_some_and(|control| control.role == Role::Client)
        });
        if is_client {
            if let Ok(mut meta) = socket.meta.lock()
                && let Some(control) = meta.control.as_mut()
            {
                control.redial.progress();
            }
            self.resolve_and_dial(socket);
        }
    }

    /// Somebody has acks to tell or output unconfirmed.
    pub(super) fn arm_sweep(&mut self) {
        if !self.swept {
            self.swept = true;
            self.timers.set(clock::now() + SWEEP_EVERY, Timer::Sweep);
        }
    }

    /// Once a second while there is reason: idle sides tell what they have not told, and paths with
    /// unconfirmed output are looked at.
    pub(super) fn sweep(&mut self) {
        self.swept = false;
        let listed = {
            let mut sweep =
                self.engine.sweep.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::take(&mut *sweep)
        };
        let sockets: Vec<_> = listed.iter().filter_map(Weak::upgrade).collect();
        for socket in &sockets {
            socket.shared.in_sweep.store(false, Ordering::SeqCst);
            if !socket.owner.is(self.engine.instance) {
                continue;
            }
            // By a number that was closed past us the acks would go to whatever it names now.
            self.look_at(socket);
            self.look_at_record(socket);
            let Ok(mut tx) = socket.tx.try_lock() else {
                socket.list_for_sweep();
                continue;
            };
            socket.absorb(&mut tx);
            let number = tx.number;
            let Some(sender) = tx.sender.as_mut() else { continue };
            if number >= 0 && sender.ack_is_stale(socket.acks()) {
                sender.want_ack();
            }
            if socket.flush(&mut tx, false) == Flushed::Owed {
                socket.owe();
            }
            // Behind the peer's end nobody reads any more, so the ack of our own is fetched here.
            let outstanding = tx.sender.as_ref().is_some_and(|sender| {
                let waits = sender.is_finished() && !sender.is_done() && socket.has(bits::EOF);
                sender.log_len() > 0 || waits
            });
            if let Some(sender) = tx.sender.as_mut().filter(|_| !outstanding) {
                sender.rest();
                tx.rest(self.engine.instance);
            }
            socket.finish_tx(tx);
            if !outstanding && self.note_end(socket) {
                continue;
            }
            if outstanding && number >= 0 {
                // A program that only writes leaves the acks in the kernel's queue.
                if socket.has(bits::EOF) {
                    socket.read_ahead()
                } else {
                    socket.eat_control_frames();
                }
                self.look_at_path(socket, number);
                socket.list_for_sweep();
            } else if let Some(owned) = self.owned.get_mut(&socket.id) {
                owned.calm();
            }
        }
    }

    /// A connection with unconfirmed output: is the kernel backing off, or has all been silent for
    /// long? Then a resume is dialled beside it.
    fn look_at_path(&mut self, socket: &Arc<Socket>, number: i32) {
        // Only a change matters; the peer's own figures may be anything.
        let progress = socket
            .shared
            .progress
            .load(Ordering::Relaxed)
            .wrapping_add(socket.shared.peer_ack.load(Ordering::Relaxed))
            .wrapping_add(socket.shared.ack.load(Ordering::Relaxed));
        let now = clock::now();
        let Some(owned) = self.owned.get_mut(&socket.id) else { return };
        let quiet = &mut owned.trouble_mut().quiet;
        if quiet.look(progress, now, socket.config.probe_after, || is_backing_off(number)) {
            self.redial_for_path(socket);
        }
    }

    /// Addresses or routes changed. They come in bursts, so look a little later.
    pub(super) fn netlink_changed(&mut self) {
        let Some(netlink) = &self.netlink else { return };
        let mut scratch = [0; 8192];
        let mut any = false;
        while let Ok(n) = sys::io::recv_one(netlink.as_raw_fd(), &mut scratch) {
            any = true;
            if n == 0 {
                break;
            }
        }
        if any && !self.owned.is_empty() {
            self.timers.set(clock::now() + Duration::from_millis(100), Timer::Paths);
        }
    }

    /// Redials sessions whose path is gone, or all with `force`; those that wait do so no longer.
    pub(super) fn check_paths(&mut self, force: bool) {
        let sockets: Vec<_> = self.owned.values().map(|owned| Arc::clone(&owned.socket)).collect();
        for socket in sockets {
            if force {
                self.look_at(&socket);
            }
            let path = {
                let Ok(meta) = socket.meta.lock() else { continue };
                // A server has nothing to dial.
                let role = meta.control.as_ref().map(|control| control.role);
                if role != Some(Role::Client) {
                    continue;
                }
                let begun = meta.local.zip(meta.candidates.first().copied());
                drop(meta);
                // Of the standing connection: the program is told the addresses with which the
                // session began.
                let route = socket.route().filter(|_| !socket.has(bits::DETACHED));
                route.map(|(peer, local)| (local, peer)).or(begun)
            };
            let Some((local, peer)) = path else { continue };
            if socket.has(bits::DETACHED) || force || !path_stands(local, peer) {
                self.redial_for_path(&socket);
            }
        }
    }
}

/// True when the kernel has had no confirmation for several retransmissions.
pub(super) fn is_backing_off(number: i32) -> bool {
    let health = tcp::health(number).unwrap_or_default();
    health.backoff >= BACKOFF_SUSPICIOUS && health.unacked > 0
}

/// True when packets to `peer` would still leave from `local`.
fn path_stands(local: SocketAddr, peer: SocketAddr) -> bool {
    let any: SocketAddr = match peer {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    // Connecting a UDP socket sends nothing; it only asks the routing table.
    let probe = || -> io::Result<SocketAddr> {
        let socket = std::net::UdpSocket::bind(any)?;
        socket.connect(peer)?;
        socket.local_addr()
    };
    probe().is_ok_and(|from| from.ip() == local.ip())
}

/// True for causes that say that nothing came, rather than that someone ended the connection.
fn cause_is_silence(cause: &str) -> bool {
    [libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::ENETDOWN]
        .iter()
        .any(|&number| cause == io::Error::from_raw_os_error(number).to_string())
}

fn report(
    socket: &Socket,
    session: String,
    peer: Option<SocketAddr>,
    epoch: u64,
    cause: &str,
) -> FaultReport {
    FaultReport { local_id: socket.id, session, peer, epoch, cause: cause.to_owned() }
}

fn run_command(command: &str, report: &FaultReport) -> bool {
    let peer = report.peer.map(|peer| peer.to_string()).unwrap_or_default();
    let child = std::process::Command::new("/bin/sh")
        .args(["-c", command])
        .env("EVS_SESSION", &report.session)
        .env("EVS_PEER", peer)
        .env("EVS_EPOCH", report.epoch.to_string())
        .env("EVS_CAUSE", &report.cause)
        .stdin(std::process::Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            log::error!("the line-up command could not be started: {error}");
            return false;
        }
    };
    let until = clock::now() + LINE_UP_MAX;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if clock::now() < until => {
                crate::wait::epoll::sleep(Duration::from_millis(20))
            }
            _ => {
                log::error!("the line-up command took more than {LINE_UP_MAX:?} and was ended");
                let _gone = child.kill();
                let _reaped = child.wait();
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_tried_half_as_often_each_time_although_the_resumes_succeed() {
        let mut quiet = Quiet::default();
        let (after, begun) = (Duration::from_secs(1), clock::now());
        let mut tried = Vec::new();
        for second in 0..40 {
            let now = begun + second * after;
            if quiet.look(7, now, after, || false) {
                tried.push(second);
                quiet.stands_anew(now);
            }
        }
        assert_eq!(tried, [1, 3, 7, 15, 31]);
        // Progress makes it as quick as at first.
        let now = begun + 50 * after;
        assert!(!quiet.look(8, now, after, || false));
        assert!(quiet.look(8, now + after, after, || false));
    }
}
