//! Credit that the receiving direction learns of while the sending one runs out of it.
//!
//! A writer without room raises "no room" and looks at the edge again; a reader with a higher edge
//! publishes it and looks for "no room" afterwards: so one of the two sees the other.

use super::sync::{AtomicU64, Ordering};

/// Publishes the peer's credit `edge`, under the receiving lock, which makes this one writer's.
/// True when a writer has run out of room meanwhile, and has room now: then "no room" is to be
/// cleared.
#[inline]
pub(crate) fn publish(
    published: &AtomicU64,
    edge: u64,
    has_no_room: impl FnOnce() -> bool,
    written: &AtomicU64,
) -> bool {
    if edge <= published.load(Ordering::Relaxed) {
        return false;
    }
    published.store(edge, Ordering::SeqCst);
    has_no_room() && edge > written.load(Ordering::SeqCst)
}

/// The edge as a writer must see it that has just raised "no room".
#[inline]
pub(crate) fn edge(published: &AtomicU64) -> u64 {
    published.load(Ordering::SeqCst)
}
