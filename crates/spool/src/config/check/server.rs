//! A server of a pair.

use std::time::Duration;

use toml::Spanned;

use super::super::ConfigError;
use super::super::servers::{How, Keys, ServerFile, SocketServer};
use super::super::written::{WrittenHook, WrittenServer};
use super::Check;
use crate::link::FenceCommand;
use crate::target::Class;

const HOOK_TIMEOUT: Duration = Duration::from_secs(30);
const NAME_MAX: usize = 64;

pub(super) fn server(
    check: Check<'_>,
    pair: &str,
    default_name: &str,
    written: Spanned<WrittenServer>,
) -> Result<ServerFile, ConfigError> {
    let at = written.span().start;
    let mut written = written.into_inner();
    let name = written.name.take().unwrap_or_else(|| default_name.to_owned());
    if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
        let problem =
            format!("{name:?} is no name for a server; use 1 to {NAME_MAX} bytes of text");
        return Err(check.wrong(at, "name", &problem));
    }
    let url = written.url.clone();
    let counts = [
        ("in-flight-max", written.in_flight_max == Some(0)),
        ("lanes-max", written.lanes_max == Some(0)),
        ("connect-timeout", written.connect_timeout.is_some_and(|time| time.0.is_zero())),
        ("hook-timeout", written.hook_timeout.is_some_and(|time| time.0.is_zero())),
    ];
    if let Some((key, _)) = counts.into_iter().find(|(_, is_zero)| *is_zero) {
        return Err(check.wrong(at, key, "it is 0, with which nothing goes on; take more"));
    }
    let place = check.source.place(at, "[[pair.server]]");
    let class = written.class.map(Class::from);
    if let Some(rest) = url.strip_prefix("eversock://") {
        let class = class.unwrap_or(Class::Ledger);
        let server = socket(check, at, rest, written)?;
        return Ok(ServerFile { name, url, class, place, how: How::Socket(Box::new(server)) });
    }
    if !url.starts_with("http://") {
        let problem = format!("{url:?}: expected eversock://HOST:PORT or http://HOST:PORT/PREFIX");
        return Err(check.wrong(at, "url", &problem));
    }
    let class = class.unwrap_or(Class::Opaque);
    let how = http(check, at, (pair, &name), class, written)?;
    Ok(ServerFile { name, url, class, place, how })
}

fn socket(
    check: Check<'_>,
    at: usize,
    rest: &str,
    written: WrittenServer,
) -> Result<SocketServer, ConfigError> {
    only(
        check,
        at,
        "eversock",
        &[
            ("promote", written.promote.is_some()),
            ("release", written.release.is_some()),
            ("health", written.health.is_some()),
            ("headers", written.headers.is_some()),
            ("lanes-max", written.lanes_max.is_some()),
            ("answer-max", written.answer_max.is_some()),
            ("linger", written.linger.is_some()),
        ],
    )?;
    let Some((host, port)) = host_and_port(rest) else {
        let problem = format!("eversock://{rest}: expected eversock://HOST:PORT and no more");
        return Err(check.wrong(at, "url", &problem));
    };
    let timeout = written.hook_timeout.map_or(HOOK_TIMEOUT, |time| time.0);
    let fence = match written.fence {
        None => None,
        Some(WrittenHook::Command(argv)) => {
            let (program, args) =
                argv.split_first().ok_or_else(|| no_program(check, at, "fence"))?;
            Some(FenceCommand { program: program.clone(), args: args.to_vec(), timeout })
        }
        Some(WrittenHook::Post(_)) => {
            let problem = "such a server is fenced by a command; write [\"program\", \"argument\"]";
            return Err(check.wrong(at, "fence", problem));
        }
    };
    let keys = Keys {
        key: check.paths(written.key),
        sealed: written.sealed,
        identity: check.paths(written.identity),
        known_peers: check.paths(written.known_peers),
        accept_new: written.accept_new,
        allowed_clients: None,
    };
    keys.check().map_err(|(key, problem)| check.wrong(at, key, problem))?;
    if keys.identity.is_some() && keys.known_peers.is_none() {
        let problem = "it needs `known-peers`: a client names itself to servers that it knows";
        return Err(check.wrong(at, "identity", problem));
    }
    let bytes = written.bytes_in_flight_max;
    Ok(SocketServer {
        host,
        port,
        keys,
        grace: written.grace.map(|time| time.0),
        connect_timeout: written.connect_timeout.map(|time| time.0),
        in_flight_max: written.in_flight_max,
        bytes_in_flight_max: bytes.map(|size| usize::try_from(size.0).unwrap_or(usize::MAX)),
        fence,
    })
}

