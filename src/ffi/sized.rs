//! Structures that may grow: what C says their size is, against what is known here.

use std::io;

use libc::size_t;

use crate::ffi::guard::fail;
use crate::ffi::memory;

/// A structure that C gives; what its program did not know yet is as in `initial`.
///
/// Fails with EINVAL for no size or an absurd one, with E2BIG when a newer program has set what is
/// not known here.
///
/// # Safety
/// `from` is NULL or readable for `size` bytes. `T` is plain: any bytes are one, and it has no
/// padding.
pub(super) unsafe fn load<T: Copy>(from: *const T, size: size_t, initial: T) -> io::Result<T> {
    if size == 0 || size > memory::RW_MAX {
        return fail(libc::EINVAL);
    }
    // SAFETY: the caller's word.
    let given = unsafe { memory::bytes(from.cast(), size)? };
    let mut value = initial;
    // SAFETY: a local, whole and nobody else's; any bytes are a `T` by the caller's word.
    let known = unsafe { memory::bytes_mut((&raw mut value).cast(), size_of::<T>())? };
    let kept = known.len().min(given.len());
    known[..kept].copy_from_slice(&given[..kept]);
    if given[kept..].iter().any(|byte| *byte != 0) { fail(libc::E2BIG) } else { Ok(value) }
}

/// Stores as much of a structure as there is room for, and zeros behind it.
///
/// # Safety
/// `T` has no padding.
pub(super) unsafe fn store<T: Copy>(value: &T, out: &mut [u8]) -> io::Result<()> {
    // SAFETY: a whole value, without padding by the caller's word.
    let known = unsafe { memory::bytes((&raw const *value).cast(), size_of::<T>())? };
    let kept = known.len().min(out.len());
    out[..kept].copy_from_slice(&known[..kept]);
    out[kept..].fill(0);
    Ok(())
}

/// The room for a structure, EINVAL for no size or an absurd one.
///
/// # Safety
/// `out` is NULL or writable for `size` bytes, which nobody else uses, for as long as `'a`.
pub(super) unsafe fn room<'a, T>(out: *mut T, size: size_t) -> io::Result<&'a mut [u8]> {
    if size == 0 || size > memory::RW_MAX {
        return fail(libc::EINVAL);
    }
    // SAFETY: the caller's word.
    unsafe { memory::bytes_mut(out.cast(), size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_program_gets_defaults_and_a_newer_one_may_set_nothing_unknown() {
        let load = |given: &[u8], size| {
            // SAFETY: readable for that size, and of plain bytes.
            unsafe { load(given.as_ptr().cast::<[u8; 4]>(), size, [9; 4]) }
                .map_err(|error| error.raw_os_error().unwrap())
        };
        assert_eq!(load(&[1, 2], 2), Ok([1, 2, 9, 9]));
        assert_eq!(load(&[1, 2, 3, 4, 0, 0], 6), Ok([1, 2, 3, 4]));
        assert_eq!(load(&[1, 2, 3, 4, 0, 5], 6), Err(libc::E2BIG));
        assert_eq!(load(&[], 0), Err(libc::EINVAL));
        let mut out = [7; 6];
        // SAFETY: bytes have no padding.
        unsafe { store(&[1_u8, 2, 3, 4], &mut out[..2]) }.unwrap();
        assert_eq!(out, [1, 2, 7, 7, 7, 7]);
        // SAFETY: as above.
        unsafe { store(&[1_u8, 2, 3, 4], &mut out) }.unwrap();
        assert_eq!(out, [1, 2, 3, 4, 0, 0]);
    }
}
