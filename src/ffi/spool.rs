//! The sender's side of spool failover.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use eversock_spool::limits::{DEADLINE_MAX, KEY_MAX, PAYLOAD_MAX};
use eversock_spool::sender::{Sender, SenderConfig};
use eversock_spool::{Kind, Outcome, Reason, Request, RequestId};
use libc::{c_char, c_int, c_void, size_t};

use crate::ffi::config::{UserData, evs_config};
use crate::ffi::edge::{self, Callback, Owned, refuse};
use crate::ffi::spool_outcome::{Lent, Room, evs_spool_outcome};
use crate::ffi::strings::some_text;
use crate::ffi::{memory, sized};

/// Asks a pair of servers through their front; opaque. Owned: end it with evs_spool_close().
///
/// It has a few threads of its own, and is its process's alone: in a child of a fork its functions
/// give ESHUTDOWN, and evs_spool_close() does nothing.
#[allow(non_camel_case_types, reason = "the name in C")]
pub struct evs_spool {
    sender: Owned<Sender>,
}

impl std::fmt::Debug for evs_spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("evs_spool").finish_non_exhaustive()
    }
}

/// How to ask; begin with all zeros, which are the defaults. Borrowed for the call. New members are
/// added at the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct evs_spool_config {
    /// Of the virtual socket, keys among it; its mode is not regarded. Its grace is how long one
    /// front is waited for before the next one is asked, its connect timeout how long
    /// evs_spool_close() may take. NULL for the process's default configuration with a grace of
    /// 10 s and a connect timeout of 5 s.
    pub session: *const evs_config,
    /// Bytes of requests without an answer, at most; one request goes always. 0 for 64 MiB.
    pub bytes_in_flight_max: u64,
    /// Requests without an answer, at most. 0 for 256.
    pub in_flight_max: u32,
    /// The longest first wait between attempts to connect, in milliseconds. 0 for 100.
    pub back_off_first_ms: u32,
    /// The longest wait of all between them. 0 for 5,000.
    pub back_off_max_ms: u32,
    /// 1: requests that are rejected with a time to come back are not asked again by the library
    /// itself. 0: they are, within their deadline.
    pub no_retry: i32,
}

/// One request. Borrowed for the call. New members are added at the end, and 0 by default.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct evs_spool_task {
    /// The same in each retry: under one id a request takes effect once. Not all zeros.
    pub id: [u8; 16],
    /// What it does something to; requests of one key take effect in the order in which they were
    /// acknowledged.
    pub key: *const c_void,
    /// Bytes of it, at most 4,096.
    pub key_len: size_t,
    /// The backend's own.
    pub payload: *const c_void,
    /// Bytes of it, at most 32 MiB.
    pub payload_len: size_t,
    /// How long it may take, in milliseconds, 1 to 86,400,000: there is an outcome by then.
    pub deadline_ms: u32,
    /// EVS_SPOOL_WRITE to EVS_SPOOL_SEARCH, or from EVS_SPOOL_CUSTOM on.
    pub kind: u32,
}

/// Is told what became of a request, once. `outcome` is borrowed until it returns.
///
/// Runs on a thread of the library, or on the one that is in evs_spool_close(). Others wait for it:
/// it should not block. It may call evs_spool_submit(), but neither evs_spool_request(),
/// evs_spool_fetch() nor evs_spool_close(), which give EDEADLK. It has to return: no exception, no
/// longjmp, no pthread_exit.
#[allow(non_camel_case_types, reason = "the name in C")]
pub type evs_spool_done_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, outcome: *const evs_spool_outcome)>;

const DEFAULTS: evs_spool_config = evs_spool_config {
    session: std::ptr::null(),
    bytes_in_flight_max: 0,
    in_flight_max: 0,
    back_off_first_ms: 0,
    back_off_max_ms: 0,
    no_retry: 0,
};

const NO_REQUEST: evs_spool_task = evs_spool_task {
    id: [0; 16],
    key: std::ptr::null(),
    key_len: 0,
    payload: std::ptr::null(),
    payload_len: 0,
    deadline_ms: 0,
    kind: 0,
};

