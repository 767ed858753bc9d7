//! What a pool shows of itself.

use eversock_dedup::TableRow;
use eversock_dedup::state::{Metrics, Why};
use libc::{c_char, c_int, size_t};

use crate::ffi::guard::{self, fail};
use crate::ffi::info::text;
use crate::ffi::pool::{evs_pool, pool};
use crate::ffi::{memory, sized};

/// evs_pool_row: it waits for a session.
pub const EVS_ROW_WAITING: c_int = 0;
/// evs_pool_row: its session has a connection.
pub const EVS_ROW_ACTIVE: c_int = 1;
/// evs_pool_row: its session is being resumed.
pub const EVS_ROW_RECOVERING: c_int = 2;
/// evs_pool_row: its session takes no more connections.
pub const EVS_ROW_DRAINING: c_int = 3;
/// evs_pool_row: its session has failed.
pub const EVS_ROW_DEAD: c_int = 4;

/// evs_pool_row: it shares a session that there was.
pub const EVS_WHY_SHARED: c_int = 0;
/// evs_pool_row: it shares; a dial has shown that there was a session to that server.
pub const EVS_WHY_LATE_MERGE: c_int = 1;
/// evs_pool_row: there was no session that could be compared with.
pub const EVS_WHY_FIRST: c_int = 2;
/// evs_pool_row: the address belongs to another server than the sessions that there are.
pub const EVS_WHY_OTHER_SERVER: c_int = 3;
/// evs_pool_row: the peer has no static key, nor a pre-shared one, and cannot say who it is.
pub const EVS_WHY_NO_KEY: c_int = 4;
/// evs_pool_row: the peer's listener does not share.
pub const EVS_WHY_PEER_DOES_NOT_SHARE: c_int = 5;
/// evs_pool_row: service, keys, device, tag or another part of what must be alike differ.
pub const EVS_WHY_KEY_DIFFERS: c_int = 6;
/// evs_pool_row: the same server in another life: it was restarted, or runs twice.
pub const EVS_WHY_OTHER_BOOT: c_int = 7;
/// evs_pool_row: the server takes no more connections on its session.
pub const EVS_WHY_GOING_AWAY: c_int = 8;
/// evs_pool_row: the session is full.
pub const EVS_WHY_STREAM_LIMIT: c_int = 9;
/// evs_pool_row: the server of the session does not have the service.
pub const EVS_WHY_MISDIRECTED: c_int = 10;

/// One connection of a pool at one moment. New members are added at the end. What is not known of
/// a line is -1; texts are cut to fit, and empty where there is none.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct evs_pool_row {
    /// Its number, which no other connection of the pool gets.
    pub management: u64,
    /// The number of the session's connection, from 1; 0 while there is no session.
    pub epoch: u64,
    /// Which life of the server it is; 0 while it is not known.
    pub boot: u64,
    /// Least round trip of the session's line, in microseconds.
    pub rtt_min_us: i64,
    /// Smoothed round trip, in microseconds.
    pub rtt_us: i64,
    /// What is lost, in millionths.
    pub loss_ppm: i64,
    /// What was delivered, in bits a second.
    pub rate_bps: i64,
    /// Speed of the device, in millions of bits a second.
    pub link_mbps: i64,
    /// Routers on the way.
    pub hops: i32,
    /// Largest packet of the path, in bytes.
    pub mtu: i32,
    /// Connections of the session.
    pub references: u32,
    /// EVS_ROW_*.
    pub state: i32,
    /// EVS_WHY_*.
    pub why: i32,
    /// 0.
    pub reserved: i32,
    /// Who the server is; zeros if it cannot say, or is not known yet.
    pub server: [u8; 16],
    /// The session's id, as `evs ls` shows it; zeros while there is none.
    pub session: [u8; 16],
    /// Where the session goes to now, or went last, as `192.0.2.1:80` or
    /// `[2001:db8::1]:80`.
    pub address: [c_char; 64],
    /// Whose connection it is (evs_pool_options).
    pub application: [c_char; 64],
    /// What was asked for, as host:port or as an address.
    pub requested: [c_char; 272],
}

/// What has happened since a pool began; all are counts. New members are added at the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct evs_pool_counts {
    /// Sessions that there are now, those without connections included.
    pub sessions: u64,
    /// Connections that were asked for.
    pub opens: u64,
    /// Sessions that carried any.
    pub sessions_opened: u64,
    /// Connections that went over a session that there was.
    pub sessions_saved: u64,
    /// Those among them for which a session had been dialled.
    pub late_merges: u64,
    /// Those for which a query's proof came before the dial was done.
    pub query_hits: u64,
    /// Replies to queries that were forged, repeated or late, and dropped.
    pub forged: u64,
    /// Sessions that were moved to a better line.
    pub migrations: u64,
    /// Moves that did not succeed; nothing changed by them.
    pub migrations_failed: u64,
    /// Sessions that went on over another address when theirs had failed.
    pub failovers: u64,
    /// Connections that were reset as their server process was gone.
    pub resets_by_boot: u64,
    /// Sessions on which their server takes no more connections.
    pub goaways: u64,
    /// Connections whose server did not have the service.
    pub misdirected: u64,
    /// Connections that got a session of their own, by reason: the element EVS_WHY_*.
    pub refused: [u64; 16],
}

