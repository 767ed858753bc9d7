//! Two sessions and a bad network in virtual time.
//!
//! [`Pair`] holds a client and a server, each a [`Session`](crate::session::Session) with what an
//! engine does around it: redials with back-off, handshakes, pending resumes, grace, probes beside
//! a silent connection, the lazy ack sweep, lingering after a close, tombstones. Between them is a
//! [`Net`] whose connections slice, delay, withhold and lose bytes. There is no clock and no
//! thread; all choices come from one seed, so the same seed and the same calls give the same run.
//!
//! The pair checks itself at each step and panics when something cannot be: what a side reads is a
//! prefix of what the other wrote; EOF comes behind all bytes; log and stash stay within the
//! window; nobody confirms what did not come; bytes of an old connection reach no session.
//!
//! ```
//! use std::time::Duration;
//! use eversock_proto::testing::{Cut, Pair, PairConfig, Side};
//!
//! let mut pair = Pair::new(1, PairConfig::default());
//! pair.run_until(Duration::from_secs(5), |pair| pair.is_up());
//! pair.write(Side::Client, b"hello");
//! pair.cut(Cut::RESET);
//! pair.run_until(Duration::from_secs(60), |pair| pair.readable(Side::Server) == 5);
//! assert_eq!(pair.read(Side::Server, 100), 5);
//! ```

mod client;
mod end;
mod ledger;
mod net;
mod pair;
mod rng;
mod server;

pub use end::{End, Ending};
pub use ledger::Ledger;
pub use net::{ConnId, Cut, InFlight, Net, Notice, PlannedCut, Side, Tamper};
pub use pair::{Pair, PairConfig, Recorded};
pub use rng::Rng;

#[cfg(test)]
mod tests {
    use crate::secret::Secret;

    #[test]
    fn a_secret_depends_on_the_split_and_not_on_the_hash_alone() {
        let hash = [3; 32];
        let secret = Secret::derive((&[1; 32], &[2; 32]), &hash);
        assert_ne!(secret, Secret::derive((&[9; 32], &[2; 32]), &hash));
        assert_ne!(secret, Secret::derive((&[1; 32], &[9; 32]), &hash));
        assert_ne!(secret, Secret::derive((&[1; 32], &[2; 32]), &[9; 32]));
    }
}
