//! The query that asks an address which server it is: its bytes, who gets a reply, and which
//! replies are believed.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::net::{IpAddr, SocketAddr};

use eversock_dedup::ident::{
    ADDRESSES_MAX, Answerer, Ask, AskError, Asker, Card, Counts, QUERY_BYTES, Query,
    REPLY_BYTES_MAX, Reply, TooManyAddresses, mac_input,
};
use eversock_dedup::key::ServerId;
use eversock_dedup::preface::Service;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The longest that there can be.
fn addresses(n: u16) -> Vec<SocketAddr> {
    (0..n).map(|at| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, at], 443))).collect()
}

fn answerer(n: u16) -> Answerer {
    let services = vec![Service::default(), Service::new(&"w".repeat(32)).unwrap()];
    let card = Card { server: ServerId([3; 16]), boot: 77, shares: true, services };
    let mut answerer = Answerer::new(&[9; 32], card);
    answerer.set_addresses(addresses(n), 5).unwrap();
    answerer
}

fn query() -> Query {
    Query { wants_addresses: true, nonce: [1; 16], ..Query::default() }
}

/// The reply to a query, encoded and read again on the way.
fn reply(answerer: &mut Answerer, query: &Query, from: &str, now: u64) -> Option<Reply> {
    let to = Some(addr("[2001:db8::1]:443"));
    let (reply, _) = answerer.answer(&query.encode(), addr(from), to, Some(57), now)?;
    assert_eq!(Reply::decode(&reply.encode()), Some(reply.clone()));
    Some(reply)
}

#[test]
fn a_query_and_a_reply_have_these_bytes() {
    let query = Query {
        wants_addresses: true,
        probe: false,
        nonce: [1; 16],
        cookie: [2; 16],
        session: [3; 16],
        service: Service::new("web").unwrap(),
    };
    let mut bytes = [&b"EVSQ\x01\x01\x01\x00"[..], &[1; 16], &[2; 16], &[3; 16]].concat();
    bytes.extend(b"\x03web");
    bytes.resize(QUERY_BYTES, 0);
    assert_eq!(query.encode(), bytes[..]);
    assert_eq!(Query::decode(&bytes), Some(query));
    let reply = Reply {
        more: false,
        shares: true,
        nonce: [1; 16],
        server: ServerId([4; 16]),
        boot: 0x0102,
        address_set: 7,
        hop_limit: 63,
        cookie: [5; 16],
        asked_at: None,
        addresses: vec![addr("192.0.2.1:443")],
        mac: [6; 32],
    };
    let mut bytes = [&b"EVSQ\x01\x02\x02\x00"[..], &[1; 16], &[4; 16]].concat();
    bytes.extend([2, 1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 63]);
    bytes.extend([5; 16]);
    bytes.extend([4, 0, 0, 0, 0, 0, 0, 1, 4, 192, 0, 2, 1, 0xbb, 1]);
    assert_eq!(mac_input(&[8; 3], &[&bytes[..], &[6; 32]].concat()), Some([&[8; 3], &bytes[..]]));
    assert_eq!(mac_input(&[8; 3], &[0; 31]), None);
    bytes.extend([6; 32]);
    assert_eq!(reply.encode(), bytes);
    assert_eq!(Reply::decode(&bytes), Some(reply));
}

#[test]
fn what_is_not_exactly_a_query_is_none() {
    let good = Query { service: Service::new("s").unwrap(), ..query() }.encode();
    assert!(Query::decode(&good).is_some());
    assert_eq!(Query::decode(&good[..QUERY_BYTES - 1]), None);
    assert_eq!(Query::decode(&[&good[..], &[0]].concat()), None);
    // Magic, version, kind, flags, the name's bytes, the padding's first and last.
    for (at, to) in
        [(0, b'e'), (4, 2), (5, 2), (6, 4), (7, 1), (57, 0xff), (58, 1), (QUERY_BYTES - 1, 1)]
    {
        let mut bad = good;
        bad[at] = to;
        assert_eq!(Query::decode(&bad), None, "byte {at}");
    }
    let mut long = query().encode();
    long[56] = 33;
    assert_eq!(Query::decode(&long), None, "a name of 33 bytes");
}

