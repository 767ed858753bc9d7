//! Mistakes that could be made in `proto`, each made once in a copy of the tree: who finds it?
//!
//! The list is held to the code by every run of the suite; to make the mistakes takes a while:
//!
//!     cargo test -p eversock-sim --test mutations -- --ignored --nocapture
//!
//! `EVERSOCK_MUTATION=<part of a name>` makes only those.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A mistake: `from` is in `file` once, and becomes `to`.
struct Mutation {
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    /// Whether the tests of `proto` find it; none where nobody has tried since it is in the list.
    proto: Option<bool>,
    /// Whether the simulation does, within [`SEEDS`].
    sim: bool,
}

const SEEDS: &str = "2000";
/// A test that takes so long does not end, which is a finding too.
const HUNG_AFTER: Duration = Duration::from_secs(300);

const SEND: &str = "crates/proto/src/send.rs";
const SEND_SNAPSHOT: &str = "crates/proto/src/send/snapshot.rs";
const RECV: &str = "crates/proto/src/recv.rs";
const SEALED: &str = "crates/proto/src/recv/sealed.rs";
const RESUME: &str = "crates/proto/src/resume.rs";
const OPEN: &str = "crates/proto/src/open.rs";
const SEAL: &str = "crates/proto/src/seal.rs";
const SECRET: &str = "crates/proto/src/secret.rs";
const CONTROL: &str = "crates/proto/src/control.rs";
const LOG: &str = "crates/proto/src/log.rs";

