//! The main's side: one thread that sends the log to the standby.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::message::{How, Push, Told};
use super::{Alone, Mode, Replicated, Shared, micros};
use crate::backend::ledger::{Head, LedgerError};
use crate::backend::ledgered::Effects;
use crate::backend::lock::Lock;
use crate::limits::{BATCH_BYTES_MAX, BATCH_MAX};
use crate::record::Record;
use crate::target::{Call, CallFailed, ItemResult, Stamp, Target};

/// Entries of one message.
const ENTRIES_MAX: usize = BATCH_MAX - 1;
/// Entries behind what the standby has that are kept all the same: to say where a tail begins.
const KEPT: u64 = 1000;
/// Entries that are forgotten at once.
const PRUNE_MAX: usize = 2000;

/// Pushes whenever this server is main, until it is dropped.
#[derive(Debug)]
pub struct Pusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Pusher {
    pub(super) fn start<F: Effects + 'static>(
        replicated: Arc<Replicated<F>>,
        standby: Arc<dyn Target>,
        lock: Arc<Lock>,
    ) -> io::Result<Self> {
        let shared = Arc::clone(&replicated.shared);
        let mut pushing =
            Pushing { replicated, standby, lock, peer: None, stamp: Stamp::default() };
        let thread = std::thread::Builder::new()
            .name("spool-push".to_owned())
            .spawn(move || pushing.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Pusher {
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

struct Pushing<F> {
    replicated: Arc<Replicated<F>>,
    standby: Arc<dyn Target>,
    lock: Arc<Lock>,
    /// Where the standby's log ends, if it has answered.
    peer: Option<Head>,
    /// From its last answer.
    stamp: Stamp,
}

/// Where the standby stands, seen from this log.
enum Place {
    /// The same up to its end.
    Follows,
    /// Has entries from here on that this log does not have.
    Tail(u64),
    /// Behind what is still kept.
    TooFar,
}

/// What comes after a step.
enum Next {
    /// There is more to send.
    AtOnce,
    /// Until there is news, or it is time again.
    Wait,
    /// Until it is time again.
    Rest,
}

impl<F: Effects + 'static> Pushing<F> {
    fn shared(&self) -> &Shared {
        &self.replicated.shared
    }

    fn run(&mut self) {
        while !self.shared().state().closing {
            // A thread that is gone would let every call wait in vain.
            let stepped = catch_unwind(AssertUnwindSafe(|| match self.lock.holds() {
                Some(epoch) => self.lead(epoch),
                None => self.rest(),
            }));
            let next = stepped.unwrap_or_else(|_| {
                log::error!("pushing to the standby has panicked: it begins anew");
                self.peer = None;
                Next::Rest
            });
            match next {
                Next::AtOnce => {}
                Next::Wait => self.wait(true),
                Next::Rest => self.wait(false),
            }
        }
    }

    fn wait(&self, for_news: bool) {
        let shared = self.shared();
        let until = Instant::now() + shared.config.every;
        let mut state = shared.state();
        while !(state.closing || (state.news && for_news)) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.news = false;
    }

    /// Not the main: nothing to push.
    fn rest(&mut self) -> Next {
        self.peer = None;
        let claiming = {
            let mut state = self.shared().state();
            if state.leading.take().is_some() {
                state.linked = false;
                state.mode = Mode::Together;
                self.shared().changed.notify_all();
            }
            state.claiming.take()
        };
        let asked = match (claiming, self.replicated.in_limbo()) {
            (Some(epoch), _) => self.claim(epoch),
            // Two servers may each know of an epoch under which nobody was main, and wait for the
            // other: so each asks.
            (None, Some(seen)) => self.ask_for_yield(seen).map(|()| {
                self.shared().state().yielded = Some(seen);
            }),
            (None, None) => return Next::Wait,
        };
        if let Err(trouble) = asked {
            log::info!("the other server does not say whether it was main since: {trouble}");
        }
        // A grant that is refused meanwhile need not wait for the next time.
        Next::Wait
    }

    /// Makes sure, for a grant of this epoch to this server, that the other one was not main since
    /// this one was, and will not be under a lower epoch.
    fn claim(&mut self, epoch: u64) -> Result<(), String> {
        self.ask_for_yield(epoch)?;
        // This epoch is nobody else's. That the other log may be longer says nothing: then it has
        // a tail.
        self.replicated.notes().set_main_epoch(epoch).map_err(|error| error.to_string())
    }

    /// Asks the other server whether it was main since this one was. If not, it takes no lower
    /// epoch than this any more.
    fn ask_for_yield(&mut self, epoch: u64) -> Result<(), String> {
        let main_epoch = self.replicated.notes().main_epoch().map_err(|error| error.to_string())?;
        let push = Push { claim: Some(main_epoch), ..Push::default() };
        let told = self.ask(epoch, push, Vec::new())?;
        if told.how == How::Yields {
            return Ok(());
        }
        self.shared().state().overtaken = true;
        Err(format!("it may have been, and its log ends at {}", told.head.seq))
    }

    fn lead(&mut self, epoch: u64) -> Next {
        let replicated = Arc::clone(&self.replicated);
        if replicated.lead(&mut replicated.shared.state(), epoch) {
            self.peer = None;
        }
        match self.step(epoch) {
            Ok(next) => next,
            Err(trouble) => {
                self.peer = None;
                self.apart(epoch, &trouble);
                Next::Rest
            }
        }
    }

    /// The standby does not follow: go on alone if it cannot think any more that it does.
    fn apart(&self, epoch: u64, trouble: &str) {
        let shared = self.shared();
        let mut state = shared.state();
        if state.linked || state.trouble.as_deref() != Some(trouble) {
            log::warn!("the standby does not follow: {trouble}");
        }
        state.linked = false;
        state.trouble = Some(trouble.to_owned());
        let over = shared.clock.now_us() >= state.promised_until_us;
        // Asked after that: a lease that still holds then says that the standby has not become
        // main while it could.
        let alone = over
            && state.mode == Mode::Together
            && shared.config.alone == Alone::Allowed
            && self.lock.check(epoch).is_ok();
        if alone {
            log::warn!("this server goes on alone until the standby has caught up");
            state.mode = Mode::Alone;
        }
        shared.changed.notify_all();
    }

    fn step(&mut self, epoch: u64) -> Result<Next, String> {
        let Some(peer) = self.peer else { return self.greet(epoch) };
        let database = |error: LedgerError| error.to_string();
        match self.place(&peer).map_err(database)? {
            Place::Follows => {}
            Place::Tail(from) => {
                let push = Push { tail_from: from, ..Push::default() };
                self.ask(epoch, push, Vec::new())?;
                return Err(format!(
                    "it has entries of its own from number {from} on: give it a \
                                    copy of this server's directory"
                ));
            }
            Place::TooFar => {
                return Err(
                    "it is behind what the log still has: give it a copy of this server's \
                            directory"
                        .to_owned(),
                );
            }
        }
        // In this order: what is committed after the mode has changed waits for the standby, and
        // what was before is below the head.
        let near =
            self.replicated.notes().head().map_err(database)?.seq - peer.seq <= ENTRIES_MAX as u64;
        let together = self.together(near);
        let head = self.replicated.notes().head().map_err(database)?.seq;
        let entries = self
            .replicated
            .notes()
            .entries(peer.seq, ENTRIES_MAX, BATCH_BYTES_MAX as u64)
            .map_err(database)?;
        let in_sync = self.shared().config.in_sync;
        let lease_us = if near && together { micros(in_sync) } else { 0 };
        let confirmed = peer.seq;
        // More than was sent it cannot have of this server.
        let sent = peer.seq + entries.len() as u64;
        let push =
            Push { before: peer, head, lease_us, stamp: self.stamp, confirmed, ..Push::default() };
        if lease_us > 0 {
            // Before it is sent: nobody knows when it arrives.
            let until = self.shared().clock.now_us().saturating_add(lease_us);
            let mut state = self.shared().state();
            state.promised_until_us = state.promised_until_us.max(until);
        }
        let told = self.ask(epoch, push, entries)?;
        self.peer = Some(told.head);
        match told.how {
            How::Applied => Ok(self.applied(epoch, told.head.seq.min(sent), head, lease_us > 0)),
            // It says where it stands; that is looked at in the next step.
            How::NotNext => {
                self.apart(epoch, "it stands elsewhere than it said");
                Ok(Next::Rest)
            }
            How::Later => Err("it cannot apply entries now: see its log".to_owned()),
            How::Yields | How::Objects => Err("it answers what was not asked".to_owned()),
        }
    }

    /// Whether calls wait for the standby. One that is near again is waited for from now on.
    fn together(&self, near: bool) -> bool {
        let mut state = self.shared().state();
        if near && state.mode == Mode::Alone {
            log::info!("the standby has caught up: calls wait for it again");
            state.mode = Mode::Together;
            state.linked = true;
        }
        state.mode == Mode::Together
    }

    /// The standby has all up to `there`.
    fn applied(&self, epoch: u64, there: u64, head: u64, promised: bool) -> Next {
        let mut state = self.shared().state();
        if state.leading == Some(epoch) {
            state.confirmed = state.confirmed.max(there);
            state.trouble = None;
            if promised && there >= head {
                state.linked = true;
            }
        }
        // Only what the standby has, and only while it is near: one that has just come back needs
        // the rest.
        let below = if state.linked { there.saturating_sub(KEPT) } else { 0 };
        self.shared().changed.notify_all();
        let more = there < head || state.news;
        state.news = false;
        drop(state);
        if let Err(error) = self.replicated.notes().prune_log(below, PRUNE_MAX) {
            log::warn!("the log cannot be pruned: {error}");
        }
        if more || !promised { Next::AtOnce } else { Next::Wait }
    }

    /// Asks where the standby stands.
    fn greet(&mut self, epoch: u64) -> Result<Next, String> {
        let told = self.ask(epoch, Push::default(), Vec::new())?;
        self.peer = Some(told.head);
        Ok(Next::AtOnce)
    }

    fn place(&self, there: &Head) -> Result<Place, LedgerError> {
        let mut notes = self.replicated.notes();
        let head = notes.head()?;
        match notes.head_at(there.seq)? {
            Some(here) if here.chain == there.chain => {
                let next = notes.entries(there.seq, 1, 1)?;
                let whole = there.seq == head.seq
                    || next.first().is_some_and(|next| next.lsn == there.seq + 1);
                Ok(if whole { Place::Follows } else { Place::TooFar })
            }
            None if there.seq <= head.seq => Ok(Place::TooFar),
            _ => {
                // What it has was done under its last epoch; ours is the same up to the first
                // entry of a newer one.
                let newer = notes.first_above(there.epoch)?;
                Ok(Place::Tail(newer.unwrap_or(head.seq + 1).min(there.seq)))
            }
        }
    }

    fn ask(&mut self, epoch: u64, push: Push, entries: Vec<Record>) -> Result<Told, String> {
        let timeout = self.shared().config.confirm_timeout;
        let mut items = vec![push.to_record()];
        items.extend(entries);
        let (tell, told) = bounded(1);
        let call = Call { epoch, items: items.into(), job: None, timeout };
        self.standby.call(
            call,
            Box::new(move |result| {
                let _late = tell.try_send(result);
            }),
        );
        // The target keeps to the timeout; this bounds one that does not.
        let result = told
            .recv_timeout(timeout + Duration::from_secs(1))
            .unwrap_or(Err(CallFailed::TimedOut));
        match result {
            Ok(results) => match results.first() {
                Some(ItemResult::Done { answer, .. }) => {
                    let told = Told::of_answer(answer)
                        .ok_or("it is of another version: give both the same one")?;
                    self.stamp = told.stamp;
                    Ok(told)
                }
                Some(ItemResult::Later { .. }) => Err("it is busy".to_owned()),
                other => Err(format!("it does not understand: {other:?}")),
            },
            Err(failed) => {
                if let CallFailed::Fenced { seen, .. } = failed
                    && seen > epoch
                    && let Err(error) = self.lock.hear(seen)
                {
                    log::error!("the epoch {seen} cannot be stored: {error}");
                }
                Err(failed.to_string())
            }
        }
    }
}
