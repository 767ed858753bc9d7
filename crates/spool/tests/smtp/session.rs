//! What a client may say when.

use crate::client::Client;
use crate::fake::{Fake, config, start, start_with};

#[test]
fn an_ordinary_session() {
    let fake = Fake::spooling();
    let front = start(&fake);
    let mut client = Client::connect(front.local_addr());
    let hello = client.ask("EHLO client.example");
    for line in
        ["250-mx.example", "250-PIPELINING", "250-SIZE 26214400", "250-8BITMIME", "250-SMTPUTF8"]
    {
        assert!(hello.lines().any(|found| found == line), "{hello}");
    }
    assert!(hello.ends_with("\n250 ENHANCEDSTATUSCODES"));
    client.expect("mail from:<Anna@Example.org> SIZE=100 BODY=8BITMIME", "250 2.1.0");
    client.expect("rcpt to:<Bob@Example.net>", "250 2.1.5");
    client.expect("RCPT TO:<Carl@example.net>", "250");
    client.expect("RCPT TO:<Carl@example.net>", "250");
    client.expect("DATA", "354");
    client.send("Subject: x\r\n\r\n..dot\r\n...\r\nend\r\n");
    client.expect(".", "250 2.0.0 taken for 2");
    client.expect("NOOP", "250");
    client.expect("VRFY someone", "252");
    client.expect("HELP", "214");
    client.expect("QUIT", "221");
    assert!(client.is_over());
    let mails = fake.mails();
    assert_eq!(mails.len(), 2);
    assert_eq!(
        (mails[0].sender.as_str(), mails[0].recipient.as_str()),
        ("Anna@Example.org", "Bob@Example.net")
    );
    assert_eq!(mails[1].recipient, "Carl@example.net");
    assert!(mails.iter().all(|mail| mail.eight_bit && !mail.utf8));
    assert_eq!(mails[0].content, b"Subject: x\r\n\r\n.dot\r\n..\r\nend\r\n");
}

#[test]
fn everything_has_its_turn() {
    let fake = Fake::spooling();
    let front = start_with(&fake, |config| config.errors_max = 1000);
    let mut client = Client::connect(front.local_addr());
    client.expect("MAIL FROM:<a@b>", "503");
    client.expect("HELO client", "250 mx.example");
    client.expect("RCPT TO:<a@b>", "503");
    client.expect("DATA", "503");
    client.expect("MAIL FROM:<a@b>", "250");
    client.expect("MAIL FROM:<a@b>", "503");
    client.expect("DATA", "554");
    client.expect("RCPT TO:<c@d>", "250");
    client.expect("RSET", "250");
    client.expect("RCPT TO:<c@d>", "503");
    client.expect("MAIL FROM:<>", "250");
    client.expect("EHLO again", "250");
    client.expect("DATA", "503");
    for (line, code) in [
        ("", "500"),
        ("WHAT", "500"),
        ("GET / HTTP/1.1", "500"),
        ("STARTTLS", "502"),
        ("AUTH PLAIN AGEAYg==", "502"),
        ("EXPN list", "502"),
        ("LHLO x", "502"),
        ("EHLO", "501"),
        ("MAIL", "501"),
        ("MAIL FROM:a@b", "501"),
        ("MAIL FROM:<a@b", "501"),
        ("MAIL FROM:<@>", "501"),
        ("MAIL FROM:<a@b> SIZE=x", "501"),
        ("MAIL FROM:<a@b> WHAT=1", "555"),
        ("MAIL FROM:<a@b> RET=FULL", "555"),
        ("MAIL FROM:<a@b> BODY=BINARYMIME", "555"),
        ("MAIL FROM:<a@b> REQUIRETLS", "555"),
        ("MAIL FROM:<a@b> SIZE=26214401", "552"),
        ("MAIL FROM:<ä@b>", "550 5.6.7"),
        ("NOOP \u{1}", "500"),
    ] {
        client.expect(line, code);
    }
    client.expect("MAIL FROM:<a@b> SIZE=26214400", "250");
    for (line, code) in [
        ("RCPT TO:<>", "501"),
        ("RCPT TO:<a>", "501"),
        ("RCPT TO:<ä@b>", "553"),
        ("RCPT TO:<a@b> NOTIFY=NEVER", "555"),
        ("DATA now", "501"),
    ] {
        client.expect(line, code);
    }
    client.send(b"NOOP \xff\r\n");
    assert!(client.reply().starts_with("500"));
    assert_eq!(fake.count(), 0);
}

#[test]
fn addresses_of_all_kinds() {
    let fake = Fake::spooling();
    let front = start_with(&fake, |config| config.domains = vec!["Ours.example".to_owned()]);
    let mut client = Client::greeted(front.local_addr());
    client.expect("MAIL FROM:<>", "250");
    client.expect("RCPT TO:<postmaster>", "250");
    client.expect("RCPT TO:<x@theirs.example>", "550 5.7.1");
    client.expect("RCPT TO:<\"a b\"@OURS.example>", "250");
    client.expect("DATA", "354");
    client.expect(".", "250");
    client.expect("MAIL FROM:<postmaster> SMTPUTF8", "250");
    client.expect("RCPT TO:<jürgen@ours.example>", "250");
    client.expect("DATA", "354");
    client.expect("text\r\n.", "250");
    let mails = fake.mails();
    let found: Vec<_> = mails
        .iter()
        .map(|mail| (mail.sender.as_str(), mail.recipient.as_str(), mail.utf8))
        .collect();
    assert_eq!(
        found,
        [
            ("", "postmaster", false),
            ("", "a b@OURS.example", false),
            ("postmaster", "jürgen@ours.example", true)
        ]
    );
    assert_eq!(mails[0].content, b"");
}

