//! What one partner is sent: changes, or a snapshot first.

use std::collections::{BTreeSet, VecDeque};

use super::Step;
use super::backoff::Backoff;
use super::feed::Feed;
use crate::limits::CHUNKS_IN_FLIGHT;
use crate::model::ControllerId;
use crate::shard::{Millis, Output};
use crate::store::{self, Position};
use crate::wire::peer::{Manifest, SyncMessage};

/// Behind so many changes a snapshot is not yet out of date, however small it is.
const STALE_FROM: u64 = 1024;
/// Chunks that go beyond those of the snapshot, for those that arrive damaged.
const CHUNKS_SPARE: u64 = 256;

/// Why nothing came of a message.
pub(super) type Odd = String;

#[derive(Debug)]
enum Mode {
    /// There is no link.
    Idle,
    /// Changes go.
    Updates(Feed),
    /// A snapshot has to be made, or found.
    Want,
    /// The partner was told of a snapshot.
    Offered(Offer),
    /// The snapshot was lost on the way: the partner knows, and asks anew.
    Gone(Manifest),
}

#[derive(Debug)]
struct Offer {
    manifest: Manifest,
    /// Chunks that the partner needs.
    wanted: VecDeque<u32>,
    /// Of them: those that are being read.
    reading: BTreeSet<u32>,
    /// Chunks that went, again ones too.
    went: u64,
    /// Behind the last chunk that went.
    reached: u32,
}

/// A snapshot that is not needed any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dropped {
    pub(super) snapshot: u128,
    pub(super) why: Why,
}

/// Why a snapshot is not needed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The partner has it, or needs another one.
    Done,
    /// It was of no use to the partner, which may lie: nobody gets it who has not begun with it.
    Doubted,
    /// It was found here that it is of no use to anybody.
    Useless,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outward {
    partner: ControllerId,
    mode: Mode,
    /// The partner has all up to here, as far as it was heard of in this process.
    confirmed: Option<u64>,
    /// Rows behind this one that the partner told, it told over this link and after the last
    /// snapshot that it took: it has them.
    skip_after: u64,
    /// The highest change that it was told of over this link.
    told_max: u64,
    /// It gets a snapshot at the next link, whatever it has.
    send_all: bool,
    /// The snapshot that was made for it. It outlives the link.
    kept: Option<Manifest>,
    is_building: bool,
    build_at: Option<Millis>,
    backoff: Backoff,
    /// Snapshots that were out of date before they were over, one after the other.
    stale: u32,
    pub(super) dropped: Vec<Dropped>,
    pub(super) updates_sent: u64,
    pub(super) snapshots_sent: u64,
}

impl Outward {
    pub(super) fn new(partner: ControllerId) -> Self {
        Self {
            partner,
            mode: Mode::Idle,
            confirmed: None,
            skip_after: u64::MAX,
            told_max: 0,
            send_all: false,
            kept: None,
            is_building: false,
            build_at: None,
            backoff: Backoff::default(),
            stale: 0,
            dropped: Vec::new(),
            updates_sent: 0,
            snapshots_sent: 0,
        }
    }

    /// The link stands.
    pub(super) fn link_up(
        &mut self,
        step: &mut Step<'_>,
        taken: Option<Position>,
    ) -> store::Result<()> {
        let head = step.store.head();
        // What the partner told may be gone there by now: purged, and brought back as it was before
        // by a snapshot, or lost with a disk. What it told since it took the last is little.
        self.skip_after = head;
        // Whoever has nothing stands before the first change.
        let nowhere = Position { run: step.store.run(), lsn: 0 };
        let from = taken.unwrap_or(nowhere);
        let is_reached = step.store.reaches(from)?;
        self.confirmed = Some(if is_reached { from.lsn } else { 0 });
        self.told_max = self.confirmed.unwrap_or(0);
        let is_near = is_reached && !self.send_all && {
            let most = step.settings.snapshot_from;
            step.store.count_after(from.lsn, most.saturating_add(1))? <= most
        };
        self.mode = if is_near {
            self.drop_kept(Why::Done);
            let is_known = taken.is_some_and(|taken| taken.run == nowhere.run);
            Mode::Updates(Feed::new(from.lsn, is_known))
        } else {
            Mode::Want
        };
        Ok(())
    }

    pub(super) fn link_down(&mut self) {
        self.mode = Mode::Idle;
        self.build_at = None;
    }

    /// The partner does not have this partition.
    pub(super) fn absent(&mut self) {
        self.mode = Mode::Idle;
        self.drop_kept(Why::Done);
    }