#[test]
fn a_reply_is_never_longer_than_its_query() {
    let mut answerer = answerer(ADDRESSES_MAX as u16);
    let first = reply(&mut answerer, &query(), "192.0.2.7:4000", MINUTE).unwrap();
    let with_cookie = Query { cookie: first.cookie, ..query() };
    let longest = reply(&mut answerer, &with_cookie, "192.0.2.7:4000", MINUTE).unwrap();
    assert_eq!(longest.addresses.len(), ADDRESSES_MAX);
    assert_eq!(longest.encode().len(), REPLY_BYTES_MAX);
    assert!(longest.encode().len() <= with_cookie.encode().len());
    let many = answerer.set_addresses(addresses(17), 6);
    assert_eq!(many, Err(TooManyAddresses(17)));
    let others = Reply { addresses: addresses(400), ..longest };
    assert_eq!(others.encode().len(), REPLY_BYTES_MAX, "nor one that somebody else has made");
}

#[test]
fn lists_beyond_four_need_a_cookie() {
    for (n, told, more) in [(0, 0, false), (4, 4, false), (5, 4, true)] {
        let reply = reply(&mut answerer(n), &query(), "192.0.2.7:4000", MINUTE).unwrap();
        assert_eq!((reply.addresses.len(), reply.more), (told, more));
    }
    let mut answerer = answerer(5);
    let (from, late) = ("192.0.2.7:4000", MINUTE + 59 * SECOND);
    let cookie = reply(&mut answerer, &query(), from, late).unwrap().cookie;
    let again = Query { cookie, ..query() };
    let told = |answerer: &mut Answerer, from, now| {
        let reply = reply(answerer, &again, from, now).unwrap();
        assert_eq!(reply.more, reply.addresses.len() < 5);
        reply.addresses.len()
    };
    assert_eq!(told(&mut answerer, from, late), 5);
    assert_eq!(told(&mut answerer, "192.0.2.7:9", 3 * MINUTE - 1), 5, "until the next one ends");
    assert_eq!(told(&mut answerer, from, 3 * MINUTE), 4, "and no longer");
    assert_eq!(told(&mut answerer, "192.0.2.8:4000", late), 4, "nor for somebody else");
    assert_eq!(told(&mut answerer, "[::ffff:192.0.2.7]:4000", late), 5, "but in other clothes");
    let unasked = Query { wants_addresses: false, cookie, ..query() };
    let reply = reply(&mut answerer, &unasked, from, late).unwrap();
    assert_eq!((reply.addresses.len(), reply.more), (0, false));
}

#[test]
fn a_reply_says_what_the_server_has_seen() {
    let mut answerer = answerer(2);
    let query = Query { session: [8; 16], ..query() };
    let (from, to) = (addr("192.0.2.7:4000"), addr("[2001:db8::1]:443"));
    let (reply, proof) =
        answerer.answer(&query.encode(), from, Some(to), Some(57), MINUTE).unwrap();
    assert_eq!((reply.server, reply.boot, reply.address_set), (ServerId([3; 16]), 77, 5));
    assert_eq!((reply.hop_limit, reply.asked_at, reply.nonce), (57, Some(to), [1; 16]));
    assert!(reply.shares && !reply.has_proof());
    assert_eq!(proof, Some([8; 16]));
    let plain = Query { session: [0; 16], ..query };
    let (reply, proof) = answerer.answer(&plain.encode(), from, None, None, MINUTE).unwrap();
    assert_eq!((reply.hop_limit, reply.asked_at, proof), (0, None, None));
}

#[test]
fn nobody_who_is_not_one_host_gets_a_reply() {
    let mut answerer = answerer(2);
    let to = Some(addr("192.0.2.1:443"));
    let mut is_answered = |query: &Query, from: &str, to| {
        answerer.answer(&query.encode(), addr(from), to, None, MINUTE).is_some()
    };
    assert!(is_answered(&query(), "192.0.2.7:1", to));
    for from in [
        "192.0.2.7:0",
        "0.0.0.0:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "[::]:1",
        "[ff02::1]:1",
        "[::ffff:224.0.0.1]:1",
    ] {
        assert!(!is_answered(&query(), from, to), "{from}");
    }
    for to in ["224.0.0.1:443", "255.255.255.255:443", "[ff02::1]:443"] {
        assert!(!is_answered(&query(), "192.0.2.7:1", Some(addr(to))), "{to}");
    }
    let other = Query { service: Service::new("other").unwrap(), ..query() };
    assert!(!is_answered(&other, "192.0.2.7:1", to));
    let known = Query { service: Service::new(&"w".repeat(32)).unwrap(), ..query() };
    assert!(is_answered(&known, "192.0.2.7:1", to));
}

