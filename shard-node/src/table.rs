//! What a table is: its name, its key, its indexes, and where it stands in its life. Kept in the cluster's meta group.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use trimaran_cluster::meta::Meta;
use trimaran_proto::state::shard as state;

use crate::error::Invalid;
use crate::item::{Item, Type, Value};
use crate::limits::{PARTITION_KEY_BYTES_MAX, SORT_KEY_BYTES_MAX, STREAM_KEPT};

mod history;
mod index;
mod stream;

pub use history::History;
pub use index::{Index, IndexStatus, Projection, StrongIndexes};
pub use stream::{Stream, StreamStatus, StreamView};

/// Definitions of tables have names that begin with this.
const PREFIX: &str = "table/";

/// An attribute of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAttribute {
    /// Its name.
    pub name: String,
    /// [`Type::S`], [`Type::N`] or [`Type::B`].
    pub kind: Type,
}

impl KeyAttribute {
    fn encode(&self) -> state::KeyAttribute {
        state::KeyAttribute { name: self.name.clone(), kind: u32::from(self.kind.tag()) }
    }

    fn decode(stored: state::KeyAttribute) -> Option<Self> {
        let kind = u8::try_from(stored.kind).ok().and_then(Type::from_tag)?;
        Some(Self { name: stored.name, kind })
    }
}

/// Where a table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It takes none yet; its partitions are being told.
    Creating,
    /// It takes requests.
    Active,
    /// It takes none; its partitions are being told.
    Deleting,
}

/// The most that a table or an index which is paid by request is to be asked, in capacity units per second; `None` = anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDemand {
    /// Reads.
    pub reads: Option<u64>,
    /// Writes.
    pub writes: Option<u64>,
}

impl OnDemand {
    /// From where 0 stands for anything.
    pub fn stored(reads: u64, writes: u64) -> Self {
        let some = |units: u64| Some(units).filter(|units| *units > 0);
        Self { reads: some(reads), writes: some(writes) }
    }

    /// True if something is said.
    pub fn is_limited(self) -> bool {
        self.reads.is_some() || self.writes.is_some()
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Never used twice, also not for a table of the same name.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// What items are spread by.
    pub partition_key: KeyAttribute,
    /// What items of one partition key are sorted by.
    pub sort_key: Option<KeyAttribute>,
    /// Where it stands.
    pub status: Status,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Reads and writes per second that it is provisioned for; `None` = it is paid by request. Only nodes that
    /// are told to keep it to that, see `trimaran_shard_node::config::Provisioned`.
    pub throughput: Option<(u64, u64)>,
    /// The most that it is to be asked if it is paid by request.
    pub on_demand: OnDemand,
    /// Refuses to be deleted.
    pub deletion_protection: bool,
    /// Secondary indexes, oldest first.
    pub indexes: Vec<Index>,
    /// The greatest number that one of them ever had.
    pub last_index: u32,
    /// The attribute that says when items expire, in seconds since 1970.
    pub ttl_attribute: Option<String>,
    /// Words of its owner.
    pub tags: BTreeMap<String, String>,
    /// Milliseconds since 1970; when it came to be paid by request, if not from its beginning on.
    pub on_demand_since_ms: Option<u64>,
    /// As its owner calls it; STANDARD if nobody has said.
    pub class: Option<String>,
    /// Streams of its changes, oldest first.
    pub streams: Vec<Stream>,
    /// The greatest number that one of them ever had.
    pub last_stream: u32,
    /// For how long its items can be read as they were, if that is so.
    pub history: Option<History>,
    /// Whether entries of its global indexes are written in one transaction with their items.
    pub strong_indexes: StrongIndexes,
    /// When that was changed last, milliseconds since 1970; 0 = never.
    pub strong_changed_ms: u64,
    /// Revision of this definition, to change it by.
    pub revision: u64,
}

impl Table {
    /// One without anything but items, to be defined.
    pub fn new(name: String, partition_key: KeyAttribute, sort_key: Option<KeyAttribute>) -> Self {
        Self {
            id: 0,
            name,
            partition_key,
            sort_key,
            status: Status::Active,
            created_ms: 0,
            throughput: None,
            on_demand: OnDemand::default(),
            deletion_protection: false,
            indexes: Vec::new(),
            last_index: 0,
            ttl_attribute: None,
            tags: BTreeMap::new(),
            on_demand_since_ms: None,
            class: None,
            streams: Vec::new(),
            last_stream: 0,
            history: None,
            strong_indexes: StrongIndexes::Off,
            strong_changed_ms: 0,
            revision: 0,
        }
    }

