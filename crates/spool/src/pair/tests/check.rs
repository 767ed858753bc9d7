//! What must hold whatever happened.

use std::collections::HashMap;

use super::world::World;
use crate::pair::InDoubt;
use crate::request::{Kind, Outcome, RequestId};
use crate::target::Class;

/// What a sender knows of one of its requests.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) key: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) asked_at: u64,
    pub(super) acked_at: Option<u64>,
    pub(super) outcome: Option<Outcome>,
    /// The sender did not know for a while whether it was done.
    pub(super) was_in_doubt: bool,
    /// Reads: all acknowledged writes of the key when it was asked.
    pub(super) must_see: Vec<RequestId>,
}

pub(super) fn check(world: &World) {
    let seed = world.seed;
    let class = world.config.classes[0];
    let mut places: HashMap<RequestId, Vec<usize>> = HashMap::new();
    for (place, (_, id)) in world.storage.effects.iter().enumerate() {
        places.entry(*id).or_default().push(place);
    }
    let skips = class == Class::Opaque && world.config.in_doubt == InDoubt::Skip;
    for (id, told) in &world.told {
        if told.kind.only_looks() {
            check_read(world, told, &places);
            continue;
        }
        let times = places.get(id).map_or(0, Vec::len);
        if told.acked_at.is_some() && !skips {
            assert!(times >= 1, "seed {seed}: {id} was acknowledged and is lost: {told:?}");
        }
        if class == Class::Ledger || skips {
            assert!(times <= 1, "seed {seed}: {id} took effect {times} times: {told:?}");
        }
    }
    check_order(world, &places);
}

/// What was acknowledged before another was asked for comes before it.
fn check_order(world: &World, places: &HashMap<RequestId, Vec<usize>>) {
    let seed = world.seed;
    let class = world.config.classes[0];
    if class == Class::Opaque {
        return;
    }
    let mut by_key: HashMap<&[u8], Vec<(RequestId, u64, u64)>> = HashMap::new();
    for (id, told) in &world.told {
        // A delete that waits as reads do is ordered by its own sender alone.
        let is_ordered = told.kind != Kind::Delete || world.config.delete_as_write;
        if let (Some(acked), false, true) = (told.acked_at, told.kind.only_looks(), is_ordered) {
            by_key.entry(&told.key).or_default().push((*id, told.asked_at, acked));
        }
    }
    for (key, writes) in by_key {
        for (first, _, acked) in &writes {
            for (second, asked, _) in &writes {
                if acked >= asked || !places.contains_key(first) || !places.contains_key(second) {
                    continue;
                }
                // The last effect of each: without a ledger some come again, in their order.
                let (one, other) = (places[first].last(), places[second].last());
                assert!(
                    one < other,
                    "seed {seed}: {first} was acknowledged before {second} was asked for, and \
                     took effect after it (key {key:?})"
                );
            }
        }
    }
}

fn check_read(world: &World, told: &Told, places: &HashMap<RequestId, Vec<usize>>) {
    let seed = world.seed;
    let Some(Outcome::Applied { answer }) = &told.outcome else { return };
    if told.kind == Kind::Search || world.config.classes[0] == Class::Opaque {
        return;
    }
    let seen: Vec<RequestId> = answer
        .chunks_exact(16)
        .map(|bytes| RequestId(u128::from_be_bytes(bytes.try_into().unwrap())))
        .collect();
    // What was in doubt and is asked again may have been done before what it now stands behind in
    // the spool: only the ledger of a server that is away knows.
    if seen.last().is_some_and(|id| world.told[id].was_in_doubt) {
        return;
    }
    // An overlay gives the newest alone: nothing that was acknowledged may come after it.
    let newest = seen.iter().filter_map(|id| places.get(id)?.last()).max();
    for must in &told.must_see {
        let place = places.get(must).and_then(|places| places.first());
        assert!(
            seen.contains(must) || newest >= place,
            "seed {seed}: a read did not see {must}, acknowledged before: asked at {}",
            told.asked_at
        );
    }
}
