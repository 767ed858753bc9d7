//! Connections of both protocols: how they begin, who writes to them, who accepts them.

pub(crate) mod accept;
pub(crate) mod client;
pub(crate) mod dial;
mod outbox;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use eversock_socket::VirtualStream;
pub(crate) use outbox::{Closing, Outbox};

use crate::wire::codes::bye;
use crate::wire::frame::{self, GREETING_MAX};
use crate::wire::{
    Bye, FrameError, FrameReader, Hello, Message, Role, SenderMessage, ServerMessage,
};

/// How long each side may take for its part of the greeting.
pub(crate) const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// What both protocols have.
pub(crate) trait Greets: Message + Send + 'static {
    fn of_hello(hello: Hello) -> Self;
    fn of_bye(bye: Bye) -> Self;
    fn hello(&self) -> Option<&Hello>;
    fn bye(&self) -> Option<&Bye>;
}

impl Greets for SenderMessage {
    fn of_hello(hello: Hello) -> Self {
        Self::Hello(hello)
    }

    fn of_bye(bye: Bye) -> Self {
        Self::Bye(bye)
    }

    fn hello(&self) -> Option<&Hello> {
        if let Self::Hello(hello) = self { Some(hello) } else { None }
    }

    fn bye(&self) -> Option<&Bye> {
        if let Self::Bye(bye) = self { Some(bye) } else { None }
    }
}

impl Greets for ServerMessage {
    fn of_hello(hello: Hello) -> Self {
        Self::Hello(hello)
    }

    fn of_bye(bye: Bye) -> Self {
        Self::Bye(bye)
    }

    fn hello(&self) -> Option<&Hello> {
        if let Self::Hello(hello) = self { Some(hello) } else { None }
    }

    fn bye(&self) -> Option<&Bye> {
        if let Self::Bye(bye) = self { Some(bye) } else { None }
    }
}

/// A lock whose holders leave it whole even when they panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits as [`lock`] locks.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Waits as [`lock`] locks, at most until then.
pub(crate) fn wait_until<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    until: Instant,
) -> MutexGuard<'a, T> {
    let left = until.saturating_duration_since(Instant::now());
    condvar.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
}

/// A callback that panics is its owner's fault, and must not take others' answers with it.
pub(crate) fn guarded(callback: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        log::error!("a callback has panicked");
    }
}

/// One connection, which another thread can end.
pub(crate) struct Line {
    pub(crate) stream: VirtualStream,
    local_id: Option<u64>,
    /// Until when what is read now has to have come, however it is dripped.
    read_until: Mutex<Option<Instant>>,
    at_end: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Line {
    pub(crate) fn new(stream: VirtualStream) -> Arc<Self> {
        let local_id = stream.info().ok().map(|info| info.local_id);
        let read_until = Mutex::new(None);
        Arc::new(Self { stream, local_id, read_until, at_end: OnceLock::new() })
    }

    /// Reads its frames.
    pub(crate) fn reader(self: &Arc<Self>) -> LineReader {
        FrameReader::new(Source(Arc::clone(self)))
    }

    /// What [`Self::end`] and [`Self::sever`] do besides; only the first is kept.
    pub(crate) fn at_end(&self, run: impl Fn() + Send + Sync + 'static) {
        let _second = self.at_end.set(Box::new(run));
    }

    /// Reading ends; what is written goes on if somebody is there.
    pub(crate) fn end(&self) {
        if let Some(run) = self.at_end.get() {
            run();
        }
        if self.stream.info().is_ok_and(|info| info.detached_ms.is_some()) {
            return self.sever();
        }
        let _gone = self.stream.shutdown(Shutdown::Read);
    }

    /// All ends at once, and the peer is told so; who reads or writes wakes with an error.
    pub(crate) fn sever(&self) {
        if let Some(run) = self.at_end.get() {
            run();
        }
        if !self.local_id.is_some_and(eversock_engine::kill) {
            let _gone = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// Says why it ends, as the only thing that is written to it.
    pub(crate) fn refuse<M: Greets>(&self, bye: Bye) {
        if let Err(error) = send(&self.stream, &M::of_bye(bye)) {
            log::debug!("a refusal was not sent: {error}");
        }
    }
}

/// Reads the frames of a line, and keeps it open.
pub(crate) type LineReader = FrameReader<Source>;

/// What a line's reader reads from.
#[derive(Debug)]
pub(crate) struct Source(Arc<Line>);

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let until = *lock(&self.0.read_until);
        if let Some(until) = until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.0.stream.set_read_timeout(Some(left))?;
        }
        (&self.0.stream).read(buf)
    }
}

/// Writes one message; blocks while the peer does not read.
pub(crate) fn send<M: Message>(mut stream: &VirtualStream, message: &M) -> io::Result<()> {
    let mut wire = Vec::new();
    frame::put(message, &mut wire).map_err(io::Error::other)?;
    stream.write_all(&wire)
}

/// Why a connection does not begin, or ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Wire(#[from] crate::wire::WireError),
    #[error("{0}")]
    Bye(Bye),
    /// This side's own wish.
    #[error("{}", .0.text)]
    Refused(Bye),
    #[error("the peer ended the connection")]
    Eof,
    #[error("the peer sent a message of type {0:#06x}, which only the other side sends")]
    Direction(u16),
}

impl Ended {
    /// What to tell the peer about it; nothing if there is nobody to be told.
    pub(crate) fn bye(&self) -> Option<Bye> {
        match self {
            Self::Frame(FrameError::Io(error)) => {
                let is_slow =
                    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                let text = "the first message did not come in time".to_owned();
                is_slow.then_some(Bye { code: bye::SLOW, text })
            }
            Self::Frame(FrameError::Cut { .. }) | Self::Bye(_) | Self::Eof => None,
            Self::Refused(bye) => Some(bye.clone()),
            Self::Frame(FrameError::TooLong { .. }) | Self::Wire(_) | Self::Direction(_) => {
                Some(Bye { code: bye::MALFORMED, text: self.to_string() })
            }
        }
    }
}

/// Reads the first message of the other side, which may be its last.
fn first<M: Greets>(line: &Line, reader: &mut LineReader) -> Result<M, Ended> {
    *lock(&line.read_until) = Some(Instant::now() + GREETING_TIMEOUT);
    let message: M = reader.read(GREETING_MAX)?.ok_or(Ended::Eof)?.decode()?;
    *lock(&line.read_until) = None;
    line.stream.set_read_timeout(None).map_err(FrameError::Io)?;
    match message.bye() {
        Some(bye) => Err(Ended::Bye(bye.clone())),
        None => Ok(message),
    }
}

/// Takes the hello of who has dialled; gives the version. If it is none, the peer is told.
pub(crate) fn greeted<M: Greets>(
    line: &Line,
    reader: &mut LineReader,
    wanted: Role,
) -> Result<u16, Ended> {
    let result = first::<M>(line, reader).and_then(|message| match message.hello() {
        Some(hello) => hello.agree(wanted).map_err(Ended::Refused),
        None => Err(Ended::Direction(message.kind())),
    });
    if let Some(bye) = result.as_ref().err().and_then(Ended::bye) {
        line.refuse::<M>(bye);
    }
    result
}
