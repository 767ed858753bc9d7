//! What must be remembered of descriptors that may become virtual: in which epoll set each was put
//! before its connect or listen, as nginx and libuv do; and which listeners have no rule. All else
//! can be read back.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use libc::{c_int, epoll_event};
use rustix::mm::{MapFlags, ProtFlags};

const LEAF: usize = 1024;
const LEAVES: usize = 1024;

/// One descriptor's last registration. Only a program that registers one descriptor in two threads
/// at once could see one half of each, and it would not know either which it made.
struct Slot {
    /// The set, plus one; 0 for none.
    set: AtomicI32,
    events: AtomicU32,
    data: AtomicU64,
    /// It listens, and no rule holds for it.
    stays_plain: AtomicBool,
}

type Leaf = [Slot; LEAF];

static ROOT: [AtomicPtr<Leaf>; LEAVES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; LEAVES];

fn slot(number: c_int) -> Option<&'static Slot> {
    let number = usize::try_from(number).ok()?;
    let leaf = ROOT.get(number / LEAF)?.load(Ordering::Acquire);
    // SAFETY: a leaf is mapped once, zeroed, which is a value of it, and never unmapped.
    Some(unsafe { &leaf.as_ref()?[number % LEAF] })
}

fn slot_or_new(number: c_int) -> Option<&'static Slot> {
    if let Some(slot) = slot(number) {
        return Some(slot);
    }
    let root = ROOT.get(usize::try_from(number).ok()? / LEAF)?;
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    let null = std::ptr::null_mut();
    // SAFETY: a fresh anonymous mapping aliases nothing.
    let fresh = unsafe { rustix::mm::mmap_anonymous(null, size_of::<Leaf>(), prot, flags).ok()? };
    let won = root.compare_exchange(
        std::ptr::null_mut(),
        fresh.cast(),
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    if won.is_err() {
        // SAFETY: ours was never published.
        let _unmapped = unsafe { rustix::mm::munmap(fresh, size_of::<Leaf>()) };
    }
    slot(number)
}

/// The program registered a descriptor that is not virtual.
pub(crate) fn registered(set: c_int, op: c_int, number: c_int, event: epoll_event) {
    if op == libc::EPOLL_CTL_DEL {
        if let Some(slot) = slot(number).filter(|slot| slot.set.load(Ordering::Relaxed) == set + 1)
        {
            slot.set.store(0, Ordering::Relaxed);
        }
        return;
    }
    let Some(slot) = slot_or_new(number) else { return };
    slot.events.store(event.events, Ordering::Relaxed);
    slot.data.store(event.u64, Ordering::Relaxed);
    slot.set.store(set + 1, Ordering::Release);
}

/// The number is closed, or names another file.
#[inline]
pub(crate) fn forget(number: c_int) {
    if let Some(slot) = slot(number) {
        slot.set.store(0, Ordering::Relaxed);
        slot.stays_plain.store(false, Ordering::Relaxed);
    }
}

/// A listener at this number was looked at, and no rule holds for it.
pub(crate) fn note_plain(number: c_int) {
    if let Some(slot) = slot_or_new(number) {
        slot.stays_plain.store(true, Ordering::Relaxed);
    }
}

/// True when that was found before.
pub(crate) fn stays_plain(number: c_int) -> bool {
    slot(number).is_some_and(|slot| slot.stays_plain.load(Ordering::Relaxed))
}

/// Where the number is registered, as far as is known: the set and the event.
pub(crate) fn registration(number: c_int) -> Option<(c_int, epoll_event)> {
    let slot = slot(number)?;
    let set = slot.set.load(Ordering::Acquire);
    let event = epoll_event {
        events: slot.events.load(Ordering::Relaxed),
        u64: slot.data.load(Ordering::Relaxed),
    };
    (set > 0).then_some((set - 1, event))
}
