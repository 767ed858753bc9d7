//! The links to partners, without I/O: what comes goes in, what is to be done comes out.
//!
//! Who dials says hello and is welcomed; then both introduce themselves, the one that dialled
//! first, and the link stands. Each partner has one link at most: a newer one takes the place of
//! the older, whose connection may be dead without anybody knowing. When both dial at once, the one
//! that the controller with the smaller name has dialled stays, so that both keep the same one.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::model::ControllerId;
use crate::node::LinkConfig;
use crate::node::admission::spread;
use crate::shard::input::ConnId;
use crate::wire::codes::bye;
use crate::wire::peer::{Introduction, Mode, PeerMessage};
use crate::wire::{Bye, Hello, Role, VERSION, VERSION_OLDEST, Welcome};

/// How long a greeting and the introductions may take.
const GREETING_MAX: Duration = Duration::from_secs(20);
/// Two connections within this time were made at once.
const AT_ONCE: Duration = Duration::from_secs(5);

/// The public half of a static key.
pub(in crate::node) type Key = [u8; 32];

/// A partner, as far as links look at it.
pub(in crate::node) struct Known {
    pub(in crate::node) id: ControllerId,
    /// Whether this side dials.
    pub(in crate::node) dials: bool,
    /// What proves its name, if it is asked to.
    pub(in crate::node) key: Option<Key>,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(in crate::node) enum Act {
    /// Dial this partner.
    Dial(usize),
    /// Say something.
    Send(ConnId, Box<PeerMessage>),
    /// Whoever is there speaks this protocol.
    Greeted(ConnId),
    /// End a connection, after the last word.
    Close(ConnId, Option<Bye>),
    /// Ask all partitions where they stand with a partner, for [`Links::introduce`].
    Ask(usize, ConnId),
    /// The link stands; the partner says so of itself.
    Up(usize, ConnId, Box<Introduction>),
    /// It does not any more.
    Down(usize, ConnId),
    /// A partner says something on its link.
    Heard(usize, ConnId, Box<PeerMessage>),
    /// A partner's state has changed.
    State(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has been dialled by somebody who has to say hello.
    Hello,
    /// It was dialled here and has to welcome us.
    Welcome,
    /// The introductions are missing.
    Introductions,
    /// The link stands.
    Up,
}

/// A connection.
struct Line {
    stage: Stage,
    dialled: bool,
    partner: Option<usize>,
    key: Option<Key>,
    since: Instant,
    heard: Instant,
    is_held: bool,
    pinged: Instant,
    ping: Option<(u64, Instant)>,
    theirs: Option<Box<Introduction>>,
    is_introduced: bool,
}

/// A partner's state, for people.
#[derive(Debug, Clone)]
pub(in crate::node) struct Peer {
    /// See [`PartnerStatus::state`](crate::node::status::PartnerStatus::state).
    pub(in crate::node) state: &'static str,
    pub(in crate::node) error: String,
    pub(in crate::node) since: Instant,
    pub(in crate::node) up: Option<ConnId>,
    pub(in crate::node) round_trip: Option<Duration>,
    pub(in crate::node) mode: Mode,
    pub(in crate::node) generation: u64,
    pub(in crate::node) refused: Option<(u64, String)>,
    pub(in crate::node) ahead_ms: i64,
    is_dialling: bool,
    dial_at: Instant,
    back_off: Duration,
}

/// See the module.
pub(in crate::node) struct Links {
    me: ControllerId,
    config: LinkConfig,
    known: Vec<Known>,
    is_insecure: bool,
    peers: Vec<Peer>,
    lines: HashMap<ConnId, Line>,
    pings: u64,
    acts: Vec<Act>,
}

impl Links {
    pub(in crate::node) fn new(
        me: ControllerId,
        known: Vec<Known>,
        config: LinkConfig,
        is_insecure: bool,
        now: Instant,
    ) -> Self {
        let peer = || Peer {
            state: "down",
            error: String::new(),
            since: now,
            up: None,
            round_trip: None,
            mode: Mode::default(),
            generation: 0,
            refused: None,
            ahead_ms: 0,
            is_dialling: false,
            dial_at: now,
            back_off: config.retry_first,
        };
        let peers = known.iter().map(|_| peer()).collect();
        let (lines, acts) = (HashMap::new(), Vec::new());
        Self { me, config, known, is_insecure, peers, lines, pings: 0, acts }
    }

    /// What is to be done, in this order.
    pub(in crate::node) fn acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    pub(in crate::node) fn peers(&self) -> &[Peer] {
        &self.peers
    }

    pub(in crate::node) fn peer_mut(&mut self, partner: usize) -> &mut Peer {
        &mut self.peers[partner]
    }

    pub(in crate::node) fn id(&self, partner: usize) -> &ControllerId {
        &self.known[partner].id
    }

    pub(in crate::node) fn has(&self, conn: ConnId) -> bool {
        self.lines.contains_key(&conn)
    }

    /// A connection: that to a partner that was dialled, or one from whoever it is.
    pub(in crate::node) fn opened(
        &mut self,
        now: Instant,
        conn: ConnId,
        dialled: Option<usize>,
        key: Option<Key>,
    ) {
        let stage = if dialled.is_some() { Stage::Welcome } else { Stage::Hello };
        let line = Line {
            stage,
            dialled: dialled.is_some(),
            partner: dialled,
            key,
            since: now,
            heard: now,
            is_held: false,
            pinged: now,
            ping: None,
            theirs: None,
            is_introduced: false,
        };
        self.lines.insert(conn, line);
        let Some(partner) = dialled else { return };
        self.peers[partner].is_dialling = false;
        self.set_state(now, partner, "greeting", "");
        self.send(conn, PeerMessage::Hello(Hello::new(Role::Partner)));
    }

    pub(in crate::node) fn dial_failed(&mut self, now: Instant, partner: usize, why: &str) {
        self.peers[partner].is_dialling = false;
        self.retry(now, partner);
        if self.peers[partner].up.is_none() {
            self.set_state(now, partner, "down", why);
        }
    }

    /// A message. An error ends the connection, after that word.
    pub(in crate::node) fn heard(
        &mut self,
        now: Instant,
        conn: ConnId,
        message: PeerMessage,
    ) -> Result<(), Bye> {
        let Some(line) = self.lines.get_mut(&conn) else { return Ok(()) };
        line.heard = now;
        match (line.stage, message) {
            (_, PeerMessage::Bye(bye)) => {
                self.told_bye(now, conn, &bye);
                Ok(())
            }
            (Stage::Hello, PeerMessage::Hello(hello)) => self.greeted(now, conn, hello),
            (Stage::Welcome, PeerMessage::Welcome(welcome)) => self.welcomed(now, conn, &welcome),
            (Stage::Introductions, PeerMessage::Introduction(theirs)) if line.theirs.is_none() => {
                self.introduced(now, conn, theirs)
            }
            (Stage::Up, PeerMessage::Ping { n }) => {
                self.send(conn, PeerMessage::Pong { n });
                Ok(())
            }
            (Stage::Up, PeerMessage::Pong { n }) => {
                if let (Some((sent, at)), Some(partner)) = (line.ping, line.partner)
                    && sent == n
                {
                    line.ping = None;
                    self.peers[partner].round_trip = Some(now.saturating_duration_since(at));
                    self.acts.push(Act::State(partner));
                }
                Ok(())
            }
            (Stage::Up, message) if is_for_partitions(&message) => {
                if let Some(partner) = line.partner {
                    self.acts.push(Act::Heard(partner, conn, Box::new(message)));
                }
                Ok(())
            }
            _ => Err(Bye::new(bye::MALFORMED, "this message does not come here")),
        }
    }

    /// A connection has ended, whoever has ended it.
    pub(in crate::node) fn closed(&mut self, now: Instant, conn: ConnId, why: &str) {
        let Some(line) = self.lines.remove(&conn) else { return };
        let Some(partner) = line.partner else { return };
        let was_up = self.peers[partner].up == Some(conn);
        if was_up {
            self.down(partner);
        }
        if was_up || line.dialled {
            self.retry(now, partner);
        }
        // Another one may stand, or be on its way; and a reason that was told says more.
        let is_other = self.lines.values().any(|line| line.partner == Some(partner));
        let is_explained = matches!(self.peers[partner].state, "version mismatch" | "not let in");
        if !is_other && !is_explained {
            self.set_state(now, partner, "down", why);
        }
    }

    /// What this side says of itself to a partner; `None`: it cannot, and begins again later.
    pub(in crate::node) fn introduce(
        &mut self,
        now: Instant,
        conn: ConnId,
        ours: Option<Introduction>,
    ) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        if line.stage != Stage::Introductions || line.is_introduced {
            return;
        }
        let Some(ours) = ours else {
            let text = "a partition does not say where it stands";
            return self.end(now, conn, Some(Bye::new(bye::CLOSING, text)), text);
        };
        line.is_introduced = true;
        self.send(conn, PeerMessage::Introduction(ours));
        self.complete(now, conn);
    }

    /// A link is not read for now, or is again.
    pub(in crate::node) fn hold(&mut self, now: Instant, conn: ConnId, is_held: bool) {
        if let Some(line) = self.lines.get_mut(&conn) {
            (line.is_held, line.heard) = (is_held, now);
        }
    }

    /// Makes all links anew.
    pub(in crate::node) fn relink(&mut self, now: Instant, why: &str) {
        let of_partners = self.lines.iter().filter(|(_, line)| line.partner.is_some());
        for conn in of_partners.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            self.end(now, conn, Some(Bye::new(bye::CLOSING, why)), why);
        }
        for peer in &mut self.peers {
            (peer.back_off, peer.dial_at) = (self.config.retry_first, now);
        }
    }

