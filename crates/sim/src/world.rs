//! All that is simulated, and what happens in it one event after another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use eversock_proto::log::Pool;
use eversock_proto::secret::PresharedKey;

use crate::check::Finding;
use crate::end::{Client, End, Ending, First, Link, Server};
use crate::net::{Conn, ConnId, EndId};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::server::Serving;
use crate::trace::{On, S, Time, Trace};
use crate::{Bug, Options, Stats};

/// What happens by itself. Conns are named by their place, sides by 0 (client's) and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Syn(ConnId),
    Established(ConnId),
    Arrive(ConnId, usize),
    Rst(ConnId, usize),
    Writable(ConnId, usize),
    KernelTimeout(ConnId, usize, u64),
    Keepalive(ConnId, usize),
    ProxyCloses(ConnId),
    Ready(ConnId, usize),
    Timer(EndId),
    Program(EndId),
    Begin(usize),
    ServerTick(usize),
    Restart(usize),
    Fault(usize),
    Attack(usize),
    Tale(ConnId),
    Heal,
    Closing,
    Judge,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Hole {
    pub(crate) hosts: [usize; 2],
    pub(crate) from: usize,
    pub(crate) until: Time,
}

#[derive(Debug, Default)]
pub(crate) struct Host {
    /// By how much its clock is behind.
    pub(crate) skew: Time,
    pub(crate) suspended_until: Time,
    /// The process that listens there.
    pub(crate) listener: usize,
    /// The addresses that are up.
    pub(crate) addrs: Vec<usize>,
    pub(crate) spare: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Proc {
    pub(crate) host: usize,
    pub(crate) alive: bool,
    pub(crate) paused_until: Time,
    pub(crate) pool: Arc<Pool>,
    pub(crate) serving: Option<Box<Serving>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Addr {
    pub(crate) host: usize,
    pub(crate) up: bool,
}

/// The whole system.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Time,
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    pub(crate) stats: Stats,
    pub(crate) finding: Option<Finding>,
    pub(crate) bug: Option<Bug>,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    events: u64,
    pub(crate) conns: Vec<Conn>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) procs: Vec<Proc>,
    pub(crate) addrs: Vec<Addr>,
    pub(crate) links: Vec<Link>,
    pub(crate) holes: Vec<Hole>,
    pub(crate) slow_until: Time,
    pub(crate) slow_host: usize,
    pub(crate) slow_by: Time,
    pub(crate) lossy_until: Time,
    pub(crate) lossy_percent: u64,
    pub(crate) busy_until: BTreeMap<usize, Time>,
    pub(crate) refuse_until: Vec<Time>,
    pub(crate) healed: bool,
    pub(crate) closing: bool,
    /// Handshake messages of servers that went over the network, for those who say them again.
    pub(crate) overheard: Vec<Vec<u8>>,
    pub(crate) instances: u64,
    /// What the keys of sealed epochs were made of, and the side that has used them.
    pub(crate) roots: BTreeSet<(usize, [u8; 32])>,
}

/// Well-behaved programs have ended so long after the network is well again.
const CLOSING_AFTER: Time = 400 * S;
/// No run takes more events; a run that does goes in circles.
const EVENTS_MAX: u64 = 4_000_000;
/// No moment has more events; where one does, time stands still.
const EVENTS_PER_MOMENT_MAX: u64 = 50_000;

