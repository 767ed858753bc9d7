//! The files of snapshots that a controller keeps, in memory.

use std::collections::BTreeMap;

use crate::limits::CHUNK_BYTES;
use crate::model::Record;
use crate::snapshot::format::{MAGIC, read_magic, read_record, write_record};
use crate::store::Snapshot;
use crate::wire::peer::Manifest;

/// Records that are read at once: few, so that much can happen in between.
const READ_MAX: usize = 7;

#[derive(Debug)]
struct Incoming {
    manifest: Manifest,
    chunks: BTreeMap<u32, Vec<u8>>,
    /// Those that are not read yet, the next one last.
    rest: Option<Vec<Record>>,
}

#[derive(Debug, Default)]
pub(super) struct Folder {
    made: BTreeMap<u128, Vec<u8>>,
    incoming: BTreeMap<(usize, u128), Incoming>,
}

impl Folder {
    /// `rot`: a byte goes bad on the disk.
    pub(super) fn build(
        &mut self,
        number: u128,
        table: &mut dyn Snapshot,
        rot: bool,
    ) -> Option<Manifest> {
        let mut file = MAGIC.to_vec();
        let mut records = 0;
        let at = table
            .read(&mut |record| {
                records += 1;
                write_record(&mut file, record)
            })
            .ok()?;
        let digest = digest(&file);
        let bytes = file.len() as u64;
        let chunks = u32::try_from(file.len().div_ceil(CHUNK_BYTES)).unwrap();
        if rot {
            *file.last_mut().unwrap() ^= 1;
        }
        self.made.insert(number, file);
        Some(Manifest { snapshot: number, at, bytes, chunks, records, digest })
    }

    pub(super) fn chunk(&self, snapshot: u128, index: u32) -> Option<Vec<u8>> {
        let file = self.made.get(&snapshot)?;
        file.chunks(CHUNK_BYTES).nth(index as usize).map(<[u8]>::to_vec)
    }

    pub(super) fn remove(&mut self, snapshot: u128) {
        self.made.remove(&snapshot);
    }

    pub(super) fn receive(&mut self, from: usize, manifest: &Manifest) -> u32 {
        let incoming = self.incoming.entry((from, manifest.snapshot)).or_insert_with(|| Incoming {
            manifest: manifest.clone(),
            chunks: BTreeMap::new(),
            rest: None,
        });
        (0..).find(|index| !incoming.chunks.contains_key(index)).unwrap_or(0)
    }

    pub(super) fn write(&mut self, from: usize, snapshot: u128, index: u32, data: Vec<u8>) -> bool {
        let Some(incoming) = self.incoming.get_mut(&(from, snapshot)) else { return false };
        incoming.chunks.insert(index, data);
        true
    }

    pub(super) fn read(&mut self, from: usize, snapshot: u128) -> Result<Vec<Record>, String> {
        let incoming = self.incoming.get_mut(&(from, snapshot)).ok_or("it is gone")?;
        if incoming.rest.is_none() {
            let file: Vec<u8> = incoming.chunks.values().flatten().copied().collect();
            if digest(&file) != incoming.manifest.digest {
                return Err("its digest is wrong".to_owned());
            }
            let mut from = &file[..];
            read_magic(&mut from).unwrap();
            let mut records = Vec::new();
            while let Some(record) = read_record(&mut from).unwrap() {
                records.push(record);
            }
            records.reverse();
            incoming.rest = Some(records);
        }
        let rest = incoming.rest.as_mut().unwrap();
        Ok(rest.split_off(rest.len().saturating_sub(READ_MAX)).into_iter().rev().collect())
    }

    pub(super) fn forget(&mut self, from: usize, snapshot: u128) {
        self.incoming.remove(&(from, snapshot));
    }

    /// The process ended: what was read is read again from the start.
    pub(super) fn restart(&mut self) {
        for incoming in self.incoming.values_mut() {
            incoming.rest = None;
        }
    }

    pub(super) fn lose(&mut self) {
        *self = Self::default();
    }
}

fn digest(file: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, file);
    digest.as_ref().try_into().unwrap()
}
