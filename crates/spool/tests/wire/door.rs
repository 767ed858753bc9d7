//! The front's end for senders, with senders that say anything.

use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eversock_engine::Config;
use eversock_socket::{VirtualListener, VirtualStream};
use eversock_spool::door::{DoorConfig, SocketDoor};
use eversock_spool::limits::KEY_MAX;
use eversock_spool::submit::Submit;
use eversock_spool::target::Reply;
use eversock_spool::wire::codes::{bye, kind};
use eversock_spool::wire::frame::{self, HEAD_MAX};
use eversock_spool::wire::{Bye, Hello, Role, SenderMessage, ServerMessage};
use eversock_spool::{Kind, Outcome, Reason, Request, RequestId};

use crate::common::{PATIENCE, Raw, config, listen, locked, request, wait_for};

type Answer = Box<dyn Fn(&Request) -> Outcome + Send + Sync>;

/// Answers by a rule, or keeps what it is asked until the test answers.
pub(crate) struct FakeSubmit {
    rule: Mutex<Option<Answer>>,
    /// Ids in the order in which they were asked, again and again.
    pub(crate) seen: Mutex<Vec<RequestId>>,
    pub(crate) held: Mutex<HashMap<RequestId, (Request, Reply<Outcome>)>>,
    /// Drops replies rather than to keep them.
    pub(crate) drops: AtomicBool,
}

impl std::fmt::Debug for FakeSubmit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeSubmit")
    }
}

impl FakeSubmit {
    /// Holds everything.
    pub(crate) fn holding() -> Arc<Self> {
        Arc::new(Self {
            rule: Mutex::default(),
            seen: Mutex::default(),
            held: Mutex::default(),
            drops: AtomicBool::new(false),
        })
    }

    pub(crate) fn answering(
        rule: impl Fn(&Request) -> Outcome + Send + Sync + 'static,
    ) -> Arc<Self> {
        let this = Self::holding();
        *locked(&this.rule) = Some(Box::new(rule));
        this
    }

    /// Answers with the payload.
    pub(crate) fn echoing() -> Arc<Self> {
        Self::answering(|request| applied(&request.payload))
    }

    pub(crate) fn asked(&self) -> usize {
        locked(&self.seen).len()
    }

    pub(crate) fn answer(&self, id: u128, outcome: Outcome) {
        let (_, reply) = locked(&self.held).remove(&RequestId(id)).unwrap();
        reply(outcome);
    }
}

impl Submit for FakeSubmit {
    fn submit(&self, pair: &str, request: Request, reply: Reply<Outcome>) {
        locked(&self.seen).push(request.id);
        if pair != "pair-1" {
            return reply(rejected(Reason::Malformed(pair.to_owned()), Duration::ZERO));
        }
        if let Some(rule) = &*locked(&self.rule) {
            return reply(rule(&request));
        }
        if !self.drops.load(Ordering::SeqCst) {
            locked(&self.held).insert(request.id, (request, reply));
        }
    }

    fn fetch(&self, _pair: &str, id: RequestId, reply: Reply<Option<Outcome>>) {
        reply((id.0 > 100).then_some(Outcome::Held { lsn: 3 }));
    }
}

pub(crate) fn applied(answer: &[u8]) -> Outcome {
    Outcome::Applied { answer: answer.to_vec() }
}

pub(crate) fn rejected(reason: Reason, retry_after: Duration) -> Outcome {
    Outcome::Rejected { reason, retry_after }
}

pub(crate) fn open(
    listener: VirtualListener,
    submit: &Arc<FakeSubmit>,
    config: DoorConfig,
) -> SocketDoor {
    SocketDoor::start(listener, Arc::<FakeSubmit>::clone(submit), config).unwrap()
}

fn greeted(addr: SocketAddr) -> Raw {
    let mut sender = Raw::hello(addr, Role::Sender, SenderMessage::Hello);
    assert_eq!(sender.next(), Some(SenderMessage::Welcome { version: 1 }));
    sender
}

fn asks(tag: u64, request: Request) -> SenderMessage {
    SenderMessage::Request { tag, pair: "pair-1".to_owned(), request }
}

fn tells(tag: u64, outcome: Outcome) -> Option<SenderMessage> {
    Some(SenderMessage::Outcome { tag, outcome })
}

