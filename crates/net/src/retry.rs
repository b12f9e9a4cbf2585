//! Waiting between attempts: exponential, with full jitter, so that many clients do not come back at once.
//!
//! Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

use rand::Rng;

/// First upper bound of a wait.
const FIRST: Duration = Duration::from_millis(10);

/// Largest upper bound of a wait.
const LAST: Duration = Duration::from_millis(500);

/// Counts attempts and says how long to wait before the next.
#[derive(Debug, Default)]
pub struct Backoff {
    attempt: u32,
}

impl Backoff {
    /// How long to wait now: between a quarter and the whole of a bound that doubles with each attempt.
    pub fn next(&mut self, random: &mut impl Rng) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.attempt.min(10)).min(LAST);
        self.attempt += 1;
        let least = bound / 4;
        least + (bound - least).mul_f64(random.random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        let mut random = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        for attempt in 0..40 {
            let wait = backoff.next(&mut random);
            assert!(wait <= LAST, "attempt {attempt}: {wait:?}");
            assert!(wait >= FIRST / 4, "attempt {attempt}: {wait:?}");
        }
    }
}
