//! From the spool into the main: what is read ahead, what is on its way, and in which order.
//!
//! Records of one lane go one after the other; lanes go side by side. Nothing here grows with the
//! backlog, except that lanes which wait for an operator are remembered.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use crate::limits::{BATCH_BYTES_MAX, BATCH_MAX};
use crate::record::{Lane, Record};

/// Records read ahead.
const AHEAD_RECORDS: usize = 1024;
/// Their weight.
const AHEAD_WEIGHT: u64 = 16 << 20;
/// Records of one read.
pub(crate) const FETCH_RECORDS: usize = 512;
/// Their weight, unless the first alone has more.
pub(crate) const FETCH_WEIGHT: u64 = 4 << 20;

#[derive(Debug)]
struct Entry {
    record: Record,
    lane: Lane,
    /// Sent before the front was started, to a server that keeps no ledger.
    sent: bool,
    /// On its way, or done and not yet noted as such in the store.
    away: bool,
    /// Given up by an operator while it was away.
    dropped: bool,
}

#[derive(Debug, Default)]
struct Queue {
    /// Places that are not away, ascending.
    waiting: VecDeque<u64>,
    flying: usize,
    blocked: bool,
}

/// The drain of one pair.
#[derive(Debug)]
pub(crate) struct Drain {
    /// Everything up to here was read.
    cursor: u64,
    fetching: bool,
    /// A read found nothing more.
    exhausted: bool,
    /// The answer to the read under way is of before a restart.
    stale_fetch: bool,
    /// The highest place that was appended since the read under way began.
    appended_meanwhile: u64,
    /// Ended since the read under way began, which may show them as pending.
    ended_meanwhile: HashSet<u64>,
    entries: BTreeMap<u64, Entry>,
    weight: u64,
    lanes: HashMap<Lane, Queue>,
    /// The first waiting record of each lane of which nothing is away.
    heads: BTreeSet<u64>,
    /// Lanes that the server wants later.
    blocked: BTreeSet<(u64, Lane)>,
    /// Records that failed of late, and when they are to be tried again; outlives restarts.
    delayed: HashMap<u64, u64>,
    /// Lanes in which a record waits for an operator.
    stuck: HashSet<Lane>,
    flying: usize,
    calls: usize,
    /// How many records may be on their way.
    window: usize,
    /// Up to here the window doubles, beyond it grows by one.
    threshold: usize,
    window_max: usize,
    calls_max: usize,
    /// Records per second; 0: without limit.
    rate: u64,
    /// Tokens in millionths of a record.
    tokens: u64,
    counted_at: u64,
}

impl Drain {
    pub(crate) fn new(window_max: usize, calls_max: usize, rate: u64, backlog: bool) -> Self {
        Self {
            cursor: 0,
            fetching: false,
            exhausted: !backlog,
            stale_fetch: false,
            appended_meanwhile: 0,
            ended_meanwhile: HashSet::new(),
            entries: BTreeMap::new(),
            weight: 0,
            lanes: HashMap::new(),
            heads: BTreeSet::new(),
            blocked: BTreeSet::new(),
            delayed: HashMap::new(),
            stuck: HashSet::new(),
            flying: 0,
            calls: 0,
            window: 1,
            threshold: window_max,
            window_max: window_max.max(1),
            calls_max: calls_max.max(1),
            rate,
            tokens: 0,
            counted_at: 0,
        }
    }

    /// A record was appended.
    pub(crate) fn appended(&mut self, lsn: u64) {
        if self.fetching {
            self.appended_meanwhile = self.appended_meanwhile.max(lsn);
        }
        if lsn > self.cursor {
            self.exhausted = false;
        }
    }

    /// A record may have been appended.
    pub(crate) fn look_again(&mut self) {
        self.appended(u64::MAX);
    }

    /// From where to read on, if there is room for it.
    pub(crate) fn wants_records(&mut self) -> Option<u64> {
        let room = self.entries.len() < AHEAD_RECORDS / 2 && self.weight < AHEAD_WEIGHT / 2;
        if self.fetching || self.exhausted || !room {
            return None;
        }
        self.fetching = true;
        self.ended_meanwhile.clear();
        self.appended_meanwhile = 0;
        Some(self.cursor)
    }

