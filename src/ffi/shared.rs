//! Shared listeners: those whose clients carry their connections over one session each.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use eversock_dedup::{Accepted, SharedConfig, SharedListener};
use eversock_engine::Config;
use libc::{c_char, c_int, pollfd, size_t, sockaddr, sockaddr_storage, socklen_t};

use crate::ffi::config::{self, evs_config};
use crate::ffi::guard::{self, check, fail};
use crate::ffi::info;
use crate::ffi::pool::{known_flags, numbered, set_blocking};
use crate::ffi::strings::text;
use crate::ffi::{addr, memory, plain, sized};

/// Addresses of one listener.
const ADDRESSES_MAX: usize = 16;
/// Bytes of a service's name.
const SERVICE_MAX: usize = 32;

/// A listener on any number of addresses, whose clients are told that they are one server's;
/// opaque. Owned: free it with evs_shared_free().
///
/// It has a thread of its own, and is its process's alone: in a child of a fork its functions give
/// ESHUTDOWN, and evs_shared_free() frees memory and nothing else.
#[allow(non_camel_case_types, reason = "the name in C")]
#[derive(Debug)]
pub struct evs_shared {
    inner: SharedListener,
    process: u32,
}

/// Whose connection was accepted. New members are added at the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct evs_accepted {
    /// Where the client's end of the session was at first.
    pub peer: sockaddr_storage,
    /// The address that the client has asked for, whichever its session goes over.
    pub requested: sockaddr_storage,
    /// Length of `peer`.
    pub peer_len: socklen_t,
    /// Length of `requested`; 0 if it is not known.
    pub requested_len: socklen_t,
    /// Whether the client has proven a static key; 0 or 1.
    pub has_client_key: i32,
    /// Whether the client may have more connections over this session; 0 or 1.
    pub is_shared: i32,
    /// The static key that the client has proven to have; zeros without one.
    pub client_key: [u8; 32],
    /// The session's id, as `evs ls` shows it.
    pub session: [u8; 16],
    /// The service that it has asked for; empty for none.
    pub service: [c_char; 40],
}

impl std::fmt::Debug for evs_accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("evs_accepted").field("session", &self.session).finish_non_exhaustive()
    }
}

fn storage(addr: Option<SocketAddr>) -> (sockaddr_storage, socklen_t) {
    let (bytes, len) = addr.as_ref().map_or(([0; size_of::<sockaddr_storage>()], 0), addr::encode);
    // SAFETY: of the same size, and any bytes are an address.
    let storage = unsafe { bytes.as_ptr().cast::<sockaddr_storage>().read_unaligned() };
    (storage, len as socklen_t)
}

fn describe(accepted: &Accepted) -> evs_accepted {
    let (peer, peer_len) = storage(Some(accepted.peer));
    let (requested, requested_len) = storage(accepted.requested);
    evs_accepted {
        peer,
        requested,
        peer_len,
        requested_len,
        has_client_key: i32::from(accepted.client_key.is_some()),
        is_shared: i32::from(accepted.is_shared),
        client_key: accepted.client_key.map_or([0; 32], |key| key.0),
        session: accepted.session,
        service: info::text(&accepted.service),
    }
}

/// # Safety
/// `shared` is NULL, or from evs_shared_listen() and not freed.
unsafe fn shared<'a>(shared: *const evs_shared) -> io::Result<&'a SharedListener> {
    // SAFETY: the caller's word.
    match unsafe { shared.as_ref() } {
        // A child's copy has no thread: who asked it would wait for ever.
        Some(shared) if shared.process != std::process::id() => fail(libc::ESHUTDOWN),
        Some(shared) => Ok(&shared.inner),
        None => fail(libc::EFAULT),
    }
}

/// # Safety
/// `addrs` and `lens` are NULL or have `count` elements, and each address is NULL or readable for
/// its length.
unsafe fn addresses(
    addrs: *const *const sockaddr,
    lens: *const socklen_t,
    count: size_t,
) -> io::Result<Vec<SocketAddr>> {
    if count > ADDRESSES_MAX {
        return fail(libc::EINVAL);
    }
    let address = |place: usize| {
        // SAFETY: the caller's word; `place` is below `count`.
        let addr = unsafe { memory::read(addrs.wrapping_add(place))? };
        // SAFETY: as above.
        let len = unsafe { memory::read(lens.wrapping_add(place))? };
        // SAFETY: as above.
        unsafe { addr::read(addr, len, None) }
    };
    (0..count).map(address).collect()
}

