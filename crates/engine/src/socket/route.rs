//! The two ends of the connection that carries a session, and where else it may be found.

use core::net::SocketAddr;
use std::os::fd::RawFd;

use eversock_proto::limits::ADDRS_MAX;

use super::{Meta, Socket, bits};
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

/// Addresses of one session, at most: the peer's, and as many of the program.
pub(crate) const CANDIDATES_MAX: usize = 2 * ADDRS_MAX;

impl Meta {
    /// The peer has said where it can be found too: its last list holds no more (PROTOCOL 2.7).
    /// What the program knows by itself stays; and so does the last address of all.
    pub(crate) fn announced(&mut self, addrs: &[SocketAddr]) {
        let before =
            self.rare_if_any().map_or_else(Vec::new, |rare| std::mem::take(&mut rare.announced));
        let mut announced = Vec::new();
        let last = self.candidates.first().copied();
        self.candidates.retain(|addr| !before.contains(addr) || addrs.contains(addr));
        if let Some(last) = last.filter(|_| self.candidates.is_empty() && addrs.is_empty()) {
            self.candidates.push(last);
            announced.push(last);
        }
        for &addr in addrs.iter().take(ADDRS_MAX) {
            if self.candidates.contains(&addr) {
                announced.extend(before.contains(&addr).then_some(addr));
            } else if self.candidates.len() < CANDIDATES_MAX {
                self.candidates.push(addr);
                announced.push(addr);
            }
        }
        if !announced.is_empty() {
            self.rare_mut().announced = announced;
        }
    }

    /// The program has looked its peer's name up: these are its own from here on.
    pub(crate) fn resolved(&mut self, found: Vec<SocketAddr>) {
        if let Some(rare) = self.rare_if_any() {
            rare.announced.retain(|addr| !found.contains(addr));
        }
        let mut all = found;
        for addr in std::mem::take(&mut self.candidates) {
            if !all.contains(&addr) {
                all.push(addr);
            }
        }
        all.truncate(CANDIDATES_MAX);
        self.candidates = all;
    }

    /// The program says where to dial; `current` is where the session is, or was.
    pub(crate) fn set_candidates(&mut self, addrs: &[SocketAddr], current: Option<SocketAddr>) {
        let announced = self.rare_if_any().map_or(&[][..], |rare| &rare.announced);
        let is_peers = |addr: &SocketAddr| announced.contains(addr) && !addrs.contains(addr);
        let kept = current.filter(is_peers);
        self.candidates.clear();
        for addr in addrs.iter().copied().chain(current) {
            if !self.candidates.contains(&addr) {
                self.candidates.push(addr);
            }
        }
        self.candidates.truncate(CANDIDATES_MAX);
        if let Some(rare) = self.rare_if_any() {
            rare.announced = kept.into_iter().collect();
            rare.host = None;
        }
    }

    /// The program knows these, too: they stay when the peer withdraws them.
    pub(crate) fn add_candidates(&mut self, addrs: &[SocketAddr]) {
        if let Some(rare) = self.rare_if_any() {
            rare.announced.retain(|announced| !addrs.contains(announced));
        }
        for addr in addrs.iter().filter(|addr| addr.port() != 0) {
            if self.candidates.len() < CANDIDATES_MAX && !self.candidates.contains(addr) {
                self.candidates.push(*addr);
            }
        }
    }

    /// A connection to `addr` stands: where it worked is where to look first. `asked` when the
    /// program has named the address, and not the peer.
    pub(crate) fn worked(&mut self, addr: SocketAddr, asked: bool) {
        let is_known = self.candidates.contains(&addr);
        self.candidates.retain(|&candidate| candidate != addr);
        self.candidates.insert(0, addr);
        self.candidates.truncate(CANDIDATES_MAX);
        if asked && let Some(rare) = self.rare_if_any() {
            // From here on the program's own.
            rare.announced.retain(|&announced| announced != addr);
        }
        if !is_known && !asked {
            // The peer has withdrawn it while it was dialled, or will.
            self.rare_mut().announced.push(addr);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|&port| ([127, 0, 0, 1], port).into()).collect()
    }

