//! `evs spool stat` and `evs spool ls`: pairs, and records.

use clap::Args;
use eversock_spool::config::{FrontFile, PairFile};

use super::ask::{Asked, ROWS_MAX};
use super::stat::{self, Pair, Row};
use super::{Which, now_ms, pairs};
use crate::failure::Failure;
use crate::output;
use crate::units::{show_millis, show_size};

/// Show the pairs: their state, and what waits in their spools by its age.
///
/// Columns 5s to 320s count records up to that age, the last those that are older. Without a front
/// the spools themselves are read. Exit status 1 if a pair does not answer or its spool cannot be
/// read.
#[derive(Debug, Args)]
pub(crate) struct Stat {
    #[command(flatten)]
    which: Which,
}

/// List records that wait, or were set aside.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    which: Which,
    /// Of this pair alone.
    #[arg(long, value_name = "PAIR")]
    pair: Option<String>,
    /// Those behind this place.
    #[arg(long, value_name = "LSN", default_value_t = 0)]
    after: u64,
    /// So many of each pair, at most.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

/// All pairs, as their front says or as their spools are.
pub(super) fn all(file: &FrontFile) -> Result<Vec<Pair>, Failure> {
    match Asked::find(&file.control)? {
        Some(asked) => Ok(asked.stat()?.pairs),
        None => Ok(file.pairs.iter().map(|pair| stat::stopped(file, pair)).collect()),
    }
}

impl Stat {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let pairs = all(&self.which.file()?)?;
        let is_well = |pair: &Pair| {
            pair.spool.error.is_none() && (pair.live.is_some() || pair.state == "stopped")
        };
        let all_well = pairs.iter().all(is_well);
        if self.which.json {
            output::json_line(&pairs)?;
            return Ok(all_well);
        }
        let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
        rows.extend(pairs.iter().map(row));
        output::text(&output::table(&rows))?;
        for pair in &pairs {
            remarks(pair).iter().for_each(|remark| eprintln!("evs: {}: {remark}", pair.pair));
        }
        Ok(all_well)
    }
}

const HEADINGS: [&str; 17] = [
    "PAIR",
    "STATE",
    "HOLDER",
    "EPOCH",
    "TOTAL",
    "5s",
    "10s",
    "20s",
    "40s",
    "80s",
    "160s",
    "320s",
    "OLDER",
    "BYTES",
    "HELD",
    "IN DOUBT",
    "QUARANTINED",
];

fn row(pair: &Pair) -> Vec<String> {
    let dash = || "-".to_owned();
    let live = pair.live.as_ref();
    let holder = live.and_then(|live| pair.servers.get(live.holder).cloned());
    let spool = &pair.spool;
    let state = match live {
        Some(live) if live.on_hold => format!("{}, on hold", pair.state),
        _ => pair.state.clone(),
    };
    let mut row = vec![
        pair.pair.clone(),
        state,
        holder.unwrap_or_else(dash),
        live.map_or_else(dash, |live| live.epoch.to_string()),
        spool.pending.to_string(),
    ];
    let spans = stat::EDGES_MS.len() + 1;
    row.extend((0..spans).map(|nth| spool.ages.get(nth).map_or_else(dash, u64::to_string)));
    row.extend([
        show_size(spool.bytes),
        spool.held.to_string(),
        spool.in_doubt.to_string(),
        spool.quarantined.to_string(),
    ]);
    row
}

/// What an operator should know besides, with what can be done about it.
fn remarks(pair: &Pair) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(error) = &pair.spool.error {
        all.push(error.clone());
    }
    let Some(live) = &pair.live else { return all };
    let name = &pair.pair;
    if let Some(epoch) = live.split {
        all.push(format!(
            "another front has granted epoch {epoch}: stop it, then `evs spool release {name}`"
        ));
    }
    let texts = [
        (live.spool_full, "its spool is full: free some disk, or raise the quota".to_owned()),
        (live.hold_full, "as many requests wait for a server as may".to_owned()),
        (
            live.stuck,
            format!("keys wait for you: `evs spool ls --pair {name}`, then `retry` or `purge`"),
        ),
        (
            live.flap_guard,
            "it has switched a short time ago and waits before it does so again".to_owned(),
        ),
        (live.dry_run, "it only writes down what it would do (`dry-run`)".to_owned()),
    ];
    all.extend(texts.into_iter().filter(|(holds, _)| *holds).map(|(_, text)| text));
    if let Some(last) = live.alarms.last() {
        all.push(format!("its last alarm: {last}"));
    }
    all
}

impl Ls {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        let mut rows = Vec::new();
        for pair in pairs(&file, self.pair.as_deref())? {
            rows.extend(records(&file, pair, self.after, self.limit)?);
        }
        if self.which.json {
            output::json_line(&rows)?;
            return Ok(true);
        }
        if rows.is_empty() {
            eprintln!("evs: nothing waits in the spool");
            return Ok(true);
        }
        let mut shown = vec![RECORD.map(str::to_owned).to_vec()];
        let now = now_ms();
        shown.extend(rows.iter().map(|row| record(row, now)));
        output::text(&output::table(&shown))?;
        Ok(true)
    }
}

/// Records of a pair behind a place, through its front if one runs.
pub(super) fn records(
    file: &FrontFile,
    pair: &PairFile,
    after: u64,
    limit: usize,
) -> Result<Vec<Row>, Failure> {
    let asked = Asked::find(&file.control)?;
    let mut reader = match &asked {
        Some(_) => None,
        None => Some(file.open_reader(pair).map_err(Failure::new)?),
    };
    let (mut rows, mut after) = (Vec::new(), after);
    while rows.len() < limit {
        let wanted = (limit - rows.len()).min(ROWS_MAX);
        let some = match (&asked, &mut reader) {
            (Some(asked), _) => asked.rows(&pair.name, after, wanted)?,
            (None, Some(reader)) => {
                let listed = reader.reader().list(after, wanted).map_err(Failure::new)?;
                listed.into_iter().map(|row| Row::of(&pair.name, row)).collect()
            }
            (None, None) => Vec::new(),
        };
        let Some(last) = some.last() else { break };
        after = last.lsn;
        rows.extend(some);
    }
    Ok(rows)
}

const RECORD: [&str; 9] = ["PAIR", "LSN", "STATE", "KIND", "KEY", "PAYLOAD", "AGE", "ID", "NOTE"];
/// Characters of a key that a table shows.
const KEY_SHOWN: usize = 40;

fn record(row: &Row, now: u64) -> Vec<String> {
    let key = match row.key.char_indices().nth(KEY_SHOWN) {
        Some((end, _)) => format!("{}...", &row.key[..end]),
        None => row.key.clone(),
    };
    vec![
        row.pair.clone(),
        row.lsn.to_string(),
        row.state.clone(),
        row.kind.clone(),
        key,
        show_size(row.payload_bytes),
        show_millis(now.saturating_sub(row.accepted_ms)),
        row.id.clone(),
        row.note.replace('\n', " "),
    ]
}
