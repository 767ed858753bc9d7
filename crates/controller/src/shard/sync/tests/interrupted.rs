//! A snapshot of many chunks that is interrupted everywhere.

use super::world::World;
use crate::limits::{CHUNKS_IN_FLIGHT, UPDATE_WINDOW};

/// Records of the donor, which has nothing else; a chunk has six and a half.
const RECORDS: usize = 40;
const CHUNKS: u64 = 7;

fn donor_and_joiner(seed: u64, records: usize) -> World {
    let mut world = World::new(seed, &[(0, 1)], 4);
    world.is_strict = false;
    for n in 0..records {
        world.put(0, &format!("k{n:02}"), 40_000);
    }
    world.connect(0, 1);
    world
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Link,
    LinkAndChange,
    Joiner,
    Donor,
    Both,
    DonorLosesSnapshot,
    FileGone,
    JoinerLosesFolder,
    JoinerLosesAll,
    CommitFails,
    Resync,
    Pause,
}

const CUTS: [Cut; 12] = [
    Cut::Link,
    Cut::LinkAndChange,
    Cut::Joiner,
    Cut::Donor,
    Cut::Both,
    Cut::DonorLosesSnapshot,
    Cut::FileGone,
    Cut::JoinerLosesFolder,
    Cut::JoinerLosesAll,
    Cut::CommitFails,
    Cut::Resync,
    Cut::Pause,
];

impl Cut {
    fn apply(self, world: &mut World) {
        match self {
            Self::Link => world.cut(0, 1),
            Self::LinkAndChange => {
                world.cut(0, 1);
                world.put(0, "k07", 10);
                world.put(1, "mine", 10);
            }
            Self::Joiner => world.restart(1, |_| {}),
            Self::Donor => world.restart(0, |_| {}),
            Self::Both => {
                world.restart(0, |_| {});
                world.restart(1, |_| {});
            }
            Self::DonorLosesSnapshot => world.restart(0, |node| node.folder.lose_made()),
            Self::FileGone => world.nodes[0].folder.lose_made(),
            Self::JoinerLosesFolder => world.restart(1, |node| node.folder = Default::default()),
            Self::JoinerLosesAll => world.restart(1, |node| {
                node.disk.lose();
                node.folder = Default::default();
            }),
            Self::CommitFails => {
                world.faults.commit = 1;
                world.wait(1);
                world.faults.commit = 0;
            }
            Self::Resync => {
                world.step(1, |sync, step, _| sync.resync(step, &super::world::name(0)))
            }
            Self::Pause => {
                for paused in [true, false] {
                    world.step(1, |sync, _, _| {
                        sync.pause(None, paused);
                        Ok(())
                    });
                    while world.deliver() {}
                }
            }
        }
    }

    /// Nothing of what came is to be sent again, but for what was on its way.
    fn resumes(self) -> bool {
        use Cut::{Both, Donor, Joiner, Link, LinkAndChange, Pause};
        matches!(self, Link | LinkAndChange | Joiner | Donor | Both | Pause)
    }
}

#[test]
fn it_comes_through_whatever_happens_after_each_chunk_and_only_the_rest_is_sent_again() {
    for cut in CUTS {
        for chunks in 0..=CHUNKS {
            let mut world = donor_and_joiner(chunks, RECORDS);
            while world.nodes[1].folder.chunks_here() as u64 != chunks {
                assert!(world.deliver());
            }
            cut.apply(&mut world);
            world.settle();
            assert_eq!(world.all(0), world.all(1), "{cut:?} at {chunks}");
            assert!(world.all(1).len() >= RECORDS);
            let donor = &world.nodes[0].folder;
            if cut.resumes() {
                let most = CHUNKS + u64::from(CHUNKS_IN_FLIGHT);
                assert!(donor.chunks_read <= most, "{cut:?} at {chunks}: {}", donor.chunks_read);
                assert_eq!(donor.builds, 1, "{cut:?} at {chunks}");
            } else {
                assert!(donor.builds <= 2, "{cut:?} at {chunks}");
            }
        }
    }
}

#[test]
fn it_comes_through_whatever_happens_after_each_event() {
    for cut in CUTS {
        for seed in 0..3 {
            for events in 0..1000 {
                let mut world = donor_and_joiner(seed, 20);
                let is_over = (0..events).any(|_| !world.deliver());
                cut.apply(&mut world);
                world.settle();
                assert_eq!(world.all(0), world.all(1), "{cut:?} after {events}, seed {seed}");
                assert!(world.nodes[0].folder.builds <= 3, "{cut:?} after {events}, seed {seed}");
                assert_eq!(world.nodes[1].folder.chunks_here(), 0, "nothing stays behind");
                if is_over {
                    break;
                }
            }
        }
    }
}

#[test]
fn changes_go_on_while_a_snapshot_comes_and_follow_it() {
    let mut world = donor_and_joiner(5, RECORDS);
    for n in 0..60 {
        world.put(0, &format!("k{:02}", n % 50), 100);
        world.put(1, &format!("own {}", n % 9), 100);
        world.deliver();
    }
    world.settle();
    assert_eq!(world.all(0), world.all(1));
    assert_eq!(world.all(0).len(), 50 + 9);
    // It took more changes than make a snapshot, and yet there was but one.
    assert_eq!(world.nodes[0].folder.builds, 1);
}

#[test]
fn a_partner_that_is_near_gets_changes_within_the_window_and_no_snapshot() {
    let mut world = World::new(1, &[(0, 1)], 1000);
    world.connect(0, 1);
    world.settle();
    world.cut(0, 1);
    while world.deliver() {}
    for n in 0..200 {
        world.put(0, &format!("k{n}"), 60_000);
    }
    const { assert!(200 * 60_000 > 10 * UPDATE_WINDOW) };
    // The window is looked at with each message that is sent.
    world.settle();
    assert_eq!(world.all(0), world.all(1));
    assert_eq!(world.nodes[0].folder.builds, 0);
    assert_eq!(world.nodes[0].sync.counts().updates_sent, 200);
}

#[test]
fn what_a_partner_told_is_not_told_back() {
    let mut world = World::new(1, &[(0, 1), (1, 2)], 1000);
    world.connect(0, 1);
    world.connect(1, 2);
    world.settle();
    for n in 0..50 {
        world.put(0, &format!("k{n}"), 10);
    }
    world.settle();
    assert_eq!(world.all(0), world.all(2));
    let sent = |world: &World, n: usize| world.nodes[n].sync.counts().updates_sent;
    assert_eq!((sent(&world, 0), sent(&world, 1), sent(&world, 2)), (50, 50, 0));
}

#[test]
fn a_device_that_ended_and_was_purged_while_a_backup_still_had_it_does_not_stay_there() {
    let mut world = World::new(1, &[(0, 1)], 1000);
    world.is_strict = false;
    world.connect(0, 1);
    world.register(0, 1);
    world.settle();
    let backup = world.nodes[1].disk.backup();
    world.leave(0, 1);
    // It is confirmed and purged before the partner says how far its own table is by that.
    while world.deliver() {}
    world.purge(0);
    assert_eq!(world.all(0), []);
    world.cut(0, 1);
    world.restart(1, |node| node.disk.restore(backup));
    assert_eq!(world.standing(1).len(), 1);
    world.settle();
    // Its owner has heard of it again, and can end it.
    assert_eq!(world.standing(0), world.standing(1));
    world.leave(0, 1);
    world.settle();
    assert_eq!((world.standing(0), world.standing(1)), (Vec::new(), Vec::new()));
}
