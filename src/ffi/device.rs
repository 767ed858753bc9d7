//! A device of controller sync, written in C.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use eversock_controller::config::{ConfigError, DeviceFile};
use eversock_controller::device::{DeviceAgent, DeviceError, DeviceEvent, Event, State};
use eversock_controller::limits::{PAYLOAD_MAX, TEXT_MAX};
use eversock_controller::wire::client::{Outcome, Request};
use libc::{c_char, c_int, c_void, size_t};

use crate::ffi::config::UserData;
use crate::ffi::controller::{Asked, evs_controller_done_fn, told};
use crate::ffi::edge::{self, Callback, Owned, refuse};
use crate::ffi::strings::some_text;
use crate::ffi::{memory, sized};

/// evs_device_state(): it is registered nowhere, and tries.
pub const EVS_DEVICE_SEEKING: c_int = 1;
/// evs_device_state(): its home serves it.
pub const EVS_DEVICE_HOME: c_int = 2;
/// evs_device_state(): a backup serves it.
pub const EVS_DEVICE_BACKUP: c_int = 3;
/// evs_device_state(): the controller that serves it does not answer for now.
pub const EVS_DEVICE_PROBING: c_int = 4;
/// evs_device_state(): it registers with the controller that it is handed over to.
pub const EVS_DEVICE_HANDING_OVER: c_int = 5;
/// evs_device_state(): it has deregistered, or is about to.
pub const EVS_DEVICE_ENDED: c_int = 6;

/// evs_device_event: `controller` has registered it; `number` is the counter.
pub const EVS_DEVICE_REGISTERED: c_int = 1;
/// evs_device_event: an attempt to register with `controller` has failed; another follows.
pub const EVS_DEVICE_FAILED: c_int = 2;
/// evs_device_event: `controller`, which served it, does not any more.
pub const EVS_DEVICE_LOST: c_int = 3;
/// evs_device_event: it was handed over to `controller`.
pub const EVS_DEVICE_HANDED_OVER: c_int = 4;
/// evs_device_event: a hand-over to `controller` has failed; it stays where it was.
pub const EVS_DEVICE_HAND_OVER_FAILED: c_int = 5;
/// evs_device_event: `text` are the shared parameters, `number` is their generation.
pub const EVS_DEVICE_PARAMETERS: c_int = 6;
/// evs_device_event: it is deregistered; `number` is 1 if a controller has confirmed it.
pub const EVS_DEVICE_DEREGISTERED: c_int = 7;
/// evs_device_event: anything else, which `text` says. New kinds may come: regard them as this.
pub const EVS_DEVICE_NOTE: c_int = 100;

/// A device at work; opaque. Owned: end it with evs_device_close().
///
/// It has a few threads of its own, and is its process's alone: in a child of a fork its functions
/// give ESHUTDOWN, and evs_device_close() does nothing.
#[allow(non_camel_case_types, reason = "the name in C")]
pub struct evs_device {
    running: Owned<Running>,
}

struct Running {
    agent: DeviceAgent,
    events: Option<JoinHandle<()>>,
}

impl fmt::Debug for evs_device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("evs_device").finish_non_exhaustive()
    }
}

/// The answer to a request, as it is made; opaque. Borrowed: see evs_device_request_fn.
#[allow(non_camel_case_types, reason = "the name in C")]
#[derive(Debug)]
pub struct evs_device_answer {
    outcome: Outcome,
}

/// Something that happened to a device. Borrowed: see evs_device_event_fn. New members are added at
/// the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct evs_device_event {
    /// Which controller it is about; empty for none. Never NULL.
    pub controller: *const c_char,
    /// Why, for people, or what the kind says. Never NULL.
    pub text: *const c_char,
    /// What the kind says.
    pub number: u64,
    /// EVS_DEVICE_REGISTERED to EVS_DEVICE_NOTE.
    pub kind: i32,
    /// Zero.
    pub reserved: u32,
}

