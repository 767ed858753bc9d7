//! Controllers that stand in for each other.

use std::time::Duration;

use eversock_chaos::{Config as ChaosConfig, Direction, Fault, Proxy, Target};
use eversock_controller::node::{Node, NodeError, NodeEvent};
use eversock_controller::shard::output::SyncState;
use eversock_controller::shard::{Event, Order};
use eversock_controller::store::Quota;
use eversock_controller::store::sqlite::SqliteStores;
use eversock_controller::wire::Role;
use eversock_controller::wire::client::{ClientMessage, HandOffAnswer, Outcome, Register};

use crate::common::{
    Client, Sites, begin, device, id, is_linked, known, wait_for, wait_linked, wait_owner,
};

/// Whether all exchange with all that they have a link to is done.
fn is_in_sync(nodes: &[Node]) -> bool {
    nodes.iter().all(|node| {
        node.status().partitions.iter().all(|partition| {
            partition.sync.len() == nodes.len() - 1
                && partition.sync.iter().all(|sync| sync.state == SyncState::InSync)
        })
    })
}

#[test]
fn tables_become_the_same_everywhere() {
    let sites = Sites::new(&["a", "b", "c"]);
    let nodes = sites.start_all();
    wait_linked(&nodes);
    let mut clients: Vec<_> = nodes.iter().map(Client::device).collect();
    for (client, home) in clients.iter_mut().zip(["b", "c", "a"]) {
        for n in 0..30 {
            client.register(&format!("{home}-{n:02}"), 1);
        }
    }
    for (owner, home) in [("a", "b"), ("b", "c"), ("c", "a")] {
        for node in &nodes {
            let rows = || node.devices(Some(&id(home)), None, 100).unwrap();
            wait_for("all are known", || rows().len() == 30);
            assert!(rows().iter().all(|row| row.location.owner == id(owner)));
            assert_eq!(node.devices(Some(&id(home)), Some(&device("zz")), 9).unwrap(), []);
        }
    }
    wait_for("all are in sync", || is_in_sync(&nodes));
    let has_round_trips =
        |node: &Node| node.status().partners.iter().all(|link| link.round_trip.is_some());
    wait_for("pings are answered", || nodes.iter().all(has_round_trips));
    for node in nodes {
        node.close();
    }
}

#[test]
fn a_device_that_moves_is_let_go_and_found_from_everywhere() {
    let sites = Sites::new(&["a", "b"]);
    let nodes = sites.start_all();
    wait_linked(&nodes);
    let events = nodes[0].events();
    let mut at_a = Client::device(&nodes[0]);
    at_a.register("a-1", 1);
    wait_owner(&nodes[1], "a-1", "a", 1);
    // Its home lives, but not for this device.
    let mut at_b = Client::device(&nodes[1]);
    at_b.register("a-1", 2);
    wait_owner(&nodes[0], "a-1", "b", 2);
    at_a.expect("it is let go", |message| {
        matches!(message, ClientMessage::Reregister { above: 2, .. })
    });
    wait_for("it is told", || {
        events.try_iter().any(|event| {
            let NodeEvent::Partition { partition, event } = event else { return false };
            matches!(event, Event::Owner { now, seq: 2, .. }
                if partition == id("a") && now == id("b"))
        })
    });
    assert_eq!(nodes[0].status().partitions[0].owned, 0);

    // Whoever asks at its home is answered by it all the same.
    let mut third = Client::new(nodes[0].local_addr(), Role::ThirdParty);
    third.ask(9, "a-1", b"where are you?");
    let request = at_b.asked();
    assert_eq!(request.payload, b"where are you?");
    let outcome = Outcome::Done(b"at b".to_vec());
    at_b.say(&ClientMessage::Response { id: request.id, outcome: outcome.clone() });
    assert_eq!(third.answer(9), outcome);
    let asked = std::thread::spawn(move || {
        let request = at_b.asked();
        let outcome = Outcome::Done(request.payload);
        at_b.say(&ClientMessage::Response { id: request.id, outcome });
        at_b
    });
    let deadline = Duration::from_secs(30);
    let outcome = nodes[0].request_and_wait(device("a-1"), deadline, b"echo".to_vec());
    assert_eq!(outcome, Outcome::Done(b"echo".to_vec()));
    drop(asked.join().unwrap());
    assert_eq!(nodes[0].status().counts.requests_forwarded, 2);
    assert_eq!(nodes[1].status().counts.take_overs, 1);
}