#[test]
fn requests_are_pipelined_and_outcomes_come_in_any_order() {
    let submit = FakeSubmit::holding();
    let door = open(listen(), &submit, DoorConfig::default());
    let mut sender = greeted(door.addr());
    for tag in 0..100 {
        sender.send(&asks(tag, request(u128::from(tag), Kind::Write, b"x")));
    }
    wait_for("all were handed in", || submit.asked() == 100);
    for tag in (0..100).rev() {
        submit.answer(tag.into(), Outcome::Spooled { lsn: tag });
        assert_eq!(sender.next(), tells(tag, Outcome::Spooled { lsn: tag }));
    }
    let fetch =
        |tag, id| SenderMessage::Fetch { tag, pair: "pair-1".to_owned(), id: RequestId(id) };
    sender.send(&fetch(7, 100));
    assert_eq!(sender.next(), Some(SenderMessage::Fetched { tag: 7, outcome: None }));
    sender.send(&fetch(8, 101));
    let outcome = Some(Outcome::Held { lsn: 3 });
    assert_eq!(sender.next(), Some(SenderMessage::Fetched { tag: 8, outcome }));
    wait_for("nothing is kept", || door.bytes() == 0);
}

#[test]
fn a_sender_with_as_much_under_way_as_may_be_is_not_read() {
    let submit = FakeSubmit::holding();
    let config = DoorConfig { in_flight_max: 5, ..DoorConfig::default() };
    let door = open(listen(), &submit, config);
    let mut sender = greeted(door.addr());
    for tag in 0..9 {
        sender.send(&asks(tag, request(u128::from(tag), Kind::Write, b"")));
    }
    wait_for("so many are handed in", || submit.asked() == 5);
    // Another connection's answer shows that the door has had time for more.
    let other = greeted(door.addr());
    other.send(&asks(1, request(50, Kind::Write, b"")));
    wait_for("others are heard", || submit.asked() == 6);
    assert!(!locked(&submit.seen).contains(&RequestId(5)));
    for n in 0..4 {
        submit.answer(n, Outcome::Stale);
        assert_eq!(sender.next(), tells(n as u64, Outcome::Stale));
    }
    wait_for("the others follow", || submit.asked() == 10);
}

#[test]
fn a_sender_that_reads_nothing_stops_being_read_and_others_go_on() {
    const ANSWER: usize = 32 << 10;
    let submit = FakeSubmit::answering(|_| applied(&[0; ANSWER]));
    let config_of_door = DoorConfig { in_flight_max: 64, ..DoorConfig::default() };
    let door = open(listen(), &submit, config_of_door);
    // Little credit, so that what is not read soon stands still.
    let small = Config { window: 16 << 10, window_max: 16 << 10, ..config() };
    let deaf = Raw::of(VirtualStream::connect_with(door.addr(), small).unwrap());
    deaf.send(&SenderMessage::Hello(Hello::new(Role::Sender)));
    deaf.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut wire = Vec::new();
    frame::put(&asks(1, request(1, Kind::Write, &[1; 1000])), &mut wire).unwrap();
    let (mut at, mut written) = (0, 0);
    let blocked = loop {
        match (&*deaf.stream).write(&wire[at..]) {
            Ok(n) => {
                at = (at + n) % wire.len();
                written += n;
            }
            Err(error) => break error,
        }
        assert!(written < 256 << 20, "the door reads all and keeps all answers");
    };
    assert_eq!(blocked.kind(), ErrorKind::WouldBlock);
    assert!(door.bytes() <= 65 * (ANSWER + 2000), "{} bytes are kept", door.bytes());
    let mut other = greeted(door.addr());
    other.send(&asks(1, request(2, Kind::Write, b"")));
    assert!(other.next() == tells(1, applied(&[0; ANSWER])), "another is answered");
    door.close();
    assert_eq!((door.connections(), door.bytes()), (0, 0));
}

