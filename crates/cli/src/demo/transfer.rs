//! One transfer through the proxy, watched from its start to its end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use eversock_chaos::{EventKind, Events, Proxy};

use super::content::combine;
use super::cuts::is_cut;
use super::ends::{Ends, News, Side};
use super::message::{Message, Outcome};
use super::screen::{Bars, Screen};
use crate::units::{show_millis, show_size};

/// How often the proxy's events are looked at.
const TICK: Duration = Duration::from_millis(10);

/// What came of a transfer.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Bytes that arrived, both directions together.
    pub(crate) bytes: u64,
    pub(crate) cuts: u64,
    /// Those of the cuts that came while data was flowing.
    pub(crate) cuts_flowing: u64,
    pub(crate) resumes: u64,
    pub(crate) replayed: u64,
    pub(crate) longest_stall_ms: u64,
    pub(crate) elapsed: Duration,
    /// The digests are known only of a transfer of which both ends gave a result.
    pub(crate) sha256_sent: Option<String>,
    pub(crate) sha256_received: Option<String>,
    /// All that was sent has arrived, unchanged, in both directions.
    pub(crate) intact: bool,
    pub(crate) error: Option<String>,
}

/// A cut as it is shown.
#[derive(Debug)]
struct Cut {
    /// The number of the connection among those of the transfer, from 1.
    conn: u64,
    text: String,
}

/// A transfer under way.
#[derive(Debug)]
pub(crate) struct Transfer<'a> {
    ends: Ends,
    size: u64,
    /// Cuts that are planned for it.
    planned: usize,
    events: &'a mut Events,
    screen: &'a Screen,
    bars: Bars,
    began: Instant,
    received: [u64; 2],
    outcomes: [Option<Outcome>; 2],
    /// The proxy's number of the first connection.
    first: u64,
    /// What the connections that are over have forwarded.
    forwarded: u64,
    /// What was cut and is not yet known to be survived.
    open: VecDeque<Cut>,
    report: Report,
}

impl<'a> Transfer<'a> {
    /// Watches a transfer of `size` bytes each way, of which both ends have been started. What
    /// `events` holds is about this transfer.
    pub(crate) fn new(
        ends: Ends,
        size: u64,
        planned: usize,
        events: &'a mut Events,
        screen: &'a Screen,
    ) -> Self {
        Self {
            ends,
            size,
            planned,
            events,
            screen,
            bars: screen.bars(size),
            began: Instant::now(),
            received: [0; 2],
            outcomes: [None, None],
            first: 0,
            forwarded: 0,
            open: VecDeque::new(),
            report: Report::default(),
        }
    }

    /// Waits until both ends are done, or until the deadline.
    pub(crate) fn watch(mut self, proxy: &Proxy, deadline: Instant) -> Report {
        while self.outcomes.iter().any(Option::is_none) {
            let now = Instant::now();
            if now >= deadline {
                self.report.error = Some(self.overdue(now, proxy));
                break;
            }
            if let Some(news) = self.ends.next(deadline.min(now + TICK)) {
                self.take(news);
            }
            self.look_at_proxy();
        }
        self.report.elapsed = self.began.elapsed();
        self.look_at_proxy();
        for cut in &self.open {
            self.screen.line(&cut.text);
        }
        self.finish()
    }

    fn take(&mut self, news: News) {
        let index = news.side as usize;
        match news.message {
            Some(Message::Progress { received }) => {
                self.received[index] = received;
                self.bars.set(news.side, received);
            }
            // Both ends resume; the one that dials is the one that stalled.
            Some(Message::Resumed { epoch, replayed, stalled_ms }) if news.side == Side::Sender => {
                self.look_at_proxy();
                self.survived(epoch, replayed, stalled_ms);
            }
            Some(Message::Resumed { .. } | Message::Listening { .. }) => {}
            Some(Message::Done(outcome)) => {
                self.received[index] = outcome.received;
                self.bars.set(news.side, outcome.received);
                self.outcomes[index] = Some(outcome);
            }
            None => {
                self.outcomes[index].get_or_insert_with(|| Outcome {
                    error: Some("its process ended without a result".to_owned()),
                    ..Outcome::default()
                });
            }
        }
    }

