//! What an operator has done when a server gets the lock, loses it, or has to be stopped by force.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How often a command is looked at: hooks run when servers change places, not for requests.
const LOOK: Duration = Duration::from_millis(10);

/// Does something to a server, and says whether it worked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// A program, without a shell: its exit status 0 is success. `EVERSOCK_EPOCH`, `EVERSOCK_PAIR`
    /// and `EVERSOCK_SERVER` are in its environment; it has no standard input, and what it prints
    /// goes where the front's standard error goes. When its time is up, it and all processes of
    /// its group are killed.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
        /// How long it may take.
        timeout: Duration,
    },
    /// An HTTP POST without a body: a 2xx is success. The headers `Eversock-Epoch`,
    /// `Eversock-Pair` and `Eversock-Server` say what the environment says to a command.
    Post {
        /// `http://host:port/path`.
        url: String,
        /// How long it may take.
        timeout: Duration,
    },
}

/// What a hook is told.
#[derive(Debug, Clone)]
pub(super) struct Occasion {
    pub(super) pair: String,
    pub(super) server: String,
    pub(super) epoch: u64,
}

/// Runs a command to its end or to that of its time. Blocks. `true`: it succeeded.
pub(super) fn run(argv: &[String], timeout: Duration, occasion: &Occasion) -> bool {
    let what = argv.first().map_or("", String::as_str);
    match run_to_end(argv, timeout, occasion) {
        Ok(Some(status)) if status.success() => true,
        Ok(Some(status)) => {
            log::error!("the hook {what} of {} failed: {status}", occasion.server);
            false
        }
        Ok(None) => {
            log::error!("the hook {what} of {} was killed after {timeout:?}", occasion.server);
            false
        }
        Err(error) => {
            log::error!("the hook {what} of {} cannot be run: {error}", occasion.server);
            false
        }
    }
}

/// `None`: its time was up.
fn run_to_end(
    argv: &[String],
    timeout: Duration,
    occasion: &Occasion,
) -> io::Result<Option<ExitStatus>> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it names no program"));
    };
    let until = Instant::now() + timeout;
    let mut child = Command::new(program)
        .args(arguments)
        .env("EVERSOCK_EPOCH", occasion.epoch.to_string())
        .env("EVERSOCK_PAIR", &occasion.pair)
        .env("EVERSOCK_SERVER", &occasion.server)
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .process_group(0)
        .spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            break;
        }
        std::thread::sleep(LOOK);
    }
    // The group is the child's own, and the child has not been waited for: nobody else has its id.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.kill();
    child.wait()?;
    Ok(None)
}
