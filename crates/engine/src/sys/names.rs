//! getaddrinfo(3) and getnameinfo(3).

use std::ffi::{CStr, CString};
use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::SockAddr;

use super::udp::read_addr;
use crate::names::Names;

/// Addresses of one name, at most.
const ADDRS_MAX: usize = 64;

/// What getaddrinfo gave, until it is given back.
struct List(*mut libc::addrinfo);

impl Drop for List {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: from getaddrinfo, and given back once.
            unsafe { libc::freeaddrinfo(self.0) };
        }
    }
}

pub(crate) fn lookup(host: &str, port: u16) -> io::Result<Names> {
    let host = CString::new(host).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: addrinfo is numbers and pointers, for which all zeros is a value.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_flags = libc::AI_CANONNAME;
    hints.ai_family = libc::AF_UNSPEC;
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list = List(std::ptr::null_mut());
    // SAFETY: the name ends with a zero, the hints are whole, and `list` takes what is given.
    let result = unsafe {
        libc::getaddrinfo(host.as_ptr(), std::ptr::null(), &raw const hints, &raw mut list.0)
    };
    if result != 0 {
        return Err(failure(result));
    }
    let mut names = Names::default();
    let mut at = list.0;
    // SAFETY: each entry is whole, and the last one's next is null, as long as `list` lives.
    while let Some(entry) = unsafe { at.as_ref() } {
        if names.canonical.is_none() && !entry.ai_canonname.is_null() {
            // SAFETY: a text that ends with a zero, as long as `list` lives.
            let name = unsafe { CStr::from_ptr(entry.ai_canonname) };
            names.canonical = Some(name.to_string_lossy().into_owned());
        }
        // SAFETY: the entry says how long its address is.
        let addr = unsafe { read_addr(entry.ai_addr, entry.ai_addrlen) };
        if let Some(mut addr) = addr.filter(|_| names.addrs.len() < ADDRS_MAX) {
            addr.set_port(port);
            if !names.addrs.contains(&addr) {
                names.addrs.push(addr);
            }
        }
        at = entry.ai_next;
    }
    Ok(names)
}

fn failure(result: i32) -> io::Error {
    if result == libc::EAI_SYSTEM {
        return io::Error::last_os_error();
    }
    // SAFETY: gives a text that ends with a zero and stays, whatever the number.
    let text = unsafe { CStr::from_ptr(libc::gai_strerror(result)) };
    let kind = match result {
        libc::EAI_NONAME => io::ErrorKind::NotFound,
        libc::EAI_AGAIN => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, text.to_string_lossy().into_owned())
}

pub(crate) fn reverse(addr: IpAddr) -> Option<String> {
    let addr = SockAddr::from(SocketAddr::new(addr, 0));
    let mut name = [0; libc::NI_MAXHOST as usize];
    // SAFETY: the address is readable for its length, the name writable for its own.
    let result = unsafe {
        libc::getnameinfo(
            addr.as_ptr().cast(),
            addr.len(),
            name.as_mut_ptr().cast(),
            name.len() as libc::socklen_t,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    let name = CStr::from_bytes_until_nul(&name).ok().filter(|_| result == 0)?;
    Some(name.to_string_lossy().into_owned())
}
