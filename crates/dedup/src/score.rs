//! Which line to a server is the better one, and when it is worth a move (the seventh embodiment).
//!
//! Lines are compared by what is known of both; what is not known of one of them says nothing. A
//! move costs a handshake and is seen by every stream of the session, so a line must be better by a
//! margin, for several windows in a row, and long enough after the last change: lines that
//! oscillate are left alone.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use thiserror::Error;

/// One metric alone makes no line better or worse by more than this.
const RATIO_MAX: f64 = 16.0;

/// What is added to every loss, in millionths: the difference between none and hardly any is none.
const LOSS_BASE_PPM: f64 = 5000.0;

/// A product of roots is not exact.
const ROUNDING: f64 = 1e-9;

/// An address to which moves fail is left alone for no longer than this, in microseconds.
const DWELL_MAX_MICROS: u64 = 600_000_000;

/// Addresses of which failed moves are remembered.
const FAILED_MAX: usize = 64;

const MINUTE_MICROS: u64 = 60_000_000;

/// How much each metric counts: the exponent of its ratio; 0 leaves it out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Of the least round trip.
    pub rtt_min: f64,
    /// Of the smoothed round trip.
    pub rtt: f64,
    /// Of the loss.
    pub loss: f64,
    /// Of the delivery rate.
    pub rate: f64,
    /// Of the speed of the device.
    pub link: f64,
    /// Of the routers on the way.
    pub hops: f64,
    /// Of the path's MTU.
    pub mtu: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { rtt_min: 1.0, rtt: 1.0, loss: 1.0, rate: 0.5, link: 0.25, hops: 0.1, mtu: 0.1 }
    }
}

/// A weight that is no number, infinite, or less than 0.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[error("the weight {value} of {name} is not a finite number from 0 on")]
pub struct BadWeight {
    /// Its field.
    pub name: &'static str,
    /// What it is.
    pub value: f64,
}

impl Weights {
    /// These weights, if they can be used.
    ///
    /// # Errors
    /// Names the first that cannot.
    pub fn checked(self) -> Result<Self, BadWeight> {
        let Self { rtt_min, rtt, loss, rate, link, hops, mtu } = self;
        let all = [
            ("rtt_min", rtt_min),
            ("rtt", rtt),
            ("loss", loss),
            ("rate", rate),
            ("link", link),
            ("hops", hops),
            ("mtu", mtu),
        ];
        let bad = all.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0);
        bad.map_or(Ok(self), |(name, value)| Err(BadWeight { name, value }))
    }
}

/// What is known of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Least round trip, in microseconds.
    pub rtt_min_us: Option<u64>,
    /// Smoothed round trip, in microseconds.
    pub rtt_us: Option<u64>,
    /// What is lost, in millionths.
    pub loss_ppm: Option<u32>,
    /// What was delivered, in bits a second.
    pub rate_bps: Option<u64>,
    /// Speed of the device, in millions of bits a second.
    pub link_mbps: Option<u32>,
    /// Routers on the way.
    pub hops: Option<u8>,
    /// Largest packet of the path, in bytes.
    pub mtu: Option<u32>,
}

/// How many times better the candidate is than the line in use: above 1 for better, below for
/// worse, 1 when nothing is known. `weights` are to be [`Weights::checked`] ones.
pub fn gain(candidate: &Line, active: &Line, weights: &Weights) -> f64 {
    // Of what is better when it is less. 0 is as good as 1 in any of the units.
    let less = |candidate: Option<f64>, active: Option<f64>, weight: f64| {
        let Some((candidate, active)) = candidate.zip(active) else { return 1.0 };
        let ratio = active.max(1.0) / candidate.max(1.0);
        ratio.clamp(1.0 / RATIO_MAX, RATIO_MAX).powf(weight)
    };
    let more = |candidate, active, weight| less(active, candidate, weight);
    // Past 2^53 a float is no longer exact, and nothing is lost by it.
    let long = |value: Option<u64>| value.map(|value| value as f64);
    let short = |value: Option<u32>| value.map(f64::from);
    let loss = |line: &Line| line.loss_ppm.map(|ppm| f64::from(ppm) + LOSS_BASE_PPM);
    let hops = |line: &Line| line.hops.map(f64::from);
    less(long(candidate.rtt_min_us), long(active.rtt_min_us), weights.rtt_min)
        * less(long(candidate.rtt_us), long(active.rtt_us), weights.rtt)
        * less(loss(candidate), loss(active), weights.loss)
        * more(long(candidate.rate_bps), long(active.rate_bps), weights.rate)
        * more(short(candidate.link_mbps), short(active.link_mbps), weights.link)
        * less(hops(candidate), hops(active), weights.hops)
        * more(short(candidate.mtu), short(active.mtu), weights.mtu)
}

