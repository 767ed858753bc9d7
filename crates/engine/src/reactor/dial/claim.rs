//! Dials and forks: a dial may win while the session is nobody's.

use std::sync::Arc;

use super::Reactor;
use crate::clock;
use crate::process::{self, Holder};
use crate::reactor::timer::Timer;
use crate::socket::{Socket, bits};

impl Reactor {
    /// A dial has won while nobody owns the session, just after a fork. It is kept until somebody
    /// does: a dial that was dropped here would be missed by the program that claims the session.
    pub(super) fn claim_for_dial(&mut self, socket: &Arc<Socket>) -> bool {
        if socket.owner.holder(self.engine.instance) == Holder::Nobody
            && let Some(wait) = process::time_to_claim()
        {
            self.timers.set(clock::now() + wait, Timer::Stagger(socket.id));
            return false;
        }
        let ours = self.claim_unclaimed(socket);
        if !ours {
            // A relative's since a fork: it dials itself.
            self.end_dial(socket.id);
        }
        ours
    }

    /// Our program has claimed a session for which a dial of before the fork may have won.
    pub(in crate::reactor) fn claimed_again(&mut self, socket: &Arc<Socket>) {
        if self.dials.get(&socket.id).is_some_and(|dial| dial.won.is_some()) {
            self.attach_won(socket.id);
        } else if socket.has(bits::DYING) && !socket.has(bits::DETACHED) {
            // Who found the connection dead told us when nobody owned the session.
            let epoch = socket.tx.lock().map_or(0, |tx| tx.epoch);
            self.fault(Arc::clone(socket), epoch, "the connection has failed".to_owned());
        }
    }
}
