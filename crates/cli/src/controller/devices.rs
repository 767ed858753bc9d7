//! `evs controller devices`: who is where.

use clap::Args;
use eversock_controller::node::SHARED;
use eversock_controller::report::DeviceReport;

use super::Which;
use super::ask::{Asked, ROWS_MAX};
use crate::failure::Failure;
use crate::output;

/// List devices: their home, who has them, and whether they are connected here.
///
/// Exit status 1 if a device was named that nobody has heard of.
#[derive(Debug, Args)]
pub(crate) struct Devices {
    #[command(flatten)]
    which: Which,
    /// This device alone.
    #[arg(conflicts_with_all = ["partition", "owner", "standing", "connected", "prefix", "after"])]
    device: Option<String>,
    /// Of this partition.
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// Of this owner.
    #[arg(long, value_name = "CONTROLLER")]
    owner: Option<String>,
    /// Only those that are registered, deregistered or expired.
    #[arg(long, value_name = "STANDING", value_parser = ["registered", "deregistered", "expired"])]
    standing: Option<String>,
    /// Only those that are connected here.
    #[arg(long)]
    connected: bool,
    /// Only those whose names begin so.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Those behind this one; with --partition.
    #[arg(long, value_name = "DEVICE", requires = "partition")]
    after: Option<String>,
    /// So many, at most.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

impl Devices {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        let asked = Asked::of(&file)?;
        let rows = match &self.device {
            Some(device) => {
                let found = asked.find(device)?;
                let Some(found) = found else {
                    return Err(Failure::new(format!("nobody has heard of {device}")));
                };
                vec![found]
            }
            None => self.rows(&asked)?,
        };
        if self.which.json {
            output::json_line(&rows)?;
            return Ok(true);
        }
        let mut shown = vec![HEADINGS.map(str::to_owned).to_vec()];
        shown.extend(rows.iter().map(row));
        output::text(&output::table(&shown))?;
        if rows.len() == self.limit && self.device.is_none() {
            eprintln!("evs: there may be more: --limit, or --partition with --after");
        }
        Ok(true)
    }

    fn rows(&self, asked: &Asked<'_>) -> Result<Vec<DeviceReport>, Failure> {
        let partitions = match &self.partition {
            Some(name) => vec![name.clone()],
            None => {
                let all = asked.status()?.partitions.into_iter().map(|one| one.name);
                all.filter(|name| name != SHARED).collect()
            }
        };
        let mut rows = Vec::new();
        for partition in partitions {
            let mut after = self.after.clone();
            while rows.len() < self.limit {
                let page = asked.devices(&partition, after.as_deref(), ROWS_MAX)?;
                let Some(last) = page.last() else { break };
                after = Some(last.device.clone());
                let is_last = page.len() < ROWS_MAX;
                rows.extend(page.into_iter().filter(|row| self.wants(row)));
                if is_last {
                    break;
                }
            }
        }
        rows.truncate(self.limit);
        Ok(rows)
    }

    fn wants(&self, row: &DeviceReport) -> bool {
        self.owner.as_ref().is_none_or(|owner| *owner == row.owner)
            && self.standing.as_ref().is_none_or(|standing| *standing == row.standing)
            && (!self.connected || row.connected)
            && self.prefix.as_ref().is_none_or(|prefix| row.device.starts_with(prefix))
    }
}

const HEADINGS: [&str; 7] =
    ["DEVICE", "HOME", "OWNER", "STANDING", "COUNTER", "CONNECTED", "PARAMETERS"];

fn row(row: &DeviceReport) -> Vec<String> {
    vec![
        row.device.clone(),
        row.home.clone(),
        row.owner.clone(),
        row.standing.clone(),
        row.seq.to_string(),
        if row.connected { "here" } else { "-" }.to_owned(),
        row.generation.to_string(),
    ]
}
