//! `evs controller top`: a controller on a terminal, kept up to date.

use std::time::{Duration, Instant};

use clap::Args;
use eversock_controller::report::Report;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table, Widget};

use super::Which;
use super::ask::Asked;
use super::status::{PARTITION, PARTNER, partition_row, partner_row, summary};
use crate::failure::Failure;
use crate::{output, terminal, units};

/// Watch a controller: its links, its partitions, and what is going on.
#[derive(Debug, Args)]
pub(crate) struct Top {
    #[command(flatten)]
    which: Which,
    /// How often to look.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "1s")]
    interval: Duration,
    /// Print one frame as text and end.
    #[arg(long)]
    once: bool,
}

/// Summary, rates, two headings, two blank lines, and the line of keys.
const FIXED_ROWS: usize = 7;

impl Top {
    pub(super) fn run(self) -> Result<bool, Failure> {
        if self.which.json {
            return Err(Failure::usage("top shows no JSON; `evs controller status --json` does"));
        }
        let file = self.which.file()?;
        let asked = Asked::of(&file)?;
        if self.once {
            let frame = Frame::new(asked.status()?, None);
            let rows = FIXED_ROWS + frame.report.partners.len() + frame.report.partitions.len();
            return output::text(&terminal::as_text(&frame, rows)).map(|()| true);
        }
        let mut last: Option<Frame> = None;
        terminal::watch("evs controller top", self.interval, || {
            let frame = Frame::new(asked.status()?, last.as_ref());
            last = Some(frame.clone());
            Ok(frame)
        })?;
        Ok(true)
    }
}

/// A controller at one moment, with its speeds since the last one.
#[derive(Debug, Clone)]
struct Frame {
    at: Instant,
    report: Report,
    /// Per second, with what it is.
    rates: Vec<(&'static str, f64)>,
}

impl Frame {
    fn new(report: Report, last: Option<&Self>) -> Self {
        let at = Instant::now();
        let mut rates = Vec::new();
        if let Some(last) = last {
            let seconds = (at - last.at).as_secs_f64().max(1e-3);
            let figures = counted(&report).into_iter().zip(counted(&last.report));
            for ((name, now), (_, before)) in figures {
                rates.push((name, now.saturating_sub(before) as f64 / seconds));
            }
        }
        Self { at, report, rates }
    }

    fn rates(&self) -> String {
        if self.rates.is_empty() {
            return "rates are shown from the second look on".to_owned();
        }
        let each = self.rates.iter().map(|(name, rate)| format!("{rate:.0} {name}/s"));
        each.collect::<Vec<_>>().join(", ")
    }
}

/// What rates are made of.
fn counted(report: &Report) -> [(&'static str, u64); 5] {
    let counts = &report.counts;
    [
        ("registrations", report.partitions.iter().map(|one| one.registrations).sum()),
        ("requests", counts.requests_served + counts.requests_forwarded),
        ("hand-overs", counts.handed_over),
        ("changes out", counts.updates_sent),
        ("changes in", counts.updates_received),
    ]
}

fn cells(texts: Vec<String>, colored: usize, color: Color) -> Row<'static> {
    let cells = texts.into_iter().enumerate().map(|(nth, text)| {
        let style = if nth == colored { Style::new().fg(color) } else { Style::new() };
        Cell::from(text).style(style)
    });
    Row::new(cells.collect::<Vec<_>>())
}

impl Widget for &Frame {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        let parts = [
            Constraint::Length(2),
            Constraint::Length(count(self.report.partners.len()).saturating_add(2)),
            Constraint::Fill(1),
            Constraint::Length(1),
        ];
        let [head, partners, partitions, keys] = Layout::vertical(parts).areas(area);
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let reversed = Style::new().add_modifier(Modifier::REVERSED);
        let [first, second] =
            Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(head);
        Line::styled(summary(&self.report), bold).render(first, buffer);
        Line::from(self.rates()).render(second, buffer);

        let rows = self.report.partners.iter().map(|partner| {
            let color = match partner.state.as_str() {
                "up" if partner.is_cut => Color::Yellow,
                "up" => Color::Green,
                "version mismatch" | "not let in" => Color::Red,
                _ => Color::Yellow,
            };
            cells(partner_row(partner), 1, color)
        });
        let widths = [16, 16, 14, 11, 10, 10].map(Constraint::Length);
        let widths = widths.into_iter().chain([Constraint::Fill(1)]);
        let table = Table::new(rows, widths).header(Row::new(PARTNER).style(reversed));
        Widget::render(table, partners, buffer);

        let rows = self.report.partitions.iter().map(|partition| {
            let is_well = partition.error.is_empty();
            let in_sync = partition.sync.iter().all(|sync| sync.state == "in-sync");
            let color = match (is_well, in_sync) {
                (false, _) => Color::Red,
                (true, false) => Color::Yellow,
                (true, true) => Color::Green,
            };
            cells(partition_row(partition), PARTITION.len() - 1, color)
        });
        let widths = [16, 10, 11, 10, 10, 9, 11].map(Constraint::Length);
        let widths = widths.into_iter().chain([Constraint::Fill(1)]);
        let table = Table::new(rows, widths).header(Row::new(PARTITION).style(reversed));
        Widget::render(table, partitions, buffer);
        Line::styled("q quits", Style::new().fg(Color::DarkGray)).render(keys, buffer);
    }
}

#[cfg(test)]
mod tests {
    use eversock_controller::report::{PartitionReport, PartnerReport};

    use super::*;

    fn report(registrations: u64) -> Report {
        Report {
            controller: "north".to_owned(),
            partners: vec![PartnerReport {
                partner: "south".to_owned(),
                state: "down".to_owned(),
                error: "nobody listens".to_owned(),
                ..PartnerReport::default()
            }],
            partitions: vec![PartitionReport {
                name: "north".to_owned(),
                owned: 4711,
                registrations,
                ..PartitionReport::default()
            }],
            ..Report::default()
        }
    }

    #[test]
    fn a_frame_shows_partners_and_partitions() {
        let text = terminal::as_text(&Frame::new(report(0), None), FIXED_ROWS + 2);
        for word in ["north: up", "south", "down", "nobody listens", "4711", "q quits"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn rates_are_those_since_the_last_frame() {
        let mut first = Frame::new(report(0), None);
        first.at -= Duration::from_secs(2);
        let second = Frame::new(report(2000), Some(&first));
        let (name, rate) = second.rates[0];
        assert_eq!(name, "registrations");
        assert!((900.0..=1000.0).contains(&rate), "{rate}");
    }
}