    /// Says something to all partners whose links stand.
    pub(in crate::node) fn tell_all(&mut self, message: &PeerMessage) {
        for conn in self.peers.iter().filter_map(|peer| peer.up).collect::<Vec<_>>() {
            self.send(conn, message.clone());
        }
    }

    /// Time has come; gives when it comes again.
    pub(in crate::node) fn turn(&mut self, now: Instant) -> Instant {
        for (conn, why) in self.overdue(now) {
            let bye = Bye::new(bye::SLOW, why);
            self.end(now, conn, Some(bye), why);
        }
        for (conn, line) in &mut self.lines {
            let is_due = line.stage == Stage::Up
                && now.saturating_duration_since(line.pinged) >= self.config.ping_every;
            if is_due {
                self.pings += 1;
                line.pinged = now;
                // The time of one that is not answered yet goes on.
                if line.ping.is_none() {
                    line.ping = Some((self.pings, now));
                }
                let n = line.ping.map_or(self.pings, |(n, _)| n);
                self.acts.push(Act::Send(*conn, Box::new(PeerMessage::Ping { n })));
            }
        }
        // Once for all partners, as this comes with each round of the connections.
        let busy: HashSet<usize> = self.lines.values().filter_map(|line| line.partner).collect();
        for partner in 0..self.peers.len() {
            let is_busy = busy.contains(&partner);
            let peer = &mut self.peers[partner];
            let is_due = self.known[partner].dials
                && !peer.is_dialling
                && peer.up.is_none()
                && !is_busy
                && peer.dial_at <= now;
            if is_due {
                peer.is_dialling = true;
                self.acts.push(Act::Dial(partner));
                if !matches!(self.peers[partner].state, "version mismatch" | "not let in") {
                    self.set_state(now, partner, "connecting", "");
                }
            }
        }
        self.due(now)
    }

