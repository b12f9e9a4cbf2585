//! GetItem: one item, as new as everything acknowledged before.

use bytes::Bytes;
use trimaran_proto::internal::shard as wire;

use super::OnTable;
use crate::capacity::{Consumed, Use};
use crate::error::{Error, Invalid};
use crate::expression::evaluate::project;
use crate::expression::parse::{self, Placeholders};
use crate::expression::{Path, Stated};
use crate::item::{self, Item};
use crate::key::row_key;
use crate::past;
use crate::router::Router;
use crate::store::View;
use crate::table::Table;

/// What is asked.
#[derive(Debug, Default)]
pub struct Request {
    /// Name of the table.
    pub table: String,
    /// The key.
    pub key: Item,
    /// Parts of the item; all of it if absent.
    pub projection: Option<Stated<Vec<Path>>>,
    /// For the projection.
    pub placeholders: Placeholders,
    /// It is to miss nothing acknowledged before. No read does; one that need not costs half.
    pub consistent: bool,
    /// As it was at the end of this millisecond since 1970.
    pub as_of_ms: Option<u64>,
}

/// A request that makes sense.
#[derive(Debug)]
pub struct GetItem {
    table: String,
    pub(crate) key: Item,
    pub(crate) projection: Option<Vec<Path>>,
    consistent: bool,
    pub(crate) as_of_ms: Option<u64>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The item, or the parts asked for.
    pub item: Option<Item>,
    /// Bytes that the whole item counts for.
    pub size: u32,
}

impl Request {
    /// Checks what can be checked without the table.
    pub fn prepare(mut self) -> Result<GetItem, Invalid> {
        let parse = |stated: Stated<_>| stated.parse(|text| parse::projection(text, &mut self.placeholders));
        let projection = self.projection.map(parse).transpose()?;
        self.placeholders.check_used()?;
        Ok(GetItem {
            table: self.table,
            key: self.key,
            projection,
            consistent: self.consistent,
            as_of_ms: self.as_of_ms,
        })
    }
}

impl OnTable for GetItem {
    type Reply = Found;

    fn table(&self) -> &str {
        &self.table
    }

    fn uses(&self) -> Option<Use<'_>> {
        Some(Use::read(None))
    }

    fn consumed(&self, _table: &Table, found: &Found) -> Consumed {
        Consumed::read(None, found.size.into(), self.consistent)
    }

    async fn run(&self, router: &Router, table: &Table) -> Result<Found, Error> {
        table.check_key(&self.key)?;
        let key = row_key(table, &self.key)?;
        let as_of = router.as_of(table, self.as_of_ms)?;
        let reply = router.get_as_of(vec![key], as_of).await.pop().unwrap_or(Err(Error::NotReady));
        let mut found = decode(reply?)?;
        if let Some(paths) = &self.projection {
            found.item = found.item.map(|item| project(&item, paths));
        }
        Ok(found)
    }
}

/// An item from the line.
pub(crate) fn decode(found: wire::MaybeItem) -> Result<Found, Error> {
    let item = found.item.map(|mut stored| item::decode_item(&mut stored)).transpose()?;
    Ok(Found { item, size: found.size })
}

/// At the partition's leader: one answer a row. `removed` has of each when something of its kind was removed last;
/// `held`: some of them are held by transactions that were not decided on when that was looked at. `as_of`: a version, or 0.
pub(crate) fn read(
    view: &View,
    rows: &[Bytes],
    (removed, held): (&[u64], bool),
    as_of: u64,
) -> Result<wire::ReadReply, Error> {
    let items = rows.iter().zip(removed).map(|(row, &removed)| {
        let found = if as_of == 0 { view.get(row)? } else { past::get(view, row, as_of)? };
        let version = found.as_ref().map_or(removed, |found| found.version);
        let size = found.as_ref().map_or(0, |found| found.item.size);
        Ok(wire::MaybeItem { item: found.map(|found| found.item.bytes), size, version, held })
    });
    Ok(wire::ReadReply { items: items.collect::<Result<_, Error>>()?, ..wire::ReadReply::default() })
}
