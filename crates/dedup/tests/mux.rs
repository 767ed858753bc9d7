//! Two ends of a session in memory, whatever the programs do and however the bytes are cut.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod pair;

use std::collections::{BTreeMap, BTreeSet};

use eversock_dedup::mux::{Limits, Mux, Role, StreamError, WINDOW_INITIAL_BYTES, news, reason};
use proptest::prelude::*;

use pair::{HEADER_BYTES, Pair};

/// What a program may do, at either end.
#[derive(Clone, Debug)]
enum Act {
    Open,
    Write { which: u8, length: u16 },
    Read { which: u8, length: u16 },
    Finish(u8),
    Close(u8),
    Reset { which: u8, why: u32 },
    Carry(u16),
    Wait(u16),
}

fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
    let act = prop_oneof![
        2 => Just(Act::Open),
        8 => (any::<u8>(), any::<u16>()).prop_map(|(which, length)| Act::Write { which, length }),
        8 => (any::<u8>(), any::<u16>()).prop_map(|(which, length)| Act::Read { which, length }),
        2 => any::<u8>().prop_map(Act::Finish),
        1 => any::<u8>().prop_map(Act::Close),
        1 => (any::<u8>(), any::<u32>()).prop_map(|(which, why)| Act::Reset { which, why }),
        10 => any::<u16>().prop_map(Act::Carry),
        1 => any::<u16>().prop_map(Act::Wait),
    ];
    prop::collection::vec((0..2_usize, act), 0..400)
}

/// What one direction of one stream is known to be by who writes and who reads it.
#[derive(Default)]
struct Lane {
    written: u64,
    read: u64,
    finished: bool,
}