    /// The read is over. `false`: it was begun before a restart, and is not to be looked at.
    pub(crate) fn fetched(&mut self) -> bool {
        self.fetching = false;
        !std::mem::take(&mut self.stale_fetch)
    }

    /// The read found everything up to here, and perhaps there is more.
    pub(crate) fn advance(&mut self, cursor: u64, more: bool) {
        self.cursor = self.cursor.max(cursor);
        // What was appended since the read began may be missing from it.
        self.exhausted = !more && self.appended_meanwhile <= self.cursor;
    }

    /// A record that was read.
    pub(crate) fn add(&mut self, record: Record, sent: bool, now: u64) {
        let (lsn, lane) = (record.lsn, record.lane());
        let is_known = self.entries.contains_key(&lsn) || self.ended_meanwhile.contains(&lsn);
        if is_known || self.stuck.contains(&lane) {
            return;
        }
        self.weight += record.weight();
        self.entries.insert(lsn, Entry { record, lane, sent, away: false, dropped: false });
        let queue = self.lanes.entry(lane).or_default();
        queue.waiting.push_back(lsn);
        if let Some(&until) = self.delayed.get(&lsn)
            && until > now
        {
            queue.blocked = true;
            self.blocked.insert((until, lane));
            if let Some(front) = queue.waiting.front() {
                self.heads.remove(front);
            }
        }
        self.show_head(lane);
    }

    /// The record is not to be tried again before `until`, not even after a restart.
    pub(crate) fn delay(&mut self, lsn: u64, until: u64, now: u64) {
        if self.delayed.len() >= AHEAD_RECORDS {
            self.delayed.retain(|_, until| *until > now);
        }
        self.delayed.insert(lsn, until);
    }

    /// The lane of a record goes no further until the next restart.
    pub(crate) fn pause_lane_of(&mut self, lsn: u64) {
        let Some(lane) = self.entries.get(&lsn).map(|entry| entry.lane) else { return };
        let Some(queue) = self.lanes.get_mut(&lane) else { return };
        queue.blocked = true;
        self.blocked.insert((u64::MAX, lane));
        if let Some(front) = queue.waiting.front() {
            self.heads.remove(front);
        }
    }

    /// A record of this lane waits for an operator: the lane goes no further.
    pub(crate) fn stick(&mut self, lane: Lane) {
        self.stuck.insert(lane);
        let Some(queue) = self.lanes.get_mut(&lane) else { return };
        let waiting: Vec<u64> = queue.waiting.drain(..).collect();
        for lsn in waiting {
            self.forget(lsn);
        }
        self.drop_lane_if_empty(lane);
    }

