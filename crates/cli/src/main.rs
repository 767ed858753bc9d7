//! The program `evs`: makes the connections of other programs survive (`run`, `doctor`,
//! `gateway`), makes keys for them (`keygen`), shows what eversock does (`demo`), breaks
//! connections on purpose (`chaos`), simulates whole systems (`sim`), loads a set-up with sessions
//! (`load`), measures (`bench`, behind the feature of that name), runs fronts that spool what is
//! written while servers change places (`spool`, likewise) and controllers that stand in for each
//! other (`controller`, with devices to try them by: `device`), and looks into the sessions of
//! running programs (`ls`, `info`, `top`, `kill`, `redial`, `answer`, `dedup`).
//!
//! One file or folder per command. Each has its arguments as a struct with a method `run`, which
//! gives whether the command succeeded. Exit status: 0 ok, 1 failed, 2 wrong usage, unless the
//! command says otherwise.

mod answer;
#[cfg(feature = "bench")]
mod bench;
mod chaos;
mod control;
#[cfg(feature = "controller")]
mod controller;
mod dedup;
mod demo;
#[cfg(feature = "controller")]
mod device;
mod doctor;
mod failure;
mod gateway;
mod hold;
mod info;
mod key;
mod keygen;
mod kill;
mod lines;
mod load;
mod ls;
mod output;
mod program;
mod redial;
mod run;
#[cfg(any(feature = "controller", feature = "spool"))]
mod service;
mod signals;
mod sim;
#[cfg(feature = "spool")]
mod spool;
mod terminal;
mod top;
mod units;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sockets that outlive their connections: under programs as they are, by a gateway, and a look
/// into running sessions.
#[derive(Debug, Parser)]
#[command(name = "evs", version, max_term_width = 100)]
struct Evs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Chaos(chaos::Chaos),
    Sim(sim::Sim),
    Load(load::Load),
    #[cfg(feature = "bench")]
    Bench(bench::Bench),
    Run(run::Run),
    Doctor(doctor::Doctor),
    Gateway(gateway::Gateway),
    Keygen(keygen::Keygen),
    Ls(ls::Ls),
    Info(info::Info),
    Top(top::Top),
    Kill(kill::Kill),
    Redial(redial::Redial),
    Answer(answer::Answer),
    Dedup(dedup::Dedup),
    #[cfg(feature = "spool")]
    Spool(spool::Spool),
    #[cfg(feature = "controller")]
    Controller(controller::Controller),
    #[cfg(feature = "controller")]
    Device(device::Device),
    #[command(hide = true)]
    DemoPeer(demo::peer::DemoPeer),
    #[command(hide = true)]
    Hold(hold::Hold),
    #[command(hide = true)]
    LoadCuts(load::cuts::LoadCuts),
    #[cfg(feature = "bench")]
    #[command(hide = true)]
    BenchPeer(bench::BenchPeer),
}

fn main() -> ExitCode {
    let command = Evs::parse().command;
    begin_log(&command);
    let done = match command {
        Command::Demo(command) => command.run(),
        Command::Chaos(command) => command.run(),
        Command::Sim(command) => command.run(),
        Command::Load(command) => command.run(),
        #[cfg(feature = "bench")]
        Command::Bench(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Gateway(command) => command.run(),
        Command::Keygen(command) => command.run(),
        Command::Ls(command) => command.run(),
        Command::Info(command) => command.run(),
        Command::Top(command) => command.run(),
        Command::Kill(command) => command.run(),
        Command::Redial(command) => command.run(),
        Command::Answer(command) => command.run(),
        Command::Dedup(command) => command.run(),
        #[cfg(feature = "spool")]
        Command::Spool(command) => command.run(),
        #[cfg(feature = "controller")]
        Command::Controller(command) => command.run(),
        #[cfg(feature = "controller")]
        Command::Device(command) => command.run(),
        Command::DemoPeer(command) => command.run(),
        Command::Hold(command) => command.run(),
        Command::LoadCuts(command) => command.run(),
        #[cfg(feature = "bench")]
        Command::BenchPeer(command) => command.run(),
    };
    failure::exit_code(done)
}

/// `RUST_LOG` says what is logged; a gateway, which runs unattended, else tells of refused peers
/// and of sessions that failed, and a front of what becomes of its pairs.
fn begin_log(command: &Command) {
    let default = match command {
        Command::Gateway(_) => "warn,eversock_engine::reactor::serve=debug",
        #[cfg(feature = "spool")]
        Command::Spool(command) if command.is_server() => {
            "warn,eversock_engine=error,eversock_spool=info,evs=info"
        }
        #[cfg(feature = "controller")]
        Command::Controller(command) if command.is_server() => {
            "warn,eversock_engine=error,eversock_controller=info,evs=info"
        }
        _ => "error",
    };
    let from = env_logger::Env::default().default_filter_or(default);
    env_logger::Builder::from_env(from).init();
}
