//! Waiting for virtual and other descriptors.
//!
//! What the kernel cannot know (bytes read ahead, an end, an error, a shut window) is kept as bits
//! in each socket; the waits here add it to what the kernel reports, take away what is only the
//! real socket's, and are woken through an eventfd when a bit changes.

mod control;
pub(crate) mod epoll;
pub(crate) mod kick;
pub(crate) mod poll;
