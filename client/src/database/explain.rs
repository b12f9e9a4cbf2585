//! Where an item is.

use std::time::{Duration, SystemTime};

use trimaran_placement::token::Token;
use trimaran_proto::api::database as wire;

use super::{Database, Item, put_item};
use crate::error::Error;

/// Where an item is, whether it is there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What its partition key is spread by.
    pub token: Token,
    /// The partition that this lies in.
    pub partition: u64,
    /// Bytes that the item counts for, and when it was written; `None` if there is none.
    pub item: Option<(u32, SystemTime)>,
}

impl Database {
    /// Where the item with a key is.
    pub async fn explain(&self, table: &str, key: Item) -> Result<Explained, Error> {
        let request = wire::ExplainRequest { table: table.to_owned(), key: Some(put_item(key)) };
        let reply = self.call(request, |mut client, request| async move { client.explain(request).await });
        let reply = reply.await?;
        let written = SystemTime::UNIX_EPOCH + Duration::from_millis(reply.written_ms);
        Ok(Explained {
            token: Token(reply.token),
            partition: reply.partition_id,
            item: reply.item_bytes.map(|bytes| (bytes, written)),
        })
    }
}
