//! Answers over gRPC that go on for long: those who follow a table's changes, those who look whether copies are the same.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use trimaran_net::status::status;
use trimaran_placement::token::Token;
use trimaran_proto::api::database as wire;
use trimaran_proto::state::shard::change::Event;

use super::grpc::put_item;
use crate::error::Error;
use crate::limits::FOLLOW_WAITING_MAX;
use crate::op::get_records::Record;
use crate::router::Router;
use crate::stream::follow::{Begin, Follower, Told};
use crate::verify::{self, Verified};

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

/// Looks at one partition after another; ends when nobody listens any more, or at `stop`.
pub(super) fn verify(
    router: &Router,
    stop: CancellationToken,
) -> mpsc::Receiver<Result<wire::VerifiedPartition, Status>> {
    let (sender, receiver) = mpsc::channel(FOLLOW_WAITING_MAX);
    let router = router.clone();
    tokio::spawn(async move {
        let mut next = Some(Token(0));
        while let Some(token) = next {
            let looked = tokio::select! {
                looked = verify::partition_at(&router, token) => looked,
                () = sender.closed() => return,
                () = stop.cancelled() => return,
            };
            next = looked.as_ref().ok().and_then(|looked| looked.partition.last.0.checked_add(1)).map(Token);
            let said = looked.map(verified).map_err(|error| status(&error));
            if sender.send(said).await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn verified(verified: Verified) -> wire::VerifiedPartition {
    let equal = verified.is_equal();
    let copies = verified.copies.into_iter().map(|copy| {
        let found = copy.found.unwrap_or_default();
        wire::VerifiedCopy {
            node_id: copy.node,
            answered: found.found,
            checksum: found.checksum,
            rows: found.rows,
            bytes: found.bytes,
        }
    });
    wire::VerifiedPartition {
        partition_id: verified.partition.id,
        first_token: verified.partition.first.0,
        last_token: verified.partition.last.0,
        copies: copies.collect(),
        equal,
    }
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
