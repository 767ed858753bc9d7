//! The text form of a plan, and what is wrong with it.
//!
//! ```text
//! script := steps, one per line or with `;` between; `#` starts a comment
//! step   := [scope] when fault
//! scope  := conn NUMBER | each | total        (total when left out)
//! when   := after SIZE [up|down|both] | every SIZE [up|down|both] | every TIME | at TIME | always
//! fault  := reset | fin | heal
//!         | stall [DIRECTION] [for TIME]
//!         | blackhole [DIRECTION] [for TIME [then reset]]
//!         | half-open [client|server]          (who is left open; client when left out)
//!         | refuse [for TIME | NUMBER conns] | refuse closed [for TIME]
//!         | duplicate SIZE [DIRECTION]
//!         | flip [DIRECTION] [bit 0..7]
//!         | delay (TIME [jitter TIME] | off) [DIRECTION] [for TIME]
//!         | rate (SIZE | SIZE/s | off) [DIRECTION] [for TIME]
//! ```
//!
//! A fault without a direction takes that of its `after` or `every`, else it hits both streams.

use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::fault::{Direction, Fault, Peer, Refusal};
use crate::plan::{Plan, Scope, Step, When};
use crate::units::{parse_size, parse_time};

const SIZE: &str = "a size such as 100, 64KiB or 1.5MiB";
const TIME: &str = "a time with its unit such as 20ms, 2.5s or 1min";
const FAULT: &str = "a fault: reset, fin, stall, blackhole, half-open, refuse, duplicate, flip, \
                     delay, rate or heal";

/// A word of a script that cannot be understood. Nothing of the script is used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: found {}, expected {expected}", quoted(.found))]
pub struct ScriptError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1, where the word starts.
    pub column: usize,
    /// The word, empty where the step ended too early.
    pub found: String,
    /// What could have stood there.
    pub expected: String,
}

fn quoted(found: &str) -> String {
    if found.is_empty() { "the end of the step".to_owned() } else { format!("`{found}`") }
}

impl Plan {
    /// Reads a script. The grammar is in the [crate documentation](crate#scripts).
    ///
    /// # Errors
    /// [`ScriptError`] for the first word that does not fit.
    pub fn parse(script: &str) -> Result<Self, ScriptError> {
        let mut steps = Vec::new();
        for (index, line) in script.lines().enumerate() {
            let code = line.split('#').next().unwrap_or_default();
            let mut column = 1;
            for text in code.split(';') {
                let mut words = Words::new(text, index + 1, column);
                column += text.chars().count() + 1;
                if words.peek().is_some() {
                    steps.push(words.step()?);
                }
            }
        }
        Ok(Self { steps })
    }
}

impl FromStr for Plan {
    type Err = ScriptError;

    fn from_str(script: &str) -> Result<Self, ScriptError> {
        Self::parse(script)
    }
}

impl FromStr for Fault {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let mut words = Words::new(text, 1, 1);
        let fault = words.fault(Direction::Both)?;
        words.end()?;
        Ok(fault)
    }
}

/// The words of one step, each with the column where it starts.
struct Words<'a> {
    words: Vec<(usize, &'a str)>,
    next: usize,
    line: usize,
    end_column: usize,
}

