//! One thing at a time: what a pair does in each of the situations that its description names.

use std::time::Duration;

use super::desk::{Desk, SECOND, applied, config, done};
use super::store::Disk;
use crate::pair::{Command, DrainMode, Event, InDoubt, Pair, PairConfig, Reads, StoreFault};
use crate::record::Lane;
use crate::request::{Kind, Outcome, Reason};
use crate::store::{Batch, Finish, Found, PairState, Totals};
use crate::target::{CallFailed, Class, ItemResult};

#[test]
fn a_slow_main_that_is_not_dead_stays_main() {
    let mut desk = Desk::working(config());
    for id in 1..=3 {
        desk.ask(Kind::Write, &[u8::try_from(id).unwrap()], id);
    }
    for _ in 0..3 {
        desk.answer(Err(CallFailed::TimedOut));
    }
    desk.serve();
    desk.pass(SECOND);
    desk.serve();
    let status = desk.pair.status();
    assert_eq!((status.state, status.holder, status.epoch), ("normal", 0, 1));
    assert_eq!((status.counters.suspected, status.counters.spooled), (1, 3));
    assert_eq!(desk.disk.totals().pending, 0);
}

#[test]
fn the_standby_is_promoted_when_the_lease_of_a_dead_main_is_over() {
    let mut desk = Desk::working(config());
    desk.ready[0] = false;
    let lost = desk.now;
    let span = config().lease + config().lease_margin();
    while desk.pair.status().holder == 0 {
        desk.pass(SECOND / 10);
        assert!(desk.now < lost + 2 * span, "{:?}", desk.pair.status());
    }
    // The last grant went out at most one probe before.
    assert!(desk.now >= lost + span - config().probe_every, "promoted at {}", desk.now - lost);
    assert_eq!(desk.fences, [0], "a main that cannot be asked is to be cut off");
    desk.pass(SECOND);
    assert_eq!(desk.state(), "normal");
    assert_eq!(desk.pair.status().epoch, 2);
}

#[test]
fn two_switches_in_a_row_wait_for_the_flap_guard_unless_an_operator_says_otherwise() {
    let mut desk = Desk::working(config());
    desk.command(Command::Switch).unwrap();
    desk.pass(SECOND);
    assert_eq!((desk.state(), desk.pair.status().holder), ("normal", 1));
    desk.ready[1] = false;
    desk.pass(15 * SECOND);
    assert_eq!(desk.state(), "diverting", "the lease is over and the guard is not");
    assert!(desk.pair.status().flap_guard);
    desk.command(Command::SwitchNow).unwrap();
    desk.pass(SECOND);
    assert_eq!((desk.state(), desk.pair.status().holder), ("normal", 0));
}

#[test]
fn a_planned_switch_waits_for_running_work_and_for_no_lease() {
    let mut desk = Desk::working(config());
    let first = desk.ask(Kind::Write, b"a", 1);
    desk.command(Command::Switch).unwrap();
    let second = desk.ask(Kind::Write, b"b", 2);
    assert_eq!(desk.state(), "planned");
    assert!(desk.releases.is_empty(), "the first request is not finished");
    assert!(matches!(desk.outcome(second), Some(Outcome::Spooled { .. })));
    desk.answer(Ok(vec![done(1)]));
    assert_eq!(desk.outcome(first), Some(&applied(1)));
    assert_eq!(desk.releases, [1]);
    let before = desk.now;
    desk.serve();
    desk.pass(1);
    desk.serve();
    assert_eq!((desk.state(), desk.pair.status().holder), ("normal", 1));
    assert!(desk.now < before + SECOND);
    desk.ready[0] = false;
    desk.pass(3 * SECOND);
    assert!(desk.command(Command::Switch).unwrap_err().contains("not ready"));
}

#[test]
fn two_fronts_for_one_pair_stop_the_one_with_the_lower_epoch() {
    let mut desk = Desk::working(config());
    desk.seen = 9;
    desk.pass(SECOND);
    let status = desk.pair.status();
    assert_eq!((status.split, status.on_hold, status.state), (Some(9), true, "diverting"));
    assert!(status.alarms.iter().any(|(_, text)| text.contains("another front")));
    desk.pass(60 * SECOND);
    assert_eq!(desk.state(), "diverting", "nobody but an operator ends that");
    desk.command(Command::Release).unwrap();
    desk.pass(30 * SECOND);
    assert_eq!((desk.state(), desk.pair.status().epoch), ("normal", 10));
}

