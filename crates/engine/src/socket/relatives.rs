//! A session between relatives: handed over whole, or shared by way of a pump (DESIGN 6).
//!
//! The owner's side of a guest is an [`End`]: what the guest writes is taken from it before the
//! owner writes, what it reads is put there when it has asked, and what it has left unread there is
//! taken back when the owner reads or the guest is gone.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use eversock_proto::recv::Receiver;
use eversock_proto::send::Sender;
use eversock_proto::snapshot::{In, Out};

use super::link::Busy;
use super::recv::Got;
use super::{Socket, Tx, bits};
use crate::error::{errno, fail, would_block};
use crate::family::{self, Link};
use crate::sys::{self, Fd, fd};

const VERSION: u64 = 1;
/// Bits that the session takes along.
const CARRIED: u32 = bits::EOF | bits::WRITE_SHUT | bits::NO_ROOM | bits::STOPPED | bits::OVER;
/// What one read moves to a guest.
const CHUNK_BYTES: usize = 16 * 1024;
/// Reads for a guest in one turn of the engine.
const TURNS: usize = 16;

/// What a turn for the guests has left to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Input of the connection is wanted: for a guest that reads, or as it may bring credit.
    pub(crate) input: bool,
    /// Another turn is due whatever the connection has: a lock was taken, or what is to be moved
    /// has been read from the kernel already, which will not tell of it again.
    pub(crate) again: bool,
}

/// What a socket has to do with relatives; most have nothing.
#[derive(Debug, Default)]
pub(crate) struct Relatives {
    /// The owner's ends of its guests' pumps.
    ends: Vec<Arc<End>>,
    /// A guest's line to its owner.
    link: Option<Arc<Link>>,
    /// Bytes that were taken back from guests: the program's next.
    returned: Vec<u8>,
}

/// The owner's end of one guest's pump.
#[derive(Debug)]
pub(crate) struct End {
    /// Where the guest's bytes come out.
    pub(crate) far: Fd,
    /// The guest's own end, so that what it leaves unread is not lost.
    near: Fd,
    /// Closed by the kernel when the guest is gone.
    pub(crate) line: Fd,
    reading: AtomicBool,
    /// What the pair had no room for.
    pending: Mutex<Vec<u8>>,
    shut: AtomicBool,
    told: AtomicBool,
}

impl End {
    pub(crate) fn new(far: Fd, near: Fd, line: Fd) -> Arc<Self> {
        Arc::new(Self {
            far,
            near,
            line,
            reading: AtomicBool::new(false),
            pending: Mutex::default(),
            shut: AtomicBool::new(false),
            told: AtomicBool::new(false),
        })
    }

    /// Gives the guest its end of the pair.
    pub(crate) fn send_to_guest(&self, answer: &[u8]) -> io::Result<()> {
        sys::pass::send(self.line.as_raw_fd(), answer, &[self.near.as_fd()])
    }

    /// The guest reads from now on.
    pub(crate) fn reads(&self) {
        self.reading.store(true, Ordering::SeqCst);
    }

    /// Puts what is pending into the pair; false when it has no room.
    fn push(&self, pending: &mut Vec<u8>) -> bool {
        while !pending.is_empty() {
            match sys::io::send(self.far.as_raw_fd(), &[IoSlice::new(pending)], false) {
                Ok(n) => drop(pending.drain(..n)),
                Err(_) => return false,
            }
        }
        true
    }
}

impl Relatives {
    /// In a fork child: copies of the owner's ends would keep lines open that end with the owner.
    pub(crate) fn leave_guests(&mut self) {
        let ends = std::mem::take(&mut self.ends);
        for end in &ends {
            // The line is among the engine's, which all end here.
            for fd in [&end.far, &end.near] {
                fd::close(fd.as_raw_fd());
            }
        }
        // The parent's engine had them too, and its copy of them lives on in this process: nothing
        // may close those numbers again.
        Box::leak(Box::new(ends));
    }
}

