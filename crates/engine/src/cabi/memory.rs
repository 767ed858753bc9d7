//! Memory that C hands over. A null pointer, one into the first page and a length that wraps round
//! give EFAULT; for the rest the caller's word is taken, as for any C function.

use std::io::{self, IoSlice, IoSliceMut};

use libc::{c_int, c_void, iovec};

use crate::error::fail;

/// The kernel moves at most this many bytes in one call (read(2)), and so do the twins.
pub const RW_MAX: usize = 0x7fff_f000;
/// IOV_MAX.
pub const IOV_MAX: usize = 1024;
/// No program has memory below this address.
const FIRST_PAGE: usize = 4096;

fn check(address: usize, len: usize) -> io::Result<()> {
    let wraps = address.checked_add(len).is_none_or(|end| isize::try_from(end).is_err());
    if len > 0 && (address < FIRST_PAGE || wraps) { fail(libc::EFAULT) } else { Ok(()) }
}

/// Bytes to be read, at most [`RW_MAX`].
///
/// # Safety
/// `data` is NULL or readable for `len` bytes, which nobody changes, for as long as `'a`.
pub unsafe fn bytes<'a>(data: *const c_void, len: usize) -> io::Result<&'a [u8]> {
    let len = len.min(RW_MAX);
    check(data as usize, len)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: checked for NULL and wrapping; the rest is the caller's word.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

/// Bytes to be written, at most [`RW_MAX`].
///
/// # Safety
/// `data` is NULL or writable for `len` bytes, which nobody else uses, for as long as `'a`.
pub unsafe fn bytes_mut<'a>(data: *mut c_void, len: usize) -> io::Result<&'a mut [u8]> {
    let len = len.min(RW_MAX);
    check(data as usize, len)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: checked for NULL and wrapping; the rest is the caller's word.
    Ok(unsafe { std::slice::from_raw_parts_mut(data.cast(), len) })
}

/// An array to be changed in place.
///
/// # Safety
/// `data` is NULL or valid for `len` elements, which nobody else uses, for as long as `'a`.
pub unsafe fn array_mut<'a, T: Copy>(data: *mut T, len: usize) -> io::Result<&'a mut [T]> {
    let Some(size) = len.checked_mul(size_of::<T>()) else { return fail(libc::EFAULT) };
    check(data as usize, size)?;
    if len == 0 {
        return Ok(&mut []);
    }
    if !data.is_aligned() {
        return fail(libc::EFAULT);
    }
    // SAFETY: checked for NULL, wrapping and alignment; the rest is the caller's word.
    Ok(unsafe { std::slice::from_raw_parts_mut(data, len) })
}

/// One value, which need not be aligned.
///
/// # Safety
/// `from` is NULL or readable; any bytes are a valid `T`.
pub unsafe fn read<T: Copy>(from: *const T) -> io::Result<T> {
    check(from as usize, size_of::<T>())?;
    // SAFETY: checked for NULL; the rest is the caller's word.
    Ok(unsafe { from.read_unaligned() })
}

/// Stores one value, which need not be aligned.
///
/// # Safety
/// `to` is NULL or writable.
pub unsafe fn write<T: Copy>(to: *mut T, value: T) -> io::Result<()> {
    check(to as usize, size_of::<T>())?;
    // SAFETY: checked for NULL; the rest is the caller's word.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// The parts of an iovec array as (pointer, length), cut to [`RW_MAX`] bytes in all. `too_many` is
/// the errno for more than [`IOV_MAX`] parts.
unsafe fn parts(
    vectors: *const iovec,
    count: usize,
    too_many: c_int,
) -> io::Result<Vec<(*mut c_void, usize)>> {
    if count > IOV_MAX {
        return fail(too_many);
    }
    check(vectors as usize, count * size_of::<iovec>())?;
    let mut left = RW_MAX;
    let mut total = 0usize;
    let mut parts = Vec::with_capacity(count);
    for at in 0..count {
        // SAFETY: the caller's word that there are `count` of them.
        let vector = unsafe { vectors.add(at).read_unaligned() };
        total = match total.checked_add(vector.iov_len).filter(|n| isize::try_from(*n).is_ok()) {
            Some(total) => total,
            None => return fail(libc::EINVAL),
        };
        let len = vector.iov_len.min(left);
        check(vector.iov_base as usize, len)?;
        left -= len;
        if len > 0 {
            parts.push((vector.iov_base, len));
        }
    }
    Ok(parts)
}

/// What a gathering write sends.
///
/// # Safety
/// `vectors` is NULL or an array of `count`, each of which fulfils [`bytes`].
pub unsafe fn gather<'a>(
    vectors: *const iovec,
    count: usize,
    too_many: c_int,
) -> io::Result<Vec<IoSlice<'a>>> {
    // SAFETY: the caller's word.
    let parts = unsafe { parts(vectors, count, too_many)? };
    let slice = |(data, len): (*mut c_void, usize)| {
        // SAFETY: checked by `parts`; the rest is the caller's word.
        IoSlice::new(unsafe { std::slice::from_raw_parts(data.cast_const().cast(), len) })
    };
    Ok(parts.into_iter().map(slice).collect())
}

/// Where a scattering read puts its bytes.
///
/// # Safety
/// `vectors` is NULL or an array of `count`, each of which fulfils [`bytes_mut`]; they do not
/// overlap.
pub unsafe fn scatter<'a>(
    vectors: *const iovec,
    count: usize,
    too_many: c_int,
) -> io::Result<Vec<IoSliceMut<'a>>> {
    // SAFETY: the caller's word.
    let parts = unsafe { parts(vectors, count, too_many)? };
    let slice = |(data, len): (*mut c_void, usize)| {
        // SAFETY: checked by `parts`; the rest is the caller's word.
        IoSliceMut::new(unsafe { std::slice::from_raw_parts_mut(data.cast(), len) })
    };
    Ok(parts.into_iter().map(slice).collect())
}

/// A C count that must not be negative.
pub fn not_negative(count: c_int) -> io::Result<usize> {
    usize::try_from(count).or_else(|_| fail(libc::EINVAL))
}
