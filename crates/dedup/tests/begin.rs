//! A pool under a program's own numbers, at the end of its process, and in children.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use eversock_dedup::{ConnectOptions, Pool, PoolConfig, SharedListener};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

const PATIENCE: Duration = Duration::from_secs(20);

fn pool() -> Pool {
    Pool::new(PoolConfig::default()).expect("a pool")
}

fn listener() -> SharedListener {
    SharedListener::bind("127.0.0.1:0").expect("a listener")
}

/// Echoes everything, for as long as the test's process lasts.
fn echo() -> SocketAddr {
    let listener = listener();
    let addr = listener.local_addrs()[0];
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                let _gone = io::copy(&mut from, &mut to);
                let _gone = stream.shutdown(Shutdown::Write);
            });
        }
    });
    addr
}

/// An address at which nobody is, and nobody will be as long as what holds it lives.
fn nobody() -> (OwnedFd, SocketAddr) {
    let flags = SocketFlags::CLOEXEC;
    let holds = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .expect("one");
    rustix::net::bind(&holds, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
    let addr = rustix::net::getsockname(&holds).expect("bound");
    (holds, SocketAddr::try_from(addr).expect("an address of IPv4"))
}

fn fresh() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("one")
}

fn begin(pool: &Pool, socket: &OwnedFd, addr: SocketAddr) -> Receiver<io::Result<u64>> {
    let (tell, told) = channel();
    let done = move |result| {
        let _gone = tell.send(result);
    };
    let options = ConnectOptions::default();
    pool.begin(socket.as_raw_fd(), &[addr], &options, done).expect("begun");
    told
}

fn wait(socket: &impl AsFd, what: PollFlags) -> PollFlags {
    let mut fds = [PollFd::new(socket, what)];
    let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&patience)).expect("a poll"), 1, "not in time");
    fds[0].revents()
}

fn says(mut stream: &TcpStream, text: &[u8]) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(text).expect("written");
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).expect("echoed");
    assert_eq!(back, text);
}

#[test]
fn a_number_of_the_program_s_is_writable_when_its_connection_stands_and_keeps_its_options() {
    let (pool, addr) = (pool(), echo());
    let socket = fresh();
    sockopt::set_tcp_nodelay(&socket, false).expect("set");
    sockopt::set_socket_keepalive(&socket, true).expect("set");
    sockopt::set_socket_linger(&socket, Some(Duration::from_secs(3))).expect("set");
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE)).expect("set");
    sockopt::set_socket_recv_buffer_size(&socket, 50_000).expect("set");
    let room = sockopt::socket_recv_buffer_size(&socket).expect("a size");
    let told = begin(&pool, &socket, addr);
    assert_eq!(wait(&socket, PollFlags::OUT), PollFlags::OUT);
    told.try_recv().expect("told before it is writable").expect("connected");
    assert!(!sockopt::tcp_nodelay(&socket).expect("asked"));
    assert!(sockopt::socket_keepalive(&socket).expect("asked"));
    assert_eq!(sockopt::socket_linger(&socket).expect("asked"), Some(Duration::from_secs(3)));
    assert_eq!(sockopt::socket_recv_buffer_size(&socket).expect("a size"), room);
    let flags = rustix::fs::fcntl_getfl(&socket).expect("flags");
    assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false).expect("set");
    says(&stream, &[3; 300_000]);
}

#[test]
fn a_number_whose_server_is_not_there_is_broken_and_the_errno_is_told_first() {
    let pool = pool();
    let socket = fresh();
    let (_holds, addr) = nobody();
    let told = begin(&pool, &socket, addr);
    assert!(wait(&socket, PollFlags::OUT).contains(PollFlags::ERR));
    let error = told.try_recv().expect("told before it is broken").expect_err("nobody is there");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
}

#[test]
fn the_end_of_a_pool_sends_what_open_connections_have_written_and_does_not_wait_for_them() {
    let (pool, listener) = (pool(), listener());
    let stream = pool.connect(listener.local_addrs()[0]).expect("connected");
    let (mut served, _) = listener.accept().expect("accepted");
    served.set_read_timeout(Some(PATIENCE)).expect("set");
    // More than the server's program has room for at once, less than the session's window.
    (&stream).write_all(&[9; 200_000]).expect("written");
    let begun = std::time::Instant::now();
    pool.end();
    assert!(begun.elapsed() < Duration::from_millis(1900), "{:?}", begun.elapsed());
    let mut all = Vec::new();
    served.read_to_end(&mut all).expect("to the end, which is none of a reset");
    assert_eq!(all.len(), 200_000);
    // It begins anew.
    says(&pool.connect(echo()).expect("connected"), b"again");
}

#[test]
fn children_of_a_busy_program_have_pools_of_their_own_and_no_copy_of_its_ends() {
    let (pool, addr) = (pool(), echo());
    let quiet = pool.connect(addr).expect("connected");
    says(&quiet, b"before");
    let is_over = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..2)
        .map(|_| {
            let (pool, is_over) = (pool.clone(), Arc::clone(&is_over));
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    says(&pool.connect(addr).expect("connected"), b"busy");
                    let another = Pool::new(PoolConfig::default()).expect("a pool");
                    says(&another.connect(addr).expect("connected"), b"another");
                }
            })
        })
        .collect();
    for _ in 0..10 {
        // SAFETY: the child calls what the hooks around fork have made whole, and ends at once.
        match unsafe { libc::fork() } {
            -1 => panic!("no child"),
            0 => {
                // SAFETY: ends a child that hangs.
                unsafe { libc::alarm(20) };
                let result = pool.connect(addr).map(|stream| says(&stream, b"a child"));
                pool.end();
                // SAFETY: nothing of the parent's is to run here.
                unsafe { libc::_exit(i32::from(result.is_err())) }
            }
            child => {
                let mut status = 0;
                // SAFETY: our child, and a status of ours.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert_eq!(status, 0, "the child has failed or hung");
            }
        }
    }
    is_over.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().expect("it ends"));
    says(&quiet, b"after");
}
