//! What happens on the thread of the connections: what comes is looked at, and given to whom it
//! concerns. Nothing here waits for anything.

mod door;
pub(super) mod link;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::Receiver;

use super::NodeEvent;
use super::hub::{Hub, Note, locked};
use super::queue::{Full, Room, Work};
use super::status::PartnerStatus;
use super::worker::INDEX_BITS;
use crate::conn::{Handler, Opened, Reactor};
use crate::model::{ControllerId, DispatchMode};
use crate::shard::Input;
use crate::shard::input::ConnId;
use crate::store::Position;
use crate::wire::client::{ClientMessage, Outcome};
use crate::wire::codes::bye;
use crate::wire::peer::{Introduction, Mode, PeerMessage, Standpoint};
use crate::wire::{Bye, Message, Place};

use door::Door;
use link::{Act, Known, Links};

/// What connections at the door for devices are known by.
pub(super) const DOOR: u64 = 0;
/// The same for partners.
pub(super) const PARTNERS: u64 = 1;
/// The first partner that is dialled.
pub(super) const DIALS: u64 = 2;
/// Bytes that may wait to be written to a partner: more than all windows together.
const QUEUE_MAX: usize = 256 << 20;
/// When to come again after a defect.
const DEFECT_PAUSE: Duration = Duration::from_millis(100);
/// How long partitions have to say where they stand: one that hangs keeps no link from standing.
const STANDPOINT_MAX: Duration = Duration::from_secs(5);
/// From here on clocks that differ are told of.
const SKEW_MS: i64 = 30_000;

/// See the module.
pub(super) struct Front {
    hub: Arc<Hub>,
    notes: Receiver<Note>,
    reactor: Reactor,
    door: Door,
    links: Links,
    /// Where this controller's own door is.
    addrs: Vec<SocketAddr>,
    boot: u128,
    /// Introductions that partitions have to say something to.
    asked: HashMap<ConnId, Asked>,
    /// Links that are not read, and the partitions that have no room.
    held: BTreeMap<usize, BTreeSet<usize>>,
}

struct Asked {
    partner: usize,
    since: Instant,
    /// Without those that are missing, which are as if they were down.
    is_introduced: bool,
    missing: BTreeSet<usize>,
    standpoints: Vec<Standpoint>,
}

impl Front {
    pub(super) fn new(
        hub: Arc<Hub>,
        notes: Receiver<Note>,
        reactor: Reactor,
        addrs: Vec<SocketAddr>,
        boot: u128,
        now: Instant,
    ) -> Self {
        let config = &hub.config;
        let known = config.partners.iter().map(|partner| Known {
            id: partner.id.clone(),
            dials: config.dials(partner),
            key: partner.key.map(|key| key.0),
        });
        let links =
            Links::new(config.me.clone(), known.collect(), config.link, config.insecure, now);
        let door = Door::new(Arc::clone(&hub), now);
        let (asked, held) = (HashMap::new(), BTreeMap::new());
        Self { hub, notes, reactor, door, links, addrs, boot, asked, held }
    }

    fn take_opened(&mut self, conn: ConnId, opened: Opened) {
        let key = opened.peer_key.map(|key| key.0);
        let now = Instant::now();
        match opened.token {
            DOOR => self.door.opened(conn, key),
            PARTNERS => self.links.opened(now, conn, None, key),
            dialled => {
                let partner = usize::try_from(dialled - DIALS).unwrap_or(usize::MAX);
                self.links.opened(now, conn, Some(partner), key);
            }
        }
        self.act();
    }

    fn take_frame(&mut self, conn: ConnId, kind: u16, body: &[u8]) -> Result<(), Bye> {
        let now = Instant::now();
        let result = if self.links.has(conn) {
            match read::<PeerMessage>(kind, body)? {
                Some(message) => self.links.heard(now, conn, message),
                None => Ok(()),
            }
        } else {
            match read::<ClientMessage>(kind, body)? {
                Some(message) => self.door.heard(now, conn, message),
                None => Ok(()),
            }
        };
        self.act();
        result
    }

    fn take_closed(&mut self, conn: ConnId, why: &str) {
        self.door.closed(conn);
        self.links.closed(Instant::now(), conn, why);
        self.asked.remove(&conn);
        self.act();
    }

    fn take_dial_failed(&mut self, token: u64, why: &str) {
        let partner = usize::try_from(token.saturating_sub(DIALS)).unwrap_or(usize::MAX);
        if partner < self.hub.config.partners.len() {
            self.links.dial_failed(Instant::now(), partner, why);
        }
        self.act();
    }

    /// What other threads have for this one, and what is due; gives when to come again.
    fn take_turn(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while let Ok(note) = self.notes.try_recv() {
            self.take_note(now, note);
        }
        let next = self.links.turn(now);
        self.act();
        let next_asked = self.ask_no_longer(now);
        Some(next_asked.map_or(next, |at| at.min(next)))
    }

