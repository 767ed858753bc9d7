#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod single;
mod spread;
mod storms;
mod world;

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::wire::client::{HandOffAnswer, Register, Terms};

pub(super) fn controller(name: &str) -> ControllerId {
    name.parse().unwrap()
}

pub(super) fn place(name: &str) -> Place {
    let port = 1_000 + name.bytes().fold(0u16, |sum, b| sum * 7 % 4_000 + u16::from(b));
    Place { controller: controller(name), addrs: vec![SocketAddr::from(([127, 0, 0, 1], port))] }
}

pub(super) fn device() -> DeviceId {
    "device-1".parse().unwrap()
}

pub(super) fn policy(controllers: &[&str]) -> Policy {
    let places = controllers.iter().map(|name| place(name)).collect();
    Policy { start_within: 0, ..Policy::new(places) }
}

pub(super) fn terms() -> Terms {
    Terms {
        lease: Duration::from_secs(120),
        handshake_every: Duration::from_secs(10),
        misses: 3,
        generation: 0,
        alternates: Vec::new(),
    }
}

/// A device and what it wants done, by hand.
pub(super) struct Bench {
    pub(super) machine: Machine,
    pub(super) now: Millis,
    pub(super) out: Vec<Output>,
}

impl Bench {
    pub(super) fn new(policy: Policy, counter: Option<u64>) -> Self {
        let machine = Machine::new(Arc::new(policy), device(), b"here", counter, 7).unwrap();
        let mut bench = Self { machine, now: 1_000, out: Vec::new() };
        bench.give(Input::Start);
        bench
    }

    pub(super) fn give(&mut self, input: Input) {
        self.machine.handle(self.now, input, &mut self.out);
    }

    pub(super) fn say(&mut self, from: &str, message: ClientMessage) {
        self.give(Input::Message { from: controller(from), message });
    }

    pub(super) fn opened(&mut self, name: &str) {
        self.give(Input::Opened { controller: controller(name) });
    }

    pub(super) fn lost(&mut self, name: &str) {
        let why = "cut".into();
        self.give(Input::Lost { controller: controller(name), after: Duration::ZERO, why });
    }

    /// Lets time pass until something is wanted; fails when that takes longer than `most`.
    pub(super) fn pass_until(&mut self, most: Millis, mut wanted: impl FnMut(&Output) -> bool) {
        let end = self.now + most;
        while !self.out.iter().any(&mut wanted) {
            let due = self.machine.due().expect("something is waited for");
            assert!(due > self.now || due == 0, "it is due again and again");
            assert!(due <= end, "not within {most} ms: {:?}", self.out);
            self.now = due;
            self.give(Input::Tick);
        }
    }

    pub(super) fn pass(&mut self, time: Millis) {
        let end = self.now + time;
        while let Some(due) = self.machine.due().filter(|due| *due <= end) {
            self.now = due;
            self.give(Input::Tick);
        }
        self.now = end;
    }

    pub(super) fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    /// The one registration that was sent to that controller.
    pub(super) fn register_sent(&mut self, name: &str) -> Register {
        let found: Vec<_> = self
            .take()
            .into_iter()
            .filter_map(|output| match output {
                Output::Say { to, message: ClientMessage::Register(register) }
                    if to == controller(name) =>
                {
                    Some(register)
                }
                _ => None,
            })
            .collect();
        assert_eq!(found.len(), 1, "one registration with {name}");
        found.into_iter().next().unwrap()
    }

    pub(super) fn accept(&mut self, name: &str, seq: u64, terms: Terms) {
        self.say(name, ClientMessage::Registered { device: device(), seq, terms });
    }

    /// Registered with that one, which is asked next.
    pub(super) fn register_at(&mut self, name: &str) -> u64 {
        self.pass_until(60_000, |output| opens(output, name));
        self.opened(name);
        let seq = self.register_sent(name).seq;
        self.accept(name, seq, terms());
        assert_eq!(self.machine.registered(), Some((&controller(name), seq)));
        self.take();
        seq
    }
}

pub(super) fn opens(output: &Output, name: &str) -> bool {
    matches!(output, Output::Open(place) if place.controller == controller(name))
}

pub(super) fn answers(out: &[Output]) -> Vec<(ControllerId, u64, HandOffAnswer)> {
    out.iter()
        .filter_map(|output| match output {
            Output::Say { to, message: ClientMessage::HandOffAnswer { token, answer, .. } } => {
                Some((to.clone(), *token, *answer))
            }
            _ => None,
        })
        .collect()
}
