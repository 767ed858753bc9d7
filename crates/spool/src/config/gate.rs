//! What stands between doors and a front, so that the front can end while doors are still open.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::front::Front;
use crate::request::{Outcome, Reason, Request, RequestId};
use crate::submit::Submit;
use crate::target::Reply;

/// Passes requests on to a front, and refuses them once it has ended.
pub struct Gate {
    front: RwLock<Option<Front>>,
    /// Said before the front is taken away, so that nobody waits for that.
    closing: AtomicBool,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("closing", &self.closing).finish_non_exhaustive()
    }
}

impl Gate {
    pub(super) fn new(front: Front) -> Self {
        Self { front: RwLock::new(Some(front)), closing: AtomicBool::new(false) }
    }

    /// Lets `ask` ask the front, which does not end meanwhile. `None` if it has ended. Blocks as
    /// long as `ask` does.
    pub fn with<T>(&self, ask: impl FnOnce(&Front) -> T) -> Option<T> {
        if self.closing.load(Ordering::Acquire) {
            return None;
        }
        self.front.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(ask)
    }

    /// Ends the front: whoever waits is told, what was accepted is written.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        let front = self.front.write().unwrap_or_else(PoisonError::into_inner).take();
        // Not under the lock: it blocks.
        drop(front);
    }
}

fn closing() -> Outcome {
    Outcome::Rejected { reason: Reason::Closing, retry_after: Duration::from_secs(1) }
}

impl Submit for Gate {
    fn submit(&self, pair: &str, request: Request, reply: Reply<Outcome>) {
        let mut left = Some((request, reply));
        self.with(|front| {
            if let Some((request, reply)) = left.take() {
                front.submit(pair, request, reply);
            }
        });
        if let Some((_, reply)) = left {
            reply(closing());
        }
    }

    fn fetch(&self, pair: &str, id: RequestId, reply: Reply<Option<Outcome>>) {
        let mut left = Some(reply);
        self.with(|front| {
            if let Some(reply) = left.take() {
                front.fetch(pair, id, reply);
            }
        });
        if let Some(reply) = left {
            reply(Some(closing()));
        }
    }
}
