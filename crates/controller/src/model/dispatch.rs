//! Which partition a device belongs to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::{ControllerId, DeviceId};
use crate::limits::DEVICE_MAX;

/// Rules of one table, at most.
pub const RULES_MAX: usize = 1_000_000;

/// What a controller does for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DispatchMode {
    /// It registers the device.
    Serve,
    /// It does not register the device, and passes requests for it on.
    Proxy,
    /// Neither.
    Refuse,
}

/// What a table says about a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dispatched {
    /// The partition that the device belongs to: its home.
    pub partition: ControllerId,
    /// What is done for it here.
    pub mode: DispatchMode,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// One device.
    Device(DeviceId),
    /// All devices whose names begin so: 1 to [`DEVICE_MAX`] printable ASCII characters, no spaces.
    Prefix(String),
}

/// Why rules are no table. Nothing is changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// A rule names a partition that this controller does not have.
    #[error("{rule} is for the partition {partition:?}, which there is not: name one of {known}")]
    Partition {
        /// Which rule.
        rule: String,
        /// What it names.
        partition: String,
        /// What there is.
        known: String,
    },
    /// Two rules are about the same.
    #[error("{0} stands there twice: remove one of the two")]
    Twice(String),
    /// A prefix that no name of a device begins with.
    #[error(
        "{0:?} cannot be the begin of a device's name: 1 to {DEVICE_MAX} printable ASCII \
         characters, no spaces"
    )]
    Prefix(String),
    /// Too many.
    #[error("{0} rules are more than {RULES_MAX}: use prefixes")]
    Count(usize),
}

/// A table of rules. The rule for exactly the device decides, else the one with the longest prefix,
/// else the default. It never changes: whoever uses one swaps it for another as a whole.
#[derive(Debug, Clone)]
pub struct Dispatch {
    generation: u64,
    default: Dispatched,
    devices: HashMap<DeviceId, Dispatched>,
    prefixes: Prefixes<Dispatched>,
}

impl Dispatch {
    /// A table of these rules, in whatever order.
    ///
    /// # Errors
    ///
    /// See [`DispatchError`]; the first thing that is wrong is told.
    pub fn new(
        generation: u64,
        rules: Vec<(Pattern, Dispatched)>,
        default: Dispatched,
        partitions: &[ControllerId],
    ) -> Result<Self, DispatchError> {
        if rules.len() > RULES_MAX {
            return Err(DispatchError::Count(rules.len()));
        }
        let known: HashSet<_> = partitions.iter().collect();
        let check = |rule: &dyn Fn() -> String, to: &Dispatched| {
            if known.contains(&to.partition) {
                return Ok(());
            }
            let known: Vec<_> = partitions.iter().map(ControllerId::as_str).collect();
            Err(DispatchError::Partition {
                rule: rule(),
                partition: to.partition.to_string(),
                known: known.join(", "),
            })
        };
        check(&|| "the default".to_owned(), &default)?;
        let mut devices = HashMap::new();
        let mut prefixes = BTreeMap::new();
        for (pattern, to) in rules {
            let name = || format!("the rule for {pattern}");
            check(&name, &to)?;
            let is_new = match &pattern {
                Pattern::Device(device) => devices.insert(device.clone(), to).is_none(),
                Pattern::Prefix(prefix) if !is_prefix(prefix) => {
                    return Err(DispatchError::Prefix(prefix.chars().take(DEVICE_MAX).collect()));
                }
                Pattern::Prefix(prefix) => prefixes.insert(prefix.clone(), to).is_none(),
            };
            if !is_new {
                return Err(DispatchError::Twice(name()));
            }
        }
        Ok(Self { generation, default, devices, prefixes: Prefixes::new(prefixes) })
    }

    /// The same rules under another generation.
    #[must_use]
    pub fn with_generation(self, generation: u64) -> Self {
        Self { generation, ..self }
    }

    /// The number of the table: a newer one has a larger one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What is done for a device. The time it takes depends on the length of its name, and on the
    /// logarithm of the number of rules.
    #[must_use]
    pub fn lookup(&self, device: &DeviceId) -> &Dispatched {
        self.devices
            .get(device)
            .or_else(|| self.prefixes.longest(device.as_str()))
            .unwrap_or(&self.default)
    }

    /// What is done for devices without a rule.
    #[must_use]
    pub fn default_rule(&self) -> &Dispatched {
        &self.default
    }

    /// All rules, devices before prefixes, each in the order of names.
    #[must_use]
    pub fn rules(&self) -> Vec<(Pattern, Dispatched)> {
        let mut rules: Vec<_> = self
            .devices
            .iter()
            .map(|(device, to)| (Pattern::Device(device.clone()), to.clone()))
            .chain(self.prefixes.iter().map(|(p, to)| (Pattern::Prefix(p.to_owned()), to.clone())))
            .collect();
        rules.sort_by(|(a, _), (b, _)| a.cmp(b));
        rules
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => write!(f, "the device {device}"),
            Self::Prefix(prefix) => write!(f, "the prefix {prefix:?}"),
        }
    }
}

