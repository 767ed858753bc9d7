//! Streams and listeners of [`std::net`]'s shape over virtual sockets: the Rust API that the crate
//! `eversock` shows, and that the components build on.

mod config;
mod listener;
mod stream;
pub mod wait;

pub use config::{Builder, builder};
use eversock_engine::keys::KnownFile;
use eversock_engine::{
    Answer, BackOff, Config, Event, FaultReport, KnownServers, KnowsServers, LineUp, Mode,
    PresharedKey, PublicKey, RecoveryPolicy, Sealing, SessionInfo, StaticKey,
};
pub use listener::{Incoming, VirtualListener};
pub use stream::VirtualStream;
