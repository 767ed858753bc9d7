//! Open and resume with somebody in between, who has no key: he changes, cuts, swaps, repeats and
//! invents messages of both sides, in any order.
//!
//! Nothing may panic. A session stands only between the two ends; both know the same secret then,
//! and no resume is taken that neither end made.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use eversock_proto::control::{Control, Offsets, Role};
use eversock_proto::open::{Offer, OpenClient, OpenServer, Opened, Sealing};
use eversock_proto::resume::{Reject, ResumeClient};
use eversock_proto::secret::{PresharedKey, Secret, SessionId};
use eversock_proto::wire::hello::split;
use libfuzzer_sys::fuzz_target;

/// What is done to a message on its way.
#[derive(Arbitrary, Clone, Debug)]
enum Harm {
    None,
    Flip {
        at: u16,
        mask: u8,
    },
    Cut(u16),
    Append(Vec<u8>),
    /// Another message of the same conversation instead.
    Swap(u8),
    Invent(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Step {
    Open { server: Harm, client: Harm, confirm: Harm },
    Resume { receive: u64, server: Harm, client: Harm, confirm: Harm },
    Tell { to_server: bool, message: Vec<u8> },
}

#[derive(Arbitrary, Debug)]
struct Input {
    keyed: [bool; 2],
    sealing: [u8; 2],
    aes: [bool; 2],
    steps: Vec<Step>,
}

/// The one in between, and all that he has seen.
#[derive(Default)]
struct Middle {
    seen: Vec<Vec<u8>>,
}

impl Middle {
    fn pass(&mut self, message: &[u8], harm: &Harm) -> Vec<u8> {
        self.seen.push(message.to_vec());
        let mut out = message.to_vec();
        match harm {
            Harm::None => {}
            Harm::Flip { at, mask } => {
                let at = usize::from(*at) % out.len().max(1);
                if let Some(byte) = out.get_mut(at) {
                    *byte ^= mask;
                }
            }
            Harm::Cut(n) => out.truncate(usize::from(*n)),
            Harm::Append(more) => out.extend(more),
            Harm::Swap(which) => {
                out.clone_from(&self.seen[usize::from(*which) % self.seen.len()]);
            }
            Harm::Invent(bytes) => out.clone_from(bytes),
        }
        out
    }
}

fn offer(keyed: bool, sealing: u8, aes: bool, window: u64) -> Offer {
    let sealing = match sealing % 3 {
        0 => Sealing::Never,
        1 => Sealing::Either,
        _ => Sealing::Always,
    };
    Offer {
        key: keyed.then(|| PresharedKey([7; 32])),
        window,
        grace: Duration::from_secs(60),
        addrs: vec!["127.0.0.1:80".parse().expect("an address")],
        sealing,
        aes,
        ..Offer::default()
    }
}

struct Ends {
    client: Opened,
    server: Opened,
}

/// Both ends of an open; `None` where it did not come about.
fn open(
    offers: &[Offer; 2],
    middle: &mut Middle,
    seed: u8,
    [server, client, confirm]: [&Harm; 3],
) -> Option<Ends> {
    let (state, open) = OpenClient::start(&offers[0], [seed; 32]).ok()?;
    let open = middle.pass(&open, server);
    let id = SessionId::new(1, u64::from(seed));
    let (mut answer, open_ok) = OpenServer::answer(&offers[1], &open, id, [!seed; 32]).ok()?;
    let open_ok = middle.pass(&open_ok, client);
    let (client, proof) = state.answered(&open_ok).ok()?;
    let proof = middle.pass(&proof, confirm);
    let server = answer.confirmed(&proof).ok()?;
    assert!(client.id == server.id, "they name different sessions");
    assert_eq!(client.secret.expose(), server.secret.expose(), "they share no secret");
    assert_eq!(client.cipher, server.cipher, "they seal differently");
    assert_eq!(offers[0].key.is_some(), offers[1].key.is_some(), "opened without the key");
    Some(Ends { client, server })
}

fuzz_target!(|input: Input| {
    let offers = [
        offer(input.keyed[0], input.sealing[0], input.aes[0], 64 << 10),
        offer(input.keyed[1], input.sealing[1], input.aes[1], 256 << 10),
    ];
    let mut middle = Middle::default();
    let mut ends: Option<(Control, Control, Secret)> = None;
    let offsets = Offsets { acked: 0, receive: 0, expecting: false };
    for (seed, step) in (1..=200u8).zip(&input.steps) {
        match step {
            Step::Open { server, client, confirm } => {
                if let Some(new) = open(&offers, &mut middle, seed, [server, client, confirm]) {
                    let Ends { client, server } = new;
                    let secret = client.secret.clone();
                    ends = Some((
                        Control::new(Role::Client, client.id, client.secret),
                        Control::new(Role::Server, server.id, server.secret),
                        secret,
                    ));
                }
            }
            Step::Resume { receive, server, client, confirm } => {
                let Some((here, there, secret)) = &mut ends else { continue };
                let before = there.epoch();
                let (state, resume) = here.resume(*receive, [seed; 32]);
                let asked = state.epoch();
                let resume = middle.pass(&resume, server);
                let Ok((pending, ok)) = there.answer(&resume, 5, [!seed; 32]) else { continue };
                let ok = middle.pass(&ok, client);
                let Ok((peer, proof)) = state.answered(secret, &ok) else { continue };
                assert_eq!(peer, 5, "an offset that the server did not say");
                let proof = middle.pass(&proof, confirm);
                match there.confirm(pending, &proof, offsets) {
                    Ok(quoted) => {
                        assert_eq!(quoted, *receive, "an offset that the client did not say");
                        assert_eq!(there.epoch(), asked, "a resume that nobody asked for");
                        assert!(asked > before);
                        let _stale = here.resumed(offsets);
                    }
                    Err(_) => assert_eq!(there.epoch(), before, "a refused resume has moved it"),
                }
            }
            Step::Tell { to_server, message } => {
                let _kind = split(message);
                if *to_server {
                    let id = SessionId::new(9, 9);
                    let _refused = OpenServer::answer(&offers[1], message, id, [seed; 32]);
                    if let Some((_, there, _)) = &mut ends {
                        let forged = there.answer(message, 0, [seed; 32]);
                        assert!(
                            forged.is_err() || middle.seen.contains(message),
                            "a resume without the secret"
                        );
                    }
                } else if let Some((_, _, secret)) = &ends {
                    let _reject = Reject::decode(message);
                    let id = SessionId::new(1, 1);
                    let (state, _) = ResumeClient::start(id, secret, 9, 0, [seed; 32]);
                    assert!(state.answered(secret, message).is_err(), "a forged answer");
                }
            }
        }
    }
});
