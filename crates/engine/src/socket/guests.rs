//! The owner's side of a session that relatives share by way of pumps (DESIGN 6).
//!
//! What a guest writes is taken from its [`End`] before the owner writes. What comes is put into
//! one guest's pump at a time, so that all that lies unread in pumps is one piece of the stream and
//! can be taken back in its order when the owner or another guest reads, or a guest is gone.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
/// Turns are numbered from here upwards as guests ask or come, and downwards as they give way.
const FIRST_TURN: u64 = 1 << 32;
static NEXT_TURN: AtomicU64 = AtomicU64::new(FIRST_TURN);
/// How long bytes may take from one end of a pair to the other, in milliseconds.
const IN_FLIGHT_LOOKS: usize = 20;
/// Who has read nothing for so long of what it has gives way to others.
const UNTOUCHED: Duration = Duration::from_millis(100);
/// A guest that may have to give back what it has is not given more at a time, so that all of it
/// can be taken at once.
const SHARED_MAX_BYTES: usize = 64 * 1024;

/// The owner's end of one guest's pump.
#[derive(Debug)]
pub(crate) struct End {
    /// Where the guest's bytes come out.
    far: Fd,
    /// The guest's own end, so that what it leaves unread is not lost.
    near: Fd,
    /// Closed by the kernel when the guest is gone.
    pub(crate) line: Fd,
    /// When it asked last, or has come if it cannot ask; 0 if it does not read.
    turn: AtomicU64,
    /// It has found nothing to read, and got nothing since.
    asks: AtomicBool,
    /// What the pair had no room for.
    pending: Mutex<Vec<u8>>,
    /// Bytes that were put into the pair.
    pushed: AtomicU64,
    /// What it had read in all when it was looked at, and since when it has read no more.
    seen: Mutex<Option<(u64, Instant)>>,
    shut: AtomicBool,
    told: AtomicBool,
}

impl End {
    /// A program that knows nothing of us cannot ask: it may read at any time.
    pub(crate) fn new(far: Fd, near: Fd, line: Fd, can_ask: bool) -> Arc<Self> {
        let turn = if can_ask { 0 } else { NEXT_TURN.fetch_add(1, Ordering::SeqCst) };
        Arc::new(Self {
            far,
            near,
            line,
            turn: AtomicU64::new(turn),
            asks: AtomicBool::new(false),
            pending: Mutex::default(),
            pushed: AtomicU64::new(0),
            seen: Mutex::default(),
            shut: AtomicBool::new(false),
            told: AtomicBool::new(false),
        })
    }

    /// Gives the guest its end of the pair.
    pub(crate) fn send_to_guest(&self, answer: &[u8]) -> io::Result<()> {
        sys::pass::send(self.line.as_raw_fd(), answer, &[self.near.as_fd()])
    }

    /// The numbers of both its files.
    pub(crate) fn pair(&self) -> [RawFd; 2] {
        [self.far.as_raw_fd(), self.near.as_raw_fd()]
    }

    /// The guest wants to read and has nothing there.
    pub(crate) fn ask(&self) {
        self.turn.store(NEXT_TURN.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        // It may have been answered while it asked.
        self.asks.store(self.unread() == 0, Ordering::SeqCst);
    }

    /// The guest has gone.
    pub(crate) fn reads_no_more(&self) {
        self.turn.store(0, Ordering::SeqCst);
    }

    fn turn(&self) -> u64 {
        self.turn.load(Ordering::SeqCst)
    }

    fn wants(&self) -> bool {
        self.turn() > 0 && !self.told.load(Ordering::SeqCst)
    }

    fn asks(&self) -> bool {
        self.asks.load(Ordering::SeqCst)
    }

    fn note_served(&self) {
        self.asks.store(false, Ordering::SeqCst);
    }

    /// What the guest could read at this moment.
    fn in_pair(&self) -> usize {
        sys::io::queued(self.near.as_raw_fd())
    }

    /// What has left one end of the pair and is not at the other yet.
    fn in_flight(&self) -> usize {
        let pushed = self.pushed.load(Ordering::SeqCst);
        let came = sys::tcp::bytes_received(self.near.as_raw_fd());
        came.map_or(0, |came| usize::try_from(pushed.saturating_sub(came)).unwrap_or(usize::MAX))
    }

    /// All that was given to the guest and not read by it.
    fn unread(&self) -> usize {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner).len();
        pending + self.in_flight() + self.in_pair()
    }

