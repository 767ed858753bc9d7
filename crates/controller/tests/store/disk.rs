//! Disks that are full or that fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use eversock_controller::store::sqlite::SqliteStores;
use eversock_controller::store::{Opens, Store, StoreError};

use eversock_controller::model::Standing;

use crate::common::{
    KIND, Maker, ROOMY, Scratch, SqliteMaker, home, location, record, skip, snapshot, wait_for,
};
use crate::crash::Promised;
use crate::writer::{Role, Said};

/// A disk of so many MiB.
struct SmallDisk {
    at: PathBuf,
    _scratch: Scratch,
}

impl SmallDisk {
    fn new(mebibytes: u32) -> Option<Self> {
        let scratch = Scratch::new();
        let at = scratch.path().join("disk");
        fs::create_dir(&at).unwrap();
        let size = format!("size={mebibytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "evs-table"]).arg(&at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { at, _scratch: scratch });
        }
        skip("no small disk can be mounted here (not root?)");
        None
    }

    fn stores(&self) -> SqliteStores {
        SqliteStores::new(&self.at, ROOMY)
    }

    /// Takes up all room that is left.
    fn fill(&self) -> PathBuf {
        let path = self.at.join(format!("filler-{}", crate::common::unique()));
        let mut file = fs::File::create(&path).unwrap();
        let block = vec![7; 64 << 10];
        let mut part = block.len();
        while part > 0 {
            if std::io::Write::write_all(&mut file, &block[..part]).is_err() {
                part /= 2;
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn is_full<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Full { .. }))
}

/// Commits records of 3000 bytes, eight at a time, until one call fails: how many were committed.
fn until_full(store: &mut dyn Store, from: u64) -> u64 {
    for batch in 0.. {
        let first = from + batch * 8;
        let mut job = || {
            for n in first..first + 8 {
                store.put(&record(&format!("key {n:06}"), n, 3000), None)?;
            }
            store.commit()
        };
        let done = job();
        if done.is_err() {
            assert!(is_full(&done), "{done:?}");
            return batch * 8;
        }
    }
    0
}

#[test]
fn a_full_disk() {
    let Some(disk) = SmallDisk::new(12) else { return };
    let mut store = disk.stores().open(&home()).unwrap();
    let kept = until_full(&mut *store, 0);
    assert!(kept > 300, "{kept}");
    // What the failed transaction has left undone is not gone on with.
    let refused = store.commit();
    assert!(matches!(refused, Err(StoreError::Failed { .. })), "{refused:?}");
    let old = eversock_controller::store::Position { run: store.run(), lsn: kept };
    drop(store);

    // It opens, tells what is there, and takes nothing.
    let filler = disk.fill();
    let mut store = disk.stores().open(&home()).unwrap();
    assert_eq!((store.head(), store.totals().unwrap().records), (kept, kept));
    assert!(store.reaches(old).unwrap());
    assert_eq!(store.scan(None, 10_000).unwrap().len() as u64, kept);
    let (at, read) = snapshot(&*store).unwrap();
    assert_eq!((at.lsn, read.len() as u64), (kept, kept));
    assert!(store.reaches(at).unwrap());
    // What is left of the reserve is not for records, and is there the next time as well.
    let mut more = 0;
    for n in 1..9 {
        let some = until_full(&mut *store, n * 100_000);
        // The first openings have cut the log, which made room.
        assert!(n < 5 || some < 50, "{n}: {some}");
        more += some;
        drop(store);
        let rest = disk.fill();
        store = disk.stores().open(&home()).unwrap();
        assert_eq!(store.head(), kept + more);
        fs::remove_file(rest).unwrap();
    }
    drop(store);

    fs::remove_file(filler).unwrap();
    let mut store = disk.stores().open(&home()).unwrap();
    let kept = kept + more;
    assert_eq!(store.head(), kept);
    assert_eq!(store.put(&record("key 000000", 1, 100), None).unwrap(), kept + 1);
    store.commit().unwrap();
    assert!(store.reaches(old).unwrap());
}

/// A device that comes while the disk is full is refused, and those that are served stay so.
#[test]
fn registrations_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(16) else { return };
    let stores = disk.stores();
    let mut store = stores.open(&home()).unwrap();
    let filler = disk.fill();
    for opened in 1.. {
        assert!(opened < 3, "it is opened anew again and again");
        let mut job = |n| {
            let new = location(&format!("first-{opened}-{n}"), 1, Standing::Registered, 900);
            store.put(&new, None)?;
            store.commit()
        };
        let failed = (0..100_000).find_map(|n| job(n).err()).unwrap();
        assert!(matches!(failed, StoreError::Full { .. }), "{failed}");
        if store.commit().is_ok() {
            break;
        }
        drop(store);
        store = stores.open(&home()).unwrap();
    }
    let kept = store.head();
    for n in 0..100 {
        let new = location(&format!("device-{n}"), 1, Standing::Registered, 10);
        assert!(is_full(&store.put(&new, None)));
        assert_eq!(store.get(new.kind, &new.key).unwrap(), None);
        store.commit().unwrap();
    }
    fs::remove_file(filler).unwrap();
    let new = location("device-1", 2, Standing::Registered, 10);
    wait_for("there is room again", || store.put(&new, None).is_ok());
    store.commit().unwrap();
    assert_eq!(store.head(), kept + 1);
}

