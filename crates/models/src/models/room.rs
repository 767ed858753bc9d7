//! "No room" against credit that comes at the same moment.

use std::sync::Arc;

use loom::thread;

use super::credit;
use super::sleepers::Sleepers;
use super::sync::{AtomicU64, Mutex, Ordering};
use super::word::Word;
use crate::Plant;
use crate::kit::{Bell, EndedIfWell};

const NO_ROOM: u32 = 1;

struct Socket {
    word: Word,
    sleepers: Sleepers,
    bell: Bell,
    published: AtomicU64,
    written: AtomicU64,
    /// What the sending direction knows of the edge.
    tx: Mutex<u64>,
}

impl Socket {
    fn change(&self, raise: u32, clear: u32) {
        if self.word.change(raise, clear).is_some() {
            self.sleepers.ring_by(|_| self.bell.ring());
        }
    }

    fn has_no_room(&self) -> bool {
        self.word.bits() & NO_ROOM != 0
    }

    fn absorb(&self, known: &mut u64, written: u64) {
        *known = (*known).max(credit::edge(&self.published));
        if *known > written {
            self.change(0, NO_ROOM);
        }
    }

    /// `send_step`: the last byte that there is room for.
    fn write(&self, written: u64, plant: Plant) {
        let mut known = self.tx.lock().unwrap();
        self.absorb(&mut known, written - 1);
        if *known < written {
            return;
        }
        self.written.store(written, Ordering::Release);
        if *known == written {
            self.change(NO_ROOM, 0);
            if plant != Plant::LooksNoMore {
                self.absorb(&mut known, written);
            }
        }
    }

    /// What comes after a read, in the quick way as in the general one.
    fn learn(&self, edge: u64) {
        if credit::publish(&self.published, edge, || self.has_no_room(), &self.written) {
            self.change(0, NO_ROOM);
        }
    }

    /// A poll for writing.
    fn wait(&self) {
        let _listed = EndedIfWell::new(self.sleepers.list_by(&self.bell, 0));
        while self.has_no_room() {
            self.bell.sleep();
        }
    }
}

fn socket() -> Arc<Socket> {
    Arc::new(Socket {
        word: Word::new(0),
        sleepers: Sleepers::default(),
        bell: Bell::default(),
        published: AtomicU64::new(1),
        written: AtomicU64::new(0),
        tx: Mutex::new(1),
    })
}

/// A writer runs out of room while a reader learns of more: "no room" does not stay.
pub(crate) fn run_out_and_learn(plant: Plant) {
    let socket = socket();
    let reader = {
        let socket = Arc::clone(&socket);
        thread::spawn(move || socket.learn(2))
    };
    socket.write(1, plant);
    reader.join().unwrap();
    assert!(!socket.has_no_room(), "there is room, and nobody will say so");
}

/// The same twice, and a poll for writing that sleeps meanwhile comes out.
pub(crate) fn run_out_twice_and_wait() {
    let socket = socket();
    let reader = {
        let socket = Arc::clone(&socket);
        thread::spawn(move || {
            socket.learn(2);
            socket.learn(3);
        })
    };
    socket.write(1, Plant::Nothing);
    socket.write(2, Plant::Nothing);
    socket.wait();
    reader.join().unwrap();
    assert!(!socket.has_no_room(), "there is room, and nobody will say so");
}
