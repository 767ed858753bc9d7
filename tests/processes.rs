//! Servers of several processes: who accepts, who owns, who serves, while connections die.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::child::{Helper, hear, role, say};
use common::{MIB, begin, data, proxy_to, quick, read_all, while_cutting};
use eversock::{VirtualListener, VirtualStream};
use eversock_chaos::{Fault, Target};

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
    let count: usize = argument.parse().unwrap();
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
    assert!(clients("fork-per-connection", 1, 1, 4 * MIB, MIB) >= 2);
}

#[test]
fn a_server_that_forks_per_connection_serves_several_clients_through_cuts() {
    assert!(clients("fork-per-connection", 5, 5, 2 * MIB, 4 * MIB) >= 5);
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
        assert!(clients("pre-fork", workers, workers, MIB, 2 * MIB) >= 2);
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
    assert!(hit >= 2, "only {hit} cuts");
    // A newcomer is not served, and not for ever kept waiting.
    assert!(VirtualStream::connect_with(proxy.local_addr(), quick()).is_err());
    drop(client);
    assert!(helper.end().success());
}

#[test]
fn a_server_that_forks_and_executes_helpers_goes_on_using_its_session() {
    assert!(clients("forks-helpers", 1, 1, 4 * MIB, MIB) >= 2);
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
