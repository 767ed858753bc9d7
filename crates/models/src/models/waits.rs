//! Sleepers: nobody sleeps on what has happened.

use std::os::fd::RawFd;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use super::sleepers::Sleepers;
use super::sync::Mutex;
use super::word::Word;
use crate::Plant;
use crate::kit::{Bell, EndedIfWell, Line};

const STASH: u32 = 1;
const EOF: u32 = 2;

struct Socket {
    word: Word,
    sleepers: Sleepers,
    bells: [Bell; 2],
    line: Line,
    rx: Mutex<()>,
    led: UnsafeCell<u32>,
}

// SAFETY: what the cell is used for is checked at each use.
unsafe impl Send for Socket {}
// SAFETY: as above.
unsafe impl Sync for Socket {}

impl Socket {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            word: Word::new(0),
            sleepers: Sleepers::default(),
            bells: Default::default(),
            line: Line::default(),
            rx: Mutex::new(()),
            led: UnsafeCell::new(0),
        })
    }

    fn notify(&self, number: RawFd) {
        self.bells[usize::try_from(number).unwrap()].ring();
    }

    /// `Socket::change` of the engine.
    fn change(&self, raise: u32, clear: u32) {
        if self.word.change(raise, clear).is_some() {
            self.sleepers.ring_by(|number| self.notify(number));
        }
    }

    fn stop_leading(&self) {
        self.sleepers.stop_leading_by(|number| self.notify(number));
    }

    /// A poll: a bell for the whole wait, a look, a sleep, another look.
    fn wait_for(&self, bits: u32, number: usize, plant: Plant) {
        let has = || self.word.bits() & bits != 0;
        if plant == Plant::LooksFirst && has() {
            return;
        }
        let bell = &self.bells[number];
        let _listed =
            EndedIfWell::new(self.sleepers.list_by(bell, RawFd::try_from(number).unwrap()));
        while plant == Plant::LooksFirst || !has() {
            bell.sleep();
            if plant == Plant::LooksFirst {
                return;
            }
        }
    }
}

/// One sleeps while another brings what it waits for.
pub(crate) fn sleep_and_change(plant: Plant) {
    let socket = Socket::new();
    let sleeper = {
        let socket = Arc::clone(&socket);
        thread::spawn(move || socket.wait_for(STASH, 0, plant))
    };
    socket.change(STASH, 0);
    sleeper.join().unwrap();
}

/// Two bring the same at once, and one of them finds it brought; the sleeper waits for that or for
/// the end.
pub(crate) fn sleep_while_two_change() {
    let socket = Socket::new();
    let other = {
        let socket = Arc::clone(&socket);
        thread::spawn(move || socket.change(STASH, EOF))
    };
    let sleeper = {
        let socket = Arc::clone(&socket);
        thread::spawn(move || socket.wait_for(STASH, 0, Plant::Nothing))
    };
    socket.change(STASH | EOF, 0);
    sleeper.join().unwrap();
    other.join().unwrap();
}

/// Two sleep on one socket, and one leaves while the other is rung.
pub(crate) fn two_sleep() {
    let socket = Socket::new();
    let sleepers: Vec<_> = (0..2)
        .map(|number| {
            let socket = Arc::clone(&socket);
            thread::spawn(move || socket.wait_for(STASH, number, Plant::Nothing))
        })
        .collect();
    socket.change(STASH, 0);
    for sleeper in sleepers {
        sleeper.join().unwrap();
    }
    assert!(socket.sleepers.hold().is_empty());
}

/// One reads for all at a time, and who follows it takes the role when it has gone.
pub(crate) fn lead_and_follow(plant: Plant) {
    let socket = Socket::new();
    let read = move |socket: &Socket, number: usize| {
        while !socket.sleepers.lead(true) {
            let look = || socket.sleepers.has_leader();
            let bell = &socket.bells[number];
            let had = plant != Plant::LooksFirst || look();
            let _listed =
                EndedIfWell::new(socket.sleepers.list_by(bell, RawFd::try_from(number).unwrap()));
            if had && (plant == Plant::LooksFirst || look()) {
                bell.sleep();
            }
        }
        // SAFETY: the checker fails the model if anybody else may use it.
        socket.led.with_mut(|led| unsafe { *led += 1 });
        socket.stop_leading();
    };
    let other = {
        let socket = Arc::clone(&socket);
        thread::spawn(move || read(&socket, 1))
    };
    read(&socket, 0);
    other.join().unwrap();
    // SAFETY: as above.
    assert_eq!(socket.led.with(|led| unsafe { *led }), 2);
}

/// A leader that looks (`recv` with MSG_PEEK hears no bell) while a sender reads ahead: it must not
/// sleep on a connection whose bytes are in the stash.
pub(crate) fn look_and_read_ahead(plant: Plant) {
    let socket = Socket::new();
    socket.line.send(1);
    let sender = {
        let socket = Arc::clone(&socket);
        thread::spawn(move || {
            let _rx = socket.rx.lock().unwrap();
            if !socket.sleepers.has_leader() && socket.line.take().is_some() {
                socket.change(STASH, 0);
            }
        })
    };
    assert!(socket.sleepers.lead(false));
    if plant != Plant::PassesBy {
        drop(socket.rx.lock().unwrap());
    }
    if socket.word.bits() & STASH == 0 {
        socket.line.look();
    }
    socket.stop_leading();
    sender.join().unwrap();
}
