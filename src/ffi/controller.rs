//! A controller of controller sync, started from C.

use std::ffi::CString;
use std::io;
use std::path::Path;
use std::time::Duration;

use eversock_controller::config::{ConfigError, ControllerFile};
use eversock_controller::limits::{BATCH_MAX, DEADLINE_MAX, PAYLOAD_MAX};
use eversock_controller::model::{ControllerId, DeviceId, NameError};
use eversock_controller::node::{Node, NodeError};
use eversock_controller::report::{DeviceReport, Report};
use eversock_controller::shard::input::Order;
use eversock_controller::wire::client::Outcome;
use libc::{c_char, c_int, c_void, size_t};

use crate::ffi::config::UserData;
use crate::ffi::edge::{self, Callback, Owned, refuse};
use crate::ffi::guard;
use crate::ffi::memory;
use crate::ffi::strings::{some_text, text};

/// evs_controller_outcome: the device answered; its answer is there.
pub const EVS_CONTROLLER_DONE: c_int = 1;
/// evs_controller_outcome: nobody has heard of the device, or it has deregistered.
pub const EVS_CONTROLLER_UNKNOWN: c_int = 2;
/// evs_controller_outcome: another controller has it, which `text` names.
pub const EVS_CONTROLLER_NOT_HERE: c_int = 3;
/// evs_controller_outcome: the device, or the controller on the way to it, cannot be reached now.
pub const EVS_CONTROLLER_UNREACHABLE: c_int = 4;
/// evs_controller_outcome: too much is under way; come again after `after_ms`.
pub const EVS_CONTROLLER_BUSY: c_int = 5;
/// evs_controller_outcome: no answer in time; it may still take effect.
pub const EVS_CONTROLLER_TIMED_OUT: c_int = 6;
/// evs_controller_outcome: the device will not do it.
pub const EVS_CONTROLLER_REFUSED: c_int = 7;

/// evs_controller_order(): hand these devices over to `target`; with none given, all that are
/// served here.
pub const EVS_CONTROLLER_MOVE: c_int = 1;
/// evs_controller_order(): hand guests back to their homes.
pub const EVS_CONTROLLER_FAIL_BACK: c_int = 2;
/// evs_controller_order(): stop handing over.
pub const EVS_CONTROLLER_STOP_HAND_OVER: c_int = 3;
/// evs_controller_order(): exchange no changes with `target`; NULL for all partners.
pub const EVS_CONTROLLER_PAUSE: c_int = 4;
/// evs_controller_order(): the end of that.
pub const EVS_CONTROLLER_RESUME: c_int = 5;
/// evs_controller_order(): take no registrations, and hand the devices over.
pub const EVS_CONTROLLER_MAINTENANCE: c_int = 6;
/// evs_controller_order(): the end of that.
pub const EVS_CONTROLLER_MAINTENANCE_END: c_int = 7;
/// evs_controller_order(): exchange everything anew with `target`.
pub const EVS_CONTROLLER_RESYNC: c_int = 8;

/// A controller at work; opaque. Owned: end it with evs_controller_close().
///
/// It has a thread for each partition and a few more, and is its process's alone: in a child of a
/// fork its functions give ESHUTDOWN, and evs_controller_close() does nothing.
#[allow(non_camel_case_types, reason = "the name in C")]
pub struct evs_controller {
    node: Owned<Node>,
}

impl std::fmt::Debug for evs_controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("evs_controller").finish_non_exhaustive()
    }
}

/// What came of a request. Borrowed: see evs_controller_done_fn. New members are added at the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct evs_controller_outcome {
    /// With EVS_CONTROLLER_DONE: what the device answered.
    pub answer: *const c_void,
    /// Bytes of it.
    pub answer_len: size_t,
    /// Why not, or who else, for people; empty with EVS_CONTROLLER_DONE. Never NULL.
    pub text: *const c_char,
    /// With EVS_CONTROLLER_NOT_HERE: the counter of the registration that says so.
    pub seq: u64,
    /// EVS_CONTROLLER_DONE to EVS_CONTROLLER_REFUSED.
    pub outcome: i32,
    /// With EVS_CONTROLLER_BUSY: when to come again, in milliseconds.
    pub after_ms: u32,
}

