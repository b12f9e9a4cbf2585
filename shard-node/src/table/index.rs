//! Secondary indexes: the items of a table in another order, or only those that have an attribute.

use trimaran_proto::state::shard as state;

use super::{KeyAttribute, OnDemand, Table};
use crate::error::{Error, Invalid};
use crate::item::{Item, Type, Value};
use crate::keyspace::Kind;
use crate::limits::{PARTITION_KEY_BYTES_MAX, RECORDS_KEPT, SORT_KEY_BYTES_MAX};

/// A secondary index of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Unique within the table.
    pub name: String,
    /// From 1, and never that of another index of the table, also not of one that is gone.
    pub number: u32,
    /// Local: of the table's partition key, in the same partition, as new as the item. Global: of any key, anywhere, soon.
    pub local: bool,
    /// What its entries are spread by.
    pub partition_key: KeyAttribute,
    /// What entries of one partition key are sorted by.
    pub sort_key: Option<KeyAttribute>,
    /// What its entries have of the items.
    pub projection: Projection,
    /// Where it stands.
    pub status: IndexStatus,
    /// Of one that is being made: items of tokens below this one are in it.
    pub filled_below: Option<u64>,
    /// As the table's.
    pub throughput: Option<(u64, u64)>,
    /// As the table's.
    pub on_demand: OnDemand,
}

/// What the entries of an index have of the items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Projection {
    /// Everything.
    All,
    /// The keys of table and index.
    KeysOnly,
    /// The keys, and attributes of these names.
    Include(Vec<String>),
}

/// Where an index stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexStatus {
    /// It takes queries.
    Active,
    /// The items that were there before it are being entered.
    Creating,
    /// It is about to be gone.
    Deleting,
}

/// Whether entries of global indexes are written in one transaction with their items, so that whoever asks an index misses nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StrongIndexes {
    /// They follow.
    #[default]
    Off,
    /// The partitions are being told to, and what follows yet is waited for.
    Enabling,
    /// They are.
    On,
    /// The partitions are being told that they need not be.
    Disabling,
}

impl StrongIndexes {
    /// Whether partitions that know of it are to let nothing else pass.
    pub fn is_wanted(self) -> bool {
        matches!(self, Self::Enabling | Self::On)
    }

    /// Whether the partitions are being told something.
    pub fn is_underway(self) -> bool {
        matches!(self, Self::Enabling | Self::Disabling)
    }

    pub(super) fn encode(self) -> state::StrongIndexes {
        match self {
            Self::Off => state::StrongIndexes::Off,
            Self::Enabling => state::StrongIndexes::Enabling,
            Self::On => state::StrongIndexes::On,
            Self::Disabling => state::StrongIndexes::Disabling,
        }
    }

    pub(super) fn decode(stored: state::StrongIndexes) -> Self {
        match stored {
            state::StrongIndexes::Off => Self::Off,
            state::StrongIndexes::Enabling => Self::Enabling,
            state::StrongIndexes::On => Self::On,
            state::StrongIndexes::Disabling => Self::Disabling,
        }
    }
}

impl Table {
    /// Has entries of global indexes written in one transaction with their items, or no more.
    ///
    /// Errors: [`Error::TableInUse`] while the partitions are being told something else.
    pub fn set_strong_indexes(&mut self, strong: bool, now_ms: u64) -> Result<(), Error> {
        self.strong_indexes = match (self.strong_indexes, strong) {
            (StrongIndexes::Off, true) => StrongIndexes::Enabling,
            (StrongIndexes::On, false) => StrongIndexes::Disabling,
            (StrongIndexes::Off, false) | (StrongIndexes::On, true) => return Ok(()),
            (StrongIndexes::Enabling | StrongIndexes::Disabling, _) => {
                return Err(Error::TableInUse(format!(
                    "Attempt to change a resource which is still in use: indexes of table {} become strong, or end to be",
                    self.name
                )));
            }
        };
        self.strong_changed_ms = now_ms;
        Ok(())
    }

    /// Whether a request that is sent again may have been carried out before that was changed.
    pub fn has_changed_strength(&self, now_ms: u64) -> bool {
        // Minutes.
        let kept_ms = RECORDS_KEPT.as_millis() as u64;
        self.strong_changed_ms > 0 && now_ms < self.strong_changed_ms + kept_ms
    }
}

