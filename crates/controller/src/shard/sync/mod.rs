//! The exchange of one partition's table with all partners.
//!
//! The table is its own change log, so what goes to a partner is the range of the table behind the
//! position that the partner has confirmed, in updates that are acknowledged when they are on the
//! partner's disk. A partner whose position is not in the table any more, or too far back, gets a
//! snapshot in chunks, which it asks for one after the other, and updates from there on.
//!
//! ```text
//!                    position reached, near              Loaded
//!  no link ─ LinkUp ────────────────────────> Updates <────────── Offered ── Need/Chunk ─┐
//!                 │                              │ Resync            ^  ^────────────────┘
//!                 └── not reached, far ──────> Want ── BuildSnapshot ┘
//! ```
//!
//! All of it is written to the store's open transaction, and all that is put out leaves after the
//! commit: a partner never hears of what may still be undone.

mod backoff;
mod check;
mod feed;
mod inward;
mod load;
mod outward;
mod peer;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use outward::{Dropped, Why};
use peer::Peer;

#[cfg(test)]
use super::output::SyncState;
use super::{Millis, Output};
use crate::model::{ControllerId, Record};
use crate::node::status::SyncStatus;
use crate::shard::input::Settings;
use crate::store::{self, Position, Store};
use crate::wire::peer::{Manifest, SyncMessage};

/// What one input is handled with.
pub(super) struct Step<'a> {
    /// When.
    pub(super) now: Millis,
    /// The partition's table, in its open transaction.
    pub(super) store: &'a mut dyn Store,
    /// What the partition is set to.
    pub(super) settings: &'a Settings,
    /// What is to be done once that is committed.
    pub(super) out: &'a mut Vec<Output>,
}

/// Takes a record over that a partner has told: puts it if it beats what stands.
pub(super) type Merge<'a> =
    dyn FnMut(&mut dyn Store, &Record, &ControllerId) -> store::Result<()> + 'a;

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SyncCounts {
    pub(super) updates_sent: u64,
    pub(super) updates_received: u64,
    pub(super) snapshots_sent: u64,
    pub(super) snapshots_received: u64,
}

/// See the module. After each input that may have changed the table, and when it is
/// [`due`](Sync::due), [`pump`](Sync::pump) is to be called; all others may be called in between.
/// Partners that it was not made with are ignored.
#[derive(Debug)]
pub(super) struct Sync {
    peers: BTreeMap<ControllerId, Peer>,
    due: Option<Millis>,
}

impl Sync {
    pub(super) fn new(partners: impl IntoIterator<Item = ControllerId>) -> Self {
        let peers = partners.into_iter().map(|name| (name.clone(), Peer::new(name))).collect();
        Self { peers, due: None }
    }

    /// A link stands, and takes the place of one before. `taken` has to be what the partner said at
    /// its greeting, and what this side said there has to come from the store that is open now.
    pub(super) fn link_up(
        &mut self,
        step: &mut Step<'_>,
        partner: &ControllerId,
        head: Option<Position>,
        taken: Option<Position>,
    ) -> store::Result<()> {
        self.peers.get_mut(partner).map_or(Ok(()), |peer| peer.link_up(step, head, taken))
    }

    pub(super) fn link_down(&mut self, partner: &ControllerId) {
        if let Some(peer) = self.peers.get_mut(partner) {
            peer.link_down();
        }
    }

    pub(super) fn message(
        &mut self,
        step: &mut Step<'_>,
        merge: &mut Merge<'_>,
        partner: &ControllerId,
        message: SyncMessage,
    ) -> store::Result<()> {
        self.peers.get_mut(partner).map_or(Ok(()), |peer| peer.message(step, merge, message))
    }

    pub(super) fn snapshot_built(&mut self, partner: &ControllerId, manifest: Option<Manifest>) {
        if let Some(peer) = self.peers.get_mut(partner) {
            peer.outward.built(manifest);
        }
    }

    pub(super) fn chunk_read(
        &mut self,
        step: &mut Step<'_>,
        partner: &ControllerId,
        snapshot: u128,
        index: u32,
        data: Option<Vec<u8>>,
    ) {
        if let Some(peer) = self.peers.get_mut(partner) {
            peer.outward.chunk_read(step, snapshot, index, data);
        }
    }

    pub(super) fn snapshot_opened(
        &mut self,
        now: Millis,
        partner: &ControllerId,
        snapshot: u128,
        next: Option<u32>,
    ) {
        if let Some(peer) = self.peers.get_mut(partner) {
            peer.inward.opened(now, snapshot, next);
        }
    }

    pub(super) fn chunk_written(
        &mut self,
        now: Millis,
        partner: &ControllerId,
        snapshot: u128,
        index: u32,
        kept: bool,
    ) {
        if let Some(peer) = self.peers.get_mut(partner) {
            peer.inward.written(now, snapshot, index, kept);
        }
    }

