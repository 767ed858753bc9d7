//! The lab's network: a client's host, a router and a server's host, and the programs in them.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::child;
use crate::common::netns::{Namespace, run};
use crate::program::{Habits, argument};

pub(crate) const CLIENT: &str = "198.51.100.2";
pub(crate) const CLIENT_OTHER: &str = "198.51.100.9";
pub(crate) const ROUTER_TO_CLIENT: &str = "198.51.100.1";
pub(crate) const ROUTER_TO_SERVER: &str = "203.0.113.1";
pub(crate) const SERVER: &str = "203.0.113.2";
pub(crate) const SERVER_OTHER: &str = "203.0.113.22";

/// How long something may take that is to happen.
const PATIENCE: Duration = Duration::from_secs(45);

/// Waits until something is so.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Three hosts in a row, joined by two lines. Goes with all that runs in it.
pub(crate) struct Net {
    // Dropped in this order: nothing runs in a namespace that is removed.
    daemons: Vec<Daemon>,
    pub(crate) client: Namespace,
    pub(crate) router: Namespace,
    pub(crate) server: Namespace,
    dir: PathBuf,
}

impl Net {
    pub(crate) fn new() -> io::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let make = |host: &str| Namespace::new(&format!("l{count}{host}"));
        let dir = std::env::temp_dir().join(format!("evs-lab-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let (client, router, server) = (make("c")?, make("r")?, make("s")?);
        let net = Self { daemons: Vec::new(), client, router, server, dir };
        let names = [net.client.name(), net.router.name(), net.server.name()];
        for (near, to_router, far) in [("c0", "rc", names[0]), ("s0", "rs", names[2])] {
            let pair = ["link", "add", near, "netns", far, "type", "veth", "peer", "name"];
            run("ip", &[&pair[..], &[to_router, "netns", names[1]]].concat())?;
        }
        for (host, link, ip) in [
            (&net.client, "c0", CLIENT),
            (&net.router, "rc", ROUTER_TO_CLIENT),
            (&net.router, "rs", ROUTER_TO_SERVER),
            (&net.server, "s0", SERVER),
        ] {
            run("ip", &["-n", host.name(), "addr", "add", &format!("{ip}/24"), "dev", link])?;
            run("ip", &["-n", host.name(), "link", "set", link, "up"])?;
        }
        net.default_routes()?;
        net.router.run("sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"])?;
        for host in [&net.client, &net.server] {
            // Other than by default, the kernel gives a connection up within the lab's patience:
            // after 6 s (15 min) of output that nobody confirms. And a second address stays when
            // the first one goes.
            let settings = ["net.ipv4.tcp_retries2=4", "net.ipv4.conf.all.promote_secondaries=1"];
            host.run("sysctl", &[&["-q", "-w"], &settings[..]].concat())?;
        }
        Ok(net)
    }

    /// The way to each other; lost whenever a link or an address goes.
    pub(crate) fn default_routes(&self) -> io::Result<()> {
        for (host, via) in [(&self.client, ROUTER_TO_CLIENT), (&self.server, ROUTER_TO_SERVER)] {
            run("ip", &["-n", host.name(), "route", "replace", "default", "via", via])?;
        }
        Ok(())
    }

    /// Rules of the router for what it forwards, in place of those before.
    pub(crate) fn firewall(&self, rules: &str) {
        let table = format!(
            "table ip lab\ndelete table ip lab\ntable ip lab {{\nchain forward {{\n\
             type filter hook forward priority 0\n{rules}\n}}\n}}"
        );
        self.router.run("nft", &[&table]).unwrap();
    }

    /// Starts a program of ours on one of the hosts.
    pub(crate) fn program(&self, role: &str, at: &str, others: &[&str], habits: Habits) -> Program {
        let host = if role == "client" { &self.client } else { &self.server };
        let log = self.dir.join(format!("{role}.log"));
        Program::spawn(host, role, &argument(at, others, habits), log)
    }

    /// Starts a program of others on the router, and waits until it listens on the port.
    pub(crate) fn daemon(&mut self, command: &[&str], port: u16) {
        let log = self.dir.join(format!("daemon{}.log", self.daemons.len()));
        let mut whole = Command::new("ip");
        whole.args(["netns", "exec", self.router.name(), "setpriv", "--pdeathsig", "KILL"]);
        // A group of its own: what it forks goes with it.
        whole.args(command).process_group(0).stdin(Stdio::null());
        whole.stdout(File::create(&log).unwrap()).stderr(File::create(&log).unwrap());
        self.daemons.push(Daemon(whole.spawn().unwrap()));
        wait_for("the proxy listens", || {
            let filter = format!("sport = :{port}");
            !self.router.run("ss", &["-H", "-ltn", &filter]).unwrap().is_empty()
        });
    }

