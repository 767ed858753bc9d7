//! Runs `evs` in a directory of its own for control sockets, and waits with deadlines.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives something.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A place for control sockets that no other program uses.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("evs-test-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        Self { dir }
    }

    /// The directory that the sockets are in.
    pub(crate) fn sockets(&self) -> PathBuf {
        self.dir.join("eversock")
    }

    /// A file of the test's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evs"));
        command.args(args).env("XDG_RUNTIME_DIR", &self.dir).env_remove("RUST_LOG");
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        Done::from(output)
    }

    /// Starts a command that goes on until its input is closed.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        self.start_command(self.command(args))
    }

    /// The same for a command that was prepared otherwise.
    pub(crate) fn start_command(&self, mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        Running { child, input, lines }
    }

    /// The sessions that `evs ls` shows.
    pub(crate) fn sessions(&self) -> Vec<Value> {
        let done = self.run(&["ls", "--json"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        serde_json::from_str(&done.stdout).unwrap()
    }

    /// Waits until the session `id` is in a state that `wanted` accepts.
    pub(crate) fn wait_for_session(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) {
        let mut last = Value::Null;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            last = self.sessions().into_iter().find(|entry| entry["id"] == id).into();
            if wanted(&last) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("session {id} is not {what} in {PATIENCE:?}: {last}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A process that is just leaving may still hold it; it is only a temporary directory.
        let _left = std::fs::remove_dir_all(&self.dir);
    }
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Whether a program is there. With CI=true a missing one is a failure, else the test says that it
/// is left out.
pub(crate) fn have(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&folders).any(|folder| folder.join(program).is_file()) {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{program} is missing, and this is CI");
    eprintln!("SKIPPED: {program} is not installed");
    false
}

/// A command that runs; it is ended with the value.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Running {
    /// The next line of output.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the command writes a line")
    }

    /// Reads on to the JSON line of this kind.
    pub(crate) fn json(&self, kind: &str) -> Value {
        loop {
            let line = self.line();
            let value: Value = serde_json::from_str(&line).expect(&line);
            if value["kind"] == kind {
                return value;
            }
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.json("listening")["addr"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn say(&mut self, text: &str) {
        writeln!(self.input.as_mut().unwrap(), "{text}").unwrap();
    }

    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits for the end; the exit status and the lines that were not read.
    pub(crate) fn wait(&mut self) -> (Option<i32>, Vec<String>) {
        let status = wait_for("the command ends", || self.child.try_wait().unwrap());
        (status.code(), self.lines.iter().collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have left already.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
