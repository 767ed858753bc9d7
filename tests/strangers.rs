//! What other processes of the machine can do over the named channel of an engine.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use common::child::{Helper, hear, role, say};
use common::limit::Limit;
use common::{begin, proxy_to, quick, read_all, read_exactly, wait_until};
use eversock::{VirtualListener, VirtualStream};
use eversock_chaos::{Fault, Target};

const PATIENCE: Duration = Duration::from_secs(60);
/// A user of every Linux machine that has no rights.
const NOBODY: libc::uid_t = 65534;

/// Sets how many descriptors this process may have from here on; gives what it was.
fn limit_files(most: u64) -> u64 {
    let mut files = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads and writes a local.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files), 0);
        let before = std::mem::replace(&mut files.rlim_cur, most);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files), 0);
        before
    }
}

/// The processes of the tests below.
#[test]
fn helper_process() {
    let Some((role, _)) = role() else { return };
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    say(&listener.local_addr().unwrap().to_string());
    match role.as_str() {
        "out-of-descriptors" => {
            let _session = listener.accept().unwrap();
            let before = limit_files(0);
            say("none left");
            hear();
            limit_files(before);
            hear();
        }
        "worker" => {
            // SAFETY: the hooks of eversock care for its own thread; the child uses no other's.
            let worker = unsafe { libc::fork() };
            if worker == 0 {
                // SAFETY: it must not outlive the test for long.
                unsafe { libc::alarm(60) };
                let (mut stream, _) = listener.accept().unwrap();
                let mut byte = [0];
                while stream.read(&mut byte).unwrap() == 1 {
                    stream.write_all(&byte).unwrap();
                }
                std::process::exit(0);
            }
            say(&worker.to_string());
            hear();
        }
        other => panic!("no role {other}"),
    }
}

/// The name of the channel of a process's engine.
fn channel_of(process: u32) -> Vec<u8> {
    let links = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let links = links.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let sockets: Vec<String> = links.map(|link| link.display().to_string()).collect();
    let known = std::fs::read_to_string("/proc/net/unix").unwrap();
    let name = known.lines().find_map(|line| {
        let (rest, name) = line.rsplit_once(" @eversock-")?;
        let socket = format!("socket:[{}]", rest.split_whitespace().last()?);
        sockets.contains(&socket).then(|| format!("eversock-{name}"))
    });
    name.expect("the process has a channel").into_bytes()
}

fn channel_socket() -> OwnedFd {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: makes a socket, which is ours alone.
    unsafe {
        let number = libc::socket(libc::AF_UNIX, kind, 0);
        assert!(number >= 0);
        OwnedFd::from_raw_fd(number)
    }
}

fn abstract_address(name: &[u8]) -> (libc::sockaddr_un, libc::socklen_t) {
    // SAFETY: all zeros is an address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, &from) in address.sun_path[1..].iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + 1 + name.len();
    (address, libc::socklen_t::try_from(length).unwrap())
}