    /// True if it has read nothing of what it has for a while.
    fn is_untouched(&self) -> bool {
        let in_pair = (self.in_flight() + self.in_pair()) as u64;
        let consumed = self.pushed.load(Ordering::SeqCst).saturating_sub(in_pair);
        let now = clock::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Some((before, since)) if before == consumed && in_pair > 0 => {
                now.saturating_duration_since(since) >= UNTOUCHED
            }
            _ => {
                *seen = (in_pair > 0).then_some((consumed, now));
                false
            }
        }
    }

    /// Moves all that is unread behind `back`, of a guest that lives: in one piece, as it would get
    /// what lies behind one that is on its way back. False where it is not all in one place.
    fn take_whole(&self, back: &mut Vec<u8>) -> bool {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if !pending.is_empty() || self.in_flight() > 0 {
            return false;
        }
        let mut all = vec![0; self.in_pair()];
        if let Ok(n) = sys::io::recv_one(self.near.as_raw_fd(), &mut all) {
            back.extend_from_slice(&all[..n]);
        }
        true
    }

    /// Moves all that is unread behind `back`.
    fn take_unread(&self, back: &mut Vec<u8>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.near.as_raw_fd();
        let mut buf = [0; CHUNK_BYTES];
        let mut looks = 0;
        loop {
            match sys::io::recv_one(number, &mut buf) {
                Ok(0) => break,
                Ok(n) => back.extend_from_slice(&buf[..n]),
                Err(_) if self.in_flight() > 0 && looks < IN_FLIGHT_LOOKS => {
                    looks += 1;
                    let mut fds = [libc::pollfd { fd: number, events: libc::POLLIN, revents: 0 }];
                    let _late = sys::io::poll(&mut fds, Some(Duration::from_millis(1)));
                }
                Err(_) => break,
            }
        }
        back.append(&mut pending);
    }

    /// Puts what is pending into the pair; false when it has no room.
    fn push(&self, pending: &mut Vec<u8>) -> bool {
        while !pending.is_empty() {
            match sys::io::send(self.far.as_raw_fd(), &[IoSlice::new(pending)], false) {
                Ok(n) => {
                    self.pushed.fetch_add(n as u64, Ordering::SeqCst);
                    drop(pending.drain(..n));
                }
                Err(_) => return false,
            }
        }
        true
    }
}

