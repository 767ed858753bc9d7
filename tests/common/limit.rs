//! A limit on a test that a hang would otherwise hold for ever.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Ends the process when it is not dropped in time.
pub(crate) struct Limit {
    _alive: Sender<()>,
}

impl Limit {
    pub(crate) fn new(what: &'static str, limit: Duration) -> Self {
        let (alive, gone) = channel::<()>();
        std::thread::spawn(move || {
            if gone.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                // Not through the test's captured output, which nobody would print.
                use std::io::Write;
                let text = format!("{what}: not done within {limit:?}\n");
                let _gone = std::io::stderr().write_all(text.as_bytes());
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}
