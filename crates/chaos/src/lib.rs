//! A TCP fault proxy: it stands between a client and a server and does to their connections what
//! networks do: resets, silence, slow and lossy moments, at an exact byte or time, again and again
//! in the same way.
//!
//! ```no_run
//! use eversock_chaos::{Config, Fault, Plan, Proxy, Target};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plan = Plan::parse("always delay 20ms jitter 5ms; every 5MiB reset")?;
//! let config = Config::new("127.0.0.1:0".parse()?, "127.0.0.1:5432".parse()?);
//! let proxy = Proxy::spawn(config.with_plan(plan))?;
//! println!("connect to {}", proxy.local_addr());
//! proxy.inject("blackhole both for 3s".parse()?, Target::All)?;
//! proxy.inject(Fault::Reset, Target::Conn(1))?;
//! println!("{:?}", proxy.stop());
//! # Ok(())
//! # }
//! ```
//!
//! # What is exact
//! * Bytes are forwarded unchanged and in order, a FIN after the last byte of its direction, an
//!   RST as an RST. Out-of-band data is not forwarded as such.
//! * A step after N bytes comes when exactly N bytes were handed to the receiver's kernel, inside
//!   a message or not. Before an RST the proxy waits until the receiver's kernel has them
//!   ([`Config::flush`]), so on Linux a receiver can read exactly N bytes. If it reads too slowly
//!   for its buffers to take them in that time, it gets fewer; never more.
//! * Times are good to about a millisecond, rates to about a percent over a second.
//! * A connection that was cut counts once.
//!
//! # Scripts
//! One step per line, or several with `;` between them; `#` starts a comment.
//!
//! ```text
//! after 1MiB reset                        # once, all connections and both directions summed
//! every 5MiB reset                        # the connection that carried the byte is hit
//! conn 2 after 100 up half-open           # counts only the second connection, only client->server
//! each after 64KiB down fin               # counts for every connection by itself
//! at 2.5s blackhole both for 3s           # time since start; hits all, and new ones meanwhile
//! each at 1s stall up for 500ms           # time since each connection was accepted
//! always delay 20ms jitter 5ms
//! always rate 1MiB down                   # bytes per second, per connection and direction
//! at 5s rate 10KiB for 2s                 # then 1 MiB/s again
//! after 3MiB refuse closed for 1s         # connects fail
//! at 9s refuse 3 conns                    # accepted and reset
//! after 1000 up flip bit 3                # damages the byte at offset 1000
//! after 5000 down duplicate 4KiB          # sends the last 4 KiB again, then resets
//! at 20s blackhole up for 2s then reset   # without: goes on with a hole in the stream
//! at 30s heal                             # ends stalls, black holes, delays, rates, refusals
//! ```
//!
//! Sizes are bytes, or with `kB MB GB` (powers of 1000) or `KiB MiB GiB` (also `K M G`, powers of
//! 1024); times have `ns us ms s min`; both may have a fraction.
//!
//! ```text
//! step  := [conn NUMBER | each | total] when fault
//! when  := after SIZE [up|down|both] | every SIZE [up|down|both] | every TIME | at TIME | always
//! fault := reset | fin | heal
//!        | stall [up|down|both] [for TIME]
//!        | blackhole [up|down|both] [for TIME [then reset]]
//!        | half-open [client|server]            (who is left open; the client when left out)
//!        | refuse [for TIME | NUMBER conns] | refuse closed [for TIME]
//!        | duplicate SIZE [up|down|both]
//!        | flip [up|down|both] [bit 0..7]
//!        | delay (TIME [jitter TIME] | off) [up|down|both] [for TIME]
//!        | rate (SIZE | SIZE/s | off) [up|down|both] [for TIME]
//! ```
//!
//! A fault without a direction takes that of its `after` or `every`, else it hits both.
//!
//! # JSON
//! [`Event`], [`Summary`] and [`Stats`] are `serde::Serialize`; their keys are in their
//! documentation.

mod conn;
mod event;
mod fault;
mod gate;
mod ledger;
mod link;
mod plan;
mod proxy;
mod ring;
mod rng;
mod schedule;
mod script;
mod shape;
mod side;
mod summary;
mod units;
mod worker;

pub use event::{CloseReason, Event, EventKind, Events};
pub use fault::{Direction, Fault, Peer, Refusal, Target};
pub use plan::{Plan, Scope, Step, When};
pub use proxy::{Config, InjectError, Proxy, SpawnError};
pub use script::ScriptError;
pub use summary::{ConnStats, Stats, Summary};
