//! What was acknowledged, and what must follow from it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eversock_spool::RequestId;

use crate::roles::Effect;

#[derive(Debug, Clone)]
struct Told {
    key: Vec<u8>,
    asked: Instant,
    acknowledged: Option<Instant>,
    spooled: bool,
}

/// What senders know; shared by all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Oracle(Arc<Mutex<HashMap<u128, Told>>>);

/// What a run was made of.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) acknowledged: usize,
    pub(crate) spooled: usize,
    effects: usize,
    ordered: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, spooled, effects, ordered } = self;
        write!(
            f,
            "{acknowledged} writes acknowledged, {spooled} of them from the spool; {effects} \
             effects; {ordered} pairs of writes in order"
        )
    }
}

impl Oracle {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn asked(&self, id: RequestId, key: &[u8]) {
        let told =
            Told { key: key.to_vec(), asked: Instant::now(), acknowledged: None, spooled: false };
        self.0.lock().unwrap().insert(id.0, told);
    }

    pub(crate) fn acknowledged(&self, id: RequestId, spooled: bool) {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap();
        let told = all.get_mut(&id.0).unwrap();
        told.acknowledged = Some(now);
        told.spooled = spooled;
    }

    fn count(&self) -> usize {
        let all = self.0.lock().unwrap();
        all.values().filter(|told| told.acknowledged.is_some()).count()
    }

    /// Waits until so many more writes are acknowledged.
    pub(crate) fn await_more(&self, more: usize) {
        let target = self.count() + more;
        let end = Instant::now() + Duration::from_secs(120);
        while self.count() < target {
            assert!(Instant::now() < end, "writes are not acknowledged any more");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Each acknowledged write took effect once, none took effect twice, and what was acknowledged
    /// before another was asked for comes before it.
    pub(crate) fn check(&self, effects: &[Effect]) -> Counts {
        let all = self.0.lock().unwrap();
        let mut places: HashMap<u128, usize> = HashMap::new();
        for (place, effect) in effects.iter().enumerate() {
            let told = all.get(&effect.id).expect("an effect of what somebody asked for");
            assert_eq!(told.key, effect.key);
            let before = places.insert(effect.id, place);
            assert!(before.is_none(), "{:x} took effect twice", effect.id);
        }
        let mut counts = Counts { acknowledged: 0, spooled: 0, effects: effects.len(), ordered: 0 };
        let mut by_key: HashMap<&[u8], Vec<(usize, &Told)>> = HashMap::new();
        for (id, told) in all.iter().filter(|(_, told)| told.acknowledged.is_some()) {
            counts.acknowledged += 1;
            counts.spooled += usize::from(told.spooled);
            let place = places.get(id);
            let place = *place.unwrap_or_else(|| panic!("{id:x} was acknowledged and is lost"));
            by_key.entry(&told.key).or_default().push((place, told));
        }
        for writes in by_key.values_mut() {
            // In the order of their effects no write may have been acknowledged before an earlier
            // one was asked for: compare with the latest question so far.
            writes.sort_by_key(|(place, _)| *place);
            let mut latest_asked: Option<Instant> = None;
            for (place, told) in writes.iter() {
                if let (Some(asked), Some(acknowledged)) = (latest_asked, told.acknowledged) {
                    assert!(
                        acknowledged > asked,
                        "effect {place} comes after one that was asked for later"
                    );
                    counts.ordered += 1;
                }
                latest_asked = latest_asked.max(Some(told.asked));
            }
        }
        counts
    }
}
