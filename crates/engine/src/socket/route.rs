//! The two ends of the connection that carries a session.

use core::net::SocketAddr;
use std::os::fd::RawFd;

use super::{Socket, bits};
use crate::sys::tcp;

impl Socket {
    /// The number of the connection that stands, if one does. It may be closed past us meanwhile.
    pub(crate) fn standing(&self) -> Option<RawFd> {
        let place = self.place.lock().ok()?;
        // Of a pumped socket the program's number is the end of the pair.
        let is_there = !self.has(bits::PUMPED) || place.private.is_some();
        place.real_number().filter(|_| is_there)
    }

    /// The peer's address and ours, of the connection that stands.
    pub(crate) fn route(&self) -> Option<(SocketAddr, SocketAddr)> {
        let real = self.standing()?;
        tcp::peer_addr(real).zip(tcp::local_addr(real))
    }
}