#[test]
fn floods_are_bounded_per_source() {
    let mut answerer = answerer(2);
    let mut flood = |source: &str, times: u32, now| {
        (0..times).filter(|_| reply(&mut answerer, &query(), source, now).is_some()).count()
    };
    let start = MINUTE;
    assert_eq!(flood("192.0.2.7:1", 1000, start), 100);
    assert_eq!(flood("192.0.2.8:2", 1000, start), 0, "its neighbour is the same");
    assert_eq!(flood("192.0.3.7:1", 99, start), 99, "another network is not");
    assert_eq!(flood("[2001:db8:0:ff::1]:1", 1000, start), 100);
    assert_eq!(flood("[2001:db8:0:00aa::2]:1", 1000, start), 0, "of the same /56");
    assert_eq!(flood("[2001:db8:0:1ff::1]:1", 10, start), 10, "of another");
    assert_eq!(flood("192.0.2.7:1", 1000, start + SECOND), 50);
    assert_eq!(flood("192.0.2.7:1", 1000, start + SECOND), 0);
    assert_eq!(flood("192.0.2.7:1", 1000, start), 0, "a clock that goes back gives nothing");
    assert_eq!(flood("192.0.2.7:1", 1000, start + MINUTE), 100);
    // All networks together.
    let start = 10 * MINUTE;
    let mut all = |now| {
        let networks = (0..10_000_u32).map(|at| (0x0b00_0001 | at << 8).to_be_bytes());
        let sources = networks.map(|ip| SocketAddr::from((ip, 1)));
        sources.filter(|from| flood(&from.to_string(), 1, now) == 1).count()
    };
    assert_eq!(all(start), 2000);
    assert_eq!(all(start), 0);
    assert_eq!(all(start + SECOND / 2), 1000);
    let said = format!("{answerer:?}");
    assert!(said.contains("networks: 4096"), "{said}");
}

#[test]
fn a_query_is_sent_three_times_and_given_up_after_a_second() {
    let mut asker = Asker::new();
    let (to, start) = (addr("192.0.2.1:443"), 5 * SECOND);
    assert_eq!(asker.next_timeout(), None);
    let query = asker.begin(to, &Ask::default(), start, [1; 16]).unwrap();
    let mut sent = Vec::new();
    for _ in 0..3 {
        let at = asker.next_timeout().unwrap();
        assert_eq!(asker.due(at - 1), Default::default());
        let due = asker.due(at);
        due.again.iter().for_each(|again| assert_eq!(*again, (to, query)));
        sent.push((at - start, due.again.len(), due.given_up.len()));
    }
    assert_eq!(sent, [(100_000, 1, 0), (300_000, 1, 0), (SECOND, 0, 1)]);
    assert_eq!(asker.next_timeout(), None);
    // Who comes late sends what he has missed once.
    asker.begin(to, &Ask::default(), start, [2; 16]).unwrap();
    assert_eq!(asker.due(start + 400_000).again.len(), 1);
    assert_eq!(asker.next_timeout(), Some(start + SECOND));
    asker.cancel(to);
    assert_eq!(asker.next_timeout(), None);
}

#[test]
fn no_more_than_sixteen_queries_wait() {
    let mut asker = Asker::new();
    let to = addr("192.0.2.1:443");
    for at in 0..16 {
        assert!(asker.begin(to, &Ask::default(), 0, [at; 16]).is_ok());
    }
    assert_eq!(asker.begin(to, &Ask::default(), 0, [16; 16]), Err(AskError::Full));
    assert_eq!(asker.due(SECOND).given_up.len(), 16);
    assert!(asker.begin(to, &Ask::default(), 0, [16; 16]).is_ok());
    assert_eq!(asker.begin(to, &Ask::default(), 0, [16; 16]), Err(AskError::Nonce));
}

