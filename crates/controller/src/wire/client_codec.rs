//! Messages of devices and third parties as bytes.

use eversock_fields::{Fields, put_bytes, put_count};

use super::client::{ClientMessage, HandOffAnswer, Register, Request, Terms};
use super::codes::{answer, kind};
use super::parts::{
    deadline, device, outcome, payload, place, put_deadline, put_device, put_outcome, put_place,
    put_short_text, put_span, span, text,
};
use super::{Bye, Hello, Message, Welcome, WireError};
use crate::limits::{ADDRESS_MAX, ALTERNATES_MAX, PARAMETERS_MAX};

impl Message for ClientMessage {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::Welcome(_) => kind::WELCOME,
            Self::Bye(_) => kind::BYE,
            Self::Register(_) => kind::REGISTER,
            Self::Registered { .. } => kind::REGISTERED,
            Self::Retry { .. } => kind::RETRY,
            Self::Jump { .. } => kind::JUMP,
            Self::Refused { .. } => kind::REFUSED,
            Self::Handshake { .. } => kind::HANDSHAKE,
            Self::HandshakeOk { .. } => kind::HANDSHAKE_OK,
            Self::Deregister { .. } => kind::DEREGISTER,
            Self::Deregistered { .. } => kind::DEREGISTERED,
            Self::Reregister { .. } => kind::REREGISTER,
            Self::HandOff { .. } => kind::HAND_OFF,
            Self::HandOffAnswer { .. } => kind::HAND_OFF_ANSWER,
            Self::Request(_) => kind::REQUEST,
            Self::Response { .. } => kind::RESPONSE,
            Self::GetParameters => kind::GET_PARAMETERS,
            Self::Parameters { .. } => kind::PARAMETERS,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => hello.put(out),
            Self::Welcome(welcome) => welcome.put(out),
            Self::Bye(bye) => bye.put(out),
            Self::Register(register) => put_register(register, out),
            Self::Registered { device, seq, terms } => {
                put_device(device, out);
                out.extend(seq.to_le_bytes());
                put_terms(terms, out);
            }
            Self::Retry { device, after } => {
                put_device(device, out);
                put_span(*after, out);
            }
            Self::Refused { device, text } => {
                put_device(device, out);
                put_short_text(text, out);
            }
            Self::HandshakeOk { device, seq, generation } => {
                put_device(device, out);
                out.extend(seq.to_le_bytes());
                out.extend(generation.to_le_bytes());
            }
            Self::Jump { device, seq }
            | Self::Handshake { device, seq }
            | Self::Deregister { device, seq }
            | Self::Deregistered { device, seq }
            | Self::Reregister { device, above: seq } => {
                put_device(device, out);
                out.extend(seq.to_le_bytes());
            }
            Self::HandOff { device, token, target, within } => {
                put_device(device, out);
                out.extend(token.to_le_bytes());
                put_place(target, out);
                put_span(*within, out);
            }
            Self::HandOffAnswer { device, token, answer } => {
                put_device(device, out);
                out.extend(token.to_le_bytes());
                out.push(match answer {
                    HandOffAnswer::Goes => answer::GOES,
                    HandOffAnswer::Busy => answer::BUSY,
                    HandOffAnswer::Stays => answer::STAYS,
                });
            }
            Self::Request(request) => put_request(request, out),
            Self::Response { id, outcome } => {
                out.extend(id.to_le_bytes());
                put_outcome(outcome, out);
            }
            Self::GetParameters => {}
            Self::Parameters { generation, text } => {
                out.extend(generation.to_le_bytes());
                put_bytes(text.as_bytes(), out);
            }
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::new(body);
        let message = read(kind, &mut fields)?;
        fields.end()?;
        Ok(message)
    }
}

