//! `evs controller demo`: two controllers that stand in for each other, five devices and a third
//! party, as figure 2 of WO 2005/055517 has them; each controller and each place's devices are a
//! process.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use eversock_controller::config::ControllerFile;
use eversock_controller::model::DeviceId;
use eversock_controller::report::{OutcomeReport, PartitionReport, Report};
use eversock_controller::third::ThirdParty;
use serde_json::{Value, json};

use super::ask::{Asked, Order};
use super::progress::Watch;
use super::request::third_party;
use crate::device::place;
use crate::failure::Failure;
use crate::{output, signals};

/// Show what controllers do for each other: two of them, five devices and a third party.
///
/// Devices register; a request is passed on; a controller is killed, and the other one takes its
/// devices over; it comes back, and gets them again. Ends by itself; exit status 1 if something did
/// not go as it should.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Print what happens as JSON, a line for each step.
    #[arg(long)]
    json: bool,
    /// Keep the files of the controllers in this folder, which has to be empty, instead of in a
    /// temporary one.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// For each step; longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const NORTH: [&str; 3] = ["lamp-1", "lamp-2", "lamp-3"];
const SOUTH: [&str; 2] = ["pump-1", "pump-2"];

impl Demo {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let ended = |error| Failure::new(format!("cannot wait for signals: {error}"));
        signals::on_end(|name| {
            let _first = ENDED.set(name);
        })
        .map_err(ended)?;
        let stage = Stage::new(self.folder.as_deref())?;
        let show = Show { json: self.json, began: Instant::now() };
        play(&stage, &show)?;
        show.step("end", "all went as it should", json!({}))?;
        Ok(true)
    }
}

/// The signal that ends it, once one has come.
static ENDED: OnceLock<&str> = OnceLock::new();

/// So that what was begun is cleared away.
fn unless_ended() -> Result<(), Failure> {
    ENDED.get().map_or(Ok(()), |name| Err(Failure::new(format!("ended by {name}"))))
}

fn play(stage: &Stage, show: &Show) -> Result<(), Failure> {
    let north = stage.controller("north")?;
    let south = stage.controller("south")?;
    let (north_file, south_file) = (stage.file("north")?, stage.file("south")?);
    wait(&north_file, "linked to south", is_linked)?;
    show.step("start", "two controllers, north and south, with a link between them", json!({}))?;

    let _lamps = stage.devices("north", &NORTH)?;
    let _pumps = stage.devices("south", &SOUTH)?;
    wait(&north_file, "with its own devices", |now| owned(now, "north") == 3)?;
    wait(&south_file, "with its own devices", |now| owned(now, "south") == 2)?;
    wait(&south_file, "told of north's devices", |now| records(now, "north") == 3)?;
    show.step(
        "register",
        "three lamps have registered with north, two pumps with south",
        json!({}),
    )?;

    let third = stage.third_party(&["south"])?;
    ask(&third, show, "a third party knows south alone: its request for lamp-1 is passed on")?;

    drop(north);
    show.step("kill", "north is killed", json!({}))?;
    wait(&south_file, "with all lamps", |now| owned(now, "north") == 3)?;
    let text = "the lamps have lost north, and registered with south: it has taken them over";
    show.step("take-over", text, json!({ "south": 5 }))?;
    let other = stage.third_party(&["north", "south"])?;
    ask(&other, show, "a third party that asks north first is answered by way of south")?;

    let _north = stage.controller("north")?;
    wait(&north_file, "linked to south", is_linked)?;
    wait(&north_file, "told where its lamps are", |now| records(now, "north") >= 3)?;
    wait(&south_file, "in sync with north", |now| {
        now.partitions.iter().flat_map(|one| &one.sync).all(|sync| sync.state == "in-sync")
    })?;
    if owned(&Asked::of(&south_file)?.status()?, "north") != 3 {
        return Err(Failure::new("the lamps left south without being told to"));
    }
    let text = "north is back and has heard where its lamps are; they stay until they are told";
    show.step("return", text, json!({}))?;

    let asked = Asked::of(&south_file)?;
    let watch = Watch::begin(&asked, |partition| partition == "north")?;
    asked.order(Some("north"), Order::FailBack)?;
    let came = watch.wait(&asked, Some(PATIENCE))?;
    if !came.is_well() {
        return Err(Failure::new(format!("not all lamps went home: {came}")));
    }
    wait(&north_file, "with its own devices again", |now| owned(now, "north") == 3)?;
    show.step("fail-back", &format!("told so, south hands them back: {came}"), json!({}))?;
    ask(&third, show, "the third party that knows south alone still reaches lamp-1")?;
    drop(south);
    Ok(())
}

