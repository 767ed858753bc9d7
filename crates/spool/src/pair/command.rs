//! What operators tell a pair to do.

use super::{Command, Count, Pair, State, StoreFault, Token, WriteFor};
use crate::store::{Batch, Finish};

impl Pair {
    pub(super) fn command(&mut self, token: Token, command: Command) {
        let result = match command {
            Command::Switch => self.command_switch(),
            Command::SwitchNow => self.command_switch_now(),
            Command::Suspect => self.command_suspect(),
            Command::Hold => return self.command_hold(token, true),
            Command::Release => return self.command_hold(token, false),
            Command::Retry(lsns) => {
                self.replay.forgive(&lsns);
                let batch =
                    Batch { unsent: lsns.clone(), release: lsns.clone(), ..Batch::default() };
                let text = format!("{} records are let go", lsns.len());
                return self.command_write(token, Vec::new(), batch, text);
            }
            Command::Purge(lsns) => {
                let finish = lsns.iter().map(|lsn| (*lsn, Finish::Purged)).collect();
                let text = format!("{} records are given up", lsns.len());
                // What comes behind them waits until that is on disk.
                for lsn in &lsns {
                    self.drain.pause_lane_of(*lsn);
                }
                let batch = Batch { finish, ..Batch::default() };
                return self.command_write(token, lsns, batch, text);
            }
        };
        self.out.push(super::Action::Answer { token, result });
    }

    fn command_switch(&mut self) -> Result<String, String> {
        self.is_wet()?;
        let to = 1 - self.main();
        if !matches!(self.state, State::Normal | State::Draining(_)) {
            return Err(format!("the pair is {}: wait, or switch with --now", self.state.name()));
        }
        if !self.is_ready(to) {
            return Err("the other server is not ready: look at it, or switch with --now".into());
        }
        self.plan(to, "an operator says so");
        Ok("the main finishes what it does, then the other takes over".into())
    }

    /// A dry run switches for nobody.
    fn is_wet(&self) -> Result<(), String> {
        if self.config.dry_run {
            return Err("this is a dry run: take `dry-run` out of the front's file".into());
        }
        Ok(())
    }

    fn command_switch_now(&mut self) -> Result<String, String> {
        self.is_wet()?;
        if matches!(self.state, State::Promoting { .. }) {
            return Err("a server is being promoted right now: wait a moment".into());
        }
        if self.split.is_some() {
            return Err("another front serves this pair: stop it, then release this one".into());
        }
        self.divert("an operator says so", true, true);
        Ok("the other takes over as soon as it is ready and the lock is free".into())
    }

    fn command_suspect(&mut self) -> Result<String, String> {
        if !matches!(self.state, State::Normal | State::Draining(_)) {
            return Err(format!("the pair is {} already", self.state.name()));
        }
        self.suspect("somebody says so");
        Ok("the main is looked at".into())
    }

    fn command_hold(&mut self, token: Token, on_hold: bool) {
        let split = if on_hold { None } else { self.split.take() };
        if let Some(seen) = split {
            // The other front is gone, says the operator; its lease may still run.
            let span = self.config.lease + self.config.lease_margin();
            self.lock.adopt(seen, self.now, span);
            self.is_spent = true;
            self.divert("the other front is gone, its lease perhaps not", false, false);
        }
        let was_on_hold = std::mem::replace(&mut self.on_hold, on_hold);
        let batch = self.state_batch();
        let text = if on_hold { "everything is spooled from now on" } else { "the pair goes on" };
        let text = text.to_owned();
        self.write(WriteFor::Command { token, lsns: Vec::new(), text, was_on_hold }, batch);
        if !on_hold {
            self.wake_all();
        }
    }

    fn command_write(&mut self, token: Token, lsns: Vec<u64>, batch: Batch, text: String) {
        let was_on_hold = self.on_hold;
        self.write(WriteFor::Command { token, lsns, text, was_on_hold }, batch);
    }

    pub(super) fn command_written(
        &mut self,
        token: Token,
        lsns: &[u64],
        text: String,
        was_on_hold: bool,
        result: Result<(), StoreFault>,
    ) {
        self.count = Count::AtMost;
        if result.is_ok() {
            for lsn in lsns {
                self.drain.drop_waiting(*lsn);
            }
        }
        // What was let go, or was to be given up, lies below what was read.
        self.drain.restart();
        // What waited for those records looks again.
        self.wake_all();
        let result = match result {
            Ok(()) => Ok(text),
            Err(_) if self.on_hold != was_on_hold => {
                self.on_hold = was_on_hold;
                self.wake_all();
                Err("the spool cannot be written: all is as before; try again when it can".into())
            }
            Err(_) => Err("the spool cannot be written: try again when it can".to_owned()),
        };
        self.out.push(super::Action::Answer { token, result });
    }
}
