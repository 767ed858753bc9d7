//! What a third party does on its thread.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eversock_engine::Config;

use super::{Inbox, Reply, ThirdPartyConfig, Wish, lock};
use crate::conn::{ConnId, Handler, Lane, Opened, Reactor};
use crate::model::ControllerId;
use crate::shard::Millis;
use crate::third::client::{Action, Ask, Router};
use crate::wire::client::{ClientMessage, Outcome};
use crate::wire::{Bye, Hello, Message, Role, VERSION, VERSION_OLDEST, Welcome, codes, frame};

/// A connection to a controller.
struct Conn {
    controller: ControllerId,
    is_greeted: bool,
    /// What the controller said at last.
    bye: Option<String>,
}

pub(super) struct Host {
    router: Router,
    socket: Config,
    sockets: HashMap<ControllerId, Config>,
    reactor: Reactor,
    inbox: Arc<Mutex<Inbox>>,
    began: Instant,
    /// What is being dialled, by token.
    dialling: HashMap<u64, ControllerId>,
    next_token: u64,
    conns: HashMap<ConnId, Conn>,
    /// Those that are greeted.
    by_controller: HashMap<ControllerId, ConnId>,
    replies: HashMap<u64, Reply>,
    next_number: u64,
}

impl Host {
    pub(super) fn new(
        config: ThirdPartyConfig,
        reactor: Reactor,
        inbox: Arc<Mutex<Inbox>>,
    ) -> Self {
        Self {
            router: Router::new(config.router, config.routes),
            socket: config.socket,
            sockets: config.sockets,
            reactor,
            inbox,
            began: Instant::now(),
            dialling: HashMap::new(),
            next_token: 0,
            conns: HashMap::new(),
            by_controller: HashMap::new(),
            replies: HashMap::new(),
            next_number: 0,
        }
    }

    fn now(&self) -> Millis {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Tells the router something, and does what it wants done.
    fn tell(&mut self, what: impl FnOnce(&mut Router, Millis, &mut Vec<Action>)) {
        let (now, mut actions) = (self.now(), Vec::new());
        what(&mut self.router, now, &mut actions);
        for action in actions {
            match action {
                Action::Connect { controller, addrs } => {
                    let socket = self.sockets.get(&controller).unwrap_or(&self.socket).clone();
                    self.next_token += 1;
                    self.dialling.insert(self.next_token, controller);
                    self.reactor.dial(addrs, socket, self.next_token);
                }
                Action::Send { controller, request } => {
                    // Without a connection the router hears soon that it is lost.
                    if let Some(conn) = self.by_controller.get(&controller) {
                        let message = frame(&ClientMessage::Request(request));
                        self.reactor.send(*conn, Lane::Control, message);
                    }
                }
                Action::Answer { number, outcome } => {
                    if let Some(reply) = self.replies.remove(&number) {
                        answer(reply, outcome);
                    }
                }
            }
        }
    }

    fn take(&mut self, wish: Wish) {
        let number = self.next_number;
        self.next_number += 1;
        self.replies.insert(number, wish.reply);
        let ask = Ask {
            number,
            device: wish.device,
            deadline: wish.deadline.saturating_sub(wish.since.elapsed()),
            payload: wish.payload,
            is_idempotent: wish.is_idempotent,
        };
        self.tell(|router, now, out| router.ask(now, ask, out));
    }

    fn welcome(&mut self, conn: ConnId, welcome: &Welcome) -> Result<(), Bye> {
        let Some(at) = self.conns.get_mut(&conn).filter(|at| !at.is_greeted) else {
            return Err(Bye::new(codes::bye::MALFORMED, "a second welcome"));
        };
        if !(VERSION_OLDEST..=VERSION).contains(&welcome.version) {
            let text = format!("version {} was not offered", welcome.version);
            return Err(Bye::new(codes::bye::VERSION, text));
        }
        if welcome.controller != at.controller {
            let (here, wanted) = (&welcome.controller, &at.controller);
            let text = format!("{here} answers where {wanted} should be: check the places");
            return Err(Bye::new(codes::bye::MISMATCH, text));
        }
        at.is_greeted = true;
        let controller = at.controller.clone();
        self.reactor.greeted(conn);
        self.by_controller.insert(controller.clone(), conn);
        self.tell(|router, now, out| router.connected(now, &controller, out));
        Ok(())
    }

    fn message(&mut self, conn: ConnId, message: ClientMessage) -> Result<(), Bye> {
        let Some(at) = self.conns.get_mut(&conn) else { return Ok(()) };
        match message {
            ClientMessage::Welcome(welcome) => self.welcome(conn, &welcome),
            ClientMessage::Bye(bye) => {
                at.bye = Some(bye.to_string());
                self.reactor.close(conn);
                Ok(())
            }
            ClientMessage::Response { id, outcome } if at.is_greeted => {
                let controller = at.controller.clone();
                self.tell(|router, now, out| router.response(now, &controller, id, outcome, out));
                Ok(())
            }
            other => {
                let text = format!("no message of type {:#06x} is expected here", other.kind());
                Err(Bye::new(codes::bye::MALFORMED, text))
            }
        }
    }
}

impl Handler for Host {
    fn opened(&mut self, conn: ConnId, opened: Opened) {
        let Some(controller) = self.dialling.remove(&opened.token) else {
            self.reactor.close(conn);
            return;
        };
        self.conns.insert(conn, Conn { controller, is_greeted: false, bye: None });
        let hello = ClientMessage::Hello(Hello::new(Role::ThirdParty));
        self.reactor.send(conn, Lane::Control, frame(&hello));
    }

