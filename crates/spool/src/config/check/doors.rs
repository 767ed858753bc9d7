//! What a front listens on.

use eversock_units::Size;
use toml::Spanned;

#[cfg(any(feature = "http", feature = "smtp"))]
use super::super::PairFile;
use super::super::servers::Keys;
use super::super::written::WrittenSocket;
use super::super::{ConfigError, SocketFile};
use super::Check;
use crate::door::DoorConfig;

fn set<T>(to: &mut T, from: Option<T>) {
    if let Some(from) = from {
        *to = from;
    }
}

fn bytes(size: Size) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

pub(super) fn socket(
    check: Check<'_>,
    written: Spanned<WrittenSocket>,
) -> Result<SocketFile, ConfigError> {
    let at = written.span().start;
    let written = written.into_inner();
    let keys = Keys {
        key: check.paths(written.key),
        sealed: written.sealed,
        identity: check.paths(written.identity),
        known_peers: None,
        accept_new: false,
        allowed_clients: check.paths(written.allowed_clients),
    };
    keys.check().map_err(|(key, problem)| check.wrong(at, key, problem))?;
    let mut door = DoorConfig::default();
    set(&mut door.connections_max, written.connections_max);
    set(&mut door.in_flight_max, written.in_flight_max);
    set(&mut door.bytes_in_flight_max, written.bytes_in_flight_max.map(bytes));
    set(&mut door.bytes_max, written.bytes_max.map(bytes));
    let zero = [
        ("connections-max", door.connections_max == 0),
        ("in-flight-max", door.in_flight_max == 0),
    ];
    if let Some((key, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
        return Err(check.wrong(at, key, "it is 0, with which nobody gets in; take more"));
    }
    Ok(SocketFile {
        place: check.source.place(at, "[[socket]]"),
        listen: written.listen,
        keys,
        grace: written.grace.map(|time| time.0),
        sessions_max: written.sessions_max,
        memory_max: written.memory_max.map(|size| size.0),
        handshakes_per_source: written.handshakes_per_source,
        door,
    })
}

/// The pair that a door names.
#[cfg(any(feature = "http", feature = "smtp"))]
fn known<'a>(
    check: Check<'_>,
    at: usize,
    pairs: &'a [PairFile],
    name: &str,
) -> Result<&'a PairFile, ConfigError> {
    pairs.iter().find(|pair| pair.name == name).ok_or_else(|| {
        let names: Vec<&str> = pairs.iter().map(|pair| pair.name.as_str()).collect();
        let problem = format!("no [[pair]] is called {name:?}; there is {}", names.join(", "));
        check.wrong(at, "pair", &problem)
    })
}

#[cfg(feature = "http")]
pub(super) fn http(
    check: Check<'_>,
    doors: Vec<Spanned<super::super::written::WrittenHttp>>,
    pairs: &[PairFile],
) -> Result<Vec<(super::super::Place, crate::http::HttpFrontConfig)>, ConfigError> {
    use crate::http::{HttpFrontConfig, Route};
    let mut all = Vec::with_capacity(doors.len());
    for written in doors {
        let at = written.span().start;
        let written = written.into_inner();
        let mut routes = Vec::with_capacity(written.route.len());
        for route in written.route {
            let at = route.span().start;
            let route = route.into_inner();
            known(check, at, pairs, &route.pair)?;
            routes.push(Route {
                search_prefixes: route.search,
                search_post: route.search_post,
                ..Route::new(&route.path, &route.pair)
            });
        }
        if routes.is_empty() {
            let problem = "there is none; add an [[http.route]] with `path` and `pair`";
            return Err(check.wrong(at, "route", problem));
        }
        let mut config = HttpFrontConfig::new(written.listen, routes);
        set(&mut config.body_max, written.body_max.map(bytes));
        set(&mut config.bodies_max, written.bodies_max.map(bytes));
        set(&mut config.deadline, written.deadline.map(|time| time.0));
        set(&mut config.connections_max, written.connections_max);
        set(&mut config.spooled_status, written.spooled_status);
        set(&mut config.header_timeout, written.header_timeout.map(|time| time.0));
        set(&mut config.body_timeout, written.body_timeout.map(|time| time.0));
        set(&mut config.write_timeout, written.write_timeout.map(|time| time.0));
        set(&mut config.keep_host, written.keep_host);
        set(&mut config.dropped_headers, written.dropped_headers);
        set(&mut config.threads, written.threads);
        if !(1..=64).contains(&config.threads) {
            return Err(check.wrong(at, "threads", "it has to be 1 to 64; take 2"));
        }
        all.push((check.source.place(at, "[[http]]"), config));
    }
    Ok(all)
}

#[cfg(feature = "smtp")]
pub(super) fn smtp(
    check: Check<'_>,
    doors: Vec<Spanned<super::super::written::WrittenSmtp>>,
    pairs: &[PairFile],
) -> Result<Vec<(super::super::Place, crate::smtp::SmtpConfig)>, ConfigError> {
    use crate::smtp::SmtpConfig;
    let mut all = Vec::with_capacity(doors.len());
    for written in doors {
        let at = written.span().start;
        let written = written.into_inner();
        let pair = known(check, at, pairs, &written.pair)?;
        if pair.servers.iter().any(|server| server.url.starts_with("http")) {
            let problem = format!(
                "{} has servers that speak HTTP, to which mail is no request; take a pair of \
                 eversock:// servers",
                pair.name
            );
            return Err(check.wrong(at, "pair", &problem));
        }
        let mut config = SmtpConfig::new(written.listen, &written.hostname, &written.pair);
        config.domains = written.domains;
        set(&mut config.message_max, written.message_max.map(bytes));
        set(&mut config.memory_max, written.memory_max.map(bytes));
        set(&mut config.recipients_max, written.recipients_max);
        set(&mut config.connections_max, written.connections_max);
        set(&mut config.idle, written.idle.map(|time| time.0));
        set(&mut config.message_timeout, written.message_timeout.map(|time| time.0));
        set(&mut config.errors_max, written.errors_max);
        set(&mut config.deadline, written.deadline.map(|time| time.0));
        all.push((check.source.place(at, "[[smtp]]"), config));
    }
    Ok(all)
}

/// Refuses doors that this program was built without.
#[cfg(not(all(feature = "http", feature = "smtp")))]
pub(super) fn missing<T>(
    check: Check<'_>,
    doors: &[Spanned<T>],
    feature: &str,
) -> Result<(), ConfigError> {
    match doors.first() {
        None => Ok(()),
        Some(door) => {
            let problem = format!(
                "this program was built without the feature `{feature}`; build it with, or leave \
                 this out"
            );
            Err(check.wrong(door.span().start, feature, &problem))
        }
    }
}
