//! Thousands of histories: whatever happens, the tables agree in the end.

use super::world::{Faults, World};
use crate::model::Location;

const PAIR: &[(usize, usize)] = &[(0, 1)];
const LINE: &[(usize, usize)] = &[(0, 1), (1, 2)];
const RING: &[(usize, usize)] = &[(0, 1), (1, 2), (0, 2)];

/// What a history is made of.
#[derive(Clone, Copy)]
struct Mix {
    steps: u64,
    snapshot_from: u64,
    /// Bytes of the largest address.
    address: u64,
    purges: bool,
    /// Large records at the beginning.
    large: usize,
    losses: bool,
}

fn history(seed: u64, pairs: &[(usize, usize)], mix: Mix) -> World {
    let mut world = World::new(seed, pairs, mix.snapshot_from);
    world.is_strict = !mix.purges;
    if !seed.is_multiple_of(3) {
        world.faults = Faults { worker: 9, flip: 5, twice: 6, commit: 150 };
    }
    for n in 0..mix.large {
        world.put(n % 2, &format!("large {n}"), 40_000);
    }
    let nodes = world.nodes.len() as u64;
    for _ in 0..mix.steps {
        let n = usize::try_from(world.chance.below(nodes)).unwrap();
        let (a, b) = pairs[usize::try_from(world.chance.below(pairs.len() as u64)).unwrap()];
        match world.chance.below(100) {
            0..20 => {
                let device = world.chance.below(12);
                let address = usize::try_from(world.chance.below(mix.address)).unwrap();
                world.change(n, device, address);
            }
            20..22 => {
                let bytes = usize::try_from(world.chance.below(mix.address * 50)).unwrap();
                world.put(n, &format!("k{}", bytes % 5), bytes);
            }
            22..26 => world.connect(a, b),
            26..28 => world.cut(a, b),
            28..30 => {
                world.cut(a, b);
                world.connect(a, b);
            }
            30 => world.restart(n, |_| {}),
            31 if mix.losses => {
                let keeps_folder = world.chance.one_in(2);
                world.restart(n, |node| {
                    node.disk.lose();
                    if !keeps_folder {
                        node.folder = Default::default();
                    }
                });
            }
            32 => {
                let backup = world.nodes[n].disk.backup();
                world.nodes[n].backup = Some(backup);
            }
            33 if mix.losses => world.restart(n, |node| {
                if let Some(backup) = node.backup.clone() {
                    node.disk.restore(backup);
                }
            }),
            34..36 if mix.purges => world.purge(n),
            36 => {
                let other = super::world::name(if a == n { b } else { a });
                world.step(n, |sync, step, _| sync.resync(step, &other));
            }
            37 => {
                let paused = world.chance.one_in(2);
                world.step(n, |sync, _, _| {
                    sync.pause(None, paused);
                    Ok(())
                });
            }
            38..45 => {
                let by = world.chance.below(3000);
                world.wait(by);
            }
            _ => {
                world.deliver();
            }
        }
    }
    for n in 0..world.nodes.len() {
        world.step(n, |sync, _, _| {
            sync.pause(None, false);
            Ok(())
        });
    }
    world.settle();
    world
}

fn agree(world: &World, is_purged: bool, seed: u64) {
    for n in 1..world.nodes.len() {
        let look = if is_purged { World::standing } else { World::all };
        let (zero, other) = (look(world, 0), look(world, n));
        let differ: Vec<_> = zero
            .iter()
            .filter(|record| !other.contains(record))
            .map(|record| (0, record))
            .chain(other.iter().filter(|record| !zero.contains(record)).map(|record| (n, record)))
            .map(|(n, record)| (n, Location::from_record(record).ok(), record.kind))
            .collect();
        assert!(differ.is_empty(), "{differ:#?}\n0 and {n} differ, seed {seed}");
    }
}

#[test]
fn two_and_three_agree_after_cuts_restarts_and_faults() {
    for seed in 0..1500 {
        for pairs in [PAIR, LINE, RING] {
            let mix = Mix {
                steps: 250,
                snapshot_from: 4,
                address: 30,
                purges: false,
                large: 0,
                losses: false,
            };
            agree(&history(seed, pairs, mix), false, seed);
        }
    }
}

#[test]
fn two_and_three_agree_after_lost_disks_and_backups() {
    for seed in 0..1500 {
        for pairs in [PAIR, LINE, RING] {
            let mix = Mix {
                steps: 250,
                snapshot_from: 4,
                address: 30,
                purges: false,
                large: 0,
                losses: true,
            };
            agree(&history(seed, pairs, mix), false, seed);
        }
    }
}

#[test]
fn two_and_three_agree_although_ends_are_purged_in_between() {
    for seed in 0..1500 {
        for pairs in [PAIR, LINE, RING] {
            let mix = Mix {
                steps: 250,
                snapshot_from: 4,
                address: 30,
                purges: true,
                large: 0,
                losses: true,
            };
            agree(&history(seed, pairs, mix), true, seed);
        }
    }
}

#[test]
fn snapshots_of_many_chunks_come_through_as_well() {
    for seed in 0..150 {
        for pairs in [PAIR, LINE] {
            let mix = Mix {
                steps: 250,
                snapshot_from: 4,
                address: 20,
                purges: true,
                large: 30,
                losses: true,
            };
            agree(&history(seed, pairs, mix), true, seed);
        }
    }
}