/// Is told what became of a request, once. `outcome` and all that it points to are borrowed until
/// it returns.
///
/// Runs on a thread of the library, or on the one that is in evs_controller_close() or
/// evs_device_close(). Others wait for it: it should not block. It may ask anew. Given to
/// evs_controller_request() it must not call evs_controller_close(), and given to
/// evs_device_request() neither evs_device_close() nor evs_device_deregister(): they give EDEADLK.
/// It has to return: no exception, no longjmp, no pthread_exit.
#[allow(non_camel_case_types, reason = "the name in C")]
pub type evs_controller_done_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, outcome: *const evs_controller_outcome)>;

pub(super) fn told(error: &ConfigError) -> io::Error {
    let number = match error {
        ConfigError::Unreadable { cause, .. } => {
            edge::explain(&error.to_string());
            return guard::numbered(cause);
        }
        ConfigError::TooLong { .. } | ConfigError::Wrong { .. } => libc::EINVAL,
        ConfigError::Unusable { .. } => libc::EIO,
    };
    edge::explain(&error.to_string());
    io::Error::from_raw_os_error(number)
}

fn refused(error: &NodeError) -> io::Error {
    let number = match error {
        NodeError::Config(_) | NodeError::Parameters(_) | NodeError::Dispatch(_) => libc::EINVAL,
        NodeError::Listen { .. } | NodeError::System(_) | NodeError::Store { .. } => libc::EIO,
        NodeError::NoPartition(_) | NodeError::NoPartner(_) => libc::ENOENT,
        NodeError::Down { .. } | NodeError::Late(_) => libc::EAGAIN,
        NodeError::Closed => libc::ESHUTDOWN,
    };
    edge::explain(&error.to_string());
    io::Error::from_raw_os_error(number)
}

/// # Safety
/// `controller` is NULL, or from evs_controller_start() and not ended.
unsafe fn node<'a>(controller: *const evs_controller) -> io::Result<&'a Node> {
    // SAFETY: the caller's word.
    match unsafe { controller.as_ref() } {
        Some(controller) => controller.node.get(),
        None => refuse(libc::EFAULT, "NULL for a handle of evs_controller_start()"),
    }
}

fn named<T: std::str::FromStr<Err = NameError>>(text: &str) -> io::Result<T> {
    text.parse().or_else(|error: NameError| refuse(libc::EINVAL, error))
}

/// # Safety
/// `text` is NULL or a string.
unsafe fn some_name<T: std::str::FromStr<Err = NameError>>(text: *const c_char) -> io::Result<T> {
    // SAFETY: the caller's word.
    named(&unsafe { some_text(text)? })
}

/// The name, if one is given.
///
/// # Safety
/// `given` is NULL or a string.
unsafe fn name<T: std::str::FromStr<Err = NameError>>(
    given: *const c_char,
) -> io::Result<Option<T>> {
    // SAFETY: the caller's word.
    let given = unsafe { text(given)? };
    if given.is_empty() { Ok(None) } else { named(&given).map(Some) }
}

fn start(file: Result<ControllerFile, ConfigError>) -> io::Result<evs_controller> {
    let node = file.and_then(|file| file.start()).map_err(|error| told(&error))?;
    Ok(evs_controller { node: Owned::new(node) })
}

/// Starts a controller as this file says it; it is that of `evs controller run`, and
/// examples/controller.toml has every key but those of PostgreSQL, which this library has not.
/// Paths in it are relative to its folder; `control` and `metrics` are not regarded.
///
/// Opens the tables, listens, and begins to connect to the partners. Blocks as long as disks and
/// name servers take; cancellation does not end it.
///
/// Returns:       a handle, owned by the caller (evs_controller_close); NULL with errno set. Then
///                nothing is served, and evs_controller_error() names each line that is wrong, and
///                the remedy.
/// Errors:        those of open(2); EFAULT (NULL); EILSEQ (the path is not UTF-8); EINVAL (the
///                file); EIO (a table, a key or an address cannot be had).
/// Thread safety: any thread; so may the handle be used by any number at a time.
/// Since:         0.1
///
/// # Safety
/// `path` is a string.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn evs_controller_start(path: *const c_char) -> *mut evs_controller {
    edge::handle(|| {
        // SAFETY: the caller's word.
        let path = unsafe { some_text(path)? };
        start(ControllerFile::from_file(Path::new(&path)))
    })
}

