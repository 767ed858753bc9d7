//! What happened in a run: a hash of all of it, the last of it, and all of it where it is wanted.

use std::collections::VecDeque;
use std::fmt;

/// Simulated time since the start, in microseconds.
pub(crate) type Time = u64;

/// One second of [`Time`].
pub(crate) const S: Time = 1_000_000;
/// One millisecond of [`Time`].
pub(crate) const MS: Time = 1_000;

/// Events that a finding shows.
const LAST: usize = 60;

/// What an event is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum On {
    World,
    Conn(usize),
    /// A session's end: its link, and 0 for the client's.
    End(usize, usize),
    Proc(usize),
    Host(usize),
}

impl On {
    fn code(self) -> u64 {
        match self {
            Self::World => 0,
            Self::Conn(conn) => 1 << 32 | conn as u64,
            Self::End(link, side) => (2 + side as u64) << 32 | link as u64,
            Self::Proc(id) => 4 << 32 | id as u64,
            Self::Host(id) => 5 << 32 | id as u64,
        }
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::World => f.write_str("world"),
            Self::Conn(conn) => write!(f, "conn {conn}"),
            Self::End(link, side) => {
                write!(f, "session {link} {}", if *side == 0 { "client" } else { "server" })
            }
            Self::Proc(id) => write!(f, "process {id}"),
            Self::Host(id) => write!(f, "host {id}"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Time,
    on: On,
    what: &'static str,
    a: u64,
    b: u64,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = self.on.to_string();
        let (secs, micros) = (self.at / S, self.at % S);
        write!(f, "{secs:>6}.{micros:06}  {on:<18}  {}  {} {}", self.what, self.a, self.b)
    }
}

/// The record of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    count: u64,
    last: VecDeque<Entry>,
    all: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(keep_all: bool) -> Self {
        let last = VecDeque::with_capacity(LAST + 1);
        Self { hash: 0xCBF2_9CE4_8422_2325, count: 0, last, all: keep_all.then(Vec::new) }
    }

    pub(crate) fn note(&mut self, at: Time, on: On, what: &'static str, a: u64, b: u64) {
        let mut hash = self.hash;
        let word = what.bytes().fold(0u64, |word, byte| word.rotate_left(7) ^ u64::from(byte));
        for part in [at, on.code(), word, a, b] {
            hash = (hash ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        }
        self.hash = hash;
        self.count += 1;
        let entry = Entry { at, on, what, a, b };
        if let Some(all) = &mut self.all {
            all.push(entry.to_string());
        }
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(entry);
    }

    /// The same for two runs that went the same way.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn last(&self) -> Vec<String> {
        self.last.iter().map(Entry::to_string).collect()
    }

    pub(crate) fn take_all(&mut self) -> Vec<String> {
        self.all.take().unwrap_or_default()
    }
}
