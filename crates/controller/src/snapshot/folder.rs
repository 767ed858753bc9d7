//! The folder of a partition's snapshots.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::part::Part;
use super::{Result, SnapshotError, at, files, format, made, part};
use crate::model::{ControllerId, Record};
use crate::store::Snapshot;
use crate::wire::peer::Manifest;

/// Snapshots made here that are kept.
const MADE_MAX: usize = 2;

/// See the module. It holds at most two snapshots made here, and one of each partner.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    bytes_max: u64,
    /// The newest is the last.
    made: Vec<Manifest>,
    /// Of them: those that nobody gets anew. After a restart they may be found to be of no use once
    /// more.
    retired: Vec<u128>,
    parts: BTreeMap<ControllerId, Part>,
}

impl Folder {
    /// Opens a folder, or makes it, and removes what is of no use. Links in it are not followed,
    /// and files that are not of its making stay. No snapshot in it becomes larger than
    /// `bytes_max`.
    ///
    /// # Errors
    ///
    /// It cannot be made or read.
    pub fn open(path: &Path, bytes_max: u64) -> Result<Self> {
        fs::create_dir_all(path).map_err(at(path))?;
        let mut folder = Self {
            path: path.to_owned(),
            bytes_max,
            made: Vec::new(),
            retired: Vec::new(),
            parts: BTreeMap::new(),
        };
        folder.look().map_err(at(path))?;
        Ok(folder)
    }

