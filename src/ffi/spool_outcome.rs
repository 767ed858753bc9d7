//! What a sender asks for and is told, in the shape of C.

use std::ffi::{CStr, CString};
use std::io;
use std::time::Duration;

use eversock_spool::{Outcome, Reason, RequestId};
use libc::{c_char, c_int, c_void, size_t};

use crate::ffi::guard::{self, fail};
use crate::ffi::{edge, memory, sized};

/// evs_spool_task: stores something under a key.
pub const EVS_SPOOL_WRITE: c_int = 1;
/// evs_spool_task: gives back what is under a key.
pub const EVS_SPOOL_READ: c_int = 2;
/// evs_spool_task: takes away what is under a key.
pub const EVS_SPOOL_DELETE: c_int = 3;
/// evs_spool_task: gives back what fits, whatever its key.
pub const EVS_SPOOL_SEARCH: c_int = 4;
/// evs_spool_task: this and 65,535 more are the backend's own, treated as writes.
pub const EVS_SPOOL_CUSTOM: c_int = 0x10000;

/// evs_spool_outcome: the main server did it; its answer is there.
pub const EVS_SPOOL_APPLIED: c_int = 1;
/// evs_spool_outcome: it is on disk at the front, and the new main will do it.
pub const EVS_SPOOL_SPOOLED: c_int = 2;
/// evs_spool_outcome: it stands in the job of a diversion; ask for its result by its id.
pub const EVS_SPOOL_HELD: c_int = 3;
/// evs_spool_outcome: writes of its key wait in the spool, and no read is answered before them.
pub const EVS_SPOOL_STALE: c_int = 4;
/// evs_spool_outcome: nobody can say whether it took effect; ask again under the same id.
pub const EVS_SPOOL_IN_DOUBT: c_int = 5;
/// evs_spool_outcome: it did not take effect; see the reason.
pub const EVS_SPOOL_REJECTED: c_int = 6;

/// evs_spool_outcome: not rejected.
pub const EVS_SPOOL_REASON_NONE: c_int = 0;
/// evs_spool_outcome: the spool of the pair is full, or its disk.
pub const EVS_SPOOL_REASON_FULL: c_int = 1;
/// evs_spool_outcome: as many requests wait as may.
pub const EVS_SPOOL_REASON_HOLD_FULL: c_int = 2;
/// evs_spool_outcome: not done within its deadline, and surely without effect.
pub const EVS_SPOOL_REASON_DEADLINE: c_int = 3;
/// evs_spool_outcome: no server can be asked, and the request is none that can be spooled.
pub const EVS_SPOOL_REASON_UNAVAILABLE: c_int = 4;
/// evs_spool_outcome: the front ends, or evs_spool_close() was called.
pub const EVS_SPOOL_REASON_CLOSING: c_int = 5;
/// evs_spool_outcome: not what a request of this pair should be.
pub const EVS_SPOOL_REASON_MALFORMED: c_int = 6;
/// evs_spool_outcome: the id was used for another request.
pub const EVS_SPOOL_REASON_ID_REUSED: c_int = 7;
/// evs_spool_outcome: the backend refuses it for good, with a code of its own.
pub const EVS_SPOOL_REASON_REFUSED: c_int = 8;

/// What became of a request. New members are added at the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct evs_spool_outcome {
    /// Its place in the spool, if it was spooled or is held; numbers of one pair only grow.
    pub lsn: u64,
    /// The backend's answer, if it was applied; NULL for an empty one. Valid until
    /// evs_spool_outcome_free(), or until the callback returns that was given the outcome.
    pub answer: *const c_void,
    /// Bytes of it.
    pub answer_len: size_t,
    /// Why it was rejected, for people; empty otherwise. Valid as long as `answer`.
    pub text: *const c_char,
    /// The library's; NULL if there is nothing to free.
    pub owner: *mut c_void,
    /// When to ask again under the same id, if it was rejected; 0 if it is no use.
    pub retry_after_ms: u64,
    /// EVS_SPOOL_APPLIED to EVS_SPOOL_REJECTED; 0 if there is no outcome.
    pub code: i32,
    /// EVS_SPOOL_REASON_...
    pub reason: i32,
    /// The backend's own code, of EVS_SPOOL_REASON_REFUSED.
    pub refusal: u32,
    /// 0.
    pub reserved: u32,
}

