//! Databases and their clients from the distribution, through cuts.
//!
//! `.ci/run` installs redis-server and postgresql; elsewhere what is missing is left out, loudly.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{ALL, Program, cutting, free_port, have, library, out_dir, preload, random_file};
use common::{cuts, wait_listening};

const MIB: u64 = 1024 * 1024;
/// Commands that are sent without waiting for an answer.
const PIPED: usize = 500_000;

#[test]
fn redis_keeps_its_clients_through_cuts() {
    if !have("redis-server") || !have("redis-cli") || !have("redis-benchmark") {
        return;
    }
    let folder = out_dir().join("redis");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("content");
    random_file(&file, 16);
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--save", "", "--bind", "127.0.0.1", "--dir"]).arg(&folder);
    command.args(["--port", &port.to_string()]);
    let mut server = Program::start(preload(&mut command, ALL));
    wait_listening(port, &mut server);
    let proxy = cutting(port, 2 * MIB);
    let client = |name: &str, arguments: &[&str], input: Stdio| {
        let mut command = Command::new(name);
        command.args(["-p", &proxy.local_addr().port().to_string()]).args(arguments).stdin(input);
        Program::start(preload(&mut command, ALL)).succeed(name)
    };
    let hit = cuts(&proxy, || {
        let input = Stdio::from(fs::File::open(&file).unwrap());
        assert_eq!(client("redis-cli", &["-x", "set", "content"], input), "OK\n");
        let digest = "return redis.sha1hex(redis.call('get','content'))";
        let found = client("redis-cli", &["eval", digest, "0"], Stdio::null());
        let sum = Command::new("sha1sum").arg(&file).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        assert_eq!(found.trim(), sum.split(' ').next().unwrap());
        // Each reply is checked by the program itself; a lost one would stop it for ever.
        let load = ["-n", "100000", "-c", "20", "-P", "16", "-t", "incr", "-q"];
        client("redis-benchmark", &load, Stdio::null());
        let counter = client("redis-cli", &["get", "counter:__rand_int__"], Stdio::null());
        assert_eq!(counter.trim(), "100000", "a command was lost, or came twice");
        // Half a million commands without waiting for an answer in between.
        let commands = folder.join("commands");
        let line = "INCR piped\r\n".repeat(PIPED);
        fs::write(&commands, line).unwrap();
        let input = Stdio::from(fs::File::open(&commands).unwrap());
        let said = client("redis-cli", &["--pipe"], input);
        assert!(said.contains(&format!("errors: 0, replies: {PIPED}")), "{said}");
        let counter = client("redis-cli", &["get", "piped"], Stdio::null());
        assert_eq!(counter.trim(), PIPED.to_string());
    });
    assert!(hit >= 10, "only {hit} cuts");
}

#[test]
fn without_eversock_redis_loses_its_client_at_the_first_cut() {
    if !have("redis-server") || !have("redis-cli") {
        return;
    }
    let folder = out_dir().join("redis-control");
    fs::create_dir_all(&folder).unwrap();
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--save", "", "--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]);
    let mut server = Program::start(command.arg(&folder));
    wait_listening(port, &mut server);
    let proxy = cutting(port, MIB);
    let commands = folder.join("commands");
    fs::write(&commands, "INCR piped\r\n".repeat(PIPED)).unwrap();
    let mut command = Command::new("redis-cli");
    command.args(["-p", &proxy.local_addr().port().to_string(), "--pipe"]);
    command.stdin(fs::File::open(&commands).unwrap());
    let (status, out, _) = Program::start(&mut command).end();
    let whole = format!("errors: 0, replies: {PIPED}");
    assert!(!status.success() || !out.contains(&whole), "the cut did nothing");
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

