//! What the engine's fault watch is to look for on the real socket, and where that is.

use std::os::fd::RawFd;
use std::sync::Arc;

use super::link::Held;
use super::{Socket, Watch, bits};
use crate::reactor::engine_if_running;

impl Socket {
    /// Bytes are owed to the standing connection: the engine sends them when the kernel has room.
    pub(crate) fn owe(&self) {
        self.rewatch(|watch| watch.wants_out = true);
    }

    /// The engine reads in the program's stead, or stops doing so.
    pub(crate) fn watch_in(&self, on: bool) {
        self.rewatch(|watch| watch.wants_in = on);
    }

    /// Changes what the engine watches the real socket for. One system call; the engine's thread is
    /// not woken.
    pub(crate) fn rewatch(&self, change: impl FnOnce(&mut Watch)) {
        let Ok(mut watch) = self.watch.lock() else { return };
        change(&mut watch);
        if watch.number >= 0
            && let Some(engine) = engine_if_running()
        {
            engine.watch_modify(&watch, self.id);
        }
    }

    pub(super) fn watch_start(&self, number: RawFd) {
        let Ok(mut watch) = self.watch.lock() else { return };
        *watch = Watch { number, ..*watch };
        if let Some(engine) = engine_if_running() {
            engine.watch_add(&watch, self.id);
        }
    }

    pub(super) fn watch_stop(&self) {
        let Ok(mut watch) = self.watch.lock() else { return };
        if watch.number >= 0
            && let Some(engine) = engine_if_running()
        {
            engine.watch_remove(watch.number);
        }
        watch.number = -1;
    }

    /// This process's engine watches a socket that was accepted or claimed.
    pub(crate) fn adopt_watch(self: &Arc<Self>) {
        // Held to the end: a close that moves the connection elsewhere watches it there.
        let Ok(place) = self.place.lock() else { return };
        let attached = !self.has(bits::DETACHED | bits::CONNECTING | bits::FRESH | bits::FAILED);
        if let Some(number) = place.real_number().filter(|_| attached) {
            self.watch_stop();
            self.watch_start(number);
            if self.has(bits::PUMPED) {
                self.watch_in(true);
            }
        }
    }

    pub(crate) fn retire_watch(&self) {
        self.watch_stop();
    }

    /// The directions, and the watch, use one of the numbers that are left: the one that they used
    /// may be another file's.
    pub(super) fn leave_stale_number(&self, held: &mut Held<'_>) {
        let Held { place, tx, rx } = held;
        let Some(&other) = place.numbers.first().filter(|_| place.private.is_none()) else {
            return;
        };
        if rx.number >= 0 && !place.numbers.contains(&rx.number) {
            rx.number = other;
        }
        if tx.number >= 0 && !place.numbers.contains(&tx.number) {
            tx.number = other;
            if let Ok(mut watch) = self.watch.lock() {
                // By a number that is another file's it cannot be taken off. It tells once more.
                watch.number = -1;
            }
            self.watch_start(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::sys::{fd, tcp};

    /// What was written went into the file that had got the number, while the session had another.
    #[test]
    fn a_session_whose_number_was_closed_past_us_goes_on_under_its_duplicate() {
        let engine = crate::reactor::engine().expect("an engine");
        let (real, _far) = tcp::loopback_pair().expect("a connection");
        let copies = [(); 2].map(|()| fd::dup_internal(real.as_raw_fd()).expect("a copy"));
        let [gone, kept] = [copies[0].as_raw_fd(), copies[1].as_raw_fd()];
        let socket = Socket::new(engine.next_id(), Arc::default(), vec![gone, kept], 0);
        let socket = Arc::new(socket);
        assert!(socket.owner.claim(engine.instance, true));
        let identity = fd::identity(gone).expect("a file");
        socket.place.lock().expect("the lock").identity = identity;
        socket.lock_tx().expect("the lock").number = gone;
        socket.lock_rx().expect("the lock").number = gone;
        socket.adopt_watch();
        let (other, _end) = fd::unix_pair(rustix::net::SocketType::STREAM).expect("a pair");
        fd::replace(std::os::fd::AsFd::as_fd(&other), gone, true).expect("replaced");
        let looked = socket.look_for_numbers().expect("no error").expect("nobody has the locks");
        assert_eq!(looked, None, "it has a number still");
        assert_eq!(socket.lock_tx().expect("the lock").number, kept);
        assert_eq!(socket.lock_rx().expect("the lock").number, kept);
        assert_eq!(socket.watch.lock().expect("the lock").number, kept);
        socket.retire_watch();
    }
}
