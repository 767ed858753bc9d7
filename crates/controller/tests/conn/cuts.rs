//! The network cuts connections, and nothing is lost, torn, doubled or out of its order.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use eversock_chaos::{Config as ChaosConfig, Fault, Plan, Proxy, Target};
use eversock_controller::conn::{ConnId, Lane, Reactor};
use eversock_engine::Config;

use crate::common::{Running, config, listen_with, raw, start, wait_for};

const LANES: [Lane; 3] = [Lane::Control, Lane::Updates, Lane::Bulk];
const COUNT: u32 = 600;

fn message(lane: usize, n: u32) -> Vec<u8> {
    let length = 10 + (n as usize * 37) % 3000;
    raw(lane as u16, &[&n.to_le_bytes()[..], &vec![n as u8; length]].concat())
}

/// Sends all, a few at a time, as the other side takes them.
fn send_all(reactor: &Reactor, conn: ConnId) {
    for n in 0..COUNT {
        for (lane, urgency) in LANES.into_iter().enumerate() {
            reactor.send(conn, urgency, message(lane, n));
        }
        wait_for("there is room", || reactor.queued(conn) < 1 << 20);
    }
}

fn all_came(running: &Running) {
    let mut next = [0; 3];
    while next != [COUNT; 3] {
        let (_, lane, body) = running.frame();
        let n = &mut next[usize::from(lane)];
        assert_eq!(raw(lane, &body), message(usize::from(lane), *n));
        *n += 1;
    }
}

#[test]
fn each_message_comes_once_and_in_its_lanes_order_over_cuts() {
    let (server, client) = (start(|_, _, _, _| Ok(())), start(|_, _, _, _| Ok(())));
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, 10);
    let total = 2 * 3 * u64::from(COUNT) * 1400;
    let plan = Plan::seeded(11, 12, total);
    let chaos = ChaosConfig::new("127.0.0.1:0".parse().unwrap(), addr).with_plan(plan);
    let proxy = Proxy::spawn(chaos).unwrap();
    client.reactor.dial(vec![proxy.local_addr()], config(), 1);
    let ((here, _), (there, _)) = (client.opened(), server.opened());
    std::thread::scope(|scope| {
        scope.spawn(|| send_all(&client.reactor, here));
        scope.spawn(|| send_all(&server.reactor, there));
        scope.spawn(|| all_came(&server));
        scope.spawn(|| all_came(&client));
    });
    assert!(proxy.stats().summary.cuts >= 6, "{:?}", proxy.stats());
    client.reactor.close(here);
    assert_eq!(server.closed().0, there);
    proxy.stop();
}

#[test]
fn one_that_is_cut_is_shown_as_such_and_goes_on() {
    let (server, client) = (start(|_, _, _, _| Ok(())), start(|_, _, _, _| Ok(())));
    let (listener, addr) = listen_with(config());
    server.reactor.listen(listener, 0, 10);
    let chaos = ChaosConfig::new("127.0.0.1:0".parse().unwrap(), addr);
    let proxy = Proxy::spawn(chaos).unwrap();
    client.reactor.dial(vec![proxy.local_addr()], config(), 1);
    let ((here, _), (there, _)) = (client.opened(), server.opened());
    assert!(!client.reactor.is_cut(here));
    proxy.inject(Fault::Refuse(eversock_chaos::Refusal::Reset(None)), Target::All).unwrap();
    proxy.inject(Fault::Reset, Target::All).unwrap();
    wait_for("it is cut", || client.reactor.is_cut(here));
    client.reactor.send(here, Lane::Control, raw(1, b"through"));
    proxy.inject(Fault::Heal, Target::All).unwrap();
    assert_eq!(server.frame(), (there, 1, b"through".to_vec()));
    wait_for("it is whole", || !client.reactor.is_cut(here));
    proxy.stop();
}

/// Says to the test below, run in a process of its own, that it is the peer.
const PEER: &str = "CONTROLLER_TEST_PEER";

/// A process that accepts; killed when this is dropped.
struct Elsewhere(Child, SocketAddr);

impl Elsewhere {
    fn start() -> Self {
        let test = "cuts::a_peer_that_was_started_anew_is_not_waited_for";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(PEER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let addr = lines.find_map(|line| Some(line.split_once("listens at ")?.1.parse().unwrap()));
        Self(child, addr.unwrap())
    }

    /// In that process: accepts until nobody is there to kill it.
    fn serve() {
        let server = start(|_, _, _, _| Ok(()));
        let (listener, addr) = listen_with(config());
        server.reactor.listen(listener, 0, 10);
        println!("listens at {addr}");
        let _nothing = std::io::stdin().read_to_end(&mut Vec::new());
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _dead = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn a_peer_that_was_started_anew_is_not_waited_for() {
    if std::env::var_os(PEER).is_some() {
        return Elsewhere::serve();
    }
    let client = start(|_, _, _, _| Ok(()));
    let first = Elsewhere::start();
    let chaos = ChaosConfig::new("127.0.0.1:0".parse().unwrap(), first.1);
    let proxy = Proxy::spawn(chaos).unwrap();
    let grace = Duration::from_secs(3600);
    let patient = Config { grace, grace_after_close: grace, ..config() };
    client.reactor.dial(vec![proxy.local_addr()], patient, 1);
    let (here, _) = client.opened();
    let second = Elsewhere::start();
    proxy.set_upstream(second.1);
    drop(first);
    let (conn, why) = client.closed();
    assert_eq!(conn, here);
    assert!(why.contains("started anew"), "{why}");
    proxy.stop();
}
