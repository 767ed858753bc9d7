//! Clients that are slow, rude, too many, or gone.

use std::time::Duration;

use eversock_spool::Outcome;

use crate::client::Client;
use crate::fake::{Fake, start, start_with};
use crate::{PATIENCE, wait_until};

#[test]
fn too_many_errors_end_the_connection() {
    let front = start(&Fake::spooling());
    let mut client = Client::connect(front.local_addr());
    for _ in 0..9 {
        client.expect("WHAT", "500");
    }
    client.expect("WHAT", "500");
    assert!(client.reply().starts_with("421 4.7.0"));
    assert!(client.is_over());
}

#[test]
fn commands_without_a_message_have_an_end() {
    let front = start_with(&Fake::spooling(), |config| config.recipients_max = 5);
    let mut client = Client::greeted(front.local_addr());
    // A message counts for many commands.
    for _ in 0..3 {
        (0..150).for_each(|_| client.expect("NOOP", "250"));
        assert!(client.mail("a@b", &["c@d"], "text\r\n").starts_with("250"));
    }
    let mut count = 0;
    while client.try_send("NOOP\r\n") && client.reply().starts_with("250") {
        count += 1;
        assert!(count < 300);
    }
    assert!(count > 190);
}

#[test]
fn a_line_without_an_end_costs_nothing() {
    let front = start(&Fake::spooling());
    let mut client = Client::connect(front.local_addr());
    for _ in 0..1000 {
        client.send([b'a'; 4096]);
    }
    client.send("\r\n");
    assert!(client.reply().starts_with("500 5.5.6"));
    client.expect(&format!("NOOP {}", "a".repeat(2000)), "250");
    client.expect(&format!("NOOP {}", "a".repeat(2048)), "500 5.5.6");
}

#[test]
fn a_message_that_is_too_long_is_refused_at_its_end() {
    let fake = Fake::spooling();
    let front = start_with(&fake, |config| config.message_max = 100_000);
    let mut client = Client::greeted(front.local_addr());
    let line = format!("{}\r\n", "a".repeat(998));
    let reply = client.mail("a@b", &["c@d"], &line.repeat(100));
    assert!(reply.starts_with("250"), "{reply}");
    let reply = client.mail("a@b", &["c@d"], &line.repeat(101));
    assert!(reply.starts_with("552 5.3.4"), "{reply}");
    client.expect("MAIL FROM:<a@b> SIZE=100001", "552 5.3.4");
    client.expect("NOOP", "250");
    assert_eq!(fake.count(), 1);
}

#[test]
fn a_message_without_an_end_is_cut_off() {
    let fake = Fake::spooling();
    let front = start_with(&fake, |config| config.message_max = 100_000);
    let mut client = Client::greeted(front.local_addr());
    client.expect("MAIL FROM:<a@b>", "250");
    client.expect("RCPT TO:<c@d>", "250");
    client.expect("DATA", "354");
    let line = format!("{}\r\n", "a".repeat(998));
    let sent = (0..10_000).take_while(|_| client.try_send(&line)).count();
    assert!(sent < 10_000, "it takes ten times a hundred thousand and no more");
    assert_eq!(fake.count(), 0);
    wait_until("the connection is gone", || front.connections() == 0);
}

#[test]
fn messages_share_their_memory() {
    let fake = Fake::new(|_| None);
    let front = start_with(&fake, |config| {
        (config.message_max, config.memory_max) = (1 << 20, 1 << 20);
    });
    let content = format!("{}\r\n", "a".repeat(700_000));
    let content = content.as_str();
    std::thread::scope(|scope| {
        let first =
            scope.spawn(|| Client::greeted(front.local_addr()).mail("a@b", &["c@d"], content));
        wait_until("the first is with the pair", || fake.count() == 1);
        let mut second = Client::greeted(front.local_addr());
        let reply = second.mail("a@b", &["c@d"], content);
        assert!(reply.starts_with("452 4.3.1"), "{reply}");
        fake.let_go(&Outcome::Spooled { lsn: 1 });
        assert!(first.join().unwrap().starts_with("250"));
        let third = scope.spawn(move || second.mail("a@b", &["c@d"], content));
        wait_until("there is room again", || fake.count() == 2);
        fake.let_go(&Outcome::Spooled { lsn: 2 });
        assert!(third.join().unwrap().starts_with("250"));
    });
}

