//! What a shard wants done with snapshots.

use super::{Folder, SnapshotError};
use crate::shard::{Input, Output};
use crate::store::{self, Snapshot};

impl Folder {
    /// Does what a shard wants done with snapshots, and gives what it is to be told. `None`: it
    /// need not be told, or the output is about something else. Blocks as the methods do that it
    /// stands for. What goes wrong is logged; the shard tries again. A snapshot that was made
    /// before is given again; the shard has it dropped when it does not want it.
    pub fn serve(
        &mut self,
        output: Output,
        snapshots: &mut dyn FnMut() -> store::Result<Box<dyn Snapshot>>,
    ) -> Option<Input> {
        match output {
            Output::BuildSnapshot { partner } => {
                let built = match self.newest() {
                    Some(newest) => Ok(newest.clone()),
                    None => snapshots()
                        .map_err(SnapshotError::from)
                        .and_then(|mut snapshot| self.build(&mut *snapshot)),
                };
                Some(Input::SnapshotBuilt { partner, manifest: logged(built) })
            }
            Output::ReadChunk { partner, snapshot, index } => {
                let data = logged(self.read_chunk(snapshot, index)).flatten();
                Some(Input::ChunkRead { partner, snapshot, index, data })
            }
            Output::DropSnapshot { snapshot } => {
                self.drop_made(snapshot);
                None
            }
            Output::RetireSnapshot { snapshot } => {
                self.retire(snapshot);
                None
            }
            Output::ReceiveSnapshot { partner, manifest } => {
                let next = logged(self.receive(&partner, &manifest));
                Some(Input::SnapshotOpened { partner, snapshot: manifest.snapshot, next })
            }
            Output::WriteChunk { partner, snapshot, index, data } => {
                let kept = logged(self.write_chunk(&partner, snapshot, index, &data)).is_some();
                Some(Input::ChunkWritten { partner, snapshot, index, kept })
            }
            Output::ReadSnapshot { partner, snapshot } => {
                let records = self.read(&partner, snapshot).map_err(|error| error.to_string());
                Some(Input::SnapshotRecords { partner, snapshot, records })
            }
            Output::ForgetSnapshot { partner, snapshot } => {
                self.forget(&partner, snapshot);
                None
            }
            _ => None,
        }
    }
}

fn logged<T>(done: super::Result<T>) -> Option<T> {
    done.inspect_err(|error| log::warn!("a snapshot: {error}")).ok()
}
