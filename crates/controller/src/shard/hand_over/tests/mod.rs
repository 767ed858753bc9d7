#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod pace;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use super::*;
use crate::wire::client::Terms;

fn id(name: &str) -> ControllerId {
    name.parse().unwrap()
}

fn device(n: usize) -> DeviceId {
    format!("d{n:06}").parse().unwrap()
}

fn place(name: &str) -> Place {
    Place { controller: id(name), addrs: vec!["127.0.0.1:7".parse().unwrap()] }
}

/// The devices of `home` that are at `backup`.
#[derive(Default)]
struct Field {
    here: BTreeMap<DeviceId, ConnId>,
    busy: BTreeSet<DeviceId>,
    in_maintenance: BTreeSet<ControllerId>,
    /// How often devices were looked for.
    looks: u32,
}

impl Devices for Field {
    fn next_after(&mut self, device: Option<&DeviceId>) -> Option<(DeviceId, ConnId)> {
        self.looks += 1;
        let from = device.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.here.range::<DeviceId, _>((from, Bound::Unbounded)).next();
        next.map(|(device, conn)| (device.clone(), *conn))
    }

    fn connection(&mut self, device: &DeviceId) -> Option<ConnId> {
        self.looks += 1;
        self.here.get(device).copied()
    }

    fn is_busy(&self, device: &DeviceId) -> bool {
        self.busy.contains(device)
    }

    fn takes(&self, controller: &ControllerId) -> bool {
        !self.in_maintenance.contains(controller)
    }
}

fn settings() -> Settings {
    Settings {
        terms: Terms {
            lease: Duration::from_secs(60),
            handshake_every: Duration::from_secs(10),
            misses: 3,
            generation: 0,
            alternates: vec![place("backup"), place("third")],
        },
        places: vec![place("backup"), place("home"), place("third")],
        fail_back: FailBackPolicy::Manual,
        pace: Pace {
            per_second: 50,
            in_flight_max: 200,
            deadline: 10_000,
            failures_max_percent: 5,
        },
        keep_ends: 0,
        snapshot_from: 0,
        devices_max: 0,
        requests_max: 0,
    }
}

/// What a device does when it is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Goes,
    Stays,
    SaysBusy,
    Nothing,
}

/// A controller `backup` that serves devices of `home`.
struct World {
    hand_over: HandOver,
    field: Field,
    settings: Settings,
    now: Millis,
    /// Where the wall clock stood when the other one began.
    wall_zero_s: u64,
    in_sync_since: Option<Millis>,
    /// When each hand-over began, and of whom.
    began: Vec<(Millis, DeviceId, ControllerId)>,
    events: Vec<Event>,
    asked: Vec<(ConnId, DeviceId, u64)>,
    does: Does,
}

impl World {
    fn new(devices: usize) -> Self {
        let mut field = Field::default();
        field.here.extend((0..devices).map(|n| (device(n), n as ConnId)));
        let mut world = Self {
            hand_over: HandOver::new(id("backup"), id("home"), 1),
            field,
            settings: settings(),
            now: 1_000_000,
            wall_zero_s: 0,
            in_sync_since: None,
            began: Vec::new(),
            events: Vec::new(),
            asked: Vec::new(),
            does: Does::Goes,
        };
        world.set_wall(12 * 3600);
        world
    }

    fn wall_s(&self) -> u32 {
        ((self.wall_zero_s + self.now / 1000) % u64::from(DAY)) as u32
    }

    fn set_wall(&mut self, wall_s: u32) {
        self.wall_zero_s = u64::from(wall_s + DAY) - self.now / 1000 % u64::from(DAY);
    }

