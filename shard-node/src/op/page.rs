//! One page of items in order, filtered and projected where they are: what Query and Scan are made of.

use bytes::Bytes;
use trimaran_placement::token::Token;
use trimaran_proto::internal::shard as wire;
use trimaran_proto::state::shard as state;
use trimaran_storage::engine::{Order, Range};

use super::encode;
use crate::capacity::Consumed;
use crate::error::{Error, Invalid};
use crate::expression::codec::{decode_condition, decode_paths, encode_condition, encode_paths};
use crate::expression::evaluate::{holds, project};
use crate::expression::parse::{self, Placeholders};
use crate::expression::{Condition, Operand, Path, Stated};
use crate::item::{self, Item};
use crate::key::{Layout, RowKey, parse_head, row_at};
use crate::limits::PAGE_BYTES_MAX;
use crate::past;
use crate::router::Router;
use crate::store::{Row, Stored, View};
use crate::table::{Index, IndexStatus, StrongIndexes, Table};

/// What Query and Scan have in common.
#[derive(Debug, Default)]
pub struct Options {
    /// What must hold of an item to be answered.
    pub filter: Option<Stated<Condition>>,
    /// Parts of items; all of them if absent.
    pub projection: Option<Stated<Vec<Path>>>,
    /// Items read at most, before they are filtered.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub start_key: Option<Item>,
    /// Only how many there are.
    pub count_only: bool,
    /// Of an index: all of each item, not only what the index has.
    pub whole_items: bool,
    /// A filter may be on the attributes of the key, too.
    pub filters_keys: bool,
    /// Nothing acknowledged before may be missed; the table and its local indexes can do that, and always do.
    pub consistent: bool,
    /// As the items were at the end of this millisecond since 1970; of a table, not of an index.
    pub as_of_ms: Option<u64>,
}

/// Options that make sense.
#[derive(Debug)]
pub(crate) struct Prepared {
    filter: Option<Condition>,
    projection: Option<Vec<Path>>,
    limit: Option<u32>,
    pub(crate) start_key: Option<Item>,
    count_only: bool,
    whole_items: bool,
    filters_keys: bool,
    pub(crate) consistent: bool,
    as_of_ms: Option<u64>,
}

/// What is read: a table, or one of its indexes.
pub(crate) struct Source<'a> {
    table: &'a Table,
    index: Option<&'a Index>,
    /// How its rows are made.
    pub(crate) layout: Layout<'a>,
}

impl<'a> Source<'a> {
    /// The table, or the index of a name.
    pub(crate) fn of(table: &'a Table, index: Option<&str>, consistent: bool) -> Result<Self, Error> {
        let Some(name) = index else {
            return Ok(Self { table, index: None, layout: Layout::of_table(table) });
        };
        let found = table.index(name).filter(|index| index.status != IndexStatus::Deleting);
        let index = found
            .ok_or_else(|| Invalid::new(format!("The table does not have the specified index: {name}")))?;
        if index.status == IndexStatus::Creating {
            return Err(
                Invalid::new(format!("Cannot read from backfilling global secondary index: {name}")).into()
            );
        }
        if consistent && !index.local && table.strong_indexes != StrongIndexes::On {
            return Err(Invalid::new("Consistent reads are not supported on global secondary indexes").into());
        }
        Ok(Self { table, index: Some(index), layout: Layout::of_index(table, index) })
    }

