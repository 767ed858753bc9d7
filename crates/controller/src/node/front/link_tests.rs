#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::wire::Place;

fn id(name: &str) -> ControllerId {
    name.parse().unwrap()
}

fn config() -> LinkConfig {
    LinkConfig {
        ping_every: Duration::from_secs(3),
        silence_max: Duration::from_secs(15),
        retry_first: Duration::from_secs(1),
        retry_most: Duration::from_secs(8),
    }
}

/// The links of `me` to `other`.
fn links(me: &str, other: &str, dials: bool, now: Instant) -> Links {
    let known = vec![Known { id: id(other), dials, key: None }];
    Links::new(id(me), known, config(), false, now)
}

fn introduction(name: &str) -> Introduction {
    Introduction {
        controller: id(name),
        boot: 1,
        place: Place { controller: id(name), addrs: Vec::new() },
        partitions: Vec::new(),
        wall_ms: 0,
    }
}

fn is_up(links: &Links) -> bool {
    links.peers()[0].state == "up"
}

/// Two ends and the connections between them, which lose nothing and keep the order.
struct Pair {
    now: Instant,
    ends: [Links; 2],
    names: [&'static str; 2],
    next: ConnId,
    /// Of each end: how often its link came and went.
    ups: [u32; 2],
    downs: [u32; 2],
    /// Connections that are gone.
    cut: Vec<ConnId>,
}

impl Pair {
    fn new(dials: [bool; 2]) -> Self {
        let now = Instant::now();
        let ends = [links("a", "b", dials[0], now), links("b", "a", dials[1], now)];
        let (ups, downs) = ([0, 0], [0, 0]);
        Self { now, ends, names: ["a", "b"], next: 1, ups, downs, cut: Vec::new() }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            for end in 0..2 {
                self.ends[end].turn(self.now);
            }
            // Both dial before either of them hears of it.
            let dialled: Vec<_> = (0..2).map(|end| self.ends[end].acts()).collect();
            for (end, acts) in dialled.into_iter().enumerate() {
                self.act(end, acts);
            }
            while (0..2).any(|end| {
                let acts = self.ends[end].acts();
                let is_more = !acts.is_empty();
                self.act(end, acts);
                is_more
            }) {}
            self.now += Duration::from_millis(100);
        }
    }

    fn act(&mut self, end: usize, acts: Vec<Act>) {
        let other = 1 - end;
        for act in acts {
            match act {
                Act::Dial(_) => {
                    let conn = self.next;
                    self.next += 1;
                    self.ends[end].opened(self.now, conn, Some(0), None);
                    self.ends[other].opened(self.now, conn, None, None);
                }
                Act::Send(conn, message) if !self.cut.contains(&conn) => {
                    if let Err(bye) = self.ends[other].heard(self.now, conn, *message) {
                        let _ended = self.ends[end].heard(self.now, conn, PeerMessage::Bye(bye));
                        self.ends[other].closed(self.now, conn, "it was shown out");
                    }
                }
                Act::Close(conn, bye) => {
                    if let Some(bye) = bye
                        && !self.cut.contains(&conn)
                    {
                        let _ended = self.ends[other].heard(self.now, conn, PeerMessage::Bye(bye));
                    }
                    self.ends[other].closed(self.now, conn, "closed there");
                }
                Act::Ask(_, conn) => {
                    let ours = introduction(self.names[end]);
                    self.ends[end].introduce(self.now, conn, Some(ours));
                }
                Act::Up(..) => self.ups[end] += 1,
                Act::Down(..) => self.downs[end] += 1,
                _ => {}
            }
        }
    }
}

#[test]
fn one_dials_and_both_know_of_each_other() {
    let mut pair = Pair::new([true, false]);
    pair.run(Duration::from_secs(60));
    assert!(pair.ends.iter().all(is_up));
    assert_eq!((pair.ups, pair.downs, pair.next), ([1, 1], [0, 0], 2));
    assert!(pair.ends.iter().all(|end| end.peers()[0].round_trip.is_some()));
}

#[test]
fn two_that_dial_at_once_keep_the_same_connection() {
    let mut pair = Pair::new([true, true]);
    pair.run(Duration::from_secs(60));
    assert!(pair.ends.iter().all(is_up));
    assert_eq!(pair.ends[0].peers()[0].up, pair.ends[1].peers()[0].up);
    assert!(pair.next <= 4, "they have dialled {} times", pair.next - 1);
    assert!(pair.ups.iter().all(|ups| *ups <= 2), "{:?}", pair.ups);
}