    fn drop_kept(&mut self, why: Why) {
        if let Some(manifest) = self.kept.take() {
            self.dropped.push(Dropped { snapshot: manifest.snapshot, why });
        }
    }

    /// Sends what is to be sent.
    pub(super) fn pump(&mut self, step: &mut Step<'_>) -> store::Result<()> {
        match &mut self.mode {
            Mode::Updates(feed) => {
                self.updates_sent += feed.pump(step, &self.partner, self.skip_after)?;
                self.told_max = self.told_max.max(feed.sent());
                Ok(())
            }
            Mode::Want => self.find_snapshot(step),
            Mode::Offered(offer) => {
                offer.read(step, &self.partner);
                Ok(())
            }
            Mode::Idle | Mode::Gone(_) => Ok(()),
        }
    }

    fn find_snapshot(&mut self, step: &mut Step<'_>) -> store::Result<()> {
        if self.is_building {
            return Ok(());
        }
        if let Some(manifest) = self.kept.clone() {
            if !step.store.reaches(manifest.at)? {
                self.drop_kept(Why::Useless);
            } else if self.is_stale(step, &manifest)? {
                self.stale += 1;
                self.drop_kept(Why::Done);
            } else {
                self.offer(step, manifest);
                return Ok(());
            }
        }
        let at = *self.build_at.get_or_insert_with(|| self.backoff.next(step.now));
        if step.now >= at {
            self.build_at = None;
            self.is_building = true;
            step.out.push(Output::BuildSnapshot { partner: self.partner.clone() });
        }
        Ok(())
    }

    /// Whether so much has changed since that another one is less work. The bound doubles each
    /// time, so that one gets through in the end.
    fn is_stale(&self, step: &mut Step<'_>, manifest: &Manifest) -> store::Result<bool> {
        let bound = step.settings.snapshot_from.max(manifest.records).max(STALE_FROM);
        let bound = bound.saturating_mul(1 << self.stale.min(32));
        Ok(step.store.count_after(manifest.at.lsn, bound.saturating_add(1))? > bound)
    }

    fn offer(&mut self, step: &mut Step<'_>, manifest: Manifest) {
        self.say(step, SyncMessage::Snapshot(manifest.clone()));
        self.mode = Mode::Offered(Offer {
            manifest,
            wanted: VecDeque::new(),
            reading: BTreeSet::new(),
            went: 0,
            reached: 0,
        });
    }

    fn say(&self, step: &mut Step<'_>, message: SyncMessage) {
        step.out.push(Output::Sync { partner: self.partner.clone(), message });
    }

    /// The partner has taken all up to there.
    pub(super) fn taken(&mut self, step: &Step<'_>, upto: Position) -> Result<(), Odd> {
        if upto.run != step.store.run() || upto.lsn > self.told_max {
            return Err("says to have changes that it was never sent: not believed".into());
        }
        // One that was on its way when the partner asked for all confirms nothing.
        if let Mode::Updates(feed) = &mut self.mode {
            if !feed.taken(upto.lsn) {
                return Err("says to have changes that it was not sent yet: not believed".into());
            }
            self.confirmed = self.confirmed.max(Some(upto.lsn));
        }
        Ok(())
    }

    /// The partner wants all anew.
    pub(super) fn resync(&mut self) {
        match self.mode {
            Mode::Idle | Mode::Want => return,
            // It was of no use, and may be damaged here.
            Mode::Offered(_) => self.drop_kept(Why::Doubted),
            Mode::Updates(_) | Mode::Gone(_) => {}
        }
        self.confirmed = Some(0);
        self.mode = Mode::Want;
    }

    /// An operator wants all sent anew.
    pub(super) fn order_resync(&mut self) {
        self.send_all = true;
        self.backoff.clear();
        self.build_at = None;
        if !matches!(self.mode, Mode::Idle) {
            // Not the same again, of which some is on its way.
            self.drop_kept(Why::Doubted);
            self.mode = Mode::Want;
        }
    }

    pub(super) fn built(&mut self, manifest: Option<Manifest>) {
        self.is_building = false;
        self.kept = manifest;
    }

    pub(super) fn need(
        &mut self,
        step: &mut Step<'_>,
        snapshot: u128,
        first: u32,
        count: u32,
    ) -> Result<(), Odd> {
        match &mut self.mode {
            Mode::Offered(offer) if offer.manifest.snapshot == snapshot => {
                if offer.went > 2 * u64::from(offer.manifest.chunks) + CHUNKS_SPARE {
                    self.mode = Mode::Gone(offer.manifest.clone());
                    self.drop_kept(Why::Done);
                    self.say(step, SyncMessage::Gone { snapshot });
                    return Err("asks for the same chunks again and again: given no more".into());
                }
                offer.need(first, count)
            }
            // It will be told of the next one.
            Mode::Offered(_) | Mode::Want | Mode::Idle => Ok(()),
            Mode::Updates(_) | Mode::Gone(_) => {
                self.say(step, SyncMessage::Gone { snapshot });
                Ok(())
            }
        }
    }

