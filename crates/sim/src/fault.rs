//! Faults and attacks as they strike, and the moment from which the network is well.

use std::time::Duration;

use eversock_proto::resume::{Reason, Reject};

use crate::end::Ending;
use crate::net::{ConnId, EndId, STRANGE};
use crate::plan::{Attack, CutKind, Fault};
use crate::said::Word;
use crate::trace::{MS, On, S, Time};
use crate::world::{Event, Hole, World};

impl World {
    pub(crate) fn on_fault(&mut self, index: usize) {
        let (_, fault) = self.plan.faults[index];
        self.stats.faults += 1;
        let left = self.plan.heal_at.saturating_sub(self.now);
        let until = |time: Time| time.min(left);
        match fault {
            Fault::Cut(kind) => {
                if let Some(conn) = self.any_conn() {
                    self.cut(conn, kind);
                }
            }
            Fault::CutNext { kind, from, byte } => {
                let link = self.any_link();
                self.links[link].cut_next = Some((from, byte, kind));
            }
            Fault::Choke { kind, from, byte } => {
                let link = self.any_link();
                self.links[link].choke = Some((from, byte, kind));
                self.note(On::End(link, 0), "each connection is cut at byte", byte, from as u64);
            }
            Fault::CutWord { word, from, kind } => {
                let link = self.any_link();
                self.links[link].aim = Some((word, from, kind));
            }
            Fault::CutAll(kind) => {
                let host = self.any_server();
                for conn in 0..self.conns.len() {
                    let conn_at = &self.conns[conn];
                    if conn_at.hosts[1] == host && conn_at.is_live() && conn_at.established[0] {
                        self.cut(conn, kind);
                    }
                }
            }
            Fault::Hole { from, time } => self.dig(from, until(time)),
            Fault::Slow { by, time } => {
                let host = self.any_server();
                (self.slow_host, self.slow_by) = (host, by);
                self.slow_until = self.now + until(time);
                self.note(On::Host(host), "its paths are slow by, for", by, until(time));
                self.touch_host(host, until(time));
            }
            Fault::Loss { percent, time } => {
                self.lossy_percent = percent;
                self.lossy_until = self.now + until(time);
                self.note(On::World, "percent are lost, for", percent, until(time));
                (0..self.hosts.len()).for_each(|host| self.touch_host(host, until(time)));
            }
            Fault::ClientMoves => self.client_moves(),
            Fault::ServerMoves { tells } => self.server_moves(tells),
            Fault::Pause { server, time } => {
                let host = if server { self.any_server() } else { self.any_client() };
                let proc = self.hosts[host].listener;
                self.procs[proc].paused_until = self.now + until(time);
                self.note(On::Proc(proc), "is stopped for", until(time), 0);
                self.touch_host(host, until(time));
            }
            Fault::Suspend { server, time, jumps } => {
                let host = if server { self.any_server() } else { self.any_client() };
                self.suspend(host, until(time), jumps);
            }
            Fault::Kill { server, back } => {
                let host = if server { self.any_server() } else { self.any_client() };
                self.touch_host(host, until(back));
                self.kill(host);
                self.push(self.now + until(back), Event::Restart(host));
            }
            Fault::Busy { time } => {
                let host = self.any_server();
                let proc = self.hosts[host].listener;
                self.busy_until.insert(proc, self.now + until(time));
                self.note(On::Proc(proc), "is busy for", until(time), 0);
                self.touch_host(host, until(time));
            }
            Fault::Refuse { time } => {
                let host = self.any_server();
                let proc = self.hosts[host].listener;
                self.refuse_until[proc] = self.now + until(time);
                self.note(On::Proc(proc), "takes no connections for", until(time), 0);
                self.touch_host(host, until(time));
            }
            Fault::Goaway => self.goaway(),
            Fault::Corrupt(harm) => {
                if let Some(conn) = self.any_conn() {
                    let side = self.rng.index(2);
                    self.set_corrupt(conn, harm, side, false);
                    self.links[self.conns[conn].link].touch(self.now);
                }
            }
            Fault::CorruptHello(harm) => {
                let link = self.any_link();
                self.links[link].corrupt_next = Some((harm, self.rng.index(2)));
                self.links[link].touch(self.now);
            }
            Fault::Forge => {
                let link = self.any_link();
                self.links[link].forge_next = true;
                self.links[link].touch(self.now);
            }
            Fault::HandOver => self.hand_over(),
            Fault::Beside => {
                let id = (self.any_link(), 0);
                if self.end(id).is_alive() && self.procs[self.end(id).proc].alive {
                    self.note(On::End(id.0, 0), "dials beside", 0, 0);
                    self.dial(id);
                    self.arm(id);
                }
            }
        }
    }

