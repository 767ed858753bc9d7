//! `evs hold` (hidden): a process that has sessions and echoes, for the tests of the other
//! commands.
//!
//! Writes JSON lines: `{"kind":"listening","addr":..}`, `{"kind":"connected"}` and, when a session
//! ends, `{"kind":"ended","error":..}`. A line on standard input is sent on the last session that
//! was made; what comes back is written as `{"kind":"heard","text":..}`. Ends with standard input.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use clap::Args;
use eversock::{Config, RecoveryPolicy, VirtualListener, VirtualStream};
use serde_json::json;

use crate::failure::Failure;
use crate::{lines, output};

/// Have a session and echo.
#[derive(Debug, Args)]
pub(crate) struct Hold {
    /// Listen here and echo what comes.
    #[arg(long, required_unless_present = "connect", conflicts_with = "connect")]
    listen: Option<SocketAddr>,
    /// Connect to this.
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Wait for `evs answer` before each redial.
    #[arg(long)]
    ask: bool,
}

impl Hold {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let failed = |what: &str, error: std::io::Error| Failure::new(format!("{what}: {error}"));
        let mut config = Config::default();
        if self.ask {
            config.policy = RecoveryPolicy::AskOutside;
        }
        let input = lines::from_stdin().map_err(|error| failed("cannot read input", error))?;
        let mut session = None;
        if let Some(addr) = self.connect {
            let stream = VirtualStream::connect_with(addr, config)
                .map_err(|error| failed(&format!("cannot connect to {addr}"), error))?;
            let stream = Arc::new(stream);
            output::json_line(&json!({ "kind": "connected" }))?;
            let reader = Arc::clone(&stream);
            thread::spawn(move || talk(&reader, report_heard));
            session = Some(stream);
        } else if let Some(addr) = self.listen {
            let listener = VirtualListener::bind_with(addr, config)
                .map_err(|error| failed(&format!("cannot listen on {addr}"), error))?;
            let addr = listener.local_addr().map_err(|error| failed("no address", error))?;
            output::json_line(&json!({ "kind": "listening", "addr": addr }))?;
            thread::spawn(move || serve(&listener));
        }
        for line in input {
            if let Some(mut session) = session.as_deref() {
                // How it ended is reported by the thread that reads.
                let _ended = session.write_all(line.as_bytes());
            }
        }
        Ok(true)
    }
}

fn serve(listener: &VirtualListener) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        thread::spawn(move || talk(&stream, |bytes| (&stream).write_all(bytes).is_ok()));
    }
}

fn report_heard(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    output::json_line(&json!({ "kind": "heard", "text": text })).is_ok()
}

/// Reads until the end and reports it.
fn talk(mut stream: &VirtualStream, heard: impl Fn(&[u8]) -> bool) {
    let mut buf = [0; 4096];
    let error = loop {
        match stream.read(&mut buf) {
            Ok(0) => break None,
            Ok(n) if heard(&buf[..n]) => {}
            Ok(_) => return,
            Err(error) => break Some(error.to_string()),
        }
    };
    // Nobody may listen any more; then there is nothing to report either.
    let _unheard = output::json_line(&json!({ "kind": "ended", "error": error }));
}
