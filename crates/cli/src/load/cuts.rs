//! The fault proxy of a run, in a process of its own: what it holds is not the load's.

use std::net::SocketAddr;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use clap::Args;
use eversock_chaos::{Config, Fault, Peer, Plan, Proxy, Target};

use super::figures::Process;
use super::helper::{self, END, Message};
use super::interval;
use crate::demo::content::Random;
use crate::failure::Failure;
use crate::{lines, output};

/// Forward connections and cut one at random so many times a second.
#[derive(Debug, Args)]
pub(crate) struct LoadCuts {
    #[arg(long)]
    upstream: SocketAddr,
    #[arg(long)]
    cuts: f64,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    connections: usize,
}

const BUFFER_BYTES: usize = 32 << 10;
/// How often it is told how many cuts there were.
const TOLD_EVERY: Duration = Duration::from_secs(1);

impl LoadCuts {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let failed = |error| Failure::new(format!("cannot start the proxy: {error}"));
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::new(listen, self.upstream).with_plan(Plan::none());
        config.max_connections = self.connections;
        // What a ring has held once it keeps, and here is one for each direction of a thousand
        // sessions; nothing is sent twice.
        (config.buffer, config.history) = (BUFFER_BYTES, 0);
        let proxy = Proxy::spawn(config).map_err(failed)?;
        let input = lines::from_stdin().map_err(failed)?;
        output::json_line(&Message::Listening { addr: proxy.local_addr() })?;

        let mut process = Process { name: "proxy".to_owned(), ..Process::default() };
        let mut random = Random::new(self.seed);
        let every = interval(self.cuts);
        let mut next = every.map(|every| Instant::now() + every);
        let mut tell = Instant::now() + TOLD_EVERY;
        loop {
            let until = next.map_or(tell, |next| next.min(tell));
            match input.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    helper::heed(&line, &mut process)?;
                    if line == END {
                        // From here on sessions end; what is cut then only keeps them from it.
                        next = None;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if let Some((at, every)) = next.zip(every).filter(|(at, _)| *at <= now) {
                cut_one(&proxy, &mut random);
                next = Some((at + every).max(now));
            }
            if tell <= now {
                output::json_line(&Message::Cuts { cuts: proxy.stats().summary.cuts })?;
                tell = now + TOLD_EVERY;
            }
        }
        let summary = proxy.stop();
        output::json_line(&Message::CutsDone { cuts: summary.cuts, process })?;
        match summary.error {
            Some(error) => Err(Failure::new(format!("the proxy ended by itself: {error}"))),
            None => Ok(true),
        }
    }
}

/// Cuts one of the open connections, in one of the ways that the demo cuts too.
fn cut_one(proxy: &Proxy, random: &mut Random) {
    let open = proxy.stats().connections;
    let Some(last) = open.len().checked_sub(1) else { return };
    let pick = usize::try_from(random.below(last as u64 + 1)).unwrap_or(0);
    let fault = match random.below(5) {
        0..3 => Fault::Reset,
        3 => Fault::Fin,
        // The client learns of it and the server does not.
        _ => Fault::HalfOpen { left_open: Peer::Server },
    };
    // It may have ended since it was listed.
    let _gone = proxy.inject(fault, Target::Conn(open[pick].conn));
}
