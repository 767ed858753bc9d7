//! The connection under a socket: taken away, put in, given up.
//!
//! All of this runs in the engine's thread, but for [`Socket::fault`] and its like, which only tell
//! it. It never waits for a direction lock: who finds one taken comes back ([`Busy`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use core::net::SocketAddr;
use eversock_proto::seal::{Opener, Sealer};

use super::{Counted, Place, Rx, Socket, Tx, bits};
use crate::error::poisoned;
use crate::process;
use crate::reactor::{Command, engine_if_running};
use crate::sys::{self, Fd, fd, tcp};
use crate::table;
use crate::wait::epoll;

/// A direction lock was taken; try again soon.
#[derive(Debug)]
pub(crate) struct Busy;

/// What an epoch of a sealed session seals and opens its records with.
pub(crate) type Keys = (Sealer, Opener);

/// The three locks that a change of connection needs.
pub(super) struct Held<'a> {
    pub(super) place: MutexGuard<'a, Place>,
    pub(super) tx: MutexGuard<'a, Tx>,
    pub(super) rx: MutexGuard<'a, Rx>,
}

/// What becomes of the file that stood under a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Old {
    /// It is shut, so that whoever sleeps on it wakes, and goes.
    Shut,
    /// It lives on elsewhere.
    Kept,
    /// The kernel has ended it, and woken all who slept on it.
    Dead,
}

/// What became of an attempt to take a connection away.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TakenDown {
    /// It was another epoch's, or gone already.
    Stale,
    /// It is gone; the session goes on without.
    Detached,
    /// It is gone, and so is all that it was needed for.
    Over,
    /// Bytes went through it that did not go through us: nothing of the session can be trusted.
    Spoiled(&'static str),
}

impl Socket {
    /// Tells the engine that the connection of `epoch` is dead. Safe under any lock.
    #[cold]
    pub(crate) fn fault(self: &Arc<Self>, epoch: u64, cause: &str) {
        // Under the lock of a direction whose epoch this is: so a new epoch clears it afterwards.
        self.change(bits::DYING, 0);
        self.command(Command::Fault { socket: Arc::clone(self), epoch, cause: cause.to_owned() });
    }

    /// Fails the session: the program gets `number` once. Safe under any lock but `sleepers`.
    #[cold]
    pub(crate) fn fail_now(self: &Arc<Self>, number: i32, cause: &str) {
        // Who sees the failure sees why. Under the lock of a direction the engine says it later.
        if !self.has(bits::FAILED)
            && let Ok(mut meta) = self.meta.try_lock()
        {
            meta.rare_mut().last_error = Some(cause.to_owned());
        }
        if self.set_failure(number) {
            self.command(Command::Failed { socket: Arc::clone(self), cause: cause.to_owned() });
        }
    }

    pub(crate) fn reset_by_peer(self: &Arc<Self>) {
        self.fail_now(libc::ECONNRESET, "the peer reset the session");
    }

    pub(crate) fn learn_addrs(self: &Arc<Self>, addrs: Vec<SocketAddr>) {
        self.command(Command::Addrs { socket: Arc::clone(self), addrs });
    }

    /// The peer asks to be resumed elsewhere or later.
    pub(crate) fn redial_beside(self: &Arc<Self>) {
        self.command(Command::Goaway { socket: Arc::clone(self) });
    }

    /// The program asks for a dial now.
    pub(crate) fn redial(self: &Arc<Self>) {
        self.command(Command::Redial { socket: Arc::clone(self) });
    }

    /// The peer has not been told all it could be: the next sweep does it.
    pub(crate) fn list_for_sweep(self: &Arc<Self>) {
        if self.shared.in_sweep.load(Ordering::Relaxed)
            || self.shared.in_sweep.swap(true, Ordering::SeqCst)
        {
            return;
        }
        if let Some(engine) = engine_if_running() {
            engine.list_for_sweep(self);
        }
    }

