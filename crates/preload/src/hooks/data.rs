//! Bytes out and bytes in.

use std::io::{self, IoSliceMut};

use eversock_engine::cabi::data::{self, count};
use eversock_engine::cabi::{addr, memory};
use eversock_engine::posix;
use libc::{
    c_int, c_uint, c_void, iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t,
    timespec,
};

use super::inherited;
use super::life::connect_if_ours;
use super::passing;
use crate::edge::{self, fail, sleeping};
use crate::next::{alias, hook};
use crate::shared;

/// # Safety
/// `data` is readable for `len` bytes.
unsafe fn send_ours(fd: c_int, data: *const c_void, len: size_t, flags: c_int) -> ssize_t {
    // SAFETY: the caller's word.
    sleeping(|| unsafe { data::send(fd, data, len, flags) })
}

/// # Safety
/// `data` is writable for `len` bytes.
unsafe fn recv_or_drop(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    flags: c_int,
) -> io::Result<ssize_t> {
    if flags & libc::MSG_TRUNC != 0 {
        return discard(fd, len, flags & !libc::MSG_TRUNC).map(count);
    }
    // SAFETY: the caller's word.
    unsafe { data::recv(fd, data, len, flags) }
}

/// # Safety
/// `data` is writable for `len` bytes.
unsafe fn recv_ours(fd: c_int, data: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    // SAFETY: the caller's word.
    sleeping(|| unsafe { recv_or_drop(fd, data, len, flags) })
}

/// MSG_TRUNC on a stream: the bytes are taken and go nowhere; looked at, they are only counted.
fn discard(fd: c_int, len: usize, mut flags: c_int) -> io::Result<usize> {
    let mut scratch = vec![0; len.min(64 * 1024)];
    let mut done = 0;
    while done < len {
        let most = scratch.len().min(len - done);
        match posix::recv(fd, &mut [IoSliceMut::new(&mut scratch[..most])], flags) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        if flags & libc::MSG_PEEK != 0 {
            break;
        }
        if flags & libc::MSG_WAITALL == 0 {
            // Nobody waits for more than what has come.
            flags |= libc::MSG_DONTWAIT;
        }
    }
    Ok(done)
}

hook! { next = fn send(fd: c_int, data: *const c_void, len: size_t, flags: c_int) -> ssize_t {
    if edge::is_ours(fd) {
        // SAFETY: the caller's word.
        return unsafe { send_ours(fd, data, len, flags) };
    }
    next(fd, data, len, flags)
} }

hook! { next = fn recv(fd: c_int, data: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    if edge::is_ours(fd) {
        // SAFETY: the caller's word.
        return unsafe { recv_ours(fd, data, len, flags) };
    }
    next(fd, data, len, flags)
} }

hook! { next = fn sendto(
    fd: c_int,
    data: *const c_void,
    len: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
) -> ssize_t {
    if flags & libc::MSG_FASTOPEN != 0 {
        let flags = flags & !libc::MSG_FASTOPEN;
        // SAFETY: the caller's word.
        match unsafe { opened_fast(fd, addr, addr_len) } {
            // SAFETY: as above.
            Some(Opened::Virtual) => return unsafe { send_ours(fd, data, len, flags) },
            Some(Opened::Shared(Ok(()))) => {
                return next(fd, data, len, flags, std::ptr::null(), 0);
            }
            Some(Opened::Shared(Err(error))) => return sleeping(|| Err(error)),
            None => {}
        }
    }
    if edge::is_ours(fd) {
        // As TCP does, the address is ignored.
        // SAFETY: as above.
        return unsafe { send_ours(fd, data, len, flags) };
    }
    next(fd, data, len, flags, addr, addr_len)
} }

/// What MSG_FASTOPEN has made of a socket.
enum Opened {
    /// It is ours from then on, and the send says what became of it.
    Virtual,
    /// It shares a session; the send is the kernel's, if the connection stands.
    Shared(io::Result<()>),
}

/// MSG_FASTOPEN is connect(2) and a send in one; `None` when all of it is the kernel's.
///
/// # Safety
/// `addr` is NULL or readable for `len` bytes.
unsafe fn opened_fast(fd: c_int, addr: *const sockaddr, len: socklen_t) -> Option<Opened> {
    if addr.is_null() {
        return None;
    }
    // SAFETY: the caller's word.
    let result = unsafe { connect_if_ours(fd, addr, len) }?;
    if edge::is_ours(fd) {
        return Some(Opened::Virtual);
    }
    shared::find(fd).map(|_| match result {
        // As with TCP, where the address of one that is connected does not matter.
        Err(error) if error.raw_os_error() == Some(libc::EISCONN) => Opened::Shared(Ok(())),
        result => Opened::Shared(result),
    })
}

