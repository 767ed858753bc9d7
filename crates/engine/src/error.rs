//! From what went wrong to the errno that a program gets.

use std::io;

/// An error by number.
pub(crate) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// `Err` of an errno.
pub(crate) fn fail<T>(number: i32) -> io::Result<T> {
    Err(errno(number))
}

/// The number of an error; EIO where it has none.
pub(crate) fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// True for "would block".
pub(crate) fn would_block(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}

/// What a lock gives when its holder panicked: the engine is poisoned, the host lives.
pub(crate) fn poisoned() -> io::Error {
    errno(libc::ENOTRECOVERABLE)
}
