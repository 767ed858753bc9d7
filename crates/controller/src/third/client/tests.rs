#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod storm;

use super::*;
use crate::wire::Place;

fn id(name: &str) -> ControllerId {
    name.parse().unwrap()
}

fn device() -> DeviceId {
    "d".parse().unwrap()
}

fn addr() -> SocketAddr {
    "127.0.0.1:7".parse().unwrap()
}

fn not_here(owner: &str, seq: u64) -> Outcome {
    Outcome::NotHere { owner: id(owner), seq, place: vec![addr()] }
}

fn unreachable() -> Outcome {
    Outcome::Unreachable("no link".to_owned())
}

fn config() -> RouterConfig {
    let breaker = BreakerConfig { failures_max: 2, pause: 1000, pause_max: 8000 };
    RouterConfig { requests_max: 8, bytes_max: 1000, breaker, ..RouterConfig::default() }
}

/// Routes to `a`, then `b`, then `c`.
fn routes() -> Routes {
    let names = ["a", "b", "c"];
    let places = names.map(|name| Place { controller: id(name), addrs: vec![addr()] });
    Routes::new(places.to_vec(), vec![], names.map(id).to_vec()).unwrap()
}

struct Fixture {
    router: Router,
    now: Millis,
    out: Vec<Action>,
}

impl Fixture {
    /// With connections to all three.
    fn connected() -> Self {
        let mut fixture = Self::new();
        for name in ["a", "b", "c"] {
            fixture.router.connected(0, &id(name), &mut fixture.out);
        }
        fixture
    }

    fn new() -> Self {
        Self { router: Router::new(config(), routes()), now: 0, out: Vec::new() }
    }

    fn ask(&mut self, number: u64, ms: u64, is_idempotent: bool) {
        let deadline = Duration::from_millis(ms);
        let ask = Ask { number, device: device(), deadline, payload: vec![7; 10], is_idempotent };
        self.router.ask(self.now, ask, &mut self.out);
    }

    fn response(&mut self, from: &str, number: u64, outcome: Outcome) {
        self.router.response(self.now, &id(from), number, outcome, &mut self.out);
    }

    fn lost(&mut self, whom: &str) {
        self.router.lost(self.now, &id(whom), "gone", &mut self.out);
    }

    fn up(&mut self, whom: &str) {
        self.router.connected(self.now, &id(whom), &mut self.out);
    }

    fn tick(&mut self, now: Millis) {
        self.now = now;
        self.router.tick(now, &mut self.out);
    }

    /// The number under which this controller, and nobody else, was just asked.
    fn sent_to(&mut self, name: &str) -> Request {
        assert_eq!(self.out.len(), 1, "{:?}", self.out);
        match self.out.remove(0) {
            Action::Send { controller, request } if controller == id(name) => request,
            other => panic!("{other:?}"),
        }
    }

    fn connects_to(&mut self, name: &str) {
        assert_eq!(self.out.len(), 1, "{:?}", self.out);
        let expected = Action::Connect { controller: id(name), addrs: vec![addr()] };
        assert_eq!(self.out.remove(0), expected);
    }

    fn answer(&mut self) -> (u64, Outcome) {
        assert_eq!(self.out.len(), 1, "{:?}", self.out);
        match self.out.remove(0) {
            Action::Answer { number, outcome } => (number, outcome),
            other => panic!("{other:?}"),
        }
    }

    fn assert_over(&self) {
        assert_eq!(self.out, []);
        self.router.assert_consistent();
        assert!(self.router.is_empty());
        assert_eq!((self.router.due(), self.router.bytes), (None, 0));
    }
}

impl Router {
    pub(super) fn assert_consistent(&self) {
        assert_eq!(self.timers.len(), self.tries.len());
        assert_eq!(self.by_controller.len(), self.tries.len());
        let bytes: usize = self.tries.values().map(|at| at.pending.payload.len()).sum();
        assert_eq!(self.bytes, bytes);
        for at in self.tries.values() {
            let tries = &at.pending.tries;
            assert!((1..=HOPS_MAX).contains(&tries.len()));
            assert!(at.timer <= at.pending.until);
            let link = self.peers.get(&at.controller).map(|peer| peer.link);
            let expected = if at.sent.is_some() { Link::Up } else { Link::Connecting };
            assert_eq!(link, Some(expected), "{}", at.controller);
            // None twice without newer knowledge.
            for (n, (controller, seq)) in tries.iter().enumerate() {
                let earlier = tries[..n].iter().rev().find(|(other, _)| other == controller);
                assert!(earlier.is_none_or(|(_, known)| known < seq), "{tries:?}");
            }
        }
    }
}