/// evs_controller_start() with the text of such a file; `folder` is what paths in it are relative
/// to.
///
/// Returns:       a handle, owned by the caller (evs_controller_close); NULL with errno set.
/// Errors:        those of evs_controller_start(); EILSEQ (not UTF-8).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `text` and `folder` are strings.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn evs_controller_start_text(
    text: *const c_char,
    folder: *const c_char,
) -> *mut evs_controller {
    edge::handle(|| {
        // SAFETY: the caller's word.
        let (text, folder) = unsafe { (some_text(text)?, some_text(folder)?) };
        start(ControllerFile::from_text(&text, "the controller's text", Path::new(&folder)))
    })
}

/// Tells where a controller listens: for devices and third parties, or with `for_partners` not 0
/// for its partners; as `127.0.0.1:7700` or `[::1]:7700` with a NUL behind; as much of it as there
/// is room for. 64 bytes are enough. Never blocks.
///
/// Returns:       the length of the whole text without the NUL, or -errno.
/// Errors:        EFAULT (NULL); ENOENT (it has no door for partners); ESHUTDOWN (a child of a
///                fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `controller` is from evs_controller_start() and not ended; `addr` is writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_controller_addr(
    controller: *const evs_controller,
    for_partners: c_int,
    addr: *mut c_char,
    size: size_t,
) -> c_int {
    edge::length(|| {
        // SAFETY: the caller's word.
        let node = unsafe { node(controller)? };
        let found = match for_partners {
            0 => Some(node.local_addr()),
            _ => node.partner_addr(),
        };
        let Some(found) = found else {
            return refuse(libc::ENOENT, "the controller has no door for partners");
        };
        // SAFETY: as above.
        unsafe { edge::store_text(&found.to_string(), addr, size) }
    })
}

/// Tells how a controller is, as an object of JSON with a NUL behind; as much of it as there is
/// room for. Its members are those of `evs controller status --json`; later versions add some.
///
/// Blocks for a moment; cancellation does not end it.
///
/// Returns:       the length of the whole text without the NUL, or -errno.
/// Errors:        EFAULT (NULL); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `controller` is from evs_controller_start() and not ended; `json` is NULL with no `size`, or
/// writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_controller_status(
    controller: *const evs_controller,
    json: *mut c_char,
    size: size_t,
) -> c_int {
    edge::length(|| {
        // SAFETY: the caller's word.
        let status = unsafe { node(controller)? }.status();
        let shown = written(serde_json::to_string(&Report::from(status)))?;
        // SAFETY: as above.
        unsafe { edge::store_text(&shown, json, size) }
    })
}

fn written(json: serde_json::Result<String>) -> io::Result<String> {
    json.or_else(|error| refuse(libc::EIO, error))
}

/// Tells who a device is registered with, as an object of JSON with a NUL behind; as much of it as
/// there is room for. Its members are those of `evs controller devices --json`; later versions add
/// some.
///
/// Blocks for a moment; cancellation does not end it.
///
/// Returns:       the length of the whole text without the NUL, or -errno.
/// Errors:        EAGAIN (the partition does not answer now); EFAULT (NULL); EILSEQ (not UTF-8);
///                EINVAL (no name of a device); ENOENT (nobody has heard of it); ESHUTDOWN (a child
///                of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `controller` is from evs_controller_start() and not ended; `device` is a string; `json` is NULL
/// with no `size`, or writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_controller_find(
    controller: *const evs_controller,
    device: *const c_char,
    json: *mut c_char,
    size: size_t,
) -> c_int {
    edge::length(|| {
        // SAFETY: the caller's word.
        let node = unsafe { node(controller)? };
        // SAFETY: as above.
        let device: DeviceId = unsafe { some_name(device)? };
        let found = node.find(&device).map_err(|error| refused(&error))?;
        let Some(row) = found else {
            return refuse(libc::ENOENT, format!("nobody has heard of {device}"));
        };
        let shown = written(serde_json::to_string(&DeviceReport::from(row)))?;
        // SAFETY: as above.
        unsafe { edge::store_text(&shown, json, size) }
    })
}

