//! How much there is of a table, as its partitions count it.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// What an item counts for in its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Items.
    pub items: u64,
    /// Bytes that they count for.
    pub bytes: u64,
}

/// Counts of a table: what they are, or about as much, after a split and before somebody has counted. In between more
/// may be removed than was thought to be there, so that they wrap around; the correction brings them back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) stats: Stats,
    pub(super) is_estimated: bool,
}

impl Counts {
    pub(super) fn add(&mut self, items: i64, bytes: i64) {
        self.stats.items = self.stats.items.wrapping_add_signed(items);
        self.stats.bytes = self.stats.bytes.wrapping_add_signed(bytes);
    }

    /// For people.
    pub(super) fn told(self) -> Stats {
        let told = |count: u64| u64::try_from(count.cast_signed()).unwrap_or(0);
        Stats { items: told(self.stats.items), bytes: told(self.stats.bytes) }
    }

    pub(super) fn encode(self) -> Bytes {
        let mut value = BytesMut::with_capacity(17);
        value.put_u64(self.stats.items);
        value.put_u64(self.stats.bytes);
        value.put_u8(u8::from(self.is_estimated));
        value.freeze()
    }

    pub(super) fn decode(mut value: Bytes) -> Option<Self> {
        let stats = Stats { items: value.try_get_u64().ok()?, bytes: value.try_get_u64().ok()? };
        // Absent in what the first release wrote.
        Some(Self { stats, is_estimated: value.try_get_u8().is_ok_and(|flag| flag != 0) })
    }

    /// About what a part of the range has of it.
    pub(super) fn share(self, share: f64) -> Self {
        let part = |count: u64| (count as f64 * share) as u64;
        let whole = self.told();
        Self { stats: Stats { items: part(whole.items), bytes: part(whole.bytes) }, is_estimated: true }
    }
}
