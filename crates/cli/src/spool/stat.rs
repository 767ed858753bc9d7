//! What a front says of its pairs and their records.

use std::time::Duration;

use eversock_spool::Kind;
use eversock_spool::config::{FrontFile, Gate, PairFile, Running};
use eversock_spool::front::PairStatus;
use eversock_spool::store::committer::{CommitStats, LATENCY_EDGES_US};
use eversock_spool::store::{Listed, SpoolReader, StoreError, Totals};
use serde::{Deserialize, Serialize};

use super::now_ms;

/// Ages by which records are counted, in milliseconds: as qshape does.
pub(super) const EDGES_MS: [u64; 7] = [5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 320_000];
/// How long a store may take to say what waits.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a text about a record that is shown.
const NOTE_MAX: usize = 1024;

/// A front.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Front {
    pub(super) pid: u32,
    pub(super) version: String,
    pub(super) listening: Vec<Door>,
    pub(super) pairs: Vec<Pair>,
}

/// Where it takes requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Door {
    pub(super) door: String,
    pub(super) addr: std::net::SocketAddr,
}

/// A pair, as far as it is known.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Pair {
    pub(super) pair: String,
    pub(super) servers: Vec<String>,
    /// "stopped" if no front runs.
    pub(super) state: String,
    /// Only of a front that runs.
    pub(super) live: Option<Live>,
    pub(super) spool: Spooled,
}

/// What waits in a spool.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Spooled {
    pub(super) pending: u64,
    pub(super) bytes: u64,
    pub(super) held: u64,
    pub(super) in_doubt: u64,
    pub(super) quarantined: u64,
    pub(super) last_lsn: u64,
    /// Of the oldest record; 0 if none waits.
    pub(super) oldest_age_ms: u64,
    /// Pending records up to 5 s, 10 s, ... 320 s old, and older.
    pub(super) ages: Vec<u64>,
    /// Why it is not known; then it is zero, or what the front last knew.
    pub(super) error: Option<String>,
}

/// What only a front knows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Live {
    pub(super) holder: usize,
    pub(super) epoch: u64,
    pub(super) ready: [bool; 2],
    pub(super) on_hold: bool,
    pub(super) split: Option<u64>,
    pub(super) flap_guard: bool,
    pub(super) spool_full: bool,
    pub(super) hold_full: bool,
    pub(super) dry_run: bool,
    pub(super) stuck: bool,
    pub(super) in_flight: u64,
    pub(super) waiting: u64,
    pub(super) window: u64,
    pub(super) up_ms: u64,
    pub(super) counters: Counters,
    pub(super) commits: Commits,
    /// What somebody must look at, newest last.
    pub(super) alarms: Vec<String>,
}

/// What a pair has done since its front was started.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Counters {
    pub(super) requests: u64,
    pub(super) applied: u64,
    pub(super) spooled: u64,
    pub(super) overlaid: u64,
    pub(super) stale: u64,
    pub(super) in_doubt: u64,
    pub(super) rejected: u64,
    pub(super) spool_full: u64,
    pub(super) late: u64,
    pub(super) repeated: u64,
    pub(super) drained: u64,
    pub(super) drained_again: u64,
    pub(super) refused: u64,
    pub(super) damaged: u64,
    pub(super) call_errors: u64,
    pub(super) suspected: u64,
    pub(super) promoted: u64,
    pub(super) switched: u64,
    pub(super) last_diversion_us: u64,
    pub(super) last_gap_us: u64,
    pub(super) would_divert: u64,
}

/// What its writer has done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Commits {
    pub(super) commits: u64,
    pub(super) records: u64,
    pub(super) failed: u64,
    pub(super) refused: u64,
    /// Upper bound in microseconds (none for the last), and how many took so long.
    pub(super) latency: Vec<(Option<u64>, u64)>,
    pub(super) latency_sum_us: u64,
}

/// A record in a listing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) pair: String,
    pub(super) lsn: u64,
    pub(super) id: String,
    pub(super) kind: String,
    /// As text, with what is none escaped; the beginning of a long one.
    pub(super) key: String,
    pub(super) payload_bytes: u64,
    pub(super) accepted_ms: u64,
    pub(super) state: String,
    pub(super) note: String,
}

impl Row {
    pub(super) fn of(pair: &str, listed: Listed) -> Self {
        let kind = Kind::from_code(listed.kind);
        let mut note = listed.note;
        if note.len() > NOTE_MAX {
            let end = (0..=NOTE_MAX).rev().find(|&at| note.is_char_boundary(at));
            note.truncate(end.unwrap_or(0));
        }
        Self {
            pair: pair.to_owned(),
            lsn: listed.lsn,
            id: listed.id.to_string(),
            kind: kind.map_or_else(|| format!("unknown {}", listed.kind), |kind| kind.to_string()),
            key: printable(&listed.key),
            payload_bytes: listed.payload_len,
            accepted_ms: listed.accepted_ms,
            state: listed.state.to_owned(),
            note,
        }
    }
}

