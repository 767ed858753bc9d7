//! Known answers, for those who write another implementation: what one session says, byte by byte.
//!
//! `docs/PROTOCOL.md` has the same values in section 5.3; `tests/protocol_doc.rs` of the workspace
//! compares the two places.
#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]

use std::sync::Arc;
use std::time::Duration;

use eversock_proto::control::Role;
use eversock_proto::identity::{ServerKey, StaticKey};
use eversock_proto::open::{Offer, OpenClient, OpenError, OpenServer, Sealing};
use eversock_proto::recv::{Receiver, Violation};
use eversock_proto::resume::{Reason, Reject, ResumeClient, ResumeError, ResumeServer};
use eversock_proto::seal::{Cipher, EpochKeys, Sealer};
use eversock_proto::secret::{PresharedKey, Secret, SessionId};
use eversock_proto::wire::frame::{Acks, FLAG_BLOCKED, Header, Kind};
use eversock_proto::wire::hello::{HelloError, HelloReader, MAGIC, VERSION};

/// What the document has, under the same names.
const VECTORS: [(&str, &str); 37] = [
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
    ("client s, public", "13be4feaeaf204c7fd3358fc9c00721881d174278128227ec674f37f7fe97b6d"),
    ("server s, public", "31d4ab6aceec961137917037936e60716fac573afe94d9da84a8020448dfc112"),
    (
        "NK OPEN",
        "eb455653010138000000000040000800b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f3513098ba70e2bad254adbb439788469a7da4c",
    ),
    (
        "NK OPEN_OK",
        "eb455653010260003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         55e72aeb4e2cd52d33591ec4270b17d243fbf7f35b67de533bcad2447503b7aa42c7a654523fa43d\
         cadabfffe0a14333444a673cfe5f2ca2c632d9dd8626c9d1",
    ),
    ("NK secret", "dcac17ea0e1ae67147c4fd0a4d5abdcca759fb9486924ea81d42d55c68ecfbe0"),
    (
        "NX OPEN",
        "eb455653010128000000000040000400b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f351309",
    ),
    (
        "NX OPEN_OK",
        "eb455653010290003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         83a948eed7900f0084ca49bf1b94367c5fd15d82f53e825bd66242031ba42937ff33cefe005c5e26\
         e5f4cf2e5b2ee5b0a0a62286aa204f9da8714ff2625e81c00812a50337d16cce2a8b7c97446bb531\
         79a301244ea6cda445b8cc7055e7700829c7b1acf8a515da5ae3450a7418ef91",
    ),
    ("NX secret", "874b301e215e69a0af74be91cc19ebdb15e52a20b9056dca51228c857874ef7e"),
    (
        "IK OPEN",
        "eb455653010168000000000040001800b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f351309b81ba30bac3f21f9baac779f9b665f74e4513eba2fcd0f532a2e401007bd9c6a\
         3b9e65871ae2141b77e9bff278f9529eb15ec6de3570b4955ede9089add9c442",
    ),
    (
        "IK OPEN_OK",
        "eb455653010260003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         218d31c3214bec25edb0f6f61b25affbe4938db6c338e0ec9fd560b8fbedde83f4f9fcdff6689d80\
         af15c3dd4379b8725a06c65812a5fa652470754bc9a2fcb1",
    ),
    ("IK secret", "50929cfdd769a845ee92825d3eccdfd39c788c877f8198b45e6ad82d6258c3b3"),
    (
        "IX OPEN",
        "eb455653010148000000000040001400b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f35130913be4feaeaf204c7fd3358fc9c00721881d174278128227ec674f37f7fe97b6d",
    ),
    (
        "IX OPEN_OK",
        "eb455653010290003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         1b7ee93061e2d1beb05708b73c161e9cde0bf8d5c73c6945ab1966e5424522c067226336ad78d275\
         d4f359d9e5f12821b6b67cfa948d226cc19932fc8fde97c53cb756e486db31d242ad9cffe465f88f\
         e00580bbb7bd7796646cfde544b998085333437508fc9888425d7fa984cfeb5a",
    ),
    ("IX secret", "7364f087faa520a2ba189a61916af9789ee616da0b57fb593fda316b284dd75c"),
    (
        "sealed OPEN",
        "eb455653010128000100000040000200b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f351309",
    ),
    (
        "sealed OPEN_OK",
        "eb455653010261003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         b12f809a57e8857161087558a6c9952b8d725798b159852a3e75940d9d6f5e8b02c040358c44feb6\
         eb5102eccaf011d71768268cf20c55c9a20388f54e25296154",
    ),
    ("sealed secret", "62a531d8634f04e7881fa21643a356df446ca46b631ae8c4edc853e9a3ffc262"),
    ("root of epoch 1", "05e767a6402808c67d490d3e8bfac95dd8ae7b2fe85ec4eea1054c5d56e2b73f"),
    (
        "AES-256-GCM START",
        "010000000800000000000000000000003a3371969803b675e1f30b0c0eb6ad376a7652b888069f92",
    ),
    (
        "AES-256-GCM DATA",
        "020000000500000000000000000000001e7195332837150a80ca18c93d733bb1a4d84276ed",
    ),
    (
        "AES-256-GCM DATA under the next key",
        "020000000500000000000000000000002f87b2e9518246528da9067f823f6c294fbda937e5",
    ),
    (
        "ChaCha20-Poly1305 START of the server",
        "010000000800000000000000000000002d87246ac552fbe948c7828d702aa754c6d3da87cb9a13bf",
    ),
    ("root of the resume", "10ea445cee511135813040600d876bb1ef90d85c295987e57df1ca9eca481075"),
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
    let said: Vec<String> = said.into_iter().chain(named()).chain(sealed()).collect();
    assert_eq!(said.len(), VECTORS.len());
    for ((name, expected), said) in VECTORS.iter().zip(said) {
        assert_eq!(&said, expected, "{name}");
    }
    // The server comes to the same secret by its own way.
    assert_eq!(plain.server.confirmed(&plain.confirm).unwrap().secret, plain.secret);
    assert_eq!(keyed.server.confirmed(&keyed.confirm).unwrap().secret, keyed.secret);
}

