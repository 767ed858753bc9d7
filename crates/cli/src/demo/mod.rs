//! `evs demo`: two processes talk through a proxy that keeps cutting their connection; once over
//! plain TCP, once over eversock.

pub(crate) mod content;
mod cuts;
mod ends;
mod message;
pub(crate) mod peer;
mod report;
mod screen;
mod transfer;

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use eversock_chaos::{Config, Events, Proxy};

use self::ends::Ends;
use self::message::Link;
use self::screen::Screen;
use self::transfer::{Report, Transfer};
use crate::failure::Failure;
use crate::units::{self, show_millis, show_size};

/// Transfer data both ways through a network that keeps cutting the connection.
///
/// A sender and a receiver process send --size bytes to each other at the same time, through a
/// proxy that cuts their connection --cuts times; first over plain TCP, which dies at the first
/// cut, then over eversock. Exit status 0: what arrived is what was sent, and every cut came while
/// data was flowing.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Demo {
    /// Bytes to send in each direction.
    #[arg(long, value_name = "SIZE", value_parser = units::size, default_value = "256MiB")]
    size: u64,
    /// How often to cut the connection.
    #[arg(long, value_name = "N", default_value_t = 50)]
    cuts: usize,
    /// How the session's descriptors are made.
    #[arg(long, default_value = "direct")]
    mode: DemoMode,
    /// Determines the bytes that are sent, and where they are cut.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Give up after this time.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10min")]
    timeout: Duration,
    /// Print the result as one JSON object and show nothing else.
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Keys of the JSON object:
  bytes             that arrived, both directions together
  cuts              of the session's connections
  resumes           of the session; less than cuts if a resume was cut, too
  replayed_bytes    that were sent again, by both ends
  longest_stall_ms  the longest time in which an end that waited for bytes got none
  sha256_sent       SHA-256 of the hexadecimal SHA-256 of what the sender sent, followed by that of
                    what the receiver sent
  sha256_received   the same of what the receiver and the sender received; both are null if an end
                    gave no result in time
  intact            all arrived, unchanged
  plain_tcp         the same transfer over plain TCP: intact, bytes that arrived, error (or null)";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DemoMode {
    /// The program's own threads read and write the real socket.
    Direct,
    /// The engine copies between the real socket and an ordinary one.
    Pumped,
}

/// The control is over at the first cut; this is only for the case that it hangs.
const CONTROL_TIME_MAX: Duration = Duration::from_secs(60);

impl Demo {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let total = self.total()?;
        let began = Instant::now();
        let deadline = began
            .checked_add(self.timeout)
            .ok_or_else(|| Failure::usage("--timeout is more than the clock can count"))?;
        let screen = Screen::new(self.json);
        let (mode, link) = match self.mode {
            DemoMode::Direct => ("direct", Link::Direct),
            DemoMode::Pumped => ("pumped", Link::Pumped),
        };

        let mut control_ends = Ends::new(Link::Plain, self.size, self.seed);
        let upstream = control_ends.listen(deadline)?;
        let plan = cuts::plan(self.seed, self.cuts, total);
        let listen = ([127, 0, 0, 1], 0).into();
        let mut config = Config::new(listen, upstream).with_plan(plan);
        // What the kernels have not delivered is lost, as it would be.
        config.flush = Duration::ZERO;
        let proxy = Proxy::spawn(config)
            .map_err(|error| Failure::new(format!("cannot start the proxy: {error}")))?;
        let mut events = proxy.events();

        screen.line(&format!("plain TCP: {} each way, the same network", show_size(self.size)));
        control_ends.connect(proxy.local_addr())?;
        let planned = usize::from(self.cuts > 0);
        let until = deadline.min(Instant::now() + CONTROL_TIME_MAX);
        let control = self.watch(control_ends, planned, &mut events, &proxy, &screen, until);
        screen.line(&format!("  {}", ending(&control, self.size)));

        screen.line(&format!(
            "eversock ({mode}): {} each way, {} cuts",
            show_size(self.size),
            self.cuts
        ));
        let mut ends = Ends::new(link, self.size, self.seed);
        proxy.set_upstream(ends.listen(deadline)?);
        ends.connect(proxy.local_addr())?;
        let session = self.watch(ends, self.cuts, &mut events, &proxy, &screen, deadline);
        screen.line(&format!("  {}", ending(&session, self.size)));
        drop(proxy);

        let wrong = self.wrong(&session);
        report::print(self.json, mode, total, &session, &control)?;
        match wrong {
            Some(wrong) => Err(Failure::new(format!("the demo has failed: {wrong}"))),
            None => Ok(true),
        }
    }

    fn watch(
        &self,
        ends: Ends,
        planned: usize,
        events: &mut Events,
        proxy: &Proxy,
        screen: &Screen,
        deadline: Instant,
    ) -> Report {
        Transfer::new(ends, self.size, planned, events, screen).watch(proxy, deadline)
    }

    /// The bytes of both directions, if the cuts fit in.
    fn total(&self) -> Result<u64, Failure> {
        let needed = (self.cuts as u64).saturating_mul(cuts::SPACING_MIN_BYTES);
        let too_much = || Failure::usage("--size is more than a 64-bit number can count twice");
        let total = self.size.checked_mul(2).ok_or_else(too_much)?;
        if total < needed {
            return Err(Failure::usage(format!(
                "{} cuts do not fit into {} each way; give a --size of at least {}",
                self.cuts,
                show_size(self.size),
                show_size(needed / 2)
            )));
        }
        Ok(total)
    }

    /// What keeps the demo from being a success.
    fn wrong(&self, session: &Report) -> Option<String> {
        let (cuts, planned) = (session.cuts, self.cuts as u64);
        if let Some(error) = &session.error {
            Some(format!("seed {}: {error}", self.seed))
        } else if !session.intact {
            Some(format!("seed {}: what arrived is not what was sent", self.seed))
        } else if cuts != planned {
            Some(format!("{cuts} cuts instead of {planned}"))
        } else if session.cuts_flowing != cuts {
            Some(format!(
                "{} of {cuts} cuts came while nothing flowed",
                cuts - session.cuts_flowing
            ))
        } else {
            None
        }
    }
}

/// One line about how a transfer ended.
fn ending(report: &Report, size: u64) -> String {
    let of = format!("{} of {}", show_size(report.bytes), show_size(size.saturating_mul(2)));
    let millis = u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX);
    match &report.error {
        Some(error) => format!("broken after {of}: {error}"),
        None => format!("{of} arrived in {}", show_millis(millis)),
    }
}
