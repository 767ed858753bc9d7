//! S4: two servers and a granter in simulated time. Clocks run at rates that differ by 1 %,
//! messages are late, lost, doubled and overtake each other, everybody stands still at times,
//! servers start anew, and at no real moment do two servers hold the lock.

use std::collections::BinaryHeap;
use std::time::Duration;

use eversock_spool::backend::lock::LockCore;
use eversock_spool::target::{Grant, Stamp};
use proptest::prelude::*;

const MS: u64 = 1000;

/// A clock of its own rate, in simulated microseconds.
#[derive(Debug, Clone, Copy)]
struct Skewed {
    offset: u64,
    /// Parts per million that it is fast.
    ppm: i64,
}

impl Skewed {
    fn at(self, real_us: u64) -> u64 {
        let skew = i128::from(real_us) * i128::from(self.ppm) / 1_000_000;
        self.offset + (i128::from(real_us) + skew) as u64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Message {
    Probe,
    Report { run: u64, at_us: u64, seen: u64 },
    Grant { epoch: u64, run: u64, at_us: u64 },
    Release { epoch: u64 },
    Released { epoch: u64 },
}

/// By time, the earliest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sent {
    arrives: std::cmp::Reverse<u64>,
    server: usize,
    message: Message,
}

#[derive(Debug)]
struct Server {
    core: LockCore,
    clock: Skewed,
    stored: u64,
    runs: u64,
    stands_still_until: u64,
}

/// The front's side, as its docs promise it.
#[derive(Debug)]
struct Granter {
    clock: Skewed,
    epoch: u64,
    holder: usize,
    /// By its own clock: no lease that it gave under `epoch` lasts longer.
    until_us: u64,
    wants_switch: bool,
    stands_still_until: u64,
}

#[derive(Debug, Clone)]
struct Plan {
    seed: u64,
    lease_ms: u64,
    ppm: [i64; 3],
    delay_max_ms: u64,
    /// The negative control: does not wait for the lease of the old holder.
    hasty: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    /// Moments at which two servers held the lock.
    both: u64,
    /// Moments at which one did.
    one: u64,
    switches: u64,
}

struct World {
    plan: Plan,
    random: u64,
    now: u64,
    servers: [Server; 2],
    granter: Granter,
    under_way: BinaryHeap<Sent>,
    seen: Seen,
}

impl World {
    fn new(plan: Plan) -> Self {
        let clock = |who: usize| Skewed { offset: 1_000_000_007 * who as u64, ppm: plan.ppm[who] };
        let server = |who: usize| Server {
            core: LockCore::new(who as u64 * 1000 + 1, 0),
            clock: clock(who),
            stored: 0,
            runs: 1,
            stands_still_until: 0,
        };
        let granter = Granter {
            clock: clock(2),
            epoch: 1,
            holder: 0,
            until_us: 0,
            wants_switch: false,
            stands_still_until: 0,
        };
        let servers = [server(0), server(1)];
        let (random, under_way) = (plan.seed | 1, BinaryHeap::new());
        Self { plan, random, now: 0, servers, granter, under_way, seen: Seen::default() }
    }

    fn below(&mut self, bound: u64) -> u64 {
        // xorshift: the same schedule for the same seed.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % bound.max(1)
    }

    /// Each copy takes a time of its own; one in eight messages is lost, one in eight doubled.
    fn send(&mut self, server: usize, message: Message) {
        let copies = match self.below(8) {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let quick = self.below(4) != 0;
            let most = if quick { 2 } else { self.plan.delay_max_ms };
            let arrives = std::cmp::Reverse(self.now + self.below(most * MS));
            self.under_way.push(Sent { arrives, server, message });
        }
    }

    fn step(&mut self) {
        self.now += MS / 2;
        self.accidents();
        self.granter_ticks();
        while let Some(sent) = self.under_way.peek().copied()
            && sent.arrives.0 <= self.now
        {
            self.under_way.pop();
            self.deliver(sent);
        }
        self.look();
    }

    fn accidents(&mut self) {
        let lease = self.plan.lease_ms * MS;
        if self.below(2000) == 0 {
            let who = self.below(3) as usize;
            let until = self.now + self.below(2 * lease);
            match self.servers.get_mut(who) {
                Some(server) => server.stands_still_until = until,
                None => self.granter.stands_still_until = until,
            }
        }
        if self.below(4000) == 0 {
            // A server starts anew: all that it keeps is what it stored.
            let who = self.below(2) as usize;
            let server = &mut self.servers[who];
            server.runs += 1;
            server.core = LockCore::new(who as u64 * 1000 + server.runs, server.stored);
        }
        if self.below(1000) == 0 {
            self.granter.wants_switch = true;
        }
    }

