//! What the calls of spool failover and of controllers share: the text of the last error, whose
//! handle it is, and what must not be called from a callback.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use eversock_engine::{Config, Mode};
use libc::{c_char, c_int, size_t};

use crate::ffi::config::{self, evs_config};
use crate::ffi::guard::{self, fail};
use crate::ffi::memory;

thread_local! {
    /// Of this thread's last call; empty if it has not failed.
    static ERROR: RefCell<CString> = RefCell::default();
    /// The callbacks that run on this thread: bits of [`Callback`].
    static RUNNING: Cell<u32> = const { Cell::new(0) };
}

/// Runs the body of a call, whole: 0 or -errno, and the text for evs_spool_error() and its likes.
pub(super) fn status(body: impl FnOnce() -> io::Result<()>) -> c_int {
    guard::status(|| begun(|| guard::whole(body)))
}

/// The same for a call that gives a length.
pub(super) fn length(body: impl FnOnce() -> io::Result<c_int>) -> c_int {
    let mut length = 0;
    let status = status(|| {
        length = body()?;
        Ok(())
    });
    if status < 0 { status } else { length }
}

/// The same for a call that gives a handle, or NULL with errno set.
pub(super) fn handle<T>(body: impl FnOnce() -> io::Result<T>) -> *mut T {
    guard::pointer(|| begun(|| guard::whole(|| Ok(Box::into_raw(Box::new(body()?))))))
}

fn begun<T>(body: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    explain("");
    let result = body();
    if let Err(error) = &result {
        // A thread that ends has no place for texts any more.
        let is_explained = ERROR.try_with(|text| !text.borrow().is_empty()).unwrap_or(true);
        if !is_explained {
            explain(&error.to_string());
        }
    }
    result
}

/// Says why the call that runs fails.
pub(super) fn explain(text: &str) {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    let _gone = ERROR.try_with(|error| error.replace(text));
}

/// Why this thread's last call failed.
pub(super) fn last_error() -> *const c_char {
    ERROR.try_with(|text| text.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// `Err` of an errno, with a text for evs_spool_error() and its likes.
pub(super) fn refuse<T>(number: c_int, why: impl Display) -> io::Result<T> {
    explain(&why.to_string());
    fail(number)
}

/// An error of the crate below: its number, and its text for evs_spool_error() and its likes.
pub(super) fn told(error: &io::Error) -> io::Error {
    explain(&error.to_string());
    guard::numbered(error)
}

/// Something of this process that C has a handle of.
pub(super) struct Owned<T> {
    inner: T,
    process: u32,
}

impl<T> Owned<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, process: std::process::id() }
    }

    fn is_mine(&self) -> bool {
        self.process == std::process::id()
    }

    /// A child's copy has no threads: who asked it would wait for ever.
    pub(super) fn get(&self) -> io::Result<&T> {
        if self.is_mine() {
            return Ok(&self.inner);
        }
        refuse(libc::ESHUTDOWN, "the handle is the parent's: a child makes its own after the fork")
    }
}

/// Ends and frees what C has a handle of. In a child of a fork nothing is done: the threads that
/// would have to end are the parent's.
///
/// # Safety
/// `handle` is NULL, or from [`self::handle`] and not yet freed.
pub(super) unsafe fn end<H>(
    handle: *mut H,
    what: Callback,
    close: impl FnOnce(H),
    is_mine: impl FnOnce(&H) -> bool,
) -> io::Result<()> {
    // SAFETY: the caller's word.
    let Some(seen) = (unsafe { handle.as_ref() }) else { return Ok(()) };
    if !is_mine(seen) {
        return Ok(());
    }
    what.refuse_within()?;
    // SAFETY: from `Box::into_raw`, once, by the caller's word.
    close(*unsafe { Box::from_raw(handle) });
    Ok(())
}

impl<T> Owned<T> {
    /// For [`end`].
    pub(super) fn belongs_here(&self) -> bool {
        self.is_mine()
    }

    pub(super) fn into_inner(self) -> T {
        self.inner
    }
}

/// A function of the program's.
#[derive(Clone, Copy)]
pub(super) enum Callback {
    /// None that could be waited for.
    #[cfg(feature = "spool")]
    None = 0,
    /// Of evs_spool_submit().
    #[cfg(feature = "spool")]
    Done = 1,
    /// Of a backend.
    #[cfg(feature = "spool")]
    Backend = 2,
    /// Of evs_controller_request().
    #[cfg(feature = "controller")]
    Controller = 4,
    /// Of a device.
    #[cfg(feature = "controller")]
    Device = 8,
}

impl Callback {
    /// Runs it.
    pub(super) fn run<T>(self, call: impl FnOnce() -> T) -> T {
        let before = RUNNING.get();
        RUNNING.set(before | self as u32);
        let value = call();
        RUNNING.set(before);
        value
    }

    /// For what would wait for the thread that it runs on.
    pub(super) fn refuse_within(self) -> io::Result<()> {
        if RUNNING.get() & self as u32 == 0 {
            return Ok(());
        }
        refuse(libc::EDEADLK, "called from a callback whose thread it would wait for")
    }
}

/// How virtual sockets are opened; `None` if the program does not say.
///
/// # Safety
/// `session` is NULL, or from evs_config_new() and not freed.
pub(super) unsafe fn session(session: *const evs_config) -> io::Result<Option<Config>> {
    if session.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's word.
    let config = unsafe { config::copy(session)? };
    Ok(Some(direct(&config)))
}

/// The process's default configuration.
pub(super) fn default_session() -> Config {
    direct(&config::default(true))
}

/// What uses these sockets is the library itself, which needs no pump.
fn direct(config: &Config) -> Config {
    Config { mode: Mode::Direct, ..config.clone() }
}

/// Where to listen: the addresses of a `HOST:PORT`.
pub(super) fn addresses(place: &str) -> io::Result<Vec<SocketAddr>> {
    match place.to_socket_addrs() {
        Ok(addrs) => Ok(addrs.collect()),
        Err(error) => refuse(
            if error.kind() == io::ErrorKind::InvalidInput { libc::EINVAL } else { libc::ENOENT },
            format!("{place:?} is no address to listen on: {error}; say HOST:PORT"),
        ),
    }
}

/// Stores text and a NUL; as much as there is room for. Gives its whole length.
///
/// # Safety
/// `out` is NULL with no `size`, or writable for `size` bytes.
pub(super) unsafe fn store_text(text: &str, out: *mut c_char, size: size_t) -> io::Result<c_int> {
    // SAFETY: the caller's word.
    let out = unsafe { memory::bytes_mut(out.cast(), size)? };
    if let Some(room) = out.len().checked_sub(1) {
        let mut kept = room.min(text.len());
        while !text.is_char_boundary(kept) {
            kept -= 1;
        }
        out[..kept].copy_from_slice(&text.as_bytes()[..kept]);
        out[kept] = 0;
    }
    Ok(c_int::try_from(text.len()).unwrap_or(c_int::MAX))
}
