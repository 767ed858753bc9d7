//! One device in a program.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eversock_controller::device::{
    DeviceAgent, DeviceConfig, DeviceError, DeviceEvent, Event, State,
};
use eversock_controller::model::DeviceId;
use eversock_controller::wire::client::{ClientMessage, HandOffAnswer, Outcome};
use eversock_controller::wire::{Place, frame};

use crate::fake::Fake;
use crate::{LIMIT, policy, policy_at, until};

fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

/// One that echoes.
pub(crate) fn config(name: &str, fakes: &[&Fake]) -> DeviceConfig {
    DeviceConfig {
        on_request: Arc::new(|request| Outcome::Done(request.payload.clone())),
        ..DeviceConfig::new(device(name), policy(fakes))
    }
}

pub(crate) fn start(config: DeviceConfig) -> DeviceAgent {
    let agent = DeviceAgent::start(config).unwrap();
    assert!(agent.wait_registered(LIMIT), "{:?}", agent.state());
    agent
}

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("evs-device-{}-{name}", std::process::id()));
        let _there_is_none = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn registers_serves_and_deregisters() {
    let home = Fake::start("home");
    let agent = start(DeviceConfig { address: b"there".to_vec(), ..config("d1", &[&home]) });
    assert_eq!(agent.state().state, State::Home);
    // It had no counter, asked, and was told.
    let log = home.state().log.clone();
    assert_eq!((log.len(), log[0].seq, &log[0].address[..]), (1, 1, &b"there"[..]));
    assert_eq!(home.request(&device("d1"), b"hello"), Outcome::Done(b"hello".to_vec()));
    until("handshakes are answered", || home.state().handshakes >= 3);
    assert_eq!(agent.state().registered, Some((home.id.clone(), 1)));
    assert!(agent.deregister());
    assert_eq!(home.serves(&device("d1")), None);
    assert_eq!(agent.state().state, State::Ended);
    agent.register();
    assert!(agent.wait_registered(LIMIT));
    assert_eq!(home.serves(&device("d1")), Some(2));
    agent.close();
    // It is closed, and not deregistered.
    assert_eq!(home.serves(&device("d1")), Some(2));
    let closed = agent.request(device("d2"), LIMIT, Vec::new());
    assert!(matches!(closed, Outcome::Unreachable(_)), "{closed:?}");
}

#[test]
fn callbacks_may_block_and_may_panic() {
    let home = Fake::start("home");
    let (release, released) = crossbeam_channel::bounded::<()>(0);
    let calls = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&calls);
    let config = DeviceConfig {
        on_request: Arc::new(move |request| {
            counts.fetch_add(1, Ordering::Relaxed);
            match &request.payload[..] {
                b"panic" => panic!("as the test wants it"),
                b"large" => Outcome::Done(vec![0; 1 << 20]),
                b"block" => {
                    let _released = released.recv();
                    Outcome::Done(Vec::new())
                }
                _ => Outcome::Refused("no".to_owned()),
            }
        }),
        workers: 2,
        ..config("d1", &[&home])
    };
    let agent = start(config);
    let d1 = device("d1");
    assert!(matches!(home.request(&d1, b"panic"), Outcome::Refused(_)));
    assert!(matches!(home.request(&d1, b"large"), Outcome::Refused(_)));
    assert_eq!(home.request(&d1, b"else"), Outcome::Refused("no".to_owned()));
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| home.request(&d1, b"block"));
        until("the callback runs", || calls.load(Ordering::Relaxed) == 4);
        // Others go on, and so do handshakes; but it stays where it is.
        assert_eq!(home.request(&d1, b"else"), Outcome::Refused("no".to_owned()));
        let before = home.state().handshakes;
        until("handshakes go on", || home.state().handshakes > before + 1);
        home.hand_off(&d1, 1, Place { controller: "b1".parse().unwrap(), ..home.place() });
        until("it has answered", || !home.state().answers.is_empty());
        release.send(()).unwrap();
        assert_eq!(blocked.join().unwrap(), Outcome::Done(Vec::new()));
    });
    // b1 is no controller that it knows: that counts more than being busy.
    assert_eq!(home.state().answers, [(1, HandOffAnswer::Stays)]);
    drop(agent);
}

