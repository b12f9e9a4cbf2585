//! TransactWriteItems: all of some writes and checks, or none of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::action::What;
use trimaran_proto::state::shard::reply::Outcome;

use super::{admit_all, delete_item, put_item, update_item};
use crate::capacity::{Consumed, Use};
use crate::error::{Error, Invalid, Reason};
use crate::expression::codec::encode_condition;
use crate::expression::parse::{self, Placeholders};
use crate::expression::{Condition, Stated};
use crate::hot::Asked;
use crate::item::{self, Item};
use crate::key::{Layout, RowKey, row_key};
use crate::limits::{ACTIONS_MAX, TRANSACTION_BYTES_MAX};
use crate::router::Router;
use crate::table::Table;
use crate::transaction::ID_BYTES;
use crate::transaction::coordinate::{self, Ended, Token};

/// The format of the cluster that knows transactions and secondary indexes.
pub const FORMAT: u32 = 9;

/// Characters of an idempotency token.
pub const TOKEN_CHARACTERS: std::ops::RangeInclusive<usize> = 1..=36;

/// Holds of an item as it is.
#[derive(Debug, Default)]
pub struct Check {
    /// Name of the table.
    pub table: String,
    /// The key.
    pub key: Item,
    /// What must hold.
    pub condition: Stated<Condition>,
    /// For the condition.
    pub placeholders: Placeholders,
    /// Answer a failed condition with the item.
    pub want_old_on_failure: bool,
}

/// One action.
#[derive(Debug)]
pub enum Action {
    /// Replaces or makes an item.
    Put(put_item::Request),
    /// Changes one.
    Update(update_item::Request),
    /// Removes one.
    Delete(delete_item::Request),
    /// Only looks.
    Check(Check),
}

enum Prepared {
    Put(put_item::PutItem),
    Update(update_item::UpdateItem),
    Delete(delete_item::DeleteItem),
    Check(Checked),
}

struct Checked {
    table: String,
    key: Item,
    condition: Condition,
    want_old_on_failure: bool,
}

impl Prepared {
    fn of(action: Action) -> Result<Self, Invalid> {
        Ok(match action {
            Action::Put(put) => Self::Put(put.prepare()?),
            Action::Update(update) => Self::Update(update.prepare()?),
            Action::Delete(delete) => Self::Delete(delete.prepare()?),
            Action::Check(mut check) => {
                let condition = parse::stated_condition(check.condition, &mut check.placeholders)?;
                check.placeholders.check_used()?;
                Self::Check(Checked {
                    table: check.table,
                    key: check.key,
                    condition,
                    want_old_on_failure: check.want_old_on_failure,
                })
            }
        })
    }

    fn table(&self) -> &str {
        use super::OnTable as _;
        match self {
            Self::Put(put) => put.table(),
            Self::Update(update) => update.table(),
            Self::Delete(delete) => delete.table(),
            Self::Check(check) => &check.table,
        }
    }

    /// The key of its item, maybe with other attributes.
    fn key(&self) -> &Item {
        match self {
            Self::Put(put) => &put.item,
            Self::Update(update) => &update.key,
            Self::Delete(delete) => &delete.key,
            Self::Check(check) => &check.key,
        }
    }

    fn command(&self, table: &Table) -> Result<(RowKey, What), Error> {
        Ok(match self {
            Self::Put(put) => put.command(table).map(|(key, put)| (key, What::Put(put)))?,
            Self::Update(update) => update.command(table).map(|(key, update)| (key, What::Update(update)))?,
            Self::Delete(delete) => delete.command(table).map(|(key, delete)| (key, What::Delete(delete)))?,
            Self::Check(check) => {
                table.check_key(&check.key)?;
                let what = state::Check {
                    condition: encode_condition(Some(&check.condition)),
                    want_old_on_failure: check.want_old_on_failure,
                };
                (row_key(table, &check.key)?, What::Check(what))
            }
        })
    }
}

/// What a transaction did.
#[derive(Debug)]
pub struct Transacted {
    /// It had been carried out before, with the same token.
    pub repeated: bool,
    /// What it cost, by the name of the table: writes, or reads if it had been carried out before.
    pub consumed: BTreeMap<String, Consumed>,
}

/// Carries a transaction out. With a token, it is carried out once in ten minutes, however often it is asked for.
///
/// Errors: [`Error::Cancelled`] if something stands against it, with a reason for each action.
pub async fn run(router: &Router, actions: Vec<Action>, token: Option<&str>) -> Result<Transacted, Error> {
    router.require_format(FORMAT)?;
    if actions.is_empty() || actions.len() > ACTIONS_MAX {
        return Err(Invalid::new(format!("a transaction has 1 to {ACTIONS_MAX} actions")).into());
    }
    if token.is_some_and(|token| !TOKEN_CHARACTERS.contains(&token.chars().count())) {
        return Err(Invalid::new(
            "1 validation error detected: Value at 'clientRequestToken' failed to satisfy constraint: Member must have \
             length less than or equal to 36",
        )
        .into());
    }
    let prepared = actions.into_iter().map(Prepared::of).collect::<Result<Vec<_>, _>>()?;
    match attempt(router, &prepared, token).await {
        // Deleted, and perhaps made again under the same name.
        Err(Error::TableDropped) => {
            router.refresh_tables().await?;
            match attempt(router, &prepared, token).await {
                Err(Error::TableDropped) => {
                    let table = prepared.first().map(|action| action.table().to_owned());
                    Err(Error::TableNotFound { table: table.unwrap_or_default() })
                }
                outcome => outcome,
            }
        }
        outcome => outcome,
    }
}

