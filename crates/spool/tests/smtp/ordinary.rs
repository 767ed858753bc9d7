//! An ordinary client: smtplib of Python.

use std::process::Command;

use eversock_spool::Reason;

use crate::fake::{Fake, rejected, start};

const SEND: &str = r#"
import smtplib, sys
from email.message import EmailMessage
message = EmailMessage()
message["From"], message["To"] = "Anna <anna@example.org>", "bob@example.net, carl@example.net"
message["Subject"], message["Message-ID"] = "Gr\u00fc\u00dfe", "<1@example.org>"
message.set_content("first\n.\n..two dots\n.end\n" + "long " * 300 + "\n")
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=60) as client:
    client.ehlo()
    assert client.has_extn("pipelining") and client.has_extn("8bitmime"), client.esmtp_features
    assert client.verify("bob@example.net")[0] == 252
    try:
        print("refused:", client.send_message(message))
        print("refused:", client.send_message(message))
    except smtplib.SMTPResponseException as error:
        print("error:", error.smtp_code)
"#;

/// What the script prints; `None` if Python is missing, which in CI it must not be.
fn python(port: u16) -> Option<String> {
    let run = Command::new("python3").args(["-c", SEND, &port.to_string()]).output();
    let Ok(output) = run else {
        let ci = std::env::var("CI").as_deref() == Ok("true");
        assert!(!ci, "python3 is missing, and this is CI");
        eprintln!("python3 is missing: NOT tested");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn smtplib_sends_a_message() {
    let fake = Fake::spooling();
    let front = start(&fake);
    let Some(said) = python(front.local_addr().port()) else { return };
    assert_eq!(said, "refused: {}\nrefused: {}\n");
    assert_eq!(fake.count(), 4, "twice to two recipients");
    assert_eq!(fake.taken.lock().unwrap().len(), 2, "and once for each of them");
    let mails = fake.mails();
    assert_eq!(
        (mails[0].sender.as_str(), mails[1].recipient.as_str()),
        ("anna@example.org", "carl@example.net")
    );
    let text = String::from_utf8(mails[0].content.clone()).unwrap();
    assert!(text.contains("\r\nfirst\r\n.\r\n..two dots\r\n.end\r\n"), "{text}");
    assert!(text.contains("Message-ID: <1@example.org>\r\n"), "{text}");
}

#[test]
fn smtplib_hears_that_it_has_to_come_back() {
    let fake = Fake::new(|_| Some(rejected(Reason::SpoolFull)));
    let front = start(&fake);
    let Some(said) = python(front.local_addr().port()) else { return };
    assert_eq!(said, "error: 452\n");
}
