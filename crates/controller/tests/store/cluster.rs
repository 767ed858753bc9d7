//! A PostgreSQL of the tests' own, on a socket in its own folder.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use eversock_controller::store::postgres::{PostgresConfig, PostgresStores};
use eversock_controller::store::{Opens, Quota};
use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, getuid, kill_process};

use crate::common::{Maker, ROOMY, skip, unique, wait_for};

/// Outlives the test's process, however that ends, by as long as it takes to end the server and to
/// remove its files: its input is a pipe that nobody else reads.
const GUARD: &str = r#"
read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && kill -INT "$pid" 2>/dev/null; then
    tries=200
    while [ $tries -gt 0 ] && kill -0 "$pid" 2>/dev/null; do tries=$((tries - 1)); sleep 0.05; done
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
        let user = unprivileged();
        // The server refuses to be run by root.
        if getuid().is_root() && user.is_none() {
            skip("there is no user postgres here");
            return None;
        }
        let user = user.filter(|_| getuid().is_root());
        let folder = PathBuf::from(format!("/tmp/evs-ct-{}-{}", std::process::id(), unique()));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let cluster = Self { programs, folder, user, server: Mutex::new(None), guard };
        if let Some((uid, gid)) = user {
            chown(&cluster.folder, Some(uid), Some(gid)).unwrap();
        }
        let mut initdb = cluster.program("initdb");
        initdb.args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "-D"]);
        let made = initdb.arg(cluster.data()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        cluster.start();
        Some(Arc::new(cluster))
    }

    /// The one that most tests share: it ends with the last of them.
    pub(crate) fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Starts the server and waits until it takes connections. Processes of one that was killed may
    /// hinder it for a moment.
    pub(crate) fn start(&self) {
        let mut server = self.server.lock().unwrap();
        wait_for("a server that starts", || {
            if server.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                let log = self.folder.join("log");
                let log = fs::File::options().create(true).append(true).open(log).unwrap();
                let mut command = self.program("postgres");
                command.arg("-D").arg(self.data()).arg("-k").arg(&self.folder);
                command.args(["-c", "listen_addresses=", "-c", "max_connections=90"]);
                *server = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
            }
            // The first line has the number of its process, the eighth how it is.
            let path = self.data().join("postmaster.pid");
            let text = fs::read_to_string(path).unwrap_or_default();
            let mut lines = text.lines();
            lines.next() == server.as_ref().map(|child| child.id().to_string()).as_deref()
                && lines.nth(6).is_some_and(|line| line.trim() == "ready")
        });
    }

    /// All of its processes at once.
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

    pub(crate) fn params(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.folder.display())
    }

    /// For what a test looks at or damages by itself.
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.params(), NoTls).unwrap()
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
    let bins = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    bins.filter(|bin| bin.join("initdb").exists()).max()
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
    /// With schemas of its own on the shared server.
    pub(crate) fn new() -> Option<Self> {
        Some(Self::on(Cluster::shared()?))
    }

    pub(crate) fn on(cluster: Arc<Cluster>) -> Self {
        let config = PostgresConfig {
            params: cluster.params(),
            prefix: format!("Site \"{}\"", unique()),
            call_timeout: Duration::from_secs(30),
            folder: std::env::temp_dir().join(format!(
                "evs-ct-{}-{}",
                std::process::id(),
                unique()
            )),
        };
        Self { cluster, config }
    }

    pub(crate) fn stores(&self) -> PostgresStores {
        PostgresStores::new(self.config.clone(), ROOMY)
    }

    /// A session in the schema of a partition.
    pub(crate) fn within(&self, partition: &str) -> Client {
        let mut client = self.cluster.client();
        let schema = format!("{}:{partition}", self.config.prefix).replace('"', "\"\"");
        client.batch_execute(&format!("SET search_path = \"{schema}\"")).unwrap();
        client
    }

    /// The server's process that has the lock of a partition of this maker.
    pub(crate) fn holder(&self, client: &mut Client, partition: &str) -> i32 {
        let sql = "SELECT a.pid FROM pg_stat_activity AS a JOIN pg_locks AS l ON l.pid = a.pid
                   WHERE l.locktype = 'advisory' AND l.granted AND a.application_name = $1";
        let name = format!("evs controller {partition}");
        client.query_one(sql, &[&name]).unwrap().get(0)
    }
}

impl Drop for PostgresMaker {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.config.folder);
    }
}

impl Maker for PostgresMaker {
    fn opens(&self, quota: Quota) -> Box<dyn Opens> {
        Box::new(PostgresStores::new(self.config.clone(), quota))
    }
}
