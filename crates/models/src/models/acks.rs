//! An ACK that one wants who cannot have the sending lock: the holder sends it when it leaves.

use std::sync::Arc;

use loom::thread;

use super::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use super::wish;
use crate::Plant;

struct Socket {
    /// What the program has consumed.
    ack: AtomicU64,
    wanted: AtomicBool,
    /// What the peer was told of it.
    tx: Mutex<u64>,
}

/// The reader consumes and wants an ACK while a writer sends a frame, which carries what there is
/// to acknowledge at that moment. No sweep mends anything here.
pub(crate) fn read_and_write(plant: Plant) {
    let socket = Arc::new(Socket {
        ack: AtomicU64::new(0),
        wanted: AtomicBool::new(false),
        tx: Mutex::new(0),
    });
    let reader = {
        let socket = Arc::clone(&socket);
        thread::spawn(move || {
            for ack in 1..=2 {
                socket.ack.store(ack, Ordering::Release);
                let tell = |told: &mut u64| *told = socket.ack.load(Ordering::SeqCst);
                let _left_to_the_holder = wish::leave(&socket.wanted, &socket.tx, tell);
            }
        })
    };
    {
        let tell = |told: &mut u64| *told = socket.ack.load(Ordering::SeqCst);
        let mut held = socket.tx.lock().unwrap();
        tell(&mut held);
        if plant == Plant::LeavesWithout {
            drop(held);
        } else {
            wish::honour(&socket.wanted, &socket.tx, held, tell);
        }
    }
    reader.join().unwrap();
    assert_eq!(*socket.tx.lock().unwrap(), 2, "the peer was not told all");
}
