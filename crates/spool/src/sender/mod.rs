//! The sender's side: asks a front over a virtual socket, and asks again when it must.
//!
//! A cut of the connection is the virtual socket's business and not noticed here. When the session
//! is lost for good, as the front was started anew or another one has to be asked, what is not
//! answered is asked again under the same ids, until its deadline.

mod table;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use eversock_engine::Config;
use table::{Question, Table, Told};

use crate::conn::client::{Client, Talk};
use crate::conn::dial::jitter;
use crate::conn::{Ended, guarded, lock, wait};
use crate::limits::{DEADLINE_MAX, KEY_MAX, PAYLOAD_MAX};
use crate::request::{Outcome, Reason, Request, RequestId};
use crate::target::Reply;
use crate::wire::{Message, Role, SenderMessage, is_pair_name};

/// Bytes that are written together, if so many wait.
const WRITE_BYTES: usize = 64 << 10;
/// When to come back with a request for which there is no room here.
const FULL_AFTER: Duration = Duration::from_millis(100);

/// How a sender asks.
#[derive(Debug, Clone)]
pub struct SenderConfig {
    /// Of the virtual socket. Its `grace` is how long one front is waited for before the next one
    /// is asked; its `connect_timeout` is how long [`Sender::close`] may take. Default: a grace of
    /// 10 s, and attempts to connect of 5 s.
    pub socket: Config,
    /// Whether requests that are rejected with a time to come back are asked again by the sender
    /// itself, within their deadline. Default: yes.
    pub retry: bool,
    /// Requests and fetches without an answer, at most. Default: 256.
    pub in_flight_max: usize,
    /// Bytes of requests without an answer, at most; one request goes always. Default: 64 MiB.
    pub bytes_in_flight_max: usize,
    /// The longest first wait between attempts to connect, and the longest of all. Default: 100 ms
    /// and 5 s.
    pub back_off: (Duration, Duration),
}

impl Default for SenderConfig {
    fn default() -> Self {
        let grace = Duration::from_secs(10);
        Self {
            socket: Config {
                grace,
                grace_after_close: grace,
                connect_timeout: Duration::from_secs(5),
                ..Config::default()
            },
            retry: true,
            in_flight_max: 256,
            bytes_in_flight_max: 64 << 20,
            back_off: (Duration::from_millis(100), Duration::from_secs(5)),
        }
    }
}

/// Asks one pair's front; from any number of threads. Dropping it is [`Sender::close`].
#[derive(Debug)]
pub struct Sender {
    asking: Arc<Asking>,
    client: Client<Asking>,
}

struct Asking {
    name: String,
    fronts: Vec<String>,
    retry: bool,
    state: Mutex<State>,
    /// A connection stands, or none could be made.
    tried: Condvar,
}

struct State {
    closed: bool,
    table: Table,
    /// Which front is asked, or was last.
    front: usize,
    /// Why there is no connection; nothing while one stands.
    error: Option<String>,
    /// How often no connection could be made since one stood.
    failures: usize,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("fronts", &self.fronts).finish_non_exhaustive()
    }
}

impl Sender {
    /// Connects to the first of these fronts (`HOST:PORT`) that takes it. They are tried in turn
    /// whenever a connection is lost for good, and names are looked up each time. Blocks until a
    /// connection stands, or each front was tried once.
    ///
    /// # Errors
    ///
    /// No front, or a name that no pair can have; no front could be reached; the system has no
    /// thread.
    pub fn connect<F: ToString>(
        fronts: impl IntoIterator<Item = F>,
        pair: &str,
        config: SenderConfig,
    ) -> io::Result<Self> {
        let fronts: Vec<String> = fronts.into_iter().map(|front| front.to_string()).collect();
        let wrong = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        if fronts.is_empty() {
            return wrong(
                "there is no front to connect to: give at least one HOST:PORT".to_owned(),
            );
        }
        if !is_pair_name(pair) {
            return wrong(crate::wire::WireError::PairName(pair.to_owned()).to_string());
        }
        let SenderConfig { socket, retry, in_flight_max, bytes_in_flight_max, back_off } = config;
        let state = Mutex::new(State {
            closed: false,
            table: Table::new(pair.to_owned(), in_flight_max.max(1), bytes_in_flight_max),
            front: 0,
            error: Some("not connected yet".to_owned()),
            failures: 0,
        });
        let name = fronts.join(", ");
        let asking = Arc::new(Asking { name, fronts, retry, state, tried: Condvar::new() });
        let client = Client::start(Arc::clone(&asking), socket, back_off, "spool-sender")?;
        let this = Self { asking, client };
        this.asking.await_first()?;
        Ok(this)
    }

