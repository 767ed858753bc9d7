//! A spool as a file: the batch job of a diversion, which a server of the pair can work off.
//!
//! Numbers are big-endian.
//!
//! | part | bytes | what |
//! |---|---|---|
//! | head | 8 | `EVSJOB` and the version, a u16 |
//! | | 1 + n | the name of the pair, its length before it |
//! | record, any number of times | 4 | its length without this, and without the CRC |
//! | | 8 + 16 + 4 + 8 + 8 | place, id, kind, epoch, when it was accepted (ms since 1970) |
//! | | 2 + n | the key, its length before it |
//! | | n | the payload |
//! | | 4 | CRC-32 of the record, its length included |
//! | trailer | 4 | `0xffffffff`, which no record is long |
//! | | 8 + 32 | how many records, SHA-256 of all before this |
//!
//! Places grow. A file without its trailer is one that was not written to its end, or was cut.

use std::fmt;
use std::io::{self, Read, Write};

use ring::digest::{Context, SHA256};

use crate::limits::{KEY_MAX, PAIR_NAME_MAX, PAYLOAD_MAX};
use crate::record::Record;
use crate::request::{Kind, RequestId};

const MAGIC: &[u8; 6] = b"EVSJOB";
const VERSION: u16 = 1;
const TRAILER: u32 = u32::MAX;
/// What a record has besides its key and payload.
const FIXED: usize = 8 + 16 + 4 + 8 + 8 + 2;
const DIGEST: usize = 32;

/// Why a file is no job.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// It cannot be read or written.
    #[error("the job file cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// It does not begin as a job does.
    #[error("this is no job file: it does not begin with EVSJOB; make one with `evs spool export`")]
    NoJob,
    /// Of a version that is not known.
    #[error("the job file is of version {0}, and this program knows {VERSION}: use a newer one")]
    Version(u16),
    /// It ends where it must not.
    #[error("the job file ends after {records} records without its trailer: export it anew")]
    Cut {
        /// Whole records before the end.
        records: u64,
    },
    /// What stands there is not what was written.
    #[error("the job file is damaged after {records} records: {what}; export it anew")]
    Damaged {
        /// Whole records before it.
        records: u64,
        /// What is wrong.
        what: String,
    },
    /// A record that does not fit.
    #[error("record {lsn} does not fit into a job: {what}")]
    Unfit {
        /// Its place.
        lsn: u64,
        /// Why.
        what: &'static str,
    },
}

/// Writes a job. Without [`JobWriter::end`] what was written is no job.
pub struct JobWriter<W> {
    out: W,
    digest: Context,
    records: u64,
    last: u64,
}

impl<W> fmt::Debug for JobWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobWriter").field("records", &self.records).finish_non_exhaustive()
    }
}

impl<W: Write> JobWriter<W> {
    /// Begins a job of this pair. Writes are small: give it a buffer.
    ///
    /// # Errors
    ///
    /// [`JobError::Io`]; [`JobError::Unfit`] for a name that is longer than names are.
    pub fn new(out: W, pair: &str) -> Result<Self, JobError> {
        let length = u8::try_from(pair.len()).ok().filter(|_| pair.len() <= PAIR_NAME_MAX);
        let what = "the name of the pair is too long";
        let length = length.ok_or(JobError::Unfit { lsn: 0, what })?;
        let mut job = Self { out, digest: Context::new(&SHA256), records: 0, last: 0 };
        job.put(MAGIC)?;
        job.put(&VERSION.to_be_bytes())?;
        job.put(&[length])?;
        job.put(pair.as_bytes())?;
        Ok(job)
    }

