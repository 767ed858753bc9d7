//! What every store promises, asked of each.

use eversock_spool::record::Lane;
use eversock_spool::store::{
    Appended, Batch, Finish, Found, Known, NewRecord, PairState, Quota, SpoolReader, StoreError,
};

use crate::cluster::PostgresMaker;
use crate::common::{
    Maker, ROOMY, SqliteMaker, appends, assert_sound, done, ends, keyed, new, payload, places,
    record,
};

/// Each of these for both stores.
macro_rules! of_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test]
            fn $name() {
                super::$name(&super::SqliteMaker::new());
            })*
        }
        mod postgres {
            $(#[test]
            fn $name() {
                if let Some(maker) = super::PostgresMaker::new() {
                    super::$name(&maker);
                }
            })*
        }
    };
}

of_both!(
    places_grow_by_one,
    known_ids,
    an_id_twice_in_a_batch,
    the_quota,
    ends_are_kept,
    ends_of_what_does_not_wait,
    a_purge_of_what_was_set_aside,
    marks,
    the_state,
    the_newest_of_a_lane,
    ages_and_the_oldest,
    a_listing,
    forgetting,
    opened_again,
    a_second_opener,
    readers_beside_a_writer,
    bounds_of_a_read,
    any_bytes,
);

fn whole(reader: &mut dyn SpoolReader) -> Vec<u64> {
    reader.pending(0, 10_000, u64::MAX).unwrap().iter().map(Found::lsn).collect()
}

fn places_grow_by_one(maker: &dyn Maker) {
    let mut store = maker.open();
    assert_eq!(places(&store.commit(&appends((0..3).map(record))).unwrap()), [1, 2, 3]);
    assert_eq!(places(&store.commit(&appends((3..5).map(record))).unwrap()), [4, 5]);
    let mut reader = maker.reader();
    let found = reader.pending(0, 100, u64::MAX).unwrap();
    for (n, one) in (0..5).zip(found) {
        let record = eversock_spool::record::Record { lsn: n + 1, ..record(n) };
        assert_eq!(one, Found::Whole { record, sent: false, held: false });
    }
    assert_sound(&mut *reader);
}

fn known_ids(maker: &dyn Maker) {
    let mut store = maker.open();
    let known = Batch {
        finish: vec![(2, done(b"yes")), (3, Finish::Refused { code: 9, text: "no\0".into() })],
        ..appends((0..4).map(record))
    };
    store.commit(&known).unwrap();
    let mut other = record(3);
    other.payload.push(0);
    // What does not belong to the request itself may differ between two tries.
    let mut again = record(0);
    (again.epoch, again.accepted_ms) = (99, 99);
    let batch = appends([again, record(1), record(2), other, record(4)]);
    let expected = [
        Appended::Duplicate { lsn: 1, end: None },
        Appended::Duplicate { lsn: 2, end: Some(done(b"yes")) },
        Appended::Duplicate { lsn: 3, end: Some(Finish::Refused { code: 9, text: "no\0".into() }) },
        Appended::IdReused,
        Appended::New { lsn: 5 },
    ];
    assert_eq!(store.commit(&batch).unwrap(), expected);
    assert_sound(&mut *maker.reader());
}

fn an_id_twice_in_a_batch(maker: &dyn Maker) {
    let mut store = maker.open();
    let mut other = record(1);
    other.key.push(b'x');
    let results = store.commit(&appends([record(1), record(1), other, record(2)])).unwrap();
    let expected = [
        Appended::New { lsn: 1 },
        Appended::Duplicate { lsn: 1, end: None },
        Appended::IdReused,
        Appended::New { lsn: 2 },
    ];
    assert_eq!(results, expected);
    assert_sound(&mut *maker.reader());
}