const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "a replay begins at the quote although more was acknowledged",
        file: SEND,
        from: "let from = peer_receive.max(self.acked);",
        to: "let from = peer_receive;",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "the log is trimmed beyond the cursor",
        file: SEND,
        from: "self.log.trim(self.acked.min(self.cursor).min(self.log.end()));",
        to: "self.log.trim(self.acked.min(self.log.end()));",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "a begun frame outlives its epoch",
        file: SEND,
        from: "self.frame = Frame::default();\n        if self.is_sealed() {",
        to: "if self.is_sealed() {",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "the stash is acknowledged",
        file: RECV,
        from: "let consumed = self.consumed();\n        let ack =",
        to: "let consumed = self.next;\n        let ack =",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "the sender believes an edge that is lower",
        file: SEND,
        from: "self.edge = self.edge.max(edge);",
        to: "self.edge = edge;",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "the receiver announces the room that is left",
        file: RECV,
        from: "Acks { ack, window: (self.window / WINDOW_UNIT_BYTES) as u16 }",
        to: "Acks { ack, window: ((self.window - self.stash.len()) / WINDOW_UNIT_BYTES) as u16 }",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "STOP and RESET die with their connection",
        file: SEND,
        from: "self.due.stop = self.stop;\n        self.due.reset = self.reset;",
        to: "self.due.stop = None;\n        self.due.reset = None;",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "the ack of the last byte is taken for that of the FIN",
        file: SEND,
        from: "self.finished && self.acked > self.log.end()",
        to: "self.finished && self.acked >= self.log.end()",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "a replay begins one byte too far",
        file: SEND,
        from: "self.cursor = from;",
        to: "self.cursor = (from + 1).min(self.log.end().max(from));",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "the keys of a resumed epoch are not bound to its nonces",
        file: SEAL,
        from: "secret.mac(RESUME_LABEL, messages)",
        to: "secret.mac(RESUME_LABEL, &messages[..0])",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "the epoch is one above the confirmed one, not the attempted",
        file: CONTROL,
        from: "self.attempted += 1;",
        to: "self.attempted = self.confirmed + 1;",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "a RESUME for the epoch that stands is answered and confirmed",
        file: RESUME,
        from: "if epoch <= confirmed {\n",
        to: "if epoch == 0 {\n",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "an old epoch's CONFIRM is taken",
        file: RESUME,
        from: "if self.epoch <= confirmed {",
        to: "if self.epoch == 0 {",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "an ack beyond what was sent is taken",
        file: SEND,
        from: "if ack > self.sent_max {",
        to: "if ack == u64::MAX {",
        proto: None,
        sim: false,
    },
    Mutation {
        name: "replayed bytes are delivered again",
        file: RECV,
        from: "self.parser.skip = self.next - value.min(self.next);",
        to: "self.parser.skip = 0;",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "replayed bytes go straight to the program",
        file: RECV,
        from: "&& self.stash.is_empty()\n            && self.parser.skip == 0",
        to: "&& self.stash.is_empty()",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "payload beyond the credit is taken",
        file: RECV,
        from: "if next > self.edge {\n            return Err(Violation::BeyondCredit);\n        }",
        to: "",
        proto: None,
        sim: false,
    },
    Mutation {
        name: "the sender counts some credit twice",
        file: SEND,
        from: "self.edge = self.edge.max(edge);",
        to: "self.edge = self.edge.max(edge.saturating_add(4096));",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "what is kept below an early ack is forgotten by the room",
        file: SEND,
        from: "let credit = self.edge.saturating_sub(self.log.end()).saturating_sub(behind);",
        to: "let credit = self.edge.saturating_sub(self.log.end());",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "START tells neither ack nor credit",
        file: SEND,
        from: "self.cut_control(Kind::Start, offset, acks);",
        to: "self.cut_control(Kind::Start, offset, Acks::default());",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "FIN names the last byte's offset",
        file: SEND,
        from: "self.cut_control(Kind::Fin, self.log.end(), acks);",
        to: "self.cut_control(Kind::Fin, self.log.end().saturating_sub(1), acks);",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "a resume quotes an offset without the FIN's",
        file: RECV,
        from: "self.next + u64::from(self.fin.is_some())",
        to: "self.next",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "a CONFIRM of a resume need prove nothing",
        file: RESUME,
        from: "if !secret.verify(CONFIRM_LABEL, &[&self.resume, &self.answer], mac) {",
        to: "if mac.is_empty() {",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "a resume of an open need prove nothing",
        file: OPEN,
        from: "pending.clone().confirmed(&self.opened.secret, 1, message)?;",
        to: "let _ = (pending, message);",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "a tombstone answers nobody",
        file: CONTROL,
        from: "ResumeServer::answer(&self.secret, 0, resume, 0, [0; KEY_BYTES]).ok()?;",
        to: "ResumeServer::answer(&self.secret, 0, &resume[..0], 0, [0; KEY_BYTES]).ok()?;",
        proto: None,
        sim: true,
    },
    Mutation {
        name: "two sessions of a server have one name",
        file: SECRET,
        from: "id[8..].copy_from_slice(&own.to_le_bytes());",
        to: "id[8..].copy_from_slice(&(own / 2).to_le_bytes());",
        proto: Some(true),
        sim: true,
    },
    Mutation {
        name: "the parser outlives its epoch",
        file: RECV,
        from: "self.parser = Parser::default();\n        self.taken = 0;",
        to: "self.parser.started = false;\n        self.taken = 0;",
        proto: Some(true),
        sim: true,
    },
    Mutation {
        name: "a half record outlives its epoch",
        file: SEALED,
        from: "*self = Self { bytes: std::mem::take(&mut self.bytes), ..Self::default() };",
        to: "self.opener = None;",
        proto: Some(true),
        sim: true,
    },
    Mutation {
        name: "a small write overtakes what waits",
        file: SEND,
        from: "|| self.cursor != end\n",
        to: "",
        proto: Some(true),
        sim: true,
    },
    Mutation {
        name: "the cap of the process is forgotten",
        file: LOG,
        from: "LOG_GUARANTEED_BYTES.saturating_sub(self.len()).max(self.pool.shared_room())",
        to: "u64::MAX",
        proto: Some(true),
        sim: true,
    },
    Mutation {
        name: "a resume alone counts as progress",
        file: CONTROL,
        from: "let progressed = self.last.is_none_or(|last| now > last && now.0 >= last.0);",
        to: "let progressed = true;",
        proto: Some(true),
        sim: true,
    },
    Mutation {
        name: "a hand-over forgets STOP and RESET",
        file: SEND_SNAPSHOT,
        from: "            stop,\n            reset,\n",
        to: "            stop: stop.and(None),\n            reset: reset.and(None),\n",
        proto: Some(true),
        sim: true,
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn each_mutation_still_fits_the_code_that_it_changes() {
    let mut bad = Vec::new();
    for mutation in MUTATIONS {
        let code = fs::read_to_string(root().join(mutation.file)).expect("a file of the tree");
        let times = code.matches(mutation.from).count();
        if times != 1 {
            bad.push(format!("{times} times in {}: {}", mutation.file, mutation.name));
        }
    }
    assert!(bad.is_empty(), "the code has changed; change the list too:\n{}", bad.join("\n"));
}

/// Which tests to build and run, in this order; the first that fails is enough.
struct Stage {
    targets: &'static [&'static str],
    filter: &'static [&'static str],
    seeds: &'static str,
}

#[test]
#[ignore = "builds proto and its tests anew for each mutation, which takes an hour"]
fn each_mutation_is_found_by_the_tests_of_proto_as_the_list_says() {
    const QUICK: &[&str] = &["--lib", "--test=flow", "--test=replay", "--test=ending"];
    let stages = [
        Stage { targets: QUICK, filter: &[], seeds: "" },
        Stage { targets: &[], filter: &[], seeds: "" },
    ];
    make_each("proto", &stages, |mutation| mutation.proto);
}

#[test]
#[ignore = "builds the simulation anew for each mutation, which takes twenty minutes"]
fn each_mutation_is_found_by_the_simulation_as_the_list_says() {
    let stage = |seeds| Stage { targets: &["--test=campaign"], filter: &["no_seed"], seeds };
    make_each("sim", &[stage("100"), stage(SEEDS)], |mutation| Some(mutation.sim));
}

