//! Many devices, or one, over virtual sockets: the thread that all of it happens on.
//!
//! What the devices' program has to do with it is behind [`Program`]; all of that is called on the
//! reactor's thread, and does not block but for [`Program::save`].

mod asks;
mod lines;
mod timers;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use asks::Asks;
pub(super) use asks::Reply;
use crossbeam_channel::Receiver;
use eversock_engine::Config;
use lines::{Lines, Stage};
use timers::Timers;

use super::machine::{Event, Input, Machine, Output};
use crate::conn::{ConnId, Handler, Lane, Opened, Reactor};
use crate::limits::{DEADLINE_MAX, PAYLOAD_MAX};
use crate::model::{ControllerId, DeviceId};
use crate::shard::Millis;
use crate::wire::client::{ClientMessage, Outcome, Request};
use crate::wire::{Bye, Hello, Message, Place, Role, VERSION, VERSION_OLDEST, codes, frame};

/// Requests of devices that are not answered, at most.
const ASKS_MAX: usize = 4_096;
/// When to come again when there are more.
const FULL_AFTER: Duration = Duration::from_millis(200);
/// Commands that are done before the connections have their turn again.
const COMMANDS_PER_TURN: usize = 1_024;

/// What the devices' program does.
pub(super) trait Program: Send + 'static {
    /// See [`Output::Save`].
    fn save(&mut self, device: u32, seq: u64);

    /// A request for a device; its answer, or nothing if that comes with [`Command::Give`].
    fn serve(
        &mut self,
        device: u32,
        name: &DeviceId,
        from: &ControllerId,
        request: Request,
    ) -> Option<Outcome>;

    /// Something has happened to a device.
    fn event(&mut self, device: u32, event: Event);

    /// Something may have changed.
    fn changed(&mut self, device: u32, machine: &Machine);

    /// Whether parameters are to be fetched when there are others.
    fn wants_parameters(&self) -> bool {
        false
    }

    /// These are they.
    fn parameters(&mut self, _generation: u64, _text: String) {}
}

/// What is to be done, from other threads.
pub(super) enum Command {
    /// Tell a device this.
    Give(u32, Input),
    /// Ask another device on behalf of this one.
    Ask { device: u32, to: DeviceId, deadline: Duration, payload: Vec<u8>, reply: Reply },
}

/// See the module.
pub(super) struct Host<P> {
    pub(super) program: P,
    reactor: Reactor,
    socket: Config,
    begun: Instant,
    machines: Vec<Machine>,
    by_name: HashMap<DeviceId, u32>,
    per_connection: u32,
    timers: Timers,
    lines: Lines,
    asks: Asks,
    /// The program itself has said that a device is busy.
    busy: HashMap<u32, bool>,
    pending: VecDeque<(u32, Input)>,
    commands: Receiver<Command>,
}

impl<P: Program> Host<P> {
    pub(super) fn new(
        reactor: Reactor,
        socket: Config,
        machines: Vec<Machine>,
        per_connection: u32,
        program: P,
        commands: Receiver<Command>,
    ) -> Self {
        let names = machines.iter().map(|machine| machine.device().clone());
        let by_name = names.zip(0..).collect();
        let mut this = Self {
            program,
            reactor,
            socket,
            begun: Instant::now(),
            by_name,
            per_connection: per_connection.max(1),
            timers: Timers::new(machines.len()),
            machines,
            lines: Lines::default(),
            asks: Asks::default(),
            busy: HashMap::new(),
            pending: VecDeque::new(),
            commands,
        };
        for (device, _) in (0..).zip(&this.machines) {
            this.pending.push_back((device, Input::Start));
        }
        this.run();
        this
    }

