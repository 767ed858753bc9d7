//! Who sleeps on one socket, and who reads for all.

use std::os::fd::RawFd;

use super::sync::{AtomicU8, AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError};

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
#[derive(Debug)]
pub(crate) struct Sleepers {
    bells: Mutex<Vec<RawFd>>,
    count: AtomicUsize,
    leader: AtomicU8,
}

/// A bell that is on a socket's list.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    sleepers: &'a Sleepers,
    number: RawFd,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.sleepers.remove(self.number);
    }
}

impl Default for Sleepers {
    fn default() -> Self {
        Self {
            bells: Mutex::new(Vec::new()),
            count: AtomicUsize::new(0),
            leader: AtomicU8::new(NOBODY),
        }
    }
}

impl Sleepers {
    /// Puts a bell, which is rung by `number`, on the list for as long as what this gives lives,
    /// also when the sleep is unwound (thread cancellation): a bell that is given back while it is
    /// on a list would be rung under a number that may be another file's.
    #[must_use]
    pub(crate) fn list_by<'a, B>(&'a self, _bell: &'a B, number: RawFd) -> Listed<'a> {
        self.hold().push(number);
        self.count.fetch_add(1, Ordering::SeqCst);
        Listed { sleepers: self, number }
    }

    fn remove(&self, number: RawFd) {
        let mut bells = self.hold();
        if let Some(at) = bells.iter().position(|&listed| listed == number) {
            bells.swap_remove(at);
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Calls `notify` with the number of each bell on the list.
    pub(crate) fn ring_by(&self, notify: impl Fn(RawFd)) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        for &bell in self.hold().iter() {
            notify(bell);
        }
    }

    /// Becomes the leader, if there is none; `reading` who will sleep in the read itself: then the
    /// file under the number must stay until it is out.
    pub(crate) fn lead(&self, reading: bool) -> bool {
        let role = if reading { READING } else { LOOKING };
        self.leader.compare_exchange(NOBODY, role, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The leader has read; those who waited for it look again.
    pub(crate) fn stop_leading_by(&self, notify: impl Fn(RawFd)) {
        self.leader.store(NOBODY, Ordering::SeqCst);
        self.ring_by(notify);
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

    /// True while a reader is in the read itself, whose bytes belong to the connection that stands:
    /// `wake` brings it out, and who wants to change the connection comes back. Under the receiving
    /// lock.
    pub(crate) fn reader_must_leave(&self, wake: impl FnOnce()) -> bool {
        let must = self.is_reading();
        if must {
            wake();
        }
        must
    }

    /// Whether what a reader brings counts, when it comes out; not if it was disowned meanwhile.
    /// Under the receiving lock.
    pub(crate) fn counts_what_came(&self) -> bool {
        self.is_reading()
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
