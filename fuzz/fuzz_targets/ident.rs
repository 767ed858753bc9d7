//! Queries and replies of session dedup: whatever datagrams come, from wherever and whenever, at
//! the server and at the client.
//!
//! Nothing may panic; what is read has one form only; no reply is longer than what it replies to;
//! and no answer is from anybody who was not asked.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use arbitrary::Arbitrary;
use eversock_dedup::ident::{Answerer, Ask, Asker, Card, Query, Reply, mac_input};
use eversock_dedup::key::ServerId;
use eversock_dedup::preface::{Preface, Service};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    /// To the server: padded to a query's length, so that more of them are some.
    Query {
        bytes: Vec<u8>,
        pads: bool,
        from: (IpAddr, u16),
        to: Option<(IpAddr, u16)>,
    },
    /// To the client.
    Reply {
        bytes: Vec<u8>,
        from: (IpAddr, u16),
    },
    /// The client asks the server, what comes back is changed at a byte.
    Exchange {
        to: (IpAddr, u16),
        nonce: u8,
        cookie: bool,
        change: Option<(u16, u8)>,
    },
    Preface(Vec<u8>),
    Wait(u32),
}

#[derive(Arbitrary, Debug)]
struct Input {
    addresses: Vec<(IpAddr, u16)>,
    now: u64,
    steps: Vec<Step>,
}

const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4000);

fn read(bytes: &[u8]) {
    if let Some(query) = Query::decode(bytes) {
        assert_eq!(query.encode()[..], *bytes);
    }
    if let Some(reply) = Reply::decode(bytes) {
        assert_eq!(reply.encode(), bytes);
        assert!(mac_input(&[], bytes).is_some());
    }
}

fuzz_target!(|input: Input| {
    let services = vec![Service::default()];
    let card = Card { server: ServerId([1; 16]), boot: 1, shares: true, services };
    let mut answerer = Answerer::new(&[2; 32], card);
    let addresses: Vec<SocketAddr> = input.addresses.into_iter().map(SocketAddr::from).collect();
    assert_eq!(answerer.set_addresses(addresses.clone(), 1).is_err(), addresses.len() > 16);
    let (mut asker, mut now, mut cookie) = (Asker::new(), input.now, [0; 16]);
    for step in input.steps {
        match step {
            Step::Query { mut bytes, pads, from, to } => {
                if pads {
                    bytes.resize(512, 0);
                }
                read(&bytes);
                let reply = answerer.answer(&bytes, from.into(), to.map(Into::into), None, now);
                if let Some((reply, _)) = reply {
                    assert!(reply.encode().len() <= bytes.len());
                }
            }
            Step::Reply { bytes, from } => {
                read(&bytes);
                if let Some(answer) = asker.heard(from.into(), &bytes, now) {
                    assert_eq!(answer.address, from.into());
                }
            }
            Step::Exchange { to, nonce, cookie: has_cookie, change } => {
                let to = SocketAddr::from(to);
                let cookie_sent = if has_cookie { cookie } else { [0; 16] };
                let ask = Ask { wants_addresses: true, cookie: cookie_sent, ..Ask::default() };
                let Ok(query) = asker.begin(to, &ask, now, [nonce; 16]) else { continue };
                let Some((reply, _)) = answerer.answer(&query, CLIENT, Some(to), Some(9), now)
                else {
                    continue;
                };
                assert!(has_cookie || reply.addresses.len() <= 4);
                cookie = reply.cookie;
                let mut bytes = reply.encode();
                assert!(bytes.len() <= query.len());
                if let Some((at, to)) = change {
                    let at = usize::from(at) % bytes.len();
                    bytes[at] = to;
                }
                read(&bytes);
                let answer = asker.heard(to, &bytes, now);
                assert!(change.is_some() || answer.is_some_and(|answer| answer.query == query));
            }
            Step::Preface(bytes) => {
                if let Ok(Some((preface, length))) = Preface::decode(&bytes) {
                    assert_eq!(preface.encode(), bytes[..length]);
                }
            }
            Step::Wait(micros) => {
                now = now.saturating_add(micros.into());
                let due = asker.due(now);
                assert!(due.again.len() + due.given_up.len() <= 16);
                assert!(asker.next_timeout().is_none_or(|at| at > now || now == u64::MAX));
            }
        }
    }
});
