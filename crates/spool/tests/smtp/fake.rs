//! A pair that says what a test wants, and remembers ids as a real one does.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eversock_spool::smtp::{Mail, SmtpConfig, SmtpFront};
use eversock_spool::submit::Submit;
use eversock_spool::target::Reply;
use eversock_spool::{Kind, Outcome, Reason, Request, RequestId};

type React = dyn Fn(&Mail) -> Option<Outcome> + Send + Sync;

pub(crate) struct Fake {
    react: Box<React>,
    /// All requests in their order.
    pub(crate) asked: Mutex<Vec<(Request, Mail)>>,
    /// Those that were taken, once for each id, as deliveries of a pair are.
    pub(crate) taken: Mutex<HashMap<RequestId, Mail>>,
    waiting: Mutex<Vec<Reply<Outcome>>>,
    /// How many waited at a time.
    pub(crate) most: AtomicUsize,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    /// `None`: no answer until [`Fake::let_go`].
    pub(crate) fn new(
        react: impl Fn(&Mail) -> Option<Outcome> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (asked, taken, waiting, most) = Default::default();
        Arc::new(Self { react: Box::new(react), asked, taken, waiting, most })
    }

    pub(crate) fn spooling() -> Arc<Self> {
        Self::new(|_| Some(Outcome::Spooled { lsn: 1 }))
    }

    pub(crate) fn mails(&self) -> Vec<Mail> {
        self.asked.lock().unwrap().iter().map(|(_, mail)| mail.clone()).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(crate) fn let_go(&self, outcome: &Outcome) {
        for reply in std::mem::take(&mut *self.waiting.lock().unwrap()) {
            reply(outcome.clone());
        }
    }
}

impl Submit for Fake {
    fn submit(&self, pair: &str, request: Request, reply: Reply<Outcome>) {
        assert_eq!((pair, request.kind), ("mail", Kind::Write));
        let mail = Mail::decode(&request.payload).unwrap();
        assert_eq!(request.key, mail.recipient.to_lowercase().as_bytes());
        let outcome = (self.react)(&mail);
        if let Some(Outcome::Applied { .. } | Outcome::Spooled { .. }) = outcome {
            let before = self.taken.lock().unwrap().insert(request.id, mail.clone());
            assert!(before.is_none_or(|before| before == mail), "one id for two requests");
        }
        if outcome.is_none() {
            let mut waiting = self.waiting.lock().unwrap();
            waiting.push(reply);
            self.most.fetch_max(waiting.len(), Ordering::AcqRel);
            drop(waiting);
            self.asked.lock().unwrap().push((request, mail));
            return;
        }
        self.asked.lock().unwrap().push((request, mail));
        outcome.into_iter().zip([reply]).for_each(|(outcome, reply)| reply(outcome));
    }

    fn fetch(&self, _: &str, _: RequestId, reply: Reply<Option<Outcome>>) {
        reply(None);
    }
}

pub(crate) const ANY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub(crate) fn config() -> SmtpConfig {
    SmtpConfig::new(ANY, "mx.example", "mail")
}

pub(crate) fn start(fake: &Arc<Fake>) -> SmtpFront {
    start_with(fake, |_| {})
}

pub(crate) fn start_with(fake: &Arc<Fake>, change: impl FnOnce(&mut SmtpConfig)) -> SmtpFront {
    let mut config = config();
    change(&mut config);
    SmtpFront::start(config, fake.clone()).unwrap()
}

pub(crate) fn rejected(reason: Reason) -> Outcome {
    Outcome::Rejected { reason, retry_after: Duration::ZERO }
}
