//! syscall(2), for programs that go round libc's names but not round libc: libuv closes so, glib
//! duplicates so. What is not known here is passed on as it is, with all six arguments.

use libc::{c_int, c_long, c_uint, c_void};

use super::{data, life, number, wait};
use crate::edge;
use crate::next::hook;
use crate::setup::setup;

/// The calls that have a descriptor as their first argument and need the engine if it is virtual.
fn is_known(call: c_long) -> bool {
    matches!(
        call,
        libc::SYS_close
            | libc::SYS_read
            | libc::SYS_write
            | libc::SYS_readv
            | libc::SYS_writev
            | libc::SYS_sendto
            | libc::SYS_recvfrom
            | libc::SYS_sendmsg
            | libc::SYS_recvmsg
            | libc::SYS_connect
            | libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_listen
            | libc::SYS_shutdown
            | libc::SYS_dup
            | libc::SYS_dup3
            | libc::SYS_fcntl
            | libc::SYS_close_range
            | libc::SYS_epoll_ctl
            | libc::SYS_epoll_pwait
            | libc::SYS_io_uring_setup
    )
}

hook! { next = fn syscall(
    call: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    // std's own locks come this way: nothing before this line.
    if !is_known(call) {
        return next(call, a, b, c, d, e, f);
    }
    let fd = a as c_int;
    let int = |value: usize| value as c_int;
    let is_candidate = matches!(
        call,
        libc::SYS_connect
            | libc::SYS_listen
            | libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_epoll_ctl
    );
    if call == libc::SYS_io_uring_setup {
        // A ring reads and writes descriptors where nobody sees it; whoever asks has another way.
        if !setup().is_empty() {
            edge::set_errno(libc::ENOSYS);
            return -1;
        }
    } else if is_candidate || edge::is_used() {
        // SAFETY: the caller's word, which is that of the call named.
        return unsafe {
            match call {
                libc::SYS_close => life::close(fd).into(),
                libc::SYS_read => data::read(fd, b as *mut c_void, c) as c_long,
                libc::SYS_write => data::write(fd, b as *const c_void, c) as c_long,
                libc::SYS_readv => data::readv(fd, b as *const _, int(c)) as c_long,
                libc::SYS_writev => data::writev(fd, b as *const _, int(c)) as c_long,
                libc::SYS_sendto => {
                    data::sendto(fd, b as *const _, c, int(d), e as *const _, f as u32) as c_long
                }
                libc::SYS_recvfrom => {
                    data::recvfrom(fd, b as *mut _, c, int(d), e as *mut _, f as *mut _) as c_long
                }
                libc::SYS_sendmsg => data::sendmsg(fd, b as *const _, int(c)) as c_long,
                libc::SYS_recvmsg => data::recvmsg(fd, b as *mut _, int(c)) as c_long,
                libc::SYS_connect => life::connect(fd, b as *const _, c as u32).into(),
                libc::SYS_accept => life::accept(fd, b as *mut _, c as *mut _).into(),
                libc::SYS_accept4 => life::accept4(fd, b as *mut _, c as *mut _, int(d)).into(),
                libc::SYS_listen => life::listen(fd, int(b)).into(),
                libc::SYS_shutdown => life::shutdown(fd, int(b)).into(),
                libc::SYS_dup => number::dup(fd).into(),
                libc::SYS_dup3 => number::dup3(fd, int(b), int(c)).into(),
                libc::SYS_fcntl => number::fcntl(fd, int(b), c).into(),
                libc::SYS_close_range => {
                    number::close_range(a as c_uint, b as c_uint, int(c)).into()
                }
                libc::SYS_epoll_ctl => wait::epoll_ctl(fd, int(b), int(c), d as *mut _).into(),
                libc::SYS_epoll_pwait => {
                    wait::epoll_pwait(fd, b as *mut _, int(c), int(d), e as *const _).into()
                }
                _ => next(call, a, b, c, d, e, f),
            }
        };
    }
    next(call, a, b, c, d, e, f)
} }