/// What `owner` is.
struct Owner {
    answer: Vec<u8>,
    text: CString,
}

const EMPTY: &CStr = c"";

/// An outcome for C, with what its pointers lead to.
pub(super) struct Lent {
    view: evs_spool_outcome,
    owner: Box<Owner>,
}

impl Lent {
    pub(super) fn new(outcome: Outcome) -> Self {
        let (mut lsn, mut answer, mut text) = (0, Vec::new(), String::new());
        let (mut reason, mut refusal, mut after) = (EVS_SPOOL_REASON_NONE, 0, Duration::ZERO);
        let code = match outcome {
            Outcome::Applied { answer: given } => {
                answer = given;
                EVS_SPOOL_APPLIED
            }
            Outcome::Spooled { lsn: place } => {
                lsn = place;
                EVS_SPOOL_SPOOLED
            }
            Outcome::Held { lsn: place } => {
                lsn = place;
                EVS_SPOOL_HELD
            }
            Outcome::Stale => EVS_SPOOL_STALE,
            Outcome::InDoubt => EVS_SPOOL_IN_DOUBT,
            Outcome::Rejected { reason: why, retry_after } => {
                text = why.to_string();
                after = retry_after;
                (reason, refusal) = number(&why);
                EVS_SPOOL_REJECTED
            }
        };
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        let owner = Box::new(Owner { answer, text });
        let view = evs_spool_outcome {
            lsn,
            answer: match owner.answer.as_slice() {
                [] => std::ptr::null(),
                some => some.as_ptr().cast(),
            },
            answer_len: owner.answer.len(),
            text: owner.text.as_ptr(),
            owner: std::ptr::null_mut(),
            retry_after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
            code,
            reason,
            refusal,
            reserved: 0,
        };
        Self { view, owner }
    }

    /// For a callback; valid as long as `self`.
    pub(super) fn view(&self) -> &evs_spool_outcome {
        &self.view
    }

    /// Stores it, owned by C from then on.
    pub(super) fn give(self, room: &mut Room<'_>) -> io::Result<()> {
        let Self { mut view, owner } = self;
        let has_content = view.answer_len > 0 || !owner.text.is_empty();
        if !has_content {
            view.text = EMPTY.as_ptr();
            return room.store(&view);
        }
        view.owner = Box::into_raw(owner).cast();
        let stored = room.store(&view);
        if stored.is_err() {
            // SAFETY: made above, and nobody was told of it.
            drop(unsafe { Box::from_raw(view.owner.cast::<Owner>()) });
        }
        stored
    }
}

fn number(reason: &Reason) -> (c_int, u32) {
    match reason {
        Reason::SpoolFull => (EVS_SPOOL_REASON_FULL, 0),
        Reason::HoldFull => (EVS_SPOOL_REASON_HOLD_FULL, 0),
        Reason::Deadline => (EVS_SPOOL_REASON_DEADLINE, 0),
        Reason::Unavailable => (EVS_SPOOL_REASON_UNAVAILABLE, 0),
        Reason::Closing => (EVS_SPOOL_REASON_CLOSING, 0),
        Reason::Malformed(_) => (EVS_SPOOL_REASON_MALFORMED, 0),
        Reason::IdReused => (EVS_SPOOL_REASON_ID_REUSED, 0),
        Reason::Refused { code, .. } => (EVS_SPOOL_REASON_REFUSED, *code),
    }
}

/// Where an outcome goes: zeros, until there is one.
pub(super) struct Room<'a>(&'a mut [u8]);

