//! Eversock under programs that cannot be changed: a library for LD_PRELOAD that defines libc's
//! socket calls.
//!
//! A descriptor that is not virtual costs one load, and goes to the next definition of the call
//! with the same arguments. A TCP socket becomes virtual where it stands when the program connects
//! it or listens on it and a rule (`eversock-rules`) says so; from then on each call on it is the
//! engine's twin of that call.
//!
//! * `next`: the next definition of each name, and the macro that defines ours.
//! * `edge`: errno, panics, and who must not come in (a child between vfork and exec).
//! * `setup`: the rules, and what they mean to the engine.
//! * `early`: what must be remembered of sockets that may become virtual.
//! * `shared`: connections that share a session, which are ordinary sockets.
//! * `hooks`: the names.
//!
//! Until a socket becomes virtual there is no thread, no lock, no allocation and no descriptor of
//! ours. Calls in which a thread may sleep are unwound by a cancellation, so nothing catches
//! around them; the engine guards what it does while it is awake.
//!
//! Not here: what a call does to a virtual socket, which is the engine's; `src/ffi`, whose symbols
//! this library would export too.

mod early;
mod edge;
mod hooks;
mod next;
mod setup;
mod shared;
mod voice;
