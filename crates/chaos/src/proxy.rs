//! The proxy as its user sees it: settings, a handle, and what can go wrong.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Poll, Waker};
use thiserror::Error;

use crate::conn::Setup;
use crate::event::{EventLog, Events};
use crate::fault::{Fault, Target};
use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::summary::{Stats, Summary};
use crate::worker::{Command, LISTENER, WAKER, Worker};

/// How a proxy is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens. Port 0 takes a free one: see [`Proxy::local_addr`].
    pub listen: SocketAddr,
    /// Where each connection is forwarded to.
    pub upstream: SocketAddr,
    /// The faults that it does by itself; by default none.
    pub plan: Plan,
    /// For the jitter of delays. The faults of a seeded plan do not depend on it. Default 0.
    pub seed: u64,
    /// Bytes that are held for each direction of a connection, at least 4 KiB; eight times as
    /// much where a delay is set, for the bytes on the way. Default 256 KiB. What the proxy can
    /// hold altogether is `max_connections * 2 * (8 * buffer + history)`; it is taken only as it
    /// is used.
    pub buffer: usize,
    /// Forwarded bytes kept for each direction, for [`Fault::Duplicate`]. Default 64 KiB.
    pub history: usize,
    /// Connections at the same time, with those that were cut and not yet closed by their
    /// peers; at least 1. Others wait in the accept queue. Default 512.
    pub max_connections: usize,
    /// How long a cut after a number of bytes waits at most until the kernels of the receivers
    /// have acknowledged the bytes before it. With zero an RST may overtake them. Default 500 ms.
    pub flush: Duration,
    /// How long the upstream may take to answer a connect. Default 10 s.
    pub connect_timeout: Duration,
}

impl Config {
    /// The default settings: no faults.
    pub fn new(listen: SocketAddr, upstream: SocketAddr) -> Self {
        Self {
            listen,
            upstream,
            plan: Plan::none(),
            seed: 0,
            buffer: 256 << 10,
            history: 64 << 10,
            max_connections: 512,
            flush: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(10),
        }
    }

    /// The same settings with a plan.
    #[must_use]
    pub fn with_plan(mut self, plan: Plan) -> Self {
        self.plan = plan;
        self
    }
}

/// Why a proxy did not start. It is inside the [`io::Error`] that [`Proxy::spawn`] returns.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}; choose another port, or 0 for any that is free")]
    Listen {
        /// The address that was asked for.
        addr: SocketAddr,
        /// The reason of the system.
        source: io::Error,
    },
    /// The system gave no event queue.
    #[error("cannot set up an event queue: {source}; is the limit of open files reached?")]
    Poll {
        /// The reason of the system.
        source: io::Error,
    },
    /// The system gave no thread.
    #[error("cannot start the thread of the proxy on {addr}: {source}")]
    Thread {
        /// The address that was asked for.
        addr: SocketAddr,
        /// The reason of the system.
        source: io::Error,
    },
}

impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> Self {
        let (SpawnError::Listen { source, .. }
        | SpawnError::Poll { source }
        | SpawnError::Thread { source, .. }) = &error;
        Self::new(source.kind(), error)
    }
}

/// Why a fault was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InjectError {
    /// It is over, was cut already, or never was.
    #[error("there is no open connection {id}; Proxy::stats lists those that are open")]
    NoSuchConnection {
        /// The number that was asked for.
        id: u64,
    },
    /// The proxy has ended by itself.
    #[error("the proxy has ended; Proxy::stop tells why")]
    Ended,
}

