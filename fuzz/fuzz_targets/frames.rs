//! What a peer may say on a proven connection: whole frames, nonsense, and both cut at any byte,
//! straight into the program's buffer and by way of the stash.
//!
//! Nothing may panic; no payload may lie beyond the credit; both ways in agree.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use eversock_proto::limits::HEADER_BYTES;
use eversock_proto::recv::{Receiver, Violation};
use eversock_proto::wire::frame::{Acks, Header, Kind};
use libfuzzer_sys::fuzz_target;

const WINDOW: u64 = 16 * 1024;

#[derive(Arbitrary, Debug)]
enum Piece {
    Frame {
        kind: u8,
        flags: u8,
        window: u16,
        ack: u64,
        body: Vec<u8>,
    },
    /// A header whose length is not its body's.
    Lie {
        kind: u8,
        length: u32,
        body: Vec<u8>,
    },
    Raw(Vec<u8>),
    /// A new connection begins.
    Epoch,
}

#[derive(Arbitrary, Debug)]
struct Input {
    starts: bool,
    pieces: Vec<Piece>,
    /// Sizes of the reads and of the program's buffers.
    reads: Vec<(u16, u16)>,
}

fn kind(of: u8) -> Kind {
    const ALL: [Kind; 8] = [
        Kind::Start,
        Kind::Data,
        Kind::Ack,
        Kind::Fin,
        Kind::Reset,
        Kind::Stop,
        Kind::Addrs,
        Kind::Goaway,
    ];
    ALL[usize::from(of) % ALL.len()]
}

fn put(wire: &mut Vec<u8>, kind: Kind, flags: u8, acks: Acks, length: u32, body: &[u8]) {
    wire.extend(Header { kind, flags, length, acks }.encode());
    wire.extend(body);
}

/// The connections of the input, each as the bytes that come over it.
fn connections(input: &Input) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    let begin = |wire: &mut Vec<u8>| {
        if input.starts {
            put(wire, Kind::Start, 0, Acks { ack: 0, window: 4 }, 8, &0u64.to_le_bytes());
        }
    };
    begin(&mut all[0]);
    for piece in &input.pieces {
        let Some(wire) = all.last_mut() else { continue };
        match piece {
            Piece::Frame { kind: of, flags, window, ack, body } => {
                let acks = Acks { ack: *ack, window: *window };
                put(wire, kind(*of), flags & 1, acks, body.len() as u32, body);
            }
            Piece::Lie { kind: of, length, body } => {
                put(wire, kind(*of), 0, Acks::default(), *length, body);
            }
            Piece::Raw(bytes) => wire.extend(bytes),
            Piece::Epoch => {
                let mut wire = Vec::new();
                begin(&mut wire);
                all.push(wire);
            }
        }
    }
    all
}

/// Reads one connection with buffers of the program's; what came, and what condemned it.
fn read_straight(
    receiver: &mut Receiver,
    wire: &[u8],
    reads: &mut impl Iterator<Item = (u16, u16)>,
) -> (Vec<u8>, Option<Violation>) {
    let (mut got, mut at) = (Vec::new(), 0);
    loop {
        let (take, room) = reads.next().unwrap_or((1, 1));
        let mut buf = vec![0; 1 + usize::from(room) % 5000];
        let stashed = receiver.read_stash(&mut buf);
        if stashed > 0 {
            got.extend(&buf[..stashed]);
            continue;
        }
        if at == wire.len() {
            return (got, receiver.violation());
        }
        let take = 1 + usize::from(take) % 7000;
        if !receiver.is_direct() {
            let n = take.min(wire.len() - at);
            let fed = receiver.feed(&wire[at..at + n]);
            at += n;
            if let Err(violation) = fed {
                let mut rest = vec![0; receiver.stashed()];
                let n = receiver.read_stash(&mut rest);
                got.extend(&rest[..n]);
                return (got, Some(violation));
            }
            continue;
        }
        let left = receiver.payload_left();
        let front = left.min(buf.len());
        let whole = left <= buf.len();
        let space = if whole { receiver.header_space().len() } else { 0 };
        let rest = if whole { buf.len() - front } else { 0 };
        let n = take.min(front + space + rest).min(wire.len() - at);
        let bytes = &wire[at..at + n];
        at += n;
        let (first, behind) = bytes.split_at(n.min(front));
        let (middle, last) = behind.split_at(behind.len().min(space));
        buf[..first.len()].copy_from_slice(first);
        if !middle.is_empty() {
            receiver.header_space()[..middle.len()].copy_from_slice(middle);
        }
        buf[front..front + last.len()].copy_from_slice(last);
        match receiver.accept(&mut buf, front, n) {
            Ok(count) => got.extend(&buf[..count]),
            Err(violation) => return (got, Some(violation)),
        }
        if receiver.violation().is_some() {
            return (got, receiver.violation());
        }
    }
}

fuzz_target!(|input: Input| {
    let mut straight = Receiver::new(Arc::default(), 0, WINDOW);
    let mut stashing = Receiver::new(Arc::default(), 0, WINDOW);
    let mut reads = input.reads.iter().copied();
    for wire in connections(&input) {
        straight.begin_epoch();
        stashing.begin_epoch();
        let (got, broken) = read_straight(&mut straight, &wire, &mut reads);
        let fed = stashing.feed(&wire);
        let mut all = vec![0; stashing.stashed()];
        let n = stashing.read_stash(&mut all);
        assert_eq!(n as u64 + (stashing.consumed() - n as u64), stashing.consumed());
        // The one consumes while it reads, which gives credit; so it may get further.
        if fed != Err(Violation::BeyondCredit) && broken.is_none() {
            assert_eq!(got, all, "the two ways in differ");
            assert_eq!(fed, Ok(()));
        }
        assert!(straight.stashed() as u64 <= WINDOW && n as u64 <= WINDOW);
        if broken.is_some() || fed.is_err() {
            return;
        }
        assert!(wire.len() >= HEADER_BYTES || got.is_empty());
        let _news = (straight.take_news(), stashing.take_news());
    }
});
