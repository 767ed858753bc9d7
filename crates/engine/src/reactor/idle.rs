//! What keeps time while nothing happens: as little as can be.

use std::time::{Duration, Instant};

use super::Reactor;
use super::timer::{Timer, Timers};
use crate::clock;

/// How often some sockets are looked at for numbers that were closed past us, and how many.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOKS_MAX: usize = 128;
/// While the engine hears nothing at all it looks at all of them, but half as often each time,
/// down to this: before a server gives up a session whose connection was closed, by default.
const LOOK_IDLE: Duration = Duration::from_secs(40);

/// The looks at numbers.
#[derive(Debug)]
pub(super) struct Looks {
    /// The first socket that the next look is at.
    from: u64,
    due: Instant,
    every: Duration,
    /// Something has happened since the last one.
    stirred: bool,
}

impl Reactor {
    /// Forgets deadlines that were met, before they wake this thread for nothing.
    pub(super) fn weed_timers(&mut self) {
        let mut timers: Timers = std::mem::take(&mut self.timers);
        timers.weed(|timer| match timer {
            Timer::Handshake(token) => token == usize::MAX || self.handshakes.contains_key(&token),
            Timer::DialDeadline(id, serial) | Timer::DialAgain(id, serial) => {
                self.is_dialling(id, serial)
            }
            Timer::Grace(id) => self.owned.get(&id).is_some_and(|owned| owned.expires().is_some()),
            Timer::Linger(id) => self.owned.contains_key(&id),
            Timer::Start(id, epoch) => self.owes_start(id, epoch),
            _ => true,
        });
        self.timers = timers;
    }

    /// There are sockets whose numbers may be closed past us.
    pub(super) fn arm_look(&mut self) {
        if self.looks.is_none() {
            let due = clock::now() + LOOK_EVERY;
            self.looks = Some(Looks { from: 0, due, every: LOOK_EVERY, stirred: true });
            self.timers.set(due, Timer::Numbers);
        }
    }

    /// Something has happened: who closes numbers past us may be awake.
    pub(super) fn note_stir(&mut self) {
        let Some(looks) = &mut self.looks else { return };
        looks.stirred = true;
        if looks.every > LOOK_EVERY {
            looks.every = LOOK_EVERY;
            let soon = clock::now() + LOOK_EVERY;
            if soon < looks.due {
                looks.due = soon;
                self.timers.set(soon, Timer::Numbers);
            }
        }
    }

    /// Looks at some sockets, those after the ones that were looked at last: whose numbers the
    /// program has closed past us is closed.
    pub(super) fn look_at_numbers(&mut self) {
        let Some(looks) = &mut self.looks else { return };
        let now = clock::now();
        if now < looks.due {
            // Of a pace that is no longer kept.
            return;
        }
        if self.owned.is_empty() {
            self.looks = None;
            return;
        }
        let some: Vec<_> = self
            .owned
            .range(looks.from..)
            .take(LOOKS_MAX)
            .map(|(&id, o)| (id, o.socket.clone()))
            .collect();
        looks.from = match some.last() {
            Some((id, _)) if some.len() == LOOKS_MAX => id + 1,
            _ => 0,
        };
        looks.due = now;
        if std::mem::take(&mut looks.stirred) {
            looks.every = LOOK_EVERY;
            looks.due += LOOK_EVERY;
        } else if looks.from == 0 {
            looks.every = (looks.every * 2).min(LOOK_IDLE);
            looks.due += looks.every;
        }
        self.timers.set(looks.due, Timer::Numbers);
        for (_, socket) in some {
            self.look_at(&socket);
        }
    }
}