#[test]
fn a_request_goes_to_the_first_and_its_answer_back() {
    let mut f = Fixture::new();
    f.ask(5, 8000, false);
    f.connects_to("a");
    f.ask(6, 8000, false);
    assert_eq!(f.out, [], "one connection is enough");
    f.now = 100;
    f.up("a");
    assert_eq!(f.out.len(), 2);
    let Action::Send { request, .. } = f.out.remove(0) else { panic!() };
    assert_eq!(request.deadline, Duration::from_millis(7900 - 500), "some time for the way back");
    let Action::Send { request: other, .. } = f.out.remove(0) else { panic!() };
    assert_ne!(request.id, other.id);
    // Nobody else can answer it, nor anybody twice.
    f.response("b", request.id, Outcome::Done(vec![1]));
    assert_eq!(f.out, []);
    f.response("a", other.id, Outcome::Done(vec![2]));
    assert_eq!(f.answer(), (6, Outcome::Done(vec![2])));
    f.response("a", request.id, Outcome::Refused("no".to_owned()));
    assert_eq!(f.answer(), (5, Outcome::Refused("no".to_owned())));
    f.response("a", request.id, Outcome::Done(vec![1]));
    f.assert_over();
}

#[test]
fn the_owner_that_is_named_is_asked_and_remembered() {
    let mut f = Fixture::connected();
    f.ask(1, 1000, false);
    let request = f.sent_to("a");
    f.response("a", request.id, not_here("x", 4));
    f.connects_to("x");
    f.up("x");
    let request = f.sent_to("x");
    f.response("x", request.id, Outcome::Done(vec![]));
    assert_eq!(f.answer().1, Outcome::Done(vec![]));
    f.ask(2, 1000, false);
    let request = f.sent_to("x");
    // Where it was asked before it is asked again only as there is newer knowledge.
    f.response("x", request.id, not_here("a", 5));
    let request = f.sent_to("a");
    f.response("a", request.id, not_here("x", 6));
    let request = f.sent_to("x");
    f.response("x", request.id, not_here("b", 7));
    let request = f.sent_to("b");
    f.response("b", request.id, not_here("c", 8));
    assert_eq!(f.answer().1, not_here("c", 8), "enough is enough");
    f.assert_over();
}

#[test]
fn old_knowledge_is_no_reason_to_ask_again() {
    let mut f = Fixture::connected();
    f.router.routes.learn(&device(), &id("b"), 9, &[]);
    f.ask(1, 1000, false);
    let request = f.sent_to("b");
    f.response("b", request.id, not_here("x", 9));
    // The others of the route may know more.
    let request = f.sent_to("a");
    f.response("a", request.id, not_here("b", 9));
    let request = f.sent_to("c");
    f.response("c", request.id, not_here("b", 9));
    assert_eq!(f.answer().1, not_here("b", 9));
    f.assert_over();
}

#[test]
fn an_owner_without_an_address_is_not_asked() {
    let mut f = Fixture::connected();
    f.ask(1, 1000, false);
    let request = f.sent_to("a");
    let nowhere = Outcome::NotHere { owner: id("x"), seq: 3, place: vec![] };
    f.response("a", request.id, nowhere.clone());
    let request = f.sent_to("b");
    f.response("b", request.id, Outcome::Done(vec![]));
    f.answer();
    assert!(!f.router.peers.contains_key(&id("x")));
    f.assert_over();
}

#[test]
fn what_surely_was_not_done_is_tried_elsewhere() {
    let mut f = Fixture::connected();
    f.ask(1, 1000, false);
    for name in ["a", "b", "c"] {
        let request = f.sent_to(name);
        f.response(name, request.id, unreachable());
    }
    assert_eq!(f.answer().1, unreachable());
    f.assert_over();
}

