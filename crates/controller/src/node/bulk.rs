//! The thread of a partition that works on snapshots, so that the one that decides never waits for
//! them. What lies in its queue is bounded by what partners may have under way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Receiver;

use super::hub::locked;
use super::queue::{Queue, Work};
use crate::model::{ControllerId, Record};
use crate::shard::{Input, Output};
use crate::snapshot::Folder;
use crate::store::{self, Position, Snapshot, StoreError};

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

/// What works on the snapshots of a partition.
pub(super) struct Bulk {
    pub(super) partition: ControllerId,
    pub(super) queue: Arc<Queue>,
    pub(super) path: PathBuf,
    /// Bytes of one snapshot, at most.
    pub(super) bytes_max: u64,
}

impl Bulk {
    /// Works until it is told to close.
    pub(super) fn run(self, jobs: &Receiver<Job>) {
        let (mut current, mut source, mut folder) = (0, None, None);
        for job in jobs {
            match job {
                Job::Close => return,
                Job::Opened { opening, snapshots } => {
                    let (table, queue) = (Arc::new(Mutex::new(snapshots)), Arc::clone(&self.queue));
                    (current, source) = (opening, Some(Source { table, opening, queue }));
                }
                Job::Do { opening, .. } if opening != current || self.queue.is_closed() => {}
                Job::Do { opening, output } => {
                    let partner = partner(&output).cloned();
                    let refused = refusal(&output);
                    let work = || self.work(&mut folder, source.as_ref(), output);
                    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
                        log::error!("partition {}: a defect in its snapshots", self.partition);
                        refused
                    });
                    if let (Some(partner), Some(input)) = (partner, done) {
                        let work = Work::Bulk { opening, input };
                        let _room = self.queue.push_partner(&partner, work);
                    }
                }
            }
        }
    }

    fn work(
        &self,
        folder: &mut Option<Folder>,
        source: Option<&Source>,
        output: Output,
    ) -> Option<Input> {
        if folder.is_none() {
            match Folder::open(&self.path, self.bytes_max) {
                Ok(opened) => *folder = Some(opened),
                Err(error) => log::error!("partition {}: {error}", self.partition),
            }
        }
        let Some(folder) = folder else { return refusal(&output) };
        folder.serve(output, &mut || match source {
            Some(source) => Ok(Box::new(source.clone())),
            None => Err(StoreError::Failed {
                what: format!("the table of {}", self.partition),
                cause: "it is not open".to_owned(),
            }),
        })
    }
}

/// The way to read a table, again and again. That reads all of it, and so may be the first to find
/// it damaged: the partition's thread hears of that, as only that can begin anew.
#[derive(Clone)]
struct Source {
    table: Arc<Mutex<Box<dyn Snapshot>>>,
    opening: u64,
    queue: Arc<Queue>,
}

impl Snapshot for Source {
    fn read(
        &mut self,
        each: &mut dyn FnMut(&Record) -> std::io::Result<()>,
    ) -> store::Result<Position> {
        let queue = &self.queue;
        // A large table is no reason for the end to wait.
        let read = locked(&self.table).read(&mut |record| {
            if queue.is_closed() {
                return Err(std::io::Error::other("the controller is closed"));
            }
            each(record)
        });
        if let Err(StoreError::Damaged { what, cause }) = &read {
            let error = StoreError::Damaged { what: what.clone(), cause: cause.clone() };
            self.queue.control(Work::Damaged { opening: self.opening, error });
        }
        read
    }
}

/// For whom a job is done, if anybody is told of it.
pub(super) fn partner(output: &Output) -> Option<&ControllerId> {
    match output {
        Output::BuildSnapshot { partner }
        | Output::ReadChunk { partner, .. }
        | Output::ReceiveSnapshot { partner, .. }
        | Output::WriteChunk { partner, .. }
        | Output::ReadSnapshot { partner, .. } => Some(partner),
        _ => None,
    }
}

/// What is said when a job is not done: it is tried again later.
pub(super) fn refusal(output: &Output) -> Option<Input> {
    let partner = partner(output)?.clone();
    Some(match output {
        Output::BuildSnapshot { .. } => Input::SnapshotBuilt { partner, manifest: None },
        Output::ReadChunk { snapshot, index, .. } => {
            Input::ChunkRead { partner, snapshot: *snapshot, index: *index, data: None }
        }
        Output::ReceiveSnapshot { manifest, .. } => {
            Input::SnapshotOpened { partner, snapshot: manifest.snapshot, next: None }
        }
        Output::WriteChunk { snapshot, index, .. } => {
            Input::ChunkWritten { partner, snapshot: *snapshot, index: *index, kept: false }
        }
        Output::ReadSnapshot { snapshot, .. } => {
            let records = Err("there was no room to read it".to_owned());
            Input::SnapshotRecords { partner, snapshot: *snapshot, records }
        }
        _ => return None,
    })
}
