//! What several of the test files need: two sessions without a network, and frames by hand.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]

use std::sync::Arc;
use std::time::Duration;

use eversock_proto::control::Role;
use eversock_proto::open::Opened;
use eversock_proto::secret::{Secret, SessionId};
use eversock_proto::session::{Fault, Session, Start};
use eversock_proto::testing::{Pair, Side};
use eversock_proto::wire::frame::{Acks, Header, Kind};

/// Offsets at which 32-bit, signed and 64-bit arithmetic would show.
pub(crate) const STARTS: [u64; 4] = [0, (1 << 31) - 1000, (1 << 32) - 1000, (1 << 63) - 1000];

/// A window of 64 KiB that does not grow.
pub(crate) const WINDOW: u64 = 64 * 1024;

/// One end, with both directions beginning at 0.
pub(crate) fn session(role: Role) -> Session {
    session_with(role, WINDOW)
}

pub(crate) fn session_with(role: Role, window_max: u64) -> Session {
    let opened = Opened {
        id: SessionId([1; 16]),
        secret: Secret::from_bytes([2; 32]),
        window: WINDOW,
        grace: Duration::ZERO,
        addrs: Vec::new(),
        peer: None,
        shares: false,
        cipher: None,
        keys: None,
    };
    let start = Start { send: 0, receive: 0, window: WINDOW, window_max };
    Session::new(role, opened, &start, Arc::default())
}

/// A client and a server whose first STARTs have been exchanged.
pub(crate) fn sessions() -> (Session, Session) {
    let (mut a, mut b) = (session(Role::Client), session(Role::Server));
    pass(&mut a, &mut b).unwrap();
    pass(&mut b, &mut a).unwrap();
    (a, b)
}

/// All that `from` has to say goes to `to`; gives the number of bytes.
pub(crate) fn pass(from: &mut Session, to: &mut Session) -> Result<usize, Fault> {
    let bytes = from.transmit(usize::MAX);
    to.handle_bytes(&bytes)?;
    Ok(bytes.len())
}

/// Both ends speak until neither has anything to say.
pub(crate) fn talk(a: &mut Session, b: &mut Session) {
    while pass(a, b).unwrap() + pass(b, a).unwrap() > 0 {}
}

/// A new epoch at both ends, each quoting what it has now.
pub(crate) fn new_epoch(a: &mut Session, b: &mut Session) {
    let (quoted_by_a, quoted_by_b) = (a.rx.next(), b.rx.next());
    a.begin_epoch(quoted_by_b).unwrap();
    b.begin_epoch(quoted_by_a).unwrap();
}

/// Reads all that is there.
pub(crate) fn read_all(session: &mut Session) -> Vec<u8> {
    let mut buf = vec![0; session.rx.stashed()];
    let n = session.read(&mut buf);
    buf.truncate(n);
    buf
}

/// A frame with any header fields.
pub(crate) fn frame(kind: Kind, acks: Acks, body: &[u8]) -> Vec<u8> {
    let header = Header { kind, flags: 0, length: body.len() as u32, acks };
    let mut out = header.encode().to_vec();
    out.extend_from_slice(body);
    out
}

/// A control frame with an offset or code as its body.
pub(crate) fn control(kind: Kind, value: u64) -> Vec<u8> {
    frame(kind, Acks::default(), &value.to_le_bytes())
}

pub(crate) fn start(offset: u64) -> Vec<u8> {
    control(Kind::Start, offset)
}

pub(crate) fn data(bytes: &[u8]) -> Vec<u8> {
    frame(Kind::Data, Acks::default(), bytes)
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Both programs write a little and read what the other wrote; nothing may be missing.
pub(crate) fn exchange(pair: &mut Pair) {
    for side in Side::BOTH {
        assert_eq!(pair.write_some(side, 500), 500, "{side:?} cannot write: {pair:?}");
    }
    let came = pair.run_until(secs(300), |pair| {
        for side in Side::BOTH {
            while pair.read(side, 4096) > 0 {}
        }
        Side::BOTH.iter().all(|&side| pair.end(side).read() == pair.end(side.other()).written())
    });
    assert!(came, "bytes are missing: {pair:?}");
}

/// Both programs finish, read to the end, and the session ends in order.
pub(crate) fn finish(pair: &mut Pair) {
    for side in Side::BOTH {
        pair.shutdown_write(side);
    }
    let over = pair.run_until(secs(900), |pair| {
        for side in Side::BOTH {
            while pair.read(side, 4096) > 0 {}
        }
        Side::BOTH.iter().all(|&side| pair.end(side).ending().is_some())
    });
    assert!(over, "somebody waits for ever: {pair:?}");
    for side in Side::BOTH {
        assert_eq!(pair.end(side).read(), pair.end(side.other()).written(), "{pair:?}");
        assert!(pair.end(side).is_at_end(), "{pair:?}");
    }
}
