//! The door for devices and third parties: who may come in, and which partition hears what.
//!
//! Nothing here blocks. What a partition has no room for is answered at once: registrations and
//! requests may come again later, and a handshake that is lost is one that the device misses.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::link::Key;
use crate::limits::DEADLINE_MAX;
use crate::model::{DeviceId, DispatchMode};
use crate::node::admission::{Admission, Appointments};
use crate::node::hub::{Hub, Route, locked};
use crate::node::queue::Full;
use crate::node::worker::INDEX_BITS;
use crate::shard::Input;
use crate::shard::input::{ConnId, Origin};
use crate::wire::client::{ClientMessage, Outcome, Register, Request};
use crate::wire::codes::bye;
use crate::wire::{Bye, Role, Welcome};

/// Bytes that may wait to be written to a connection, which may have a hundred thousand devices.
const QUEUE_MAX: usize = 32 << 20;

/// A connection of a device or a third party.
struct Client {
    role: Option<Role>,
    key: Option<Key>,
    /// The partitions that have heard of it, as bits.
    partitions: u64,
    appointments: Appointments,
}

/// See the module.
pub(super) struct Door {
    hub: Arc<Hub>,
    clients: HashMap<ConnId, Client>,
    /// One for each partition with devices: who floods one takes nothing from the others.
    admissions: Vec<Admission>,
}

impl Door {
    pub(super) fn new(hub: Arc<Hub>, now: Instant) -> Self {
        let per_second = hub.config.door.registrations_per_second;
        let admissions = hub.of_devices().iter().map(|_| Admission::new(per_second, now)).collect();
        Self { hub, clients: HashMap::new(), admissions }
    }

    pub(super) fn opened(&mut self, conn: ConnId, key: Option<Key>) {
        let appointments = Appointments::default();
        let client = Client { role: None, key, partitions: 0, appointments };
        self.clients.insert(conn, client);
        self.hub.connections.store(self.clients.len(), Ordering::Relaxed);
    }

    pub(super) fn closed(&mut self, conn: ConnId) {
        let Some(client) = self.clients.remove(&conn) else { return };
        self.hub.connections.store(self.clients.len(), Ordering::Relaxed);
        for (index, partition) in self.hub.of_devices().iter().enumerate() {
            if client.partitions & (1 << index) != 0 {
                // There is always room for it.
                let _taken = partition.queue.push(Input::ConnLost { conn });
            }
        }
    }

    /// A message. An error ends the connection, after that word.
    pub(super) fn heard(
        &mut self,
        now: Instant,
        conn: ConnId,
        message: ClientMessage,
    ) -> Result<(), Bye> {
        let Some(client) = self.clients.get_mut(&conn) else { return Ok(()) };
        let Some(role) = client.role else {
            let ClientMessage::Hello(hello) = message else {
                return Err(Bye::new(bye::MALFORMED, "the first message is no hello"));
            };
            let version = hello.agree(&[Role::Device, Role::ThirdParty])?;
            client.role = Some(hello.role);
            if let Some(reactor) = self.hub.reactor.get() {
                reactor.greeted(conn);
                reactor.set_queue_max(conn, QUEUE_MAX);
            }
            let controller = self.hub.config.me.clone();
            let welcome = ClientMessage::Welcome(Welcome { version, controller });
            self.hub.send_client(conn, &welcome);
            return Ok(());
        };
        match message {
            ClientMessage::Request(request) => self.request(conn, request),
            ClientMessage::GetParameters => self.parameters(conn),
            // The connection is closed by the other side once it has said that.
            ClientMessage::Bye(bye) => log::debug!("a device or third party leaves: {bye}"),
            message if role == Role::Device => return self.of_device(now, conn, message),
            _ => return Err(Bye::new(bye::MALFORMED, "this is not for a third party to say")),
        }
        Ok(())
    }

