//! Sealing, and who an end is.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use eversock_engine::keys::KnownFile;
use eversock_engine::{Config, KnownServers, PublicKey, Sealing, StaticKey};
use libc::{c_char, c_int, size_t};

use crate::ffi::config::{evs_config, set};
use crate::ffi::guard::fail;
use crate::ffi::memory;

/// evs_config_set_sealed: nothing is encrypted; a server refuses a client that wants it.
pub const EVS_SEALED_NEVER: c_int = 0;
/// evs_config_set_sealed: a server does as the client wants; a client wants it.
pub const EVS_SEALED_EITHER: c_int = 1;
/// evs_config_set_sealed: all is encrypted; a server refuses a client that does not want it.
pub const EVS_SEALED_ALWAYS: c_int = 2;

/// Sets whether what goes over the wire is encrypted and authenticated (EVS_SEALED_...). Default:
/// EVS_SEALED_NEVER.
///
/// Without a key or an identity nobody knows who the other end is: whoever stands between them when
/// the session opens has it.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (another value).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_sealed(config: *mut evs_config, sealed: c_int) -> c_int {
    // SAFETY: the caller's word.
    unsafe {
        set(config, |config| {
            config.sealing = match sealed {
                EVS_SEALED_NEVER => Sealing::Never,
                EVS_SEALED_EITHER => Sealing::Either,
                EVS_SEALED_ALWAYS => Sealing::Always,
                _ => return fail(libc::EINVAL),
            };
            Ok(())
        })
    }
}

/// Sets the static key of this side, its private half; `len` is EVS_KEY_BYTES.
///
/// A listener that has one opens no session with a client that does not know it (see
/// evs_config_set_server_key); a client that has one names itself by it. Not together with
/// evs_config_set_key. The key is copied; wipe yours. NULL with length 0 takes it off.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (another length).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed; `key` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_identity(
    config: *mut evs_config,
    key: *const u8,
    len: size_t,
) -> c_int {
    // SAFETY: the caller's word.
    unsafe {
        set(config, |config| {
            config.identity = read_key(key, len)?.map(StaticKey::from_bytes);
            Ok(())
        })
    }
}

/// Sets the static key, its public half, that the server of a client must have; `len` is
/// EVS_KEY_BYTES. A connect to any other server fails with EACCES. NULL with length 0 takes it off.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (another length).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed; `key` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_server_key(
    config: *mut evs_config,
    key: *const u8,
    len: size_t,
) -> c_int {
    // SAFETY: the caller's word.
    unsafe {
        set(config, |config| {
            config.server_key = read_key(key, len)?.map(PublicKey);
            Ok(())
        })
    }
}

/// Adds the static key, its public half, of a client that a listener takes; `len` is EVS_KEY_BYTES.
///
/// Once there is one, clients without a key on the list are refused, and the listener needs an
/// identity. NULL with length 0 takes all off.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (another length).
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed; `key` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_add_allowed_client(
    config: *mut evs_config,
    key: *const u8,
    len: size_t,
) -> c_int {
    // SAFETY: the caller's word.
    unsafe {
        set(config, |config| {
            match read_key(key, len)?.map(PublicKey) {
                Some(key) => config.allowed_clients.get_or_insert_default().push(key),
                None => config.allowed_clients = None,
            }
            Ok(())
        })
    }
}

/// Sets the file that lists the static keys of servers, in each line HOST or HOST:PORT and the key
/// (hexadecimal digits or base64): what a client goes by that has no evs_config_set_server_key().
///
/// `path` is copied and made absolute; NULL takes it off. The file is read at each connect; one
/// that is not there lists nobody. A connect fails with EACCES, and last_error of
/// evs_session_info() says why, if the server has not proven to have the key that is listed for it
/// (it names file and line), if the file is wrong or others than its owner may write it, and,
/// unless `accept_new` is 1, if the server is not listed. If it is 1 such a server is believed
/// this first time, and added to the file.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (`config` is NULL); EINVAL (an empty path, or `accept_new` is neither 0
///                nor 1); those of getcwd(3) for a relative path.
/// Thread safety: one thread at a time per configuration.
/// Since:         0.1
///
/// # Safety
/// `config` is from evs_config_new() and not freed; `path` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_config_set_known_peers(
    config: *mut evs_config,
    path: *const c_char,
    accept_new: c_int,
) -> c_int {
    let change = |config: &mut Config| {
        let accept_new = match accept_new {
            0 => false,
            1 => true,
            _ => return fail(libc::EINVAL),
        };
        if path.is_null() {
            config.known_servers = None;
            return Ok(());
        }
        // SAFETY: not NULL, so a string by the caller's word.
        let path = unsafe { CStr::from_ptr(path) };
        if path.is_empty() {
            return fail(libc::EINVAL);
        }
        // The program may change its folder.
        let path = std::path::absolute(OsStr::from_bytes(path.to_bytes()))?;
        config.known_servers = Some(KnownServers(Arc::new(KnownFile { path, accept_new })));
        Ok(())
    };
    // SAFETY: the caller's word.
    unsafe { set(config, change) }
}

/// The key at that place; none for NULL without a length.
///
/// # Safety
/// `key` is NULL, or readable for `len` bytes.
unsafe fn read_key(key: *const u8, len: size_t) -> std::io::Result<Option<[u8; 32]>> {
    if key.is_null() && len == 0 {
        return Ok(None);
    }
    // SAFETY: the caller's word.
    let key = unsafe { memory::bytes(key.cast(), len)? };
    key.try_into().map_or_else(|_| fail(libc::EINVAL), |key| Ok(Some(key)))
}
