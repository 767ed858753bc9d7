//! Relatives that want our sessions: they get them, or the end of a pump.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use eversock_proto::resume::Reason;
use eversock_proto::secret::SessionId;
use mio::Interest;

use super::channel::Line;
use super::end::FOREVER;
use super::timer::Timer;
use super::{Command, Reactor};
use crate::clock;
use crate::family::{Answer, Ask};
use crate::process::Holder;
use crate::socket::guests::{End, Removal, guest_pair};
use crate::socket::{Socket, bits};
use crate::sys::{Fd, pass};

/// How often a guest's line is read, at most, before our process ends.
const LINE_TURNS_MAX: usize = 16;

/// A relative that uses one of our sessions by way of a pump.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) socket: Arc<Socket>,
    pub(super) end: Arc<End>,
    pub(super) far_token: usize,
    /// It has gone; what it wrote waits for room.
    gone: bool,
}

impl Line {
    fn guest(&self) -> Option<&Guest> {
        match self {
            Self::Guest(guest) => Some(guest),
            _ => None,
        }
    }

    /// The guest of this session, if the line is one's.
    fn guest_of(&self, socket: &Arc<Socket>) -> Option<&Guest> {
        self.guest().filter(|guest| Arc::ptr_eq(&guest.socket, socket))
    }
}

impl Reactor {
    /// Our process ends: what guests that have gone wrote is still to be delivered. True while that
    /// must be waited for.
    pub(super) fn leave_guests(&mut self, socket: &Arc<Socket>) -> bool {
        let guests = |lines: &std::collections::HashMap<usize, Line>| -> Vec<usize> {
            let ours = lines.iter().filter(|(_, line)| line.guest_of(socket).is_some());
            ours.map(|(&token, _)| token).collect()
        };
        // Their ends may not have been looked at yet.
        for token in guests(&self.lines) {
            // All that it has said, within reason.
            let mut turns = 0;
            while self.line_ready(token) && turns < LINE_TURNS_MAX {
                turns += 1;
            }
        }
        self.serve_guests(socket);
        let left = guests(&self.lines);
        let all_gone = left.iter().all(|token| {
            let line = self.lines.get(token);
            line.and_then(|line| line.guest_of(socket)).is_some_and(|guest| guest.gone)
        });
        !left.is_empty() && all_gone
    }

    /// A relative asks for a session.
    pub(super) fn asked(&mut self, token: usize, ask: &Ask) {
        let answer = match self.find_session(ask.session) {
            Ok(socket) => self.give(token, &socket, ask),
            Err(answer) => Some(answer),
        };
        if let Some(answer) = answer {
            if let Some(Line::Silent(line)) = self.lines.get(&token) {
                let _gone = pass::send(line.as_raw_fd(), &ask.answer(answer), &[]);
            }
            self.drop_line(token);
        }
    }

    /// The session as this process has it, owned; or what to answer.
    fn find_session(&self, session: SessionId) -> Result<Arc<Socket>, Answer> {
        let owned = self.owned.values().find(|owned| owned.id == session);
        let Some(socket) = owned.map(|owned| Arc::clone(&owned.socket)) else {
            return Err(self.say_of_unknown(session));
        };
        if socket.config.private {
            return Err(Answer::Ended(libc::EBADF));
        }
        let us = self.engine.instance;
        match socket.owner.holder(us) {
            Holder::Mine => Ok(socket),
            Holder::Other(other) if other != us => Err(Answer::Ask(other)),
            Holder::Nobody if self.claim_unclaimed(&socket) => Ok(socket),
            _ => Err(Answer::Busy),
        }
    }

    /// Not in our books: it is elsewhere, or over, or on its way into them.
    fn say_of_unknown(&self, session: SessionId) -> Answer {
        if let Some(other) = self.foreign.owner(&session) {
            return Answer::Ask(other);
        }
        if let Some(tombstone) = self.tombstones.get(&session) {
            let closed = tombstone.reason == Reason::Closed;
            return Answer::Ended(if closed { 0 } else { libc::ECONNRESET });
        }
        let Ok(sockets) = self.engine.sockets.lock() else { return Answer::Busy };
        let known = sockets.values().filter_map(std::sync::Weak::upgrade).find(|socket| {
            let meta = socket.meta.lock();
            meta.is_ok_and(|meta| meta.control.as_ref().is_some_and(|c| c.id == session))
        });
        match known {
            Some(socket) if socket.has(bits::FAILED) => Answer::Ended(socket.failure_number()),
            Some(socket) if socket.has(bits::OVER) => Answer::Ended(0),
            Some(_) => Answer::Busy,
            None => Answer::Ended(libc::ECONNRESET),
        }
    }

