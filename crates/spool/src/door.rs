//! The front's end for senders: takes requests over virtual sockets and hands them to a [`Submit`].
//!
//! Each connection has a thread that reads and one that writes. Requests are not waited for: many
//! are under way, and outcomes go out as they come. A sender that has as many requests under way as
//! it may, or that does not read its outcomes, is not read from either, so that it costs no more
//! memory and holds nobody up.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eversock_socket::VirtualListener;

use crate::conn::accept::Acceptor;
use crate::conn::{Closing, Ended, Line, LineReader, Outbox, greeted};
use crate::limits::MESSAGE_MAX;
use crate::request::{Outcome, Reason};
use crate::submit::Submit;
use crate::wire::codes::kind;
use crate::wire::{Frame, Incoming, Message, Role, SenderMessage};

/// When to come back when the door has no memory to give.
const FULL_AFTER: Duration = Duration::from_secs(1);
/// How long what waits may be written to a sender that has ended its side.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// What a message costs at least.
const MESSAGE_BYTES: usize = 256;

/// Bounds of a door.
#[derive(Debug, Clone)]
pub struct DoorConfig {
    /// Connections, at most; more are closed with a reason. Default: 1024.
    pub connections_max: usize,
    /// Requests of one connection whose outcome is not written yet, at most; then it is not read.
    /// Default: 256.
    pub in_flight_max: usize,
    /// Bytes of requests of one connection, and of outcomes for it, that are not done with. Over
    /// it, it is not read, and the answers of reads become rejections that ask to come back. One
    /// request goes always. Default: 64 MiB.
    pub bytes_in_flight_max: usize,
    /// The same over all connections. Over it, requests that are longer than 8 KiB are rejected,
    /// and ask to come back. Default: 512 MiB.
    pub bytes_max: usize,
}

impl Default for DoorConfig {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            in_flight_max: 256,
            bytes_in_flight_max: 64 << 20,
            bytes_max: 512 << 20,
        }
    }
}

/// A door that is open. Dropping it is [`SocketDoor::close`].
#[derive(Debug)]
pub struct SocketDoor {
    acceptor: Acceptor,
    shared: Arc<Shared>,
}

