//! What can be done to a connection, and to which.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::units::{Size, Time};

/// Which of the two streams of a connection is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the client (who connected to the proxy) to the upstream.
    Up,
    /// From the upstream to the client.
    Down,
    /// Both streams; where bytes are counted, their sum.
    Both,
}

impl Direction {
    pub(crate) fn covers(self, way: Way) -> bool {
        matches!((self, way), (Self::Both, _) | (Self::Up, Way::Up) | (Self::Down, Way::Down))
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Both => "both",
        })
    }
}

/// One single stream: [`Direction`] without the `Both`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

/// One of the two ends of a connection, as the proxy sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// The side that connected to the proxy.
    Client,
    /// The upstream, to which the proxy connected.
    Server,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// How, and how long, new connections are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Accept and reset at once, for a time; `None` is until [`Fault::Heal`].
    Reset(Option<Duration>),
    /// Accept and reset at once, this many connections.
    ResetNext(u64),
    /// Stop listening, so that connects fail, for a time; `None` is until [`Fault::Heal`]. The
    /// port stays reserved; connections in the accept queue are reset.
    Closed(Option<Duration>),
}

/// A fault. Its text form (`Display`, and the string that serde writes) is that of the script,
/// which `Fault::from_str` reads: `blackhole both for 3s`.
///
/// A *cut* is a fault that ends the connection: reset, fin, half-open, duplicate, and a black
/// hole that ends in a reset. Bytes that the proxy holds for a connection are lost when it is cut.
/// A lasting time of `None` is for ever, or until [`Fault::Heal`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Both sides get an RST.
    Reset,
    /// Both sides get a FIN, with whatever was forwarded before it.
    Fin,
    /// Nothing is forwarded, nothing is lost; afterwards it goes on. The senders are slowed down
    /// once the buffers are full.
    Stall {
        /// The stream or streams that stand still.
        direction: Direction,
        /// For how long.
        lasting: Option<Duration>,
    },
    /// Bytes, FIN and RST are swallowed and the connection stays open. Unless it ends in a reset,
    /// a stream goes on afterwards *with a hole in it*, which a real network never does.
    Blackhole {
        /// The stream or streams that vanish.
        direction: Direction,
        /// For how long.
        lasting: Option<Duration>,
        /// Reset the connection when the time is over.
        then_reset: bool,
    },
    /// One side gets an RST; the other is left open and hears nothing any more. What it sends is
    /// swallowed until it closes.
    HalfOpen {
        /// The side that is left in the dark.
        left_open: Peer,
    },
    /// New connections are refused; those that are open are left alone.
    Refuse(Refusal),
    /// The receiver gets the last bytes that were forwarded to it once more; then both sides are
    /// reset. At most [`Config::history`](crate::Config::history) bytes.
    Duplicate {
        /// The stream or streams with repeated bytes.
        direction: Direction,
        /// How many bytes.
        bytes: u64,
    },
    /// One bit of the next byte to be forwarded is inverted.
    Flip {
        /// The stream or streams that are damaged.
        direction: Direction,
        /// The bit, 0 (lowest) to 7; higher numbers count modulo 8.
        bit: u8,
    },
    /// Every byte arrives later; the order is kept.
    Delay {
        /// The slow stream or streams.
        direction: Direction,
        /// One-way latency; zero takes the delay away.
        delay: Duration,
        /// A random addition between zero and this.
        jitter: Duration,
        /// For how long; then the delay that was there before `for` comes back.
        lasting: Option<Duration>,
    },
    /// Each stream forwards at most so much.
    Rate {
        /// The narrow stream or streams.
        direction: Direction,
        /// Bytes per second; `None` takes the limit away.
        bytes_per_second: Option<NonZeroU64>,
        /// For how long; then the rate that was there before `for` comes back.
        lasting: Option<Duration>,
    },
    /// Stalls, black holes, delays, rates and refusals end.
    Heal,
}

