//! What a sender has asked and not been told.
//!
//! Pure: it does no I/O and knows no clock, and never calls a reply. A question is in the table
//! from when it is asked until it is taken out, once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::request::{Outcome, Reason, Request, RequestId};
use crate::target::Reply;
use crate::wire::SenderMessage;

/// What was asked, and who waits.
pub(super) enum Question {
    Request { request: Request, reply: Reply<Outcome> },
    Fetch { id: RequestId, reply: Reply<Option<Option<Outcome>>> },
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { request, .. } => write!(f, "Request({})", request.id),
            Self::Fetch { id, .. } => write!(f, "Fetch({id})"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// To be written.
    Queued,
    /// Written to the connection that stands, or being written.
    Sent,
    /// Rejected, and to be asked again then.
    Waiting(Instant),
}

#[derive(Debug)]
struct Asked {
    question: Question,
    bytes: usize,
    until: Instant,
    place: Place,
    /// It was written to a connection that was lost before the answer came.
    is_doubtful: bool,
}

impl Asked {
    /// When to look at it.
    fn time(&self) -> Instant {
        if let Place::Waiting(then) = self.place { then } else { self.until }
    }

    /// Whether it may have had an effect of which nobody has told.
    fn may_have_effect(&self) -> bool {
        self.is_doubtful || self.place == Place::Sent
    }

    /// What to tell who waits, when there is no answer, because of this.
    fn end(self, reason: Reason) -> Told {
        let may_have_effect = self.may_have_effect();
        match self.question {
            Question::Request { request, reply } => {
                let outcome = if may_have_effect && !request.kind.only_looks() {
                    Outcome::InDoubt
                } else {
                    Outcome::Rejected { reason, retry_after: Duration::ZERO }
                };
                Told::Request(reply, outcome)
            }
            Question::Fetch { reply, .. } => Told::Fetch(reply, None),
        }
    }
}

/// What to tell to whom.
pub(super) enum Told {
    Request(Reply<Outcome>, Outcome),
    Fetch(Reply<Option<Option<Outcome>>>, Option<Option<Outcome>>),
}

impl Told {
    pub(super) fn tell(self) {
        match self {
            Self::Request(reply, outcome) => reply(outcome),
            Self::Fetch(reply, outcome) => reply(outcome),
        }
    }
}

/// All that was asked.
#[derive(Debug)]
pub(super) struct Table {
    pair: String,
    questions_max: usize,
    bytes_max: usize,
    next: u64,
    asked: BTreeMap<u64, Asked>,
    queue: VecDeque<u64>,
    times: BTreeSet<(Instant, u64)>,
    bytes: usize,
}

impl Table {
    pub(super) fn new(pair: String, questions_max: usize, bytes_max: usize) -> Self {
        Self {
            pair,
            questions_max,
            bytes_max,
            next: 1,
            asked: BTreeMap::new(),
            queue: VecDeque::new(),
            times: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Takes a question in; gives it back if there is no room. One alone always has room.
    pub(super) fn ask(
        &mut self,
        question: Question,
        now: Instant,
        timeout: Duration,
    ) -> Result<(), Question> {
        let bytes = match &question {
            Question::Request { request, .. } => request.key.len() + request.payload.len(),
            Question::Fetch { .. } => 0,
        };
        let is_full = self.asked.len() >= self.questions_max
            || self.bytes > 0 && bytes > self.bytes_max.saturating_sub(self.bytes);
        if is_full {
            return Err(question);
        }
        let tag = self.next;
        self.next += 1;
        self.bytes += bytes;
        let until = now + timeout;
        self.queue.push_back(tag);
        self.times.insert((until, tag));
        let place = Place::Queued;
        self.asked.insert(tag, Asked { question, bytes, until, place, is_doubtful: false });
        Ok(())
    }

    /// What to write next, about so many bytes of it; from now on it may reach the front.
    pub(super) fn to_write(&mut self, now: Instant, bytes_max: usize) -> Vec<SenderMessage> {
        let mut messages = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(tag) = self.queue.pop_front()
        {
            let Some(asked) = self.asked.get_mut(&tag) else { continue };
            if asked.place != Place::Queued {
                continue;
            }
            asked.place = Place::Sent;
            bytes += asked.bytes;
            let pair = self.pair.clone();
            messages.push(match &asked.question {
                Question::Fetch { id, .. } => SenderMessage::Fetch { tag, pair, id: *id },
                Question::Request { request, .. } => {
                    let left = asked.until.saturating_duration_since(now);
                    // The front's answer at the last moment has to come back in time.
                    let deadline = left - (left / 10).min(Duration::from_secs(1));
                    let request = Request { deadline, ..request.clone() };
                    SenderMessage::Request { tag, pair, request }
                }
            });
        }
        messages
    }

    /// An outcome came; who is to be told of it. `pause` makes of when to come back when to ask
    /// again; without it, that is not done here.
    pub(super) fn answered(
        &mut self,
        tag: u64,
        outcome: Outcome,
        now: Instant,
        pause: Option<fn(Duration) -> Duration>,
    ) -> Option<Told> {
        let asked = self.asked.get_mut(&tag)?;
        let Question::Request { request, .. } = &asked.question else { return None };
        if asked.place != Place::Sent {
            // Nobody can have answered it: the front has guessed the tag.
            return None;
        }
        let only_looks = request.kind.only_looks();
        if let (Outcome::Rejected { retry_after, .. }, Some(pause)) = (&outcome, pause)
            && !retry_after.is_zero()
        {
            let again = now + pause(*retry_after);
            if again < asked.until {
                self.times.remove(&(asked.until, tag));
                asked.place = Place::Waiting(again);
                self.times.insert((again, tag));
                return None;
            }
        }
        let asked = self.remove(tag)?;
        let outcome = match outcome {
            Outcome::Rejected { reason, .. }
                if asked.is_doubtful && !only_looks && !is_final(&reason) =>
            {
                Outcome::InDoubt
            }
            other => other,
        };
        let Question::Request { reply, .. } = asked.question else { return None };
        Some(Told::Request(reply, outcome))
    }

    /// As [`Self::answered`], of a fetch.
    pub(super) fn fetched(&mut self, tag: u64, outcome: Option<Outcome>) -> Option<Told> {
        let asked = self.asked.get(&tag)?;
        if asked.place != Place::Sent || !matches!(asked.question, Question::Fetch { .. }) {
            return None;
        }
        let Question::Fetch { reply, .. } = self.remove(tag)?.question else { return None };
        Some(Told::Fetch(reply, Some(outcome)))
    }

    /// Queues those that waited long enough, and takes out those whose deadline is over.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        while let Some(&(time, tag)) = self.times.first()
            && time <= now
        {
            let Some(asked) = self.asked.get_mut(&tag) else { break };
            if asked.until <= now {
                told.extend(self.remove(tag).map(|asked| asked.end(Reason::Deadline)));
                continue;
            }
            self.times.pop_first();
            asked.place = Place::Queued;
            self.times.insert((asked.until, tag));
            self.queue.push_back(tag);
        }
        told
    }

    /// When [`Self::due`] has something to do.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.times.first().map(|&(time, _)| time)
    }

