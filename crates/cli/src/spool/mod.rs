//! `evs spool`: a front that never refuses a write while main and standby change places, and what
//! its operator does with it.
//!
//! * `run`: the front; `control`: where it takes commands; `metrics`: where it tells figures;
//!   `stat`: what both say.
//! * `ask`: the other end of the control socket.
//! * `list`, `order`, `drain`, `verify`, `job`: what operators do.
//! * `backend`: the reference backend.

mod ask;
mod backend;
mod control;
mod drain;
mod job;
mod list;
mod metrics;
mod order;
mod run;
mod run_job;
mod stat;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use eversock_spool::config::{FrontFile, PairFile};

use crate::failure::Failure;

/// A front that spools what is written while main and standby change places.
///
/// `run` serves the pairs of a file (see examples/spool.toml); all else looks at them and tells
/// them what to do: through the front while one runs, else in the spools themselves.
#[derive(Debug, Args)]
pub(crate) struct Spool {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Run(run::Run),
    Stat(list::Stat),
    Ls(list::Ls),
    Hold(order::Hold),
    Release(order::Release),
    Switch(order::Switch),
    Suspect(order::Suspect),
    Retry(order::Retry),
    Purge(order::Purge),
    Drain(drain::Drain),
    Verify(verify::Verify),
    Export(job::Export),
    RunJob(run_job::RunJob),
    Backend(backend::Backend),
}

/// Which front is meant.
#[derive(Debug, Args)]
struct Which {
    /// The file of the front.
    #[arg(long, value_name = "FILE", default_value = "/etc/eversock/spool.toml")]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Spool {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        match self.what {
            What::Run(command) => command.run(),
            What::Stat(command) => command.run(),
            What::Ls(command) => command.run(),
            What::Hold(command) => command.run(),
            What::Release(command) => command.run(),
            What::Switch(command) => command.run(),
            What::Suspect(command) => command.run(),
            What::Retry(command) => command.run(),
            What::Purge(command) => command.run(),
            What::Drain(command) => command.run(),
            What::Verify(command) => command.run(),
            What::Export(command) => command.run(),
            What::RunJob(command) => command.run(),
            What::Backend(command) => command.run(),
        }
    }

    /// Whether it goes on unattended and is to log what happens.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self.what, What::Run(_) | What::Backend(_))
    }
}

impl Which {
    fn file(&self) -> Result<FrontFile, Failure> {
        FrontFile::from_file(&self.config).map_err(Failure::usage)
    }
}

/// The pair of this name, or all.
fn pairs<'a>(file: &'a FrontFile, name: Option<&str>) -> Result<Vec<&'a PairFile>, Failure> {
    match name {
        None => Ok(file.pairs.iter().collect()),
        Some(name) => Ok(vec![pair(file, name)?]),
    }
}

fn pair<'a>(file: &'a FrontFile, name: &str) -> Result<&'a PairFile, Failure> {
    file.pair(name).map_err(Failure::usage)
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
