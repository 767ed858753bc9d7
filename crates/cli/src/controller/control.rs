//! What a controller answers on its control socket.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use eversock_controller::limits::PAYLOAD_MAX;
use eversock_controller::model::{ControllerId, DeviceId};
use eversock_controller::node::{Node, NodeError, NodeEvent};
use eversock_controller::report::{DeviceReport, OutcomeReport, Report};
use eversock_controller::shard::{Event, input};

use super::ask::{Batch, DEVICES_MAX, Order, REQUEST_MAX, ROWS_MAX, Request, Shared};
use crate::service::asked::Reply;
use crate::service::claim::{Claim, refusal, reply};

/// What came of hand-overs: the last batch of each partition.
#[derive(Debug, Clone, Default)]
pub(super) struct Batches(Arc<Mutex<BTreeMap<String, Batch>>>);

impl Batches {
    /// Keeps what an event says of them.
    pub(super) fn note(&self, event: &NodeEvent) {
        let NodeEvent::Partition { partition, event } = event else { return };
        let Event::HandedOver { target, done, failed, skipped, stopped } = event else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = all.entry(partition.to_string()).or_default();
        *last = Batch {
            partition: partition.to_string(),
            number: last.number + 1,
            target: target.to_string(),
            done: *done,
            failed: *failed,
            skipped: *skipped,
            stopped: stopped.clone(),
        };
    }

    fn all(&self) -> Vec<Batch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Answers on threads of its own, for as long as the process lives.
pub(super) fn serve(claim: &Claim, node: &Arc<Node>, batches: Batches) -> io::Result<()> {
    let server = Server { node: Arc::downgrade(node), batches };
    claim.serve("controller", REQUEST_MAX, move |request| server.answer(request))
}

struct Server {
    /// Gone when the controller ends.
    node: Weak<Node>,
    batches: Batches,
}

/// A sentence, or why not.
type Said = Result<String, String>;

impl Server {
    fn answer(&self, request: Request) -> Vec<u8> {
        let Some(node) = self.node.upgrade() else { return refusal("the controller ends") };
        match request {
            Request::Status => reply(&Reply::Ok(Report::from(node.status()))),
            Request::HandOvers => reply(&Reply::Ok(self.batches.all())),
            Request::Devices { partition, after, limit } => {
                told(devices(&node, &partition, after.as_deref(), limit))
            }
            Request::Find { device } => told(find(&node, &device)),
            Request::Do { partition, order } => told(obey(&node, partition.as_deref(), order)),
            Request::Parameters => {
                let (generation, text) = node.parameters();
                reply(&Reply::Ok(Shared { generation, text }))
            }
            Request::SetParameters { text } => {
                log::info!("told new parameters, {} bytes", text.len());
                told(node.set_parameters(&text).map_err(text_of))
            }
            Request::Ask { device, payload, deadline_ms } => {
                told(ask(&node, &device, payload, Duration::from_millis(deadline_ms)))
            }
        }
    }
}

fn told<T: serde::Serialize>(result: Result<T, String>) -> Vec<u8> {
    match result {
        Ok(value) => reply(&Reply::Ok(value)),
        Err(why) => refusal(why),
    }
}

fn text_of(error: NodeError) -> String {
    error.to_string()
}

fn controller(name: &str) -> Result<ControllerId, String> {
    name.parse().map_err(|error: eversock_controller::model::NameError| error.to_string())
}

fn device(name: &str) -> Result<DeviceId, String> {
    name.parse().map_err(|error: eversock_controller::model::NameError| error.to_string())
}

fn devices(
    node: &Node,
    partition: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<DeviceReport>, String> {
    let (partition, after) = (controller(partition)?, after.map(device).transpose()?);
    let rows = node.devices(Some(&partition), after.as_ref(), limit.min(ROWS_MAX));
    Ok(rows.map_err(text_of)?.into_iter().map(DeviceReport::from).collect())
}

fn find(node: &Node, name: &str) -> Result<Option<DeviceReport>, String> {
    Ok(node.find(&device(name)?).map_err(text_of)?.map(DeviceReport::from))
}

fn ask(
    node: &Node,
    name: &str,
    payload: String,
    deadline: Duration,
) -> Result<OutcomeReport, String> {
    if payload.len() > PAYLOAD_MAX {
        return Err(format!("{} bytes are more than {PAYLOAD_MAX}", payload.len()));
    }
    let outcome = node.request_and_wait(device(name)?, deadline, payload.into_bytes());
    Ok(outcome.into())
}

fn obey(node: &Node, partition: Option<&str>, order: Order) -> Said {
    log::info!("told to {order:?}, partition {}", partition.unwrap_or("any"));
    let partition = partition.map(controller).transpose()?;
    let give = |order| node.order(partition.as_ref(), order).map_err(text_of);
    match order {
        Order::Move { devices, target } => move_all(node, partition.as_ref(), &devices, &target),
        Order::FailBack => {
            give(input::Order::FailBack)?;
            Ok("guests go home, at the pace of their partitions".to_owned())
        }
        Order::StopHandOver => {
            give(input::Order::StopHandOver)?;
            Ok("no more devices are handed over".to_owned())
        }
        Order::Pause { partner, paused } => {
            let partner = partner.as_deref().map(controller).transpose()?;
            give(input::Order::Pause { partner, paused })?;
            let what = if paused { "stands still" } else { "goes on" };
            Ok(format!("the exchange {what}"))
        }
        Order::Maintenance(on) => {
            give(input::Order::Maintenance(on))?;
            let what = if on {
                "devices go to other controllers, and no new ones are taken"
            } else {
                "devices are taken again"
            };
            Ok(what.to_owned())
        }
        Order::Resync(partner) => {
            give(input::Order::Resync(controller(&partner)?))?;
            Ok(format!("everything is exchanged anew with {partner}"))
        }
    }
}

/// Each partition is told of its own devices.
fn move_all(
    node: &Node,
    partition: Option<&ControllerId>,
    devices: &[String],
    target: &str,
) -> Said {
    if devices.len() > DEVICES_MAX {
        return Err(format!("{DEVICES_MAX} devices at most in one order"));
    }
    let target = controller(target)?;
    if devices.is_empty() {
        let order = input::Order::Move { devices: Vec::new(), target: target.clone() };
        node.order(partition, order).map_err(text_of)?;
        return Ok(format!("all devices go to {target}, at their pace"));
    }
    let mut by_home: BTreeMap<ControllerId, Vec<DeviceId>> = BTreeMap::new();
    for name in devices {
        let id = device(name)?;
        let Some(row) = node.find(&id).map_err(text_of)? else {
            return Err(format!("nobody has heard of {name}; `evs controller devices` lists all"));
        };
        by_home.entry(row.home).or_default().push(id);
    }
    for (home, devices) in by_home {
        let order = input::Order::Move { devices, target: target.clone() };
        node.order(Some(&home), order).map_err(text_of)?;
    }
    Ok(format!("{} devices go to {target}, at their pace", devices.len()))
}
