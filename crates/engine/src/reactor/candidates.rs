//! Other places to dial, said by the peer or by the program, at any time.

use std::sync::Arc;

use core::net::SocketAddr;

use super::Reactor;
use crate::socket::Socket;

impl Reactor {
    /// The peer announced other addresses in place of those before.
    pub(super) fn addrs(&mut self, socket: &Arc<Socket>, addrs: Vec<SocketAddr>) {
        let Ok(mut meta) = socket.meta.lock() else { return };
        meta.announced(&addrs);
        let known = meta.candidates.clone();
        drop(meta);
        if let Some(dial) = self.dials.get_mut(&socket.id) {
            // It does not learn new ones: a peer could make it grow for ever.
            dial.know(&known);
        }
    }

    /// The program has set where to dial: a dial that runs goes there too.
    pub(super) fn candidates_set(&mut self, socket: &Arc<Socket>) {
        let Ok(meta) = socket.meta.lock() else { return };
        let known = meta.candidates.clone();
        drop(meta);
        let Some(dial) = self.dials.get_mut(&socket.id) else { return };
        dial.know(&known);
        if dial.learn(&known) {
            self.next_attempt(socket.id);
        }
    }
}
