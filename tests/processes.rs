//! Servers of several processes: who accepts, who owns, who serves, while connections die.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::child::{Helper, hear, role, say};
use common::limit::Limit;
use common::{MIB, begin, data, proxy_to, quick, read_all, while_cutting};
use eversock::{Config, VirtualListener, VirtualStream};
use eversock_chaos::{Fault, Proxy, Target};
use eversock_engine::posix;

const PATIENCE: Duration = Duration::from_secs(100);

/// Forks; 0 in the child, which has one thread.
fn fork() -> libc::pid_t {
    // SAFETY: the helper processes have one thread besides the engine's, for which eversock has
    // hooks around fork.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    pid
}

/// Waits for a child; true if it exited with 0.
fn reap(pid: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: `status` is writable.
    let got = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    got == pid && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

/// Sends back all that comes, then ends. A panic in a child must not run the test harness again.
fn echo_and_exit(mut stream: VirtualStream) -> ! {
    let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut buf = vec![0; 64 * 1024];
        loop {
            match stream.read(&mut buf).unwrap() {
                0 => break,
                n => stream.write_all(&buf[..n]).unwrap(),
            }
        }
        drop(stream);
    }));
    std::process::exit(i32::from(served.is_err()))
}

fn listen() -> VirtualListener {
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    say(&listener.local_addr().unwrap().to_string());
    listener
}

/// The servers of the tests below, each a process of its own.
#[test]
fn helper_process() {
    let Some((role, argument)) = role() else { return };
    begin();
    let count: usize = argument.parse().unwrap_or(0);
    match role.as_str() {
        "fork-per-connection" => {
            let listener = listen();
            let mut children = Vec::new();
            for _ in 0..count {
                let (stream, _) = listener.accept().unwrap();
                match fork() {
                    0 => {
                        drop(listener);
                        echo_and_exit(stream);
                    }
                    pid => children.push(pid),
                }
                drop(stream);
            }
            assert!(children.into_iter().all(reap), "a child failed");
        }
        "fork-after-talk" => {
            let listener = listen();
            let (mut stream, _) = listener.accept().unwrap();
            // The parent has used the session before the child takes it over.
            let mut word = [0; 5];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(b"hello").unwrap();
            let pid = match fork() {
                0 => echo_and_exit(stream),
                pid => pid,
            };
            drop(stream);
            assert!(reap(pid), "the child failed");
        }
        "pre-fork" => {
            let listener = listen();
            let children: Vec<_> = (0..count)
                .map(|_| match fork() {
                    0 => loop {
                        let (mut stream, _) = listener.accept().unwrap();
                        let mut got = Vec::new();
                        stream.read_to_end(&mut got).unwrap();
                        if got == b"quit" {
                            // One worker each.
                            drop(stream);
                            std::process::exit(0);
                        }
                        stream.write_all(&got).unwrap();
                    },
                    pid => pid,
                })
                .collect();
            assert!(children.into_iter().all(reap), "a worker failed");
        }
        "closes-its-listener" => {
            let listener = listen();
            let (stream, _) = listener.accept().unwrap();
            drop(listener);
            say("closed");
            echo_and_exit(stream);
        }
        "forks-helpers" => {
            let listener = listen();
            let (mut stream, _) = listener.accept().unwrap();
            let mut buf = vec![0; 64 * 1024];
            let mut rounds = 0;
            loop {
                let n = stream.read(&mut buf).unwrap();
                if n == 0 {
                    break;
                }
                rounds += 1;
                if rounds % 8 == 1 {
                    match fork() {
                        0 => {
                            let path = c"/bin/true".as_ptr();
                            // SAFETY: a null-terminated list of arguments; _exit if there is none.
                            unsafe {
                                libc::execl(path, path, std::ptr::null::<libc::c_char>());
                                libc::_exit(127);
                            }
                        }
                        pid => assert!(reap(pid)),
                    }
                    assert!(Command::new("/bin/true").status().unwrap().success());
                }
                stream.write_all(&buf[..n]).unwrap();
            }
        }
        "ends-with-children" => {
            let listener = listen();
            let (stream, _) = listener.accept().unwrap();
            match fork() {
                0 => {
                    // The parent is gone before the child serves.
                    hear();
                    echo_and_exit(stream);
                }
                _ => std::process::exit(0),
            }
        }
        "leaves-at-once" => {
            let listener = listen();
            let mut children = Vec::new();
            for _ in 0..count {
                let (stream, _) = listener.accept().unwrap();
                let mut stream = Some(stream);
                children.push(fork_to(|| {
                    let stream = stream.take().unwrap();
                    echo(&stream);
                    close_waiting(stream);
                }));
                drop(stream);
            }
            assert!(children.into_iter().all(reap), "a child failed");
        }
        "closes-its-listener-and-leaves-at-once" => {
            let listener = listen();
            let (stream, _) = listener.accept().unwrap();
            drop(listener);
            say("closed");
            echo(&stream);
            close_waiting(stream);
            // SAFETY: ends the process; nothing is left to be run.
            unsafe { libc::_exit(0) };
        }
        "starts-programs" => starts_programs(&argument),
        "has-a-silent-child" => has_a_silent_child(&argument),
        "waits" => {
            let (mut stream, _listener) = one_stream(&argument, quick());
            stream.write_all(b"hello").unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            say("stands");
            hear();
            panic!("the test was to end this process");
        }
        "writes-and-exits" => {
            let (mut stream, _listener) = one_stream(&argument, wide());
            stream.write_all(&data(5, 4 * MIB)).unwrap();
            say("written");
            std::process::exit(0);
        }
        other => panic!("no role {other}"),
    }
}

