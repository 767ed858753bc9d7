//! What the pool shows of itself: the table of the patent's figures 5, 17 and 25, and its counts.

use std::collections::BTreeMap;

use core::net::SocketAddr;

use super::{Phase, Place, State};
use crate::key::ServerId;

/// Why a connection shares a session, or has one made for it. In order of how near it came to
/// sharing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It shares.
    Shared,
    /// It shares: a session was dialled, and its handshake showed a server that there was one to.
    LateMerge,
    /// There was no session that could be compared with.
    First,
    /// The address belongs to another server than the sessions that there are.
    OtherServer,
    /// The peer has no static key, nor a pre-shared one: it cannot say who it is.
    NoKey,
    /// The peer's listener does not share.
    PeerDoesNotShare,
    /// Service, keys, device, tag or another part of what must be alike differ.
    KeyDiffers,
    /// The same server in another life: it was restarted, or runs twice.
    OtherBoot,
    /// The server takes no more connections on its session.
    GoAway,
    /// The session is full.
    StreamLimit,
    /// The server of the session does not have the service.
    Misdirected,
}

impl Why {
    /// In a word, for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::LateMerge => "late-merge",
            Self::First => "first",
            Self::OtherServer => "other-server",
            Self::NoKey => "no-key",
            Self::PeerDoesNotShare => "peer-does-not-share",
            Self::KeyDiffers => "key-differs",
            Self::OtherBoot => "other-boot",
            Self::GoAway => "going-away",
            Self::StreamLimit => "stream-limit",
            Self::Misdirected => "misdirected",
        }
    }
}

/// What has happened, since the pool began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Connections that were asked for.
    pub opens: u64,
    /// Sessions that carried any.
    pub sessions_opened: u64,
    /// Connections that went over a session that there was.
    pub sessions_saved: u64,
    /// Those among them for which a session had been dialled.
    pub late_merges: u64,
    /// Those for which a query's proof came before the dial was done.
    pub query_hits: u64,
    /// Replies to queries that were forged, repeated or late, and dropped.
    pub forged: u64,
    /// Sessions that were moved to a better line.
    pub migrations: u64,
    /// Moves that did not succeed; nothing changed by them.
    pub migrations_failed: u64,
    /// Sessions that went on over another address when theirs had failed.
    pub failovers: u64,
    /// Connections that were reset as their server process was gone.
    pub resets_by_boot: u64,
    /// Sessions on which their server takes no more connections.
    pub goaways: u64,
    /// Connections whose server did not have the service.
    pub misdirected: u64,
    /// Connections that got a session of their own, by reason.
    pub refused: BTreeMap<Why, u64>,
}

/// One connection of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub management: u64,
    /// Whose it is.
    pub application: String,
    /// What was asked for.
    pub requested: String,
    /// Its session's number within the pool; none while it waits for one.
    pub session: Option<u64>,
    /// Where the session goes to now, or went last.
    pub address: Option<SocketAddr>,
    /// Who that is; none if it cannot say.
    pub server: Option<ServerId>,
    /// Which life of the server.
    pub boot: u64,
    /// `waiting`, `active`, `recovering`, `draining` or `dead`.
    pub state: &'static str,
    /// Connections of the session.
    pub references: u32,
    /// Why it shares its session, or does not.
    pub why: Why,
    /// Since when, in the microseconds that the pool counts by.
    pub since: u64,
}

impl State {
    /// All connections, by management number.
    pub fn rows(&self) -> Vec<Row> {
        let row = |(number, connection): (&u64, &super::Connection)| {
            let on = match connection.place {
                Place::On(session) => self.sessions.get(&session).map(|found| (session, found)),
                Place::Waiting => None,
            };
            let server = on.and_then(|(_, session)| session.server);
            Row {
                management: *number,
                application: connection.want.application.clone(),
                requested: connection.want.requested.clone(),
                session: on.map(|(number, _)| number),
                address: on.map(|(_, session)| session.addr),
                server: server.map(|server| server.id),
                boot: server.map_or(0, |server| server.boot),
                state: match on {
                    None => "waiting",
                    Some((_, session)) => match session.phase {
                        Phase::Dead => "dead",
                        Phase::Draining => "draining",
                        _ if !session.attached => "recovering",
                        _ => "active",
                    },
                },
                references: on.map_or(0, |(_, session)| session.references),
                why: connection.why,
                since: connection.since,
            }
        };
        self.connections.iter().map(row).collect()
    }

    /// Sessions that there are, those without connections included: number, address, connections,
    /// and why each was made.
    pub fn sessions(&self) -> Vec<(u64, SocketAddr, u32, Why)> {
        let all = self.sessions.iter();
        all.map(|(number, session)| (*number, session.addr, session.references, session.why))
            .collect()
    }

    /// What has happened.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// To count what happens outside of the books.
    pub fn metrics_mut(&mut self) -> &mut Metrics {
        &mut self.metrics
    }
}
