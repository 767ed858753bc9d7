//! The edge between a program's call and the engine: results, errno, panics, and children that must
//! not come in.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use eversock_engine::{Uncancelled, posix};
use libc::c_int;

use crate::next::Absent;

// A panic must be catchable, or it would end the host program.
const _: () = assert!(cfg!(panic = "unwind"));

/// True once a socket of this process, or of one that it was forked from, has become virtual.
static USED: AtomicBool = AtomicBool::new(false);
/// The process whose memory this is; 0 before the first virtual socket.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// False while no descriptor can be virtual: one load.
#[inline]
pub(crate) fn is_used() -> bool {
    USED.load(Ordering::Relaxed)
}

/// True when a call on this number is the engine's.
#[inline]
pub(crate) fn is_ours(number: c_int) -> bool {
    // What the engine's thread calls by libc's names concerns the real sockets.
    posix::is_virtual(number) && !eversock_engine::on_engine_thread()
}

/// From here on descriptors may be virtual.
pub(crate) fn begin_use() -> io::Result<()> {
    if !USED.load(Ordering::Relaxed) {
        PROCESS.store(process(), Ordering::Relaxed);
        // SAFETY: a function of ours that stays for the life of the program.
        let result = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        USED.store(true, Ordering::SeqCst);
    }
    Ok(())
}

extern "C" fn in_child() {
    PROCESS.store(process(), Ordering::Relaxed);
}

fn process() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// True in a child that shares its parent's memory (vfork), or that was made round our fork hooks:
/// it makes raw calls only, and writes no state. A system call, so only those ask whose calls such
/// a child may make.
pub(crate) fn is_guest() -> bool {
    PROCESS.load(Ordering::Relaxed) != process()
}

/// True when the engine uses the number itself: the program has not made it, and does not know what
/// it would close there. What the engine closes it has given up before.
pub(crate) fn is_engines(number: c_int) -> bool {
    is_used() && posix::is_own_number(number) && !eversock_engine::on_engine_thread() && !is_guest()
}

pub(crate) fn errno() -> c_int {
    // SAFETY: the location is this thread's own and always valid.
    unsafe { *libc::__errno_location() }
}

pub(crate) fn set_errno(number: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = number };
}

/// Runs what does not sleep: -1 and errno on failure, errno as it was on success; a panic gives
/// ENOTRECOVERABLE. No cancellation acts in it, as its unwinding would be caught.
pub(crate) fn awake<T: Absent>(body: impl FnOnce() -> io::Result<T>) -> T {
    sleeping(|| guarded(body))
}

/// Runs what does not sleep and is part of a call that does: a panic gives ENOTRECOVERABLE, and no
/// cancellation acts in it.
pub(crate) fn guarded<T>(body: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let _whole = Uncancelled::begin();
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        // What was thrown may throw again when it is dropped.
        let _again = catch_unwind(AssertUnwindSafe(move || drop(payload)));
        fail(libc::ENOTRECOVERABLE)
    })
}

/// Results and errno of what may sleep and so be unwound by a cancellation, which must not be
/// caught.
pub(crate) fn sleeping<T: Absent>(body: impl FnOnce() -> io::Result<T>) -> T {
    let before = errno();
    let (value, after) = match body() {
        Ok(value) => (value, before),
        Err(error) => (T::VALUE, posix::error_number(&error)),
    };
    set_errno(after);
    value
}

/// `Err` of an errno.
pub(crate) fn fail<T>(number: c_int) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}

/// A count as `ssize_t`.
pub(crate) fn count(count: usize) -> isize {
    isize::try_from(count).unwrap_or(isize::MAX)
}
