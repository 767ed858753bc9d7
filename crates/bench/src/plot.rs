//! A table as a picture: one bar for each row, as SVG.

use std::io;

use plotters::prelude::*;

use crate::report::{Row, digits};

const WIDTH: u32 = 960;
const BAR: u32 = 22;
/// Room for the names on the left.
const NAMES: u32 = 370;
/// Above and below the bars.
const MARGIN: u32 = 70;

/// A bar: a label, where it ends, and whether its goal is met.
struct Bar<'a> {
    name: &'a str,
    value: f64,
    text: String,
    met: Option<bool>,
}

/// Ratios if there are any, for they compare; else what was measured, if that has one unit.
fn bars<'a>(rows: &[&'a Row]) -> (Vec<Bar<'a>>, String) {
    let ratios: Vec<Bar<'_>> = rows
        .iter()
        .filter_map(|row| {
            let value = row.ratio.filter(|ratio| ratio.is_finite() && *ratio > 0.0)?;
            let text = format!("{value:.2} ({} {})", digits(row.value), row.unit);
            Some(Bar { name: &row.name, value, text, met: row.met })
        })
        .collect();
    if !ratios.is_empty() {
        return (ratios, "ratio to the reference".to_owned());
    }
    let unit = rows.first().map_or("", |row| row.unit);
    let values = rows.iter().filter(|row| row.unit == unit && row.value > 0.0);
    let bar = |row: &&'a Row| Bar {
        name: &row.name,
        value: row.value,
        text: digits(row.value),
        met: row.met,
    };
    (values.map(bar).collect(), unit.to_owned())
}

/// True when there is something to draw.
pub(crate) fn has_bars(rows: &[&Row]) -> bool {
    !bars(rows).0.is_empty()
}

/// The picture; none without anything to draw.
pub(crate) fn svg(title: &str, rows: &[&Row]) -> io::Result<Option<String>> {
    let (bars, axis) = bars(rows);
    if bars.is_empty() {
        return Ok(None);
    }
    let mut text = String::new();
    draw(&mut text, title, &axis, &bars).map_err(|error| io::Error::other(error.to_string()))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(Some(text))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// On a logarithmic axis: twice and half of the reference are equally far from it.
fn draw(text: &mut String, title: &str, axis: &str, bars: &[Bar<'_>]) -> Drawn {
    let height = MARGIN + BAR * u32::try_from(bars.len())?;
    let area = SVGBackend::with_string(text, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    area.draw(&Text::new(title.to_owned(), (10, 10), ("sans-serif", 22).into_font()))?;
    let logs = bars.iter().map(|bar| bar.value.log10());
    let (low, high) =
        logs.fold((0.0_f64, 0.0_f64), |(low, high), log| (low.min(log), high.max(log)));
    // The text behind the longest bar has room too.
    let span = (high - low).max(0.3);
    let width = f64::from(WIDTH - NAMES - 190);
    let x = |log: f64| NAMES as i32 + ((log - low) / span * width) as i32;
    let small = || ("sans-serif", 17).into_font();
    for (at, bar) in bars.iter().enumerate() {
        let top = 40 + i32::try_from(at)? * BAR as i32;
        let color = match bar.met {
            Some(true) => RGBColor(46, 125, 50),
            Some(false) => RGBColor(198, 40, 40),
            None => RGBColor(96, 125, 139),
        };
        let (from, to) = (x(0.0), x(bar.value.log10()));
        let (left, right) = (from.min(to), from.max(to).max(from.min(to) + 1));
        area.draw(&Rectangle::new([(left, top), (right, top + 15)], color.filled()))?;
        area.draw(&Text::new(bar.name.to_owned(), (10, top + 1), small()))?;
        area.draw(&Text::new(bar.text.clone(), (right + 6, top + 1), small()))?;
    }
    // Where a ratio is 1: the reference itself.
    let bottom = i32::try_from(height)? - 26;
    area.draw(&PathElement::new(vec![(x(0.0), 36), (x(0.0), bottom)], BLACK))?;
    let legend =
        format!("{axis}; logarithmic from 1 (green: goal met, red: missed, grey: no goal)");
    area.draw(&Text::new(legend, (10, bottom + 4), small()))?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

    use super::*;
    use crate::report::{Goal, tests::report};

    #[test]
    fn a_plot_has_a_bar_for_each_ratio_with_its_name_and_is_red_where_the_goal_is_missed() {
        let (report, _) = report(true, Goal::RatioAtLeast(0.97), &[100.0], &[50.0]);
        let rows: Vec<&Row> = report.rows.iter().collect();
        let plot = svg("Streams", &rows).unwrap().unwrap();
        assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n"), "{plot}");
        assert!(plot.contains("stream-64KiB direct") && plot.contains("0.50 (50.0 MiB/s)"));
        assert!(plot.contains("#C62828") && !plot.contains("#2E7D32"), "{plot}");
        // The reference itself is the line.
        assert!(!plot.contains("stream-64KiB plain"), "{plot}");
    }

    #[test]
    fn without_ratios_the_values_of_the_first_unit_are_drawn() {
        let (report, _) = report(true, Goal::AtMost(1.0), &[4.0], &[]);
        let rows: Vec<&Row> = report.rows.iter().collect();
        assert!(svg("Streams", &rows).unwrap().unwrap().contains("stream-64KiB plain"));
        assert!(svg("Nothing", &[]).unwrap().is_none());
    }
}
