//! CreateTable: a name, a key, and every partition has room for it.

use std::collections::{BTreeMap, BTreeSet};

use trimaran_cluster::member::Defined;

use crate::error::{Error, Invalid};
use crate::item::Type;
use crate::limits::{
    GLOBAL_INDEXES_MAX, HISTORY_MAX, LOCAL_INDEXES_MAX, PROJECTED_ATTRIBUTES_MAX, TABLES_MAX,
};
use crate::op::transact_write::FORMAT;
use crate::router::Router;
use crate::table::{
    Index, IndexStatus, KeyAttribute, OnDemand, Projection, Status, StreamStatus, StreamView, StrongIndexes,
    Table,
};

/// Characters of a table's name.
pub const NAME_CHARACTERS: std::ops::RangeInclusive<usize> = 3..=255;

/// Whether a table's name may have it.
pub fn is_name_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

/// Bytes of a key attribute's name.
const KEY_NAME_BYTES_MAX: usize = 255;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The name.
    pub table: String,
    /// What items are spread by.
    pub partition_key: KeyAttribute,
    /// What items of one partition key are sorted by.
    pub sort_key: Option<KeyAttribute>,
    /// Reads and writes per second that it is provisioned for; `None` = it is paid by request.
    pub throughput: Option<(u64, u64)>,
    /// The most that it is to be asked if it is paid by request.
    pub on_demand: OnDemand,
    /// Refuse to delete it.
    pub deletion_protection: bool,
    /// Secondary indexes.
    pub indexes: Vec<NewIndex>,
    /// Words of its owner.
    pub tags: BTreeMap<String, String>,
    /// As its owner calls it.
    pub class: Option<String>,
    /// What a stream of its changes has, if there is to be one.
    pub stream: Option<StreamView>,
    /// For how long its items can be read as they were, milliseconds.
    pub history_ms: Option<u64>,
    /// Entries of global indexes are written in one transaction with their items.
    pub strong_indexes: bool,
}

impl Request {
    /// One with nothing but items.
    pub fn new(table: String, partition_key: KeyAttribute, sort_key: Option<KeyAttribute>) -> Self {
        Self {
            table,
            partition_key,
            sort_key,
            throughput: None,
            on_demand: OnDemand::default(),
            deletion_protection: false,
            indexes: Vec::new(),
            tags: BTreeMap::new(),
            class: None,
            stream: None,
            history_ms: None,
            strong_indexes: false,
        }
    }
}

impl Request {
    /// Names of all attributes that are part of a key, the table's or an index's.
    pub fn key_names(&self) -> BTreeSet<&str> {
        let indexes = self
            .indexes
            .iter()
            .flat_map(|index| std::iter::once(&index.partition_key).chain(&index.sort_key));
        let keys = std::iter::once(&self.partition_key).chain(&self.sort_key).chain(indexes);
        keys.map(|key| key.name.as_str()).collect()
    }
}

/// A secondary index that is to be.
#[derive(Clone, Debug)]
pub struct NewIndex {
    /// Unique within the table.
    pub name: String,
    /// With the table's partition key.
    pub local: bool,
    /// What its entries are spread by.
    pub partition_key: KeyAttribute,
    /// What entries of one partition key are sorted by.
    pub sort_key: Option<KeyAttribute>,
    /// What its entries have of the items.
    pub projection: Projection,
    /// As the table's.
    pub throughput: Option<(u64, u64)>,
    /// As the table's.
    pub on_demand: OnDemand,
}

impl NewIndex {
    /// As it is defined.
    pub(crate) fn index(self, number: u32, status: IndexStatus) -> Index {
        Index {
            name: self.name,
            number,
            local: self.local,
            partition_key: self.partition_key,
            sort_key: self.sort_key,
            projection: self.projection,
            status,
            filled_below: None,
            throughput: self.throughput,
            on_demand: self.on_demand,
        }
    }
}

/// Checks the indexes of a table, those that it has and those that it is to have.
pub(crate) fn check_indexes(table: &Table) -> Result<(), Invalid> {
    let invalid =
        |what: String| Err(Invalid::new(format!("One or more parameter values were invalid: {what}")));
    let mut names = BTreeSet::new();
    let mut projected = 0;
    for index in &table.indexes {
        check_name(&index.name)?;
        index.key_attributes().try_for_each(check_key)?;
        if !names.insert(&index.name) {
            return invalid(format!("Duplicate index name: {}", index.name));
        }
        if index.local && table.sort_key.is_none() {
            return invalid(
                "Table KeySchema does not have a range key, which is required when specifying a \
                            LocalSecondaryIndex"
                    .to_owned(),
            );
        }
        if index.local && index.partition_key != table.partition_key {
            return invalid(format!(
                "Index KeySchema does not have the same leading hash key as table KeySchema for index: {}. index hash key: \
                 {}, table hash key: {}",
                index.name, index.partition_key.name, table.partition_key.name
            ));
        }
        if index.local && index.sort_key.is_none() {
            return invalid(format!("Index KeySchema does not have a range key for index: {}", index.name));
        }
        if let Projection::Include(more) = &index.projection {
            if more.is_empty() {
                return invalid(
                    "ProjectionType is INCLUDE, but NonKeyAttributes is not specified".to_owned(),
                );
            }
            projected += more.len();
        }
    }
    let count = |local: bool| table.indexes.iter().filter(|index| index.local == local).count();
    if count(true) > LOCAL_INDEXES_MAX {
        return invalid(format!(
            "Number of LocalSecondaryIndexes exceeds per-table limit of {LOCAL_INDEXES_MAX}"
        ));
    }
    if count(false) > GLOBAL_INDEXES_MAX {
        return invalid(format!(
            "GlobalSecondaryIndex count exceeds the per-table limit of {GLOBAL_INDEXES_MAX}"
        ));
    }
    if projected > PROJECTED_ATTRIBUTES_MAX {
        return invalid(format!(
            "Number of projected attributes exceeds the limit of {PROJECTED_ATTRIBUTES_MAX} for all indexes of a table"
        ));
    }
    Ok(())
}

