//! A snapshot that was made here.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ring::digest;
use ring::rand::SecureRandom;

use super::{Result, SnapshotError, at, files, format, sidecar};
use crate::limits::{CHUNK_BYTES, CHUNKS_MAX};
use crate::store::Snapshot;
use crate::wire::peer::Manifest;

/// What files are called until they are whole.
pub(super) const UNFINISHED: &str = "unfinished";

/// Counts and sums up what goes through it.
struct Summed<W> {
    to: W,
    digest: digest::Context,
    bytes: u64,
    bytes_max: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.bytes + buf.len() as u64 > self.bytes_max {
            self.bytes += buf.len() as u64;
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the snapshot is too large"));
        }
        let written = self.to.write(buf)?;
        self.digest.update(&buf[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

pub(super) fn data_path(folder: &Path, snapshot: u128) -> PathBuf {
    folder.join(format!("made-{snapshot:032x}.table"))
}

pub(super) fn manifest_path(folder: &Path, snapshot: u128) -> PathBuf {
    folder.join(format!("made-{snapshot:032x}.manifest"))
}

/// Writes one; when this returns it is on disk.
pub(super) fn build(
    folder: &Path,
    bytes_max: u64,
    snapshot: &mut dyn Snapshot,
) -> Result<Manifest> {
    let unfinished = folder.join(UNFINISHED);
    files::remove(&unfinished);
    let built = write(&unfinished, bytes_max, snapshot).and_then(|manifest| {
        // The manifest comes last: what has one is whole.
        name(folder, &unfinished, &data_path(folder, manifest.snapshot))?;
        let file = files::create(&unfinished).map_err(at(&unfinished))?;
        file.write_all_at(&sidecar::encode(&manifest), 0).map_err(at(&unfinished))?;
        file.sync_all().map_err(at(&unfinished))?;
        name(folder, &unfinished, &manifest_path(folder, manifest.snapshot))?;
        Ok(manifest)
    });
    if built.is_err() {
        files::remove(&unfinished);
    }
    built
}

fn name(folder: &Path, from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(at(to))?;
    files::sync_folder(folder).map_err(at(folder))
}

fn write(path: &Path, bytes_max: u64, snapshot: &mut dyn Snapshot) -> Result<Manifest> {
    let most = bytes_max.min(u64::from(CHUNKS_MAX) * CHUNK_BYTES as u64);
    let to = BufWriter::with_capacity(CHUNK_BYTES, files::create(path).map_err(at(path))?);
    let digest = digest::Context::new(&digest::SHA256);
    let mut to = Summed { to, digest, bytes: 0, bytes_max: most };
    to.write_all(&format::MAGIC).map_err(at(path))?;
    let mut records = 0;
    let read = snapshot.read(&mut |record| {
        records += 1;
        format::write_record(&mut to, record)
    });
    if to.bytes > most {
        return Err(SnapshotError::TooLarge { bytes: to.bytes, most });
    }
    let position = read?;
    let Summed { to, digest, bytes, .. } = to;
    let file = to.into_inner().map_err(|err| at(path)(err.into_error()))?;
    file.sync_all().map_err(at(path))?;
    let mut number = [0; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut number)
        .map_err(|_| at(path)(io::Error::other("the system has no random numbers")))?;
    let mut sum = [0; 32];
    sum.copy_from_slice(digest.finish().as_ref());
    Ok(Manifest {
        snapshot: u128::from_le_bytes(number),
        at: position,
        bytes,
        chunks: u32::try_from(bytes.div_ceil(CHUNK_BYTES as u64)).unwrap_or(CHUNKS_MAX),
        records,
        digest: sum,
    })
}

/// The manifest of one that was made before, if it is whole.
pub(super) fn find(folder: &Path, snapshot: u128) -> Option<Manifest> {
    let path = manifest_path(folder, snapshot);
    let mut bytes = [0; sidecar::MANIFEST_BYTES];
    files::open(&path, false).ok()?.read_exact_at(&mut bytes, 0).ok()?;
    let manifest = sidecar::decode(&bytes)?;
    let data = files::open(&data_path(folder, snapshot), false).ok()?.metadata().ok()?;
    let is_whole = manifest.snapshot == snapshot
        && format::check_manifest(&manifest).is_ok()
        && data.len() == manifest.bytes;
    is_whole.then_some(manifest)
}

/// The data of a chunk.
pub(super) fn read_chunk(folder: &Path, manifest: &Manifest, index: u32) -> Result<Vec<u8>> {
    if index >= manifest.chunks {
        return Err(SnapshotError::Unknown);
    }
    let path = data_path(folder, manifest.snapshot);
    let mut data = vec![0; format::bytes_of(manifest, index)];
    let file = files::open(&path, false).map_err(at(&path))?;
    file.read_exact_at(&mut data, format::begin_of(index)).map_err(at(&path))?;
    Ok(data)
}

pub(super) fn remove(folder: &Path, snapshot: u128) {
    files::remove(&manifest_path(folder, snapshot));
    files::remove(&data_path(folder, snapshot));
}