/// # Safety
/// That of recvfrom(2).
unsafe fn recv_from_ours(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    // SAFETY: the caller's word.
    sleeping(|| unsafe { data::recv_from(addr, addr_len, || recv_or_drop(fd, data, len, flags)) })
}

hook! { next = fn recvfrom(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    if edge::is_ours(fd) {
        // SAFETY: the caller's word.
        return unsafe { recv_from_ours(fd, data, len, flags, addr, addr_len) };
    }
    next(fd, data, len, flags, addr, addr_len)
} }

hook! { next = fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    if flags & libc::MSG_FASTOPEN != 0 && !message.is_null() {
        // SAFETY: the caller's word.
        let header = unsafe { message.read_unaligned() };
        let flags = flags & !libc::MSG_FASTOPEN;
        // SAFETY: as above.
        match unsafe { opened_fast(fd, header.msg_name.cast(), header.msg_namelen) } {
            Some(Opened::Virtual) => {
                // SAFETY: as above.
                return sleeping(|| unsafe { data::send_message(fd, message, flags) });
            }
            Some(Opened::Shared(Ok(()))) => {
                let mut header = header;
                (header.msg_name, header.msg_namelen) = (std::ptr::null_mut(), 0);
                return next(fd, &raw const header, flags);
            }
            Some(Opened::Shared(Err(error))) => return sleeping(|| Err(error)),
            None => {}
        }
    }
    if edge::is_ours(fd) {
        // SAFETY: the caller's word.
        return sleeping(|| unsafe { data::send_message(fd, message, flags) });
    }
    // SAFETY: as above.
    if let Err(error) = unsafe { passing::before_send(message) } {
        return sleeping(|| Err(error));
    }
    next(fd, message, flags)
} }

hook! { next = fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    if edge::is_ours(fd) {
        // SAFETY: the caller's word.
        return sleeping(|| unsafe { data::recv_message(fd, message, flags) });
    }
    let received = next(fd, message, flags);
    if received >= 0 && edge::is_used() {
        // SAFETY: as above.
        unsafe { passing::after_receive(message) };
    }
    received
} }

hook! { next = fn sendmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    message_count: c_uint,
    flags: c_int,
) -> c_int {
    if !edge::is_ours(fd) {
        for at in 0..message_count.min(memory::IOV_MAX as c_uint) {
            // SAFETY: the caller's word that there are so many.
            let message = unsafe { messages.add(at as usize) };
            if edge::is_used()
                // SAFETY: as above.
                && let Err(error) = unsafe { passing::before_send(&raw const (*message).msg_hdr) }
            {
                return sleeping(|| Err(error));
            }
        }
        return next(fd, messages, message_count, flags);
    }
    sleeping(|| {
        let mut done = 0;
        while done < message_count.min(memory::IOV_MAX as c_uint) {
            // SAFETY: the caller's word that there are so many.
            let message = unsafe { messages.add(done as usize) };
            // SAFETY: as above.
            match unsafe { data::send_message(fd, &raw const (*message).msg_hdr, flags) } {
                // SAFETY: as above.
                Ok(n) => unsafe { (*message).msg_len = n as c_uint },
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += 1;
        }
        Ok(done.cast_signed())
    })
} }

hook! { next = fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    message_count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    if !edge::is_ours(fd) {
        let received = next(fd, messages, message_count, flags, timeout);
        for at in 0..received.max(0) {
            // SAFETY: the kernel has filled in so many.
            unsafe { passing::after_receive(&raw const (*messages.add(at as usize)).msg_hdr) };
        }
        return received;
    }
    sleeping(|| {
        let (mut done, mut flags) = (0, flags & !libc::MSG_WAITFORONE);
        while done < message_count.min(memory::IOV_MAX as c_uint) {
            // SAFETY: the caller's word that there are so many.
            let message = unsafe { messages.add(done as usize) };
            // SAFETY: as above.
            match unsafe { data::recv_message(fd, &raw mut (*message).msg_hdr, flags) } {
                // SAFETY: as above.
                Ok(n) => unsafe { (*message).msg_len = n as c_uint },
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += 1;
            // On a stream a second message is only what has come already: nobody waits for it.
            flags |= libc::MSG_DONTWAIT;
        }
        Ok(done.cast_signed())
    })
} }

hook! { next = fn read(fd: c_int, data: *mut c_void, len: size_t) -> ssize_t {
    if !edge::is_ours(fd) {
        return next(fd, data, len);
    }
    if len == 0 {
        // read(2) of nothing is nothing at once; recv(2) of nothing waits.
        return 0;
    }
    // SAFETY: the caller's word.
    unsafe { recv_ours(fd, data, len, 0) }
} }

