//! The lines between controllers.

use crate::controller::What;
use crate::lab::{Lab, devices};
use crate::site::wait_for;
use crate::take_over::of;

const LINES: [(&str, &str); 3] = [("a", "b"), ("a", "c"), ("b", "c")];

fn links_down(lab: &mut Lab) -> bool {
    ["a", "b", "c"]
        .iter()
        .all(|name| lab.status(name).partners.iter().all(|link| link.state != "up" || link.is_cut))
}

#[test]
fn link_cut_with_both_alive() {
    let Some(mut lab) = Lab::usual("cut") else { return };
    let before = lab.settle(200);
    ["a", "b", "c"].iter().for_each(|name| drop(lab.events(name)));
    LINES.iter().for_each(|(one, two)| lab.cut(one, two));
    wait_for("the links are gone", || links_down(&mut lab));
    // Meanwhile things happen: some leave, some come again. Each serves its own.
    let (left, again) = (devices("b", 0..3), devices("a", 0..5));
    lab.tell_fleet(0, &format!("deregister {} {}", left.join(" "), again.join(" ")));
    wait_for("they have left", || {
        lab.devices().iter().filter(|stands| stands.at.is_none()).count() == 8
    });
    lab.tell_fleet(0, &format!("register {}", again.join(" ")));
    wait_for("some are back", || {
        lab.devices().iter().filter(|stands| stands.at.is_none()).count() == 3
    });
    for home in ["a", "b", "c"] {
        let all = lab.devices();
        let is_there = |name: &String| name.starts_with(home) && !left.contains(name);
        let own: Vec<String> = all.into_iter().map(|one| one.device).filter(is_there).collect();
        lab.request(home, &own);
        assert_eq!(lab.at(home, home), own.len(), "nobody is taken over");
    }
    assert_ne!(lab.ask("a", "digest"), lab.ask("c", "digest"));
    LINES.iter().for_each(|(one, two)| lab.heal(one, two));
    lab.wait_linked();
    let table = lab.settle(197);
    for (entry, old) in table.iter().zip(&before) {
        let seq = if again.contains(&entry.device) { old.seq + 1 } else { old.seq };
        assert_eq!((&entry.owner, entry.seq), (&old.owner, seq), "{entry:?}");
        assert_eq!(entry.stands, !left.contains(&entry.device));
    }
    assert_eq!(of(&table, &["c"]), of(&before, &["c"]));
    // Nobody but the devices that came again has moved, as far as anybody knows.
    for name in ["a", "b", "c"] {
        let moved = lab.events(name).into_iter().filter(|one| match &one.what {
            What::Owner { before: Some(before), now, .. } => before != now,
            What::Clash { .. } => true,
            _ => false,
        });
        assert_eq!(moved.collect::<Vec<_>>(), []);
        assert_eq!(lab.status(name).counts.take_overs, 0);
    }
    lab.close("link_cut_with_both_alive");
}
