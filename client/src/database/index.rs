//! Secondary indexes: the items of a table in another order, or only those that have an attribute.

use std::time::Duration;

use trimaran_proto::api::database as wire;

use super::{Database, KeyType, Table, get_key, missing, put_key};
use crate::error::Error;

/// How often a table is looked at that is not ready yet.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A secondary index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// 3 to 255 characters, as a table's.
    pub name: String,
    /// Local: the table's partition key with another sort key; what it has is as new as the items. Global: any key; it
    /// follows the items soon.
    pub local: bool,
    /// What its entries are spread by.
    pub partition_key: (String, KeyType),
    /// What entries of one partition key are sorted by.
    pub sort_key: Option<(String, KeyType)>,
    /// What its entries have of the items.
    pub projection: Projection,
}

/// What the entries of an index have of the items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Projection {
    /// Everything.
    #[default]
    All,
    /// The keys of table and index.
    KeysOnly,
    /// The keys, and attributes of these names.
    Include(Vec<String>),
}

pub(super) fn put(index: Index) -> wire::Index {
    let (projection, attributes) = match index.projection {
        Projection::All => (wire::Projection::All, Vec::new()),
        Projection::KeysOnly => (wire::Projection::KeysOnly, Vec::new()),
        Projection::Include(names) => (wire::Projection::Include, names),
    };
    wire::Index {
        name: index.name,
        local: index.local,
        partition_key: Some(put_key(index.partition_key)),
        sort_key: index.sort_key.map(put_key),
        projection: projection.into(),
        attributes,
        max_throughput: None,
    }
}

pub(super) fn get(described: wire::IndexDescription) -> Result<(Index, bool), Error> {
    let active = described.status() == wire::IndexStatus::Active;
    let index = described.index.ok_or_else(|| missing("index"))?;
    let projection = match index.projection() {
        wire::Projection::All => Projection::All,
        wire::Projection::KeysOnly => Projection::KeysOnly,
        wire::Projection::Include => Projection::Include(index.attributes),
    };
    let index = Index {
        name: index.name,
        local: index.local,
        partition_key: get_key(index.partition_key.ok_or_else(|| missing("partition_key"))?)?,
        sort_key: index.sort_key.map(get_key).transpose()?,
        projection,
    };
    Ok((index, active))
}

impl Database {
    /// Makes a table with secondary indexes, and returns when it takes requests.
    pub async fn create_table_with(&self, table: Table, indexes: Vec<Index>) -> Result<(), Error> {
        let name = table.name.clone();
        self.create(table, indexes).await?;
        while !self.describe_table(&name).await?.active {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Adds a global secondary index to a table, and returns when it takes queries. The table takes requests meanwhile.
    pub async fn create_index(&self, table: &str, index: Index) -> Result<(), Error> {
        let name = index.name.clone();
        self.update(table, wire::update_table_request::Change::CreateIndex(put(index))).await?;
        let is_ready =
            |indexes: &[(Index, bool)]| indexes.iter().any(|(index, active)| index.name == name && *active);
        while !is_ready(&self.describe_table(table).await?.indexes) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Removes a global secondary index; it takes no queries from now on.
    pub async fn delete_index(&self, table: &str, index: &str) -> Result<(), Error> {
        self.update(table, wire::update_table_request::Change::DeleteIndex(index.to_owned())).await
    }

    /// Has entries of a table's global indexes written in one transaction with their items, or no more, and returns when that is so:
    /// queries of indexes then see every write that was acknowledged before. Writes that change entries take longer.
    pub async fn set_strong_indexes(&self, table: &str, strong: bool) -> Result<(), Error> {
        self.update(table, wire::update_table_request::Change::StrongIndexes(strong)).await?;
        while self.describe_table(table).await?.strong_indexes != strong {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    pub(super) async fn update(
        &self,
        table: &str,
        change: wire::update_table_request::Change,
    ) -> Result<(), Error> {
        let request = wire::UpdateTableRequest { name: table.to_owned(), change: Some(change) };
        self.call(request, |mut client, request| async move { client.update_table(request).await }).await?;
        Ok(())
    }
}
