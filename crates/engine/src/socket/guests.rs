//! The owner's side of a session that relatives share by way of pumps (DESIGN 6).
//!
//! What a guest writes is taken from its [`End`] before the owner writes. What comes is put into
//! one guest's pump at a time, so that all that lies unread in pumps is one piece of the stream and
//! can be taken back in its order when the owner or another guest reads, or a guest is gone.

pub(crate) mod end;

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use end::End;

use end::{FIRST_TURN, Touch};

use super::recv::Got;
use super::{Rx, Socket, Tx, bits};
use crate::clock;
use crate::error::would_block;
use crate::family;
use crate::sys::{self, Fd};

/// What one read moves to a guest.
const CHUNK_BYTES: usize = 16 * 1024;
/// Reads for a guest in one turn of the engine.
const TURNS: usize = 16;
/// A guest that may have to give back what it has is not given more at a time, so that all of it
/// can be taken at once.
const SHARED_MAX_BYTES: usize = 64 * 1024;
/// The first look at who reads comes after so long, the next after twice that, as long as nobody
/// reads, up to [`LOOK_AFTER_MAX`].
const LOOK_AFTER: Duration = Duration::from_millis(1);
const LOOK_AFTER_MAX: Duration = Duration::from_secs(1);
/// A look that is planned for later than that is not waited for when somebody reads.
const LOOK_LATE: Duration = Duration::from_millis(8);
/// How long the engine and the program wait for bytes that are on their way from one end of a pair
/// to the other: within the kernel, where a lost packet is sent again after 200 ms.
const ENGINE_WAITS: Duration = Duration::from_millis(2);
const PROGRAM_WAITS: Duration = Duration::from_millis(20);

/// True when somebody else than `end` may be who reads.
fn others_want(ends: &[Arc<End>], end: &Arc<End>) -> bool {
    ends.iter().any(|other| !Arc::ptr_eq(other, end) && other.wants())
}

/// Who has bytes that it has not read: one at a time, but for those that are gone.
fn holder(ends: &[Arc<End>]) -> Option<&Arc<End>> {
    ends.iter().find(|end| end.unread() > 0)
}

/// What has become of a guest that has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Done,
    /// The log has no room for what it wrote.
    NoRoom,
    /// A lock is taken, or what it has not read is still on its way: to be tried again soon.
    Later,
}

/// What a turn for the guests has left to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Input of the connection is wanted: for a guest that reads, or as it may bring credit.
    pub(crate) input: bool,
    /// Another turn is due whatever the connection has: a lock was taken, or what is to be moved
    /// has been read from the kernel already, which will not tell of it again.
    pub(crate) again: bool,
    /// What one guest has got is perhaps another's to read: a look in a while will tell.
    pub(crate) look: bool,
}

impl Socket {
    fn ends(&self) -> Vec<Arc<End>> {
        if !self.has(bits::GUESTS) {
            return Vec::new();
        }
        self.with_relatives(|relatives| relatives.ends.clone())
    }

    pub(crate) fn add_guest(&self, end: Arc<End>) {
        self.with_relatives(|relatives| relatives.ends.push(end));
        self.change(bits::GUESTS, 0);
    }

    /// Forgets a guest that has gone: what it has written joins the session, what it has not read
    /// is read by others.
    pub(crate) fn remove_guest(self: &Arc<Self>, end: &Arc<End>) -> Removal {
        end.reads_no_more();
        {
            // Under the receiving lock: who reads on meanwhile would read past what is on its way
            // back.
            let Ok(_rx) = self.rx.try_lock() else { return Removal::Later };
            // From this one alone: others live, and read what they have at this moment.
            if !self.take_back_from(&[end], ENGINE_WAITS) {
                return Removal::Later;
            }
        }
        let Ok(mut tx) = self.tx.lock() else { return Removal::Done };
        if !self.take_from(&mut tx, end) {
            return Removal::NoRoom;
        }
        self.flush_guests(&mut tx);
        self.finish_tx(tx);
        self.forget_guest(end);
        Removal::Done
    }

