//! The program writes: into the log under the direction lock, and from the log to the connection.

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Instant;

use eversock_proto::send::{GATHER_SLICES, Sender};
use eversock_proto::wire::frame::Acks;

use super::gather::{GATHERED_MAX_BYTES, Gathered};
use super::quick::{SMALL_MAX_BYTES, Small};
use super::{Socket, Tx, bits};
use crate::error::{errno, fail, guarded, number, would_block};
use crate::meet::{credit, wish};
use crate::sys::{self, process};
use crate::wait::kick::Bell;

/// How a program wants one call to behave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SendMode {
    /// MSG_DONTWAIT, or the socket is non-blocking.
    pub(crate) dont_wait: bool,
    /// MSG_MORE.
    pub(crate) more: bool,
    /// MSG_NOSIGNAL.
    pub(crate) no_signal: bool,
}

/// What became of the frames that were to go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// All are with the kernel, or no connection stands.
    All,
    /// The kernel is full; the rest is owed.
    Owed,
}

enum Step {
    /// So many bytes are in the log; `owed` if the kernel does not have them all.
    Took {
        n: usize,
        owed: bool,
    },
    KernelFull,
    NoRoom,
}

impl Socket {
    /// Writes as send(2) would. What was taken is delivered once, in order, or the session fails.
    pub(crate) fn send(
        self: &Arc<Self>,
        slices: &[IoSlice<'_>],
        mode: SendMode,
    ) -> io::Result<usize> {
        let result = self.send_without_signal(slices, mode);
        if let Err(error) = &result
            && number(error) == libc::EPIPE
            && !mode.no_signal
        {
            process::raise_sigpipe();
        }
        result
    }

    fn send_without_signal(
        self: &Arc<Self>,
        slices: &[IoSlice<'_>],
        mode: SendMode,
    ) -> io::Result<usize> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let dont_wait = mode.dont_wait || self.nonblocking.load(Ordering::Relaxed);
        let mut deadline = None;
        let mut done = 0;
        let mut looked = false;
        let mut quick = None;
        if let [bytes] = slices
            && (1..=GATHERED_MAX_BYTES).contains(&bytes.len())
            && !mode.more
        {
            match self.send_in_burst(bytes)? {
                Gathered::Taken => return Ok(total),
                Gathered::Part(n) => quick = Some(Step::Took { n, owed: false }),
                Gathered::Owed => {
                    if dont_wait {
                        self.owe();
                    }
                    quick = Some(Step::Took { n: total, owed: true });
                }
                Gathered::NotHere => {}
            }
        }
        if let [bytes] = slices
            && quick.is_none()
            && (1..=SMALL_MAX_BYTES).contains(&bytes.len())
            && !mode.more
        {
            match self.send_small(bytes)? {
                Small::Sent => return Ok(total),
                Small::Owed => {
                    if dont_wait {
                        self.owe();
                    }
                    quick = Some(Step::Took { n: total, owed: true });
                }
                Small::NotHere => {}
            }
        }
        if self.has(bits::EOF) {
            // Behind the peer's end there is only control, which no reader fetches any more: acks,
            // and perhaps that nobody reads what we write.
            self.read_ahead();
        }
        loop {
            let step = match quick
                .take()
                .map_or_else(|| guarded(|| self.send_step(slices, done, mode.more, dont_wait)), Ok)
            {
                Ok(step) => step,
                // The error stays for the next call when part of this one was taken.
                Err(error) if done > 0 => return Ok(self.untold(&error, done)),
                Err(error) => return Err(error),
            };
            let kernel_full = match step {
                Step::Took { n, owed } => {
                    done += n;
                    looked = false;
                    // A blocking send returns when the kernel has all, as send(2) does; so nothing
                    // is owed behind the back of a program that will not call again.
                    if done == total && (dont_wait || !owed) {
                        return Ok(done);
                    }
                    if done < total {
                        continue;
                    }
                    true
                }
                Step::KernelFull => true,
                Step::NoRoom if !looked => {
                    // The credit has often come already: one look saves a sleep.
                    looked = true;
                    self.grow_own_window();
                    self.read_ahead();
                    continue;
                }
                Step::NoRoom => false,
            };
            if dont_wait {
                if !kernel_full {
                    self.want_credit();
                }
                return if done > 0 { Ok(done) } else { fail(libc::EAGAIN) };
            }
            if deadline.is_none() {
                deadline = Some(Self::deadline(&self.send_timeout_us));
            }
            if let Err(error) = self.wait_writable(deadline.flatten(), done == total) {
                self.leave_owed();
                return if done > 0 { Ok(self.untold(&error, done)) } else { Err(error) };
            }
            if done == total && !self.is_owing() {
                return Ok(done);
            }
        }
    }

    /// One try under the lock.
    fn send_step(
        self: &Arc<Self>,
        slices: &[IoSlice<'_>],
        done: usize,
        more: bool,
        dont_wait: bool,
    ) -> io::Result<Step> {
        let mut tx = self.lock_tx()?;
        self.check_sendable()?;
        if !crate::process::is_ours(self) {
            // A fork or a relative has taken it away while we slept.
            return fail(libc::ERESTART);
        }
        self.absorb(&mut tx);
        // Who waits for the kernel itself needs no engine to do it too.
        let corked = more && tx.held_since() == 0;
        if self.flush(&mut tx, corked) == Flushed::Owed {
            if dont_wait {
                self.owe();
            }
            self.finish_tx(tx);
            return Ok(Step::KernelFull);
        }
        let Some(sender) = tx.sender.as_mut() else { return fail(libc::ENOTCONN) };
        if sender.is_stopped() {
            return fail(libc::EPIPE);
        }
        if self.has(bits::GUESTS) {
            // What relatives wrote before this call goes before it.
            if !self.take_from_guests(&mut tx) {
                self.change(bits::NO_ROOM, 0);
                self.absorb(&mut tx);
                self.flush(&mut tx, more);
                self.finish_tx(tx);
                return Ok(Step::NoRoom);
            }
        }
        let Some(sender) = tx.sender.as_mut() else { return fail(libc::ENOTCONN) };
        let took = write_from(sender, slices, done);
        let written = sender.written();
        self.shared.written.store(written, Ordering::Release);
        let wanted = slices.iter().map(|slice| slice.len()).sum::<usize>() - done;
        // Who is told that there was no room must be told of room, though it be there by now.
        if sender.is_out_of_room() || took == Some(0) && wanted > 0 {
            self.change(bits::NO_ROOM, 0);
            // The peer may have raised its edge between our look and the bit.
            self.absorb(&mut tx);
        }
        let taken = match took {
            Some(0) if wanted > 0 => {
                self.finish_tx(tx);
                return Ok(Step::NoRoom);
            }
            Some(taken) => taken,
            None => {
                self.finish_tx(tx);
                return fail(libc::ENOMEM);
            }
        };
        let owed = self.flush(&mut tx, more) == Flushed::Owed;
        let looks = tx.is_to_look();
        self.finish_tx(tx);
        if owed && dont_wait {
            self.owe();
        }
        if looks {
            self.eat_control_frames();
        }
        self.list_for_sweep();
        Ok(Step::Took { n: taken, owed })
    }

    fn check_sendable(&self) -> io::Result<()> {
        let bits = self.bits();
        let refused = bits::FAILED
            | bits::FRESH
            | bits::CONNECTING
            | bits::WRITE_SHUT
            | bits::CLOSED
            | bits::STOPPED
            | bits::OVER;
        if bits & refused == 0 {
            return Ok(());
        }
        if bits & bits::FAILED != 0 {
            self.failure(Some(libc::EPIPE))?;
        }
        Err(errno(if bits & bits::CLOSED != 0 {
            libc::EBADF
        } else if bits & bits::FRESH != 0 {
            libc::EPIPE
        } else if bits & bits::CONNECTING != 0 {
            libc::EAGAIN
        } else {
            libc::EPIPE
        }))
    }

    /// The sending direction's lock.
    pub(crate) fn lock_tx(&self) -> io::Result<MutexGuard<'_, Tx>> {
        Self::lock(&self.tx)
    }

    /// Leaves the sending direction, honouring what others wanted of it meanwhile.
    pub(crate) fn finish_tx(self: &Arc<Self>, tx: MutexGuard<'_, Tx>) {
        wish::honour(&self.shared.ack_wanted, &self.tx, tx, |tx| self.put_ack(tx));
    }

    fn put_ack(self: &Arc<Self>, tx: &mut Tx) {
        if let Some(sender) = tx.sender.as_mut() {
            sender.want_ack();
        }
        if self.flush(tx, false) == Flushed::Owed {
            self.owe();
        }
    }

    /// Wants an ACK frame; sends it now if the lock is free.
    pub(crate) fn send_ack(self: &Arc<Self>) {
        if !wish::leave(&self.shared.ack_wanted, &self.tx, |tx| self.put_ack(tx)) {
            // The holder honours the flag; should it not, the sweep does.
            self.list_for_sweep();
        }
    }

    /// Takes what the receiving direction has learnt.
    pub(crate) fn absorb(self: &Arc<Self>, tx: &mut Tx) {
        let ack = self.shared.peer_ack.load(Ordering::SeqCst);
        let edge = credit::edge(&self.shared.peer_edge);
        let epoch = tx.epoch;
        let Some(sender) = tx.sender.as_mut() else { return };
        let before = sender.acked();
        if let Err(error) = sender.absorb(ack, edge) {
            tx.number = -1;
            self.fault(epoch, &error.to_string());
            return;
        }
        if sender.acked() > before {
            self.shared.count_progress();
        }
        if self.shared.peer_stopped.load(Ordering::Relaxed) && !sender.is_stopped() {
            sender.stop();
        }
        if !sender.is_out_of_room() {
            self.change(0, bits::NO_ROOM | bits::WANTS_CREDIT);
        }
    }

    /// What to tell the peer now.
    pub(crate) fn acks(&self) -> Acks {
        Acks {
            ack: self.shared.ack.load(Ordering::SeqCst),
            window: u16::try_from(self.shared.window.load(Ordering::SeqCst)).unwrap_or(u16::MAX),
        }
    }

    /// Puts frames on the connection until there are none or the kernel is full.
    pub(crate) fn flush(self: &Arc<Self>, tx: &mut Tx, more: bool) -> Flushed {
        tx.holds_no_more();
        if !crate::process::is_ours(self) {
            return Flushed::All;
        }
        let (to, epoch) = (tx.number, tx.epoch);
        let Some(sender) = tx.sender.as_mut() else { return Flushed::All };
        while to >= 0 && sender.prepare(self.acks()) {
            let (bytes, went) = put(sender, to, more);
            match went {
                Ok(n) => {
                    sender.sent(n);
                    let told = sender.told();
                    self.shared.told_edge.store(told.edge(), Ordering::Release);
                    self.shared.told_ack.store(told.ack, Ordering::Release);
                    if sender.is_done() && self.shared.fin_seen.load(Ordering::Relaxed) {
                        // Perhaps the last that was to be said: the sweep looks.
                        self.list_for_sweep();
                    }
                    if n < bytes {
                        return Flushed::Owed;
                    }
                }
                Err(error) if would_block(&error) || number(&error) == libc::ENOBUFS => {
                    return Flushed::Owed;
                }
                Err(error) => {
                    tx.number = -1;
                    self.fault(epoch, &error.to_string());
                    return Flushed::All;
                }
            }
        }
        Flushed::All
    }

    /// True while bytes for the standing connection wait for the kernel.
    fn is_owing(self: &Arc<Self>) -> bool {
        let look = || {
            let tx = self.lock_tx()?;
            let owing =
                tx.number >= 0 && tx.sender.as_ref().is_some_and(|sender| sender.has_output());
            self.finish_tx(tx);
            Ok(owing)
        };
        guarded(look).unwrap_or(false)
    }

    /// A blocking call was interrupted while bytes are owed: the engine sends them.
    fn leave_owed(self: &Arc<Self>) {
        if self.is_owing() {
            self.owe();
        }
    }

    /// A non-blocking program is out of credit: the engine reads for it until there is some.
    pub(crate) fn want_credit(self: &Arc<Self>) {
        if !self.has(bits::WANTS_CREDIT) {
            self.change(bits::WANTS_CREDIT, 0);
        }
        if self.has(bits::NO_ROOM) {
            self.watch_in(true);
        }
    }

    /// Sleeps until writing may go on. `for_kernel` when all was taken and only the kernel is
    /// waited for.
    pub(super) fn wait_writable(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        for_kernel: bool,
    ) -> io::Result<()> {
        let bell = Bell::new()?;
        let _listed = self.sleepers.list(&bell);
        self.wait_writable_with(&bell, deadline, for_kernel)
    }

    fn wait_writable_with(
        self: &Arc<Self>,
        bell: &Bell,
        deadline: Option<Instant>,
        for_kernel: bool,
    ) -> io::Result<()> {
        loop {
            let look = || {
                let mut tx = self.lock_tx()?;
                self.absorb(&mut tx);
                let owing = tx.sender.as_ref().is_some_and(|sender| sender.has_output());
                let no_room = tx.sender.as_ref().is_some_and(|sender| sender.is_out_of_room());
                let found = (tx.number, owing && tx.number >= 0, no_room);
                self.finish_tx(tx);
                Ok(found)
            };
            let (to, owing, no_room) = guarded(look)?;
            let done = if for_kernel { !owing } else { !owing && !no_room };
            if done || self.has(bits::FAILED | bits::CLOSED | bits::WRITE_SHUT | bits::STOPPED) {
                return Ok(());
            }
            let leader = self.sleepers.has_leader();
            // A dead socket would always be ready.
            let to = if self.has(bits::DYING) { -1 } else { to };
            let mut events = 0;
            if owing {
                events |= libc::POLLOUT;
            }
            if !leader {
                // Nobody else reads: the credit, and what a peer that is itself blocked has sent,
                // must be read here, or both sides would wait for ever.
                events |= libc::POLLIN;
            }
            let mut fds = [
                libc::pollfd { fd: bell.number(), events: libc::POLLIN, revents: 0 },
                libc::pollfd { fd: if events == 0 { -1 } else { to }, events, revents: 0 },
            ];
            let timeout = deadline.map(|at| at.saturating_duration_since(crate::clock::now()));
            if sys::io::poll_in_call(&mut fds, timeout)? == 0 {
                return fail(libc::EAGAIN);
            }
            bell.silence();
            let came = fds[1].revents;
            if came & (libc::POLLIN | libc::POLLERR | libc::POLLHUP) != 0 {
                self.grow_own_window();
                self.read_ahead();
            }
            if came & libc::POLLOUT != 0 {
                return Ok(());
            }
        }
    }
}

impl Tx {
    /// True once in a while for who writes much and perhaps reads nothing: the acks that lie in the
    /// kernel's queue make the log short, and a short one stays in the processor's cache.
    #[inline]
    pub(super) fn is_to_look(&mut self) -> bool {
        let Some(sender) = &self.sender else { return false };
        let (written, held) = (sender.written(), sender.log_len());
        let looked = self.pace.as_ref().map_or(0, |pace| pace.looked);
        if written.saturating_sub(looked) < LOOK_EVERY_BYTES {
            return false;
        }
        self.pace().looked = written;
        held >= LOOK_EVERY_BYTES
    }
}

/// So much is written between two looks for acks: a system call for each of some ten writes.
const LOOK_EVERY_BYTES: u64 = 128 * 1024;
/// Up to this many bytes are sent in one piece, which costs less than a gathered write.
const COPIED_MAX_BYTES: usize = 256;
/// A frame so small lies in two chunks at most, behind its head.
const COPIED_SLICES: usize = 3;

/// Gives the rest of the current frame to the kernel: how much that is, and what it took.
fn put(sender: &Sender, to: RawFd, more: bool) -> (usize, io::Result<usize>) {
    let bytes = sender.frame_left();
    if bytes <= COPIED_MAX_BYTES {
        let mut slices = [IoSlice::new(&[]); COPIED_SLICES];
        let (count, gathered) = sender.gather(&mut slices);
        if gathered == bytes {
            let mut whole = [0; COPIED_MAX_BYTES];
            let mut at = 0;
            for slice in &slices[..count] {
                whole[at..at + slice.len()].copy_from_slice(slice);
                at += slice.len();
            }
            return (bytes, sys::io::send_one(to, &whole[..bytes], more));
        }
    }
    let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
    let (count, bytes) = sender.gather(&mut slices);
    (bytes, sys::io::send(to, &slices[..count], more))
}

/// Writes from the slices, skipping `done` bytes; gives how many were taken, `None` where there was
/// no memory for a single one.
fn write_from(sender: &mut Sender, slices: &[IoSlice<'_>], mut done: usize) -> Option<usize> {
    let mut taken = 0;
    for slice in slices {
        if done >= slice.len() {
            done -= slice.len();
            continue;
        }
        let rest = &slice[done..];
        done = 0;
        let n = match sender.try_write(rest) {
            Some(n) => n,
            None if taken == 0 => return None,
            None => 0,
        };
        taken += n;
        if n < rest.len() {
            break;
        }
    }
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use eversock_proto::limits::LOG_GUARANTEED_BYTES;
    use eversock_proto::log::Pool;
    use std::sync::atomic::AtomicBool;

    /// A socket of this process that no sweep looks at, which would find that it has no number.
    fn unswept() -> Arc<Socket> {
        let engine = crate::reactor::engine().expect("an engine");
        let socket = Arc::new(Socket::new(engine.next_id(), Arc::default(), Vec::new(), 0));
        assert!(socket.owner.claim(engine.instance, true));
        socket.shared.in_sweep.store(true, Ordering::SeqCst);
        socket
    }

    /// Credit that came when a write had just found none was taken for room without memory (psql).
    #[test]
    fn a_write_that_finds_room_at_its_second_look_does_not_lack_memory() {
        let socket = unswept();
        let no_credit = Sender::new(Arc::default(), 0, 0);
        socket.lock_tx().expect("the lock").sender = Some(Box::new(no_credit));
        let (is_over, has_failed) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // A byte at a time, at every moment of a write that has found no room.
                for edge in 1..=100_000 {
                    while socket.shared.written.load(Ordering::SeqCst) + 1 < edge {
                        if has_failed.load(Ordering::SeqCst) {
                            return;
                        }
                        std::hint::spin_loop();
                    }
                    (0..edge % 97).for_each(|_| std::hint::spin_loop());
                    socket.shared.peer_edge.store(edge, Ordering::SeqCst);
                }
                is_over.store(true, Ordering::SeqCst);
            });
            while !is_over.load(Ordering::SeqCst) {
                let step = socket.send_step(&[IoSlice::new(&[0; 64])], 0, false, true);
                has_failed.store(step.is_err(), Ordering::SeqCst);
                step.expect("memory");
            }
        });
    }

    /// The cap is shared: what it left at a look was another session's a moment later, and the
    /// write was told ENOMEM, although a blocking one has to wait and another to be told EAGAIN.
    #[test]
    fn a_write_whose_room_goes_to_another_session_does_not_lack_memory() {
        let socket = unswept();
        let pool = Arc::new(Pool::default());
        pool.set_cap(0);
        let mut sender = Sender::new(Arc::clone(&pool), 0, u64::MAX);
        // From here on the cap alone leaves room.
        let guaranteed = usize::try_from(LOG_GUARANTEED_BYTES).expect("a small number");
        assert_eq!(sender.write(&vec![0; guaranteed]), guaranteed);
        socket.lock_tx().expect("the lock").sender = Some(Box::new(sender));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..1_000_000u64 {
                    pool.set_cap((turn % 2) * 1024 * 1024 * 1024);
                    (0..turn % 97).for_each(|_| std::hint::spin_loop());
                }
                is_over.store(true, Ordering::SeqCst);
            });
            let mut lacked = None;
            while !is_over.load(Ordering::SeqCst) {
                let step = socket.send_step(&[IoSlice::new(&[0])], 0, false, true);
                lacked = lacked.or_else(|| step.err());
            }
            assert!(lacked.is_none(), "{lacked:?}");
        });
    }

    /// Who went to sleep for room, or looked whether bytes are owed, left without a look at the
    /// flag: a peer that waited for that ACK's credit waited for the sweep, up to a second.
    #[test]
    fn who_only_looks_at_the_sending_direction_sends_the_ack_that_was_wanted_meanwhile() {
        let socket = Arc::new(Socket::new(1, Arc::default(), Vec::new(), 0));
        let no_credit = Sender::new(Arc::default(), 0, 0);
        socket.lock_tx().expect("the lock").sender = Some(Box::new(no_credit));
        let bell = Bell::new().expect("a bell");
        let at_once = Some(crate::clock::now());
        let sleep = || socket.wait_writable_with(&bell, at_once, false).is_ok();
        let look = || socket.is_owing();
        for leave in [&sleep as &dyn Fn() -> bool, &look] {
            // As `send_ack` does when somebody has the lock.
            socket.shared.ack_wanted.store(true, Ordering::SeqCst);
            assert!(!leave(), "there is no room, and nothing is owed");
            assert!(!socket.shared.ack_wanted.load(Ordering::SeqCst), "the wish was not seen");
        }
    }
}
