//! `evs load`: many sessions with messages, cuts and churn, every byte of which is verified at both
//! ends.
//!
//! * `client`: the event loop of the side that connects.  * `talk`: one session of it.
//! * `server`: the far side.  * `content`: what is sent, known by its offset.
//! * `cuts`: the proxy's process.  * `helper`: the processes that we start ourselves.
//! * `messages`: how long messages are.  * `figures`, `live`: what is told, at the end and before.
//! * `inbox`: what other threads tell an event loop.

mod client;
mod content;
pub(crate) mod cuts;
mod figures;
mod helper;
mod inbox;
mod live;
mod messages;
mod server;
mod talk;

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use eversock::Config;
use eversock_rules::{Mode, Rule, Rules};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::client::{Client, Orders};
use self::figures::{Far, Held, Process, Summary};
use self::helper::{Helper, Message};
use self::inbox::Inbox;
use self::live::Live;
use self::messages::Mix;
use self::server::Server;
use crate::failure::Failure;
use crate::gateway::target::{self, Target};
use crate::key::{self, KeyOptions};
use crate::output;
use crate::units::{show_millis, show_size};
use crate::wire::Listener;

/// Load a set-up with many sessions and verify every byte at both ends.
///
/// By itself on this machine: a far side and a fault proxy are started as processes of their own.
/// With --serve there and --connect HOST:PORT here, over whatever lies between. Each session writes
/// a message, and reads as many bytes of another stream back, again and again; both streams follow
/// from a seed, so a byte that is wrong, missing, doubled or in the wrong place is named by session
/// and offset. SIGINT or SIGTERM ends it in order, with the summary. Exit status 0 if every byte
/// was right and no session failed.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Load {
    /// Sessions at one time.
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=200_000))]
    sessions: u32,
    /// How long; a far side goes on until it is ended if this is not given [default: 10].
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    seconds: Option<u32>,
    /// How long messages are: SIZE, MIN-MAX, or several of these with weights, as
    /// 64:90,1KiB-16KiB:9,1MiB:1.
    #[arg(long, value_name = "SIZES", value_parser = messages::mix, default_value = "64-4KiB")]
    message_bytes: Mix,
    /// Messages a second of each session; 0 for the next one as soon as one is answered.
    #[arg(long, value_name = "R", value_parser = rate, allow_negative_numbers = true,
          default_value = "10")]
    rate: f64,
    /// Connections that are cut each second, by a proxy of our own [default: 1, with --connect 0].
    #[arg(long, value_name = "C", value_parser = rate, allow_negative_numbers = true)]
    cuts: Option<f64>,
    /// Sessions that are closed each second, another being opened for each.
    #[arg(long, value_name = "C", value_parser = rate, allow_negative_numbers = true,
          default_value = "0")]
    churn: f64,
    /// The far side: a process with --serve.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "serve")]
    connect: Option<String>,
    /// Be the far side, and listen here.
    #[arg(long, value_name = "ADDR",
          conflicts_with_all = ["sessions", "message_bytes", "rate", "cuts", "churn", "seed"])]
    serve: Option<String>,
    /// How the sessions' descriptors are made, at this side (by itself: at both).
    #[arg(long, default_value = "direct")]
    mode: LoadMode,
    #[command(flatten)]
    keys: KeyOptions,
    /// Determines what is sent, and which sessions are replaced and cut.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Show rates each second, also if the standard error output is no terminal.
    #[arg(long)]
    live: bool,
    /// Print the summary as one JSON object; a far side prints where it listens before that.
    #[arg(long)]
    json: bool,
    /// Ends with the standard input, which says when to look at memory.
    #[arg(long, hide = true, requires = "serve")]
    helper: bool,
}

const HELP: &str = "\
Examples:
  evs load --sessions 1000 --seconds 60 --cuts 20 --churn 5
  evs load --serve 0.0.0.0:7000 --sealed --key FILE              (on one machine)
  evs load --connect HOST:7000 --sealed --key FILE --live        (on another)

