//! A wish that one who cannot have a lock leaves to its holder.
//!
//! Whoever wishes sets the flag and then tries the lock; whoever leaves lets go of the lock and
//! then looks at the flag: so one of the two sees the other. (The language would let a failed try
//! for the lock be older than the flag, and the look at the flag be older than the lock's release.
//! No machine that we build for does: on x86-64 all four are locked instructions, on aarch64 a
//! store-release is not passed by a load-acquire. The callers have a sweep besides.)

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

/// Leaves a notice, and does what is wished if the lock is free. False when its holder is left to.
pub(crate) fn leave<T>(flag: &AtomicBool, lock: &Mutex<T>, fulfil: impl FnMut(&mut T)) -> bool {
    flag.swap(true, Ordering::SeqCst);
    match lock.try_lock() {
        Ok(held) => {
            honour(flag, lock, held, fulfil);
            true
        }
        Err(_) => false,
    }
}

/// Lets go of the lock and does what others have wished meanwhile.
pub(crate) fn honour<T>(
    flag: &AtomicBool,
    lock: &Mutex<T>,
    held: MutexGuard<'_, T>,
    mut fulfil: impl FnMut(&mut T),
) {
    drop(held);
    while is_left(flag) {
        let Ok(mut held) = lock.try_lock() else { return };
        // Read as well as written: a wish that this takes away came behind what it is to tell, and
        // only who reads the wish is sure to see that too.
        flag.swap(false, Ordering::SeqCst);
        fulfil(&mut held);
    }
}

/// Whether there is a wish. Of who has let go of the lock.
#[inline]
pub(crate) fn is_left(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst)
}