fn the_quota(maker: &dyn Maker) {
    let small = |n| keyed(n, vec![1; 10], vec![2; 26]);
    assert_eq!(small(0).weight(), 100);
    let mut store = maker.open_with(Quota { records: 4, bytes: 350 }).unwrap();
    let large = keyed(7, vec![1; 10], vec![2; 250]);
    // A record over the quota does not hinder the others, and takes no place.
    let results = store.commit(&appends([small(0), large, small(1), small(2), small(3)])).unwrap();
    let expected = [
        Appended::New { lsn: 1 },
        Appended::OverQuota,
        Appended::New { lsn: 2 },
        Appended::New { lsn: 3 },
        Appended::OverQuota,
    ];
    assert_eq!(results, expected);
    // Who is known is told so, full or not.
    let again = store.commit(&appends([small(1)])).unwrap();
    assert_eq!(again, [Appended::Duplicate { lsn: 2, end: None }]);
    store.commit(&ends([(1, done(b"")), (2, done(b"")), (3, done(b""))])).unwrap();
    let tiny = |n| keyed(n, vec![], vec![]);
    let results = store.commit(&appends((10..15).map(tiny))).unwrap();
    assert_eq!(results[4], Appended::OverQuota);
    assert_eq!(places(&results[..4]), [4, 5, 6, 7]);
    assert_sound(&mut *maker.reader());
}

fn ends_are_kept(maker: &dyn Maker) {
    let mut store = maker.open();
    store.commit(&appends((0..5).map(record))).unwrap();
    let refused = Finish::Refused { code: 550, text: "no such user".into() };
    let all = [
        (1, done(&payload(1, 5000))),
        (2, refused.clone()),
        (3, Finish::SkippedInDoubt),
        (4, Finish::Purged),
    ];
    store.commit(&ends(all.clone())).unwrap();
    drop(store);
    let mut store = maker.open();
    let mut reader = maker.reader();
    for (lsn, end) in all {
        let known = reader.find(record(lsn - 1).id).unwrap();
        let fingerprint = record(lsn - 1).fingerprint();
        assert_eq!(known, Some(Known::Ended { lsn, end, fingerprint }));
    }
    assert_eq!(
        reader.find(record(4).id).unwrap(),
        Some(Known::Pending { lsn: 5, fingerprint: record(4).fingerprint() })
    );
    assert_eq!(reader.find(record(5).id).unwrap(), None);
    let totals = store.totals().unwrap();
    assert_eq!((totals.pending, totals.quarantined, totals.last_lsn), (1, 1, 5));
    assert_eq!(totals.bytes, record(4).weight());
    assert_eq!(totals, reader.totals().unwrap());
    assert_sound(&mut *reader);
}

fn ends_of_what_does_not_wait(maker: &dyn Maker) {
    let mut store = maker.open();
    store.commit(&appends([record(0), record(1)])).unwrap();
    store.commit(&ends([(1, done(b"first"))])).unwrap();
    let again = Batch {
        finish: vec![(1, Finish::SkippedInDoubt), (77, done(b"")), (0, done(b""))],
        sent: vec![1, 77],
        hold: vec![1, 77],
        ..Batch::default()
    };
    store.commit(&again).unwrap();
    let mut reader = maker.reader();
    let known = reader.find(record(0).id).unwrap();
    assert_eq!(
        known,
        Some(Known::Ended { lsn: 1, end: done(b"first"), fingerprint: record(0).fingerprint() })
    );
    let totals = store.totals().unwrap();
    assert_eq!((totals.pending, totals.held, totals.in_doubt), (1, 0, 0));
    // Twice in one batch: the first counts.
    store.commit(&ends([(2, done(b"a")), (2, done(b"b"))])).unwrap();
    let known = reader.find(record(1).id).unwrap();
    assert_eq!(
        known,
        Some(Known::Ended { lsn: 2, end: done(b"a"), fingerprint: record(1).fingerprint() })
    );
    assert_sound(&mut *reader);
}