/// Sends `bytes` and expects them back and the end; blocking, both directions at once.
fn echoed(client: &VirtualStream, bytes: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(|| common::send_and_end(client, bytes));
        let got = read_all(client);
        assert!(got == bytes, "{} of {} bytes came back", got.len(), bytes.len());
    });
}

fn clients(role: &str, argument: usize, count: usize, each: usize, every: usize) -> usize {
    begin();
    let mut helper = Helper::spawn("helper_process", role, &argument.to_string());
    let proxy = proxy_to(helper.addr());
    let done = AtomicUsize::new(0);
    // Connected before the first cut: a connect that is cut may fail, and the servers count.
    let clients: Vec<_> = (0..count)
        .map(|_| VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap())
        .collect();
    let hit = while_cutting(&proxy, &Fault::Reset, every, || {
        std::thread::scope(|scope| {
            for (which, client) in clients.into_iter().enumerate() {
                let done = &done;
                scope.spawn(move || {
                    echoed(&client, &data(which as u64, each));
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
    });
    assert_eq!(done.load(Ordering::Relaxed), count);
    if role == "pre-fork" {
        // One by one, so that no worker is asked twice.
        for _ in 0..argument {
            let mut client = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
            client.write_all(b"quit").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        }
    }
    assert!(helper.end().success(), "the server failed");
    hit
}

#[test]
fn a_server_that_forks_per_connection_serves_through_cuts() {
    assert!(clients("fork-per-connection", 1, 1, 4 * MIB, MIB) >= 1);
}

#[test]
fn a_server_that_forks_per_connection_serves_several_clients_through_cuts() {
    assert!(clients("fork-per-connection", 5, 5, 2 * MIB, 4 * MIB) >= 1);
}

#[test]
fn a_child_takes_over_a_session_that_its_parent_has_used() {
    begin();
    for cut in [false, true] {
        let mut helper = Helper::spawn("helper_process", "fork-after-talk", "1");
        let proxy = proxy_to(helper.addr());
        let mut client = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
        client.write_all(b"hallo").unwrap();
        let mut word = [0; 5];
        client.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"hello");
        if cut {
            proxy.inject(Fault::Reset, Target::Open).unwrap();
        }
        echoed(&client, &data(1, MIB));
        drop(client);
        assert!(helper.end().success());
    }
}

#[test]
fn pre_forked_workers_share_the_listener_through_cuts() {
    for workers in [2, 4] {
        assert!(clients("pre-fork", workers, workers, MIB, 2 * MIB) >= 1);
    }
}

#[test]
fn a_server_that_closed_its_listener_is_still_found_after_cuts() {
    begin();
    let mut helper = Helper::spawn("helper_process", "closes-its-listener", "1");
    let proxy = proxy_to(helper.addr());
    let client = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
    assert_eq!(helper.word(), "closed");
    let hit = while_cutting(&proxy, &Fault::Reset, MIB, || echoed(&client, &data(3, 4 * MIB)));
    assert!(hit >= 1, "no cut hit");
    // A newcomer is not served, and not for ever kept waiting.
    assert!(VirtualStream::connect_with(proxy.local_addr(), quick()).is_err());
    drop(client);
    assert!(helper.end().success());
}

#[test]
fn a_server_that_forks_and_executes_helpers_goes_on_using_its_session() {
    assert!(clients("forks-helpers", 1, 1, 4 * MIB, MIB) >= 1);
}

#[test]
fn a_child_serves_on_after_its_parent_has_ended() {
    begin();
    let mut helper = Helper::spawn("helper_process", "ends-with-children", "1");
    let addr = helper.addr();
    let client = VirtualStream::connect_with(addr, quick()).unwrap();
    assert!(helper.end().success());
    helper.go();
    echoed(&client, &data(4, MIB));
}

// ---------------------------------------------------------------------------------------------
// Helpers that are either end

/// The stream of a helper that connects to the address given, or else listens and accepts.
fn one_stream(argument: &str, config: Config) -> (VirtualStream, Option<VirtualListener>) {
    if let Ok(addr) = argument.parse::<SocketAddr>() {
        return (VirtualStream::connect_with(addr, config).unwrap(), None);
    }
    let listener = VirtualListener::bind_with("127.0.0.1:0", config).unwrap();
    say(&listener.local_addr().unwrap().to_string());
    (listener.accept().unwrap().0, Some(listener))
}

/// Forks; `child` runs in the new process, which ends with it, at once.
fn fork_to(child: impl FnOnce()) -> libc::pid_t {
    let pid = fork();
    if pid == 0 {
        // SAFETY: asks for a signal, so that no child outlives a helper that was killed.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        // SAFETY: ends the process; nothing is left to be run.
        unsafe { libc::_exit(i32::from(run.is_err())) };
    }
    pid
}

fn echo(mut stream: &VirtualStream) {
    let mut buf = vec![0; 60_001];
    loop {
        match stream.read(&mut buf).unwrap() {
            0 => break,
            n => stream.write_all(&buf[..n]).unwrap(),
        }
    }
}

/// Closes, and waits until the peer has everything: for a process that then ends at once.
fn close_waiting(stream: VirtualStream) {
    let mut linger = [0; 8];
    linger[..4].copy_from_slice(&1i32.to_ne_bytes());
    linger[4..].copy_from_slice(&20i32.to_ne_bytes());
    posix::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &linger).unwrap();
    drop(stream);
}

/// Gives everything back and now and then starts another program, in both ways.
fn starts_programs(argument: &str) {
    let (mut stream, listener) = one_stream(argument, quick());
    let mut buf = vec![0; 60_001];
    let (mut moved, mut started) = (0, 0);
    loop {
        let n = stream.read(&mut buf).unwrap();
        if n == 0 {
            break;
        }
        stream.write_all(&buf[..n]).unwrap();
        moved += n;
        if moved / (256 * 1024) > started {
            started += 1;
            if started % 2 == 0 {
                assert!(Command::new("/bin/true").status().unwrap().success());
                continue;
            }
            let pid = fork_to(|| {
                let path = c"/bin/true".as_ptr();
                // SAFETY: a null-terminated list of arguments.
                unsafe { libc::execl(path, path, std::ptr::null::<libc::c_char>()) };
                panic!("no /bin/true");
            });
            assert!(reap(pid));
        }
    }
    assert!(started >= 8);
    drop((stream, listener));
    std::process::exit(0);
}

/// Gives everything back while a child has the stream too and never touches it.
fn has_a_silent_child(argument: &str) {
    let (stream, listener) = one_stream(argument, quick());
    let (mut end, other_end) = std::io::pipe().unwrap();
    let pid = fork_to(|| {
        // SAFETY: the child's own copy of a descriptor; the child ends with its parent's.
        unsafe { libc::close(other_end.as_raw_fd()) };
        let _gone = end.read(&mut [0]);
    });
    say("forked");
    echo(&stream);
    drop(other_end);
    assert!(reap(pid));
    drop((stream, listener));
    std::process::exit(0);
}

/// A helper in this role, and this process's end of its session.
struct WithHelper {
    stream: VirtualStream,
    proxy: Proxy,
    helper: Helper,
    _listener: Option<VirtualListener>,
}

fn with_helper(role: &str, is_client: bool, config: Config) -> WithHelper {
    begin();
    if is_client {
        let listener = VirtualListener::bind_with("127.0.0.1:0", config).unwrap();
        let proxy = proxy_to(listener.local_addr().unwrap());
        let helper = Helper::spawn("helper_process", role, &proxy.local_addr().to_string());
        let (stream, _) = listener.accept().unwrap();
        return WithHelper { stream, proxy, helper, _listener: Some(listener) };
    }
    let mut helper = Helper::spawn("helper_process", role, "listen");
    let proxy = proxy_to(helper.addr());
    let stream = VirtualStream::connect_with(proxy.local_addr(), config).unwrap();
    WithHelper { stream, proxy, helper, _listener: None }
}

/// The helper gives back what it gets while the connection is cut; first while it is idle.
fn echoes_through_cuts(role: &str, is_client: bool, word: Option<&str>) {
    let _limit = Limit::new("an echo through cuts", PATIENCE);
    let WithHelper { stream, proxy, mut helper, _listener } = with_helper(role, is_client, quick());
    if let Some(word) = word {
        assert_eq!(helper.word(), word);
    }
    assert_eq!(proxy.inject(Fault::Reset, Target::Open).unwrap(), 1);
    while_cutting(&proxy, &Fault::Reset, MIB, || echoed(&stream, &data(6, 6 * MIB)));
    // The idle cut is certain; how many more hit depends on how fast the bytes went.
    common::wait_until("the resumes are counted", || stream.info().unwrap().resumes >= 1);
    drop(stream);
    assert!(helper.end().success());
}

#[test]
fn a_server_that_starts_programs_keeps_its_session() {
    echoes_through_cuts("starts-programs", false, None);
}

#[test]
fn a_client_that_starts_programs_keeps_its_session() {
    echoes_through_cuts("starts-programs", true, None);
}

#[test]
fn a_server_whose_child_never_touches_the_session_keeps_it() {
    echoes_through_cuts("has-a-silent-child", false, Some("forked"));
}

#[test]
fn a_client_whose_child_never_touches_the_session_keeps_it() {
    echoes_through_cuts("has-a-silent-child", true, Some("forked"));
}

#[test]
fn a_server_that_closed_its_listener_may_leave_at_once_after_a_close_that_waits() {
    echoes_through_cuts("closes-its-listener-and-leaves-at-once", false, Some("closed"));
}

#[test]
fn children_that_leave_at_once_after_a_close_that_waits_have_delivered_everything() {
    let _limit = Limit::new("children that leave at once", PATIENCE);
    assert!(clients("leaves-at-once", 4, 4, 4 * MIB, 2 * MIB) >= 1);
}

#[test]
fn pre_forked_workers_take_any_number_of_sessions() {
    let _limit = Limit::new("workers", PATIENCE);
    assert!(clients("pre-fork", 3, 9, MIB, 2 * MIB) >= 1);
}

// ---------------------------------------------------------------------------------------------
// Ends of processes

/// Reads until the session fails, which must be with ECONNRESET and after the short grace.
fn fails_with_reset(mut stream: &VirtualStream, since: Instant) {
    let error = stream.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET), "{error}");
    let took = since.elapsed();
    let expected = Duration::from_millis(900)..Duration::from_secs(10);
    assert!(expected.contains(&took), "the short grace took {took:?}");
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "one error, then the end");
    let error = stream.write(&[1]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE), "{error}");
}

