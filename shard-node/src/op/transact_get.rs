//! TransactGetItems: many items as they were all at one moment, without holding anybody up.

use std::collections::BTreeSet;

use super::admit_all;
use super::get_item::{self, Found};
use crate::capacity::{Consumed, Use};
use crate::error::{Error, Invalid, Reason};
use crate::expression::evaluate::project;
use crate::hot::Asked;
use crate::key::row_key;
use crate::limits::{ACTIONS_MAX, TRANSACTION_BYTES_MAX};
use crate::router::Router;
use crate::transaction::coordinate;

/// Looks items up; the answers stand as the questions do. With `as_of_ms` they are as they were at the end of that millisecond since 1970.
///
/// Errors: [`Error::Cancelled`] if there was no such moment in many attempts, since the items change all the time.
pub async fn run(
    router: &Router,
    items: Vec<get_item::Request>,
    as_of_ms: Option<u64>,
) -> Result<Vec<Found>, Error> {
    if items.is_empty() || items.len() > ACTIONS_MAX {
        return Err(Invalid::new(format!("a transaction has 1 to {ACTIONS_MAX} actions")).into());
    }
    let prepared = items.into_iter().map(get_item::Request::prepare).collect::<Result<Vec<_>, _>>()?;
    match attempt(router, &prepared, as_of_ms).await {
        Err(Error::TableDropped) => {
            router.refresh_tables().await?;
            attempt(router, &prepared, as_of_ms).await
        }
        outcome => outcome,
    }
}

async fn attempt(
    router: &Router,
    items: &[get_item::GetItem],
    as_of_ms: Option<u64>,
) -> Result<Vec<Found>, Error> {
    use super::OnTable as _;
    let tables = router.tables_of(items.iter().map(|item| item.table()).collect()).await?;
    let mut keys = Vec::with_capacity(items.len());
    let mut seen = BTreeSet::new();
    let mut refused: Vec<Reason> = vec![Reason::default(); items.len()];
    for (item, refused) in items.iter().zip(&mut refused) {
        let Some(table) = tables.get(item.table()) else { continue };
        if let Err(invalid) = table.check_key(&item.key) {
            refused.code = Some("ValidationError");
            refused.message = invalid.to_string();
            continue;
        }
        let key = row_key(table, &item.key)?;
        if !seen.insert(key.row.clone()) {
            return Err(
                Invalid::new("Transaction request cannot include multiple operations on one item").into()
            );
        }
        keys.push(key);
    }
    if refused.iter().any(|reason| reason.code.is_some()) {
        return Err(Error::Cancelled(refused));
    }
    admit_all(router, &tables, Use::read(None), items.iter().map(|item| item.table()))?;
    let count = keys.len();
    let mut as_of = 0;
    for table in tables.values() {
        as_of = router.as_of(table, as_of_ms)?;
    }
    let read = match as_of {
        0 => coordinate::read_at_once(router, keys).await?,
        _ => Some(router.get_as_of(keys, as_of).await.into_iter().collect::<Result<_, _>>()?),
    };
    let Some(read) = read else {
        let conflict = Reason {
            code: Some("TransactionConflict"),
            message: "Transaction is ongoing for the item".to_owned(),
            item: None,
        };
        return Err(Error::Cancelled(vec![conflict; count]));
    };
    let mut found = Vec::with_capacity(count);
    let mut bytes = 0;
    for (item, read) in items.iter().zip(read) {
        let mut one = get_item::decode(read)?;
        bytes += one.size as usize;
        if let Some(table) = tables.get(item.table()) {
            router.charge(table, Asked::Read, || Consumed::read(None, one.size.into(), true).twice());
        }
        if let Some(paths) = &item.projection {
            one.item = one.item.map(|item| project(&item, paths));
        }
        found.push(one);
    }
    if bytes > TRANSACTION_BYTES_MAX {
        return Err(Invalid::new("Transaction results exceed the maximum of 4194304 bytes").into());
    }
    Ok(found)
}