/// Routers that a packet has passed which arrives with this hop limit (TTL): systems begin with
/// 64, 128 or 255. `None` for 0, which stands for not known.
pub fn hops(hop_limit: u8) -> Option<u8> {
    let begun = [64, 128, 255].into_iter().find(|begun| *begun >= hop_limit)?;
    (hop_limit > 0).then_some(begun - hop_limit)
}

/// When a move is worth it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// How many times better a line must be.
    pub gain: f64,
    /// For how many windows in a row.
    pub windows: u32,
    /// How long after the last change, in microseconds.
    pub dwell_us: u64,
    /// How often a minute at most.
    pub per_minute: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self { gain: 1.2, windows: 3, dwell_us: 30_000_000, per_minute: 1 }
    }
}

/// Moves to an address have failed.
#[derive(Clone, Copy, Debug)]
struct Failed {
    at: u64,
    dwell: u64,
}

/// Judges the lines of one session.
#[derive(Debug)]
pub struct Judge {
    rules: Rules,
    /// The best of the last windows, and for how many it was that.
    best: Option<(SocketAddr, u32)>,
    last_change: Option<u64>,
    /// A move that was advised, and of which nothing was heard yet.
    moving: Option<SocketAddr>,
    /// When the moves of the last minute were.
    moves: VecDeque<u64>,
    failed: BTreeMap<SocketAddr, Failed>,
}

impl Judge {
    /// Of a session that has not moved yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            best: None,
            last_change: None,
            moving: None,
            moves: VecDeque::new(),
            failed: BTreeMap::new(),
        }
    }

    /// A window is over, in which the line in use and others were measured: where to move now, if
    /// anywhere. Nothing more is advised until [`Self::moved`] or [`Self::failed`] was called.
    pub fn window(
        &mut self,
        now: u64,
        active: &Line,
        candidates: &[(SocketAddr, Line)],
        weights: &Weights,
    ) -> Option<SocketAddr> {
        if self.moving.is_some() {
            return None;
        }
        let best = self.best_of(now, active, candidates, weights);
        let Some(best) = best else {
            self.best = None;
            return None;
        };
        let before = self.best.filter(|(address, _)| *address == best);
        let windows = before.map_or(0, |(_, windows)| windows).saturating_add(1);
        self.best = Some((best, windows));
        let has_stayed = |since: u64| now >= since.saturating_add(self.rules.dwell_us);
        self.moves.retain(|at| now < at.saturating_add(MINUTE_MICROS));
        let may = windows >= self.rules.windows
            && self.last_change.is_none_or(has_stayed)
            && self.moves.len() < self.rules.per_minute;
        if !may {
            return None;
        }
        self.best = None;
        self.moving = Some(best);
        self.moves.push_back(now);
        Some(best)
    }

    /// The best that is good enough and not to be left alone; of equal ones the one before.
    fn best_of(
        &self,
        now: u64,
        active: &Line,
        candidates: &[(SocketAddr, Line)],
        weights: &Weights,
    ) -> Option<SocketAddr> {
        let mut best: Option<(SocketAddr, f64)> = None;
        for (address, line) in candidates {
            let may = self
                .failed
                .get(address)
                .is_none_or(|failed| now >= failed.at.saturating_add(failed.dwell));
            let gain = gain(line, active, weights);
            let was_best = self.best.is_some_and(|(before, _)| before == *address);
            let is_better = best.is_none_or(|(_, best)| gain > best || was_best && gain >= best);
            if may && gain >= self.rules.gain - ROUNDING && is_better {
                best = Some((*address, gain));
            }
        }
        best.map(|(address, _)| address)
    }

    /// The session uses another line now, as was advised or for another reason.
    pub fn moved(&mut self, now: u64) {
        if let Some(address) = self.moving.take() {
            self.failed.remove(&address);
            // It was begun then, and took until now.
            self.moves.pop_back();
            self.moves.push_back(now);
        }
        self.last_change = Some(now);
        self.best = None;
    }

    /// Where it was advised to move to, until it is known what came of it.
    pub fn moving(&self) -> Option<SocketAddr> {
        self.moving
    }

    /// The move to this address came to nothing: it is left alone for twice as long as the last
    /// time, up to ten minutes.
    pub fn failed(&mut self, address: SocketAddr, now: u64) {
        self.moving = None;
        self.best = None;
        if self.failed.len() >= FAILED_MAX
            && !self.failed.contains_key(&address)
            && let Some(oldest) =
                self.failed.iter().min_by_key(|(_, failed)| failed.at).map(|(of, _)| *of)
        {
            self.failed.remove(&oldest);
        }
        let before = self.failed.get(&address).map_or(self.rules.dwell_us, |failed| failed.dwell);
        let dwell = before.saturating_mul(2).min(DWELL_MAX_MICROS.max(self.rules.dwell_us));
        self.failed.insert(address, Failed { at: now, dwell });
    }
}
