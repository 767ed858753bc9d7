//! `evs kill`: ends a session.

use clap::Args;

use crate::control::{self, Request};
use crate::failure::Failure;

/// End a session: its program gets ECONNABORTED, the peer's ECONNRESET.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The session: PID:NUMBER, or the beginning of its id.
    id: String,
}

impl Kill {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let entry = control::find(&self.id, |_| true)?;
        entry.request(Request::Kill { id: entry.info.local_id })?;
        Ok(true)
    }
}
