//! The thread that decides for a pair: carries events in and actions out.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::look::{Look, Looker};
use crate::failpoint;
use crate::pair::{Action, Command, Event, Pair, PairConfig, Status, StoreFault, Token};
use crate::request::{Outcome, Reason, Request};
use crate::store::committer::Committer;
use crate::store::{PairState, Totals};
use crate::target::{Reply, Target};

/// What comes to the thread.
pub(super) enum Input {
    Submit { request: Request, reply: Reply<Outcome> },
    Command { command: Command, reply: Sender<Result<String, String>> },
    Status { reply: Sender<Status> },
    Event(Event),
    Close,
}

/// What the thread works with.
pub(super) struct Actor {
    pub(super) name: String,
    pub(super) inputs: Sender<Input>,
    pub(super) waiting: Receiver<Input>,
    pub(super) committer: Arc<Committer>,
    pub(super) looks: Looker,
    pub(super) fetches: Looker,
    pub(super) servers: [Arc<dyn Target>; 2],
    pub(super) in_flight: Arc<AtomicUsize>,
}

/// Who waits for an answer.
#[derive(Default)]
struct Waiting {
    next: Token,
    requests: HashMap<Token, Reply<Outcome>>,
    commands: HashMap<Token, Sender<Result<String, String>>>,
}

impl Actor {
    pub(super) fn start(
        self,
        config: PairConfig,
        state: &PairState,
        totals: Totals,
    ) -> io::Result<JoinHandle<()>> {
        let began = Instant::now();
        let pair = Pair::new(config, state, totals, 0);
        thread::Builder::new()
            .name(format!("spool-{:.10}", self.name))
            .spawn(move || self.run(pair, began))
    }

