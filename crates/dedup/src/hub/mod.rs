//! The threads that carry: one for each pool and each shared listener, which owns their sessions
//! and the far ends of their connections. Others talk to it by a channel and a bell.

mod carrier;
pub(crate) mod client;
mod lone;
mod pipe;
pub(crate) mod server;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use eversock_engine::host::Kept;
use eversock_engine::posix;
use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};

/// Events that are taken at a time.
const EVENTS_MAX: usize = 256;
/// Bytes that are moved at a time.
const BUF_BYTES: usize = 256 * 1024;

const INTEREST: u32 =
    (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET).cast_unsigned();

/// The bell's data in the set; above every [`token`].
const BELL: u64 = u64::MAX;
/// Numbers of a hub's other descriptors are counted from here.
const OTHERS: u64 = 1 << 63;

/// The data by which a carrier's descriptor is known: its socket's, or a connection's far end.
fn token(carrier: u32, stream: u32, is_far: bool) -> u64 {
    debug_assert!(carrier < 1 << 30, "carriers are counted from 0");
    u64::from(carrier) << 33 | u64::from(stream) << 1 | u64::from(is_far)
}

fn untoken(data: u64) -> (u32, u32) {
    // 30 bits, and 32.
    ((data >> 33) as u32, (data >> 1) as u32)
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// The close of this virtual socket is to be a reset.
fn reset_virtual(number: RawFd) {
    let mut linger = [0; 8];
    linger[..4].copy_from_slice(&1_i32.to_ne_bytes());
    if let Err(error) = posix::setsockopt(number, libc::SOL_SOCKET, libc::SO_LINGER, &linger) {
        log::debug!("a session ends in order rather than by a reset: {error}");
    }
}

/// What a hub waits for.
#[derive(Debug)]
struct Watch {
    set: Kept,
    bell: Arc<Kept>,
}

impl Watch {
    fn new(bell: Arc<Kept>) -> io::Result<Self> {
        let set = Kept::new(epoll::create(epoll::CreateFlags::CLOEXEC)?)?;
        let data = epoll::EventData::new_u64(BELL);
        epoll::add(&set, &*bell, data, epoll::EventFlags::IN)?;
        Ok(Self { set, bell })
    }

    fn add(&self, fd: &impl AsFd, data: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(data);
        let interest = epoll::EventFlags::from_bits_retain(INTEREST);
        Ok(epoll::add(&self.set, fd, data, interest)?)
    }

    fn remove(&self, fd: &impl AsFd) {
        if let Err(error) = epoll::delete(&self.set, fd) {
            log::debug!("not watched any more: {}", io::Error::from(error));
        }
    }

    fn add_virtual(&self, number: RawFd, data: u64) -> io::Result<()> {
        let event = libc::epoll_event { events: INTEREST, u64: data };
        posix::epoll_ctl(self.set.as_raw_fd(), libc::EPOLL_CTL_ADD, number, Some(event))
    }

    /// Level-triggered, for what is not read to its end at once.
    fn add_level(&self, fd: &impl AsFd, data: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(data);
        Ok(epoll::add(&self.set, fd, data, epoll::EventFlags::IN)?)
    }

    /// Level-triggered, for listeners.
    fn add_listener(&self, number: RawFd, data: u64) -> io::Result<()> {
        let event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: data };
        posix::epoll_ctl(self.set.as_raw_fd(), libc::EPOLL_CTL_ADD, number, Some(event))
    }

    fn remove_virtual(&self, number: RawFd) {
        let set = self.set.as_raw_fd();
        if let Err(error) = posix::epoll_ctl(set, libc::EPOLL_CTL_DEL, number, None) {
            log::debug!("not watched any more: {error}");
        }
    }

    /// Gives what has happened: the data, and whether it may be read and written.
    fn wait(
        &self,
        room: &mut Vec<libc::epoll_event>,
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        room.resize(EVENTS_MAX, libc::epoll_event { events: 0, u64: 0 });
        match posix::epoll_wait(self.set.as_raw_fd(), room, timeout, std::ptr::null()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }

    fn silence_bell(&self) {
        // Read until it is empty; it does not block.
        let mut count = [0; 8];
        let _empty = rustix::io::read(&*self.bell, &mut count);
    }
}

/// What the kernel says of a descriptor.
#[derive(Clone, Copy, Debug)]
struct Readiness {
    readable: bool,
    writable: bool,
    broken: bool,
}

impl From<u32> for Readiness {
    fn from(events: u32) -> Self {
        let events = events.cast_signed();
        let broken = events & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
        let readable = events & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0;
        let writable = events & libc::EPOLLOUT != 0;
        Self { readable: readable || broken, writable: writable || broken, broken }
    }
}

thread_local! {
    static IS_HUB: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// True on a thread that carries: it must not wait for itself, nor for another of its kind.
pub(crate) fn is_hub() -> bool {
    IS_HUB.get()
}

/// Starts a thread that carries.
fn spawn(name: &'static CStr, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    eversock_engine::host::spawn(name, move || {
        IS_HUB.set(true);
        run();
    })
}

/// The hub's end of the line by which others reach it.
#[derive(Debug)]
struct Inbox<C> {
    commands: Receiver<C>,
    watch: Watch,
}

/// By which a hub is told what to do.
#[derive(Debug)]
pub(crate) struct Line<C> {
    commands: Sender<C>,
    bell: Arc<Kept>,
}

impl<C> Clone for Line<C> {
    fn clone(&self) -> Self {
        Self { commands: self.commands.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<C> Line<C> {
    /// To be called under [`eversock_engine::host::whole`], so that no child has copies.
    fn new() -> io::Result<(Self, Inbox<C>)> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let bell = Arc::new(Kept::new(bell)?);
        let (sender, commands) = unbounded();
        let watch = Watch::new(Arc::clone(&bell))?;
        Ok((Self { commands: sender, bell }, Inbox { commands, watch }))
    }

    /// False when the hub is gone.
    pub(crate) fn tell(&self, command: C) -> bool {
        if self.commands.send(command).is_err() {
            return false;
        }
        ring(&*self.bell);
        true
    }
}

/// Rings a bell; one that is ringing already goes on.
pub(crate) fn ring(bell: &impl AsFd) {
    let _full = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

/// Microseconds since the hub began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> u64 {
        // Some 500,000 years.
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
