//! Network namespaces of a test's own, which go with it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::{Duration, Instant};

use super::child::command;

/// All of ours begin so, followed by the process that made them.
const PREFIX: &str = "evs";

/// A network namespace; it and its files below `/etc/netns` go when this is dropped.
#[derive(Debug)]
pub(crate) struct Namespace(String);

impl Namespace {
    /// Makes one whose loopback is up. `what` tells the namespaces of this process apart.
    pub(crate) fn new(what: &str) -> io::Result<Self> {
        static LEFTOVERS: Once = Once::new();
        LEFTOVERS.call_once(remove_leftovers);
        let namespace = Self(format!("{PREFIX}{}-{what}", std::process::id()));
        run("ip", &["netns", "add", &namespace.0])?;
        run("ip", &["-n", &namespace.0, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Where files lie that `ip netns exec` lays over those of /etc, for the program alone.
    pub(crate) fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.0)
    }

    /// Runs a program inside; what it printed.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> io::Result<String> {
        let mut all = vec!["netns", "exec", &self.0, program];
        all.extend(args);
        run("ip", &all)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(name: &str) {
    let _gone = run("ip", &["netns", "del", name]);
    let _gone = std::fs::remove_dir_all(Path::new("/etc/netns").join(name));
    // Only if it is empty, and so was ours.
    let _kept = std::fs::remove_dir("/etc/netns");
}

/// What a test that was killed has left: namespaces named after a process that is no more.
fn remove_leftovers() {
    let Ok(list) = run("ip", &["netns", "list"]) else { return };
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let maker = name.strip_prefix(PREFIX).map(|rest| {
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse::<u32>()
        });
        if let Some(Ok(maker)) = maker
            && !Path::new("/proc").join(maker.to_string()).exists()
        {
            remove(name);
        }
    }
}

/// Runs a program; what it printed, or what it complained of.
pub(crate) fn run(program: &str, args: &[&str]) -> io::Result<String> {
    let out = Command::new(program).args(args).output()?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    Err(io::Error::other(format!("{program} {}: {said}", args.join(" "))))
}

/// Says past the capture of output that something is left out; fails where CI promises it.
pub(crate) fn skip(suite: &str, why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{suite}: {why}");
    let _gone = io::stderr().write_all(format!("SKIPPED: {suite}: {why}\n").as_bytes());
}

/// Runs the hidden test `helper_process` in a role in a namespace of its own, with these files laid
/// over those of /etc. Its argument is the folder of these files.
pub(crate) fn in_namespace(suite: &str, role: &str, files: &[(&str, &str)], limit: Duration) {
    let namespace = match Namespace::new(role) {
        Ok(namespace) => namespace,
        Err(error) => {
            let why = format!("no network namespace: {error}; run as root, with iproute2");
            return skip(suite, &why);
        }
    };
    let etc = namespace.etc();
    for (name, text) in files {
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join(name), text).unwrap();
    }
    let prefix = ["ip", "netns", "exec", namespace.name()];
    let mut child =
        command(&prefix, "helper_process", role, etc.to_str().unwrap()).spawn().unwrap();
    let until = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("not done within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "failed in its namespace, see above");
}
