//! Socket addresses as C has them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::posix;
use libc::{c_int, sa_family_t, sockaddr, sockaddr_in, sockaddr_in6, socklen_t};

use super::memory;
use crate::error::fail;

const STORAGE_BYTES: usize = size_of::<libc::sockaddr_storage>();
/// `sockaddr_in6` without its scope, which Linux takes as well (RFC 2133).
const IN6_BYTES_MIN: usize = 24;

/// The family that a virtual socket was made for.
pub fn family_of(fd: c_int) -> io::Result<c_int> {
    let mut out = [0; size_of::<c_int>()];
    posix::getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, &mut out)?;
    Ok(c_int::from_ne_bytes(out))
}

/// An address for a socket of `family`; `None` takes either. Fails as Linux does.
///
/// # Safety
/// `addr` is NULL or readable for `len` bytes.
pub unsafe fn read(
    addr: *const sockaddr,
    len: socklen_t,
    family: Option<c_int>,
) -> io::Result<SocketAddr> {
    let len = len as usize;
    if len > STORAGE_BYTES {
        return fail(libc::EINVAL);
    }
    if addr.is_null() {
        return fail(libc::EFAULT);
    }
    // SAFETY: the caller's word.
    let given = unsafe { memory::bytes(addr.cast(), len)? };
    let Some(own) = given.first_chunk::<2>() else { return fail(libc::EINVAL) };
    let own = c_int::from(sa_family_t::from_ne_bytes(*own));
    match family.unwrap_or(own) {
        libc::AF_INET if len < size_of::<sockaddr_in>() => fail(libc::EINVAL),
        libc::AF_INET6 if len < IN6_BYTES_MIN => fail(libc::EINVAL),
        wanted if wanted != own => fail(libc::EAFNOSUPPORT),
        libc::AF_INET => Ok(read_v4(given).into()),
        libc::AF_INET6 => Ok(read_v6(given).into()),
        _ => fail(libc::EAFNOSUPPORT),
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn read_v4(bytes: &[u8]) -> SocketAddrV4 {
    let ip = Ipv4Addr::from(chunk::<4>(bytes, 4));
    SocketAddrV4::new(ip, u16::from_be_bytes(chunk(bytes, 2)))
}

fn read_v6(bytes: &[u8]) -> SocketAddrV6 {
    let port = u16::from_be_bytes(chunk(bytes, 2));
    let flow = u32::from_be_bytes(chunk(bytes, 4));
    let ip = Ipv6Addr::from(chunk::<16>(bytes, 8));
    SocketAddrV6::new(ip, port, flow, u32::from_ne_bytes(chunk(bytes, IN6_BYTES_MIN)))
}

/// An address as C has it, and its length.
pub fn encode(addr: &SocketAddr) -> ([u8; STORAGE_BYTES], usize) {
    let mut out = [0; STORAGE_BYTES];
    out[2..4].copy_from_slice(&addr.port().to_be_bytes());
    let (family, len) = match addr {
        SocketAddr::V4(addr) => {
            out[4..8].copy_from_slice(&addr.ip().octets());
            (libc::AF_INET, size_of::<sockaddr_in>())
        }
        SocketAddr::V6(addr) => {
            out[4..8].copy_from_slice(&addr.flowinfo().to_be_bytes());
            out[8..24].copy_from_slice(&addr.ip().octets());
            out[24..28].copy_from_slice(&addr.scope_id().to_ne_bytes());
            (libc::AF_INET6, size_of::<sockaddr_in6>())
        }
    };
    let family = sa_family_t::try_from(family).unwrap_or(0);
    out[..2].copy_from_slice(&family.to_ne_bytes());
    (out, len)
}

/// Stores as much of an address as `*len` has room for, and its whole length in `*len`. No address
/// has length 0.
///
/// # Safety
/// `len` is NULL or valid; `addr` is NULL or writable for `*len` bytes.
pub unsafe fn write(
    found: Option<SocketAddr>,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> io::Result<()> {
    // SAFETY: the caller's word.
    let room = unsafe { room(len)? };
    let (bytes, whole) = found.as_ref().map_or(([0; STORAGE_BYTES], 0), encode);
    let kept = whole.min(room);
    // SAFETY: the caller's word, for no more than `*len` bytes.
    unsafe { memory::bytes_mut(addr.cast(), kept)? }.copy_from_slice(&bytes[..kept]);
    // SAFETY: the caller's word.
    unsafe { memory::write(len, whole as socklen_t) }
}

/// The room that `*len` announces. A negative length is nonsense.
///
/// # Safety
/// `len` is NULL or readable.
pub unsafe fn room(len: *const socklen_t) -> io::Result<usize> {
    // SAFETY: the caller's word.
    let len = unsafe { memory::read(len)? };
    memory::not_negative(len.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_went() {
        let v6 = SocketAddrV6::new("fe80::1".parse().unwrap(), 80, 7, 3);
        for addr in [SocketAddr::from(([127, 0, 0, 1], 4711)), SocketAddr::V6(v6)] {
            let (bytes, len) = encode(&addr);
            // SAFETY: the array is longer than `len`.
            let back = unsafe { read(bytes.as_ptr().cast(), len as socklen_t, None) };
            assert_eq!(back.unwrap(), addr);
        }
    }

    #[test]
    fn nonsense_gives_the_errors_of_linux() {
        let (bytes, _) = encode(&SocketAddr::from(([127, 0, 0, 1], 1)));
        let error = |addr: *const u8, len, family| {
            // SAFETY: null, or an array longer than any length that is not refused.
            unsafe { read(addr.cast(), len, family) }.unwrap_err().raw_os_error().unwrap()
        };
        let v4 = Some(libc::AF_INET);
        assert_eq!(error(std::ptr::null(), 16, v4), libc::EFAULT);
        assert_eq!(error(bytes.as_ptr(), 129, v4), libc::EINVAL);
        assert_eq!(error(bytes.as_ptr(), 1, v4), libc::EINVAL);
        assert_eq!(error(bytes.as_ptr(), 15, v4), libc::EINVAL);
        assert_eq!(error(bytes.as_ptr(), 16, Some(libc::AF_INET6)), libc::EINVAL);
        assert_eq!(error(bytes.as_ptr(), 28, Some(libc::AF_INET6)), libc::EAFNOSUPPORT);
    }
}
