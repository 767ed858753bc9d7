//! What one partner sends: changes, or a snapshot in chunks.

use std::collections::BTreeMap;

use super::backoff::Backoff;
use super::load::{Load, take_over};
use super::outward::Odd;
use super::{Merge, Step, check};
use crate::limits::CHUNKS_IN_FLIGHT;
use crate::model::{ControllerId, Record};
use crate::shard::{Event, Millis, Output};
use crate::snapshot::format::{bytes_of, check_manifest};
use crate::store::{self, Position};
use crate::wire::peer::{Manifest, SyncMessage};

/// Damaged chunks of one snapshot, until it is given up.
const DAMAGED_MAX: u32 = 64;
/// A chunk that could not be kept is asked for again so much later; a snapshot that could not be
/// received not sooner.
const LATER: Millis = 10_000;

/// What has become of a chunk that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Asked,
    Writing,
    /// It could not be kept: asked for again at that time.
    Later(Millis),
}

#[derive(Debug)]
enum Stage {
    /// It is looked up what is here already.
    Opening,
    /// There was no room; tried again at that time.
    Later(Millis),
    /// Chunks come.
    Receiving {
        /// The first that was never asked for.
        next: u32,
        asked: BTreeMap<u32, Chunk>,
        damaged: u32,
    },
    /// All are here, and go into the table.
    Loading(Load),
}

/// One snapshot.
#[derive(Debug)]
struct Job {
    manifest: Manifest,
    stage: Stage,
    /// The partner waits for it on this link.
    is_offered: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inward {
    partner: ControllerId,
    /// Where the partner's table stood when the link came; `None`: there is no link.
    head: Option<Position>,
    /// Updates go on without a gap from what is taken.
    is_gapless: bool,
    /// The last position of an update since updates began.
    heard: Option<u64>,
    /// All was taken that the partner had when the link came.
    is_caught_up: bool,
    /// When to ask for everything.
    ask_at: Option<Millis>,
    /// An operator wants everything, over whatever link.
    wants_all: bool,
    job: Option<Job>,
    backoff: Backoff,
    /// For snapshots that cannot be received here.
    room: Backoff,
    /// The one of them that people were told of, and what they are to be told.
    roomless: Option<u128>,
    untold: Option<Odd>,
    /// The last snapshot that came into the table: the partner may not know yet.
    last_loaded: Option<Manifest>,
    pub(super) updates_received: u64,
    pub(super) snapshots_received: u64,
}

impl Inward {
    pub(super) fn new(partner: ControllerId) -> Self {
        Self {
            partner,
            head: None,
            is_gapless: false,
            heard: None,
            is_caught_up: false,
            ask_at: None,
            wants_all: false,
            job: None,
            backoff: Backoff::default(),
            room: Backoff::default(),
            roomless: None,
            untold: None,
            last_loaded: None,
            updates_received: 0,
            snapshots_received: 0,
        }
    }

    pub(super) fn link_up(&mut self, step: &mut Step<'_>, head: Position) -> store::Result<()> {
        self.head = Some(head);
        self.is_gapless = true;
        self.heard = None;
        let taken = step.store.taken(&self.partner)?;
        self.is_caught_up = head.lsn == 0;
        self.see(taken);
        if self.wants_all {
            self.is_gapless = false;
            self.ask_at = Some(self.backoff.next(step.now));
        }
        Ok(())
    }

    pub(super) fn link_down(&mut self) {
        self.head = None;
        self.is_gapless = false;
        self.ask_at = None;
        // What came is kept in the folder. What is whole goes into the table all the same.
        self.job.take_if(|job| !matches!(job.stage, Stage::Loading(_)));
        if let Some(job) = &mut self.job {
            job.is_offered = false;
        }
    }

    fn see(&mut self, taken: Option<Position>) {
        if let (Some(taken), Some(head)) = (taken, self.head) {
            self.is_caught_up |= taken.run == head.run && taken.lsn >= head.lsn;
        }
    }

    fn say(&self, step: &mut Step<'_>, message: SyncMessage) {
        step.out.push(Output::Sync { partner: self.partner.clone(), message });
    }

    /// What comes from now on does not fit to what is here: all is asked for.
    fn ask(&mut self, now: Millis) {
        self.is_gapless = false;
        if self.ask_at.is_none() {
            self.ask_at = Some(self.backoff.next(now));
        }
    }

