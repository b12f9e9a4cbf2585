//! Items whose time has come: those with an attribute that says so, in seconds since 1970.

use prost::Message as _;
use trimaran_placement::token::Token;
use trimaran_proto::state::shard as state;
use trimaran_replication::group::Group;
use trimaran_replication::machine::Machine as _;
use trimaran_storage::engine::Order;

use super::query::behind;
use crate::error::Error;
use crate::item::{self, Item, Value};
use crate::key::token_range;
use crate::limits::{EXPIRE_EVERY, EXPIRE_PAGE, EXPIRE_PAUSE, EXPIRE_ROWS};
use crate::machine::ShardMachine;
use crate::number::Number;
use crate::router::Router;
use crate::table::Status;

/// Items that would have expired before this many seconds are a mistake of whoever wrote them, and stay.
///
/// Source: DynamoDB developer guide, "Using time to live": five years.
const TOO_OLD_S: u64 = 5 * 365 * 24 * 3600;

/// Whether an item's time has come.
pub fn is_expired(item: &Item, attribute: &str, now_s: u64) -> bool {
    let Some(Value::N(at)) = item.get(attribute) else { return false };
    let seconds = |seconds: u64| seconds.to_string().parse::<Number>().ok();
    let (Some(now), Some(oldest)) = (seconds(now_s), seconds(now_s.saturating_sub(TOO_OLD_S))) else {
        return false;
    };
    *at <= now && *at >= oldest
}

/// Runs until the task is dropped: looks at the tables whose items expire, in the partitions that this node leads.
pub(crate) async fn run(router: Router) {
    loop {
        tokio::time::sleep(EXPIRE_EVERY).await;
        for table in router.tables().all().filter(|table| table.status == Status::Active) {
            let Some(attribute) = &table.ttl_attribute else { continue };
            for (partition, group) in router.replicas().into_iter().filter(|(_, group)| group.is_leader()) {
                if let Err(error) = look(&router, &group, table.id, attribute).await {
                    tracing::warn!(partition, table = table.name, %error, "what has expired is removed later");
                }
            }
        }
    }
}

/// Removes what has expired of a table in a partition.
async fn look(
    router: &Router,
    group: &Group<ShardMachine>,
    table: u64,
    attribute: &str,
) -> Result<(), Error> {
    let now_s = router.now_ms() / 1000;
    let ((first, last), view) = group.read_now(|machine| (machine.tokens(), machine.view()));
    let mut rest = Some(token_range(table, Token(first), Token(last)));
    while let Some(range) = rest.take() {
        let (view, named) = (view.clone(), attribute.to_owned());
        let page = tokio::task::spawn_blocking(move || {
            let (mut expired, mut end) = (Vec::new(), None);
            for row in view.scan(range.clone(), Order::Ascending).take(EXPIRE_PAGE) {
                let (row, _, stored) = row?;
                if is_expired(&item::decode_item(&mut stored.bytes.clone())?, &named, now_s) {
                    expired.push(row.clone());
                }
                end = Some(row);
            }
            let rest = end.map(|row| behind(range, Order::Ascending, &row)).filter(|rest| !rest.is_empty());
            Ok::<_, Error>((expired, rest))
        });
        let (expired, more) = page.await.map_err(|panicked| Error::Storage(panicked.to_string()))??;
        rest = more;
        for rows in expired.chunks(EXPIRE_ROWS) {
            let expire = state::Expire { rows: rows.to_vec(), now_s, attribute: attribute.to_owned() };
            let row = rows.first().cloned().unwrap_or_default();
            let command = state::Command { row, body: Some(state::command::Body::Expire(expire)) };
            group.propose(command.encode_to_vec().into(), None).await?;
        }
        tokio::time::sleep(EXPIRE_PAUSE).await;
    }
    Ok(())
}