    #[test]
    fn a_list_of_the_peers_replaces_its_last_one_and_nothing_else() {
        let mut meta = Meta { candidates: at(&[1, 2]), ..Meta::default() };
        meta.announced(&at(&[2, 3, 4]));
        assert_eq!(meta.candidates, at(&[1, 2, 3, 4]));
        meta.announced(&at(&[4, 5]));
        assert_eq!(meta.candidates, at(&[1, 2, 4, 5]));
        meta.worked(at(&[5])[0], false);
        meta.announced(&[]);
        assert_eq!(meta.candidates, at(&[1, 2]));
        // One that was withdrawn while it was dialled is the peer's still.
        meta.worked(at(&[9])[0], false);
        assert_eq!(meta.candidates, at(&[9, 1, 2]));
        meta.announced(&[]);
        assert_eq!(meta.candidates, at(&[1, 2]));
        // A name that leads there makes it the program's.
        meta.announced(&at(&[7, 8]));
        meta.resolved(at(&[7]));
        meta.announced(&[]);
        assert_eq!(meta.candidates, at(&[7, 1, 2]));
    }

    /// Found in review: what the program named, or was moved to, went with the peer's next list;
    /// what the peer alone had announced stayed for ever.
    #[test]
    fn whose_an_address_is_outlives_what_the_program_sets_and_adds() {
        let mut meta = Meta { candidates: at(&[1]), ..Meta::default() };
        meta.announced(&at(&[2, 3, 4]));
        meta.add_candidates(&at(&[2]));
        meta.worked(at(&[3])[0], true);
        meta.announced(&[]);
        assert_eq!(meta.candidates, at(&[3, 1, 2]));
        meta.announced(&at(&[5]));
        meta.set_candidates(&at(&[1]), Some(at(&[5])[0]));
        assert_eq!(meta.candidates, at(&[1, 5]));
        meta.announced(&[]);
        assert_eq!(meta.candidates, at(&[1]));
        let many: Vec<u16> = (10..50).collect();
        meta.add_candidates(&at(&many));
        assert_eq!(meta.candidates.len(), CANDIDATES_MAX);
    }

    #[test]
    fn the_last_address_of_all_is_not_withdrawn_before_there_is_another() {
        let mut meta = Meta::default();
        meta.announced(&at(&[3]));
        meta.announced(&[]);
        assert_eq!(meta.candidates, at(&[3]));
        meta.announced(&at(&[4]));
        assert_eq!(meta.candidates, at(&[4]));
    }

    #[test]
    fn addresses_are_bounded_whatever_the_peer_says() {
        let mut meta = Meta { candidates: at(&[1]), ..Meta::default() };
        for round in 0..10 {
            let ports: Vec<u16> = (0..100).map(|n| 1000 * round + n + 2).collect();
            meta.announced(&at(&ports));
            assert!(meta.candidates.len() <= 1 + usize::from(round) + ADDRS_MAX);
            meta.worked(at(&[60_000 + round])[0], true);
            assert!(meta.candidates.len() <= CANDIDATES_MAX);
        }
        assert!(meta.candidates.contains(&at(&[1])[0]), "the program's own goes last");
    }

    #[test]
    fn what_the_program_sets_replaces_all_but_where_the_session_is() {
        let mut meta = Meta { candidates: at(&[1, 2]), ..Meta::default() };
        meta.announced(&at(&[3]));
        meta.set_candidates(&at(&[5, 6, 5]), Some(at(&[1])[0]));
        assert_eq!(meta.candidates, at(&[5, 6, 1]));
        meta.set_candidates(&at(&[1, 7]), Some(at(&[1])[0]));
        assert_eq!(meta.candidates, at(&[1, 7]));
        meta.announced(&at(&[3]));
        assert_eq!(meta.candidates, at(&[1, 7, 3]));
    }
}
