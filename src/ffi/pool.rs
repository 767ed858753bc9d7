//! Pools: connections that share a session wherever they go to the same server.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use eversock_dedup::{ConnectOptions, Pool, PooledStream};
use eversock_engine::posix;
use libc::{c_char, c_int, size_t, sockaddr, socklen_t};

use crate::ffi::guard::{self, check, fail};
use crate::ffi::pool_config::{self, evs_pool_config};
use crate::ffi::strings::{some_text, text};
use crate::ffi::{addr, memory, sized};

/// A pool of sessions, each to one server, whatever addresses it is called by; opaque. Owned: free
/// it with evs_pool_free().
///
/// It has no thread and no descriptor before the first connect, then one thread. A child of a fork
/// has a pool without sessions; the connections that it has inherited are its parent's to carry.
#[allow(non_camel_case_types, reason = "the name in C")]
#[derive(Debug)]
pub struct evs_pool {
    pub(super) inner: Pool,
}

/// What can be set about one connection of a pool; begin with all zeros, which are the defaults.
/// Borrowed for the call. New members are added at the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct evs_pool_options {
    /// The service's name at a server that has several behind one port, at most 32 bytes; NULL for
    /// none.
    pub service: *const c_char,
    /// Connections of other tags never share a session with this one; NULL for none.
    pub tag: *const c_char,
    /// Whose connection it is, for the table; NULL for none.
    pub application: *const c_char,
    /// The network device to use, as SO_BINDTODEVICE; NULL for any.
    pub device: *const c_char,
    /// The local address to use; NULL for any. Its port is not regarded.
    pub source: *const sockaddr,
    /// Where to store the number under which the table has the connection; NULL for nowhere.
    pub management: *mut u64,
    /// Length of `source`; not regarded if that is NULL.
    pub source_len: socklen_t,
    /// How long to wait, in milliseconds; 0 for the session's time to connect
    /// (evs_config_set_connect_timeout) and a second.
    pub timeout_ms: i32,
    /// SOCK_CLOEXEC and SOCK_NONBLOCK, for the descriptor; the call itself waits in any case.
    pub flags: i32,
    /// 0.
    pub reserved: i32,
}

/// # Safety
/// `pool` is NULL, or from evs_pool_new() and not freed.
pub(super) unsafe fn pool<'a>(pool: *const evs_pool) -> io::Result<&'a Pool> {
    // SAFETY: the caller's word.
    match unsafe { pool.as_ref() } {
        Some(pool) => Ok(&pool.inner),
        None => fail(libc::EFAULT),
    }
}

/// An error of the crate below as one with a number.
pub(super) fn numbered(error: io::Error) -> io::Error {
    guard::numbered(&error)
}

/// The same for a call that looks up a name, whose errors have no number.
fn numbered_by_name(error: io::Error) -> io::Error {
    let is_told = error.raw_os_error().is_some() || posix::error_number(&error) != libc::EIO;
    let numbered = numbered(error);
    if !is_told && numbered.raw_os_error() == Some(libc::EIO) {
        return io::Error::from_raw_os_error(libc::ENOENT);
    }
    numbered
}

/// The flags that a descriptor may be given with.
pub(super) fn known_flags(flags: c_int) -> io::Result<()> {
    let known = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    if flags & !known == 0 { Ok(()) } else { fail(libc::EINVAL) }
}

/// Makes a descriptor non-blocking if the flags ask for it.
pub(super) fn set_blocking(fd: BorrowedFd<'_>, flags: c_int) -> io::Result<()> {
    if flags & libc::SOCK_NONBLOCK != 0 {
        // SAFETY: takes no pointers; the descriptor is open.
        let before = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
        let flags = before | libc::O_NONBLOCK;
        // SAFETY: as above.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) })?;
    }
    Ok(())
}

const NO_OPTIONS: evs_pool_options = evs_pool_options {
    service: std::ptr::null(),
    tag: std::ptr::null(),
    application: std::ptr::null(),
    device: std::ptr::null(),
    source: std::ptr::null(),
    management: std::ptr::null_mut(),
    source_len: 0,
    timeout_ms: 0,
    flags: 0,
    reserved: 0,
};

