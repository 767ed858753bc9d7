//! A sealed session with somebody on its path, who has no key: whatever he does to its bytes, the
//! program gets a prefix of what was written, and what was changed ends the connection.
#![no_main]

use std::io::IoSlice;
use std::sync::Arc;

use arbitrary::Arbitrary;
use eversock_proto::control::Role;
use eversock_proto::recv::Receiver;
use eversock_proto::seal::{Cipher, EpochKeys};
use eversock_proto::send::{GATHER_SLICES, Sender};
use eversock_proto::wire::frame::Acks;
use libfuzzer_sys::fuzz_target;

const WINDOW: u64 = 256 * 1024;

#[derive(Arbitrary, Debug)]
enum Harm {
    Flip { at: u32, mask: u8 },
    Cut(u32),
    Remove { at: u32, len: u16 },
    Insert { at: u32, bytes: Vec<u8> },
    Copy { from: u32, len: u16, to: u32 },
}

#[derive(Arbitrary, Debug)]
struct Input {
    aes: bool,
    writes: Vec<u16>,
    finish: bool,
    stop: bool,
    harms: Vec<Harm>,
    reads: Vec<(u16, u16)>,
    straight: bool,
}

fn keys(aes: bool) -> EpochKeys {
    EpochKeys::from_parts(if aes { Cipher::Aes256Gcm } else { Cipher::Chacha20Poly1305 }, [9; 32])
}

/// What goes over the wire, and the payload in it.
fn wire(input: &Input) -> (Vec<u8>, Vec<u8>) {
    let mut sender = Sender::new(Arc::default(), 0, WINDOW);
    sender.set_sealed();
    sender.begin_epoch(0).expect("begins");
    sender.seal_with(keys(input.aes).split(Role::Client).0);
    let (mut wire, mut payload) = (Vec::new(), Vec::new());
    let mut flush = |sender: &mut Sender| {
        while sender.prepare(Acks { ack: 0, window: 64 }) {
            let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
            let (count, n) = sender.gather(&mut slices);
            slices[..count].iter().for_each(|slice| wire.extend_from_slice(slice));
            sender.sent(n);
        }
    };
    for &length in input.writes.iter().take(16) {
        let from = payload.len();
        let bytes: Vec<u8> =
            (from..from + usize::from(length)).map(|at| (at % 251) as u8).collect();
        let n = sender.write(&bytes);
        payload.extend(&bytes[..n]);
        flush(&mut sender);
    }
    if input.stop {
        sender.want_stop(3);
    }
    if input.finish {
        sender.finish();
    }
    flush(&mut sender);
    (wire, payload)
}

/// Gives the bytes after all that was done to them.
fn harmed(mut wire: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
    for harm in harms.iter().take(8) {
        let len = wire.len();
        let at = |at: u32| at as usize % (len + 1);
        match harm {
            Harm::Flip { at: place, mask } => {
                if let Some(byte) = wire.get_mut(at(*place)) {
                    *byte ^= mask;
                }
            }
            Harm::Cut(to) => wire.truncate(at(*to)),
            Harm::Remove { at: place, len: n } => {
                let from = at(*place);
                wire.drain(from..len.min(from + usize::from(*n)));
            }
            Harm::Insert { at: place, bytes } => {
                let place = at(*place);
                wire.splice(place..place, bytes.iter().copied());
            }
            Harm::Copy { from, len: n, to } => {
                let from = at(*from);
                let part = wire[from..len.min(from + usize::from(*n))].to_vec();
                let to = at(*to);
                wire.splice(to..to, part);
            }
        }
    }
    wire
}

fuzz_target!(|input: Input| {
    let (sent, payload) = wire(&input);
    let came = harmed(sent.clone(), &input.harms);
    let mut receiver = Receiver::new(Arc::default(), 0, WINDOW);
    receiver.set_sealed();
    receiver.begin_epoch();
    receiver.open_with(keys(input.aes).split(Role::Server).1);
    let mut reads = input.reads.iter().copied().chain(std::iter::repeat((u16::MAX, u16::MAX)));
    let (mut got, mut at, mut broken) = (Vec::new(), 0, false);
    while at < came.len() && !broken {
        let (take, room) = reads.next().unwrap_or((1, 1));
        let most = (usize::from(take) + 1).min(came.len() - at);
        if input.straight {
            let mut out = vec![0; usize::from(room)];
            let n = receiver.read_stash(&mut out);
            got.extend(&out[..n]);
            let space = receiver.record_space();
            let n = most.min(space.len());
            space[..n].copy_from_slice(&came[at..at + n]);
            at += n;
            let mut out = vec![0; if receiver.stashed() > 0 { 0 } else { usize::from(room) }];
            match receiver.accept_records(n, &mut out) {
                Ok(n) => got.extend(&out[..n]),
                Err(_) => broken = true,
            }
        } else {
            broken = receiver.feed(&came[at..at + most]).is_err();
            at += most;
        }
    }
    let mut rest = vec![0; receiver.stashed()];
    let n = receiver.read_stash(&mut rest);
    got.extend(&rest[..n]);
    assert!(payload.starts_with(&got), "something else than what was written");
    if came == sent {
        assert!(!broken && got == payload, "nothing was done to it");
        assert_eq!(receiver.fin_seen(), input.finish);
    } else if receiver.fin_seen() {
        assert_eq!(got, payload, "an end before the end");
    }
});
