//! The side that dials: keeps a connection standing, writes what is to be written, and keeps time.
//!
//! Three threads: one dials and then reads, one writes while a connection stands, one keeps time.
//! What is said is the business of a [`Talk`].

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use eversock_engine::{Config, Event};

use super::dial::{Pause, connect, greet};
use super::{Ended, Greets, Line, LineReader, lock, wait, wait_until};
use crate::limits::{DEADLINE_MAX, MESSAGE_MAX};
use crate::wire::{Role, frame};

/// A write buffer that has grown beyond this is not kept.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// What is said over the connection. Nothing here blocks, but [`Talk::place`].
pub(crate) trait Talk: Send + Sync + 'static {
    /// The protocol's messages.
    type Message: Greets;
    /// Who this side is.
    const ROLE: Role;

    /// Of the peer, for people.
    fn name(&self) -> &str;

    /// Where to dial next; the addresses are all one peer's. May look names up.
    fn place(&self) -> io::Result<Vec<SocketAddr>>;

    /// The peer's first message; what to tell the peer, and people, if it will not do.
    fn welcomed(&self, welcome: Self::Message) -> Result<(), Ended>;

    /// A connection stands.
    fn stands(&self);

    /// What to write next; nothing for now.
    fn to_write(&self) -> Vec<Self::Message>;

    /// A message came. True if there may be something to do earlier than [`Talk::due`] said.
    fn hear(&self, message: Self::Message) -> Result<bool, Ended>;

    /// Does what is due; when to come again.
    fn due(&self) -> Option<Instant>;

    /// There is no connection, and why: the one that stood is lost for good, or none was made.
    fn lost(&self, why: &str);
}

/// See the module. Dropping it is [`Client::close`].
pub(crate) struct Client<T: Talk> {
    shared: Arc<Shared<T>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared<T> {
    talk: Arc<T>,
    socket: Config,
    back_off: (Duration, Duration),
    state: Mutex<State>,
    changed: Condvar,
    /// Tells the timer that it has to look again.
    wake: Sender<()>,
}

struct State {
    closing: bool,
    /// The connection, greeted or not yet.
    line: Option<Arc<Line>>,
    /// What the engine tells of it.
    events: Receiver<Event>,
    /// There may be something to write.
    work: bool,
}

impl<T: Talk> fmt::Debug for Client<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("to", &self.shared.talk.name()).finish_non_exhaustive()
    }
}

impl<T: Talk> Client<T> {
    /// Starts to connect, in the background.
    pub(crate) fn start(
        talk: Arc<T>,
        socket: Config,
        back_off: (Duration, Duration),
        thread_name: &str,
    ) -> io::Result<Self> {
        let (wake, woken) = crossbeam_channel::bounded(1);
        let events = crossbeam_channel::never();
        let state = Mutex::new(State { closing: false, line: None, events, work: false });
        let changed = Condvar::new();
        let shared = Arc::new(Shared { talk, socket, back_off, state, changed, wake });
        let this = Self { shared, threads: Mutex::default() };
        let (dials, times) = (Arc::clone(&this.shared), Arc::clone(&this.shared));
        let name = format!("{thread_name}-write");
        this.spawn(format!("{thread_name}-dial"), move || dials.keep_connected(&name))?;
        this.spawn(format!("{thread_name}-time"), move || times.keep_time(&woken))?;
        Ok(this)
    }

    /// Runs something on a thread that [`Self::close`] waits for.
    pub(crate) fn spawn(
        &self,
        name: String,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let thread = thread::Builder::new().name(name).spawn(run)?;
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// There is something to write, or to be done at a time.
    pub(crate) fn look(&self) {
        self.shared.look();
    }

    /// Ends the connection and the threads; what is not answered is lost. Blocks up to the
    /// configuration's `connect_timeout`.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.shared.state);
        state.closing = true;
        let line = state.line.clone();
        drop(state);
        if let Some(line) = line {
            line.sever();
        }
        self.shared.look();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // A callback that drops the last handle runs on one of them.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                log::error!("a thread of the connection to {} panicked", self.shared.talk.name());
            }
        }
    }
}

impl<T: Talk> Drop for Client<T> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T: Talk> Shared<T> {
    fn look(&self) {
        lock(&self.state).work = true;
        self.changed.notify_all();
        let _woken_already = self.wake.try_send(());
    }

    fn keep_connected(&self, writer_name: &str) {
        let (first, most) = self.back_off;
        let mut pause = Pause::new(first, most);
        while let Some(why) = self.connect_once(&mut pause, writer_name) {
            log::info!("no connection to {}: {why}", self.talk.name());
            self.talk.lost(&why);
            let until = Instant::now() + pause.next();
            let mut state = lock(&self.state);
            while !state.closing && Instant::now() < until {
                state = wait_until(&self.changed, state, until);
            }
        }
        self.talk.lost("this side is closed");
    }