    fn take_note(&mut self, now: Instant, note: Note) {
        match note {
            Note::Standpoint { conn, index, standpoint } => {
                self.answered(now, conn, index, standpoint);
            }
            Note::Relink(partition) => {
                let why = format!("the partition {partition} has begun anew");
                self.links.relink(now, &why);
            }
            Note::Release { partition, partner } => self.release(now, &partition, &partner),
            Note::Mode => self.links.tell_all(&self.mode()),
            Note::Parameters => self.links.tell_all(&self.parameters()),
        }
        self.act();
    }

    /// Does what the links want done.
    fn act(&mut self) {
        // Some of it leads to more.
        loop {
            let acts = self.links.acts();
            if acts.is_empty() {
                return;
            }
            for act in acts {
                self.act_one(act);
            }
        }
    }

    fn act_one(&mut self, act: Act) {
        match act {
            Act::Dial(partner) => {
                let of_it = &self.hub.config.partners[partner];
                let token = DIALS + partner as u64;
                self.reactor.dial(of_it.addrs.clone(), of_it.socket.clone(), token);
            }
            Act::Greeted(conn) => {
                self.reactor.greeted(conn);
                self.reactor.set_queue_max(conn, QUEUE_MAX);
            }
            Act::Send(conn, message) => self.hub.send_partner(conn, &message),
            Act::Close(conn, bye) => {
                if let Some(bye) = bye {
                    self.hub.send_partner(conn, &PeerMessage::Bye(bye));
                }
                self.asked.remove(&conn);
                self.reactor.close(conn);
            }
            Act::Ask(partner, conn) => self.ask(partner, conn),
            Act::Up(partner, conn, theirs) => self.up(partner, conn, &theirs),
            Act::Down(partner, conn) => self.down(partner, conn),
            Act::Heard(partner, conn, message) => self.of_partner(partner, conn, *message),
            Act::State(partner) => self.publish(partner),
        }
    }

    /// Asks all partitions where they stand with a partner.
    fn ask(&mut self, partner: usize, conn: ConnId) {
        let asked = Asked {
            partner,
            since: Instant::now(),
            is_introduced: false,
            missing: (0..self.hub.partitions.len()).collect(),
            standpoints: Vec::new(),
        };
        self.asked.insert(conn, asked);
        for (index, partition) in self.hub.partitions.iter().enumerate() {
            let (hub, id) = (Arc::clone(&self.hub), self.links.id(partner).clone());
            let query = Work::Query(Box::new(move |machine| {
                let standpoint = match machine {
                    Ok(machine) => Some(machine.standpoint(&id)?),
                    Err(_) => None,
                };
                let note = Note::Standpoint { conn, index, standpoint };
                Ok(Some(Box::new(move || hub.note(note))))
            }));
            // Behind the end of the link before.
            let _room = partition.queue.push_partner(self.links.id(partner), query);
        }
    }

    fn answered(
        &mut self,
        now: Instant,
        conn: ConnId,
        index: usize,
        standpoint: Option<(Position, Option<Position>)>,
    ) {
        let Some(asked) = self.asked.get_mut(&conn) else { return };
        if !asked.missing.remove(&index) {
            return;
        }
        if asked.is_introduced {
            if asked.missing.is_empty() {
                self.asked.remove(&conn);
            }
            if standpoint.is_some() {
                let why =
                    format!("the partition {} answers again", self.hub.partitions[index].name);
                self.links.relink(now, &why);
            }
            return;
        }
        if let Some((head, taken)) = standpoint {
            let partition = self.hub.partitions[index].name.clone();
            asked.standpoints.push(Standpoint { partition, head, taken });
        }
        if !asked.missing.is_empty() {
            return;
        }
        let Some(Asked { standpoints, .. }) = self.asked.remove(&conn) else { return };
        self.introduce(now, conn, standpoints);
    }

    /// Introduces this side where a partition has taken too long; gives when to look again.
    fn ask_no_longer(&mut self, now: Instant) -> Option<Instant> {
        let waits = |asked: &Asked| !asked.is_introduced;
        let is_due = |(conn, asked): (&ConnId, &mut Asked)| {
            if !waits(asked) || now < asked.since + STANDPOINT_MAX {
                return None;
            }
            asked.is_introduced = true;
            let missing: Vec<_> = asked.missing.iter().copied().collect();
            Some((*conn, asked.partner, missing, std::mem::take(&mut asked.standpoints)))
        };
        let due: Vec<_> = self.asked.iter_mut().filter_map(is_due).collect();
        for (conn, partner, missing, standpoints) in due {
            for index in missing {
                log::warn!(
                    "partition {} does not answer: {} is met without it",
                    self.hub.partitions[index].name,
                    self.links.id(partner)
                );
            }
            self.introduce(now, conn, standpoints);
        }
        self.act();
        let waiting = self.asked.values().filter(|asked| waits(asked));
        waiting.map(|asked| asked.since + STANDPOINT_MAX).min()
    }