Keys of the JSON object, beside what was asked for:
  ok                    every byte was right, every session ended in order
  opened, closed, failed, mismatches  sessions; mismatches had a wrong byte, at either end
  unopened              opens that broke off, as when they are cut; others were tried instead
  sent_bytes, verified_bytes          by this side; verified_bytes_far: by our own far side
  round_trips           count, and p50_us, p99_us, p999_us, max_us: from the first byte written to
                        the last one of the answer
  resumes, replayed_bytes, cuts       of this side's sessions; connections that our proxy cut
  stalls, stall_max_ms  round trips of more than 20 ms with a change of connection in them
  processes             memory_bytes and descriptors, after a quarter of the time and at its end";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LoadMode {
    /// The event loop reads and writes the real sockets.
    Direct,
    /// The engine copies between the real sockets and ordinary ones.
    Pumped,
}

impl LoadMode {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Pumped => "pumped",
        }
    }
}

const SECONDS_DEFAULT: u32 = 10;
const CUTS_DEFAULT: f64 = 1.0;
const RATE_MAX: f64 = 1_000_000.0;
/// Longer than any run; more would overflow clocks.
const INTERVAL_MAX: Duration = Duration::from_secs(1_000_000_000);
/// What a session needs of descriptors at worst: its own, a dial during an outage, a pump.
const DESCRIPTORS_PER_SESSION: u64 = 4;
const DESCRIPTORS_BESIDES: u64 = 256;
/// Connections of the proxy beyond those that sessions have: cut ones, and dials.
const CONNECTIONS_BESIDES: usize = 1000;
/// The first signal ends the run, the second does not wait for sessions; a third for nothing.
const SIGNALS_HEEDED: u32 = 2;

/// A number of things a second, from none to a million.
fn rate(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|rate| (0.0..=RATE_MAX).contains(rate));
    number.ok_or_else(|| "a rate is a number from 0 to 1000000, as 2.5".to_owned())
}

/// The time between two things of a rate; none if there are none.
fn interval(rate: f64) -> Option<Duration> {
    let exact = || Duration::try_from_secs_f64(1.0 / rate).unwrap_or(INTERVAL_MAX);
    (rate > 0.0).then(|| exact().min(INTERVAL_MAX))
}

