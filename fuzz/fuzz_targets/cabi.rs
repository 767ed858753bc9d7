//! The C ABI: any call with any arguments that C could pass without undefined behaviour, in any
//! order, on virtual sockets of all kinds. Nothing may crash, hang or touch other memory.
#![no_main]

use std::ffi::c_void;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use arbitrary::Arbitrary;
use eversock as _;
use libc::{c_int, iovec, msghdr, pollfd, sockaddr, sockaddr_in, socklen_t};
use libfuzzer_sys::fuzz_target;

unsafe extern "C" {
    fn evs_socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn evs_posix_socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn evs_bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
    fn evs_connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
    fn evs_listen(fd: c_int, backlog: c_int) -> c_int;
    fn evs_accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int;
    fn evs_shutdown(fd: c_int, how: c_int) -> c_int;
    fn evs_close(fd: c_int) -> c_int;
    fn evs_dup(fd: c_int) -> c_int;
    fn evs_getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int;
    fn evs_getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int;
    fn evs_send(fd: c_int, data: *const c_void, len: usize, flags: c_int) -> isize;
    fn evs_recv(fd: c_int, data: *mut c_void, len: usize, flags: c_int) -> isize;
    fn evs_sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> isize;
    fn evs_recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> isize;
    fn evs_readv(fd: c_int, vectors: *const iovec, count: c_int) -> isize;
    fn evs_writev(fd: c_int, vectors: *const iovec, count: c_int) -> isize;
    fn evs_poll(fds: *mut pollfd, count: libc::nfds_t, timeout: c_int) -> c_int;
    fn evs_setsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *const c_void,
        len: socklen_t,
    ) -> c_int;
    fn evs_getsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *mut c_void,
        len: *mut socklen_t,
    ) -> c_int;
    fn evs_fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn evs_ioctl(fd: c_int, request: libc::c_ulong, ...) -> c_int;
}

/// Which of the sockets that the input has made; or a number that is none.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Which {
    Made(u8),
    Negative(i16),
    Beyond(u16),
}

#[derive(Arbitrary, Debug)]
enum Call {
    Socket { direct: bool, domain: u8, kind: u8, protocol: u8 },
    Pair { direct: bool },
    Bind(Which, Vec<u8>),
    Connect(Which, Option<Which>, Vec<u8>),
    Listen(Which, i32),
    Accept(Which, u8, i32),
    Shutdown(Which, i8),
    Close(Which),
    Dup(Which),
    Names(Which, u8),
    Send(Which, Vec<u8>, i32),
    SendMuch(Which, u16),
    Recv(Which, u16, i32),
    Null(Which, u16, i32),
    SendMessage(Which, Vec<Vec<u8>>, i32),
    RecvMessage(Which, Vec<u8>, i32),
    Vectors(Which, Vec<u8>, i16),
    Poll(Vec<(Which, i16)>, u8),
    Set(Which, u8, u8, Vec<u8>),
    Get(Which, u8, u8, u8),
    Control(Which, u8, i32),
    Ioctl(Which, bool),
}

/// What this input has open.
#[derive(Default)]
struct Open(Vec<c_int>);

impl Open {
    fn number(&self, which: Which) -> c_int {
        match which {
            Which::Made(at) if !self.0.is_empty() => self.0[usize::from(at) % self.0.len()],
            Which::Made(_) => -1,
            Which::Negative(n) => -i32::from(n.unsigned_abs()) - 1,
            Which::Beyond(n) => 1_000_000 + i32::from(n),
        }
    }

