//! Two devices with one name.

use crate::controller::What;
use crate::fleet::Group;
use crate::lab::{Lab, groups};
use crate::site::wait_for;

/// A device was copied: both think that they are X, and while the line is cut two controllers think
/// that they have it, under one counter.
#[test]
fn a_copied_device_ends_with_one_owner() {
    let Some(mut lab) = Lab::new("copies") else { return };
    lab.start_all();
    lab.wait_linked();
    for (one, two) in [("a", "b"), ("a", "c"), ("b", "c")] {
        lab.cut(one, two);
    }
    wait_for("the links are gone", || {
        ["a", "b", "c"].iter().all(|name| {
            lab.status(name).partners.iter().all(|link| link.state != "up" || link.is_cut)
        })
    });
    lab.fleet("d", &groups(0..67));
    let name = "a-007";
    let controllers = vec!["b".to_owned(), "c".to_owned()];
    lab.fleet("e", &[Group { devices: vec![name.to_owned()], controllers }]);
    let stands = |lab: &mut Lab| -> Vec<Option<(String, u64)>> {
        let all = lab.devices().into_iter().filter(|stands| stands.device == name);
        all.map(|stands| stands.at).collect()
    };
    wait_for("both are registered, under one counter", || {
        stands(&mut lab) == [Some(("a".to_owned(), 1)), Some(("b".to_owned(), 1))]
    });
    wait_for("all are registered", || lab.devices().iter().all(|stands| stands.at.is_some()));
    for (one, two) in [("a", "b"), ("a", "c"), ("b", "c")] {
        lab.heal(one, two);
    }
    wait_for("the clash is seen", || {
        ["a", "b", "c"].iter().any(|at| {
            let is_it = |what: &What| matches!(what, What::Clash { device } if device == name);
            lab.events(at).iter().any(|one| is_it(&one.what))
        })
    });
    // They outbid each other, no faster than devices do, until somebody takes one of them away.
    let mut copy = lab.fleets.pop().unwrap();
    copy.tell("close");
    assert!(copy.end().success());
    let table = lab.settle(200);
    let entry = table.iter().find(|entry| entry.device == name).unwrap();
    assert_eq!(entry.owner, "a");
    assert!(entry.seq > 1);
    assert!(table.iter().filter(|other| other.device != name).all(|other| other.seq == 1));
    lab.request_all();
    lab.close("a_copied_device_ends_with_one_owner");
}
