//! Passing descriptors over AF_UNIX sockets, and knowing who passes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::fd::{Fd, borrow};

/// Sends one message with at most one descriptor, without blocking.
pub(crate) fn send(number: RawFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        let pushed = control.push(SendAncillaryMessage::ScmRights(&fds));
        debug_assert!(pushed);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(borrow(number), &[IoSlice::new(bytes)], &mut control, flags)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one message and at most one descriptor. `flags` may be empty to block as the file does.
pub(crate) fn recv(
    number: RawFd,
    buf: &mut [u8],
    dont_wait: bool,
) -> io::Result<(usize, Option<Fd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if dont_wait {
        flags |= RecvFlags::DONTWAIT;
    }
    let message =
        rustix::net::recvmsg(borrow(number), &mut [IoSliceMut::new(buf)], &mut control, flags)?;
    let mut first = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            // More than one is nothing that we send; the others are closed here.
            for fd in fds {
                first.get_or_insert(fd);
            }
        }
    }
    Ok((message.bytes, first))
}

/// True when the process at the other end runs as the same user.
pub(crate) fn is_same_user(fd: &impl AsFd) -> bool {
    let ours = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(fd).is_ok_and(|cred| cred.uid == ours)
}
