//! What a seed decides: the machines, the programs, and what will ail them.

use eversock_proto::open::Sealing;

use crate::rng::Rng;
use crate::said::Word;
use crate::trace::{MS, S, Time};

/// What a program does with its socket.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// When it begins (a client: to connect; a server: to take the session), from the time at which
    /// it could.
    pub(crate) delay: Time,
    pub(crate) writes: u64,
    pub(crate) chunk: usize,
    /// The pause behind each write and read, at most.
    pub(crate) pause: Time,
    pub(crate) read_chunk: usize,
    /// It reads so much and then closes; 0 is a program that never reads.
    pub(crate) reads: u64,
    /// What it does behind its last write.
    pub(crate) then: Then,
    /// It resets the session when it has written so much.
    pub(crate) reset_at: Option<u64>,
    /// It reads from the connection itself rather than by way of the stash.
    pub(crate) direct: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Says that it is done, and reads on.
    HalfClose,
    /// Closes, whatever may still come.
    Close,
    /// Leaves the session open until all programs are asked to end.
    Hold,
}

impl Script {
    /// True when the program by itself reads and writes to the end of both directions.
    pub(crate) fn is_orderly(&self) -> bool {
        self.then == Then::HalfClose && self.reads == u64::MAX && self.reset_at.is_none()
    }
}

