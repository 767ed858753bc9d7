//! The standby's side: takes what its main pushes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Replicated;
use super::message::{How, Push, Told};
use crate::backend::Guarded;
use crate::backend::ledger::{Head, LogError};
use crate::backend::ledgered::Effects;
use crate::backend::lock::lease_end_us;
use crate::record::Record;
use crate::serve::{CallReplyMessage, Handler, IncomingCall};
use crate::target::{Class, Grant, ItemResult, Report};

/// Refusal: what came is no push.
const NO_PUSH: u32 = 1;
/// Entries of the log that are forgotten at once.
const PRUNE_MAX: usize = 2000;
/// Entries that a tail's warning names.
const NAMED: usize = 20;

/// For a listener of its own, to which only the other server of the pair may connect. Answers its
/// probes too; the lock is given by fronts only.
pub struct ReplicaHandler<F> {
    replicated: Arc<Replicated<F>>,
    guarded: Arc<Guarded>,
}

impl<F> fmt::Debug for ReplicaHandler<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaHandler").field("replicated", &self.replicated).finish()
    }
}

impl<F: Effects + 'static> ReplicaHandler<F> {
    pub(super) fn new(replicated: Arc<Replicated<F>>, guarded: Arc<Guarded>) -> Self {
        Self { replicated, guarded }
    }

    /// Whether the sender may be main; learns of its epoch.
    fn learn(&self, epoch: u64) -> Result<(), u64> {
        let lock = self.guarded.lock();
        if epoch > lock.seen() {
            match lock.hear(epoch) {
                Ok(highest) if highest == epoch => return Ok(()),
                Ok(highest) => return Err(highest),
                Err(error) => {
                    log::error!("the epoch {epoch} of the main cannot be stored: {error}");
                    return Err(lock.seen());
                }
            }
        }
        if epoch < lock.seen() || lock.holds().is_some() { Err(lock.seen()) } else { Ok(()) }
    }

    /// The head is that of the transaction, if there was one: an entry of this server's own that
    /// comes right behind it is nothing that the main has.
    fn follow(
        &self,
        epoch: u64,
        push: &Push,
        entries: &[Record],
    ) -> Result<(How, Option<Head>), u64> {
        if push.tail_from > 0 {
            self.has_tail(push.tail_from);
            return Ok((How::NotNext, None));
        }
        let head = match self.replicated.inner.follow(epoch, &push.before, entries) {
            Ok(head) => head,
            Err(LogError::NotNext { here }) => return Ok((How::NotNext, Some(here))),
            Err(LogError::Fenced(fenced)) => return Err(fenced.seen),
            Err(error @ (LogError::Later { .. } | LogError::Ledger(_))) => {
                log::warn!("what the main has done cannot be done here now: {error}");
                return Ok((How::Later, None));
            }
        };
        self.now_at(epoch, push, &head);
        if push.confirmed > 1
            && let Err(error) = self.replicated.notes().prune_log(push.confirmed - 1, PRUNE_MAX)
        {
            log::warn!("the log cannot be pruned: {error}");
        }
        Ok((How::Applied, Some(head)))
    }

    /// Answers whether the other server, which was main under `claimed` and was granted `epoch`
    /// now, was so last. If it was, this one takes no lower epoch from now on.
    fn yields(&self, epoch: u64, claimed: u64) -> Result<How, u64> {
        if self.guarded.lock().holds().is_some() || !self.was_before(claimed) {
            // Without a word about the epoch: what this server may still do is not touched.
            return Ok(How::Objects);
        }
        self.learn(epoch)?;
        // Again: a grant may have come before that.
        Ok(if self.was_before(claimed) { How::Yields } else { How::Objects })
    }

    /// Whether this server was main before that epoch only, or never.
    fn was_before(&self, claimed: u64) -> bool {
        let mut notes = self.replicated.notes();
        match (notes.main_epoch(), notes.head()) {
            (Ok(own), Ok(head)) => own < claimed || (own == 0 && head.seq == 0),
            _ => false,
        }
    }

    fn now_at(&self, epoch: u64, push: &Push, head: &Head) {
        let shared = &self.replicated.shared;
        let lock = self.guarded.lock();
        let mut state = shared.state();
        // A grant that came meanwhile has ended this: see `Replicated::lead`.
        if lock.seen() != epoch {
            return;
        }
        state.heard = true;
        state.overtaken = false;
        state.tail_from = None;
        let mine = lock.stamp();
        let stamp = push.stamp;
        if push.lease_us == 0 || head.seq < push.head {
            return;
        }
        // The stamp is of this run and of the past, or the lease counts from nowhere.
        if stamp.run == mine.run && stamp.at_us <= mine.at_us {
            let most = crate::backend::lock::LEASE_MAX;
            let lease = Duration::from_micros(push.lease_us).min(most);
            let until = lease_end_us(stamp.at_us, lease);
            state.in_sync_until_us = state.in_sync_until_us.max(until);
        }
    }

    fn has_tail(&self, from: u64) {
        let before = {
            let mut state = self.replicated.shared.state();
            state.heard = true;
            state.in_sync_until_us = 0;
            state.tail_from.replace(from)
        };
        if before == Some(from) {
            return;
        }
        let tail = self.replicated.tail(NAMED).unwrap_or_default();
        let ids: Vec<_> = tail.iter().map(|entry| entry.id.to_string()).collect();
        log::error!(
            "this server has entries that its main never had, from number {from} on (ids {}, ...): \
             they are not merged; give it a copy of the main's directory",
            ids.join(", ")
        );
    }
}

impl<F: Effects + 'static> Handler for ReplicaHandler<F> {
    fn class(&self) -> Class {
        Class::Ledger
    }

    fn execute(&self, call: IncomingCall) -> CallReplyMessage {
        let (first, entries) = match call.items.split_first() {
            Some((first, entries)) => (Push::of_record(first), entries),
            None => return CallReplyMessage::Results(Vec::new()),
        };
        let Some(push) = first else {
            let text = "this address takes pushes of the other server only".to_owned();
            let refused = ItemResult::Refused { code: NO_PUSH, text };
            return CallReplyMessage::Results(vec![refused; call.items.len()]);
        };
        // Before anything: a lease that counts from it must not begin after what it is about.
        let stamp = self.guarded.lock().stamp();
        let how = match push.claim {
            Some(claimed) => self.yields(call.epoch, claimed).map(|how| (how, None)),
            None => self.learn(call.epoch).and_then(|()| self.follow(call.epoch, &push, entries)),
        };
        let (how, head) = match how {
            Ok(how) => how,
            Err(seen) => return CallReplyMessage::Fenced { seen },
        };
        let head = match head.map_or_else(|| self.replicated.notes().head(), Ok) {
            Ok(head) => head,
            Err(error) => {
                log::error!("the head of the log cannot be read: {error}");
                return CallReplyMessage::Results(Vec::new());
            }
        };
        let told = Told { how, head, stamp };
        let mut results = vec![ItemResult::Done { answer: told.to_answer(), again: false }];
        let applied = ItemResult::Done { answer: Vec::new(), again: false };
        results.extend(entries.iter().map(|_| applied.clone()));
        CallReplyMessage::Results(results)
    }

    fn report(&self) -> Report {
        self.guarded.report()
    }

    fn grant(&self, _grant: Grant) -> bool {
        false
    }

    fn release(&self, _epoch: u64, _timeout: Duration) -> bool {
        false
    }
}
