//! Known answers, for those who write another implementation: what one session says, byte by byte.
//!
//! `docs/PROTOCOL.md` has the same values in section 5.3; `tests/protocol_doc.rs` of the workspace
//! compares the two places.
#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]

use std::sync::Arc;
use std::time::Duration;

use eversock_proto::open::{Offer, OpenClient, OpenError, OpenServer};
use eversock_proto::recv::{Receiver, Violation};
use eversock_proto::resume::{Reason, Reject, ResumeClient, ResumeError, ResumeServer};
use eversock_proto::secret::{PresharedKey, Secret, SessionId};
use eversock_proto::wire::frame::{Acks, FLAG_BLOCKED, Header, Kind};
use eversock_proto::wire::hello::{HelloError, HelloReader, MAGIC, VERSION};

/// What the document has, under the same names.
const VECTORS: [(&str, &str); 14] = [
    ("header", "020102010c0b0a008877665544332211"),
    ("client e, private", "b7eb3a2417252d53deeabfc9f0b78fedb3fbca527825ee2204763d605f36ef59"),
    ("server e, private", "ef6ee371c9c29cb898c081819332e9220b235be31a79ed645ece2b047cec1c83"),
    (
        "OPEN",
        "eb455653010128000000000040000000b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f351309",
    ),
    (
        "OPEN_OK",
        "eb455653010260003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         b12f809a57e8857161087558a6c9952b8d725798b15983514175955ccd69588b02c040358c44feb6\
         eb5102eccaf1ab6d882951ab51a9fbf085622045d7e15e70",
    ),
    ("secret", "66488631233be20faf0925b87bcf55af33f217cf8f2dff43f17be5f6f06e9c42"),
    ("CONFIRM", "eb45565301052000ef6e470e0be44fbbc7064e14457c2567f6ef82ff0291e2e88e5e73179cce5904"),
    (
        "RESUME",
        "eb455653010360000100000000000000020000000000000002000000000000000500000000000000\
         03030303030303030303030303030303030303030303030303030303030303030034d51f3d03bd4b\
         89a93fd59d01f26c0bca05102be7cb971cc00db6ffcdc44b",
    ),
    (
        "RESUME_OK",
        "eb455653010450000200000000000000070000000000000004040404040404040404040404040404\
         0404040404040404040404040404040475e60cf8dadd40327833d5f21339020d6eb53c97a29807ab\
         f8fc01e2149701dc",
    ),
    (
        "CONFIRM of the resume",
        "eb455653010520005afe4e25cd6e3367a97958ae6a68492c6bfc9358826c8e844669b60f6d361897",
    ),
    (
        "REJECT of the resume",
        "eb45565301062d00040000000009000000000000000ad3fa2bde8f6d1934b7d6b0671aef60f69dff\
         0048cec4863a4cf46271cbd9e4",
    ),
    (
        "keyed OPEN",
        "eb455653010138000000000040000100b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f351309bfefa648e6665df5914942b8be9696ec",
    ),
    (
        "keyed OPEN_OK",
        "eb455653010260003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         2425a21017a4ce83da232c79b363bd675b7b6bf829ccb32f5df2641bfed6cf49b9db524f21e07c3b\
         3f64d17ea7f461a0fd59dab3c65c410abaeb2639e00aca95",
    ),
    ("keyed secret", "7f8f31ed4e4e0ba7306934a7af393e2a9b3d626e3ef64f37bd80fb6ba61bc20f"),
];

const ACKS: Acks = Acks { ack: 0, window: 0 };

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The private key that an end makes of its seed: only the seed is this implementation's own.
fn ephemeral(seed: [u8; 32]) -> Vec<u8> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in [b"eversock seed".as_slice(), &seed, &0u64.to_le_bytes()] {
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}

fn offer(key: Option<[u8; 32]>) -> Offer {
    Offer {
        key: key.map(PresharedKey),
        window: 256 * 1024,
        grace: Duration::from_secs(90),
        addrs: vec!["127.0.0.1:80".parse().unwrap(), "[::1]:443".parse().unwrap()],
        ..Offer::default()
    }
}

/// One open: its three messages and the secret that both ends have.
struct Open {
    open: Vec<u8>,
    ok: Vec<u8>,
    confirm: Vec<u8>,
    secret: Secret,
    server: OpenServer,
}

