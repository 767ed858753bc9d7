//! `evs answer`: says whether a session that asks is to be recovered.

use clap::Args;
use eversock::State;

use crate::control::{self, Entry, Request, Word};
use crate::failure::Failure;

/// Answer a session whose connection was lost and which waits for a word (policy "ask").
#[derive(Debug, Args)]
pub(crate) struct Answer {
    /// The session: PID:NUMBER, or the beginning of its id. Of its two ends, the one that asks is
    /// meant.
    id: String,
    /// Redial, or end the session with one error.
    answer: Word,
}

impl Answer {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let is_asking = |entry: &Entry| entry.info.state == State::Asking;
        let entry = control::find(&self.id, is_asking)?;
        if !is_asking(&entry) {
            return Err(Failure::new(format!(
                "session {} does not ask anything: it is {}; `evs ls` shows sessions that do as \
                 \"asking\"",
                entry.id,
                entry.state()
            )));
        }
        entry.request(Request::Answer { id: entry.info.local_id, answer: self.answer })?;
        Ok(true)
    }
}