#[test]
fn a_replayed_or_forged_reply_is_dropped() {
    let mut answerer = answerer(2);
    let mut asker = Asker::new();
    let server = addr("[2001:db8::1]:443");
    let query = asker.begin(server, &Ask::default(), 0, [1; 16]).unwrap();
    let from = addr("192.0.2.7:4000");
    let (reply, _) = answerer.answer(&query, from, Some(server), None, 0).unwrap();
    let bytes = reply.encode();
    // From elsewhere, to no query, and no reply.
    assert_eq!(asker.heard(addr("[2001:db8::2]:443"), &bytes, 1), None);
    assert_eq!(asker.heard(addr("[2001:db8::1]:444"), &bytes, 1), None);
    assert_eq!(asker.heard(addr("[fe80::1%3]:443"), &bytes, 1), None);
    let guessed = Reply { nonce: [2; 16], ..reply.clone() }.encode();
    assert_eq!(asker.heard(server, &guessed, 1), None);
    assert_eq!(asker.heard(server, &bytes[1..], 1), None);
    assert_eq!(asker.heard(server, &query, 1), None);
    assert_eq!(asker.counts(), Counts { forged: 6, late: 0 });
    // It has waited all the while; the first one counts.
    let answer = asker.heard(server, &bytes, 20_000).unwrap();
    assert_eq!((answer.address, answer.rtt_us, answer.was_repeated), (server, 20_000, false));
    assert_eq!((answer.reply, answer.query), (reply.clone(), query));
    let liar = Reply { server: ServerId([66; 16]), ..reply };
    assert_eq!(asker.heard(server, &liar.encode(), 20_001), None);
    assert_eq!(asker.heard(server, &bytes, 20_001), None);
    assert_eq!(asker.counts(), Counts { forged: 6, late: 2 });
    // The same after a second, whether anybody has looked at the clock or not.
    for looked in [false, true] {
        let query = asker.begin(server, &Ask::default(), 0, [3; 16]).unwrap();
        let (reply, _) = answerer.answer(&query, from, Some(server), None, 0).unwrap();
        if looked {
            asker.due(SECOND);
        }
        assert_eq!(asker.heard(server, &reply.encode(), SECOND), None);
        asker.due(SECOND);
    }
    assert_eq!(asker.counts(), Counts { forged: 6, late: 4 });
}

#[test]
fn the_lengths_in_the_document_are_those_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/DEDUP.md");
    let text = std::fs::read_to_string(path).unwrap();
    let most = format!("and no reply is longer ({REPLY_BYTES_MAX} at most).");
    let says = format!("A query has exactly {QUERY_BYTES} bytes, {most}");
    assert!(text.contains(&says), "not in the document: {says}");
    assert!(text.contains(&format!("number of addresses ({ADDRESSES_MAX} at most)")));
}

fn some_address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), 1..=u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

proptest! {
    #[test]
    fn a_query_is_read_as_it_was_written(
        flags: [bool; 2], nonce: [u8; 16], cookie: [u8; 16], session: [u8; 16],
        service in "\\PC{0,8}",
    ) {
        let [wants_addresses, probe] = flags;
        let service = Service::new(&service).unwrap();
        let query = Query { wants_addresses, probe, nonce, cookie, session, service };
        prop_assert_eq!(Query::decode(&query.encode()), Some(query));
    }

    #[test]
    fn a_reply_is_read_as_it_was_written(
        flags: [bool; 2], nonce: [u8; 16], server: [u8; 16], boot: u64, address_set: u32,
        hop_limit: u8, cookie: [u8; 16], asked_at in prop::option::of(some_address()),
        addresses in prop::collection::vec(some_address(), 0..=ADDRESSES_MAX), mac: [u8; 32],
    ) {
        let ([more, shares], server) = (flags, ServerId(server));
        let reply = Reply {
            more, shares, nonce, server, boot, address_set, hop_limit, cookie, asked_at, addresses,
            mac,
        };
        let bytes = reply.encode();
        prop_assert!(bytes.len() <= REPLY_BYTES_MAX);
        for cut in 0..bytes.len() {
            prop_assert_eq!(Reply::decode(&bytes[..cut]), None);
        }
        prop_assert_eq!(Reply::decode(&[&bytes[..], &[0]].concat()), None);
        prop_assert_eq!(Reply::decode(&bytes), Some(reply));
    }

    /// Noise, and what is a query or a reply but for a few bytes.
    #[test]
    fn arbitrary_bytes_never_panic(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        from in some_address(),
        now: u64,
    ) {
        let mut answerer = answerer(16);
        let mut asker = Asker::new();
        let mut query = asker.begin(from, &Ask::default(), now, [1; 16]).unwrap().to_vec();
        let reply = answerer.answer(&query, from, None, None, now);
        let mut reply = reply.map_or(Vec::new(), |(reply, _)| reply.encode());
        for (at, to) in changes {
            let at_query = at.index(query.len());
            query[at_query] = to;
            if !reply.is_empty() {
                let at_reply = at.index(reply.len());
                reply[at_reply] = to;
            }
        }
        for bytes in [&noise, &query, &reply] {
            if let Some(query) = Query::decode(bytes) {
                prop_assert_eq!(&query.encode()[..], &bytes[..]);
            }
            if let Some(reply) = Reply::decode(bytes) {
                prop_assert_eq!(&reply.encode(), bytes);
            }
            if let Some((reply, _)) = answerer.answer(bytes, from, Some(from), Some(1), now) {
                prop_assert!(reply.encode().len() <= bytes.len());
            }
            let _answer = asker.heard(from, bytes, now);
            let _due = asker.due(now);
        }
    }
}
