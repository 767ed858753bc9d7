//! One thing at a time.

use super::*;
use crate::device::policy::HandOffs;
use crate::limits::SEQ_JUMP_MAX;

fn hand_off(target: &str, token: u64) -> ClientMessage {
    ClientMessage::HandOff {
        device: device(),
        token,
        target: place(target),
        within: Duration::from_secs(20),
    }
}

fn request(id: u64) -> ClientMessage {
    let (deadline, payload) = (Duration::from_secs(5), vec![1]);
    ClientMessage::Request(Request { id, device: device(), deadline, payload })
}

fn saves(out: &[Output]) -> Vec<u64> {
    let save = |output: &Output| match output {
        Output::Save(seq) => Some(*seq),
        _ => None,
    };
    out.iter().filter_map(save).collect()
}

#[test]
fn registers_with_its_home_first_and_saves_the_counter_before_it_uses_it() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(41));
    assert!(opens(&bench.out[0], "home"));
    assert!(saves(&bench.out).is_empty(), "nothing was used yet");
    bench.opened("home");
    assert_eq!(bench.out[1], Output::Save(42));
    let register = bench.register_sent("home");
    assert_eq!((register.seq, register.token), (42, 0));
    assert_eq!(register.address, b"here");
    bench.accept("home", 42, terms());
    assert_eq!(bench.machine.state(), State::Home);
}

#[test]
fn one_without_storage_asks_for_its_counter() {
    let mut bench = Bench::new(policy(&["home"]), None);
    bench.opened("home");
    let asked = bench.register_sent("home");
    assert_eq!(asked.seq, 0);
    bench.say("home", ClientMessage::Jump { device: device(), seq: 900 });
    assert_eq!(saves(&bench.out), [901]);
    let register = bench.register_sent("home");
    assert_eq!(register.seq, 901);
    assert_ne!(register.nonce, asked.nonce);
}

#[test]
fn the_same_attempt_is_sent_again_with_its_number_after_a_lost_connection() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    bench.opened("home");
    let first = bench.register_sent("home");
    bench.lost("home");
    bench.pass_until(2_000, |output| opens(output, "home"));
    bench.opened("home");
    assert_eq!(bench.register_sent("home"), first);
    // No answer: again by the same connection.
    let is_register =
        |output: &Output| matches!(output, Output::Say { message: ClientMessage::Register(_), .. });
    bench.pass_until(10_000, is_register);
    assert_eq!(bench.register_sent("home"), first);
    // At last the next one is asked, with a larger counter.
    bench.pass_until(20_000, |output| opens(output, "b1"));
    bench.opened("b1");
    assert_eq!(bench.register_sent("b1").seq, first.seq + 1);
}

#[test]
fn turns_to_the_backup_after_so_many_handshakes_and_stays_there() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    bench.register_at("home");
    let begin = bench.now;
    bench.pass_until(60_000, |output| opens(output, "b1"));
    // One handshake that was not answered is no reason yet: three are.
    assert!(bench.now - begin >= 3 * 7_500, "{} ms", bench.now - begin);
    assert!(bench.now - begin <= 4 * 10_000 + 1_000, "{} ms", bench.now - begin);
    let sent = bench.out.iter().filter(|output| {
        matches!(output, Output::Say { message: ClientMessage::Handshake { .. }, .. })
    });
    assert_eq!(sent.count(), 3);
    bench.opened("b1");
    let seq = bench.register_sent("b1").seq;
    assert_eq!(seq, 3);
    bench.accept("b1", seq, terms());
    assert_eq!(bench.machine.state(), State::Backup);
    // For hours, as long as it answers.
    for _ in 0..1_000 {
        bench.take();
        bench.pass_until(60_000, |output| {
            matches!(output, Output::Say { message: ClientMessage::Handshake { .. }, .. })
        });
        let ok = ClientMessage::HandshakeOk { device: device(), seq, generation: 0 };
        bench.say("b1", ok);
        assert!(!bench.out.iter().any(|output| opens(output, "home")));
    }
    assert_eq!(bench.machine.registered(), Some((&controller("b1"), seq)));
}