/// Refuses what is too long to be kept.
pub(crate) fn check_history(kept_ms: u64) -> Result<(), Invalid> {
    // A week.
    let max_ms = HISTORY_MAX.as_millis() as u64;
    match kept_ms {
        1.. if kept_ms <= max_ms => Ok(()),
        _ => Err(Invalid::new(format!("history_s: it must be 1 to HISTORY_MAX = {} seconds", max_ms / 1000))),
    }
}

/// Refuses what cannot be the name of a table.
pub fn check_name(name: &str) -> Result<(), Invalid> {
    if !NAME_CHARACTERS.contains(&name.len()) || !name.bytes().all(is_name_character) {
        return Err(Invalid::new(
            "Invalid table/index name.  Table/index names must be between 3 and 255 characters long, and may contain only \
             the characters a-z, A-Z, 0-9, '_', '-', and '.'",
        ));
    }
    Ok(())
}

fn check_key(key: &KeyAttribute) -> Result<(), Invalid> {
    if key.name.is_empty() || key.name.len() > KEY_NAME_BYTES_MAX {
        return Err(Invalid::new(format!(
            "One or more parameter values were invalid: the name of a key attribute must have 1 to {KEY_NAME_BYTES_MAX} \
             bytes"
        )));
    }
    if !matches!(key.kind, Type::S | Type::N | Type::B) {
        return Err(Invalid::new(format!(
            "Member must satisfy enum value set: [B, N, S]: the type of key attribute {} is {}",
            key.name,
            key.kind.name()
        )));
    }
    Ok(())
}

/// Makes the table.
pub async fn run(router: &Router, request: Request) -> Result<Table, Error> {
    check_name(&request.table)?;
    check_key(&request.partition_key)?;
    if let Some(sort_key) = &request.sort_key {
        check_key(sort_key)?;
        if sort_key.name == request.partition_key.name {
            return Err(Invalid::new(
                "Both the Hash Key and the Range Key element in the KeySchema have the same name",
            )
            .into());
        }
    }
    let mut table = Table {
        throughput: request.throughput,
        on_demand: request.on_demand,
        deletion_protection: request.deletion_protection,
        tags: request.tags,
        class: request.class,
        ..Table::new(request.table.clone(), request.partition_key, request.sort_key)
    };
    for (index, number) in request.indexes.into_iter().zip(1..) {
        table.indexes.push(index.index(number, IndexStatus::Active));
        table.last_index = number;
    }
    table.created_ms = router.now_ms();
    if let Some(view) = request.stream {
        table.begin_stream(view, table.created_ms);
        // It is enabled with the table.
        table.streams.iter_mut().for_each(|stream| stream.status = StreamStatus::Enabled);
    }
    if table.on_demand.is_limited() {
        router.require_format(FORMAT)?;
    }
    if let Some(kept_ms) = request.history_ms {
        check_history(kept_ms)?;
        table.set_history(Some(kept_ms), table.created_ms)?;
    }
    if request.strong_indexes {
        // Its partitions know it from the beginning on.
        table.strong_indexes = StrongIndexes::On;
    }
    let is_more = request.stream.is_some() || request.history_ms.is_some() || request.strong_indexes;
    if !table.indexes.is_empty() || is_more {
        router.require_format(FORMAT)?;
        check_indexes(&table)?;
        // Its partitions have to know before there are items; see `index::build`.
        table.status = Status::Creating;
    }
    let exists = || Error::TableInUse(format!("Table already exists: {}", request.table));
    if router.tables().get(&request.table).is_some() {
        router.refresh_tables().await?;
        if router.tables().get(&request.table).is_some() {
            return Err(exists());
        }
    }
    if router.tables().len() >= TABLES_MAX {
        return Err(Error::Limit { limit: "TABLES_MAX", max: TABLES_MAX });
    }
    match router.define(&table.name, Some(table.encode()), 0).await? {
        Defined::Done(revision) => {
            (table.id, table.revision) = (revision, revision);
            Ok(table)
        }
        // An attempt of ours whose answer was lost may have made it.
        Defined::Changed(_) => match router.tables().get(&table.name) {
            Some(found)
                if Table {
                    id: found.id,
                    revision: found.revision,
                    status: found.status,
                    ..table.clone()
                } == *found =>
            {
                Ok(found.clone())
            }
            _ => Err(exists()),
        },
    }
}
