//! What the demo shows while it runs: bars on a terminal, lines elsewhere, nothing with `--json`.

use std::io::{IsTerminal, stderr};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::ends::Side;

/// Where progress is shown. All of it goes to standard error.
#[derive(Debug)]
pub(crate) enum Screen {
    Silent,
    Lines,
    Bars(MultiProgress),
}

impl Screen {
    pub(crate) fn new(silent: bool) -> Self {
        if silent {
            Self::Silent
        } else if stderr().is_terminal() {
            Self::Bars(MultiProgress::new())
        } else {
            Self::Lines
        }
    }

    /// Shows a line that stays.
    pub(crate) fn line(&self, text: &str) {
        match self {
            Self::Silent => {}
            Self::Lines => eprintln!("{text}"),
            // A terminal that is gone is no reason to stop.
            Self::Bars(bars) => drop(bars.println(text)),
        }
    }

    /// Bars for a transfer of so many bytes each way.
    pub(crate) fn bars(&self, size: u64) -> Bars {
        let Self::Bars(all) = self else { return Bars { bars: Vec::new(), all: None } };
        let template = "  {prefix:<18} {bar:28.cyan/blue} {bytes:>11} {binary_bytes_per_sec:>12}";
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("##-");
        let bars = [(Side::Receiver, "sender -> receiver"), (Side::Sender, "receiver -> sender")]
            .map(|(side, name)| {
                let bar = all.add(ProgressBar::new(size));
                bar.set_style(style.clone());
                bar.set_prefix(name);
                (side, bar)
            });
        Bars { bars: bars.to_vec(), all: Some(all.clone()) }
    }
}

/// The bars of one transfer; they vanish with it.
#[derive(Debug)]
pub(crate) struct Bars {
    /// Each with the side that receives.
    bars: Vec<(Side, ProgressBar)>,
    all: Option<MultiProgress>,
}

impl Bars {
    /// `side` has received so much.
    pub(crate) fn set(&self, side: Side, received: u64) {
        for (_, bar) in self.bars.iter().filter(|(own, _)| *own == side) {
            bar.set_position(received);
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for (_, bar) in &self.bars {
            bar.finish_and_clear();
            if let Some(all) = &self.all {
                all.remove(bar);
            }
        }
    }
}
