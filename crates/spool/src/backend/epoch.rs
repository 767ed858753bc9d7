//! Where the highest epoch lies for good.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Keeps the highest epoch. Two servers with shared storage share one: what one of them raises ends
/// the work of the other.
///
/// Blocking; any thread.
pub trait EpochStore: Send + Sync + fmt::Debug {
    /// The highest epoch that was stored; 0 for none.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn load(&self) -> io::Result<u64>;

    /// Stores this epoch if it is higher than what is there, and gives the highest. When it has
    /// returned, a power cut loses nothing of it.
    ///
    /// # Errors
    ///
    /// It cannot be written; what is there is as it was, or as it should be.
    fn raise(&self, epoch: u64) -> io::Result<u64>;

    /// The same for a server that is about to hold the lock under this epoch.
    ///
    /// # Errors
    ///
    /// As [`Self::raise`].
    fn take(&self, epoch: u64) -> io::Result<u64> {
        self.raise(epoch)
    }
}

/// In a file of a directory, for backends that keep no ledger.
///
/// Waits at most a second for another process that writes: one that was stopped holds its file for
/// as long as it is stopped.
#[derive(Debug)]
pub struct FileEpochs {
    directory: PathBuf,
}

const NAME: &str = "epoch";
const NAME_NEW: &str = "epoch.new";
const NAME_LOCK: &str = "epoch.lock";

/// The longest wait for another process.
const LOCKED_MAX: Duration = Duration::from_secs(1);
/// Between two tries: the system has no wait with an end.
const TRY_EVERY: Duration = Duration::from_millis(5);

impl FileEpochs {
    /// In this directory, which must exist.
    ///
    /// # Errors
    ///
    /// There is no such directory, it cannot be written, or another process holds its lock.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let store = Self { directory: directory.to_owned() };
        store.locked()?;
        store.load()?;
        Ok(store)
    }

    fn locked(&self) -> io::Result<File> {
        let path = self.directory.join(NAME_LOCK);
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        let begun = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCKED_MAX => {
                    std::thread::sleep(TRY_EVERY);
                }
                Err(Errno::WOULDBLOCK) => {
                    let what = format!(
                        "{} is locked by another process for too long: end that one if it is \
                         stopped",
                        path.display()
                    );
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, what));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl EpochStore for FileEpochs {
    fn load(&self) -> io::Result<u64> {
        let path = self.directory.join(NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(32).read_to_string(&mut text)?;
        text.trim_end().parse().map_err(|_| {
            let what = format!(
                "{} holds no epoch: write the highest one that was granted into it",
                path.display()
            );
            io::Error::new(io::ErrorKind::InvalidData, what)
        })
    }

    fn raise(&self, epoch: u64) -> io::Result<u64> {
        // Renewals come often, and change nothing. The file is replaced as a whole, and only grows.
        let there = self.load()?;
        if there >= epoch {
            return Ok(there);
        }
        let _locked = self.locked()?;
        let there = self.load()?;
        if there >= epoch {
            return Ok(there);
        }
        let new = self.directory.join(NAME_NEW);
        let mut file = File::create(&new)?;
        writeln!(file, "{epoch}")?;
        file.sync_all()?;
        std::fs::rename(&new, self.directory.join(NAME))?;
        File::open(&self.directory)?.sync_all()?;
        Ok(epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::{EpochStore, FileEpochs};

    #[test]
    fn epochs_only_grow() {
        let name = crate::RequestId::random().unwrap();
        let directory = std::env::temp_dir().join(format!("spool-epoch-{name}"));
        std::fs::create_dir(&directory).unwrap();
        let one = FileEpochs::open(&directory).unwrap();
        let other = FileEpochs::open(&directory).unwrap();
        assert_eq!(one.load().unwrap(), 0);
        assert_eq!(one.raise(5).unwrap(), 5);
        assert_eq!(other.raise(3).unwrap(), 5);
        assert_eq!(other.raise(6).unwrap(), 6);
        assert_eq!(one.load().unwrap(), 6);
        std::fs::write(directory.join("epoch"), "six").unwrap();
        let error = one.raise(9).unwrap_err();
        assert!(error.to_string().contains("highest one"), "{error}");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn one_who_keeps_the_lock_is_not_waited_for_without_end() {
        let name = crate::RequestId::random().unwrap();
        let directory = std::env::temp_dir().join(format!("spool-epoch-{name}"));
        std::fs::create_dir(&directory).unwrap();
        let store = FileEpochs::open(&directory).unwrap();
        assert_eq!(store.raise(5).unwrap(), 5);
        // As a process would that was stopped in the middle.
        let stopped = FileEpochs::open(&directory).unwrap().locked().unwrap();
        assert_eq!(store.raise(5).unwrap(), 5, "a renewal only reads");
        let error = store.raise(6).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        assert!(error.to_string().contains("epoch.lock"), "{error}");
        drop(stopped);
        assert_eq!(store.raise(6).unwrap(), 6);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
