//! Controllers that answer what a test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use eversock_controller::conn::{ConnId, Handler, Lane, Opened, Reactor, ReactorThread};
use eversock_controller::model::{ControllerId, DeviceId};
use eversock_controller::third::{
    BreakerConfig, Reply, RouterConfig, Routes, ThirdParty, ThirdPartyConfig,
};
use eversock_controller::wire::client::{ClientMessage, Outcome, Request};
use eversock_controller::wire::{Bye, Message, Place, Role, VERSION, Welcome, codes, frame};
use eversock_engine::Config;
use eversock_socket::VirtualListener;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn config() -> Config {
    let grace = Duration::from_secs(120);
    Config { grace, grace_after_close: grace, linger: Duration::from_secs(1), ..Config::default() }
}

pub(crate) fn id(name: &str) -> ControllerId {
    name.parse().unwrap()
}

pub(crate) fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

pub(crate) fn place(name: &str, addr: SocketAddr) -> Place {
    Place { controller: id(name), addrs: vec![addr] }
}

/// What a controller does about a request.
pub(crate) enum Does {
    Says(Outcome),
    Nothing,
    EndsTheConnection,
}

type Script = dyn FnMut(&Request) -> Does + Send;

struct Host {
    name: ControllerId,
    reactor: Reactor,
    script: Box<Script>,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Handler for Host {
    fn opened(&mut self, _: ConnId, _: Opened) {}

    fn frame(&mut self, conn: ConnId, kind: u16, body: &[u8]) -> Result<(), Bye> {
        let message = match ClientMessage::decode(kind, body).map_err(|e| Bye::malformed(&e))? {
            ClientMessage::Hello(hello) => {
                hello.agree(&[Role::ThirdParty])?;
                self.reactor.greeted(conn);
                let controller = self.name.clone();
                ClientMessage::Welcome(Welcome { version: VERSION, controller })
            }
            ClientMessage::Request(request) => {
                self.asked.lock().unwrap().push(request.clone());
                match (self.script)(&request) {
                    Does::Says(outcome) => ClientMessage::Response { id: request.id, outcome },
                    Does::Nothing => return Ok(()),
                    Does::EndsTheConnection => {
                        return Err(Bye::new(codes::bye::MAINTENANCE, "not now"));
                    }
                }
            }
            _ => return Ok(()),
        };
        self.reactor.send(conn, Lane::Control, frame(&message));
        Ok(())
    }

    fn closed(&mut self, _: ConnId, _: &str) {}

    fn dial_failed(&mut self, _: u64, _: String) {}

    fn turn(&mut self) -> Option<Instant> {
        None
    }
}

/// Ends when it is dropped.
pub(crate) struct Controller {
    pub(crate) addr: SocketAddr,
    pub(crate) asked: Arc<Mutex<Vec<Request>>>,
    _thread: ReactorThread,
}

impl Controller {
    pub(crate) fn start(name: &str, script: impl FnMut(&Request) -> Does + Send + 'static) -> Self {
        let listener = VirtualListener::bind_with("127.0.0.1:0", config()).unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (name, own) = (id(name), Arc::clone(&asked));
        let host = |reactor| Host { name, reactor, script: Box::new(script), asked: own };
        let (reactor, thread) = Reactor::start("fake", host).unwrap();
        reactor.listen(listener, 0, 10);
        Self { addr, asked, _thread: thread }
    }

    /// One that has all devices, which say what they were told.
    pub(crate) fn echo(name: &str) -> Self {
        Self::start(name, |request| Does::Says(Outcome::Done(request.payload.clone())))
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// A third party that knows these places, and asks them in this order.
pub(crate) fn third_party(places: Vec<Place>) -> ThirdParty {
    let default = places.iter().map(|place| place.controller.clone()).collect();
    let routes = Routes::new(places, Vec::new(), default).unwrap();
    let breaker = BreakerConfig { failures_max: 1, pause: 50, pause_max: 200 };
    let router = RouterConfig { breaker, ..RouterConfig::default() };
    let (socket, sockets) = (config(), Default::default());
    ThirdParty::start(ThirdPartyConfig { routes, router, socket, sockets }).unwrap()
}

/// A reply, and where what it is told comes.
pub(crate) fn reply() -> (Reply, Receiver<Outcome>) {
    let (tell, told) = bounded(2);
    (Box::new(move |outcome| tell.send(outcome).unwrap()), told)
}

/// An address at which nobody listens: no system gives it away by itself.
pub(crate) fn nowhere() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}
