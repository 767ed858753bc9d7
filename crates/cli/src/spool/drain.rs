//! `evs spool drain`: the backlog goes to the main, or what would go is shown.

use std::collections::HashSet;
use std::io::{IsTerminal, stderr};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use eversock_spool::config::{FrontFile, PairFile};
use eversock_spool::record::Lane;
use eversock_spool::store::Found;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use super::ask::{Asked, Order};
use super::stat::{self, Pair, Row};
use super::{Which, now_ms, pair};
use crate::failure::Failure;
use crate::output;
use crate::units::{self, show_millis, show_size};

/// Release a pair and wait until nothing waits in its spool; or show what would be sent.
///
/// Exit status 1 if it does not come to that: what is left waits for an operator, or the time is
/// over.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    #[command(flatten)]
    which: Which,
    /// Which pair.
    pair: String,
    /// Only show what would be sent: in which order, how much, to which server.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: so many records, the first to be sent.
    #[arg(long, value_name = "N", default_value_t = 20, requires = "dry_run")]
    limit: usize,
    /// Wait no longer than this; what is not drained by then goes on.
    #[arg(long, value_name = "TIME", value_parser = units::duration, conflicts_with = "dry_run")]
    timeout: Option<Duration>,
}

/// Records, and bytes, that are read at once.
const PAGE: usize = 512;
const PAGE_BYTES: u64 = 8 << 20;
/// Keys that are told apart: more are as many.
const KEYS_MAX: usize = 1_000_000;
/// How often the front is asked.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Rates are of so long.
const RATE_OVER: Duration = Duration::from_secs(1);

