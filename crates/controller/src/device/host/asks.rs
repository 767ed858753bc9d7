//! Requests that devices have made, and that are not answered.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::shard::Millis;
use crate::wire::client::Outcome;

/// Who waits for an answer; told once, also if nobody answers any more.
pub(in crate::device) struct Reply(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Reply {
    pub(in crate::device) fn new(tell: Box<dyn FnOnce(Outcome) + Send>) -> Self {
        Self(Some(tell))
    }

    pub(in crate::device) fn tell(mut self, outcome: Outcome) {
        self.tell_once(outcome);
    }

    fn tell_once(&mut self, outcome: Outcome) {
        if let Some(tell) = self.0.take()
            && catch_unwind(AssertUnwindSafe(|| tell(outcome))).is_err()
        {
            log::error!("a callback for the answer to a request has panicked");
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.tell_once(Outcome::Unreachable("the device's program has closed it".to_owned()));
    }
}

struct Ask {
    device: u32,
    line: u64,
    until: Millis,
    reply: Reply,
}

/// See the module.
#[derive(Default)]
pub(super) struct Asks {
    last: u64,
    asks: HashMap<u64, Ask>,
    by_time: BTreeSet<(Millis, u64)>,
}

impl Asks {
    pub(super) fn len(&self) -> usize {
        self.asks.len()
    }

    /// Keeps one; gives its number.
    pub(super) fn add(&mut self, device: u32, line: u64, until: Millis, reply: Reply) -> u64 {
        self.last += 1;
        self.asks.insert(self.last, Ask { device, line, until, reply });
        self.by_time.insert((until, self.last));
        self.last
    }

    /// The answer to one, by that connection; gives whose it was.
    pub(super) fn answer(&mut self, line: u64, id: u64, outcome: Outcome) -> Option<u32> {
        if self.asks.get(&id)?.line != line {
            return None;
        }
        self.end(id, outcome)
    }

    /// No answers come by that connection any more; gives whose there were.
    pub(super) fn lost(&mut self, line: u64) -> Vec<u32> {
        let lost = self.asks.iter().filter(|(_, ask)| ask.line == line);
        let lost: Vec<u64> = lost.map(|(id, _)| *id).collect();
        // It may have been done.
        lost.into_iter().filter_map(|id| self.end(id, Outcome::TimedOut)).collect()
    }

    /// One whose time is over; gives whose it was.
    pub(super) fn expire(&mut self, now: Millis) -> Option<u32> {
        let (until, id) = *self.by_time.first()?;
        (until <= now).then(|| self.end(id, Outcome::TimedOut)).flatten()
    }

    pub(super) fn next(&self) -> Option<Millis> {
        self.by_time.first().map(|(until, _)| *until)
    }

    pub(super) fn has_of(&self, device: u32) -> bool {
        self.asks.values().any(|ask| ask.device == device)
    }

    fn end(&mut self, id: u64, outcome: Outcome) -> Option<u32> {
        let ask = self.asks.remove(&id)?;
        self.by_time.remove(&(ask.until, id));
        ask.reply.tell(outcome);
        Some(ask.device)
    }
}
