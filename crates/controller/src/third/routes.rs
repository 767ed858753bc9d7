//! Which controllers to ask for which device.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use crate::limits::{ADDRS_MAX, ALTERNATES_MAX};
use crate::model::{ControllerId, DeviceId, Pattern, Prefixes, is_prefix};
use crate::wire::Place;

/// Devices whose place is remembered; beyond that those learnt longest ago are forgotten.
const LEARNT_MAX: usize = 100_000;
/// Controllers that are learnt of besides those that are given.
const PLACES_MAX: usize = 256;

/// Why routes are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoutesError {
    /// A route names a controller without a place.
    #[error("{route} names {controller}, of which no address is given: add it to the places")]
    Place {
        /// Which route.
        route: String,
        /// Whom.
        controller: ControllerId,
    },
    /// A place without an address, or with too many.
    #[error("{0} needs 1 to {ADDRS_MAX} addresses")]
    Addrs(ControllerId),
    /// A route to nobody, to too many, or to one twice.
    #[error("{0} needs 1 to {ALTERNATES_MAX} controllers, each once")]
    Controllers(String),
    /// Two are about the same.
    #[error("{0} stands there twice: remove one of the two")]
    Twice(String),
    /// No name of a device begins so.
    #[error("{0:?} cannot be the begin of a device's name")]
    Prefix(String),
}

#[derive(Debug)]
struct Learnt {
    owner: ControllerId,
    seq: u64,
    /// When, counted.
    age: u64,
}

/// Which controllers to ask for which device, best first. The route for exactly the device counts,
/// else the one with the longest prefix, else the default; before all of them comes whom a
/// controller has named as the device's owner.
#[derive(Debug)]
pub struct Routes {
    places: HashMap<ControllerId, Vec<SocketAddr>>,
    /// Of them, those that were given.
    given: usize,
    devices: HashMap<DeviceId, Vec<ControllerId>>,
    prefixes: Prefixes<Vec<ControllerId>>,
    default: Vec<ControllerId>,
    learnt: HashMap<DeviceId, Learnt>,
    ages: BTreeMap<u64, DeviceId>,
    next_age: u64,
}

impl Routes {
    /// Routes, the controllers of each best first.
    ///
    /// # Errors
    ///
    /// See [`RoutesError`]; the first thing that is wrong is told.
    pub fn new(
        places: Vec<Place>,
        routes: Vec<(Pattern, Vec<ControllerId>)>,
        default: Vec<ControllerId>,
    ) -> Result<Self, RoutesError> {
        let mut by_name = HashMap::new();
        for Place { controller, addrs } in places {
            if !(1..=ADDRS_MAX).contains(&addrs.len()) {
                return Err(RoutesError::Addrs(controller));
            }
            if by_name.insert(controller.clone(), addrs).is_some() {
                return Err(RoutesError::Twice(format!("the place of {controller}")));
            }
        }
        check("the default", &default, &by_name)?;
        let (mut devices, mut prefixes) = (HashMap::new(), BTreeMap::new());
        for (pattern, controllers) in routes {
            let route = format!("the route for {pattern}");
            check(&route, &controllers, &by_name)?;
            let is_new = match pattern {
                Pattern::Device(device) => devices.insert(device, controllers).is_none(),
                Pattern::Prefix(prefix) if !is_prefix(&prefix) => {
                    return Err(RoutesError::Prefix(prefix));
                }
                Pattern::Prefix(prefix) => prefixes.insert(prefix, controllers).is_none(),
            };
            if !is_new {
                return Err(RoutesError::Twice(route));
            }
        }
        Ok(Self {
            given: by_name.len(),
            places: by_name,
            devices,
            prefixes: Prefixes::new(prefixes),
            default,
            learnt: HashMap::new(),
            ages: BTreeMap::new(),
            next_age: 0,
        })
    }

    /// Whom to ask for a device, best first; each once.
    #[must_use]
    pub fn controllers(&self, device: &DeviceId) -> Vec<ControllerId> {
        let given = self
            .devices
            .get(device)
            .or_else(|| self.prefixes.longest(device.as_str()))
            .unwrap_or(&self.default);
        let owner = self.learnt.get(device).map(|learnt| &learnt.owner);
        let others = given.iter().filter(|controller| Some(*controller) != owner);
        owner.into_iter().chain(others).cloned().collect()
    }

    /// Whom a controller has named as the owner of a device.
    #[must_use]
    pub fn owner(&self, device: &DeviceId) -> Option<&ControllerId> {
        self.learnt.get(device).map(|learnt| &learnt.owner)
    }

    /// The counter of the registration that the first of [`Self::controllers`] is known by; 0: it
    /// is only given.
    #[must_use]
    pub fn seq(&self, device: &DeviceId) -> u64 {
        self.learnt.get(device).map_or(0, |learnt| learnt.seq)
    }

    /// The addresses of a controller; empty if they are not known.
    #[must_use]
    pub fn addrs(&self, controller: &ControllerId) -> &[SocketAddr] {
        self.places.get(controller).map_or(&[], Vec::as_slice)
    }

    /// A controller has said who owns a device, by a registration with this counter. Gives whether
    /// that is newer than what was known.
    pub fn learn(
        &mut self,
        device: &DeviceId,
        owner: &ControllerId,
        seq: u64,
        place: &[SocketAddr],
    ) -> bool {
        if seq <= self.seq(device) {
            return false;
        }
        // The places that were given are not changed by what anybody says.
        let has_room = self.places.len() < self.given + PLACES_MAX;
        if has_room && !place.is_empty() && !self.places.contains_key(owner) {
            let addrs = place.iter().take(ADDRS_MAX).copied().collect();
            self.places.insert(owner.clone(), addrs);
        }
        self.forget(device);
        if self.learnt.len() >= LEARNT_MAX
            && let Some((_, oldest)) = self.ages.pop_first()
        {
            self.learnt.remove(&oldest);
        }
        let age = self.next_age;
        self.next_age += 1;
        self.ages.insert(age, device.clone());
        self.learnt.insert(device.clone(), Learnt { owner: owner.clone(), seq, age });
        true
    }