/// True when somebody else than `end` may be who reads.
fn others_want(ends: &[Arc<End>], end: &Arc<End>) -> bool {
    ends.iter().any(|other| !Arc::ptr_eq(other, end) && other.wants())
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
    /// is read by others. False while there is no room for the former.
    pub(crate) fn remove_guest(self: &Arc<Self>, end: &Arc<End>) -> bool {
        end.reads_no_more();
        {
            // Under the receiving lock: who reads on meanwhile would read past what is on its way
            // back.
            let Ok(_rx) = self.rx.lock() else { return true };
            // From this one alone: others live, and read what they have at this moment.
            self.take_back_from(&[end]);
        }
        let Ok(mut tx) = self.tx.lock() else { return true };
        if !self.take_from(&mut tx, end) {
            return false;
        }
        self.flush_guests(&mut tx);
        self.finish_tx(tx);
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
        if !ends.iter().any(|end| end.wants()) {
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
        if look {
            self.pass_turn(ends);
        }
        let mut left = Left::default();
        let mut moved = false;
        while let Some(end) = self.whose_turn(ends) {
            left = self.feed(&mut rx, end, ends, &mut moved);
            if end.wants() {
                break;
            }
            // It knows of the end now; so must the others.
        }
        let holder = ends.iter().find(|end| end.unread() > 0);
        left.look |= holder.is_some_and(|holder| others_want(ends, holder));
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
        let asker =
            ends.iter().filter(|end| end.wants() && end.asks()).min_by_key(|end| end.turn());
        if let Some(asker) = asker {
            let holder = ends.iter().find(|end| !Arc::ptr_eq(end, asker) && end.unread() > 0);
            return match holder {
                Some(holder) if !self.take_from_live(holder) => {
                    Some(holder).filter(|holder| holder.wants())
                }
                _ => Some(asker),
            };
        }
        if let Some(holder) = ends.iter().find(|end| end.unread() > 0) {
            return Some(holder).filter(|holder| holder.wants());
        }
        ends.iter().filter(|end| end.wants()).max_by_key(|end| end.turn())
    }

    /// Nobody knows which of several programs that know nothing of us reads. One that has left
    /// untouched what it got since the last look gives way to the next.
    fn pass_turn(&self, ends: &[Arc<End>]) {
        let Some(holder) = ends.iter().find(|end| end.unread() > 0) else { return };
        if !holder.is_untouched() || !others_want(ends, holder) || !self.take_from_live(holder) {
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
        let mut pending = end.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..TURNS {
            if !end.push(&mut pending) {
                // The pair's room is an event.
                return Left::default();
            }
            if end.in_pair() >= SHARED_MAX_BYTES && others_want(ends, end) {
                return Left { look: true, ..Left::default() };
            }
            let mut buf = [0; CHUNK_BYTES];
            // What another guest has left unread is older than what comes.
            if self.has(bits::RETURNED)
                && let Some(n) = self.read_returned(&mut [IoSliceMut::new(&mut buf)], false)
            {
                pending.extend_from_slice(&buf[..n]);
                end.note_served();
                *moved = true;
                continue;
            }
            match self.read_some(rx, &mut buf, true) {
                Got::Bytes { n, .. } => {
                    pending.extend_from_slice(&buf[..n]);
                    end.note_served();
                    *moved = true;
                }
                Got::Nothing => return Left { input: true, ..Left::default() },
                Got::End => {
                    // While it may be another who is to read what lies here, that one must not
                    // find the end before it, and this one keeps his place.
                    let look = end.in_flight() + end.in_pair() > 0 && others_want(ends, end);
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
    /// lock.
    pub(crate) fn take_back(&self) {
        let ends = self.ends();
        self.take_back_from(&ends.iter().collect::<Vec<_>>());
    }

    fn take_back_from(&self, ends: &[&Arc<End>]) {
        let mut back = Vec::new();
        for end in ends {
            end.take_unread(&mut back);
        }
        self.put_back(back);
    }

    /// Takes back what a guest that lives has not read; false where that is not possible now.
    fn take_from_live(&self, end: &End) -> bool {
        let mut back = Vec::new();
        let whole = end.take_whole(&mut back);
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

    /// A look at who reads is wanted; false when it is planned already.
    pub(crate) fn plan_look(&self) -> bool {
        self.with_relatives(|relatives| !std::mem::replace(&mut relatives.look_planned, true))
    }

    /// The look that was planned has come.
    pub(crate) fn look_has_come(&self) {
        self.with_relatives(|relatives| relatives.look_planned = false);
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
    use crate::sys::fd;
    use eversock_proto::send::{GATHER_SLICES, Sender};
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
            grace: Duration::ZERO,
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

    /// A guest, with room for all that one turn moves.
    fn guest(socket: &Arc<Socket>, can_ask: bool) -> Arc<End> {
        let (near, far) = sys::tcp::loopback_pair().expect("a pair");
        let much = (1024 * 1024i32).to_ne_bytes();
        sys::tcp::set_option(far.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, &much)
            .expect("room");
        let (line, _their_line) = fd::unix_pair(SocketType::SEQPACKET).expect("a line");
        let end = End::new(far, near, line, can_ask);
        socket.add_guest(Arc::clone(&end));
        end
    }

    /// A session of two guests, and what the peer says.
    struct Shared {
        socket: Arc<Socket>,
        _real: Fd,
        peer: Fd,
        sender: Sender,
        until: Instant,
    }

    impl Shared {
        fn new() -> Self {
            let window = 1024 * 1024;
            let (socket, real, peer) = session(window);
            let until = clock::now() + Duration::from_secs(20);
            Self { socket, _real: real, peer, sender: sender(window), until }
        }

        fn say(&mut self, text: &str) {
            assert_eq!(self.sender.write(text.as_bytes()), text.len());
            while say(&self.peer, &mut self.sender) {}
        }

        fn end(&mut self) {
            self.sender.finish();
            while say(&self.peer, &mut self.sender) {}
        }

        /// Serves the guests until this one has `bytes` to read.
        fn fill(&self, end: &End, bytes: usize) {
            while end.in_pair() < bytes {
                assert!(clock::now() < self.until, "it has {} of {bytes} bytes", end.in_pair());
                self.socket.serve_guests(false);
            }
        }

        /// What this guest reads, up to the end if that has been told.
        fn read(&self, end: &End, bytes: usize) -> String {
            self.fill(end, bytes);
            let mut buf = vec![0; bytes];
            let n = sys::io::recv_one(end.near.as_raw_fd(), &mut buf).expect("it has bytes");
            String::from_utf8_lossy(&buf[..n]).into_owned()
        }
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
        let end = guest(&socket, false);
        let mut got = 0;
        loop {
            let left = socket.serve_guests(false);
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
        let mut shared = Shared::new();
        let goes = guest(&shared.socket, false);
        shared.say("first, ");
        shared.fill(&goes, 7);
        let stays = guest(&shared.socket, false);
        shared.say("second");
        assert!(shared.socket.remove_guest(&goes));
        assert_eq!(shared.read(&stays, 13), "first, second");
    }

    /// A helper program that had the number and never read took a parent's request for itself
    /// (review).
    #[test]
    fn who_asks_gets_what_another_has_not_read() {
        let mut shared = Shared::new();
        let idle = guest(&shared.socket, false);
        let reader = guest(&shared.socket, true);
        shared.say("to the one ");
        shared.fill(&idle, 11);
        reader.ask();
        shared.say("who reads");
        assert_eq!(shared.read(&reader, 20), "to the one who reads");
        // It is the last that asked: what comes now is put there too.
        shared.say(", again");
        assert_eq!(shared.read(&reader, 7), ", again");
    }

    /// Each turn began with the first of them: the program got the pieces of both in the order of
    /// the guests, not in that of the stream (review).
    #[test]
    fn what_lies_unread_with_several_guests_is_taken_back_in_order() {
        let mut shared = Shared::new();
        let guests = [guest(&shared.socket, false), guest(&shared.socket, false)];
        let unread = || guests.iter().map(|end| end.in_pair()).sum::<usize>();
        let mut said = String::new();
        for n in 0..50 {
            let word = format!("{n} ");
            shared.say(&word);
            said += &word;
            while unread() < said.len() {
                assert!(clock::now() < shared.until, "{} of {}", unread(), said.len());
                shared.socket.serve_guests(n % 3 == 0);
            }
        }
        shared.socket.take_back();
        let mut got = vec![0; said.len()];
        let n = shared.socket.read_returned(&mut [IoSliceMut::new(&mut got)], false);
        assert_eq!((n, String::from_utf8(got)), (Some(said.len()), Ok(said)));
    }

    /// The other never had a turn (review).
    #[test]
    fn a_guest_that_does_not_touch_what_it_has_got_gives_way_to_the_next() {
        let mut shared = Shared::new();
        let reader = guest(&shared.socket, false);
        let idle = guest(&shared.socket, false);
        shared.say("to whom?");
        shared.fill(&idle, 8);
        while reader.in_pair() == 0 {
            assert!(shared.socket.serve_guests(true).look, "no further look is wanted");
            assert!(clock::now() < shared.until, "it keeps what it does not read");
        }
        assert_eq!(shared.read(&reader, 8), "to whom?");
    }

    /// It read an end instead of the last bytes, which another guest had and left (review).
    #[test]
    fn nobody_is_told_of_the_end_before_the_bytes_that_another_may_leave() {
        let mut shared = Shared::new();
        let goes = guest(&shared.socket, false);
        shared.say("the last");
        shared.fill(&goes, 8);
        let stays = guest(&shared.socket, true);
        shared.end();
        for _ in 0..10 {
            shared.socket.serve_guests(false);
        }
        assert!(!stays.told.load(Ordering::SeqCst));
        stays.ask();
        assert_eq!(shared.read(&stays, 8), "the last");
        while !stays.told.load(Ordering::SeqCst) {
            assert!(clock::now() < shared.until, "the end is not told");
            shared.socket.serve_guests(false);
        }
    }

    /// A look at the kernel's queue alone sent a reader to sleep over what a guest had just got, or
    /// had just left (review).
    #[test]
    fn a_reader_does_not_sleep_while_a_guest_has_something_unread() {
        let mut shared = Shared::new();
        let leaves = guest(&shared.socket, false);
        assert!(!shared.socket.is_woken());
        shared.say("unread");
        shared.fill(&leaves, 6);
        assert!(shared.socket.is_woken(), "it lies with the guest");
        assert!(shared.socket.remove_guest(&leaves));
        assert!(shared.socket.is_woken(), "it has come back");
    }
}
