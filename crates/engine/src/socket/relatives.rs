//! A session between relatives: handed over whole, or shared by way of a pump (DESIGN 6).
//!
//! The owner's side of the latter is [`super::guests`].

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use eversock_proto::identity::PublicKey;
use eversock_proto::recv::Receiver;
use eversock_proto::send::Sender;
use eversock_proto::snapshot::{In, Out};

use super::guests::End;
use super::link::{Busy, Old};
use super::{Socket, bits};
use crate::error::{errno, fail};
use crate::family::{self, Link};
use crate::sys::{self, Fd, fd};

const VERSION: u64 = 2;
/// Bits that the session takes along.
const CARRIED: u32 = bits::EOF | bits::WRITE_SHUT | bits::NO_ROOM | bits::STOPPED | bits::OVER;

/// What a socket has to do with relatives; most have nothing.
#[derive(Debug, Default)]
pub(crate) struct Relatives {
    /// The owner's ends of its guests' pumps.
    pub(super) ends: Vec<Arc<End>>,
    /// A guest's line to its owner.
    link: Option<Arc<Link>>,
    /// Bytes that were taken back from guests: what is read next.
    pub(super) returned: Vec<u8>,
    /// When a look at who reads is planned.
    pub(super) look_at: Option<Instant>,
    /// How long the next look waits.
    pub(super) look_after: Duration,
    /// The session has ended in order; guests are told when they have read all.
    pub(super) is_over: bool,
}

impl Relatives {
    /// In a fork child: copies of the owner's ends would keep lines open that end with the owner.
    pub(crate) fn leave_guests(&mut self) {
        let ends = std::mem::take(&mut self.ends);
        for end in &ends {
            // The line is among the engine's, which all end here.
            for number in end.pair() {
                fd::close(number);
            }
        }
        self.look_at = None;
        // The parent's engine had them too, and its copy of them lives on in this process: nothing
        // may close those numbers again.
        Box::leak(Box::new(ends));
    }
}

impl Socket {
    pub(super) fn with_relatives<T>(&self, with: impl FnOnce(&mut Relatives) -> T) -> T {
        let mut relatives = self.relatives.lock().unwrap_or_else(PoisonError::into_inner);
        with(relatives.get_or_insert_default())
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
        // Who is to have it may wait for the answer to this at once.
        if self.flush_held_back(&held.place, &mut held.tx) {
            self.owe();
        }
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
        family::write_addrs(&mut out, &meta.rare().announced);
        let rare = meta.rare();
        out.bytes(rare.peer_key.as_ref().map_or(&[], |key| &key.0));
        out.flag(rare.shares);
        let route = rare.route.map(|(peer, local)| [peer, local]);
        family::write_addrs(&mut out, route.as_ref().map_or(&[], |route| route));
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
        self.with_relatives(|relatives| {
            relatives.returned.clear();
            relatives.look_at = None;
        });
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
        let announced = family::read_addrs(from).ok_or_else(bad)?;
        if !announced.is_empty() || !meta.rare().announced.is_empty() {
            meta.rare_mut().announced = announced;
        }
        let peer_key = match from.bytes().ok_or_else(bad)? {
            [] => None,
            key => Some(PublicKey(key.try_into().map_err(|_| bad())?)),
        };
        let shares = from.flag().ok_or_else(bad)?;
        let route = match family::read_addrs(from).ok_or_else(bad)?[..] {
            [] => None,
            [peer, local] => Some((peer, local)),
            _ => return Err(bad()),
        };
        if peer_key.is_some() || shares || route.is_some() {
            let rare = meta.rare_mut();
            (rare.peer_key, rare.shares, rare.route) = (peer_key, shares, route);
        }
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
                self.put(&mut place, real, Old::Shut)?;
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
        self.with_relatives(|relatives| {
            relatives.returned = returned;
            relatives.look_at = None;
        });
        let owes = attached && tx.sender.as_ref().is_some_and(|sender| sender.has_output());
        drop((tx, rx, place, meta));
        if owes {
            // A program that only reads from here on gives the kernel nothing.
            self.owe();
        }
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
        self.put(&mut place, near, Old::Kept)?;
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
}
