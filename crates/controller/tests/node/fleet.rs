//! Many devices as they are: they find out that their home is gone, and come back when told.

use std::time::Duration;

use eversock_controller::device::{Fleet, FleetConfig, Policy};
use eversock_controller::node::{Node, NodeConfig};
use eversock_controller::shard::Order;
use eversock_controller::wire::Place;
use eversock_controller::wire::client::Outcome;

use crate::common::{Sites, begin, device, id, wait_for, wait_linked};

const DEVICES: usize = 60;

fn config(sites: &Sites, index: usize) -> NodeConfig {
    let mut config = sites.config(index);
    config.policy.handshake = Duration::from_secs(1);
    config.policy.lease = Duration::from_secs(60);
    config.policy.misses = 2;
    config
}

fn served(fleet: &Fleet, by: &str) -> usize {
    fleet.status().served.get(&id(by)).copied().unwrap_or(0)
}

fn owned(node: &Node, partition: &str) -> u64 {
    let status = node.status();
    status.partitions.iter().filter(|of| of.name == partition).map(|of| of.owned).sum()
}

#[test]
fn core_take_over_and_recovery() {
    let sites = Sites::new(&["a", "b"]);
    let home = begin(config(&sites, 0));
    let backup = begin(config(&sites, 1));
    let nodes = [home, backup];
    wait_linked(&nodes);
    let [home, backup] = nodes;
    let place = |index: usize| {
        let site = &sites.sites[index];
        Place { controller: site.name.clone(), addrs: vec![site.door] }
    };
    let mut policy = Policy::new(vec![place(0), place(1)]);
    (policy.base, policy.base_all, policy.answer_within) = (100, 500, 3000);
    (policy.attempt_every, policy.start_within) = (200, 300);
    let names = (0..DEVICES).map(|n| device(&format!("a-{n:03}"))).collect();
    let mut of_fleet = FleetConfig::new(names, policy);
    of_fleet.per_connection = 20;
    let fleet = Fleet::start(of_fleet).unwrap();
    wait_for("all are at home", || served(&fleet, "a") == DEVICES);
    wait_for("the backup knows them", || {
        backup.devices(Some(&id("a")), None, 1000).unwrap().len() == DEVICES
    });
    assert_eq!(owned(&backup, "a"), 0);
    let deadline = Duration::from_secs(20);
    let outcome = backup.request_and_wait(device("a-007"), deadline, b"echo".to_vec());
    assert_eq!(outcome, Outcome::Done(b"echo".to_vec()));

    home.close();
    wait_for("all are at the backup", || served(&fleet, "b") == DEVICES);
    assert_eq!(owned(&backup, "a"), DEVICES as u64);
    assert_eq!(backup.status().counts.take_overs, DEVICES as u64);

    // They stay there until they are told.
    let nodes = [begin(config(&sites, 0)), backup];
    wait_linked(&nodes);
    wait_for("the home knows where they are", || {
        let rows = nodes[0].devices(Some(&id("a")), None, 1000).unwrap();
        rows.iter().filter(|row| row.location.owner == id("b")).count() == DEVICES
    });
    assert_eq!(served(&fleet, "b"), DEVICES);
    let outcome = nodes[0].request_and_wait(device("a-007"), deadline, b"echo".to_vec());
    assert_eq!(outcome, Outcome::Done(b"echo".to_vec()));
    // Some may be busy with an attempt of before; the order is given until all have gone.
    wait_for("all are at home again", || {
        if nodes[1].status().partitions.iter().all(|of| of.hand_overs == 0) {
            nodes[1].order(Some(&id("a")), Order::FailBack).unwrap();
        }
        served(&fleet, "a") == DEVICES
    });
    wait_for("both say so", || {
        owned(&nodes[0], "a") == DEVICES as u64 && owned(&nodes[1], "a") == 0
    });
    assert_eq!(fleet.status().failure, "");
    fleet.close();
}
