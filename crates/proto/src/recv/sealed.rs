//! The receiving direction of a sealed session: from records to frames (PROTOCOL 2.9).
//!
//! Bytes of the connection are collected until a record is whole; it is opened in place, and only
//! then anything of it counts, its header included. What is held is one record at most, and what
//! came behind it in the same read.

use super::{Receiver, Step, Violation};
use crate::limits::{HEADER_BYTES, SEALED_PAYLOAD_MAX_BYTES};
use crate::seal::{Opener, record_len};
use crate::wire::frame::{Header, Kind};

/// A read asks for this much while no record is known to be longer, in bytes.
const READ_MIN_BYTES: usize = 4096;

/// Records that are not whole yet.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// None before the epoch has its keys: then nothing can be opened.
    opener: Option<Opener>,
    bytes: Vec<u8>,
    /// Of `bytes`, what has come.
    have: usize,
    /// The longest record of late: what a read asks for.
    longest: usize,
}

impl Records {
    pub(super) fn begin_epoch(&mut self) {
        // The keys of an epoch die with it, and so does a record that was not whole.
        *self = Self { bytes: std::mem::take(&mut self.bytes), ..Self::default() };
    }

    /// The length of the record that begins at `at`, if its header is there; an error if no record
    /// begins so.
    fn length_at(&self, at: usize) -> Result<Option<usize>, Violation> {
        let Some(head) = self.bytes[at..self.have].first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = Header::decode(head).ok_or(Violation::BadHeader)?;
        let length = header.length as usize;
        if header.kind == Kind::Data && length > SEALED_PAYLOAD_MAX_BYTES {
            return Err(Violation::BadHeader);
        }
        Ok(Some(record_len(length)))
    }

    /// Room for the rest of the record that is under way, or for some small ones.
    fn space(&mut self) -> &mut [u8] {
        let known = self.length_at(0).ok().flatten().unwrap_or(0);
        let wanted = known.max(self.longest).max(READ_MIN_BYTES);
        if self.bytes.len() < wanted {
            self.bytes.reserve_exact(wanted - self.bytes.len());
            self.bytes.resize(wanted, 0);
        }
        &mut self.bytes[self.have..]
    }

    /// Forgets the first `n` bytes.
    fn consume(&mut self, n: usize) {
        self.bytes.copy_within(n..self.have, 0);
        self.have -= n;
    }
}

impl Receiver {
    /// From here on nothing counts that is not sealed with the keys that [`Self::open_with`] gives.
    pub fn set_sealed(&mut self) {
        self.records = Some(Box::default());
    }

    /// True when only records count.
    pub fn is_sealed(&self) -> bool {
        self.records.is_some()
    }

    /// The keys of the epoch that [`Self::begin_epoch`] has begun.
    pub fn open_with(&mut self, opener: Opener) {
        if let Some(records) = &mut self.records {
            debug_assert!(records.opener.is_none(), "keys are those of one epoch");
            records.opener = Some(opener);
        }
    }

    /// True when a part of a record has come. One that is never completed was cut off or changed on
    /// its way; whoever has a clock gives it a limit.
    pub fn is_mid_record(&self) -> bool {
        self.records.as_ref().is_some_and(|records| records.have > 0)
    }

    /// Nothing has come for a while: gives back what is held for speed.
    pub fn rest(&mut self) {
        if let Some(records) = &mut self.records
            && records.have == 0
        {
            (records.bytes, records.longest) = (Vec::new(), 0);
        }
    }

    /// Where a read of a sealed connection goes; empty if the session is not sealed. What was read
    /// is taken by [`Self::accept_records`].
    pub fn record_space(&mut self) -> &mut [u8] {
        match &mut self.records {
            Some(records) => records.space(),
            None => &mut [],
        }
    }

    /// Takes `n` bytes that were read into [`Self::record_space`]. Payload goes to the front of
    /// `out` as long as nothing older waits in the stash, the rest to the stash; gives the number
    /// of bytes in `out`. A violation behind payload is told by [`Self::violation`], as by
    /// [`Self::accept`].
    pub fn accept_records(&mut self, n: usize, out: &mut [u8]) -> Result<usize, Violation> {
        self.taken += n as u64;
        self.check()?;
        let Some(mut records) = self.records.take() else { return Ok(0) };
        records.have += n;
        let mut done = 0;
        let opened = self.open_records(&mut records, out, &mut done);
        self.records = Some(records);
        match opened.map_err(|violation| self.condemn(violation)) {
            Err(violation) if done == 0 => Err(violation),
            _ => Ok(done),
        }
    }

    /// Takes bytes of the connection; payload goes to the stash.
    pub(super) fn feed_records(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        self.check()?;
        while !bytes.is_empty() {
            let space = self.record_space();
            let n = space.len().min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.accept_records(n, &mut [])?;
        }
        Ok(())
    }

    fn open_records(
        &mut self,
        records: &mut Records,
        out: &mut [u8],
        done: &mut usize,
    ) -> Result<(), Violation> {
        let mut at = 0;
        while let Some(length) = records.length_at(at)? {
            records.longest = records.longest.max(length);
            if records.have - at < length {
                break;
            }
            let record = &mut records.bytes[at..at + length];
            self.parser.header.copy_from_slice(&record[..HEADER_BYTES]);
            let opened = records.opener.as_mut().and_then(|opener| opener.open(record));
            let body = opened.ok_or(Violation::BrokenSeal)?;
            self.take_frame(body, out, done)?;
            at += length;
        }
        records.consume(at);
        Ok(())
    }

    /// Takes a whole frame: its header is in the parser, its body was opened.
    fn take_frame(
        &mut self,
        mut body: &[u8],
        out: &mut [u8],
        done: &mut usize,
    ) -> Result<(), Violation> {
        self.on_header()?;
        while !body.is_empty() {
            let n = match self.step(body)? {
                Step::Eaten(n) => n,
                Step::Payload(n) => {
                    let payload = &body[..n];
                    let direct = if self.stash.is_empty() { n.min(out.len() - *done) } else { 0 };
                    out[*done..*done + direct].copy_from_slice(&payload[..direct]);
                    *done += direct;
                    if direct > 0 {
                        // Straight to the program: never in the stash, which is empty.
                        self.stash.trim(self.stash.end() + direct as u64);
                    }
                    self.stash.append(&payload[direct..]);
                    n
                }
            };
            body = &body[n..];
        }
        Ok(())
    }
}