    /// Where a page before ended.
    pub(crate) fn start(&self, key: &Item) -> Result<RowKey, Invalid> {
        let mismatch = || Invalid::new("The provided key element does not match the schema");
        if self.index.is_none() {
            self.table.check_key(key)?;
        }
        if key.len() != self.layout.attributes().len() {
            return Err(mismatch());
        }
        self.layout.row(key).ok_or_else(mismatch)
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In order; none if only the count was asked for.
    pub items: Vec<Item>,
    /// Items that passed the filter.
    pub count: u32,
    /// Items that were read.
    pub scanned: u32,
    /// Bytes that those count for.
    pub bytes: u64,
    /// Where to go on; `None` = complete.
    pub last_key: Option<Item>,
}

impl Page {
    /// What it cost.
    pub fn consumed(&self, table: &Table, index: Option<&str>, consistent: bool) -> Consumed {
        let index = index.and_then(|index| table.index(index)).map(|index| index.number);
        Consumed::read(index, self.bytes, consistent)
    }
}

impl Options {
    pub(crate) fn prepare(self, placeholders: &mut Placeholders) -> Result<Prepared, Invalid> {
        let filter =
            |stated: Stated<_>| stated.parse(|text| parse::condition("FilterExpression", text, placeholders));
        let filter = self.filter.map(filter);
        let projection = |stated: Stated<_>| stated.parse(|text| parse::projection(text, placeholders));
        let projection = self.projection.map(projection);
        Ok(Prepared {
            filter: filter.transpose()?,
            projection: projection.transpose()?,
            limit: self.limit,
            start_key: self.start_key,
            count_only: self.count_only,
            whole_items: self.whole_items,
            filters_keys: self.filters_keys,
            consistent: self.consistent,
            as_of_ms: self.as_of_ms,
        })
    }
}

impl Prepared {
    /// How the items of an index's entries are found, if more of them is wanted than the entries have: a local index has
    /// the rest at hand, a global one has not.
    pub(crate) fn whole(&self, source: &Source<'_>) -> Result<Option<wire::Whole>, Invalid> {
        let Some(index) = source.index else { return Ok(None) };
        let Some(projected) = index.projected(source.table) else { return Ok(None) };
        let mut names: Vec<&str> = Vec::new();
        if let Some(filter) = &self.filter {
            attributes(filter, &mut names);
        }
        names.extend(self.projection.iter().flatten().map(|path| path.name.as_str()));
        let missing = names.into_iter().find(|name| !projected.contains(name));
        if index.local {
            let key = || source.table.key_attributes().map(|key| key.name.clone()).collect();
            let is_more = self.whole_items || missing.is_some();
            return Ok(is_more.then(|| wire::Whole { table: source.table.id, key: key() }));
        }
        if self.whole_items {
            return Err(Invalid::new(format!(
                "One or more parameter values were invalid: Select type ALL_ATTRIBUTES is not supported for global secondary \
                 index {} because its projection type is not ALL",
                index.name
            )));
        }
        match missing {
            Some(name) if self.projection.is_some() => Err(Invalid::new(format!(
                "One or more parameter values were invalid: Global secondary index {} does not project [{name}]",
                index.name
            ))),
            _ => Ok(None),
        }
    }

    /// Refuses a filter on what the key condition is for.
    pub(crate) fn check_filter(&self, layout: &Layout<'_>) -> Result<(), Invalid> {
        let Some(filter) = self.filter.as_ref().filter(|_| !self.filters_keys) else { return Ok(()) };
        let mut names = Vec::new();
        attributes(filter, &mut names);
        let keys: Vec<&str> = std::iter::once(layout.partition_key)
            .chain(layout.sort_key)
            .map(|key| key.name.as_str())
            .collect();
        match names.into_iter().find(|name| keys.contains(name)) {
            Some(name) => Err(Invalid::new(format!(
                "Filter Expression can only contain non-primary key attributes: Primary key attribute: {name}"
            ))),
            None => Ok(()),
        }
    }

    /// The newest version that counts, 0 = as the items are.
    pub(crate) fn as_of(&self, source: &Source<'_>, router: &Router) -> Result<u64, Error> {
        if self.as_of_ms.is_some() && source.index.is_some() {
            return Err(Invalid::new("as_of_ms: a table can be read as it was, an index cannot").into());
        }
        router.as_of(source.table, self.as_of_ms)
    }

    /// The question for one partition, when so many items and bytes have been read already.
    pub(crate) fn question(&self, range: &Range, order: Order, sofar: &Page) -> wire::Page {
        wire::Page {
            start: range.start.clone(),
            end: range.end.clone().unwrap_or_default(),
            descending: order == Order::Descending,
            limit: self.limit.map_or(0, |limit| limit.saturating_sub(sofar.scanned)),
            bytes_max: PAGE_BYTES_MAX.saturating_sub(usize::try_from(sofar.bytes).unwrap_or(usize::MAX))
                as u32,
            filter: encode_condition(self.filter.as_ref()),
            projection: self.projection.as_deref().map(encode_paths).unwrap_or_default(),
            count_only: self.count_only,
            last_token: None,
            undecided: Vec::new(),
            whole: None,
            as_of: 0,
        }
    }

    /// Adds a partition's answer. True if a limit has ended the page.
    pub(crate) fn add(
        &self,
        page: &mut Page,
        source: &Source<'_>,
        reply: wire::ReadReply,
    ) -> Result<bool, Error> {
        page.count += reply.count;
        page.scanned += reply.scanned;
        page.bytes += reply.bytes;
        for item in reply.items {
            page.items.extend(super::get_item::decode(item)?.item);
        }
        let Some(mut last) = reply.last_item else { return Ok(false) };
        let mut last = item::decode_item(&mut last)?;
        let key = source.layout.attributes();
        last.retain(|name, _| key.iter().any(|key| key.name == *name));
        page.last_key = Some(last);
        Ok(true)
    }
}

fn attributes<'a>(condition: &'a Condition, names: &mut Vec<&'a str>) {
    let mut operand = |operand: &'a Operand| match operand {
        Operand::Path(path) | Operand::Size(path) => names.push(&path.name),
        Operand::Value(_) => {}
    };
    match condition {
        Condition::Compare(a, _, b) | Condition::BeginsWith(a, b) | Condition::Contains(a, b) => {
            operand(a);
            operand(b);
        }
        Condition::Between(value, low, high) => [value, low, high].into_iter().for_each(operand),
        Condition::In(value, among) => std::iter::once(value).chain(among).for_each(operand),
        Condition::Exists(path) | Condition::NotExists(path) | Condition::HasType(path, _) => {
            names.push(&path.name);
        }
        Condition::And(parts) | Condition::Or(parts) => {
            parts.iter().for_each(|part| attributes(part, names));
        }
        Condition::Not(inner) => attributes(inner, names),
    }
}