/// Whether the name of a device may begin so.
pub(crate) fn is_prefix(text: &str) -> bool {
    (1..=DEVICE_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Finds the longest of many prefixes that a name has.
#[derive(Debug, Clone)]
pub(crate) struct Prefixes<T> {
    /// Sorted by prefix.
    entries: Vec<Entry<T>>,
}

#[derive(Debug, Clone)]
struct Entry<T> {
    prefix: String,
    /// The longest other entry that this one begins with.
    shorter: Option<usize>,
    value: T,
}

impl<T> Prefixes<T> {
    pub(crate) fn new(prefixes: BTreeMap<String, T>) -> Self {
        let mut entries: Vec<Entry<T>> = Vec::with_capacity(prefixes.len());
        for (prefix, value) in prefixes {
            // In the order of names, all prefixes of one stand before it, each within the one
            // before.
            let mut shorter = entries.len().checked_sub(1);
            while let Some(index) = shorter
                && !prefix.starts_with(&entries[index].prefix)
            {
                shorter = entries[index].shorter;
            }
            entries.push(Entry { prefix, shorter, value });
        }
        Self { entries }
    }

    /// What stands at the longest prefix of the name.
    pub(crate) fn longest(&self, name: &str) -> Option<&T> {
        let behind = self.entries.partition_point(|entry| entry.prefix.as_str() <= name);
        let mut next = behind.checked_sub(1);
        while let Some(index) = next {
            let entry = &self.entries[index];
            if name.starts_with(&entry.prefix) {
                return Some(&entry.value);
            }
            next = entry.shorter;
        }
        None
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries.iter().map(|entry| (entry.prefix.as_str(), &entry.value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn to(partition: &str) -> Dispatched {
        Dispatched { partition: partition.parse().unwrap(), mode: DispatchMode::Serve }
    }

    fn device(name: &str) -> Pattern {
        Pattern::Device(name.parse().unwrap())
    }

    fn prefix(text: &str) -> Pattern {
        Pattern::Prefix(text.to_owned())
    }

    fn table(rules: Vec<(Pattern, Dispatched)>) -> Result<Dispatch, DispatchError> {
        let partitions = ["a", "b", "c"].map(|name| name.parse().unwrap());
        Dispatch::new(7, rules, to("a"), &partitions)
    }

    fn partition(table: &Dispatch, name: &str) -> String {
        table.lookup(&name.parse().unwrap()).partition.to_string()
    }

    #[test]
    fn the_most_exact_rule_decides() {
        let rules =
            vec![(prefix("x"), to("b")), (prefix("x-1"), to("c")), (device("x-1"), to("a"))];
        let table = table(rules.clone()).unwrap();
        assert_eq!(partition(&table, "x-1"), "a");
        assert_eq!(partition(&table, "x-10"), "c");
        assert_eq!(partition(&table, "x-0"), "b");
        assert_eq!(partition(&table, "x"), "b");
        assert_eq!(partition(&table, "y"), "a");
        assert_eq!(table.generation(), 7);
        assert_eq!(table.with_generation(8).generation(), 8);
    }

    #[test]
    fn tells_what_is_wrong() {
        let twice = vec![(prefix("x"), to("b")), (prefix("x"), to("c"))];
        assert_eq!(
            table(twice).unwrap_err(),
            DispatchError::Twice("the rule for the prefix \"x\"".to_owned())
        );
        let twice = vec![(device("x"), to("b")), (device("x"), to("b"))];
        assert!(matches!(table(twice).unwrap_err(), DispatchError::Twice(_)));
        let unknown = table(vec![(device("x"), to("d"))]).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "the rule for the device x is for the partition \"d\", which there is not: name one of \
             a, b, c"
        );
        for wrong in ["", "a b", "ä", &"x".repeat(DEVICE_MAX + 1)] {
            let error = table(vec![(prefix(wrong), to("b"))]).unwrap_err();
            assert!(matches!(error, DispatchError::Prefix(_)), "{wrong:?}");
        }
        let none = Dispatch::new(1, Vec::new(), to("z"), &["a".parse().unwrap()]).unwrap_err();
        assert!(none.to_string().starts_with("the default is for the partition \"z\""), "{none}");
    }

    /// What the documentation says, word by word.
    fn naive<'a>(
        rules: &'a [(Pattern, Dispatched)],
        default: &'a Dispatched,
        name: &str,
    ) -> &'a Dispatched {
        let exact = rules
            .iter()
            .find(|(pattern, _)| matches!(pattern, Pattern::Device(d) if d.as_str() == name));
        let longest = rules
            .iter()
            .filter_map(|(pattern, to)| match pattern {
                Pattern::Prefix(prefix) if name.starts_with(prefix) => Some((prefix.len(), to)),
                _ => None,
            })
            .max_by_key(|&(length, _)| length);
        exact.map(|(_, to)| to).or_else(|| longest.map(|(_, to)| to)).unwrap_or(default)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn is_as_a_search_through_all_rules(
            devices in prop::collection::btree_set("[ab~!]{1,5}", 0..12),
            prefixes in prop::collection::btree_set("[ab~!]{1,5}", 0..30),
            names in prop::collection::vec("[ab~!]{1,7}", 1..40),
            seed in any::<u64>(),
        ) {
            let targets = |n: u64| to(["a", "b", "c"][(n % 3) as usize]);
            let of_prefixes = prefixes.iter().map(|p| prefix(p));
            let patterns = devices.iter().map(|d| device(d)).chain(of_prefixes);
            let mut rules: Vec<_> =
                patterns.enumerate().map(|(n, p)| (p, targets(seed >> (n % 50)))).collect();
            let sorted = rules.clone();
            let half = (seed % (rules.len() as u64 + 1)) as usize;
            rules.rotate_left(half);
            let table = table(rules.clone()).unwrap();
            let default = to("a");
            for name in names.iter().chain(&devices).chain(&prefixes) {
                let found = table.lookup(&name.parse().unwrap());
                prop_assert_eq!(found, naive(&rules, &default, name), "{}", name);
            }
            prop_assert_eq!(table.rules(), sorted);
        }
    }
}
