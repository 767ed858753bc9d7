//! Descriptors that are sent to other processes over AF_UNIX (SCM_RIGHTS).
//!
//! A virtual stream that is sent becomes a pumped one first: the number is an ordinary socket from
//! then on, which any process may have, while the engine of this one copies. What cannot become
//! one (a listener, a duplicate, one that epoll watches) is refused: the receiver would get the
//! middle of a session.

use std::io;

use eversock_engine::posix;
use libc::{c_int, cmsghdr, msghdr};

use super::made::made;
use crate::edge::{self, fail};

/// Visits the numbers in a message's SCM_RIGHTS.
///
/// # Safety
/// `message` is valid, as for sendmsg(2) and recvmsg(2).
unsafe fn for_each_right(
    message: *const msghdr,
    mut visit: impl FnMut(c_int) -> io::Result<()>,
) -> io::Result<()> {
    // SAFETY: the caller's word, for each header that the macros find.
    unsafe {
        let mut header: *const cmsghdr = libc::CMSG_FIRSTHDR(message);
        while let Some(found) = header.as_ref() {
            let body = found.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
            if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_RIGHTS {
                let numbers = libc::CMSG_DATA(header).cast::<c_int>();
                for at in 0..body / size_of::<c_int>() {
                    visit(numbers.add(at).read_unaligned())?;
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    Ok(())
}

/// Before a message goes out through a descriptor that is not virtual.
///
/// # Safety
/// That of sendmsg(2).
pub(super) unsafe fn before_send(message: *const msghdr) -> io::Result<()> {
    // SAFETY: the caller's word.
    let has_control = |m: *const msghdr| unsafe { !(*m).msg_control.is_null() };
    if !edge::is_used() || message.is_null() || !has_control(message) || edge::is_guest() {
        return Ok(());
    }
    // SAFETY: as above.
    unsafe {
        for_each_right(message, |number| {
            if !edge::is_ours(number) {
                return Ok(());
            }
            posix::pump(number).or_else(|error| {
                log::warn!(
                    "a virtual socket cannot be sent to another process ({error}): it must be a \
                     connected stream without duplicates that is in no epoll set"
                );
                fail(libc::EOPNOTSUPP)
            })
        })
    }
}

/// After a message has come in through a descriptor that is not virtual.
///
/// # Safety
/// That of recvmsg(2).
pub(super) unsafe fn after_receive(message: *const msghdr) {
    // SAFETY: the caller's word; the kernel has filled it in.
    let has_control = |m: *const msghdr| unsafe { !(*m).msg_control.is_null() };
    if !message.is_null() && has_control(message) {
        // SAFETY: as above.
        let _all = unsafe {
            for_each_right(message, |number| {
                made(number);
                Ok(())
            })
        };
    }
}