fn a_purge_of_what_was_set_aside(maker: &dyn Maker) {
    let mut store = maker.open();
    store.commit(&appends((0..3).map(record))).unwrap();
    let refused = Finish::Refused { code: 1, text: "never".into() };
    store.commit(&ends([(1, refused.clone())])).unwrap();
    store.quarantine(2, "worms").unwrap();
    store.quarantine(2, "more worms").unwrap();
    store.quarantine(99, "nobody").unwrap();
    let mut reader = maker.reader();
    assert_eq!(
        reader.find(record(1).id).unwrap(),
        Some(Known::Quarantined { lsn: 2, fingerprint: record(1).fingerprint() })
    );
    assert_eq!(whole(&mut *reader), [3]);
    let totals = store.totals().unwrap();
    assert_eq!((totals.pending, totals.quarantined), (1, 2));
    let listed = reader.list(0, 10).unwrap();
    let lines: Vec<_> =
        listed.iter().map(|line| (line.lsn, line.state, line.note.as_str())).collect();
    let expected = [
        (1, "quarantined", "refused by the backend with code 1: never"),
        (2, "quarantined", "worms"),
        (3, "pending", ""),
    ];
    assert_eq!(lines, expected);
    assert_eq!(listed[1].key, record(1).key);
    // Whatever was set aside is not forgotten while nobody has said what is to become of it.
    store.commit(&ends([(2, done(b"")), (1, Finish::Purged), (2, Finish::Purged)])).unwrap();
    assert_eq!(reader.list(0, 10).unwrap().len(), 1);
    assert_eq!(store.totals().unwrap().quarantined, 0);
    let known = |n| reader_find(maker, n);
    assert_eq!(
        known(0),
        Some(Known::Ended { lsn: 1, end: refused, fingerprint: record(0).fingerprint() })
    );
    assert_eq!(
        known(1),
        Some(Known::Ended { lsn: 2, end: Finish::Purged, fingerprint: record(1).fingerprint() })
    );
    assert_sound(&mut *reader);
}

fn reader_find(maker: &dyn Maker, n: u64) -> Option<Known> {
    maker.reader().find(record(n).id).unwrap()
}

fn marks(maker: &dyn Maker) {
    let mut store = maker.open();
    let born = Batch {
        append: vec![
            new(record(0)),
            NewRecord { sent: true, ..new(record(1)) },
            NewRecord { held: true, ..new(record(2)) },
            NewRecord { sent: true, held: true, ..new(record(3)) },
        ],
        ..Batch::default()
    };
    store.commit(&born).unwrap();
    let marked = |maker: &dyn Maker| -> Vec<(bool, bool)> {
        let mark = |found| match found {
            Found::Whole { sent, held, .. } => (sent, held),
            damaged => panic!("{damaged:?}"),
        };
        maker.reader().pending(0, 10, u64::MAX).unwrap().into_iter().map(mark).collect()
    };
    assert_eq!(marked(maker), [(false, false), (true, false), (false, true), (true, true)]);
    let change = Batch {
        sent: vec![1, 1, 2],
        unsent: vec![4],
        hold: vec![2],
        release: vec![3, 3, 4],
        ..Batch::default()
    };
    store.commit(&change).unwrap();
    assert_eq!(marked(maker), [(true, false), (true, true), (false, false), (false, false)]);
    let totals = store.totals().unwrap();
    assert_eq!((totals.in_doubt, totals.held), (2, 1));
    let words: Vec<_> = maker.reader().list(0, 10).unwrap().iter().map(|line| line.state).collect();
    assert_eq!(words, ["in doubt", "in doubt", "pending", "pending"]);
    store.commit(&Batch { hold: vec![3], ..Batch::default() }).unwrap();
    assert_eq!(maker.reader().list(2, 1).unwrap()[0].state, "held");
    store.commit(&ends([(2, done(b""))])).unwrap();
    let totals = store.totals().unwrap();
    assert_eq!((totals.in_doubt, totals.held), (1, 1));
    assert_sound(&mut *maker.reader());
}

fn the_state(maker: &dyn Maker) {
    let mut store = maker.open();
    assert_eq!(store.state().unwrap(), PairState::default());
    let state = PairState { epoch: 41, holder: 1, on_hold: true };
    let batch = Batch { state: Some(state.clone()), ..appends([record(0)]) };
    store.commit(&batch).unwrap();
    store.commit(&appends([record(1)])).unwrap();
    assert_eq!(store.state().unwrap(), state);
    drop(store);
    assert_eq!(maker.open().state().unwrap(), state);
}

