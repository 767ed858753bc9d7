//! Devices that are registered, shake hands and answer requests all the while.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use eversock_controller::model::DeviceId;
use eversock_controller::wire::Role;
use eversock_controller::wire::client::{ClientMessage, Outcome, Request};

use super::client::{Client, device};

/// Devices of one connection.
const PER_CONNECTION: usize = 10;
/// From one round to the next: 200 of them in a second are no load.
const PAUSE: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(60);

/// See the module. One thread is all of them and the third party that asks them, so that nothing
/// but the controller is waited for.
#[derive(Debug)]
pub(super) struct Served {
    devices: Vec<DeviceId>,
    connections: Vec<Client>,
    third: Client,
    next: usize,
    asked: u64,
}

/// Microseconds that each took.
#[derive(Debug, Default)]
pub(super) struct Waits {
    pub(super) handshakes: Vec<f64>,
    pub(super) requests: Vec<f64>,
}

impl Served {
    pub(super) fn new(door: SocketAddr, home: &str, count: usize) -> io::Result<Self> {
        let names = (0..count).map(|number| device(home, &format!("served-{number}")));
        let devices: Vec<DeviceId> = names.collect::<io::Result<_>>()?;
        let mut connections = Vec::new();
        for some in devices.chunks(PER_CONNECTION) {
            let mut client = Client::new(door, Role::Device)?;
            for device in some {
                client.register(device, 1)?;
            }
            connections.push(client);
        }
        let third = Client::new(door, Role::ThirdParty)?;
        Ok(Self { devices, connections, third, next: 0, asked: 0 })
    }

    /// One device after the other until it is over.
    pub(super) fn go_on(&mut self, is_over: impl Fn() -> bool) -> io::Result<Waits> {
        let mut waits = Waits::default();
        let mut due = Instant::now();
        while !is_over() {
            self.next = (self.next + 1) % self.devices.len();
            waits.handshakes.push(us(|| self.shake_hands())?);
            waits.requests.push(us(|| self.ask())?);
            due = (due + PAUSE).max(Instant::now());
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(waits)
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        let device = &self.devices[self.next];
        let client = &mut self.connections[self.next / PER_CONNECTION];
        client.say(&ClientMessage::Handshake { device: device.clone(), seq: 1 })?;
        client.expect(|message| {
            matches!(message, ClientMessage::HandshakeOk { device: other, .. } if other == device)
        })?;
        Ok(())
    }

    fn ask(&mut self) -> io::Result<()> {
        self.asked += 1;
        let (id, payload) = (self.asked, vec![0x5A; 64]);
        let device = self.devices[self.next].clone();
        self.third.say(&ClientMessage::Request(Request {
            id,
            device,
            deadline: DEADLINE,
            payload,
        }))?;
        let client = &mut self.connections[self.next / PER_CONNECTION];
        let asked = client.expect(|message| matches!(message, ClientMessage::Request(_)))?;
        let ClientMessage::Request(request) = asked else {
            return Err(io::Error::other("no request"));
        };
        let outcome = Outcome::Done(request.payload);
        client.say(&ClientMessage::Response { id: request.id, outcome })?;
        let answered = self.third.expect(
            |message| matches!(message, ClientMessage::Response { id: other, .. } if *other == id),
        )?;
        match answered {
            ClientMessage::Response { outcome: Outcome::Done(_), .. } => Ok(()),
            other => Err(io::Error::other(format!("a request came to {other:?}"))),
        }
    }
}

/// How long it takes, in microseconds.
pub(super) fn us(what: impl FnOnce() -> io::Result<()>) -> io::Result<f64> {
    let began = Instant::now();
    what()?;
    Ok(began.elapsed().as_secs_f64() * 1e6)
}
