//! How many sessions begin and end in a second.

use std::io;

use crate::Bench;
use crate::lane::{labels, lanes, take_turns};
use crate::report::{Goal, Group, Report};
use crate::socket::Kind;

/// Open, end both directions, close; one after the other.
pub(crate) fn open_close(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let count = bench.amount(500, 30);
    let lanes = lanes(bench, &Kind::USUAL)?;
    let rates = Group::new(&labels(&lanes), "open-close", "1/s");
    let mut rates = rates.goal("direct", Goal::RatioAtLeast(0.5));
    let command = format!("cycle {count}");
    let warm_up = format!("cycle {}", count / 10);
    take_turns(bench, report, "open-close", lanes, |number, at, pair| {
        if number == 0 {
            pair.both(&warm_up, &warm_up)?;
        }
        let (client, _) = pair.both(&command, &command)?;
        rates.add(at, count as f64 / (client[0] * 1e-9));
        Ok(())
    });
    report.group(&rates)
}