/// Listens on all of these addresses, 1 to 16, of IPv4 and IPv6; with port 0, all get the port that
/// the first one gets.
///
/// The pool of a client carries all of its connections to it over one session; a program that uses
/// eversock without a pool has a session of its own for each, which are accepted here as well.
/// Without an identity and a key in `config` the listener makes itself a static key, which lasts as
/// long as it does. `config` is copied, its mode is not regarded; NULL stands for the process's
/// default configuration (evs_set_default_config). Blocks for a moment at most.
///
/// Returns:       a listener, owned by the caller (evs_shared_free), or NULL with errno set.
/// Errors:        those of socket(2) and bind(2); EAFNOSUPPORT (neither IPv4 nor IPv6); EFAULT
///                (NULL); EINVAL (no address, more than 16, or a bad length).
/// Thread safety: any thread; so may the listener be used by any number at a time.
/// Since:         0.1
///
/// # Safety
/// `addrs` and `lens` have `count` elements, and each address is readable for its length; `config`
/// is NULL, or from evs_config_new() and not freed.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn evs_shared_listen(
    addrs: *const *const sockaddr,
    lens: *const socklen_t,
    count: size_t,
    config: *const evs_config,
) -> *mut evs_shared {
    guard::pointer(|| {
        // SAFETY: the caller's word.
        let addrs = unsafe { addresses(addrs, lens, count)? };
        let session = if config.is_null() {
            config::default(false)
        } else {
            // SAFETY: the caller's word.
            unsafe { config::copy(config)? }
        };
        let config = SharedConfig { session: Config::clone(&session), ..SharedConfig::default() };
        let inner = guard::whole(|| SharedListener::bind_with(&addrs, config).map_err(numbered))?;
        Ok(Box::into_raw(Box::new(evs_shared { inner, process: std::process::id() })))
    })
}

/// Ends a listener and all connections of it. NULL is ignored.
///
/// Blocks until what was written is sent, at most 2 s.
///
/// Returns:       0, or -errno.
/// Errors:        ENOTRECOVERABLE.
/// Thread safety: one thread, when no other uses the listener or its descriptor any more.
/// Since:         0.1
///
/// # Safety
/// `shared` is NULL, or from evs_shared_listen() and not yet freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_shared_free(shared: *mut evs_shared) -> c_int {
    guard::status(|| {
        guard::whole(|| {
            if !shared.is_null() {
                // SAFETY: from `Box::into_raw`, once, by the contract.
                drop(unsafe { Box::from_raw(shared) });
            }
            Ok(())
        })
    })
}

/// The descriptor that is readable when there is a connection to accept, for any event loop. Only
/// wait for it: never read, write or close it. Never blocks.
///
/// Returns:       the descriptor, borrowed until evs_shared_free(), or -errno.
/// Errors:        EFAULT (NULL); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `shared` is from evs_shared_listen() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_shared_fd(shared: *const evs_shared) -> c_int {
    let mut number = -1;
    let status = guard::status(|| {
        // SAFETY: the caller's word.
        number = unsafe { self::shared(shared)? }.as_fd().as_raw_fd();
        Ok(())
    });
    if status < 0 { status } else { number }
}

/// Tells where a shared listener listens: the address of this index, counted from 0 in the order in
/// which they were given. Never blocks.
///
/// As much of it is stored as `*len` has room for, and its whole length in `*len`.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EINVAL (a negative length); ENOENT (no such address); ESHUTDOWN (a
///                child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `shared` is from evs_shared_listen() and not freed; `len` is valid and `addr` writable for
/// `*len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_shared_addr(
    shared: *const evs_shared,
    index: size_t,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    guard::status(|| {
        // SAFETY: the caller's word.
        let shared = unsafe { self::shared(shared)? };
        let Some(local) = shared.local_addrs().get(index) else { return fail(libc::ENOENT) };
        // SAFETY: the caller's word.
        unsafe { addr::write(Some(*local), addr, len) }
    })
}

