//! What goes on by itself: rows of deleted tables are removed, and deletions that were begun are ended.

use std::collections::HashSet;
use std::sync::Arc;

use crate::limits::{SWEEP_EVERY, SWEEP_ROWS_MAX};
use crate::op::delete_table;
use crate::router::Router;
use crate::store;
use crate::table::Status;
use trimaran_storage::engine::Engine;

/// Runs until the task is dropped.
pub(crate) async fn run(router: Router, engine: Arc<dyn Engine>) {
    // Tables whose rows are gone from a partition here. After a start they are looked for once more.
    let mut clean: HashSet<(u64, u64)> = HashSet::new();
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        if router.leads_meta() {
            let tables = router.tables();
            for table in tables.all().filter(|table| table.status == Status::Deleting) {
                if let Err(error) = delete_table::finish(&router, table).await {
                    tracing::warn!(table = table.id, %error, "a table is not deleted yet");
                }
            }
        }
        for (partition, group) in router.replicas() {
            let (dropped, tokens) = group.read_now(crate::machine::ShardMachine::dropped);
            for table in dropped {
                if clean.contains(&(partition, table)) {
                    continue;
                }
                let engine = Arc::clone(&engine);
                let swept = tokio::task::spawn_blocking(move || {
                    store::sweep(&*engine, table, tokens, SWEEP_ROWS_MAX)
                });
                match swept.await {
                    Ok(Ok(0)) => {
                        clean.insert((partition, table));
                    }
                    Ok(Ok(_some)) => {}
                    Ok(Err(error)) => tracing::error!(partition, table, %error, "rows cannot be removed"),
                    Err(panicked) => tracing::error!(partition, table, %panicked, "rows cannot be removed"),
                }
            }
        }
    }
}
