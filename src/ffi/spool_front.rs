//! The front of spool failover, started from C.

use std::io;
use std::path::Path;

use eversock_spool::config::{ConfigError, FrontFile, Running};
use eversock_spool::front::{Front, PairStatus};
use eversock_spool::pair::Command;
use libc::{c_char, c_int, size_t};
use serde_json::json;

use crate::ffi::edge::{self, Callback, Owned, refuse};
use crate::ffi::guard;
use crate::ffi::memory;
use crate::ffi::strings::some_text;

/// evs_spool_front_command(): let the other server take over; running work is finished first.
pub const EVS_SPOOL_SWITCH: c_int = 1;
/// evs_spool_front_command(): the same without asking the main, which is believed dead.
pub const EVS_SPOOL_SWITCH_NOW: c_int = 2;
/// evs_spool_front_command(): look at the main at once, which is believed dead.
pub const EVS_SPOOL_SUSPECT: c_int = 3;
/// evs_spool_front_command(): spool everything, and drain nothing. Holds across restarts.
pub const EVS_SPOOL_HOLD: c_int = 4;
/// evs_spool_front_command(): the end of that.
pub const EVS_SPOOL_RELEASE: c_int = 5;
/// evs_spool_front_command(): do these records again, which are held because they are in doubt.
pub const EVS_SPOOL_RETRY: c_int = 6;
/// evs_spool_front_command(): give these records up for good.
pub const EVS_SPOOL_PURGE: c_int = 7;

/// Records of one command.
const RECORDS_MAX: usize = 4096;

/// A front at work; opaque. Owned: end it with evs_spool_front_close().
///
/// It has threads for each pair and each door, and is its process's alone: in a child of a fork its
/// functions give ESHUTDOWN, and evs_spool_front_close() does nothing.
#[allow(non_camel_case_types, reason = "the name in C")]
pub struct evs_spool_front {
    running: Owned<Running>,
}

impl std::fmt::Debug for evs_spool_front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("evs_spool_front").finish_non_exhaustive()
    }
}

fn told(error: &ConfigError) -> io::Error {
    let number = match error {
        ConfigError::Unreadable { cause, .. } => return named(guard::numbered(cause), error),
        ConfigError::TooLong { .. } | ConfigError::Wrong { .. } => libc::EINVAL,
        ConfigError::Unusable { .. } => libc::EIO,
    };
    named(io::Error::from_raw_os_error(number), error)
}

fn named(number: io::Error, error: &ConfigError) -> io::Error {
    edge::explain(&error.to_string());
    number
}

/// # Safety
/// `front` is NULL, or from evs_spool_front_start() and not ended.
unsafe fn running<'a>(front: *const evs_spool_front) -> io::Result<&'a Running> {
    // SAFETY: the caller's word.
    match unsafe { front.as_ref() } {
        Some(front) => front.running.get(),
        None => refuse(libc::EFAULT, "NULL for a handle of evs_spool_front_start()"),
    }
}

fn start(file: Result<FrontFile, ConfigError>) -> io::Result<evs_spool_front> {
    let running = file.and_then(|file| file.start()).map_err(|error| told(&error))?;
    Ok(evs_spool_front { running: Owned::new(running) })
}

/// Starts a front as this file says it; it is that of `evs spool run`, and examples/spool.toml has
/// every key. Paths in it are relative to its folder. Doors for HTTP and mail are not in this
/// library.
///
/// Opens the spools, begins to connect to the servers, and listens. Blocks as long as disks and
/// name servers take; cancellation does not end it.
///
/// Returns:       a handle, owned by the caller (evs_spool_front_close); NULL with errno set. Then
///                nothing is served, and evs_spool_error() names the line and the remedy.
/// Errors:        those of open(2); EFAULT (NULL); EILSEQ (the path is not UTF-8); EINVAL (the
///                file, or what one of its lines asks for); EIO (a spool cannot be used).
/// Thread safety: any thread; so may the handle be used by any number at a time.
/// Since:         0.1
///
/// # Safety
/// `path` is a string.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn evs_spool_front_start(path: *const c_char) -> *mut evs_spool_front {
    edge::handle(|| {
        // SAFETY: the caller's word.
        let path = unsafe { some_text(path)? };
        start(FrontFile::from_file(Path::new(&path)))
    })
}

