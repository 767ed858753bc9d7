//! A controller in a process of its own, with its tables in SQLite.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::pair::End;

/// Filling a table, or registering all devices, takes minutes on a slow disk.
const PATIENCE: Duration = Duration::from_secs(1200);

/// See the module.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) end: End,
    /// For devices.
    pub(super) door: SocketAddr,
    /// For partners.
    pub(super) partners: SocketAddr,
}

/// How a controller is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stat {
    /// Records in the table of the home's devices.
    pub(super) records: f64,
    /// Their bytes.
    pub(super) bytes: f64,
    /// Registrations that were told to come again.
    pub(super) retries: f64,
    /// Bytes that are resident.
    pub(super) resident: f64,
    /// The most that were since the controller was told to forget.
    pub(super) resident_most: f64,
    /// All links stand, and both sides have all.
    pub(super) in_sync: bool,
    /// Processor time of the process, in seconds.
    pub(super) cpu: f64,
}

/// A process that waits to be told what to be.
pub(super) fn worker(bench: &Bench<'_>) -> io::Result<End> {
    let mut end = End::of(bench, ["controller", "worker"])?;
    end.set_patience(PATIENCE);
    Ok(end)
}

impl Site {
    /// Its door takes `rate` registrations per second; the partner is dialled if there is an
    /// address of it.
    pub(super) fn start(
        bench: &Bench<'_>,
        name: &str,
        folder: &Path,
        rate: u32,
        partner: (&str, Option<SocketAddr>),
    ) -> io::Result<Self> {
        let mut end = worker(bench)?;
        let addr = partner.1.map_or_else(|| "-".to_owned(), |addr| addr.to_string());
        end.tell(&format!("node {name} {rate} {} {addr} {}", partner.0, folder.display()))?;
        let answer = end.answer()?;
        let told = || io::Error::other(format!("no addresses: {answer}"));
        let (door, partners) = answer.split_once(' ').ok_or_else(told)?;
        let door = door.parse().map_err(|_| told())?;
        Ok(Self { end, door, partners: partners.parse().map_err(|_| told())? })
    }

    pub(super) fn stat(&mut self) -> io::Result<Stat> {
        let told = self.end.ask("stat")?;
        let [records, bytes, retries, resident, resident_most, in_sync, cpu] = told[..] else {
            return Err(io::Error::other(format!("no status: {told:?}")));
        };
        let in_sync = in_sync > 0.0;
        Ok(Stat { records, bytes, retries, resident, resident_most, in_sync, cpu })
    }

    /// Asks again and again until the controller is as it should be.
    pub(super) fn wait(&mut self, what: &str, is_it: impl Fn(&Stat) -> bool) -> io::Result<Stat> {
        let until = Instant::now() + PATIENCE;
        loop {
            let stat = self.stat()?;
            if is_it(&stat) {
                return Ok(stat);
            }
            if Instant::now() > until {
                return Err(io::Error::other(format!("not in time: {what}: {stat:?}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Puts so many registrations at the controller into its table, before it is started.
pub(super) fn fill(bench: &Bench<'_>, name: &str, folder: &Path, count: usize) -> io::Result<()> {
    worker(bench)?.ask(&format!("fill {name} {count} {}", folder.display()))?;
    Ok(())
}
