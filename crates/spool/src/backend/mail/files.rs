//! Messages as files: one directory for each mailbox, with `tmp`, `new` and `cur`.
//!
//! A file counts for nothing: a message is there when the index says so.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::failpoint::reach;
use crate::limits::PAYLOAD_MAX;
use crate::request::RequestId;

/// How often a message is looked for that moves while it is.
const FIND_TRIES: usize = 3;
/// Mailboxes that are remembered as made: fronts name them.
const MADE_MAX: usize = 10_000;
/// Files that a sweep looks at before it says what it has found.
const SWEEP_AT_ONCE: usize = 256;

#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    /// Of this process: `R`, random digits, and the host's name.
    run: (String, String),
    count: AtomicU64,
    /// Mailboxes whose directories this process has made to last.
    made: Mutex<HashSet<String>>,
}

/// A file that the index may not know.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) mailbox: String,
    /// Without the flags behind it.
    pub(super) name: String,
    path: PathBuf,
}

impl Files {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        make_directory(root)?;
        let random = format!("{:x}", RequestId::random()?.0 as u64);
        let (root, run, count) = (root.to_owned(), (random, host()), AtomicU64::new(0));
        Ok(Self { root, run, count, made: Mutex::default() })
    }

    fn made(&self) -> MutexGuard<'_, HashSet<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory(&self, mailbox: &str, which: &str) -> PathBuf {
        self.root.join(mailbox).join(which)
    }

    /// Puts a message into `new`, and gives its name. When this has returned, a power cut does not
    /// take it away.
    pub(super) fn write(&self, mailbox: &str, message: &[u8]) -> io::Result<String> {
        let new = self.directory(mailbox, "new");
        let tmp = self.directory(mailbox, "tmp");
        if !self.made().contains(mailbox) || !new.is_dir() || !tmp.is_dir() {
            self.make_mailbox(mailbox)?;
        }
        let name = self.fresh_name();
        let path = tmp.join(&name);
        let written = write_whole(&path, message)
            .and_then(|()| fs::rename(&path, new.join(&name)))
            .and_then(|()| File::open(&new)?.sync_all());
        if let Err(error) = written {
            let _none = fs::remove_file(&path);
            let _none = fs::remove_file(new.join(&name));
            return Err(error);
        }
        reach("backend.mail.file_written");
        Ok(name)
    }

    /// Also for one that is there: who made it may have been killed before it was to last, or
    /// before it was whole.
    fn make_mailbox(&self, mailbox: &str) -> io::Result<()> {
        let path = self.root.join(mailbox);
        make_directory(&path)?;
        for which in ["tmp", "new", "cur"] {
            make_directory(&path.join(which))?;
        }
        let mut made = self.made();
        if made.len() >= MADE_MAX {
            made.clear();
        }
        made.insert(mailbox.to_owned());
        Ok(())
    }

    /// Seconds, process, run, count and host: a name that no other file has.
    fn fresh_name(&self) -> String {
        let seconds =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let (run, host) = &self.run;
        format!("{seconds}.P{}R{run}Q{count}.{host}", std::process::id())
    }

    /// Where a message lies: the flags say where it should, and a crash or another server may have
    /// left it elsewhere.
    fn find(&self, mailbox: &str, name: &str, flags: &str) -> Option<PathBuf> {
        let new = self.directory(mailbox, "new").join(name);
        let cur = self.directory(mailbox, "cur");
        let flagged = cur.join(format!("{name}:2,{flags}"));
        if flagged.exists() {
            return Some(flagged);
        }
        if new.exists() {
            return Some(new);
        }
        let begins = format!("{name}:2,");
        let of_name = |entry: &fs::DirEntry| {
            entry.file_name().to_str().is_some_and(|found| found.starts_with(&begins))
        };
        fs::read_dir(cur).ok()?.filter_map(Result::ok).find(of_name).map(|entry| entry.path())
    }

    /// Whether a file that was written is still there.
    pub(super) fn is_new(&self, mailbox: &str, name: &str) -> bool {
        self.directory(mailbox, "new").join(name).exists()
    }

    /// At most so many bytes of a message.
    pub(super) fn read(
        &self,
        mailbox: &str,
        name: &str,
        flags: &str,
        most: usize,
    ) -> io::Result<Vec<u8>> {
        let mut message = Vec::new();
        let file = self.open_file(mailbox, name, flags)?;
        file.take(most.min(PAYLOAD_MAX) as u64).read_to_end(&mut message)?;
        Ok(message)
    }

    /// Opens a message. A change of its flags may move it away between a look and the next step.
    fn open_file(&self, mailbox: &str, name: &str, flags: &str) -> io::Result<File> {
        let mut tries = FIND_TRIES;
        loop {
            let found = self.find(mailbox, name, flags);
            let opened = found.map_or(Err(io::ErrorKind::NotFound.into()), File::open);
            tries -= 1;
            match opened {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries > 0 => {}
                opened => return opened,
            }
        }
    }

    /// Moves a message to where its flags say.
    pub(super) fn flag(&self, mailbox: &str, name: &str, flags: &str) -> io::Result<()> {
        let path = self.find(mailbox, name, flags).ok_or(io::ErrorKind::NotFound)?;
        fs::rename(path, self.directory(mailbox, "cur").join(format!("{name}:2,{flags}")))
    }

    pub(super) fn remove(&self, mailbox: &str, name: &str, flags: &str) {
        if let Some(path) = self.find(mailbox, name, flags) {
            let _swept_later = fs::remove_file(path);
        }
    }

    /// Files older than the grace: those of `tmp` go at once, the others are told in portions, for
    /// the index to be asked. Ends when `portion` says no; it is asked now and then even if there
    /// is nothing to tell.
    pub(super) fn strays(
        &self,
        grace: Duration,
        portion: &mut dyn FnMut(&[Stray]) -> io::Result<()>,
    ) -> io::Result<()> {
        for mailbox in fs::read_dir(&self.root)? {
            let Ok(mailbox) = mailbox?.file_name().into_string() else { continue };
            for which in ["tmp", "new", "cur"] {
                let Ok(files) = fs::read_dir(self.directory(&mailbox, which)) else { continue };
                let mut strays = Vec::new();
                for (count, file) in files.enumerate() {
                    strays.extend(stray(&mailbox, which, &file?, grace));
                    if count % SWEEP_AT_ONCE == SWEEP_AT_ONCE - 1 {
                        portion(&strays)?;
                        strays.clear();
                    }
                }
                portion(&strays)?;
            }
        }
        Ok(())
    }
}

