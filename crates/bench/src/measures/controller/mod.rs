//! Controllers: how fast devices are registered and partners told, and what a storm of devices, a
//! partner without anything or a flood costs those who are served.
//!
//! * [`registrations`]: beside single commits. [`updates`]: until a partner has one. [`isolation`]:
//!   a partition beside one that is flooded. [`storm`]: all devices at once. [`bulk`]: a whole
//!   table.
//! * [`site`]: a controller in a process of its own. [`worker()`]: what such processes do.
//!   [`client`]: one connection of devices. [`served`]: devices that are served all the while.

pub(crate) mod bulk;
mod client;
pub(crate) mod isolation;
pub(crate) mod registrations;
mod served;
mod site;
pub(crate) mod storm;
pub(crate) mod updates;
mod worker;

pub(crate) use worker::worker;

/// The controller whose devices are looked at: the larger name, so that it waits to be dialled.
const HOME: &str = "b";
/// Its partner.
const PARTNER: &str = "a";
/// Registrations per second where the door is not what is measured.
const WIDE: u32 = 1_000_000;
/// What doors take by default.
const USUAL: u32 = 2000;