#[test]
fn one_answer_in_time_is_enough() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    let seq = bench.register_at("home");
    for _ in 0..10 {
        bench.pass(25_000);
        assert_eq!(bench.machine.state(), State::Probing);
        let ok = ClientMessage::HandshakeOk { device: device(), seq, generation: 0 };
        bench.say("home", ok);
        assert_eq!(bench.machine.state(), State::Home);
    }
    // The answer to another registration is none.
    bench.pass(25_000);
    let other = ClientMessage::HandshakeOk { device: device(), seq: seq - 1, generation: 0 };
    bench.say("home", other);
    assert_eq!(bench.machine.state(), State::Probing);
}

#[test]
fn a_lost_connection_is_no_lost_registration() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    let seq = bench.register_at("home");
    bench.lost("home");
    assert_eq!(bench.machine.state(), State::Probing);
    bench.pass_until(3_000, |output| opens(output, "home"));
    bench.take();
    bench.opened("home");
    let shake = ClientMessage::Handshake { device: device(), seq };
    assert_eq!(bench.take(), [Output::Say { to: controller("home"), message: shake }]);
    let ok = ClientMessage::HandshakeOk { device: device(), seq, generation: 0 };
    bench.say("home", ok);
    assert_eq!(bench.machine.state(), State::Home);
}

#[test]
fn a_home_that_cannot_be_connected_to_is_tried_again_at_a_pace_and_then_left() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    bench.register_at("home");
    bench.lost("home");
    let mut opened = 0;
    let end = bench.now + 60_000;
    while !bench.out.iter().any(|output| opens(output, "b1")) {
        bench.now = bench.machine.due().unwrap();
        assert!(bench.now < end);
        bench.give(Input::Tick);
        if bench.out.iter().any(|output| opens(output, "home")) {
            opened += 1;
            bench.take();
            bench.lost("home");
        }
    }
    assert!((2..=12).contains(&opened), "{opened} times");
}

#[test]
fn hands_over_without_a_gap() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    // The home does not take it at first.
    bench.lost("home");
    bench.take();
    let seq = bench.register_at("b1");
    bench.say("b1", hand_off("home", 77));
    assert_eq!(answers(&bench.out), [(controller("b1"), 77, HandOffAnswer::Goes)]);
    assert!(opens(&bench.out[1], "home"));
    assert_eq!(bench.machine.state(), State::HandingOver);
    assert_eq!(bench.machine.registered(), Some((&controller("b1"), seq)));
    // Said twice, it is the same one.
    bench.say("b1", hand_off("home", 77));
    bench.say("b1", hand_off("home", 78));
    let said: Vec<_> = answers(&bench.out).into_iter().map(|(_, token, a)| (token, a)).collect();
    assert_eq!(said[1..], [(77, HandOffAnswer::Goes), (78, HandOffAnswer::Busy)]);
    bench.opened("home");
    let register = bench.register_sent("home");
    assert_eq!((register.seq, register.token), (seq + 1, 77));
    // The old one learns of it before the device does, and has requests still.
    let above = register.seq;
    bench.say("b1", ClientMessage::Reregister { device: device(), above });
    bench.say("b1", request(5));
    assert!(matches!(bench.out[..], [Output::Serve { .. }]), "{:?}", bench.out);
    bench.accept("home", register.seq, terms());
    assert_eq!(bench.machine.state(), State::Home);
    // What the old one says by that connection is no matter any more.
    bench.say("b1", ClientMessage::Reregister { device: device(), above: above + 9 });
    assert_eq!(bench.machine.registered(), Some((&controller("home"), above)));
    let leave = Output::Leave(controller("b1"));
    assert!(!bench.out.contains(&leave), "an answer is still to be given");
    let (from, outcome) = (controller("b1"), Outcome::Done(vec![2]));
    bench.give(Input::Answer { from, id: 5, outcome: outcome.clone() });
    let message = ClientMessage::Response { id: 5, outcome };
    let answer = Output::Say { to: controller("b1"), message };
    assert_eq!(bench.out[bench.out.len() - 2..], [answer, leave]);
}

