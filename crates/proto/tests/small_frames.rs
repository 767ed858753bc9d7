//! A small write in one step says and leaves behind what the general way does.
#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]

use std::io::IoSlice;
use std::sync::Arc;

use eversock_proto::limits::{HEADER_BYTES, WINDOW_MIN_BYTES};
use eversock_proto::send::{GATHER_SLICES, Sender};
use eversock_proto::wire::frame::Acks;
use proptest::prelude::*;

const SMALL_FRAME_BYTES: usize = HEADER_BYTES + 256;

/// What one side of a session goes through.
#[derive(Clone, Debug)]
enum Op {
    /// The program writes so much, and the connection takes so much of what is to go out.
    Write {
        bytes: usize,
        taken: usize,
    },
    /// All that is due goes out.
    Flush,
    /// So many frames of it do, whole: what then waits is no rest of a frame. Without this nothing
    /// showed that a small write may not overtake it; the simulation did (seed 130, 2026-11-21).
    FlushFrames(usize),
    /// The peer confirms a part of what was sent and gives credit.
    Ack {
        back: u64,
        credit: u64,
    },
    Stop,
    Goaway,
    WantAck,
    Finish,
    Reset,
    /// The connection is replaced; the peer lacks so much of what was sent.
    Epoch {
        back: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let most = SMALL_FRAME_BYTES - HEADER_BYTES;
    prop_oneof![
        12 => (1..=most + 1, prop_oneof![4 => Just(usize::MAX), 1 => 0..300usize])
            .prop_map(|(bytes, taken)| Op::Write { bytes, taken }),
        4 => Just(Op::Flush),
        3 => (0..3usize).prop_map(Op::FlushFrames),
        4 => (0..600u64, 0..4u64).prop_map(|(back, credit)| Op::Ack { back, credit }),
        1 => Just(Op::Stop),
        1 => Just(Op::Goaway),
        1 => Just(Op::WantAck),
        1 => Just(Op::Epoch { back: 100 }),
        1 => (0..600u64).prop_map(|back| Op::Epoch { back }),
    ]
}

fn ending() -> impl Strategy<Value = Op> {
    prop_oneof![Just(Op::Finish), Just(Op::Reset), Just(Op::Flush)]
}

/// One sender and all that its connections have taken.
struct End {
    sender: Sender,
    wire: Vec<u8>,
    small: bool,
    steps: usize,
}

impl End {
    fn new(small: bool) -> Self {
        let mut sender = Sender::new(Arc::default(), 0, WINDOW_MIN_BYTES);
        sender.begin_epoch(0).unwrap();
        Self { sender, wire: Vec::new(), small, steps: 0 }
    }

    fn acks(&self) -> Acks {
        Acks { ack: self.wire.len() as u64, window: 16 }
    }

    /// Offers what is due until the connection, which takes at most `limit` bytes, is full.
    fn flush(&mut self, limit: usize) {
        self.flush_some(limit, usize::MAX);
    }

    /// The same for at most `frames` frames.
    fn flush_some(&mut self, mut limit: usize, frames: usize) {
        for _ in 0..frames {
            if !self.sender.prepare(self.acks()) {
                return;
            }
            let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
            let (count, total) = self.sender.gather(&mut slices);
            let whole: Vec<u8> = slices[..count].iter().flat_map(|s| s.iter().copied()).collect();
            assert_eq!(whole.len(), total);
            let n = total.min(limit);
            self.wire.extend(&whole[..n]);
            self.sender.sent(n);
            limit -= n;
            if n < total {
                return;
            }
        }
    }

    fn write(&mut self, bytes: &[u8], limit: usize) {
        let mut out = [0; SMALL_FRAME_BYTES];
        let acks = self.acks();
        if self.small
            && let Some(total) = self.sender.write_frame(bytes, acks, &mut out)
        {
            self.steps += 1;
            let n = total.min(limit);
            self.wire.extend(&out[..n]);
            self.sender.sent(n);
            // What the connection did not take stays the next to go.
            assert_eq!(self.sender.is_mid_frame(), n < total);
            return;
        }
        self.sender.write(bytes);
        self.flush(limit);
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Write { bytes, taken } => {
                let at = self.sender.written() as usize;
                let content: Vec<u8> = (at..at + bytes).map(|i| i as u8).collect();
                self.write(&content, taken);
            }
            Op::Flush => self.flush(usize::MAX),
            Op::FlushFrames(frames) => self.flush_some(usize::MAX, frames),
            Op::Ack { back, credit } => {
                let ack = self.sender.cursor().saturating_sub(back).max(self.sender.acked());
                let ack = ack.min(self.sender.written());
                let edge = self.sender.edge().max(ack + credit * WINDOW_MIN_BYTES);
                self.sender.absorb(ack, edge).unwrap();
            }
            Op::Stop => self.sender.want_stop(7),
            Op::Goaway => self.sender.want_goaway(),
            Op::WantAck => self.sender.want_ack(),
            Op::Finish => self.sender.finish(),
            Op::Reset => self.sender.want_reset(3),
            Op::Epoch { back } => {
                let to = self.sender.cursor().min(self.sender.written());
                let from = to.saturating_sub(back).max(self.sender.acked());
                self.sender.begin_epoch(from.min(to)).unwrap();
            }
        }
    }
}

proptest! {
    #[test]
    fn a_small_write_in_one_step_is_the_general_way_in_short(
        ops in proptest::collection::vec(op(), 1..60),
        end in ending(),
        after in proptest::collection::vec(op(), 0..6),
    ) {
        let (mut short, mut long) = (End::new(true), End::new(false));
        for op in ops.iter().chain([&end]).chain(&after) {
            short.apply(op);
            long.apply(op);
            prop_assert_eq!(&short.wire, &long.wire, "after {:?}", op);
            let (a, b) = (&short.sender, &long.sender);
            prop_assert_eq!(
                (a.cursor(), a.acked(), a.written(), a.log_len(), a.given(), a.told()),
                (b.cursor(), b.acked(), b.written(), b.log_len(), b.given(), b.told())
            );
            prop_assert_eq!(
                (a.has_output(), a.is_mid_frame(), a.is_out_of_room(), a.is_done()),
                (b.has_output(), b.is_mid_frame(), b.is_out_of_room(), b.is_done())
            );
        }
    }
}

#[test]
fn most_small_writes_of_a_conversation_take_the_short_way() {
    let mut end = End::new(true);
    end.apply(&Op::Flush);
    for _ in 0..100 {
        end.apply(&Op::Write { bytes: 64, taken: usize::MAX });
        end.apply(&Op::Ack { back: 0, credit: 1 });
    }
    assert_eq!(end.steps, 100);
}
