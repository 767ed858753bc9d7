//! What the tests of the preload share: the library, programs under it, a bad network.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![allow(dead_code, reason = "each test target uses its own part")]

#[path = "../../../../tests/common/port.rs"]
mod port;
pub(crate) mod servers;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use eversock_chaos::{Config, Fault, Plan, Proxy, Target};

pub(crate) use port::free_port;

/// How long one program may run.
const RUN_MAX: Duration = Duration::from_secs(90);
/// Connections that the kernel kills of one program, at least.
const KILLS_MIN: usize = 3;

/// Rules under which all connections and listeners of a program are virtual.
pub(crate) const ALL: &str = "[[connect]]\nmode = \"require\"\n[[listen]]\nmode = \"require\"\n";
/// Rules that match nothing that a test does.
pub(crate) const NONE: &str =
    "[[connect]]\nhost = \"192.0.2.1\"\n[[listen]]\nhost = \"192.0.2.1\"\n";

/// The directory of this crate.
pub(crate) fn here() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").unwrap().into()
}

fn profile_dir() -> PathBuf {
    let exe = env::current_exe().unwrap();
    // <target>/<profile>/deps/<test>
    exe.parent().and_then(Path::parent).unwrap().to_path_buf()
}

/// A directory for what the tests make.
pub(crate) fn out_dir() -> PathBuf {
    let dir =
        profile_dir().join("preload-tests").join(env::current_exe().unwrap().file_stem().unwrap());
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// The library, built with the target directory and profile of the running test, once. A library
/// that only defines libc's names is nothing that cargo would link a test with, or build for it.
pub(crate) fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        build(&["-p", "eversock-preload", "--lib"]);
        profile_dir().join("libeversock_preload.so")
    })
}

/// The program `evs`, which finds the library beside itself.
pub(crate) fn evs() -> &'static Path {
    static EVS: OnceLock<PathBuf> = OnceLock::new();
    EVS.get_or_init(|| {
        library();
        build(&["-p", "eversock-cli", "--bin", "evs"]);
        profile_dir().join("evs")
    })
}

/// The library for C programs to be linked with.
pub(crate) fn static_library() -> PathBuf {
    build(&["-p", "eversock", "--lib"]);
    profile_dir().join("libeversock.a")
}

fn build(what: &[&str]) {
    let profile = profile_dir();
    let mut command = cargo();
    command.args(["build", "--quiet"]).args(what);
    match profile.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => {}
        Some(name) => {
            command.args(["--profile", name]);
        }
    }
    command.current_dir(here()).env("CARGO_TARGET_DIR", profile.parent().unwrap());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what:?} cannot be built:\n{text}");
}

/// A cargo that is not told what cargo has told this test of its package: crates whose build
/// scripts ask for that (ring) would be built anew, and again by the next cargo that is not told.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"];
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| told.iter().any(|told| name.starts_with(told))) {
            command.env_remove(name);
        }
    }
    command
}

/// A C program of `programs/`, compiled with warnings as errors.
pub(crate) fn compiled(name: &str) -> PathBuf {
    compiled_with(name, &[])
}

/// The same with more arguments for the compiler, behind the source.
pub(crate) fn compiled_with(name: &str, more: &[OsString]) -> PathBuf {
    let source = here().join("tests/programs").join(format!("{name}.c"));
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let to = out_dir().join(name);
    // Put in its place when it is whole: another test may be running what is there.
    let made = out_dir().join(format!("{name}.{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    let mut command = Command::new("cc");
    command.args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]);
    let output = command.arg(&made).arg(source).args(more).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name}.c cannot be compiled:\n{text}");
    std::fs::rename(made, &to).unwrap();
    to
}

/// Whether a program is there. With CI=true a missing one is a failure, else the test says that it
/// leaves something out.
pub(crate) fn have(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    if env::split_paths(&paths).chain(more).any(|dir| dir.join(program).is_file()) {
        return true;
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "{program} is missing, and this is CI");
    eprintln!("SKIPPED in part: {program} is not installed");
    false
}

/// Makes a program run under the library with these rules.
pub(crate) fn preload<'a>(command: &'a mut Command, rules: &str) -> &'a mut Command {
    command.env("LD_PRELOAD", library()).env("EVERSOCK_RULES", rules)
}

/// A running program; killed with its children when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) out: BufReader<ChildStdout>,
    errors: Option<JoinHandle<String>>,
    until: Instant,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        // A group of its own, so that children go with it.
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _cut = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, out, errors: Some(errors), until: Instant::now() + RUN_MAX }
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let _ended = self.out.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// The port that it prints.
    pub(crate) fn port(&mut self) -> u16 {
        let line = self.line();
        line.parse().unwrap_or_else(|_| panic!("no port: {line:?}; {}", self.end().2))
    }

    /// Its standard input, if that was piped.
    pub(crate) fn stdin(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end: how it ended, what else it printed, what it complained of.
    pub(crate) fn end(&mut self) -> (ExitStatus, String, String) {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > self.until {
                self.kill();
                let errors = self.errors.take().map(JoinHandle::join);
                panic!("it does not end; it said: {errors:?}");
            }
            sleep(Duration::from_millis(2));
        };
        let mut out = String::new();
        self.out.read_to_string(&mut out).unwrap();
        let errors = self.errors.take().map_or_else(String::new, |errors| errors.join().unwrap());
        (status, out, errors)
    }

    /// Waits for its end, which must be a good one; gives what it printed.
    pub(crate) fn succeed(&mut self, name: &str) -> String {
        let (status, out, errors) = self.end();
        assert!(status.success(), "{name}: {status}; printed {out:?}, said {errors}");
        out
    }

    fn kill(&mut self) {
        let group = i32::try_from(self.child.id()).unwrap();
        // SAFETY: a group that we have made and not yet waited for.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        let _reaped = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking()
            && let Some(errors) = self.errors.take().and_then(|errors| errors.join().ok())
            && !errors.is_empty()
        {
            eprintln!("a program that was running said:\n{errors}");
        }
    }
}