    fn now(&self) -> Millis {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Gives the devices what is pending, and does what they want.
    fn run(&mut self) {
        let mut out = Vec::new();
        while let Some((device, input)) = self.pending.pop_front() {
            let now = self.now();
            let Some(machine) = self.machines.get_mut(device as usize) else { continue };
            machine.handle(now, input, &mut out);
            self.timers.set(device, machine.due());
            for output in out.drain(..) {
                self.perform(device, output);
            }
            // Whoever sees it finds told what came of it.
            if let Some(machine) = self.machines.get(device as usize) {
                self.program.changed(device, machine);
            }
        }
    }

    fn perform(&mut self, device: u32, output: Output) {
        match output {
            Output::Save(seq) => self.program.save(device, seq),
            Output::Open(place) => self.open(device, place),
            Output::Leave(controller) => self.leave(device, &controller),
            Output::Say { to, message } => {
                if let Some(conn) = self.conn(device, &to) {
                    self.reactor.send(conn, Lane::Control, frame(&message));
                }
            }
            Output::Serve { from, request } => {
                let Some(machine) = self.machines.get(device as usize) else { return };
                let id = request.id;
                let answer = self.program.serve(device, machine.device(), &from, request);
                if let Some(outcome) = answer {
                    self.pending.push_back((device, Input::Answer { from, id, outcome }));
                }
            }
            Output::Event(event) => {
                match &event {
                    Event::Silent { controller } => self.look_after(device, controller),
                    Event::Generation(_) => self.fetch_parameters(device),
                    _ => {}
                }
                self.program.event(device, event);
            }
        }
    }

    fn group(&self, device: u32) -> u32 {
        device / self.per_connection
    }

    fn open(&mut self, device: u32, place: Place) {
        let group = self.group(device);
        let Some(number) = self.lines.find(&place.controller, group) else {
            let number = self.lines.add(place.controller, group, device);
            return self.reactor.dial(place.addrs, self.socket.clone(), number);
        };
        let Some(line) = self.lines.get_mut(number) else { return };
        line.users.insert(device);
        if let Stage::Up(_) = line.stage {
            self.pending.push_back((device, Input::Opened { controller: place.controller }));
        }
    }

    fn leave(&mut self, device: u32, controller: &ControllerId) {
        let Some(number) = self.lines.find(controller, self.group(device)) else { return };
        let Some(line) = self.lines.get_mut(number) else { return };
        line.users.remove(&device);
        if line.users.is_empty() {
            let bye = Bye::new(codes::bye::CLOSING, "no device needs it any more");
            self.close(number, Some(bye));
        }
    }

    /// The connection by which a device speaks to that controller.
    fn conn(&self, device: u32, controller: &ControllerId) -> Option<ConnId> {
        let line = self.lines.get(self.lines.find(controller, self.group(device))?)?;
        match line.stage {
            Stage::Up(conn) if line.users.contains(&device) => Some(conn),
            _ => None,
        }
    }

    /// Ends a connection, and tells nobody.
    fn close(&mut self, number: u64, bye: Option<Bye>) -> Option<lines::Line> {
        let line = self.lines.remove(number)?;
        if let Some(conn) = line.conn() {
            if let Some(bye) = bye {
                let message = ClientMessage::Bye(bye);
                self.reactor.send(conn, Lane::Control, frame(&message));
            }
            self.reactor.close(conn);
        } else {
            self.reactor.forget(number);
        }
        for device in self.asks.lost(number) {
            self.say_busy(device);
        }
        Some(line)
    }

    /// A connection is over, or never came about: its devices are told.
    fn lost(&mut self, number: u64, after: Duration, why: Cow<'static, str>) {
        if let Some(line) = self.close(number, None) {
            self.tell_lost(line, after, why);
        }
    }

    fn tell_lost(&mut self, line: lines::Line, after: Duration, why: Cow<'static, str>) {
        log::debug!("no connection to {}: {why}", line.controller);
        for device in line.users {
            let (controller, why) = (line.controller.clone(), why.clone());
            self.pending.push_back((device, Input::Lost { controller, after, why }));
        }
    }

    /// A controller has left a handshake without an answer. If its session is cut, the controller
    /// may not know it any more, as it was started anew: another connection tells.
    fn look_after(&mut self, device: u32, controller: &ControllerId) {
        let Some(conn) = self.conn(device, controller) else { return };
        if self.reactor.is_cut(conn)
            && let Some(number) = self.lines.of_conn(conn)
        {
            let why = "it is cut, and nothing came for too long".into();
            self.lost(number, Duration::ZERO, why);
        }
    }

    fn fetch_parameters(&mut self, device: u32) {
        let machine = self.machines.get(device as usize);
        if self.program.wants_parameters()
            && let Some(controller) = machine.and_then(Machine::reachable)
            && let Some(conn) = self.conn(device, controller)
        {
            self.reactor.send(conn, Lane::Control, frame(&ClientMessage::GetParameters));
        }
    }

    /// Does what was told.
    fn obey(&mut self) {
        let mut left = COMMANDS_PER_TURN;
        while left > 0
            && let Ok(command) = self.commands.try_recv()
        {
            self.command(command);
            left -= 1;
        }
        if left == 0 {
            self.reactor.wake();
        }
        self.run();
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Give(device, Input::Busy(is_busy)) => {
                self.busy.insert(device, is_busy);
                self.say_busy(device);
            }
            Command::Give(device, input) => self.pending.push_back((device, input)),
            Command::Ask { device, to, deadline, payload, reply } => {
                self.ask(device, to, deadline, payload, reply);
            }
        }
    }