fn the_newest_of_a_lane(maker: &dyn Maker) {
    let mut store = maker.open();
    let key = |n: u64| if n.is_multiple_of(2) { b"even".to_vec() } else { b"odd".to_vec() };
    store.commit(&appends((1..=9).map(|n| keyed(n, key(n), payload(n, 9))))).unwrap();
    store.commit(&ends([(8, done(b""))])).unwrap();
    store.quarantine(9, "bad").unwrap();
    let mut reader = maker.reader();
    let newest = |reader: &mut dyn SpoolReader, key: &[u8]| {
        reader.newest(Lane::of(key)).unwrap().map(|found| found.lsn())
    };
    assert_eq!(newest(&mut *reader, b"even"), Some(6));
    assert_eq!(newest(&mut *reader, b"odd"), Some(7));
    assert_eq!(newest(&mut *reader, b"neither"), None);
}

fn ages_and_the_oldest(maker: &dyn Maker) {
    let mut store = maker.open();
    assert_eq!(store.totals().unwrap().oldest_ms, 0);
    let at = |n: u64, accepted_ms| eversock_spool::record::Record { accepted_ms, ..record(n) };
    let moments = [1000, 900, 899, 500, 0, 2000];
    let records = (0..).zip(moments).map(|(n, moment)| at(n, moment));
    store.commit(&appends(records)).unwrap();
    let mut reader = maker.reader();
    // What was accepted later than now, by a clock that was set back, has no age.
    assert_eq!(reader.ages(1000, &[1, 100, 101, 600]).unwrap(), [2, 0, 1, 2, 1]);
    assert_eq!(reader.ages(1000, &[5000]).unwrap(), [6, 0]);
    assert_eq!(reader.ages(1000, &[]).unwrap(), [6]);
    store.commit(&ends([(5, done(b"")), (4, done(b""))])).unwrap();
    assert_eq!(store.totals().unwrap().oldest_ms, 899);
    assert_eq!(reader.ages(1000, &[600]).unwrap(), [4, 0]);
}

fn a_listing(maker: &dyn Maker) {
    let mut store = maker.open();
    let long = keyed(1, vec![b'k'; 400], payload(1, 70_000));
    store.commit(&appends([record(0), long.clone(), record(2)])).unwrap();
    store.commit(&ends([(1, done(b""))])).unwrap();
    let mut reader = maker.reader();
    let listed = reader.list(0, 10).unwrap();
    assert_eq!(listed.iter().map(|line| line.lsn).collect::<Vec<_>>(), [2, 3]);
    let line = &listed[0];
    assert_eq!((line.id, line.kind, line.accepted_ms), (long.id, long.kind.code(), 1001));
    assert_eq!((line.payload_len, &line.key[..]), (70_000, &long.key[..256]));
    assert_eq!(reader.list(2, 10).unwrap().len(), 1);
    assert_eq!(reader.list(0, 1).unwrap().len(), 1);
    assert!(reader.list(3, 10).unwrap().is_empty() && reader.list(0, 0).unwrap().is_empty());
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn forgetting(maker: &dyn Maker) {
    let mut store = maker.open();
    store.commit(&appends((0..6).map(record))).unwrap();
    let refused = Finish::Refused { code: 1, text: "x".into() };
    store.commit(&ends([(1, done(b"a")), (2, done(b"b")), (3, done(b"c")), (4, refused)])).unwrap();
    store.quarantine(5, "bad").unwrap();
    assert_eq!(store.forget(0, 100).unwrap(), 0, "nothing ended in 1970");
    assert_eq!(store.forget(u64::MAX, 1).unwrap(), 1);
    assert_eq!(store.forget(u64::MAX, 100).unwrap(), 2);
    assert_eq!(store.forget(u64::MAX, 100).unwrap(), 0);
    let totals = store.totals().unwrap();
    assert_eq!((totals.pending, totals.quarantined), (1, 2), "what was set aside stays");
    assert_eq!(maker.reader().list(0, 10).unwrap().len(), 3);
    assert_eq!(reader_find(maker, 0), None);
    // A purge is the end of it: its id is kept for as long as others from then on.
    let before = now_ms();
    store.commit(&ends([(4, Finish::Purged)])).unwrap();
    assert_eq!(store.forget(before, 100).unwrap(), 0);
    assert_eq!(store.forget(u64::MAX, 100).unwrap(), 1);
    assert_eq!(store.totals().unwrap().quarantined, 1);
    // A forgotten id is a new one; a place is never given twice.
    assert_eq!(places(&store.commit(&appends([record(0)])).unwrap()), [7]);
    assert_sound(&mut *maker.reader());
}

fn opened_again(maker: &dyn Maker) {
    let mut store = maker.open();
    store.commit(&appends((0..20).map(record))).unwrap();
    store.commit(&ends((1..=20).map(|lsn| (lsn, done(b""))))).unwrap();
    store.forget(u64::MAX, 100).unwrap();
    drop(store);
    let mut store = maker.open();
    assert_eq!(store.totals().unwrap().last_lsn, 20);
    assert_eq!(places(&store.commit(&appends([record(0)])).unwrap()), [21]);
    drop(store);
    let mut reader = maker.reader();
    assert_eq!(whole(&mut *reader), [21]);
    assert_sound(&mut *reader);
}

fn a_second_opener(maker: &dyn Maker) {
    let mut store = maker.open();
    let second = maker.open_with(ROOMY);
    assert!(matches!(second, Err(StoreError::Held { .. })), "{:?}", second.err());
    store.commit(&appends([record(0)])).unwrap();
    drop(store);
    assert_eq!(maker.open().totals().unwrap().pending, 1);
}

fn readers_beside_a_writer(maker: &dyn Maker) {
    let mut store = maker.open();
    let mut reader = store.reader().unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut seen = 0;
            while seen < 300 {
                let all = whole(&mut *reader);
                // A prefix of what is written, whole batches only.
                assert!(all.len() >= seen && all.len().is_multiple_of(3), "{}", all.len());
                assert!(all.iter().copied().eq(1..=all.len() as u64));
                let totals = reader.totals().unwrap();
                assert_eq!(totals.last_lsn, totals.pending);
                seen = all.len();
            }
        });
        for batch in 0..100 {
            store.commit(&appends((batch * 3..batch * 3 + 3).map(record))).unwrap();
        }
        reading.join().unwrap();
    });
}

