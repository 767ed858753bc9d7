//! From descriptor to virtual socket: a two-level array of atomic words, read without a lock.
//!
//! What a word is and how it is read and changed is in `crate::meet::slot`; a number that is not
//! virtual costs one load, and the caller passes straight on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::listener::Listener;
use crate::meet::slot::{self, Slot};
use crate::meet::sync::AtomicPtr;
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

type Leaf = [Slot<Entry>; LEAF];

static ROOT: [AtomicPtr<Leaf>; LEAVES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; LEAVES];

const WORD_BITS: usize = 64;

/// Numbers that were virtual and name a plain connection now, until they are virtual again. What is
/// neither may be a session's that is being closed at this moment.
static PLAIN: [AtomicU64; LEAF * LEAVES / WORD_BITS] =
    [const { AtomicU64::new(0) }; LEAF * LEAVES / WORD_BITS];

fn plain_word(number: i32) -> Option<(&'static AtomicU64, u64)> {
    let number = usize::try_from(number).ok()?;
    Some((PLAIN.get(number / WORD_BITS)?, 1 << (number % WORD_BITS)))
}

/// The number is about to be taken out, as it names a plain connection.
pub(crate) fn note_plain(number: i32) {
    if let Some((word, bit)) = plain_word(number) {
        word.fetch_or(bit, Ordering::SeqCst);
    }
}

/// True for a number that has become a plain connection's.
pub(crate) fn is_plain(number: i32) -> bool {
    !has(number)
        && plain_word(number).is_some_and(|(word, bit)| word.load(Ordering::SeqCst) & bit != 0)
}

fn slot(number: i32) -> Option<&'static Slot<Entry>> {
    let number = usize::try_from(number).ok()?;
    Some(&slot::leaf(ROOT.get(number / LEAF)?)?[number % LEAF])
}

fn slot_or_new(number: i32) -> Option<&'static Slot<Entry>> {
    let number = usize::try_from(number).ok()?;
    Some(&slot::leaf_or_new(ROOT.get(number / LEAF)?)?[number % LEAF])
}

/// True when a number has an entry; one load.
#[inline]
pub(crate) fn has(number: i32) -> bool {
    slot(number).is_some_and(Slot::is_taken)
}

/// The virtual socket at a number, if there is one.
#[inline]
pub(crate) fn get(number: i32) -> Option<Entry> {
    slot(number)?.get()
}

/// False for numbers that no virtual socket can have.
pub(crate) fn can_hold(number: i32) -> bool {
    usize::try_from(number).is_ok_and(|number| number < LEAF * LEAVES)
}

/// Enters a virtual socket at a number; gives what was there. `None` as the first when the number
/// is beyond the table (over a million).
pub(crate) fn set(number: i32, entry: Entry) -> Result<Option<Entry>, Entry> {
    if let Some((word, bit)) = plain_word(number)
        && word.load(Ordering::Relaxed) & bit != 0
    {
        word.fetch_and(!bit, Ordering::SeqCst);
    }
    match slot_or_new(number) {
        Some(slot) => Ok(slot.set(entry)),
        None => Err(entry),
    }
}

/// Removes the entry of a number; gives it.
pub(crate) fn take(number: i32) -> Option<Entry> {
    slot(number)?.take()
}

/// Removes the entry of a number if it is still this socket's: the number may have been closed
/// behind our back and be another's by now.
pub(crate) fn take_of(number: i32, socket: &Arc<Socket>) {
    let Some(slot) = slot(number) else { return };
    drop(slot.take_if(|entry| matches!(entry, Entry::Stream(found) if Arc::ptr_eq(found, socket))));
}

/// Calls `visit` with every number that has an entry; by loads alone.
pub(crate) fn for_each_number(mut visit: impl FnMut(i32)) {
    for (high, root) in ROOT.iter().enumerate() {
        let Some(leaf) = slot::leaf(root) else { continue };
        for (low, slot) in leaf.iter().enumerate() {
            if slot.is_taken() {
                visit(i32::try_from(high * LEAF + low).unwrap_or(i32::MAX));
            }
        }
    }
}

/// In a fork child: a thread that the child does not have may have held a slot's lock.
pub(crate) fn unlock_all() {
    for leaf in ROOT.iter().filter_map(slot::leaf) {
        leaf.iter().for_each(Slot::unlock);
    }
}
