//! Hosts with a line between any two of them, and what runs on them.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use eversock_controller::report::Report;

use crate::child::Helper;
use crate::controller::{Entry, Happened, Setup};
use crate::fleet::{Group, Stands};
use crate::netns::{Namespace, run, skip};
use crate::site::{CONTROLLERS, PATIENCE, ip, wait_for};

/// Three controllers, two hosts with devices, one with the third party.
const HOSTS: [&str; 6] = ["a", "b", "c", "d", "e", "t"];

/// What all tests begin with.
pub(crate) const PARAMETERS: &str = "lease = \"10min\"\nhandshake = \"1s\"\nmisses = 4\n\
    pace = 20\npace-in-flight = 10\npace-deadline = \"30s\"\n";

/// All of a test: its hosts and processes are gone with it.
pub(crate) struct Lab {
    pub(crate) controllers: Vec<Option<Helper>>,
    pub(crate) fleets: Vec<Helper>,
    pub(crate) third: Option<Helper>,
    setups: Vec<Setup>,
    /// What stands before the command of a controller's process.
    prefixes: Vec<Vec<String>>,
    cuts: Vec<(String, String)>,
    namespaces: Vec<Namespace>,
    folder: Folder,
    began: Instant,
}

/// A folder that is gone with this.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// The names of the devices of one home.
pub(crate) fn devices(home: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{home}-{number:03}")).collect()
}

/// 200 devices, shared fairly by three homes, some of those of `a` left to another group.
pub(crate) fn groups(of_a: std::ops::Range<usize>) -> Vec<Group> {
    vec![group("a", of_a), group("b", 0..67), group("c", 0..66)]
}

pub(crate) fn group(home: &str, range: std::ops::Range<usize>) -> Group {
    let first = CONTROLLERS.iter().position(|name| *name == home).unwrap();
    let controllers = (0..3).map(|next| CONTROLLERS[(first + next) % 3].to_owned()).collect();
    Group { devices: devices(home, range), controllers }
}

