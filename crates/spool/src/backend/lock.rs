//! The holder's side of the lock key.
//!
//! A lease counts from the [`Stamp`] that this server itself wrote into the report which the grant
//! answers: however long report and grant were under way, the lease began no later than the granter
//! thinks. It ends a [`margin`] early, so that clocks may differ by 1 % in their rates, each way.
//!
//! [`LockCore`] is the logic with time as an argument; [`Lock`] adds a clock, a store for the
//! highest epoch, and threads.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::clock::Clock;
use crate::backend::epoch::EpochStore;
use crate::target::{CallFailed, Grant, Stamp};

/// The longest lease that is taken: one that is too long holds up every takeover.
pub const LEASE_MAX: Duration = Duration::from_secs(3600);

/// The highest epoch that is taken: what stores can hold as a signed number.
pub const EPOCH_MAX: u64 = i64::MAX as u64;

/// How much earlier than its lease a holder stops: 2 % of the lease, at least 50 ms.
///
/// With a granter whose clock is 1 % fast and a holder whose clock is 1 % slow, the granter's wait
/// ends after 0.9901 of a lease, and the holder's time after 0.98 / 0.99 = 0.9899 of it.
#[must_use]
pub fn margin(lease: Duration) -> Duration {
    (lease / 50).max(Duration::from_millis(50))
}

/// Until when something lent for `lease` from `stamp_us` on may be used, by the clock of the stamp.
#[must_use]
pub fn lease_end_us(stamp_us: u64, lease: Duration) -> u64 {
    let usable = lease.saturating_sub(margin(lease));
    stamp_us.saturating_add(u64::try_from(usable.as_micros()).unwrap_or(u64::MAX))
}

/// The lock is not held under this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lock is not held under epoch {asked}: the highest epoch seen is {seen}")]
pub struct Fenced {
    /// What was asked for.
    pub asked: u64,
    /// The highest that was ever seen.
    pub seen: u64,
}

impl From<Fenced> for CallFailed {
    fn from(Fenced { asked, seen }: Fenced) -> Self {
        Self::Fenced { asked, seen }
    }
}

/// Why a grant was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefused {
    /// It answers a report of another run of this server.
    #[error("the grant answers a report of another run of this server: ask for a new report")]
    OtherRun,
    /// Its stamp lies in the future of this server's clock.
    #[error("the grant carries a stamp that this server has not written yet")]
    FromTheFuture,
    /// A higher epoch was seen.
    #[error("the grant has epoch {epoch}, and epoch {seen} was seen: grant a higher one")]
    Stale {
        /// That of the grant.
        epoch: u64,
        /// The highest that was seen.
        seen: u64,
    },
    /// The lock was given back under this epoch or a higher one.
    #[error("the lock was given back under epoch {epoch}: grant a higher one")]
    GivenBack {
        /// That of the grant.
        epoch: u64,
    },
    /// The lease is over already.
    #[error("the lease was over when the grant came: ask for a new report")]
    TooLate,
    /// A lease or an epoch outside of what is taken.
    #[error("the grant's {what} is not one that is taken")]
    OutOfBounds {
        /// Which of them.
        what: &'static str,
    },
    /// The server cannot be main with the data that it has.
    #[error("the server cannot take over now: {why}")]
    NotAble {
        /// What is in the way.
        why: String,
    },
    /// The epoch could not be stored.
    #[error("the epoch cannot be stored: {0}")]
    Store(String),
}

#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: u64,
    until_us: u64,
}

/// Who may work under which epoch, and until when. Does nothing by itself: time is told to it.
#[derive(Debug)]
pub struct LockCore {
    run: u64,
    seen: u64,
    /// The highest epoch that was given back in this run.
    given_back: u64,
    held: Option<Held>,
    /// How many permits are out, by epoch.
    running: BTreeMap<u64, usize>,
}

impl LockCore {
    /// Of a server that holds nothing yet. `run` is a number that no earlier run had; `seen` comes
    /// from the store.
    #[must_use]
    pub fn new(run: u64, seen: u64) -> Self {
        Self { run, seen, given_back: 0, held: None, running: BTreeMap::new() }
    }

