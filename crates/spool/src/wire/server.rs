//! Between a front and a server.
//!
//! A front says hello, and the server's welcome says what it promises. Then the front calls,
//! probes, grants and releases without waiting, and answers come in any order, each with its
//! question's number. Numbers of calls, and of the other questions, are the front's own, and mean
//! something within one connection only.

use std::sync::Arc;

use eversock_fields::{Fields, put_count};

use super::codes::kind;
use super::parts::{
    Reader, put_class, put_grant, put_item, put_option_u64, put_record, put_report,
};
use super::{Bye, Hello, Message, WireError};
use crate::limits::BATCH_MAX;
use crate::record::Record;
use crate::target::{Class, Grant, ItemResult, Report};

/// A message of this protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerMessage {
    /// The first of a front.
    Hello(Hello),
    /// The first of a server.
    Welcome {
        /// The version that both go on with.
        version: u16,
        /// What the server promises.
        class: Class,
    },
    /// The last of either.
    Bye(Bye),
    /// Asks for these to be done in this order.
    Execute {
        /// Comes back with the results.
        call: u64,
        /// The epoch of the lock that the front believes the server to hold.
        epoch: u64,
        /// Of which job of a diversion, if of one.
        job: Option<u64>,
        /// What is to be done; at most [`BATCH_MAX`].
        items: Arc<[Record]>,
    },
    /// One result for each item.
    Results {
        /// Of the call.
        call: u64,
        /// In the order of the items.
        results: Vec<ItemResult>,
    },
    /// The call's epoch is not that of the lock; nothing took effect.
    Fenced {
        /// Of the call.
        call: u64,
        /// The highest epoch that the server has seen.
        seen: u64,
    },
    /// Asks how the server is.
    Probe {
        /// Comes back with the report.
        n: u64,
    },
    /// Answers a probe.
    Report {
        /// Of the probe.
        n: u64,
        /// How it is.
        report: Report,
    },
    /// Gives or renews the lock.
    Grant {
        /// Comes back with the answer.
        n: u64,
        /// What is given.
        grant: Grant,
    },
    /// Answers a grant.
    Granted {
        /// Of the grant.
        n: u64,
        /// The server has the lock.
        done: bool,
    },
    /// Asks for the lock back.
    Release {
        /// Comes back with the answer.
        n: u64,
        /// The epoch of the lock.
        epoch: u64,
        /// How long the server may finish what it does, in milliseconds.
        timeout_ms: u64,
    },
    /// Answers a release.
    Released {
        /// Of the release.
        n: u64,
        /// The server has given the lock back.
        done: bool,
    },
}

impl Message for ServerMessage {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::Welcome { .. } => kind::WELCOME,
            Self::Bye(_) => kind::BYE,
            Self::Execute { .. } => kind::EXECUTE,
            Self::Results { .. } => kind::RESULTS,
            Self::Fenced { .. } => kind::FENCED,
            Self::Probe { .. } => kind::PROBE,
            Self::Report { .. } => kind::REPORT,
            Self::Grant { .. } => kind::GRANT,
            Self::Granted { .. } => kind::GRANTED,
            Self::Release { .. } => kind::RELEASE,
            Self::Released { .. } => kind::RELEASED,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => hello.put(out),
            Self::Welcome { version, class } => {
                out.extend(version.to_le_bytes());
                put_class(*class, out);
            }
            Self::Bye(bye) => bye.put(out),
            Self::Execute { call, epoch, job, items } => {
                out.extend(call.to_le_bytes());
                out.extend(epoch.to_le_bytes());
                put_option_u64(*job, out);
                put_count(items.len(), out);
                items.iter().for_each(|item| put_record(item, out));
            }
            Self::Results { call, results } => {
                out.extend(call.to_le_bytes());
                put_count(results.len(), out);
                results.iter().for_each(|result| put_item(result, out));
            }
            Self::Fenced { call, seen } => {
                out.extend(call.to_le_bytes());
                out.extend(seen.to_le_bytes());
            }
            Self::Probe { n } => out.extend(n.to_le_bytes()),
            Self::Report { n, report } => {
                out.extend(n.to_le_bytes());
                put_report(report, out);
            }
            Self::Grant { n, grant } => {
                out.extend(n.to_le_bytes());
                put_grant(*grant, out);
            }
            Self::Granted { n, done } | Self::Released { n, done } => {
                out.extend(n.to_le_bytes());
                out.push((*done).into());
            }
            Self::Release { n, epoch, timeout_ms } => {
                out.extend(n.to_le_bytes());
                out.extend(epoch.to_le_bytes());
                out.extend(timeout_ms.to_le_bytes());
            }
        }
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader(Fields::new(body));
        let message = read(kind, &mut reader)?;
        match reader.left() {
            0 => Ok(message),
            count => Err(WireError::Trailing { kind, count }),
        }
    }
}

fn read(kind: u16, reader: &mut Reader<'_>) -> Result<ServerMessage, WireError> {
    const N: &str = "a question's number";
    const CALL: &str = "a call's number";
    Ok(match kind {
        kind::HELLO => ServerMessage::Hello(Hello::read(reader)?),
        kind::WELCOME => {
            ServerMessage::Welcome { version: reader.u16("a version")?, class: reader.class()? }
        }
        kind::BYE => ServerMessage::Bye(Bye::read(reader)?),
        kind::EXECUTE => ServerMessage::Execute {
            call: reader.u64(CALL)?,
            epoch: reader.u64("a call's epoch")?,
            job: reader.option("whether a call is of a job", |r| Ok(r.u64("a job")?))?,
            items: list(reader, "how many items a call has", Reader::record)?.into(),
        },
        kind::RESULTS => ServerMessage::Results {
            call: reader.u64(CALL)?,
            results: list(reader, "how many results a call has", Reader::item)?,
        },
        kind::FENCED => {
            ServerMessage::Fenced { call: reader.u64(CALL)?, seen: reader.u64("an epoch")? }
        }
        kind::PROBE => ServerMessage::Probe { n: reader.u64(N)? },
        kind::REPORT => ServerMessage::Report { n: reader.u64(N)?, report: reader.report()? },
        kind::GRANT => ServerMessage::Grant { n: reader.u64(N)?, grant: reader.grant()? },
        kind::GRANTED => {
            ServerMessage::Granted { n: reader.u64(N)?, done: reader.flag("an answer")? }
        }
        kind::RELEASE => ServerMessage::Release {
            n: reader.u64(N)?,
            epoch: reader.u64("an epoch")?,
            timeout_ms: reader.u64("a time-out")?,
        },
        kind::RELEASED => {
            ServerMessage::Released { n: reader.u64(N)?, done: reader.flag("an answer")? }
        }
        _ => return Err(WireError::UnknownType(kind)),
    })
}

fn list<'a, T>(
    reader: &mut Reader<'a>,
    what: &'static str,
    read: impl Fn(&mut Reader<'a>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let count = reader.count(what, BATCH_MAX)?;
    // Room is made as items are read, so that a count alone costs nothing.
    (0..count).map(|_| read(reader)).collect()
}
