//! Two ends, a network, and the rules that must hold between them at each step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::client::Client;
use super::end::{End, Ending};
use super::net::{ConnId, Cut, Net, Side, Status};
use super::rng::Rng;
use super::server::Server;
use super::{Ledger, Tamper};
use crate::control::Role;
use crate::identity::{ServerKey, StaticKey};
use crate::limits::WINDOW_MAX_DEFAULT_BYTES;
use crate::log::Pool;
use crate::open::{Offer, Opened, Sealing};
use crate::redial::BackOff;
use crate::seal::{Cipher, EpochKeys};
use crate::secret::{PresharedKey, Secret, SessionId};
use crate::session::{Fault, Session, Start};

/// How a pair and its network are made.
#[derive(Clone, Debug)]
pub struct PairConfig {
    /// Begin with the OPEN handshake rather than with a session that stands.
    pub open: bool,
    /// The key of the two ends.
    pub key: Option<PresharedKey>,
    /// What seals the session; it is clear otherwise.
    pub cipher: Option<Cipher>,
    /// The weight at which a key of a sealed session gives way to the next, in bytes.
    pub key_weight_max: u64,
    /// The static keys of client and server; the client knows the server's.
    pub identities: Option<[StaticKey; 2]>,
    /// Where the client's and the server's bytes start counting.
    pub start: [u64; 2],
    /// Credit that each end gives at first, in bytes.
    pub window: [u64; 2],
    /// Credit that each end gives at most, in bytes.
    pub window_max: [u64; 2],
    /// True for an end whose program reads from the connection itself: bytes stay in the kernel
    /// until it does. Otherwise what comes goes to the stash at once.
    pub direct: [bool; 2],
    /// Time from one end to the other.
    pub latency: Duration,
    /// What a direction of a connection holds, in bytes.
    pub kernel_bytes: usize,
    /// How long the server keeps a session without a connection.
    pub grace: Duration,
    /// How long the client tries.
    pub give_up: Duration,
    /// How long one attempt of the client may take.
    pub attempt_deadline: Duration,
    /// How long a closed end waits for the peer's end.
    pub linger: Duration,
    /// Silence with unconfirmed output after which the client dials beside its connection.
    pub probe_after: Duration,
    /// When the kernel finds that a connection is dead.
    pub keepalive: Option<Duration>,
    /// The lazy ack sweep.
    pub sweep: Duration,
    /// The client's back-off.
    pub back_off: BackOff,
}

impl Default for PairConfig {
    fn default() -> Self {
        Self {
            open: false,
            key: None,
            cipher: None,
            key_weight_max: crate::limits::KEY_WEIGHT_MAX_BYTES,
            identities: None,
            start: [0; 2],
            window: [256 * 1024; 2],
            window_max: [WINDOW_MAX_DEFAULT_BYTES; 2],
            direct: [false; 2],
            latency: Duration::from_millis(10),
            kernel_bytes: 64 * 1024,
            grace: Duration::from_secs(600),
            give_up: Duration::from_secs(600),
            attempt_deadline: Duration::from_secs(5),
            linger: Duration::from_secs(60),
            probe_after: Duration::from_secs(30),
            keepalive: Some(Duration::from_secs(45)),
            sweep: Duration::from_secs(1),
            back_off: BackOff::default(),
        }
    }
}

/// A handshake message that went over some connection.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Over which.
    pub conn: ConnId,
    /// Who sent it.
    pub from: Side,
    /// The message, envelope included.
    pub message: Vec<u8>,
}

/// A client, a server, and the network between them.
pub struct Pair {
    /// The network.
    pub net: Net,
    /// Where all choices come from.
    pub rng: Rng,
    pub(super) config: PairConfig,
    pub(super) ends: [End; 2],
    pub(super) client: Client,
    pub(super) server: Server,
    pub(super) pools: [Arc<Pool>; 2],
    pub(super) accepted_conns: ConnId,
    pub(super) ledger: Arc<Ledger>,
    recorded: Vec<Recorded>,
    sniffed: BTreeMap<ConnId, Vec<u8>>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "at {:?}: {:?}{:?}\n{:?}\ngrace {:?}, attempt {:?}, retry {:?}\n{:?}",
            self.net.now,
            self.ends[0],
            self.ends[1],
            self.net,
            self.server.grace_at,
            self.client.attempt,
            self.client.retry_at,
            self.config,
        )
    }
}

