//! Figures: collected by turn, given as a table or as JSON.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use crate::Options;
use crate::usage;

/// What a figure is to be held against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// At least so many times the reference.
    RatioAtLeast(f64),
    /// At most so many times the reference.
    RatioAtMost(f64),
    /// At least so much, in the row's unit.
    AtLeast(f64),
    /// At most so much, in the row's unit.
    AtMost(f64),
}

impl Goal {
    fn is_met(self, value: f64, ratio: Option<f64>) -> bool {
        match self {
            Self::RatioAtLeast(least) => ratio.is_some_and(|ratio| ratio >= least),
            Self::RatioAtMost(most) => ratio.is_some_and(|ratio| ratio <= most),
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    fn text(self, unit: &str, reference: &str) -> String {
        match self {
            Self::RatioAtLeast(least) => format!(">= {least:.2} x {reference}"),
            Self::RatioAtMost(most) => format!("<= {most:.2} x {reference}"),
            Self::AtLeast(least) => format!(">= {least} {unit}"),
            Self::AtMost(most) => format!("<= {most} {unit}"),
        }
    }
}

/// One figure of several turns.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
    goal: Option<Goal>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self { name: name.into(), unit, values: Vec::new(), goal: None }
    }

    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    pub(crate) fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    pub(crate) fn median(&self) -> Option<f64> {
        (!self.values.is_empty()).then(|| quantile(&self.values, 0.5))
    }
}

/// The same figure of several kinds of stream; the first is what the others are compared with.
#[derive(Debug)]
pub(crate) struct Group(Vec<(&'static str, Figure)>);

impl Group {
    /// Named after `name` and each label.
    pub(crate) fn new(labels: &[&'static str], name: &str, unit: &'static str) -> Self {
        let figure = |label| (label, Figure::new(format!("{name} {label}"), unit));
        Self(labels.iter().copied().map(figure).collect())
    }

    /// With a goal for the figure that has this label.
    pub(crate) fn goal(mut self, label: &str, goal: Goal) -> Self {
        for (_, figure) in self.0.iter_mut().filter(|(own, _)| *own == label) {
            figure.goal = Some(goal);
        }
        self
    }

    pub(crate) fn add(&mut self, at: usize, value: f64) {
        self.0[at].1.add(value);
    }

    pub(crate) fn median(&self, at: usize) -> Option<f64> {
        self.0[at].1.median()
    }
}

/// The value below which `share` of the values are; 0 without values.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.is_empty() {
        return 0.0;
    }
    // The middle of an even number of values lies between two.
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Rows that belong together, on the page and in a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// The plot's file, without its ending.
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    #[serde(skip)]
    pub(crate) table: Table,
    /// What was measured, and of which kind of stream.
    pub name: String,
    /// The median.
    pub value: f64,
    /// The least of the turns.
    pub min: f64,
    /// The greatest of the turns.
    pub max: f64,
    /// Of the value.
    pub unit: &'static str,
    /// The median of what this is compared with, in the same unit.
    pub reference: Option<f64>,
    /// The value in terms of the reference.
    pub ratio: Option<f64>,
    /// What it is to be.
    pub goal: Option<String>,
    /// Whether it is so.
    pub met: Option<bool>,
}

/// Everything measured so far.
#[derive(Serialize)]
pub struct Report {
    /// The machine in a few words.
    pub machine: String,
    /// True when the figures say that it works, not how fast it is.
    pub quick: bool,
    /// In the order in which they were measured.
    pub rows: Vec<Row>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
    /// What broke off, and why.
    pub broken: Vec<String>,
    #[serde(skip)]
    table: Table,
    #[serde(skip)]
    json: bool,
    #[serde(skip)]
    shut: bool,
    #[serde(skip)]
    out: Box<dyn Write>,
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Report {
    pub(crate) fn begin(options: &Options, out: Box<dyn Write>) -> io::Result<Self> {
        let mut report = Self {
            machine: usage::machine(),
            quick: options.quick,
            rows: Vec::new(),
            skipped: Vec::new(),
            broken: Vec::new(),
            table: Table { file: "", title: "" },
            json: options.json,
            shut: false,
            out,
        };
        let heading = format!(
            "{}\n{:<46} {:>12} {:>12} {:>12}  {:<8} {:>7}  goal",
            report.machine, "median of the turns", "median", "least", "greatest", "unit", "ratio"
        );
        report.tell(&heading)?;
        Ok(report)
    }

    /// Rows belong to this table from now on.
    pub(crate) fn set_table(&mut self, table: Table) {
        self.table = table;
    }

    /// True when the output takes no more.
    pub(crate) fn is_shut(&self) -> bool {
        self.shut
    }

    /// A line of the table.
    fn tell(&mut self, line: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { self.put(line) }
    }

    fn put(&mut self, line: &str) -> io::Result<()> {
        let done = writeln!(self.out, "{}", line.trim_end()).and_then(|()| self.out.flush());
        self.shut |= done.is_err();
        done
    }

    /// Figures of several kinds, compared with the first of them.
    pub(crate) fn group(&mut self, group: &Group) -> io::Result<()> {
        let first = group.0.first();
        let reference = first.and_then(|(label, figure)| Some((*label, figure.median()?)));
        for (at, (_, figure)) in group.0.iter().enumerate() {
            self.row(figure, if at == 0 { None } else { reference })?;
        }
        self.tell("")
    }

    /// One figure, compared with a reference (its name, its value) if there is one.
    pub(crate) fn row(
        &mut self,
        figure: &Figure,
        reference: Option<(&str, f64)>,
    ) -> io::Result<()> {
        let Some(row) = make_row(self.table, figure, reference) else { return Ok(()) };
        let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let line = format!(
            "{:<46} {:>12} {:>12} {:>12}  {:<8} {ratio:>7}  {}",
            row.name,
            digits(row.value),
            digits(row.min),
            digits(row.max),
            row.unit,
            verdict(&row),
        );
        self.rows.push(row);
        self.tell(&line)
    }

    /// A measurement broke off.
    pub(crate) fn failed(&mut self, name: &str, error: &io::Error) {
        eprintln!("{name} broke off: {error}");
        self.broken.push(format!("{name}: {error}"));
    }

    /// Something that is not there was to be measured.
    pub(crate) fn skipped(&mut self, name: &str, why: &str) {
        eprintln!("SKIPPED: {name}: {why}");
        self.skipped.push(format!("{name}: {why}"));
    }

    /// True when every measurement that was begun has been finished.
    pub fn is_complete(&self) -> bool {
        self.broken.is_empty()
    }

    /// Ends the table, or writes the object.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if self.json {
            let text = serde_json::to_string(self)?;
            return self.put(&text);
        }
        if self.quick {
            self.tell("--quick: these figures say that it works, not how fast it is.")?;
        }
        let unmet = self.rows.iter().filter(|row| row.met == Some(false)).count();
        if unmet > 0 {
            self.tell(&format!("{unmet} goals not met"))?;
        }
        Ok(())
    }

    /// The rows of each table, in the order of their first.
    pub(crate) fn by_table(&self) -> Vec<(Table, Vec<&Row>)> {
        let mut tables: Vec<(Table, Vec<&Row>)> = Vec::new();
        for row in &self.rows {
            match tables.iter_mut().find(|(table, _)| *table == row.table) {
                Some((_, rows)) => rows.push(row),
                None => tables.push((row.table, vec![row])),
            }
        }
        tables
    }
}

