//! Networks that fall silent, and a client that moves to another address.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use crate::Bench;
use crate::lane::{Lane, labels, take_some_turns};
use crate::net::{CLIENTS, Net, SERVER};
use crate::pair::Pair;
use crate::report::{Goal, Group, Report};
use crate::socket::Kind;
use crate::usage::monotonic_ns;

/// How long bytes flow before something happens, and at least afterwards.
const AROUND: Duration = Duration::from_secs(1);
/// A pause is counted from here on; what is measured is longer.
const PAUSE_MIN_US: u64 = 20_000;
/// Plain TCP's back-off doubles; it comes back within twice the outage and some.
const PATIENCE: Duration = Duration::from_secs(120);

/// A network, or the reason why there is none in the report.
fn net(report: &mut Report, name: &str) -> Option<Net> {
    Net::new().map_err(|error| report.skipped(name, &error.to_string())).ok()
}

fn lanes(bench: &Bench<'_>, net: &Net, kinds: &[Kind]) -> io::Result<Vec<Lane>> {
    let [client, server] = net.ways();
    let role = format!("server@{SERVER}");
    let lane = |&kind: &Kind| {
        let mut pair = Pair::start_as(bench, kind, &role, &server, &client, Ok)?;
        pair.set_patience(PATIENCE);
        Ok(Lane::new(kind.name(), pair))
    };
    kinds.iter().map(lane).collect()
}

/// Bytes flow, then `happen` does something and gives the moment from which the stall counts (ns):
/// how long after it the next byte came, in seconds.
fn stall(
    pair: &mut Pair,
    lasts: Duration,
    happen: impl FnOnce() -> io::Result<u64>,
) -> io::Result<f64> {
    pair.open()?;
    pair.server.tell(&format!("gaps {PAUSE_MIN_US}"))?;
    let flow = (AROUND + lasts + AROUND).as_millis();
    pair.client.tell(&format!("flood {flow} 16384"))?;
    sleep(AROUND);
    let from = happen()?;
    pair.client.answer()?;
    let line = pair.server.answer()?;
    let gaps = line.split_whitespace().filter_map(|gap| {
        let (end, length) = gap.split_once(':')?;
        Some((end.parse::<u64>().ok()?, length.parse::<u64>().ok()?))
    });
    // The pause that lasted at that moment, or came of what was done just after it.
    let slack = 500_000_000;
    gaps.filter(|&(end, length)| end > from && end - length < from + slack)
        .max_by_key(|&(_, length)| length)
        .map(|(end, _)| (end - from) as f64 * 1e-9)
        .ok_or_else(|| io::Error::other("bytes went on as if nothing had happened"))
}

/// A router that drops everything for a while: how long bytes stay away beyond that.
pub(crate) fn silence(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let Some(net) = net(report, "outage") else { return Ok(()) };
    for lasts in bench.amount([3000, 10_000, 30_000], [300, 1000, 3000]) {
        let lasts = Duration::from_millis(lasts);
        let name = format!("outage {} s", lasts.as_secs_f64());
        let lanes = lanes(bench, &net, &[Kind::Plain, Kind::Direct])?;
        let stalls = Group::new(&labels(&lanes), &name, "s");
        let mut stalls = stalls.goal(Kind::Direct.name(), Goal::AtMost(0.5));
        let turns = bench.amount(bench.options.turns(), 1);
        take_some_turns(turns, report, &name, lanes, |_, at, pair| {
            let beyond = stall(pair, lasts, || {
                net.forward(false)?;
                sleep(lasts);
                net.forward(true)?;
                Ok(monotonic_ns())
            })?;
            stalls.add(at, beyond);
            Ok(())
        });
        report.group(&stalls)?;
    }
    Ok(())
}

/// The client's host gets another address while bytes flow. Plain TCP never recovers from this, so
/// that there is nothing to compare with.
pub(crate) fn address_change(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let Some(net) = net(report, "address-change") else { return Ok(()) };
    let name = "address-change";
    let lanes = lanes(bench, &net, &[Kind::Direct])?;
    let stalls = Group::new(&labels(&lanes), name, "s");
    let mut stalls = stalls.goal(Kind::Direct.name(), Goal::AtMost(0.5));
    let mut place = 0;
    take_some_turns(bench.amount(bench.options.turns(), 2), report, name, lanes, |_, at, pair| {
        let (from, to) = (CLIENTS[place], CLIENTS[1 - place]);
        let away = stall(pair, Duration::ZERO, || {
            let before = monotonic_ns();
            net.move_client(from, to)?;
            Ok(before)
        })?;
        place = 1 - place;
        stalls.add(at, away);
        Ok(())
    });
    report.group(&stalls)
}