/// evs_spool_front_start() with the text of such a file; `folder` is what paths in it are relative
/// to.
///
/// Returns:       a handle, owned by the caller (evs_spool_front_close); NULL with errno set.
/// Errors:        those of evs_spool_front_start(); EILSEQ (not UTF-8).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `text` and `folder` are strings.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn evs_spool_front_start_text(
    text: *const c_char,
    folder: *const c_char,
) -> *mut evs_spool_front {
    edge::handle(|| {
        // SAFETY: the caller's word.
        let (text, folder) = unsafe { (some_text(text)?, some_text(folder)?) };
        start(FrontFile::from_text(&text, "the front's text", Path::new(&folder)))
    })
}

/// Tells where a front takes requests: its door of this index, counted from 0 in the order of the
/// file, as `127.0.0.1:7600` or `[::1]:7600` with a NUL behind; as much of it as there is room for.
/// 64 bytes are enough. Never blocks.
///
/// Returns:       the length of the whole text without the NUL, or -errno.
/// Errors:        EFAULT (NULL); ENOENT (no such door); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `front` is from evs_spool_front_start() and not ended; `addr` is writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_front_addr(
    front: *const evs_spool_front,
    index: size_t,
    addr: *mut c_char,
    size: size_t,
) -> c_int {
    edge::length(|| {
        // SAFETY: the caller's word.
        let listening = unsafe { running(front)? }.listening();
        let Some(door) = listening.get(index) else {
            return refuse(libc::ENOENT, format!("door {index} of {}", listening.len()));
        };
        // SAFETY: as above.
        unsafe { edge::store_text(&door.addr.to_string(), addr, size) }
    })
}

/// Tells how a pair is, as an object of JSON with a NUL behind; as much of it as there is room for.
/// Its members have the names and meanings of those of `evs spool stat --json`; later versions add
/// some.
///
/// Blocks for a moment, at most 5 s; cancellation does not end it.
///
/// Returns:       the length of the whole text without the NUL, or -errno.
/// Errors:        EFAULT (NULL); EILSEQ (not UTF-8); ENOENT (no such pair, or it does not answer);
///                ESHUTDOWN (a child of a fork, or the front ends).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `front` is from evs_spool_front_start() and not ended; `pair` is a string; `json` is NULL with
/// no `size`, or writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_front_status(
    front: *const evs_spool_front,
    pair: *const c_char,
    json: *mut c_char,
    size: size_t,
) -> c_int {
    edge::length(|| {
        // SAFETY: the caller's word.
        let front = unsafe { running(front)? };
        // SAFETY: as above.
        let pair = unsafe { some_text(pair)? };
        let Some(status) = with(front, |front| front.status(&pair))? else {
            let text = format!("no pair is called {pair:?}, or it does not answer");
            return refuse(libc::ENOENT, text);
        };
        // SAFETY: as above.
        unsafe { edge::store_text(&shown(&pair, &status), json, size) }
    })
}

fn with<T>(running: &Running, ask: impl FnOnce(&Front) -> T) -> io::Result<T> {
    match running.gate().with(ask) {
        Some(said) => Ok(said),
        None => refuse(libc::ESHUTDOWN, "the front has ended"),
    }
}

fn shown(name: &str, status: &PairStatus) -> String {
    let PairStatus { pair, commits, up } = status;
    let (totals, done) = (&pair.totals, &pair.counters);
    let alarms: Vec<&str> = pair.alarms.iter().map(|(_, text)| text.as_str()).collect();
    json!({
        "pair": name,
        "state": pair.state,
        "live": {
            "holder": pair.holder,
            "epoch": pair.epoch,
            "ready": pair.ready,
            "on_hold": pair.on_hold,
            "split": pair.split,
            "flap_guard": pair.flap_guard,
            "spool_full": pair.spool_full,
            "hold_full": pair.hold_full,
            "dry_run": pair.dry_run,
            "stuck": pair.stuck,
            "in_flight": pair.in_flight,
            "waiting": pair.held,
            "window": pair.window,
            "up_ms": u64::try_from(up.as_millis()).unwrap_or(u64::MAX),
            "counters": {
                "requests": done.requests,
                "applied": done.applied,
                "spooled": done.spooled,
                "overlaid": done.overlaid,
                "stale": done.stale,
                "in_doubt": done.in_doubt,
                "rejected": done.rejected,
                "drained": done.drained,
                "promoted": done.promoted,
                "switched": done.switched,
            },
            "commits": { "commits": commits.commits, "records": commits.records },
            "alarms": alarms,
        },
        "spool": {
            "pending": totals.pending,
            "bytes": totals.bytes,
            "held": totals.held,
            "in_doubt": totals.in_doubt,
            "quarantined": totals.quarantined,
            "last_lsn": totals.last_lsn,
        },
    })
    .to_string()
}