/// Does what a request asks for, and says so with evs_device_answer_done() or
/// evs_device_answer_refused(); without either the request is refused. `payload` and `answer` are
/// borrowed until it returns.
///
/// Runs on a thread of the device, as many at a time as its file says with `workers`, and may
/// block. It must call neither evs_device_close() nor evs_device_deregister(), which give EDEADLK.
/// As all callbacks here it has to return: no exception, no longjmp, no pthread_exit.
#[allow(non_camel_case_types, reason = "the name in C")]
pub type evs_device_request_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        payload: *const c_void,
        payload_len: size_t,
        answer: *mut evs_device_answer,
    ),
>;

/// Is told what happens, one thing after the other. `event` and its strings are borrowed until it
/// returns. Runs on a thread of the device; when it takes too long, events are left out. It must
/// not call evs_device_close(), which gives EDEADLK.
#[allow(non_camel_case_types, reason = "the name in C")]
pub type evs_device_event_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, event: *const evs_device_event)>;

/// What a device does; begin with all zeros. Borrowed for the call, but its functions are used
/// until evs_device_close() returns. New members are added at the end.
#[allow(non_camel_case_types, reason = "the name in C")]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct evs_device_functions {
    /// Does requests. NULL: all are refused.
    pub request: evs_device_request_fn,
    /// Is told what happens. NULL: nobody is.
    pub event: evs_device_event_fn,
    /// Handed to both.
    pub user: *mut c_void,
}

impl fmt::Debug for evs_device_functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("evs_device_functions").finish_non_exhaustive()
    }
}

const NOTHING: evs_device_functions =
    evs_device_functions { request: None, event: None, user: std::ptr::null_mut() };

/// # Safety
/// `device` is NULL, or from evs_device_start() and not ended.
unsafe fn agent<'a>(device: *const evs_device) -> io::Result<&'a DeviceAgent> {
    // SAFETY: the caller's word.
    match unsafe { device.as_ref() } {
        Some(device) => Ok(&device.running.get()?.agent),
        None => refuse(libc::EFAULT, "NULL for a handle of evs_device_start()"),
    }
}

fn failed(error: &DeviceError) -> io::Error {
    edge::explain(&error.to_string());
    io::Error::from_raw_os_error(match error {
        DeviceError::Policy(_) | DeviceError::OutOfBounds { .. } | DeviceError::Twice(_) => {
            libc::EINVAL
        }
        DeviceError::Counter(_) => libc::EIO,
        DeviceError::System(_) => libc::EAGAIN,
    })
}

/// # Safety
/// `given` is NULL or readable for `size` bytes, and its functions may be called with its `user` on
/// any thread.
unsafe fn start(
    file: Result<DeviceFile, ConfigError>,
    given: *const evs_device_functions,
    size: size_t,
) -> io::Result<evs_device> {
    let given = if given.is_null() {
        NOTHING
    } else {
        // SAFETY: the caller's word; pointers without padding.
        unsafe { sized::load(given, size, NOTHING)? }
    };
    let config = file.and_then(|file| file.device_config());
    let mut config = config.map_err(|error| told(&error))?;
    if let Some(request) = given.request {
        let user = UserData(given.user);
        config.on_request = Arc::new(move |asked: &Request| {
            let nothing = "the device has given no answer".to_owned();
            let mut answer = evs_device_answer { outcome: Outcome::Refused(nothing) };
            let (payload, len) = (asked.payload.as_ptr(), asked.payload.len());
            // SAFETY: the program's function, with what it asked for; all outlives the call.
            Callback::Device
                .run(|| unsafe { request(user.pointer(), payload.cast(), len, &raw mut answer) });
            answer.outcome
        });
    }
    let agent = DeviceAgent::start(config).map_err(|error| failed(&error))?;
    let events = given.event.map(|event| watch(&agent, event, UserData(given.user)));
    let events = events.transpose().map_err(|error| edge::told(&error))?;
    Ok(evs_device { running: Owned::new(Running { agent, events }) })
}

