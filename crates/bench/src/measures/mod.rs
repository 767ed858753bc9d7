//! The measurements, in the order in which they are taken.

#[cfg(feature = "controller")]
pub(crate) mod controller;
mod dedup;
mod idle;
mod open;
mod outage;
mod path;
mod preload;
mod recovery;
mod relays;
#[cfg(feature = "spool")]
pub(crate) mod spool;
mod streams;
mod trips;

use std::io;

use crate::Bench;
use crate::report::{Report, Table};

/// One measurement: a name that `--only` can pick, and the rows that it gives.
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) table: Table,
    pub(crate) run: fn(&Bench<'_>, &mut Report) -> io::Result<()>,
}

const STREAMS: Table = Table { file: "streams", title: "Streams, one way" };
const BOTH: Table = Table { file: "streams-both-ways", title: "Streams, both ways at once" };
const TRIPS: Table = Table { file: "round-trips", title: "Round trips" };
const SMALL: Table = Table { file: "messages", title: "Small messages, several under way" };
const PARALLEL: Table = Table { file: "parallel", title: "Sessions side by side" };
const PRELOAD: Table = Table { file: "preload", title: "A C program under the preload" };
const SEALED: Table = Table { file: "sealed", title: "Sealed sessions and TLS" };
const OPEN: Table = Table { file: "open-close", title: "Opening and closing" };
const RELAYS: Table = Table { file: "relays", title: "By way of relays" };
const STALLS: Table = Table { file: "stalls", title: "Stalls after a reset" };
const RESUMES: Table = Table { file: "resumes", title: "Replay, and many resumes at once" };
const PATHS: Table = Table { file: "paths", title: "Streams over paths with delay" };
const IDLE: Table = Table { file: "idle", title: "Sessions that do nothing" };
const DEDUP: Table = Table { file: "dedup", title: "Many connections over one session" };
const OUTAGES: Table = Table { file: "outages", title: "Silence, and another address" };
#[cfg(feature = "spool")]
const SPOOL: Table = Table { file: "spool", title: "A spool while there is no main server" };
#[cfg(feature = "controller")]
const CONTROLLER: Table = Table { file: "controller", title: "Controllers and their devices" };

