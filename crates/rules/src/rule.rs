//! One rule, as it is written and as it matches.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer};
use toml::{Spanned, Table, Value};

use crate::net::{Block, Ports, Size, Span};

/// What becomes of a connection whose peer does not speak eversock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is refused.
    Require,
    /// It is a plain connection.
    #[default]
    Auto,
    /// The rule exempts what it matches: all of it is plain.
    Off,
}

/// Whether a session whose connection died is recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Without asking.
    #[default]
    Auto,
    /// `on-fault` decides by its exit status, or else `evs answer`.
    Ask,
    /// Never.
    Never,
}

/// Which peers or local addresses a rule means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Host {
    /// All.
    #[default]
    Any,
    /// Those in a block.
    Block(Block),
    /// Those that a name had when it was looked up.
    Name(String),
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

impl Host {
    /// Reads an address, a block of addresses or a name.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str =
            "expected an address, a block as \"10.0.0.0/8\", a host name, or \"*\" for any";
        if text == "*" {
            return Ok(Self::Any);
        }
        let numeric = |c: char| c.is_ascii_digit() || matches!(c, '.' | '/');
        if text.contains([':', '/']) || !text.is_empty() && text.chars().all(numeric) {
            let block = text.parse().map_err(|error| format!("{error}; {EXPECTED}"));
            return block.map(Self::Block);
        }
        let is_name = text.len() <= 253
            && text.split('.').all(|label| {
                let fits = (1..=63).contains(&label.len());
                fits && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            });
        if is_name {
            Ok(Self::Name(text.to_ascii_lowercase()))
        } else {
            Err(format!("`{text}` is no host; {EXPECTED}"))
        }
    }
}

/// What is decided for the connections that match. The default is a rule in which nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Peers of a connect rule, local addresses of a listen rule.
    pub host: Host,
    /// The addresses that a name in `host` is known to have.
    pub addresses: Vec<IpAddr>,
    /// The peer's port, or the local one; `None` for any.
    pub ports: Option<Ports>,
    /// What becomes of peers that do not speak eversock.
    pub mode: Mode,
    /// A file with the key that both ends need.
    pub key: Option<PathBuf>,
    /// Whether what goes over the wire is encrypted and authenticated.
    pub sealed: bool,
    /// A file with the static key of this side, its private half.
    pub identity: Option<PathBuf>,
    /// A connect rule: a file that lists the static keys of servers.
    pub known_peers: Option<PathBuf>,
    /// With `known_peers`: a server that is not listed is believed, and added.
    pub accept_new: bool,
    /// A listen rule: a file that lists the static keys of the clients that are let in.
    pub allowed_clients: Option<PathBuf>,
    /// Whether to recover.
    pub policy: Policy,
    /// How long a client redials, and a server waits for it.
    pub grace: Option<Duration>,
    /// Redials without progress before the session is given up; 0 for no limit but the grace.
    pub redial_limit: Option<u32>,
    /// A command that is run when a connection has died.
    pub on_fault: Option<String>,
    /// A command that is run before each redial.
    pub line_up: Option<String>,
    /// A listen rule: a client that says nothing is a plain one that waits for the server.
    pub server_speaks_first: bool,
    /// A connect rule: connections go over one session for each server.
    pub share: bool,
    /// A listen rule: sessions at one time, at most; 0 for no limit.
    pub sessions_max: Option<u32>,
    /// A listen rule: bytes beyond which new sessions are refused, as long as those that there are
    /// hold so many; 0 for no limit.
    pub memory_max: Option<u64>,
    /// A listen rule: unfinished handshakes of one source, once some from there have stalled; 0 for
    /// no limit.
    pub handshakes_per_source: Option<u32>,
}

/// A rule as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    #[serde(default)]
    host: Option<Host>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    #[serde(default)]
    port: Option<Ports>,
    #[serde(default)]
    mode: Option<Mode>,
    #[serde(default)]
    key: Option<PathBuf>,
    #[serde(default)]
    sealed: bool,
    #[serde(default)]
    identity: Option<PathBuf>,
    #[serde(default)]
    known_peers: Option<PathBuf>,
    #[serde(default)]
    accept_new: bool,
    #[serde(default)]
    allowed_clients: Option<PathBuf>,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    grace: Option<Span>,
    #[serde(default)]
    redial_limit: Option<u32>,
    #[serde(default)]
    on_fault: Option<String>,
    #[serde(default)]
    line_up: Option<String>,
    #[serde(default)]
    server_speaks_first: bool,
    #[serde(default)]
    share: bool,
    #[serde(default)]
    sessions_max: Option<u32>,
    #[serde(default)]
    memory_max: Option<Size>,
    #[serde(default)]
    handshakes_per_source: Option<u32>,
}

