//! What senders, fronts and servers of the spool say to each other: any frames, cut anywhere, with
//! any budget.
//!
//! Nothing may panic; a length alone takes no memory; what is read has one form only; and a body
//! without budget does not hide the next frame.
#![no_main]

use arbitrary::Arbitrary;
use eversock_spool::wire::frame::{self, HEAD_MAX, HEADER_BYTES};
use eversock_spool::wire::{FrameReader, Incoming, Message, SenderMessage, ServerMessage};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Piece {
    Frame {
        kind: u16,
        body: Vec<u8>,
    },
    /// A frame of this length.
    Long {
        kind: u8,
        length: u16,
    },
    Raw(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Input {
    budget: u16,
    limit: u32,
    pieces: Vec<Piece>,
}

fn read<M: Message>(kind: u16, body: &[u8]) {
    if let Ok(message) = M::decode(kind, body) {
        let mut again = Vec::new();
        frame::put(&message, &mut again).expect("what was read can be sent");
        assert_eq!(again[HEADER_BYTES..], *body);
        assert_eq!(message.kind(), kind);
    }
}

fuzz_target!(|input: Input| {
    let mut wire = Vec::new();
    for piece in &input.pieces {
        match piece {
            Piece::Frame { kind, body } => {
                wire.extend((body.len() as u32).to_le_bytes());
                wire.extend(kind.to_le_bytes());
                wire.extend(body);
            }
            Piece::Long { kind, length } => {
                wire.extend(u32::from(*length).to_le_bytes());
                wire.extend([*kind, 1]);
                wire.resize(wire.len() + usize::from(*length), *kind);
            }
            Piece::Raw(bytes) => wire.extend(bytes),
        }
    }
    let limit = input.limit as usize;
    let mut reader = FrameReader::new(wire.as_slice());
    let mut at = 0;
    loop {
        let mut left = usize::from(input.budget);
        let mut charge = |more: usize| {
            let fits = more <= left;
            left -= if fits { more } else { 0 };
            fits
        };
        let Ok(Some(incoming)) = reader.read_charged(limit, &mut charge) else { return };
        let length = u32::from_le_bytes(wire[at..at + 4].try_into().expect("four bytes")) as usize;
        assert!(length <= limit && at + HEADER_BYTES + length <= wire.len());
        let body = &wire[at + HEADER_BYTES..at + HEADER_BYTES + length];
        match incoming {
            Incoming::Whole(frame) => {
                assert_eq!(frame.body, body);
                read::<SenderMessage>(frame.kind, body);
                read::<ServerMessage>(frame.kind, body);
            }
            Incoming::Skipped(head) => {
                assert!(length > HEAD_MAX);
                assert_eq!(head.body, body[..HEAD_MAX]);
            }
        }
        at += HEADER_BYTES + length;
    }
});
