//! What can be set about pools.

use std::io;

use eversock_dedup::PoolConfig;
use eversock_dedup::score::Weights;
use eversock_engine::Config;
use libc::{c_int, size_t};

use crate::ffi::config::{self, evs_config, millis};
use crate::ffi::guard::{self, fail};
use crate::ffi::sized;

/// Connections of one session, at most.
const STREAMS_MAX: u32 = 16_384;

/// What can be set about pools; opaque. Owned: free it with evs_pool_config_free().
///
/// Pools take a copy, so a change concerns only pools made afterwards.
#[allow(non_camel_case_types, reason = "the name in C")]
#[derive(Debug)]
pub struct evs_pool_config {
    inner: PoolConfig,
}

/// How much each metric of a line counts when lines are compared: the exponent of its ratio, from 0
/// on; 0 leaves it out. New members are added at the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct evs_weights {
    /// Of the least round trip. Default: 1.
    pub rtt_min: f64,
    /// Of the smoothed round trip. Default: 1.
    pub rtt: f64,
    /// Of the loss. Default: 1.
    pub loss: f64,
    /// Of the delivery rate. Default: 0.5.
    pub rate: f64,
    /// Of the speed of the device. Default: 0.25.
    pub link: f64,
    /// Of the routers on the way. Default: 0.1.
    pub hops: f64,
    /// Of the path's MTU. Default: 0.1.
    pub mtu: f64,
}

fn initial() -> PoolConfig {
    PoolConfig { session: Config::clone(&config::default(false)), ..PoolConfig::default() }
}

/// The configuration behind a pointer from C; the default for NULL.
///
/// # Safety
/// `config` is NULL, or from evs_pool_config_new() and not freed.
pub(super) unsafe fn copy(config: *const evs_pool_config) -> PoolConfig {
    // SAFETY: the caller's word.
    unsafe { config.as_ref() }.map_or_else(initial, |config| config.inner.clone())
}

/// Runs a setter.
///
/// # Safety
/// `config` is NULL or from evs_pool_config_new() and not freed, and nobody else uses it now.
unsafe fn set(
    config: *mut evs_pool_config,
    change: impl FnOnce(&mut PoolConfig) -> io::Result<()>,
) -> c_int {
    // SAFETY: the caller's word.
    guard::status(|| match unsafe { config.as_mut() } {
        Some(config) => change(&mut config.inner),
        None => fail(libc::EFAULT),
    })
}

/// Makes a configuration with the defaults. Its sessions have the process's default configuration
/// of this moment (evs_set_default_config).
///
/// Needs a library with the feature dedup, as everything of pools and shared listeners: define
/// EVERSOCK_DEDUP to see it. Never blocks.
///
/// Returns:       a configuration, owned by the caller; NULL with errno set on failure.
/// Errors:        ENOTRECOVERABLE.
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn evs_pool_config_new() -> *mut evs_pool_config {
    guard::pointer(|| Ok(Box::into_raw(Box::new(evs_pool_config { inner: initial() }))))
}

/// Frees a configuration. Pools made with it keep their copy. NULL is ignored.
///
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is NULL, or from evs_pool_config_new() and not yet freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_config_free(config: *mut evs_pool_config) {
    guard::status(|| {
        if !config.is_null() {
            // SAFETY: from `Box::into_raw`, once, by the contract.
            drop(unsafe { Box::from_raw(config) });
        }
        Ok(())
    });
}

/// Sets what the pool's sessions are like: keys, sealing, grace, recovery. The mode is not
/// regarded. `session` is copied.
///
/// Without a key, a server's key and known peers the pool asks each server for its static key and
/// believes it: that is no less safe than to ask for none, and tells servers apart.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_pool_config_new(), `session` from evs_config_new(), and neither is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_config_set_session(
    config: *mut evs_pool_config,
    session: *const evs_config,
) -> c_int {
    let change = |config: &mut PoolConfig| {
        // SAFETY: the caller's word.
        let session = unsafe { config::copy(session)? };
        config.session = Config::clone(&session);
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets how long a session is kept when its last connection has gone, in milliseconds. It never
/// delays the end of the process. Default: 10 s.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (over 100 years).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_pool_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_config_set_linger(
    config: *mut evs_pool_config,
    ms: u64,
) -> c_int {
    let change = |config: &mut PoolConfig| {
        config.linger = millis(ms)?;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets how many connections one session carries, 1 to 16,384; more get a further session. The
/// server has a limit of its own. Default: 1,024.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (out of range).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_pool_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_config_set_streams_max(
    config: *mut evs_pool_config,
    streams: u32,
) -> c_int {
    let change = |config: &mut PoolConfig| {
        if !(1..=STREAMS_MAX).contains(&streams) {
            return fail(libc::EINVAL);
        }
        config.streams_max = streams;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets how many sessions and dials the pool has at a time; a connect that would need one more
/// gives EAGAIN. Default: 256.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (0).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_pool_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_config_set_sessions_max(
    config: *mut evs_pool_config,
    sessions: u32,
) -> c_int {
    let change = |config: &mut PoolConfig| {
        if sessions == 0 {
            return fail(libc::EINVAL);
        }
        config.sessions_max = sessions as usize;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets whether addresses are asked over UDP, at the service's port number, if they are a server to
/// which a session stands, beside the dial. Default: yes (not 0).
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_pool_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_config_set_ask(config: *mut evs_pool_config, on: c_int) -> c_int {
    let change = |config: &mut PoolConfig| {
        config.ask = on != 0;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets whether sessions are moved to a better line of their server. Default: yes (not 0).
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_pool_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_config_set_migrate(
    config: *mut evs_pool_config,
    on: c_int,
) -> c_int {
    let change = |config: &mut PoolConfig| {
        config.migrate = on != 0;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// Sets what makes a line better.
///
/// `size` is `sizeof(struct evs_weights)` as the program was compiled; members that it does not
/// reach keep their defaults.
///
/// Returns:       0, or -errno; then nothing is changed.
/// Errors:        E2BIG (members are set that this library does not know); EFAULT (NULL); EINVAL
///                (`size` is 0; a weight that is no number, infinite, or less than 0).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_pool_config_new() and not freed; `weights` is readable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_config_set_weights(
    config: *mut evs_pool_config,
    weights: *const evs_weights,
    size: size_t,
) -> c_int {
    let change = |config: &mut PoolConfig| {
        let Weights { rtt_min, rtt, loss, rate, link, hops, mtu } = Weights::default();
        let initial = evs_weights { rtt_min, rtt, loss, rate, link, hops, mtu };
        // SAFETY: the caller's word; plain numbers without padding (`abi_layout.c`).
        let evs_weights { rtt_min, rtt, loss, rate, link, hops, mtu } =
            unsafe { sized::load(weights, size, initial)? };
        let weights = Weights { rtt_min, rtt, loss, rate, link, hops, mtu };
        config.weights = weights.checked().or_else(|_| fail(libc::EINVAL))?;
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}
