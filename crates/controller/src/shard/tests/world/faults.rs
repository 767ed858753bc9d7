//! What goes wrong, and what operators do.

use super::{CONTROLLERS, Event, Lane, Message, World, ends, name};
use crate::model::{Record, kind};
use crate::shard::{Input, Order};
use crate::wire::peer::Mode;

impl World {
    pub(super) fn fault(&mut self) {
        let node = self.dice.index(CONTROLLERS);
        let device = self.dice.index(self.devices.len());
        match self.dice.below(16) {
            0 | 1 => self.crash_and_start(node),
            2 => self.nodes[node].backup = Some(self.nodes[node].disk.backup()),
            3 | 4 => self.cut_link(),
            5 | 6 => {
                let at = self.now + self.dice.below(20_000);
                self.cut_paths.insert((device, node));
                self.break_path(device, node);
                self.at(at, Event::HealPath { device, node });
            }
            7 => self.nodes[node].disk.fail_next_commit(),
            8 => self.switch_off(device),
            9 if self.plan.is_unreliable => {
                let all = self.dice.one_in(2);
                self.devices[device].forget(all, &mut self.dice);
            }
            10 => self.operate(node),
            11 => self.pause(node),
            12 => self.hand_over(node),
            13 => self.put(node),
            _ => {
                for _ in 0..1 + self.dice.below(5) {
                    let node = self.dice.index(CONTROLLERS);
                    self.ask(node);
                }
            }
        }
    }

    fn crash_and_start(&mut self, n: usize) {
        self.crash(n);
        let node = &mut self.nodes[n];
        if self.plan.is_lossy {
            match self.dice.below(4) {
                0 => {
                    node.disk.lose();
                    node.folder.lose();
                    self.watch.lost(n);
                }
                1 | 2 => {
                    if let Some(backup) = node.backup.clone() {
                        node.disk.restore(backup);
                        self.watch.lost(n);
                    }
                }
                _ => {}
            }
        }
        let most = if self.dice.one_in(2) { 500 } else { 20_000 };
        let at = self.now + self.dice.below(most);
        self.at(at, Event::Start { node: n });
        // While it does not know all again, requests find their way by what others know.
        for _ in 0..6 {
            let node = self.dice.index(CONTROLLERS);
            let at = at + self.dice.below(1500);
            self.at(at, Event::Ask { node });
        }
    }

    fn cut_link(&mut self) {
        let pair = self.dice.index(CONTROLLERS);
        if !self.are_partners(pair) {
            return;
        }
        let for_long = if self.dice.one_in(2) { 300 } else { 30_000 };
        let at = self.now + self.dice.below(for_long);
        self.links[pair].is_cut = true;
        self.break_link(pair);
        self.at(at, Event::Heal { pair });
    }

    fn switch_off(&mut self, device: usize) {
        let mut said = Vec::new();
        let says_so = self.dice.one_in(2);
        self.devices[device].leave(says_so, &mut said);
        self.say(device, said);
        if !self.dice.one_in(3) {
            let at = self.now + self.dice.below(30_000);
            self.at(at, Event::DeviceOn { device });
        }
    }

    fn operate(&mut self, node: usize) {
        let other = (node + 1 + self.dice.index(CONTROLLERS - 1)) % CONTROLLERS;
        if self.dice.one_in(2) {
            self.order(node, Order::Resync(name(other)));
        } else {
            self.order(node, Order::Maintenance(true));
            let at = self.now + self.dice.below(15_000);
            self.at(at, Event::Order { node, order: Order::Maintenance(false) });
        }
    }

    fn pause(&mut self, node: usize) {
        let other = self.dice.index(CONTROLLERS);
        let partner = (other != node).then(|| name(other));
        self.order(node, Order::Pause { partner: partner.clone(), paused: true });
        let at = self.now + self.dice.below(15_000);
        self.at(at, Event::Order { node, order: Order::Pause { partner, paused: false } });
    }

    fn hand_over(&mut self, node: usize) {
        let target = name(self.dice.index(CONTROLLERS));
        let order = match self.dice.below(4) {
            0 => Order::Move { devices: Vec::new(), target },
            1 => {
                let device = self.dice.index(self.devices.len());
                Order::Move { devices: vec![self.devices[device].id.clone()], target }
            }
            2 => Order::FailBack,
            _ => Order::StopHandOver,
        };
        self.order(node, order);
    }

    /// Other records than locations.
    fn put(&mut self, n: usize) {
        let count = if self.plan.is_bulky { 1 + self.dice.below(70) } else { 1 };
        for _ in 0..count {
            let chance = self.dice.next();
            let bytes = if self.plan.is_bulky { chance % 60_000 } else { chance % 100 };
            let record = Record {
                kind: if chance.is_multiple_of(3) { kind::PARAMETERS } else { 77 },
                key: vec![b'k', u8::try_from(chance % 40).unwrap()],
                rank: vec![u8::try_from(self.dice.below(4)).unwrap()],
                body: vec![u8::try_from(chance % 251).unwrap(); usize::try_from(bytes).unwrap()],
            };
            if let Some(shard) = &mut self.nodes[n].shard {
                shard.put(record).unwrap();
            }
        }
        self.input(n, Input::Tick);
    }

    /// An operator's order; the partners hear of what concerns them.
    pub(super) fn order(&mut self, n: usize, order: Order) {
        let node = &mut self.nodes[n];
        let before = node.mode;
        match &order {
            Order::Maintenance(on) => node.mode.maintenance = *on,
            Order::Pause { partner: None, paused } => {
                node.mode.paused = *paused;
                if !paused {
                    node.paused = [false; CONTROLLERS];
                }
            }
            Order::Pause { partner: Some(partner), paused } => {
                node.paused[super::number(partner)] = *paused;
            }
            _ => {}
        }
        let mode = node.mode;
        self.input(n, Input::Order(order));
        if mode != before {
            for other in (0..CONTROLLERS).filter(|other| *other != n) {
                self.tell(n, other, Lane::Control, Message::Mode(mode));
            }
        }
    }

    /// From now on nothing goes wrong any more.
    pub(super) fn calm(&mut self) {
        self.is_calm = true;
        for device in &mut self.devices {
            device.is_calm = true;
        }
        self.cut_paths.clear();
        for node in 0..CONTROLLERS {
            self.start(node);
            let mode = Mode::default();
            if self.nodes[node].mode != mode {
                self.order(node, Order::Maintenance(false));
            }
            self.order(node, Order::Pause { partner: None, paused: false });
            // It also goes on with what the policy says, if an operator had stopped that.
            if self.goes_home() {
                self.order(node, Order::FailBack);
            }
        }
        for pair in 0..CONTROLLERS {
            self.links[pair].is_cut = false;
            if !self.links[pair].is_up() && self.are_partners(pair) {
                let [one, other] = ends(pair);
                debug_assert_ne!(one, other);
                self.dial_later(pair);
            }
        }
    }

    /// Whether the devices have to be at home in the end.
    pub(super) fn goes_home(&self) -> bool {
        matches!(self.plan.fail_back, crate::shard::input::FailBackPolicy::Auto { .. })
    }
}
