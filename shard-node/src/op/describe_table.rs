//! DescribeTable: what a table is, and how much is in it now.

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use trimaran_proto::internal::shard as wire;

use crate::error::Error;
use crate::router::Router;
use crate::store::Stats;
use crate::table::Table;

/// A table with its counts over all partitions.
pub async fn run(router: &Router, name: &str) -> Result<(Table, Stats), Error> {
    router.refresh_tables().await?;
    let table = router.tables().get(name).cloned();
    let table = table.ok_or_else(|| Error::TableNotFound { table: name.to_owned() })?;
    let reads: FuturesUnordered<_> = router
        .partitions()
        .into_iter()
        .map(|partition| {
            let stats = wire::read_request::Body::Stats(wire::Stats { table: table.id });
            router.read(partition.id, stats)
        })
        .collect();
    let mut stats = Stats::default();
    for reply in reads.collect::<Vec<_>>().await {
        match reply {
            Ok(reply) => {
                stats.items += reply.table_items;
                stats.bytes += reply.table_bytes;
            }
            Err(Error::TableDropped) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((table, stats))
}
