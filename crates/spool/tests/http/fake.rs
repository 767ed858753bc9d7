//! A pair that says what a test wants.

use std::fmt;
use std::sync::{Arc, Mutex};

use eversock_spool::submit::Submit;
use eversock_spool::target::Reply;
use eversock_spool::{Outcome, Request, RequestId};

/// What a pair does with a request.
pub(crate) enum Reaction {
    Say(Outcome),
    /// Keeps the callback until [`Fake::let_go`].
    Wait,
    /// Breaks its promise.
    Forget,
}

type React = dyn Fn(&str, &Request) -> Reaction + Send + Sync;
type Look = dyn Fn(&str, RequestId) -> Option<Outcome> + Send + Sync;

pub(crate) struct Fake {
    react: Box<React>,
    look: Box<Look>,
    pub(crate) asked: Mutex<Vec<(String, Request)>>,
    waiting: Mutex<Vec<Reply<Outcome>>>,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    pub(crate) fn new(
        react: impl Fn(&str, &Request) -> Reaction + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::with_results(react, |_, _| None)
    }

    pub(crate) fn with_results(
        react: impl Fn(&str, &Request) -> Reaction + Send + Sync + 'static,
        look: impl Fn(&str, RequestId) -> Option<Outcome> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (asked, waiting) = Default::default();
        Arc::new(Self { react: Box::new(react), look: Box::new(look), asked, waiting })
    }

    /// Says the same to everybody.
    pub(crate) fn saying(outcome: Outcome) -> Arc<Self> {
        Self::new(move |_, _| Reaction::Say(outcome.clone()))
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(crate) fn only(&self) -> (String, Request) {
        let asked = self.asked.lock().unwrap();
        assert_eq!(asked.len(), 1);
        asked[0].clone()
    }

    /// Answers all who wait.
    pub(crate) fn let_go(&self, outcome: &Outcome) {
        for reply in std::mem::take(&mut *self.waiting.lock().unwrap()) {
            reply(outcome.clone());
        }
    }
}

impl Submit for Fake {
    fn submit(&self, pair: &str, request: Request, reply: Reply<Outcome>) {
        let reaction = (self.react)(pair, &request);
        // Whoever waits for the request finds its callback there.
        let reply = match reaction {
            Reaction::Wait => {
                self.waiting.lock().unwrap().push(reply);
                None
            }
            Reaction::Say(outcome) => Some((reply, outcome)),
            Reaction::Forget => None,
        };
        self.asked.lock().unwrap().push((pair.to_owned(), request));
        if let Some((reply, outcome)) = reply {
            reply(outcome);
        }
    }

    fn fetch(&self, pair: &str, id: RequestId, reply: Reply<Option<Outcome>>) {
        reply((self.look)(pair, id));
    }
}
