//! The backend's side of spool failover: a server of a pair, written in C.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use eversock_socket::VirtualListener;
use eversock_spool::backend::epoch::{EpochStore, FileEpochs};
use eversock_spool::backend::lock::Permit;
use eversock_spool::backend::{Backend, BackendServer};
use eversock_spool::record::Record;
use eversock_spool::serve::ServeConfig;
use eversock_spool::target::{CallFailed, CallResult, Class};
use libc::{c_char, c_int, c_void, size_t};

use crate::ffi::config::evs_config;
use crate::ffi::edge::{self, Callback, Owned, refuse};
use crate::ffi::sized;
use crate::ffi::spool_results::{self, evs_spool_item, evs_spool_results};
use crate::ffi::strings::{some_text, text};

/// evs_spool_backend_config: it keeps the id with the effect, in one transaction, and does an id
/// that it knows no second time: a request takes effect once. It has to be so after a power cut.
pub const EVS_SPOOL_LEDGER: c_int = 1;
/// evs_spool_backend_config: a request done twice is as one done once (a PUT by key).
pub const EVS_SPOOL_IDEMPOTENT: c_int = 2;
/// evs_spool_backend_config: neither: whatever was under way when an answer was lost is in doubt.
pub const EVS_SPOOL_OPAQUE: c_int = 3;

/// The threads that do calls, at most.
const WORKERS_MAX: u32 = 1024;

/// A server of a pair at an address; opaque. Owned: end it with evs_spool_backend_close().
///
/// It has a few threads of its own, and is its process's alone: in a child of a fork its functions
/// give ESHUTDOWN, and evs_spool_backend_close() does nothing.
#[allow(non_camel_case_types, reason = "the name in C")]
pub struct evs_spool_backend {
    server: Owned<BackendServer>,
}

impl fmt::Debug for evs_spool_backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("evs_spool_backend").finish_non_exhaustive()
    }
}

/// Does items in their order, and says what became of each of them with evs_spool_result_done(),
/// evs_spool_result_refused() or evs_spool_result_later(). `items`, all that they point to, and
/// `results` are borrowed until it returns. The lock was held when it was called, under `epoch`;
/// evs_spool_may_go_on() is to be asked right before each effect.
///
/// Returns 0 if each item has a result. -ESTALE: the lock is not held any more, and nothing of the
/// call took effect. Anything else, or an item without a result: nobody knows what took effect.
///
/// Runs on one of the library's workers, several at a time, and may block:
/// evs_spool_backend_close() and the hand-over of the lock wait for it. It must not call
/// evs_spool_backend_close(), which gives EDEADLK. As all callbacks here it has to return: no
/// exception, no longjmp, no pthread_exit.
#[allow(non_camel_case_types, reason = "the name in C")]
pub type evs_spool_execute_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        epoch: u64,
        items: *const *const evs_spool_item,
        count: size_t,
        results: *mut evs_spool_results,
    ) -> c_int,
>;

/// Answers a question about the server: not 0 for yes. Runs on any thread of the library, several
/// at a time; should be short, since probes of the front wait for it.
#[allow(non_camel_case_types, reason = "the name in C")]
pub type evs_spool_ask_fn = Option<unsafe extern "C" fn(user: *mut c_void) -> c_int>;

/// Stores in `epoch` the highest epoch that was ever raised, 0 for none. Returns 0, or -errno if it
/// cannot be read. Runs on any thread, in evs_spool_backend_serve() too; may block for a moment.
#[allow(non_camel_case_types, reason = "the name in C")]
pub type evs_spool_seen_epoch_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, epoch: *mut u64) -> c_int>;

/// Keeps `epoch` for good if it is higher than what is there, and stores in `highest` what is there
/// then; a power cut after it has returned loses nothing of it. Returns 0, or -errno if it cannot
/// be written. It, evs_spool_seen_epoch_fn, and every transaction with an effect see each other in
/// one order: a transaction that finds a higher epoch than its own has no effect. Threads as above.
#[allow(non_camel_case_types, reason = "the name in C")]
pub type evs_spool_raise_epoch_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, epoch: u64, highest: *mut u64) -> c_int>;

