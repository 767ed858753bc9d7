//! `evs controller request`: something is asked of a device.

use std::collections::HashMap;
use std::sync::mpsc::channel;
use std::time::Duration;

use clap::Args;
use eversock_controller::device::socket_config;
use eversock_controller::limits::{DEADLINE_MAX, PAYLOAD_MAX};
use eversock_controller::model::DeviceId;
use eversock_controller::report::OutcomeReport;
use eversock_controller::third::{RouterConfig, Routes, ThirdParty, ThirdPartyConfig};
use eversock_controller::wire::Place;
use eversock_controller::wire::client::Outcome;

use super::Which;
use super::ask::Asked;
use crate::device::place;
use crate::failure::Failure;
use crate::{output, units};

/// Ask something of a device, wherever it is registered, and print its answer.
///
/// The controller of the file is asked; or, with --door, this program is a third party that knows
/// some controllers' doors, and tries them until the device answers or the deadline is over.
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
    /// A controller's door, best first; may be given several times.
    #[arg(long, value_name = "NAME=HOST:PORT", value_parser = place, conflicts_with = "config")]
    door: Vec<Place>,
    /// With --door: asking twice does no harm, so try again elsewhere when nobody knows whether the
    /// device was asked.
    #[arg(long, requires = "door")]
    idempotent: bool,
    /// How long it may take.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10s")]
    deadline: Duration,
}

impl Request {
    pub(super) fn run(self) -> Result<bool, Failure> {
        if self.deadline.is_zero() || self.deadline > DEADLINE_MAX {
            return Err(Failure::usage(format!("a deadline is up to {DEADLINE_MAX:?}")));
        }
        let outcome = if self.door.is_empty() {
            let file = self.which.file()?;
            Asked::of(&file)?.request(&self.device, &self.payload, self.deadline)?
        } else {
            self.as_third_party()?
        };
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

impl Request {
    fn as_third_party(&self) -> Result<OutcomeReport, Failure> {
        let device: DeviceId = self.device.parse().map_err(Failure::usage)?;
        if self.payload.len() > PAYLOAD_MAX {
            let text = format!("{} bytes are more than {PAYLOAD_MAX}", self.payload.len());
            return Err(Failure::usage(text));
        }
        let third = third_party(self.door.clone())?;
        let payload = self.payload.clone().into_bytes();
        let (tell, told) = channel();
        let reply = Box::new(move |outcome| _ = tell.send(outcome));
        if self.idempotent {
            third.request_idempotent(device, self.deadline, payload, reply);
        } else {
            third.request(device, self.deadline, payload, reply);
        }
        // It is answered by the deadline.
        let outcome = told.recv().unwrap_or(Outcome::TimedOut);
        third.close();
        Ok(outcome.into())
    }
}

/// A third party that asks these controllers, best first.
pub(super) fn third_party(places: Vec<Place>) -> Result<ThirdParty, Failure> {
    let names = places.iter().map(|place| place.controller.clone()).collect();
    let config = ThirdPartyConfig {
        routes: Routes::new(places, Vec::new(), names).map_err(Failure::usage)?,
        router: RouterConfig::default(),
        socket: socket_config(),
        sockets: HashMap::new(),
    };
    ThirdParty::start(config)
        .map_err(|error| Failure::new(format!("the third party cannot start: {error}")))
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
