//! What can be set about sessions.

use std::ffi::CStr;
use std::ffi::CString;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use eversock_engine::{Answer, Config, FaultReport, LineUp, Mode, PresharedKey, RecoveryPolicy};
use libc::{c_char, c_int, c_void, size_t, sockaddr, socklen_t};

use crate::ffi::guard::{self, fail};
use crate::ffi::{addr, memory};

/// evs_config_set_mode: the descriptor is the real socket; wait with evs_poll, evs_select and
/// evs_epoll_wait only.
pub const EVS_MODE_DIRECT: c_int = 0;
/// evs_config_set_mode: any system call and any event loop works on the descriptor.
pub const EVS_MODE_PUMPED: c_int = 1;

/// evs_config_set_policy: redial without asking.
pub const EVS_POLICY_AUTOMATIC: c_int = 0;
/// evs_config_set_policy: the first fault ends the session.
pub const EVS_POLICY_NEVER: c_int = 1;
/// evs_config_set_policy: wait for `evs answer`.
pub const EVS_POLICY_ASK_OUTSIDE: c_int = 2;

/// evs_recovery_fn: end the session with one error.
pub const EVS_GIVE_UP: c_int = 0;
/// evs_recovery_fn: redial.
pub const EVS_CONTINUE: c_int = 1;

/// Bytes of a key.
pub const EVS_KEY_BYTES: c_int = 32;

const WINDOW_MIN: u64 = 16 * 1024;
const WINDOW_MAX: u64 = 256 * 1024 * 1024;
/// A hundred years, which no deadline overflows with.
const MILLIS_MAX: u64 = 100 * 366 * 24 * 3600 * 1000;

/// What can be set about sessions; opaque. Owned: free it with evs_config_free().
///
/// Sockets take a copy, so a change concerns only sockets made afterwards.
#[allow(non_camel_case_types, reason = "the name in C")]
#[derive(Debug)]
pub struct evs_config {
    inner: Config,
}

/// What ended a connection, as the recovery callback is told. Borrowed until the callback returns.
/// New members are added at the end; `size` tells how many there are.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Debug)]
pub struct evs_fault {
    /// Size of this structure, in bytes.
    pub size: size_t,
    /// The session's number in this process, as in evs_info.
    pub local_id: u64,
    /// The connection's number within the session, from 1.
    pub epoch: u64,
    /// The session's id in hexadecimal.
    pub session: *const c_char,
    /// What the kernel or the protocol said.
    pub cause: *const c_char,
    /// The peer's address, or NULL.
    pub peer: *const sockaddr,
    /// Length of the address; 0 if there is none.
    pub peer_len: socklen_t,
    /// 0.
    pub reserved: u32,
}

/// Asks whether a session whose connection died is to be recovered; answers EVS_CONTINUE or
/// EVS_GIVE_UP (any other answer means EVS_GIVE_UP).
///
/// Runs on a thread of its own, never under a lock, so it may block and may call any function here;
/// the session waits for the answer, up to the grace. Several sessions ask at the same time.
#[allow(non_camel_case_types, reason = "the name in C")]
pub type evs_recovery_fn =
    Option<unsafe extern "C" fn(fault: *const evs_fault, userdata: *mut c_void) -> c_int>;

/// The configurations that sockets get when none is given.
struct Defaults {
    /// As set; pumped until somebody says otherwise.
    plain: Arc<Config>,
    /// The same, direct.
    direct: Arc<Config>,
}

impl Defaults {
    fn new(config: Config) -> Self {
        let direct = Config { mode: Mode::Direct, ..config.clone() };
        Self { plain: Arc::new(config), direct: Arc::new(direct) }
    }
}

static DEFAULTS: LazyLock<Mutex<Defaults>> = LazyLock::new(|| Mutex::new(Defaults::new(initial())));

fn initial() -> Config {
    Config { mode: Mode::Pumped, ..Config::default() }
}