    /// Gives a relative what it asks for; `None` when that has been said.
    fn give(&mut self, token: usize, socket: &Arc<Socket>, ask: &Ask) -> Option<Answer> {
        let us = self.engine.instance;
        let state = socket.bits();
        if state & bits::FAILED != 0 {
            return Some(Answer::Ended(socket.failure_number()));
        }
        if state & bits::CLOSED != 0 {
            return Some(Answer::Ended(libc::ECONNRESET));
        }
        if state & (bits::CONNECTING | bits::FRESH | bits::PUMPED) != 0 {
            return Some(Answer::Busy);
        }
        let has_number = socket.place.lock().is_ok_and(|place| !place.numbers.is_empty());
        let used = has_number && socket.owner.is_used_by(us);
        if ask.only_pump || used || state & bits::GUESTS != 0 {
            return self.welcome(token, socket, ask);
        }
        let Some(Line::Silent(line)) = self.lines.get(&token) else { return None };
        let handed = socket.hand_over(us, ask.asker, |snapshot, real| {
            let file = memory_file(snapshot)?;
            let mut fds: Vec<BorrowedFd<'_>> = vec![file.as_fd()];
            fds.extend(real);
            pass::send(line.as_raw_fd(), &ask.answer(Answer::Yours), &fds)
        });
        match handed {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Some(Answer::Busy),
            Err(error) => {
                log::warn!("session {}: it could not be handed over: {error}", socket.id);
                return Some(Answer::Busy);
            }
        }
        log::info!("session {}: a relative has it now", socket.id);
        self.drop_line(token);
        self.let_go_of(socket, ask.session, ask.asker);
        None
    }

    /// A session is another process's from now on.
    fn let_go_of(&mut self, socket: &Arc<Socket>, session: SessionId, to: u64) {
        self.owned.remove(&socket.id);
        self.end_dial(socket.id);
        self.by_session.remove(&session);
        self.foreign.insert(session, to);
        if socket.has(bits::ORPHAN) {
            self.engine.strike(socket.id);
            // A keeper that waits for the end has nothing left to keep.
            socket.sleepers.ring();
        }
    }

    /// A relative shares the session by way of a pump.
    fn welcome(&mut self, token: usize, socket: &Arc<Socket>, ask: &Ask) -> Option<Answer> {
        let (near, far) = match guest_pair() {
            Ok(pair) => pair,
            Err(error) => {
                log::warn!("session {}: no pump for a relative: {error}", socket.id);
                return Some(Answer::Busy);
            }
        };
        let far_token = self.token();
        let both = Interest::READABLE | Interest::WRITABLE;
        if self.register(far.as_raw_fd(), far_token, both).is_err() {
            return Some(Answer::Busy);
        }
        let line = self.take_line(token)?;
        // A program that knows nothing of us cannot say when it reads.
        let end = End::new(far, near, line, !ask.only_pump);
        let guest =
            Guest { socket: Arc::clone(socket), end: Arc::clone(&end), far_token, gone: false };
        self.far_ends.insert(far_token, token);
        self.lines.insert(token, Line::Guest(guest));
        // Before it knows: what it writes at once must be seen by whoever writes after it.
        socket.add_guest(Arc::clone(&end));
        match end.send_to_guest(&ask.answer(Answer::Pumped)) {
            Ok(()) => self.serve_guests(socket),
            Err(_) => self.guest_gone(token),
        }
        None
    }

    /// A guest wants to read.
    pub(super) fn guest_reads(&mut self, token: usize) {
        let Some(Line::Guest(guest)) = self.lines.get(&token) else {
            return self.drop_line(token);
        };
        guest.end.ask();
        let socket = Arc::clone(&guest.socket);
        socket.look_soon();
        self.serve_guests(&socket);
    }

    /// A guest becomes another program, which cannot say when it reads.
    pub(super) fn guest_may_read(&mut self, token: usize) {
        let Some(Line::Guest(guest)) = self.lines.get(&token) else {
            return self.drop_line(token);
        };
        guest.end.may_read();
        let socket = Arc::clone(&guest.socket);
        self.serve_guests(&socket);
    }

    /// A guest's pump has bytes, or room.
    pub(super) fn far_ready(&mut self, far_token: usize) {
        let Some(&token) = self.far_ends.get(&far_token) else { return };
        let Some(Line::Guest(guest)) = self.lines.get(&token) else { return };
        let socket = Arc::clone(&guest.socket);
        self.serve_guests(&socket);
    }

    /// A guest's process is gone, or has closed its number.
    pub(super) fn guest_gone(&mut self, token: usize) {
        let Some(Line::Guest(guest)) = self.lines.get_mut(&token) else { return };
        guest.gone = true;
        guest.end.reads_no_more();
        let socket = Arc::clone(&guest.socket);
        self.serve_guests(&socket);
    }

    /// The guests of a session get their turn.
    pub(super) fn serve_guests(&mut self, socket: &Arc<Socket>) {
        self.serve_guests_and(socket, false);
    }

