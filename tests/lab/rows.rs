//! The rows of the lab: what goes wrong, for how long, and how it is made.

use std::time::Duration;

use crate::common::netns::run;
use crate::network::{CLIENT, CLIENT_OTHER, Net, ROUTER_TO_CLIENT, SERVER, SERVER_OTHER};
use crate::program::{CONNECT_TIMEOUT, HABITS, Habits, KEEPALIVE, PROBE_AFTER, PROBES, SESSIONS};
use crate::{Lab, Outcome};

/// One scenario.
pub(crate) struct Row {
    /// As in the table of docs/TESTING.md.
    pub(crate) name: &'static str,
    /// The programs without which it is left out, besides those that every row needs.
    pub(crate) needs: &'static [&'static str],
    pub(crate) habits: Habits,
    /// What the client dials, and what other addresses of the server it knows.
    pub(crate) dials: (&'static str, &'static [&'static str]),
    /// What other addresses the server announces.
    pub(crate) announces: &'static [&'static str],
    pub(crate) prepare: fn(&mut Net),
    pub(crate) fault: fn(&mut Lab),
    pub(crate) outcome: Outcome,
}

const PLAIN: Row = Row {
    name: "",
    needs: &[],
    habits: HABITS,
    dials: (SERVER, &[]),
    announces: &[],
    prepare: |_| (),
    fault: |_| (),
    outcome: Outcome::Resumed,
};

/// Lines on which packets are lost carry less.
const SPARING: Habits = Habits { records: 8, pace_ms: 20, ..HABITS };
const LOSSY: Duration = Duration::from_secs(8);

/// Longer than every time-out of the set-up but the grace: the kernel's of an idle peer, of
/// unconfirmed output (6 s), the engine's of a silent path and of a dial.
const LONG: Duration = {
    let all = [KEEPALIVE.as_secs() + PROBES.as_secs(), 7, PROBE_AFTER.as_secs()];
    let mut longest = CONNECT_TIMEOUT.as_secs();
    let mut at = 0;
    while at < all.len() {
        if all[at] > longest {
            longest = all[at];
        }
        at += 1;
    }
    Duration::from_secs(longest + 2)
};

