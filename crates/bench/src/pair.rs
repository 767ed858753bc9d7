//! Two child processes, driven over their standard streams.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::Bench;
use crate::socket::Kind;
use crate::usage::end_with_us;

/// How long an answer may take, where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(60);

/// One child.
#[derive(Debug)]
pub(crate) struct End {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    patience: Duration,
}

impl End {
    fn start(mut command: Command) -> io::Result<Self> {
        end_with_us(&mut command);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = process.stdin.take();
        let Some(output) = process.stdout.take() else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Self { process, input, output: BufReader::new(output), patience: PATIENCE })
    }

    /// A process of this program with a kind and a role of its own.
    pub(crate) fn of(bench: &Bench<'_>, kind_and_role: [&str; 2]) -> io::Result<Self> {
        let mut command = own_command(bench, &[])?;
        command.args(kind_and_role);
        Self::start(command)
    }

    /// A fault proxy in a process of its own, and where it listens.
    pub(crate) fn proxy(bench: &Bench<'_>, server: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let mut proxy = Self::of(bench, ["proxy", &server.to_string()])?;
        let addr = proxy.address()?;
        Ok((proxy, addr))
    }

    pub(crate) fn address(&mut self) -> io::Result<SocketAddr> {
        let text = self.answer()?;
        text.parse().map_err(|_| io::Error::other(format!("address: {text}")))
    }

    /// Tells the child to begin something.
    pub(crate) fn tell(&mut self, command: &str) -> io::Result<()> {
        let Some(input) = &mut self.input else { return Err(io::ErrorKind::BrokenPipe.into()) };
        input.write_all(format!("{command}\n").as_bytes())
    }

    /// Waits for the answer to the last command, as long as patience lasts.
    pub(crate) fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        let number = self.output.get_ref().as_raw_fd();
        let mut waited = libc::pollfd { fd: number, events: libc::POLLIN, revents: 0 };
        // A line is asked for at a time, so that none waits in the buffer.
        let patience = i32::try_from(self.patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: `waited` is one writable entry.
        if unsafe { libc::poll(&raw mut waited, 1, patience) } == 0 {
            let _ = self.process.kill();
            let patience = self.patience;
            return Err(io::Error::other(format!("no answer within {patience:?}: it hangs")));
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

    /// Answers may take so long from now on.
    #[cfg(feature = "spool")]
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
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
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What starts a child of this program, by way of another command if there is one.
fn own_command(bench: &Bench<'_>, way: &[String]) -> io::Result<Command> {
    let mut words = way.iter().map(Into::into).chain(bench.host.child.iter().cloned());
    let program = words.next().ok_or_else(|| io::Error::other("this program is not known"))?;
    let mut command = Command::new(program);
    command.args(words);
    Ok(command)
}

/// A server and a client.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) client: End,
    pub(crate) server: End,
}

impl Pair {
    pub(crate) fn start(bench: &Bench<'_>, kind: Kind) -> io::Result<Self> {
        Self::start_through(bench, kind, Ok)
    }

    /// The client connects to what `route` makes of the server's address.
    pub(crate) fn start_through(
        bench: &Bench<'_>,
        kind: Kind,
        route: impl FnOnce(SocketAddr) -> io::Result<SocketAddr>,
    ) -> io::Result<Self> {
        Self::start_as(bench, kind, "server", &[], &[], route)
    }

    /// The server in this role, and each end by way of a command that starts it.
    pub(crate) fn start_as(
        bench: &Bench<'_>,
        kind: Kind,
        server: &str,
        server_way: &[String],
        client_way: &[String],
        route: impl FnOnce(SocketAddr) -> io::Result<SocketAddr>,
    ) -> io::Result<Self> {
        let own = |role: &str| {
            let way = if role.starts_with("server") { server_way } else { client_way };
            let mut command = own_command(bench, way)?;
            command.args([kind.name(), role]);
            Ok(command)
        };
        Self::start_any(own, server, route)
    }

    /// Of a program that understands what this program's own children do: `command` gives it, told
    /// that it is "server", or the address of the server.
    pub(crate) fn start_of(command: impl Fn(&str) -> io::Result<Command>) -> io::Result<Self> {
        Self::start_any(command, "server", Ok)
    }

    fn start_any(
        command: impl Fn(&str) -> io::Result<Command>,
        server: &str,
        route: impl FnOnce(SocketAddr) -> io::Result<SocketAddr>,
    ) -> io::Result<Self> {
        let mut server = End::start(command(server)?)?;
        let addr = server.address()?;
        let client = End::start(command(&route(addr)?.to_string())?)?;
        Ok(Self { client, server })
    }

    /// Answers of both may take so long from now on.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.client.patience = patience;
        self.server.patience = patience;
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
