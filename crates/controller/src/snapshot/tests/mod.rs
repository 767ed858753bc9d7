//! Snapshots in real files: whole, cut short, damaged, and set as traps.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Folder, SnapshotError, format};
use crate::limits::CHUNK_BYTES;
use crate::model::{ControllerId, Record};
use crate::shard::{Input, Output};
use crate::store::memory::MemDisk;
use crate::store::{self, Position, Snapshot, Store};
use crate::wire::peer::Manifest;

const MOST: u64 = 64 << 20;

/// A folder that goes when the test ends, however it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("evs-snapshot-{}-{next}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> Folder {
        Folder::open(&self.0, MOST).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn partner() -> ControllerId {
    "p.a-r_t".parse().unwrap()
}

fn record(n: u32, bytes: usize) -> Record {
    let body = (0..bytes).map(|at| (at as u32 ^ n).to_le_bytes()[0]).collect();
    Record { kind: 5, key: format!("{n:06}").into(), rank: n.to_be_bytes().to_vec(), body }
}

/// A table and its records.
fn table(count: u32, bytes: usize) -> (Box<dyn Snapshot>, Vec<Record>) {
    let mut store = MemDisk::new("it", 3).open().unwrap();
    let records: Vec<_> = (0..count).map(|n| record(n, bytes)).collect();
    for record in &records {
        store.put(record, None).unwrap();
    }
    store.commit().unwrap();
    (store.snapshots().unwrap(), records)
}

fn build(folder: &mut Folder, count: u32, bytes: usize) -> (Manifest, Vec<Record>) {
    let (mut snapshot, records) = table(count, bytes);
    (folder.build(&mut *snapshot).unwrap(), records)
}

fn chunk(folder: &mut Folder, manifest: &Manifest, index: u32) -> Vec<u8> {
    folder.read_chunk(manifest.snapshot, index).unwrap().unwrap()
}

fn read_all(folder: &mut Folder, snapshot: u128) -> Result<Vec<Record>, SnapshotError> {
    let mut all = Vec::new();
    loop {
        let records = folder.read(&partner(), snapshot)?;
        if records.is_empty() {
            return Ok(all);
        }
        all.extend(records);
    }
}

/// A whole snapshot that came.
fn receive(from: &mut Folder, to: &mut Folder, manifest: &Manifest) {
    let next = to.receive(&partner(), manifest).unwrap();
    for index in next..manifest.chunks {
        let data = chunk(from, manifest, index);
        to.write_chunk(&partner(), manifest.snapshot, index, &data).unwrap();
    }
}

#[test]
fn tables_of_all_sizes_go_through_files() {
    let (a, b) = (Scratch::new(), Scratch::new());
    for (count, bytes) in [(0, 0), (1, 0), (1, 60_000), (40, 30_000), (3000, 10)] {
        let (mut from, mut to) = (a.open(), b.open());
        let (manifest, records) = build(&mut from, count, bytes);
        assert_eq!(u64::from(count), manifest.records);
        assert_eq!(manifest.at.lsn, u64::from(count));
        assert!(format::check_manifest(&manifest).is_ok());
        receive(&mut from, &mut to, &manifest);
        assert_eq!(read_all(&mut to, manifest.snapshot).unwrap(), records);
        to.forget(&partner(), manifest.snapshot);
        assert_eq!(b.files(), Vec::<String>::new());
    }
}

#[test]
fn what_was_made_outlives_the_process_and_only_the_newest_stay() {
    let scratch = Scratch::new();
    let mut folder = scratch.open();
    let made: Vec<_> = (1..5).map(|count| build(&mut folder, count, 9).0).collect();
    assert_eq!(scratch.files().len(), 4);
    let mut folder = scratch.open();
    assert_eq!(folder.newest(), Some(&made[3]));
    assert_eq!(folder.read_chunk(made[0].snapshot, 0).unwrap(), None);
    assert!(folder.read_chunk(made[2].snapshot, 0).unwrap().is_some());
    assert!(matches!(folder.read_chunk(made[3].snapshot, 1), Err(SnapshotError::Unknown)));
    folder.drop_made(made[3].snapshot);
    assert_eq!(folder.newest(), Some(&made[2]));
    assert_eq!(scratch.open().newest(), Some(&made[2]));
    assert_eq!(scratch.files().len(), 2);
}

