//! From which size on a value is laid out for speed instead of for size.

use trimaran_proto::state::grid;

/// The options of redis.conf with their names and defaults. They come with each command, so that every replica lays a
/// value out alike.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "redis.conf describes them under these names")]
pub struct Encodings {
    pub hash_max_listpack_entries: usize,
    pub hash_max_listpack_value: usize,
    pub set_max_intset_entries: usize,
    pub set_max_listpack_entries: usize,
    pub set_max_listpack_value: usize,
    pub zset_max_listpack_entries: usize,
    pub zset_max_listpack_value: usize,
    pub list_max_listpack_size: i64,
    pub stream_node_max_entries: usize,
}

impl Default for Encodings {
    fn default() -> Self {
        Self {
            hash_max_listpack_entries: 128,
            hash_max_listpack_value: 64,
            set_max_intset_entries: 512,
            set_max_listpack_entries: 128,
            set_max_listpack_value: 64,
            zset_max_listpack_entries: 128,
            zset_max_listpack_value: 64,
            list_max_listpack_size: -2,
            stream_node_max_entries: 100,
        }
    }
}

impl From<&grid::Encodings> for Encodings {
    fn from(sent: &grid::Encodings) -> Self {
        let default = Self::default();
        let or = |sent: Option<u64>, default: usize| {
            sent.map_or(default, |sent| usize::try_from(sent).unwrap_or(usize::MAX))
        };
        Self {
            hash_max_listpack_entries: or(sent.hash_max_listpack_entries, default.hash_max_listpack_entries),
            hash_max_listpack_value: or(sent.hash_max_listpack_value, default.hash_max_listpack_value),
            set_max_intset_entries: or(sent.set_max_intset_entries, default.set_max_intset_entries),
            set_max_listpack_entries: or(sent.set_max_listpack_entries, default.set_max_listpack_entries),
            set_max_listpack_value: or(sent.set_max_listpack_value, default.set_max_listpack_value),
            zset_max_listpack_entries: or(sent.zset_max_listpack_entries, default.zset_max_listpack_entries),
            zset_max_listpack_value: or(sent.zset_max_listpack_value, default.zset_max_listpack_value),
            list_max_listpack_size: sent.list_max_listpack_size.unwrap_or(default.list_max_listpack_size),
            stream_node_max_entries: or(sent.stream_node_max_entries, default.stream_node_max_entries),
        }
    }
}
