//! Two ends of a session in memory: what becomes of each stream, and of peers that break rules.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod pair;

use eversock_dedup::mux::{
    Limits, Mux, OpenError, PAYLOAD_MAX_BYTES, Role, StreamError, Violation, WINDOW_INITIAL_BYTES,
    news, reason,
};

use pair::{HEADER_BYTES, Pair};

#[test]
fn a_stream_carries_bytes_both_ways_from_its_first_frame_on() {
    let mut pair = Pair::new(Limits::default());
    let number = pair.ends[0].open(1).unwrap();
    assert_eq!(pair.ends[0].write(number, b"question"), Ok(8));
    let mut wire = Vec::new();
    pair.ends[0].fill(&mut wire, 1 << 20);
    assert_eq!(wire.len(), HEADER_BYTES + 8, "the stream begins with its first bytes");
    pair.ends[1].feed(&wire, 1).unwrap();
    assert_eq!(pair.news(1), [(number, news::OPENED | news::READABLE)]);
    assert_eq!(pair.read(1, number), b"question");
    pair.ends[1].accept(number).unwrap();
    assert_eq!(pair.ends[1].write(number, b"answer"), Ok(6));
    pair.settle();
    assert_eq!(pair.news(0), [(number, news::ACCEPTED | news::READABLE)]);
    assert_eq!(pair.read(0, number), b"answer");
}

#[test]
fn each_stream_ends_each_way_by_itself_and_is_forgotten_when_both_have() {
    let mut pair = Pair::new(Limits::default());
    let (one, two) = (pair.ends[0].open(1).unwrap(), pair.ends[0].open(1).unwrap());
    pair.ends[0].write(one, b"last words").unwrap();
    pair.ends[0].finish(one).unwrap();
    pair.ends[0].write(two, b"first words").unwrap();
    pair.settle();
    assert_eq!(pair.read(1, one), b"last words");
    assert!(pair.ends[1].is_at_end(one) && !pair.ends[1].is_at_end(two));
    assert_eq!(pair.ends[0].write(one, b"more"), Err(StreamError::Finished));
    // The other way goes on.
    pair.ends[1].write(one, b"heard").unwrap();
    pair.ends[1].close(one);
    pair.settle();
    assert_eq!(pair.read(0, one), b"heard");
    assert!(pair.ends[0].is_at_end(one));
    pair.ends[0].close(one);
    pair.settle();
    assert_eq!((pair.ends[0].len(), pair.ends[1].len()), (1, 1));
}

/// An end that is told where there was none is a truncation that nobody notices.
#[test]
fn a_reset_is_never_read_as_an_end() {
    for ended_first in [false, true] {
        let mut pair = Pair::new(Limits::default());
        let number = pair.ends[0].open(1).unwrap();
        pair.ends[0].write(number, b"unread").unwrap();
        pair.settle();
        if ended_first {
            // Behind an end that has come too, and what came before it lies unread.
            pair.ends[0].finish(number).unwrap();
            pair.settle();
        }
        pair.news(1);
        pair.ends[0].reset(number);
        pair.settle();
        assert!(!pair.ends[1].is_at_end(number));
        assert_eq!(pair.ends[1].read(number, &mut [0; 8], 1), Err(StreamError::Reset));
        assert_eq!(pair.ends[1].write(number, b"x"), Err(StreamError::Reset));
        assert_eq!(pair.news(1), [(number, news::RESET)]);
        assert!(pair.ends[0].is_empty() && pair.ends[1].is_empty());
    }
}