#[test]
fn what_may_have_been_done_is_not_tried_again_unless_it_may_be() {
    let mut f = Fixture::connected();
    f.ask(1, 1000, false);
    let request = f.sent_to("a");
    f.response("a", request.id, Outcome::TimedOut);
    assert_eq!(f.answer().1, Outcome::TimedOut);
    f.ask(1, 1000, false);
    f.sent_to("a");
    f.lost("a");
    assert_eq!(f.answer().1, Outcome::TimedOut);
    f.up("a");
    f.ask(2, 1000, true);
    let first = f.sent_to("a");
    f.response("a", first.id, Outcome::TimedOut);
    let second = f.sent_to("b");
    f.lost("b");
    let third = f.sent_to("c");
    f.response("a", first.id, Outcome::Done(vec![]));
    f.response("b", second.id, Outcome::Done(vec![]));
    assert_eq!(f.out, [], "answers to earlier tries are none");
    // It may have been done by the first two.
    f.response("c", third.id, unreachable());
    assert_eq!(f.answer().1, Outcome::TimedOut);
    f.assert_over();
}

#[test]
fn a_controller_without_a_connection_is_passed_by() {
    let mut f = Fixture::new();
    f.ask(1, 60_000, false);
    f.connects_to("a");
    f.lost("a");
    f.connects_to("b");
    f.tick(config().connect_max);
    f.connects_to("c");
    f.now += 1;
    f.up("b");
    assert_eq!(f.out, [], "it is elsewhere now");
    f.up("c");
    let request = f.sent_to("c");
    f.response("c", request.id, Outcome::Done(vec![]));
    assert_eq!(f.answer().1, Outcome::Done(vec![]));
    f.assert_over();
}

#[test]
fn late_is_in_doubt_only_if_it_was_sent() {
    let mut f = Fixture::new();
    f.ask(1, 300, false);
    f.connects_to("a");
    f.tick(299);
    assert_eq!(f.out, []);
    f.tick(300);
    assert!(matches!(f.answer().1, Outcome::Unreachable(_)));
    f.up("a");
    f.ask(2, 300, false);
    let request = f.sent_to("a");
    f.tick(600);
    assert_eq!(f.answer().1, Outcome::TimedOut);
    f.response("a", request.id, Outcome::Done(vec![]));
    f.ask(3, 0, false);
    assert!(matches!(f.answer().1, Outcome::Unreachable(_)));
    f.assert_over();
}

#[test]
fn an_unknown_device_is_unknown_unless_that_was_learnt() {
    let mut f = Fixture::connected();
    f.ask(1, 1000, false);
    let request = f.sent_to("a");
    f.response("a", request.id, Outcome::Unknown);
    assert_eq!(f.answer().1, Outcome::Unknown);
    f.router.routes.learn(&device(), &id("c"), 9, &[]);
    f.ask(2, 1000, false);
    let request = f.sent_to("c");
    f.response("c", request.id, Outcome::Unknown);
    let request = f.sent_to("a");
    f.response("a", request.id, Outcome::Done(vec![]));
    f.answer();
    f.assert_over();
}

#[test]
fn a_controller_that_says_nothing_is_left_alone_and_probed() {
    let mut f = Fixture::connected();
    for n in 0..2 {
        f.ask(n, 3000, false);
        f.sent_to("a");
        let now = f.now + 3000;
        f.tick(now);
        f.answer();
    }
    f.ask(2, 3000, false);
    let request = f.sent_to("b");
    f.response("b", request.id, Outcome::Done(vec![]));
    f.answer();
    f.now += 1000;
    f.ask(3, 3000, false);
    let probe = f.sent_to("a");
    f.ask(4, 3000, false);
    f.sent_to("b");
    f.response("a", probe.id, Outcome::Done(vec![]));
    f.answer();
    f.ask(5, 3000, false);
    f.sent_to("a");
}

#[test]
fn a_controller_that_answers_others_is_not_left_alone() {
    let mut f = Fixture::connected();
    for n in 0..3 {
        for silent in 0..2 {
            f.ask(10 * n + silent, 3000, false);
            f.sent_to("a");
        }
        f.now += 1000;
        f.ask(100 + n, 3000, false);
        let other = f.sent_to("a");
        f.now += 10;
        f.response("a", other.id, Outcome::Done(vec![]));
        f.answer();
        let now = f.now + 1990;
        f.tick(now);
        assert_eq!(f.out.len(), 2);
        f.out.clear();
    }
}