    fn command(&self, command: Command) {
        if let Some(engine) = engine_if_running() {
            engine.command(command);
        }
    }

    pub(super) fn hold(&self) -> io::Result<Result<Held<'_>, Busy>> {
        let place = Self::lock(&self.place)?;
        let Some(tx) = Self::try_lock(&self.tx)? else { return Ok(Err(Busy)) };
        let Some(rx) = Self::try_lock(&self.rx)? else { return Ok(Err(Busy)) };
        Ok(Ok(Held { place, tx, rx }))
    }

    /// True while a reader is in the kernel with a read of this socket, whose bytes belong to the
    /// connection that stands: it is woken, and who wants to change the connection comes back.
    fn reader_must_leave(&self, held: &Held<'_>) -> bool {
        self.sleepers.reader_must_leave(|| {
            if let Some(real) = held.place.real_number() {
                tcp::shut_reading(real);
            }
        })
    }

    /// Takes the connection of `epoch` away: what it still had to say is kept, a placeholder takes
    /// its number.
    pub(crate) fn take_down(self: &Arc<Self>, epoch: u64) -> io::Result<Result<TakenDown, Busy>> {
        let mut held = match self.hold()? {
            Ok(held) => held,
            Err(busy) => return Ok(Err(busy)),
        };
        // A failed session's real socket is `abandon`'s affair, before this or after.
        let gone = bits::DETACHED | bits::CONNECTING | bits::FRESH | bits::FAILED;
        if held.tx.epoch != epoch || self.has(gone) {
            return Ok(Ok(TakenDown::Stale));
        }
        let connection = self.connection(&held.place);
        if connection.is_none() && self.has(bits::PUMPED) {
            // The session is over and its connection gone before, but the program still reads.
            return Ok(Ok(TakenDown::Stale));
        }
        if self.reader_must_leave(&held) {
            return Ok(Err(Busy));
        }
        let needs_placeholder = held.place.private.is_none()
            && !self.has(bits::PUMPED)
            && !held.place.numbers.is_empty();
        // Before anything is changed: where there are no descriptors the fault has to wait.
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        let stand_in = needs_placeholder.then(|| fd::stand_in(nonblocking)).transpose()?;
        let mut old = Old::Shut;
        if let Some(real) = connection {
            match self.spoiled(&held, real) {
                Ok(found) => old = found,
                Err(cause) => {
                    held.tx.number = -1;
                    held.rx.number = -1;
                    return Ok(Ok(TakenDown::Spoiled(cause)));
                }
            }
            self.drain_old(&mut held.rx, real);
        }
        held.tx.number = -1;
        held.rx.number = -1;
        let is_over = self.note_end(&mut held);
        self.change(bits::DETACHED, bits::WANTS_CREDIT | bits::DYING);
        self.watch_stop();
        if held.place.private.is_some() {
            if let Some(private) = held.place.private.take() {
                tcp::discard(private);
            }
        } else if let Some(pair) = stand_in.filter(|_| !is_over) {
            let now = self.nonblocking.load(Ordering::Relaxed);
            if now != nonblocking {
                // The program has changed it while the queue was emptied.
                fd::set_nonblocking(pair.0.as_raw_fd(), now)?;
            }
            self.put_in_place(&mut held.place, pair, old)?;
            if self.sleepers.has_leader() {
                // A leader that was on its way to sleep would sleep on the placeholder.
                held.place.nudge();
            }
        }
        Ok(Ok(if is_over { TakenDown::Over } else { TakenDown::Detached }))
    }

    /// The number of the connection. Of a pumped socket that has none left the program's number is
    /// the end of the pair, from which nobody else may read.
    fn connection(&self, place: &Place) -> Option<RawFd> {
        let is_pumped = self.has(bits::PUMPED);
        place.real_number().filter(|_| !is_pumped || place.private.is_some())
    }

    /// Absorbs what was drained; true when both directions have ended.
    fn note_end(self: &Arc<Self>, held: &mut Held<'_>) -> bool {
        self.absorb(&mut held.tx);
        let sent = held.tx.sender.as_ref().is_some_and(|sender| sender.is_done());
        let received = held.rx.receiver.as_ref().is_some_and(|receiver| {
            receiver.fin_seen() && (receiver.is_at_end() || self.has(bits::CLOSED))
        });
        sent && received
    }

    /// Puts a placeholder under the socket's numbers. `full` for a connect that is not done.
    pub(crate) fn put_placeholder(
        self: &Arc<Self>,
        place: &mut Place,
        full: bool,
    ) -> io::Result<()> {
        let pair = fd::stand_in(self.nonblocking.load(Ordering::Relaxed))?;
        if full {
            fill(pair.0.as_raw_fd());
        }
        self.put_in_place(place, pair, Old::Shut)
    }

    fn put_in_place(
        self: &Arc<Self>,
        place: &mut Place,
        (program_end, ours): (Fd, Fd),
        old: Old,
    ) -> io::Result<()> {
        self.put(place, program_end, old)?;
        place.placeholder = Some(ours);
        Ok(())
    }

    /// Puts a new file under all the socket's numbers and wakes whoever sleeps on the old one.
    pub(super) fn put(self: &Arc<Self>, place: &mut Place, new: Fd, old: Old) -> io::Result<()> {
        let identity = fd::identity(new.as_raw_fd())?;
        self.drop_stale_numbers(place);
        let sets: Vec<_> = self
            .epolls
            .lock()
            .map_err(|_| poisoned())?
            .iter()
            .filter_map(std::sync::Weak::upgrade)
            .collect();
        for set in &sets {
            set.suspend(&place.numbers);
        }
        let mut result = Ok(());
        if let Some(&first) = place.numbers.first() {
            // A fresh socket has no sleepers, and an old placeholder only needs a nudge.
            let is_fresh = self.has(bits::CONNECTING) && place.placeholder.is_none();
            let shuts = !is_fresh && place.placeholder.is_none() && old == Old::Shut;
            let kept = shuts.then(|| fd::dup_internal(first)).transpose();
            match &kept {
                // Others have bells, and one that comes now is woken by the end of its pair.
                Ok(None) if self.sleepers.has_leader() => place.nudge(),
                Ok(None) => {}
                Ok(Some(kept)) => tcp::shut_both(kept.as_raw_fd()),
                Err(_) => tcp::shut_both(first),
            }
            for &number in &place.numbers {
                let cloexec = fd::is_cloexec(number).unwrap_or(false);
                if let Err(error) = fd::replace(new.as_fd(), number, cloexec) {
                    result = Err(error);
                }
            }
            if let Ok(Some(kept)) = kept {
                tcp::discard(kept);
            }
        }
        place.placeholder = None;
        place.identity = identity;
        for set in &sets {
            // All of them, whatever became of the others.
            let resumed = set.resume(&place.numbers);
            result = result.and(resumed);
        }
        result
    }

    /// A number that names another file was closed behind our back: it is not ours any more.
    fn drop_stale_numbers(self: &Arc<Self>, place: &mut Place) {
        let expected = place.identity;
        place.numbers.retain(|&number| {
            let same = fd::identity(number).is_ok_and(|found| found == expected);
            if !same {
                log::warn!("descriptor {number} of a virtual socket was closed behind its back");
                table::take_of(number, self);
                epoll::lost(self, number);
            }
            same
        });
    }

    /// Looks whether the program's numbers are still its own. When all are gone, so is the
    /// connection that they named: what remains is to be ended as a close would. Gives the epoch of
    /// that connection, 0 when there was none.
    pub(crate) fn look_for_numbers(self: &Arc<Self>) -> io::Result<Result<Option<u64>, Busy>> {
        {
            let place = Self::lock(&self.place)?;
            let is_there =
                |&number: &RawFd| fd::identity(number).is_ok_and(|found| found == place.identity);
            if !place.numbers.is_empty() && place.numbers.iter().all(is_there) {
                return Ok(Ok(None));
            }
        }
        let mut held = match self.hold()? {
            Ok(held) => held,
            Err(busy) => return Ok(Err(busy)),
        };
        // An orphan has none, and goes on for its relatives.
        let other = bits::FRESH | bits::CLOSED | bits::PUMPED | bits::ORPHAN;
        if self.has(other) || !process::is_ours(self) {
            return Ok(Ok(None));
        }
        self.drop_stale_numbers(&mut held.place);
        if !held.place.numbers.is_empty() {
            self.leave_stale_number(&mut held);
            return Ok(Ok(None));
        }
        let epoch = if held.tx.number >= 0 { held.tx.epoch } else { 0 };
        if held.place.private.is_none() {
            held.tx.number = -1;
            held.rx.number = -1;
            // Without a number nobody can wake who reads there.
            self.sleepers.disown_reader();
            // The kernel has taken it off the fault watch; by its number it would be another's.
            if let Ok(mut watch) = self.watch.lock() {
                watch.number = -1;
            }
        }
        held.place.placeholder = None;
        if let Some(sender) = held.tx.sender.as_mut() {
            sender.finish();
        }
        drop(held);
        self.change(bits::CLOSED | bits::WRITE_SHUT, 0);
        Ok(Ok(Some(epoch)))
    }

    /// Puts a proven connection under the socket as `epoch`; the peer wants us to go on at
    /// `peer_receive`. Gives the bytes that are sent again.
    pub(crate) fn attach(
        self: &Arc<Self>,
        new: &mut Option<Fd>,
        epoch: u64,
        peer_receive: u64,
        keys: &mut Option<Keys>,
    ) -> io::Result<Result<u64, Busy>> {
        let mut held = match self.hold()? {
            Ok(held) => held,
            Err(busy) => return Ok(Err(busy)),
        };
        if !process::is_ours(self) {
            // Given up in this very moment; who comes back finds out.
            return Ok(Err(Busy));
        }
        if self.has(bits::FAILED) {
            return Err(crate::error::errno(libc::ECANCELED));
        }
        if self.reader_must_leave(&held) {
            return Ok(Err(Busy));
        }
        let mut old = Old::Shut;
        if !self.has(bits::DETACHED | bits::CONNECTING)
            && let Some(real) = self.connection(&held.place)
        {
            old = self.spoiled(&held, real).map_err(io::Error::other)?;
            self.drain_old(&mut held.rx, real);
        }
        let Some(fd) = new.take() else { return Err(poisoned()) };
        // Before the session stands the placeholder is full of our own filling.
        if let Some(ours) = held.place.placeholder.as_ref().filter(|_| !self.has(bits::CONNECTING))
        {
            take_strays(ours.as_raw_fd(), &mut held.tx);
        }
        let keep_private = held.place.private.is_some()
            || held.place.numbers.is_empty()
            || self.has(bits::PUMPED | bits::CLOSED);
        if !keep_private {
            self.drop_stale_numbers(&mut held.place);
        }
        // With nothing left to put it under, the engine keeps it and ends the session in order.
        let keep_private = keep_private || held.place.numbers.is_empty();
        self.watch_stop();
        let number = if keep_private {
            let number = fd.as_raw_fd();
            if let Some(old) = held.place.private.replace(fd) {
                tcp::discard(old);
            }
            number
        } else {
            fd::set_nonblocking(fd.as_raw_fd(), self.nonblocking.load(Ordering::Relaxed))?;
            self.put(&mut held.place, fd, old)?;
            let Some(&number) = held.place.numbers.first() else {
                return Err(crate::error::errno(libc::EBADF));
            };
            number
        };
        let replayed = self.begin_epoch(&mut held, number, epoch, peer_receive, keys.take())?;
        self.watch_start(number);
        self.change(0, bits::DETACHED | bits::DYING | bits::CONNECTING | bits::FRESH);
        if self.flush(&mut held.tx, false) == super::send::Flushed::Owed {
            self.owe();
        }
        let Held { place, tx, rx } = held;
        drop((place, rx));
        self.finish_tx(tx);
        // Sleepers look again even if no bit changed: the file under the number is another. An edge
        // that it gave while our bits still said "detached" was not passed on.
        self.kick_for(true);
        Ok(Ok(replayed))
    }

    /// Puts a plain connection under the socket's numbers, and the socket is virtual no more: the
    /// peer does not speak eversock.
    pub(crate) fn become_plain(
        self: &Arc<Self>,
        new: &mut Option<Fd>,
    ) -> io::Result<Result<(), Busy>> {
        let mut held = match self.hold()? {
            Ok(held) => held,
            Err(busy) => return Ok(Err(busy)),
        };
        let Some(fd) = new.take() else { return Err(poisoned()) };
        if !self.has(bits::CONNECTING) || self.has(bits::FAILED | bits::CLOSED | bits::PUMPED) {
            return Err(crate::error::errno(libc::ECANCELED));
        }
        fd::set_nonblocking(fd.as_raw_fd(), self.nonblocking.load(Ordering::Relaxed))?;
        self.put(&mut held.place, fd, Old::Shut)?;
        let numbers = std::mem::take(&mut held.place.numbers);
        // Before the bits, as a connect that sleeps returns with them.
        for &number in &numbers {
            table::give_way(number);
        }
        // Who holds the socket still finds one whose numbers are the kernel's affair.
        self.change(bits::PUMPED | bits::OVER, bits::CONNECTING | bits::FRESH | bits::DETACHED);
        for number in numbers {
            for set in self.epolls.lock().map_err(|_| poisoned())?.iter() {
                if let Some(set) = set.upgrade() {
                    set.hand_over(number);
                }
            }
        }
        drop(held);
        self.kick();
        Ok(Ok(()))
    }

    fn begin_epoch(
        self: &Arc<Self>,
        held: &mut Held<'_>,
        number: RawFd,
        epoch: u64,
        peer_receive: u64,
        keys: Option<Keys>,
    ) -> io::Result<u64> {
        self.absorb(&mut held.tx);
        let (Some(sender), Some(receiver)) = (held.tx.sender.as_mut(), held.rx.receiver.as_mut())
        else {
            return Err(poisoned());
        };
        let before = sender.replayed();
        sender.begin_epoch(peer_receive).map_err(|error| io::Error::other(error.to_string()))?;
        let replayed = sender.replayed() - before;
        // What a connection told ends with it: one bad ack must not condemn the next.
        self.shared.peer_ack.store(sender.acked(), Ordering::SeqCst);
        self.shared.peer_edge.store(sender.edge(), Ordering::SeqCst);
        receiver.begin_epoch();
        if sender.is_sealed() != keys.is_some() {
            return Err(io::Error::other("an epoch needs keys if, and only if, it is sealed"));
        }
        if let Some((sealer, opener)) = keys {
            sender.seal_with(sealer);
            receiver.open_with(opener);
        }
        let acks = receiver.acks();
        self.shared.ack.store(acks.ack, Ordering::SeqCst);
        self.shared.window.store(u32::from(acks.window), Ordering::SeqCst);
        self.shared.told_edge.store(acks.edge(), Ordering::SeqCst);
        self.shared.told_ack.store(acks.ack, Ordering::SeqCst);
        held.tx.number = number;
        held.tx.epoch = epoch;
        held.rx.number = number;
        held.rx.epoch = epoch;
        held.rx.counted = engine_if_running()
            .zip(tcp::traffic(number))
            .map(|(engine, from)| Counted { by: engine.instance, from });
        Ok(replayed)
    }

    /// Says so if somebody has read from a direct connection, or written to it, past our calls: a
    /// plain read(2) takes bytes that a resume would never bring again, and what a plain write(2)
    /// has put between our frames is lost with the connection (DESIGN 6). Otherwise what is to
    /// become of the connection.
    fn spoiled(&self, held: &Held<'_>, real: RawFd) -> Result<Old, &'static str> {
        let us = engine_if_running().map(|engine| engine.instance);
        let counted = held.rx.counted.filter(|_| !self.has(bits::PUMPED));
        let Some(counted) = counted.filter(|counted| us == Some(counted.by)) else {
            return Ok(Old::Shut);
        };
        let Some(now) = tcp::traffic(real) else { return Ok(Old::Shut) };
        let (Some(sender), Some(receiver)) = (&held.tx.sender, &held.rx.receiver) else {
            return Ok(Old::Shut);
        };
        let fin = u64::from(!now.is_open);
        let read = now.read.wrapping_sub(counted.from.read);
        let written = now.written.wrapping_sub(counted.from.written);
        if read > receiver.taken() + fin {
            let (id, ours) = (self.id, receiver.taken());
            log::error!("session {id}: {read} bytes were read, {ours} of them by eversock");
            return Err("something else has read from the descriptor; use the evs_ calls only");
        }
        if written > sender.given() + fin {
            let (id, ours) = (self.id, sender.given());
            log::error!("session {id}: {written} bytes were written, {ours} of them by eversock");
            return Err("something else has written to the descriptor; use the evs_ calls only");
        }
        Ok(if now.is_dead { Old::Dead } else { Old::Shut })
    }

    /// Takes the byte that woke a leader from the placeholder, which would be readable for ever.
    pub(crate) fn take_nudges(&self, number: RawFd) {
        let Ok(place) = self.place.lock() else { return };
        if place.placeholder.is_some() && place.numbers.contains(&number) {
            let mut nudges = [0; 64];
            let _none = sys::io::recv_one(number, &mut nudges);
        }
    }

    /// A connection that was accepted under `number` begins its first epoch there, or under the
    /// engine's own descriptor when pumped.
    pub(crate) fn settle(
        self: &Arc<Self>,
        number: RawFd,
        epoch: u64,
        keys: Option<Keys>,
    ) -> io::Result<()> {
        let mut place = Self::lock(&self.place)?;
        let tx = self.lock_tx()?;
        let rx = self.lock_rx()?;
        if place.private.is_none() {
            place.identity = fd::identity(number)?;
        }
        let real = place.real_number().unwrap_or(number);
        let mut held = Held { place, tx, rx };
        self.begin_epoch(&mut held, real, epoch, 0, keys)?;
        if self.flush(&mut held.tx, false) == super::send::Flushed::Owed {
            self.owe();
        }
        Ok(())
    }

    /// Moves the real socket at `number` to the engine and puts one end of a pair under the number;
    /// gives the other end.
    pub(crate) fn go_between(self: &Arc<Self>, number: RawFd) -> io::Result<Fd> {
        let (near, far) = tcp::loopback_pair()?;
        let private = fd::dup_internal(number)?;
        fd::set_nonblocking(private.as_raw_fd(), true)?;
        fd::set_nonblocking(near.as_raw_fd(), fd::is_nonblocking(number)?)?;
        fd::replace(near.as_fd(), number, fd::is_cloexec(number)?)?;
        let mut place = Self::lock(&self.place)?;
        place.private = Some(private);
        place.identity = fd::identity(number)?;
        Ok(far)
    }

    /// Turns an attached or detached direct socket into a pumped one; gives the far end of its
    /// pair.
    pub(crate) fn become_pumped(self: &Arc<Self>, number: RawFd) -> io::Result<Fd> {
        let (near, far) = tcp::loopback_pair()?;
        let mut place = Self::lock(&self.place)?;
        let mut tx = self.lock_tx()?;
        let mut rx = self.lock_rx()?;
        if self.sleepers.is_reading() {
            // Its bytes would go past the pump.
            return Err(crate::error::errno(libc::EBUSY));
        }
        self.watch_stop();
        let real = match place.placeholder.take() {
            Some(_) => None,
            None => Some(fd::dup_internal(number)?),
        };
        fd::set_nonblocking(near.as_raw_fd(), self.nonblocking.load(Ordering::Relaxed))?;
        fd::replace(near.as_fd(), number, fd::is_cloexec(number)?)?;
        place.identity = fd::identity(number)?;
        self.change(bits::PUMPED, 0);
        if let Some(real) = real {
            let to = real.as_raw_fd();
            fd::set_nonblocking(to, true)?;
            if tx.number >= 0 {
                tx.number = to;
            }
            if rx.number >= 0 {
                rx.number = to;
            }
            place.private = Some(real);
            drop((tx, rx));
            self.watch_start(to);
            self.watch_in(true);
        }
        Ok(far)
    }

    /// Lets go of a socket that a child of a fork has taken over, or may.
    pub(crate) fn let_go(self: &Arc<Self>, number: RawFd) -> io::Result<()> {
        let mut place = Self::lock(&self.place)?;
        place.numbers.retain(|&n| n != number);
        let mut tx = self.lock_tx()?;
        let mut rx = self.lock_rx()?;
        if let Some(&other) = place.numbers.first() {
            // Whoever has it one day reads and writes there, not under a number that is no more.
            for of_direction in [&mut tx.number, &mut rx.number] {
                if *of_direction == number {
                    *of_direction = other;
                }
            }
            // By a number that is another session's one day, that one's watch would be taken away.
            if self.watch.lock().is_ok_and(|watch| watch.number == number) {
                self.watch_stop();
                self.watch_start(other);
            }
        } else {
            self.watch_stop();
            tx.number = -1;
            rx.number = -1;
            place.placeholder = None;
            drop((tx, rx, place));
            self.drop_link();
            self.change(bits::CLOSED, 0);
        }
        Ok(())
    }

    /// After a failure: the real socket goes, and whoever polls the number with the kernel's own
    /// calls sees an error there.
    pub(crate) fn abandon(self: &Arc<Self>) -> io::Result<Result<(), Busy>> {
        let mut held = match self.hold()? {
            Ok(held) => held,
            Err(busy) => return Ok(Err(busy)),
        };
        if self.reader_must_leave(&held) {
            return Ok(Err(Busy));
        }
        held.tx.number = -1;
        held.rx.number = -1;
        self.watch_stop();
        if let Some(private) = held.place.private.take() {
            tcp::discard(private);
        } else if !self.has(bits::PUMPED) && !held.place.numbers.is_empty() {
            if held.place.placeholder.is_none() {
                self.put_placeholder(&mut held.place, false)?;
            }
            if let Some(ours) = held.place.placeholder.take() {
                // Closed with an unread byte, the pair shows IN|OUT|ERR|HUP to every poll.
                if let Some(&number) = held.place.numbers.first() {
                    let _full = sys::io::send(number, &[io::IoSlice::new(&[0])], false);
                }
                drop(ours);
            }
        }
        drop(held);
        self.kick();
        Ok(Ok(()))
    }

    /// The program closed its last number: the real socket moves to the engine. The caller closes
    /// the number afterwards.
    pub(crate) fn withdraw(self: &Arc<Self>, place: &mut Place, number: RawFd) -> io::Result<()> {
        let mut tx = self.lock_tx()?;
        let mut rx = self.lock_rx()?;
        place.numbers.retain(|&n| n != number);
        if let Some(&other) = place.numbers.first() {
            if tx.number == number {
                self.watch_stop();
                tx.number = other;
                self.watch_start(other);
            }
            if rx.number == number {
                rx.number = other;
            }
            return Ok(());
        }
        let was_attached = tx.number >= 0 || rx.number >= 0;
        if was_attached && place.private.is_none() {
            self.watch_stop();
            if let Ok(private) = fd::dup_internal(number) {
                let _cosmetic = fd::set_nonblocking(private.as_raw_fd(), true);
                let to = private.as_raw_fd();
                place.private = Some(private);
                if tx.number >= 0 {
                    tx.number = to;
                }
                if rx.number >= 0 {
                    rx.number = to;
                }
                self.watch_start(to);
            } else {
                // At the limit of open files, closing must still work: the connection goes with the
                // number, and the session is delivered over the next one.
                tx.number = -1;
                rx.number = -1;
                self.fault(tx.epoch, "no descriptor to keep the connection of a closed socket");
            }
        } else {
            self.watch_stop();
        }
        place.placeholder = None;
        self.change(bits::CLOSED, 0);
        Ok(())
    }
}