impl World {
    pub(crate) fn new(seed: u64, options: &Options) -> Self {
        let plan = Plan::new(seed);
        let rng = Rng::new(seed, 2);
        let hosts = plan.clients + plan.servers + 1;
        let mut world = Self {
            now: 0,
            rng,
            trace: Trace::new(options.trace),
            stats: Stats::default(),
            finding: None,
            bug: options.bug,
            queue: BinaryHeap::new(),
            events: 0,
            conns: Vec::new(),
            hosts: (0..hosts).map(|_| Host::default()).collect(),
            procs: Vec::new(),
            addrs: Vec::new(),
            links: Vec::new(),
            holes: Vec::new(),
            slow_until: 0,
            slow_host: 0,
            slow_by: 0,
            lossy_until: 0,
            lossy_percent: 0,
            busy_until: BTreeMap::new(),
            refuse_until: Vec::new(),
            healed: false,
            closing: false,
            overheard: Vec::new(),
            instances: 1,
            roots: BTreeSet::new(),
            plan,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        for host in 0..self.hosts.len() {
            let is_server = host >= self.plan.clients && host + 1 < self.hosts.len();
            let proc = self.spawn(host, is_server);
            self.hosts[host].listener = proc;
            if is_server {
                for n in 0..self.plan.server_addrs + 3 {
                    let up = n < self.plan.server_addrs;
                    let list = &mut self.hosts[host];
                    if up { &mut list.addrs } else { &mut list.spare }.push(self.addrs.len());
                    self.addrs.push(Addr { host, up });
                }
            }
        }
        for index in 0..self.plan.links.len() {
            let plan = &self.plan.links[index];
            let (client_host, server_host) = (plan.client, self.plan.clients + plan.server);
            let at = plan.at + plan.scripts[0].delay;
            let [at_client, at_server] = plan.scripts.clone();
            let known = self.hosts[server_host].addrs.clone();
            // A name that is looked up gives the first addresses; more are told by the server.
            let known = known[..self.rng.between(1, known.len() as u64) as usize].to_vec();
            let client = Client { known, ..Client::default() };
            let procs = [self.hosts[client_host].listener, self.hosts[server_host].listener];
            self.links.push(Link {
                ends: [
                    End::new(procs[0], at_client, First::Client(Box::new(client))),
                    End::new(procs[1], at_server, First::Server(Server::default())),
                ],
                server_host,
                client_host,
                tainted: false,
                touched: None,
                forgotten: false,
                turned_away: false,
                unburied: false,
                overtaken: false,
                overslept: false,
                root: None,
                cuts: 0,
                cut_next: None,
                choke: None,
                aim: None,
                corrupt_next: None,
                forge_next: false,
                sessions_made: 0,
            });
            self.push(at, Event::Begin(index));
        }
        for index in 0..self.plan.faults.len() {
            self.push(self.plan.faults[index].0, Event::Fault(index));
        }
        for index in 0..self.plan.attacks.len() {
            self.push(self.plan.attacks[index].0, Event::Attack(index));
        }
        let heal = self.plan.heal_at;
        let give_up = self.plan.give_up.max(self.plan.grace);
        self.push(heal, Event::Heal);
        self.push(heal + CLOSING_AFTER, Event::Closing);
        // A closed end lingers, its peer may then have to find out that it is gone.
        let last = heal + CLOSING_AFTER + self.plan.linger + 2 * give_up + 300 * S;
        self.push(last, Event::Judge);
    }

    pub(crate) fn spawn(&mut self, host: usize, is_server: bool) -> usize {
        let pool = Arc::new(Pool::default());
        if let Some(cap) = self.plan.cap {
            pool.set_cap(cap);
        }
        self.instances += 1;
        let serving = is_server.then(|| Box::new(Serving::new(self.instances)));
        let paused_until = 0;
        self.procs.push(Proc { host, alive: true, paused_until, pool, serving });
        self.refuse_until.push(0);
        self.procs.len() - 1
    }

    pub(crate) fn push(&mut self, at: Time, event: Event) {
        self.events += 1;
        self.queue.push(Reverse((at, self.events, event)));
    }

    pub(crate) fn note(&mut self, on: On, what: &'static str, a: u64, b: u64) {
        self.trace.note(self.now, on, what, a, b);
    }

    /// Takes the run to its end, or to its first finding.
    pub(crate) fn run(&mut self) {
        let mut at_once = 0;
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            at_once = if at > self.now { 0 } else { at_once + 1 };
            self.now = self.now.max(at);
            if at_once > EVENTS_PER_MOMENT_MAX {
                let what = format!("time stands still, lately with {event:?}");
                self.find(0, On::World, &what);
                return;
            }
            if event == Event::Judge {
                self.judge();
                return;
            }
            if let Some(until) = self.asleep(event) {
                self.push(until, event);
                continue;
            }
            self.handle(event);
            if self.finding.is_some() {
                return;
            }
            if self.closing && self.links.iter().all(|link| self.is_settled(link)) {
                self.judge();
                return;
            }
            if self.events > EVENTS_MAX {
                let what = format!("the run goes in circles, lately with {event:?}");
                self.find(0, On::World, &what);
                return;
            }
        }
    }