/// # Safety
/// What `given` points to is as [`evs_pool_options`] has it.
unsafe fn options(given: &evs_pool_options) -> io::Result<ConnectOptions> {
    known_flags(given.flags)?;
    if given.reserved != 0 {
        return fail(libc::EINVAL);
    }
    let Ok(timeout) = u64::try_from(given.timeout_ms) else { return fail(libc::EINVAL) };
    // SAFETY: the caller's word, here and below.
    let device = unsafe { text(given.device)? };
    let source = if given.source.is_null() {
        None
    } else {
        // SAFETY: as above.
        Some(unsafe { addr::read(given.source, given.source_len, None)? }.ip())
    };
    Ok(ConnectOptions {
        // SAFETY: as above.
        service: unsafe { text(given.service)? },
        // SAFETY: as above.
        tag: unsafe { text(given.tag)? },
        // SAFETY: as above.
        application: unsafe { text(given.application)? },
        device: (!device.is_empty()).then_some(device),
        source,
        timeout: (timeout > 0).then(|| Duration::from_millis(timeout)),
    })
}

/// Connects, and gives the program a descriptor of its own: of the lowest number, as any other.
///
/// # Safety
/// `given` is NULL or readable for `size` bytes, and what it points to is as it says.
unsafe fn connect(
    given: *const evs_pool_options,
    size: size_t,
    connect: impl FnOnce(&ConnectOptions) -> io::Result<PooledStream>,
) -> io::Result<c_int> {
    guard::whole(|| {
        let given = if given.is_null() {
            NO_OPTIONS
        } else {
            // SAFETY: the caller's word; pointers and numbers without padding (`abi_layout.c`).
            unsafe { sized::load(given, size, NO_OPTIONS)? }
        };
        // SAFETY: the caller's word.
        let options = unsafe { options(&given)? };
        let stream = connect(&options)?;
        set_blocking(stream.as_fd(), given.flags)?;
        if !given.management.is_null() {
            // SAFETY: the caller's word.
            unsafe { memory::write(given.management, stream.management())? };
        }
        let is_cloexec = given.flags & libc::SOCK_CLOEXEC != 0;
        let command = if is_cloexec { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
        // SAFETY: takes no pointers; the descriptor is open.
        check(unsafe { libc::fcntl(stream.as_raw_fd(), command, 0) })
    })
}

/// Makes a pool.
///
/// `config` is copied; NULL stands for the defaults, with sessions of the process's default
/// configuration (evs_set_default_config). Never blocks.
///
/// Returns:       a pool, owned by the caller (evs_pool_free); NULL with errno set on failure.
/// Errors:        ENOTRECOVERABLE.
/// Thread safety: any thread; so may the pool be used by any number at a time.
/// Since:         0.1
///
/// # Safety
/// `config` is NULL, or from evs_pool_config_new() and not freed.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn evs_pool_new(config: *const evs_pool_config) -> *mut evs_pool {
    guard::pointer(|| {
        // SAFETY: the caller's word.
        let inner = Pool::new(unsafe { pool_config::copy(config) }).map_err(numbered)?;
        Ok(Box::into_raw(Box::new(evs_pool { inner })))
    })
}

/// Ends a pool and all connections of it: close them first. NULL is ignored.
///
/// Blocks until what was written is sent, at most 2 s.
///
/// Returns:       0, or -errno.
/// Errors:        ENOTRECOVERABLE.
/// Thread safety: one thread, when no other uses the pool any more.
/// Since:         0.1
///
/// # Safety
/// `pool` is NULL, or from evs_pool_new() and not yet freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_free(pool: *mut evs_pool) -> c_int {
    guard::status(|| {
        guard::whole(|| {
            if !pool.is_null() {
                // SAFETY: from `Box::into_raw`, once, by the contract.
                drop(unsafe { Box::from_raw(pool) });
            }
            Ok(())
        })
    })
}

