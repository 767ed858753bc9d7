//! Numbers: of the whole proxy, and of each connection that is open.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::event::seconds;

/// The sum of what a proxy did. The names of the fields are the keys in JSON, but for `elapsed`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Time since the start; in JSON the key `elapsed_s`, in seconds.
    #[serde(rename = "elapsed_s", serialize_with = "seconds")]
    pub elapsed: Duration,
    /// Connections that were accepted (without those refused).
    pub accepted: u64,
    /// Connections that are open: accepted and neither finished nor cut.
    pub open: u64,
    /// Connections that were accepted only to be reset, by [`Fault::Refuse`](crate::Fault::Refuse).
    pub refused: u64,
    /// Connections that were lost because the upstream could not be reached.
    pub upstream_failures: u64,
    /// Connections that were ended by a fault. Each counts once, whatever was done to it.
    pub cuts: u64,
    /// Those among the cuts that came while data was flowing (see
    /// [`Event::flowing`](crate::Event::flowing)).
    pub cuts_flowing: u64,
    /// How often each kind of fault was done, by [`Fault::kind`](crate::Fault::kind); a fault that
    /// hits several connections counts for each.
    pub faults: BTreeMap<&'static str, u64>,
    /// Bytes forwarded to the upstream.
    pub up: u64,
    /// Bytes forwarded to clients.
    pub down: u64,
    /// Bytes that were received and not forwarded: black holes, cuts, sides that were gone.
    pub swallowed: u64,
    /// Bytes that were sent once more by [`Fault::Duplicate`](crate::Fault::Duplicate).
    pub replayed: u64,
    /// Bytes that were damaged by [`Fault::Flip`](crate::Fault::Flip).
    pub flipped: u64,
    /// Steps of the plan.
    pub plan_steps: usize,
    /// Steps of the plan that were done at least once.
    pub plan_steps_done: usize,
    /// Why the proxy ended by itself, if it did.
    pub error: Option<String>,
}

/// A connection that is open. The names of the fields are the keys in JSON, but for `age`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ConnStats {
    /// Its number; the first connection has number 1.
    pub conn: u64,
    /// Address of the client.
    pub peer: SocketAddr,
    /// Time since it was accepted; in JSON the key `age_s`, in seconds.
    #[serde(rename = "age_s", serialize_with = "seconds")]
    pub age: Duration,
    /// Bytes forwarded to the upstream.
    pub up: u64,
    /// Bytes forwarded to the client.
    pub down: u64,
    /// Bytes received and not yet forwarded, both directions together.
    pub pending: u64,
    /// Bytes forwarded within the last 100 ms, or waiting.
    pub flowing: bool,
}

/// The state of a running proxy. In JSON the keys of [`Summary`] and `connections`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The sums so far.
    #[serde(flatten)]
    pub summary: Summary,
    /// The connections that are open, by number.
    pub connections: Vec<ConnStats>,
}
