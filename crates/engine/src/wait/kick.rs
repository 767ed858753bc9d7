//! Waking threads that sleep on a virtual socket.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// A bell that is on a socket's list.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    sleepers: &'a Sleepers,
    bell: &'a Bell,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.sleepers.remove(self.bell);
    }
}

/// Nobody leads.
const NOBODY: u8 = 0;
/// A reader sleeps in a look at the number.
const LOOKING: u8 = 1;
/// A reader is in the read itself.
const READING: u8 = 2;

/// Who sleeps on one socket.
///
/// One reader may sleep in the kernel on the number itself: the leader. Nobody else consumes input
/// then. Whoever is about to sleep on a bell adds it and looks again afterwards; whoever changes
/// something changes it and looks for bells afterwards: so one of the two sees the other.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    bells: Mutex<Vec<RawFd>>,
    count: AtomicUsize,
    leader: AtomicU8,
}

impl Sleepers {
    /// Puts a bell on the list for as long as what this gives lives, also when the sleep is unwound
    /// (thread cancellation): a bell that is given back while it is on a list would be rung under a
    /// number that may be another file's.
    #[must_use]
    pub(crate) fn list<'a>(&'a self, bell: &'a Bell) -> Listed<'a> {
        self.hold().push(bell.number());
        self.count.fetch_add(1, Ordering::SeqCst);
        Listed { sleepers: self, bell }
    }

    fn remove(&self, bell: &Bell) {
        let mut bells = self.hold();
        if let Some(at) = bells.iter().position(|&number| number == bell.number()) {
            bells.swap_remove(at);
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    pub(crate) fn ring(&self) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        for &bell in self.hold().iter() {
            fd::notify(bell);
        }
    }

    /// Becomes the leader, if there is none; `reading` who will sleep in the read itself: then the
    /// file under the number must stay until it is out.
    pub(crate) fn lead(&self, reading: bool) -> bool {
        let role = if reading { READING } else { LOOKING };
        self.leader.compare_exchange(NOBODY, role, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The leader has read; those who waited for it look again.
    pub(crate) fn stop_leading(&self) {
        self.leader.store(NOBODY, Ordering::SeqCst);
        self.ring();
    }

    /// Who reads has a file that nobody can reach any more: what he brings is of no use, and nobody
    /// waits for him. Under the receiving lock.
    pub(crate) fn disown_reader(&self) {
        let order = Ordering::SeqCst;
        let _nobody = self.leader.compare_exchange(READING, NOBODY, order, order);
    }

    pub(crate) fn has_leader(&self) -> bool {
        self.leader.load(Ordering::SeqCst) != NOBODY
    }

    pub(crate) fn is_reading(&self) -> bool {
        self.leader.load(Ordering::SeqCst) == READING
    }

    /// Holds the list still, as is needed around a fork.
    pub(crate) fn hold(&self) -> MutexGuard<'_, Vec<RawFd>> {
        // The list is whole whatever its holder did.
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a fork child, which has none of the threads that slept; `bells` is the held list.
    pub(crate) fn forget(&self, bells: &mut Vec<RawFd>) {
        bells.clear();
        self.count.store(0, Ordering::SeqCst);
        self.leader.store(NOBODY, Ordering::SeqCst);
    }
}
