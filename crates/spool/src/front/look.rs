//! A thread that reads a spool.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Sender, unbounded};

use super::actor::{Input, reply_safely};
use crate::pair::{Event, StoreFault, Token};
use crate::record::Lane;
use crate::request::{Outcome, RequestId};
use crate::store::{Known, SpoolReader, StoreError};
use crate::target::Reply;

/// Something else that is to be read.
type OtherLook = Box<dyn FnOnce(&mut dyn SpoolReader) + Send>;

/// What is to be read.
pub(super) enum Look {
    Newest { token: Token, lane: Lane },
    Find { token: Token, id: RequestId },
    Fetch { after: u64, limit: usize, weight_max: u64 },
    Count,
    Outcome { id: RequestId, reply: Reply<Option<Outcome>> },
    Other(OtherLook),
}

/// The way to such a thread, which ends when the last of these is gone.
#[derive(Debug, Clone)]
pub(super) struct Looker(Arc<Sender<Look>>);

impl Looker {
    pub(super) fn start(
        pair: &str,
        mut reader: Box<dyn SpoolReader>,
        answers: Sender<Input>,
    ) -> io::Result<Self> {
        let (sender, waiting) = unbounded();
        // Each request asks one thing at a time, and requests are bounded.
        thread::Builder::new().name(format!("spool-look-{pair:.10}")).spawn(move || {
            for look in waiting {
                let failed = failure(&look);
                // What a caller wants read is the caller's code.
                let answer = catch_unwind(AssertUnwindSafe(|| answer(&mut *reader, look)));
                if answer.is_err() {
                    log::error!("reading a spool has panicked");
                }
                if let Some(event) = answer.unwrap_or(failed) {
                    let _ = answers.send(Input::Event(event));
                }
            }
        })?;
        Ok(Self(Arc::new(sender)))
    }

    pub(super) fn ask(&self, look: Look) {
        let _ = self.0.send(look);
    }
}

/// What the pair is told if it cannot be read at all.
fn failure(look: &Look) -> Option<Event> {
    let fault = StoreFault::Failed;
    match *look {
        Look::Newest { token, .. } => Some(Event::Newest { token, result: Err(fault) }),
        Look::Find { token, .. } => Some(Event::FoundId { token, result: Err(fault) }),
        Look::Fetch { .. } => Some(Event::Fetched { result: Err(fault) }),
        Look::Count => Some(Event::Counted { result: Err(fault) }),
        Look::Outcome { .. } | Look::Other(_) => None,
    }
}

fn answer(reader: &mut dyn SpoolReader, look: Look) -> Option<Event> {
    let told = |error: StoreError| {
        log::warn!("{error}");
        StoreFault::from(&error)
    };
    Some(match look {
        Look::Newest { token, lane } => {
            Event::Newest { token, result: reader.newest(lane).map_err(told) }
        }
        Look::Find { token, id } => Event::FoundId { token, result: reader.find(id).map_err(told) },
        Look::Fetch { after, limit, weight_max } => {
            Event::Fetched { result: reader.pending(after, limit, weight_max).map_err(told) }
        }
        Look::Count => Event::Counted { result: reader.totals().map_err(told) },
        Look::Outcome { id, reply } => {
            // Without an answer nobody knows; that it is not known there would be one.
            if let Ok(found) = reader.find(id).map_err(told) {
                reply_safely(reply, outcome(found));
            }
            return None;
        }
        Look::Other(look) => {
            look(reader);
            return None;
        }
    })
}

fn outcome(known: Option<Known>) -> Option<Outcome> {
    Some(match known? {
        Known::Pending { lsn, .. } => Outcome::Held { lsn },
        Known::Ended { lsn, end, .. } => crate::pair::known_outcome(lsn, Some(end), true),
        Known::Quarantined { .. } => Outcome::InDoubt,
    })
}