/// Makes each mistake, and runs the tests of a crate until one of them fails.
fn make_each(folder: &str, stages: &[Stage], is_listed: fn(&Mutation) -> Option<bool>) {
    let only = env::var("EVERSOCK_MUTATION").unwrap_or_default();
    let copy = Copy::new(folder);
    let mut wrong = Vec::new();
    for mutation in MUTATIONS.iter().filter(|mutation| mutation.name.contains(&only)) {
        copy.write(mutation, true);
        let found = stages.iter().find_map(|stage| copy.test(folder, stage));
        copy.write(mutation, false);
        println!("{}\n    {folder}: {}", mutation.name, found.as_deref().unwrap_or("not found"));
        if is_listed(mutation).is_some_and(|listed| listed != found.is_some()) {
            wrong.push(mutation.name);
        }
    }
    assert!(wrong.is_empty(), "the list says otherwise of: {wrong:#?}");
}

/// The tree without its history and what was built, where mistakes can be made.
struct Copy(PathBuf);

impl Copy {
    fn new(folder: &str) -> Self {
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations").join(folder);
        // What an earlier run has left may be of another tree; what it has built is kept.
        let tree = copy.join("tree");
        if tree.exists() {
            fs::remove_dir_all(&tree).expect("the old copy can be removed");
        }
        copy_folder(&root(), &tree);
        Self(copy)
    }

    fn write(&self, mutation: &Mutation, mistaken: bool) {
        let code = fs::read_to_string(root().join(mutation.file)).expect("a file of the tree");
        let code = if mistaken { code.replace(mutation.from, mutation.to) } else { code };
        fs::write(self.0.join("tree").join(mutation.file), code).expect("the copy can be changed");
    }

    /// Runs the tests of a crate: what the first of them says that fails, or that it hangs.
    fn test(&self, folder: &str, stage: &Stage) -> Option<String> {
        let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let built = Command::new(cargo)
            .args(["test", "--offline", "--no-run", "-p", &format!("eversock-{folder}")])
            .args(stage.targets)
            .current_dir(self.0.join("tree"))
            .env("CARGO_TARGET_DIR", self.0.join("target"))
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .output()
            .expect("cargo runs");
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        assert!(built.status.success(), "it does not build:\n{said}");
        let tests = said.lines().filter_map(|line| line.trim().strip_prefix("Executable "));
        // This file is a test of the simulation too, and would read the copy.
        let tests = tests.filter(|line| !line.starts_with("tests/mutations.rs"));
        let programs: Vec<&str> =
            tests.filter_map(|line| line.rsplit_once('(')?.1.strip_suffix(')')).collect();
        assert!(!programs.is_empty(), "no test was built:\n{said}");
        programs.into_iter().find_map(|program| self.run(folder, program, stage))
    }

    fn run(&self, folder: &str, program: &str, stage: &Stage) -> Option<String> {
        let mut command = Command::new(program);
        command.args(stage.filter).current_dir(self.0.join("tree/crates").join(folder));
        command.env_remove("EVERSOCK_SEEDS").env_remove("EVERSOCK_SEED");
        if !stage.seeds.is_empty() {
            command.env("EVERSOCK_SEEDS", stage.seeds);
        }
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Some(output) = wait(child.expect("a test runs")) else {
            return Some("it hangs".to_owned());
        };
        if output.status.success() {
            return None;
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = said + &String::from_utf8_lossy(&output.stderr);
        let is_telling = |line: &&str| {
            line.contains("... FAILED")
                || line.contains("seeds of all")
                || line.starts_with("seed ")
        };
        let mut lines: Vec<&str> = said.lines().filter(is_telling).take(4).collect();
        if lines.len() < 2 && folder == "sim" {
            lines.push("no rule is broken, but something that strikes each time has not struck");
        }
        Some(lines.join("; "))
    }
}

/// The output of a test; none, and it is killed, when it does not end.
fn wait(mut child: Child) -> Option<Output> {
    let pid_out = child.stdout.take();
    let pid_err = child.stderr.take();
    let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                // What a killed test has said is of no use.
                let _read = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let stdout = read(pid_out.map(|pipe| Box::new(pipe) as _));
    let stderr = read(pid_err.map(|pipe| Box::new(pipe) as _));
    let until = Instant::now() + HUNG_AFTER;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break Some(status);
        }
        if Instant::now() > until {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let stdout = stdout.join().expect("output is read");
    let stderr = stderr.join().expect("output is read");
    Some(Output { status: status?, stdout, stderr })
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder of the tree") {
        let entry = entry.expect("an entry of the tree");
        let name = entry.file_name();
        let is_left_out = [".git", "target"].iter().any(|&left_out| name == left_out);
        let kind = entry.file_type().expect("an entry has a kind");
        if is_left_out || kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            copy_folder(&entry.path(), &to.join(name));
        } else {
            fs::copy(entry.path(), to.join(name)).expect("a file can be copied");
        }
    }
}