#[test]
fn a_target_that_fails_brings_it_back_with_a_larger_counter() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    bench.lost("home");
    bench.take();
    let seq = bench.register_at("b1");
    bench.say("b1", hand_off("home", 77));
    bench.opened("home");
    assert_eq!(bench.register_sent("home").seq, seq + 1);
    let is_stays = |output: &Output| {
        let answers = answers(std::slice::from_ref(output));
        answers == [(controller("b1"), 77, HandOffAnswer::Stays)]
    };
    bench.pass_until(20_000, is_stays);
    // By the connection that it has, at once.
    let back = bench.register_sent("b1");
    assert_eq!((back.seq, back.token), (seq + 2, 0));
    bench.accept("b1", back.seq, terms());
    assert_eq!(bench.machine.state(), State::Backup);
}

#[test]
fn a_target_that_was_never_reached_changes_nothing() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    bench.lost("home");
    bench.take();
    let seq = bench.register_at("b1");
    bench.say("b1", hand_off("home", 77));
    bench.lost("home");
    let said: Vec<_> = answers(&bench.out).into_iter().map(|(_, _, answer)| answer).collect();
    assert_eq!(said, [HandOffAnswer::Goes, HandOffAnswer::Stays]);
    assert_eq!(bench.machine.registered(), Some((&controller("b1"), seq)));
    assert_eq!(bench.machine.state(), State::Backup);
    assert_eq!(bench.machine.counter(), seq);
}

#[test]
fn the_old_controller_is_lost_while_the_new_one_is_asked() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    bench.lost("home");
    bench.take();
    let seq = bench.register_at("b1");
    let message = ClientMessage::HandOff {
        device: device(),
        token: 9,
        target: place("home"),
        within: Duration::from_secs(300),
    };
    bench.say("b1", message);
    bench.opened("home");
    bench.pass_until(60_000, |output| matches!(output, Output::Event(Event::Lost { .. })));
    assert_eq!(bench.machine.state(), State::Seeking);
    let mut late = Bench { machine: bench.machine.clone(), now: bench.now, out: Vec::new() };
    bench.accept("home", seq + 1, terms());
    assert_eq!(bench.machine.state(), State::Home);
    // The home has as long as for any attempt, not as long as the lost one has given it.
    late.pass_until(20_000, |output| opens(output, "b1"));
}

#[test]
fn does_not_go_while_it_is_busy_nor_where_it_does_not_want_to() {
    let answer = |bench: &mut Bench, target: &str| {
        bench.take();
        bench.say("home", hand_off(target, 3));
        answers(&bench.out)[0].2
    };
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    bench.register_at("home");
    assert_eq!(answer(&mut bench, "stranger"), HandOffAnswer::Stays);
    assert_eq!(answer(&mut bench, "home"), HandOffAnswer::Stays);
    bench.say("home", request(1));
    assert_eq!(answer(&mut bench, "b1"), HandOffAnswer::Busy);
    let (from, outcome) = (controller("home"), Outcome::Done(Vec::new()));
    bench.give(Input::Answer { from, id: 1, outcome });
    bench.give(Input::Busy(true));
    assert_eq!(answer(&mut bench, "b1"), HandOffAnswer::Busy);
    bench.give(Input::Busy(false));
    assert_eq!(answer(&mut bench, "b1"), HandOffAnswer::Goes);
    let never = Policy { hand_offs: HandOffs::Never, ..policy(&["home", "b1"]) };
    let mut bench = Bench::new(never, Some(1));
    bench.register_at("home");
    assert_eq!(answer(&mut bench, "b1"), HandOffAnswer::Stays);
    let any = Policy { hand_offs: HandOffs::Any, ..policy(&["home", "b1"]) };
    let mut bench = Bench::new(any, Some(1));
    bench.register_at("home");
    assert_eq!(answer(&mut bench, "stranger"), HandOffAnswer::Goes);
    assert!(bench.out.iter().any(|output| opens(output, "stranger")));
}

#[test]
fn only_who_serves_it_has_a_say() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    let seq = bench.register_at("home");
    bench.say("b1", hand_off("b1", 3));
    bench.say("b1", ClientMessage::Reregister { device: device(), above: 50 });
    bench.say("b1", request(3));
    let other = "device-2".parse().unwrap();
    bench.say("home", ClientMessage::Reregister { device: other, above: 50 });
    assert!(bench.out.is_empty(), "{:?}", bench.out);
    assert_eq!(bench.machine.registered(), Some((&controller("home"), seq)));
    assert_eq!(bench.machine.counter(), seq);
}

