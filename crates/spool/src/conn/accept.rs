//! Accepting connections, a bounded number of them, and ending them all.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use eversock_engine::posix;
use eversock_socket::VirtualListener;

use super::{Greets, Line, lock, wait_until};
use crate::wire::{Bye, codes};

/// How long connections may go on writing what waits once all ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts to accept when the system has no descriptors or memory left.
const SCARCITY_PAUSE: Duration = Duration::from_millis(100);

/// Accepts; each connection is served by a thread of its own.
#[derive(Debug)]
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    addr: SocketAddr,
    accepting: Mutex<Option<Accepting>>,
}

#[derive(Debug)]
struct Accepting {
    listener: Arc<VirtualListener>,
    thread: JoinHandle<()>,
}

/// Serves one connection until it ends.
type Serve = dyn Fn(&Arc<Line>) + Send + Sync;

struct Shared {
    serve: Box<Serve>,
    state: Mutex<State>,
    /// A connection has ended, or all are to end.
    ended: Condvar,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    closing: bool,
    next: u64,
    lines: HashMap<u64, (Arc<Line>, Option<JoinHandle<()>>)>,
}

impl Acceptor {
    /// Starts accepting. Beyond `connections_max` a connection is told so and closed.
    pub(crate) fn start<M: Greets>(
        listener: VirtualListener,
        name: &'static str,
        connections_max: usize,
        serve: impl Fn(&Arc<Line>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let state = Mutex::new(State::default());
        let serve = Box::new(serve);
        let shared = Arc::new(Shared { serve, state, ended: Condvar::new() });
        let listener = Arc::new(listener);
        let (accepts, on) = (Arc::clone(&shared), Arc::clone(&listener));
        let thread = thread::Builder::new()
            .name(format!("{name}-accept"))
            .spawn(move || accepts.run::<M>(&on, name, connections_max))?;
        Ok(Self { shared, addr, accepting: Mutex::new(Some(Accepting { listener, thread })) })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        lock(&self.shared.state).lines.len()
    }

    /// Ends all connections, after what waits to be written to them if that is soon, and all
    /// threads. Blocks a few seconds at most. Those that are cut right now are not waited for.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.shared.state);
        state.closing = true;
        self.shared.ended.notify_all();
        let lines: Vec<Arc<Line>> =
            state.lines.values().map(|(line, _)| Arc::clone(line)).collect();
        drop(state);
        let accepting = lock(&self.accepting).take();
        if let Some(Accepting { listener, thread }) = accepting {
            // A sleeping accept wakes.
            let _gone = posix::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR);
            if thread.join().is_err() {
                log::error!("the thread that accepts has panicked");
            }
        }
        lines.iter().for_each(|line| line.end());
        self.shared.await_end(Instant::now() + CLOSE_TIMEOUT);
        let left = std::mem::take(&mut lock(&self.shared.state).lines);
        left.values().for_each(|(line, _)| line.sever());
        for thread in left.into_values().filter_map(|(_, thread)| thread) {
            let _logged = thread.join();
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn run<M: Greets>(
        self: &Arc<Self>,
        listener: &VirtualListener,
        name: &str,
        connections_max: usize,
    ) {
        loop {
            let accepted = listener.accept();
            if lock(&self.state).closing {
                return;
            }
            match accepted {
                Ok((stream, _)) => self.take::<M>(Line::new(stream), name, connections_max),
                Err(error) => {
                    log::warn!("{name}: no connection can be accepted: {error}");
                    let state = lock(&self.state);
                    if !state.closing {
                        let _state =
                            wait_until(&self.ended, state, Instant::now() + SCARCITY_PAUSE);
                    }
                }
            }
        }
    }

    fn take<M: Greets>(self: &Arc<Self>, line: Arc<Line>, name: &str, connections_max: usize) {
        let mut state = lock(&self.state);
        if state.lines.len() >= connections_max {
            drop(state);
            let text = format!("there are {connections_max} connections, and may be no more");
            line.refuse::<M>(Bye { code: codes::bye::FULL, text });
            return;
        }
        let number = state.next;
        state.next += 1;
        let (shared, own) = (Arc::clone(self), Arc::clone(&line));
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Dropped also when serving panics.
            let _entry = Entry { shared: &shared, number };
            (shared.serve)(&own);
        });
        match thread {
            Ok(thread) => drop(state.lines.insert(number, (line, Some(thread)))),
            Err(error) => log::warn!("{name}: no thread for a connection: {error}"),
        }
    }

    /// Waits until there is no connection any more, at most until then.
    fn await_end(&self, until: Instant) {
        let mut state = lock(&self.state);
        while !state.lines.is_empty() && Instant::now() < until {
            state = wait_until(&self.ended, state, until);
        }
    }
}

/// The place of a connection in the list.
struct Entry<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(&self.shared.state).lines.remove(&self.number);
        self.shared.ended.notify_all();
    }
}
