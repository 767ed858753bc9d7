//! Dials that no fault asks for, and who is asked first. In a process of its own: a change of the
//! network concerns all its sessions.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use common::{PlayedServer, connect, errno, quick, recv, wait_until};
use eversock_engine::{Answer, Config, RecoveryPolicy, State, posix};

/// Whatever the engine was told before has been done when this returns: it obeys in order, and a
/// dial over loopback is in the listener's queue when it has begun.
fn engine_has_obeyed() {
    let mut other = PlayedServer::new();
    let addr = other.addr();
    let client = std::thread::spawn(move || connect(addr, quick()));
    let _stream = other.take();
    posix::close(client.join().unwrap()).unwrap();
}

fn was_dialled(server: &PlayedServer) -> bool {
    server.listener.set_nonblocking(true).unwrap();
    let dialled = server.listener.accept().is_ok();
    server.listener.set_nonblocking(false).unwrap();
    dialled
}

/// "never" was dialled beside its connection by every hint, and so was a session that was waiting
/// for its answer.
#[test]
fn only_automatic_sessions_are_dialled_when_no_fault_has_been_seen() {
    let policies = [RecoveryPolicy::Never, RecoveryPolicy::AskOutside, RecoveryPolicy::Automatic];
    for policy in policies {
        let is_automatic = matches!(policy, RecoveryPolicy::Automatic);
        let may_be_told = !matches!(policy, RecoveryPolicy::Never);
        let asks = matches!(policy, RecoveryPolicy::AskOutside);
        let mut server = PlayedServer::new();
        let addr = server.addr();
        let client = std::thread::spawn(move || connect(addr, Config { policy, ..quick() }));
        let mut stream = server.take();
        let number = client.join().unwrap();
        eversock_engine::network_changed();
        engine_has_obeyed();
        assert_eq!(was_dialled(&server), is_automatic, "the network has changed");
        if is_automatic {
            posix::close(number).unwrap();
            continue;
        }
        let session = server.session.as_mut().unwrap();
        session.tx.want_goaway();
        session.write(b"x");
        server.say(&mut stream);
        assert_eq!(recv(number, &mut [0; 1]).unwrap(), 1);
        engine_has_obeyed();
        assert!(!was_dialled(&server), "the peer has said GOAWAY");
        posix::redial(number).unwrap();
        engine_has_obeyed();
        assert_eq!(was_dialled(&server), may_be_told, "the program has said so itself");
        drop(stream);
        if !asks {
            assert_eq!(errno(recv(number, &mut [0; 1])), libc::ECONNRESET);
            assert!(!was_dialled(&server));
            posix::close(number).unwrap();
            continue;
        }
        wait_until("it asks", || posix::info(number).unwrap().state == State::Asking);
        eversock_engine::network_changed();
        engine_has_obeyed();
        assert!(!was_dialled(&server), "the answer was not waited for");
        assert!(eversock_engine::answer(posix::info(number).unwrap().local_id, Answer::Continue));
        let _resumed = server.take();
        posix::close(number).unwrap();
    }
}
