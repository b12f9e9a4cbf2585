//! What a table is: its name, its key, and where it stands in its life. Kept in the cluster's meta group.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use trimaran_cluster::meta::Meta;
use trimaran_proto::state::shard as state;

use crate::error::Invalid;
use crate::item::{Item, Type, Value};
use crate::limits::{PARTITION_KEY_BYTES_MAX, SORT_KEY_BYTES_MAX};

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

/// Where a table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It takes requests.
    Active,
    /// It takes none; its partitions are being told.
    Deleting,
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
    /// Reads and writes per second, as asked for by those who still say so. Nothing is throttled by it.
    pub throughput: Option<(u64, u64)>,
    /// Refuses to be deleted.
    pub deletion_protection: bool,
    /// Revision of this definition, to change it by.
    pub revision: u64,
}

impl Table {
    /// Name of its definition.
    pub fn definition_name(name: &str) -> String {
        format!("{PREFIX}{name}")
    }

    /// What its definition says.
    pub fn encode(&self) -> Bytes {
        let key = |key: &KeyAttribute| state::KeyAttribute {
            name: key.name.clone(),
            kind: u32::from(key.kind.tag()),
        };
        let (read_units, write_units) = self.throughput.unwrap_or_default();
        let stored = state::Table {
            id: self.id,
            name: self.name.clone(),
            partition_key: Some(key(&self.partition_key)),
            sort_key: self.sort_key.as_ref().map(key),
            deleting: self.status == Status::Deleting,
            created_ms: self.created_ms,
            read_units,
            write_units,
            deletion_protection: self.deletion_protection,
        };
        stored.encode_to_vec().into()
    }

    fn decode(stored: Bytes, revision: u64) -> Option<Self> {
        let stored = state::Table::decode(stored).ok()?;
        let key = |key: state::KeyAttribute| {
            let kind = u8::try_from(key.kind).ok().and_then(Type::from_tag)?;
            Some(KeyAttribute { name: key.name, kind })
        };
        Some(Self {
            // The definition that made the table could not know its own revision.
            id: if stored.id == 0 { revision } else { stored.id },
            name: stored.name,
            partition_key: key(stored.partition_key?)?,
            sort_key: match stored.sort_key {
                Some(sort_key) => Some(key(sort_key)?),
                None => None,
            },
            status: if stored.deleting { Status::Deleting } else { Status::Active },
            created_ms: stored.created_ms,
            throughput: (stored.read_units > 0).then_some((stored.read_units, stored.write_units)),
            deletion_protection: stored.deletion_protection,
            revision,
        })
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
        Self { by_name: tables.map(|table| (table.name.clone(), table)).collect() }
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
