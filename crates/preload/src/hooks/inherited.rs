//! Listeners that a program got from whoever started it, and calls no listen(2) on: systemd's
//! (LISTEN_FDS), the standard input of inetd's "wait", or any that came through an exec.
//!
//! The first two kinds are known by their numbers. They become virtual at the first call that waits
//! or duplicates one, and at a fork if the program has asked for their address or set anything. Not
//! before: a shell that only runs the real program would take the first clients with it. Any other
//! listener is looked at when it is put into an epoll set, or when the program accepts.

use std::ffi::CStr;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use eversock_engine::posix;
use libc::{c_char, c_int, pid_t};

use super::life::{begin_listening, config_for_listen};
use crate::early;
use crate::edge::{self, awake};
use crate::next::hook;
use crate::setup::setup;

/// The first number that LISTEN_FDS means (sd_listen_fds(3)).
const NAMED_FIRST: c_int = 3;
/// So many are looked at, whatever LISTEN_FDS says.
const NAMED_MAX: c_int = 1024;

/// How many numbers LISTEN_FDS gives this process. The program may remove it from its environment,
/// so it is read when the library is loaded.
static NAMED: AtomicI32 = AtomicI32::new(0);
/// The process that this memory was loaded or forked for: a child of vfork, which makes duplicates
/// for the program that it becomes, is another one.
static HOME: AtomicI32 = AtomicI32::new(0);
/// True once the numbers that are known have been looked at.
static SEEN: AtomicBool = AtomicBool::new(false);
/// True once the program has done something with one of them.
static KNOWN: AtomicBool = AtomicBool::new(false);
/// Numbers whose listeners blocked before a fork, a bit each: where a relative's engine has them by
/// now, their common file does not block any more.
static BLOCKED: AtomicU64 = AtomicU64::new(0);
/// Held while a listener becomes virtual: another thread must not accept from it meanwhile.
static CHANGING: Mutex<()> = Mutex::new(());
/// The thread that holds it, whose own calls (a signal handler's) must not wait for it.
static CHANGER: AtomicI32 = AtomicI32::new(0);

#[used]
// SAFETY: what libc calls at the start is a function, and this one needs nothing to be set up.
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

/// Reads two words of the environment, and leaves all else for later: other libraries have not
/// begun yet.
extern "C" fn at_start() {
    HOME.store(process(), Ordering::Relaxed);
    let is_meant = variable(c"LISTEN_PID") == Some(process());
    if let Some(count) = variable(c"LISTEN_FDS").filter(|_| is_meant) {
        NAMED.store(c_int::clamp(count, 0, NAMED_MAX), Ordering::Relaxed);
    }
}

