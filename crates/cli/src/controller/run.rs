//! `evs controller run`: a controller, until it is told to end.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::Receiver;
use eversock_controller::config::ControllerFile;
use eversock_controller::node::{Node, NodeEvent};
use eversock_controller::report::sync_state;
use eversock_controller::shard::Event;
use serde_json::{Value, json};

use super::control::Batches;
use super::{Which, control, metrics};
use crate::failure::Failure;
use crate::service::claim::Claim;
use crate::{lines, output, signals};

/// Run a controller: it serves its devices, exchanges its tables with its partners, and stands in
/// for them.
///
/// Prints one line on standard output when it listens, with --json also what happens; logs go to
/// standard error. SIGINT or SIGTERM ends it: what was acknowledged is on disk; a second signal
/// ends it at once. Exit status 0 after a signal.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    which: Which,
    /// End also when standard input does.
    #[arg(long)]
    with_input: bool,
}

/// How long somebody who asks on the control socket may hold the end up.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// Between looks at whether the controller still carries connections.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Waits until it is to end. One that carries no connections any more is of no use, and whoever
/// started it can start it anew.
fn until_end(stopped: &mpsc::Receiver<&'static str>, node: &Node) -> Result<(), Failure> {
    loop {
        match stopped.recv_timeout(LOOK_EVERY) {
            Ok(name) => {
                log::info!("ends: {name}");
                return Ok(());
            }
            Err(RecvTimeoutError::Disconnected) => {
                log::info!("ends: nobody could stop it");
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(failure) = node.failure() {
                    return Err(Failure::new(format!("no connections are carried: {failure}")));
                }
            }
        }
    }
}

impl Run {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let (stop, stopped) = channel();
        let (mut is_first, on_end) = (true, stop.clone());
        let on_signal = move |name| {
            if !std::mem::take(&mut is_first) {
                signals::leave_now(1);
            }
            let _ends = stop.send(name);
        };
        signals::on_each(on_signal)
            .map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
        if self.with_input {
            let input = lines::from_stdin()
                .map_err(|error| Failure::new(format!("cannot watch the input: {error}")))?;
            thread::spawn(move || {
                input.iter().for_each(drop);
                let _ends = on_end.send("the end of the input");
            });
        }
        let file = self.which.file()?;
        file.make_dir().map_err(Failure::new)?;
        let claim = Claim::new(&file.control, "a controller")?;
        let node = Arc::new(file.start().map_err(Failure::new)?);
        let batches = Batches::default();
        let events = (node.events(), batches.clone(), self.which.json);
        let metrics = match file.metrics {
            None => None,
            Some(listen) => Some(metrics::serve(listen, &node).map_err(|error| {
                let text = format!("`metrics` = {listen}: {error}; take another address");
                Failure::new(format!("{}: {text}", self.which.config.display()))
            })?),
        };
        control::serve(&claim, &node, batches)
            .map_err(|error| Failure::new(format!("no thread for the control socket: {error}")))?;
        self.say_ready(&file, &node, metrics)?;
        tell(events).map_err(|error| Failure::new(format!("no thread for events: {error}")))?;
        let ended = until_end(&stopped, &node);
        end(node);
        drop(claim);
        // What was written last still reaches the peers.
        eversock::shutdown();
        ended.map(|()| true)
    }

    fn say_ready(
        &self,
        file: &ControllerFile,
        node: &Node,
        metrics: Option<std::net::SocketAddr>,
    ) -> Result<(), Failure> {
        let (door, partner_door) = (node.local_addr(), node.partner_addr());
        let control = file.control.display().to_string();
        if self.which.json {
            return output::json_line(&json!({
                "kind": "ready",
                "pid": std::process::id(),
                "controller": file.name.as_str(),
                "control": control,
                "metrics": metrics,
                "door": door,
                "partner_door": partner_door,
            }));
        }
        let mut line = format!("ready: {} door {door},", file.name);
        if let Some(addr) = partner_door {
            line.push_str(&format!(" partner-door {addr},"));
        }
        if let Some(addr) = metrics {
            line.push_str(&format!(" metrics {addr},"));
        }
        output::text(&format!("{line} control {control}\n"))
    }
}

/// Logs what happens, and prints it if that is wanted, until the controller ends.
fn tell((events, batches, json): (Receiver<NodeEvent>, Batches, bool)) -> std::io::Result<()> {
    thread::Builder::new().name("controller-events".to_owned()).spawn(move || {
        let mut is_read = json;
        for event in events {
            batches.note(&event);
            let value = shown(&event);
            log::info!("{value}");
            // A reader that has gone is no reason to end.
            is_read = is_read && output::json_line(&value).is_ok();
        }
    })?;
    Ok(())
}

/// An event as JSON has it.
fn shown(event: &NodeEvent) -> Value {
    match event {
        NodeEvent::Partition { partition, event } => {
            let mut value = of_partition(event);
            value["kind"] = "event".into();
            value["partition"] = partition.as_str().into();
            value
        }
        NodeEvent::Fault { partition, error } => json!({
            "kind": "event", "event": "fault", "partition": partition.as_str(), "error": error,
        }),
        NodeEvent::Recovered { partition } => json!({
            "kind": "event", "event": "recovered", "partition": partition.as_str(),
        }),
        NodeEvent::Link { partner, state, error } => json!({
            "kind": "event", "event": "link", "partner": partner.as_str(), "state": state,
            "error": error,
        }),
        NodeEvent::Skew { partner, ahead_ms } => json!({
            "kind": "event", "event": "skew", "partner": partner.as_str(), "ahead_ms": ahead_ms,
        }),
        NodeEvent::Parameters { generation } => json!({
            "kind": "event", "event": "parameters", "generation": generation,
        }),
        NodeEvent::ParametersRefused { generation, error } => json!({
            "kind": "event", "event": "parameters-refused", "generation": generation,
            "error": error,
        }),
        NodeEvent::PartnerRefused { partner, generation, error } => json!({
            "kind": "event", "event": "partner-refused", "partner": partner.as_str(),
            "generation": generation, "error": error,
        }),
    }
}

fn of_partition(event: &Event) -> Value {
    match event {
        Event::Owner { device, before, now, seq } => json!({
            "event": "owner", "device": device.as_str(),
            "before": before.as_ref().map(|before| before.as_str()), "now": now.as_str(),
            "seq": seq,
        }),
        Event::Clash { device, seq } => {
            json!({ "event": "clash", "device": device.as_str(), "seq": seq })
        }
        Event::Sync { partner, state } => json!({
            "event": "sync", "partner": partner.as_str(), "state": sync_state(*state),
        }),
        Event::HandedOver { target, done, failed, skipped, stopped } => json!({
            "event": "handed-over", "target": target.as_str(), "done": done, "failed": failed,
            "skipped": skipped, "stopped": stopped,
        }),
        Event::Odd { partner, text } => {
            json!({ "event": "odd", "partner": partner.as_str(), "text": text })
        }
    }
}

/// Ends the controller when nobody asks it anything more.
fn end(mut node: Arc<Node>) {
    let until = Instant::now() + LAST_ANSWERS;
    loop {
        match Arc::try_unwrap(node) {
            Ok(last) => return last.close(),
            Err(_) if Instant::now() >= until => {
                log::warn!(
                    "somebody still asks on the control socket: the controller ends without"
                );
                return;
            }
            Err(shared) => node = shared,
        }
        thread::sleep(Duration::from_millis(5));
    }
}