/// One that is retired goes on to whoever receives it; who asks for one gets another.
#[test]
fn what_is_retired_is_read_on_and_given_to_nobody_else() {
    let scratch = Scratch::new();
    let mut folder = scratch.open();
    let (old, _) = build(&mut folder, 3, 9);
    let serve = |folder: &mut Folder, output| folder.serve(output, &mut || Ok(table(4, 9).0));
    let order = || Output::BuildSnapshot { partner: partner() };
    let built = |done: Option<Input>| match done {
        Some(Input::SnapshotBuilt { manifest, .. }) => manifest.unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(built(serve(&mut folder, order())), old);
    let retire = Output::RetireSnapshot { snapshot: old.snapshot };
    assert!(serve(&mut folder, retire).is_none());
    assert!(folder.newest().is_none());
    let new = built(serve(&mut folder, order()));
    assert_ne!(new, old);
    assert_eq!(folder.newest(), Some(&new));
    chunk(&mut folder, &old, 0);
    folder.drop_made(old.snapshot);
    assert_eq!(folder.read_chunk(old.snapshot, 0).unwrap(), None);
}

#[test]
fn what_was_left_half_made_or_damaged_goes() {
    let scratch = Scratch::new();
    let (manifest, _) = build(&mut scratch.open(), 3, 9);
    let named = |end: &str| scratch.0.join(format!("made-{:032x}.{end}", manifest.snapshot));
    fs::write(scratch.0.join("unfinished"), b"x").unwrap();
    fs::write(scratch.0.join(format!("made-{:032x}.table", 7)), b"no manifest").unwrap();
    fs::write(scratch.0.join("letter"), b"not ours").unwrap();
    assert_eq!(scratch.open().newest(), Some(&manifest));
    assert_eq!(scratch.files().len(), 3);
    let whole = fs::read(named("manifest")).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        fs::write(named("manifest"), &damaged).unwrap();
        fs::write(named("table"), b"x").unwrap();
        assert_eq!(scratch.open().newest(), None, "byte {at}");
        assert_eq!(scratch.files(), ["letter"]);
    }
    // Cut short behind its back.
    let mut folder = scratch.open();
    let (manifest, _) = build(&mut folder, 3, 9);
    let path = scratch.0.join(format!("made-{:032x}.table", manifest.snapshot));
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(20).unwrap();
    assert_eq!(folder.read_chunk(manifest.snapshot, 0).unwrap(), None);
    assert_eq!(scratch.files(), ["letter"]);
}

#[test]
fn a_part_goes_on_at_the_first_missing_chunk_after_each_restart() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let mut from = a.open();
    let (manifest, records) = build(&mut from, 60, 30_000);
    assert!(manifest.chunks >= 6);
    for index in 0..manifest.chunks {
        let mut to = b.open();
        assert_eq!(to.receive(&partner(), &manifest).unwrap(), index);
        assert!(matches!(to.read(&partner(), manifest.snapshot), Err(SnapshotError::Unknown)));
        let data = chunk(&mut from, &manifest, index);
        to.write_chunk(&partner(), manifest.snapshot, index, &data).unwrap();
    }
    let mut to = b.open();
    assert_eq!(to.receive(&partner(), &manifest).unwrap(), manifest.chunks);
    assert_eq!(read_all(&mut to, manifest.snapshot).unwrap(), records);
    // Received anew it is read from the beginning, also half-way.
    assert_eq!(to.receive(&partner(), &manifest).unwrap(), manifest.chunks);
    let first = to.read(&partner(), manifest.snapshot).unwrap();
    assert!(first.len() < records.len());
    assert_eq!(to.receive(&partner(), &manifest).unwrap(), manifest.chunks);
    assert_eq!(read_all(&mut to, manifest.snapshot).unwrap(), records);
}

