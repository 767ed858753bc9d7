//! `docs/BENCHMARKS.md`, from a report.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::measures::PROMISES;
use crate::plot;
use crate::report::{Report, Row, digits, verdict};

/// Why goals are missed: written by hand, from profiles.
const MISSED: &str = concat!(
    "\n## What stands in the way of the goals that are missed\n\n",
    include_str!("missed.md")
);

/// The whole page.
pub(crate) fn page(report: &Report, command: &str) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    page_of(report, command, &date(seconds))
}

fn page_of(report: &Report, command: &str, date: &str) -> String {
    let mut page = String::from(
        "# Benchmarks\n\nWritten by `evs bench`; do not edit. Every figure was taken in turns with \
         its reference in the\nsame run, after a warm-up, between two processes of one machine: \
         the median, the least and the\ngreatest of the turns. A goal that is missed says so.\n\n",
    );
    let version = env!("CARGO_PKG_VERSION");
    for (what, is) in [
        ("machine", report.machine.as_str()),
        ("date", date),
        ("version", &format!("eversock {version}")),
        ("command", &format!("`{command}`")),
    ] {
        let _ = writeln!(page, "- {what}: {is}");
    }
    if report.quick {
        page.push_str("\n**A quick run: these figures say that it works, not how fast it is.**\n");
    }
    page.push_str(&goals(report));
    for (table, rows) in report.by_table() {
        let _ = write!(page, "\n## {}\n\n", table.title);
        if plot::has_bars(&rows) {
            let _ = write!(page, "![{}](bench/{}.svg)\n\n", table.title, table.file);
        }
        page.push_str("| figure | median | least | greatest | unit | ratio | goal |\n");
        page.push_str("|---|---|---|---|---|---|---|\n");
        for row in rows {
            page.push_str(&line(row));
        }
    }
    page.push_str(MISSED);
    for (title, reasons) in [("Not measured", &report.skipped), ("Broke off", &report.broken)] {
        if !reasons.is_empty() {
            let _ = write!(page, "\n## {title}\n\n");
            reasons.iter().for_each(|reason| {
                let _ = writeln!(page, "- {}", one_line(reason));
            });
        }
    }
    page
}

fn line(row: &Row) -> String {
    let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    format!(
        "| {} | {} | {} | {} | {} | {ratio} | {} |\n",
        row.name,
        digits(row.value),
        digits(row.min),
        digits(row.max),
        row.unit,
        verdict(row),
    )
}

/// What is promised, each with the figure beside it.
fn goals(report: &Report) -> String {
    let mut text = String::from("\n## Goals\n\n| goal | measured | |\n|---|---|---|\n");
    for (promise, names) in PROMISES {
        let found = names.iter().map(|name| (*name, find(report, name)));
        let mut measured = Vec::new();
        let (mut missed, mut missing) = (false, false);
        for (name, row) in found {
            let Some(row) = row else {
                measured.push(format!("{name}: not measured"));
                missing = true;
                continue;
            };
            let value = format!("{} {}", digits(row.value), row.unit);
            let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} x, "));
            measured.push(format!("{}: {ratio}{value}", row.name));
            missed |= row.met == Some(false);
            missing |= row.met.is_none();
        }
        let said = match (missed, missing) {
            (true, _) => "NOT MET",
            (false, true) => "not measured",
            (false, false) => "met",
        };
        let _ = writeln!(text, "| {promise} | {} | {said} |", measured.join("<br>"));
    }
    text
}

/// The row of this name, whatever else the row's says in brackets.
fn find<'a>(report: &'a Report, name: &str) -> Option<&'a Row> {
    report.rows.iter().find(|row| bare(&row.name) == name)
}

fn bare(name: &str) -> String {
    match (name.find(" ("), name.find(')')) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &name[..from], &name[to + 1..]),
        _ => name.to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Of the days since 1970, in the Gregorian calendar (after Howard Hinnant's `civil_from_days`).
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here, so that the leap day is the last.
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Goal, tests::report};

    #[test]
    fn a_date_is_that_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_795_219_199), "2026-11-20");
        assert_eq!(date(1_795_219_200), "2026-11-21");
    }

    #[test]
    fn the_page_has_the_machine_the_date_the_command_and_every_row() {
        let (report, _) = report(true, Goal::RatioAtLeast(0.97), &[100.0], &[50.0]);
        let page = page_of(&report, "evs bench --quick", "2026-11-21");
        for part in [
            "- date: 2026-11-21\n",
            "- command: `evs bench --quick`\n",
            "Linux",
            concat!("- version: eversock ", env!("CARGO_PKG_VERSION"), "\n"),
            "![Streams](bench/streams.svg)\n",
            "| stream-64KiB plain | 100 | 100 | 100 | MiB/s |  |  |\n",
            "| stream-64KiB direct | 50.0 | 50.0 | 50.0 | MiB/s | 0.50 | ",
            " | >= 0.97 x plain: NOT MET |\n",
        ] {
            assert!(page.contains(part), "{part}\nis not in\n{page}");
        }
        assert!(!page.lines().any(|line| line.ends_with(' ')), "{page}");
    }

    #[test]
    fn each_goal_has_its_figure_beside_it_and_a_missed_or_missing_one_is_not_met() {
        let goals = |direct: f64| {
            let (report, _) = report(true, Goal::RatioAtLeast(0.97), &[100.0], &[direct]);
            let page = page_of(&report, "evs bench", "2026-11-21");
            let line = page.lines().find(|line| line.starts_with("| stream, 16 KiB"));
            line.unwrap_or_default().to_owned()
        };
        let missed = goals(50.0);
        assert!(missed.contains("stream-64KiB direct: 0.50 x, 50.0 MiB/s"), "{missed}");
        assert!(missed.ends_with("| NOT MET |"), "{missed}");
        // The other sizes were not measured, so the goal is not met by one of them.
        let partly = goals(100.0);
        assert!(partly.contains("stream-1MiB direct: not measured"), "{partly}");
        assert!(partly.ends_with("| not measured |"), "{partly}");
    }

    #[test]
    fn a_row_is_found_by_its_name_and_by_no_longer_one() {
        let (mut report, _) = report(true, Goal::AtMost(1.0), &[1.0], &[2.0]);
        assert!(find(&report, "stream-64KiB direct").is_some());
        assert!(find(&report, "stream-64KiB dir").is_none());
        report.rows[1].name.push_str(" (1000 resets)");
        assert!(find(&report, "stream-64KiB direct").is_some());
        report.rows[1].name = "stream-64KiB (3 pairs) direct".to_owned();
        assert!(find(&report, "stream-64KiB direct").is_some());
    }

    #[test]
    fn the_page_in_the_documents_says_of_missed_goals_what_the_next_would() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/BENCHMARKS.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page.contains(MISSED), "missed.md and docs/BENCHMARKS.md differ");
    }

    #[test]
    fn what_was_not_measured_is_said_with_the_reason() {
        let (mut report, _) = report(true, Goal::AtMost(1.0), &[1.0], &[2.0]);
        report.skipped("relay-stream", "socat is\nnot installed");
        let page = page_of(&report, "evs bench", "2026-11-21");
        assert!(page.ends_with("## Not measured\n\n- relay-stream: socat is not installed\n"));
    }
}
