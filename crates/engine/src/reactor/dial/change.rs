//! A dial that is under way, and is to go elsewhere too, or no more.

use core::net::SocketAddr;

use super::Dial;

impl Dial {
    /// Addresses that are known no more are not tried any more; what was begun goes on.
    pub(in crate::reactor) fn know(&mut self, known: &[SocketAddr]) {
        if self.is_open || self.only.is_some() {
            return;
        }
        self.queue.retain(|addr| known.contains(addr));
        if self.again.iter().any(|addr| known.contains(addr)) {
            self.again.retain(|addr| known.contains(addr));
        }
    }

    /// Those that are new are tried too; true if there are any.
    pub(in crate::reactor) fn learn(&mut self, known: &[SocketAddr]) -> bool {
        let new: Vec<_> = known.iter().copied().filter(|addr| !self.again.contains(addr)).collect();
        if self.is_open || self.only.is_some() || self.won.is_some() || new.is_empty() {
            return false;
        }
        self.queue.extend(new.iter().copied());
        self.again.extend(new);
        true
    }
}
