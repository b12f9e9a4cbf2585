//! DeleteTable: every partition is told before the name is free again, so that a write that was acknowledged never
//! went to a table that nobody can see.

use trimaran_cluster::member::Defined;
use trimaran_placement::token::Token;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;

use crate::error::{Error, Invalid};
use crate::key::{RowKey, head};
use crate::router::Router;
use crate::table::{Status, Table};

/// Marks the table; the rest goes on by itself, see [`finish`].
pub async fn run(router: &Router, name: &str) -> Result<Table, Error> {
    router.refresh_tables().await?;
    let not_found = || Error::TableNotFound { table: name.to_owned() };
    let mut table = router.tables().get(name).cloned().ok_or_else(not_found)?;
    if table.status == Status::Deleting {
        return Err(Error::TableInUse(format!(
            "Attempt to change a resource which is still in use: Table is being deleted: {name}"
        )));
    }
    if table.status == Status::Creating {
        return Err(Error::TableInUse(format!(
            "Attempt to change a resource which is still in use: Table is being created: {name}"
        )));
    }
    if table.deletion_protection {
        return Err(Invalid::new(format!(
            "Resource cannot be deleted as it is currently protected against deletion. Disable deletion protection first. \
             Table: {name}"
        ))
        .into());
    }
    table.status = Status::Deleting;
    match router.define(name, Some(table.encode()), table.revision).await? {
        Defined::Done(revision) => table.revision = revision,
        Defined::Changed(_) => match router.tables().get(name) {
            Some(found) if found.id == table.id && found.status == Status::Deleting => table = found.clone(),
            Some(_) => {
                return Err(Error::TableInUse(format!(
                    "Attempt to change a resource which is still in use: {name}"
                )));
            }
            None => return Err(not_found()),
        },
    }
    let (router, deleting) = (router.clone(), table.clone());
    tokio::spawn(async move {
        if let Err(error) = finish(&router, &deleting).await {
            // Whoever leads the meta group goes on with it.
            tracing::warn!(table = deleting.id, %error, "a table is not deleted yet");
        }
    });
    Ok(table)
}

/// Tells every partition, then frees the name. May be done again, by anybody.
pub async fn finish(router: &Router, table: &Table) -> Result<(), Error> {
    let mut next = Some(Token(0));
    while let Some(token) = next {
        // With everything that is kept beside its items.
        let key = RowKey { token, row: head(table.id, token).freeze() };
        let drop = Body::DropTable(state::DropTable { table: table.id });
        let told = router.write(&key, drop, None).await?;
        next = router.behind(token, told.last_token)?;
    }
    router.define(&table.name, None, table.revision).await?;
    tracing::info!(table = table.id, "a table is deleted");
    Ok(())
}
