//! What the measurements of a spool are made of.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use eversock_spool::front::{Front, PairSetup};
use eversock_spool::pair::PairConfig;
use eversock_spool::record::Record;
use eversock_spool::store::committer::CommitterConfig;
use eversock_spool::store::sqlite::SqliteStore;
use eversock_spool::store::{Appended, Batch, NewRecord, PairState, Quota, SpoolStore};
use eversock_spool::submit::Submit;
use eversock_spool::target::{
    Call, CallFailed, CallResult, Class, Grant, ItemResult, Reply, Report, Stamp, Target,
};
use eversock_spool::{Kind, Outcome, Request, RequestId};

/// Bytes of a payload.
pub(super) const PAYLOAD: usize = 512;
/// More than any measurement needs.
pub(super) const QUOTA: Quota = Quota { records: 10_000_000, bytes: 1 << 40 };
/// Of statfs(2): tmpfs and ramfs.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// A folder of our own, which goes with this.
#[derive(Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// In the folder for temporary files. Gives the reason too if that is no disk.
    pub(crate) fn new() -> io::Result<(Self, Option<String>)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let above = std::env::temp_dir();
        let folder = above.join(format!("evs-bench-spool-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let why = is_in_memory(&folder)?.then(|| {
            let above = above.display();
            format!("{above} is in memory, and no figure says anything of a disk: set TMPDIR")
        });
        Ok((Self(folder), why))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn is_in_memory(folder: &Path) -> io::Result<bool> {
    use std::os::fd::AsRawFd as _;
    let folder = std::fs::File::open(folder)?;
    // SAFETY: statfs is plain numbers, for which all zeros is a value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `stat` is writable.
    if unsafe { libc::fstatfs(folder.as_raw_fd(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(IN_MEMORY.contains(&stat.f_type))
}

/// A server that is never there: what is asked of its pair goes into the spool.
#[derive(Debug)]
pub(super) struct Absent;

impl Target for Absent {
    fn class(&self) -> Class {
        Class::Ledger
    }

    fn call(&self, _call: Call, reply: Reply<CallResult>) {
        reply(Err(CallFailed::Unreachable("it is not there".to_owned())));
    }

    fn probe(&self, _timeout: Duration, reply: Reply<Option<Report>>) {
        reply(None);
    }

    fn grant(&self, _grant: Grant, reply: Reply<bool>) {
        reply(false);
    }

    fn release(&self, _epoch: u64, _timeout: Duration, reply: Reply<bool>) {
        reply(false);
    }

    fn fence(&self, reply: Reply<bool>) {
        reply(false);
    }

    fn close(&self) {}
}

/// What a server of this process does with a call.
type Work = dyn Fn(Call, Reply<CallResult>) + Send + Sync;

/// A server in this process that takes every lock.
pub(super) struct Ready {
    epoch: AtomicU64,
    began: Instant,
    work: Box<Work>,
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Ready {
    pub(super) fn new(
        epoch: u64,
        work: impl Fn(Call, Reply<CallResult>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { epoch: AtomicU64::new(epoch), began: Instant::now(), work: Box::new(work) })
    }

    /// One that has done what it is asked at once.
    pub(super) fn at_once() -> Arc<Self> {
        let done = |_: &Record| ItemResult::Done { answer: Vec::new(), again: false };
        Self::new(0, move |call, reply| reply(Ok(call.items.iter().map(done).collect())))
    }
}

impl Target for Ready {
    fn class(&self) -> Class {
        Class::Ledger
    }

    fn call(&self, call: Call, reply: Reply<CallResult>) {
        (self.work)(call, reply);
    }

    fn probe(&self, _timeout: Duration, reply: Reply<Option<Report>>) {
        let seen = self.epoch.load(Ordering::SeqCst);
        let at_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let holds = (seen > 0).then_some(seen);
        let stamp = Stamp { run: 1, at_us };
        reply(Some(Report { ready: true, holds, seen, wants_switch: false, stamp }));
    }

    fn grant(&self, grant: Grant, reply: Reply<bool>) {
        self.epoch.fetch_max(grant.epoch, Ordering::SeqCst);
        reply(true);
    }

    fn release(&self, _epoch: u64, _timeout: Duration, reply: Reply<bool>) {
        reply(true);
    }

    fn fence(&self, reply: Reply<bool>) {
        reply(false);
    }

    fn close(&self) {}
}

/// A pair with this store and this main, and no standby.
pub(super) fn pair(name: &str, store: Box<dyn SpoolStore>, main: Arc<dyn Target>) -> PairSetup {
    PairSetup {
        name: name.to_owned(),
        config: PairConfig::default(),
        store,
        committer: CommitterConfig::default(),
        servers: [main, Arc::new(Absent)],
    }
}

/// A new spool in SQLite.
pub(super) fn store(path: &Path, pair: &str, quota: Quota) -> io::Result<SqliteStore> {
    SqliteStore::open(path, pair, quota).map_err(io::Error::other)
}

pub(super) fn front(pairs: Vec<PairSetup>) -> io::Result<Front> {
    Front::start(pairs).map_err(io::Error::other)
}

/// A write of a key that nothing else is written under.
pub(super) fn request() -> io::Result<Request> {
    let id = RequestId::random()?;
    let key = id.to_string().into_bytes();
    let (kind, deadline) = (Kind::Write, Duration::from_secs(30));
    Ok(Request { id, kind, key, payload: vec![0x5A; PAYLOAD], deadline })
}

pub(super) fn record() -> io::Result<Record> {
    Ok(Record::new(request()?, 1, 1))
}

/// A spool with so many records, and a main that holds the lock.
pub(super) fn fill(store: &mut dyn SpoolStore, count: usize) -> io::Result<()> {
    const BATCH: usize = 1000;
    let state = Some(PairState { epoch: 1, holder: 0, on_hold: false });
    store.commit(&Batch { state, ..Batch::default() }).map_err(io::Error::other)?;
    let new = |record| NewRecord { record, sent: false, held: false };
    for from in (0..count).step_by(BATCH) {
        let records = (from..count.min(from + BATCH)).map(|_| record().map(new));
        let batch = Batch { append: records.collect::<io::Result<_>>()?, ..Batch::default() };
        let results = store.commit(&batch).map_err(io::Error::other)?;
        if let Some(other) = results.iter().find(|one| !matches!(one, Appended::New { .. })) {
            return Err(io::Error::other(format!("the spool did not take a record: {other:?}")));
        }
    }
    Ok(())
}

/// A thread that asks a front and waits for each outcome.
#[derive(Debug)]
pub(super) struct Asker<'a> {
    front: &'a Front,
    pair: &'a str,
    tell: mpsc::Sender<Outcome>,
    told: mpsc::Receiver<Outcome>,
}

impl<'a> Asker<'a> {
    pub(super) fn new(front: &'a Front, pair: &'a str) -> Self {
        let (tell, told) = mpsc::channel();
        Self { front, pair, tell, told }
    }

    pub(super) fn ask(&self) -> io::Result<Outcome> {
        let tell = self.tell.clone();
        // Whoever asks is still there.
        let reply = move |outcome| drop(tell.send(outcome));
        self.front.submit(self.pair, request()?, Box::new(reply));
        self.told.recv().map_err(io::Error::other)
    }

    /// Asks for what is to be spooled.
    pub(super) fn spool(&self) -> io::Result<()> {
        match self.ask()? {
            Outcome::Spooled { .. } => Ok(()),
            other => Err(io::Error::other(format!("not spooled (is the disk full?): {other:?}"))),
        }
    }
}

/// How often in a second so many threads do what `worker` gives each of them; a fifth of the time
/// is spent before it counts.
pub(crate) fn rate<W: FnMut() -> io::Result<()>>(
    threads: usize,
    time: Duration,
    worker: impl Fn() -> io::Result<W> + Sync,
) -> io::Result<f64> {
    let begin = Instant::now() + time / 5;
    let end = begin + time;
    let run = || -> io::Result<u64> {
        let mut work = worker()?;
        let mut count = 0;
        loop {
            work()?;
            let now = Instant::now();
            if now >= end {
                return Ok(count);
            }
            count += u64::from(now >= begin);
        }
    };
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let ended = |thread: thread::ScopedJoinHandle<'_, io::Result<u64>>| {
            thread.join().map_err(|_| io::Error::other("a thread has panicked"))?
        };
        threads.into_iter().map(ended).sum::<io::Result<u64>>()
    })?;
    Ok(counts as f64 / time.as_secs_f64())
}