    fn frame(&mut self, conn: ConnId, kind: u16, body: &[u8]) -> Result<(), Bye> {
        let refused = match ClientMessage::decode(kind, body) {
            Ok(message) => self.message(conn, message),
            Err(error) if error.is_ignorable() => Ok(()),
            Err(error) => Err(Bye::malformed(&error)),
        };
        if let (Err(bye), Some(at)) = (&refused, self.conns.get_mut(&conn)) {
            log::warn!("{} talks nonsense: {}", at.controller, bye.text);
            at.bye = Some(bye.text.clone());
        }
        refused
    }

    fn closed(&mut self, conn: ConnId, why: &str) {
        let Some(Conn { controller, bye, .. }) = self.conns.remove(&conn) else { return };
        self.by_controller.remove(&controller);
        let why = bye.as_deref().unwrap_or(why);
        self.tell(|router, now, out| router.lost(now, &controller, why, out));
    }

    fn dial_failed(&mut self, token: u64, why: String) {
        if let Some(controller) = self.dialling.remove(&token) {
            self.tell(|router, now, out| router.lost(now, &controller, &why, out));
        }
    }

    fn turn(&mut self) -> Option<Instant> {
        let (wishes, routes) = {
            let mut inbox = lock(&self.inbox);
            (std::mem::take(&mut inbox.wishes), inbox.routes.take())
        };
        if let Some(routes) = routes {
            self.router.set_routes(routes);
        }
        for wish in wishes {
            self.take(wish);
        }
        self.tell(|router, now, out| router.tick(now, out));
        self.router.due().map(|due| self.began + Duration::from_millis(due))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.tell(|router, _, out| router.close(out));
        let wishes = {
            let mut inbox = lock(&self.inbox);
            inbox.is_over = true;
            std::mem::take(&mut inbox.wishes)
        };
        for wish in wishes {
            let text = "this third party has ended before it was sent".to_owned();
            answer(wish.reply, Outcome::Unreachable(text));
        }
    }
}

/// A reply is somebody else's code: its panic must not end all the others.
fn answer(reply: Reply, outcome: Outcome) {
    if catch_unwind(AssertUnwindSafe(|| reply(outcome))).is_err() {
        log::error!("a reply to a request has panicked");
    }
}
