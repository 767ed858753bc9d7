//! What messages are made of.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use eversock_fields::{Fields, put_bytes, put_count, put_duration, put_text};

use super::client::Outcome;
use super::{Place, WireError, codes};
use crate::limits::{
    ADDRS_MAX, DEADLINE_MAX, DEVICE_MAX, KEY_MAX, LEASE_MAX, NAME_MAX, PAYLOAD_MAX, RANK_MAX,
    RECORD_MAX, TEXT_MAX,
};
use crate::model::{ControllerId, DeviceId, Record};
use crate::store::Position;

pub(super) fn name(fields: &mut Fields<'_>) -> Result<ControllerId, WireError> {
    Ok(fields.text("the length of a controller's name in bytes", NAME_MAX)?.parse()?)
}

pub(super) fn device(fields: &mut Fields<'_>) -> Result<DeviceId, WireError> {
    Ok(fields.text("the length of a device's name in bytes", DEVICE_MAX)?.parse()?)
}

pub(super) fn text(fields: &mut Fields<'_>) -> Result<String, WireError> {
    Ok(fields.text("the length of a text in bytes", TEXT_MAX)?.to_owned())
}

pub(super) fn payload(fields: &mut Fields<'_>) -> Result<Vec<u8>, WireError> {
    Ok(fields.bytes("the length of a payload in bytes", PAYLOAD_MAX)?.to_vec())
}

/// A time between a device and a controller.
pub(super) fn span(fields: &mut Fields<'_>, what: &'static str) -> Result<Duration, WireError> {
    Ok(fields.duration(what, LEASE_MAX)?)
}

pub(super) fn deadline(fields: &mut Fields<'_>) -> Result<Duration, WireError> {
    Ok(fields.duration("a deadline in microseconds", DEADLINE_MAX)?)
}

pub(super) fn position(fields: &mut Fields<'_>) -> Result<Position, WireError> {
    Ok(Position { run: fields.u128("a store's run")?, lsn: fields.u64("a change's number")? })
}

fn addr(fields: &mut Fields<'_>) -> Result<SocketAddr, WireError> {
    const ADDR: &str = "an address";
    let ip: IpAddr = match fields.u8("the kind of an address")? {
        codes::family::IPV4 => fields.array::<4>(ADDR)?.into(),
        codes::family::IPV6 => fields.array::<16>(ADDR)?.into(),
        code => return Err(WireError::unknown("the kind of an address", code)),
    };
    Ok(SocketAddr::new(ip, fields.u16("a port")?))
}

pub(super) fn addrs(fields: &mut Fields<'_>) -> Result<Vec<SocketAddr>, WireError> {
    fields.list("how many addresses there are", ADDRS_MAX, addr)
}

pub(super) fn place(fields: &mut Fields<'_>) -> Result<Place, WireError> {
    Ok(Place { controller: name(fields)?, addrs: addrs(fields)? })
}

pub(super) fn record(fields: &mut Fields<'_>) -> Result<Record, WireError> {
    let kind = fields.u16("a record's kind")?;
    let key = fields.bytes("the length of a record's key in bytes", KEY_MAX)?;
    let rank = fields.bytes("the length of a record's rank in bytes", RANK_MAX)?;
    let most = RECORD_MAX - key.len() - rank.len();
    let body = fields.bytes("the length of a record's body in bytes", most)?;
    Ok(Record { kind, key: key.to_vec(), rank: rank.to_vec(), body: body.to_vec() })
}

pub(super) fn outcome(fields: &mut Fields<'_>) -> Result<Outcome, WireError> {
    let what = "an outcome";
    Ok(match fields.u8(what)? {
        codes::outcome::DONE => Outcome::Done(payload(fields)?),
        codes::outcome::UNKNOWN => Outcome::Unknown,
        codes::outcome::NOT_HERE => Outcome::NotHere {
            owner: name(fields)?,
            seq: fields.u64("a counter")?,
            place: addrs(fields)?,
        },
        codes::outcome::UNREACHABLE => Outcome::Unreachable(text(fields)?),
        codes::outcome::BUSY => {
            Outcome::Busy { after: span(fields, "when to come back in microseconds")? }
        }
        codes::outcome::TIMED_OUT => Outcome::TimedOut,
        codes::outcome::REFUSED => Outcome::Refused(text(fields)?),
        code => return Err(WireError::unknown(what, code)),
    })
}

pub(super) fn put_name(name: &ControllerId, out: &mut Vec<u8>) {
    put_bytes(name.as_str().as_bytes(), out);
}

pub(super) fn put_device(device: &DeviceId, out: &mut Vec<u8>) {
    put_bytes(device.as_str().as_bytes(), out);
}

pub(super) fn put_short_text(text: &str, out: &mut Vec<u8>) {
    put_text(text, TEXT_MAX, out);
}

pub(super) fn put_span(span: Duration, out: &mut Vec<u8>) {
    put_duration(span, LEASE_MAX, out);
}

pub(super) fn put_deadline(deadline: Duration, out: &mut Vec<u8>) {
    put_duration(deadline, DEADLINE_MAX, out);
}

pub(super) fn put_position(position: Position, out: &mut Vec<u8>) {
    out.extend(position.run.to_le_bytes());
    out.extend(position.lsn.to_le_bytes());
}

/// A scope of an IPv6 address means nothing to another machine, and does not go.
fn put_addr(addr: SocketAddr, out: &mut Vec<u8>) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.push(codes::family::IPV4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(codes::family::IPV6);
            out.extend(ip.octets());
        }
    }
    out.extend(addr.port().to_le_bytes());
}

/// The first of them, as many as may go.
pub(super) fn put_addrs(addrs: &[SocketAddr], out: &mut Vec<u8>) {
    let addrs = &addrs[..addrs.len().min(ADDRS_MAX)];
    put_count(addrs.len(), out);
    addrs.iter().for_each(|addr| put_addr(*addr, out));
}

pub(super) fn put_place(place: &Place, out: &mut Vec<u8>) {
    put_name(&place.controller, out);
    put_addrs(&place.addrs, out);
}

pub(super) fn put_record(record: &Record, out: &mut Vec<u8>) {
    let Record { kind, key, rank, body } = record;
    out.extend(kind.to_le_bytes());
    put_bytes(key, out);
    put_bytes(rank, out);
    put_bytes(body, out);
}

pub(super) fn put_outcome(outcome: &Outcome, out: &mut Vec<u8>) {
    match outcome {
        Outcome::Done(payload) => {
            out.push(codes::outcome::DONE);
            put_bytes(payload, out);
        }
        Outcome::Unknown => out.push(codes::outcome::UNKNOWN),
        Outcome::NotHere { owner, seq, place } => {
            out.push(codes::outcome::NOT_HERE);
            put_name(owner, out);
            out.extend(seq.to_le_bytes());
            put_addrs(place, out);
        }
        Outcome::Unreachable(text) => {
            out.push(codes::outcome::UNREACHABLE);
            put_short_text(text, out);
        }
        Outcome::Busy { after } => {
            out.push(codes::outcome::BUSY);
            put_span(*after, out);
        }
        Outcome::TimedOut => out.push(codes::outcome::TIMED_OUT),
        Outcome::Refused(text) => {
            out.push(codes::outcome::REFUSED);
            put_short_text(text, out);
        }
    }
}
