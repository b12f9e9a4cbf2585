//! One page of items in order, filtered and projected where they are: what Query and Scan are made of.

use trimaran_proto::internal::shard as wire;
use trimaran_storage::engine::{Order, Range};

use super::encode;
use crate::error::{Error, Invalid};
use crate::expression::codec::{decode_condition, decode_paths, encode_condition, encode_paths};
use crate::expression::evaluate::{holds, project};
use crate::expression::parse::{self, Placeholders};
use crate::expression::{Condition, Operand, Path};
use crate::item::{self, Item};
use crate::limits::PAGE_BYTES_MAX;
use crate::table::Table;

/// What Query and Scan have in common.
#[derive(Debug, Default)]
pub struct Options {
    /// What must hold of an item to be answered.
    pub filter: Option<String>,
    /// Parts of items; all of them if absent.
    pub projection: Option<String>,
    /// Items read at most, before they are filtered.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub start_key: Option<Item>,
    /// Only how many there are.
    pub count_only: bool,
}

/// Options that make sense.
#[derive(Debug)]
pub(crate) struct Prepared {
    filter: Option<Condition>,
    projection: Option<Vec<Path>>,
    limit: Option<u32>,
    pub(crate) start_key: Option<Item>,
    count_only: bool,
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

impl Options {
    pub(crate) fn prepare(self, placeholders: &mut Placeholders) -> Result<Prepared, Invalid> {
        let filter =
            self.filter.as_ref().map(|text| parse::condition("FilterExpression", text, placeholders));
        let projection = self.projection.as_ref().map(|text| parse::projection(text, placeholders));
        Ok(Prepared {
            filter: filter.transpose()?,
            projection: projection.transpose()?,
            limit: self.limit,
            start_key: self.start_key,
            count_only: self.count_only,
        })
    }
}

impl Prepared {
    /// Refuses a filter on what the key condition is for.
    pub(crate) fn check_filter(&self, table: &Table) -> Result<(), Invalid> {
        let Some(filter) = &self.filter else { return Ok(()) };
        let mut names = Vec::new();
        attributes(filter, &mut names);
        match names.into_iter().find(|name| table.key_attributes().any(|key| key.name == *name)) {
            Some(name) => Err(Invalid::new(format!(
                "Filter Expression can only contain non-primary key attributes: Primary key attribute: {name}"
            ))),
            None => Ok(()),
        }
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
        }
    }

    /// Adds a partition's answer. True if a limit has ended the page.
    pub(crate) fn add(&self, page: &mut Page, table: &Table, reply: wire::ReadReply) -> Result<bool, Error> {
        page.count += reply.count;
        page.scanned += reply.scanned;
        page.bytes += reply.bytes;
        for item in reply.items {
            page.items.extend(super::get_item::decode(item)?.item);
        }
        let Some(mut last) = reply.last_item else { return Ok(false) };
        let mut last = item::decode_item(&mut last)?;
        last.retain(|name, _| table.key_attributes().any(|key| key.name == *name));
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
pub(crate) fn read(view: &crate::store::View, page: wire::Page) -> Result<wire::ReadReply, Error> {
    let filter = decode_condition(page.filter)?;
    let projection = if page.projection.is_empty() { None } else { Some(decode_paths(page.projection)?) };
    let range = Range { start: page.start, end: Some(page.end).filter(|end| !end.is_empty()) };
    let order = if page.descending { Order::Descending } else { Order::Ascending };
    let mut reply = wire::ReadReply::default();
    for row in view.scan(range, order) {
        let (_, _, stored) = row?;
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
                    reply.items.push(wire::MaybeItem { item: Some(shown), size: stored.size });
                }
            }
        } else {
            reply.count += 1;
            if !page.count_only {
                reply.items.push(wire::MaybeItem { item: Some(stored.bytes.clone()), size: stored.size });
            }
        }
        if ends {
            reply.last_item = Some(stored.bytes);
            break;
        }
    }
    Ok(reply)
}