    fn due(&self, now: Instant) -> Instant {
        let pings = self.lines.values().map(|line| match line.stage {
            Stage::Up => line.pinged + self.config.ping_every,
            _ => line.since + GREETING_MAX,
        });
        let waits = self.known.iter().zip(&self.peers);
        let dials = waits
            .filter(|(known, peer)| known.dials && !peer.is_dialling && peer.up.is_none())
            .map(|(_, peer)| peer.dial_at);
        // One that is overdue waits for something else.
        let soon = now + Duration::from_millis(50);
        pings.chain(dials).min().map_or(now + GREETING_MAX, |due| due.max(soon))
    }

    fn overdue(&self, now: Instant) -> Vec<(ConnId, &'static str)> {
        let is_late = |(conn, line): (&ConnId, &Line)| match line.stage {
            Stage::Up => {
                let silence = now.saturating_duration_since(line.heard);
                let is_late = !line.is_held && silence >= self.config.silence_max;
                is_late.then_some((*conn, "it has been silent for too long"))
            }
            _ => {
                let is_late = now.saturating_duration_since(line.since) >= GREETING_MAX;
                is_late.then_some((*conn, "the greeting has taken too long"))
            }
        };
        self.lines.iter().filter_map(is_late).collect()
    }

    fn greeted(&mut self, now: Instant, conn: ConnId, hello: Hello) -> Result<(), Bye> {
        let Some(line) = self.lines.get_mut(&conn) else { return Ok(()) };
        match hello.agree(&[Role::Partner]) {
            Ok(version) => {
                line.stage = Stage::Introductions;
                self.acts.push(Act::Greeted(conn));
                let controller = self.me.clone();
                self.send(conn, PeerMessage::Welcome(Welcome { version, controller }));
                Ok(())
            }
            Err(bye) => {
                let key = line.key;
                let by_key = |known: &Known| known.key.is_some() && known.key == key;
                if bye.code == bye::VERSION
                    && let Some(partner) = self.known.iter().position(by_key)
                    && self.peers[partner].up.is_none()
                {
                    self.set_state(now, partner, "version mismatch", &bye.text);
                }
                Err(bye)
            }
        }
    }

