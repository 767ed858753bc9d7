//! `evs run`: a program whose connections survive, by a library that is preloaded into it.

use std::env;
use std::ffi::OsString;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use eversock::Config;
use eversock_rules::{Host, Mode, Policy, Ports, RULES_VARIABLE, Rule, Rules};

use crate::failure::Failure;
use crate::key::{self, KeyOptions, LimitOptions};
use crate::program::{self, Weight, library};
use crate::units;

/// Run a program whose TCP connections survive.
///
/// --connect and --listen say which of its connections become virtual, the first that matches;
/// with neither, the rules of eversock.toml do ($EVERSOCK_CONFIG, or in the configuration folder of
/// the user or the system). The other options hold for all of them. `evs doctor PROGRAM` tells in
/// advance whether it works. The exit status is the program's own; 125 if it was not started.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Connections to this peer become virtual: a name, an address or a block as 10.0.0.0/8, and
    /// perhaps a port or a range of ports. May be given several times.
    #[arg(long, value_name = "HOST[:PORT]", value_parser = peer)]
    connect: Vec<Place>,
    /// What it accepts on this port, or range of ports, becomes virtual. May be given several
    /// times.
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = local)]
    listen: Vec<Place>,
    /// Peers that do not speak eversock: require refuses them, auto takes them as plain
    /// connections, off exempts these connections. Default: auto; require with keys and
    /// --sealed.
    #[arg(long, value_name = "MODE", value_parser = mode)]
    mode: Option<Mode>,
    #[command(flatten)]
    keys: KeyOptions,
    /// Whether to recover: auto, ask (--on-fault or `evs answer`), never. Default: auto.
    #[arg(long, value_name = "POLICY", value_parser = policy)]
    policy: Option<Policy>,
    /// How long a session without connection is redialled and waited for.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    grace: Option<Duration>,
    /// Redials without progress before a session is given up; 0 for no limit but the grace.
    #[arg(long, value_name = "N")]
    redial_limit: Option<u32>,
    /// A command that is run when a connection has died.
    #[arg(long, value_name = "CMD")]
    on_fault: Option<String>,
    /// A command that is run before each redial, to bring the line up.
    #[arg(long, value_name = "CMD")]
    line_up: Option<String>,
    /// With --listen and auto: a client that says nothing is a plain one that waits for the server.
    #[arg(long)]
    server_speaks_first: bool,
    #[command(flatten)]
    limits: LimitOptions,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

/// The exit status of a program that was not started, as env(1) and its like have it.
const NOT_STARTED: u8 = 125;
/// Switches the library off; who says `run` wants it on.
const OFF: &str = "EVERSOCK_OFF";

/// Peers or local addresses, as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    host: Host,
    ports: Option<Ports>,
}

