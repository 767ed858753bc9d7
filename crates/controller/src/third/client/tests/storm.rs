//! All that can happen to one router, in any order.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Ask { ms: u64, is_idempotent: bool },
    Up(usize),
    Lost(usize),
    Response { pick: usize, from: usize, what: u8, seq: u64, owner: usize },
    Wait(u64),
}

const NAMES: [&str; 5] = ["a", "b", "c", "x", "y"];

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..NAMES.len();
    prop_oneof![
        5 => (0..5000_u64, any::<bool>())
            .prop_map(|(ms, is_idempotent)| Step::Ask { ms, is_idempotent }),
        3 => who().prop_map(Step::Up),
        1 => who().prop_map(Step::Lost),
        6 => (any::<usize>(), who(), 0..10_u8, 1..20_u64, who()).prop_map(
            |(pick, from, what, seq, owner)| Step::Response { pick, from, what, seq, owner }
        ),
        3 => (0..3000_u64).prop_map(Step::Wait),
    ]
}

/// What is known of a request.
struct Known {
    until: Millis,
    is_idempotent: bool,
    sent: usize,
    /// It was sent, and whoever it was sent to has not said that it was not done.
    may_be_done: bool,
}

struct Storm {
    fixture: Fixture,
    next: u64,
    waiting: HashMap<u64, Known>,
    /// What was sent: to whom, under which number, of which request.
    sent: Vec<(ControllerId, u64)>,
}

impl Storm {
    fn step(&mut self, step: Step) {
        let f = &mut self.fixture;
        match step {
            Step::Ask { ms, is_idempotent } => {
                let until = f.now + ms;
                let known = Known { until, is_idempotent, sent: 0, may_be_done: false };
                self.waiting.insert(self.next, known);
                f.ask(self.next, ms, is_idempotent);
                self.next += 1;
            }
            Step::Up(who) => {
                let connecting = f.router.peers.get(&id(NAMES[who])).map(|peer| peer.link);
                if connecting == Some(Link::Connecting) {
                    f.up(NAMES[who]);
                }
            }
            Step::Lost(who) => {
                if f.router.peers.get(&id(NAMES[who])).is_some_and(|p| p.link != Link::Down) {
                    f.lost(NAMES[who]);
                }
            }
            Step::Response { pick, from, what, seq, owner } => {
                let Some((to, number)) = self.sent.get(pick % self.sent.len().max(1)) else {
                    return;
                };
                // Mostly from whom was asked.
                let from = if what == 0 { id(NAMES[from]) } else { to.clone() };
                let outcome = match what {
                    0..3 => Outcome::Done(vec![]),
                    3 => Outcome::Unknown,
                    4 => Outcome::TimedOut,
                    5 => unreachable(),
                    6 => Outcome::Busy { after: Duration::from_secs(1) },
                    _ => not_here(NAMES[owner], seq),
                };
                let is_no = !matches!(outcome, Outcome::Done(_) | Outcome::TimedOut);
                let at = f.router.tries.get(number).filter(|at| at.controller == from);
                if let Some(at) = at
                    && is_no
                    && !at.pending.in_doubt
                    && let Some(known) = self.waiting.get_mut(&at.pending.number)
                {
                    known.may_be_done = false;
                }
                let number = *number;
                f.router.response(f.now, &from, number, outcome, &mut f.out);
            }
            Step::Wait(ms) => {
                let now = f.now + ms;
                f.tick(now);
            }
        }
        self.look();
    }

    fn look(&mut self) {
        let f = &mut self.fixture;
        for action in f.out.drain(..) {
            match action {
                Action::Connect { addrs, .. } => assert!(!addrs.is_empty()),
                Action::Send { controller, request } => {
                    assert!(!request.deadline.is_zero());
                    let number = f.router.tries.get(&request.id).map(|at| at.pending.number);
                    if let Some(known) = number.and_then(|n| self.waiting.get_mut(&n)) {
                        // Never again when it may have been done already.
                        assert!(known.is_idempotent || !known.may_be_done);
                        known.sent += 1;
                        known.may_be_done = true;
                        assert!(known.sent <= HOPS_MAX);
                    }
                    self.sent.push((controller, request.id));
                }
                Action::Answer { number, outcome } => {
                    let known = self.waiting.remove(&number).expect("answered twice");
                    // Whoever hears that it was not done can rely on that.
                    let is_no = matches!(
                        outcome,
                        Outcome::Unreachable(_) | Outcome::NotHere { .. } | Outcome::Busy { .. }
                    );
                    assert!(!is_no || !known.may_be_done, "{outcome:?}");
                }
            }
        }
        assert!(self.waiting.values().all(|known| known.until > f.now), "not answered in time");
        assert_eq!(self.waiting.len(), f.router.len());
        assert!(f.router.len() <= config().requests_max);
        f.router.assert_consistent();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn each_request_is_answered_once_in_time_and_truly(
        steps in prop::collection::vec(step(), 1..150),
        seed in any::<u64>(),
    ) {
        let config = RouterConfig { seed, ..config() };
        let fixture = Fixture { router: Router::new(config, routes()), now: 0, out: Vec::new() };
        let waiting = HashMap::new();
        let mut storm = Storm { fixture, next: 0, waiting, sent: Vec::new() };
        for step in steps {
            storm.step(step);
        }
        storm.step(Step::Wait(10_000));
        storm.fixture.assert_over();
    }
}
