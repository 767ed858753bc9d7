//! A controller without disk, partners or mercy.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use eversock_controller::model::{ControllerId, DeviceId};
use eversock_controller::wire::client::{
    ClientMessage, HandOffAnswer, Outcome, Register, Request, Terms,
};
use eversock_controller::wire::{HEADER_BYTES, Message, Place, VERSION, Welcome, frame, header};
use eversock_engine::Config;
use eversock_socket::{VirtualListener, VirtualStream};

use crate::LIMIT;

pub(crate) struct Fake {
    pub(crate) id: ControllerId,
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) struct Shared {
    id: ControllerId,
    stopping: AtomicBool,
    /// Takes what comes and says nothing.
    pub(crate) silent: AtomicBool,
    state: Mutex<State>,
    requests: AtomicU64,
}

pub(crate) struct State {
    pub(crate) rows: HashMap<DeviceId, Row>,
    /// Every registration that was taken, in order.
    pub(crate) log: Vec<Register>,
    pub(crate) answers: Vec<(u64, HandOffAnswer)>,
    pub(crate) terms: Terms,
    pub(crate) parameters: String,
    /// This many registrations are told to come again.
    pub(crate) retries: usize,
    pub(crate) handshakes: usize,
    pub(crate) connections: usize,
    conns: BTreeMap<u64, Arc<Conn>>,
    waiting: HashMap<u64, (u64, Sender<Outcome>)>,
    /// Requests of devices for others: whom to answer, by which connection, under which number.
    passed_on: HashMap<u64, (u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) seq: u64,
    nonce: u64,
    conn: u64,
    pub(crate) stands: bool,
}

struct Conn {
    stream: VirtualStream,
    writes: Mutex<()>,
}

impl Conn {
    fn say(&self, message: &ClientMessage) {
        self.write(&frame(message));
    }

    fn write(&self, bytes: &[u8]) {
        let _one_at_a_time = self.writes.lock().unwrap();
        // One that is gone needs nothing.
        let _ = (&self.stream).write_all(bytes);
    }
}

impl Fake {
    pub(crate) fn start(name: &str) -> Self {
        Self::start_at(name, "127.0.0.1:0".parse().unwrap())
    }

    /// At an address that may be in use still, for a moment.
    pub(crate) fn start_at(name: &str, addr: SocketAddr) -> Self {
        let grace = Duration::from_secs(60);
        let config = Config { grace, sessions_max: 10_000, ..Config::default() };
        let mut listener = None;
        crate::until("the address is free", || {
            listener = VirtualListener::bind_with(addr, config.clone()).ok();
            listener.is_some()
        });
        let listener = listener.unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let id: ControllerId = name.parse().unwrap();
        let shared = Arc::new(Shared {
            id: id.clone(),
            stopping: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            state: Mutex::new(State {
                rows: HashMap::new(),
                log: Vec::new(),
                answers: Vec::new(),
                terms: Terms {
                    lease: Duration::from_secs(600),
                    handshake_every: Duration::from_secs(1),
                    misses: 20,
                    generation: 0,
                    alternates: Vec::new(),
                },
                parameters: String::new(),
                retries: 0,
                handshakes: 0,
                connections: 0,
                conns: BTreeMap::new(),
                waiting: HashMap::new(),
                passed_on: HashMap::new(),
            }),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || own.accept(&listener));
        Self { id, addr, shared, thread: Some(thread) }
    }

    pub(crate) fn place(&self) -> Place {
        Place { controller: self.id.clone(), addrs: vec![self.addr] }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    pub(crate) fn set_silent(&self, on: bool) {
        self.shared.silent.store(on, Ordering::Relaxed);
    }

    /// Handshakes so often; so many misses are a fault.
    pub(crate) fn set_handshakes(&self, every: u64, misses: u8) {
        let mut state = self.state();
        state.terms.handshake_every = Duration::from_millis(every);
        state.terms.misses = misses;
    }

    pub(crate) fn serves(&self, device: &DeviceId) -> Option<u64> {
        self.state().rows.get(device).filter(|row| row.stands).map(|row| row.seq)
    }

    /// The connection that a device came by, if it stands.
    fn conn_of(&self, device: &DeviceId) -> Option<Arc<Conn>> {
        let state = self.state();
        state.rows.get(device).and_then(|row| state.conns.get(&row.conn)).cloned()
    }

    /// Asks a device, and waits for its answer.
    pub(crate) fn request(&self, device: &DeviceId, payload: &[u8]) -> Outcome {
        let (tell, told) = channel();
        self.shared.pass_on(device, payload, LIMIT, tell);
        match told.recv_timeout(LIMIT) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Disconnected) => Outcome::Unreachable("lost".to_owned()),
            Err(RecvTimeoutError::Timeout) => panic!("{device} does not answer"),
        }
    }

    /// Asks a device, and does not wait.
    pub(crate) fn ask(&self, device: &DeviceId, payload: &[u8]) {
        let (tell, _) = channel();
        self.shared.pass_on(device, payload, LIMIT, tell).unwrap();
    }

    pub(crate) fn hand_off(&self, device: &DeviceId, token: u64, target: Place) {
        let within = LIMIT;
        let device_name = device.clone();
        let message = ClientMessage::HandOff { device: device_name, token, target, within };
        if let Some(conn) = self.conn_of(device) {
            conn.say(&message);
        }
    }

    /// Says what is no message.
    pub(crate) fn say_nonsense(&self, device: &DeviceId, bytes: &[u8]) {
        self.conn_of(device).unwrap().write(bytes);
    }