    fn with<R>(&mut self, with: impl FnOnce(&mut HandOver, &Surroundings<'_>) -> R) -> R {
        let at = Surroundings {
            now: self.now,
            wall_s: self.wall_s(),
            settings: &self.settings,
            home_in_sync_since: self.in_sync_since,
        };
        with(&mut self.hand_over, &at)
    }

    fn order(&mut self, order: Order) {
        let mut out = Vec::new();
        self.hand_over.order(&order, &mut out);
        self.take(out);
    }

    fn step(&mut self) {
        let (mut out, before) = (Vec::new(), self.field.looks);
        let at = Surroundings {
            now: self.now,
            wall_s: self.wall_s(),
            settings: &self.settings,
            home_in_sync_since: self.in_sync_since,
        };
        self.hand_over.step(&at, &mut self.field, &mut out);
        assert!(self.field.looks - before <= STEP, "a step looks at too many devices");
        self.take(out);
        self.assert_consistent();
    }

    fn take(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Say {
                    conn,
                    message: ClientMessage::HandOff { device, token, target, .. },
                } => {
                    assert_eq!(self.field.here.get(&device), Some(&conn));
                    assert!(!self.field.busy.contains(&device), "{device} is busy");
                    self.began.push((self.now, device.clone(), target.controller));
                    self.asked.push((conn, device, token));
                }
                Output::Event(event) => self.events.push(event),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The devices that were asked do what they do.
    fn devices_act(&mut self) {
        for (conn, device, token) in std::mem::take(&mut self.asked) {
            let answer = match self.does {
                Does::Goes => HandOffAnswer::Goes,
                Does::Stays => HandOffAnswer::Stays,
                Does::SaysBusy => HandOffAnswer::Busy,
                Does::Nothing => continue,
            };
            self.with(|hand_over, at| hand_over.answer(at, conn, &device, token, answer));
            if self.does == Does::Goes {
                self.field.here.remove(&device);
                self.with(|hand_over, at| hand_over.moved(at, &device));
            }
        }
    }

    /// Goes on for so long, as whoever drives it would: at the times that it says.
    fn run(&mut self, ms: Millis) {
        let until = self.now + ms;
        let mut steps = 0;
        loop {
            self.step();
            self.devices_act();
            // What has changed is a reason for a step.
            self.step();
            steps += 1;
            assert!(steps < 100_000, "it never rests");
            match self.hand_over.due() {
                Some(due) if due <= until => {
                    self.now = due.max(self.now);
                }
                _ => break,
            }
        }
        self.now = until;
        self.step();
    }

    /// The only event since the last call.
    fn ended(&mut self) -> (u64, u64, u64, String) {
        assert_eq!(self.events.len(), 1, "{:?}", self.events);
        match self.events.remove(0) {
            Event::HandedOver { done, failed, skipped, stopped, .. } => {
                (done, failed, skipped, stopped)
            }
            other => panic!("{other:?}"),
        }
    }

    fn assert_consistent(&self) {
        let hand_over = &self.hand_over;
        assert_eq!(hand_over.flights.len(), hand_over.by_device.len());
        assert_eq!(hand_over.flights.len(), hand_over.deadlines.len());
        let in_flight: usize = hand_over.jobs.iter().map(|job| job.in_flight as usize).sum();
        assert_eq!(hand_over.flights.len(), in_flight);
        assert!(hand_over.flights.len() <= self.settings.pace.in_flight_max as usize);
    }
}

#[test]
fn an_order_takes_all_devices_home_at_the_pace() {
    let mut world = World::new(120);
    world.order(Order::FailBack);
    world.run(1_000);
    assert_eq!(world.began.len(), 55, "fifty in a second, and the first five of the next");
    world.run(60_000);
    assert_eq!(world.ended(), (120, 0, 0, String::new()));
    assert!(world.began.iter().all(|(_, _, target)| *target == id("home")));
    assert_eq!(world.hand_over.counts(), Counts { done: 120, failed: 0 });
    assert_eq!((world.hand_over.len(), world.hand_over.due()), (0, None));
}

#[test]
fn some_devices_go_where_an_operator_wants() {
    let mut world = World::new(10);
    let devices = vec![device(3), device(99), device(7), device(3)];
    world.order(Order::Move { devices, target: id("third") });
    world.run(10_000);
    assert_eq!(world.ended(), (2, 0, 0, String::new()));
    let went: Vec<_> = world.began.iter().map(|(_, d, to)| (d.clone(), to.clone())).collect();
    assert_eq!(went, [(device(3), id("third")), (device(7), id("third"))]);
    world.order(Order::Move { devices: vec![], target: id("third") });
    world.run(10_000);
    assert_eq!(world.ended(), (8, 0, 0, String::new()));
}

#[test]
fn orders_that_make_no_sense_are_told_of() {
    let mut world = World::new(3);
    world.order(Order::Move { devices: vec![], target: id("backup") });
    assert!(world.ended().3.contains("they are where they should go"));
    world.order(Order::Move { devices: vec![], target: id("nobody") });
    world.run(10);
    assert!(world.ended().3.contains("not known where"));
    assert_eq!(world.began.len(), 0);
    world.settings.pace.per_second = 0;
    for _ in 0..JOBS_MAX {
        world.order(Order::FailBack);
    }
    assert_eq!(world.events, []);
    world.order(Order::FailBack);
    assert!(world.ended().3.contains("too many"));
    world.order(Order::StopHandOver);
    world.run(10);
    assert_eq!(world.events.len(), JOBS_MAX);
}

#[test]
fn what_an_operator_stops_stays_stopped() {
    let mut world = World::new(1000);
    world.settings.fail_back = FailBackPolicy::Auto { after: 1000 };
    world.in_sync_since = Some(0);
    world.run(500);
    let began = world.began.len();
    assert!(began > 10);
    world.order(Order::StopHandOver);
    world.run(3_600_000);
    let ended = world.ended();
    assert_eq!((ended.0, ended.3.as_str()), (began as u64, "an operator stopped it"));
    assert_eq!(world.began.len(), began);
    world.order(Order::FailBack);
    world.run(60_000);
    assert_eq!(world.ended().0, 1000 - began as u64);
}

#[test]
fn no_answer_in_time_is_a_failure_and_so_is_a_device_that_stays() {
    let mut world = World::new(10);
    world.does = Does::Nothing;
    world.order(Order::FailBack);
    world.run(9_000);
    assert_eq!(world.hand_over.len(), 10);
    assert_eq!(world.events, []);
    world.run(2_000);
    assert_eq!(world.ended(), (0, 10, 0, String::new()));
    assert_eq!(world.field.here.len(), 10, "they are served on");
    world.does = Does::Stays;
    world.order(Order::FailBack);
    world.run(2_000);
    assert_eq!(world.ended(), (0, 10, 0, String::new()));
}

#[test]
fn only_the_device_that_was_told_can_answer_and_only_this_hand_over() {
    let mut world = World::new(1);
    world.does = Does::Nothing;
    world.order(Order::FailBack);
    world.step();
    let (conn, name, token) = world.asked[0].clone();
    for (conn, name, token) in
        [(conn + 1, name.clone(), token), (conn, device(5), token), (conn, name.clone(), token + 1)]
    {
        let stays = HandOffAnswer::Stays;
        world.with(|hand_over, at| hand_over.answer(at, conn, &name, token, stays));
        assert_eq!(world.hand_over.len(), 1);
    }
    world.with(|hand_over, at| hand_over.answer(at, conn, &name, token, HandOffAnswer::Goes));
    assert_eq!(world.hand_over.len(), 1, "it is done when it is seen there");
    world.with(|hand_over, at| hand_over.moved(at, &name));
    world.with(|hand_over, at| hand_over.moved(at, &name));
    world.step();
    assert_eq!(world.ended(), (1, 0, 0, String::new()));
}

#[test]
fn a_device_that_comes_back_has_failed_and_one_that_leaves_has_not() {
    let mut world = World::new(2);
    world.does = Does::Nothing;
    world.order(Order::FailBack);
    world.run(500);
    world.with(|hand_over, at| hand_over.came_back(at, &device(0)));
    world.hand_over.gone(&device(1));
    world.step();
    assert_eq!(world.ended(), (0, 1, 1, String::new()));
}

#[test]
fn busy_devices_are_asked_later_but_not_for_ever() {
    let mut world = World::new(3);
    world.field.busy.insert(device(1));
    world.order(Order::FailBack);
    world.run(5_000);
    assert_eq!(world.began.len(), 2);
    world.field.busy.clear();
    world.run(60_000);
    assert_eq!(world.ended(), (3, 0, 0, String::new()));

    let mut world = World::new(3);
    world.does = Does::SaysBusy;
    world.order(Order::FailBack);
    world.run(100_000);
    assert_eq!(world.ended(), (0, 0, 3, String::new()));
    assert_eq!(world.began.len(), 3 * 7, "once and six times more each");
    let of_first: Vec<_> = world.began.iter().filter(|(_, d, _)| *d == device(0)).collect();
    let pauses: Vec<_> = of_first.windows(2).map(|pair| (pair[1].0 - pair[0].0) / 1000).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32]);
}