impl Index {
    /// Whether a change of some attributes may change what its entries are.
    pub fn has_any<'a>(&self, table: &Table, mut names: impl Iterator<Item = &'a str>) -> bool {
        self.projected(table).is_none_or(|projected| names.any(|name| projected.contains(&name)))
    }

    pub(super) fn encode(&self) -> state::Index {
        let (read_units, write_units) = self.throughput.unwrap_or_default();
        state::Index {
            name: self.name.clone(),
            number: self.number,
            local: self.local,
            partition_key: Some(self.partition_key.encode()),
            sort_key: self.sort_key.as_ref().map(KeyAttribute::encode),
            projection: match self.projection {
                Projection::All => state::Projection::All,
                Projection::KeysOnly => state::Projection::KeysOnly,
                Projection::Include(_) => state::Projection::Include,
            }
            .into(),
            attributes: match &self.projection {
                Projection::Include(names) => names.clone(),
                Projection::All | Projection::KeysOnly => Vec::new(),
            },
            state: match self.status {
                IndexStatus::Active => state::IndexState::Active,
                IndexStatus::Creating => state::IndexState::Creating,
                IndexStatus::Deleting => state::IndexState::Deleting,
            }
            .into(),
            filled_below: self.filled_below,
            read_units,
            write_units,
            max_read_units: self.on_demand.reads.unwrap_or_default(),
            max_write_units: self.on_demand.writes.unwrap_or_default(),
        }
    }

    pub(super) fn decode(stored: state::Index) -> Option<Self> {
        let projection = match stored.projection() {
            state::Projection::All => Projection::All,
            state::Projection::KeysOnly => Projection::KeysOnly,
            state::Projection::Include => Projection::Include(stored.attributes.clone()),
        };
        let status = match stored.state() {
            state::IndexState::Active => IndexStatus::Active,
            state::IndexState::Creating => IndexStatus::Creating,
            state::IndexState::Deleting => IndexStatus::Deleting,
        };
        Some(Self {
            name: stored.name,
            number: stored.number,
            local: stored.local,
            partition_key: KeyAttribute::decode(stored.partition_key?)?,
            sort_key: match stored.sort_key {
                Some(sort_key) => Some(KeyAttribute::decode(sort_key)?),
                None => None,
            },
            projection,
            status,
            filled_below: stored.filled_below,
            throughput: (stored.read_units > 0).then_some((stored.read_units, stored.write_units)),
            on_demand: OnDemand::stored(stored.max_read_units, stored.max_write_units),
        })
    }

    /// The first eight bytes of its rows.
    pub fn keyspace(&self, table: u64) -> u64 {
        Kind::Index.of(table, self.number)
    }

    /// Its own key attributes, partition key first.
    pub fn key_attributes(&self) -> impl Iterator<Item = &KeyAttribute> {
        std::iter::once(&self.partition_key).chain(&self.sort_key)
    }

    /// What an entry has of an item.
    pub fn project(&self, table: &Table, item: &Item) -> Item {
        let Some(names) = self.projected(table) else { return item.clone() };
        let pairs = names.into_iter().filter_map(|name| item.get_key_value(name));
        pairs.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Names of the attributes that its entries have; `None` = all.
    pub fn projected<'a>(&'a self, table: &'a Table) -> Option<Vec<&'a str>> {
        let more: &[String] = match &self.projection {
            Projection::All => return None,
            Projection::KeysOnly => &[],
            Projection::Include(names) => names,
        };
        let keys = self.key_attributes().chain(table.key_attributes()).map(|key| key.name.as_str());
        Some(keys.chain(more.iter().map(String::as_str)).collect())
    }

    /// Checks what an item has of this index's key.
    pub(super) fn check(&self, item: &Item) -> Result<(), Invalid> {
        let limits = [PARTITION_KEY_BYTES_MAX, SORT_KEY_BYTES_MAX];
        for (attribute, max) in self.key_attributes().zip(limits) {
            let Some(value) = item.get(&attribute.name) else { continue };
            if value.kind() != attribute.kind {
                return Err(Invalid::new(format!(
                    "One or more parameter values were invalid: Type mismatch for Index Key {} Expected: {} Actual: {} \
                     IndexName: {}",
                    attribute.name,
                    attribute.kind.name(),
                    value.kind().name(),
                    self.name
                )));
            }
            let size = match value {
                Value::S(text) => text.len(),
                Value::B(bytes) => bytes.len(),
                _ => continue,
            };
            if size == 0 {
                return Err(Invalid::new(format!(
                    "One or more parameter values are not valid. A value specified for a secondary index key is not \
                     supported. The AttributeValue for a key attribute cannot contain an empty {} value. IndexName: {}, \
                     IndexKey: {}",
                    if attribute.kind == Type::S { "string" } else { "binary" },
                    self.name,
                    attribute.name
                )));
            }
            if size > max {
                return Err(Invalid::new(format!(
                    "One or more parameter values were invalid: Size of the index key {} has exceeded the maximum size \
                     limit of {max} bytes. IndexName: {}",
                    attribute.name, self.name
                )));
            }
        }
        Ok(())
    }
}