#[test]
fn chunks_that_never_came_to_the_disk_are_missing_after_a_restart() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let mut from = a.open();
    let (manifest, records) = build(&mut from, 60, 30_000);
    receive(&mut from, &mut b.open(), &manifest);
    let data = b.0.join("part-p.a-r_t.table");
    let chunks = b.0.join("part-p.a-r_t.chunks");
    let mut bytes = fs::read(&data).unwrap();
    bytes[2 * CHUNK_BYTES + 5] ^= 1;
    fs::write(&data, &bytes).unwrap();
    let mut to = b.open();
    assert_eq!(to.receive(&partner(), &manifest).unwrap(), 2);
    let again = chunk(&mut from, &manifest, 2);
    to.write_chunk(&partner(), manifest.snapshot, 2, &again).unwrap();
    assert_eq!(read_all(&mut to, manifest.snapshot).unwrap(), records);
    // Half of an entry at the end.
    let known = fs::read(&chunks).unwrap();
    fs::write(&chunks, &known[..known.len() - 3]).unwrap();
    let mut to = b.open();
    assert_eq!(to.receive(&partner(), &manifest).unwrap(), 2);
    to.write_chunk(&partner(), manifest.snapshot, 2, &again).unwrap();
    assert_eq!(b.open().receive(&partner(), &manifest).unwrap(), manifest.chunks);
}

#[test]
fn a_snapshot_that_is_not_what_its_manifest_says_is_thrown_away() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let mut from = a.open();
    let (manifest, _) = build(&mut from, 5, 100);
    let data = chunk(&mut from, &manifest, 0);
    for at in 0..data.len() {
        let mut to = b.open();
        assert_eq!(to.receive(&partner(), &manifest).unwrap(), 0);
        let mut damaged = data.clone();
        damaged[at] ^= 0x40;
        to.write_chunk(&partner(), manifest.snapshot, 0, &damaged).unwrap();
        let read = to.read(&partner(), manifest.snapshot);
        assert!(matches!(read, Err(SnapshotError::Unusable(_))), "byte {at}");
        assert_eq!(b.files(), Vec::<String>::new());
    }
}

/// A manifest for data as a peer that means ill would make it.
fn forged(data: &[u8], records: u64) -> Manifest {
    let digest = ring::digest::digest(&ring::digest::SHA256, data);
    Manifest {
        snapshot: 9,
        at: Position { run: 1, lsn: 1 },
        bytes: data.len() as u64,
        chunks: u32::try_from(data.len().div_ceil(CHUNK_BYTES)).unwrap(),
        records,
        digest: digest.as_ref().try_into().unwrap(),
    }
}

#[test]
fn files_that_a_peer_forged_are_errors_and_no_more() {
    let scratch = Scratch::new();
    let mut good = format::MAGIC.to_vec();
    for n in 0..3 {
        format::write_record(&mut good, &record(n, 20)).unwrap();
    }
    let read = |data: &[u8], records| {
        let mut folder = scratch.open();
        let manifest = forged(data, records);
        let next = folder.receive(&partner(), &manifest)?;
        assert_eq!(next, 0);
        if !data.is_empty() {
            folder.write_chunk(&partner(), 9, 0, data)?;
        }
        read_all(&mut folder, 9)
    };
    assert_eq!(read(&good, 3).unwrap().len(), 3);
    for records in [0, 1, 2, 4, 1000, u64::MAX] {
        assert!(matches!(read(&good, records), Err(SnapshotError::Unusable(_))), "{records}");
    }
    for length in 0..good.len() {
        let cut = read(&good[..length], 3);
        assert!(matches!(cut, Err(SnapshotError::Unusable(_))), "cut to {length}");
    }
    // Every byte with every bit, under a digest that fits: it reads as something, or is an error.
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut other = good.clone();
            other[at] ^= 1 << bit;
            if let Err(error) = read(&other, 3) {
                assert!(matches!(error, SnapshotError::Unusable(_)), "byte {at}, bit {bit}");
            }
        }
    }
    let mut huge = format::MAGIC.to_vec();
    huge.extend(u32::MAX.to_le_bytes());
    huge.extend([0; 60]);
    assert!(matches!(read(&huge, 1), Err(SnapshotError::Unusable(_))));
}