#[test]
fn a_batch_ends_when_too_many_fail() {
    let mut world = World::new(1000);
    world.does = Does::Stays;
    world.order(Order::FailBack);
    world.run(60_000);
    let (done, failed, _, stopped) = world.ended();
    assert_eq!((done, failed), (0, 20));
    assert_eq!(stopped, "20 of the last 20 hand-overs failed");
    // Also if it has gone well for long.
    let mut world = World::new(5000);
    world.order(Order::FailBack);
    world.run(60_000);
    let well = world.field.here.len();
    assert!((1000..4000).contains(&well));
    world.does = Does::Stays;
    world.run(60_000);
    let (done, failed, _, stopped) = world.ended();
    assert_eq!(done, 5000 - well as u64);
    assert!((6..=10).contains(&failed), "{failed}: those that were under way end as well");
    assert_eq!(stopped, "6 of the last 100 hand-overs failed");
}

#[test]
fn as_many_failures_as_are_allowed_do_not_end_a_batch() {
    let mut world = World::new(200);
    world.does = Does::Nothing;
    world.order(Order::FailBack);
    let mut n = 0;
    while world.events.is_empty() {
        world.step();
        for (conn, name, token) in std::mem::take(&mut world.asked) {
            n += 1;
            if n % 20 == 0 {
                let stays = HandOffAnswer::Stays;
                world.with(|hand_over, at| hand_over.answer(at, conn, &name, token, stays));
            } else {
                world.field.here.remove(&name);
                world.with(|hand_over, at| hand_over.moved(at, &name));
            }
        }
        world.now += 10;
    }
    assert_eq!(world.ended(), (190, 10, 0, String::new()));
}