fn process() -> pid_t {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn variable<T: FromStr>(name: &CStr) -> Option<T> {
    // SAFETY: the name ends with a NUL.
    let value: *const c_char = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: a string of the environment, which nobody changes while it is read.
    unsafe { CStr::from_ptr(value) }.to_str().ok()?.parse().ok()
}

fn named() -> std::ops::Range<c_int> {
    NAMED_FIRST..NAMED_FIRST + NAMED.load(Ordering::Relaxed)
}

/// A program waits, accepts or makes a process: what it has inherited becomes virtual if a rule
/// says so. One load, but for the first time.
#[inline]
pub(super) fn arrive() {
    if !SEEN.load(Ordering::Acquire) {
        look();
    }
}

/// True for the numbers that are looked at before anybody accepts from them.
#[inline]
fn is_awaited(number: c_int) -> bool {
    !SEEN.load(Ordering::Acquire) && (number == libc::STDIN_FILENO || named().contains(&number))
}

/// A number is about to be duplicated: the copies must be of what it becomes.
#[inline]
pub(super) fn before_dup(number: c_int) {
    let is_home = || HOME.load(Ordering::Relaxed) == process();
    if is_awaited(number) && !is_no_program() && posix::is_listening(number) && is_home() {
        changing(|| {
            // An error is told at accept, which tries again.
            let _later = change(number);
        });
    }
}

/// The program asks what a number is, or sets something: no shell does that.
#[inline]
pub(super) fn known(number: c_int) {
    // What we ask ourselves comes here too.
    let is_asked = || CHANGER.load(Ordering::Relaxed) != thread();
    if is_awaited(number) && !is_no_program() && posix::is_listening(number) && is_asked() {
        BLOCKED.fetch_and(!bit(number), Ordering::Relaxed);
        KNOWN.store(true, Ordering::Relaxed);
    }
}

/// A number's bit; none for high ones.
fn bit(number: c_int) -> u64 {
    1u64.checked_shl(number.unsigned_abs()).unwrap_or(0)
}

/// The program is about to fork. If it has shown that it knows its listeners, the child is to share
/// them: it would have listeners of its own else, whose clients wait although other processes are
/// free.
#[cold]
fn before_fork() {
    if KNOWN.load(Ordering::Relaxed) {
        return look();
    }
    for number in std::iter::once(libc::STDIN_FILENO).chain(named()) {
        if posix::is_listening(number) && posix::is_blocking(number) {
            BLOCKED.fetch_or(bit(number), Ordering::Relaxed);
        }
    }
}

#[cold]
fn look() {
    if is_no_program() {
        return;
    }
    let none = named().is_empty() && !posix::is_listening(libc::STDIN_FILENO);
    if !none {
        changing(|| {
            if !SEEN.load(Ordering::Acquire) {
                for number in std::iter::once(libc::STDIN_FILENO).chain(named()) {
                    // An error is told at accept, which tries again.
                    let _later = change(number);
                }
                SEEN.store(true, Ordering::Release);
            }
        });
        return;
    }
    SEEN.store(true, Ordering::Release);
}

/// Calls of the engine, and of a child that shares its parent's memory.
fn is_no_program() -> bool {
    eversock_engine::on_engine_thread() || edge::is_used() && edge::is_guest()
}

fn thread() -> pid_t {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::gettid() }
}

/// Runs `body` in one thread at a time, and not within itself.
fn changing(body: impl FnOnce()) {
    let me = thread();
    if CHANGER.load(Ordering::Relaxed) == me {
        return;
    }
    let before = edge::errno();
    let one = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    CHANGER.store(me, Ordering::Relaxed);
    body();
    CHANGER.store(0, Ordering::Relaxed);
    drop(one);
    edge::set_errno(before);
}

/// Makes the number virtual if it listens and a rule says so; -1 and errno if that fails.
fn change(number: c_int) -> c_int {
    let Some(backlog) = posix::listening_backlog(number) else { return 0 };
    if edge::is_ours(number) || early::stays_plain(number) {
        return 0;
    }
    match config_for_listen(number) {
        None => {
            early::note_plain(number);
            0
        }
        Some(config) => awake(|| {
            log::info!("the listener that was inherited as number {number} becomes virtual");
            let begun = begin_listening(number, backlog, config);
            begun.inspect_err(|error| {
                log::warn!("the listener at number {number} cannot become virtual: {error}");
            })?;
            if BLOCKED.load(Ordering::Relaxed) & bit(number) != 0 {
                posix::set_nonblocking(number, false)?;
            }
            Ok(0)
        }),
    }
}

/// A number that is not virtual is accepted from; -1 and errno if it should be and cannot.
pub(super) fn before_accept(number: c_int) -> c_int {
    arrive();
    before_wait(number)
}

/// A number that is not virtual is put into an epoll set; as above.
pub(super) fn before_wait(number: c_int) -> c_int {
    arrive();
    if early::stays_plain(number) || is_no_program() || !setup().has_listeners() {
        return 0;
    }
    if !posix::is_listening(number) {
        return 0;
    }
    let mut result = 0;
    let mut failure = 0;
    changing(|| {
        result = change(number);
        failure = edge::errno();
    });
    if result == -1 {
        edge::set_errno(failure);
    }
    result
}

hook! { next = fn fork() -> pid_t {
    if !SEEN.load(Ordering::Acquire) && !is_no_program() {
        before_fork();
    }
    let child = next();
    if child == 0 {
        HOME.store(process(), Ordering::Relaxed);
    }
    child
} }
