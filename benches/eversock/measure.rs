//! The measurements.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use eversock_chaos::{Config as ProxyConfig, Fault, Proxy, Target};

use crate::Options;
use crate::pair::Pair;
use crate::preload;
use crate::report::{Figure, Goal, Rows, quantile};
use crate::socket::Kind;
use crate::usage::monotonic_ns;

/// What `--only` may name.
pub(crate) const NAMES: [&str; 12] = [
    "stream-1KiB",
    "stream-16KiB",
    "stream-64KiB",
    "stream-256KiB",
    "round-trip",
    "preload-round-trip",
    "preload-stream",
    "open-close",
    "stall-idle",
    "stall-busy",
    "memory",
    "idle-cpu",
];

/// Runs what `options` want.
pub(crate) fn all(options: &Options, rows: &mut Rows) -> io::Result<()> {
    for kib in [1, 16, 64, 256] {
        if options.wants(&format!("stream-{kib}KiB")) {
            stream(options, rows, kib)?;
        }
    }
    if options.wants("round-trip") {
        round_trip(options, rows)?;
    }
    preload::all(options, rows)?;
    if options.wants("open-close") {
        open_close(options, rows)?;
    }
    if options.wants("stall-idle") {
        stall_idle(options, rows)?;
    }
    if options.wants("stall-busy") {
        stall_busy(options, rows)?;
    }
    if options.wants("memory") || options.wants("idle-cpu") {
        idle(options, rows)?;
    }
    Ok(())
}

fn pairs() -> io::Result<Vec<Option<Pair>>> {
    Kind::ALL.into_iter().map(|kind| Pair::start(kind).map(Some)).collect()
}

/// Each kind in turn, as often as `options` say. One that fails is told of and left out from then
/// on, so that the others still have their figures.
fn turns(
    options: &Options,
    rows: &mut Rows,
    name: &str,
    mut turn: impl FnMut(usize, &mut Pair) -> io::Result<()>,
) -> io::Result<()> {
    let mut pairs = pairs()?;
    for number in 0..options.turns() {
        for slot in &mut pairs {
            if let Some(pair) = slot
                && let Err(error) = turn(number, pair)
            {
                rows.failed(&format!("{name} {}", pair.kind.name()), &error);
                *slot = None;
            }
        }
    }
    Ok(())
}

/// The same figure for every kind.
fn figures(make: impl Fn(Kind) -> Figure) -> Vec<(Kind, Figure)> {
    Kind::ALL.into_iter().map(|kind| (kind, make(kind))).collect()
}

/// One way, as fast as it goes; timed until the reader has all. Also the processor time of both
/// processes for each GiB.
fn stream(options: &Options, rows: &mut Rows, kib: usize) -> io::Result<()> {
    let total = if kib == 1 { 128 << 20 } else { 1 << 30 };
    let total: usize = if options.quick { total / 32 } else { total };
    let (bytes, count) = (kib << 10, total / (kib << 10));
    let mut rates = figures(|kind| {
        let figure = Figure::new(format!("stream-{kib}KiB"), "MiB/s");
        match (kind, kib) {
            (Kind::Direct, 64) => figure.goal(Goal::RatioAtLeast(0.85)),
            _ => figure,
        }
    });
    let mut costs = figures(|_| Figure::new(format!("stream-{kib}KiB processor"), "s/GiB"));
    turns(options, rows, &format!("stream-{kib}KiB"), |_, pair| {
        pair.open()?;
        let (client, server) =
            pair.both(&format!("write {count} {bytes}"), &format!("read {bytes}"))?;
        let at = pair.kind as usize;
        let moved = (count * bytes) as f64;
        rates[at].1.add(moved / (1 << 20) as f64 / (client[0] * 1e-9));
        // The reader's cost includes the warm-up; so does its amount.
        let gib = (1u64 << 30) as f64;
        costs[at].1.add(client[1] * 1e-9 / (moved / gib) + server[1] * 1e-9 / (server[3] / gib));
        Ok(())
    })?;
    rows.group(rates);
    rows.group(costs);
    Ok(())
}

