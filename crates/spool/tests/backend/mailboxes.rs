//! What mailboxes understand and refuse.

use std::sync::Arc;
use std::time::Duration;

use eversock_spool::Kind;
use eversock_spool::backend::ledger::LedgerConfig;
use eversock_spool::backend::mail::codes::{
    BAD_COMMAND, BAD_KIND, BAD_MAILBOX, FILE_GONE, NOT_FOUND,
};
use eversock_spool::backend::mail::{self, FLAGS, FOUND_MAX, LIST_MAX, LOOKED_AT_MAX};
use eversock_spool::backend::{Backend, Guarded};
use eversock_spool::record::Record;
use eversock_spool::serve::IncomingCall;
use eversock_spool::target::{Grant, ItemResult};

use crate::common::{Directory, LEASE, code, done, json, mail as write, record};

struct Local {
    guarded: Arc<Guarded>,
    next: u128,
}

impl Local {
    fn open(dir: &Directory) -> Self {
        let backend = mail::open(dir.path(), LedgerConfig::default(), Duration::ZERO).unwrap();
        let guarded = Guarded::new(Arc::new(backend) as Arc<dyn Backend>).unwrap();
        let (epoch, stamp) = (guarded.report().seen + 1, guarded.report().stamp);
        guarded.grant(&Grant { epoch, lease: LEASE, stamp }).unwrap();
        Self { guarded, next: 1_000_000 * u128::from(epoch) }
    }

    fn all(&self, job: Option<u64>, items: Vec<Record>) -> Vec<ItemResult> {
        let epoch = self.guarded.report().holds.unwrap();
        self.guarded.execute(&IncomingCall { epoch, job, items: items.into() }).unwrap()
    }

    fn ask(&mut self, kind: Kind, key: &str, payload: &[u8]) -> ItemResult {
        self.next += 1;
        self.all(None, vec![record(self.next, kind, key, payload)]).remove(0)
    }

    /// Its number.
    fn deliver(&mut self, mailbox: &str, message: &str) -> i64 {
        json(&self.ask(Kind::Write, mailbox, message.as_bytes()))["uid"].as_i64().unwrap()
    }
}

fn files(dir: &Directory, mailbox: &str, which: &str) -> Vec<String> {
    let path = dir.path().join("mail").join(mailbox).join(which);
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().into_string().unwrap()
    };
    std::fs::read_dir(path).unwrap().map(name).collect()
}

#[test]
fn messages_come_and_go() {
    let dir = Directory::new();
    let mut local = Local::open(&dir);
    let first = local.deliver("inbox", "Subject: one\n\nHello");
    let second = local.deliver("inbox", "Subject: two\n\nWorld");
    local.deliver("other", "no headers");
    let number = first.to_string();
    assert_eq!(done(&local.ask(Kind::Read, "inbox", b"")).0, b"Subject: two\n\nWorld");
    let read = local.ask(Kind::Read, "inbox", number.as_bytes());
    assert_eq!(done(&read).0, b"Subject: one\n\nHello");
    let list = json(&local.ask(Kind::Read, "inbox", b"list"));
    assert_eq!(list["messages"][0]["subject"], "one");
    assert_eq!(list["messages"].as_array().unwrap().len(), 2);
    assert_eq!(list["more"], false);
    let after = json(&local.ask(Kind::Read, "inbox", format!("list {first}").as_bytes()));
    assert_eq!(after["messages"][0]["uid"], second);
    // A message of another mailbox is not there.
    assert_eq!(code(&local.ask(Kind::Read, "other", number.as_bytes())), NOT_FOUND);
    assert_eq!(json(&local.ask(Kind::Delete, "other", number.as_bytes()))["deleted"], 0);
    assert_eq!(json(&local.ask(Kind::Delete, "inbox", number.as_bytes()))["deleted"], 1);
    assert_eq!(code(&local.ask(Kind::Read, "inbox", number.as_bytes())), NOT_FOUND);
    assert_eq!(files(&dir, "inbox", "new").len(), 1);
    local.all(None, vec![write(77, "inbox", "by id")]);
    let by_id = format!("id {}", eversock_spool::RequestId(77));
    assert_eq!(json(&local.ask(Kind::Delete, "inbox", by_id.as_bytes()))["deleted"], 1);
    // Numbers are not given again.
    assert!(local.deliver("inbox", "x") > second + 2);
}

