//! Fork and exit hooks, memory that is shared with children, SIGPIPE.

use std::io;
use std::sync::atomic::AtomicU64;

/// Registers what runs around fork(2).
pub(crate) fn at_fork(
    prepare: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
) -> io::Result<()> {
    // SAFETY: the three are functions of ours that stay for the life of the program.
    let result = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Registers what runs at a normal exit.
pub(crate) fn at_exit(hook: extern "C" fn()) {
    // SAFETY: a function of ours that stays for the life of the program.
    let _full = unsafe { libc::atexit(hook) };
}

/// The user as whom this process acts.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// True when all handlers of this process ask for interrupted calls to be restarted. Which signal
/// it was that interrupted one cannot be told; where handlers differ the call is interrupted, for
/// which a program that has such handlers is prepared.
pub(crate) fn handlers_restart() -> bool {
    // Raised by the thread itself, and never while it sleeps: Rust's own do not ask.
    let own = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
    (1..=libc::SIGRTMAX()).filter(|number| !own.contains(number)).all(|number| {
        // SAFETY: sigaction is plain numbers and an optional function, for which zeros are a value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: nothing is set; `action` is writable. libc refuses the numbers that are its own.
        let known = unsafe { libc::sigaction(number, std::ptr::null(), &raw mut action) } == 0;
        let is_default = matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN);
        !known || is_default || action.sa_flags & libc::SA_RESTART != 0
    })
}

/// Raises SIGPIPE in the calling thread, as a write without MSG_NOSIGNAL does.
pub(crate) fn raise_sigpipe() {
    // SAFETY: raising a signal in one's own thread.
    unsafe {
        libc::raise(libc::SIGPIPE);
    }
}

/// While it lives, the calling thread is not cancelled: what asks for its end meanwhile is kept.
#[derive(Debug)]
pub struct Uncancelled(libc::c_int);

impl Uncancelled {
    /// From here on.
    pub fn begin() -> Self {
        let mut before = ENABLE;
        // SAFETY: writes the state that was to a local of ours.
        unsafe { pthread_setcancelstate(DISABLE, &raw mut before) };
        Self(before)
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: a state that the function itself has given.
        unsafe { pthread_setcancelstate(self.0, std::ptr::null_mut()) };
    }
}

/// PTHREAD_CANCEL_ENABLE and PTHREAD_CANCEL_DISABLE, of glibc and musl.
const ENABLE: libc::c_int = 0;
const DISABLE: libc::c_int = 1;

// Not in the libc crate for Linux.
unsafe extern "C" {
    fn pthread_setcancelstate(state: libc::c_int, before: *mut libc::c_int) -> libc::c_int;
}

/// Blocks all signals in the calling thread but those that glibc itself needs.
pub(crate) fn block_signals() {
    // SAFETY: the set is initialised before use; pthread_sigmask leaves 32 and 33 alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// No handler of the program runs in the calling thread as long as this lives, but for the signals
/// of its own faults: they wait until a call into the kernel is given [`SignalsHeld::unless`], or
/// the end.
///
/// Waits are where a program lets its signals in, and a handler that interrupts one may do what it
/// likes, as it interrupts a system call and nothing else. PostgreSQL's postmaster (up to 15) forks
/// there: in the middle of an allocation of ours that waited for ever for the allocator's lock.
#[derive(Debug)]
pub(crate) struct SignalsHeld {
    before: libc::sigset_t,
}

impl SignalsHeld {
    pub(crate) fn begin() -> Self {
        // SAFETY: both sets are initialised before use; pthread_sigmask leaves 32 and 33 alone.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            let own = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
            for signal in own.into_iter().chain([libc::SIGSYS, libc::SIGABRT]) {
                libc::sigdelset(&raw mut all, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
            Self { before }
        }
    }

    /// The mask to wait with: the caller's, or that of before.
    pub(crate) fn unless(&self, mask: *const libc::sigset_t) -> *const libc::sigset_t {
        if mask.is_null() { &raw const self.before } else { mask }
    }
}

impl Drop for SignalsHeld {
    fn drop(&mut self) {
        // SAFETY: the set is what pthread_sigmask gave.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

/// Words in a page that children share.
const WORDS: usize = 512;

/// Maps a page of zeroed words that parent and children share.
pub(crate) fn shared_words() -> io::Result<&'static [AtomicU64; WORDS]> {
    use rustix::mm::{MapFlags, ProtFlags};
    let length = WORDS * size_of::<AtomicU64>();
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh anonymous mapping aliases nothing.
    let page = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, prot, MapFlags::SHARED)?
    };
    // SAFETY: page-aligned, zeroed, never unmapped, and all access is atomic.
    Ok(unsafe { &*page.cast::<[AtomicU64; WORDS]>() })
}
