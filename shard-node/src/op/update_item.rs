//! UpdateItem: changes attributes of an item, making it if it is not there.

use bytes::Bytes;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;
use trimaran_replication::error::Stop;
use trimaran_replication::session::RequestId;

use super::change::Evaluated;
use super::{OnTable, ReturnValues, Written, check_value, decode, encode, invalid, refuse, reply, written};
use crate::capacity::{Consumed, Use};
use crate::error::{Error, Invalid};
use crate::expression::codec::{decode_update, encode_condition, encode_update};
use crate::expression::evaluate::project;
use crate::expression::parse::{self, Placeholders};
use crate::expression::{Assigned, Condition, Path, Source, Stated, Update, update};
use crate::item::{self, Item};
use crate::key::{RowKey, row_key};
use crate::limits::ITEM_BYTES_MAX;
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
    /// What to change; nothing but to make the item.
    pub update: Option<Stated<Update>>,
    /// What must hold of the item that is there.
    pub condition: Option<Stated<Condition>>,
    /// For both.
    pub placeholders: Placeholders,
    /// What to answer with.
    pub return_values: ReturnValues,
    /// Answer a failed condition with the item.
    pub want_old_on_failure: bool,
    /// For a caller that may ask again.
    pub request_id: Option<RequestId>,
}

/// A request that makes sense.
#[derive(Debug)]
pub struct UpdateItem {
    table: String,
    pub(super) key: Item,
    update: Update,
    condition: Option<Condition>,
    return_values: ReturnValues,
    want_old_on_failure: bool,
    request_id: Option<RequestId>,
}

impl Request {
    /// Checks what can be checked without the table.
    pub fn prepare(mut self) -> Result<UpdateItem, Invalid> {
        let parse = |update: Stated<Update>| update.parse(|text| parse::update(text, &mut self.placeholders));
        let update = self.update.map(parse).transpose()?.unwrap_or_default();
        let parse = |condition| parse::stated_condition(condition, &mut self.placeholders);
        let condition = self.condition.map(parse).transpose()?;
        self.placeholders.check_used()?;
        constants(&update).try_for_each(check_value)?;
        Ok(UpdateItem {
            table: self.table,
            key: self.key,
            update,
            condition,
            return_values: self.return_values,
            want_old_on_failure: self.want_old_on_failure,
            request_id: self.request_id,
        })
    }
}

/// Values that are assigned as they are.
fn constants(update: &Update) -> impl Iterator<Item = &item::Value> {
    let set = update.set.iter().filter_map(|(_, assigned)| match assigned {
        Assigned::One(Source::Value(value)) => Some(value),
        _ => None,
    });
    set.chain(update.add.iter().map(|(_, value)| value))
}

impl UpdateItem {
    /// Where its item stands in a table, and what is done with it.
    pub(crate) fn command(&self, table: &Table) -> Result<(RowKey, state::Update), Error> {
        table.check_key(&self.key)?;
        if let Some(path) =
            self.update.paths().find(|path| table.key_attributes().any(|key| key.name == path.name))
        {
            return Err(Invalid::new(format!(
                "One or more parameter values were invalid: Cannot update attribute {}. This attribute is part of the \
                 key",
                path.name
            ))
            .into());
        }
        let update = state::Update {
            key: encode(&self.key).bytes,
            update: encode_update(&self.update),
            condition: encode_condition(self.condition.as_ref()),
            return_values: match self.return_values {
                ReturnValues::None => state::ReturnValues::None,
                ReturnValues::AllOld => state::ReturnValues::AllOld,
                ReturnValues::UpdatedOld => state::ReturnValues::UpdatedOld,
                ReturnValues::AllNew => state::ReturnValues::AllNew,
                ReturnValues::UpdatedNew => state::ReturnValues::UpdatedNew,
            }
            .into(),
            want_old_on_failure: self.want_old_on_failure,
            alone: false,
        };
        Ok((row_key(table, &self.key)?, update))
    }
}

impl OnTable for UpdateItem {
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
        let (key, update) = self.command(table)?;
        let names = || self.update.paths().map(|path| path.name.as_str());
        let touches = table.indexes.iter().any(|index| !index.local && index.has_any(table, names()));
        written(router.write_item(table, key, Body::Update(update), self.request_id, touches).await?)
    }
}

/// On every replica.
pub(crate) fn evaluate(store: &Store, row: &Bytes, mut request: state::Update) -> Result<Evaluated, Stop> {
    let before = store.get(row).map_err(stop)?;
    let return_values = request.return_values();
    if let Some(refused) = refuse(before.as_ref(), request.condition, request.want_old_on_failure)? {
        return Ok(Evaluated::refused(before, refused));
    }
    let update = decode_update(request.update).map_err(stop)?;
    let old = match &before {
        Some(_) => decode(before.as_ref())?,
        None => item::decode_item(&mut request.key).map_err(stop)?,
    };
    let new = match update::apply(&old, &update) {
        Ok(new) => new,
        Err(refused) => return Ok(Evaluated::refused(before, invalid(refused))),
    };
    if let Err(refused) = new.values().try_for_each(check_value) {
        return Ok(Evaluated::refused(before, invalid(refused)));
    }
    if item::size(&new) > ITEM_BYTES_MAX {
        let refused = invalid("Item size to update has exceeded the maximum allowed size");
        return Ok(Evaluated::refused(before, refused));
    }
    let stored = encode(&new);
    let paths: Vec<Path> = update.paths().cloned().collect();
    let changed = |item: &Item| Some(project(item, &paths)).filter(|part| !part.is_empty());
    let answer = match return_values {
        state::ReturnValues::None => None,
        state::ReturnValues::AllOld => before.as_ref().map(|before| before.item.bytes.clone()),
        state::ReturnValues::AllNew => Some(stored.bytes.clone()),
        state::ReturnValues::UpdatedOld => {
            before.as_ref().and_then(|_| changed(&old)).map(|part| encode(&part).bytes)
        }
        state::ReturnValues::UpdatedNew => changed(&new).map(|part| encode(&part).bytes),
    };
    let reply = state::Reply {
        size_before: before.as_ref().map_or(0, |before| before.item.size),
        size_after: stored.size,
        item: answer,
        ..reply(state::reply::Outcome::Applied)
    };
    Evaluated { before, after: Some(Some(stored)), item: Some(new), reply }.check(store, row)
}