impl Pair {
    /// A pair whose client dials at once, or whose session stands already
    /// ([`PairConfig::open`]).
    pub fn new(seed: u64, config: PairConfig) -> Self {
        Self::with_cuts(seed, config, &[])
    }

    /// The same, with cuts that wait for their byte from the first connection on.
    pub fn with_cuts(seed: u64, config: PairConfig, cuts: &[super::PlannedCut]) -> Self {
        let mut net = Net::new(config.latency, config.kernel_bytes, config.keepalive);
        net.planned.extend_from_slice(cuts);
        let mut pair = Self {
            net,
            rng: Rng::new(seed),
            config,
            ends: [End::new(Side::Client), End::new(Side::Server)],
            client: Client::default(),
            server: Server::default(),
            pools: [Arc::default(), Arc::default()],
            accepted_conns: 0,
            ledger: Arc::default(),
            recorded: Vec::new(),
            sniffed: BTreeMap::new(),
        };
        if pair.config.open {
            pair.dial();
        } else {
            pair.begin_opened();
        }
        pair
    }

    fn begin_opened(&mut self) {
        let secret = Secret::from_bytes(self.rng.bytes());
        let id = SessionId::new(7, 1000);
        let root = self.rng.bytes();
        let opened = |window| Opened {
            id,
            secret: secret.clone(),
            window,
            grace: self.config.grace,
            addrs: Vec::new(),
            peer: None,
            shares: false,
            cipher: self.config.cipher,
            keys: self
                .config
                .cipher
                .map(|cipher| self.prepare_keys(EpochKeys::from_parts(cipher, root))),
        };
        let (at_client, at_server) = (opened(self.config.window[1]), opened(self.config.window[0]));
        let start = self.start(Side::Client);
        let session = Session::new(Role::Client, at_client, &start, self.pools[0].clone());
        self.ends[0].session = Some(session);
        let Some(conn) = self.net.dial(false) else { return };
        self.accept_opened(at_server);
        self.stand(Side::Client, conn);
        self.stand(Side::Server, conn);
    }

    /// Keys whose use is watched.
    pub(super) fn prepare_keys(&self, keys: EpochKeys) -> EpochKeys {
        keys.with_weight_max(self.config.key_weight_max).witnessed(&self.ledger)
    }

    /// The keys of an epoch that has just begun, if the session is sealed.
    pub(super) fn begin_sealed(&mut self, side: Side, keys: Option<EpochKeys>) {
        let keys = keys.map(|keys| self.prepare_keys(keys));
        if let (Some(session), Some(keys)) = (&mut self.ends[side.index()].session, keys) {
            session.seal_with(keys);
        }
    }

    /// Every key and nonce that has sealed something.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Somebody on the path changes what is under way from `from` on the connection that stands;
    /// true if anything was. Only a sealed session survives it.
    pub fn tamper(&mut self, from: Side, how: Tamper) -> bool {
        let Some(conn) = self.ends[0].standing else { return false };
        self.net.tamper(conn, from, how, &mut self.rng)
    }

    /// One end, to look at.
    pub fn end(&self, side: Side) -> &End {
        &self.ends[side.index()]
    }

    /// The settings.
    pub fn config(&self) -> &PairConfig {
        &self.config
    }

    /// The handshake messages that went out so far.
    pub fn recorded(&self) -> &[Recorded] {
        &self.recorded
    }

    /// True when one connection stands for both ends.
    pub fn is_up(&self) -> bool {
        let [client, server] = &self.ends;
        client.standing.is_some() && client.standing == server.standing
    }

    /// Bytes that a program could read now without another step.
    pub fn readable(&self, side: Side) -> usize {
        self.end(side).session.as_ref().map_or(0, |session| session.rx.stashed())
    }

    /// The program writes; gives how many bytes were taken.
    pub fn write(&mut self, side: Side, bytes: &[u8]) -> usize {
        let end = &mut self.ends[side.index()];
        if end.closed || end.resetting || end.ending.is_some() {
            return 0;
        }
        let Some(session) = &mut end.session else { return 0 };
        let n = session.write(bytes);
        end.written.extend_from_slice(&bytes[..n]);
        n
    }

