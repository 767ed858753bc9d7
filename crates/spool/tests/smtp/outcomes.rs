//! What the pair says, and what the client hears of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eversock_spool::{Outcome, Reason};

use crate::client::Client;
use crate::fake::{Fake, rejected, start, start_with};
use crate::wait_until;

const NAMED: &str = "Message-ID: <1@x>\r\n\r\ntext\r\n";

fn reply_to(outcome: Outcome) -> String {
    let front = start(&Fake::new(move |_| Some(outcome.clone())));
    let mut client = Client::greeted(front.local_addr());
    let reply = client.mail("a@b", &["c@d"], NAMED);
    client.expect("QUIT", "221");
    reply
}

#[test]
fn each_outcome_has_its_reply() {
    let text = "no\r\n250 such \u{e4} user".to_owned();
    for (outcome, reply) in [
        (Outcome::Applied { answer: Vec::new() }, "250 "),
        (Outcome::Spooled { lsn: 3 }, "250 "),
        (Outcome::Held { lsn: 3 }, "451 "),
        (Outcome::Stale, "451 "),
        (Outcome::InDoubt, "451 "),
        (rejected(Reason::SpoolFull), "452 4.3.1"),
        (rejected(Reason::HoldFull), "451 "),
        (rejected(Reason::Deadline), "451 "),
        (rejected(Reason::Unavailable), "451 "),
        (rejected(Reason::Closing), "451 "),
        (
            rejected(Reason::Malformed("no such pair".to_owned())),
            "451 4.3.0 not a request: no such pair",
        ),
        (rejected(Reason::IdReused), "451 "),
        (
            rejected(Reason::Refused { code: 7, text }),
            "554 5.0.0 refused for c@d: 7 no??250 such ? user",
        ),
    ] {
        let found = reply_to(outcome.clone());
        assert!(found.starts_with(reply), "{outcome:?}: {found}");
    }
    let text = "x".repeat(5000);
    assert!(reply_to(rejected(Reason::Refused { code: 1, text })).starts_with("554"));
}

#[test]
fn one_reply_stands_for_all_recipients() {
    let of = |recipient: &str| match recipient.as_bytes()[0] {
        b'g' => Outcome::Spooled { lsn: 1 },
        b'f' => rejected(Reason::SpoolFull),
        b'u' => rejected(Reason::Unavailable),
        _ => rejected(Reason::Refused { code: 1, text: "no".to_owned() }),
    };
    for (recipients, code) in [
        (&["g1@x", "g2@x"][..], "250 2.0.0 taken for 2"),
        (&["g1@x", "r@x"], "554 5.0.0 refused for r@x"),
        (&["r@x", "u@x"], "451"),
        (&["f@x", "g@x"], "452"),
        (&["r1@x", "r2@x"], "554 5.0.0 refused for r1@x"),
    ] {
        let fake = Fake::new(move |mail| Some(of(&mail.recipient)));
        let front = start(&fake);
        let reply = Client::greeted(front.local_addr()).mail("a@b", recipients, NAMED);
        assert!(reply.starts_with(code), "{recipients:?}: {reply}");
    }
}

/// RFC 5321: after 451 the client sends the message to all recipients again.
#[test]
fn who_has_it_does_not_get_it_again_in_the_next_attempt() {
    let works = Arc::new(AtomicBool::new(false));
    let ready = Arc::clone(&works);
    let fake = Fake::new(move |mail| {
        let fails = mail.recipient == "late@x" && !ready.load(Ordering::Acquire);
        Some(if fails { Outcome::InDoubt } else { Outcome::Spooled { lsn: 1 } })
    });
    let front = start(&fake);
    let recipients = ["one@x", "two@x", "late@x"];
    for attempt in 0..3 {
        works.store(attempt == 2, Ordering::Release);
        let mut client = Client::greeted(front.local_addr());
        let reply = client.mail("a@b", &recipients, NAMED);
        assert!(reply.starts_with(if attempt == 2 { "250" } else { "451" }), "{reply}");
    }
    assert!(fake.count() >= 7);
    assert_eq!(fake.taken.lock().unwrap().len(), 3, "each of them has it once");
    // Another message of the same sender is another one.
    let mut client = Client::greeted(front.local_addr());
    client.mail("a@b", &["one@x"], "Message-ID: <2@x>\r\n\r\ntext\r\n");
    assert_eq!(fake.taken.lock().unwrap().len(), 4);
}

#[test]
fn alarms_without_a_name_are_all_delivered() {
    let fake = Fake::spooling();
    let front = start(&fake);
    let mut client = Client::greeted(front.local_addr());
    for _ in 0..3 {
        client.mail("cron@x", &["root@x"], "Subject: disk full\r\n\r\n");
    }
    assert_eq!(fake.taken.lock().unwrap().len(), 3);
}

#[test]
fn many_recipients_and_one_too_many() {
    let fake = Fake::spooling();
    let front = start(&fake);
    let mut client = Client::greeted(front.local_addr());
    client.expect("MAIL FROM:<a@b>", "250");
    for at in 0..100 {
        client.expect(&format!("RCPT TO:<r{at}@x>"), "250");
    }
    client.expect("RCPT TO:<r100@x>", "452 4.5.3");
    client.expect("DATA", "354");
    client.expect("text\r\n.", "250 2.0.0 taken for 100");
    let all: HashSet<_> = fake.mails().into_iter().map(|mail| mail.recipient).collect();
    assert_eq!(all.len(), 100);
}

#[test]
fn who_has_to_come_again_anyway_is_not_worked_for() {
    let fake = Fake::new(|_| Some(rejected(Reason::SpoolFull)));
    let front = start(&fake);
    let recipients: Vec<String> = (0..100).map(|at| format!("r{at}@x")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let reply = Client::greeted(front.local_addr()).mail("a@b", &recipients, NAMED);
    assert!(reply.starts_with("452"), "{reply}");
    assert!(fake.count() < 100, "the spool is full, and all of them come again");
}

#[test]
fn a_large_message_goes_to_few_recipients_at_a_time() {
    let fake = Fake::new(|_| None);
    let front = start(&fake);
    let content = format!("{}\r\n", "a".repeat(3 << 20));
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut client = Client::greeted(front.local_addr());
            client.mail("a@b", &["1@x", "2@x", "3@x"], &content)
        });
        for done in 1..=3 {
            wait_until("the next is asked for", || fake.count() == done);
            fake.let_go(&Outcome::Applied { answer: Vec::new() });
        }
        assert!(sending.join().unwrap().starts_with("250"));
    });
    assert_eq!(fake.most.load(Ordering::Acquire), 1, "each waits for the one before it");
}

#[test]
fn a_pair_that_never_answers_does_not_hold_the_client_for_ever() {
    let front = start_with(&Fake::new(|_| None), |config| {
        config.deadline = Duration::from_millis(50);
    });
    let reply = Client::greeted(front.local_addr()).mail("a@b", &["c@d"], NAMED);
    assert!(reply.starts_with("451 4.4.1"), "{reply}");
}
