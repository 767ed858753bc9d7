//! What a review of the pair found, each with the sequence that showed it.

use std::time::Duration;

use super::desk::{Desk, SECOND, applied, config, done};
use super::store::Disk;
use crate::pair::{Command, Event, InDoubt, PairConfig, StoreFault};
use crate::record::Lane;
use crate::request::{Kind, Outcome, Reason};
use crate::store::Found;
use crate::target::{CallFailed, Class, ItemResult};

fn later(seconds: u64) -> ItemResult {
    ItemResult::Later { after: Duration::from_secs(seconds) }
}

/// One request that makes the server fail each time stood in the way of all others, for ever.
#[test]
fn a_record_that_fails_each_time_waits_for_an_operator_and_the_rest_goes_on() {
    for class in [Class::Opaque, Class::Idempotent, Class::Ledger] {
        let mut desk = Desk::working(PairConfig { classes: [class; 2], ..config() });
        desk.divert();
        for id in 1..=3 {
            desk.ask(Kind::Write, &[u8::try_from(id).unwrap()], id);
        }
        desk.ready = [true, true];
        let end = desk.now + 300 * SECOND;
        while desk.disk.totals().held == 0 {
            desk.pass(SECOND / 10);
            while let Some((_, _, call)) = desk.calls.front() {
                let poison = call.items.iter().any(|item| item.id.0 == 1);
                let results = call.items.iter().map(|item| done(item.id.0)).collect();
                let failed = CallFailed::Failed("the service said 500".to_owned());
                desk.answer(if poison { Err(failed) } else { Ok(results) });
            }
            assert!(desk.now < end, "{class:?}: {:?}", desk.pair.status());
        }
        desk.pass(SECOND);
        desk.serve();
        desk.pass(SECOND);
        let status = desk.pair.status();
        assert_eq!((status.holder, status.counters.drained), (0, 2), "{class:?}");
        assert!(status.alarms.iter().any(|(_, text)| text.contains("record 1 leaves the main")));
        assert!(status.epoch < 20, "{class:?}: epochs are burnt: {}", status.epoch);
    }
}

/// The lease of the other front's main was still running.
#[test]
fn the_lock_of_another_front_is_waited_out_whoever_has_it() {
    let mut desk = Desk::working(config());
    desk.seen = 9;
    // Longer than what makes a main trusted again.
    desk.pass(60 * SECOND);
    desk.command(Command::Release).unwrap();
    desk.pass(config().lease - SECOND);
    assert_eq!(desk.state(), "diverting", "whoever was granted epoch 9 may still be at work");
    desk.pass(3 * SECOND);
    assert_eq!((desk.state(), desk.pair.status().epoch), ("normal", 10));
}

#[test]
fn a_new_spool_promotes_nobody_while_the_servers_may_be_anothers() {
    let mut desk = Desk::over(config(), Disk::default(), 6);
    desk.pass(config().lease - SECOND);
    assert_eq!(desk.state(), "diverting");
    desk.pass(3 * SECOND);
    assert_eq!((desk.state(), desk.pair.status().epoch), ("normal", 7));
}

/// Three senders in haste made the front cut the power of a main that was well.
#[test]
fn senders_in_haste_say_nothing_about_the_main() {
    let mut desk = Desk::working(config());
    for id in 1..=40 {
        desk.next += 1;
        let request = crate::request::Request {
            id: crate::request::RequestId(id),
            kind: if id % 2 == 0 { Kind::Write } else { Kind::Read },
            key: vec![u8::try_from(id).unwrap()],
            payload: Vec::new(),
            deadline: Duration::from_millis(4),
        };
        let token = desk.next;
        desk.event(Event::Submit { token, request, wall_ms: 1 });
        if !desk.calls.is_empty() {
            desk.answer(Err(CallFailed::TimedOut));
        }
        desk.serve();
        desk.pass(SECOND / 20);
        desk.serve();
    }
    let status = desk.pair.status();
    assert_eq!((status.state, status.holder, status.counters.suspected), ("normal", 0, 0));
    assert!(desk.fences.is_empty());
}

/// A mark that could not be taken back made a record look sent that never was.
#[test]
fn a_record_that_was_never_sent_is_not_in_doubt() {
    let classes = [Class::Opaque; 2];
    let mut desk = Desk::working(PairConfig { classes, in_doubt: InDoubt::Skip, ..config() });
    desk.divert();
    desk.ask(Kind::Write, b"k", 1);
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    assert_eq!(desk.calls.len(), 1);
    desk.store_fault = Some(StoreFault::Failed);
    desk.answer(Err(CallFailed::Unreachable("refused".to_owned())));
    // Everything is read anew, while the disk says that the record was sent.
    desk.event(Event::Command { token: 0, command: Command::Suspect });
    desk.store_fault = None;
    desk.pass(3 * SECOND);
    assert_eq!((desk.calls.len(), desk.disk.totals().pending), (1, 1), "it is sent, not given up");
    desk.serve();
}