async fn attempt(router: &Router, prepared: &[Prepared], token: Option<&str>) -> Result<Transacted, Error> {
    let tables = router.tables_of(prepared.iter().map(Prepared::table).collect()).await?;
    let mut commands = Vec::with_capacity(prepared.len());
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    // What is wrong with the request as a whole comes first.
    for action in prepared {
        let Some(table) = tables.get(action.table()) else { continue };
        let row = Layout::of_table(table).row(action.key());
        if row.is_some_and(|key| !seen.insert(key.row)) {
            return Err(
                Invalid::new("Transaction request cannot include multiple operations on one item").into()
            );
        }
    }
    let mut refused: Vec<Reason> = vec![Reason::default(); prepared.len()];
    for (action, refused) in prepared.iter().zip(&mut refused) {
        let Some(table) = tables.get(action.table()) else { continue };
        let (key, what) = match action.command(table) {
            Ok(command) => command,
            Err(Error::Validation(invalid)) => {
                refused.code = Some("ValidationError");
                refused.message = invalid.to_string();
                continue;
            }
            Err(error) => return Err(error),
        };
        bytes += match &what {
            What::Put(put) => put.size as usize,
            What::Update(update) => update.update.len(),
            What::Delete(_) | What::Check(_) | What::Entry(_) => 0,
        };
        commands.push((key, what));
    }
    if refused.iter().any(|reason| reason.code.is_some()) {
        return Err(Error::Cancelled(refused));
    }
    if bytes > TRANSACTION_BYTES_MAX {
        return Err(Invalid::new(
            "Member must have length less than or equal to 4194304: the items of a transaction",
        )
        .into());
    }
    admit_all(router, &tables, Use::WRITE, prepared.iter().map(Prepared::table))?;
    let token =
        token.map(|token| Token { key: digest(token.as_bytes()), fingerprint: fingerprint(&commands) });
    let ended = coordinate::run(router, commands, token).await?;
    let mut consumed: BTreeMap<String, Consumed> = BTreeMap::new();
    let (costs, asked, refused): (Vec<Consumed>, _, _) = match ended {
        Ended::Committed(replies) => {
            let cost = |reply: state::Reply| Consumed::write(&super::written_as(&reply));
            (replies.into_iter().map(cost).collect(), Asked::Write, None)
        }
        // What was done is only looked up.
        Ended::Repeated(items, _) => {
            let size = |item: &state::TouchedItem| item.size_before.max(item.size_after);
            let cost = |item| Consumed::read(None, size(&item).into(), true);
            (items.into_iter().map(cost).collect(), Asked::Read, None)
        }
        Ended::Cancelled(replies) => (vec![Consumed::table(1.0); replies.len()], Asked::Write, Some(replies)),
    };
    for (action, cost) in prepared.iter().zip(costs) {
        consumed.entry(action.table().to_owned()).or_default().add(cost.twice());
    }
    for (name, table) in &tables {
        if let Some(consumed) = consumed.get(*name) {
            router.charge(table, asked, || consumed.clone());
        }
    }
    match refused {
        None => Ok(Transacted { repeated: asked == Asked::Read, consumed }),
        Some(replies) => Err(Error::Cancelled(replies.into_iter().map(reason).collect::<Result<_, _>>()?)),
    }
}

/// Of everything that is asked: another request has another one.
fn fingerprint(commands: &[(RowKey, What)]) -> Bytes {
    let mut all = BytesMut::new();
    for (key, what) in commands {
        let action = state::Action { row: key.row.clone(), what: Some(what.clone()) };
        let encoded = action.encode_to_vec();
        all.put_u64(encoded.len() as u64);
        all.put_slice(&encoded);
    }
    Bytes::copy_from_slice(&digest(&all))
}

/// As many bytes of SHA-256 as tell tokens, and what they are used for, apart.
fn digest(bytes: &[u8]) -> [u8; ID_BYTES] {
    let mut short = [0; ID_BYTES];
    short.copy_from_slice(&Sha256::digest(bytes)[..ID_BYTES]);
    short
}

fn reason(reply: state::Reply) -> Result<Reason, Error> {
    let item = reply.item.clone().map(|mut stored| item::decode_item(&mut stored)).transpose()?;
    Ok(match reply.outcome() {
        Outcome::ConditionFailed => Reason {
            code: Some("ConditionalCheckFailed"),
            message: "The conditional request failed".to_owned(),
            item,
        },
        Outcome::Held => Reason {
            code: Some("TransactionConflict"),
            message: "Transaction is ongoing for the item".to_owned(),
            item: None,
        },
        Outcome::Invalid => Reason { code: Some("ValidationError"), message: reply.message, item: None },
        _ => Reason::default(),
    })
}
