//! Requests and responses.

use std::io;

use super::streams::size;
use crate::Bench;
use crate::lane::{Lane, labels, lanes, take_turns};
use crate::report::{Goal, Group, Report};
use crate::socket::Kind;

/// Where the two processes run: `apart`, each on a processor of its own, where the wake-up of the
/// other processor is most of a round trip; and `together`, both on one, where every system call
/// shows. Left to itself the scheduler chooses between the two, and the figure with it.
pub(crate) const PLACES: [(&str, usize, usize); 2] = [("apart", 0, 1), ("together", 0, 0)];

/// So many bytes there and back.
pub(crate) fn round_trip(bench: &Bench<'_>, report: &mut Report, bytes: usize) -> io::Result<()> {
    let goals = (bytes == 64).then_some(("direct", 1.03, Some(1.10)));
    let name = format!("round-trip-{}", size(bytes));
    timed(bench, report, &name, bytes, goals, || lanes(bench, &Kind::USUAL))
}

/// 64 bytes there and back, encrypted.
pub(crate) fn sealed(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let kinds = [Kind::Tls, Kind::Sealed, Kind::Plain];
    timed(bench, report, "sealed-round-trip-64B", 64, None, || lanes(bench, &kinds))
}

/// Round trips over these lanes in both places: median and tails. A goal is for a label: what its
/// p50 and its p99 are to be at most, in terms of the reference.
pub(crate) fn timed(
    bench: &Bench<'_>,
    report: &mut Report,
    name: &str,
    bytes: usize,
    goals: Option<(&str, f64, Option<f64>)>,
    lanes: impl Fn() -> io::Result<Vec<Lane>>,
) -> io::Result<()> {
    let count = bench.amount(20_000, 500);
    for (place, client_cpu, server_cpu) in PLACES {
        let name = format!("{name} {place}");
        let lanes = lanes()?;
        let mut parts = ["p50", "p99", "p99.9"]
            .map(|part| Group::new(&labels(&lanes), &format!("{name} {part}"), "us"));
        if let Some((label, median, tail)) = goals {
            let [medians, tails, rest] = parts;
            let medians = medians.goal(label, Goal::RatioAtMost(median));
            let tails = match tail {
                Some(most) => tails.goal(label, Goal::RatioAtMost(most)),
                None => tails,
            };
            parts = [medians, tails, rest];
        }
        take_turns(bench, report, &name, lanes, |_, at, pair| {
            pair.both(&format!("pin {client_cpu}"), &format!("pin {server_cpu}"))?;
            pair.open()?;
            let (client, _) =
                pair.both(&format!("ping {count} {bytes}"), &format!("echo {bytes}"))?;
            for (part, nanos) in parts.iter_mut().zip(&client) {
                part.add(at, nanos * 1e-3);
            }
            Ok(())
        });
        for part in &parts {
            report.group(part)?;
        }
    }
    Ok(())
}

/// Messages of 64 bytes that are echoed one by one, 32 of them under way.
pub(crate) fn pipeline(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let count = bench.amount(200_000, 5000);
    for (place, client_cpu, server_cpu) in PLACES {
        let name = format!("pipeline-64B {place}");
        let lanes = lanes(bench, &Kind::USUAL)?;
        let mut rates = Group::new(&labels(&lanes), &name, "1/s");
        take_turns(bench, report, &name, lanes, |_, at, pair| {
            pair.both(&format!("pin {client_cpu}"), &format!("pin {server_cpu}"))?;
            pair.open()?;
            let (client, _) = pair.both(&format!("pipeline {count} 64 32"), "echo 64")?;
            rates.add(at, count as f64 / (client[0] * 1e-9));
            Ok(())
        });
        report.group(&rates)?;
    }
    Ok(())
}
