//! One connection of devices, or of a third party, that waits for each answer.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use eversock::VirtualStream;
use eversock_controller::device::socket_config;
use eversock_controller::model::DeviceId;
use eversock_controller::wire::client::{ClientMessage, Register};
use eversock_controller::wire::{HEADER_BYTES, Hello, Message as _, Role, frame, header};

/// Nothing that is asked here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    stream: VirtualStream,
    bytes: Vec<u8>,
    scratch: Box<[u8]>,
}

/// What became of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    Done,
    /// To come again after this.
    Later(Duration),
}

impl Client {
    pub(super) fn new(door: SocketAddr, role: Role) -> io::Result<Self> {
        let stream = VirtualStream::connect_with(door, socket_config())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, bytes: Vec::new(), scratch: vec![0; 16 << 10].into() };
        client.say(&ClientMessage::Hello(Hello::new(role)))?;
        client.expect(|message| matches!(message, ClientMessage::Welcome(_)))?;
        Ok(client)
    }

    pub(super) fn say(&mut self, message: &ClientMessage) -> io::Result<()> {
        self.stream.write_all(&frame(message))
    }

    fn next(&mut self) -> io::Result<ClientMessage> {
        loop {
            if let Some(head) = self.bytes.first_chunk::<HEADER_BYTES>() {
                let (length, kind) = header(*head);
                if let Some(body) = self.bytes[HEADER_BYTES..].get(..length) {
                    let message = ClientMessage::decode(kind, body).map_err(io::Error::other)?;
                    self.bytes.drain(..HEADER_BYTES + length);
                    return Ok(message);
                }
            }
            match self.stream.read(&mut self.scratch)? {
                0 => return Err(io::Error::other("the controller has ended the connection")),
                n => self.bytes.extend(&self.scratch[..n]),
            }
        }
    }

    /// The first message that is looked for; those before it are nobody's here.
    pub(super) fn expect(
        &mut self,
        is_it: impl Fn(&ClientMessage) -> bool,
    ) -> io::Result<ClientMessage> {
        loop {
            let message = self.next()?;
            if let ClientMessage::Bye(_) | ClientMessage::Refused { .. } = message {
                return Err(io::Error::other(format!("the controller said {message:?}")));
            }
            if is_it(&message) {
                return Ok(message);
            }
        }
    }

    /// Tries to register a device.
    pub(super) fn try_to_register(&mut self, device: &DeviceId, seq: u64) -> io::Result<Tried> {
        self.say(&ClientMessage::Register(Register {
            device: device.clone(),
            seq,
            nonce: seq,
            lease: Duration::ZERO,
            generation: 0,
            token: 0,
            address: Vec::new(),
        }))?;
        let answer = self.expect(|message| match message {
            ClientMessage::Registered { device: other, .. }
            | ClientMessage::Retry { device: other, .. }
            | ClientMessage::Jump { device: other, .. } => other == device,
            _ => false,
        })?;
        match answer {
            ClientMessage::Registered { .. } => Ok(Tried::Done),
            ClientMessage::Retry { after, .. } => Ok(Tried::Later(after)),
            other => Err(io::Error::other(format!("{device} was told {other:?}"))),
        }
    }

    /// Registers a device, however often it is told to come again; gives how often that was.
    pub(super) fn register(&mut self, device: &DeviceId, seq: u64) -> io::Result<u64> {
        let mut retries = 0;
        while let Tried::Later(after) = self.try_to_register(device, seq)? {
            retries += 1;
            thread::sleep(after);
        }
        Ok(retries)
    }
}

/// The name of a device of a controller.
pub(super) fn device(home: &str, name: &str) -> io::Result<DeviceId> {
    format!("{home}-{name}").parse().map_err(io::Error::other)
}