    /// Adds a record, whose place has to be above that of the one before.
    ///
    /// # Errors
    ///
    /// [`JobError::Io`], [`JobError::Unfit`].
    pub fn add(&mut self, record: &Record) -> Result<(), JobError> {
        let unfit = |what| Err(JobError::Unfit { lsn: record.lsn, what });
        if record.lsn <= self.last {
            return unfit("its place is not above that of the one before");
        }
        if record.key.len() > KEY_MAX || record.payload.len() > PAYLOAD_MAX {
            return unfit("its key or its payload is too long");
        }
        let length = FIXED + record.key.len() + record.payload.len();
        let mut head = Vec::with_capacity(4 + FIXED + record.key.len());
        head.extend((length as u32).to_be_bytes());
        head.extend(record.lsn.to_be_bytes());
        head.extend(record.id.0.to_be_bytes());
        head.extend(record.kind.code().to_be_bytes());
        head.extend(record.epoch.to_be_bytes());
        head.extend(record.accepted_ms.to_be_bytes());
        head.extend((record.key.len() as u16).to_be_bytes());
        head.extend(&record.key);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head);
        crc.update(&record.payload);
        self.put(&head)?;
        self.put(&record.payload)?;
        self.put(&crc.finalize().to_be_bytes())?;
        (self.last, self.records) = (record.lsn, self.records + 1);
        Ok(())
    }

    /// Writes the trailer. Gives back where it was written, flushed, and how many records there are.
    ///
    /// # Errors
    ///
    /// [`JobError::Io`].
    pub fn end(mut self) -> Result<(W, u64), JobError> {
        self.put(&TRAILER.to_be_bytes())?;
        self.put(&self.records.to_be_bytes())?;
        self.out.write_all(self.digest.finish().as_ref())?;
        self.out.flush()?;
        Ok((self.out, self.records))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }
}

/// Reads a job, a record at a time.
pub struct JobReader<R> {
    from: R,
    digest: Context,
    pair: String,
    records: u64,
    last: u64,
    is_over: bool,
}

impl<R> fmt::Debug for JobReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobReader")
            .field("pair", &self.pair)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

impl<R: Read> JobReader<R> {
    /// Reads the head. Reads are small: give it a buffer.
    ///
    /// # Errors
    ///
    /// See [`JobError`].
    pub fn new(from: R) -> Result<Self, JobError> {
        let mut job = Self {
            from,
            digest: Context::new(&SHA256),
            pair: String::new(),
            records: 0,
            last: 0,
            is_over: false,
        };
        let magic = job.take::<6>().map_err(|error| match error {
            JobError::Cut { .. } => JobError::NoJob,
            other => other,
        })?;
        if &magic != MAGIC {
            return Err(JobError::NoJob);
        }
        let version = u16::from_be_bytes(job.take()?);
        if version != VERSION {
            return Err(JobError::Version(version));
        }
        let [length] = job.take()?;
        if usize::from(length) > PAIR_NAME_MAX {
            return Err(job.damaged("the name of its pair is too long"));
        }
        let name = job.take_vec(usize::from(length))?;
        job.pair =
            String::from_utf8(name).map_err(|_| job.damaged("the name of its pair is not text"))?;
        Ok(job)
    }

    /// Whose spool it is of.
    #[must_use]
    pub fn pair(&self) -> &str {
        &self.pair
    }

    /// The next record; `None` after the trailer, if all before it is as it was written.
    ///
    /// # Errors
    ///
    /// See [`JobError`].
    pub fn next_record(&mut self) -> Result<Option<Record>, JobError> {
        if self.is_over {
            return Ok(None);
        }
        let prefix = self.take::<4>()?;
        let length = u32::from_be_bytes(prefix);
        if length == TRAILER {
            self.trailer()?;
            self.is_over = true;
            return Ok(None);
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !(FIXED..=FIXED + KEY_MAX + PAYLOAD_MAX).contains(&length) {
            return Err(self.damaged(&format!("a record is said to have {length} bytes")));
        }
        let body = self.take_vec(length)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&prefix);
        crc.update(&body);
        if u32::from_be_bytes(self.take()?) != crc.finalize() {
            return Err(self.damaged("the checksum of a record is wrong"));
        }
        let record = record(&body).map_err(|what| self.damaged(what))?;
        if record.lsn <= self.last {
            return Err(self.damaged("the places of its records do not grow"));
        }
        (self.last, self.records) = (record.lsn, self.records + 1);
        Ok(Some(record))
    }