    fn of_device(&mut self, now: Instant, conn: ConnId, message: ClientMessage) -> Result<(), Bye> {
        match message {
            ClientMessage::Register(register) => self.register(now, conn, register),
            ClientMessage::Handshake { device, seq } => {
                if let Some(route) = self.allowed(conn, &device) {
                    self.push(conn, route.index, Input::Handshake { conn, device, seq });
                }
            }
            ClientMessage::Deregister { device, seq } => {
                if let Some(route) = self.allowed(conn, &device) {
                    self.push(conn, route.index, Input::Deregister { conn, device, seq });
                }
            }
            ClientMessage::HandOffAnswer { device, token, answer } => {
                if let Some(route) = self.allowed(conn, &device) {
                    let input = Input::HandOffAnswer { conn, device, token, answer };
                    self.push(conn, route.index, input);
                }
            }
            ClientMessage::Response { id, outcome } => {
                let index = usize::try_from(id & ((1 << INDEX_BITS) - 1)).unwrap_or(usize::MAX);
                if index < self.hub.of_devices().len() {
                    let id = id >> INDEX_BITS;
                    self.push(conn, index, Input::Answer { conn, id, outcome });
                }
            }
            _ => return Err(Bye::new(bye::MALFORMED, "this is not for a device to say")),
        }
        Ok(())
    }

    fn register(&mut self, now: Instant, conn: ConnId, register: Register) {
        let Some(route) = self.allowed(conn, &register.device) else { return };
        if route.mode != DispatchMode::Serve {
            let text = "devices of this home are not served here".to_owned();
            return self.refuse(conn, register.device, text);
        }
        let (index, device) = (route.index, register.device.clone());
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let who = &mut client.appointments;
        if let Some(Err(after)) = self.admissions.get_mut(index).map(|one| one.ask(now, who)) {
            self.hub.retries.fetch_add(1, Ordering::Relaxed);
            return self.hub.send_client(conn, &ClientMessage::Retry { device, after });
        }
        if self.try_push(conn, index, Input::Register { conn, register }).is_err() {
            self.hub.retries.fetch_add(1, Ordering::Relaxed);
            let who = self.clients.get_mut(&conn).map(|client| &mut client.appointments);
            let after = self.hub.full_for(index, who);
            self.hub.send_client(conn, &ClientMessage::Retry { device, after });
        }
    }

    fn request(&mut self, conn: ConnId, mut request: Request) {
        let id = request.id;
        request.deadline = request.deadline.min(DEADLINE_MAX);
        let route = self.hub.route(&request.device);
        let refused = if route.mode == DispatchMode::Refuse {
            Outcome::Unknown
        } else {
            let input = Input::Request { origin: Origin::Conn(conn, id), request };
            match self.try_push(conn, route.index, input) {
                Ok(()) => return,
                Err(Full) => Outcome::Busy { after: self.hub.full_for(route.index, None) },
            }
        };
        self.hub.send_client(conn, &ClientMessage::Response { id, outcome: refused });
    }

    fn parameters(&self, conn: ConnId) {
        let environment = locked(&self.hub.environment);
        let generation = environment.generation();
        let text = environment.text().to_owned();
        drop(environment);
        self.hub.send_client(conn, &ClientMessage::Parameters { generation, text });
    }

    /// Where a device belongs, if the connection may speak for it and it is not refused here.
    fn allowed(&self, conn: ConnId, device: &DeviceId) -> Option<Route> {
        let key = self.clients.get(&conn).and_then(|client| client.key);
        let wanted = self.hub.config.device_keys.get(device);
        if wanted.is_some_and(|wanted| key != Some(wanted.0)) {
            let text = "this connection has not the key of the device".to_owned();
            self.refuse(conn, device.clone(), text);
            return None;
        }
        let route = self.hub.route(device);
        if route.mode == DispatchMode::Refuse {
            self.refuse(conn, device.clone(), "this controller refuses the device".to_owned());
            return None;
        }
        Some(route)
    }

    fn refuse(&self, conn: ConnId, device: DeviceId, text: String) {
        self.hub.refused.fetch_add(1, Ordering::Relaxed);
        self.hub.send_client(conn, &ClientMessage::Refused { device, text });
    }

    fn push(&mut self, conn: ConnId, index: usize, input: Input) {
        if self.try_push(conn, index, input).is_err() {
            log::debug!("partition {}: no room", self.hub.partitions[index].name);
        }
    }

    fn try_push(&mut self, conn: ConnId, index: usize, input: Input) -> Result<(), Full> {
        self.hub.partitions[index].queue.push(input)?;
        if let Some(client) = self.clients.get_mut(&conn) {
            client.partitions |= 1 << index;
        }
        Ok(())
    }
}
