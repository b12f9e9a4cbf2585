//! Those who follow a table's changes over gRPC.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use trimaran_net::status::status;
use trimaran_proto::api::database as wire;
use trimaran_proto::state::shard::change::Event;

use super::grpc::put_item;
use crate::error::Error;
use crate::limits::FOLLOW_WAITING_MAX;
use crate::op::get_records::Record;
use crate::router::Router;
use crate::stream::follow::{Begin, Follower, Told};

/// Begins to tell changes; ends when nobody listens any more, or at `stop`.
pub(super) async fn begin(
    router: &Router,
    request: wire::WatchTableRequest,
    stop: CancellationToken,
) -> Result<mpsc::Receiver<Result<wire::TableChanges, Status>>, Error> {
    let begin = match (request.cursor.is_empty(), request.oldest) {
        (false, _) => Begin::Cursor(request.cursor),
        (true, true) => Begin::Oldest,
        (true, false) => Begin::Now,
    };
    let mut follower = Follower::begin(router, &request.table, begin).await?;
    let (sender, receiver) = mpsc::channel(FOLLOW_WAITING_MAX);
    tokio::spawn(async move {
        let mut said = wire::TableChanges { changes: Vec::new(), cursor: follower.cursor(), ended: false };
        loop {
            let is_end = said.ended;
            let is_heard = tokio::select! {
                sent = sender.send(Ok(said)) => sent.is_ok(),
                () = stop.cancelled() => false,
            };
            if !is_heard || is_end {
                return;
            }
            let told = tokio::select! {
                told = follower.next() => told,
                () = sender.closed() => return,
                () = stop.cancelled() => return,
            };
            said = match told {
                Ok(told) => wire::TableChanges {
                    ended: told.is_empty(),
                    changes: told.into_iter().flat_map(changes).collect(),
                    cursor: follower.cursor(),
                },
                Err(error) => {
                    let _gone = sender.send(Err(status(&error))).await;
                    return;
                }
            };
        }
    });
    Ok(receiver)
}

fn changes(told: Told) -> impl Iterator<Item = wire::TableChange> {
    let transaction = told.transaction.unwrap_or_default();
    let partial = !told.is_whole;
    told.records.into_iter().map(move |record| change(record, transaction.clone(), partial))
}

fn change(record: Record, transaction: bytes::Bytes, partial: bool) -> wire::TableChange {
    let kind = match record.event {
        Event::Insert => wire::table_change::Kind::Insert,
        Event::Modify | Event::Unchanged => wire::table_change::Kind::Modify,
        Event::Remove => wire::table_change::Kind::Remove,
    };
    wire::TableChange {
        kind: kind.into(),
        sequence_number: record.sequence.to_string(),
        at_ms: record.at_ms,
        expired: record.expired,
        key: Some(put_item(record.key)),
        old_image: record.old_image.map(put_item),
        new_image: record.new_image.map(put_item),
        transaction,
        partial,
    }
}