    /// What goes into a report that is written now.
    #[must_use]
    pub fn stamp(&self, now_us: u64) -> Stamp {
        Stamp { run: self.run, at_us: now_us }
    }

    /// Whether a grant can be taken now. Its epoch must be stored before [`Self::accept`].
    ///
    /// # Errors
    ///
    /// Why it is refused; nothing has changed.
    pub fn examine(&self, grant: &Grant, now_us: u64) -> Result<(), GrantRefused> {
        if grant.stamp.run != self.run {
            return Err(GrantRefused::OtherRun);
        }
        if grant.stamp.at_us > now_us {
            return Err(GrantRefused::FromTheFuture);
        }
        if grant.lease > LEASE_MAX {
            return Err(GrantRefused::OutOfBounds { what: "lease" });
        }
        if grant.epoch == 0 || grant.epoch > EPOCH_MAX {
            return Err(GrantRefused::OutOfBounds { what: "epoch" });
        }
        if grant.epoch < self.seen {
            return Err(GrantRefused::Stale { epoch: grant.epoch, seen: self.seen });
        }
        // A grant that was overtaken by a release must not bring the lock back: the granter has
        // been told that it may give it to the other server.
        if grant.epoch <= self.given_back {
            return Err(GrantRefused::GivenBack { epoch: grant.epoch });
        }
        if lease_end_us(grant.stamp.at_us, grant.lease) <= now_us {
            return Err(GrantRefused::TooLate);
        }
        Ok(())
    }

    /// Takes a grant whose epoch is stored; `highest` is what the store then said.
    ///
    /// # Errors
    ///
    /// As [`Self::examine`]; a higher epoch in the store ends what is held.
    pub fn accept(&mut self, grant: &Grant, highest: u64, now_us: u64) -> Result<(), GrantRefused> {
        self.saw(highest);
        self.examine(grant, now_us)?;
        self.saw(grant.epoch);
        let until_us = lease_end_us(grant.stamp.at_us, grant.lease);
        // Grants of one epoch may overtake each other: the later stamp counts.
        let until_us = match self.held {
            Some(held) if held.epoch == grant.epoch => held.until_us.max(until_us),
            _ => until_us,
        };
        self.held = Some(Held { epoch: grant.epoch, until_us });
        Ok(())
    }

    /// An epoch that was stored elsewhere: a higher one ends what is held.
    pub fn saw(&mut self, epoch: u64) {
        self.seen = self.seen.max(epoch);
        if self.held.is_some_and(|held| held.epoch < self.seen) {
            self.held = None;
        }
    }

    /// Whether work under this epoch may go on now.
    ///
    /// # Errors
    ///
    /// It may not.
    pub fn check(&self, epoch: u64, now_us: u64) -> Result<(), Fenced> {
        match self.held {
            Some(held) if held.epoch == epoch && now_us < held.until_us => Ok(()),
            _ => Err(Fenced { asked: epoch, seen: self.seen }),
        }
    }

    /// Begins work under this epoch; [`Self::end`] must follow.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub fn begin(&mut self, epoch: u64, now_us: u64) -> Result<(), Fenced> {
        self.check(epoch, now_us)?;
        *self.running.entry(epoch).or_insert(0) += 1;
        Ok(())
    }

    /// Ends what [`Self::begin`] began.
    pub fn end(&mut self, epoch: u64) {
        if let Some(count) = self.running.get_mut(&epoch) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(&epoch);
            }
        }
    }

    /// Lets nothing begin under this epoch or a lower one any more. `false`: the epoch was never
    /// seen here, so a grant of it may still be under way, and nothing has changed.
    pub fn give_back(&mut self, epoch: u64) -> bool {
        if epoch > self.seen {
            return false;
        }
        self.given_back = self.given_back.max(epoch);
        if self.held.is_some_and(|held| held.epoch <= epoch) {
            self.held = None;
        }
        true
    }

    /// Whether nothing runs under this epoch or a lower one.
    #[must_use]
    pub fn idle(&self, epoch: u64) -> bool {
        self.running.range(..=epoch).next().is_none()
    }

    /// The epoch under which it may work now or something still runs.
    #[must_use]
    pub fn holds(&self, now_us: u64) -> Option<u64> {
        match self.held {
            Some(held) if now_us < held.until_us => Some(held.epoch),
            _ => self.running.keys().next_back().copied(),
        }
    }

    /// The highest epoch that was ever seen.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }
}