    fn welcomed(&mut self, now: Instant, conn: ConnId, welcome: &Welcome) -> Result<(), Bye> {
        let Some(line) = self.lines.get_mut(&conn) else { return Ok(()) };
        let Some(partner) = line.partner else { return Ok(()) };
        line.stage = Stage::Introductions;
        if !(VERSION_OLDEST..=VERSION).contains(&welcome.version) {
            let text = format!("it speaks version {}, which was not offered", welcome.version);
            self.set_state(now, partner, "version mismatch", &text);
            return Err(Bye::new(bye::VERSION, text));
        }
        if welcome.controller != self.known[partner].id {
            let id = &self.known[partner].id;
            let text =
                format!("{} answers where {id} should: check the address", welcome.controller);
            self.set_state(now, partner, "not let in", &text);
            return Err(Bye::new(bye::MISMATCH, text));
        }
        self.acts.push(Act::Greeted(conn));
        self.acts.push(Act::Ask(partner, conn));
        Ok(())
    }

    fn introduced(&mut self, now: Instant, conn: ConnId, theirs: Introduction) -> Result<(), Bye> {
        let Some(line) = self.lines.get_mut(&conn) else { return Ok(()) };
        let partner = match line.partner {
            Some(partner) if self.known[partner].id == theirs.controller => partner,
            Some(_) => {
                let text = format!("{} has taken the name of another", theirs.controller);
                return Err(Bye::new(bye::MISMATCH, text));
            }
            None => {
                let is_it = |known: &Known| known.id == theirs.controller;
                let key = line.key;
                let Some(partner) = self.known.iter().position(is_it) else {
                    let text = format!("{} is no partner of {}", theirs.controller, self.me);
                    return Err(Bye::new(bye::NOT_LET_IN, text));
                };
                let wanted = self.known[partner].key;
                // Where names are proven by keys, one that has none is only dialled.
                let is_another = match wanted {
                    Some(wanted) => key != Some(wanted),
                    None => key.is_some(),
                };
                if is_another && !self.is_insecure {
                    let text = format!("this is not the static key of {}", theirs.controller);
                    if self.peers[partner].up.is_none() {
                        self.set_state(now, partner, "not let in", &text);
                    }
                    return Err(Bye::new(bye::NOT_LET_IN, text));
                }
                self.take_place(now, conn, partner)?;
                self.acts.push(Act::Ask(partner, conn));
                partner
            }
        };
        if let Some(line) = self.lines.get_mut(&conn) {
            (line.partner, line.theirs) = (Some(partner), Some(Box::new(theirs)));
        }
        self.complete(now, conn);
        Ok(())
    }

