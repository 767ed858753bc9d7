//! Hands devices over to other controllers: back home, or wherever an operator wants them.
//!
//! Pure: no I/O, no clock. Only whoever serves a device hands it over, and goes on to serve it
//! until a newer registration is seen elsewhere. Batches run one after another. In any second at
//! most [`Pace::per_second`] hand-overs begin, whatever the clock does, and at most
//! [`Pace::in_flight_max`] are under way.
//!
//! A batch ends early when too many of the last hand-overs failed. What runs by itself (the policy,
//! maintenance) then rests before it begins again, and the home must have been in sync all that
//! time.

mod job;
mod pace;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use job::{Job, Which, Why};
use pace::Meter;

use super::input::{ConnId, FailBackPolicy, Millis, Order, Pace, Settings};
use super::output::{Event, Output};
use crate::model::{ControllerId, DeviceId};
use crate::wire::Place;
use crate::wire::client::{ClientMessage, HandOffAnswer};

/// Devices that one step looks at, at most.
const STEP: u32 = 64;
/// Batches that wait, at most.
const JOBS_MAX: usize = 16;
/// How long after a batch that ran by itself the next one begins.
const REST: Millis = 60_000;
/// How long after one that was stopped, unless the policy says longer.
const REST_STOPPED: Millis = 300_000;
/// Seconds of a day.
const DAY: u32 = 24 * 3600;

/// What the shard knows of its devices. All of it is quick, and nothing goes through all devices.
pub(super) trait Devices {
    /// The first device behind this one (in the order of names; `None`: of all) that is registered
    /// here and has a connection.
    fn next_after(&mut self, device: Option<&DeviceId>) -> Option<(DeviceId, ConnId)>;

    /// The connection of a device that is registered here; `None` if it is not, or has none.
    fn connection(&mut self, device: &DeviceId) -> Option<ConnId>;

    /// Whether requests for it are under way.
    fn is_busy(&self, device: &DeviceId) -> bool;

    /// Whether a controller may be sent devices: no partner that is in maintenance.
    fn takes(&self, controller: &ControllerId) -> bool;
}

/// How things stand at a step.
pub(super) struct Surroundings<'a> {
    pub(super) now: Millis,
    /// Seconds after midnight UTC.
    pub(super) wall_s: u32,
    pub(super) settings: &'a Settings,
    /// Since when the home of the partition has been in sync both ways without a break.
    pub(super) home_in_sync_since: Option<Millis>,
}

#[derive(Debug)]
struct Flight {
    device: DeviceId,
    conn: ConnId,
    until: Millis,
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Devices that went.
    pub(super) done: u64,
    /// Devices that did not.
    pub(super) failed: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct HandOver {
    me: ControllerId,
    home: ControllerId,
    next: u64,
    meter: Meter,
    /// The first one runs.
    jobs: VecDeque<Job>,
    /// All of them are of the job that runs.
    flights: HashMap<u64, Flight>,
    by_device: HashMap<DeviceId, u64>,
    deadlines: BTreeSet<(Millis, u64)>,
    maintenance: bool,
    /// An operator has stopped what runs by itself.
    halted: bool,
    /// What runs by itself does not begin before.
    rest_until: Millis,
    /// It rests because a batch was stopped: until then, whatever happens.
    rest_is_strict: bool,
    /// The policy was stopped: its window has to close before it begins again.
    window_spent: bool,
    due: Option<Millis>,
    counts: Counts,
}

impl HandOver {
    /// For the partition of the devices of `home`. `seed` makes the numbers of hand-overs differ
    /// from those of a shard before.
    pub(super) fn new(me: ControllerId, home: ControllerId, seed: u64) -> Self {
        Self {
            me,
            home,
            next: (seed.wrapping_mul(0xd134_2543_de82_ef95) >> 2) + 1,
            meter: Meter::default(),
            jobs: VecDeque::new(),
            flights: HashMap::new(),
            by_device: HashMap::new(),
            deadlines: BTreeSet::new(),
            maintenance: false,
            halted: false,
            rest_until: 0,
            rest_is_strict: false,
            window_spent: false,
            due: None,
            counts: Counts::default(),
        }
    }