#[test]
fn asks_other_devices_through_its_controller() {
    let home = Fake::start("home");
    let asker = start(config("d1", &[&home]));
    let _other = start(config("d2", &[&home]));
    let asked = asker.request(device("d2"), LIMIT, b"question".to_vec());
    assert_eq!(asked, Outcome::Done(b"question".to_vec()));
    assert_eq!(asker.request(device("d3"), LIMIT, Vec::new()), Outcome::Unknown);
    let large = asker.request(device("d2"), LIMIT, vec![0; 1 << 20]);
    assert!(matches!(large, Outcome::Refused(_)), "{large:?}");
    // Nobody answers any more.
    home.set_silent(true);
    let late = asker.request(device("d2"), Duration::from_millis(100), Vec::new());
    assert_eq!(late, Outcome::TimedOut);
}

#[test]
fn goes_to_the_backup_and_home_when_it_is_told() {
    let (home, backup) = (Fake::start("home"), Fake::start("b1"));
    home.set_handshakes(100, 3);
    let agent = start(config("d1", &[&home, &backup]));
    home.set_silent(true);
    until("the backup serves it", || agent.state().state == State::Backup);
    let first = agent.state().registered.unwrap().1;
    assert!(first > 1, "a larger counter: {first}");
    home.set_silent(false);
    home.set_handshakes(1_000, 20);
    let before = backup.state().handshakes;
    until("it shakes hands there", || backup.state().handshakes > before + 2);
    assert_eq!(agent.state().state, State::Backup, "nobody has told it to go");
    agent.set_busy(true);
    // While the program is busy it is not torn away.
    backup.hand_off(&device("d1"), 4, home.place());
    until("it says so", || backup.state().answers == [(4, HandOffAnswer::Busy)]);
    agent.set_busy(false);
    backup.hand_off(&device("d1"), 5, home.place());
    until("it goes home", || agent.state().state == State::Home);
    let last = home.state().log.last().unwrap().clone();
    assert_eq!(last.token, 5);
    assert!(last.seq > first);
    assert_eq!(home.request(&device("d1"), b"back"), Outcome::Done(b"back".to_vec()));
    let events: Vec<_> = agent.events().try_iter().collect();
    let handed = Event::HandedOver { from: backup.id.clone(), to: home.id.clone() };
    assert!(events.contains(&DeviceEvent::Machine(handed)), "{events:?}");
    // Nobody was told that it leaves: the larger counter stands.
    assert!(backup.serves(&device("d1")).is_some());
}

#[test]
fn a_controller_that_was_started_anew_gets_its_devices_back() {
    let home = Fake::start("home");
    home.set_handshakes(200, 20);
    let agent = start(config("d1", &[&home]));
    let addr = home.addr;
    home.stop();
    let home = Fake::start_at("home", addr);
    until("it is registered again", || home.serves(&device("d1")).is_some());
    until("the device knows", || agent.state().state == State::Home);
    assert_eq!(agent.state().registered.unwrap().1, home.serves(&device("d1")).unwrap());
    assert_eq!(home.request(&device("d1"), b"again"), Outcome::Done(b"again".to_vec()));
}