    /// Ends the other connections of a partner, unless one of them is the one to keep.
    fn take_place(&mut self, now: Instant, conn: ConnId, partner: usize) -> Result<(), Bye> {
        // This side has dialled the others if it is the one to be kept that it has dialled.
        let ours_stay = self.me < self.known[partner].id;
        let of_partner = |(other, line): (&ConnId, &Line)| {
            let is_other = *other != conn && line.partner == Some(partner);
            is_other.then(|| {
                let at_once = now.saturating_duration_since(line.since) < AT_ONCE;
                (*other, at_once && line.dialled && ours_stay)
            })
        };
        let others: Vec<_> = self.lines.iter().filter_map(of_partner).collect();
        if others.iter().any(|(_, stays)| *stays) {
            return Err(Bye::new(bye::REPLACED, "both have dialled; the other connection stays"));
        }
        for (other, _) in others {
            let text = "a newer connection has taken its place";
            self.end(now, other, Some(Bye::new(bye::REPLACED, text)), text);
        }
        Ok(())
    }

    /// Once both have introduced themselves the link stands.
    fn complete(&mut self, now: Instant, conn: ConnId) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let (Some(partner), true) = (line.partner, line.is_introduced) else { return };
        let Some(theirs) = line.theirs.take() else { return };
        line.stage = Stage::Up;
        line.pinged = now;
        if line.dialled
            && let Some(older) = self.peers[partner].up
        {
            let text = "a newer connection has taken its place";
            self.end(now, older, Some(Bye::new(bye::REPLACED, text)), text);
        }
        let peer = &mut self.peers[partner];
        (peer.up, peer.back_off, peer.round_trip) = (Some(conn), self.config.retry_first, None);
        (peer.mode, peer.generation, peer.refused) = (Mode::default(), 0, None);
        self.set_state(now, partner, "up", "");
        self.acts.push(Act::Up(partner, conn, theirs));
    }

    /// A partner ends the connection.
    fn told_bye(&mut self, now: Instant, conn: ConnId, bye: &Bye) {
        let partner = self.lines.get(&conn).and_then(|line| line.partner);
        if let Some(partner) = partner
            && self.peers[partner].up.is_none_or(|up| up == conn)
        {
            match bye.code {
                bye::VERSION => self.set_state(now, partner, "version mismatch", &bye.text),
                bye::NOT_LET_IN | bye::MISMATCH => {
                    self.set_state(now, partner, "not let in", &bye.text);
                }
                _ => {}
            }
        }
        self.end(now, conn, None, &bye.text);
    }

    fn end(&mut self, now: Instant, conn: ConnId, bye: Option<Bye>, why: &str) {
        self.closed(now, conn, why);
        self.acts.push(Act::Close(conn, bye));
    }

    fn down(&mut self, partner: usize) {
        let peer = &mut self.peers[partner];
        if let Some(conn) = peer.up.take() {
            peer.round_trip = None;
            self.acts.push(Act::Down(partner, conn));
        }
    }

    fn retry(&mut self, now: Instant, partner: usize) {
        let peer = &mut self.peers[partner];
        peer.dial_at = now + spread(peer.back_off);
        peer.back_off = (peer.back_off * 2).min(self.config.retry_most);
    }

    fn send(&mut self, conn: ConnId, message: PeerMessage) {
        self.acts.push(Act::Send(conn, Box::new(message)));
    }

    fn set_state(&mut self, now: Instant, partner: usize, state: &'static str, error: &str) {
        let peer = &mut self.peers[partner];
        if peer.state != state {
            peer.since = now;
        } else if peer.error == error {
            return;
        }
        peer.state = state;
        error.clone_into(&mut peer.error);
        self.acts.push(Act::State(partner));
    }
}

fn is_for_partitions(message: &PeerMessage) -> bool {
    matches!(
        message,
        PeerMessage::Sync { .. }
            | PeerMessage::Forward(_)
            | PeerMessage::Result { .. }
            | PeerMessage::Mode(_)
            | PeerMessage::Parameters { .. }
    )
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
