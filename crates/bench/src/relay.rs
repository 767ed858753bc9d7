//! Relays between the two ends: a pair of our gateways, and what people use for such today.

use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::usage::end_with_us;

/// How long a relay may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Programs that pass bytes on; they end when this is dropped, and their files go.
#[derive(Debug)]
pub(crate) struct Relay {
    programs: Vec<Child>,
    folder: PathBuf,
}

impl Drop for Relay {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ended_already = program.kill();
            let _ended_already = program.wait();
        }
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

/// What makes a chain of programs to a server: the relay, and where a client connects to.
pub(crate) type Make<'a> = Box<dyn Fn(SocketAddr) -> io::Result<(Relay, SocketAddr)> + 'a>;

/// Two `evs gateway`s.
pub(crate) fn gateways(evs: &Path, server: SocketAddr) -> io::Result<(Relay, SocketAddr)> {
    let mut relay = Relay::new()?;
    let (near, far) = (free_port()?, free_port()?);
    let (plain_to, resilient) = (server.to_string(), far.to_string());
    let command = |args: [&str; 4]| {
        let mut command = Command::new(evs);
        command.arg("gateway").args(args);
        command
    };
    relay.start(command(["--resilient-listen", &resilient, "--plain-to", &plain_to]), far)?;
    let plain = near.to_string();
    relay.start(command(["--plain", &plain, "--resilient", &resilient]), near)?;
    Ok((relay, near))
}

/// Two socats, with these options before the addresses.
pub(crate) fn socats(options: &[&str], server: SocketAddr) -> io::Result<(Relay, SocketAddr)> {
    let mut relay = Relay::new()?;
    let (near, far) = (free_port()?, free_port()?);
    for (listen, to) in [(far, server), (near, far)] {
        let mut command = Command::new("socat");
        let (port, ip) = (listen.port(), listen.ip());
        command.args(options);
        command.arg(format!("TCP-LISTEN:{port},bind={ip},fork,reuseaddr,nodelay"));
        command.arg(format!("TCP:{to},nodelay"));
        relay.start(command, listen)?;
    }
    Ok((relay, near))
}

/// Two stunnels that share a key.
pub(crate) fn stunnels(server: SocketAddr) -> io::Result<(Relay, SocketAddr)> {
    let mut relay = Relay::new()?;
    let (near, far) = (free_port()?, free_port()?);
    let program = program_of(&["stunnel", "stunnel4"])
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "stunnel is not installed"))?;
    let secrets = relay.folder.join("secrets");
    // The key guards a connection between children of this program, for as long as they live.
    fs::write(&secrets, format!("bench:{}\n", "5a".repeat(32)))?;
    set_private(&secrets)?;
    for (listen, to, client) in [(far, server, "no"), (near, far, "yes")] {
        let path = relay.folder.join(format!("{}.conf", listen.port()));
        let text = format!(
            "foreground = yes\npid =\nsyslog = no\ndebug = 4\nsocket = l:TCP_NODELAY=1\n\
             socket = r:TCP_NODELAY=1\n[bench]\nclient = {client}\naccept = {listen}\n\
             connect = {to}\nciphers = PSK\nPSKsecrets = {}\n",
            secrets.display()
        );
        fs::write(&path, text)?;
        let mut command = Command::new(&program);
        command.arg(&path);
        relay.start(command, listen)?;
    }
    Ok((relay, near))
}

/// A forwarded port of an ssh client, with a server of its own behind it.
pub(crate) fn ssh(server: SocketAddr) -> io::Result<(Relay, SocketAddr)> {
    let mut relay = Relay::new()?;
    let (near, far) = (free_port()?, free_port()?);
    let sshd = program_of(&["sshd"])
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "sshd is not installed"))?;
    let key = relay.folder.join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
    finished(keygen)?;
    let config = relay.folder.join("sshd_config");
    let folder = relay.folder.display();
    let text = format!(
        "ListenAddress {far}\nHostKey {folder}/key\nAuthorizedKeysFile {folder}/key.pub\n\
         StrictModes no\nPidFile none\nUsePAM no\nPermitRootLogin yes\nAllowTcpForwarding yes\n"
    );
    fs::write(&config, text)?;
    let mut daemon = Command::new(sshd);
    daemon.args(["-D", "-e", "-f"]).arg(&config);
    relay.start(daemon, far)?;
    let mut client = Command::new("ssh");
    client.args(["-N", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"]);
    client.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes", "-i"]);
    client.arg(&key).arg("-L").arg(format!("{near}:{server}"));
    client.args(["-p", &far.port().to_string(), &far.ip().to_string()]);
    relay.start(client, near)?;
    Ok((relay, near))
}

impl Relay {
    fn new() -> io::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("evs-bench-relay-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder)?;
        Ok(Self { programs: Vec::new(), folder })
    }

    /// Starts a program and waits until it listens there.
    fn start(&mut self, mut command: Command, at: SocketAddr) -> io::Result<()> {
        let log = self.folder.join(format!("{}.log", at.port()));
        let file = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let name = command.get_program().to_string_lossy().into_owned();
        end_with_us(&mut command);
        let mut program = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("{name} cannot be run ({error}); install it"))
        })?;
        let until = Instant::now() + PATIENCE;
        let failed = loop {
            if is_listened_on(at.port()) {
                break None;
            }
            if program.try_wait()?.is_some() {
                break Some("has ended");
            }
            if Instant::now() > until {
                break Some("does not listen");
            }
            sleep(Duration::from_millis(5));
        };
        self.programs.push(program);
        let Some(failed) = failed else { return Ok(()) };
        let mut said = String::new();
        fs::File::open(&log)?.read_to_string(&mut said)?;
        Err(io::Error::other(format!("{name} {failed}: {}", said.trim())))
    }
}

/// From the kernel's list: a connect would become a connection of the server's.
fn is_listened_on(port: u16) -> bool {
    let ending = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|list| {
        fs::read_to_string(list).unwrap_or_default().lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&ending)) && words.nth(1) == Some("0A")
        })
    })
}

/// One that nobody has at this moment.
fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The first of these programs that there is; also where only root looks.
fn program_of(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    let folders: Vec<PathBuf> = folders.chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let mut all = names.iter().flat_map(|name| folders.iter().map(move |at| at.join(name)));
    all.find(|file| file.is_file())
}

fn set_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

/// Runs a program to its end; what it complained of if that is no good one.
fn finished(mut command: Command) -> io::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| {
        io::Error::new(error.kind(), format!("{name} cannot be run ({error}); install it"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{name}: {}: {}", output.status, said.trim())))
}