    /// The connection is lost: what was not answered is asked again, in the order in which it was
    /// asked first.
    pub(super) fn lost(&mut self) {
        for asked in self.asked.values_mut().filter(|asked| asked.place == Place::Sent) {
            asked.place = Place::Queued;
            asked.is_doubtful = true;
        }
        let queued = self.asked.iter().filter(|(_, asked)| asked.place == Place::Queued);
        self.queue = queued.map(|(&tag, _)| tag).collect();
    }

    /// Takes all out, as this side ends.
    pub(super) fn drain(&mut self) -> Vec<Told> {
        self.queue.clear();
        self.times.clear();
        self.bytes = 0;
        let all = std::mem::take(&mut self.asked);
        all.into_values().map(|asked| asked.end(Reason::Closing)).collect()
    }

    fn remove(&mut self, tag: u64) -> Option<Asked> {
        let asked = self.asked.remove(&tag)?;
        self.times.remove(&(asked.time(), tag));
        self.bytes -= asked.bytes;
        Some(asked)
    }
}

/// Whether a rejection says that no other way of the same request can have had an effect: the front
/// or the backend will never take it. Else an earlier attempt, whose answer was lost, may have.
fn is_final(reason: &Reason) -> bool {
    matches!(reason, Reason::Malformed(_) | Reason::IdReused | Reason::Refused { .. })
}
