//! Devices and third parties at the door of one controller.

use std::time::{Duration, Instant};

use eversock_controller::limits::GREETING_MAX;
use eversock_controller::model::{Dispatch, DispatchMode, Dispatched, Pattern, Standing};
use eversock_controller::node::PartitionConfig;
use eversock_controller::shard::Order;
use eversock_controller::wire::client::{ClientMessage, Outcome, Request};
use eversock_controller::wire::codes::bye;
use eversock_controller::wire::{Hello, Role, frame};
use eversock_engine::StaticKey;

use crate::common::{Client, PATIENCE, Sites, begin, device, id, known, socket, wait_for};

#[test]
fn a_device_registers_shakes_hands_and_leaves() {
    let sites = Sites::new(&["a"]);
    let node = sites.start(0);
    let mut client = Client::device(&node);
    client.ask_to_register("d1", 5, 0);
    let ClientMessage::Registered { terms, .. } = client.registered("d1", 5) else { panic!() };
    assert_eq!(terms.lease, Duration::from_secs(120));
    client.shake_hands("d1", 5);
    // What comes twice is answered twice.
    client.register("d1", 5);
    client.ask_to_register("d1", 4, 7);
    client.expect("a jump", |message| matches!(message, ClientMessage::Jump { seq: 5, .. }));
    let row = node.find(&device("d1")).unwrap().unwrap();
    assert!(row.is_connected);
    assert_eq!(row.location.address, b"somewhere");
    let status = node.status();
    assert_eq!((status.partitions[0].owned, status.partitions[0].connected), (1, 1));
    assert!(status.partitions[0].registration_p99 > Duration::ZERO);
    assert_eq!(status.connections, 1);
    drop(client);
    wait_for("the connection is missed", || {
        !node.find(&device("d1")).unwrap().unwrap().is_connected
    });
    assert!(known(&node, "d1").unwrap().stands(), "a lost connection ends no registration");
    let mut client = Client::device(&node);
    client.shake_hands("d1", 5);
    client.say(&ClientMessage::Deregister { device: device("d1"), seq: 5 });
    client.expect("its end", |message| matches!(message, ClientMessage::Deregistered { .. }));
    assert_eq!(known(&node, "d1").unwrap().standing, Standing::Deregistered);
    node.close();
}

#[test]
fn requests_of_third_parties_and_of_the_process_reach_a_device() {
    let sites = Sites::new(&["a"]);
    let node = sites.start(0);
    let mut of_device = Client::device(&node);
    of_device.register("d1", 1);
    let mut third = Client::new(node.local_addr(), Role::ThirdParty);
    third.ask(77, "d1", b"how are you?");
    let request = of_device.asked();
    assert_eq!(request.payload, b"how are you?");
    let outcome = Outcome::Done(b"fine".to_vec());
    of_device.say(&ClientMessage::Response { id: request.id, outcome: outcome.clone() });
    assert_eq!(third.answer(77), outcome);
    third.ask(78, "nobody", b"");
    assert_eq!(third.answer(78), Outcome::Unknown);
    let answering = std::thread::spawn(move || {
        let request = of_device.asked();
        let outcome = Outcome::Refused("not now".to_owned());
        of_device.say(&ClientMessage::Response { id: request.id, outcome });
        of_device
    });
    let outcome = node.request_and_wait(device("d1"), Duration::from_secs(30), b"again".to_vec());
    assert_eq!(outcome, Outcome::Refused("not now".to_owned()));
    drop(answering.join().unwrap());
    assert_eq!(node.status().counts.requests_served, 2);
    // A third party speaks for no device.
    third.ask_to_register("d9", 1, 0);
    third.expect("an end", |message| {
        matches!(message, ClientMessage::Bye(bye)
        if bye.code == bye::MALFORMED)
    });
    assert!(third.next::<ClientMessage>().is_none());
}

