//! How many replies a network, and all of them together, may have.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Replies a second to one network, and at once after a pause.
pub(super) const SOURCE_PER_SECOND: u64 = 50;
pub(super) const SOURCE_BURST: u64 = 100;

/// Replies a second to all networks, and at once after a pause.
pub(super) const ALL_PER_SECOND: u64 = 2000;

/// Networks that are remembered.
pub(super) const SOURCES_MAX: usize = 4096;

/// A reply, in what buckets hold: so many come in a second as the rate is in a microsecond.
const REPLY: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    holds: u64,
    at: u64,
}

impl Bucket {
    fn full(burst: u64, now: u64) -> Self {
        Self { holds: burst * REPLY, at: now }
    }

    fn take(&mut self, per_second: u64, burst: u64, now: u64) -> bool {
        let more = now.saturating_sub(self.at).saturating_mul(per_second);
        self.holds = self.holds.saturating_add(more).min(burst * REPLY);
        self.at = self.at.max(now);
        let left = self.holds.checked_sub(REPLY);
        self.holds = left.unwrap_or(self.holds);
        left.is_some()
    }
}

/// The buckets of the networks that asked last, and one for all.
#[derive(Debug)]
pub(super) struct Buckets {
    all: Bucket,
    /// Each with the number under which it stands in `order`.
    sources: BTreeMap<IpAddr, (Bucket, u64)>,
    /// From the one that has not asked for longest.
    order: BTreeMap<u64, IpAddr>,
    next: u64,
}

impl Buckets {
    pub(super) fn new() -> Self {
        Self {
            all: Bucket::full(ALL_PER_SECOND, 0),
            sources: BTreeMap::new(),
            order: BTreeMap::new(),
            next: 0,
        }
    }

    /// Whether this one may have a reply now.
    pub(super) fn take(&mut self, source: IpAddr, now: u64) -> bool {
        let network = network_of(source);
        let (mut bucket, old) = self
            .sources
            .remove(&network)
            .unwrap_or_else(|| (Bucket::full(SOURCE_BURST, now), u64::MAX));
        self.order.remove(&old);
        if self.sources.len() >= SOURCES_MAX
            && let Some((_, longest)) = self.order.pop_first()
        {
            self.sources.remove(&longest);
        }
        let may = bucket.take(SOURCE_PER_SECOND, SOURCE_BURST, now);
        self.sources.insert(network, (bucket, self.next));
        self.order.insert(self.next, network);
        self.next += 1;
        may && self.all.take(ALL_PER_SECOND, ALL_PER_SECOND, now)
    }

    /// Networks that are remembered now.
    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }
}

/// The /24 or the /56, which is what one customer has at least.
fn network_of(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 72 << 72)),
    }
}
