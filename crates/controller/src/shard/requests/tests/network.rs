//! Controllers that know all sorts of things about where a device is, and what becomes of a request
//! then (C8).

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// So many controllers.
const N: usize = 7;

#[derive(Debug, Clone)]
struct World {
    /// What each knows: owner and counter. `None`: it has never heard of the device.
    known: Vec<Option<(usize, u64)>>,
    /// What each learns while the request is under way.
    learns: Vec<Option<(usize, u64)>>,
    /// Where the device is.
    here: Option<usize>,
    links: Vec<bool>,
    /// Whether the link breaks as a result comes over it.
    faults: Vec<bool>,
}

fn world() -> impl Strategy<Value = World> {
    // Few counters, so that equal ones with two owners, which no device makes, come up as well.
    let knowledge = || prop::collection::vec(prop::option::weighted(0.9, (0..N, 1..9_u64)), N);
    let links = prop::collection::vec(prop::bool::weighted(0.9), N * N);
    let faults = prop::collection::vec(prop::bool::weighted(0.1), 64);
    let worlds = (knowledge(), knowledge(), prop::option::of(0..N), links, faults);
    worlds.prop_map(|(known, learns, here, links, faults)| World {
        known,
        learns,
        here,
        links,
        faults,
    })
}

fn name(n: usize) -> ControllerId {
    id(&format!("n{n}"))
}

fn number(controller: &ControllerId) -> usize {
    controller.as_str()[1..].parse().unwrap()
}

enum Mail {
    Forward(usize, Forward),
    Result(usize, u64, Outcome),
    Answer(u64),
}

struct Net {
    world: World,
    nodes: Vec<Requests>,
    /// What is under way, and to whom.
    mail: VecDeque<(usize, Mail)>,
    answered: Vec<Outcome>,
    asked: usize,
    /// How often each has passed it on.
    forwards: [usize; N],
}

impl Net {
    fn new(world: World) -> Self {
        let mut nodes: Vec<_> = (0..N).map(|n| Requests::new(name(n), n as u64)).collect();
        for (link, is_up) in world.links.iter().enumerate() {
            let (a, b) = (link / N, link % N);
            if *is_up && a < b {
                nodes[a].link_up(name(b));
                nodes[b].link_up(name(a));
            }
        }
        let mail = VecDeque::new();
        Self { world, nodes, mail, answered: Vec::new(), asked: 0, forwards: [0; N] }
    }

    fn whereabouts(&self, n: usize) -> Whereabouts {
        if self.world.here == Some(n) {
            return Whereabouts::Here { conn: 5 };
        }
        self.world.known[n].map_or(Whereabouts::Unknown, |(owner, seq)| Whereabouts::At {
            owner: name(owner),
            seq,
            place: Vec::new(),
        })
    }

    fn take(&mut self, n: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Ask { request, .. } => {
                    assert_eq!(self.world.here, Some(n));
                    self.asked += 1;
                    self.mail.push_back((n, Mail::Answer(request.id)));
                }
                Output::Forward { partner, forward } => {
                    self.forwards[n] += 1;
                    let to = number(&partner);
                    let mut path = forward.visited.clone();
                    assert!(path.contains(&name(n)));
                    path.push(partner);
                    path.sort();
                    path.dedup();
                    assert_eq!(path.len(), forward.visited.len() + 1, "a controller twice");
                    assert!(forward.visited.len() <= HOPS_MAX);
                    self.mail.push_back((to, Mail::Forward(n, forward)));
                }
                Output::Answered { origin: Origin::Partner(partner, id), outcome } => {
                    self.mail.push_back((number(&partner), Mail::Result(n, id, outcome)));
                }
                Output::Answered { outcome, .. } => self.answered.push(outcome),
                other => panic!("{other:?}"),
            }
        }
    }

    fn run(&mut self) {
        let mut out = Vec::new();
        let at = self.whereabouts(0);
        self.nodes[0].request(0, 9, Origin::Local(1), request(1000), at, &mut out);
        self.take(0, out);
        let mut steps = 0;
        while let Some((to, mail)) = self.mail.pop_front() {
            steps += 1;
            assert!(steps < 200, "it never ends");
            let out = self.deliver(to, mail);
            self.take(to, out);
        }
    }

    fn deliver(&mut self, to: usize, mail: Mail) -> Vec<Output> {
        let mut out = Vec::new();
        match mail {
            Mail::Forward(from, forward) => {
                let at = self.whereabouts(to);
                self.nodes[to].forward(1, 9, name(from), forward, at, &mut out);
                self.learn(to);
            }
            Mail::Result(from, ..) if self.world.faults.pop() == Some(true) => {
                let mut other = Vec::new();
                self.nodes[from].link_down(1, &name(to), &mut other);
                self.take(from, other);
                self.nodes[to].link_down(1, &name(from), &mut out);
            }
            Mail::Result(from, id, outcome) => {
                self.learn(to);
                let at = self.whereabouts(to);
                let locate = |_: &DeviceId| Ok::<_, Infallible>(at);
                let node = &mut self.nodes[to];
                node.forward_result(1, &name(from), id, outcome, locate, &mut out).unwrap();
            }
            Mail::Answer(id) => {
                self.nodes[to].answer(1, 5, id, Outcome::Done(vec![]), &mut out);
            }
        }
        out
    }

    /// Tables change while requests are under way.
    fn learn(&mut self, n: usize) {
        let (known, learnt) = (&mut self.world.known[n], self.world.learns[n].take());
        if learnt.map(|(_, seq)| seq) > known.map(|(_, seq)| seq) {
            *known = learnt;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_request_ends_soon_and_no_device_is_asked_twice(world in world()) {
        let mut net = Net::new(world);
        net.run();
        prop_assert_eq!(net.answered.len(), 1);
        prop_assert!(net.asked <= 1);
        // Whoever is asked passes it on twice at most, and no path is longer than the bound.
        prop_assert!(net.forwards[0] <= 2);
        let all: usize = net.forwards.iter().sum();
        prop_assert!(all <= 2 + 4 + 8 + 16, "{all} times");
        for node in &net.nodes {
            node.assert_consistent();
            prop_assert_eq!(node.len(), 0);
        }
        if matches!(net.answered[0], Outcome::Done(_)) {
            prop_assert_eq!(net.asked, 1);
        }
    }

    /// The device has been at each of these, one after the other, and some are behind.
    #[test]
    fn a_request_finds_a_device_that_has_moved(
        owners in prop::sample::subsequence((0..N).collect::<Vec<_>>(), 1..6).prop_shuffle(),
        behind in prop::collection::vec(0..6_usize, N),
    ) {
        let last = owners.len() - 1;
        let known = (0..N).map(|n| {
            // Whoever had it knows at least of the registration elsewhere that ended that.
            let own = owners.iter().rposition(|owner| *owner == n);
            let least = own.map_or(0, |own| (own + 1).min(last));
            let at = last.saturating_sub(behind[n]).max(least);
            Some((owners[at], at as u64 + 1))
        });
        let world = World {
            known: known.collect(),
            learns: vec![None; N],
            here: Some(owners[last]),
            links: vec![true; N * N],
            faults: Vec::new(),
        };
        let mut net = Net::new(world);
        net.run();
        prop_assert_eq!(&net.answered[0], &Outcome::Done(vec![]));
    }
}