    /// The stream that changes are to go into.
    pub fn live_stream(&self) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.goes_on())
    }

    /// Begins a stream. What has ended long ago is forgotten.
    pub fn begin_stream(&mut self, view: StreamView, now_ms: u64) {
        // A day.
        let kept_ms = STREAM_KEPT.as_millis() as u64;
        self.streams.retain(|stream| stream.ended_ms.is_none_or(|ended| ended + kept_ms > now_ms));
        self.last_stream += 1;
        // Streams are told apart by it.
        let created_ms = self.streams.last().map_or(now_ms, |last| now_ms.max(last.created_ms + 1));
        self.streams.push(Stream {
            number: self.last_stream,
            created_ms,
            view,
            status: StreamStatus::Enabling,
            ended_ms: None,
        });
    }

    /// Name of its definition.
    pub fn definition_name(name: &str) -> String {
        format!("{PREFIX}{name}")
    }

    /// What its definition says.
    pub fn encode(&self) -> Bytes {
        let (read_units, write_units) = self.throughput.unwrap_or_default();
        let tag = |(key, value): (&String, &String)| state::Tag { key: key.clone(), value: value.clone() };
        let stored = state::Table {
            id: self.id,
            name: self.name.clone(),
            partition_key: Some(self.partition_key.encode()),
            sort_key: self.sort_key.as_ref().map(KeyAttribute::encode),
            deleting: self.status == Status::Deleting,
            created_ms: self.created_ms,
            read_units,
            write_units,
            deletion_protection: self.deletion_protection,
            creating: self.status == Status::Creating,
            indexes: self.indexes.iter().map(Index::encode).collect(),
            last_index: self.last_index,
            ttl_attribute: self.ttl_attribute.clone().unwrap_or_default(),
            tags: self.tags.iter().map(tag).collect(),
            on_demand_since_ms: self.on_demand_since_ms.unwrap_or_default(),
            class: self.class.clone().unwrap_or_default(),
            streams: self.streams.iter().map(Stream::encode).collect(),
            last_stream: self.last_stream,
            history: self.history.as_ref().map(History::encode),
            strong_indexes: self.strong_indexes.encode().into(),
            strong_changed_ms: self.strong_changed_ms,
            max_read_units: self.on_demand.reads.unwrap_or_default(),
            max_write_units: self.on_demand.writes.unwrap_or_default(),
        };
        stored.encode_to_vec().into()
    }

    /// From its definition, which has this revision.
    pub fn decode(stored: Bytes, revision: u64) -> Option<Self> {
        let stored = state::Table::decode(stored).ok()?;
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let strong_indexes = StrongIndexes::decode(stored.strong_indexes());
        Some(Self {
            // The definition that made the table could not know its own revision.
            id: if stored.id == 0 { revision } else { stored.id },
            name: stored.name,
            partition_key: KeyAttribute::decode(stored.partition_key?)?,
            sort_key: match stored.sort_key {
                Some(sort_key) => Some(KeyAttribute::decode(sort_key)?),
                None => None,
            },
            status: match (stored.deleting, stored.creating) {
                (true, _) => Status::Deleting,
                (false, true) => Status::Creating,
                (false, false) => Status::Active,
            },
            created_ms: stored.created_ms,
            throughput: (stored.read_units > 0).then_some((stored.read_units, stored.write_units)),
            on_demand: OnDemand::stored(stored.max_read_units, stored.max_write_units),
            deletion_protection: stored.deletion_protection,
            indexes: stored.indexes.into_iter().map(Index::decode).collect::<Option<_>>()?,
            last_index: stored.last_index,
            ttl_attribute: text(stored.ttl_attribute),
            tags: stored.tags.into_iter().map(|tag| (tag.key, tag.value)).collect(),
            on_demand_since_ms: Some(stored.on_demand_since_ms).filter(|since| *since > 0),
            class: text(stored.class),
            streams: stored.streams.into_iter().map(Stream::decode).collect(),
            strong_indexes,
            strong_changed_ms: stored.strong_changed_ms,
            last_stream: stored.last_stream,
            history: stored.history.map(History::decode),
            revision,
        })
    }

    /// The index of a name that takes queries, or is about to.
    pub fn index(&self, name: &str) -> Option<&Index> {
        self.indexes.iter().find(|index| index.name == name)
    }

    /// Checks what an item has of the keys of indexes: what is there must fit; what is absent keeps it out of the index.
    pub fn check_index_keys(&self, item: &Item) -> Result<(), Invalid> {
        self.indexes
            .iter()
            .filter(|index| index.status != IndexStatus::Deleting)
            .try_for_each(|index| index.check(item))
    }

    /// Every attribute that is part of the table's key or of an index's, once.
    pub fn defined_attributes(&self) -> Vec<&KeyAttribute> {
        let mut found: Vec<&KeyAttribute> = Vec::new();
        let indexed = self.indexes.iter().flat_map(Index::key_attributes);
        for attribute in self.key_attributes().chain(indexed) {
            if !found.iter().any(|known| known.name == attribute.name) {
                found.push(attribute);
            }
        }
        found
    }

    /// The key attributes, partition key first.
    pub fn key_attributes(&self) -> impl Iterator<Item = &KeyAttribute> {
        std::iter::once(&self.partition_key).chain(&self.sort_key)
    }

    /// The key of an item that is to be put. The item may have other attributes.
    pub fn key_of(&self, item: &Item) -> Result<Item, Invalid> {
        let mut key = Item::new();
        for attribute in self.key_attributes() {
            let name = &attribute.name;
            let value = item.get(name).ok_or_else(|| {
                Invalid::new(format!(
                    "One or more parameter values were invalid: Missing the key {name} in the item"
                ))
            })?;
            if value.kind() != attribute.kind {
                return Err(Invalid::new(format!(
                    "One or more parameter values were invalid: Type mismatch for key {name} expected: {} actual: {}",
                    attribute.kind.name(),
                    value.kind().name()
                )));
            }
            key.insert(name.clone(), value.clone());
        }
        self.check_key_values(&key)?;
        Ok(key)
    }

    /// Checks that these attributes are the key and nothing else.
    pub fn check_key(&self, key: &Item) -> Result<(), Invalid> {
        let matches = self
            .key_attributes()
            .all(|attribute| key.get(&attribute.name).is_some_and(|value| value.kind() == attribute.kind));
        if !matches || key.len() != self.key_attributes().count() {
            return Err(Invalid::new("The provided key element does not match the schema"));
        }
        self.check_key_values(key)
    }

    fn check_key_values(&self, key: &Item) -> Result<(), Invalid> {
        let limits = [PARTITION_KEY_BYTES_MAX, SORT_KEY_BYTES_MAX];
        for (attribute, (max, range)) in self
            .key_attributes()
            .zip(limits.into_iter().zip(["hashkey", "aggregated size of all range keys"]))
        {
            let size = match key.get(&attribute.name) {
                Some(Value::S(text)) => text.len(),
                Some(Value::B(bytes)) => bytes.len(),
                _ => continue,
            };
            let invalid = |what: String| {
                Err(Invalid::new(format!("One or more parameter values were invalid: {what}")))
            };
            if size == 0 {
                let kind = if attribute.kind == Type::S { "string" } else { "binary" };
                return Err(Invalid::new(format!(
                    "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain \
                     an empty {kind} value. Key: {}",
                    attribute.name
                )));
            }
            if size > max {
                return if max == PARTITION_KEY_BYTES_MAX {
                    invalid(format!("Size of {range} has exceeded the maximum size limit of{max} bytes"))
                } else {
                    invalid(format!(
                        "Aggregated size of all range keys has exceeded the size limit of {max} bytes"
                    ))
                };
            }
        }
        Ok(())
    }
}

