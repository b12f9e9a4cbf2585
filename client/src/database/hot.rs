//! Which items of a table are asked for the most.

use trimaran_proto::api::database as wire;

use super::{Database, Item, get_item};
use crate::error::Error;

/// Requests a second, about.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Reads.
    pub reads: f64,
    /// Writes.
    pub writes: f64,
}

/// A partition key that is asked for much.
#[derive(Clone, Debug, PartialEq)]
pub struct HotKey {
    /// The key attribute that items are spread by, and its value.
    pub key: Item,
    /// For all of its items together, at least.
    pub rates: Rates,
    /// The partition that they are in.
    pub partition: u64,
}

/// What a table, or one of its indexes, is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct HotKeys {
    /// Name of the index; `None` = the table itself.
    pub index: Option<String>,
    /// For all of its keys.
    pub rates: Rates,
    /// The hottest first.
    pub keys: Vec<HotKey>,
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HotReport {
    /// The table, and those of its indexes that were asked something.
    pub parts: Vec<HotKeys>,
    /// Nodes that did not answer: what they were asked is not in it.
    pub silent: Vec<u64>,
}

impl Database {
    /// Which partition keys of a table were asked for the most lately, `limit` (0 = 10) of the table and of each index. From
    /// a sample that leaders keep, in which half is forgotten after a minute.
    pub async fn hot_keys(&self, table: &str, limit: u32) -> Result<HotReport, Error> {
        let request = wire::HotKeysRequest { table: table.to_owned(), limit };
        let reply = self.call(request, |mut client, request| async move { client.hot_keys(request).await });
        let reply = reply.await?;
        let parts = reply.parts.into_iter().map(|part| {
            let keys = part.keys.into_iter().map(|key| {
                Ok(HotKey {
                    key: get_item(key.key.unwrap_or_default())?,
                    rates: Rates { reads: key.reads_per_second, writes: key.writes_per_second },
                    partition: key.partition_id,
                })
            });
            Ok(HotKeys {
                index: Some(part.index).filter(|index| !index.is_empty()),
                rates: Rates { reads: part.reads_per_second, writes: part.writes_per_second },
                keys: keys.collect::<Result<_, Error>>()?,
            })
        });
        Ok(HotReport { parts: parts.collect::<Result<_, Error>>()?, silent: reply.silent_nodes })
    }
}
