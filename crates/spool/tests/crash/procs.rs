//! Processes of a test, and where they live.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use eversock_spool::store::SpoolReader;
use eversock_spool::store::postgres::{PostgresConfig, PostgresStore};
use eversock_spool::store::sqlite::SqliteStore;
use rustix::process::{Pid, Signal, kill_process};

use crate::roles::{self, Effect};

/// Nothing takes so long, even on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// Numbers from a seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A process of the test, killed when it is dropped.
pub(crate) struct Proc {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Proc {
    fn start(name: &str, vars: &[(&str, String)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["role", "--exact", "--nocapture", "--test-threads=1"]);
        command.env("EVERSOCK_SPOOL_ROLE", name).env_remove("EVERSOCK_SPOOL_DIE");
        command.envs(vars.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits until it says that it is ready. `false`: it died before.
    fn await_ready(&mut self) -> bool {
        self.lines.any(|line| line.is_ok_and(|line| line.ends_with("ready")))
    }

    /// Which server the front holds for the main.
    pub(crate) fn holder(&mut self) -> usize {
        assert!(self.say("who"));
        let found = self.lines.find_map(|line| line.unwrap().strip_prefix("main ")?.parse().ok());
        found.expect("the front says who is main")
    }

    /// `false`: it is gone.
    pub(crate) fn say(&mut self, command: &str) -> bool {
        self.child.stdin.as_mut().is_some_and(|stdin| writeln!(stdin, "{command}").is_ok())
    }

    pub(crate) fn ends_within(&mut self, span: Duration) -> bool {
        let end = Instant::now() + span;
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory and addresses that no other test has.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) front: SocketAddr,
    servers: [SocketAddr; 2],
    /// Where the spool is, if it is not a file.
    pub(crate) postgres: Option<String>,
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        static PLACES: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() * 8 + PLACES.fetch_add(1, Ordering::Relaxed);
        // An address of its own: a port stays this test's when its process has died.
        let [_, a, b, c] = (number % 0x00ff_fffe + 1).to_be_bytes();
        let host = Ipv4Addr::new(127, a, b, c);
        let dir = std::env::temp_dir().join(format!("eversock-crash-{name}-{number}"));
        std::fs::create_dir_all(&dir).unwrap();
        let addr = || TcpListener::bind((host, 0)).unwrap().local_addr().unwrap();
        Self { dir, front: addr(), servers: [addr(), addr()], postgres: None }
    }

    fn var_dir(&self) -> (&'static str, String) {
        ("EVERSOCK_SPOOL_DIR", self.dir.display().to_string())
    }

    pub(crate) fn server(&self, side: usize) -> Proc {
        let listen = ("EVERSOCK_SPOOL_LISTEN", self.servers[side].to_string());
        let mut server = Proc::start("server", &[self.var_dir(), listen]);
        assert!(server.await_ready(), "the server does not start");
        server
    }

    /// A front; with a plan to die it may be gone already.
    pub(crate) fn front(&self, plan: Option<&str>) -> Proc {
        let servers = format!("{},{}", self.servers[0], self.servers[1]);
        let mut vars = vec![
            self.var_dir(),
            ("EVERSOCK_SPOOL_LISTEN", self.front.to_string()),
            ("EVERSOCK_SPOOL_SERVERS", servers),
        ];
        vars.extend(self.postgres.clone().map(|params| ("EVERSOCK_SPOOL_POSTGRES", params)));
        vars.extend(plan.map(|plan| ("EVERSOCK_SPOOL_DIE", plan.to_owned())));
        let mut front = Proc::start("front", &vars);
        let is_ready = front.await_ready();
        assert!(is_ready || plan.is_some(), "the front does not start");
        front
    }

    pub(crate) fn await_until(&self, what: &str, is_so: impl FnMut() -> bool) {
        assert!(is_within(PATIENCE, is_so), "in vain waited for: {what}");
    }

    pub(crate) fn await_drained(&self, front: &mut Proc) {
        let began = Instant::now();
        self.await_until("the spool is drained", || {
            if began.elapsed() > PATIENCE / 2 {
                // For whoever looks for the reason.
                front.say("status");
            }
            let totals = match &self.postgres {
                None => SqliteStore::open_reader(&roles::spool(&self.dir))
                    .and_then(|mut reader| reader.totals()),
                Some(params) => {
                    let config = PostgresConfig::new(params);
                    PostgresStore::open_reader(&config, roles::PAIR)
                        .and_then(|mut reader| reader.totals())
                }
            };
            totals.is_ok_and(|totals| totals.pending == 0)
        });
    }

    /// What the servers have done, in order.
    pub(crate) fn effects(&self) -> Vec<Effect> {
        roles::effects(&self.dir)
    }

    /// The highest epoch under which something was done.
    pub(crate) fn epoch(&self) -> u64 {
        self.effects().last().map_or(0, |effect| effect.epoch)
    }
}

/// Whether it becomes so within this time.
pub(crate) fn is_within(span: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + span;
    while !is_so() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
