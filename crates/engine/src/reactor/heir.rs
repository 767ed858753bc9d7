//! Listeners of a family: one process accepts and shakes hands, those that wait take its place when
//! it dies (DESIGN 5).
//!
//! All of them hold the real listening socket and both ends of the pair through which sessions
//! come, so what waits in either is not lost. Which process serves is a shared word; a line to that
//! process, which the kernel ends with it, says that it is dead.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use eversock_proto::control::Role;
use mio::Interest;

use super::channel::Line;
use super::timer::Timer;
use super::{Reactor, channel};
use crate::clock;
use crate::error::would_block;
use crate::family;
use crate::listener::{Listener, NOBODY};
use crate::sys::{Fd, pass};

/// When to look again at a server that was too busy to answer.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The process that serves one of our listeners.
#[derive(Debug)]
pub(super) struct Master {
    listener: Arc<Listener>,
    instance: u64,
    /// `None` while it could not be reached.
    line: Option<Fd>,
}

impl Reactor {
    /// Our program waits at a listener that another process serves.
    pub(super) fn become_heir(&mut self, listener: Arc<Listener>) {
        let token = self.token();
        self.masters.insert(token, Master { listener, instance: 0, line: None });
        self.find_master(token);
    }

    /// A line to a master has something: it says nothing, so it is gone.
    pub(super) fn master_ready(&mut self, token: usize) {
        let Some(master) = self.masters.get_mut(&token) else { return };
        if let Some(line) = master.line.take() {
            self.deregister(line.as_raw_fd());
        }
        self.find_master(token);
    }

    /// Looks for the process that serves; takes its place if it is dead.
    pub(super) fn find_master(&mut self, token: usize) {
        loop {
            let Some(master) = self.masters.get_mut(&token) else { return };
            if master.line.is_some() {
                return;
            }
            let listener = Arc::clone(&master.listener);
            let instance = listener.server.get();
            let us = self.engine.instance;
            if instance == us {
                self.masters.remove(&token);
                return;
            }
            let closed = listener.numbers.lock().is_ok_and(|numbers| numbers.is_empty());
            if closed {
                // The program waits no more; sessions of it are told of where they are opened.
                self.masters.remove(&token);
                return;
            }
            master.instance = instance;
            let line = channel::connect(instance).and_then(|line| {
                pass::send(line.as_raw_fd(), &family::heir(instance), &[])?;
                self.register(line.as_raw_fd(), token, Interest::READABLE)?;
                Ok(line)
            });
            match line {
                Ok(line) => {
                    if let Some(master) = self.masters.get_mut(&token) {
                        master.line = Some(line);
                    }
                    return self.tell_all_sessions(instance);
                }
                Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => {
                    if listener.server.succeed(instance, us) {
                        log::info!("listener {}: its process is dead, we serve it", listener.id);
                        self.masters.remove(&token);
                        return self.listen(listener);
                    }
                    // Another was first: wait for its end, then.
                }
                Err(error) => {
                    if !would_block(&error) {
                        log::debug!("listener {}: {error}", listener.id);
                    }
                    self.timers.set(clock::now() + LOOK_AGAIN, Timer::Master(token));
                    return;
                }
            }
        }
    }

    /// Our program has closed a listener at which others wait: one of them serves it from now on.
    /// True if there is any.
    pub(super) fn bequeath(&mut self, listener: &Arc<Listener>) -> bool {
        let heirs: Vec<usize> = self
            .lines
            .iter()
            .filter(|(_, line)| matches!(line, Line::Heir(_)))
            .map(|(&token, _)| token)
            .collect();
        if heirs.is_empty() {
            return false;
        }
        self.leave_listener(listener.id);
        listener.server.succeed(self.engine.instance, NOBODY);
        // They look for the process that serves, and find none.
        for token in heirs {
            self.drop_line(token);
        }
        true
    }

    /// Tells a process that serves our listener where the resumes of our sessions belong.
    fn tell_all_sessions(&self, instance: u64) {
        for owned in self.owned.values() {
            let is_server = owned.socket.meta.lock().is_ok_and(|meta| {
                meta.control.as_ref().is_some_and(|control| control.role == Role::Server)
            });
            if is_server && owned.socket.owner.is(self.engine.instance) {
                self.tell_where(instance, owned.id);
            }
        }
    }
}