impl Written {
    /// True when a peer must have something that a plain one has not.
    fn wants_keys(&self) -> bool {
        self.key.is_some()
            || self.sealed
            || self.identity.is_some()
            || self.known_peers.is_some()
            || self.allowed_clients.is_some()
    }

    /// Says what does not go together.
    fn check_keys(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(what.to_owned());
        if self.wants_keys() && self.mode == Some(Mode::Auto) {
            let what = if self.sealed && self.key.is_none() { "`sealed`" } else { "a key" };
            return Err(format!(
                "{what} needs mode = \"require\": with \"auto\" a stranger could have the \
                 connection without"
            ));
        }
        let has_static =
            self.identity.is_some() || self.known_peers.is_some() || self.allowed_clients.is_some();
        if self.key.is_some() && has_static {
            return wrong("`key` and static keys exclude each other; leave out one of the two");
        }
        if self.allowed_clients.is_some() && self.identity.is_none() {
            return wrong(
                "`allowed-clients` needs an `identity`, by which clients know the server",
            );
        }
        if self.accept_new && self.known_peers.is_none() {
            return wrong("`accept-new` needs `known-peers`, the file to which keys are added");
        }
        Ok(())
    }
}

impl Written {
    /// Says what contradicts connections that share a session.
    fn check_share(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(what.to_owned());
        if !self.share {
            return Ok(());
        }
        if self.mode.is_some_and(|mode| mode != Mode::Require) {
            return wrong(
                "`share` needs mode = \"require\": a plain connection has no session that others \
                 could share; leave out `mode`, or `share`",
            );
        }
        if self.policy != Policy::Auto {
            return wrong(
                "`share` needs policy = \"auto\": whoever is asked for one connection would decide \
                 for all that share its session; leave out `policy`, or `share`",
            );
        }
        if self.server_speaks_first {
            return wrong(
                "`share` and `server-speaks-first` exclude each other, as the latter is for plain \
                 peers; leave out one of the two",
            );
        }
        Ok(())
    }

    /// Says what a rule for addresses on which the program listens must not have.
    fn check_listen(&self) -> Result<(), String> {
        if self.share {
            // Sessions that carry many connections are accepted by `SharedListener` alone.
            return Err("`share` is of connections that the program makes; expected it in a \
                        [[connect]] rule"
                .to_owned());
        }
        Ok(())
    }

    /// Says what a rule for connections that the program makes must not have.
    fn check_connect(&self) -> Result<(), String> {
        let of_listeners = [
            ("sessions-max", self.sessions_max.is_some()),
            ("memory-max", self.memory_max.is_some()),
            ("handshakes-per-source", self.handshakes_per_source.is_some()),
        ];
        match of_listeners.into_iter().find(|(_, is_there)| *is_there) {
            Some((key, _)) => {
                Err(format!("`{key}` is a limit of listeners; expected it in a [[listen]] rule"))
            }
            None => self.check_share(),
        }
    }
}

impl TryFrom<Written> for Rule {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        written.check_keys()?;
        let is_required = written.wants_keys() || written.share;
        let default = if is_required { Mode::Require } else { Mode::Auto };
        let host = written.host.unwrap_or(Host::Any);
        if !written.addresses.is_empty() && !matches!(host, Host::Name(_)) {
            return Err("`addresses` belong to a rule whose `host` is a name".to_owned());
        }
        Ok(Self {
            host,
            addresses: written.addresses,
            ports: written.port,
            mode: written.mode.unwrap_or(default),
            key: written.key,
            sealed: written.sealed,
            identity: written.identity,
            known_peers: written.known_peers,
            accept_new: written.accept_new,
            allowed_clients: written.allowed_clients,
            policy: written.policy,
            grace: written.grace.map(|span| span.0),
            redial_limit: written.redial_limit,
            on_fault: written.on_fault,
            line_up: written.line_up,
            server_speaks_first: written.server_speaks_first,
            share: written.share,
            sessions_max: written.sessions_max,
            memory_max: written.memory_max.map(|size| size.0),
            handshakes_per_source: written.handshakes_per_source,
        })
    }
}

