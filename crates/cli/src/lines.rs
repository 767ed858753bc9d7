//! JSON lines between a hidden command and the process that started it.
//!
//! The child writes lines on standard output. It lives as long as its standard input: whatever
//! becomes of the process that started it, no child stays behind.

use std::io::{self, BufRead};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// Gives the lines of standard input; the channel ends with it.
pub(crate) fn from_stdin() -> io::Result<Receiver<String>> {
    let (sender, lines) = channel();
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(lines)
}