fn is_linked(now: &Report) -> bool {
    now.partners.iter().all(|partner| partner.state == "up")
}

fn of_partition(now: &Report, partition: &str, what: fn(&PartitionReport) -> u64) -> u64 {
    now.partitions.iter().find(|one| one.name == partition).map_or(0, what)
}

fn owned(now: &Report, partition: &str) -> u64 {
    of_partition(now, partition, |one| one.connected.min(one.owned))
}

fn records(now: &Report, partition: &str) -> u64 {
    of_partition(now, partition, |one| one.records)
}

/// Waits until a controller is as wanted.
fn wait(
    file: &ControllerFile,
    what: &str,
    wanted: impl Fn(&Report) -> bool,
) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        unless_ended()?;
        let now = Asked::of(file)?.status()?;
        if wanted(&now) {
            return Ok(());
        }
        if Instant::now() >= until {
            let now = serde_json::to_string(&now).unwrap_or_default();
            return Err(Failure::new(format!("{} is not {what} after a minute: {now}", file.name)));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// The third party asks lamp-1, and has to get the answer.
fn ask(third: &ThirdParty, show: &Show, text: &str) -> Result<(), Failure> {
    let lamp: DeviceId = "lamp-1".parse().map_err(Failure::new)?;
    let question = "how bright are you?";
    let outcome = third.request_and_wait(lamp, PATIENCE, question.as_bytes().to_vec());
    match OutcomeReport::from(outcome) {
        // What simulates devices answers with the question.
        OutcomeReport::Done { answer } if answer == question => {
            show.step("request", text, json!({ "device": "lamp-1" }))
        }
        other => Err(Failure::new(format!("lamp-1 was asked by a third party: {other:?}"))),
    }
}

/// Says what happens.
struct Show {
    json: bool,
    began: Instant,
}

impl Show {
    fn step(&self, step: &str, text: &str, mut more: Value) -> Result<(), Failure> {
        unless_ended()?;
        let seconds = self.began.elapsed().as_secs_f64();
        if !self.json {
            return output::text(&format!("{seconds:6.2} s  {text}\n"));
        }
        more["kind"] = step.into();
        more["seconds"] = seconds.into();
        more["text"] = text.into();
        output::json_line(&more)
    }
}

/// Where it is played.
struct Stage {
    folder: PathBuf,
    is_temporary: bool,
}

/// A process of it; it dies with this.
struct Actor {
    child: Child,
    /// It also ends when this is closed, so that none outlives a demo that is killed.
    _input: Option<ChildStdin>,
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_temporary {
            let _left = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Addresses that no other program uses: places have to be known before anybody listens there.
fn address(nth: u16) -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    // Process ids have 22 bits at most; what tests use begins at 64.
    SocketAddr::from(([127, 128 + high, middle, low], 21_000 + nth))
}

fn door(name: &str) -> SocketAddr {
    address(if name == "north" { 0 } else { 1 })
}

fn partner_door(name: &str) -> SocketAddr {
    address(if name == "north" { 2 } else { 3 })
}

/// A folder that is not there: one that was killed has left its own behind.
fn temporary() -> PathBuf {
    let name = |n: u32| std::env::temp_dir().join(format!("evs-demo-{}-{n}", std::process::id()));
    (0..u32::MAX).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(u32::MAX))
}

impl Stage {
    fn new(folder: Option<&Path>) -> Result<Self, Failure> {
        let temporary = temporary();
        let dir = folder.unwrap_or(&temporary);
        let failed = |error: io::Error| {
            Failure::new(format!("{}: the folder cannot be used: {error}", dir.display()))
        };
        if folder.is_none() {
            std::fs::create_dir(dir).map_err(failed)?;
        } else {
            std::fs::create_dir_all(dir).map_err(failed)?;
            if std::fs::read_dir(dir).map_err(failed)?.next().is_some() {
                let text = format!("{}: it is not empty; name another folder", dir.display());
                return Err(Failure::usage(text));
            }
        }
        let stage = Self { folder: dir.to_owned(), is_temporary: folder.is_none() };
        for (name, other) in [("north", "south"), ("south", "north")] {
            stage.write(&format!("{name}.toml"), &controller_text(name, other))?;
            stage.write(&format!("{name}-device.toml"), &device_text(name, other))?;
        }
        Ok(stage)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))
    }

    fn file(&self, name: &str) -> Result<ControllerFile, Failure> {
        let path = self.folder.join(format!("{name}.toml"));
        ControllerFile::from_file(&path).map_err(Failure::new)
    }

    fn controller(&self, name: &str) -> Result<Actor, Failure> {
        let file = self.folder.join(format!("{name}.toml"));
        self.start(&["controller", "run"], &file, &[])
    }

    fn devices(&self, home: &str, names: &[&str]) -> Result<Actor, Failure> {
        self.start(&["device"], &self.folder.join(format!("{home}-device.toml")), names)
    }

    /// Starts a process of this program, and waits until it is ready.
    fn start(&self, command: &[&str], file: &Path, more: &[&str]) -> Result<Actor, Failure> {
        let failed = |error: io::Error| Failure::new(format!("evs cannot be started: {error}"));
        let mut run = Command::new(std::env::current_exe().map_err(failed)?);
        run.args(command).arg("--config").arg(file).args(["--json", "--with-input"]).args(more);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        run.env_remove("RUST_LOG");
        let mut child = run.spawn().map_err(failed)?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let actor = Actor { _input: child.stdin.take(), child };
        let mut lines = BufReader::new(output.ok_or_else(|| Failure::new("no output"))?).lines();
        // What it logs is shown if it does not become ready.
        let logged = thread::spawn(move || {
            let lines = errors.map(|errors| BufReader::new(errors).lines().map_while(Result::ok));
            lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
        });
        match lines.next() {
            Some(Ok(line)) if line.contains("\"ready\"") => {
                // It must always find a reader.
                thread::spawn(move || lines.for_each(drop));
                Ok(actor)
            }
            other => {
                drop(actor);
                let logged = logged.join().unwrap_or_default();
                Err(Failure::new(format!("{command:?} is not ready: {other:?}\n{logged}")))
            }
        }
    }

    fn third_party(&self, names: &[&str]) -> Result<ThirdParty, Failure> {
        let places = names.iter().map(|name| place(&format!("{name}={}", door(name))));
        let places = places.collect::<Result<Vec<_>, _>>().map_err(Failure::new)?;
        third_party(places)
    }
}