/// Connects to a server by name or address, over a session that there is to it if there is one.
///
/// The descriptor is an ordinary stream socket: any call, those of this header too, and any event
/// loop works on it, it passes fork and exec, and each direction ends by itself (shutdown). The
/// names that getsockname() and getpeername() give are those of the pair that joins it to the pool;
/// evs_pool_rows() has the server's. evs_is_virtual() is 0 for it: session calls are not for it.
///
/// `port` is a decimal number. `options` may be NULL; `size` is `sizeof(struct evs_pool_options)`
/// as the program was compiled, members that it does not reach are zero, and with NULL it is not
/// regarded. Blocks until the connection stands; signals and cancellation do not end it.
///
/// Returns:       a descriptor, owned by the caller (close or evs_close), or -1 with errno set.
/// Errors:        those of connect(2); EACCES (keys differ); EAGAIN (as many sessions as there may
///                be); E2BIG (options are set that this library does not know); EFAULT (`pool`,
///                `host` or `port` is NULL); EILSEQ (not UTF-8); EINVAL (port, options); ENOENT (no
///                such name); ETIMEDOUT.
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `pool` is from evs_pool_new() and not freed; `host` and `port` are strings; `options` is NULL or
/// readable for `size` bytes, and its pointers are what they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_connect(
    pool: *mut evs_pool,
    host: *const c_char,
    port: *const c_char,
    options: *const evs_pool_options,
    size: size_t,
) -> c_int {
    guard::posix(|| {
        // SAFETY: the caller's word.
        let pool = unsafe { self::pool(pool)? };
        // SAFETY: as above.
        let (host, port) = unsafe { (some_text(host)?, some_text(port)?) };
        let Ok(port) = port.parse::<u16>() else { return fail(libc::EINVAL) };
        let go = |options: &ConnectOptions| {
            pool.connect_host(&host, port, options).map_err(numbered_by_name)
        };
        // SAFETY: the caller's word.
        unsafe { connect(options, size, go) }
    })
}

/// evs_pool_connect() by an address of IPv4 or IPv6.
///
/// Returns:       a descriptor, owned by the caller (close or evs_close), or -1 with errno set.
/// Errors:        those of evs_pool_connect(); EAFNOSUPPORT (another family).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `pool` is from evs_pool_new() and not freed; `addr` is readable for `len` bytes; `options` is
/// NULL or readable for `size` bytes, and its pointers are what they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_connect_addr(
    pool: *mut evs_pool,
    addr: *const sockaddr,
    len: socklen_t,
    options: *const evs_pool_options,
    size: size_t,
) -> c_int {
    guard::posix(|| {
        // SAFETY: the caller's word.
        let pool = unsafe { self::pool(pool)? };
        // SAFETY: as above.
        let addr = unsafe { addr::read(addr, len, None)? };
        let go = |options: &ConnectOptions| pool.connect_with(addr, options).map_err(numbered);
        // SAFETY: the caller's word.
        unsafe { connect(options, size, go) }
    })
}

/// Moves the session of a connection to this address of its server, beside the connection that
/// stands. Does not wait for the outcome; evs_pool_rows() shows it.
///
/// `management` is the connection's number in the table.
///
/// Returns:       0, or -errno.
/// Errors:        EAFNOSUPPORT (neither IPv4 nor IPv6); EALREADY (a dial is under way); EFAULT
///                (NULL); EINVAL (length); ENOENT (no such connection).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `pool` is from evs_pool_new() and not freed; `addr` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_migrate(
    pool: *mut evs_pool,
    management: u64,
    addr: *const sockaddr,
    len: socklen_t,
) -> c_int {
    guard::status(|| {
        // SAFETY: the caller's word.
        let (pool, addr) = unsafe { (self::pool(pool)?, addr::read(addr, len, None)?) };
        guard::whole(|| pool.migrate(management, addr).map_err(numbered))
    })
}

/// Forgets which addresses belong to which server: the network is another one. The connections
/// that there are stay; evs_network_changed() is about their lines. Never blocks.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `pool` is from evs_pool_new() and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_pool_network_changed(pool: *mut evs_pool) -> c_int {
    guard::status(|| {
        // SAFETY: the caller's word.
        let pool = unsafe { self::pool(pool)? };
        guard::whole(|| {
            pool.network_changed();
            Ok(())
        })
    })
}
