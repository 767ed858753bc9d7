//! Many devices that lose their home at one moment.

use super::*;

/// When each of them turns to a backup, if all were registered at one moment and all lose their
/// home at one moment.
fn moments(count: u64) -> Vec<Millis> {
    let policy = Arc::new(policy(&["home", "b1"]));
    let home = controller("home");
    let mut moments = Vec::new();
    let mut out = Vec::new();
    for seed in 0..count {
        let policy = Arc::clone(&policy);
        let mut machine = Machine::new(policy, device(), b"", Some(0), seed).unwrap();
        machine.handle(0, Input::Start, &mut out);
        machine.handle(0, Input::Opened { controller: home.clone() }, &mut out);
        let message = ClientMessage::Registered { device: device(), seq: 1, terms: terms() };
        machine.handle(0, Input::Message { from: home.clone(), message }, &mut out);
        out.clear();
        let mut now = 0;
        while !out.iter().any(|output| opens(output, "b1")) {
            now = machine.due().unwrap();
            machine.handle(now, Input::Tick, &mut out);
        }
        out.clear();
        moments.push(now);
    }
    moments
}

#[test]
fn a_hundred_thousand_come_to_the_backup_spread_over_seconds() {
    const COUNT: usize = 100_000;
    let mut moments = moments(COUNT as u64);
    moments.sort_unstable();
    let at = |part: usize| moments[COUNT * part / 100];
    // Four handshakes of 7.5 to 10 s each, and a wait of 0.5 to 1 s.
    assert!(moments[0] >= 30_500 && moments[COUNT - 1] <= 41_000);
    assert!(at(95) - at(5) >= 3_500, "nine tenths in {} ms", at(95) - at(5));
    let mut buckets = std::collections::BTreeMap::new();
    for moment in &moments {
        *buckets.entry(moment / 100).or_insert(0usize) += 1;
    }
    // A tenth of a second never sees more than 4 % of them (evenly over 5 s it would be 2 %).
    let most = buckets.values().max().unwrap();
    assert!(*most <= COUNT * 4 / 100, "{most} in a tenth of a second");
}

#[test]
fn waits_grow_and_are_random() {
    // Nobody answers: what is waited after each round.
    let mut all = Vec::new();
    for seed in 0..200 {
        let policy = Arc::new(policy(&["home", "b1"]));
        let mut machine = Machine::new(policy, device(), b"", Some(0), seed).unwrap();
        let mut out = Vec::new();
        let (mut now, mut waits, mut ended) = (0, Vec::new(), 0);
        machine.handle(now, Input::Start, &mut out);
        while waits.len() < 24 {
            let opened = out.iter().find_map(|output| match output {
                Output::Open(place) => Some(place.controller.clone()),
                _ => None,
            });
            out.clear();
            if let Some(controller) = opened {
                waits.push(now - ended);
                ended = now;
                let (after, why) = (Duration::ZERO, "no".into());
                machine.handle(now, Input::Lost { controller, after, why }, &mut out);
            } else {
                now = machine.due().unwrap();
                machine.handle(now, Input::Tick, &mut out);
            }
        }
        all.push(waits);
    }
    for (i, wait) in all.iter().flat_map(|waits| waits.iter().enumerate().skip(1)) {
        // Odd: the other one of this round. Even: a new round.
        let whole = if i % 2 == 1 { 1_000 } else { (10_000 << (i / 2 - 1)).min(30 * 60_000) };
        assert!((whole / 2..=whole).contains(wait), "wait {i} was {wait} ms");
    }
    let tenth: std::collections::BTreeSet<_> = all.iter().map(|waits| waits[10]).collect();
    assert!(tenth.len() > 190, "{} different waits of 200", tenth.len());
}
