//! One logical connection: an ordinary descriptor of the program's on one side, a stream of the
//! multiplexer on the other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::mux::Mux;

/// Bytes of a stream that nobody has accepted yet, kept to be said again elsewhere if its server
/// turns out to be the wrong one; more is not read before.
pub(super) const HELD_MAX: usize = 64 * 1024;

/// What a pipe does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// It waits for one of its sides.
    Waits,
    /// Both directions have ended, and all of it is where it belongs.
    Done,
    /// The program has left, with bytes to come for it: the stream is reset.
    Left,
}

/// A descriptor and its stream.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) far: OwnedFd,
    stream: u32,
    /// The number by which the owner knows it.
    pub(super) connection: u64,
    /// The kernel may have something, or room.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The program has ended its direction.
    read_done: bool,
    /// The program has been told of the stream's end.
    write_done: bool,
    /// What came for the program and found no room.
    pending: Vec<u8>,
    at: usize,
    /// Bytes that come out of the descriptor first and are nobody's: they kept it from looking
    /// connected.
    skip: usize,
    /// What the program has written, until the stream is accepted.
    held: Option<Vec<u8>>,
}

impl Pipe {
    /// `held`: bytes that go first, by a client that keeps them until the stream is accepted.
    pub(super) fn new(
        far: OwnedFd,
        skip: usize,
        stream: u32,
        connection: u64,
        held: Option<Vec<u8>>,
    ) -> Self {
        Self {
            far,
            stream,
            connection,
            readable: true,
            writable: true,
            read_done: false,
            write_done: false,
            pending: Vec::new(),
            at: 0,
            skip,
            held,
        }
    }

    /// The peer has accepted the stream: it is the right one.
    pub(super) fn accepted(&mut self) {
        self.held = None;
    }

    /// What to say again elsewhere, and whether nothing more is to follow; none when the peer has
    /// accepted the stream.
    pub(super) fn into_held(self) -> Option<(OwnedFd, Vec<u8>)> {
        let held = self.held?;
        Some((self.far, held))
    }

    /// Moves what can be moved, at most `budget` bytes each way. True in the second place when
    /// there may be more.
    pub(super) fn turn(
        &mut self,
        mux: &mut Mux,
        buf: &mut [u8],
        budget: usize,
        now: u64,
    ) -> (Flow, bool) {
        let (mut flow, more_in) = self.pull(mux, buf, budget);
        let mut more = more_in;
        if flow == Flow::Waits {
            (flow, more) = self.push(mux, buf, budget, now);
            more |= more_in;
        }
        if flow == Flow::Waits && self.read_done && self.write_done {
            flow = Flow::Done;
        }
        (flow, more)
    }

    /// From the program to the stream.
    fn pull(&mut self, mux: &mut Mux, buf: &mut [u8], budget: usize) -> (Flow, bool) {
        let mut moved = 0;
        if self.skip > 0 && !drain(&self.far, &mut self.skip, buf) {
            return (Flow::Left, false);
        }
        while self.readable && !self.read_done && self.skip == 0 {
            let mut room = mux.room(self.stream).min(buf.len());
            if let Some(held) = &self.held {
                room = room.min(HELD_MAX.saturating_sub(held.len()));
                if room == 0 {
                    // Read on when it is accepted.
                    return (Flow::Waits, false);
                }
            }
            if room == 0 {
                mux.want_room(self.stream);
                return (Flow::Waits, false);
            }
            if moved >= budget {
                return (Flow::Waits, true);
            }
            match rustix::net::recv(&self.far, &mut buf[..room], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => {
                    self.read_done = true;
                    if mux.finish(self.stream).is_err() {
                        return (Flow::Left, false);
                    }
                }
                Ok((_, n)) => {
                    moved += n;
                    // There is room for all of it.
                    if mux.write(self.stream, &buf[..n]).is_err() {
                        return (Flow::Left, false);
                    }
                    if let Some(held) = &mut self.held {
                        held.extend_from_slice(&buf[..n]);
                    }
                }
                Err(Errno::AGAIN) => self.readable = false,
                Err(Errno::INTR) => {}
                Err(_) => return (Flow::Left, false),
            }
        }
        (Flow::Waits, false)
    }

    /// From the stream to the program.
    fn push(&mut self, mux: &mut Mux, buf: &mut [u8], budget: usize, now: u64) -> (Flow, bool) {
        let mut moved = 0;
        while self.writable {
            if moved >= budget {
                return (Flow::Waits, true);
            }
            if self.at < self.pending.len() {
                match self.give(&self.pending[self.at..]) {
                    Ok(n) => self.at += n,
                    Err(Errno::AGAIN) => self.writable = false,
                    Err(_) => return (Flow::Left, false),
                }
                if self.at == self.pending.len() {
                    // An idle connection has no buffer.
                    (self.pending, self.at) = (Vec::new(), 0);
                }
                continue;
            }
            let Ok(n) = mux.read(self.stream, buf, now) else { return (Flow::Waits, false) };
            if n == 0 {
                if mux.is_at_end(self.stream) && !self.write_done {
                    self.write_done = true;
                    // Gone already, or told now.
                    let _gone = rustix::net::shutdown(&self.far, Shutdown::Write);
                }
                return (Flow::Waits, false);
            }
            moved += n;
            let given = match self.give(&buf[..n]) {
                Ok(given) => given,
                Err(Errno::AGAIN) => 0,
                Err(_) => return (Flow::Left, false),
            };
            if given < n {
                self.pending.extend_from_slice(&buf[given..n]);
                self.writable = given > 0;
            }
        }
        (Flow::Waits, false)
    }

    fn give(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match rustix::net::send(&self.far, bytes, flags) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// True when the program has all that came on the stream, and its end.
    pub(super) fn is_told_of_the_end(&self) -> bool {
        self.write_done
    }

    /// The program sees a reset, as of any connection whose peer is gone.
    pub(super) fn reset(self) {
        reset(&self.far);
    }
}

/// Makes the close of this descriptor a reset.
pub(super) fn reset(far: &impl AsFd) {
    let at_once = Some(Duration::ZERO);
    if let Err(error) = rustix::net::sockopt::set_socket_linger(far, at_once) {
        log::debug!(
            "a connection ends in order rather than by a reset: {}",
            io::Error::from(error)
        );
    }
    // A child that was forked has the same file, and would keep it.
    if let Err(error) = rustix::net::shutdown(far, Shutdown::Read) {
        log::debug!("already gone: {}", io::Error::from(error));
    }
}

/// Reads away what a connecting pair was filled with, as far as it has come; false when its program
/// has left.
pub(super) fn drain(far: &impl AsFd, skip: &mut usize, buf: &mut [u8]) -> bool {
    while *skip > 0 {
        let wants = (*skip).min(buf.len());
        match rustix::net::recv(far, &mut buf[..wants], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return false,
            Ok((_, n)) => *skip -= n,
            Err(Errno::AGAIN) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}
