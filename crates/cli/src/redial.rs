//! `evs redial`: dials again now.

use clap::Args;

use crate::control::{self, Entry, Request};
use crate::failure::Failure;

/// Dial a session again now, beside its connection if one stands.
#[derive(Debug, Args)]
pub(crate) struct Redial {
    /// The session: PID:NUMBER, or the beginning of its id. Of its two ends, the client is meant.
    id: String,
}

impl Redial {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let is_client = |entry: &Entry| entry.info.role == "client";
        let entry = control::find(&self.id, is_client)?;
        if !is_client(&entry) {
            return Err(Failure::new(format!(
                "session {} is a {}; only the client's end can dial: run `evs redial` there",
                entry.id,
                if entry.info.role.is_empty() { "socket without a peer" } else { "server's end" }
            )));
        }
        entry.request(Request::Redial { id: entry.info.local_id })?;
        Ok(true)
    }
}