#[test]
fn registers_again_above_what_its_controller_knows() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    bench.register_at("home");
    bench.say("home", ClientMessage::Reregister { device: device(), above: 70 });
    assert_eq!(saves(&bench.out), [71]);
    assert_eq!(bench.register_sent("home").seq, 71);
}

#[test]
fn a_counter_that_cannot_be_is_not_believed() {
    for lie in [u64::MAX, crate::limits::SEQ_MAX, 1 + SEQ_JUMP_MAX] {
        let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
        bench.opened("home");
        bench.say("home", ClientMessage::Jump { device: device(), seq: lie });
        bench.take();
        let seq = bench.register_at("b1");
        assert_eq!(seq, 3);
        bench.say(
            "b1",
            ClientMessage::Reregister { device: device(), above: lie.saturating_add(9) },
        );
        assert_eq!(bench.register_sent("b1").seq, 4);
    }
}

#[test]
fn comes_again_when_it_is_told_to_and_not_before() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    bench.opened("home");
    for _ in 0..3 {
        bench.take();
        let told = bench.now;
        bench
            .say("home", ClientMessage::Retry { device: device(), after: Duration::from_secs(20) });
        let is_register = |output: &Output| {
            matches!(output, Output::Say { message: ClientMessage::Register(_), .. })
        };
        bench.pass_until(25_001, is_register);
        assert!(bench.now - told >= 20_000);
        assert!(!bench.out.iter().any(|output| opens(output, "b1")));
    }
    // Not for ever.
    let after = Duration::from_secs(20);
    bench.say("home", ClientMessage::Retry { device: device(), after });
    bench.register_at("b1");
}

#[test]
fn one_that_wants_to_be_left_alone_is() {
    let mut bench = Bench::new(policy(&["home"]), Some(1));
    bench.opened("home");
    bench.take();
    let (from, why) = (controller("home"), "bye".into());
    let told = bench.now;
    bench.give(Input::Lost { controller: from, after: Duration::from_secs(100), why });
    bench.pass_until(110_000, |output| opens(output, "home"));
    assert!(bench.now - told >= 100_000, "{} ms", bench.now - told);
    // But not for ever.
    bench.opened("home");
    bench.take();
    let told = bench.now;
    let after = Duration::from_millis(u64::MAX);
    bench.say("home", ClientMessage::Retry { device: device(), after });
    bench.pass_until(40 * 60_000, |output| opens(output, "home"));
    assert!(bench.now - told >= 30 * 60_000, "{} ms", bench.now - told);
}

#[test]
fn knows_the_alternates_that_it_was_told_of() {
    let mut bench = Bench::new(policy(&["home"]), Some(1));
    bench.opened("home");
    let seq = bench.register_sent("home").seq;
    let alternates = vec![place("b7"), place("home"), place("b8"), place("b7")];
    bench.accept("home", seq, Terms { alternates, ..terms() });
    bench.take();
    let seq = bench.register_at("b7");
    // It stays known while it serves, though it does not name itself.
    assert_eq!(seq, 3);
    bench.lost("b7");
    bench.pass_until(2_000, |output| opens(output, "b7"));
    bench.take();
    // The home comes first then, and b8 is forgotten: b7 has not named it.
    bench.lost("b7");
    bench.pass_until(100_000, |output| opens(output, "home"));
    bench.lost("home");
    bench.take();
    bench.pass_until(60_000, |output| opens(output, "b7"));
    assert!(!bench.out.iter().any(|output| opens(output, "b8")));
}

#[test]
fn many_alternates_do_not_grow() {
    let mut bench = Bench::new(policy(&["home"]), Some(1));
    bench.opened("home");
    let seq = bench.register_sent("home").seq;
    let alternates = (0..100)
        .map(|i| Place { addrs: place("a").addrs.repeat(100), ..place(&format!("b{i}")) })
        .collect();
    bench.accept("home", seq, Terms { alternates, ..terms() });
    assert_eq!(bench.machine.candidates().count(), 9);
    assert!(bench.machine.alternates.iter().all(|place| place.addrs.len() <= 8));
}

