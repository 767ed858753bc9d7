//! One place of the table: a word that is 0, or the address of a boxed value with the lowest bit as
//! a lock, held only while the value is copied or taken out.

use std::marker::PhantomData;

use super::sync::{AtomicPtr, AtomicUsize, Ordering, spin_loop, yield_now};

const LOCKED: usize = 1;

/// A place for one value, read by one load while it is empty.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Slot<T> {
    word: AtomicUsize,
    of: PhantomData<Box<T>>,
}

impl<T: Clone + Send + Sync> Slot<T> {
    pub(crate) fn new() -> Self {
        const { assert!(align_of::<T>() > LOCKED, "the lowest bit of an address is the lock") };
        Self { word: AtomicUsize::new(0), of: PhantomData }
    }

    /// True when it has a value; one load.
    #[inline]
    pub(crate) fn is_taken(&self) -> bool {
        self.word.load(Ordering::Relaxed) != 0
    }

    /// A copy of the value.
    #[inline]
    pub(crate) fn get(&self) -> Option<T> {
        if !self.is_taken() {
            return None;
        }
        let address = self.lock()?;
        // SAFETY: the address came from `Box::into_raw` in `set` and is freed only by whoever
        // empties the slot under its lock, which we hold.
        let value = unsafe { (*(address as *const T)).clone() };
        self.word.store(address, Ordering::Release);
        Some(value)
    }

    /// Puts a value in; gives what was there.
    pub(crate) fn set(&self, value: T) -> Option<T> {
        let fresh = Box::into_raw(Box::new(value)) as usize;
        loop {
            if let Some(address) = self.lock() {
                self.word.store(fresh, Ordering::Release);
                // SAFETY: from `Box::into_raw`, and nobody else can reach it any more.
                return Some(*unsafe { Box::from_raw(address as *mut T) });
            }
            if self.word.compare_exchange(0, fresh, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return None;
            }
        }
    }

    /// Takes the value out.
    pub(crate) fn take(&self) -> Option<T> {
        self.take_if(|_| true)
    }

    /// Takes the value out if it is the one that is meant. What `is_it` does, it does under the
    /// slot's lock.
    pub(crate) fn take_if(&self, is_it: impl FnOnce(&T) -> bool) -> Option<T> {
        let address = self.lock()?;
        // SAFETY: as in `get`; nobody frees it while we hold the slot's lock.
        let is_it = is_it(unsafe { &*(address as *const T) });
        self.word.store(if is_it { 0 } else { address }, Ordering::Release);
        // SAFETY: from `Box::into_raw`, and nobody else can reach it any more.
        is_it.then(|| *unsafe { Box::from_raw(address as *mut T) })
    }

    /// In a fork child: a thread that the child does not have may have held the lock.
    pub(crate) fn unlock(&self) {
        self.word.fetch_and(!LOCKED, Ordering::SeqCst);
    }

    /// Takes the lock; gives the address, or `None` when the slot is empty.
    fn lock(&self) -> Option<usize> {
        let mut spins = 0u32;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word == 0 {
                return None;
            }
            let free = word & !LOCKED;
            if self
                .word
                .compare_exchange_weak(free, free | LOCKED, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                return Some(free);
            }
            spins += 1;
            // Held for a few instructions only, unless its holder was preempted.
            if spins.is_multiple_of(128) { yield_now() } else { spin_loop() }
        }
    }
}

/// A part of the table, once there is one.
pub(crate) fn leaf<T, const N: usize>(root: &AtomicPtr<[Slot<T>; N]>) -> Option<&[Slot<T>; N]> {
    // SAFETY: a leaf is allocated once, published with Release and never freed.
    unsafe { root.load(Ordering::Acquire).as_ref() }
}

/// The same; makes it where there is none.
pub(crate) fn leaf_or_new<T: Clone + Send + Sync, const N: usize>(
    root: &AtomicPtr<[Slot<T>; N]>,
) -> Option<&[Slot<T>; N]> {
    if let Some(leaf) = leaf(root) {
        return Some(leaf);
    }
    let fresh = Box::into_raw(Box::new(std::array::from_fn(|_| Slot::new())));
    let null = std::ptr::null_mut();
    if root.compare_exchange(null, fresh, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // SAFETY: somebody else was first; ours was never published.
        drop(unsafe { Box::from_raw(fresh) });
    }
    leaf(root)
}
