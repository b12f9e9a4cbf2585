//! DescribeTable: what a table is, and how much is in it and in its indexes now.

use std::collections::BTreeMap;

use trimaran_placement::token::Token;
use trimaran_proto::internal::shard as wire;

use crate::error::Error;
use crate::router::Router;
use crate::store::Stats;
use crate::table::Table;

/// A table with its counts over all partitions.
#[derive(Clone, Debug)]
pub struct Described {
    /// The table.
    pub table: Table,
    /// Its items.
    pub items: Stats,
    /// The entries of its indexes, by their numbers.
    pub indexes: BTreeMap<u32, Stats>,
}

/// Looks it up and has it counted.
pub async fn run(router: &Router, name: &str) -> Result<Described, Error> {
    router.refresh_tables().await?;
    let table = router.tables().get(name).cloned();
    let table = table.ok_or_else(|| Error::TableNotFound { table: name.to_owned() })?;
    let items = count(router, table.id).await?;
    let mut indexes = BTreeMap::new();
    for index in &table.indexes {
        indexes.insert(index.number, count(router, index.keyspace(table.id)).await?);
    }
    Ok(Described { table, items, indexes })
}

/// Counts rows over all partitions.
pub(crate) async fn count(router: &Router, rows: u64) -> Result<Stats, Error> {
    let wanted = |token: Token| {
        wire::read_request::Body::Stats(wire::Stats { table: rows, token: token.0, waiting: false })
    };
    let mut stats = Stats::default();
    let mut next = Some(Token(0));
    while let Some(token) = next {
        let told = match router.read(token, |_| wanted(token)).await {
            Ok((_, reply)) => {
                stats.items += reply.table_items;
                stats.bytes += reply.table_bytes;
                reply.last_token
            }
            Err(Error::TableDropped) => None,
            Err(error) => return Err(error),
        };
        next = router.behind(token, told)?;
    }
    Ok(stats)
}