/// # Safety
/// `given` is NULL or readable for `size` bytes, and what it points to is as it says.
unsafe fn config(given: *const evs_spool_config, size: size_t) -> io::Result<SenderConfig> {
    let given = if given.is_null() {
        DEFAULTS
    } else {
        // SAFETY: the caller's word; pointers and numbers without padding (`abi_layout.c`).
        unsafe { sized::load(given, size, DEFAULTS)? }
    };
    if !(0..=1).contains(&given.no_retry) {
        return refuse(libc::EINVAL, "no_retry is neither 0 nor 1");
    }
    let usual = SenderConfig::default();
    // SAFETY: the caller's word.
    let socket = unsafe { edge::session(given.session)? };
    let (grace, connect_timeout) = (usual.socket.grace, usual.socket.connect_timeout);
    let socket = socket.unwrap_or_else(|| eversock_engine::Config {
        grace,
        grace_after_close: grace,
        connect_timeout,
        ..edge::default_session()
    });
    let or = |given: u32, usual: Duration| match given {
        0 => usual,
        given => Duration::from_millis(given.into()),
    };
    let (first, most) = usual.back_off;
    let first = or(given.back_off_first_ms, first);
    Ok(SenderConfig {
        socket,
        retry: given.no_retry == 0,
        in_flight_max: match given.in_flight_max {
            0 => usual.in_flight_max,
            given => given as usize,
        },
        bytes_in_flight_max: match given.bytes_in_flight_max {
            0 => usual.bytes_in_flight_max,
            given => usize::try_from(given).unwrap_or(usize::MAX),
        },
        back_off: (first, or(given.back_off_max_ms, most).max(first)),
    })
}

/// # Safety
/// `given` is NULL or readable for `size` bytes, and what it points to is as it says.
unsafe fn request(given: *const evs_spool_task, size: size_t) -> io::Result<Request> {
    // SAFETY: the caller's word; pointers and numbers without padding (`abi_layout.c`).
    let given = unsafe { sized::load(given, size, NO_REQUEST)? };
    let id = id(given.id)?;
    let Some(kind) = Kind::from_code(given.kind) else {
        let text = format!("{} is no kind of request: see EVS_SPOOL_WRITE", given.kind);
        return refuse(libc::EINVAL, text);
    };
    for (what, len, most) in
        [("key", given.key_len, KEY_MAX), ("payload", given.payload_len, PAYLOAD_MAX)]
    {
        if len > most {
            let text = format!("the {what} has {len} bytes, and may have {most}");
            return refuse(libc::EMSGSIZE, text);
        }
    }
    let deadline = Duration::from_millis(given.deadline_ms.into());
    if deadline.is_zero() || deadline > DEADLINE_MAX {
        let text = format!("a deadline of {} ms: it may be 1 to 86400000", given.deadline_ms);
        return refuse(libc::EINVAL, text);
    }
    // SAFETY: the caller's word.
    let key = unsafe { memory::bytes(given.key, given.key_len)? }.to_vec();
    // SAFETY: as above.
    let payload = unsafe { memory::bytes(given.payload, given.payload_len)? }.to_vec();
    Ok(Request { id, kind, key, payload, deadline })
}

/// One that was forgotten would be the same for every request.
fn id(bytes: [u8; 16]) -> io::Result<RequestId> {
    match u128::from_be_bytes(bytes) {
        0 => refuse(libc::EINVAL, "the id is all zeros: make one with evs_spool_id_random()"),
        number => Ok(RequestId(number)),
    }
}

/// # Safety
/// `spool` is NULL, or from evs_spool_connect() and not ended.
unsafe fn sender<'a>(spool: *const evs_spool) -> io::Result<&'a Sender> {
    // SAFETY: the caller's word.
    match unsafe { spool.as_ref() } {
        Some(spool) => spool.sender.get(),
        None => refuse(libc::EFAULT, "NULL for a handle of evs_spool_connect()"),
    }
}

