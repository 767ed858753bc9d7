//! Messages and frames as bytes.

use std::fmt::Debug;
use std::io::{self, Read};
use std::time::Duration;

use eversock_spool::limits::{BATCH_MAX, DEADLINE_MAX, KEY_MAX, MESSAGE_MAX, TEXT_MAX};
use eversock_spool::record::Record;
use eversock_spool::target::{Class, Grant, ItemResult, Report, Stamp};
use eversock_spool::wire::codes::kind;
use eversock_spool::wire::frame::{self, HEAD_MAX};
use eversock_spool::wire::{
    Bye, FrameError, FrameReader, Hello, Incoming, Message, Role, SenderMessage, ServerMessage,
    WireError,
};
use eversock_spool::{Kind, Outcome, Reason, Request, RequestId};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..200)
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..=DEADLINE_MAX.as_micros() as u64).prop_map(Duration::from_micros)
}

fn id() -> impl Strategy<Value = RequestId> {
    any::<u128>().prop_map(RequestId)
}

fn request_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Write),
        Just(Kind::Read),
        Just(Kind::Delete),
        Just(Kind::Search),
        any::<u16>().prop_map(Kind::Custom),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    (id(), request_kind(), bytes(), bytes(), duration())
        .prop_map(|(id, kind, key, payload, deadline)| Request { id, kind, key, payload, deadline })
}

fn record() -> impl Strategy<Value = Record> {
    (request(), any::<[u64; 3]>()).prop_map(|(request, [lsn, epoch, accepted_ms])| Record {
        lsn,
        ..Record::new(request, epoch, accepted_ms)
    })
}