#[test]
fn a_run_that_found_no_room_is_written_later() {
    let Some(disk) = SmallDisk::new(1) else { return };
    // There is no reserve, and cannot be one.
    fs::create_dir(disk.at.join(format!("{}.reserve", home()))).unwrap();
    drop(disk.stores().open(&home()).unwrap());
    let filler = disk.fill();
    // A page more each time, until the index of the log has room, and a transaction has not.
    let file = fs::File::options().write(true).open(&filler).unwrap();
    let size = file.metadata().unwrap().len();
    let mut opened = None;
    for pages in 1..40 {
        file.set_len(size - (pages << 12)).unwrap();
        opened = disk.stores().open(&home()).ok();
        if opened.is_some() {
            break;
        }
    }
    let mut store = opened.unwrap();
    let run = store.run();
    let before = snapshot(&*store).unwrap().0;
    assert!(before.run != run && store.reaches(before).unwrap());
    drop(file);
    fs::remove_file(filler).unwrap();
    store.put(&record("a", 1, 10), None).unwrap();
    store.commit().unwrap();
    let at = eversock_controller::store::Position { run, lsn: 1 };
    assert_eq!(snapshot(&*store).unwrap().0, at);
    drop(store);
    assert!(disk.stores().open(&home()).unwrap().reaches(at).unwrap());
}

#[test]
fn a_new_store_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(1) else { return };
    let filler = disk.fill();
    assert!(is_full(&disk.stores().open(&home())));
    fs::remove_file(filler).unwrap();
    drop(disk.stores().open(&home()).unwrap());
}

fn strace_is_missing() -> bool {
    let missing = Command::new("strace").arg("-V").output().is_err();
    if missing {
        skip("there is no strace here");
    }
    missing
}

/// A writer whose calls of this kind fail: those with these numbers, as strace counts them.
fn failing(calls: &str, error: &str, which: &str) -> (Promised, Vec<Said>) {
    let maker = SqliteMaker::new();
    drop(maker.open());
    let inject = format!("inject={calls}:error={error}:when={which}");
    let log = maker.0.path().join("strace");
    let trace = format!("trace={calls}");
    let under = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", &trace, "-e", &inject];
    let said = Role::sqlite(&maker, 40).start(&under).rest();
    assert!(fs::read_to_string(&log).unwrap().contains(error), "nothing failed at {which}");
    let mut promised = Promised::default();
    said.iter().for_each(|said| promised.add(said));
    promised.verify(&mut *maker.open());
    (promised, said)
}

fn count(said: &[Said], what: &Said) -> usize {
    said.iter().filter(|said| *said == what).count()
}

#[test]
fn a_disk_that_fails_once() {
    if strace_is_missing() {
        return;
    }
    for which in 4..16 {
        let (promised, said) = failing("fsync,fdatasync", "EIO", &which.to_string());
        assert_eq!(count(&said, &Said::Full), 0);
        assert!((1..3).contains(&count(&said, &Said::Failed)), "{which}: {said:?}");
        assert!(said.last() == Some(&Said::Over) && promised.last >= 40, "it went on");
    }
}

#[test]
fn a_disk_that_fails_for_good() {
    if strace_is_missing() {
        return;
    }
    let (promised, said) = failing("fsync,fdatasync", "EIO", "12+");
    assert!(count(&said, &Said::Failed) > 50);
    assert!(promised.last < 12, "acknowledged without a sync: {}", promised.last);
}

/// SQLite has no error of its own for that.
#[test]
fn a_quota_of_the_disk() {
    if strace_is_missing() {
        return;
    }
    let (promised, said) = failing("pwrite64", "EDQUOT", "60+");
    assert!(promised.last < 40 && count(&said, &Said::Full) > 50, "{said:?}");
    assert_eq!(count(&said, &Said::Failed), 0);
    // Once is no quota that is used up.
    let (_, said) = failing("pwrite64", "EIO", "60");
    assert_eq!((count(&said, &Said::Failed), count(&said, &Said::Full)), (1, 0), "{said:?}");
}

#[test]
fn a_folder_that_cannot_be_written() {
    let stores = SqliteStores::new(Path::new("/proc/nothing"), ROOMY);
    let refused = stores.open(&home()).err();
    assert!(matches!(refused, Some(StoreError::Failed { .. })), "{refused:?}");
    let maker = SqliteMaker::new();
    assert_eq!(maker.open().get(KIND, b"a").unwrap(), None);
    assert!(maker.stores().folder(&home()).is_dir());
}

#[test]
fn the_files_are_their_users_alone() {
    use std::os::unix::fs::PermissionsExt;
    let maker = SqliteMaker::new();
    let mut store = maker.open();
    store.put(&record("a", 1, 10), None).unwrap();
    store.commit().unwrap();
    for suffix in ["db", "db-wal", "db-shm", "lock", "reserve"] {
        let path = maker.0.path().join(format!("{}.{suffix}", home()));
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
}
