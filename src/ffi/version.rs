//! Which eversock this is, and what its error numbers mean.

use std::ffi::CStr;

use libc::{c_char, c_int};

use crate::ffi::guard;

/// The version of the library that is running, as "MAJOR.MINOR.PATCH".
///
/// EVS_VERSION_MAJOR and so on tell the version of the header. Never blocks.
///
/// Returns:       a static string, never NULL.
/// Thread safety: any thread; async-signal-safe.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of the library that is running as a number: 0xMMmmpp, as EVS_VERSION_NUM.
///
/// Returns:       the number.
/// Thread safety: any thread; async-signal-safe.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_version_num() -> u32 {
    const NUMBER: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | number(env!("CARGO_PKG_VERSION_PATCH"));
    NUMBER
}

const fn number(digits: &str) -> u32 {
    let mut value = 0;
    let mut at = 0;
    while at < digits.len() {
        value = value * 10 + (digits.as_bytes()[at] - b'0') as u32;
        at += 1;
    }
    assert!(value < 256);
    value
}

/// What an error number means here, and what can be done about it.
///
/// Takes an errno, or what a function that returns -errno gave. Never blocks.
///
/// Returns:       a string, never NULL; static, but that of an unknown number may change with the
///                next call in the same thread.
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_strerror(error: c_int) -> *const c_char {
    let found = guard::pointer(|| Ok(meaning(error).as_ptr().cast_mut()));
    if found.is_null() { c"unknown error".as_ptr() } else { found }
}

fn meaning(error: c_int) -> &'static CStr {
    let error = error.checked_abs().unwrap_or(c_int::MAX);
    match error {
        libc::EPROTO => {
            c"The peer does not speak the eversock protocol: use plain sockets for this address, \
              or run eversock at the other end too"
        }
        libc::EACCES => {
            c"The peer was refused: both ends need the same key (evs_config_set_key), or each the \
              static key that the other knows (evs_session_info tells more), or this process may \
              not use the address"
        }
        libc::ENOTRECOVERABLE => {
            c"The eversock engine of this process has failed: every virtual socket is lost; \
              restart the program and report the log"
        }
        libc::ECONNRESET => {
            c"The session is over: the peer's process ended, or reset it, or no longer knows it; \
              evs_session_info tells how much it had read"
        }
        libc::ETIMEDOUT => {
            c"The session could not be brought back, or the wait was over, within its time; \
              see evs_config_set_grace, and evs_session_info for how much the peer had read"
        }
        libc::ECONNABORTED => {
            c"The session was given up here: by the recovery policy, by an operator, or by a limit"
        }
        libc::EBADFD => {
            c"Another process has taken the session over after a fork: close the descriptor here"
        }
        libc::ENOTSOCK => {
            c"Not a virtual socket of this process, or no socket at all: see evs_is_virtual"
        }
        libc::EBUSY => c"The socket has several descriptors: close the duplicates before evs_pump",
        _ => {
            // SAFETY: gives a valid string for any number; that of a known one never changes.
            let text = unsafe { libc::strerror(error) };
            if text.is_null() {
                return c"unknown error";
            }
            // SAFETY: a terminated string that lives as long as the program, or the thread.
            unsafe { CStr::from_ptr(text) }
        }
    }
}
