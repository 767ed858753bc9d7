//! All that can happen to one table, in any order, against a simple model.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Request { origin: u8, number: u64, device: u8, place: u8, ms: u64 },
    Answer { conn: u64, pick: usize },
    Result { partner: u8, pick: usize, not_here: Option<(u8, u64)>, known: u8 },
    ConnLost(u64),
    Link(u8, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5_u8, 0..6_u64, 0..3_u8, 0..8_u8, 0..60_u64).prop_map(
            |(origin, number, device, place, ms)| {
                Step::Request { origin, number, device, place, ms }
            }
        ),
        3 => (0..4_u64, any::<usize>()).prop_map(|(conn, pick)| Step::Answer { conn, pick }),
        3 => (0..3_u8, any::<usize>(), prop::option::of((0..4_u8, 1..9_u64)), 0..8_u8).prop_map(
            |(partner, pick, not_here, known)| Step::Result { partner, pick, not_here, known }
        ),
        1 => (0..4_u64).prop_map(Step::ConnLost),
        1 => (0..3_u8, any::<bool>()).prop_map(|(partner, up)| Step::Link(partner, up)),
        2 => (0..40_u64).prop_map(Step::Wait),
    ]
}

fn partner(n: u8) -> ControllerId {
    id(["b", "c", "e", "a"][usize::from(n % 4)])
}

fn whereabouts(place: u8) -> Whereabouts {
    match place {
        0 => Whereabouts::Unknown,
        1..4 => Whereabouts::Here { conn: u64::from(place) },
        _ => at(partner(place).as_str(), u64::from(place)),
    }
}

fn origin(origin: u8, number: u64) -> Origin {
    match origin {
        0 | 1 => Origin::Conn(u64::from(origin), number),
        2 | 3 => Origin::Partner(partner(origin), number),
        _ => Origin::Local(number),
    }
}

struct Storm {
    requests: Requests,
    max: usize,
    now: Millis,
    out: Vec<Output>,
    /// Requests that have to be answered, and when they have to be at the latest.
    waiting: HashMap<Origin, Millis>,
    /// Numbers that devices and partners were asked under.
    asked: Vec<u64>,
}

impl Storm {
    fn step(&mut self, step: Step) {
        let (now, out) = (self.now, &mut self.out);
        let pick = |n: usize| self.asked.get(n % self.asked.len().max(1)).copied().unwrap_or(0);
        match step {
            Step::Request { origin: of, number, device: d, place, ms } => {
                let (name, at, origin) =
                    (device(&format!("d{d}")), whereabouts(place), origin(of, number));
                let is_new = !self.waiting.contains_key(&origin);
                if is_new {
                    self.waiting.insert(origin.clone(), now + ms.max(1));
                }
                if let Origin::Partner(partner, _) = &origin {
                    let mut forward = forward(number, &["z"], number);
                    (forward.device, forward.deadline) = (name, Duration::from_millis(ms));
                    self.requests.forward(now, self.max, partner.clone(), forward, at, out);
                } else {
                    let request = Request { device: name, ..request(ms) };
                    self.requests.request(now, self.max, origin, request, at, out);
                }
                let is_refused = |output: &Output| {
                    matches!(output, Output::Answered { outcome: Outcome::Refused(_), .. })
                };
                assert_eq!(out.iter().any(is_refused), !is_new);
            }
            Step::Answer { conn, pick: n } => {
                self.requests.answer(now, conn, pick(n), Outcome::Done(vec![]), out);
            }
            Step::Result { partner: p, pick: n, not_here: said, known } => {
                let outcome = said.map_or(Outcome::Done(vec![]), |(owner, seq)| {
                    not_here(partner(owner).as_str(), seq)
                });
                let locate = |_: &DeviceId| Ok::<_, Infallible>(whereabouts(known));
                let (from, n) = (partner(p), pick(n));
                self.requests.forward_result(now, &from, n, outcome, locate, out).unwrap();
            }
            Step::ConnLost(conn) => {
                self.waiting.retain(|o, _| !matches!(o, Origin::Conn(of, _) if *of == conn));
                self.requests.conn_lost(now, conn, out);
            }
            Step::Link(p, true) => self.requests.link_up(partner(p)),
            Step::Link(p, false) => {
                let gone = partner(p);
                self.waiting.retain(|o, _| !matches!(o, Origin::Partner(of, _) if *of == gone));
                self.requests.link_down(now, &gone, out);
            }
            Step::Wait(ms) => {
                self.now += ms;
                self.requests.tick(self.now, out);
                assert!(self.requests.due().is_none_or(|due| due > self.now));
            }
        }
        self.look();
    }

    fn look(&mut self) {
        for output in self.out.drain(..) {
            match output {
                Output::Answered { outcome: Outcome::Refused(_), .. } | Output::Event(_) => {}
                Output::Answered { origin, .. } => {
                    assert!(self.waiting.remove(&origin).is_some(), "{origin:?}: answered twice");
                }
                Output::Ask { request, .. } => {
                    assert!(!request.deadline.is_zero());
                    self.asked.push(request.id);
                }
                Output::Forward { forward, .. } => {
                    assert!(!forward.deadline.is_zero());
                    assert!(forward.visited.contains(&id("a")));
                    self.asked.push(forward.id);
                }
                other => panic!("{other:?}"),
            }
        }
        let now = self.now;
        assert!(self.waiting.values().all(|until| *until > now), "not answered in time");
        assert!(self.requests.len() <= self.max);
        self.requests.assert_consistent();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn each_request_is_answered_once_and_in_time(
        steps in prop::collection::vec(step(), 1..120),
        max in 1..9_usize,
    ) {
        let mut storm = Storm {
            requests: Requests::new(id("a"), 1),
            max,
            now: 0,
            out: Vec::new(),
            waiting: HashMap::new(),
            asked: Vec::new(),
        };
        for step in steps {
            storm.step(step);
        }
        storm.step(Step::Wait(1000));
        prop_assert!(storm.waiting.is_empty());
        prop_assert_eq!(storm.requests.len(), 0);
    }
}