    /// Whether a connection stands; it may be cut right now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        lock(&self.asking.state).error.is_none()
    }

    /// Asks, and waits for the outcome, up to the request's deadline. Not from a callback of a
    /// [`Sender::submit`].
    #[must_use]
    pub fn request(&self, request: Request) -> Outcome {
        let (tell, told) = crossbeam_channel::bounded(1);
        // There is room for the only outcome.
        self.submit(request, Box::new(move |outcome| drop(tell.send(outcome))));
        told.recv().unwrap_or(Outcome::InDoubt)
    }

    /// Asks. Does not block; `reply` is called once, within the request's deadline, on any thread,
    /// or at once. A deadline that passes without an answer gives [`Outcome::InDoubt`] if the
    /// request may have taken effect, and [`Reason::Deadline`] if it surely has not.
    pub fn submit(&self, request: Request, reply: Reply<Outcome>) {
        let rejected = |reply: Reply<Outcome>, reason, retry_after| {
            reply(Outcome::Rejected { reason, retry_after })
        };
        if let Some(what) = wrong_about(&request) {
            return rejected(reply, Reason::Malformed(what), Duration::ZERO);
        }
        let deadline = request.deadline;
        match self.ask(Question::Request { request, reply }, deadline) {
            Some((Question::Request { reply, .. }, true)) => {
                rejected(reply, Reason::Closing, Duration::ZERO);
            }
            Some((Question::Request { reply, .. }, false)) => {
                rejected(reply, Reason::HoldFull, FULL_AFTER);
            }
            Some((Question::Fetch { .. }, _)) | None => {}
        }
    }

    /// What became of a request that was spooled or held: `None` if the front does not know its id.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// `TimedOut`: no answer in this time, or the sender is closed. `WouldBlock`: as much is under
    /// way as may be.
    pub fn fetch(&self, id: RequestId, timeout: Duration) -> io::Result<Option<Outcome>> {
        let (tell, told) = crossbeam_channel::bounded(1);
        let reply = Box::new(move |outcome| drop(tell.send(outcome)));
        if self.ask(Question::Fetch { id, reply }, timeout.min(DEADLINE_MAX)).is_some() {
            let text = "as many requests are under way as may be, or the sender is closed";
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        told.recv().ok().flatten().ok_or_else(|| {
            let text = format!("no front said within {timeout:?} what became of {id}");
            io::Error::new(io::ErrorKind::TimedOut, text)
        })
    }

    /// Ends the connection and the threads. What is not answered is in doubt, or rejected with
    /// [`Reason::Closing`] if it surely had no effect. Blocks up to the `connect_timeout` if a
    /// connection is being made, else shortly.
    pub fn close(&self) {
        let mut state = lock(&self.asking.state);
        state.closed = true;
        let left = state.table.drain();
        drop(state);
        left.into_iter().for_each(|told| guarded(|| told.tell()));
        self.client.close();
    }

    /// Takes a question in. If it cannot, gives it back, and whether the sender is closed.
    fn ask(&self, question: Question, timeout: Duration) -> Option<(Question, bool)> {
        let mut state = lock(&self.asking.state);
        if state.closed {
            return Some((question, true));
        }
        let refused = state.table.ask(question, Instant::now(), timeout).err();
        drop(state);
        if refused.is_none() {
            self.client.look();
        }
        refused.map(|question| (question, false))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.close();
    }
}

impl Asking {
    fn await_first(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        loop {
            match &state.error {
                None => return Ok(()),
                Some(error) if state.failures >= self.fronts.len() => {
                    let text = format!("no front of {} can be asked: {error}", self.name);
                    return Err(io::Error::new(io::ErrorKind::NotConnected, text));
                }
                Some(_) => state = wait(&self.tried, state),
            }
        }
    }
}

impl Talk for Asking {
    type Message = SenderMessage;
    const ROLE: Role = Role::Sender;

    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> io::Result<Vec<SocketAddr>> {
        let front = lock(&self.state).front;
        Ok(self.fronts[front % self.fronts.len()].to_socket_addrs()?.collect())
    }

    fn welcomed(&self, welcome: SenderMessage) -> Result<(), Ended> {
        match welcome {
            SenderMessage::Welcome { .. } => Ok(()),
            other => Err(Ended::Direction(other.kind())),
        }
    }

    fn stands(&self) {
        let mut state = lock(&self.state);
        state.error = None;
        state.failures = 0;
        drop(state);
        self.tried.notify_all();
    }

    fn to_write(&self) -> Vec<SenderMessage> {
        lock(&self.state).table.next_to_write(Instant::now(), WRITE_BYTES)
    }

    fn hear(&self, message: SenderMessage) -> Result<bool, Ended> {
        let mut state = lock(&self.state);
        let told = match message {
            SenderMessage::Outcome { tag, outcome } => {
                let pause: Option<fn(Duration) -> Duration> = self.retry.then_some(later);
                state.table.answered(tag, outcome, Instant::now(), pause)
            }
            SenderMessage::Fetched { tag, outcome } => state.table.fetched(tag, outcome),
            other => return Err(Ended::Direction(other.kind())),
        };
        drop(state);
        match told {
            Some(told) => {
                guarded(|| told.tell());
                Ok(false)
            }
            // It may wait to be asked again.
            None => Ok(true),
        }
    }

    fn due(&self) -> Option<Instant> {
        let mut state = lock(&self.state);
        let told: Vec<Told> = state.table.due(Instant::now());
        let next = state.table.next_time();
        drop(state);
        told.into_iter().for_each(|told| guarded(|| told.tell()));
        next
    }

    fn lost(&self, why: &str) {
        let mut state = lock(&self.state);
        state.table.lost();
        state.front = (state.front + 1) % self.fronts.len();
        state.error = Some(why.to_owned());
        state.failures += 1;
        drop(state);
        self.tried.notify_all();
    }
}

/// Up to half longer than the front asks for, so that those whom it sent away do not come back all
/// at once.
fn later(retry_after: Duration) -> Duration {
    retry_after + jitter(retry_after) - retry_after / 2
}

/// Why no front would take it.
fn wrong_about(request: &Request) -> Option<String> {
    let Request { key, payload, deadline, .. } = request;
    if key.len() > KEY_MAX {
        return Some(format!("the key has {} bytes, and may have {KEY_MAX}", key.len()));
    }
    if payload.len() > PAYLOAD_MAX {
        let length = payload.len();
        return Some(format!("the payload has {length} bytes, and may have {PAYLOAD_MAX}"));
    }
    if deadline.is_zero() || *deadline > DEADLINE_MAX {
        return Some(format!("the deadline is {deadline:?}, and may be up to {DEADLINE_MAX:?}"));
    }
    None
}