    pub(super) fn snapshot_records(
        &mut self,
        step: &mut Step<'_>,
        merge: &mut Merge<'_>,
        partner: &ControllerId,
        snapshot: u128,
        records: Result<Vec<Record>, String>,
    ) -> store::Result<()> {
        let peer = self.peers.get_mut(partner);
        peer.map_or(Ok(()), |peer| peer.records(step, merge, snapshot, records))
    }

    /// An operator of this controller: with this partner, or all.
    pub(super) fn pause(&mut self, partner: Option<&ControllerId>, paused: bool) {
        for peer in self.peers.values_mut() {
            if partner.is_none_or(|name| *name == peer.name) {
                peer.is_paused = paused;
            }
        }
    }

    /// The partner's operator has paused the exchange there.
    pub(super) fn partner_paused(&mut self, partner: &ControllerId, paused: bool) {
        if let Some(peer) = self.peers.get_mut(partner) {
            peer.is_paused_there = paused;
        }
    }

    /// An operator wants everything exchanged anew, both ways; now or when there is a link.
    pub(super) fn resync(
        &mut self,
        step: &mut Step<'_>,
        partner: &ControllerId,
    ) -> store::Result<()> {
        let Some(peer) = self.peers.get_mut(partner) else { return Ok(()) };
        peer.outward.order_resync();
        peer.inward.order_resync(step)
    }

    /// Sends what has changed, as the windows allow, and goes on with what waits.
    pub(super) fn pump(&mut self, step: &mut Step<'_>) -> store::Result<()> {
        let begin = step.out.len();
        for peer in self.peers.values_mut() {
            peer.pump(step)?;
        }
        // First, so that none of them is taken for the one that is to be built.
        let dropped = self.drop_snapshots();
        step.out.splice(begin..begin, dropped);
        self.due = self.peers.values().filter_map(|peer| peer.due(step.now)).min();
        Ok(())
    }

    /// Lets go of snapshots that no partner needs. What one partner says of its snapshot takes it
    /// from no other one that is receiving it.
    fn drop_snapshots(&mut self) -> Vec<Output> {
        let dropped: Vec<_> =
            self.peers.values_mut().flat_map(|peer| peer.outward.dropped.drain(..)).collect();
        let is_used = |snapshot| self.peers.values().any(|peer| peer.outward.uses(snapshot));
        dropped
            .into_iter()
            .filter_map(|Dropped { snapshot, why }| match why {
                Why::Doubted if is_used(snapshot) => Some(Output::RetireSnapshot { snapshot }),
                Why::Done if is_used(snapshot) => None,
                _ => Some(Output::DropSnapshot { snapshot }),
            })
            .collect()
    }

    /// When to pump at the latest, as of the last time it was.
    pub(super) fn due(&self) -> Option<Millis> {
        self.due
    }

    /// As of the last pump. `None`: no such partner.
    #[cfg(test)]
    pub(super) fn state(&self, partner: &ControllerId) -> Option<SyncState> {
        self.peers.get(partner).map(|peer| peer.state)
    }

    /// Since when each side has had, without a break, what the other one has.
    pub(super) fn in_sync_since(&self, partner: &ControllerId) -> Option<Millis> {
        self.peers.get(partner).and_then(|peer| peer.in_sync_since)
    }

    /// Every partner that has this partition has confirmed all changes up to this one, in this
    /// process. While a snapshot goes into the table it is none: what is purged meanwhile would
    /// come back with it, as it was before.
    pub(super) fn taken_by_all(&self, store: &dyn Store) -> u64 {
        if self.peers.values().any(|peer| peer.inward.is_loading()) {
            return 0;
        }
        let having = self.peers.values().filter(|peer| !peer.is_absent);
        let confirmed = having.map(|peer| peer.outward.confirmed().unwrap_or(0));
        confirmed.min().unwrap_or_else(|| store.head())
    }

    pub(super) fn counts(&self) -> SyncCounts {
        self.peers.values().fold(SyncCounts::default(), |sum, peer| SyncCounts {
            updates_sent: sum.updates_sent + peer.outward.updates_sent,
            updates_received: sum.updates_received + peer.inward.updates_received,
            snapshots_sent: sum.snapshots_sent + peer.outward.snapshots_sent,
            snapshots_received: sum.snapshots_received + peer.inward.snapshots_received,
        })
    }

    pub(super) fn status(
        &self,
        now: Millis,
        store: &mut dyn Store,
    ) -> store::Result<Vec<SyncStatus>> {
        self.peers.values().map(|peer| peer.status(now, store)).collect()
    }
}
