//! A group's own time, which only passes: for what must last as long as was said, whoever leads.
//!
//! Stamps come from leaders' clocks, and tell the time of day. A leader's clock is believed when its process begins and may be an hour
//! ahead of the one before: by its stamps an hour passes in a moment, and what was to last for ten minutes is over. So leaders also
//! count how long they lead, and say so in each entry: the group's time goes on from there under the next one. It stands still while
//! nobody leads, and is of no use to tell the time of day.

/// What a replica counts while it leads.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    term: u64,
    began_ms: u64,
    before_ms: u64,
}

impl Passing {
    /// The group's time, for one that leads in a term, by its own clock, which never jumps; `applied_ms` is how far entries that are
    /// applied here have counted.
    pub(crate) fn at(&mut self, term: u64, now_ms: u64, applied_ms: u64) -> u64 {
        if self.term != term {
            *self = Self { term, began_ms: now_ms, before_ms: applied_ms };
        }
        (self.before_ms + now_ms.saturating_sub(self.began_ms)).max(applied_ms)
    }
}

/// What an entry without a time of its own, of a leader of an older release, counts for at most: its stamp may have jumped.
const UNCOUNTED_MS: u64 = 1000;

/// The group's time after such an entry, by the stamps of the entry before and of its own.
pub(crate) fn uncounted(passed_ms: u64, stamp_before_ms: u64, stamp_ms: u64) -> u64 {
    passed_ms + stamp_ms.saturating_sub(stamp_before_ms).min(UNCOUNTED_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_passes_as_leaders_count_whatever_their_clocks_show() {
        const HOUR: u64 = 3_600_000;
        let mut first = Passing::default();
        assert_eq!(first.at(1, 100 * HOUR, 0), 0);
        assert_eq!(first.at(1, 100 * HOUR + 500, 0), 500);
        // An hour ahead, and one behind.
        let mut second = Passing::default();
        assert_eq!(second.at(2, 101 * HOUR, 500), 500);
        assert_eq!(second.at(2, 101 * HOUR + 70, 500), 570);
        let mut third = Passing::default();
        assert_eq!(third.at(3, 99 * HOUR, 570), 570);
        // The first one leads again: what has passed meanwhile was counted by others.
        assert_eq!(first.at(4, 102 * HOUR, 600), 600);
        assert_eq!(first.at(4, 102 * HOUR + 1, 600), 601);
        // It had not applied everything when it began.
        assert_eq!(first.at(4, 102 * HOUR + 2, 700), 700);
        assert_eq!((uncounted(7, 50, 60), uncounted(7, 50, 50 + HOUR), uncounted(7, 50, 40)), (17, 1007, 7));
    }
}
