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
const VECTORS: [(&str, &str); 40] = [
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
        "eb455653010264003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         b12f809a57e8857161087558a6c9952b8d725798b159872e41759073cd6f59db02c640358c44feb6\
         eb5102eccaf0106c16e763979d5774526596a634891f404a2e9c95bc",
    ),
    ("secret", "52e86d2a16d06ab150e91bd4c419aca61d6e147e1129244f838fe5efd955ed37"),
    ("CONFIRM", "eb455653010520002d3a5961b719e0f14a461c918d60da8df8e4b7058af03cabca2f3c8dd82dc3ee"),
    (
        "RESUME",
        "eb455653010360000100000000000000020000000000000002000000000000000500000000000000\
         030303030303030303030303030303030303030303030303030303030303030324310e18516ab8d5\
         4ab11c87e2a1ad05e259abaa750285c207d2b24f903d1c25",
    ),
    (
        "RESUME_OK",
        "eb455653010450000200000000000000070000000000000004040404040404040404040404040404\
         040404040404040404040404040404045299f400fefcd0c54fa09a7e7a8fc5595f520cb89d35de95\
         c7be582a2a427c35",
    ),
    (
        "CONFIRM of the resume",
        "eb45565301052000d81f81095883bbf69373507e7c2202cbaed695c1f662eba56f053facaea81158",
    ),
    (
        "REJECT of the resume",
        "eb45565301062d0004000000000900000000000000be78c91b247ae5592039a23710c40179b4c452\
         f82ad8dfa7041a89442f578906",
    ),
    (
        "keyed OPEN",
        "eb455653010138000000000040000100b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f351309bfefa648e6665df5914942b8be9696ec",
    ),
    (
        "keyed OPEN_OK",
        "eb455653010264003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         2425a21017a4ce83da232c79b363bd675b7b6bf829ccb7505df26134fed0ce19b9dd524f21e07c3b\
         3f64d17ea7f5daa149534a962c8eac5ba4b83ded131c0862cd6bb686",
    ),
    ("keyed secret", "f1c427950b3982efc53a96c097d3d10196eb6cb3a3a5e4df1312765b67d74903"),
    ("client s, public", "13be4feaeaf204c7fd3358fc9c00721881d174278128227ec674f37f7fe97b6d"),
    ("server s, public", "31d4ab6aceec961137917037936e60716fac573afe94d9da84a8020448dfc112"),
    (
        "NK OPEN",
        "eb455653010138000000000040000800b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f3513098ba70e2bad254adbb439788469a7da4c",
    ),
    (
        "NK OPEN_OK",
        "eb455653010264003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         55e72aeb4e2cd52d33591ec4270b17d243fbf7f35b67da2c3bcad76b7505b6fa42c1a654523fa43d\
         cadabfffe0a0f832612e580f6004a1d5913ef39eb3d521033e9742fe",
    ),
    ("NK secret", "1abf41e2f98620b73c26707ce352f657a59b35a1716ec5146948120637eab4c8"),
    (
        "NX OPEN",
        "eb455653010128000000000040000400b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f351309",
    ),
    (
        "NX OPEN_OK",
        "eb455653010294003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         83a948eed7900f0084ca49bf1b94367c5fd15d82f53e825bd66242031ba42937ff33cefe005c5e26\
         e5f4cf2e5b2ee5b0a0a62286aa204f9da8714ff2625e81c00812a50337d168b12a8b79b8446db461\
         79a501244ea6cda445b8cc7055e6cb09259d2c181105c5186cb25356d81d3bbc58195e19",
    ),
    ("NX secret", "87c44f388eed7d570e8d77a5927cad4cac239333de0074f6f56e3abbd49610ea"),
    (
        "IK OPEN",
        "eb455653010168000000000040001800b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f351309b81ba30bac3f21f9baac779f9b665f74e4513eba2fcd0f532a2e401007bd9c6a\
         3b9e65871ae2141b77e9bff278f9529eb15ec6de3570b4955ede9089add9c442",
    ),
    (
        "IK OPEN_OK",
        "eb455653010264003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         218d31c3214bec25edb0f6f61b25affbe4938db6c338e4939fd56597fbebdfd3f4fffcdff6689d80\
         af15c3dd4378037349bf84fce36376e8c5301f4e2056a54ad0086824",
    ),
    ("IK secret", "bf18a46884f924ed45b462cd5f713a59d00dff8fb342aefe95b5fdcb049950fd"),
    (
        "IX OPEN",
        "eb455653010148000000000040001400b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f35130913be4feaeaf204c7fd3358fc9c00721881d174278128227ec674f37f7fe97b6d",
    ),
    (
        "IX OPEN_OK",
        "eb455653010294003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         1b7ee93061e2d1beb05708b73c161e9cde0bf8d5c73c6945ab1966e5424522c067226336ad78d275\
         d4f359d9e5f12821b6b67cfa948d226cc19932fc8fde97c53cb756e486db35ad42ad99d0e463f9df\
         e00380bbb7bd7796646cfde544b823093cab674926e96048d559bcec673651673b28f8a7",
    ),
    ("IX secret", "0782c20e29e47147537a0a01840688f152c05ca8e8de7c6f1cd0c4c68063a759"),
    (
        "sealed OPEN",
        "eb455653010128000100000040000200b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f351309",
    ),
    (
        "sealed OPEN_OK",
        "eb455653010265003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         b12f809a57e8857161087558a6c9952b8d725798b159872e41759608b26f588a52c046358c44feb6\
         eb5102eccaf0106c16e6d92ddce3631db7bab7a5c55c8a4dfe5da1f0f5",
    ),
    ("sealed secret", "ce9c0cb2d5f2ccfe3fd532f883dfd47067c552007b6aee0f9731293141f9da6a"),
    ("root of epoch 1", "0544be63d61e539b937cb2e90c8cb2e0100b58f6b69c83b44c0798c753d8f824"),
    (
        "AES-256-GCM START",
        "010000000800000000000000000000009c0c5c1ce77d736cb54b875568d28062d037f8389882ff57",
    ),
    (
        "AES-256-GCM DATA",
        "020000000500000000000000000000003374a82a03484c98e5ab9f3d0af8465a7eab6728f3",
    ),
    (
        "AES-256-GCM DATA under the next key",
        "020000000500000000000000000000003f2e060bd54c8e1548031c12b53313c4e0431e8c92",
    ),
    (
        "ChaCha20-Poly1305 START of the server",
        "01000000080000000000000000000000c783ead7ee44dd1662374bb666ffcf2f5a6d186ab30228d9",
    ),
    ("root of the resume", "7c5ebb1309d3ade4d4376a94537c5c98226005b36fc204dcafa17703c3a245f8"),
    (
        "shared OPEN",
        "eb455653010128000200000040000000b80a44d71afcd64abb7765395bf366f9aeb956c73934e8f5\
         23d7ccd71f351309",
    ),
    (
        "shared OPEN_OK",
        "eb455653010264003ee9d75411934f4c54b6342146bc116996cbcebd9480f68d3677b44c6c668f7b\
         b12f809a57e8857161087558a6c9952b8d725798b159852e41759073cd6f59db02c640358c44feb6\
         eb5102eccaf0106c16e76397f7bd6417bb11cb3f9694ead98299bb64",
    ),
    ("shared secret", "027773506e25952b387fb8bed89568b7fe282430efac37adbe136ea924e64d37"),
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
    let said = said.into_iter().chain(named()).chain(sealed()).chain(shared());
    let said: Vec<String> = said.collect();
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

/// The first open again, of two ends that would share the session.
fn shared() -> Vec<String> {
    let offer = Offer { share: true, ..offer(None) };
    let (client, open) = OpenClient::start(&offer, [1; 32]).unwrap();
    let (_, ok) = OpenServer::answer(&offer, &open, SessionId::new(1, 2), [2; 32]).unwrap();
    let opened = client.answered(&ok).unwrap().0;
    assert!(opened.shares);
    vec![hex(&open), hex(&ok), hex(opened.secret.expose())]
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
