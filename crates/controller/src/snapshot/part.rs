//! A snapshot that comes from a partner.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ring::digest;

use super::{Result, SnapshotError, at, files, format, sidecar};
use crate::limits::{BATCH_BYTES_MAX, BATCH_MAX, CHUNK_BYTES};
use crate::model::{ControllerId, Record};
use crate::wire::peer::Manifest;

/// Where its records are read on.
#[derive(Debug)]
struct Reader {
    from: BufReader<File>,
    seen: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Part {
    manifest: Manifest,
    data: File,
    data_path: PathBuf,
    chunks: File,
    chunks_path: PathBuf,
    /// Which chunks are there.
    have: Vec<bool>,
    /// What was said of chunks.
    entries: u64,
    reader: Option<Reader>,
}

pub(super) fn data_path(folder: &Path, partner: &ControllerId) -> PathBuf {
    folder.join(format!("part-{partner}.table"))
}

pub(super) fn chunks_path(folder: &Path, partner: &ControllerId) -> PathBuf {
    folder.join(format!("part-{partner}.chunks"))
}

/// Removes what is there of a partner's.
pub(super) fn remove(folder: &Path, partner: &ControllerId) {
    files::remove(&chunks_path(folder, partner));
    files::remove(&data_path(folder, partner));
}

impl Part {
    /// Begins one, in the place of another.
    pub(super) fn begin(folder: &Path, partner: &ControllerId, manifest: Manifest) -> Result<Self> {
        remove(folder, partner);
        let (data_path, chunks_path) = (data_path(folder, partner), chunks_path(folder, partner));
        let data = files::create(&data_path).map_err(at(&data_path))?;
        let chunks = files::create(&chunks_path).map_err(at(&chunks_path))?;
        chunks.write_all_at(&sidecar::encode(&manifest), 0).map_err(at(&chunks_path))?;
        let have = vec![false; manifest.chunks as usize];
        Ok(Self { manifest, data, data_path, chunks, chunks_path, have, entries: 0, reader: None })
    }

    /// Goes on with one of a process before; `None`: there is none, or another one. Every chunk
    /// that should be there is read and compared with its sum, since the last ones may never have
    /// come to the disk.
    pub(super) fn resume(
        folder: &Path,
        partner: &ControllerId,
        manifest: &Manifest,
    ) -> Option<Self> {
        let (data_path, chunks_path) = (data_path(folder, partner), chunks_path(folder, partner));
        let data = files::open(&data_path, true).ok()?;
        let chunks = files::open(&chunks_path, true).ok()?;
        let mut known = Vec::new();
        // Chunks may be there twice, if one had to be asked for again.
        let most = sidecar::MANIFEST_BYTES + 4 * sidecar::ENTRY_BYTES * manifest.chunks as usize;
        (&chunks).take(most as u64).read_to_end(&mut known).ok()?;
        if sidecar::decode(&known)? != *manifest {
            return None;
        }
        let have = vec![false; manifest.chunks as usize];
        let manifest = manifest.clone();
        let entries = 0;
        let mut part =
            Self { manifest, data, data_path, chunks, chunks_path, have, entries, reader: None };
        part.chunks.set_len(sidecar::MANIFEST_BYTES as u64).ok()?;
        for (index, crc) in sidecar::entries(&known) {
            let is_new = part.have.get(index as usize).is_some_and(|have| !have);
            if is_new && part.sum(index).is_some_and(|sum| sum == crc) {
                part.note(index, crc).ok()?;
            }
        }
        Some(part)
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The first chunk that is missing, or their number.
    pub(super) fn next(&mut self) -> u32 {
        self.reader = None;
        let next = self.have.iter().position(|have| !have).unwrap_or(self.have.len());
        u32::try_from(next).unwrap_or(self.manifest.chunks)
    }

    fn sum(&self, index: u32) -> Option<u32> {
        let mut data = vec![0; format::bytes_of(&self.manifest, index)];
        self.data.read_exact_at(&mut data, format::begin_of(index)).ok()?;
        Some(crc32fast::hash(&data))
    }

    fn note(&mut self, index: u32, crc: u32) -> io::Result<()> {
        let begin = sidecar::MANIFEST_BYTES as u64 + self.entries * sidecar::ENTRY_BYTES as u64;
        self.chunks.write_all_at(&sidecar::encode_entry(index, crc), begin)?;
        self.entries += 1;
        if let Some(have) = self.have.get_mut(index as usize) {
            *have = true;
        }
        Ok(())
    }

    /// Keeps a chunk.
    pub(super) fn write(&mut self, index: u32, data: &[u8]) -> Result<()> {
        let is_whole = data.len() == format::bytes_of(&self.manifest, index);
        let Some(have) = self.have.get_mut(index as usize).filter(|_| is_whole) else {
            return Err(SnapshotError::Unknown);
        };
        *have = false;
        self.data.write_all_at(data, format::begin_of(index)).map_err(at(&self.data_path))?;
        self.note(index, crc32fast::hash(data)).map_err(at(&self.chunks_path))
    }

    /// The next records; none at the end. The first time the whole is compared with its digest.
    pub(super) fn read(&mut self) -> Result<Vec<Record>> {
        let unusable = |error: io::Error| SnapshotError::Unusable(error.to_string());
        if self.have.contains(&false) {
            return Err(SnapshotError::Unknown);
        }
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.check().map_err(unusable)?,
        };
        let reader = self.reader.insert(reader);
        let mut records = Vec::new();
        let mut bytes = 0;
        while records.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            let Some(record) = format::read_record(&mut reader.from).map_err(unusable)? else {
                break;
            };
            bytes += record.weight();
            records.push(record);
        }
        reader.seen += records.len() as u64;
        let is_over = records.is_empty();
        if reader.seen > self.manifest.records || (is_over && reader.seen != self.manifest.records)
        {
            let what = format!("{} records, not {}", reader.seen, self.manifest.records);
            return Err(SnapshotError::Unusable(what));
        }
        Ok(records)
    }

    fn check(&self) -> io::Result<Reader> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut file = self.data.try_clone()?;
        if file.metadata()?.len() != self.manifest.bytes {
            return Err(invalid("it has another length"));
        }
        file.seek(SeekFrom::Start(0))?;
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            digest.update(&buffer[..count]);
        }
        if digest.finish().as_ref() != self.manifest.digest {
            return Err(invalid("its digest is another one"));
        }
        file.seek(SeekFrom::Start(0))?;
        let mut from = BufReader::with_capacity(CHUNK_BYTES, file);
        format::read_magic(&mut from)?;
        Ok(Reader { from, seen: 0 })
    }
}
