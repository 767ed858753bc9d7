//! Two child processes, driven over their standard streams.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::socket::Kind;

const ANSWER_MS: i32 = 60_000;

/// One child.
#[derive(Debug)]
pub(crate) struct End {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl End {
    fn start(mut command: Command) -> io::Result<Self> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = process.stdin.take();
        let Some(output) = process.stdout.take() else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    /// Tells the child to begin something.
    pub(crate) fn tell(&mut self, command: &str) -> io::Result<()> {
        let Some(input) = &mut self.input else { return Err(io::ErrorKind::BrokenPipe.into()) };
        input.write_all(format!("{command}\n").as_bytes())
    }

    /// Waits for the answer to the last command, a minute at most.
    pub(crate) fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        let number = self.output.get_ref().as_raw_fd();
        let mut waited = libc::pollfd { fd: number, events: libc::POLLIN, revents: 0 };
        // A line is asked for at a time, so that none waits in the buffer.
        // SAFETY: `waited` is one writable entry.
        if unsafe { libc::poll(&raw mut waited, 1, ANSWER_MS) } == 0 {
            let _ = self.process.kill();
            return Err(io::Error::other("no answer within a minute: it hangs"));
        }
        if self.output.read_line(&mut line)? == 0 {
            return Err(io::Error::other("a child process has ended"));
        }
        Ok(line.trim_end().to_owned())
    }

    /// The answer as numbers.
    pub(crate) fn numbers(&mut self) -> io::Result<Vec<f64>> {
        let line = self.answer()?;
        let words = line.split_whitespace().map(str::parse);
        words.collect::<Result<_, _>>().map_err(|_| io::Error::other(format!("answer: {line}")))
    }

    pub(crate) fn ask(&mut self, command: &str) -> io::Result<Vec<f64>> {
        self.tell(command)?;
        self.numbers()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // The end of its input is the child's sign to end; one that hangs is ended.
        self.input = None;
        for _ in 0..100 {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A server and a client of one kind.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) kind: Kind,
    pub(crate) client: End,
    pub(crate) server: End,
}

impl Pair {
    pub(crate) fn start(kind: Kind) -> io::Result<Self> {
        Self::start_through(kind, Ok)
    }

    /// Of a program that understands what this program's own children do: `command` gives it, told
    /// that it is "server", or the address of the server.
    pub(crate) fn start_of(
        kind: Kind,
        command: impl Fn(&str) -> io::Result<Command>,
    ) -> io::Result<Self> {
        Self::start_any(kind, command, Ok)
    }

    /// The client connects to what `route` makes of the server's address.
    pub(crate) fn start_through(
        kind: Kind,
        route: impl FnOnce(SocketAddr) -> io::Result<SocketAddr>,
    ) -> io::Result<Self> {
        let own = |role: &str| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["--child", kind.name(), role]);
            Ok(command)
        };
        Self::start_any(kind, own, route)
    }

    fn start_any(
        kind: Kind,
        command: impl Fn(&str) -> io::Result<Command>,
        route: impl FnOnce(SocketAddr) -> io::Result<SocketAddr>,
    ) -> io::Result<Self> {
        let mut server = End::start(command("server")?)?;
        let addr = server.answer()?;
        let addr = addr.parse().map_err(|_| io::Error::other(format!("address: {addr}")))?;
        let client = End::start(command(&route(addr)?.to_string())?)?;
        Ok(Self { kind, client, server })
    }

    /// Both do `command`, the server first; gives both answers.
    pub(crate) fn both(&mut self, client: &str, server: &str) -> io::Result<(Vec<f64>, Vec<f64>)> {
        self.server.tell(server)?;
        self.client.tell(client)?;
        let client = self.client.numbers()?;
        Ok((client, self.server.numbers()?))
    }

    /// Opens one stream at both ends.
    pub(crate) fn open(&mut self) -> io::Result<()> {
        self.both("open", "open").map(|_| ())
    }
}
