//! A blocking read that sleeps in the kernel and comes back with the bytes: one system call, as on
//! a plain socket.
//!
//! The thread is inside the read with no lock held, so what it brings must find the receiver as it
//! was: nobody else reads meanwhile (`Sleepers::leader`), and nobody changes the connection under
//! the number (`Sleepers::reading`); who wants to wakes the reader and comes back.

use std::io::{self, IoSliceMut};
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use eversock_proto::limits::HEADER_BYTES;
use eversock_proto::recv::Receiver;

use super::reads::{Read, ReadError};
use super::{Rx, Socket, bits};
use crate::error::{caught, fail, number as errno_of};
use crate::process;
use crate::sys::{self, process::Uncancelled};

/// Up to this many bytes are read in one piece with the header and copied, which costs less than a
/// scattered read.
const COPIED_MAX_BYTES: usize = 256;
/// Room for the smallest: to zero more costs more than the copy.
const TINY_BYTES: usize = 128;

/// Where a reader cannot sleep in the read itself.
const NOT_HERE: u32 = bits::STASH
    | bits::EOF
    | bits::FAILED
    | bits::CLOSED
    | bits::DETACHED
    | bits::DYING
    | bits::CONNECTING
    | bits::FRESH
    | bits::PUMPED
    | bits::GUESTS
    | bits::RETURNED;

/// What a leading read has brought.
pub(crate) enum Led {
    /// So many bytes; `more` unless the kernel's queue is known to be empty.
    Bytes { n: usize, more: bool },
    /// No sleeping in a read here and now: wait otherwise.
    NotHere,
}

impl Socket {
    /// Reads as the leader, asleep until something comes. `number` is what the program called with.
    pub(crate) fn read_leading(
        self: &Arc<Self>,
        number: RawFd,
        buf: &mut [u8],
        cancellation_point: bool,
    ) -> io::Result<Led> {
        let (mut ask, leading) = {
            let rx = self.lock_rx()?;
            let Some(receiver) = rx.receiver.as_ref() else { return Ok(Led::NotHere) };
            if rx.number < 0
                || !receiver.is_direct()
                || self.has(NOT_HERE)
                || !process::is_ours(self)
                || self.nonblocking.load(Ordering::Relaxed)
            {
                return Ok(Led::NotHere);
            }
            let ask = Ask::new(receiver, buf.len());
            if !self.sleepers.lead(true) {
                return Ok(Led::NotHere);
            }
            (ask, Leading { socket: self, epoch: rx.epoch, done: false })
        };
        let came = ask.read(number, buf, cancellation_point);
        // What may reach a cancellation point holds cancellation off for itself.
        caught(|| self.finish_leading(leading, &ask, buf, came))
    }

    fn finish_leading(
        self: &Arc<Self>,
        leading: Leading<'_>,
        ask: &Ask,
        buf: &mut [u8],
        came: io::Result<usize>,
    ) -> io::Result<Led> {
        let epoch = leading.epoch;
        let mut rx = self.lock_rx()?;
        if !self.sleepers.counts_what_came() {
            // Disowned: the session goes on, or ends, without what this has brought.
            leading.forget();
            return Ok(Led::NotHere);
        }
        let result = match came {
            Ok(0) => Err(ReadError::Ended),
            Ok(n) => self.take_led(&mut rx, epoch, ask, buf, n),
            Err(error) => Err(ReadError::Kernel(error)),
        };
        leading.end();
        match result {
            Ok(read) => {
                drop(rx);
                self.let_others_read();
                Ok(Led::Bytes { n: read.payload, more: read.more })
            }
            Err(ReadError::Kernel(error)) if is_the_calls(&error) => {
                drop(rx);
                self.let_others_read();
                // Not a fault of the connection. O_NONBLOCK may have been set a moment ago.
                if matches!(errno_of(&error), libc::EAGAIN | libc::ENOTSOCK) {
                    return Ok(Led::NotHere);
                }
                fail(errno_of(&error))
            }
            Err(error) => {
                let _uncancelled = Uncancelled::begin();
                rx.number = -1;
                self.condemn(epoch, &error);
                drop(rx);
                self.let_others_read();
                Ok(Led::NotHere)
            }
        }
    }

    fn take_led(
        self: &Arc<Self>,
        rx: &mut Rx,
        epoch: u64,
        ask: &Ask,
        buf: &mut [u8],
        n: usize,
    ) -> Result<Read, ReadError> {
        let Some(receiver) = rx.receiver.as_mut() else { return Err(ReadError::Ended) };
        let payload = ask.accept(receiver, buf, n)?;
        let more = n == ask.front + ask.space + ask.rest;
        rx.drained = !more;
        if self.is_noted(receiver) {
            return Ok(Read { payload, more });
        }
        let _uncancelled = Uncancelled::begin();
        self.after_input(receiver);
        if let Some(violation) = receiver.violation() {
            rx.number = -1;
            self.condemn(epoch, &violation.into());
        }
        Ok(Read { payload, more })
    }
}

