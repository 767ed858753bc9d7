//! Group commit: many writers share one transaction, and one sync of the disk.

use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::{Appended, Batch, Finish, NewRecord, SpoolStore, StoreError, row};
use crate::target::Reply;

/// Records that one transaction forgets.
const FORGET: usize = 1000;
/// How long nothing is written before ids are forgotten.
const IDLE: Duration = Duration::from_secs(1);
/// How often ids are forgotten under load.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// Of [`CommitterConfig::records_max`].
const RECORDS_MAX: usize = 1024;

/// How writers share transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitterConfig {
    /// How long a transaction waits at most for writers that shared the last one. A writer that is
    /// alone never waits.
    pub window: Duration,
    /// Records appended in one transaction: 1 to 1,024.
    pub records_max: usize,
    /// Bytes of the keys, payloads and answers in one transaction, unless a single batch has more.
    pub bytes_max: u64,
    /// Writers that may wait; more are refused at once.
    pub queue_max: usize,
    /// How long ids are kept after their records have ended.
    pub keep: Duration,
}

impl Default for CommitterConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_millis(2),
            records_max: 64,
            bytes_max: 4 << 20,
            queue_max: 4096,
            keep: Duration::from_secs(24 * 3600),
        }
    }
}

/// Upper bounds of [`CommitStats::latency`], in microseconds; the last count is of all beyond.
pub const LATENCY_EDGES_US: [u64; 14] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 5_000_000,
];

/// What a committer has done since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitStats {
    /// Transactions on disk.
    pub commits: u64,
    /// Records appended by them: new places, not duplicates.
    pub records: u64,
    /// Transactions that failed.
    pub failed: u64,
    /// Writers refused because too many waited.
    pub refused: u64,
    /// How many transactions took up to [`LATENCY_EDGES_US`] each, and longer.
    pub latency: [u64; LATENCY_EDGES_US.len() + 1],
    /// How long all of them took together, in microseconds.
    pub latency_sum_us: u64,
}

/// What an append gives.
pub type AppendResult = Result<Appended, Arc<StoreError>>;
/// What a batch gives: one for each record that it appends.
pub type WriteResult = Result<Vec<Appended>, Arc<StoreError>>;
/// Something else to be done with the store, on its thread.
pub type StoreCall = Box<dyn FnOnce(&mut dyn SpoolStore) + Send>;

enum Answer {
    One(Reply<AppendResult>),
    All(Reply<WriteResult>),
}

/// What waits to be written.
struct Write {
    batch: Batch,
    answer: Answer,
}

enum Job {
    Write(Write),
    Quarantine { lsn: u64, what: String, reply: Reply<Result<(), Arc<StoreError>>> },
    Call(StoreCall),
    Close,
}

impl Job {
    /// Answers it, as far as anybody waits for that.
    fn fail(self, error: &Arc<StoreError>) {
        match self {
            Self::Write(write) => write.answer.fail(error),
            Self::Quarantine { reply, .. } => guarded(move || reply(Err(Arc::clone(error)))),
            Self::Call(_) | Self::Close => {}
        }
    }
}

/// Writes a store from a thread of its own.
///
/// What is handed in first is written first: the places of records grow in the order in which they
/// were handed in, and so do their acknowledgements. Answers come from the committer's thread when
/// the transaction is on disk; they must not block. A writer that is refused is answered on its own
/// thread, within the call.
pub struct Committer {
    jobs: Sender<Job>,
    stats: Arc<Mutex<CommitStats>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer").field("waiting", &self.jobs.len()).finish_non_exhaustive()
    }
}

impl Committer {
    /// Starts the thread that writes `store`.
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub fn start(store: Box<dyn SpoolStore>, config: CommitterConfig) -> std::io::Result<Self> {
        let (jobs, waiting) = bounded(config.queue_max.max(1));
        let stats = Arc::new(Mutex::new(CommitStats::default()));
        let config =
            CommitterConfig { records_max: config.records_max.clamp(1, RECORDS_MAX), ..config };
        let worker = Worker {
            store,
            waiting,
            config,
            stats: Arc::clone(&stats),
            shared: 1,
            clock: Clock::new(),
            forgot: Instant::now(),
            behind: true,
            appended: 0,
        };
        let thread =
            thread::Builder::new().name("spool-commit".to_owned()).spawn(move || worker.run())?;
        Ok(Self { jobs, stats, thread: Some(thread) })
    }

