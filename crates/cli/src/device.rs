//! `evs device`: devices of controllers, simulated: they register, answer requests with an echo,
//! and say what happens to them.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use eversock_controller::config::DeviceFile;
use eversock_controller::device::{
    DeviceAgent, DeviceConfig, DeviceEvent, Event, Fleet, FleetConfig, Policy, State,
};
use eversock_controller::model::{ControllerId, DeviceId};
use eversock_controller::wire::Place;
use eversock_controller::wire::client::Outcome;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::{lines, output, signals, units};

/// Simulate devices: they register with their home, or with their backup while it does not answer,
/// and answer requests with what they were asked.
///
/// Goes on until SIGINT or SIGTERM; a second one ends it at once. Up to 64 devices have connections
/// of their own, and say what happens to them; more share connections, and say how many are where.
#[derive(Debug, Args)]
pub(crate) struct Device {
    /// Their names.
    names: Vec<String>,
    /// What their names begin with, with --count: PREFIX1, PREFIX2, ...
    #[arg(long, value_name = "PREFIX", requires = "count", conflicts_with = "names")]
    prefix: Option<String>,
    /// How many.
    #[arg(long, value_name = "N", requires = "prefix")]
    count: Option<usize>,
    /// A device as a file says it (see examples/device.toml); without names, that one.
    #[arg(long, value_name = "FILE", required_unless_present = "home")]
    config: Option<PathBuf>,
    /// Where they belong: the controller's name and its door.
    #[arg(long, value_name = "NAME=HOST:PORT", value_parser = place, conflicts_with = "config")]
    home: Option<Place>,
    /// Where they go else, best first.
    #[arg(long, value_name = "NAME=HOST:PORT", value_parser = place, requires = "home")]
    backup: Vec<Place>,
    /// Deregister at the end, all at once; exit status 1 if a controller has not confirmed one of
    /// up to 64 devices.
    #[arg(long)]
    deregister: bool,
    /// End also when standard input does.
    #[arg(long)]
    with_input: bool,
    /// Print what happens as JSON, a line for each event.
    #[arg(long)]
    json: bool,
    /// How often many devices say how many are where.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "2s")]
    interval: Duration,
}

/// Devices with connections of their own; each has two threads.
const AGENTS_MAX: usize = 64;
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// `NAME=HOST:PORT`, or several behind the name with commas between them.
pub(crate) fn place(text: &str) -> Result<Place, String> {
    let (name, places) = text.split_once('=').ok_or("expected NAME=HOST:PORT")?;
    let controller: ControllerId =
        name.parse().map_err(|error: eversock_controller::model::NameError| error.to_string())?;
    let mut addrs: Vec<SocketAddr> = Vec::new();
    for place in places.split(',') {
        let found = place.to_socket_addrs().map_err(|error| format!("{place:?}: {error}"))?;
        addrs.extend(found);
    }
    Ok(Place { controller, addrs })
}