/// One read: the rest of a frame, a header, and what follows.
struct Ask {
    front: usize,
    /// Bytes of the header that are still missing.
    space: usize,
    rest: usize,
    header: [u8; HEADER_BYTES],
}

impl Ask {
    fn new(receiver: &Receiver, room: usize) -> Self {
        let left = receiver.payload_left();
        let header = [0; HEADER_BYTES];
        if left > room {
            return Self { front: room, space: 0, rest: 0, header };
        }
        let space = HEADER_BYTES - receiver.header_so_far().len();
        Self { front: left, space, rest: room - left, header }
    }

    fn read(&mut self, number: RawFd, buf: &mut [u8], cancel: bool) -> io::Result<usize> {
        let space = &mut self.header[..self.space];
        if space.is_empty() {
            return sys::io::recv_blocking(number, &mut [IoSliceMut::new(buf)], cancel);
        }
        if self.front > 0 {
            let (front, rest) = buf.split_at_mut(self.front);
            let mut slices =
                [IoSliceMut::new(front), IoSliceMut::new(space), IoSliceMut::new(rest)];
            return sys::io::recv_blocking(number, &mut slices, cancel);
        }
        if buf.len() > COPIED_MAX_BYTES {
            let mut slices = [IoSliceMut::new(space), IoSliceMut::new(buf)];
            return sys::io::recv_blocking(number, &mut slices, cancel);
        }
        if HEADER_BYTES + buf.len() <= TINY_BYTES {
            return read_whole(number, space, buf, &mut [0; TINY_BYTES], cancel);
        }
        read_whole(number, space, buf, &mut [0; HEADER_BYTES + COPIED_MAX_BYTES], cancel)
    }

    fn accept(
        &self,
        receiver: &mut Receiver,
        buf: &mut [u8],
        n: usize,
    ) -> Result<usize, ReadError> {
        let head = n.saturating_sub(self.front).min(self.space);
        if head > 0 {
            receiver.header_space()[..head].copy_from_slice(&self.header[..head]);
        }
        Ok(receiver.accept(buf, self.front, n)?)
    }
}

/// Reads header and payload in one piece, and parts them.
#[inline]
fn read_whole(
    number: RawFd,
    space: &mut [u8],
    buf: &mut [u8],
    whole: &mut [u8],
    cancel: bool,
) -> io::Result<usize> {
    let whole = &mut whole[..space.len() + buf.len()];
    let n = sys::io::recv_blocking(number, &mut [IoSliceMut::new(whole)], cancel)?;
    let (head, payload) = whole[..n].split_at(n.min(space.len()));
    space[..head.len()].copy_from_slice(head);
    buf[..payload.len()].copy_from_slice(payload);
    Ok(n)
}

/// Who sleeps in the read. Dropped without [`Leading::end`], it has been unwound (thread
/// cancellation, a panic): what it may have read is lost to this process, so the connection is
/// given up and the peer sends it again.
struct Leading<'a> {
    socket: &'a Arc<Socket>,
    epoch: u64,
    done: bool,
}

impl Leading<'_> {
    /// The read is accounted for; those who waited for it look again. The caller holds the
    /// receiving lock, and hands over when it has let go of it.
    fn end(self) {
        self.socket.sleepers.stop_leading();
        self.forget();
    }

    fn forget(mut self) {
        self.done = true;
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let _uncancelled = Uncancelled::begin();
        // Nor does the kernel's count say anything any more: it is not somebody else who has read.
        let mut rx = self.socket.rx.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.socket.sleepers.counts_what_came() {
            return;
        }
        rx.counted = None;
        drop(rx);
        self.socket.fault(self.epoch, "a reader was ended in the middle of a read");
        self.socket.stop_leading();
    }
}

/// The one buffer that is still to be filled, if it is one and not empty.
pub(super) fn only_buffer<'a>(
    slices: &'a mut [IoSliceMut<'_>],
    mut done: usize,
) -> Option<&'a mut [u8]> {
    let mut found = None;
    for slice in slices {
        if done >= slice.len() {
            done -= slice.len();
            continue;
        }
        if found.is_some() {
            return None;
        }
        found = Some(&mut slice[std::mem::take(&mut done)..]);
    }
    found
}

/// True for what says something about the call rather than about the connection.
fn is_the_calls(error: &io::Error) -> bool {
    matches!(
        errno_of(error),
        libc::EINTR | libc::EAGAIN | libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::ENOMEM
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_unfilled_buffer_is_read_into_by_a_leader() {
        let (mut a, mut b) = ([0; 4], [0; 3]);
        let mut two = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        assert!(only_buffer(&mut two, 0).is_none(), "both are unfilled");
        assert!(only_buffer(&mut two, 3).is_none(), "both are unfilled still");
        assert_eq!(only_buffer(&mut two, 4).map(|buf| buf.len()), Some(3));
        assert_eq!(only_buffer(&mut two, 6).map(|buf| buf.len()), Some(1));
        assert!(only_buffer(&mut two, 7).is_none(), "all is filled");
    }
}