    fn add(&mut self, number: c_int) {
        if number >= 0 {
            self.0.push(number);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        for &number in &self.0 {
            // SAFETY: any number may be closed.
            unsafe { evs_close(number) };
        }
    }
}

fn loopback() -> sockaddr_in {
    // SAFETY: all zeros is an address.
    let mut addr: sockaddr_in = unsafe { std::mem::zeroed() };
    addr.sin_family = libc::AF_INET as libc::sa_family_t;
    addr.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    addr
}

const ADDR_LEN: socklen_t = size_of::<sockaddr_in>() as socklen_t;
/// Nothing blocks: a call that sleeps would only show that it does.
const FLAGS: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
const LEVELS: [c_int; 5] =
    [libc::SOL_SOCKET, libc::IPPROTO_TCP, libc::IPPROTO_IP, libc::IPPROTO_IPV6, 77];

/// A connected pair and its listener.
fn pair(open: &mut Open, direct: bool) {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let make = if direct { evs_posix_socket } else { evs_socket };
    let mut addr = loopback();
    let mut len = ADDR_LEN;
    let at = (&raw mut addr).cast::<sockaddr>();
    // SAFETY: the address is valid for its length in all of them.
    unsafe {
        let listener = make(libc::AF_INET, kind, 0);
        evs_bind(listener, at, ADDR_LEN);
        evs_listen(listener, 4);
        evs_getsockname(listener, at, &raw mut len);
        let client = make(libc::AF_INET, kind, 0);
        evs_connect(client, at, ADDR_LEN);
        let mut fds = pollfd { fd: listener, events: libc::POLLIN, revents: 0 };
        evs_poll(&raw mut fds, 1, 1000);
        let server = evs_accept4(
            listener,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        );
        for number in [listener, client, server] {
            open.add(number);
        }
    }
}

fn run(open: &mut Open, call: Call) {
    let null = std::ptr::null_mut::<c_void>();
    // SAFETY: every pointer is null or valid for the length that goes with it.
    unsafe {
        match call {
            Call::Socket { direct, domain, kind, protocol } => {
                let make = if direct { evs_posix_socket } else { evs_socket };
                let kind = c_int::from(kind % 8) | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                let domain = if domain < 200 { libc::AF_INET } else { c_int::from(domain % 50) };
                open.add(make(domain, kind, c_int::from(protocol % 20)));
            }
            Call::Pair { direct } => pair(open, direct),
            Call::Bind(which, bytes) => {
                evs_bind(open.number(which), bytes.as_ptr().cast(), bytes.len() as socklen_t);
            }
            Call::Connect(which, to, bytes) => {
                let mut addr = loopback();
                let mut len = ADDR_LEN;
                match to {
                    Some(to) => {
                        let at = (&raw mut addr).cast();
                        evs_getsockname(open.number(to), at, &raw mut len);
                        // Nothing but this machine is ever dialled.
                        addr.sin_addr.s_addr = loopback().sin_addr.s_addr;
                        evs_connect(open.number(which), (&raw const addr).cast(), ADDR_LEN);
                    }
                    None => {
                        let short = bytes.len().min(7);
                        let at = bytes.as_ptr().cast();
                        evs_connect(open.number(which), at, short as socklen_t);
                    }
                }
            }
            Call::Listen(which, backlog) => {
                evs_listen(open.number(which), backlog);
            }
            Call::Accept(which, room, flags) => {
                let mut out = [0u8; 256];
                let mut len = socklen_t::from(room);
                let flags = flags | libc::SOCK_NONBLOCK;
                let number = open.number(which);
                open.add(evs_accept4(number, out.as_mut_ptr().cast(), &raw mut len, flags));
            }
            Call::Shutdown(which, how) => {
                evs_shutdown(open.number(which), c_int::from(how));
            }
            Call::Close(which) => {
                let number = open.number(which);
                open.0.retain(|&other| other != number);
                evs_close(number);
            }
            Call::Dup(which) => {
                let number = open.number(which);
                open.add(evs_dup(number));
            }
            Call::Names(which, room) => {
                let mut out = [0u8; 256];
                let mut len = socklen_t::from(room);
                evs_getsockname(open.number(which), out.as_mut_ptr().cast(), &raw mut len);
                len = socklen_t::from(room);
                evs_getpeername(open.number(which), out.as_mut_ptr().cast(), &raw mut len);
                assert!(out[usize::from(room)..].iter().all(|&byte| byte == 0), "beyond the room");
            }
            Call::Send(which, bytes, flags) => {
                evs_send(open.number(which), bytes.as_ptr().cast(), bytes.len(), flags | FLAGS);
            }
            Call::SendMuch(which, times) => {
                let bytes = [0x5A; 16 * 1024];
                for _ in 0..times % 64 {
                    evs_send(open.number(which), bytes.as_ptr().cast(), bytes.len(), FLAGS);
                }
            }
            Call::Recv(which, room, flags) => {
                let mut out = vec![0u8; usize::from(room)];
                let flags = flags & !libc::MSG_TRUNC | libc::MSG_DONTWAIT;
                let at = out.as_mut_ptr().cast();
                let n = evs_recv(open.number(which), at, out.len(), flags);
                assert!(n <= out.len() as isize);
            }
            Call::Null(which, len, flags) => {
                let number = open.number(which);
                evs_send(number, null, usize::from(len), flags | FLAGS);
                evs_recv(number, null, usize::from(len), flags | libc::MSG_DONTWAIT);
                evs_sendmsg(number, std::ptr::null(), flags | FLAGS);
                evs_recvmsg(number, std::ptr::null_mut(), flags | libc::MSG_DONTWAIT);
                evs_getsockname(number, std::ptr::null_mut(), std::ptr::null_mut());
                evs_connect(number, std::ptr::null(), socklen_t::from(len));
                evs_bind(number, std::ptr::null(), socklen_t::from(len));
                evs_poll(std::ptr::null_mut(), libc::nfds_t::from(len), 0);
                evs_setsockopt(number, libc::SOL_SOCKET, flags, null, socklen_t::from(len));
                evs_getsockopt(number, libc::SOL_SOCKET, flags, null, std::ptr::null_mut());
            }
            Call::SendMessage(which, parts, flags) => {
                let mut vectors: Vec<iovec> = parts
                    .iter()
                    .map(|part| iovec {
                        iov_base: part.as_ptr().cast_mut().cast(),
                        iov_len: part.len(),
                    })
                    .collect();
                let mut message: msghdr = std::mem::zeroed();
                message.msg_iov = vectors.as_mut_ptr();
                message.msg_iovlen = vectors.len();
                evs_sendmsg(open.number(which), &raw const message, flags | FLAGS);
                MAY_PIPE.store(true, Ordering::SeqCst);
                evs_writev(open.number(which), vectors.as_ptr(), vectors.len() as c_int);
                MAY_PIPE.store(false, Ordering::SeqCst);
            }
            Call::RecvMessage(which, rooms, flags) => {
                let mut parts: Vec<Vec<u8>> =
                    rooms.iter().map(|&room| vec![0; usize::from(room)]).collect();
                let mut vectors: Vec<iovec> = parts
                    .iter_mut()
                    .map(|part| iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() })
                    .collect();
                let mut control = [0u8; 64];
                let mut message: msghdr = std::mem::zeroed();
                message.msg_iov = vectors.as_mut_ptr();
                message.msg_iovlen = vectors.len();
                message.msg_control = control.as_mut_ptr().cast();
                message.msg_controllen = control.len();
                let flags = flags & !libc::MSG_TRUNC | libc::MSG_DONTWAIT;
                evs_recvmsg(open.number(which), &raw mut message, flags);
            }
            Call::Vectors(which, bytes, count) => {
                let mut out = bytes;
                let one = iovec { iov_base: out.as_mut_ptr().cast(), iov_len: out.len() };
                let vectors = vec![one; usize::from(count.unsigned_abs()).min(2000)];
                // A count that is negative or too large is refused before any is looked at.
                let count = if count < 0 { -1 } else { vectors.len() as c_int };
                MAY_PIPE.store(true, Ordering::SeqCst);
                evs_writev(open.number(which), vectors.as_ptr(), count);
                MAY_PIPE.store(false, Ordering::SeqCst);
                evs_readv(open.number(which), vectors.as_ptr(), count);
            }
            Call::Poll(list, timeout) => {
                let mut fds: Vec<pollfd> = list
                    .iter()
                    .map(|&(which, events)| pollfd { fd: open.number(which), events, revents: -1 })
                    .collect();
                let count = fds.len() as libc::nfds_t;
                let ready = evs_poll(fds.as_mut_ptr(), count, c_int::from(timeout % 4));
                assert!(ready <= fds.len() as c_int);
            }
            Call::Set(which, level, name, value) => {
                let level = LEVELS[usize::from(level) % LEVELS.len()];
                let (name, len) = (c_int::from(name), value.len() as socklen_t);
                if is_harmless(level, name) {
                    let at = value.as_ptr().cast();
                    evs_setsockopt(open.number(which), level, name, at, len);
                }
            }
            Call::Get(which, level, name, room) => {
                let level = LEVELS[usize::from(level) % LEVELS.len()];
                let mut out = [0u8; 256];
                let mut len = socklen_t::from(room);
                let at = out.as_mut_ptr().cast();
                evs_getsockopt(open.number(which), level, c_int::from(name), at, &raw mut len);
                assert!(out[usize::from(room)..].iter().all(|&byte| byte == 0), "beyond the room");
            }
            Call::Control(which, command, argument) => {
                let commands = [libc::F_GETFL, libc::F_GETFD, libc::F_SETFD, 9999];
                let command = commands[usize::from(command) % commands.len()];
                evs_fcntl(open.number(which), command, argument);
            }
            Call::Ioctl(which, unsent) => {
                let mut out: c_int = 0;
                let request = if unsent { libc::TIOCOUTQ } else { libc::FIONREAD };
                evs_ioctl(open.number(which), request, &raw mut out);
            }
        }
    }
}

/// Left out: what would make a later call block for as long as it is told to.
fn is_harmless(level: c_int, name: c_int) -> bool {
    level != libc::SOL_SOCKET
        || !matches!(name, libc::SO_LINGER | libc::SO_RCVTIMEO | libc::SO_SNDTIMEO)
}

/// Up while a call runs that may raise SIGPIPE, as its man page says.
static MAY_PIPE: AtomicBool = AtomicBool::new(false);

extern "C" fn on_sigpipe(_: c_int) {
    if !MAY_PIPE.load(Ordering::SeqCst) {
        std::process::abort();
    }
}

fuzz_target!(|calls: Vec<Call>| {
    static HANDLER: Once = Once::new();
    let handler = on_sigpipe as extern "C" fn(c_int);
    // SAFETY: the handler only reads a word.
    HANDLER.call_once(|| unsafe {
        libc::signal(libc::SIGPIPE, handler as libc::sighandler_t);
    });
    let mut open = Open::default();
    for call in calls.into_iter().take(64) {
        if open.0.len() < 32 {
            run(&mut open, call);
        }
    }
});