fn short_grace() -> Config {
    Config { grace_after_close: Duration::from_secs(1), ..quick() }
}

fn greet(mut stream: &VirtualStream) {
    let mut word = [0; 5];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"hello");
    stream.write_all(&word).unwrap();
}

#[test]
fn a_client_of_a_killed_server_gets_a_reset_after_the_short_grace() {
    let _limit = Limit::new("a killed server", PATIENCE);
    begin();
    let mut helper = Helper::spawn("helper_process", "waits", "listen");
    let client = VirtualStream::connect_with(helper.addr(), short_grace()).unwrap();
    greet(&client);
    assert_eq!(helper.word(), "stands");
    let since = Instant::now();
    helper.kill();
    fails_with_reset(&client, since);
}

#[test]
fn a_server_of_a_killed_client_gets_a_reset_after_the_short_grace() {
    let _limit = Limit::new("a killed client", PATIENCE);
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", short_grace()).unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let mut helper = Helper::spawn("helper_process", "waits", &addr);
    let (server, _) = listener.accept().unwrap();
    greet(&server);
    assert_eq!(helper.word(), "stands");
    let since = Instant::now();
    helper.kill();
    fails_with_reset(&server, since);
}

/// Takes all of what a helper writes without anybody reading.
fn wide() -> Config {
    Config { window: 8 * MIB as u64, window_max: 8 * MIB as u64, ..quick() }
}

fn exits_without_a_close(is_client: bool) {
    let _limit = Limit::new("an exit without a close", PATIENCE);
    let WithHelper { stream, proxy, mut helper, _listener } =
        with_helper("writes-and-exits", is_client, wide());
    // All is written and nothing read: the process exits now.
    assert_eq!(helper.word(), "written");
    assert_eq!(proxy.inject(Fault::Reset, Target::Open).unwrap(), 1);
    while_cutting(&proxy, &Fault::Reset, MIB, || {
        assert!(read_all(&stream) == data(5, 4 * MIB), "the bytes differ");
    });
    common::wait_until("the resumes are counted", || stream.info().unwrap().resumes >= 1);
    assert!(helper.end().success());
}

#[test]
fn a_server_that_exits_without_a_close_has_delivered_everything() {
    exits_without_a_close(false);
}

#[test]
fn a_client_that_exits_without_a_close_has_delivered_everything() {
    exits_without_a_close(true);
}