#[test]
fn a_dry_run_switches_for_nobody() {
    let mut desk = Desk::working(PairConfig { dry_run: true, ..config() });
    assert!(desk.command(Command::Switch).unwrap_err().contains("dry run"));
    assert!(desk.command(Command::SwitchNow).unwrap_err().contains("dry run"));
    assert_eq!((desk.state(), desk.releases.len()), ("normal", 0));
}

/// The later record went while the purge of the earlier was still to be written, and came first
/// when that failed.
#[test]
fn what_comes_behind_a_purged_record_waits_until_that_is_on_disk() {
    let mut desk = Desk::working(config());
    desk.divert();
    for id in 1..=2 {
        desk.ask(Kind::Write, b"k", id);
    }
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    desk.answer(Ok(vec![later(5)]));
    desk.keeps = |batch| !batch.finish.is_empty();
    desk.event(Event::Command { token: 0, command: Command::Purge(vec![1]) });
    desk.pass(10 * SECOND);
    assert!(desk.calls.is_empty(), "nobody knows yet whether the first is given up");
    let (tag, _) = desk.kept.pop_front().unwrap();
    desk.event(Event::Written { tag, result: Err(StoreFault::Failed) });
    desk.pass(10 * SECOND);
    let ids: Vec<u128> = desk.calls.iter().map(|call| call.2.items[0].id.0).collect();
    assert_eq!(ids, [1], "it was not, and goes first");
}

/// Set aside twice, it was taken off the count twice: a live write then passed a spooled one.
#[test]
fn a_damaged_record_that_is_found_twice_counts_once() {
    let mut desk = Desk::working(config());
    desk.divert();
    desk.ask(Kind::Write, b"a", 1);
    desk.ask(Kind::Write, b"k", 2);
    let damage = |desk: &mut Desk| {
        let mut found = desk.disk.pending(0, 10);
        let what = "its checksum is wrong".to_owned();
        found[0] = Found::Damaged { lsn: 1, lane: Lane::of(b"a"), what };
        desk.found = Some(found);
    };
    damage(&mut desk);
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    desk.answer(Ok(vec![later(30)]));
    damage(&mut desk);
    desk.command(Command::Retry(vec![])).unwrap();
    let write = desk.ask(Kind::Write, b"k", 3);
    assert!(matches!(desk.outcome(write), Some(Outcome::Spooled { .. })), "it stands behind 2");
}

/// The old main had given the lock back and was well, and nobody was main until the guard was over.
#[test]
fn a_switch_to_a_server_that_does_not_take_the_lock_comes_back() {
    let mut desk = Desk::working(config());
    desk.takes_lock = false;
    desk.command(Command::Switch).unwrap();
    desk.pass(SECOND);
    desk.takes_lock = true;
    desk.ready[1] = false;
    desk.pass(13 * SECOND);
    assert_eq!((desk.state(), desk.pair.status().holder), ("normal", 0));
    assert!(!desk.pair.status().flap_guard, "nobody has switched");
}

#[test]
fn a_search_waits_for_what_was_spooled_before_it_and_no_longer() {
    let mut desk = Desk::working(config());
    desk.divert();
    desk.ask(Kind::Write, b"a", 1);
    let search = desk.ask(Kind::Search, b"", 2);
    desk.ask(Kind::Write, b"b", 3);
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    let (_, _, call) = desk.calls.front().unwrap();
    assert_eq!(call.items[0].id.0, 1);
    desk.answer(Ok(vec![done(1)]));
    // The later write is still on its way.
    let is_search = |(_, _, call): &&(u64, usize, crate::target::Call)| call.items[0].id.0 == 2;
    assert!(desk.calls.iter().any(|call| is_search(&call)), "{:?}", desk.calls);
    desk.serve();
    assert_eq!(desk.outcome(search), Some(&applied(2)));
}

/// With storage of its own, the new main may not have what the old one answers late.
#[test]
fn what_an_old_main_says_late_is_in_doubt() {
    let mut desk = Desk::working(config());
    let asked = desk.ask(Kind::Write, b"k", 1);
    desk.command(Command::SwitchNow).unwrap();
    desk.ready[0] = false;
    desk.pass(15 * SECOND);
    assert_eq!(desk.pair.status().holder, 1);
    desk.answer(Ok(vec![done(1)]));
    assert!(matches!(desk.outcome(asked), Some(Outcome::Spooled { .. })), "the new main gets it");
    desk.serve();
    assert_eq!(desk.disk.totals().pending, 0);
}

