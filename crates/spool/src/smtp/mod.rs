//! A front that accepts mail by SMTP (RFC 5321) and never refuses it while main and standby change
//! places.
//!
//! Each recipient of a message is one request: a write under the recipient's mailbox, with envelope
//! and content as its payload ([`Mail`]). The client gets its 250 when all of them are applied or
//! spooled. If one fails for now, it gets 451 or 452 and, by RFC 5321, sends the message again to
//! all recipients; those that already have it then do not get it twice, since the id of a request
//! is the hash of its payload ([`Mail::id`]).
//!
//! The front adds no `Received` field: it would differ from one attempt to the next. Who takes the
//! mail from the spool adds it; [`Record::accepted_ms`](crate::record::Record::accepted_ms) says
//! when it came.
//!
//! There is no TLS and no AUTH: put the front where only those reach it who may send, and name the
//! domains that it takes mail for ([`SmtpConfig::domains`]).

mod front;
mod lines;
mod mail;
mod session;
mod talk;

pub use front::{SmtpConfig, SmtpFront};
pub use lines::{COMMAND_MAX, Content, Line, Lines, Part};
pub use mail::{Mail, MailError};
