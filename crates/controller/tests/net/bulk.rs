//! Snapshots that are interrupted.

use std::time::{Duration, Instant};

use eversock_controller::limits::CHUNK_BYTES;

use crate::lab::{Lab, PARAMETERS};
use crate::site::{PATIENCE, wait_for};

/// Records of so many bytes in the donor's table: seven chunks and a bit.
const STRANGE: (u32, usize) = (60, 32 << 10);
const CHUNKS: u32 = 8;

enum Break {
    Line,
    Joiner,
    Donor,
}

/// The chunks that the joiner has, of how many.
fn chunks(lab: &mut Lab) -> Option<(u32, u32)> {
    let status = lab.status("b");
    let of_a = status.partitions.into_iter().find(|partition| partition.name == "a")?;
    of_a.sync.into_iter().find(|sync| sync.partner == "a")?.chunks
}

/// One snapshot goes from `a` to `b`, whose disk is empty, while `c` is not there. It is
/// interrupted when there are 0, 1, 2... chunks of it, each time in the same way.
fn interrupted(name: &str, how: &Break) {
    let Some(mut lab) = Lab::new(name) else { return };
    assert!(STRANGE.0 as usize * STRANGE.1 > (CHUNKS as usize - 1) * CHUNK_BYTES);
    for controller in ["a", "b", "c"] {
        lab.setup(controller).parameters = format!("{PARAMETERS}snapshot-from = 10\n");
    }
    lab.setup("a").strange = STRANGE;
    // A chunk takes about half a second.
    lab.throttle("a", "b", "4mbit");
    for controller in ["a", "b"] {
        lab.start(controller);
    }
    lab.setup("a").strange = (0, 0);
    let mut broken = Vec::new();
    let mut next = 0;
    let until = Instant::now() + 2 * PATIENCE;
    while next < CHUNKS {
        assert!(Instant::now() < until, "broken at {broken:?} only");
        let Some((have, all)) = chunks(&mut lab) else {
            let loaded = lab.status("b").counts.snapshots_received > 0;
            assert!(!loaded, "loaded before it was broken at {next}");
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        assert_eq!(all, CHUNKS);
        // It goes on where it was; none are seen until it has been looked what there is.
        let goes_on = have == 0 || broken.last().is_none_or(|last| have >= *last);
        assert!(goes_on, "{have} after {broken:?}");
        if have < next {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        broken.push(have);
        next = have + 1;
        match how {
            Break::Line => {
                lab.cut("a", "b");
                wait_for("the link is given up", || {
                    lab.status("b").partners.iter().any(|l| l.partner == "a" && l.state != "up")
                });
                lab.heal("a", "b");
            }
            Break::Joiner => {
                lab.kill("b");
                lab.start("b");
            }
            Break::Donor => {
                lab.kill("a");
                lab.start("a");
            }
        }
    }
    assert!(broken.len() >= 5, "{broken:?}");
    wait_for("it is there", || lab.ask("a", "digest") == lab.ask("b", "digest"));
    let of_a = lab.status("b").partitions.into_iter().find(|one| one.name == "a").unwrap();
    assert_eq!(of_a.records, u64::from(STRANGE.0));
    println!("{name}: broken at {broken:?}");
    lab.close(name);
}

#[test]
fn bulk_interrupted_at_each_chunk() {
    interrupted("bulk-line", &Break::Line);
}

#[test]
fn bulk_whose_joiner_dies_at_each_chunk() {
    interrupted("bulk-joiner", &Break::Joiner);
}

#[test]
fn bulk_whose_donor_dies_at_each_chunk() {
    interrupted("bulk-donor", &Break::Donor);
}