    /// The program writes `n` bytes of a pattern that shows where it was torn.
    pub fn write_some(&mut self, side: Side, n: usize) -> usize {
        let from = self.end(side).written.len();
        let bytes: Vec<u8> = (from..from + n)
            .map(|at| ((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
            .collect();
        self.write(side, &bytes)
    }

    /// The program writes no more.
    pub fn shutdown_write(&mut self, side: Side) {
        if let Some(session) = &mut self.ends[side.index()].session {
            session.tx.finish();
        }
    }

    /// The program reads at most `most` bytes; gives how many came. What came is checked.
    pub fn read(&mut self, side: Side, most: usize) -> usize {
        if self.end(side).closed || most == 0 {
            return 0;
        }
        let mut buf = vec![0xA5; most];
        let n = self.read_into(side, &mut buf);
        let (end, peer) = (&self.ends[side.index()], &self.ends[side.other().index()]);
        let expected = peer.written.get(end.read..end.read + n);
        assert!(expected.is_some(), "{side:?} reads more than its peer wrote");
        assert!(expected == Some(&buf[..n]), "{side:?} reads other bytes from {}", end.read);
        if end.is_at_end() {
            assert_eq!(end.read + n, peer.written.len(), "{side:?} sees EOF before all bytes");
            let finished = peer.session.as_ref().is_some_and(|session| session.tx.is_finished());
            assert!(finished, "{side:?} sees an EOF that nobody sent");
        }
        self.ends[side.index()].read += n;
        n
    }

    fn read_into(&mut self, side: Side, buf: &mut [u8]) -> usize {
        loop {
            let end = &mut self.ends[side.index()];
            let Some(session) = &mut end.session else { return 0 };
            let n = session.read(buf);
            if n > 0 {
                return n;
            }
            let Some(conn) = end.standing.filter(|_| self.config.direct[side.index()]) else {
                return 0;
            };
            if session.rx.is_sealed() && session.rx.stashed() == 0 {
                let space = session.rx.record_space();
                let Some(bytes) = self.net.take(conn, side, space.len(), &mut self.rng) else {
                    return 0;
                };
                space[..bytes.len()].copy_from_slice(&bytes);
                end.last_heard = self.net.now;
                end.delivered_by = end.delivered_by.max(conn);
                let taken = session.accept_records(bytes.len(), buf);
                let violation = session.rx.violation().map(Fault::from);
                if let Some(fault) = taken.err().or(violation) {
                    self.fault(side, conn, fault);
                }
                match taken {
                    Ok(0) => continue,
                    Ok(n) => return n,
                    Err(_) => return 0,
                }
            }
            if !session.rx.is_direct() {
                let Some(bytes) = self.net.take(conn, side, 16 * 1024, &mut self.rng) else {
                    return 0;
                };
                self.hear(side, conn, &bytes);
                continue;
            }
            let left = session.rx.payload_left();
            let front = left.min(buf.len());
            let space = if left > buf.len() { 0 } else { session.rx.header_space().len() };
            let rest = if left > buf.len() { 0 } else { buf.len() - front };
            let Some(bytes) = self.net.take(conn, side, front + space + rest, &mut self.rng) else {
                return 0;
            };
            let n = bytes.len();
            let (first, behind) = bytes.split_at(n.min(front));
            let (middle, last) = behind.split_at(behind.len().min(space));
            buf[..first.len()].copy_from_slice(first);
            session.rx.header_space()[..middle.len()].copy_from_slice(middle);
            buf[front..front + last.len()].copy_from_slice(last);
            end.last_heard = self.net.now;
            end.delivered_by = end.delivered_by.max(conn);
            match session.accept(buf, front, n) {
                Ok(0) => {}
                Ok(n) => {
                    let scratch = if middle.is_empty() { n } else { front + last.len() };
                    let clean = buf[n..scratch.max(n)].iter().all(|&byte| byte == 0);
                    assert!(clean, "scratch behind the count shows");
                    if let Some(violation) = session.rx.violation() {
                        self.fault(side, conn, violation.into());
                    }
                    return n;
                }
                Err(fault) => {
                    self.fault(side, conn, fault);
                    return 0;
                }
            }
        }
    }

    /// The program closes: its FIN goes out behind what it wrote, and nobody reads any more.
    pub fn close(&mut self, side: Side) {
        let until = self.net.now + self.config.linger;
        let end = &mut self.ends[side.index()];
        end.closed = true;
        end.linger_until.get_or_insert(until);
        if let Some(session) = &mut end.session {
            session.tx.finish();
            session.discard();
        }
    }

    /// The program resets the session.
    pub fn reset(&mut self, side: Side, code: u64) {
        let until = self.net.now + self.config.linger;
        let end = &mut self.ends[side.index()];
        end.resetting = true;
        end.linger_until.get_or_insert(until);
        if let Some(session) = &mut end.session {
            session.tx.want_reset(code);
        }
        if side == Side::Server && self.ends[1].standing.is_none() {
            self.finish(side, Ending::Reset);
        }
    }

    /// Cuts the connection that stands for the client, or the one that it is dialling.
    pub fn cut(&mut self, cut: Cut) {
        let attempt = self.client.attempt.as_ref().map(|attempt| attempt.conn);
        if let Some(conn) = self.ends[0].standing.or(attempt) {
            self.net.cut(conn, cut);
        }
    }

    /// Nothing arrives in either direction for so long; nothing is lost.
    pub fn blackhole(&mut self, time: Duration) {
        Side::BOTH.into_iter().for_each(|side| self.net.hold(side, time));
    }

    /// The client dials beside its connection, as on a hint from the network.
    pub fn dial_beside(&mut self) {
        self.dial();
    }

    /// A stranger dials the server and says `bytes`; `None` when the dial is refused.
    pub fn inject(&mut self, bytes: &[u8]) -> Option<ConnId> {
        let conn = self.net.dial(true)?;
        self.net.send(conn, Side::Client, bytes.to_vec());
        Some(conn)
    }

    /// What the server has answered a stranger so far.
    pub fn sniffed(&self, conn: ConnId) -> &[u8] {
        self.sniffed.get(&conn).map_or(&[], Vec::as_slice)
    }

    /// Lets everything happen that can happen now; if that was nothing, moves time to the next
    /// event. False when nothing will ever happen again by itself.
    pub fn step(&mut self) -> bool {
        if self.settle() {
            // The programs may have something to do before time goes on.
            return true;
        }
        let Some(at) = self.next_event() else { return false };
        self.net.now = at;
        self.settle();
        true
    }

    fn next_event(&self) -> Option<Duration> {
        let mut next = self.net.next_event();
        let now = self.net.now;
        let mut offer = |at: Duration| {
            if at > now {
                next = Some(next.map_or(at, |other| other.min(at)));
            }
        };
        for end in self.ends.iter().filter(|end| end.ending.is_none()) {
            end.sweep_at.iter().for_each(|&at| offer(at));
            end.linger_until.iter().for_each(|&at| offer(at));
            end.record_due().iter().for_each(|&at| offer(at));
        }
        if self.ends[0].ending.is_none() {
            self.client_timers(&mut offer);
        }
        self.server_timers(&mut offer);
        next
    }

    /// Steps until `done`, for `limit` at most; true when it came to that.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.net.now + limit;
        loop {
            if done(self) {
                return true;
            }
            if self.settle() {
                continue;
            }
            match self.next_event() {
                Some(at) if at <= end => self.net.now = at,
                _ if self.net.now < end => self.net.now = end,
                _ => return false,
            }
            self.settle();
        }
    }

    /// Steps until so much time has gone by.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn settle(&mut self) -> bool {
        let mut any = false;
        for round in 0.. {
            assert!(round < 1_000_000, "time stands still: the two ends spin");
            let mut busy = self.net.deliver();
            busy |= self.server_due();
            busy |= self.client_due();
            for side in Side::BOTH {
                busy |= self.receive(side);
                busy |= self.watch(side);
                busy |= self.end_due(side);
                busy |= self.flush(side);
            }
            any |= busy;
            if !busy {
                break;
            }
        }
        self.net.tidy();
        self.check();
        any
    }

    /// Reads what has arrived, as far as this end reads by itself.
    fn receive(&mut self, side: Side) -> bool {
        let mut busy = false;
        for conn in self.net.ids() {
            if side == Side::Server && conn >= self.accepted_conns {
                continue;
            }
            while self.is_hungry(side, conn) {
                let Some(bytes) = self.net.take(conn, side, 64 * 1024, &mut self.rng) else {
                    break;
                };
                busy = true;
                if self.net.is_strange(conn) && side == Side::Client {
                    self.sniffed.entry(conn).or_default().extend(bytes);
                } else if side == Side::Client {
                    self.client_bytes(conn, &bytes);
                } else {
                    self.server_bytes(conn, &bytes);
                }
            }
        }
        busy
    }

    /// In direct mode only a program that reads, or one that waits to write, reads. The engine does
    /// where no program will: behind a close, behind EOF, and on a connection that has ended.
    fn is_hungry(&self, side: Side, conn: ConnId) -> bool {
        let end = &self.ends[side.index()];
        if !self.config.direct[side.index()] || end.standing != Some(conn) || end.closed {
            return true;
        }
        let Some(session) = &end.session else { return true };
        session.rx.is_at_end()
            || session.tx.is_out_of_room()
            || session.tx.has_output() && self.net.room(conn, side) == 0
            || self.net.is_broken(conn, side)
    }

    /// Frames of the session have come over `conn`.
    pub(super) fn hear(&mut self, side: Side, conn: ConnId, bytes: &[u8]) {
        let end = &mut self.ends[side.index()];
        if end.standing != Some(conn) {
            end.late_bytes += bytes.len() as u64;
            return;
        }
        assert!(conn >= end.delivered_by, "two connections deliver");
        end.delivered_by = conn;
        end.last_heard = self.net.now;
        let Some(session) = &mut end.session else { return };
        let result = session.handle_bytes(bytes);
        if end.closed {
            session.discard();
        }
        if side == Side::Client {
            self.heard();
        }
        if let Err(fault) = result {
            self.fault(side, conn, fault);
        }
    }

    fn fault(&mut self, side: Side, conn: ConnId, fault: Fault) {
        self.net.close(conn, side);
        if fault.is_final() {
            self.finish(side, Ending::DataLost);
        } else {
            self.lose(side);
        }
    }

    /// Looks whether the standing connection has ended.
    fn watch(&mut self, side: Side) -> bool {
        let Some(conn) = self.ends[side.index()].standing else { return false };
        if self.ends[side.index()].record_due().is_some_and(|at| at <= self.net.now) {
            // What is missing was cut out or covered up on the way: it will not come.
            self.net.close(conn, side);
            self.lose(side);
            return true;
        }
        if self.net.is_broken(conn, side) && self.rng.chance(1, 4) {
            // The kernel may have dropped what was unread.
            self.net.purge(conn, side);
        }
        if self.net.status(conn, side) != Status::Ended {
            return false;
        }
        self.net.close(conn, side);
        self.lose(side);
        true
    }

    fn lose(&mut self, side: Side) {
        self.ends[side.index()].standing = None;
        if self.ends[side.index()].ending.is_some() {
            return;
        }
        match side {
            Side::Client => self.client_down(),
            Side::Server => self.server_down(),
        }
    }

    /// A new connection takes over: what the old one still holds may be read, then it goes.
    pub(super) fn drop_standing(&mut self, side: Side, heir: ConnId) {
        let Some(old) = self.ends[side.index()].standing.filter(|&old| old != heir) else { return };
        if self.config.direct[side.index()] && self.rng.chance(1, 2) {
            while let Some(bytes) = self.net.take(old, side, 64 * 1024, &mut self.rng) {
                if let Some(session) = &mut self.ends[side.index()].session
                    && session.handle_bytes(&bytes).is_err()
                {
                    break;
                }
            }
        }
        self.net.close(old, side);
        self.ends[side.index()].standing = None;
    }

    pub(super) fn stand(&mut self, side: Side, conn: ConnId) {
        let end = &mut self.ends[side.index()];
        end.standing = Some(conn);
        end.last_heard = self.net.now;
        if end.closed
            && let Some(session) = &mut end.session
        {
            session.discard();
        }
    }

    /// Frames go out as far as the connection takes them.
    fn flush(&mut self, side: Side) -> bool {
        let end = &mut self.ends[side.index()];
        let (Some(conn), Some(session)) = (end.standing, end.session.as_mut()) else {
            return false;
        };
        let room = self.net.room(conn, side);
        if room == 0 || !session.tx.has_output() {
            return false;
        }
        let bytes = session.transmit(self.rng.slice(room));
        let busy = !bytes.is_empty();
        self.net.send(conn, side, bytes);
        busy
    }

    /// What time or the session's state ends.
    fn end_due(&mut self, side: Side) -> bool {
        let now = self.net.now;
        let sweep = self.config.sweep;
        let end = &mut self.ends[side.index()];
        let Some(session) = end.session.as_mut().filter(|_| end.ending.is_none()) else {
            return false;
        };
        if end.sweep_at.is_some_and(|at| at <= now) {
            end.sweep_at = None;
            session.sweep();
        } else if end.sweep_at.is_none() && session.tx.ack_is_stale(session.rx.acks()) {
            end.sweep_at = Some(now + sweep);
        }
        let silent = !session.tx.has_output();
        let flushed = end.standing.is_some() && silent;
        // A server whose last ack may be lost leaves a tombstone to say so; a client has none, and
        // dials again to hear it.
        let over = session.is_over() && silent && (flushed || side == Side::Server);
        let ending = if let Some(code) = session.reset_by_peer() {
            Ending::ResetByPeer(code)
        } else if end.resetting && flushed {
            Ending::Reset
        } else if over {
            Ending::Done
        } else if end.linger_until.is_some_and(|at| at <= now) {
            self.reset_now(side, Ending::Lingered);
            return true;
        } else {
            return false;
        };
        self.finish(side, ending);
        true
    }

    /// Tells the peer by a RESET if there is a connection, and ends.
    pub(super) fn reset_now(&mut self, side: Side, ending: Ending) {
        if let Some(session) = &mut self.ends[side.index()].session {
            session.tx.want_reset(0);
        }
        while self.flush(side) {}
        self.finish(side, ending);
    }

    pub(super) fn finish(&mut self, side: Side, ending: Ending) {
        let end = &mut self.ends[side.index()];
        if end.ending.is_some() {
            return;
        }
        end.ending = Some(ending);
        if let Some(conn) = end.standing.take() {
            self.net.close(conn, side);
        }
        match side {
            Side::Client => {
                if let Some(attempt) = self.client.attempt.take() {
                    self.net.close(attempt.conn, side);
                }
                self.client.retry_at = None;
            }
            Side::Server => self.bury(ending),
        }
    }

    pub(super) fn send_hello(&mut self, conn: ConnId, from: Side, message: Vec<u8>) {
        self.recorded.push(Recorded { conn, from, message: message.clone() });
        self.net.send(conn, from, message);
    }

    pub(super) fn offer(&self, side: Side) -> Offer {
        Offer {
            key: self.config.key.clone(),
            window: self.config.window[side.index()],
            grace: self.config.grace,
            sealing: if self.config.cipher.is_some() { Sealing::Always } else { Sealing::Never },
            aes: self.config.cipher == Some(Cipher::Aes256Gcm),
            identity: self.config.identities.as_ref().map(|keys| keys[side.index()].clone()),
            server: match &self.config.identities {
                Some([_, server]) if side == Side::Client => ServerKey::Known(server.public()),
                _ => ServerKey::None,
            },
            clients: match &self.config.identities {
                Some([client, _]) if side == Side::Server => Some(vec![client.public()]),
                _ => None,
            },
            ..Offer::default()
        }
    }

    pub(super) fn start(&self, side: Side) -> Start {
        Start {
            send: self.config.start[side.index()],
            receive: self.config.start[side.other().index()],
            window: self.config.window[side.index()],
            window_max: self.config.window_max[side.index()],
        }
    }

    /// What must hold at every moment.
    fn check(&self) {
        for side in Side::BOTH {
            let (end, peer) = (&self.ends[side.index()], &self.ends[side.other().index()]);
            let (Some(mine), Some(theirs)) = (&end.session, &peer.session) else { continue };
            let start = self.config.start[side.index()];
            assert!(mine.rx.stashed() as u64 <= mine.rx.window(), "{side:?}: stash beyond window");
            assert!(mine.rx.window() <= self.config.window_max[side.index()]);
            assert!(mine.tx.log_len() <= theirs.rx.window(), "{side:?}: log beyond the window");
            assert!(mine.tx.acked() <= theirs.rx.acks().ack.max(start), "{side:?}: acked too much");
            assert!(mine.tx.edge() <= theirs.rx.acks().edge(), "{side:?}: credit from nowhere");
            assert!(theirs.rx.next() <= mine.tx.total_end(), "{side:?}: received too much");
            assert_eq!(mine.tx.written() - start, end.written.len() as u64);
            let late = end.ending.is_none() && peer.ending.is_none();
            if late && end.standing.is_some() && end.standing == peer.standing {
                assert_eq!(mine.control.epoch(), theirs.control.epoch(), "epochs differ");
            }
        }
    }
}
