//! What is said on the control socket of a controller.

use std::time::Duration;

use eversock_controller::config::ControllerFile;
use eversock_controller::report::{DeviceReport, OutcomeReport, Report};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::service::asked;

/// Bytes of a request: parameters have up to 60 KiB, which JSON may make longer.
pub(super) const REQUEST_MAX: u64 = 512 << 10;
/// Rows of one answer.
pub(super) const ROWS_MAX: usize = 1000;
/// Devices of one order.
pub(super) const DEVICES_MAX: usize = 1000;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Request {
    /// How everything is: [`Report`].
    Status,
    /// What came of hand-overs: [`Batch`]es, the last of each partition.
    HandOvers,
    /// Devices of a partition behind one: [`DeviceReport`]s.
    Devices { partition: String, after: Option<String>, limit: usize },
    /// One device, if it is known: an `Option` of [`DeviceReport`].
    Find { device: String },
    /// Do something: a sentence. Of all partitions, if none is named.
    Do { partition: Option<String>, order: Order },
    /// The shared parameters: [`Shared`].
    Parameters,
    /// Newer ones: their generation.
    SetParameters { text: String },
    /// Something of a device: [`OutcomeReport`].
    Ask { device: String, payload: String, deadline_ms: u64 },
}

/// What a controller is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    Move { devices: Vec<String>, target: String },
    FailBack,
    StopHandOver,
    Pause { partner: Option<String>, paused: bool },
    Maintenance(bool),
    Resync(String),
}

/// The last batch of hand-overs of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Batch {
    /// Of which partition.
    pub(super) partition: String,
    /// How many have ended since the start.
    pub(super) number: u64,
    /// To whom.
    pub(super) target: String,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    /// Why it ended early; empty if it did not.
    pub(super) stopped: String,
}

/// The shared parameters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Shared {
    pub(super) generation: u64,
    pub(super) text: String,
}

/// A controller that runs.
#[derive(Debug)]
pub(super) struct Asked<'a>(asked::Asked<'a>);

impl<'a> Asked<'a> {
    /// The controller of this file, which has to run.
    pub(super) fn of(file: &'a ControllerFile) -> Result<Self, Failure> {
        match asked::Asked::find(&file.control, "the controller")? {
            Some(asked) => Ok(Self(asked)),
            None => Err(Failure::new(format!(
                "{}: no controller runs (looked at {}); start it with `evs controller run`",
                file.name,
                file.control.display()
            ))),
        }
    }

    pub(super) fn status(&self) -> Result<Report, Failure> {
        self.0.ask(&Request::Status)
    }

    pub(super) fn hand_overs(&self) -> Result<Vec<Batch>, Failure> {
        self.0.ask(&Request::HandOvers)
    }

    pub(super) fn devices(
        &self,
        partition: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeviceReport>, Failure> {
        let (partition, after) = (partition.to_owned(), after.map(str::to_owned));
        self.0.ask(&Request::Devices { partition, after, limit: limit.min(ROWS_MAX) })
    }

    pub(super) fn find(&self, device: &str) -> Result<Option<DeviceReport>, Failure> {
        self.0.ask(&Request::Find { device: device.to_owned() })
    }

    pub(super) fn order(&self, partition: Option<&str>, order: Order) -> Result<String, Failure> {
        self.0.ask(&Request::Do { partition: partition.map(str::to_owned), order })
    }

    pub(super) fn parameters(&self) -> Result<Shared, Failure> {
        self.0.ask(&Request::Parameters)
    }

    pub(super) fn set_parameters(&self, text: &str) -> Result<u64, Failure> {
        self.0.ask(&Request::SetParameters { text: text.to_owned() })
    }

    /// Waits as long as the deadline is, and a little longer.
    pub(super) fn request(
        self,
        device: &str,
        payload: &str,
        deadline: Duration,
    ) -> Result<OutcomeReport, Failure> {
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let (device, payload) = (device.to_owned(), payload.to_owned());
        let asked = self.0.patient(deadline + Duration::from_secs(10));
        asked.ask(&Request::Ask { device, payload, deadline_ms })
    }
}