    /// An end is written down and read back, as when another process of its host goes on with it. A
    /// sealed one goes on in the next epoch, as its keys are not handed over.
    fn hand_over(&mut self) {
        let id = (self.any_link(), self.rng.index(2));
        let end = self.end_mut(id);
        let Some(core) = end.core.as_mut().filter(|_| end.ending.is_none()) else { return };
        let is_sealed = core.tx.is_sealed();
        match core.hand_over() {
            // What was heard and not taken keeps it where it is.
            None => return,
            Some(false) => return self.find_at(1, id, "what is handed over cannot be read back"),
            Some(true) => {}
        }
        self.stats.handed_over += 1;
        self.note(On::End(id.0, id.1), "is handed over", 0, 0);
        if let Some(conn) = self.end(id).standing.filter(|_| is_sealed) {
            self.links[id.0].touch(self.now);
            self.links[id.0].cuts += 1;
            self.close(conn, id.1);
            self.lose(id);
        }
        self.pump(id);
    }

    fn any_link(&mut self) -> usize {
        self.rng.index(self.links.len())
    }

    fn any_client(&mut self) -> usize {
        self.rng.index(self.plan.clients)
    }

    fn any_server(&mut self) -> usize {
        self.plan.clients + self.rng.index(self.plan.servers)
    }

    /// A connection of some session: what an end stands on, or a client dials.
    fn any_conn(&mut self) -> Option<ConnId> {
        for _ in 0..8 {
            let link = self.any_link();
            let side = self.rng.index(2);
            let dialled = |world: &mut Self| {
                let client = world.end_mut((link, 0)).client()?;
                client.attempts.first().map(|attempt| attempt.conn)
            };
            let conn = match self.end((link, side)).standing {
                Some(conn) => Some(conn),
                None => dialled(self),
            };
            if let Some(conn) = conn.filter(|&conn| self.conns[conn].is_live()) {
                return Some(conn);
            }
        }
        None
    }

    /// Something ails a host for `time`.
    fn touch_host(&mut self, host: usize, time: Time) {
        let until = self.now + time;
        for link in &mut self.links {
            if link.client_host == host || link.server_host == host {
                link.touch(until);
            }
        }
    }

    /// What waits for the connection that a session dials next.
    pub(crate) fn ail_new(&mut self, link: usize, conn: ConnId) {
        let state = &mut self.links[link];
        let cut = state.cut_next.take().or(state.choke);
        let corrupt = state.corrupt_next.take();
        let forges = std::mem::take(&mut state.forge_next);
        self.conns[conn].cut_at = cut;
        self.conns[conn].forged = forges;
        if forges || corrupt.is_some() {
            state.touch(self.now);
        }
        if let Some((harm, side)) = corrupt {
            self.set_corrupt(conn, harm, side, true);
        }
    }

    /// An end has said these words over `conn`: they may be the ones that somebody waits for.
    pub(crate) fn strike(&mut self, (link, side): EndId, conn: ConnId, words: &[Word]) {
        if let Some((word, from, kind)) = self.links[link].aim
            && from == side
            && words.contains(&word)
        {
            self.links[link].aim = None;
            self.stats.aimed += 1;
            self.cut(conn, kind);
        }
    }

    fn dig(&mut self, from: [bool; 2], time: Time) {
        let (client, server) = (self.any_client(), self.any_server());
        let hosts = [client, server];
        let until = self.now + time;
        self.note(On::Host(client), "nothing passes to or from the host, for", server as u64, time);
        for side in (0..2).filter(|&side| from[side]) {
            self.holes.push(Hole { hosts, from: side, until });
        }
        for link in &mut self.links {
            if link.client_host == client && link.server_host == server {
                link.touch(until);
            }
        }
        for conn in 0..self.conns.len() {
            if self.conns[conn].hosts == hosts && self.conns[conn].is_live() {
                self.expire(conn);
            }
        }
    }

