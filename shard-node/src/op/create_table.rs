//! CreateTable: a name, a key, and every partition has room for it.

use trimaran_cluster::member::Defined;

use crate::error::{Error, Invalid};
use crate::item::Type;
use crate::limits::TABLES_MAX;
use crate::router::Router;
use crate::table::{KeyAttribute, Status, Table};

/// Characters of a table's name.
pub const NAME_CHARACTERS: std::ops::RangeInclusive<usize> = 3..=255;

/// Whether a table's name may have it.
pub fn is_name_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

/// Bytes of a key attribute's name.
const KEY_NAME_BYTES_MAX: usize = 255;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The name.
    pub table: String,
    /// What items are spread by.
    pub partition_key: KeyAttribute,
    /// What items of one partition key are sorted by.
    pub sort_key: Option<KeyAttribute>,
    /// Reads and writes per second; shown, not enforced.
    pub throughput: Option<(u64, u64)>,
    /// Refuse to delete it.
    pub deletion_protection: bool,
}

/// Refuses what cannot be the name of a table.
pub fn check_name(name: &str) -> Result<(), Invalid> {
    if !NAME_CHARACTERS.contains(&name.len()) || !name.bytes().all(is_name_character) {
        return Err(Invalid::new(
            "Invalid table/index name.  Table/index names must be between 3 and 255 characters long, and may contain only \
             the characters a-z, A-Z, 0-9, '_', '-', and '.'",
        ));
    }
    Ok(())
}

fn check_key(key: &KeyAttribute) -> Result<(), Invalid> {
    if key.name.is_empty() || key.name.len() > KEY_NAME_BYTES_MAX {
        return Err(Invalid::new(format!(
            "One or more parameter values were invalid: the name of a key attribute must have 1 to {KEY_NAME_BYTES_MAX} \
             bytes"
        )));
    }
    if !matches!(key.kind, Type::S | Type::N | Type::B) {
        return Err(Invalid::new(format!(
            "Member must satisfy enum value set: [B, N, S]: the type of key attribute {} is {}",
            key.name,
            key.kind.name()
        )));
    }
    Ok(())
}

/// Makes the table.
pub async fn run(router: &Router, request: Request) -> Result<Table, Error> {
    check_name(&request.table)?;
    check_key(&request.partition_key)?;
    if let Some(sort_key) = &request.sort_key {
        check_key(sort_key)?;
        if sort_key.name == request.partition_key.name {
            return Err(Invalid::new(
                "Both the Hash Key and the Range Key element in the KeySchema have the same name",
            )
            .into());
        }
    }
    let exists = || Error::TableInUse(format!("Table already exists: {}", request.table));
    if router.tables().get(&request.table).is_some() {
        router.refresh_tables().await?;
        if router.tables().get(&request.table).is_some() {
            return Err(exists());
        }
    }
    if router.tables().len() >= TABLES_MAX {
        return Err(Error::Limit { limit: "TABLES_MAX", max: TABLES_MAX });
    }
    let mut table = Table {
        id: 0,
        name: request.table.clone(),
        partition_key: request.partition_key.clone(),
        sort_key: request.sort_key.clone(),
        status: Status::Active,
        created_ms: router.now_ms(),
        throughput: request.throughput,
        deletion_protection: request.deletion_protection,
        revision: 0,
    };
    match router.define(&table.name, Some(table.encode()), 0).await? {
        Defined::Done(revision) => {
            (table.id, table.revision) = (revision, revision);
            Ok(table)
        }
        // An attempt of ours whose answer was lost may have made it.
        Defined::Changed(revision) => match router.tables().get(&table.name) {
            Some(found) if Table { id: found.id, revision, ..table.clone() } == *found => Ok(found.clone()),
            _ => Err(exists()),
        },
    }
}
