//! Wall clocks that are wrong by hours, and jump.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::controller::What;
use crate::lab::Lab;
use crate::netns::skip;
use crate::site::wait_for;

/// How far a clock is ahead, in seconds, from now on. Written into the file that is mapped.
fn set(file: &Path, ahead: i64) {
    File::options().write(true).open(file).unwrap().write_all(&ahead.to_ne_bytes()).unwrap();
}

/// Makes the clock of this controller's next process one that can be set.
fn with_clock(lab: &mut Lab, library: &Path, name: &str, ahead: i64) {
    let file = lab.folder().join(format!("{name}.clock"));
    std::fs::write(&file, ahead.to_ne_bytes()).unwrap();
    let by = [
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("EVERSOCK_TEST_CLOCK={}", file.display()),
    ];
    lab.prefix(name, by.into());
}

const HOUR: i64 = 3600;

#[test]
fn clocks_skewed_by_hours() {
    let Some(mut lab) = Lab::new("clocks") else { return };
    let library = lab.folder().join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/net/clock.c");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source);
    if !cc.status().is_ok_and(|status| status.success()) {
        return skip("controller", "no C compiler to make a wrong clock with");
    }
    // A short lease: a clock that counts it would end it.
    for (name, ahead) in [("a", 5 * HOUR), ("b", 0), ("c", -7 * HOUR)] {
        let parameters = crate::lab::PARAMETERS.replace("10min", "30s");
        lab.setup(name).parameters = parameters;
        with_clock(&mut lab, &library, name, ahead);
    }
    lab.start_all();
    lab.fleet("d", &crate::lab::groups(0..67));
    let before = lab.settle(200);
    lab.assert_at_home();
    // They tell.
    lab.wait_linked();
    let about = |lab: &mut Lab, name: &str, partner: &str, hours: i64| {
        let status = lab.status(name);
        let link = status.partners.into_iter().find(|link| link.partner == partner).unwrap();
        let wanted = hours * HOUR * 1000;
        assert!((link.clock_ahead_ms - wanted).abs() < 60_000, "{} {wanted}", link.clock_ahead_ms);
    };
    about(&mut lab, "b", "a", 5);
    about(&mut lab, "b", "c", -7);
    about(&mut lab, "a", "c", -12);
    let events = lab.events("b");
    let is_skew = |partner: &str| {
        let is_it =
            |what: &What| matches!(what, What::Skew { partner: other, .. } if other == partner);
        events.iter().any(|one| is_it(&one.what))
    };
    assert!(is_skew("a") && is_skew("c"), "{events:?}");
    // They jump, there and back.
    for jump in [-11 * HOUR, 400 * HOUR, 0] {
        for name in ["a", "b", "c"] {
            set(&lab.folder().join(format!("{name}.clock")), jump);
        }
        lab.request_all();
    }
    assert_eq!(lab.settle(200), before, "nothing has changed");
    // And everything else goes as ever.
    set(&lab.folder().join("b.clock"), -30 * HOUR);
    lab.kill("a");
    wait_for("the devices of a are at b", || lab.at("a", "b") == 67);
    lab.start("a");
    lab.wait_linked();
    lab.settle(200);
    lab.ask("b", "fail-back a");
    wait_for("they are home", || lab.at("a", "a") == 67);
    lab.settle(200);
    lab.assert_at_home();
    lab.request_all();
    for name in ["a", "b", "c"] {
        let ended = |one: &crate::controller::Happened| matches!(one.what, What::Clash { .. });
        assert!(!lab.events(name).iter().any(ended));
    }
    lab.close("clocks_skewed_by_hours");
}
