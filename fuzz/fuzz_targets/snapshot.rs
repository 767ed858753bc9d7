//! The state of a session that another process hands over: bytes from anywhere give a sound value
//! or none, and a value goes on working.
#![no_main]

use std::sync::Arc;

use eversock_proto::control::{Control, Role};
use eversock_proto::recv::Receiver;
use eversock_proto::secret::{Secret, SessionId};
use eversock_proto::send::Sender;
use eversock_proto::snapshot::{In, Out};
use eversock_proto::wire::frame::Acks;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&what, bytes)) = bytes.split_first() else { return };
    match what % 3 {
        0 => {
            if let Some(mut sender) = Sender::restore(Arc::default(), &mut In::new(bytes)) {
                let mut again = Out::default();
                sender.snapshot(&mut again);
                let again = again.finish();
                assert!(Sender::restore(Arc::default(), &mut In::new(&again)).is_some());
                sender.write(b"goes on");
                for _ in 0..64 {
                    if !sender.prepare(Acks { ack: 0, window: 4 }) {
                        break;
                    }
                    let n = sender.frame_left().min(1000);
                    sender.sent(n);
                }
                let _refused = sender.begin_epoch(sender.acked());
            }
        }
        1 => {
            if let Some(mut receiver) = Receiver::restore(Arc::default(), &mut In::new(bytes)) {
                let mut again = Out::default();
                if receiver.snapshot(&mut again) {
                    let again = again.finish();
                    assert!(Receiver::restore(Arc::default(), &mut In::new(&again)).is_some());
                }
                let _refused = receiver.feed(&[0x5A; 100]);
                let mut out = vec![0; receiver.stashed().min(1 << 20)];
                receiver.read_stash(&mut out);
                receiver.begin_epoch();
            }
        }
        _ => {
            let (id, secret) = (SessionId([1; 16]), Secret::from_bytes([2; 32]));
            let mut control = Control::new(Role::Client, id, secret);
            if control.restore(&mut In::new(bytes)) {
                let before = control.epoch();
                let (_, resume) = control.resume(0, [3; 32]);
                assert!(!resume.is_empty() && control.epoch() == before);
            }
        }
    }
});
