//! Waiting, as C asks for it: arrays of `pollfd`, sets of bits, time-outs in three forms.

use std::io;
use std::time::{Duration, Instant};

use libc::{c_int, epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};

use super::memory;
use crate::error::fail;
use crate::posix;

/// One call reports at most this many events; the next call reports the others.
const EVENTS_MAX: usize = 1024;
/// Bits of one word of an `fd_set`.
pub const WORD_BITS: usize = 64;

/// So many descriptors are no burden, whatever the limit is: the kernel checks what it is given.
const FEW: usize = 1024;

/// How many descriptors this process may have, which bounds what it can wait for.
fn descriptors_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// A time-out in milliseconds; negative means none.
pub fn from_millis(ms: c_int) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}

/// A time-out that may be NULL, which means none.
///
/// # Errors
/// EINVAL as the kernel gives it.
///
/// # Safety
/// `timeout` is NULL or readable.
pub unsafe fn from_timespec(timeout: *const timespec) -> io::Result<Option<Duration>> {
    if timeout.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's word.
    let given = unsafe { memory::read(timeout)? };
    match (u64::try_from(given.tv_sec), u32::try_from(given.tv_nsec)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => {
            Ok(Some(Duration::new(seconds.min(u64::from(u32::MAX)), nanos)))
        }
        _ => fail(libc::EINVAL),
    }
}

/// # Safety
/// `timeout` is NULL or readable.
unsafe fn from_timeval(timeout: *const timeval) -> io::Result<Option<Duration>> {
    if timeout.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's word.
    let given = unsafe { memory::read(timeout)? };
    match (u64::try_from(given.tv_sec), u64::try_from(given.tv_usec)) {
        (Ok(seconds), Ok(micros)) => {
            let seconds = Duration::from_secs(seconds.min(u64::from(u32::MAX)));
            Ok(Some(seconds + Duration::from_micros(micros)))
        }
        _ => fail(libc::EINVAL),
    }
}

fn count(ready: usize) -> c_int {
    c_int::try_from(ready).unwrap_or(c_int::MAX)
}

/// ppoll(2).
///
/// # Safety
/// `fds` is NULL or an array of `number`; `mask` is NULL or valid.
pub unsafe fn poll(
    fds: *mut pollfd,
    number: nfds_t,
    timeout: Option<Duration>,
    mask: *const sigset_t,
) -> io::Result<c_int> {
    let number = usize::try_from(number).unwrap_or(usize::MAX);
    if number > FEW && number > descriptors_max() {
        return fail(libc::EINVAL);
    }
    // SAFETY: the caller's word.
    let fds = unsafe { memory::array_mut(fds, number)? };
    posix::poll(fds, timeout, mask).map(count)
}

/// Copies a set's first words: two arguments may be the same set.
///
/// # Safety
/// `set` has as many words as `copy`.
unsafe fn load(set: *const fd_set, copy: &mut [u64]) -> io::Result<()> {
    // SAFETY: the caller's word.
    let bytes = unsafe { memory::bytes(set.cast(), copy.len() * 8)? };
    for (word, bytes) in copy.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    }
    Ok(())
}

/// # Safety
/// `set` has that many words.
unsafe fn store(set: *mut fd_set, words: &[u64]) -> io::Result<()> {
    // SAFETY: the caller's word.
    let bytes = unsafe { memory::bytes_mut(set.cast(), words.len() * 8)? };
    for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ok(())
}

/// pselect(2).
///
/// # Safety
/// The sets are NULL or have room for `number` bits; `mask` is NULL or valid.
pub unsafe fn select(
    number: c_int,
    sets: [*mut fd_set; 3],
    timeout: Option<Duration>,
    mask: *const sigset_t,
) -> io::Result<c_int> {
    let mut number = memory::not_negative(number)?;
    if number > FEW {
        number = number.min(descriptors_max());
    }
    let words = number.div_ceil(WORD_BITS);
    // No allocation, which a handler could interrupt, but for more than fd_set has room for.
    let mut few = [[0; FEW / WORD_BITS]; 3];
    let mut many = [const { Vec::new() }; 3];
    if words > FEW / WORD_BITS {
        many = std::array::from_fn(|_| vec![0; words]);
    }
    let mut copies: [Option<&mut [u64]>; 3] = [const { None }; 3];
    let room = few.iter_mut().zip(&mut many);
    for ((copy, set), (few, many)) in copies.iter_mut().zip(sets).zip(room) {
        if set.is_null() {
            continue;
        }
        let words = if many.is_empty() { &mut few[..words] } else { &mut many[..] };
        // SAFETY: the caller's word.
        unsafe { load(set, words)? };
        *copy = Some(words);
    }
    let [read, write, except] = &mut copies;
    let given = [read.as_deref_mut(), write.as_deref_mut(), except.as_deref_mut()];
    let ready = posix::select(number, given, timeout, mask)?;
    for (copy, set) in copies.iter().zip(sets) {
        let Some(words) = copy else { continue };
        // SAFETY: the caller's word.
        unsafe { store(set, words)? };
    }
    Ok(count(ready))
}

/// select(2): as on Linux, `*timeout` is left with the time that was not used.
///
/// # Safety
/// The sets are NULL or have room for `number` bits; `timeout` is NULL or valid.
pub unsafe fn select_within(
    number: c_int,
    sets: [*mut fd_set; 3],
    timeout: *mut timeval,
) -> io::Result<c_int> {
    // SAFETY: the caller's word.
    let given = unsafe { from_timeval(timeout)? };
    let began = Instant::now();
    // SAFETY: as above.
    let result = unsafe { select(number, sets, given, std::ptr::null()) };
    if let Some(given) = given {
        let left = given.saturating_sub(began.elapsed());
        let tv_sec = libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX);
        let left = timeval { tv_sec, tv_usec: left.subsec_micros().into() };
        // SAFETY: not NULL, so valid by the caller's word.
        unsafe { memory::write(timeout, left)? };
    }
    result
}

/// epoll_ctl(2) on a virtual number.
///
/// # Safety
/// `event` is NULL or readable.
pub unsafe fn epoll_ctl(
    epfd: c_int,
    op: c_int,
    number: c_int,
    event: *const epoll_event,
) -> io::Result<c_int> {
    if epfd < 0 {
        return fail(libc::EBADF);
    }
    let event = match op {
        libc::EPOLL_CTL_DEL => None,
        // SAFETY: the caller's word.
        _ => Some(unsafe { memory::read(event)? }),
    };
    posix::epoll_ctl(epfd, op, number, event).map(|()| 0)
}

/// epoll_pwait(2).
///
/// # Safety
/// `events` is NULL or writable for `most`; `mask` is NULL or valid.
pub unsafe fn epoll_wait(
    epfd: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: Option<Duration>,
    mask: *const sigset_t,
) -> io::Result<c_int> {
    let most = usize::try_from(most).unwrap_or(0);
    if most == 0 || most > c_int::MAX as usize / size_of::<epoll_event>() {
        return fail(libc::EINVAL);
    }
    // SAFETY: the caller's word.
    let events = unsafe { memory::array_mut(events, most.min(EVENTS_MAX))? };
    posix::epoll_wait(epfd, events, timeout, mask).map(count)
}
