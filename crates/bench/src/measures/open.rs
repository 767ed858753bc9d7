//! How many sessions begin and end in a second.

use std::io;

use crate::Bench;
use crate::lane::{labels, lanes, take_turns};
use crate::report::{Goal, Group, Report};
use crate::socket::Kind;

/// Open, end both directions, close; one after the other.
pub(crate) fn open_close(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    cycled(bench, report, "open-close", &Kind::USUAL, Some(("direct", Goal::RatioAtLeast(0.5))))
}

/// Over lanes of these kinds. Each has one more open all the time, so that a shared session stands.
pub(crate) fn cycled(
    bench: &Bench<'_>,
    report: &mut Report,
    name: &str,
    kinds: &[Kind],
    goal: Option<(&str, Goal)>,
) -> io::Result<()> {
    let count = bench.amount(500, 30);
    let lanes = lanes(bench, kinds)?;
    let mut rates = Group::new(&labels(&lanes), name, "1/s");
    if let Some((label, goal)) = goal {
        rates = rates.goal(label, goal);
    }
    let command = format!("cycle {count}");
    let warm_up = format!("cycle {}", count / 10);
    take_turns(bench, report, name, lanes, |number, at, pair| {
        if number == 0 {
            pair.open()?;
            pair.both(&warm_up, &warm_up)?;
        }
        let (client, _) = pair.both(&command, &command)?;
        rates.add(at, count as f64 / (client[0] * 1e-9));
        Ok(())
    });
    report.group(&rates)
}
