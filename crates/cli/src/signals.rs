//! The signals that end a command in order: SIGINT and SIGTERM.

use std::io;
use std::mem::MaybeUninit;
use std::thread;

/// Calls `then` with the name of the first of the two signals that comes, on a thread of its own.
/// Must be called before the process has other threads, as [`on_each`].
pub(crate) fn on_end(then: impl FnOnce(&'static str) + Send + 'static) -> io::Result<()> {
    let mut then = Some(then);
    on_each(move |name| {
        if let Some(then) = then.take() {
            then(name);
        }
    })
}

/// Ends the process at once: nothing that is registered for the end of a process is run.
pub(crate) fn leave_now(status: i32) -> ! {
    // SAFETY: takes no pointer and does not return; what it skips is what the caller wants skipped.
    unsafe { libc::_exit(status) }
}

/// Calls `then` with the name of each of the two signals that comes, on a thread of its own.
///
/// Must be called before the process has other threads: they inherit the mask that keeps the
/// signals for the waiting thread.
pub(crate) fn on_each(mut then: impl FnMut(&'static str) + Send + 'static) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set that it is given a valid pointer to and cannot
    // fail; `sigaddset` and `pthread_sigmask` then read and write initialised memory of this
    // frame, and a null old mask is allowed.
    let (set, blocked) = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        (set, libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))
    };
    if blocked != 0 {
        return Err(io::Error::from_raw_os_error(blocked));
    }
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        loop {
            let mut signal = 0;
            // SAFETY: both pointers are to initialised variables of this frame.
            while unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {}
            then(if signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" });
        }
    })?;
    Ok(())
}
