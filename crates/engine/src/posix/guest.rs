//! Reading and writing a relative's session by way of its pump.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{fail, number as number_of, would_block};
use crate::family::Link;
use crate::socket::Socket;
use crate::sys;

/// The pair says that it has ended: an error that the owner has told, or that its death is, or the
/// peer's end. The error is told once.
fn ended(socket: &Arc<Socket>, link: &Link, afterwards: Option<i32>) -> io::Result<usize> {
    match link.why_ended() {
        0 => {}
        number => {
            socket.set_failure(number);
        }
    }
    socket.failure(afterwards)?;
    Ok(0)
}

pub(super) fn send(
    socket: &Arc<Socket>,
    link: &Link,
    number: RawFd,
    slices: &[IoSlice<'_>],
    flags: i32,
) -> io::Result<usize> {
    let quiet = flags | libc::MSG_NOSIGNAL;
    let sent = if link.told().is_some_and(|number| number != 0) {
        // What the pair still took would reach nobody.
        fail(libc::EPIPE)
    } else {
        sys::io::send_as_is(number, slices, quiet)
    };
    match sent {
        Err(error) if matches!(number_of(&error), libc::EPIPE | libc::ECONNRESET) => {
            let result = ended(socket, link, Some(libc::EPIPE)).and_then(|_| fail(libc::EPIPE));
            let is_pipe = result.as_ref().is_err_and(|error| number_of(error) == libc::EPIPE);
            if is_pipe && flags & libc::MSG_NOSIGNAL == 0 {
                sys::process::raise_sigpipe();
            }
            result
        }
        result => result,
    }
}

pub(super) fn recv(
    socket: &Arc<Socket>,
    link: &Link,
    number: RawFd,
    slices: &mut [IoSliceMut<'_>],
    flags: i32,
) -> io::Result<usize> {
    let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
    let waits_for_more = flags & libc::MSG_WAITALL != 0 || socket.low_water.load(Ordering::Relaxed);
    let came = if waits_for_more {
        link.want_input(true);
        sys::io::recv_as_is(number, slices, flags)
    } else {
        // The owner is asked only where nothing is there: others may be who reads.
        match sys::io::recv_as_is(number, slices, flags | libc::MSG_DONTWAIT) {
            Err(error) if would_block(&error) && wanted > 0 => {
                let sleeps = flags & libc::MSG_DONTWAIT == 0;
                link.want_input(sleeps && !socket.nonblocking.load(Ordering::Relaxed));
                sys::io::recv_as_is(number, slices, flags)
            }
            at_once => at_once,
        }
    };
    match came {
        Ok(n) if n > 0 || wanted == 0 => {
            link.note_input();
            Ok(n)
        }
        Err(error) if number_of(&error) != libc::ECONNRESET => Err(error),
        _ => ended(socket, link, None),
    }
}
