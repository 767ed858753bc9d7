//! The end of a connection by a fault, and what is left to do for it afterwards.

use std::time::Duration;

use super::{Conn, Cut, Next, State};
use crate::event::{CloseReason, EventKind};
use crate::fault::{Fault, Peer};
use crate::ledger::{Ledger, ways};
use crate::link::swallow;
use crate::schedule::later;

/// How long a connection that got its FIN may take to close its own side.
const LINGER: Duration = Duration::from_secs(2);
/// How often a cut looks whether the peer has got its last byte.
const FLUSH_POLL: Duration = Duration::from_millis(1);

impl Conn {
    /// The end of a cut: what the peers see of it.
    pub(super) fn cut(&mut self, cut: Cut, ledger: &mut Ledger) {
        self.state = match cut.fault {
            Fault::Fin => {
                self.client.finish();
                self.server.finish();
                State::Lingering { deadline: later(ledger.now, LINGER) }
            }
            Fault::HalfOpen { left_open } => {
                let reset = if left_open == Peer::Client { Peer::Server } else { Peer::Client };
                self.side(reset).reset();
                State::HalfOpen { left_open }
            }
            _ => {
                self.client.reset();
                self.server.reset();
                State::Gone
            }
        };
        ledger.count_fault(&cut.fault);
        ledger.summary.cuts += 1;
        ledger.summary.cuts_flowing += u64::from(cut.flowing);
        let kind = EventKind::Fault { fault: cut.fault };
        ledger.event(Some(self.id), self.counts, cut.flowing, kind);
        self.close(CloseReason::Cut, ledger);
    }

    /// The turn of a connection that was cut, or is about to be.
    pub(super) fn afterwards(&mut self, ledger: &mut Ledger) -> Next {
        let (scratch, now) = (&mut ledger.scratch, ledger.now);
        match &self.state {
            State::Flushing { .. } => self.flush(ledger),
            State::Lingering { deadline } => {
                let deadline = *deadline;
                let client = swallow(&mut self.client, scratch, &mut self.up.swallowed);
                let server = swallow(&mut self.server, scratch, &mut self.down.swallowed);
                if !(client || server) || deadline <= now {
                    self.state = State::Gone;
                    return Next::Remove;
                }
                // The flag of a side that has ended stays up; only one that goes on is worth
                // another turn.
                let more = (client && self.client.readable) || (server && self.server.readable);
                if more { Next::Again } else { Next::Wait(Some(deadline)) }
            }
            State::HalfOpen { left_open } => {
                let (side, link) = match left_open {
                    Peer::Client => (&mut self.client, &mut self.up),
                    Peer::Server => (&mut self.server, &mut self.down),
                };
                let goes_on = swallow(side, scratch, &mut link.swallowed);
                match (goes_on, side.readable) {
                    (false, _) => Next::Remove,
                    (true, true) => Next::Again,
                    (true, false) => Next::Wait(None),
                }
            }
            _ => Next::Remove,
        }
    }

    /// Ends a cut whose last bytes have arrived, or will not in time.
    pub(super) fn flush(&mut self, ledger: &mut Ledger) -> Next {
        let State::Flushing { cut, direction, deadline } = &self.state else {
            return Next::Again;
        };
        let (cut, direction, deadline) = (cut.clone(), *direction, *deadline);
        let mut arrived = true;
        for way in ways(direction) {
            let (link, _, dst) = self.parts(way);
            arrived &= link.replay(dst) && dst.is_flushed();
        }
        if arrived || deadline <= ledger.now {
            self.cut(cut, ledger);
            return Next::Again;
        }
        Next::Wait(Some(deadline.min(ledger.now + FLUSH_POLL)))
    }
}