impl Room<'_> {
    /// Bytes up to the last member that the first version of the structure had: an outcome that is
    /// given without its owner could never be freed.
    const SIZE_MIN: usize = 64;

    /// # Safety
    /// `out` is NULL or writable for `size` bytes, which nobody else uses, for as long as `'a`.
    pub(super) unsafe fn new(out: *mut evs_spool_outcome, size: size_t) -> io::Result<Self> {
        if size < Self::SIZE_MIN {
            return fail(libc::EINVAL);
        }
        // SAFETY: the caller's word.
        let room = unsafe { sized::room(out, size)? };
        room.fill(0);
        Ok(Self(room))
    }

    fn store(&mut self, view: &evs_spool_outcome) -> io::Result<()> {
        // SAFETY: pointers and numbers without padding (`abi_layout.c`).
        unsafe { sized::store(view, self.0) }
    }
}

/// Frees what an outcome owns, and takes its pointers away: once more does nothing. NULL, an
/// outcome of zeros and one that a callback was given are left alone. Never blocks.
///
/// Returns:       0, or -errno.
/// Errors:        ENOTRECOVERABLE.
/// Thread safety: one thread at a time per outcome.
/// Since:         0.1
///
/// # Safety
/// `outcome` is NULL, or zeros, or was filled by a call of this header and not copied since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_outcome_free(outcome: *mut evs_spool_outcome) -> c_int {
    guard::status(|| {
        if outcome.is_null() {
            return Ok(());
        }
        // A program of an earlier version has room for those members alone.
        // SAFETY: the caller's word, here and below.
        let owner = unsafe { memory::read(&raw const (*outcome).owner)? };
        if owner.is_null() {
            return Ok(());
        }
        // SAFETY: as above.
        unsafe {
            memory::write(&raw mut (*outcome).owner, std::ptr::null_mut())?;
            memory::write(&raw mut (*outcome).answer, std::ptr::null())?;
            memory::write(&raw mut (*outcome).answer_len, 0)?;
            memory::write(&raw mut (*outcome).text, EMPTY.as_ptr())?;
        }
        // SAFETY: from `Box::into_raw`, once, as the pointer was taken away.
        drop(unsafe { Box::from_raw(owner.cast::<Owner>()) });
        Ok(())
    })
}

/// Why the last call of evs_spool_* in this thread failed, with the remedy, for people; empty if it
/// did not. evs_spool_outcome_free() counts for none. Never blocks.
///
/// Returns:       a string, never NULL; borrowed until the next call of evs_spool_* in this thread.
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_spool_error() -> *const c_char {
    let found = guard::pointer(|| Ok(edge::last_error().cast_mut()));
    if found.is_null() { EMPTY.as_ptr() } else { found }
}

/// Stores an id that nobody else has: 16 random bytes. Never blocks.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EIO (the system has no randomness to give).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `id` is writable for 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_id_random(id: *mut u8) -> c_int {
    edge::status(|| {
        let random = RequestId::random().map_err(|error| edge::told(&error))?;
        // SAFETY: the caller's word.
        unsafe { store_id(random, id) }
    })
}

/// Stores the id of what the program calls by a name of its own: the same name gives the same id,
/// on every machine. Never blocks.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (the name has 2 GiB or more).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `name` is readable for `len` bytes, `id` writable for 16.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_id_of_name(
    name: *const c_void,
    len: size_t,
    id: *mut u8,
) -> c_int {
    edge::status(|| {
        if len > memory::RW_MAX {
            return edge::refuse(libc::EINVAL, "a name of 2 GiB or more: give its hash");
        }
        // SAFETY: the caller's word.
        let name = unsafe { memory::bytes(name, len)? };
        // SAFETY: as above.
        unsafe { store_id(RequestId::of_name(name), id) }
    })
}

/// # Safety
/// `id` is NULL or writable for 16 bytes.
unsafe fn store_id(value: RequestId, id: *mut u8) -> io::Result<()> {
    // SAFETY: the caller's word.
    unsafe { memory::write(id.cast::<[u8; 16]>(), value.0.to_be_bytes()) }
}
