//! The handle: events, numbers, JSON.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use common::{is_reset, passes, read_all, rig};
use eversock_chaos::{CloseReason, EventKind, Fault, InjectError, Target};

#[test]
fn every_reader_gets_all_events_in_order_and_then_the_end() {
    let rig = rig("each after 4 up reset");
    let late = rig.events.clone();
    let (mut client, mut server) = rig.pair();
    passes(&mut client, &mut server, b"1234");
    assert!(is_reset(&read_all(&mut client).1));
    rig.proxy.stop();
    let peer = client.local_addr();
    for events in [rig.events, late] {
        let kinds: Vec<_> = events.map(|event| (event.conn, event.kind)).collect();
        assert_eq!(kinds.len(), 4, "{kinds:?}");
        assert!(matches!(&kinds[0], (Some(1), EventKind::Opened { peer: p })
            if peer.as_ref().is_ok_and(|peer| peer == p) || peer.is_err()));
        assert_eq!(kinds[1], (Some(1), EventKind::Fault { fault: Fault::Reset }));
        assert_eq!(kinds[2], (Some(1), EventKind::Closed { reason: CloseReason::Cut }));
        assert_eq!(kinds[3], (None, EventKind::Stopped));
    }
}

#[test]
fn json_has_the_documented_keys() {
    let mut rig = rig("at 0s refuse 1 conns");
    drop(std::net::TcpStream::connect(rig.proxy.local_addr()));
    rig.wait_for(|event| matches!(event.kind, EventKind::Refused { .. }));
    let (mut client, mut server) = rig.pair();
    passes(&mut client, &mut server, b"1234");
    rig.wait_until("the byte count is known", |stats| stats.summary.up == 4);
    let stats = serde_json::to_value(rig.proxy.stats()).unwrap();
    assert_eq!(stats["open"], 1);
    assert_eq!(stats["connections"][0]["conn"], 1);
    assert_eq!(stats["connections"][0]["up"], 4);
    rig.proxy.inject("blackhole both for 3s".parse().unwrap(), Target::Conn(1)).unwrap();
    let event = serde_json::to_value(rig.wait_for_fault("blackhole")).unwrap();
    assert_eq!(event["kind"], "fault");
    assert_eq!(event["fault"], "blackhole both for 3s");
    assert_eq!((&event["conn"], &event["up"], &event["down"]), (&1.into(), &4.into(), &0.into()));
    assert!(event["t"].is_f64() && event["flowing"].is_boolean());
    let summary = serde_json::to_value(rig.proxy.stop()).unwrap();
    for key in ["accepted", "open", "refused", "upstream_failures", "cuts", "cuts_flowing", "up"] {
        assert!(summary[key].is_u64(), "{key}: {summary}");
    }
    assert_eq!(summary["faults"]["refuse"], 1);
    assert!(summary["elapsed_s"].is_f64() && summary["error"].is_null());
    let stopped = serde_json::to_value(rig.events.last().unwrap()).unwrap();
    assert_eq!(stopped["kind"], "stopped");
}

#[test]
fn a_fault_for_nobody_is_an_error_only_if_somebody_was_named() {
    let rig = rig("");
    assert_eq!(rig.proxy.inject(Fault::Reset, Target::All), Ok(0));
    let nobody = rig.proxy.inject(Fault::Reset, Target::Conn(7));
    assert_eq!(nobody, Err(InjectError::NoSuchConnection { id: 7 }));
}

#[test]
fn what_holds_for_all_holds_for_later_connections_until_healed() {
    let rig = rig("");
    rig.proxy.inject("stall both".parse().unwrap(), Target::All).unwrap();
    let (mut client, mut server) = rig.pair();
    std::io::Write::write_all(&mut client, b"held").unwrap();
    rig.wait_until("held", |s| s.connections.first().is_some_and(|c| c.pending == 4));
    rig.proxy.inject(Fault::Heal, Target::All).unwrap();
    let mut got = [0; 4];
    std::io::Read::read_exact(&mut server, &mut got).unwrap();
    let (mut client, mut server) = rig.pair();
    passes(&mut client, &mut server, b"free");
}