/// 64 bytes there and back: `apart`, each process on a processor of its own, where the wake-up of
/// the other processor is most of it; and `together`, both on one, where every system call shows.
/// Left to itself the scheduler chooses between the two, and the figure with it.
fn round_trip(options: &Options, rows: &mut Rows) -> io::Result<()> {
    let count = if options.quick { 500 } else { 20_000 };
    for (place, client_cpu, server_cpu) in [("apart", 0, 1), ("together", 0, 0)] {
        let name = format!("round-trip-64B {place}");
        let mut medians = figures(|kind| {
            let figure = Figure::new(format!("{name} p50"), "us");
            if kind == Kind::Direct { figure.goal(Goal::RatioAtMost(1.15)) } else { figure }
        });
        let mut tails = figures(|_| Figure::new(format!("{name} p99"), "us"));
        turns(options, rows, &name, |_, pair| {
            pair.both(&format!("pin {client_cpu}"), &format!("pin {server_cpu}"))?;
            pair.open()?;
            let (client, _) = pair.both(&format!("ping {count} 64"), "echo 64")?;
            medians[pair.kind as usize].1.add(client[0] * 1e-3);
            tails[pair.kind as usize].1.add(client[1] * 1e-3);
            Ok(())
        })?;
        rows.group(medians);
        rows.group(tails);
    }
    Ok(())
}

/// Open, end both directions, close; one after the other.
fn open_close(options: &Options, rows: &mut Rows) -> io::Result<()> {
    let count = if options.quick { 30 } else { 500 };
    let mut rates = figures(|_| Figure::new("open-close", "1/s"));
    let command = format!("cycle {count}");
    let warm_up = format!("cycle {}", count / 10);
    turns(options, rows, "open-close", |number, pair| {
        if number == 0 {
            pair.both(&warm_up, &warm_up)?;
        }
        let (client, _) = pair.both(&command, &command)?;
        rates[pair.kind as usize].1.add(count as f64 / (client[0] * 1e-9));
        Ok(())
    })?;
    rows.group(rates);
    Ok(())
}

/// A pair with the fault proxy between its ends.
fn cut_pair(kind: Kind) -> io::Result<(Pair, Proxy)> {
    let mut proxy = None;
    let pair = Pair::start_through(kind, |addr| {
        let config = ProxyConfig::new(([127, 0, 0, 1], 0).into(), addr);
        let made = Proxy::spawn(config).map_err(io::Error::other)?;
        let route = made.local_addr();
        proxy = Some(made);
        Ok(route)
    })?;
    let proxy = proxy.ok_or_else(|| io::Error::other("no proxy"))?;
    Ok((pair, proxy))
}

/// Resets in all: a thousand.
fn resets(options: &Options) -> usize {
    if options.quick { 20 } else { 1000 }
}

/// Both programs idle: one blocks in a read, the other does nothing. Then a reset of the connection
/// (in the fault proxy; both ends get an RST), and at once a write. Timed from just before the
/// reset until the reader has the byte; the writer is each end in turn.
fn stall_idle(options: &Options, rows: &mut Rows) -> io::Result<()> {
    let goal = Goal::AtMost(5.0);
    for kind in [Kind::Direct, Kind::Pumped] {
        let (mut pair, proxy) = cut_pair(kind)?;
        pair.open()?;
        let (mut cut, mut whole) = (Vec::new(), Vec::new());
        for round in 0..2 * resets(options) + 20 {
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
            if is_cut {
                proxy.inject(Fault::Reset, Target::All).map_err(io::Error::other)?;
            }
            writer.ask("put")?;
            let came = reader.numbers()?;
            let stall = (came[0] - began as f64) * 1e-6;
            if round >= 20 {
                if is_cut { cut.push(stall) } else { whole.push(stall) }
            }
        }
        stall_rows(rows, "stall-idle", kind, &cut, &whole, goal);
    }
    Ok(())
}

