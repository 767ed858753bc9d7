//! What a controller is started with.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use eversock_engine::{Config, PublicKey};

use super::{NodeError, Policy};
use crate::limits::{ADDRS_MAX, PARTITIONS_MAX};
use crate::model::{ControllerId, DeviceId, Dispatch};
use crate::store::Opens;
use crate::wire::Place;

/// The partition that holds what all controllers share; no controller may be called so.
pub const SHARED: &str = "shared";

/// What a controller is started with: who it is, where it is found, whom it knows. None of this is
/// a parameter, and so nothing that a partner sends can change it.
#[derive(Clone)]
pub struct NodeConfig {
    /// Its name, and that of the partition of its own devices.
    pub me: ControllerId,
    /// Where devices and third parties come.
    pub door: DoorConfig,
    /// Where partners come; `None`: it dials all of them.
    pub partner_door: Option<PartnerDoorConfig>,
    /// The controllers that it exchanges its tables with.
    pub partners: Vec<PartnerConfig>,
    /// Doors for devices of controllers, as far as they are known beforehand. What a partner says
    /// of its own when its link stands comes in the place of it.
    pub known: Vec<Place>,
    /// What is special about single partitions. There is one for the devices of this controller
    /// and of each partner, and for each that is named here.
    pub partitions: Vec<PartitionConfig>,
    /// Which partition each device belongs to; `None`: all to this controller. Its generation is
    /// the first one.
    pub dispatch: Option<Dispatch>,
    /// Opens the stores of the partitions, and of [`SHARED`].
    pub opens: Arc<dyn Opens>,
    /// Bytes of the snapshot of one partition, at most. Default: 16 GiB.
    pub snapshot_bytes_max: u64,
    /// How partitions behave that are not named there, where the shared parameters say nothing.
    pub policy: Policy,
    /// The shared parameters as long as no partner and no operator has given newer ones:
    /// generation 0. See [`Parameters`](super::Parameters) for what can stand there.
    pub parameters: String,
    /// Devices that only a connection with this static key may speak for. Others may come with any
    /// connection that the door's socket takes.
    pub device_keys: HashMap<DeviceId, PublicKey>,
    /// How links are watched.
    pub link: LinkConfig,
    /// Partners need not prove who they are. Only for tests, and for networks that nobody else can
    /// reach.
    pub insecure: bool,
}

/// The door for devices and third parties.
#[derive(Debug, Clone)]
pub struct DoorConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it is found, for devices and partners; empty: where it listens.
    pub advertised: Vec<SocketAddr>,
    /// How its sockets are.
    pub socket: Config,
    /// Connections, at most.
    pub connections_max: usize,
    /// Registrations per second, at most, in each partition; more are told to come later, before
    /// anything is written for them.
    pub registrations_per_second: u32,
}

/// The door for partners.
#[derive(Debug, Clone)]
pub struct PartnerDoorConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How its sockets are: an `identity` with `allowed_clients`, or a `key`.
    pub socket: Config,
    /// Connections, at most: more than there are partners, as a new one may come while the old
    /// one is not known to be dead.
    pub connections_max: usize,
}

/// Who makes the connection of two partners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dial {
    /// The one with the smaller name.
    #[default]
    Auto,
    /// This one, whatever the other does.
    Always,
    /// The other one.
    Never,
}

/// A controller to exchange tables with.
#[derive(Debug, Clone)]
pub struct PartnerConfig {
    /// Its name.
    pub id: ControllerId,
    /// Where its door for partners is.
    pub addrs: Vec<SocketAddr>,
    /// How the sockets are that dial it: an `identity` with a `server_key`, or a `key`.
    pub socket: Config,
    /// Who dials.
    pub dial: Dial,
    /// The static key that proves its name when it dials. Without one a connection that has proven
    /// a static key is not taken for it, unless [`NodeConfig::insecure`].
    pub key: Option<PublicKey>,
}

/// What is special about one partition.
#[derive(Debug, Clone)]
pub struct PartitionConfig {
    /// The home of its devices.
    pub name: ControllerId,
    /// Where its devices may go besides, best first. Empty: to their home, then to the partners in
    /// their order.
    pub alternates: Vec<ControllerId>,
    /// How it behaves where the shared parameters say nothing.
    pub policy: Policy,
    /// What may wait for its thread.
    pub queue: QueueConfig,
}

/// What may wait for the thread of a partition: so much from devices, and so much again from
/// each partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// Inputs.
    pub inputs_max: usize,
    /// Bytes of them.
    pub bytes_max: usize,
}

/// How links to partners are watched and made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkConfig {
    /// How often each side asks whether the other is there.
    pub ping_every: Duration,
    /// A link without a word for so long is given up and made anew.
    pub silence_max: Duration,
    /// The first wait before dialling again; doubled each time.
    pub retry_first: Duration,
    /// The longest.
    pub retry_most: Duration,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { inputs_max: 8192, bytes_max: 8 << 20 }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(3),
            silence_max: Duration::from_secs(15),
            retry_first: Duration::from_millis(250),
            retry_most: Duration::from_secs(10),
        }
    }
}