#[test]
fn a_table_says_what_is_done_for_which_device() {
    let sites = Sites::new(&["a"]);
    let mut config = sites.config(0);
    config.partitions.push(PartitionConfig::new(id("z")));
    let to = |partition: &str, mode| Dispatched { partition: id(partition), mode };
    let rules = vec![
        (Pattern::Prefix("z-".to_owned()), to("z", DispatchMode::Serve)),
        (Pattern::Prefix("p-".to_owned()), to("z", DispatchMode::Proxy)),
        (Pattern::Device(device("bad")), to("a", DispatchMode::Refuse)),
    ];
    let default = to("a", DispatchMode::Serve);
    let names = config.partition_names();
    let table = Dispatch::new(3, rules, default.clone(), &names).unwrap();
    config.dispatch = Some(table);
    let node = begin(config);
    assert_eq!(node.status().dispatch_generation, 3);
    let mut client = Client::device(&node);
    client.register("d1", 1);
    client.register("z-1", 1);
    for (name, text) in [("p-1", "not served here"), ("bad", "refuses")] {
        client.ask_to_register(name, 1, 0);
        client.expect("a refusal", |message| {
            matches!(message, ClientMessage::Refused { device: of, text: why }
                if *of == device(name) && why.contains(text))
        });
    }
    let mut third = Client::new(node.local_addr(), Role::ThirdParty);
    third.ask(1, "p-1", b"");
    assert_eq!(third.answer(1), Outcome::Unknown);
    third.ask(2, "bad", b"");
    assert_eq!(third.answer(2), Outcome::Unknown);
    // Requests to devices of different partitions do not get mixed up.
    third.ask(3, "d1", b"one");
    third.ask(4, "z-1", b"two");
    for _ in 0..2 {
        let request = client.asked();
        let answer = [request.device.as_str().as_bytes(), &request.payload].concat();
        let outcome = Outcome::Done(answer);
        client.say(&ClientMessage::Response { id: request.id, outcome });
    }
    assert_eq!(third.answer(3), Outcome::Done(b"d1one".to_vec()));
    assert_eq!(third.answer(4), Outcome::Done(b"z-1two".to_vec()));
    let rows = node.devices(None, None, 10).unwrap();
    let homes: Vec<_> = rows.iter().map(|row| row.home.as_str()).collect();
    assert_eq!(homes, ["a", "z"]);
    assert_eq!(node.devices(Some(&id("z")), None, 10).unwrap().len(), 1);

    // Another table moves nobody who is not heard of.
    let all_to_a = Dispatch::new(0, Vec::new(), default, &names).unwrap();
    assert_eq!(node.set_dispatch(all_to_a).unwrap(), 4);
    assert_eq!(node.devices(Some(&id("z")), None, 10).unwrap().len(), 1);
    client.say(&ClientMessage::Handshake { device: device("z-1"), seq: 1 });
    client.expect("it is sent on", |message| matches!(message, ClientMessage::Reregister { .. }));
    client.register("z-1", 2);
    assert_eq!(node.devices(Some(&id("a")), None, 10).unwrap().len(), 2);
    let elsewhere = to("nowhere", DispatchMode::Serve);
    let wrong = Dispatch::new(0, Vec::new(), elsewhere, &[id("nowhere")]).unwrap();
    assert!(node.set_dispatch(wrong).is_err());
    assert_eq!(node.dispatch().generation(), 4);
}

