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
        } else if !socket.has(bits::DETACHED | bits::CONNECTING) {
            // The deadline for START may have passed while nobody owned the session.
            let epoch = socket.rx.lock().map_or(0, |rx| rx.epoch);
            self.expect_start(socket, epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use eversock_proto::control::{Control, Role};
    use eversock_proto::recv::Receiver;
    use eversock_proto::secret::{Secret, SessionId};

    use crate::config::Config;
    use crate::reactor::Reactor;

    /// The deadline passed, or was weeded, while a fork had made the session nobody's: a peer that
    /// confirmed and then said nothing held its session for ever.
    #[test]
    fn who_claims_a_session_again_waits_for_its_start_again() {
        let mut reactor = Reactor::for_test();
        let (socket, _far) = reactor.session_for_test(Config::default());
        let id = SessionId::new(reactor.engine.instance, socket.id);
        socket.meta.lock().expect("a lock").control =
            Some(Box::new(Control::new(Role::Server, id, Secret::from_bytes([2; 32]))));
        {
            let mut rx = socket.rx.lock().expect("a lock");
            let mut receiver = Receiver::new(std::sync::Arc::default(), 0, 1 << 16);
            receiver.begin_epoch();
            rx.receiver = Some(Box::new(receiver));
            rx.number = socket.lock_tx().expect("a lock").number;
            rx.epoch = 6;
        }
        assert!(reactor.timers.next().is_none());
        reactor.claimed_again(&socket);
        assert!(reactor.owes_start(socket.id, 6));
        assert!(reactor.timers.next().is_some(), "nobody looks whether START has come");
    }
}
