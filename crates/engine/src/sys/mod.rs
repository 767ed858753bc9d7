//! Every system call of the engine, and all of its unsafe code.
//!
//! The data path uses rustix, whose calls reach the kernel without passing through libc names that
//! another library may have interposed.

pub(crate) mod calls;
pub(crate) mod fd;
pub(crate) mod io;
pub(crate) mod names;
pub(crate) mod pass;
pub(crate) mod process;
pub(crate) mod tcp;
pub(crate) mod thread;
pub(crate) mod udp;

pub(crate) use fd::{Fd, borrow, open};