impl<'a> Words<'a> {
    fn new(text: &'a str, line: usize, first_column: usize) -> Self {
        let column_of = |part: &str| {
            let offset = part.as_ptr() as usize - text.as_ptr() as usize;
            first_column + text[..offset].chars().count()
        };
        let words = text.split_whitespace().map(|word| (column_of(word), word)).collect();
        let end_column = first_column + text.trim_end().chars().count();
        Self { words, next: 0, line, end_column }
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).map(|(_, word)| *word)
    }

    /// Takes the next word if it is this one.
    fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        self.next += usize::from(found);
        found
    }

    /// Takes the next word if `read` can make something of it.
    fn read<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = self.peek().and_then(read)?;
        self.next += 1;
        Some(value)
    }

    fn need<T>(
        &mut self,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ScriptError> {
        self.read(read).ok_or_else(|| self.error(expected))
    }

    fn error(&self, expected: &str) -> ScriptError {
        let (column, found) = self.words.get(self.next).copied().unwrap_or((self.end_column, ""));
        ScriptError { line: self.line, column, found: found.into(), expected: expected.into() }
    }

    fn end(&self) -> Result<(), ScriptError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("the end of the step (a new line or `;`)")),
        }
    }

    fn step(&mut self) -> Result<Step, ScriptError> {
        let scope = self.scope()?;
        let when = self.when()?;
        let default = match when {
            When::After { direction, .. } | When::EveryBytes { direction, .. } => direction,
            _ => Direction::Both,
        };
        let fault = self.fault(default)?;
        self.end()?;
        Ok(Step { scope, when, fault })
    }

    fn scope(&mut self) -> Result<Scope, ScriptError> {
        if self.take("conn") {
            let number = |word: &str| word.parse().ok().filter(|id| *id > 0);
            return Ok(Scope::Conn(self.need("the number of a connection, from 1", number)?));
        }
        if self.take("each") {
            return Ok(Scope::Each);
        }
        self.take("total");
        Ok(Scope::Total)
    }

    fn when(&mut self) -> Result<When, ScriptError> {
        if self.take("always") {
            return Ok(When::Always);
        }
        if self.take("at") {
            return Ok(When::At(self.need(TIME, parse_time)?));
        }
        if self.take("after") {
            let bytes = self.need(SIZE, parse_size)?;
            return Ok(When::After { bytes, direction: self.direction(Direction::Both) });
        }
        if self.take("every") {
            let time = |word: &str| parse_time(word).filter(|time| !time.is_zero());
            if let Some(time) = self.read(time) {
                return Ok(When::EveryTime(time));
            }
            let size = |word: &str| parse_size(word).and_then(NonZeroU64::new);
            let bytes = self.need("a size such as 5MiB or a time such as 2s, not zero", size)?;
            return Ok(When::EveryBytes { bytes, direction: self.direction(Direction::Both) });
        }
        let scoped = self.next > 0;
        Err(self.error(if scoped {
            "after, every, at or always"
        } else {
            "after, every, at or always, or before it conn, each or total"
        }))
    }

    fn direction(&mut self, default: Direction) -> Direction {
        let direction = |word: &str| match word {
            "up" => Some(Direction::Up),
            "down" => Some(Direction::Down),
            "both" => Some(Direction::Both),
            _ => None,
        };
        self.read(direction).unwrap_or(default)
    }

    fn lasting(&mut self) -> Result<Option<Duration>, ScriptError> {
        if self.take("for") { self.need(TIME, parse_time).map(Some) } else { Ok(None) }
    }

    fn fault(&mut self, default: Direction) -> Result<Fault, ScriptError> {
        let Some(word) = self.peek() else { return Err(self.error(FAULT)) };
        self.next += 1;
        Ok(match word {
            "reset" => Fault::Reset,
            "fin" => Fault::Fin,
            "heal" => Fault::Heal,
            "stall" => {
                Fault::Stall { direction: self.direction(default), lasting: self.lasting()? }
            }
            "blackhole" => {
                let (direction, lasting) = (self.direction(default), self.lasting()?);
                let then_reset = lasting.is_some() && self.take("then");
                if then_reset && !self.take("reset") {
                    return Err(self.error("reset"));
                }
                Fault::Blackhole { direction, lasting, then_reset }
            }
            "half-open" => {
                let server = self.take("server");
                if !server {
                    self.take("client");
                }
                Fault::HalfOpen { left_open: if server { Peer::Server } else { Peer::Client } }
            }
            "refuse" => Fault::Refuse(self.refusal()?),
            "duplicate" => {
                let bytes = self.need(SIZE, parse_size)?;
                Fault::Duplicate { direction: self.direction(default), bytes }
            }
            "flip" => {
                let direction = self.direction(default);
                let number = |word: &str| word.parse().ok().filter(|bit| *bit < 8);
                let bit = if self.take("bit") { self.need("a bit, 0 to 7", number)? } else { 0 };
                Fault::Flip { direction, bit }
            }
            "delay" => {
                let (mut delay, mut jitter) = (Duration::ZERO, Duration::ZERO);
                if !self.take("off") {
                    delay = self.need(&format!("{TIME}, or off"), parse_time)?;
                    if self.take("jitter") {
                        jitter = self.need(TIME, parse_time)?;
                    }
                }
                let direction = self.direction(default);
                Fault::Delay { direction, delay, jitter, lasting: self.lasting()? }
            }
            "rate" => {
                let mut bytes_per_second = None;
                if !self.take("off") {
                    let rate = |word: &str| {
                        parse_size(word.strip_suffix("/s").unwrap_or(word))
                            .and_then(NonZeroU64::new)
                    };
                    let expected = "bytes per second such as 64KiB or 1MiB/s, not zero, or off";
                    bytes_per_second = Some(self.need(expected, rate)?);
                }
                let direction = self.direction(default);
                Fault::Rate { direction, bytes_per_second, lasting: self.lasting()? }
            }
            _ => {
                self.next -= 1;
                return Err(self.error(FAULT));
            }
        })
    }

    fn refusal(&mut self) -> Result<Refusal, ScriptError> {
        if self.take("closed") {
            return Ok(Refusal::Closed(self.lasting()?));
        }
        let count = |word: &str| word.parse().ok().filter(|count| *count > 0);
        if let Some(count) = self.read(count) {
            self.need("conns", |word| matches!(word, "conn" | "conns").then_some(()))?;
            return Ok(Refusal::ResetNext(count));
        }
        Ok(Refusal::Reset(self.lasting()?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

    use super::*;

    fn step(text: &str) -> Step {
        let mut plan = Plan::parse(text).unwrap();
        assert_eq!(plan.steps.len(), 1, "{text}");
        plan.steps.remove(0)
    }

    #[test]
    fn reads_what_it_should() {
        let five_mib = NonZeroU64::new(5 << 20).unwrap();
        let secs = Duration::from_secs_f64;
        assert_eq!(
            step("every 5MiB reset"),
            Step {
                scope: Scope::Total,
                when: When::EveryBytes { bytes: five_mib, direction: Direction::Both },
                fault: Fault::Reset,
            }
        );
        assert_eq!(
            step("conn 2 after 100 up half-open"),
            Step {
                scope: Scope::Conn(2),
                when: When::After { bytes: 100, direction: Direction::Up },
                fault: Fault::HalfOpen { left_open: Peer::Client },
            }
        );
        assert_eq!(
            step("at 2.5s blackhole both for 3s"),
            Step {
                scope: Scope::Total,
                when: When::At(secs(2.5)),
                fault: Fault::Blackhole {
                    direction: Direction::Both,
                    lasting: Some(secs(3.0)),
                    then_reset: false,
                },
            }
        );
    }

    #[test]
    fn a_fault_takes_the_direction_of_its_trigger() {
        let fault = step("after 7 down flip bit 3").fault;
        assert_eq!(fault, Fault::Flip { direction: Direction::Down, bit: 3 });
        let fault = step("after 7 down flip both").fault;
        assert_eq!(fault, Fault::Flip { direction: Direction::Both, bit: 0 });
    }

    #[test]
    fn every_form_is_written_so_that_it_reads_back() {
        let script = "
            # shape of the link
            always delay 20ms jitter 5ms; always rate 1MiB/s down   # both kept
            after 1MiB reset; after 10 up fin
            each at 2.5s stall up for 300ms ; every 2s stall
            conn 3 every 64KiB down duplicate 4KiB
            at 1s refuse for 2s; at 1s refuse 3 conns; at 1s refuse closed for 1min; at 9s refuse
            after 5 blackhole down for 1s then reset; at 3s blackhole
            after 9 flip up bit 7; conn 1 after 9 half-open server; total after 9 half-open client
            at 4s rate off; at 4s delay off up; at 5s rate 9kB both for 2s; at 6s heal
        ";
        let plan = Plan::parse(script).unwrap();
        assert_eq!(plan.steps.len(), 20);
        assert_eq!(Plan::parse(&plan.to_string()).unwrap(), plan);
        assert_eq!(Plan::parse(" \n # nothing \n;;").unwrap(), Plan::none());
    }

    #[test]
    fn errors_name_the_place_the_word_and_the_remedy() {
        for (script, line, column, found, expected) in [
            ("after 1MiB rest", 1, 12, "rest", "a fault: reset, fin"),
            ("after 1MiB reset\n\n  at 3 fin", 3, 6, "3", "a time with its unit"),
            ("after 1 reset; evry 3 fin", 1, 16, "evry", "after, every, at or always, or before"),
            ("conn 0 after 1 reset", 1, 6, "0", "the number of a connection"),
            ("conn 1 aftr 1 reset", 1, 8, "aftr", "after, every, at or always"),
            ("after 1MiB # reset", 1, 11, "", "a fault"),
            ("after 1MiB reset now", 1, 18, "now", "the end of the step"),
            ("every 0 reset", 1, 7, "0", "not zero"),
            ("at 1s rate 0", 1, 12, "0", "not zero"),
            ("at 1s flip bit 8", 1, 16, "8", "0 to 7"),
            ("at 1s refuse 3 times", 1, 16, "times", "conns"),
            ("at 1s blackhole for 1s then fin", 1, 29, "fin", "reset"),
            ("at 1s blackhole then reset", 1, 17, "then", "the end of the step"),
            ("é after", 1, 1, "é", "after"),
        ] {
            let error = Plan::parse(script).unwrap_err();
            assert_eq!((error.line, error.column), (line, column), "{error}");
            assert_eq!(error.found, found, "{error}");
            assert!(error.expected.contains(expected), "{error}");
        }
        let text = Plan::parse("after 1MiB rest").unwrap_err().to_string();
        assert!(text.starts_with("line 1, column 12: found `rest`, expected a fault"), "{text}");
        let text = Plan::parse("after 1MiB").unwrap_err().to_string();
        assert!(text.contains("found the end of the step"), "{text}");
    }

    #[test]
    fn a_fault_alone_can_be_read() {
        assert_eq!("fin".parse::<Fault>().unwrap(), Fault::Fin);
        assert_eq!("fin fin".parse::<Fault>().unwrap_err().column, 5);
    }
}