fn read(kind: u16, fields: &mut Fields<'_>) -> Result<ClientMessage, WireError> {
    const SEQ: &str = "a device's counter";
    const TOKEN: &str = "a hand-over's number";
    const GENERATION: &str = "a generation of parameters";
    type M = ClientMessage;
    Ok(match kind {
        kind::HELLO => M::Hello(Hello::read(fields)?),
        kind::WELCOME => M::Welcome(Welcome::read(fields)?),
        kind::BYE => M::Bye(Bye::read(fields)?),
        kind::REGISTER => M::Register(Register {
            device: device(fields)?,
            seq: fields.u64(SEQ)?,
            nonce: fields.u64("a registration's number")?,
            lease: span(fields, "a lease in microseconds")?,
            generation: fields.u64(GENERATION)?,
            token: fields.u64(TOKEN)?,
            address: fields.bytes("the length of an address in bytes", ADDRESS_MAX)?.to_vec(),
        }),
        kind::REGISTERED => M::Registered {
            device: device(fields)?,
            seq: fields.u64(SEQ)?,
            terms: Terms {
                lease: span(fields, "a lease in microseconds")?,
                handshake_every: span(fields, "a time between handshakes in microseconds")?,
                misses: fields.u8("how many handshakes may fail")?,
                generation: fields.u64(GENERATION)?,
                alternates: fields.list("how many alternates there are", ALTERNATES_MAX, place)?,
            },
        },
        kind::RETRY => M::Retry {
            device: device(fields)?,
            after: span(fields, "when to come back in microseconds")?,
        },
        kind::JUMP => M::Jump { device: device(fields)?, seq: fields.u64(SEQ)? },
        kind::REFUSED => M::Refused { device: device(fields)?, text: text(fields)? },
        kind::HANDSHAKE => M::Handshake { device: device(fields)?, seq: fields.u64(SEQ)? },
        kind::HANDSHAKE_OK => M::HandshakeOk {
            device: device(fields)?,
            seq: fields.u64(SEQ)?,
            generation: fields.u64(GENERATION)?,
        },
        kind::DEREGISTER => M::Deregister { device: device(fields)?, seq: fields.u64(SEQ)? },
        kind::DEREGISTERED => M::Deregistered { device: device(fields)?, seq: fields.u64(SEQ)? },
        kind::REREGISTER => M::Reregister { device: device(fields)?, above: fields.u64(SEQ)? },
        kind::HAND_OFF => M::HandOff {
            device: device(fields)?,
            token: fields.u64(TOKEN)?,
            target: place(fields)?,
            within: span(fields, "a hand-over's deadline in microseconds")?,
        },
        kind::HAND_OFF_ANSWER => M::HandOffAnswer {
            device: device(fields)?,
            token: fields.u64(TOKEN)?,
            answer: hand_off_answer(fields)?,
        },
        kind::REQUEST => M::Request(Request {
            id: fields.u64("a request's number")?,
            device: device(fields)?,
            deadline: deadline(fields)?,
            payload: payload(fields)?,
        }),
        kind::RESPONSE => {
            M::Response { id: fields.u64("a request's number")?, outcome: outcome(fields)? }
        }
        kind::GET_PARAMETERS => M::GetParameters,
        kind::PARAMETERS => M::Parameters {
            generation: fields.u64(GENERATION)?,
            text: fields.text("the length of parameters in bytes", PARAMETERS_MAX)?.to_owned(),
        },
        _ => return Err(WireError::UnknownType(kind)),
    })
}

fn hand_off_answer(fields: &mut Fields<'_>) -> Result<HandOffAnswer, WireError> {
    let what = "an answer to a hand-over";
    Ok(match fields.u8(what)? {
        answer::GOES => HandOffAnswer::Goes,
        answer::BUSY => HandOffAnswer::Busy,
        answer::STAYS => HandOffAnswer::Stays,
        code => return Err(WireError::unknown(what, code)),
    })
}

fn put_register(register: &Register, out: &mut Vec<u8>) {
    let Register { device, seq, nonce, lease, generation, token, address } = register;
    put_device(device, out);
    out.extend(seq.to_le_bytes());
    out.extend(nonce.to_le_bytes());
    put_span(*lease, out);
    out.extend(generation.to_le_bytes());
    out.extend(token.to_le_bytes());
    put_bytes(address, out);
}

/// Of the alternates go the first, as many as may.
fn put_terms(terms: &Terms, out: &mut Vec<u8>) {
    let Terms { lease, handshake_every, misses, generation, alternates } = terms;
    put_span(*lease, out);
    put_span(*handshake_every, out);
    out.push(*misses);
    out.extend(generation.to_le_bytes());
    let alternates = &alternates[..alternates.len().min(ALTERNATES_MAX)];
    put_count(alternates.len(), out);
    alternates.iter().for_each(|place| put_place(place, out));
}

fn put_request(request: &Request, out: &mut Vec<u8>) {
    let Request { id, device, deadline, payload } = request;
    out.extend(id.to_le_bytes());
    put_device(device, out);
    put_deadline(*deadline, out);
    put_bytes(payload, out);
}
