//! What the engine's fault watch is to look for on the real socket, and where that is.

use std::os::fd::RawFd;
use std::sync::Arc;

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
}
