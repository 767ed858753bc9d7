//! A server at the other end of a virtual socket, as a [`Target`].
//!
//! The virtual socket survives cuts of its connections, so that a cut is not the loss of the
//! server; the connection is lost for good when the grace is over, or when the server says that it
//! was started anew. Then calls fail, and it is dialled again and again.

mod fence;
mod table;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eversock_engine::Config;
pub use fence::FenceCommand;
use table::{Gone, Table, Waiter, results_for};

use crate::conn::client::{Client, Talk};
use crate::conn::{Ended, guarded, lock};
use crate::limits::{BATCH_MAX, DEADLINE_MAX, KEY_MAX, MESSAGE_MAX, PAYLOAD_MAX};
use crate::record::Record;
use crate::target::{Call, CallFailed, CallResult, Class, Grant, Reply, Report, Target};
use crate::wire::codes::bye;
use crate::wire::{Bye, Message, Role, ServerMessage};

/// Bytes that are written together, if so many wait.
const WRITE_BYTES: usize = 64 << 10;
/// What a record costs in a message besides its key and payload, at most.
const RECORD_BYTES: usize = 64;
/// Bytes that the items of one call may have: the rest is for the call itself.
const CALL_BYTES_MAX: usize = MESSAGE_MAX - 1024;

/// How a server is reached.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// For messages to people, and for the fence command.
    pub name: String,
    /// What the server has to be; `None`: what it says.
    pub class: Option<Class>,
    /// Of the virtual socket. Its `grace` is how long a server that cannot be reached is waited for
    /// before calls fail; its `connect_timeout` is how long [`Target::close`] may take.
    pub socket: Config,
    /// Questions without an answer, at most. Default: 256.
    pub in_flight_max: usize,
    /// Bytes of calls without an answer, at most; one call goes always. Default: 64 MiB.
    pub bytes_in_flight_max: usize,
    /// The longest first wait between attempts to connect, and the longest of all. Default: 100 ms
    /// and 5 s.
    pub back_off: (Duration, Duration),
    /// What [`Target::fence`] runs.
    pub fence: Option<FenceCommand>,
}

impl LinkConfig {
    /// The defaults, with a grace of 10 s and attempts to connect of 5 s.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let grace = Duration::from_secs(10);
        Self {
            name: name.into(),
            class: None,
            socket: Config {
                grace,
                grace_after_close: grace,
                connect_timeout: Duration::from_secs(5),
                ..Config::default()
            },
            in_flight_max: 256,
            bytes_in_flight_max: 64 << 20,
            back_off: (Duration::from_millis(100), Duration::from_secs(5)),
            fence: None,
        }
    }
}

/// See the module. Dropping it is [`Target::close`].
#[derive(Debug)]
pub struct SocketTarget {
    link: Arc<Link>,
    client: Client<Link>,
}

struct Link {
    addrs: Vec<SocketAddr>,
    config: LinkConfig,
    state: Mutex<State>,
}

struct State {
    /// Nothing is asked any more.
    closed: bool,
    /// Why nothing can be asked; nothing while a connection stands.
    error: Option<String>,
    /// What the server said last.
    class: Option<Class>,
    table: Table,
    /// Who waits for the fence command, while it runs.
    fencing: Option<Vec<Reply<bool>>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("name", &self.config.name)
            .field("addrs", &self.addrs)
            .finish_non_exhaustive()
    }
}

impl SocketTarget {
    /// Starts to connect, in the background, to the server at these addresses; all lead to the same
    /// server and are raced.
    ///
    /// # Errors
    ///
    /// There is no address, or the system has no thread.
    pub fn new(addrs: Vec<SocketAddr>, config: LinkConfig) -> io::Result<Arc<Self>> {
        if addrs.is_empty() {
            let text = format!("{} has no address to connect to", config.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let state = Mutex::new(State {
            closed: false,
            error: Some("it is being connected to for the first time".to_owned()),
            class: None,
            table: Table::new(config.in_flight_max.max(1), config.bytes_in_flight_max),
            fencing: None,
        });
        let (socket, back_off) = (config.socket.clone(), config.back_off);
        let link = Arc::new(Link { addrs, config, state });
        let client = Client::start(Arc::clone(&link), socket, back_off, "spool-link")?;
        Ok(Arc::new(Self { link, client }))
    }

    /// Whether a connection stands; it may be cut right now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.error().is_none()
    }

    /// Why there is no connection; nothing if there is one.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        lock(&self.link.state).error.clone()
    }