    /// Reads everything anew: an operator has let records go, or there is another main.
    pub(crate) fn restart(&mut self) {
        let waiting: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| !entry.away).map(|(lsn, _)| *lsn).collect();
        for lsn in waiting {
            self.forget(lsn);
        }
        for queue in self.lanes.values_mut() {
            queue.waiting.clear();
            queue.blocked = false;
        }
        self.lanes.retain(|_, queue| queue.flying > 0);
        self.heads.clear();
        self.blocked.clear();
        self.stuck.clear();
        self.cursor = 0;
        self.exhausted = false;
        self.stale_fetch = self.fetching;
        self.window = 1;
        self.threshold = self.window_max;
    }

    /// What is to be sent now, in order, if anything.
    pub(crate) fn next_call(&mut self, now: u64, one_by_one: bool) -> Option<Vec<Record>> {
        self.unblock(now);
        if self.calls >= self.calls_max {
            return None;
        }
        let mut room = self.window.saturating_sub(self.flying).min(BATCH_MAX);
        if one_by_one {
            room = room.min(1);
        }
        room = room.min(self.allowed(now));
        let (mut batch, mut weight) = (Vec::new(), 0);
        let mut lanes = BTreeSet::new();
        while batch.len() < room {
            let Some(&lsn) = self.heads.first() else { break };
            let Some(entry) = self.entries.get_mut(&lsn) else {
                self.heads.remove(&lsn);
                continue;
            };
            let heavier = weight + entry.record.weight();
            if !batch.is_empty() && heavier > BATCH_BYTES_MAX as u64 {
                break;
            }
            weight = heavier;
            entry.away = true;
            let lane = entry.lane;
            batch.push(entry.record.clone());
            self.heads.remove(&lsn);
            lanes.insert(lane);
            if let Some(queue) = self.lanes.get_mut(&lane) {
                queue.waiting.pop_front();
                queue.flying += 1;
                // The next of the lane may go in the same call, which is done in order.
                self.heads.extend(queue.waiting.front());
            }
        }
        if batch.is_empty() {
            return None;
        }
        for lane in lanes {
            if let Some(next) = self.lanes.get(&lane).and_then(|queue| queue.waiting.front()) {
                self.heads.remove(next);
            }
        }
        self.flying += batch.len();
        self.calls += 1;
        self.tokens = self.tokens.saturating_sub(batch.len() as u64 * 1_000_000);
        Some(batch)
    }

    /// A call is over; what became of each of its records follows.
    pub(crate) fn call_ended(&mut self, good: bool) {
        self.calls -= 1;
        if good {
            let grown =
                if self.window < self.threshold { self.window * 2 } else { self.window + 1 };
            self.window = grown.min(self.window_max);
        } else {
            self.threshold = (self.window / 2).max(1);
            self.window = self.threshold;
        }
    }

    /// It took effect, or ended otherwise: the lane goes on. Noted in the store it is later.
    pub(crate) fn ended(&mut self, lsn: u64) {
        if let Some(lane) = self.landed(lsn) {
            self.show_head(lane);
        }
    }

    /// It is to be sent again, not before `until`.
    pub(crate) fn again(&mut self, lsn: u64, until: u64, now: u64) {
        let Some(lane) = self.landed(lsn) else { return };
        if self.is_dropped(lsn) {
            self.forget(lsn);
            return self.show_head(lane);
        }
        if let Some(entry) = self.entries.get_mut(&lsn) {
            entry.away = false;
        }
        if self.stuck.contains(&lane) {
            self.forget(lsn);
            self.drop_lane_if_empty(lane);
            return;
        }
        let queue = self.lanes.entry(lane).or_default();
        if let Some(front) = queue.waiting.front() {
            self.heads.remove(front);
        }
        // Those of one call come back in any order.
        let place = queue.waiting.partition_point(|other| *other < lsn);
        queue.waiting.insert(place, lsn);
        if until > now {
            queue.blocked = true;
            self.blocked.insert((until, lane));
        }
        self.show_head(lane);
    }

    /// The store has its end. Gives its lane and weight, if it was read ahead.
    pub(crate) fn noted(&mut self, lsn: u64) -> Option<(Lane, u64)> {
        if self.fetching {
            self.ended_meanwhile.insert(lsn);
        }
        let known = self.entries.get(&lsn).map(|entry| (entry.lane, entry.record.weight()));
        self.forget(lsn);
        self.delayed.remove(&lsn);
        known
    }

    /// An operator has given it up. If it is away, its call says what became of it.
    pub(crate) fn drop_waiting(&mut self, lsn: u64) {
        if self.fetching {
            self.ended_meanwhile.insert(lsn);
        }
        let Some(entry) = self.entries.get_mut(&lsn) else { return };
        if entry.away {
            entry.dropped = true;
            return;
        }
        let lane = entry.lane;
        self.forget(lsn);
        self.heads.remove(&lsn);
        if let Some(queue) = self.lanes.get_mut(&lane) {
            queue.waiting.retain(|other| *other != lsn);
        }
        self.show_head(lane);
    }

    /// Whether an operator gave it up while it was away.
    pub(crate) fn is_dropped(&self, lsn: u64) -> bool {
        self.entries.get(&lsn).is_some_and(|entry| entry.dropped)
    }

    /// Whether it is on its way, or done and not noted.
    pub(crate) fn is_away(&self, lsn: u64) -> bool {
        self.entries.get(&lsn).is_some_and(|entry| entry.away)
    }

    /// Whether it had been sent before the front was started.
    pub(crate) fn was_sent(&self, lsn: u64) -> bool {
        self.entries.get(&lsn).is_some_and(|entry| entry.sent)
    }

    /// All that could be drained is, and is noted.
    pub(crate) fn is_done(&self) -> bool {
        self.exhausted && !self.fetching && self.entries.is_empty()
    }

    /// What is left fits into a short pause.
    pub(crate) fn is_nearly_done(&self) -> bool {
        self.exhausted && self.entries.len() <= BATCH_MAX
    }

    /// Whether a lane waits for an operator.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// Places below this one are drained, but for those in lanes that wait for an operator.
    pub(crate) fn low(&self) -> u64 {
        // After a restart what is away is known, and what lies before it is not.
        let next = self.cursor.saturating_add(1);
        self.entries.keys().next().map_or(next, |first| next.min(*first))
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    pub(crate) fn window(&self) -> usize {
        self.window
    }

    pub(crate) fn buffered(&self) -> usize {
        self.entries.len()
    }

    /// When a lane is to be tried again, or the rate allows one more.
    pub(crate) fn wake_at(&self) -> Option<u64> {
        let unblock = self.blocked.first().map(|(at, _)| *at).filter(|at| *at < u64::MAX);
        let may_send = self.calls < self.calls_max && self.flying < self.window;
        let has_next = may_send && !self.heads.is_empty();
        let rated = (self.rate > 0 && has_next && self.tokens < 1_000_000)
            .then(|| self.counted_at + (1_000_000 - self.tokens).div_ceil(self.rate));
        unblock.into_iter().chain(rated).min()
    }

    /// How many records the rate allows now.
    fn allowed(&mut self, now: u64) -> usize {
        if self.rate == 0 {
            return usize::MAX;
        }
        let passed = now.saturating_sub(self.counted_at).min(1_000_000);
        self.counted_at = now;
        // A tenth of a second's worth may come at once.
        let most = (self.rate * 100_000).max(1_000_000);
        self.tokens = (self.tokens + passed * self.rate).min(most);
        usize::try_from(self.tokens / 1_000_000).unwrap_or(usize::MAX)
    }

    fn unblock(&mut self, now: u64) {
        while let Some(&(at, lane)) = self.blocked.first() {
            if at > now {
                break;
            }
            self.blocked.pop_first();
            if self.blocked.iter().any(|(_, other)| *other == lane) {
                continue;
            }
            if let Some(queue) = self.lanes.get_mut(&lane) {
                queue.blocked = false;
            }
            self.show_head(lane);
        }
    }

    /// Is no longer on its way.
    fn landed(&mut self, lsn: u64) -> Option<Lane> {
        let lane = self.entries.get(&lsn)?.lane;
        self.flying = self.flying.saturating_sub(1);
        if let Some(queue) = self.lanes.get_mut(&lane) {
            queue.flying = queue.flying.saturating_sub(1);
        }
        Some(lane)
    }

    fn show_head(&mut self, lane: Lane) {
        let Some(queue) = self.lanes.get(&lane) else { return };
        if queue.flying == 0
            && !queue.blocked
            && let Some(&first) = queue.waiting.front()
        {
            self.heads.insert(first);
        }
        self.drop_lane_if_empty(lane);
    }

    fn drop_lane_if_empty(&mut self, lane: Lane) {
        if let Some(queue) = self.lanes.get(&lane)
            && queue.waiting.is_empty()
            && queue.flying == 0
        {
            self.lanes.remove(&lane);
        }
    }

    fn forget(&mut self, lsn: u64) {
        self.heads.remove(&lsn);
        if let Some(entry) = self.entries.remove(&lsn) {
            self.weight -= entry.record.weight();
        }
    }
}
