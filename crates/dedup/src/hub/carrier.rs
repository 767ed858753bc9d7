//! One virtual socket and the streams on it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use eversock_engine::host::Kept;
use eversock_engine::posix;

use super::pipe::{Flow, Pipe};
use super::{Readiness, Watch, would_block};
use crate::mux::{Limits, Mux, OpenError, Role, Violation, news, reason};
use crate::preface::Preface;

/// Bytes that are taken from the session at a time.
const FEED_MAX: usize = 1024 * 1024;
/// Bytes that are cut into frames at a time.
const FILL_BYTES: usize = 256 * 1024;
/// Bytes that one connection moves before others have their turn.
const PIPE_BUDGET: usize = 256 * 1024;
/// How long a session that was ended waits for its peer's end, behind what was sent last, in
/// microseconds.
const CLOSE_MAX: u64 = 60_000_000;
/// How long a stream may take to say what it is for, in microseconds.
const PREFACE_MAX: u64 = 30_000_000;
/// How often what went out may make room for more before others have their turn.
const ROUNDS_MAX: usize = 8;

/// What a carrier tells its owner.
#[derive(Debug)]
pub(super) enum Happening {
    /// The peer has opened a stream, and said what for.
    Opened { stream: u32, preface: Preface },
    /// The peer serves the connection.
    Accepted { connection: u64 },
    /// A connection is over.
    Over { connection: u64 },
    /// The peer has not taken the connection, for a reason that may not hold elsewhere: here it is
    /// again, with what it has said so far.
    SentBack { connection: u64, far: Kept, skip: usize, said: Vec<u8>, reason: u32 },
    /// The peer takes no more streams.
    GoesAway { code: u32 },
    /// The session has ended: all of its connections were reset.
    Ended { error: Option<io::Error> },
}

/// A virtual socket, its multiplexer, its connections.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) number: RawFd,
    /// By which its events are known.
    id: u32,
    mux: Mux,
    pipes: BTreeMap<u32, Pipe>,
    /// Streams of the peer's whose first bytes have not all come.
    nameless: BTreeMap<u32, (u64, Vec<u8>)>,
    work: VecDeque<u32>,
    /// Connections that were reset as they began; their owner is told at the next turn.
    unwatched: Vec<u64>,
    /// Frames on their way into the session.
    out: Vec<u8>,
    sent: usize,
    readable: bool,
    writable: bool,
    /// No more connections, and closed when all is sent.
    is_closing: bool,
    /// Of its connections only what their programs have written until now is waited for.
    stops: bool,
    /// The session has ended, and why; some of its connections have all that is to come, and not
    /// passed it on yet.
    lost: Option<Option<io::Error>>,
    is_over: bool,
    /// What the session's end was; told of at the next turn.
    failing: Option<Option<io::Error>>,
    /// When it is closed whether the peer has ended it too or not.
    ends_by: Option<u64>,
    /// Since when there is no connection on it.
    idle_since: u64,
    /// The peer was told that this end has ended the session.
    said_end: bool,
    said_goaway: bool,
}

impl Carrier {
    /// Takes over a virtual socket that stands.
    pub(super) fn new(
        number: RawFd,
        id: u32,
        role: Role,
        limits: Limits,
        watch: &Watch,
        now: u64,
    ) -> io::Result<Self> {
        posix::set_nonblocking(number, true)?;
        watch.add_virtual(number, super::token(id, 0, false))?;
        Ok(Self {
            number,
            id,
            mux: Mux::new(role, limits),
            pipes: BTreeMap::new(),
            nameless: BTreeMap::new(),
            work: VecDeque::new(),
            unwatched: Vec::new(),
            out: Vec::new(),
            sent: 0,
            readable: true,
            writable: true,
            is_closing: false,
            stops: false,
            lost: None,
            is_over: false,
            failing: None,
            ends_by: None,
            idle_since: now,
            said_end: false,
            said_goaway: false,
        })
    }

