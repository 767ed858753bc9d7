//! One partner: both directions, and how they stand together.

use std::time::Duration;

use super::inward::Inward;
use super::outward::{Odd, Outward};
use super::{Merge, Step};
use crate::limits::BATCH_MAX;
use crate::model::{ControllerId, Record};
use crate::node::status::SyncStatus;
use crate::shard::output::SyncState;
use crate::shard::{Event, Millis, Output};
use crate::store::{self, Position, Store};
use crate::wire::peer::SyncMessage;

/// An update that waits so long for its acknowledgement says that the partner is not in sync.
const ACKNOWLEDGED_WITHIN: Millis = 10_000;
/// Odd things are told of so often.
const ODD_EVERY: Millis = 1_000;
/// Changes that are counted for the status.
const LAG_MAX: u64 = 100_000;
/// Without a link: this part of the changes that make a snapshot needed may come unnoticed.
const COUNTS: u64 = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: ControllerId,
    pub(super) outward: Outward,
    pub(super) inward: Inward,
    pub(super) is_linked: bool,
    /// It does not have this partition, as it said last.
    pub(super) is_absent: bool,
    pub(super) is_paused: bool,
    pub(super) is_paused_there: bool,
    pub(super) state: SyncState,
    pub(super) in_sync_since: Option<Millis>,
    /// Without a link: whether a snapshot will be needed is looked up when the table is here.
    look_at: u64,
    /// What the partner lacked when the table was at this head and it had confirmed so far.
    lag: Option<(u64, u64, u64)>,
    odd_again: Millis,
    odd_untold: u64,
}

impl Peer {
    pub(super) fn new(name: ControllerId) -> Self {
        Self {
            outward: Outward::new(name.clone()),
            inward: Inward::new(name.clone()),
            name,
            is_linked: false,
            is_absent: false,
            is_paused: false,
            is_paused_there: false,
            state: SyncState::Queueing,
            in_sync_since: None,
            look_at: 0,
            lag: None,
            odd_again: 0,
            odd_untold: 0,
        }
    }

    fn is_active(&self) -> bool {
        self.is_linked && !self.is_paused && !self.is_paused_there
    }

    pub(super) fn link_up(
        &mut self,
        step: &mut Step<'_>,
        head: Option<Position>,
        taken: Option<Position>,
    ) -> store::Result<()> {
        self.link_down();
        self.is_absent = head.is_none();
        let Some(head) = head else {
            self.outward.absent();
            return Ok(());
        };
        self.is_linked = true;
        self.outward.link_up(step, taken)?;
        self.inward.link_up(step, head)
    }

    pub(super) fn link_down(&mut self) {
        self.is_linked = false;
        self.look_at = 0;
        self.outward.link_down();
        self.inward.link_down();
    }

    pub(super) fn message(
        &mut self,
        step: &mut Step<'_>,
        merge: &mut Merge<'_>,
        message: SyncMessage,
    ) -> store::Result<()> {
        if !self.is_linked {
            return Ok(());
        }
        let confirmed = self.outward.confirmed().unwrap_or(0);
        let done = match message {
            SyncMessage::Update { upto, records } => {
                self.inward.update(step, merge, confirmed, upto, &records)?
            }
            SyncMessage::Taken { upto } => self.outward.taken(step, upto),
            SyncMessage::Resync => {
                self.outward.resync();
                Ok(())
            }
            SyncMessage::Snapshot(manifest) => self.inward.offered(step, manifest),
            SyncMessage::Need { snapshot, first, count } => {
                self.outward.need(step, snapshot, first, count)
            }
            SyncMessage::Chunk { snapshot, index, crc, data } => {
                self.inward.chunk(step, snapshot, index, crc, data)
            }
            SyncMessage::Gone { snapshot } => {
                self.inward.gone(step, snapshot);
                Ok(())
            }
            SyncMessage::Loaded { snapshot, at } => self.outward.loaded(step, snapshot, at)?,
        };
        self.tell_odd(step, done);
        Ok(())
    }

    pub(super) fn records(
        &mut self,
        step: &mut Step<'_>,
        merge: &mut Merge<'_>,
        snapshot: u128,
        records: Result<Vec<Record>, String>,
    ) -> store::Result<()> {
        let confirmed = self.outward.confirmed().unwrap_or(0);
        let done = self.inward.records(step, merge, confirmed, snapshot, records)?;
        self.tell_odd(step, done);
        Ok(())
    }