/// None without values.
fn make_row(table: Table, figure: &Figure, reference: Option<(&str, f64)>) -> Option<Row> {
    let value = figure.median()?;
    let reference = reference.filter(|&(_, value)| value > 0.0);
    let ratio = reference.map(|(_, reference)| value / reference);
    let against = reference.map_or("its reference", |(name, _)| name);
    Some(Row {
        table,
        name: figure.name.clone(),
        value,
        min: quantile(&figure.values, 0.0),
        max: quantile(&figure.values, 1.0),
        unit: figure.unit,
        reference: reference.map(|(_, value)| value),
        ratio,
        goal: figure.goal.map(|goal| goal.text(figure.unit, against)),
        met: figure.goal.map(|goal| goal.is_met(value, ratio)),
    })
}

/// The goal and whether it is met; empty without one.
pub(crate) fn verdict(row: &Row) -> String {
    match (&row.goal, row.met) {
        (Some(goal), Some(true)) => format!("{goal}: met"),
        (Some(goal), _) => format!("{goal}: NOT MET"),
        (None, _) => String::new(),
    }
}

/// Four significant digits or so.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

    use std::sync::{Arc, Mutex};

    use super::*;

    const TABLE: Table = Table { file: "streams", title: "Streams" };

    /// An output that can be looked at afterwards.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn group(goal: Goal, plain: &[f64], direct: &[f64]) -> Group {
        let mut group = Group::new(&["plain", "direct"], "stream-64KiB", "MiB/s");
        group = group.goal("direct", goal);
        plain.iter().for_each(|&value| group.add(0, value));
        direct.iter().for_each(|&value| group.add(1, value));
        group
    }

    /// A report of one group, and what it wrote.
    pub(crate) fn report(
        json: bool,
        goal: Goal,
        plain: &[f64],
        direct: &[f64],
    ) -> (Report, String) {
        let sink = Sink::default();
        let options = Options { json, ..Options::default() };
        let mut report = Report::begin(&options, Box::new(sink.clone())).unwrap();
        report.set_table(TABLE);
        report.group(&group(goal, plain, direct)).unwrap();
        report.finish().unwrap();
        (report, sink.text())
    }

    #[test]
    fn a_quantile_lies_between_the_values_around_it() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(&[5.0], 0.99), 5.0);
        assert_eq!(quantile(&[2.0, 1.0], 0.0), 1.0);
        assert_eq!(quantile(&[2.0, 1.0], 1.0), 2.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_row_has_the_median_the_least_and_the_greatest_and_its_ratio_to_the_reference() {
        let goal = Goal::RatioAtLeast(0.97);
        let (report, _) = report(false, goal, &[90.0, 100.0, 300.0], &[110.0, 50.0, 700.0]);
        let [plain, direct] = &report.rows[..] else { panic!("{report:?}") };
        assert_eq!((plain.value, plain.min, plain.max), (100.0, 90.0, 300.0));
        assert_eq!((plain.reference, plain.ratio, plain.met), (None, None, None));
        assert_eq!((direct.value, direct.min, direct.max), (110.0, 50.0, 700.0));
        assert_eq!((direct.reference, direct.ratio), (Some(100.0), Some(1.1)));
        assert_eq!(direct.name, "stream-64KiB direct");
    }

    #[test]
    fn a_goal_is_met_up_to_its_edge_and_missed_beyond_it() {
        let met = |goal, plain: f64, direct: f64| {
            report(false, goal, &[plain], &[direct]).0.rows[1].met.unwrap()
        };
        assert!(met(Goal::RatioAtLeast(1.2), 10.0, 12.0));
        assert!(!met(Goal::RatioAtLeast(1.2), 10.0, 11.9));
        assert!(met(Goal::RatioAtMost(1.2), 10.0, 12.0));
        assert!(!met(Goal::RatioAtMost(1.2), 10.0, 12.1));
        assert!(met(Goal::AtLeast(5.0), 10.0, 5.0));
        assert!(!met(Goal::AtLeast(5.0), 10.0, 4.9));
        assert!(met(Goal::AtMost(5.0), 10.0, 5.0));
        assert!(!met(Goal::AtMost(5.0), 10.0, 5.1));
        // Without a reference a ratio is not met, whatever the value.
        assert!(!met(Goal::RatioAtLeast(0.1), 0.0, 12.0));
        assert!(!met(Goal::RatioAtMost(9.9), 0.0, 12.0));
    }

    #[test]
    fn a_figure_that_was_not_taken_has_no_row() {
        let (report, _) = report(false, Goal::AtMost(1.0), &[1.0], &[]);
        assert_eq!(report.rows.len(), 1);
    }

    #[test]
    fn the_table_says_which_goals_are_missed_and_against_what() {
        let (_, text) = report(false, Goal::RatioAtLeast(0.97), &[100.0], &[50.0]);
        assert!(text.contains(">= 0.97 x plain: NOT MET"), "{text}");
        assert!(text.ends_with("1 goals not met\n"), "{text}");
        let (_, text) = report(false, Goal::RatioAtMost(0.97), &[100.0], &[50.0]);
        assert!(text.contains("<= 0.97 x plain: met"), "{text}");
        assert!(!text.contains("not met"), "{text}");
    }

    #[test]
    fn the_json_is_one_object_with_the_machine_and_every_row() {
        let (_, text) = report(true, Goal::RatioAtLeast(0.97), &[100.0], &[50.0]);
        assert_eq!(text.lines().count(), 1, "{text}");
        let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(whole["machine"].as_str().unwrap().contains("Linux"), "{text}");
        assert_eq!(whole["quick"], false);
        let row = &whole["rows"][1];
        for key in ["name", "value", "unit", "reference", "ratio", "goal", "met", "min", "max"] {
            assert!(!row[key].is_null(), "{key}: {row}");
        }
        assert_eq!(row["ratio"], 0.5);
        assert_eq!(row["met"], false);
        assert_eq!(row["goal"], ">= 0.97 x plain");
        // What has no reference says so, by null.
        assert!(whole["rows"][0]["reference"].is_null());
        assert!(whole["rows"][0].as_object().unwrap().contains_key("ratio"));
    }

    #[test]
    fn an_output_that_takes_no_more_ends_the_run() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = Report::begin(&Options::default(), Box::new(Full)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