    /// What lay in one guest's pump at the last look may be another's to read.
    pub(super) fn look_at_guests(&mut self, id: u64) {
        // One that is over is no longer ours, and has guests all the same.
        let guests = || self.lines.values().filter_map(Line::guest);
        let owned = self.owned.get(&id).map(|owned| &owned.socket);
        let of_guest = || guests().map(|guest| &guest.socket).find(|socket| socket.id == id);
        let Some(socket) = owned.or_else(of_guest).map(Arc::clone) else { return };
        if socket.look_has_come() {
            self.serve_guests_and(&socket, true);
        }
    }

    /// True while guests have yet to read what came before the end of their session, as long as our
    /// process stays for that.
    pub(super) fn guests_read_on(&self) -> bool {
        let guests = || self.lines.values().filter_map(Line::guest);
        self.guests_until.is_some_and(|until| clock::now() < until)
            && guests().any(|guest| guest.socket.has_untold_guests())
    }

    /// Our process ends: guests of sessions that are over get time to read, once for all.
    pub(super) fn linger_for_guests(&mut self) {
        if self.guests_until.is_some() {
            return;
        }
        let over = self.lines.values().filter_map(Line::guest).map(|guest| &guest.socket);
        let over = over.filter(|socket| socket.has_untold_guests());
        let Some(linger) = over.map(|socket| socket.config.linger).max() else { return };
        let until = clock::now() + linger.min(FOREVER);
        self.guests_until = Some(until);
        self.timers.set(until, Timer::Exit);
    }

    /// Forgets the guests that have gone; the first is true if there was one, the second if one is
    /// to be tried again.
    fn remove_gone(&mut self, socket: &Arc<Socket>) -> (bool, bool) {
        let of_session = |line: &Line| line.guest_of(socket).is_some_and(|guest| guest.gone);
        let gone = self.lines.iter().filter(|(_, line)| of_session(line));
        let gone: Vec<usize> = gone.map(|(&token, _)| token).collect();
        let (mut any, mut stays) = (false, false);
        for token in gone {
            let Some(Line::Guest(guest)) = self.lines.get(&token) else { continue };
            let end = Arc::clone(&guest.end);
            let removal = socket.remove_guest(&end);
            if removal == Removal::NoRoom && !self.owned.contains_key(&socket.id) {
                socket.forget_guest(&end);
            } else if removal != Removal::Done {
                // Room is told by the peer.
                stays |= removal == Removal::Later;
                continue;
            }
            self.drop_line(token);
            any = true;
        }
        (any, stays)
    }

    fn serve_guests_and(&mut self, socket: &Arc<Socket>, look: bool) {
        if !socket.owner.is(self.engine.instance) {
            return;
        }
        // First, as what they have left unread comes before what is to be read.
        self.remove_gone(socket);
        let mut left = socket.serve_guests(look);
        // Those for whose bytes there was no room perhaps; what comes back is no event.
        let (any, stays) = self.remove_gone(socket);
        left.again |= any;
        left.look |= stays;
        if !self.owned.contains_key(&socket.id) {
            // A keeper waits for the last of them.
            socket.sleepers.ring();
        }
        if left.look
            && socket.has(bits::GUESTS)
            && let Some(at) = socket.plan_look()
        {
            self.timers.set(at, Timer::Guests(socket.id));
        }
        if left.input && socket.has(bits::GUESTS) {
            socket.watch_in(true);
        }
        if left.again && socket.has(bits::GUESTS) {
            self.again.push(Command::Orphaned { socket: Arc::clone(socket) });
        }
        if socket.has(bits::ORPHAN) && !socket.has(bits::GUESTS) {
            self.close_orphan(socket);
        }
    }

    /// The last relative that used a session which our program has closed is gone.
    fn close_orphan(&mut self, socket: &Arc<Socket>) {
        socket.change(bits::CLOSED | bits::WRITE_SHUT, bits::ORPHAN);
        if let Ok(mut tx) = socket.tx.lock() {
            if let Some(sender) = tx.sender.as_mut() {
                sender.finish();
            }
            if socket.flush(&mut tx, false) == crate::socket::send::Flushed::Owed {
                socket.owe();
            }
            socket.finish_tx(tx);
        }
        self.closed(Arc::clone(socket), false);
    }

    /// A session is with another process, which says so with proof.
    pub(super) fn now_at(&mut self, session: SessionId, instance: u64) {
        let ours = self
            .by_session
            .get(&session)
            .and_then(|local| self.owned.get(local))
            .is_some_and(|owned| owned.socket.owner.is(self.engine.instance));
        if !ours {
            self.foreign.insert(session, instance);
        }
    }
}

/// A file in memory with these bytes, read from its beginning.
fn memory_file(bytes: &[u8]) -> io::Result<Fd> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create(c"eversock-session", flags)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(std::os::fd::OwnedFd::from(file).into())
}
