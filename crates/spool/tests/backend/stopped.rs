//! S3: a main that is stopped in the middle of a call, for longer than its lease, while the standby
//! takes over on the same storage, does nothing when it goes on.

use std::time::{Duration, Instant};

use eversock_spool::Kind;

use crate::common::{Directory, Front, LEASE, PATIENCE, Said, done, json, mail, record, wait_for};
use crate::process::{Process, STOP_BEFORE, STOP_INSIDE};

const SHORT: Duration = Duration::from_millis(400);

fn subjects(front: &mut Front, epoch: u64) -> Vec<String> {
    let answer = json(&front.one(epoch, record(0, Kind::Read, "inbox", b"list")));
    let subject = |message: &serde_json::Value| message["subject"].as_str().unwrap().to_owned();
    answer["messages"].as_array().unwrap().iter().map(subject).collect()
}

#[test]
fn a_main_that_was_stopped_before_its_transaction_is_fenced_behind_its_own_checks() {
    let dir = Directory::new();
    let (old, new) = (Process::start(dir.path()), Process::start(dir.path()));
    let (mut to_old, mut to_new) = (Front::connect(old.addr), Front::connect(new.addr));
    assert!(to_old.grant(1, SHORT));
    let begun = Instant::now();
    to_old.begin(1, None, &[mail(1, "inbox", STOP_BEFORE), mail(2, "inbox", "subject: old\n")]);
    old.wait_until_stopped();
    wait_for("the lease is over", || begun.elapsed() > SHORT);
    assert!(to_new.grant(2, LEASE));
    done(&to_new.one(2, mail(3, "inbox", "subject: new\n")));
    old.go_on(dir.path());
    assert_eq!(to_old.said(PATIENCE), Some(Said::Fenced { seen: 2 }));
    assert_eq!(subjects(&mut to_new, 2), ["new"]);
    // It learns of the new epoch when it wants to have its own again, and its files are gone.
    assert!(!to_old.grant(1, LEASE));
    assert_eq!(to_old.report().seen, 2);
    let files = |which| std::fs::read_dir(dir.path().join("mail/inbox").join(which)).unwrap();
    assert_eq!(files("new").count(), 1);
    assert_eq!(files("tmp").count(), 0);
    // What was asked of the old one is asked of the new one, and takes effect there, once.
    done(&to_new.one(2, mail(2, "inbox", "subject: old\n")));
    assert_eq!(subjects(&mut to_new, 2), ["new", "old"]);
}

#[test]
fn a_main_whose_lease_did_not_end_is_fenced_by_the_database_alone() {
    let dir = Directory::new();
    let (old, new) = (Process::start(dir.path()), Process::start(dir.path()));
    let (mut to_old, mut to_new) = (Front::connect(old.addr), Front::connect(new.addr));
    assert!(to_old.grant(1, LEASE));
    to_old.begin(1, None, &[mail(1, "inbox", STOP_BEFORE)]);
    old.wait_until_stopped();
    // No granter does this; the fence holds all the same.
    assert!(to_new.grant(2, LEASE));
    done(&to_new.one(2, mail(3, "inbox", "subject: new\n")));
    old.go_on(dir.path());
    assert_eq!(to_old.said(PATIENCE), Some(Said::Fenced { seen: 2 }));
    assert_eq!(subjects(&mut to_new, 2), ["new"]);
}

#[test]
fn nobody_takes_over_from_a_main_that_was_stopped_inside_its_transaction() {
    let dir = Directory::new();
    let (old, new) = (Process::start(dir.path()), Process::start(dir.path()));
    let (mut to_old, mut to_new) = (Front::connect(old.addr), Front::connect(new.addr));
    assert!(to_old.grant(1, SHORT));
    let begun = Instant::now();
    to_old.begin(1, None, &[mail(1, "inbox", "subject: old\n"), mail(2, "inbox", STOP_INSIDE)]);
    old.wait_until_stopped();
    wait_for("the lease is over", || begun.elapsed() > SHORT);
    assert!(!to_new.grant(2, LEASE), "the database is not free");
    old.go_on(dir.path());
    assert_eq!(to_old.said(PATIENCE), Some(Said::Fenced { seen: 1 }));
    wait_for("the standby takes over", || to_new.grant(2, LEASE));
    assert!(subjects(&mut to_new, 2).is_empty());
    done(&to_new.one(2, mail(1, "inbox", "subject: old\n")));
}

#[test]
fn a_main_that_was_killed_inside_its_transaction_leaves_nothing() {
    let dir = Directory::new();
    let (old, new) = (Process::start(dir.path()), Process::start(dir.path()));
    let (mut to_old, mut to_new) = (Front::connect(old.addr), Front::connect(new.addr));
    assert!(to_old.grant(1, SHORT));
    to_old.begin(1, None, &[mail(1, "inbox", "subject: old\n"), mail(2, "inbox", STOP_INSIDE)]);
    old.wait_until_stopped();
    drop(old);
    wait_for("the standby takes over", || to_new.grant(2, LEASE));
    let (answer, again) = {
        let result = to_new.one(2, mail(1, "inbox", "subject: old\n"));
        (json(&result), done(&result).1)
    };
    assert!(!again);
    assert_eq!(answer["uid"], 1);
    assert_eq!(subjects(&mut to_new, 2), ["old"]);
}
