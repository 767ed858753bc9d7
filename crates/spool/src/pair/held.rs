//! Requests that wait for a server: until their lane has gone on, a time has come, or there is
//! another main.

use super::intake::Stage;
use super::{Pair, Reason, Token};
use crate::record::Lane;

impl Pair {
    /// Keeps a request until the main can be asked: until its lane has gone on, or a time has come,
    /// or the main is another.
    pub(super) fn hold(&mut self, token: Token, lane: Option<Lane>, until: Option<u64>) {
        if self.held.len() >= self.config.hold_max {
            return self.reject(token, Reason::HoldFull);
        }
        let Some(asked) = self.requests.get_mut(&token) else { return };
        if asked.is_answered {
            return self.remove(token);
        }
        asked.stage = Stage::Held;
        asked.has_looked = false;
        asked.is_new = false;
        self.held.insert(token);
        let deadline = asked.deadline;
        if let Some(lane) = lane {
            let waiting = self.held_by_lane.entry(lane).or_default();
            if !waiting.contains(&token) {
                waiting.push(token);
            }
        }
        if let Some(until) = until {
            self.wakes.insert((until.min(deadline), token));
        }
    }

    /// Looks at held requests again that have a reason to hope.
    pub(super) fn wake_held(&mut self) {
        while let Some(&(at, token)) = self.wakes.first() {
            if at > self.now {
                break;
            }
            self.wakes.pop_first();
            self.wake(token);
        }
        if self.is_serving() {
            while let Some(&(barrier, token)) = self.barriers.first() {
                if barrier >= self.drain.low() && self.totals.pending > 0 {
                    break;
                }
                self.barriers.pop_first();
                self.wake(token);
            }
        }
        self.measure_quota();
    }

    /// Records of this lane are in the main now.
    pub(super) fn wake_lane(&mut self, lane: Lane) {
        for token in self.held_by_lane.remove(&lane).unwrap_or_default() {
            self.wake(token);
        }
    }

    /// There is a main again.
    pub(super) fn wake_all(&mut self) {
        let tokens: Vec<Token> = self.held.iter().copied().collect();
        for token in tokens {
            self.wake(token);
        }
        let lanes: Vec<Lane> = self.lanes.keys().copied().collect();
        for lane in lanes {
            self.run_lane(lane);
        }
    }

    fn wake(&mut self, token: Token) {
        if self.held.remove(&token) {
            self.route(token);
        }
    }
}
