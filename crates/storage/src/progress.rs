//! How far something long is, for the log: a line for every tenth, if it is large enough to be waited for.

use tracing::info;

/// Less than this is read in no time.
const WORTH_TELLING_BYTES: u64 = 128 << 20;

/// Counts bytes of a known sum.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    tenths: u64,
}

impl Progress {
    /// Nothing done yet of `total` bytes.
    pub fn new(what: &'static str, total: u64) -> Self {
        Self { what, total, done: 0, tenths: 0 }
    }

    /// So many more are done; a line in the log if that is another tenth.
    pub fn add(&mut self, bytes: u64) {
        if let Some(percent) = self.another_tenth(bytes) {
            info!(percent, mib = self.total >> 20, "{}", self.what);
        }
    }

    fn another_tenth(&mut self, bytes: u64) -> Option<u64> {
        self.done += bytes;
        let tenths = (self.done * 10).checked_div(self.total)?.min(10);
        let is_told = self.total >= WORTH_TELLING_BYTES && tenths > self.tenths;
        self.tenths = self.tenths.max(tenths);
        is_told.then_some(tenths * 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenth_of_much_is_told_once_and_nothing_of_little() {
        let mut much = Progress::new("reading", 1000 << 20);
        let told: Vec<u64> = (0..1000).filter_map(|_| much.another_tenth(1 << 20)).collect();
        assert_eq!(told, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        let mut steps = Progress::new("reading", 200 << 20);
        assert_eq!(steps.another_tenth(110 << 20), Some(50));
        assert_eq!(steps.another_tenth(110 << 20), Some(100), "more than was expected is all of it");
        let mut little = Progress::new("reading", 1 << 20);
        assert_eq!(little.another_tenth(1 << 20), None);
        assert_eq!(Progress::new("reading", 0).another_tenth(1), None);
    }
}
