//! What a reset costs: stalls, replay, and ten thousand of them at once.

use std::io;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use eversock_chaos::{Config as ProxyConfig, Direction, Fault, Proxy, Target};

use crate::Bench;
use crate::lane::{Lane, labels, take_turns};
use crate::pair::{End, Pair};
use crate::report::{Figure, Goal, Group, Report, quantile};
use crate::socket::{Kind, ROOMY_BYTES};
use crate::usage::{descriptor_limit, monotonic_ns};

/// A pair with the fault proxy between its ends.
pub(crate) fn cut_pair(
    bench: &Bench<'_>,
    kind: Kind,
    shape: impl FnOnce(ProxyConfig) -> ProxyConfig,
) -> io::Result<(Pair, Proxy)> {
    let mut proxy = None;
    // A shared listener tells clients of the address that it is bound to, and they would come past
    // the proxy; of "all that there are" it tells nothing.
    let role = if kind == Kind::Shared { "server@0.0.0.0" } else { "server" };
    let pair = Pair::start_as(bench, kind, role, &[], &[], |mut addr| {
        addr.set_ip(Ipv4Addr::LOCALHOST.into());
        let config = shape(ProxyConfig::new(([127, 0, 0, 1], 0).into(), addr));
        let made = Proxy::spawn(config).map_err(io::Error::other)?;
        let route = made.local_addr();
        proxy = Some(made);
        Ok(route)
    })?;
    let proxy = proxy.ok_or_else(|| io::Error::other("no proxy"))?;
    Ok((pair, proxy))
}

/// Resets in all: a thousand.
pub(crate) fn resets(bench: &Bench<'_>) -> usize {
    bench.amount(1000, 50)
}

/// Both programs idle: one blocks in a read, the other does nothing. Then a reset of the connection
/// (in the fault proxy; both ends get an RST), and at once a write. Timed from just before the
/// reset until the reader has the byte; the writer is each end in turn.
pub(crate) fn stall_idle(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    for kind in [Kind::Direct, Kind::Pumped] {
        let (mut pair, proxy) = cut_pair(bench, kind, |config| config)?;
        pair.open()?;
        let (mut cut, mut whole) = (Vec::new(), Vec::new());
        for round in 0..2 * resets(bench) + WARM_UP {
            let (is_cut, stall) = idle_stall(&mut pair, &proxy, round)?;
            if round >= WARM_UP {
                if is_cut { cut.push(stall) } else { whole.push(stall) }
            }
        }
        stall_rows(report, "stall-idle", kind, &cut, &whole)?;
    }
    Ok(())
}

/// Rounds of [`idle_stall`] that do not count.
pub(crate) const WARM_UP: usize = 20;

/// One byte, behind a reset in every other round: whether there was one, and how long it took (ms).
pub(crate) fn idle_stall(pair: &mut Pair, proxy: &Proxy, round: usize) -> io::Result<(bool, f64)> {
    let is_cut = round % 2 == 1;
    let (writer, reader) = if round % 4 < 2 {
        (&mut pair.client, &mut pair.server)
    } else {
        (&mut pair.server, &mut pair.client)
    };
    reader.tell("get")?;
    // Both are to be idle, and the acks told.
    sleep(Duration::from_millis(2));
    let began = monotonic_ns();
    if is_cut && proxy.inject(Fault::Reset, Target::All).map_err(io::Error::other)? == 0 {
        return Err(io::Error::other("no connection was there to be cut"));
    }
    writer.ask("put")?;
    let came = reader.numbers()?;
    Ok((is_cut, (came[0] - began as f64) * 1e-6))
}

/// Plain TCP ends with a reset, so that a stall is compared with the pause of the same exchange
/// without one.
fn stall_rows(
    report: &mut Report,
    name: &str,
    kind: Kind,
    cut: &[f64],
    whole: &[f64],
) -> io::Result<()> {
    let name = format!("{name} {}", kind.name());
    let without = quantile(whole, 0.5);
    let reference = Some(("without a cut", without));
    let goal = |most| (kind == Kind::Direct).then_some(Goal::AtMost(most));
    let figure = |part: &str, goal: Option<Goal>| {
        let figure = Figure::new(format!("{name} {part}"), "ms");
        if let Some(goal) = goal { figure.goal(goal) } else { figure }
    };
    let mut all = figure(&format!("p50 ({} resets)", cut.len()), goal(1.0));
    cut.iter().for_each(|&value| all.add(value));
    report.row(&all, reference)?;
    let mut tail = figure("p99", goal(5.0));
    tail.add(quantile(cut, 0.99));
    report.row(&tail, Some(("without a cut", quantile(whole, 0.99))))?;
    let mut usual = figure("p50 without a cut", None);
    whole.iter().for_each(|&value| usual.add(value));
    report.row(&usual, None)
}

