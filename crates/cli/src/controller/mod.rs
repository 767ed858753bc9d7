//! `evs controller`: a controller that serves its devices and stands in for its partners, and what
//! its operator does with it.
//!
//! * `run`: the controller; `control`: what it answers on its control socket; `metrics`: its
//!   figures.
//! * `ask`: the other end of the control socket.
//! * `status`, `devices`, `order`, `parameters`, `request`, `top`: what operators do.

mod ask;
mod control;
mod demo;
mod devices;
mod metrics;
mod order;
mod parameters;
mod progress;
mod request;
mod run;
mod status;
mod top;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use eversock_controller::config::{ConfigError, ControllerFile, DeviceFile};

use crate::failure::Failure;
use crate::output;

/// A controller that serves its devices and stands in for its partners.
///
/// `run` serves what a file says (see examples/controller.toml); all else asks a controller that
/// runs.
#[derive(Debug, Args)]
pub(crate) struct Controller {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Run(run::Run),
    Check(Check),
    Status(status::Status),
    Devices(devices::Devices),
    Move(order::Move),
    Failback(order::FailBack),
    Pause(order::Pause),
    Resume(order::Resume),
    Maintenance(order::Maintenance),
    Resync(order::Resync),
    Config(parameters::Config),
    Request(request::Request),
    Top(top::Top),
    Demo(demo::Demo),
}

/// Which controller is meant.
#[derive(Debug, Args)]
struct Which {
    /// The file of the controller.
    #[arg(long, value_name = "FILE", default_value = "/etc/eversock/controller.toml")]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Check a controller's file, or a device's, and tell all that is wrong with it.
///
/// Exit status 2 if something is.
#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    which: Which,
}

impl Controller {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        match self.what {
            What::Run(command) => command.run(),
            What::Check(command) => command.run(),
            What::Status(command) => command.run(),
            What::Devices(command) => command.run(),
            What::Move(command) => command.run(),
            What::Failback(command) => command.run(),
            What::Pause(command) => command.run(),
            What::Resume(command) => command.run(),
            What::Maintenance(command) => command.run(),
            What::Resync(command) => command.run(),
            What::Config(command) => command.run(),
            What::Request(command) => command.run(),
            What::Top(command) => command.run(),
            What::Demo(command) => command.run(),
        }
    }

    /// Whether it goes on unattended and is to log what happens.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self.what, What::Run(_))
    }
}

impl Which {
    fn file(&self) -> Result<ControllerFile, Failure> {
        ControllerFile::from_file(&self.config).map_err(Failure::usage)
    }
}

impl Check {
    fn run(self) -> Result<bool, Failure> {
        let path = &self.which.config;
        let is_device = std::fs::read_to_string(path)
            .is_ok_and(|text| text.lines().any(|line| line.trim() == "[device]"));
        let checked = if is_device {
            DeviceFile::from_file(path).map(|file| format!("a device, {}", file.name))
        } else {
            ControllerFile::from_file(path).map(|file| {
                let partners: Vec<&str> = file.partners.iter().map(|p| p.name.as_str()).collect();
                format!("the controller {}, with partners: {}", file.name, partners.join(", "))
            })
        };
        match checked {
            Ok(what) if self.which.json => {
                let value = serde_json::json!({ "ok": true, "what": what, "problems": [] });
                output::json_line(&value).map(|()| true)
            }
            Ok(what) => output::text(&format!("{}: {what}\n", path.display())).map(|()| true),
            Err(ConfigError::Wrong { problems, .. }) if self.which.json => {
                let all = problems
                    .iter()
                    .map(|one| serde_json::json!({ "line": one.line, "problem": one.text }));
                let all: Vec<_> = all.collect();
                output::json_line(&serde_json::json!({ "ok": false, "problems": all }))?;
                Err(Failure::silent(2))
            }
            Err(error) => Err(Failure::usage(error)),
        }
    }
}
