//! S1: a server that dies anywhere keeps what it has acknowledged, once.

use std::collections::HashMap;
use std::time::Duration;

use eversock_spool::Kind;
use eversock_spool::backend::ledger::LedgerConfig;
use eversock_spool::backend::mail;
use eversock_spool::backend::replica::ReplicaStatus;
use eversock_spool::record::Record;
use eversock_spool::target::ItemResult;

use crate::common::{Directory, Front, LEASE, Said, done, json, record, wait_for};
use crate::process::{Process, replica};

const CALLS: u128 = 6;
const EACH: u128 = 4;

fn message(id: u128) -> Record {
    let text = format!("From: a@b\nSubject: number {id}\n\nThe text of {id}.\n");
    crate::common::mail(id, &format!("box{}", id % 3), &text)
}

fn call(number: u128) -> Vec<Record> {
    (number * EACH..(number + 1) * EACH).map(message).collect()
}

/// Sends calls until the server dies. What was acknowledged, by id.
fn until_it_dies(server: &mut Process) -> HashMap<u128, Vec<u8>> {
    let mut front = Front::connect(server.addr);
    assert!(front.grant(1, LEASE));
    let mut acknowledged = HashMap::new();
    for number in 0..CALLS {
        let items = call(number);
        front.begin(1, None, &items);
        let mut said = None;
        wait_for("an answer, or the server's death", || {
            let was_gone = server.is_gone();
            said = front.said(Duration::from_millis(5));
            said.is_some() || was_gone
        });
        match said {
            Some(Said::Results(results)) => {
                for (item, result) in items.iter().zip(&results) {
                    acknowledged.insert(item.id.0, done(result).0.to_vec());
                }
            }
            Some(fenced) => panic!("{fenced:?}"),
            None => return acknowledged,
        }
    }
    panic!("the server was to die");
}

fn dies_and_comes_again(place: &str, count: u32) {
    let dir = Directory::new();
    let mut first = Process::start_to_die(dir.path(), Some(&format!("{place}:{count}")));
    let acknowledged = until_it_dies(&mut first);
    // In the third call: the two before it were answered.
    assert_eq!(acknowledged.len(), 2 * EACH as usize, "{place}");
    drop(first);

    let second = Process::start(dir.path());
    let mut front = Front::connect(second.addr);
    assert_eq!(front.report().seen, 1);
    assert!(front.grant(2, LEASE));
    let committed = place == "backend.after_commit";
    for number in 0..CALLS {
        let items = call(number);
        for (item, result) in items.iter().zip(front.results(2, &items)) {
            let (answer, again) = done(&result);
            if let Some(before) = acknowledged.get(&item.id.0) {
                assert_eq!((before.as_slice(), true), (answer, again), "{place} {}", item.id);
            } else {
                assert_eq!(again, committed && number == 2, "{place} {}", item.id);
            }
        }
    }
    let mut there: Vec<String> = Vec::new();
    for mailbox in ["box0", "box1", "box2"] {
        let list = json(&front.one(2, record(0, Kind::Read, mailbox, b"list")));
        for listed in list["messages"].as_array().unwrap() {
            there.push(listed["subject"].as_str().unwrap().to_owned());
            let uid = listed["uid"].as_i64().unwrap().to_string();
            let read = front.one(2, record(0, Kind::Read, mailbox, uid.as_bytes()));
            let text = String::from_utf8(done(&read).0.to_vec()).unwrap();
            let number = there[there.len() - 1].strip_prefix("number ").unwrap();
            assert!(text.ends_with(&format!("The text of {number}.\n")), "{text}");
        }
    }
    there.sort_unstable();
    let mut wanted: Vec<_> = (0..CALLS * EACH).map(|id| format!("number {id}")).collect();
    wanted.sort_unstable();
    assert_eq!(there, wanted, "{place}");
    drop(second);
    no_litter(&dir, (CALLS * EACH) as usize);
}

/// A sweep leaves the files that messages have, and no others.
fn no_litter(dir: &Directory, messages: usize) {
    drop(mail::open(dir.path(), LedgerConfig::default(), Duration::ZERO).unwrap());
    let mut files = 0;
    for mailbox in std::fs::read_dir(dir.path().join("mail")).unwrap() {
        for which in ["tmp", "new", "cur"] {
            files +=
                std::fs::read_dir(mailbox.as_ref().unwrap().path().join(which)).unwrap().count();
        }
    }
    assert_eq!(files, messages);
}

#[test]
fn death_before_the_effect() {
    dies_and_comes_again("backend.before_apply", 3);
}

#[test]
fn death_before_the_commit() {
    dies_and_comes_again("backend.before_commit", 3);
}

#[test]
fn death_after_the_commit() {
    dies_and_comes_again("backend.after_commit", 3);
}

#[test]
fn death_with_files_that_no_message_has_yet() {
    for file in [9, 10, 12] {
        dies_and_comes_again("backend.mail.file_written", file);
    }
}

/// The main with storage of its own dies; its standby, in this process, has what was acknowledged.
fn dies_and_the_standby_takes_over(place: &str) {
    let (main_dir, standby_dir) = (Directory::new(), Directory::new());
    // It never has a standby of its own here.
    let nobody = "127.0.0.1:9".parse().unwrap();
    let standby = replica(standby_dir.path(), nobody);
    let (replicated, pushes) = standby.replica().unwrap();
    let die = format!("{place}:3");
    let mut main = Process::start_with(main_dir.path(), Some(&die), Some(pushes));
    let mut to_main = Front::connect(main.addr);
    assert!(to_main.grant(1, LEASE));
    let mut acknowledged = Vec::new();
    'calls: for number in 0..CALLS {
        let items = call(number);
        loop {
            to_main.begin(1, None, &items);
            let mut said = None;
            wait_for("an answer, or the server's death", || {
                let was_gone = main.is_gone();
                said = to_main.said(Duration::from_millis(5));
                said.is_some() || was_gone
            });
            match said {
                Some(Said::Results(results)) if results.iter().all(is_done) => {
                    acknowledged.extend(items);
                    break;
                }
                // Until it has found its standby.
                Some(Said::Results(_)) => {}
                Some(fenced) => panic!("{fenced:?}"),
                None => break 'calls,
            }
        }
    }
    assert_eq!(acknowledged.len(), 2 * EACH as usize, "{place}");
    assert_eq!(replicated.status(), ReplicaStatus::InSync);
    let mut front = Front::connect(standby.server().addr());
    assert!(front.report().ready);
    assert!(front.grant(2, LEASE));
    for number in 0..CALLS {
        let items = call(number);
        let mut results = Vec::new();
        wait_for("the new main goes on alone", || {
            results = front.results(2, &items);
            results.iter().all(is_done)
        });
        for (item, result) in items.iter().zip(&results) {
            // Of the call in which it died, nobody knows.
            if number != 2 {
                assert_eq!(done(result).1, acknowledged.contains(item), "{place} {}", item.id);
            }
        }
    }
    let mut messages = 0;
    for mailbox in ["box0", "box1", "box2"] {
        let list = json(&front.one(2, record(0, Kind::Read, mailbox, b"list")));
        messages += list["messages"].as_array().unwrap().len();
    }
    assert_eq!(messages, (CALLS * EACH) as usize, "{place}");
}

fn is_done(result: &ItemResult) -> bool {
    matches!(result, ItemResult::Done { .. })
}

#[test]
fn death_of_a_main_whose_standby_has_storage_of_its_own() {
    for place in ["backend.before_commit", "backend.after_commit"] {
        dies_and_the_standby_takes_over(place);
    }
}