pub(crate) fn proxy_to(port: u16) -> Proxy {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    Proxy::spawn(Config::new(local, SocketAddr::from(([127, 0, 0, 1], port)))).unwrap()
}

/// A proxy that resets the connection that carried the byte whenever so many more have passed.
pub(crate) fn cutting(port: u16, every: u64) -> Proxy {
    let upstream = SocketAddr::from(([127, 0, 0, 1], port));
    let plan = Plan::parse(&format!("every {every} reset")).unwrap();
    let config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), upstream);
    Proxy::spawn(config.with_plan(plan)).unwrap()
}

/// How many connections were cut during `work`.
pub(crate) fn cuts(proxy: &Proxy, work: impl FnOnce()) -> u64 {
    let before = proxy.stats().summary.cuts;
    work();
    proxy.stats().summary.cuts - before
}

/// Runs one part of a C program against an echo server that forks for each connection, with all
/// connections reset whenever the program asks for it. The program must say that it is done.
pub(crate) fn does(program: &Path, what: &str, rules: &str) {
    does_with(program, what, |command| {
        preload(command, rules);
    });
}

/// The same with an environment of its own for the program; the server has [`ALL`].
pub(crate) fn does_with(program: &Path, what: &str, prepare: impl FnOnce(&mut Command)) {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    let mut server = Command::new(SERVER.get_or_init(|| compiled("forks")));
    let mut server = Program::start(preload(&mut server, ALL));
    let proxy = proxy_to(server.port());
    let port = proxy.local_addr().port().to_string();
    let mut command = Command::new(program);
    command.args([what, &port]).env("PORT", &port).stdin(Stdio::piped());
    prepare(&mut command);
    let mut client = Program::start(&mut command);
    loop {
        match client.line().as_str() {
            "cut" => {
                // The redial after the last one may be under way still.
                while proxy.inject(Fault::Reset, Target::Open).unwrap() == 0 {
                    assert!(client.is_running(), "{what}: {:?}", client.end());
                    sleep(Duration::from_millis(1));
                }
                client.stdin().write_all(b"x").unwrap();
            }
            "done" => break,
            other => panic!("{what}: {other:?}; {:?}", client.end()),
        }
    }
    client.succeed(what);
}

/// Waits until something listens there, without connecting: these servers take one client.
pub(crate) fn wait_listening(port: u16, server: &mut Program) {
    let wanted = format!(":{port:04X} 00000000:0000 0A");
    let until = Instant::now() + Duration::from_secs(20);
    while !std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&wanted) {
        assert!(server.is_running() && Instant::now() < until, "it does not listen");
        sleep(Duration::from_millis(2));
    }
}

/// A file of so many MiB that differ at every offset.
pub(crate) fn random_file(path: &Path, mib: usize) {
    let mut bytes = vec![0u8; mib << 20];
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

/// Where programs are found, those for administrators too.
pub(crate) fn path() -> String {
    format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap())
}

/// What ss(8) prints of the connections to and from a port on loopback, one a line.
fn sockets(port: u16, options: &[&str]) -> String {
    let mut ss = Command::new("ss");
    ss.args(["-H", "-t", "-O"]).args(options).args(["state", "connected", "exclude", "time-wait"]);
    ss.arg(format!("( dport = :{port} or sport = :{port} )"));
    let output = ss.env("PATH", path()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// True when one of the connections to the port has had so many bytes confirmed.
fn has_carried(port: u16, bytes: u64) -> bool {
    let text = sockets(port, &["-i"]);
    let acked = text.split_whitespace().filter_map(|word| word.strip_prefix("bytes_acked:"));
    acked.filter_map(|n| n.parse::<u64>().ok()).any(|acked| acked >= bytes)
}

/// Lets the kernel kill the connections of a port, both ends of them, again and again while the
/// program runs.
pub(crate) fn killed_while_it_runs(client: &mut Program, port: u16, name: &str) {
    let mut killed = 0;
    // A connect whose handshake is cut fails, as a plain one would: first the session must stand.
    let until = Instant::now() + Duration::from_secs(20);
    while client.is_running() && !has_carried(port, 8192) {
        assert!(Instant::now() < until, "{name}: nothing is sent");
        sleep(Duration::from_millis(2));
    }
    while client.is_running() {
        killed += sockets(port, &["-K"]).lines().count();
        sleep(Duration::from_millis(40));
    }
    if killed == 0 {
        // SOCK_DESTROY needs root and a kernel that has it.
        assert!(env::var("CI").as_deref() != Ok("true"), "{name}: ss -K killed nothing");
        eprintln!("SKIPPED: ss -K kills nothing here");
        return;
    }
    assert!(killed >= KILLS_MIN, "{name}: only {killed} connections were killed");
}