#[test]
fn by_itself_it_waits_until_the_home_has_been_in_sync_for_long() {
    let mut world = World::new(10);
    world.settings.fail_back = FailBackPolicy::Auto { after: 300_000 };
    world.run(1_000_000);
    assert_eq!(world.began.len(), 0);
    world.in_sync_since = Some(world.now);
    world.run(299_999);
    assert_eq!(world.began.len(), 0);
    world.in_sync_since = None;
    world.run(100);
    world.in_sync_since = Some(world.now);
    world.run(299_999);
    assert_eq!(world.began.len(), 0);
    world.run(2_000);
    assert_eq!(world.ended(), (10, 0, 0, String::new()));
    // And those that come later go later, quietly if there are none.
    world.run(600_000);
    assert_eq!(world.events, []);
    world.field.here.insert(device(77), 5);
    world.run(REST + 1000);
    assert_eq!(world.ended(), (1, 0, 0, String::new()));
}

#[test]
fn by_itself_it_stops_when_the_home_flaps_and_waits_again() {
    let mut world = World::new(1000);
    world.settings.fail_back = FailBackPolicy::Auto { after: 300_000 };
    world.in_sync_since = Some(world.now - 300_000);
    world.run(2_000);
    let began = world.began.len();
    assert!(began >= 100);
    world.in_sync_since = None;
    world.run(1_000);
    assert!(world.ended().3.contains("not in sync"));
    assert_eq!(world.began.len(), began);
    // Even if somebody says that it was in sync all the time.
    world.in_sync_since = Some(0);
    world.run(290_000);
    assert_eq!(world.began.len(), began);
    world.run(60_000);
    assert_eq!(world.ended().0, 1000 - began as u64);
}