/// Bytes as people can read them: what is text stays, the rest is escaped.
pub(super) fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

impl Front {
    pub(super) fn of(file: &FrontFile, running: &Running) -> Self {
        let doors = running.listening().into_iter();
        Self {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listening: doors.map(|l| Door { door: l.door.to_owned(), addr: l.addr }).collect(),
            pairs: live(file, running.gate()),
        }
    }
}

/// All pairs of a front that runs.
pub(super) fn live(file: &FrontFile, gate: &Gate) -> Vec<Pair> {
    file.pairs.iter().map(|pair| live_one(pair, gate)).collect()
}

fn live_one(pair: &PairFile, gate: &Gate) -> Pair {
    let name = pair.name.as_str();
    let servers = names(pair);
    let status = gate.with(|front| front.status(name)).flatten();
    let read = gate.with(|front| front.read(name, READ_TIMEOUT, look)).flatten();
    let spool = match read {
        Some(Ok(spool)) => spool,
        Some(Err(error)) => Spooled { error: Some(error.to_string()), ..Spooled::default() },
        None => {
            // What the pair decides by is better than nothing.
            let known = status.as_ref().map(|status| of(status.pair.totals, Vec::new()));
            let error = Some("the spool does not answer".to_owned());
            Spooled { error, ..known.unwrap_or_default() }
        }
    };
    match status {
        Some(status) => {
            let state = status.pair.state.to_owned();
            Pair { pair: name.to_owned(), servers, state, live: Some(Live::of(status)), spool }
        }
        None => {
            let state = "no answer".to_owned();
            Pair { pair: name.to_owned(), servers, state, live: None, spool }
        }
    }
}

/// A pair without a front.
pub(super) fn stopped(file: &FrontFile, pair: &PairFile) -> Pair {
    let read = file.open_reader(pair).and_then(|mut reader| look(reader.reader()));
    let spool = read.unwrap_or_else(|error| {
        let error = Some(error.to_string());
        Spooled { error, ..Spooled::default() }
    });
    let state = "stopped".to_owned();
    Pair { pair: pair.name.clone(), servers: names(pair), state, live: None, spool }
}

fn names(pair: &PairFile) -> Vec<String> {
    pair.servers.iter().map(|server| server.name.clone()).collect()
}

fn look(reader: &mut dyn SpoolReader) -> Result<Spooled, StoreError> {
    let ages = reader.ages(now_ms(), &EDGES_MS)?;
    Ok(of(reader.totals()?, ages))
}

fn of(totals: Totals, ages: Vec<u64>) -> Spooled {
    let waits = totals.pending > 0 && totals.oldest_ms > 0;
    Spooled {
        pending: totals.pending,
        bytes: totals.bytes,
        held: totals.held,
        in_doubt: totals.in_doubt,
        quarantined: totals.quarantined,
        last_lsn: totals.last_lsn,
        oldest_age_ms: if waits { now_ms().saturating_sub(totals.oldest_ms) } else { 0 },
        ages,
        error: None,
    }
}

impl Live {
    fn of(status: PairStatus) -> Self {
        let PairStatus { pair, commits, up } = status;
        let count = |n: usize| n as u64;
        let counters = pair.counters;
        Self {
            holder: pair.holder,
            epoch: pair.epoch,
            ready: pair.ready,
            on_hold: pair.on_hold,
            split: pair.split,
            flap_guard: pair.flap_guard,
            spool_full: pair.spool_full,
            hold_full: pair.hold_full,
            dry_run: pair.dry_run,
            stuck: pair.stuck,
            in_flight: count(pair.in_flight),
            waiting: count(pair.held),
            window: count(pair.window),
            up_ms: u64::try_from(up.as_millis()).unwrap_or(u64::MAX),
            counters: Counters {
                requests: counters.requests,
                applied: counters.applied,
                spooled: counters.spooled,
                overlaid: counters.overlaid,
                stale: counters.stale,
                in_doubt: counters.in_doubt,
                rejected: counters.rejected,
                spool_full: counters.spool_full,
                late: counters.late,
                repeated: counters.repeated,
                drained: counters.drained,
                drained_again: counters.drained_again,
                refused: counters.refused,
                damaged: counters.damaged,
                call_errors: counters.call_errors,
                suspected: counters.suspected,
                promoted: counters.promoted,
                switched: counters.switched,
                last_diversion_us: counters.last_diversion,
                last_gap_us: counters.last_gap,
                would_divert: counters.would_divert,
            },
            commits: Commits::of(&commits),
            alarms: pair.alarms.into_iter().map(|(_, text)| text).collect(),
        }
    }
}

impl Commits {
    fn of(stats: &CommitStats) -> Self {
        let edges = LATENCY_EDGES_US.iter().copied().map(Some).chain([None]);
        Self {
            commits: stats.commits,
            records: stats.records,
            failed: stats.failed,
            refused: stats.refused,
            latency: edges.zip(stats.latency).collect(),
            latency_sum_us: stats.latency_sum_us,
        }
    }
}