/// Connects to the first of these fronts that takes it: "host:port", or several with commas between
/// them, which are tried in turn whenever a connection is lost for good.
///
/// `pair` is what the front calls the servers. `config` may be NULL; `size` is
/// `sizeof(struct evs_spool_config)` as the program was compiled, members that it does not reach
/// are zero, and with NULL it is not regarded. Blocks until a connection stands, or each front was
/// tried once; signals and cancellation do not end it.
///
/// Returns:       a handle, owned by the caller (evs_spool_close); NULL with errno set on failure.
/// Errors:        E2BIG (members are set that this library does not know); EFAULT (NULL); EILSEQ
///                (not UTF-8); EINVAL (no front, a name that no pair can have, `config`); ENOTCONN
///                (no front can be asked: evs_spool_error() says why); EAGAIN (no thread).
/// Thread safety: any thread; so may the handle be used by any number at a time.
/// Since:         0.1
///
/// # Safety
/// `fronts` and `pair` are strings; `config` is NULL or readable for `size` bytes, and its pointers
/// are what they say.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn evs_spool_connect(
    fronts: *const c_char,
    pair: *const c_char,
    config: *const evs_spool_config,
    size: size_t,
) -> *mut evs_spool {
    edge::handle(|| {
        // SAFETY: the caller's word.
        let (fronts, pair) = unsafe { (some_text(fronts)?, some_text(pair)?) };
        // SAFETY: as above.
        let config = unsafe { self::config(config, size)? };
        let fronts = fronts.split(',').map(str::trim).filter(|front| !front.is_empty());
        let sender = Sender::connect(fronts, &pair, config);
        let sender = sender.map_err(|error| edge::told(&error))?;
        Ok(evs_spool { sender: Owned::new(sender) })
    })
}

/// Asks, and waits for the outcome, up to the request's deadline; signals and cancellation do not
/// end it.
///
/// `size` is `sizeof(struct evs_spool_task)`, `out_size` that of struct evs_spool_outcome, as the
/// program was compiled. What `out` held before is not freed; if the call fails, it is all zeros.
///
/// Returns:       0 if there is an outcome, whatever it is: then `out` has it, to be freed with
///                evs_spool_outcome_free(). Else -errno, and the request was not sent.
/// Errors:        E2BIG (members are set that this library does not know); EDEADLK (in a callback
///                of evs_spool_submit()); EFAULT (NULL); EINVAL (id, kind, deadline, sizes);
///                EMSGSIZE (key or payload); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `spool` is from evs_spool_connect() and not ended; `request` is readable for `size` bytes, and
/// its pointers are what they say; `out` is writable for `out_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_request(
    spool: *mut evs_spool,
    request: *const evs_spool_task,
    size: size_t,
    out: *mut evs_spool_outcome,
    out_size: size_t,
) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let mut room = unsafe { Room::new(out, out_size)? };
        // SAFETY: as above.
        let sender = unsafe { sender(spool)? };
        // SAFETY: as above.
        let request = unsafe { self::request(request, size)? };
        Callback::Done.refuse_within()?;
        Lent::new(sender.request(request)).give(&mut room)
    })
}

/// What comes of a request before evs_spool_submit() has returned.
struct Early {
    caller: ThreadId,
    is_inside: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
}

impl Early {
    /// Keeps an outcome that comes on the thread of the call itself; gives any other back.
    fn keep(&self, outcome: Outcome) -> Option<Outcome> {
        let is_early =
            thread::current().id() == self.caller && self.is_inside.load(Ordering::Relaxed);
        if !is_early {
            return Some(outcome);
        }
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        None
    }

