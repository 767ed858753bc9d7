//! One call of a front to a backend: its items, and what became of each.

use std::io;
use std::time::Duration;

use eversock_spool::backend::lock::Permit;
use eversock_spool::limits::{PAYLOAD_MAX, TEXT_MAX};
use eversock_spool::record::Record;
use eversock_spool::target::ItemResult;
use libc::{c_char, c_int, c_void, size_t};

use crate::ffi::edge::{self, refuse};
use crate::ffi::memory;
use crate::ffi::strings::text;

/// One request for a backend. Borrowed until evs_spool_execute_fn returns. New members are added at
/// the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct evs_spool_item {
    /// The sender's: the same whenever it comes.
    pub id: [u8; 16],
    /// What it does something to; NULL for an empty one.
    pub key: *const c_void,
    /// Bytes of it.
    pub key_len: size_t,
    /// The sender's; NULL for an empty one.
    pub payload: *const c_void,
    /// Bytes of it.
    pub payload_len: size_t,
    /// The place in the spool; 0 for one that never was there.
    pub lsn: u64,
    /// When the front has accepted it: milliseconds since 1970 by its clock. For people only.
    pub accepted_ms: u64,
    /// EVS_SPOOL_WRITE to EVS_SPOOL_SEARCH, or from EVS_SPOOL_CUSTOM on.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}

/// Where a backend says what became of the items of one call; opaque. Borrowed until
/// evs_spool_execute_fn returns, and for one thread at a time.
#[allow(non_camel_case_types, reason = "the name in C")]
pub struct evs_spool_results {
    list: Vec<Option<ItemResult>>,
    /// Outlives this: both are of one call of the backend.
    permit: *const Permit,
    job: Option<u64>,
}

impl std::fmt::Debug for evs_spool_results {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("evs_spool_results").field("list", &self.list).finish_non_exhaustive()
    }
}

impl evs_spool_results {
    pub(super) fn new(count: usize, permit: &Permit, job: Option<u64>) -> Self {
        Self { list: vec![None; count], permit, job }
    }

    /// One for each item; `None` if the program has left one out.
    pub(super) fn into_list(self) -> Option<Vec<ItemResult>> {
        self.list.into_iter().collect()
    }
}

/// An item for C; valid as long as the record.
pub(super) fn describe(record: &Record) -> evs_spool_item {
    let start = |bytes: &[u8]| match bytes {
        [] => std::ptr::null(),
        some => some.as_ptr().cast::<c_void>(),
    };
    evs_spool_item {
        id: record.id.0.to_be_bytes(),
        key: start(&record.key),
        key_len: record.key.len(),
        payload: start(&record.payload),
        payload_len: record.payload.len(),
        lsn: record.lsn,
        accepted_ms: record.accepted_ms,
        kind: record.kind.code(),
        reserved: 0,
    }
}

/// # Safety
/// `results` is NULL, or what evs_spool_execute_fn was given, which has not returned.
unsafe fn results<'a>(results: *mut evs_spool_results) -> io::Result<&'a mut evs_spool_results> {
    // SAFETY: the caller's word.
    match unsafe { results.as_mut() } {
        Some(results) => Ok(results),
        None => refuse(libc::EFAULT, "NULL for the results of a call"),
    }
}

/// # Safety
/// As [`results`].
unsafe fn set(to: *mut evs_spool_results, index: size_t, result: ItemResult) -> io::Result<()> {
    // SAFETY: the caller's word.
    let results = unsafe { results(to)? };
    let count = results.list.len();
    match results.list.get_mut(index) {
        Some(place) => *place = Some(result),
        None => return refuse(libc::EINVAL, format!("item {index} of a call of {count}")),
    }
    Ok(())
}

