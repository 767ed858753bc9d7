//! Strings that C hands over.

use std::ffi::CStr;
use std::io;

use libc::c_char;

use crate::ffi::guard::fail;

/// Text from C; empty for NULL.
///
/// # Safety
/// `text` is NULL or a string.
pub(super) unsafe fn text(text: *const c_char) -> io::Result<String> {
    if text.is_null() {
        return Ok(String::new());
    }
    // SAFETY: not NULL, so a string by the caller's word.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(str::to_owned).or_else(|_| fail(libc::EILSEQ))
}

/// Text from C that must be there.
///
/// # Safety
/// `given` is NULL or a string.
pub(super) unsafe fn some_text(given: *const c_char) -> io::Result<String> {
    if given.is_null() {
        return fail(libc::EFAULT);
    }
    // SAFETY: the caller's word.
    unsafe { text(given) }
}
