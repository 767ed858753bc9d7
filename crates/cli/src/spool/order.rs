//! What an operator tells a pair to do.

use clap::Args;
use eversock_spool::config::{FrontFile, PairFile};
use eversock_spool::store::{Batch, Finish, StoreError};
use serde_json::json;

use super::ask::{Asked, LSNS_MAX, Order};
use super::{Which, list, pair};
use crate::failure::Failure;
use crate::output;

/// Stop drains: everything is spooled from now on, until `release`. Holds across restarts.
#[derive(Debug, Args)]
pub(crate) struct Hold {
    #[command(flatten)]
    which: Which,
    /// Which pair.
    pair: String,
}

/// Let a pair go on that was told to hold, or that stands still since another front has served it
/// (stop that one first).
#[derive(Debug, Args)]
pub(crate) struct Release {
    #[command(flatten)]
    which: Which,
    /// Which pair.
    pair: String,
}

/// Let the other server take over: the main finishes what it does first.
#[derive(Debug, Args)]
pub(crate) struct Switch {
    #[command(flatten)]
    which: Which,
    /// Which pair.
    pair: String,
    /// Do not ask the main, which is believed dead.
    #[arg(long)]
    now: bool,
}

/// Look at the main at once, which is believed dead; the other takes over if it is.
#[derive(Debug, Args)]
pub(crate) struct Suspect {
    #[command(flatten)]
    which: Which,
    /// Which pair.
    pair: String,
}

/// Send records again of which nobody knows whether they took effect, and that are held for that.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    which: Which,
    /// Which pair.
    pair: String,
    /// Places of the records, as `ls` shows them.
    #[arg(required = true, value_name = "LSN")]
    lsns: Vec<u64>,
}

/// Give records up for good: they are not sent any more, although their senders were told that they
/// would be.
#[derive(Debug, Args)]
pub(crate) struct Purge {
    #[command(flatten)]
    which: Which,
    /// Which pair.
    pair: String,
    /// Places of the records, as `ls` shows them.
    #[arg(required_unless_present = "quarantined", value_name = "LSN")]
    lsns: Vec<u64>,
    /// All that were set aside: damaged, or refused by the backend.
    #[arg(long, requires = "yes", conflicts_with = "lsns")]
    quarantined: bool,
    /// With --quarantined: yes, all of them.
    #[arg(long)]
    yes: bool,
}

impl Hold {
    pub(super) fn run(self) -> Result<bool, Failure> {
        one(&self.which, &self.pair, Order::Hold)
    }
}

impl Release {
    pub(super) fn run(self) -> Result<bool, Failure> {
        one(&self.which, &self.pair, Order::Release)
    }
}

impl Switch {
    pub(super) fn run(self) -> Result<bool, Failure> {
        one(&self.which, &self.pair, if self.now { Order::SwitchNow } else { Order::Switch })
    }
}

impl Suspect {
    pub(super) fn run(self) -> Result<bool, Failure> {
        one(&self.which, &self.pair, Order::Suspect)
    }
}

impl Retry {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        let pair = pair(&file, &self.pair)?;
        many(&self.which, &file, pair, &self.lsns, Order::Retry)
    }
}

impl Purge {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        let pair = pair(&file, &self.pair)?;
        let lsns = if self.quarantined { set_aside(&file, pair)? } else { self.lsns };
        many(&self.which, &file, pair, &lsns, Order::Purge)
    }
}

/// Places of records that were set aside.
fn set_aside(file: &FrontFile, pair: &PairFile) -> Result<Vec<u64>, Failure> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let rows = list::records(file, pair, after, LSNS_MAX)?;
        let Some(last) = rows.last() else { return Ok(all) };
        after = last.lsn;
        all.extend(rows.iter().filter(|row| row.state == "quarantined").map(|row| row.lsn));
    }
}

fn one(which: &Which, name: &str, order: Order) -> Result<bool, Failure> {
    let file = which.file()?;
    let pair = pair(&file, name)?;
    let said = give(&file, pair, order)?;
    say(which, pair, &said)
}

fn many(
    which: &Which,
    file: &FrontFile,
    pair: &PairFile,
    lsns: &[u64],
    order: fn(Vec<u64>) -> Order,
) -> Result<bool, Failure> {
    let mut said = "there is none: nothing is done".to_owned();
    for some in lsns.chunks(LSNS_MAX) {
        said = give(file, pair, order(some.to_vec()))?;
    }
    if lsns.len() > LSNS_MAX {
        said = format!("{} records, in portions; of the last: {said}", lsns.len());
    }
    say(which, pair, &said)
}

fn say(which: &Which, pair: &PairFile, said: &str) -> Result<bool, Failure> {
    if which.json {
        output::json_line(&json!({ "pair": pair.name, "done": said }))?;
    } else {
        output::text(&format!("{}: {said}\n", pair.name))?;
    }
    Ok(true)
}

/// Through the front if one runs, else in the spool itself.
pub(super) fn give(file: &FrontFile, pair: &PairFile, order: Order) -> Result<String, Failure> {
    if let Some(asked) = Asked::find(&file.control)? {
        return asked.order(&pair.name, order);
    }
    let unspooled = file.spool_file(pair).is_some_and(|path| !path.exists());
    if unspooled {
        return Err(Failure::new(format!(
            "{}: no front runs, and it has no spool yet; start it with `evs spool run`",
            pair.name
        )));
    }
    let (batch, said) = match order {
        Order::Hold => (on_hold(file, pair, true)?, "it holds when its front is started"),
        Order::Release => (on_hold(file, pair, false)?, "it goes on when its front is started"),
        Order::Retry(lsns) => {
            let batch = Batch { unsent: lsns.clone(), release: lsns, ..Batch::default() };
            (batch, "they are sent when the front is started")
        }
        Order::Purge(lsns) => {
            let finish = lsns.into_iter().map(|lsn| (lsn, Finish::Purged)).collect();
            (Batch { finish, ..Batch::default() }, "they are given up")
        }
        Order::Switch | Order::SwitchNow | Order::Suspect => {
            return Err(Failure::new(format!(
                "{}: no front runs that could do it (looked at {}); start it with `evs spool run`",
                pair.name,
                file.control.display()
            )));
        }
    };
    let written = file.open_store(pair).and_then(|mut store| store.commit(&batch));
    written.map_err(|error| cannot_write(file, &error))?;
    Ok(said.to_owned())
}

fn on_hold(file: &FrontFile, pair: &PairFile, on_hold: bool) -> Result<Batch, Failure> {
    let state = file.open_store(pair).and_then(|mut store| store.state());
    let mut state = state.map_err(|error| cannot_write(file, &error))?;
    state.on_hold = on_hold;
    Ok(Batch { state: Some(state), ..Batch::default() })
}

fn cannot_write(file: &FrontFile, error: &StoreError) -> Failure {
    match error {
        StoreError::Held { .. } => Failure::new(format!(
            "{error} (no front answers on {}; has it another `control`?)",
            file.control.display()
        )),
        _ => Failure::new(error),
    }
}
