//! What programs that run unattended have in common: a control socket on which they take commands,
//! and figures that they tell by HTTP.
//!
//! * `claim`: the control socket; `asked`: its other end. One line of JSON each way.
//! * `scrape`: the figures, in the text format of Prometheus.

pub(crate) mod asked;
pub(crate) mod claim;
pub(crate) mod scrape;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many may be in at a time.
#[derive(Debug, Clone)]
struct Places {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// One of them.
#[derive(Debug)]
struct Taken(Arc<AtomicUsize>);

impl Places {
    fn new(most: usize) -> Self {
        Self { taken: Arc::new(AtomicUsize::new(0)), most }
    }

    fn take(&self) -> Option<Taken> {
        let next = |taken| (taken < self.most).then_some(taken + 1);
        let order = Ordering::AcqRel;
        self.taken.fetch_update(order, Ordering::Acquire, next).ok()?;
        Some(Taken(Arc::clone(&self.taken)))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let places = Places::new(2);
        let one = places.take();
        let two = places.take();
        assert!(one.is_some() && two.is_some() && places.take().is_none());
        drop(one);
        assert!(places.take().is_some());
    }
}