#[test]
fn a_guest_is_handed_back_home() {
    let sites = Sites::new(&["a", "b"]);
    let nodes = sites.start_all();
    wait_linked(&nodes);
    let mut at_b = Client::device(&nodes[1]);
    at_b.register("a-1", 3);
    wait_for("all are in sync", || is_in_sync(&nodes));
    nodes[1].order(Some(&id("a")), Order::FailBack).unwrap();
    let said =
        at_b.expect("a hand-over", |message| matches!(message, ClientMessage::HandOff { .. }));
    let ClientMessage::HandOff { token, target, .. } = said else { panic!() };
    assert_eq!(target.controller, id("a"));
    assert_eq!(target.addrs, [nodes[0].local_addr()]);
    let answer = HandOffAnswer::Goes;
    at_b.say(&ClientMessage::HandOffAnswer { device: device("a-1"), token, answer });
    let mut at_a = Client::device(&nodes[0]);
    at_a.ask_to_register("a-1", 4, token);
    at_a.registered("a-1", 4);
    wait_owner(&nodes[1], "a-1", "a", 4);
    wait_for("it is counted", || nodes[1].status().counts.handed_over == 1);
    at_a.shake_hands("a-1", 4);
}

#[test]
fn a_link_that_is_cut_goes_on_and_one_that_is_silent_is_made_anew() {
    let sites = Sites::new(&["a", "b"]);
    let chaos = ChaosConfig::new("127.0.0.1:0".parse().unwrap(), sites.sites[1].partner_door);
    let proxy = Proxy::spawn(chaos).unwrap();
    let mut config = sites.config(0);
    config.partners[0].addrs = vec![proxy.local_addr()];
    config.link.silence_max = Duration::from_secs(4);
    let nodes = [begin(config), sites.start(1)];
    wait_linked(&nodes);
    let events = nodes[0].events();
    let went_down =
        || events.try_iter().any(|event| matches!(event, NodeEvent::Link { state: "down", .. }));
    went_down();
    let (mut at_a, mut at_b) = (Client::device(&nodes[0]), Client::device(&nodes[1]));
    for n in 1..=5 {
        proxy.inject(Fault::Reset, Target::All).unwrap();
        at_a.register("a-1", n);
        wait_owner(&nodes[1], "a-1", "a", n);
    }
    assert!(!went_down(), "the session goes on");

    let direction = Direction::Both;
    let silence = Fault::Blackhole { direction, lasting: None, then_reset: false };
    proxy.inject(silence, Target::All).unwrap();
    // Nobody is taken over, and both serve theirs.
    at_a.register("a-1", 6);
    at_b.register("b-1", 1);
    wait_for("the silence is noticed", went_down);
    proxy.inject(Fault::Heal, Target::All).unwrap();
    wait_linked(&nodes);
    wait_owner(&nodes[1], "a-1", "a", 6);
    wait_owner(&nodes[0], "b-1", "b", 1);
    proxy.stop();
}

#[test]
fn a_controller_comes_back_with_its_disk_and_without() {
    let sites = Sites::new(&["a", "b"]);
    let folder = |n: u32| sites.folder.0.join(format!("disk-{n}"));
    let on_disk = |n| {
        let mut config = sites.config(0);
        config.opens = std::sync::Arc::new(SqliteStores::new(&folder(n), Quota::default()));
        begin(config)
    };
    let home = on_disk(1);
    let backup = sites.start(1);
    wait_for("the link stands", || is_linked(&backup, "a"));
    let mut device_a = Client::device(&home);
    for n in 0..20 {
        device_a.register(&format!("a-{n}"), 1);
    }
    wait_owner(&backup, "a-19", "a", 1);
    home.close();
    wait_for("the link is down", || !is_linked(&backup, "a"));
    // The devices that notice go to the other one.
    let mut at_b = Client::device(&backup);
    at_b.register("a-0", 2);
    assert_eq!(known(&backup, "a-1").unwrap().owner, id("a"), "only that one has moved");

    let home = on_disk(1);
    assert_eq!(known(&home, "a-19").unwrap().owner, id("a"));
    wait_owner(&home, "a-0", "b", 2);
    // Nothing but the connections is lost.
    let mut device_a = Client::device(&home);
    device_a.say(&ClientMessage::Handshake { device: device("a-1"), seq: 1 });
    device_a.expect("a word", |message| {
        matches!(message, ClientMessage::HandshakeOk { .. } | ClientMessage::Reregister { .. })
    });
    device_a.register("a-1", 2);
    wait_owner(&backup, "a-1", "a", 2);
    home.close();

    let home = on_disk(2);
    wait_for("the table comes back from the partner", || {
        home.devices(Some(&id("a")), None, 100).unwrap().len() == 20
    });
    wait_owner(&home, "a-0", "b", 2);
    wait_owner(&home, "a-1", "a", 2);
    let mut device_a = Client::device(&home);
    device_a.ask_to_register("a-2", 1, 9);
    device_a.expect("a jump", |message| matches!(message, ClientMessage::Jump { seq: 1, .. }));
    device_a.register("a-2", 2);
    wait_owner(&backup, "a-2", "a", 2);
}

