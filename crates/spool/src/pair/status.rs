//! What a pair says of itself, for operators and their gauges.

use crate::pair::Pair;
use crate::store::Totals;

/// Alarms that are kept to be shown.
pub(crate) const ALARMS_KEPT: usize = 20;

/// What a pair has done since the front was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Requests that came in.
    pub requests: u64,
    /// Answered by the main.
    pub applied: u64,
    /// Acknowledged from the spool.
    pub spooled: u64,
    /// Answered out of the spool's newest write.
    pub overlaid: u64,
    /// Refused as stale.
    pub stale: u64,
    /// Of which the sender was told that nobody knows.
    pub in_doubt: u64,
    /// Rejected, for whatever reason.
    pub rejected: u64,
    /// Of them: the spool was full.
    pub spool_full: u64,
    /// Of them: not done within their deadline.
    pub late: u64,
    /// Known already when they came: asked again.
    pub repeated: u64,
    /// Records drained.
    pub drained: u64,
    /// Of them: the main had done them before.
    pub drained_again: u64,
    /// Records that the main refuses.
    pub refused: u64,
    /// Records found damaged.
    pub damaged: u64,
    /// Calls that failed.
    pub call_errors: u64,
    /// Times that the main was suspected.
    pub suspected: u64,
    /// Times that a server was given a new lock.
    pub promoted: u64,
    /// Of them: another one than before.
    pub switched: u64,
    /// Microseconds from the last diversion to its end.
    pub last_diversion: u64,
    /// Of it: microseconds until there was a main again.
    pub last_gap: u64,
    /// Times that a dry run would have diverted.
    pub would_divert: u64,
}

/// A pair as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// "normal", "suspect", "diverting", "promoting", "draining", "planned".
    pub state: &'static str,
    /// Which server holds the lock, or held it last.
    pub holder: usize,
    /// Of the lock.
    pub epoch: u64,
    /// An operator has stopped drains.
    pub on_hold: bool,
    /// Another front has granted this epoch.
    pub split: Option<u64>,
    /// The front waits because it has switched a short time ago.
    pub flap_guard: bool,
    /// No more is taken into the spool.
    pub spool_full: bool,
    /// As many requests wait as may.
    pub hold_full: bool,
    /// Nothing is diverted: see [`PairConfig::dry_run`](super::PairConfig::dry_run).
    pub dry_run: bool,
    /// Some keys wait for an operator.
    pub stuck: bool,
    /// Servers that say they could work.
    pub ready: [bool; 2],
    /// What waits in the spool; the ages are the store's to tell.
    pub totals: Totals,
    /// Requests under way, and of them those that wait for a server.
    pub in_flight: usize,
    /// See [`Status::in_flight`].
    pub held: usize,
    /// Records that may be on their way to the main at once.
    pub window: usize,
    /// Records read ahead of their turn.
    pub buffered: usize,
    /// What was done.
    pub counters: Counters,
    /// What somebody must look at: microseconds of the pair's clock, and text; newest last.
    pub alarms: Vec<(u64, String)>,
}

impl Pair {
    /// How it is now.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            state: self.state.name(),
            holder: self.lock.holder,
            epoch: self.lock.epoch,
            on_hold: self.on_hold,
            split: self.split,
            flap_guard: self.is_flap_guarded(),
            spool_full: self.is_over_quota || self.store_trouble.is_some(),
            hold_full: self.held.len() >= self.config.hold_max,
            dry_run: self.config.dry_run,
            stuck: self.drain.is_stuck(),
            ready: [self.is_ready(0), self.is_ready(1)],
            totals: self.totals,
            in_flight: self.requests.len(),
            held: self.held.len(),
            window: self.drain.window(),
            buffered: self.drain.buffered(),
            counters: self.counters,
            alarms: self.alarms.iter().cloned().collect(),
        }
    }
}
