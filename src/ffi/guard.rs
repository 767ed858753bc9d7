//! The edge between Rust and C: results, errno and panics.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use eversock_engine::posix;
use libc::{c_int, ssize_t};

// A panic must be catchable, or it would end the host program.
const _: () = assert!(cfg!(panic = "unwind"));

/// What a POSIX call gives.
pub(crate) trait Outcome {
    const FAILED: Self;
}

impl Outcome for c_int {
    const FAILED: Self = -1;
}

impl Outcome for ssize_t {
    const FAILED: Self = -1;
}

/// Runs the body of a call's twin: -1 and errno on failure; errno as it was on success.
pub(crate) fn posix<T: Outcome>(body: impl FnOnce() -> io::Result<T>) -> T {
    let before = errno();
    let (value, after) = match run(body) {
        Ok(value) => (value, before),
        Err(number) => (T::FAILED, number),
    };
    set_errno(after);
    value
}

/// The same for a call that may sleep, which is a cancellation point. pthread_cancel unwinds it,
/// and what is no panic must not be caught (Rust aborts); the engine itself catches the panics of
/// what it does between its sleeps.
pub(crate) fn sleeping<T: Outcome>(body: impl FnOnce() -> io::Result<T>) -> T {
    let before = errno();
    let (value, after) = match body() {
        Ok(value) => (value, before),
        Err(error) => (T::FAILED, posix::error_number(&error)),
    };
    set_errno(after);
    value
}

/// [`status`] for a call that may sleep.
pub(crate) fn sleeping_status(body: impl FnOnce() -> io::Result<()>) -> c_int {
    let before = errno();
    let result = body().map_or_else(|error| -posix::error_number(&error), |()| 0);
    set_errno(before);
    result
}

/// Runs the body of any other function: 0 or -errno; errno as it was.
pub(crate) fn status(body: impl FnOnce() -> io::Result<()>) -> c_int {
    let before = errno();
    let result = run(body).map_or_else(|number| -number, |()| 0);
    set_errno(before);
    result
}

/// Runs a body that gives a pointer, which is null with errno set on failure.
pub(crate) fn pointer<T>(body: impl FnOnce() -> io::Result<*mut T>) -> *mut T {
    let before = errno();
    let (value, after) = match run(body) {
        Ok(value) => (value, before),
        Err(number) => (std::ptr::null_mut(), number),
    };
    set_errno(after);
    value
}

/// Runs what is to happen whole, a panic being ENOTRECOVERABLE: the thread is not cancelled in it.
/// For what calls libc's cancellation points on its way, and within calls that sleep outside of it.
#[cfg(any(feature = "controller", feature = "dedup", feature = "spool"))]
pub(crate) fn whole<T>(body: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let _whole = eversock_engine::Uncancelled::begin();
    run(body).or_else(fail)
}

fn run<T>(body: impl FnOnce() -> io::Result<T>) -> Result<T, c_int> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(posix::error_number(&error)),
        Err(payload) => {
            // What was thrown may throw again when it is dropped.
            let _again = catch_unwind(AssertUnwindSafe(move || drop(payload)));
            Err(libc::ENOTRECOVERABLE)
        }
    }
}

/// An error of the crates below as one with a number: some of their own have a kind alone.
#[cfg(any(feature = "controller", feature = "dedup", feature = "spool"))]
pub(crate) fn numbered(error: &io::Error) -> io::Error {
    let number = match (posix::error_number(error), error.kind()) {
        (libc::EIO, io::ErrorKind::InvalidInput) => libc::EINVAL,
        (libc::EIO, io::ErrorKind::PermissionDenied) => libc::EACCES,
        (libc::EIO, io::ErrorKind::WouldBlock) => libc::EAGAIN,
        (libc::EIO, io::ErrorKind::NotConnected) => libc::ENOTCONN,
        (libc::EIO, io::ErrorKind::TimedOut) => libc::ETIMEDOUT,
        (number, _) => number,
    };
    io::Error::from_raw_os_error(number)
}

/// `Err` of an errno.
pub(crate) fn fail<T>(number: c_int) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}

/// The result of a libc call that gives -1 and errno.
pub(crate) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A count as `ssize_t`; counts come from lengths that were cut to `memory::RW_MAX`.
pub(crate) fn count(count: usize) -> ssize_t {
    ssize_t::try_from(count).unwrap_or(ssize_t::MAX)
}

fn errno() -> c_int {
    // SAFETY: the location is this thread's own and always valid.
    unsafe { *libc::__errno_location() }
}

fn set_errno(number: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = number };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_enotrecoverable_and_success_leaves_errno_alone() {
        set_errno(7);
        assert_eq!(posix(|| Ok(5)), 5);
        assert_eq!(errno(), 7);
        assert_eq!(posix::<c_int>(|| fail(libc::EPIPE)), -1);
        assert_eq!(errno(), libc::EPIPE);
        assert_eq!(posix::<ssize_t>(|| std::panic::resume_unwind(Box::new(1))), -1);
        assert_eq!(errno(), libc::ENOTRECOVERABLE);
        set_errno(7);
        assert_eq!(status(|| fail(libc::EBADF)), -libc::EBADF);
        assert_eq!(errno(), 7);
    }
}