struct Shared {
    submit: Arc<dyn Submit>,
    config: DoorConfig,
    /// Bytes of all connections.
    bytes: AtomicUsize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("submit", &self.submit)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl SocketDoor {
    /// Serves senders that connect to this listener until [`Self::close`].
    ///
    /// # Errors
    ///
    /// The listener has no address, or the system has no thread.
    pub fn start(
        listener: VirtualListener,
        submit: Arc<dyn Submit>,
        config: DoorConfig,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { submit, config, bytes: AtomicUsize::new(0) });
        let (serving, most) = (Arc::clone(&shared), shared.config.connections_max);
        let serve = move |line: &Arc<Line>| serving.serve_line(line);
        let acceptor = Acceptor::start::<SenderMessage>(listener, "spool-door", most, serve)?;
        Ok(Self { acceptor, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.acceptor.addr()
    }

    /// How many senders are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.acceptor.connections()
    }

    /// Bytes of requests and outcomes that are not done with.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Ends all connections, after the outcomes that wait if they can be written soon, and all
    /// threads. Outcomes that come later go nowhere: senders ask again elsewhere. Blocks a few
    /// seconds at most.
    pub fn close(&self) {
        self.acceptor.close();
    }
}

/// What a request or an outcome costs while it is there.
struct Cost {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Cost {
    fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), bytes: 0 }
    }

    /// True, and more is taken, if all connections together may have so much.
    fn grow(&mut self, bytes: usize) -> bool {
        let before = self.shared.bytes.fetch_add(bytes, Ordering::SeqCst);
        if before.saturating_add(bytes) > self.shared.config.bytes_max {
            self.shared.bytes.fetch_sub(bytes, Ordering::SeqCst);
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// Whatever all have.
    fn add(&mut self, bytes: usize) {
        self.shared.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.bytes += bytes;
    }
}

impl Drop for Cost {
    fn drop(&mut self) {
        self.shared.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// An answer on its way out, and what it costs until it is written.
struct Answer {
    message: SenderMessage,
    _cost: Option<Cost>,
}

impl Message for Answer {
    fn kind(&self) -> u16 {
        self.message.kind()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.message.encode(out);
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, crate::wire::WireError> {
        SenderMessage::decode(kind, body).map(Self::free)
    }
}

impl Answer {
    fn free(message: SenderMessage) -> Self {
        Self { message, _cost: None }
    }
}

impl Shared {
    fn serve_line(self: &Arc<Self>, line: &Arc<Line>) {
        let mut reader = line.reader();
        let version = match greeted::<SenderMessage>(line, &mut reader, Role::Sender) {
            Ok(version) => version,
            Err(ended) => return log::info!("a sender was not welcomed: {ended}"),
        };
        let outbox = Arc::new(Outbox::new());
        outbox.push(Answer::free(SenderMessage::Welcome { version }), 0);
        let intake = Arc::downgrade(&outbox);
        line.at_end(move || {
            if let Some(outbox) = intake.upgrade() {
                outbox.end_intake();
            }
        });
        thread::scope(|scope| {
            let _closing = Closing(&outbox);
            let writes = || {
                if let Err(error) = outbox.run(&line.stream) {
                    log::info!("a connection of a sender failed: {error}");
                }
            };
            let builder = thread::Builder::new().name("spool-door-write".to_owned());
            if let Err(error) = builder.spawn_scoped(scope, writes) {
                return log::warn!("no thread for a connection of a sender: {error}");
            }
            if let Err(ended) = self.read(&mut reader, &outbox) {
                log::info!("a connection of a sender ends: {ended}");
                if let Some(bye) = ended.bye() {
                    outbox.push(Answer::free(SenderMessage::Bye(bye)), 0);
                }
            }
            if !outbox.finish(Instant::now() + END_TIMEOUT) {
                line.sever();
            }
        });
    }

    /// Reads what a sender says until it ends.
    fn read(
        self: &Arc<Self>,
        reader: &mut LineReader,
        outbox: &Arc<Outbox<Answer>>,
    ) -> Result<(), Ended> {
        let DoorConfig { in_flight_max, bytes_in_flight_max, .. } = self.config;
        while outbox.wait_room(in_flight_max, bytes_in_flight_max) {
            let mut cost = Cost::new(self);
            let charge = &mut |bytes| cost.grow(bytes);
            let Some(incoming) = reader.read_charged(MESSAGE_MAX, charge)? else { return Ok(()) };
            match incoming {
                Incoming::Whole(frame) => {
                    cost.add(MESSAGE_BYTES + frame.body.len() - cost.bytes);
                    self.take(frame, cost, outbox)?;
                }
                Incoming::Skipped(head) => {
                    drop(cost);
                    let Some(tag) = SenderMessage::tag_of(head.kind, &head.body) else {
                        return Err(Ended::Direction(head.kind));
                    };
                    outbox.push(Answer::free(answer(head.kind, tag, full(head.kind))), 0);
                }
            }
        }
        Ok(())
    }

    fn take(
        self: &Arc<Self>,
        frame: Frame,
        cost: Cost,
        outbox: &Arc<Outbox<Answer>>,
    ) -> Result<(), Ended> {
        let message = match frame.decode() {
            Ok(message) => message,
            Err(error) => {
                // The next frame stands where it should: only this one is refused.
                let is_asked = matches!(frame.kind, kind::REQUEST | kind::FETCH);
                let tag = SenderMessage::tag_of(frame.kind, &frame.body).filter(|_| is_asked);
                let Some(tag) = tag else { return Err(error.into()) };
                let reason = Reason::Malformed(error.to_string());
                let outcome = match frame.kind {
                    kind::FETCH => Outcome::InDoubt,
                    _ => Outcome::Rejected { reason, retry_after: Duration::ZERO },
                };
                outbox.push(Answer::free(answer(frame.kind, tag, outcome)), 0);
                return Ok(());
            }
        };
        drop(frame);
        match message {
            SenderMessage::Request { tag, pair, request } => {
                let may_reject = request.kind.only_looks();
                let ticket = Ticket::new(kind::REQUEST, tag, may_reject, cost, outbox);
                let reply = Box::new(move |outcome| ticket.answer(Some(outcome)));
                self.submit.submit(&pair, request, reply);
            }
            SenderMessage::Fetch { tag, pair, id } => {
                let ticket = Ticket::new(kind::FETCH, tag, true, cost, outbox);
                let reply = Box::new(move |outcome| ticket.answer(outcome));
                self.submit.fetch(&pair, id, reply);
            }
            SenderMessage::Bye(bye) => return Err(Ended::Bye(bye)),
            other => return Err(Ended::Direction(other.kind())),
        }
        Ok(())
    }
}

/// A question under way. One that is never answered is in doubt.
struct Ticket {
    kind: u16,
    tag: u64,
    may_reject: bool,
    cost: Option<Cost>,
    outbox: Arc<Outbox<Answer>>,
}

impl Ticket {
    fn new(
        kind: u16,
        tag: u64,
        may_reject: bool,
        cost: Cost,
        outbox: &Arc<Outbox<Answer>>,
    ) -> Self {
        outbox.reserve(cost.bytes);
        Self { kind, tag, may_reject, cost: Some(cost), outbox: Arc::clone(outbox) }
    }

    fn answer(mut self, outcome: Option<Outcome>) {
        self.send(outcome);
    }

    fn send(&mut self, outcome: Option<Outcome>) {
        let Some(asked) = self.cost.take() else { return };
        let (shared, reserved) = (Arc::clone(&asked.shared), asked.bytes);
        drop(asked);
        let bytes = MESSAGE_BYTES + outcome.as_ref().map_or(0, bytes_of);
        let mut cost = Cost::new(&shared);
        let waiting = self.outbox.bytes_unwritten();
        let most = shared.config.bytes_in_flight_max;
        // One answer goes always.
        let outcome = if waiting == 0 || !self.may_reject {
            cost.add(bytes);
            outcome
        } else if waiting.saturating_add(bytes) <= most && cost.grow(bytes) {
            outcome
        } else {
            cost.add(MESSAGE_BYTES);
            Some(full(self.kind))
        };
        let message = match outcome {
            Some(outcome) => answer(self.kind, self.tag, outcome),
            None => SenderMessage::Fetched { tag: self.tag, outcome: None },
        };
        let weight = cost.bytes;
        let answer = Answer { message, _cost: Some(cost) };
        self.outbox.push_reserved(answer, reserved, weight);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.cost.is_some() {
            log::error!("a request was dropped without an outcome");
            self.send(Some(Outcome::InDoubt));
        }
    }
}

/// There is no room for a question or its answer. Of a request that is asked about, a rejection
/// would say that it had no effect.
fn full(kind: u16) -> Outcome {
    match kind {
        kind::FETCH => Outcome::InDoubt,
        _ => Outcome::Rejected { reason: Reason::HoldFull, retry_after: FULL_AFTER },
    }
}

/// The message that answers a question of this type.
fn answer(kind: u16, tag: u64, outcome: Outcome) -> SenderMessage {
    match kind {
        kind::FETCH => SenderMessage::Fetched { tag, outcome: Some(outcome) },
        _ => SenderMessage::Outcome { tag, outcome },
    }
}

fn bytes_of(outcome: &Outcome) -> usize {
    if let Outcome::Applied { answer } = outcome { answer.len() } else { 0 }
}