fn reason() -> impl Strategy<Value = Reason> {
    prop_oneof![
        Just(Reason::SpoolFull),
        Just(Reason::HoldFull),
        Just(Reason::Deadline),
        Just(Reason::Unavailable),
        Just(Reason::Closing),
        Just(Reason::IdReused),
        text().prop_map(Reason::Malformed),
        (any::<u32>(), text()).prop_map(|(code, text)| Reason::Refused { code, text }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        bytes().prop_map(|answer| Outcome::Applied { answer }),
        any::<u64>().prop_map(|lsn| Outcome::Spooled { lsn }),
        any::<u64>().prop_map(|lsn| Outcome::Held { lsn }),
        Just(Outcome::Stale),
        Just(Outcome::InDoubt),
        (reason(), duration())
            .prop_map(|(reason, retry_after)| Outcome::Rejected { reason, retry_after }),
    ]
}

fn item() -> impl Strategy<Value = ItemResult> {
    prop_oneof![
        (bytes(), any::<bool>()).prop_map(|(answer, again)| ItemResult::Done { answer, again }),
        (any::<u32>(), text()).prop_map(|(code, text)| ItemResult::Refused { code, text }),
        duration().prop_map(|after| ItemResult::Later { after }),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    (any::<u16>(), any::<u16>(), prop_oneof![Just(Role::Sender), Just(Role::Front)])
        .prop_map(|(oldest, newest, role)| Hello { oldest, newest, role })
}

fn bye() -> impl Strategy<Value = Bye> {
    (any::<u8>(), text()).prop_map(|(code, text)| Bye { code, text })
}

fn stamp() -> impl Strategy<Value = Stamp> {
    any::<[u64; 2]>().prop_map(|[run, at_us]| Stamp { run, at_us })
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![Just(Class::Ledger), Just(Class::Idempotent), Just(Class::Opaque)]
}

fn sender_message() -> impl Strategy<Value = SenderMessage> {
    let pair = "[a-zA-Z0-9_-]{1,64}";
    prop_oneof![
        hello().prop_map(SenderMessage::Hello),
        any::<u16>().prop_map(|version| SenderMessage::Welcome { version }),
        bye().prop_map(SenderMessage::Bye),
        (any::<u64>(), pair, request()).prop_map(|(tag, pair, request)| SenderMessage::Request {
            tag,
            pair,
            request
        }),
        (any::<u64>(), outcome())
            .prop_map(|(tag, outcome)| SenderMessage::Outcome { tag, outcome }),
        (any::<u64>(), pair, id()).prop_map(|(tag, pair, id)| SenderMessage::Fetch {
            tag,
            pair,
            id
        }),
        (any::<u64>(), option::of(outcome()))
            .prop_map(|(tag, outcome)| SenderMessage::Fetched { tag, outcome }),
    ]
}

fn report() -> impl Strategy<Value = Report> {
    (any::<[bool; 2]>(), option::of(any::<u64>()), any::<u64>(), stamp()).prop_map(
        |([ready, wants_switch], holds, seen, stamp)| Report {
            ready,
            holds,
            seen,
            wants_switch,
            stamp,
        },
    )
}

fn server_message() -> impl Strategy<Value = ServerMessage> {
    let number = any::<u64>;
    prop_oneof![
        hello().prop_map(ServerMessage::Hello),
        (any::<u16>(), class())
            .prop_map(|(version, class)| ServerMessage::Welcome { version, class }),
        bye().prop_map(ServerMessage::Bye),
        (number(), number(), option::of(number()), vec(record(), 0..5)).prop_map(
            |(call, epoch, job, items)| ServerMessage::Execute {
                call,
                epoch,
                job,
                items: items.into()
            }
        ),
        (number(), vec(item(), 0..5))
            .prop_map(|(call, results)| ServerMessage::Results { call, results }),
        (number(), number()).prop_map(|(call, seen)| ServerMessage::Fenced { call, seen }),
        number().prop_map(|n| ServerMessage::Probe { n }),
        (number(), report()).prop_map(|(n, report)| ServerMessage::Report { n, report }),
        (number(), number(), duration(), stamp()).prop_map(|(n, epoch, lease, stamp)| {
            ServerMessage::Grant { n, grant: Grant { epoch, lease, stamp } }
        }),
        (number(), any::<bool>()).prop_map(|(n, done)| ServerMessage::Granted { n, done }),
        any::<[u64; 3]>().prop_map(|[n, epoch, timeout_ms]| ServerMessage::Release {
            n,
            epoch,
            timeout_ms
        }),
        (number(), any::<bool>()).prop_map(|(n, done)| ServerMessage::Released { n, done }),
    ]
}

fn comes_back<M: Message + PartialEq + Debug>(message: &M) -> Result<(), TestCaseError> {
    let mut wire = Vec::new();
    frame::put(message, &mut wire).unwrap();
    let mut reader = FrameReader::new(wire.as_slice());
    let frame = reader.read(MESSAGE_MAX).unwrap().unwrap();
    prop_assert_eq!(&frame.decode::<M>().unwrap(), message);
    prop_assert!(reader.read(MESSAGE_MAX).unwrap().is_none());
    for end in 0..frame.body.len() {
        prop_assert!(M::decode(frame.kind, &frame.body[..end]).is_err(), "cut at {end}");
    }
    let longer = [&frame.body[..], &[0]].concat();
    prop_assert_eq!(
        M::decode(frame.kind, &longer).unwrap_err(),
        WireError::Trailing { kind: frame.kind, count: 1 }
    );
    Ok(())
}

/// What is read has one form only.
fn is_read_or_refused<M: Message>(kind: u16, body: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(message) = M::decode(kind, body) {
        let mut again = Vec::new();
        message.encode(&mut again);
        prop_assert_eq!((message.kind(), again.as_slice()), (kind, body));
    }
    Ok(())
}

fn any_kind() -> impl Strategy<Value = u16> {
    prop_oneof![any::<u16>(), 0..5u16, 0x100..0x106u16, 0x200..0x20bu16]
}

proptest! {
    #[test]
    fn a_senders_message_comes_back_as_it_went(message in sender_message()) {
        comes_back(&message)?;
    }

    #[test]
    fn a_servers_message_comes_back_as_it_went(message in server_message()) {
        comes_back(&message)?;
    }

    #[test]
    fn random_bytes_are_read_or_refused(
        kind in any_kind(),
        body in vec(prop_oneof![Just(0), 0..9u8, any::<u8>()], 0..120),
    ) {
        is_read_or_refused::<SenderMessage>(kind, &body)?;
        is_read_or_refused::<ServerMessage>(kind, &body)?;
    }

    #[test]
    fn a_message_with_a_changed_byte_is_read_or_refused(
        message in server_message(),
        other in sender_message(),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        message.encode(&mut one);
        other.encode(&mut two);
        let last = at.index(one.len());
        one[last] = to;
        let last = at.index(two.len());
        two[last] = to;
        is_read_or_refused::<ServerMessage>(message.kind(), &one)?;
        is_read_or_refused::<SenderMessage>(other.kind(), &two)?;
    }

    #[test]
    fn frames_cut_anywhere_come_whole(
        bodies in vec(bytes(), 0..6),
        steps in vec(1..50usize, 1..9),
        big in 0..40_000usize,
    ) {
        let mut wire = Vec::new();
        let bodies: Vec<Vec<u8>> = bodies.into_iter().chain([vec![7; big]]).collect();
        for body in &bodies {
            wire.extend((body.len() as u32).to_le_bytes());
            wire.extend(9u16.to_le_bytes());
            wire.extend(body);
        }
        let mut reader = FrameReader::new(Dribble { rest: &wire, steps: &steps, at: 0 });
        for body in &bodies {
            let frame = reader.read(40_000).unwrap().unwrap();
            prop_assert_eq!((frame.kind, &frame.body), (9, body));
        }
        prop_assert!(reader.read(40_000).unwrap().is_none());
    }
}

/// Gives as little at a time as it is told, and is interrupted now and then.
struct Dribble<'a> {
    rest: &'a [u8],
    steps: &'a [usize],
    at: usize,
}

impl Read for Dribble<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.at += 1;
        if self.at.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let n = self.steps[self.at % self.steps.len()].min(self.rest.len()).min(buf.len());
        let (now, rest) = self.rest.split_at(n);
        buf[..n].copy_from_slice(now);
        self.rest = rest;
        Ok(n)
    }
}