/// Tells the program what happens, until the device ends.
fn watch(
    agent: &DeviceAgent,
    event: unsafe extern "C" fn(*mut c_void, *const evs_device_event),
    user: UserData,
) -> io::Result<JoinHandle<()>> {
    let events = agent.events();
    std::thread::Builder::new().name("device-events".to_owned()).spawn(move || {
        for one in events {
            let (kind, controller, number, text) = described(one);
            let plain = |text: String| CString::new(text.replace('\0', " ")).unwrap_or_default();
            let (controller, text) = (plain(controller), plain(text));
            let view = evs_device_event {
                controller: controller.as_ptr(),
                text: text.as_ptr(),
                number,
                kind,
                reserved: 0,
            };
            // SAFETY: the program's function, with what it asked for; all outlives the call.
            Callback::Device.run(|| unsafe { event(user.pointer(), &raw const view) });
        }
    })
}

/// Kind, controller, number and text of an event.
fn described(event: DeviceEvent) -> (c_int, String, u64, String) {
    let event = match event {
        DeviceEvent::Machine(event) => event,
        DeviceEvent::Parameters { generation, text } => {
            return (EVS_DEVICE_PARAMETERS, String::new(), generation, text);
        }
        DeviceEvent::NotSaved { why } => {
            let text = format!("its counter cannot be kept: {why}");
            return (EVS_DEVICE_NOTE, String::new(), 0, text);
        }
    };
    match event {
        Event::Registered { controller, seq, .. } => {
            (EVS_DEVICE_REGISTERED, controller.to_string(), seq, String::new())
        }
        Event::Failed { controller, why } => {
            (EVS_DEVICE_FAILED, controller.to_string(), 0, why.into_owned())
        }
        Event::Lost { controller, why } => {
            (EVS_DEVICE_LOST, controller.to_string(), 0, why.into_owned())
        }
        Event::HandedOver { from, to } => {
            (EVS_DEVICE_HANDED_OVER, to.to_string(), 0, format!("from {from}"))
        }
        Event::HandOverFailed { from: _, to, why } => {
            (EVS_DEVICE_HAND_OVER_FAILED, to.to_string(), 0, why.into_owned())
        }
        Event::Ended { confirmed } => {
            (EVS_DEVICE_DEREGISTERED, String::new(), u64::from(confirmed), String::new())
        }
        Event::Silent { controller, .. } => {
            let text = "it has left a handshake without an answer".to_owned();
            (EVS_DEVICE_NOTE, controller.to_string(), 0, text)
        }
        Event::Odd { controller, text } => {
            (EVS_DEVICE_NOTE, controller.to_string(), 0, text.into_owned())
        }
        Event::Generation(generation) => {
            let text = "there are other parameters".to_owned();
            (EVS_DEVICE_NOTE, String::new(), generation, text)
        }
    }
}

/// Starts a device as this file says it; examples/device.toml has every key. Paths in it are
/// relative to its folder. It registers in the background, with its home or with its backup while
/// that does not answer.
///
/// `functions` may be NULL; `size` is `sizeof(struct evs_device_functions)` as the program was
/// compiled, members that it does not reach are NULL. Blocks as long as disks and name servers
/// take; cancellation does not end it.
///
/// Returns:       a handle, owned by the caller (evs_device_close); NULL with errno set. Then
///                evs_controller_error() names each line that is wrong, and the remedy.
/// Errors:        those of open(2); E2BIG (members are set that this library does not know); EAGAIN
///                (no threads); EFAULT (NULL); EILSEQ (the path is not UTF-8); EINVAL (the file);
///                EIO (a key, a name or the counter cannot be had).
/// Thread safety: any thread; so may the handle be used by any number at a time.
/// Since:         0.1
///
/// # Safety
/// `path` is a string; `functions` is NULL or readable for `size` bytes, and they may be called
/// with their `user` on any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn evs_device_start(
    path: *const c_char,
    functions: *const evs_device_functions,
    size: size_t,
) -> *mut evs_device {
    edge::handle(|| {
        // SAFETY: the caller's word.
        let path = unsafe { some_text(path)? };
        // SAFETY: as above.
        unsafe { start(DeviceFile::from_file(Path::new(&path)), functions, size) }
    })
}