/// Opens with static keys: their public halves, and of each pattern OPEN, OPEN_OK and the secret.
fn named() -> Vec<String> {
    let (client, server) = (StaticKey::from_bytes([7; 32]), StaticKey::from_bytes([8; 32]));
    let mut said = vec![client.public().to_string(), server.public().to_string()];
    let known = ServerKey::Known(server.public());
    for identity in [None, Some(&client)] {
        for wanted in [known, ServerKey::Asked] {
            let (identity, id) = (identity.cloned(), SessionId::new(1, 2));
            let at_client = Offer { identity, server: wanted, ..offer(None) };
            let at_server = Offer { identity: Some(server.clone()), ..offer(None) };
            let (client, open) = OpenClient::start(&at_client, [1; 32]).unwrap();
            let (_, ok) = OpenServer::answer(&at_server, &open, id, [2; 32]).unwrap();
            let secret = client.answered(&ok).unwrap().0.secret;
            said.extend([hex(&open), hex(&ok), hex(secret.expose())]);
        }
    }
    said
}

/// A sealed open, some of its records, and the keys of its resume.
fn sealed() -> Vec<String> {
    let offer = Offer { sealing: Sealing::Always, aes: true, ..offer(None) };
    let (client, open) = OpenClient::start(&offer, [1; 32]).unwrap();
    let (mut server, ok) =
        OpenServer::answer(&offer, &open, SessionId::new(1, 2), [2; 32]).unwrap();
    let (opened, confirm) = client.answered(&ok).unwrap();
    assert_eq!(opened.cipher, Some(Cipher::Aes256Gcm));
    let secret = opened.secret;
    let (_, root) = opened.keys.unwrap().into_parts();
    let (_, at_server) = server.confirmed(&confirm).unwrap().keys.unwrap().into_parts();
    assert_eq!(root, at_server);
    let record = |sealer: &mut Sealer, kind, body: &[u8]| {
        let header = Header { kind, flags: 0, length: body.len() as u32, acks: ACKS };
        let mut record = header.encode().to_vec();
        record.extend_from_slice(body);
        assert!(sealer.seal(&mut record));
        hex(&record)
    };
    // START and DATA weigh 8 + 64 and 5 + 64: the key behind them is the next.
    let keys = |cipher| EpochKeys::from_parts(cipher, root).with_weight_max(141);
    let (mut aes, _) = keys(Cipher::Aes256Gcm).split(Role::Client);
    let (mut chacha, _) = keys(Cipher::Chacha20Poly1305).split(Role::Server);
    let (resuming, resume) = ResumeClient::start(SessionId::new(1, 2), &secret, 2, 5, [3; 32]);
    let (_, answer) = ResumeServer::answer(&secret, 1, &resume, 7, [4; 32]).unwrap();
    vec![
        hex(&open),
        hex(&ok),
        hex(secret.expose()),
        hex(&root),
        record(&mut aes, Kind::Start, &[0; 8]),
        record(&mut aes, Kind::Data, b"hello"),
        record(&mut aes, Kind::Data, b"hello"),
        record(&mut chacha, Kind::Start, &[0; 8]),
        hex(&resuming.keys(&secret, Cipher::Aes256Gcm, &answer).into_parts().1),
    ]
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
