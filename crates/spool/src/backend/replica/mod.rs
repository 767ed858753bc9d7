//! A pair whose servers have storage of their own: the main sends what it has done to the standby
//! before it answers.
//!
//! **In sync.** A standby says that it is ready while it is sure to have all that was acknowledged.
//! It is told so by the main, for a time ([`ReplicaConfig::in_sync`]) that counts from a stamp of
//! its own clock, as a lease does. A main whose standby is away acknowledges nothing before that
//! time is over; then it goes on alone ([`Alone::Allowed`]) or not ([`Alone::Refused`]). So a
//! standby that could be missing something is never ready, even if no two can talk to each other.
//!
//! **Who may be main.** A server takes a grant if it is in sync, or if it was the main under the
//! epoch right before: then nobody else can have done anything since. If an epoch lies between, it
//! asks the other server, which says whether it was main since, and takes no lower epoch from then
//! on; the granter tries again meanwhile. While the other server is away nobody can say, and the
//! grant is refused.
//!
//! **Tails.** An old main that comes back with entries that its standby never had is not ready and
//! says which ([`Replicated::status`]); they are never merged. Their senders had no answer, and ask
//! again. The remedy is a copy of the new main's directory, on which [`begin_as_copy`] is called
//! before a server starts with it; or an empty one while the new main's log reaches back to its
//! beginning.

mod follow;
mod message;
mod push;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::clock::{BootClock, Clock};
use crate::backend::epoch::EpochStore;
use crate::backend::ledger::{Ledger, LedgerConfig, LedgerError};
use crate::backend::ledgered::{Effects, LedgerBackend, guard};
use crate::backend::lock::Permit;
use crate::backend::{Backend, Guarded};
use crate::record::Record;
use crate::target::{CallFailed, CallResult, Class, ItemResult, Target};

pub use follow::ReplicaHandler;
pub use push::Pusher;

/// What a main does whose standby is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// Goes on alone when the standby can no longer think that it is in sync.
    Allowed,
    /// Does nothing until the standby is back.
    Refused,
}

/// How the two servers keep together.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// How long a standby is in sync after it has heard so from its main. Must be longer than it
    /// takes a front to notice that the main is gone and to have its lease run out; a main whose
    /// standby is away acknowledges nothing for so long. At most
    /// [`LEASE_MAX`](crate::backend::lock::LEASE_MAX).
    pub in_sync: Duration,
    /// What to do when the standby is away.
    pub alone: Alone,
    /// How long a call waits for the standby; after that its answer is lost, and its sender asks
    /// again.
    pub confirm_timeout: Duration,
    /// Between two messages to the standby when there is nothing to say. At most a quarter of
    /// `in_sync`.
    pub every: Duration,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            in_sync: Duration::from_secs(60),
            alone: Alone::Allowed,
            confirm_timeout: Duration::from_secs(5),
            every: Duration::from_secs(2),
        }
    }
}

/// Makes the ledger in this file, a copy of that of a main server, one of a standby: what says that
/// it was the last main is true of the original alone.
///
/// # Errors
///
/// It cannot be opened or written.
pub fn begin_as_copy(path: &Path) -> Result<(), LedgerError> {
    let mut ledger = Ledger::open(path, LedgerConfig::default())?;
    ledger.forget_main_epoch()
}

/// How this server stands to the other one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaStatus {
    /// The other server has not been heard of.
    Apart,
    /// As main: the standby is in sync.
    Leading,
    /// As main: the standby is away or behind, and calls are answered with `Later`.
    Waiting,
    /// As main: goes on alone.
    Alone {
        /// What keeps the standby from coming back, if it is more than being away.
        why: Option<String>,
    },
    /// As standby: in sync.
    InSync,
    /// As standby: behind its main, or it has not heard of it for too long.
    Behind,
    /// Has entries that its main does not have, from this number on; 0 if that is not known.
    Tail {
        /// The first of them.
        from: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Calls are acknowledged when the standby has them.
    Together,
    /// Calls are acknowledged at once.
    Alone,
}

/// Of both roles.
#[derive(Debug)]
struct State {
    /// The epoch under which the main's side of this is of now.
    leading: Option<u64>,
    mode: Mode,
    /// The standby has answered the last message, and it follows.
    linked: bool,
    /// The standby has all up to here.
    confirmed: u64,
    /// By the own clock: until then the standby may think that it is in sync.
    promised_until_us: u64,
    /// What keeps the standby from following.
    trouble: Option<String>,
    /// As standby: in sync until then, by the own clock.
    in_sync_until_us: u64,
    /// As standby: the main has been heard.
    heard: bool,
    /// As standby: entries from here on are not those of the main.
    tail_from: Option<u64>,
    /// The other server was main since this one was, or may have been.
    overtaken: bool,
    /// When this was the highest epoch here, the other server had not been main since this one was.
    yielded: Option<u64>,
    /// A grant of this epoch was refused for now: the other server is to be asked.
    claiming: Option<u64>,
    /// Something waits to be pushed.
    news: bool,
    closing: bool,
}

