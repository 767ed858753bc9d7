//! Many devices.

use eversock_controller::device::{DeviceError, Fleet, FleetConfig, State};
use eversock_controller::model::DeviceId;
use eversock_controller::wire::client::Outcome;

use crate::fake::Fake;
use crate::{policy, until};

fn names(count: usize) -> Vec<DeviceId> {
    (0..count).map(|i| format!("device-{i}").parse().unwrap()).collect()
}

#[test]
fn many_devices_move_over_few_connections() {
    const COUNT: usize = 3_000;
    let (home, backup) = (Fake::start("home"), Fake::start("b1"));
    home.set_handshakes(1_000, 4);
    home.state().retries = 500;
    let devices = names(COUNT);
    let fleet = Fleet::start(FleetConfig {
        seed: Some(1),
        ..FleetConfig::new(devices.clone(), policy(&[&home, &backup]))
    })
    .unwrap();
    until("all are at home", || fleet.status().states.get("home") == Some(&COUNT));
    assert_eq!(home.state().connections, 3, "one for a thousand");
    let status = fleet.status();
    assert_eq!(status.served.get(&home.id), Some(&COUNT));
    assert_eq!(status.took.count(), COUNT as u64);
    assert!(status.took.longest() >= status.answers.quantile(99.0));
    // They echo.
    for device in devices.iter().step_by(501) {
        let payload = device.as_str().as_bytes();
        assert_eq!(home.request(device, payload), Outcome::Done(payload.to_vec()));
    }
    assert_eq!(fleet.status().requests, 6);
    // The home falls silent.
    home.set_silent(true);
    until("all are at the backup", || fleet.status().states.get("backup") == Some(&COUNT));
    assert_eq!(backup.state().connections, 3);
    let (state, registered) = fleet.device(&devices[77]).unwrap();
    let (controller, seq) = registered.unwrap();
    assert_eq!((state, controller), (State::Backup, backup.id.clone()));
    assert_eq!(backup.serves(&devices[77]), Some(seq));
    assert_eq!(fleet.device(&"nobody".parse().unwrap()), None);
    // Some go home.
    home.set_silent(false);
    home.set_handshakes(1_000, 20);
    for device in &devices[..100] {
        backup.hand_off(device, 8, home.place());
    }
    until("they are there", || fleet.status().handed_over == 100);
    assert_eq!(fleet.status().served.get(&home.id), Some(&100));
    fleet.deregister(&devices[..50]);
    until("they are gone", || fleet.status().states.get("ended") == Some(&50));
    assert_eq!(fleet.registered(), COUNT - 50);
    fleet.deregister(&[]);
    until("all are gone", || fleet.status().states.get("ended") == Some(&COUNT));
    fleet.close();
}

#[test]
fn a_hook_that_panics_costs_one_answer() {
    let home = Fake::start("home");
    let devices = names(2);
    let mut config = FleetConfig::new(devices.clone(), policy(&[&home]));
    config.traffic = Box::new(|device, request| {
        assert_ne!(device.as_str(), "device-0", "as the test wants it");
        Outcome::Done(request.payload)
    });
    let fleet = Fleet::start(config).unwrap();
    until("both are there", || fleet.registered() == 2);
    assert!(matches!(home.request(&devices[0], b"x"), Outcome::Refused(_)));
    assert_eq!(home.request(&devices[1], b"x"), Outcome::Done(b"x".to_vec()));
    assert_eq!(fleet.status().failure, "");
}

#[test]
fn a_fleet_that_cannot_be_is_refused() {
    let home = Fake::start("home");
    let start = |devices, per_connection| {
        let config = FleetConfig::new(devices, policy(&[&home]));
        Fleet::start(FleetConfig { per_connection, ..config }).unwrap_err()
    };
    let is = |error: DeviceError, part: &str| assert!(error.to_string().contains(part), "{error}");
    is(start(Vec::new(), 10), "devices is 0");
    is(start(names(1), 0), "per_connection is 0");
    is(start([names(3), names(1)].concat(), 10), "two devices device-0");
}
