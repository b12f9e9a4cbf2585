//! Token buckets: how much may be asked, at a node, of what all nodes have a share in.

use std::time::Duration;

/// The share of a node that nobody asks is such a part of what it would have if all were asked alike.
const IDLE_SHARE: f64 = 0.25;

/// What may still be asked: it comes back with time. Units are the caller's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Less than none after more than there was: that is waited for afterwards.
    left: f64,
    /// Milliseconds since 1970, when it was looked at last.
    at_ms: Option<u64>,
    /// Per second, at this node.
    rate: f64,
    /// How long what nobody asks for is saved up, seconds.
    saved: f64,
}

impl Bucket {
    /// One that has a second's worth, and saves up what is not asked for as long as that.
    pub fn new(rate: f64, saved: Duration) -> Self {
        Self { left: rate.max(1.0), at_ms: None, rate, saved: saved.as_secs_f64() }
    }

    /// What comes back from now on, per second.
    pub fn set_rate(&mut self, rate: f64) {
        self.rate = rate;
    }

    /// As much as there can be.
    fn most(&self) -> f64 {
        (self.rate * self.saved).max(1.0)
    }

    fn fill(&mut self, now_ms: u64) {
        let passed = self.at_ms.map_or(0, |at_ms| now_ms.saturating_sub(at_ms)) as f64 / 1000.0;
        self.left = (self.left + passed * self.rate).min(self.most());
        self.at_ms = Some(self.at_ms.map_or(now_ms, |at_ms| now_ms.max(at_ms)));
    }

    /// Takes so much out; false, and nothing is taken, if there is not enough. More than there can be at all is as good as that.
    pub fn take(&mut self, count: u64, now_ms: u64) -> bool {
        self.fill(now_ms);
        let is_enough = self.left >= (count as f64).min(self.most());
        if is_enough {
            self.left -= count as f64;
        }
        is_enough
    }

    /// False while more was asked than there was: for what is known to cost something, but not yet how much.
    pub fn has_some(&mut self, now_ms: u64) -> bool {
        self.fill(now_ms);
        self.left > 0.0
    }

    /// Takes out what something cost.
    pub fn charge(&mut self, units: f64, now_ms: u64) {
        self.fill(now_ms);
        self.left -= units;
    }
}

/// The part of what all nodes may be asked that is this one's, which was asked `own` of the `total`: they all have the same sum in
/// view, so that these add up to `rate`.
pub fn share(rate: u64, own: u64, total: u64, nodes: u32) -> f64 {
    let (rate, nodes) = (rate as f64, f64::from(nodes.max(1)));
    let idle = rate * IDLE_SHARE;
    // It was counted at another moment than the sum.
    let own = own.min(total) as f64;
    rate * (own + idle / nodes) / (total as f64 + idle).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_share_what_all_may_do_by_what_they_are_asked() {
        for asked in [[0, 0, 0], [900, 0, 0], [5000, 100, 20], [1, 1, 1]] {
            let total: u64 = asked.iter().sum();
            let shares = asked.map(|own| share(1000, own, total, 3));
            let sum: f64 = shares.iter().sum();
            assert!((sum - 1000.0).abs() < 1.0, "{shares:?}");
            assert!(shares.iter().all(|share| *share > 0.0), "{shares:?}");
        }
        assert!(share(1000, 900, 900, 3) > 800.0);
    }

    #[test]
    fn what_is_not_asked_for_is_saved_up_for_so_long() {
        let mut bucket = Bucket::new(10.0, Duration::from_secs(300));
        assert!(bucket.take(10, 1_000));
        assert!(!bucket.take(1, 1_000), "it begins with a second's worth");
        assert!(bucket.take(500, 51_000));
        let later = 51_000 + 1_000_000;
        assert!(bucket.take(3000, later));
        assert!(!bucket.take(1, later), "no more than five minutes' worth");
    }

    #[test]
    fn what_cost_more_than_there_was_is_waited_for() {
        let mut bucket = Bucket::new(5.0, Duration::from_secs(300));
        assert!(bucket.has_some(0));
        bucket.charge(400.0, 0);
        assert!(!bucket.has_some(78_900));
        assert!(bucket.has_some(79_100));
        // A clock that goes back gives nothing.
        bucket.charge(1.0, 79_200);
        assert!(!bucket.has_some(10_000));
        assert!(!bucket.has_some(79_200));
        assert!(bucket.has_some(79_400));
    }
}
