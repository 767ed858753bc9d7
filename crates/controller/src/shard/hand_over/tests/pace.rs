//! Whatever happens, no more begin in any second than may, and no more are under way (C7).

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Wait(Millis),
    /// The clock jumps.
    Jump(Millis),
    /// Looks at the time that it wants.
    Due,
    Order(u8),
    Devices(Does),
    Busy(Vec<usize>),
    Sync(bool),
    Lost(usize),
    Back(usize),
    Come(usize),
    Partner(bool),
    Policy(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let does = [Does::Goes, Does::Stays, Does::SaysBusy, Does::Nothing];
    prop_oneof![
        8 => (0..200_u64).prop_map(Step::Wait),
        8 => Just(Step::Due),
        1 => (0..1_000_000_u64).prop_map(Step::Jump),
        2 => (0..7_u8).prop_map(Step::Order),
        3 => prop::sample::select(does.to_vec()).prop_map(Step::Devices),
        1 => prop::collection::vec(0..300_usize, 0..50).prop_map(Step::Busy),
        1 => any::<bool>().prop_map(Step::Sync),
        1 => (0..300_usize).prop_map(Step::Lost),
        1 => (0..300_usize).prop_map(Step::Back),
        1 => (0..300_usize).prop_map(Step::Come),
        1 => any::<bool>().prop_map(Step::Partner),
        1 => (0..3_u8).prop_map(Step::Policy),
    ]
}

fn act(world: &mut World, step: Step) {
    match step {
        Step::Wait(ms) => world.now += ms,
        Step::Jump(ms) => {
            world.now += ms;
            world.wall_zero_s += 7919;
        }
        Step::Due => world.now = world.hand_over.due().unwrap_or(0).max(world.now),
        Step::Order(n) => world.order(match n {
            0 => Order::FailBack,
            1 => Order::StopHandOver,
            2 => Order::Maintenance(true),
            3 => Order::Maintenance(false),
            4 => Order::Move { devices: vec![], target: id("third") },
            5 => Order::Move { devices: (0..40).map(device).collect(), target: id("home") },
            _ => Order::FailBack,
        }),
        Step::Devices(does) => {
            world.does = does;
            world.devices_act();
        }
        Step::Busy(devices) => {
            world.field.busy = devices.into_iter().map(device).collect();
        }
        Step::Sync(yes) => world.in_sync_since = yes.then_some(world.now),
        Step::Lost(n) => {
            world.field.here.remove(&device(n));
            world.hand_over.gone(&device(n));
        }
        Step::Back(n) => world.with(|hand_over, at| hand_over.came_back(at, &device(n))),
        Step::Come(n) => _ = world.field.here.insert(device(n), n as ConnId),
        Step::Partner(yes) => {
            world.field.in_maintenance = yes.then(|| id("home")).into_iter().collect();
        }
        Step::Policy(n) => {
            world.settings.fail_back = match n {
                0 => FailBackPolicy::Manual,
                1 => FailBackPolicy::Auto { after: 100 },
                _ => FailBackPolicy::Window { from: 12 * 3600, until: 13 * 3600 },
            };
        }
    }
}

#[test]
fn a_clock_that_goes_back_gains_nothing() {
    let mut meter = Meter::default();
    for _ in 0..10 {
        assert!(meter.room(5000, 100) > 0);
        meter.begin(5000);
    }
    for now in [5000, 4000, 0] {
        assert_eq!(meter.room(now, 100), 0, "{now}");
        assert_eq!(meter.due(now, 100), Some(5100));
    }
    for _ in 0..10 {
        assert!(meter.room(4000, 200) > 0);
        meter.begin(4000);
    }
    assert_eq!(meter.room(5050, 200), 0);
    assert_eq!(meter.room(5100, 200), 20);
    assert_eq!(meter.room(5100, 25), 3);
    assert_eq!(meter.room(5100, 20), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_pace_is_kept_at_all_times(
        steps in prop::collection::vec(step(), 1..200),
        per_second in 1..120_u32,
        in_flight_max in 1..60_u32,
        deadline in 1..3000_u64,
    ) {
        let mut world = World::new(300);
        let failures_max_percent = 50;
        world.settings.pace = Pace { per_second, in_flight_max, deadline, failures_max_percent };
        for step in steps {
            act(&mut world, step);
            // Asserts that not too many are under way, and that it looks at few.
            world.step();
        }
        let began: Vec<Millis> = world.began.iter().map(|(at, ..)| *at).collect();
        for (first, at) in began.iter().enumerate() {
            let within = |ms| began[first..].iter().take_while(|later| **later < at + ms).count();
            prop_assert!(within(1000) <= per_second as usize);
            prop_assert!(within(100) <= per_second.div_ceil(10) as usize);
        }
    }

    /// It uses what it may: a batch takes no longer than the pace says.
    #[test]
    fn the_pace_is_reached(per_second in 1..300_u32, devices in 1..600_usize) {
        let mut world = World::new(devices);
        world.settings.pace.per_second = per_second;
        world.order(Order::FailBack);
        let seconds = (devices as u64).div_ceil(u64::from(per_second));
        world.run(seconds * 1000);
        prop_assert_eq!(world.ended().0, devices as u64);
    }

    /// Whatever devices do, a batch ends.
    #[test]
    fn a_batch_ends(steps in prop::collection::vec(step(), 1..100)) {
        let mut world = World::new(100);
        world.settings.pace.deadline = 500;
        for step in steps {
            act(&mut world, step);
            world.step();
        }
        world.settings.fail_back = FailBackPolicy::Manual;
        world.order(Order::Maintenance(false));
        world.run(3_600_000);
        prop_assert_eq!(world.hand_over.len(), 0);
        prop_assert_eq!(world.hand_over.jobs.len(), 0);
        prop_assert_eq!(world.hand_over.due(), None);
    }
}
