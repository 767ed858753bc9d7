//! The table: who copies, puts in and takes out at the same moment. Two threads each: of two that
//! spin for a third, the checker lets each give way to the other for ever.

use std::sync::Arc;

use loom::thread;

use super::slot::{self, Slot};
use super::sync::{AtomicPtr, Ordering};
use crate::kit::Witness;

/// A call that finds its socket while another closes the number.
pub(crate) fn find_and_close() {
    let slot = Arc::new(Slot::new());
    assert!(slot.set(Witness::new(1)).is_none());
    let closer = {
        let slot = Arc::clone(&slot);
        thread::spawn(move || slot.take().map(|taken| taken.id()))
    };
    let found = slot.get().map(|found| found.id());
    assert!(found.is_none_or(|id| id == 1));
    assert_eq!(closer.join().unwrap(), Some(1));
    assert!(!slot.is_taken());
}

/// A number that is given to another socket while its old one, whose number was closed unseen, is
/// taken out by who found that.
pub(crate) fn replace_and_take_the_old_one() {
    let slot = Arc::new(Slot::new());
    assert!(slot.set(Witness::new(1)).is_none());
    let opener = {
        let slot = Arc::clone(&slot);
        thread::spawn(move || slot.set(Witness::new(2)).map(|old| old.id()))
    };
    let taken = slot.take_if(|found| found.id() == 1).map(|taken| taken.id());
    let replaced = opener.join().unwrap();
    // The old one went one way, and the new one is there whatever happened.
    assert!(matches!((taken, replaced), (Some(1), None) | (None, Some(1))));
    assert_eq!(slot.take().map(|left| left.id()), Some(2));
}

/// A call that finds a number's socket while the number is given to another.
pub(crate) fn find_and_replace() {
    let slot = Arc::new(Slot::new());
    assert!(slot.set(Witness::new(1)).is_none());
    let opener = {
        let slot = Arc::clone(&slot);
        thread::spawn(move || slot.set(Witness::new(2)).map(|old| old.id()))
    };
    let found = slot.get().map(|found| found.id());
    assert!(matches!(found, Some(1 | 2)), "the number is never without a socket: {found:?}");
    assert_eq!(opener.join().unwrap(), Some(1));
    assert_eq!(slot.take().map(|left| left.id()), Some(2));
}

/// Two numbers of one part of the table that come into being at the same moment.
pub(crate) fn make_a_part_of_the_table() {
    const EMPTY: *mut [Slot<Witness>; 2] = std::ptr::null_mut();
    let root = Arc::new(AtomicPtr::new(EMPTY));
    let opener = {
        let root = Arc::clone(&root);
        thread::spawn(move || {
            let leaf = slot::leaf_or_new(&root).unwrap();
            assert!(leaf[0].set(Witness::new(1)).is_none());
            leaf[1].get().map(|found| found.id())
        })
    };
    let leaf = slot::leaf_or_new(&root).unwrap();
    assert!(leaf[1].set(Witness::new(2)).is_none());
    let seen = slot::leaf(&root).unwrap()[0].get().map(|found| found.id());
    assert!(seen.is_none_or(|id| id == 1));
    assert!(opener.join().unwrap().is_none_or(|id| id == 2));
    assert_eq!(leaf[0].take().map(|taken| taken.id()), Some(1));
    assert_eq!(leaf[1].take().map(|taken| taken.id()), Some(2));
    // SAFETY: made by `leaf_or_new` from a box, and nobody else is left.
    drop(unsafe { Box::from_raw(root.load(Ordering::Acquire)) });
}
