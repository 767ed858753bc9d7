//! How fast hand-overs may begin.

use std::collections::VecDeque;

use crate::shard::input::Millis;

/// In which time at most `per_second` may begin.
const SECOND: Millis = 1000;
/// In which time at most a tenth of that may begin, so that they do not come all at once.
const SLICE: Millis = 100;

/// Remembers what began in the last second: in any second at most `per_second` begin, and in any
/// tenth of one a tenth of that, rounded up. This is stricter than a bucket of tokens, which lets
/// twice its content out within a second after a pause; and a clock that jumps forward gains a
/// tenth of a second's worth and no more.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// When, and how many. Not more than one for each millisecond.
    began: VecDeque<(Millis, u32)>,
    in_second: u32,
}

impl Meter {
    /// How many may begin now.
    pub(super) fn room(&mut self, now: Millis, per_second: u32) -> u32 {
        let now = self.forget(now);
        let slice_max = per_second.div_ceil(10);
        per_second
            .saturating_sub(self.in_second)
            .min(slice_max.saturating_sub(self.in_slice(now).0))
    }

    /// One begins.
    pub(super) fn begin(&mut self, now: Millis) {
        let now = self.forget(now);
        match self.began.back_mut() {
            Some((at, count)) if *at == now => *count += 1,
            _ => self.began.push_back((now, 1)),
        }
        self.in_second += 1;
    }

    /// When there may be room again, if there is none now. `None`: never at this pace.
    pub(super) fn due(&mut self, now: Millis, per_second: u32) -> Option<Millis> {
        let now = self.forget(now);
        if per_second == 0 {
            return None;
        }
        let mut due = now;
        if self.in_second >= per_second
            && let Some(&(oldest, _)) = self.began.front()
        {
            due = due.max(oldest.saturating_add(SECOND));
        }
        let (in_slice, oldest) = self.in_slice(now);
        if in_slice >= per_second.div_ceil(10)
            && let Some(oldest) = oldest
        {
            due = due.max(oldest.saturating_add(SLICE));
        }
        Some(due)
    }

    /// Those of the last tenth of a second, and when the first of them began.
    fn in_slice(&self, now: Millis) -> (u32, Option<Millis>) {
        let slice = self.began.iter().rev().take_while(|&&(at, _)| at.saturating_add(SLICE) > now);
        slice.fold((0, None), |(count, _), &(at, more)| (count + more, Some(at)))
    }

    /// Forgets what is long ago. Gives the time, which does not go back here.
    fn forget(&mut self, now: Millis) -> Millis {
        let now = self.began.back().map_or(now, |&(at, _)| now.max(at));
        while let Some(&(at, count)) = self.began.front()
            && at.saturating_add(SECOND) <= now
        {
            self.began.pop_front();
            self.in_second -= count;
        }
        now
    }
}
