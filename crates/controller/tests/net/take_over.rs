//! Controllers that stand in for others.

use crate::controller::Entry;
use crate::lab::{Lab, group, groups};
use crate::site::wait_for;

/// The rows of the devices of these homes.
pub(crate) fn of(table: &[Entry], homes: &[&str]) -> Vec<Entry> {
    table.iter().filter(|entry| homes.contains(&entry.home.as_str())).cloned().collect()
}

#[test]
fn core_take_over() {
    let Some(mut lab) = Lab::usual("core") else { return };
    let before = lab.table("b");
    lab.request_all();
    lab.kill("a");
    wait_for("the devices of a are at b", || lab.at("a", "b") == 67);
    let table = lab.settle(200);
    assert!(of(&table, &["a"]).iter().all(|entry| entry.owner == "b" && entry.seq == 2));
    let plain = |rows: Vec<Entry>| -> Vec<Entry> {
        rows.into_iter().map(|entry| Entry { is_connected: false, ..entry }).collect()
    };
    let others = ["b", "c"];
    assert_eq!(of(&table, &others), plain(of(&before, &others)), "nothing about the others");
    lab.request_all();
    assert!(lab.status("c").counts.requests_forwarded >= 67, "c has passed them on");
    // The other one dies too: the last one serves all.
    lab.kill("b");
    wait_for("all are at c", || {
        ["a", "b", "c"].iter().map(|home| lab.at(home, "c")).sum::<usize>() == 200
    });
    let table = lab.settle(200);
    assert!(table.iter().all(|entry| entry.owner == "c"));
    lab.request_all();
    lab.close("core_take_over");
}

#[test]
fn partial_take_over() {
    let Some(mut lab) = Lab::new("partial") else { return };
    lab.start_all();
    lab.fleet("d", &groups(20..67));
    lab.fleet("e", &[group("a", 0..20)]);
    let before = lab.settle(200);
    lab.assert_at_home();
    lab.cut("a", "e");
    let moved = group("a", 0..20).devices;
    wait_for("those that are cut off are at b", || lab.at("a", "b") == 20);
    let table = lab.settle(200);
    for (entry, old) in table.iter().zip(&before) {
        if moved.contains(&entry.device) {
            assert_eq!((entry.owner.as_str(), entry.seq), ("b", old.seq + 1), "{entry:?}");
        } else {
            assert_eq!(entry, old);
        }
    }
    // Their home passes requests on.
    let forwarded = lab.status("a").counts.requests_forwarded;
    lab.request("a", &moved);
    assert!(lab.status("a").counts.requests_forwarded >= forwarded + 20);
    lab.request_all();
    // The line is back: they stay where they are, as nobody has told them otherwise.
    lab.heal("a", "e");
    lab.request_all();
    assert_eq!(lab.at("a", "b"), 20);
    lab.ask("b", "fail-back a");
    wait_for("they are home", || lab.at("a", "a") == 67);
    let table = lab.settle(200);
    assert!(table.iter().all(|entry| entry.owner == entry.home));
    lab.request_all();
    lab.close("partial_take_over");
}