#[test]
fn the_counter_goes_on_after_a_restart() {
    let folder = Folder::new("counter");
    let home = Fake::start("home");
    let path = folder.0.join("d1.counter");
    let kept = || DeviceConfig { counter: Some(path.clone()), ..config("d1", &[&home]) };
    let agent = start(kept());
    let again = DeviceAgent::start(kept());
    assert!(matches!(again, Err(DeviceError::Counter(_))), "{again:?}");
    drop(agent);
    let agent = start(kept());
    // Reserved up to 64: no question, no jump.
    assert_eq!(agent.state().registered.unwrap().1, 65);
    assert_eq!(home.state().log.iter().map(|register| register.seq).collect::<Vec<_>>(), [1, 65]);
    drop(agent);
    // What cannot be kept is told, and the device goes on.
    std::fs::create_dir(folder.0.join("d1.counter.new")).unwrap();
    let agent = start(kept());
    assert_eq!(agent.state().registered.unwrap().1, 129);
    let told = agent.events().try_iter().any(|e| matches!(e, DeviceEvent::NotSaved { .. }));
    assert!(told);
}

#[test]
fn a_controller_with_another_name_is_not_taken_for_it() {
    let (home, stranger) = (Fake::start("home"), Fake::start("stranger"));
    let wrong = Place { controller: "b0".parse().unwrap(), addrs: vec![stranger.addr] };
    let places = vec![wrong, home.place()];
    let agent = start(DeviceConfig { policy: policy_at(places), ..config("d1", &[&home]) });
    assert_eq!(agent.state().registered.unwrap().0, home.id);
    assert!(stranger.state().log.is_empty());
    let why = agent.events().try_iter().find_map(|event| match event {
        DeviceEvent::Machine(Event::Failed { why, .. }) => Some(why),
        _ => None,
    });
    assert!(why.unwrap().contains("stranger"));
}

#[test]
fn nonsense_ends_the_connection_and_no_more() {
    let home = Fake::start("home");
    let agent = start(config("d1", &[&home]));
    let register = ClientMessage::Register(home.state().log[0].clone());
    for bytes in [
        vec![0xff; 6],
        // No controller sends that.
        frame(&register),
        // A handshake's answer that ends too early.
        vec![1, 0, 0, 0, 7, 1, 0],
    ] {
        let before = home.state().connections;
        home.say_nonsense(&device("d1"), &bytes);
        until("another connection", || home.state().connections > before);
        until("it works", || home.request(&device("d1"), b"x") == Outcome::Done(b"x".to_vec()));
    }
    assert_eq!(agent.state().registered, Some((home.id.clone(), 1)), "still the first");
}

#[test]
fn parameters_are_fetched_when_there_are_others() {
    let home = Fake::start("home");
    home.set_handshakes(100, 20);
    let agent = start(config("d1", &[&home]));
    let mut state = home.state();
    state.terms.generation = 9;
    state.parameters = "volume = 11".to_owned();
    drop(state);
    let wanted = DeviceEvent::Parameters { generation: 9, text: "volume = 11".to_owned() };
    let events = agent.events();
    until("they come", || events.try_iter().any(|event| event == wanted));
    // Once, and the next registration says that it has them.
    let before = home.state().handshakes;
    until("some handshakes", || home.state().handshakes > before + 3);
    assert!(!events.try_iter().any(|event| matches!(event, DeviceEvent::Parameters { .. })));
    assert!(agent.deregister());
    agent.register();
    until("registered again", || home.state().log.len() == 2);
    assert_eq!(home.state().log[1].generation, 9);
}

#[test]
fn an_agent_may_be_closed_by_its_own_callback() {
    let home = Fake::start("home");
    let slot: Arc<std::sync::Mutex<Option<DeviceAgent>>> = Arc::default();
    let (own, (tell, told)) = (Arc::clone(&slot), crossbeam_channel::bounded(1));
    let agent = start(DeviceConfig {
        on_request: Arc::new(move |_| {
            drop(own.lock().unwrap().take());
            tell.send(()).unwrap();
            Outcome::Done(Vec::new())
        }),
        ..config("d1", &[&home])
    });
    *slot.lock().unwrap() = Some(agent);
    // Nobody answers it.
    home.ask(&device("d1"), b"");
    told.recv_timeout(LIMIT).unwrap();
    assert!(slot.lock().unwrap().is_none());
}