/// evs_device_start() with the text of such a file; `folder` is what paths in it are relative to.
///
/// Returns:       a handle, owned by the caller (evs_device_close); NULL with errno set.
/// Errors:        those of evs_device_start(); EILSEQ (not UTF-8).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `text` and `folder` are strings; `functions` as with evs_device_start().
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn evs_device_start_text(
    text: *const c_char,
    folder: *const c_char,
    functions: *const evs_device_functions,
    size: size_t,
) -> *mut evs_device {
    edge::handle(|| {
        // SAFETY: the caller's word.
        let (text, folder) = unsafe { (some_text(text)?, some_text(folder)?) };
        let file = DeviceFile::from_text(&text, "the device's text", Path::new(&folder));
        // SAFETY: as above.
        unsafe { start(file, functions, size) }
    })
}

/// Answers the request with these bytes, at most 262,144, which are copied. The last call counts.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EMSGSIZE (too many bytes).
/// Thread safety: the thread of the callback.
/// Since:         0.1
///
/// # Safety
/// `answer` is that of a callback that runs; `bytes` is readable for `len`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_device_answer_done(
    answer: *mut evs_device_answer,
    bytes: *const c_void,
    len: size_t,
) -> c_int {
    edge::status(|| {
        if len > PAYLOAD_MAX {
            let text = format!("{len} bytes of an answer: {PAYLOAD_MAX} are allowed");
            return refuse(libc::EMSGSIZE, text);
        }
        // SAFETY: the caller's word.
        let bytes = unsafe { memory::bytes(bytes, len)? }.to_vec();
        // SAFETY: as above.
        unsafe { set(answer, Outcome::Done(bytes)) }
    })
}

/// Refuses the request; `why` is for people, and cut at 1,024 bytes. The last call counts.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); EILSEQ (not UTF-8).
/// Thread safety: the thread of the callback.
/// Since:         0.1
///
/// # Safety
/// `answer` is that of a callback that runs; `why` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_device_answer_refused(
    answer: *mut evs_device_answer,
    why: *const c_char,
) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let mut why = unsafe { some_text(why)? };
        let end = (0..=TEXT_MAX.min(why.len())).rev().find(|&at| why.is_char_boundary(at));
        why.truncate(end.unwrap_or(0));
        // SAFETY: as above.
        unsafe { set(answer, Outcome::Refused(why)) }
    })
}

/// # Safety
/// `answer` is NULL, or that of a callback that runs.
unsafe fn set(answer: *mut evs_device_answer, outcome: Outcome) -> io::Result<()> {
    // SAFETY: the caller's word; only that callback has it.
    match unsafe { answer.as_mut() } {
        Some(answer) => {
            answer.outcome = outcome;
            Ok(())
        }
        None => refuse(libc::EFAULT, "NULL for the answer of a callback"),
    }
}

/// Tells where a device stands. Stores who serves it, with a NUL behind, as much of it as there is
/// room for (65 bytes are enough; empty for nobody), and the counter of that registration. Never
/// blocks.
///
/// Returns:       EVS_DEVICE_SEEKING to EVS_DEVICE_ENDED, or -errno.
/// Errors:        EFAULT (NULL); EIO (its threads have ended by themselves: evs_controller_error()
///                says why); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `device` is from evs_device_start() and not ended; `controller` is NULL with no `size`, or
/// writable for `size` bytes; `counter` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_device_state(
    device: *const evs_device,
    controller: *mut c_char,
    size: size_t,
    counter: *mut u64,
) -> c_int {
    edge::length(|| {
        // SAFETY: the caller's word.
        let state = unsafe { agent(device)? }.state();
        if !state.failure.is_empty() {
            return refuse(libc::EIO, state.failure);
        }
        let (who, seq) =
            state.registered.map_or((String::new(), 0), |(who, seq)| (who.to_string(), seq));
        // SAFETY: as above.
        unsafe { edge::store_text(&who, controller, size)? };
        if !counter.is_null() {
            // SAFETY: as above.
            unsafe { memory::write(counter, seq)? };
        }
        Ok(match state.state {
            State::Idle | State::Seeking => EVS_DEVICE_SEEKING,
            State::Home => EVS_DEVICE_HOME,
            State::Backup => EVS_DEVICE_BACKUP,
            State::Probing => EVS_DEVICE_PROBING,
            State::HandingOver => EVS_DEVICE_HANDING_OVER,
            State::Leaving | State::Ended => EVS_DEVICE_ENDED,
        })
    })
}

