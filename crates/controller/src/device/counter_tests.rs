#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use std::fs;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("evs-counter-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _there_is_none = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("counter")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn device() -> DeviceId {
    "device-1".parse().unwrap()
}

fn open(folder: &Folder) -> (CounterFile, Option<u64>) {
    CounterFile::open(&folder.file(), &device()).unwrap()
}

#[test]
fn goes_on_above_all_that_was_used_whenever_it_stops() {
    let folder = Folder::new("goes-on");
    let mut used = 0;
    for run in 0..40u64 {
        let (file, known) = open(&folder);
        let mut file = file.with_step(1 + run % 7);
        assert_eq!(known.is_none(), run == 0);
        let mut seq = known.unwrap_or(0);
        assert!(seq >= used, "{seq} after {used}");
        for _ in 0..run {
            seq += 1;
            file.save(seq).unwrap();
            assert!(seq > used);
            used = seq;
        }
        // Used nothing in the first run, and yet there is a file from now on.
        file.save(seq.max(1)).unwrap();
    }
    assert!(used >= 40 * 39 / 2);
}

#[test]
fn writes_once_in_a_step() {
    let folder = Folder::new("steps");
    let (mut file, _) = open(&folder);
    file.save(1).unwrap();
    let first = fs::read(folder.file()).unwrap();
    // What cannot be written is not: all of these are reserved.
    fs::remove_file(folder.file()).unwrap();
    for seq in 2..=64 {
        file.save(seq).unwrap();
    }
    assert!(!folder.file().exists());
    file.save(65).unwrap();
    let second = fs::read(folder.file()).unwrap();
    assert_eq!(parse(&first, &device()), Some(64));
    assert_eq!(parse(&second, &device()), Some(128));
}

#[test]
fn what_is_torn_or_flipped_is_not_believed() {
    let whole = compose(&device(), 77);
    assert_eq!(parse(&whole, &device()), Some(77));
    for length in 0..whole.len() {
        assert_eq!(parse(&whole[..length], &device()), None, "{length} bytes");
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[length] ^= 1 << bit;
            assert_eq!(parse(&flipped, &device()), None, "byte {length}, bit {bit}");
        }
    }
    let longer = [&whole[..], &[0]].concat();
    assert_eq!(parse(&longer, &device()), None);
    assert_eq!(parse(&compose(&"device-2".parse().unwrap(), 77), &device()), None);
    assert_eq!(parse(&compose(&device(), SEQ_MAX + 1), &device()), None);
}

#[test]
fn a_foreign_file_is_set_aside_and_not_overwritten() {
    let folder = Folder::new("foreign");
    let text = "something that somebody wrote\n".repeat(1_000);
    fs::write(folder.file(), &text).unwrap();
    let (mut file, known) = open(&folder);
    assert_eq!(known, None);
    file.save(5).unwrap();
    drop(file);
    assert_eq!(fs::read_to_string(folder.0.join("counter.set-aside")).unwrap(), text);
    assert_eq!(open(&folder).1, Some(68));
}

#[test]
fn a_crash_while_it_is_written_leaves_the_one_before() {
    let folder = Folder::new("crash");
    let (mut file, _) = open(&folder);
    file.save(10).unwrap();
    drop(file);
    // The new one was begun.
    fs::write(folder.0.join("counter.new"), &compose(&device(), 500)[..9]).unwrap();
    let (mut file, known) = open(&folder);
    assert_eq!(known, Some(73));
    file.save(74).unwrap();
    drop(file);
    assert_eq!(open(&folder).1, Some(137));
}

#[test]
fn only_one_process_has_it() {
    let folder = Folder::new("held");
    let first = open(&folder);
    let error = CounterFile::open(&folder.file(), &device()).unwrap_err();
    assert!(matches!(error, CounterError::Held(_)), "{error}");
    drop(first);
    open(&folder);
}

#[test]
fn what_cannot_be_written_is_said_and_tried_again() {
    let folder = Folder::new("full");
    let (mut file, _) = open(&folder);
    file.save(1).unwrap();
    // In the way of the new file.
    fs::create_dir(folder.0.join("counter.new")).unwrap();
    let error = file.save(65).unwrap_err();
    assert!(error.to_string().contains("cannot be written"), "{error}");
    assert!(file.save(65).is_err());
    fs::remove_dir(folder.0.join("counter.new")).unwrap();
    file.save(65).unwrap();
    drop(file);
    assert_eq!(open(&folder).1, Some(128));
}