macro_rules! measures {
    ($($(#[$when:meta])* $name:literal in $table:ident: $run:expr;)*) => {
        &[$($(#[$when])* Measure { name: $name, table: $table, run: $run }),*]
    };
}

pub(crate) const ALL: &[Measure] = measures! {
    "stream-64B" in STREAMS: |bench, report| streams::one_way(bench, report, 64);
    "stream-1KiB" in STREAMS: |bench, report| streams::one_way(bench, report, 1 << 10);
    "stream-4KiB" in STREAMS: |bench, report| streams::one_way(bench, report, 4 << 10);
    "stream-16KiB" in STREAMS: |bench, report| streams::one_way(bench, report, 16 << 10);
    "stream-64KiB" in STREAMS: |bench, report| streams::one_way(bench, report, 64 << 10);
    "stream-256KiB" in STREAMS: |bench, report| streams::one_way(bench, report, 256 << 10);
    "stream-1MiB" in STREAMS: |bench, report| streams::one_way(bench, report, 1 << 20);
    "both-ways-1KiB" in BOTH: |bench, report| streams::both_ways(bench, report, 1 << 10);
    "both-ways-64KiB" in BOTH: |bench, report| streams::both_ways(bench, report, 64 << 10);
    "both-ways-1MiB" in BOTH: |bench, report| streams::both_ways(bench, report, 1 << 20);
    "round-trip-64B" in TRIPS: |bench, report| trips::round_trip(bench, report, 64);
    "round-trip-1KiB" in TRIPS: |bench, report| trips::round_trip(bench, report, 1 << 10);
    "pipeline-64B" in SMALL: trips::pipeline;
    "parallel-1" in PARALLEL: |bench, report| streams::parallel(bench, report, 1);
    "parallel-16" in PARALLEL: |bench, report| streams::parallel(bench, report, 16);
    "parallel-256" in PARALLEL: |bench, report| streams::parallel(bench, report, 256);
    "preload-round-trip" in PRELOAD: preload::round_trip;
    "preload-stream" in PRELOAD: preload::stream;
    "sealed-stream-16KiB" in SEALED: |bench, report| streams::sealed(bench, report, 16 << 10);
    "sealed-stream-64KiB" in SEALED: |bench, report| streams::sealed(bench, report, 64 << 10);
    "sealed-stream-1MiB" in SEALED: |bench, report| streams::sealed(bench, report, 1 << 20);
    "sealed-round-trip" in SEALED: trips::sealed;
    "open-close" in OPEN: open::open_close;
    "relay-stream" in RELAYS: relays::stream;
    "relay-round-trip" in RELAYS: relays::round_trip;
    "stall-idle" in STALLS: recovery::stall_idle;
    "stall-busy" in STALLS: recovery::stall_busy;
    "replay" in RESUMES: recovery::replay;
    "resume-storm" in RESUMES: recovery::storm;
    "path-20ms" in PATHS: |bench, report| path::stream(bench, report, 20);
    "path-100ms" in PATHS: |bench, report| path::stream(bench, report, 100);
    "memory" in IDLE: idle::memory_and_cpu;
    "idle-cpu" in IDLE: idle::cpu_unless_done;
    "idle-many" in IDLE: idle::many;
    "dedup-first-byte-20ms" in DEDUP: dedup::first_byte;
    "dedup-stream-64KiB" in DEDUP: dedup::stream;
    "dedup-streams-16" in DEDUP: dedup::streams;
    "dedup-open" in DEDUP: dedup::open;
    "dedup-memory" in DEDUP: dedup::memory;
    "dedup-failover" in DEDUP: dedup::failover;
    "dedup-idle" in DEDUP: dedup::idle;
    "outage" in OUTAGES: outage::silence;
    "address-change" in OUTAGES: outage::address_change;
    #[cfg(feature = "spool")]
    "spool-writes" in SPOOL: spool::writes::writes;
    #[cfg(feature = "spool")]
    "spool-drain" in SPOOL: spool::drain::drain;
    #[cfg(feature = "spool")]
    "spool-restart" in SPOOL: spool::restart::restart;
    #[cfg(feature = "spool")]
    "spool-isolation" in SPOOL: spool::isolation::isolation;
    #[cfg(feature = "controller")]
    "controller-registrations" in CONTROLLER: controller::registrations::registrations;
    #[cfg(feature = "controller")]
    "controller-updates" in CONTROLLER: controller::updates::updates;
    #[cfg(feature = "controller")]
    "controller-isolation" in CONTROLLER: controller::isolation::isolation;
    #[cfg(feature = "controller")]
    "controller-storm" in CONTROLLER: controller::storm::storm;
    #[cfg(feature = "controller")]
    "controller-bulk" in CONTROLLER: controller::bulk::bulk;
};

/// What the project promises, and the rows that show it: each label begins the name of at least one
/// row. `docs/BENCHMARKS.md` gives the measured figure beside each.
pub(crate) const PROMISES: &[(&str, &[&str])] = &[
    (
        "stream, 16 KiB to 1 MiB writes, direct, clear: >= 0.97 of plain TCP",
        &[
            "stream-16KiB direct",
            "stream-64KiB direct",
            "stream-256KiB direct",
            "stream-1MiB direct",
        ],
    ),
    (
        "stream, 64 B to 1 KiB writes: >= 1.00 of plain TCP; stretch 1.5",
        &["stream-64B direct", "stream-1KiB direct"],
    ),
    (
        "round trip of 64 B, p50 / p99: <= 1.03 / <= 1.10 of plain TCP",
        &[
            "round-trip-64B apart p50 direct",
            "round-trip-64B apart p99 direct",
            "round-trip-64B together p50 direct",
            "round-trip-64B together p99 direct",
        ],
    ),
    (
        "stream on a 20 ms and a 100 ms path: >= 0.97 of plain TCP",
        &["path-20ms direct", "path-100ms direct"],
    ),
    (
        "sealed stream: >= 1.20 of rustls (ring, TLS 1.3)",
        &["sealed-stream-16KiB sealed", "sealed-stream-64KiB sealed", "sealed-stream-1MiB sealed"],
    ),
    (
        "preloaded program, stream / p50: >= 0.95 / <= 1.05 of the same without",
        &[
            "preload-stream-64KiB preloaded",
            "preload-round-trip-64B apart p50 preloaded",
            "preload-round-trip-64B together p50 preloaded",
        ],
    ),
    ("gateway pair: >= 1.5 of a socat pair", &["relay-stream-64KiB gateway-pair/socat-pair"]),
    ("open+close rate: >= 0.50 of plain TCP", &["open-close direct"]),
    (
        "stall after a reset, idle or busy, p50 / p99: <= 1 ms / <= 5 ms",
        &[
            "stall-idle direct p50",
            "stall-idle direct p99",
            "stall-busy direct p50",
            "stall-busy direct p99",
        ],
    ),
    (
        "stall beyond a silent outage of 3 / 10 / 30 s, p50: <= 0.5 s",
        &["outage 3 s direct", "outage 10 s direct", "outage 30 s direct"],
    ),
    ("client address replaced while busy, stall: <= 0.5 s", &["address-change direct"]),
    ("10,000 sessions cut at once, all carry data again: <= 2 s", &["resume-storm 10000 direct"]),
    ("replay throughput: >= 0.90 of plain TCP's stream", &["replay 48MiB roomy"]),
    (
        "heap per idle session: <= 1 KiB; 50,000 sessions in one pair of processes",
        &["memory client 50000 direct", "memory server 50000 direct"],
    ),
    (
        "10,000 idle sessions: 0 wake-ups per second beyond the kernel's",
        &["idle-wakeups client 10000 direct", "idle-wakeups server 10000 direct"],
    ),
    (
        "first byte of a further shared connection, 20 ms path: >= 1 round trip before a session's",
        &["dedup-first-byte-20ms saved"],
    ),
    ("shared stream, 64 KiB writes: >= 0.80 of pumped", &["dedup-stream-64KiB shared"]),
    (
        "idle pool with 100 connections: 0 wake-ups per second beyond a session's",
        &["dedup-idle-wakeups client 100 shared", "dedup-idle-wakeups server 100 shared"],
    ),
    #[cfg(feature = "spool")]
    (
        "durable writes of 64 senders through a front: >= 5 times single SQLite commits",
        &["spool-writes front of 64"],
    ),
    #[cfg(feature = "spool")]
    (
        "front with 1,000,000 records, start to first record sent: <= 2 s; memory as with 1,000",
        &["spool-restart first record 1000000", "spool-restart memory 1000000"],
    ),
    #[cfg(feature = "spool")]
    (
        "p99 of a pair while another one is full: <= 1.20 of it alone",
        &["spool-isolation p99 normal other full", "spool-isolation p99 spooling other full"],
    ),
    #[cfg(feature = "controller")]
    (
        "100,000 devices register at once, p99 of those that are served: <= 2.00 of before",
        &[
            "controller-storm 100000 handshakes p99 during",
            "controller-storm 100000 requests p99 during",
        ],
    ),
    #[cfg(feature = "controller")]
    (
        "p99 of a partition while a partner's is flooded: <= 1.20 of it alone",
        &[
            "controller-isolation registrations p99 other flooded",
            "controller-isolation requests p99 other flooded",
        ],
    ),
    #[cfg(feature = "controller")]
    (
        "1,000,000 records to a new partner: memory as with 100,000",
        &[
            "controller-bulk memory of the donor 1000000",
            "controller-bulk memory of the joiner 1000000",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_names_rows_of_a_measurement_that_there_is() {
        for (promise, rows) in PROMISES {
            assert!(!rows.is_empty(), "{promise}");
            for row in *rows {
                // `idle-wakeups` belongs to `idle-many`, the others to what they begin with.
                let begins = |name: &str| row.starts_with(name) || row.starts_with("idle-wakeups");
                assert!(ALL.iter().any(|measure| begins(measure.name)), "{promise}: {row}");
            }
        }
    }

    #[test]
    fn no_two_measurements_have_the_same_name() {
        let mut names: Vec<&str> = crate::names().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
