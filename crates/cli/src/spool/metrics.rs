//! The figures of a front.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use eversock_spool::config::{FrontFile, Running};

use super::stat::{self, Pair};
use crate::service::scrape::{self, escaped};

/// What a pair can be at.
const STATES: [&str; 6] = ["normal", "suspect", "diverting", "promoting", "draining", "planned"];

/// Answers on threads of its own, for as long as the process lives. Gives where it listens.
pub(super) fn serve(
    listen: SocketAddr,
    file: FrontFile,
    running: &Arc<Running>,
) -> io::Result<SocketAddr> {
    let running = Arc::downgrade(running);
    let figures = move || Some(text(&stat::live(&file, running.upgrade()?.gate())));
    scrape::serve(listen, "spool", figures)
}

/// A family of figures: name, kind, help, and what of each pair it is.
type Family = (&'static str, &'static str, &'static str, fn(&Pair) -> Vec<(String, f64)>);

/// Without labels besides the pair.
fn plain(value: f64) -> Vec<(String, f64)> {
    vec![(String::new(), value)]
}

fn flag(value: bool) -> Vec<(String, f64)> {
    plain(f64::from(u8::from(value)))
}

/// Of a pair of which nothing is known there is no figure, which is what an alarm looks for.
fn live(pair: &Pair, value: impl Fn(&stat::Live) -> f64) -> Vec<(String, f64)> {
    pair.live.as_ref().map(|live| plain(value(live))).unwrap_or_default()
}

/// As [`live`] for what lies in the spool.
fn spool(pair: &Pair, value: impl Fn(&stat::Spooled) -> f64) -> Vec<(String, f64)> {
    if pair.spool.error.is_some() { Vec::new() } else { plain(value(&pair.spool)) }
}

const FAMILIES: &[Family] = &[
    ("spool_up", "gauge", "Whether the thread of the pair answers.", |pair| {
        flag(pair.live.is_some())
    }),
    ("spool_readable", "gauge", "Whether the spool of the pair can be read.", |pair| {
        flag(pair.spool.error.is_none())
    }),
    ("spool_depth", "gauge", "Records that wait in the spool.", |pair| {
        spool(pair, |spool| spool.pending as f64)
    }),
    ("spool_bytes", "gauge", "Bytes of the records that wait in the spool.", |pair| {
        spool(pair, |spool| spool.bytes as f64)
    }),
    ("spool_oldest_age_seconds", "gauge", "Age of the oldest record that waits.", |pair| {
        spool(pair, |spool| spool.oldest_age_ms as f64 / 1e3)
    }),
    ("spool_held", "gauge", "Records that wait for an operator.", |pair| {
        spool(pair, |spool| spool.held as f64)
    }),
    ("spool_in_doubt", "gauge", "Records that were sent, and nobody knows.", |pair| {
        spool(pair, |spool| spool.in_doubt as f64)
    }),
    ("spool_quarantined", "gauge", "Records set aside: damaged, or refused for good.", |pair| {
        spool(pair, |spool| spool.quarantined as f64)
    }),
    ("spool_state", "gauge", "1 for the state that the pair is in.", |pair| {
        let is_live = pair.live.is_some();
        let one = |state: &&str| {
            let value = f64::from(u8::from(is_live && pair.state == **state));
            (format!(",state=\"{state}\""), value)
        };
        STATES.iter().map(one).collect()
    }),
    ("spool_epoch", "gauge", "The highest lock key that was granted.", |pair| {
        live(pair, |live| live.epoch as f64)
    }),
    ("spool_holder", "gauge", "1 for the server that holds the lock, or held it last.", |pair| {
        of_servers(pair, |live, side| live.holder == side)
    }),
    ("spool_ready", "gauge", "Whether a server says that it could work.", |pair| {
        of_servers(pair, |live, side| live.ready.get(side).copied().unwrap_or(false))
    }),
    ("spool_on_hold", "gauge", "Whether an operator has stopped drains.", |pair| {
        live(pair, |live| f64::from(u8::from(live.on_hold)))
    }),
    ("spool_split", "gauge", "Whether another front has granted a lock of the pair.", |pair| {
        live(pair, |live| f64::from(u8::from(live.split.is_some())))
    }),
    ("spool_full", "gauge", "Whether the spool takes no more.", |pair| {
        live(pair, |live| f64::from(u8::from(live.spool_full)))
    }),
    ("spool_stuck", "gauge", "Whether keys wait for an operator.", |pair| {
        live(pair, |live| f64::from(u8::from(live.stuck)))
    }),
    ("spool_in_flight", "gauge", "Requests under way.", |pair| {
        live(pair, |live| live.in_flight as f64)
    }),
    ("spool_waiting", "gauge", "Requests that wait for a server.", |pair| {
        live(pair, |live| live.waiting as f64)
    }),
    ("spool_requests_total", "counter", "Requests, by what their senders were told.", |pair| {
        let Some(live) = &pair.live else { return Vec::new() };
        let counters = &live.counters;
        let outcomes = [
            ("applied", counters.applied),
            ("spooled", counters.spooled),
            ("overlaid", counters.overlaid),
            ("stale", counters.stale),
            ("in-doubt", counters.in_doubt),
            ("rejected", counters.rejected),
        ];
        outcomes.map(|(what, n)| (format!(",outcome=\"{what}\""), n as f64)).to_vec()
    }),
    ("spool_received_total", "counter", "Requests that came in.", |pair| {
        live(pair, |live| live.counters.requests as f64)
    }),
    ("spool_drained_total", "counter", "Records given to the main.", |pair| {
        live(pair, |live| live.counters.drained as f64)
    }),
    ("spool_drained_again_total", "counter", "Of them: it had done them before.", |pair| {
        live(pair, |live| live.counters.drained_again as f64)
    }),
    ("spool_refused_total", "counter", "Records that the main refuses for good.", |pair| {
        live(pair, |live| live.counters.refused as f64)
    }),
    ("spool_damaged_total", "counter", "Records found damaged.", |pair| {
        live(pair, |live| live.counters.damaged as f64)
    }),
    ("spool_call_errors_total", "counter", "Calls to servers that failed.", |pair| {
        live(pair, |live| live.counters.call_errors as f64)
    }),
    ("spool_suspected_total", "counter", "Times that the main was suspected.", |pair| {
        live(pair, |live| live.counters.suspected as f64)
    }),
    ("spool_switches_total", "counter", "Times that the other server took over.", |pair| {
        live(pair, |live| live.counters.switched as f64)
    }),
    ("spool_last_gap_seconds", "gauge", "How long there was no main the last time.", |pair| {
        live(pair, |live| live.counters.last_gap_us as f64 / 1e6)
    }),
    ("spool_last_diversion_seconds", "gauge", "How long the last diversion took.", |pair| {
        live(pair, |live| live.counters.last_diversion_us as f64 / 1e6)
    }),
    ("spool_commits_total", "counter", "Transactions of the spool.", |pair| {
        live(pair, |live| live.commits.commits as f64)
    }),
    ("spool_commit_records_total", "counter", "Records appended by them.", |pair| {
        live(pair, |live| live.commits.records as f64)
    }),
    ("spool_commit_failures_total", "counter", "Transactions that failed.", |pair| {
        live(pair, |live| live.commits.failed as f64)
    }),
];

fn of_servers(pair: &Pair, is: impl Fn(&stat::Live, usize) -> bool) -> Vec<(String, f64)> {
    let Some(live) = &pair.live else { return Vec::new() };
    let of = |(side, name): (usize, &String)| {
        (format!(",server=\"{}\"", escaped(name)), f64::from(u8::from(is(live, side))))
    };
    pair.servers.iter().enumerate().map(of).collect()
}

/// All figures.
fn text(pairs: &[Pair]) -> String {
    let mut out = String::new();
    for (name, kind, help, figures) in FAMILIES {
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for pair in pairs {
            let label = escaped(&pair.pair);
            for (labels, value) in figures(pair) {
                let _ = writeln!(out, "{name}{{pair=\"{label}\"{labels}}} {value}");
            }
        }
    }
    let name = "spool_commit_seconds";
    let _ = writeln!(out, "# HELP {name} How long transactions of the spool took.");
    let _ = writeln!(out, "# TYPE {name} histogram");
    for pair in pairs {
        let Some(live) = &pair.live else { continue };
        let label = escaped(&pair.pair);
        let mut sum = 0;
        for (edge, count) in &live.commits.latency {
            sum += count;
            let edge = edge.map_or_else(|| "+Inf".to_owned(), |us| (us as f64 / 1e6).to_string());
            let _ = writeln!(out, "{name}_bucket{{pair=\"{label}\",le=\"{edge}\"}} {sum}");
        }
        let seconds = live.commits.latency_sum_us as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum{{pair=\"{label}\"}} {seconds}");
        let _ = writeln!(out, "{name}_count{{pair=\"{label}\"}} {sum}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> Pair {
        let live = stat::Live {
            epoch: 7,
            holder: 1,
            commits: stat::Commits {
                latency: vec![(Some(100), 2), (Some(200), 0), (None, 1)],
                latency_sum_us: 1_500_000,
                ..stat::Commits::default()
            },
            ..stat::Live::default()
        };
        Pair {
            pair: name.to_owned(),
            servers: vec!["a\"b".to_owned(), "c\\d".to_owned()],
            state: "draining".to_owned(),
            live: Some(live),
            spool: stat::Spooled { pending: 3, oldest_age_ms: 2500, ..stat::Spooled::default() },
        }
    }

    #[test]
    fn each_family_has_help_and_type_and_its_figures_together() {
        let stopped = Pair { pair: "stopped".to_owned(), ..Pair::default() };
        let text = text(&[pair("mail"), stopped]);
        for line in [
            "# TYPE spool_depth gauge",
            "spool_depth{pair=\"mail\"} 3",
            "spool_oldest_age_seconds{pair=\"mail\"} 2.5",
            "spool_state{pair=\"mail\",state=\"draining\"} 1",
            "spool_state{pair=\"mail\",state=\"normal\"} 0",
            "spool_holder{pair=\"mail\",server=\"a\\\"b\"} 0",
            "spool_holder{pair=\"mail\",server=\"c\\\\d\"} 1",
            "spool_up{pair=\"stopped\"} 0",
            "spool_epoch{pair=\"mail\"} 7",
            "spool_commit_seconds_bucket{pair=\"mail\",le=\"0.0001\"} 2",
            "spool_commit_seconds_bucket{pair=\"mail\",le=\"+Inf\"} 3",
            "spool_commit_seconds_sum{pair=\"mail\"} 1.5",
            "spool_commit_seconds_count{pair=\"mail\"} 3",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
        }
        // A figure stands below its own family's lines, and each family once.
        let mut family = String::new();
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split(' ').next().unwrap().to_owned();
                assert!(seen.insert(family.clone()), "{family} twice");
            } else if !line.starts_with('#') {
                let name = line.split('{').next().unwrap();
                assert!(name.starts_with(&family), "{line} below {family}");
            }
        }
    }
}
