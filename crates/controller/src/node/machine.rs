//! A shard as what a partition's thread drives.

use super::status::{Counts, DeviceRow, PartitionStatus};
use super::worker::Machine;
use crate::model::{ControllerId, DeviceId, Record};
use crate::shard::input::Millis;
use crate::shard::{Event, Input, Output, Shard};
use crate::store::{self, Position};

/// The shard of a partition.
pub(super) struct ShardMachine {
    pub(super) shard: Shard,
    pub(super) home: ControllerId,
}

impl Machine for ShardMachine {
    fn handle(
        &mut self,
        now: Millis,
        wall_s: u32,
        input: Input,
        out: &mut Vec<Output>,
    ) -> store::Result<()> {
        self.shard.handle(now, wall_s, input, out)
    }

    fn commit(&mut self) -> store::Result<()> {
        self.shard.commit()
    }

    fn status(
        &mut self,
        now: Millis,
        status: &mut PartitionStatus,
        counts: &mut Counts,
    ) -> store::Result<()> {
        let of_shard = self.shard.status(now)?;
        (status.records, status.bytes) = (of_shard.totals.records, of_shard.totals.bytes);
        (status.owned, status.connected) = (of_shard.owned, of_shard.connected);
        (status.head, status.sync) = (of_shard.head, of_shard.sync);
        (status.requests, status.hand_overs) = (of_shard.requests, of_shard.hand_overs);
        *counts = of_shard.counts;
        Ok(())
    }

    fn devices(&mut self, after: Option<&DeviceId>, count: usize) -> store::Result<Vec<DeviceRow>> {
        let found = self.shard.devices(after, count)?;
        let row = |(location, is_connected)| DeviceRow {
            home: self.home.clone(),
            location,
            is_connected,
        };
        Ok(found.into_iter().map(row).collect())
    }

    fn find(&mut self, device: &DeviceId) -> store::Result<Option<DeviceRow>> {
        let found = self.shard.device(device)?;
        Ok(found.map(|(location, is_connected)| DeviceRow {
            home: self.home.clone(),
            location,
            is_connected,
        }))
    }

    fn put(&mut self, record: Record) -> store::Result<()> {
        self.shard.put(record)
    }

    fn get(&mut self, kind: u16, key: &[u8]) -> store::Result<Option<Record>> {
        self.shard.get(kind, key)
    }

    fn lost(&mut self, why: &str) -> Vec<Event> {
        self.shard.lost(why)
    }

    fn standpoint(
        &mut self,
        partner: &ControllerId,
    ) -> store::Result<(Position, Option<Position>)> {
        self.shard.standpoint(partner)
    }
}
