//! `evs sim`: whole systems in virtual time, seed after seed.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use eversock_sim::{Finding, Options, Outcome, Stats, run};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output;

/// Simulate whole systems and check what must always hold.
///
/// Each seed decides clients, servers, sessions, programs and faults. The protocol is the real one,
/// network and clock are simulated, so that a seed takes the same steps each time. The exit status
/// is 0 only if no seed broke a rule.
#[derive(Debug, Args)]
pub(crate) struct Sim {
    /// How many seeds to run.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed_base: u64,
    /// Run this seed alone and print every event.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "seed_base", "jobs"])]
    replay: Option<u64>,
    /// How many to run at a time; as many as there are processors if this is left out.
    #[arg(long, value_name = "J")]
    jobs: Option<NonZero<usize>>,
    /// Write the result as JSON on one line.
    #[arg(long)]
    json: bool,
}

/// Findings that are told in full; of more than these only the number is told.
const SHOWN_MAX: usize = 5;
/// The slowest seeds take seconds; one that takes so long does not end.
const HUNG_AFTER: Duration = Duration::from_secs(300);
/// How often a campaign says how far it has come.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

impl Sim {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        match self.replay {
            Some(seed) => self.replay(seed),
            None => self.campaign(),
        }
    }

    fn replay(&self, seed: u64) -> Result<bool, Failure> {
        let outcome = run(seed, &Options { trace: true, ..Options::default() });
        if self.json {
            output::json_line(&json!({
                "seed": seed,
                "hash": format!("{:016x}", outcome.hash),
                "trace": outcome.trace,
                "finding": outcome.finding.as_ref().map(finding),
            }))?;
            return Ok(outcome.finding.is_none());
        }
        for line in outcome.plan.iter().chain(&outcome.trace) {
            output::text(&format!("{line}\n"))?;
        }
        let Outcome { hash, events, time, .. } = outcome;
        let seconds = time as f64 / 1e6;
        let end = match &outcome.finding {
            Some(finding) => format!("invariant {}: {}", finding.invariant, finding.what),
            None => "no finding".to_owned(),
        };
        output::text(&format!(
            "seed {seed}: {events} events in {seconds:.3} s of simulated time, trace {hash:016x}: \
             {end}\n"
        ))?;
        Ok(outcome.finding.is_none())
    }

    fn campaign(&self) -> Result<bool, Failure> {
        let Some(end) = self.seed_base.checked_add(self.seeds) else {
            return Err(Failure::usage("--seed-base and --seeds together exceed 64 bits"));
        };
        let jobs =
            self.jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZero::get);
        let began = Instant::now();
        let all = Mutex::new(Campaign::default());
        let next = AtomicU64::new(self.seed_base);
        let is_stopped = AtomicBool::new(false);
        let watch = Watch::new(HUNG_AFTER);
        let work = || {
            while !is_stopped.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    break;
                }
                watch.begin(seed);
                let outcome = run(seed, &Options::default());
                watch.end(seed);
                let Ok(mut all) = all.lock() else { break };
                all.take(outcome);
                if all.said.is_none_or(|said| said.elapsed() >= PROGRESS_EVERY) && !self.json {
                    if all.said.is_some() {
                        eprintln!("{} of {} seeds", all.runs, self.seeds);
                    }
                    all.said = Some(Instant::now());
                }
                if all.count >= SHOWN_MAX * 20 {
                    is_stopped.store(true, Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| {
            let others: Vec<_> = (1..jobs).map(|_| scope.spawn(work)).collect();
            work();
            others.into_iter().for_each(|other| {
                // A run that panics is a finding of its own; nothing else in there does.
                let _ = other.join();
            });
        });
        let all = all.into_inner().map_err(|_| Failure::new("a thread of the campaign died"))?;
        self.report(&all, began.elapsed())?;
        Ok(all.count == 0 && all.runs == self.seeds)
    }

    fn report(&self, all: &Campaign, took: Duration) -> Result<(), Failure> {
        let per_second = all.runs as f64 / took.as_secs_f64().max(1e-9);
        if self.json {
            return output::json_line(&json!({
                "seeds": all.runs,
                "seed_base": self.seed_base,
                "findings": all.count,
                "first": all.findings.iter().map(finding).collect::<Vec<_>>(),
                "hash": format!("{:016x}", all.hash),
                "events": all.events,
                "elapsed_s": took.as_secs_f64(),
                "seeds_per_s": per_second,
                "stats": stats(&all.stats),
            }));
        }
        for finding in &all.findings {
            output::text(&format!("{finding}\n\n"))?;
        }
        if all.count > all.findings.len() {
            output::text(&format!("and {} more\n\n", all.count - all.findings.len()))?;
        }
        let Stats { sessions, resumes, faults, cuts, attacks, .. } = all.stats;
        output::text(&format!(
            "{} seeds from {} on, {} findings; {sessions} sessions, {resumes} resumes, \
             {faults} faults, {cuts} cuts, {attacks} attacks; {per_second:.0} seeds/s, \
             traces {:016x}\n",
            all.runs, self.seed_base, all.count, all.hash
        ))
    }
}

