//! What a controller asks its shards about.

use super::Shard;
use crate::model::{ControllerId, DeviceId, Location, kind};
use crate::store::{self, Position};

impl Shard {
    /// The position of this table, and how far it has taken over the changes of a partner.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn standpoint(
        &mut self,
        partner: &ControllerId,
    ) -> store::Result<(Position, Option<Position>)> {
        let head = Position { run: self.store.run(), lsn: self.store.head() };
        Ok((head, self.store.taken(partner)?))
    }

    /// What stands of a device, and whether it is connected here.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn device(&mut self, device: &DeviceId) -> store::Result<Option<(Location, bool)>> {
        let row = self.store.get(kind::LOCATION, device.as_str().as_bytes())?;
        let location = row.and_then(|row| Location::from_record(&row.record).ok());
        let session = self.registrar.sessions().get(device);
        let is_connected = session.is_some_and(|session| session.conn.is_some());
        Ok(location.map(|location| (location, is_connected)))
    }
}