/// One program writes 16 KiB at a time as fast as it can, the other reads. The reader notes every
/// pause between two reads that is longer than 50 us; the stall is the longest pause that ended
/// within 50 ms of a reset.
pub(crate) fn stall_busy(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const EVERY: Duration = Duration::from_millis(60);
    const NEAR_NS: f64 = 50e6;
    for kind in [Kind::Direct, Kind::Pumped] {
        let (mut pair, proxy) = cut_pair(bench, kind, |config| config)?;
        let (mut cut, mut whole) = (Vec::new(), Vec::new());
        let round = 200.min(resets(bench));
        while cut.len() < resets(bench) {
            pair.open()?;
            let ms = EVERY.as_millis() * (round as u128 + 4);
            pair.server.tell("gaps 50")?;
            pair.client.tell(&format!("flood {ms} 16384"))?;
            let began = Instant::now();
            let mut marks = Vec::new();
            for n in 0..round {
                let at = began + EVERY * (n as u32 + 2);
                sleep(at.saturating_duration_since(Instant::now()));
                let now = monotonic_ns() as f64;
                // Every tenth look is one without a cut.
                let is_cut = n % 10 != 9;
                if is_cut {
                    proxy.inject(Fault::Reset, Target::All).map_err(io::Error::other)?;
                }
                marks.push((now, is_cut));
            }
            pair.client.answer()?;
            let line = pair.server.answer()?;
            let gaps: Vec<(f64, f64)> = line
                .split_whitespace()
                .filter_map(|gap| {
                    let (end, length) = gap.split_once(':')?;
                    Some((end.parse().ok()?, length.parse().ok()?))
                })
                .collect();
            for (at, is_cut) in marks {
                let near = gaps
                    .iter()
                    .filter(|&&(end, length)| end >= at && (end - length) < at + NEAR_NS);
                let longest = near.map(|&(_, length)| length * 1e-6).fold(0.0, f64::max);
                if is_cut { cut.push(longest) } else { whole.push(longest) }
            }
        }
        stall_rows(report, "stall-busy", kind, &cut, &whole)?;
    }
    Ok(())
}

/// Bytes that the peer has not seen when its connection is cut: a black hole swallows them, then a
/// reset makes the session send them again. Timed from the first byte at the reader to the last;
/// plain TCP sends as many, over the same proxy, without either.
pub(crate) fn replay(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let bytes = ROOMY_BYTES as usize / 4 * 3;
    let name = format!("replay {}MiB", bytes >> 20);
    let hole = Fault::Blackhole { direction: Direction::Up, lasting: None, then_reset: false };
    let mut lanes = Vec::new();
    let mut proxies = Vec::new();
    for kind in [Kind::Plain, Kind::Roomy] {
        let (pair, proxy) = cut_pair(bench, kind, |config| config)?;
        lanes.push(Lane::new(kind.name(), pair));
        proxies.push(proxy);
    }
    let rates = Group::new(&labels(&lanes), &name, "MiB/s");
    let mut rates = rates.goal(Kind::Roomy.name(), Goal::RatioAtLeast(0.9));
    take_turns(bench, report, &name, lanes, |_, at, pair| {
        pair.open()?;
        // A byte first, so that the session stands at both ends.
        pair.both("pour 1", "soak 1")?;
        let is_cut = at > 0;
        if is_cut {
            proxies[at].inject(hole.clone(), Target::Open).map_err(io::Error::other)?;
        }
        pair.server.tell(&format!("soak {bytes}"))?;
        pair.client.ask(&format!("pour {bytes}"))?;
        if is_cut {
            proxies[at].inject(Fault::Reset, Target::All).map_err(io::Error::other)?;
        }
        let times = pair.server.numbers()?;
        pair.both("drop", "drop")?;
        rates.add(at, bytes as f64 / (1 << 20) as f64 / ((times[1] - times[0]) * 1e-9));
        Ok(())
    });
    report.group(&rates)
}

