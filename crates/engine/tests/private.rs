//! Sessions that children of a fork do not get. In a process of its own, as it forks.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::IoSlice;

use common::{PlayedServer, connect, errno, quick, recv, send, wait_until};
use eversock_engine::posix::Handle;
use eversock_engine::{Config, Mode, State, posix};

/// What is wrong in a child; 0 is nothing.
fn look_around(number: i32, copy: i32, handle: &Handle) -> i32 {
    let is_closed = |number| {
        // SAFETY: takes no pointers.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        flags == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)
    };
    if !is_closed(number) || !is_closed(copy) {
        return 1;
    }
    if posix::is_virtual(number) || errno(send(number, b"x")) != libc::EBADF {
        return 2;
    }
    let mut count = 0;
    posix::for_each_number(|_| count += 1);
    if count != 0 {
        return 3;
    }
    // Who had it by other ways than the number.
    let sent = handle.send(&[IoSlice::new(b"x")], libc::MSG_NOSIGNAL);
    if errno(sent) != libc::EBADF {
        return 4;
    }
    // An engine of its own works as any.
    let mut server = PlayedServer::new();
    let addr = server.addr();
    let played = std::thread::spawn(move || server.take());
    let linger = std::time::Duration::from_millis(10);
    let own = connect(addr, Config { linger, ..quick() });
    drop(played.join());
    if posix::close(own).is_err() { 5 } else { 0 }
}

/// Forks; what is wrong in the child.
fn fork_to_look(number: i32, copy: i32, handle: &Handle) -> i32 {
    // SAFETY: no other thread of this process has anything that the child needs.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: a child that hangs ends by this signal.
        unsafe { libc::alarm(30) };
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            look_around(number, copy, handle)
        }));
        eversock_engine::shutdown_from_exit();
        // SAFETY: ends the process; nothing is left to be run.
        unsafe { libc::_exit(looked.unwrap_or(99)) };
    }
    assert!(pid > 0, "{}", std::io::Error::last_os_error());
    let mut status = 0;
    // SAFETY: our child; `status` is writable.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 100 }
}

#[test]
fn a_child_has_nothing_of_a_private_session_and_its_parent_keeps_it() {
    for (mode, is_cut) in [(Mode::Direct, false), (Mode::Direct, true), (Mode::Pumped, false)] {
        let mut server = PlayedServer::new();
        let addr = server.addr();
        let config = Config { private: true, mode, ..quick() };
        let client = std::thread::spawn(move || connect(addr, config));
        let mut stream = server.take();
        let number = client.join().unwrap();
        let copy = posix::dup(number).unwrap();
        let handle = Handle::of(number).unwrap();
        if is_cut {
            server.listener.set_nonblocking(true).unwrap();
            drop(stream);
            wait_until("it is cut", || posix::info(number).unwrap().state == State::Detached);
            assert_eq!(fork_to_look(number, copy, &handle), 0);
            server.listener.set_nonblocking(false).unwrap();
            stream = server.take();
        } else {
            assert_eq!(fork_to_look(number, copy, &handle), 0);
        }
        // The parent has noticed nothing.
        server.session.as_mut().unwrap().write(b"y");
        server.say(&mut stream);
        assert_eq!(recv(number, &mut [0; 4]).unwrap(), 1);
        assert_eq!(send(copy, b"z").unwrap(), 1);
        assert_eq!(posix::link(number).unwrap().epoch, if is_cut { 2 } else { 1 });
        posix::close(copy).unwrap();
        posix::close(number).unwrap();
    }
}
