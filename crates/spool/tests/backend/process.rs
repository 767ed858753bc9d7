//! A mail server in a process of its own: this binary again, which runs one test in a role.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use eversock_socket::VirtualListener;
use eversock_spool::backend::ledger::LedgerConfig;
use eversock_spool::backend::mail::{MailConfig, MailReplica, MailServer, Mailboxes};
use eversock_spool::backend::replica::ReplicaConfig;
use eversock_spool::backend::{BackendServer, Effects, LedgerBackend};
use eversock_spool::link::LinkConfig;
use eversock_spool::record::Record;
use eversock_spool::serve::ServeConfig;
use eversock_spool::target::ItemResult;
use rusqlite::{Connection, Transaction};
use rustix::process::{Pid, Signal, getpid, kill_process};

use crate::common::{config, wait_for};

const ROLE: &str = "EVERSOCK_SPOOL_TEST_MAIL";
/// The file that lets a stopped server go on.
const GO_ON: &str = "go-on";
const PEER: &str = "EVERSOCK_SPOOL_TEST_PEER";
const DIE: &str = "EVERSOCK_SPOOL_DIE";

/// Stops this process before the transaction.
pub(crate) const STOP_BEFORE: &str = "stop before the transaction";
/// Stops this process inside the transaction.
pub(crate) const STOP_INSIDE: &str = "stop inside the transaction";

/// Mailboxes that stop their process, as SIGSTOP from outside would at the worst moment.
struct Stopping(Mailboxes, PathBuf);

impl Stopping {
    fn stop_at(&self, item: &Record, word: &str) {
        if item.payload != word.as_bytes() {
            return;
        }
        kill_process(getpid(), Signal::STOP).unwrap();
        // The signal may take effect in another thread first: this one must not run ahead.
        wait_for("the test lets it go on", || self.1.exists());
    }
}

impl Effects for Stopping {
    type Prepared = <Mailboxes as Effects>::Prepared;

    fn set_up(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        self.0.set_up(tx)
    }

    fn prepare(&self, item: &Record) -> Result<Self::Prepared, ItemResult> {
        self.stop_at(item, STOP_BEFORE);
        self.0.prepare(item)
    }

    fn apply(
        &self,
        tx: &Connection,
        item: &Record,
        prepared: Option<&Self::Prepared>,
    ) -> rusqlite::Result<ItemResult> {
        self.stop_at(item, STOP_INSIDE);
        self.0.apply(tx, item, prepared)
    }

    fn settle(&self, item: &Record, prepared: Self::Prepared, applied: Option<bool>) {
        self.0.settle(item, prepared, applied);
    }
}

#[test]
fn the_other_process_of_these_tests() {
    let Ok(directory) = std::env::var(ROLE) else {
        // Nobody asked for a server: then none may be told to die either.
        assert!(std::env::var(DIE).is_err());
        return;
    };
    let directory = Path::new(&directory);
    if let Ok(peer) = std::env::var(PEER) {
        let mail = replica(directory, peer.parse().unwrap());
        return until_told(mail.server().addr());
    }
    let mailboxes = Mailboxes::open(&directory.join("mail"), Duration::from_millis(50)).unwrap();
    let ledger = LedgerConfig::default();
    let stopping = Stopping(mailboxes, directory.join(GO_ON));
    let backend = LedgerBackend::open(&directory.join("index.db"), ledger, stopping).unwrap();
    let listener = VirtualListener::bind_with("127.0.0.1:0", config()).unwrap();
    let server = BackendServer::start(listener, Arc::new(backend), ServeConfig::default()).unwrap();
    until_told(server.addr());
}

/// A mail server with storage of its own, which pushes to this address.
pub(crate) fn replica(directory: &Path, peer: SocketAddr) -> MailServer {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut link = LinkConfig::new("the other server");
    link.socket.grace = Duration::from_secs(2);
    let replica = MailReplica {
        listen: any,
        socket: config(),
        peer: vec![peer],
        link,
        config: ReplicaConfig { every: Duration::from_millis(20), ..ReplicaConfig::default() },
    };
    let mut mail = MailConfig::new(any, directory.to_owned());
    mail.socket = config();
    mail.replica = Some(replica);
    MailServer::start(mail).unwrap()
}

fn until_told(addr: SocketAddr) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{addr}\n").as_bytes()).unwrap();
    out.flush().unwrap();
    // Until the test says so or is gone.
    let _end = std::io::stdin().read_line(&mut String::new());
}

/// A server process, killed at the end of the test.
pub(crate) struct Process {
    child: Child,
    _stdin: ChildStdin,
    pub(crate) addr: SocketAddr,
}

impl Process {
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_to_die(directory, None)
    }

    /// One that kills itself at a failpoint, `NAME:N`.
    pub(crate) fn start_to_die(directory: &Path, die: Option<&str>) -> Self {
        Self::start_with(directory, die, None)
    }

    /// One that pushes what it does to this address.
    pub(crate) fn start_with(
        directory: &Path,
        die: Option<&str>,
        peer: Option<SocketAddr>,
    ) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let this = "process::the_other_process_of_these_tests";
        command.args(["--exact", this, "--nocapture", "--test-threads=1"]);
        command.env(ROLE, directory).env_remove(DIE).env_remove(PEER);
        if let Some(peer) = peer {
            command.env(PEER, peer.to_string());
        }
        if let Some(die) = die {
            command.env(DIE, die);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let addr = loop {
            let mut line = String::new();
            assert!(out.read_line(&mut line).unwrap() > 0, "the server ended without a word");
            if let Some(addr) = line.trim().strip_prefix('@') {
                break addr.parse().unwrap();
            }
        };
        Self { child, _stdin: stdin, addr }
    }

    pub(crate) fn is_gone(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn wait_until_stopped(&self) {
        let stat = format!("/proc/{}/stat", self.child.id());
        wait_for("the server stands still", || {
            let stat = std::fs::read_to_string(&stat).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        });
    }

    pub(crate) fn go_on(&self, directory: &Path) {
        std::fs::write(directory.join(GO_ON), "").unwrap();
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::CONT).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
