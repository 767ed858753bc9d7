//! The front at work: pairs with their threads, stores and servers.
//!
//! Each pair has a thread that decides, one that writes its spool and two that read it. Pairs share
//! nothing: one that is full, slow or damaged costs the others nothing.

mod actor;
mod look;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use actor::{Actor, Input, closing, reply_safely};
use look::{Look, Looker};

use crate::pair::{Command, PairConfig, Status};
use crate::request::{Outcome, Reason, Request, RequestId};
use crate::store::committer::{CommitStats, Committer, CommitterConfig};
use crate::store::{SpoolReader, SpoolStore, StoreError};
use crate::submit::Submit;
use crate::target::{Reply, Target};

/// A pair that a front is to serve.
pub struct PairSetup {
    /// Letters, digits, `-` and `_`; at most [`PAIR_NAME_MAX`](crate::limits::PAIR_NAME_MAX).
    pub name: String,
    /// How it behaves.
    pub config: PairConfig,
    /// Its spool.
    pub store: Box<dyn SpoolStore>,
    /// How writers share the spool's transactions.
    pub committer: CommitterConfig,
    /// Its two servers.
    pub servers: [Arc<dyn Target>; 2],
}

impl fmt::Debug for PairSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairSetup").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a front does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A spool cannot be used.
    #[error("pair {pair}: {cause}")]
    Store {
        /// Whose.
        pair: String,
        /// What is wrong with it.
        cause: StoreError,
    },
    /// Names of pairs are not what they should be.
    #[error("{name:?} is no name for a pair, or stands twice: use letters, digits, - and _")]
    Name {
        /// The name.
        name: String,
    },
    /// The system has no threads to give.
    #[error("no thread for pair {pair}: {cause}")]
    Thread {
        /// Whose.
        pair: String,
        /// What the system said.
        cause: io::Error,
    },
}

/// A pair as it is, with what its store has done.
#[derive(Debug, Clone)]
pub struct PairStatus {
    /// What it decides by.
    pub pair: Status,
    /// What its writer has done.
    pub commits: CommitStats,
    /// How long it has been served by this front.
    pub up: Duration,
}

#[derive(Debug)]
struct Served {
    inputs: Sender<Input>,
    /// What the pair's thread has not taken when it ends.
    left: Receiver<Input>,
    /// Requests handed in and not yet answered.
    in_flight: Arc<AtomicUsize>,
    in_flight_max: usize,
    /// For those who read for other reasons: the pair does not wait for them.
    others: Looker,
    committer: Arc<Committer>,
    thread: Option<JoinHandle<()>>,
    since: Instant,
}

/// Serves pairs until it is closed or dropped.
///
/// `Send` and `Sync`. Nothing but [`Front::command`], [`Front::status`] and [`Front::close`]
/// blocks.
#[derive(Debug)]
pub struct Front {
    pairs: BTreeMap<String, Served>,
}

impl Front {
    /// Starts to serve pairs.
    ///
    /// # Errors
    ///
    /// See [`StartError`]; nothing is served then.
    pub fn start(setups: Vec<PairSetup>) -> Result<Self, StartError> {
        let mut front = Self { pairs: BTreeMap::new() };
        for setup in setups {
            let name = setup.name.clone();
            if !is_name(&name) || front.pairs.contains_key(&name) {
                return Err(StartError::Name { name });
            }
            let served = Served::start(setup)?;
            front.pairs.insert(name, served);
        }
        Ok(front)
    }

    /// The names of its pairs, sorted.
    pub fn pairs(&self) -> impl Iterator<Item = &str> {
        self.pairs.keys().map(String::as_str)
    }

    /// Tells a pair to do something; blocks until it has been taken in and is on disk where it must
    /// be, at most some seconds.
    ///
    /// # Errors
    ///
    /// Why it is not done, with the remedy.
    pub fn command(&self, pair: &str, command: Command) -> Result<String, String> {
        let served = self.pairs.get(pair).ok_or_else(|| format!("no pair is called {pair:?}"))?;
        let (reply, answer) = bounded(1);
        let _ = served.inputs.send(Input::Command { command, reply });
        let silent = |_| "the pair does not answer: its disk may be stuck".to_owned();
        answer.recv_timeout(Duration::from_secs(30)).map_err(silent)?
    }

