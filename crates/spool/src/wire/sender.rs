//! Between senders and a front.
//!
//! A sender says hello and is welcomed; then it asks as it likes, without waiting for answers, and
//! answers come in any order, each with the tag of its question. Tags are the sender's own, and
//! mean something within one connection only.

use eversock_fields::{Fields, put_bytes};

use super::codes::kind;
use super::parts::{Reader, put_outcome, put_request};
use super::{Bye, Hello, Message, WireError};
use crate::request::{Outcome, Request, RequestId};

/// A message of this protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderMessage {
    /// The first of a sender.
    Hello(Hello),
    /// The first of a front.
    Welcome {
        /// The version that both go on with.
        version: u16,
    },
    /// The last of a front.
    Bye(Bye),
    /// Asks.
    Request {
        /// Comes back with the outcome.
        tag: u64,
        /// Of which pair.
        pair: String,
        /// What.
        request: Request,
    },
    /// Answers a request.
    Outcome {
        /// Of the request.
        tag: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// Asks what became of a request that was asked before.
    Fetch {
        /// Comes back with the answer.
        tag: u64,
        /// Of which pair.
        pair: String,
        /// Which request.
        id: RequestId,
    },
    /// Answers a fetch.
    Fetched {
        /// Of the fetch.
        tag: u64,
        /// What became of the request; nothing if it is not known.
        outcome: Option<Outcome>,
    },
}

impl SenderMessage {
    /// The tag of a body that may be no whole message; nothing if even that is missing, or if
    /// messages of this type have none.
    #[must_use]
    pub fn tag_of(kind: u16, body: &[u8]) -> Option<u64> {
        matches!(kind, kind::REQUEST | kind::OUTCOME | kind::FETCH | kind::FETCHED)
            .then(|| body.first_chunk::<8>().map(|tag| u64::from_le_bytes(*tag)))
            .flatten()
    }
}

impl Message for SenderMessage {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::Welcome { .. } => kind::WELCOME,
            Self::Bye(_) => kind::BYE,
            Self::Request { .. } => kind::REQUEST,
            Self::Outcome { .. } => kind::OUTCOME,
            Self::Fetch { .. } => kind::FETCH,
            Self::Fetched { .. } => kind::FETCHED,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => hello.put(out),
            Self::Welcome { version } => out.extend(version.to_le_bytes()),
            Self::Bye(bye) => bye.put(out),
            Self::Request { tag, pair, request } => {
                out.extend(tag.to_le_bytes());
                put_bytes(pair.as_bytes(), out);
                put_request(request, out);
            }
            Self::Outcome { tag, outcome } => {
                out.extend(tag.to_le_bytes());
                put_outcome(outcome, out);
            }
            Self::Fetch { tag, pair, id } => {
                out.extend(tag.to_le_bytes());
                put_bytes(pair.as_bytes(), out);
                out.extend(id.0.to_le_bytes());
            }
            Self::Fetched { tag, outcome } => {
                out.extend(tag.to_le_bytes());
                out.push(outcome.is_some().into());
                if let Some(outcome) = outcome {
                    put_outcome(outcome, out);
                }
            }
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader(Fields::new(body));
        let message = match kind {
            kind::HELLO => Self::Hello(Hello::read(&mut reader)?),
            kind::WELCOME => Self::Welcome { version: reader.u16("a version")? },
            kind::BYE => Self::Bye(Bye::read(&mut reader)?),
            kind::REQUEST => Self::Request {
                tag: reader.u64("a request's tag")?,
                pair: reader.pair()?,
                request: reader.request()?,
            },
            kind::OUTCOME => {
                Self::Outcome { tag: reader.u64("an outcome's tag")?, outcome: reader.outcome()? }
            }
            kind::FETCH => Self::Fetch {
                tag: reader.u64("a fetch's tag")?,
                pair: reader.pair()?,
                id: reader.id()?,
            },
            kind::FETCHED => Self::Fetched {
                tag: reader.u64("a fetch's tag")?,
                outcome: reader.option("whether a request is known", Reader::outcome)?,
            },
            _ => return Err(WireError::UnknownType(kind)),
        };
        match reader.left() {
            0 => Ok(message),
            count => Err(WireError::Trailing { kind, count }),
        }
    }
}
