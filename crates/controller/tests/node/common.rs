//! What the tests of this binary have in common: sites with a node each, and a device or third
//! party that says anything.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eversock_controller::model::{
    ControllerId, DeviceId, Dispatch, DispatchMode, Dispatched, Location, Pattern,
};
use eversock_controller::node::{
    DoorConfig, LinkConfig, Node, NodeConfig, PartnerConfig, PartnerDoorConfig,
};
use eversock_controller::store::Opens;
use eversock_controller::store::memory::MemOpens;
use eversock_controller::wire::client::{ClientMessage, Register, Request};
use eversock_controller::wire::{HEADER_BYTES, Hello, Message, Place, Role, frame, header};
use eversock_engine::Config;
use eversock_socket::VirtualStream;

pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Fails the test when the condition does not come true in time.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn id(name: &str) -> ControllerId {
    name.parse().unwrap()
}

pub(crate) fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

pub(crate) fn socket() -> Config {
    // A session that is closed while it is cut keeps its listener's port that long.
    let linger = Duration::from_secs(1);
    let grace = Duration::from_secs(60);
    Config { grace, linger, connect_timeout: Duration::from_secs(2), ..Config::default() }
}

/// A folder that is gone with this.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("eversock-node-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// Where a controller is, whether it runs or not.
pub(crate) struct Site {
    pub(crate) name: ControllerId,
    pub(crate) door: SocketAddr,
    pub(crate) partner_door: SocketAddr,
    pub(crate) disks: Arc<MemOpens>,
}

/// Controllers that are partners of each other, on addresses that nobody else has.
pub(crate) struct Sites {
    pub(crate) sites: Vec<Site>,
    pub(crate) folder: Folder,
}

impl Sites {
    pub(crate) fn new(names: &[&str]) -> Self {
        let folder = Folder::new();
        let site = |name: &&str| {
            let ip = address();
            let below = folder.0.join(name);
            Site {
                name: id(name),
                door: (ip, 7001).into(),
                partner_door: (ip, 7002).into(),
                disks: Arc::new(MemOpens::new(u64::from(ip.to_bits()), below)),
            }
        };
        let sites = names.iter().map(site).collect();
        Self { sites, folder }
    }

    pub(crate) fn config(&self, index: usize) -> NodeConfig {
        let site = &self.sites[index];
        let mut door = DoorConfig::new(site.door);
        door.socket = socket();
        let opens: Arc<dyn Opens> = Arc::<MemOpens>::clone(&site.disks);
        let mut config = NodeConfig::new(site.name.clone(), door, opens);
        config.insecure = true;
        config.partner_door = Some(PartnerDoorConfig {
            listen: site.partner_door,
            socket: socket(),
            connections_max: 64,
        });
        let others = || self.sites.iter().filter(|other| other.name != site.name);
        let partner = |other: &Site| PartnerConfig {
            id: other.name.clone(),
            addrs: vec![other.partner_door],
            socket: socket(),
            dial: Default::default(),
            key: None,
        };
        config.partners = others().map(partner).collect();
        let place =
            |other: &Site| Place { controller: other.name.clone(), addrs: vec![other.door] };
        config.known = others().map(place).collect();
        // Devices belong to the controller that their names begin with.
        let to =
            |home: &ControllerId| Dispatched { partition: home.clone(), mode: DispatchMode::Serve };
        let rule = |site: &Site| (Pattern::Prefix(format!("{}-", site.name)), to(&site.name));
        let rules = self.sites.iter().map(rule).collect();
        let names = config.partition_names();
        config.dispatch = Some(Dispatch::new(1, rules, to(&site.name), &names).unwrap());
        config.link = LinkConfig {
            ping_every: Duration::from_millis(500),
            silence_max: Duration::from_secs(10),
            retry_first: Duration::from_millis(20),
            retry_most: Duration::from_millis(200),
        };
        config
    }

    pub(crate) fn start(&self, index: usize) -> Node {
        begin(self.config(index))
    }

    pub(crate) fn start_all(&self) -> Vec<Node> {
        (0..self.sites.len()).map(|index| self.start(index)).collect()
    }
}