    /// Puts a question in to be written, or says at once that it cannot be.
    fn ask(
        &self,
        waiter: Waiter,
        bytes: usize,
        timeout: Duration,
        message: impl FnOnce(u64) -> ServerMessage,
    ) {
        let mut state = lock(&self.link.state);
        let asked = match state.error.clone() {
            Some(error) => Err((waiter, error)),
            None => {
                // Beyond what an `Instant` can say nobody waits anyway.
                let timeout = timeout.min(DEADLINE_MAX);
                state.table.ask(waiter, bytes, Instant::now(), timeout, message)
            }
        };
        drop(state);
        match asked {
            Ok(()) => self.client.look(),
            Err((waiter, why)) => waiter.fail(false, &Gone::Ended(why)),
        }
    }
}

impl Target for SocketTarget {
    fn class(&self) -> Class {
        // Whoever is not known yet promises nothing.
        let said = || lock(&self.link.state).class;
        self.link.config.class.or_else(said).unwrap_or(Class::Opaque)
    }

    fn call(&self, call: Call, reply: Reply<CallResult>) {
        let Call { epoch, items, job, timeout } = call;
        let bytes = items.iter().map(bytes_of).sum::<usize>();
        if let Some(why) = too_large(&items, bytes) {
            return reply(Err(CallFailed::Unreachable(why)));
        }
        let waiter = Waiter::Call { epoch, items: items.len(), reply };
        self.ask(waiter, bytes, timeout, |call| ServerMessage::Execute { call, epoch, job, items });
    }

    fn probe(&self, timeout: Duration, reply: Reply<Option<Report>>) {
        self.ask(Waiter::Probe(reply), 0, timeout, |n| ServerMessage::Probe { n });
    }

    /// Without an answer within the lease, it is as if the server had refused.
    fn grant(&self, grant: Grant, reply: Reply<bool>) {
        let message = |n| ServerMessage::Grant { n, grant };
        self.ask(Waiter::Grant(reply), 0, grant.lease, message);
    }

    fn release(&self, epoch: u64, timeout: Duration, reply: Reply<bool>) {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let message = |n| ServerMessage::Release { n, epoch, timeout_ms };
        self.ask(Waiter::Release(reply), 0, timeout, message);
    }

    /// Whoever asks while the command runs gets its result.
    fn fence(&self, reply: Reply<bool>) {
        let Some(command) = self.link.config.fence.clone() else { return reply(false) };
        let mut state = lock(&self.link.state);
        if state.closed {
            drop(state);
            return reply(false);
        }
        if let Some(waiting) = &mut state.fencing {
            return waiting.push(reply);
        }
        state.fencing = Some(vec![reply]);
        drop(state);
        let link = Arc::clone(&self.link);
        let spawned = self.client.spawn("spool-link-fence".to_owned(), move || {
            let done = command.run(&link.config.name, &|| lock(&link.state).closed);
            link.fenced(done);
        });
        if let Err(error) = spawned {
            log::error!("{} is not fenced: no thread: {error}", self.link.config.name);
            self.link.fenced(false);
        }
    }

    /// Blocks up to the `connect_timeout` if a connection is being made, else shortly.
    fn close(&self) {
        lock(&self.link.state).closed = true;
        self.link.lost("it is closed");
        self.client.close();
    }
}

impl Drop for SocketTarget {
    fn drop(&mut self) {
        self.close();
    }
}

