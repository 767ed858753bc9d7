#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod network;
mod storm;

use std::convert::Infallible;
use std::time::Duration;

use super::*;

fn id(name: &str) -> ControllerId {
    name.parse().unwrap()
}

fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn request(ms: u64) -> Request {
    let deadline = Duration::from_millis(ms);
    Request { id: 0, device: device("d"), deadline, payload: b"do".to_vec() }
}

fn forward(id: u64, visited: &[&str], seq: u64) -> Forward {
    let visited = visited.iter().map(|name| name.parse().unwrap()).collect();
    let deadline = Duration::from_secs(1);
    Forward { id, device: device("d"), visited, seq, deadline, payload: b"do".to_vec() }
}

fn at(owner: &str, seq: u64) -> Whereabouts {
    Whereabouts::At { owner: id(owner), seq, place: vec!["127.0.0.1:7".parse().unwrap()] }
}

fn not_here(owner: &str, seq: u64) -> Outcome {
    as_not_here(at(owner, seq))
}

const HERE: Whereabouts = Whereabouts::Here { conn: 5 };
const MAX: usize = 10;

/// Controller `a` with links to `b` and `c`, and what it said since it was last looked at.
struct A {
    requests: Requests,
    out: Vec<Output>,
}

impl A {
    fn new() -> Self {
        let mut requests = Requests::new(id("a"), 3);
        requests.link_up(id("b"));
        requests.link_up(id("c"));
        Self { requests, out: Vec::new() }
    }

    fn request(&mut self, now: Millis, n: u64, ms: u64, at: Whereabouts) {
        self.requests.request(now, MAX, Origin::Conn(1, n), request(ms), at, &mut self.out);
    }

    fn forward(&mut self, forward: Forward, at: Whereabouts) {
        self.requests.forward(0, MAX, id("z"), forward, at, &mut self.out);
    }

    fn answer(&mut self, now: Millis, conn: ConnId, id: u64, outcome: Outcome) {
        self.requests.answer(now, conn, id, outcome, &mut self.out);
    }

    fn result(&mut self, from: &str, number: u64, outcome: Outcome, known: Whereabouts) {
        let locate = |_: &DeviceId| Ok::<_, Infallible>(known);
        let out = &mut self.out;
        self.requests.forward_result(10, &id(from), number, outcome, locate, out).unwrap();
    }

    /// What the device on connection 5 was asked.
    fn asked(&mut self) -> Request {
        match self.out.remove(0) {
            Output::Ask { conn: 5, request } => request,
            other => panic!("{other:?}"),
        }
    }

    fn forwarded(&mut self, to: &str) -> Forward {
        match self.out.remove(0) {
            Output::Forward { partner, forward } if partner == id(to) => forward,
            other => panic!("{other:?}"),
        }
    }

    fn outcome(&mut self) -> (Origin, Outcome) {
        match self.out.remove(0) {
            Output::Answered { origin, outcome } => (origin, outcome),
            other => panic!("{other:?}"),
        }
    }

    fn assert_quiet(&self) {
        assert_eq!(self.out, Vec::new());
    }

    fn assert_empty(&self) {
        self.assert_quiet();
        self.requests.assert_consistent();
        assert_eq!((self.requests.len(), self.requests.due()), (0, None));
        assert!(!self.requests.busy(&device("d")));
    }
}

impl Requests {
    /// All indexes say the same.
    pub(super) fn assert_consistent(&self) {
        assert_eq!(self.deadlines.len(), self.entries.len());
        let askers = self.entries.values().filter(|entry| entry.origin.is_some()).count();
        assert_eq!(self.by_origin.len(), askers);
        let locals =
            self.by_origin.keys().filter(|origin| matches!(origin, Origin::Local(_))).count();
        assert_eq!(self.by_asker_conn.len() + self.by_asker_partner.len() + locals, askers);
        assert_eq!(self.by_conn.len() + self.by_partner.len(), self.entries.len());
        assert_eq!(self.by_device.values().sum::<usize>(), self.by_conn.len());
        let kept = |entry: &Entry| match &entry.asked {
            Asked::Partner { payload: Some(payload), .. } => payload.len(),
            _ => 0,
        };
        assert_eq!(self.kept_bytes, self.entries.values().map(kept).sum::<usize>());
        for (number, entry) in &self.entries {
            assert!(self.deadlines.contains(&(entry.until, *number)));
        }
    }
}

