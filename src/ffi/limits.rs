//! What a listener gives to all, and to one source.

use libc::c_int;

use crate::ffi::config::{evs_config, set};

/// Sets how many sessions born of a listener may go on at one time, those that wait for their peer
/// to come back included; 0 (the default) is no limit.
///
/// A client that comes beyond it is refused (ECONNREFUSED) and may come again; a resume never is.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_sessions_max(
    config: *mut evs_config,
    sessions: u32,
) -> c_int {
    // SAFETY: the caller's word.
    unsafe {
        set(config, |config| {
            config.sessions_max = sessions;
            Ok(())
        })
    }
}

/// Sets how many bytes the sessions of the process may hold, written and not confirmed or come and
/// not read, before a listener refuses new ones; 0 (the default) is no limit.
///
/// 64 KiB for each direction of each session do not count. A client that comes while they hold more
/// is refused (ECONNREFUSED) and may come again; a resume never is.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_memory_max(config: *mut evs_config, bytes: u64) -> c_int {
    // SAFETY: the caller's word.
    unsafe {
        set(config, |config| {
            config.memory_max = bytes;
            Ok(())
        })
    }
}

/// Sets how many unfinished handshakes of one source (an IPv4 address, or 64 bits of an IPv6
/// address) a listener has at one time, once some from there have stalled while others waited; 0 is
/// no limit. Default: 64, a fourth of all.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_handshakes_per_source(
    config: *mut evs_config,
    handshakes: u32,
) -> c_int {
    // SAFETY: the caller's word.
    unsafe {
        set(config, |config| {
            config.handshakes_per_source = handshakes;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::config::{copy, evs_config_free, evs_config_new};

    #[test]
    fn each_limit_goes_where_it_belongs_and_zero_is_none() {
        let config = evs_config_new();
        let limits = || {
            // SAFETY: from evs_config_new() and not freed.
            let config = unsafe { copy(config) }.expect("a configuration");
            (config.sessions_max, config.memory_max, config.handshakes_per_source)
        };
        assert_eq!(limits(), (0, 0, 64));
        for (sessions, memory, handshakes) in [(7, 1 << 40, 9), (u32::MAX, u64::MAX, 0), (0, 0, 1)]
        {
            // SAFETY: as above.
            unsafe {
                assert_eq!(evs_config_set_sessions_max(config, sessions), 0);
                assert_eq!(evs_config_set_memory_max(config, memory), 0);
                assert_eq!(evs_config_set_handshakes_per_source(config, handshakes), 0);
            }
            assert_eq!(limits(), (sessions, memory, handshakes));
        }
        // SAFETY: from evs_config_new(), once.
        unsafe { evs_config_free(config) };
    }
}
