//! Which line is the better one, and that a session does not move more than is worth it.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::net::SocketAddr;

use eversock_dedup::score::{BadWeight, Judge, Line, Rules, Weights, gain, hops};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;
const WINDOW: u64 = 10 * SECOND;

fn addr(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 443))
}

fn with_rtt(micros: u64) -> Line {
    Line { rtt_us: Some(micros), ..Line::default() }
}

/// Windows from `from` on, until a move is advised.
fn windows_until_move(judge: &mut Judge, from: u64, active: Line, other: Line) -> Option<u64> {
    (1..100).find(|at| {
        let now = from + at * WINDOW;
        judge.window(now, &active, &[(addr(2), other)], &Weights::default()).is_some()
    })
}

#[test]
fn unknown_metrics_are_neutral() {
    let weights = Weights::default();
    let known = Line {
        rtt_min_us: Some(1),
        rtt_us: Some(1),
        loss_ppm: Some(0),
        rate_bps: Some(u64::MAX),
        link_mbps: Some(u32::MAX),
        hops: Some(0),
        mtu: Some(65_535),
    };
    assert_eq!(gain(&known, &Line::default(), &weights), 1.0);
    assert_eq!(gain(&Line::default(), &known, &weights), 1.0);
    assert_eq!(gain(&known, &known, &weights), 1.0);
    assert_eq!(gain(&with_rtt(1000), &Line { hops: Some(9), ..with_rtt(2000) }, &weights), 2.0);
}

#[test]
fn each_metric_counts_the_right_way_and_no_more_than_sixteen_times() {
    let line = Line {
        rtt_min_us: Some(10_000),
        rtt_us: Some(10_000),
        loss_ppm: Some(10_000),
        rate_bps: Some(1_000_000),
        link_mbps: Some(1000),
        hops: Some(10),
        mtu: Some(1500),
    };
    let better = [
        Line { rtt_min_us: Some(1), ..line },
        Line { rtt_us: Some(0), ..line },
        Line { rate_bps: Some(u64::MAX), ..line },
        Line { link_mbps: Some(400_000), ..line },
        Line { hops: Some(0), ..line },
        Line { mtu: Some(65_535), ..line },
    ];
    let (full, none) = ([1.0; 7], [0.0; 7]);
    let weights = |[rtt_min, rtt, loss, rate, link, hops, mtu]: [f64; 7]| {
        Weights { rtt_min, rtt, loss, rate, link, hops, mtu }.checked().unwrap()
    };
    for other in better {
        let by = gain(&other, &line, &weights(full));
        assert!(by > 1.2 && by <= 16.0, "{by} of {other:?}");
        let back = gain(&line, &other, &weights(full));
        assert!((by * back - 1.0).abs() < 1e-9);
        assert_eq!(gain(&other, &line, &weights(none)), 1.0);
    }
    // No loss is no infinitely good line: 1.5 % against 0.5 %.
    let lossless = gain(&Line { loss_ppm: Some(0), ..line }, &line, &weights(full));
    assert!((lossless - 3.0).abs() < 1e-9);
}

#[test]
fn weights_are_finite_and_not_negative() {
    assert!(Weights::default().checked().is_ok());
    for value in [-0.1, f64::INFINITY] {
        let bad = Weights { hops: value, ..Weights::default() }.checked();
        assert_eq!(bad, Err(BadWeight { name: "hops", value }));
    }
    assert!(Weights { mtu: f64::NAN, ..Weights::default() }.checked().is_err());
}

#[test]
fn hops_are_counted_from_where_systems_begin() {
    let cases = [(64, 0), (57, 7), (65, 63), (128, 0), (120, 8), (129, 126), (255, 0), (1, 63)];
    for (ttl, expected) in cases {
        assert_eq!(hops(ttl), Some(expected), "{ttl}");
    }
    assert_eq!(hops(0), None);
}

#[test]
fn a_fifth_better_is_enough_and_less_is_not() {
    let move_to = |active, other| {
        let mut judge = Judge::new(Rules::default());
        windows_until_move(&mut judge, 0, with_rtt(active), with_rtt(other))
    };
    assert_eq!(move_to(12_000, 10_000), Some(3));
    assert_eq!(move_to(11_999, 10_000), None);
}

#[test]
fn a_better_line_is_moved_to_once() {
    let mut judge = Judge::new(Rules::default());
    let (slow, fast) = (with_rtt(20_000), with_rtt(10_000));
    judge.moved(0);
    let at = windows_until_move(&mut judge, 0, slow, fast).unwrap();
    assert_eq!(at, 3);
    // On the way nothing more is advised.
    let weights = Weights::default();
    assert_eq!(judge.window(40 * SECOND, &slow, &[(addr(2), fast)], &weights), None);
    judge.moved(41 * SECOND);
    // From there the other one is the worse.
    assert_eq!(windows_until_move(&mut judge, 41 * SECOND, fast, slow), None);
}