    /// The session's round trip, in microseconds.
    pub(super) fn set_rtt(&mut self, micros: u64) {
        self.mux.set_rtt(micros);
    }

    /// True when the socket is closed, and nothing is left.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// True when there is something that [`Self::turn`] could do at once.
    pub(super) fn has_work(&self) -> bool {
        if self.is_over || self.lost.is_some() {
            return !self.is_over && !self.work.is_empty();
        }
        let has_output = self.sent < self.out.len() || self.mux.has_output();
        !self.work.is_empty()
            || self.failing.is_some()
            || !self.unwatched.is_empty()
            || self.readable
            || self.mux.has_news()
            || has_output && self.writable && !self.said_end
            || self.is_to_end()
    }

    /// Begins a stream for a connection: `preface`, then `said`. Gives its number.
    pub(super) fn open(
        &mut self,
        connection: u64,
        (far, skip): (Kept, usize),
        preface: &[u8],
        said: Vec<u8>,
        now: u64,
        watch: &Watch,
    ) -> Result<u32, (OpenError, Kept, Vec<u8>)> {
        if self.is_closing || self.is_over || self.lost.is_some() {
            return Err((OpenError::GoneAway, far, said));
        }
        let stream = match self.mux.open(now) {
            Ok(stream) => stream,
            Err(error) => return Err((error, far, said)),
        };
        let both = [preface, &said].concat();
        // A new stream's queue has room for both (`HELD_MAX`).
        if self.mux.write(stream, &both) != Ok(both.len()) {
            self.mux.reset(stream);
            return Err((OpenError::Full, far, said));
        }
        self.add(stream, Pipe::new(far, skip, stream, connection, Some(said)), watch);
        Ok(stream)
    }

