//! A dial to the one address that the program has asked for: a session is to move, if it can.

use super::*;
use crate::config::RecoveryPolicy;

impl Reactor {
    /// Begins one; an errno when there can be none.
    pub(in crate::reactor) fn redial_at(
        &mut self,
        socket: &Arc<Socket>,
        addr: SocketAddr,
    ) -> Result<(), i32> {
        let is_client = socket.meta.lock().is_ok_and(|meta| {
            meta.control.as_ref().is_some_and(|control| control.role == Role::Client)
        });
        let gone = bits::FRESH | bits::CONNECTING | bits::FAILED | bits::OVER | bits::CLOSED;
        let never = matches!(socket.config.policy, RecoveryPolicy::Never);
        let is_ours = self.owned.contains_key(&socket.id) && socket.owner.is(self.engine.instance);
        if !is_client || !is_ours || never || socket.has(gone) {
            return Err(libc::ENOTCONN);
        }
        if self.dials.contains_key(&socket.id) || self.waiting_dials.contains(&socket.id) {
            return Err(libc::EALREADY);
        }
        if self.dials.len() >= DIALS_MAX {
            return Err(libc::EAGAIN);
        }
        let automatic = matches!(socket.config.policy, RecoveryPolicy::Automatic);
        if automatic && socket.has(bits::DETACHED) {
            // Nobody is asked, and nothing stands that a failure would leave as it is.
            let others = socket.meta.lock().map(|meta| meta.candidates.clone()).unwrap_or_default();
            let all = std::iter::once(addr).chain(others.into_iter().filter(|it| *it != addr));
            self.dial(socket, all.collect(), false);
        } else {
            self.dial_to(socket, vec![addr], false, Some(addr));
        }
        Ok(())
    }

    /// It has come to nothing: what was before it goes on.
    pub(super) fn move_failed(&mut self, socket: &Arc<Socket>, addr: SocketAddr, cause: String) {
        let Ok(mut meta) = socket.meta.lock() else { return };
        log::info!("session {}: not moved to {addr}: {cause}", socket.id);
        if !socket.has(bits::OVER) {
            socket.tell(&mut meta, EventKind::MoveFailed { addr, cause });
        }
        let (planned, asking) = (meta.rare().next_try, meta.rare().asking);
        drop(meta);
        if !socket.has(bits::DETACHED) || socket.has(bits::FAILED) {
            return;
        }
        match planned {
            // Its time may have come while this dial ran, and gone.
            Some(at) => self.timers.set(at.max(clock::now()), Timer::Redial(socket.id)),
            None if asking => {}
            None => self.plan_redial(socket),
        }
    }

    /// The connection beside which a session was to move has died: it goes wherever it can now.
    pub(in crate::reactor) fn give_way(&mut self, socket: &Arc<Socket>) {
        let Some(dial) = self.dials.get(&socket.id).filter(|dial| dial.won.is_none()) else {
            return;
        };
        let Some(addr) = dial.only else { return };
        self.end_dial(socket.id);
        if let Ok(mut meta) = socket.meta.lock() {
            let cause = "the connection that stood has died meanwhile".to_owned();
            socket.tell(&mut meta, EventKind::MoveFailed { addr, cause });
        }
    }
}