    /// Appends one record. Does not block: if as many wait as may, the answer is
    /// [`StoreError::Full`], at once.
    pub fn append(&self, new: NewRecord, reply: Reply<AppendResult>) {
        let batch = Batch { append: vec![new], ..Batch::default() };
        self.hand_in(Job::Write(Write { batch, answer: Answer::One(reply) }));
    }

    /// Writes a batch: all of it or nothing. Does not block: if as many wait as may, the answer is
    /// [`StoreError::Full`], at once.
    pub fn write(&self, batch: Batch, reply: Reply<WriteResult>) {
        self.hand_in(Job::Write(Write { batch, answer: Answer::All(reply) }));
    }

    /// Sets a damaged record aside ([`SpoolStore::quarantine`]). Does not block: if as many wait as
    /// may, the answer is [`StoreError::Full`], at once.
    pub fn quarantine(&self, lsn: u64, what: String, reply: Reply<Result<(), Arc<StoreError>>>) {
        self.hand_in(Job::Quarantine { lsn, what, reply });
    }

    /// Does something else with the store, after all that was handed in before. Does not block.
    /// `false`: as many wait as may, or the committer is closed, and it will not be done.
    #[must_use]
    pub fn call(&self, call: StoreCall) -> bool {
        self.jobs.try_send(Job::Call(call)).is_ok()
    }

    fn hand_in(&self, job: Job) {
        let (job, error) = match self.jobs.try_send(job) {
            Ok(()) => return,
            Err(TrySendError::Full(job)) => {
                self.count(|stats| stats.refused += 1);
                let what = format!("({} writers wait for the disk)", self.jobs.len());
                (job, Arc::new(StoreError::Full { what }))
            }
            Err(TrySendError::Disconnected(job)) => (job, closed()),
        };
        job.fail(&error);
    }

    /// What was done up to now.
    #[must_use]
    pub fn stats(&self) -> CommitStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, change: impl FnOnce(&mut CommitStats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Writes what was handed in, answers it, and gives the store up. Blocks until then.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _gone = self.jobs.send(Job::Close);
            let _panicked = thread.join();
        }
    }
}

impl Drop for Committer {
    /// As [`Committer::close`].
    fn drop(&mut self) {
        self.end();
    }
}

fn closed() -> Arc<StoreError> {
    let what = "of this front".to_owned();
    Arc::new(StoreError::Failed { what, cause: "the front ends".to_owned() })
}

impl Answer {
    fn fail(self, error: &Arc<StoreError>) {
        self.give(Err(Arc::clone(error)));
    }

    fn give(self, result: WriteResult) {
        guarded(move || match self {
            Self::All(reply) => reply(result),
            Self::One(reply) => reply(result.map(|mut all| all.pop()).and_then(|one| {
                one.ok_or_else(|| {
                    let what = "of this front".to_owned();
                    let cause = "it gave no place to a record".to_owned();
                    Arc::new(StoreError::Unknown { what, cause })
                })
            })),
        });
    }
}

/// Gives an answer. A callback that panics takes its own answer with it and nobody else's.
fn guarded(give: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(give)).is_err() {
        log::error!("an answer of the spool panicked");
    }
}

/// Asks the store. One that panics has kept nobody knows what; it opens itself anew in the next
/// call, and whoever waits is told.
fn asked<T>(ask: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|_| {
        let what = "of this front".to_owned();
        Err(StoreError::Unknown { what, cause: "the store panicked".to_owned() })
    })
}

/// A clock for what may be forgotten: not hurried by one who sets the system's clock forward, nor
/// ahead of it when it is set back.
struct Clock {
    began: Instant,
    began_ms: u64,
}

impl Clock {
    fn new() -> Self {
        Self { began: Instant::now(), began_ms: row::now_ms() }
    }

