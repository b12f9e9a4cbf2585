//! What goes on by itself: rows of deleted tables are removed, deletions that were begun are ended, and after a split it is
//! counted what each part has.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use trimaran_proto::state::shard::command::Body;
use trimaran_proto::state::shard::{Command, CorrectStats};
use trimaran_replication::group::Group;
use trimaran_storage::engine::{Engine, Order};

use crate::error::Error;
use crate::key::token_range;
use crate::limits::{SWEEP_EVERY, SWEEP_ROWS_MAX};
use crate::machine::ShardMachine;
use crate::op::delete_table;
use crate::router::Router;
use crate::store;
use crate::table::Status;

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
        for (partition, group) in router.replicas().into_iter().filter(|(_, group)| group.is_leader()) {
            if let Err(error) = count(&group).await {
                tracing::warn!(partition, %error, "what a partition has was not counted yet");
            }
        }
        for (partition, group) in router.replicas() {
            let (dropped, tokens) = group.read_now(ShardMachine::dropped);
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

/// Counts the tables of which a partition knows only about how much it has, and corrects that.
async fn count(group: &Group<ShardMachine>) -> Result<(), Error> {
    let (estimated, (first, last), view) = group.read_now(ShardMachine::estimated);
    for (table, thought) in estimated {
        let view = view.clone();
        let counted = tokio::task::spawn_blocking(move || {
            let (mut items, mut bytes) = (0_u64, 0_u64);
            for row in view.scan(token_range(table, first, last), Order::Ascending) {
                items += 1;
                bytes += u64::from(row?.2.size);
            }
            Ok::<_, Error>((items, bytes))
        });
        let (items, bytes) = counted.await.map_err(|panicked| Error::Storage(panicked.to_string()))??;
        let correct = CorrectStats {
            table,
            last_token: last.0,
            items: items.wrapping_sub(thought.items).cast_signed(),
            bytes: bytes.wrapping_sub(thought.bytes).cast_signed(),
        };
        let command = Command { row: Bytes::new(), body: Some(Body::CorrectStats(correct)) };
        group.propose(command.encode_to_vec().into(), None).await?;
    }
    Ok(())
}
