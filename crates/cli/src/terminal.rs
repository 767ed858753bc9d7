//! Tables on a terminal that are kept up to date until somebody presses a key.

use std::io::{IsTerminal, stdin, stdout};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::widgets::Widget;

use crate::failure::Failure;

/// The size of a frame as text.
const TEXT_COLUMNS: u16 = 160;
const TEXT_ROWS_MAX: u16 = 1000;
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Shows what `next` gives, again and again, until q, Esc or Ctrl-C is pressed; another key looks
/// at once. `command` is what errors call it.
pub(crate) fn watch<F>(
    command: &str,
    interval: Duration,
    next: impl FnMut() -> Result<F, Failure>,
) -> Result<(), Failure>
where
    for<'a> &'a F: Widget,
{
    if !(stdin().is_terminal() && stdout().is_terminal()) {
        let text = format!("{command} needs a terminal; `{command} --once` does not");
        return Err(Failure::usage(text));
    }
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let watched = until_key(&mut terminal, interval, next);
    ratatui::restore();
    watched
}

fn failed(error: std::io::Error) -> Failure {
    Failure::new(format!("cannot use the terminal: {error}"))
}

fn until_key<F>(
    terminal: &mut DefaultTerminal,
    interval: Duration,
    mut next: impl FnMut() -> Result<F, Failure>,
) -> Result<(), Failure>
where
    for<'a> &'a F: Widget,
{
    loop {
        let frame = next()?;
        let until = Instant::now() + interval.max(INTERVAL_MIN);
        terminal.draw(|screen| screen.render_widget(&frame, screen.area())).map_err(failed)?;
        while event::poll(until.saturating_duration_since(Instant::now())).map_err(failed)? {
            match event::read().map_err(failed)? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                        KeyCode::Char('c') if control => return Ok(()),
                        _ => break,
                    }
                }
                Event::Resize(..) => break,
                _ => {}
            }
        }
    }
}

/// A frame of so many rows as text.
pub(crate) fn as_text(frame: impl Widget, rows: usize) -> String {
    let rows = u16::try_from(rows).unwrap_or(TEXT_ROWS_MAX);
    let area = Rect::new(0, 0, TEXT_COLUMNS, rows.min(TEXT_ROWS_MAX));
    let mut buffer = Buffer::empty(area);
    frame.render(area, &mut buffer);
    let mut text = String::new();
    for y in 0..area.height {
        let line: String = (0..area.width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
