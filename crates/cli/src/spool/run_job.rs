//! `evs spool run-job`: gives a job file to a server.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::bounded;
use eversock_spool::job::{JobError, JobReader};
use eversock_spool::limits::{BATCH_BYTES_MAX, BATCH_MAX};
use eversock_spool::link::{LinkConfig, SocketTarget};
use eversock_spool::record::Record;
use eversock_spool::target::{Call, Grant, ItemResult, Report, Target};
use serde::Serialize;

use super::stat::printable;
use crate::failure::Failure;
use crate::key::{self, KeyOptions};
use crate::{output, units};

/// Have a server work a job file off, and print what became of each request.
///
/// For a time without a front: the server is given a new lock for the job, so a front that serves
/// it at the moment would lose its own. The file is checked as a whole before anything is sent.
/// Requests that the server has done before, by its ledger, are not done again. Exit status 1 if
/// not all of them took effect.
#[derive(Debug, Args)]
pub(crate) struct RunJob {
    /// What `evs spool export` has written.
    file: PathBuf,
    /// Which server.
    #[arg(long, value_name = "eversock://HOST:PORT")]
    server: String,
    #[command(flatten)]
    keys: KeyOptions,
    /// How long one call may take, and how long a server that has no time is asked again.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "30s")]
    timeout: Duration,
    /// Print a JSON object a request.
    #[arg(long)]
    json: bool,
}

/// How long the lock holds; it is renewed when half of it is over.
const LEASE: Duration = Duration::from_secs(60);
/// How long a server may take to say something of itself.
const PROBE: Duration = Duration::from_secs(2);
/// A server that is asked again is asked no sooner.
const AGAIN_MIN: Duration = Duration::from_millis(100);

/// What became of a request.
#[derive(Debug, Serialize)]
struct Told {
    lsn: u64,
    id: String,
    /// "done", "again" (it had been done before), "refused", "later".
    outcome: &'static str,
    code: Option<u32>,
    /// What the server said, as text.
    answer: String,
}

impl RunJob {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let path = self.file.display().to_string();
        let failed = |error: JobError| Failure::new(format!("{path}: {error}"));
        let file = File::open(&self.file).map_err(|error| failed(error.into()))?;
        let mut file = BufReader::new(file);
        let count = check(&mut file).map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(|error| failed(error.into()))?;
        let server = Server::connect(&self)?;
        let mut job = JobReader::new(file).map_err(failed)?;
        let (mut batch, mut bytes, mut all_well) = (Vec::new(), 0, true);
        while let Some(record) = job.next_record().map_err(failed)? {
            let weight = record.key.len() + record.payload.len();
            if batch.len() == BATCH_MAX || !batch.is_empty() && bytes + weight > BATCH_BYTES_MAX {
                all_well &= self.execute(&server, std::mem::take(&mut batch))?;
                bytes = 0;
            }
            bytes += weight;
            batch.push(record);
        }
        if !batch.is_empty() {
            all_well &= self.execute(&server, batch)?;
        }
        eprintln!("evs: {}: a job of {count} requests was worked off", job.pair());
        server.end();
        Ok(all_well)
    }

    /// Has a batch executed, as often as it takes, and tells of it. True: all of it took effect.
    fn execute(&self, server: &Server, batch: Vec<Record>) -> Result<bool, Failure> {
        let until = Instant::now() + self.timeout;
        let (mut left, mut all_well) = (batch, true);
        loop {
            let results = server.call(&left, self.timeout)?;
            let mut later = Vec::new();
            let mut wait = AGAIN_MIN;
            for (record, result) in left.into_iter().zip(results) {
                match result {
                    ItemResult::Later { after } if Instant::now() < until => {
                        wait = wait.max(after);
                        later.push(record);
                    }
                    result => all_well &= self.tell(&record, result)?,
                }
            }
            if later.is_empty() {
                return Ok(all_well);
            }
            left = later;
            thread::sleep(wait.min(until.saturating_duration_since(Instant::now())));
        }
    }

    fn tell(&self, record: &Record, result: ItemResult) -> Result<bool, Failure> {
        let (outcome, code, answer) = match result {
            ItemResult::Done { answer, again: false } => ("done", None, printable(&answer)),
            ItemResult::Done { answer, again: true } => ("again", None, printable(&answer)),
            ItemResult::Refused { code, text } => ("refused", Some(code), text),
            ItemResult::Later { .. } => ("later", None, "the server has no time".to_owned()),
        };
        let told = Told { lsn: record.lsn, id: record.id.to_string(), outcome, code, answer };
        if self.json {
            output::json_line(&told)?;
        } else {
            let code = code.map(|code| format!(" {code}")).unwrap_or_default();
            let Told { lsn, id, answer, .. } = &told;
            output::text(&format!("{lsn}  {id}  {outcome}{code}  {answer}\n"))?;
        }
        Ok(matches!(outcome, "done" | "again"))
    }
}

