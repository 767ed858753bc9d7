//! What a main says to its standby and hears from it: the first item of a call and its answer.
//! The items behind it are entries of the log.

use crate::backend::ledger::Head;
use crate::record::Record;
use crate::request::{Kind, RequestId};
use crate::target::Stamp;

/// The kind of the first item.
pub(super) const CONTROL: Kind = Kind::Custom(0xff00);
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 8 + 16 + 8;

/// What a main says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Push {
    /// The entries follow on this one.
    pub(super) before: Head,
    /// The last entry that the main has.
    pub(super) head: u64,
    /// For how long a standby that has all up to `head` may call itself in sync; 0: it may not.
    pub(super) lease_us: u64,
    /// From the standby's last answer: what the lease counts from.
    pub(super) stamp: Stamp,
    /// Entries up to here need not be kept.
    pub(super) confirmed: u64,
    /// The standby's entries from here on are not those of the main; 0: they are, all of them.
    pub(super) tail_from: u64,
    /// The sender is not main yet, and asks whether the other server has been main since it was,
    /// under this epoch. The call's epoch is the one that it was granted.
    pub(super) claim: Option<u64>,
}

/// What a standby says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) how: How,
    /// Where its log ends now.
    pub(super) head: Head,
    /// Its clock, when it wrote this.
    pub(super) stamp: Stamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// All entries are there, and on its disk.
    Applied,
    /// None was taken: they do not follow on its last one.
    NotNext,
    /// None was taken: they cannot be applied now.
    Later,
    /// To a claim: this server has not been main since, and will not be under a lower epoch.
    Yields,
    /// To a claim: this server has been main since, or may have been.
    Objects,
}

fn put_head(head: &Head, out: &mut Vec<u8>) {
    out.extend_from_slice(&head.seq.to_be_bytes());
    out.extend_from_slice(&head.chain);
    out.extend_from_slice(&head.epoch.to_be_bytes());
}

/// Reads numbers one after the other; `None` when there are no more.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn head(&mut self) -> Option<Head> {
        Some(Head { seq: self.number()?, chain: self.array()?, epoch: self.number()? })
    }

    fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp { run: self.number()?, at_us: self.number()? })
    }

    fn version(&mut self) -> Option<()> {
        (self.array::<1>()? == [VERSION]).then_some(())
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

impl Push {
    pub(super) fn to_record(self) -> Record {
        let mut payload = Vec::with_capacity(1 + HEAD_BYTES + 56);
        payload.push(VERSION);
        put_head(&self.before, &mut payload);
        let Stamp { run, at_us } = self.stamp;
        let claim = self.claim.map_or(0, |epoch| epoch.saturating_add(1));
        let numbers = [self.head, self.lease_us, run, at_us, self.confirmed, self.tail_from, claim];
        for number in numbers {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        let (id, key) = (RequestId(0), Vec::new());
        Record { lsn: 0, id, kind: CONTROL, key, payload, epoch: 0, accepted_ms: 0 }
    }

    /// `None`: not one that this version can read.
    pub(super) fn of_record(record: &Record) -> Option<Self> {
        if record.kind != CONTROL {
            return None;
        }
        let mut reader = Reader(&record.payload);
        reader.version()?;
        let push = Self {
            before: reader.head()?,
            head: reader.number()?,
            lease_us: reader.number()?,
            stamp: reader.stamp()?,
            confirmed: reader.number()?,
            tail_from: reader.number()?,
            claim: reader.number()?.checked_sub(1),
        };
        reader.end()?;
        Some(push)
    }
}

impl Told {
    pub(super) fn to_answer(self) -> Vec<u8> {
        let how = match self.how {
            How::Applied => 0,
            How::NotNext => 1,
            How::Later => 2,
            How::Yields => 3,
            How::Objects => 4,
        };
        let mut answer = vec![VERSION, how];
        put_head(&self.head, &mut answer);
        answer.extend_from_slice(&self.stamp.run.to_be_bytes());
        answer.extend_from_slice(&self.stamp.at_us.to_be_bytes());
        answer
    }

    pub(super) fn of_answer(answer: &[u8]) -> Option<Self> {
        let mut reader = Reader(answer);
        reader.version()?;
        let how = match reader.array::<1>()? {
            [0] => How::Applied,
            [1] => How::NotNext,
            [2] => How::Later,
            [3] => How::Yields,
            [4] => How::Objects,
            _ => return None,
        };
        let told = Self { how, head: reader.head()?, stamp: reader.stamp()? };
        reader.end()?;
        Some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::{How, Push, Told};
    use crate::backend::ledger::Head;
    use crate::target::Stamp;

    #[test]
    fn messages_come_back_and_cut_ones_do_not() {
        let head = Head { seq: 3, chain: [9; 16], epoch: 2 };
        let stamp = Stamp { run: 7, at_us: 8 };
        let push = Push {
            before: head,
            head: 5,
            lease_us: 6,
            stamp,
            confirmed: 4,
            tail_from: 1,
            claim: Some(0),
        };
        let mut record = push.to_record();
        assert_eq!(Push::of_record(&record), Some(push));
        let whole = record.payload.clone();
        for length in 0..whole.len() {
            record.payload.truncate(0);
            record.payload.extend_from_slice(&whole[..length]);
            assert_eq!(Push::of_record(&record), None);
        }
        record.payload = [whole, vec![0]].concat();
        assert_eq!(Push::of_record(&record), None);
        for how in [How::Applied, How::NotNext, How::Later, How::Yields, How::Objects] {
            let told = Told { how, head, stamp };
            let answer = told.to_answer();
            assert_eq!(Told::of_answer(&answer), Some(told));
            assert_eq!(Told::of_answer(&answer[1..]), None);
        }
    }
}