    fn trailer(&mut self) -> Result<(), JobError> {
        let count = u64::from_be_bytes(self.take()?);
        let digest = self.digest.clone().finish();
        let mut kept = [0; DIGEST];
        self.read(&mut kept)?;
        if count != self.records {
            return Err(self.damaged(&format!("its trailer speaks of {count} records")));
        }
        if kept != digest.as_ref() {
            return Err(self.damaged("the checksum of the whole is wrong"));
        }
        let mut more = [0];
        loop {
            match self.from.read(&mut more) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(self.damaged("something stands behind its trailer")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn damaged(&self, what: &str) -> JobError {
        JobError::Damaged { records: self.records, what: what.to_owned() }
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), JobError> {
        self.from.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => JobError::Cut { records: self.records },
            _ => error.into(),
        })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], JobError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        self.digest.update(&bytes);
        Ok(bytes)
    }

    /// Memory grows with what is there, not with what a length says.
    fn take_vec(&mut self, length: usize) -> Result<Vec<u8>, JobError> {
        let mut bytes = Vec::with_capacity(length.min(64 << 10));
        let got = (&mut self.from).take(length as u64).read_to_end(&mut bytes)?;
        if got < length {
            return Err(JobError::Cut { records: self.records });
        }
        self.digest.update(&bytes);
        Ok(bytes)
    }
}

