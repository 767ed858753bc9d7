//! A controller of a newer program among those of this one.

use std::io::{Read, Write};

use eversock_controller::model::Record;
use eversock_controller::store::sqlite::SqliteStores;
use eversock_controller::store::{Opens, Position, Quota};
use eversock_controller::wire::codes::{bye, kind};
use eversock_controller::wire::peer::{Introduction, PeerMessage, Standpoint, SyncMessage};
use eversock_controller::wire::{HEADER_BYTES, Hello, Message, Role, frame, header};
use eversock_socket::VirtualStream;

use crate::child::{hear, say};
use crate::controller::STRANGE;
use crate::lab::Lab;
use crate::site::{PATIENCE, id, key, partner_door, place, socket, wait_for};

/// The newer one.
const NEWER: &str = "d";

struct Peer {
    stream: VirtualStream,
    bytes: Vec<u8>,
}

impl Peer {
    /// Comes to the door for partners of `a`.
    fn new(oldest: u16, newest: u16) -> Self {
        let mut config = socket();
        config.identity = Some(key(NEWER));
        config.server_key = Some(key("a").public());
        let stream = VirtualStream::connect_with(partner_door("a"), config).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Self { stream, bytes: Vec::new() };
        peer.say(&PeerMessage::Hello(Hello { oldest, newest, role: Role::Partner }));
        peer
    }

    fn say(&mut self, message: &PeerMessage) {
        self.stream.write_all(&frame(message)).unwrap();
    }

    fn next(&mut self) -> PeerMessage {
        loop {
            if let Some(head) = self.bytes.first_chunk::<HEADER_BYTES>() {
                let (length, kind) = header(*head);
                if let Some(body) = self.bytes[HEADER_BYTES..].get(..length) {
                    let message = PeerMessage::decode(kind, body).unwrap();
                    self.bytes.drain(..HEADER_BYTES + length);
                    return message;
                }
            }
            let mut more = [0; 64 << 10];
            let n = self.stream.read(&mut more).unwrap();
            assert!(n > 0, "the end");
            self.bytes.extend(&more[..n]);
        }
    }
}

/// Of kinds that are not known yet, and one location as it is today.
fn records() -> Vec<Record> {
    let record = |number: u16| Record {
        kind: STRANGE + number % 3,
        key: format!("something new {number}").into_bytes(),
        rank: number.to_be_bytes().to_vec(),
        body: vec![0xee; usize::from(number) * 100],
    };
    (1..=20).map(record).collect()
}

/// The role of the newer one.
pub(crate) fn run(_: &str) {
    // One that has left this version behind is shown out.
    match Peer::new(40, 50).next() {
        PeerMessage::Bye(said) => assert_eq!(said.code, bye::VERSION, "{said}"),
        other => panic!("{other:?}"),
    }
    // One that speaks more than this one gets on with what both have.
    let mut peer = Peer::new(1, 9);
    match peer.next() {
        PeerMessage::Welcome(welcome) => assert_eq!(welcome.version, 1),
        other => panic!("{other:?}"),
    }
    let upto = Position { run: 0x1234, lsn: 20 };
    peer.say(&PeerMessage::Introduction(Introduction {
        controller: id(NEWER),
        boot: 7,
        place: place(NEWER),
        partitions: vec![Standpoint { partition: id("a"), head: upto, taken: None }],
        wall_ms: 0,
    }));
    // A message that only newer ones know.
    let mut new = 5_u32.to_le_bytes().to_vec();
    new.extend((kind::OPTIONAL + 77).to_le_bytes());
    new.extend(b"hello");
    peer.stream.write_all(&new).unwrap();
    let message = SyncMessage::Update { upto, records: records() };
    let mut is_told = false;
    loop {
        match peer.next() {
            PeerMessage::Introduction(_) if !is_told => {
                let message = message.clone();
                peer.say(&PeerMessage::Sync { partition: id("a"), message });
                is_told = true;
            }
            PeerMessage::Sync { partition, message: SyncMessage::Taken { upto: taken } }
                if partition == id("a") && taken == upto =>
            {
                break;
            }
            PeerMessage::Ping { n } => peer.say(&PeerMessage::Pong { n }),
            PeerMessage::Bye(said) => panic!("{said}"),
            _ => {}
        }
    }
    say("taken");
    hear();
}

/// The newer one knows only `a`, and `c` knows only `b`: what it says goes through all of them.
#[test]
fn mixed_versions() {
    let Some(mut lab) = Lab::new("versions") else { return };
    lab.setup("a").partners = vec!["b".to_owned(), NEWER.to_owned()];
    lab.setup("a").passive = vec![NEWER.to_owned()];
    lab.setup("c").partners = vec!["b".to_owned()];
    lab.start_all();
    lab.fleet("e", &crate::lab::groups(0..67));
    let before = lab.settle(200);
    let mut newer = lab.spawn(NEWER, &[], "newer", "");
    assert_eq!(newer.word(), "taken");
    let of_a = |lab: &mut Lab, name: &str| {
        let partitions = lab.status(name).partitions;
        partitions.into_iter().find(|one| one.name == "a").unwrap().records
    };
    for name in ["a", "b", "c"] {
        wait_for("the records have come", || of_a(&mut lab, name) == 67 + 20);
    }
    newer.go();
    assert!(newer.end().success());
    assert_eq!(lab.settle(200), before, "nothing else has changed");
    lab.request_all();
    let folder = lab.setup("c").folder.clone();
    lab.kill("c");
    let mut store = SqliteStores::new(&folder, Quota::default()).open(&id("a")).unwrap();
    for record in records() {
        let row = store.get(record.kind, &record.key).unwrap().map(|row| row.record);
        assert_eq!(row, Some(record));
    }
    drop(store);
    lab.close("mixed_versions");
}
