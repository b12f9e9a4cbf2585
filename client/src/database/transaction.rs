//! Transactions over any items.

use rand::Rng as _;
use trimaran_proto::api::database as wire;
use trimaran_proto::api::database::transact_action::Action as WireAction;

use super::{Database, Item, WriteOptions, get_item, put_item, put_placeholders};
use crate::error::Error;

/// What a transaction does with one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Replaces or makes an item.
    Put(Item),
    /// Changes the item with this key by an update expression.
    Update(Item, String),
    /// Removes the item with this key, if it is there.
    Delete(Item),
    /// Only that the condition holds of the item with this key.
    Check(Item),
}

/// A transaction that is put together: all of its actions, or none of them.
///
/// Source: DynamoDB developer guide, "Amazon DynamoDB transactions".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TransactWrite {
    actions: Vec<wire::TransactAction>,
}

impl TransactWrite {
    /// Adds an action on an item of a table, with its condition; at most 100, on different items. What `options` ask to be
    /// answered with is not answered.
    #[must_use]
    pub fn and(mut self, table: &str, action: Action, options: WriteOptions) -> Self {
        let (table, condition) = (table.to_owned(), options.condition);
        let placeholders = Some(put_placeholders(options.placeholders));
        let action = match action {
            Action::Put(item) => WireAction::Put(wire::PutItemRequest {
                table,
                item: Some(put_item(item)),
                condition,
                placeholders,
                ..Default::default()
            }),
            Action::Update(key, update) => WireAction::Update(wire::UpdateItemRequest {
                table,
                key: Some(put_item(key)),
                update,
                condition,
                placeholders,
                ..Default::default()
            }),
            Action::Delete(key) => WireAction::Delete(wire::DeleteItemRequest {
                table,
                key: Some(put_item(key)),
                condition,
                placeholders,
                ..Default::default()
            }),
            Action::Check(key) => WireAction::Check(wire::ConditionCheck {
                table,
                key: Some(put_item(key)),
                condition,
                placeholders,
            }),
        };
        self.actions.push(wire::TransactAction { action: Some(action) });
        self
    }
}

impl Database {
    /// Carries a transaction out, once, however often it has to be sent.
    ///
    /// Errors: [`Error::Conflict`] if a condition does not hold, or another transaction is at one of the items; nothing is changed
    /// then.
    pub async fn transact_write(&self, transaction: TransactWrite) -> Result<(), Error> {
        let token: u128 = self.routes.random.lock().random();
        let request =
            wire::TransactWriteRequest { actions: transaction.actions, token: format!("{token:032x}") };
        self.call(request, |mut client, request| async move { client.transact_write(request).await }).await?;
        Ok(())
    }

    /// Items as they were all at one moment, at most 100, by their tables and keys; the answers stand as the questions do.
    pub async fn transact_get(&self, keys: Vec<(&str, Item)>) -> Result<Vec<Option<Item>>, Error> {
        self.get_at_once(keys, 0).await
    }

    pub(super) async fn get_at_once(
        &self,
        keys: Vec<(&str, Item)>,
        as_of_ms: u64,
    ) -> Result<Vec<Option<Item>>, Error> {
        let items = keys.into_iter().map(|(table, key)| wire::GetItemRequest {
            table: table.to_owned(),
            key: Some(put_item(key)),
            as_of_ms,
            ..Default::default()
        });
        let request = wire::TransactGetRequest { items: items.collect() };
        let reply =
            self.call(request, |mut client, request| async move { client.transact_get(request).await });
        reply.await?.items.into_iter().map(|found| found.item.map(get_item).transpose()).collect()
    }
}
