//! A PostgreSQL of our own, on a socket in its own folder, on the same disk as everything else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::parts::Place;
use crate::usage::end_with_us;

/// Until it takes connections.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until this is dropped, or this process ends.
#[derive(Debug)]
pub(super) struct Cluster {
    folder: PathBuf,
    server: Child,
}

impl Cluster {
    /// As durable as PostgreSQL is by itself.
    ///
    /// # Errors
    ///
    /// Why there is none, for people.
    pub(super) fn start(place: &Place) -> Result<Self, String> {
        let programs =
            programs().ok_or("no initdb below /usr/lib/postgresql: install PostgreSQL")?;
        // The server refuses to be run by root.
        // SAFETY: no memory is passed.
        let user = if unsafe { libc::getuid() } == 0 {
            Some(unprivileged().ok_or("there is no user postgres, and root may not run it")?)
        } else {
            None
        };
        let folder = place.file("postgresql");
        let told = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir_all(&folder).map_err(told)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).map_err(told)?;
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).map_err(told)?;
        }
        let program = |name: &str| {
            let mut command = Command::new(programs.join(name));
            command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null());
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let made = program("initdb")
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "-D", "data"])
            .output()
            .map_err(|error| format!("initdb cannot be run: {error}"))?;
        if !made.status.success() {
            return Err(format!("initdb: {}", String::from_utf8_lossy(&made.stderr)));
        }
        let log = fs::File::create(folder.join("log")).map_err(told)?;
        let mut server = program("postgres");
        server.args(["-D", "data", "-c", "listen_addresses=", "-k"]).arg(&folder).stderr(log);
        end_with_us(&mut server);
        let server = server.spawn().map_err(|error| format!("postgres cannot be run: {error}"))?;
        let mut cluster = Self { folder: folder.clone(), server };
        cluster.await_ready()?;
        Ok(cluster)
    }

    /// Its file says so, in the eighth line.
    fn await_ready(&mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let file = self.folder.join("data/postmaster.pid");
            let text = fs::read_to_string(file).unwrap_or_default();
            if text.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            let is_gone = !matches!(self.server.try_wait(), Ok(None));
            if is_gone || Instant::now() > until {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(format!("postgres does not start: {log}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// For clients.
    pub(super) fn params(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.folder.display())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Ok(process) = i32::try_from(self.server.id()) {
            // Ends its own processes and then itself.
            // SAFETY: no memory is passed, and the process has not been waited for.
            unsafe { libc::kill(process, libc::SIGINT) };
        }
        let _gone = self.server.wait();
    }
}

fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|bin| Path::new(bin).join("initdb").exists())
        .collect();
    found.sort();
    found.pop()
}

fn unprivileged() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