impl Rule {
    /// True when the rule is for this address.
    pub fn matches(&self, addr: SocketAddr) -> bool {
        if self.ports.is_some_and(|ports| !ports.contains(addr.port())) {
            return false;
        }
        let ip = addr.ip().to_canonical();
        match &self.host {
            Host::Any => true,
            Host::Block(block) => block.contains(ip),
            Host::Name(_) => self.addresses.iter().any(|known| known.to_canonical() == ip),
        }
    }

    /// The name to look up again at a redial.
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// All rules of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// For connections that the program makes.
    pub connect: Vec<Rule>,
    /// For addresses on which it listens.
    pub listen: Vec<Rule>,
}

/// All rules as they are written, each with its place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AllWritten {
    #[serde(default)]
    connect: Vec<Spanned<Written>>,
    #[serde(default)]
    listen: Vec<Spanned<Written>>,
}

impl Rules {
    /// Reads rules; an error comes with the byte at which it is.
    pub(crate) fn parse(text: &str) -> Result<Self, (usize, String)> {
        let written: AllWritten = toml::from_str(text).map_err(|error: toml::de::Error| {
            (error.span().map_or(0, |span| span.start), error.message().to_owned())
        })?;
        let all = |rules: Vec<Spanned<Written>>, is_connect: bool| -> Result<Vec<Rule>, _> {
            let rule = |written: Spanned<Written>| {
                let at = written.span().start;
                let written = written.into_inner();
                let checked =
                    if is_connect { written.check_connect() } else { written.check_listen() };
                checked.and_then(|()| written.try_into()).map_err(|problem| (at, problem))
            };
            rules.into_iter().map(rule).collect()
        };
        Ok(Self { connect: all(written.connect, true)?, listen: all(written.listen, false)? })
    }

    /// True when nothing can match.
    pub fn is_empty(&self) -> bool {
        self.connect.is_empty() && self.listen.is_empty()
    }

    /// The rule for a connection to `peer`; `None` when it stays plain.
    pub fn for_connect(&self, peer: SocketAddr) -> Option<&Rule> {
        first(&self.connect, peer)
    }

    /// The rule for a listener at `local`; `None` when it stays plain.
    pub fn for_listen(&self, local: SocketAddr) -> Option<&Rule> {
        first(&self.listen, local)
    }

    /// The names that rules wait to be told the addresses of.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.connect.iter().chain(&self.listen).filter_map(Rule::name)
    }

    /// Remembers the addresses of a name in all rules that name it.
    pub fn learn(&mut self, name: &str, found: &[IpAddr]) {
        for rule in self.connect.iter_mut().chain(&mut self.listen) {
            if rule.name().is_some_and(|own| own.eq_ignore_ascii_case(name)) {
                for addr in found {
                    if !rule.addresses.contains(addr) && rule.addresses.len() < ADDRESSES_MAX {
                        rule.addresses.push(*addr);
                    }
                }
            }
        }
    }

    /// The rules as TOML, in the form that [`crate::from_text`] reads: for the environment of a
    /// child.
    pub fn to_toml(&self) -> String {
        let tables = |rules: &[Rule]| -> Vec<Table> { rules.iter().map(Rule::to_table).collect() };
        let mut all = Table::new();
        all.insert("connect".to_owned(), tables(&self.connect).into());
        all.insert("listen".to_owned(), tables(&self.listen).into());
        all.to_string()
    }
}

/// The addresses that are remembered for one name, at most.
const ADDRESSES_MAX: usize = 64;

fn first(rules: &[Rule], addr: SocketAddr) -> Option<&Rule> {
    rules.iter().find(|rule| rule.matches(addr)).filter(|rule| rule.mode != Mode::Off)
}

