//! Figures: collected by turn, printed as a table or as JSON.

use crate::socket::Kind;
use crate::usage;

/// What a figure is to be held against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// At least so many times plain TCP.
    RatioAtLeast(f64),
    /// At most so many times plain TCP.
    RatioAtMost(f64),
    /// At most so much, in the row's unit.
    AtMost(f64),
}

impl Goal {
    fn is_met(self, value: f64, ratio: Option<f64>) -> bool {
        match self {
            Self::RatioAtLeast(least) => ratio.is_some_and(|ratio| ratio >= least),
            Self::RatioAtMost(most) => ratio.is_some_and(|ratio| ratio <= most),
            Self::AtMost(most) => value <= most,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::RatioAtLeast(least) => format!(">= {least} x plain"),
            Self::RatioAtMost(most) => format!("<= {most} x plain"),
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

/// Everything measured so far.
#[derive(Debug)]
pub(crate) struct Rows {
    is_json: bool,
    json: Vec<String>,
    unmet: usize,
    failed: usize,
}

impl Rows {
    pub(crate) fn new(is_json: bool) -> Self {
        if !is_json {
            println!("{}", usage::machine());
            println!(
                "{:<46} {:>12} {:>12} {:>12}  {:<8} {:>7}  goal",
                "median of the turns", "median", "least", "greatest", "unit", "/ plain"
            );
        }
        Self { is_json, json: Vec::new(), unmet: 0, failed: 0 }
    }

    /// A group of figures, one for each kind; the plain one is what the others are compared with.
    pub(crate) fn group(&mut self, figures: Vec<(Kind, Figure)>) {
        self.group_of(figures.into_iter().map(|(kind, figure)| (kind.name(), figure)).collect());
    }

    /// The same for figures that have other labels; the first is the reference.
    pub(crate) fn group_of(&mut self, figures: Vec<(&'static str, Figure)>) {
        let reference = figures.first().map(|(_, figure)| quantile(&figure.values, 0.5));
        for (at, (label, figure)) in figures.iter().enumerate() {
            let reference = if at == 0 { None } else { reference };
            self.row(&format!("{} {label}", figure.name), figure, reference);
        }
        if !self.is_json {
            println!();
        }
    }

    /// One figure, compared with `reference` if there is one.
    pub(crate) fn row(&mut self, name: &str, figure: &Figure, reference: Option<f64>) {
        if figure.values.is_empty() {
            return;
        }
        let value = quantile(&figure.values, 0.5);
        let (least, most) = (quantile(&figure.values, 0.0), quantile(&figure.values, 1.0));
        let reference = reference.filter(|&reference| reference > 0.0);
        let ratio = reference.map(|reference| value / reference);
        let met = figure.goal.map(|goal| goal.is_met(value, ratio));
        self.unmet += usize::from(met == Some(false));
        if self.is_json {
            let number =
                |value: Option<f64>| value.map_or_else(|| "null".to_owned(), |v| format!("{v:.4}"));
            self.json.push(format!(
                "{{\"name\":\"{name}\",\"value\":{value:.4},\"min\":{least:.4},\"max\":{most:.4},\
                 \"unit\":\"{}\",\"reference\":{},\"ratio\":{},\"goal\":{},\"met\":{}}}",
                figure.unit,
                number(reference),
                number(ratio),
                figure
                    .goal
                    .map_or_else(|| "null".to_owned(), |g| format!("\"{}\"", g.text(figure.unit))),
                met.map_or_else(|| "null".to_owned(), |met| met.to_string()),
            ));
            return;
        }
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let goal = match (figure.goal, met) {
            (Some(goal), Some(true)) => format!("{}: met", goal.text(figure.unit)),
            (Some(goal), _) => format!("{}: NOT MET", goal.text(figure.unit)),
            (None, _) => String::new(),
        };
        let line = format!(
            "{name:<46} {:>12} {:>12} {:>12}  {:<8} {ratio:>7}  {goal}",
            digits(value),
            digits(least),
            digits(most),
            figure.unit
        );
        println!("{}", line.trim_end());
    }

    /// A measurement broke off.
    pub(crate) fn failed(&mut self, name: &str, error: &std::io::Error) {
        self.failed += 1;
        eprintln!("{name} broke off: {error}");
    }

    /// True when every measurement that was begun has been finished.
    pub(crate) fn is_complete(&self) -> bool {
        self.failed == 0
    }

    /// Ends the table, or prints the object.
    pub(crate) fn finish(&self, is_quick: bool) {
        if self.is_json {
            let machine = usage::machine().replace(['"', '\\'], "'");
            let rows = self.json.join(",\n");
            println!("{{\"machine\":\"{machine}\",\"quick\":{is_quick},\"rows\":[\n{rows}\n]}}");
            return;
        }
        if is_quick {
            println!("--quick: these figures say that it works, not how fast it is.");
        }
        if self.unmet > 0 {
            println!("{} goals not met", self.unmet);
        }
    }
}

/// Four significant digits or so.
fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
