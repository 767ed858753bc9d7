//! libc's names. Each passes on what is not virtual, and calls the engine's twin for what is.

mod data;
mod file;
mod inherited;
mod life;
mod made;
mod number;
mod option;
mod passing;
mod process;
mod raw;
mod spawn;
mod wait;