    /// Tells people, but not of each when there are many.
    fn tell_odd(&mut self, step: &mut Step<'_>, done: Result<(), Odd>) {
        let Err(mut text) = done else { return };
        if step.now < self.odd_again {
            self.odd_untold += 1;
            return;
        }
        if self.odd_untold > 0 {
            text = format!("{text} ({} more before)", self.odd_untold);
        }
        self.odd_untold = 0;
        self.odd_again = step.now + ODD_EVERY;
        step.out.push(Output::Event(Event::Odd { partner: self.name.clone(), text }));
    }

    pub(super) fn pump(&mut self, step: &mut Step<'_>) -> store::Result<()> {
        let is_active = self.is_active();
        let confirmed = self.outward.confirmed().unwrap_or(0);
        self.inward.pump(step, is_active, confirmed)?;
        if is_active {
            self.outward.pump(step)?;
        }
        let state = self.find_state(step)?;
        if state != self.state {
            self.state = state;
            let partner = self.name.clone();
            step.out.push(Output::Event(Event::Sync { partner, state }));
        }
        self.in_sync_since =
            (state == SyncState::InSync).then(|| self.in_sync_since.unwrap_or(step.now));
        Ok(())
    }

    fn find_state(&mut self, step: &mut Step<'_>) -> store::Result<SyncState> {
        if self.is_paused || self.is_paused_there {
            return Ok(SyncState::Paused);
        }
        if !self.is_linked {
            return self.find_state_unlinked(step);
        }
        if self.inward.is_bulk() || self.outward.is_bulk() {
            return Ok(SyncState::Bulk);
        }
        let Some(feed) = self.outward.feed() else { return Ok(SyncState::Queueing) };
        let unsent = step.store.head().saturating_sub(feed.sent());
        // What fits into one step is no catching up, once in sync.
        let unsent_max = if self.state == SyncState::InSync { BATCH_MAX as u64 } else { 0 };
        let is_prompt =
            feed.oldest().is_none_or(|at| step.now.saturating_sub(at) < ACKNOWLEDGED_WITHIN);
        let is_in_sync = unsent <= unsent_max && is_prompt && self.inward.is_caught_up();
        Ok(if is_in_sync { SyncState::InSync } else { SyncState::CatchUp })
    }

    fn find_state_unlinked(&mut self, step: &mut Step<'_>) -> store::Result<SyncState> {
        let Some(confirmed) = self.outward.confirmed().filter(|_| !self.is_absent) else {
            return Ok(SyncState::Queueing);
        };
        let head = step.store.head();
        if self.state == SyncState::Overflowed || head < self.look_at {
            return Ok(self.state);
        }
        let most = step.settings.snapshot_from;
        let near = confirmed.saturating_add(most);
        let behind = if head <= near {
            head.saturating_sub(confirmed)
        } else {
            step.store.count_after(confirmed, most.saturating_add(1))?
        };
        // Each change adds one to the count at most: it need not be counted again before that. Near
        // the bound not at each change either, as a count costs as much as the bound is high.
        let wait = most.saturating_sub(behind).max(most / COUNTS);
        self.look_at = head.saturating_add(wait).saturating_add(1);
        Ok(if behind > most { SyncState::Overflowed } else { SyncState::Queueing })
    }

    pub(super) fn due(&self, now: Millis) -> Option<Millis> {
        let is_active = self.is_active();
        let late = self.outward.feed().and_then(super::feed::Feed::oldest);
        let late = late.map(|at| at + ACKNOWLEDGED_WITHIN).filter(|at| *at > now);
        let outward = self.outward.due(now).filter(|_| is_active);
        self.inward.due(now, is_active).into_iter().chain(outward).chain(late).min()
    }

    pub(super) fn status(
        &mut self,
        now: Millis,
        store: &mut dyn Store,
    ) -> store::Result<SyncStatus> {
        let lag = self.lag(store)?;
        let oldest = self.outward.feed().and_then(super::feed::Feed::oldest);
        Ok(SyncStatus {
            partner: self.name.clone(),
            state: self.state,
            lag,
            lag_time: Duration::from_millis(oldest.map_or(0, |at| now.saturating_sub(at))),
            chunks: self.outward.chunks().or_else(|| self.inward.chunks()),
        })
    }

    /// What the partner lacks. Counted anew only after a change of the table: many look at it.
    fn lag(&mut self, store: &mut dyn Store) -> store::Result<u64> {
        let (head, confirmed) = (store.head(), self.outward.confirmed().unwrap_or(0));
        if let Some((at, from, lag)) = self.lag
            && (at, from) == (head, confirmed)
        {
            return Ok(lag);
        }
        let lag = store.count_after(confirmed, LAG_MAX)?;
        self.lag = Some((head, confirmed, lag));
        Ok(lag)
    }
}