#[test]
fn a_device_is_asked_and_its_answer_goes_back() {
    let mut a = A::new();
    a.request(100, 9, 500, HERE);
    let asked = a.asked();
    assert_eq!((asked.device.as_str(), asked.payload.as_slice()), ("d", b"do".as_slice()));
    assert_eq!(asked.deadline, Duration::from_millis(500));
    assert!(a.requests.busy(&device("d")) && !a.requests.busy(&device("e")));
    assert_eq!(a.requests.due(), Some(600));
    // Neither another connection nor another number is an answer.
    a.answer(110, 6, asked.id, Outcome::Done(vec![1]));
    a.answer(110, 5, asked.id + 1, Outcome::Done(vec![1]));
    a.assert_quiet();
    a.answer(599, 5, asked.id, Outcome::Done(vec![2]));
    assert_eq!(a.outcome(), (Origin::Conn(1, 9), Outcome::Done(vec![2])));
    a.answer(599, 5, asked.id, Outcome::Done(vec![2]));
    a.assert_empty();
    assert_eq!(a.requests.counts().served, 1);
}

#[test]
fn what_a_device_says_of_where_it_is_is_not_passed_on() {
    let mut a = A::new();
    for said in [Outcome::Unknown, not_here("b", 9)] {
        a.request(0, 1, 500, HERE);
        let asked = a.asked();
        a.answer(1, 5, asked.id, said);
        assert!(matches!(a.outcome().1, Outcome::Unreachable(_)));
    }
    a.assert_empty();
}

#[test]
fn an_answer_that_comes_too_late_is_dropped() {
    let mut a = A::new();
    a.request(0, 1, 500, HERE);
    let asked = a.asked();
    a.requests.tick(499, &mut a.out);
    a.assert_quiet();
    a.requests.tick(500, &mut a.out);
    assert_eq!(a.outcome().1, Outcome::TimedOut);
    a.answer(501, 5, asked.id, Outcome::Done(vec![]));
    a.assert_empty();
    // So it is if nobody looked at the clock in between.
    a.request(0, 1, 500, HERE);
    let asked = a.asked();
    a.answer(500, 5, asked.id, Outcome::Done(vec![]));
    assert_eq!(a.outcome().1, Outcome::TimedOut);
    a.assert_empty();
    // And nobody is asked what there is no time for.
    a.request(0, 1, 0, HERE);
    assert_eq!(a.outcome().1, Outcome::TimedOut);
    a.assert_empty();
}

#[test]
fn a_deadline_of_less_than_a_millisecond_is_one() {
    let mut a = A::new();
    let request = Request { deadline: Duration::from_micros(1), ..request(0) };
    a.requests.request(0, MAX, Origin::Local(1), request, HERE, &mut a.out);
    assert_eq!(a.asked().deadline, Duration::from_millis(1));
}

#[test]
fn no_deadline_is_longer_than_the_longest() {
    let mut a = A::new();
    a.request(7, 1, u64::MAX, HERE);
    assert_eq!(a.asked().deadline, DEADLINE_MAX);
    assert_eq!(a.requests.due(), Some(7 + 300_000));
}

#[test]
fn a_lost_connection_leaves_its_devices_requests_in_doubt_and_its_own_unanswered() {
    let mut a = A::new();
    a.request(0, 1, 500, HERE);
    a.requests.request(0, MAX, Origin::Local(4), request(500), at("b", 2), &mut a.out);
    a.asked();
    a.forwarded("b");
    a.requests.conn_lost(1, 5, &mut a.out);
    assert_eq!(a.outcome(), (Origin::Conn(1, 1), Outcome::TimedOut));
    a.assert_quiet();
    // The asker goes: the device is still busy with it, and its number is free again.
    a.request(2, 1, 500, HERE);
    a.request(2, 2, 500, at("c", 3));
    let asked = a.asked();
    a.forwarded("c");
    a.requests.conn_lost(3, 1, &mut a.out);
    a.assert_quiet();
    assert!(a.requests.busy(&device("d")));
    assert_eq!(a.requests.len(), 2);
    a.request(4, 1, 500, HERE);
    a.asked();
    a.answer(5, 5, asked.id, Outcome::Done(vec![]));
    a.assert_quiet();
    a.requests.assert_consistent();
}