#[test]
fn a_new_spool_goes_on_from_the_epoch_of_its_servers() {
    let mut desk = Desk::over(config(), Disk::default(), 4);
    desk.pass(SECOND);
    desk.pass(12 * SECOND);
    assert_eq!((desk.state(), desk.pair.status().epoch), ("normal", 5));
}

#[test]
fn held_requests_are_bounded_and_answered_by_their_deadlines() {
    let mut desk = Desk::working(PairConfig { hold_max: 2, ..config() });
    desk.divert();
    let [one, two, three] = [1, 2, 3].map(|id| desk.ask(Kind::Read, b"k", id));
    let full = Outcome::Rejected {
        reason: Reason::HoldFull,
        retry_after: Duration::from_micros(config().retry_after),
    };
    assert_eq!(desk.outcome(three), Some(&full));
    assert!(desk.pair.status().hold_full);
    desk.pass(61 * SECOND);
    let late = Outcome::Rejected { reason: Reason::Deadline, retry_after: Duration::ZERO };
    assert_eq!((desk.outcome(one), desk.outcome(two)), (Some(&late), Some(&late)));
}

#[test]
fn reads_behind_spooled_writes_wait_or_are_overlaid_or_stale() {
    for reads in [Reads::Wait, Reads::Overlay, Reads::Stale, Reads::Job] {
        let mut desk = Desk::working(PairConfig { reads, ..config() });
        desk.divert();
        desk.ask(Kind::Write, b"k", 1);
        let same = desk.ask(Kind::Read, b"k", 2);
        let other = desk.ask(Kind::Read, b"other", 3);
        let at_once = match reads {
            Reads::Wait => None,
            Reads::Overlay => Some(Outcome::Applied { answer: b"of 1".to_vec() }),
            Reads::Stale => Some(Outcome::Stale),
            Reads::Job => Some(Outcome::Held { lsn: 2 }),
        };
        assert_eq!(desk.outcome(same), at_once.as_ref(), "{reads:?}");
        let is_held = matches!(desk.outcome(other), Some(Outcome::Held { .. }));
        assert_eq!(is_held, reads == Reads::Job, "{reads:?}");
        desk.ready = [true, true];
        desk.pass(12 * SECOND);
        desk.serve();
        desk.pass(SECOND);
        desk.serve();
        assert_eq!(desk.state(), "normal", "{reads:?}");
        if reads != Reads::Job {
            assert_eq!(desk.outcome(other), Some(&applied(3)), "{reads:?}");
        }
        if reads == Reads::Wait {
            assert_eq!(desk.outcome(same), Some(&applied(2)));
        }
    }
}

#[test]
fn a_search_waits_until_what_was_spooled_before_it_is_drained() {
    let mut desk = Desk::working(config());
    desk.divert();
    desk.ask(Kind::Write, b"k", 1);
    let search = desk.ask(Kind::Search, b"", 2);
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    assert_eq!(desk.calls.len(), 1, "the write is on its way, the search is not");
    desk.serve();
    assert_eq!(desk.outcome(search), Some(&applied(2)));
}

#[test]
fn a_full_spool_rejects_what_is_new_and_knows_what_it_has() {
    let mut desk = Desk::working(PairConfig { quota_records: 20, ..config() });
    desk.divert();
    for id in 1..=20 {
        desk.ask(Kind::Write, b"k", id);
    }
    let new = desk.ask(Kind::Write, b"k", 21);
    let again = desk.ask(Kind::Write, b"k", 5);
    let rejected = desk.outcome(new).unwrap();
    assert!(matches!(rejected, Outcome::Rejected { reason: Reason::SpoolFull, retry_after }
            if *retry_after > Duration::ZERO));
    assert_eq!(desk.outcome(again), Some(&Outcome::Spooled { lsn: 5 }));
    assert_eq!(desk.disk.totals().pending, 20, "nothing was dropped");
}

