//! Looking at sessions, and what else has no twin in POSIX.

use eversock_engine::{SessionInfo, State, posix};
use libc::{c_char, c_int, size_t};

use crate::ffi::guard::{self, fail};
use crate::ffi::memory;

/// evs_info: not connected yet.
pub const EVS_STATE_FRESH: c_int = 0;
/// evs_info: the first connection is being made.
pub const EVS_STATE_CONNECTING: c_int = 1;
/// evs_info: a connection carries the session.
pub const EVS_STATE_ATTACHED: c_int = 2;
/// evs_info: no connection; redialling, or waiting for the client.
pub const EVS_STATE_DETACHED: c_int = 3;
/// evs_info: someone is asked whether to recover.
pub const EVS_STATE_ASKING: c_int = 4;
/// evs_info: the program has closed it; the rest is being delivered.
pub const EVS_STATE_LINGERING: c_int = 5;
/// evs_info: both directions have ended.
pub const EVS_STATE_CLOSED: c_int = 6;
/// evs_info: it has failed.
pub const EVS_STATE_FAILED: c_int = 7;

/// evs_info: the session does not stand yet.
pub const EVS_ROLE_NONE: c_int = 0;
/// evs_info: this side connected, and redials.
pub const EVS_ROLE_CLIENT: c_int = 1;
/// evs_info: this side accepted, and waits for the redial.
pub const EVS_ROLE_SERVER: c_int = 2;

/// One session at one moment. New members are added at the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct evs_info {
    /// The session's number in this process.
    pub local_id: u64,
    /// The connection's number within the session, from 1.
    pub epoch: u64,
    /// Bytes that the program has written.
    pub written: u64,
    /// Bytes of them that the peer's program has read: the last acknowledged offset.
    pub acked: u64,
    /// Bytes that have come from the peer.
    pub received: u64,
    /// Bytes of them that the program has read.
    pub consumed: u64,
    /// Bytes kept for replay.
    pub log_used: u64,
    /// The credit given to the peer, in bytes.
    pub window: u64,
    /// How often the session was resumed.
    pub resumes: u64,
    /// Bytes that were sent again.
    pub replayed: u64,
    /// Milliseconds until the next redial; -1 when none is planned.
    pub next_try_ms: i64,
    /// Milliseconds without a connection; -1 while there is one.
    pub detached_ms: i64,
    /// EVS_STATE_*.
    pub state: i32,
    /// EVS_ROLE_*.
    pub role: i32,
    /// EVS_MODE_*.
    pub mode: i32,
    /// 0.
    pub reserved: i32,
    /// The session's id in hexadecimal; empty before it stands.
    pub session: [c_char; 40],
    /// What ended the last connection or the session, cut to fit; empty if nothing did.
    pub last_error: [c_char; 128],
}

/// Text for C, cut at a character's border to fit with its NUL.
pub(super) fn text<const N: usize>(text: &str) -> [c_char; N] {
    let mut out = [0; N];
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in out.iter_mut().zip(&text.as_bytes()[..end]) {
        *to = *from as c_char;
    }
    out
}

fn describe(info: &SessionInfo) -> evs_info {
    let millis = |ms: Option<u64>| ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
    evs_info {
        local_id: info.local_id,
        epoch: info.epoch,
        written: info.written,
        acked: info.acked,
        received: info.received,
        consumed: info.consumed,
        log_used: info.log_used,
        window: info.window,
        resumes: info.resumes,
        replayed: info.replayed,
        next_try_ms: millis(info.next_try_ms),
        detached_ms: millis(info.detached_ms),
        state: match info.state {
            State::Fresh => EVS_STATE_FRESH,
            State::Connecting => EVS_STATE_CONNECTING,
            State::Attached => EVS_STATE_ATTACHED,
            State::Detached => EVS_STATE_DETACHED,
            State::Asking => EVS_STATE_ASKING,
            State::Lingering => EVS_STATE_LINGERING,
            State::Closed => EVS_STATE_CLOSED,
            State::Failed => EVS_STATE_FAILED,
        },
        role: match info.role.as_str() {
            "client" => EVS_ROLE_CLIENT,
            "server" => EVS_ROLE_SERVER,
            _ => EVS_ROLE_NONE,
        },
        mode: match info.mode.as_str() {
            "direct" => super::config::EVS_MODE_DIRECT,
            _ => super::config::EVS_MODE_PUMPED,
        },
        reserved: 0,
        session: text(&info.session),
        last_error: text(info.last_error.as_deref().unwrap_or_default()),
    }
}