#[test]
fn a_controller_that_takes_no_connection_is_left_alone_and_probed() {
    let mut f = Fixture::new();
    f.ask(1, 60_000, false);
    f.connects_to("a");
    f.ask(2, 60_000, false);
    f.tick(config().connect_max);
    // Both have gone on, and that was one failure each.
    f.connects_to("b");
    f.up("b");
    f.out.clear();
    f.ask(3, 60_000, false);
    f.sent_to("b");
    // A probe whose asker has no time for it is one that failed.
    for n in 4..8 {
        f.now += 8000;
        f.ask(n, 100, false);
        assert_eq!(f.out, [], "it waits for the first");
        assert!(f.router.tries.values().any(|at| at.is_probe && at.controller == id("a")));
        let now = f.now + 100;
        f.tick(now);
        assert!(matches!(f.answer().1, Outcome::Unreachable(_)));
    }
    f.now += 8000;
    f.ask(9, 60_000, false);
    f.now += 10;
    f.up("a");
    let probe = f.sent_to("a");
    f.response("a", probe.id, Outcome::Done(vec![]));
    assert_eq!(f.answer(), (9, Outcome::Done(vec![])));
}

#[test]
fn what_was_not_sent_cannot_be_answered() {
    let mut f = Fixture::new();
    f.ask(1, 1000, false);
    f.connects_to("a");
    let number = *f.router.tries.keys().next().unwrap();
    f.response("a", number, Outcome::Done(vec![]));
    assert_eq!(f.out, []);
    f.router.assert_consistent();
    f.up("a");
    f.sent_to("a");
}

#[test]
fn closing_answers_all_and_says_which_may_have_been_done() {
    let mut f = Fixture::new();
    f.ask(1, 1000, true);
    f.connects_to("a");
    f.up("a");
    f.sent_to("a");
    f.lost("a");
    f.connects_to("b");
    f.router.close(&mut f.out);
    assert_eq!(f.answer().1, Outcome::TimedOut);
    f.ask(2, 1000, false);
    f.connects_to("a");
    f.router.close(&mut f.out);
    assert!(matches!(f.answer().1, Outcome::Unreachable(_)));
    f.up("a");
    f.ask(3, 1000, false);
    f.sent_to("a");
    f.router.close(&mut f.out);
    assert_eq!(f.answer().1, Outcome::TimedOut);
    f.assert_over();
}

#[test]
fn a_device_that_says_nothing_is_no_fault_of_its_controller() {
    let mut f = Fixture::connected();
    for n in 0..10 {
        f.ask(n, 3000, false);
        let request = f.sent_to("a");
        f.now += 2900;
        f.response("a", request.id, Outcome::TimedOut);
        assert_eq!(f.answer().1, Outcome::TimedOut);
    }
    // Nor is it one if the asker has no patience.
    for n in 0..10 {
        f.ask(n, 50, false);
        f.sent_to("a");
        let now = f.now + 50;
        f.tick(now);
        f.answer();
    }
}

#[test]
fn all_that_are_left_alone_leave_an_answer_at_once() {
    let mut f = Fixture::new();
    for n in 0..2 {
        f.ask(n, 3000, false);
        for name in ["a", "b", "c"] {
            f.connects_to(name);
            f.lost(name);
        }
        assert!(matches!(f.answer().1, Outcome::Unreachable(_)));
    }
    f.ask(3, 3000, false);
    assert!(matches!(f.answer().1, Outcome::Unreachable(_)));
    f.assert_over();
}

#[test]
fn too_much_is_turned_away() {
    let mut f = Fixture::connected();
    let ask = |bytes| Ask {
        number: 9,
        device: device(),
        deadline: Duration::from_secs(1),
        payload: vec![0; bytes],
        is_idempotent: false,
    };
    f.router.ask(0, ask(PAYLOAD_MAX + 1), &mut f.out);
    assert!(matches!(f.answer().1, Outcome::Refused(_)));
    f.router.ask(0, ask(2000), &mut f.out);
    assert_eq!(f.sent_to("a").payload.len(), 2000, "one alone has room");
    f.ask(1, 1000, false);
    assert!(matches!(f.answer().1, Outcome::Busy { .. }));
    f.tick(1000);
    f.answer();
    for n in 0..8 {
        f.ask(n, 1000, false);
        f.sent_to("a");
    }
    f.ask(8, 1000, false);
    assert!(matches!(f.answer(), (8, Outcome::Busy { .. })));
}