/// The longest first, so that the lab is not kept waiting by the last.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "`nft` drops client to server",
        fault: |lab| silence(lab, "iifname \"rc\" drop", LONG),
        ..PLAIN
    },
    Row {
        name: "`nft` drops server to client",
        fault: |lab| silence(lab, "iifname \"rs\" drop", LONG),
        ..PLAIN
    },
    Row { name: "`nft` drops both ways", fault: |lab| silence(lab, "drop", LONG), ..PLAIN },
    Row {
        name: "`nft` drops both ways beyond the grace (3 s here)",
        habits: Habits { grace_ms: 3_000, ..HABITS },
        fault: |lab| {
            lab.begin();
            lab.net.firewall("drop");
            lab.wait_for_errors();
            lab.net.firewall("");
            lab.healed();
        },
        // By what the server has heard last when its grace is over.
        outcome: Outcome::Failed(&[
            "an error; client: ETIMEDOUT, pumped ECONNRESET; server: ECONNRESET, pumped ECONNRESET",
            "an error; client: ETIMEDOUT, pumped ECONNRESET; server: ETIMEDOUT, pumped ECONNRESET",
        ]),
        ..PLAIN
    },
    Row {
        name: "10 % of packets lost",
        habits: SPARING,
        fault: |lab| silence(lab, "numgen random mod 100 < 10 drop", LOSSY),
        outcome: Outcome::Carried,
        ..PLAIN
    },
    Row {
        name: "30 % of packets lost",
        habits: SPARING,
        fault: |lab| silence(lab, "numgen random mod 100 < 30 drop", LOSSY),
        outcome: Outcome::Carried,
        ..PLAIN
    },
    Row {
        name: "haproxy times out idle connections (1 s)",
        needs: &["haproxy"],
        dials: (ROUTER_TO_CLIENT, &[]),
        prepare: |net| haproxy(net, "1s", &[]),
        fault: |lab| idle(lab, Duration::from_secs(4)),
        ..PLAIN
    },
    Row {
        name: "socat times out idle connections (1 s)",
        needs: &["socat"],
        dials: (ROUTER_TO_CLIENT, &[]),
        prepare: |net| socat(net, &["-T", "1"]),
        fault: |lab| idle(lab, Duration::from_secs(4)),
        ..PLAIN
    },
    Row {
        name: "haproxy dies (SIGKILL), back after 1 s",
        needs: &["haproxy"],
        dials: (ROUTER_TO_CLIENT, &[]),
        prepare: |net| haproxy(net, "1h", &[]),
        fault: |lab| {
            lab.begin();
            lab.net.kill_daemons();
            std::thread::sleep(Duration::from_secs(1));
            haproxy(&mut lab.net, "1h", &[]);
            lab.healed();
        },
        ..PLAIN
    },
    Row {
        name: "haproxy drains: a new one takes over, the old one ends after 1 s",
        needs: &["haproxy"],
        dials: (ROUTER_TO_CLIENT, &[]),
        prepare: |net| haproxy(net, "1h", &[]),
        fault: |lab| {
            lab.begin();
            let old = lab.net.first_daemon().to_string();
            haproxy(&mut lab.net, "1h", &["-sf", &old]);
            lab.net.wait_for_first_daemons_end();
            lab.healed();
        },
        ..PLAIN
    },
    Row {
        name: "socat dies (SIGKILL), back after 1 s",
        needs: &["socat"],
        dials: (ROUTER_TO_CLIENT, &[]),
        prepare: |net| socat(net, &[]),
        fault: |lab| {
            lab.begin();
            lab.net.kill_daemons();
            std::thread::sleep(Duration::from_secs(1));
            socat(&mut lab.net, &[]);
            lab.healed();
        },
        ..PLAIN
    },
    Row {
        name: "client stopped (SIGSTOP) for keepalive + 3 s",
        fault: |lab| {
            lab.begin();
            lab.client.signal(libc::SIGSTOP);
            std::thread::sleep(KEEPALIVE + Duration::from_secs(3));
            lab.client.signal(libc::SIGCONT);
            lab.healed();
        },
        outcome: Outcome::Carried,
        ..PLAIN
    },
    Row {
        name: "server stopped (SIGSTOP) for keepalive + 3 s",
        fault: |lab| {
            lab.begin();
            lab.server.signal(libc::SIGSTOP);
            std::thread::sleep(KEEPALIVE + Duration::from_secs(3));
            lab.server.signal(libc::SIGCONT);
            lab.healed();
        },
        outcome: Outcome::Carried,
        ..PLAIN
    },
    Row {
        name: "client suspended: frozen, its line down, the server's end killed meanwhile",
        fault: |lab| {
            lab.begin();
            lab.client.signal(libc::SIGSTOP);
            link(&lab.net, "down");
            kill_connections(lab, "sport");
            std::thread::sleep(Duration::from_secs(4));
            link(&lab.net, "up");
            lab.client.signal(libc::SIGCONT);
            lab.healed();
        },
        ..PLAIN
    },
    Row {
        name: "client's link down and up",
        fault: |lab| {
            lab.begin();
            link(&lab.net, "down");
            std::thread::sleep(Duration::from_secs(3));
            link(&lab.net, "up");
            lab.healed();
        },
        outcome: Outcome::Carried,
        ..PLAIN
    },
    Row {
        name: "`nft` rejects with tcp reset",
        fault: |lab| silence(lab, "meta l4proto tcp reject with tcp reset", Duration::from_secs(2)),
        ..PLAIN
    },
    Row {
        name: "client's address removed, another added",
        fault: |lab| {
            lab.begin();
            let client = lab.net.client.name();
            let change = |what: &str, ip: &str| {
                run("ip", &["-n", client, "addr", what, &format!("{ip}/24"), "dev", "c0"]).unwrap();
            };
            change("del", CLIENT);
            change("add", CLIENT_OTHER);
            lab.net.default_routes().unwrap();
            lab.healed();
        },
        ..PLAIN
    },
    Row {
        name: "NAT rebinding (other ports, `conntrack -F`)",
        needs: &["conntrack"],
        prepare: |net| masquerade(net, "40000-41000"),
        fault: |lab| {
            lab.begin();
            masquerade(&lab.net, "50000-51000");
            lab.net.router.run("conntrack", &["-F"]).unwrap();
            lab.healed();
        },
        ..PLAIN
    },
    Row {
        name: "server's address goes, it has announced another",
        announces: &[SERVER_OTHER],
        prepare: |net| server_address(net, "add", SERVER_OTHER),
        fault: |lab| {
            lab.begin();
            server_address(&lab.net, "del", SERVER);
            lab.net.default_routes().unwrap();
            lab.healed();
        },
        ..PLAIN
    },
    Row {
        name: "server moves to another address that the client knows",
        dials: (SERVER, &[SERVER_OTHER]),
        fault: |lab| {
            lab.begin();
            server_address(&lab.net, "del", SERVER);
            server_address(&lab.net, "add", SERVER_OTHER);
            lab.net.default_routes().unwrap();
            lab.healed();
        },
        ..PLAIN
    },
    Row { name: "`ss -K` of the client's end", fault: |lab| killed(lab, "dport"), ..PLAIN },
    Row { name: "`ss -K` of the server's end", fault: |lab| killed(lab, "sport"), ..PLAIN },
];

