//! The files of snapshots.

use std::io;
use std::path::Path;

use super::bulk::Files;
use crate::model::{ControllerId, Record};
use crate::store::Snapshot;
use crate::wire::peer::Manifest;

/// There are none yet: every snapshot is put off.
pub(super) struct PutOff;

pub(super) fn open(_folder: &Path) -> io::Result<PutOff> {
    Ok(PutOff)
}

impl Files for PutOff {
    fn build(&mut self, _: &ControllerId, _: &mut dyn Snapshot) -> Option<Manifest> {
        None
    }

    fn read_chunk(&mut self, _: u128, _: u32) -> Option<Vec<u8>> {
        None
    }

    fn remove(&mut self, _: u128) {}

    fn receive(&mut self, _: &ControllerId, _: &Manifest) -> Option<u32> {
        None
    }

    fn write_chunk(&mut self, _: &ControllerId, _: u128, _: u32, _: &[u8]) -> bool {
        false
    }

    fn read_records(&mut self, _: &ControllerId, _: u128) -> Result<Vec<Record>, String> {
        Err("snapshots are put off".to_owned())
    }

    fn forget(&mut self, _: &ControllerId, _: u128) {}
}