#[test]
fn a_lost_link_leaves_what_was_passed_on_in_doubt_and_its_own_unanswered() {
    let mut a = A::new();
    a.request(0, 1, 500, at("b", 2));
    a.request(0, 2, 500, at("c", 2));
    let (_, of_c) = (a.forwarded("b"), a.forwarded("c"));
    a.requests.forward(0, MAX, id("b"), forward(8, &["b"], 1), HERE, &mut a.out);
    let asked = a.asked();
    a.requests.link_down(1, &id("b"), &mut a.out);
    assert_eq!(a.outcome(), (Origin::Conn(1, 1), Outcome::TimedOut));
    a.assert_quiet();
    a.answer(2, 5, asked.id, Outcome::Done(vec![]));
    a.assert_quiet();
    // While it is down, whoever asks is told where to go.
    a.request(3, 3, 500, at("b", 2));
    assert_eq!(a.outcome().1, not_here("b", 2));
    a.result("c", of_c.id, Outcome::Refused("no".to_owned()), Whereabouts::Unknown);
    assert_eq!(a.outcome(), (Origin::Conn(1, 2), Outcome::Refused("no".to_owned())));
    a.assert_empty();
    assert_eq!(a.requests.counts(), Counts { served: 1, forwarded: 2, not_here: 1 });
}

#[test]
fn a_request_is_passed_on_once_more_to_whoever_has_newer_knowledge() {
    let mut a = A::new();
    a.request(0, 1, 500, at("b", 2));
    let first = a.forwarded("b");
    assert_eq!((first.seq, first.visited.as_slice()), (2, [id("a")].as_slice()));
    // Only whom was asked can answer.
    a.result("c", first.id, Outcome::Done(vec![]), HERE);
    a.assert_quiet();
    a.result("b", first.id, not_here("c", 3), at("b", 2));
    let second = a.forwarded("c");
    assert_eq!(second.deadline, Duration::from_millis(490), "ten are over");
    assert_eq!((second.seq, second.payload.as_slice()), (3, b"do".as_slice()));
    assert!(second.visited.contains(&id("a")) && second.visited.contains(&id("b")));
    a.requests.link_up(id("e"));
    a.result("c", second.id, not_here("e", 4), at("b", 2));
    assert_eq!(a.outcome().1, not_here("e", 4), "twice is enough");
    a.assert_empty();
}

#[test]
fn a_request_is_not_passed_on_for_news_that_are_none() {
    for (owner, seq) in [("c", 2), ("c", 1), ("b", 2), ("a", 2)] {
        let mut a = A::new();
        a.request(0, 1, 500, at("b", 2));
        let first = a.forwarded("b");
        a.result("b", first.id, not_here(owner, seq), at("b", 2));
        assert!(matches!(a.outcome().1, Outcome::Unreachable(_)), "{owner} {seq}");
        a.assert_empty();
    }
}

#[test]
fn a_device_that_has_come_here_meanwhile_is_asked_here() {
    let mut a = A::new();
    a.request(0, 1, 500, at("b", 2));
    let first = a.forwarded("b");
    a.result("b", first.id, not_here("a", 3), HERE);
    let asked = a.asked();
    assert_eq!(
        (asked.deadline, asked.payload.as_slice()),
        (Duration::from_millis(490), &b"do"[..])
    );
    a.answer(20, 5, asked.id, Outcome::Done(vec![]));
    assert_eq!(a.outcome().1, Outcome::Done(vec![]));
    a.assert_empty();
    // It was told that it is here, but it is not.
    a.request(0, 1, 500, at("b", 2));
    let first = a.forwarded("b");
    a.result("b", first.id, not_here("a", 3), at("b", 2));
    assert!(matches!(a.outcome().1, Outcome::Unreachable(_)));
    a.assert_empty();
}

#[test]
fn the_newer_of_what_is_said_and_what_is_known_counts() {
    let mut a = A::new();
    a.request(0, 1, 500, at("b", 2));
    let first = a.forwarded("b");
    a.result("b", first.id, not_here("x", 3), at("c", 4));
    assert_eq!(a.forwarded("c").seq, 4);
    a.request(0, 2, 500, at("b", 2));
    let first = a.forwarded("b");
    a.result("b", first.id, not_here("c", 5), at("x", 4));
    assert_eq!(a.forwarded("c").seq, 5);
}

#[test]
fn a_store_that_fails_leaves_the_request_where_it_is() {
    let mut a = A::new();
    a.request(0, 1, 500, at("b", 2));
    let first = a.forwarded("b");
    let broken = |_: &DeviceId| Err("broken");
    let outcome = not_here("c", 3);
    let (requests, out) = (&mut a.requests, &mut a.out);
    assert!(requests.forward_result(1, &id("b"), first.id, outcome, broken, out).is_err());
    a.assert_quiet();
    a.requests.assert_consistent();
    assert_eq!(a.requests.len(), 1);
}