hook! { next = fn write(fd: c_int, data: *const c_void, len: size_t) -> ssize_t {
    if !edge::is_ours(fd) {
        return next(fd, data, len);
    }
    // SAFETY: the caller's word.
    unsafe { send_ours(fd, data, len, 0) }
} }

hook! { next = fn readv(fd: c_int, vectors: *const iovec, parts: c_int) -> ssize_t {
    if edge::is_ours(fd) {
        // SAFETY: the caller's word.
        return sleeping(|| unsafe { data::read_parts(fd, vectors, parts, 0) });
    }
    next(fd, vectors, parts)
} }

hook! { next = fn writev(fd: c_int, vectors: *const iovec, parts: c_int) -> ssize_t {
    if edge::is_ours(fd) {
        // SAFETY: the caller's word.
        return sleeping(|| unsafe { data::write_parts(fd, vectors, parts, 0) });
    }
    next(fd, vectors, parts)
} }

/// What the flags of preadv2(2) mean on a stream: its offset must be -1, and RWF_NOWAIT is
/// MSG_DONTWAIT.
fn stream_flags(offset: off_t, flags: c_int) -> io::Result<c_int> {
    if offset != -1 {
        return fail(libc::ESPIPE);
    }
    match flags {
        0 => Ok(0),
        libc::RWF_NOWAIT => Ok(libc::MSG_DONTWAIT),
        _ => fail(libc::EOPNOTSUPP),
    }
}

macro_rules! at_offset {
    ($($name:ident => $of:ident;)*) => {$(
        hook! { next = fn $name(
            fd: c_int,
            vectors: *const iovec,
            parts: c_int,
            offset: off_t,
            flags: c_int,
        ) -> ssize_t {
            if !edge::is_ours(fd) {
                return next(fd, vectors, parts, offset, flags);
            }
            // SAFETY: the caller's word.
            sleeping(|| unsafe { data::$of(fd, vectors, parts, stream_flags(offset, flags)?) })
        } }
    )*};
}

at_offset! {
    preadv2 => read_parts;
    preadv64v2 => read_parts;
    pwritev2 => write_parts;
    pwritev64v2 => write_parts;
}

hook! { next = fn __read_chk(fd: c_int, data: *mut c_void, len: size_t, room: size_t) -> ssize_t {
    if edge::is_ours(fd) && len <= room {
        // SAFETY: the caller's word.
        return unsafe { read(fd, data, len) };
    }
    next(fd, data, len, room)
} }

hook! { next = fn __recv_chk(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
) -> ssize_t {
    if edge::is_ours(fd) && len <= room {
        // SAFETY: the caller's word.
        return unsafe { recv_ours(fd, data, len, flags) };
    }
    next(fd, data, len, room, flags)
} }

hook! { next = fn __recvfrom_chk(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    if edge::is_ours(fd) && len <= room {
        // SAFETY: the caller's word.
        return unsafe { recv_from_ours(fd, data, len, flags, addr, addr_len) };
    }
    next(fd, data, len, room, flags, addr, addr_len)
} }

hook! { next = fn getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    inherited::known(fd);
    if let Some(connection) = shared::find(fd) {
        // SAFETY: the caller's word.
        return edge::awake(|| unsafe {
            addr::write(Some(connection.local()), addr, len).map(|()| 0)
        });
    }
    if !edge::is_ours(fd) {
        return next(fd, addr, len);
    }
    edge::awake(|| {
        let local = posix::getsockname(fd)?;
        // SAFETY: the caller's word.
        unsafe { addr::write(local, addr, len)? };
        Ok(0)
    })
} }

hook! { next = fn getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    if let Some(connection) = shared::find(fd) {
        // A pair of which both directions have ended has no peer, and nor has the connection.
        let is_there = connection.state() == shared::State::Stands && posix::has_peer(fd);
        let peer = if is_there { Ok(connection.peer) } else { fail(libc::ENOTCONN) };
        // SAFETY: the caller's word.
        return edge::awake(|| unsafe { addr::write(Some(peer?), addr, len).map(|()| 0) });
    }
    if !edge::is_ours(fd) {
        return next(fd, addr, len);
    }
    edge::awake(|| {
        let peer = posix::getpeername(fd)?;
        // SAFETY: the caller's word.
        unsafe { addr::write(peer, addr, len)? };
        Ok(0)
    })
} }

alias! {
    __read = read, (fd: c_int, data: *mut c_void, len: size_t) -> ssize_t;
    __write = write, (fd: c_int, data: *const c_void, len: size_t) -> ssize_t;
    __send = send, (fd: c_int, data: *const c_void, len: size_t, flags: c_int) -> ssize_t;
    __sendmmsg = sendmmsg, (
        fd: c_int,
        messages: *mut mmsghdr,
        message_count: c_uint,
        flags: c_int
    ) -> c_int;
}
