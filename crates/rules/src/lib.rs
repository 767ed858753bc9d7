//! Which connections of an unchanged program become virtual, and how.
//!
//! Rules are TOML: `[[connect]]` tables for connections that the program makes, `[[listen]]` tables
//! for addresses on which it listens. The first rule that matches decides; without one nothing is
//! virtual. They come from the environment ([`RULES_VARIABLE`], as `evs run` sets it) or else from
//! the first of the files that [`candidates`] lists.
//!
//! * `rule`: one rule, as it is written and as it matches.
//! * `net`: blocks of addresses, ranges of ports, spans of time.
//! * `load`: where rules come from, and what is wrong with them.
//!
//! Names of hosts: a program under the preload connects to addresses, so a rule with a name carries
//! the addresses that the name had when somebody looked it up ([`Rules::learn`]): `evs run` does so
//! at the start, and the preload whenever the program itself looks that name up.

mod load;
mod net;
mod rule;

pub use load::{
    CONFIG_VARIABLE, LoadError, RULES_VARIABLE, candidates, from_environment, from_file, from_text,
};
pub use net::{Block, Ports};
pub use rule::{Host, Mode, Policy, Rule, Rules};
