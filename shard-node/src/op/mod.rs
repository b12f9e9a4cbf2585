//! The operations, one file each: its request, what is checked before agreement, and what it does to or reads from
//! the rows. Fronts decode into these requests and encode their answers; no rule of the database stands elsewhere.

use std::collections::BTreeMap;
use std::future::Future;

use bytes::{Bytes, BytesMut};
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::reply::Outcome;
use trimaran_replication::error::Stop;

use crate::capacity::{Consumed, Use};
use crate::error::{Error, Invalid, Reason};
use crate::expression::codec::decode_condition;
use crate::expression::evaluate::holds;
use crate::item::{self, Item, Value};
use crate::limits::{ITEM_BYTES_MAX, NESTING_MAX};
use crate::machine::stop;
use crate::router::Router;
use crate::store::{Current, Stored};
use crate::table::Table;

pub mod create_table;
pub mod delete_table;
pub mod describe_table;
pub mod list_tables;
pub mod update_table;

pub mod change;
pub mod delete_item;
pub mod expire;
pub mod get_item;
pub mod put_item;
pub mod update_item;

pub mod batch_get;
pub mod batch_write;
pub mod page;
pub mod query;
pub mod scan;

pub mod describe_stream;
pub mod explain;
pub mod get_records;
pub mod hot_keys;

pub mod transact_get;
pub mod transact_write;

/// What a write answers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReturnValues {
    /// Nothing.
    #[default]
    None,
    /// The item as it was.
    AllOld,
    /// Of what was changed, how it was.
    UpdatedOld,
    /// The item as it is.
    AllNew,
    /// Of what was changed, how it is.
    UpdatedNew,
}

/// What a write did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// What was asked for by [`ReturnValues`], if there is any.
    pub attributes: Option<Item>,
    /// Bytes that were written or replaced, whichever is more: what write units are reckoned from.
    pub size: u32,
    /// Indexes that it changed, by their numbers, with the bytes of each entry that was written or removed.
    pub touched: Vec<(u32, Vec<u32>)>,
}

/// An operation on one table whose request has been checked as far as that goes without the table.
pub trait OnTable: Sync {
    /// Its answer.
    type Reply: Send;

    /// The table's name.
    fn table(&self) -> &str;

    /// What it uses of the table's capacity; `None` = it is not counted.
    fn uses(&self) -> Option<Use<'_>>;

    /// What it cost, by its answer.
    fn consumed(&self, table: &Table, reply: &Self::Reply) -> Consumed;

    /// Checks it against the table and carries it out. [`Error::TableDropped`] if the table was deleted meanwhile.
    fn run(&self, router: &Router, table: &Table) -> impl Future<Output = Result<Self::Reply, Error>> + Send;
}

/// Lets a transaction over some tables through. `actions` are the names of each action's table.
///
/// Errors: [`Error::Cancelled`] if a table is asked too much, with a reason for each action on it.
pub(crate) fn admit_all<'a>(
    router: &Router,
    tables: &BTreeMap<&str, Table>,
    used: Use<'_>,
    actions: impl Iterator<Item = &'a str>,
) -> Result<(), Error> {
    let mut throttled = BTreeMap::new();
    for (name, table) in tables {
        match router.admit(table, used) {
            Err(Error::Throttled(one)) => drop(throttled.insert(*name, one)),
            outcome => outcome?,
        }
    }
    if throttled.is_empty() {
        return Ok(());
    }
    let reasons =
        actions.map(|table| throttled.get(table).map_or_else(Reason::default, |one| Reason::of(one)));
    Err(Error::Cancelled(reasons.collect()))
}

/// An answer without more.
pub(crate) fn reply(outcome: Outcome) -> state::Reply {
    state::Reply { outcome: outcome.into(), ..state::Reply::default() }
}

pub(crate) fn invalid(message: impl std::fmt::Display) -> state::Reply {
    state::Reply { message: message.to_string(), ..reply(Outcome::Invalid) }
}

/// A row's item, empty if there is none.
pub(crate) fn decode(current: Option<&Current>) -> Result<Item, Stop> {
    current
        .map_or(Ok(Item::new()), |current| item::decode_item(&mut current.item.bytes.clone()).map_err(stop))
}

/// An item as it is stored.
pub(crate) fn encode(item: &Item) -> Stored {
    let mut bytes = BytesMut::new();
    item::encode_item(item, &mut bytes);
    // At most ITEM_BYTES_MAX.
    Stored { size: item::size(item) as u32, bytes: bytes.freeze() }
}

/// The refusal, if a condition does not hold of a row.
pub(crate) fn refuse(
    before: Option<&Current>,
    condition: Bytes,
    want_old: bool,
) -> Result<Option<state::Reply>, Stop> {
    let Some(condition) = decode_condition(condition).map_err(stop)? else { return Ok(None) };
    if holds(&decode(before)?, &condition) {
        return Ok(None);
    }
    let item = before.filter(|_| want_old).map(|before| before.item.bytes.clone());
    Ok(Some(state::Reply { item, ..reply(Outcome::ConditionFailed) }))
}

/// What was written, without the item.
fn written_as(reply: &state::Reply) -> Written {
    let touched = reply.touched.iter().map(|touched| (touched.index, touched.sizes.clone()));
    let size = reply.size_before.max(reply.size_after);
    Written { attributes: None, size, touched: touched.collect() }
}

/// What a reply from the log means to the caller.
pub(crate) fn written(reply: state::Reply) -> Result<Written, Error> {
    let item = |stored: Option<Bytes>| -> Result<Option<Item>, Error> {
        stored.map(|mut stored| Ok(item::decode_item(&mut stored)?)).transpose()
    };
    match reply.outcome() {
        Outcome::Applied => {
            let written = written_as(&reply);
            Ok(Written { attributes: item(reply.item)?, ..written })
        }
        Outcome::ConditionFailed => Err(Error::ConditionFailed { item: item(reply.item)? }),
        Outcome::Invalid => Err(Invalid::new(reply.message).into()),
        Outcome::TableDropped => Err(Error::TableDropped),
        Outcome::Held => Err(Error::Held),
        // The router has tried it elsewhere.
        Outcome::WrongPartition
        | Outcome::TooLate
        | Outcome::Cancelled
        | Outcome::Known
        | Outcome::Apart
        | Outcome::Indexed => Err(Error::NotReady),
    }
}

/// Checks what holds for every value that is stored.
pub(crate) fn check_value(value: &Value) -> Result<(), Invalid> {
    if value.depth() > NESTING_MAX {
        return Err(Invalid::new("Nesting Levels have exceeded supported limits"));
    }
    Ok(())
}

/// Checks what holds for every item that is put.
pub(crate) fn check_item(item: &Item) -> Result<(), Invalid> {
    item.values().try_for_each(check_value)?;
    if item::size(item) > ITEM_BYTES_MAX {
        return Err(Invalid::new("Item size has exceeded the maximum allowed size"));
    }
    Ok(())
}

/// Checks return values of a write that knows only two of them.
pub(crate) fn check_old_or_none(return_values: ReturnValues) -> Result<bool, Invalid> {
    match return_values {
        ReturnValues::None => Ok(false),
        ReturnValues::AllOld => Ok(true),
        _ => Err(Invalid::new("Return values set to invalid value")),
    }
}
