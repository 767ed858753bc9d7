//! What stands beside a snapshot's file, so that it outlives the process: its manifest, and for one
//! that comes the chunks that are there with their sums.

use crate::store::Position;
use crate::wire::peer::Manifest;

/// What it begins with: what it is, and the version of the format.
const MAGIC: [u8; 8] = *b"EVSMAN\x01\x00";
/// Bytes of a manifest.
pub(super) const MANIFEST_BYTES: usize = 8 + 16 + 16 + 8 + 8 + 4 + 8 + 32 + 4;
/// Bytes of what is said of one chunk.
pub(super) const ENTRY_BYTES: usize = 8;

/// A manifest, little-endian, with its CRC-32 at the end.
pub(super) fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MANIFEST_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(manifest.snapshot.to_le_bytes());
    bytes.extend(manifest.at.run.to_le_bytes());
    bytes.extend(manifest.at.lsn.to_le_bytes());
    bytes.extend(manifest.bytes.to_le_bytes());
    bytes.extend(manifest.chunks.to_le_bytes());
    bytes.extend(manifest.records.to_le_bytes());
    bytes.extend(manifest.digest);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// The manifest at the beginning; `None`: there is none that is whole.
pub(super) fn decode(bytes: &[u8]) -> Option<Manifest> {
    let (bytes, _) = bytes.split_at_checked(MANIFEST_BYTES)?;
    let (content, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (magic, rest) = content.split_first_chunk::<8>()?;
    let (snapshot, rest) = rest.split_first_chunk::<16>()?;
    let (run, rest) = rest.split_first_chunk::<16>()?;
    let (lsn, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (chunks, rest) = rest.split_first_chunk::<4>()?;
    let (records, rest) = rest.split_first_chunk::<8>()?;
    let digest = rest.try_into().ok()?;
    (*magic == MAGIC).then(|| Manifest {
        snapshot: u128::from_le_bytes(*snapshot),
        at: Position { run: u128::from_le_bytes(*run), lsn: u64::from_le_bytes(*lsn) },
        bytes: u64::from_le_bytes(*length),
        chunks: u32::from_le_bytes(*chunks),
        records: u64::from_le_bytes(*records),
        digest,
    })
}

/// A chunk that is there: its number and the CRC-32 of its data.
pub(super) fn encode_entry(index: u32, crc: u32) -> [u8; ENTRY_BYTES] {
    (u64::from(crc) << 32 | u64::from(index)).to_le_bytes()
}

/// The entries behind a manifest; half a one at the end was being written when the process ended.
pub(super) fn entries(bytes: &[u8]) -> impl Iterator<Item = (u32, u32)> {
    let (entries, _) = bytes.get(MANIFEST_BYTES..).unwrap_or_default().as_chunks::<ENTRY_BYTES>();
    entries.iter().map(|entry| {
        let [a, b, c, d, e, f, g, h] = *entry;
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    })
}
