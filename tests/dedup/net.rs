//! Two hosts with two lines between them, in network namespaces of the test's own.

use std::time::{Duration, Instant};

use crate::common::child::{Helper, command};
use crate::common::netns::{Namespace, run, skip};

const SUITE: &str = "dedup";
/// One test, at most.
const LIMIT: Duration = Duration::from_secs(120);

/// The server's addresses: two lines, both families on each.
pub(crate) const SERVER: [&str; 4] = ["10.77.0.1", "fd77:0::1", "10.77.1.1", "fd77:1::1"];
/// The client's, in the same order.
const CLIENT: [&str; 4] = ["10.77.0.2", "fd77:0::2", "10.77.1.2", "fd77:1::2"];

/// Runs a role of the hidden test on the client's host, with names of its own there. It gets the
/// name of the server's namespace.
pub(crate) fn on_two_hosts(role: &str, hosts: &str) {
    let made = (|| {
        let client = Namespace::new(&format!("{role}-c"))?;
        let server = Namespace::new(&format!("{role}-s"))?;
        wire(client.name(), server.name())?;
        Ok::<_, std::io::Error>((client, server))
    })();
    let (client, server) = match made {
        Ok(made) => made,
        Err(error) => {
            let why = format!("no network namespaces: {error}; run as root, with iproute2");
            return skip(SUITE, &why);
        }
    };
    let etc = client.etc();
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("hosts"), hosts).unwrap();
    std::fs::write(etc.join("nsswitch.conf"), "hosts: files\n").unwrap();
    let prefix = ["ip", "netns", "exec", client.name()];
    let mut child = command(&prefix, "helper_process", role, server.name()).spawn().unwrap();
    let until = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{role} is not done within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{role} failed in its namespace, see above");
}

fn wire(client: &str, server: &str) -> std::io::Result<()> {
    for line in ["line0", "line1"] {
        let there = ["type", "veth", "peer", "name", line, "netns", server];
        let all = [&["-n", client, "link", "add", line][..], &there].concat();
        run("ip", &all)?;
    }
    for (namespace, addrs) in [(client, CLIENT), (server, SERVER)] {
        for (place, addr) in addrs.iter().enumerate() {
            let line = if place < 2 { "line0" } else { "line1" };
            let (length, extra) = match addr.contains(':') {
                true => ("64", &["nodad"][..]),
                false => ("24", &[][..]),
            };
            let with_length = format!("{addr}/{length}");
            let all = [&["-n", namespace, "addr", "add", &with_length, "dev", line][..], extra];
            run("ip", &all.concat())?;
        }
        for line in ["line0", "line1"] {
            run("ip", &["-n", namespace, "link", "set", line, "up"])?;
        }
    }
    Ok(())
}

/// The server's process, on its host.
pub(crate) struct Server {
    helper: Helper,
    pub(crate) port: u16,
    namespace: String,
}

impl Server {
    /// `what`: as the role "server" reads it.
    pub(crate) fn start(namespace: &str, what: &str) -> Self {
        let prefix = ["ip", "netns", "exec", namespace];
        let mut helper = Helper::spawn_by(&prefix, "helper_process", "server", what);
        let port = helper.word().parse().unwrap();
        Self { helper, port, namespace: namespace.to_owned() }
    }

    pub(crate) fn at(&self, place: usize) -> std::net::SocketAddr {
        std::net::SocketAddr::new(SERVER[place].parse().unwrap(), self.port)
    }

    /// It does what it was told to do on this word.
    pub(crate) fn go(&mut self) {
        self.helper.go();
        assert_eq!(self.helper.word(), "done");
    }

    pub(crate) fn kill(&mut self) {
        self.helper.kill();
    }

    /// From here on half of the datagrams for these addresses are lost on the way: who sends them
    /// is not told, as he would be of a filter of his own host's.
    pub(crate) fn lose_datagrams(&self, addrs: &[&str]) {
        let text = table("input", &losing(addrs));
        run("ip", &["netns", "exec", &self.namespace, "nft", &text]).unwrap();
    }

    /// Runs `ip` on the server's host.
    pub(crate) fn ip(&self, args: &[&str]) {
        run("ip", &[&["-n", &self.namespace][..], args].concat()).unwrap();
    }
}

/// Drops all packets to this address, from here on.
pub(crate) fn blackhole(addr: &str) {
    let family = if addr.contains(':') { "ip6" } else { "ip" };
    filter(&format!("{family} daddr {addr} drop"));
}

/// Drops half of the datagrams that come for these addresses, and none of TCP.
fn losing(addrs: &[&str]) -> String {
    let rules: Vec<String> = addrs
        .iter()
        .map(|addr| {
            let family = if addr.contains(':') { "ip6" } else { "ip" };
            format!("{family} daddr {addr} meta l4proto udp numgen random mod 2 == 0 drop")
        })
        .collect();
    rules.join("\n")
}

/// Nothing gets through by TCP to this address; datagrams do.
pub(crate) fn refuse_tcp(addr: &str) {
    let family = if addr.contains(':') { "ip6" } else { "ip" };
    filter(&format!("{family} daddr {addr} meta l4proto tcp drop"));
}

/// One set of rules at a time, on the client's host, for what leaves it.
fn filter(rules: &str) {
    run("nft", &[&table("output", rules)]).unwrap();
}

fn table(hook: &str, rules: &str) -> String {
    let chain = format!("type filter hook {hook} priority 0;");
    // In one transaction: the table, empty or not, gives way to a new one.
    let table = format!("table inet evs {{\nchain out {{\n{chain}\n{rules}\n}}\n}}");
    format!("add table inet evs; delete table inet evs; {table}")
}

/// TCP connections to this port that stand, as the kernel of the client's host counts them.
pub(crate) fn connections(port: u16) -> usize {
    let port = format!("dport = :{port}");
    run("ss", &["-Htn", "state", "established", &port]).unwrap().lines().count()
}

/// Where they go to.
pub(crate) fn where_to(port: u16) -> Vec<String> {
    let filter = format!("dport = :{port}");
    let lines = run("ss", &["-Htn", "state", "established", &filter]).unwrap();
    let there = |line: &str| {
        let addr = line.split_whitespace().nth(3).unwrap_or_default();
        addr.rsplit_once(':').map_or("", |(ip, _)| ip).trim_matches(['[', ']']).to_owned()
    };
    lines.lines().map(there).collect()
}

/// Resets the connections to this port as the kernel would.
pub(crate) fn reset_connections(port: u16) {
    let port = format!("dport = :{port}");
    run("ss", &["-K", "-t", "state", "established", &port]).unwrap();
}
