//! Room that is set aside on the disk, so that ends can be written when it is full.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};

/// Bytes of a page of SQLite's.
pub(super) const PAGE: u64 = 4096;

/// A file that takes up room, to be given up when the disk is full.
///
/// A full disk refuses appends, and only draining makes room: but an end needs pages in the log,
/// and the log can be cut only where its pages find room in the file. So the reserve is larger than
/// the log may grow: twice its limit, and the largest transaction since it was taken up.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    /// Without what a large transaction needs.
    base: u64,
    bytes: u64,
    whole: bool,
}

impl Reserve {
    /// For a quota of so many bytes. Touches nothing yet.
    pub(super) fn new(path: PathBuf, quota_bytes: u64) -> Self {
        let bytes = (quota_bytes / 20).clamp(1 << 20, 32 << 20);
        Self { path, base: bytes, bytes, whole: false }
    }

    /// Its size in pages.
    pub(super) fn pages(&self) -> u64 {
        self.bytes / PAGE
    }

    /// Pages that the log may have before it is written into the file.
    pub(super) fn log_pages(&self) -> u64 {
        self.base / 2 / PAGE
    }

    /// Takes up as much more as a transaction of so many bytes needs. Without room for that the
    /// reserve stays as it is, and the transaction must not be.
    pub(super) fn cover(&mut self, transaction: u64) -> io::Result<()> {
        let wanted = self.base.saturating_add(transaction).next_multiple_of(1 << 20);
        // Most are far smaller than the log may be, and within it already.
        if transaction <= self.log_pages() * PAGE || wanted <= self.bytes {
            return Ok(());
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
        if let Err(e) = take_up(&file, wanted) {
            file.set_len(self.bytes)?;
            return Err(e);
        }
        self.bytes = wanted;
        Ok(())
    }

    /// Takes the room up if it is not. While that fails the disk counts as full: what is left on
    /// it is for ends.
    pub(super) fn restore(&mut self) -> io::Result<()> {
        if self.whole {
            return Ok(());
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
        if let Err(e) = take_up(&file, self.bytes) {
            file.set_len(0)?;
            return Err(e);
        }
        self.whole = true;
        Ok(())
    }

    /// Gives the room up. Says whether there was any.
    pub(super) fn spend(&mut self) -> bool {
        self.whole = false;
        self.bytes = self.base;
        let Ok(file) = OpenOptions::new().write(true).open(&self.path) else { return false };
        file.metadata().is_ok_and(|meta| meta.len() > 0) && file.set_len(0).is_ok()
    }
}

fn take_up(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        done => return Ok(done?),
    }
    let zeros = [0; 64 << 10];
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut file = file;
    while left > 0 {
        let part = left.min(zeros.len());
        file.write_all(&zeros[..part])?;
        left -= part;
    }
    Ok(())
}