/// A record whose checksum is right, and that has at least [`FIXED`] bytes.
fn record(body: &[u8]) -> Result<Record, &'static str> {
    let short = "a record is too short for what it holds";
    let (lsn, rest) = body.split_first_chunk::<8>().ok_or(short)?;
    let (id, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
    let (kind, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
    let (epoch, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
    let (accepted, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
    let (key, rest) = rest.split_first_chunk::<2>().ok_or(short)?;
    let key_len = usize::from(u16::from_be_bytes(*key));
    if key_len > KEY_MAX || rest.len() < key_len || rest.len() - key_len > PAYLOAD_MAX {
        return Err("the key or the payload of a record is not as long as it can be");
    }
    let (key, payload) = rest.split_at(key_len);
    Ok(Record {
        lsn: u64::from_be_bytes(*lsn),
        id: RequestId(u128::from_be_bytes(*id)),
        kind: Kind::from_code(u32::from_be_bytes(*kind)).ok_or("a record is of no known kind")?,
        key: key.to_vec(),
        payload: payload.to_vec(),
        epoch: u64::from_be_bytes(*epoch),
        accepted_ms: u64::from_be_bytes(*accepted),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(records: &[Record]) -> Vec<u8> {
        let mut job = JobWriter::new(Vec::new(), "mail").unwrap();
        records.iter().for_each(|record| job.add(record).unwrap());
        let (bytes, count) = job.end().unwrap();
        assert_eq!(count, records.len() as u64);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Record>, JobError> {
        let mut job = JobReader::new(bytes)?;
        assert_eq!(job.pair(), "mail");
        let mut records = Vec::new();
        while let Some(record) = job.next_record()? {
            records.push(record);
        }
        assert!(job.next_record()?.is_none(), "it stays at its end");
        Ok(records)
    }

    fn sample() -> Vec<Record> {
        (1..=3u8)
            .map(|n| Record {
                lsn: u64::from(n) * 7,
                id: RequestId(u128::from(n) << 100),
                kind: Kind::Write,
                key: vec![n; usize::from(n)],
                payload: vec![n; 100],
                epoch: 9,
                accepted_ms: 1_700_000_000_000,
            })
            .collect()
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let kind = prop_oneof![
            Just(Kind::Write),
            Just(Kind::Read),
            Just(Kind::Delete),
            Just(Kind::Search),
            any::<u16>().prop_map(Kind::Custom)
        ];
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
        (any::<u128>(), kind, bytes(300), bytes(2000), any::<u64>(), any::<u64>()).prop_map(
            |(id, kind, key, payload, epoch, accepted_ms)| Record {
                lsn: 0,
                id: RequestId(id),
                kind,
                key,
                payload,
                epoch,
                accepted_ms,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read(
            mut records in prop::collection::vec(any_record(), 0..20),
            gaps in prop::collection::vec(1..1000u64, 20),
        ) {
            let mut lsn = 0;
            for (record, gap) in records.iter_mut().zip(gaps) {
                lsn += gap;
                record.lsn = lsn;
            }
            prop_assert_eq!(read(&written(&records)).unwrap(), records);
        }

        #[test]
        fn no_bytes_panic_or_pass_for_a_job(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(JobReader::new(&bytes[..]).is_err());
            let mut job = written(&sample());
            job.truncate(15);
            job.extend(bytes);
            prop_assert!(read(&job).is_err());
        }
    }

    #[test]
    fn every_bit_that_is_wrong_is_noticed() {
        let good = written(&sample());
        assert_eq!(read(&good).unwrap(), sample());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let Ok(mut job) = JobReader::new(&bad[..]) else { continue };
                let end = loop {
                    match job.next_record() {
                        Ok(Some(_)) => {}
                        end => break end,
                    }
                };
                assert!(end.is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let good = written(&sample());
        for length in 0..good.len() {
            let error = read(&good[..length]).unwrap_err();
            let expected = length < 6 && matches!(error, JobError::NoJob)
                || matches!(error, JobError::Cut { .. });
            assert!(expected, "{length}: {error}");
        }
        let longer = [&good[..], b"\0"].concat();
        assert!(matches!(read(&longer), Err(JobError::Damaged { records: 3, .. })));
    }

    #[test]
    fn a_length_beyond_all_bounds_costs_no_memory() {
        let mut job = written(&[]);
        job.truncate(13);
        for length in [u32::MAX - 1, (FIXED + KEY_MAX + PAYLOAD_MAX + 1) as u32, 3] {
            let bad = [&job[..], &length.to_be_bytes()].concat();
            let error = read(&bad).unwrap_err();
            assert!(error.to_string().contains("is said to have"), "{error}");
        }
        // The longest that is allowed, of which nothing is there.
        let length = ((FIXED + KEY_MAX + PAYLOAD_MAX) as u32).to_be_bytes();
        assert!(matches!(read(&[&job[..], &length].concat()), Err(JobError::Cut { records: 0 })));
    }

    #[test]
    fn what_is_no_job_is_told_from_a_newer_one() {
        assert!(matches!(JobReader::new(&b""[..]), Err(JobError::NoJob)));
        assert!(matches!(JobReader::new(&b"SQLite format 3"[..]), Err(JobError::NoJob)));
        assert!(matches!(JobReader::new(&b"EVSJOB\0\x02"[..]), Err(JobError::Version(2))));
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut job = JobWriter::new(Vec::new(), "mail").unwrap();
        let [first, second, _] = &sample()[..] else { unreachable!("three") };
        job.add(second).unwrap();
        assert!(matches!(job.add(first), Err(JobError::Unfit { lsn: 7, .. })));
        let long = Record { lsn: 99, key: vec![0; KEY_MAX + 1], ..first.clone() };
        assert!(matches!(job.add(&long), Err(JobError::Unfit { lsn: 99, .. })));
        assert!(JobWriter::new(Vec::new(), &"x".repeat(PAIR_NAME_MAX + 1)).is_err());
        let (bytes, count) = job.end().unwrap();
        assert_eq!((count, read(&bytes).unwrap().len()), (1, 1));
    }
}
