//! Two controllers and a device: its home ends, and the other one takes it over.
//!
//! ```text
//! cargo run --features controller --example controller_device
//! ```
//!
//! All are in one process here, and would be on machines of their own. What stands in the files of
//! a controller and of a device is in `examples/controller.toml` and `examples/device.toml`.

use std::io::{self, Error};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use eversock::controller::config::{ControllerFile, DeviceFile};
use eversock::controller::device::DeviceAgent;
use eversock::controller::model::DeviceId;
use eversock::controller::node::Node;
use eversock::controller::wire::client::Outcome;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> io::Result<()> {
    let folder = std::env::temp_dir().join(format!("controller-device-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let shown = show(&folder);
    std::fs::remove_dir_all(&folder)?;
    shown
}

fn show(folder: &Path) -> io::Result<()> {
    let south = controller(
        folder,
        "south",
        "[partner-door]\nlisten = \"127.0.0.1:0\"\ninsecure = true\n\
         [[partner]]\nname = \"north\"\n\
         [[dispatch]]\nprefix = \"lamp\"\npartition = \"north\"\n",
    )?;
    let partner = south.partner_addr().ok_or_else(|| Error::other("no door for partners"))?;
    let north = controller(
        folder,
        "north",
        &format!(
            "[partner-door]\ninsecure = true\n\
             [[partner]]\nname = \"south\"\naddrs = \"{partner}\"\n"
        ),
    )?;

    let text = format!(
        "[device]\nname = \"lamp\"\nstart-within = \"0s\"\nhandshake-min = \"100ms\"\n\
         [device.home]\nname = \"north\"\naddrs = \"{}\"\n\
         [[device.backup]]\nname = \"south\"\naddrs = \"{}\"\n",
        north.local_addr(),
        south.local_addr()
    );
    let file = DeviceFile::from_text(&text, "lamp", folder).map_err(Error::other)?;
    let mut config = file.device_config().map_err(Error::other)?;
    config.on_request = Arc::new(|request| Outcome::Done([&request.payload[..], b"!"].concat()));
    let lamp = DeviceAgent::start(config).map_err(Error::other)?;
    wait("north serves lamp", || serves(&lamp, "north"))?;

    // South does not have it, and passes the request on.
    let id: DeviceId = "lamp".parse().map_err(Error::other)?;
    wait("south knows where lamp is", || south.find(&id).is_ok_and(|row| row.is_some()))?;
    match south.request_and_wait(id, PATIENCE, b"on".to_vec()) {
        Outcome::Done(answer) => {
            println!("lamp is asked by south: {}", String::from_utf8_lossy(&answer));
        }
        other => return Err(Error::other(format!("lamp does not answer: {other:?}"))),
    }

    north.close();
    wait("south serves lamp, since north has gone", || serves(&lamp, "south"))?;
    lamp.close();
    south.close();
    Ok(())
}

fn controller(folder: &Path, name: &str, more: &str) -> io::Result<Node> {
    let text = format!(
        "name = \"{name}\"\n\
         [door]\nlisten = \"127.0.0.1:0\"\ninsecure = true\n\
         [policy]\nhandshake = \"500ms\"\n\
         [store]\ndir = \"{name}\"\n{more}"
    );
    let file = ControllerFile::from_text(&text, name, folder).map_err(Error::other)?;
    file.start().map_err(Error::other)
}

fn serves(lamp: &DeviceAgent, controller: &str) -> bool {
    lamp.state().registered.is_some_and(|(who, _)| who.as_str() == controller)
}

/// Waits for what is then said.
fn wait(what: &str, is_so: impl Fn() -> bool) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() >= until {
            return Err(Error::other(format!("not after a minute: {what}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
    println!("{what}");
    Ok(())
}
