//! Connections: one thread that reads and writes all of them, and a few that dial.
//!
//! A [`Handler`] is told what comes, on the reactor's own thread. Whoever has a [`Reactor`], on
//! whatever thread, sends, holds and closes; nothing of that blocks. A message is written whole,
//! and each time the first of the most urgent [`Lane`] in which one waits.
//!
//! What a peer can cost is bounded: it has [`GREETING_TIMEOUT`] until the handler says
//! [`Reactor::greeted`], memory is taken as bytes come and only for what is announced within the
//! limits, each connection gets a share of each turn only, and one that does not read what is sent
//! to it is ended.

mod dial;
mod doors;
mod line;
mod shared;
mod turn;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use eversock_engine::{Config, PublicKey};
use eversock_socket::VirtualListener;

use self::shared::{Order, Shared};
pub use crate::shard::input::ConnId;
use crate::wire::Bye;
pub use crate::wire::peer::Lane;

/// How long a connection may take until the handler says that it is greeted.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what waits may take to be written once a connection is closed.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that may wait to be written to a connection, unless [`Reactor::set_queue_max`] says
/// otherwise.
pub const QUEUE_MAX: usize = 4 << 20;

/// Bytes of messages that are not whole yet, of all connections together, unless
/// [`Reactor::set_partial_max`] says otherwise. Beyond that the connection with the most is ended,
/// but for those that [`Reactor::spare`] was called for.
pub const PARTIAL_MAX: usize = 256 << 20;

/// A connection that has come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// That of [`Reactor::listen`] or [`Reactor::dial`].
    pub token: u64,
    /// This side has dialled.
    pub dialled: bool,
    /// The peer's address.
    pub peer: SocketAddr,
    /// The static key that the peer has proven.
    pub peer_key: Option<PublicKey>,
}

/// What is done about what comes. All of it is called on the reactor's thread and must not block; a
/// panic ends the reactor and all its connections.
pub trait Handler: Send + 'static {
    /// There is a new connection. Until [`Reactor::greeted`] its messages can have
    /// [`GREETING_MAX`](crate::limits::GREETING_MAX) bytes each.
    fn opened(&mut self, conn: ConnId, opened: Opened);

    /// A whole message came.
    ///
    /// # Errors
    ///
    /// What the peer is told before the connection is closed. No more of its messages come.
    fn frame(&mut self, conn: ConnId, kind: u16, body: &[u8]) -> Result<(), Bye>;

    /// The connection is over. Told once of each that was opened, whoever ended it.
    fn closed(&mut self, conn: ConnId, why: &str);

    /// Nobody could be reached, or the peer did not prove itself.
    fn dial_failed(&mut self, token: u64, why: String);

    /// Called after each round of events and each [`Reactor::wake`]; gives when to be called again
    /// at the latest.
    fn turn(&mut self) -> Option<Instant>;
}

/// A handle to the reactor. Cheap to clone. Once the reactor has ended it does nothing.
#[derive(Clone)]
pub struct Reactor {
    shared: Arc<Shared>,
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").finish_non_exhaustive()
    }
}

