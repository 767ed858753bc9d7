//! The server's end of the link to fronts: takes calls, probes and grants over virtual sockets and
//! hands them to a [`Handler`].
//!
//! Probes and grants are answered by the thread of their connection, also while calls run long:
//! calls have a pool of threads of their own, and so has what waits for a release. A call for which
//! the pool has no room is not done, and each of its items is answered with
//! [`ItemResult::Later`]. Several fronts may be connected.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use eversock_socket::VirtualListener;

use crate::conn::accept::Acceptor;
use crate::conn::{Closing, Ended, Line, LineReader, Outbox, greeted, lock};
use crate::limits::{MESSAGE_MAX, PAYLOAD_MAX};
use crate::record::Record;
use crate::target::{Class, Grant, ItemResult, Report};
use crate::wire::{Message, Role, ServerMessage};

/// Bytes of answers and texts of one call's results, and 64 for each item besides. What does not
/// fit: see [`Handler::execute`].
pub const RESULTS_BYTES_MAX: usize = MESSAGE_MAX - (1 << 20);

/// When to send a call again for which there was no room.
const BUSY_AFTER: Duration = Duration::from_millis(100);
/// Answers that may wait for a front that does not read, before it is not read either.
const UNREAD_MAX: usize = 256;
/// The same in bytes.
const UNREAD_BYTES_MAX: usize = 64 << 20;
/// Releases that may wait for the one that is under way.
const RELEASES_MAX: usize = 16;
/// The longest that one of them may take: others wait behind it.
const RELEASE_MAX: Duration = Duration::from_secs(60);
/// How long what waits may be written to a front that has ended its side.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests of a front, to be done in this order.
#[derive(Debug, Clone)]
pub struct IncomingCall {
    /// The epoch of the lock that the front believes this server to hold.
    pub epoch: u64,
    /// The call is part of the batch job of a diversion with this number.
    pub job: Option<u64>,
    /// What is to be done; at most [`BATCH_MAX`](crate::limits::BATCH_MAX).
    pub items: Arc<[Record]>,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallReplyMessage {
    /// One result for each item, in order.
    Results(Vec<ItemResult>),
    /// The epoch is not that of the lock; nothing took effect.
    Fenced {
        /// The highest epoch that this server has seen.
        seen: u64,
    },
}

/// A server's own part.
pub trait Handler: Send + Sync {
    /// What the server promises.
    fn class(&self) -> Class;

    /// Does the items of a call. May block: it runs on one of [`ServeConfig::workers`] threads, and
    /// calls run beside each other. Without one result for each item, or after a panic, the front
    /// gets no answer, and takes the items for done or not done.
    ///
    /// Answers are sent as far as [`RESULTS_BYTES_MAX`] goes. One that does not fit becomes
    /// [`ItemResult::Later`] if the front can ask for it again: the item changed no data, or the
    /// server is [`Class::Ledger`]. Else it is left out, and the item stays [`ItemResult::Done`]:
    /// doing it again could undo what was done since.
    fn execute(&self, call: IncomingCall) -> CallReplyMessage;

    /// How the server is. Should not block: it runs on the thread of a connection.
    fn report(&self) -> Report;

    /// Takes the lock, or renews it; `true` if the server has it now. Should be short, as it runs
    /// on the thread of a connection.
    fn grant(&self, grant: Grant) -> bool;

    /// Finishes what is under way and gives the lock with this epoch back, within `timeout`, which
    /// is at most a minute. `true`
    /// if nothing will be done under it any more. May block; releases run one after the other.
    fn release(&self, epoch: u64, timeout: Duration) -> bool;
}

/// Bounds of a server's end.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Threads that do calls. Default: 4.
    pub workers: usize,
    /// Calls that wait for a thread, at most. Default: 64.
    pub queue_max: usize,
    /// Bytes of the calls that wait or are being done, at most; one call goes always. Default:
    /// 128 MiB.
    pub bytes_max: usize,
    /// Fronts, at most. Each may have one message of
    /// [`MESSAGE_MAX`] bytes half read. Default: 16.
    pub connections_max: usize,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self { workers: 4, queue_max: 64, bytes_max: 128 << 20, connections_max: 16 }
    }
}

