//! `evs top`: a table of the sessions that is kept up to date.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use clap::Args;
use eversock::State;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table, Widget};

use crate::control::{self, Entry};
use crate::failure::Failure;
use crate::units::{show_millis, show_size};
use crate::{ls, output, terminal, units};

/// Watch the sessions of your running programs.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// How often to look.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "1s")]
    interval: Duration,
    /// Print one frame as text and end.
    #[arg(long)]
    once: bool,
}

/// Heading, a line of sums, and the line of keys.
const FIXED_ROWS: usize = 3;

impl Top {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        if self.once {
            let frame = Frame::new(control::entries()?, None);
            return output::text(&frame.as_text()).map(|()| true);
        }
        let mut last: Option<Frame> = None;
        terminal::watch("top", self.interval, || {
            let frame = Frame::new(control::entries()?, last.as_ref());
            last = Some(frame.clone());
            Ok(frame)
        })?;
        Ok(true)
    }
}

/// The sessions at one moment, with their speeds since the last one.
#[derive(Debug, Clone)]
struct Frame {
    at: Instant,
    entries: Vec<Entry>,
    /// Bytes per second up and down, by the session's id.
    rates: HashMap<String, (f64, f64)>,
}

impl Frame {
    fn new(entries: Vec<Entry>, last: Option<&Self>) -> Self {
        let at = Instant::now();
        let mut rates = HashMap::new();
        if let Some(last) = last {
            let seconds = (at - last.at).as_secs_f64().max(1e-3);
            let before: HashMap<&str, &Entry> =
                last.entries.iter().map(|entry| (entry.id.as_str(), entry)).collect();
            for entry in &entries {
                let Some(before) = before.get(entry.id.as_str()) else { continue };
                let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
                let up = rate(entry.info.written, before.info.written);
                let down = rate(entry.info.received, before.info.received);
                rates.insert(entry.id.clone(), (up, down));
            }
        }
        Self { at, entries, rates }
    }

    fn sums(&self) -> String {
        let count = |state: State| self.entries.iter().filter(|e| e.info.state == state).count();
        let mut parts = vec![match self.entries.len() {
            1 => "1 session".to_owned(),
            n => format!("{n} sessions"),
        }];
        for (state, name) in [
            (State::Attached, "attached"),
            (State::Detached, "detached"),
            (State::Asking, "asking"),
            (State::Failed, "failed"),
        ] {
            match count(state) {
                0 => {}
                n => parts.push(format!("{n} {name}")),
            }
        }
        parts.join(", ")
    }

    fn row(&self, entry: &Entry) -> Row<'static> {
        let info = &entry.info;
        let rate = |pick: fn(&(f64, f64)) -> f64| {
            let rate = self.rates.get(&entry.id).map(pick);
            rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", show_size(rate as u64)))
        };
        let color = match info.state {
            State::Attached => Color::Green,
            State::Detached | State::Connecting | State::Asking => Color::Yellow,
            State::Failed => Color::Red,
            _ => Color::Reset,
        };
        let note = match (info.detached_ms, info.next_try_ms) {
            (Some(lost), Some(next)) => {
                format!("lost for {}, next try in {}", show_millis(lost), show_millis(next))
            }
            (Some(lost), None) => format!("lost for {}", show_millis(lost)),
            _ => info.last_error.clone().unwrap_or_default(),
        };
        Row::new(vec![
            Cell::from(entry.id.clone()),
            Cell::from(ls::short(&info.session).to_owned()),
            Cell::from(entry.program.clone()),
            Cell::from(info.role.clone()),
            Cell::from(entry.state()).style(Style::new().fg(color)),
            Cell::from(rate(|rate| rate.0)),
            Cell::from(rate(|rate| rate.1)),
            Cell::from(show_size(info.log_used)),
            Cell::from(info.resumes.to_string()),
            Cell::from(note),
        ])
    }

    fn as_text(&self) -> String {
        terminal::as_text(self, self.entries.len() + FIXED_ROWS)
    }
}

const HEADINGS: [&str; 10] =
    ["ID", "SESSION", "PROGRAM", "ROLE", "STATE", "OUT", "IN", "LOG", "RESUMES", "NOTE"];

const WIDTHS: [Constraint; 10] = [
    Constraint::Length(10),
    Constraint::Length(12),
    Constraint::Length(10),
    Constraint::Length(6),
    Constraint::Length(10),
    Constraint::Length(12),
    Constraint::Length(12),
    Constraint::Length(10),
    Constraint::Length(7),
    Constraint::Fill(1),
];

impl Widget for &Frame {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let parts = [Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)];
        let [sums, table, keys] = Layout::vertical(parts).areas(area);
        Line::styled(self.sums(), Style::new().add_modifier(Modifier::BOLD)).render(sums, buffer);
        let heading = Row::new(HEADINGS).style(Style::new().add_modifier(Modifier::REVERSED));
        let rows = self.entries.iter().map(|entry| self.row(entry));
        Widget::render(Table::new(rows, WIDTHS).header(heading), table, buffer);
        Line::styled("q quits", Style::new().fg(Color::DarkGray)).render(keys, buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(written: u64) -> Entry {
        let info = serde_json::json!({
            "local_id": 7, "session": "00112233445566778899aabbccddeeff", "role": "client",
            "state": "detached", "mode": "direct", "epoch": 2, "local": null, "peer": null,
            "written": written, "acked": 0, "received": 0, "consumed": 0, "log_used": 2048,
            "window": 0, "resumes": 3, "replayed": 0, "last_error": "connection reset",
            "next_try_ms": 250, "detached_ms": 1500,
        });
        Entry {
            id: "12:7".to_owned(),
            pid: 12,
            program: "demo".to_owned(),
            info: serde_json::from_value(info).expect("the object is a session"),
        }
    }

    #[test]
    fn a_frame_shows_each_session() {
        let text = Frame::new(vec![entry(0)], None).as_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[0], "1 session, 1 detached");
        for word in ["12:7", "001122334455", "client", "detached", "2.0 KiB", "next try in 250 ms"]
        {
            assert!(lines[2].contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn speeds_are_those_since_the_last_frame() {
        let mut first = Frame::new(vec![entry(0)], None);
        first.at -= Duration::from_secs(2);
        let second = Frame::new(vec![entry(2_000_000)], Some(&first));
        let (up, down) = second.rates["12:7"];
        assert!((900_000.0..=1_000_000.0).contains(&up), "{up}");
        assert!(down.abs() < 1.0, "{down}");
    }
}