/// A controller's file. All is quicker than it would be elsewhere.
fn controller_text(name: &str, other: &str) -> String {
    let (door, own, partner) = (door(name), partner_door(name), partner_door(other));
    let prefix = if other == "north" { "lamp-" } else { "pump-" };
    format!(
        "name = \"{name}\"\n\
         [door]\n\
         listen = \"{door}\"\n\
         insecure = true\n\
         [partner-door]\n\
         listen = \"{own}\"\n\
         insecure = true\n\
         [[partner]]\n\
         name = \"{other}\"\n\
         addrs = \"{partner}\"\n\
         grace = \"2s\"\n\
         [[dispatch]]\n\
         prefix = \"{prefix}\"\n\
         partition = \"{other}\"\n\
         [link]\n\
         ping = \"200ms\"\n\
         silence = \"2s\"\n\
         retry-first = \"50ms\"\n\
         retry-most = \"500ms\"\n\
         [store]\n\
         dir = \"{name}\"\n\
         [policy]\n\
         lease = \"30s\"\n\
         handshake = \"500ms\"\n\
         misses = 10\n\
         pace = 10\n"
    )
}

fn device_text(home: &str, backup: &str) -> String {
    format!(
        "[device]\n\
         name = \"unnamed\"\n\
         grace = \"2s\"\n\
         base = \"100ms\"\n\
         base-all = \"300ms\"\n\
         cap = \"1s\"\n\
         answer-within = \"3s\"\n\
         attempt-every = \"200ms\"\n\
         attempt-burst = 100\n\
         start-within = \"100ms\"\n\
         handshake-min = \"100ms\"\n\
         [device.home]\n\
         name = \"{home}\"\n\
         addrs = \"{}\"\n\
         [[device.backup]]\n\
         name = \"{backup}\"\n\
         addrs = \"{}\"\n",
        door(home),
        door(backup)
    )
}

#[cfg(test)]
mod tests {
    use eversock_controller::config::DeviceFile;

    use super::*;

    #[test]
    fn the_files_of_the_demo_are_sound() {
        for (name, other) in [("north", "south"), ("south", "north")] {
            let file = controller_text(name, other);
            let file = ControllerFile::from_text(&file, "demo", Path::new("/")).unwrap();
            assert_eq!(file.partners[0].name.as_str(), other);
            let device = DeviceFile::from_text(&device_text(name, other), "demo", Path::new("/"));
            device.unwrap().device_config().unwrap().policy.check().unwrap();
        }
    }
}
