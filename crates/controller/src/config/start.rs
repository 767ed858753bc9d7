//! From a file to a controller at work.

use std::net::SocketAddr;
use std::sync::Arc;

use eversock_engine::keys::read_key;
use eversock_engine::{Config, PresharedKey, Sealing, StaticKey};

use super::doors::{PartnerDoorFile, PartnerFile};
use super::storage::{SNAPSHOT_MAX, StoreFile};
use super::{ConfigError, ControllerFile, resolve};
use crate::model::{ControllerId, Dispatch, DispatchMode, Dispatched};
use crate::node::{DoorConfig, Node, NodeConfig, PartnerConfig, PartnerDoorConfig};
use crate::store::Opens;
#[cfg(feature = "postgres")]
use crate::store::postgres::{PostgresConfig, PostgresStores};
use crate::store::sqlite::SqliteStores;
use crate::wire::Place;

impl ControllerFile {
    /// Starts the controller. Blocks while names are looked up and tables are opened.
    ///
    /// # Errors
    ///
    /// What cannot be had; nothing is served then.
    pub fn start(&self) -> Result<Node, ConfigError> {
        Node::start(self.node_config()?).map_err(|error| self.unusable(error))
    }

    /// What a controller is started with. Makes the directory of the records and reads the key
    /// files; blocks while names are looked up.
    ///
    /// # Errors
    ///
    /// What cannot be had.
    pub fn node_config(&self) -> Result<NodeConfig, ConfigError> {
        self.node_config_with(self.opens()?)
    }

    /// What a controller is started with that keeps its records elsewhere than the file says. Reads
    /// the key files; blocks while names are looked up.
    ///
    /// # Errors
    ///
    /// What cannot be had.
    pub fn node_config_with(&self, opens: Arc<dyn Opens>) -> Result<NodeConfig, ConfigError> {
        let mut config = NodeConfig::new(self.name.clone(), self.door()?, opens);
        let keys = self.partner_keys()?;
        config.partner_door = self.partner_door.as_ref().and_then(|door| self.listen(door, &keys));
        config.insecure = self.partner_door.as_ref().is_some_and(|door| door.insecure);
        for partner in &self.partners {
            config.partners.push(self.partner(partner, &keys)?);
            if !partner.door.is_empty() {
                let addrs = self.addrs(&partner.door)?;
                config.known.push(Place { controller: partner.name.clone(), addrs });
            }
        }
        config.partitions.clone_from(&self.partitions);
        config.policy = self.usual.clone();
        config.device_keys.clone_from(&self.device_keys);
        config.link = self.link;
        config.snapshot_bytes_max = self.snapshot_bytes_max();
        if !self.dispatch.is_empty() {
            config.dispatch = Some(self.dispatch(&config.partition_names())?);
        }
        Ok(config)
    }

    /// A snapshot takes less than the quota, but ends of registrations may go beyond that.
    pub(super) fn snapshot_bytes_max(&self) -> u64 {
        self.store.quota.bytes.saturating_mul(2).clamp(1 << 30, SNAPSHOT_MAX)
    }

    /// Makes the directory of the records, for its user alone, if it is not there.
    ///
    /// # Errors
    ///
    /// The system does not let it.
    pub fn make_dir(&self) -> Result<(), ConfigError> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        let dir = &self.store.dir;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|error| {
            let dir = dir.display();
            self.unusable(format!("`dir`: {dir} cannot be made: {error}; make it, or name another"))
        })?;
        if std::fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o077 != 0) {
            let dir = dir.display();
            log::warn!("others can look into {dir}, where the records lie: chmod 700 {dir}");
        }
        Ok(())
    }

    /// Where its partitions keep their records.
    fn opens(&self) -> Result<Arc<dyn Opens>, ConfigError> {
        self.make_dir()?;
        let StoreFile { dir, postgres, quota } = &self.store;
        match postgres {
            None => Ok(Arc::new(SqliteStores::new(dir, *quota))),
            #[cfg(feature = "postgres")]
            Some(postgres) => {
                let config = PostgresConfig {
                    params: postgres.params.clone(),
                    prefix: postgres.prefix.clone(),
                    call_timeout: postgres.timeout,
                    folder: dir.clone(),
                };
                Ok(Arc::new(PostgresStores::new(config, *quota)))
            }
            #[cfg(not(feature = "postgres"))]
            Some(_) => Err(self.unusable("`postgres`: this program was built without it")),
        }
    }

    /// Which partition a device belongs to; without a rule for all others, to its own.
    fn dispatch(&self, partitions: &[ControllerId]) -> Result<Dispatch, ConfigError> {
        let mut rules = Vec::new();
        let mut default = Dispatched { partition: self.name.clone(), mode: DispatchMode::Serve };
        for (pattern, to) in &self.dispatch {
            match pattern {
                Some(pattern) => rules.push((pattern.clone(), to.clone())),
                None => default = to.clone(),
            }
        }
        Dispatch::new(1, rules, default, partitions).map_err(|error| self.unusable(error))
    }

    fn addrs(&self, places: &[String]) -> Result<Vec<SocketAddr>, ConfigError> {
        resolve(places).map_err(|problem| self.unusable(problem))
    }

    fn door(&self) -> Result<DoorConfig, ConfigError> {
        let mut door = DoorConfig::new(self.door.listen);
        if !self.door.advertise.is_empty() {
            door.advertised = self.addrs(&self.door.advertise)?;
        }
        self.door.socket.set(&mut door.socket);
        let read = self.door.keys.read_into(&mut door.socket);
        read.map_err(|error| self.unusable(error))?;
        door.connections_max = self.door.connections_max;
        door.registrations_per_second = self.door.registrations_per_second;
        Ok(door)
    }

    /// A socket's configuration with what this side shows its partners.
    fn partner_keys(&self) -> Result<Config, ConfigError> {
        let mut socket = Config::default();
        let Some(door) = &self.partner_door else { return Ok(socket) };
        let wrong = |error| self.unusable(error);
        if let Some(path) = &door.key {
            socket.key = Some(PresharedKey(read_key(path).map_err(wrong)?));
            socket.sealing = Sealing::Always;
        }
        if let Some(path) = &door.identity {
            socket.identity = Some(StaticKey::from_bytes(read_key(path).map_err(wrong)?));
            socket.sealing = Sealing::Always;
        }
        Ok(socket)
    }

    fn listen(&self, door: &PartnerDoorFile, keys: &Config) -> Option<PartnerDoorConfig> {
        let mut socket = keys.clone();
        door.socket.set(&mut socket);
        if socket.identity.is_some() {
            let known = self.partners.iter().filter_map(|partner| partner.public_key);
            socket.allowed_clients = Some(known.collect());
        }
        // A new link may come while the old one is not known to be dead.
        let connections_max = 16 + 4 * self.partners.len();
        Some(PartnerDoorConfig { listen: door.listen?, socket, connections_max })
    }

    fn partner(&self, file: &PartnerFile, keys: &Config) -> Result<PartnerConfig, ConfigError> {
        let mut socket = keys.clone();
        file.socket.set(&mut socket);
        if socket.identity.is_some() {
            socket.server_key = file.public_key;
        }
        let addrs = if file.addrs.is_empty() { Vec::new() } else { self.addrs(&file.addrs)? };
        let (id, dial, key) = (file.name.clone(), file.dial, file.public_key);
        Ok(PartnerConfig { id, addrs, socket, dial, key })
    }
}
