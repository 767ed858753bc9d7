//! The process of a third party.

use std::collections::HashMap;
use std::sync::mpsc::channel;
use std::time::Duration;

use eversock_controller::third::{RouterConfig, Routes, ThirdParty, ThirdPartyConfig};
use eversock_controller::wire::client::Outcome;

use crate::child::{heard, say};
use crate::site::{CONTROLLERS, device, id, place, socket};

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// `VIA DEVICE...`: asks each of these devices something by way of that controller; says what came
/// of those that did not answer as they should.
pub(crate) fn run() {
    let by: HashMap<&str, ThirdParty> = CONTROLLERS.map(|via| (via, start(via))).into();
    let mut number = 0_u64;
    say("ready");
    while let Some(line) = heard() {
        let mut words = line.split(' ');
        let via = words.next().unwrap();
        if via == "close" {
            break;
        }
        let (told, answers) = channel();
        let mut asked = 0;
        for name in words {
            number += 1;
            asked += 1;
            let payload = format!("{via} {number}");
            let wanted = Outcome::Done(format!("{name}:{payload}").into_bytes());
            let (told, name) = (told.clone(), name.to_owned());
            let device = device(&name);
            let reply = move |outcome: Outcome| {
                let wrong = (outcome != wanted).then(|| format!("{outcome:?}"));
                told.send((name, wrong)).unwrap();
            };
            by[via].request(device, DEADLINE, payload.into_bytes(), Box::new(reply));
        }
        drop(told);
        let all: Vec<(String, Option<String>)> = answers.iter().collect();
        assert_eq!(all.len(), asked, "each is answered once");
        let wrong: Vec<(String, String)> =
            all.into_iter().filter_map(|(name, wrong)| Some((name, wrong?))).collect();
        say(&serde_json::to_string(&wrong).unwrap());
    }
}

fn start(via: &str) -> ThirdParty {
    let places = CONTROLLERS.iter().map(|name| place(name)).collect();
    let routes = Routes::new(places, Vec::new(), vec![id(via)]).unwrap();
    let router = RouterConfig::default();
    let config = ThirdPartyConfig { routes, router, socket: socket(), sockets: HashMap::default() };
    ThirdParty::start(config).unwrap()
}