#[test]
fn a_reset_says_why_and_is_no_credit() {
    let mut pair = Pair::new(Limits::default());
    for why in [reason::NONE, reason::MISDIRECTED, reason::STUCK, u32::MAX] {
        let number = pair.ends[0].open(1).unwrap();
        pair.ends[0].write(number, b"question").unwrap();
        pair.settle();
        pair.news(1);
        assert_eq!(pair.ends[0].reset_reason(number), None);
        pair.ends[1].reset_with(number, why);
        // The largest would be more credit than can be counted.
        pair.settle();
        assert_eq!(pair.ends[0].reset_reason(number), Some(why), "it has come");
        assert_eq!(pair.ends[0].next_news(), Some((number, news::RESET)));
        assert_eq!(pair.ends[0].reset_reason(number), Some(why), "it has been told");
        assert_eq!(pair.ends[0].next_news(), None);
        assert_eq!(pair.ends[0].reset_reason(number), None, "it is forgotten");
        assert!(pair.ends[0].is_empty() && pair.ends[1].is_empty());
    }
    // Of one that goes away; and a reset is not answered with another.
    let number = pair.ends[0].open(1).unwrap();
    pair.ends[1].go_away(0);
    pair.settle();
    assert_eq!(pair.ends[0].reset_reason(number), Some(reason::GONE_AWAY));
    pair.ends[0].reset(number);
    assert!(!pair.ends[0].has_output());
}

/// Others send no reason; a reset that has payload has none either.
#[test]
fn a_reset_of_plain_yamux_has_no_reason() {
    for (kind, length) in [(1_u8, 0_u32), (0, 0), (0, 5)] {
        let mut mux = Mux::new(Role::Client, Limits::default());
        let number = mux.open(1).unwrap();
        mux.fill(&mut Vec::new(), 1 << 20);
        let mut wire = vec![0, kind, 0, 8, 0, 0, 0, 1];
        wire.extend(length.to_be_bytes());
        wire.extend(vec![7; length as usize]);
        mux.feed(&wire, 1).unwrap();
        assert_eq!(mux.next_news(), Some((number, news::RESET)));
        assert_eq!(mux.reset_reason(number), Some(reason::NONE));
    }
}

/// As a TCP socket that is closed with bytes unread, or to which more comes.
#[test]
fn a_stream_that_is_left_with_something_unread_is_reset() {
    let mut pair = Pair::new(Limits::default());
    let (before, after) = (pair.ends[0].open(1).unwrap(), pair.ends[0].open(1).unwrap());
    pair.ends[0].write(before, b"unread").unwrap();
    pair.ends[0].write(after, b"read").unwrap();
    pair.settle();
    pair.ends[1].close(before);
    assert_eq!(pair.read(1, after), b"read");
    pair.ends[1].close(after);
    pair.settle();
    pair.ends[0].write(after, b"more").unwrap();
    pair.settle();
    let told = pair.news(0);
    let news_of = |number| told.iter().find(|(of, _)| *of == number).unwrap().1;
    assert!(news_of(before) & news::RESET != 0 && news_of(after) & news::RESET != 0, "{told:?}");
    assert!(pair.ends[0].is_empty() && pair.ends[1].is_empty());
}

#[test]
fn a_stuck_stream_leaves_the_others_their_way() {
    let limits = Limits::default();
    let mut pair = Pair::new(limits);
    let (stuck, other) = (pair.ends[0].open(1).unwrap(), pair.ends[0].open(1).unwrap());
    let mut written = 0;
    loop {
        let n = pair.ends[0].write(stuck, &[1; 1 << 20]).unwrap();
        pair.settle();
        written += n;
        if n == 0 {
            break;
        }
    }
    assert_eq!(written, WINDOW_INITIAL_BYTES as usize + limits.queue_max);
    assert_eq!(pair.ends[1].readable(stuck), WINDOW_INITIAL_BYTES as usize);
    let mut heard = 0;
    for _ in 0..100 {
        pair.ends[0].write(other, &[2; 1 << 16]).unwrap();
        pair.settle();
        heard += pair.read(1, other).len();
        pair.settle();
    }
    assert_eq!(heard, 100 << 16);
    // Who found no room is told when there is some.
    pair.news(0);
    assert_eq!(pair.read(1, stuck).len(), WINDOW_INITIAL_BYTES as usize);
    pair.settle();
    assert!(pair.news(0).contains(&(stuck, news::ROOM)));
    assert_eq!(pair.ends[1].most_stuck(0), None);
    assert_eq!(pair.ends[1].most_stuck(u64::MAX), Some(stuck), "its rest has come");
}

