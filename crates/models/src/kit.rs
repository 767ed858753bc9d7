//! What stands around the engine's files in a model: values that notice how they are used, bells
//! and connections as the kernel has them.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex, Notify};

/// A value that notices when it is copied while somebody else ends it, and when it is never ended.
#[derive(Debug)]
pub(crate) struct Witness {
    id: UnsafeCell<u32>,
    // The checker complains when one of these is left at the end.
    _alive: Arc<()>,
}

impl Witness {
    pub(crate) fn new(id: u32) -> Self {
        Self { id: UnsafeCell::new(id), _alive: Arc::new(()) }
    }

    pub(crate) fn id(&self) -> u32 {
        // SAFETY: the checker fails the model if anybody may be writing.
        self.id.with(|id| unsafe { *id })
    }
}

// SAFETY: what a cell is used for is checked at each use.
unsafe impl Send for Witness {}
// SAFETY: as above.
unsafe impl Sync for Witness {}

impl Clone for Witness {
    fn clone(&self) -> Self {
        Self::new(self.id())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // SAFETY: as in `id`.
        self.id.with_mut(|id| unsafe { *id = 0 });
    }
}

/// Something whose end takes a lock, which a model that has failed has no more.
#[derive(Debug)]
pub(crate) struct EndedIfWell<T>(ManuallyDrop<T>);

impl<T> EndedIfWell<T> {
    pub(crate) fn new(it: T) -> Self {
        Self(ManuallyDrop::new(it))
    }
}

impl<T> Drop for EndedIfWell<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: nobody uses it afterwards, as this is its end.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}

/// An eventfd and the one thread that sleeps on it, which may also wake without cause.
#[derive(Debug, Default)]
pub(crate) struct Bell(Notify);

impl Bell {
    pub(crate) fn ring(&self) {
        self.0.notify();
    }

    /// Sleeps until it was rung, and silences it.
    pub(crate) fn sleep(&self) {
        self.0.wait();
    }
}

/// One end of a connection: what is queued, each byte with the epoch that it was sent in.
#[derive(Debug, Default)]
pub(crate) struct Line {
    state: Mutex<(VecDeque<u64>, bool)>,
    came: Condvar,
}

impl Line {
    pub(crate) fn send(&self, byte: u64) {
        self.state.lock().unwrap().0.push_back(byte);
        self.came.notify_all();
    }

    /// `shutdown` of the receiving side: what is queued can be read still.
    pub(crate) fn shut(&self) {
        self.state.lock().unwrap().1 = true;
        self.came.notify_all();
    }

    /// A read that sleeps; `None` for the end.
    pub(crate) fn read(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(byte) = state.0.pop_front() {
                return Some(byte);
            }
            if state.1 {
                return None;
            }
            state = self.came.wait(state).unwrap();
        }
    }

    /// A look that sleeps until there is something to read.
    pub(crate) fn look(&self) {
        let mut state = self.state.lock().unwrap();
        while state.0.is_empty() && !state.1 {
            state = self.came.wait(state).unwrap();
        }
    }

    /// A read that does not sleep.
    pub(crate) fn take(&self) -> Option<u64> {
        self.state.lock().unwrap().0.pop_front()
    }
}