fn why(why: Why) -> c_int {
    match why {
        Why::Shared => EVS_WHY_SHARED,
        Why::LateMerge => EVS_WHY_LATE_MERGE,
        Why::First => EVS_WHY_FIRST,
        Why::OtherServer => EVS_WHY_OTHER_SERVER,
        Why::NoKey => EVS_WHY_NO_KEY,
        Why::PeerDoesNotShare => EVS_WHY_PEER_DOES_NOT_SHARE,
        Why::KeyDiffers => EVS_WHY_KEY_DIFFERS,
        Why::OtherBoot => EVS_WHY_OTHER_BOOT,
        Why::GoAway => EVS_WHY_GOING_AWAY,
        Why::StreamLimit => EVS_WHY_STREAM_LIMIT,
        Why::Misdirected => EVS_WHY_MISDIRECTED,
    }
}

fn known<T: TryInto<U>, U: From<i8>>(value: Option<T>, most: U) -> U {
    value.map_or_else(|| U::from(-1), |value| value.try_into().unwrap_or(most))
}

fn describe(TableRow { row, line, session, epoch }: &TableRow) -> evs_pool_row {
    evs_pool_row {
        management: row.management,
        epoch: *epoch,
        boot: row.boot,
        rtt_min_us: known(line.rtt_min_us, i64::MAX),
        rtt_us: known(line.rtt_us, i64::MAX),
        loss_ppm: known(line.loss_ppm, i64::MAX),
        rate_bps: known(line.rate_bps, i64::MAX),
        link_mbps: known(line.link_mbps, i64::MAX),
        hops: known(line.hops, i32::MAX),
        mtu: known(line.mtu, i32::MAX),
        references: row.references,
        state: match row.state {
            "active" => EVS_ROW_ACTIVE,
            "recovering" => EVS_ROW_RECOVERING,
            "draining" => EVS_ROW_DRAINING,
            "dead" => EVS_ROW_DEAD,
            _ => EVS_ROW_WAITING,
        },
        why: why(row.why),
        reserved: 0,
        server: row.server.map_or([0; 16], |server| server.0),
        session: *session,
        address: text(&row.address.map(|addr| addr.to_string()).unwrap_or_default()),
        application: text(&row.application),
        requested: text(&row.requested),
    }
}

fn count(metrics: &Metrics, sessions: usize) -> evs_pool_counts {
    let mut refused = [0; 16];
    for (reason, count) in &metrics.refused {
        let place = usize::try_from(why(*reason)).ok().and_then(|place| refused.get_mut(place));
        if let Some(place) = place {
            *place = *count;
        }
    }
    evs_pool_counts {
        sessions: sessions as u64,
        opens: metrics.opens,
        sessions_opened: metrics.sessions_opened,
        sessions_saved: metrics.sessions_saved,
        late_merges: metrics.late_merges,
        query_hits: metrics.query_hits,
        forged: metrics.forged,
        migrations: metrics.migrations,
        migrations_failed: metrics.migrations_failed,
        failovers: metrics.failovers,
        resets_by_boot: metrics.resets_by_boot,
        goaways: metrics.goaways,
        misdirected: metrics.misdirected,
        refused,
    }
}

/// Describes the connections of a pool, in the order of their numbers: the first `count` of them.
///
/// `out` may be NULL if `count` is 0. `row_size` is `sizeof(struct evs_pool_row)` as the program
/// was compiled, and how far apart the rows are: an older program gets the members that it knows,
/// and a newer one zeros for those that this library does not. Never blocks.
///
/// Returns:       how many connections there are, which may be more than `count`, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (`row_size` is 0, or the rows take more than 2 GiB).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `pool` is from evs_pool_new() and not freed; `out` is writable for `count` times `row_size`
/// bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_rows(
    pool: *const evs_pool,
    out: *mut evs_pool_row,
    row_size: size_t,
    count: size_t,
) -> c_int {
    let mut found = 0;
    let status = guard::status(|| {
        // SAFETY: the caller's word.
        let pool = unsafe { self::pool(pool)? };
        if row_size == 0 {
            return fail(libc::EINVAL);
        }
        let rows = pool.table();
        let kept = rows.len().min(count);
        let whole = kept.checked_mul(row_size).filter(|size| *size <= memory::RW_MAX);
        let Some(whole) = whole else { return fail(libc::EINVAL) };
        // SAFETY: the caller's word; no more than `count` rows.
        let out = unsafe { memory::bytes_mut(out.cast(), whole)? };
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(row_size)) {
            // SAFETY: all integers without padding (`abi_layout.c`).
            unsafe { sized::store(&describe(row), out)? };
        }
        found = c_int::try_from(rows.len()).unwrap_or(c_int::MAX);
        Ok(())
    });
    if status < 0 { status } else { found }
}

/// Tells what has happened since a pool began.
///
/// `size` is `sizeof(struct evs_pool_counts)` as the program was compiled: an older program gets
/// the members that it knows, and a newer one zeros for those that this library does not. Never
/// blocks.
///
/// Returns:       0, or -errno; `*out` is written only on success.
/// Errors:        EFAULT (NULL); EINVAL (`size` is 0).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `pool` is from evs_pool_new() and not freed; `out` is writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_metrics(
    pool: *const evs_pool,
    out: *mut evs_pool_counts,
    size: size_t,
) -> c_int {
    guard::status(|| {
        // SAFETY: the caller's word.
        let (pool, out) = unsafe { (self::pool(pool)?, sized::room(out, size)?) };
        // SAFETY: all integers without padding (`abi_layout.c`).
        unsafe { sized::store(&count(&pool.metrics(), pool.sessions()), out) }
    })
}