impl Place {
    /// The number of the real socket, if one stands.
    pub(crate) fn real_number(&self) -> Option<RawFd> {
        if let Some(private) = &self.private {
            return Some(private.as_raw_fd());
        }
        if self.placeholder.is_some() {
            return None;
        }
        self.numbers.first().copied()
    }

    /// True when the number names the real socket still: of one that the program has, somebody may
    /// have closed it past us.
    pub(super) fn is_still(&self, number: RawFd) -> bool {
        let is_ours = self.private.as_ref().is_some_and(|private| private.as_raw_fd() == number);
        is_ours || fd::identity(number).is_ok_and(|found| found == self.identity)
    }

    /// Wakes whoever sleeps on the placeholder.
    fn nudge(&self) {
        if let Some(ours) = &self.placeholder {
            let _full = sys::io::send(ours.as_raw_fd(), &[io::IoSlice::new(&[0])], false);
        }
    }
}

/// Fills a socket so that it is not writable.
fn fill(number: RawFd) {
    let junk = [0; 16 * 1024];
    let _small = tcp::set_option(number, libc::SOL_SOCKET, libc::SO_SNDBUF, &1i32.to_ne_bytes());
    // One write takes as many buffers as there is room for; the least bounds it to a few.
    let _full = sys::io::send(number, &[io::IoSlice::new(&junk)], false);
}

