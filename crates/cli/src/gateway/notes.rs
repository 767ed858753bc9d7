//! What a gateway says: on the standard error output for people, as JSON lines for programs.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use serde_json::json;

use super::relay::{Carried, Totals};
use crate::output;
use crate::units::{show_millis, show_size};

/// The same complaint is not repeated sooner.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// The gateway's voice.
#[derive(Debug)]
pub(super) struct Notes {
    json: bool,
    is_terminal: bool,
    has_status_line: bool,
    last: Option<(String, Instant)>,
    suppressed: u64,
}

impl Notes {
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = stderr().is_terminal();
        Self { json, is_terminal, has_status_line: false, last: None, suppressed: 0 }
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Says what people should know; a storm of the same is said once a second.
    pub(super) fn say(&mut self, what: &str) {
        let is_same = |(last, at): &(String, Instant)| last == what && at.elapsed() < REPEAT_AFTER;
        if self.last.as_ref().is_some_and(is_same) {
            self.suppressed += 1;
            return;
        }
        let more = std::mem::take(&mut self.suppressed);
        if more > 0 {
            self.line(&format!("the last line {more} times more"));
        }
        self.line(what);
        self.last = Some((what.to_owned(), Instant::now()));
    }

    fn line(&mut self, what: &str) {
        let clear = if std::mem::take(&mut self.has_status_line) { "\r\x1b[K" } else { "" };
        // Nobody may read it; then there is nobody to tell.
        let _unheard = writeln!(stderr().lock(), "{clear}evs gateway: {what}");
    }

    /// Where it listens, once it does.
    pub(super) fn listening(&mut self, addr: std::net::SocketAddr, from: &str, to: &str) {
        self.line(&format!("{from} on {addr} -> {to}"));
        if self.json {
            let line = json!({ "kind": "listening", "addr": addr, "to": to });
            let _unheard = output::json_line(&line);
        }
    }

    pub(super) fn status(&mut self, count: usize, totals: &Totals) {
        let line = status_line(count, totals);
        if self.is_terminal {
            let _unheard = write!(stderr().lock(), "\r\x1b[K{line}");
            self.has_status_line = true;
        } else {
            self.line(&line);
        }
    }

    pub(super) fn finish_status(&mut self) {
        if std::mem::take(&mut self.has_status_line) {
            let _unheard = writeln!(stderr().lock());
        }
    }

    pub(super) fn draining(&mut self, count: usize, wait: Duration) {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let left = show_millis(millis);
        self.line(&format!("takes no more; {count} connections may go on for {left}"));
        if self.json {
            let _unheard = output::json_line(&json!({ "kind": "draining", "connections": count }));
        }
    }

    pub(super) fn ended(&mut self, totals: &Totals) {
        let cut_off = match totals.cut_off {
            0 => String::new(),
            n => format!(", {n} of them cut off"),
        };
        self.line(&format!("ended after {}{cut_off}", status_line(0, totals)));
        if self.json {
            let _unheard = output::json_line(&json!({ "kind": "ended", "totals": totals }));
        }
    }
}

fn status_line(count: usize, totals: &Totals) -> String {
    let now = if count == 0 { String::new() } else { format!("{count} connections now, ") };
    let shared = match &totals.shared {
        None => String::new(),
        Some(Carried { sessions: 1, connections }) => {
            format!(", 1 session carried {connections} connections")
        }
        Some(Carried { sessions, connections }) => {
            format!(", {sessions} sessions carried {connections} connections")
        }
    };
    format!(
        "{now}{} in all ({} broken, {} not connected), {} to sessions, {} to plain{shared}",
        totals.connections,
        totals.broken,
        totals.unreachable,
        show_size(totals.bytes_to_session),
        show_size(totals.bytes_to_plain),
    )
}