impl Load {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        match &self.serve {
            Some(addr) => self.serve(addr),
            None => self.load(),
        }
    }

    fn config(&self, rules: &Rules) -> Result<Config, Failure> {
        // What contradicts itself is refused in the words of all rules.
        let rules =
            eversock_rules::from_text(&rules.to_toml(), "these options").map_err(Failure::usage)?;
        let mode = match self.mode {
            LoadMode::Direct => eversock::Mode::Direct,
            LoadMode::Pumped => eversock::Mode::Pumped,
        };
        let mut config = Config { mode, ..Config::default() };
        for rule in rules.connect.iter().chain(&rules.listen) {
            key::configure(rule, &mut config).map_err(Failure::usage)?;
        }
        Ok(config)
    }

    fn rule(&self) -> Rule {
        Rule { mode: Mode::Require, ..self.keys.rule() }
    }

    // -----------------------------------------------------------------------------------------
    // The far side

    fn serve(&self, addr: &str) -> Result<bool, Failure> {
        if self.keys.known_peers.is_some() || self.keys.accept_new {
            return Err(Failure::usage("--known-peers and --accept-new belong to --connect"));
        }
        let config = self.config(&Rules { connect: Vec::new(), listen: vec![self.rule()] })?;
        let inbox = Inbox::new().map_err(no_inbox)?;
        inbox.take_signals(SIGNALS_HEEDED, |_| server::Letter::Signal).map_err(no_inbox)?;
        // Whoever connects decides how many sessions there are.
        raise_descriptors(u64::MAX);
        let listener = bind(addr, &Arc::new(config))?;
        let addr = listener
            .addr()
            .map_err(|error| Failure::new(format!("{addr}: no address to show: {error}")))?;
        let mut live = Live::new(self.live && !self.helper);
        if self.json || self.helper {
            output::json_line(&Message::Listening { addr })?;
        } else {
            live.say(&format!("listening on {addr}"));
        }
        if self.helper {
            live = Live::quiet();
            inbox.take_lines("stdin", std::io::stdin(), server::Letter::Input).map_err(no_inbox)?;
        }
        let lasting = self.seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let server = Server::new(listener, inbox, lasting, live)
            .map_err(|error| Failure::new(format!("cannot wait for sessions: {error}")))?;
        let far = server.run()?;
        let is_ok = far.failed == 0 && far.mismatches == 0;
        if self.json || self.helper {
            output::json_line(&Message::Summary(far))?;
        } else {
            output::text(&describe_far(&far))?;
        }
        Ok(is_ok)
    }

    // -----------------------------------------------------------------------------------------
    // The side that connects

    fn load(&self) -> Result<bool, Failure> {
        let is_alone = self.connect.is_none();
        if self.keys.allowed_clients.is_some() {
            return Err(Failure::usage("--allowed-clients belongs to --serve"));
        }
        if is_alone && (self.keys.identity.is_some() || self.keys.known_peers.is_some()) {
            return Err(Failure::usage(
                "--identity and --known-peers are for --serve or --connect: by itself, both sides \
                 have the same --key and --sealed",
            ));
        }
        let config = self.config(&Rules { connect: vec![self.rule()], listen: Vec::new() })?;
        if let Some(text) = &self.connect {
            // Better now than when processes were started.
            Target::new(text).map_err(Failure::usage)?;
        }
        let inbox = Inbox::new().map_err(no_inbox)?;
        inbox.take_signals(SIGNALS_HEEDED, client::Letter::Signal).map_err(no_inbox)?;
        self.check_descriptors()?;

        let mut helpers = Vec::new();
        let mut to = self.connect.clone().unwrap_or_default();
        if is_alone {
            let (helper, addr) = Helper::start("far side", &self.far_args(), &inbox)?;
            to = addr.to_string();
            helpers.push(helper);
        }
        let cuts = self.cuts.unwrap_or(if is_alone { CUTS_DEFAULT } else { 0.0 });
        if cuts > 0.0 {
            let upstream = first_addr(&to)?;
            let (helper, addr) = Helper::start("proxy", &self.proxy_args(upstream, cuts), &inbox)?;
            to = addr.to_string();
            helpers.push(helper);
        }
        let orders = Orders {
            sessions: self.sessions as usize,
            lasting: Duration::from_secs(self.seconds.unwrap_or(SECONDS_DEFAULT).into()),
            mix: self.message_bytes.clone(),
            interval: interval(self.rate),
            churn: interval(self.churn),
            target: Target::new(&to).map_err(Failure::usage)?,
            config: Arc::new(config),
            mode: self.mode.name(),
            seed: self.seed,
            live: self.live,
            helpers,
        };
        let client = Client::new(orders, inbox)
            .map_err(|error| Failure::new(format!("cannot wait for sessions: {error}")))?;
        let summary = client.run()?;
        if self.json {
            output::json_line(&summary)?;
        } else {
            output::text(&describe(&summary))?;
        }
        Ok(summary.ok)
    }

    fn far_args(&self) -> Vec<String> {
        let mut args = ["load", "--helper", "--serve", "127.0.0.1:0", "--mode", self.mode.name()]
            .map(str::to_owned)
            .to_vec();
        if let Some(key) = &self.keys.key {
            // One that is not UTF-8 would have been refused: rules are text.
            args.extend(["--key".to_owned(), key.display().to_string()]);
        }
        if self.keys.sealed {
            args.push("--sealed".to_owned());
        }
        args
    }

    fn proxy_args(&self, upstream: SocketAddr, cuts: f64) -> Vec<String> {
        let connections = self.sessions as usize * 2 + CONNECTIONS_BESIDES;
        let values = [
            ("--upstream", upstream.to_string()),
            ("--cuts", cuts.to_string()),
            ("--seed", self.seed.to_string()),
            ("--connections", connections.to_string()),
        ];
        let words = values.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        std::iter::once("load-cuts".to_owned()).chain(words).collect()
    }

    fn check_descriptors(&self) -> Result<(), Failure> {
        let sessions = u64::from(self.sessions);
        let needed = sessions * DESCRIPTORS_PER_SESSION + DESCRIPTORS_BESIDES;
        let limit = raise_descriptors(needed);
        if limit < needed {
            let fit = limit.saturating_sub(DESCRIPTORS_BESIDES) / DESCRIPTORS_PER_SESSION;
            return Err(Failure::usage(format!(
                "--sessions {sessions}: they need {needed} descriptors at worst, and the limit is \
                 {limit}; raise it (ulimit -Hn) or take {fit} sessions"
            )));
        }
        Ok(())
    }
}

fn no_inbox(error: std::io::Error) -> Failure {
    Failure::new(format!("cannot wait for signals and input: {error}"))
}

