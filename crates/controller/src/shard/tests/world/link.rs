//! The links between controllers: whole messages, in order within a lane, and gone with the link.

use std::collections::{BTreeMap, VecDeque};

use super::super::Dice;
use crate::limits::{BATCH_BYTES_MAX, BATCH_MAX, CHUNKS_IN_FLIGHT, UPDATE_WINDOW};
use crate::model::Record;
use crate::shard::Millis;
use crate::store::Position;
use crate::wire::peer::{Lane, SyncMessage};

/// One end of a link, as seen from there.
#[derive(Debug, Default)]
pub(super) struct End {
    /// The introduction of the other end has come.
    pub(super) is_up: bool,
    /// When the last message of each lane arrives there.
    last: BTreeMap<Lane, Millis>,
    /// Updates that went and were not acknowledged: the position, and bytes.
    updates: VecDeque<(Position, usize)>,
    /// Chunks that were asked for from here and have not come.
    chunks: u32,
}

#[derive(Debug, Default)]
pub(super) struct Link {
    /// Nothing gets through.
    pub(super) is_cut: bool,
    /// Counts the connections: what belongs to an older one is gone.
    pub(super) epoch: u64,
    pub(super) is_dialling: bool,
    /// At the one with the smaller number, and at the other.
    pub(super) ends: [End; 2],
}

impl Link {
    pub(super) fn break_now(&mut self) {
        self.epoch += 1;
        self.ends = [End::default(), End::default()];
        self.is_dialling = false;
    }

    pub(super) fn is_up(&self) -> bool {
        self.ends.iter().all(|end| end.is_up)
    }
}

impl End {
    /// When a message arrives that leaves now.
    pub(super) fn arrives(
        &mut self,
        now: Millis,
        lane: Lane,
        slow: u64,
        dice: &mut Dice,
    ) -> Millis {
        let delay = match lane {
            Lane::Control => dice.below(30),
            Lane::Updates => dice.below(30 + slow),
            Lane::Bulk => dice.below(200 + 4 * slow),
        };
        let last = self.last.entry(lane).or_default();
        *last = (now + delay).max(*last);
        *last
    }

    /// Nothing overtakes an introduction.
    pub(super) fn introduced(&mut self, arrives: Millis) {
        for lane in [Lane::Control, Lane::Updates, Lane::Bulk] {
            self.last.insert(lane, arrives);
        }
    }

    /// Something leaves: checks that no window is passed.
    pub(super) fn sent(&mut self, message: &SyncMessage) {
        match message {
            SyncMessage::Update { upto, records } => {
                let bytes: usize = records.iter().map(Record::weight).sum();
                assert!(records.len() <= BATCH_MAX, "{} records in an update", records.len());
                assert!(
                    records.len() <= 1 || bytes <= BATCH_BYTES_MAX + 32 * BATCH_MAX,
                    "an update of {bytes} bytes"
                );
                self.updates.push_back((*upto, bytes));
                let bytes: usize = self.updates.iter().map(|(_, bytes)| bytes).sum();
                assert!(bytes <= UPDATE_WINDOW, "{bytes} bytes of updates wait for the partner");
                assert!(self.updates.len() <= 100, "{} updates wait", self.updates.len());
            }
            SyncMessage::Need { count, .. } => {
                self.chunks += count;
                assert!(self.chunks <= CHUNKS_IN_FLIGHT, "{} chunks were asked for", self.chunks);
            }
            SyncMessage::Resync | SyncMessage::Loaded { .. } => self.chunks = 0,
            SyncMessage::Snapshot(_) => self.updates.clear(),
            _ => {}
        }
    }

    /// Something has come.
    pub(super) fn got(&mut self, message: &SyncMessage) {
        match message {
            SyncMessage::Taken { upto } => {
                while self
                    .updates
                    .front()
                    .is_some_and(|(at, _)| at.run == upto.run && at.lsn <= upto.lsn)
                {
                    self.updates.pop_front();
                }
            }
            SyncMessage::Chunk { .. } => self.chunks = self.chunks.saturating_sub(1),
            SyncMessage::Snapshot(_) | SyncMessage::Gone { .. } => self.chunks = 0,
            _ => {}
        }
    }
}
