//! Questions to a server that are not answered yet.
//!
//! Pure: it does no I/O and knows no clock, and never calls a reply; whoever takes a question out
//! answers it. A question is in the table from when it is asked until it is taken out, once.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::target::{CallFailed, CallResult, ItemResult, Reply, Report};
use crate::wire::ServerMessage;

/// Who waits for the answer.
pub(super) enum Waiter {
    Call { epoch: u64, items: usize, reply: Reply<CallResult> },
    Probe(Reply<Option<Report>>),
    Grant(Reply<bool>),
    Release(Reply<bool>),
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Call { .. } => "Call(..)",
            Self::Probe(_) => "Probe(..)",
            Self::Grant(_) => "Grant(..)",
            Self::Release(_) => "Release(..)",
        })
    }
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(super) enum Gone {
    /// In this time.
    Late(Duration),
    /// The connection has ended, for this reason.
    Ended(String),
}

impl Waiter {
    /// Tells that there is no answer; `sent` if the question may have reached the server.
    pub(super) fn fail(self, sent: bool, gone: &Gone) {
        match self {
            Self::Call { reply, .. } => reply(Err(match (sent, gone) {
                (true, Gone::Late(_)) => CallFailed::TimedOut,
                (true, Gone::Ended(why)) => CallFailed::Lost(why.clone()),
                (false, Gone::Late(timeout)) => CallFailed::Unreachable(format!(
                    "in {timeout:?} nothing could be written to it"
                )),
                (false, Gone::Ended(why)) => CallFailed::Unreachable(why.clone()),
            })),
            Self::Probe(reply) => reply(None),
            Self::Grant(reply) | Self::Release(reply) => reply(false),
        }
    }
}

/// One question.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) waiter: Waiter,
    /// Until it is handed out to be written.
    message: Option<ServerMessage>,
    bytes: usize,
    until: Instant,
    timeout: Duration,
}

impl Asked {
    /// Tells that there is no answer. `why` if that is since the connection ended, else it is since
    /// the time was over.
    pub(super) fn fail(self, why: Option<&str>) {
        let gone = why.map_or(Gone::Late(self.timeout), |why| Gone::Ended(why.to_owned()));
        self.waiter.fail(self.message.is_none(), &gone);
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Table {
    questions_max: usize,
    bytes_max: usize,
    next: u64,
    asked: HashMap<u64, Asked>,
    /// Those that are short and must not wait behind long ones.
    urgent: VecDeque<u64>,
    queue: VecDeque<u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    bytes: usize,
}

impl Table {
    pub(super) fn new(questions_max: usize, bytes_max: usize) -> Self {
        Self {
            questions_max,
            bytes_max,
            next: 1,
            asked: HashMap::new(),
            urgent: VecDeque::new(),
            queue: VecDeque::new(),
            deadlines: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Takes a question of so many bytes in, with its number. If there is no room, gives it back
    /// and says so. One alone always has room.
    pub(super) fn ask(
        &mut self,
        waiter: Waiter,
        bytes: usize,
        now: Instant,
        timeout: Duration,
        message: impl FnOnce(u64) -> ServerMessage,
    ) -> Result<(), (Waiter, String)> {
        if self.asked.len() >= self.questions_max {
            return Err((waiter, format!("{} calls are under way to it", self.asked.len())));
        }
        if self.bytes > 0 && bytes > self.bytes_max.saturating_sub(self.bytes) {
            return Err((waiter, format!("{} bytes are under way to it", self.bytes)));
        }
        let number = self.next;
        self.next += 1;
        let is_urgent = matches!(waiter, Waiter::Probe(_) | Waiter::Grant(_));
        if is_urgent { &mut self.urgent } else { &mut self.queue }.push_back(number);
        let until = now + timeout;
        self.deadlines.insert((until, number));
        self.bytes += bytes;
        let message = Some(message(number));
        self.asked.insert(number, Asked { waiter, message, bytes, until, timeout });
        Ok(())
    }

    /// What to write next, about this many bytes of it; from now on it counts as sent.
    pub(super) fn next_to_write(&mut self, bytes_max: usize) -> Vec<ServerMessage> {
        let mut messages = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(number) = self.urgent.pop_front().or_else(|| self.queue.pop_front())
        {
            // Those that were taken out since are not written at all.
            if let Some(asked) = self.asked.get_mut(&number)
                && let Some(message) = asked.message.take()
            {
                bytes += asked.bytes;
                messages.push(message);
            }
        }
        messages
    }

    /// Takes out the question that this answers.
    pub(super) fn answered(&mut self, number: u64) -> Option<Waiter> {
        let asked = self.remove(number)?;
        if asked.message.is_some() {
            // Nobody can have answered what was never sent: the peer has guessed the number.
            let until = asked.until;
            self.bytes += asked.bytes;
            self.deadlines.insert((until, number));
            self.asked.insert(number, asked);
            return None;
        }
        Some(asked.waiter)
    }

    /// Takes out those whose time is over.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Asked> {
        let mut due = Vec::new();
        while let Some(&(until, number)) = self.deadlines.first()
            && until <= now
        {
            due.extend(self.remove(number));
        }
        due
    }

    /// When the next one's time is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(until, _)| until)
    }

    /// Takes all out.
    pub(super) fn drain(&mut self) -> Vec<Asked> {
        self.urgent.clear();
        self.queue.clear();
        self.deadlines.clear();
        self.bytes = 0;
        self.asked.drain().map(|(_, asked)| asked).collect()
    }

    fn remove(&mut self, number: u64) -> Option<Asked> {
        let asked = self.asked.remove(&number)?;
        self.deadlines.remove(&(asked.until, number));
        self.bytes -= asked.bytes;
        Some(asked)
    }
}

/// Answers a call with the results that came for it.
pub(super) fn results_for(items: usize, results: Vec<ItemResult>) -> CallResult {
    if results.len() == items {
        return Ok(results);
    }
    Err(CallFailed::Lost(format!("it gave {} results for {items} items", results.len())))
}