/// Starts a node as soon as the one before has left its address.
pub(crate) fn begin(config: NodeConfig) -> Node {
    let mut node = None;
    wait_for("the address is free", || {
        match Node::start(config.clone()) {
            Ok(started) => node = Some(started),
            Err(eversock_controller::node::NodeError::Listen { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        node.is_some()
    });
    node.unwrap()
}

/// One that no other test has, in this process or another.
pub(crate) fn address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id() % 60_000;
    let [_, _, high, low] = (pid + 1500).to_be_bytes();
    Ipv4Addr::new(127, high, low, number)
}

pub(crate) fn is_linked(node: &Node, partner: &str) -> bool {
    node.status().partners.iter().any(|link| link.partner == id(partner) && link.state == "up")
}

pub(crate) fn wait_linked(nodes: &[Node]) {
    wait_for("all links stand", || {
        nodes.iter().all(|node| node.status().partners.iter().all(|link| link.state == "up"))
    });
}

/// What a node knows of a device.
pub(crate) fn known(node: &Node, name: &str) -> Option<Location> {
    node.find(&device(name)).unwrap().map(|row| row.location)
}

/// Waits until a node knows who has a device.
pub(crate) fn wait_owner(node: &Node, name: &str, owner: &str, seq: u64) {
    wait_for(&format!("{} knows that {owner} has {name} under {seq}", node.me()), || {
        known(node, name).is_some_and(|known| known.owner == id(owner) && known.seq == seq)
    });
}

/// A connection of a device or a third party.
pub(crate) struct Client {
    stream: VirtualStream,
    bytes: Vec<u8>,
    /// What has come and was not asked for.
    pub(crate) kept: VecDeque<ClientMessage>,
}

impl Client {
    pub(crate) fn raw(addr: SocketAddr, config: Config) -> Self {
        let stream = VirtualStream::connect_with(addr, config).unwrap();
        Self { stream, bytes: Vec::new(), kept: VecDeque::new() }
    }

    pub(crate) fn new(addr: SocketAddr, role: Role) -> Self {
        let mut client = Self::raw(addr, socket());
        client.say(&ClientMessage::Hello(Hello::new(role)));
        client.expect("a welcome", |message| matches!(message, ClientMessage::Welcome(_)));
        client
    }

    pub(crate) fn device(node: &Node) -> Self {
        Self::new(node.local_addr(), Role::Device)
    }

    pub(crate) fn say<M: Message>(&mut self, message: &M) {
        self.write(&frame(message));
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next message of any type; `None` at the end.
    pub(crate) fn next<M: Message>(&mut self) -> Option<M> {
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        loop {
            if let Some(head) = self.bytes.first_chunk::<HEADER_BYTES>() {
                let (length, kind) = header(*head);
                if let Some(body) = self.bytes[HEADER_BYTES..].get(..length) {
                    let message = M::decode(kind, body).unwrap();
                    self.bytes.drain(..HEADER_BYTES + length);
                    return Some(message);
                }
            }
            let mut more = [0; 64 << 10];
            match self.stream.read(&mut more) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.bytes.extend(&more[..n]),
            }
        }
    }

    /// The first message that is looked for; others are kept.
    pub(crate) fn expect(
        &mut self,
        what: &str,
        is_it: impl Fn(&ClientMessage) -> bool,
    ) -> ClientMessage {
        if let Some(at) = self.kept.iter().position(&is_it) {
            return self.kept.remove(at).unwrap();
        }
        loop {
            let message = self.next::<ClientMessage>();
            let last: Vec<_> = self.kept.iter().rev().take(3).collect();
            let Some(message) = message else { panic!("the end, not {what}: {last:?}") };
            if is_it(&message) {
                return message;
            }
            self.kept.push_back(message);
        }
    }

    pub(crate) fn ask_to_register(&mut self, name: &str, seq: u64, token: u64) {
        self.say(&ClientMessage::Register(Register {
            device: device(name),
            seq,
            nonce: seq * 1000 + token,
            lease: Duration::ZERO,
            generation: 0,
            token,
            address: b"somewhere".to_vec(),
        }));
    }

    /// Registers a device, and waits until that is done.
    pub(crate) fn register(&mut self, name: &str, seq: u64) {
        self.ask_to_register(name, seq, 0);
        self.registered(name, seq);
    }

    pub(crate) fn registered(&mut self, name: &str, seq: u64) -> ClientMessage {
        let device = device(name);
        self.expect("registered", |message| {
            matches!(message, ClientMessage::Registered { device: other, seq: of_it, .. }
                if *other == device && *of_it == seq)
        })
    }

    pub(crate) fn shake_hands(&mut self, name: &str, seq: u64) {
        let device = device(name);
        self.say(&ClientMessage::Handshake { device: device.clone(), seq });
        self.expect("a handshake", |message| {
            matches!(message, ClientMessage::HandshakeOk { device: other, .. } if *other == device)
        });
    }

    pub(crate) fn ask(&mut self, id: u64, name: &str, payload: &[u8]) {
        self.say(&ClientMessage::Request(Request {
            id,
            device: device(name),
            deadline: PATIENCE,
            payload: payload.to_vec(),
        }));
    }

    /// A request for one of the devices of this connection.
    pub(crate) fn asked(&mut self) -> Request {
        let is_it = |message: &ClientMessage| matches!(message, ClientMessage::Request(_));
        match self.expect("a request", is_it) {
            ClientMessage::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn answer(&mut self, id: u64) -> eversock_controller::wire::client::Outcome {
        let is_it = |message: &ClientMessage| match message {
            ClientMessage::Response { id: other, .. } => *other == id,
            _ => false,
        };
        match self.expect("an answer", is_it) {
            ClientMessage::Response { outcome, .. } => outcome,
            other => panic!("{other:?}"),
        }
    }
}