#[test]
fn manifests_and_chunks_out_of_bounds_are_refused() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let mut from = a.open();
    let (manifest, _) = build(&mut from, 12, 30_000);
    let mut to = Folder::open(&b.0, manifest.bytes - 1).unwrap();
    let refused = to.receive(&partner(), &manifest);
    assert!(matches!(refused, Err(SnapshotError::TooLarge { .. })));
    let mut to = b.open();
    for wrong in [
        Manifest { chunks: manifest.chunks + 1, ..manifest.clone() },
        Manifest { chunks: u32::MAX, bytes: u64::MAX, ..manifest.clone() },
        Manifest { bytes: u64::MAX, ..manifest.clone() },
        Manifest { records: u64::MAX, ..manifest.clone() },
    ] {
        let refused = to.receive(&partner(), &wrong);
        assert!(matches!(refused, Err(SnapshotError::Unusable(_))), "{wrong:?}");
    }
    assert_eq!(b.files(), Vec::<String>::new());
    to.receive(&partner(), &manifest).unwrap();
    let data = chunk(&mut from, &manifest, 0);
    let last = manifest.chunks - 1;
    for (snapshot, index, data) in [
        (manifest.snapshot, manifest.chunks, &data[..]),
        (manifest.snapshot, u32::MAX, &data[..]),
        (manifest.snapshot, last, &data[..]),
        (manifest.snapshot, 0, &data[1..]),
        (manifest.snapshot ^ 1, 0, &data[..]),
    ] {
        let refused = to.write_chunk(&partner(), snapshot, index, data);
        assert!(matches!(refused, Err(SnapshotError::Unknown)));
    }
    let (mut large, _) = table(100, 1000);
    let mut small = Folder::open(&a.0, 50_000).unwrap();
    assert!(matches!(small.build(&mut *large), Err(SnapshotError::TooLarge { .. })));
    assert!(!a.files().contains(&"unfinished".to_owned()));
}

/// A table that cannot be read to its end.
struct Broken;

impl Snapshot for Broken {
    fn read(
        &mut self,
        each: &mut dyn FnMut(&Record) -> std::io::Result<()>,
    ) -> store::Result<Position> {
        each(&record(1, 9)).unwrap();
        Err(store::StoreError::Damaged { what: "it".to_owned(), cause: "rot".to_owned() })
    }
}

#[test]
fn a_table_that_cannot_be_read_leaves_nothing() {
    let scratch = Scratch::new();
    let mut folder = scratch.open();
    assert!(matches!(folder.build(&mut Broken), Err(SnapshotError::Store(_))));
    assert_eq!(scratch.files(), Vec::<String>::new());
    assert!(folder.newest().is_none());
}

#[test]
fn links_in_the_folder_are_not_followed() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    let victim = other.0.join("victim");
    let precious = |path: &Path| assert_eq!(fs::read(path).unwrap(), b"precious");
    fs::write(&victim, b"precious").unwrap();
    let (manifest, records) = build(&mut other.open(), 3, 9);
    for name in ["unfinished", "part-p.a-r_t.table", "part-p.a-r_t.chunks"] {
        symlink(&victim, scratch.0.join(name)).unwrap();
    }
    let mut folder = scratch.open();
    assert_eq!(folder.receive(&partner(), &manifest).unwrap(), 0);
    let data = chunk(&mut other.open(), &manifest, 0);
    folder.write_chunk(&partner(), manifest.snapshot, 0, &data).unwrap();
    assert_eq!(read_all(&mut folder, manifest.snapshot).unwrap(), records);
    build(&mut folder, 3, 9);
    precious(&victim);
    // One made elsewhere, linked to here, is none of ours.
    let linked = Scratch::new();
    for end in ["table", "manifest"] {
        let name = format!("made-{:032x}.{end}", manifest.snapshot);
        symlink(other.0.join(&name), linked.0.join(&name)).unwrap();
    }
    assert!(linked.open().newest().is_none());
    assert_eq!(linked.files(), Vec::<String>::new());
    assert_eq!(other.open().newest(), Some(&manifest));
    precious(&victim);
}

#[test]
fn what_is_left_of_former_partners_goes() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let mut from = a.open();
    let (manifest, _) = build(&mut from, 3, 9);
    receive(&mut from, &mut b.open(), &manifest);
    let mut to = b.open();
    to.keep_partners(&[partner()]).unwrap();
    assert_eq!(to.receive(&partner(), &manifest).unwrap(), 1);
    to.keep_partners(&[]).unwrap();
    assert_eq!(b.files(), Vec::<String>::new());
}