/// Describes the session behind a descriptor.
///
/// `size` is `sizeof(struct evs_info)` as the program was compiled: an older program gets the
/// members that it knows, and a newer one zeros for those that this library does not. Never blocks.
///
/// Returns:       0, or -errno; `*out` is written only on success.
/// Errors:        EFAULT (NULL); EINVAL (`size` is 0); ENOTCONN (a listener); ENOTSOCK (not
///                virtual); ENOTRECOVERABLE.
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `out` is writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_session_info(fd: c_int, out: *mut evs_info, size: size_t) -> c_int {
    guard::status(|| {
        if size == 0 || size > memory::RW_MAX {
            return fail(libc::EINVAL);
        }
        // SAFETY: the caller's word.
        let out = unsafe { memory::bytes_mut(out.cast(), size)? };
        let info = describe(&posix::info(fd)?);
        // SAFETY: the structure is all integers without padding (`abi_layout.c`).
        let known = unsafe { memory::bytes((&raw const info).cast(), size_of::<evs_info>())? };
        let kept = known.len().min(out.len());
        out[..kept].copy_from_slice(&known[..kept]);
        out[kept..].fill(0);
        Ok(())
    })
}

/// Waits until a connection carries the session, at most `timeout_ms`; 0 only looks and a negative
/// time waits without limit. For programs that want to know about outages; reading and writing
/// needs no such wait.
///
/// Returns:       0, or -errno.
/// Errors:        EINTR; ENOTCONN (not connected, or a listener); ENOTSOCK (not virtual);
///                ETIMEDOUT (the time is over); the session's error when it has failed.
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C-unwind" fn evs_wait_attached(fd: c_int, timeout_ms: c_int) -> c_int {
    guard::sleeping_status(|| {
        let timeout = u64::try_from(timeout_ms).ok().map(std::time::Duration::from_millis);
        posix::wait_attached(fd, timeout)
    })
}

/// Tells that the network may have changed (another Wi-Fi, a VPN, a wake-up): sessions whose path
/// is gone are redialled at once. Never blocks.
///
/// Returns:       0, or -errno.
/// Errors:        ENOTRECOVERABLE.
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_network_changed() -> c_int {
    guard::status(|| {
        eversock_engine::network_changed();
        Ok(())
    })
}

/// Turns a connected direct socket into a pumped one, in place: from here on any system call and
/// any event loop works on the descriptor. Before an exec, SCM_RIGHTS, io_uring or splice, say.
///
/// The socket must have one descriptor only and be in no epoll set. A pumped one stays as it is.
///
/// Returns:       0, or -errno.
/// Errors:        EBUSY (several descriptors); ENOTCONN (not connected, or a listener); ENOTSOCK
///                (not virtual); EMFILE; the session's error when it has failed.
/// Thread safety: any thread; nobody else may use the descriptor meanwhile.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_pump(fd: c_int) -> c_int {
    guard::status(|| posix::pump(fd))
}

/// Whether a descriptor is a virtual socket or listener of this process. Never blocks.
///
/// Returns:       1 if it is, 0 if not or if there is no such descriptor.
/// Thread safety: any thread; async-signal-safe.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_is_virtual(fd: c_int) -> c_int {
    c_int::from(posix::is_virtual(fd))
}

/// Dials the session again now, beside its connection if one stands. Only the side that connected
/// can. Does not wait for the outcome; see evs_wait_attached().
///
/// Returns:       0, or -errno.
/// Errors:        ENOTCONN (a listener); ENOTSOCK (not virtual).
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_redial(fd: c_int) -> c_int {
    guard::status(|| posix::redial(fd))
}