/// Tells a pair to do something: EVS_SPOOL_SWITCH to EVS_SPOOL_PURGE. `lsns` are the places of the
/// records that EVS_SPOOL_RETRY and EVS_SPOOL_PURGE are about, 1 to 4,096; the others have none.
///
/// Blocks until it has been taken in and is on disk where it must be, at most 30 s; cancellation
/// does not end it. evs_spool_front_status() shows what comes of it.
///
/// Returns:       0, or -errno.
/// Errors:        EAGAIN (the pair does not do it: evs_spool_error() says why); EFAULT (NULL);
///                EILSEQ (not UTF-8); EINVAL (no such command, or its records); ESHUTDOWN (a child
///                of a fork, or the front ends).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `front` is from evs_spool_front_start() and not ended; `pair` is a string; `lsns` is readable
/// for `count` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_front_command(
    front: *mut evs_spool_front,
    pair: *const c_char,
    command: c_int,
    lsns: *const u64,
    count: size_t,
) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let front = unsafe { running(front)? };
        // SAFETY: as above.
        let pair = unsafe { some_text(pair)? };
        if count > RECORDS_MAX {
            return refuse(libc::EINVAL, format!("{count} records: {RECORDS_MAX} are allowed"));
        }
        // SAFETY: as above; `place` is below `count`.
        let lsn = |place: usize| unsafe { memory::read(lsns.wrapping_add(place)) };
        let lsns: Vec<u64> = (0..count).map(lsn).collect::<io::Result<_>>()?;
        let command = self::command(command, lsns)?;
        let said = with(front, |front| front.command(&pair, command))?;
        said.map(drop).or_else(|why| refuse(libc::EAGAIN, why))
    })
}

fn command(number: c_int, lsns: Vec<u64>) -> io::Result<Command> {
    let command = match number {
        EVS_SPOOL_RETRY if !lsns.is_empty() => return Ok(Command::Retry(lsns)),
        EVS_SPOOL_PURGE if !lsns.is_empty() => return Ok(Command::Purge(lsns)),
        EVS_SPOOL_RETRY | EVS_SPOOL_PURGE => {
            return refuse(libc::EINVAL, "the command is about records: give their places");
        }
        EVS_SPOOL_SWITCH => Command::Switch,
        EVS_SPOOL_SWITCH_NOW => Command::SwitchNow,
        EVS_SPOOL_SUSPECT => Command::Suspect,
        EVS_SPOOL_HOLD => Command::Hold,
        EVS_SPOOL_RELEASE => Command::Release,
        other => {
            return refuse(libc::EINVAL, format!("{other} is no command: EVS_SPOOL_SWITCH..."));
        }
    };
    if lsns.is_empty() {
        return Ok(command);
    }
    refuse(libc::EINVAL, "the command is not about records: give none")
}

/// Ends a front, and frees the handle. NULL is ignored.
///
/// Whoever waits is told so, and what was acknowledged is on disk: the next front goes on with it.
/// Blocks until those who were told have read it, or for some seconds; cancellation does not end
/// it.
///
/// Returns:       0, or -errno.
/// Errors:        ENOTRECOVERABLE.
/// Thread safety: one thread, when no other uses the handle any more.
/// Since:         0.1
///
/// # Safety
/// `front` is NULL, or from evs_spool_front_start() and not yet ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_front_close(front: *mut evs_spool_front) -> c_int {
    edge::status(|| {
        let close = |front: evs_spool_front| front.running.into_inner().close();
        let is_mine = |front: &evs_spool_front| front.running.belongs_here();
        // SAFETY: the caller's word.
        unsafe { edge::end(front, Callback::None, close, is_mine) }
    })
}