    fn now_ms(&self) -> u64 {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.began_ms.saturating_add(since).min(row::now_ms())
    }
}

struct Worker {
    store: Box<dyn SpoolStore>,
    waiting: Receiver<Job>,
    config: CommitterConfig,
    stats: Arc<Mutex<CommitStats>>,
    /// How many writers shared the last transaction.
    shared: usize,
    clock: Clock,
    forgot: Instant,
    /// More has ended long ago than was forgotten the last time.
    behind: bool,
    /// Records that the last transaction took in.
    appended: usize,
}

/// Writers that share a transaction.
#[derive(Default)]
struct Group {
    writes: Vec<Write>,
    records: usize,
    bytes: u64,
    /// Whether something in it has to come before what another batch may say of the same record.
    unsends: bool,
    releases: bool,
}

impl Group {
    /// Whether a batch can be in one transaction with those before it and have the same effect.
    fn takes(&self, batch: &Batch, config: &CommitterConfig) -> bool {
        if self.writes.is_empty() {
            return true;
        }
        // A transaction marks first and unmarks then, whichever was asked first.
        let swaps =
            self.unsends && !batch.sent.is_empty() || self.releases && !batch.hold.is_empty();
        !swaps
            && self.records + batch.append.len() <= config.records_max
            && self.bytes.saturating_add(weight(batch)) <= config.bytes_max
    }

    fn push(&mut self, write: Write) {
        self.records += write.batch.append.len();
        self.bytes = self.bytes.saturating_add(weight(&write.batch));
        self.unsends |= !write.batch.unsent.is_empty();
        self.releases |= !write.batch.release.is_empty();
        self.writes.push(write);
    }

    fn is_full(&self, config: &CommitterConfig) -> bool {
        self.records >= config.records_max || self.bytes >= config.bytes_max
    }
}

fn weight(batch: &Batch) -> u64 {
    let answer = |end: &Finish| match end {
        Finish::Done { answer } => answer.len() as u64,
        _ => 0,
    };
    let records = batch.append.iter().map(|new| new.record.weight());
    let answers = batch.finish.iter().map(|(_, end)| answer(end));
    records.chain(answers).fold(0, u64::saturating_add)
}

