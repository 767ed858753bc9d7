use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Fenced, GrantRefused, Lock, LockCore, lease_end_us, margin};
use crate::backend::clock::{BootClock, Clock};
use crate::backend::epoch::EpochStore;
use crate::target::{Grant, Stamp};

#[derive(Debug, Default)]
struct InMemory(AtomicU64);

impl EpochStore for InMemory {
    fn load(&self) -> io::Result<u64> {
        Ok(self.0.load(Ordering::SeqCst))
    }

    fn raise(&self, epoch: u64) -> io::Result<u64> {
        Ok(self.0.fetch_max(epoch, Ordering::SeqCst).max(epoch))
    }
}

#[derive(Debug)]
struct FullDisk;

impl EpochStore for FullDisk {
    fn load(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn raise(&self, _epoch: u64) -> io::Result<u64> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn grant(epoch: u64, at_us: u64) -> Grant {
    Grant { epoch, lease: 10 * SECOND, stamp: Stamp { run: 7, at_us } }
}

fn accepted(core: &mut LockCore, grant: &Grant, now_us: u64) -> Result<(), GrantRefused> {
    core.examine(grant, now_us)?;
    core.accept(grant, grant.epoch, now_us)
}

#[test]
fn a_lease_counts_from_the_stamp_and_ends_a_margin_early() {
    assert_eq!(margin(SECOND), Duration::from_millis(50));
    assert_eq!(margin(10 * SECOND), Duration::from_millis(200));
    assert_eq!(lease_end_us(5, Duration::from_millis(10)), 5);
    assert_eq!(lease_end_us(u64::MAX, SECOND), u64::MAX);
    let mut core = LockCore::new(7, 0);
    accepted(&mut core, &grant(1, 1_000_000), 3_000_000).unwrap();
    assert_eq!(core.check(1, 10_799_999), Ok(()));
    assert_eq!(core.check(1, 10_800_000), Err(Fenced { asked: 1, seen: 1 }));
    assert_eq!(core.check(2, 3_000_000), Err(Fenced { asked: 2, seen: 1 }));
    assert_eq!(core.holds(10_799_999), Some(1));
    assert_eq!(core.holds(10_800_000), None);
}

#[test]
fn grants_that_are_not_for_now_are_refused() {
    let mut core = LockCore::new(7, 3);
    let other_run = Grant { stamp: Stamp { run: 8, at_us: 0 }, ..grant(4, 0) };
    assert_eq!(accepted(&mut core, &other_run, 5), Err(GrantRefused::OtherRun));
    assert_eq!(accepted(&mut core, &grant(4, 6), 5), Err(GrantRefused::FromTheFuture));
    let stale = GrantRefused::Stale { epoch: 2, seen: 3 };
    assert_eq!(accepted(&mut core, &grant(2, 5), 5), Err(stale));
    let late = accepted(&mut core, &grant(4, 0), 9_800_000);
    assert_eq!(late, Err(GrantRefused::TooLate));
    let long = Grant { lease: Duration::MAX, ..grant(4, 0) };
    assert_eq!(accepted(&mut core, &long, 5), Err(GrantRefused::OutOfBounds { what: "lease" }));
    let high = grant(u64::MAX, 0);
    assert_eq!(accepted(&mut core, &high, 5), Err(GrantRefused::OutOfBounds { what: "epoch" }));
    let none = LockCore::new(7, 0).examine(&grant(0, 0), 5);
    assert_eq!(none, Err(GrantRefused::OutOfBounds { what: "epoch" }));
    assert_eq!(core.seen(), 3);
    assert_eq!(core.holds(5), None);
}

#[test]
fn a_higher_epoch_in_the_store_ends_what_is_held() {
    let mut core = LockCore::new(7, 0);
    accepted(&mut core, &grant(1, 0), 0).unwrap();
    let stale = GrantRefused::Stale { epoch: 1, seen: 2 };
    assert_eq!(core.accept(&grant(1, 10), 2, 10), Err(stale));
    assert_eq!(core.check(1, 11), Err(Fenced { asked: 1, seen: 2 }));
}

#[test]
fn renewals_that_overtake_each_other_do_not_shorten_a_lease() {
    let mut core = LockCore::new(7, 0);
    accepted(&mut core, &grant(1, 2_000_000), 2_000_000).unwrap();
    accepted(&mut core, &grant(1, 1_000_000), 2_000_001).unwrap();
    assert_eq!(core.check(1, 11_799_999), Ok(()));
}

#[test]
fn what_was_given_back_does_not_come_again() {
    let mut core = LockCore::new(7, 0);
    accepted(&mut core, &grant(1, 0), 0).unwrap();
    core.begin(1, 1).unwrap();
    assert!(!core.give_back(2), "a grant of epoch 2 may be under way");
    assert!(core.give_back(1));
    assert!(!core.idle(1));
    assert_eq!(core.holds(2), Some(1), "something runs under it");
    assert_eq!(core.begin(1, 2), Err(Fenced { asked: 1, seen: 1 }));
    core.end(1);
    assert!(core.idle(1));
    assert_eq!(core.holds(2), None);
    let back = accepted(&mut core, &grant(1, 2), 3);
    assert_eq!(back, Err(GrantRefused::GivenBack { epoch: 1 }));
    accepted(&mut core, &grant(2, 3), 3).unwrap();
}

#[test]
fn release_waits_for_what_runs() {
    let lock = Lock::new(Box::new(InMemory::default()), Arc::new(BootClock)).unwrap();
    let grant = Grant { epoch: 1, lease: 60 * SECOND, stamp: lock.stamp() };
    lock.grant(&grant).unwrap();
    let permit = lock.check(1).unwrap();
    let begun = Instant::now();
    assert!(!lock.release(1, Duration::from_millis(30)));
    assert!(begun.elapsed() >= Duration::from_millis(30));
    assert!(lock.check(1).is_err());
    assert!(permit.still().is_err());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| lock.release(1, 60 * SECOND));
        drop(permit);
        assert!(waits.join().unwrap());
    });
    assert_eq!(lock.holds(), None);
}

#[test]
fn a_grant_whose_epoch_cannot_be_stored_is_refused() {
    let lock = Lock::new(Box::new(FullDisk), Arc::new(BootClock)).unwrap();
    let grant = Grant { epoch: 1, lease: 60 * SECOND, stamp: lock.stamp() };
    assert!(matches!(lock.grant(&grant), Err(GrantRefused::Store(_))));
    assert_eq!(lock.check(1).unwrap_err(), Fenced { asked: 1, seen: 0 });
}

#[test]
fn two_runs_have_two_stamps() {
    let one = Lock::new(Box::new(InMemory::default()), Arc::new(BootClock)).unwrap();
    let two = Lock::new(Box::new(InMemory::default()), Arc::new(BootClock)).unwrap();
    let grant = Grant { epoch: 1, lease: 60 * SECOND, stamp: one.stamp() };
    assert_eq!(two.grant(&grant), Err(GrantRefused::OtherRun));
    assert!(BootClock.now_us() >= grant.stamp.at_us);
}