    /// An operator wants all anew.
    pub(super) fn order_resync(&mut self, step: &mut Step<'_>) -> store::Result<()> {
        step.store.set_taken(&self.partner, None)?;
        self.wants_all = true;
        self.last_loaded = None;
        self.backoff.clear();
        self.give_up(step);
        self.ask_at = None;
        if self.head.is_some() {
            self.ask(step.now);
        }
        Ok(())
    }

    fn give_up(&mut self, step: &mut Step<'_>) {
        if let Some(job) = self.job.take() {
            let snapshot = job.manifest.snapshot;
            step.out.push(Output::ForgetSnapshot { partner: self.partner.clone(), snapshot });
        }
    }

    pub(super) fn update(
        &mut self,
        step: &mut Step<'_>,
        merge: &mut Merge<'_>,
        confirmed: u64,
        upto: Position,
        records: &[Record],
    ) -> store::Result<Result<(), Odd>> {
        let fault = match check::update(records) {
            Err(what) => Some(format!("sends {what}: all is asked for anew")),
            Ok(())
                if !check::is_sound(upto) || self.head.is_none_or(|head| head.run != upto.run) =>
            {
                Some("sends changes of a run that it did not name: all is asked for anew".into())
            }
            Ok(()) => None,
        };
        if let Some(fault) = fault {
            self.ask(step.now);
            return Ok(Err(fault));
        }
        // Old changes may be about what has ended and was purged since: they are not taken again.
        if self.heard.is_some_and(|heard| upto.lsn < heard) {
            return Ok(Err("sends changes that go backwards: left out".into()));
        }
        if self.heard.replace(upto.lsn) != Some(upto.lsn) {
            for record in records {
                take_over(step, merge, &self.partner, confirmed, record)?;
            }
            self.updates_received += records.len() as u64;
        }
        if !self.is_gapless {
            return Ok(Ok(()));
        }
        // A snapshot of a link before is not needed any more, and as old as such changes.
        self.give_up(step);
        self.advance(step, upto)?;
        self.say(step, SyncMessage::Taken { upto });
        Ok(Ok(()))
    }

    /// Has taken all up to there, and perhaps more already.
    fn advance(&mut self, step: &mut Step<'_>, upto: Position) -> store::Result<()> {
        let taken = step.store.taken(&self.partner)?;
        if taken.is_none_or(|taken| taken.run != upto.run || taken.lsn < upto.lsn) {
            step.store.set_taken(&self.partner, Some(upto))?;
        }
        self.see(Some(upto));
        Ok(())
    }

    pub(super) fn offered(&mut self, step: &mut Step<'_>, manifest: Manifest) -> Result<(), Odd> {
        let checked = check_manifest(&manifest)
            .and_then(|()| check::is_sound(manifest.at).then_some(()).ok_or("no position"));
        if let Err(what) = checked {
            self.ask(step.now);
            return Err(format!("offers a snapshot with {what}: another is asked for"));
        }
        let (snapshot, at) = (manifest.snapshot, manifest.at);
        if self.last_loaded.as_ref() == Some(&manifest) {
            // The link went before the partner heard of it.
            self.say(step, SyncMessage::Loaded { snapshot, at });
            self.resume();
            return Ok(());
        }
        self.is_gapless = false;
        self.ask_at = None;
        if let Some(job) = self.job.as_mut().filter(|job| job.manifest == manifest) {
            if job.is_offered {
                return Err("offers the same snapshot again: left out".into());
            }
            job.is_offered = true;
            return Ok(());
        }
        self.give_up(step);
        self.open(step, manifest);
        Ok(())
    }

    fn open(&mut self, step: &mut Step<'_>, manifest: Manifest) {
        let partner = self.partner.clone();
        step.out.push(Output::ReceiveSnapshot { partner, manifest: manifest.clone() });
        self.job = Some(Job { manifest, stage: Stage::Opening, is_offered: true });
    }

    /// The job for this snapshot.
    fn job(&mut self, snapshot: u128) -> Option<&mut Job> {
        self.job.as_mut().filter(|job| job.manifest.snapshot == snapshot)
    }