/// A server's end that runs. Dropping it is [`Serving::close`].
#[derive(Debug)]
pub struct Serving {
    acceptor: Acceptor,
    workers: Workers,
}

/// The threads that do calls. They end with it, so that a server's end that cannot be started whole
/// leaves none behind.
#[derive(Debug)]
struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    fn start(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work)?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Blocks until what is under way is done.
    fn end(&self) {
        drop(lock(&self.shared.pools).take());
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.join().is_err() {
                log::error!("a thread of a server's end has panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
    }
}

struct Shared {
    handler: Arc<dyn Handler>,
    config: ServeConfig,
    closing: AtomicBool,
    /// Bytes of calls that wait or are being done.
    bytes: AtomicUsize,
    /// Taken away when all ends, so that the pools end.
    pools: Mutex<Option<Pools>>,
}

#[derive(Clone)]
struct Pools {
    calls: Sender<Job>,
    releases: Sender<Release>,
}

struct Job {
    to: Arc<Outbox<ServerMessage>>,
    call: u64,
    bytes: usize,
    incoming: IncomingCall,
}

struct Release {
    to: Arc<Outbox<ServerMessage>>,
    n: u64,
    epoch: u64,
    timeout: Duration,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Serves fronts that connect to this listener until [`Serving::close`].
///
/// # Errors
///
/// The listener has no address, or the system has no thread.
pub fn serve(
    listener: VirtualListener,
    handler: Arc<dyn Handler>,
    config: ServeConfig,
) -> io::Result<Serving> {
    let (calls, jobs) = crossbeam_channel::bounded(config.queue_max.max(1));
    let (releases, asked) = crossbeam_channel::bounded(RELEASES_MAX);
    let shared = Arc::new(Shared {
        handler,
        closing: AtomicBool::new(false),
        bytes: AtomicUsize::new(0),
        pools: Mutex::new(Some(Pools { calls, releases })),
        config,
    });
    let workers = Workers { shared: Arc::clone(&shared), threads: Mutex::default() };
    for _ in 0..shared.config.workers.max(1) {
        let (shared, jobs) = (Arc::clone(&shared), jobs.clone());
        let work = move || jobs.iter().for_each(|job| shared.work(job));
        workers.start("spool-serve-work", work)?;
    }
    let releasing = Arc::clone(&shared);
    workers.start("spool-serve-free", move || releasing.work_releases(&asked))?;
    let (serving, most) = (Arc::clone(&shared), shared.config.connections_max);
    let acceptor = Acceptor::start::<ServerMessage>(listener, "spool-serve", most, move |line| {
        serving.serve_line(line);
    })?;
    Ok(Serving { acceptor, workers })
}

impl Serving {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.acceptor.addr()
    }

    /// How many fronts are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.acceptor.connections()
    }

    /// Ends all connections and threads. Calls that wait are not done any more; blocks until those
    /// under way are, and a few seconds besides.
    pub fn close(&self) {
        self.workers.shared.closing.store(true, Ordering::SeqCst);
        self.acceptor.close();
        self.workers.end();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn serve_line(&self, line: &Arc<Line>) {
        let mut reader = line.reader();
        let version = match greeted::<ServerMessage>(line, &mut reader, Role::Front) {
            Ok(version) => version,
            Err(ended) => return log::info!("a front was not welcomed: {ended}"),
        };
        let outbox = Arc::new(Outbox::new());
        outbox.push(ServerMessage::Welcome { version, class: self.handler.class() }, 0);
        let intake = Arc::downgrade(&outbox);
        line.at_end(move || {
            if let Some(outbox) = intake.upgrade() {
                outbox.end_intake();
            }
        });
        thread::scope(|scope| {
            let _closing = Closing(&outbox);
            let writer = thread::Builder::new().name("spool-serve-write".to_owned()).spawn_scoped(
                scope,
                || {
                    if let Err(error) = outbox.run(&line.stream) {
                        log::info!("a connection of a front failed: {error}");
                    }
                },
            );
            if let Err(error) = writer {
                return log::warn!("no thread for a connection of a front: {error}");
            }
            if let Err(ended) = self.read(&mut reader, &outbox) {
                log::info!("a connection of a front ends: {ended}");
                if let Some(bye) = ended.bye() {
                    outbox.push(ServerMessage::Bye(bye), 0);
                }
            }
            if !outbox.finish(Instant::now() + END_TIMEOUT) {
                line.sever();
            }
        });
    }

    /// Reads what a front says until it ends.
    fn read(
        &self,
        reader: &mut LineReader,
        outbox: &Arc<Outbox<ServerMessage>>,
    ) -> Result<(), Ended> {
        while outbox.wait_room(UNREAD_MAX, UNREAD_BYTES_MAX) {
            let Some(frame) = reader.read(MESSAGE_MAX)? else { return Ok(()) };
            match frame.decode()? {
                ServerMessage::Execute { call, epoch, job, items } => {
                    let incoming = IncomingCall { epoch, job, items };
                    self.take(Job {
                        to: Arc::clone(outbox),
                        call,
                        bytes: frame.body.len(),
                        incoming,
                    });
                }
                ServerMessage::Probe { n } => {
                    let report = self.handler.report();
                    outbox.push(ServerMessage::Report { n, report }, 0);
                }
                ServerMessage::Grant { n, grant } => {
                    let done = self.handler.grant(grant);
                    outbox.push(ServerMessage::Granted { n, done }, 0);
                }
                ServerMessage::Release { n, epoch, timeout_ms } => {
                    let timeout = Duration::from_millis(timeout_ms).min(RELEASE_MAX);
                    self.take_release(Release { to: Arc::clone(outbox), n, epoch, timeout });
                }
                ServerMessage::Bye(bye) => return Err(Ended::Bye(bye)),
                other => return Err(Ended::Direction(other.kind())),
            }
        }
        Ok(())
    }

    /// Gives a call to the pool, or says at once that it is not done.
    fn take(&self, job: Job) {
        let before = self.bytes.fetch_add(job.bytes, Ordering::SeqCst);
        let fits = before == 0 || before + job.bytes <= self.config.bytes_max;
        let calls = lock(&self.pools).as_ref().map(|pools| pools.calls.clone());
        let refused = match calls {
            Some(calls) if fits => match calls.try_send(job) {
                Ok(()) => return,
                Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
            },
            _ => job,
        };
        self.bytes.fetch_sub(refused.bytes, Ordering::SeqCst);
        let results = refused
            .incoming
            .items
            .iter()
            .map(|_| ItemResult::Later { after: BUSY_AFTER })
            .collect();
        refused.to.push(ServerMessage::Results { call: refused.call, results }, 0);
    }

    fn take_release(&self, release: Release) {
        let releases = lock(&self.pools).as_ref().map(|pools| pools.releases.clone());
        let Some(Err(TrySendError::Full(refused) | TrySendError::Disconnected(refused))) =
            releases.map(|releases| releases.try_send(release))
        else {
            return;
        };
        refused.to.push(ServerMessage::Released { n: refused.n, done: false }, 0);
    }

    fn work(&self, job: Job) {
        let Job { to, call, bytes, incoming } = job;
        // A front that is gone has given the call up; so far it has no effect.
        if !to.is_closed() && !self.closing.load(Ordering::SeqCst) {
            let items = Arc::clone(&incoming.items);
            let reply = catch_unwind(AssertUnwindSafe(|| self.handler.execute(incoming)));
            if let Some(message) = message_of(call, reply.ok(), &items, self.handler.class()) {
                let weight = weight_of(&message);
                to.push(message, weight);
            }
        }
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
    }

    fn work_releases(&self, asked: &Receiver<Release>) {
        for Release { to, n, epoch, timeout } in asked {
            if to.is_closed() || self.closing.load(Ordering::SeqCst) {
                continue;
            }
            let released = catch_unwind(AssertUnwindSafe(|| self.handler.release(epoch, timeout)));
            let done = released.unwrap_or_else(|_| {
                log::error!("releasing epoch {epoch} has panicked");
                false
            });
            to.push(ServerMessage::Released { n, done }, 0);
        }
    }
}

/// What to answer; nothing if nobody knows what took effect.
fn message_of(
    call: u64,
    reply: Option<CallReplyMessage>,
    items: &[Record],
    class: Class,
) -> Option<ServerMessage> {
    match reply {
        Some(CallReplyMessage::Fenced { seen }) => Some(ServerMessage::Fenced { call, seen }),
        Some(CallReplyMessage::Results(results)) if results.len() == items.len() => {
            Some(ServerMessage::Results { call, results: fitted(results, items, class) })
        }
        Some(CallReplyMessage::Results(results)) => {
            let (came, wanted) = (results.len(), items.len());
            log::error!("a call of {wanted} items has {came} results: it is not answered");
            None
        }
        None => {
            log::error!("a call has panicked: it is not answered");
            None
        }
    }
}

/// As much of the results as goes into one message. Answers make room: the text of a refusal is
/// short, and a refusal stays what it is.
fn fitted(mut results: Vec<ItemResult>, items: &[Record], class: Class) -> Vec<ItemResult> {
    for (result, item) in results.iter_mut().zip(items) {
        if let ItemResult::Done { answer, .. } = result
            && answer.len() > PAYLOAD_MAX
        {
            log::warn!("the answer to {} has {} bytes: too many", item.id, answer.len());
            if item.kind.only_looks() {
                let text = "the answer is longer than 32 MiB".to_owned();
                *result = ItemResult::Refused { code: 0, text };
            } else {
                answer.clear();
            }
        }
    }
    let texts: usize = results.iter().filter(|result| !is_done(result)).map(bytes_of).sum();
    let mut left = RESULTS_BYTES_MAX.saturating_sub(texts);
    for (result, item) in results.iter_mut().zip(items).filter(|(result, _)| is_done(result)) {
        let bytes = bytes_of(result);
        if bytes <= left {
            left -= bytes;
        } else if class == Class::Ledger || item.kind.only_looks() {
            *result = ItemResult::Later { after: Duration::ZERO };
        } else {
            log::warn!("the answer to {} of {bytes} bytes does not fit and is left out", item.id);
            *result = ItemResult::Done { answer: Vec::new(), again: false };
        }
    }
    results
}

fn is_done(result: &ItemResult) -> bool {
    matches!(result, ItemResult::Done { .. })
}

fn bytes_of(result: &ItemResult) -> usize {
    match result {
        ItemResult::Done { answer, .. } => answer.len(),
        // Texts are cut when they are sent.
        ItemResult::Refused { text, .. } => text.len().min(crate::limits::TEXT_MAX),
        ItemResult::Later { .. } => 0,
    }
}

fn weight_of(message: &ServerMessage) -> usize {
    match message {
        ServerMessage::Results { results, .. } => results.iter().map(bytes_of).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{BATCH_MAX, TEXT_MAX};
    use crate::request::{Kind, RequestId};

    #[test]
    fn a_refusal_stays_one_beside_long_answers() {
        let item = |id: u128| Record {
            lsn: 0,
            id: RequestId(id),
            kind: Kind::Write,
            key: Vec::new(),
            payload: Vec::new(),
            epoch: 1,
            accepted_ms: 1,
        };
        let items: Vec<_> = (0..BATCH_MAX as u128).map(item).collect();
        let no = ItemResult::Refused { code: 9, text: "n".repeat(TEXT_MAX) };
        let mut results = vec![no.clone(); BATCH_MAX];
        let rest = RESULTS_BYTES_MAX - TEXT_MAX * (BATCH_MAX - 4) - PAYLOAD_MAX;
        let done = |bytes| ItemResult::Done { answer: vec![7; bytes], again: false };
        results[..4].clone_from_slice(&[done(PAYLOAD_MAX), done(rest), done(1), done(0)]);
        let given = fitted(results.clone(), &items, Class::Opaque);
        assert!(given[..2] == results[..2] && given[2] == done(0));
        assert!(given[4..].iter().all(|result| *result == no));
        // What takes more than any answer may have was done all the same.
        results[3] = done(PAYLOAD_MAX + 1);
        let given = fitted(results, &items, Class::Ledger);
        assert_eq!(given[2], ItemResult::Later { after: Duration::ZERO });
        assert!(given[3] == done(0));
        assert!(given[4..].iter().all(|result| *result == no));
        // Refusals alone are never more than what one message takes.
        let all = vec![no.clone(); BATCH_MAX];
        assert_eq!(fitted(all.clone(), &items, Class::Opaque), all);
    }
}
