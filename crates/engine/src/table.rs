//! From descriptor to virtual socket: a two-level array of atomic words, read without a lock.
//!
//! A word is 0 (not virtual: one load and the caller passes straight on) or the address of an
//! `Arc<Entry>` with the lowest bit as a lock, held only while the reference is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::listener::Listener;
use crate::socket::Socket;

/// What a virtual descriptor stands for.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A stream, connected or not yet.
    Stream(Arc<Socket>),
    /// A listener.
    Listener(Arc<Listener>),
}

const LEAF: usize = 1024;
const LEAVES: usize = 1024;
const LOCKED: usize = 1;

type Leaf = [AtomicUsize; LEAF];

static ROOT: [AtomicPtr<Leaf>; LEAVES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; LEAVES];

fn slot(number: i32) -> Option<&'static AtomicUsize> {
    let number = usize::try_from(number).ok()?;
    let leaf = ROOT.get(number / LEAF)?.load(Ordering::Acquire);
    // SAFETY: a leaf is allocated once, published with Release and never freed.
    Some(unsafe { &leaf.as_ref()?[number % LEAF] })
}

fn slot_or_new(number: i32) -> Option<&'static AtomicUsize> {
    if let Some(slot) = slot(number) {
        return Some(slot);
    }
    let root = ROOT.get(usize::try_from(number).ok()? / LEAF)?;
    let fresh: Box<Leaf> = Box::new([const { AtomicUsize::new(0) }; LEAF]);
    let fresh = Box::into_raw(fresh);
    let null = std::ptr::null_mut();
    if root.compare_exchange(null, fresh, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // SAFETY: somebody else was first; ours was never published.
        drop(unsafe { Box::from_raw(fresh) });
    }
    slot(number)
}

/// Takes the slot's lock; gives the address, or `None` when it is empty.
fn lock(slot: &AtomicUsize) -> Option<usize> {
    let mut spins = 0u32;
    loop {
        let word = slot.load(Ordering::Relaxed);
        if word == 0 {
            return None;
        }
        let free = word & !LOCKED;
        if slot
            .compare_exchange_weak(free, free | LOCKED, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            return Some(free);
        }
        spins += 1;
        // Held for a few instructions only, unless its holder was preempted.
        if spins.is_multiple_of(128) { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
}

/// True when a number has an entry; one load.
#[inline]
pub(crate) fn has(number: i32) -> bool {
    slot(number).is_some_and(|slot| slot.load(Ordering::Relaxed) != 0)
}

/// The virtual socket at a number, if there is one.
#[inline]
pub(crate) fn get(number: i32) -> Option<Entry> {
    let slot = slot(number)?;
    if slot.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let address = lock(slot)?;
    // SAFETY: the address came from `Box::into_raw` in `set` and is freed only by whoever empties
    // the slot under its lock, which we hold.
    let entry = unsafe { (*(address as *const Entry)).clone() };
    slot.store(address, Ordering::Release);
    Some(entry)
}

/// False for numbers that no virtual socket can have.
pub(crate) fn can_hold(number: i32) -> bool {
    usize::try_from(number).is_ok_and(|number| number < LEAF * LEAVES)
}

/// Enters a virtual socket at a number; gives what was there. `None` as the first when the number
/// is beyond the table (over a million).
pub(crate) fn set(number: i32, entry: Entry) -> Result<Option<Entry>, Entry> {
    let Some(slot) = slot_or_new(number) else { return Err(entry) };
    let fresh = Box::into_raw(Box::new(entry)) as usize;
    loop {
        if let Some(address) = lock(slot) {
            slot.store(fresh, Ordering::Release);
            // SAFETY: from `Box::into_raw`, and nobody else can reach it any more.
            return Ok(Some(*unsafe { Box::from_raw(address as *mut Entry) }));
        }
        if slot.compare_exchange(0, fresh, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return Ok(None);
        }
    }
}

/// Removes the entry of a number; gives it.
pub(crate) fn take(number: i32) -> Option<Entry> {
    let slot = slot(number)?;
    let address = lock(slot)?;
    slot.store(0, Ordering::Release);
    // SAFETY: from `Box::into_raw`, and nobody else can reach it any more.
    Some(*unsafe { Box::from_raw(address as *mut Entry) })
}

/// Removes the entry of a number if it is still this socket's: the number may have been closed
/// behind our back and be another's by now.
pub(crate) fn take_of(number: i32, socket: &Arc<Socket>) {
    let Some(slot) = slot(number) else { return };
    let Some(address) = lock(slot) else { return };
    // SAFETY: as in `get`; nobody frees it while we hold the slot's lock.
    let entry = unsafe { &*(address as *const Entry) };
    let is_its_own = matches!(entry, Entry::Stream(found) if Arc::ptr_eq(found, socket));
    slot.store(if is_its_own { 0 } else { address }, Ordering::Release);
    if is_its_own {
        // SAFETY: from `Box::into_raw`, and nobody else can reach it any more.
        drop(unsafe { Box::from_raw(address as *mut Entry) });
    }
}

/// Calls `visit` with every number that has an entry; by loads alone.
pub(crate) fn for_each_number(mut visit: impl FnMut(i32)) {
    for (high, root) in ROOT.iter().enumerate() {
        let leaf = root.load(Ordering::Acquire);
        // SAFETY: as in `slot`.
        let Some(leaf) = (unsafe { leaf.as_ref() }) else { continue };
        for (low, word) in leaf.iter().enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                visit(i32::try_from(high * LEAF + low).unwrap_or(i32::MAX));
            }
        }
    }
}

/// In a fork child: a thread that the child does not have may have held a slot's lock.
pub(crate) fn unlock_all() {
    for root in &ROOT {
        let leaf = root.load(Ordering::Acquire);
        // SAFETY: as in `slot`.
        let Some(leaf) = (unsafe { leaf.as_ref() }) else { continue };
        for word in leaf {
            word.fetch_and(!LOCKED, Ordering::SeqCst);
        }
    }
}
