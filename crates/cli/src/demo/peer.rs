//! One end of the demo (hidden): sends its content, reads that of the other end, and reports.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use eversock::{Config, Event, EventKind, Mode, VirtualListener, VirtualStream};
use sha2::{Digest, Sha256};

use super::content::{Random, hex};
use super::message::{Link, Message, Outcome};
use crate::failure::Failure;
use crate::{lines, output};

/// Be one end of the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoPeer {
    /// What carries the bytes.
    #[arg(long)]
    link: Link,
    /// Connect to this; without it, listen on a free port of the loopback.
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Bytes to send, and to expect.
    #[arg(long)]
    size: u64,
    /// Determines the bytes that are sent.
    #[arg(long)]
    seed: u64,
}

const CHUNK_BYTES: usize = 128 << 10;
/// How often progress is reported.
const TICK: Duration = Duration::from_millis(25);

enum Stream {
    Plain(TcpStream),
    Virtual(VirtualStream),
}

impl Stream {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => (&*stream).read(buf),
            Self::Virtual(stream) => (&*stream).read(buf),
        }
    }

    fn write_all(&self, buf: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => (&*stream).write_all(buf),
            Self::Virtual(stream) => (&*stream).write_all(buf),
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown(how),
            Self::Virtual(stream) => stream.shutdown(how),
        }
    }
}

impl DemoPeer {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let failed = |error: io::Error| Failure::new(format!("the end of a demo: {error}"));
        let input = lines::from_stdin().map_err(failed)?;
        let done = Arc::new(AtomicBool::new(false));
        let leave = end_with(input, Arc::clone(&done)).map_err(failed)?;
        let outcome = match self.stream() {
            Err(error) => Outcome { error: Some(error.to_string()), ..Outcome::default() },
            Ok(stream) => {
                let outcome = self.transfer(&stream)?;
                // The stream lives until both ends are done, so that nothing is lost by an exit.
                done.store(true, Ordering::SeqCst);
                output::json_line(&Message::Done(outcome))?;
                return Ok(leave.join().is_ok());
            }
        };
        output::json_line(&Message::Done(outcome))?;
        Ok(false)
    }

    fn stream(&self) -> io::Result<Stream> {
        let mode = if self.link == Link::Pumped { Mode::Pumped } else { Mode::Direct };
        let config = Config { mode, ..Config::default() };
        let said = |addr| {
            output::json_line(&Message::Listening { addr })
                .map_err(|failure| io::Error::other(failure.to_string()))
        };
        Ok(match (self.link, self.connect) {
            (Link::Plain, Some(addr)) => Stream::Plain(TcpStream::connect(addr)?),
            (Link::Plain, None) => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                said(listener.local_addr()?)?;
                Stream::Plain(listener.accept()?.0)
            }
            (_, Some(addr)) => Stream::Virtual(VirtualStream::connect_with(addr, config)?),
            (_, None) => {
                let listener = VirtualListener::bind_with("127.0.0.1:0", config)?;
                said(listener.local_addr()?)?;
                Stream::Virtual(listener.accept()?.0)
            }
        })
    }

    fn transfer(&self, stream: &Stream) -> Result<Outcome, Failure> {
        let events = match stream {
            Stream::Virtual(stream) => stream.events().ok(),
            Stream::Plain(_) => None,
        };
        let received = AtomicU64::new(0);
        let first_error = OnceLock::new();
        let mut outcome = Outcome::default();
        thread::scope(|scope| {
            let first = &first_error;
            let writer = scope.spawn(|| give_up_on_error(stream, send(stream, self), first));
            let reader =
                scope.spawn(|| give_up_on_error(stream, receive(stream, self, &received), first));
            while !(writer.is_finished() && reader.is_finished()) {
                let event = match &events {
                    Some(events) => events.recv_timeout(TICK).ok(),
                    None => {
                        thread::sleep(TICK);
                        None
                    }
                };
                report(event)?;
                let received = received.load(Ordering::Relaxed);
                output::json_line(&Message::Progress { received })?;
            }
            let lost = |_| Failure::new("a thread of the demo has panicked");
            let (sent, read) = (writer.join().map_err(lost)?, reader.join().map_err(lost)?);
            outcome.sent = sent.bytes;
            outcome.sha256_sent = hex(sent.hash);
            outcome.received = read.bytes;
            outcome.sha256_received = hex(read.hash);
            outcome.longest_stall_ms = read.longest_stall.as_micros().div_ceil(1000) as u64;
            Ok(())
        })?;
        outcome.error = first_error.into_inner();
        for event in events.iter().flat_map(|events| events.try_iter()) {
            report(Some(event))?;
        }
        if let Stream::Virtual(stream) = stream
            && let Ok(info) = stream.info()
        {
            outcome.resumes = info.resumes;
            outcome.replayed = info.replayed;
        }
        Ok(outcome)
    }
}

