//! From what went wrong to the errno that a program gets.

use std::io;

/// An error by number.
#[cold]
pub(crate) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// `Err` of an errno.
#[cold]
pub(crate) fn fail<T>(number: i32) -> io::Result<T> {
    Err(errno(number))
}

/// An errno for the program, and what the log, `evs` and events say of it. Stays inside the engine:
/// a call's error is the errno alone.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
struct Told {
    number: i32,
    cause: String,
}

/// An error by number, with a cause that says more.
#[cold]
pub(crate) fn told(number: i32, cause: String) -> io::Error {
    io::Error::new(errno(number).kind(), Told { number, cause })
}

/// The number of an error; EIO where it has none.
pub(crate) fn number(error: &io::Error) -> i32 {
    let told = || error.get_ref().and_then(|inner| inner.downcast_ref::<Told>());
    error.raw_os_error().or_else(|| told().map(|told| told.number)).unwrap_or(libc::EIO)
}

/// True for "would block".
pub(crate) fn would_block(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}

/// True when the process or the machine is out of descriptors or memory, which may pass.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    matches!(number, Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Runs what might panic: then the call fails with ENOTRECOVERABLE, and the host lives. Never
/// around a sleep: the cancellation of a thread unwinds it, and an unwinding that is no panic must
/// not be caught. So none begins in here either, as it could in any close(2).
pub(crate) fn guarded<T>(body: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let _whole = crate::sys::process::Uncancelled::begin();
    caught(body)
}

/// The same for what calls no cancellation point of libc (pthreads(7)), but only takes locks,
/// allocates and makes system calls of rustix, which do not go through libc.
#[inline]
pub(crate) fn caught<T>(body: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        // What was thrown may throw again when it is dropped.
        let _again = catch_unwind(AssertUnwindSafe(move || drop(payload)));
        Err(poisoned())
    })
}

/// What a lock gives when its holder panicked: the engine is poisoned, the host lives.
#[cold]
pub(crate) fn poisoned() -> io::Error {
    errno(libc::ENOTRECOVERABLE)
}
