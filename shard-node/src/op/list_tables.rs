//! ListTables: names in order, a page at a time.

use crate::error::{Error, Invalid};
use crate::limits::LIST_TABLES_MAX;
use crate::router::Router;

/// Names behind `after`, and the one to go on from; `None` = complete.
pub async fn run(
    router: &Router,
    after: Option<&str>,
    limit: Option<u32>,
) -> Result<(Vec<String>, Option<String>), Error> {
    let limit = limit.unwrap_or(LIST_TABLES_MAX);
    if limit == 0 || limit > LIST_TABLES_MAX {
        let (bound, wanted) = if limit == 0 { ("greater", 1) } else { ("less", LIST_TABLES_MAX) };
        return Err(Invalid::new(format!(
            "1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint: Member must have value \
             {bound} than or equal to {wanted}"
        ))
        .into());
    }
    router.refresh_tables().await?;
    let (names, more) = router.tables().names_after(after, limit as usize);
    let last = names.last().filter(|_| more).cloned();
    Ok((names, last))
}