impl Drain {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        let pair = pair(&file, &self.pair)?;
        if self.dry_run {
            self.plan(&file, pair)?;
            return Ok(true);
        }
        self.drain(&file, pair)
    }

    fn plan(&self, file: &FrontFile, pair: &PairFile) -> Result<(), Failure> {
        let mut plan = Plan::of(file, pair, self.limit)?;
        if let Some(asked) = Asked::find(&file.control)? {
            let now = of(asked.stat()?.pairs, &pair.name)?;
            plan.state = now.state;
            plan.to = now.live.and_then(|live| now.servers.get(live.holder).cloned());
        }
        if self.which.json { output::json_line(&plan) } else { plan.show() }
    }

    fn drain(&self, file: &FrontFile, pair: &PairFile) -> Result<bool, Failure> {
        let Some(asked) = Asked::find(&file.control)? else {
            return Err(Failure::new(format!(
                "{}: no front runs that could drain it (looked at {}); start it with `evs spool \
                 run`",
                pair.name,
                file.control.display()
            )));
        };
        asked.order(&pair.name, Order::Release)?;
        let began = Instant::now();
        let mut watch: Option<Watch> = None;
        loop {
            let now = of(asked.stat()?.pairs, &pair.name)?;
            let progress = Progress::of(&now)?;
            let watch = watch.get_or_insert_with(|| Watch::new(progress, self.which.json));
            watch.show(&now, progress);
            if progress.left == 0 {
                watch.end();
                let (drained, took) = (watch.drained(progress), began.elapsed());
                self.say_done(&pair.name, drained, took)?;
                return Ok(true);
            }
            let is_over = self.timeout.is_some_and(|timeout| began.elapsed() >= timeout);
            if let Some(why) = hindrance(&now, is_over) {
                watch.end();
                return Err(Failure::new(format!("{}: {why}", pair.name)));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn say_done(&self, name: &str, drained: u64, took: Duration) -> Result<(), Failure> {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if self.which.json {
            return output::json_line(&json!({ "pair": name, "drained": drained, "ms": millis }));
        }
        let took = show_millis(millis);
        output::text(&format!("{name}: nothing waits; {drained} records went in {took}\n"))
    }
}

fn of(pairs: Vec<Pair>, name: &str) -> Result<Pair, Failure> {
    let found = pairs.into_iter().find(|pair| pair.pair == name);
    found.ok_or_else(|| {
        Failure::new(format!("{name}: the front that runs does not have it: start it anew"))
    })
}

/// Why it is no use to wait any longer.
fn hindrance(now: &Pair, is_over: bool) -> Option<String> {
    let (name, spool) = (&now.pair, &now.spool);
    if spool.held > 0 && spool.held >= spool.pending {
        return Some(format!(
            "the {} records that are left are held since nobody knows whether they took effect: \
             `evs spool ls --pair {name}`, then `retry` or `purge`",
            spool.held
        ));
    }
    let live = now.live.as_ref()?;
    if live.on_hold {
        return Some(format!("somebody has told it to hold: `evs spool release {name}`"));
    }
    if live.split.is_some() {
        return Some(format!("another front serves it: stop that, `evs spool release {name}`"));
    }
    is_over.then(|| {
        format!(
            "{} records wait still, and it is {}; it goes on: look at `evs spool stat`",
            spool.pending, now.state
        )
    })
}

/// How far it has come.
#[derive(Debug, Clone, Copy)]
struct Progress {
    left: u64,
    drained: u64,
}

impl Progress {
    fn of(now: &Pair) -> Result<Self, Failure> {
        if let Some(error) = &now.spool.error {
            return Err(Failure::new(error));
        }
        match &now.live {
            Some(live) => Ok(Self { left: now.spool.pending, drained: live.counters.drained }),
            None => Err(Failure::new(format!("{}: it does not answer", now.pair))),
        }
    }
}

/// What is shown meanwhile, on standard error: a bar on a terminal, lines elsewhere.
struct Watch {
    bar: Option<ProgressBar>,
    is_silent: bool,
    before: u64,
    line_at: Option<Instant>,
    /// What the rate is reckoned from.
    since: (Instant, u64),
    rate: f64,
}

impl Watch {
    fn new(progress: Progress, is_silent: bool) -> Self {
        let bar = (!is_silent && stderr().is_terminal()).then(|| {
            let template = "  {prefix} {bar:28.cyan/blue} {pos}/{len} {per_sec}, {eta} left {msg}";
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("##-");
            ProgressBar::new(progress.left).with_style(style)
        });
        let since = (Instant::now(), progress.drained);
        Self { bar, is_silent, before: progress.drained, line_at: None, since, rate: 0.0 }
    }

    fn drained(&self, progress: Progress) -> u64 {
        progress.drained.saturating_sub(self.before)
    }

    fn show(&mut self, now: &Pair, progress: Progress) {
        let drained = self.drained(progress);
        if let Some(bar) = &self.bar {
            // New records join it meanwhile.
            bar.set_length(drained + progress.left);
            bar.set_position(drained);
            bar.set_prefix(now.pair.clone());
            bar.set_message(format!("({})", now.state));
            return;
        }
        let (at, count) = self.since;
        if at.elapsed() >= RATE_OVER {
            self.rate = progress.drained.saturating_sub(count) as f64 / at.elapsed().as_secs_f64();
            self.since = (Instant::now(), progress.drained);
        }
        let is_due = self.line_at.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        if self.is_silent || !is_due {
            return;
        }
        self.line_at = Some(Instant::now());
        let left = match self.rate {
            rate if rate > 0.0 => {
                let seconds = (progress.left as f64 / rate).ceil();
                format!("{rate:.0} a second, about {seconds:.0} s left")
            }
            _ => "no rate yet".to_owned(),
        };
        let (name, waits) = (&now.pair, progress.left);
        eprintln!("evs: {name}: {}: {waits} records wait, {drained} went, {left}", now.state);
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What would be sent.
#[derive(Debug, Default, Serialize)]
struct Plan {
    pair: String,
    state: String,
    /// The server that has the lock; whichever gets it, if no front runs.
    to: Option<String>,
    records: u64,
    bytes: u64,
    /// Lanes that are in order each, and go beside each other.
    keys: u64,
    calls_at_once: usize,
    /// Sent before without an answer: sent again, given up or held, as `in-doubt` says.
    in_doubt: u64,
    /// Left alone until an operator lets them go.
    held: u64,
    /// Of the keys of those that are held, and behind them: they wait as well.
    behind_held: u64,
    /// Set aside when their turn comes.
    damaged: u64,
    first: Vec<Row>,
}

impl Plan {
    fn of(file: &FrontFile, pair: &PairFile, limit: usize) -> Result<Self, Failure> {
        let mut reader = file.open_reader(pair).map_err(Failure::new)?;
        let mut plan = Self {
            pair: pair.name.clone(),
            state: "stopped".to_owned(),
            calls_at_once: pair.config.drain_calls_max,
            ..Self::default()
        };
        let mut keys: HashSet<Lane> = HashSet::new();
        let mut blocked: HashSet<Lane> = HashSet::new();
        let mut after = 0;
        loop {
            let page = reader.reader().pending(after, PAGE, PAGE_BYTES).map_err(Failure::new)?;
            let Some(last) = page.last() else { break };
            after = last.lsn();
            for found in page {
                plan.add(&found, &mut keys, &mut blocked, limit);
            }
        }
        plan.keys = keys.len() as u64;
        Ok(plan)
    }

    fn add(
        &mut self,
        found: &Found,
        keys: &mut HashSet<Lane>,
        blocked: &mut HashSet<Lane>,
        limit: usize,
    ) {
        let Found::Whole { record, sent, held } = found else {
            self.damaged += 1;
            return;
        };
        let lane = record.lane();
        if *held {
            self.held += 1;
            if blocked.len() < KEYS_MAX {
                blocked.insert(lane);
            }
            return;
        }
        if blocked.contains(&lane) {
            self.behind_held += 1;
            return;
        }
        if keys.len() < KEYS_MAX {
            keys.insert(lane);
        }
        self.records += 1;
        self.bytes += record.weight();
        self.in_doubt += u64::from(*sent);
        if self.first.len() < limit {
            self.first.push(Row {
                pair: self.pair.clone(),
                lsn: record.lsn,
                id: record.id.to_string(),
                kind: record.kind.to_string(),
                key: stat::printable(&record.key),
                payload_bytes: record.payload.len() as u64,
                accepted_ms: record.accepted_ms,
                state: if *sent { "in doubt" } else { "pending" }.to_owned(),
                note: String::new(),
            });
        }
    }

    fn show(&self) -> Result<(), Failure> {
        let to = match &self.to {
            Some(name) => format!("{name}, which has the lock (the pair is {})", self.state),
            None => "whichever server gets the lock (no front runs)".to_owned(),
        };
        let mut text = format!(
            "{}: {} records, {}, of {} keys, would go to {to}\n",
            self.pair,
            self.records,
            show_size(self.bytes),
            self.keys
        );
        text.push_str(&format!(
            "in the order of their places; keys beside each other, in up to {} calls at once\n",
            self.calls_at_once
        ));
        let besides = [
            (self.in_doubt, "of them were sent before without an answer (`in-doubt` decides)"),
            (self.held, "records are held and stay"),
            (self.behind_held, "records stay behind held ones of their keys"),
            (self.damaged, "records are damaged and would be set aside"),
        ];
        for (count, what) in besides.iter().filter(|(count, _)| *count > 0) {
            text.push_str(&format!("{count} {what}\n"));
        }
        if !self.first.is_empty() {
            text.push('\n');
            text.push_str(&self.table());
        }
        let more = self.records.saturating_sub(self.first.len() as u64);
        if more > 0 {
            text.push_str(&format!("... and {more} more\n"));
        }
        output::text(&text)
    }

    fn table(&self) -> String {
        let now = now_ms();
        let headings = ["LSN", "KIND", "KEY", "PAYLOAD", "AGE", "ID"];
        let mut rows = vec![headings.map(str::to_owned).to_vec()];
        rows.extend(self.first.iter().map(|row| {
            vec![
                row.lsn.to_string(),
                row.kind.clone(),
                row.key.chars().take(40).collect(),
                show_size(row.payload_bytes),
                show_millis(now.saturating_sub(row.accepted_ms)),
                row.id.clone(),
            ]
        }));
        output::table(&rows)
    }
}