/// All tables of a cluster, by name.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    by_name: BTreeMap<String, Table>,
}

impl FromIterator<Table> for Tables {
    fn from_iter<I: IntoIterator<Item = Table>>(tables: I) -> Self {
        Self { by_name: tables.into_iter().map(|table| (table.name.clone(), table)).collect() }
    }
}

impl Tables {
    /// Those that the agreed state defines.
    pub fn of(meta: &Meta) -> Self {
        let definitions = meta.definitions.range(PREFIX.to_owned()..);
        let tables =
            definitions.take_while(|(name, _)| name.starts_with(PREFIX)).filter_map(|(name, definition)| {
                let table = Table::decode(definition.value.clone(), definition.revision);
                if table.is_none() {
                    tracing::error!(
                        name,
                        "the definition of a table cannot be read; is this release too old?"
                    );
                }
                table
            });
        tables.collect()
    }

    /// The table of a name.
    pub fn get(&self, name: &str) -> Option<&Table> {
        self.by_name.get(name)
    }

    /// All of them, in the order of their names.
    pub fn all(&self) -> impl Iterator<Item = &Table> {
        self.by_name.values()
    }

    /// Number of tables.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Names behind `after`, at most `limit`, and whether there are more.
    pub fn names_after(&self, after: Option<&str>, limit: usize) -> (Vec<String>, bool) {
        let behind = self.by_name.keys().filter(|name| after.is_none_or(|after| name.as_str() > after));
        let mut names: Vec<String> = behind.take(limit + 1).cloned().collect();
        let more = names.len() > limit;
        names.truncate(limit);
        (names, more)
    }
}