/// What one direction came to.
struct Half {
    bytes: u64,
    hash: Sha256,
    longest_stall: Duration,
    error: Option<String>,
}

fn send(stream: &Stream, plan: &DemoPeer) -> Half {
    let mut half = Half::new();
    let mut random = Random::new(plan.seed);
    let mut buf = vec![0; CHUNK_BYTES];
    while half.bytes < plan.size && half.error.is_none() {
        let left = usize::try_from(plan.size - half.bytes).unwrap_or(CHUNK_BYTES);
        let chunk = &mut buf[..left.min(CHUNK_BYTES)];
        random.fill(chunk);
        match stream.write_all(chunk) {
            Ok(()) => {
                half.hash.update(&*chunk);
                half.bytes += chunk.len() as u64;
            }
            Err(error) => half.error = Some(format!("writing: {error}")),
        }
    }
    if half.error.is_none()
        && let Err(error) = stream.shutdown(Shutdown::Write)
    {
        half.error = Some(format!("ending the stream: {error}"));
    }
    half
}

fn receive(stream: &Stream, plan: &DemoPeer, received: &AtomicU64) -> Half {
    let mut half = Half::new();
    let mut buf = vec![0; CHUNK_BYTES];
    let mut last = Instant::now();
    loop {
        let result = stream.read(&mut buf);
        let now = Instant::now();
        if half.bytes < plan.size {
            half.longest_stall = half.longest_stall.max(now - last);
        }
        last = now;
        match result {
            Ok(0) if half.bytes == plan.size => return half,
            Ok(0) => {
                half.error = Some(format!("the stream ended after {} bytes", half.bytes));
                return half;
            }
            Ok(n) => {
                half.hash.update(&buf[..n]);
                half.bytes += n as u64;
                received.store(half.bytes, Ordering::Relaxed);
            }
            Err(error) => {
                half.error = Some(format!("reading: {error}"));
                return half;
            }
        }
        if half.bytes > plan.size {
            half.error = Some("more came than was sent".to_owned());
            return half;
        }
    }
}

impl Half {
    fn new() -> Self {
        Self { bytes: 0, hash: Sha256::new(), longest_stall: Duration::ZERO, error: None }
    }
}

/// One direction that failed takes the other with it, so that no thread waits for ever; the error
/// that came first is the one to report.
fn give_up_on_error(stream: &Stream, mut half: Half, first: &OnceLock<String>) -> Half {
    if let Some(error) = half.error.take() {
        // The other direction may have been the first.
        let _known = first.set(error);
        // A connection that is gone cannot be shut down; that is what was wanted.
        let _gone = stream.shutdown(Shutdown::Both);
    }
    half
}

fn report(event: Option<Event>) -> Result<(), Failure> {
    let Some(Event { epoch, kind: EventKind::Resumed { replayed, stalled, .. }, .. }) = event
    else {
        return Ok(());
    };
    let stalled_ms = u64::try_from(stalled.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    output::json_line(&Message::Resumed { epoch, replayed, stalled_ms })
}

/// Waits for the end of standard input, and ends the process with it if there is work left.
fn end_with(input: Receiver<String>, done: Arc<AtomicBool>) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("leave".to_owned()).spawn(move || {
        input.iter().for_each(drop);
        if !done.load(Ordering::SeqCst) {
            // A plain exit would wait for the session's end; nobody wants it any more.
            // SAFETY: `_exit` has no preconditions and does not return.
            unsafe { libc::_exit(1) }
        }
    })
}
