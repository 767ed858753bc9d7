//! `evs spool backend`: the reference backend.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use crossbeam_channel::bounded;
use eversock_spool::backend::mail::{self, MailConfig, MailServer};
use serde_json::json;

use crate::failure::Failure;
use crate::key::{self, KeyOptions};
use crate::{output, signals};

/// Run a reference backend: a server of a pair, to try fronts with and to begin your own from.
#[derive(Debug, Args)]
pub(crate) struct Backend {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Mail(Mail),
}

/// Mailboxes in files. Main and standby may share one directory of one machine.
///
/// Prints one line on standard output when it listens. SIGINT or SIGTERM ends it; a second signal
/// ends it at once.
#[derive(Debug, Args)]
struct Mail {
    /// Where fronts connect.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Where messages and index lie; made if it is not there.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    keys: KeyOptions,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Backend {
    pub(super) fn run(self) -> Result<bool, Failure> {
        match self.what {
            What::Mail(mail) => mail.run(),
        }
    }
}

impl Mail {
    fn run(self) -> Result<bool, Failure> {
        if self.keys.known_peers.is_some() || self.keys.accept_new {
            return Err(Failure::usage(
                "--known-peers and --accept-new are the front's; whom this side lets in say --key \
                 or --allowed-clients",
            ));
        }
        let (stop, stopped) = bounded(1);
        let mut is_first = true;
        let on_signal = move |_| {
            if !std::mem::take(&mut is_first) {
                signals::leave_now(1);
            }
            let _ends = stop.send(());
        };
        signals::on_each(on_signal)
            .map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
        let mut config = MailConfig::new(self.listen, self.dir.clone());
        key::configure(&self.keys.rule(), &mut config.socket).map_err(Failure::usage)?;
        let mut unheard = None;
        let up = |server: &MailServer| {
            let addr = server.server().addr();
            let said = if self.json {
                output::json_line(&json!({ "kind": "listening", "addr": addr }))
            } else {
                output::text(&format!("ready: socket {addr}\n"))
            };
            unheard = said.err();
        };
        let served = mail::run(config, up, &stopped);
        served.map_err(|error| {
            let dir = self.dir.display();
            Failure::new(format!("a mail server on {} in {dir}: {error}", self.listen))
        })?;
        eversock::shutdown();
        unheard.map_or(Ok(true), Err)
    }
}