#[test]
fn flags_move_files() {
    let dir = Directory::new();
    let mut local = Local::open(&dir);
    let uid = local.deliver("inbox", "Subject: one\n\nHello");
    let changed = local.ask(Kind::Custom(FLAGS), "inbox", format!("{uid} +SF").as_bytes());
    assert_eq!(json(&changed)["flags"], "FS");
    let cur = files(&dir, "inbox", "cur");
    assert!(cur.len() == 1 && cur[0].ends_with(":2,FS"), "{cur:?}");
    assert!(files(&dir, "inbox", "new").is_empty());
    assert_eq!(done(&local.ask(Kind::Read, "inbox", b"")).0, b"Subject: one\n\nHello");
    // A crash between the commit and the rename leaves the old name.
    let path = dir.path().join("mail/inbox/cur");
    let name = cur[0].replace(":2,FS", ":2,D");
    std::fs::rename(path.join(&cur[0]), path.join(&name)).unwrap();
    assert_eq!(done(&local.ask(Kind::Read, "inbox", b"")).0, b"Subject: one\n\nHello");
    drop(local);
    let mut local = Local::open(&dir);
    assert_eq!(files(&dir, "inbox", "cur"), [name], "a sweep knows it too");
    let changed = local.ask(Kind::Custom(FLAGS), "inbox", format!("{uid} -S").as_bytes());
    assert_eq!(json(&changed)["flags"], "F");
    assert_eq!(code(&local.ask(Kind::Custom(FLAGS), "inbox", b"99 +S")), NOT_FOUND);
    assert_eq!(json(&local.ask(Kind::Delete, "inbox", uid.to_string().as_bytes()))["deleted"], 1);
    assert!(files(&dir, "inbox", "cur").is_empty());
}

#[test]
fn what_is_no_request_is_refused() {
    let dir = Directory::new();
    let mut local = Local::open(&dir);
    local.deliver("inbox", "x");
    let outside = dir.path().join("outside");
    let absolute = outside.to_str().unwrap().to_owned();
    for name in ["", "..", "../outside", "a/../../outside", "/etc", ".x", "a\0b", &absolute] {
        for kind in [Kind::Write, Kind::Read, Kind::Delete, Kind::Custom(FLAGS)] {
            assert_eq!(code(&local.ask(kind, name, b"1 +S")), BAD_MAILBOX, "{name:?} {kind}");
        }
        if !name.is_empty() {
            assert_eq!(code(&local.ask(Kind::Search, name, b"x")), BAD_MAILBOX, "{name:?}");
        }
    }
    assert!(!outside.exists());
    assert_eq!(std::fs::read_dir(dir.path().join("mail")).unwrap().count(), 1);
    assert_eq!(code(&local.ask(Kind::Write, "inbox", b"")), BAD_COMMAND);
    for (kind, payload) in [
        (Kind::Read, &b"\xff"[..]),
        (Kind::Read, b"9999999999999999999999"),
        (Kind::Delete, b""),
        (Kind::Delete, b"id zz"),
        (Kind::Search, b""),
        (Kind::Search, &[b'x'; 400]),
        (Kind::Custom(FLAGS), b"1 +X"),
    ] {
        assert_eq!(code(&local.ask(kind, "inbox", payload)), BAD_COMMAND, "{kind} {payload:?}");
    }
    assert_eq!(code(&local.ask(Kind::Custom(2), "inbox", b"1 +S")), BAD_KIND);
    assert_eq!(json(&local.ask(Kind::Read, "inbox", b"list"))["messages"][0]["uid"], 1);
}

#[test]
fn a_lost_file_is_said() {
    let dir = Directory::new();
    let mut local = Local::open(&dir);
    local.deliver("inbox", "x");
    let name = files(&dir, "inbox", "new").remove(0);
    std::fs::remove_file(dir.path().join("mail/inbox/new").join(name)).unwrap();
    assert_eq!(code(&local.ask(Kind::Read, "inbox", b"1")), FILE_GONE);
    let answer = json(&local.ask(Kind::Search, "inbox", b"body:x"));
    assert_eq!(answer, serde_json::json!({ "found": [], "next": null, "unread": [1] }));
}

