//! The network cuts connections, and each request is done once and answered once.

use std::collections::HashMap;

use crossbeam_channel::unbounded;
use eversock_chaos::{Config as ChaosConfig, Fault, Plan, Proxy, Refusal, Target};
use eversock_controller::wire::client::Outcome;

use crate::common::{Controller, PATIENCE, device, place, reply, third_party, wait_for};

const COUNT: u32 = 400;

fn payload(n: u32) -> Vec<u8> {
    let mut payload = n.to_le_bytes().to_vec();
    payload.resize(4 + (n as usize * 37) % 5000, n as u8);
    payload
}

#[test]
fn each_request_is_done_once_and_answered_once_over_cuts() {
    let controller = Controller::echo("a");
    let bytes: usize = (0..COUNT).map(|n| payload(n).len()).sum();
    let plan = Plan::seeded(7, 10, 2 * bytes as u64);
    let chaos = ChaosConfig::new("127.0.0.1:0".parse().unwrap(), controller.addr).with_plan(plan);
    let proxy = Proxy::spawn(chaos).unwrap();
    let third = third_party(vec![place("a", proxy.local_addr())]);
    let (tell, told) = unbounded();
    for n in 0..COUNT {
        let tell = tell.clone();
        let reply = Box::new(move |outcome| tell.send((n, outcome)).unwrap());
        third.request(device("d"), PATIENCE, payload(n), reply);
    }
    let mut answers = HashMap::new();
    for _ in 0..COUNT {
        let (n, outcome) = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(outcome, Outcome::Done(payload(n)));
        assert!(answers.insert(n, ()).is_none(), "{n} was answered twice");
    }
    assert!(proxy.stats().summary.cuts >= 5, "{:?}", proxy.stats());
    assert_eq!(controller.count(), COUNT as usize);
    drop(third);
    assert!(told.is_empty());
    proxy.stop();
}

#[test]
fn a_request_made_while_the_connection_is_cut_is_done_when_it_is_whole() {
    let controller = Controller::echo("a");
    let chaos = ChaosConfig::new("127.0.0.1:0".parse().unwrap(), controller.addr);
    let proxy = Proxy::spawn(chaos).unwrap();
    let third = third_party(vec![place("a", proxy.local_addr())]);
    let outcome = third.request_and_wait(device("d"), PATIENCE, vec![1]);
    assert_eq!(outcome, Outcome::Done(vec![1]));
    proxy.inject(Fault::Refuse(Refusal::Reset(None)), Target::All).unwrap();
    proxy.inject(Fault::Reset, Target::All).unwrap();
    let (reply, told) = reply();
    third.request(device("d"), PATIENCE, vec![2], reply);
    wait_for("it tries to come back", || proxy.stats().summary.refused > 0);
    assert!(told.is_empty());
    assert_eq!(controller.count(), 1);
    proxy.inject(Fault::Heal, Target::All).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Outcome::Done(vec![2]));
    assert_eq!(controller.count(), 2);
    proxy.stop();
}
