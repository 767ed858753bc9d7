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
    pub(super) fn next_to_write(&mut self, now: Instant, bytes_max: usize) -> Vec<SenderMessage> {
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
            // An earlier attempt, whose answer was lost, may have had effect: another front, or the
            // backend that has done it already, may refuse this one for good.
            Outcome::Rejected { reason, .. } if asked.is_doubtful && !only_looks => {
                log::info!("a request whose answer was lost is rejected now: {reason}");
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;
    use crate::request::Kind;

    #[derive(Debug, Clone)]
    enum Step {
        Ask {
            looks: bool,
            timeout_ms: u64,
            bytes: usize,
        },
        Fetch {
            timeout_ms: u64,
        },
        Write {
            bytes: usize,
        },
        /// Answers a tag with a rejection, to come back or for good, or with success.
        Answer {
            tag: u64,
            retry_ms: Option<u64>,
        },
        Fetched {
            tag: u64,
        },
        Lost,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (any::<bool>(), 1..200u64, 0..400usize)
                .prop_map(|(looks, timeout_ms, bytes)| Step::Ask { looks, timeout_ms, bytes }),
            1 => (1..200u64).prop_map(|timeout_ms| Step::Fetch { timeout_ms }),
            3 => (1..600usize).prop_map(|bytes| Step::Write { bytes }),
            3 => (1..20u64, prop::option::of(0..50u64))
                .prop_map(|(tag, retry_ms)| Step::Answer { tag, retry_ms }),
            1 => (1..20u64).prop_map(|tag| Step::Fetched { tag }),
            1 => Just(Step::Lost),
            2 => (0..60u64).prop_map(Step::Wait),
        ]
    }

    /// What a model of one request knows.
    #[derive(Debug, Default, Clone)]
    struct Known {
        is_sent: bool,
        is_doubtful: bool,
        looks: bool,
        until_ms: u64,
    }

    proptest! {
        #[test]
        fn each_question_is_told_once_and_never_that_it_had_no_effect_when_it_may_have(
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let start = Instant::now();
            let at = |ms: u64| start + Duration::from_millis(ms);
            let mut now_ms = 0;
            let mut table = Table::new("p".to_owned(), 10, 1000);
            let outcomes = Arc::new(Mutex::new(Vec::new()));
            let mut known: BTreeMap<u64, Known> = BTreeMap::new();
            let mut last_tag = 0;
            for step in steps {
                let mut told: Vec<Told> = Vec::new();
                match step {
                    Step::Ask { looks, timeout_ms, bytes } => {
                        let tag = last_tag + 1;
                        let outcomes = Arc::clone(&outcomes);
                        let reply = Box::new(move |outcome| {
                            outcomes.lock().expect("no panic").push((tag, Some(outcome)));
                        });
                        let kind = if looks { Kind::Read } else { Kind::Write };
                        let timeout = Duration::from_millis(timeout_ms);
                        let payload = vec![0; bytes];
                        let id = RequestId(tag.into());
                        let (key, deadline) = (Vec::new(), timeout);
                        let request = Request { id, kind, key, payload, deadline };
                        let question = Question::Request { request, reply };
                        let is_full = table.asked.len() == 10
                            || table.bytes > 0 && table.bytes + bytes > 1000 && bytes > 0;
                        if table.ask(question, at(now_ms), timeout).is_ok() {
                            prop_assert!(!is_full);
                            last_tag = tag;
                            let until_ms = now_ms + timeout_ms;
                            known.insert(tag, Known { looks, until_ms, ..Known::default() });
                        } else {
                            prop_assert!(is_full || table.bytes >= 1000);
                        }
                    }
                    Step::Fetch { timeout_ms } => {
                        let tag = last_tag + 1;
                        let outcomes = Arc::clone(&outcomes);
                        let reply = Box::new(move |_| {
                            outcomes.lock().expect("no panic").push((tag, None));
                        });
                        let question = Question::Fetch { id: RequestId(1), reply };
                        let timeout = Duration::from_millis(timeout_ms);
                        if table.ask(question, at(now_ms), timeout).is_ok() {
                            last_tag = tag;
                            let until_ms = now_ms + timeout_ms;
                            known.insert(tag, Known { until_ms, ..Known::default() });
                        }
                    }
                    Step::Write { bytes } => {
                        for message in table.next_to_write(at(now_ms), bytes) {
                            let tag = match message {
                                SenderMessage::Request { tag, request, .. } => {
                                    let left = known[&tag].until_ms.saturating_sub(now_ms);
                                    prop_assert!(request.deadline <= Duration::from_millis(left));
                                    tag
                                }
                                SenderMessage::Fetch { tag, .. } => tag,
                                other => panic!("{other:?} is nothing to ask"),
                            };
                            let known = known.get_mut(&tag).expect("it was asked");
                            prop_assert!(!known.is_sent, "{tag} is sent twice");
                            known.is_sent = true;
                        }
                    }
                    Step::Answer { tag, retry_ms } => {
                        let outcome = match retry_ms {
                            None => Outcome::Stale,
                            Some(ms) => Outcome::Rejected {
                                reason: Reason::SpoolFull,
                                retry_after: Duration::from_millis(ms),
                            },
                        };
                        let was_sent = known.get(&tag).is_some_and(|known| known.is_sent);
                        let pause: Option<fn(Duration) -> Duration> = Some(|pause| pause);
                        let answered = table.answered(tag, outcome, at(now_ms), pause);
                        prop_assert!(was_sent || answered.is_none());
                        if answered.is_none()
                            && retry_ms.is_some()
                            && let Some(known) = known.get_mut(&tag)
                            && table
                                .asked
                                .get(&tag)
                                .is_some_and(|asked| matches!(asked.place, Place::Waiting(_)))
                        {
                            known.is_sent = false;
                        }
                        told.extend(answered);
                    }
                    Step::Fetched { tag } => told.extend(table.fetched(tag, None)),
                    Step::Lost => {
                        table.lost();
                        for known in known.values_mut().filter(|known| known.is_sent) {
                            known.is_sent = false;
                            known.is_doubtful = true;
                        }
                    }
                    Step::Wait(ms) => {
                        now_ms += ms;
                        told.extend(table.due(at(now_ms)));
                        prop_assert!(table.next_time().is_none_or(|time| time > at(now_ms)));
                    }
                }
                told.into_iter().for_each(Told::tell);
                for (tag, outcome) in outcomes.lock().expect("no panic").drain(..) {
                    let known = known.remove(&tag).expect("it is told once");
                    let says_no_effect = matches!(outcome, Some(Outcome::Rejected { .. }));
                    prop_assert!(!(says_no_effect && known.is_doubtful && !known.looks), "{tag}");
                    let is_doubt = matches!(outcome, Some(Outcome::InDoubt));
                    prop_assert!(!is_doubt || known.is_sent || known.is_doubtful, "{tag}");
                    prop_assert!(!is_doubt || !known.looks, "{tag}");
                }
                let bytes: usize = table.asked.values().map(|asked| asked.bytes).sum();
                prop_assert_eq!(table.bytes, bytes);
                prop_assert_eq!(table.times.len(), table.asked.len());
            }
            table.drain().into_iter().for_each(Told::tell);
            for (tag, _) in outcomes.lock().expect("no panic").drain(..) {
                prop_assert!(known.remove(&tag).is_some(), "{tag} is told twice");
            }
            prop_assert!(known.is_empty(), "never told: {known:?}");
        }
    }
}
