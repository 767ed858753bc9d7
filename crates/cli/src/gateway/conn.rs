//! One connection through the gateway: two wires, and a bounded buffer for each direction.
//!
//! Each direction ends by itself: the end of one wire's input becomes the end of the other's output
//! once all that was read before it has been written. A direction whose sink takes nothing stops
//! reading when its buffer is full, so that the source's own flow control holds the sender back.
//! An error of either wire resets the other, after what had arrived before the error was passed on
//! as far as the other wire took it at once, which is what one TCP connection would do.

use std::io;

use crate::wire::Wire;

/// What one direction holds at most.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// What one direction moves before other connections have their turn.
const TURN_BYTES_MAX: usize = 512 * 1024;
/// Empty buffers that are kept for the next connection that needs one.
const POOLED_BUFFERS_MAX: usize = 64;

pub(super) const PLAIN: usize = 0;
pub(super) const SESSION: usize = 1;

type Buffer = Box<[u8]>;

/// Buffers that no connection needs now: idle connections hold none.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Vec<Buffer>,
}

impl Pool {
    fn take(&mut self) -> Buffer {
        self.free.pop().unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    fn give(&mut self, buffer: Buffer) {
        if self.free.len() < POOLED_BUFFERS_MAX {
            self.free.push(buffer);
        }
    }
}

#[derive(Debug)]
struct Side {
    wire: Wire,
    /// False from "would block" to the next event: events are edge-triggered.
    readable: bool,
    writable: bool,
    /// An event spoke of an error, which no call has given yet.
    suspect: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    /// The source has ended; the sink is told once the buffer is empty.
    Ended,
    /// The sink has been told, or takes nothing any more.
    Done,
}

/// One direction.
#[derive(Debug)]
struct Half {
    buffer: Option<Buffer>,
    /// What is to be written: `buffer[start..end]`.
    start: usize,
    end: usize,
    flow: Flow,
    moved: u64,
}

impl Half {
    fn new() -> Self {
        Self { buffer: None, start: 0, end: 0, flow: Flow::Open, moved: 0 }
    }

    fn release(&mut self, pool: &mut Pool) {
        (self.start, self.end) = (0, 0);
        if let Some(buffer) = self.buffer.take() {
            pool.give(buffer);
        }
    }
}

/// How a connection stands after its turn.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing can be done until an event comes.
    Idle,
    /// There is more to do now.
    More,
    /// Both directions have ended in order.
    Finished,
    /// One of the wires has failed; the other is to be reset.
    Broken { side: usize, error: io::Error },
    /// The wire that was being connected has failed.
    Unreachable(io::Error),
}

/// A connection, possibly with one wire that is still being connected.
#[derive(Debug)]
pub(super) struct Conn {
    sides: [Side; 2],
    halves: [Half; 2],
    dialling: Option<usize>,
}

impl Conn {
    /// Joins an accepted wire and one whose connect was begun; `dialled` says which that is.
    pub(super) fn new(accepted: Wire, dialled: Wire, dialled_side: usize) -> Self {
        let stands =
            |wire, stands| Side { wire, readable: stands, writable: stands, suspect: false };
        let (accepted, dialled) = (stands(accepted, true), stands(dialled, false));
        let sides = if dialled_side == PLAIN { [dialled, accepted] } else { [accepted, dialled] };
        Self { sides, halves: [Half::new(), Half::new()], dialling: Some(dialled_side) }
    }

    pub(super) fn wire(&self, side: usize) -> &Wire {
        &self.sides[side].wire
    }

    pub(super) fn is_dialling(&self) -> bool {
        self.dialling.is_some()
    }

    /// Puts another wire in the place of the one whose connect failed.
    pub(super) fn replace_dialled(&mut self, wire: Wire) {
        if let Some(side) = self.dialling {
            self.sides[side].wire = wire;
            self.sides[side].suspect = false;
        }
    }

    /// Bytes from the plain side and from the session, as far as they were passed on.
    pub(super) fn moved(&self) -> [u64; 2] {
        [self.halves[PLAIN].moved, self.halves[SESSION].moved]
    }

