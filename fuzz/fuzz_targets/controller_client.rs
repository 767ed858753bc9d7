//! What devices, third parties and controllers say to each other: any bodies of any types.
//!
//! Nothing may panic; what is read has one form only, and can be sent.
#![no_main]

use eversock_controller::limits::MESSAGE_MAX;
use eversock_controller::wire::client::ClientMessage;
use eversock_controller::wire::{HEADER_BYTES, Message, frame, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (kind, body) = input;
    let Ok(message) = ClientMessage::decode(kind, body) else { return };
    let again = frame(&message);
    assert!(again.len() <= MESSAGE_MAX + HEADER_BYTES);
    let (head, rest) = again.split_first_chunk::<HEADER_BYTES>().expect("a header");
    assert_eq!((header(*head), rest), ((body.len(), kind), body));
});