#[test]
fn a_hold_that_cannot_be_written_is_none() {
    let mut desk = Desk::working(config());
    desk.store_fault = Some(StoreFault::Failed);
    assert!(desk.command(Command::Hold).is_err());
    desk.store_fault = None;
    desk.pass(2 * SECOND);
    assert!(!desk.pair.status().on_hold);
    let asked = desk.ask(Kind::Write, b"k", 1);
    desk.serve();
    assert_eq!(desk.outcome(asked), Some(&applied(1)));
}

/// A store that could not say what waits was asked again at once, for ever.
#[test]
fn a_store_that_cannot_count_is_asked_again_later() {
    let mut desk = Desk::working(config());
    desk.count_fault = Some(StoreFault::Failed);
    desk.command(Command::Retry(vec![])).unwrap();
    let before = desk.counts;
    desk.pass(5 * SECOND);
    assert!(desk.counts - before <= 6, "{} times in 5 s", desk.counts - before);
    desk.count_fault = None;
    desk.pass(2 * SECOND);
    let after = desk.counts;
    desk.pass(5 * SECOND);
    assert_eq!(desk.counts, after, "it knows now");
}

#[test]
fn a_server_that_asks_for_ages_is_asked_again_after_a_minute() {
    let mut desk = Desk::working(config());
    desk.divert();
    desk.ask(Kind::Write, b"k", 1);
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    desk.answer(Ok(vec![later(u64::MAX / 2_000_000)]));
    desk.pass(61 * SECOND);
    assert_eq!(desk.calls.len(), 1);
    let late = Outcome::Rejected { reason: Reason::Deadline, retry_after: Duration::ZERO };
    assert!(!desk.replies.iter().any(|(_, outcome)| *outcome == late));
}

/// The unused epoch of an own promotion had been lifted to one that another front had granted.
#[test]
fn an_epoch_of_another_front_is_never_granted_again() {
    let mut desk = Desk::working(config());
    desk.takes_lock = false;
    desk.command(Command::Switch).unwrap();
    desk.pass(SECOND);
    desk.seen = 7;
    desk.pass(SECOND);
    assert_eq!(desk.pair.status().split, Some(7));
    desk.takes_lock = true;
    desk.command(Command::Release).unwrap();
    desk.pass(30 * SECOND);
    assert_eq!(desk.state(), "normal");
    assert!(desk.pair.status().epoch > 7, "{}", desk.pair.status().epoch);
}

#[test]
fn what_is_given_up_while_it_is_away_is_not_sent_again() {
    let mut desk = Desk::working(config());
    desk.divert();
    desk.ask(Kind::Write, b"k", 1);
    desk.ask(Kind::Write, b"k", 2);
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    desk.command(Command::Purge(vec![1])).unwrap();
    desk.answer(Err(CallFailed::TimedOut));
    desk.pass(3 * SECOND);
    let ids: Vec<u128> =
        desk.calls.iter().flat_map(|call| call.2.items.iter().map(|item| item.id.0)).collect();
    assert_eq!(ids, [2]);
}

/// Each failure began the next try at once, for ever.
#[test]
fn a_spool_that_takes_no_epoch_is_tried_once_a_second() {
    let mut desk = Desk::working(config());
    desk.divert();
    desk.batches.clear();
    desk.store_fault = Some(StoreFault::Failed);
    desk.ready = [true, true];
    desk.pass(5 * SECOND);
    assert!((1..=7).contains(&desk.batches.len()), "{} times in 5 s", desk.batches.len());
    desk.store_fault = None;
    desk.pass(15 * SECOND);
    assert_eq!(desk.state(), "normal");
}

#[test]
fn who_waits_for_a_record_that_is_given_up_goes_on() {
    let classes = [Class::Opaque; 2];
    let config = PairConfig { classes, in_doubt: InDoubt::Hold, ..config() };
    let mut desk = Desk::working(config);
    desk.ask(Kind::Write, b"k", 1);
    desk.answer(Err(CallFailed::Failed("the service said 500".to_owned())));
    desk.pass(SECOND);
    let read = desk.ask(Kind::Read, b"k", 2);
    assert!(desk.outcome(read).is_none() && desk.calls.is_empty());
    desk.command(Command::Purge(vec![1])).unwrap();
    desk.pass(SECOND);
    desk.serve();
    assert_eq!(desk.outcome(read), Some(&applied(2)));
}