    fn end(&self) -> Option<Outcome> {
        self.is_inside.store(false, Ordering::Relaxed);
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Asks, and does not wait: `done` is called with `user` and the outcome, once, within the
/// request's deadline; see evs_spool_done_fn. It may run before this has returned. Never blocks.
///
/// Returns:       0, or -errno; then `done` is never called, and the request was not sent.
/// Errors:        those of evs_spool_request() but EDEADLK; EAGAIN (as many requests are under way
///                as may be); EFAULT (`done` is NULL); ESHUTDOWN (evs_spool_close() was called).
/// Thread safety: any thread, callbacks too.
/// Since:         0.1
///
/// # Safety
/// `spool` is from evs_spool_connect() and not ended; `request` is readable for `size` bytes, and
/// its pointers are what they say; `done` may be called with `user` on any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_submit(
    spool: *mut evs_spool,
    request: *const evs_spool_task,
    size: size_t,
    done: evs_spool_done_fn,
    user: *mut c_void,
) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let sender = unsafe { sender(spool)? };
        // SAFETY: as above.
        let request = unsafe { self::request(request, size)? };
        let Some(done) = done else {
            return refuse(libc::EFAULT, "NULL for the function that is told the outcome");
        };
        let user = UserData(user);
        let tell = move |outcome: Outcome| {
            let lent = Lent::new(outcome);
            // SAFETY: the program's function, with what it asked for; `lent` outlives the call.
            Callback::Done.run(|| unsafe { done(user.pointer(), lent.view()) });
        };
        let early = Arc::new(Early {
            caller: thread::current().id(),
            is_inside: AtomicBool::new(true),
            outcome: Mutex::new(None),
        });
        let kept = Arc::clone(&early);
        let reply = move |outcome| {
            if let Some(outcome) = kept.keep(outcome) {
                tell(outcome);
            }
        };
        sender.submit(request, Box::new(reply));
        match early.end() {
            None => Ok(()),
            Some(Outcome::Rejected { reason, .. }) => refuse(number(&reason), reason),
            Some(_) => refuse(libc::EIO, "an outcome before the request was sent"),
        }
    })
}

fn number(reason: &Reason) -> c_int {
    match reason {
        Reason::HoldFull => libc::EAGAIN,
        Reason::Closing => libc::ESHUTDOWN,
        _ => libc::EINVAL,
    }
}

/// Asks what became of a request that was spooled or held, and waits for the answer, up to
/// `timeout_ms`; signals and cancellation do not end it.
///
/// The outcome is EVS_SPOOL_HELD while the request waits. `out` as in evs_spool_request().
///
/// Returns:       0, or -errno.
/// Errors:        EAGAIN (as much is under way as may be); EDEADLK (in a callback of
///                evs_spool_submit()); EFAULT (NULL); EINVAL (an id of zeros, sizes); ENOENT (the
///                front does not know the id, or has forgotten it); ESHUTDOWN (a child of a fork);
///                ETIMEDOUT (no front has answered).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `spool` is from evs_spool_connect() and not ended; `id` is readable for 16 bytes, `out` writable
/// for `out_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_fetch(
    spool: *mut evs_spool,
    id: *const u8,
    timeout_ms: u32,
    out: *mut evs_spool_outcome,
    out_size: size_t,
) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let mut room = unsafe { Room::new(out, out_size)? };
        // SAFETY: as above.
        let sender = unsafe { sender(spool)? };
        // SAFETY: as above.
        let id = self::id(unsafe { memory::read(id.cast::<[u8; 16]>())? })?;
        Callback::Done.refuse_within()?;
        let found = sender.fetch(id, Duration::from_millis(timeout_ms.into()));
        match found.map_err(|error| edge::told(&error))? {
            Some(outcome) => Lent::new(outcome).give(&mut room),
            None => refuse(libc::ENOENT, format!("the front does not know {id}")),
        }
    })
}

/// Ends the connection, and frees the handle. NULL is ignored.
///
/// Callbacks that are still due are called before this returns: what is not answered is in doubt,
/// or rejected with EVS_SPOOL_REASON_CLOSING if it surely had no effect. Blocks up to the connect
/// timeout if a connection is being made, else shortly.
///
/// Returns:       0, or -errno.
/// Errors:        EDEADLK (in a callback of evs_spool_submit(); the handle stays).
/// Thread safety: one thread, when no other uses the handle any more.
/// Since:         0.1
///
/// # Safety
/// `spool` is NULL, or from evs_spool_connect() and not yet ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_close(spool: *mut evs_spool) -> c_int {
    edge::status(|| {
        let close = |spool: evs_spool| spool.sender.into_inner().close();
        // SAFETY: the caller's word.
        unsafe { edge::end(spool, Callback::Done, close, |spool| spool.sender.belongs_here()) }
    })
}
