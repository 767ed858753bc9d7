//! The two processes of a transfer, as the process that started them sees them.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::message::{Link, Message};
use crate::failure::Failure;

/// How long an end may take to leave when all is done.
const LEAVE: Duration = Duration::from_secs(5);
const LEAVE_POLL: Duration = Duration::from_millis(2);

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Connects; what it sends goes up.
    Sender,
    /// Listens; what it sends goes down.
    Receiver,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
        }
    }
}

/// Something that an end said; `None` is its last word.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) side: Side,
    pub(crate) message: Option<Message>,
}

/// The processes of one transfer. Dropping it ends those that still run.
#[derive(Debug)]
pub(crate) struct Ends {
    link: Link,
    size: u64,
    seed: u64,
    children: Vec<(Side, Child)>,
    sender: Sender<News>,
    news: Receiver<News>,
}

impl Ends {
    pub(crate) fn new(link: Link, size: u64, seed: u64) -> Self {
        let (sender, news) = channel();
        Self { link, size, seed, children: Vec::new(), sender, news }
    }

    /// Starts the receiver and waits until it listens.
    pub(crate) fn listen(&mut self, deadline: Instant) -> Result<SocketAddr, Failure> {
        self.start(Side::Receiver, None)?;
        match self.next(deadline) {
            Some(News { message: Some(Message::Listening { addr }), .. }) => Ok(addr),
            Some(News { message: Some(Message::Done(outcome)), .. }) => Err(Failure::new(format!(
                "the {} receiver cannot listen on the loopback: {}",
                self.link,
                outcome.error.unwrap_or_default()
            ))),
            _ => Err(Failure::new(format!(
                "the {} receiver did not begin to listen; RUST_LOG=debug may tell why",
                self.link
            ))),
        }
    }

    /// Starts the sender.
    pub(crate) fn connect(&mut self, addr: SocketAddr) -> Result<(), Failure> {
        self.start(Side::Sender, Some(addr))
    }

    /// The next news, waited for until `until`.
    pub(crate) fn next(&self, until: Instant) -> Option<News> {
        // It cannot be disconnected, for this has a sender itself.
        self.news.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }

    /// Lets both leave, and ends those that do not.
    pub(crate) fn finish(mut self) {
        for (_, child) in &mut self.children {
            drop(child.stdin.take());
        }
        let deadline = Instant::now() + LEAVE;
        for (side, child) in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(LEAVE_POLL);
            }
            if matches!(child.try_wait(), Ok(None)) {
                let (name, pid) = (side.name(), child.id());
                log::warn!("the {name} (process {pid}) did not leave and is ended");
            }
        }
    }

    fn start(&mut self, side: Side, addr: Option<SocketAddr>) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot start the process of the {}: {error}", side.name()))
        };
        let mut command = Command::new(env::current_exe().map_err(failed)?);
        // Each end sends something else.
        let seed = self.seed.wrapping_mul(2).wrapping_add(side as u64);
        command.arg("demo-peer").args(["--link", &self.link.to_string()]);
        command.args(["--size", &self.size.to_string(), "--seed", &seed.to_string()]);
        if let Some(addr) = addr {
            command.args(["--connect", &addr.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let output = child.stdout.take();
        self.children.push((side, child));
        let news = self.sender.clone();
        let read = move || {
            let lines = output.into_iter().flat_map(|output| BufReader::new(output).lines());
            for line in lines.map_while(Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(message) => drop(news.send(News { side, message: Some(message) })),
                    Err(error) => log::warn!("the {} said {line:?}: {error}", side.name()),
                }
            }
            drop(news.send(News { side, message: None }));
        };
        thread::Builder::new().name(side.name().to_owned()).spawn(read).map_err(failed)?;
        Ok(())
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            // It may have left by itself; then there is nothing to end.
            let _gone = child.kill();
            let _status = child.wait();
        }
    }
}