impl Rule {
    fn to_table(&self) -> Table {
        let mut table = Table::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                table.insert(name.to_owned(), value);
            }
        };
        let text = |text: &Option<String>| text.clone().map(Value::from);
        let number = |number: Option<u32>| number.map(|number| i64::from(number).into());
        put(
            "host",
            match &self.host {
                Host::Any => None,
                Host::Block(block) => Some(block.to_string().into()),
                Host::Name(name) => Some(name.clone().into()),
            },
        );
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        put("addresses", (!addresses.is_empty()).then(|| addresses.into()));
        put("port", self.ports.map(|ports| ports.to_string().into()));
        put("mode", Some(self.mode.name().into()));
        put("key", self.key.as_ref().map(|path| path.display().to_string().into()));
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string().into());
        put("sealed", self.sealed.then(|| true.into()));
        put("identity", path(&self.identity));
        put("known-peers", path(&self.known_peers));
        put("accept-new", self.accept_new.then(|| true.into()));
        put("allowed-clients", path(&self.allowed_clients));
        put("policy", Some(self.policy.name().into()));
        let millis = |span: Duration| format!("{}ms", span.as_millis()).into();
        put("grace", self.grace.map(millis));
        put("redial-limit", number(self.redial_limit));
        put("on-fault", text(&self.on_fault));
        put("line-up", text(&self.line_up));
        put("server-speaks-first", self.server_speaks_first.then(|| true.into()));
        put("share", self.share.then(|| true.into()));
        put("sessions-max", number(self.sessions_max));
        // Not every size is a number of TOML's.
        put("memory-max", self.memory_max.map(|bytes| format!("{bytes}B").into()));
        put("handshakes-per-source", number(self.handshakes_per_source));
        table
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ask => "ask",
            Self::Never => "never",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        crate::from_text(text, "test").unwrap()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nothing_is_virtual_without_a_rule() {
        let none = rules("");
        assert!(none.is_empty());
        assert_eq!(none.for_connect(at("10.0.0.1:80")), None);
        assert_eq!(none.for_listen(at("0.0.0.0:80")), None);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = rules(
            "[[connect]]\nhost = \"10.0.0.1\"\nmode = \"off\"\n\
             [[connect]]\nhost = \"10.0.0.0/8\"\nport = 80\nmode = \"require\"\n\
             [[connect]]\nport = \"8000-8100\"\n",
        );
        assert_eq!(rules.for_connect(at("10.0.0.1:80")), None);
        assert_eq!(rules.for_connect(at("10.0.0.1:8000")), None);
        let mode = |addr| rules.for_connect(at(addr)).map(|rule| rule.mode);
        assert_eq!(mode("10.0.0.2:80"), Some(Mode::Require));
        assert_eq!(mode("[::ffff:10.0.0.2]:80"), Some(Mode::Require));
        assert_eq!(mode("10.0.0.2:81"), None);
        assert_eq!(mode("[2001:db8::1]:8100"), Some(Mode::Auto));
        assert_eq!(rules.for_listen(at("10.0.0.2:80")), None);
    }

    #[test]
    fn a_key_implies_require_and_contradicts_auto() {
        let with_key = rules("[[listen]]\nport = 1\nkey = \"/k\"\n");
        assert_eq!(with_key.listen[0].mode, Mode::Require);
        let error = crate::from_text("[[listen]]\nkey = \"/k\"\nmode = \"auto\"\n", "test");
        assert!(error.unwrap_err().to_string().contains("a key needs mode = \"require\""));
    }

    #[test]
    fn whatever_needs_keys_or_sealing_implies_require_and_contradictions_are_named() {
        for line in ["sealed = true", "identity = \"/i\"", "known-peers = \"/k\"", "key = \"/k\""] {
            let with = rules(&format!("[[connect]]\n{line}\n"));
            assert_eq!(with.connect[0].mode, Mode::Require, "{line}");
            let auto = format!("[[connect]]\n{line}\nmode = \"auto\"\n");
            let error = crate::from_text(&auto, "test").unwrap_err().to_string();
            assert!(error.contains("needs mode = \"require\""), "{error}");
        }
        for (lines, expected) in [
            ("key = \"/k\"\nidentity = \"/i\"", "exclude each other"),
            ("allowed-clients = \"/a\"", "`allowed-clients` needs an `identity`"),
            ("accept-new = true", "`accept-new` needs `known-peers`"),
        ] {
            let error = crate::from_text(&format!("[[listen]]\n{lines}\n"), "test").unwrap_err();
            assert!(error.to_string().contains(expected), "{lines}: {error}");
        }
    }

    #[test]
    fn sharing_implies_require_and_contradictions_are_named_with_the_line() {
        let share = rules("[[connect]]\nport = 1\nshare = true\npolicy = \"auto\"\n");
        assert_eq!((share.connect[0].mode, share.connect[0].share), (Mode::Require, true));
        assert_eq!(rules("[[connect]]\nshare = false\n").connect[0].mode, Mode::Auto);
        for (lines, expected) in [
            ("mode = \"auto\"", "`share` needs mode = \"require\""),
            ("mode = \"off\"", "`share` needs mode = \"require\""),
            ("policy = \"ask\"", "`share` needs policy = \"auto\""),
            ("policy = \"never\"\non-fault = \"true\"", "`share` needs policy = \"auto\""),
            ("server-speaks-first = true", "exclude each other"),
        ] {
            let text = format!("[[connect]]\nport = 1\n[[connect]]\nshare = true\n{lines}\n");
            let error = crate::from_text(&text, "test").unwrap_err().to_string();
            assert!(error.starts_with("test:3: ") && error.contains(expected), "{lines}: {error}");
        }
        let error = crate::from_text("[[listen]]\nshare = true\n", "test").unwrap_err();
        assert!(error.to_string().contains("expected it in a [[connect]] rule"), "{error}");
    }

    #[test]
    fn a_limit_of_a_listener_in_a_rule_for_connects_is_refused_with_the_line() {
        for line in ["sessions-max = 0", "memory-max = 1", "handshakes-per-source = 64"] {
            let key = line.split(' ').next().unwrap();
            assert_eq!(rules(&format!("[[listen]]\n{line}\n")).listen.len(), 1);
            let text = format!("[[connect]]\nport = 1\n[[connect]]\n{line}\n");
            let error = crate::from_text(&text, "test").unwrap_err().to_string();
            assert!(error.starts_with("test:3: "), "{error}");
            assert!(
                error.contains(key) && error.contains("expected it in a [[listen]]"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_name_matches_the_addresses_that_were_learnt_for_it() {
        let mut rules = rules("[[connect]]\nhost = \"Db.Example\"\nport = 5432\n");
        assert_eq!(rules.for_connect(at("192.0.2.1:5432")), None);
        assert_eq!(rules.names().collect::<Vec<_>>(), ["db.example"]);
        rules.learn("db.example", &["192.0.2.1".parse().unwrap()]);
        rules.learn("other.example", &["192.0.2.9".parse().unwrap()]);
        assert!(rules.for_connect(at("192.0.2.1:5432")).is_some());
        assert_eq!(rules.for_connect(at("192.0.2.9:5432")), None);
        assert_eq!(rules.for_connect(at("192.0.2.1:5433")), None);
    }

    #[test]
    fn rules_written_out_and_read_again_are_the_same() {
        let text = "[[connect]]\nhost = \"db\"\naddresses = [\"192.0.2.1\", \"::1\"]\n\
                    port = \"1-9\"\n\
                    mode = \"require\"\nkey = \"/a \\\"b\\\"\"\npolicy = \"ask\"\ngrace = \"90s\"\n\
                    redial-limit = 7\non-fault = \"echo 'x' # \\\\\"\nline-up = \"true\"\n\
                    [[connect]]\nhost = \"10.0.0.0/8\"\n\
                    [[connect]]\nhost = \"10.1.0.0/16\"\nshare = true\nsealed = true\n\
                    [[connect]]\nhost = \"::1\"\nsealed = true\nidentity = \"/i\"\n\
                    known-peers = \"/k\"\naccept-new = true\n\
                    [[listen]]\nport = 23\nidentity = \"/i\"\nallowed-clients = \"/a\"\n\
                    [[listen]]\nport = 22\nserver-speaks-first = true\n\
                    [[listen]]\nport = 21\nsessions-max = 7\nmemory-max = \"64MiB\"\n\
                    handshakes-per-source = 0\n\
                    [[listen]]\nport = 20\nmemory-max = \"18446744073709551615\"\n";
        let once = rules(text);
        let limits = |rule: &Rule| (rule.sessions_max, rule.memory_max, rule.handshakes_per_source);
        assert_eq!(limits(&once.listen[2]), (Some(7), Some(64 << 20), Some(0)));
        assert_eq!(limits(&once.listen[3]), (None, Some(u64::MAX), None));
        assert_eq!(rules(&once.to_toml()), once);
        assert_eq!(rules(&Rules::default().to_toml()), Rules::default());
    }
}