/// Says that the device has something to do that no hand-over may tear (`busy` is not 0), or has
/// done it. Requests under way count by themselves. Never blocks.
///
/// Returns:       0, or -errno.
/// Errors:        EFAULT (NULL); ESHUTDOWN (a child of a fork).
/// Thread safety: any thread, callbacks too.
/// Since:         0.1
///
/// # Safety
/// `device` is from evs_device_start() and not ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_device_set_busy(device: *mut evs_device, busy: c_int) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        unsafe { agent(device)? }.set_busy(busy != 0);
        Ok(())
    })
}

/// Asks something of another device, through the controller that serves this one; otherwise as
/// evs_controller_request().
///
/// Returns:       0, or -errno; then `done` is never called, and nothing was asked.
/// Errors:        those of evs_controller_request().
/// Thread safety: any thread, callbacks too.
/// Since:         0.1
///
/// # Safety
/// `device` is from evs_device_start() and not ended; the others as with evs_controller_request().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_device_request(
    device: *mut evs_device,
    other: *const c_char,
    payload: *const c_void,
    payload_len: size_t,
    deadline_ms: u32,
    done: evs_controller_done_fn,
    user: *mut c_void,
) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let agent = unsafe { agent(device)? };
        // SAFETY: as above.
        let asked = unsafe {
            let kind = Callback::Device;
            Asked::read(other, payload, payload_len, deadline_ms, done, user, kind)?
        };
        agent.request_with(asked.device, asked.deadline, asked.payload, asked.reply);
        Ok(())
    })
}

/// Ends the registration, so that controllers forget the device. Blocks until a controller has
/// confirmed it, for the file's `answer-within` at most; cancellation does not end it.
///
/// Returns:       0, or -errno.
/// Errors:        EDEADLK (in a callback); EFAULT (NULL); ESHUTDOWN (a child of a fork); ETIMEDOUT
///                (no controller has confirmed it: the registration ends with its lease).
/// Thread safety: any thread.
/// Since:         0.1
///
/// # Safety
/// `device` is from evs_device_start() and not ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_device_deregister(device: *mut evs_device) -> c_int {
    edge::status(|| {
        // SAFETY: the caller's word.
        let agent = unsafe { agent(device)? };
        Callback::Device.refuse_within()?;
        if agent.deregister() {
            return Ok(());
        }
        refuse(libc::ETIMEDOUT, "no controller has confirmed that the registration has ended")
    })
}

/// Ends a device, and frees the handle. NULL is ignored. Its registration stays until its lease is
/// over; see evs_device_deregister(). Callbacks that run are waited for; blocks for some seconds at
/// most besides. Cancellation does not end it.
///
/// Returns:       0, or -errno.
/// Errors:        EDEADLK (in a callback; the handle stays).
/// Thread safety: one thread, when no other uses the handle any more.
/// Since:         0.1
///
/// # Safety
/// `device` is NULL, or from evs_device_start() and not yet ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn evs_device_close(device: *mut evs_device) -> c_int {
    edge::status(|| {
        let close = |device: evs_device| {
            let Running { agent, events } = device.running.into_inner();
            agent.close();
            // With it goes who tells of events.
            drop(agent);
            // A callback that has panicked has nothing more to say.
            let _panicked = events.map(JoinHandle::join);
        };
        // SAFETY: the caller's word.
        unsafe {
            edge::end(device, Callback::Device, close, |device| device.running.belongs_here())
        }
    })
}