impl Device {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let (stop, stopped) = channel();
        let on_signal = stop.clone();
        let mut is_ending = false;
        let on_signal = move |name| {
            // Deregistering may take as long as controllers do not answer.
            if std::mem::replace(&mut is_ending, true) {
                signals::leave_now(1);
            }
            let _ends = on_signal.send(name);
        };
        signals::on_each(on_signal)
            .map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
        if self.with_input {
            let input = lines::from_stdin()
                .map_err(|error| Failure::new(format!("cannot watch the input: {error}")))?;
            thread::spawn(move || {
                input.iter().for_each(drop);
                let _ends = stop.send("the end of the input");
            });
        }
        let config = self.device_config()?;
        let names = self.devices(&config)?;
        let wait = |patience| stopped.recv_timeout(patience).is_ok();
        if names.len() <= AGENTS_MAX {
            self.run_agents(&config, names, wait)
        } else {
            self.run_fleet(config, names, wait)
        }
    }

    /// What all have in common.
    fn device_config(&self) -> Result<DeviceConfig, Failure> {
        if let Some(path) = &self.config {
            let file = DeviceFile::from_file(path).map_err(Failure::usage)?;
            return file.device_config().map_err(Failure::new);
        }
        let places = self.home.iter().chain(&self.backup).cloned().collect();
        let name = "unnamed".parse().map_err(Failure::usage)?;
        Ok(DeviceConfig::new(name, Policy::new(places)))
    }

    fn devices(&self, config: &DeviceConfig) -> Result<Vec<DeviceId>, Failure> {
        let names: Vec<String> = match (&self.prefix, self.count) {
            (Some(prefix), Some(count)) => (1..=count).map(|n| format!("{prefix}{n}")).collect(),
            _ => self.names.clone(),
        };
        if names.is_empty() && self.config.is_some() {
            return Ok(vec![config.device.clone()]);
        }
        if names.is_empty() {
            return Err(Failure::usage("no device: give names, or --prefix and --count"));
        }
        let parsed = names.iter().map(|name| name.parse::<DeviceId>().map_err(Failure::usage));
        parsed.collect()
    }

    fn say_ready(&self, devices: usize) -> Result<(), Failure> {
        if self.json {
            let pid = std::process::id();
            return output::json_line(&json!({ "kind": "ready", "pid": pid, "devices": devices }));
        }
        output::text(&format!("{devices} devices\n"))
    }

    fn run_agents(
        &self,
        config: &DeviceConfig,
        names: Vec<DeviceId>,
        wait: impl Fn(Duration) -> bool,
    ) -> Result<bool, Failure> {
        let is_named = !self.names.is_empty() || self.prefix.is_some();
        let mut agents = Vec::new();
        for device in names {
            let mut config = DeviceConfig { device: device.clone(), ..config.clone() };
            if is_named && let Some(counter) = &mut config.counter {
                // A file for each.
                counter.as_mut_os_string().push(format!(".{device}"));
            }
            let (json, asked) = (self.json, device.clone());
            config.on_request = Arc::new(move |request| {
                let payload = eversock_controller::report::printable(&request.payload);
                let value = json!({ "event": "asked", "payload": payload });
                // A reader that has gone is no reason not to answer.
                let _gone = say(json, &asked, value);
                Outcome::Done(request.payload.clone())
            });
            let agent = DeviceAgent::start(config)
                .map_err(|error| Failure::new(format!("{device}: {error}")))?;
            let (events, json) = (agent.events(), self.json);
            let told = device.clone();
            spawn(move || {
                for event in events {
                    if say(json, &told, shown(&event)).is_err() {
                        return;
                    }
                }
            })?;
            agents.push((device, agent));
        }
        self.say_ready(agents.len())?;
        while !wait(INTERVAL_MIN) {
            for (device, agent) in &agents {
                let failure = agent.state().failure;
                if !failure.is_empty() {
                    return Err(Failure::new(format!("{device}: {failure}")));
                }
            }
        }
        let mut all_confirmed = true;
        if self.deregister {
            // All at once: each may have to wait.
            thread::scope(|scope| {
                let asked: Vec<_> =
                    agents.iter().map(|(_, agent)| scope.spawn(|| agent.deregister())).collect();
                for asked in asked {
                    all_confirmed &= asked.join().unwrap_or(false);
                }
            });
        }
        agents.iter().for_each(|(_, agent)| agent.close());
        Ok(all_confirmed)
    }

    fn run_fleet(
        &self,
        config: DeviceConfig,
        names: Vec<DeviceId>,
        wait: impl Fn(Duration) -> bool,
    ) -> Result<bool, Failure> {
        let count = names.len();
        if config.counter.is_some() || !config.address.is_empty() || config.workers != 1 {
            return Err(Failure::usage(format!(
                "more than {AGENTS_MAX} devices have no `counter`, `address` or `workers`: leave \
                 them out of the file, or start fewer"
            )));
        }
        let mut fleet = FleetConfig::new(names, config.policy);
        fleet.socket = config.socket;
        let fleet = Fleet::start(fleet).map_err(Failure::new)?;
        self.say_ready(count)?;
        let began = Instant::now();
        while !wait(self.interval.max(INTERVAL_MIN)) {
            let status = fleet.status();
            if !status.failure.is_empty() {
                return Err(Failure::new(status.failure));
            }
            let served: serde_json::Map<String, Value> =
                status.served.iter().map(|(who, n)| (who.to_string(), json!(n))).collect();
            if self.json {
                output::json_line(&json!({
                    "kind": "status",
                    "seconds": began.elapsed().as_secs_f64(),
                    "states": status.states,
                    "served": served,
                    "registrations": status.registrations,
                    "failures": status.failures,
                    "losses": status.losses,
                    "handed_over": status.handed_over,
                    "hand_overs_failed": status.hand_overs_failed,
                    "requests": status.requests,
                }))?;
            } else {
                let each = served.iter().map(|(who, n)| format!("{who} {n}"));
                let each = each.collect::<Vec<_>>().join(", ");
                output::text(&format!(
                    "served: {each}; {} registrations, {} requests\n",
                    status.registrations, status.requests
                ))?;
            }
        }
        if self.deregister {
            fleet.deregister(&[]);
            loop {
                let status = fleet.status();
                if !status.failure.is_empty() {
                    return Err(Failure::new(status.failure));
                }
                if status.states.get(State::Ended.as_str()) == Some(&count) {
                    break;
                }
                thread::sleep(INTERVAL_MIN);
            }
        }
        fleet.close();
        Ok(true)
    }
}

