//! Waits for hand-overs, and shows how far they are.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use eversock_controller::report::PartitionReport;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::ask::Asked;
use crate::failure::Failure;
use crate::units::show_millis;

/// How often the controller is asked.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks at a partition that has no devices and hands none over, until it is taken for done: the
/// word that a batch has ended may be lost.
const EMPTY_LOOKS: u32 = 20;
/// Looks at one that has devices and hands none over, until no more is expected of it.
const IDLE_LOOKS: u32 = 600;

/// Hand-overs that were just ordered.
#[derive(Debug)]
pub(super) struct Watch {
    /// Of each partition that has devices to give: the batches that had ended before.
    before: BTreeMap<String, u64>,
    /// Devices that these partitions had.
    owned: u64,
    began: Instant,
}

/// What came of them.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Came {
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    /// Why batches ended early.
    pub(super) stopped: Vec<String>,
    pub(super) ms: u64,
}

impl Came {
    /// Whether no device has stayed behind.
    pub(super) fn is_well(&self) -> bool {
        self.failed == 0 && self.skipped == 0 && self.stopped.is_empty()
    }
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, failed, skipped, stopped, ms } = self;
        write!(f, "{done} devices went in {}", show_millis(*ms))?;
        if *failed > 0 {
            write!(f, ", {failed} did not")?;
        }
        if *skipped > 0 {
            write!(f, ", {skipped} were busy")?;
        }
        if !stopped.is_empty() {
            write!(f, "; stopped: {}", stopped.join("; "))?;
        }
        Ok(())
    }
}

/// How often in a row a partition was seen that works, and hands nothing over.
fn looks_of(idle: &mut BTreeMap<String, (u64, u32)>, partition: &PartitionReport) -> u32 {
    let (owned, looks) = idle.entry(partition.name.clone()).or_default();
    let is_idle = partition.error.is_empty() && partition.hand_overs == 0;
    *looks = if is_idle && *owned == partition.owned { *looks + 1 } else { 0 };
    *owned = partition.owned;
    *looks
}

impl Watch {
    /// Before the order is given: partitions that it is about.
    pub(super) fn begin(
        asked: &Asked<'_>,
        is_meant: impl Fn(&str) -> bool,
    ) -> Result<Self, Failure> {
        let batches = asked.hand_overs()?;
        let number = |name: &str| {
            batches.iter().find(|batch| batch.partition == name).map_or(0, |batch| batch.number)
        };
        let (mut before, mut owned) = (BTreeMap::new(), 0);
        for partition in asked.status()?.partitions {
            if is_meant(&partition.name) && partition.owned > 0 {
                owned += partition.owned;
                before.insert(partition.name.clone(), number(&partition.name));
            }
        }
        Ok(Self { before, owned, began: Instant::now() })
    }

    /// Waits until a batch of each has ended.
    pub(super) fn wait(
        self,
        asked: &Asked<'_>,
        timeout: Option<Duration>,
    ) -> Result<Came, Failure> {
        let bar = bar(self.owned);
        let mut came = Came::default();
        let mut open = self.before;
        let (mut up_ms, mut idle) = (0, BTreeMap::new());
        while !open.is_empty() {
            let status = asked.status()?;
            if status.up_ms < up_ms {
                bar.finish_and_clear();
                let text = "the controller has been started anew, and has forgotten what it was \
                            told to hand over; look with `evs controller status`";
                return Err(Failure::new(text));
            }
            up_ms = status.up_ms;
            let left: u64 = status
                .partitions
                .iter()
                .filter(|one| open.contains_key(&one.name))
                .map(|one| one.owned)
                .sum();
            bar.set_position(self.owned.saturating_sub(left));
            for batch in asked.hand_overs()? {
                if open.get(&batch.partition).is_some_and(|before| batch.number > *before) {
                    open.remove(&batch.partition);
                    came.done += batch.done;
                    came.failed += batch.failed;
                    came.skipped += batch.skipped;
                    if !batch.stopped.is_empty() {
                        came.stopped.push(format!("{}: {}", batch.partition, batch.stopped));
                    }
                }
            }
            for partition in &status.partitions {
                let looks = looks_of(&mut idle, partition);
                if !open.contains_key(&partition.name) || looks < EMPTY_LOOKS {
                    continue;
                }
                if partition.owned == 0 {
                    open.remove(&partition.name);
                } else if looks >= IDLE_LOOKS {
                    bar.finish_and_clear();
                    return Err(Failure::new(format!(
                        "{}: nothing is handed over any more, and {} devices are still here; look \
                         with `evs controller status`",
                        partition.name, partition.owned
                    )));
                }
            }
            if !open.is_empty() && timeout.is_some_and(|most| self.began.elapsed() >= most) {
                bar.finish_and_clear();
                let names: Vec<String> = open.into_keys().collect();
                return Err(Failure::new(format!(
                    "not all went in time, it goes on: {}; look with `evs controller status`",
                    names.join(", ")
                )));
            }
            if !open.is_empty() {
                thread::sleep(LOOK_EVERY);
            }
        }
        bar.finish_and_clear();
        came.ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(came)
    }
}

/// On a terminal; elsewhere it is hidden.
fn bar(all: u64) -> ProgressBar {
    let template = "  {bar:28.cyan/blue} {pos}/{len} devices, {per_sec}";
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("##-");
    ProgressBar::new(all).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wait whose end was missed is over once nothing happens any more.
    #[test]
    fn looks_count_while_nothing_is_handed_over() {
        let mut idle = BTreeMap::new();
        let mut of = |owned, hand_overs, error: &str| {
            let (name, error) = ("north".to_owned(), error.to_owned());
            looks_of(
                &mut idle,
                &PartitionReport { name, error, owned, hand_overs, ..Default::default() },
            )
        };
        assert_eq!([of(3, 1, ""), of(3, 0, ""), of(3, 0, "")], [0, 1, 2]);
        assert_eq!([of(2, 0, ""), of(2, 0, ""), of(2, 1, "")], [0, 1, 0]);
        assert_eq!([of(0, 0, ""), of(0, 0, ""), of(0, 0, "it is down")], [0, 1, 0]);
    }
}