/// Says that an item took effect, and what the answer to it is, which is copied. `again`: it had
/// taken effect before, and this is what was answered then; only figures depend on it.
///
/// Never blocks.
///
/// Returns:       0, or -errno; then the item is as it was.
/// Errors:        EFAULT (NULL); EINVAL (no such item); EMSGSIZE (more than 32 MiB).
/// Thread safety: one thread at a time per call.
/// Since:         0.1
///
/// # Safety
/// `results` is what evs_spool_execute_fn was given, which has not returned; `answer` is readable
/// for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_result_done(
    results: *mut evs_spool_results,
    index: size_t,
    answer: *const c_void,
    len: size_t,
    again: c_int,
) -> c_int {
    edge::status(|| {
        if len > PAYLOAD_MAX {
            let text = format!("an answer of {len} bytes: {PAYLOAD_MAX} are allowed");
            return refuse(libc::EMSGSIZE, text);
        }
        // SAFETY: the caller's word.
        let answer = unsafe { memory::bytes(answer, len)? }.to_vec();
        // SAFETY: as above.
        unsafe { set(results, index, ItemResult::Done { answer, again: again != 0 }) }
    })
}

/// Says that an item is refused for good, without effect. `code` and `why`, which is copied and cut
/// at 1,024 bytes, go to the sender; `why` may be NULL. Never blocks.
///
/// Returns:       0, or -errno; then the item is as it was.
/// Errors:        EFAULT (`results` is NULL); EILSEQ (not UTF-8); EINVAL (no such item).
/// Thread safety: one thread at a time per call.
/// Since:         0.1
///
/// # Safety
/// `results` is what evs_spool_execute_fn was given, which has not returned; `why` is NULL or a
/// string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_result_refused(
    results: *mut evs_spool_results,
    index: size_t,
    code: u32,
    why: *const c_char,
) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let mut text = unsafe { text(why)? };
        let mut kept = text.len().min(TEXT_MAX);
        while !text.is_char_boundary(kept) {
            kept -= 1;
        }
        text.truncate(kept);
        // SAFETY: as above.
        unsafe { set(results, index, ItemResult::Refused { code, text }) }
    })
}

/// Says that an item was not done, surely without effect, and is to come again after this time; 0
/// if it is not known when. Later items of the same key must be left for later too. Never blocks.
///
/// Returns:       0, or -errno; then the item is as it was.
/// Errors:        EFAULT (NULL); EINVAL (no such item).
/// Thread safety: one thread at a time per call.
/// Since:         0.1
///
/// # Safety
/// `results` is what evs_spool_execute_fn was given, which has not returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_result_later(
    results: *mut evs_spool_results,
    index: size_t,
    after_ms: u32,
) -> c_int {
    edge::status(|| {
        let after = Duration::from_millis(after_ms.into());
        // SAFETY: the caller's word.
        unsafe { set(results, index, ItemResult::Later { after }) }
    })
}

/// Tells whether the server still holds the lock under the call's epoch: to be asked right before
/// each effect. Never blocks.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); ESTALE (it does not: do nothing more, and return -ESTALE if
///                nothing of the call took effect).
/// Thread safety: one thread at a time per call.
/// Since:         0.1
///
/// # Safety
/// `results` is what evs_spool_execute_fn was given, which has not returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_may_go_on(results: *mut evs_spool_results) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let results = unsafe { self::results(results)? };
        // SAFETY: lives as long as the call does; see `evs_spool_results`.
        let still = unsafe { &*results.permit }.still();
        still.or_else(|fenced| refuse(libc::ESTALE, fenced))
    })
}

/// Tells the number of the diversion whose batch job the call is part of: what was asked while main
/// and standby changed places, all kinds in one row. Never blocks.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); ENOENT (it is part of none).
/// Thread safety: one thread at a time per call.
/// Since:         0.1
///
/// # Safety
/// `results` is what evs_spool_execute_fn was given, which has not returned; `job` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_job(results: *mut evs_spool_results, job: *mut u64) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        match unsafe { self::results(results)? }.job {
            // SAFETY: as above.
            Some(number) => unsafe { memory::write(job, number) },
            None => refuse(libc::ENOENT, "the call is part of no job"),
        }
    })
}