    /// An event of epoll.
    pub(super) fn note(&mut self, side: usize, events: i32) {
        let one = &mut self.sides[side];
        let ends = libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP;
        one.readable |= events & (libc::EPOLLIN | ends) != 0;
        one.writable |= events & (libc::EPOLLOUT | ends) != 0;
        one.suspect |= events & libc::EPOLLERR != 0;
    }

    /// Moves what can be moved.
    pub(super) fn turn(&mut self, pool: &mut Pool) -> Turn {
        if let Some(side) = self.dialling {
            match self.sides[side].wire.is_connected() {
                Ok(true) => {
                    self.dialling = None;
                    (self.sides[side].readable, self.sides[side].writable) = (true, true);
                    self.sides[side].suspect = false;
                }
                Ok(false) => return self.look_at_suspects().unwrap_or(Turn::Idle),
                Err(error) => return Turn::Unreachable(error),
            }
        }
        let mut more = false;
        for from in [PLAIN, SESSION] {
            match self.move_bytes(from, pool) {
                Ok(is_more) => more |= is_more,
                Err((side, error)) => return Turn::Broken { side, error },
            }
        }
        if self.halves.iter().all(|half| half.flow == Flow::Done) {
            return Turn::Finished;
        }
        if more {
            return Turn::More;
        }
        self.look_at_suspects().unwrap_or(Turn::Idle)
    }

    /// An error that no read or write can meet, because the buffers are full or the direction has
    /// ended, is asked for. Only then: asking takes it from the next read, which would see an end.
    fn look_at_suspects(&mut self) -> Option<Turn> {
        for side in [PLAIN, SESSION] {
            if std::mem::take(&mut self.sides[side].suspect) {
                match self.sides[side].wire.take_error() {
                    Ok(None) => {}
                    Ok(Some(error)) | Err(error) => return Some(Turn::Broken { side, error }),
                }
            }
        }
        None
    }

    /// Moves one direction's bytes; true when it stopped for the others' sake only.
    fn move_bytes(&mut self, from: usize, pool: &mut Pool) -> Result<bool, (usize, io::Error)> {
        let to = 1 - from;
        let half = &mut self.halves[from];
        let mut moved = 0;
        while half.flow != Flow::Done {
            if moved >= TURN_BYTES_MAX {
                return Ok(true);
            }
            if let Some(buffer) = half.buffer.as_deref().filter(|_| half.start < half.end) {
                let sink = &mut self.sides[to];
                if !sink.writable {
                    return Ok(false);
                }
                match sink.wire.write(&buffer[half.start..half.end]) {
                    Ok(n) => {
                        half.start += n;
                        half.moved += n as u64;
                        moved += n;
                    }
                    Err(error) if is_passing(&error, &mut sink.writable) => {}
                    Err(error)
                        if sink.wire.is_session() && error.raw_os_error() == Some(libc::EPIPE) =>
                    {
                        // The peer has closed and takes no more, but what it wrote is still to be
                        // delivered; at the end the close of the plain side tells its peer.
                        half.flow = Flow::Done;
                    }
                    Err(error) => return Err((to, error)),
                }
                continue;
            }
            if half.flow == Flow::Ended {
                self.sides[to].wire.finish().map_err(|error| (to, error))?;
                half.flow = Flow::Done;
                continue;
            }
            let source = &mut self.sides[from];
            if !source.readable {
                break;
            }
            let buffer = half.buffer.get_or_insert_with(|| pool.take());
            (half.start, half.end) = (0, 0);
            match source.wire.read(buffer) {
                Ok(0) => half.flow = Flow::Ended,
                Ok(n) => half.end = n,
                Err(error) if is_passing(&error, &mut source.readable) => {}
                Err(error) => return Err((from, error)),
            }
        }
        half.release(pool);
        Ok(false)
    }

    /// Ends both sides with a reset.
    pub(super) fn reset(self) {
        self.sides.into_iter().for_each(|side| side.wire.reset());
    }
}

/// True for what is no failure: an interruption, or "would block", which clears `ready`.
fn is_passing(error: &io::Error, ready: &mut bool) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            *ready = false;
            true
        }
        io::ErrorKind::Interrupted => true,
        _ => false,
    }
}