#[test]
fn requests_are_served_and_bounded() {
    let mut bench = Bench::new(Policy { requests_max: 2, ..policy(&["home"]) }, Some(1));
    bench.register_at("home");
    for id in [1, 2, 2, 3] {
        bench.say("home", request(id));
    }
    let message = |id, outcome| Output::Say {
        to: controller("home"),
        message: ClientMessage::Response { id, outcome },
    };
    let out = bench.take();
    assert!(matches!(&out[0], Output::Serve { request, .. } if request.id == 1));
    assert!(matches!(&out[1], Output::Serve { request, .. } if request.id == 2));
    assert_eq!(out[2..], [message(3, Outcome::Busy { after: Duration::from_millis(200) })]);
    let done = |id| Input::Answer {
        from: controller("home"),
        id,
        outcome: Outcome::Refused("no".to_owned()),
    };
    bench.give(done(2));
    bench.give(done(2));
    assert_eq!(bench.take(), [message(2, Outcome::Refused("no".to_owned()))]);
    // After its deadline nobody waits for it.
    bench.pass(5_000);
    bench.take();
    bench.give(done(1));
    assert_eq!(bench.take(), []);
    // An answer does not go to another connection, where the number may be another request's.
    bench.say("home", request(4));
    bench.lost("home");
    bench.pass_until(5_000, |output| opens(output, "home"));
    bench.opened("home");
    bench.take();
    bench.give(done(4));
    assert_eq!(bench.take(), []);
}

#[test]
fn deregisters() {
    let mut bench = Bench::new(policy(&["home", "b1"]), Some(1));
    let seq = bench.register_at("home");
    bench.give(Input::Deregister);
    let message = ClientMessage::Deregister { device: device(), seq };
    assert_eq!(bench.take(), [Output::Say { to: controller("home"), message }]);
    assert_eq!(bench.machine.state(), State::Leaving);
    bench.say("home", ClientMessage::Deregistered { device: device(), seq });
    assert_eq!(bench.machine.state(), State::Ended);
    let ended = Output::Event(Event::Ended { confirmed: true });
    assert_eq!(bench.take(), [ended, Output::Leave(controller("home"))]);
    assert_eq!(bench.machine.due(), None);
    // Once more from the beginning.
    bench.give(Input::Start);
    assert_eq!(bench.register_at("home"), seq + 1);
    bench.give(Input::Deregister);
    bench.pass(15_000);
    assert_eq!(bench.machine.state(), State::Ended);
    assert!(bench.out.contains(&Output::Event(Event::Ended { confirmed: false })));
}

#[test]
fn tells_of_a_new_generation_once() {
    let mut bench = Bench::new(policy(&["home"]), Some(1));
    let seq = bench.register_at("home");
    let ok = ClientMessage::HandshakeOk { device: device(), seq, generation: 5 };
    bench.say("home", ok.clone());
    bench.say("home", ok.clone());
    assert_eq!(bench.take(), [Output::Event(Event::Generation(5))]);
    bench.give(Input::Generation(5));
    bench.say("home", ok);
    assert_eq!(bench.take(), []);
}

#[test]
fn a_policy_that_is_none_is_refused() {
    let of = |policy: Policy| Machine::new(Arc::new(policy), device(), b"", None, 1).unwrap_err();
    assert_eq!(of(policy(&[])), PolicyError::NoController);
    assert_eq!(of(policy(&["a", "b", "a"])), PolicyError::Twice("a".to_owned()));
    let names: Vec<String> = (0..17).map(|i| format!("c{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(of(policy(&names)), PolicyError::TooMany(17));
    let mut bare = policy(&["a"]);
    bare.controllers[0].addrs.clear();
    assert_eq!(of(bare), PolicyError::NoAddress("a".to_owned()));
    assert!(matches!(of(Policy { base: 0, ..policy(&["a"]) }), PolicyError::OutOfBounds { .. }));
    let none = Policy { attempt_burst: 0, ..policy(&["a"]) };
    assert!(matches!(of(none), PolicyError::OutOfBounds { .. }));
}
