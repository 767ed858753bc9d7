//! The client's half: which queries wait for a reply, when they are sent again, and which replies
//! are believed to be replies at all.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use thiserror::Error;

use super::{Cookie, Nonce, QUERY_BYTES, Query, Reply, Session};
use crate::wire::Service;

/// Queries that wait for a reply.
const OUTSTANDING_MAX: usize = 16;

/// When a query is sent again, and when it is given up, in microseconds after the first time.
const AGAIN_MICROS: [u64; 2] = [100_000, 300_000];
const GIVE_UP_MICROS: u64 = 1_000_000;

/// Queries that are over, of which a further reply is told from a forged one.
const OVER_MAX: usize = 64;

/// What to ask.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// The server's addresses are wanted.
    pub wants_addresses: bool,
    /// It is asked in order to learn of the line, and not of the server.
    pub probe: bool,
    /// From an earlier reply of the same server, for a long list; zero for none.
    pub cookie: Cookie,
    /// A session that the reply is to be proved with; zero for none.
    pub session: Session,
    /// The service.
    pub service: Service,
}

/// Why nothing is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// Sixteen queries wait for their replies.
    #[error("too many queries wait for a reply")]
    Full,
    /// A query with this nonce waits for its reply.
    #[error("a nonce is used twice")]
    Nonce,
}

/// The first reply to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who was asked, and has replied.
    pub address: SocketAddr,
    /// What it has said.
    pub reply: Reply,
    /// From the first sending to the reply, in microseconds: the round trip, or more than that
    /// where what was sent first was lost.
    pub rtt_us: u64,
    /// It was sent more than once, so that the round trip is not certain.
    pub was_repeated: bool,
    /// The query as it was sent, for [`super::mac_input`].
    pub query: [u8; QUERY_BYTES],
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// To be sent again.
    pub again: Vec<(SocketAddr, [u8; QUERY_BYTES])>,
    /// These have not replied in time.
    pub given_up: Vec<SocketAddr>,
}

/// What came and was no first reply to a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// No reply at all, to no query of ours, or from another address than was asked.
    pub forged: u64,
    /// After the first one, or after the query was given up.
    pub late: u64,
}

#[derive(Debug)]
struct Waiting {
    address: SocketAddr,
    query: [u8; QUERY_BYTES],
    since: u64,
    /// Of [`AGAIN_MICROS`], those that are past.
    repeats: usize,
}

impl Waiting {
    fn next(&self) -> u64 {
        let after = AGAIN_MICROS.get(self.repeats).unwrap_or(&GIVE_UP_MICROS);
        self.since.saturating_add(*after)
    }
}

/// Asks, and hears answers.
#[derive(Debug, Default)]
pub struct Asker {
    waiting: BTreeMap<Nonce, Waiting>,
    over: VecDeque<(Nonce, SocketAddr)>,
    counts: Counts,
}

impl Asker {
    /// One that has asked nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks this address: what to send to it. The nonce is 16 random bytes, used once.
    ///
    /// # Errors
    /// When too much is asked already.
    pub fn begin(
        &mut self,
        address: SocketAddr,
        ask: &Ask,
        now: u64,
        nonce: Nonce,
    ) -> Result<[u8; QUERY_BYTES], AskError> {
        if self.waiting.len() >= OUTSTANDING_MAX {
            return Err(AskError::Full);
        }
        if self.waiting.contains_key(&nonce) {
            return Err(AskError::Nonce);
        }
        let Ask { wants_addresses, probe, cookie, session, service } = ask.clone();
        let query = Query { wants_addresses, probe, nonce, cookie, session, service }.encode();
        self.waiting.insert(nonce, Waiting { address, query, since: now, repeats: 0 });
        Ok(query)
    }

    /// The replies of this address are wanted no more.
    pub fn cancel(&mut self, address: SocketAddr) {
        let of_it = |waiting: &Waiting| is_same(waiting.address, address);
        while let Some(nonce) =
            self.waiting.iter().find(|(_, waiting)| of_it(waiting)).map(|(nonce, _)| *nonce)
        {
            self.end(nonce);
        }
    }

    /// When [`Self::due`] is to be called next.
    pub fn next_timeout(&self) -> Option<u64> {
        self.waiting.values().map(Waiting::next).min()
    }

    /// What is to be sent again, and what is given up.
    pub fn due(&mut self, now: u64) -> Due {
        let mut due = Due::default();
        let mut over = Vec::new();
        for (nonce, waiting) in self.waiting.iter_mut().filter(|(_, one)| one.next() <= now) {
            if now >= waiting.since.saturating_add(GIVE_UP_MICROS) {
                over.push(*nonce);
                due.given_up.push(waiting.address);
                continue;
            }
            // Who comes late sends once, and not what he has missed.
            while waiting.next() <= now && waiting.repeats < AGAIN_MICROS.len() {
                waiting.repeats += 1;
            }
            due.again.push((waiting.address, waiting.query));
        }
        over.into_iter().for_each(|nonce| self.end(nonce));
        due
    }

    /// A datagram has come from this address: the answer, if it is the first reply to a query that
    /// waits, from where it was sent to. Whether its MAC is right is not looked at.
    pub fn heard(&mut self, from: SocketAddr, bytes: &[u8], now: u64) -> Option<Answer> {
        let Some(reply) = Reply::decode(bytes) else {
            self.counts.forged += 1;
            return None;
        };
        let nonce = reply.nonce;
        let Some(waiting) = self.waiting.get(&nonce).filter(|one| is_same(one.address, from))
        else {
            let is_late =
                self.over.iter().any(|(of, address)| *of == nonce && is_same(*address, from));
            *(if is_late { &mut self.counts.late } else { &mut self.counts.forged }) += 1;
            return None;
        };
        let rtt_us = now.saturating_sub(waiting.since);
        if rtt_us >= GIVE_UP_MICROS {
            // `due` will say so.
            self.counts.late += 1;
            return None;
        }
        let (address, query) = (waiting.address, waiting.query);
        let was_repeated = waiting.repeats > 0;
        self.end(nonce);
        Some(Answer { address, reply, rtt_us, was_repeated, query })
    }

    /// What came that was no answer.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn end(&mut self, nonce: Nonce) {
        if let Some(waiting) = self.waiting.remove(&nonce) {
            if self.over.len() >= OVER_MAX {
                self.over.pop_front();
            }
            self.over.push_back((nonce, waiting.address));
        }
    }
}

/// The kernel may give an address in IPv6's clothes, or with a flow.
fn is_same(a: SocketAddr, b: SocketAddr) -> bool {
    let zone = |address| match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    };
    a.ip().to_canonical() == b.ip().to_canonical() && a.port() == b.port() && zone(a) == zone(b)
}