fn stall_rows(rows: &mut Rows, name: &str, kind: Kind, cut: &[f64], whole: &[f64], goal: Goal) {
    let name = format!("{name} {}", kind.name());
    let single = |value: f64| {
        let mut figure = Figure::new("", "ms");
        figure.add(value);
        figure
    };
    let mut all = Figure::new("", "ms").goal(goal);
    for &value in cut {
        all.add(value);
    }
    rows.row(&format!("{name} p50 ({} resets)", cut.len()), &all, None);
    rows.row(&format!("{name} p99"), &single(quantile(cut, 0.99)), None);
    rows.row(&format!("{name} p50 without a cut"), &single(quantile(whole, 0.5)), None);
}

/// One program writes 16 KiB at a time as fast as it can, the other reads. The reader notes every
/// pause between two reads that is longer than 50 us; the stall is the longest pause that ended
/// within 50 ms of a reset.
fn stall_busy(options: &Options, rows: &mut Rows) -> io::Result<()> {
    const EVERY: Duration = Duration::from_millis(60);
    const NEAR_NS: f64 = 50e6;
    for kind in [Kind::Direct, Kind::Pumped] {
        let (mut pair, proxy) = cut_pair(kind)?;
        let (mut cut, mut whole) = (Vec::new(), Vec::new());
        let round = 200.min(resets(options));
        while cut.len() < resets(options) {
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
        stall_rows(rows, "stall-busy", kind, &cut, &whole, Goal::AtMost(5.0));
    }
    Ok(())
}

/// A thousand sessions that do nothing: what they hold and what they use. Fresh processes, as
/// memory that was used once is not given back.
fn idle(options: &Options, rows: &mut Rows) -> io::Result<()> {
    let count = if options.quick { 100 } else { 1000 };
    let watch = Duration::from_secs(if options.quick { 1 } else { 10 });
    let mut memory = figures(|_| Figure::new("memory client", "B/idle"));
    let mut server_memory = figures(|_| Figure::new("memory server", "B/idle"));
    let name = |side: &str| format!("idle-cpu {side}, {count} for {} s", watch.as_secs());
    let mut cpu = figures(|_| Figure::new(name("client"), "ms").goal(Goal::AtMost(5.0)));
    let mut server_cpu = figures(|_| Figure::new(name("server"), "ms").goal(Goal::AtMost(5.0)));
    let mut pairs: Vec<Pair> = pairs()?.into_iter().flatten().collect();
    let mut before = Vec::new();
    for pair in &mut pairs {
        // Threads, pools and tables that the first session makes.
        pair.open()?;
        before.push(pair.both("usage", "usage")?);
        let hold = format!("hold {count}");
        pair.both(&hold, &hold)?;
    }
    // The sweep looks once a second while acks are to be told.
    sleep(Duration::from_secs(if options.quick { 2 } else { 4 }));
    let mut idle = Vec::new();
    for pair in &mut pairs {
        idle.push(pair.both("usage", "usage")?);
    }
    sleep(watch);
    for (at, pair) in pairs.iter_mut().enumerate() {
        let (client, server) = pair.both("usage", "usage")?;
        let each = |now: &[f64], then: &[f64]| (now[2] - then[2]).max(0.0) / count as f64;
        memory[at].1.add(each(&idle[at].0, &before[at].0));
        server_memory[at].1.add(each(&idle[at].1, &before[at].1));
        cpu[at].1.add((client[0] - idle[at].0[0]) * 1e-6);
        server_cpu[at].1.add((server[0] - idle[at].1[0]) * 1e-6);
        debug_assert_eq!(pair.kind, memory[at].0);
    }
    if options.wants("memory") {
        rows.group(memory);
        rows.group(server_memory);
    }
    if options.wants("idle-cpu") {
        rows.group(cpu);
        rows.group(server_cpu);
    }
    Ok(())
}
