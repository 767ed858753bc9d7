//! Changes that go to a partner.

use std::collections::VecDeque;

use super::Step;
use crate::limits::{BATCH_BYTES_MAX, BATCH_MAX, UPDATE_WINDOW};
use crate::model::ControllerId;
use crate::shard::{Millis, Output};
use crate::store::{self, Position};
use crate::wire::peer::SyncMessage;

/// Updates that are not acknowledged, however small.
const UPDATES_MAX: usize = 64;
/// Looks into the table at once; then others have their turn.
const LOOKS_MAX: usize = 8;
/// What a partner told itself is confirmed to it so much later, if nothing else is to be told.
const QUIET: Millis = 200;
/// Bytes that an update counts for at least.
const UPDATE_BYTES: usize = 64;

/// An update that is not acknowledged.
#[derive(Debug)]
struct InFlight {
    upto: u64,
    bytes: usize,
    at: Millis,
}

/// Updates from a position on.
#[derive(Debug)]
pub(super) struct Feed {
    /// All up to here went, or needs not go.
    sent: u64,
    /// The partner was told this position; `None`: it knows none of this run.
    told: Option<u64>,
    in_flight: VecDeque<InFlight>,
    bytes: usize,
    /// Since when something is not told but that there is nothing to tell.
    quiet_since: Option<Millis>,
    /// There is more to look at at once.
    more: bool,
}

impl Feed {
    /// Goes on behind `sent`; `is_known`: the partner knows that as a position of this run.
    pub(super) fn new(sent: u64, is_known: bool) -> Self {
        Self {
            sent,
            told: is_known.then_some(sent),
            in_flight: VecDeque::new(),
            bytes: 0,
            quiet_since: None,
            more: false,
        }
    }

    /// Sends what there is and the window allows. Rows that the partner told itself are left out,
    /// but only those behind `skip_after`. Gives how many records went.
    pub(super) fn pump(
        &mut self,
        step: &mut Step<'_>,
        partner: &ControllerId,
        skip_after: u64,
    ) -> store::Result<u64> {
        let mut went = 0;
        self.more = false;
        for look in 0.. {
            if self.sent >= step.store.head() || !self.has_room() {
                break;
            }
            if look == LOOKS_MAX {
                self.more = true;
                break;
            }
            let rows = step.store.changes(self.sent, BATCH_MAX, BATCH_BYTES_MAX)?;
            let upto = rows.last().map_or_else(|| step.store.head(), |row| row.lsn);
            let is_known =
                |row: &store::Row| row.lsn > skip_after && row.from.as_ref() == Some(partner);
            let records: Vec<_> =
                rows.into_iter().filter(|row| !is_known(row)).map(|row| row.record).collect();
            self.sent = upto;
            if records.is_empty() {
                continue;
            }
            went += records.len() as u64;
            let bytes = records.iter().map(crate::model::Record::weight).sum();
            self.tell(step, partner, bytes, records);
        }
        self.confirm_quietly(step, partner);
        Ok(went)
    }

    /// Whether another update of any size fits into the window.
    fn has_room(&self) -> bool {
        // The weights of the records count, of which the table's bound may count less.
        let largest = BATCH_BYTES_MAX + 32 * BATCH_MAX;
        self.bytes + largest <= UPDATE_WINDOW && self.in_flight.len() < UPDATES_MAX
    }

    fn tell(
        &mut self,
        step: &mut Step<'_>,
        partner: &ControllerId,
        bytes: usize,
        records: Vec<crate::model::Record>,
    ) {
        let bytes = bytes.max(UPDATE_BYTES);
        self.in_flight.push_back(InFlight { upto: self.sent, bytes, at: step.now });
        self.bytes += bytes;
        self.told = Some(self.sent);
        let upto = Position { run: step.store.run(), lsn: self.sent };
        step.out.push(Output::Sync {
            partner: partner.clone(),
            message: SyncMessage::Update { upto, records },
        });
    }

    /// Tells a partner that lacks nothing where it stands: at once if it knows no position of this
    /// run, else later, as there may be something to tell by then.
    fn confirm_quietly(&mut self, step: &mut Step<'_>, partner: &ControllerId) {
        if self.told == Some(self.sent) || self.more || !self.has_room() {
            self.quiet_since = None;
            return;
        }
        let since = *self.quiet_since.get_or_insert(step.now);
        if self.told.is_none() || step.now >= since + QUIET {
            self.quiet_since = None;
            self.tell(step, partner, 0, Vec::new());
        }
    }

    /// The partner has taken all up to `upto`; `false`: it was never told that.
    pub(super) fn taken(&mut self, upto: u64) -> bool {
        if self.told.is_none_or(|told| upto > told) {
            return false;
        }
        while self.in_flight.front().is_some_and(|first| first.upto <= upto) {
            self.bytes -= self.in_flight.pop_front().map_or(0, |first| first.bytes);
        }
        true
    }

    /// All up to here went.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// When the oldest update went that is not acknowledged.
    pub(super) fn oldest(&self) -> Option<Millis> {
        self.in_flight.front().map(|first| first.at)
    }

    /// When to pump again though nothing happens.
    pub(super) fn due(&self, now: Millis) -> Option<Millis> {
        if self.more { Some(now) } else { self.quiet_since.map(|since| since + QUIET) }
    }
}
