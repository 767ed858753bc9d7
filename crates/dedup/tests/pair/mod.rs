//! Two ends of a session in memory.
#![allow(dead_code, reason = "each of the tests that share it uses a part")]
#![allow(unreachable_pub, reason = "a part of several tests, each a crate")]

use eversock_dedup::mux::{Limits, Mux, Role, Violation};

pub const HEADER_BYTES: usize = 12;

/// Both ends, and what is on its way between them.
pub struct Pair {
    pub ends: [Mux; 2],
    pub wires: [Vec<u8>; 2],
    pub now: u64,
}

impl Pair {
    pub fn new(limits: Limits) -> Self {
        let ends = [Mux::new(Role::Client, limits), Mux::new(Role::Server, limits)];
        Self { ends, wires: [Vec::new(), Vec::new()], now: 1 }
    }

    /// Moves up to `max` bytes from this end to the other.
    pub fn carry(&mut self, from: usize, max: usize) -> Result<usize, Violation> {
        self.ends[from].fill(&mut self.wires[from], max);
        let n = max.min(self.wires[from].len());
        let bytes: Vec<u8> = self.wires[from].drain(..n).collect();
        self.ends[1 - from].feed(&bytes, self.now)?;
        Ok(n)
    }

    /// Until nothing is on its way, or to be sent, any more.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let moved = self.carry(0, 1 << 20).unwrap() + self.carry(1, 1 << 20).unwrap();
            if moved == 0 {
                return;
            }
        }
        panic!("the two never come to rest");
    }

    pub fn news(&mut self, of: usize) -> Vec<(u32, u8)> {
        std::iter::from_fn(|| self.ends[of].next_news()).collect()
    }

    pub fn read(&mut self, of: usize, number: u32) -> Vec<u8> {
        let mut all = vec![0; self.ends[of].readable(number)];
        let n = self.ends[of].read(number, &mut all, self.now).unwrap();
        assert_eq!(n, all.len());
        all
    }
}