/// Bytes that a program wrote to the placeholder past our wrappers join the session.
fn take_strays(ours: RawFd, tx: &mut Tx) {
    let mut buf = [0; 4096];
    let Some(sender) = tx.sender.as_mut() else { return };
    while sender.room() >= buf.len() {
        match sys::io::recv_one(ours, &mut buf) {
            Ok(n) if n > 0 => {
                sender.write_all(&buf[..n]);
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eversock_proto::recv::Receiver;

    /// The engine heard of a connection's death after the session had ended, took the program's end
    /// of the pair for the connection, and drained 16 KiB that the program had not read yet.
    #[test]
    fn a_late_fault_of_a_pumped_session_takes_nothing_from_its_program() {
        let (near, far) = tcp::loopback_pair().expect("a pair");
        let number = near.as_raw_fd();
        let sent = sys::io::send(far.as_raw_fd(), &[io::IoSlice::new(&[7; 1000])], false);
        assert_eq!(sent.expect("room"), 1000);
        let bits = bits::PUMPED | bits::OVER;
        let socket = Arc::new(Socket::new(1, Arc::default(), vec![number], bits));
        socket.lock_tx().expect("a lock").epoch = 1;
        let receiver = Receiver::new(Arc::default(), 0, 256 * 1024);
        socket.lock_rx().expect("a lock").receiver = Some(Box::new(receiver));
        let taken = socket.take_down(1);
        assert!(matches!(taken, Ok(Ok(TakenDown::Stale))), "{taken:?}");
        assert_eq!(sys::io::queued(number), 1000);
    }
}