/// The router does this to what it forwards, for so long.
fn silence(lab: &mut Lab, rules: &str, lasts: Duration) {
    lab.begin();
    lab.net.firewall(rules);
    std::thread::sleep(lasts);
    lab.net.firewall("");
    lab.healed();
}

/// The programs have nothing to say for so long.
fn idle(lab: &mut Lab, lasts: Duration) {
    lab.client.order("pause");
    lab.server.order("pause");
    lab.begin();
    std::thread::sleep(lasts);
    lab.client.order("go");
    lab.server.order("go");
    lab.healed();
}

fn killed(lab: &mut Lab, side: &str) {
    lab.begin();
    kill_connections(lab, side);
    lab.was_at_once();
}

/// Kills all connections of the sessions where their port is the one of this side.
fn kill_connections(lab: &Lab, side: &str) {
    let host = if side == "sport" { &lab.net.server } else { &lab.net.client };
    let [(_, one), (_, other)] = SESSIONS;
    let filter = format!("( {side} = :{one} or {side} = :{other} )");
    let out = host.run("ss", &["-H", "-t", "-n", "-K", "state", "established", &filter]).unwrap();
    let killed = out.lines().filter(|line| line.contains(':')).count();
    assert!(killed >= SESSIONS.len(), "only {killed} connections were there to kill");
}

fn link(net: &Net, state: &str) {
    run("ip", &["-n", net.client.name(), "link", "set", "c0", state]).unwrap();
    if state == "up" {
        net.default_routes().unwrap();
    }
}

fn server_address(net: &Net, what: &str, ip: &str) {
    let address = format!("{ip}/24");
    run("ip", &["-n", net.server.name(), "addr", what, &address, "dev", "s0"]).unwrap();
}

fn masquerade(net: &Net, ports: &str) {
    let chain = format!(
        "chain after {{\ntype nat hook postrouting priority 100\n\
         oifname \"rs\" meta l4proto tcp masquerade to :{ports}\n}}"
    );
    let table = format!("table ip nat\ndelete table ip nat\ntable ip nat {{\n{chain}\n}}");
    net.router.run("nft", &[&table]).unwrap();
}

/// Starts haproxy before the server; its `more` arguments can make it take over from another.
fn haproxy(net: &mut Net, patience: &str, more: &[&str]) {
    let mut text = format!(
        "global\n hard-stop-after 1s\ndefaults\n mode tcp\n timeout connect 2s\n \
         timeout client {patience}\n timeout server {patience}\n"
    );
    for (name, port) in SESSIONS {
        text += &format!(
            "listen {name}\n bind {ROUTER_TO_CLIENT}:{port}\n server it {SERVER}:{port}\n"
        );
    }
    let file = net.file("haproxy.cfg", &text);
    net.daemon(&[&["haproxy", "-db", "-f", &file], more].concat(), SESSIONS[1].1);
}

/// Starts socat before the server, once for each session.
fn socat(net: &mut Net, more: &[&str]) {
    for (_, port) in SESSIONS {
        let near = format!("TCP-LISTEN:{port},bind={ROUTER_TO_CLIENT},fork,reuseaddr");
        let far = format!("TCP:{SERVER}:{port}");
        net.daemon(&[&["socat"], more, &[&near, &far]].concat(), port);
    }
}
