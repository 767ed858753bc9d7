//! Parameters that all controllers share.

use std::time::Duration;

use eversock_controller::model::{Record, kind};
use eversock_controller::node::{NodeError, NodeEvent, PartitionConfig};
use eversock_controller::shard::Event;
use eversock_controller::store::Opens;
use eversock_controller::wire::client::ClientMessage;

use crate::common::{Client, Sites, begin, id, wait_for, wait_linked};

#[test]
fn what_one_is_told_all_use_and_remember() {
    let sites = Sites::new(&["a", "b"]);
    let mut config = sites.config(0);
    config.parameters = "lease = \"100s\"".to_owned();
    let nodes = [begin(config.clone()), sites.start(1)];
    wait_linked(&nodes);
    assert_eq!(nodes[0].parameters(), (0, "lease = \"100s\"".to_owned()));
    assert_eq!(nodes[1].parameters(), (0, String::new()));
    let text = "lease = \"90s\"\nfail-back = \"auto 5min\"\n[env]\nsite = \"north\"\n";
    assert_eq!(nodes[0].set_parameters(text).unwrap(), 1);
    assert_eq!(nodes[0].parameters(), (1, text.to_owned()));
    wait_for("the partner uses them", || nodes[1].parameters() == (1, text.to_owned()));
    wait_for("it says so", || nodes[0].status().partners[0].generation == 1);

    let mut client = Client::device(&nodes[1]);
    client.say(&ClientMessage::GetParameters);
    client.expect("the parameters", |message| {
        matches!(message, ClientMessage::Parameters { generation: 1, text: told } if told == text)
    });
    client.ask_to_register("b-1", 1, 0);
    let ClientMessage::Registered { terms, .. } = client.registered("b-1", 1) else { panic!() };
    assert_eq!((terms.lease, terms.generation), (Duration::from_secs(90), 1));
    let places: Vec<_> = terms.alternates.iter().map(|place| place.addrs[0]).collect();
    assert_eq!(places, [nodes[0].local_addr()]);

    assert_eq!(nodes[1].set_parameters("misses = 5").unwrap(), 2);
    wait_for("the partner uses them", || nodes[0].parameters().0 == 2);
    let [a, b] = nodes;
    a.close();
    let a = begin(config);
    assert_eq!(a.parameters(), (2, "misses = 5".to_owned()));
    assert_eq!(a.status().generation, 2);
    b.close();
}

/// A partner that lies tells of the last generation that there is: nobody takes that over, and who
/// has it is not told that other parameters are in use.
#[test]
fn no_generation_is_the_last() {
    let sites = Sites::new(&["a", "b"]);
    let mut rank = u64::MAX.to_be_bytes().to_vec();
    rank.extend(b"z");
    let (key, body) = (b"parameters".to_vec(), b"misses = 9".to_vec());
    let last = Record { kind: kind::PARAMETERS, key, rank, body };
    let mut store = sites.sites[1].disks.open(&id("shared")).unwrap();
    store.put(&last, None).unwrap();
    store.commit().unwrap();
    drop(store);
    let a = sites.start(0);
    let events = a.events();
    let nodes = [a, sites.start(1)];
    wait_linked(&nodes);
    wait_for("it is left out", || {
        events.try_iter().any(|event| {
            matches!(event, NodeEvent::Partition { event: Event::Odd { text, .. }, .. }
                if text.contains("generation"))
        })
    });
    let error = nodes[1].set_parameters("misses = 4").unwrap_err();
    assert!(matches!(error, NodeError::Parameters(_)), "{error}");
    assert_eq!(nodes[0].set_parameters("misses = 5").unwrap(), 1);
    assert_eq!(nodes[0].parameters().0, 1);
}

#[test]
fn what_one_cannot_use_it_refuses_whole_and_says_so() {
    let sites = Sites::new(&["a", "b"]);
    let mut config = sites.config(1);
    let mut slow = PartitionConfig::new(id("b"));
    (slow.policy.lease, slow.policy.handshake) =
        (Duration::from_secs(4000), Duration::from_secs(1000));
    config.partitions.push(slow);
    let nodes = [sites.start(0), begin(config.clone())];
    wait_linked(&nodes);
    for wrong in ["lease = 5", "lease = \"1ms\"", "name = \"c\"", "misses = 0", "[env", "lease"] {
        let error = nodes[0].set_parameters(wrong).unwrap_err();
        assert!(matches!(error, NodeError::Parameters(_)), "{wrong}: {error}");
    }
    assert_eq!(nodes[0].set_parameters("[env]\nx = 1").unwrap(), 1);
    wait_for("the partner uses them", || nodes[1].parameters().0 == 1);
    let events = [nodes[0].events(), nodes[1].events()];
    assert_eq!(nodes[0].set_parameters("lease = \"120s\"\nmisses = 4").unwrap(), 2);
    wait_for("the partner refuses them", || {
        nodes[1].status().generation_refused.starts_with("generation 2: partition b: a lease of")
    });
    wait_for("the other one sees that", || {
        let status = nodes[0].status();
        let of_b = &status.partners[0];
        of_b.generation == 1 && of_b.generation_refused.starts_with("generation 2: partition b")
    });
    wait_for("both tell it", || {
        let at_a = |event| matches!(event, NodeEvent::PartnerRefused { generation: 2, .. });
        events[0].try_iter().any(at_a)
    });
    let at_b = |event| matches!(event, NodeEvent::ParametersRefused { generation: 2, .. });
    assert!(events[1].try_iter().any(at_b));
    // No part of them is used, and what was used before still is after a restart.
    let [a, b] = nodes;
    b.close();
    let b = begin(config);
    assert_eq!(b.parameters(), (1, "[env]\nx = 1".to_owned()));
    assert!(b.status().generation_refused.starts_with("generation 2: "));
    let mut client = Client::device(&b);
    client.ask_to_register("a-1", 1, 0);
    let ClientMessage::Registered { terms, .. } = client.registered("a-1", 1) else { panic!() };
    assert_eq!((terms.misses, terms.generation), (3, 1));
    // The next ones can be used again.
    assert_eq!(b.set_parameters("misses = 2").unwrap(), 3);
    wait_for("the partner uses them", || a.parameters().0 == 3);
    assert_eq!(b.status().generation_refused, "");
}

/// The partners know the generations that the lost table had, and take no smaller one.
#[test]
fn generations_go_on_after_their_table_was_lost() {
    let sites = Sites::new(&["a", "b"]);
    let node = sites.start(0);
    for misses in 1..=3 {
        let text = format!("misses = {misses}");
        assert_eq!(node.set_parameters(&text).unwrap(), misses);
    }
    node.close();
    sites.sites[0].disks.disk(&id("shared")).lose();
    let node = sites.start(0);
    assert_eq!(node.parameters().0, 3);
    assert_eq!(node.set_parameters("misses = 4").unwrap(), 4);
}
