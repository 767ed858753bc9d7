//! The line that shows a run as it goes, on the standard error output.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use crate::units::show_size;

/// The sums so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) trips: u64,
    pub(super) sessions: u64,
    pub(super) attached: u64,
    pub(super) resumes: u64,
    pub(super) cuts: Option<u64>,
    pub(super) errors: u64,
}

/// Shows rates between samples; on a terminal in one line that is written over.
#[derive(Debug)]
pub(super) struct Live {
    is_on: bool,
    is_terminal: bool,
    has_line: bool,
    last: Sample,
}

impl Live {
    /// On if it is wanted, and on a terminal.
    pub(super) fn new(is_wanted: bool) -> Self {
        let is_terminal = stderr().is_terminal();
        let is_on = is_wanted || is_terminal;
        Self { is_on, is_terminal, has_line: false, last: Sample::default() }
    }

    /// Says only what goes wrong.
    pub(super) fn quiet() -> Self {
        Self { is_on: false, is_terminal: false, has_line: false, last: Sample::default() }
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(super) fn show(&mut self, sample: Sample) {
        let line = line(&sample, &self.last);
        self.last = sample;
        if self.is_terminal {
            self.write(&format!("\r{line}\x1b[K"));
            self.has_line = true;
        } else {
            self.write(&format!("{line}\n"));
        }
    }

    /// Something that is to stay.
    pub(super) fn say(&mut self, what: &str) {
        self.finish();
        self.write(&format!("evs load: {what}\n"));
    }

    pub(super) fn finish(&mut self) {
        if std::mem::take(&mut self.has_line) {
            self.write("\n");
        }
    }

    fn write(&self, text: &str) {
        // Nobody may read it; then there is nobody to tell.
        let _unheard = stderr().lock().write_all(text.as_bytes());
    }
}

fn line(now: &Sample, last: &Sample) -> String {
    let seconds = (now.at - last.at).as_secs_f64().max(0.001);
    let rate = |now: u64, last: u64| ((now - last) as f64 / seconds) as u64;
    let cuts = now.cuts.map(|cuts| format!("  cuts {cuts}")).unwrap_or_default();
    format!(
        "{:4.0} s  up {}/s  down {}/s  {} trips/s  {} of {} attached  resumes {}{cuts}  errors {}",
        now.at.as_secs_f64(),
        show_size(rate(now.sent, last.sent)),
        show_size(rate(now.received, last.received)),
        rate(now.trips, last.trips),
        now.attached,
        now.sessions,
        now.resumes,
        now.errors
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_rates_since_the_last_one_and_sums() {
        let last =
            Sample { at: Duration::from_secs(3), sent: 4096, trips: 10, ..Sample::default() };
        let now = Sample {
            at: Duration::from_secs(5),
            sent: 8192,
            received: 1 << 20,
            trips: 30,
            sessions: 8,
            attached: 7,
            resumes: 5,
            cuts: Some(6),
            errors: 0,
        };
        assert_eq!(
            line(&now, &last),
            "   5 s  up 2.0 KiB/s  down 512.0 KiB/s  10 trips/s  7 of 8 attached  resumes 5  \
             cuts 6  errors 0"
        );
    }
}