    /// The same for what nobody wants any more.
    pub(crate) fn forget_guest(&self, end: &Arc<End>) {
        let left = self.with_relatives(|relatives| {
            relatives.ends.retain(|other| !Arc::ptr_eq(other, end));
            relatives.ends.len()
        });
        if left == 0 {
            self.change(0, bits::GUESTS);
        }
    }

    fn flush_guests(self: &Arc<Self>, tx: &mut Tx) {
        if self.flush(tx, false) == super::send::Flushed::Owed {
            self.owe();
        }
    }

    /// Takes what all guests have written, for who is about to write himself. False when there was
    /// no room for all of it: it comes first.
    pub(crate) fn take_from_guests(self: &Arc<Self>, tx: &mut Tx) -> bool {
        let mut all = true;
        for end in self.ends() {
            all &= self.take_from(tx, &end);
        }
        all
    }

    fn take_from(self: &Arc<Self>, tx: &mut Tx, end: &End) -> bool {
        let mut buf = [0; CHUNK_BYTES];
        let Some(sender) = tx.sender.as_mut() else { return true };
        while !end.shut.load(Ordering::Relaxed) {
            let room = match sender.room() {
                // A peer that reads no more gets nothing more; the guest need not be stuck.
                _ if sender.is_stopped() || sender.is_finished() => buf.len(),
                0 if sys::io::queued(end.far.as_raw_fd()) == 0 => return true,
                0 => return false,
                room => room.min(buf.len()),
            };
            match sys::io::recv_one(end.far.as_raw_fd(), &mut buf[..room]) {
                Ok(0) => {
                    // The program's shutdown is the whole socket's, as the kernel has it.
                    end.shut.store(true, Ordering::Relaxed);
                    sender.finish();
                    self.change(bits::WRITE_SHUT, 0);
                }
                Ok(n) => {
                    sender.write_all(&buf[..n]);
                    self.shared.written.store(sender.written(), Ordering::SeqCst);
                }
                Err(error) if would_block(&error) => return true,
                // The pair is whole as long as we hold both its ends.
                Err(_) => return true,
            }
        }
        true
    }

    /// The engine's turn for the guests: their bytes go out, and what has come goes to who reads.
    /// `look` from time to time while [`Left::look`] says so.
    pub(crate) fn serve_guests(self: &Arc<Self>, look: bool) -> Left {
        let ends = self.ends();
        let mut left = Left::default();
        let room_wanted = match self.tx.try_lock() {
            Ok(mut tx) => {
                self.absorb(&mut tx);
                let all = self.take_from_guests(&mut tx);
                if !all {
                    self.change(bits::NO_ROOM, 0);
                    self.absorb(&mut tx);
                }
                self.flush_guests(&mut tx);
                self.finish_tx(tx);
                self.list_for_sweep();
                !all
            }
            Err(_) => {
                // The program is writing, and may have looked for the guests' bytes before they
                // came.
                left.again = true;
                false
            }
        };
        if room_wanted {
            left.input = true;
            self.grow_own_window();
            self.read_ahead();
            // What was read ahead just now may have been the credit.
            left.again |= self.has_guest_room();
        }
        let fed = self.feed_guests(&ends, look);
        left.input |= fed.input;
        left.again |= fed.again;
        left.look = fed.look;
        left
    }

    /// This program has read what guests may wait for, an end above all: no event tells of it.
    pub(crate) fn tell_guests(self: &Arc<Self>) {
        if self.has(bits::GUESTS)
            && let Some(engine) = crate::reactor::engine_if_running()
        {
            engine.command(crate::reactor::Command::Orphaned { socket: Arc::clone(self) });
        }
    }

    /// True when guests' bytes that waited for room have some, or that could not be seen.
    fn has_guest_room(self: &Arc<Self>) -> bool {
        let Ok(mut tx) = self.tx.try_lock() else { return true };
        self.absorb(&mut tx);
        let room = tx.sender.as_mut().is_some_and(|sender| sender.room() > 0);
        self.finish_tx(tx);
        room
    }