/// Accepts a connection: an ordinary stream socket, as evs_pool_connect() gives.
///
/// Waits for one, and is a cancellation point then. With SOCK_NONBLOCK in `flags` it does not wait,
/// and the new descriptor does not block either; with SOCK_CLOEXEC that is closed on exec. `out`
/// may be NULL; `size` is `sizeof(struct evs_accepted)` as the program was compiled (an older
/// program gets the members that it knows, a newer one zeros), and with NULL it is not regarded.
///
/// Returns:       a descriptor, owned by the caller (close or evs_close), or -1 with errno set.
/// Errors:        EAGAIN (SOCK_NONBLOCK, and there is none); EFAULT (NULL); EINTR; EINVAL (flags,
///                or `size` is 0); EMFILE, ENFILE (nothing is lost); ESHUTDOWN (the listener's
///                thread has ended, or this is a child of a fork).
/// Thread safety: any thread; several may wait on one listener.
/// Since:         0.1
///
/// # Safety
/// `shared` is from evs_shared_listen() and not freed; `out` is NULL or writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn evs_shared_accept(
    shared: *mut evs_shared,
    flags: c_int,
    out: *mut evs_accepted,
    size: size_t,
) -> c_int {
    guard::sleeping(|| {
        // SAFETY: the caller's word.
        let shared = unsafe { self::shared(shared)? };
        known_flags(flags)?;
        loop {
            let taken = guard::whole(|| {
                let mut room = None;
                if !out.is_null() {
                    // SAFETY: the caller's word.
                    room = Some(unsafe { sized::room(out, size)? });
                }
                take(shared, flags, room)
            });
            match taken {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                result => return result,
            }
            if flags & libc::SOCK_NONBLOCK != 0 {
                return fail(libc::EAGAIN);
            }
            let fd = shared.as_fd().as_raw_fd();
            let mut ready = pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, which is valid. The thread may be cancelled here, with nothing
            // taken and nothing of ours to be dropped.
            check(unsafe { plain::poll(&raw mut ready, 1, -1) })?;
        }
    })
}

/// One connection if there is one. Its number is there before it is taken: none is taken and lost.
fn take(shared: &SharedListener, flags: c_int, out: Option<&mut [u8]>) -> io::Result<c_int> {
    let bell = shared.as_fd().as_raw_fd();
    // SAFETY: takes no pointers; the descriptor is open.
    let number = check(unsafe { libc::fcntl(bell, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: made just now, and nobody else's.
    let place = unsafe { OwnedFd::from_raw_fd(number) };
    let (stream, about) = shared.try_accept().map_err(numbered)?;
    set_blocking(stream.as_fd(), flags)?;
    let cloexec = if flags & libc::SOCK_CLOEXEC != 0 { libc::O_CLOEXEC } else { 0 };
    // SAFETY: takes no pointers; both descriptors are ours and open.
    check(unsafe { libc::dup3(stream.as_raw_fd(), place.as_raw_fd(), cloexec) })?;
    if let Some(out) = out {
        // SAFETY: integers and addresses without padding (`abi_layout.c`).
        unsafe { sized::store(&describe(&about), out)? };
    }
    Ok(std::os::fd::IntoRawFd::into_raw_fd(place))
}

/// Tells all clients, now and when they connect next, at which addresses this server can be
/// reached, in place of those that they were told before; 0 to 16. Addresses that it does not
/// listen on itself (those of a NAT, say) may be among them.
///
/// Returns:       0, or -errno.
/// Errors:        EAFNOSUPPORT (neither IPv4 nor IPv6); EFAULT (NULL); EINVAL (more than 16, or a
///                bad length); ESHUTDOWN (the listener's thread has ended, or this is a child).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `shared` is from evs_shared_listen() and not freed; `addrs` and `lens` have `count` elements,
/// and each address is readable for its length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_shared_announce(
    shared: *mut evs_shared,
    addrs: *const *const sockaddr,
    lens: *const socklen_t,
    count: size_t,
) -> c_int {
    guard::status(|| {
        // SAFETY: the caller's word.
        let shared = unsafe { self::shared(shared)? };
        // SAFETY: as above.
        let addrs = unsafe { addresses(addrs, lens, count)? };
        guard::whole(|| shared.announce(&addrs).map_err(numbered))
    })
}

/// Takes no more connections on the sessions that there are: clients open others for new ones, and
/// each session ends with its last connection. `code` is for their logs. Never blocks.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `shared` is from evs_shared_listen() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_shared_go_away(shared: *mut evs_shared, code: u32) -> c_int {
    guard::status(|| {
        // SAFETY: the caller's word.
        let shared = unsafe { self::shared(shared)? };
        guard::whole(|| {
            shared.go_away(code);
            Ok(())
        })
    })
}

/// Says that connections for this service are elsewhere (`on` is not 0), or here again: clients try
/// once more on a session of its own. Never blocks.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EILSEQ (not UTF-8); EINVAL (more than 32 bytes); ESHUTDOWN (a
///                child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `shared` is from evs_shared_listen() and not freed; `service` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_shared_misdirect(
    shared: *mut evs_shared,
    service: *const c_char,
    on: c_int,
) -> c_int {
    guard::status(|| {
        // SAFETY: the caller's word.
        let shared = unsafe { self::shared(shared)? };
        if service.is_null() {
            return fail(libc::EFAULT);
        }
        // SAFETY: the caller's word.
        let service = unsafe { text(service)? };
        if service.len() > SERVICE_MAX {
            return fail(libc::EINVAL);
        }
        guard::whole(|| {
            shared.misdirect(&service, on != 0);
            Ok(())
        })
    })
}
