//! What messages are made of.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use eversock_fields::{Fields, put_bytes, put_option};

use super::{WireError, codes, is_pair_name};
use crate::limits::{DEADLINE_MAX, KEY_MAX, PAIR_NAME_MAX, PAYLOAD_MAX, TEXT_MAX};
use crate::record::Record;
use crate::request::{Kind, Outcome, Reason, Request, RequestId};
use crate::target::{Class, Grant, ItemResult, Report, Stamp};

/// Reads the fields of a body, and what they make up.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) Fields<'a>);

impl<'a> Deref for Reader<'a> {
    type Target = Fields<'a>;

    fn deref(&self) -> &Fields<'a> {
        &self.0
    }
}

impl<'a> DerefMut for Reader<'a> {
    fn deref_mut(&mut self) -> &mut Fields<'a> {
        &mut self.0
    }
}

impl Reader<'_> {
    pub(super) fn option<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        if self.flag(what)? { read(self).map(Some) } else { Ok(None) }
    }

    pub(super) fn id(&mut self) -> Result<RequestId, WireError> {
        Ok(RequestId(u128::from_le_bytes(self.array("a request's id")?)))
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<String, WireError> {
        Ok(self.0.text(what, TEXT_MAX)?.to_owned())
    }

    pub(super) fn pair(&mut self) -> Result<String, WireError> {
        let what = "the name of a pair";
        let name = self.0.text(what, PAIR_NAME_MAX)?;
        if is_pair_name(name) {
            Ok(name.to_owned())
        } else {
            Err(WireError::PairName(name.to_owned()))
        }
    }

    pub(super) fn duration(&mut self, what: &'static str) -> Result<Duration, WireError> {
        Ok(self.0.duration(what, DEADLINE_MAX)?)
    }

    fn kind(&mut self) -> Result<Kind, WireError> {
        let what = "the kind of a request";
        let code = self.u32(what)?;
        Kind::from_code(code).ok_or_else(|| WireError::UnknownCode { what, code: code.into() })
    }

    pub(super) fn request(&mut self) -> Result<Request, WireError> {
        Ok(Request {
            id: self.id()?,
            kind: self.kind()?,
            deadline: self.duration("a request's deadline in microseconds")?,
            key: self.bytes("the length of a key in bytes", KEY_MAX)?.to_vec(),
            payload: self.bytes("the length of a payload in bytes", PAYLOAD_MAX)?.to_vec(),
        })
    }

    pub(super) fn record(&mut self) -> Result<Record, WireError> {
        Ok(Record {
            lsn: self.u64("a record's number")?,
            id: self.id()?,
            kind: self.kind()?,
            epoch: self.u64("a record's epoch")?,
            accepted_ms: self.u64("a record's time")?,
            key: self.bytes("the length of a key in bytes", KEY_MAX)?.to_vec(),
            payload: self.bytes("the length of a payload in bytes", PAYLOAD_MAX)?.to_vec(),
        })
    }

    fn answer(&mut self) -> Result<Vec<u8>, WireError> {
        Ok(self.bytes("the length of an answer in bytes", PAYLOAD_MAX)?.to_vec())
    }

    pub(super) fn outcome(&mut self) -> Result<Outcome, WireError> {
        let what = "an outcome";
        Ok(match self.u8(what)? {
            codes::outcome::APPLIED => Outcome::Applied { answer: self.answer()? },
            codes::outcome::SPOOLED => Outcome::Spooled { lsn: self.u64("a record's number")? },
            codes::outcome::HELD => Outcome::Held { lsn: self.u64("a record's number")? },
            codes::outcome::STALE => Outcome::Stale,
            codes::outcome::IN_DOUBT => Outcome::InDoubt,
            codes::outcome::REJECTED => Outcome::Rejected {
                retry_after: self.duration("when to come back in microseconds")?,
                reason: self.reason()?,
            },
            code => return Err(WireError::UnknownCode { what, code: code.into() }),
        })
    }

    fn reason(&mut self) -> Result<Reason, WireError> {
        let what = "a reason";
        Ok(match self.u8(what)? {
            codes::reason::SPOOL_FULL => Reason::SpoolFull,
            codes::reason::HOLD_FULL => Reason::HoldFull,
            codes::reason::DEADLINE => Reason::Deadline,
            codes::reason::UNAVAILABLE => Reason::Unavailable,
            codes::reason::CLOSING => Reason::Closing,
            codes::reason::MALFORMED => Reason::Malformed(self.text("what is malformed")?),
            codes::reason::ID_REUSED => Reason::IdReused,
            codes::reason::REFUSED => Reason::Refused {
                code: self.u32("a backend's code")?,
                text: self.text("a backend's text")?,
            },
            code => return Err(WireError::UnknownCode { what, code: code.into() }),
        })
    }

    pub(super) fn class(&mut self) -> Result<Class, WireError> {
        let what = "a server's class";
        Ok(match self.u8(what)? {
            codes::class::LEDGER => Class::Ledger,
            codes::class::IDEMPOTENT => Class::Idempotent,
            codes::class::OPAQUE => Class::Opaque,
            code => return Err(WireError::UnknownCode { what, code: code.into() }),
        })
    }

    pub(super) fn item(&mut self) -> Result<ItemResult, WireError> {
        let what = "the result of an item";
        Ok(match self.u8(what)? {
            codes::item::DONE => ItemResult::Done {
                again: self.flag("whether an item was done before")?,
                answer: self.answer()?,
            },
            codes::item::REFUSED => ItemResult::Refused {
                code: self.u32("a backend's code")?,
                text: self.text("a backend's text")?,
            },
            codes::item::LATER => {
                ItemResult::Later { after: self.duration("when to try again in microseconds")? }
            }
            code => return Err(WireError::UnknownCode { what, code: code.into() }),
        })
    }

    pub(super) fn stamp(&mut self) -> Result<Stamp, WireError> {
        Ok(Stamp { run: self.u64("a server's run")?, at_us: self.u64("a server's time")? })
    }

    pub(super) fn report(&mut self) -> Result<Report, WireError> {
        Ok(Report {
            ready: self.flag("whether a server is ready")?,
            holds: self.option("whether a server has the lock", |r| Ok(r.u64("its epoch")?))?,
            seen: self.u64("the highest epoch seen")?,
            wants_switch: self.flag("whether a server wants a switch")?,
            stamp: self.stamp()?,
        })
    }

    pub(super) fn grant(&mut self) -> Result<Grant, WireError> {
        Ok(Grant {
            epoch: self.u64("a grant's epoch")?,
            lease: self.duration("a lease in microseconds")?,
            stamp: self.stamp()?,
        })
    }
}

