//! A PostgreSQL of the tests' own, on a socket in its own directory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use eversock_spool::store::postgres::{PostgresConfig, PostgresStore};
use eversock_spool::store::{Quota, SpoolReader, SpoolStore, StoreError};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Maker, PAIR, skip, unique, wait_for};

/// Ends the server and takes its files away when the test's process is gone, however it went.
const GUARD: &str = r#"
read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then
    kill -INT "$pid" 2>/dev/null
    for _ in $(seq 200); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
    kill -KILL "$pid" 2>/dev/null
fi
rm -rf "$1"
"#;

pub(crate) struct Cluster {
    programs: PathBuf,
    folder: PathBuf,
    user: Option<(u32, u32)>,
    server: Mutex<Option<Child>>,
    guard: Child,
}

impl Cluster {
    /// A new one, running; `None` if there is no PostgreSQL here.
    pub(crate) fn new() -> Option<Arc<Self>> {
        let Some(programs) = programs() else {
            skip("there is no PostgreSQL here");
            return None;
        };
        // The server refuses to be run by root.
        let user = if rustix::process::getuid().is_root() {
            let Some(user) = unprivileged() else {
                skip("there is no user postgres here");
                return None;
            };
            Some(user)
        } else {
            None
        };
        let folder = PathBuf::from(format!("/tmp/evs-pg-{}-{}", std::process::id(), unique()));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let cluster = Self { programs, folder, user, server: Mutex::new(None), guard };
        let made = cluster
            .program("initdb")
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "-D"])
            .arg(cluster.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        cluster.start();
        Some(Arc::new(cluster))
    }

    /// The one that most tests share: it ends with the last of them.
    pub(crate) fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return Some(cluster);
        }
        let cluster = Self::new()?;
        *shared = Arc::downgrade(&cluster);
        Some(cluster)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(&self.folder).stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Starts the server and waits until it takes connections. One that was killed leaves
    /// processes behind for a moment, and until they are gone no other can start.
    pub(crate) fn start(&self) {
        let mut server = self.server.lock().unwrap();
        wait_for("a server that starts", || {
            if server.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                *server = Some(self.spawn());
            }
            self.is_ready(server.as_ref().unwrap())
        });
    }

    fn spawn(&self) -> Child {
        let log =
            fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        self.program("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-c", "listen_addresses=", "-c", "max_connections=60", "-k"])
            .arg(&self.folder)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Its file says so, in the eighth line; the first has the number of its process.
    fn is_ready(&self, server: &Child) -> bool {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        lines.next() == Some(&server.id().to_string())
            && lines.nth(6).is_some_and(|line| line.trim() == "ready")
    }

    /// All of its processes at once, as a crash of the machine would, but for what the system has
    /// in memory.
    pub(crate) fn kill(&self) {
        let mut server = self.server.lock().unwrap().take().unwrap();
        let pid = server.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        server.kill().unwrap();
        for child in children.unwrap_or_default().split_whitespace() {
            let child = Pid::from_raw(child.parse().unwrap()).unwrap();
            let _gone = kill_process(child, Signal::KILL);
        }
        server.wait().unwrap();
    }

    /// Ends one of the server's processes: the server then begins anew with all of them.
    pub(crate) fn kill_session(&self, process: i32) {
        let pid = Pid::from_raw(process).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }

    /// Stops one of the server's processes until what is given back is dropped.
    pub(crate) fn stop(&self, process: i32) -> Stopped {
        let pid = Pid::from_raw(process).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        Stopped(vec![pid])
    }

    /// Stops all of them.
    pub(crate) fn stop_all(&self) -> Stopped {
        let pid = self.server.lock().unwrap().as_ref().unwrap().id();
        let first = Pid::from_raw(pid.cast_signed()).unwrap();
        kill_process(first, Signal::STOP).unwrap();
        let mut stopped = Stopped(vec![first]);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        for child in children.split_whitespace() {
            let child = Pid::from_raw(child.parse().unwrap()).unwrap();
            if kill_process(child, Signal::STOP).is_ok() {
                stopped.0.push(child);
            }
        }
        stopped
    }

    pub(crate) fn params(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.folder.display())
    }

    /// For what a test looks at or damages by itself.
    pub(crate) fn client(&self) -> postgres::Client {
        postgres::Client::connect(&self.params(), postgres::NoTls).unwrap()
    }
}

/// Processes that stand still; they go on when it is dropped.
pub(crate) struct Stopped(Vec<Pid>);

impl Drop for Stopped {
    fn drop(&mut self) {
        for &pid in &self.0 {
            let _gone = kill_process(pid, Signal::CONT);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // Before the guard, which waits for as long as there is a process with this number.
        if let Some(mut server) = self.server.lock().unwrap().take() {
            let _gone = server.wait();
        }
        let _gone = self.guard.wait();
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

pub(crate) struct PostgresMaker {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) config: PostgresConfig,
}

impl PostgresMaker {
    /// With a schema of its own on the shared server.
    pub(crate) fn new() -> Option<Self> {
        Some(Self::on(Cluster::shared()?))
    }

    pub(crate) fn on(cluster: Arc<Cluster>) -> Self {
        let config = PostgresConfig {
            schema: format!("Spool \"{}\"", unique()),
            call_timeout: Duration::from_secs(30),
            ..PostgresConfig::new(&cluster.params())
        };
        Self { cluster, config }
    }

    /// The table of the pair, for SQL.
    pub(crate) fn table(&self) -> String {
        format!("\"{}\".\"record_{PAIR}\"", self.config.schema.replace('"', "\"\""))
    }
}

impl Maker for PostgresMaker {
    fn open_with(&self, quota: Quota) -> Result<Box<dyn SpoolStore>, StoreError> {
        Ok(Box::new(PostgresStore::open(&self.config, PAIR, quota)?))
    }

    fn reader(&self) -> Box<dyn SpoolReader> {
        Box::new(PostgresStore::open_reader(&self.config, PAIR).unwrap())
    }
}