    pub(super) fn opened(&mut self, now: Millis, snapshot: u128, next: Option<u32>) {
        let job = self.job.as_mut().filter(|job| job.manifest.snapshot == snapshot);
        let Some(job) = job.filter(|job| matches!(job.stage, Stage::Opening)) else { return };
        if let Some(next) = next {
            self.room.clear();
            let next = next.min(job.manifest.chunks);
            job.stage = Stage::Receiving { next, asked: BTreeMap::new(), damaged: 0 };
            return;
        }
        job.stage = Stage::Later(self.room.next(now).max(now + LATER));
        if self.roomless.replace(snapshot) != Some(snapshot) {
            self.untold = Some(format!(
                "offers a snapshot of {} bytes that cannot be kept here: see snapshot_bytes_max \
                 and the room on the disk; it is tried again",
                job.manifest.bytes
            ));
        }
    }

    pub(super) fn chunk(
        &mut self,
        step: &mut Step<'_>,
        snapshot: u128,
        index: u32,
        crc: u32,
        data: Vec<u8>,
    ) -> Result<(), Odd> {
        let partner = self.partner.clone();
        // One of a snapshot that was given up may be on its way.
        let Some(job) = self.job(snapshot) else { return Ok(()) };
        let expected = bytes_of(&job.manifest, index);
        let Stage::Receiving { asked, damaged, .. } = &mut job.stage else {
            return Err("sends a chunk that was not asked for: left out".into());
        };
        let Some(chunk) = asked.get_mut(&index).filter(|chunk| **chunk == Chunk::Asked) else {
            return Err("sends a chunk that was not asked for: left out".into());
        };
        if data.len() == expected && crc32fast::hash(&data) == crc {
            *chunk = Chunk::Writing;
            step.out.push(Output::WriteChunk { partner, snapshot, index, data });
            return Ok(());
        }
        *damaged += 1;
        if *damaged <= DAMAGED_MAX {
            *chunk = Chunk::Later(step.now);
            return Err(format!("sends chunk {index} of a snapshot damaged: asked for again"));
        }
        self.give_up(step);
        self.ask(step.now);
        Err("sends too many damaged chunks: another snapshot is asked for".into())
    }

    pub(super) fn written(&mut self, now: Millis, snapshot: u128, index: u32, kept: bool) {
        let Some(job) = self.job(snapshot) else { return };
        let Stage::Receiving { asked, .. } = &mut job.stage else { return };
        let Some(chunk) = asked.get_mut(&index).filter(|chunk| **chunk == Chunk::Writing) else {
            return;
        };
        if kept {
            asked.remove(&index);
        } else {
            *chunk = Chunk::Later(now + LATER);
        }
    }

    pub(super) fn gone(&mut self, step: &mut Step<'_>, snapshot: u128) {
        // One that is here whole is of use.
        let is_whole = self.job(snapshot).is_none_or(|job| matches!(job.stage, Stage::Loading(_)));
        if !is_whole {
            self.give_up(step);
            self.ask(step.now);
        }
    }

    /// The next records of a snapshot that is here whole.
    pub(super) fn records(
        &mut self,
        step: &mut Step<'_>,
        merge: &mut Merge<'_>,
        confirmed: u64,
        snapshot: u128,
        records: Result<Vec<Record>, String>,
    ) -> store::Result<Result<(), Odd>> {
        let partner = self.partner.clone();
        let Some(job) = self.job(snapshot) else { return Ok(Ok(())) };
        let Stage::Loading(load) = &mut job.stage else { return Ok(Ok(())) };
        let fault = match records {
            Ok(records) => match load.records(step, merge, &partner, confirmed, &records)? {
                Ok(()) => return Ok(Ok(())),
                Err(fault) => fault,
            },
            Err(fault) => fault,
        };
        self.give_up(step);
        if self.head.is_some() {
            self.ask(step.now);
        }
        Ok(Err(format!("has sent a snapshot that is of no use ({fault}): thrown away")))
    }

    /// Goes on with what waits.
    pub(super) fn pump(
        &mut self,
        step: &mut Step<'_>,
        is_active: bool,
        confirmed: u64,
    ) -> store::Result<()> {
        if let Some(text) = self.untold.take() {
            let partner = self.partner.clone();
            step.out.push(Output::Event(Event::Odd { partner, text }));
        }
        if is_active {
            if self.ask_at.is_some_and(|at| step.now >= at) {
                self.ask_at = None;
                self.is_gapless = false;
                self.say(step, SyncMessage::Resync);
            }
            self.pull(step);
        }
        self.load(step, confirmed)
    }