fn spawn(job: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let begun = thread::Builder::new().name("device-events".to_owned()).spawn(job);
    begun.map(drop).map_err(|error: io::Error| Failure::new(format!("no thread: {error}")))
}

fn say(json: bool, device: &DeviceId, mut value: Value) -> Result<(), Failure> {
    if json {
        value["kind"] = "event".into();
        value["device"] = device.as_str().into();
        return output::json_line(&value);
    }
    let mut text = format!("{device}:");
    for (key, value) in value.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&if key == "event" {
            format!(" {value}")
        } else {
            format!(" {key} {value}")
        });
    }
    output::text(&format!("{text}\n"))
}

/// An event as JSON has it.
fn shown(event: &DeviceEvent) -> Value {
    match event {
        DeviceEvent::Machine(event) => of_machine(event),
        DeviceEvent::Parameters { generation, text } => {
            json!({ "event": "parameters", "generation": generation, "text": text })
        }
        DeviceEvent::NotSaved { why } => json!({ "event": "not-saved", "why": why }),
    }
}

fn of_machine(event: &Event) -> Value {
    match event {
        Event::Registered { controller, seq, took, answer: _ } => json!({
            "event": "registered", "controller": controller.as_str(), "seq": seq, "took_ms": took,
        }),
        Event::Failed { controller, why } => {
            json!({ "event": "failed", "controller": controller.as_str(), "why": why })
        }
        Event::Silent { controller, .. } => {
            json!({ "event": "silent", "controller": controller.as_str() })
        }
        Event::Lost { controller, why } => {
            json!({ "event": "lost", "controller": controller.as_str(), "why": why })
        }
        Event::HandedOver { from, to } => {
            json!({ "event": "handed-over", "from": from.as_str(), "to": to.as_str() })
        }
        Event::HandOverFailed { from, to, why } => json!({
            "event": "hand-over-failed", "from": from.as_str(), "to": to.as_str(), "why": why,
        }),
        Event::Generation(generation) => {
            json!({ "event": "generation", "generation": generation })
        }
        Event::Odd { controller, text } => {
            json!({ "event": "odd", "controller": controller.as_str(), "text": text })
        }
        Event::Ended { confirmed } => json!({ "event": "ended", "confirmed": confirmed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_a_name_and_addresses() {
        let found = place("north=127.0.0.1:1,127.0.0.2:2").unwrap();
        assert_eq!(found.controller.as_str(), "north");
        assert_eq!(found.addrs.len(), 2);
        for wrong in ["north", "no rth=127.0.0.1:1", "north=127.0.0.1", "=127.0.0.1:1"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