/// What the parts of a replicated backend share.
#[derive(Debug)]
struct Shared {
    config: ReplicaConfig,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_sync(&self, state: &State) -> bool {
        state.tail_from.is_none() && self.clock.now_us() < state.in_sync_until_us
    }

    /// Waits until the standby has this entry, or needs not have it. Says nothing about the lease,
    /// which may have ended meanwhile.
    fn confirm(&self, seq: u64, epoch: u64) -> Result<(), CallFailed> {
        let begun = Instant::now();
        let mut state = self.state();
        state.news = true;
        self.changed.notify_all();
        loop {
            let leading = state.leading == Some(epoch);
            if leading && (state.confirmed >= seq || state.mode == Mode::Alone) {
                return Ok(());
            }
            if !leading {
                let what = "another server is main before the standby has confirmed".to_owned();
                return Err(CallFailed::Lost(what));
            }
            let left = self.config.confirm_timeout.saturating_sub(begun.elapsed());
            if left.is_zero() || state.closing {
                let what = format!("the standby did not confirm entry {seq} in time");
                return Err(CallFailed::Lost(what));
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A [`LedgerBackend`] whose other server has storage of its own.
pub struct Replicated<F> {
    inner: LedgerBackend<F>,
    /// For short looks: not behind calls that write or search.
    notes: Mutex<Ledger>,
    shared: Arc<Shared>,
}

impl<F> fmt::Debug for Replicated<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicated").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl<F: Effects + 'static> Replicated<F> {
    /// Around a backend whose ledger keeps a log.
    ///
    /// # Errors
    ///
    /// The ledger keeps no log, cannot be read, or `config` is not what it should be.
    pub fn new(inner: LedgerBackend<F>, config: ReplicaConfig) -> io::Result<Arc<Self>> {
        Self::with_clock(inner, config, Arc::new(BootClock))
    }

    /// The same, with a clock of the caller's.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with_clock(
        inner: LedgerBackend<F>,
        config: ReplicaConfig,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Arc<Self>> {
        let invalid = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if inner.ledger().config().log_bytes.is_none() {
            return invalid("a replicated ledger keeps a log: set its log_bytes");
        }
        if config.in_sync > crate::backend::lock::LEASE_MAX {
            return invalid("in_sync is longer than an hour");
        }
        if config.every.is_zero() || config.every > config.in_sync / 4 {
            return invalid("every is zero, or more than a quarter of in_sync");
        }
        let mut notes = {
            let ledger = inner.ledger();
            ledger.another().map_err(io::Error::other)?
        };
        let head = notes.head().map_err(io::Error::other)?;
        let main_epoch = notes.main_epoch().map_err(io::Error::other)?;
        // What an earlier run has promised is not known any more; a new server has promised
        // nothing.
        let is_new = head.seq == 0 && main_epoch == 0;
        let promise = if is_new { 0 } else { clock.now_us() + micros(config.in_sync) };
        let state = State {
            leading: None,
            mode: Mode::Together,
            linked: false,
            confirmed: 0,
            promised_until_us: promise,
            trouble: None,
            in_sync_until_us: 0,
            heard: false,
            tail_from: None,
            overtaken: false,
            yielded: None,
            claiming: None,
            news: false,
            closing: false,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(Shared { config, clock, state, changed });
        Ok(Arc::new(Self { inner, notes: Mutex::new(notes), shared }))
    }

    /// Begins to push to the other server whenever this one holds the lock.
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub fn push_to(
        self: &Arc<Self>,
        standby: Arc<dyn Target>,
        guarded: &Guarded,
    ) -> io::Result<Pusher> {
        Pusher::start(Arc::clone(self), standby, Arc::clone(guarded.lock()))
    }

    /// What takes the pushes of the other server, for a listener of its own: whoever may connect to
    /// that must be the other server.
    #[must_use]
    pub fn replica_handler(self: &Arc<Self>, guarded: &Arc<Guarded>) -> ReplicaHandler<F> {
        ReplicaHandler::new(Arc::clone(self), Arc::clone(guarded))
    }

    /// The backend inside.
    #[must_use]
    pub fn inner(&self) -> &LedgerBackend<F> {
        &self.inner
    }

    /// How it stands to the other server.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let state = self.shared.state();
        match (state.tail_from, state.leading, state.mode) {
            (Some(from), ..) => ReplicaStatus::Tail { from },
            (None, Some(_), Mode::Alone) => ReplicaStatus::Alone { why: state.trouble.clone() },
            (None, Some(_), Mode::Together) if state.linked => ReplicaStatus::Leading,
            (None, Some(_), Mode::Together) => ReplicaStatus::Waiting,
            (None, None, _) if self.shared.in_sync(&state) => ReplicaStatus::InSync,
            (None, None, _) if state.heard => ReplicaStatus::Behind,
            (None, None, _) => ReplicaStatus::Apart,
        }
    }

    /// Entries that the main does not have, at most so many.
    ///
    /// # Errors
    ///
    /// The ledger cannot be read.
    pub fn tail(&self, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let Some(from) = self.shared.state().tail_from else { return Ok(Vec::new()) };
        self.notes().entries(from.saturating_sub(1), limit, 64 << 20)
    }

    fn notes(&self) -> MutexGuard<'_, Ledger> {
        guard(&self.notes)
    }

    /// Whether nobody else can have been main since this server was.
    fn was_last(&self, epoch: u64) -> Result<bool, LedgerError> {
        if self.shared.state().tail_from.is_some() {
            return Ok(false);
        }
        let mut notes = self.notes();
        let (was, seen) = (notes.main_epoch()?, notes.epoch()?);
        Ok(seen <= was.max(epoch) && (epoch == was || (epoch == was + 1 && seen <= was)))
    }

    /// The highest epoch here, if this server was not main under it, and nobody has said yet who
    /// was.
    fn in_limbo(&self) -> Option<u64> {
        let state = self.shared.state();
        if state.overtaken || state.tail_from.is_some() || self.shared.in_sync(&state) {
            return None;
        }
        let yielded = state.yielded;
        drop(state);
        let mut notes = self.notes();
        let (was, seen) = (notes.main_epoch().ok()?, notes.epoch().ok()?);
        (was < seen && yielded != Some(seen)).then_some(seen)
    }

    /// This server has the lock under another epoch than before: what it knew as a standby, and of
    /// its own standby, counts no more. `false`: it has led under it already, or a higher one.
    fn lead(&self, state: &mut State, epoch: u64) -> bool {
        if state.leading.is_some_and(|leading| leading >= epoch) {
            return false;
        }
        state.leading = Some(epoch);
        state.mode = Mode::Together;
        state.linked = false;
        state.confirmed = 0;
        state.trouble = None;
        state.in_sync_until_us = 0;
        state.claiming = None;
        state.news = true;
        self.shared.changed.notify_all();
        true
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl<F: Effects + 'static> Backend for Replicated<F> {
    fn class(&self) -> Class {
        Class::Ledger
    }

    fn epoch_store(&self) -> io::Result<Box<dyn EpochStore>> {
        self.inner.store()
    }

    fn execute(&self, epoch: u64, items: &[Record], permit: &Permit) -> CallResult {
        if items.iter().all(|item| item.kind.only_looks()) {
            return self.inner.run(epoch, items, permit);
        }
        let mut state = self.shared.state();
        if let Some(seen) = state.leading.filter(|leading| *leading > epoch) {
            return Err(CallFailed::Fenced { asked: epoch, seen });
        }
        self.lead(&mut state, epoch);
        let may = state.leading == Some(epoch) && (state.linked || state.mode == Mode::Alone);
        drop(state);
        if !may {
            // What is not begun leaves no tail.
            let after = self.shared.config.every;
            return Ok(vec![ItemResult::Later { after }; items.len()]);
        }
        let results = self.inner.run(epoch, items, permit)?;
        let stays = |result: &ItemResult| !matches!(result, ItemResult::Later { .. });
        if results.iter().any(stays) {
            // Also what was done before: the answer to it may have waited for the standby in vain.
            let head = self.notes().head();
            let head = head.map_err(|error| CallFailed::Lost(error.to_string()))?;
            self.shared.confirm(head.seq, epoch)?;
            // The other server may be main by now, and what is confirmed may be a tail there.
            permit.still().map_err(|fenced| {
                CallFailed::Lost(format!("the lease ended before the standby confirmed: {fenced}"))
            })?;
        }
        Ok(results)
    }

    fn ready(&self) -> bool {
        if !self.inner.is_writable() {
            return false;
        }
        let state = self.shared.state();
        if self.shared.in_sync(&state) {
            return true;
        }
        if state.overtaken || state.tail_from.is_some() {
            return false;
        }
        let yielded = state.yielded;
        drop(state);
        // It was main under the highest epoch that it knows, or nobody was under those since. If
        // somebody has been meanwhile, the grant will say so.
        let mut notes = self.notes();
        match (notes.main_epoch(), notes.epoch()) {
            (Ok(was), Ok(seen)) => was >= seen || yielded == Some(seen),
            _ => false,
        }
    }

    fn admit(&self, epoch: u64) -> Result<(), String> {
        {
            let state = self.shared.state();
            if state.leading == Some(epoch) || self.shared.in_sync(&state) {
                return Ok(());
            }
        }
        if self.was_last(epoch).map_err(|error| error.to_string())? {
            return Ok(());
        }
        // The pusher asks the other server; the granter tries again.
        let mut state = self.shared.state();
        state.claiming = Some(epoch);
        state.news = true;
        self.shared.changed.notify_all();
        Err("it may lack what the other server has acknowledged, which it now asks: start that \
             one, or have this one catch up from it"
            .to_owned())
    }
}