fn wire_of(length: u32, kind: u16, body: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes()[..], &kind.to_le_bytes(), body].concat()
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
    let wire = wire_of(u32::MAX, kind::REQUEST, &[]);
    let error = FrameReader::new(wire.as_slice()).read(MESSAGE_MAX).unwrap_err();
    let FrameError::TooLong { kind: kind::REQUEST, length, limit: MESSAGE_MAX } = error else {
        panic!("{error}");
    };
    assert_eq!(length, u32::MAX as usize);
}

#[test]
fn what_is_announced_and_does_not_come_takes_no_memory() {
    let wire = wire_of(MESSAGE_MAX as u32, kind::REQUEST, &[1; 3 * HEAD_MAX]);
    let mut charged = 0;
    let mut charge = |more| {
        charged += more;
        true
    };
    let read = FrameReader::new(wire.as_slice()).read_charged(MESSAGE_MAX, &mut charge);
    assert!(
        matches!(read, Err(FrameError::Cut { missing }) if missing == MESSAGE_MAX - 3 * HEAD_MAX)
    );
    assert!(charged <= 4 * HEAD_MAX, "{charged} bytes were taken for {}", 3 * HEAD_MAX);
}

#[test]
fn a_body_without_budget_is_thrown_away_and_the_next_frame_is_read() {
    let mut body = vec![3; 10 * HEAD_MAX + 5];
    body[..8].copy_from_slice(&77u64.to_le_bytes());
    let mut wire = wire_of(body.len() as u32, kind::REQUEST, &body);
    wire.extend(wire_of(2, kind::WELCOME, &[1, 0]));
    for budget in [0, HEAD_MAX, 4 * HEAD_MAX] {
        let mut left = budget;
        let mut charge = |more: usize| {
            let fits = more <= left;
            left -= if fits { more } else { 0 };
            fits
        };
        let mut reader = FrameReader::new(wire.as_slice());
        let Incoming::Skipped(head) =
            reader.read_charged(MESSAGE_MAX, &mut charge).unwrap().unwrap()
        else {
            panic!("a budget of {budget} is not kept");
        };
        assert_eq!((head.kind, head.body.len()), (kind::REQUEST, HEAD_MAX));
        assert_eq!(SenderMessage::tag_of(head.kind, &head.body), Some(77));
        let next = reader.read(MESSAGE_MAX).unwrap().unwrap();
        assert_eq!(next.decode::<SenderMessage>(), Ok(SenderMessage::Welcome { version: 1 }));
    }
}

