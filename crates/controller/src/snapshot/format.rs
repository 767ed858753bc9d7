//! How the records of a snapshot lie in its file, one after the other, in the order of kind and
//! key:
//!
//! ```text
//! magic     8 bytes   "EVSTAB\x01\x00"
//! record: length  u32   of what follows, little-endian as all
//!         kind    u16
//!         key     u16   its length
//!         rank    u16   its length
//!         key, rank, body
//! ```
//!
//! A file is what a peer sent: nothing in it is believed before it was looked at.

use std::io::{self, Read, Write};

use crate::limits::{CHUNK_BYTES, CHUNKS_MAX, KEY_MAX, RANK_MAX, RECORD_MAX};
use crate::model::Record;
use crate::wire::peer::Manifest;

/// What a file begins with: what it is, and the version of the format.
pub const MAGIC: [u8; 8] = *b"EVSTAB\x01\x00";
/// Bytes of a record before its key, without the length.
const HEAD_BYTES: usize = 6;
/// Bytes that a record has at least.
const RECORD_MIN: u64 = 4 + HEAD_BYTES as u64;

/// Writes a record.
///
/// # Errors
///
/// The writer's; `InvalidData` if the record is larger than a record may be.
pub fn write_record(to: &mut dyn Write, record: &Record) -> io::Result<()> {
    let Record { kind, key, rank, body } = record;
    let bytes = key.len() + rank.len() + body.len();
    let (Ok(key_len), Ok(rank_len), true) =
        (u16::try_from(key.len()), u16::try_from(rank.len()), is_in_bounds(record))
    else {
        let what = format!("a record of {bytes} bytes is larger than a record may be");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    };
    // At most RECORD_MAX, as was just looked at.
    let length = u32::try_from(HEAD_BYTES + bytes).unwrap_or(u32::MAX);
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&kind.to_le_bytes())?;
    to.write_all(&key_len.to_le_bytes())?;
    to.write_all(&rank_len.to_le_bytes())?;
    to.write_all(key)?;
    to.write_all(rank)?;
    to.write_all(body)
}

fn is_in_bounds(record: &Record) -> bool {
    let (key, rank) = (record.key.len(), record.rank.len());
    key <= KEY_MAX && rank <= RANK_MAX && key + rank + record.body.len() <= RECORD_MAX
}

/// Reads the magic.
///
/// # Errors
///
/// The reader's; `InvalidData` for another one.
pub fn read_magic(from: &mut dyn Read) -> io::Result<()> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    if magic == MAGIC { Ok(()) } else { Err(invalid("it is no snapshot of this version")) }
}

/// Reads a record; `None` at the end.
///
/// # Errors
///
/// The reader's; `UnexpectedEof` in the middle of a record, `InvalidData` for lengths out of
/// bounds.
pub fn read_record(from: &mut dyn Read) -> io::Result<Option<Record>> {
    let mut length = [0; 4];
    let Some(rest) = read_first(from, &mut length)? else { return Ok(None) };
    from.read_exact(rest)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if !(HEAD_BYTES..=HEAD_BYTES + RECORD_MAX).contains(&length) {
        return Err(invalid("a record has a length out of bounds"));
    }
    let mut all = vec![0; length];
    from.read_exact(&mut all)?;
    let wrong = || invalid("the lengths of a record do not fit");
    let (head, content) = all.split_first_chunk::<HEAD_BYTES>().ok_or_else(wrong)?;
    let [kind_0, kind_1, key_0, key_1, rank_0, rank_1] = *head;
    let key = usize::from(u16::from_le_bytes([key_0, key_1]));
    let rank = usize::from(u16::from_le_bytes([rank_0, rank_1]));
    let (key, content) = content.split_at_checked(key).ok_or_else(wrong)?;
    let (rank, body) = content.split_at_checked(rank).ok_or_else(wrong)?;
    let record = Record {
        kind: u16::from_le_bytes([kind_0, kind_1]),
        key: key.to_vec(),
        rank: rank.to_vec(),
        body: body.to_vec(),
    };
    if is_in_bounds(&record) { Ok(Some(record)) } else { Err(wrong()) }
}

/// Reads the first byte, which may be missing; gives what is left to be read.
fn read_first<'a>(from: &mut dyn Read, to: &'a mut [u8]) -> io::Result<Option<&'a mut [u8]>> {
    let (first, rest) = to.split_at_mut(1);
    loop {
        match from.read(first) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(rest)),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whether there can be such a snapshot.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_manifest(manifest: &Manifest) -> Result<(), &'static str> {
    let Manifest { bytes, chunks, records, .. } = *manifest;
    if chunks > CHUNKS_MAX {
        return Err("more chunks than are allowed");
    }
    if u64::from(chunks) != bytes.div_ceil(CHUNK_BYTES as u64) {
        return Err("chunks that do not fit to its bytes");
    }
    let least = records.checked_mul(RECORD_MIN).and_then(|least| least.checked_add(8));
    if least.is_none_or(|least| least > bytes) {
        return Err("fewer bytes than its records need");
    }
    Ok(())
}

/// Where a chunk begins.
#[must_use]
pub fn begin_of(index: u32) -> u64 {
    u64::from(index) * CHUNK_BYTES as u64
}

/// Bytes of a chunk.
#[must_use]
pub fn bytes_of(manifest: &Manifest, index: u32) -> usize {
    let left = manifest.bytes.saturating_sub(begin_of(index));
    usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)
}