    /// Moves what has come to the guest whose turn it is.
    fn feed_guests(self: &Arc<Self>, ends: &[Arc<End>], look: bool) -> Left {
        let is_over = || self.with_relatives(|relatives| relatives.is_over);
        if ends.is_empty() || !ends.iter().any(|end| end.wants()) && !is_over() {
            return Left::default();
        }
        // Under the receiving lock from the session to the pair, so that who takes back what is
        // unread and then reads on misses nothing in between.
        let Ok(mut rx) = self.rx.try_lock() else {
            return Left { again: true, input: true, look: false };
        };
        if self.has(bits::FAILED) || self.sleepers.has_leader() {
            return Left { input: true, ..Left::default() };
        }
        if let Some(end) = ends.iter().find(|end| end.gives_way())
            && !self.take_back_from(&[end], ENGINE_WAITS)
        {
            return Left { look: true, ..Left::default() };
        }
        if look {
            self.pass_turn(ends);
        }
        let is_over = is_over();
        let mut left = Left::default();
        let mut moved = false;
        while let Some(end) = self.whose_turn(ends) {
            left = self.feed(&mut rx, end, ends, &mut moved);
            if end.wants() {
                break;
            }
            // It knows of the end now; so must the others.
        }
        if is_over || !matches!(ends, [end] if end.wants()) {
            let holder = holder(ends);
            left.look |= holder.is_some_and(|holder| others_want(ends, holder));
            let lacks_connection = rx.number < 0;
            let at_end = rx.receiver.as_ref().is_none_or(|receiver| {
                receiver.is_at_end() || lacks_connection && receiver.stashed() == 0
            });
            let all_read = holder.is_none_or(|holder| holder.is_broken());
            if is_over && at_end && all_read && !self.has(bits::RETURNED) {
                self.end_guests(0);
            } else {
                // That somebody has read the last of it is no event.
                left.look |= is_over;
            }
        }
        drop(rx);
        if moved {
            // Whoever sleeps in poll may want what its relative leaves there.
            self.kick();
        }
        left
    }