/// It had nothing to do when the home died; then it has.
#[test]
fn by_itself_it_rests_no_longer_than_the_home_is_in_sync() {
    let mut world = World::new(0);
    world.settings.fail_back = FailBackPolicy::Auto { after: 2_000 };
    world.in_sync_since = Some(0);
    world.run(1_000);
    world.in_sync_since = None;
    world.run(5_000);
    world.field.here.extend((0..10).map(|n| (device(n), n as ConnId)));
    world.in_sync_since = Some(world.now);
    world.run(1_999);
    assert_eq!(world.began.len(), 0);
    world.run(2_000);
    assert_eq!(world.ended(), (10, 0, 0, String::new()));
}

#[test]
fn by_itself_it_waits_again_after_failures() {
    let mut world = World::new(100);
    world.settings.fail_back = FailBackPolicy::Auto { after: 300_000 };
    world.in_sync_since = Some(0);
    world.does = Does::Stays;
    world.run(290_000);
    assert_eq!(world.ended().1, 20);
    world.does = Does::Goes;
    world.run(8_000);
    assert_eq!(world.began.len(), 20);
    world.run(10_000);
    assert_eq!(world.ended().0, 100);
}

#[test]
fn a_home_in_maintenance_gets_nothing_by_itself() {
    let mut world = World::new(1000);
    world.settings.fail_back = FailBackPolicy::Auto { after: 0 };
    world.in_sync_since = Some(0);
    world.field.in_maintenance.insert(id("home"));
    world.run(600_000);
    assert_eq!(world.began.len(), 0);
    world.field.in_maintenance.clear();
    world.run(1_000);
    assert!(world.began.len() > 10);
    world.field.in_maintenance.insert(id("home"));
    let began = world.began.len();
    world.run(600_000);
    assert_eq!(world.began.len(), began);
    assert!(world.ended().3.contains("maintenance"));
}

#[test]
fn a_window_opens_and_closes_each_day() {
    let mut world = World::new(100_000);
    world.settings.fail_back = FailBackPolicy::Window { from: 22 * 3600, until: 22 * 3600 + 60 };
    world.in_sync_since = Some(0);
    world.run(9 * 3_600_000);
    assert_eq!(world.began.len(), 0);
    world.run(3_600_000 + 59_000);
    let first_day = world.began.len();
    assert!((2_500..3_051).contains(&first_day), "{first_day}");
    world.run(3_600_000);
    assert!(world.ended().3.contains("the window is over"));
    assert!(world.began.len() <= 3_101);
    world.run(24 * 3_600_000);
    assert!(world.began.len() > 2 * first_day - 200);
    assert_eq!(world.events.len(), 1);
    // No failures twice in one window.
    world.events.clear();
    world.does = Does::Stays;
    world.settings.fail_back = FailBackPolicy::Window { from: 12 * 3600, until: 11 * 3600 };
    world.set_wall(12 * 3600);
    world.run(22 * 3_600_000);
    assert_eq!(world.ended().1, 20);
    world.run(4 * 3_600_000);
    assert_eq!(world.ended().1, 20);
}

#[test]
fn windows_may_go_over_midnight() {
    let window = FailBackPolicy::Window { from: 23 * 3600, until: 3600 };
    for (hour, is_in) in [(22, false), (23, true), (0, true), (1, false), (12, false)] {
        assert_eq!(is_in_window(window, hour * 3600), is_in, "{hour}");
    }
    let never = FailBackPolicy::Window { from: 3600, until: 3600 };
    assert!(!is_in_window(never, 3600));
}