fn bounds_of_a_read(maker: &dyn Maker) {
    let mut store = maker.open();
    let heavy = |n| keyed(n, vec![], payload(n, 936));
    assert_eq!(heavy(0).weight(), 1000);
    store.commit(&appends((0..10).map(heavy))).unwrap();
    store.commit(&ends([(2, done(b""))])).unwrap();
    let mut reader = maker.reader();
    let mut read = |after, limit, weight| -> Vec<u64> {
        reader.pending(after, limit, weight).unwrap().iter().map(Found::lsn).collect()
    };
    assert_eq!(read(0, 3, u64::MAX), [1, 3, 4]);
    assert_eq!(read(3, 2, u64::MAX), [4, 5]);
    assert_eq!(read(0, 100, 2000), [1, 3]);
    assert_eq!(read(0, 100, 2001), [1, 3, 4]);
    assert_eq!(read(0, 100, 1), [1], "the first is given, however heavy");
    assert_eq!(read(10, 100, u64::MAX), [0; 0]);
    assert_eq!(read(u64::MAX, 100, u64::MAX), [0; 0]);
    assert_eq!(read(0, 0, u64::MAX), [0; 0]);
}

fn any_bytes(maker: &dyn Maker) {
    let mut store = maker.open();
    let all: Vec<u8> = (0..=255).collect();
    let odd = eversock_spool::record::Record {
        epoch: u64::MAX,
        accepted_ms: 0,
        id: eversock_spool::RequestId(u128::MAX),
        ..keyed(1, all.clone(), all.repeat(3000))
    };
    let empty = keyed(2, vec![], vec![]);
    store.commit(&appends([odd.clone(), empty.clone()])).unwrap();
    store.commit(&ends([(2, done(&all))])).unwrap();
    let mut reader = maker.reader();
    let found = reader.pending(0, 9, u64::MAX).unwrap();
    let record = eversock_spool::record::Record { lsn: 1, ..odd };
    assert_eq!(found, [Found::Whole { record, sent: false, held: false }]);
    let known = reader.find(empty.id).unwrap();
    assert_eq!(
        known,
        Some(Known::Ended { lsn: 2, end: done(&all), fingerprint: empty.fingerprint() })
    );
}
