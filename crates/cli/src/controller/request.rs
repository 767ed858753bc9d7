//! `evs controller request`: something is asked of a device.

use std::time::Duration;

use clap::Args;
use eversock_controller::limits::DEADLINE_MAX;
use eversock_controller::report::OutcomeReport;

use super::Which;
use super::ask::Asked;
use crate::failure::Failure;
use crate::{output, units};

/// Ask something of a device, wherever it is registered, and print its answer.
///
/// Exit status 1 if it does not answer.
#[derive(Debug, Args)]
pub(crate) struct Request {
    #[command(flatten)]
    which: Which,
    /// Which device.
    device: String,
    /// What.
    payload: String,
    /// How long it may take.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10s")]
    deadline: Duration,
}

impl Request {
    pub(super) fn run(self) -> Result<bool, Failure> {
        if self.deadline.is_zero() || self.deadline > DEADLINE_MAX {
            return Err(Failure::usage(format!("a deadline is up to {DEADLINE_MAX:?}")));
        }
        let file = self.which.file()?;
        let asked = Asked::of(&file)?;
        let outcome = asked.request(&self.device, &self.payload, self.deadline)?;
        if self.which.json {
            output::json_line(&outcome)?;
            return Ok(matches!(outcome, OutcomeReport::Done { .. }));
        }
        match outcome {
            OutcomeReport::Done { answer } => output::text(&format!("{answer}\n")).map(|()| true),
            other => Err(Failure::new(format!("{}: {}", self.device, why(&other)))),
        }
    }
}

fn why(outcome: &OutcomeReport) -> String {
    match outcome {
        OutcomeReport::Done { .. } => "it answered".to_owned(),
        OutcomeReport::Unknown => "nobody has heard of it, or it has deregistered".to_owned(),
        OutcomeReport::NotHere { owner, seq } => {
            format!("{owner} has it (counter {seq}), which cannot be reached; ask there")
        }
        OutcomeReport::Unreachable { why } => format!("it cannot be reached: {why}"),
        OutcomeReport::Busy { after_ms } => {
            format!("too much is under way; come again in {after_ms} ms")
        }
        OutcomeReport::TimedOut => "no answer in time; it may still take effect".to_owned(),
        OutcomeReport::Refused { why } => format!("it refuses: {why}"),
    }
}
