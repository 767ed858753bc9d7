//! What happens to descriptors, in one test: it counts those of the whole process.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use common::limit::Limit;
use common::{data, pair, wait_until};
use eversock_chaos::{Fault, Target};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A session that is opened, cut, used and closed.
fn one_life(cuts: usize) {
    let ends = pair();
    for _ in 0..cuts {
        ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
        (&ends.client).write_all(&data(1, 50_000)).unwrap();
        let mut got = vec![0; 50_000];
        (&ends.server).read_exact(&mut got).unwrap();
    }
    let common::Ends { client, server, .. } = &ends;
    common::exchange(client, server, b"up", b"down");
}

/// A number that was closed past the wrappers names another file at the next cut: that file must
/// not be replaced by a socket (review of the protocol, item 5).
fn a_number_closed_behind_our_back_is_left_alone() {
    let ends = pair();
    let clone = ends.client.try_clone().unwrap();
    let number = clone.as_raw_fd();
    let file = File::open("/dev/null").unwrap();
    // SAFETY: dup2 onto an open number of our own; this is the misuse that is tested.
    assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), number) }, number);
    let before = file.metadata().unwrap().rdev();
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    (&ends.client).write_all(b"x").unwrap();
    let mut byte = [0];
    (&ends.server).read_exact(&mut byte).unwrap();
    wait_until("the resume", || ends.client.info().unwrap().resumes >= 1);
    let now = std::fs::metadata(format!("/proc/self/fd/{number}")).unwrap();
    assert_eq!(now.rdev(), before, "a foreign file was replaced");
    // What is left under the number is the file, and nobody else's to close.
    let _number = clone.into_number();
    // SAFETY: the number is the copy made above.
    unsafe { libc::close(number) };
}

trait IntoNumber {
    fn into_number(self) -> i32;
}

impl IntoNumber for eversock::VirtualStream {
    fn into_number(self) -> i32 {
        let number = self.as_raw_fd();
        let _kept = std::mem::ManuallyDrop::new(self);
        number
    }
}

#[test]
fn descriptors_are_neither_leaked_nor_taken_from_others() {
    let _limit = Limit::new("the descriptors", Duration::from_secs(100));
    // The engine and its pools come to their size first.
    for _ in 0..3 {
        one_life(2);
    }
    wait_until("the first sessions are gone", || eversock::sessions().is_empty());
    let before = open_descriptors();
    for _ in 0..20 {
        one_life(3);
    }
    wait_until("all sessions are gone", || eversock::sessions().is_empty());
    wait_until("no descriptor more than before", || open_descriptors() <= before);
    a_number_closed_behind_our_back_is_left_alone();
}