fn opened(key: Option<[u8; 32]>) -> Open {
    let (client, open) = OpenClient::start(&offer(key), [1; 32]).unwrap();
    let (server, ok) =
        OpenServer::answer(&offer(key), &open, SessionId::new(1, 2), [2; 32]).unwrap();
    let (at_client, confirm) = client.answered(&ok).unwrap();
    assert_eq!(at_client.grace, Duration::from_secs(90));
    assert_eq!(at_client.window, 256 * 1024);
    assert_eq!(at_client.addrs, offer(None).addrs);
    Open { open, ok, confirm, secret: at_client.secret, server }
}

#[test]
fn every_message_and_secret_is_the_one_in_the_document() {
    let mut plain = opened(None);
    let mut keyed = opened(Some([9; 32]));
    let secret = &plain.secret;
    let (client, resume) = ResumeClient::start(SessionId::new(1, 2), secret, 2, 5, [3; 32]);
    let (_, resume_ok) = ResumeServer::answer(secret, 1, &resume, 7, [4; 32]).unwrap();
    let (peer_receive, confirm) = client.answered(secret, &resume_ok).unwrap();
    assert_eq!(peer_receive, 7);
    let acks = Acks { ack: 0x1122_3344_5566_7788, window: 0x0102 };
    let header = Header { kind: Kind::Data, flags: FLAG_BLOCKED, length: 0x000a_0b0c, acks };
    let said = [
        hex(&header.encode()),
        hex(&ephemeral([1; 32])),
        hex(&ephemeral([2; 32])),
        hex(&plain.open),
        hex(&plain.ok),
        hex(secret.expose()),
        hex(&plain.confirm),
        hex(&resume),
        hex(&resume_ok),
        hex(&confirm),
        hex(&Reject::proven(Reason::Closed, 9, secret, &resume).encode()),
        hex(&keyed.open),
        hex(&keyed.ok),
        hex(keyed.secret.expose()),
    ];
    for ((name, expected), said) in VECTORS.iter().zip(said) {
        assert_eq!(&said, expected, "{name}");
    }
    // The server comes to the same secret by its own way.
    assert_eq!(plain.server.confirmed(&plain.confirm).unwrap().secret, plain.secret);
    assert_eq!(keyed.server.confirmed(&keyed.confirm).unwrap().secret, keyed.secret);
}

#[test]
fn a_frame_header_is_read_if_and_only_if_the_document_has_it() {
    let lengths = [0, 1, 7, 8, 9, 512, 513, 1 << 20, (1 << 20) + 1, u32::MAX];
    for kind in 0..=255u8 {
        for flags in 0..=255u8 {
            for length in lengths {
                let mut bytes = [0xAB; 16];
                (bytes[0], bytes[1]) = (kind, flags);
                bytes[4..8].copy_from_slice(&length.to_le_bytes());
                let fits = match kind {
                    1 | 4 | 5 | 6 => length == 8,
                    2 => (1..=1 << 20).contains(&length),
                    3 | 8 => length == 0,
                    7 => length <= 512,
                    _ => false,
                };
                let known = fits && flags <= 1;
                let said = format!("type {kind}, flags {flags:#x}, length {length}");
                assert_eq!(Header::decode(&bytes).is_some(), known, "{said}");
                if known {
                    continue;
                }
                let mut receiver = Receiver::new(Arc::default(), 0, 256 * 1024);
                receiver.begin_epoch();
                let start = Header { kind: Kind::Start, flags: 0, length: 8, acks: ACKS };
                receiver.feed(&start.encode()).unwrap();
                receiver.feed(&[0; 8]).unwrap();
                assert_eq!(receiver.feed(&bytes), Err(Violation::BadHeader), "{said}");
            }
        }
    }
}

#[test]
fn a_reader_refuses_version_kind_and_length_by_the_envelope_alone() {
    let read = |version: u8, kind: u8, length: u16| {
        let mut envelope = MAGIC.to_vec();
        envelope.extend_from_slice(&[version, kind]);
        envelope.extend_from_slice(&length.to_le_bytes());
        HelloReader::default().feed(&envelope)
    };
    for version in (0..=255).filter(|&version| version != VERSION) {
        assert_eq!(read(version, 1, 40), Err(HelloError::Version(version)));
    }
    for kind in 0..=255 {
        let known = (1..=6).contains(&kind);
        let expected = if known { Ok(None) } else { Err(HelloError::Malformed) };
        assert_eq!(read(VERSION, kind, 40), expected, "kind {kind}");
    }
    for length in 0..=u16::MAX {
        // Without a body the envelope is the whole message.
        let refused = read(VERSION, 5, length) == Err(HelloError::Malformed);
        assert_eq!(refused, length > 1024 - 8, "length {length}");
    }
}