#[test]
fn commands_may_come_all_at_once() {
    let fake = Fake::spooling();
    let front = start(&fake);
    let mut client = Client::connect(front.local_addr());
    client.send(
        "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<bad\r\nRCPT TO:<e@f>\r\nDATA\r\n",
    );
    for code in ["250", "250", "250", "501", "250", "354"] {
        assert!(client.reply().starts_with(code));
    }
    client.send("text\r\n.\r\nMAIL FROM:<g@h>\r\nRSET\r\nQUIT\r\n");
    for code in ["250 2.0.0 taken for 2", "250", "250", "221"] {
        assert!(client.reply().starts_with(code));
    }
    assert!(client.is_over());
    assert_eq!(fake.count(), 2);
}

#[test]
fn bytes_may_come_one_by_one() {
    let fake = Fake::spooling();
    let front = start(&fake);
    let mut client = Client::connect(front.local_addr());
    let all = "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
    all.bytes().for_each(|byte| client.send([byte]));
    for code in ["250", "250", "250", "354"] {
        assert!(client.reply().starts_with(code));
    }
    "a\r\n..\r\n.\r\n".bytes().for_each(|byte| client.send([byte]));
    assert!(client.reply().starts_with("250"));
    assert_eq!(fake.mails()[0].content, b"a\r\n.\r\n");
}

/// A sender who can make two servers see different ends of one mail can send as anybody.
#[test]
fn nothing_can_be_smuggled() {
    let hidden = "MAIL FROM:<boss@b>\r\nRCPT TO:<v@d>\r\nDATA\r\nhidden\r\n";
    for end in
        ["\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r", "\r.\r\n", "\r\n\0.\r\n", "\r\n.\r\r\n"]
    {
        let fake = Fake::spooling();
        let front = start(&fake);
        let mut client = Client::greeted(front.local_addr());
        let reply = client.mail("a@b", &["c@d"], &format!("text{end}{hidden}\r\n"));
        if end.contains('\0') {
            assert!(reply.starts_with("250"), "{end:?}: {reply}");
            assert_eq!(fake.count(), 1, "one mail, with all of it as its content");
            assert!(fake.mails()[0].content.ends_with(b"hidden\r\n\r\n"));
        } else {
            assert!(reply.starts_with("554 5.6.0"), "{end:?}: {reply}");
            assert_eq!(fake.count(), 0);
        }
        client.expect("QUIT", "221");
    }
}

#[test]
fn a_line_ends_with_cr_lf() {
    let fake = Fake::spooling();
    let front = start(&fake);
    let mut client = Client::greeted(front.local_addr());
    client.send("NOOP\nNOOP\r\n");
    assert!(client.reply().starts_with("500 5.5.2"));
    client.send("NOOP\rNOOP\r\n");
    assert!(client.reply().starts_with("500 5.5.2"));
    client.expect("NOOP", "250");
}

/// What follows a refused DATA would be taken for commands.
#[test]
fn nothing_may_follow_data_before_its_reply() {
    for before in ["", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"] {
        let fake = Fake::spooling();
        let front = start(&fake);
        let mut client = Client::greeted(front.local_addr());
        client.send(format!("{before}DATA\r\nMAIL FROM:<boss@b>\r\n"));
        let replies = before.lines().count();
        (0..replies).for_each(|_| assert!(client.reply().starts_with("250")));
        assert!(client.reply().starts_with("503"));
        assert!(client.is_over());
        assert_eq!(fake.count(), 0);
    }
    let front = start(&Fake::spooling());
    let mut client = Client::greeted(front.local_addr());
    client.expect("BDAT 10 LAST", "502");
    assert!(client.is_over());
}

#[test]
fn what_makes_no_sense_is_refused_at_the_start() {
    use eversock_spool::smtp::{SmtpConfig, SmtpFront};
    let wrong = |change: fn(&mut SmtpConfig)| {
        let mut config = config();
        change(&mut config);
        let error = SmtpFront::start(config, Fake::spooling()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
    };
    wrong(|config| config.hostname = "a b".to_owned());
    wrong(|config| config.hostname = String::new());
    wrong(|config| config.pair = "a/b".to_owned());
    wrong(|config| config.message_max = 32 << 20);
    wrong(|config| config.message_max = 0);
    wrong(|config| config.memory_max = 1);
    wrong(|config| config.recipients_max = 0);
    wrong(|config| config.connections_max = 0);
    wrong(|config| config.errors_max = 0);
    wrong(|config| config.idle = std::time::Duration::ZERO);
    wrong(|config| config.deadline = std::time::Duration::MAX);
}