/// What a server is; begin with all zeros. Borrowed for the call, but its functions are used until
/// evs_spool_backend_close() returns. New members are added at the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct evs_spool_backend_config {
    /// Does requests. Must be there.
    pub execute: evs_spool_execute_fn,
    /// Whether it could work if it were given the lock. NULL: always.
    pub ready: evs_spool_ask_fn,
    /// Whether the other server is to take over, as its own monitor says. NULL: never.
    pub wants_switch: evs_spool_ask_fn,
    /// Reads the epoch; with `raise_epoch`, in place of `epochs`.
    pub seen_epoch: evs_spool_seen_epoch_fn,
    /// Keeps the epoch.
    pub raise_epoch: evs_spool_raise_epoch_fn,
    /// Handed to all of them.
    pub user: *mut c_void,
    /// A directory, which must exist, in whose file `epoch` the library keeps the highest epoch for
    /// good. Servers that share their storage share it too.
    pub epochs: *const c_char,
    /// Of the sockets, keys and limits among it; its mode is not regarded. NULL for the process's
    /// default configuration.
    pub session: *const evs_config,
    /// EVS_SPOOL_LEDGER (with an epoch of its own, which its transactions compare with theirs),
    /// EVS_SPOOL_IDEMPOTENT or EVS_SPOOL_OPAQUE.
    pub promise: i32,
    /// Threads that do calls. 0 for 4.
    pub workers: u32,
}

impl fmt::Debug for evs_spool_backend_config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("evs_spool_backend_config")
            .field("promise", &self.promise)
            .finish_non_exhaustive()
    }
}

const NOTHING: evs_spool_backend_config = evs_spool_backend_config {
    execute: None,
    ready: None,
    wants_switch: None,
    seen_epoch: None,
    raise_epoch: None,
    user: std::ptr::null_mut(),
    epochs: std::ptr::null(),
    session: std::ptr::null(),
    promise: 0,
    workers: 0,
};

type Execute = unsafe extern "C" fn(
    *mut c_void,
    u64,
    *const *const evs_spool_item,
    size_t,
    *mut evs_spool_results,
) -> c_int;
type Ask = unsafe extern "C" fn(*mut c_void) -> c_int;
type SeenEpoch = unsafe extern "C" fn(*mut c_void, *mut u64) -> c_int;
type RaiseEpoch = unsafe extern "C" fn(*mut c_void, u64, *mut u64) -> c_int;

/// The program's functions, with what it wants to be handed.
struct Program {
    class: Class,
    execute: Execute,
    ready: Option<Ask>,
    wants_switch: Option<Ask>,
    epochs: Epochs,
    user: *mut c_void,
}

// SAFETY: the functions and what they are handed are for any thread, several at a time, as the
// texts of their types say; the pointer is only handed back.
unsafe impl Send for Program {}
// SAFETY: as above.
unsafe impl Sync for Program {}

/// Where the highest epoch lies.
enum Epochs {
    /// The library's, in this directory.
    Directory(PathBuf),
    /// The program's.
    Kept(Kept),
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("class", &self.class).finish_non_exhaustive()
    }
}

impl Program {
    fn asked(&self, ask: Ask) -> bool {
        // SAFETY: the program's function, with what it asked for.
        Callback::Backend.run(|| unsafe { ask(self.user) }) != 0
    }

    fn call(&self, epoch: u64, items: &[Record], permit: &Permit, job: Option<u64>) -> CallResult {
        let described: Vec<evs_spool_item> = items.iter().map(spool_results::describe).collect();
        let pointers: Vec<*const evs_spool_item> =
            described.iter().map(std::ptr::from_ref).collect();
        let mut results = evs_spool_results::new(items.len(), permit, job);
        // SAFETY: the program's function, with what it asked for; all pointers outlive the call.
        let status = Callback::Backend.run(|| unsafe {
            (self.execute)(self.user, epoch, pointers.as_ptr(), pointers.len(), &raw mut results)
        });
        if status == -libc::ESTALE {
            // The lock, or what the program itself has seen, is beyond this epoch.
            permit.still()?;
            let seen = self.epoch_store().and_then(|store| store.load()).unwrap_or(epoch);
            return Err(CallFailed::Fenced { asked: epoch, seen });
        }
        if status != 0 {
            return Err(CallFailed::Lost(format!("the backend gave {status}")));
        }
        results.into_list().ok_or_else(|| {
            CallFailed::Lost("the backend has left an item without a result".to_owned())
        })
    }
}

impl Backend for Program {
    fn class(&self) -> Class {
        self.class
    }

