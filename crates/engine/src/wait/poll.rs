//! poll(2) and select(2) over virtual sockets.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock;
use crate::error::guarded;
use crate::process;
use crate::socket::gather::flush_held;
use crate::socket::{Socket, bits};
use crate::sys::{self, process::SignalsHeld};
use crate::table::{self, Entry};
use crate::wait::epoll::is_plain;
use crate::wait::kick::Bell;

/// ppoll(2); poll(2) with a null mask. `None` waits without limit.
pub(crate) fn poll(
    fds: &mut [libc::pollfd],
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<usize> {
    if is_plain(fds) {
        return sys::io::poll_masked(fds, timeout, mask);
    }
    flush_held();
    let held = SignalsHeld::begin();
    poll_held(fds, timeout, held.unless(mask))
}

/// The same where signals are held, but for the wait with this mask.
fn poll_held(
    fds: &mut [libc::pollfd],
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<usize> {
    let watched: Vec<Option<Arc<Socket>>> = fds
        .iter()
        .map(|entry| match table::get(entry.fd) {
            Some(Entry::Stream(socket)) => {
                process::claim_to_wait(&socket);
                if entry.events & libc::POLLIN != 0
                    && let Some(link) = socket.link()
                    && sys::io::queued(entry.fd) == 0
                {
                    link.want_input(timeout != Some(Duration::ZERO));
                }
                Some(socket).filter(|socket| !socket.has(bits::PUMPED))
            }
            Some(Entry::Listener(listener)) => {
                if let Err(error) = listener.watch_server() {
                    log::debug!("listener {}: {error}", listener.id);
                }
                None
            }
            None => None,
        })
        .collect();
    let bell = Bell::new()?;
    let _listed: Vec<_> =
        watched.iter().flatten().map(|socket| socket.sleepers.list(&bell)).collect();
    poll_watched(fds, &watched, &bell, timeout, mask)
}

fn poll_watched(
    fds: &mut [libc::pollfd],
    watched: &[Option<Arc<Socket>>],
    bell: &Bell,
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<usize> {
    let until = timeout.and_then(|timeout| clock::now().checked_add(timeout));
    let mut kernel = Vec::with_capacity(fds.len() + 1);
    loop {
        kernel.clear();
        let mut ready_now = false;
        for (entry, socket) in fds.iter().zip(watched) {
            let (number, events) = match socket {
                Some(socket) => {
                    ready_now |= known(socket, entry.events) != 0;
                    for_kernel(socket, entry)
                }
                None => (entry.fd, entry.events),
            };
            kernel.push(libc::pollfd { fd: number, events, revents: 0 });
        }
        kernel.push(libc::pollfd { fd: bell.number(), events: libc::POLLIN, revents: 0 });
        let left = if ready_now {
            Some(Duration::ZERO)
        } else {
            until.map(|until| until.saturating_duration_since(clock::now()))
        };
        let polled = sys::io::poll_masked(&mut kernel, left, mask);
        if let Err(error) = polled
            && !ready_now
        {
            return Err(error);
        }
        bell.silence();
        let count = guarded(|| {
            let mut count = 0;
            for ((entry, socket), seen) in fds.iter_mut().zip(watched).zip(&kernel) {
                entry.revents = match socket {
                    Some(socket) => visible(socket, entry.events, seen.revents),
                    None => seen.revents,
                };
                count += usize::from(entry.revents != 0);
            }
            Ok(count)
        })?;
        let expired = until.is_some_and(|until| clock::now() >= until);
        if count > 0 || expired {
            return Ok(count);
        }
    }
}

/// What our bits say of what the program asked.
fn known(socket: &Socket, asked: i16) -> i16 {
    socket.readiness() & (asked | libc::POLLERR | libc::POLLHUP)
}

/// The kernel is asked only while a real socket stands, and not for writing while the window is
/// shut: it would always say yes.
fn for_kernel(socket: &Arc<Socket>, entry: &libc::pollfd) -> (RawFd, i16) {
    let state = socket.bits();
    let mut events = entry.events;
    if state & bits::PUMPED != 0 {
        // It has become one, or a plain connection, since the wait began.
        return (entry.fd, events);
    }
    if state & (bits::DETACHED | bits::DYING | bits::CONNECTING | bits::FAILED) != 0 {
        return (-1, events);
    }
    if state & bits::NO_ROOM != 0 && events & libc::POLLOUT != 0 {
        socket.want_credit();
        events &= !libc::POLLOUT;
        if events & libc::POLLIN == 0 {
            return (-1, events);
        }
    }
    (entry.fd, events)
}

/// What the program may see of what the kernel said.
fn visible(socket: &Arc<Socket>, asked: i16, kernel: i16) -> i16 {
    let state = socket.bits();
    if state & bits::PUMPED != 0 {
        return kernel;
    }
    let only_real = libc::POLLERR | libc::POLLHUP | libc::POLLRDHUP | libc::POLLNVAL;
    let mut seen = kernel & !only_real;
    if kernel & libc::POLLNVAL != 0 && state & (bits::DETACHED | bits::CONNECTING) == 0 {
        return libc::POLLNVAL;
    }
    if kernel & only_real != 0 && !process::is_ours(socket) && !process::claim_dead(socket) {
        // A relative has mended it for itself: the program's next call asks.
        return asked & (libc::POLLIN | libc::POLLOUT);
    }
    if kernel & only_real != 0 && state & (bits::DETACHED | bits::FAILED | bits::FRESH) == 0 {
        std::thread::yield_now();
    }
    if seen & libc::POLLIN != 0
        && (state & (bits::DETACHED | bits::DYING | bits::CONNECTING) != 0
            || !socket.nonblocking.load(Ordering::Relaxed) && !socket.probe_input())
    {
        seen &= !libc::POLLIN;
    }
    if state & (bits::NO_ROOM | bits::CONNECTING) != 0 {
        seen &= !libc::POLLOUT;
    }
    seen | known(socket, asked)
}

/// The bits of an `fd_set`, as words of the kernel's layout.
#[derive(Debug)]
pub(crate) struct FdSet<'a>(pub(crate) Option<&'a mut [u64]>);

impl FdSet<'_> {
    fn has(&self, number: usize) -> bool {
        let word = self.0.as_ref().and_then(|words| words.get(number / 64));
        word.is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
    fn clear(&mut self) {
        if let Some(words) = self.0.as_mut() {
            words.fill(0);
        }
    }
    fn insert(&mut self, number: usize) -> usize {
        match self.0.as_mut().and_then(|words| words.get_mut(number / 64)) {
            Some(word) => {
                *word |= 1 << (number % 64);
                1
            }
            None => 0,
        }
    }
}

/// pselect(2); select(2) with a null mask.
pub(crate) fn select(
    count: usize,
    read: &mut FdSet<'_>,
    write: &mut FdSet<'_>,
    except: &mut FdSet<'_>,
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<usize> {
    flush_held();
    let held = SignalsHeld::begin();
    let mut fds = Vec::new();
    for number in 0..count {
        let mut events = 0;
        if read.has(number) {
            events |= libc::POLLIN;
        }
        if write.has(number) {
            events |= libc::POLLOUT;
        }
        if except.has(number) {
            events |= libc::POLLPRI;
        }
        if events != 0 {
            let fd = i32::try_from(number).unwrap_or(-1);
            fds.push(libc::pollfd { fd, events, revents: 0 });
        }
    }
    poll_held(&mut fds, timeout, held.unless(mask))?;
    if fds.iter().any(|entry| entry.revents & libc::POLLNVAL != 0) {
        return crate::error::fail(libc::EBADF);
    }
    read.clear();
    write.clear();
    except.clear();
    let mut total = 0;
    for entry in &fds {
        let number = entry.fd.unsigned_abs() as usize;
        // As in the kernel's do_select: an error makes both sides ready, a hang-up the reading one.
        let readable = libc::POLLIN | libc::POLLHUP | libc::POLLERR | libc::POLLRDHUP;
        if entry.events & libc::POLLIN != 0 && entry.revents & readable != 0 {
            total += read.insert(number);
        }
        if entry.events & libc::POLLOUT != 0 && entry.revents & (libc::POLLOUT | libc::POLLERR) != 0
        {
            total += write.insert(number);
        }
        if entry.events & libc::POLLPRI != 0 && entry.revents & libc::POLLPRI != 0 {
            total += except.insert(number);
        }
    }
    Ok(total)
}

/// EPOLLOUT for a one-shot registration that wants it, when neither the session nor the kernel is
/// against a write at this moment.
pub(super) fn room_if_once(wanted: u32, socket: &Socket, number: RawFd) -> u32 {
    let out = libc::EPOLLOUT as u32;
    let both = out | libc::EPOLLONESHOT as u32;
    if wanted & both != both || socket.has(bits::NO_ROOM | bits::CONNECTING | bits::DETACHED) {
        return 0;
    }
    let mut fds = [libc::pollfd { fd: number, events: libc::POLLOUT, revents: 0 }];
    let asked = sys::io::poll(&mut fds, Some(Duration::ZERO));
    if asked.is_ok() && fds[0].revents & libc::POLLOUT != 0 { out } else { 0 }
}