#[test]
fn searches_find_within_bounds() {
    let dir = Directory::new();
    let mut local = Local::open(&dir);
    let one = local.deliver("a", "Subject: Lunch\nFrom: Ann\n\nAt noon.\n");
    let two = local.deliver("a", "Subject: Dinner\nFrom: Bob\n\nNo lunch today: noon.\n");
    let three = local.deliver("b", "Subject: x\nFrom: ann\n\nLUNCH\n");
    let mut found = |key: &str, text: &str| -> Vec<i64> {
        let answer = json(&local.ask(Kind::Search, key, text.as_bytes()));
        assert_eq!(answer["next"], serde_json::Value::Null);
        answer["found"].as_array().unwrap().iter().map(|m| m["uid"].as_i64().unwrap()).collect()
    };
    assert_eq!(found("a", "lunch"), [one, two]);
    assert_eq!(found("", "lunch"), [one, two, three]);
    assert_eq!(found("", "subject:LUNCH"), [one]);
    assert_eq!(found("", "from:ann"), [one, three]);
    assert_eq!(found("a", "body:lunch"), [two]);
    assert_eq!(found("", &format!("after:{one} lunch")), [two, three]);
    assert!(found("a", "bob\n\n").contains(&two));
    assert!(found("", "nowhere").is_empty());
}

#[test]
fn long_lists_and_searches_come_in_parts() {
    let dir = Directory::new();
    let mut local = Local::open(&dir);
    let count = LOOKED_AT_MAX + 10;
    let many: Vec<_> = (0..count).map(|n| write(n as u128, "inbox", "Subject: s\n\nx")).collect();
    for items in many.chunks(256) {
        assert_eq!(local.all(None, items.to_vec()).len(), items.len());
    }
    let list = json(&local.ask(Kind::Read, "inbox", b"list"));
    assert_eq!(list["messages"].as_array().unwrap().len(), LIST_MAX);
    assert_eq!(list["more"], true);
    let found = json(&local.ask(Kind::Search, "inbox", b"subject:s"));
    assert_eq!(found["found"].as_array().unwrap().len(), FOUND_MAX);
    assert_eq!(found["next"], FOUND_MAX);
    let nothing = json(&local.ask(Kind::Search, "inbox", b"subject:nowhere"));
    assert_eq!(nothing["next"], LOOKED_AT_MAX);
    let rest = format!("after:{LOOKED_AT_MAX} subject:nowhere");
    let nothing = json(&local.ask(Kind::Search, "inbox", rest.as_bytes()));
    assert_eq!(nothing["next"], serde_json::Value::Null);
}

#[test]
fn a_job_has_results_of_every_kind_in_order() {
    let dir = Directory::new();
    let local = Local::open(&dir);
    let items = vec![
        write(1, "inbox", "Subject: one\n\nHello"),
        record(2, Kind::Read, "inbox", b"list"),
        record(3, Kind::Search, "inbox", b"hello"),
        record(4, Kind::Custom(FLAGS), "inbox", b"1 +S"),
        record(5, Kind::Delete, "inbox", b"1"),
        record(6, Kind::Read, "inbox", b""),
    ];
    let results = local.all(Some(7), items.clone());
    assert_eq!(json(&results[0])["uid"], 1);
    assert_eq!(json(&results[1])["messages"][0]["uid"], 1);
    assert_eq!(json(&results[2])["found"][0]["subject"], "one");
    assert_eq!(json(&results[3])["flags"], "S");
    assert_eq!(json(&results[4])["deleted"], 1);
    assert_eq!(code(&results[5]), NOT_FOUND);
    // The job is asked for again: changes are not done again, reads are of now.
    let again = local.all(Some(7), items);
    let known: Vec<_> = [0, 3, 4].iter().map(|&n| done(&again[n]).1).collect();
    assert_eq!(known, [true; 3]);
    assert_eq!(json(&again[1])["messages"], serde_json::json!([]));
    assert!(files(&dir, "inbox", "new").is_empty() && files(&dir, "inbox", "cur").is_empty());
}

#[test]
fn a_sweep_takes_what_is_old_and_nobodys() {
    let dir = Directory::new();
    let mut local = Local::open(&dir);
    local.deliver("inbox", "x");
    drop(local);
    let inbox = dir.path().join("mail/inbox");
    for name in ["tmp/a", "new/b", "cur/c:2,S"] {
        std::fs::write(inbox.join(name), "nobody's").unwrap();
    }
    let hour = Duration::from_secs(3600);
    drop(mail::open(dir.path(), LedgerConfig::default(), hour).unwrap());
    assert_eq!(files(&dir, "inbox", "new").len(), 2, "too young");
    let mut local = Local::open(&dir);
    assert_eq!(files(&dir, "inbox", "new").len(), 1);
    assert!(files(&dir, "inbox", "tmp").is_empty() && files(&dir, "inbox", "cur").is_empty());
    assert_eq!(done(&local.ask(Kind::Read, "inbox", b"1")).0, b"x");
}