/// Of a longer text goes what fits, whole characters of it.
pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    eversock_fields::put_text(text, TEXT_MAX, out);
}

/// One that is longer than any may be goes as the longest.
pub(super) fn put_duration(duration: Duration, out: &mut Vec<u8>) {
    eversock_fields::put_duration(duration, DEADLINE_MAX, out);
}

pub(super) fn put_option_u64(value: Option<u64>, out: &mut Vec<u8>) {
    put_option(value, out, |value, out| out.extend(value.to_le_bytes()));
}

pub(super) fn put_request(request: &Request, out: &mut Vec<u8>) {
    let Request { id, kind, key, payload, deadline } = request;
    out.extend(id.0.to_le_bytes());
    out.extend(kind.code().to_le_bytes());
    put_duration(*deadline, out);
    put_bytes(key, out);
    put_bytes(payload, out);
}

pub(super) fn put_record(record: &Record, out: &mut Vec<u8>) {
    let Record { lsn, id, kind, key, payload, epoch, accepted_ms } = record;
    out.extend(lsn.to_le_bytes());
    out.extend(id.0.to_le_bytes());
    out.extend(kind.code().to_le_bytes());
    out.extend(epoch.to_le_bytes());
    out.extend(accepted_ms.to_le_bytes());
    put_bytes(key, out);
    put_bytes(payload, out);
}

pub(super) fn put_outcome(outcome: &Outcome, out: &mut Vec<u8>) {
    match outcome {
        Outcome::Applied { answer } => {
            out.push(codes::outcome::APPLIED);
            put_bytes(answer, out);
        }
        Outcome::Spooled { lsn } => {
            out.push(codes::outcome::SPOOLED);
            out.extend(lsn.to_le_bytes());
        }
        Outcome::Held { lsn } => {
            out.push(codes::outcome::HELD);
            out.extend(lsn.to_le_bytes());
        }
        Outcome::Stale => out.push(codes::outcome::STALE),
        Outcome::InDoubt => out.push(codes::outcome::IN_DOUBT),
        Outcome::Rejected { reason, retry_after } => {
            out.push(codes::outcome::REJECTED);
            put_duration(*retry_after, out);
            put_reason(reason, out);
        }
    }
}

fn put_reason(reason: &Reason, out: &mut Vec<u8>) {
    out.push(match reason {
        Reason::SpoolFull => codes::reason::SPOOL_FULL,
        Reason::HoldFull => codes::reason::HOLD_FULL,
        Reason::Deadline => codes::reason::DEADLINE,
        Reason::Unavailable => codes::reason::UNAVAILABLE,
        Reason::Closing => codes::reason::CLOSING,
        Reason::Malformed(_) => codes::reason::MALFORMED,
        Reason::IdReused => codes::reason::ID_REUSED,
        Reason::Refused { .. } => codes::reason::REFUSED,
    });
    match reason {
        Reason::Malformed(text) => put_text(text, out),
        Reason::Refused { code, text } => {
            out.extend(code.to_le_bytes());
            put_text(text, out);
        }
        _ => {}
    }
}

pub(super) fn put_class(class: Class, out: &mut Vec<u8>) {
    out.push(match class {
        Class::Ledger => codes::class::LEDGER,
        Class::Idempotent => codes::class::IDEMPOTENT,
        Class::Opaque => codes::class::OPAQUE,
    });
}

pub(super) fn put_item(item: &ItemResult, out: &mut Vec<u8>) {
    match item {
        ItemResult::Done { answer, again } => {
            out.extend([codes::item::DONE, u8::from(*again)]);
            put_bytes(answer, out);
        }
        ItemResult::Refused { code, text } => {
            out.push(codes::item::REFUSED);
            out.extend(code.to_le_bytes());
            put_text(text, out);
        }
        ItemResult::Later { after } => {
            out.push(codes::item::LATER);
            put_duration(*after, out);
        }
    }
}

fn put_stamp(stamp: Stamp, out: &mut Vec<u8>) {
    out.extend(stamp.run.to_le_bytes());
    out.extend(stamp.at_us.to_le_bytes());
}

pub(super) fn put_report(report: &Report, out: &mut Vec<u8>) {
    let Report { ready, holds, seen, wants_switch, stamp } = *report;
    out.push(ready.into());
    put_option_u64(holds, out);
    out.extend(seen.to_le_bytes());
    out.push(wants_switch.into());
    put_stamp(stamp, out);
}

pub(super) fn put_grant(grant: Grant, out: &mut Vec<u8>) {
    let Grant { epoch, lease, stamp } = grant;
    out.extend(epoch.to_le_bytes());
    put_duration(lease, out);
    put_stamp(stamp, out);
}