    /// A connection's descriptor.
    pub(super) fn far(&self, stream: u32) -> Option<BorrowedFd<'_>> {
        self.pipes.get(&stream).map(|pipe| pipe.far.as_fd())
    }

    /// A stream of the peer's gets its descriptor.
    pub(super) fn accept(&mut self, stream: u32, connection: u64, far: Kept, watch: &Watch) {
        let mut pipe = Pipe::new(far, 0, stream, connection, None);
        let has_all = self.mux.has_all(stream);
        if self.is_over || self.lost.is_some() && !has_all || self.mux.accept(stream).is_err() {
            return pipe.reset();
        }
        if self.lost.is_some() {
            pipe.ignore();
        }
        self.add(stream, pipe, watch);
    }

    /// A stream of the peer's is refused.
    pub(super) fn refuse(&mut self, stream: u32, reason: u32) {
        self.mux.reset_with(stream, reason);
    }

    fn add(&mut self, stream: u32, pipe: Pipe, watch: &Watch) {
        if let Err(error) = watch.add(&pipe.far, super::token(self.id, stream, true)) {
            log::warn!("a connection cannot be watched, and is reset: {error}");
            self.mux.reset(stream);
            self.unwatched.push(pipe.connection);
            return pipe.reset();
        }
        self.pipes.insert(stream, pipe);
        self.work.push_back(stream);
    }

    /// Events of the socket (stream 0) or of a connection's descriptor.
    pub(super) fn note(&mut self, stream: u32, ready: Readiness) {
        if stream == 0 {
            self.readable |= ready.readable;
            self.writable |= ready.writable;
        } else if let Some(pipe) = self.pipes.get_mut(&stream) {
            pipe.note(ready);
            self.work.push_back(stream);
        }
    }

    /// No more streams of the peer's; those that there are go on.
    pub(super) fn go_away(&mut self, code: u32) {
        self.mux.go_away(code);
    }

    /// Ends the session in order when all of it is sent.
    pub(super) fn finish(&mut self, now: u64) {
        self.is_closing = true;
        self.ends_by.get_or_insert_with(|| now.saturating_add(CLOSE_MAX));
    }

    /// How long there has been no connection, in microseconds.
    pub(super) fn idle_for(&self, now: u64) -> Option<u64> {
        let is_idle = self.pipes.is_empty() && !self.is_closing && !self.is_over;
        is_idle.then(|| now.saturating_sub(self.idle_since))
    }

    /// When [`Self::turn`] has something to do whatever happens.
    pub(super) fn deadline(&self) -> Option<u64> {
        let nameless = self.nameless.values().map(|(since, _)| *since).min();
        let nameless = nameless.map(|since| since.saturating_add(PREFACE_MAX));
        [self.ends_by, nameless].into_iter().flatten().filter(|_| !self.is_over).min()
    }

    /// What is not done in time.
    fn keep_time(&mut self, now: u64, tell: &mut Vec<Happening>) {
        let is_late = |since: u64| since.saturating_add(PREFACE_MAX) <= now;
        let late = self.nameless.iter().filter(|(_, (since, _))| is_late(*since));
        let late: Vec<u32> = late.map(|(stream, _)| *stream).collect();
        for stream in late {
            self.nameless.remove(&stream);
            self.mux.reset_with(stream, reason::UNKNOWN_SERVICE);
        }
        if self.ends_by.is_some_and(|at| at <= now) {
            log::info!("a session's peer does not end it; it is closed all the same");
            self.end(None, tell);
        }
    }

    /// The same, and each connection ends when what its program has written until now is sent.
    pub(super) fn stop(&mut self, now: u64) {
        self.finish(now);
        self.stops = true;
        for (stream, pipe) in &mut self.pipes {
            pipe.look_again();
            self.work.push_back(*stream);
        }
    }

    /// Moves what can be moved.
    pub(super) fn turn(&mut self, buf: &mut [u8], now: u64, tell: &mut Vec<Happening>) {
        if self.is_over {
            return;
        }
        let unwatched = self.unwatched.drain(..);
        tell.extend(unwatched.map(|connection| Happening::Over { connection }));
        if self.lost.is_some() {
            return self.pass_on_the_rest(buf, now, tell);
        }
        if let Some(error) = self.failing.take() {
            return self.lose(error, tell);
        }
        let taken = self.take_in(buf, now);
        self.hear(buf, now, tell);
        if let Err(error) = taken {
            // Only then: what has been opened by the same bytes is first to be accepted.
            self.readable = false;
            self.failing = Some(error);
            return;
        }
        for _ in 0..ROUNDS_MAX {
            for _ in 0..self.work.len() {
                let Some(stream) = self.work.pop_front() else { break };
                self.serve(stream, buf, now, tell);
            }
            if let Err(error) = self.send_out(now) {
                return self.lose(Some(error), tell);
            }
            // What went out has made room, of which nothing else would tell.
            if !self.mux.has_news() {
                break;
            }
            self.hear(buf, now, tell);
        }
        if !self.pipes.is_empty() {
            self.idle_since = now;
        }
        self.keep_time(now, tell);
        if self.is_over {
            return;
        }
        if let Some(code) = self.mux.peer_goes_away()
            && !std::mem::replace(&mut self.said_goaway, true)
        {
            tell.push(Happening::GoesAway { code });
        }
        if self.is_to_end() {
            self.say_end();
        }
    }

    /// All is said, and nothing more is to come: the session is to be ended.
    fn is_to_end(&self) -> bool {
        self.is_closing
            && !self.said_end
            && self.pipes.is_empty()
            && self.sent == self.out.len()
            && !self.mux.has_unsent()
    }

    /// Not by a close at once: what the peer still grants would lie unread, and a close with bytes
    /// unread is a reset, which may overtake what was sent. The peer ends it too when it has read
    /// this.
    fn say_end(&mut self) {
        if !std::mem::replace(&mut self.said_end, true)
            && let Err(error) = posix::shutdown(self.number, libc::SHUT_WR)
        {
            log::debug!("a session's end is not told: {error}");
        }
    }

    /// `Err(None)`: the peer has ended the session.
    fn take_in(&mut self, buf: &mut [u8], now: u64) -> Result<(), Option<io::Error>> {
        let mut taken = 0;
        while self.readable && taken < FEED_MAX {
            match posix::recv(self.number, &mut [IoSliceMut::new(buf)], libc::MSG_DONTWAIT) {
                Ok(0) => return Err(None),
                Ok(n) => {
                    taken += n;
                    self.mux.feed(&buf[..n], now).map_err(|error| Some(broken(error)))?;
                }
                Err(error) if would_block(&error) => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Some(error)),
            }
        }
        Ok(())
    }

    fn hear(&mut self, buf: &mut [u8], now: u64, tell: &mut Vec<Happening>) {
        while let Some((stream, news)) = self.mux.next_news() {
            if news & news::RESET != 0 {
                let reason = self.mux.reset_reason(stream).unwrap_or(reason::NONE);
                if news & news::ACCEPTED != 0
                    && let Some(pipe) = self.pipes.get_mut(&stream)
                {
                    pipe.accepted();
                }
                self.was_reset(stream, reason, tell);
                continue;
            }
            if news & news::OPENED != 0 {
                self.nameless.insert(stream, (now, Vec::new()));
            }
            if let Some(pipe) = self.pipes.get_mut(&stream) {
                if news & news::ACCEPTED != 0 {
                    pipe.accepted();
                    tell.push(Happening::Accepted { connection: pipe.connection });
                }
                self.work.push_back(stream);
            } else if self.nameless.contains_key(&stream) {
                self.read_preface(stream, buf, now, tell);
            }
        }
    }

    fn was_reset(&mut self, stream: u32, reason: u32, tell: &mut Vec<Happening>) {
        self.nameless.remove(&stream);
        let Some(pipe) = self.pipes.remove(&stream) else { return };
        let connection = pipe.connection;
        let may_try_again =
            matches!(reason, reason::MISDIRECTED | reason::GONE_AWAY | reason::FULL);
        if !may_try_again || !pipe.is_held() {
            pipe.reset();
            return tell.push(Happening::Over { connection });
        }
        if let Some((far, skip, said)) = pipe.into_held() {
            tell.push(Happening::SentBack { connection, far, skip, said, reason });
        }
    }

    /// Reads what a stream begins with, byte by byte where its length is not known yet: what comes
    /// behind is the program's.
    fn read_preface(&mut self, stream: u32, buf: &mut [u8], now: u64, tell: &mut Vec<Happening>) {
        let Some((_, have)) = self.nameless.get_mut(&stream) else { return };
        loop {
            match Preface::decode(have) {
                Ok(Some((preface, _))) => {
                    self.nameless.remove(&stream);
                    return tell.push(Happening::Opened { stream, preface });
                }
                Ok(None) => {
                    // Its first byte is the length of all.
                    let length = have.first().map_or(1, |length| usize::from(*length));
                    let wants = length.saturating_sub(have.len()).max(1);
                    match self.mux.read(stream, &mut buf[..wants], now) {
                        Ok(n @ 1..) => have.extend_from_slice(&buf[..n]),
                        // One that ends before it has said what it wants.
                        Ok(0) if self.mux.is_at_end(stream) => break,
                        Ok(_) => return,
                        Err(_) => break,
                    }
                }
                Err(_) => break,
            }
        }
        self.nameless.remove(&stream);
        self.mux.reset_with(stream, reason::UNKNOWN_SERVICE);
    }

    fn serve(&mut self, stream: u32, buf: &mut [u8], now: u64, tell: &mut Vec<Happening>) {
        let Some(pipe) = self.pipes.get_mut(&stream) else { return };
        let (flow, more) = pipe.turn(&mut self.mux, buf, PIPE_BUDGET, now);
        match flow {
            Flow::Waits if more => self.work.push_back(stream),
            Flow::Waits if self.stops && self.lost.is_none() && pipe.is_read() => {
                // An end, and no close: what comes meanwhile must not make it a reset.
                let _gone = self.mux.finish(stream);
                let Some(pipe) = self.pipes.remove(&stream) else { return };
                tell.push(Happening::Over { connection: pipe.connection });
            }
            Flow::Waits => {}
            Flow::Done | Flow::Left => {
                let Some(pipe) = self.pipes.remove(&stream) else { return };
                let connection = pipe.connection;
                match flow {
                    // What is queued still goes out.
                    Flow::Done => self.mux.close(stream),
                    _ => self.mux.reset(stream),
                }
                tell.push(Happening::Over { connection });
            }
        }
    }

    fn send_out(&mut self, now: u64) -> io::Result<()> {
        while self.writable && !self.said_end {
            if self.sent == self.out.len() {
                self.out.clear();
                self.sent = 0;
                self.mux.fill(&mut self.out, FILL_BYTES);
                if self.out.is_empty() {
                    // An idle session has no buffer.
                    self.out = Vec::new();
                    break;
                }
            }
            let slice = IoSlice::new(&self.out[self.sent..]);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            match posix::send(self.number, &[slice], flags) {
                Ok(n) => {
                    self.sent += n;
                    self.ends_by = self.ends_by.map(|_| now.saturating_add(CLOSE_MAX));
                }
                Err(error) if would_block(&error) => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The session has ended. What a connection has all of is its program's still; the others are
    /// reset.
    fn lose(&mut self, error: Option<io::Error>, tell: &mut Vec<Happening>) {
        self.readable = false;
        if error.is_none() {
            self.say_end();
        }
        self.is_closing = true;
        for (stream, mut pipe) in std::mem::take(&mut self.pipes) {
            if self.mux.has_all(stream) {
                pipe.ignore();
                self.pipes.insert(stream, pipe);
                self.work.push_back(stream);
            } else {
                tell.push(Happening::Over { connection: pipe.connection });
                pipe.reset();
            }
        }
        if self.pipes.is_empty() {
            return self.end(error, tell);
        }
        // Nobody is to begin another.
        if !std::mem::replace(&mut self.said_goaway, true) {
            tell.push(Happening::GoesAway { code: 0 });
        }
        self.lost = Some(error);
    }

    fn pass_on_the_rest(&mut self, buf: &mut [u8], now: u64, tell: &mut Vec<Happening>) {
        for _ in 0..self.work.len() {
            let Some(stream) = self.work.pop_front() else { break };
            self.serve(stream, buf, now, tell);
        }
        self.keep_time(now, tell);
        if self.pipes.is_empty() && !self.is_over {
            let error = self.lost.take().flatten();
            self.end(error, tell);
        }
    }

    fn end(&mut self, error: Option<io::Error>, tell: &mut Vec<Happening>) {
        let unwatched = self.unwatched.drain(..);
        tell.extend(unwatched.map(|connection| Happening::Over { connection }));
        for (_, pipe) in std::mem::take(&mut self.pipes) {
            tell.push(Happening::Over { connection: pipe.connection });
            pipe.reset();
        }
        self.close(error.is_some());
        tell.push(Happening::Ended { error });
    }

    /// Ends the session with all that is on it.
    pub(super) fn kill(&mut self, tell: &mut Vec<Happening>) {
        if !self.is_over {
            self.end(Some(io::Error::from_raw_os_error(libc::ECONNRESET)), tell);
        }
    }

    fn close(&mut self, hard: bool) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        if hard {
            super::reset_virtual(self.number);
        }
        if let Err(error) = posix::close(self.number) {
            log::debug!("session closed: {error}");
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        for (_, pipe) in std::mem::take(&mut self.pipes) {
            pipe.reset();
        }
        self.close(!self.said_end);
    }
}

fn broken(error: Violation) -> io::Error {
    log::error!("a shared session's peer breaks its rules, and is cut off: {error}");
    io::Error::from_raw_os_error(libc::EPROTO)
}
