//! DescribeTable: what a table is, and how much is in it now.

use trimaran_placement::token::Token;
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
    let wanted =
        |token: Token| wire::read_request::Body::Stats(wire::Stats { table: table.id, token: token.0 });
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
    Ok((table, stats))
}
