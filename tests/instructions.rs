//! The hot paths cost no more instructions than when they were last looked at.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

#[path = "common/callgrind.rs"]
mod callgrind;

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use callgrind::{Times, part};
use eversock::wait::{Epoll, poll};
use eversock::{VirtualListener, VirtualStream};
use eversock_proto::control::Role;
use eversock_proto::limits::HEADER_BYTES;
use eversock_proto::log::{Log, Pool};
use eversock_proto::seal::{Cipher, EpochKeys, Opener, Sealer};
use eversock_proto::wire::frame::{Acks, Header, Kind};

const SMALL: usize = 64;
const LARGE: usize = 16 << 10;
const SOME: Times = Times { before: 20, counted: 200, each: 1 };
/// Enough for windows to grow, and for some rounds of acks: the reader confirms a part of its
/// window at a time, and the writer looks for that once in a while.
const MANY: Times = Times { before: 600, counted: 1024, each: 1 };

#[test]
fn the_hot_paths_take_as_many_instructions_as_recorded() {
    if callgrind::is_counted() {
        frames();
        log();
        records();
        return session();
    }
    let test = "the_hot_paths_take_as_many_instructions_as_recorded";
    if let Some(figures) = callgrind::count(test, &[]) {
        callgrind::compare(&figures, &["proto: ", "direct: "]);
    }
}

fn frames() {
    const EACH: u64 = 64;
    let times = Times { before: 2, counted: 10, each: EACH };
    let acks = Acks { ack: 123_456_789, window: 64 };
    let header = Header { kind: Kind::Data, flags: 0, length: LARGE as u32, acks };
    let bytes = header.encode();
    part(
        "proto: a header to bytes",
        times,
        || (),
        || {
            for _ in 0..EACH {
                black_box(black_box(&header).encode());
            }
        },
    );
    part(
        "proto: bytes to a header",
        times,
        || (),
        || {
            for _ in 0..EACH {
                black_box(Header::decode(black_box(&bytes)));
            }
        },
    );
}

fn log() {
    let mut log = Log::busy(Arc::new(Pool::default()), 0);
    for (name, length) in [
        ("proto: 64 B into the log and confirmed", SMALL),
        ("proto: 16 KiB into the log and confirmed", LARGE),
    ] {
        let bytes = vec![7; length];
        part(
            name,
            SOME,
            || (),
            || {
                log.append(black_box(&bytes));
                log.trim(log.end());
            },
        );
    }
}

fn records() {
    let lanes = |role| EpochKeys::from_parts(Cipher::Aes256Gcm, [7; 32]).split(role);
    let ends = || -> (Sealer, Opener) { (lanes(Role::Client).0, lanes(Role::Server).1) };
    let frame = vec![3; HEADER_BYTES + LARGE];
    let record = RefCell::new(Vec::with_capacity(2 * LARGE));
    let fresh = || {
        let mut record = record.borrow_mut();
        record.clear();
        record.extend_from_slice(&frame);
    };
    let (mut sealer, _) = ends();
    part("proto: 16 KiB sealed, AES-256-GCM", SOME, fresh, || {
        assert!(sealer.seal(&mut record.borrow_mut()));
    });
    let (mut sealer, mut opener) = ends();
    let sealed = || {
        fresh();
        assert!(sealer.seal(&mut record.borrow_mut()));
    };
    part("proto: 16 KiB opened, AES-256-GCM", SOME, sealed, || {
        assert!(opener.open(&mut record.borrow_mut()).is_some());
    });
}

/// Both ends are this thread's, which never waits: what was written on loopback can be read.
fn session() {
    let listener = VirtualListener::bind("127.0.0.1:0").unwrap();
    let client = VirtualStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let buffer = RefCell::new(vec![0; LARGE]);
    let bytes = vec![5; LARGE];
    let write = |mut from: &VirtualStream, length: usize| {
        from.write_all(&bytes[..length]).unwrap();
    };
    let read = |mut to: &VirtualStream, length: usize| {
        to.read_exact(&mut buffer.borrow_mut()[..length]).unwrap();
    };
    for (size, length, times) in [("64 B", SMALL, SOME), ("16 KiB", LARGE, MANY)] {
        // What is left of the last send is read before the next.
        let left = Cell::new(0);
        let drain = || read(&server, left.replace(length));
        part(&format!("direct: send of {size}"), times, drain, || write(&client, length));
        drain();
        let sent = || write(&client, length);
        part(&format!("direct: receive of {size}"), times, sent, || read(&server, length));
    }
    part(
        "direct: round trip of 64 B, both ends",
        SOME,
        || (),
        || {
            write(&client, SMALL);
            read(&server, SMALL);
            write(&server, SMALL);
            read(&client, SMALL);
        },
    );
    write(&client, SMALL);
    let mut fds = [libc::pollfd { fd: server.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    part(
        "direct: poll of one session with input",
        SOME,
        || (),
        || {
            assert_eq!(poll(black_box(&mut fds), Some(Duration::ZERO)).unwrap(), 1);
        },
    );
    let epoll = Epoll::new().unwrap();
    epoll.add(&server, libc::EPOLLIN, 7).unwrap();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
    part(
        "direct: epoll of one session with input",
        SOME,
        || (),
        || {
            assert_eq!(epoll.wait(black_box(&mut events), Some(Duration::ZERO)).unwrap(), 1);
        },
    );
}
