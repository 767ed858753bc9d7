//! The counter of a device in a file that survives crashes.
//!
//! Counters are reserved ahead: the file holds one up to which all may have been used, so that it
//! is written once in many registrations. After a restart the device goes on above it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::limits::{DEVICE_MAX, SEQ_MAX};
use crate::model::DeviceId;

/// The first bytes of such a file.
const MAGIC: &[u8; 8] = b"EVSCTR1\n";
/// Bytes besides the device's name.
const FIXED_BYTES: usize = MAGIC.len() + 8 + 4;
/// Counters reserved at once by default.
const STEP: u64 = 64;

/// Why there is no counter file.
#[derive(Debug, thiserror::Error)]
pub enum CounterError {
    /// Another process has it: two with one counter would use numbers twice.
    #[error("{} is in use by another process: stop it, or name another file", .0.display())]
    Held(PathBuf),
    /// Reading or writing failed.
    #[error("{} cannot be {what}: {cause}; check the folder and its permissions", path.display())]
    Failed {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What was said.
        cause: io::Error,
    },
}

/// A device's counter in a file. Blocks shortly, where it says so.
#[derive(Debug)]
pub struct CounterFile {
    path: PathBuf,
    device: DeviceId,
    step: u64,
    /// What the file says: counters up to this one may be used.
    reserved: u64,
    /// Held as long as this lives.
    _lock: File,
}

impl CounterFile {
    /// Opens the file of a device, in a folder that exists; gives the last counter that may have
    /// been used. `None`: there is no file yet, or it is torn or another device's; then the device
    /// has to ask, and what was there is set aside as `NAME.set-aside`. Besides the file there is
    /// `NAME.lock`. Blocks.
    ///
    /// # Errors
    ///
    /// Another process holds it, or it cannot be read.
    pub fn open(path: &Path, device: &DeviceId) -> Result<(Self, Option<u64>), CounterError> {
        let lock = Self::lock(path)?;
        let known = match read(path) {
            Ok(bytes) => parse(&bytes, device),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(cause) => return Err(failed(path, "read", cause)),
        };
        if known.is_none() && path.exists() {
            let aside = beside(path, "set-aside");
            log::warn!(
                "{} is not the counter of {device}: it is set aside as {}, and the device asks \
                 its controller",
                path.display(),
                aside.display()
            );
            std::fs::rename(path, aside).map_err(|cause| failed(path, "set aside", cause))?;
        }
        let reserved = known.unwrap_or(0);
        let (path, device) = (path.to_owned(), device.clone());
        Ok((Self { path, device, step: STEP, reserved, _lock: lock }, known))
    }

    /// The same, with so many counters reserved at once; at least 1. Default: 64.
    #[must_use]
    pub fn with_step(mut self, step: u64) -> Self {
        self.step = step.max(1);
        self
    }

    /// Makes sure that this counter is not used again after a restart. Blocks for two fsyncs, once
    /// in as many counters as are reserved at once.
    ///
    /// # Errors
    ///
    /// It cannot be written: the file is as it was. The next call tries again.
    pub fn save(&mut self, seq: u64) -> Result<(), CounterError> {
        if seq <= self.reserved {
            return Ok(());
        }
        let reserved = seq.saturating_add(self.step - 1).min(SEQ_MAX.max(seq));
        write(&self.path, &self.device, reserved)
            .map_err(|cause| failed(&self.path, "written", cause))?;
        self.reserved = reserved;
        Ok(())
    }

    fn lock(path: &Path) -> Result<File, CounterError> {
        let name = beside(path, "lock");
        let file = File::options().create(true).truncate(false).write(true).open(&name);
        let file = file.map_err(|cause| failed(&name, "opened", cause))?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Err(CounterError::Held(path.to_owned())),
                Err(errno) => return Err(failed(&name, "locked", errno.into())),
            }
        }
    }
}

fn failed(path: &Path, what: &'static str, cause: io::Error) -> CounterError {
    CounterError::Failed { path: path.to_owned(), what, cause }
}

/// `NAME.suffix`, in the same folder.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// What is in the file, or as much of it as tells that it is none.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = FIXED_BYTES + DEVICE_MAX + 1;
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Magic, counter, name, and the CRC-32 of all that.
fn compose(device: &DeviceId, reserved: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(reserved.to_le_bytes());
    bytes.extend(device.as_str().as_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

fn parse(bytes: &[u8], device: &DeviceId) -> Option<u64> {
    let (reserved, _) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    let reserved = u64::from_le_bytes(*reserved);
    (reserved <= SEQ_MAX && bytes == compose(device, reserved)).then_some(reserved)
}

fn write(path: &Path, device: &DeviceId, reserved: u64) -> io::Result<()> {
    let new = beside(path, "new");
    let mut file = File::create(&new)?;
    file.write_all(&compose(device, reserved))?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
#[path = "counter_tests.rs"]
mod tests;