impl Worker {
    fn run(mut self) {
        // What was taken from the queue and did not fit with those before it.
        let mut next = None;
        loop {
            let job = match next.take() {
                Some(job) => job,
                None => match self.waiting.recv_timeout(IDLE) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        while self.waiting.is_empty() && self.forget(FORGET) {}
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            match job {
                Job::Write(write) => {
                    let (group, left) = self.gather(write);
                    next = left;
                    self.commit(group);
                }
                Job::Quarantine { lsn, what, reply } => {
                    let result = asked(|| self.store.quarantine(lsn, &what)).map_err(Arc::new);
                    guarded(move || reply(result));
                }
                Job::Call(call) => {
                    let store = &mut *self.store;
                    if catch_unwind(AssertUnwindSafe(|| call(store))).is_err() {
                        log::error!("a call with the spool panicked");
                    }
                }
                Job::Close => return self.close(),
            }
            // Under load as much goes as comes, and some more.
            let taken = mem::take(&mut self.appended);
            if self.forgot.elapsed() > FORGET_EVERY {
                self.forget(FORGET);
            } else if self.behind && taken > 0 {
                self.forget(2 * taken);
            }
        }
    }

    /// Takes what waits; and if the last transaction was shared, waits a moment for as many.
    fn gather(&self, first: Write) -> (Group, Option<Job>) {
        let until = Instant::now() + self.config.window;
        let mut group = Group::default();
        group.push(first);
        while !group.is_full(&self.config) {
            let job = match self.waiting.try_recv() {
                Ok(job) => job,
                Err(_) if group.writes.len() >= self.shared => break,
                Err(_) => match self.waiting.recv_deadline(until) {
                    Ok(job) => job,
                    Err(_) => break,
                },
            };
            match job {
                Job::Write(write) if group.takes(&write.batch, &self.config) => group.push(write),
                job => return (group, Some(job)),
            }
        }
        (group, None)
    }

    fn commit(&mut self, group: Group) {
        self.shared = group.writes.len();
        let Err((writes, error)) = self.try_commit(group.writes) else { return };
        let (appends, ends): (Vec<_>, Vec<_>) =
            writes.into_iter().partition(|write| !write.batch.append.is_empty());
        let full = matches!(*error, StoreError::Full { .. });
        let mut failed = appends;
        if full && !failed.is_empty() && !ends.is_empty() {
            // A full disk refuses records, and ends make room: they must not share their fate.
            if let Err((ends, error)) = self.try_commit(ends) {
                answer_all(ends, &error);
            }
        } else {
            failed.extend(ends);
        }
        answer_all(failed, &error);
    }

    /// One transaction. After an error: who is to be told.
    fn try_commit(&mut self, mut writes: Vec<Write>) -> Result<(), (Vec<Write>, Arc<StoreError>)> {
        let sizes: Vec<usize> = writes.iter().map(|write| write.batch.append.len()).collect();
        let batch = match writes.as_mut_slice() {
            [only] => mem::take(&mut only.batch),
            many => joined(many),
        };
        let began = Instant::now();
        let result = asked(|| self.store.commit(&batch));
        self.count(&result, began.elapsed());
        match result {
            Ok(results) => {
                let mut results = results.into_iter();
                for (write, size) in writes.into_iter().zip(sizes) {
                    write.answer.give(Ok(results.by_ref().take(size).collect()));
                }
                Ok(())
            }
            Err(error) => {
                give_back(batch, &mut writes, &sizes);
                Err((writes, Arc::new(error)))
            }
        }
    }

    fn count(&mut self, result: &Result<Vec<Appended>, StoreError>, took: Duration) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_EDGES_US.partition_point(|edge| *edge < us);
        stats.latency[bucket] += 1;
        stats.latency_sum_us = stats.latency_sum_us.saturating_add(us);
        match result {
            Ok(results) => {
                stats.commits += 1;
                let new = results.iter().filter(|one| matches!(one, Appended::New { .. }));
                let new = new.count();
                stats.records += new as u64;
                self.appended += new;
            }
            Err(_) => stats.failed += 1,
        }
    }

    /// Forgets some of what ended long ago. Says whether there may be more.
    fn forget(&mut self, limit: usize) -> bool {
        self.forgot = Instant::now();
        let keep = u64::try_from(self.config.keep.as_millis()).unwrap_or(u64::MAX);
        let before = self.clock.now_ms().saturating_sub(keep);
        match asked(|| self.store.forget(before, limit)) {
            Ok(count) => {
                self.behind = count >= limit as u64;
                self.behind
            }
            Err(e) => {
                log::warn!("{e}; ended records are kept for longer");
                false
            }
        }
    }

    /// Writes what was handed in before the close, and answers what slipped in after it.
    fn close(self) {
        while let Ok(job) = self.waiting.try_recv() {
            job.fail(&closed());
        }
    }
}

fn answer_all(writes: Vec<Write>, error: &Arc<StoreError>) {
    for write in writes {
        write.answer.fail(error);
    }
}

/// All batches as one, in order. What can be moved is moved.
fn joined(writes: &mut [Write]) -> Batch {
    let mut all = Batch::default();
    for Write { batch, .. } in writes {
        all.append.append(&mut batch.append);
        all.finish.extend_from_slice(&batch.finish);
        all.sent.extend_from_slice(&batch.sent);
        all.unsent.extend_from_slice(&batch.unsent);
        all.hold.extend_from_slice(&batch.hold);
        all.release.extend_from_slice(&batch.release);
        if batch.state.is_some() {
            all.state.clone_from(&batch.state);
        }
    }
    all
}

/// Records back to whom they came from, after a transaction that failed.
fn give_back(batch: Batch, writes: &mut [Write], sizes: &[usize]) {
    if let [only] = writes {
        only.batch = batch;
        return;
    }
    let mut records = batch.append.into_iter();
    for (write, &size) in writes.iter_mut().zip(sizes) {
        write.batch.append = records.by_ref().take(size).collect();
    }
}