#[test]
fn postgresql_keeps_sessions_and_transactions_through_cuts() {
    // SAFETY: takes no pointers.
    let is_root = unsafe { libc::geteuid() } == 0;
    let (programs, user) = (postgres_programs(), postgres_user());
    let (Some(programs), Some((uid, gid)), true) = (programs, user, is_root) else {
        have("postgres-or-root");
        return;
    };
    // Where another user can get at it.
    let folder = PathBuf::from(format!("/tmp/eversock-postgres-{}", std::process::id()));
    let _clean = Clean(&folder);
    fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).unwrap();
    let library_copy = folder.join("preload.so");
    fs::copy(library(), &library_copy).unwrap();
    fs::set_permissions(&library_copy, fs::Permissions::from_mode(0o755)).unwrap();
    let data = folder.join("data");
    let as_user = |name: &str| {
        let mut command = Command::new(programs.join(name));
        command.uid(uid).gid(gid).current_dir(&folder);
        command
    };
    let mut init = as_user("initdb");
    init.args(["-A", "trust", "--no-sync", "-D"]).arg(&data);
    Program::start(&mut init).succeed("initdb");

    let port = free_port();
    let rules = format!("[[listen]]\nport = {port}\nmode = \"require\"\n");
    let mut command = as_user("postgres");
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "fsync=off"]);
    command.args(["-c", "listen_addresses=127.0.0.1", "-k"]).arg(&folder);
    let mut server = Program::start(preload(&mut command, &rules).env("LD_PRELOAD", &library_copy));
    wait_listening(port, &mut server);
    let proxy = cutting(port, 2 * MIB);
    let client = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(programs.join(name));
        let port = proxy.local_addr().port().to_string();
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]).args(arguments);
        Program::start(preload(&mut command, ALL)).succeed(name)
    };
    let rows = "select g, md5(g::text) from generate_series(1, 500000) g";
    let hit = cuts(&proxy, || {
        client("pgbench", &["-i", "-s", "1", "-q", "postgres"]);
        client("pgbench", &["-c", "4", "-j", "2", "-t", "250", "postgres"]);
        let balance = "select sum(abalance) = (select sum(tbalance) from pgbench_tellers) \
                       from pgbench_accounts";
        assert_eq!(client("psql", &["-Atc", balance, "postgres"]), "t\n");
        let count = "select count(*) from pgbench_history";
        assert_eq!(client("psql", &["-Atc", count, "postgres"]), "1000\n");
        // One session with one transaction, out and in again.
        let file = folder.join("rows");
        let out = format!("\\copy ({rows}) to '{}'", file.display());
        let into = format!("\\copy t from '{}'", file.display());
        let difference = format!("select count(*) from (select * from t except {rows}) d");
        let session =
            ["-1", "-At", "-c", "create table t (g int, m text)", "-c", &out, "-c", &into];
        client("psql", &[&session[..], &["-c", &difference, "postgres"]].concat());
        let same = format!("select count(*) from (select * from t intersect {rows}) d");
        assert_eq!(client("psql", &["-Atc", &same, "postgres"]), "500000\n");
        // 200 MB in one COPY.
        let big = folder.join("big");
        let wide = "select g, repeat(md5(g::text), 32) from generate_series(1, 200000) g";
        let copy = format!("\\copy ({wide}) to '{}'", big.display());
        assert_eq!(client("psql", &["-Atc", &copy, "postgres"]), "COPY 200000\n");
        assert!(fs::metadata(&big).unwrap().len() > 200_000_000);
        let sum = format!("select sum(length(m)), bit_xor(hashtext(m)) from ({wide}) t(g, m)");
        let expected = client("psql", &["-Atc", &sum, "postgres"]);
        let back = format!("\\copy big from '{}'", big.display());
        let sum = "select sum(length(m)), bit_xor(hashtext(m)) from big";
        let table = "create unlogged table big (g int, m text)";
        let found = client("psql", &["-qAt", "-c", table, "-c", &back, "-c", sum, "postgres"]);
        assert!(found.ends_with(&expected), "{found} {expected}");
    });
    assert!(hit >= 10, "only {hit} cuts");
    // Without eversock the first cut ends the session. The server takes plain clients no more, so
    // the client's own connection is what is cut: by a server that serves it without the library.
    drop(server);
    let mut command = as_user("postgres");
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "fsync=off"]);
    command.args(["-c", "listen_addresses=127.0.0.1", "-k"]).arg(&folder);
    let mut server = Program::start(&mut command);
    wait_listening(port, &mut server);
    let mut command = Command::new(programs.join("psql"));
    let to = proxy.local_addr().port().to_string();
    command.args(["-h", "127.0.0.1", "-p", &to, "-U", "postgres", "postgres", "-Atc"]);
    let (status, _, _) = Program::start(command.arg(format!("copy ({rows}) to stdout"))).end();
    assert!(!status.success(), "the cut did nothing");
}

struct Clean<'a>(&'a Path);

impl Drop for Clean<'_> {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(self.0);
    }
}