/// The byte at an offset of a stream's direction.
fn byte(number: u32, from: usize, offset: u64) -> u8 {
    let stream = u64::from(number) * 7 + from as u64 * 101;
    (offset.wrapping_mul(31) ^ stream) as u8
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Each stream's bytes arrive in order, once, and no other's; ends are told only behind the
    /// last byte; nothing is held beyond the windows.
    #[test]
    fn streams_are_exact_whatever_happens_to_others(acts in acts()) {
        let limits = Limits { streams_max: 8, queue_max: 20_000, ..Limits::default() };
        let mut pair = Pair::new(limits);
        let mut lanes: BTreeMap<(u32, usize), Lane> = BTreeMap::new();
        let mut numbers: Vec<u32> = Vec::new();
        let mut left: BTreeMap<(u32, usize), ()> = BTreeMap::new();
        let mut reasons: BTreeSet<(u32, usize, u32)> = BTreeSet::new();
        for (end, act) in acts {
            let pick = |which: u8| numbers.get(usize::from(which) % numbers.len().max(1)).copied();
            match act {
                Act::Open => {
                    if let Ok(number) = pair.ends[end].open(pair.now) {
                        numbers.push(number);
                    }
                }
                Act::Write { which, length } => {
                    let Some(number) = pick(which) else { continue };
                    let lane = lanes.entry((number, end)).or_default();
                    let bytes: Vec<u8> = (0..u64::from(length))
                        .map(|at| byte(number, end, lane.written + at)).collect();
                    if let Ok(n) = pair.ends[end].write(number, &bytes) {
                        prop_assert!(!lane.finished);
                        lane.written += n as u64;
                    }
                }
                Act::Read { which, length } => {
                    let Some(number) = pick(which) else { continue };
                    let mut out = vec![0; usize::from(length)];
                    let lane = lanes.entry((number, 1 - end)).or_default();
                    if let Ok(n) = pair.ends[end].read(number, &mut out, pair.now) {
                        for at in &out[..n] {
                            prop_assert_eq!(*at, byte(number, 1 - end, lane.read));
                            lane.read += 1;
                        }
                        prop_assert!(lane.read <= lane.written);
                    }
                    if pair.ends[end].is_at_end(number) {
                        prop_assert!(lane.finished, "an end that nobody made");
                        prop_assert_eq!(lane.read, lane.written, "an end before the last byte");
                    }
                }
                Act::Finish(which) => {
                    let Some(number) = pick(which) else { continue };
                    if pair.ends[end].finish(number).is_ok() {
                        lanes.entry((number, end)).or_default().finished = true;
                    }
                }
                Act::Close(which) => {
                    let Some(number) = pick(which) else { continue };
                    if pair.ends[end].write(number, &[]) == Err(StreamError::Reset) {
                        // Gone, or still on its way.
                        continue;
                    }
                    pair.ends[end].close(number);
                    lanes.entry((number, end)).or_default().finished = true;
                    left.insert((number, end), ());
                }
                Act::Reset { which, why } => {
                    let Some(number) = pick(which) else { continue };
                    pair.ends[end].reset_with(number, why);
                    reasons.insert((number, end, why));
                }
                Act::Carry(max) => {
                    prop_assert!(pair.carry(end, usize::from(max)).is_ok());
                }
                Act::Wait(micros) => pair.now += u64::from(micros),
            }
            while let Some((number, news)) = pair.ends[end].next_news() {
                let told = pair.ends[end].reset_reason(number);
                prop_assert_eq!(told.is_some(), news & news::RESET != 0);
                if let Some(why) = told {
                    // One that is left with something unread, or for which there is no room, is
                    // reset by the multiplexer itself.
                    let is_its_own = why == reason::NONE || why == reason::FULL;
                    prop_assert!(is_its_own || reasons.contains(&(number, 1 - end, why)));
                }
                if news & news::OPENED != 0 {
                    prop_assert!(numbers.contains(&number));
                    let _gone = pair.ends[end].accept(number);
                }
            }
            for mux in &pair.ends {
                let held: usize = numbers.iter().map(|number| mux.readable(*number)).sum();
                prop_assert!(held <= mux.len() * WINDOW_INITIAL_BYTES as usize);
                prop_assert!(mux.len() <= limits.streams_max);
            }
        }
        // What both ends have left is forgotten, and nothing is lost of what nobody has left.
        for _ in 0..200 {
            pair.settle();
            for number in &numbers {
                for end in 0..2 {
                    let mut out = vec![0; 1 << 16];
                    if let Ok(n) = pair.ends[end].read(*number, &mut out, pair.now) {
                        let lane = lanes.entry((*number, 1 - end)).or_default();
                        for at in &out[..n] {
                            prop_assert_eq!(*at, byte(*number, 1 - end, lane.read));
                            lane.read += 1;
                        }
                    }
                }
            }
        }
        for number in &numbers {
            let lives = [0, 1].map(|end| {
                let is_left = left.contains_key(&(*number, end));
                !is_left && pair.ends[end].write(*number, &[]) != Err(StreamError::Reset)
            });
            if lives == [true, true] {
                for end in 0..2 {
                    let lane = lanes.entry((*number, end)).or_default();
                    prop_assert_eq!(lane.read, lane.written);
                    prop_assert_eq!(pair.ends[1 - end].is_at_end(*number), lane.finished);
                }
            }
            pair.ends[0].close(*number);
            pair.ends[1].close(*number);
        }
        pair.settle();
        while pair.ends[0].next_news().is_some() || pair.ends[1].next_news().is_some() {}
        prop_assert_eq!((pair.ends[0].len(), pair.ends[1].len()), (0, 0));
    }

    /// Whatever comes ends the session or is taken, and nothing is held beyond the bounds.
    #[test]
    fn arbitrary_bytes_never_panic_nor_grow_the_mux(
        frames in prop::collection::vec((0..5_u8, 0..16_u16, 0..12_u32, 0..70_000_u32), 0..200),
        cut in 1..5000_usize,
    ) {
        let limits = Limits { streams_max: 4, ..Limits::default() };
        let mut mux = Mux::new(Role::Server, limits);
        let mut wire = Vec::new();
        for (kind, flags, stream, length) in frames {
            wire.extend([0, kind]);
            wire.extend(flags.to_be_bytes());
            wire.extend(stream.to_be_bytes());
            wire.extend(length.to_be_bytes());
            if kind == 0 {
                wire.resize(wire.len() + length as usize, 9);
            }
        }
        for part in wire.chunks(cut) {
            if mux.feed(part, 1).is_err() {
                break;
            }
        }
        prop_assert!(mux.len() <= 4);
        let held: usize = (0..16).map(|number| mux.readable(number)).sum();
        prop_assert!(held <= 4 * WINDOW_INITIAL_BYTES as usize);
        let mut out = Vec::new();
        mux.fill(&mut out, usize::MAX);
        prop_assert!(out.len() <= 300 * HEADER_BYTES, "{} bytes", out.len());
    }
}