#[test]
fn lengths_inside_messages_are_checked_against_the_limits() {
    let request = |key: usize, deadline| {
        let request = Request {
            id: RequestId(1),
            kind: Kind::Write,
            key: vec![0; key],
            payload: Vec::new(),
            deadline,
        };
        let message = SenderMessage::Request { tag: 1, pair: "p".to_owned(), request };
        let mut body = Vec::new();
        message.encode(&mut body);
        SenderMessage::decode(kind::REQUEST, &body)
    };
    assert!(request(KEY_MAX, DEADLINE_MAX).is_ok());
    let too_long = request(KEY_MAX + 1, Duration::ZERO).unwrap_err();
    assert!(too_long.to_string().contains("4097"), "{too_long}");
    // Longer than any may be goes as the longest.
    let clamped = request(0, DEADLINE_MAX * 2).unwrap();
    let SenderMessage::Request { request, .. } = clamped else { panic!("{clamped:?}") };
    assert_eq!(request.deadline, DEADLINE_MAX);

    let mut count = [0; 12];
    count[8..].copy_from_slice(&(BATCH_MAX as u32 + 1).to_le_bytes());
    let too_many = ServerMessage::decode(kind::RESULTS, &count).unwrap_err();
    assert!(too_many.to_string().contains("257"), "{too_many}");

    let mut body = Vec::new();
    SenderMessage::Bye(Bye { code: 1, text: "ä".repeat(TEXT_MAX) }).encode(&mut body);
    let Ok(SenderMessage::Bye(bye)) = SenderMessage::decode(kind::BYE, &body) else { panic!() };
    assert_eq!(bye.text, "ä".repeat(TEXT_MAX / 2));
}

#[test]
fn a_message_that_is_too_long_is_not_sent() {
    let results = vec![ItemResult::Done { answer: vec![0; MESSAGE_MAX / 4], again: false }; 5];
    let mut wire = vec![1, 2, 3];
    let error = frame::put(&ServerMessage::Results { call: 1, results }, &mut wire).unwrap_err();
    assert!(matches!(error, WireError::TooLong { .. }), "{error}");
    assert_eq!(wire, [1, 2, 3]);
}

#[test]
fn errors_name_what_came() {
    let decode = |kind, body: &[u8]| SenderMessage::decode(kind, body).unwrap_err().to_string();
    assert!(decode(0x0777, &[]).contains("0x0777"));
    assert!(decode(kind::EXECUTE, &[]).contains("0x0201"));
    assert!(decode(kind::HELLO, b"HTTP\x01\0\x01\0\x01").contains("0x50545448"));
    assert!(decode(kind::OUTCOME, &[0, 0, 0, 0, 0, 0, 0, 0, 99]).contains("99"));
    let fetch = [&[0; 8][..], &[3, 0, 0, 0], b"a/b", &[0; 16]].concat();
    assert!(decode(kind::FETCH, &fetch).contains("a/b"));
}

#[test]
fn versions_and_roles_are_agreed_upon() {
    assert_eq!(Hello::new(Role::Front).agree(Role::Front), Ok(1));
    let newer = Hello { oldest: 1, newest: 7, role: Role::Sender };
    assert_eq!(newer.agree(Role::Sender), Ok(1));
    let too_new = Hello { oldest: 5, newest: 7, role: Role::Sender };
    let text = too_new.agree(Role::Sender).unwrap_err().to_string();
    assert!(text.contains("there 5 to 7"), "{text}");
    assert!(Hello::new(Role::Sender).agree(Role::Front).is_err());
    let upside_down = Hello { oldest: 9, newest: 1, role: Role::Sender };
    assert!(upside_down.agree(Role::Sender).is_err());
}