impl DoorConfig {
    /// A door with the usual bounds.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            advertised: Vec::new(),
            socket: Config::default(),
            connections_max: 16_384,
            registrations_per_second: 2000,
        }
    }
}

impl PartitionConfig {
    /// A partition that behaves as usual.
    #[must_use]
    pub fn new(name: ControllerId) -> Self {
        Self {
            name,
            alternates: Vec::new(),
            policy: Policy::default(),
            queue: QueueConfig::default(),
        }
    }
}

impl NodeConfig {
    /// A controller without partners.
    #[must_use]
    pub fn new(me: ControllerId, door: DoorConfig, opens: Arc<dyn Opens>) -> Self {
        Self {
            me,
            door,
            partner_door: None,
            partners: Vec::new(),
            known: Vec::new(),
            partitions: Vec::new(),
            dispatch: None,
            opens,
            snapshot_bytes_max: 16 << 30,
            policy: Policy::default(),
            parameters: String::new(),
            device_keys: HashMap::new(),
            link: LinkConfig::default(),
            insecure: false,
        }
    }

    /// The partitions: its own, its partners', and those that are named besides.
    #[must_use]
    pub fn partition_names(&self) -> Vec<ControllerId> {
        let mut names = vec![self.me.clone()];
        let partners = self.partners.iter().map(|partner| &partner.id);
        for name in partners.chain(self.partitions.iter().map(|partition| &partition.name)) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// Whether it can be started.
    ///
    /// # Errors
    ///
    /// What is wrong, and what to do about it.
    pub fn check(&self) -> Result<(), NodeError> {
        let wrong = |text: String| Err(NodeError::Config(text));
        let names = self.partition_names();
        if names.len() > PARTITIONS_MAX - 1 {
            let most = PARTITIONS_MAX - 1;
            return wrong(format!("{} partitions are more than {most}", names.len()));
        }
        if let Some(name) = names.iter().find(|name| name.as_str() == SHARED) {
            return wrong(format!("no controller may be called {name}: give it another name"));
        }
        for (at, partner) in self.partners.iter().enumerate() {
            let id = &partner.id;
            if *id == self.me {
                return wrong(format!("{id} cannot be its own partner: remove it"));
            }
            if self.partners[..at].iter().any(|other| other.id == *id) {
                return wrong(format!("the partner {id} stands twice: remove one"));
            }
            if partner.addrs.len() > ADDRS_MAX {
                return wrong(format!("the partner {id} has more than {ADDRS_MAX} addresses"));
            }
            if self.dials(partner) && partner.addrs.is_empty() {
                return wrong(format!(
                    "the partner {id} is to be dialled, but has no address: give one, or let it \
                     dial"
                ));
            }
            if !self.insecure && self.dials(partner) && !proves_server(&partner.socket) {
                return wrong(format!(
                    "nobody would know whether {id} is who answers: give its static key (and an \
                     identity), or a preshared key, or say that the network is secure"
                ));
            }
        }
        for (at, partition) in self.partitions.iter().enumerate() {
            if self.partitions[..at].iter().any(|other| other.name == partition.name) {
                return wrong(format!("the partition {} stands twice", partition.name));
            }
        }
        if self.door.advertised.len() > ADDRS_MAX {
            return wrong(format!("the door has more than {ADDRS_MAX} addresses"));
        }
        if self.door.registrations_per_second == 0 {
            return wrong("no registration per second is too few".to_owned());
        }
        self.check_partner_door()
    }

    fn check_partner_door(&self) -> Result<(), NodeError> {
        let comes = |partner: &&PartnerConfig| !self.dials(partner);
        let Some(door) = &self.partner_door else {
            return match self.partners.iter().find(comes) {
                Some(partner) => Err(NodeError::Config(format!(
                    "the partner {} is to dial, but there is no door for partners",
                    partner.id
                ))),
                None => Ok(()),
            };
        };
        let has_keys = door.socket.identity.is_some() && door.socket.allowed_clients.is_some();
        if !self.insecure && !has_keys && door.socket.key.is_none() {
            return Err(NodeError::Config(
                "anybody could come to the door for partners: give it an identity and the keys \
                 of the partners, or a preshared key, or say that the network is secure"
                    .to_owned(),
            ));
        }
        let nameless = self.partners.iter().filter(comes).find(|partner| partner.key.is_none());
        match nameless {
            Some(partner) if has_keys && !self.insecure => Err(NodeError::Config(format!(
                "the partner {} dials, but has no static key that would prove its name: give one",
                partner.id
            ))),
            _ => Ok(()),
        }
    }

    /// Whether this side dials a partner.
    #[must_use]
    pub fn dials(&self, partner: &PartnerConfig) -> bool {
        match partner.dial {
            Dial::Auto => self.me < partner.id,
            Dial::Always => true,
            Dial::Never => false,
        }
    }
}

fn proves_server(socket: &Config) -> bool {
    let knows = socket.server_key.is_some() || socket.known_servers.is_some();
    socket.key.is_some() || (knows && socket.identity.is_some())
}

impl fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeConfig").field("me", &self.me).finish_non_exhaustive()
    }
}