impl Lab {
    /// `None`: it cannot be had here, which was said.
    pub(crate) fn new(name: &str) -> Option<Self> {
        crate::begin();
        let folder = std::env::temp_dir().join(format!("evs-net-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let folder = Folder(folder);
        let namespaces = match wire(name, &folder.0) {
            Ok(namespaces) => namespaces,
            Err(error) => {
                let why = format!("no network namespaces: {error}; run as root, with iproute2");
                skip("controller", &why);
                return None;
            }
        };
        let setup = |name: &&str| Setup {
            name: (*name).to_owned(),
            folder: folder.0.join(name),
            partners: CONTROLLERS.iter().filter(|o| *o != name).map(|o| (*o).to_owned()).collect(),
            passive: Vec::new(),
            parameters: PARAMETERS.to_owned(),
            strange: (0, 0),
        };
        Some(Self {
            controllers: vec![None, None, None],
            fleets: Vec::new(),
            third: None,
            setups: CONTROLLERS.iter().map(setup).collect(),
            prefixes: vec![Vec::new(); 3],
            cuts: Vec::new(),
            namespaces,
            folder,
            began: Instant::now(),
        })
    }

    /// All three controllers, the third party, and 200 devices, each at its home, which everybody
    /// knows.
    pub(crate) fn usual(name: &str) -> Option<Self> {
        let mut lab = Self::new(name)?;
        lab.start_all();
        lab.fleet("d", &groups(0..67));
        lab.settle(200);
        lab.assert_at_home();
        Some(lab)
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.folder.0
    }

    /// How a controller will be started next time.
    pub(crate) fn setup(&mut self, name: &str) -> &mut Setup {
        &mut self.setups[number(name)]
    }

    /// What its process is to be started by.
    pub(crate) fn prefix(&mut self, name: &str, by: Vec<String>) {
        self.prefixes[number(name)] = by;
    }

    pub(crate) fn start_all(&mut self) {
        CONTROLLERS.iter().for_each(|name| self.launch(name));
        CONTROLLERS.iter().for_each(|name| self.ready(name));
        let mut third = self.spawn("t", &[], "third", "");
        assert_eq!(third.word(), "ready");
        self.third = Some(third);
    }

    pub(crate) fn start(&mut self, name: &str) {
        self.launch(name);
        self.ready(name);
    }

    fn launch(&mut self, name: &str) {
        let setup = serde_json::to_string(&self.setups[number(name)]).unwrap();
        let by = self.prefixes[number(name)].clone();
        let helper = self.spawn(name, &by, "controller", &setup);
        self.controllers[number(name)] = Some(helper);
    }

    fn ready(&mut self, name: &str) {
        assert_eq!(self.controllers[number(name)].as_mut().unwrap().word(), "ready");
    }

    /// More devices, on this host.
    pub(crate) fn fleet(&mut self, host: &str, groups: &[Group]) {
        let mut fleet = self.spawn(host, &[], "fleet", &serde_json::to_string(groups).unwrap());
        assert_eq!(fleet.word(), "ready");
        self.fleets.push(fleet);
    }

    pub(crate) fn spawn(&self, host: &str, by: &[String], role: &str, argument: &str) -> Helper {
        let mut prefix = vec!["ip", "netns", "exec", self.namespace(host)];
        prefix.extend(by.iter().map(String::as_str));
        Helper::spawn_by(&prefix, "helper_process", role, argument)
    }

    fn namespace(&self, host: &str) -> &str {
        let at = HOSTS.iter().position(|name| *name == host).unwrap();
        self.namespaces[at].name()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, name: &str) {
        self.controllers[number(name)].take().unwrap().kill();
    }

    /// Its disk is empty at the next start.
    pub(crate) fn wipe(&self, name: &str) {
        let folder = &self.setups[number(name)].folder;
        std::fs::remove_dir_all(folder).unwrap();
    }

    pub(crate) fn ask(&mut self, name: &str, question: &str) -> String {
        let controller = self.controllers[number(name)].as_mut().unwrap();
        controller.tell(question);
        controller.word()
    }

    pub(crate) fn status(&mut self, name: &str) -> Report {
        serde_json::from_str(&self.ask(name, "status")).unwrap()
    }

    pub(crate) fn table(&mut self, name: &str) -> Vec<Entry> {
        serde_json::from_str(&self.ask(name, "table")).unwrap()
    }

    /// What has happened there since this was asked for last.
    pub(crate) fn events(&mut self, name: &str) -> Vec<Happened> {
        serde_json::from_str(&self.ask(name, "events")).unwrap()
    }

    pub(crate) fn set_parameters(&mut self, name: &str, text: &str) {
        let text = serde_json::to_string(text).unwrap();
        self.ask(name, &format!("parameters {text}"));
    }

    /// Tells a fleet something.
    pub(crate) fn tell_fleet(&mut self, fleet: usize, what: &str) -> String {
        self.fleets[fleet].tell(what);
        self.fleets[fleet].word()
    }

    /// Where the devices say that they are.
    pub(crate) fn devices(&mut self) -> Vec<Stands> {
        let mut all = Vec::new();
        for fleet in 0..self.fleets.len() {
            let of_it = self.tell_fleet(fleet, "where");
            all.extend(serde_json::from_str::<Vec<Stands>>(&of_it).unwrap());
        }
        all.sort_by(|a, b| a.device.cmp(&b.device));
        all
    }

    /// How many of the devices of that home are at that controller, as they say.
    pub(crate) fn at(&mut self, home: &str, controller: &str) -> usize {
        let is_of = |stands: &&Stands| stands.device.starts_with(&format!("{home}-"));
        let is_there =
            |stands: &&Stands| stands.at.as_ref().is_some_and(|(at, _)| at == controller);
        self.devices().iter().filter(is_of).filter(is_there).count()
    }

    /// Asks devices by way of a controller, until each has answered: some may just be moving.
    pub(crate) fn request(&mut self, via: &str, devices: &[String]) {
        let mut left = devices.to_vec();
        let mut last = Vec::new();
        wait_for(&format!("all answer by way of {via}"), || {
            let third = self.third.as_mut().unwrap();
            third.tell(&format!("{via} {}", left.join(" ")));
            last = serde_json::from_str::<Vec<(String, String)>>(&third.word()).unwrap();
            if let Some(first) = last.first() {
                println!("{} did not answer by way of {via}: {first:?}", last.len());
            }
            left = last.iter().map(|(name, _)| name.clone()).collect();
            left.is_empty()
        });
    }

    /// The same for all devices by way of all controllers that run.
    pub(crate) fn request_all(&mut self) {
        let all: Vec<String> = self.devices().into_iter().map(|stands| stands.device).collect();
        for via in self.running() {
            self.request(via, &all);
        }
    }

    fn running(&self) -> Vec<&'static str> {
        let runs = |name: &&&str| self.controllers[number(name)].is_some();
        CONTROLLERS.iter().filter(runs).copied().collect()
    }

    /// Nothing gets through between these two hosts, and nobody is told.
    pub(crate) fn cut(&mut self, one: &str, other: &str) {
        self.cuts.push((one.to_owned(), other.to_owned()));
        self.filter(one);
        self.filter(other);
    }

    pub(crate) fn heal(&mut self, one: &str, other: &str) {
        self.cuts.retain(|(a, b)| (a.as_str(), b.as_str()) != (one, other));
        self.filter(one);
        self.filter(other);
    }

    /// A line is named after the host at its other end.
    fn filter(&self, host: &str) {
        let mut rules = String::new();
        for (one, other) in &self.cuts {
            let there = match host {
                host if host == one => other,
                host if host == other => one,
                _ => continue,
            };
            writeln!(rules, "iifname \"{there}\" drop").unwrap();
        }
        let chain = format!("chain i {{\ntype filter hook input priority 0;\n{rules}\n}}");
        // In one transaction: the table, empty or not, gives way to a new one.
        let table = format!("table inet evs {{\n{chain}\n}}");
        let text = format!("add table inet evs; delete table inet evs; {table}");
        run("ip", &["netns", "exec", self.namespace(host), "nft", &text]).unwrap();
    }

    /// What leaves this host for that one goes at this rate, such as `4mbit`.
    pub(crate) fn throttle(&self, from: &str, to: &str, rate: &str) {
        let shape = ["root", "tbf", "rate", rate, "burst", "32kbit", "latency", "2s"];
        let tc = ["netns", "exec", self.namespace(from), "tc", "qdisc", "replace", "dev", to];
        run("ip", &[&tc[..], &shape[..]].concat()).unwrap();
    }

    /// Everything has come to rest: the tables of all that run are equal, each of `count` devices
    /// has one owner, which runs and has its session, and the device says the same. Gives the
    /// table.
    pub(crate) fn settle(&mut self, count: usize) -> Vec<Entry> {
        let running = self.running();
        let began = Instant::now();
        let mut whys = Vec::new();
        loop {
            let why = match self.rest(&running, count) {
                Ok(table) => {
                    println!("{:.1?}: at rest after {whys:#?}", began.elapsed());
                    return table;
                }
                Err(why) => why,
            };
            assert!(began.elapsed() < PATIENCE, "does not come to rest: {why}");
            if whys.last() != Some(&why) {
                whys.push(why);
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    fn rest(&mut self, running: &[&str], count: usize) -> Result<Vec<Entry>, String> {
        let digests: Vec<String> = running.iter().map(|name| self.ask(name, "digest")).collect();
        if digests.iter().any(|digest| *digest != digests[0]) {
            return Err(format!("the tables differ: {digests:?}"));
        }
        let tables: Vec<Vec<Entry>> = running.iter().map(|name| self.table(name)).collect();
        let plain = |table: &[Entry]| -> Vec<Entry> {
            table.iter().map(|e| Entry { is_connected: false, ..e.clone() }).collect()
        };
        let table = plain(&tables[0]);
        if tables.iter().any(|other| plain(other) != table) {
            return Err("the tables still change".to_owned());
        }
        let standing: Vec<&Entry> = table.iter().filter(|entry| entry.stands).collect();
        if standing.len() != count {
            return Err(format!("{} devices are registered, not {count}", standing.len()));
        }
        // A name stands once in the table, with one owner; the owner alone has a session of it.
        for (row, name) in running.iter().enumerate() {
            for entry in tables[row].iter().filter(|entry| entry.stands) {
                if entry.is_connected != (entry.owner == *name) {
                    return Err(format!("{name} on {entry:?}"));
                }
            }
        }
        let devices = self.devices();
        let says = |stands: &Stands| {
            let entry = standing.iter().find(|entry| entry.device == stands.device);
            entry.map(|entry| (entry.owner.clone(), entry.seq)) == stands.at
        };
        match devices.iter().find(|stands| !says(stands)) {
            Some(stands) => Err(format!("the tables do not know of {stands:?}")),
            None => Ok(table),
        }
    }

    /// All devices are at home, by the table of `a`.
    pub(crate) fn assert_at_home(&mut self) {
        let table = self.table("a");
        assert!(table.iter().all(|entry| entry.owner == entry.home), "{table:?}");
    }

    pub(crate) fn wait_linked(&mut self) {
        for name in self.running() {
            wait_for(&format!("the links of {name} stand"), || {
                self.status(name).partners.iter().all(|link| link.state == "up")
            });
        }
    }

    /// Ends everything, and looks that nothing is left: the last of each test.
    pub(crate) fn close(mut self, name: &str) {
        let all = self.controllers.iter_mut().filter_map(Option::as_mut);
        for helper in all.chain(&mut self.fleets).chain(&mut self.third) {
            helper.tell("close");
        }
        let all = self.controllers.iter_mut().filter_map(Option::as_mut);
        for helper in all.chain(&mut self.fleets).chain(&mut self.third) {
            assert!(helper.end().success());
        }
        let names: Vec<String> =
            self.namespaces.iter().map(|namespace| namespace.name().to_owned()).collect();
        for namespace in &names {
            assert_eq!(run("ip", &["netns", "pids", namespace]).unwrap(), "", "{namespace}");
        }
        let took = self.began.elapsed();
        drop(self);
        let left = run("ip", &["netns", "list"]).unwrap();
        assert!(
            names.iter().all(|name| !left.lines().any(|line| line.starts_with(name))),
            "{left}"
        );
        println!("{name}: {took:.1?}");
    }
}

fn number(name: &str) -> usize {
    CONTROLLERS.iter().position(|known| *known == name).unwrap()
}

/// Each host has one address, whatever line it is reached by.
fn wire(name: &str, folder: &std::path::Path) -> std::io::Result<Vec<Namespace>> {
    let hosts = HOSTS.map(|host| Namespace::new(&format!("{name}-{host}")));
    let hosts = hosts.into_iter().collect::<std::io::Result<Vec<_>>>()?;
    let pairs = (0..HOSTS.len()).flat_map(|one| (one + 1..HOSTS.len()).map(move |two| (one, two)));
    let lines: Vec<(usize, usize)> = pairs.filter(|(one, _)| *one < CONTROLLERS.len()).collect();
    let mut batches = vec![String::new(); HOSTS.len()];
    for (at, host) in HOSTS.iter().enumerate() {
        writeln!(batches[at], "addr add {}/32 dev lo", ip(host)).unwrap();
    }
    for &(one, two) in &lines {
        let (near, far) = (HOSTS[two], HOSTS[one]);
        let there = hosts[two].name();
        let add = format!("link add name {near} type veth peer name {far} netns {there}");
        batches[one].insert_str(0, &format!("{add}\n"));
        for (here, to) in [(one, two), (two, one)] {
            let (line, near, far) = (HOSTS[to], ip(HOSTS[here]), ip(HOSTS[to]));
            writeln!(batches[here], "link set dev {line} up").unwrap();
            writeln!(batches[here], "route add {far}/32 dev {line} src {near}").unwrap();
        }
    }
    for (at, host) in hosts.iter().enumerate() {
        let file = folder.join(format!("{}.ip", HOSTS[at]));
        std::fs::write(&file, &batches[at])?;
        run("ip", &["-n", host.name(), "-batch", file.to_str().unwrap_or_default()])?;
    }
    Ok(hosts)
}