/// Raises the limit on descriptors as far as it may be, or to what is needed; gives the limit.
fn raise_descriptors(needed: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let limit = now.current.unwrap_or(u64::MAX);
    let wanted = needed.min(now.maximum.unwrap_or(u64::MAX));
    if limit >= wanted {
        return limit;
    }
    let new = Rlimit { current: Some(wanted), maximum: now.maximum };
    if setrlimit(Resource::Nofile, new).is_ok() { wanted } else { limit }
}

fn first_addr(text: &str) -> Result<SocketAddr, Failure> {
    let found = target::split(text).and_then(|(host, port)| {
        let addrs = (host.as_str(), port).to_socket_addrs().ok()?;
        addrs.into_iter().next()
    });
    found.ok_or_else(|| Failure::usage(format!("{text}: the name has no address")))
}

fn bind(text: &str, config: &Arc<Config>) -> Result<Listener, Failure> {
    let addrs = text.to_socket_addrs().map_err(|error| {
        Failure::usage(format!("--serve {text}: {error}; an address is like 127.0.0.1:7000"))
    })?;
    let mut last = format!("--serve {text}: the name has no address");
    for addr in addrs {
        match Listener::session(addr, config) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = format!("cannot listen on {addr}: {error}"),
        }
    }
    Err(Failure::new(last))
}

// ---------------------------------------------------------------------------------------------
// The summary for people

fn describe(summary: &Summary) -> String {
    let Summary { opened, closed, failed, mismatches, unopened, .. } = summary;
    let trips = &summary.round_trips;
    let far = summary
        .verified_bytes_far
        .map(|bytes| format!(", {} at the far side", show_size(bytes)))
        .unwrap_or_default();
    let cuts = summary.cuts.map(|cuts| format!(", {cuts} cuts")).unwrap_or_default();
    let mut text = format!(
        "{} sessions ({}), ended by {} after {}\n\
         verified     {} here{far}\n\
         sessions     {opened} opened, {closed} closed, {failed} failed, {mismatches} with a wrong \
         byte, {unopened} opens that broke off\n\
         round trips  {}: p50 {} us, p99 {} us, p99.9 {} us, longest {} us\n\
         connections  {} resumes{cuts}, {} sent again\n\
         stalls       {} round trips with a change of connection above 20 ms, longest {} ms\n",
        summary.sessions,
        summary.mode,
        summary.ended_by,
        show_millis(summary.elapsed_ms),
        show_size(summary.verified_bytes),
        trips.count,
        trips.p50_us,
        trips.p99_us,
        trips.p999_us,
        trips.max_us,
        summary.resumes,
        show_size(summary.replayed_bytes),
        summary.stalls,
        summary.stall_max_ms,
    );
    summary.processes.iter().for_each(|process| text.push_str(&describe_process(process)));
    summary.errors.iter().for_each(|error| text.push_str(&format!("error        {error}\n")));
    text.push_str(if summary.ok { "every byte was right\n" } else { "NOT every byte was right\n" });
    text
}

fn describe_process(process: &Process) -> String {
    let show = |held: Option<Held>| {
        held.map_or_else(
            || "unknown".to_owned(),
            |held| format!("{} and {} descriptors", show_size(held.memory_bytes), held.descriptors),
        )
    };
    let (quarter, end) = (show(process.first_quarter), show(process.end));
    format!("{:<12} {quarter} after a quarter of the time, {end} at its end\n", process.name)
}

fn describe_far(far: &Far) -> String {
    let Far { accepted, closed, failed, unused, mismatches, .. } = far;
    let mut text = format!(
        "{} verified, {} sent\n\
         {accepted} sessions accepted, {closed} closed, {failed} failed, {mismatches} with a wrong \
         byte, {unused} unused\n",
        show_size(far.verified_bytes),
        show_size(far.sent_bytes)
    );
    text.push_str(&describe_process(&far.process));
    far.errors.iter().for_each(|error| text.push_str(&format!("error  {error}\n")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_become_intervals() {
        assert_eq!(rate("20").map(interval), Ok(Some(Duration::from_millis(50))));
        assert_eq!(rate("0").map(interval), Ok(None));
        assert_eq!(rate("2.5").map(interval), Ok(Some(Duration::from_millis(400))));
        for wrong in ["", "x", "-1", "NaN", "inf", "1000001"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        // The least rate there is overflows no clock.
        assert_eq!(interval(f64::MIN_POSITIVE), Some(INTERVAL_MAX));
    }
}
