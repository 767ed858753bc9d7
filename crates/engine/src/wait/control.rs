//! What is said to the kernel of an epoll set.

use std::io;
use std::os::fd::RawFd;

use crate::sys::calls::calls;

pub(super) fn control(
    epfd: RawFd,
    op: i32,
    number: RawFd,
    events: u32,
    data: u64,
) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: `event` is valid for the call.
    let result = unsafe { (calls().epoll_ctl)(epfd, op, number, &raw mut event) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a file into a set from which its number was just taken. There was room and memory for it,
/// so a lack of them is another's who took them in between, and passes.
pub(super) fn add_again(set: RawFd, number: RawFd, events: u32, data: u64) -> io::Result<()> {
    const TRIES: usize = 20;
    let add = || control(set, libc::EPOLL_CTL_ADD, number, events, data);
    let lacks = |result: &io::Result<()>| {
        let error = result.as_ref().err().and_then(io::Error::raw_os_error);
        matches!(error, Some(libc::ENOMEM | libc::ENOSPC))
    };
    (1..TRIES).fold(add(), |last, _| if lacks(&last) { add() } else { last })
}