    fn introduce(&mut self, now: Instant, conn: ConnId, standpoints: Vec<Standpoint>) {
        let introduction = Introduction {
            controller: self.hub.config.me.clone(),
            boot: self.boot,
            place: Place { controller: self.hub.config.me.clone(), addrs: self.addrs.clone() },
            partitions: standpoints,
            wall_ms: wall_ms(),
        };
        self.links.introduce(now, conn, Some(introduction));
    }

    fn up(&mut self, partner: usize, conn: ConnId, theirs: &Introduction) {
        let id = self.links.id(partner).clone();
        log::info!("the link to {id} stands");
        // There are few of them, and devices must not be able to have them ended.
        self.reactor.spare(conn);
        self.held.remove(&partner);
        let ahead = i64::try_from(theirs.wall_ms).unwrap_or(i64::MAX)
            - i64::try_from(wall_ms()).unwrap_or(i64::MAX);
        self.links.peer_mut(partner).ahead_ms = ahead;
        if ahead.abs() > SKEW_MS {
            log::warn!(
                "the clock of {id} is {ahead} ms ahead of this one; that does no harm but to logs"
            );
            self.hub.announce(NodeEvent::Skew { partner: id.clone(), ahead_ms: ahead });
        }
        let place = theirs.place.clone();
        if place.controller == id && !place.addrs.is_empty() {
            let mut environment = locked(&self.hub.environment);
            if environment.place(place.clone()) {
                self.hub.renew_settings(&environment);
            }
        }
        for (index, partition) in self.hub.partitions.iter().enumerate() {
            let of_it = theirs.partitions.iter().find(|one| one.partition == partition.name);
            let input = Input::LinkUp {
                partner: id.clone(),
                place: place.clone(),
                head: of_it.map(|one| one.head),
                taken: of_it.and_then(|one| one.taken),
            };
            let _room = self.hub.to_partition(index, &id, conn, input);
        }
        self.hub.send_partner(conn, &self.mode());
        self.hub.send_partner(conn, &self.parameters());
        self.publish(partner);
    }

    fn down(&mut self, partner: usize, conn: ConnId) {
        let id = self.links.id(partner).clone();
        log::info!("the link to {id} is down");
        self.held.remove(&partner);
        for index in 0..self.hub.partitions.len() {
            let input = Input::LinkDown { partner: id.clone() };
            let _room = self.hub.to_partition(index, &id, conn, input);
        }
    }

    /// What a partner says on a link that stands.
    fn of_partner(&mut self, partner: usize, conn: ConnId, message: PeerMessage) {
        let id = self.links.id(partner).clone();
        match message {
            PeerMessage::Sync { partition, message } => {
                // It may have partitions that there are not here.
                let Some(index) = self.hub.index(&partition) else { return };
                let input = Input::Sync { partner: id, message };
                self.pass_on(partner, index, conn, input);
            }
            PeerMessage::Forward(forward) => {
                let route = self.hub.route(&forward.device);
                let id_there = forward.id;
                let outcome = if route.mode == DispatchMode::Refuse {
                    Outcome::Unknown
                } else {
                    let input = Input::Forward { partner: id.clone(), forward };
                    match self.hub.to_partition(route.index, &id, conn, input) {
                        Ok(_) => return,
                        Err(Full) => Outcome::Busy { after: self.hub.full_for(route.index, None) },
                    }
                };
                self.hub.send_partner(conn, &PeerMessage::Result { id: id_there, outcome });
            }
            PeerMessage::Result { id: number, outcome } => {
                let index = usize::try_from(number & ((1 << INDEX_BITS) - 1)).unwrap_or(usize::MAX);
                if index < self.hub.of_devices().len() {
                    let number = number >> INDEX_BITS;
                    let input = Input::ForwardResult { partner: id, id: number, outcome };
                    self.pass_on(partner, index, conn, input);
                }
            }
            PeerMessage::Mode(mode) => {
                self.links.peer_mut(partner).mode = mode;
                for index in 0..self.hub.partitions.len() {
                    let input = Input::PartnerMode { partner: id.clone(), mode };
                    let _room = self.hub.to_partition(index, &id, conn, input);
                }
                self.publish(partner);
            }
            PeerMessage::Parameters { generation, refused } => {
                let peer = self.links.peer_mut(partner);
                peer.generation = generation;
                if let Some((generation, error)) = &refused
                    && peer.refused != refused
                {
                    let (generation, error) = (*generation, error.clone());
                    self.hub.announce(NodeEvent::PartnerRefused { partner: id, generation, error });
                }
                peer.refused = refused;
                self.publish(partner);
            }
            _ => {}
        }
    }

