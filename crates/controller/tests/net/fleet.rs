//! The process of devices.

use eversock_controller::device::{Fleet, FleetConfig, Policy};
use eversock_controller::wire::client::Outcome;
use serde::{Deserialize, Serialize};

use crate::child::{heard, say};
use crate::site::{device, place, socket};

/// Devices of one home.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) devices: Vec<String>,
    /// Its home, then where they go besides.
    pub(crate) controllers: Vec<String>,
}

/// Where a device says it is: its name, its state, its controller and the counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stands {
    pub(crate) device: String,
    pub(crate) state: String,
    pub(crate) at: Option<(String, u64)>,
}

/// Devices that share a connection.
const PER_CONNECTION: u32 = 20;

pub(crate) fn run(groups: &str) {
    let groups: Vec<Group> = serde_json::from_str(groups).unwrap();
    let fleets: Vec<Fleet> = groups.iter().map(start).collect();
    say("ready");
    while let Some(line) = heard() {
        let mut words = line.split(' ');
        let command = words.next().unwrap();
        let devices: Vec<_> = words.map(device).collect();
        let answer = match command {
            "where" => serde_json::to_string(&all(&groups, &fleets)).unwrap(),
            "registrations" => {
                let all = fleets.iter().map(|fleet| fleet.status().registrations);
                all.sum::<u64>().to_string()
            }
            "requests" => {
                let all = fleets.iter().map(|fleet| fleet.status().requests);
                all.sum::<u64>().to_string()
            }
            "deregister" => {
                fleets.iter().for_each(|fleet| fleet.deregister(&devices));
                String::new()
            }
            "register" => {
                fleets.iter().for_each(|fleet| fleet.register(&devices));
                String::new()
            }
            "close" => break,
            other => panic!("no command {other}"),
        };
        say(&answer);
    }
    fleets.iter().for_each(Fleet::close);
}

fn start(group: &Group) -> Fleet {
    let policy = Policy {
        base: 100,
        base_all: 300,
        cap: 2_000,
        answer_within: 5_000,
        patience: 2_000,
        attempt_every: 500,
        attempt_burst: 20,
        start_within: 300,
        handshake_min: 200,
        ..Policy::new(group.controllers.iter().map(|name| place(name)).collect())
    };
    let devices = group.devices.iter().map(|name| device(name)).collect();
    let mut config = FleetConfig::new(devices, policy);
    (config.per_connection, config.socket) = (PER_CONNECTION, socket());
    config.traffic = Box::new(|device, request| {
        let mut answer = format!("{device}:").into_bytes();
        answer.extend(request.payload);
        Outcome::Done(answer)
    });
    Fleet::start(config).unwrap()
}

fn all(groups: &[Group], fleets: &[Fleet]) -> Vec<Stands> {
    let of = |(group, fleet): (&Group, &Fleet)| {
        let one = |name: &String| {
            let (state, at) = fleet.device(&device(name)).unwrap();
            let at = at.map(|(controller, seq)| (controller.to_string(), seq));
            Stands { device: name.clone(), state: state.as_str().to_owned(), at }
        };
        group.devices.iter().map(one).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = groups.iter().zip(fleets).flat_map(of).collect();
    all.sort_by(|a, b| a.device.cmp(&b.device));
    all
}