impl Link {
    fn fenced(&self, done: bool) {
        let waiting = lock(&self.state).fencing.take();
        waiting.into_iter().flatten().for_each(|reply| guarded(|| reply(done)));
    }
}

impl Talk for Link {
    type Message = ServerMessage;
    const ROLE: Role = Role::Front;

    fn name(&self) -> &str {
        &self.config.name
    }

    fn place(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(self.addrs.clone())
    }

    fn welcomed(&self, welcome: ServerMessage) -> Result<(), Ended> {
        let ServerMessage::Welcome { class, .. } = welcome else {
            return Err(Ended::Direction(welcome.kind()));
        };
        if let Some(wanted) = self.config.class
            && wanted != class
        {
            let text = format!(
                "{} is {class:?}, and is configured as {wanted:?}; correct the one or the other",
                self.config.name
            );
            log::error!("{text}");
            return Err(Ended::Refused(Bye { code: bye::MISMATCH, text }));
        }
        lock(&self.state).class = Some(class);
        Ok(())
    }

    fn stands(&self) {
        let mut state = lock(&self.state);
        if !state.closed {
            state.error = None;
        }
    }

    fn to_write(&self) -> Vec<ServerMessage> {
        lock(&self.state).table.next_to_write(WRITE_BYTES)
    }

    /// Answers the question to which this is the answer. One that is not known any more was late.
    fn hear(&self, message: ServerMessage) -> Result<bool, Ended> {
        let number = match &message {
            ServerMessage::Results { call, .. } | ServerMessage::Fenced { call, .. } => *call,
            ServerMessage::Report { n, .. }
            | ServerMessage::Granted { n, .. }
            | ServerMessage::Released { n, .. } => *n,
            other => return Err(Ended::Direction(other.kind())),
        };
        let waiter = lock(&self.state).table.answered(number);
        let Some(waiter) = waiter else { return Ok(false) };
        guarded(|| match (waiter, message) {
            (Waiter::Call { items, reply, .. }, ServerMessage::Results { results, .. }) => {
                reply(results_for(items, results));
            }
            (Waiter::Call { epoch, reply, .. }, ServerMessage::Fenced { seen, .. }) => {
                reply(Err(CallFailed::Fenced { asked: epoch, seen }));
            }
            (Waiter::Probe(reply), ServerMessage::Report { report, .. }) => reply(Some(report)),
            (Waiter::Grant(reply), ServerMessage::Granted { done, .. })
            | (Waiter::Release(reply), ServerMessage::Released { done, .. }) => reply(done),
            (waiter, other) => {
                let why = format!("it answered with a message of type {:#06x}", other.kind());
                waiter.fail(true, &Gone::Ended(why));
            }
        });
        Ok(false)
    }

    fn due(&self) -> Option<Instant> {
        let mut state = lock(&self.state);
        let due = state.table.due(Instant::now());
        let next = state.table.next_deadline();
        drop(state);
        due.into_iter().for_each(|asked| guarded(|| asked.fail(None)));
        next
    }

    fn lost(&self, why: &str) {
        let mut state = lock(&self.state);
        // What the connection died of then is of no interest.
        let why = if state.closed { "it is closed" } else { why };
        state.error = Some(why.to_owned());
        let left = state.table.drain();
        drop(state);
        left.into_iter().for_each(|asked| guarded(|| asked.fail(Some(why))));
    }
}

fn bytes_of(item: &Record) -> usize {
    item.key.len() + item.payload.len() + RECORD_BYTES
}

/// Why a server would not take these, or they fit into no message.
fn too_large(items: &[Record], bytes: usize) -> Option<String> {
    if items.len() > BATCH_MAX {
        return Some(format!("{} items are too many for one call", items.len()));
    }
    if bytes > CALL_BYTES_MAX {
        return Some(format!("{bytes} bytes are too many for one call"));
    }
    let item =
        items.iter().find(|item| item.key.len() > KEY_MAX || item.payload.len() > PAYLOAD_MAX)?;
    Some(format!("the key or the payload of {} is too long", item.id))
}
