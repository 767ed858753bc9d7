//! A controller tells the device to go to another one.

use std::borrow::Cow;
use std::time::Duration;

use super::seek::Seek;
use super::{Event, Machine, Output, Stage, millis};
use crate::device::policy::HandOffs;
use crate::model::ControllerId;
use crate::shard::Millis;
use crate::wire::Place;
use crate::wire::client::{ClientMessage, HandOffAnswer};

/// A hand-over takes no longer than this, whatever the controller says.
const WITHIN_MAX: Millis = 10 * 60_000;

impl Machine {
    pub(super) fn told_to_go(
        &mut self,
        from: &ControllerId,
        token: u64,
        target: Place,
        within: Duration,
        out: &mut Vec<Output>,
    ) {
        let answer = self.answer_to(from, token, &target);
        if let Some(answer) = answer {
            self.say_answer(from, token, answer, out);
        }
        if answer == Some(HandOffAnswer::Goes) && self.attempt.is_none() {
            let controller = target.controller.clone();
            self.learn_one(target);
            let within = millis(within, WITHIN_MAX);
            self.begin(controller, self.now, within, token, out);
        }
    }

    /// What to say to it; nothing to somebody who has no say.
    fn answer_to(
        &mut self,
        from: &ControllerId,
        token: u64,
        target: &Place,
    ) -> Option<HandOffAnswer> {
        let serving = self.serving.as_ref()?;
        if serving.controller != *from || self.stage != Stage::Running {
            return None;
        }
        if let Some(attempt) = &self.attempt {
            // Said twice, or one at a time.
            let is_it = attempt.token == token && attempt.controller == target.controller;
            return Some(if is_it { HandOffAnswer::Goes } else { HandOffAnswer::Busy });
        }
        let is_wanted = match self.policy.hand_offs {
            HandOffs::Never => false,
            HandOffs::Any => true,
            HandOffs::Known => self.candidates().any(|known| *known == target.controller),
        };
        let has_addrs = !target.addrs.is_empty() || self.place(&target.controller).is_some();
        Some(if !is_wanted || !has_addrs || target.controller == *from {
            HandOffAnswer::Stays
        } else if self.is_busy || !self.underway.is_empty() || self.pace().is_err() {
            HandOffAnswer::Busy
        } else {
            HandOffAnswer::Goes
        })
    }

    /// The target did not take it. If it may have, the old registration may be superseded: the
    /// device registers with the old controller again, with a larger counter.
    pub(super) fn hand_over_failed(
        &mut self,
        to: ControllerId,
        token: u64,
        may_be_there: bool,
        why: Cow<'static, str>,
        out: &mut Vec<Output>,
    ) {
        let Some(serving) = &self.serving else { return };
        let from = serving.controller.clone();
        self.say_answer(&from, token, HandOffAnswer::Stays, out);
        out.push(Output::Event(Event::HandOverFailed { from: from.clone(), to, why }));
        if may_be_there {
            self.serving = None;
            self.seek = Some(Seek::at_first(self.now, from));
        }
    }

    fn say_answer(
        &self,
        to: &ControllerId,
        token: u64,
        answer: HandOffAnswer,
        out: &mut Vec<Output>,
    ) {
        if self.is_up(to) {
            let device = self.device.clone();
            let message = ClientMessage::HandOffAnswer { device, token, answer };
            out.push(Output::Say { to: to.clone(), message });
        }
    }
}