    /// Finds what was made before.
    fn look(&mut self) -> std::io::Result<()> {
        files::remove(&self.path.join(made::UNFINISHED));
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(number_of) else { continue };
            match made::find(&self.path, number) {
                Some(manifest) => found.push((entry.metadata()?.modified()?, manifest)),
                None => made::remove(&self.path, number),
            }
        }
        found.sort_by_key(|(time, manifest)| (*time, manifest.at.lsn, manifest.snapshot));
        // Each is found by both its files.
        found.dedup_by_key(|(_, manifest)| manifest.snapshot);
        for (_, manifest) in found {
            self.made.retain(|made| made.snapshot != manifest.snapshot);
            self.made.push(manifest);
        }
        self.remove_old(MADE_MAX);
        Ok(())
    }

    fn remove_old(&mut self, keep: usize) {
        let excess = self.made.len().saturating_sub(keep);
        for manifest in self.made.drain(..excess) {
            made::remove(&self.path, manifest.snapshot);
        }
        self.retired.retain(|retired| self.made.iter().any(|made| made.snapshot == *retired));
    }

    /// The newest snapshot that was made here and is kept; `None` also if that is retired, as an
    /// older one is not better.
    #[must_use]
    pub fn newest(&self) -> Option<&Manifest> {
        self.made.last().filter(|made| !self.retired.contains(&made.snapshot))
    }

    /// From now on it is never the [`newest`](Self::newest); its chunks can be read as before.
    pub fn retire(&mut self, snapshot: u128) {
        let is_here = self.made.iter().any(|made| made.snapshot == snapshot);
        if is_here && !self.retired.contains(&snapshot) {
            self.retired.push(snapshot);
        }
    }

    /// Makes a snapshot of a table. It is on disk when this returns; the oldest gives way to it.
    /// Blocks for as long as reading the whole table and writing it takes.
    ///
    /// # Errors
    ///
    /// The table cannot be read, or the file not be written, or it would be too large. Nothing of
    /// it stays.
    pub fn build(&mut self, snapshot: &mut dyn Snapshot) -> Result<Manifest> {
        self.remove_old(MADE_MAX - 1);
        let manifest = made::build(&self.path, self.bytes_max, snapshot)?;
        self.made.push(manifest.clone());
        Ok(manifest)
    }

    /// The data of a chunk; `None`: the snapshot is not here any more.
    ///
    /// # Errors
    ///
    /// There never was such a chunk.
    pub fn read_chunk(&mut self, snapshot: u128, index: u32) -> Result<Option<Vec<u8>>> {
        let Some(manifest) = self.made.iter().find(|made| made.snapshot == snapshot) else {
            return Ok(None);
        };
        match made::read_chunk(&self.path, manifest, index) {
            Ok(data) => Ok(Some(data)),
            Err(SnapshotError::File { path, cause }) => {
                log::warn!("the snapshot {} is given up: {cause}", path.display());
                self.drop_made(snapshot);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a snapshot that was made here.
    pub fn drop_made(&mut self, snapshot: u128) {
        if self.made.iter().any(|made| made.snapshot == snapshot) {
            self.made.retain(|made| made.snapshot != snapshot);
            self.retired.retain(|retired| *retired != snapshot);
            made::remove(&self.path, snapshot);
        }
    }

    /// Makes ready for a partner's snapshot, in the place of another one of that partner, or finds
    /// what is here of it; gives the first chunk that is missing, or their number. Blocks for as
    /// long as reading what is here takes.
    ///
    /// # Errors
    ///
    /// It is too large, or none, or its files cannot be made.
    pub fn receive(&mut self, partner: &ControllerId, manifest: &Manifest) -> Result<u32> {
        if let Err(what) = format::check_manifest(manifest) {
            return Err(SnapshotError::Unusable(what.to_owned()));
        }
        if manifest.bytes > self.bytes_max {
            let (bytes, most) = (manifest.bytes, self.bytes_max);
            return Err(SnapshotError::TooLarge { bytes, most });
        }
        let open = self.parts.remove(partner).filter(|part| part.manifest() == manifest);
        let mut part = match open.or_else(|| Part::resume(&self.path, partner, manifest)) {
            Some(part) => part,
            None => Part::begin(&self.path, partner, manifest.clone())?,
        };
        let next = part.next();
        self.parts.insert(partner.clone(), part);
        Ok(next)
    }

    fn part(&mut self, partner: &ControllerId, snapshot: u128) -> Result<&mut Part> {
        let part = self.parts.get_mut(partner);
        part.filter(|part| part.manifest().snapshot == snapshot).ok_or(SnapshotError::Unknown)
    }

    /// Keeps a chunk of a partner's snapshot.
    ///
    /// # Errors
    ///
    /// There is no such chunk, or it has another length, or it cannot be written: then it is as if
    /// it had never come.
    pub fn write_chunk(
        &mut self,
        partner: &ControllerId,
        snapshot: u128,
        index: u32,
        data: &[u8],
    ) -> Result<()> {
        self.part(partner, snapshot)?.write(index, data)
    }

    /// The next records of a partner's snapshot that is here whole, within the bounds of a batch;
    /// none at the end. The first time since [`Folder::receive`] the whole is compared with its
    /// digest, which blocks for as long as reading it takes.
    ///
    /// # Errors
    ///
    /// It is not whole, or not what its manifest says: then it is removed.
    pub fn read(&mut self, partner: &ControllerId, snapshot: u128) -> Result<Vec<Record>> {
        let read = self.part(partner, snapshot)?.read();
        if matches!(read, Err(SnapshotError::Unusable(_))) {
            self.forget(partner, snapshot);
        }
        read
    }

    /// Removes a partner's snapshot.
    pub fn forget(&mut self, partner: &ControllerId, snapshot: u128) {
        if self.part(partner, snapshot).is_ok() {
            self.parts.remove(partner);
            part::remove(&self.path, partner);
        }
    }

    /// Removes what is left of partners that there are no more.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn keep_partners(&mut self, partners: &[ControllerId]) -> Result<()> {
        let is_left = |name: &str| {
            let name = name.strip_prefix("part-")?;
            let name = name.strip_suffix(".table").or_else(|| name.strip_suffix(".chunks"))?;
            name.parse().ok().filter(|partner| !partners.contains(partner))
        };
        for entry in fs::read_dir(&self.path).map_err(at(&self.path))? {
            let name = entry.map_err(at(&self.path))?.file_name();
            if let Some(partner) = name.to_str().and_then(is_left) {
                self.parts.remove(&partner);
                part::remove(&self.path, &partner);
            }
        }
        Ok(())
    }
}

/// The number in the name of a file that was made here.
fn number_of(name: &str) -> Option<u128> {
    let name = name.strip_prefix("made-")?;
    let digits = name.strip_suffix(".table").or_else(|| name.strip_suffix(".manifest"))?;
    let is_ours = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    u128::from_str_radix(digits, 16).ok().filter(|_| is_ours)
}