    /// An order of an operator; those that are none of hand-overs are not looked at. Call
    /// [`Self::step`] afterwards.
    pub(super) fn order(&mut self, order: &Order, out: &mut Vec<Output>) {
        match order {
            Order::Move { devices, target } => {
                self.make_way(out);
                let which = if devices.is_empty() {
                    Which::All(None)
                } else {
                    Which::These(devices.iter().cloned().collect())
                };
                self.add(Job::new(Why::Move(target.clone()), target.clone(), which), out);
            }
            Order::FailBack => {
                self.halted = false;
                self.make_way(out);
                self.add(Job::new(Why::FailBack, self.home.clone(), Which::All(None)), out);
            }
            Order::StopHandOver => {
                self.halted = true;
                self.stop(out, "an operator stopped it", |_| true);
            }
            Order::Maintenance(true) => {
                self.halted = false;
                self.maintenance = true;
                self.rest_until = 0;
                self.stop(out, "this controller is in maintenance", |why| {
                    !matches!(why, Why::Maintenance)
                });
            }
            Order::Maintenance(false) => {
                self.maintenance = false;
                self.rest_until = 0;
                self.stop(out, "maintenance is over", |why| matches!(why, Why::Maintenance));
            }
            Order::Pause { .. } | Order::Resync(_) => {}
        }
    }

    /// A device answers.
    pub(super) fn answer(
        &mut self,
        at: &Surroundings<'_>,
        conn: ConnId,
        device: &DeviceId,
        token: u64,
        answer: HandOffAnswer,
    ) {
        let Some(flight) = self.flights.get(&token) else { return };
        if flight.device != *device || flight.conn != conn {
            return;
        }
        match answer {
            // It is done when its registration is seen there.
            HandOffAnswer::Goes => {}
            HandOffAnswer::Busy => {
                if let Some((flight, job)) = self.land(token) {
                    job.put_off(at.now, flight.device);
                }
            }
            HandOffAnswer::Stays => self.end(token, false, &at.settings.pace),
        }
    }

    /// A device has a newer registration elsewhere.
    pub(super) fn moved(&mut self, at: &Surroundings<'_>, device: &DeviceId) {
        if let Some(&token) = self.by_device.get(device) {
            self.end(token, true, &at.settings.pace);
        }
    }

    /// A device has registered here anew: if it was to go, it came back.
    pub(super) fn came_back(&mut self, at: &Surroundings<'_>, device: &DeviceId) {
        if let Some(&token) = self.by_device.get(device) {
            self.end(token, false, &at.settings.pace);
        }
    }

    /// A device is registered nowhere any more: it has deregistered, or its lease is over.
    pub(super) fn gone(&mut self, device: &DeviceId) {
        if let Some(&token) = self.by_device.get(device)
            && let Some((flight, job)) = self.land(token)
        {
            job.settle(&flight.device);
            job.skipped += 1;
        }
    }

    /// Ends what is late, and begins what may begin: some at once at most. To be called when
    /// [`Self::due`] is reached, and after whatever changes how things stand: orders, settings, the
    /// exchange with the home, registrations.
    pub(super) fn step(
        &mut self,
        at: &Surroundings<'_>,
        devices: &mut dyn Devices,
        out: &mut Vec<Output>,
    ) {
        while let Some(&(until, token)) = self.deadlines.first()
            && until <= at.now
        {
            self.end(token, false, &at.settings.pace);
        }
        self.check_policy(at, devices, out);
        self.begin_by_itself(at, devices);
        let is_idle = self.begin_some(at, devices, out);
        self.finish(at, out);
        self.due = self.next_due(at, devices, is_idle);
    }

