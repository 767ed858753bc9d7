//! Whole systems of eversock in virtual time.
//!
//! One seed is one run: it decides the machines, the processes, their sessions, what the programs
//! do with them, and what ails the network, the machines and the processes meanwhile. The protocol
//! is the real one (`eversock-proto`); the network is a model; what the engine decides around the
//! protocol (when to dial, whom to answer, what to keep) is modelled as thinly as it will go. At
//! some moment everything is well again: from then on each session has to complete, or has failed
//! with one error that is true.
//!
//! There is no clock, no thread and no other randomness: a seed takes the same steps each time,
//! which [`Outcome::hash`] shows.
//!
//! * `plan.rs`: what a seed decides. `world.rs`: the events. `net.rs`: connections.
//! * `core.rs`, `flow.rs`, `client.rs`, `server.rs`: an end of a session and what is around it.
//! * `program.rs`: what the programs do. `fault.rs`: what goes wrong, attackers included.
//! * `check.rs`: what must hold; `said.rs`: what an end may say.
#![forbid(unsafe_code)]

mod check;
mod client;
mod core;
mod end;
mod fault;
mod flow;
mod net;
mod plan;
mod program;
mod rng;
mod said;
mod server;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use check::Finding;

use end::Ending;
use trace::On;
use world::World;

/// Bugs that can be planted, to see that the checks find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The first byte behind each resume does not reach the program.
    DropsByteAtResume,
    /// The first byte behind each resume reaches the program twice.
    DeliversTwice,
    /// A client goes on one byte behind the offset that its server has quoted.
    ReplaysFromTheWrongPlace,
    /// The connection of an old epoch still delivers when a new one stands.
    OldEpochDelivers,
    /// An end gives credit and tells no acks.
    TellsNoAcks,
    /// An idle end never tells what it has not told yet.
    NoSweep,
    /// A client believes refusals that prove nothing.
    BelievesUnprovenRefusals,
    /// The end of a connection is taken for the end of the stream.
    EndOfFileIsEnd,
    /// What the kernel has taken is forgotten as if the peer had it.
    KernelsAckIsAck,
    /// A server ends the old connection before the new one is proven.
    ActsBeforeConfirm,
    /// A listener takes part in any number of handshakes at a time.
    UnboundedHandshakes,
    /// A sealed session has the keys of its first epoch for its whole life.
    KeysOutliveTheirEpoch,
    /// Behind a resume an end announces the room that is left instead of an edge that never falls.
    RetractsEdge,
    /// STOP and RESET are said in one epoch only.
    LastWordsDie,
    /// The ack of the last byte is taken for that of the FIN.
    LastByteIsEnd,
    /// The grace of an outage counts from the first one.
    GraceIsNotRestarted,
    /// A server that is done forgets the session at once.
    NoTombstones,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::DropsByteAtResume,
        Self::DeliversTwice,
        Self::ReplaysFromTheWrongPlace,
        Self::OldEpochDelivers,
        Self::TellsNoAcks,
        Self::NoSweep,
        Self::BelievesUnprovenRefusals,
        Self::EndOfFileIsEnd,
        Self::KernelsAckIsAck,
        Self::ActsBeforeConfirm,
        Self::UnboundedHandshakes,
        Self::KeysOutliveTheirEpoch,
        Self::RetractsEdge,
        Self::LastWordsDie,
        Self::LastByteIsEnd,
        Self::GraceIsNotRestarted,
        Self::NoTombstones,
    ];
}

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep all events as lines of text.
    pub trace: bool,
    /// A bug to plant.
    pub bug: Option<Bug>,
}

/// What has happened in a run, or in many: so that it can be seen that something has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sessions that servers have had.
    pub sessions: u64,
    /// Epochs beyond the first, at clients.
    pub resumes: u64,
    /// Sessions whose CONFIRM died, and that a resume has opened.
    pub opened_by_resume: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Connections that were cut.
    pub cuts: u64,
    /// Of these, the ones that waited for a word.
    pub aimed: u64,
    /// Ends that went to another process.
    pub handed_over: u64,
    /// Connections of strangers.
    pub attacks: u64,
    /// Connections that broke a rule of the protocol.
    pub violations: u64,
    /// Resumes that came for an epoch gone by.
    pub old_epochs: u64,
    /// Connections that met a full backlog.
    pub backlog_full: u64,
    /// Opens that a server had to forget, as it keeps a bounded number of them.
    pub forgotten: u64,
    /// Bytes that programs wrote.
    pub written: u64,
    /// Writes that were taken, framed and sent in one step.
    pub short_writes: u64,
    /// Bytes that programs read.
    pub read: u64,
    /// Sessions whose clear frames were changed under way: only their bounds were checked.
    pub tainted: u64,
    /// Sealed sessions.
    pub sealed: u64,
    /// Sealed frames that were changed under way.
    pub tampered: u64,
    /// How the ends of sessions ended, in the order of [`Stats::ENDINGS`].
    pub endings: [u64; 11],
}

impl Stats {
    /// The names of [`Stats::endings`].
    pub const ENDINGS: [&'static str; 11] = Ending::NAMES;

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        let Self { sessions, resumes, opened_by_resume, faults, cuts, attacks, .. } = other;
        self.sessions += sessions;
        self.resumes += resumes;
        self.opened_by_resume += opened_by_resume;
        self.faults += faults;
        self.cuts += cuts;
        self.attacks += attacks;
        self.aimed += other.aimed;
        self.handed_over += other.handed_over;
        self.violations += other.violations;
        self.old_epochs += other.old_epochs;
        self.backlog_full += other.backlog_full;
        self.forgotten += other.forgotten;
        self.written += other.written;
        self.short_writes += other.short_writes;
        self.read += other.read;
        self.tainted += other.tainted;
        self.sealed += other.sealed;
        self.tampered += other.tampered;
        for (sum, more) in self.endings.iter_mut().zip(other.endings) {
            *sum += more;
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The same for two runs that took the same steps.
    pub hash: u64,
    /// How many events there were.
    pub events: u64,
    /// Simulated microseconds.
    pub time: u64,
    /// The first rule that was broken.
    pub finding: Option<Finding>,
    /// What happened.
    pub stats: Stats,
    /// All events, if they were asked for.
    pub trace: Vec<String>,
    /// What the seed had decided, if the events were asked for: the settings, then the sessions.
    pub plan: Vec<String>,
}

/// Runs a seed.
pub fn run(seed: u64, options: &Options) -> Outcome {
    let mut world = World::new(seed, options);
    // A panic is a finding like any other; nothing of the world is used after it but its record.
    let done = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = done {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        world.finding = None;
        world.find(4, On::World, &format!("panic: {text}"));
    }
    world.stats.tainted = world.links.iter().filter(|link| link.tainted).count() as u64;
    let finding = world.finding.take().map(|finding| Finding { seed, ..finding });
    Outcome {
        seed,
        hash: world.trace.hash(),
        events: world.trace.count(),
        time: world.now,
        finding,
        stats: world.stats,
        trace: world.trace.take_all(),
        plan: if options.trace { world.plan.lines() } else { Vec::new() },
    }
}
