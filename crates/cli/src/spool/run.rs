//! `evs spool run`: a front, until it is told to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use eversock_spool::config::Running;
use serde_json::json;

use super::{Which, control, metrics};
use crate::failure::Failure;
use crate::service::claim::Claim;
use crate::{output, signals};

/// Run a front: it takes requests, gives them to the main server of their pair, and spools writes
/// while there is none.
///
/// Prints one line on standard output when it listens; logs go to standard error. SIGINT or SIGTERM
/// ends it: whoever waits is told so, and what was acknowledged is on disk; a second signal ends it
/// at once, with which no more is lost than what nobody was told. Exit status 0 after a signal.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    which: Which,
}

/// How long somebody who asks on the control socket may hold the end up.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

impl Run {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let (stop, stopped) = channel();
        let mut is_first = true;
        let on_signal = move |name| {
            if !std::mem::take(&mut is_first) {
                signals::leave_now(1);
            }
            let _ends = stop.send(name);
        };
        signals::on_each(on_signal)
            .map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
        let file = self.which.file()?;
        file.make_dir().map_err(Failure::new)?;
        let claim = Claim::new(&file.control, "a front")?;
        let running = Arc::new(file.start().map_err(Failure::new)?);
        let metrics = match file.metrics {
            None => None,
            Some(listen) => {
                let serving = metrics::serve(listen, file.clone(), &running);
                Some(serving.map_err(|error| {
                    let text = format!("`metrics` = {listen}: {error}; take another address");
                    Failure::new(format!("{}: {text}", self.which.config.display()))
                })?)
            }
        };
        control::serve(&claim, file.clone(), &running)
            .map_err(|error| Failure::new(format!("no thread for the control socket: {error}")))?;
        self.say_ready(&file.control.display().to_string(), metrics, &running)?;
        let name = stopped.recv().unwrap_or("nobody who could stop it");
        log::info!("ends: {name}");
        end(running);
        drop(claim);
        // What was written last still reaches the peers.
        eversock::shutdown();
        Ok(true)
    }

    fn say_ready(
        &self,
        control: &str,
        metrics: Option<SocketAddr>,
        running: &Running,
    ) -> Result<(), Failure> {
        let doors = running.listening();
        if self.which.json {
            let listening: Vec<_> =
                doors.iter().map(|one| json!({ "door": one.door, "addr": one.addr })).collect();
            return output::json_line(&json!({
                "kind": "ready",
                "pid": std::process::id(),
                "control": control,
                "metrics": metrics,
                "listening": listening,
            }));
        }
        let mut line = String::from("ready:");
        for one in doors {
            line.push_str(&format!(" {} {},", one.door, one.addr));
        }
        if let Some(addr) = metrics {
            line.push_str(&format!(" metrics {addr},"));
        }
        output::text(&format!("{line} control {control}\n"))
    }
}

/// Ends the front when nobody asks it anything more.
fn end(mut running: Arc<Running>) {
    let until = Instant::now() + LAST_ANSWERS;
    loop {
        match Arc::try_unwrap(running) {
            Ok(last) => return last.close(),
            Err(_) if Instant::now() >= until => {
                log::warn!("somebody still asks on the control socket: the front ends without");
                return;
            }
            Err(shared) => running = shared,
        }
        thread::sleep(Duration::from_millis(5));
    }
}
