//! `evs spool backend`: the reference backend.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use crossbeam_channel::bounded;
use eversock::Config;
use eversock_rules::Rule;
use eversock_spool::backend::mail::{self, MailConfig, MailReplica, MailServer, Watch};
use eversock_spool::backend::monitor::MonitorConfig;
use eversock_spool::backend::replica::{Alone, ReplicaConfig, begin_as_copy};
use eversock_spool::link::LinkConfig;
use serde_json::json;

use crate::failure::Failure;
use crate::key::{self, KeyOptions};
use crate::{output, signals, units};

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

/// Mailboxes in files. Main and standby share one directory of one machine, or each has its own
/// (--replica-listen, --replica-peer).
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
    /// Where the other server pushes what it has done, if it has a directory of its own. Nobody
    /// else may be able to connect there: the keys hold for it too.
    #[arg(long, value_name = "ADDR", requires = "replica_peer")]
    replica_listen: Option<SocketAddr>,
    /// The --replica-listen of the other server.
    #[arg(long, value_name = "HOST:PORT", requires = "replica_listen")]
    replica_peer: Option<String>,
    /// How long a standby that has heard nothing of its main is taken to have all of it: longer
    /// than a front takes to notice that the main is gone. A main whose standby is away does
    /// nothing for so long [default: 60s].
    #[arg(long, value_name = "TIME", value_parser = units::duration, requires = "replica_peer")]
    in_sync: Option<Duration>,
    /// A main whose standby is away does nothing until that is back.
    #[arg(long, requires = "replica_peer")]
    never_alone: bool,
    /// The directory is a copy of the other server's, made while that was stopped: say so once,
    /// when this server is started with it for the first time.
    #[arg(long, requires = "replica_peer")]
    as_copy: bool,
    /// Watch the other server, and ask fronts for a switch when it is gone.
    #[arg(long, value_name = "HOST:PORT")]
    watch: Option<String>,
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
        let dials = self.replica_peer.is_some() || self.watch.is_some();
        if !dials && (self.keys.known_peers.is_some() || self.keys.accept_new) {
            return Err(Failure::usage(
                "--known-peers and --accept-new belong to --replica-peer and --watch; whom this \
                 side lets in say --key or --allowed-clients",
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
        let config = self.config()?;
        if self.as_copy {
            let index = self.dir.join(mail::INDEX);
            begin_as_copy(&index).map_err(|error| {
                Failure::new(format!("{}: cannot be made a copy: {error}", index.display()))
            })?;
        }
        let mut unheard = None;
        let up = |server: &MailServer| unheard = self.say_ready(server).err();
        let served = mail::run(config, up, &stopped);
        served.map_err(|error| {
            let dir = self.dir.display();
            Failure::new(format!("a mail server on {} in {dir}: {error}", self.listen))
        })?;
        eversock::shutdown();
        unheard.map_or(Ok(true), Err)
    }

    fn config(&self) -> Result<MailConfig, Failure> {
        let mut config = MailConfig::new(self.listen, self.dir.clone());
        config.socket = self.listening()?;
        if let (Some(listen), Some(peer)) = (self.replica_listen, &self.replica_peer) {
            let mut replica = ReplicaConfig::default();
            if let Some(in_sync) = self.in_sync {
                replica.in_sync = in_sync;
                replica.every = replica.every.min(in_sync / 4);
            }
            replica.alone = if self.never_alone { Alone::Refused } else { Alone::Allowed };
            config.replica = Some(MailReplica {
                listen,
                socket: self.listening()?,
                peer: addresses(peer)?,
                link: self.link("the other server")?,
                config: replica,
            });
        }
        if let Some(peer) = &self.watch {
            config.watch = Some(Watch {
                peer: addresses(peer)?,
                link: self.link("the watched server")?,
                config: MonitorConfig::default(),
            });
        }
        Ok(config)
    }

    /// Whom it lets in.
    fn listening(&self) -> Result<Config, Failure> {
        let rule = Rule { known_peers: None, accept_new: false, ..self.keys.rule() };
        let mut config = Config::default();
        key::configure(&rule, &mut config).map_err(Failure::usage)?;
        Ok(config)
    }

    /// How it connects. A client names itself to servers that it knows, and to no others.
    fn link(&self, name: &str) -> Result<LinkConfig, Failure> {
        let mut rule = Rule { allowed_clients: None, ..self.keys.rule() };
        if rule.known_peers.is_none() {
            rule.identity = None;
        }
        let mut link = LinkConfig::new(name);
        key::configure(&rule, &mut link.socket).map_err(Failure::usage)?;
        Ok(link)
    }

    fn say_ready(&self, server: &MailServer) -> Result<(), Failure> {
        let addr = server.server().addr();
        let replica = server.replica().map(|(_, addr)| addr);
        if self.json {
            return output::json_line(&json!({
                "kind": "listening", "addr": addr, "replica": replica,
            }));
        }
        let replica = replica.map(|addr| format!(", replica {addr}")).unwrap_or_default();
        output::text(&format!("ready: socket {addr}{replica}\n"))
    }
}

fn addresses(text: &str) -> Result<Vec<SocketAddr>, Failure> {
    let addrs = text.to_socket_addrs().map_err(|error| {
        Failure::usage(format!("{text}: {error}; a server is like db.example.org:7701"))
    })?;
    Ok(addrs.collect())
}