#[test]
fn what_partners_pass_on_goes_on_only_with_newer_knowledge_and_not_too_far() {
    let mut a = A::new();
    a.forward(forward(1, &["z"], 3), at("b", 4));
    let on = a.forwarded("b");
    assert_eq!((on.seq, on.visited), (4, vec![id("z"), id("a")]));
    a.forward(forward(2, &["z"], 4), at("b", 4));
    assert_eq!(a.outcome(), (Origin::Partner(id("z"), 2), not_here("b", 4)));
    a.forward(forward(3, &["b", "z"], 3), at("b", 4));
    assert_eq!(a.outcome().1, not_here("b", 4));
    a.forward(forward(4, &["a", "z"], 3), HERE);
    assert!(matches!(a.outcome().1, Outcome::Unreachable(_)));
    a.forward(forward(5, &["v", "w", "z"], 3), at("b", 4));
    assert_eq!(a.forwarded("b").visited.len(), HOPS_MAX);
    a.forward(forward(6, &["u", "v", "w", "z"], 3), at("b", 4));
    assert_eq!(a.outcome().1, not_here("b", 4));
    a.forward(forward(7, &["u", "v", "w", "z"], 3), HERE);
    a.asked();
    a.forward(forward(8, &["t", "u", "v", "w", "z"], 3), HERE);
    assert!(matches!(a.outcome().1, Outcome::Unreachable(_)));
    a.forward(forward(9, &["z"], 0), at("a", 1));
    assert!(matches!(a.outcome().1, Outcome::Unreachable(_)));
    a.forward(forward(9, &["z"], 0), Whereabouts::Unknown);
    assert_eq!(a.outcome().1, Outcome::Unknown);
    a.assert_quiet();
}

#[test]
fn a_full_table_turns_away_what_needs_room() {
    let mut a = A::new();
    for n in 0..MAX as u64 {
        a.request(0, n, 1000, HERE);
        a.asked();
    }
    let mut waits = BTreeSet::new();
    for n in 0..8 {
        a.request(0, 100 + n, 1000, if n % 2 == 0 { HERE } else { at("b", 1) });
        let Outcome::Busy { after } = a.outcome().1 else { panic!("not busy") };
        assert!((BUSY_AT_LEAST..=BUSY_AT_MOST).contains(&after), "{after:?}");
        waits.insert(after);
    }
    assert!(waits.len() >= 8, "all come again at once: {waits:?}");
    a.request(0, 200, 1000, at("x", 1));
    assert_eq!(a.outcome().1, not_here("x", 1));
    assert_eq!(a.requests.len(), MAX);
    a.requests.assert_consistent();
}

#[test]
fn a_number_that_is_in_use_is_refused() {
    let mut a = A::new();
    a.request(0, 1, 500, HERE);
    let asked = a.asked();
    a.request(0, 1, 500, HERE);
    assert!(matches!(a.outcome(), (Origin::Conn(1, 1), Outcome::Refused(_))));
    a.answer(1, 5, asked.id, Outcome::Done(vec![]));
    assert_eq!(a.outcome().1, Outcome::Done(vec![]));
    a.request(2, 1, 500, HERE);
    let asked = a.asked();
    a.answer(3, 5, asked.id, Outcome::Done(vec![]));
    a.outcome();
    a.forward(forward(1, &["z"], 0), HERE);
    let asked = a.asked();
    a.forward(forward(1, &["z"], 0), HERE);
    assert!(
        matches!(a.out.remove(0), Output::Event(Event::Odd { partner, .. }) if partner == id("z"))
    );
    assert!(matches!(a.outcome().1, Outcome::Refused(_)));
    a.answer(4, 5, asked.id, Outcome::Done(vec![]));
    a.outcome();
    a.assert_empty();
}

#[test]
fn numbers_differ_from_those_of_the_shard_before() {
    let numbers: BTreeSet<u64> = (0..100).map(|seed| Requests::new(id("a"), seed).next).collect();
    let apart = numbers.iter().zip(numbers.iter().skip(1)).map(|(a, b)| b - a).min().unwrap();
    assert!(apart > 1 << 40, "{apart}");
    assert!(*numbers.last().unwrap() < u64::MAX / 2);
}

#[test]
fn many_that_are_late_end_in_bounded_steps() {
    let mut requests = Requests::new(id("a"), 1);
    let mut out = Vec::new();
    let count = 2 * BATCH_MAX as u64 + 3;
    for n in 0..count {
        requests.request(0, usize::MAX, Origin::Local(n), request(10), HERE, &mut out);
    }
    out.clear();
    for step in [BATCH_MAX, BATCH_MAX, 3] {
        assert_eq!(requests.due(), Some(10));
        requests.tick(10, &mut out);
        assert_eq!(out.drain(..).count(), step);
    }
    assert_eq!(requests.due(), None);
}
