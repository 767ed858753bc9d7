//! Connections that are cut under a device.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use eversock_chaos::{Config, Fault, Proxy, Target};
use eversock_controller::device::{DeviceConfig, State};
use eversock_controller::model::DeviceId;
use eversock_controller::wire::Place;
use eversock_controller::wire::client::Outcome;

use crate::agent::{config, start};
use crate::fake::Fake;
use crate::{policy_at, until};

fn behind(fake: &Fake) -> (Proxy, Place) {
    let proxy = Proxy::spawn(Config::new("127.0.0.1:0".parse().unwrap(), fake.addr)).unwrap();
    let place = Place { addrs: vec![proxy.local_addr()], ..fake.place() };
    (proxy, place)
}

#[test]
fn resets_are_not_noticed() {
    let home = Fake::start("home");
    let (proxy, place) = behind(&home);
    let device: DeviceId = "d1".parse().unwrap();
    let policy = policy_at(vec![place]);
    let agent = start(DeviceConfig { policy, workers: 4, ..config("d1", &[&home]) });
    let (done, cuts) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let hit = proxy.inject(Fault::Reset, Target::All).unwrap();
                cuts.fetch_add(hit, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        // Whatever this finds, the other thread has to end.
        let outcomes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let end = Instant::now() + crate::LIMIT;
            let mut asked = 0u32;
            while (cuts.load(Ordering::Relaxed) < 20 || asked < 200) && Instant::now() < end {
                let payload = asked.to_le_bytes();
                assert_eq!(home.request(&device, &payload), Outcome::Done(payload.to_vec()));
                asked += 1;
            }
            asked
        }));
        done.store(true, Ordering::Relaxed);
        assert!(outcomes.unwrap() >= 200);
    });
    assert!(cuts.load(Ordering::Relaxed) >= 20);
    // Not one more registration.
    assert_eq!(home.state().log.len(), 1);
    assert_eq!(agent.state().registered, Some((home.id.clone(), 1)));
    proxy.stop();
}

#[test]
fn a_home_behind_a_dead_line_is_left_and_the_backup_serves_on() {
    let (home, backup) = (Fake::start("home"), Fake::start("b1"));
    home.set_handshakes(200, 4);
    let (proxy, place) = behind(&home);
    let policy = policy_at(vec![place, backup.place()]);
    let agent = start(DeviceConfig { policy, ..config("d1", &[&home]) });
    assert_eq!(agent.state().state, State::Home);
    // Nothing passes any more, and nobody says so.
    proxy.inject("refuse closed for 600s".parse().unwrap(), Target::All).unwrap();
    proxy.inject("blackhole both for 600s".parse().unwrap(), Target::All).unwrap();
    until("the backup serves it", || agent.state().state == State::Backup);
    let device: DeviceId = "d1".parse().unwrap();
    assert_eq!(backup.request(&device, b"here"), Outcome::Done(b"here".to_vec()));
    assert!(backup.serves(&device) > home.serves(&device));
    proxy.stop();
}

#[test]
fn a_session_that_is_gone_is_replaced_by_another_connection() {
    let home = Fake::start("home");
    home.set_handshakes(200, 20);
    let (proxy, place) = behind(&home);
    let policy = policy_at(vec![place]);
    let agent = start(DeviceConfig { policy, ..config("d1", &[&home]) });
    let device: DeviceId = "d1".parse().unwrap();
    // The line is dead for more than one handshake: another connection is made as soon as there can
    // be one, and the registration stands.
    proxy.inject("refuse closed for 1500ms".parse().unwrap(), Target::All).unwrap();
    proxy.inject(Fault::Reset, Target::All).unwrap();
    until("it is silent", || agent.state().state == State::Probing);
    until("it is home again", || agent.state().state == State::Home);
    until("it answers", || home.request(&device, b"x") == Outcome::Done(b"x".to_vec()));
    assert_eq!(agent.state().registered, Some((home.id.clone(), 1)));
    proxy.stop();
}