    /// A hand-over waits for what the program does, and for answers that come by the connection.
    fn say_busy(&mut self, device: u32) {
        let said = self.busy.get(&device).copied().unwrap_or(false);
        let is_busy = said || self.asks.has_of(device);
        self.pending.push_back((device, Input::Busy(is_busy)));
    }

    fn ask(
        &mut self,
        device: u32,
        to: DeviceId,
        deadline: Duration,
        payload: Vec<u8>,
        reply: Reply,
    ) {
        if payload.len() > PAYLOAD_MAX {
            let text = format!("{} bytes are more than {PAYLOAD_MAX}", payload.len());
            return reply.tell(Outcome::Refused(text));
        }
        if self.asks.len() >= ASKS_MAX {
            return reply.tell(Outcome::Busy { after: FULL_AFTER });
        }
        let controller = self.machines.get(device as usize).and_then(Machine::reachable);
        let conn = controller.and_then(|controller| self.conn(device, controller));
        let Some((conn, number)) = conn.and_then(|conn| Some((conn, self.lines.of_conn(conn)?)))
        else {
            let text = "no controller serves this device now".to_owned();
            return reply.tell(Outcome::Unreachable(text));
        };
        let deadline = deadline.min(DEADLINE_MAX);
        let until = self.now() + u64::try_from(deadline.as_millis()).unwrap_or(0).max(1);
        let id = self.asks.add(device, number, until, reply);
        let request = Request { id, device: to, deadline, payload };
        self.reactor.send(conn, Lane::Control, frame(&ClientMessage::Request(request)));
        self.say_busy(device);
    }

    /// What came by a connection that is greeted.
    fn heard(&mut self, number: u64, message: ClientMessage) -> Result<(), Bye> {
        let Some(line) = self.lines.get(number) else { return Ok(()) };
        let from = line.controller.clone();
        let device = match &message {
            ClientMessage::Registered { device, .. }
            | ClientMessage::Retry { device, .. }
            | ClientMessage::Jump { device, .. }
            | ClientMessage::Refused { device, .. }
            | ClientMessage::HandshakeOk { device, .. }
            | ClientMessage::Deregistered { device, .. }
            | ClientMessage::Reregister { device, .. }
            | ClientMessage::HandOff { device, .. } => device,
            ClientMessage::Request(request) => &request.device,
            ClientMessage::Bye(bye) => {
                let after = Duration::from_millis(bye.after_ms.into());
                let why = bye.to_string();
                self.lost(number, after, why.into());
                return Ok(());
            }
            ClientMessage::Response { .. } | ClientMessage::Parameters { .. } => {
                self.heard_answer(number, message);
                return Ok(());
            }
            ClientMessage::Hello(_)
            | ClientMessage::Welcome(_)
            | ClientMessage::Register(_)
            | ClientMessage::Handshake { .. }
            | ClientMessage::Deregister { .. }
            | ClientMessage::HandOffAnswer { .. }
            | ClientMessage::GetParameters => {
                let text = "a controller does not say that to a device";
                return Err(Bye::new(codes::bye::MALFORMED, text));
            }
        };
        if let Some(index) = self.by_name.get(device).filter(|index| line.users.contains(index)) {
            self.pending.push_back((*index, Input::Message { from, message }));
        } else if let ClientMessage::Request(request) = message
            && let Some(conn) = line.conn()
        {
            let outcome = Outcome::Unreachable("the device is not registered here".to_owned());
            let message = ClientMessage::Response { id: request.id, outcome };
            self.reactor.send(conn, Lane::Control, frame(&message));
        }
        Ok(())
    }