/// The engine's watch of its channel is edge-triggered, and it had looked once, in vain: who came
/// while it was out of descriptors waited until the next one came.
#[test]
fn who_comes_while_a_process_is_out_of_descriptors_is_seen_to_afterwards() {
    let _limit = Limit::new("out of descriptors", PATIENCE);
    begin();
    let mut helper = Helper::spawn("helper_process", "out-of-descriptors", "");
    let _client = VirtualStream::connect_with(helper.addr(), quick()).unwrap();
    assert_eq!(helper.word(), "none left");
    let name = channel_of(helper.id());
    let line = channel_socket();
    let (address, length) = abstract_address(&name);
    let raw = line.as_raw_fd();
    // SAFETY: the address is valid for its length, the message for its own.
    unsafe {
        assert_eq!(libc::connect(raw, (&raw const address).cast(), length), 0);
        assert_eq!(libc::send(raw, b"nonsense".as_ptr().cast(), 8, 0), 8);
    }
    // Not accepted, it has no inode; so it was looked at in vain, or is about to be.
    let suffix = format!(" @{}", String::from_utf8(name).unwrap());
    let waits = || {
        let known = std::fs::read_to_string("/proc/net/unix").unwrap();
        known.lines().any(|line| {
            let inode = line.strip_suffix(&suffix).and_then(|rest| rest.split_whitespace().last());
            inode == Some("0")
        })
    };
    for _ in 0..100 {
        assert!(waits(), "it was accepted without a descriptor");
        std::thread::yield_now();
    }
    helper.go();
    // Nonsense is answered by an end.
    let mut fds = [libc::pollfd { fd: raw, events: libc::POLLIN, revents: 0 }];
    // SAFETY: one entry.
    assert_eq!(unsafe { libc::poll(fds.as_mut_ptr(), 1, 20_000) }, 1, "nobody has looked");
    // SAFETY: the buffer is one byte.
    assert_eq!(unsafe { libc::recv(raw, [0u8; 1].as_mut_ptr().cast(), 1, 0) }, 0);
}

/// A process that ends with the test.
struct Stranger(libc::pid_t);

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut status = 0;
        // SAFETY: a child of ours that was not reaped.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, &raw mut status, 0);
        }
    }
}

/// Listens under a name as a user without rights, in a process of its own.
fn stranger_at(name: &[u8]) -> Stranger {
    let (address, length) = abstract_address(name);
    let (mut ready, tell) = std::io::pipe().unwrap();
    let line = channel_socket();
    // SAFETY: the child makes system calls only.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: plain system calls with valid arguments; the process ends here.
        unsafe {
            // With copies of the test's connections none of them would end.
            for number in (3..4096).filter(|n| ![line.as_raw_fd(), tell.as_raw_fd()].contains(n)) {
                libc::close(number);
            }
            let own = libc::setresuid(NOBODY, NOBODY, NOBODY) == 0
                && libc::bind(line.as_raw_fd(), (&raw const address).cast(), length) == 0
                && libc::listen(line.as_raw_fd(), 64) == 0;
            let word = if own { b"y" } else { b"n" };
            libc::write(tell.as_raw_fd(), word.as_ptr().cast(), 1);
            libc::alarm(60);
            loop {
                libc::pause();
            }
        }
    }
    let stranger = Stranger(child);
    drop(tell);
    let mut word = [0];
    ready.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"y", "the stranger has not got the name");
    stranger
}

/// A dead process's name is free. Whoever took it was believed to be the master, still alive, and
/// nobody took its place at the listener.
#[test]
fn a_stranger_with_a_dead_masters_name_keeps_its_heirs_from_nothing() {
    let _limit = Limit::new("a stranger", PATIENCE);
    // SAFETY: gives a number.
    if unsafe { libc::geteuid() } != 0 {
        let why = "SKIPPED: strangers: only root can play another user\n";
        let _gone = std::io::stderr().write_all(why.as_bytes());
        assert!(std::env::var_os("CI").is_none(), "{why}");
        return;
    }
    begin();
    let mut helper = Helper::spawn("helper_process", "worker", "");
    let proxy = proxy_to(helper.addr());
    let worker: libc::pid_t = helper.word().parse().unwrap();
    let mut client = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
    client.write_all(b"1").unwrap();
    assert_eq!(read_exactly(&client, 1), b"1");
    let name = channel_of(helper.id());
    // The worker must not look before the stranger is there.
    // SAFETY: a process of the test's.
    unsafe { libc::kill(worker, libc::SIGSTOP) };
    wait_until("the worker stands still", || {
        let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
        stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
    });
    helper.kill();
    let _stranger = stranger_at(&name);
    // SAFETY: as above.
    unsafe { libc::kill(worker, libc::SIGCONT) };
    proxy.inject(Fault::Reset, Target::Open).unwrap();
    client.write_all(b"2").unwrap();
    assert_eq!(read_exactly(&client, 1), b"2");
    client.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&client).is_empty());
}