/// Tells a controller to do something: EVS_CONTROLLER_MOVE to EVS_CONTROLLER_RESYNC. `partition`
/// is the one that it is about, NULL for all. `target` and `devices`, at most 512 of them, as the
/// order says; NULL and 0 with the others.
///
/// Blocks for a moment, until the order is taken in; cancellation does not end it.
/// evs_controller_status() shows what comes of it.
///
/// Returns:       0, or -errno.
/// Errors:        EAGAIN (the partition does not answer now); EFAULT (NULL); EILSEQ (not UTF-8);
///                EINVAL (no such order, or what it is about); ENOENT (no such partition, or no
///                partner that is called `target`); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `controller` is from evs_controller_start() and not ended; `partition` and `target` are NULL or
/// strings; `devices` is readable for `count` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_controller_order(
    controller: *mut evs_controller,
    order: c_int,
    partition: *const c_char,
    target: *const c_char,
    devices: *const *const c_char,
    count: size_t,
) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let node = unsafe { node(controller)? };
        // SAFETY: as above.
        let partition: Option<ControllerId> = unsafe { name(partition)? };
        // SAFETY: as above.
        let target: Option<ControllerId> = unsafe { name(target)? };
        if count > BATCH_MAX {
            let text = format!("{count} devices: {BATCH_MAX} are allowed in one order");
            return refuse(libc::EINVAL, text);
        }
        let mut names = Vec::with_capacity(count);
        for place in 0..count {
            // SAFETY: as above; `place` is below `count`.
            let device = unsafe { memory::read(devices.wrapping_add(place))? };
            // SAFETY: as above.
            names.push(unsafe { some_name(device)? });
        }
        let order = self::order(order, target, names)?;
        node.order(partition.as_ref(), order).map_err(|error| refused(&error))
    })
}

fn order(number: c_int, target: Option<ControllerId>, devices: Vec<DeviceId>) -> io::Result<Order> {
    let Some(is_wanted) = (match number {
        EVS_CONTROLLER_MOVE | EVS_CONTROLLER_RESYNC => Some(Some(true)),
        EVS_CONTROLLER_PAUSE | EVS_CONTROLLER_RESUME => Some(None),
        EVS_CONTROLLER_FAIL_BACK..=EVS_CONTROLLER_MAINTENANCE_END => Some(Some(false)),
        _ => None,
    }) else {
        return refuse(libc::EINVAL, format!("{number} is no order: EVS_CONTROLLER_MOVE..."));
    };
    if is_wanted.is_some_and(|is_wanted| is_wanted != target.is_some()) {
        let text = "a target belongs to EVS_CONTROLLER_MOVE and _RESYNC, and to no order else";
        return refuse(libc::EINVAL, text);
    }
    if !devices.is_empty() && number != EVS_CONTROLLER_MOVE {
        return refuse(libc::EINVAL, "the order is not about devices: give none");
    }
    Ok(match (number, target) {
        (EVS_CONTROLLER_MOVE, Some(target)) => Order::Move { devices, target },
        (EVS_CONTROLLER_RESYNC, Some(target)) => Order::Resync(target),
        (EVS_CONTROLLER_FAIL_BACK, _) => Order::FailBack,
        (EVS_CONTROLLER_STOP_HAND_OVER, _) => Order::StopHandOver,
        (EVS_CONTROLLER_MAINTENANCE, _) => Order::Maintenance(true),
        (EVS_CONTROLLER_MAINTENANCE_END, _) => Order::Maintenance(false),
        (number, partner) => Order::Pause { partner, paused: number == EVS_CONTROLLER_PAUSE },
    })
}