#[test]
fn a_silent_link_is_given_up_and_made_anew() {
    let mut pair = Pair::new([true, false]);
    pair.run(Duration::from_secs(5));
    let first = pair.ends[0].peers()[0].up.unwrap();
    pair.cut.push(first);
    pair.run(Duration::from_secs(12));
    assert!(pair.ends.iter().all(is_up), "not yet");
    pair.run(Duration::from_secs(20));
    assert!(pair.ends.iter().all(is_up), "again");
    assert_eq!((pair.ups, pair.downs), ([2, 2], [1, 1]));
    assert_ne!(pair.ends[0].peers()[0].up, Some(first));
}

#[test]
fn a_newer_connection_takes_the_place_of_one_whose_death_is_not_known() {
    let mut pair = Pair::new([true, false]);
    pair.run(Duration::from_secs(30));
    let first = pair.ends[0].peers()[0].up.unwrap();
    // Only the one that dials notices.
    pair.cut.push(first);
    pair.ends[0].closed(pair.now, first, "reset");
    pair.run(Duration::from_secs(3));
    assert!(pair.ends.iter().all(is_up));
    assert_eq!((pair.ups, pair.downs), ([2, 2], [1, 1]));
}

#[test]
fn a_link_that_is_held_is_not_silent() {
    let now = Instant::now();
    let mut pair = Pair::new([true, false]);
    pair.run(Duration::from_secs(1));
    let conn = pair.ends[0].peers()[0].up.unwrap();
    let links = &mut pair.ends[0];
    links.hold(now, conn, true);
    links.turn(now + Duration::from_secs(100));
    assert!(is_up(links));
    links.hold(now + Duration::from_secs(100), conn, false);
    links.turn(now + Duration::from_secs(110));
    assert!(is_up(links));
    links.turn(now + Duration::from_secs(116));
    assert!(!is_up(links));
}

#[test]
fn attempts_become_rarer_up_to_a_bound_and_go_on() {
    let mut now = Instant::now();
    let began = now;
    let mut links = links("a", "b", true, now);
    let mut dials = Vec::new();
    while now < began + Duration::from_secs(120) {
        links.turn(now);
        for act in links.acts() {
            if act == Act::Dial(0) {
                dials.push(now);
                links.dial_failed(now, 0, "nobody is there");
            }
        }
        now += Duration::from_millis(50);
    }
    let waits: Vec<_> = dials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(8100)), "{waits:?}");
    assert!(waits[0] <= Duration::from_millis(1100), "{waits:?}");
    assert!((12..40).contains(&dials.len()), "{}", dials.len());
    assert_eq!(links.peers()[0].error, "nobody is there");
}

#[test]
fn what_does_not_come_there_ends_a_connection() {
    let now = Instant::now();
    let messages = [
        PeerMessage::Ping { n: 1 },
        PeerMessage::Mode(Mode::default()),
        PeerMessage::Introduction(introduction("a")),
        PeerMessage::Welcome(Welcome { version: 1, controller: id("a") }),
    ];
    for message in messages {
        let mut links = links("b", "a", false, now);
        links.opened(now, 1, None, None);
        assert_eq!(links.heard(now, 1, message).unwrap_err().code, bye::MALFORMED);
    }
    let mut pair = Pair::new([true, false]);
    pair.run(Duration::from_secs(1));
    let conn = pair.ends[1].peers()[0].up.unwrap();
    let again = PeerMessage::Introduction(introduction("a"));
    assert!(pair.ends[1].heard(pair.now, conn, again).is_err());
}

#[test]
fn a_greeting_that_takes_too_long_ends() {
    let now = Instant::now();
    let mut links = links("b", "a", false, now);
    links.opened(now, 1, None, None);
    links.turn(now + GREETING_MAX);
    assert!(matches!(links.acts()[..], [Act::Close(1, Some(_))]));
    assert!(!links.has(1));
}

/// One that is let in at the door must not speak in the name of one that is only dialled.
#[test]
fn who_has_proven_a_key_is_nobody_whose_key_is_not_known() {
    let now = Instant::now();
    for (key, is_let_in) in [(Some([7; 32]), false), (None, true)] {
        let mut links = links("b", "a", true, now);
        links.opened(now, 1, None, key);
        links.heard(now, 1, PeerMessage::Hello(Hello::new(Role::Partner))).unwrap();
        let came = links.heard(now, 1, PeerMessage::Introduction(introduction("a")));
        assert_eq!(came.is_ok(), is_let_in);
        if let Err(bye) = came {
            assert_eq!(bye.code, bye::NOT_LET_IN);
        }
    }
}