/// The lock key of a running server, for any number of threads.
#[derive(Debug)]
pub struct Lock {
    clock: Arc<dyn Clock>,
    epochs: Box<dyn EpochStore>,
    core: Mutex<LockCore>,
    ended: Condvar,
}

impl Lock {
    /// Holds nothing at first. Reads the highest epoch from the store.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or the system has no randomness to give.
    pub fn new(epochs: Box<dyn EpochStore>, clock: Arc<dyn Clock>) -> io::Result<Arc<Self>> {
        let seen = epochs.load()?;
        let run = crate::request::RequestId::random()?.0 as u64;
        let core = Mutex::new(LockCore::new(run, seen));
        Ok(Arc::new(Self { clock, epochs, core, ended: Condvar::new() }))
    }

    fn core(&self) -> MutexGuard<'_, LockCore> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes into a report that is written now.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let now = self.clock.now_us();
        self.core().stamp(now)
    }

    /// Whether a grant could be taken now; nothing has changed.
    ///
    /// # Errors
    ///
    /// Why it would be refused.
    pub fn examine(&self, grant: &Grant) -> Result<(), GrantRefused> {
        self.core().examine(grant, self.clock.now_us())
    }

    /// Takes a grant. Blocks while the store writes; the epoch is stored before it is acted upon.
    ///
    /// # Errors
    ///
    /// Why it was refused.
    pub fn grant(&self, grant: &Grant) -> Result<(), GrantRefused> {
        self.examine(grant)?;
        // Without the guard: checks of calls under way must not wait for a disk.
        let highest = self
            .epochs
            .take(grant.epoch)
            .map_err(|error| GrantRefused::Store(error.to_string()))?;
        let mut core = self.core();
        core.accept(grant, highest, self.clock.now_us())
    }

    /// Stores an epoch of which this server has heard, and acts under no lower one from then on.
    /// Gives the highest one. Blocks while the store writes.
    ///
    /// # Errors
    ///
    /// The store cannot be written; nothing has changed.
    pub fn hear(&self, epoch: u64) -> io::Result<u64> {
        if epoch > EPOCH_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the epoch is too high"));
        }
        let highest = self.epochs.raise(epoch)?;
        self.core().saw(highest);
        Ok(highest)
    }

    /// Lets work under this epoch begin; it counts as running until the permit is dropped.
    ///
    /// # Errors
    ///
    /// The lock is not held under it.
    pub fn check(self: &Arc<Self>, epoch: u64) -> Result<Permit, Fenced> {
        self.core().begin(epoch, self.clock.now_us())?;
        Ok(Permit { lock: Arc::clone(self), epoch })
    }

    /// Lets nothing begin under this epoch any more and waits, at most so long, until all that runs
    /// under it has ended. `true`: it has, and the lock is given back. `false`: something still
    /// runs, or the epoch was never seen here; nothing new begins all the same.
    pub fn release(&self, epoch: u64, timeout: Duration) -> bool {
        let begun = Instant::now();
        let mut core = self.core();
        if !core.give_back(epoch) {
            return false;
        }
        while !core.idle(epoch) {
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return false;
            }
            core = self.ended.wait_timeout(core, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The epoch under which this server may work now, or under which something still runs.
    #[must_use]
    pub fn holds(&self) -> Option<u64> {
        let now = self.clock.now_us();
        self.core().holds(now)
    }

    /// The highest epoch that was ever seen.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.core().seen()
    }
}

/// Something runs under an epoch, as long as this is not dropped.
#[derive(Debug)]
pub struct Permit {
    lock: Arc<Lock>,
    epoch: u64,
}

impl Permit {
    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the lease still holds: to be asked right before an effect.
    ///
    /// # Errors
    ///
    /// It is over, given back, or another epoch was seen.
    pub fn still(&self) -> Result<(), Fenced> {
        self.lock.core().check(self.epoch, self.lock.clock.now_us())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.lock.core().end(self.epoch);
        self.lock.ended.notify_all();
    }
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