    fn pass_on(&mut self, partner: usize, index: usize, conn: ConnId, input: Input) {
        let id = self.links.id(partner).clone();
        if let Ok(Room::None) = self.hub.to_partition(index, &id, conn, input)
            && self.held.entry(partner).or_default().insert(index)
        {
            log::warn!(
                "partition {} has no room for what {id} sends: its link waits",
                self.hub.partitions[index].name
            );
            self.hold(conn, true);
        }
    }

    fn release(&mut self, now: Instant, partition: &ControllerId, partner: &ControllerId) {
        let is_it = |of: &usize| self.links.id(*of) == partner;
        let Some(partner) = (0..self.hub.config.partners.len()).find(is_it) else { return };
        let Some(index) = self.hub.index(partition) else { return };
        let Some(holders) = self.held.get_mut(&partner) else { return };
        holders.remove(&index);
        if holders.is_empty() {
            self.held.remove(&partner);
            if let Some(conn) = self.links.peers()[partner].up {
                self.links.hold(now, conn, false);
                self.hold(conn, false);
            }
        }
    }

    fn hold(&mut self, conn: ConnId, on: bool) {
        self.links.hold(Instant::now(), conn, on);
        self.reactor.hold(conn, on);
    }

    fn mode(&self) -> PeerMessage {
        PeerMessage::Mode(Mode {
            maintenance: self.hub.maintenance.load(Ordering::SeqCst),
            paused: self.hub.paused.load(Ordering::SeqCst),
        })
    }

    fn parameters(&self) -> PeerMessage {
        let environment = locked(&self.hub.environment);
        let refused = environment.refused().cloned();
        let refused = refused.map(|(generation, mut error)| {
            let cut = (0..=error.len().min(1000)).rev().find(|at| error.is_char_boundary(*at));
            error.truncate(cut.unwrap_or(0));
            (generation, error)
        });
        PeerMessage::Parameters { generation: environment.generation(), refused }
    }

    /// Lets everybody see how a link is.
    fn publish(&self, partner: usize) {
        let peer = &self.links.peers()[partner];
        let id = self.links.id(partner).clone();
        let (refused_generation, refused) = peer.refused.clone().unwrap_or_default();
        let mut board = locked(&self.hub.board);
        let Some((status, since, conn)) = board.get_mut(partner) else { return };
        let is_news = status.state != peer.state || status.error != peer.error;
        (*since, *conn) = (peer.since, peer.up);
        *status = PartnerStatus {
            partner: id.clone(),
            state: peer.state,
            error: peer.error.clone(),
            since: Duration::ZERO,
            round_trip: peer.round_trip,
            is_cut: false,
            maintenance: peer.mode.maintenance,
            generation: peer.generation,
            generation_refused: match refused_generation {
                0 => String::new(),
                generation => format!("generation {generation}: {refused}"),
            },
            clock_ahead_ms: peer.ahead_ms,
            queued_bytes: 0,
        };
        drop(board);
        if is_news {
            let (state, error) = (peer.state, peer.error.clone());
            self.hub.announce(NodeEvent::Link { partner: id, state, error });
        }
    }
}

impl Handler for Front {
    fn opened(&mut self, conn: ConnId, opened: Opened) {
        if guarded(|| self.take_opened(conn, opened)).is_none() {
            self.reactor.close(conn);
        }
    }

    fn frame(&mut self, conn: ConnId, kind: u16, body: &[u8]) -> Result<(), Bye> {
        let taken = guarded(|| self.take_frame(conn, kind, body));
        taken.unwrap_or_else(|| Err(Bye::new(bye::CLOSING, "a defect of the controller")))
    }

    fn closed(&mut self, conn: ConnId, why: &str) {
        guarded(|| self.take_closed(conn, why));
    }

    fn dial_failed(&mut self, token: u64, why: String) {
        guarded(|| self.take_dial_failed(token, &why));
    }

    fn turn(&mut self) -> Option<Instant> {
        let next = guarded(|| self.take_turn());
        next.unwrap_or_else(|| Some(Instant::now() + DEFECT_PAUSE))
    }
}

/// A defect costs one message or connection, and not all of them.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work));
    if done.is_err() {
        log::error!("a defect of the controller: what came is not looked at");
    }
    done.ok()
}

/// A message; `None` if it is to be ignored.
fn read<M: Message>(kind: u16, body: &[u8]) -> Result<Option<M>, Bye> {
    match M::decode(kind, body) {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.is_ignorable() => Ok(None),
        Err(error) => Err(Bye::malformed(&error)),
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
