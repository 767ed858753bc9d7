//! Loom's atomics under the names that the engine's files use, with the orders as they are written
//! and with weaker ones.

/// One set of atomics; the functions say what becomes of the order of a load, a store and both.
macro_rules! orders {
    ($name:ident, $load:expr, $store:expr, $both:expr) => {
        pub(crate) mod $name {
            pub(crate) use loom::hint::spin_loop;
            pub(crate) use loom::sync::{Mutex, MutexGuard};
            pub(crate) use loom::thread::yield_now;
            pub(crate) use std::sync::PoisonError;
            pub(crate) use std::sync::atomic::Ordering;

            fn load(order: Ordering) -> Ordering {
                ($load)(order)
            }

            fn store(order: Ordering) -> Ordering {
                ($store)(order)
            }

            fn both(order: Ordering) -> Ordering {
                ($both)(order)
            }

            $crate::orders::atomic!(AtomicBool, bool);
            $crate::orders::atomic!(AtomicU8, u8);
            $crate::orders::atomic!(AtomicU32, u32);
            $crate::orders::atomic!(AtomicU64, u64);
            $crate::orders::atomic!(AtomicUsize, usize);
            impl AtomicBool {
                pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
                    self.0.swap(value, both(order))
                }
            }

            $crate::orders::number!(AtomicU32, u32);
            $crate::orders::number!(AtomicUsize, usize);

            #[derive(Debug)]
            pub(crate) struct AtomicPtr<T>(loom::sync::atomic::AtomicPtr<T>);

            impl<T> AtomicPtr<T> {
                pub(crate) fn new(value: *mut T) -> Self {
                    Self(loom::sync::atomic::AtomicPtr::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> *mut T {
                    self.0.load(load(order))
                }

                pub(crate) fn compare_exchange(
                    &self,
                    from: *mut T,
                    to: *mut T,
                    order: Ordering,
                    failed: Ordering,
                ) -> Result<*mut T, *mut T> {
                    self.0.compare_exchange(from, to, both(order), load(failed))
                }
            }
        }
    };
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Debug)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        impl $name {
            /// The checker takes what an atomic is made with for a plain store, which a `SeqCst`
            /// load might see behind a later `SeqCst` store; no load of the language's does.
            pub(crate) fn new(value: $value) -> Self {
                let atomic = loom::sync::atomic::$name::new(value);
                atomic.store(value, Ordering::SeqCst);
                Self(atomic)
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                self.0.load(load(order))
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                self.0.store(value, store(order));
            }

            pub(crate) fn compare_exchange(
                &self,
                from: $value,
                to: $value,
                order: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                self.0.compare_exchange(from, to, both(order), load(failed))
            }
        }
    };
}

macro_rules! number {
    ($name:ident, $value:ty) => {
        impl $name {
            pub(crate) fn compare_exchange_weak(
                &self,
                from: $value,
                to: $value,
                order: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                self.0.compare_exchange_weak(from, to, both(order), load(failed))
            }

            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                self.0.fetch_add(value, both(order))
            }

            pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                self.0.fetch_sub(value, both(order))
            }

            pub(crate) fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                self.0.fetch_and(value, both(order))
            }

            pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                self.0.fetch_or(value, both(order))
            }

            pub(crate) fn fetch_update(
                &self,
                order: Ordering,
                failed: Ordering,
                change: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                self.0.fetch_update(both(order), load(failed), change)
            }
        }
    };
}

pub(crate) use {atomic, number};

use std::sync::atomic::Ordering;

fn weaker(order: Ordering, instead: Ordering) -> Ordering {
    if order == Ordering::SeqCst { instead } else { order }
}

orders!(as_written, |order| order, |order| order, |order| order);
orders!(
    half,
    |order| super::weaker(order, Ordering::Acquire),
    |order| super::weaker(order, Ordering::Release),
    |order| super::weaker(order, Ordering::AcqRel)
);
orders!(
    relaxed,
    |_: Ordering| Ordering::Relaxed,
    |_: Ordering| Ordering::Relaxed,
    |_: Ordering| Ordering::Relaxed
);