    /// What was learnt of a device is of no use.
    pub fn forget(&mut self, device: &DeviceId) {
        if let Some(learnt) = self.learnt.remove(device) {
            self.ages.remove(&learnt.age);
        }
    }
}

fn check(
    route: &str,
    controllers: &[ControllerId],
    places: &HashMap<ControllerId, Vec<SocketAddr>>,
) -> Result<(), RoutesError> {
    let is_twice = |n: usize| controllers[..n].contains(&controllers[n]);
    if !(1..=ALTERNATES_MAX).contains(&controllers.len()) || (0..controllers.len()).any(is_twice) {
        return Err(RoutesError::Controllers(route.to_owned()));
    }
    match controllers.iter().find(|controller| !places.contains_key(*controller)) {
        None => Ok(()),
        Some(controller) => {
            let (route, controller) = (route.to_owned(), controller.clone());
            Err(RoutesError::Place { route, controller })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn id(name: &str) -> ControllerId {
        name.parse().unwrap()
    }

    fn ids(names: &[&str]) -> Vec<ControllerId> {
        names.iter().map(|name| id(name)).collect()
    }

    fn device(name: &str) -> DeviceId {
        name.parse().unwrap()
    }

    fn place(name: &str) -> Place {
        Place { controller: id(name), addrs: vec!["127.0.0.1:7".parse().unwrap()] }
    }

    fn routes(more: Vec<(Pattern, Vec<ControllerId>)>) -> Result<Routes, RoutesError> {
        Routes::new(vec![place("a"), place("b"), place("c")], more, ids(&["a", "b"]))
    }

    fn some() -> Routes {
        routes(vec![
            (Pattern::Device(device("x-1")), ids(&["c"])),
            (Pattern::Prefix("x".to_owned()), ids(&["b", "a"])),
            (Pattern::Prefix("x-".to_owned()), ids(&["b", "c"])),
        ])
        .unwrap()
    }

    #[test]
    fn the_longest_match_counts() {
        let routes = some();
        for (name, expected) in
            [("x-1", &["c"][..]), ("x-12", &["b", "c"]), ("x", &["b", "a"]), ("y", &["a", "b"])]
        {
            assert_eq!(routes.controllers(&device(name)), ids(expected), "{name}");
        }
    }

    #[test]
    fn what_is_learnt_comes_first_if_it_is_newer() {
        let (mut routes, x) = (some(), device("x"));
        let addr = "127.0.0.2:9".parse().unwrap();
        assert!(routes.learn(&x, &id("new"), 5, &[addr]));
        assert_eq!(routes.controllers(&x), ids(&["new", "b", "a"]));
        assert_eq!(routes.addrs(&id("new")), [addr]);
        assert!(!routes.learn(&x, &id("c"), 5, &[]) && !routes.learn(&x, &id("c"), 4, &[]));
        assert!(routes.learn(&x, &id("a"), 6, &[addr]));
        assert_eq!(routes.controllers(&x), ids(&["a", "b"]));
        assert_eq!(routes.seq(&x), 6);
        assert_ne!(routes.addrs(&id("a")), [addr], "a given address stays");
        routes.forget(&x);
        assert_eq!((routes.controllers(&x), routes.seq(&x)), (ids(&["b", "a"]), 0));
        assert_eq!(routes.controllers(&device("x-12")), ids(&["b", "c"]), "others are as before");
        assert!(routes.ages.is_empty());
    }

    #[test]
    fn what_is_learnt_is_bounded() {
        let mut routes = some();
        let addr = "127.0.0.2:9".parse().unwrap();
        for n in 0..LEARNT_MAX + 10 {
            routes.learn(&device(&format!("d{n}")), &id(&format!("n{n}")), 5, &[addr]);
        }
        assert_eq!((routes.learnt.len(), routes.ages.len()), (LEARNT_MAX, LEARNT_MAX));
        assert_eq!(routes.places.len(), 3 + PLACES_MAX);
        assert_eq!(routes.seq(&device("d9")), 0);
        assert_eq!(routes.seq(&device("d10")), 5);
    }

    #[test]
    fn tells_what_is_wrong() {
        let prefix = |text: &str| Pattern::Prefix(text.to_owned());
        let error = |more| routes(more).unwrap_err();
        assert!(matches!(error(vec![(prefix("x"), ids(&["d"]))]), RoutesError::Place { .. }));
        assert!(matches!(error(vec![(prefix("x"), vec![])]), RoutesError::Controllers(_)));
        assert!(matches!(
            error(vec![(prefix("x"), ids(&["a", "a"]))]),
            RoutesError::Controllers(_)
        ));
        assert!(matches!(error(vec![(prefix("a b"), ids(&["a"]))]), RoutesError::Prefix(_)));
        let twice = vec![(prefix("x"), ids(&["a"])), (prefix("x"), ids(&["b"]))];
        assert_eq!(
            error(twice).to_string(),
            "the route for the prefix \"x\" stands there twice: remove one of the two"
        );
        let nowhere = Place { controller: id("a"), addrs: vec![] };
        let error = Routes::new(vec![nowhere], vec![], ids(&["a"])).unwrap_err();
        assert_eq!(error, RoutesError::Addrs(id("a")));
    }
}
