//! A test's other process: the test binary itself, running one hidden test with a role.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "EVERSOCK_TEST_ROLE";
const ARGUMENT: &str = "EVERSOCK_TEST_ARGUMENT";

/// The role of this process, if it is a helper, and its argument.
pub(crate) fn role() -> Option<(String, String)> {
    let role = std::env::var(ROLE).ok()?;
    Some((role, std::env::var(ARGUMENT).unwrap_or_default()))
}

/// Tells the test something, from the helper.
pub(crate) fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    // One write, so that lines of several processes do not mix.
    let _gone = out.write_all(format!("\n@{word}\n").as_bytes());
    let _gone = out.flush();
}

/// Waits for the test to say something; false when it has gone.
pub(crate) fn hear() -> bool {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).is_ok_and(|n| n > 0)
}

/// The next line that the test says; `None` when it has gone.
pub(crate) fn heard() -> Option<String> {
    let mut line = String::new();
    let n = std::io::stdin().read_line(&mut line).ok()?;
    (n > 0).then(|| line.trim_end().to_owned())
}

/// A helper process; killed when dropped.
pub(crate) struct Helper {
    child: Child,
    stdin: ChildStdin,
    out: BufReader<ChildStdout>,
}

/// The command line that runs the hidden test `name` in a role.
pub(crate) fn command(prefix: &[&str], name: &str, role: &str, argument: &str) -> Command {
    let me = std::env::current_exe().unwrap();
    let mut command = match prefix {
        [] => Command::new(me),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(me);
            command
        }
    };
    // One thread: libtest then runs the helper on the main one, so that it may fork.
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(ARGUMENT, argument);
    command
}

impl Helper {
    pub(crate) fn spawn(name: &str, role: &str, argument: &str) -> Self {
        Self::spawn_by(&[], name, role, argument)
    }

    /// The same by way of another program, such as `ip netns exec`.
    pub(crate) fn spawn_by(prefix: &[&str], name: &str, role: &str, argument: &str) -> Self {
        let mut command = command(prefix, name, role, argument);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a helper");
        let stdin = child.stdin.take().expect("a pipe");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, stdin, out }
    }

    /// The next word that the helper says.
    pub(crate) fn word(&mut self) -> String {
        loop {
            let mut line = String::new();
            let n = self.out.read_line(&mut line).expect("a line");
            assert!(n > 0, "the helper ended without a word");
            if let Some(word) = line.trim().strip_prefix('@') {
                return word.to_owned();
            }
        }
    }

    pub(crate) fn addr(&mut self) -> SocketAddr {
        self.word().parse().expect("an address")
    }

    /// Lets the helper go on.
    pub(crate) fn go(&mut self) {
        writeln!(self.stdin, "go").expect("the helper listens");
    }

    /// Says a line to the helper, for its [`heard`].
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("the helper listens");
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// Waits for the helper's end, at most 30 s.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < until, "the helper does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