/// Tells the parameters that all controllers share, as text with a NUL behind, as much of it as
/// there is room for, and stores their generation. Never blocks long.
///
/// Returns:       the length of the whole text without the NUL, or -errno.
/// Errors:        EFAULT (NULL); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `controller` is from evs_controller_start() and not ended; `generation` is NULL or writable;
/// `text` is NULL with no `size`, or writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_controller_parameters(
    controller: *const evs_controller,
    generation: *mut u64,
    text: *mut c_char,
    size: size_t,
) -> c_int {
    edge::length(|| {
        // SAFETY: the caller's word.
        let (number, shared) = unsafe { node(controller)? }.parameters();
        if !generation.is_null() {
            // SAFETY: as above.
            unsafe { memory::write(generation, number)? };
        }
        // SAFETY: as above.
        unsafe { edge::store_text(&shared, text, size) }
    })
}

/// Makes this text the parameters that all controllers share, and stores its generation. Blocks
/// until they are on disk here; cancellation does not end it.
///
/// Returns:       0, or -errno.
/// Errors:        EAGAIN (the table of them cannot be written now); EFAULT (NULL); EILSEQ (not
///                UTF-8); EINVAL (the text: evs_controller_error() says what is wrong); ESHUTDOWN
/// (a child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `controller` is from evs_controller_start() and not ended; `text` is a string; `generation` is
/// NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_controller_set_parameters(
    controller: *mut evs_controller,
    text: *const c_char,
    generation: *mut u64,
) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let node = unsafe { node(controller)? };
        // SAFETY: as above.
        let shared = unsafe { some_text(text)? };
        let number = node.set_parameters(&shared).map_err(|error| refused(&error))?;
        if generation.is_null() {
            return Ok(());
        }
        // SAFETY: as above.
        unsafe { memory::write(generation, number) }
    })
}

/// Asks something of a device, wherever it is, and does not wait: `done` is called with `user` and
/// what came of it, once, within `deadline_ms` (1 to 300,000) or a little later; see
/// evs_controller_done_fn. It may run before this has returned. `payload` has at most 262,144
/// bytes, and is not kept. Never blocks long.
///
/// Returns:       0, or -errno; then `done` is never called, and nothing was asked.
/// Errors:        EFAULT (NULL); EILSEQ (not UTF-8); EINVAL (no name of a device, the deadline);
///                EMSGSIZE (the payload); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread, callbacks too.
/// Since:         0.1
///
/// # Safety
/// `controller` is from evs_controller_start() and not ended; `device` is a string; `payload` is
/// readable for `payload_len` bytes; `done` may be called with `user` on any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_controller_request(
    controller: *mut evs_controller,
    device: *const c_char,
    payload: *const c_void,
    payload_len: size_t,
    deadline_ms: u32,
    done: evs_controller_done_fn,
    user: *mut c_void,
) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let node = unsafe { node(controller)? };
        // SAFETY: as above.
        let asked = unsafe {
            let kind = Callback::Controller;
            Asked::read(device, payload, payload_len, deadline_ms, done, user, kind)?
        };
        node.request(asked.device, asked.deadline, asked.payload, asked.reply);
        Ok(())
    })
}

/// A request from C.
pub(super) struct Asked {
    pub(super) device: DeviceId,
    pub(super) deadline: Duration,
    pub(super) payload: Vec<u8>,
    pub(super) reply: Box<dyn FnOnce(Outcome) + Send>,
}