#[test]
fn who_says_nothing_is_told_so() {
    let front = start_with(&Fake::spooling(), |config| config.idle = Duration::from_millis(200));
    let mut silent = Client::connect(front.local_addr());
    assert!(silent.reply().starts_with("421 4.4.2"));
    assert!(silent.is_over());
    // Byte after byte is no way to stay.
    let mut slow = Client::connect(front.local_addr());
    while slow.try_send("a") {
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_until("nobody is left", || front.connections() == 0);
    let mut in_data = Client::greeted(front.local_addr());
    in_data.expect("MAIL FROM:<a@b>", "250");
    in_data.expect("RCPT TO:<a@b>", "250");
    in_data.expect("DATA", "354");
    assert!(in_data.reply().starts_with("421 4.4.2"));
}

#[test]
fn a_whole_message_has_its_time_too() {
    let fake = Fake::spooling();
    let front = start_with(&fake, |config| config.message_timeout = Duration::from_millis(300));
    let mut client = Client::greeted(front.local_addr());
    client.expect("MAIL FROM:<a@b>", "250");
    client.expect("RCPT TO:<a@b>", "250");
    client.expect("DATA", "354");
    while client.try_send("drip\r\n") {
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_until("the connection is gone", || front.connections() == 0);
    assert_eq!(fake.count(), 0);
}

#[test]
fn a_connection_too_many_is_told_to_come_back() {
    let front = start_with(&Fake::spooling(), |config| config.connections_max = 2);
    let mut held: Vec<Client> = (0..2).map(|_| Client::connect(front.local_addr())).collect();
    let mut third = Client::silent(front.local_addr());
    assert!(third.reply().starts_with("421 4.3.2"));
    assert!(third.is_over());
    held[0].expect("QUIT", "221");
    wait_until("there is a place", || front.connections() < 2);
    Client::greeted(front.local_addr());
}

#[test]
fn a_message_with_the_pair_is_delivered_without_its_client() {
    let fake = Fake::new(|_| None);
    let front = start(&fake);
    let mut client = Client::greeted(front.local_addr());
    client.expect("MAIL FROM:<a@b>", "250");
    client.expect("RCPT TO:<c@d>", "250");
    client.expect("DATA", "354");
    client.send("text\r\n.\r\n");
    wait_until("the pair has it", || fake.count() == 1);
    drop(client);
    fake.let_go(&Outcome::Spooled { lsn: 1 });
    wait_until("the connection is gone", || front.connections() == 0);
}

#[test]
fn half_a_message_is_none() {
    let fake = Fake::spooling();
    let front = start(&fake);
    let mut client = Client::greeted(front.local_addr());
    client.expect("MAIL FROM:<a@b>", "250");
    client.expect("RCPT TO:<c@d>", "250");
    client.expect("DATA", "354");
    client.send("text\r\n.\r");
    drop(client);
    wait_until("the connection is gone", || front.connections() == 0);
    assert_eq!(fake.count(), 0);
}

#[test]
fn a_front_that_closes_lets_messages_end() {
    let fake = Fake::new(|_| None);
    let front = start(&fake);
    let address = front.local_addr();
    let mut idle = Client::greeted(address);
    let mut busy = Client::greeted(address);
    busy.expect("MAIL FROM:<a@b>", "250");
    busy.expect("RCPT TO:<c@d>", "250");
    busy.expect("DATA", "354");
    busy.send("text\r\n.\r\n");
    wait_until("the pair has it", || fake.count() == 1);
    let closing = std::thread::spawn(move || front.close(PATIENCE));
    assert!(idle.reply().starts_with("421 4.3.2"));
    assert!(idle.is_over());
    fake.let_go(&Outcome::Spooled { lsn: 1 });
    assert!(busy.reply().starts_with("250"));
    assert!(busy.reply().starts_with("421"));
    assert!(closing.join().unwrap());
    assert!(std::net::TcpStream::connect(address).is_err());

    let front = start(&fake);
    let mut client = Client::greeted(front.local_addr());
    drop(front);
    assert!(client.is_cut());
}
