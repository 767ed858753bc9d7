//! One read of a connection, in the ways that there are.

use std::io::{self, IoSliceMut};
use std::os::fd::RawFd;

use eversock_proto::recv::{Receiver, Violation};

use crate::error::errno;
use crate::sys;

/// Bytes that one read-ahead asks of the kernel.
pub(super) const READ_AHEAD_BYTES: usize = 16 * 1024;

pub(crate) struct Read {
    pub(crate) payload: usize,
    pub(crate) more: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the connection was closed")]
    Ended,
    #[error(transparent)]
    Kernel(io::Error),
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// One scattered read: payload of the current frame, the next header, and what follows.
pub(super) fn read_direct(
    receiver: &mut Receiver,
    from: RawFd,
    buf: &mut [u8],
) -> Result<Read, ReadError> {
    let left = receiver.payload_left();
    let front = left.min(buf.len());
    if left > buf.len() {
        let n = sys::io::recv_one(from, buf).map_err(ReadError::Kernel)?;
        if n == 0 {
            return Err(ReadError::Ended);
        }
        let payload = receiver.accept(buf, front, n)?;
        return Ok(Read { payload, more: n == buf.len() });
    }
    let (first, rest) = buf.split_at_mut(front);
    let space = receiver.header_space();
    let asked = first.len() + space.len() + rest.len();
    let n = if first.is_empty() {
        sys::io::recv(from, &mut [IoSliceMut::new(space), IoSliceMut::new(rest)])
    } else {
        sys::io::recv(
            from,
            &mut [IoSliceMut::new(first), IoSliceMut::new(space), IoSliceMut::new(rest)],
        )
    }
    .map_err(ReadError::Kernel)?;
    if n == 0 {
        return Err(ReadError::Ended);
    }
    let payload = receiver.accept(buf, front, n)?;
    Ok(Read { payload, more: n == asked })
}

/// One read of a sealed connection: records into a buffer of the receiver's own, as they count only
/// when they are whole, and their payload into the program's; what it does not hold goes to the
/// stash.
pub(super) fn read_records(
    receiver: &mut Receiver,
    from: RawFd,
    buf: &mut [u8],
) -> Result<Read, ReadError> {
    let space = receiver.record_space();
    let asked = space.len();
    let n = sys::io::recv_one(from, space).map_err(ReadError::Kernel)?;
    if n == 0 {
        return Err(ReadError::Ended);
    }
    let payload = receiver.accept_records(n, buf)?;
    Ok(Read { payload, more: n == asked })
}

/// Reads into the stash.
pub(super) fn read_stashing(receiver: &mut Receiver, from: RawFd) -> Result<Read, ReadError> {
    if receiver.is_sealed() {
        return read_records(receiver, from, &mut []);
    }
    let mut scratch = [0; READ_AHEAD_BYTES];
    let n = sys::io::recv_one(from, &mut scratch).map_err(ReadError::Kernel)?;
    if n == 0 {
        return Err(ReadError::Ended);
    }
    receiver.feed(&scratch[..n])?;
    Ok(Read { payload: 0, more: n == READ_AHEAD_BYTES })
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Kernel(error) => error,
            ReadError::Ended | ReadError::Violation(_) => errno(libc::ECONNRESET),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_error_keeps_its_number() {
        let error = io::Error::from(ReadError::Kernel(errno(libc::ETIMEDOUT)));
        assert_eq!(crate::error::number(&error), libc::ETIMEDOUT);
    }
}