    /// Asks for chunks.
    fn pull(&mut self, step: &mut Step<'_>) {
        let Some(job) = &mut self.job else { return };
        let manifest = &job.manifest;
        match &mut job.stage {
            Stage::Later(at) if step.now >= *at => {
                let manifest = manifest.clone();
                self.open(step, manifest);
            }
            Stage::Receiving { next, asked, .. } => {
                let mut needs: Vec<(u32, u32)> = Vec::new();
                for (index, chunk) in &mut *asked {
                    if matches!(*chunk, Chunk::Later(at) if step.now >= at) {
                        *chunk = Chunk::Asked;
                        needs.push((*index, 1));
                    }
                }
                let room = CHUNKS_IN_FLIGHT - u32::try_from(asked.len()).unwrap_or(u32::MAX);
                let count = room.min(manifest.chunks - *next);
                if count > 0 {
                    needs.push((*next, count));
                    asked.extend((*next..*next + count).map(|index| (index, Chunk::Asked)));
                    *next += count;
                }
                let snapshot = manifest.snapshot;
                for (first, count) in needs {
                    self.say(step, SyncMessage::Need { snapshot, first, count });
                }
            }
            Stage::Opening | Stage::Later(_) | Stage::Loading(_) => {}
        }
    }

    /// Brings what is whole into the table.
    fn load(&mut self, step: &mut Step<'_>, confirmed: u64) -> store::Result<()> {
        let Some(job) = &mut self.job else { return Ok(()) };
        if let Stage::Receiving { next, asked, .. } = &job.stage
            && *next == job.manifest.chunks
            && asked.is_empty()
        {
            job.stage = Stage::Loading(Load::new(job.manifest.records));
        }
        let Stage::Loading(load) = &mut job.stage else { return Ok(()) };
        let is_over = load.pump(step, &self.partner, confirmed, job.manifest.snapshot)?;
        if is_over { self.loaded(step) } else { Ok(()) }
    }

    fn loaded(&mut self, step: &mut Step<'_>) -> store::Result<()> {
        let Some(job) = self.job.take() else { return Ok(()) };
        let (snapshot, at) = (job.manifest.snapshot, job.manifest.at);
        self.advance(step, at)?;
        self.wants_all = false;
        self.last_loaded = Some(job.manifest);
        self.snapshots_received += 1;
        step.out.push(Output::ForgetSnapshot { partner: self.partner.clone(), snapshot });
        if job.is_offered {
            self.say(step, SyncMessage::Loaded { snapshot, at });
            self.resume();
        }
        Ok(())
    }

    /// Updates go on where the snapshot ends.
    fn resume(&mut self) {
        self.is_gapless = true;
        self.heard = None;
        self.ask_at = None;
    }

    pub(super) fn is_bulk(&self) -> bool {
        self.job.is_some() || self.ask_at.is_some() || (self.head.is_some() && !self.is_gapless)
    }

    pub(super) fn is_loading(&self) -> bool {
        self.job.as_ref().is_some_and(|job| matches!(job.stage, Stage::Loading(_)))
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.is_caught_up
    }

    pub(super) fn chunks(&self) -> Option<(u32, u32)> {
        let job = self.job.as_ref()?;
        let chunks = job.manifest.chunks;
        match &job.stage {
            Stage::Opening | Stage::Later(_) => Some((0, chunks)),
            Stage::Receiving { next, asked, .. } => {
                Some((next - u32::try_from(asked.len()).unwrap_or(0), chunks))
            }
            Stage::Loading(_) => Some((chunks, chunks)),
        }
    }

    pub(super) fn due(&self, now: Millis, is_active: bool) -> Option<Millis> {
        let stage = match self.job.as_ref().map(|job| &job.stage) {
            Some(Stage::Later(at)) if is_active => Some(*at),
            Some(Stage::Receiving { asked, .. }) if is_active => asked
                .values()
                .filter_map(|chunk| match chunk {
                    Chunk::Later(at) => Some(*at),
                    Chunk::Asked | Chunk::Writing => None,
                })
                .min(),
            Some(Stage::Loading(load)) if load.has_more() => Some(now),
            _ => None,
        };
        let ask = self.ask_at.filter(|_| is_active);
        stage.into_iter().chain(ask).min()
    }
}