    /// Kills what was started on the router.
    pub(crate) fn kill_daemons(&mut self) {
        self.daemons.clear();
    }

    /// The first daemon that was started.
    pub(crate) fn first_daemon(&self) -> u32 {
        self.daemons[0].0.id()
    }

    /// Waits until the first daemon has ended by itself.
    pub(crate) fn wait_for_first_daemons_end(&mut self) {
        let first = &mut self.daemons[0].0;
        wait_for("the proxy has ended", || first.try_wait().unwrap().is_some());
    }

    /// A file for a program in the lab.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The last lines of all logs.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        let mut paths: Vec<_> =
            std::fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "log")) {
            let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
            let lines: Vec<_> = text.lines().collect();
            let _ok = writeln!(all, "--- {}", path.file_name().unwrap().display());
            for line in &lines[lines.len().saturating_sub(60)..] {
                let _ok = writeln!(all, "{line}");
            }
        }
        all
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.daemons.clear();
        let _gone = std::fs::remove_dir_all(&self.dir);
    }
}

/// A program of others, killed with all that it has forked when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = libc::pid_t::try_from(self.0.id()).unwrap_or(libc::pid_t::MAX);
        if matches!(self.0.try_wait(), Ok(None)) {
            // SAFETY: a call without memory; the group is that of our child, not reaped yet.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let _reaped = self.0.wait();
    }
}

/// What a program has told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Whether it listens, is connected, has told all, has ended.
    pub(crate) words: Vec<String>,
    /// Session, when bytes arrived, when the oldest and the newest of them had been written.
    pub(crate) reads: Vec<(String, u64, u64, u64)>,
    /// `sent` or `got`, session, bytes, digest.
    pub(crate) ends: Vec<[String; 4]>,
    /// Session, call, error.
    pub(crate) errors: Vec<[String; 3]>,
    /// Session and how often it was resumed.
    pub(crate) resumes: Vec<(String, u64)>,
}

impl Told {
    fn add(&mut self, line: &str) {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0].as_str() {
            "read" => self.reads.push((words[1].clone(), number(2), number(3), number(4))),
            "sent" | "got" => self.ends.push(words.try_into().unwrap()),
            "error" => self.errors.push(words[1..].to_vec().try_into().unwrap()),
            "resumes" => self.resumes.push((words[1].clone(), number(2))),
            _ => self.words.push(line.to_owned()),
        }
    }
}

/// A program of ours on a host of the lab; killed when dropped.
pub(crate) struct Program {
    child: Child,
    stdin: ChildStdin,
    told: Arc<Mutex<Told>>,
    listener: Option<std::thread::JoinHandle<()>>,
}

impl Program {
    fn spawn(host: &Namespace, role: &str, argument: &str, log: impl AsRef<Path>) -> Self {
        let prefix = ["ip", "netns", "exec", host.name()];
        let mut command = child::command(&prefix, "helper_process", role, argument);
        command.env("RUST_LOG", "eversock_engine=debug").env_remove("RUST_TEST_THREADS");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(File::create(log).unwrap()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let told = Arc::new(Mutex::new(Told::default()));
        let ours = Arc::clone(&told);
        let listener = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix('@') {
                    ours.lock().unwrap().add(line);
                }
            }
        });
        Self { child, stdin, told, listener: Some(listener) }
    }

    pub(crate) fn order(&mut self, word: &str) {
        writeln!(self.stdin, "{word}").unwrap();
    }

    pub(crate) fn look<T>(&self, at: impl FnOnce(&Told) -> T) -> T {
        at(&self.told.lock().unwrap())
    }

    pub(crate) fn wait_for_word(&mut self, word: &str) {
        wait_for(word, || {
            let told = self.look(|told| told.words.iter().any(|said| said == word));
            let gone = !told && self.child.try_wait().unwrap().is_some();
            assert!(!gone, "the program has ended and not said {word}");
            told
        });
    }

    pub(crate) fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: a call without memory; the process is our child, which is not reaped yet.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits until it has ended by itself, and well.
    pub(crate) fn wait_for_end(&mut self) {
        let mut status = None;
        wait_for("the program has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "the program has failed");
        if let Some(listener) = self.listener.take() {
            listener.join().unwrap();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
