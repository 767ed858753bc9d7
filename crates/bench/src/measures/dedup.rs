//! Many connections over one session of a pool, beside sessions of their own and plain TCP.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use eversock_chaos::{Plan, Proxy};

use super::idle::rest;
use super::open::cycled;
use super::recovery::{WARM_UP, cut_pair, idle_stall, of_pairs, resets, spread};
use super::streams::{beside, moved};
use crate::Bench;
use crate::lane::{Lane, labels, take_turns};
use crate::net::{Net, SERVER};
use crate::pair::Pair;
use crate::report::{Figure, Goal, Group, Report, quantile};
use crate::socket::Kind;
use crate::usage::kernel_bytes;

const SIDES: [&str; 2] = ["client", "server"];

/// From the connect to the first byte of an answer, over the fault proxy with half of the round
/// trip's delay in each direction. The proxy takes a connection at once: over a real path plain TCP
/// and a session of its own wait for one round trip more.
pub(crate) fn first_byte(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const TRIP_MS: u32 = 20;
    let count = bench.amount(20, 5);
    let name = format!("dedup-first-byte-{TRIP_MS}ms");
    let delay = format!("always delay {}ms", TRIP_MS / 2);
    let plan = Plan::parse(&delay).map_err(io::Error::other)?;
    let mut lanes = Vec::new();
    for kind in [Kind::Direct, Kind::Shared, Kind::Plain] {
        let (mut pair, proxy) = cut_pair(bench, kind, |config| config.with_plan(plan.clone()))?;
        // Stays open, so that a pool's session is there.
        pair.open()?;
        lanes.push(Lane::through(kind.name(), pair, proxy));
    }
    let labels = labels(&lanes);
    let mut times = Group::new(&labels, &name, "ms");
    let (call, greet) = (format!("call {count}"), format!("greet {count}"));
    take_turns(bench, report, &name, lanes, |_, at, pair| {
        let (client, _) = pair.both(&call, &greet)?;
        times.add(at, client[0] * 1e-6);
        Ok(())
    });
    report.group(&times)?;
    let figure = Figure::new(format!("{name} saved"), "trips");
    let mut saved = figure.goal(Goal::AtLeast(1.0));
    if let (Some(direct), Some(shared)) = (times.median(0), times.median(1)) {
        saved.add((direct - shared) / f64::from(TRIP_MS));
    }
    report.row(&saved, None)
}

/// 64 KiB writes one way. Held against pumped mode, which gives an ordinary `TcpStream` as well.
pub(crate) fn stream(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let kinds = [Kind::Pumped, Kind::Shared, Kind::Plain];
    let goal = Some(("shared", Goal::RatioAtLeast(0.8)));
    moved(bench, report, "dedup-stream-64KiB", &kinds, 64 << 10, goal)
}

/// The same on 16 at once; the sum.
pub(crate) fn streams(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let kinds = [Kind::Pumped, Kind::Shared, Kind::Plain];
    beside(bench, report, "dedup-streams-16", &kinds, (16, 64 << 10))
}

/// Open, end both directions, close; one after the other, over a session that stands.
pub(crate) fn open(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    cycled(bench, report, "dedup-open", &[Kind::Direct, Kind::Shared, Kind::Plain], None)
}

/// What idle connections hold: private memory of each process, and what the whole kernel has got
/// more of, for both ends together.
pub(crate) fn memory(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let kinds = [Kind::Direct, Kind::Pumped, Kind::Shared, Kind::Plain];
    memory_of(bench, report, 1000, &kinds, None)?;
    if bench.options.quick {
        return Ok(());
    }
    // A connection takes a port of loopback at each of its ends, which one host has not enough of;
    // still less for two kinds that do.
    match Net::new() {
        Ok(net) => {
            let kinds = [Kind::Direct, Kind::Shared, Kind::Plain];
            memory_of(bench, report, 10_000, &kinds, Some(&net))
        }
        Err(error) => {
            report.skipped("dedup-memory 10000", &error.to_string());
            Ok(())
        }
    }
}