#[test]
fn another_best_line_begins_anew_and_one_as_good_does_not() {
    let weights = Weights::default();
    let active = with_rtt(20_000);
    let mut judge = Judge::new(Rules::default());
    let mut advised = |at: u64, first: u64, second: u64| {
        let lines = [(addr(2), with_rtt(first)), (addr(3), with_rtt(second))];
        judge.window(at * WINDOW, &active, &lines, &weights)
    };
    assert_eq!(advised(1, 10_000, 11_000), None);
    assert_eq!(advised(2, 10_000, 11_000), None);
    assert_eq!(advised(3, 10_000, 9_000), None, "the second is the best now");
    assert_eq!(advised(4, 9_000, 9_000), None, "and stays it");
    assert_eq!(advised(5, 10_000, 9_000), Some(addr(3)));
}

#[test]
fn an_address_to_which_moves_fail_is_left_alone_for_longer_each_time() {
    let mut judge = Judge::new(Rules::default());
    let (slow, fast) = (with_rtt(20_000), with_rtt(10_000));
    let mut now = 0;
    let mut waits = Vec::new();
    for _ in 0..7 {
        let windows = windows_until_move(&mut judge, now, slow, fast).unwrap();
        waits.push(windows);
        now += windows * WINDOW;
        judge.failed(addr(2), now);
    }
    // Three windows; then the three begin with that in which the address's time is over, after
    // one minute, two, four, eight, ten.
    assert_eq!(waits, [3, 8, 14, 26, 50, 62, 62]);
    // Another address has its own.
    let lines = [(addr(2), fast), (addr(3), fast)];
    let at = (1..10).find_map(|at| {
        judge.window(now + at * WINDOW, &slow, &lines, &Weights::default()).map(|to| (at, to))
    });
    assert_eq!(at, Some((6, addr(3))), "as soon as the minute is over");
}

fn line() -> impl Strategy<Value = Line> {
    let times = (any::<Option<u64>>(), prop::option::of(1..200_000_u64));
    let rates = (any::<Option<u32>>(), any::<Option<u64>>(), any::<Option<u32>>());
    let path = (any::<Option<u8>>(), any::<Option<u32>>());
    (times, rates, path).prop_map(|(times, rates, path)| Line {
        rtt_min_us: times.0,
        rtt_us: times.1,
        loss_ppm: rates.0,
        rate_bps: rates.1,
        link_mbps: rates.2,
        hops: path.0,
        mtu: path.1,
    })
}

proptest! {
    /// However good or bad the lines seem from window to window, and however the moves end.
    #[test]
    fn oscillating_lines_are_left_alone(
        windows in prop::collection::vec(
            (line(), prop::collection::vec((2..6_u8, line()), 0..4), 0..20 * SECOND, 0..5_u8),
            0..300,
        ),
        start: u32,
    ) {
        let rules = Rules::default();
        let mut judge = Judge::new(rules);
        let mut now = u64::from(start);
        let mut last_change: Option<u64> = None;
        let mut last_move: Option<u64> = None;
        let mut advised: Option<SocketAddr> = None;
        for (active, others, wait, end) in windows {
            now += wait;
            let others: Vec<_> =
                others.into_iter().map(|(last, line)| (addr(last), line)).collect();
            let to = judge.window(now, &active, &others, &Weights::default());
            if let Some(to) = to {
                prop_assert!(advised.is_none(), "one move at a time");
                let line = others.iter().filter(|(address, _)| *address == to);
                let best = line.map(|(_, line)| gain(line, &active, &Weights::default()));
                prop_assert!(best.fold(0.0, f64::max) >= rules.gain - 1e-6);
                prop_assert!(last_change.is_none_or(|at| now - at >= rules.dwell_us));
                prop_assert!(last_move.is_none_or(|at| now - at >= 60 * SECOND));
                last_move = Some(now);
                advised = Some(to);
            }
            match (end, advised) {
                (0, Some(to)) => {
                    judge.failed(to, now);
                    advised = None;
                }
                (1, Some(_)) => {
                    judge.moved(now);
                    (last_move, last_change, advised) = (Some(now), Some(now), None);
                }
                // A connection died, and another address was taken for the next.
                (2, None) => {
                    judge.moved(now);
                    last_change = Some(now);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn a_gain_is_a_number_and_its_inverse_is_the_way_back(one in line(), other in line()) {
        let weights = Weights::default();
        let (there, back) = (gain(&one, &other, &weights), gain(&other, &one, &weights));
        prop_assert!(there.is_finite() && there > 0.0);
        prop_assert!((there * back - 1.0).abs() < 1e-6);
    }
}
