//! `evs spool` before a pair of ordinary HTTP services, with curl as the client: the main is killed
//! under load, the standby takes over, and no write fails.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Place, Running, have, wait_for};

/// A small service of the kind that people have: notes in a database that main and standby share.
/// It keeps the idempotency key with the effect, and refuses an epoch lower than one it has seen.
const SERVICE: &str = r#"
import sqlite3, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

path, host = sys.argv[1], sys.argv[2]
local = threading.local()

def db():
    if not hasattr(local, "db"):
        local.db = sqlite3.connect(path, timeout=30, isolation_level=None)
    return local.db

db().execute("PRAGMA journal_mode=WAL")
db().execute("CREATE TABLE IF NOT EXISTS note (key TEXT, id TEXT UNIQUE, body TEXT)")
db().execute("CREATE TABLE IF NOT EXISTS epoch (epoch INTEGER)")

class Notes(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def say(self, code, body, headers=()):
        data = body.encode()
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/health":
            return self.say(200, "ok")
        rows = db().execute("SELECT count(*) FROM note WHERE key = ?", (self.path,))
        self.say(200, str(rows.fetchone()[0]))

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        epoch = int(self.headers["Eversock-Epoch"])
        db().execute("BEGIN IMMEDIATE")
        seen = db().execute("SELECT coalesce(max(epoch), 0) FROM epoch").fetchone()[0]
        if epoch < seen:
            db().execute("ROLLBACK")
            return self.say(409, "too old", [("Eversock-Fenced", str(seen))])
        if epoch > seen:
            db().execute("INSERT INTO epoch VALUES (?)", (epoch,))
        db().execute("INSERT OR IGNORE INTO note VALUES (?, ?, ?)",
                     (self.path, self.headers["Idempotency-Key"], body))
        db().execute("COMMIT")
        self.say(201, "made")

server = ThreadingHTTPServer((host, int(sys.argv[3])), Notes)
print("listening", server.server_port, flush=True)
server.serve_forever()
"#;

struct Service(Running);

impl Service {
    fn start(place: &Place, port: u16) -> (Self, u16) {
        let mut command = Command::new("python3");
        let database = place.file("notes.db");
        command.args(["-c", SERVICE]).arg(database).arg("127.0.0.1").arg(port.to_string());
        let running = place.start_command(command);
        let line = running.line();
        let port = line.strip_prefix("listening ").unwrap().parse().unwrap();
        (Self(running), port)
    }

    fn kill(&mut self) {
        self.0.child.kill().unwrap();
        self.0.child.wait().unwrap();
    }
}

/// One answer, as curl saw it.
#[derive(Debug, Clone)]
struct Answer {
    code: u32,
    body: String,
    asked: Instant,
    answered: Instant,
}

fn curl(args: &[&str]) -> Answer {
    let asked = Instant::now();
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "60", "--write-out", "\n%{http_code}"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    let code = code.parse().unwrap();
    Answer { code, body: body.to_owned(), asked, answered: Instant::now() }
}

/// Writers and readers, each an endless row of curls.
struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    writes: Arc<Mutex<Vec<(String, String, Answer)>>>,
    reads: Arc<Mutex<Vec<Answer>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(base: &str) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            count: Arc::default(),
            writes: Arc::default(),
            reads: Arc::default(),
            threads: Vec::new(),
        };
        for writer in 0..3 {
            let (stop, count) = (Arc::clone(&load.stop), Arc::clone(&load.count));
            let (writes, base) = (Arc::clone(&load.writes), base.to_owned());
            load.threads.push(thread::spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Acquire) {
                    number += 1;
                    let (key, id) = (format!("/note/{writer}"), format!("{writer}-{number}"));
                    let (url, header) = (format!("{base}{key}"), format!("Idempotency-Key: {id}"));
                    let answer = curl(&["-X", "PUT", "-H", &header, "-d", &id, &url]);
                    writes.lock().unwrap().push((key, id, answer));
                    count.fetch_add(1, Ordering::AcqRel);
                }
            }));
        }
        let (stop, reads) = (Arc::clone(&load.stop), Arc::clone(&load.reads));
        let url = format!("{base}/other");
        load.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                let answer = curl(&[&url]);
                reads.lock().unwrap().push(answer);
            }
        }));
        load
    }

    fn await_more(&self, more: u64) {
        let target = self.count.load(Ordering::Acquire) + more;
        wait_for("more writes", || (self.count.load(Ordering::Acquire) >= target).then_some(()));
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn pair(place: &Place, config: &str) -> serde_json::Value {
    let done = place.run(&["spool", "stat", "--config", config, "--json"]);
    let value: serde_json::Value = serde_json::from_str(&done.stdout).expect(&done.stdout);
    value[0].clone()
}

#[test]
fn a_main_that_is_killed_under_http_load_costs_no_write_and_reads_only_the_switch() {
    if !have("curl") || !have("python3") {
        return;
    }
    let place = Place::new();
    let (mut main, main_port) = Service::start(&place, 0);
    let (_standby, standby_port) = Service::start(&place, 0);
    let config = place.file("front.toml");
    let text = format!(
        r#"
dir = "spool"
[[http]]
listen = "127.0.0.1:0"
deadline = "50s"
[[http.route]]
path = "/"
pair = "notes"
[[pair]]
name = "notes"
lease = "2s"
confirm = "300ms"
probe-every = "200ms"
probe-timeout = "1s"
call-timeout = "2s"
[[pair.server]]
url = "http://127.0.0.1:{main_port}"
class = "ledger"
health = "/health"
[[pair.server]]
url = "http://127.0.0.1:{standby_port}"
class = "ledger"
health = "/health"
"#
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap().to_owned();
    let front = place.start(&["spool", "run", "--config", &config, "--json"]);
    let ready = front.json("ready");
    let addr = ready["listening"][0]["addr"].as_str().unwrap();
    let base = format!("http://{addr}");
    wait_for("a main", || (pair(&place, &config)["state"] == "normal").then_some(()));

    let mut load = Load::start(&base);
    load.await_more(60);
    let killed = Instant::now();
    main.kill();
    wait_for("the standby is main", || {
        let pair = pair(&place, &config);
        let live = &pair["live"];
        (live["holder"] == 1 && matches!(pair["state"].as_str(), Some("draining" | "normal")))
            .then_some(())
    });
    let switched = killed.elapsed();
    load.await_more(60);
    load.end();
    wait_for("the spool is drained", || {
        (pair(&place, &config)["spool"]["pending"] == 0).then_some(())
    });

    let writes = load.writes.lock().unwrap();
    let failed: Vec<_> =
        writes.iter().filter(|(_, _, answer)| !matches!(answer.code, 201 | 202)).collect();
    assert!(failed.is_empty(), "{} of {} writes failed: {failed:?}", failed.len(), writes.len());
    let spooled = writes.iter().filter(|(_, _, answer)| answer.code == 202).count();
    assert!(spooled > 0, "no write came while there was no main");
    // Each is there once: read where the services keep them.
    let mut by_key: HashMap<&str, usize> = HashMap::new();
    for (key, _, _) in writes.iter() {
        *by_key.entry(key).or_default() += 1;
    }
    for (key, count) in by_key {
        let answer = curl(&[&format!("{base}{key}")]);
        assert_eq!(answer.body, count.to_string(), "notes under {key}");
    }

    let reads = load.reads.lock().unwrap();
    assert!(reads.iter().all(|answer| answer.code == 200), "a read failed: {reads:?}");
    // Reads were without an answer from the kill until there was a main, and no longer: what is
    // added is what one curl takes on a busy machine.
    let waited = reads.iter().filter(|answer| answer.asked > killed || answer.answered > killed);
    let first = waited.map(|answer| answer.answered - killed).min().unwrap();
    let gap = reads.windows(2).map(|two| two[1].answered - two[0].answered).max().unwrap();
    println!(
        "{} writes, {spooled} of them spooled, 0 failed; switched {switched:?} after the kill; the \
         first answer to a read after {first:?}, the longest time without one {gap:?}",
        writes.len()
    );
    assert!(
        gap < switched + Duration::from_secs(10),
        "reads waited {gap:?}, the switch took {switched:?}"
    );
}
