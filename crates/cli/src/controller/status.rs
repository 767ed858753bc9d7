//! `evs controller status`: partners, partitions, and how far they are behind.

use std::thread;
use std::time::Duration;

use clap::Args;
use eversock_controller::report::{PartitionReport, PartnerReport, Report};

use super::Which;
use super::ask::Asked;
use crate::failure::Failure;
use crate::output;
use crate::units::{self, show_millis, show_size};

/// Show a controller: its partners and their links, its partitions, who has how many devices, and
/// what partners have not heard yet.
///
/// Exit status 1 if a partition does not work or parameters are refused. A partner that cannot be
/// reached is no fault of this controller.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    which: Which,
    /// Again and again, until it is interrupted.
    #[arg(long)]
    watch: bool,
    /// With --watch: how often.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "1s")]
    interval: Duration,
}

const INTERVAL_MIN: Duration = Duration::from_millis(50);

impl Status {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        loop {
            let report = Asked::of(&file)?.status()?;
            if self.which.json {
                output::json_line(&report)?;
            } else {
                output::text(&text(&report))?;
                remarks(&report).iter().for_each(|remark| eprintln!("evs: {remark}"));
            }
            if !self.watch {
                return Ok(is_well(&report));
            }
            if !self.which.json {
                output::text("\n")?;
            }
            thread::sleep(self.interval.max(INTERVAL_MIN));
        }
    }
}

fn is_well(report: &Report) -> bool {
    report.failure.is_empty()
        && report.generation_refused.is_empty()
        && report.partitions.iter().all(|partition| partition.error.is_empty())
}

/// What stands above the tables.
pub(super) fn summary(report: &Report) -> String {
    let mode = if report.maintenance { ", in maintenance" } else { "" };
    format!(
        "{}{mode}: up {}, {} connections, parameters {}",
        report.controller,
        show_millis(report.up_ms),
        report.connections,
        report.generation,
    )
}

fn text(report: &Report) -> String {
    let mut text = format!("{}\n\n", summary(report));
    if !report.failure.is_empty() {
        text.push_str(&format!("NO CONNECTIONS, start it anew: {}\n\n", report.failure));
    }
    let mut rows = vec![PARTNER.map(str::to_owned).to_vec()];
    rows.extend(report.partners.iter().map(partner_row));
    text.push_str(&output::table(&rows));
    text.push('\n');
    let mut rows = vec![PARTITION.map(str::to_owned).to_vec()];
    rows.extend(report.partitions.iter().map(partition_row));
    text.push_str(&output::table(&rows));
    text
}

pub(super) const PARTNER: [&str; 7] =
    ["PARTNER", "LINK", "FOR", "ROUND TRIP", "QUEUED", "PARAMETERS", "NOTE"];

pub(super) fn partner_row(partner: &PartnerReport) -> Vec<String> {
    let mut notes = Vec::new();
    if partner.is_cut {
        notes.push("cut, being resumed".to_owned());
    }
    if partner.maintenance {
        notes.push("in maintenance".to_owned());
    }
    let others = [&partner.error, &partner.generation_refused];
    notes.extend(others.into_iter().filter(|text| !text.is_empty()).cloned());
    let round_trip = partner
        .round_trip_us
        .map_or_else(|| "-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1e3));
    vec![
        partner.partner.clone(),
        partner.state.clone(),
        show_millis(partner.since_ms),
        round_trip,
        show_size(partner.queued_bytes),
        partner.generation.to_string(),
        notes.join("; "),
    ]
}

pub(super) const PARTITION: [&str; 8] =
    ["PARTITION", "RECORDS", "BYTES", "OWNED", "CONNECTED", "REQUESTS", "HAND-OVERS", "SYNC"];

pub(super) fn partition_row(partition: &PartitionReport) -> Vec<String> {
    let sync = |one: &eversock_controller::report::SyncReport| {
        let mut text = format!("{} {}", one.partner, one.state);
        if let Some((done, all)) = one.chunks {
            text.push_str(&format!(" {done}/{all}"));
        }
        if one.lag > 0 {
            text.push_str(&format!(" -{} ({})", one.lag, show_millis(one.lag_ms)));
        }
        text
    };
    let sync: Vec<String> = partition.sync.iter().map(sync).collect();
    let sync = if partition.error.is_empty() { sync.join(", ") } else { partition.error.clone() };
    vec![
        partition.name.clone(),
        partition.records.to_string(),
        show_size(partition.bytes),
        partition.owned.to_string(),
        partition.connected.to_string(),
        partition.requests.to_string(),
        partition.hand_overs.to_string(),
        sync,
    ]
}

/// What an operator should know besides, with what can be done about it.
fn remarks(report: &Report) -> Vec<String> {
    let mut all = Vec::new();
    if !report.generation_refused.is_empty() {
        let why = &report.generation_refused;
        all.push(format!(
            "newer parameters are not used here: {why}; `evs controller config diff`"
        ));
    }
    for partition in &report.partitions {
        if !partition.error.is_empty() {
            all.push(format!("partition {} does not work: {}", partition.name, partition.error));
        }
    }
    for partner in &report.partners {
        if partner.clock_ahead_ms.unsigned_abs() > 30_000 {
            let ms = partner.clock_ahead_ms;
            all.push(format!("the clock of {} is {ms} ms ahead: logs differ", partner.partner));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use eversock_controller::report::SyncReport;

    use super::*;

    #[test]
    fn a_table_shows_links_owners_and_lag() {
        let sync = SyncReport {
            partner: "south".to_owned(),
            state: "bulk".to_owned(),
            lag: 7,
            lag_ms: 250,
            chunks: Some((2, 5)),
        };
        let report = Report {
            controller: "north".to_owned(),
            maintenance: true,
            partners: vec![PartnerReport {
                partner: "south".to_owned(),
                state: "up".to_owned(),
                round_trip_us: Some(1500),
                is_cut: true,
                ..PartnerReport::default()
            }],
            partitions: vec![PartitionReport {
                name: "north".to_owned(),
                owned: 42,
                sync: vec![sync],
                ..PartitionReport::default()
            }],
            ..Report::default()
        };
        let text = text(&report);
        for part in [
            "north, in maintenance: up",
            "1.5 ms",
            "cut, being resumed",
            "south bulk 2/5 -7 (250 ms)",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(is_well(&report));
        let partition =
            PartitionReport { error: "no disk".to_owned(), ..PartitionReport::default() };
        let sick = Report { partitions: vec![partition], ..Report::default() };
        assert!(!is_well(&sick));
        assert_eq!(remarks(&sick).len(), 1);
    }
}
