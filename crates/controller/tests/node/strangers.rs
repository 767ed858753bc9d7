//! Who comes to the door for partners and is none, or speaks otherwise.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use eversock_controller::model::ControllerId;
use eversock_controller::node::Dial;
use eversock_controller::wire::codes::bye;
use eversock_controller::wire::peer::{Introduction, PeerMessage};
use eversock_controller::wire::{Hello, Place, Role, Welcome, frame};
use eversock_engine::{Config, StaticKey};
use eversock_socket::VirtualListener;

use crate::common::{Client, Sites, begin, id, is_linked, socket, wait_for, wait_linked};

fn introduction(name: &str) -> PeerMessage {
    PeerMessage::Introduction(Introduction {
        controller: id(name),
        boot: 1,
        place: Place { controller: id(name), addrs: Vec::new() },
        partitions: Vec::new(),
        wall_ms: 0,
    })
}

/// Says hello as a partner and gives its name; gives what comes first of a `Bye` and the node's
/// own introduction.
fn come(to: std::net::SocketAddr, config: Config, name: &str) -> PeerMessage {
    let mut client = Client::raw(to, config);
    client.say(&PeerMessage::Hello(Hello::new(Role::Partner)));
    assert!(matches!(client.next(), Some(PeerMessage::Welcome(_))));
    client.say(&introduction(name));
    client.next().unwrap()
}

#[test]
fn partners_without_a_name_or_a_version_are_shown_out() {
    let sites = Sites::new(&["a", "b"]);
    let nodes = sites.start_all();
    wait_linked(&nodes);
    let door = nodes[1].partner_addr().unwrap();
    let ended = |mut client: Client, code: u8| {
        match client.next::<PeerMessage>() {
            Some(PeerMessage::Bye(bye)) => assert_eq!(bye.code, code, "{bye}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(client.next::<PeerMessage>(), None);
    };
    let mut garbage = Client::raw(door, socket());
    garbage.write(&[0x99; 100]);
    ended(garbage, bye::MALFORMED);
    let mut newer = Client::raw(door, socket());
    newer.say(&PeerMessage::Hello(Hello { oldest: 40, newest: 50, role: Role::Partner }));
    ended(newer, bye::VERSION);
    let mut device = Client::raw(door, socket());
    device.say(&PeerMessage::Hello(Hello::new(Role::Device)));
    ended(device, bye::MISMATCH);
    let mut rude = Client::raw(door, socket());
    rude.say(&PeerMessage::Ping { n: 1 });
    ended(rude, bye::MALFORMED);
    match come(door, socket(), "nobody") {
        PeerMessage::Bye(bye) => assert_eq!(bye.code, bye::NOT_LET_IN),
        other => panic!("{other:?}"),
    }
    // Half a message costs nothing but its connection.
    let mut half = Client::raw(door, socket());
    half.write(&frame(&PeerMessage::Hello(Hello::new(Role::Partner)))[..7]);
    assert!(is_linked(&nodes[1], "a"), "the link of the real one stands");
    // Whoever speaks more versions than this one gets on with the one that both have.
    let mut both = Client::raw(door, socket());
    both.say(&PeerMessage::Hello(Hello { oldest: 1, newest: 9, role: Role::Partner }));
    match both.next() {
        Some(PeerMessage::Welcome(welcome)) => assert_eq!(welcome.version, 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_belongs_to_a_key() {
    let sites = Sites::new(&["a", "b", "c"]);
    let keys = [1_u8, 2, 3].map(|n| StaticKey::from_bytes([n; 32]));
    let key_of = |name: &ControllerId| ["a", "b", "c"].iter().position(|n| id(n) == *name).unwrap();
    let with_keys = |index: usize| {
        let mut config = sites.config(index);
        config.insecure = false;
        let door = config.partner_door.as_mut().unwrap();
        door.socket.identity = Some(keys[index].clone());
        door.socket.allowed_clients = Some(keys.iter().map(StaticKey::public).collect());
        for partner in &mut config.partners {
            let key = keys[key_of(&partner.id)].public();
            partner.socket.identity = Some(keys[index].clone());
            partner.socket.server_key = Some(key);
            partner.key = Some(key);
        }
        config
    };
    let nodes = [begin(with_keys(0)), begin(with_keys(1))];
    wait_for("the link stands", || is_linked(&nodes[0], "b") && is_linked(&nodes[1], "a"));
    let door = nodes[1].partner_addr().unwrap();
    let as_c = || {
        let mut config = socket();
        config.identity = Some(keys[2].clone());
        config.server_key = Some(keys[1].public());
        config
    };
    match come(door, as_c(), "a") {
        PeerMessage::Bye(bye) => assert_eq!(bye.code, bye::NOT_LET_IN, "{bye}"),
        other => panic!("{other:?}"),
    }
    assert!(is_linked(&nodes[1], "a"), "the real one is not pushed aside");
    assert!(matches!(come(door, as_c(), "c"), PeerMessage::Introduction(_)));
    // Without one of the keys there is not even a connection.
    let mut stranger = as_c();
    stranger.identity = Some(StaticKey::from_bytes([9; 32]));
    assert!(eversock_socket::VirtualStream::connect_with(door, stranger).is_err());
    // And nobody starts without knowing whom to believe.
    let mut careless = with_keys(0);
    careless.partner_door.as_mut().unwrap().socket.allowed_clients = None;
    assert!(eversock_controller::node::Node::start(careless).is_err());
    let mut careless = with_keys(0);
    careless.partners[0].socket.server_key = None;
    assert!(eversock_controller::node::Node::start(careless).is_err());
}

/// Answers whoever dials with a welcome of that version in that name.
fn answers(listener: VirtualListener, version: u16, name: &'static str) {
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut hello = [0; 64];
            if stream.read(&mut hello).is_ok() {
                let welcome = Welcome { version, controller: id(name) };
                let _gone = stream.write_all(&frame(&PeerMessage::Welcome(welcome)));
                let _end = stream.read(&mut hello);
            }
        }
    });
}

#[test]
fn a_partner_that_answers_wrongly_is_told_of() {
    for (version, name, state) in [(2, "b", "version mismatch"), (1, "z", "not let in")] {
        let sites = Sites::new(&["a", "b"]);
        let config = Config { linger: Duration::from_secs(1), ..socket() };
        let door = sites.sites[1].partner_door;
        answers(VirtualListener::bind_with(door, config).unwrap(), version, name);
        let node = sites.start(0);
        wait_for(state, || node.status().partners[0].state == state);
        assert!(!node.status().partners[0].error.is_empty());
    }
}

#[test]
fn two_that_dial_each_other_keep_one_link() {
    let sites = Sites::new(&["a", "b"]);
    let always = |index| {
        let mut config = sites.config(index);
        config.partners[0].dial = Dial::Always;
        begin(config)
    };
    let nodes = [always(0), always(1)];
    wait_linked(&nodes);
    let began = std::time::Instant::now();
    // It stays: for a while nothing else happens.
    let events = nodes[0].events();
    wait_for("it is quiet", || events.recv_timeout(Duration::from_secs(2)).is_err());
    assert!(began.elapsed() < Duration::from_secs(40));
    assert!(is_linked(&nodes[0], "b") && is_linked(&nodes[1], "a"));
}