#[test]
fn reads_whose_answers_have_no_room_are_to_come_back_and_writes_keep_theirs() {
    let submit = FakeSubmit::holding();
    let config_of_door = DoorConfig { bytes_in_flight_max: 100_000, ..DoorConfig::default() };
    let door = open(listen(), &submit, config_of_door);
    let small = Config { window: 16 << 10, window_max: 16 << 10, ..config() };
    let mut sender = Raw::of(VirtualStream::connect_with(door.addr(), small).unwrap());
    sender.send(&SenderMessage::Hello(Hello::new(Role::Sender)));
    let kinds = [Kind::Read, Kind::Read, Kind::Search, Kind::Write];
    for (n, kind) in (0..).zip(kinds) {
        sender.send(&asks(n, request(n.into(), kind, b"")));
    }
    wait_for("all were handed in", || submit.asked() == 4);
    // It is not read, and too long for what the sockets keep.
    let answer = vec![3; 16 << 20];
    for n in 0..4 {
        submit.answer(n, applied(&answer));
    }
    assert_eq!(sender.next(), Some(SenderMessage::Welcome { version: 1 }));
    // Too long to be printed when they differ.
    assert!(sender.next() == tells(0, applied(&answer)), "the first goes always");
    for tag in 1..3 {
        let full = tells(tag, rejected(Reason::HoldFull, Duration::from_secs(1)));
        assert!(sender.next() == full, "{tag} has no room");
    }
    assert!(sender.next() == tells(3, applied(&answer)), "a write's answer goes always");
}

#[test]
fn a_request_over_the_budget_of_all_is_rejected_and_small_ones_go_on() {
    let submit = FakeSubmit::echoing();
    let door = open(listen(), &submit, DoorConfig { bytes_max: 60_000, ..DoorConfig::default() });
    let mut sender = greeted(door.addr());
    sender.send(&asks(1, request(1, Kind::Write, &[0; 100_000])));
    sender.send(&asks(2, request(2, Kind::Write, &[0; HEAD_MAX + 1])));
    sender.send(&asks(3, request(3, Kind::Write, b"small")));
    assert_eq!(sender.next(), tells(1, rejected(Reason::HoldFull, Duration::from_secs(1))));
    assert!(sender.next() == tells(2, applied(&[0; HEAD_MAX + 1])), "it has room");
    assert_eq!(sender.next(), tells(3, applied(b"small")));
    assert_eq!(*locked(&submit.seen), [RequestId(2), RequestId(3)]);
    wait_for("nothing is kept", || door.bytes() == 0);
}

#[test]
fn a_malformed_request_is_rejected_by_its_tag_and_the_connection_goes_on() {
    let submit = FakeSubmit::echoing();
    let door = open(listen(), &submit, DoorConfig::default());
    let mut sender = greeted(door.addr());
    let mut long = request(1, Kind::Write, b"");
    long.key = vec![0; KEY_MAX + 1];
    sender.send(&asks(5, long));
    let Some(SenderMessage::Outcome { tag: 5, outcome }) = sender.next() else { panic!() };
    let Outcome::Rejected { reason: Reason::Malformed(text), retry_after } = outcome else {
        panic!("{outcome:?}");
    };
    assert!(text.contains("4097") && retry_after.is_zero(), "{text}");
    let pair = "no such/pair".to_owned();
    sender.send(&SenderMessage::Fetch { tag: 6, pair, id: RequestId(1) });
    let Some(SenderMessage::Fetched { tag: 6, outcome: Some(outcome) }) = sender.next() else {
        panic!();
    };
    // A rejection would say that the request asked about had no effect.
    assert_eq!(outcome, Outcome::InDoubt);
    sender.send(&asks(7, request(2, Kind::Write, b"good")));
    assert_eq!(sender.next(), tells(7, applied(b"good")));
}

#[test]
fn nonsense_ends_the_connection_with_a_reason() {
    let submit = FakeSubmit::echoing();
    let door = open(listen(), &submit, DoorConfig::default());
    let last_words = |wire: &[u8]| {
        let mut sender = greeted(door.addr());
        sender.write(wire);
        let Some(SenderMessage::Bye(Bye { code: bye::MALFORMED, text })) = sender.next() else {
            panic!("no reason for {wire:?}");
        };
        assert_eq!(sender.next::<SenderMessage>(), None);
        text
    };
    assert!(last_words(&[0, 0, 0, 0, 0x34, 0x12]).contains("0x1234"));
    assert!(last_words(&[0xff, 0xff, 0xff, 0xff, 1, 1]).contains("4294967295"));
    // Too short for a tag; a message of the other side.
    assert!(last_words(&[1, 0, 0, 0, 1, 1, 9]).contains("tag"));
    let mut outcome = Vec::new();
    frame::put(&SenderMessage::Outcome { tag: 1, outcome: Outcome::Stale }, &mut outcome).unwrap();
    assert!(last_words(&outcome).contains(&format!("{:#06x}", kind::OUTCOME)));

    let mut front = Raw::hello(door.addr(), Role::Front, ServerMessage::Hello);
    let Some(SenderMessage::Bye(Bye { code: bye::MISMATCH, .. })) = front.next() else { panic!() };
    let mut foreign = Raw::connect(door.addr());
    foreign.write(&[9, 0, 0, 0, 1, 0]);
    foreign.write(b"SSH-2.0-x");
    let Some(SenderMessage::Bye(Bye { code: bye::MALFORMED, text })) = foreign.next() else {
        panic!();
    };
    assert!(text.contains("does not speak"), "{text}");
    wait_for("all are gone", || door.connections() == 0);
}

