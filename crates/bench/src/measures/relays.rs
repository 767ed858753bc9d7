//! Two plain programs with relays between them: our gateways, and what people use for such today.

use std::io;

use super::streams::one_way_rate;
use super::trips::timed;
use crate::Bench;
use crate::lane::{Lane, labels, take_turns};
use crate::pair::Pair;
use crate::relay::{self, Make};
use crate::report::{Figure, Goal, Group, Report};
use crate::socket::Kind;

const GATEWAYS: &str = "gateway-pair";
const SOCATS: &str = "socat-pair";

/// A lane without a relay, then one for each kind of relay that this machine has. What it has not
/// is said once, with the reason.
fn lanes(bench: &Bench<'_>, report: Option<&mut Report>) -> io::Result<Vec<Lane>> {
    let makes: [(&'static str, Make<'_>); 5] = [
        (
            GATEWAYS,
            Box::new(|server| {
                let evs = (bench.host.evs)().map_err(io::Error::other)?;
                relay::gateways(&evs, server)
            }),
        ),
        // As it is by default, 8 KiB at a time, and with more.
        (SOCATS, Box::new(|server| relay::socats(&[], server))),
        ("socat-pair-64KiB", Box::new(|server| relay::socats(&["-b", "65536"], server))),
        ("stunnel-pair", Box::new(relay::stunnels)),
        ("ssh-L", Box::new(relay::ssh)),
    ];
    let mut lanes = vec![Lane::new(Kind::Plain.name(), Pair::start(bench, Kind::Plain)?)];
    let mut missing = Vec::new();
    // No relay, but what the kernel itself has for connections that are to outlive a path.
    match Pair::start(bench, Kind::Mptcp) {
        Ok(pair) => lanes.push(Lane::new(Kind::Mptcp.name(), pair)),
        Err(error) => missing.push((Kind::Mptcp.name(), error)),
    }
    for (label, make) in makes {
        let mut relay = None;
        let pair = Pair::start_through(bench, Kind::Plain, |server| {
            let (made, addr) = make(server)?;
            relay = Some(made);
            Ok(addr)
        });
        match pair {
            Ok(pair) => lanes.push(Lane::through(label, pair, relay)),
            Err(error) => missing.push((label, error)),
        }
    }
    if let Some(report) = report {
        for (label, error) in missing {
            report.skipped(&format!("relay {label}"), &error.to_string());
        }
    }
    Ok(lanes)
}

/// 64 KiB writes one way. The gateways' goal is against the socats.
pub(crate) fn stream(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const BYTES: usize = 64 << 10;
    let total: usize = bench.amount(512 << 20, 16 << 20);
    let name = "relay-stream-64KiB";
    let lanes = lanes(bench, Some(report))?;
    let labels = labels(&lanes);
    let mut rates = Group::new(&labels, name, "MiB/s");
    take_turns(bench, report, name, lanes, |_, at, pair| {
        rates.add(at, one_way_rate(pair, total / BYTES, BYTES)?);
        Ok(())
    });
    report.group(&rates)?;
    let median_of = |label| {
        let at = labels.iter().position(|own| *own == label)?;
        rates.median(at)
    };
    if let (Some(ours), Some(socats)) = (median_of(GATEWAYS), median_of(SOCATS)) {
        let figure = Figure::new(format!("{name} {GATEWAYS}/{SOCATS}"), "MiB/s");
        let mut figure = figure.goal(Goal::RatioAtLeast(1.5));
        figure.add(ours);
        report.row(&figure, Some((SOCATS, socats)))?;
    }
    Ok(())
}

/// 64 bytes there and back.
pub(crate) fn round_trip(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    if !report.skipped.iter().any(|line| line.starts_with("relay ")) {
        // Without the streams before it, this says what is missing.
        drop(lanes(bench, Some(report))?);
    }
    timed(bench, report, "relay-round-trip-64B", 64, None, || lanes(bench, None))
}