#[test]
fn both_come_back_from_empty_disks() {
    let sites = Sites::new(&["a", "b"]);
    let nodes = sites.start_all();
    wait_linked(&nodes);
    let mut at_a = Client::device(&nodes[0]);
    at_a.register("a-1", 1);
    wait_owner(&nodes[1], "a-1", "a", 1);
    for node in nodes {
        node.close();
    }
    for site in &sites.sites {
        for partition in ["a", "b", "shared"] {
            site.disks.disk(&id(partition)).lose();
        }
    }
    let nodes = sites.start_all();
    wait_linked(&nodes);
    let mut at_a = Client::device(&nodes[0]);
    at_a.say(&ClientMessage::Handshake { device: device("a-1"), seq: 1 });
    at_a.expect("nobody knows it", |m| matches!(m, ClientMessage::Reregister { .. }));
    at_a.register("a-1", 2);
    wait_owner(&nodes[1], "a-1", "a", 2);
    wait_for("all are in sync", || is_in_sync(&nodes));
}

#[test]
fn devices_that_are_moved_go_where_they_are_sent() {
    let sites = Sites::new(&["a", "b", "c"]);
    let nodes = sites.start_all();
    wait_linked(&nodes);
    let mut at_a = Client::device(&nodes[0]);
    at_a.register("a-1", 1);
    at_a.register("a-2", 1);
    for order in [
        Order::Move { devices: Vec::new(), target: id("nobody") },
        Order::Resync(id("nobody")),
        Order::Pause { partner: Some(id("nobody")), paused: true },
    ] {
        let refused = nodes[0].order(None, order);
        assert!(matches!(refused, Err(NodeError::NoPartner(_))), "{refused:?}");
    }
    let order = Order::Move { devices: vec![device("a-2")], target: id("c") };
    nodes[0].order(None, order).unwrap();
    let said = at_a.expect("a hand-over", |m| matches!(m, ClientMessage::HandOff { .. }));
    let ClientMessage::HandOff { device: which, target, .. } = said else { panic!() };
    assert_eq!((which, target.controller), (device("a-2"), id("c")));
    assert_eq!(known(&nodes[0], "a-2").unwrap().owner, id("a"), "it is served until it has gone");
}

/// A table that takes a while to get over, in many chunks.
fn fill(node: &Node, devices: u32) -> Client {
    let mut client = Client::device(node);
    for n in 0..devices {
        client.say(&ClientMessage::Register(Register {
            device: device(&format!("a-{n:05}")),
            seq: 1,
            nonce: 1,
            lease: Duration::ZERO,
            generation: 0,
            token: 0,
            address: vec![7; 1000],
        }));
    }
    for n in 0..devices {
        client.registered(&format!("a-{n:05}"), 1);
    }
    client
}

#[test]
fn a_snapshot_that_is_interrupted_again_and_again_is_whole_at_last() {
    const DEVICES: u32 = 2500;
    let sites = Sites::new(&["a", "b"]);
    let chaos = ChaosConfig::new("127.0.0.1:0".parse().unwrap(), sites.sites[1].partner_door);
    let proxy = Proxy::spawn(chaos).unwrap();
    let mut config = sites.config(0);
    config.partners[0].addrs = vec![proxy.local_addr()];
    config.policy.snapshot_from = 100;
    config.door.registrations_per_second = 100_000;
    let donor = begin(config.clone());
    let mut client = fill(&donor, DEVICES);
    let slow = |rate: u64| Fault::Rate {
        direction: Direction::Both,
        bytes_per_second: std::num::NonZeroU64::new(rate),
        lasting: None,
    };
    proxy.inject(slow(600_000), Target::All).unwrap();
    let joiner = sites.start(1);
    let has_chunks = |node: &Node, least: u32| {
        node.status().partitions.iter().any(|partition| {
            let mut chunks = partition.sync.iter().filter_map(|sync| sync.chunks);
            partition.name == "a" && chunks.any(|(done, all)| done >= least && done < all)
        })
    };
    wait_for("it has begun", || has_chunks(&joiner, 1));
    // Both serve meanwhile.
    client.register("a-00000", 2);
    let mut guest = Client::device(&joiner);
    guest.register("a-00001", 9);
    proxy.inject(Fault::Reset, Target::All).unwrap();
    wait_for("it goes on", || has_chunks(&joiner, 3));
    joiner.close();
    let joiner = sites.start(1);
    wait_for("it goes on where it was", || has_chunks(&joiner, 4));
    drop(client);
    donor.close();
    let donor = begin(config);
    proxy.inject(Fault::Heal, Target::All).unwrap();
    let count = |node: &Node| node.devices(Some(&id("a")), None, 10_000).unwrap().len();
    wait_for("all of it is there", || count(&joiner) == DEVICES as usize);
    let nodes = [donor, joiner];
    wait_for("all are in sync", || is_in_sync(&nodes));
    for node in &nodes {
        wait_owner(node, "a-00000", "a", 2);
        wait_owner(node, "a-00001", "b", 9);
        assert_eq!(known(node, "a-02499").unwrap().address, vec![7; 1000]);
    }
    assert_eq!(nodes[1].status().counts.snapshots_received, 1);
    proxy.stop();
}