impl Asked {
    /// `kind` says what waits for `done`.
    ///
    /// # Safety
    /// `device` is NULL or a string; `payload` is readable for `payload_len` bytes; `done` may be
    /// called with `user` on any thread.
    pub(super) unsafe fn read(
        device: *const c_char,
        payload: *const c_void,
        payload_len: size_t,
        deadline_ms: u32,
        done: evs_controller_done_fn,
        user: *mut c_void,
        kind: Callback,
    ) -> io::Result<Self> {
        // SAFETY: the caller's word.
        let device: DeviceId = unsafe { some_name(device)? };
        let deadline = Duration::from_millis(deadline_ms.into());
        if deadline.is_zero() || deadline > DEADLINE_MAX {
            let text = format!("a deadline of {deadline_ms} ms: it may be 1 to 300000");
            return refuse(libc::EINVAL, text);
        }
        if payload_len > PAYLOAD_MAX {
            let text = format!("{payload_len} bytes of payload: {PAYLOAD_MAX} are allowed");
            return refuse(libc::EMSGSIZE, text);
        }
        // SAFETY: as above.
        let payload = unsafe { memory::bytes(payload, payload_len)? }.to_vec();
        let Some(done) = done else {
            return refuse(libc::EFAULT, "NULL for the function that is told the outcome");
        };
        let user = UserData(user);
        let reply = move |outcome: Outcome| {
            let told = Told::new(outcome);
            // SAFETY: the program's function, with what it asked for; `told` outlives the call.
            kind.run(|| unsafe { done(user.pointer(), &raw const told.view) });
        };
        Ok(Self { device, deadline, payload, reply: Box::new(reply) })
    }
}

/// An outcome in the shape of C, with what it points to.
struct Told {
    view: evs_controller_outcome,
    _answer: Vec<u8>,
    _text: CString,
}

impl Told {
    fn new(outcome: Outcome) -> Self {
        let mut answer = Vec::new();
        let (mut text, mut seq, mut after_ms) = (String::new(), 0, 0);
        let number = match outcome {
            Outcome::Done(bytes) => {
                answer = bytes;
                EVS_CONTROLLER_DONE
            }
            Outcome::Unknown => {
                "nobody has heard of the device".clone_into(&mut text);
                EVS_CONTROLLER_UNKNOWN
            }
            Outcome::NotHere { owner, seq: counter, place: _ } => {
                (text, seq) = (owner.to_string(), counter);
                EVS_CONTROLLER_NOT_HERE
            }
            Outcome::Unreachable(why) => {
                text = why;
                EVS_CONTROLLER_UNREACHABLE
            }
            Outcome::Busy { after } => {
                "too much is under way".clone_into(&mut text);
                after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
                EVS_CONTROLLER_BUSY
            }
            Outcome::TimedOut => {
                "no answer in time".clone_into(&mut text);
                EVS_CONTROLLER_TIMED_OUT
            }
            Outcome::Refused(why) => {
                text = why;
                EVS_CONTROLLER_REFUSED
            }
        };
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        let view = evs_controller_outcome {
            answer: answer.as_ptr().cast(),
            answer_len: answer.len(),
            text: text.as_ptr(),
            seq,
            outcome: number,
            after_ms,
        };
        Self { view, _answer: answer, _text: text }
    }
}

/// Ends a controller, and frees the handle. NULL is ignored.
///
/// What was acknowledged is on disk; devices turn to their other controllers. Callbacks that are
/// still due are called before this returns. Blocks for a moment; cancellation does not end it.
///
/// Returns:       0, or -errno.
/// Errors:        EDEADLK (in a callback of evs_controller_request(); the handle stays).
/// Thread safety: one thread, when no other uses the handle any more.
/// Since:         0.1
///
/// # Safety
/// `controller` is NULL, or from evs_controller_start() and not yet ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_controller_close(controller: *mut evs_controller) -> c_int {
    edge::status(|| {
        let close = |controller: evs_controller| controller.node.into_inner().close();
        let is_mine = |controller: &evs_controller| controller.node.belongs_here();
        // SAFETY: the caller's word.
        unsafe { edge::end(controller, Callback::Controller, close, is_mine) }
    })
}

/// Why the last call of evs_controller_* or evs_device_* in this thread failed, with the remedy,
/// for people; empty if it did not. Never blocks.
///
/// Returns:       a string, never NULL; borrowed until the next call of these in this thread.
/// Thread safety: any thread.
/// Since:         0.1
#[unsafe(no_mangle)]
pub extern "C" fn evs_controller_error() -> *const c_char {
    let found = guard::pointer(|| Ok(edge::last_error().cast_mut()));
    if found.is_null() { c"".as_ptr() } else { found }
}
