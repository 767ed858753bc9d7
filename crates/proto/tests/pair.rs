//! Random programs over a random network: whatever is cut, held, refused or replayed, the bytes
//! come through once and in order, and both ends come to an end.
//!
//! A failure prints the seed; `EVERSOCK_SEED=<seed>` runs that seed alone, `EVERSOCK_SEEDS=<count>`
//! runs more of them.
#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "the seed to replay comes from the environment, and goes to the screen"
)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use eversock_proto::identity::StaticKey;
use eversock_proto::seal::Cipher;
use eversock_proto::secret::PresharedKey;
use eversock_proto::testing::{
    Cut, Ending, InFlight, Notice, Pair, PairConfig, PlannedCut, Rng, Side, Tamper,
};

const STARTS: [u64; 4] = [0, (1 << 31) - 70_000, (1 << 32) - 70_000, (1 << 63) - 70_000];

/// Runs `case` for each seed of one block, and says how to replay the one that fails.
fn seeds(block: u64, count: u64, case: fn(u64)) {
    if let Some(seed) = number("EVERSOCK_SEED") {
        if seed >> 32 == block {
            case(seed);
        }
        return;
    }
    let count = number("EVERSOCK_SEEDS").unwrap_or(count);
    for seed in (0..count).map(|n| block << 32 | n) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case(seed))) {
            eprintln!("EVERSOCK_SEED={seed} cargo test -p eversock-proto --test pair");
            resume_unwind(panic);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn config(rng: &mut Rng) -> PairConfig {
    let window = |rng: &mut Rng| [16 << 10, 64 << 10, 256 << 10][rng.below(3) as usize];
    let windows = [window(rng), window(rng)];
    // The whole range, but no link so thin and long that a case takes hours of its time.
    let kernel_bytes = [7, 1000, 20_000, 200_000][rng.below(4) as usize];
    let latency = rng.below(if kernel_bytes < 100 { 2 } else { 4 }) as usize;
    let key = rng.chance(1, 2).then_some(PresharedKey([3; 32]));
    let identities = (key.is_none() && rng.chance(1, 2))
        .then(|| [StaticKey::from_bytes([4; 32]), StaticKey::from_bytes([5; 32])]);
    PairConfig {
        open: rng.chance(1, 10),
        key,
        identities,
        cipher: rng.chance(1, 3).then(|| cipher(rng)),
        key_weight_max: if rng.chance(1, 2) { 5000 } else { u64::MAX },
        start: [STARTS[rng.below(4) as usize], STARTS[rng.below(4) as usize]],
        window: windows,
        window_max: windows.map(|window| window << rng.below(3)),
        // A kernel that holds no frame header lets a paused reader look like a dead path.
        direct: [rng.chance(1, 2), rng.chance(1, 2)].map(|direct| direct && kernel_bytes > 100),
        latency: Duration::from_millis([0, 1, 20, 200][latency]),
        kernel_bytes,
        grace: Duration::from_secs(36_000),
        give_up: Duration::from_secs(36_000),
        keepalive: Some(Duration::from_secs(45)),
        ..PairConfig::default()
    }
}

fn cipher(rng: &mut Rng) -> Cipher {
    [Cipher::Chacha20Poly1305, Cipher::Aes256Gcm][rng.below(2) as usize]
}

fn notice(rng: &mut Rng) -> Notice {
    match rng.below(3) {
        0 => Notice::AtOnce,
        1 => Notice::After(Duration::from_millis(rng.below(20_000))),
        _ => Notice::Never,
    }
}

fn cut(rng: &mut Rng) -> Cut {
    let in_flight = if rng.chance(1, 3) {
        InFlight::Late(Duration::from_millis(rng.below(5_000)))
    } else {
        InFlight::Lost
    };
    Cut { notice: [notice(rng), notice(rng)], in_flight }
}

fn side(rng: &mut Rng) -> Side {
    Side::BOTH[rng.below(2) as usize]
}

/// Small sizes are as likely as large ones; tiny kernels get little, or a case takes for ever.
fn size(rng: &mut Rng, config: &PairConfig) -> usize {
    let most = if config.kernel_bytes < 100 { 300 } else { 150_000 };
    rng.slice(most)
}

fn fault(pair: &mut Pair, rng: &mut Rng) {
    match rng.below(8) {
        0..3 => pair.cut(cut(rng)),
        3 => pair.blackhole(Duration::from_millis(rng.below(15_000))),
        4 => pair.net.hold(side(rng), Duration::from_millis(rng.below(15_000))),
        5 => pair.net.refuse_until = pair.net.now + Duration::from_millis(rng.below(8_000)),
        6 => pair.dial_beside(),
        _ => replay(pair, rng),
    }
}

/// A stranger says again what was once said, perhaps with a CONFIRM behind it.
fn replay(pair: &mut Pair, rng: &mut Rng) {
    let said: Vec<Vec<u8>> = pair
        .recorded()
        .iter()
        .filter(|hello| hello.from == Side::Client)
        .map(|hello| hello.message.clone())
        .collect();
    if said.is_empty() {
        return;
    }
    let mut bytes = Vec::new();
    for _ in 0..rng.below(3) {
        bytes.extend_from_slice(&said[rng.below(said.len() as u64) as usize]);
    }
    pair.inject(&bytes);
}

fn operate(pair: &mut Pair, rng: &mut Rng, faults: u64) {
    let n = size(rng, pair.config());
    match rng.below(12) {
        0..3 => {
            pair.write_some(side(rng), n);
        }
        3..6 => {
            pair.read(side(rng), n);
        }
        6 => pair.run_for(Duration::from_millis(rng.below(3_000))),
        7 if rng.chance(faults, 10) => fault(pair, rng),
        _ => {
            let mut steps = rng.below(10);
            pair.run_until(Duration::from_secs(2), |_| {
                steps = steps.saturating_sub(1);
                steps == 0
            });
        }
    }
}

/// Both programs read until both see EOF.
fn read_to_the_end(pair: &mut Pair) {
    let both = pair.run_until(Duration::from_secs(7200), |pair| {
        for side in Side::BOTH {
            while pair.read(side, 50_000) > 0 {}
        }
        Side::BOTH.iter().all(|&side| pair.end(side).is_at_end())
    });
    assert!(both, "no EOF {pair:?}");
}

fn exactly_once(seed: u64) {
    let mut rng = Rng::new(seed);
    let config = config(&mut rng);
    run_to_the_end(&mut rng, config, 0);
}

/// The same while somebody on the path changes, drops, repeats and makes bytes.
fn exactly_once_although_tampered(seed: u64) {
    let mut rng = Rng::new(seed);
    let config = config(&mut rng);
    let config = PairConfig { cipher: Some(cipher(&mut rng)), ..config };
    run_to_the_end(&mut rng, config, 10);
}

/// `tampers` times in 40 an operation is followed by somebody's on the path.
fn run_to_the_end(rng: &mut Rng, config: PairConfig, tampers: u64) {
    let mut tampered = false;
    let mut cuts = Vec::new();
    for _ in 0..rng.below(4) {
        cuts.push(PlannedCut {
            conn: rng.below(4),
            from: side(rng),
            after: rng.below(400),
            cut: cut(rng),
        });
    }
    let mut pair = Pair::with_cuts(rng.draw(), config, &cuts);
    for _ in 0..rng.below(80) {
        operate(&mut pair, rng, 10);
        if tampers > 0 && rng.chance(tampers, 40) {
            let how = Tamper::ALL[rng.below(Tamper::ALL.len() as u64) as usize];
            tampered |= pair.tamper(side(rng), how);
        }
        if rng.chance(1, 100) && pair.end(Side::Client).session().is_some() {
            let side = side(rng);
            pair.shutdown_write(side);
        }
    }
    pair.net.heal();
    if tampered {
        // Whoever takes bytes away and leaves the connection standing stalls it: until it is cut.
        pair.cut(Cut::RESET);
    }
    assert!(pair.run_until(Duration::from_secs(600), |pair| {
        Side::BOTH.iter().all(|&side| pair.end(side).session().is_some())
    }));
    for side in Side::BOTH {
        pair.shutdown_write(side);
    }
    read_to_the_end(&mut pair);
    for side in Side::BOTH {
        assert_eq!(pair.end(side).read(), pair.end(side.other()).written());
    }
    let over = pair.run_until(Duration::from_secs(40_000), |pair| {
        Side::BOTH.iter().all(|&side| pair.end(side).ending().is_some())
    });
    assert!(over, "somebody waits for ever {pair:?}");
    assert_eq!(pair.end(Side::Client).ending(), Some(Ending::Done));
}

#[test]
fn bytes_come_through_once_and_in_order_whatever_is_cut() {
    seeds(1, 4000, exactly_once);
}

#[test]
fn bytes_come_through_once_and_in_order_whatever_is_cut_continued() {
    seeds(2, 4000, exactly_once);
}

#[test]
fn a_sealed_session_delivers_what_was_written_whatever_is_done_to_its_bytes_on_the_way() {
    seeds(5, 4000, exactly_once_although_tampered);
}

/// One side closes or resets at a random moment, amid faults.
fn closes_amid_faults(seed: u64) {
    let mut rng = Rng::new(seed);
    let config = PairConfig {
        grace: Duration::from_secs(300),
        give_up: Duration::from_secs(300),
        linger: Duration::from_secs(36_000),
        ..config(&mut rng)
    };
    let mut pair = Pair::new(rng.draw(), config);
    let formed = pair.run_until(Duration::from_secs(200), |pair| {
        Side::BOTH.iter().all(|&side| pair.end(side).session().is_some())
    });
    assert!(formed);
    let (who, reset) = (side(&mut rng), rng.chance(1, 3));
    for _ in 0..rng.below(40) {
        operate(&mut pair, &mut rng, 10);
    }
    let before = pair.end(who).written();
    if reset {
        pair.reset(who, 9);
    } else {
        pair.close(who);
    }
    for _ in 0..rng.below(40) {
        operate(&mut pair, &mut rng, 10);
    }
    pair.net.heal();
    // The other side reads to its end and then closes too, as a program would.
    let other = who.other();
    pair.run_until(Duration::from_secs(200), |pair| {
        while pair.read(other, 50_000) > 0 {}
        pair.write_some(other, 10);
        pair.end(other).is_at_end() || pair.end(other).ending().is_some()
    });
    let end = pair.end(other);
    if reset {
        assert!(!end.is_at_end(), "a reset looks like an end");
    } else if !matches!(end.ending(), Some(Ending::Refused(_) | Ending::ResetByPeer(_))) {
        assert!(end.is_at_end(), "a close was not seen {pair:?}");
        assert_eq!(end.read(), before, "a close has lost bytes");
    }
    pair.close(other);
    let over = pair.run_until(Duration::from_secs(80_000), |pair| {
        Side::BOTH.iter().all(|&side| pair.end(side).ending().is_some())
    });
    assert!(over, "somebody waits for ever {pair:?}");
}

#[test]
fn a_close_or_reset_amid_faults_reaches_the_peer_and_ends_both() {
    seeds(3, 3000, closes_amid_faults);
}

/// All that can be seen of a run: the state after each operation, and what the handshakes said.
fn trace(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let config = PairConfig { open: true, ..config(&mut rng) };
    let mut pair = Pair::new(rng.draw(), config);
    let mut hasher = DefaultHasher::new();
    for _ in 0..60 {
        operate(&mut pair, &mut rng, 10);
        format!("{pair:?}").hash(&mut hasher);
    }
    for hello in pair.recorded() {
        hello.message.hash(&mut hasher);
    }
    hasher.finish()
}

#[test]
fn a_seed_run_twice_takes_the_same_steps_and_another_seed_takes_others() {
    let traces: Vec<u64> = (0..200).map(|n| trace(4 << 32 | n)).collect();
    for (n, &first) in traces.iter().enumerate() {
        let seed = 4 << 32 | n as u64;
        assert_eq!(trace(seed), first, "seed {seed} took other steps the second time");
    }
    let different: std::collections::BTreeSet<u64> = traces.iter().copied().collect();
    assert_eq!(different.len(), traces.len(), "the trace does not tell one seed from another");
}