/// A running fault proxy. One thread of its own does all the work; the methods may be called from
/// any thread and take effect before they return. Dropping it stops it.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    upstream: Mutex<SocketAddr>,
    log: Arc<EventLog>,
    commands: Sender<Command>,
    waker: Waker,
    last: Arc<Mutex<Summary>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens and starts to forward. The clock of the plan starts here.
    ///
    /// # Errors
    /// A [`SpawnError`] inside the [`io::Error`], which has its kind.
    pub fn spawn(config: Config) -> io::Result<Self> {
        let gate = Gate::bind(config.listen, LISTENER)
            .map_err(|source| SpawnError::Listen { addr: config.listen, source })?;
        let addr = gate.addr();
        let poll = Poll::new().map_err(|source| SpawnError::Poll { source })?;
        let waker =
            Waker::new(poll.registry(), WAKER).map_err(|source| SpawnError::Poll { source })?;
        let log = Arc::new(EventLog::default());
        let ledger = Ledger::new(config.plan.steps, config.flush, Arc::clone(&log));
        let setup = Setup {
            seed: config.seed,
            buffer: config.buffer.max(4096),
            history: config.history,
            connect_timeout: config.connect_timeout,
        };
        let (commands, receiver) = channel();
        let most = config.max_connections.max(1);
        let worker = Worker::new(poll, gate, ledger, setup, most, config.upstream, receiver);
        let last = Arc::new(Mutex::new(Summary::default()));
        let ending = Ending { log: Arc::clone(&log), last: Arc::clone(&last) };
        let thread = std::thread::Builder::new()
            .name("chaos-proxy".to_owned())
            .spawn(move || ending.keep(worker.run()))
            .map_err(|source| SpawnError::Thread { addr, source })?;
        let upstream = Mutex::new(config.upstream);
        Ok(Self { addr, upstream, log, commands, waker, last, thread: Some(thread) })
    }

    /// Where it listens, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where new connections are forwarded to.
    pub fn upstream(&self) -> SocketAddr {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forwards connections that are accepted from now on to another address; those that are open
    /// stay where they are.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        let mut known = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        *known = upstream;
        let (reply, answer) = channel();
        // Whoever connects after this call is to be redirected, so it waits. A proxy that has
        // ended accepts nothing, so there is nothing to redirect.
        let _ = self.send(Command::Upstream(upstream, reply)).map(|()| answer.recv());
    }

    /// Does a fault now; how many connections it hit. What the proxy holds for a connection that
    /// is cut is lost. [`Fault::Refuse`] hits the listener, whatever the target, and counts 0.
    ///
    /// # Errors
    /// [`InjectError::NoSuchConnection`] for a [`Target::Conn`] that is not open, and
    /// [`InjectError::Ended`].
    pub fn inject(&self, fault: Fault, target: Target) -> Result<usize, InjectError> {
        let (reply, answer) = channel();
        self.send(Command::Inject(fault, target, reply))?;
        answer.recv().map_err(|_| InjectError::Ended)?
    }

    /// Does a fault once so many more bytes of all connections together have been forwarded,
    /// exactly there, to the connection that carries the last of them: a step that joins the plan.
    ///
    /// # Errors
    /// [`InjectError::Ended`].
    pub fn inject_after(&self, bytes: u64, fault: Fault) -> Result<(), InjectError> {
        let (reply, answer) = channel();
        self.send(Command::InjectAfter(bytes, fault, reply))?;
        answer.recv().map_err(|_| InjectError::Ended)
    }

    /// Numbers as of now.
    pub fn stats(&self) -> Stats {
        let (reply, answer) = channel();
        match self.send(Command::Stats(reply)).map(|()| answer.recv()) {
            Ok(Ok(stats)) => stats,
            _ => Stats { summary: self.last_summary(), connections: Vec::new() },
        }
    }

    /// Reads what happens, from the start of the proxy on.
    pub fn events(&self) -> Events {
        Events::new(Arc::clone(&self.log))
    }

    /// Closes all sockets, joins the thread and returns the sums. Connections that are still open
    /// are closed without a fault and do not count as cut.
    pub fn stop(mut self) -> Summary {
        self.join();
        self.last_summary()
    }

    fn last_summary(&self) -> Summary {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send(&self, command: Command) -> Result<(), InjectError> {
        self.commands.send(command).map_err(|_| InjectError::Ended)?;
        self.waker.wake().map_err(|error| {
            log::error!("the proxy on {} cannot be woken: {error}", self.addr);
            InjectError::Ended
        })
    }

    fn join(&mut self) {
        // It fails if the thread has ended by itself; joining it is right all the same.
        let _ = self.send(Command::Stop);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("the thread of the proxy on {} has panicked", self.addr);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.join();
        }
    }
}

/// Lets readers and callers know of the end of the thread, be it by a panic.
struct Ending {
    log: Arc<EventLog>,
    last: Arc<Mutex<Summary>>,
}

impl Ending {
    fn keep(self, summary: Summary) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = summary;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.error = Some("the thread of the proxy has panicked".to_owned());
        }
        self.log.close();
    }
}
