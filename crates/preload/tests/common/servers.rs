//! The servers from the distribution that the tests talk to, with the library or without.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{ALL, Program, free_port, have, library, path, preload, random_file, wait_listening};
use super::{killed_while_it_runs, out_dir};

/// Starts a program, with the library under these rules or without it.
pub(crate) fn start(command: &mut Command, rules: Option<&str>) -> Program {
    match rules {
        Some(rules) => Program::start(preload(command, rules)),
        None => Program::start(command),
    }
}

/// A folder of its own for one test, and a file of random bytes in it.
pub(crate) fn folder(name: &str, mib: usize) -> (PathBuf, PathBuf) {
    let folder = out_dir().join(name);
    let _old = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("content");
    random_file(&file, mib);
    (folder, file)
}

pub(crate) fn same(a: &Path, b: &Path) -> bool {
    fs::read(a).unwrap() == fs::read(b).unwrap()
}

/// Waits until something listens there; what it accepts is nothing that it must answer.
fn wait_for(port: u16, server: &mut Program) {
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err() {
        assert!(server.is_running() && Instant::now() < until, "it does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// nginx with a folder to get files from, `/put/` to put them into, `/up/` to pass them on, and
/// `/sink/` where they end.
pub(crate) fn nginx(folder: &Path, workers: usize, rules: Option<&str>) -> (Program, u16) {
    let port = free_port();
    let root = folder.display();
    // As root its workers would be nobody, who may not read the folder.
    let user = user();
    let config = format!(
        "user {user}; daemon off; worker_processes {workers}; pid {root}/pid;\n\
         error_log {root}/error.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; client_max_body_size 0;\n\
         client_body_temp_path {root}/body; proxy_temp_path {root}/t1;\n\
         fastcgi_temp_path {root}/t2; uwsgi_temp_path {root}/t3; scgi_temp_path {root}/t4;\n\
         server {{ listen 127.0.0.1:{port}; root {root};\n\
         location /put/ {{ dav_methods PUT; create_full_put_path on; }}\n\
         location /up/ {{ proxy_pass http://127.0.0.1:{port}/sink/; }}\n\
         location /sink/ {{ return 200 taken; }} }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).arg("-p").arg(folder).arg("-e").arg(folder.join("error.log"));
    let mut server = start(command.env("PATH", path()), rules);
    wait_for(port, &mut server);
    (server, port)
}

/// A redis-server that keeps nothing.
pub(crate) fn redis(folder: &Path, rules: Option<&str>) -> (Program, u16) {
    fs::create_dir_all(folder).unwrap();
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--save", "", "--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]);
    let mut server = start(command.arg(folder), rules);
    wait_listening(port, &mut server);
    (server, port)
}

/// A cluster of PostgreSQL's, where its own user can get at it.
pub(crate) struct Postgres {
    pub(crate) folder: PathBuf,
    programs: PathBuf,
    library: PathBuf,
    user: (u32, u32),
}

impl Postgres {
    /// A new cluster; `None`, with a word, where PostgreSQL or the right to be its user is missing.
    pub(crate) fn new(name: &str) -> Option<Self> {
        // SAFETY: takes no pointers.
        let is_root = unsafe { libc::geteuid() } == 0;
        let (programs, user) = (postgres_programs(), postgres_user());
        let (Some(programs), Some(user), true) = (programs, user, is_root) else {
            have("postgres-or-root");
            return None;
        };
        let folder = PathBuf::from(format!("/tmp/eversock-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::chown(&folder, Some(user.0), Some(user.1)).unwrap();
        let copy = folder.join("preload.so");
        fs::copy(library(), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        let cluster = Self { folder, programs, library: copy, user };
        let mut init = cluster.as_user("initdb");
        init.args(["-A", "trust", "--no-sync", "-D"]).arg(cluster.folder.join("data"));
        Program::start(&mut init).succeed("initdb");
        Some(cluster)
    }

    fn as_user(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.uid(self.user.0).gid(self.user.1).current_dir(&self.folder);
        command
    }

    /// The server on this port: one at a time.
    pub(crate) fn serve(&self, port: u16, rules: Option<&str>) -> Program {
        let mut command = self.as_user("postgres");
        command.arg("-D").arg(self.folder.join("data"));
        command.args(["-p", &port.to_string(), "-c", "fsync=off"]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-k"]).arg(&self.folder);
        if let Some(rules) = rules {
            preload(&mut command, rules).env("LD_PRELOAD", &self.library);
        }
        let mut server = Program::start(&mut command);
        // It listens before it takes anybody. Its file says when it does, in the eighth line; who
        // asked by connecting would be logged.
        let status = self.folder.join("data/postmaster.pid");
        let is_ready = || {
            let text = fs::read_to_string(&status).unwrap_or_default();
            text.lines().nth(7).is_some_and(|line| line.trim() == "ready")
        };
        let until = Instant::now() + Duration::from_secs(30);
        while !is_ready() {
            assert!(server.is_running() && Instant::now() < until, "PostgreSQL does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// One of its clients, for a server or a path to one at this port.
    pub(crate) fn client(&self, name: &str, port: u16, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(name));
        let port = port.to_string();
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]).args(arguments);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

/// The folder of PostgreSQL's programs, which Debian keeps out of the way.
fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> =
        versions.flatten().map(|entry| entry.path().join("bin")).collect();
    found.sort();
    found.pop()
}

/// The user and group under which it runs: not root, which it refuses.
fn postgres_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// A program that copies standard input to a connection, and one that copies a connection to
/// standard output.
pub(crate) struct Copier {
    pub(crate) name: &'static str,
    server: &'static [&'static str],
    client: &'static [&'static str],
}

pub(crate) const COPIERS: [Copier; 2] = [
    Copier {
        name: "nc",
        server: &["-l", "-N", "127.0.0.1", "PORT"],
        client: &["-N", "127.0.0.1", "PORT"],
    },
    Copier {
        name: "socat",
        server: &["-u", "TCP-LISTEN:PORT,bind=127.0.0.1", "STDOUT"],
        client: &["-u", "STDIN", "TCP:127.0.0.1:PORT"],
    },
];

impl Copier {
    /// Listens, and writes what comes to the file.
    pub(crate) fn serve(&self, to: &Path, rules: Option<&str>) -> (Program, u16) {
        let port = free_port();
        // Its output is the pipe that the test reads, so a shell puts it into a file.
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec \"$@\" > {}", to.display()), "sh", self.name]);
        shell.args(self.server.iter().map(|word| word.replace("PORT", &port.to_string())));
        let mut server = start(&mut shell, rules);
        wait_listening(port, &mut server);
        (server, port)
    }

    /// Connects, and sends the file.
    pub(crate) fn send(&self, file: &Path, port: u16, rules: Option<&str>) -> Program {
        let mut command = Command::new(self.name);
        command.args(self.client.iter().map(|word| word.replace("PORT", &port.to_string())));
        start(command.stdin(fs::File::open(file).unwrap()), rules)
    }
}

/// Runs a preloaded client to its good end while the kernel kills its connections, and asks for at
/// least three that were. Gives what it printed.
pub(crate) fn survives_kills(command: &mut Command, port: u16, name: &str) -> String {
    let mut client = Program::start(preload(command, ALL));
    killed_while_it_runs(&mut client, port, name);
    client.succeed(name)
}
