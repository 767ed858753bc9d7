//! Descriptors: owning, duplicating, identifying, waking.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use std::sync::atomic::{AtomicU64, Ordering};

use super::calls::calls;
use crate::error::is_shortage;
use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::io::{DupFlags, FdFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::time::Duration;

/// A descriptor of the engine's own. Its number is known to be that until it is closed or given
/// away.
#[derive(Debug)]
pub(crate) struct Fd(OwnedFd);

impl Drop for Fd {
    fn drop(&mut self) {
        // Before the close, after which the number may be the program's.
        forget_own(self.0.as_raw_fd());
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Fd> for OwnedFd {
    fn from(fd: Fd) -> Self {
        // SAFETY: the number has left its owner.
        unsafe { Self::from_raw_fd(fd.into_raw_fd()) }
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl IntoRawFd for Fd {
    fn into_raw_fd(self) -> RawFd {
        let given_away = std::mem::ManuallyDrop::new(self);
        forget_own(given_away.as_raw_fd());
        given_away.as_raw_fd()
    }
}

/// Internal descriptors live from here on, so that the program's stay low, but below 1024, as
/// several programs still use select.
const INTERNAL_FROM: RawFd = 512;

/// Lends a number for one system call.
pub(crate) fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    debug_assert!(number >= 0);
    // SAFETY: the number is never -1, and a number that was closed meanwhile makes the system call
    // fail with EBADF; nothing here relies on which file it names without checking.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// The same for a number that the program says, which may be none.
pub(crate) fn open<'a>(number: RawFd) -> io::Result<BorrowedFd<'a>> {
    if number < 0 { Err(io::Error::from_raw_os_error(libc::EBADF)) } else { Ok(borrow(number)) }
}

/// Takes a number into ownership.
pub(crate) fn own(number: RawFd) -> Fd {
    debug_assert!(number >= 0);
    // SAFETY: callers pass a number that they alone are responsible for closing.
    unsafe { OwnedFd::from_raw_fd(number) }.into()
}

/// Duplicates to an internal, close-on-exec number.
pub(crate) fn dup_internal(number: RawFd) -> io::Result<Fd> {
    let fd = match rustix::io::fcntl_dupfd_cloexec(borrow(number), INTERNAL_FROM) {
        Ok(fd) => fd,
        // A low limit on open files: any number will do.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::MFILE) => {
            rustix::io::fcntl_dupfd_cloexec(borrow(number), 3)?
        }
        Err(error) => return Err(error.into()),
    };
    note_own(fd.as_raw_fd());
    Ok(fd.into())
}

const WORD_BITS: usize = 64;
const WORDS: usize = 1024;

/// The numbers that are the engine's own.
static OWN: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// Notes a number as the engine's own, for programs that close all numbers they do not know.
pub(crate) fn note_own(number: RawFd) {
    let number = number.unsigned_abs() as usize;
    if let Some(word) = OWN.get(number / WORD_BITS) {
        word.fetch_or(1 << (number % WORD_BITS), Ordering::Relaxed);
    }
}

/// The number is about to be closed, or somebody else's.
pub(crate) fn forget_own(number: RawFd) {
    let number = number.unsigned_abs() as usize;
    if let Some(word) = OWN.get(number / WORD_BITS) {
        word.fetch_and(!(1 << (number % WORD_BITS)), Ordering::Relaxed);
    }
}

/// Of these the numbers that no child is to have a copy of.
static KEPT: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// Notes a number of which children lose their copy.
pub(crate) fn note_kept(number: RawFd) {
    let number = number.unsigned_abs() as usize;
    if let Some(word) = KEPT.get(number / WORD_BITS) {
        word.fetch_or(1 << (number % WORD_BITS), Ordering::Relaxed);
    }
}

/// The number is about to be closed.
pub(crate) fn forget_kept(number: RawFd) {
    let number = number.unsigned_abs() as usize;
    if let Some(word) = KEPT.get(number / WORD_BITS) {
        word.fetch_and(!(1 << (number % WORD_BITS)), Ordering::Relaxed);
    }
}

/// In a child: closes the copies. Nobody else runs here yet.
pub(crate) fn close_kept() {
    for (at, word) in KEPT.iter().enumerate() {
        let mut bits = word.swap(0, Ordering::Relaxed);
        while bits != 0 {
            let number = at * WORD_BITS + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let number = RawFd::try_from(number).unwrap_or(RawFd::MAX);
            // A mark may outlive its descriptor by a moment; what is the program's is not closed.
            if is_own(number) {
                forget_own(number);
                close_silently(number);
            }
        }
    }
}

/// Closes one of the engine's own numbers, which no [`Fd`] will close.
pub(crate) fn close_own(number: RawFd) {
    forget_own(number);
    forget_kept(number);
    close(number);
}

/// True when the number is the engine's own: one load when it is not. One that was closed past
/// everybody and is the program's by now counts only if the program closes it on exec, as the
/// engine does.
pub(crate) fn is_own(number: RawFd) -> bool {
    let at = number.unsigned_abs() as usize;
    let word = OWN.get(at / WORD_BITS).map_or(0, |word| word.load(Ordering::Relaxed));
    number >= 0 && word & 1 << (at % WORD_BITS) != 0 && is_still_own(number)
}

fn is_still_own(number: RawFd) -> bool {
    let is_ours = match crate::table::get(number) {
        None => true,
        Some(crate::table::Entry::Stream(socket)) => socket.config.private,
        Some(crate::table::Entry::Listener(_)) => false,
    };
    is_ours && is_cloexec(number).unwrap_or(false)
}

/// Visits the numbers that are the engine's own.
pub(crate) fn for_each_own(mut visit: impl FnMut(RawFd)) {
    for (at, word) in OWN.iter().enumerate() {
        let mut bits = word.load(Ordering::Relaxed);
        while bits != 0 {
            let number = at * WORD_BITS + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let number = RawFd::try_from(number).unwrap_or(RawFd::MAX);
            if is_still_own(number) {
                visit(number);
            }
        }
    }
}

/// Moves a descriptor, which is close-on-exec, to an internal number. When there is no other number
/// left it stays where it is: a connection that was accepted with the last one was reset for that.
pub(crate) fn internal(fd: impl Into<Fd>) -> io::Result<Fd> {
    let fd = fd.into();
    if fd.as_raw_fd() < INTERNAL_FROM {
        match dup_internal(fd.as_raw_fd()) {
            Err(error) if is_shortage(&error) => {}
            moved => return moved,
        }
    }
    note_own(fd.as_raw_fd());
    Ok(fd)
}

/// Puts the file of `from` under `number`, closing what was there.
pub(crate) fn replace(from: BorrowedFd<'_>, number: RawFd, cloexec: bool) -> io::Result<()> {
    // SAFETY: the number is the program's and stays so, whatever happens: it is never dropped.
    let mut target = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    let flags = if cloexec { DupFlags::CLOEXEC } else { DupFlags::empty() };
    let result = rustix::io::dup3(from, &mut target, flags);
    Ok(result?)
}

/// Closes a number.
pub(crate) fn close(number: RawFd) {
    drop(own(number));
}

/// Closes a number past whoever has interposed libc's name: where locks are held that they take.
pub(crate) fn close_silently(number: RawFd) {
    let _gone = close_reporting(number);
}

/// Closes a number as the program asked; its error is the program's.
pub(crate) fn close_reporting(number: RawFd) -> io::Result<()> {
    // SAFETY: closing a number is memory-safe; the program owns it.
    if unsafe { (calls().close)(number) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What tells one open file from another: device and inode.
pub(crate) fn identity(number: RawFd) -> io::Result<(u64, u64)> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    let stat = rustix::fs::fstat(borrow(number))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// True when the number is closed on exec.
pub(crate) fn is_cloexec(number: RawFd) -> io::Result<bool> {
    Ok(rustix::io::fcntl_getfd(borrow(number))?.contains(FdFlags::CLOEXEC))
}

/// True when the file is non-blocking.
pub(crate) fn is_nonblocking(number: RawFd) -> io::Result<bool> {
    Ok(rustix::fs::fcntl_getfl(borrow(number))?.contains(OFlags::NONBLOCK))
}

/// Makes the file non-blocking or blocking.
pub(crate) fn set_nonblocking(number: RawFd, on: bool) -> io::Result<()> {
    // One system call, where the flags would have to be read first.
    Ok(rustix::io::ioctl_fionbio(borrow(number), on)?)
}

/// A counter that wakes those who poll it.
pub(crate) fn eventfd() -> io::Result<Fd> {
    let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    internal(fd)
}

/// Wakes the pollers of an eventfd.
pub(crate) fn notify(eventfd: RawFd) {
    // The counter can be full only if nobody has read 2^64 notices; they are awake then.
    let _full = rustix::io::write(borrow(eventfd), &1u64.to_ne_bytes());
}

/// A timer that is not set.
pub(crate) fn timer() -> io::Result<Fd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    internal(rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?)
}

/// Has a timer become readable again and again after this time; never, if it is none.
pub(crate) fn set_timer(timer: RawFd, every: Duration) -> io::Result<()> {
    let tv_nsec = every.subsec_nanos().into();
    let every = Timespec { tv_sec: every.as_secs().cast_signed(), tv_nsec };
    let times = Itimerspec { it_interval: every, it_value: every };
    rustix::time::timerfd_settime(borrow(timer), TimerfdTimerFlags::empty(), &times)?;
    Ok(())
}

/// Takes the notices of an eventfd.
pub(crate) fn drain_notices(eventfd: RawFd) {
    let mut counter = [0; 8];
    let _empty = rustix::io::read(borrow(eventfd), &mut counter);
}

/// A pair of connected AF_UNIX sockets, both internal.
pub(crate) fn unix_pair(kind: SocketType) -> io::Result<(Fd, Fd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
    Ok((internal(a)?, internal(b)?))
}

/// A pair of which the first end is to stand under a number of the program's, and blocks as the
/// program wants. The engine's end never makes it wait, as all calls on it say so.
///
/// Until it stands there it lies high as all that is internal: the lowest free number is the
/// program's next, and a child of a fork would keep the mark of ours on a number that is not.
pub(crate) fn stand_in(nonblocking: bool) -> io::Result<(Fd, Fd)> {
    let flags = if nonblocking { SocketFlags::NONBLOCK } else { SocketFlags::empty() };
    let flags = SocketFlags::CLOEXEC | flags;
    let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok((internal(a)?, internal(b)?))
}

/// Fresh randomness from the kernel.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    let mut filled = 0;
    while filled < N {
        let rest = &mut out[filled..];
        // SAFETY: the pointer and length describe `rest`, which is writable.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        if n > 0 {
            filled += n.unsigned_abs();
        }
    }
    out
}

/// Fresh randomness as a number.
pub(crate) fn random_u64() -> u64 {
    u64::from_ne_bytes(random())
}

static JITTER: AtomicU64 = AtomicU64::new(0);

/// Gives [`jitter`] its seed: once for each process, as relatives that dial together are to come
/// back at different times.
pub(crate) fn seed_jitter() {
    JITTER.store(random_u64(), Ordering::Relaxed);
}

/// A number for back-offs and lots, which no one needs to be unable to guess: without a system
/// call for each (splitmix64 behind a seed from the kernel).
pub(crate) fn jitter() -> u64 {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut mixed = JITTER.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
