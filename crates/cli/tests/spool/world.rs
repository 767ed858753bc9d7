//! A front and two mail servers on shared storage.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use eversock_spool::sender::{Sender, SenderConfig};
use eversock_spool::{Kind, Outcome, Request, RequestId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{Done, Place, Running, wait_for};

/// Longer than anything takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A front that runs.
pub(crate) struct Front {
    pub(crate) running: Running,
    pub(crate) ready: Value,
}

impl Front {
    pub(crate) fn door(&self, kind: &str) -> SocketAddr {
        let all = self.ready["listening"].as_array().unwrap();
        let door = all.iter().find(|door| door["door"] == kind).unwrap();
        door["addr"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn metrics(&self) -> SocketAddr {
        self.ready["metrics"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn sender(&self) -> Sender {
        Sender::connect([self.door("socket")], "mail", SenderConfig::default()).unwrap()
    }

    pub(crate) fn terminate(&self) {
        kill_process(pid(&self.running), Signal::TERM).unwrap();
    }

    /// Ends in order, with exit status 0.
    pub(crate) fn stop(mut self) {
        self.terminate();
        let (code, _) = self.running.wait();
        assert_eq!(code, Some(0));
    }

    /// Dies.
    pub(crate) fn kill(mut self) {
        self.running.child.kill().unwrap();
        self.running.child.wait().unwrap();
    }
}

fn pid(running: &Running) -> Pid {
    Pid::from_raw(running.child.id().cast_signed()).unwrap()
}

/// Servers of a pair, a place for fronts, and the file of one.
pub(crate) struct World {
    /// Before the place, which is removed when they have ended.
    pub(crate) servers: Vec<Running>,
    pub(crate) addrs: Vec<SocketAddr>,
    pub(crate) config: PathBuf,
    pub(crate) place: Place,
}

impl World {
    /// With two servers that are up.
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// And with these lines in the pair.
    pub(crate) fn with(lines: &str) -> Self {
        let place = Place::new();
        let servers: Vec<Running> = (0..2).map(|_| server(&place, "mail")).collect();
        let addrs: Vec<SocketAddr> = servers.iter().map(Running::addr).collect();
        let config = place.file("spool.toml");
        fs::write(&config, file(&addrs, lines)).unwrap();
        Self { servers, addrs, config, place }
    }

    pub(crate) fn start(&self) -> Front {
        let running = self.place.start(&["spool", "run", "--json", "--config", self.config()]);
        let ready = running.json("ready");
        Front { running, ready }
    }

    pub(crate) fn config(&self) -> &str {
        self.config.to_str().unwrap()
    }

    /// A command about the front.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        let all = [&["spool"], args, &["--config", self.config()]].concat();
        self.place.run(&all)
    }

    /// The same, which has to succeed; what it prints as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let done = self.run(&[args, &["--json"]].concat());
        assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
        serde_json::from_str(&done.stdout).expect(&done.stdout)
    }

    /// The pair, when it is as wanted.
    pub(crate) fn wait_for_pair(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(what, || {
                last = self.json(&["stat"])[0].clone();
                wanted(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("the pair is not {what}: {last:#}"))
    }

    pub(crate) fn wait_until_normal(&self) -> Value {
        self.wait_for_pair("normal", |pair| pair["state"] == "normal")
    }

    pub(crate) fn rows(&self) -> Vec<Value> {
        self.json(&["ls", "--limit", "10000"]).as_array().unwrap().clone()
    }

    /// What lies in the spool's own file.
    pub(crate) fn spool_file(&self) -> PathBuf {
        self.place.file("spool/mail.db")
    }
}

/// A mail server on the storage of this name.
pub(crate) fn server(place: &Place, storage: &str) -> Running {
    let dir = place.file(storage);
    let dir = dir.to_str().unwrap();
    place.start(&["spool", "backend", "mail", "--json", "--listen", "127.0.0.1:0", "--dir", dir])
}

fn file(addrs: &[SocketAddr], lines: &str) -> String {
    let mut text = format!(
        "dir = \"spool\"\n\
         metrics = \"127.0.0.1:0\"\n\
         [[socket]]\n\
         listen = \"127.0.0.1:0\"\n\
         [[http]]\n\
         listen = \"127.0.0.1:0\"\n\
         [[http.route]]\n\
         path = \"/\"\n\
         pair = \"mail\"\n\
         [[smtp]]\n\
         listen = \"127.0.0.1:0\"\n\
         hostname = \"front.example\"\n\
         pair = \"mail\"\n\
         [[pair]]\n\
         name = \"mail\"\n\
         lease = \"2s\"\n\
         probe-every = \"100ms\"\n\
         probe-timeout = \"1s\"\n\
         confirm = \"500ms\"\n\
         flap-guard = \"0s\"\n\
         retry-after = \"100ms\"\n\
         {lines}\n"
    );
    for (addr, name) in addrs.iter().zip(["left", "right"]) {
        text.push_str(&format!(
            "[[pair.server]]\nname = \"{name}\"\nurl = \"eversock://{addr}\"\ngrace = \"1s\"\n"
        ));
    }
    text
}

/// A message, told apart by its subject.
pub(crate) fn message(subject: &str) -> Vec<u8> {
    format!("Subject: {subject}\r\n\r\nwhat there is to say of {subject}\r\n").into_bytes()
}

pub(crate) fn request(kind: Kind, key: &str, payload: Vec<u8>) -> Request {
    let id = RequestId::random().unwrap();
    Request { id, kind, key: key.as_bytes().to_vec(), payload, deadline: DEADLINE }
}

/// Writes, and is told that it is done or will be.
pub(crate) fn write(sender: &Sender, key: &str, subject: &str) -> Outcome {
    let outcome = sender.request(request(Kind::Write, key, message(subject)));
    let is_kept = matches!(outcome, Outcome::Applied { .. } | Outcome::Spooled { .. });
    assert!(is_kept, "{subject}: {outcome:?}");
    outcome
}

/// The subjects in a mailbox, in its order.
pub(crate) fn subjects(sender: &Sender, key: &str) -> Vec<String> {
    let outcome = sender.request(request(Kind::Read, key, b"list".to_vec()));
    let Outcome::Applied { answer } = &outcome else { panic!("{outcome:?}") };
    let list: Value = serde_json::from_slice(answer).unwrap();
    let messages = list["messages"].as_array().unwrap();
    messages.iter().map(|one| one["subject"].as_str().unwrap().to_owned()).collect()
}
