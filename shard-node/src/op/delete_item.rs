//! DeleteItem: removes an item, if it is there.

use bytes::Bytes;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;
use trimaran_replication::error::Stop;
use trimaran_replication::session::RequestId;

use super::change::Evaluated;
use super::{OnTable, ReturnValues, Written, check_old_or_none, refuse, reply, written};
use crate::capacity::{Consumed, Use};
use crate::error::{Error, Invalid};
use crate::expression::codec::encode_condition;
use crate::expression::parse::{self, Placeholders};
use crate::expression::{Condition, Stated};
use crate::item::Item;
use crate::key::{RowKey, row_key};
use crate::machine::stop;
use crate::router::Router;
use crate::store::Store;
use crate::table::Table;

/// What is asked.
#[derive(Debug, Default)]
pub struct Request {
    /// Name of the table.
    pub table: String,
    /// The key.
    pub key: Item,
    /// What must hold of the item that is there.
    pub condition: Option<Stated<Condition>>,
    /// For the condition.
    pub placeholders: Placeholders,
    /// `None` or `AllOld`.
    pub return_values: ReturnValues,
    /// Answer a failed condition with the item.
    pub want_old_on_failure: bool,
    /// For a caller that may ask again.
    pub request_id: Option<RequestId>,
}

/// A request that makes sense.
#[derive(Debug)]
pub struct DeleteItem {
    table: String,
    pub(super) key: Item,
    condition: Option<Condition>,
    want_old: bool,
    want_old_on_failure: bool,
    request_id: Option<RequestId>,
}

impl Request {
    /// Checks what can be checked without the table.
    pub fn prepare(mut self) -> Result<DeleteItem, Invalid> {
        let want_old = check_old_or_none(self.return_values)?;
        let parse = |condition| parse::stated_condition(condition, &mut self.placeholders);
        let condition = self.condition.map(parse).transpose()?;
        self.placeholders.check_used()?;
        Ok(DeleteItem {
            table: self.table,
            key: self.key,
            condition,
            want_old,
            want_old_on_failure: self.want_old_on_failure,
            request_id: self.request_id,
        })
    }
}

impl DeleteItem {
    /// Where its item stands in a table, and what is done with it.
    pub(crate) fn command(&self, table: &Table) -> Result<(RowKey, state::Delete), Error> {
        table.check_key(&self.key)?;
        let delete = state::Delete {
            condition: encode_condition(self.condition.as_ref()),
            want_old: self.want_old,
            want_old_on_failure: self.want_old_on_failure,
            alone: false,
        };
        Ok((row_key(table, &self.key)?, delete))
    }
}

impl OnTable for DeleteItem {
    type Reply = Written;

    fn table(&self) -> &str {
        &self.table
    }

    fn uses(&self) -> Option<Use<'_>> {
        Some(Use::WRITE)
    }

    fn consumed(&self, _table: &Table, written: &Written) -> Consumed {
        Consumed::write(written)
    }

    async fn run(&self, router: &Router, table: &Table) -> Result<Written, Error> {
        let (key, delete) = self.command(table)?;
        written(router.write_item(table, key, Body::Delete(delete), self.request_id, true).await?)
    }
}

/// On every replica.
pub(crate) fn evaluate(store: &Store, row: &Bytes, delete: state::Delete) -> Result<Evaluated, Stop> {
    let before = store.get(row).map_err(stop)?;
    if let Some(refused) = refuse(before.as_ref(), delete.condition, delete.want_old_on_failure)? {
        return Ok(Evaluated::refused(before, refused));
    }
    let reply = state::Reply {
        size_before: before.as_ref().map_or(0, |before| before.item.size),
        item: before.as_ref().filter(|_| delete.want_old).map(|before| before.item.bytes.clone()),
        ..reply(state::reply::Outcome::Applied)
    };
    let after = before.as_ref().map(|_| None);
    Ok(Evaluated { before, after, item: None, reply })
}