    fn run(self, pair: Pair, began: Instant) {
        let mut waiting = Waiting::default();
        // A defect in one pair is to stay in that pair, and nobody is to wait for it in vain.
        let work = || self.work(pair, began, &mut waiting);
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            log::error!("pair {}: its thread has failed; restart the front", self.name);
            for (_, reply) in waiting.requests.drain() {
                self.in_flight.fetch_sub(1, Ordering::AcqRel);
                reply_safely(reply, Outcome::InDoubt);
            }
            waiting.commands.clear();
            while let Ok(input) = self.waiting.recv() {
                if matches!(input, Input::Close) {
                    break;
                }
                self.refuse(input);
            }
        }
        for server in &self.servers {
            server.close();
        }
    }

    /// Answers what comes to a pair that is no more.
    fn refuse(&self, input: Input) {
        if let Input::Submit { reply, .. } = input {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            reply_safely(reply, closing());
        }
    }

    fn work(&self, mut pair: Pair, began: Instant, waiting: &mut Waiting) {
        self.act(pair.handle(0, Event::Tick), waiting);
        loop {
            let wake = began + Duration::from_micros(pair.wake_at().min(u64::MAX / 4));
            let input = match self.waiting.recv_deadline(wake) {
                Ok(input) => input,
                Err(RecvTimeoutError::Timeout) => Input::Event(Event::Tick),
                Err(RecvTimeoutError::Disconnected) => Input::Close,
            };
            let now = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            let event = match input {
                Input::Submit { request, reply } => {
                    waiting.next += 1;
                    waiting.requests.insert(waiting.next, reply);
                    Event::Submit { token: waiting.next, request, wall_ms: wall_ms() }
                }
                Input::Command { command, reply } => {
                    waiting.next += 1;
                    waiting.commands.insert(waiting.next, reply);
                    Event::Command { token: waiting.next, command }
                }
                Input::Status { reply } => {
                    let _ = reply.send(pair.status());
                    continue;
                }
                Input::Event(event) => event,
                Input::Close => break,
            };
            pass(&event);
            self.act(pair.handle(now, event), waiting);
        }
        self.act(pair.close(), waiting);
    }

    fn act(&self, actions: Vec<Action>, waiting: &mut Waiting) {
        for action in actions {
            self.act_one(action, waiting);
        }
    }

    fn act_one(&self, action: Action, waiting: &mut Waiting) {
        let inputs = self.inputs.clone();
        let tell = move |event| {
            let _ = inputs.send(Input::Event(event));
        };
        match action {
            Action::Reply { token, outcome } => {
                failpoint::reach("front.before_reply");
                self.in_flight.fetch_sub(1, Ordering::AcqRel);
                if let Some(reply) = waiting.requests.remove(&token) {
                    reply_safely(reply, outcome);
                }
                failpoint::reach("front.after_reply");
            }
            Action::Answer { token, result } => {
                if let Some(reply) = waiting.commands.remove(&token) {
                    let _ = reply.send(result);
                }
            }
            Action::Append { token, record } => {
                failpoint::reach("front.before_append");
                self.committer.append(
                    record,
                    Box::new(move |result| {
                        let result = result.map_err(|error| StoreFault::from(&*error));
                        tell(Event::Appended { token, result });
                    }),
                );
            }
            Action::Write { tag, batch } => {
                failpoint::reach("front.before_write");
                self.committer.write(
                    batch,
                    Box::new(move |result| {
                        let result = result.map(drop).map_err(|error| StoreFault::from(&*error));
                        tell(Event::Written { tag, result });
                    }),
                );
            }
            Action::Quarantine { tag, lsn, what } => self.committer.quarantine(
                lsn,
                what,
                Box::new(move |result| {
                    let result = result.map_err(|error| StoreFault::from(&*error));
                    tell(Event::Written { tag, result });
                }),
            ),
            Action::Newest { token, lane } => self.looks.ask(Look::Newest { token, lane }),
            Action::Find { token, id } => self.looks.ask(Look::Find { token, id }),
            Action::Fetch { after, limit, weight_max } => {
                self.fetches.ask(Look::Fetch { after, limit, weight_max });
            }
            Action::Count => self.fetches.ask(Look::Count),
            Action::Call { tag, side, call } => {
                failpoint::reach("front.before_call");
                let reply = move |result| tell(Event::Called { tag, result });
                self.servers[side].call(call, Box::new(reply));
            }
            Action::Probe { side, timeout } => {
                let reply = move |report| tell(Event::Reported { side, report });
                self.servers[side].probe(Duration::from_micros(timeout), Box::new(reply));
            }
            Action::Grant { side, grant } => {
                let epoch = grant.epoch;
                let reply = move |ok| tell(Event::Granted { side, epoch, ok });
                self.servers[side].grant(grant, Box::new(reply));
            }
            Action::Release { side, epoch, timeout } => {
                let reply = move |ok| tell(Event::Released { side, epoch, ok });
                let timeout = Duration::from_micros(timeout);
                self.servers[side].release(epoch, timeout, Box::new(reply));
            }
            Action::Fence { side, epoch } => {
                let reply = move |ok| tell(Event::Fenced { side, epoch, ok });
                self.servers[side].fence(Box::new(reply));
            }
            Action::Log { alarm: true, text } => log::warn!("pair {}: {text}", self.name),
            Action::Log { alarm: false, text } => log::info!("pair {}: {text}", self.name),
        }
    }
}

/// What a front that ends says.
pub(super) fn closing() -> Outcome {
    let retry_after = Duration::from_secs(1);
    Outcome::Rejected { reason: Reason::Closing, retry_after }
}

/// A callback that panics is its owner's loss alone.
pub(super) fn reply_safely<T>(reply: Reply<T>, told: T) {
    if catch_unwind(AssertUnwindSafe(|| reply(told))).is_err() {
        log::error!("a callback of a request has panicked");
    }
}

/// Where tests let the process die on the way in.
fn pass(event: &Event) {
    match event {
        Event::Appended { .. } => failpoint::reach("front.after_append"),
        Event::Called { .. } => failpoint::reach("front.after_call"),
        Event::Written { .. } => failpoint::reach("front.after_write"),
        _ => {}
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
