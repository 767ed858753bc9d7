//! The order in which a server's addresses are dialled.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use eversock_dedup::race::Book;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;

/// The jitter that is none.
const EVEN: u32 = 200;

fn v4(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 443))
}

fn v6(last: u16) -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 443))
}

#[test]
fn families_take_turns_behind_the_address_that_was_good_last() {
    let book = Book::new();
    let all = [v6(1), v6(2), v6(3), v4(1), v4(2), v6(1)];
    assert_eq!(book.order(&all, None, 0), [v6(1), v4(1), v6(2), v4(2), v6(3)]);
    assert_eq!(book.order(&all, Some(v6(3)), 0), [v6(3), v4(1), v6(1), v4(2), v6(2)]);
    assert_eq!(book.order(&all, Some(v4(2)), 0), [v4(2), v6(1), v4(1), v6(2), v6(3)]);
    assert_eq!(book.order(&all, Some(v4(9)), 0), book.order(&all, None, 0), "one of others");
    assert_eq!(book.order(&[], Some(v4(1)), 0), []);
}

#[test]
fn a_failing_family_puts_no_back_off_on_the_other() {
    let mut book = Book::new();
    let all = [v6(1), v6(2), v4(1), v4(2)];
    book.failed(v6(1), 0, EVEN);
    book.failed(v6(2), 10, EVEN);
    assert_eq!(book.order(&all, None, 20), [v4(1), v4(2), v6(1), v6(2)]);
    assert_eq!(book.back_off(v4(1), 20), None);
    // Nor does one address on another of its family.
    book.succeeded(v6(2));
    assert_eq!(book.order(&all, None, 20), [v6(2), v4(1), v4(2), v6(1)]);
}

#[test]
fn a_dead_address_goes_last_and_comes_back() {
    let mut book = Book::new();
    let all = [v4(1), v4(2)];
    book.failed(v4(1), 0, EVEN);
    assert_eq!(book.order(&all, Some(v4(1)), SECOND - 1), [v4(2), v4(1)]);
    assert_eq!(book.order(&all, Some(v4(1)), SECOND), [v4(1), v4(2)]);
    // Failures beside the one that counted.
    book.failed(v4(1), SECOND, EVEN);
    book.failed(v4(1), SECOND, EVEN);
    assert_eq!(book.back_off(v4(1), SECOND), Some(SECOND + 1_600_000));
    // When all have failed all are tried, the one that is over first before the others.
    book.failed(v4(2), SECOND, EVEN);
    assert_eq!(book.order(&all, None, SECOND), [v4(2), v4(1)]);
    book.network_changed();
    assert_eq!(book.order(&all, None, SECOND), all);
}

#[test]
fn a_back_off_grows_to_two_minutes_and_a_fifth_and_a_success_ends_it() {
    let mut book = Book::new();
    let mut now = 0;
    let mut lengths = Vec::new();
    for random in [EVEN; 12].into_iter().chain([0, 400, 401]) {
        book.failed(v4(1), now, random);
        let until = book.back_off(v4(1), now).unwrap();
        lengths.push((until - now) / 1000);
        now = until;
    }
    let grown = [1000, 1600, 2560, 4096, 6553, 10_485, 16_777, 26_843, 42_949, 68_719, 109_951];
    assert_eq!(lengths[..11], grown);
    assert_eq!(lengths[11..], [120_000, 96_000, 144_000, 96_000]);
    book.succeeded(v4(1));
    book.failed(v4(1), now, EVEN);
    assert_eq!(book.back_off(v4(1), now), Some(now + SECOND));
}

#[test]
fn a_thousand_addresses_are_remembered_and_no_more() {
    let mut book = Book::new();
    for last in 0..=1024 {
        book.failed(v6(last), u64::from(last), EVEN);
    }
    let remembered = (0..=1024).filter(|last| book.back_off(v6(*last), 1024).is_some());
    assert_eq!(remembered.collect::<Vec<_>>(), (1..=1024).collect::<Vec<_>>());
}

fn some_address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![(0..5_u8).prop_map(v4), (0..5_u16).prop_map(v6)]
}

proptest! {
    #[test]
    fn an_order_has_each_address_once_and_those_in_back_off_last(
        addresses in prop::collection::vec(some_address(), 0..12),
        failures in prop::collection::vec((some_address(), 0..5 * SECOND, any::<u32>()), 0..30),
        good in prop::option::of(some_address()),
    ) {
        let mut book = Book::new();
        let mut now = 0;
        for (address, wait, random) in failures {
            now += wait;
            book.failed(address, now, random);
        }
        let order = book.order(&addresses, good, now);
        let given: BTreeSet<_> = addresses.iter().collect();
        prop_assert_eq!(order.len(), given.len());
        prop_assert_eq!(order.iter().collect::<BTreeSet<_>>(), given);
        let untils: Vec<_> = order.iter().map(|address| book.back_off(*address, now)).collect();
        prop_assert!(untils.is_sorted(), "none, then the soonest");
        let ready = untils.iter().filter(|until| until.is_none()).count();
        if let Some(good) = good.filter(|good| order[..ready].contains(good)) {
            prop_assert_eq!(order[0], good);
        }
        // While there are both, no two of one family follow each other.
        let families: Vec<bool> = order[..ready].iter().map(SocketAddr::is_ipv4).collect();
        let same = (1..ready).find(|at| families[*at] == families[at - 1]).unwrap_or(ready);
        prop_assert!((same..ready).all(|at| families[at] == families[same]));
        // Within a family the order is as given.
        let at = |address| addresses.iter().position(|of| of == address).unwrap();
        for is_v4 in [true, false] {
            let family = order[..ready].iter();
            let family = family.filter(|one| one.is_ipv4() == is_v4 && Some(**one) != good);
            prop_assert!(family.map(at).is_sorted());
        }
    }
}