    /// Ends as a process does: its sessions and its table are gone.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let conns = std::mem::take(&mut self.state().conns);
        for conn in conns.into_values() {
            let _gone_already = conn.stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok(), "the controller has failed");
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// A test that has failed is to end all the same.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &VirtualListener) {
        let mut threads = Vec::new();
        while !self.stopping.load(Ordering::Relaxed) {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            stream.set_nonblocking(false).unwrap();
            let conn = Arc::new(Conn { stream, writes: Mutex::new(()) });
            let mut state = self.lock();
            state.connections += 1;
            let number = state.connections as u64;
            state.conns.insert(number, Arc::clone(&conn));
            drop(state);
            let own = Arc::clone(self);
            threads.push(std::thread::spawn(move || {
                own.read(number, &conn);
                let mut state = own.lock();
                state.conns.remove(&number);
                // Whoever waits for an answer by it hears that there is none.
                state.waiting.retain(|_, (conn, _)| *conn != number);
            }));
        }
        // Those that came while it was told to stop.
        for conn in self.lock().conns.values() {
            let _gone_already = conn.stream.shutdown(Shutdown::Both);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    fn read(&self, number: u64, conn: &Conn) {
        let mut stream = &conn.stream;
        let mut head = [0; HEADER_BYTES];
        while stream.read_exact(&mut head).is_ok() {
            let (length, kind) = header(head);
            let mut body = vec![0; length];
            if stream.read_exact(&mut body).is_err() {
                return;
            }
            let message = ClientMessage::decode(kind, &body).unwrap();
            if self.silent.load(Ordering::Relaxed) {
                continue;
            }
            if let ClientMessage::Bye(_) = message {
                return;
            }
            for answer in self.hear(number, message) {
                conn.say(&answer);
            }
        }
    }

    fn hear(&self, number: u64, message: ClientMessage) -> Vec<ClientMessage> {
        let mut state = self.lock();
        match message {
            ClientMessage::Hello(_) => {
                let controller = self.id.clone();
                vec![ClientMessage::Welcome(Welcome { version: VERSION, controller })]
            }
            ClientMessage::Register(register) => vec![state.register(number, register)],
            ClientMessage::Handshake { device, seq } => {
                state.handshakes += 1;
                let generation = state.terms.generation;
                vec![match state.rows.get_mut(&device) {
                    Some(row) if row.seq == seq && row.stands => {
                        row.conn = number;
                        ClientMessage::HandshakeOk { device, seq, generation }
                    }
                    row => {
                        let above = row.map_or(0, |row| row.seq);
                        ClientMessage::Reregister { device, above }
                    }
                }]
            }
            ClientMessage::Deregister { device, seq } => {
                if let Some(row) = state.rows.get_mut(&device).filter(|row| row.seq == seq) {
                    row.stands = false;
                }
                vec![ClientMessage::Deregistered { device, seq }]
            }
            ClientMessage::HandOffAnswer { token, answer, .. } => {
                state.answers.push((token, answer));
                Vec::new()
            }
            ClientMessage::GetParameters => vec![ClientMessage::Parameters {
                generation: state.terms.generation,
                text: state.parameters.clone(),
            }],
            ClientMessage::Request(request) => {
                let Request { id, device, deadline, payload } = request;
                let (tell, _) = channel();
                drop(state);
                let own = self.pass_on(&device, &payload, deadline, tell);
                let mut state = self.lock();
                match own {
                    Some(own) => {
                        state.passed_on.insert(own, (number, id));
                        Vec::new()
                    }
                    None => vec![ClientMessage::Response { id, outcome: Outcome::Unknown }],
                }
            }
            ClientMessage::Response { id, outcome } => {
                if let Some((asker, id)) = state.passed_on.remove(&id) {
                    if let Some(conn) = state.conns.get(&asker) {
                        conn.say(&ClientMessage::Response { id, outcome });
                    }
                } else if let Some((_, waits)) = state.waiting.remove(&id) {
                    let _nobody = waits.send(outcome);
                }
                Vec::new()
            }
            other => panic!("a device does not say {other:?}"),
        }
    }

    /// Asks a device; gives the number. Without the device whoever waits is told.
    fn pass_on(
        &self,
        device: &DeviceId,
        payload: &[u8],
        deadline: Duration,
        tell: Sender<Outcome>,
    ) -> Option<u64> {
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let row = state.rows.get(device).filter(|row| row.stands);
        let found = row.and_then(|row| Some((row.conn, state.conns.get(&row.conn)?.clone())));
        let Some((number, conn)) = found else {
            let _nobody = tell.send(Outcome::Unknown);
            return None;
        };
        state.waiting.insert(id, (number, tell));
        drop(state);
        let (device, payload) = (device.clone(), payload.to_vec());
        conn.say(&ClientMessage::Request(Request { id, device, deadline, payload }));
        Some(id)
    }
}

impl State {
    fn register(&mut self, conn: u64, register: Register) -> ClientMessage {
        let Register { device, seq, nonce, .. } = register.clone();
        if self.retries > 0 {
            self.retries -= 1;
            return ClientMessage::Retry { device, after: Duration::from_millis(20) };
        }
        let known = self.rows.get(&device).copied();
        let again = known.is_some_and(|row| (row.seq, row.nonce) == (seq, nonce));
        if !again && seq <= known.map_or(0, |row| row.seq) {
            return ClientMessage::Jump { device, seq: known.map_or(0, |row| row.seq) };
        }
        if !again {
            self.log.push(register);
        }
        self.rows.insert(device.clone(), Row { seq, nonce, conn, stands: true });
        ClientMessage::Registered { device, seq, terms: self.terms.clone() }
    }
}
