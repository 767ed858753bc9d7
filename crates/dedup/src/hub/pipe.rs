//! One logical connection: an ordinary descriptor of the program's on one side, a stream of the
//! multiplexer on the other.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use eversock_engine::host::Kept;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::Readiness;
use crate::mux::{Mux, QUEUE_MAX_BYTES};
use crate::preface::PREFACE_BYTES_MAX;

/// Bytes of a stream that nobody has accepted yet, kept to be said again elsewhere if its server
/// turns out to be the wrong one; more is not read before.
pub(super) const HELD_MAX: usize = 48 * 1024;

const _: () = assert!(HELD_MAX + PREFACE_BYTES_MAX <= QUEUE_MAX_BYTES);

/// Before an idle program is looked for.
const KEEPALIVE: Duration = Duration::from_secs(60);

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
    pub(super) far: Kept,
    stream: u32,
    /// The number by which the owner knows it.
    pub(super) connection: u64,
    /// The kernel may have something, or room.
    readable: bool,
    writable: bool,
    /// The kernel says that something is wrong with it.
    broken: bool,
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
        far: Kept,
        skip: usize,
        stream: u32,
        connection: u64,
        held: Option<Vec<u8>>,
    ) -> Self {
        watch_over(&far);
        Self {
            far,
            stream,
            connection,
            readable: true,
            writable: true,
            broken: false,
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

    pub(super) fn note(&mut self, ready: Readiness) {
        self.readable |= ready.readable;
        self.writable |= ready.writable;
        self.broken |= ready.broken;
    }

    /// Whatever its program has written is to be looked for again.
    pub(super) fn look_again(&mut self) {
        self.readable = true;
    }

    /// The peer has not accepted it yet.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// True when nothing more of the program's is there to be read now.
    pub(super) fn is_read(&self) -> bool {
        self.read_done || !self.readable && self.skip == 0
    }

    /// Nothing that the program says is of use any more.
    pub(super) fn ignore(&mut self) {
        self.read_done = true;
    }

    /// What to say again elsewhere, and whether nothing more is to follow; none when the peer has
    /// accepted the stream.
    pub(super) fn into_held(self) -> Option<(Kept, usize, Vec<u8>)> {
        let held = self.held?;
        Some((self.far, self.skip, held))
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
        // A program that has been killed, say: nobody reads or writes there, whatever waits.
        if std::mem::take(&mut self.broken)
            && !matches!(rustix::net::sockopt::socket_error(&self.far), Ok(Ok(())))
        {
            return (Flow::Left, false);
        }
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
            // Who has answered has taken what it was told.
            self.held = None;
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
    /// The program sees a reset, as of any connection whose peer is gone.
    pub(super) fn reset(self) {
        reset(&self.far);
    }
}

/// A program that has closed its end while the peer keeps its own looks like one that has ended its
/// direction; the kernel forgets such an end after a minute, and says so when it is asked.
pub(super) fn watch_over(far: &impl AsFd) {
    let set = rustix::net::sockopt::set_socket_keepalive(far, true)
        .and_then(|()| rustix::net::sockopt::set_tcp_keepidle(far, KEEPALIVE));
    if let Err(error) = set {
        log::debug!("a program's close may go unnoticed: {}", io::Error::from(error));
    }
}

/// Resets the connection of this descriptor now, whoever else has it: a child that was forked may.
pub(super) fn reset(far: &impl AsFd) {
    if let Err(error) = rustix::net::connect_unspec(far) {
        // Gone already, most likely.
        log::debug!("a connection is not reset: {}", io::Error::from(error));
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
