//! One end of a session, and how sessions end.

use std::time::Duration;

use eversock_proto::redial::Redial;
use eversock_proto::resume::Reason;

use crate::client::Attempt;
use crate::core::Core;
use crate::net::ConnId;
use crate::plan::{CutKind, Harm, Script};
use crate::said::{Said, Word};
use crate::trace::Time;

/// How a session ended at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Both directions have ended and both ends were told.
    Done,
    /// This end's program reset it.
    Reset,
    ResetByPeer,
    /// Server: no resume came within the grace.
    Expired,
    /// Client: no connection came about within its limit.
    TimedOut,
    /// Client: no session came about.
    NotOpened,
    DataLost,
    /// Many resumes in a row brought nothing.
    Stale,
    /// The server refused for good and proved that it was the server.
    Refused(Reason),
    /// The program had closed, and the peer did not end its direction in time.
    Lingered,
    /// The process died; nobody is told.
    Killed,
}

impl Ending {
    pub(crate) const NAMES: [&'static str; 11] = [
        "done",
        "reset",
        "reset by peer",
        "expired",
        "timed out",
        "not opened",
        "data lost",
        "stale",
        "refused",
        "lingered",
        "killed",
    ];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Done => 0,
            Self::Reset => 1,
            Self::ResetByPeer => 2,
            Self::Expired => 3,
            Self::TimedOut => 4,
            Self::NotOpened => 5,
            Self::DataLost => 6,
            Self::Stale => 7,
            Self::Refused(_) => 8,
            Self::Lingered => 9,
            Self::Killed => 10,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// One end. All times in it are those of its host's clock.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) proc: usize,
    pub(crate) core: Option<Core>,
    /// The connection that stands, as this end sees it.
    pub(crate) standing: Option<ConnId>,
    pub(crate) stood_since: Time,
    /// The highest epoch that stood and that delivered here.
    pub(crate) epoch: u64,
    pub(crate) ending: Option<Ending>,
    /// World time at which it ended.
    pub(crate) ended_at: Time,
    pub(crate) closed: bool,
    pub(crate) resetting: bool,
    pub(crate) linger_until: Option<Time>,
    /// What was acknowledged when that was last put off.
    pub(crate) lingers_from: u64,
    pub(crate) sweep_at: Option<Time>,
    /// The peer's START must have come by then.
    pub(crate) start_by: Option<Time>,
    pub(crate) heard_start: bool,
    pub(crate) last_heard: Time,
    /// World time at which its next look is due.
    pub(crate) armed: Time,
    pub(crate) script: Script,
    pub(crate) written: u64,
    pub(crate) read: u64,
    pub(crate) discarded: u64,
    pub(crate) eof: bool,
    pub(crate) finished: bool,
    /// World time of the program's next step; `Time::MAX` when it sleeps until something comes.
    pub(crate) step_at: Time,
    pub(crate) first: First,
    /// What it has said over its connections.
    pub(crate) said: Said,
    /// The highest epoch that it has asked for.
    pub(crate) asked: u64,
    /// The highest credit edge that it has had.
    pub(crate) credit: u64,
    /// When its connection was lost, while it has none.
    pub(crate) lost_at: Option<Time>,
}

/// What only one of the two roles has.
#[derive(Debug)]
pub(crate) enum First {
    Client(Box<Client>),
    Server(Server),
}

#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) retry_at: Option<Time>,
    pub(crate) down_since: Option<Time>,
    /// Back-off while there is no session.
    pub(crate) opening: Redial,
    pub(crate) retry_after: Duration,
    pub(crate) probes: u32,
    pub(crate) probed_at: Time,
    pub(crate) gained: (u64, u64),
    /// Addresses of the server, by their place in the world's list, and the one to dial next.
    pub(crate) known: Vec<usize>,
    pub(crate) next_addr: usize,
    pub(crate) goaways: Redial,
    pub(crate) goaway_at: Option<Time>,
}

#[derive(Debug, Default)]
pub(crate) struct Server {
    pub(crate) grace_at: Option<Time>,
    /// For a planted bug: when its first connection was lost.
    pub(crate) first_lost: Option<Time>,
    /// The program has taken the session from its listener.
    pub(crate) taken: bool,
    pub(crate) take_at: Time,
}

impl End {
    pub(crate) fn new(proc: usize, script: Script, first: First) -> Self {
        Self {
            proc,
            core: None,
            standing: None,
            stood_since: 0,
            epoch: 0,
            ending: None,
            ended_at: 0,
            closed: false,
            resetting: false,
            linger_until: None,
            lingers_from: 0,
            sweep_at: None,
            start_by: None,
            heard_start: false,
            last_heard: 0,
            armed: Time::MAX,
            script,
            written: 0,
            read: 0,
            discarded: 0,
            eof: false,
            finished: false,
            step_at: Time::MAX,
            first,
            said: Said::default(),
            asked: 0,
            credit: 0,
            lost_at: None,
        }
    }

    pub(crate) fn client(&mut self) -> Option<&mut Client> {
        match &mut self.first {
            First::Client(client) => Some(client),
            First::Server(_) => None,
        }
    }

    pub(crate) fn server(&mut self) -> Option<&mut Server> {
        match &mut self.first {
            First::Client(_) => None,
            First::Server(server) => Some(server),
        }
    }

    /// True when the program may use the session.
    pub(crate) fn is_taken(&self) -> bool {
        match &self.first {
            First::Client(_) => true,
            First::Server(server) => server.taken,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.core.is_some() && self.ending.is_none()
    }
}

/// A session as the simulation knows it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ends: [End; 2],
    pub(crate) server_host: usize,
    pub(crate) client_host: usize,
    /// Clear frames of it were changed under way.
    pub(crate) tainted: bool,
    /// Until when some fault that was aimed at it, its path, its hosts or its processes lasts.
    pub(crate) touched: Option<Time>,
    /// Its server had to forget its open, as it keeps a bounded number of them.
    pub(crate) forgotten: bool,
    /// A full backlog had no room for a connection of it.
    pub(crate) turned_away: bool,
    /// Its tombstone gave way to others.
    pub(crate) unburied: bool,
    /// A reset that its client's kernel sent at a close has overtaken the last ack.
    pub(crate) overtaken: bool,
    /// An end lingered in vain for a program that slept longer than that.
    pub(crate) overslept: bool,
    /// A planted bug: the keys of its first epoch.
    pub(crate) root: Option<[u8; 32]>,
    pub(crate) cuts: u32,
    /// How, and at which byte of which side, its next connection will be cut.
    pub(crate) cut_next: Option<(usize, u64, CutKind)>,
    /// The same for each connection of it.
    pub(crate) choke: Option<(usize, u64, CutKind)>,
    /// Its connection is cut, in this way, as soon as the end at this side has said this.
    pub(crate) aim: Option<(Word, usize, CutKind)>,
    pub(crate) corrupt_next: Option<(Harm, usize)>,
    pub(crate) forge_next: bool,
    /// How often a server has begun it.
    pub(crate) sessions_made: u32,
}

impl Link {
    /// A fault strikes that lasts until then.
    pub(crate) fn touch(&mut self, until: Time) {
        self.touched = self.touched.max(Some(until));
    }
}
