//! The form in which a mail lies in the spool, and the id of its request.

use eversock_spool::limits::PAYLOAD_MAX;
use eversock_spool::smtp::{Mail, MailError};
use proptest::collection::vec;
use proptest::prelude::*;

fn with(content: &str) -> Mail {
    Mail {
        sender: "a@b".to_owned(),
        recipient: "C@d".to_owned(),
        eight_bit: false,
        utf8: false,
        content: content.as_bytes().to_vec(),
    }
}

proptest! {
    #[test]
    fn a_mail_comes_back_as_it_was(
        sender in "\\PC{0,40}", recipient in "\\PC{0,40}", eight_bit: bool, utf8: bool,
        content in vec(any::<u8>(), 0..300)
    ) {
        let mail = Mail { sender, recipient, eight_bit, utf8, content };
        prop_assert_eq!(Mail::decode(&mail.encode().unwrap()).unwrap(), mail);
    }

    #[test]
    fn any_bytes_are_refused_or_read_as_what_they_are(bytes in vec(any::<u8>(), 0..60)) {
        for bytes in [bytes.clone(), [&[1, b'M'], &bytes[..]].concat()] {
            if let Ok(mail) = Mail::decode(&bytes) {
                prop_assert_eq!(mail.encode().unwrap(), bytes);
            }
        }
    }
}

#[test]
fn the_form_stays_what_it_is() {
    let mail = Mail { utf8: true, ..with("x\r\n") };
    assert_eq!(mail.encode().unwrap(), b"\x01M\x02\x00\x03a@b\x00\x03C@dx\r\n");
    assert_eq!(mail.key(), b"c@d");
}

#[test]
fn what_is_too_long_is_refused() {
    let long = Mail { content: vec![0; PAYLOAD_MAX], ..with("") };
    assert!(matches!(long.encode(), Err(MailError::TooLong { .. })));
    let long = Mail { sender: "a".repeat(5000), ..with("") };
    assert!(matches!(long.encode(), Err(MailError::TooLong { .. })));
    assert!(Mail::decode(&vec![1; PAYLOAD_MAX + 1]).is_err());
}

#[test]
fn the_same_message_has_the_same_id() {
    let id = |mail: &Mail| mail.id(&mail.encode().unwrap()).unwrap();
    let first = with("Subject: a\r\nMessage-ID: <1@x>\r\n\r\ntext\r\n");
    assert_eq!(id(&first), id(&first));
    for other in [
        Mail { recipient: "e@d".to_owned(), ..first.clone() },
        Mail { sender: "e@d".to_owned(), ..first.clone() },
        Mail { eight_bit: true, ..first.clone() },
        with("Subject: a\r\nMessage-ID: <2@x>\r\n\r\ntext\r\n"),
        with("Subject: a\r\nMessage-ID: <1@x>\r\n\r\nother\r\n"),
    ] {
        assert_ne!(id(&first), id(&other), "{other:?}");
    }
}

#[test]
fn a_message_without_a_name_is_a_new_one_each_time() {
    for (content, named) in [
        ("Message-ID: <1@x>\r\n\r\n", true),
        ("a: b\r\nMESSAGE-id : <1@x>\r\n", true),
        ("Message-ID:\r\n <1@x>\r\n\r\n", true),
        ("", false),
        ("Subject: alarm\r\n\r\ndisk full\r\n", false),
        ("Subject: a\r\n\r\nMessage-ID: <1@x>\r\n", false),
        ("Subject: a\r\n Message-ID: <1@x>\r\n\r\n", false),
        ("Message-ID:\r\n\r\n<1@x>\r\n", false),
        ("Message-ID: <>\r\n\r\n", false),
        ("X-Message-ID: <1@x>\r\n\r\n", false),
    ] {
        let mail = with(content);
        let payload = mail.encode().unwrap();
        let same = mail.id(&payload).unwrap() == mail.id(&payload).unwrap();
        assert_eq!(same, named, "{content:?}");
    }
}

#[test]
fn a_path_has_quotes_where_it_needs_them() {
    for (address, path) in [
        ("", ""),
        ("postmaster", "postmaster"),
        ("a.b+c@d", "a.b+c@d"),
        ("ä@ö", "ä@ö"),
        ("a b@c", "\"a b\"@c"),
        ("a@b@c", "\"a@b\"@c"),
        ("a\"\\b@c", "\"a\\\"\\\\b\"@c"),
        (".a@c", "\".a\"@c"),
        ("a..b@c", "\"a..b\"@c"),
        ("@c", "\"\"@c"),
        ("a> x@c", "\"a> x\"@c"),
    ] {
        assert_eq!(Mail::path(address), path, "{address}");
    }
}