    fn client_moves(&mut self) {
        let host = self.any_client();
        self.note(On::Host(host), "gets another address", 0, 0);
        self.touch_host(host, 0);
        for conn in 0..self.conns.len() {
            if self.conns[conn].hosts[0] == host && self.conns[conn].is_live() {
                let kind = if self.rng.chance(1, 2) { CutKind::Dead } else { CutKind::ResetOne(0) };
                self.cut(conn, kind);
            }
        }
        for link in 0..self.links.len() {
            let is_told = self.links[link].client_host == host && self.rng.chance(1, 2);
            let id = (link, 0);
            if is_told && self.end(id).is_alive() && self.procs[self.end(id).proc].alive {
                self.dial(id);
                self.arm(id);
            }
        }
    }

    fn server_moves(&mut self, tells: bool) {
        let host = self.any_server();
        self.touch_host(host, 0);
        let Some(new) = self.hosts[host].spare.pop() else { return };
        self.addrs[new].up = true;
        self.hosts[host].addrs.push(new);
        let old = self.hosts[host].addrs.remove(0);
        self.note(On::Host(host), "moves from, to", old as u64, new as u64);
        let addrs: Vec<_> =
            self.hosts[host].addrs.iter().map(|&addr| Self::socket_addr(addr)).collect();
        let proc = self.hosts[host].listener;
        for link in 0..self.links.len() {
            let id = (link, 1);
            if tells && self.end(id).proc == proc && self.end(id).is_alive() {
                if let Some(core) = &mut self.end_mut(id).core {
                    core.tx.want_addrs(&addrs);
                }
                self.pump(id);
            }
        }
        if tells && self.rng.chance(1, 2) {
            // The old one stays for those who have not heard.
            self.hosts[host].addrs.push(old);
            return;
        }
        self.addrs[old].up = false;
        for conn in 0..self.conns.len() {
            if self.conns[conn].addr == old && self.conns[conn].is_live() {
                self.cut(conn, CutKind::Dead);
            }
        }
    }

    fn suspend(&mut self, host: usize, time: Time, jumps: bool) {
        self.note(On::Host(host), "is suspended for", time, jumps.into());
        self.touch_host(host, time);
        let state = &mut self.hosts[host];
        if state.suspended_until > self.now {
            return;
        }
        state.suspended_until = self.now + time;
        if !jumps {
            // Nobody reads the clock before the host wakes.
            state.skew += time;
        }
        for conn in 0..self.conns.len() {
            if self.conns[conn].hosts.contains(&host) && self.conns[conn].is_live() {
                self.expire(conn);
            }
        }
    }

    fn kill(&mut self, host: usize) {
        let proc = self.hosts[host].listener;
        if !self.procs[proc].alive {
            return;
        }
        self.note(On::Proc(proc), "dies", 0, 0);
        self.procs[proc].alive = false;
        self.procs[proc].serving = None;
        for link in 0..self.links.len() {
            for side in 0..2 {
                let end = self.end((link, side));
                let is_born = end.core.is_some() || side == 0 && self.has_begun(link);
                if end.proc == proc && is_born && end.ending.is_none() {
                    self.finish((link, side), Ending::Killed);
                }
            }
        }
        for conn in 0..self.conns.len() {
            for side in 0..2 {
                if self.conns[conn].procs[side] == proc && self.conns[conn].established[side] {
                    self.close(conn, side);
                }
            }
        }
    }

    fn has_begun(&self, link: usize) -> bool {
        let plan = &self.plan.links[link];
        plan.at + plan.scripts[0].delay <= self.now
    }

    pub(crate) fn on_restart(&mut self, host: usize) {
        if self.procs[self.hosts[host].listener].alive {
            return;
        }
        let is_server = host >= self.plan.clients;
        let proc = self.spawn(host, is_server);
        self.hosts[host].listener = proc;
        self.note(On::Proc(proc), "is started on host", host as u64, 0);
    }

