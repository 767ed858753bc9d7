//! Datagrams with the addresses of both ends (ip(7), ipv6(7): PKTINFO).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::calls::calls;
use super::fd::{Fd, internal};
use super::tcp::set_option;
use crate::error::fail;
use crate::udp::Received;

/// Room for both ancillary messages of a datagram, with some to spare.
const CONTROL_BYTES: usize = 128;

/// Ancillary data begins like its header.
#[repr(C)]
union Control {
    bytes: [u8; CONTROL_BYTES],
    _aligned: libc::cmsghdr,
}

impl Control {
    fn new() -> Self {
        Self { bytes: [0; CONTROL_BYTES] }
    }
}

/// A socket at this address that tells of each datagram where it was sent to.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<Fd> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::UDP))?;
    let fd = internal(OwnedFd::from(socket))?;
    let number = fd.as_raw_fd();
    let yes = 1i32.to_ne_bytes();
    if addr.is_ipv4() {
        set_option(number, libc::IPPROTO_IP, libc::IP_PKTINFO, &yes)?;
        set_option(number, libc::IPPROTO_IP, libc::IP_RECVTTL, &yes)?;
    } else {
        set_option(number, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &yes)?;
        set_option(number, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &yes)?;
        set_option(number, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, &yes)?;
    }
    // Not libc's bind, which may be the preload's own.
    rustix::net::bind(&fd, &addr)?;
    Ok(fd)
}

/// Takes the next datagram.
pub(crate) fn recv(number: RawFd, buf: &mut [u8]) -> io::Result<Received> {
    let mut control = Control::new();
    // SAFETY: sockaddr_storage is plain numbers, for which all zeros is a value.
    let mut from: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut slice = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: msghdr is plain numbers and pointers, for which all zeros is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: all that the message names is writable for the length that it says.
    let n = unsafe { (calls().recvmsg)(number, &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has said how much of `from` it wrote.
    let from = unsafe { read_addr((&raw const from).cast(), message.msg_namelen) };
    let Some(from) = from else { return fail(libc::EAFNOSUPPORT) };
    let (mut to, mut ttl) = (None, None);
    // SAFETY: the message and its control data are as the kernel left them.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: a header of the kernel's within the control data.
        let of = unsafe { header.read_unaligned() };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(header) };
        match (of.cmsg_level, of.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: the kernel sends the whole of it under this type, or nothing.
                let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                to = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: the same.
                let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                // SAFETY: the same: an int.
                let hops = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                ttl = u8::try_from(hops).ok();
            }
            _ => {}
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    let truncated = message.msg_flags & libc::MSG_TRUNC != 0;
    Ok(Received { len, from, to, ttl, truncated })
}

/// Sends one datagram, from this address of ours if one is given.
pub(crate) fn send(
    number: RawFd,
    bytes: &[u8],
    to: SocketAddr,
    from: Option<IpAddr>,
) -> io::Result<()> {
    let mut control = Control::new();
    let name = SockAddr::from(to);
    // sendmsg reads only.
    let mut slice =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is plain numbers and pointers, for which all zeros is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.as_ptr().cast_mut().cast();
    message.msg_namelen = name.len();
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    match (from, to) {
        (None, _) => {}
        (Some(IpAddr::V4(from)), SocketAddr::V4(_)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            attach(&mut message, &mut control, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        (Some(IpAddr::V6(from)), SocketAddr::V6(_)) => {
            let addr = libc::in6_addr { s6_addr: from.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: addr, ipi6_ifindex: 0 };
            attach(&mut message, &mut control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        _ => return fail(libc::EINVAL),
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: all that the message names is readable for the length that it says.
    let n = unsafe { (calls().sendmsg)(number, &raw const message, flags) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives a message one piece of ancillary data, which lives as long as `control`.
fn attach<T: Copy>(
    message: &mut libc::msghdr,
    control: &mut Control,
    level: i32,
    kind: i32,
    data: T,
) {
    let size = size_of::<T>() as u32;
    // SAFETY: only works out a length.
    let space = unsafe { libc::CMSG_SPACE(size) };
    // SAFETY: the same.
    let length = unsafe { libc::CMSG_LEN(size) };
    assert!(space as usize <= CONTROL_BYTES, "no room for ancillary data");
    let header: *mut libc::cmsghdr = (&raw mut *control).cast();
    message.msg_control = header.cast();
    message.msg_controllen = space as _;
    // SAFETY: the union is as aligned as a header, and has room for it and its data.
    unsafe {
        (*header).cmsg_len = length as _;
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(data);
    }
}

/// Reads an IP address as the kernel and libc give them; none of another family.
///
/// # Safety
/// `addr` is null or readable for `len` bytes.
pub(super) unsafe fn read_addr(
    addr: *const libc::sockaddr,
    len: libc::socklen_t,
) -> Option<SocketAddr> {
    let len = len as usize;
    if addr.is_null() || len < size_of::<libc::sa_family_t>() {
        return None;
    }
    // SAFETY: the family comes first in each of them, and is within `len`.
    let family = unsafe { (&raw const (*addr).sa_family).read_unaligned() };
    match i32::from(family) {
        libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: readable for its size, as was just seen.
            let addr = unsafe { addr.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(addr.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(ip.into(), u16::from_be(addr.sin_port)))
        }
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: the same.
            let addr = unsafe { addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            let (ip, port) = (addr.sin6_addr.s6_addr.into(), u16::from_be(addr.sin6_port));
            Some(SocketAddrV6::new(ip, port, addr.sin6_flowinfo, addr.sin6_scope_id).into())
        }
        _ => None,
    }
}