#[test]
fn streams_take_turns_frame_by_frame() {
    let mut pair = Pair::new(Limits::default());
    let numbers: Vec<u32> = (0..4).map(|_| pair.ends[0].open(1).unwrap()).collect();
    for number in &numbers {
        pair.ends[0].write(*number, &[7; 64 << 10]).unwrap();
    }
    let mut wire = Vec::new();
    pair.ends[0].fill(&mut wire, 4 * (16 << 10));
    pair.ends[1].feed(&wire, 1).unwrap();
    let shares: Vec<usize> = numbers.iter().map(|n| pair.ends[1].readable(*n)).collect();
    assert_eq!(shares, [16 << 10; 4]);
}

/// A window of 256 KiB fills no path that is long and fat.
#[test]
fn the_window_of_a_quick_reader_grows_within_its_bounds_and_that_of_a_slow_one_does_not() {
    let limits = Limits { window_max: 1 << 20, extra_max: 1 << 20, ..Limits::default() };
    let on_the_way = |rtt: u64| {
        let mut pair = Pair::new(limits);
        pair.ends[1].set_rtt(rtt);
        let number = pair.ends[0].open(1).unwrap();
        for _ in 0..64 {
            for _ in 0..64 {
                pair.ends[0].write(number, &[1; 1 << 16]).unwrap();
                while pair.carry(0, 1 << 20).unwrap() > 0 {}
            }
            pair.now += 1000;
            pair.read(1, number);
            pair.settle();
        }
        let mut most = 0;
        while pair.ends[0].write(number, &[1; 1 << 16]).unwrap() > 0 {
            while pair.carry(0, 1 << 20).unwrap() > 0 {}
            most = pair.ends[1].readable(number);
        }
        most
    };
    assert_eq!(on_the_way(10_000), 1 << 20);
    assert_eq!(on_the_way(100), WINDOW_INITIAL_BYTES as usize);
}

#[test]
fn both_sides_of_every_limit() {
    let limits = Limits { streams_max: 3, unacked_max: 2, ..Limits::default() };
    let mut pair = Pair::new(limits);
    let one = pair.ends[0].open(1).unwrap();
    pair.ends[0].open(1).unwrap();
    assert_eq!(pair.ends[0].open(1), Err(OpenError::Backlog));
    pair.settle();
    pair.ends[1].accept(one).unwrap();
    pair.settle();
    pair.ends[0].open(1).unwrap();
    assert_eq!(pair.ends[0].open(1), Err(OpenError::Full));
    pair.settle();
    // The peer's view of its own limit: the fourth of both ends together is reset.
    let mut generous = Mux::new(Role::Client, Limits::default());
    let mut strict = Mux::new(Role::Server, limits);
    (0..4).for_each(|_| assert!(generous.open(1).is_ok()));
    let mut wire = Vec::new();
    generous.fill(&mut wire, 1 << 20);
    strict.feed(&wire, 1).unwrap();
    assert_eq!(strict.len(), 3);
    wire.clear();
    strict.fill(&mut wire, 1 << 20);
    generous.feed(&wire, 1).unwrap();
    assert_eq!(generous.next_news(), Some((7, news::RESET)));
    assert_eq!(generous.reset_reason(7), Some(reason::FULL));
}

#[test]
fn who_goes_away_takes_no_new_streams_and_keeps_those_it_has() {
    let mut pair = Pair::new(Limits::default());
    let old = pair.ends[0].open(1).unwrap();
    pair.settle();
    let crossing = pair.ends[0].open(1).unwrap();
    pair.ends[1].go_away(7);
    pair.settle();
    assert_eq!(pair.ends[0].peer_goes_away(), Some(7));
    assert_eq!(pair.ends[0].open(1), Err(OpenError::GoneAway));
    let told = pair.news(0);
    assert_eq!(told, [(crossing, news::RESET)], "one that was on its way is refused");
    let opened = pair.ends[1].open(1);
    assert_eq!(opened, Err(OpenError::GoneAway), "who has said so opens none either");
    pair.ends[0].write(old, b"goes on").unwrap();
    pair.settle();
    assert_eq!(pair.read(1, old), b"goes on");
}