    fn is_settled(&self, link: &Link) -> bool {
        let [client, server] = &link.ends;
        client.ending.is_some() && (server.core.is_none() || server.ending.is_some())
    }

    /// Until when nobody is there who could take notice of `event`.
    fn asleep(&self, event: Event) -> Option<Time> {
        let of_proc = |id: usize| {
            let proc = &self.procs[id];
            proc.paused_until.max(self.hosts[proc.host].suspended_until)
        };
        let of_host = |id: usize| self.hosts[id].suspended_until;
        let until = match event {
            Event::Syn(conn) => of_host(self.conns[conn].hosts[1]),
            Event::Established(conn) => of_host(self.conns[conn].hosts[0]),
            Event::Arrive(conn, side)
            | Event::Rst(conn, side)
            | Event::KernelTimeout(conn, side, _)
            | Event::Keepalive(conn, side) => of_host(self.conns[conn].hosts[side]),
            Event::Ready(conn, side) | Event::Writable(conn, side) => {
                of_proc(self.conns[conn].procs[side])
            }
            Event::Timer((link, side)) | Event::Program((link, side)) => {
                of_proc(self.links[link].ends[side].proc)
            }
            Event::Begin(link) => of_proc(self.links[link].ends[0].proc),
            Event::ServerTick(proc) => of_proc(proc),
            _ => 0,
        };
        (until > self.now).then_some(until)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Syn(conn) => self.on_syn(conn),
            Event::Established(conn) => self.on_established(conn),
            Event::Arrive(conn, to) => self.on_arrive(conn, to),
            Event::Rst(conn, side) => self.on_rst(conn, side),
            Event::Writable(conn, side) => self.wake(conn, side),
            Event::KernelTimeout(conn, side, n) => self.on_kernel_timeout(conn, side, n),
            Event::Keepalive(conn, side) => self.on_keepalive(conn, side),
            Event::ProxyCloses(conn) => self.on_proxy_closes(conn),
            Event::Ready(conn, side) => self.on_ready(conn, side),
            Event::Timer(end) => self.on_timer(end),
            Event::Program(end) => self.on_program(end),
            Event::Begin(link) => self.begin(link),
            Event::ServerTick(proc) => self.on_server_tick(proc),
            Event::Restart(host) => self.on_restart(host),
            Event::Fault(index) => self.on_fault(index),
            Event::Attack(index) => self.on_attack(index),
            Event::Tale(conn) => self.on_tale(conn),
            Event::Heal => self.on_heal(),
            Event::Closing => self.on_closing(),
            Event::Judge => self.judge(),
        }
    }

    /// The clock of the host that a process runs on.
    pub(crate) fn clock(&self, proc: usize) -> Time {
        self.now.saturating_sub(self.hosts[self.procs[proc].host].skew)
    }

    pub(crate) fn end(&self, (link, side): EndId) -> &End {
        &self.links[link].ends[side]
    }

    pub(crate) fn end_mut(&mut self, (link, side): EndId) -> &mut End {
        &mut self.links[link].ends[side]
    }

    pub(crate) fn local(&self, end: EndId) -> Time {
        self.clock(self.end(end).proc)
    }

    pub(crate) fn key(&self) -> Option<PresharedKey> {
        self.plan.keyed.then_some(PresharedKey([9; 32]))
    }

    /// Looks again at an end when the next of its deadlines comes.
    pub(crate) fn arm(&mut self, id: EndId) {
        let Some(due) = self.next_deadline(id) else { return };
        let skew = self.now - self.local(id);
        let at = (due + skew).max(self.now);
        let end = self.end_mut(id);
        if at < end.armed {
            end.armed = at;
            self.push(at, Event::Timer(id));
        }
    }

    fn next_deadline(&self, id: EndId) -> Option<Time> {
        let end = self.end(id);
        if end.ending.is_some() {
            return None;
        }
        let own = [end.linger_until, end.sweep_at, end.start_by];
        let role = match &end.first {
            First::Client(_) => self.client_deadline(id),
            First::Server(server) => server.grace_at,
        };
        own.into_iter().chain([role, self.record_due(id)]).flatten().min()
    }

    fn on_timer(&mut self, id: EndId) {
        if self.end(id).armed > self.now {
            return;
        }
        self.end_mut(id).armed = Time::MAX;
        if self.end(id).ending.is_some() {
            return;
        }
        let now = self.local(id);
        let end = self.end_mut(id);
        if end.sweep_at.is_some_and(|at| at <= now) {
            end.sweep_at = None;
            if let Some(core) = &mut end.core {
                core.sweep();
            }
        }
        if end.start_by.is_some_and(|at| at <= now) {
            end.start_by = None;
            // A program that does not read leaves START in the kernel's queue.
            self.read_ahead(id);
            let end = self.end(id);
            let started = end.core.as_ref().is_some_and(|core| core.rx.has_started());
            if let Some(conn) = end.standing.filter(|_| !started) {
                self.note(On::End(id.0, id.1), "no START came", conn as u64, 0);
                self.close(conn, id.1);
                self.lose(id);
            }
        }
        if self.record_due(id).is_some_and(|at| at <= now) {
            self.record_is_late(id);
        }
        match id.1 {
            0 => self.client_due(id),
            _ => self.server_due(id),
        }
        self.pump(id);
    }

    pub(crate) fn random(&mut self) -> u32 {
        self.rng.draw() as u32
    }

    pub(crate) fn has_bug(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(crate) fn is_over(&self, id: EndId) -> bool {
        self.end(id).ending.is_some()
    }

    pub(crate) fn socket_addr(addr: usize) -> SocketAddr {
        let ip = Ipv4Addr::new(10, 0, (addr >> 8) as u8, addr as u8);
        SocketAddr::new(ip.into(), 7000)
    }

    /// The place of an address in the list, unless it is none of ours.
    pub(crate) fn addr_of(&self, addr: SocketAddr) -> Option<usize> {
        let IpAddr::V4(ip) = addr.ip() else { return None };
        let [a, b, high, low] = ip.octets();
        let index = usize::from(high) << 8 | usize::from(low);
        ([a, b] == [10, 0] && addr.port() == 7000 && index < self.addrs.len()).then_some(index)
    }

    fn on_closing(&mut self) {
        self.note(On::World, "all programs are asked to end", 0, 0);
        self.check_orderly();
        self.closing = true;
        for link in 0..self.links.len() {
            for side in 0..2 {
                self.wake_program((link, side));
            }
        }
    }

    pub(crate) fn finish(&mut self, id: EndId, ending: Ending) {
        let on = On::End(id.0, id.1);
        if self.is_over(id) {
            self.find(1, on, "a session ends twice");
            return;
        }
        self.note(on, ending.name(), 0, 0);
        self.stats.endings[ending.index()] += 1;
        self.check_ending(id, ending);
        let now = self.now;
        let end = self.end_mut(id);
        end.ending = Some(ending);
        end.ended_at = now;
        let standing = end.standing.take();
        let attempts = end.client().map(|client| {
            client.retry_at = None;
            std::mem::take(&mut client.attempts)
        });
        let conns = attempts.into_iter().flatten().map(|attempt| attempt.conn);
        for conn in conns.chain(standing).collect::<Vec<_>>() {
            self.close(conn, id.1);
        }
        if id.1 == 1 && ending != Ending::Killed {
            self.bury(id, ending);
        }
        self.wake_program(id);
    }
}