    fn epoch_store(&self) -> io::Result<Box<dyn EpochStore>> {
        match &self.epochs {
            Epochs::Directory(directory) => Ok(Box::new(FileEpochs::open(directory)?)),
            Epochs::Kept(kept) => Ok(Box::new(*kept)),
        }
    }

    fn execute(&self, epoch: u64, items: &[Record], permit: &Permit) -> CallResult {
        self.call(epoch, items, permit, None)
    }

    fn run_job(&self, epoch: u64, job: u64, items: &[Record], permit: &Permit) -> CallResult {
        self.call(epoch, items, permit, Some(job))
    }

    fn ready(&self) -> bool {
        self.ready.is_none_or(|ready| self.asked(ready))
    }

    fn wants_switch(&self) -> bool {
        self.wants_switch.is_some_and(|wants| self.asked(wants))
    }
}

/// The epoch where the program keeps it.
#[derive(Clone, Copy)]
struct Kept {
    seen: SeenEpoch,
    raise: RaiseEpoch,
    user: *mut c_void,
}

// SAFETY: as for `Program`.
unsafe impl Send for Kept {}
// SAFETY: as above.
unsafe impl Sync for Kept {}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// What a function of the program's says, as an error with its name.
fn said(what: &str, status: c_int) -> io::Result<()> {
    if status == 0 {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(status.wrapping_abs());
    Err(io::Error::new(error.kind(), format!("{what} of the backend: {error}")))
}

impl EpochStore for Kept {
    fn load(&self) -> io::Result<u64> {
        let mut epoch = 0;
        let call = || {
            // SAFETY: the program's function, with what it asked for; the place outlives the call.
            unsafe { (self.seen)(self.user, &raw mut epoch) }
        };
        said("seen_epoch", Callback::Backend.run(call))?;
        Ok(epoch)
    }

    fn raise(&self, epoch: u64) -> io::Result<u64> {
        let mut highest = 0;
        let call = || {
            // SAFETY: as above.
            unsafe { (self.raise)(self.user, epoch, &raw mut highest) }
        };
        said("raise_epoch", Callback::Backend.run(call))?;
        if highest < epoch {
            let text = format!("raise_epoch of the backend gave {highest} for {epoch}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(highest)
    }
}

/// # Safety
/// What `given` points to is as [`evs_spool_backend_config`] has it.
unsafe fn program(given: &evs_spool_backend_config) -> io::Result<Program> {
    let Some(execute) = given.execute else {
        return refuse(libc::EFAULT, "NULL for `execute`");
    };
    let class = match given.promise {
        EVS_SPOOL_LEDGER => Class::Ledger,
        EVS_SPOOL_IDEMPOTENT => Class::Idempotent,
        EVS_SPOOL_OPAQUE => Class::Opaque,
        other => {
            return refuse(libc::EINVAL, format!("{other} is no promise: EVS_SPOOL_LEDGER..."));
        }
    };
    // SAFETY: the caller's word.
    let directory = unsafe { text(given.epochs)? };
    let epochs = match (directory.is_empty(), given.seen_epoch, given.raise_epoch) {
        (true, Some(seen), Some(raise)) => Epochs::Kept(Kept { seen, raise, user: given.user }),
        (false, None, None) if class == Class::Ledger => {
            let text = "a ledger keeps the epoch itself, where its transactions see it: give \
                        `seen_epoch` and `raise_epoch` in place of `epochs`";
            return refuse(libc::EINVAL, text);
        }
        (false, None, None) => Epochs::Directory(PathBuf::from(directory)),
        _ => {
            let text = "give either `epochs` or both of `seen_epoch` and `raise_epoch`";
            return refuse(libc::EINVAL, text);
        }
    };
    if given.workers > WORKERS_MAX {
        let text = format!("{} workers: {WORKERS_MAX} are allowed", given.workers);
        return refuse(libc::EINVAL, text);
    }
    Ok(Program {
        class,
        execute,
        ready: given.ready,
        wants_switch: given.wants_switch,
        epochs,
        user: given.user,
    })
}

/// # Safety
/// `backend` is NULL, or from evs_spool_backend_serve() and not ended.
unsafe fn server<'a>(backend: *const evs_spool_backend) -> io::Result<&'a BackendServer> {
    // SAFETY: the caller's word.
    match unsafe { backend.as_ref() } {
        Some(backend) => backend.server.get(),
        None => refuse(libc::EFAULT, "NULL for a handle of evs_spool_backend_serve()"),
    }
}

/// Serves fronts at this address, "host:port"; port 0 gets any that is free.
///
/// It does nothing before a front has given it the lock. `size` is
/// `sizeof(struct evs_spool_backend_config)` as the program was compiled; members that it does not
/// reach are zero. Blocks for a moment, while the epoch is read; cancellation does not end it.
///
/// Returns:       a handle, owned by the caller (evs_spool_backend_close); NULL with errno set.
/// Errors:        those of bind(2), and of open(2) in `epochs`; E2BIG (members are set that this
///                library does not know); EFAULT (NULL); EILSEQ (not UTF-8); EINVAL (the address,
///                `config`: evs_spool_error() says what); EIO (the epoch cannot be read); ENOENT
///                (no such name, or directory).
/// Thread safety: any thread; so may the handle be used by any number at a time.
/// Since:         0.1
///
/// # Safety
/// `listen` is a string; `config` is readable for `size` bytes, and its pointers are what they say.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn evs_spool_backend_serve(
    listen: *const c_char,
    config: *const evs_spool_backend_config,
    size: size_t,
) -> *mut evs_spool_backend {
    edge::handle(|| {
        // SAFETY: the caller's word.
        let listen = unsafe { some_text(listen)? };
        // SAFETY: as above; pointers and numbers without padding (`abi_layout.c`).
        let given = unsafe { sized::load(config, size, NOTHING)? };
        // SAFETY: as above.
        let program = unsafe { program(&given)? };
        // SAFETY: as above.
        let session = unsafe { edge::session(given.session)? };
        let session = session.unwrap_or_else(edge::default_session);
        let addrs = edge::addresses(&listen)?;
        let told = |error: io::Error| edge::told(&error);
        let listener = VirtualListener::bind_with(&*addrs, session).map_err(told)?;
        let mut config = ServeConfig::default();
        if given.workers > 0 {
            config.workers = given.workers as usize;
        }
        let server = BackendServer::start(listener, Arc::new(program), config).map_err(told)?;
        Ok(evs_spool_backend { server: Owned::new(server) })
    })
}

/// Tells where a backend listens, as `127.0.0.1:7700` or `[::1]:7700` with a NUL behind; as much of
/// it as there is room for. 64 bytes are enough. Never blocks.
///
/// Returns:       the length of the whole text without the NUL, or -errno.
/// Errors:        EFAULT (NULL); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `backend` is from evs_spool_backend_serve() and not ended; `addr` is writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_backend_addr(
    backend: *const evs_spool_backend,
    addr: *mut c_char,
    size: size_t,
) -> c_int {
    edge::length(|| {
        // SAFETY: the caller's word.
        let text = unsafe { server(backend)? }.addr().to_string();
        // SAFETY: as above.
        unsafe { edge::store_text(&text, addr, size) }
    })
}

/// Asks the front to let the other server take over, until the lock changes hands: this one
/// finishes what it does first. Never blocks; `ready` of the other one decides whether it can.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread, callbacks too.
/// Since:         0.1
///
/// # Safety
/// `backend` is from evs_spool_backend_serve() and not ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_backend_ask_for_switch(
    backend: *mut evs_spool_backend,
) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        unsafe { server(backend)? }.ask_for_switch();
        Ok(())
    })
}

/// Ends a backend's connections and threads, and frees the handle. NULL is ignored.
///
/// Blocks until calls under way are done; cancellation does not end it. No callback runs once it
/// has returned. It does not give the lock back: evs_spool_backend_ask_for_switch() before it does.
///
/// Returns:       0, or -errno.
/// Errors:        EDEADLK (in a callback of a backend; the handle stays).
/// Thread safety: one thread, when no other uses the handle any more.
/// Since:         0.1
///
/// # Safety
/// `backend` is NULL, or from evs_spool_backend_serve() and not yet ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_spool_backend_close(backend: *mut evs_spool_backend) -> c_int {
    edge::status(|| {
        let close = |backend: evs_spool_backend| backend.server.into_inner().close();
        let is_mine = |backend: &evs_spool_backend| backend.server.belongs_here();
        // SAFETY: the caller's word.
        unsafe { edge::end(backend, Callback::Backend, close, is_mine) }
    })
}
