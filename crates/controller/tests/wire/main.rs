//! Messages as bytes.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod answers;
mod common;
mod greeting;
mod limits;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;

use common::{client_message, peer_message};
use eversock_controller::limits::BATCH_MAX;
use eversock_controller::wire::client::ClientMessage;
use eversock_controller::wire::codes::kind;
use eversock_controller::wire::peer::{PeerMessage, SyncMessage};
use eversock_controller::wire::{HEADER_BYTES, Message, frame, header};
use proptest::collection::vec;
use proptest::prelude::*;

thread_local! {
    /// Bytes that this thread has ever asked for.
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.set(TAKEN.get() + layout.size());
        // SAFETY: the caller's word.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's word.
        unsafe { System.dealloc(at, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Decodes, and checks that it takes no more memory than a small multiple of what came.
fn decode<M: Message>(kind: u16, body: &[u8]) -> Option<M> {
    let before = TAKEN.get();
    let message = M::decode(kind, body);
    let taken = TAKEN.get() - before;
    assert!(taken <= 4096 + 16 * body.len(), "{taken} bytes for {} of {kind:#06x}", body.len());
    message.ok()
}

fn comes_back<M: Message + PartialEq + Debug>(message: &M) -> Result<(), TestCaseError> {
    let frame = frame(message);
    let (head, body) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
    prop_assert_eq!(header(*head), (body.len(), message.kind()));
    let back = decode::<M>(message.kind(), body);
    prop_assert_eq!(back.as_ref(), Some(message));
    for end in 0..body.len() {
        prop_assert!(decode::<M>(message.kind(), &body[..end]).is_none(), "cut at {end}");
    }
    let longer = [body, &[0]].concat();
    prop_assert!(decode::<M>(message.kind(), &longer).is_none());
    Ok(())
}

/// What is read has one form only.
fn is_read_or_refused<M: Message>(kind: u16, body: &[u8]) -> Result<(), TestCaseError> {
    if let Some(message) = decode::<M>(kind, body) {
        let mut again = Vec::new();
        message.encode(&mut again);
        prop_assert_eq!((message.kind(), again.as_slice()), (kind, body));
    }
    Ok(())
}

fn with_a_changed_byte<M: Message>(message: &M, at: usize, to: u8) -> Result<(), TestCaseError> {
    let mut body = Vec::new();
    message.encode(&mut body);
    if !body.is_empty() {
        let at = at % body.len();
        body[at] = to;
    }
    is_read_or_refused::<M>(message.kind(), &body)
}

#[test]
fn a_count_alone_takes_no_memory() {
    let resync = SyncMessage::Resync;
    let mut body = Vec::new();
    PeerMessage::Sync { partition: "a".parse().unwrap(), message: resync }.encode(&mut body);
    body.extend([0; 24]);
    body.extend(u32::try_from(BATCH_MAX).unwrap().to_le_bytes());
    // `decode` holds what is taken against what came.
    assert!(decode::<PeerMessage>(kind::SYNC_UPDATE, &body).is_none());
}

proptest! {
    #[test]
    fn a_clients_message_comes_back_as_it_went(message in client_message()) {
        comes_back(&message)?;
    }

    #[test]
    fn a_partners_message_comes_back_as_it_went(message in peer_message()) {
        comes_back(&message)?;
    }

    #[test]
    fn random_bytes_are_read_or_refused(
        kind in prop_oneof![
            any::<u16>(),
            0..5u16,
            0x100..0x112u16,
            0x200..0x209u16,
            0x300..0x30au16,
        ],
        body in vec(prop_oneof![Just(0), 0..9u8, any::<u8>()], 0..160),
    ) {
        is_read_or_refused::<ClientMessage>(kind, &body)?;
        is_read_or_refused::<PeerMessage>(kind, &body)?;
    }

    #[test]
    fn a_message_with_a_changed_byte_is_read_or_refused(
        one in client_message(),
        two in peer_message(),
        at in any::<usize>(),
        to in prop_oneof![any::<u8>(), 0..9u8],
    ) {
        with_a_changed_byte(&one, at, to)?;
        with_a_changed_byte(&two, at, to)?;
    }
}
