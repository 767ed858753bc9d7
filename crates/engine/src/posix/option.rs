//! Options and flags: setsockopt, getsockopt, fcntl, ioctl.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use core::net::SocketAddr;

use super::number::dup_from;
use super::plain;
use crate::error::fail;
use crate::listener::not_connected;
use crate::options::Effect;
use crate::socket::{Socket, bits};
use crate::sys::{self, fd, tcp};
use crate::table::{self, Entry};

/// setsockopt(2) with the option's bytes: recorded, and set again on every new connection.
pub fn setsockopt(number: RawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let socket = match table::get(number) {
        Some(Entry::Stream(socket)) => socket,
        Some(Entry::Listener(listener)) => {
            tcp::set_option(listener.real.as_raw_fd(), level, name, value)?;
            return listener.note_option(number, level, name, value);
        }
        None => return tcp::set_option(plain(number)?, level, name, value),
    };
    let place = Socket::lock(&socket.place)?;
    let real = place.real_number();
    let at = real.unwrap_or(number);
    let is_real = real.is_some() && !(socket.has(bits::CONNECTING));
    drop(place);
    let effect = Socket::lock(&socket.meta)?.options.set(at, is_real, level, name, value)?;
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    match effect {
        Effect::Applied => {}
        Effect::RecvTimeout(d) => socket.recv_timeout_us.store(micros(d), Ordering::Relaxed),
        Effect::SendTimeout(d) => socket.send_timeout_us.store(micros(d), Ordering::Relaxed),
    }
    if (level, name) == (libc::SOL_SOCKET, libc::SO_RCVLOWAT) {
        let least = value.first_chunk::<4>().map_or(1, |bytes| i32::from_ne_bytes(*bytes));
        socket.low_water.store(least > 1, Ordering::Relaxed);
    }
    if socket.has(bits::PUMPED) && level == libc::SOL_SOCKET {
        // The program's end of the pair is where a time-out or a low-water mark works.
        let _cosmetic = tcp::set_option(number, level, name, value);
    }
    Ok(())
}

/// getsockopt(2) into `out`; gives the option's length.
pub fn getsockopt(number: RawFd, level: i32, name: i32, out: &mut [u8]) -> io::Result<usize> {
    let socket = match table::get(number) {
        Some(Entry::Stream(socket)) => socket,
        Some(Entry::Listener(listener)) => {
            return tcp::get_option(listener.real.as_raw_fd(), level, name, out);
        }
        None => return tcp::get_option(plain(number)?, level, name, out),
    };
    let int = |value: i32, out: &mut [u8]| {
        let bytes = value.to_ne_bytes();
        let n = bytes.len().min(out.len());
        out[..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    };
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ERROR) => return int(socket.take_error(), out),
        (libc::SOL_SOCKET, libc::SO_TYPE) => return int(libc::SOCK_STREAM, out),
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => return int(libc::IPPROTO_TCP, out),
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => return int(0, out),
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => {
            let nodelay = Socket::lock(&socket.meta)?.options.nodelay;
            return int(i32::from(nodelay), out);
        }
        (libc::SOL_SOCKET, libc::SO_LINGER) => {
            let linger = Socket::lock(&socket.meta)?.options.linger;
            let seconds = linger.map_or(0, |l| i32::try_from(l.as_secs()).unwrap_or(i32::MAX));
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&i32::from(linger.is_some()).to_ne_bytes());
            bytes[4..].copy_from_slice(&seconds.to_ne_bytes());
            let n = bytes.len().min(out.len());
            out[..n].copy_from_slice(&bytes[..n]);
            return Ok(n);
        }
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => {
            let meta = Socket::lock(&socket.meta)?;
            let addr = meta.peer.or_else(|| meta.rare().bound).or_else(|| tcp::local_addr(number));
            let v6 = addr.is_some_and(|addr| addr.is_ipv6());
            return int(if v6 { libc::AF_INET6 } else { libc::AF_INET }, out);
        }
        _ => {}
    }
    let real = Socket::lock(&socket.place)?.real_number();
    if let Some(real) = real.filter(|_| !socket.has(bits::CONNECTING)) {
        return tcp::get_option(real, level, name, out);
    }
    // No connection stands: what the next one will have.
    let meta = Socket::lock(&socket.meta)?;
    let family = meta
        .peer
        .or_else(|| meta.rare().bound)
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let fresh = tcp::new_socket(&family)?;
    meta.options.get(fresh.as_raw_fd(), level, name, out)
}

/// fcntl(2) for the commands that concern a socket; `None` for those that the kernel can answer.
pub fn fcntl(number: RawFd, command: i32, argument: i64) -> Option<io::Result<i32>> {
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            // An argument that no number can be is EINVAL, like a negative one.
            let from = i32::try_from(argument).unwrap_or(-1);
            Some(dup_from(number, from, command == libc::F_DUPFD_CLOEXEC))
        }
        libc::F_SETFL => {
            let on = argument & i64::from(libc::O_NONBLOCK) != 0;
            if let Some(Entry::Stream(socket)) = table::get(number) {
                // As for FIONBIO. The kernel's own call comes after it: on the old file if that
                // stands, and the new one is made as the flag says by then.
                let _place = Socket::lock(&socket.place);
                socket.nonblocking.store(on, Ordering::Relaxed);
            }
            None
        }
        _ => None,
    }
}

/// ioctl(2) FIONBIO.
pub fn set_nonblocking(number: RawFd, on: bool) -> io::Result<()> {
    let socket = table::get(number);
    if let Some(Entry::Stream(socket)) = &socket {
        // The place keeps a swap from copying the old flag to the new file.
        let _place = Socket::lock(&socket.place)?;
        socket.nonblocking.store(on, Ordering::Relaxed);
        return fd::set_nonblocking(number, on);
    }
    // A negative number is none that the kernel could be asked about.
    if number < 0 { fail(libc::EBADF) } else { fd::set_nonblocking(number, on) }
}

/// ioctl(2) FIONREAD: payload bytes that can be read now, exactly.
pub fn readable_bytes(number: RawFd) -> io::Result<usize> {
    let socket = match table::get(number) {
        Some(Entry::Stream(socket)) => socket,
        Some(Entry::Listener(_)) => return fail(libc::EINVAL),
        None => return sys::io::ask_queued(plain(number)?),
    };
    if socket.has(bits::PUMPED) { Ok(sys::io::queued(number)) } else { socket.readable_bytes() }
}

/// ioctl(2) SIOCOUTQ: bytes written that the peer's program has not consumed.
pub fn unsent_bytes(number: RawFd) -> io::Result<usize> {
    let socket = match table::get(number) {
        Some(Entry::Stream(socket)) => socket,
        Some(Entry::Listener(_)) => return not_connected(),
        None => return Ok(tcp::unconfirmed(plain(number)?)? as usize),
    };
    let tx = socket.lock_tx()?;
    Ok(tx.sender.as_ref().map_or(0, |sender| sender.log_len() as usize))
}