#[cfg(feature = "http")]
fn http(
    check: Check<'_>,
    at: usize,
    (pair, name): (&str, &str),
    class: Class,
    written: WrittenServer,
) -> Result<How, ConfigError> {
    use crate::http::{Hook, HttpTargetConfig};
    only(
        check,
        at,
        "http",
        &[
            ("key", written.key.is_some()),
            ("sealed", written.sealed),
            ("identity", written.identity.is_some()),
            ("known-peers", written.known_peers.is_some()),
            ("accept-new", written.accept_new),
            ("grace", written.grace.is_some()),
            ("bytes-in-flight-max", written.bytes_in_flight_max.is_some()),
        ],
    )?;
    let timeout = written.hook_timeout.map_or(HOOK_TIMEOUT, |time| time.0);
    let hook = |key: &str, hook: Option<WrittenHook>| match hook {
        None => Ok(None),
        Some(WrittenHook::Command(argv)) if argv.is_empty() => Err(no_program(check, at, key)),
        Some(WrittenHook::Command(argv)) => Ok(Some(Hook::Command { argv, timeout })),
        Some(WrittenHook::Post(url)) if url.starts_with("http://") => {
            Ok(Some(Hook::Post { url, timeout }))
        }
        Some(WrittenHook::Post(url)) => {
            let problem = format!(
                "{url:?}: expected [\"program\", \"argument\"] or \"http://HOST:PORT/PATH\""
            );
            Err(check.wrong(at, key, &problem))
        }
    };
    let mut config = HttpTargetConfig::new(pair, name, &written.url);
    config.class = class;
    config.health = written.health;
    config.promote = hook("promote", written.promote)?;
    config.fence = hook("fence", written.fence)?;
    config.release = hook("release", written.release)?;
    config.headers = written.headers.unwrap_or_default();
    config.connect_timeout = written.connect_timeout.map_or(config.connect_timeout, |time| time.0);
    config.in_flight_max = written.in_flight_max.unwrap_or(config.in_flight_max);
    config.lanes_max = written.lanes_max.unwrap_or(config.lanes_max);
    let answer_max = written.answer_max.map(|size| usize::try_from(size.0).unwrap_or(usize::MAX));
    config.answer_max = answer_max.unwrap_or(config.answer_max).min(config.answer_max);
    config.linger = written.linger.map_or(config.linger, |time| time.0);
    Ok(How::Http(Box::new(config)))
}

#[cfg(not(feature = "http"))]
fn http(
    check: Check<'_>,
    at: usize,
    _names: (&str, &str),
    _class: Class,
    _written: WrittenServer,
) -> Result<How, ConfigError> {
    let problem = "this program was built without the feature `http`; build it with, or take a \
                   server at eversock://HOST:PORT";
    Err(check.wrong(at, "url", problem))
}

/// Refuses keys of the other kind of server.
fn only(
    check: Check<'_>,
    at: usize,
    scheme: &str,
    others: &[(&str, bool)],
) -> Result<(), ConfigError> {
    match others.iter().find(|(_, is_there)| *is_there) {
        None => Ok(()),
        Some((key, _)) => {
            let problem = format!("a server at {scheme}:// has no use for it; leave it out");
            Err(check.wrong(at, key, &problem))
        }
    }
}

fn no_program(check: Check<'_>, at: usize, key: &str) -> ConfigError {
    check.wrong(at, key, "it names no program; write [\"program\", \"argument\"]")
}

/// An IPv6 address stands in brackets.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let fits = !host.is_empty()
        && host.len() <= 253
        && host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:%".contains(c));
    (fits && port != 0).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_ports() {
        let is = |text: &str, host: &str, port| {
            assert_eq!(host_and_port(text), Some((host.to_owned(), port)), "{text}");
        };
        is("10.0.0.1:7700", "10.0.0.1", 7700);
        is("db.example:1", "db.example", 1);
        is("[::1]:80", "::1", 80);
        for wrong in ["", "db", "db:0", "db:x", "::1:80", "[::1]", "a/b:80", ":80", "db:80/x"] {
            assert_eq!(host_and_port(wrong), None, "{wrong}");
        }
    }
}
