//! Between a controller and devices, or third parties.
//!
//! One connection may carry many devices: each message says which.

use std::time::Duration;

use super::{Bye, Hello, Place, Welcome};
use crate::model::{ControllerId, DeviceId};

/// Asks to serve a device from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// Which.
    pub device: DeviceId,
    /// Its counter: one more than at its last attempt.
    pub seq: u64,
    /// A random number for this attempt; the same if it is sent again.
    pub nonce: u64,
    /// How long it wants to be kept without a word; zero: the controller's default.
    pub lease: Duration,
    /// The generation of parameters that it has.
    pub generation: u64,
    /// The number of the hand-over that brings it here; 0: it comes of its own.
    pub token: u64,
    /// How to reach it: its own business.
    pub address: Vec<u8>,
}

/// What a controller promises to a device that it has registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// How long without a word of the device.
    pub lease: Duration,
    /// How often the device should shake hands.
    pub handshake_every: Duration,
    /// How many handshakes without an answer make a fault.
    pub misses: u8,
    /// The generation of parameters there is.
    pub generation: u64,
    /// Where to go when this controller does not answer, best first.
    pub alternates: Vec<Place>,
}

/// What a device says to a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOffAnswer {
    /// It goes there now.
    Goes,
    /// It has something to do that must not be torn; ask later.
    Busy,
    /// It stays: it cannot reach the target, or does not want to.
    Stays,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The device answered.
    Done(Vec<u8>),
    /// Nobody has heard of the device, or it has deregistered.
    Unknown,
    /// Another controller has it, as far as this one knows.
    NotHere {
        /// Who.
        owner: ControllerId,
        /// The counter of the registration that says so.
        seq: u64,
        /// Where that is; empty if it is not known.
        place: Vec<std::net::SocketAddr>,
    },
    /// The device or the controller on the way to it cannot be reached now.
    Unreachable(String),
    /// Too much is under way.
    Busy {
        /// When to come again.
        after: Duration,
    },
    /// No answer in time; it may still take effect.
    TimedOut,
    /// The device will not do it.
    Refused(String),
}

/// A request for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The asker's number, unique on the connection until it is answered.
    pub id: u64,
    /// For whom.
    pub device: DeviceId,
    /// How long the asker waits.
    pub deadline: Duration,
    /// What.
    pub payload: Vec<u8>,
}

/// One message. Which side sends it stands at each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// First, from who dialled.
    Hello(Hello),
    /// First, from the controller.
    Welcome(Welcome),
    /// Last, from either.
    Bye(Bye),
    /// Device: serve me.
    Register(Register),
    /// Controller: it is done, and on disk.
    Registered {
        /// Which.
        device: DeviceId,
        /// The counter that stands.
        seq: u64,
        /// What it may rely on.
        terms: Terms,
    },
    /// Controller: not now; come again (here or elsewhere) after a while.
    Retry {
        /// Which.
        device: DeviceId,
        /// How long, at least.
        after: Duration,
    },
    /// Controller: the counter is not larger than one that is known; use a larger one than this.
    Jump {
        /// Which.
        device: DeviceId,
        /// The largest that is known.
        seq: u64,
    },
    /// Controller: never.
    Refused {
        /// Which.
        device: DeviceId,
        /// Why.
        text: String,
    },
    /// Device: I am here. Keeps the lease.
    Handshake {
        /// Which.
        device: DeviceId,
        /// The counter of its registration here.
        seq: u64,
    },
    /// Controller: so am I.
    HandshakeOk {
        /// Which.
        device: DeviceId,
        /// The counter that it shook hands with.
        seq: u64,
        /// The generation of parameters there is.
        generation: u64,
    },
    /// Device: no more.
    Deregister {
        /// Which.
        device: DeviceId,
        /// The counter of its registration here.
        seq: u64,
    },
    /// Controller: it is done, and on disk.
    Deregistered {
        /// Which.
        device: DeviceId,
        /// The counter.
        seq: u64,
    },
    /// Controller: I do not have you any more, somebody has a registration with this counter. A
    /// device that thinks that it is here registers again, with a larger one.
    Reregister {
        /// Which.
        device: DeviceId,
        /// Larger than this.
        above: u64,
    },
    /// Controller: go there.
    HandOff {
        /// Which.
        device: DeviceId,
        /// The number of this hand-over.
        token: u64,
        /// Where.
        target: Place,
        /// Until when it has to have happened.
        within: Duration,
    },
    /// Device: what it does about it.
    HandOffAnswer {
        /// Which.
        device: DeviceId,
        /// Of which hand-over.
        token: u64,
        /// What.
        answer: HandOffAnswer,
    },
    /// Either: a request for a device (from the controller: for one of this connection).
    Request(Request),
    /// Either: what came of it.
    Response {
        /// The asker's number.
        id: u64,
        /// What.
        outcome: Outcome,
    },
    /// Device: what are the parameters?
    GetParameters,
    /// Controller: these.
    Parameters {
        /// Their generation.
        generation: u64,
        /// Their text.
        text: String,
    },
}
