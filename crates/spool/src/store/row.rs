//! What lies in the row of a record, the same in every store.

use crate::limits::{KEY_MAX, PAYLOAD_MAX};
use crate::record::{Lane, Record};
use crate::request::{Kind, RequestId};

use super::{Appended, Finish, Found, Known};

/// What a record is. The numbers lie in stores: they stay.
pub(super) mod state {
    pub(in crate::store) const PENDING: i16 = 0;
    pub(in crate::store) const DONE: i16 = 1;
    pub(in crate::store) const REFUSED: i16 = 2;
    pub(in crate::store) const SKIPPED: i16 = 3;
    pub(in crate::store) const PURGED: i16 = 4;
    pub(in crate::store) const QUARANTINED: i16 = 5;
}

/// Bytes of a key that a listing shows.
pub(super) const LISTED_KEY: usize = 256;
/// Places of damaged records that a check names.
pub(super) const DAMAGED_MAX: usize = 1000;
/// Other faults that a check names.
pub(super) const FAULTS_MAX: usize = 100;

/// The bytes of a record as they lie in the store, be they whole or not: for `export`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its place.
    pub lsn: u64,
    /// The sender's number.
    pub id: RequestId,
    /// What it does ([`crate::Kind::code`]).
    pub kind: u32,
    /// What it does it to.
    pub key: Vec<u8>,
    /// The backend's own.
    pub payload: Vec<u8>,
    /// Whether the checksum agrees with all of it.
    pub whole: bool,
    /// Why it was set aside; empty if it was not.
    pub note: String,
}

/// The columns of a record that its checksum speaks of, and the checksum.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) lsn: u64,
    pub(super) id: Vec<u8>,
    pub(super) kind: i64,
    pub(super) key: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) epoch: u64,
    pub(super) accepted_ms: u64,
    pub(super) crc: i64,
    pub(super) sent: bool,
    pub(super) held: bool,
}

impl Row {
    /// As a reader finds it in this lane.
    pub(super) fn found(self, lane: Lane) -> Found {
        let (lsn, sent, held) = (self.lsn, self.sent, self.held);
        match self.record() {
            Ok(record) if record.lane() != lane => {
                Found::Damaged { lsn, lane, what: "it lies in the lane of another key".to_owned() }
            }
            Ok(record) => Found::Whole { record, sent, held },
            Err(what) => Found::Damaged { lsn, lane, what },
        }
    }

    /// The record, if the checksum agrees.
    fn record(self) -> Result<Record, String> {
        if self.key.len() > KEY_MAX || self.payload.len() > PAYLOAD_MAX {
            return Err("it is longer than a record can be".to_owned());
        }
        let id = id_of(&self.id).ok_or_else(|| format!("its id has {} bytes", self.id.len()))?;
        let kind = u32::try_from(self.kind)
            .ok()
            .and_then(Kind::from_code)
            .ok_or_else(|| format!("it is of no known kind: {}", self.kind))?;
        let Self { lsn, key, payload, epoch, accepted_ms, crc, .. } = self;
        let record = Record { lsn, id, kind, key, payload, epoch, accepted_ms };
        let now = record.checksum();
        if i64::from(now) == crc {
            Ok(record)
        } else {
            Err(format!("its checksum is {now:08x}, not {crc:08x}"))
        }
    }

    /// Its bytes, be they whole or not.
    pub(super) fn kept(self, note: String) -> Kept {
        let whole = self.clone().record().is_ok();
        let kind = u32::try_from(self.kind).unwrap_or(0);
        let id = id_of(&self.id).unwrap_or(RequestId(0));
        Kept { lsn: self.lsn, id, kind, key: self.key, payload: self.payload, whole, note }
    }
}

/// An id as bytes.
pub(super) fn id_bytes(id: RequestId) -> [u8; 16] {
    id.0.to_be_bytes()
}

/// Back from [`id_bytes`].
pub(super) fn id_of(bytes: &[u8]) -> Option<RequestId> {
    Some(RequestId(u128::from_be_bytes(bytes.try_into().ok()?)))
}

/// How a record ended, as columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) state: i16,
    pub(super) answer: Option<Vec<u8>>,
    pub(super) code: Option<u32>,
    pub(super) note: Option<String>,
}

impl End {
    pub(super) fn of(finish: &Finish) -> Self {
        let (state, answer, code, note) = match finish {
            Finish::Done { answer } => (state::DONE, Some(answer.clone()), None, None),
            Finish::Refused { code, text } => {
                (state::REFUSED, None, Some(*code), Some(text.clone()))
            }
            Finish::SkippedInDoubt => (state::SKIPPED, None, None, None),
            Finish::Purged => (state::PURGED, None, None, None),
        };
        Self { state, answer, code, note }
    }

    /// Back from columns; `None` for a record that has not ended.
    pub(super) fn finish(self) -> Option<Finish> {
        let text = || self.note.unwrap_or_default();
        match self.state {
            state::DONE => Some(Finish::Done { answer: self.answer.unwrap_or_default() }),
            state::REFUSED => Some(Finish::Refused { code: self.code.unwrap_or(0), text: text() }),
            state::SKIPPED => Some(Finish::SkippedInDoubt),
            state::PURGED => Some(Finish::Purged),
            _ => None,
        }
    }

    /// What is known of the id of such a record.
    pub(super) fn known(self, lsn: u64, fingerprint: u64) -> Known {
        let pending = self.state == state::PENDING;
        match self.finish() {
            Some(end) => Known::Ended { lsn, end, fingerprint },
            None if pending => Known::Pending { lsn, fingerprint },
            None => Known::Quarantined { lsn, fingerprint },
        }
    }
}

/// What a record with a known id is told, if it is appended again.
pub(super) fn again(lsn: u64, kept: u64, now: u64, end: End) -> Appended {
    if kept == now { Appended::Duplicate { lsn, end: end.finish() } } else { Appended::IdReused }
}

/// The word for a record in a listing.
pub(super) fn word(pending: bool, sent: bool, held: bool) -> &'static str {
    match (pending, sent, held) {
        (false, _, _) => "quarantined",
        (true, true, _) => "in doubt",
        (true, false, true) => "held",
        (true, false, false) => "pending",
    }
}

/// Why a record was set aside, for a listing.
pub(super) fn aside_note(code: Option<u32>, note: Option<String>) -> String {
    let note = note.unwrap_or_default();
    match code {
        Some(code) => format!("refused by the backend with code {code}: {note}"),
        None => note,
    }
}

/// Spans of time before `now_ms` as moments: from (included) and to (not included), `None` open.
/// What was accepted after `now_ms`, by a clock that was set back, is of the youngest span.
pub(super) fn spans(now_ms: u64, edges_ms: &[u64]) -> Vec<(Option<u64>, Option<u64>)> {
    // An age of exactly an edge belongs to the older span: moments up to `now - edge`.
    let bound = |edge: u64| now_ms.checked_sub(edge).map_or(0, |moment| moment + 1);
    let mut until = None;
    let mut spans = Vec::with_capacity(edges_ms.len() + 1);
    for &edge in edges_ms {
        let from = bound(edge);
        spans.push((Some(from), until));
        until = Some(from);
    }
    spans.push((None, until));
    spans
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
