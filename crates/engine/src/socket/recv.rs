//! The program reads: straight from the connection into its buffer where that is possible.

use std::io::{self, IoSliceMut};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use eversock_proto::limits::{CONTROL_FRAMES_PER_CALL_MAX, HEADER_BYTES};
use eversock_proto::recv::{Receiver, Violation};
use eversock_proto::send::ack_step;
use eversock_proto::wire::frame::Header;

use super::lead::{Led, only_buffer};
use super::reads::{READ_AHEAD_BYTES, ReadError, read_direct, read_records, read_stashing};
use super::{Rx, Socket, bits};
use crate::error::{fail, guarded, would_block};
use crate::meet::credit;
use crate::process;
use crate::sys;
use crate::wait::kick::Bell;

/// How a program wants one call to behave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RecvMode {
    /// MSG_DONTWAIT, or the socket is non-blocking.
    pub(crate) dont_wait: bool,
    /// MSG_PEEK.
    pub(crate) peek: bool,
    /// MSG_WAITALL.
    pub(crate) wait_all: bool,
    /// A read that sleeps is a cancellation point, as libc's is.
    pub(crate) cancellation_point: bool,
}

/// How long a count of what is readable waits for a reader that is about to come out.
const COUNT_WITHIN: Duration = Duration::from_millis(200);
/// Reads of one read-ahead, at most.
const READ_AHEAD_ROUNDS: usize = 64;

/// What ends a reader's sleep, whatever the kernel has.
const WAKING: u32 = bits::STASH | bits::EOF | bits::FAILED | bits::CLOSED;

pub(super) enum Got {
    /// So many bytes; `more` unless the kernel's queue is known to be empty.
    Bytes { n: usize, more: bool },
    /// Nothing there now.
    Nothing,
    /// The end of the stream.
    End,
}

impl Socket {
    /// Reads as recv(2) would. `number` is what the program called with: where a blocking call
    /// sleeps.
    pub(crate) fn recv(
        self: &Arc<Self>,
        number: RawFd,
        slices: &mut [IoSliceMut<'_>],
        mode: RecvMode,
    ) -> io::Result<usize> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let dont_wait = mode.dont_wait || self.nonblocking.load(Ordering::Relaxed);
        let mut deadline = None;
        let mut done = 0;
        let mut leads = false;
        let mut may_skip = !dont_wait && !mode.peek;
        let sleeps_in_read =
            may_skip && self.recv_timeout_us.load(Ordering::Relaxed) == 0 && total > 0;
        loop {
            if sleeps_in_read {
                // A blocking read gives at once what is queued: no need to ask first.
                let led = match only_buffer(slices, done) {
                    Some(buf) => self.read_leading(number, buf, mode.cancellation_point),
                    None => Ok(Led::NotHere),
                };
                match led {
                    Ok(Led::NotHere) => {}
                    Ok(Led::Bytes { n, more }) => {
                        done += n;
                        if n > 0 && (done == total || !mode.wait_all && !more) {
                            return Ok(done);
                        }
                        if n == 0 || mode.wait_all {
                            continue;
                        }
                        return Ok(self.fill_up(slices, done));
                    }
                    Err(error) if done > 0 => return Ok(self.untold(&error, done)),
                    Err(error) => return Err(error),
                }
            }
            let skip = std::mem::take(&mut may_skip);
            let step = guarded(|| self.recv_step(slices, done, mode, skip, leads));
            if leads {
                self.stop_leading();
                leads = false;
            }
            match step {
                Ok(Got::Bytes { n, .. }) => {
                    done += n;
                    if done == total || mode.peek || !mode.wait_all {
                        return Ok(done);
                    }
                }
                Ok(Got::End) => return Ok(done),
                Ok(Got::Nothing) => {
                    // recv(2) of nothing waits for something all the same.
                    if total == 0 && self.probe_input() {
                        return Ok(0);
                    }
                    if dont_wait {
                        return if done > 0 { Ok(done) } else { fail(libc::EAGAIN) };
                    }
                    let at = *deadline.get_or_insert_with(|| Self::deadline(&self.recv_timeout_us));
                    match self.wait_readable(number, at) {
                        Ok(leading) => leads = leading,
                        Err(error) if done > 0 => return Ok(self.untold(&error, done)),
                        Err(error) => return Err(error),
                    }
                }
                Err(error) if done > 0 => return Ok(self.untold(&error, done)),
                Err(error) => return Err(error),
            }
        }
    }