#[test]
fn nothing_goes_home_by_itself_from_home_or_without_a_policy() {
    let mut world = World::new(10);
    world.in_sync_since = Some(0);
    world.run(3_600_000);
    world.settings.fail_back = FailBackPolicy::Auto { after: 0 };
    world.hand_over = HandOver::new(id("backup"), id("backup"), 1);
    world.run(3_600_000);
    assert_eq!((world.began.len(), world.hand_over.due()), (0, None));
    world.order(Order::FailBack);
    assert!(world.ended().3.contains("they are where they should go"));
}

#[test]
fn maintenance_sends_devices_away_until_it_is_over() {
    let mut world = World::new(100);
    world.order(Order::FailBack);
    world.run(100);
    let went_home = world.began.len();
    world.order(Order::Maintenance(true));
    assert!(world.hand_over.maintenance());
    world.field.in_maintenance.insert(id("home"));
    world.run(10_000);
    let to: BTreeSet<_> = world.began[went_home..].iter().map(|(_, _, to)| to.clone()).collect();
    assert_eq!(to, BTreeSet::from([id("third")]));
    assert_eq!(world.field.here.len(), 0);
    assert_eq!(world.events.len(), 2);
    world.events.clear();
    world.order(Order::FailBack);
    assert!(world.ended().3.contains("maintenance"));
    // Those that could not go are asked again.
    world.field.here.insert(device(5), 5);
    world.run(REST + 1000);
    assert_eq!(world.ended(), (1, 0, 0, String::new()));
    world.order(Order::Maintenance(false));
    world.field.here.insert(device(6), 6);
    world.run(REST + 1000);
    assert_eq!(world.field.here.len(), 1);
    assert_eq!(world.hand_over.due(), None);
}

#[test]
fn maintenance_does_not_wait_for_what_it_ends_nor_is_it_waited_for() {
    let mut world = World::new(1000);
    world.settings.fail_back = FailBackPolicy::Auto { after: 300_000 };
    world.in_sync_since = Some(0);
    world.run(500);
    let began = world.began.len();
    world.order(Order::Maintenance(true));
    world.run(1_000);
    assert!(world.began.len() > began + 20);
    world.order(Order::Maintenance(false));
    let began = world.began.len();
    world.run(2_000);
    assert!(world.began.len() > began + 20);
    assert_eq!(world.began.last().unwrap().2, id("home"));
}

#[test]
fn devices_that_were_busy_when_a_batch_was_stopped_are_told_of() {
    let mut world = World::new(30);
    world.field.busy.extend((0..7).map(device));
    world.order(Order::FailBack);
    world.run(300);
    let began = world.began.len() as u64;
    assert!((1..23).contains(&began));
    world.order(Order::StopHandOver);
    world.run(10);
    assert_eq!(world.ended(), (began, 0, 7, "an operator stopped it".to_owned()));
}

#[test]
fn maintenance_goes_nowhere_if_all_others_are_in_it() {
    let mut world = World::new(5);
    world.field.in_maintenance.extend([id("home"), id("third")]);
    world.order(Order::Maintenance(true));
    world.run(1_000);
    assert!(world.ended().3.contains("not known where"));
    world.field.in_maintenance.clear();
    world.run(REST_STOPPED + 10_000);
    assert_eq!(world.ended().0, 5);
}

#[test]
fn an_operators_order_goes_before_what_runs_by_itself() {
    let mut world = World::new(1000);
    world.settings.fail_back = FailBackPolicy::Auto { after: 0 };
    world.in_sync_since = Some(0);
    world.run(500);
    world.order(Order::Move { devices: vec![device(999)], target: id("third") });
    world.run(1_000);
    assert!(world.began.iter().any(|(_, d, to)| *d == device(999) && *to == id("third")));
}

#[test]
fn a_large_table_is_never_gone_through_at_once() {
    let mut world = World::new(100_000);
    let all: Vec<_> = world.field.here.keys().cloned().collect();
    world.field.busy.extend(all);
    world.order(Order::FailBack);
    // Each step asserts how many it looks at.
    world.run(200_000);
    let (done, failed, skipped, _) = world.ended();
    assert_eq!((done, failed, skipped), (0, 0, 100_000));
}
