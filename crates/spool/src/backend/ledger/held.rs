//! Another process that holds the database for too long: one that was stopped in the middle of a
//! transaction, for example.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a transaction waits for one who is known to hold the database.
pub(super) const WAIT: Duration = Duration::from_millis(50);

/// Since when no transaction could begin. Any thread.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Option<Since>>);

#[derive(Debug, Clone, Copy)]
struct Since {
    at: Instant,
    reported: bool,
}

impl Held {
    fn state(&self) -> MutexGuard<'_, Option<Since>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it was first found to be held; `None` if it is not.
    pub(super) fn since(&self) -> Option<Instant> {
        self.state().map(|since| since.at)
    }

    /// A transaction could not begin. Says so once when that has lasted for `patience`.
    pub(super) fn is_busy(&self, path: &Path, patience: Duration) {
        let mut state = self.state();
        let since = state.get_or_insert_with(|| Since { at: Instant::now(), reported: false });
        if since.reported || since.at.elapsed() <= patience {
            return;
        }
        since.reported = true;
        log::error!(
            "the ledger {} has been held by another process for {:?}: end that process if it is \
             stopped",
            path.display(),
            since.at.elapsed()
        );
    }

    /// A transaction went through.
    pub(super) fn is_free(&self, path: &Path) {
        if self.state().take().is_some_and(|since| since.reported) {
            log::info!("the ledger {} can be written again", path.display());
        }
    }
}