impl Socket {
    fn with_relatives<T>(&self, with: impl FnOnce(&mut Relatives) -> T) -> T {
        let mut relatives = self.relatives.lock().unwrap_or_else(PoisonError::into_inner);
        with(relatives.get_or_insert_default())
    }

    fn ends(&self) -> Vec<Arc<End>> {
        if !self.has(bits::GUESTS) {
            return Vec::new();
        }
        self.with_relatives(|relatives| relatives.ends.clone())
    }

    /// A guest's line to the owner of its session.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        if !self.has(bits::GUEST) {
            return None;
        }
        self.with_relatives(|relatives| relatives.link.clone())
    }

    /// The guest has closed its last number.
    pub(crate) fn drop_link(&self) {
        if self.has(bits::GUEST) {
            self.with_relatives(|relatives| relatives.link = None);
        }
    }

    // -----------------------------------------------------------------------------------------
    // Handed over whole

    /// Hands the session to the process `to`: `deliver` gets its state and its connection, and
    /// says whether they went. Runs under all the socket's locks, so that no byte moves meanwhile;
    /// the state may be that of the middle of a frame.
    pub(crate) fn hand_over(
        self: &Arc<Self>,
        us: u64,
        to: u64,
        deliver: impl FnOnce(&[u8], Option<BorrowedFd<'_>>) -> io::Result<()>,
    ) -> io::Result<Result<(), Busy>> {
        let meta = Self::lock(&self.meta)?;
        let mut held = match self.hold()? {
            Ok(held) => held,
            Err(busy) => return Ok(Err(busy)),
        };
        if self.sleepers.is_reading() {
            // What that thread is about to have belongs to this state.
            return Ok(Err(Busy));
        }
        self.absorb(&mut held.tx);
        let detached = self.has(bits::DETACHED);
        let dead = !detached && (held.tx.number < 0 || held.rx.number < 0);
        if dead || self.has(bits::DYING | bits::CONNECTING | bits::FRESH | bits::FAILED) {
            return Ok(Err(Busy));
        }
        let (Some(sender), Some(receiver)) = (held.tx.sender.as_ref(), held.rx.receiver.as_ref())
        else {
            return Ok(Err(Busy));
        };
        // A sealed session goes on over another connection: its keys are for one process only.
        let goes_along = !detached && !sender.is_sealed();
        let mut out = Out::default();
        out.u64(VERSION);
        out.u64(u64::from(self.bits() & CARRIED));
        out.flag(goes_along);
        out.u64(held.tx.epoch);
        for value in self.shared_words() {
            out.u64(value.load(Ordering::SeqCst));
        }
        out.u64(u64::from(self.shared.window.load(Ordering::SeqCst)));
        for flag in [
            &self.shared.fin_seen,
            &self.shared.ack_wanted,
            &self.shared.peer_stopped,
            &self.nonblocking,
        ] {
            out.flag(flag.load(Ordering::SeqCst));
        }
        sender.snapshot(&mut out);
        if !receiver.snapshot(&mut out) {
            return Ok(Err(Busy));
        }
        let Some(control) = meta.control.as_ref() else { return Ok(Err(Busy)) };
        control.snapshot(&mut out);
        family::write_addrs(&mut out, &meta.candidates);
        meta.options.snapshot(&mut out);
        self.with_relatives(|relatives| out.bytes(&relatives.returned));
        let number = held.place.real_number().filter(|_| !detached);
        let real = number.filter(|_| goes_along).map(sys::borrow);
        if !self.owner.hand_over(us, to) {
            return fail(libc::EPERM);
        }
        if let Err(error) = deliver(&out.finish(), real) {
            self.owner.hand_over(to, us);
            return Err(error);
        }
        self.watch_stop();
        if let Some(number) = number.filter(|_| !goes_along) {
            sys::tcp::shut_both(number);
        }
        held.tx.number = -1;
        held.rx.number = -1;
        held.tx.sender = None;
        held.rx.receiver = None;
        held.place.private = None;
        self.with_relatives(|relatives| relatives.returned.clear());
        drop((held, meta));
        // What was true of the session here is so elsewhere; whoever sleeps here looks again.
        let gone = CARRIED | bits::STASH | bits::DETACHED | bits::WANTS_CREDIT | bits::RETURNED;
        self.change(0, gone);
        self.kick();
        Ok(Ok(()))
    }

    fn shared_words(&self) -> [&AtomicU64; 7] {
        let shared = &self.shared;
        [
            &shared.peer_ack,
            &shared.peer_edge,
            &shared.receive,
            &shared.ack,
            &shared.told_edge,
            &shared.told_ack,
            &shared.written,
        ]
    }

    /// Takes a session that a relative hands over. `real` is its connection.
    pub(crate) fn take_over(self: &Arc<Self>, snapshot: &[u8], real: Option<Fd>) -> io::Result<()> {
        let engine = crate::reactor::engine()?;
        let bad = || errno(libc::EPROTO);
        let from = &mut In::new(snapshot);
        if from.u64() != Some(VERSION) {
            return Err(bad());
        }
        let carried = from.number::<u32>().ok_or_else(bad)? & CARRIED;
        let attached = from.flag().ok_or_else(bad)?;
        let epoch = from.u64().ok_or_else(bad)?;
        let mut words = [0; 7];
        for word in &mut words {
            *word = from.u64().ok_or_else(bad)?;
        }
        let window: u16 = from.number().ok_or_else(bad)?;
        let mut flags = [false; 4];
        for flag in &mut flags {
            *flag = from.flag().ok_or_else(bad)?;
        }
        let sender = Sender::restore(Arc::clone(&engine.pool), from).ok_or_else(bad)?;
        let mut receiver = Receiver::restore(Arc::clone(&engine.pool), from).ok_or_else(bad)?;
        receiver.set_window_max(self.config.window_max);
        let mut meta = Self::lock(&self.meta)?;
        let mut place = Self::lock(&self.place)?;
        let mut tx = self.lock_tx()?;
        let mut rx = self.lock_rx()?;
        let control = meta.control.as_mut().ok_or_else(bad)?;
        if !control.restore(from) {
            return Err(bad());
        }
        meta.candidates = family::read_addrs(from).ok_or_else(bad)?;
        meta.options = crate::options::Options::restore(from).ok_or_else(bad)?;
        let returned = from.bytes().ok_or_else(bad)?.to_vec();
        for (word, value) in self.shared_words().into_iter().zip(words) {
            word.store(value, Ordering::SeqCst);
        }
        self.shared.window.store(u32::from(window), Ordering::SeqCst);
        self.shared.fin_seen.store(flags[0], Ordering::SeqCst);
        self.shared.ack_wanted.store(flags[1], Ordering::SeqCst);
        self.shared.peer_stopped.store(flags[2], Ordering::SeqCst);
        self.nonblocking.store(flags[3], Ordering::Relaxed);
        let stash = if receiver.stashed() > 0 { bits::STASH } else { 0 };
        tx.sender = Some(Box::new(sender));
        rx.receiver = Some(Box::new(receiver));
        (tx.epoch, rx.epoch) = (epoch, epoch);
        rx.drained = false;
        // Ours, if any, is that of a connection that we had before.
        rx.counted = None;
        let attached = attached && real.is_some();
        if let Some(real) = real.filter(|_| attached) {
            let first = place.numbers.first().copied();
            let here = first.and_then(|number| fd::identity(number).ok());
            let is_here = here == Some(fd::identity(real.as_raw_fd())?);
            // A number that has named this very connection since the fork goes on doing so; what
            // else stands there is a dead one.
            if is_here {
                place.identity = here.unwrap_or_default();
                place.placeholder = None;
            } else {
                self.put(&mut place, real, true)?;
            }
            let number = first.unwrap_or(-1);
            (tx.number, rx.number) = (number, number);
        } else {
            (tx.number, rx.number) = (-1, -1);
            if place.placeholder.is_none() {
                self.put_placeholder(&mut place, false)?;
            }
        }
        let has_returned = if returned.is_empty() { 0 } else { bits::RETURNED };
        self.with_relatives(|relatives| relatives.returned = returned);
        drop((tx, rx, place, meta));
        let detached = if attached { 0 } else { bits::DETACHED };
        let raise = carried | stash | detached | has_returned;
        let all = CARRIED | bits::STASH | bits::DETACHED | bits::DYING | bits::WANTS_CREDIT;
        self.change(raise, (all | bits::RETURNED) & !raise);
        self.kick_for(true);
        self.list_for_sweep();
        Ok(())
    }

    // -----------------------------------------------------------------------------------------
    // Shared: the guest's side

    /// The session stays with its owner; this program gets the end of a pump.
    pub(crate) fn become_guest(self: &Arc<Self>, near: Fd, link: Link) -> io::Result<()> {
        let mut place = Self::lock(&self.place)?;
        fd::set_nonblocking(near.as_raw_fd(), self.nonblocking.load(Ordering::Relaxed))?;
        let identity = fd::identity(near.as_raw_fd())?;
        // What stands under the numbers may be the owner's live connection: it is let go as it is.
        self.put(&mut place, near, false)?;
        place.identity = identity;
        place.placeholder = None;
        drop(place);
        self.with_relatives(|relatives| relatives.link = Some(Arc::new(link)));
        let mut tx = self.lock_tx()?;
        let mut rx = self.lock_rx()?;
        (tx.number, rx.number) = (-1, -1);
        (tx.sender, rx.receiver) = (None, None);
        drop((tx, rx));
        let session = CARRIED | bits::STASH | bits::DETACHED | bits::DYING | bits::WANTS_CREDIT;
        self.change(bits::PUMPED | bits::GUEST, session);
        self.kick_for(true);
        Ok(())
    }

    // -----------------------------------------------------------------------------------------
    // Shared: the owner's side

    pub(crate) fn add_guest(&self, end: Arc<End>) {
        self.with_relatives(|relatives| relatives.ends.push(end));
        self.change(bits::GUESTS, 0);
    }

    /// Forgets a guest that has gone: what it has written joins the session, what it has not read
    /// is the program's again. False while there is no room for the former.
    pub(crate) fn remove_guest(self: &Arc<Self>, end: &Arc<End>) -> bool {
        let Ok(mut tx) = self.tx.lock() else { return true };
        if !self.take_from(&mut tx, end) {
            return false;
        }
        self.flush_guests(&mut tx);
        self.finish_tx(tx);
        // Under the receiving lock: who reads on meanwhile would read past what is on its way back.
        let Ok(rx) = self.rx.lock() else { return true };
        // From this one alone: others live, and read what they have at this moment.
        self.take_back_from(std::slice::from_ref(end));
        drop(rx);
        let left = self.with_relatives(|relatives| {
            relatives.ends.retain(|other| !Arc::ptr_eq(other, end));
            relatives.ends.len()
        });
        if left == 0 {
            self.change(0, bits::GUESTS);
        }
        true
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

    /// The engine's turn for the guests: their bytes go out, and what has come goes to those who
    /// read.
    pub(crate) fn serve_guests(self: &Arc<Self>) -> Left {
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
        for end in ends.iter().filter(|end| end.reading.load(Ordering::SeqCst)) {
            let fed = self.feed_guest(end);
            left.input |= fed.input;
            left.again |= fed.again;
        }
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

    /// Moves what has come to a guest that reads.
    fn feed_guest(self: &Arc<Self>, end: &End) -> Left {
        // Under the receiving lock from the session to the pair, so that who takes back what is
        // unread and then reads on misses nothing in between.
        let Ok(mut rx) = self.rx.try_lock() else { return Left { again: true, input: true } };
        if self.has(bits::FAILED) || self.sleepers.has_leader() {
            return Left { input: true, again: false };
        }
        let mut pending = end.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut moved = false;
        // After all the turns there may be more in the stash, or the end.
        let mut left = Left { input: true, again: true };
        for _ in 0..TURNS {
            if !end.push(&mut pending) {
                // The pair's room is an event.
                left = Left::default();
                break;
            }
            let mut buf = [0; CHUNK_BYTES];
            // What another guest has left unread is older than what comes.
            if self.has(bits::RETURNED)
                && let Some(n) = self.read_returned(&mut [IoSliceMut::new(&mut buf)], false)
            {
                pending.extend_from_slice(&buf[..n]);
                moved = true;
                continue;
            }
            match self.read_some(&mut rx, &mut buf, true) {
                Got::Bytes { n, .. } => {
                    pending.extend_from_slice(&buf[..n]);
                    moved = true;
                }
                Got::Nothing => {
                    left.again = false;
                    break;
                }
                Got::End => {
                    self.end_guest(end, 0);
                    left = Left::default();
                    break;
                }
            }
        }
        drop((pending, rx));
        if moved {
            // Whoever sleeps in poll may want what its relative leaves there.
            self.kick();
        }
        left
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
    /// lock.
    pub(crate) fn take_back(&self) {
        self.take_back_from(&self.ends());
    }

    fn take_back_from(&self, ends: &[Arc<End>]) {
        let mut back = Vec::new();
        for end in ends {
            let mut pending = end.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let mut buf = [0; CHUNK_BYTES];
            while let Ok(n) = sys::io::recv_one(end.near.as_raw_fd(), &mut buf) {
                back.extend_from_slice(&buf[..n]);
                if n == 0 {
                    break;
                }
            }
            back.append(&mut pending);
        }
        if !back.is_empty() {
            self.with_relatives(|relatives| relatives.returned.append(&mut back));
            // Raised after the bytes are there; a reader that took them meanwhile finds none.
            self.change(bits::RETURNED, 0);
        }
    }

    /// True when guests have left bytes unread.
    pub(crate) fn is_left_unread(&self) -> bool {
        self.ends().iter().any(|end| {
            end.reading.load(Ordering::Relaxed) && sys::io::queued(end.near.as_raw_fd()) > 0
        })
    }

    /// Reads what was taken back from guests; `None` when there is nothing.
    #[cold]
    pub(crate) fn read_returned(&self, slices: &mut [IoSliceMut<'_>], peek: bool) -> Option<usize> {
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

    /// The session has ended: all guests are told.
    pub(crate) fn end_guests(&self, number: i32) {
        for end in self.ends() {
            self.end_guest(&end, number);
        }
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
mod tests {
    use super::*;
    use crate::Config;
    use eversock_proto::send::GATHER_SLICES;
    use eversock_proto::wire::frame::Acks;
    use rustix::net::SocketType;

    /// A session of this process, its connection, and the other end of that.
    fn session(window: u64) -> (Arc<Socket>, Fd, Fd) {
        let engine = crate::reactor::engine().expect("an engine");
        let config = Config { window, window_max: window, ..Config::default() };
        let (real, peer) = sys::tcp::loopback_pair().expect("a connection");
        let number = real.as_raw_fd();
        let socket = Arc::new(Socket::new(engine.next_id(), Arc::new(config), vec![number], 0));
        let opened = eversock_proto::open::Opened {
            id: eversock_proto::secret::SessionId::new(1, fd::random_u64()),
            secret: eversock_proto::secret::Secret::from_bytes([6; 32]),
            window,
            grace: std::time::Duration::ZERO,
            addrs: Vec::new(),
            peer: None,
            cipher: None,
            keys: None,
        };
        let role = eversock_proto::control::Role::Server;
        crate::reactor::furnish(&socket, role, opened).expect("furnished");
        assert!(socket.owner.claim(engine.instance, true));
        socket.settle(number, 1, None).expect("settled");
        (socket, real, peer)
    }

    /// What the peer sends.
    fn sender(window: u64) -> Sender {
        let engine = crate::reactor::engine().expect("an engine");
        let mut sender = Sender::new(Arc::clone(&engine.pool), 0, window);
        sender.begin_epoch(0).expect("an epoch");
        sender
    }

    /// Sends what the connection takes of what is to be sent; false when that was all.
    fn say(peer: &Fd, sender: &mut Sender) -> bool {
        if !sender.prepare(Acks::default()) {
            return false;
        }
        let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
        let (count, _) = sender.gather(&mut slices);
        match sys::io::send(peer.as_raw_fd(), &slices[..count], false) {
            Ok(n) => sender.sent(n),
            Err(error) => assert!(would_block(&error), "{error}"),
        }
        true
    }

    /// A guest that reads, with room for all that one turn moves.
    fn guest(socket: &Arc<Socket>) -> Arc<End> {
        let (near, far) = fd::unix_pair(SocketType::STREAM).expect("a pair");
        let much = (1024 * 1024i32).to_ne_bytes();
        sys::tcp::set_option(far.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, &much)
            .expect("room");
        let (line, _their_line) = fd::unix_pair(SocketType::SEQPACKET).expect("a line");
        let end = End::new(far, near, line);
        end.reads();
        socket.add_guest(Arc::clone(&end));
        end
    }

    /// The rest lay in the stash, of which no event tells: the guest waited for ever, and now and
    /// then a test with it.
    #[test]
    fn a_turn_that_leaves_bytes_in_the_stash_is_to_be_taken_again_until_a_guest_has_all() {
        const BYTES: usize = 600_000;
        let window = 1024 * 1024;
        let (socket, _real, peer) = session(window);
        // All of it is read ahead before the guest gets anything.
        let mut sender = sender(window);
        let mut left = BYTES;
        while left > 0 || sender.prepare(Acks::default()) {
            left -= sender.write(&vec![7; left]);
            say(&peer, &mut sender);
            socket.read_ahead();
        }
        let stashed = || {
            let rx = socket.rx.lock().expect("the lock");
            rx.receiver.as_ref().expect("a receiver").stashed()
        };
        while stashed() < BYTES {
            socket.read_ahead();
        }
        let end = guest(&socket);
        let mut got = 0;
        loop {
            let left = socket.serve_guests();
            let mut buf = vec![0; BYTES];
            while let Ok(n) = sys::io::recv_one(end.near.as_raw_fd(), &mut buf) {
                got += n;
            }
            if !left.again {
                break;
            }
        }
        assert_eq!(got, BYTES);
    }

    /// They were the program's alone: where an exec had failed, whose pump had got them, they were
    /// lost to the process that went on with the session as a guest.
    #[test]
    fn what_a_guest_has_left_unread_is_read_by_the_guest_that_stays_and_before_what_comes_later() {
        let window = 1024 * 1024;
        let (socket, _real, peer) = session(window);
        let mut sender = sender(window);
        let mut send = |text: &str| {
            assert_eq!(sender.write(text.as_bytes()), text.len());
            while say(&peer, &mut sender) {}
        };
        let until = crate::clock::now() + std::time::Duration::from_secs(10);
        let goes = guest(&socket);
        send("first, ");
        while sys::io::queued(goes.near.as_raw_fd()) == 0 {
            assert!(crate::clock::now() < until, "the guest gets nothing");
            socket.serve_guests();
        }
        let stays = guest(&socket);
        send("second");
        assert!(socket.remove_guest(&goes));
        let mut got = Vec::new();
        while got.len() < 13 && crate::clock::now() < until {
            socket.serve_guests();
            let mut buf = [0; 64];
            if let Ok(n) = sys::io::recv_one(stays.near.as_raw_fd(), &mut buf) {
                got.extend_from_slice(&buf[..n]);
            }
        }
        assert_eq!(String::from_utf8_lossy(&got), "first, second");
    }
}