    fn goaway(&mut self) {
        let host = self.any_server();
        let proc = self.hosts[host].listener;
        self.note(On::Proc(proc), "asks its clients to go elsewhere", 0, 0);
        for link in 0..self.links.len() {
            let id = (link, 1);
            let end = self.end_mut(id);
            if end.proc == proc && end.is_alive() && end.is_taken() {
                if let Some(core) = &mut end.core {
                    core.tx.want_goaway();
                }
                self.pump(id);
            }
        }
    }

    /// The network is well from now on: what lasted ends, and nothing new begins.
    pub(crate) fn on_heal(&mut self) {
        self.note(On::World, "the network is well", 0, 0);
        self.healed = true;
        for link in &mut self.links {
            (link.cut_next, link.choke, link.corrupt_next) = (None, None, None);
            (link.forge_next, link.aim) = (false, None);
        }
        for conn in &mut self.conns {
            conn.cut_at = None;
        }
        for link in 0..self.links.len() {
            (0..2).for_each(|side| self.wake_program((link, side)));
        }
    }

    // -----------------------------------------------------------------------------------------
    // Strangers

    pub(crate) fn on_attack(&mut self, index: usize) {
        let (_, attack) = self.plan.attacks[index];
        let host = self.any_server();
        let Some(&addr) = self.hosts[host].addrs.first() else { return };
        let said = self.any_said();
        let tale: Vec<u8> = match attack {
            Attack::Replay => said.concat(),
            Attack::ReplayFirst | Attack::Trickle => said.into_iter().take(1).flatten().collect(),
            Attack::Garbage => {
                let mut bytes = said.into_iter().flatten().collect::<Vec<u8>>();
                let at = self.rng.index(bytes.len() + 1);
                bytes.truncate(at);
                for _ in 0..self.rng.below(40) {
                    bytes.extend(self.rng.bytes());
                }
                bytes
            }
            Attack::Silence => Vec::new(),
        };
        let here = self.hosts.len() - 1;
        let proc = self.hosts[here].listener;
        let conn = self.connect(STRANGE, [here, host], proc, addr);
        self.stats.attacks += 1;
        self.conns[conn].tale = tale.into();
        let slowly = matches!(attack, Attack::Trickle);
        self.conns[conn].epoch = slowly.into();
        self.push(self.now + MS, Event::Tale(conn));
    }

    /// The client's messages of some connection, as somebody on the path recorded them.
    fn any_said(&mut self) -> Vec<Vec<u8>> {
        for _ in 0..8 {
            let conn = self.rng.index(self.conns.len());
            if let Some(conn) = self.conns.get(conn).filter(|conn| !conn.said.is_empty()) {
                return conn.said.clone();
            }
        }
        Vec::new()
    }

    /// The stranger says the next part of what it has to say.
    pub(crate) fn on_tale(&mut self, id: ConnId) {
        let conn = &mut self.conns[id];
        if conn.closed[0] || conn.err[0] || conn.tale.is_empty() {
            return;
        }
        let slowly = conn.epoch == 1;
        if conn.established[0] {
            let n = if slowly { 1 } else { conn.tale.len() };
            let bytes: Vec<u8> = conn.tale.drain(..n).collect();
            self.send(id, 0, bytes, true);
        }
        let wait = if slowly { 300 * MS } else { S };
        if self.now < self.plan.heal_at + 60 * S {
            self.push(self.now + wait, Event::Tale(id));
        }
    }

    /// What somebody on the path says in the server's place.
    pub(crate) fn forged_word(&mut self, length: usize) -> Vec<u8> {
        const REASONS: [Reason; 8] = [
            Reason::UnknownSession,
            Reason::DataLost,
            Reason::Expired,
            Reason::Closed,
            Reason::OldEpoch,
            Reason::Busy,
            Reason::Key,
            Reason::Reset,
        ];
        match self.rng.below(3) {
            0 if !self.overheard.is_empty() => {
                let at = self.rng.index(self.overheard.len());
                self.overheard[at].clone()
            }
            1 => self.rng.bytes().repeat(length / 32 + 1),
            _ => {
                let retry = Duration::from_millis(self.rng.below(1 << 32));
                Reject::plain(REASONS[self.rng.index(8)], retry).encode()
            }
        }
    }
}
