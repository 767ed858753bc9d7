//! Controllers that come back without what they knew.

use crate::lab::Lab;
use crate::site::wait_for;

/// Nobody has anything left: the devices do.
#[test]
fn both_restarted_from_empty_disks() {
    let Some(mut lab) = Lab::usual("empty") else { return };
    let before = lab.settle(200);
    ["a", "b", "c"].iter().for_each(|name| lab.kill(name));
    for name in ["a", "b", "c"] {
        lab.wipe(name);
        lab.start(name);
    }
    lab.wait_linked();
    let table = lab.settle(200);
    for (entry, old) in table.iter().zip(&before) {
        assert!(entry.seq > old.seq, "the counter is the device's: {entry:?} after {old:?}");
    }
    lab.request_all();
    lab.close("both_restarted_from_empty_disks");
}

/// One has nothing left: its partners do. Its devices stay away until it has come to rest, or go
/// to it at once; either way nobody's counter goes back.
#[test]
fn one_restarted_from_an_empty_disk() {
    let Some(mut lab) = Lab::usual("disk") else { return };
    let before = lab.settle(200);
    lab.kill("a");
    wait_for("the devices of a are at b", || lab.at("a", "b") == 67);
    lab.wipe("a");
    lab.start("a");
    lab.wait_linked();
    let table = lab.settle(200);
    for (entry, old) in table.iter().zip(&before) {
        let (owner, seq) = match old.home.as_str() {
            "a" => ("b", old.seq + 1),
            _ => (old.owner.as_str(), old.seq),
        };
        assert_eq!((entry.owner.as_str(), entry.seq), (owner, seq));
    }
    lab.request_all();
    lab.ask("b", "fail-back a");
    wait_for("they are home", || lab.at("a", "a") == 67);
    lab.settle(200);
    lab.assert_at_home();
    // A disk that is lost under devices that hardly notice: they come again with larger counters,
    // wherever they are told that they are not known.
    lab.kill("a");
    lab.wipe("a");
    lab.start("a");
    let table = lab.settle(200);
    assert!(table.iter().zip(&before).all(|(entry, old)| entry.seq >= old.seq));
    lab.request_all();
    lab.close("one_restarted_from_an_empty_disk");
}
