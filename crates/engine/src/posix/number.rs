//! Numbers: dup, dup2, dup3, and those that are closed where it cannot be seen.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::{close_taken, not_virtual};
use crate::error::fail;
use crate::reactor::{self, Command};
use crate::socket::Socket;
use crate::sys::{self, fd};
use crate::table::{self, Entry};
use crate::wait::epoll;

/// Lets a call through to the kernel where the number has become a plain connection's since the
/// caller found it virtual. Any other may be a session's that is being closed: the kernel would
/// give its frames to the program.
pub(super) fn plain(number: RawFd) -> io::Result<()> {
    if table::is_plain(number) { Ok(()) } else { not_virtual(number) }
}

/// dup(2).
pub fn dup(number: RawFd) -> io::Result<RawFd> {
    dup_from(number, 0, false)
}

pub(super) fn dup_from(number: RawFd, from: i32, cloexec: bool) -> io::Result<RawFd> {
    let new_number = || -> io::Result<OwnedFd> {
        let new = rustix::io::fcntl_dupfd_cloexec(sys::open(number)?, from)?;
        if !cloexec {
            rustix::io::fcntl_setfd(&new, rustix::io::FdFlags::empty())?;
        }
        Ok(new)
    };
    let Some(entry) = table::get(number) else {
        plain(number)?;
        return Ok(new_number()?.into_raw_fd());
    };
    if from < 0 || !table::can_hold(from) {
        return fail(libc::EINVAL);
    }
    let add = |numbers: &mut Vec<RawFd>| -> io::Result<RawFd> {
        let new = new_number()?;
        if table::is_plain(number) {
            // Its peer was found to be plain before we had the lock.
            return Ok(new.into_raw_fd());
        }
        let raw = new.as_raw_fd();
        if table::set(raw, entry.clone()).is_err() {
            return fail(libc::EMFILE);
        }
        numbers.push(raw);
        Ok(new.into_raw_fd())
    };
    match &entry {
        Entry::Stream(socket) => add(&mut Socket::lock(&socket.place)?.numbers),
        Entry::Listener(listener) => {
            add(&mut *listener.numbers.lock().map_err(|_| crate::error::poisoned())?)
        }
    }
}

/// dup3(2), and dup2(2) with `flags` 0. Either number may be virtual; what stood at `new` is closed
/// as close would.
pub fn dup3(number: RawFd, new: RawFd, flags: i32) -> io::Result<RawFd> {
    if flags & !libc::O_CLOEXEC != 0 || number == new {
        return fail(libc::EINVAL);
    }
    if new < 0 {
        return fail(libc::EBADF);
    }
    let entry = table::get(number);
    if entry.is_some() && !table::can_hold(new) {
        return fail(libc::EBADF);
    }
    // The source must be sound before the target is lost.
    fd::identity(number)?;
    match table::take(new) {
        Some(Entry::Stream(old)) => {
            epoll::closed(&old, new);
            close_taken(&old, new, false)?;
        }
        Some(Entry::Listener(old)) => old.close(new)?,
        None => {}
    }
    let cloexec = flags & libc::O_CLOEXEC != 0;
    let place = |numbers: &mut Vec<RawFd>, entry: Entry| -> io::Result<()> {
        fd::replace(sys::borrow(number), new, cloexec)?;
        if table::is_plain(number) {
            // As in `dup_from`.
            return Ok(());
        }
        if table::set(new, entry).is_err() {
            return fail(libc::EMFILE);
        }
        numbers.push(new);
        Ok(())
    };
    match entry {
        Some(entry @ Entry::Stream(_)) => {
            let Entry::Stream(socket) = &entry else { return fail(libc::EBADF) };
            let socket = Arc::clone(socket);
            place(&mut Socket::lock(&socket.place)?.numbers, entry)?;
        }
        Some(Entry::Listener(listener)) => {
            let mut numbers = listener.numbers.lock().map_err(|_| crate::error::poisoned())?;
            place(&mut numbers, Entry::Listener(Arc::clone(&listener)))?;
        }
        None => fd::replace(sys::borrow(number), new, cloexec)?,
    }
    Ok(new)
}

/// close(2) without the kernel's part, which the caller leaves to somebody who calls no function of
/// ours (stdio's fclose): until then the number names a file that nothing comes of.
pub fn close_before(number: RawFd) -> io::Result<()> {
    match table::get(number) {
        Some(Entry::Listener(listener)) => {
            listener.forget(number);
            Ok(())
        }
        Some(Entry::Stream(socket)) => {
            drop(table::take(number));
            epoll::closed(&socket, number);
            close_taken(&socket, number, false)
        }
        None => fail(libc::EBADF),
    }
}

/// The table has `number`, and a call that makes descriptors has just given it: it was closed past
/// us. The session ends as by a close, unless it has other numbers.
pub fn forget_stale(number: RawFd) {
    match table::take(number) {
        Some(Entry::Stream(socket)) => {
            epoll::lost(&socket, number);
            // The engine looks at all the numbers that it knows, and finds this one another's.
            if let Some(engine) = reactor::engine_if_running() {
                engine.command(Command::Look { socket });
            }
        }
        Some(Entry::Listener(listener)) => listener.forget(number),
        None => {}
    }
}
