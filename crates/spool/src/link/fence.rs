//! The command that makes sure that a server does nothing more.

use std::io;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A command that cuts a server's power or its network.
#[derive(Debug, Clone)]
pub struct FenceCommand {
    /// The program. No shell is involved.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// How long it may run; then it is killed, and the server is not fenced. Default of the
    /// constructor: 30 s.
    pub timeout: Duration,
}

/// Between looks at whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl FenceCommand {
    /// Of a program without arguments.
    #[must_use]
    pub fn new(program: impl Into<String>) -> Self {
        Self { program: program.into(), args: Vec::new(), timeout: Duration::from_secs(30) }
    }

    /// Runs it, with the target's name as `EVS_TARGET` in its environment. True if it ends in time
    /// and without error. Blocks; ends early, and kills it, when `cancelled` says so.
    pub(super) fn run(&self, target: &str, cancelled: &dyn Fn() -> bool) -> bool {
        let command = Command::new(&self.program)
            .args(&self.args)
            .env("EVS_TARGET", target)
            .stdin(Stdio::null())
            .spawn();
        let status = match command {
            Ok(child) => Running(child).wait(self.timeout, cancelled),
            Err(error) => Err(error),
        };
        let program = &self.program;
        match status {
            Ok(Some(status)) if status.success() => {
                log::warn!("{target} is fenced: {program} says so");
                true
            }
            Ok(Some(status)) => {
                log::error!("{target} is not fenced: {program} ended with {status}");
                false
            }
            Ok(None) => {
                let timeout = self.timeout;
                log::error!("{target} is not fenced: {program} did not end within {timeout:?}");
                false
            }
            Err(error) => {
                log::error!("{target} is not fenced: {program} cannot be run: {error}");
                false
            }
        }
    }
}

/// Killed, by its pid, and reaped when it is not waited for any more.
struct Running(Child);

impl Running {
    fn wait(
        mut self,
        timeout: Duration,
        cancelled: &dyn Fn() -> bool,
    ) -> io::Result<Option<std::process::ExitStatus>> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if began.elapsed() >= timeout || cancelled() {
                return Ok(None);
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Neither does anything to one that has been waited for.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}