    fn granter_ticks(&mut self) {
        if self.now < self.granter.stands_still_until {
            return;
        }
        if self.now.is_multiple_of(10 * MS) {
            self.send(0, Message::Probe);
            self.send(1, Message::Probe);
        }
        if self.granter.wants_switch && self.now.is_multiple_of(20 * MS) {
            let (holder, epoch) = (self.granter.holder, self.granter.epoch);
            self.send(holder, Message::Release { epoch });
        }
        let over = self.plan.hasty || self.granter.clock.at(self.now) >= self.granter.until_us;
        if self.granter.wants_switch && over {
            self.switch();
        }
    }

    fn switch(&mut self) {
        self.granter.epoch += 1;
        self.granter.holder = 1 - self.granter.holder;
        self.granter.until_us = 0;
        self.granter.wants_switch = false;
        self.seen.switches += 1;
    }

    fn deliver(&mut self, sent: Sent) {
        let Sent { server, message, .. } = sent;
        let to_granter = matches!(message, Message::Report { .. } | Message::Released { .. });
        let still = match to_granter {
            true => self.granter.stands_still_until,
            false => self.servers[server].stands_still_until,
        };
        if self.now < still {
            // It lies in a queue until then.
            self.under_way.push(Sent { arrives: std::cmp::Reverse(still), ..sent });
            return;
        }
        match message {
            Message::Report { run, at_us, seen } => self.granter_hears(server, run, at_us, seen),
            Message::Released { epoch } => {
                if epoch == self.granter.epoch && self.granter.wants_switch {
                    self.switch();
                }
            }
            message => self.server_hears(server, message),
        }
    }

    fn granter_hears(&mut self, server: usize, run: u64, at_us: u64, seen: u64) {
        if server != self.granter.holder || self.granter.wants_switch || seen > self.granter.epoch {
            return;
        }
        let lease_us = self.plan.lease_ms * MS;
        let until = self.granter.clock.at(self.now) + lease_us;
        self.granter.until_us = self.granter.until_us.max(until);
        let epoch = self.granter.epoch;
        self.send(server, Message::Grant { epoch, run, at_us });
    }

    fn server_hears(&mut self, who: usize, message: Message) {
        let (now, lease_ms) = (self.now, self.plan.lease_ms);
        let server = &mut self.servers[who];
        let own = server.clock.at(now);
        match message {
            Message::Grant { epoch, run, at_us } => {
                let lease = Duration::from_millis(lease_ms);
                let grant = Grant { epoch, lease, stamp: Stamp { run, at_us } };
                if server.core.examine(&grant, own).is_ok() {
                    server.stored = server.stored.max(epoch);
                    let stored = server.stored;
                    let _late = server.core.accept(&grant, stored, own);
                }
            }
            Message::Release { epoch } => {
                if server.core.give_back(epoch) && server.core.idle(epoch) {
                    self.send(who, Message::Released { epoch });
                }
            }
            _ => {
                let Stamp { run, at_us } = server.core.stamp(own);
                let seen = server.core.seen();
                self.send(who, Message::Report { run, at_us, seen });
            }
        }
    }

    fn look(&mut self) {
        let now = self.now;
        let holding = |server: &&Server| {
            let own = server.clock.at(now);
            (0..=server.core.seen()).any(|epoch| server.core.check(epoch, own).is_ok())
        };
        match self.servers.iter().filter(holding).count() {
            2 => self.seen.both += 1,
            1 => self.seen.one += 1,
            _ => {}
        }
    }
}

fn simulate(plan: Plan) -> Seen {
    let mut world = World::new(plan);
    for _ in 0..20_000 {
        world.step();
    }
    world.seen
}

prop_compose! {
    fn plans()(
        seed in any::<u64>(),
        lease_ms in 200..2000_u64,
        ppm in [-10_000..=10_000_i64, -10_000..=10_000_i64, -10_000..=10_000_i64],
        extreme in any::<bool>(),
        delay_max_ms in 5..3000_u64,
    ) -> Plan {
        // The corner: slow holders, a fast granter.
        let ppm = if extreme { [-10_000, -10_000, 10_000] } else { ppm };
        Plan { seed, lease_ms, ppm, delay_max_ms, hasty: false }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn two_servers_never_hold_the_lock_at_one_moment(plan in plans()) {
        let seen = simulate(plan);
        prop_assert_eq!(seen.both, 0);
    }
}

/// The simulation sees two holders when there are two, and locks are held at all.
#[test]
fn a_granter_that_does_not_wait_is_caught() {
    let mut caught = 0;
    let (mut held, mut switches) = (0, 0);
    for seed in 1..40 {
        let plan = Plan { seed, lease_ms: 500, ppm: [0; 3], delay_max_ms: 100, hasty: true };
        caught += u64::from(simulate(plan.clone()).both > 0);
        let careful = simulate(Plan { hasty: false, ..plan });
        assert_eq!(careful.both, 0);
        held += careful.one;
        switches += careful.switches;
    }
    assert!(caught > 10, "{caught} of 39 runs had two holders");
    assert!(held > 39 * 20_000 / 3, "someone held the lock at {held} moments");
    assert!(switches > 39, "{switches} switches");
}