/// The default configuration, or its direct variant.
pub(crate) fn default(direct: bool) -> Arc<Config> {
    let defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(if direct { &defaults.direct } else { &defaults.plain })
}

/// The configuration behind a pointer from C.
///
/// # Safety
/// `config` is NULL or from evs_config_new() and not freed.
pub(crate) unsafe fn copy(config: *const evs_config) -> io::Result<Arc<Config>> {
    // SAFETY: the caller's word.
    match unsafe { config.as_ref() } {
        Some(config) => Ok(Arc::new(config.inner.clone())),
        None => fail(libc::EFAULT),
    }
}

/// Runs a setter.
///
/// # Safety
/// `config` is NULL or from evs_config_new() and not freed, and nobody else uses it now.
pub(super) unsafe fn set(
    config: *mut evs_config,
    change: impl FnOnce(&mut Config) -> io::Result<()>,
) -> c_int {
    // SAFETY: the caller's word.
    guard::status(|| match unsafe { config.as_mut() } {
        Some(config) => change(&mut config.inner),
        None => fail(libc::EFAULT),
    })
}

pub(super) fn millis(ms: u64) -> io::Result<Duration> {
    if ms > MILLIS_MAX { fail(libc::EINVAL) } else { Ok(Duration::from_millis(ms)) }
}

/// As [`millis`], for times that must not be nothing.
fn some_millis(ms: u64) -> io::Result<Duration> {
    if ms == 0 { fail(libc::EINVAL) } else { millis(ms) }
}

/// Makes a configuration with the defaults: pumped, recovery without asking, no key.
///
/// Never blocks.
///
/// Returns:       a configuration, owned by the caller; NULL with errno set on failure.
/// Errors:        ENOTRECOVERABLE.
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn evs_config_new() -> *mut evs_config {
    guard::pointer(|| Ok(Box::into_raw(Box::new(evs_config { inner: initial() }))))
}

/// Frees a configuration. Sockets made with it keep their copy. NULL is ignored.
///
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is NULL, or from evs_config_new() and not yet freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_free(config: *mut evs_config) {
    guard::status(|| {
        if !config.is_null() {
            // SAFETY: from `Box::into_raw`, once, by the contract.
            drop(unsafe { Box::from_raw(config) });
        }
        Ok(())
    });
}

