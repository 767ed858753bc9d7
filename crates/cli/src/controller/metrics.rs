//! The figures of a controller.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use eversock_controller::node::Node;
use eversock_controller::report::{PartitionReport, PartnerReport, Report};

use crate::service::scrape::{self, escaped};

/// What an exchange can be at.
const SYNC_STATES: [&str; 6] = ["queueing", "overflowed", "bulk", "catch-up", "in-sync", "paused"];

/// Answers on threads of its own, for as long as the process lives. Gives where it listens.
pub(super) fn serve(listen: SocketAddr, node: &Arc<Node>) -> io::Result<SocketAddr> {
    let node = Arc::downgrade(node);
    let figures = move || Some(text(&Report::from(node.upgrade()?.status())));
    scrape::serve(listen, "controller", figures)
}

/// A family of figures: name, kind, help, and each figure with its labels.
type Family = (&'static str, &'static str, &'static str, fn(&Report) -> Vec<(String, f64)>);

fn plain(value: f64) -> Vec<(String, f64)> {
    vec![(String::new(), value)]
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn partitions(report: &Report, value: impl Fn(&PartitionReport) -> f64) -> Vec<(String, f64)> {
    let of = |one: &PartitionReport| (partition(one), value(one));
    report.partitions.iter().map(of).collect()
}

fn partition(one: &PartitionReport) -> String {
    format!("partition=\"{}\"", escaped(&one.name))
}

fn partners(report: &Report, value: impl Fn(&PartnerReport) -> f64) -> Vec<(String, f64)> {
    let of = |one: &PartnerReport| (format!("partner=\"{}\"", escaped(&one.partner)), value(one));
    report.partners.iter().map(of).collect()
}

/// Of each exchange of a partition with a partner.
fn exchanges(
    report: &Report,
    value: impl Fn(&eversock_controller::report::SyncReport) -> f64,
) -> Vec<(String, f64)> {
    let mut all = Vec::new();
    for one in &report.partitions {
        for sync in &one.sync {
            let partner = escaped(&sync.partner);
            all.push((format!("{},partner=\"{partner}\"", partition(one)), value(sync)));
        }
    }
    all
}

const FAMILIES: &[Family] = &[
    ("controller_up_seconds", "gauge", "How long the process runs.", |all| {
        plain(all.up_ms as f64 / 1e3)
    }),
    ("controller_maintenance", "gauge", "Whether an operator has set it to maintenance.", |all| {
        plain(flag(all.maintenance))
    }),
    ("controller_parameters", "gauge", "The generation of the parameters in use.", |all| {
        plain(all.generation as f64)
    }),
    ("controller_parameters_refused", "gauge", "Whether newer ones are refused.", |all| {
        plain(flag(!all.generation_refused.is_empty()))
    }),
    ("controller_connections", "gauge", "Connections of devices and third parties.", |all| {
        plain(all.connections as f64)
    }),
    ("controller_partition_up", "gauge", "Whether the partition works.", |all| {
        partitions(all, |one| flag(one.error.is_empty()))
    }),
    ("controller_records", "gauge", "Records in the table of a partition.", |all| {
        partitions(all, |one| one.records as f64)
    }),
    ("controller_bytes", "gauge", "Their bytes.", |all| partitions(all, |one| one.bytes as f64)),
    ("controller_owned", "gauge", "Devices whose newest registration is here.", |all| {
        partitions(all, |one| one.owned as f64)
    }),
    ("controller_connected", "gauge", "Of them: with a connection that stands.", |all| {
        partitions(all, |one| one.connected as f64)
    }),
    ("controller_queued", "gauge", "Inputs that wait for a partition.", |all| {
        partitions(all, |one| one.queued as f64)
    }),
    ("controller_requests", "gauge", "Requests under way.", |all| {
        partitions(all, |one| one.requests as f64)
    }),
    ("controller_hand_overs", "gauge", "Hand-overs under way.", |all| {
        partitions(all, |one| one.hand_overs as f64)
    }),
    ("controller_registrations_total", "counter", "Registrations.", |all| {
        partitions(all, |one| one.registrations as f64)
    }),
    (
        "controller_registration_p99_seconds",
        "gauge",
        "Until a registration was on disk, the 99th of 100, of the last 10 s.",
        |all| partitions(all, |one| one.registration_p99_us as f64 / 1e6),
    ),
    ("controller_lag", "gauge", "Changes that a partner has not confirmed.", |all| {
        exchanges(all, |sync| sync.lag as f64)
    }),
    ("controller_lag_seconds", "gauge", "How long the oldest of them has waited.", |all| {
        exchanges(all, |sync| sync.lag_ms as f64 / 1e3)
    }),
    ("controller_sync_state", "gauge", "1 for the state that an exchange is in.", |all| {
        let mut figures = Vec::new();
        for state in SYNC_STATES {
            let each = exchanges(all, |sync| flag(sync.state == state));
            let labelled =
                each.into_iter().map(|(at, value)| (format!("{at},state=\"{state}\""), value));
            figures.extend(labelled);
        }
        figures
    }),
    ("controller_link_up", "gauge", "Whether the link to a partner stands.", |all| {
        partners(all, |one| flag(one.state == "up"))
    }),
    ("controller_link_cut", "gauge", "Whether it is cut, and being resumed.", |all| {
        partners(all, |one| flag(one.is_cut))
    }),
    ("controller_link_round_trip_seconds", "gauge", "The last round trip of a ping.", |all| {
        let known: Vec<PartnerReport> =
            all.partners.iter().filter(|one| one.round_trip_us.is_some()).cloned().collect();
        let known = Report { partners: known, ..Report::default() };
        partners(&known, |one| one.round_trip_us.unwrap_or(0) as f64 / 1e6)
    }),
    ("controller_link_queued_bytes", "gauge", "Bytes that wait to be written to it.", |all| {
        partners(all, |one| one.queued_bytes as f64)
    }),
    ("controller_clock_ahead_seconds", "gauge", "How far a partner's clock is ahead.", |all| {
        partners(all, |one| one.clock_ahead_ms as f64 / 1e3)
    }),
    ("controller_requests_total", "counter", "Requests, by what was done with them.", |all| {
        let counts = &all.counts;
        let kinds = [
            ("served", counts.requests_served),
            ("forwarded", counts.requests_forwarded),
            ("not-here", counts.requests_not_here),
        ];
        kinds.map(|(kind, n)| (format!("done=\"{kind}\""), n as f64)).to_vec()
    }),
    ("controller_retries_total", "counter", "Registrations told to come later.", |all| {
        plain(all.counts.retries as f64)
    }),
    ("controller_refused_total", "counter", "Registrations refused.", |all| {
        plain(all.counts.refused as f64)
    }),
    ("controller_take_overs_total", "counter", "Devices taken over from others.", |all| {
        plain(all.counts.take_overs as f64)
    }),
    ("controller_handed_over_total", "counter", "Devices handed over.", |all| {
        plain(all.counts.handed_over as f64)
    }),
    ("controller_hand_overs_failed_total", "counter", "Hand-overs that failed.", |all| {
        plain(all.counts.hand_overs_failed as f64)
    }),
    ("controller_updates_total", "counter", "Changes told, by direction.", |all| {
        let counts = &all.counts;
        let ways = [("sent", counts.updates_sent), ("received", counts.updates_received)];
        ways.map(|(way, n)| (format!("way=\"{way}\""), n as f64)).to_vec()
    }),
    ("controller_snapshots_total", "counter", "Whole snapshots, by direction.", |all| {
        let counts = &all.counts;
        let ways = [("sent", counts.snapshots_sent), ("received", counts.snapshots_received)];
        ways.map(|(way, n)| (format!("way=\"{way}\""), n as f64)).to_vec()
    }),
    ("controller_clashes_total", "counter", "Counters that two owners had.", |all| {
        plain(all.counts.clashes as f64)
    }),
];

/// All figures.
fn text(report: &Report) -> String {
    let mut out = String::new();
    let name = escaped(&report.controller);
    for (family, kind, help, figures) in FAMILIES {
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {family} {help}\n# TYPE {family} {kind}");
        for (labels, value) in figures(report) {
            let more = if labels.is_empty() { "" } else { "," };
            let _ = writeln!(out, "{family}{{controller=\"{name}\"{more}{labels}}} {value}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use eversock_controller::report::{CountsReport, SyncReport};

    use super::*;

    #[test]
    fn each_family_has_help_and_type_and_its_figures_together() {
        let sync = SyncReport {
            partner: "s\"th".to_owned(),
            state: "in-sync".to_owned(),
            lag: 3,
            ..SyncReport::default()
        };
        let report = Report {
            controller: "north".to_owned(),
            partitions: vec![PartitionReport {
                name: "north".to_owned(),
                owned: 5,
                sync: vec![sync],
                ..PartitionReport::default()
            }],
            partners: vec![PartnerReport {
                partner: "south".to_owned(),
                state: "up".to_owned(),
                ..PartnerReport::default()
            }],
            counts: CountsReport { take_overs: 2, ..CountsReport::default() },
            ..Report::default()
        };
        let text = text(&report);
        for line in [
            "# TYPE controller_owned gauge",
            "controller_owned{controller=\"north\",partition=\"north\"} 5",
            "controller_link_up{controller=\"north\",partner=\"south\"} 1",
            "controller_take_overs_total{controller=\"north\"} 2",
            "controller_lag{controller=\"north\",partition=\"north\",partner=\"s\\\"th\"} 3",
            "controller_sync_state{controller=\"north\",partition=\"north\",partner=\"s\\\"th\",\
             state=\"in-sync\"} 1",
            "controller_sync_state{controller=\"north\",partition=\"north\",partner=\"s\\\"th\",\
             state=\"bulk\"} 0",
            "controller_updates_total{controller=\"north\",way=\"sent\"} 0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
        }
        // Nothing is known of the round trip, so nothing is said of it.
        assert!(!text.contains("controller_link_round_trip_seconds{"), "{text}");
        let mut seen = std::collections::BTreeSet::new();
        let mut family = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split(' ').next().unwrap_or("");
                assert!(seen.insert(family), "{family} twice");
            } else if !line.starts_with('#') {
                assert_eq!(line.split('{').next(), Some(family), "{line}");
            }
        }
    }
}