#[test]
fn a_storm_of_registrations_is_spread_and_nobody_starves() {
    let sites = Sites::new(&["a"]);
    let mut config = sites.config(0);
    config.door.registrations_per_second = 40;
    let node = begin(config);
    let mut client = Client::device(&node);
    let began = Instant::now();
    let mut due: Vec<_> = (0..120).map(|n| (began, n)).collect();
    let (mut done, mut retries) = (0, 0);
    while done < 120 {
        due.sort();
        due.reverse();
        let Some((at, n)) = due.pop() else { panic!("somebody got no answer") };
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        client.ask_to_register(&format!("d{n}"), 1, 0);
        match client.next::<ClientMessage>().unwrap() {
            ClientMessage::Registered { .. } => done += 1,
            ClientMessage::Retry { after, .. } => {
                assert!(after >= Duration::from_millis(100), "{after:?}");
                assert!(after <= Duration::from_secs(10), "{after:?}");
                due.push((Instant::now() + after, n));
                retries += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    // The first second is free, and 80 take two more.
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    assert!(retries >= 40, "{retries}");
    assert_eq!(node.status().counts.retries, retries);
    assert_eq!(node.status().partitions[0].registrations, 120);
}

#[test]
fn nothing_is_lost_of_more_than_fits_into_one_transaction() {
    const COUNT: usize = 1000;
    let sites = Sites::new(&["a"]);
    let mut config = sites.config(0);
    config.door.registrations_per_second = 1_000_000;
    let node = begin(config);
    let mut client = Client::device(&node);
    (0..COUNT).for_each(|n| client.ask_to_register(&format!("d{n}"), 1, 0));
    for _ in 0..COUNT {
        let told = client.next::<ClientMessage>();
        assert!(matches!(told, Some(ClientMessage::Registered { .. })), "{told:?}");
    }
    node.close();
}

#[test]
fn a_flood_for_one_partition_sends_no_device_of_another_away() {
    const PER_SECOND: u32 = 5;
    let sites = Sites::new(&["a"]);
    let mut config = sites.config(0);
    config.partitions.push(PartitionConfig::new(id("z")));
    let to = |partition| Dispatched { partition: id(partition), mode: DispatchMode::Serve };
    let rules = vec![(Pattern::Prefix("z-".to_owned()), to("z"))];
    let names = config.partition_names();
    config.dispatch = Some(Dispatch::new(1, rules, to("a"), &names).unwrap());
    config.door.registrations_per_second = PER_SECOND;
    let node = begin(config);
    let mut client = Client::device(&node);
    // Until the door has none left for them.
    let is_empty = |client: &mut Client, n| {
        client.ask_to_register(&format!("z-{n}"), 1, 0);
        matches!(client.next::<ClientMessage>().unwrap(), ClientMessage::Retry { .. })
    };
    assert!((0..10_000).any(|n| is_empty(&mut client, n)), "the door has no bound");
    for n in 0..PER_SECOND {
        client.ask_to_register(&format!("d{n}"), 1, 0);
        let told = client.next::<ClientMessage>().unwrap();
        assert!(matches!(told, ClientMessage::Registered { .. }), "{told:?}");
    }
    node.close();
}

#[test]
fn only_the_right_key_speaks_for_a_device() {
    let sites = Sites::new(&["a"]);
    let mut config = sites.config(0);
    let keys = [1, 2, 3].map(|n| StaticKey::from_bytes([n; 32]));
    config.door.socket.identity = Some(keys[0].clone());
    config.device_keys.insert(device("d1"), keys[1].public());
    let node = begin(config);
    let connect = |key: &StaticKey| {
        let mut with_key = socket();
        with_key.identity = Some(key.clone());
        with_key.server_key = Some(keys[0].public());
        let mut client = Client::raw(node.local_addr(), with_key);
        client.say(&ClientMessage::Hello(Hello::new(Role::Device)));
        client.expect("a welcome", |message| matches!(message, ClientMessage::Welcome(_)));
        client
    };
    let mut wrong = connect(&keys[2]);
    wrong.ask_to_register("d1", 1, 0);
    wrong.expect("a refusal", |message| matches!(message, ClientMessage::Refused { .. }));
    wrong.register("d2", 1);
    let mut right = connect(&keys[1]);
    right.register("d1", 1);
    // Nobody else ends its registration.
    wrong.say(&ClientMessage::Deregister { device: device("d1"), seq: 1 });
    wrong.expect("a refusal", |message| matches!(message, ClientMessage::Refused { .. }));
    right.shake_hands("d1", 1);
}

#[test]
fn odd_peers_are_shown_out_and_cost_the_others_nothing() {
    let sites = Sites::new(&["a"]);
    let node = sites.start(0);
    let mut good = Client::device(&node);
    good.register("d1", 1);
    let ended = |client: &mut Client, code: u8| {
        let said = client.expect("an end", |message| matches!(message, ClientMessage::Bye(_)));
        let ClientMessage::Bye(bye) = said else { panic!() };
        assert_eq!(bye.code, code, "{bye}");
        assert!(client.next::<ClientMessage>().is_none());
    };
    let mut garbage = Client::raw(node.local_addr(), socket());
    garbage.write(&[0x55; 64]);
    ended(&mut garbage, bye::MALFORMED);
    let mut huge = Client::raw(node.local_addr(), socket());
    huge.write(&[&u32::to_le_bytes(GREETING_MAX as u32 + 1)[..], &[1, 0]].concat());
    ended(&mut huge, bye::MALFORMED);
    let mut rude = Client::raw(node.local_addr(), socket());
    rude.ask_to_register("d2", 1, 0);
    ended(&mut rude, bye::MALFORMED);
    let mut newer = Client::raw(node.local_addr(), socket());
    newer.say(&ClientMessage::Hello(Hello { oldest: 7, newest: 9, role: Role::Device }));
    ended(&mut newer, bye::VERSION);
    let mut partner = Client::raw(node.local_addr(), socket());
    partner.say(&ClientMessage::Hello(Hello::new(Role::Partner)));
    ended(&mut partner, bye::MISMATCH);
    let mut both = Client::raw(node.local_addr(), socket());
    both.say(&ClientMessage::Hello(Hello { oldest: 1, newest: 9, role: Role::Device }));
    both.expect("a welcome", |m| matches!(m, ClientMessage::Welcome(w) if w.version == 1));
    both.register("d2", 1);
    both.say(&ClientMessage::Handshake { device: device("d1"), seq: 99 });
    both.expect("no", |message| matches!(message, ClientMessage::Reregister { above: 1, .. }));
    good.shake_hands("d1", 1);
}

#[test]
fn maintenance_takes_no_registrations_and_ends_again() {
    let sites = Sites::new(&["a"]);
    let node = sites.start(0);
    node.order(None, Order::Maintenance(true)).unwrap();
    assert!(node.status().maintenance);
    let mut client = Client::device(&node);
    client.ask_to_register("d1", 1, 0);
    client.expect("not now", |message| {
        matches!(message, ClientMessage::Retry { .. } | ClientMessage::Refused { .. })
    });
    node.order(None, Order::Maintenance(false)).unwrap();
    client.register("d1", 1);
    assert!(!node.status().maintenance);
    assert!(node.order(Some(&id("nobody")), Order::FailBack).is_err());
}

/// More than a partition takes in one transaction, all at once.
#[test]
fn each_of_many_requests_is_answered() {
    const COUNT: u64 = 2_000;
    let sites = Sites::new(&["a"]);
    let node = sites.start(0);
    let mut third = Client::new(node.local_addr(), Role::ThirdParty);
    let mut bytes = Vec::new();
    for id in 0..COUNT {
        let device = device("a-nobody");
        let request = Request { id, device, deadline: PATIENCE, payload: Vec::new() };
        bytes.extend(frame(&ClientMessage::Request(request)));
    }
    third.write(&bytes);
    let mut answered: Vec<u64> = (0..COUNT)
        .map(|_| match third.next() {
            Some(ClientMessage::Response { id, outcome: Outcome::Unknown }) => id,
            other => panic!("{other:?}"),
        })
        .collect();
    answered.sort_unstable();
    assert!(answered.into_iter().eq(0..COUNT));
}