impl Reactor {
    /// Starts the thread `name`, on which `make` makes the handler.
    ///
    /// # Errors
    ///
    /// The system has no descriptors or threads left.
    pub fn start<H: Handler>(
        name: &str,
        make: impl FnOnce(Self) -> H + Send + 'static,
    ) -> io::Result<(Self, ReactorThread)> {
        let shared = Arc::new(Shared::new(name)?);
        let this = Self { shared: Arc::clone(&shared) };
        let (own, made_for) = (Arc::clone(&shared), this.clone());
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || turn::run(&own, move || make(made_for)))?;
        Ok((this, ReactorThread { shared, thread: Some(thread) }))
    }

    /// Takes connections from a listener, at most so many at a time: beyond that they are told to
    /// come later.
    pub fn listen(&self, listener: VirtualListener, token: u64, connections_max: usize) {
        self.shared.order(Order::Listen { listener, token, connections_max });
    }

    /// Dials one peer, which may have several addresses; `opened` or `dial_failed` follows.
    pub fn dial(&self, addrs: Vec<SocketAddr>, config: Config, token: u64) {
        dial::begin(&self.shared, dial::Job { addrs, config, token });
    }

    /// What came of a dial is of no use any more. If it still waits to begin, it does not, and
    /// nothing is told of it; else that is told as usual.
    pub fn forget(&self, token: u64) {
        dial::forget(&self.shared, token);
    }

    /// Sends a message, header and body ([`wire::frame`](crate::wire::frame)). If more waits then
    /// than may, the connection is ended: its peer does not read. Dropped if it is over.
    pub fn send(&self, conn: ConnId, lane: Lane, frame: Vec<u8>) {
        self.shared.send(conn, lane, frame);
    }

    /// Bytes that wait to be written; 0 if there is no such connection.
    #[must_use]
    pub fn queued(&self, conn: ConnId) -> usize {
        self.shared.gauge(conn).map_or(0, |gauge| gauge.queued())
    }

    /// How many bytes may wait to be written to the connection.
    pub fn set_queue_max(&self, conn: ConnId, bytes: usize) {
        if let Some(gauge) = self.shared.gauge(conn) {
            gauge.set_queue_max(bytes);
        }
    }

    /// How many bytes of messages may be here that are not whole yet, of all connections together.
    pub fn set_partial_max(&self, bytes: usize) {
        self.shared.set_partial_max(bytes);
    }

    /// The connection is not ended for what others take of that.
    pub fn spare(&self, conn: ConnId) {
        if let Some(gauge) = self.shared.gauge(conn) {
            gauge.set_spared();
        }
    }

    /// The greeting is done: messages can have [`MESSAGE_MAX`](crate::limits::MESSAGE_MAX) bytes
    /// from the next one on, and the connection stays.
    pub fn greeted(&self, conn: ConnId) {
        if let Some(gauge) = self.shared.gauge(conn) {
            gauge.set_greeted();
        }
    }

    /// Gives no more messages of the connection to the handler, and reads no more of them, until it
    /// is called with `false`. Called on the reactor's thread it takes effect before the next
    /// message.
    pub fn hold(&self, conn: ConnId, on: bool) {
        if let Some(gauge) = self.shared.gauge(conn) {
            gauge.set_held(on);
            self.shared.order(Order::Look { conn });
        }
    }

    /// Ends the connection after what waits, at most [`CLOSE_TIMEOUT`] later. No more of its
    /// messages come.
    pub fn close(&self, conn: ConnId) {
        if let Some(gauge) = self.shared.gauge(conn) {
            gauge.set_closing();
            self.shared.order(Order::Close { conn });
        }
    }

    /// Calls [`Handler::turn`] soon.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// Whether nothing carries the session right now: it is being resumed. False if there is no
    /// such connection. Takes the session's locks shortly.
    #[must_use]
    pub fn is_cut(&self, conn: ConnId) -> bool {
        self.shared.gauge(conn).is_some_and(|gauge| gauge.is_cut())
    }

    /// Why the reactor has ended by itself, if it has: its handler has panicked, or waiting failed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }
}

/// The reactor's threads. Dropping it is [`ReactorThread::close`].
#[derive(Debug)]
pub struct ReactorThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl ReactorThread {
    /// Ends all connections after what waits to be written, and all threads. Blocks a few seconds
    /// at most, or as long as the `connect_timeout` of what is being dialled.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stop();
        let dialling = dial::end(&self.shared);
        for thread in self.thread.take().into_iter().chain(dialling) {
            // Dropped by its own handler: there is nobody to wait for.
            if thread.thread().id() == thread::current().id() {
                return;
            }
            if thread.join().is_err() {
                log::error!("a thread of {} has panicked", self.shared.name());
            }
        }
    }
}

impl Drop for ReactorThread {
    fn drop(&mut self) {
        self.end();
    }
}
