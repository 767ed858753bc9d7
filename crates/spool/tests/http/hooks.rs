//! Commands and calls that an operator has run when servers change places.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, process};

use eversock_spool::http::Hook;
use eversock_spool::target::CallFailed;
use hyper::Method;

use crate::service::{Service, ok, said};
use crate::target::{Bench, record};
use crate::{PATIENCE, wait_until};

/// A folder that goes when the test ends.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("evs-hooks-{}-{count}", process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shell(folder: &Folder, script: &str, timeout: Duration) -> Option<Hook> {
    let argv = ["sh", "-c", &format!("cd '{}'; {script}", folder.0.display())];
    Some(Hook::Command { argv: argv.map(str::to_owned).to_vec(), timeout })
}

const NOBODY: &str = "http://127.0.0.1:9";

#[test]
fn promotion_runs_once_for_each_time_in_office_and_decides() {
    let folder = Folder::new();
    let script = "echo $EVERSOCK_PAIR $EVERSOCK_SERVER $EVERSOCK_EPOCH >> log; test ! -e broken";
    let bench = Bench::new(NOBODY, |config| config.promote = shell(&folder, script, PATIENCE));
    assert!(bench.grant(3));
    assert!(bench.grant(3) && bench.grant(3), "renewals");
    assert!(bench.grant(4), "still main, as nobody was since");
    assert_eq!(folder.text("log"), "pair left 3\n");
    fs::write(folder.0.join("broken"), "").unwrap();
    assert!(!bench.grant(6), "the command fails");
    let items = vec![record(Method::PUT, "/a", 1, "")];
    assert_eq!(bench.call(items), Err(CallFailed::Fenced { asked: 1, seen: 6 }));
    assert!(!bench.grant(5), "the lower one is over");
    fs::remove_file(folder.0.join("broken")).unwrap();
    assert!(bench.grant(6), "it is tried again");
    assert_eq!(folder.text("log"), "pair left 3\npair left 6\npair left 6\n");
}

#[test]
fn a_command_that_hangs_is_killed_with_its_children() {
    let folder = Folder::new();
    let script = "sleep 1000 & echo $! > child; echo $$ > shell; wait";
    let bound = Duration::from_secs(3);
    let bench = Bench::new(NOBODY, |config| config.promote = shell(&folder, script, bound));
    let began = Instant::now();
    assert!(!bench.grant(1));
    assert!(began.elapsed() >= bound);
    for name in ["child", "shell"] {
        let pid = folder.text(name);
        assert!(!pid.is_empty(), "the hook had begun");
        let stat = Path::new("/proc").join(pid.trim()).join("stat");
        // A child whose parent is gone stays as a zombie until init looks.
        wait_until("it is gone", || {
            fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
        });
    }
}

#[test]
fn a_command_that_is_not_there_fails() {
    let argv = vec!["/nowhere/at/all".to_owned()];
    let hook = Some(Hook::Command { argv, timeout: PATIENCE });
    let bench = Bench::new(NOBODY, |config| {
        (config.promote, config.fence) = (hook.clone(), hook.clone());
        config.release = hook;
    });
    assert!(!bench.grant(1));
    assert!(!bench.fence());
    assert!(!bench.release(1, PATIENCE));
}

#[test]
fn release_and_fence_run_their_commands() {
    let folder = Folder::new();
    let service = Service::saying(&ok("x"));
    let bench = Bench::new(&service.base(), |config| {
        config.release = shell(&folder, "echo release $EVERSOCK_EPOCH >> log", PATIENCE);
        config.fence = shell(&folder, "echo fence $EVERSOCK_EPOCH >> log", PATIENCE);
    });
    assert!(bench.grant(1));
    assert!(bench.release(1, PATIENCE));
    assert!(bench.grant(2));
    assert!(bench.release(1, PATIENCE), "long over");
    assert!(bench.grant(2), "and the server keeps what it has");
    assert!(bench.fence());
    assert_eq!(folder.text("log"), "release 1\nfence 2\n");
    assert!(!bench.grant(2), "what was fenced comes back under a new epoch only");
    assert!(bench.grant(3));
}

#[test]
fn without_hooks_a_server_is_taken_at_its_word_but_not_fenced() {
    let bench = Bench::new(NOBODY, |_| {});
    assert!(bench.grant(1));
    assert!(bench.release(1, PATIENCE));
    assert!(!bench.fence());
}

#[test]
fn a_hook_may_be_a_post() {
    use std::io::Write;
    let service = Service::start(|asked, stream| {
        let status = if asked.target == "/bad" { "500 No" } else { "204 Done" };
        stream.write_all(said(status, "", "").as_bytes()).is_ok()
    });
    let post = |path: &str| {
        Some(Hook::Post { url: format!("{}{path}", service.base()), timeout: PATIENCE })
    };
    let bench = Bench::new(NOBODY, |config| {
        (config.promote, config.fence) = (post("/promote"), post("/bad"));
    });
    assert!(bench.grant(7));
    assert!(!bench.fence());
    let asked = service.asked.lock().unwrap()[0].clone();
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/promote"));
    let headers = ["eversock-pair", "eversock-server", "eversock-epoch"];
    assert_eq!(headers.map(|name| asked.header(name).unwrap()), ["pair", "left", "7"]);
}

#[test]
fn a_post_that_hangs_fails_in_its_time() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/promote", listener.local_addr().unwrap());
    let timeout = Duration::from_millis(200);
    let hook = Some(Hook::Post { url, timeout });
    let bench = Bench::new(NOBODY, |config| config.promote = hook);
    assert!(!bench.grant(1));
}