/// The message with a body of another length: cut, or with zeros behind it.
fn with_body(message: &[u8], length: usize) -> Vec<u8> {
    let mut out = message.to_vec();
    out.resize(8 + length, 0);
    out[6..8].copy_from_slice(&u16::try_from(length).unwrap().to_le_bytes());
    out
}

/// All other lengths from nothing to somewhat more than the message has.
fn misfits(message: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let fits = message.len() - 8;
    (0..fits + 40).filter(move |&length| length != fits).map(|n| with_body(message, n))
}

#[test]
fn a_body_of_another_length_than_its_layout_is_refused_whatever_the_message() {
    let id = SessionId::new(1, 2);
    for key in [None, Some([9; 32])] {
        let session = opened(key);
        // A server ignores a payload in OPEN, so only a body that is cut is none.
        for open in misfits(&session.open).filter(|m| m.len() < session.open.len()) {
            let answer = OpenServer::answer(&offer(key), &open, id, [2; 32]);
            assert!(answer.is_err(), "OPEN of {}", open.len());
        }
        for ok in misfits(&session.ok) {
            let (client, _) = OpenClient::start(&offer(key), [1; 32]).unwrap();
            assert!(client.answered(&ok).is_err(), "OPEN_OK of {}", ok.len());
        }
        for confirm in misfits(&session.confirm) {
            let refused = opened(key).server.confirmed(&confirm);
            assert!(matches!(refused, Err(OpenError::Proof)), "CONFIRM of {}", confirm.len());
        }
        let secret = &session.secret;
        let (client, resume) = ResumeClient::start(id, secret, 2, 5, [3; 32]);
        let (server, ok) = ResumeServer::answer(secret, 1, &resume, 7, [4; 32]).unwrap();
        for resume in misfits(&resume) {
            let answer = ResumeServer::answer(secret, 1, &resume, 7, [4; 32]);
            assert!(answer.is_err(), "RESUME of {}", resume.len());
        }
        for ok in misfits(&ok) {
            assert!(client.answered(secret, &ok).is_err(), "RESUME_OK of {}", ok.len());
        }
        let (_, confirm) = client.answered(secret, &ok).unwrap();
        for confirm in misfits(&confirm) {
            let refused = server.clone().confirmed(secret, 1, &confirm);
            assert!(matches!(refused, Err(ResumeError::Proof)), "CONFIRM of {}", confirm.len());
        }
        let reject = Reject::proven(Reason::Closed, 9, secret, &resume).encode();
        for reject in misfits(&reject) {
            assert_eq!(Reject::decode(&reject), Err(HelloError::Malformed));
        }
    }
}

#[test]
fn a_refusal_for_an_unknown_reason_is_no_refusal() {
    let secret = Secret::from_bytes([5; 32]);
    let mut message = Reject::proven(Reason::Closed, 9, &secret, b"resume").encode();
    for reason in 0..=255 {
        message[8] = reason;
        assert_eq!(Reject::decode(&message).is_ok(), (1..=9).contains(&reason), "{reason}");
    }
}

#[test]
fn an_open_with_an_unknown_flag_or_without_a_window_is_refused() {
    for key in [None, Some([9; 32])] {
        let (_, open) = OpenClient::start(&offer(key), [1; 32]).unwrap();
        let answer = |window: u16, flags: u16| {
            let mut open = open.clone();
            open[12..14].copy_from_slice(&window.to_le_bytes());
            open[14..16].copy_from_slice(&flags.to_le_bytes());
            OpenServer::answer(&offer(key), &open, SessionId::new(1, 2), [2; 32]).map(|_| ())
        };
        let keyed = u16::from(key.is_some());
        let malformed = |answer| matches!(answer, Err(OpenError::Hello(HelloError::Malformed)));
        for bit in 5..16 {
            assert!(malformed(answer(64, keyed | 1 << bit)), "flag {bit}");
        }
        // Who is named, but neither asks for the server's key nor knows it.
        assert!(malformed(answer(64, keyed | 0x10)));
        assert!(malformed(answer(0, keyed)));
        // Without a key nothing but these rules refuses a changed field at this point: the prologue
        // shows in OPEN_OK.
        assert_eq!(answer(1, keyed).is_ok(), key.is_none());
        assert!(answer(64, keyed).is_ok());
        assert!(matches!(answer(64, keyed ^ 1), Err(OpenError::Key)));
    }
}