/// Descriptors that a session may need in its client while it is cut: those of the dead connection,
/// of what stands in for it (two) and of the next. The proxy needs as many: two connections of two.
const PER_SESSION: usize = 4;

/// Many sessions, all reset at once. Timed from just before the reset until each of them has
/// carried a byte there and back again. Plain TCP does not survive this: the reference is the same
/// wave of bytes without a cut. One pair of processes, or where it may not have as many
/// descriptors, several pairs at the same time.
pub(crate) fn storm(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let sessions = bench.amount(10_000, 500);
    let (pairs, each) = spread(sessions, PER_SESSION);
    let mut storms = Vec::new();
    for _ in 0..pairs {
        let mut proxy = None;
        let mut pair = Pair::start_through(bench, Kind::Direct, |server| {
            let (made, addr) = End::proxy(bench, server)?;
            proxy = Some(made);
            Ok(addr)
        })?;
        pair.set_patience(Duration::from_secs(300));
        let hold = format!("hold {each}");
        pair.both(&hold, &hold)?;
        // The first wave is the warm-up.
        pair.both("wave", "answer")?;
        let proxy = proxy.ok_or_else(|| io::Error::other("no proxy"))?;
        storms.push((pair, proxy));
    }
    let name = |what: &str| format!("resume-storm {sessions} direct{what}{}", of_pairs(pairs));
    let mut after = Figure::new(name(""), "s");
    if sessions >= 10_000 {
        after = after.goal(Goal::AtMost(2.0));
    }
    let mut waves = Figure::new(name(" without a cut"), "s");
    for _ in 0..bench.options.turns() {
        for is_cut in [false, true] {
            for (pair, _) in &mut storms {
                pair.server.tell("answer")?;
            }
            let began = monotonic_ns();
            if is_cut {
                storms.iter_mut().try_for_each(|(_, proxy)| proxy.tell("reset"))?;
            }
            let mut hit = 0.0;
            for (pair, proxy) in &mut storms {
                if is_cut {
                    hit += proxy.numbers()?.first().copied().unwrap_or(0.0);
                }
                pair.client.tell("wave")?;
            }
            let mut last = 0.0_f64;
            for (pair, _) in &mut storms {
                last = last.max(pair.client.numbers()?.first().copied().unwrap_or(0.0));
                pair.server.answer()?;
            }
            let expected = if is_cut { pairs * each } else { 0 };
            if hit < expected as f64 {
                let what = format!("only {hit} of {expected} connections were there to be cut");
                return Err(io::Error::other(what));
            }
            let took = (last - began as f64) * 1e-9;
            if is_cut { after.add(took) } else { waves.add(took) }
        }
    }
    let reference = waves.median().map(|wave| ("without a cut", wave));
    report.row(&after, reference)?;
    report.row(&waves, None)
}

/// How many pairs of processes it takes to have so many sessions, and how many each of them has, if
/// a session needs so many descriptors.
pub(crate) fn spread(sessions: usize, descriptors: usize) -> (usize, usize) {
    let most = usize::try_from(descriptor_limit()).unwrap_or(usize::MAX);
    spread_within(sessions, descriptors, most)
}

fn spread_within(sessions: usize, descriptors: usize, most: usize) -> (usize, usize) {
    let room = (most.saturating_sub(100) / descriptors).max(1);
    let pairs = sessions.div_ceil(room).max(1);
    (pairs, sessions.div_ceil(pairs))
}

/// What a row's name says of several pairs.
pub(crate) fn of_pairs(pairs: usize) -> String {
    if pairs == 1 { String::new() } else { format!(" ({pairs} pairs)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_spread_over_as_few_pairs_as_their_descriptors_allow() {
        assert_eq!(spread_within(10_000, 4, 1 << 20), (1, 10_000));
        assert_eq!(spread_within(10_000, 4, 40_100), (1, 10_000));
        assert_eq!(spread_within(10_000, 4, 40_099), (2, 5000));
        assert_eq!(spread_within(10_000, 4, 20_000), (3, 3334));
        assert_eq!(spread_within(500, 1, 0), (500, 1));
    }
}