    /// A read has brought `done` bytes and there may be more: an edge-triggered program takes a
    /// short read for an empty queue. Gives the number of all.
    pub(crate) fn fill_up(self: &Arc<Self>, slices: &mut [IoSliceMut<'_>], done: usize) -> usize {
        match guarded(|| self.recv_step(slices, done, RecvMode::default(), false, false)) {
            Ok(Got::Bytes { n, .. }) => done + n,
            // What else there is to say is said to the next call.
            Ok(Got::Nothing | Got::End) => done,
            Err(error) => self.untold(&error, done),
        }
    }

    /// One try under the lock, over all the slices.
    fn recv_step(
        self: &Arc<Self>,
        slices: &mut [IoSliceMut<'_>],
        skip: usize,
        mode: RecvMode,
        may_skip: bool,
        leads: bool,
    ) -> io::Result<Got> {
        let mut rx = self.lock_rx()?;
        self.check_ours()?;
        if may_skip && rx.drained && rx.receiver.as_ref().is_some_and(|r| r.stashed() == 0) {
            return self.or_end(&rx, Got::Nothing, leads);
        }
        if mode.peek {
            let may_read = leads || !self.sleepers.has_leader();
            let got = self.peek_step(&mut rx, slices, may_read)?;
            return self.or_end(&rx, got, leads);
        }
        let may_read = leads || !self.sleepers.has_leader();
        let mut skip = skip;
        let mut done = 0;
        for slice in slices {
            if skip >= slice.len() {
                skip -= slice.len();
                continue;
            }
            let mut at = std::mem::take(&mut skip);
            while at < slice.len() {
                match self.read_some(&mut rx, &mut slice[at..], may_read) {
                    Got::Bytes { n, more } => {
                        at += n;
                        done += n;
                        if !more {
                            return Ok(Got::Bytes { n: done, more: false });
                        }
                    }
                    Got::Nothing => {
                        return if done > 0 {
                            Ok(Got::Bytes { n: done, more: false })
                        } else {
                            self.or_end(&rx, Got::Nothing, leads)
                        };
                    }
                    Got::End => {
                        return if done > 0 {
                            Ok(Got::Bytes { n: done, more: false })
                        } else {
                            Ok(Got::End)
                        };
                    }
                }
            }
        }
        if done > 0 {
            Ok(Got::Bytes { n: done, more: true })
        } else {
            self.or_end(&rx, Got::Nothing, leads)
        }
    }

    /// Turns "nothing there" into the end or the error that the program must be told.
    fn or_end(&self, rx: &Rx, got: Got, _leads: bool) -> io::Result<Got> {
        if !matches!(got, Got::Nothing) {
            return Ok(got);
        }
        if rx.receiver.as_ref().is_some_and(|receiver| receiver.is_at_end()) {
            return Ok(Got::End);
        }
        let bits = self.bits();
        if bits & bits::FAILED != 0 {
            if bits & bits::PUMPED != 0 {
                // The one error is the program's, not the pump's.
                return Ok(Got::Nothing);
            }
            self.failure(None)?;
            return Ok(Got::End);
        }
        if bits & bits::EOF != 0 {
            return Ok(Got::End);
        }
        if bits & bits::CLOSED != 0 {
            return fail(libc::EBADF);
        }
        if bits & (bits::FRESH | bits::CONNECTING) != 0 && bits & bits::CONNECTING == 0 {
            return fail(libc::ENOTCONN);
        }
        Ok(Got::Nothing)
    }

    /// Who reads under the lock must own the session, which a fork or a relative may have taken
    /// away while he slept; and what relatives have left unread comes first. ERESTART: look again.
    fn check_ours(self: &Arc<Self>) -> io::Result<()> {
        let bits = self.bits();
        if bits & (bits::FRESH | bits::FAILED | bits::CLOSED) == 0 && !process::is_ours(self) {
            return fail(libc::ERESTART);
        }
        if bits & bits::GUESTS != 0 && !self.take_back() {
            return fail(libc::ERESTART);
        }
        if self.has(bits::RETURNED) { fail(libc::ERESTART) } else { Ok(()) }
    }

    /// The receiving direction's lock.
    pub(crate) fn lock_rx(&self) -> io::Result<MutexGuard<'_, Rx>> {
        Self::lock(&self.rx)
    }

    /// Reads from the stash or the connection into one buffer.
    pub(super) fn read_some(self: &Arc<Self>, rx: &mut Rx, buf: &mut [u8], may_read: bool) -> Got {
        let (from, epoch) = (rx.number, rx.epoch);
        let Some(receiver) = rx.receiver.as_mut() else { return Got::Nothing };
        if receiver.stashed() > 0 {
            let n = receiver.read_stash(buf);
            self.after_input(receiver);
            return Got::Bytes { n, more: true };
        }
        if receiver.is_at_end() {
            return Got::End;
        }
        let before = receiver.frames();
        while receiver.frames() - before < u64::from(CONTROL_FRAMES_PER_CALL_MAX) {
            if from < 0 || !may_read {
                return Got::Nothing;
            }
            let result = if receiver.is_direct() {
                read_direct(receiver, from, buf)
            } else if receiver.is_sealed() {
                read_records(receiver, from, buf)
            } else {
                read_stashing(receiver, from)
            };
            let read = match result {
                Ok(read) => read,
                Err(ReadError::Kernel(error)) if would_block(&error) => {
                    rx.drained = true;
                    return Got::Nothing;
                }
                Err(error) => {
                    rx.number = -1;
                    self.condemn(epoch, &error);
                    return Got::Nothing;
                }
            };
            rx.drained = !read.more;
            self.after_input(receiver);
            if read.payload > 0 {
                if let Some(violation) = receiver.violation() {
                    // Nothing more need come that would tell it later.
                    rx.number = -1;
                    self.condemn(epoch, &violation.into());
                }
                return Got::Bytes { n: read.payload, more: read.more };
            }
            if receiver.stashed() > 0 {
                let n = receiver.read_stash(buf);
                self.after_input(receiver);
                return Got::Bytes { n, more: true };
            }
            if receiver.is_at_end() {
                return Got::End;
            }
            if !read.more {
                return Got::Nothing;
            }
        }
        // A flood of control frames: let the program go on, and make sure that it comes back.
        self.watch_in(true);
        Got::Nothing
    }

    fn peek_step(
        self: &Arc<Self>,
        rx: &mut Rx,
        slices: &mut [IoSliceMut<'_>],
        may_read: bool,
    ) -> io::Result<Got> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let (from, epoch) = (rx.number, rx.epoch);
        let Some(receiver) = rx.receiver.as_mut() else { return Ok(Got::Nothing) };
        for _ in 0..READ_AHEAD_ROUNDS {
            if from < 0 || !may_read || receiver.stashed() >= wanted || receiver.fin_seen() {
                break;
            }
            match read_stashing(receiver, from) {
                Ok(_) => self.after_input(receiver),
                Err(ReadError::Kernel(error)) if would_block(&error) => break,
                Err(error) => {
                    rx.number = -1;
                    self.condemn(epoch, &error);
                    break;
                }
            }
        }
        let Some(receiver) = rx.receiver.as_mut() else { return Ok(Got::Nothing) };
        if receiver.stashed() == 0 {
            return Ok(Got::Nothing);
        }
        let mut all = vec![0; wanted.min(receiver.stashed())];
        let n = receiver.peek_stash(&mut all);
        let mut rest = &all[..n];
        for slice in slices {
            let k = slice.len().min(rest.len());
            slice[..k].copy_from_slice(&rest[..k]);
            rest = &rest[k..];
        }
        Ok(Got::Bytes { n, more: true })
    }

    /// Reads what is queued into the stash: for a sender that needs credit, and for the engine.
    /// Does nothing while a reader leads.
    pub(crate) fn read_ahead(self: &Arc<Self>) {
        let Ok(mut rx) = self.rx.try_lock() else { return };
        if self.sleepers.has_leader() {
            return;
        }
        self.read_ahead_locked(&mut rx);
    }

    /// The same for who holds the lock; gives what ended the connection, if anything did.
    pub(crate) fn read_ahead_locked(self: &Arc<Self>, rx: &mut Rx) {
        if !process::is_ours(self) {
            return;
        }
        let (from, epoch) = (rx.number, rx.epoch);
        let Some(receiver) = rx.receiver.as_mut() else { return };
        for _ in 0..READ_AHEAD_ROUNDS {
            if from < 0 {
                return;
            }
            match read_stashing(receiver, from) {
                Ok(read) => {
                    self.after_input(receiver);
                    if !read.more {
                        return;
                    }
                }
                Err(ReadError::Kernel(error)) if would_block(&error) => return,
                Err(error) => {
                    rx.number = -1;
                    self.condemn(epoch, &error);
                    return;
                }
            }
        }
    }

    /// Reads all that a connection which is about to go has queued; gives false when there may be
    /// more, which cannot be as the window bounds it.
    pub(crate) fn drain_old(self: &Arc<Self>, rx: &mut Rx, from: RawFd) {
        let Some(receiver) = rx.receiver.as_mut() else { return };
        // What is queued now, no more: a peer may go on sending, and replay covers the rest.
        let mut left = sys::io::queued(from) + READ_AHEAD_BYTES;
        loop {
            let before = receiver.taken();
            if left == 0 || read_stashing(receiver, from).is_err() {
                break;
            }
            self.after_input(receiver);
            let n = receiver.taken() - before;
            left = left.saturating_sub(usize::try_from(n).unwrap_or(usize::MAX));
        }
    }

    /// For poll on a blocking socket: eats queued control frames and says whether the program
    /// would get something. Waits for who has the lock, as a yes by guess would send a program to
    /// sleep in a read.
    pub(crate) fn probe_input(self: &Arc<Self>) -> bool {
        self.rx.lock().map_or(true, |mut rx| self.probe(&mut rx))
    }

    /// Eats queued control frames, if nobody reads at this moment.
    pub(crate) fn eat_control_frames(self: &Arc<Self>) {
        if let Ok(mut rx) = self.rx.try_lock() {
            let _payload = self.probe(&mut rx);
        }
    }

    fn probe(self: &Arc<Self>, rx: &mut Rx) -> bool {
        if self.sleepers.has_leader() {
            return true;
        }
        if !process::is_ours(self) {
            // A relative's, or nobody's yet: the program's own call finds out.
            return true;
        }
        let (from, epoch) = (rx.number, rx.epoch);
        let Some(receiver) = rx.receiver.as_mut() else { return true };
        let before = receiver.frames();
        while receiver.frames() - before < u64::from(CONTROL_FRAMES_PER_CALL_MAX) {
            if receiver.stashed() > 0 || receiver.is_at_end() {
                return true;
            }
            if from < 0 {
                return false;
            }
            if receiver.payload_left() > 0 && receiver.is_direct() {
                return sys::io::queued(from) > 0;
            }
            let result = if receiver.is_direct() {
                // Only the header, so that the payload stays where the kernel can see it.
                let space = receiver.header_space();
                match sys::io::recv_one(from, space) {
                    Ok(0) => Err(ReadError::Ended),
                    Ok(n) => receiver.accept(&mut [], 0, n).map_err(ReadError::from).map(|_| ()),
                    Err(error) => Err(ReadError::Kernel(error)),
                }
            } else {
                read_stashing(receiver, from).map(|_| ())
            };
            match result {
                Ok(()) => self.after_input(receiver),
                Err(ReadError::Kernel(error)) if would_block(&error) => return false,
                Err(error) => {
                    rx.number = -1;
                    self.condemn(epoch, &error);
                    return false;
                }
            }
        }
        false
    }

    /// Passes on what reading has taught. Called under the receiving lock after each read.
    #[inline(never)]
    pub(crate) fn after_input(self: &Arc<Self>, receiver: &mut Receiver) {
        let shared = &self.shared;
        let (ack, edge) = receiver.peer();
        if ack > shared.peer_ack.load(Ordering::Relaxed) {
            shared.peer_ack.store(ack, Ordering::Release);
        }
        let no_room = || self.has(bits::NO_ROOM);
        let opened = credit::publish(&shared.peer_edge, edge, no_room, &shared.written);
        if receiver.has_news() {
            let news = receiver.take_news();
            if news.stop {
                shared.peer_stopped.store(true, Ordering::SeqCst);
                self.change(bits::STOPPED, 0);
            }
            if news.blocked {
                receiver.grow_window();
            }
            if news.reset.is_some() {
                self.reset_by_peer();
            }
            if let Some(addrs) = news.addrs {
                self.learn_addrs(addrs);
            }
            if news.goaway {
                self.redial_beside();
            }
        }
        if opened {
            self.change(0, bits::NO_ROOM);
        }
        self.note_acks(receiver);
        if receiver.is_mid_record() {
            // Its rest has a deadline.
            self.list_for_sweep();
        }
        let stash = if receiver.stashed() > 0 { bits::STASH } else { 0 };
        let end = if receiver.is_at_end() { bits::EOF } else { 0 };
        let ends = end != 0 && !self.has(bits::EOF);
        self.change(stash | end, bits::STASH & !stash);
        if ends {
            self.tell_guests();
        }
    }

    /// Publishes what to tell the peer, and sees to it that it is told in time.
    pub(crate) fn note_acks(self: &Arc<Self>, receiver: &Receiver) {
        let shared = &self.shared;
        let acks = receiver.acks();
        // Who must not miss them is told by a flag or a lock afterwards.
        shared.receive.store(receiver.next(), Ordering::Release);
        shared.ack.store(acks.ack, Ordering::Release);
        shared.window.store(u32::from(acks.window), Ordering::Release);
        shared.fin_seen.store(receiver.fin_seen(), Ordering::Release);
        let told_edge = shared.told_edge.load(Ordering::Relaxed);
        let told_ack = shared.told_ack.load(Ordering::Relaxed);
        let due = acks.edge().saturating_sub(told_edge) >= ack_step(receiver.window())
            || (receiver.fin_seen() && acks.ack > told_ack);
        if due && !self.has(bits::DETACHED | bits::CONNECTING) {
            self.send_ack();
        } else if acks.ack != told_ack {
            self.list_for_sweep();
        }
    }

    /// A side that is itself out of credit gives more, so that programs which both write before
    /// they read do not wait for each other.
    pub(crate) fn grow_own_window(self: &Arc<Self>) {
        if !self.has(bits::NO_ROOM) {
            return;
        }
        if let Ok(mut rx) = self.rx.try_lock()
            && let Some(receiver) = rx.receiver.as_mut()
            && receiver.grow_window()
        {
            self.note_acks(receiver);
        }
    }

    /// Sleeps until reading may go on. Gives true when the caller leads and must say so when done.
    fn wait_readable(
        self: &Arc<Self>,
        number: RawFd,
        deadline: Option<Instant>,
    ) -> io::Result<bool> {
        // A time-out is never restarted after a signal (signal(7)), so poll serves it exactly; and
        // so does it serve who follows a leader or waits for a connection.
        let (leads, follows) = {
            let leads = deadline.is_none()
                && !self.nonblocking.load(Ordering::Relaxed)
                && !self.has(bits::DETACHED | bits::DYING | bits::CONNECTING | bits::PUMPED)
                && self.sleepers.lead(false);
            (leads, !leads && self.sleepers.has_leader())
        };
        // A leader sleeps in the kernel, where no bell is heard.
        let result = if leads {
            let mut unwound = Unwound(Some(self));
            let result = self.lead(number);
            unwound.0 = None;
            result
        } else {
            let bell = Bell::new()?;
            let _listed = self.sleepers.list(&bell);
            self.sleep_for_input(number, &bell, deadline, follows)
        };
        if result.is_err() && leads {
            self.stop_leading();
        }
        if leads && self.has(bits::DETACHED) {
            self.take_nudges(number);
        }
        result.map(|()| leads)
    }

    /// True when a reader must not sleep: what a relative has left unread is not the kernel's to
    /// tell either.
    pub(super) fn is_woken(&self) -> bool {
        self.has(WAKING | bits::RETURNED) || self.has(bits::GUESTS) && self.is_left_unread()
    }

    /// Sleeps in the kernel on the number itself. Nobody else consumes input meanwhile.
    fn lead(self: &Arc<Self>, number: RawFd) -> io::Result<()> {
        // Who reads at this moment has not seen that we lead: wait it out, then look.
        drop(self.lock_rx()?);
        if self.is_woken() {
            return Ok(());
        }
        match sys::io::wait_readable(number) {
            Err(error) if matches!(crate::error::number(&error), libc::EINTR | libc::EBADF) => {
                Err(error)
            }
            // Whatever else it says is the real socket's affair; the loop will see.
            _ => Ok(()),
        }
    }

    fn sleep_for_input(
        self: &Arc<Self>,
        number: RawFd,
        bell: &Bell,
        deadline: Option<Instant>,
        follows: bool,
    ) -> io::Result<()> {
        if self.is_woken() {
            return Ok(());
        }
        // Who was to be followed may have gone before our bell could be rung.
        if follows && !self.sleepers.has_leader() {
            return Ok(());
        }
        let attached = !self.has(bits::DETACHED | bits::DYING | bits::CONNECTING);
        let mut fds = [
            libc::pollfd { fd: bell.number(), events: libc::POLLIN, revents: 0 },
            libc::pollfd {
                fd: if attached && !follows { number } else { -1 },
                events: libc::POLLIN,
                revents: 0,
            },
        ];
        let timeout = deadline.map(|at| at.saturating_duration_since(crate::clock::now()));
        if sys::io::poll_in_call(&mut fds, timeout)? == 0 { fail(libc::EAGAIN) } else { Ok(()) }
    }

    /// A reader is no leader any more: the engine may read for those who need it.
    pub(crate) fn let_others_read(self: &Arc<Self>) {
        let state = self.bits();
        if state & (bits::WANTS_CREDIT | bits::CLOSED | bits::EOF | bits::STASH) == 0 {
            return;
        }
        let _uncancelled = sys::process::Uncancelled::begin();
        if state & (bits::WANTS_CREDIT | bits::CLOSED) != 0 {
            self.watch_in(true);
        }
        if state & (bits::EOF | bits::STASH) != 0 {
            self.tell_guests();
        }
    }

    /// The leader has read; those who waited for it look again.
    pub(crate) fn stop_leading(self: &Arc<Self>) {
        self.sleepers.stop_leading();
        self.let_others_read();
    }

    /// Payload bytes that the program could read now, exactly (FIONREAD).
    pub(crate) fn readable_bytes(self: &Arc<Self>) -> io::Result<usize> {
        let mut rx = self.lock_rx()?;
        let mut until = None;
        while self.sleepers.is_reading() && rx.number >= 0 && sys::io::queued(rx.number) > 0 {
            // What a thread in a read has taken is not accounted for yet: it is about to come out.
            let now = crate::clock::now();
            if now >= *until.get_or_insert(now + COUNT_WITHIN) {
                break;
            }
            drop(rx);
            crate::wait::epoll::sleep(Duration::from_micros(50));
            rx = self.lock_rx()?;
        }
        if rx.receiver.as_ref().is_some_and(|receiver| receiver.is_sealed())
            && !self.sleepers.has_leader()
        {
            // What is queued as records cannot be counted before it is opened.
            self.read_ahead_locked(&mut rx);
        }
        let Some(receiver) = rx.receiver.as_ref() else { return Ok(0) };
        let mut total = receiver.stashed();
        // With replayed bytes to skip, what the queue is worth is known when it has been read.
        if rx.number < 0 || !receiver.is_between_bodies() || self.sleepers.is_reading() {
            return Ok(total);
        }
        let mut queue = vec![0; sys::io::queued(rx.number)];
        let Ok(n) = sys::io::peek(rx.number, &mut queue) else { return Ok(total) };
        let mut rest = &queue[..n];
        let here = receiver.payload_left().min(rest.len());
        total += here;
        rest = &rest[here..];
        let mut head: Vec<u8> = receiver.header_so_far().to_vec();
        while head.len() + rest.len() >= HEADER_BYTES {
            let (more, after) = rest.split_at(HEADER_BYTES - head.len());
            head.extend_from_slice(more);
            let mut bytes = [0; HEADER_BYTES];
            bytes.copy_from_slice(&head);
            head.clear();
            let Some(header) = Header::decode(&bytes) else { break };
            let length = (header.length as usize).min(after.len());
            if header.kind == eversock_proto::wire::frame::Kind::Data {
                total += length;
            }
            rest = &after[length..];
        }
        Ok(total)
    }

    #[cold]
    pub(crate) fn condemn(self: &Arc<Self>, epoch: u64, error: &ReadError) {
        match error {
            ReadError::Violation(Violation::DataLost { .. }) => {
                log::error!("session {}: {error}", self.id);
                self.fail_now(libc::ECONNRESET, &error.to_string());
            }
            _ => self.fault(epoch, &error.to_string()),
        }
    }
}

/// A leader whose thread is cancelled in its sleep leads no more.
struct Unwound<'a>(Option<&'a Arc<Socket>>);

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.0 {
            socket.stop_leading();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever held the lock was taken for a reader who has something: poll said that a blocking
    /// socket has input while the engine was about to read the START of a new connection.
    #[test]
    fn a_lock_that_is_taken_is_no_input() {
        let engine = crate::reactor::engine().expect("an engine");
        let socket = Arc::new(Socket::new(engine.next_id(), Arc::default(), Vec::new(), 0));
        assert!(socket.owner.claim(engine.instance, true));
        socket.shared.in_sweep.store(true, Ordering::SeqCst);
        let receiver = Receiver::new(Arc::default(), 0, 256 * 1024);
        socket.lock_rx().expect("the lock").receiver = Some(Box::new(receiver));
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..50_000u64 {
                    let held = socket.lock_rx().expect("the lock");
                    (0..turn % 97).for_each(|_| std::hint::spin_loop());
                    drop(held);
                }
                is_over.store(true, Ordering::SeqCst);
            });
            let mut guessed = false;
            while !is_over.load(Ordering::SeqCst) {
                guessed |= socket.probe_input();
            }
            assert!(!guessed, "there is nothing to read");
        });
    }

    /// Reads were counted instead of frames, and each may bring a buffer full of them.
    #[test]
    fn a_flood_of_control_frames_is_left_in_the_kernel_after_the_read_that_reaches_the_limit() {
        use eversock_proto::wire::frame::{Acks, Kind};
        use std::os::fd::AsRawFd;
        let stream = rustix::net::SocketType::STREAM;
        let (ours, theirs) = sys::fd::unix_pair(stream).expect("a pair");
        let number = ours.as_raw_fd();
        let config = Arc::default();
        let socket = Arc::new(Socket::new(1, config, vec![number], 0));
        let mut rx = Rx { number, epoch: 1, ..Rx::default() };
        rx.receiver = Some(Box::new(Receiver::new(Arc::default(), 0, 256 * 1024)));
        let frame = |kind, length| {
            Header { kind, flags: 0, length, acks: Acks { ack: 0, window: 64 } }.encode()
        };
        let mut flood = frame(Kind::Start, 8).to_vec();
        flood.extend([0; 8]);
        flood.extend(frame(Kind::Ack, 0).repeat(4096));
        let sent = sys::io::send(theirs.as_raw_fd(), &[io::IoSlice::new(&flood)], false);
        let sent = sent.expect("a flood");
        let mut buf = [0; 10_000];
        let (mut calls, mut before) = (0, sys::io::queued(number));
        assert!(before == sent && before > 60_000, "{before} bytes are queued");
        while before > 0 {
            assert!(matches!(socket.read_some(&mut rx, &mut buf, true), Got::Nothing));
            let after = sys::io::queued(number);
            // The header that is asked for comes on top of the buffer.
            assert!(before - after <= buf.len() + HEADER_BYTES, "{} bytes", before - after);
            before = after;
            calls += 1;
        }
        assert!(calls >= 6, "{calls} calls");
    }
}