#[test]
fn an_unplanned_diversion_spools_deletes_in_their_order_or_holds_them() {
    for delete_as_write in [true, false] {
        let mut desk = Desk::working(PairConfig { delete_as_write, ..config() });
        desk.divert();
        desk.ask(Kind::Write, b"k", 1);
        let delete = desk.ask(Kind::Delete, b"k", 2);
        assert_eq!(desk.outcome(delete).is_some(), delete_as_write);
        desk.ready = [true, true];
        desk.pass(2 * SECOND);
        let sent: Vec<u128> = desk
            .calls
            .iter()
            .flat_map(|(_, _, call)| call.items.iter().map(|item| item.id.0))
            .collect();
        assert_eq!(sent.first(), Some(&1), "the write goes first");
        desk.serve();
        desk.pass(SECOND);
        desk.serve();
        assert!(desk.outcome(delete).is_some());
    }
}

#[test]
fn drains_begin_with_one_record_and_open_up() {
    let mut desk = Desk::working(config());
    desk.divert();
    for id in 1..=200 {
        desk.ask(Kind::Write, &[u8::try_from(id % 50).unwrap()], id);
    }
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    let mut sizes = Vec::new();
    while let Some((_, _, call)) = desk.calls.front() {
        sizes.push(call.items.len());
        let results = call.items.iter().map(|item| done(item.id.0)).collect();
        desk.answer(Ok(results));
    }
    assert_eq!(sizes[..4], [1, 2, 4, 8], "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 200);
}

#[test]
fn a_drain_before_live_traffic_keeps_spooling_until_it_is_done() {
    let mut desk = Desk::working(PairConfig { drain: DrainMode::Before, ..config() });
    desk.divert();
    for id in 1..=3 {
        desk.ask(Kind::Write, &[u8::try_from(id).unwrap()], id);
    }
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    assert_eq!(desk.state(), "draining");
    let live = desk.ask(Kind::Write, b"live", 9);
    assert!(!matches!(desk.outcome(live), Some(Outcome::Applied { .. })));
    desk.serve();
    desk.pass(SECOND);
    desk.serve();
    assert_eq!(desk.state(), "normal");
    assert!(desk.outcome(live).is_some());
    let direct = desk.ask(Kind::Write, b"direct", 10);
    desk.serve();
    assert_eq!(desk.outcome(direct), Some(&applied(10)));
}

#[test]
fn what_the_main_refuses_in_a_drain_is_set_aside_and_the_rest_goes_on() {
    let mut desk = Desk::working(config());
    desk.divert();
    desk.ask(Kind::Write, b"k", 1);
    desk.ask(Kind::Write, b"k", 2);
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    desk.answer(Ok(vec![ItemResult::Refused { code: 7, text: "no such box".to_owned() }]));
    desk.serve();
    let refused = Finish::Refused { code: 7, text: "no such box".to_owned() };
    assert!(desk.batches.iter().any(|batch| batch.finish.contains(&(1, refused.clone()))));
    assert_eq!(desk.pair.status().counters.drained, 1);
    assert!(desk.pair.status().alarms.iter().any(|(_, text)| text.contains("record 1")));
}

#[test]
fn a_damaged_record_is_set_aside_and_the_rest_goes_on() {
    let mut desk = Desk::working(config());
    desk.divert();
    desk.ask(Kind::Write, b"a", 1);
    desk.ask(Kind::Write, b"b", 2);
    let mut found = desk.disk.pending(0, 10);
    let what = "its checksum is wrong".to_owned();
    found[0] = Found::Damaged { lsn: 1, lane: Lane::of(b"a"), what };
    desk.found = Some(found);
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    desk.serve();
    assert_eq!(desk.quarantined, [1]);
    let status = desk.pair.status();
    assert_eq!((status.counters.damaged, status.counters.drained), (1, 1));
}

#[test]
fn a_server_without_a_ledger_leaves_doubts_and_each_policy_settles_them() {
    for in_doubt in [InDoubt::Retry, InDoubt::Skip, InDoubt::Hold] {
        let classes = [Class::Opaque; 2];
        let mut desk = Desk::working(PairConfig { classes, in_doubt, ..config() });
        let asked = desk.ask(Kind::Write, b"k", 1);
        desk.answer(Err(CallFailed::Lost("died".to_owned())));
        desk.pass(SECOND);
        match in_doubt {
            InDoubt::Retry => {
                assert!(matches!(desk.outcome(asked), Some(Outcome::Spooled { .. })));
                assert_eq!(desk.calls.len(), 1, "it is done again");
            }
            InDoubt::Skip => {
                assert_eq!(desk.outcome(asked), Some(&Outcome::InDoubt));
                assert_eq!((desk.calls.len(), desk.disk.totals().pending), (0, 0));
            }
            InDoubt::Hold => {
                assert_eq!(desk.outcome(asked), Some(&Outcome::InDoubt));
                assert!(desk.calls.is_empty() && desk.pair.status().stuck);
                let later = desk.ask(Kind::Write, b"k", 2);
                assert!(matches!(desk.outcome(later), Some(Outcome::Spooled { .. })));
                desk.command(Command::Retry(vec![1])).unwrap();
                let ids: Vec<u128> = desk.calls.iter().map(|call| call.2.items[0].id.0).collect();
                assert_eq!(ids, [1], "its lane waits behind it");
            }
        }
    }
}

#[test]
fn what_was_on_its_way_without_a_ledger_is_in_doubt_after_a_crash_of_the_front() {
    for in_doubt in [InDoubt::Retry, InDoubt::Skip, InDoubt::Hold] {
        let classes = [Class::Opaque; 2];
        let config = PairConfig { classes, in_doubt, ..config() };
        let mut desk = Desk::working(config.clone());
        desk.divert();
        desk.ask(Kind::Write, b"k", 1);
        desk.ready = [true, true];
        desk.pass(2 * SECOND);
        assert_eq!(desk.calls.len(), 1);
        // The front dies with the call under way, and another takes its place.
        let mut desk = Desk::over(config, desk.disk, 2);
        desk.pass(2 * SECOND);
        match in_doubt {
            InDoubt::Retry => assert_eq!(desk.calls.len(), 1),
            InDoubt::Skip => assert_eq!((desk.calls.len(), desk.disk.totals().pending), (0, 0)),
            InDoubt::Hold => assert_eq!((desk.calls.len(), desk.disk.totals().held), (0, 1)),
        }
    }
}

#[test]
fn without_a_ledger_a_retry_of_what_was_drained_is_not_done_again() {
    let classes = [Class::Idempotent; 2];
    let mut desk = Desk::working(PairConfig { classes, ..config() });
    desk.divert();
    desk.ask(Kind::Write, b"k", 1);
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    desk.serve();
    desk.pass(SECOND);
    let newer = desk.ask(Kind::Write, b"k", 2);
    desk.serve();
    assert_eq!(desk.outcome(newer), Some(&applied(2)));
    // Were it sent, the older value would come back.
    let retry = desk.ask(Kind::Write, b"k", 1);
    assert_eq!((desk.outcome(retry), desk.calls.len()), (Some(&applied(1)), 0));
    // Nor is another request answered with what was said to this one.
    let reused = desk.ask(Kind::Delete, b"k", 1);
    let refused = Outcome::Rejected { reason: Reason::IdReused, retry_after: Duration::ZERO };
    assert_eq!((desk.outcome(reused), desk.calls.len()), (Some(&refused), 0));
}

#[test]
fn a_read_of_the_spool_that_is_older_than_an_end_brings_nothing_back() {
    let mut desk = Desk::working(config());
    desk.divert();
    desk.ask(Kind::Write, b"k", 1);
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    assert_eq!(desk.calls.len(), 1);
    // A restart of the drain reads the record while it is on its way; its end is noted before the
    // answer to that read comes.
    desk.keeps_fetch = true;
    desk.command(Command::Retry(vec![])).unwrap();
    let old = desk.disk.pending(0, 10);
    assert_eq!((old.len(), desk.fetches.len()), (1, 1));
    desk.serve();
    desk.event(Event::Fetched { result: Ok(old) });
    assert!(desk.calls.is_empty(), "the record has ended");
}

#[test]
fn ends_are_written_one_after_the_other() {
    let mut desk = Desk::working(config());
    desk.divert();
    for id in 1..=2 {
        desk.ask(Kind::Write, b"k", id);
    }
    desk.ready = [true, true];
    desk.pass(2 * SECOND);
    desk.keeps = |batch| !batch.finish.is_empty();
    desk.answer(Ok(vec![done(1)]));
    desk.serve();
    // Were the second written beside the first, and only the first failed, a crash would bring the
    // first record back after the second.
    let ends = |desk: &Desk| -> Vec<Vec<u64>> {
        let lsns = |batch: &Batch| batch.finish.iter().map(|(lsn, _)| *lsn).collect();
        desk.kept.iter().map(|(_, batch)| lsns(batch)).collect()
    };
    assert_eq!(ends(&desk), [[1]]);
    let (tag, _) = desk.kept.pop_front().unwrap();
    desk.event(Event::Written { tag, result: Err(StoreFault::Failed) });
    assert!(desk.kept.is_empty(), "the first waits for its turn");
    desk.pass(SECOND);
    assert_eq!(ends(&desk), [[1, 2]]);
}

/// A crash after it would otherwise find an epoch that is lower than the one its servers know.
#[test]
fn what_an_operator_says_during_a_promotion_takes_no_epoch_back() {
    let mut desk = Desk::working(config());
    desk.keeps = |batch| batch.state.is_some();
    desk.command(Command::Switch).unwrap();
    assert_eq!(desk.kept[0].1.state.as_ref().unwrap().epoch, 2);
    desk.event(Event::Command { token: 0, command: Command::Hold });
    let state = desk.kept[1].1.state.clone().unwrap();
    assert_eq!(state, PairState { epoch: 2, holder: 1, on_hold: true });
}

#[test]
fn an_operator_stops_drains_and_gives_records_up() {
    let mut desk = Desk::working(config());
    desk.command(Command::Hold).unwrap();
    let [one, _] = [1, 2].map(|id| desk.ask(Kind::Write, b"k", id));
    assert_eq!(desk.outcome(one), Some(&Outcome::Spooled { lsn: 1 }));
    desk.pass(5 * SECOND);
    assert!(desk.calls.is_empty() && desk.disk.state.on_hold);
    desk.command(Command::Purge(vec![1])).unwrap();
    desk.command(Command::Release).unwrap();
    let ids: Vec<u128> = desk.calls.iter().map(|call| call.2.items[0].id.0).collect();
    assert_eq!(ids, [2]);
    desk.serve();
    desk.pass(SECOND);
    assert_eq!(desk.pair.status().totals.pending, 0, "the count is right again");
}

#[test]
fn a_dry_run_decides_nothing() {
    let mut desk = Desk::working(PairConfig { dry_run: true, ..config() });
    for id in 1..=4 {
        let asked = desk.ask(Kind::Write, b"k", id);
        desk.answer(Err(CallFailed::Unreachable("refused".to_owned())));
        assert!(matches!(
            desk.outcome(asked),
            Some(Outcome::Rejected { reason: Reason::Unavailable, .. })
        ));
    }
    assert_eq!((desk.state(), desk.disk.totals().pending), ("normal", 0));
    assert_eq!(desk.pair.status().counters.would_divert, 1);
}

#[test]
fn a_main_that_answers_probes_and_fails_requests_is_given_up() {
    let mut desk = Desk::working(config());
    let mut id = 0;
    while desk.pair.status().holder == 0 {
        id += 1;
        desk.ask(Kind::Write, &[u8::try_from(id % 250).unwrap()], id);
        while !desk.calls.is_empty() && desk.pair.status().holder == 0 {
            desk.answer(Err(CallFailed::Unreachable("refused".to_owned())));
        }
        desk.pass(SECOND / 4);
        assert!(id < 200, "{:?}", desk.pair.status());
    }
}

#[test]
fn a_store_that_cannot_write_rejects_and_recovers() {
    let mut desk = Desk::working(config());
    desk.divert();
    desk.store_fault = Some(StoreFault::Full);
    let refused = desk.ask(Kind::Write, b"k", 1);
    assert!(matches!(
        desk.outcome(refused),
        Some(Outcome::Rejected { reason: Reason::SpoolFull, .. })
    ));
    assert!(desk.pair.status().spool_full);
    desk.store_fault = None;
    desk.pass(2 * SECOND);
    let taken = desk.ask(Kind::Write, b"k", 1);
    assert!(matches!(desk.outcome(taken), Some(Outcome::Spooled { .. })));
}

#[test]
fn a_server_that_does_not_take_the_lock_is_not_main() {
    let mut desk = Desk::new(config());
    desk.takes_lock = false;
    let state = PairState { epoch: 3, holder: 1, on_hold: false };
    desk.pair = Pair::new(config(), &state, Totals::default(), 0);
    desk.seen = 3;
    desk.event(Event::Tick);
    desk.pass(30 * SECOND);
    assert!(matches!(desk.state(), "diverting" | "promoting"));
    let asked = desk.ask(Kind::Write, b"k", 1);
    assert!(matches!(desk.outcome(asked), Some(Outcome::Spooled { .. })));
}
