//! `evs chaos`: the fault proxy as a command.

use std::fs::{self, Metadata};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use eversock_chaos::{Config, Event, EventKind, Plan, Proxy};
use serde_json::json;

use crate::failure::Failure;
use crate::units::show_size;
use crate::{lines, output, signals, units};

/// Stand between a client and a server and break their connections.
///
/// Ends by SIGINT, SIGTERM, --duration, or when standard input, if it is a pipe, is closed. The
/// last line of standard output is the summary as JSON; the log of events goes to standard error,
/// with --json to standard output.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Chaos {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// Where each connection is forwarded to.
    #[arg(long, value_name = "ADDR")]
    upstream: String,
    /// A file with a script of faults.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// A script as text; may be given several times.
    #[arg(short = 'e', value_name = "SCRIPT")]
    expressions: Vec<String>,
    /// Cut so many connections at random bytes among the first --bytes.
    #[arg(long, value_name = "K", requires = "bytes")]
    cuts: Option<usize>,
    /// The bytes (both directions together) over which --cuts are spread.
    #[arg(long, value_name = "SIZE", value_parser = units::size, requires = "cuts")]
    bytes: Option<u64>,
    /// Makes the random choices; the same seed makes the same ones.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write the events to standard output as JSON, one a line.
    #[arg(long)]
    json: bool,
    /// End after this time.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,
}

const HELP: &str = "\
Scripts have one step per line, or several with ';' between them:
  after 1MiB reset                     every 5MiB reset
  each after 64KiB down fin            conn 2 after 100 up half-open
  at 2.5s blackhole both for 3s        each at 1s stall up for 500ms
  always delay 20ms jitter 5ms         always rate 1MiB down
  after 3MiB refuse closed for 1s      at 9s refuse 3 conns
  after 1000 up flip bit 3             after 5000 down duplicate 4KiB";

/// Why the proxy is to end.
enum End {
    Signal(&'static str),
    InputClosed,
    /// The proxy has ended by itself, or nobody reads the log.
    LogEnded(Result<(), Failure>),
}

impl Chaos {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let listen = resolve(&self.listen, "--listen")?;
        let upstream = resolve(&self.upstream, "--upstream")?;
        let mut config = Config::new(listen, upstream).with_plan(self.plan()?);
        config.seed = self.seed;

        let (sender, ends) = channel();
        let on_signal = sender.clone();
        // The thread outlives the receiver at the end; then nobody needs to hear of the signal.
        signals::on_end(move |name| drop(on_signal.send(End::Signal(name))))
            .map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
        let proxy = Proxy::spawn(config)
            .map_err(|error| Failure::new(format!("cannot start the proxy: {error}")))?;
        self.announce(&proxy)?;
        watch_input(sender.clone())?;
        let events = proxy.events();
        let json = self.json;
        let log = thread::spawn(move || {
            let written = events.into_iter().try_for_each(|event| write_event(&event, json));
            drop(sender.send(End::LogEnded(written)));
        });

        let end = match self.duration {
            // Nothing within the time is what ends it.
            Some(duration) => ends.recv_timeout(duration).ok(),
            None => ends.recv().ok(),
        };
        let summary = proxy.stop();
        match end {
            Some(End::LogEnded(written)) => written?,
            Some(End::Signal(name)) => log::info!("ended by {name}"),
            Some(End::InputClosed) => log::info!("ended, because standard input was closed"),
            None => log::info!("ended after --duration"),
        }
        if log.join().is_err() {
            return Err(Failure::new("the thread that writes the log has panicked"));
        }
        output::json_line(&summary)?;
        match summary.error {
            Some(error) => Err(Failure::new(format!("the proxy ended by itself: {error}"))),
            None => Ok(true),
        }
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let mut plan = match (self.cuts, self.bytes) {
            (Some(cuts), Some(bytes)) => Plan::seeded(self.seed, cuts, bytes),
            _ => Plan::none(),
        };
        let mut add = |script: &str, from: &str| {
            let more = Plan::parse(script)
                .map_err(|error| Failure::usage(format!("the script {from}: {error}")))?;
            plan.steps.extend(more.steps);
            Ok(())
        };
        if let Some(path) = &self.script {
            let script = fs::read_to_string(path).map_err(|error| {
                Failure::new(format!("cannot read the script {}: {error}", path.display()))
            })?;
            add(&script, &path.display().to_string())?;
        }
        for script in &self.expressions {
            add(script, &format!("{script:?}"))?;
        }
        Ok(plan)
    }

    fn announce(&self, proxy: &Proxy) -> Result<(), Failure> {
        let (addr, upstream) = (proxy.local_addr(), proxy.upstream());
        if self.json {
            let line = json!({ "kind": "listening", "addr": addr, "upstream": upstream });
            return output::json_line(&line);
        }
        eprintln!("listening on {addr}, forwarding to {upstream}");
        Ok(())
    }
}

fn resolve(text: &str, option: &str) -> Result<SocketAddr, Failure> {
    let found = text.to_socket_addrs().map(|mut addrs| addrs.next());
    let why = match found {
        Ok(Some(addr)) => return Ok(addr),
        Ok(None) => "the name has no address".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Failure::usage(format!("{option} {text}: {why}; an address is like 127.0.0.1:8080")))
}

/// Ends the proxy with standard input, if that is a pipe or a socket: whoever started it that way
/// may die. A terminal or a file says nothing by its end.
fn watch_input(sender: Sender<End>) -> Result<(), Failure> {
    let is_pipe = |file: Metadata| file.file_type().is_fifo() || file.file_type().is_socket();
    if !fs::metadata("/dev/stdin").is_ok_and(is_pipe) {
        return Ok(());
    }
    let failed = |error| Failure::new(format!("cannot watch standard input: {error}"));
    let input = lines::from_stdin().map_err(failed)?;
    let watch = move || {
        input.iter().for_each(drop);
        drop(sender.send(End::InputClosed));
    };
    thread::Builder::new().spawn(watch).map_err(failed)?;
    Ok(())
}

fn write_event(event: &Event, json: bool) -> Result<(), Failure> {
    if json {
        return output::json_line(event);
    }
    let who = event.conn.map_or_else(|| "proxy".to_owned(), |conn| format!("conn {conn}"));
    let sums = format!("up {}, down {}", show_size(event.up), show_size(event.down));
    let what = match &event.kind {
        EventKind::Opened { peer } => format!("opened by {peer}"),
        EventKind::Refused { peer } => format!("refused to {peer}"),
        EventKind::Fault { fault } => {
            let flowing = if event.flowing { "data was flowing" } else { "idle" };
            format!("FAULT {fault} ({flowing}; {sums})")
        }
        EventKind::Closed { reason } => {
            let reason = format!("{reason:?}");
            format!("closed: {reason} ({sums})")
        }
        EventKind::ListenerClosed => "connects fail from now on".to_owned(),
        EventKind::ListenerOpen => "connects succeed again".to_owned(),
        EventKind::Stopped => format!("stopped ({sums})"),
        other => format!("{other:?}"),
    };
    eprintln!("{:9.3}s  {who:<9} {what}", event.at.as_secs_f64());
    Ok(())
}
