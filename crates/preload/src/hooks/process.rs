//! Processes: exec and exit. fork needs no hook of its own: libc calls the engine's around it.
//!
//! A descriptor that goes through exec would be a bare TCP connection in the middle of a session,
//! which the new program would corrupt and both would read. Until such a descriptor can be turned
//! into the end of a pump, it is closed by the exec instead.

use std::ffi::c_char;

use eversock_engine::posix;
use libc::{c_int, c_void, pid_t};
use rustix::fd::BorrowedFd;
use rustix::io::FdFlags;

use crate::edge;
use crate::next::hook;

/// Virtual numbers that one exec can keep from the new program; a set of them on the stack, as a
/// child between vfork and exec must not allocate.
const KEPT_MAX: usize = 256;

/// Numbers that an exec is to close, to be put back if it fails or was another process's.
struct Kept {
    numbers: [c_int; KEPT_MAX],
    count: usize,
}

impl Kept {
    /// Marks all virtual numbers that an exec would pass on. Raw calls only.
    fn back() -> Self {
        let mut kept = Self { numbers: [-1; KEPT_MAX], count: 0 };
        if !edge::is_used() {
            return kept;
        }
        posix::for_each_number(|number| {
            // SAFETY: from the table, so not -1; a number that is closed makes the call fail.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            if rustix::io::fcntl_getfd(fd).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
                && rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).is_ok()
                && let Some(place) = kept.numbers.get_mut(kept.count)
            {
                *place = number;
                kept.count += 1;
            }
        });
        kept
    }

    fn restore(&self) {
        for &number in &self.numbers[..self.count] {
            // SAFETY: as above.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            let _closed = rustix::io::fcntl_setfd(fd, FdFlags::empty());
        }
    }

    /// Says what an exec does not pass on. Not in a child that shares its parent's memory.
    fn tell(&self) {
        if self.count > 0 && !edge::is_guest() {
            log::warn!(
                "{} virtual sockets are not passed on to a new program: not built yet",
                self.count
            );
        }
    }
}

macro_rules! exec {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        hook! { next = fn $name($($arg: $ty),*) -> c_int {
            let kept = Kept::back();
            kept.tell();
            let result = next($($arg),*);
            // Here only if it failed.
            let after = edge::errno();
            kept.restore();
            edge::set_errno(after);
            result
        } }
    )*};
}

type Strings = *const *const c_char;

exec! {
    execve(path: *const c_char, argv: Strings, envp: Strings);
    execv(path: *const c_char, argv: Strings);
    execvp(file: *const c_char, argv: Strings);
    execvpe(file: *const c_char, argv: Strings, envp: Strings);
    fexecve(fd: c_int, argv: Strings, envp: Strings);
    execveat(dir: c_int, path: *const c_char, argv: Strings, envp: Strings, flags: c_int);
}

macro_rules! spawn {
    ($($name:ident;)*) => {$(
        hook! { next = fn $name(
            pid: *mut pid_t,
            path: *const c_char,
            actions: *const c_void,
            attributes: *const c_void,
            argv: Strings,
            envp: Strings,
        ) -> c_int {
            // The child's copies of the flags are the parent's at this moment.
            let kept = Kept::back();
            kept.tell();
            let result = next(pid, path, actions, attributes, argv, envp);
            kept.restore();
            result
        } }
    )*};
}

spawn! {
    posix_spawn;
    posix_spawnp;
}

macro_rules! exit {
    ($($name:ident;)*) => {$(
        hook! { next = fn $name(status: c_int) -> () {
            if edge::is_used() && !edge::is_guest() {
                eversock_engine::shutdown_from_exit();
            }
            next(status)
        } }
    )*};
}

exit! {
    _exit;
    _Exit;
    quick_exit;
}
