//! Waking threads that sleep on a virtual socket.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::meet::sleepers::{Listed, Sleepers};
use crate::sys::{Fd, fd};

/// An eventfd on loan to one sleeping thread.
#[derive(Debug)]
pub(crate) struct Bell(Option<Fd>);

static SPARE: Mutex<Vec<Fd>> = Mutex::new(Vec::new());
const SPARE_MAX: usize = 64;

impl Bell {
    /// Borrows one from the pool.
    pub(crate) fn new() -> io::Result<Self> {
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match spare {
            Some(fd) => Ok(Self(Some(fd))),
            None => Ok(Self(Some(fd::eventfd()?))),
        }
    }

    /// The number to poll.
    pub(crate) fn number(&self) -> RawFd {
        self.0.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Takes the notices.
    pub(crate) fn silence(&self) {
        fd::drain_notices(self.number());
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.silence();
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.extend(self.0.take());
        }
    }
}

/// Holds the pool still around a fork.
pub(crate) fn hold() -> MutexGuard<'static, Vec<Fd>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sleepers {
    /// Puts a bell on the list for as long as what this gives lives.
    #[must_use]
    pub(crate) fn list<'a>(&'a self, bell: &'a Bell) -> Listed<'a> {
        self.list_by(bell, bell.number())
    }

    /// Wakes all who are on the list.
    pub(crate) fn ring(&self) {
        self.ring_by(fd::notify);
    }

    /// The leader has read; those who waited for it look again.
    pub(crate) fn stop_leading(&self) {
        self.stop_leading_by(fd::notify);
    }
}
