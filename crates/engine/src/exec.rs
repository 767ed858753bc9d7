//! Before another program is run: what a virtual number is to be there.
//!
//! A program that knows nothing of eversock cannot have a direct socket. It gets the end of a pump,
//! which the engine of the session's owner serves, and a listener's real socket. Both functions are
//! for the calls around exec: in a fork child, or, with [`Engine::LivesOn`], before `posix_spawn`
//! and in a vfork child, where they make system calls and change nothing of the process's state.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use std::sync::atomic::Ordering;

use crate::error::fail;
use crate::process::{self, Holder};
use crate::reactor::engine_if_running;
use crate::socket::{Socket, bits, gather};
use crate::sys::{self, fd};
use crate::table::{self, Entry};
use crate::wait::kick::Bell;
use crate::{family, posix};

/// What becomes of this process's engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// This process becomes the other program: its engine ends.
    Ends,
    /// The program runs in another process: `posix_spawn`, or a vfork child.
    LivesOn,
}

/// What to put under a number before the program runs.
#[derive(Debug)]
pub enum Inherited {
    /// Nothing: the number works as it is.
    AsItIs,
    /// This descriptor, which is not closed on exec. The second must stay open too, under any
    /// number: while it is, the session's owner knows that the program lives.
    Pump(OwnedFd, OwnedFd),
    /// The real listening socket. Its file is non-blocking, as the engine shares it.
    Listener(OwnedFd),
}

/// Sends what the program has written and the kernel has not been given yet, before this process
/// becomes another program. Blocks up to 5 seconds where the kernel takes no more.
pub fn flush() {
    gather::flush_before_exec();
}

/// What another program is to have under `number`.
///
/// # Errors
/// ENOTSOCK when the number is not virtual. EOPNOTSUPP when this process is the session's owner and
/// its engine ends: nobody could copy for the program. ECONNRESET when the owner is dead; EAGAIN
/// when it does not answer.
pub fn inherit(number: RawFd, engine: Engine) -> io::Result<Inherited> {
    match table::get(number) {
        Some(Entry::Stream(socket)) => {
            if let Some(link) = socket.link() {
                link.keep_through_exec()?;
                return Ok(Inherited::AsItIs);
            }
            if socket.has(bits::FRESH | bits::PUMPED) {
                return Ok(Inherited::AsItIs);
            }
            let us = engine_if_running().map_or(0, |engine| engine.instance);
            let owner = match socket.owner.holder(us) {
                Holder::Mine if engine == Engine::Ends => return fail(libc::EOPNOTSUPP),
                Holder::Mine => us,
                Holder::Other(owner) => owner,
                // Not touched since the fork: the parent can serve it, this process cannot.
                Holder::Nobody => socket.owner.last(),
            };
            let (pump, line) = family::pump_for_exec(&socket, us, owner)?;
            for descriptor in [&pump, &line] {
                rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
            }
            // Not read from the number: a vfork child may have closed it, and kept a duplicate.
            let nonblocking = socket.nonblocking.load(Ordering::Relaxed);
            fd::set_nonblocking(pump.as_raw_fd(), nonblocking)?;
            Ok(Inherited::Pump(pump.into(), line.into()))
        }
        Some(Entry::Listener(listener)) => {
            let real = fd::dup_internal(listener.real.as_raw_fd())?;
            rustix::io::fcntl_setfd(&real, rustix::io::FdFlags::empty())?;
            Ok(Inherited::Listener(real.into()))
        }
        None => fail(libc::ENOTSOCK),
    }
}

/// Puts what [`inherit`] gave under `number`; the line of a pump stays open where it is. For the
/// process that becomes the program, after all its other threads have gone.
pub fn place(number: RawFd, inherited: Inherited) -> io::Result<()> {
    use std::os::fd::{AsFd, IntoRawFd};
    match inherited {
        Inherited::AsItIs => Ok(()),
        Inherited::Listener(file) => fd::replace(file.as_fd(), number, false),
        Inherited::Pump(file, line) => {
            fd::replace(file.as_fd(), number, false)?;
            // It ends with the program.
            let _kept = line.into_raw_fd();
            debug_assert!(fd::is_cloexec(number).is_ok_and(|cloexec| !cloexec));
            Ok(())
        }
    }
}

/// Ends the pumps that [`inherit`] gave for a program which did not come to be; `lines` are their
/// second descriptors, and no copy of the first is open any more. Blocks until the sessions' owners
/// have what lay in the pumps, up to 20 seconds for all: who reads before that reads past it.
///
/// # Errors
/// ETIMEDOUT when an owner lives and does not answer.
pub fn give_back(lines: Vec<OwnedFd>) -> io::Result<()> {
    let lines: Vec<sys::Fd> = lines.into_iter().map(Into::into).collect();
    family::end_pumps(&lines)
}

/// True when nobody could serve a pump of the session behind `number` once this process has become
/// another program: it is ours, or nobody has used it since a fork, and who had it before may have
/// closed it by now. Another process must [`keep`] it.
pub fn needs_keeper(number: RawFd) -> bool {
    let Some(Entry::Stream(socket)) = table::get(number) else { return false };
    if socket.link().is_some()
        || socket.has(bits::FRESH | bits::CONNECTING | bits::PUMPED | bits::FAILED)
    {
        return false;
    }
    let us = engine_if_running().map_or(0, |engine| engine.instance);
    !matches!(socket.owner.holder(us), Holder::Other(_))
}

/// The number of the virtual stream whose file this is, by device and inode: for a child between
/// vfork and exec, which has numbers of its own that the table does not know.
pub fn number_of(identity: (u64, u64)) -> Option<RawFd> {
    let mut found = None;
    table::for_each_number(|number| {
        if found.is_none()
            && let Some(Entry::Stream(socket)) = table::get(number)
            && socket.place.lock().is_ok_and(|place| place.identity == identity)
        {
            found = Some(number);
        }
    });
    found
}

/// Keeps the sessions behind `numbers` for a relative that becomes another program, until they have
/// ended. For a process that was forked for this alone: the sessions are its own from here on,
/// `claimed` tells the relative so and returns when that has what it needs, and then the numbers
/// are closed, as the pumps do not need them.
///
/// # Errors
/// ECONNRESET when a session cannot be claimed; those of starting the engine.
pub fn keep(numbers: &[RawFd], claimed: impl FnOnce()) -> io::Result<()> {
    let mut kept = Vec::new();
    for &number in numbers {
        if let Some(Entry::Stream(socket)) = table::get(number)
            && !kept.iter().any(|other| std::sync::Arc::ptr_eq(other, &socket))
        {
            process::claim(&socket)?;
            kept.push(socket);
        }
    }
    claimed();
    let bell = Bell::new()?;
    let _listed: Vec<_> = kept.iter().map(|socket| socket.sleepers.list(&bell)).collect();
    for socket in &kept {
        let numbers = Socket::lock(&socket.place)?.numbers.clone();
        for number in numbers {
            posix::close(number)?;
        }
    }
    let us = engine_if_running().map_or(0, |engine| engine.instance);
    let is_over = |socket: &Socket| {
        !socket.owner.is(us)
            || socket.has(bits::FAILED)
            || socket.meta.lock().map_or(true, |meta| meta.ended.is_some())
                && !socket.has_untold_guests()
    };
    while !kept.iter().all(|socket| is_over(socket)) {
        let mut fds = [libc::pollfd { fd: bell.number(), events: libc::POLLIN, revents: 0 }];
        match sys::io::poll(&mut fds, None) {
            Ok(_) => bell.silence(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
