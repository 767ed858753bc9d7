//! A number and its socket together, for who owns the number and calls often.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::RawFd;
use std::sync::Arc;

use super::{recv_on, send_on, stream};
use crate::socket::Socket;

/// A virtual stream that need not be looked up for each call. It does not keep the number open: who
/// has it closes the number, as with any other, and calls no more.
#[derive(Clone, Debug)]
pub struct Handle {
    number: RawFd,
    socket: Arc<Socket>,
}

impl Handle {
    /// The stream at `number`; ENOTSOCK or EBADF when there is none, ENOTCONN for a listener.
    pub fn of(number: RawFd) -> io::Result<Self> {
        Ok(Self { number, socket: stream(number)? })
    }

    /// The number.
    pub fn number(&self) -> RawFd {
        self.number
    }

    /// As [`send`](super::send).
    pub fn send(&self, slices: &[IoSlice<'_>], flags: i32) -> io::Result<usize> {
        send_on(&self.socket, self.number, slices, flags)
    }

    /// As [`recv`](super::recv), but no cancellation point: Rust code does not expect to be unwound
    /// there.
    pub fn recv(&self, slices: &mut [IoSliceMut<'_>], flags: i32) -> io::Result<usize> {
        recv_on(&self.socket, self.number, slices, flags, false)
    }
}
