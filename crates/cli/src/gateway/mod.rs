//! `evs gateway`: plain TCP on one side, sessions on the other, so that two of them make any TCP
//! service survive the death of the connections between them.
//!
//! * `conn`: one connection: two bounded directions, each with its own end.
//! * `relay`: the event loop, one thread for all connections.
//! * `target`: where it connects to.  * `notes`: what it says.  * `share`: how sessions are opened.
//!
//! The sessions are direct ones, waited for with eversock's own epoll: that saves the two copies
//! of a pump. With `--share`, connections are streams of a session that several have: plain
//! sockets to the event loop, whose other ends a thread of the pool, or of the shared listener,
//! copies.

mod conn;
mod notes;
mod relay;
mod share;
pub(crate) mod target;

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use eversock::Config;
use eversock_rules::{Mode, Rule, Rules};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::notes::Notes;
use self::relay::{Orders, Relay, Way};
use self::share::{Isolate, Outwards};
use self::target::Target;
use crate::failure::Failure;
use crate::key::{self, KeyOptions, LimitOptions};
use crate::wire::Listener;
use crate::{signals, units};

/// Carry plain TCP connections over sessions that survive, or the other way round.
///
/// Two gateways make any TCP service survive: one beside the clients, `--plain ADDR --resilient
/// HOST:PORT`, and one beside the server, `--resilient-listen ADDR --plain-to HOST:PORT`. SIGINT or
/// SIGTERM ends it: it takes no more connections and lets those that it has finish, up to --drain;
/// a second signal does not wait for them, a third for nothing. Exit status 0 if none had to be cut
/// off.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Gateway {
    /// Take plain TCP connections here, and carry each over a session to --resilient.
    #[arg(long, value_name = "ADDR", requires = "resilient", required_unless_present = "listen")]
    plain: Option<String>,
    /// Where sessions are opened: a gateway with --resilient-listen, or an eversock program.
    #[arg(long, value_name = "HOST:PORT", requires = "plain")]
    resilient: Option<String>,
    /// Take sessions here, and carry each over a plain TCP connection to --plain-to.
    #[arg(
        id = "listen",
        long = "resilient-listen",
        value_name = "ADDR",
        requires = "plain_to",
        conflicts_with = "plain"
    )]
    resilient_listen: Option<String>,
    /// Where plain connections are made: the server itself.
    #[arg(long, value_name = "HOST:PORT", requires = "listen")]
    plain_to: Option<String>,
    /// Carry all connections to one server over one session, which is one handshake and one
    /// connection for all of them. Both gateways need it: to one that does not share, each
    /// connection has a session of its own, as without; and one that shares and has no key is
    /// reached by those alone that share. `evs dedup ls` shows who shares, and why.
    #[arg(long)]
    share: bool,
    /// With --share: clients that are not from the same address share no session.
    #[arg(long, value_name = "WHAT", value_enum)]
    isolate_by: Option<Isolate>,
    #[command(flatten)]
    keys: KeyOptions,
    /// How long a session without connection is redialled and waited for.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "15min")]
    grace: Duration,
    /// Redials without progress before a session is given up; 0 for no limit but the grace.
    #[arg(long, value_name = "N", default_value_t = 0)]
    redial_limit: u32,
    #[command(flatten)]
    limits: LimitOptions,
    /// Connections at one time, at most; further clients wait to be accepted.
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
    /// How long one connect may take before its client is reset.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10s")]
    connect_timeout: Duration,
    /// How long connections may go on once the gateway is to end.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "30s")]
    drain: Duration,
    /// How often the status line is written; by default each second on a terminal, else never.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    status: Option<Duration>,
    /// Write what happens to standard output as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Example: PostgreSQL on db.example, reached from a laptop
  on db.example:  evs gateway --resilient-listen 0.0.0.0:6543 --plain-to 127.0.0.1:5432
  on the laptop:  evs gateway --plain 127.0.0.1:5432 --resilient db.example:6543
                  psql -h 127.0.0.1";

/// What a connection needs of descriptors at worst: both sides, and a dial during an outage.
const DESCRIPTORS_PER_CONNECTION: u64 = 4;
/// What the rest of the process needs.
const DESCRIPTORS_BESIDES: u64 = 64;
/// The first signal ends the accepting, the second the connections; a third does not wait for what
/// is still being delivered.
const SIGNALS_HEEDED: u32 = 2;
/// A status line more often is no use to anybody.
const STATUS_MIN: Duration = Duration::from_millis(100);

