//! The thread of a partition that works on snapshots, so that the one that decides never waits for
//! them. What lies in its queue is bounded by what partners may have under way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::queue::{Queue, Work};
use crate::model::{ControllerId, Record};
use crate::shard::{Input, Output};
use crate::store::Snapshot;
use crate::wire::peer::Manifest;

/// Jobs that wait.
pub(super) const JOBS_MAX: usize = 1024;

/// Something to do.
pub(super) enum Job {
    /// The partition's store was opened; jobs of openings before are of no use.
    Opened { opening: u64, snapshots: Box<dyn Snapshot> },
    /// One of the outputs that are about snapshots.
    Do { opening: u64, output: Output },
    /// The end.
    Close,
}

/// The files of snapshots. Errors have been logged where they were seen.
pub(super) trait Files: Send {
    /// Makes one for a partner; one that still fits may be used again.
    fn build(&mut self, partner: &ControllerId, source: &mut dyn Snapshot) -> Option<Manifest>;
    fn read_chunk(&mut self, snapshot: u128, index: u32) -> Option<Vec<u8>>;
    fn remove(&mut self, snapshot: u128);
    /// Makes ready to receive one; gives the first chunk that is missing.
    fn receive(&mut self, partner: &ControllerId, manifest: &Manifest) -> Option<u32>;
    fn write_chunk(
        &mut self,
        partner: &ControllerId,
        snapshot: u128,
        index: u32,
        data: &[u8],
    ) -> bool;
    /// The next records of one that is whole; empty at the end.
    fn read_records(
        &mut self,
        partner: &ControllerId,
        snapshot: u128,
    ) -> Result<Vec<Record>, String>;
    fn forget(&mut self, partner: &ControllerId, snapshot: u128);
}

/// Works until it is told to close.
pub(super) fn run(
    partition: &ControllerId,
    jobs: &Receiver<Job>,
    queue: &Arc<Queue>,
    files: &mut dyn Files,
) {
    let (mut current, mut source) = (0, None);
    for job in jobs {
        match job {
            Job::Close => return,
            Job::Opened { opening, snapshots } => (current, source) = (opening, Some(snapshots)),
            Job::Do { opening, .. } if opening != current => {}
            Job::Do { opening, output } => {
                let refused = || refusal(output.clone());
                let work = || work(output.clone(), files, source.as_deref_mut());
                let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
                    log::error!("partition {partition}: work on a snapshot has failed: a defect");
                    refused()
                });
                if let Some((partner, input)) = done {
                    let work = Work::Bulk { opening, input };
                    let _room = queue.push_partner(&partner, work);
                }
            }
        }
    }
}

fn work(
    output: Output,
    files: &mut dyn Files,
    source: Option<&mut (dyn Snapshot + 'static)>,
) -> Option<(ControllerId, Input)> {
    let (to, input) = match output {
        Output::BuildSnapshot { partner } => {
            let manifest = source.and_then(|source| files.build(&partner, source));
            (partner.clone(), Input::SnapshotBuilt { partner, manifest })
        }
        Output::ReadChunk { partner, snapshot, index } => {
            let data = files.read_chunk(snapshot, index);
            (partner.clone(), Input::ChunkRead { partner, snapshot, index, data })
        }
        Output::DropSnapshot { snapshot } => {
            files.remove(snapshot);
            return None;
        }
        Output::ReceiveSnapshot { partner, manifest } => {
            let (snapshot, next) = (manifest.snapshot, files.receive(&partner, &manifest));
            (partner.clone(), Input::SnapshotOpened { partner, snapshot, next })
        }
        Output::WriteChunk { partner, snapshot, index, data } => {
            let kept = files.write_chunk(&partner, snapshot, index, &data);
            (partner.clone(), Input::ChunkWritten { partner, snapshot, index, kept })
        }
        Output::ReadSnapshot { partner, snapshot } => {
            let records = files.read_records(&partner, snapshot);
            (partner.clone(), Input::SnapshotRecords { partner, snapshot, records })
        }
        Output::ForgetSnapshot { partner, snapshot } => {
            files.forget(&partner, snapshot);
            return None;
        }
        _ => return None,
    };
    Some((to, input))
}

/// What is said when a job is not done: it is tried again later.
pub(super) fn refusal(output: Output) -> Option<(ControllerId, Input)> {
    Some(match output {
        Output::BuildSnapshot { partner } => {
            (partner.clone(), Input::SnapshotBuilt { partner, manifest: None })
        }
        Output::ReadChunk { partner, snapshot, index } => {
            (partner.clone(), Input::ChunkRead { partner, snapshot, index, data: None })
        }
        Output::ReceiveSnapshot { partner, manifest } => {
            let snapshot = manifest.snapshot;
            (partner.clone(), Input::SnapshotOpened { partner, snapshot, next: None })
        }
        Output::WriteChunk { partner, snapshot, index, .. } => {
            (partner.clone(), Input::ChunkWritten { partner, snapshot, index, kept: false })
        }
        Output::ReadSnapshot { partner, snapshot } => {
            let records = Err("there was no room to read it".to_owned());
            (partner.clone(), Input::SnapshotRecords { partner, snapshot, records })
        }
        _ => return None,
    })
}