/// One session that a client's program asks for.
#[derive(Clone, Debug)]
pub(crate) struct LinkPlan {
    pub(crate) client: usize,
    pub(crate) server: usize,
    pub(crate) at: Time,
    pub(crate) scripts: [Script; 2],
    pub(crate) window: [u64; 2],
    pub(crate) window_max: [u64; 2],
    /// Dials two addresses at once where it knows as many.
    pub(crate) races: bool,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutKind {
    /// Both kernels see a reset.
    Reset,
    /// One side sees a reset; what it had sent may still arrive, late.
    ResetOne(usize),
    /// A middlebox sends bare FINs.
    Fin,
    /// One side sees a bare FIN, the other nothing.
    FinOne(usize),
    /// Nothing passes any more, and nobody is told.
    Dead,
    /// Nothing passes in the direction that begins at this side.
    DeadOneWay(usize),
    /// A proxy in the middle goes on confirming what it can no longer pass on; later it closes.
    Proxy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    Flip,
    Drop,
    Insert,
    /// The same bytes come twice.
    Repeat,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The connection that some session stands on, or dials.
    Cut(CutKind),
    /// The same for the connection that a session dials next, at a byte.
    CutNext {
        kind: CutKind,
        from: usize,
        byte: u64,
    },
    /// The same for each connection that it dials until the network is well.
    Choke {
        kind: CutKind,
        from: usize,
        byte: u64,
    },
    /// The connection on which an end says the word next, as soon as it has.
    CutWord {
        word: Word,
        from: usize,
        kind: CutKind,
    },
    /// Everything that stands on one server.
    CutAll(CutKind),
    /// Nothing passes between two hosts; from the client's side, from the server's, or both.
    Hole {
        from: [bool; 2],
        time: Time,
    },
    Slow {
        by: Time,
        time: Time,
    },
    Loss {
        percent: u64,
        time: Time,
    },
    ClientMoves,
    ServerMoves {
        tells: bool,
    },
    Pause {
        server: bool,
        time: Time,
    },
    Suspend {
        server: bool,
        time: Time,
        jumps: bool,
    },
    Kill {
        server: bool,
        back: Time,
    },
    Busy {
        time: Time,
    },
    Refuse {
        time: Time,
    },
    Goaway,
    /// Bytes of frames are changed under way.
    Corrupt(Harm),
    /// Bytes of the next handshakes of a session are changed under way.
    CorruptHello(Harm),
    /// The server's word in a session's next handshake is replaced by a forged or recorded one.
    Forge,
    /// The client dials beside its connection, as on a hint from the network.
    Beside,
    /// An end goes to another process of its host, as bytes.
    HandOver,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Attack {
    /// Recorded client's messages of some connection, all of them.
    Replay,
    /// Only the first of them, and then silence.
    ReplayFirst,
    Garbage,
    Silence,
    /// A recorded message, a byte at a time.
    Trickle,
}

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) clients: usize,
    pub(crate) servers: usize,
    /// Addresses of each server, and spare ones that it may move to.
    pub(crate) server_addrs: usize,
    pub(crate) keyed: bool,
    /// Whether clients and servers want sessions sealed, and whether they have instructions for
    /// AES.
    pub(crate) sealing: [Sealing; 2],
    pub(crate) aes: [bool; 2],
    pub(crate) links: Vec<LinkPlan>,
    pub(crate) faults: Vec<(Time, Fault)>,
    pub(crate) attacks: Vec<(Time, Attack)>,
    /// After this no fault begins, and what still lasts ends.
    pub(crate) heal_at: Time,
    pub(crate) latency: Time,
    pub(crate) jitter: Time,
    pub(crate) kernel_bytes: usize,
    /// One segment in so many is lost and sent again; 0 for none.
    pub(crate) loss_one_in: u64,
    pub(crate) kernel_timeout: Time,
    pub(crate) keepalive: Time,
    pub(crate) cap: Option<u64>,
    pub(crate) grace: Time,
    pub(crate) give_up: Time,
    pub(crate) attempt: Time,
    pub(crate) linger: Time,
    pub(crate) probe_after: Time,
    pub(crate) sweep: Time,
    pub(crate) unproven_max: usize,
    pub(crate) backlog_max: usize,
    pub(crate) tombs_max: usize,
    /// Slices of a byte or a few now and then.
    pub(crate) slices: bool,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        let rng = &mut rng;
        let servers = if rng.chance(3, 4) { 1 } else { rng.between(2, 3) as usize };
        let clients = if rng.chance(1, 2) { 1 } else { rng.between(2, 4) as usize };
        let links = match rng.below(500) {
            0 => rng.between(100, 300),
            1..8 => rng.between(10, 40),
            8..100 => rng.between(3, 8),
            100..250 => 2,
            _ => 1,
        } as usize;
        let heal_at = rng.scale(2 * S, 120 * S);
        let is_crowd = links > 8;
        let mut plan = Self {
            clients,
            servers,
            server_addrs: rng.between(1, 3) as usize,
            keyed: rng.chance(1, 4),
            sealing: [Sealing::Never; 2],
            aes: [false; 2],
            links: Vec::new(),
            faults: Vec::new(),
            attacks: Vec::new(),
            heal_at,
            latency: rng.scale(100, 100 * MS),
            jitter: if rng.chance(1, 2) { 0 } else { rng.scale(10, 20 * MS) },
            kernel_bytes: match rng.below(8) {
                0 => rng.between(32, 64) as usize,
                1 => 1000,
                2 => 4 * 1024 * 1024,
                _ => 64 * 1024,
            },
            loss_one_in: if rng.chance(1, 3) { rng.between(5, 200) } else { 0 },
            kernel_timeout: rng.scale(15 * S, 900 * S),
            keepalive: rng.between(4 * S, 75 * S),
            cap: rng.chance(1, 6).then(|| rng.below(64 * 1024)),
            grace: rng.scale(20 * S, 900 * S),
            give_up: rng.scale(20 * S, 900 * S),
            attempt: rng.between(2 * S, 10 * S),
            linger: rng.scale(10 * S, 60 * S),
            probe_after: rng.between(5 * S, 30 * S),
            sweep: S,
            unproven_max: rng.between(2, 16) as usize,
            backlog_max: rng.between(4, 128) as usize,
            tombs_max: if rng.chance(1, 8) { 1 } else { 256 },
            slices: !is_crowd && rng.chance(1, 4),
        };
        if plan.kernel_bytes < 1000 && is_crowd {
            plan.kernel_bytes = 1000;
        }
        for _ in 0..links {
            let link = plan.link(rng, is_crowd);
            plan.links.push(link);
        }
        plan.ail(rng);
        plan.attack(rng);
        // Drawn apart, so that a run that is not sealed stays what it was.
        plan.seal(&mut Rng::new(seed, 3));
        plan.take_aim(&mut Rng::new(seed, 4));
        plan.hand_over(&mut Rng::new(seed, 5));
        plan
    }

    /// Sessions of a third of the seeds are sealed, and somebody on the path sees to it.
    fn seal(&mut self, rng: &mut Rng) {
        if !rng.chance(1, 3) {
            if rng.chance(1, 2) {
                self.sealing[1] = Sealing::Either;
            }
            return;
        }
        self.sealing = match rng.below(3) {
            0 => [Sealing::Either, Sealing::Always],
            1 => [Sealing::Always, Sealing::Either],
            _ => [Sealing::Always; 2],
        };
        // No kernel has less than a START takes, or who looks for one at its deadline finds a part.
        self.kernel_bytes = self.kernel_bytes.max(64);
        self.aes = [rng.chance(1, 2), rng.chance(1, 2)];
        if rng.chance(1, 2) {
            return;
        }
        for _ in 0..rng.between(1, 6) {
            let harm = [Harm::Flip, Harm::Drop, Harm::Insert, Harm::Repeat][rng.index(4)];
            self.faults.push((rng.below(self.heal_at), Fault::Corrupt(harm)));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// In a sixth of the seeds somebody on the path waits for the words that are rare, and that
    /// nobody says twice by himself; programs that close and reset are more frequent there.
    fn take_aim(&mut self, rng: &mut Rng) {
        if !rng.chance(1, 6) {
            return;
        }
        const WORDS: [Word; 8] = [
            Word::Start,
            Word::Fin,
            Word::Fin,
            Word::Stop,
            Word::Stop,
            Word::Reset,
            Word::AckOfFin,
            Word::AckOfFin,
        ];
        for _ in 0..rng.between(1, 5) {
            let (word, from) = (WORDS[rng.index(WORDS.len())], rng.index(2));
            let kind = cut_kind(rng);
            let at = rng.scale(1, self.heal_at);
            self.faults.push((at, Fault::CutWord { word, from, kind }));
        }
        self.faults.sort_by_key(|(at, _)| *at);
        for script in self.links.iter_mut().flat_map(|link| &mut link.scripts) {
            match rng.below(8) {
                0 => script.then = Then::Close,
                1 => script.reads = rng.scale(1, script.writes.max(1)),
                2 => script.reset_at = Some(rng.below(script.writes + 1)),
                _ => {}
            }
        }
    }

    /// In an eighth of the seeds ends are handed over.
    fn hand_over(&mut self, rng: &mut Rng) {
        if !rng.chance(1, 8) {
            return;
        }
        for _ in 0..rng.between(1, 8) {
            self.faults.push((rng.below(self.heal_at), Fault::HandOver));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// True when sessions are to be sealed.
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealing[0] != Sealing::Never
    }

    /// The plan in words, for whoever replays a seed.
    pub(crate) fn lines(&self) -> Vec<String> {
        let settings = Self { links: Vec::new(), faults: Vec::new(), attacks: Vec::new(), ..*self };
        let links = self.links.iter().enumerate();
        let links = links.map(|(index, link)| format!("session {index}: {link:?}"));
        std::iter::once(format!("{settings:?}")).chain(links).collect()
    }

    fn link(&self, rng: &mut Rng, is_crowd: bool) -> LinkPlan {
        let window = [pick_window(rng), pick_window(rng)];
        let most = |rng: &mut Rng, window: u64| match rng.below(3) {
            0 => window,
            _ => window << rng.below(5),
        };
        let tiny_kernel = self.kernel_bytes < 1000;
        let within = if rng.chance(1, 2) { 10 * MS } else { self.heal_at / 2 };
        LinkPlan {
            client: rng.index(self.clients),
            server: rng.index(self.servers),
            at: rng.below(within),
            scripts: [self.script(rng, is_crowd, tiny_kernel), {
                let mut script = self.script(rng, is_crowd, tiny_kernel);
                script.delay = if rng.chance(3, 4) { 0 } else { rng.scale(MS, 8 * S) };
                script
            }],
            window,
            window_max: window.map(|window| most(rng, window)),
            races: rng.chance(1, 4),
        }
    }

    fn script(&self, rng: &mut Rng, is_crowd: bool, tiny_kernel: bool) -> Script {
        let most = if tiny_kernel {
            1_500
        } else if is_crowd {
            6_000
        } else {
            160_000
        };
        let writes = if rng.chance(1, 8) { 0 } else { rng.scale(1, most) };
        // Writes take about as long as the faults last, so that cuts meet bytes under way.
        let steps = rng.between(1, 24);
        let chunk = (writes / steps + 1).max(writes / 64) as usize;
        let pause = match rng.below(4) {
            0 => 0,
            1 => rng.scale(10, 20 * MS),
            _ => self.heal_at / (steps + 1),
        };
        let then = match rng.below(12) {
            0 => Then::Close,
            1 => Then::Hold,
            _ => Then::HalfClose,
        };
        Script {
            delay: 0,
            writes,
            chunk,
            pause,
            read_chunk: rng.scale(1, 64 * 1024).max(writes / 64) as usize,
            reads: match rng.below(20) {
                0 => 0,
                1 => rng.scale(1, most),
                _ => u64::MAX,
            },
            then,
            reset_at: rng.chance(1, 24).then(|| rng.below(writes + 1)),
            direct: rng.chance(1, 2),
        }
    }

    /// Each seed enables a few kinds of fault only, so that each kind also meets runs in which it
    /// has no rivals.
    fn ail(&mut self, rng: &mut Rng) {
        if rng.chance(1, 12) {
            return;
        }
        let kinds = 17;
        let mut enabled: Vec<u64> = (0..kinds).filter(|_| rng.chance(1, 4)).collect();
        if enabled.is_empty() || rng.chance(1, 3) {
            enabled.push(0);
        }
        let count = match rng.below(8) {
            0 => rng.between(15, 40),
            1 | 2 => rng.between(6, 15),
            _ => rng.between(1, 6),
        };
        for _ in 0..count {
            let at = rng.below(self.heal_at);
            let kind = enabled[rng.index(enabled.len())];
            let fault = self.fault(rng, kind);
            self.faults.push((at, fault));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    fn fault(&self, rng: &mut Rng, kind: u64) -> Fault {
        let left = self.heal_at;
        let harm = [Harm::Flip, Harm::Drop, Harm::Insert][rng.index(3)];
        let server = rng.chance(1, 2);
        match kind {
            0 => Fault::Cut(cut_kind(rng)),
            1 => Fault::CutNext {
                kind: cut_kind(rng),
                from: rng.index(2),
                byte: if rng.chance(1, 2) { rng.below(400) } else { rng.scale(1, 100_000) },
            },
            2 => Fault::CutAll(cut_kind(rng)),
            3 => {
                let from = [[true, true], [true, false], [false, true]][rng.index(3)];
                Fault::Hole { from, time: rng.scale(100 * MS, left) }
            }
            4 if rng.chance(1, 2) => {
                Fault::Slow { by: rng.scale(MS, 3 * S), time: rng.scale(MS, left) }
            }
            4 => Fault::Loss { percent: rng.between(1, 40), time: rng.scale(MS, left) },
            5 => Fault::ClientMoves,
            6 => Fault::ServerMoves { tells: rng.chance(1, 2) },
            7 => Fault::Pause { server, time: rng.scale(10 * MS, 60 * S) },
            8 => Fault::Suspend {
                server,
                time: rng.scale(100 * MS, 3600 * S),
                jumps: rng.chance(1, 2),
            },
            9 => Fault::Kill { server, back: rng.scale(MS, 20 * S) },
            10 if rng.chance(1, 2) => Fault::Busy { time: rng.scale(10 * MS, 20 * S) },
            10 => Fault::Refuse { time: rng.scale(10 * MS, 20 * S) },
            11 => Fault::Goaway,
            12 if rng.chance(1, 4) => Fault::Corrupt(harm),
            12 | 13 => Fault::CorruptHello(harm),
            14 => Fault::Forge,
            15 => Fault::Choke {
                kind: cut_kind(rng),
                from: rng.index(2),
                // Just behind the handshake, or anywhere near it.
                byte: if rng.chance(2, 3) { rng.between(89, 170) } else { rng.between(1, 2000) },
            },
            _ => Fault::Beside,
        }
    }

    fn attack(&mut self, rng: &mut Rng) {
        if rng.chance(2, 3) {
            return;
        }
        let count = if rng.chance(1, 6) { rng.between(20, 120) } else { rng.between(1, 12) };
        // Attackers do not stop when the network is well again.
        let end = self.heal_at + 20 * S;
        for _ in 0..count {
            let attack = match rng.below(6) {
                0 | 1 => Attack::Replay,
                2 => Attack::ReplayFirst,
                3 => Attack::Garbage,
                4 => Attack::Silence,
                _ => Attack::Trickle,
            };
            self.attacks.push((rng.below(end), attack));
        }
        self.attacks.sort_by_key(|(at, _)| *at);
    }
}

fn pick_window(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => 16 * 1024,
        1 => 20 * 1024,
        2 => 64 * 1024,
        _ => 256 * 1024,
    }
}

fn cut_kind(rng: &mut Rng) -> CutKind {
    match rng.below(8) {
        0 | 1 => CutKind::Reset,
        2 => CutKind::ResetOne(rng.index(2)),
        3 => CutKind::Fin,
        4 => CutKind::FinOne(rng.index(2)),
        5 => CutKind::Dead,
        6 => CutKind::DeadOneWay(rng.index(2)),
        _ => CutKind::Proxy,
    }
}
