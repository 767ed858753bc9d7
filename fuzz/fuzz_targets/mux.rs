//! The multiplexer with a peer that says anything and a program that does anything, in any order.
//!
//! Nothing may panic or grow beyond the limits, and what one end sends the other must take.
#![no_main]

use arbitrary::Arbitrary;
use eversock_dedup::mux::{Limits, Mux, PAYLOAD_MAX_BYTES, Role, WINDOW_INITIAL_BYTES, news};
use libfuzzer_sys::fuzz_target;

const HEADER_BYTES: usize = 12;

#[derive(Arbitrary, Debug)]
enum Step {
    /// A frame, with as many bytes behind it as it says when it is not too many.
    Frame {
        kind: u8,
        flags: u8,
        stream: u8,
        length: u32,
    },
    Raw(Vec<u8>),
    Open,
    Accept(u8),
    Write {
        stream: u8,
        length: u16,
    },
    Read {
        stream: u8,
        length: u16,
    },
    Finish(u8),
    Close(u8),
    Reset {
        stream: u8,
        reason: u32,
    },
    GoAway(u32),
    Fill(u16),
    News,
    Wait(u32),
    Rtt(u32),
}

#[derive(Arbitrary, Debug)]
struct Input {
    is_server: bool,
    /// Whether the peer's part is spoken by another multiplexer, and not by the input.
    meets_another: bool,
    steps: Vec<(bool, Step)>,
}

const LIMITS: Limits = Limits {
    streams_max: 8,
    unacked_max: 4,
    window_max: 2 * WINDOW_INITIAL_BYTES,
    extra_max: WINDOW_INITIAL_BYTES as u64,
    queue_max: 20_000,
};

fn check(mux: &Mux) {
    let held: usize = (0..=255).map(|number| mux.readable(number)).sum();
    let granted = mux.len() as u64 * u64::from(WINDOW_INITIAL_BYTES) + LIMITS.extra_max;
    assert!(held as u64 <= granted, "{held} bytes are held, of {granted}");
    assert!(mux.len() <= LIMITS.streams_max);
    assert!((0..=255).all(|number| mux.room(number) <= LIMITS.queue_max));
}

/// Does it; what it is to be fed then.
fn act(mux: &mut Mux, step: &Step, now: &mut u64) -> Option<Vec<u8>> {
    match *step {
        Step::Frame { kind, flags, stream, length } => {
            let length = length % (3 * WINDOW_INITIAL_BYTES);
            let mut wire = vec![0, kind % 5, 0, flags, 0, 0, 0, stream];
            wire.extend(length.to_be_bytes());
            if kind % 5 == 0 {
                wire.resize(HEADER_BYTES + length as usize, flags);
            }
            return Some(wire);
        }
        Step::Raw(ref bytes) => return Some(bytes.clone()),
        Step::Open => drop(mux.open(*now)),
        Step::Accept(stream) => drop(mux.accept(stream.into())),
        Step::Write { stream, length } => {
            let room = mux.room(stream.into());
            if let Ok(n) = mux.write(stream.into(), &vec![7; length.into()]) {
                assert!(n <= room && n <= usize::from(length));
            }
        }
        Step::Read { stream, length } => {
            let there = mux.readable(stream.into());
            if let Ok(n) = mux.read(stream.into(), &mut vec![0; length.into()], *now) {
                assert_eq!(n, there.min(length.into()));
            }
        }
        Step::Finish(stream) => drop(mux.finish(stream.into())),
        Step::Close(stream) => mux.close(stream.into()),
        Step::Reset { stream, reason } => mux.reset_with(stream.into(), reason),
        Step::GoAway(code) => mux.go_away(code),
        Step::Fill(enough) => {
            let mut out = Vec::new();
            mux.fill(&mut out, enough.into());
            assert!(out.len() <= usize::from(enough) + 3 * HEADER_BYTES + PAYLOAD_MAX_BYTES);
        }
        Step::News => {
            if let Some((number, told)) = mux.next_news()
                && told & news::RESET == 0
            {
                assert_eq!(mux.reset_reason(number), None);
            }
        }
        Step::Wait(micros) => *now += u64::from(micros),
        Step::Rtt(micros) => mux.set_rtt(micros.into()),
    }
    None
}

fuzz_target!(|input: Input| {
    let roles = [Role::Client, Role::Server];
    let mut ends = [Mux::new(roles[0], LIMITS), Mux::new(roles[1], LIMITS)];
    let mut now = 0;
    for (second, step) in &input.steps {
        let at = usize::from(if input.meets_another { *second } else { input.is_server });
        if input.meets_another {
            // Only what the other has said, but cut where the input wants.
            match step {
                Step::Frame { .. } | Step::Raw(_) => continue,
                Step::Fill(enough) => {
                    let mut out = Vec::new();
                    ends[at].fill(&mut out, (*enough).into());
                    ends[1 - at].feed(&out, now).expect("one of ours breaks no rule");
                }
                _ => assert!(act(&mut ends[at], step, &mut now).is_none()),
            }
        } else if let Some(bytes) = act(&mut ends[at], step, &mut now)
            && bytes.chunks(4099).any(|part| ends[at].feed(part, now).is_err())
        {
            return;
        }
        ends.iter().for_each(check);
    }
});