    /// One connection from its beginning to its end; why it ended. `None` when all ends.
    fn connect_once(&self, pause: &mut Pause, writer_name: &str) -> Option<String> {
        if lock(&self.state).closing {
            return None;
        }
        let connected = self.talk.place().and_then(|addrs| connect(&addrs, self.socket.clone()));
        let line = match connected {
            Ok(line) => line,
            Err(error) => return Some(error.to_string()),
        };
        if !self.set_line(Some(Arc::clone(&line))) {
            return None;
        }
        let result = self.use_line(&line, pause, writer_name);
        self.set_line(None);
        Some(result.err().unwrap_or(Ended::Eof).to_string())
    }

    fn use_line(
        &self,
        line: &Arc<Line>,
        pause: &mut Pause,
        writer_name: &str,
    ) -> Result<(), Ended> {
        let mut reader = line.reader();
        let welcome = greet::<T::Message>(line, &mut reader, T::ROLE)?;
        self.talk.welcomed(welcome).inspect_err(|ended| {
            if let Some(bye) = ended.bye() {
                line.refuse::<T::Message>(bye);
            }
        })?;
        pause.reset();
        log::info!("connected to {}", self.talk.name());
        self.talk.stands();
        thread::scope(|scope| {
            let writes = || self.write(line);
            let builder = thread::Builder::new().name(writer_name.to_owned());
            builder.spawn_scoped(scope, writes).map_err(crate::wire::FrameError::Io)?;
            let ended = self.read(&mut reader);
            // The writer wakes, also if it waits for a peer that does not read.
            line.sever();
            self.set_line(None);
            ended
        })
    }

    /// Which connection there is; false if there is to be none, as all ends.
    fn set_line(&self, line: Option<Arc<Line>>) -> bool {
        let events = line.as_ref().map_or_else(crossbeam_channel::never, |line| line.events());
        let mut state = lock(&self.state);
        let is_open = !state.closing;
        state.line = line.filter(|_| is_open);
        state.events = events;
        state.work = true;
        drop(state);
        self.changed.notify_all();
        let _woken_already = self.wake.try_send(());
        is_open
    }

    fn read(&self, reader: &mut LineReader) -> Result<(), Ended> {
        while let Some(frame) = reader.read(MESSAGE_MAX)? {
            let message = frame.decode::<T::Message>()?;
            drop(frame);
            if let Some(bye) = message.bye() {
                return Err(Ended::Bye(bye.clone()));
            }
            if self.talk.hear(message)? {
                let _woken_already = self.wake.try_send(());
            }
        }
        Ok(())
    }

    /// Writes what there is while this is the connection.
    fn write(&self, line: &Arc<Line>) {
        let mut wire = Vec::new();
        while self.wait_for_work(line) {
            loop {
                let messages = self.talk.to_write();
                if messages.is_empty() {
                    break;
                }
                wire.clear();
                wire.shrink_to(KEPT_BYTES_MAX);
                let put = messages.iter().try_for_each(|message| frame::put(message, &mut wire));
                drop(messages);
                let written =
                    put.map_err(io::Error::other).and_then(|()| (&line.stream).write_all(&wire));
                if let Err(error) = written {
                    log::info!("the connection to {} failed: {error}", self.talk.name());
                    // Whoever reads tells the others.
                    return line.sever();
                }
            }
        }
    }

    fn wait_for_work(&self, line: &Arc<Line>) -> bool {
        let mut state = lock(&self.state);
        loop {
            if !state.line.as_ref().is_some_and(|current| Arc::ptr_eq(current, line)) {
                return false;
            }
            if std::mem::take(&mut state.work) {
                return true;
            }
            state = wait(&self.changed, state);
        }
    }

    fn keep_time(&self, woken: &Receiver<()>) {
        loop {
            let state = lock(&self.state);
            if state.closing {
                return;
            }
            let events = state.events.clone();
            drop(state);
            let next = self.talk.due();
            // What has waited for its time may have to be written.
            lock(&self.state).work = true;
            self.changed.notify_all();
            let now = Instant::now();
            let patience = next.map_or(DEADLINE_MAX, |next| next.saturating_duration_since(now));
            crossbeam_channel::select! {
                recv(woken) -> _ => {}
                recv(events) -> event => self.heard_of_line(event.ok()),
                default(patience) => {}
            }
        }
    }

    fn heard_of_line(&self, event: Option<Event>) {
        let mut state = lock(&self.state);
        let Some(event) = event else {
            // No more of them come.
            state.events = crossbeam_channel::never();
            return;
        };
        let line = state.line.clone();
        drop(state);
        if let Some(line) = line {
            line.heard(&event);
        }
    }
}