    fn look_at_proxy(&mut self) {
        while let Some(event) = self.events.try_next() {
            let conn = event.conn.unwrap_or(0);
            match event.kind {
                EventKind::Opened { .. } if self.first == 0 => self.first = conn,
                EventKind::Fault { fault } if is_cut(&fault) => {
                    self.report.cuts += 1;
                    self.report.cuts_flowing += u64::from(event.flowing);
                    let number = format!("{}/{}", self.report.cuts, self.planned);
                    let place = show_size(self.forwarded + event.up + event.down);
                    let kind = fault.kind();
                    let text = format!("  cut {number:>7} at {place:>10}  {kind:<9}");
                    self.open.push_back(Cut { conn: conn - self.first + 1, text });
                }
                // Events about no connection carry the sums of all.
                EventKind::Closed { .. } if event.conn.is_some() => {
                    self.forwarded += event.up + event.down;
                }
                _ => {}
            }
        }
    }

    /// The connection number `epoch` carries the session: says so of all cuts of earlier ones.
    fn survived(&mut self, epoch: u64, replayed: u64, stalled_ms: u64) {
        while self.open.front().is_some_and(|cut| cut.conn < epoch)
            && let Some(cut) = self.open.pop_front()
        {
            let text = cut.text;
            let line = match self.open.front() {
                Some(next) if next.conn < epoch => format!("{text}  cut again before it resumed"),
                _ => {
                    let (time, bytes) = (show_millis(stalled_ms), show_size(replayed));
                    format!("{text}  resumed in {time:>7}, {bytes:>9} sent again")
                }
            };
            self.screen.line(&line);
        }
    }

    fn overdue(&self, now: Instant, proxy: &Proxy) -> String {
        let missing: Vec<String> = [Side::Sender, Side::Receiver]
            .iter()
            .filter(|side| self.outcomes[**side as usize].is_none())
            .map(|side| {
                let received = show_size(self.received[*side as usize]);
                format!("the {} has received {received} of {}", side.name(), show_size(self.size))
            })
            .collect();
        let summary = proxy.stats().summary;
        format!(
            "not finished after {}: {}; the proxy has forwarded {} and has {} connections open; \
             both processes are ended (--timeout allows more time)",
            show_millis(u64::try_from((now - self.began).as_millis()).unwrap_or(u64::MAX)),
            missing.join(", "),
            show_size(summary.up + summary.down),
            summary.open
        )
    }

    fn finish(mut self) -> Report {
        let mut report = self.report;
        for side in [Side::Receiver, Side::Sender] {
            let error = self.outcomes[side as usize].as_mut().and_then(|end| end.error.take());
            let error = error.map(|error| format!("the {}: {error}", side.name()));
            report.error = report.error.or(error);
        }
        let finished = self.outcomes.iter().all(Option::is_some);
        let [sender, receiver] = self.outcomes.map(Option::unwrap_or_default);
        report.bytes = self.received.iter().sum();
        report.resumes = sender.resumes.max(receiver.resumes);
        report.replayed = sender.replayed + receiver.replayed;
        report.longest_stall_ms = sender.longest_stall_ms.max(receiver.longest_stall_ms);
        if finished {
            let (sent, received) = (&sender.sha256_sent, &receiver.sha256_received);
            report.sha256_sent = Some(combine(sent, &receiver.sha256_sent));
            report.sha256_received = Some(combine(received, &sender.sha256_received));
        }
        report.intact = finished
            && report.error.is_none()
            && [sender.sent, sender.received, receiver.sent, receiver.received] == [self.size; 4]
            && sender.sha256_sent == receiver.sha256_received
            && receiver.sha256_sent == sender.sha256_received;
        if finished {
            self.ends.finish();
        }
        report
    }
}
