//! Several pairs of processes that take turns.

use std::any::Any;
use std::io;

use crate::Bench;
use crate::pair::Pair;
use crate::report::Report;
use crate::socket::Kind;

/// A pair under its label, with what stands between its ends.
pub(crate) struct Lane {
    pub(crate) label: &'static str,
    // Dropped first: its processes are told to end before what they talk through goes.
    pair: Option<Pair>,
    _between: Option<Box<dyn Any>>,
}

impl Lane {
    pub(crate) fn new(label: &'static str, pair: Pair) -> Self {
        Self { label, pair: Some(pair), _between: None }
    }

    /// With something between the two that is to live as long as they.
    pub(crate) fn through(label: &'static str, pair: Pair, between: impl Any) -> Self {
        Self { label, pair: Some(pair), _between: Some(Box::new(between)) }
    }
}

/// A lane for each kind of stream, under the kind's own name; the reference comes first.
pub(crate) fn lanes(bench: &Bench<'_>, kinds: &[Kind]) -> io::Result<Vec<Lane>> {
    kinds.iter().map(|&kind| Ok(Lane::new(kind.name(), Pair::start(bench, kind)?))).collect()
}

/// The names of the kinds, for figures.
pub(crate) fn labels(lanes: &[Lane]) -> Vec<&'static str> {
    lanes.iter().map(|lane| lane.label).collect()
}

/// Each lane in turn, as often as the options say; `turn` is told the number of the turn and that
/// of the lane. One that fails is told of and left out from then on, so that the others still have
/// their figures.
pub(crate) fn take_turns(
    bench: &Bench<'_>,
    report: &mut Report,
    name: &str,
    lanes: Vec<Lane>,
    turn: impl FnMut(usize, usize, &mut Pair) -> io::Result<()>,
) {
    take_some_turns(bench.options.turns(), report, name, lanes, turn);
}

/// The same, so often.
pub(crate) fn take_some_turns(
    turns: usize,
    report: &mut Report,
    name: &str,
    mut lanes: Vec<Lane>,
    mut turn: impl FnMut(usize, usize, &mut Pair) -> io::Result<()>,
) {
    for number in 0..turns {
        for (at, lane) in lanes.iter_mut().enumerate() {
            if let Some(pair) = &mut lane.pair
                && let Err(error) = turn(number, at, pair)
            {
                report.failed(&format!("{name} {}", lane.label), &error);
                lane.pair = None;
            }
        }
    }
}