fn stray(mailbox: &str, which: &str, file: &fs::DirEntry, grace: Duration) -> Option<Stray> {
    let age = file.metadata().and_then(|data| data.modified());
    let age = age.ok().and_then(|at| at.elapsed().ok());
    if age.is_none_or(|age| age < grace) {
        return None;
    }
    let path = file.path();
    if which == "tmp" {
        // One who still writes it fails to rename it, and says so.
        let _gone = fs::remove_file(path);
        return None;
    }
    let name = file.file_name().into_string().ok()?;
    let name = name.split(":2,").next().unwrap_or_default().to_owned();
    Some(Stray { mailbox: mailbox.to_owned(), name, path })
}

impl Stray {
    pub(super) fn remove(&self) {
        let _gone = fs::remove_file(&self.path);
    }
}

fn write_whole(path: &Path, message: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(message)?;
    file.sync_all()
}

/// Makes a directory that only we can read, so that a power cut does not take it away.
fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name: String = name.trim().chars().filter(plain).take(64).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::{Files, fs};
    use crate::request::RequestId;

    #[test]
    fn a_mailbox_that_was_half_made_is_made_whole() {
        let root =
            std::env::temp_dir().join(format!("spool-files-{}", RequestId::random().unwrap()));
        let files = Files::open(&root).unwrap();
        for which in ["tmp", "new"] {
            fs::create_dir_all(root.join("inbox").join(which)).unwrap();
        }
        let name = files.write("inbox", b"text").unwrap();
        files.flag("inbox", &name, "S").unwrap();
        // And one that somebody has taken away since.
        fs::remove_dir_all(root.join("inbox")).unwrap();
        let name = files.write("inbox", b"text").unwrap();
        assert_eq!(files.read("inbox", &name, "", 100).unwrap(), b"text");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn strays_come_in_portions() {
        let root =
            std::env::temp_dir().join(format!("spool-files-{}", RequestId::random().unwrap()));
        let files = Files::open(&root).unwrap();
        let name = files.write("inbox", b"text").unwrap();
        for n in 0..2 * super::SWEEP_AT_ONCE {
            fs::write(root.join(format!("inbox/new/{n}")), "").unwrap();
        }
        let (mut portions, mut all) = (Vec::new(), std::collections::HashSet::new());
        files
            .strays(Duration::ZERO, &mut |portion| {
                portions.push(portion.len());
                all.extend(portion.iter().map(|stray| stray.name.clone()));
                Ok(())
            })
            .unwrap();
        let most = super::SWEEP_AT_ONCE;
        assert_eq!(portions, [0, most, most, 1, 0]);
        assert!(all.len() == 2 * most + 1 && all.contains(&name));
        let mut asked = 0;
        let stopped = files.strays(Duration::ZERO, &mut |_| {
            asked += 1;
            Err(std::io::ErrorKind::Interrupted.into())
        });
        assert!(stopped.is_err() && asked == 1);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_message_is_read_while_it_moves() {
        let root =
            std::env::temp_dir().join(format!("spool-files-{}", RequestId::random().unwrap()));
        let files = Files::open(&root).unwrap();
        let name = files.write("inbox", b"text").unwrap();
        let moved = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for flags in ["S", "FS"].iter().cycle().take(400) {
                    files.flag("inbox", &name, flags).unwrap();
                    std::thread::sleep(Duration::from_micros(200));
                }
                moved.store(true, Ordering::SeqCst);
            });
            while !moved.load(Ordering::SeqCst) {
                assert_eq!(files.read("inbox", &name, "", 100).unwrap(), b"text");
            }
        });
        files.remove("inbox", &name, "S");
        let gone = files.read("inbox", &name, "", 100).unwrap_err();
        assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
        fs::remove_dir_all(&root).unwrap();
    }
}