    /// How a pair is. Blocks for a moment; `None` for an unknown pair, or one that does not answer
    /// within 5 s.
    #[must_use]
    pub fn status(&self, pair: &str) -> Option<PairStatus> {
        let served = self.pairs.get(pair)?;
        let (reply, answer) = bounded(1);
        served.inputs.send(Input::Status { reply }).ok()?;
        let pair = answer.recv_timeout(Duration::from_secs(5)).ok()?;
        Some(PairStatus { pair, commits: served.committer.stats(), up: served.since.elapsed() })
    }

    /// Lets `look` read a pair's spool, on a thread of that pair; blocks until it has, at most
    /// `timeout`. `None` for an unknown pair or when that was too long.
    pub fn read<T: Send + 'static>(
        &self,
        pair: &str,
        timeout: Duration,
        look: impl FnOnce(&mut dyn SpoolReader) -> T + Send + 'static,
    ) -> Option<T> {
        let served = self.pairs.get(pair)?;
        let (reply, answer) = bounded(1);
        served.others.ask(Look::Other(Box::new(move |reader| {
            let _ = reply.send(look(reader));
        })));
        answer.recv_timeout(timeout).ok()
    }

    /// Ends: whoever waits is told so, what was accepted is written.
    pub fn close(&mut self) {
        for served in self.pairs.values() {
            let _ = served.inputs.send(Input::Close);
        }
        for served in self.pairs.values_mut() {
            if let Some(thread) = served.thread.take() {
                let _ = thread.join();
            }
            for input in served.left.try_iter() {
                if let Input::Submit { reply, .. } = input {
                    reply_safely(reply, closing());
                }
            }
        }
        self.pairs.clear();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.close();
    }
}

impl Submit for Front {
    fn submit(&self, pair: &str, request: Request, reply: Reply<Outcome>) {
        let Some(served) = self.pairs.get(pair) else {
            let reason = Reason::Malformed(format!("no pair is called {pair:.64}"));
            return reply(Outcome::Rejected { reason, retry_after: Duration::ZERO });
        };
        // The pair itself refuses what is too much; this bounds what waits for the pair to do so.
        if served.in_flight.fetch_add(1, Ordering::AcqRel) >= 2 * served.in_flight_max {
            served.in_flight.fetch_sub(1, Ordering::AcqRel);
            let retry_after = Duration::from_secs(1);
            return reply(Outcome::Rejected { reason: Reason::HoldFull, retry_after });
        }
        if let Err(refused) = served.inputs.send(Input::Submit { request, reply })
            && let Input::Submit { reply, .. } = refused.into_inner()
        {
            served.in_flight.fetch_sub(1, Ordering::AcqRel);
            reply(closing());
        }
    }

    fn fetch(&self, pair: &str, id: RequestId, reply: Reply<Option<Outcome>>) {
        match self.pairs.get(pair) {
            Some(served) => served.others.ask(Look::Outcome { id, reply }),
            None => reply(None),
        }
    }
}

impl Served {
    fn start(setup: PairSetup) -> Result<Self, StartError> {
        let PairSetup { name, config, mut store, committer, servers } = setup;
        let in_store = |cause| StartError::Store { pair: name.clone(), cause };
        let in_system = |cause| StartError::Thread { pair: name.clone(), cause };
        let state = store.state().map_err(in_store)?;
        let totals = store.totals().map_err(in_store)?;
        let (inputs, waiting) = unbounded();
        let look = |store: &dyn SpoolStore| {
            let reader = store.reader().map_err(in_store)?;
            Looker::start(&name, reader, inputs.clone()).map_err(in_system)
        };
        let (looks, fetches, others) = (look(&*store)?, look(&*store)?, look(&*store)?);
        // Every request under way may be waiting for the disk.
        let queue_max = committer.queue_max.max(config.in_flight_max + 1024);
        let committer = CommitterConfig { queue_max, ..committer };
        let committer = Committer::start(store, committer).map_err(in_system)?;
        let committer = Arc::new(committer);
        let in_flight = Arc::new(AtomicUsize::new(0));
        let in_flight_max = config.in_flight_max;
        let actor = Actor {
            name: name.clone(),
            inputs: inputs.clone(),
            waiting: waiting.clone(),
            committer: Arc::clone(&committer),
            looks,
            fetches,
            servers,
            in_flight: Arc::clone(&in_flight),
        };
        let thread = actor.start(config, &state, totals).map_err(in_system)?;
        Ok(Self {
            inputs,
            left: waiting,
            in_flight,
            in_flight_max,
            others,
            committer,
            thread: Some(thread),
            since: Instant::now(),
        })
    }
}

fn is_name(name: &str) -> bool {
    let is_short = (1..=crate::limits::PAIR_NAME_MAX).contains(&name.len());
    is_short && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
