//! Virtual sockets over real ones.
//!
//! A virtual socket is a descriptor that stays valid while the TCP connection under it dies and is
//! replaced. This crate owns the real sockets: it keeps the table of descriptors, moves the bytes
//! in the program's own threads (*direct* mode) or in the engine's (*pumped* mode), dials, listens,
//! notices faults and swaps connections. What the bytes mean is `eversock-proto`'s business.
//!
//! * `socket`: one virtual socket: its two directions, readiness, and the swap.
//! * `meet`: where threads meet, in small files that `crates/models` tries exhaustively.
//! * `wait`: poll, select and epoll over virtual and other descriptors.
//! * `reactor`: the engine's one thread: dialling, handshakes, faults, timers.
//! * `process`, `family`: who owns a session after a fork, and how relatives share it.
//! * [`exec`]: what another program inherits.
//! * [`cabi`]: memory and addresses as callers from C hand them over.
//! * [`host`]: pairs, threads and tables for who serves programs' sockets above this crate.
//! * [`posix`]: the system calls' twins, by descriptor.
//! * `table`: from descriptor to virtual socket.
//! * [`keys`]: files with keys, and with lists of keys.
//! * [`udp`], [`names`]: datagrams with the addresses of both ends, and the system's resolver.
//! * `sys`: system calls, and with the table and the fork hooks the unsafe code.
//!
//! Architecture: no `#[no_mangle]` here; no lock but a socket's own direction lock is held across a
//! system call that moves data; no lock is held while a thread sleeps.

pub mod cabi;
mod clock;
pub mod config;
mod error;
mod event;
pub mod exec;
mod family;
pub mod host;
mod inspect;
pub mod keys;
mod listener;
mod mark;
mod meet;
pub mod names;
mod options;
pub mod posix;
mod process;
mod reactor;
mod socket;
mod sys;
mod table;
pub mod udp;
mod wait;

pub use config::{
    Answer, BackOff, Config, FaultReport, KnownServers, KnowsServers, LineUp, Mode, Peers,
    PresharedKey, PublicKey, RecoveryPolicy, Sealing, StaticKey,
};
pub use event::{Event, EventKind};
pub use inspect::{SessionInfo, State, answer, kill, redial, sessions};
pub use mark::is_in_another_object;
pub use reactor::{
    network_changed, on_engine_thread, poisoned, set_log_cap, shutdown, shutdown_from_exit,
};
pub use sys::calls::{Calls, set_calls};
pub use sys::process::Uncancelled;
