//! A pair.

use eversock_units::{Size, Time};

use super::super::written::WrittenPair;
use super::super::{ConfigError, PairFile};
use super::{Check, server};
use crate::limits::PAIR_NAME_MAX;
use crate::pair::{PairConfig, Reads};
use crate::store::committer::CommitterConfig;

/// Requests of one pair at once: each has its payload in memory.
const IN_FLIGHT_MAX: usize = 1_000_000;
/// Records that are on their way at once, and calls.
const WINDOW_MAX: usize = 65_536;
const CALLS_MAX: usize = 256;

pub(super) fn pair(
    check: Check<'_>,
    at: usize,
    mut written: WrittenPair,
) -> Result<PairFile, ConfigError> {
    let name = written.name.clone();
    let usual = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > PAIR_NAME_MAX || !name.chars().all(usual) {
        let problem = format!(
            "{name:?} is no name for a pair; use 1 to {PAIR_NAME_MAX} letters, digits, - or _"
        );
        return Err(check.wrong(at, "name", &problem));
    }
    let servers = std::mem::take(&mut written.server);
    let count = servers.len();
    let Ok([main, standby]) = <[_; 2]>::try_from(servers) else {
        let problem = format!("{name} has {count}; a pair has two [[pair.server]]");
        return Err(check.wrong(at, "server", &problem));
    };
    let servers = [
        server::server(check, &name, "main", main)?,
        server::server(check, &name, "standby", standby)?,
    ];
    if servers[0].name == servers[1].name {
        let problem = format!("both servers of {name} are called {:?}", servers[0].name);
        return Err(check.wrong(at, "server", &format!("{problem}; give them names of their own")));
    }
    if servers[0].class != servers[1].class {
        let problem = "main and standby promise different things; a pair keeps one promise: give \
                       both the weaker `class`";
        return Err(check.wrong(at, "server", problem));
    }
    let (config, committer) = behaviour(&written, [servers[0].class, servers[1].class]);
    sound(&config, &committer).map_err(|(key, problem)| check.wrong(at, key, &problem))?;
    if config.reads == Reads::Overlay && servers.iter().any(|server| server.url.starts_with("http"))
    {
        let problem = "servers that speak HTTP do not answer a GET with the bytes of the PUT; take \
                       \"wait\", \"stale\" or \"job\"";
        return Err(check.wrong(at, "reads", problem));
    }
    Ok(PairFile { name, config, committer, servers })
}

fn behaviour(
    written: &WrittenPair,
    classes: [crate::target::Class; 2],
) -> (PairConfig, CommitterConfig) {
    fn value<T: Copy>(to: &mut T, from: Option<T>) {
        *to = from.unwrap_or(*to);
    }
    fn time(to: &mut u64, from: Option<Time>) {
        *to = from.map_or(*to, Time::micros);
    }
    fn size(to: &mut u64, from: Option<Size>) {
        *to = from.map_or(*to, |size| size.0);
    }
    let mut config = PairConfig { classes, ..PairConfig::default() };
    value(&mut config.reads, written.reads);
    value(&mut config.delete_as_write, written.delete_as_write);
    value(&mut config.drain, written.drain);
    value(&mut config.in_doubt, written.in_doubt);
    value(&mut config.automatic, written.automatic);
    value(&mut config.dry_run, written.dry_run);
    value(&mut config.quota_records, written.quota_records);
    size(&mut config.quota_bytes, written.quota_bytes);
    value(&mut config.hold_max, written.hold_max);
    value(&mut config.in_flight_max, written.in_flight_max);
    size(&mut config.in_flight_bytes_max, written.in_flight_bytes_max);
    time(&mut config.retry_after, written.retry_after);
    time(&mut config.call_timeout, written.call_timeout);
    value(&mut config.suspect_errors, written.suspect_errors);
    time(&mut config.suspect_window, written.suspect_window);
    time(&mut config.confirm, written.confirm);
    time(&mut config.probe_every, written.probe_every);
    time(&mut config.probe_timeout, written.probe_timeout);
    time(&mut config.lease, written.lease);
    time(&mut config.flap_guard, written.flap_guard);
    time(&mut config.release_timeout, written.release_timeout);
    value(&mut config.drain_window_max, written.drain_window_max);
    value(&mut config.drain_calls_max, written.drain_calls_max);
    value(&mut config.drain_rate, written.drain_rate);
    time(&mut config.freeze, written.freeze);
    let mut committer = CommitterConfig::default();
    value(&mut committer.window, written.commit_window.map(|time| time.0));
    value(&mut committer.records_max, written.commit_records_max);
    size(&mut committer.bytes_max, written.commit_bytes_max);
    value(&mut committer.queue_max, written.commit_queue_max);
    value(&mut committer.keep, written.keep_ids.map(|time| time.0));
    (config, committer)
}

/// What would hang, spin or switch without end.
fn sound(config: &PairConfig, committer: &CommitterConfig) -> Result<(), (&'static str, String)> {
    let zero = [
        ("quota-records", config.quota_records == 0),
        ("quota-bytes", config.quota_bytes == 0),
        ("hold-max", config.hold_max == 0),
        ("in-flight-max", config.in_flight_max == 0),
        ("in-flight-bytes-max", config.in_flight_bytes_max == 0),
        ("call-timeout", config.call_timeout == 0),
        ("suspect-errors", config.suspect_errors == 0),
        ("suspect-window", config.suspect_window == 0),
        ("probe-every", config.probe_every == 0),
        ("probe-timeout", config.probe_timeout == 0),
        ("release-timeout", config.release_timeout == 0),
        ("drain-window-max", config.drain_window_max == 0),
        ("drain-calls-max", config.drain_calls_max == 0),
        ("commit-records-max", committer.records_max == 0),
        ("commit-bytes-max", committer.bytes_max == 0),
        ("commit-queue-max", committer.queue_max == 0),
    ];
    if let Some((key, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
        return Err((key, "it is 0, with which nothing goes on; take more".to_owned()));
    }
    let most = [
        ("in-flight-max", config.in_flight_max, IN_FLIGHT_MAX),
        ("hold-max", config.hold_max, config.in_flight_max),
        ("drain-window-max", config.drain_window_max, WINDOW_MAX),
        ("drain-calls-max", config.drain_calls_max, CALLS_MAX),
        ("commit-records-max", committer.records_max, 1024),
        ("commit-queue-max", committer.queue_max, IN_FLIGHT_MAX),
    ];
    if let Some((key, value, most)) = most.into_iter().find(|(_, value, most)| value > most) {
        return Err((key, format!("it is {value}, and {most} at most; take less")));
    }
    if config.probe_every < 1000 {
        return Err(("probe-every", "it is less than a millisecond; take more".to_owned()));
    }
    let least = config.probe_every + config.probe_timeout + config.lease_margin();
    if config.lease <= least {
        let ms = least.div_ceil(1000);
        return Err((
            "lease",
            format!(
                "it has to be longer than `probe-every`, `probe-timeout` and its margin together \
                 ({ms} ms), or the lock runs out before it is renewed; take more"
            ),
        ));
    }
    Ok(())
}
