//! A client's host, a router and a server's host: network namespaces that go with the measurement.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

pub(crate) const CLIENTS: [&str; 2] = ["198.51.100.2", "198.51.100.9"];
const ROUTER_TO_CLIENT: &str = "198.51.100.1";
const ROUTER_TO_SERVER: &str = "203.0.113.1";
pub(crate) const SERVER: &str = "203.0.113.2";

/// All of ours begin so, followed by the process that made them.
const PREFIX: &str = "evb";

/// The three, joined by two lines.
#[derive(Debug)]
pub(crate) struct Net {
    names: [String; 3],
}

impl Net {
    pub(crate) fn new() -> io::Result<Self> {
        remove_leftovers();
        let net = Self {
            names: ["c", "r", "s"].map(|host| format!("{PREFIX}{}{host}", std::process::id())),
        };
        let [client, router, server] = &net.names;
        for name in &net.names {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        for (near, far, host) in [("c0", "rc", client), ("s0", "rs", server)] {
            ip(&[
                "link", "add", near, "netns", host, "type", "veth", "peer", "name", far, "netns",
                router,
            ])?;
        }
        for (host, link, addr) in [
            (client, "c0", CLIENTS[0]),
            (router, "rc", ROUTER_TO_CLIENT),
            (router, "rs", ROUTER_TO_SERVER),
            (server, "s0", SERVER),
        ] {
            ip(&["-n", host, "addr", "add", &format!("{addr}/24"), "dev", link])?;
            ip(&["-n", host, "link", "set", link, "up"])?;
        }
        ip(&["-n", client, "route", "add", "default", "via", ROUTER_TO_CLIENT])?;
        ip(&["-n", server, "route", "add", "default", "via", ROUTER_TO_SERVER])?;
        // A second address stays when the first one goes.
        net.set(client, "net/ipv4/conf/all/promote_secondaries", "1")?;
        net.forward(true)?;
        Ok(net)
    }

    /// What starts a program on the client's host, and on the server's.
    pub(crate) fn ways(&self) -> [Vec<String>; 2] {
        let way = |name: &str| ["ip", "netns", "exec", name].map(str::to_owned).to_vec();
        [way(&self.names[0]), way(&self.names[2])]
    }

    /// Whether the router passes packets on; if not, it says nothing of it to anybody.
    pub(crate) fn forward(&self, on: bool) -> io::Result<()> {
        self.set(&self.names[1], "net/ipv4/ip_forward", if on { "1" } else { "0" })
    }

    /// The client's host has this address instead of the other.
    pub(crate) fn move_client(&self, from: &str, to: &str) -> io::Result<()> {
        let client = &self.names[0];
        ip(&["-n", client, "addr", "add", &format!("{to}/24"), "dev", "c0"])?;
        // In one go, so that the host is not long without a way.
        let commands =
            format!("addr del {from}/24 dev c0\nroute replace default via {ROUTER_TO_CLIENT}\n");
        let mut batch = Command::new("ip");
        batch.args(["-n", client, "-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut batch = batch.spawn()?;
        if let Some(mut input) = batch.stdin.take() {
            input.write_all(commands.as_bytes())?;
        }
        checked("ip -batch", batch.wait_with_output()?)
    }

    fn set(&self, name: &str, setting: &str, value: &str) -> io::Result<()> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", name, "tee"]).arg(Path::new("/proc/sys").join(setting));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut tee = command.spawn()?;
        if let Some(mut input) = tee.stdin.take() {
            input.write_all(value.as_bytes())?;
        }
        checked(&format!("{setting} = {value}"), tee.wait_with_output()?)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            let _never_made = ip(&["netns", "del", name]);
        }
    }
}

fn ip(args: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(args).output().map_err(|error| {
        io::Error::new(error.kind(), format!("ip cannot be run ({error}); install iproute2"))
    })?;
    checked(&format!("ip {}", args.join(" ")), output)
}

fn checked(what: &str, output: std::process::Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{what}: {}; network namespaces need root", said.trim())))
}

/// What a measurement that was killed has left: namespaces named after a process that is no more.
fn remove_leftovers() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    let list = String::from_utf8_lossy(&output.stdout);
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(['c', 'r', 's']));
        if let Some(Ok(maker)) = maker.map(str::parse::<u32>)
            && !Path::new("/proc").join(maker.to_string()).exists()
        {
            let _another_was_first = ip(&["netns", "del", name]);
        }
    }
}
