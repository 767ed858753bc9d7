//! Before another program is run: what a virtual number is to be there.
//!
//! A program that knows nothing of eversock cannot have a direct socket. It gets the end of a pump,
//! which the engine of the session's owner serves, and a listener's real socket. Both functions are
//! for the calls around exec: in a fork child, or, with [`Engine::LivesOn`], before `posix_spawn`
//! and in a vfork child, where they make system calls and change nothing of the process's state.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::error::fail;
use crate::family;
use crate::process::Holder;
use crate::reactor::engine_if_running;
use crate::socket::bits;
use crate::sys::fd;
use crate::table::{self, Entry};

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
            fd::set_nonblocking(pump.as_raw_fd(), fd::is_nonblocking(number)?)?;
            Ok(Inherited::Pump(pump, line))
        }
        Some(Entry::Listener(listener)) => {
            let real = fd::dup_internal(listener.real.as_raw_fd())?;
            rustix::io::fcntl_setfd(&real, rustix::io::FdFlags::empty())?;
            Ok(Inherited::Listener(real))
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