    /// When to call [`Self::step`] next, if nothing happens before.
    pub(super) fn due(&self) -> Option<Millis> {
        self.due
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    /// Counted since the start.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Ends all batches, and what is under way with them.
    pub(super) fn lost(&mut self, why: &str) -> Vec<Event> {
        let end = |mut job: Job| {
            job.stop(why);
            event(job)
        };
        self.jobs.drain(..).map(end).collect()
    }

    /// Whether an operator has set maintenance.
    pub(super) fn maintenance(&self) -> bool {
        self.maintenance
    }

    /// What an operator wants does not wait for what runs by itself.
    fn make_way(&mut self, out: &mut Vec<Output>) {
        self.stop(out, "an operator's order goes first", |why| matches!(why, Why::Policy(_)));
    }

    fn add(&mut self, mut job: Job, out: &mut Vec<Output>) {
        if job.target == self.me {
            job.stop("they are where they should go");
        } else if self.maintenance {
            job.stop("this controller is in maintenance: end that first");
        } else if self.jobs.len() >= JOBS_MAX {
            job.stop("too many batches wait: stop some first");
        } else {
            self.jobs.push_back(job);
            return;
        }
        out.push(Output::Event(event(job)));
    }

    /// Stops some jobs. Those that have not begun are told of at once.
    fn stop(&mut self, out: &mut Vec<Output>, text: &str, of: impl Fn(&Why) -> bool) {
        for job in self.jobs.iter_mut().filter(|job| of(&job.why)) {
            job.stop(text);
        }
        for job in self.jobs.split_off(self.jobs.len().min(1)) {
            if job.stopped.is_some() {
                out.push(Output::Event(event(job)));
            } else {
                self.jobs.push_back(job);
            }
        }
    }

    /// Stops a batch of the policy that is not allowed any more.
    fn check_policy(
        &mut self,
        at: &Surroundings<'_>,
        devices: &dyn Devices,
        out: &mut Vec<Output>,
    ) {
        let policy = at.settings.fail_back;
        let is_in_window = is_in_window(policy, at.wall_s);
        self.window_spent &= is_in_window;
        if at.home_in_sync_since.is_none() && !self.maintenance && !self.rest_is_strict {
            // It rests from having found nothing to do, or not more. With the home something else
            // has changed: it has to be in sync for as long as ever, and no longer.
            self.rest_until = self.rest_until.min(at.now);
        }
        let text = if at.home_in_sync_since.is_none() {
            "the home is not in sync any more"
        } else if !devices.takes(&self.home) {
            "the home is in maintenance"
        } else if !is_in_window {
            "the window is over"
        } else {
            self.stop(
                out,
                "the policy has changed",
                |why| matches!(why, Why::Policy(old) if *old != policy),
            );
            return;
        };
        self.stop(out, text, |why| matches!(why, Why::Policy(_)));
    }

    /// Begins a batch if the policy or maintenance says so, and nothing else is to be done.
    fn begin_by_itself(&mut self, at: &Surroundings<'_>, devices: &dyn Devices) {
        if self.halted || !self.jobs.is_empty() || at.now < self.rest_until {
            return;
        }
        if self.maintenance {
            self.jobs.push_back(Job::new(Why::Maintenance, self.home.clone(), Which::All(None)));
        } else if devices.takes(&self.home)
            && self.policy_begins(at).is_some_and(|begins| begins <= at.now)
        {
            let why = Why::Policy(at.settings.fail_back);
            self.jobs.push_back(Job::new(why, self.home.clone(), Which::All(None)));
        }
    }

    /// When the policy begins a batch, if all stays as it is.
    fn policy_begins(&self, at: &Surroundings<'_>) -> Option<Millis> {
        let since = at.home_in_sync_since.filter(|_| self.home != self.me)?;
        match at.settings.fail_back {
            FailBackPolicy::Manual => None,
            FailBackPolicy::Auto { after } => Some(since.saturating_add(after)),
            FailBackPolicy::Window { from, .. } => {
                if is_in_window(at.settings.fail_back, at.wall_s) && !self.window_spent {
                    return Some(at.now);
                }
                let wait = (from % DAY + DAY - at.wall_s % DAY) % DAY;
                // At least a second, as the clock may stand at the very begin of a spent window; an
                // hour at most, as it may be put right until then.
                Some(at.now.saturating_add(u64::from(wait.clamp(1, 3600)) * 1000))
            }
        }
    }

    /// Begins hand-overs of the first job. Gives whether nothing can be begun before something
    /// happens, or the time comes that the job or the pace say.
    fn begin_some(
        &mut self,
        at: &Surroundings<'_>,
        devices: &mut dyn Devices,
        out: &mut Vec<Output>,
    ) -> bool {
        let pace = at.settings.pace;
        for _ in 0..STEP {
            let Some(job) = self.jobs.front_mut() else { return true };
            if job.is_spent()
                || self.flights.len() >= pace.in_flight_max as usize
                || self.meter.room(at.now, pace.per_second) == 0
            {
                return true;
            }
            let Some(target) = target(&job.why, &self.me, &self.home, at.settings, devices) else {
                job.stop("it is not known where they should go");
                return true;
            };
            let Some((device, conn)) = next_device(job, at.now, devices) else {
                if job.is_through {
                    return true;
                }
                continue;
            };
            if devices.is_busy(&device) {
                job.put_off(at.now, device);
                continue;
            }
            if self.by_device.contains_key(&device) {
                continue;
            }
            job.in_flight += 1;
            job.target = target.controller.clone();
            self.meter.begin(at.now);
            let token = self.next;
            self.next += 1;
            let until = at.now.saturating_add(pace.deadline);
            self.deadlines.insert((until, token));
            self.by_device.insert(device.clone(), token);
            let flight = Flight { device: device.clone(), conn, until };
            self.flights.insert(token, flight);
            let within = Duration::from_millis(pace.deadline);
            let message = ClientMessage::HandOff { device, token, target, within };
            out.push(Output::Say { conn, message });
        }
        false
    }

    /// Ends jobs of which nothing is left.
    fn finish(&mut self, at: &Surroundings<'_>, out: &mut Vec<Output>) {
        while let Some(job) = self.jobs.front()
            && job.in_flight == 0
            && job.is_spent()
            && let Some(job) = self.jobs.pop_front()
        {
            let is_own = matches!(job.why, Why::Policy(_) | Why::Maintenance);
            // What was ended by the begin or the end of maintenance makes nothing wait.
            if is_own && self.maintenance == matches!(job.why, Why::Maintenance) {
                let rest = match (&job.stopped, &job.why) {
                    (None, _) => REST,
                    (Some(_), Why::Policy(FailBackPolicy::Auto { after })) => *after,
                    (Some(_), _) => REST_STOPPED,
                };
                self.rest_until = at.now.saturating_add(rest);
                self.rest_is_strict = job.stopped.is_some();
                self.window_spent |= job.has_failed;
            }
            // What runs by itself is quiet where there was nothing to do.
            if !is_own || job.stopped.is_some() || job.done + job.failed + job.skipped > 0 {
                out.push(Output::Event(event(job)));
            }
        }
    }

    fn next_due(
        &mut self,
        at: &Surroundings<'_>,
        devices: &dyn Devices,
        is_idle: bool,
    ) -> Option<Millis> {
        let late = self.deadlines.first().map(|&(until, _)| until);
        let pace = at.settings.pace;
        let next = match self.jobs.front() {
            _ if !is_idle => Some(at.now),
            None if self.halted => None,
            None if self.maintenance => Some(self.rest_until),
            // The partner's word that it takes devices again is a reason for a step.
            None if !devices.takes(&self.home) => None,
            None => self.policy_begins(at).map(|begins| begins.max(self.rest_until)),
            Some(job) if job.stopped.is_some() => None,
            Some(_) if self.flights.len() >= pace.in_flight_max as usize => None,
            Some(job) => {
                let again = if job.is_through { job.due() } else { Some(at.now) };
                match (again, self.meter.due(at.now, pace.per_second)) {
                    (Some(again), Some(room)) => Some(again.max(room)),
                    _ => None,
                }
            }
        };
        // The end of a window is noticed within a second.
        let window = self.jobs.front().and_then(|job| match job.why {
            Why::Policy(FailBackPolicy::Window { .. }) => Some(at.now.saturating_add(1000)),
            _ => None,
        });
        [late, next, window].into_iter().flatten().min()
    }

    /// Takes one out; gives it with the job that it is of.
    fn land(&mut self, token: u64) -> Option<(Flight, &mut Job)> {
        let flight = self.flights.remove(&token)?;
        self.by_device.remove(&flight.device);
        self.deadlines.remove(&(flight.until, token));
        let job = self.jobs.front_mut()?;
        job.in_flight -= 1;
        Some((flight, job))
    }

    fn end(&mut self, token: u64, is_done: bool, pace: &Pace) {
        let Some((flight, job)) = self.land(token) else { return };
        job.settle(&flight.device);
        job.count(is_done, pace.failures_max_percent);
        *if is_done { &mut self.counts.done } else { &mut self.counts.failed } += 1;
    }
}

/// The next device of a job.
fn next_device(
    job: &mut Job,
    now: Millis,
    devices: &mut dyn Devices,
) -> Option<(DeviceId, ConnId)> {
    if let Some(device) = job.next_again(now) {
        let conn = devices.connection(&device);
        if conn.is_none() {
            job.settle(&device);
        }
        return conn.map(|conn| (device, conn));
    }
    match &mut job.which {
        _ if job.is_through => None,
        Which::All(behind) => {
            let next = devices.next_after(behind.as_ref());
            match &next {
                Some((device, _)) => *behind = Some(device.clone()),
                None => job.is_through = true,
            }
            next
        }
        Which::These(list) => {
            let Some(device) = list.pop_front() else {
                job.is_through = true;
                return None;
            };
            devices.connection(&device).map(|conn| (device, conn))
        }
    }
}

/// Where devices go.
fn target(
    why: &Why,
    me: &ControllerId,
    home: &ControllerId,
    settings: &Settings,
    devices: &dyn Devices,
) -> Option<Place> {
    let mut known = settings.terms.alternates.iter().chain(&settings.places);
    match why {
        Why::Policy(_) | Why::FailBack => known.find(|place| place.controller == *home),
        Why::Move(to) => known.find(|place| place.controller == *to),
        Why::Maintenance => {
            known.find(|place| place.controller != *me && devices.takes(&place.controller))
        }
    }
    .cloned()
}

/// Whether devices may go home at this time of the day.
fn is_in_window(policy: FailBackPolicy, wall_s: u32) -> bool {
    match policy {
        FailBackPolicy::Manual | FailBackPolicy::Auto { .. } => true,
        FailBackPolicy::Window { from, until } if from <= until => (from..until).contains(&wall_s),
        FailBackPolicy::Window { from, until } => wall_s >= from || wall_s < until,
    }
}

fn event(job: Job) -> Event {
    Event::HandedOver {
        target: job.target,
        done: job.done,
        failed: job.failed,
        skipped: job.skipped,
        stopped: job.stopped.unwrap_or_default(),
    }
}
