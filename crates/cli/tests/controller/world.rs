//! Two controllers that are partners, and devices of theirs.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{Done, Place, Running, wait_for};

/// An address that no other process binds: places have to be known before anybody listens there.
fn own_address() -> SocketAddr {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    // Process ids have 22 bits at most.
    let nth = COUNT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from(([127, 64 + high, middle, low], 22_000 + nth))
}

/// A controller that runs.
pub(crate) struct Controller {
    pub(crate) running: Running,
    pub(crate) ready: Value,
}

impl Controller {
    /// Ends in order, with exit status 0.
    pub(crate) fn stop(mut self) {
        let pid = Pid::from_raw(self.running.child.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let (code, _) = self.running.wait();
        assert_eq!(code, Some(0));
    }

    /// Dies.
    pub(crate) fn kill(mut self) {
        self.running.child.kill().unwrap();
        self.running.child.wait().unwrap();
    }
}

/// The files of two controllers, `a` and `b`, where devices whose names begin so are at home.
pub(crate) struct World {
    pub(crate) place: Place,
    doors: [SocketAddr; 2],
}

pub(crate) const NAMES: [&str; 2] = ["a", "b"];

impl World {
    pub(crate) fn new() -> Self {
        let place = Place::new();
        let doors = [own_address(), own_address()];
        let partners = [own_address(), own_address()];
        for own in 0..2 {
            let text =
                file(NAMES[own], NAMES[1 - own], doors[own], partners[own], partners[1 - own]);
            fs::write(place.file(&format!("{}.toml", NAMES[own])), text).unwrap();
            let device = device(NAMES[own], NAMES[1 - own], doors[own], doors[1 - own]);
            fs::write(place.file(&format!("{}-device.toml", NAMES[own])), device).unwrap();
        }
        Self { place, doors }
    }

    pub(crate) fn config(&self, name: &str) -> PathBuf {
        self.place.file(&format!("{name}.toml"))
    }

    pub(crate) fn door(&self, name: &str) -> SocketAddr {
        self.doors[NAMES.iter().position(|one| *one == name).unwrap()]
    }

    pub(crate) fn start(&self, name: &str) -> Controller {
        let config = self.config(name);
        let args = ["controller", "run", "--json", "--config", config.to_str().unwrap()];
        let running = self.place.start(&args);
        let ready = running.json("ready");
        Controller { running, ready }
    }

    /// Both, with a link between them.
    pub(crate) fn start_both(&self) -> [Controller; 2] {
        let both = NAMES.map(|name| self.start(name));
        for name in NAMES {
            self.wait_for(name, "linked", |now| now["partners"][0]["state"] == "up");
        }
        both
    }

    /// Devices of one home, which can go to the other.
    pub(crate) fn devices(&self, home: &str, count: usize) -> Running {
        let config = self.place.file(&format!("{home}-device.toml"));
        let config = config.to_str().unwrap();
        let (prefix, count) = (format!("{home}-"), count.to_string());
        let args = ["device", "--json", "--config", config, "--prefix", &prefix, "--count", &count];
        let running = self.place.start(&args);
        running.json("ready");
        running
    }

    /// A command about a controller.
    pub(crate) fn run(&self, name: &str, args: &[&str]) -> Done {
        let config = self.config(name);
        let all = [&["controller"], args, &["--config", config.to_str().unwrap()]].concat();
        self.place.run(&all)
    }

    /// The same, which has to succeed; what it prints as JSON.
    pub(crate) fn json(&self, name: &str, args: &[&str]) -> Value {
        let done = self.run(name, &[args, &["--json"]].concat());
        assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
        serde_json::from_str(&done.stdout).expect(&done.stdout)
    }

    /// A controller's status, when it is as wanted.
    pub(crate) fn wait_for(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut last = Value::Null;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(what, || {
                last = self.json(name, &["status"]);
                wanted(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{name} is not {what}: {last:#}"))
    }

    /// Waits until so many devices of a home are connected to a controller.
    pub(crate) fn wait_until_served(&self, name: &str, home: &str, count: u64) -> Value {
        let what = format!("serving {count} devices of {home}");
        self.wait_for(name, &what, |now| {
            let one = partition(now, home);
            one["owned"] == count && one["connected"] == count
        })
    }

    /// Waits until both have told each other everything.
    pub(crate) fn wait_until_in_sync(&self) {
        for name in NAMES {
            self.wait_for(name, "in sync", |now| {
                let all = now["partitions"].as_array().unwrap();
                let mut sync = all.iter().flat_map(|one| one["sync"].as_array().unwrap());
                sync.all(|sync| sync["state"] == "in-sync" && sync["lag"] == 0)
            });
        }
    }
}

/// One partition of a status.
pub(crate) fn partition<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["partitions"].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).unwrap()
}

/// A controller that a busy machine does not make its devices miss. That it has died they know from
/// their connections, after their `grace`.
fn file(name: &str, other: &str, door: SocketAddr, own: SocketAddr, partner: SocketAddr) -> String {
    format!(
        "name = \"{name}\"\n\
         metrics = \"127.0.0.1:0\"\n\
         [door]\n\
         listen = \"{door}\"\n\
         insecure = true\n\
         [partner-door]\n\
         listen = \"{own}\"\n\
         insecure = true\n\
         [[partner]]\n\
         name = \"{other}\"\n\
         addrs = \"{partner}\"\n\
         grace = \"2s\"\n\
         [[dispatch]]\n\
         prefix = \"{other}-\"\n\
         partition = \"{other}\"\n\
         [link]\n\
         ping = \"200ms\"\n\
         silence = \"5s\"\n\
         retry-first = \"50ms\"\n\
         retry-most = \"500ms\"\n\
         [store]\n\
         dir = \"{name}\"\n\
         [policy]\n\
         lease = \"60s\"\n\
         handshake = \"1s\"\n\
         misses = 15\n"
    )
}

fn device(home: &str, backup: &str, own: SocketAddr, other: SocketAddr) -> String {
    format!(
        "[device]\n\
         name = \"unnamed\"\n\
         grace = \"2s\"\n\
         base = \"100ms\"\n\
         base-all = \"300ms\"\n\
         cap = \"2s\"\n\
         answer-within = \"10s\"\n\
         attempt-every = \"200ms\"\n\
         attempt-burst = 100\n\
         start-within = \"100ms\"\n\
         handshake-min = \"100ms\"\n\
         [device.home]\n\
         name = \"{home}\"\n\
         addrs = \"{own}\"\n\
         [[device.backup]]\n\
         name = \"{backup}\"\n\
         addrs = \"{other}\"\n"
    )
}
