//! The engine's files over the orders of `orders::as_written`.

pub(crate) use crate::orders::as_written as sync;

#[path = "../../engine/src/meet/credit.rs"]
pub(crate) mod credit;
#[path = "../../engine/src/meet/sleepers.rs"]
pub(crate) mod sleepers;
#[path = "../../engine/src/meet/slot.rs"]
pub(crate) mod slot;
#[path = "../../engine/src/meet/wish.rs"]
pub(crate) mod wish;
#[path = "../../engine/src/meet/word.rs"]
pub(crate) mod word;

#[path = "models/acks.rs"]
pub(crate) mod acks;
#[path = "models/room.rs"]
pub(crate) mod room;
#[path = "models/swap.rs"]
pub(crate) mod swap;
#[path = "models/table.rs"]
pub(crate) mod table;
#[path = "models/waits.rs"]
pub(crate) mod waits;