/// Sets how descriptors are made: EVS_MODE_PUMPED (the default) or EVS_MODE_DIRECT.
///
/// Direct is faster, but the program must wait with evs_poll(), evs_select() and evs_epoll_wait(),
/// and use evs_read() and evs_write() instead of read() and write().
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (no such mode).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_mode(config: *mut evs_config, mode: c_int) -> c_int {
    let change = |config: &mut Config| {
        config.mode = match mode {
            EVS_MODE_DIRECT => Mode::Direct,
            EVS_MODE_PUMPED => Mode::Pumped,
            _ => return fail(libc::EINVAL),
        };
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets whether a session whose connection died is recovered: EVS_POLICY_AUTOMATIC (the default),
/// EVS_POLICY_NEVER or EVS_POLICY_ASK_OUTSIDE. Takes a recovery callback off.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (no such policy).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_policy(config: *mut evs_config, policy: c_int) -> c_int {
    let change = |config: &mut Config| {
        config.policy = match policy {
            EVS_POLICY_AUTOMATIC => RecoveryPolicy::Automatic,
            EVS_POLICY_NEVER => RecoveryPolicy::Never,
            EVS_POLICY_ASK_OUTSIDE => RecoveryPolicy::AskOutside,
            _ => return fail(libc::EINVAL),
        };
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// What the program gave together with its callback.
pub(super) struct UserData(pub(super) *mut c_void);

// SAFETY: eversock only hands the pointer back; the texts of all callbacks say that it is used on
// any thread.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

impl UserData {
    pub(super) fn pointer(&self) -> *mut c_void {
        self.0
    }
}

fn ask(
    callback: unsafe extern "C" fn(*const evs_fault, *mut c_void) -> c_int,
    userdata: &UserData,
    report: &FaultReport,
) -> Answer {
    let text = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
    let (session, cause) = (text(&report.session), text(&report.cause));
    let peer = report.peer.as_ref().map(addr::encode);
    let fault = evs_fault {
        size: size_of::<evs_fault>(),
        local_id: report.local_id,
        epoch: report.epoch,
        session: session.as_ptr(),
        cause: cause.as_ptr(),
        peer: peer.as_ref().map_or(std::ptr::null(), |(bytes, _)| bytes.as_ptr().cast()),
        peer_len: peer.as_ref().map_or(0, |(_, len)| *len as socklen_t),
        reserved: 0,
    };
    // SAFETY: the program's function, with what it asked for; all pointers outlive the call.
    match unsafe { callback(&raw const fault, userdata.pointer()) } {
        EVS_CONTINUE => Answer::Continue,
        _ => Answer::GiveUp,
    }
}

/// Asks `callback` at each fault whether the session is to be recovered.
///
/// `callback` may be NULL: then recovery is automatic again. `userdata` is handed to it as it is
/// and may be NULL. Both are kept by the sockets made with this configuration, and used until the
/// last of them has ended; a closed one has ended when its data was delivered
/// (evs_config_set_linger).
///
/// Returns:       0, or -errno. If it fails, the callback is never called.
/// Errors:        EFAULT (`config` is NULL).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed; `callback` may be called with `userdata` on any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_recovery(
    config: *mut evs_config,
    callback: evs_recovery_fn,
    userdata: *mut c_void,
) -> c_int {
    let userdata = UserData(userdata);
    let change = |config: &mut Config| {
        config.policy = match callback {
            Some(callback) => {
                RecoveryPolicy::Ask(Arc::new(move |report| ask(callback, &userdata, report)))
            }
            None => RecoveryPolicy::Automatic,
        };
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets a command that is run with /bin/sh before each redial, to bring the line up.
///
/// Its environment has EVS_SESSION, EVS_PEER, EVS_EPOCH and EVS_CAUSE. An exit status other than 0
/// means that the line is down: it is tried again later. It is ended after 30 s. `command` is
/// copied; NULL takes it off.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (`config` is NULL); EILSEQ (not UTF-8).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed; `command` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_line_up(
    config: *mut evs_config,
    command: *const c_char,
) -> c_int {
    let change = |config: &mut Config| {
        if command.is_null() {
            config.line_up = None;
            return Ok(());
        }
        // SAFETY: not NULL, so a string by the caller's word.
        let command = unsafe { CStr::from_ptr(command) };
        let Ok(command) = command.to_str() else { return fail(libc::EILSEQ) };
        config.line_up = Some(LineUp::Command(command.to_owned()));
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets after how many redials without progress a session is given up; 0 (the default) is never.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_redial_limit(config: *mut evs_config, limit: u32) -> c_int {
    let change = |config: &mut Config| {
        config.redial_limit = limit;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets how long a client redials, and how long a server waits for it after silence. Default:
/// 15 min.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (over 100 years).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_grace(config: *mut evs_config, ms: u64) -> c_int {
    let change = |config: &mut Config| {
        config.grace = millis(ms)?;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets how long a server waits after the connection was closed or reset rather than went silent,
/// a sign that the peer's process has ended. Default: 60 s.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (over 100 years).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_grace_after_close(
    config: *mut evs_config,
    ms: u64,
) -> c_int {
    let change = |config: &mut Config| {
        config.grace_after_close = millis(ms)?;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets the waits between redials: `base_ms` at first, doubling up to `cap_ms`, with jitter.
/// Default: 50 ms and 10 s.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (zero, `cap_ms` below `base_ms`, or over 100 years).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_back_off(
    config: *mut evs_config,
    base_ms: u64,
    cap_ms: u64,
) -> c_int {
    let change = |config: &mut Config| {
        if cap_ms < base_ms {
            return fail(libc::EINVAL);
        }
        let (base, cap) = (some_millis(base_ms)?, some_millis(cap_ms)?);
        config.back_off = eversock_engine::BackOff { base, cap };
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets how long one attempt to connect may take. Default: 10 s.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (zero, or over 100 years).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_connect_timeout(config: *mut evs_config, ms: u64) -> c_int {
    let change = |config: &mut Config| {
        config.connect_timeout = some_millis(ms)?;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets the key that both ends need to open a session: `len` is EVS_KEY_BYTES.
///
/// The key is copied; wipe yours. NULL with length 0 takes it off. The copy is not wiped.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (another length).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed; `key` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_key(
    config: *mut evs_config,
    key: *const u8,
    len: size_t,
) -> c_int {
    let change = |config: &mut Config| {
        if key.is_null() && len == 0 {
            config.key = None;
            return Ok(());
        }
        // SAFETY: the caller's word.
        let key = unsafe { memory::bytes(key.cast(), len)? };
        let Ok(key) = key.try_into() else { return fail(libc::EINVAL) };
        config.key = Some(PresharedKey(key));
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets the credit given to the peer at first and at most, in bytes; 16 KiB to 256 MiB. It bounds
/// the memory of a session in either direction. Default: 256 KiB and 8 MiB.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (out of range, or `most` below `first`).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_window(
    config: *mut evs_config,
    first: u64,
    most: u64,
) -> c_int {
    let change = |config: &mut Config| {
        let range = WINDOW_MIN..=WINDOW_MAX;
        if !range.contains(&first) || !range.contains(&most) || most < first {
            return fail(libc::EINVAL);
        }
        (config.window, config.window_max) = (first, most);
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets how long a closed socket goes on delivering what was written; extended while the peer
/// confirms. Default: 30 s.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (over 100 years).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_linger(config: *mut evs_config, ms: u64) -> c_int {
    let change = |config: &mut Config| {
        config.linger = millis(ms)?;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets the idle time before the kernel probes the peer. Default: 15 s, then 3 probes 5 s apart.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (zero, or over 100 years).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_keepalive(config: *mut evs_config, ms: u64) -> c_int {
    let change = |config: &mut Config| {
        config.keepalive = some_millis(ms)?;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets after how much silence with unconfirmed bytes the path is checked end to end. Default:
/// 30 s.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (zero, or over 100 years).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_probe_after(config: *mut evs_config, ms: u64) -> c_int {
    let change = |config: &mut Config| {
        config.probe_after = some_millis(ms)?;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Adds another address of the peer, which is tried as well when a client connects and redials.
///
/// Returns:       0, or -errno.
/// Errors:        EAFNOSUPPORT (neither IPv4 nor IPv6); EFAULT (NULL); EINVAL (length).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed; `addr` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_add_peer(
    config: *mut evs_config,
    addr: *const sockaddr,
    len: socklen_t,
) -> c_int {
    let change = |config: &mut Config| {
        // SAFETY: the caller's word.
        config.peer_addrs.push(unsafe { addr::read(addr, len, None)? });
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Makes `config` what evs_socket() and, but for the mode, eversock_posix.h use in this process.
///
/// Copies it; NULL stands for the initial default. Concerns sockets made afterwards. Never blocks.
///
/// Returns:       0, or -errno.
/// Errors:        ENOTRECOVERABLE.
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `config` is NULL, or from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_set_default_config(config: *const evs_config) -> c_int {
    guard::status(|| {
        // SAFETY: the caller's word.
        let config = unsafe { config.as_ref() }.map_or_else(initial, |config| config.inner.clone());
        *DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner) = Defaults::new(config);
        Ok(())
    })
}