#[test]
fn connections_beyond_the_limit_are_closed_with_a_reason() {
    let submit = FakeSubmit::echoing();
    let door = open(listen(), &submit, DoorConfig { connections_max: 2, ..DoorConfig::default() });
    let mut first = greeted(door.addr());
    let second = greeted(door.addr());
    for _ in 0..3 {
        let mut third = Raw::connect(door.addr());
        let Some(SenderMessage::Bye(Bye { code: bye::FULL, text })) = third.next() else {
            panic!();
        };
        assert!(text.contains('2'), "{text}");
        assert_eq!(third.next::<SenderMessage>(), None);
    }
    first.send(&asks(1, request(1, Kind::Write, b"still")));
    assert_eq!(first.next(), tells(1, applied(b"still")));
    drop(second);
    wait_for("there is room again", || door.connections() == 1);
    greeted(door.addr());
}

#[test]
fn a_request_whose_reply_is_dropped_is_in_doubt() {
    let submit = FakeSubmit::holding();
    submit.drops.store(true, Ordering::SeqCst);
    let door = open(listen(), &submit, DoorConfig::default());
    let mut sender = greeted(door.addr());
    sender.send(&asks(1, request(1, Kind::Write, b"")));
    assert_eq!(sender.next(), tells(1, Outcome::InDoubt));
}

#[test]
fn what_is_answered_before_the_close_arrives_and_what_comes_later_is_dropped() {
    let submit = FakeSubmit::holding();
    let door = open(listen(), &submit, DoorConfig::default());
    let mut sender = greeted(door.addr());
    let answer = vec![1; 3 << 20];
    sender.send(&asks(1, request(1, Kind::Write, b"")));
    sender.send(&asks(2, request(2, Kind::Write, b"")));
    wait_for("both are handed in", || submit.asked() == 2);
    let reading = std::thread::spawn(move || (sender.next(), sender.next::<SenderMessage>()));
    submit.answer(1, applied(&answer));
    door.close();
    submit.answer(2, Outcome::Stale);
    let (first, second) = reading.join().unwrap();
    assert!(first == tells(1, applied(&answer)) && second.is_none());
    assert_eq!(door.bytes(), 0);
}

#[test]
fn a_close_does_not_wait_for_requests_that_are_not_answered() {
    let submit = FakeSubmit::holding();
    let config = DoorConfig { in_flight_max: 1, ..DoorConfig::default() };
    let door = open(listen(), &submit, config);
    let sender = greeted(door.addr());
    sender.send(&asks(1, request(1, Kind::Write, b"")));
    sender.send(&asks(2, request(2, Kind::Write, b"")));
    wait_for("the first is handed in", || submit.asked() == 1);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        door.close();
        tell.send(()).unwrap();
    });
    told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(submit.asked(), 1);
}

#[test]
fn who_says_nothing_is_told_that_it_took_too_long() {
    let submit = FakeSubmit::echoing();
    let door = open(listen(), &submit, DoorConfig::default());
    let mut silent = Raw::connect(door.addr());
    let Some(SenderMessage::Bye(Bye { code: bye::SLOW, .. })) = silent.next() else { panic!() };
    assert_eq!(silent.next::<SenderMessage>(), None);
    wait_for("it is gone", || door.connections() == 0);
}

/// A stranger once kept its thread for as long as it sent a byte within each time-out.
#[test]
fn a_greeting_that_drips_is_ended_when_its_time_is_over() {
    let submit = FakeSubmit::echoing();
    let door = open(listen(), &submit, DoorConfig::default());
    let stranger = Raw::connect(door.addr());
    wait_for("the door has it", || door.connections() == 1);
    // A message of 1,024 bytes, of which one comes now and then: all would take a minute.
    stranger.write(&1024_u32.to_le_bytes());
    let mut looks = 0;
    wait_for("the door has ended it", || {
        if looks % 30 == 0 {
            let _over = (&*stranger.stream).write(&[0]);
        }
        looks += 1;
        door.connections() == 0
    });
    assert_eq!(submit.asked(), 0);
}