/// Reads a job to its end. Says how many records it has.
fn check(file: &mut BufReader<File>) -> Result<u64, JobError> {
    let mut job = JobReader::new(file)?;
    let mut count = 0;
    while job.next_record()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// A server that holds the lock for the job.
struct Server {
    name: String,
    target: Arc<SocketTarget>,
    epoch: u64,
    renewed: std::cell::Cell<Instant>,
}

impl Server {
    fn connect(options: &RunJob) -> Result<Self, Failure> {
        let name = options.server.clone();
        let wrong = |what: &str| Failure::usage(format!("{name}: {what}"));
        let place = name.strip_prefix("eversock://").ok_or_else(|| {
            wrong("expected eversock://HOST:PORT; to a server that speaks HTTP a job is no request")
        })?;
        let addrs: Vec<SocketAddr> =
            place.to_socket_addrs().map_err(|error| wrong(&error.to_string()))?.collect();
        if options.keys.allowed_clients.is_some() {
            return Err(wrong("--allowed-clients is the server's"));
        }
        let mut link = LinkConfig::new(&name);
        key::configure(&options.keys.rule(), &mut link.socket).map_err(Failure::usage)?;
        let failed = |what: String| Failure::new(format!("{name}: {what}"));
        let target = SocketTarget::new(addrs, link).map_err(|error| failed(error.to_string()))?;
        let until = Instant::now() + options.timeout;
        let report = loop {
            if let Some(report) = probe(&target) {
                break report;
            }
            if Instant::now() >= until {
                let why = target.error().unwrap_or_else(|| "it does not answer".to_owned());
                return Err(failed(format!("{why}; is it up?")));
            }
            thread::sleep(AGAIN_MIN);
        };
        if let Some(epoch) = report.holds {
            return Err(failed(format!(
                "it has a lock, epoch {epoch}, from a front: stop that front, and wait until its \
                 lease is over"
            )));
        }
        if !report.ready {
            return Err(failed("it says that it cannot work: look at it".to_owned()));
        }
        let epoch = report.seen.saturating_add(1);
        let renewed = std::cell::Cell::new(Instant::now());
        let server = Self { name: name.clone(), target, epoch, renewed };
        server.grant(&report)?;
        Ok(server)
    }

    fn grant(&self, report: &Report) -> Result<(), Failure> {
        let grant = Grant { epoch: self.epoch, lease: LEASE, stamp: report.stamp };
        let (reply, answer) = bounded(1);
        let tell = move |ok| {
            let _ = reply.send(ok);
        };
        self.target.grant(grant, Box::new(tell));
        if answer.recv() != Ok(true) {
            return Err(self.failed("it does not take the lock: is a front at work with it?"));
        }
        self.renewed.set(Instant::now());
        Ok(())
    }

    fn failed(&self, what: &str) -> Failure {
        Failure::new(format!("{}: {what}", self.name))
    }

    fn call(&self, items: &[Record], timeout: Duration) -> Result<Vec<ItemResult>, Failure> {
        if self.renewed.get().elapsed() > LEASE / 2 {
            let report = probe(&self.target);
            self.grant(&report.ok_or_else(|| self.failed("it does not answer any more"))?)?;
        }
        // The number of the job: no two have one epoch.
        let job = Some(self.epoch);
        let call = Call { epoch: self.epoch, items: items.into(), job, timeout };
        let (reply, answer) = bounded(1);
        let tell = move |result| {
            let _ = reply.send(result);
        };
        self.target.call(call, Box::new(tell));
        match answer.recv() {
            Ok(Ok(results)) => Ok(results),
            Ok(Err(error)) => Err(self.failed(&format!(
                "{error}; what took effect is known to its ledger: run the job again"
            ))),
            Err(_) => Err(self.failed("the link to it has ended")),
        }
    }

    /// Gives the lock back, so that the next front need not wait for its end.
    fn end(self) {
        let (reply, answer) = bounded(1);
        let tell = move |ok| {
            let _ = reply.send(ok);
        };
        self.target.release(self.epoch, PROBE, Box::new(tell));
        if answer.recv() != Ok(true) {
            eprintln!("evs: {}: it keeps its lock until {LEASE:?} are over", self.name);
        }
        self.target.close();
        eversock::shutdown();
    }
}

fn probe(target: &SocketTarget) -> Option<Report> {
    let (reply, answer) = bounded(1);
    let tell = move |report| {
        let _ = reply.send(report);
    };
    target.probe(PROBE, Box::new(tell));
    answer.recv().ok().flatten()
}
