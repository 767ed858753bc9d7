//! A read that sleeps in the kernel against a change of the connection under it.

use std::sync::Arc;

use loom::thread;

use super::sleepers::Sleepers;
use super::sync::{Mutex, yield_now};
use super::word::Word;
use crate::Plant;
use crate::kit::{Bell, EndedIfWell, Line};

/// The connection has died and the next one is not there yet.
const DYING: u32 = 1;
const CLOSED: u32 = 2;

#[derive(Default)]
struct Rx {
    epoch: u64,
    /// False: no connection stands.
    stands: bool,
    /// Bytes by the epoch that they were counted to.
    counted: [u32; 3],
}

struct Socket {
    word: Word,
    sleepers: Sleepers,
    bell: Bell,
    rx: Mutex<Rx>,
    /// The connections of the epochs 1 and 2.
    lines: [Line; 3],
    /// Which of them stands under the program's number.
    number: Mutex<usize>,
}

impl Socket {
    fn new() -> Arc<Self> {
        let rx = Rx { epoch: 1, stands: true, ..Rx::default() };
        Arc::new(Self {
            word: Word::new(0),
            sleepers: Sleepers::default(),
            bell: Bell::default(),
            rx: Mutex::new(rx),
            lines: Default::default(),
            number: Mutex::new(1),
        })
    }

    fn ring(&self) {
        self.sleepers.ring_by(|_| self.bell.ring());
    }

    /// `read_leading`; true when it has brought a byte.
    fn read_leading(&self, plant: Plant) -> bool {
        let epoch = {
            let rx = self.rx.lock().unwrap();
            let nothing_is = !rx.stands || self.word.bits() & (DYING | CLOSED) != 0;
            if nothing_is && plant != Plant::ReadsWhereNothingIs {
                return false;
            }
            if plant != Plant::LeadsUnlocked && !self.sleepers.lead(true) {
                return false;
            }
            rx.epoch
        };
        if plant == Plant::LeadsUnlocked && !self.sleepers.lead(true) {
            return false;
        }
        // The kernel looks the number up once, at the start of the call.
        let line = *self.number.lock().unwrap();
        let came = self.lines[line].read();
        let mut rx = self.rx.lock().unwrap();
        if plant != Plant::CountsAnyway && !self.sleepers.counts_what_came() {
            return false;
        }
        if let Some(byte) = came {
            assert_eq!(byte, rx.epoch, "a byte is counted to another epoch");
            assert_eq!(epoch, rx.epoch, "the epoch has changed under a reader");
            rx.counted[usize::try_from(epoch).unwrap()] += 1;
        } else {
            rx.stands = false;
            if self.word.change(DYING, 0).is_some() {
                self.ring();
            }
        }
        self.sleepers.stop_leading_by(|_| self.bell.ring());
        came.is_some()
    }

    /// `recv`: until a byte has come, or the number is closed.
    fn recv(&self, plant: Plant) {
        while self.word.bits() & CLOSED == 0 && !self.read_leading(plant) {
            let _listed = EndedIfWell::new(self.sleepers.list_by(&self.bell, 0));
            if self.word.bits() & DYING != 0 {
                self.bell.sleep();
            }
        }
    }

    /// `attach`; false when a reader must come out first.
    fn attach(&self, plant: Plant) -> bool {
        let mut rx = self.rx.lock().unwrap();
        let old = *self.number.lock().unwrap();
        if plant != Plant::WaitsForNobody
            && self.sleepers.reader_must_leave(|| self.lines[old].shut())
        {
            return false;
        }
        while let Some(byte) = self.lines[old].take() {
            assert_eq!(byte, rx.epoch);
            rx.counted[usize::try_from(byte).unwrap()] += 1;
        }
        // The peer sends on the new connection as soon as it stands.
        self.lines[2].send(2);
        *self.number.lock().unwrap() = 2;
        self.lines[old].shut();
        rx.epoch = 2;
        rx.stands = true;
        drop(rx);
        self.word.change(0, DYING);
        self.ring();
        true
    }

    fn counted(&self) -> [u32; 3] {
        self.rx.lock().unwrap().counted
    }
}

/// A reader sleeps, or is about to, or comes out, while the engine puts another connection in; the
/// old one has a byte left if `full`.
pub(crate) fn read_and_swap(full: bool, plant: Plant) {
    let socket = Socket::new();
    if full {
        socket.lines[1].send(1);
    }
    let reader = {
        let socket = Arc::clone(&socket);
        thread::spawn(move || socket.recv(plant))
    };
    while !socket.attach(plant) {
        yield_now();
    }
    reader.join().unwrap();
    let [_, old, new] = socket.counted();
    assert_eq!(old, u32::from(full), "a byte of the old connection is lost");
    assert!(new <= 1 && old + new >= 1);
}

/// The number is closed past us while a reader sleeps there, whom nothing can wake: the session
/// goes on without it. Later the reader comes out with a byte of the old connection; a second one
/// came meanwhile.
pub(crate) fn disown(plant: Plant) {
    let socket = Socket::new();
    let reader = {
        let socket = Arc::clone(&socket);
        let own = if plant == Plant::CountsAnyway { plant } else { Plant::Nothing };
        thread::spawn(move || socket.read_leading(own))
    };
    {
        let mut rx = socket.rx.lock().unwrap();
        rx.stands = false;
        socket.sleepers.disown_reader();
        assert!(!socket.sleepers.is_reading(), "who was disowned is waited for");
        socket.word.change(CLOSED, 0);
        // The engine's own connection, which delivers what was written.
        rx.epoch = 2;
        rx.stands = true;
    }
    let second = {
        let socket = Arc::clone(&socket);
        let own = if plant == Plant::ReadsWhereNothingIs { plant } else { Plant::Nothing };
        thread::spawn(move || socket.read_leading(own))
    };
    socket.lines[1].send(1);
    if plant == Plant::ReadsWhereNothingIs {
        socket.lines[1].send(1);
    }
    socket.lines[1].shut();
    reader.join().unwrap();
    assert!(!second.join().unwrap());
    assert_eq!(socket.counted(), [0, 0, 0]);
}
