//! Passing descriptors over AF_UNIX sockets, and knowing who passes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::fd::{Fd, borrow};

/// Descriptors that one message carries at most.
const FDS_MAX: usize = 4;

/// Sends one message with a few descriptors, without blocking.
pub(crate) fn send(number: RawFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let pushed = control.push(SendAncillaryMessage::ScmRights(fds));
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
    let (n, fds) = recv_all(number, buf, dont_wait)?;
    // More than one is nothing that we send here; the others are closed.
    Ok((n, fds.into_iter().next()))
}

/// Receives one message with all its descriptors.
pub(crate) fn recv_all(
    number: RawFd,
    buf: &mut [u8],
    dont_wait: bool,
) -> io::Result<(usize, Vec<Fd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if dont_wait {
        flags |= RecvFlags::DONTWAIT;
    }
    let message =
        rustix::net::recvmsg(borrow(number), &mut [IoSliceMut::new(buf)], &mut control, flags)?;
    let mut all = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            all.extend(fds.map(Fd::from));
        }
    }
    Ok((message.bytes, all))
}

/// The user of the process at the other end: who connected, or who listened.
pub(crate) fn peer_user(fd: &impl AsFd) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(fd)?.uid.as_raw())
}

/// True when the process at the other end runs as the same user.
pub(crate) fn is_same_user(fd: &impl AsFd) -> bool {
    let ours = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(fd).is_ok_and(|cred| cred.uid == ours)
}

/// True when connections may be passed to or taken from the process at the other end: it runs as
/// the same user, or one of the two is root, as a server that gives up its rights in its workers.
pub(crate) fn may_be_passed(fd: &impl AsFd) -> bool {
    let ours = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(fd)
        .is_ok_and(|cred| cred.uid == ours || cred.uid.is_root() || ours.is_root())
}