impl Run {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let not_started = |what: String| Failure::with_status(NOT_STARTED, what);
        let rules = self.rules().map_err(not_started)?;
        let (program, args) = self
            .command
            .split_first()
            .ok_or_else(|| not_started("no program was named".to_owned()))?;
        let report = program::examine(program).map_err(|error| not_started(error.to_string()))?;
        let obstacle = report.findings.iter().find(|one| one.weight == Weight::Obstacle);
        if let Some(obstacle) = obstacle {
            let remedy = obstacle.remedy.as_deref();
            let remedy = remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
            return Err(not_started(format!("{}{remedy}", obstacle.what)));
        }
        let Some(library) = report.preload else {
            return Err(not_started("the library to preload was not found".to_owned()));
        };
        let preload = library::preload_with(&library, env::var_os("LD_PRELOAD"));
        let mut command = Command::new(program);
        command.args(args).env(RULES_VARIABLE, rules.to_toml()).env("LD_PRELOAD", preload);
        command.env_remove(OFF);
        // Comes back only if it failed.
        let error = command.exec();
        Err(not_started(format!("{}: cannot be started: {error}", program.display())))
    }

    /// The rules of the command line, or else those of the configuration.
    fn rules(&self) -> Result<Rules, String> {
        let mut rules = if self.connect.is_empty() && self.listen.is_empty() {
            self.configured()?
        } else {
            if self.listen.is_empty() && self.limits.are_given() {
                return Err("limits of a listener belong to a --listen".to_owned());
            }
            let rules = Rules {
                connect: self.connect.iter().map(|place| self.connect_rule(place)).collect(),
                listen: self.listen.iter().map(|place| self.listen_rule(place)).collect(),
            };
            // As the program will read them: what contradicts itself is refused here.
            eversock_rules::from_text(&rules.to_toml(), "these options")
                .map_err(|error| error.to_string())?
        };
        for rule in rules.connect.iter().chain(&rules.listen) {
            // The library will read them again, in the program; here somebody reads what is wrong.
            key::configure(rule, &mut Config::default())?;
        }
        let names: Vec<String> = rules.names().map(str::to_owned).collect();
        for name in names {
            match (name.as_str(), 0).to_socket_addrs() {
                Ok(addrs) => {
                    let addrs: Vec<IpAddr> = addrs.map(|addr| addr.ip()).collect();
                    rules.learn(&name, &addrs);
                }
                // The program may look it up later, and then the library learns the addresses.
                Err(error) => eprintln!("evs: {name}: {error}; its addresses are not known yet"),
            }
        }
        Ok(rules)
    }

    fn configured(&self) -> Result<Rules, String> {
        let has_options = self.mode.is_some()
            || self.keys.are_given()
            || self.limits.are_given()
            || self.policy.is_some()
            || self.grace.is_some()
            || self.redial_limit.is_some()
            || self.on_fault.is_some()
            || self.line_up.is_some()
            || self.server_speaks_first;
        if has_options {
            return Err("these options belong to a --connect or --listen".to_owned());
        }
        let rules = eversock_rules::from_environment(|name| env::var_os(name))
            .map_err(|error| error.to_string())?;
        if rules.is_empty() {
            let files = eversock_rules::candidates(|name| env::var_os(name));
            let files: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
            return Err(format!(
                "no rule says which connections are to survive; give --connect or --listen, or \
                 write rules into {}",
                files.join(" or ")
            ));
        }
        Ok(rules)
    }

    fn connect_rule(&self, place: &Place) -> Rule {
        let by_keys = self.keys.rule();
        Rule {
            host: place.host.clone(),
            ports: place.ports,
            mode: self.mode.unwrap_or(by_keys.mode),
            policy: self.policy.unwrap_or_default(),
            grace: self.grace,
            redial_limit: self.redial_limit,
            on_fault: self.on_fault.clone(),
            line_up: self.line_up.clone(),
            server_speaks_first: self.server_speaks_first,
            ..by_keys
        }
    }

    fn listen_rule(&self, place: &Place) -> Rule {
        let mut rule = self.connect_rule(place);
        self.limits.set(&mut rule);
        rule
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "require" => Ok(Mode::Require),
        "auto" => Ok(Mode::Auto),
        "off" => Ok(Mode::Off),
        _ => Err("expected require, auto or off".to_owned()),
    }
}

fn policy(text: &str) -> Result<Policy, String> {
    match text {
        "auto" => Ok(Policy::Auto),
        "ask" => Ok(Policy::Ask),
        "never" => Ok(Policy::Never),
        _ => Err("expected auto, ask or never".to_owned()),
    }
}

/// Splits a port off, if there is one; an IPv6 address with a port stands in brackets.
fn split(text: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        match rest.strip_prefix(':') {
            Some(port) => return (host, Some(port)),
            None if rest.is_empty() => return (host, None),
            // No place: whoever reads it next says what was expected.
            None => return (text, None),
        }
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

fn peer(text: &str) -> Result<Place, String> {
    let (host, ports) = split(text);
    Ok(Place { host: Host::parse(host)?, ports: ports.map(str::parse).transpose()? })
}

fn local(text: &str) -> Result<Place, String> {
    let (host, ports) = match split(text) {
        (host, Some(port)) => (Host::parse(host)?, port),
        (port, None) => (Host::Any, port),
    };
    Ok(Place { host, ports: Some(ports.parse()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Option<Ports> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn peers_are_hosts_with_or_without_ports() {
        let is = |text: &str, host: &str, ports: Option<Ports>| {
            let host = Host::parse(host).unwrap();
            assert_eq!(peer(text), Ok(Place { host, ports }), "{text}");
        };
        is("db.example", "db.example", None);
        is("db.example:5432", "db.example", ports("5432"));
        is("10.0.0.0/8:8000-8100", "10.0.0.0/8", ports("8000-8100"));
        is("::1", "::1", None);
        is("[::1]:80", "::1", ports("80"));
        is("2001:db8::/32", "2001:db8::/32", None);
        is("[2001:db8::/32]:80", "2001:db8::/32", ports("80"));
        is("*:80", "*", ports("80"));
        for wrong in ["", "db:0", "db:x", "a b:80", "10.0.0.0/40"] {
            assert!(peer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn listeners_are_ports_with_or_without_addresses() {
        let is = |text: &str, host: &str, ports: Option<Ports>| {
            let host = Host::parse(host).unwrap();
            assert_eq!(local(text), Ok(Place { host, ports }), "{text}");
        };
        is("5432", "*", ports("5432"));
        is("6000-6010", "*", ports("6000-6010"));
        is("127.0.0.1:80", "127.0.0.1", ports("80"));
        is("[::]:80", "::", ports("80"));
        for wrong in ["", "0", "127.0.0.1", "db.example"] {
            assert!(local(wrong).is_err(), "{wrong}");
        }
    }
}