    fn heard_answer(&mut self, number: u64, message: ClientMessage) {
        match message {
            ClientMessage::Response { id, outcome } => {
                if let Some(device) = self.asks.answer(number, id, outcome) {
                    self.say_busy(device);
                }
            }
            ClientMessage::Parameters { generation, text } if self.program.wants_parameters() => {
                let Some(line) = self.lines.get(number) else { return };
                let has_it = |device| (device, Input::Generation(generation));
                self.pending.extend(line.users.iter().copied().map(has_it));
                self.program.parameters(generation, text);
            }
            _ => {}
        }
    }

    fn welcomed(&mut self, number: u64, message: ClientMessage) -> Result<(), Bye> {
        let Some(line) = self.lines.get_mut(number) else { return Ok(()) };
        let Stage::Greeting(conn) = line.stage else { return Ok(()) };
        let bye = match message {
            ClientMessage::Welcome(welcome) if welcome.controller != line.controller => {
                let text = format!(
                    "this is {}, and {} is wanted here: check the addresses",
                    welcome.controller, line.controller
                );
                Bye::new(codes::bye::MISMATCH, text)
            }
            ClientMessage::Welcome(welcome)
                if (VERSION_OLDEST..=VERSION).contains(&welcome.version) =>
            {
                line.stage = Stage::Up(conn);
                self.reactor.greeted(conn);
                for device in &line.users {
                    let controller = line.controller.clone();
                    self.pending.push_back((*device, Input::Opened { controller }));
                }
                return Ok(());
            }
            ClientMessage::Welcome(_) => {
                Bye::new(codes::bye::VERSION, "this version was not offered")
            }
            ClientMessage::Bye(bye) => {
                let after = Duration::from_millis(bye.after_ms.into());
                let why = bye.to_string();
                self.lost(number, after, why.into());
                return Ok(());
            }
            _ => Bye::new(codes::bye::MALFORMED, "the first message is to be a welcome"),
        };
        Err(bye)
    }
}

impl<P: Program> Handler for Host<P> {
    fn opened(&mut self, conn: ConnId, opened: Opened) {
        if self.lines.opened(opened.token, conn) {
            let hello = ClientMessage::Hello(Hello::new(Role::Device));
            self.reactor.send(conn, Lane::Control, frame(&hello));
        } else {
            self.reactor.close(conn);
        }
    }

    fn frame(&mut self, conn: ConnId, kind: u16, body: &[u8]) -> Result<(), Bye> {
        // What the program has said before a message was sent counts when that comes.
        self.obey();
        let Some(number) = self.lines.of_conn(conn) else { return Ok(()) };
        let result = match ClientMessage::decode(kind, body) {
            Err(error) if error.is_ignorable() => Ok(()),
            Err(error) => Err(Bye::malformed(&error)),
            Ok(message) => match self.lines.get(number).map(|line| line.stage) {
                Some(Stage::Up(_)) => self.heard(number, message),
                _ => self.welcomed(number, message),
            },
        };
        if let Err(bye) = &result {
            // The reactor says it and closes.
            let line = self.lines.get(number);
            let to = line.map(|line| line.controller.to_string()).unwrap_or_default();
            log::warn!("the connection to {to} is ended: {}", bye.text);
            if let Some(line) = self.lines.remove(number) {
                for device in self.asks.lost(number) {
                    self.say_busy(device);
                }
                self.tell_lost(line, Duration::ZERO, bye.text.clone().into());
            }
        }
        self.run();
        result
    }

    fn closed(&mut self, conn: ConnId, why: &str) {
        if let Some(number) = self.lines.of_conn(conn) {
            self.lost(number, Duration::ZERO, why.to_owned().into());
            self.run();
        }
    }

    fn dial_failed(&mut self, token: u64, why: String) {
        self.lost(token, Duration::ZERO, why.into());
        self.run();
    }

    fn turn(&mut self) -> Option<Instant> {
        self.obey();
        let now = self.now();
        while let Some(device) = self.timers.pop(now) {
            self.pending.push_back((device, Input::Tick));
            self.run();
        }
        while let Some(device) = self.asks.expire(now) {
            self.say_busy(device);
        }
        self.run();
        let next = [self.timers.next(), self.asks.next()].into_iter().flatten().min()?;
        Some(self.begun + Duration::from_millis(next))
    }
}
