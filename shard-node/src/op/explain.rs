//! Explain: where an item is, whether it is there or not.

use trimaran_placement::token::Token;

use super::OnTable;
use crate::capacity::{Consumed, Use};
use crate::error::Error;
use crate::item::Item;
use crate::key::row_key;
use crate::router::Router;
use crate::store::stamp_ms;
use crate::table::Table;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Explain {
    /// Name of the table.
    pub table: String,
    /// The key.
    pub key: Item,
}

/// An item that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct There {
    /// Bytes that it counts for.
    pub bytes: u32,
    /// When it was written, milliseconds since 1970.
    pub written_ms: u64,
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What its partition key is spread by.
    pub token: Token,
    /// The partition that this lies in.
    pub partition: u64,
    /// What is there.
    pub item: Option<There>,
}

impl OnTable for Explain {
    type Reply = Explained;

    fn table(&self) -> &str {
        &self.table
    }

    fn uses(&self) -> Option<Use<'_>> {
        None
    }

    fn consumed(&self, _table: &Table, _reply: &Explained) -> Consumed {
        Consumed::default()
    }

    async fn run(&self, router: &Router, table: &Table) -> Result<Explained, Error> {
        table.check_key(&self.key)?;
        let key = row_key(table, &self.key)?;
        let token = key.token;
        let found = router.get(vec![key]).await.pop().unwrap_or(Err(Error::NotReady))?;
        let item =
            found.item.as_ref().map(|_| There { bytes: found.size, written_ms: stamp_ms(found.version) });
        let partition = router.partition_of(token).ok_or(Error::NotReady)?;
        Ok(Explained { token, partition, item })
    }
}