impl Gateway {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let (way, listen, to) = self.way()?;
        let config = Arc::new(self.config(way).map_err(Failure::usage)?);
        let (wake, waker) = UnixStream::pair()
            .map_err(|error| Failure::new(format!("cannot make a pair of sockets: {error}")))?;
        let mut left = SIGNALS_HEEDED;
        let on_signal = move |_| {
            if left == 0 {
                signals::leave_now(1);
            }
            left -= 1;
            // The relay may be gone, and what it sent last is being delivered.
            let _gone = (&waker).write(&[1]);
        };
        signals::on_each(on_signal)
            .map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
        let target = Target::new(to).map_err(Failure::usage)?;
        let mut notes = Notes::new(self.json);
        let listener = bind(way, listen, &config, self.share)?;
        let max_connections = self.room(&mut notes);
        let outwards = match self.share && way == Way::Out {
            true => Outwards::shared(&config, self.isolate_by, max_connections)
                .map_err(|error| Failure::new(format!("no sessions to share: {error}")))?,
            false => Outwards::Own(Arc::clone(&config)),
        };
        let by_default = notes.is_terminal().then_some(Duration::from_secs(1));
        let orders = Orders {
            way,
            outwards,
            is_listed: config.known_servers.is_some(),
            max_connections,
            connect_timeout: self.connect_timeout,
            drain: self.drain,
            status: self.status.map(|every| every.max(STATUS_MIN)).or(by_default),
        };
        let addr = listener
            .addr()
            .map_err(|error| Failure::new(format!("{listen}: no address to show: {error}")))?;
        let (from, to) = match way {
            Way::Out => ("plain connections", format!("sessions to {target}")),
            Way::In => ("sessions", format!("plain connections to {target}")),
        };
        notes.listening(addr, from, &to);
        let failed = |error| Failure::new(format!("the gateway cannot wait for events: {error}"));
        let relay = Relay::new(orders, listener, target, wake, notes).map_err(failed)?;
        let (totals, mut notes) = relay.run().map_err(failed)?;
        // What was written last, and resets, still reach the peers.
        eversock::shutdown();
        notes.ended(&totals);
        Ok(totals.cut_off == 0)
    }

    fn way(&self) -> Result<(Way, &str, &str), Failure> {
        match (&self.plain, &self.resilient, &self.resilient_listen, &self.plain_to) {
            (Some(listen), Some(to), None, None) => Ok((Way::Out, listen, to)),
            (None, None, Some(listen), Some(to)) => Ok((Way::In, listen, to)),
            _ => Err(Failure::usage(
                "a gateway is --plain ADDR --resilient HOST:PORT, or --resilient-listen ADDR \
                 --plain-to HOST:PORT",
            )),
        }
    }

    /// What the sessions are to be like.
    fn config(&self, way: Way) -> Result<Config, String> {
        let wrong = |what: &str| Err(what.to_owned());
        match way {
            Way::Out if self.keys.allowed_clients.is_some() => {
                return wrong("--allowed-clients belongs to --resilient-listen");
            }
            Way::Out if self.limits.are_given() => {
                return wrong(
                    "--sessions-max, --memory-max and --handshakes-per-source belong to \
                     --resilient-listen; --max-connections bounds this side",
                );
            }
            Way::Out if self.keys.identity.is_some() && self.keys.known_peers.is_none() => {
                return wrong(
                    "--identity needs --known-peers here: a client names itself to servers that \
                     it knows",
                );
            }
            Way::In if self.keys.known_peers.is_some() || self.keys.accept_new => {
                return wrong(
                    "--known-peers and --accept-new belong to --resilient; whom this side lets in \
                     say --key or --allowed-clients",
                );
            }
            Way::In if self.isolate_by.is_some() => {
                return wrong(
                    "--isolate-by belongs to --resilient: which connections share a session is \
                     chosen where it is opened",
                );
            }
            Way::Out if self.isolate_by.is_some() && !self.share => {
                return wrong(
                    "--isolate-by needs --share: without it no two connections share a session",
                );
            }
            Way::Out | Way::In => {}
        }
        let mut rule = Rule { mode: Mode::Require, ..self.keys.rule() };
        self.limits.set(&mut rule);
        // What contradicts itself is refused in the words of all rules.
        let rules = Rules { connect: Vec::new(), listen: vec![rule] };
        let rules = eversock_rules::from_text(&rules.to_toml(), "these options")
            .map_err(|error| error.to_string())?;
        let default = Config::default();
        let mut config = Config {
            grace: self.grace,
            redial_limit: self.redial_limit,
            connect_timeout: self.connect_timeout,
            ..default
        };
        for rule in &rules.listen {
            config.sessions_max = rule.sessions_max.unwrap_or(config.sessions_max);
            config.memory_max = rule.memory_max.unwrap_or(config.memory_max);
            config.handshakes_per_source =
                rule.handshakes_per_source.unwrap_or(config.handshakes_per_source);
            key::configure(rule, &mut config)?;
        }
        Ok(config)
    }

    /// Raises the limit on descriptors as far as it may be; gives how many connections fit then.
    fn room(&self, notes: &mut Notes) -> usize {
        let asked = u64::from(self.max_connections);
        let needed = asked * DESCRIPTORS_PER_CONNECTION + DESCRIPTORS_BESIDES;
        let now = getrlimit(Resource::Nofile);
        let most = now.maximum.unwrap_or(u64::MAX);
        let mut limit = now.current.unwrap_or(u64::MAX);
        if limit < needed {
            let wanted = needed.min(most);
            let new = Rlimit { current: Some(wanted), maximum: now.maximum };
            if setrlimit(Resource::Nofile, new).is_ok() {
                limit = wanted;
            }
        }
        let fit = limit.saturating_sub(DESCRIPTORS_BESIDES) / DESCRIPTORS_PER_CONNECTION;
        let fit = fit.clamp(1, asked);
        if fit < asked {
            notes.say(&format!(
                "{fit} connections at a time instead of {asked}: the limit on descriptors is \
                 {limit}; raise it (ulimit -Hn)"
            ));
        }
        usize::try_from(fit).unwrap_or(usize::MAX)
    }
}

fn bind(way: Way, text: &str, config: &Arc<Config>, share: bool) -> Result<Listener, Failure> {
    let addrs: Vec<SocketAddr> = text
        .to_socket_addrs()
        .map_err(|error| {
            Failure::usage(format!("{text}: {error}; an address is like 127.0.0.1:8080"))
        })?
        .collect();
    let mut last = format!("{text}: the name has no address");
    for addr in addrs {
        let bound = match way {
            Way::Out => Listener::plain(addr),
            Way::In if share => Listener::shared(addr, config),
            Way::In => Listener::session(addr, config),
        };
        match bound {
            Ok(listener) => return Ok(listener),
            Err(error) => last = format!("cannot listen on {addr}: {error}"),
        }
    }
    Err(Failure::new(last))
}
