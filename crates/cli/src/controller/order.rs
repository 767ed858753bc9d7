//! What an operator tells a controller to do.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::ask::{Asked, Order};
use super::{Which, progress};
use crate::failure::Failure;
use crate::{output, units};

/// How long to wait for what was ordered.
#[derive(Debug, Args)]
pub(super) struct Waiting {
    /// Wait until it has ended, and show how far it is. Exit status 1 if devices stay behind.
    #[arg(long)]
    wait: bool,
    /// With --wait: no longer than this; it goes on all the same.
    #[arg(long, value_name = "TIME", value_parser = units::duration, requires = "wait")]
    timeout: Option<Duration>,
}

/// Hand devices over to another controller, at the pace of their partitions.
///
/// The devices are asked, and stay if they are busy or cannot reach it.
#[derive(Debug, Args)]
pub(crate) struct Move {
    #[command(flatten)]
    which: Which,
    /// Where to.
    target: String,
    /// Which devices.
    #[arg(required_unless_present = "all")]
    devices: Vec<String>,
    /// All that are registered here, or all of --partition.
    #[arg(long, conflicts_with = "devices")]
    all: bool,
    /// With --all: of this partition.
    #[arg(long, value_name = "NAME", requires = "all")]
    partition: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Hand the devices of other controllers that are guests here back to their homes.
#[derive(Debug, Args)]
pub(crate) struct FailBack {
    #[command(flatten)]
    which: Which,
    /// Only those of this partition.
    #[arg(value_name = "PARTITION")]
    partition: Option<String>,
    /// Stop: hand nothing over any more, wherever to.
    #[arg(long, conflicts_with_all = ["wait", "timeout"])]
    stop: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// Exchange no changes with a partner (or with all) until `resume`. Devices are served all the
/// same.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    which: Which,
    /// With whom; all if none is named.
    partner: Option<String>,
}

/// Exchange changes again.
#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    which: Which,
    /// With whom; all if none is named.
    partner: Option<String>,
}

/// Take no registrations, and hand the devices over to where they may go; or end that.
#[derive(Debug, Args)]
pub(crate) struct Maintenance {
    #[command(flatten)]
    which: Which,
    /// Whether.
    #[arg(value_parser = ["on", "off"])]
    mode: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// Exchange everything anew with a partner.
#[derive(Debug, Args)]
pub(crate) struct Resync {
    #[command(flatten)]
    which: Which,
    /// With whom.
    partner: String,
    /// Only this partition's.
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
}

impl Move {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        let asked = Asked::of(&file)?;
        let homes = if self.all { Vec::new() } else { homes(&asked, &self.devices)? };
        let watch = self.waiting.wait.then(|| {
            progress::Watch::begin(&asked, |partition| match &self.partition {
                Some(name) => partition == name,
                None => self.all || homes.iter().any(|home| home == partition),
            })
        });
        let watch = watch.transpose()?;
        let order = Order::Move { devices: self.devices, target: self.target };
        let said = asked.order(self.partition.as_deref(), order)?;
        finish(&self.which, &asked, &said, watch, self.waiting.timeout)
    }
}

fn homes(asked: &Asked<'_>, devices: &[String]) -> Result<Vec<String>, Failure> {
    let mut homes = Vec::new();
    for device in devices {
        let Some(row) = asked.find(device)? else {
            let list = "`evs controller devices` lists all";
            return Err(Failure::new(format!("nobody has heard of {device}; {list}")));
        };
        if !homes.contains(&row.home) {
            homes.push(row.home);
        }
    }
    Ok(homes)
}

impl FailBack {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        let asked = Asked::of(&file)?;
        let partition = self.partition.as_deref();
        if self.stop {
            let said = asked.order(partition, Order::StopHandOver)?;
            return say(&self.which, &said);
        }
        let me = file.name.as_str();
        let is_meant = |name: &str| partition.is_none_or(|only| only == name) && name != me;
        let watch = self.waiting.wait.then(|| progress::Watch::begin(&asked, is_meant));
        let watch = watch.transpose()?;
        let said = asked.order(partition, Order::FailBack)?;
        finish(&self.which, &asked, &said, watch, self.waiting.timeout)
    }
}

impl Pause {
    pub(super) fn run(self) -> Result<bool, Failure> {
        exchange(&self.which, self.partner, true)
    }
}

impl Resume {
    pub(super) fn run(self) -> Result<bool, Failure> {
        exchange(&self.which, self.partner, false)
    }
}

fn exchange(which: &Which, partner: Option<String>, paused: bool) -> Result<bool, Failure> {
    let file = which.file()?;
    if let Some(name) = &partner
        && !file.partners.iter().any(|partner| partner.name.as_str() == name)
    {
        let names: Vec<&str> = file.partners.iter().map(|one| one.name.as_str()).collect();
        let names = names.join(", ");
        return Err(Failure::usage(format!("no partner is called {name}; there is {names}")));
    }
    let said = Asked::of(&file)?.order(None, Order::Pause { partner, paused })?;
    say(which, &said)
}

impl Maintenance {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        let asked = Asked::of(&file)?;
        let is_on = self.mode == "on";
        let watch = (self.waiting.wait && is_on).then(|| progress::Watch::begin(&asked, |_| true));
        let watch = watch.transpose()?;
        let said = asked.order(None, Order::Maintenance(is_on))?;
        finish(&self.which, &asked, &said, watch, self.waiting.timeout)
    }
}

impl Resync {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        let said =
            Asked::of(&file)?.order(self.partition.as_deref(), Order::Resync(self.partner))?;
        say(&self.which, &said)
    }
}

fn say(which: &Which, said: &str) -> Result<bool, Failure> {
    if which.json {
        output::json_line(&json!({ "done": said }))?;
    } else {
        output::text(&format!("{said}\n"))?;
    }
    Ok(true)
}

/// Says what was ordered, or waits for what comes of it.
fn finish(
    which: &Which,
    asked: &Asked<'_>,
    said: &str,
    watch: Option<progress::Watch>,
    timeout: Option<Duration>,
) -> Result<bool, Failure> {
    let Some(watch) = watch else { return say(which, said) };
    let came = watch.wait(asked, timeout)?;
    if which.json {
        output::json_line(&came)?;
    } else {
        output::text(&format!("{came}\n"))?;
    }
    Ok(came.is_well())
}