    /// Who gets what comes: who asked first of those that wait for an answer; else who has not read
    /// yet what it got, so that it lies in one pair in order; else who has read, or come, last.
    fn whose_turn<'a>(&self, ends: &'a [Arc<End>]) -> Option<&'a Arc<End>> {
        if let [only] = ends {
            return Some(only).filter(|only| only.wants());
        }
        let asker =
            ends.iter().filter(|end| end.wants() && end.asks()).min_by_key(|end| end.turn());
        if let Some(asker) = asker {
            let holder = ends.iter().find(|end| !Arc::ptr_eq(end, asker) && end.unread() > 0);
            return match holder {
                Some(holder) if !self.take_from_live(holder) && !self.take_from_idle(holder) => {
                    Some(holder).filter(|holder| holder.wants())
                }
                _ => Some(asker),
            };
        }
        if let Some(holder) = holder(ends) {
            return Some(holder).filter(|holder| holder.wants());
        }
        ends.iter().filter(|end| end.wants()).max_by_key(|end| end.turn())
    }

    /// Nobody knows which of several programs that know nothing of us reads. One that has left
    /// untouched what it got since the last look gives way to the next.
    fn pass_turn(&self, ends: &[Arc<End>]) {
        let Some(holder) = holder(ends) else { return };
        if holder.touch() == Touch::Read {
            self.look_soon();
        }
        if !others_want(ends, holder) || !self.take_from_idle(holder) {
            return;
        }
        if holder.wants() {
            let last = ends.iter().filter(|end| end.wants()).map(|end| end.turn()).min();
            holder.turn.store(last.unwrap_or(FIRST_TURN) - 1, Ordering::SeqCst);
        }
    }

    fn feed(
        self: &Arc<Self>,
        rx: &mut Rx,
        end: &Arc<End>,
        ends: &[Arc<End>],
        moved: &mut bool,
    ) -> Left {
        let mut rest = end.rest.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..TURNS {
            if !end.push(&mut rest) {
                // The pair's room is an event.
                return Left::default();
            }
            if others_want(ends, end) && end.in_pair_or_flight() >= SHARED_MAX_BYTES {
                return Left { look: true, ..Left::default() };
            }
            let mut buf = [0; CHUNK_BYTES];
            // What another guest has left unread is older than what comes.
            if self.has(bits::RETURNED)
                && let Some(n) = self.read_returned(&mut [IoSliceMut::new(&mut buf)], false)
            {
                rest.pending.extend_from_slice(&buf[..n]);
                end.note_rest(&rest);
                end.note_served();
                *moved = true;
                continue;
            }
            match self.read_some(rx, &mut buf, true) {
                Got::Bytes { n, .. } => {
                    rest.pending.extend_from_slice(&buf[..n]);
                    end.note_rest(&rest);
                    self.look_soon();
                    end.note_served();
                    *moved = true;
                }
                Got::Nothing => return Left { input: true, ..Left::default() },
                Got::End => {
                    // While it may be another who is to read what lies here, that one must not
                    // find the end before it, and this one keeps his place.
                    let look = end.in_pair_or_flight() > 0 && others_want(ends, end);
                    if !look {
                        self.end_guest(end, 0);
                    }
                    return Left { look, ..Left::default() };
                }
            }
        }
        // There may be more in the stash, or the end.
        Left { input: true, again: true, look: false }
    }

    /// Tells a guest that its session has ended: first why, then the end itself.
    fn end_guest(&self, end: &End, number: i32) {
        if end.told.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut message = family::ENDED.to_vec();
        message.extend_from_slice(&number.to_le_bytes());
        let _gone = sys::pass::send(end.line.as_raw_fd(), &message, &[]);
        let _gone = rustix::net::shutdown(&end.far, rustix::net::Shutdown::Write);
    }

    /// What guests have left unread is the program's again: it reads next. Under the receiving
    /// lock. False if some of it is still on its way.
    pub(crate) fn take_back(&self) -> bool {
        let ends = self.ends();
        self.take_back_from(&ends.iter().collect::<Vec<_>>(), PROGRAM_WAITS)
    }

    fn take_back_from(&self, ends: &[&Arc<End>], patience: Duration) -> bool {
        let mut back = Vec::new();
        let whole = ends.iter().all(|end| end.take_unread(&mut back, patience));
        self.put_back(back);
        whole
    }

    /// Takes back what a guest that may be reading has; false where that is not possible now.
    fn take_from_live(&self, end: &End) -> bool {
        let mut back = Vec::new();
        let whole = end.take_whole(&mut back);
        self.put_back(back);
        whole
    }

    /// Takes back what a guest has that has not read for a while, wherever it lies. If it reads in
    /// this moment, it gets what is behind the first part of it, as if that had been read before by
    /// who waits.
    fn take_from_idle(&self, end: &End) -> bool {
        let mut back = Vec::new();
        let whole = end.is_untouched() && end.take_unread(&mut back, ENGINE_WAITS);
        self.put_back(back);
        whole
    }

    fn put_back(&self, mut back: Vec<u8>) {
        if !back.is_empty() {
            self.with_relatives(|relatives| {
                // What lay in a pair had come before what is still here.
                back.append(&mut relatives.returned);
                relatives.returned = back;
            });
            // Raised after the bytes are there; a reader that took them meanwhile finds none.
            self.change(bits::RETURNED, 0);
        }
    }

    /// True when guests have left bytes unread.
    pub(crate) fn is_left_unread(&self) -> bool {
        self.ends().iter().any(|end| end.unread() > 0)
    }

    /// Reads what was taken back from guests; `None` when there is nothing. What guests have now is
    /// older: it was put there after it had been taken back.
    #[cold]
    pub(crate) fn recv_returned(
        &self,
        slices: &mut [IoSliceMut<'_>],
        peek: bool,
    ) -> io::Result<Option<usize>> {
        let _rx = self.lock_rx()?;
        if !self.take_back() {
            // The rest of it comes first, and is here in a moment.
            return Ok(None);
        }
        Ok(self.read_returned(slices, peek))
    }

    /// The same under the receiving lock, with nothing unread at guests.
    #[cold]
    fn read_returned(&self, slices: &mut [IoSliceMut<'_>], peek: bool) -> Option<usize> {
        let (total, left) = self.with_relatives(|relatives| {
            let mut total = 0;
            for slice in slices {
                let rest = &relatives.returned[total..];
                let n = rest.len().min(slice.len());
                slice[..n].copy_from_slice(&rest[..n]);
                total += n;
            }
            if !peek {
                relatives.returned.drain(..total);
            }
            if relatives.returned.is_empty() {
                // Under the lock, so that who returns more raises it again afterwards; nobody need
                // be rung for less.
                relatives.returned = Vec::new();
                self.lower_quietly(bits::RETURNED);
            }
            (total, relatives.returned.len())
        });
        (total > 0 || left > 0).then_some(total)
    }

    /// A look at who reads is wanted: gives when, or `None` when it is planned already.
    pub(crate) fn plan_look(&self) -> Option<Instant> {
        self.with_relatives(|relatives| {
            if relatives.look_at.is_some() {
                return None;
            }
            let wait = relatives.look_after.max(LOOK_AFTER);
            relatives.look_after = (wait * 2).min(LOOK_AFTER_MAX);
            relatives.look_at = Some(clock::now() + wait);
            relatives.look_at
        })
    }

    /// Somebody reads: the next look is not to be late.
    pub(crate) fn look_soon(&self) {
        self.with_relatives(|relatives| {
            if std::mem::take(&mut relatives.look_after) > LOOK_LATE {
                relatives.look_at = None;
            }
        });
    }

    /// True if the look that is planned is due. A timer may be that of one that is no longer.
    pub(crate) fn look_has_come(&self) -> bool {
        self.with_relatives(|relatives| {
            let is_due = relatives.look_at.is_some_and(|at| at <= clock::now());
            if is_due {
                relatives.look_at = None;
            }
            is_due
        })
    }

    /// The session has ended: all guests are told, whatever they have left to read.
    pub(crate) fn end_guests(&self, number: i32) {
        for end in self.ends() {
            self.end_guest(&end, number);
        }
    }

    /// The session has ended in order. Who has bytes left to read reads them first.
    pub(crate) fn guests_are_over(&self) {
        self.with_relatives(|relatives| relatives.is_over = true);
    }

    /// The session has ended in order, and a guest has not read all that came before that.
    pub(crate) fn has_untold_guests(&self) -> bool {
        let is_untold = |end: &Arc<End>| !end.told.load(Ordering::SeqCst) && !end.is_broken();
        self.has(bits::GUESTS)
            && self.with_relatives(|relatives| {
                relatives.is_over && relatives.ends.iter().any(is_untold)
            })
    }

    /// In a fork child: the guests are the parent's. Rings nobody, as nobody is there.
    pub(crate) fn forget_guests(&self) {
        self.lower_quietly(bits::GUESTS | bits::ASKING);
    }
}

/// A pair for a guest: its end, and ours. Small buffers, as what lies there may have to be taken
/// back.
pub(crate) fn guest_pair() -> io::Result<(Fd, Fd)> {
    let (near, far) = sys::tcp::loopback_pair()?;
    let small = (128 * 1024i32).to_ne_bytes();
    for end in [near.as_fd(), far.as_fd()] {
        for name in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
            let _kept = sys::tcp::set_option(end.as_raw_fd(), libc::SOL_SOCKET, name, &small);
        }
    }
    Ok((near, far))
}

#[cfg(test)]
mod tests;
