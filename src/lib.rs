//! Sockets that outlive their connections.
//!
//! A [`VirtualStream`] is a TCP conversation that goes on when the TCP connection under it dies: it
//! is reset, times out, the address changes, a proxy restarts. eversock redials, both ends prove
//! who
//! they are, what was not confirmed is sent again, and neither program notices anything but a
//! pause. Both ends use eversock.
//!
//! ```
//! use std::io::{Read, Write};
//! use eversock::{VirtualListener, VirtualStream};
//!
//! # fn main() -> std::io::Result<()> {
//! let listener = VirtualListener::bind("127.0.0.1:0")?;
//! let addr = listener.local_addr()?;
//! let server = std::thread::spawn(move || -> std::io::Result<()> {
//!     let (mut stream, _peer) = listener.accept()?;
//!     let mut word = [0; 5];
//!     stream.read_exact(&mut word)?;
//!     stream.write_all(&word)
//! });
//! let mut stream = VirtualStream::connect(addr)?;
//! stream.write_all(b"hello")?;
//! let mut echo = [0; 5];
//! stream.read_exact(&mut echo)?;
//! assert_eq!(&echo, b"hello");
//! # server.join().expect("the server ends")?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Config`] says whether and how to recover ([`RecoveryPolicy`]), for how long, over which
//! addresses and with which key. [`VirtualStream::info`] shows a session as it is,
//! [`VirtualStream::events`] what happens to it.
//!
//! *Threads*: everything is `Send` and `Sync`; one thread may read while another writes.
//!
//! *Processes*: after a fork, the session belongs to the process that uses it first.
//!
//! *Event loops*: a direct socket must be waited for with eversock's own calls (blocking reads and
//! writes, time-outs, [`wait`]); for tokio, mio and their like turn it into an ordinary `TcpStream`
//! with [`VirtualStream::into_pumped`].
//!
//! The C interface is in `include/eversock.h`.

pub mod ffi;

#[cfg(feature = "controller")]
pub use eversock_controller as controller;
#[cfg(feature = "dedup")]
pub use eversock_dedup as dedup;
pub use eversock_engine::keys::KnownFile;
pub use eversock_engine::{
    Answer, BackOff, Config, Event, EventKind, FaultReport, KnownServers, KnowsServers, LineUp,
    Mode, PresharedKey, PublicKey, RecoveryPolicy, Sealing, SessionInfo, State, StaticKey, answer,
    kill, network_changed, redial, sessions, set_log_cap, shutdown,
};
pub use eversock_socket::{Builder, Incoming, VirtualListener, VirtualStream, builder, wait};
#[cfg(feature = "spool")]
pub use eversock_spool as spool;

/// The directory in which the control sockets of this user's processes are, for `evs`.
pub fn control_dir() -> std::path::PathBuf {
    eversock_engine::posix::control_dir()
}
