//! `evs bench`: what eversock costs beside plain TCP.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use eversock_bench::{Host, Options};

use crate::failure::Failure;
use crate::output;
use crate::program::library;

/// Measure what eversock costs beside plain TCP, and how long its recoveries take.
///
/// Every figure is taken in turns with its reference, in the same run, between processes that this
/// command starts on this machine: the median of the turns with the least and the greatest. Takes
/// most of an hour in full, on a machine that does nothing else meanwhile. What this machine lacks
/// (root for network namespaces, cc, socat, stunnel, sshd, PostgreSQL, the preload's library) is
/// skipped and said so on standard error. What has to be durable is written below TMPDIR, which
/// should be a disk. Exit status 0 also where a goal is missed; 1 if a measurement broke off.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Small amounts and few turns, under three minutes: shows that it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Write one JSON object with the machine and the rows instead of the table.
    #[arg(long)]
    json: bool,
    /// Only measurements whose name contains this; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Turns of each measurement [default: 5, with --quick 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: Option<u32>,
    /// Write BENCHMARKS.md into this folder too, and a plot for each table into `bench` below it.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Print the names of the measurements and end.
    #[arg(long)]
    list: bool,
}

/// One end of a measurement.
#[derive(Debug, Args)]
pub(crate) struct BenchPeer {
    /// A kind of stream, and `server`, `server@IP` or an address.
    #[arg(required = true)]
    words: Vec<String>,
}

impl BenchPeer {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let done = eversock_bench::child(&self.words);
        // What went wrong has been said.
        if done == ExitCode::SUCCESS { Ok(true) } else { Err(Failure::silent(1)) }
    }
}

impl Bench {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        if self.list {
            let names: Vec<&str> = eversock_bench::names().collect();
            return output::text(&format!("{}\n", names.join("\n"))).map(|()| true);
        }
        let own = std::env::current_exe().map_err(|error| {
            Failure::new(format!("where evs itself is cannot be found: {error}"))
        })?;
        let evs = own.clone();
        let host = Host {
            child: vec![own.into_os_string(), OsString::from("bench-peer")],
            preload: Box::new(library::find),
            evs: Box::new(move || Ok(evs.clone())),
        };
        let command = self.command();
        let options = Options {
            quick: self.quick,
            json: self.json,
            only: self.only,
            repeat: self.repeat.map(|n| n as usize),
        };
        if let Some(folder) = &self.write {
            // Better now than after an hour.
            can_write(folder)?;
        }
        let report = eversock_bench::run(&options, &host, Box::new(io::stdout()));
        let report = report.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => Failure::usage(error),
            _ => Failure::output(&error),
        })?;
        if let Some(folder) = &self.write {
            eversock_bench::write(&report, &command, folder).map_err(Failure::new)?;
        }
        Ok(report.is_complete())
    }

    /// As one would type it.
    fn command(&self) -> String {
        let mut words = vec!["evs bench".to_owned()];
        words.extend(self.quick.then(|| "--quick".to_owned()));
        words.extend(self.json.then(|| "--json".to_owned()));
        words.extend(self.only.iter().map(|name| format!("--only {name}")));
        words.extend(self.repeat.map(|n| format!("--repeat {n}")));
        words.extend(self.write.iter().map(|folder| format!("--write {}", folder.display())));
        words.join(" ")
    }
}

fn can_write(folder: &Path) -> Result<(), Failure> {
    let plots = folder.join("bench");
    std::fs::create_dir_all(&plots).map_err(|error| {
        Failure::usage(format!("--write: cannot make {}: {error}", plots.display()))
    })
}