/// All stay open until the last has been looked at, as what the kernel gets back of one kind it may
/// keep for the next.
fn memory_of(
    bench: &Bench<'_>,
    report: &mut Report,
    count: usize,
    kinds: &[Kind],
    net: Option<&Net>,
) -> io::Result<()> {
    /// Of a pumped stream: its connection, and the two ends of a pair.
    const DESCRIPTORS: usize = 3;
    let labels: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    let (pairs, each) = spread(count, DESCRIPTORS);
    let of_pairs = of_pairs(pairs);
    let group =
        |of: &str| Group::new(&labels, &format!("dedup-memory {of} {count}{of_pairs}"), "B/idle");
    let mut heaps = SIDES.map(group);
    let mut kernel = group("kernel, both ends,");
    let [client_way, server_way] = net.map(Net::ways).unwrap_or_default();
    let role = net.map_or_else(|| "server".to_owned(), |_| format!("server@{SERVER}"));
    let mut all = Vec::new();
    for (at, &kind) in kinds.iter().enumerate() {
        let (mut held, mut kernels) = ([0.0; 2], 0.0);
        for _ in 0..pairs {
            let mut pair = Pair::start_as(bench, kind, &role, &server_way, &client_way, Ok)?;
            pair.set_patience(Duration::from_secs(300));
            // Threads, pools and tables that the first one makes.
            pair.open()?;
            let before = pair.both("usage", "usage")?;
            let kernel_before = kernel_bytes();
            let hold = format!("hold {each}");
            pair.both(&hold, &hold)?;
            sleep(bench.time(4000, 2000));
            let after = pair.both("usage", "usage")?;
            kernels += kernel_bytes() as f64 - kernel_before as f64;
            held[0] += after.0[2] - before.0[2];
            held[1] += after.1[2] - before.1[2];
            all.push(pair);
        }
        let per = |bytes: f64| bytes.max(0.0) / (pairs * each) as f64;
        heaps.iter_mut().zip(held).for_each(|(heap, held)| heap.add(at, per(held)));
        kernel.add(at, per(kernels));
    }
    heaps.iter().chain([&kernel]).try_for_each(|group| report.group(group))
}

/// Both programs idle, a reset, and at once a write: as `stall-idle`, of a session and of a shared
/// one in turn.
pub(crate) fn failover(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const KINDS: [Kind; 2] = [Kind::Direct, Kind::Shared];
    let mut lanes: Vec<(Pair, Proxy)> = Vec::new();
    for kind in KINDS {
        let (mut pair, proxy) = cut_pair(bench, kind, |config| config)?;
        pair.open()?;
        lanes.push((pair, proxy));
    }
    let mut stalls: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..2 * resets(bench) + WARM_UP {
        for ((pair, proxy), stalls) in lanes.iter_mut().zip(&mut stalls) {
            let (is_cut, stall) = idle_stall(pair, proxy, round)?;
            if round >= WARM_UP {
                stalls[usize::from(is_cut)].push(stall);
            }
        }
    }
    let name = |part: &str| format!("dedup-failover {part}");
    let labels = KINDS.map(Kind::name);
    let count = resets(bench);
    let mut medians = Group::new(&labels, &name(&format!("p50 ({count} resets)")), "ms");
    let mut tails = Group::new(&labels, &name("p99"), "ms");
    let mut whole = Group::new(&labels, &name("p50 without a cut"), "ms");
    for (at, [usual, cut]) in stalls.iter().enumerate() {
        cut.iter().for_each(|&stall| medians.add(at, stall));
        tails.add(at, quantile(cut, 0.99));
        usual.iter().for_each(|&stall| whole.add(at, stall));
    }
    [medians, tails, whole].iter().try_for_each(|group| report.group(group))
}

/// A pool with so many connections that do nothing, beside one session that does nothing.
pub(crate) fn idle(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const CONNECTIONS: usize = 100;
    const KINDS: [(Kind, usize); 2] = [(Kind::Direct, 1), (Kind::Shared, CONNECTIONS)];
    let watch = bench.time(10_000, 2000);
    let labels = KINDS.map(|(kind, _)| kind.name());
    let mut sleeps =
        SIDES.map(|side| Group::new(&labels, &format!("dedup-idle sleeps {side}"), "1/s"));
    for _ in 0..bench.amount(bench.options.turns(), 1) {
        for (at, (kind, count)) in KINDS.into_iter().enumerate() {
            for [_, idle, after] in rest(bench, kind, 1, count, watch)? {
                for (side, sleeps) in sleeps.iter_mut().enumerate() {
                    sleeps.add(at, (after[side][1] - idle[side][1]) / watch.as_secs_f64());
                }
            }
        }
    }
    sleeps.iter().try_for_each(|group| report.group(group))?;
    for (side, sleeps) in SIDES.iter().zip(&sleeps) {
        let name = format!("dedup-idle-wakeups {side} {CONNECTIONS} shared");
        let mut beyond = Figure::new(name, "1/s").goal(Goal::AtMost(0.0));
        if let (Some(direct), Some(shared)) = (sleeps.median(0), sleeps.median(1)) {
            beyond.add((shared - direct).max(0.0));
        }
        report.row(&beyond, None)?;
    }
    Ok(())
}
