//! Whose rows are whose: the first eight bytes of a row name the items of a table, one of its indexes, or what the
//! database itself keeps beside a table's items. Fixed for ever.
//!
//! All of them stand by tokens, so a split, a merge, a move and a snapshot take them along as they take items: what waits
//! for an index is never parted from the item that it follows from, nor a transaction's intent from the item it holds.

/// Bits of a table's id, which is a revision of the meta group.
const TABLE_BITS: u32 = 40;

/// Bits of the number of an index.
const NUMBER_BITS: u32 = 16;

/// What rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Items.
    Items,
    /// Entries of a secondary index.
    Index,
    /// Changes that wait to be written to global secondary indexes, in the order of versions, beside the items.
    Waiting,
    /// Entries that a global secondary index does not have any more, for as long as older word of them may come.
    Removed,
    /// Intents of transactions, beside the items.
    Intents,
    /// Records of transactions, of no table.
    Records,
    /// Shards of a stream of a table, each at the first of its tokens.
    Shards,
    /// Changes in those, where their shard is, in the order of versions.
    Changes,
    /// What items were, beside them.
    Past,
}

const KINDS: [Kind; 9] = [
    Kind::Items,
    Kind::Index,
    Kind::Waiting,
    Kind::Removed,
    Kind::Intents,
    Kind::Records,
    Kind::Shards,
    Kind::Changes,
    Kind::Past,
];

impl Kind {
    fn tag(self) -> u64 {
        match self {
            Self::Items => 0,
            Self::Index => 1,
            Self::Waiting => 2,
            Self::Removed => 3,
            Self::Intents => 4,
            Self::Records => 5,
            Self::Shards => 6,
            Self::Changes => 7,
            Self::Past => 8,
        }
    }

    /// The rows of this kind; `number` is that of an index, of a stream, or of what is kept of the past, else 0.
    pub fn of(self, table: u64, number: u32) -> u64 {
        (self.tag() << (TABLE_BITS + NUMBER_BITS)) | (u64::from(number) << TABLE_BITS) | table
    }
}

/// The kind of a row, by its first eight bytes.
pub fn kind(keyspace: u64) -> Option<Kind> {
    KINDS.into_iter().find(|kind| kind.tag() == keyspace >> (TABLE_BITS + NUMBER_BITS))
}

/// The table that rows belong to; 0 = none.
pub fn table(keyspace: u64) -> u64 {
    keyspace & ((1 << TABLE_BITS) - 1)
}

/// The number of the index, of the stream, or of what is kept of the past, if they belong to one.
pub fn number(keyspace: u64) -> u32 {
    // Sixteen bits.
    ((keyspace >> TABLE_BITS) & ((1 << NUMBER_BITS) - 1)) as u32
}

/// A row of another kind that stands where this one does and has the same key.
pub fn beside(row: &[u8], keyspace: u64) -> bytes::Bytes {
    let mut beside = keyspace.to_be_bytes().to_vec();
    beside.extend_from_slice(row.get(8..).unwrap_or_default());
    beside.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_version_1() {
        assert_eq!(Kind::Items.of(7, 0), 7);
        assert_eq!(Kind::Index.of(7, 3), 0x0100_0300_0000_0007);
        for of in KINDS {
            let keyspace = of.of(12, 5);
            assert_eq!((kind(keyspace), table(keyspace), number(keyspace)), (Some(of), 12, 5));
        }
        assert_eq!(kind(u64::MAX), None);
    }
}