impl Fault {
    /// The first word of the text form: `reset`, `half-open`...
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Fin => "fin",
            Self::Stall { .. } => "stall",
            Self::Blackhole { .. } => "blackhole",
            Self::HalfOpen { .. } => "half-open",
            Self::Refuse(_) => "refuse",
            Self::Duplicate { .. } => "duplicate",
            Self::Flip { .. } => "flip",
            Self::Delay { .. } => "delay",
            Self::Rate { .. } => "rate",
            Self::Heal => "heal",
        }
    }

    /// The time of a fault that is a state of the network, not a single blow. The outer `None`
    /// is for blows, the inner for ever.
    pub(crate) fn lasting(&self) -> Option<Option<Duration>> {
        match self {
            Self::Stall { lasting, .. }
            | Self::Blackhole { lasting, .. }
            | Self::Delay { lasting, .. }
            | Self::Rate { lasting, .. } => Some(*lasting),
            _ => None,
        }
    }

    /// The same fault for the time that is left of it.
    pub(crate) fn for_the_rest(mut self, rest: Option<Duration>) -> Self {
        if let Self::Stall { lasting, .. }
        | Self::Blackhole { lasting, .. }
        | Self::Delay { lasting, .. }
        | Self::Rate { lasting, .. } = &mut self
        {
            *lasting = rest;
        }
        self
    }

    pub(crate) fn direction(&self) -> Option<Direction> {
        match self {
            Self::Stall { direction, .. }
            | Self::Blackhole { direction, .. }
            | Self::Duplicate { direction, .. }
            | Self::Flip { direction, .. }
            | Self::Delay { direction, .. }
            | Self::Rate { direction, .. } => Some(*direction),
            _ => None,
        }
    }
}

fn write_lasting(f: &mut fmt::Formatter<'_>, lasting: Option<Duration>) -> fmt::Result {
    lasting.map_or(Ok(()), |time| write!(f, " for {}", Time(time)))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::Reset | Self::Fin | Self::Heal => Ok(()),
            Self::Stall { direction, lasting } => {
                write!(f, " {direction}")?;
                write_lasting(f, *lasting)
            }
            Self::Blackhole { direction, lasting, then_reset } => {
                write!(f, " {direction}")?;
                write_lasting(f, *lasting)?;
                // Without an end there is nothing that the reset could come after.
                f.write_str(if *then_reset && lasting.is_some() { " then reset" } else { "" })
            }
            Self::HalfOpen { left_open } => write!(f, " {left_open}"),
            Self::Refuse(Refusal::Reset(lasting)) => write_lasting(f, *lasting),
            Self::Refuse(Refusal::ResetNext(count)) => write!(f, " {count} conns"),
            Self::Refuse(Refusal::Closed(lasting)) => {
                f.write_str(" closed")?;
                write_lasting(f, *lasting)
            }
            Self::Duplicate { direction, bytes } => write!(f, " {} {direction}", Size(*bytes)),
            Self::Flip { direction, bit } => write!(f, " {direction} bit {}", bit & 7),
            Self::Delay { direction, delay, jitter, lasting } => {
                if delay.is_zero() && jitter.is_zero() {
                    f.write_str(" off")?;
                } else {
                    write!(f, " {}", Time(*delay))?;
                    if !jitter.is_zero() {
                        write!(f, " jitter {}", Time(*jitter))?;
                    }
                }
                write!(f, " {direction}")?;
                write_lasting(f, *lasting)
            }
            Self::Rate { direction, bytes_per_second, lasting } => {
                match bytes_per_second {
                    Some(rate) => write!(f, " {}", Size(rate.get()))?,
                    None => f.write_str(" off")?,
                }
                write!(f, " {direction}")?;
                write_lasting(f, *lasting)
            }
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which connections a fault hits. A refusal has no target: it is the listener that it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// All that are open, and, as long as a stall, black hole, delay or rate lasts, those that
    /// are opened meanwhile: the state of the network.
    All,
    /// Only those that are open now.
    Open,
    /// The connection with this number. The first that is accepted has number 1.
    Conn(u64),
}