/// At the partition's leader.
pub(crate) fn read(view: &View, page: wire::Page) -> Result<wire::ReadReply, Error> {
    let range =
        Range { start: page.start.clone(), end: Some(page.end.clone()).filter(|end| !end.is_empty()) };
    let order = if page.descending { Order::Descending } else { Order::Ascending };
    match page.as_of {
        0 => read_rows(view, view.scan(range, order), page),
        at => read_rows(view, past::scan(view, range, order, at), page),
    }
}

fn read_rows(
    view: &View,
    rows: impl Iterator<Item = Result<Row, trimaran_storage::Error>>,
    page: wire::Page,
) -> Result<wire::ReadReply, Error> {
    let filter = decode_condition(page.filter)?;
    let projection = if page.projection.is_empty() { None } else { Some(decode_paths(page.projection)?) };
    let mut reply = wire::ReadReply::default();
    for row in rows {
        let (row, _, mut stored) = row?;
        let entry = stored.bytes.clone();
        if let Some(whole) = &page.whole {
            stored = whole_item(view, &row, &stored, whole)?;
        }
        reply.scanned += 1;
        reply.bytes += u64::from(stored.size);
        let ends = page.limit == reply.scanned || reply.bytes >= u64::from(page.bytes_max);
        if filter.is_some() || projection.is_some() {
            let item = item::decode_item(&mut stored.bytes.clone())?;
            if filter.as_ref().is_none_or(|filter| holds(&item, filter)) {
                reply.count += 1;
                if !page.count_only {
                    let shown = projection.as_ref().map(|paths| encode(&project(&item, paths)).bytes);
                    let shown = shown.unwrap_or_else(|| stored.bytes.clone());
                    reply.items.push(found(shown, stored.size));
                }
            }
        } else {
            reply.count += 1;
            if !page.count_only {
                reply.items.push(found(stored.bytes, stored.size));
            }
        }
        if ends {
            reply.last_item = Some(entry);
            break;
        }
    }
    Ok(reply)
}

/// Likewise for rows as they are kept.
pub(crate) fn rows(view: &View, wanted: &wire::Rows) -> Result<wire::ReadReply, Error> {
    let row = |row: Bytes, version: u64, stored: Stored| state::Row {
        row,
        version,
        item: stored.bytes,
        size: stored.size,
    };
    let mut reply = wire::ReadReply { version: view.version(), ..wire::ReadReply::default() };
    for one in &wanted.rows {
        reply.rows.extend(view.get(one)?.map(|current| row(one.clone(), current.version, current.item)));
    }
    let range =
        Range { start: wanted.start.clone(), end: Some(wanted.end.clone()).filter(|end| !end.is_empty()) };
    for found in view.scan(range, Order::Ascending) {
        if (wanted.limit > 0 && reply.scanned == wanted.limit) || reply.bytes >= u64::from(wanted.bytes_max) {
            reply.more = true;
            break;
        }
        let (key, version, stored) = found?;
        reply.scanned += 1;
        reply.bytes += u64::from(stored.size);
        reply.rows.push(row(key, version, stored));
    }
    Ok(reply)
}

fn found(item: Bytes, size: u32) -> wire::MaybeItem {
    wire::MaybeItem { item: Some(item), size, ..wire::MaybeItem::default() }
}

/// The item that an entry of a local index stands for. They are written together, so it is there.
fn whole_item(view: &View, entry: &[u8], stored: &Stored, whole: &wire::Whole) -> Result<Stored, Error> {
    let item = item::decode_item(&mut stored.bytes.clone())?;
    let token = parse_head(entry).map_or(Token(0), |(_, token)| token);
    let row = row_at(whole.table, token, whole.key.iter().filter_map(|name| item.get(name)));
    let lost = || Error::Storage("an entry of a local index without its item".to_owned());
    Ok(view.get(&row)?.ok_or_else(lost)?.item)
}