    pub(super) fn chunk_read(
        &mut self,
        step: &mut Step<'_>,
        snapshot: u128,
        index: u32,
        data: Option<Vec<u8>>,
    ) {
        let Mode::Offered(offer) = &mut self.mode else { return };
        if offer.manifest.snapshot != snapshot || !offer.reading.remove(&index) {
            return;
        }
        if let Some(data) = data {
            offer.went += 1;
            offer.reached = offer.reached.max(index + 1);
            let crc = crc32fast::hash(&data);
            self.say(step, SyncMessage::Chunk { snapshot, index, crc, data });
        } else {
            self.mode = Mode::Gone(offer.manifest.clone());
            self.drop_kept(Why::Useless);
            self.say(step, SyncMessage::Gone { snapshot });
        }
    }

    pub(super) fn loaded(
        &mut self,
        step: &mut Step<'_>,
        snapshot: u128,
        at: Position,
    ) -> store::Result<Result<(), Odd>> {
        match &self.mode {
            Mode::Offered(Offer { manifest, .. })
                if manifest.snapshot == snapshot && manifest.at == at => {}
            // The partner had all of it before it was lost here.
            Mode::Gone(manifest) if manifest.snapshot == snapshot && manifest.at == at => {}
            Mode::Offered(_) | Mode::Want | Mode::Idle => return Ok(Ok(())),
            Mode::Updates(_) | Mode::Gone(_) => {
                return Ok(Err(
                    "says to have a snapshot that it was not told of: not believed".into()
                ));
            }
        }
        self.drop_kept(Why::Done);
        self.send_all = false;
        self.stale = 0;
        self.snapshots_sent += 1;
        if !step.store.reaches(at)? {
            // Ends behind it were purged meanwhile.
            self.mode = Mode::Want;
            return Ok(Ok(()));
        }
        self.confirmed = Some(at.lsn);
        self.told_max = self.told_max.max(at.lsn);
        // The same holds for what the partner told while the snapshot was on its way.
        self.skip_after = step.store.head();
        self.mode = Mode::Updates(Feed::new(at.lsn, at.run == step.store.run()));
        Ok(Ok(()))
    }

    pub(super) fn confirmed(&self) -> Option<u64> {
        self.confirmed
    }

    pub(super) fn is_bulk(&self) -> bool {
        matches!(self.mode, Mode::Want | Mode::Offered(_) | Mode::Gone(_))
    }

    pub(super) fn feed(&self) -> Option<&Feed> {
        match &self.mode {
            Mode::Updates(feed) => Some(feed),
            _ => None,
        }
    }

    pub(super) fn chunks(&self) -> Option<(u32, u32)> {
        match &self.mode {
            Mode::Offered(offer) => Some((offer.reached, offer.manifest.chunks)),
            _ => None,
        }
    }

    /// Whether it is to have this snapshot, or may get it.
    pub(super) fn uses(&self, snapshot: u128) -> bool {
        self.kept.as_ref().is_some_and(|manifest| manifest.snapshot == snapshot)
    }

    pub(super) fn due(&self, now: Millis) -> Option<Millis> {
        match &self.mode {
            Mode::Updates(feed) => feed.due(now),
            Mode::Want if !self.is_building => self.build_at,
            _ => None,
        }
    }
}

impl Offer {
    fn need(&mut self, first: u32, count: u32) -> Result<(), Odd> {
        let end = first.checked_add(count).filter(|end| *end <= self.manifest.chunks);
        let Some(end) = end else {
            return Err("asks for chunks that the snapshot does not have: left out".into());
        };
        for index in first..end {
            if self.reading.contains(&index) || self.wanted.contains(&index) {
                continue;
            }
            if self.reading.len() + self.wanted.len() >= CHUNKS_IN_FLIGHT as usize {
                return Err("asks for too many chunks at once: left out".into());
            }
            self.wanted.push_back(index);
        }
        Ok(())
    }

    fn read(&mut self, step: &mut Step<'_>, partner: &ControllerId) {
        for index in std::mem::take(&mut self.wanted) {
            self.reading.insert(index);
            let snapshot = self.manifest.snapshot;
            step.out.push(Output::ReadChunk { partner: partner.clone(), snapshot, index });
        }
    }
}
