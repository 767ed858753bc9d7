//! The other processes of a run: the far side and the proxy, where we start them ourselves.

use std::env;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use serde::{Deserialize, Serialize};

use super::client::Letter;
use super::figures::{Far, Held, Process};
use super::inbox::Inbox;
use crate::failure::Failure;
use crate::output;

/// What a helper says, one JSON object a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Message {
    Listening {
        addr: SocketAddr,
    },
    /// It has done what it was told.
    Noted,
    /// So far.
    Cuts {
        cuts: u64,
    },
    /// The proxy's last word.
    CutsDone {
        cuts: u64,
        process: Process,
    },
    /// The far side's last word.
    Summary(Far),
}

/// What a helper is told, a line each; the end of its input ends it.
pub(super) const QUARTER: &str = "quarter";
pub(super) const END: &str = "end";

/// Notes what this process holds, if it is told to, and says so.
pub(super) fn heed(line: &str, process: &mut Process) -> Result<(), Failure> {
    let held = Held::now().ok();
    match line {
        QUARTER => process.first_quarter = held,
        END => process.end = held,
        _ => return Err(Failure::new(format!("told {line:?}, which means nothing"))),
    }
    output::json_line(&Message::Noted)
}

/// How long a helper may take to begin, and to leave when its input has ended.
const PATIENCE: Duration = Duration::from_secs(30);
const LEAVE_POLL: Duration = Duration::from_millis(5);

/// A process that we have started. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Helper {
    pub(super) name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
}

impl Helper {
    /// Starts `evs` with these arguments; what it says comes as letters. Gives where it listens.
    pub(super) fn start(
        name: &'static str,
        args: &[String],
        inbox: &Inbox<Letter>,
    ) -> Result<(Self, SocketAddr), Failure> {
        let failed = |error: io::Error| {
            Failure::new(format!("cannot start the process of the {name}: {error}"))
        };
        let mut command = Command::new(env::current_exe().map_err(failed)?);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A key at the terminal ends this process, which then ends its helpers in order.
        command.process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let helper = Self { name, child, input };
        if let Some(output) = output {
            let letter = move |line: Option<String>| Letter::Said { name, line };
            inbox.take_lines(name, output, letter).map_err(failed)?;
        }
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match inbox.next() {
                Some(Letter::Said { name: who, line }) if who == name => {
                    let said = line.as_deref().map(serde_json::from_str);
                    let Some(Ok(Message::Listening { addr })) = said else {
                        return Err(Failure::new(format!("the {name} did not begin to listen")));
                    };
                    return Ok((helper, addr));
                }
                Some(Letter::Signal(_)) => return Err(Failure::new("ended before it began")),
                _ => thread::sleep(LEAVE_POLL),
            }
        }
        Err(Failure::new(format!("the {name} did not begin to listen within {PATIENCE:?}")))
    }

    pub(super) fn tell(&mut self, line: &str) {
        if let Some(input) = &mut self.input
            && let Err(error) = writeln!(input, "{line}")
        {
            log::warn!("the {} cannot be told anything: {error}", self.name);
        }
    }

    /// Ends its input: it says its last word and leaves.
    pub(super) fn dismiss(&mut self) {
        self.input = None;
    }

    /// Waits until it has left.
    pub(super) fn leave(mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                // It has said itself what went wrong.
                Ok(Some(_)) => return Ok(()),
                Ok(None) if Instant::now() < until => thread::sleep(LEAVE_POLL),
                Ok(None) => return Err(format!("the {} did not leave and is ended", self.name)),
                Err(error) => {
                    return Err(format!("the {} cannot be waited for: {error}", self.name));
                }
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have left by itself; then there is nothing to end.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