/// Looks after the seeds that are being run. A run counts its steps and ends by itself, but nothing
/// counts inside of one: a loop there would keep the campaign silent for ever.
#[derive(Debug)]
struct Watch {
    running: Arc<Mutex<BTreeMap<u64, Instant>>>,
    /// The watching thread ends with it.
    _until: mpsc::Sender<()>,
}

impl Watch {
    fn new(limit: Duration) -> Self {
        let running = Arc::new(Mutex::new(BTreeMap::<u64, Instant>::new()));
        let (until, ended) = mpsc::channel();
        let watched = Arc::clone(&running);
        thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(Duration::from_secs(1)) {
                let Ok(running) = watched.lock() else { return };
                let hung = running.iter().find(|(_, since)| since.elapsed() >= limit);
                if let Some((seed, _)) = hung {
                    eprintln!(
                        "seed {seed} has not ended within {limit:?}: a step of it goes in circles; \
                         `evs sim --replay {seed}` under a debugger shows where"
                    );
                    // Its thread cannot be ended otherwise.
                    std::process::exit(1);
                }
            }
        });
        Self { running, _until: until }
    }

    fn begin(&self, seed: u64) {
        if let Ok(mut running) = self.running.lock() {
            running.insert(seed, Instant::now());
        }
    }

    fn end(&self, seed: u64) {
        if let Ok(mut running) = self.running.lock() {
            running.remove(&seed);
        }
    }
}

/// What came of the seeds so far.
#[derive(Debug, Default)]
struct Campaign {
    runs: u64,
    events: u64,
    count: usize,
    /// The first findings by their seeds.
    findings: Vec<Finding>,
    stats: Stats,
    /// Of all traces, whatever the order in which they came.
    hash: u64,
    said: Option<Instant>,
}

impl Campaign {
    fn take(&mut self, outcome: Outcome) {
        self.runs += 1;
        self.events += outcome.events;
        self.hash = self.hash.wrapping_add(outcome.hash);
        self.stats.add(&outcome.stats);
        if let Some(finding) = outcome.finding {
            self.count += 1;
            self.findings.push(finding);
            self.findings.sort_by_key(|finding| finding.seed);
            self.findings.truncate(SHOWN_MAX);
        }
    }
}

fn finding(finding: &Finding) -> Value {
    json!({
        "seed": finding.seed,
        "at_us": finding.at,
        "invariant": finding.invariant,
        "what": finding.what,
        "last": finding.last,
        "replay": format!("evs sim --replay {}", finding.seed),
    })
}

fn stats(stats: &Stats) -> Value {
    let endings: serde_json::Map<String, Value> = Stats::ENDINGS
        .iter()
        .zip(stats.endings)
        .map(|(name, count)| ((*name).to_owned(), count.into()))
        .collect();
    json!({
        "sessions": stats.sessions,
        "resumes": stats.resumes,
        "opened_by_resume": stats.opened_by_resume,
        "faults": stats.faults,
        "cuts": stats.cuts,
        "attacks": stats.attacks,
        "violations": stats.violations,
        "old_epochs": stats.old_epochs,
        "backlog_full": stats.backlog_full,
        "forgotten": stats.forgotten,
        "sealed": stats.sealed,
        "tampered": stats.tampered,
        "written": stats.written,
        "read": stats.read,
        "tainted": stats.tainted,
        "endings": endings,
    })
}