#[test]
fn a_peer_that_breaks_a_rule_is_told_apart() {
    let header = |kind: u8, flags: u8, stream: u8, length: u32| {
        let mut bytes = vec![0, kind, 0, flags, 0, 0, 0, stream];
        bytes.extend(length.to_be_bytes());
        bytes
    };
    let (syn, fin) = (1, 4);
    let cases = [
        (vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Violation::Version(1)),
        (header(9, 0, 0, 0), Violation::Kind(9)),
        (header(0, syn, 2, 0), Violation::Number(2)),
        ([header(0, syn, 3, 0), header(0, syn, 1, 0)].concat(), Violation::Number(1)),
        (
            [header(1, syn, 1, 0), header(0, 0, 1, WINDOW_INITIAL_BYTES + 1)].concat(),
            Violation::Credit {
                stream: 1,
                length: WINDOW_INITIAL_BYTES + 1,
                granted: WINDOW_INITIAL_BYTES,
            },
        ),
        ([header(0, syn | fin, 1, 0), header(0, fin, 1, 0)].concat(), Violation::BehindEnd(1)),
        ([header(1, syn, 1, u32::MAX)].concat(), Violation::CreditOverflow(1)),
        (header(0, 0, 0, 5), Violation::Session),
    ];
    for (bytes, expected) in cases {
        let mut mux = Mux::new(Role::Server, Limits::default());
        let result = bytes.chunks(5).try_for_each(|part| mux.feed(part, 1));
        assert_eq!(result, Err(expected));
    }
}

#[test]
fn a_ping_is_answered_with_its_number_and_a_flood_of_them_is_not_held() {
    let mut mux = Mux::new(Role::Server, Limits::default());
    for number in 0..100_000_u32 {
        let mut ping = vec![0, 2, 0, 1, 0, 0, 0, 0];
        ping.extend(number.to_be_bytes());
        mux.feed(&ping, 1).unwrap();
    }
    let mut wire = Vec::new();
    mux.fill(&mut wire, 1 << 20);
    let mut pong = vec![0, 2, 0, 2, 0, 0, 0, 0];
    pong.extend(99_999_u32.to_be_bytes());
    assert_eq!(wire, pong);
}

#[test]
fn the_numbers_in_the_document_are_those_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/DEDUP.md");
    let text = std::fs::read_to_string(path).unwrap();
    let limits = Limits::default();
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    for (what, is) in [
        ("streams of a session, of both ends", "1,024".to_owned()),
        ("streams that wait to be accepted", limits.unacked_max.to_string()),
        ("payload of a frame that is sent", format!("{} KiB", PAYLOAD_MAX_BYTES >> 10)),
        (
            "first window, largest window of a stream",
            format!("{} KiB, {}", WINDOW_INITIAL_BYTES >> 10, mib(limits.window_max.into())),
        ),
        ("windows beyond the first ones, of a session", mib(limits.extra_max)),
        ("unsent bytes of a stream", format!("{} KiB", limits.queue_max >> 10)),
        ("none, or plain yamux", reason::NONE.to_string()),
        ("the stream is for another server (MISDIRECTED)", reason::MISDIRECTED.to_string()),
        ("the server has no service of that name", reason::UNKNOWN_SERVICE.to_string()),
        ("all streams of the session are in use", reason::FULL.to_string()),
        ("nobody has read it for long, and the memory was needed", reason::STUCK.to_string()),
        ("there are to be no new streams (after GOAWAY)", reason::GONE_AWAY.to_string()),
    ] {
        let line = format!("| {what} | {is} |");
        assert!(text.lines().any(|found| found.trim() == line), "not in the document: {line}");
    }
    assert_eq!(limits.streams_max, 1024);
}
